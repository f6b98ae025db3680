//! The checked-in header is what cbindgen makes of the sources.

use std::path::Path;

/// Rust's words about safety say nothing to a reader of C.
fn without_safety(made: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in made.lines() {
        let comment = line.trim_start().starts_with("//");
        if comment && line.contains("# Safety") {
            inside = true;
            // The empty comment line before it.
            while out.ends_with("//\n") {
                out.truncate(out[..out.len() - 1].rfind('\n').map_or(0, |at| at + 1));
            }
        }
        inside &= comment;
        if !inside {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

#[test]
fn the_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("the configuration");
    let builder = cbindgen::Builder::new().with_config(config).with_src(root.join("src/lib.rs"));
    let mut made = Vec::new();
    builder.generate().expect("bindings").write(&mut made);
    let made = without_safety(std::str::from_utf8(&made).expect("UTF-8"));
    let path = root.join("include/balanceroute.h");
    if std::env::var_os("BALANCEROUTE_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &made).expect("writable");
    }
    let checked_in = std::fs::read_to_string(&path).expect("the header");
    assert!(made == checked_in, "{} is stale: its first lines show how to make it again", path.display());
}

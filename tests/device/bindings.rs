//! `ffi/acl/bindings.rs` is what bindgen makes of `ffi/acl/acl_min.h`: regenerated and compared, or written
//! anew with `BALANCEROUTE_WRITE_BINDINGS=1`. Needs libclang.

use std::path::Path;

#[test]
fn the_bindings_are_those_of_the_header() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ffi/acl");
    let made = bindgen::Builder::default()
        .header(folder.join("acl_min.h").display().to_string())
        .dynamic_library_name("Acl")
        // A missing symbol is that call's error, not the library's.
        .dynamic_link_require_all(false)
        .allowlist_function("acl.*")
        .allowlist_type("acl.*")
        .allowlist_var("ACL_.*")
        .default_macro_constant_type(bindgen::MacroTypeVariation::Signed)
        .use_core()
        .derive_debug(false)
        .generate_comments(false)
        .disable_header_comment()
        .raw_line("// Made by bindgen from acl_min.h; tests/device/bindings.rs keeps it so.")
        .formatter(bindgen::Formatter::Prettyplease)
        .rust_target(bindgen::RustTarget::stable(89, 0).expect("the crate's floor"))
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()
        .expect("bindings")
        .to_string();
    let path = folder.join("bindings.rs");
    if std::env::var_os("BALANCEROUTE_WRITE_BINDINGS").is_some() {
        std::fs::write(&path, &made).expect("writable");
    }
    let kept = std::fs::read_to_string(&path).expect("checked in");
    assert!(kept == made, "{} is stale: run with BALANCEROUTE_WRITE_BINDINGS=1\n{made}", path.display());
}

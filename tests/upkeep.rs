//! What decays unless somebody looks: the crates that an engine takes in with the library are counted, and
//! the faults of `tests/known_faults` still fit the tree (`tests/known_faults/run` puts them in).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Crates below the library on any target, without features and with all of them. A new one has a reason in
/// the commit that raises these.
const WITHOUT_FEATURES: usize = 16;
const WITH_ALL_FEATURES: usize = 45;

/// Names and versions of what the library is built from; what its build script and tests take aside.
fn below(features: &[&str]) -> BTreeSet<String> {
    let listed = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", env!("CARGO_PKG_NAME"), "--edges", "normal"])
        .args(["--target", "all", "--prefix", "none", "--format", "{p}"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    // A crate is named again where it is used again.
    let name = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let own = concat!(env!("CARGO_PKG_NAME"), " v", env!("CARGO_PKG_VERSION"));
    let mut found: BTreeSet<String> = listed.lines().filter(|line| !line.is_empty()).map(name).collect();
    assert!(found.remove(own), "{found:?}");
    found
}

#[test]
fn the_library_brings_no_more_crates_than_it_did() {
    for (features, expected) in [(&[][..], WITHOUT_FEATURES), (&["--all-features"], WITH_ALL_FEATURES)] {
        let found = below(features);
        let (count, names) = (found.len(), found.into_iter().collect::<Vec<_>>().join("\n"));
        println!("{features:?}: {count}\n{names}");
        assert_eq!(count, expected, "{features:?}:\n{names}");
    }
}

/// An engine embeds it: nothing below opens a socket or runs an executor.
#[test]
fn nothing_below_the_library_is_a_runtime() {
    let names = below(&["--all-features"]);
    for runtime in ["tokio", "async-std", "hyper", "openssl-sys", "mio", "reqwest", "rustls"] {
        assert!(!names.iter().any(|name| name.split(' ').next() == Some(runtime)), "{runtime} is there");
    }
}

#[test]
fn every_known_fault_fits_and_names_what_finds_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/known_faults");
    let entries = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let patches: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "patch")).collect();
    assert!(patches.len() > 4, "{patches:?}");
    for path in patches {
        let (text, name) = (std::fs::read_to_string(&path).expect("text"), path.display());
        let mut lines = text.lines();
        for begins in ["# finds: ", "# says: "] {
            let line = lines.next().unwrap_or_default();
            assert!(line.len() > begins.len() && line.starts_with(begins), "{name}: {line}");
        }
        let checked = Command::new("git").arg("-C").arg(root).args(["apply", "--check"]).arg(&path).output();
        let checked = checked.expect("git runs");
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

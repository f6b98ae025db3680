//! What the bodies are run on without a fuzzer: so many seeded inputs, and those that are checked in.
//!
//! Included by the tests that run bodies.

use std::path::Path;

/// How many inputs are drawn: `FUZZ_CASES`, or else so many.
pub(crate) fn cases(default: usize) -> usize {
    std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

/// What is checked in for a target: what a fuzzer has found that reaches most, and what once failed.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("fuzz/corpus"));
    let folder = above.find(|folder| folder.is_dir()).expect("corpora").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files: Vec<_> =
        entries.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a file")).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

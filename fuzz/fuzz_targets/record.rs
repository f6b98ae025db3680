//! Bytes are what lies in the folder of a recording.
#![no_main]

#[path = "../bodies/record.rs"]
mod body;

use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::replay(data, FOLDER.path());
});

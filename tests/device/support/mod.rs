//! What the device's tests share: the kernel on the model of its machine, and a fake Ascend runtime.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

#[path = "../../support/compile.rs"]
pub(crate) mod compile;
pub(crate) mod model;
pub(crate) mod runtime;

use std::path::{Path, PathBuf};

/// A path of the repository, whichever of its crates the test program belongs to.
pub(crate) fn root(path: &str) -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.map(|folder| folder.join(path)).find(|path| path.exists()).expect("a path of the repository")
}

/// A folder of this test program for what it builds.
pub(crate) fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    std::fs::create_dir_all(&folder).expect("a folder for what tests build");
    folder
}

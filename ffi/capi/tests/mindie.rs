//! The MindIE-shaped C++ example, compiled against the header and the static library under AddressSanitizer
//! and UBSan, and run.
#![cfg(target_os = "linux")]

#[path = "../../../tests/support/compile.rs"]
mod compile;

use std::path::PathBuf;
use std::process::Command;

#[test]
fn waves_are_assigned_once_and_level() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let test = std::env::current_exe().expect("a path");
    let library = test.parent().expect("a folder").join("libbalanceroute_capi.a");
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mindie-wave");
    let mut build = compile::cpp("c++17");
    build
        .flag("-fsanitize=address,undefined")
        .flag("-fno-sanitize-recover=all")
        .include(root.join("include"));
    compile::run(&build, |command| {
        command.arg(root.join("examples/mindie/wave.cpp")).arg(library).args(["-lpthread", "-lm", "-ldl"]);
        command.arg("-o").arg(&program);
    });
    let ran = Command::new(&program).output().expect("compiled");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    print!("{out}");
}

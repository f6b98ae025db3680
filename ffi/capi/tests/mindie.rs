//! The MindIE-shaped C++ example, compiled against the header and the static library under AddressSanitizer
//! and UBSan, and run.
#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::Command;

#[test]
fn waves_are_assigned_once_and_level() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let test = std::env::current_exe().expect("a path");
    let library = test.parent().expect("a folder").join("libbalanceroute_capi.a");
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mindie-wave");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let compiled = Command::new(compiler)
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-g", "-O1"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join("examples/mindie/wave.cpp"))
        .arg("-o")
        .arg(&program)
        .arg(library)
        .args(["-lpthread", "-lm", "-ldl"])
        .output()
        .expect("a C++ compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).output().expect("compiled");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    print!("{out}");
}

//! The C and C++ compilers that tests build with, found by the crate `cc`: those of `CC` and `CXX`, or the
//! system's.
#![allow(dead_code, reason = "each test program uses a part")]

use std::process::Command;

/// C of a standard, with every warning an error. The caller adds folders, definitions and flags.
pub(crate) fn c(standard: &str) -> cc::Build {
    let mut build = cc::Build::new();
    // What cargo tells a build script it does not tell a test.
    let machine = match std::env::consts::OS {
        "macos" => "apple-darwin",
        _ => "unknown-linux-gnu",
    };
    let target = format!("{}-{machine}", std::env::consts::ARCH);
    build.target(&target).host(&target).cargo_metadata(false).opt_level(1).debug(true).std(standard);
    build.warnings(true).extra_warnings(true).warnings_into_errors(true);
    build
}

/// C++ of a standard, in the same way.
pub(crate) fn cpp(standard: &str) -> cc::Build {
    let mut build = c(standard);
    build.cpp(true);
    build
}

/// Runs the compiler with more arguments: sources, libraries, `-c`, `-shared`, `-o`. Its errors are the
/// failure's message.
pub(crate) fn run(build: &cc::Build, add: impl FnOnce(&mut Command)) {
    let mut command = build.get_compiler().to_command();
    add(&mut command);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

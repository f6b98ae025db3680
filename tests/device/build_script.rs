//! `build.rs` on machines that this one is not: with and without a toolkit, and with a compiler that fails.
#![cfg(unix)]

#[allow(dead_code, reason = "its main is for cargo")]
#[path = "../../build.rs"]
mod script;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use script::{Plan, build, plan};

fn planned(variables: &[(&str, &str)]) -> Result<Option<Plan>, String> {
    plan(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("build_script_{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn nothing_is_built_that_nobody_asked_for() {
    assert_eq!(planned(&[]), Ok(None));
    assert_eq!(planned(&[("ASCEND_HOME_PATH", "/no/such/toolkit")]), Ok(None));
    assert_eq!(planned(&[("CARGO_FEATURE_ASCEND", "1")]), Ok(None));
}

#[test]
fn what_was_asked_for_and_cannot_be_is_an_error() {
    let feature = ("CARGO_FEATURE_ASCEND", "1");
    let error = planned(&[feature, ("ASCEND_TOOLKIT_HOME", "/no/such/toolkit")]).expect_err("no toolkit");
    assert!(error.contains("ASCEND_TOOLKIT_HOME is /no/such/toolkit"), "{error}");
    let error = planned(&[feature, ("BALANCEROUTE_ASCEND_CHIPS", "Ascend910B3")]).expect_err("no toolkit");
    assert!(error.contains("neither ASCEND_HOME_PATH nor ASCEND_TOOLKIT_HOME"), "{error}");
}

#[test]
fn a_toolkit_gives_one_file_per_chip() {
    let toolkit = folder("toolkit");
    let home = toolkit.display().to_string();
    let variables = [("CARGO_FEATURE_ASCEND", "1"), ("ASCEND_HOME_PATH", home.as_str())];
    let all = planned(&variables).expect("a plan").expect("a toolkit");
    assert_eq!(all.chips.len(), 7);
    let chips = ("BALANCEROUTE_ASCEND_CHIPS", "Ascend910B3, Ascend910B1");
    let plan = planned(&[variables[0], variables[1], chips]).expect("a plan").expect("a toolkit");
    assert_eq!(
        plan,
        Plan { toolkit: toolkit.clone(), chips: vec!["Ascend910B3".into(), "Ascend910B1".into()] }
    );

    // A CMake that makes what the toolkit's own would, and notes how it was called.
    let cmake = toolkit.join("cmake");
    let script = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/calls\"\nif [ \"$1\" = --install ]; then \
                  mkdir -p \"$4\" && echo kernel >\"$4/balanceroute-${2##*ascend-}.o\"; fi\n";
    let install = |script: &str| {
        std::fs::write(&cmake, script).expect("writable");
        std::fs::set_permissions(&cmake, std::fs::Permissions::from_mode(0o755)).expect("executable");
    };
    install(script);
    let out = folder("out");
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let command = cmake.display().to_string();
    build(&command, &kernels, &plan, "Ascend910B3", &out).expect("built");
    assert_eq!(
        std::fs::read_to_string(out.join("kernels/balanceroute-Ascend910B3.o")).expect("a kernel"),
        "kernel\n"
    );
    let calls = std::fs::read_to_string(toolkit.join("calls")).expect("calls");
    assert!(calls.contains("-DSOC_VERSION=Ascend910B3"), "{calls}");
    assert!(calls.contains(&format!("-DASCEND_CANN_PACKAGE_PATH={home}")), "{calls}");

    install("#!/bin/sh\necho 'ascendc.cmake: unknown chip' >&2\nexit 3\n");
    let error = build(&command, &kernels, &plan, "Ascend910B1", &out).expect_err("it fails");
    assert!(error.contains("unknown chip") && error.contains("exit status: 3"), "{error}");
    install("#!/bin/sh\n");
    let error = build(&command, &kernels, &plan, "Ascend910B1", &out).expect_err("it makes nothing");
    assert!(error.contains("balanceroute-Ascend910B1.o was not made"), "{error}");
    let error = build("/no/such/cmake", &kernels, &plan, "Ascend910B1", &out).expect_err("no cmake");
    assert!(error.contains("/no/such/cmake"), "{error}");
}

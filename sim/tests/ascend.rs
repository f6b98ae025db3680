//! The program and a simulation on the fake Ascend runtime: the device is found, decides, and changes no byte
//! of what comes out.
#![cfg(feature = "ascend")]

#[path = "../../tests/device/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output};

use balanceroute::backend::BackendKind;
use balanceroute::policy::Parameters;
use balanceroute_sim::Scenario;
use balanceroute_sim::report::Document;
use serde_json::Value;
use support::model;
use support::runtime::{Fake, parameters};

fn command(fake: Option<&Fake>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_balanceroute"));
    command.args(arguments).env_remove("ASCEND_HOME_PATH").env_remove("ASCEND_TOOLKIT_HOME");
    command.env_remove("BALANCEROUTE_ACL_LIBRARY").env_remove("BALANCEROUTE_ASCEND_KERNEL");
    if let Some(fake) = fake {
        command.env("BALANCEROUTE_ACL_LIBRARY", &fake.path).env("BALANCEROUTE_ASCEND_KERNEL", model::plain());
    }
    let out = command.output().expect("the binary runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out
}

fn scratch(name: &str) -> String {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("ascend_{}_{name}", std::process::id()))
        .display()
        .to_string()
}

fn ascend_path(fake: Option<&Fake>, name: &str) -> Value {
    let json = scratch(name);
    command(fake, &["kernels", "--batches", "200", "--json", &json]);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json).expect("written")).expect("JSON");
    let paths = report["paths"].as_array().expect("a list");
    paths.iter().find(|path| path["name"] == "ascend").expect("the ascend path").clone()
}

#[test]
fn the_kernel_report_has_the_device_and_its_self_test_or_the_reason_why_not() {
    let fake = Fake::new();
    let path = ascend_path(Some(&fake), "kernels.json");
    assert_eq!(path["available"], true, "{path}");
    assert_eq!((path["batches"].as_u64(), path["mismatches"].as_u64()), (Some(200), Some(0)), "{path}");
    let reason = path["reason"].as_str().expect("a reason");
    assert!(reason.contains("Ascend910B3") && reason.contains("decided"), "{reason}");
    assert!(!reason.contains(" 0 batches decided"), "{reason}");
    assert!(path["ns_per_cell"].as_f64().is_some_and(|ns| ns > 0.0), "{path}");
    assert!(path["ns_per_cell_horizon"].as_f64().is_some_and(|ns| ns > 0.0), "{path}");
    let path = ascend_path(None, "no_kernels.json");
    assert_eq!((path["available"].as_bool(), path["batches"].as_u64()), (Some(false), Some(0)), "{path}");
    assert!(path["reason"].as_str().is_some_and(|reason| reason.contains("no Ascend runtime")), "{path}");
}

/// Without `decide_us` and its three figures, the only wall-clock times.
fn stripped(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.contains("\"decide_us\"") {
            lines.nth(3);
        } else {
            kept.push(line);
        }
    }
    assert!(kept.len() > 50, "{text}");
    kept.join("\n")
}

#[test]
fn a_simulation_on_the_device_is_that_on_the_cpu_byte_for_byte() {
    let fake = Fake::new();
    let run = |backend: &str| {
        let json = scratch(&format!("{backend}.json"));
        let arguments = ["--steps", "60", "--warmup", "10", "--policy", "level,exact", "--seeds", "1"];
        command(
            Some(&fake),
            &[&["simulate", "--quiet", "--backend", backend, "--json", &json], &arguments[..]].concat(),
        );
        stripped(&std::fs::read_to_string(json).expect("written"))
    };
    assert!(run("ascend") == run("cpu"));
}

/// In this process, where the fake tells that it was the device that decided.
#[test]
fn a_simulation_runs_on_the_device_to_the_last_batch() {
    let fake = Fake::new();
    for (workers, pool, policies) in [
        (8, 32, &["level", "exact", "exact-oracle", "brh-oracle", "jsq"][..]),
        (40, 300, &["exact", "level"]),
    ] {
        let run = |parameters: Parameters| {
            let scenario = Scenario {
                policies: policies.iter().map(|&name| name.to_owned()).collect(),
                workers,
                pool,
                seeds: 1,
                steps: Some(120),
                warmup: 20,
                parameters,
                ..Scenario::default()
            };
            let runs = balanceroute_sim::run(&scenario, false).expect("a run");
            assert!(runs.iter().all(|run| run.requests_lost == 0 && run.requests_done > 0));
            serde_json::to_string_pretty(&Document::new(&scenario, &runs)).expect("JSON")
        };
        let before = fake.calls("task-launch");
        let device = run(parameters(&fake));
        let launches = fake.calls("task-launch") - before;
        let cpu = run(Parameters::new().backend(BackendKind::Cpu));
        assert!(stripped(&device) == stripped(&cpu), "{workers} workers");
        assert!(launches > 30 * policies.len() as u64, "{launches} launches");
    }
    assert_eq!(fake.calls("aclrtDestroyStream"), fake.calls("aclrtCreateStream"));
    fake.assert_clean("simulation");
}

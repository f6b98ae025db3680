//! `replay` and `trace LOG` as an operator meets them.

use std::path::Path;
use std::process::{Command, Output};

use balanceroute::policy::Parameters;
use balanceroute::record::RecordConfig;
use balanceroute::{Request, Router, RouterConfig};
use balanceroute_sim::recording::recorded;
use serde_json::Value;

/// Two workers of two slots in steps of 50 ms: request `id` has `100 id` tokens and generates `id` of them.
/// The seventh is given up as it runs, the ninth as it waits; the last two are not done.
fn record(folder: &Path) -> Router {
    let mut router = Router::new(RouterConfig::new(2, 2), "level", &Parameters::default()).expect("a router");
    router.record(&RecordConfig::new(folder)).expect("a folder");
    let mut lives: Vec<(u64, u64)> = Vec::new();
    for step in 0..60u64 {
        let now_ms = 1_000 + 50 * step;
        if (1..13).contains(&step) {
            router.enqueue(Request::new(step, 100 * step as u32), now_ms).expect("new");
        }
        if step == 9 {
            router.abort(9, now_ms).expect("it waits");
        }
        let plan = router.step(now_ms).expect("sound");
        lives.extend(plan.admissions.iter().map(|dispatch| (dispatch.id.get(), 0)));
        router.advance();
        lives.iter_mut().for_each(|(_, age)| *age += 1);
        for &(id, age) in lives.iter().filter(|&&(id, age)| age >= id && id < 11) {
            match id {
                7 => drop(router.abort(id, now_ms + 49).expect("it runs")),
                _ => {
                    assert_eq!(router.finish(id, now_ms + 49).expect("it runs").generated_tokens, age as u32)
                }
            }
        }
        lives.retain(|&(id, age)| age < id || id >= 11);
    }
    router
}

fn program(arguments: &[&str], folder: &Path) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_balanceroute"));
    let words = arguments.iter().map(|&word| if word == "LOG" { folder.as_os_str() } else { word.as_ref() });
    program.args(words).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(arguments: &[&str], folder: &Path) -> Value {
    let out = program(&[arguments, &["--format", "json"]].concat(), folder);
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn a_recording_is_replayed_and_each_step_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let router = record(folder.path());
    let whole = json(&["replay", "LOG"], folder.path());
    let calls = router.recording().expect("under way").calls;
    for (key, expected) in [
        ("calls", calls),
        ("steps", 60),
        ("arrived", 12),
        ("admitted", 11),
        ("finished", 8),
        ("aborted", 2),
        ("running", 2),
        ("waiting", 0),
    ] {
        assert_eq!(whole[key], expected, "{key}");
    }
    assert!(whole["difference"].is_null() && whole["explained"].is_null());

    let seventh = json(&["replay", "LOG", "--at", "7", "--explain"], folder.path());
    assert_eq!((&seventh["steps"], &seventh["policy"]), (&7.into(), &"level".into()));
    let rows = seventh["explained"].as_array().expect("rows");
    assert!(!rows.is_empty());
    for row in rows {
        match row["decided"].as_str() {
            Some("admitted") => assert!(row["worker"].is_u64() && row["score_tokens"].is_f64(), "{row}"),
            Some("waits") => assert!(row["reason"].is_string() && row["worker"].is_null(), "{row}"),
            other => panic!("{other:?}"),
        }
    }
    let shown = program(&["replay", "LOG", "--at", "7", "--explain", "--legend"], folder.path());
    let shown = text(&shown.stdout);
    let idle = program(&["replay", "LOG", "--explain"], folder.path());
    assert!(
        text(&idle.stdout).contains("step 60: nobody enters, waits or comes back"),
        "{}",
        text(&idle.stdout)
    );
    assert!(shown.contains("every call answers as it did") && shown.contains("second worker"), "{shown}");
}

#[test]
fn a_recording_is_a_trace_and_a_cluster_to_try_other_rules_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let _router = record(folder.path());
    let found = recorded(folder.path()).expect("a log");
    // The seventh ends where it was given up; the ninth never ran, and of two no end is known.
    let lengths: Vec<(u32, u32)> =
        found.trace.jobs.iter().map(|job| (job.prompt_tokens, job.output_tokens)).collect();
    let expected: Vec<(u32, u32)> = [1, 2, 3, 4, 5, 6, 7, 8, 10].iter().map(|&id| (100 * id, id)).collect();
    assert_eq!(lengths, expected);
    assert_eq!((found.left_out, found.given_up), (3, 1));
    let arrivals: Vec<f64> = [1, 2, 3, 4, 5, 6, 7, 8, 10].iter().map(|&id| 0.05 * f64::from(id)).collect();
    for (found, expected) in found.trace.arrival_s.iter().zip(arrivals) {
        assert!((found - expected).abs() < 1e-9, "{found} and not {expected}");
    }
    let scenario = found.scenario(&["jsq".to_owned(), "level".to_owned()]);
    assert_eq!((scenario.workers, scenario.slots, scenario.kv_capacity_tokens), (2, 2, None));
    assert_eq!(scenario.policies, ["level", "jsq"]);

    let compared = json(&["replay", "LOG", "--policy", "jsq", "--quiet"], folder.path());
    let runs = compared["runs"].as_array().expect("runs");
    let of = |key: &str| runs.iter().map(|run| run[key].to_string()).collect::<Vec<_>>();
    assert_eq!(of("policy"), ["\"level\"", "\"jsq\""]);
    assert_eq!(of("requests_done"), ["9", "9"]);

    // What is written is read again.
    let file = folder.path().join("recorded.jsonl");
    let path = file.to_str().expect("a path");
    assert!(program(&["trace", "LOG", "--out", path], folder.path()).status.success());
    let inspected = json(&["trace", "inspect", path], folder.path());
    assert_eq!(inspected["shape"]["requests"], 9);
}

#[test]
fn requests_of_routers_that_follow_one_another_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(record(folder.path()));
    let once = recorded(folder.path()).expect("a log");
    drop(record(folder.path()));
    let twice = recorded(folder.path()).expect("a log");
    // All ids come again, also of those that had not ended.
    assert_eq!(twice.trace.jobs.len(), 2 * once.trace.jobs.len());
    assert_eq!((twice.left_out, twice.given_up), (2 * once.left_out, 2 * once.given_up));
}

#[test]
fn what_is_no_recording_is_said_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let log = folder.path().join("log");
    let _router = record(&log);
    let file = folder.path().join("file");
    std::fs::write(&file, "policy,imbalance\n").expect("a file");
    for (arguments, at, said) in [
        (&["replay", "LOG"][..], &empty, "is no recording and has none"),
        (&["replay", "LOG"], &file, "is no recording and has none"),
        (&["trace", "LOG"], &empty, "is no recording and has none"),
        (&["replay", "LOG"], &folder.path().join("nowhere"), "cannot read"),
        (&["replay", "LOG", "--at", "61"], &log, "at: expected a step from 1 to 60"),
        (&["replay", "LOG", "--at", "0"], &log, "0 is not in 1.."),
        (&["replay", "LOG", "--policy", "jqs"], &log, "jsq"),
        (&["trace"], &log, "Usage"),
    ] {
        let out = program(arguments, at);
        let heard = text(&out.stderr) + &text(&out.stdout);
        assert!(heard.contains(said) && !heard.contains("panicked"), "{arguments:?}: {heard}");
        assert!(out.status.code() == Some(2) || said == "Usage", "{arguments:?}");
    }
}

//! `evaluate` as a user meets it: what it prints, what it writes, and what it ends with.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_balanceroute");

/// A folder of this test run only.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("evaluate_cli").join(name);
    // It may be there of an earlier run.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder
}

fn evaluate(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("evaluate").args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A log of requests at two a second.
fn log(rows: u32) -> String {
    let row = |at: u32| {
        format!(
            "2024-05-10 00:{:02}:{:02}.{}00000,{},{}\n",
            at / 120,
            at / 2 % 60,
            at % 2 * 5,
            200 + at * 7_919 % 1_900,
            5 + at * 104_729 % 97
        )
    };
    format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{}", (0..rows).map(row).collect::<String>())
}

fn lines(path: &Path) -> Vec<Value> {
    let mut text = String::new();
    let file = std::fs::File::open(path).expect("written");
    GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn results(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("results.json")).expect("written");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_trace_has_a_verdict_and_a_folder() {
    let folder = scratch("verdict");
    let (trace, out) = (folder.join("log.csv"), folder.join("out"));
    std::fs::write(&trace, log(800)).expect("writable");
    let (trace, out_name) = (trace.display().to_string(), out.display().to_string());
    let small = ["--workers", "2", "--slots", "3,4", "--windows", "3", "--quiet", "--kv-capacity", "20000"];
    let asked =
        ["--rules", "today=vllm,level", "--rates", "own,90%", "--gate", "tok/s>=-20%", "--optimum", "9"];
    let arguments = [&[trace.as_str()][..], &small, &asked, &["--out", &out_name]].concat();
    let run = evaluate(&arguments);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let shown = text(&run.stdout);
    // The verdict comes first.
    assert!(
        shown.starts_with("log.csv on 2 workers x 3 slots: at its own rate of 2.00/s it offers "),
        "{shown}"
    );
    assert!(
        shown.contains("At its own rate level beside today: ") && shown.contains("gate tok/s>=-20%: holds")
    );

    let written = results(&out);
    assert_eq!((&written["schema"], &written["complete"]), (&Value::from(1), &Value::from(true)));
    assert_eq!(written["arguments"]["rules"][0]["policy"], "vllm-0.33");
    let sentences = written["sentences"].as_array().expect("sentences");
    assert_eq!(sentences[0], shown.lines().next().expect("a line"));
    let sum = Command::new("sha256sum").arg(&trace).output();
    if let Ok(sum) = sum {
        assert_eq!(written["sources"][0]["sha256"].as_str(), text(&sum.stdout).split(' ').next());
    }
    let scenarios = written["scenarios"].as_array().expect("scenarios");
    assert_eq!(scenarios.len(), 4);
    for scenario in scenarios {
        let id = scenario["id"].as_str().expect("a name");
        let requests = lines(&out.join(scenario["requests_file"].as_str().expect("a file")));
        assert_eq!(requests[0]["scenario"], id);
        let of = |rule: &str, key: &str| -> Vec<u64> {
            let sampled = requests[1..].iter().filter(|line| line["rule"] == rule && line["sampled"] == true);
            sampled.map(|line| line[key].as_u64().expect("a number")).collect()
        };
        // Pairs are of the same requests.
        assert!(of("today", "id").len() > 500 && of("today", "id") == of("level", "id"));
        assert_eq!(of("today", "prompt"), of("level", "prompt"));
        for line in &requests[1..] {
            let at = ["arrived_ms", "admitted_ms", "first_token_ms", "ended_ms"]
                .map(|key| line[key].as_f64().expect("a time"));
            assert!(at.is_sorted() && at[1] < at[2], "{line}");
        }
        let series = lines(&out.join(scenario["series_file"].as_str().expect("a file")));
        assert!(series.iter().any(|line| line["kind"] == "lane"));
        assert!(series.iter().all(|line| line["loads"].as_array().is_some_and(|loads| loads.len() == 2)));
        for rule in scenario["rules"].as_array().expect("rules") {
            let of = |key: &str| rule["optimum"][key].as_f64().expect("a figure");
            assert!((9.0..18.0).contains(&of("decisions")) && of("left_tokens") >= of("least_tokens"));
        }
    }

    // The command of a scenario plays it.
    let scenario = &scenarios[3];
    let words = shlex::split(scenario["command"].as_str().expect("a command")).expect("words");
    assert!(words.iter().any(|word| word == "--kv-capacity"), "{words:?}");
    let alone = Command::new(PROGRAM).args(&words[1..]).args(["--quiet", "--json", "-"]).output();
    let alone: Value = serde_json::from_slice(&alone.expect("the binary runs").stdout).expect("JSON");
    let last = &alone["runs"].as_array().expect("runs")[5];
    let replicate = &scenario["rules"][0]["replicates"][2];
    assert_eq!((&last["policy"], &last["window"]), (&Value::from("vllm-0.33"), &Value::from(2)));
    assert_eq!(last["tokens_per_s"], replicate["tokens_per_s"]);
    assert_eq!(last["wait_ms"]["p99"], replicate["wait_p99_ms"]);
}

#[test]
fn a_gate_that_does_not_hold_ends_with_3() {
    let quick = ["--quick", "--quiet", "--workload", "lognormal", "--slots", "8", "--workers", "2"];
    let few = ["--rates", "90%", "--windows", "3", "--rules", "jsq,level", "--requests", "300"];
    let run = evaluate(&[&quick[..], &few, &["--gate", "imbalance<=-99%"]].concat());
    assert_eq!(run.status.code(), Some(3), "{}", text(&run.stderr));
    assert!(
        text(&run.stdout).contains("gate imbalance<=-99%: does not hold\n  s000, "),
        "{}",
        text(&run.stdout)
    );
    let run = evaluate(&[&quick[..], &few, &["--gate", "imbalance<=1%"]].concat());
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stdout));
}

#[test]
fn a_trace_may_come_from_standard_input() {
    let mut child = Command::new(PROGRAM)
        .args(["evaluate", "-", "--rates", "90%", "--windows", "2", "--workers", "2", "--slots", "4"])
        .args(["--quiet", "--slo", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(log(200).as_bytes()).expect("it reads");
    let run = child.wait_with_output().expect("its output");
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let shown = text(&run.stdout);
    assert!(shown.starts_with("stdin on 2 workers") && !shown.contains("goodput"), "{shown}");
}

#[test]
fn what_cannot_be_used_is_refused_in_one_line() {
    let folder = scratch("refused");
    std::fs::write(folder.join("letter.txt"), "Dear Sir").expect("writable");
    let taken = folder.display().to_string();
    for (arguments, says) in [
        (&["--rules", "levle"][..], "rules: expected one of "),
        (&["--workload", "lognormal", "--json", "-"], "json: expected --study, of which it is"),
        (&["--workload", "lognormal", "--only", "table"], "only: expected --study, of which it is"),
        (&["--rules", "levle"], "found \"levle\" (did you mean level?)"),
        (&["--rules", "level,level"], "rules: expected a name for each rule"),
        (&["--slo", "ttft=2"], "slo: expected a time"),
        (&["--rates", "fast"], "rates: expected own, auto"),
        (&["--rates", "own"], "rates: expected auto"),
        (&["--workload", "lognormal", "--rates", "2x"], "2x of lognormal"),
        (&["--windows", "0"], "windows: expected at least 1"),
        (&["--slots", "0"], "slots: expected a whole number"),
        (&["--gate", "speed>=1"], "gate: expected one of tok/s"),
        (&["--gate", "exact:tok/s>=1"], "gate: expected a rule of level"),
        (&["--workload", "nothing"], "unknown workload"),
        (&["--columns", "prompt=a,output=b"], "<TRACE>"),
        (&["nowhere.csv"], "nowhere.csv"),
        (&["--kv-capacity", "1"], "no request of paper-prod fits"),
        (&["--quick", "--out", &taken], "out: expected a folder that is new"),
    ] {
        let run = evaluate(arguments);
        let stderr = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
        assert!(run.stdout.is_empty());
    }
    assert!(folder.join("letter.txt").exists(), "a folder of something else is left alone");
}

#[test]
fn a_folder_that_cannot_be_written_is_a_failure() {
    let folder = scratch("failure");
    let file = folder.join("file");
    std::fs::write(&file, "").expect("writable");
    let run = evaluate(&["--quick", "--out", &file.join("out").display().to_string()]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_130_and_keeps_what_is_done() {
    let out = scratch("interrupt").join("out");
    let child = Command::new(PROGRAM)
        .args([
            "evaluate",
            "--workload",
            "lognormal,paper-prod",
            "--rates",
            "90%",
            "--windows",
            "2",
            "--quiet",
        ])
        .args(["--threads", "1", "--workers", "2", "--slots", "4", "--out", &out.display().to_string()])
        // The second has outputs five times as long: it is not done when the first is seen to be.
        .args(["--requests", "3000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let start = Instant::now();
    while !out.join("results.json").exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "the first scenario is never done");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    let run = child.wait_with_output().expect("its output");
    assert_eq!(run.status.code(), Some(130), "{}", text(&run.stderr));
    assert!(text(&run.stdout).starts_with("Of 8 runs "), "{}", text(&run.stdout));
    let written = results(&out);
    assert_eq!(written["complete"], false);
    assert_eq!(written["scenarios"][0]["complete"], true);
    assert!(out.join("requests/s000.jsonl.gz").exists());
}

#[test]
fn a_section_of_the_study_is_played_beside_the_publication() {
    let folder = scratch("study");
    let (out, file) =
        (folder.join("out").display().to_string(), folder.join("file.json").display().to_string());
    let section = ["--study", "paper", "--quick", "--quiet", "--only", "horizon"];
    let run = evaluate(&[&section[..], &["--out", &out, "--json", &file]].concat());
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let shown = text(&run.stdout);
    let lines = |start: &str| shown.lines().filter(|line| line.starts_with(start)).count();
    assert!(
        shown.starts_with("horizon: ") && shown.contains("--study paper --only horizon --quick"),
        "{shown}"
    );
    assert_eq!(
        (lines("H="), lines("  brh-oracle"), lines("agrees") + lines("differs")),
        (4, 4, 1),
        "{shown}"
    );
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON")
    };
    let study = read(&file);
    assert_eq!((&study["complete"], &study["seeds"]), (&Value::from(true), &Value::from(3)));
    let played = &study["sections"][0];
    assert_eq!(played["name"], "horizon");
    assert_eq!(played["rows"].as_array().map(Vec::len), Some(4));
    let finding = &played["findings"][0];
    assert!(
        finding["agrees"].is_boolean() && finding["says"].as_str().is_some_and(|says| shown.contains(says))
    );
    // Times of decisions apart, what is written as sections are done is what is written at the end.
    let written = read(&folder.join("out/study.json").display().to_string());
    assert_eq!(written, study);

    // The command that it names plays it again, whatever the number of threads.
    let again = evaluate(&[&section[..], &["--threads", "1"]].concat());
    let figures = |shown: &str| -> Vec<String> {
        // All but the time of decisions.
        shown.lines().map(|line| line.split_whitespace().take(11).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(figures(&text(&again.stdout)), figures(&shown));
    let other = evaluate(&[&section[..], &["--first-seed", "50"]].concat());
    assert!(text(&other.stdout).contains("--only horizon --quick --first-seed 50"));
    assert_ne!(figures(&text(&other.stdout)), figures(&shown));
}

#[test]
fn a_study_decides_its_own_scenarios() {
    let folder = scratch("no-traces").display().to_string();
    for (arguments, says) in [
        (&["--study", "thesis"][..], "possible values: paper"),
        (&["--study", "paper", "--rules", "level"], "cannot be used with"),
        (&["--study", "paper", "--kv-capacity", "9"], "cannot be used with"),
        (&["--study", "paper", "--seeds", "2"], "seeds: expected at least 3 of a study, found 2"),
        (&["--study", "paper", "--only", "tables"], "only: expected some of table, scale, sweep"),
        (&["--only", "table"], "--study"),
        (&["--json", "-"], "--study"),
    ] {
        let run = evaluate(arguments);
        let stderr = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
    }
    let missing = ["--study", "paper", "--only", "affinity", "--traces", &folder, "--json", "-"];
    let run = evaluate(&missing);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let study: Value = serde_json::from_str(&text(&run.stdout)).expect("JSON and nothing else");
    let left_out = study["sections"][0]["left_out"].as_str().expect("a reason");
    assert!(left_out.contains("mooncake_conversation.jsonl is not there"), "{left_out}");
}

//! The command line as a user meets it: keys of the JSON contract, repeatable bytes, and errors in one line.
#![cfg(feature = "sim")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use balanceroute::policy;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_balanceroute");

fn sim(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("the binary runs")
}

/// Runs to the end, with the streams that are not set captured; what hangs is ended and fails.
fn ends(command: &mut Command) -> Output {
    let mut child = command.spawn().expect("the binary runs");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("a child");
            panic!("still running after a minute");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

/// The program with nothing on stdin, and stdout and stderr captured.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The only line on stderr.
fn one_line(out: &Output) -> String {
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// A file of this test run only.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sim_cli");
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder.join(name)
}

fn write(name: &str, text: &str) -> String {
    let path = scratch(name);
    std::fs::write(&path, text).expect("writable");
    path.display().to_string()
}

/// Runs `simulate` with a JSON file and returns it.
fn document(name: &str, arguments: &[&str]) -> (String, Value) {
    let path = scratch(name);
    let json = path.display().to_string();
    let out = sim(&[&["simulate", "--quiet", "--json", &json], arguments].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(path).expect("written");
    let value = serde_json::from_str(&text).expect("JSON");
    (text, value)
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// User errors: exit code 2, one line on stderr, nothing on stdout.
fn refused(arguments: &[&str]) -> String {
    refused_by(&mut program(arguments))
}

fn refused_by(command: &mut Command) -> String {
    let out = ends(command);
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout.is_empty());
    one_line(&out)
}

const SHORT: [&str; 8] = ["--policy", "level,exact", "--seeds", "2", "--steps", "300", "--warmup", "50"];

#[test]
fn the_json_keys_are_the_contract() {
    let (_, document) = document("keys.json", &SHORT);
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    assert_eq!(keys(&document), ["arguments", "runs", "version"]);
    let runs = document["runs"].as_array().expect("an array");
    assert_eq!(runs.len(), 4);
    for run in runs {
        assert_eq!(
            keys(run),
            sorted(vec![
                "policy",
                "seed",
                "workers",
                "slots",
                "steps",
                "requests_in",
                "requests_done",
                "requests_waiting",
                "requests_active",
                "requests_lost",
                "requests_refused",
                "preemptions",
                "imbalance_mean",
                "imbalance_max_min_mean",
                "imbalance_norm_mean",
                "bound_imbalance",
                "tokens_per_s",
                "balanced_fraction",
                "tpot_ms",
                "wait_steps",
                "wait_ms",
                "empty_slot_fraction",
                "affinity",
                "cached_token_share",
                "decide_us",
            ])
        );
        assert_eq!(keys(&run["tpot_ms"]), ["mean", "p50", "p95", "p99"]);
        assert_eq!(keys(&run["wait_steps"]), sorted(vec!["mean", "p50", "p99", "max", "oldest"]));
        assert_eq!(keys(&run["wait_ms"]), ["mean", "p50", "p99"]);
        assert_eq!(keys(&run["decide_us"]), ["max", "p50", "p99"]);
        assert_eq!(run["steps"], 300);
    }
    let order: Vec<(&str, u64)> = runs
        .iter()
        .map(|run| (run["policy"].as_str().expect("a name"), run["seed"].as_u64().expect("a seed")))
        .collect();
    assert_eq!(order, [("level", 0), ("level", 1), ("exact", 0), ("exact", 1)]);
}

#[test]
fn the_same_arguments_give_the_same_bytes_on_any_number_of_threads() {
    let stripped = |name, threads| {
        let (text, _) = document(name, &[&SHORT[..], &["--threads", threads]].concat());
        // decide_us is the last object of a run: its three figures are the only wall-clock times.
        let mut lines = Vec::new();
        let mut skip = 0;
        for line in text.lines() {
            if line.contains("\"decide_us\"") {
                skip = 4;
            }
            if skip > 0 {
                skip -= 1;
            } else {
                lines.push(line.to_owned());
            }
        }
        lines.join("\n")
    };
    let one = stripped("threads1.json", "1");
    assert_eq!(one, stripped("again1.json", "1"));
    assert_eq!(one, stripped("threads3.json", "3"));
}

/// Conversations whose turns share their beginnings, in the columns of Mooncake.
fn conversations(rows: u64) -> String {
    let row = |at: u64| {
        let (talk, turn) = (at % 40, 1 + at / 40 % 6);
        let blocks: Vec<u64> = (0..2 * turn).map(|block| 1_000 * talk + block).collect();
        let input = 1_000 * turn + 10 * talk;
        format!(
            "{{\"timestamp\": {}, \"input_length\": {input}, \"output_length\": {}, \"hash_ids\": {blocks:?}}}\n",
            100 * at,
            20 + at * 7 % 90
        )
    };
    (0..rows).map(row).collect()
}

#[test]
fn affinity_raises_the_cached_share_and_every_weight_has_its_runs() {
    let trace = write("conversations.jsonl", &conversations(2_000));
    let arguments = ["--trace", &trace, "--slots", "16", "--steps", "600", "--warmup", "100", "--seeds", "2"];
    let (_, document) = document(
        "affinity.json",
        &[
            &arguments[..],
            &["--policy", "exact,level", "--affinity", "0,0.3,3", "--prefix-cache-blocks", "64"],
        ]
        .concat(),
    );
    let runs = document["runs"].as_array().expect("an array");
    assert_eq!(runs.len(), 2 * 3 * 2);
    for of_policy in runs.chunks(6) {
        let share = |at: usize| {
            let run = &of_policy[at];
            assert_eq!(run["affinity"].as_f64(), Some([0.0, 0.3, 3.0][at / 2]));
            assert_eq!(run["requests_lost"], 0);
            run["cached_token_share"].as_f64().expect("a share")
        };
        for seed in 0..2 {
            assert!(share(4 + seed) > share(seed) + 0.02, "{} and {}", share(seed), share(4 + seed));
        }
    }
    let message = refused(&["simulate", "--affinity", "1"]);
    assert!(message.contains("hash_ids"), "{message}");
    assert!(refused(&["simulate", "--trace", &trace, "--affinity=-1"]).contains("affinity"));
}

#[test]
fn every_request_is_accounted_for_under_every_policy() {
    let all = policy::NAMES.join(",");
    for (name, arguments) in [
        ("closed.json", vec!["--workload", "lognormal", "--steps", "400", "--warmup", "100"]),
        (
            "open.json",
            vec!["--workload", "lognormal", "--arrivals", "open", "--rate", "40", "--requests", "200"],
        ),
        ("kv.json", vec!["--steps", "600", "--warmup", "0", "--kv-capacity", "100000", "--slots", "40"]),
        ("weights.json", vec!["--steps", "300", "--warmup", "0", "--workers", "3", "--weights", "1,1,1.5"]),
    ] {
        let (_, document) = document(name, &[&["--seeds", "1", "--policy", &all], &arguments[..]].concat());
        for run in document["runs"].as_array().expect("an array") {
            let count = |key: &str| run[key].as_u64().expect("a count");
            let known = count("requests_done")
                + count("requests_waiting")
                + count("requests_active")
                + count("requests_refused");
            assert_eq!(count("requests_lost"), 0, "{run}");
            assert_eq!(count("requests_in"), known, "{run}");
            if name == "open.json" {
                assert_eq!(count("requests_done"), 200, "{run}");
            }
        }
    }
}

#[test]
fn a_malformed_row_is_named_with_its_line_or_counted() {
    let file = write(
        "bad.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n\
         2023-11-16 18:17:04.0319600,31x80,8\n2023-11-16 18:17:05.0319600,318,8\n",
    );
    let error = refused(&["simulate", "--quiet", "--trace", &file]);
    assert!(error.contains("bad.csv:3: ContextTokens: expected"), "{error}");
    assert!(error.contains("found \"31x80\""), "{error}");
    let (_, document) = document(
        "skipped.json",
        &["--trace", &file, "--skip-bad-rows", "--arrivals", "open", "--policy", "level", "--seeds", "1"],
    );
    assert_eq!(document["arguments"]["skipped_rows"], 1);
    assert_eq!(document["runs"][0]["requests_done"], 2);
}

#[test]
fn traces_are_recognised_by_content() {
    let file = write(
        "mooncake.csv",
        "{\"timestamp\": 0, \"input_length\": 100, \"output_length\": 5, \"hash_ids\": [1]}\n\
         {\"timestamp\": 3000, \"input_length\": 200, \"output_length\": 6, \"hash_ids\": [1, 2]}\n",
    );
    let (_, document) = document(
        "mooncake.json",
        &["--trace", &file, "--arrivals", "open", "--policy", "level", "--seeds", "1"],
    );
    assert_eq!(document["runs"][0]["requests_done"], 2);
    let file = write("text.csv", "hello\n");
    let error = refused(&["simulate", "--trace", &file]);
    assert!(error.contains("text.csv: not a known trace"), "{error}");
}

#[test]
fn user_errors_are_one_line() {
    let error = refused(&["simulate", "--policy", "level,nope"]);
    assert!(error.contains("nope"), "{error}");
    for name in policy::NAMES {
        assert!(error.contains(name), "{name} is missing: {error}");
    }
    for (arguments, mention) in [
        (&["simulate", "--workload", "nope"][..], "paper-prod"),
        (&["simulate", "--nope"], "--nope"),
        (&["simulate", "--workers", "many"], "many"),
        (&["simulate", "--rate", "3"], "open"),
        (&["simulate", "--min-output", "3"], "--trace"),
        (&["nope"], "nope"),
        (&["simulate", "--trace", "no/such/file"], "no/such/file"),
        (&["simulate", "--workers", "0"], "workers"),
        (&["simulate", "--pool", "0"], "pool"),
        (&["simulate", "--weights", "1,2"], "weights"),
        (&["simulate", "--weights", "1,1,1,1,1,1,1,nan"], "weights"),
        (&["simulate", "--arrivals", "open"], "--rate"),
        (&["simulate", "--arrivals", "open", "--rate", "-1"], "rate"),
        (&["simulate", "--kv-capacity", "40"], "fits"),
        (
            &[
                "simulate",
                "--steps",
                "50",
                "--warmup",
                "0",
                "--policy",
                "level",
                "--json",
                "no/such/folder/x.json",
            ],
            "no/such",
        ),
        (&["settings", "--traces", "no/such/folder", "--seeds", "1", "--policy", "nope"], "nope"),
    ] {
        let error = refused(arguments);
        assert!(error.contains(mention), "{arguments:?}: {error}");
    }
}

#[test]
fn without_a_subcommand_it_explains_itself() {
    let out = sim(&[]);
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("simulate") && text.contains("settings"), "{text}");
}

#[test]
fn kernels_tell_what_this_machine_has() {
    let path = scratch("kernels.json");
    let out = sim(&["kernels", "--batches", "20", "--json", &path.display().to_string()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("written")).expect("JSON");
    assert!(report["cpu"].is_string() && report["auto"]["isa"].is_string());
    let paths = report["paths"].as_array().expect("a list");
    let named = |name: &str| paths.iter().find(|path| path["name"] == name).expect("a path of this name");
    for key in [
        "available",
        "reason",
        "batches",
        "batches_in_lanes",
        "mismatches",
        "ns_per_cell",
        "ns_per_cell_horizon",
        "ns_per_cell_horizon_in_order",
        "peak_fraction",
        "times_definition",
        "times_definition_horizon",
        "times_plain_lanes",
        "times_plain_lanes_horizon",
    ] {
        assert!(named("scalar-dense-i32").get(key).is_some(), "{key}");
    }
    for path in paths {
        // Whatever lanes are narrow, so many batches stay in them.
        let expected = if path["available"] == true { 20 } else { 0 };
        assert_eq!(path["batches_in_lanes"], expected, "{path}");
        assert!(path["batches"].as_u64() >= path["batches_in_lanes"].as_u64(), "{path}");
        assert_eq!(path["mismatches"], 0, "{path}");
    }
}

const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n\
                     2023-11-16 18:17:04.0319600,9000,10\n";
const MOONCAKE: &str = "{\"timestamp\": 0, \"input_length\": 100, \"output_length\": 5, \"hash_ids\": [1]}\n";

#[test]
fn a_line_past_the_limit_is_refused_with_its_number() {
    let long = "1".repeat(16 << 20);
    for (name, text) in [
        ("long.csv", format!("{AZURE}2023-11-16 18:17:05.0319600,1,{long}\n")),
        ("long.jsonl", format!("{MOONCAKE}\n\n{{\"timestamp\": 1, \"input_length\": {long}}}\n")),
    ] {
        let file = write(name, &text);
        let at =
            format!("{name}:4: a line of a trace: expected at most 16777216 bytes, found at least 16777217");
        // Not even where bad rows are skipped: nobody knows where such a line ends.
        for more in [&[][..], &["--skip-bad-rows"]] {
            let error = refused(&[&["simulate", "--trace", &file], more].concat());
            assert!(error.contains(&at), "{error}");
        }
        std::fs::remove_file(file).expect("there");
    }
    let file = write("long.txt", &long.repeat(2));
    let error = refused(&["forecast", "--trace", &file]);
    assert!(error.contains("long.txt:1: a line of a trace"), "{error}");
    std::fs::remove_file(file).expect("there");
}

#[test]
fn a_trace_comes_from_stdin() {
    let arguments = ["simulate", "--trace", "-", "--arrivals", "open", "--policy", "level", "--seeds", "1"];
    for (name, text) in [("stdin.csv", AZURE), ("stdin.jsonl", MOONCAKE)] {
        let file = std::fs::File::open(write(name, text)).expect("written");
        let out = ends(program(&arguments).stdin(file));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.starts_with("stdin: 8 workers"), "{text}");
        // A pipe, which cannot be rewound.
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        std::io::Write::write_all(&mut writer, &std::fs::read(scratch(name)).expect("written"))
            .expect("room");
        drop(writer);
        assert!(ends(program(&arguments).stdin(reader)).status.success());
    }
    let error = refused_by(&mut program(&arguments));
    assert!(error.contains("stdin: not a known trace"), "{error}");
}

fn empty_folder(name: &str) -> PathBuf {
    let folder = scratch(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Traces that are no files.
#[cfg(target_os = "linux")]
mod streams {
    use std::fs;

    use super::*;

    #[test]
    fn a_trace_that_is_no_file_is_refused_before_it_is_opened() {
        let folder = empty_folder("no_trace");
        let fifo = folder.join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
        // The path of a socket is short.
        let socket = std::env::temp_dir().join(format!("balanceroute-{}", std::process::id()));
        let _ = fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (path, kind) in [
            (folder.as_path(), "a directory"),
            (Path::new("/dev/zero"), "a character device"),
            (&fifo, "a fifo"),
            (&socket, "a socket"),
        ] {
            let path = path.display().to_string();
            // Whoever reads one nevertheless does not take the whole memory.
            let limited = format!("ulimit -v 2000000; exec {PROGRAM} simulate --trace {path}");
            let mut shell = Command::new("sh");
            shell.args(["-c", &limited]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let error = refused_by(&mut shell);
            let expected =
                format!("error: {path}: a trace: expected a regular file or - for stdin, found {kind}\n");
            assert_eq!(error, expected);
        }
        drop(listener);
        fs::remove_file(socket).expect("there");
    }

    #[test]
    fn a_line_without_an_end_takes_neither_memory_nor_time() {
        // The shell's limit holds for the program: 400 MB with code, stacks and all.
        let shell = |head: &str| {
            let script = format!("ulimit -v 400000; exec {PROGRAM} simulate --trace -");
            let feed = format!("printf '{head}'; exec cat /dev/zero");
            let mut feeder =
                Command::new("sh").args(["-c", &feed]).stdout(Stdio::piped()).spawn().expect("sh runs");
            let stdin = feeder.stdout.take().expect("piped");
            let mut command = Command::new("sh");
            command.args(["-c", &script]).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
            let error = refused_by(&mut command);
            // It ends by itself when nobody reads.
            drop(command);
            feeder.wait().expect("a child");
            error
        };
        let limit = "a line of a trace: expected at most 16777216 bytes, found at least 16777217\n";
        assert_eq!(shell(""), format!("error: stdin:1: {limit}"));
        assert_eq!(shell("TIMESTAMP,ContextTokens,GeneratedTokens\\n"), format!("error: stdin:2: {limit}"));
        // Nor does a quote that nobody closes.
        assert_eq!(
            shell("TIMESTAMP,ContextTokens,GeneratedTokens\\n\\n\""),
            format!("error: stdin:3: {limit}")
        );
        let mooncake = MOONCAKE.trim_end();
        assert_eq!(shell(&format!("{mooncake}\\n")), format!("error: stdin:2: {limit}"));
    }
}

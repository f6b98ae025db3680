//! The command line as a user meets it: keys of the JSON contract, repeatable bytes, and errors in one line.

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
    assert_eq!(keys(&document), ["arguments", "paired", "runs", "version"]);
    let runs = document["runs"].as_array().expect("an array");
    assert_eq!(runs.len(), 4);
    for run in runs {
        assert_eq!(
            keys(run),
            sorted(vec![
                "policy",
                "seed",
                "window",
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
                "preempted_per_finished",
                "passed_max",
                "admissions_max",
                "claims",
                "admitted_beside_claims",
                "imbalance_mean",
                "imbalance_max_min_mean",
                "imbalance_norm_mean",
                "bound_imbalance",
                "tokens_per_s",
                "requests_per_s",
                "balanced_fraction",
                "tpot_ms",
                "ttft_ms",
                "e2e_ms",
                "wait_steps",
                "wait_ms",
                "wait_by_length",
                "empty_slot_fraction",
                "affinity",
                "cached_token_share",
                "decide_us",
            ])
        );
        for latency in ["tpot_ms", "ttft_ms", "e2e_ms"] {
            assert_eq!(keys(&run[latency]), ["mean", "p50", "p95", "p99"]);
        }
        assert_eq!(keys(&run["wait_steps"]), sorted(vec!["mean", "p50", "p99", "max", "oldest"]));
        assert_eq!(keys(&run["wait_ms"]), ["max", "mean", "p50", "p99"]);
        let quarters = run["wait_by_length"].as_array().expect("an array");
        assert_eq!(quarters.len(), 4);
        assert_eq!(
            keys(&quarters[0]),
            sorted(vec![
                "prompt_tokens_up_to",
                "admissions",
                "steps_mean",
                "steps_p99",
                "steps_max",
                "ms_p99",
                "ms_max",
            ])
        );
        assert_eq!(keys(&run["decide_us"]), ["max", "p50", "p99"]);
        assert_eq!(run["steps"], 300);
    }
    let order: Vec<(&str, u64)> = runs
        .iter()
        .map(|run| (run["policy"].as_str().expect("a name"), run["seed"].as_u64().expect("a seed")))
        .collect();
    assert_eq!(order, [("level", 0), ("level", 1), ("exact", 0), ("exact", 1)]);
    let paired = document["paired"].as_array().expect("an array");
    assert_eq!(paired.len(), 1);
    assert_eq!(
        keys(&paired[0]),
        sorted(vec![
            "policy",
            "against",
            "pairs",
            "imbalance_mean",
            "tokens_per_s",
            "requests_per_s",
            "tpot_p95_ms",
            "wait_p99_ms",
            "wait_max_ms",
        ])
    );
    assert_eq!((&paired[0]["policy"], &paired[0]["against"]), (&"level".into(), &"exact".into()));
    let tokens = |at: usize| runs[at]["tokens_per_s"].as_f64().expect("a number");
    let difference = paired[0]["tokens_per_s"]["mean"].as_f64().expect("a number");
    assert!((difference - (tokens(0) + tokens(1) - tokens(2) - tokens(3)) / 2.0).abs() < 1e-6);
}

#[test]
fn seeds_begin_where_they_are_asked_to() {
    let runs = |name, more: &[&str]| document(name, &[&SHORT[..], more].concat()).1["runs"].clone();
    let (from_0, from_1) = (runs("seed0.json", &[]), runs("seed1.json", &["--first-seed", "1"]));
    let seeds: Vec<u64> =
        from_1.as_array().expect("runs").iter().map(|run| run["seed"].as_u64().expect("a seed")).collect();
    assert_eq!(seeds, [1, 2, 1, 2]);
    // Seed 1 is the same run in both.
    assert_eq!(from_0[1]["imbalance_mean"], from_1[0]["imbalance_mean"]);
    assert_ne!(from_0[0]["imbalance_mean"], from_1[0]["imbalance_mean"]);
    assert!(refused(&["simulate", "--first-seed", "9007199254740992"]).contains("first-seed"));
}

/// So many requests of an Azure trace, 100 ms apart.
fn azure(rows: u64) -> String {
    let row = |at: u64| {
        let (second, tenth) = (at / 10, at % 10);
        format!(
            "2023-11-16 18:{:02}:{:02}.{tenth},{},{}\n",
            second / 60,
            second % 60,
            100 + at * 7 % 900,
            5 + at % 40
        )
    };
    let rows: String = (0..rows).map(row).collect();
    format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
}

#[test]
fn windows_are_played_by_every_policy_and_compared_in_pairs() {
    let trace = write("windows.csv", &azure(600));
    let open = ["--trace", &trace, "--arrivals", "open", "--rate-scale", "20", "--slots", "2"];
    let arguments = [&open[..], &["--windows", "3", "--seeds", "1", "--policy", "level,jsq"]].concat();
    let (_, document) = document("windows.json", &arguments);
    assert_eq!(document["arguments"]["windows"], 3);
    let runs = document["runs"].as_array().expect("runs");
    let order: Vec<(&str, u64)> = runs
        .iter()
        .map(|run| (run["policy"].as_str().expect("a name"), run["window"].as_u64().expect("a window")))
        .collect();
    assert_eq!(order, [("level", 0), ("level", 1), ("level", 2), ("jsq", 0), ("jsq", 1), ("jsq", 2)]);
    for run in runs {
        // A quarter of the trace arrives in each window; the last row is the end of the last.
        let arrived: u64 = run["wait_by_length"]
            .as_array()
            .expect("quarters")
            .iter()
            .map(|quarter| quarter["admissions"].as_u64().expect("a count"))
            .sum();
        assert!((149..=151).contains(&arrived), "{run}");
        assert_eq!(run["requests_lost"], 0);
    }
    assert_eq!(document["paired"][0]["pairs"], 3);
    let out = sim(&[&["simulate", "--quiet"], &arguments[..]].concat());
    assert!(String::from_utf8_lossy(&out.stdout).contains("minus jsq, pairs: 3"));
    // Neither closed arrivals nor a Poisson process have times that could be cut.
    assert!(refused(&["simulate", "--windows", "3"]).contains("windows"));
    assert!(
        refused(&[&["simulate", "--windows", "3"], &open[..4], &["--rate", "5"]].concat())
            .contains("windows")
    );
}

#[test]
fn settings_are_chosen_listed_and_recorded() {
    let out = sim(&["settings", "--list", "--only", "cold: paper,starvation"]);
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert_eq!(lines[0], "cold: paper-prod G=8 B=72 P=32 cold");
    let command = lines[1].trim();
    let flags = command.strip_prefix("cargo sim simulate ").expect("a command").split(' ');
    assert!(refused(&["settings", "--only", "nothing like that"]).contains("--list"));

    // The row is what its command plays.
    let (path, record) = (scratch("settings.json"), scratch("settings.csv"));
    let _ = std::fs::remove_file(&record);
    let (json, csv) = (path.display().to_string(), record.display().to_string());
    let chosen = ["settings", "--quiet", "--only", "cold: paper", "--seeds", "2", "--first-seed", "3"];
    let more = ["--policy", "level,br0", "--json", &json, "--record", &csv];
    let out = sim(&[&chosen[..], &more].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let table: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("written")).expect("JSON");
    let rows = table["settings"].as_array().expect("rows");
    assert_eq!((rows.len(), rows[0]["group"].as_str()), (1, Some("cold")));
    assert_eq!(rows[0]["command"], command);
    let flags: Vec<&str> =
        flags.chain(["--seeds", "2", "--first-seed", "3", "--policy", "level,br0"]).collect();
    let (_, alone) = document("settings_alone.json", &flags);
    for (a, b) in
        rows[0]["runs"].as_array().expect("runs").iter().zip(alone["runs"].as_array().expect("runs"))
    {
        let (mut a, mut b) = (a.clone(), b.clone());
        a["decide_us"] = Value::Null;
        b["decide_us"] = Value::Null;
        assert_eq!(a, b);
    }

    // A second run adds its lines under the head of the first.
    assert!(sim(&[&chosen[..], &more].concat()).status.success());
    let text = std::fs::read_to_string(&record).expect("written");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].starts_with("row,policy,runs,imbalance,"), "{text}");
    assert!(lines[1].starts_with("paper-prod G=8 B=72 P=32 cold,level,2,"), "{text}");
    assert_eq!(lines[1..3], lines[3..]);
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
            "{{\"timestamp\": {}, \"input_length\": {input}, \"output_length\": {}, \
             \"hash_ids\": {blocks:?}}}\n",
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
    let neighbours = "ascend-proxy,bucket,cache-aware,llm-d,dualmap,block,hash-ring,by-type";
    let all = format!("{},{neighbours}", policy::NAMES.join(","));
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
fn a_heading_tells_how_loaded_the_cluster_is() {
    // 600 requests of 528.5 and 24.5 tokens in 59.9 s; a running one has 543.9, so a step lasts 8.82 ms.
    let trace = write("loaded.csv", &azure(600));
    let heading = |more: &[&str]| {
        let short = ["--policy", "level", "--seeds", "1", "--quiet", "--trace", &trace];
        let out = sim(&[&["simulate"], &short[..], more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).lines().take(3).map(str::to_owned).collect::<Vec<_>>()
    };
    let open = heading(&["--arrivals", "open"]);
    assert_eq!(open[1], "azure: 600 requests in 59.9 s, 10.0/s, mean prompt 528 and output 24 tokens");
    assert!(open[2].starts_with("offered load 0.4 %: 10.0/s of capacity 2665/s (perfect"), "{open:?}");
    assert!(open[2].ends_with("/s (perfect balance, every slot full)"), "{open:?}");
    let fast = heading(&["--arrivals", "open", "--rate-scale", "200"]);
    assert!(fast[2].starts_with("offered load 75 %: 2000/s"), "{fast:?}");
    let closed = heading(&["--steps", "50", "--warmup", "5"]);
    assert!(closed[2].contains("pool is kept full; at its own rate the trace offers 0.4 %"), "{closed:?}");
    let poisson = heading(&["--arrivals", "open", "--rate", "20", "--requests", "50"]);
    assert!(poisson[2].starts_with("offered load 0.8 %: 20.0/s"), "{poisson:?}");
    let bound = heading(&["--arrivals", "open", "--kv-capacity", "5600"]);
    assert!(
        bound[2]
            .ends_with("617/s (perfect balance, 10.3 of 72 slots a worker, as many as its KV cache holds)"),
        "{bound:?}"
    );
}

#[test]
fn columns_units_and_blocks_are_told_by_flags() {
    let lines = "When;In;Out\n5;472;18\n45;1087;230\n";
    let file = write("columns.csv", lines);
    let simulate = ["simulate", "--policy", "level", "--seeds", "1", "--arrivals", "open", "--trace", &file];
    let error = refused(&simulate);
    assert!(error.contains("not a known trace") && error.contains("--columns"), "{error}");
    let map = ["--columns", "time=When,prompt=In,output=Out"];
    let error = refused(&[&simulate[..], &map].concat());
    assert!(error.contains("columns.csv:2: When: expected"), "{error}");
    assert!(error.contains("found \"5\"; --time-unit s, ms, us or ns settles it"), "{error}");
    for more in [&["--time-unit", "s"][..], &["--time-unit", "ms", "--block-tokens", "16"]] {
        let out = sim(&[&simulate[..], &map, more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let span = if more[1] == "s" { "in 40.0 s" } else { "in 0.0 s" };
        assert!(String::from_utf8_lossy(&out.stdout).contains(span), "{out:?}");
    }
    for (more, mention) in [
        (["--columns", "prompt=In"], "prompt=COLUMN and output=COLUMN"),
        (["--columns", "prompt=In,output=Nope"], "expected one of the columns When, In, Out; found \"Nope\""),
        (["--time-unit", "h"], "s, ms, us or ns"),
        (["--block-tokens", "0"], "block-tokens: expected at least 1"),
    ] {
        let error = refused(&[&simulate[..], &more].concat());
        assert!(error.contains(mention), "{more:?}: {error}");
    }
    assert!(refused(&["simulate", "--time-unit", "s"]).contains("--trace"));
    for flag in [
        &["--min-output", "5"][..],
        &["--skip-bad-rows"],
        &["--columns", "prompt=In,output=Out"],
        &["--time-unit", "s"],
        &["--block-tokens", "16"],
    ] {
        let error = refused(&[&["simulate", "--workload", "lognormal"], flag].concat());
        let expected = format!("error: {}: expected --trace", &flag[0][2..]);
        assert!(error.starts_with(&expected) && error.contains("--workload lognormal"), "{error}");
    }
    // Lengths alone are played closed, or with a rate.
    let lengths = [&simulate[..], &["--columns", "prompt=In,output=Out"]].concat();
    let error = refused(&lengths);
    assert!(error.contains("--rate") && error.contains("lengths without times"), "{error}");
    assert!(sim(&[&lengths[..], &["--rate", "5"]].concat()).status.success());
}

#[test]
fn a_trace_is_inspected_and_converted() {
    let trace = write("inspected.jsonl", &conversations(2_000));
    let (picture, json) = (scratch("inspected.svg"), scratch("inspected.json"));
    let (svg, file) = (picture.display().to_string(), json.display().to_string());
    let out = sim(&["trace", "inspect", &trace, "--out", &svg, "--json", &file]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    for part in [
        "inspected.jsonl: mooncake: 2000 requests in 3 min 20 s, 10.0/s, mean prompt",
        "prompt tokens",
        "burstiness: gaps vary by 0.00 of their mean (Poisson 1); busiest second",
        "shared prefix: 96.6 % of prompt tokens (93.2 % seen before), blocks of 512 tokens",
        "8 workers x 72 slots: offered load",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(std::fs::read_to_string(picture).expect("a picture").starts_with("<svg"));
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(json).expect("written")).expect("JSON");
    assert_eq!(keys(&document), ["arguments", "shape", "trace", "version"]);
    assert_eq!(document["shape"]["requests"], 2_000);
    assert_eq!(document["shape"]["prefix"]["block_tokens"], 512);
    assert!(document["arguments"]["capacity_requests_per_s"].is_number());
    let out = sim(&["trace", "inspect", &trace, "--out", "-"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
    assert!(refused(&["trace", "inspect", &trace, "--out", "-", "--json", "-"]).contains("out: expected"));
    let lengths = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n";
    let lengths = write("lengths.csv", lengths);
    let out = sim(&["trace", "inspect", &lengths]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("1 requests, lengths without times") && text.contains(": capacity "), "{text}");

    let converted = scratch("converted.csv").display().to_string();
    let out = sim(&["trace", "convert", &trace, "--to", "vidur", "--out", &converted]);
    assert!(out.status.success());
    assert_eq!(one_line(&out), "warning: the layout has no prefix blocks\n");
    let text = std::fs::read_to_string(&converted).expect("written");
    assert!(text.starts_with("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,1000,20\n"), "{text}");
    // To standard output, and from standard input.
    let out = sim(&["trace", "convert", &trace]);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let path = scratch("converted.jsonl");
    std::fs::write(&path, &out.stdout).expect("writable");
    let file = std::fs::File::open(path).expect("written");
    let out = ends(program(&["trace", "inspect", "-"]).stdin(file));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("stdin: aiperf: 2000 requests in 3 min 20 s"), "{text}");
    // What cannot be written so leaves nothing.
    let nothing = scratch("nothing.jsonl");
    let out = nothing.display().to_string();
    assert!(refused(&["trace", "convert", &lengths, "--out", &out]).contains("lengths only"));
    assert!(!nothing.exists());
    assert!(refused(&["trace", "convert", &trace, "--to", "parquet"]).contains("aiperf or vidur"));
    assert!(refused(&["trace", "inspect", "no/such/file"]).contains("no/such/file"));
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
        (&["simulate", "--kv-capacity", "8"], "fits"),
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
fn a_picture_is_written_or_refused_on_one_line() {
    let (picture, nowhere) = (scratch("loads.svg"), scratch("no-folder").join("loads.svg"));
    let drawn = |out: &Path, policy: &str| {
        let out = out.display().to_string();
        sim(&["picture", "--steps", "20", "--warmup", "10", "--policy", policy, "--out", &out])
    };
    assert!(drawn(&picture, "level,jsq").status.success());
    let text = std::fs::read_to_string(&picture).expect("a picture");
    assert!(text.starts_with("<svg") && text.contains("jsq"), "{text}");

    let out = drawn(&nowhere, "level");
    assert_eq!(out.status.code(), Some(1));
    assert!(one_line(&out).contains("loads.svg: No such file"), "{}", one_line(&out));
    let out = drawn(&picture, "best");
    assert_eq!(out.status.code(), Some(2));
    assert!(one_line(&out).contains("unknown policy \"best\""), "{}", one_line(&out));
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
        "times_definition",
        "times_definition_horizon",
        "times_plain_lanes",
        "times_plain_lanes_horizon",
    ] {
        assert!(named("scalar-dense-i32").get(key).is_some(), "{key}");
    }
    for path in paths {
        // Whatever the lanes do not hold, so many batches stay in them.
        let expected = if path["available"] == true { 20 } else { 0 };
        assert_eq!(path["batches_in_lanes"], expected, "{path}");
        assert!(path["batches"].as_u64() >= path["batches_in_lanes"].as_u64(), "{path}");
        assert_eq!(path["mismatches"], 0, "{path}");
    }
}

/// Two requests of which one has a KV cache of 9,010 tokens.
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

#[test]
fn a_request_that_fits_no_worker_is_a_warning() {
    let trace = write("too_long.csv", AZURE);
    let path = scratch("too_long.json");
    let json = path.display().to_string();
    let arguments = ["simulate", "--quiet", "--policy", "level", "--seeds", "2", "--trace", &trace];
    let with = |more: &[&str]| ends(&mut program(&[&arguments, more].concat()));

    let fixed = ["--headroom-steps", "32", "--arrivals", "open"];
    let out = with(&[&fixed[..], &["--kv-capacity", "9041", "--json", &json]].concat());
    assert!(out.status.success());
    let warning = one_line(&out);
    assert_eq!(
        warning.trim_end(),
        "warning: 1 of 2 requests of too_long.csv can run on no worker and are refused: \
         the longest needs 9042 KV tokens (9010 of prompt and output, 32 of headroom), a worker has 9041"
    );
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("written")).expect("JSON");
    for run in document["runs"].as_array().expect("an array") {
        assert_eq!((&run["requests_in"], &run["requests_refused"]), (&2.into(), &1.into()));
    }
    let silent = with(&[&fixed[..], &["--kv-capacity", "9042"]].concat());
    assert!(silent.status.success() && silent.stderr.is_empty());
    // Room that is learned is none for the longest, which has a worker for itself.
    let alone = with(&["--arrivals", "open", "--kv-capacity", "9010"]);
    assert!(alone.status.success() && alone.stderr.is_empty(), "{}", one_line(&alone));

    // Everybody: an open run ends at once, a closed one is an error and no warning.
    let warning = one_line(&with(&["--arrivals", "open", "--kv-capacity", "40"]));
    assert!(warning.starts_with("warning: 2 of 2 requests"), "{warning}");
    let error = one_line(&with(&["--kv-capacity", "8"]));
    assert!(error.starts_with("error: ") && error.contains("fits"), "{error}");

    // Of a workload, a sample; and without a bound of the cache, the longest prompt that an evicted request
    // may have.
    let out = sim(&[&["simulate", "--kv-capacity", "12000"], &SHORT[..]].concat());
    assert!(one_line(&out).contains("of 100000 requests of paper-prod can run on no worker"));
    let trace = write("longest.csv", &format!("{AZURE}2023-11-16 18:17:05.0319600,4194304,1\n"));
    let out =
        sim(&["simulate", "--arrivals", "open", "--policy", "level", "--seeds", "1", "--trace", &trace]);
    assert!(
        one_line(&out).ends_with(
            "refused: the longest has 4194305 tokens of prompt and output, the limit is 4194304\n"
        )
    );
}

#[test]
fn json_on_stdout_takes_the_place_of_the_table() {
    let kernels = ["kernels", "--batches", "20", "--json", "-"];
    let simulate = [&["simulate", "--json", "-"], &SHORT[..]].concat();
    for arguments in [&kernels[..], &simulate] {
        let out = sim(arguments);
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        let document: Value = serde_json::from_slice(&out.stdout).expect("JSON and nothing else");
        assert!(document["version"].is_string() || document["cpu"].is_string());
    }
    assert!(!Path::new("-").exists());
}

#[test]
fn results_that_cannot_be_written_are_one_line_before_the_runs() {
    let folder = scratch("a_folder.json");
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in ["no/such/folder/x.json", &folder.display().to_string(), "README.md/x.json", "no/such/.."] {
        // So many steps that only a check before them ends in time.
        let steps = ["--steps", "1000000000", "--policy", "level", "--seeds", "1"];
        let out = ends(&mut program(&[&["simulate", "--json", file], &steps[..]].concat()));
        let error = one_line(&out);
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{error}");
        assert!(error.starts_with(&format!("error: {file}")), "{error}");
    }
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0);
}

/// What a test finds in a folder of its own.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("readable").file_name();
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn empty_folder(name: &str) -> PathBuf {
    let folder = scratch(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn a_run_that_fails_or_is_killed_leaves_the_old_file() {
    let folder = empty_folder("kept");
    let path = folder.join("runs.json");
    std::fs::write(&path, "old").expect("writable");
    let json = path.display().to_string();
    let untouched = || {
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old");
        assert_eq!(names(&folder), ["runs.json"]);
    };

    // Found out by the run itself.
    assert!(refused(&["simulate", "--kv-capacity", "8", "--json", &json]).contains("fits"));
    untouched();

    let steps = ["--steps", "1000000000", "--policy", "level", "--seeds", "1"];
    let mut child =
        program(&[&["simulate", "--json", &json], &steps[..]].concat()).spawn().expect("the binary runs");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("a child").is_none(), "it runs for hours");
    child.kill().expect("a child");
    child.wait().expect("a child");
    untouched();
}

/// Streams that close, fill up and are no files.
#[cfg(target_os = "linux")]
mod streams {
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    use super::*;

    /// The writing end of a pipe that nobody reads.
    fn closed() -> Stdio {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer.into()
    }

    fn full() -> Stdio {
        File::options().write(true).open("/dev/full").expect("a device").into()
    }

    /// Every command that writes to stdout and is done soon.
    fn commands() -> [Vec<&'static str>; 6] {
        [
            [&["simulate"], &SHORT[..]].concat(),
            [&["simulate", "--json", "-"], &SHORT[..]].concat(),
            vec!["forecast", "--workload", "repeats"],
            vec!["kernels", "--batches", "20"],
            vec!["--help"],
            vec![],
        ]
    }

    #[test]
    fn a_closed_pipe_ends_it_quietly() {
        for arguments in commands() {
            let out = ends(program(&arguments).stdout(closed()));
            let stderr = String::from_utf8_lossy(&out.stderr);
            assert_eq!((out.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
        }
        // The results are complete all the same.
        let path = empty_folder("closed").join("runs.json");
        let json = path.display().to_string();
        let out = ends(program(&[&["simulate", "--json", &json], &SHORT[..]].concat()).stdout(closed()));
        assert!(out.status.success() && out.stderr.is_empty());
        let document: Value = serde_json::from_slice(&fs::read(path).expect("written")).expect("JSON");
        assert_eq!(document["runs"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn a_full_disk_is_one_line() {
        let mut commands = commands().to_vec();
        commands.push(vec!["--version"]);
        for arguments in commands {
            let out = ends(program(&arguments).stdout(full()));
            let error = one_line(&out);
            assert_eq!(out.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(error.starts_with("error: standard output: No space left"), "{error}");
        }
        // A run that cannot print its table has failed.
        let folder = empty_folder("full");
        let json = write("full/runs.json", "old");
        let out = ends(program(&[&["simulate", "--json", &json], &SHORT[..]].concat()).stdout(full()));
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(fs::read_to_string(json).expect("there"), "old");
        assert_eq!(names(&folder), ["runs.json"]);
    }

    #[test]
    fn nobody_has_to_read_stderr() {
        for stderr in [closed, full] {
            let warned = ["simulate", "--kv-capacity", "12000"];
            let out = ends(program(&[&warned, &SHORT[..]].concat()).stderr(stderr()));
            assert_eq!(out.status.code(), Some(0));
            assert!(String::from_utf8_lossy(&out.stdout).starts_with("paper-prod: "));
            for arguments in [&["simulate", "--nope"][..], &["simulate", "--workload", "nope"]] {
                assert_eq!(ends(program(arguments).stderr(stderr())).status.code(), Some(2));
            }
        }
    }

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

    #[test]
    fn json_is_written_beside_and_renamed() {
        let folder = empty_folder("beside");
        let (old, link, other) =
            (folder.join("runs.json"), folder.join("link.json"), folder.join("old.json"));
        fs::write(&old, "old").expect("writable");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).expect("ours");
        // What is renamed over stays whole under its other name; a link still leads to the new file.
        fs::hard_link(&old, &other).expect("one file system");
        symlink("runs.json", &link).expect("a link");
        document("beside/link.json", &SHORT);
        assert_eq!(fs::read_to_string(&other).expect("there"), "old");
        assert_eq!(fs::read_link(&link).expect("a link"), Path::new("runs.json"));
        assert_eq!(fs::metadata(&old).expect("there").mode() & 0o777, 0o640);
        serde_json::from_slice::<Value>(&fs::read(&old).expect("there")).expect("JSON");

        // A new file is as readable as any other, a link to nowhere leads somewhere.
        symlink("new.json", folder.join("dangling.json")).expect("a link");
        document("beside/dangling.json", &SHORT);
        let mode = |name: &str| fs::symlink_metadata(folder.join(name)).expect("there").mode();
        fs::write(folder.join("plain"), "").expect("writable");
        assert_eq!(mode("new.json"), mode("plain"));
        assert_eq!(
            names(&folder),
            ["dangling.json", "link.json", "new.json", "old.json", "plain", "runs.json"]
        );
    }

    #[test]
    fn what_is_no_file_is_written_to_directly() {
        // However stdout is named, and even where it is a file, it has the document alone.
        let arguments = [&["simulate", "--json", "/dev/stdout"], &SHORT[..]].concat();
        let out = ends(&mut program(&arguments));
        serde_json::from_slice::<Value>(&out.stdout).expect("JSON and nothing else");
        let path = empty_folder("direct").join("stdout.json");
        let file = File::create(&path).expect("writable");
        assert!(ends(program(&arguments).stdout(file)).status.success());
        serde_json::from_slice::<Value>(&fs::read(&path).expect("there")).expect("JSON and nothing else");

        let fifo = path.with_file_name("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
        // Opened both ways it waits for nobody, and keeps what has been written.
        let mut both = File::options().read(true).write(true).open(&fifo).expect("a fifo");
        let json = fifo.display().to_string();
        let out = ends(&mut program(&[&["simulate", "--json", &json], &SHORT[..]].concat()));
        assert!(out.status.success() && !out.stdout.is_empty());
        assert!(fs::metadata(&fifo).expect("there").file_type().is_fifo());
        let mut document = vec![0; 1 << 16];
        let length = both.read(&mut document).expect("readable");
        serde_json::from_slice::<Value>(&document[..length]).expect("JSON");
        assert_eq!(names(path.parent().expect("a folder")), ["fifo", "stdout.json"]);

        // Only now a device of this machine: a program that renames over what is no file, run by root, would
        // take it away.
        let out = ends(&mut program(&[&["simulate", "--json", "/dev/full"], &SHORT[..]].concat()));
        let error = one_line(&out);
        assert_eq!(out.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: /dev/full: No space left"), "{error}");
        assert!(fs::metadata("/dev/full").expect("there").file_type().is_char_device());
        for (stdout, code) in [(closed(), 0), (full(), 1)] {
            let out = ends(program(&arguments).stdout(stdout));
            assert_eq!(out.status.code(), Some(code), "{}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

#[test]
fn policies_are_listed_a_line_each() {
    let out = sim(&["policies"]);
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = |name: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
        assert_eq!(lines.len(), 1, "{name}: {text}");
        lines[0].to_owned()
    };
    for name in policy::NAMES {
        line(
            &format!("{name} ")
                .replace("vllm-0.33 ", "vllm-0.33, vllm ")
                .replace("tokens ", "tokens, sglang "),
        );
    }
    assert!(line("level ").contains("yes   step"), "{text}");
    for (name, says) in [("block ", "known ends, step law"), ("llm-d ", "prefix hashes, KV capacity")] {
        let found = line(name);
        assert!(found.contains("-     arrival") && found.contains(says), "{found}");
    }
    assert!(line("bucket: ").contains("131072"), "what is chosen here is said: {text}");

    let path = scratch("policies.json");
    let out = sim(&["policies", "--json", &path.display().to_string()]);
    assert!(out.status.success());
    let document: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
    let policies = document["policies"].as_array().expect("an array");
    let of = |name: &str| policies.iter().find(|rule| rule["name"] == name).expect("a rule").clone();
    assert_eq!(policies.len(), policy::NAMES.len() + 8);
    assert_eq!(of("vllm-0.33")["aliases"], serde_json::json!(["vllm"]));
    assert_eq!(of("dualmap")["needs"], serde_json::json!(["prefix-hashes"]));
    assert_eq!(of("dualmap")["in_library"], false);
    assert_eq!((&of("level")["ours"], &of("level")["decides"]), (&Value::from(true), &Value::from("step")));
}

#[test]
fn engines_names_stand_for_their_rules() {
    let short = ["--seeds", "1", "--steps", "60", "--warmup", "10", "--policy"];
    let run = |name: &str, policies: &str| {
        let (_, mut document) = document(name, &[&short[..], &[policies]].concat());
        for run in document["runs"].as_array_mut().expect("an array") {
            run["decide_us"] = Value::Null;
        }
        document
    };
    let (alias, own) =
        (run("alias.json", "vllm,sglang,llm-d"), run("own.json", "vllm-0.33,sglang-total-tokens,llm-d"));
    assert_eq!(alias, own);
    assert_eq!(alias["arguments"]["policies"][0], "vllm-0.33");
    let error = refused(&["simulate", "--policy", "vlmm-0.33"]);
    assert!(error.contains("did you mean vllm-0.33?"), "{error}");
    let error = refused(&["simulate", "--workers", "1", "--policy", "dualmap"]);
    assert!(error.contains("dualmap: expected at least 2 workers, found 1"), "{error}");
}

#[test]
fn rules_say_what_they_are_not_told() {
    let short = ["simulate", "--seeds", "1", "--steps", "60", "--warmup", "10", "--quiet"];
    let warned = |more: &[&str]| {
        let out = sim(&[&short[..], more].concat());
        assert!(out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert_eq!(warned(&["--policy", "vllm,ascend-proxy,level"]), "");
    let said = warned(&["--policy", "cache-aware,hash-ring,llm-d"]);
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "warning: cache-aware, hash-ring, llm-d: paper-prod has no prefix hashes (hash_ids), so that no \
             prefix counts",
            "warning: hash-ring: paper-prod has no sessions",
            "warning: llm-d: KV caches are not bounded (--kv-capacity), so that their use does not count",
        ]
    );
    let row = |at: u32| {
        format!(
            "{{\"timestamp\": {}, \"input_length\": 1024, \"output_length\": 5, \"hash_ids\": [{}, {at}]}}\n",
            1_000 * at,
            at % 3
        )
    };
    let trace = write("prefixes.jsonl", &(10..60).map(row).collect::<String>());
    let traced = ["--trace", &trace, "--policy", "cache-aware"];
    assert!(warned(&traced).contains("--affinity 0"));
    let (with_caches, text) =
        (["--affinity", "0"], |out: Output| String::from_utf8_lossy(&out.stdout).into_owned());
    assert_eq!(warned(&[&traced[..], &with_caches].concat()), "");
    // Whoever follows prefixes finds more of them than whoever does not.
    let open = ["simulate", "--seeds", "1", "--quiet", "--arrivals", "open", "--trace", &trace];
    let policies = ["--policy", "cache-aware,round-robin"];
    let played = text(sim(&[&open[..], &policies, &with_caches].concat()));
    let cached = |policy: &str| -> f64 {
        let row = played.lines().find(|line| line.starts_with(policy)).expect("a row");
        row.split_whitespace().nth(2).expect("cached").parse().expect("a number")
    };
    assert!(cached("cache-aware") > 1.3 * cached("round-robin"), "{played}");
}

//! `calibrate` and `--cost` as a user meets them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn balanceroute(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_balanceroute");
    Command::new(program).args(arguments).current_dir(folder).output().expect("the binary runs")
}

/// What it prints.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let out = balanceroute(folder, arguments);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("written")
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_str(&read(folder, name)).expect("JSON")
}

/// Steps of 8 ms, 40 us a request, 0.2 us a KV token and 7 us a prompt token, off by up to 3 %.
fn steps(rows: u32) -> String {
    let row = |at: u32| {
        let (running, length) = (1 + at * 37 % 90, 200 + at * 7_919 % 3_000);
        let prefill = if at.is_multiple_of(9) { at * 104_729 % 2_000 } else { 0 };
        let us = 8_000.0
            + 40.0 * f64::from(running)
            + 0.2 * f64::from(running * length)
            + 7.0 * f64::from(prefill);
        let noise = f64::from(at * 31 % 61) / 1_000.0 - 0.03;
        format!("{},{running},{},{prefill}\n", us / 1e3 * (1.0 + noise), running * length)
    };
    format!("step_ms,running,kv_tokens,prefill_tokens\n{}", (0..rows).map(row).collect::<String>())
}

#[test]
fn a_law_is_measured_and_played() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("steps.csv"), steps(5_000)).expect("writable");
    let arguments =
        ["calibrate", "steps.csv", "--out", "gpu.toml", "--plot", "fit.svg", "--json", "fit.json"];
    let text = done(folder, &arguments);
    for part in [
        "steps.csv",
        "per KV token",
        "condition number",
        "residuals: standard deviation",
        "us_per_token = 0.",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    let plot = read(folder, "fit.svg");
    assert!(plot.starts_with("<svg") && plot.matches("<circle").count() > 3_000, "{}", plot.len());
    assert!(!plot.contains("NaN"));
    let fit = json(folder, "fit.json");
    let law = &fit["calibration"]["law"];
    for (term, value) in
        [("base_ms", 8.0), ("us_per_request", 40.0), ("us_per_token", 0.2), ("prefill_us_per_token", 7.0)]
    {
        let found = law[term].as_f64().expect("a number");
        assert!((found / value - 1.0).abs() < 0.02, "{term}: {found}");
    }
    assert!(fit["calibration"]["condition"].as_f64().expect("a number") < 30.0);
    assert_eq!(done(folder, &["calibrate", "steps.csv", "--out", "-"]), read(folder, "gpu.toml"));

    // Few running requests: the published base charges all slots.
    let open = [
        "simulate",
        "--quiet",
        "--arrivals",
        "open",
        "--rate",
        "2",
        "--requests",
        "200",
        "--seeds",
        "1",
        "--policy",
        "level",
        "--workload",
        "lognormal",
        "--slots",
        "512",
    ];
    let play = |name: &str, more: &[&str]| -> (String, Value) {
        let text = done(folder, &[&open[..], &["--json", name], more].concat());
        (text, json(folder, name))
    };
    let (text, measured) = play("measured.json", &["--cost", "gpu.toml"]);
    assert!(text.contains("\nstep: ") && text.contains("a prompt token, computed there"), "{text}");
    let figure = |document: &Value, of: &str| document["runs"][0][of]["mean"].as_f64().expect("a number");
    assert_eq!(measured["arguments"]["step_us_per_request"], law["us_per_request"]);
    assert_eq!(measured["arguments"]["prompts"], "worker");
    // Two thousand prompt tokens of 7 us, beside 8 ms.
    assert!((20.0..40.0).contains(&figure(&measured, "ttft_ms")), "{}", figure(&measured, "ttft_ms"));
    let (_, elsewhere) = play("elsewhere.json", &["--cost", "gpu.toml", "--prompts", "elsewhere"]);
    assert!(figure(&elsewhere, "ttft_ms") < 0.6 * figure(&measured, "ttft_ms"));
    let (_, slower) = play("slower.json", &["--cost", "gpu.toml", "--step-base-ms", "16"]);
    assert!(figure(&slower, "tpot_ms") > 1.5 * figure(&measured, "tpot_ms"));
    assert!(figure(&slower, "e2e_ms") > 1.5 * figure(&measured, "e2e_ms"));
    let (text, published) = play("published.json", &[]);
    assert!(!text.contains("\nstep: "), "{text}");
    assert_eq!(published["arguments"]["step_us_per_request"], 0.0);
    assert!(figure(&published, "tpot_ms") > 20.0, "512 slots are charged");

    std::fs::write(
        folder.join("trace.csv"),
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0,500,20\n1,500,20\n",
    )
    .expect("writable");
    let inspect = |more: &[&str]| done(folder, &[&["trace", "inspect", "trace.csv"], more].concat());
    assert_ne!(inspect(&["--cost", "gpu.toml"]), inspect(&[]));
}

#[test]
fn what_makes_no_law_is_refused_on_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("writable");
    write("few.csv", &steps(20));
    write("trace.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,500,20\n");
    let bench = json!({"input_lens": [10], "output_lens": [3], "ttfts": [0.1], "itls": [[0.1, 0.1]]});
    write("sglang.jsonl", &bench.to_string());
    write("bad.toml", "base_ms = 5.0\nus_per_token = 0.1\nper_slot = 2\n");
    write("zero.toml", "base_ms = 0.0\nus_per_token = 0.1\n");
    for (arguments, words) in [
        (&["calibrate"][..], "FILE"),
        (&["calibrate", "few.csv"], "at least 200, found 20"),
        (&["calibrate", "trace.csv"], "trace.csv: measurements: expected the JSON of `vllm bench serve"),
        (&["calibrate", "sglang.jsonl"], "sglang.jsonl: start_times: expected"),
        (&["calibrate", "none.csv"], "none.csv"),
        (&["calibrate", "."], "a directory"),
        (&["calibrate", "few.csv", "--max-batched-tokens", "0"], "max-batched-tokens"),
        (&["calibrate", "few.csv", "--out", "-", "--json", "-"], "out: expected"),
        (&["calibrate", "few.csv", "--out", "no/such/gpu.toml"], "no/such/gpu.toml"),
        (&["simulate", "--cost", "bad.toml"], "bad.toml:3: a step law"),
        (&["simulate", "--cost", "zero.toml"], "base_ms: expected a number above 0"),
        (&["simulate", "--cost", "none.toml"], "none.toml"),
        (&["simulate", "--step-us-per-request=-1"], "step-us-per-request: expected"),
        (&["simulate", "--prompts", "here"], "elsewhere or worker"),
    ] {
        let code = if words == "no/such/gpu.toml" { 1 } else { 2 };
        let out = balanceroute(folder, arguments);
        let error = String::from_utf8(out.stderr).expect("text");
        assert_eq!(
            (out.status.code(), error.lines().count(), out.stdout.len()),
            (Some(code), 1, 0),
            "{error}"
        );
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    assert!(!folder.join("gpu.toml").exists());
}

#[test]
fn measurements_come_packed_and_from_standard_input() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("steps.csv"), steps(2_000)).expect("writable");
    let law = done(folder, &["calibrate", "steps.csv", "--out", "-"]);
    let packed = std::fs::File::create(folder.join("steps.csv.gz")).expect("writable");
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    packed.write_all(steps(2_000).as_bytes()).and_then(|()| packed.try_finish()).expect("writable");
    assert_eq!(done(folder, &["calibrate", "steps.csv.gz", "--out", "-"]), law);
    let stdin = std::fs::File::open(folder.join("steps.csv")).expect("there");
    let mut command = Command::new(env!("CARGO_BIN_EXE_balanceroute"));
    let out = command.args(["calibrate", "-", "--out", "-"]).stdin(stdin).output().expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), law);
}

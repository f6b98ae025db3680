//! `optimum`, `recommend`, `sweep` and `watch` as a user meets them.

#[cfg(feature = "watch")]
use std::io::{Read, Write};
use std::process::{Command, Output};

use serde_json::Value;

fn program(command: &[&str], arguments: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_balanceroute"));
    let quiet = (command[0] != "watch").then_some("--quiet");
    program.args(command).args(arguments).args(quiet).output().expect("the binary runs")
}

fn optimum(arguments: &[&str]) -> Output {
    program(&["optimum", "--workers", "3", "--slots", "8", "--pool", "6", "--steps", "400"], arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn rules_are_set_beside_the_best_of_their_steps() {
    let asked = ["--policy", "exact,jsq", "--seeds", "2", "--decisions", "6"];
    let shown = optimum(&asked);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("jsq"));
    let written = optimum(&[&asked[..], &["--json", "-"]].concat());
    let written: Value = serde_json::from_slice(&written.stdout).expect("JSON");
    let rules = written["rules"].as_array().expect("rules");
    let of = |rule: usize, key: &str| rules[rule][key].as_f64().expect("a figure");
    for rule in 0..2 {
        assert!((12.0..24.0).contains(&of(rule, "decisions")));
        assert!(of(rule, "least_tokens") > 0.0 && of(rule, "least_tokens") <= of(rule, "left_tokens"));
        assert!(of(rule, "of_bound") > 0.5);
    }
    assert!(of(0, "above_mean_tokens") < of(1, "above_mean_tokens"));
}

#[test]
fn where_requests_come_in_their_own_time_no_bound_is_said() {
    let open =
        ["--arrivals", "open", "--rate", "50", "--requests", "300", "--policy", "level", "--seeds", "1"];
    let written = optimum(&[&open[..], &["--json", "-", "--warmup", "0"]].concat());
    let written: Value = serde_json::from_slice(&written.stdout).expect("JSON");
    assert!(written["rules"][0]["of_bound"].is_null());
    assert!(written["rules"][0]["decisions"].as_u64() > Some(20));
}

#[test]
fn arguments_out_of_range_are_refused() {
    for (arguments, found) in [
        (["--decisions", "0"], "decisions: expected a whole number in 1..=100000, found 0"),
        (["--limit-s", "-1"], "limit-s: expected seconds above 0, found -1"),
        (["--limit-s", "nan"], "limit-s: expected seconds above 0, found NaN"),
        (["--seeds", "0"], "seeds: expected a whole number"),
    ] {
        let refused = optimum(&arguments);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(found), "{}", text(&refused.stderr));
    }
}

#[test]
fn the_smallest_cluster_is_said_first() {
    let asked = ["recommend", "--workload", "lognormal", "--slots", "8,16", "--windows", "3"];
    let asked = [&asked[..], &["--requests", "450", "--rules", "today=jsq,level", "--rate", "40/s"]].concat();
    let limits = ["--slo", "ttft=1s,tpot=20ms,share=95%"];
    let shown = program(&asked, &limits);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let said = text(&shown.stdout);
    assert!(said.starts_with("lognormal at 40.0/s: ") && said.contains(" slots under "), "{said}");
    // Nobody has said what a slot costs.
    assert!(text(&shown.stderr).contains("note: the published step law charges for every slot"));
    let written = program(&asked, &[&limits[..], &["--json", "-", "--step-us-per-request", "40"]].concat());
    assert_eq!(text(&written.stderr), "");
    let written: Value = serde_json::from_slice(&written.stdout).expect("JSON");
    let options = written["options"].as_array().expect("options");
    assert_eq!(options.len(), 4);
    let best = &options[written["best"].as_u64().expect("one") as usize];
    let workers = best["workers"].as_u64().expect("a number");
    assert!(options.iter().all(|option| option["workers"].as_u64().is_none_or(|other| other >= workers)));
    // Its command plays it.
    let command = shlex::split(best["command"].as_str().expect("a command")).expect("words");
    let words: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    let alone = program(&words, &["--json", "-"]);
    let alone: Value = serde_json::from_slice(&alone.stdout).expect("JSON");
    assert_eq!(alone["runs"][0]["workers"].as_u64(), Some(workers));

    let hopeless = program(&asked, &["--slo", "ttft=50ms,tpot=6ms", "--most-workers", "2"]);
    assert!(hopeless.status.success());
    let said = text(&hopeless.stdout);
    assert!(said.contains("no cluster of up to 2 workers keeps TTFT 50 ms and TPOT 6 ms"), "{said}");
    assert!(said.contains("if your ranks do it: --prompts worker"), "{said}");
}

#[test]
fn a_question_without_an_answer_is_refused() {
    for (arguments, found) in [
        ("--rate own", "rate: expected requests per second (12.5/s) for lognormal, which has no times"),
        ("--rate 80%", "rate: expected one rate that no cluster decides"),
        ("--rate 9/s --slo none", "slo: expected limits to keep, found none"),
        ("--rate 9/s --slo tpot=1ms", "slo: expected TTFT and TPOT of at least 2.79 ms"),
        ("--rate 9/s --most-workers 0", "most-workers: expected a whole number in 1..="),
        ("--rate 9/s --slots 0", "slots: expected a whole number in 1..="),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let refused = program(&["recommend", "--workload", "lognormal"], &words);
        assert_eq!(refused.status.code(), Some(2), "{arguments}");
        assert!(text(&refused.stderr).contains(found), "{arguments}: {}", text(&refused.stderr));
    }
}

#[test]
fn a_sweep_has_a_row_for_every_value_and_policy() {
    let small =
        ["sweep", "--workers", "2", "--slots", "4", "--steps", "200", "--warmup", "50", "--seeds", "2"];
    let asked = ["--vary", "pool=2,8", "--policy", "level,jsq", "--vary=max-passed=4,64"];
    let shown = program(&small, &asked);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert_eq!(text(&shown.stdout).lines().count(), 2 + 2 * 2 * 2);
    let written = program(&small, &[&asked[..], &["--json", "-"]].concat());
    let written: Value = serde_json::from_slice(&written.stdout).expect("JSON");
    let point = &written["points"][3];
    assert_eq!(point["varied"], serde_json::json!([["pool", "8"], ["max-passed", "64"]]));
    let arguments = &point["arguments"];
    assert_eq!((&arguments["pool"], &arguments["max_passed"]), (&Value::from(8), &Value::from(64)));
    assert_eq!(point["runs"].as_array().map(Vec::len), Some(4));
    for (vary, found) in [
        ("pol=3", "unexpected argument '--pol'"),
        ("workers=2", "vary: expected flags of simulate, each in one place, found --workers"),
        ("pool=0", "pool: expected a whole number"),
        ("pool", "expected a flag of simulate and its values"),
    ] {
        let refused = program(&small, &["--vary", vary]);
        assert_eq!(refused.status.code(), Some(2), "{vary}");
        assert!(text(&refused.stderr).contains(found), "{vary}: {}", text(&refused.stderr));
    }
}

#[cfg(feature = "watch")]
#[test]
fn a_cluster_is_watched_as_text() {
    let small = ["watch", "--workers", "3", "--slots", "8", "--frames", "2", "--steps-per-s", "500"];
    let shown = program(&small, &["--policy", "jsq"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert!(shown.starts_with("paper-prod on 3 workers x 8 slots under jsq\nstep 0, "), "{shown}");
    assert!(shown.contains("KV tokens of 3 workers: envelope "), "{shown}");
    // On a busy machine a frame comes later, and shows a later step.
    let steps = shown.lines().filter_map(|line| line.strip_prefix("step ")?.split(',').next()?.parse().ok());
    let steps: Vec<u64> = steps.collect();
    assert!(steps.len() == 2 && steps[1] > 0, "{steps:?}");
    for (arguments, found) in [
        ("--policy jsq,level", "policy: expected one policy to watch, found jsq,level"),
        ("--policy jsq --steps-per-s 0", "steps-per-s: expected above 0, found 0"),
        ("http://127.0.0.1:1/metrics", "http://127.0.0.1:1/metrics: "),
    ] {
        let refused = program(&["watch", "--frames", "1"], &arguments.split(' ').collect::<Vec<_>>());
        let status = if arguments.starts_with("http") { 1 } else { 2 };
        assert_eq!(refused.status.code(), Some(status), "{arguments}");
        assert!(text(&refused.stderr).contains(found), "{arguments}: {}", text(&refused.stderr));
    }
    // No terminal, and nothing that could be printed.
    assert!(text(&program(&["watch"], &[]).stderr).contains("expected a terminal, or --frames N"));
}

/// A page over HTTP, twice.
#[cfg(feature = "watch")]
#[test]
fn a_metrics_page_is_watched() {
    let page = "balanceroute_worker_load_tokens{worker=\"4\"} 900\nbalanceroute_longest_wait_seconds 2\n";
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/metrics", server.local_addr().expect("an address"));
    let served = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = server.accept().expect("somebody asks");
            let mut asked = [0; 1024];
            let length = stream.read(&mut asked).expect("a question");
            assert!(asked[..length].starts_with(b"GET /metrics HTTP/1.1\r\n"));
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
            stream.write_all([head.as_bytes(), page.as_bytes()].concat().as_slice()).expect("answered");
        }
    });
    let shown = program(&["watch", &url, "--frames", "2", "--every-s", "0.05"], &[]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert_eq!(shown.matches("KV tokens of 1 workers: envelope 900, imbalance 0").count(), 2, "{shown}");
    assert!(shown.contains("longest wait 2000 ms"), "{shown}");
    served.join().expect("asked twice");
}

//! `optimum` as a user meets it.

use std::process::{Command, Output};

use serde_json::Value;

fn optimum(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_balanceroute");
    let small = ["optimum", "--workers", "3", "--slots", "8", "--pool", "6", "--steps", "400", "--quiet"];
    Command::new(program).args(small).args(arguments).output().expect("the binary runs")
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

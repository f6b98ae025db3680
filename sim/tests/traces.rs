//! On public traces: level refill is never behind the exact greedy, and every request of an open run finishes
//! under every policy.
//!
//! The traces lie in `$BALANCEROUTE_TRACES` or `../shared/traces` (from the repository); the README names
//! where to get them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use balanceroute::policy;
use balanceroute_sim::evaluation::settings;
use balanceroute_sim::report::by_policy;
use balanceroute_sim::traces::{ReadOptions, Trace};
use balanceroute_sim::{Arrivals, Run, Scenario, Source};

/// The folder of the traces; `None` skips loudly, which CI does not allow.
fn traces() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let folder = std::env::var_os("BALANCEROUTE_TRACES").map_or_else(beside, PathBuf::from);
    if folder.join("azure_2023_conv.csv").exists() {
        return Some(folder);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no traces in {}", folder.display());
    eprintln!("SKIPPED: no traces in {}; set BALANCEROUTE_TRACES", folder.display());
    None
}

#[test]
fn level_is_never_behind_exact() {
    let Some(folder) = traces() else { return };
    let policies = ["level".to_owned(), "exact".to_owned()];
    let table = settings::table(&settings::Options {
        traces: &folder,
        skip_missing: false,
        policies: &policies,
        only: &["closed:".to_owned()],
        seeds: Some(5),
        first_seed: 0,
        threads: 0,
        progress: false,
    })
    .expect("readable traces");
    assert_eq!(table.settings.len(), 19);
    for row in &table.settings {
        let means: Vec<f64> = by_policy(&row.runs)
            .iter()
            .map(|runs| runs.iter().map(|run| run.imbalance_mean).sum::<f64>() / runs.len() as f64)
            .collect();
        assert!(means[0] <= 1.05 * means[1], "{}: {means:?}", row.name);
    }
}

fn open(file: &str, rate_scale: f64) -> Option<Vec<Run>> {
    let trace = Trace::read(&traces()?.join(file), &ReadOptions::default()).expect("a readable trace");
    let rows = trace.jobs.len() as u64;
    let scenario = Scenario {
        source: Source::Trace(Arc::new(trace)),
        arrivals: Arrivals::Trace { rate_scale },
        steps: None,
        warmup: 0,
        seeds: 1,
        ..Scenario::default()
    };
    let runs = balanceroute_sim::run(&scenario, false).expect("valid");
    for run in &runs {
        assert_eq!((run.requests_in, run.requests_done), (rows, rows), "{}", run.policy);
        assert_eq!(run.requests_lost + run.requests_refused + run.requests_waiting, 0, "{}", run.policy);
    }
    Some(runs)
}

/// Every trace request finishes under every policy, and `level` serves most tokens of all that predict
/// nothing.
fn ahead_of_every_baseline(runs: &[Run]) {
    let tokens = |name: &str| runs.iter().find(|run| run.policy == name).map_or(0.0, |run| run.tokens_per_s);
    let oracle_free = policy::NAMES.iter().take_while(|&&name| !name.starts_with("brh")).chain(&["exact"]);
    for &name in oracle_free {
        assert!(tokens("level") >= 0.999 * tokens(name), "{name}: {} > {}", tokens(name), tokens("level"));
    }
}

#[test]
fn azure_conversations_at_saturation() {
    if let Some(runs) = open("azure_2023_conv.csv", 40.0) {
        ahead_of_every_baseline(&runs);
    }
}

#[test]
fn mooncake_conversations_at_saturation() {
    if let Some(runs) = open("mooncake_conversation.jsonl", 10.0) {
        ahead_of_every_baseline(&runs);
    }
}

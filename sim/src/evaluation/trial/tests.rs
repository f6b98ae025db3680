//! Whole evaluations, small enough for a second.

use std::sync::Arc;

use super::*;
use crate::cluster::{Scenario, Source, StepCost};
use crate::job::Job;
use crate::report::results::{Limits, Verdict};
use crate::traces::Trace;

/// Lengths of a hundred kinds, some of them long, one request after the other at these times.
fn trace_at(rows: u32, at_s: impl Fn(f64) -> f64) -> Source {
    let job = |at: u32| {
        let at = u64::from(at);
        let longer = if at % 11 == 0 { 5 } else { 1 };
        Job::new((200 + at * 7_919 % 1_900) as u32, (5 + at * 104_729 % 97 * longer) as u32)
    };
    Source::Trace(Arc::new(Trace {
        name: "trace".to_owned(),
        format: "log",
        jobs: (0..rows).map(job).collect(),
        arrival_s: (0..rows).map(|at| at_s(f64::from(at))).collect(),
        ..Trace::default()
    }))
}

/// One request a second.
fn trace(rows: u32) -> Source {
    trace_at(rows, |at| at)
}

fn plan(source: Source, asked: &[&str], rates: &[RateAsked]) -> Plan {
    let asked: Vec<String> = asked.iter().map(|&rule| rule.to_owned()).collect();
    Plan {
        sources: vec![TrialSource { source, path: None, sha256: None }],
        workers: vec![4],
        slots: vec![6],
        rules: rules(&asked).expect("rules"),
        rates: rates.to_vec(),
        refinements: 0,
        limits: Some("ttft=500ms,tpot=30ms".parse::<Limits>().expect("limits")),
        windows: 4,
        seeds: 1,
        first_seed: 0,
        requests: Some(600),
        decisions: 0,
        gates: Vec::new(),
        cost: Arc::new(|slots| Ok(StepCost { us_per_token: 1.0, ..StepCost::published(slots) })),
        model: Scenario::default(),
        flags: Vec::new(),
    }
}

fn play_with(plan: &Plan, threads: usize, folder: Option<&Folder>, stop: &AtomicBool) -> Results {
    let playing = Playing {
        folder,
        threads,
        stop,
        progress: false,
        command: "balanceroute evaluate".to_owned(),
        quick: false,
    };
    evaluate(plan, &playing).expect("an evaluation")
}

fn play(plan: &Plan) -> Results {
    play_with(plan, 1, None, &AtomicBool::new(false))
}

/// Without what differs between two runs of a command.
fn without_clocks(mut results: Results) -> serde_json::Value {
    (results.elapsed_s, results.started) = (0.0, String::new());
    for rule in results.scenarios.iter_mut().flat_map(|scenario| &mut scenario.rules) {
        rule.decide_us = Default::default();
    }
    serde_json::to_value(results).expect("numbers and names")
}

const RATES: [RateAsked; 2] = [RateAsked::Own, RateAsked::OfCapacity(0.9)];

#[test]
fn every_rule_has_every_replicate_of_the_same_requests() {
    let plan = plan(trace(900), &["today=jsq", "level"], &RATES);
    let results = play(&plan);
    assert!(results.complete);
    assert!(results.sentences.iter().any(|text| text.starts_with("There are few windows (4): ")));
    assert_eq!((results.runs_done, results.runs_planned), (16, 16));
    let labels: Vec<&str> = results.scenarios.iter().map(|scenario| scenario.rate.label.as_str()).collect();
    assert_eq!(labels, ["own rate", "90 % of capacity"]);
    for scenario in &results.scenarios {
        let names: Vec<&str> = scenario.rules.iter().map(|rule| rule.rule.as_str()).collect();
        assert_eq!(names, ["today", "level"]);
        for rule in &scenario.rules {
            let windows: Vec<u32> = rule.replicates.iter().map(|replicate| replicate.replicate).collect();
            assert_eq!(windows, [0, 1, 2, 3]);
            let requests: f64 = rule.replicates.iter().map(|replicate| replicate.requests).sum();
            // Four of five spans, the end of the last one left out.
            assert!((718.0..=721.0).contains(&requests), "{requests}");
        }
        for difference in &scenario.differences {
            assert_eq!((difference.rule.as_str(), difference.against.as_str()), ("level", "today"));
            assert_eq!(difference.pairs, 4);
            assert_ne!(difference.verdict, Verdict::Unknown);
        }
    }
    // What is offered is what comes: nobody waits, so tokens/s are those of the trace.
    let own = &results.scenarios[0];
    let tokens = own.rules[0].figures["tokens_per_s"].mean;
    let offered = 900.0 / 899.0 * mean_output(900);
    assert!((tokens / offered - 1.0).abs() < 0.03, "{tokens} of {offered}");
    assert_eq!(own.rules[0].figures["within_slo"].mean, 1.0);
}

fn mean_output(rows: u32) -> f64 {
    let Source::Trace(trace) = trace(rows) else { unreachable!() };
    trace.jobs.iter().map(|job| f64::from(job.output_tokens)).sum::<f64>() / f64::from(rows)
}

#[test]
fn a_rule_beside_itself_differs_by_nothing() {
    let results = play(&plan(trace(900), &["today=level", "again=level"], &RATES));
    for difference in results.scenarios.iter().flat_map(|scenario| &scenario.differences) {
        assert_eq!((difference.mean, difference.sd, difference.verdict), (0.0, 0.0, Verdict::Tie));
        assert_eq!((difference.p, difference.p_holm), (Some(1.0), Some(1.0)));
    }
    assert!(results.largest_rates[0].differences.iter().all(|of| of.verdict != Verdict::Better));
}

#[test]
fn differences_of_pairs_vary_less_than_the_windows_do() {
    // Windows become quieter: what they have in common under both rules is no difference of the rules.
    let quieter = trace_at(1_800, |at| at * (1.0 + at / 1_800.0));
    let results = play(&plan(quieter, &["jsq", "level"], &[RateAsked::OfCapacity(0.6)]));
    let scenario = &results.scenarios[0];
    let tokens = scenario.differences.iter().find(|of| of.metric == "tokens_per_s").expect("tokens/s");
    let sd = |rule: usize| scenario.rules[rule].figures["tokens_per_s"].sd;
    let unpaired = sd(0).hypot(sd(1));
    assert!(tokens.sd < 0.2 * unpaired, "{} of {unpaired}", tokens.sd);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let results = [1, 3].map(|threads| {
        let folder = &folders[usize::from(threads > 1)];
        let folder = Folder::create(folder.path()).expect("writable");
        let mut plan = plan(trace(900), &["today=jsq", "random", "level"], &RATES);
        plan.refinements = 1;
        plan.seeds = 2;
        without_clocks(play_with(&plan, threads, Some(&folder), &AtomicBool::new(false)))
    });
    assert_eq!(results[0], results[1]);
    for file in ["requests/s000.jsonl.gz", "series/s001.jsonl.gz"] {
        let [one, other] =
            folders.each_ref().map(|folder| std::fs::read(folder.path().join(file)).expect("written"));
        assert!(one == other, "{file}");
    }
}

#[test]
fn seeds_of_a_window_are_no_more_replicates() {
    let mut plan = plan(trace(900), &["jsq", "random"], &[RateAsked::OfCapacity(0.9)]);
    plan.seeds = 3;
    let results = play(&plan);
    let [jsq, random] = &results.scenarios[0].rules[..] else { panic!("two rules") };
    assert_eq!((jsq.replicates.len(), jsq.replicates[0].seeds), (4, 3));
    plan.seeds = 1;
    let one = play(&plan);
    let first = |results: &Results, rule: usize| results.scenarios[0].rules[rule].replicates[0].tokens_per_s;
    assert!((first(&one, 0) - jsq.replicates[0].tokens_per_s).abs() < 1e-9, "the same run three times");
    assert!((first(&one, 1) - random.replicates[0].tokens_per_s).abs() > 1e-9, "three runs");
}

#[test]
fn the_largest_rate_is_looked_for_between_rates() {
    let mut plan =
        plan(trace(1_800), &["jsq", "level"], &[RateAsked::OfCapacity(0.4), RateAsked::OfCapacity(1.6)]);
    plan.limits = Some("tpot=8.5ms,share=90%".parse().expect("limits"));
    let coarse = play(&plan);
    plan.refinements = 3;
    let fine = play(&plan);
    assert!(fine.complete && fine.runs_done == fine.runs_planned);
    let rates: Vec<f64> = fine.scenarios.iter().map(|scenario| scenario.rate.requests_per_s).collect();
    assert!(rates.is_sorted() && rates.len() >= 5, "{rates:?}");
    for (coarse, fine) in coarse.largest_rates[0].rules.iter().zip(&fine.largest_rates[0].rules) {
        let [(low, high), (finer_low, finer_high)] =
            [coarse, fine].map(|rate| rate.between.expect("limits that stop being kept"));
        assert!(low <= finer_low && finer_high <= high, "{coarse:?} {fine:?}");
        assert!((finer_high - finer_low) * 7.9 <= high - low, "{coarse:?} {fine:?}");
    }
}

#[test]
fn an_interrupted_evaluation_keeps_what_is_done() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = Folder::create(place.path()).expect("writable");
    let mut two = plan(trace(300), &["today=jsq", "level"], &[RateAsked::OfCapacity(0.9)]);
    two.gates = vec!["tok/s>=-50%".parse().expect("a gate")];
    // Long enough that it is not done when the first is seen to be.
    two.sources.push(TrialSource { source: trace(300_000), path: None, sha256: None });
    let stop = AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !folder.results_file().exists() {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
        });
        play_with(&two, 1, Some(&folder), &stop)
    });
    assert!(!results.complete && results.runs_done >= 8 && results.runs_done < 16, "{}", results.runs_done);
    assert!(results.scenarios[0].complete && results.scenarios[0].rules[1].replicates.len() == 4);
    assert!(results.sentences[0].starts_with("Of 16 runs "));
    assert!(!results.gate[0].holds, "what was not played does not pass");
    let text = std::fs::read_to_string(folder.results_file()).expect("written");
    let written: Results = serde_json::from_str(&text).expect("results");
    assert_eq!((written.complete, written.runs_done), (false, results.runs_done));
}

#[test]
fn gates_hold_or_do_not() {
    let mut plan = plan(trace(900), &["today=jsq", "level"], &RATES);
    plan.gates = ["tok/s>=-20%", "level:imbalance<=-99%"].map(|gate| gate.parse().expect("a gate")).to_vec();
    let results = play(&plan);
    assert_eq!(results.gate.iter().map(|gate| gate.holds).collect::<Vec<_>>(), [true, false]);
    assert_eq!(results.gate[1].failures.len(), 2, "{:?}", results.gate[1]);
    assert!(
        results.gate[1].failures[0].starts_with("s000, 4 workers x 6 slots at own rate: level imbalance")
    );
}

#[test]
fn plans_that_cannot_be_played_are_refused() {
    let refused = |change: fn(&mut Plan)| {
        let mut plan = plan(trace(50), &["jsq", "level"], &RATES);
        change(&mut plan);
        let playing = Playing {
            folder: None,
            threads: 1,
            stop: &AtomicBool::new(false),
            progress: false,
            command: String::new(),
            quick: false,
        };
        evaluate(&plan, &playing).map(|results| results.runs_done).expect_err("refused").to_string()
    };
    assert!(refused(|plan| plan.windows = 0).starts_with("windows: expected"));
    assert!(refused(|plan| plan.workers = vec![0]).starts_with("workers: expected"));
    assert!(refused(|plan| plan.workers.clear()).starts_with("workers: expected"));
    assert!(refused(|plan| plan.slots.clear()).starts_with("slots: expected"));
    assert!(refused(|plan| plan.requests = Some(2)).starts_with("requests: expected"));
    assert!(refused(|plan| plan.model.kv_capacity_tokens = Some(3)).contains("no request of trace fits"));
    let alone = refused(|plan| {
        plan.rules.truncate(1);
        plan.gates = vec!["tok/s>=-1%".parse().expect("a gate")];
    });
    assert!(alone.starts_with("gate: expected a second rule"), "{alone}");
    let other = refused(|plan| plan.gates = vec!["exact:tok/s>=-1%".parse().expect("a gate")]);
    assert!(other.starts_with("gate: expected a rule of level"), "{other}");
}

#[test]
fn rules_are_policies_under_names() {
    let asked = |text: &[&str]| rules(&text.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    let found = asked(&["today=vllm", "level", "b = br0"]).expect("rules");
    let found: Vec<(&str, &str)> =
        found.iter().map(|rule| (rule.name.as_str(), rule.policy.as_str())).collect();
    assert_eq!(found, [("today", "vllm-0.33"), ("level", "level"), ("b", "br0")]);
    for text in [&["levle"][..], &["level", "level"], &["=level"], &["today="], &[]] {
        let error = asked(text).expect_err("refused").to_string();
        assert!(error.starts_with("rules: expected "), "{error}");
    }
}

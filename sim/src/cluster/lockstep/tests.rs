//! Runs small enough to be worked out by hand, and what holds of every run.

use std::sync::Arc;

use balanceroute::{Admission, Assignment, Batch, Needs, WorkerIndex};

use super::*;
use crate::cluster::{PrefixModel, Source, StepCost};
use crate::traces::Trace;
use crate::workloads::Workload;

/// First come, onto the least loaded worker with a slot and room.
struct FirstCome;

impl Policy for FirstCome {
    fn name(&self) -> &'static str {
        "first-come"
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        out.clear();
        let mut workers = batch.workers().to_vec();
        for (slot, request, _) in batch.waiting().iter() {
            let needs = i64::from(request.prompt_tokens) + i64::from(batch.request_growth_tokens());
            let open = workers
                .iter_mut()
                .enumerate()
                .filter(|(_, worker)| worker.free_slots > 0 && worker.room_tokens() >= needs)
                .min_by_key(|(_, worker)| worker.load_tokens);
            let Some((index, worker)) = open else { continue };
            worker.free_slots -= 1;
            worker.load_tokens += u64::from(request.prompt_tokens);
            worker.kv_used_tokens += u64::from(request.prompt_tokens);
            worker.kv_growth_tokens += u64::from(batch.request_growth_tokens());
            out.admitted.push(Admission {
                id: request.id,
                slot,
                worker: WorkerIndex::at(index),
                prompt_tokens: request.prompt_tokens,
                score_tokens: 0.0,
            });
        }
    }

    fn needs(&self) -> Needs {
        Needs::new()
    }
}

fn trace(rows: &[(f64, u32, u32)]) -> Source {
    Source::Trace(Arc::new(Trace {
        name: "rows".to_owned(),
        format: "azure",
        jobs: rows.iter().map(|&(_, prompt, output)| Job::new(prompt, output)).collect(),
        arrival_s: rows.iter().map(|&(at_s, ..)| at_s).collect(),
        skipped_rows: 0,
        filtered_rows: 0,
    }))
}

fn play(scenario: &Scenario, seed: u64) -> Run {
    let library = Library::new(&scenario.source);
    let cluster = Cluster::new(scenario, &library, Box::new(FirstCome), None, seed, None).expect("valid");
    cluster.run().expect("it ends")
}

fn assert_accounted(run: &Run) {
    let known = run.requests_done + run.requests_waiting + run.requests_active + run.requests_refused;
    assert_eq!(run.requests_in, known + run.requests_lost);
    assert_eq!(run.requests_lost, 0);
}

#[test]
fn three_steps_by_hand() {
    // Loads after admission: (10, 4 + 6), (11, 5 + 2), (0, 6); a step lasts 1 ms and 1 ms per token of the
    // greater.
    let scenario = Scenario {
        source: trace(&[(0.0, 10, 2), (0.0, 4, 3), (0.0, 6, 1), (0.005, 2, 1)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 2,
        slots: 2,
        steps: None,
        warmup: 0,
        cost: StepCost { base_ms: 1.0, us_per_token: 1000.0 },
        ..Scenario::default()
    };
    let run = play(&scenario, 0);
    assert_accounted(&run);
    assert_eq!((run.steps, run.requests_in, run.requests_done), (3, 4, 4));
    let near = |found: f64, expected: f64| {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    };
    near(run.imbalance_mean, (0.0 + 4.0 + 6.0) / 3.0);
    near(run.imbalance_max_min_mean, (0.0 + 4.0 + 6.0) / 3.0);
    near(run.imbalance_norm_mean, (0.0 + 2.0 / 11.0 + 0.5) / 3.0);
    // 11 + 12 + 7 ms; level loads would take 11 + 10 + 4.
    near(run.tokens_per_s, 7.0 / 0.030);
    near(run.balanced_fraction, 25.0 / 30.0);
    near(run.empty_slot_fraction, (0.25 + 0.25 + 0.75) / 3.0);
    // 23 ms for 2 tokens, 30 for 3, 11 for 1, 12 for 1.
    near(run.tpot_ms.mean, (11.5 + 10.0 + 11.0 + 12.0) / 4.0);
    near(run.tpot_ms.p50, 11.0);
    near(run.tpot_ms.p99, 12.0);
    // The last came 5 ms into a step of 11.
    near(run.wait_ms.p99, 6.0);
    near(run.wait_ms.mean, 1.5);
    assert_eq!(run.wait_steps.max, 0);
    // E[output] = 7 / 4, H_2 - 1 = 1 / 2.
    near(run.bound_imbalance, 1.75);
}

#[test]
fn prompt_tokens_that_are_not_cached_hold_up_the_step() {
    let job = Job { prefix_blocks: Some(Arc::from([1, 2])), ..Job::new(1_000, 1) };
    let Source::Trace(trace) = trace(&[(0.0, 1, 1), (1.0, 1, 1)]) else { unreachable!("a trace") };
    let scenario = Scenario {
        source: Source::Trace(Arc::new(Trace { jobs: vec![job; 2], ..(*trace).clone() })),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 2,
        slots: 1,
        steps: None,
        warmup: 0,
        cost: StepCost { base_ms: 1.0, us_per_token: 0.0 },
        prefix: PrefixModel { cache_blocks: 8 },
        prefill_us_per_token: Some(10.0),
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    let cluster = Cluster::new(&scenario, &library, Box::new(FirstCome), Some(0.0), 0, None).expect("valid");
    let run = cluster.run().expect("it ends");
    // 11 ms for the first, 1 ms for the second, which finds both blocks; perfect balance halves the 10 ms.
    assert_eq!((run.requests_done, run.cached_token_share), (2, Some(0.5)));
    approx::assert_abs_diff_eq!(run.tokens_per_s, 2.0 / 1.001, epsilon = 1e-9);
    approx::assert_abs_diff_eq!(run.balanced_fraction, 7.0 / 12.0, epsilon = 1e-9);
}

#[test]
fn an_idle_cluster_lets_time_pass_without_steps() {
    let scenario = Scenario {
        source: trace(&[(0.0, 10, 2), (60.0, 10, 2)]),
        arrivals: Arrivals::Trace { rate_scale: 2.0 },
        steps: None,
        warmup: 0,
        ..Scenario::default()
    };
    let run = play(&scenario, 0);
    assert_eq!((run.steps, run.requests_done), (4, 2));
    assert!((0.13..0.134).contains(&run.tokens_per_s), "{}", run.tokens_per_s);
    assert!(run.wait_ms.p99 < 1e-6);
}

#[test]
fn a_full_cache_sends_the_newest_back_and_loses_nobody() {
    for cold_start in [false, true] {
        let scenario = Scenario {
            workers: 4,
            slots: 32,
            pool: 16,
            kv_capacity_tokens: Some(40_000),
            headroom_steps: 8,
            steps: Some(3_000),
            warmup: 500,
            cold_start,
            ..Scenario::default()
        };
        let run = play(&scenario, 1);
        assert_accounted(&run);
        assert!(run.preemptions > 0 && run.requests_done > 50, "{run:?}");
    }
}

#[test]
fn every_request_of_an_open_run_ends_even_through_evictions() {
    let jobs = Workload::Lognormal.sample(1, 400);
    let rows: Vec<(f64, u32, u32)> = jobs
        .iter()
        .enumerate()
        .map(|(at, job)| (at as f64 * 0.01, job.prompt_tokens, job.output_tokens))
        .collect();
    let scenario = Scenario {
        source: trace(&rows),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 2,
        slots: 16,
        steps: None,
        warmup: 0,
        kv_capacity_tokens: Some(12_000),
        headroom_steps: 0,
        ..Scenario::default()
    };
    let run = play(&scenario, 0);
    assert_accounted(&run);
    assert_eq!(run.requests_done + run.requests_refused, 400);
    assert!(run.preemptions > 0);
    // What was generated before an eviction is not generated again: 400 outputs, no more.
    let refused: u64 = jobs
        .iter()
        .filter(|job| job.prompt_tokens + job.output_tokens > 12_000)
        .map(|job| u64::from(job.output_tokens))
        .sum();
    let outputs: u64 = jobs.iter().map(|job| u64::from(job.output_tokens)).sum();
    assert_eq!(refused, 0, "the seed has no such request");
    let generated = run.tokens_per_s * elapsed_s(&scenario, &run);
    assert!((generated - outputs as f64).abs() < 1.0, "{generated} of {outputs}");
}

/// Simulated seconds of a run, from its own sums.
fn elapsed_s(scenario: &Scenario, run: &Run) -> f64 {
    let library = Library::new(&scenario.source);
    let mut cluster =
        Cluster::new(scenario, &library, Box::new(FirstCome), None, run.seed, None).expect("valid");
    while cluster.play_step(|_| {}).expect("valid") {}
    cluster.now_ms / 1e3
}

#[test]
fn a_request_that_can_never_fit_is_refused_and_does_not_spin() {
    let scenario = Scenario {
        source: trace(&[(0.0, 10, 2), (0.0, 90, 20), (0.0, 10, 2)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        steps: None,
        warmup: 0,
        kv_capacity_tokens: Some(100),
        headroom_steps: 1,
        ..Scenario::default()
    };
    let run = play(&scenario, 0);
    assert_accounted(&run);
    assert_eq!((run.requests_in, run.requests_done, run.requests_refused), (3, 2, 1));

    let closed =
        Scenario { arrivals: Arrivals::Closed, kv_capacity_tokens: Some(5), steps: Some(10), ..scenario };
    let library = Library::new(&closed.source);
    let cluster = Cluster::new(&closed, &library, Box::new(FirstCome), None, 0, None).expect("valid");
    assert!(matches!(cluster.run(), Err(SimError::NothingFits { .. })));
}

#[test]
fn a_closed_run_starts_near_its_steady_state() {
    let window = |warmup, cold_start| {
        let scenario = Scenario { warmup, steps: Some(1_000), cold_start, ..Scenario::default() };
        (0..16).map(|seed| play(&scenario, seed).tokens_per_s).sum::<f64>() / 16.0
    };
    let (steady, start, cold) = (window(8_000, false), window(0, false), window(0, true));
    assert!((start / steady - 1.0).abs() < 0.02, "{start} at the start, {steady} later");
    assert!(cold / steady > 1.03, "an empty start is lighter: {cold} against {steady}");
}

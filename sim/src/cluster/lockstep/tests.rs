//! Runs small enough to be worked out by hand, and what holds of every run.

use std::collections::BTreeSet;
use std::sync::Arc;

use balanceroute::policy::Policy;
use balanceroute::{Admission, Assignment, Batch, Needs, WorkerIndex};

use super::*;
use crate::cluster::{Capacity, PrefixModel, Prompts, Source, StepCost};
use crate::traces::{Trace, Turn};
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
        ..Trace::default()
    }))
}

/// Every step lasts a millisecond.
fn one_ms() -> StepCost {
    StepCost { base_ms: 1.0, us_per_token: 0.0, ..StepCost::published(1) }
}

fn play(scenario: &Scenario, seed: u64) -> Run {
    let library = Library::new(&scenario.source);
    let cluster = Cluster::new(scenario, &library, Box::new(FirstCome), None, seed, None).expect("valid");
    cluster.run_seen(&mut ()).expect("it ends")
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
        cost: StepCost { base_ms: 1.0, us_per_token: 1000.0, ..StepCost::published(1) },
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
    // The steps end at 11, 23 and 30 ms.
    near(run.ttft_ms.mean, (11.0 + 11.0 + 11.0 + 18.0) / 4.0);
    near(run.e2e_ms.mean, (23.0 + 30.0 + 11.0 + 18.0) / 4.0);
    near(run.e2e_ms.p99, 30.0);
    // The last came 5 ms into a step of 11.
    near(run.wait_ms.p99, 6.0);
    near(run.wait_ms.mean, 1.5);
    assert_eq!(run.wait_steps.max, 0);
    // E[output] = 7 / 4, H_2 - 1 = 1 / 2.
    near(run.bound_imbalance, 1.75);
}

#[test]
fn requests_and_prompts_cost_by_hand() {
    // Loads after admission: (10, 4 + 6), (11, 5 + 2), (0, 6), of one and two, one and two, and one request:
    // so 11, 11.5 and 6.5 ms beside the base. Prompts of 10 tokens at most in the first step, 2 in the
    // second.
    let mut scenario = Scenario {
        source: trace(&[(0.0, 10, 2), (0.0, 4, 3), (0.0, 6, 1), (0.005, 2, 1)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 2,
        slots: 2,
        steps: None,
        warmup: 0,
        cost: StepCost {
            base_ms: 1.0,
            us_per_request: 500.0,
            us_per_token: 1000.0,
            prefill_us_per_token: Some(100.0),
            prompts: Prompts::Worker,
        },
        ..Scenario::default()
    };
    let run = play(&scenario, 0);
    let near = |found: f64, expected: f64| approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-9);
    let ends = [13.0, 25.7, 33.2];
    near(run.tokens_per_s, 7.0 / 0.0332);
    near(run.ttft_ms.mean, (3.0 * ends[0] + ends[1] - 5.0) / 4.0);
    near(run.e2e_ms.mean, (ends[1] + ends[2] + ends[0] + ends[1] - 5.0) / 4.0);
    // Level: 10 + 0.75, 9 + 0.75 and 3 + 0.25 ms; 10 and 1 prompt tokens a worker.
    near(run.balanced_fraction, (3.0 + 23.75 + 1.1) / ends[2]);
    scenario.cost.prompts = Prompts::Elsewhere;
    near(play(&scenario, 0).tokens_per_s, 7.0 / 0.032);
    // The first worker takes twice as long.
    scenario.weights = vec![2.0, 1.0];
    near(play(&scenario, 0).tokens_per_s, 7.0 / (0.003 + 0.021 + 0.023 + 0.0065));
}

/// A closed run starts with requests that already run: when those came is not known.
#[test]
fn only_who_arrived_has_a_time_since_arrival() {
    let scenario =
        Scenario { steps: Some(400), warmup: 0, workers: 2, slots: 8, pool: 2, ..Scenario::default() };
    let run = play(&scenario, 0);
    assert!(run.requests_done > 0 && run.tpot_ms.p99 > 0.0 && run.ttft_ms.p99 > 0.0);
    // An output has 1,200 tokens on average, and 400 steps take 2 s.
    assert!(run.e2e_ms.p99 < 2_500.0, "{:?}", run.e2e_ms);
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
        cost: StepCost { prefill_us_per_token: Some(10.0), ..one_ms() },
        prefix: PrefixModel { cache_blocks: 8 },
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    let cluster = Cluster::new(&scenario, &library, Box::new(FirstCome), Some(0.0), 0, None).expect("valid");
    let run = cluster.run_seen(&mut ()).expect("it ends");
    // 11 ms for the first, 1 ms for the second, which finds both blocks; perfect balance halves the 10 ms.
    assert_eq!((run.requests_done, run.cached_token_share), (2, Some(0.5)));
    approx::assert_abs_diff_eq!(run.tokens_per_s, 2.0 / 1.001, epsilon = 1e-9);
    approx::assert_abs_diff_eq!(run.balanced_fraction, 7.0 / 12.0, epsilon = 1e-9);
}

/// One worker with two slots and room for 23 tokens, where a step lasts 1 ms: A and B come with 10 tokens
/// and want 4, C comes at 2 ms with one and wants one.
fn one_eviction(prefill_us_per_token: Option<f64>) -> Run {
    let scenario = Scenario {
        source: trace(&[(0.0, 10, 4), (0.0, 10, 4), (0.002, 1, 1)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 1,
        slots: 2,
        steps: None,
        warmup: 0,
        kv_capacity_tokens: Some(23),
        headroom_steps: Some(0),
        cost: StepCost { prefill_us_per_token, ..one_ms() },
        ..Scenario::default()
    };
    play(&scenario, 0)
}

#[test]
fn a_preempted_request_pays_its_prefill_when_it_returns() {
    // Loads after each step: 22, then 24: B leaves with two tokens generated. C passes it in the third step;
    // A's fourth token is sent in the fourth. B enters the fifth with 12 tokens, which are computed again,
    // and ends with the sixth.
    let run = one_eviction(Some(100.0));
    assert_accounted(&run);
    assert_eq!((run.steps, run.requests_done, run.preemptions, run.passed_max), (6, 3, 1, 1));
    let near = |found: f64, expected: f64| approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-9);
    // 6 ms and 12 tokens of 0.1 ms, for nine tokens and three requests.
    near(run.tokens_per_s, 9.0 / 0.0072);
    near(run.requests_per_s, 3.0 / 0.0072);
    near(run.preempted_per_finished, 1.0 / 3.0);
    // The time in the pool and the prefill count for B: 7.2 ms for four tokens, 1 ms a token for A and C.
    near(run.tpot_ms.mean, (1.0 + 1.0 + 1.8) / 3.0);
    // B waited again for the steps 2 and 3, until 4 ms. Prompts of 10 are in the second quarter of these.
    assert_eq!((run.wait_steps.max, run.wait_by_length[1].steps_max, run.admissions_max), (2, 2, 2));
    assert_eq!(run.wait_by_length.map(|quarter| quarter.admissions), [1, 3, 0, 0]);
    near(run.wait_ms.max, 2.0);
    // Where nothing is said, 10 us.
    near(one_eviction(None).tokens_per_s, 9.0 / 0.00612);
    near(one_eviction(Some(0.0)).tokens_per_s, 9.0 / 0.006);
}

#[test]
fn a_first_admission_pays_prefill_with_prefix_caches_only() {
    let scenario = Scenario {
        source: trace(&[(0.0, 1_000, 2)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        steps: None,
        warmup: 0,
        kv_capacity_tokens: Some(2_000),
        cost: one_ms(),
        ..Scenario::default()
    };
    approx::assert_abs_diff_eq!(play(&scenario, 0).tokens_per_s, 1_000.0, epsilon = 1e-9);
    let library = Library::new(&scenario.source);
    let cluster = Cluster::new(&scenario, &library, Box::new(FirstCome), Some(0.0), 0, None).expect("valid");
    // 10 ms of prefill for two tokens in 2 ms.
    let run = cluster.run_seen(&mut ()).expect("it ends");
    approx::assert_abs_diff_eq!(run.tokens_per_s, 2.0 / 0.012, epsilon = 1e-9);
}

/// Admits the newest first.
struct LastCome;

impl Policy for LastCome {
    fn name(&self) -> &'static str {
        "last-come"
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        out.clear();
        let mut free: Vec<u32> = batch.workers().iter().map(|worker| worker.free_slots).collect();
        let mut waiting: Vec<_> = batch.waiting().iter().collect();
        waiting.sort_by_key(|(_, request, _)| std::cmp::Reverse(request.id));
        for (slot, request, _) in waiting {
            let Some(worker) = free.iter().position(|&slots| slots > 0) else { break };
            free[worker] -= 1;
            out.admitted.push(Admission {
                id: request.id,
                slot,
                worker: WorkerIndex::at(worker),
                prompt_tokens: request.prompt_tokens,
                score_tokens: 0.0,
            });
        }
    }

    fn needs(&self) -> Needs {
        Needs::new()
    }
}

#[test]
fn passed_max_is_counted_from_what_the_policy_does() {
    // One slot, outputs of one token, 1 ms a step. At 0 ms come 0, 1 and 2: 2 enters; then 3, which comes at
    // 1 ms, and 4, which comes at 2 ms. They pass 1 and 0, which enter last, in this order.
    let scenario = Scenario {
        source: trace(&[(0.0, 5, 1), (0.0, 5, 1), (0.0, 5, 1), (0.001, 5, 1), (0.002, 5, 1)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 1,
        slots: 1,
        steps: None,
        warmup: 0,
        cost: one_ms(),
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    let played = |scenario: &Scenario, policy: Box<dyn Policy>| {
        Cluster::new(scenario, &library, policy, None, 0, None)
            .expect("valid")
            .run_seen(&mut ())
            .expect("it ends")
    };
    let run = played(&scenario, Box::new(LastCome));
    assert_eq!((run.requests_done, run.passed_max, run.wait_steps.max), (5, 4, 4));
    assert_eq!(played(&scenario, Box::new(FirstCome)).passed_max, 0);
    // Who still waits at the end counts: after three steps 0 and 1 have been passed by three.
    let cut = Scenario { steps: Some(3), ..scenario };
    assert_eq!(played(&cut, Box::new(LastCome)).passed_max, 3);
}

#[test]
fn a_window_measures_its_own_steps_and_requests() {
    // A 64th of a second is 15.625 ms: one request each, 1 ms a step. Three spans: two windows, each led in
    // by the span before it.
    let at = |index: f64| index / 64.0;
    let scenario = Scenario {
        source: trace(&[(at(0.0), 5, 3), (at(1.0), 5, 20), (at(2.0), 5, 3), (at(3.0), 5, 3)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 1,
        slots: 2,
        steps: None,
        warmup: 0,
        windows: 2,
        cost: one_ms(),
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    let window = |index| {
        let cluster = Cluster::new(&scenario, &library, Box::new(FirstCome), None, 0, Some(index));
        cluster.expect("valid").run_seen(&mut ()).expect("it ends")
    };
    let near = |found: f64, expected: f64| approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-9);

    // The second request begins with the window and decodes through its 16 steps; the run goes on until it
    // has finished, with the third beside it, and ends as the fourth comes.
    let first = window(0);
    assert_accounted(&first);
    assert_eq!((first.window, first.steps, first.requests_in, first.requests_done), (Some(0), 16, 4, 3));
    near(first.tokens_per_s, 16.0 * 64.0);
    near(first.requests_per_s, 0.0);
    assert_eq!(first.wait_by_length[0].admissions, 1);

    // The second leads in and still runs: four tokens of its, three of the third, which came 0.375 ms before
    // a step.
    let second = window(1);
    assert_eq!((second.steps, second.requests_in, second.requests_done), (4, 3, 2));
    near(second.tokens_per_s, 7.0 * 64.0);
    near(second.requests_per_s, 2.0 * 64.0);
    near(second.wait_ms.max, 0.375);
    near(second.tpot_ms.mean, 1.0);
}

#[test]
fn a_workload_turns_in_the_middle_of_the_measured_steps() {
    let scenario = Scenario {
        source: Source::Workload(Workload::ChatToReasoning),
        steps: Some(1_000),
        warmup: 500,
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    let mut cluster = Cluster::new(&scenario, &library, Box::new(FirstCome), None, 3, None).expect("valid");
    for _ in 0..1_500 {
        assert!(cluster.play_step(&mut ()).expect("valid"));
    }
    // Outputs above 4,000 tokens: half of the reasoning ones, none of these chats.
    let long = |life: &&Life| life.output_tokens > 4_000;
    let (before, after): (Vec<&Life>, Vec<&Life>) =
        cluster.lives.iter().partition(|life| life.waits_since < 1_000);
    assert!(before.len() > 1_000 && after.len() > 200, "{} and {}", before.len(), after.len());
    assert_eq!(before.iter().copied().filter(long).count(), 0);
    let share = after.iter().copied().filter(long).count() as f64 / after.len() as f64;
    assert!((0.4..0.6).contains(&share), "{share}");
}

#[test]
fn one_long_request_comes_in_its_time() {
    let scenario = Scenario {
        source: Source::Workload(Workload::LongAmongShort),
        workers: 4,
        slots: 64,
        steps: Some(2_100),
        warmup: 0,
        cold_start: true,
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    let mut cluster = Cluster::new(&scenario, &library, Box::new(FirstCome), None, 3, None).expect("valid");
    for _ in 0..2_100 {
        assert!(cluster.play_step(&mut ()).expect("valid"));
    }
    let long: Vec<&Life> = cluster.lives.iter().filter(|life| life.prompt_tokens > 2_500).collect();
    assert_eq!(long.len(), 1);
    assert_eq!((long[0].prompt_tokens, long[0].output_tokens), (60_000, 100));
    assert!((2_000..2_010).contains(&long[0].waits_since), "{}", long[0].waits_since);
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
            headroom_steps: Some(8),
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
fn room_as_it_is_learned_spares_evictions_and_fills_the_cache_all_the_same() {
    let of = |headroom_steps| {
        let scenario = Scenario {
            workers: 2,
            kv_capacity_tokens: Some(250_000),
            headroom_steps,
            steps: Some(4_000),
            ..Scenario::default()
        };
        play(&scenario, 0)
    };
    let (learned, fixed, wide) = (of(None), of(Some(32)), of(Some(256)));
    assert!(3 * learned.preemptions < fixed.preemptions, "{learned:?} {fixed:?}");
    assert!(learned.empty_slot_fraction < wide.empty_slot_fraction, "{learned:?} {wide:?}");
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
        headroom_steps: Some(0),
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
    while cluster.play_step(&mut ()).expect("valid") {}
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
        headroom_steps: Some(1),
        ..Scenario::default()
    };
    let run = play(&scenario, 0);
    assert_accounted(&run);
    assert_eq!((run.requests_in, run.requests_done, run.requests_refused), (3, 2, 1));

    let closed =
        Scenario { arrivals: Arrivals::Closed, kv_capacity_tokens: Some(5), steps: Some(10), ..scenario };
    let library = Library::new(&closed.source);
    let cluster = Cluster::new(&closed, &library, Box::new(FirstCome), None, 0, None).expect("valid");
    assert!(matches!(cluster.run_seen(&mut ()), Err(SimError::NothingFits { .. })));
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

#[test]
fn a_full_cluster_serves_its_capacity() {
    let rows: Vec<(f64, u32, u32)> =
        (0..997u32).map(|at| (0.0, 100 + at * 389 % 1_500, 5 + at * at % 97)).collect();
    let mut scenario = Scenario {
        source: trace(&rows),
        workers: 4,
        slots: 16,
        steps: Some(20_000),
        warmup: 500,
        cost: StepCost { prefill_us_per_token: Some(0.0), ..StepCost::published(72) },
        ..Scenario::default()
    };
    let mut served = |kv_capacity_tokens, headroom_steps, weights| {
        (scenario.kv_capacity_tokens, scenario.headroom_steps) = (kv_capacity_tokens, headroom_steps);
        scenario.weights = weights;
        let library = Library::new(&scenario.source);
        let policy = scenario.build("level", 0).expect("a policy");
        let run = Cluster::new(&scenario, &library, policy, None, 0, None).expect("valid").run_seen(&mut ());
        let run = run.expect("it ends");
        let capacity = Capacity::of(&scenario).expect("requests");
        run.requests_per_s / capacity.requests_per_s / run.balanced_fraction
    };
    // What is lost to imbalance is known, and nothing else is lost.
    for weights in [Vec::new(), vec![1.0, 1.0, 1.5, 1.0]] {
        let share = served(None, None, weights);
        assert!((share - 1.0).abs() < 0.005, "{share}");
    }
    // A cache holds whole requests only, and evicted ones begin anew.
    let share = served(Some(8_000), Some(0), Vec::new());
    assert!((0.96..1.0).contains(&share), "{share}");
}

#[test]
fn a_turn_arrives_when_the_one_before_has_ended() {
    let Source::Trace(rows) = trace(&[(0.0, 10, 3), (0.001, 5, 1), (0.002, 5, 1)]) else {
        unreachable!("a trace")
    };
    // A step lasts a millisecond. The second is a turn of the first and comes 4 ms after its end, the third
    // is a turn of the second, at once.
    let turns = vec![None, Some(Turn { after: 0, delay_s: 0.004 }), Some(Turn { after: 1, delay_s: 0.0 })];
    let scenario = |turns: &[Option<Turn>], rate_scale| Scenario {
        source: Source::Trace(Arc::new(Trace { turns: turns.to_vec(), ..(*rows).clone() })),
        arrivals: Arrivals::Trace { rate_scale },
        workers: 1,
        slots: 4,
        steps: None,
        warmup: 0,
        cost: one_ms(),
        ..Scenario::default()
    };
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
    let run = play(&scenario(&turns, 1.0), 0);
    assert_accounted(&run);
    // 3 steps, a pause of 4, two more: 5 tokens in 9 ms, and nobody waits.
    assert_eq!((run.steps, run.requests_done, run.wait_steps.max), (5, 3, 0));
    near(run.tokens_per_s, 5.0 / 0.009);
    // Twice as fast the pause is half as long. Without sessions all run at the same time.
    near(play(&scenario(&turns, 2.0), 0).tokens_per_s, 5.0 / 0.007);
    assert_eq!(play(&scenario(&[], 1.0), 0).steps, 3);

    // A turn that can never run ends at once for the next.
    let mut bound = scenario(&turns, 1.0);
    bound.kv_capacity_tokens = Some(12);
    bound.headroom_steps = Some(0);
    let run = play(&bound, 0);
    assert_accounted(&run);
    assert_eq!((run.requests_in, run.requests_refused, run.requests_done), (3, 1, 2));
}

#[test]
fn every_turn_enters_and_leaves_once_whatever_happens_to_it() {
    // Conversations of four turns on few slots, where the cache overflows, in windows, and past saturation.
    let rows: Vec<(f64, u32, u32)> =
        (0..400).map(|at| (f64::from(at) * 0.02, 50 + at * 7 % 90, 3 + at * 5 % 40)).collect();
    let turns = (0..400u32).map(|at| (at >= 100).then(|| Turn { after: at - 100, delay_s: 0.05 })).collect();
    let Source::Trace(trace) = trace(&rows) else { unreachable!("a trace") };
    let scenario = Scenario {
        source: Source::Trace(Arc::new(Trace { turns, ..(*trace).clone() })),
        arrivals: Arrivals::Trace { rate_scale: 4.0 },
        workers: 2,
        slots: 4,
        steps: None,
        warmup: 0,
        kv_capacity_tokens: Some(400),
        headroom_steps: Some(0),
        windows: 3,
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    for name in balanceroute::policy::NAMES {
        for window in [None, Some(0), Some(2)] {
            let policy = scenario.build(name, 0).expect("a policy");
            let run =
                Cluster::new(&scenario, &library, policy, None, 0, window).expect("valid").run_seen(&mut ());
            let run = run.expect("it ends");
            assert_accounted(&run);
            if window.is_none() {
                assert_eq!((run.requests_in, run.requests_done), (400, 400), "{name}");
            }
        }
    }
}

/// Every rule that is simulated only.
fn simulated_only() -> impl Iterator<Item = &'static str> {
    crate::rules::all().iter().filter(|rule| !rule.in_library).map(|rule| rule.name)
}

#[test]
fn rules_see_the_ranks_as_they_are() {
    let scenario = Scenario {
        workers: 3,
        slots: 6,
        pool: 9,
        warmup: 0,
        steps: Some(800),
        kv_capacity_tokens: Some(12_000),
        headroom_steps: Some(0),
        source: Source::Workload(Workload::LongAmongShort),
        ..Scenario::default()
    };
    let library = Library::new(&scenario.source);
    for name in simulated_only() {
        let rule = scenario.build(name, 1).expect("a rule");
        let mut cluster = Cluster::new(&scenario, &library, rule, None, 1, None).expect("valid");
        for _ in 0..800 {
            assert!(cluster.play_step(&mut ()).expect("a step"));
            let ranks = cluster.binding.as_ref().expect("a rule of the simulator").ranks();
            for (rank, seen) in ranks.iter().enumerate() {
                assert_eq!(seen.kv_tokens, cluster.loads[rank], "{name}");
                assert_eq!(seen.running as usize, cluster.residents[rank].len(), "{name}");
                let queued = |id: u64| {
                    let life = &cluster.lives[id as usize];
                    (life.worker as usize == rank).then_some(u64::from(life.prompt_tokens))
                };
                let waiting = cluster.router.pool().iter().filter_map(|(request, _)| queued(request.id.0));
                let (count, tokens) = waiting.fold((0, 0), |(count, sum), tokens| (count + 1, sum + tokens));
                assert_eq!((seen.queued, seen.queued_tokens), (count, tokens), "{name}");
            }
        }
        let run = cluster.close();
        assert_accounted(&run);
        assert!(run.preemptions > 5 && run.requests_done > 100, "{name}: {run:?}");
    }
}

#[test]
fn turns_of_a_session_stay_on_one_rank_of_a_ring() {
    let rows: Vec<(f64, u32, u32)> = (0..60).map(|at| (f64::from(at) * 0.02, 50, 3)).collect();
    let Source::Trace(trace) = trace(&rows) else { unreachable!("a trace") };
    let mut trace = (*trace).clone();
    for (at, job) in trace.jobs.iter_mut().enumerate() {
        job.session = Some(at as u64 % 6);
    }
    let scenario = Scenario {
        source: Source::Trace(Arc::new(trace)),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 4,
        slots: 8,
        steps: None,
        warmup: 0,
        cost: one_ms(),
        ..Scenario::default()
    };
    struct Ranks(Vec<BTreeSet<u32>>);
    impl Observer for Ranks {
        fn ended(&mut self, request: RequestSeen) {
            self.0[request.id as usize % 6].insert(request.worker);
        }
    }
    let library = Library::new(&scenario.source);
    let rule = scenario.build("hash-ring", 0).expect("a rule");
    let mut ranks = Ranks(vec![BTreeSet::new(); 6]);
    let cluster = Cluster::new(&scenario, &library, rule, None, 0, None).expect("valid");
    assert_eq!(cluster.run_seen(&mut ranks).expect("it ends").requests_done, 60);
    // Requests are alone on the cluster, so the longest queue is one above the rest and may shift once.
    let wandered = ranks.0.iter().filter(|ranks| ranks.len() > 2).count();
    let used: BTreeSet<u32> = ranks.0.iter().flatten().copied().collect();
    assert!(wandered == 0 && used.len() > 1, "{:?}", ranks.0);
}

#[test]
fn late_statistics_leave_slots_empty_or_show_old_ranks() {
    // One slot, steps of 1 ms: the second enters as soon as the router has heard of the first's end, after 2
    // ms of its own and 3 ms more.
    let scenario = |late_ms| Scenario {
        source: trace(&[(0.0, 10, 2), (0.0, 10, 2)]),
        arrivals: Arrivals::Trace { rate_scale: 1.0 },
        workers: 1,
        slots: 1,
        steps: None,
        warmup: 0,
        cost: one_ms(),
        stats_late_ms: late_ms,
        ..Scenario::default()
    };
    for (late_ms, waited_ms) in [(0.0, 2.0), (3.0, 5.0), (2.5, 5.0)] {
        let run = play(&scenario(late_ms), 0);
        assert_accounted(&run);
        approx::assert_abs_diff_eq!(run.wait_ms.max, waited_ms, epsilon = 1e-9);
    }

    // Four requests in two steps on two ranks. As they are, ranks get two each; seen late both are empty,
    // and the first rank gets all.
    let scenario = |late_ms| Scenario {
        source: trace(&[(0.0, 10, 9), (0.0015, 10, 9), (0.0016, 10, 9), (0.0025, 10, 9)]),
        workers: 2,
        slots: 4,
        ..scenario(late_ms)
    };
    struct Most(usize);
    impl Observer for Most {
        fn step(&mut self, step: StepSeen<'_>) {
            self.0 = self.0.max(step.loads.iter().filter(|&&load| load > 0).count());
        }
    }
    for (late_ms, used) in [(0.0, 2), (50.0, 1)] {
        for name in ["jsq", "llm-d"] {
            let scenario = scenario(late_ms);
            let library = Library::new(&scenario.source);
            let rule = scenario.build(name, 0).expect("a rule");
            let mut most = Most(0);
            let cluster = Cluster::new(&scenario, &library, rule, None, 0, None).expect("valid");
            assert_accounted(&cluster.run_seen(&mut most).expect("it ends"));
            // llm-d draws lots among equals.
            assert!(most.0 == used || name == "llm-d", "{name}, {late_ms} ms: {} ranks", most.0);
        }
    }
}

#[test]
fn ranks_that_are_shown_are_those_that_the_router_shows() {
    let closed = Scenario { steps: Some(300), warmup: 0, ..Scenario::default() };
    let bounded = Scenario { kv_capacity_tokens: Some(200_000), ..closed.clone() };
    for name in ["jsq", "vllm-legacy", "power-of-two", "sglang-total-tokens", "round-robin", "random"] {
        for scenario in [&closed, &bounded] {
            let library = Library::new(&scenario.source);
            let own = scenario.build(name, 0).expect("a rule");
            let shown = scenario.build(name, 0).expect("a rule");
            let parameters = scenario.parameters.clone().seed(0);
            let shown = shown.shown_ranks(&parameters).expect("a rule");
            assert!(own.chooser.is_none() && shown.chooser.is_some());
            let [own, shown] = [own, shown].map(|rule| {
                let run =
                    Cluster::new(scenario, &library, rule, None, 0, None).expect("valid").run_seen(&mut ());
                Run { decide_us: Default::default(), ..run.expect("it ends") }
            });
            assert_eq!(own, shown, "{name}");
        }
    }
}

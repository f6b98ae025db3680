//! Every policy answers what the oracle answers, pick for pick, on random and adversarial batches.

#[path = "support/parts.rs"]
mod parts;

use balanceroute::backend::BackendKind;
use balanceroute::backend::cpu::Isa;
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pool, PredictedEnd, Request, Traffic, WaitReason, Worker};
use half::f16;
use parts::Parts;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn lengths(tied: bool) -> BoxedStrategy<u32> {
    if tied { prop_oneof![Just(100u32), Just(200), 95..105u32].boxed() } else { (1..5000u32).boxed() }
}

/// How many wait, and below how many the free slots of a worker stay: mostly small, often one slot each, a
/// few large pools and a few bursts.
fn sizes() -> impl Strategy<Value = (usize, u32)> {
    prop_oneof![
        77 => (0..40usize, Just(5u32)),
        20 => (0..60usize, Just(2u32)),
        2 => (40..300usize, 1..4u32),
        1 => (20..120usize, 6..30u32),
    ]
}

fn worker(tied: bool, capacity: bool, weights: bool, free: u32) -> impl Strategy<Value = Worker> {
    let load = if tied { prop_oneof![Just(1000u64), 990..1010u64].boxed() } else { (0..200_000u64).boxed() };
    (load, 0..80u32, 0..free, 0..10u32, 0..6000u64, prop::option::of(1..400u32), 0..4u32).prop_map(
        move |(load, running, free, drain, spare, next, weight)| {
            let mut worker = Worker::new(load, running, free);
            worker.accepting = drain != 0;
            worker.next_completion_steps = next;
            if capacity {
                worker.kv_growth_tokens = spare / 4;
                worker.kv_capacity_tokens = Some(load + spare);
            }
            if weights {
                worker.weight = [1.0, 1.5, 0.25, 1.0][weight as usize];
            }
            worker
        },
    )
}

fn parts() -> impl Strategy<Value = Parts> {
    (1..9usize, sizes(), any::<[bool; 8]>()).prop_flat_map(|(g, (n, free), flags)| {
        let [tied, capacity, weights, pairs, horizon, old, few, bonuses_only] = flags;
        let weights = weights && pairs;
        let request = (lengths(tied), 0..if old { 3000u32 } else { 40 }, 0..12u32, 0..6u32);
        (
            prop::collection::vec(worker(tied, capacity, weights, free), g),
            prop::collection::vec(request, n),
            (0..4000i64, 0..3000i64, 0..1000i64, 0..2000i64),
            0..50u32,
            prop::collection::vec(0..60_000u64, if horizon { g * 5 } else { 0 }),
            prop::collection::vec(prop::collection::vec((1..300u32, 0..9000u64), 0..6), g),
            prop::collection::vec(
                match few {
                    false => prop_oneof![Just(0.0f32), -500.0..4000.0f32].boxed(),
                    true if bonuses_only => prop_oneof![7 => Just(0.0f32), 1 => 0.0..4000.0f32].boxed(),
                    true => prop_oneof![7 => Just(0.0f32), 1 => -500.0..4000.0f32].boxed(),
                },
                if pairs { 3 * g } else { 0 },
            ),
            prop::collection::vec(any::<u64>(), if pairs && !bonuses_only { 3 } else { 0 }),
        )
            .prop_map(move |(workers, requests, traffic, growth, rows, ends, bonus, eligible)| {
                let requests = requests
                    .into_iter()
                    .enumerate()
                    .map(|(id, (tokens, waited, deadline, pair))| {
                        let mut request = Request::new(id as u64 * 7, tokens).waited(waited).passed(waited);
                        if deadline == 0 {
                            request = request.deadline(30);
                        }
                        if pairs {
                            match pair {
                                0 | 4 if bonuses_only => {}
                                0 => request = request.bound_to((tokens as usize % g) as u32),
                                1..=3 => request = request.pairs(pair - 1),
                                4 if horizon => request = request.class((tokens % 3) as u8),
                                _ => {}
                            }
                        }
                        request
                    })
                    .collect();
                let mut offsets = vec![0];
                let mut flat = Vec::new();
                for mut worker in ends {
                    worker.sort_unstable();
                    flat.extend(
                        worker
                            .iter()
                            .map(|&(in_steps, freed_tokens)| PredictedEnd { in_steps, freed_tokens }),
                    );
                    offsets.push(flat.len() as u32);
                }
                let mut rows = rows;
                for (g, row) in rows.chunks_mut(5).enumerate() {
                    row[0] = workers[g].load_tokens;
                }
                Parts {
                    workers,
                    requests,
                    traffic: Traffic::new()
                        .prompts(traffic.0, traffic.1)
                        .small_prompts(traffic.2)
                        .outputs(traffic.3),
                    growth: if capacity { growth } else { 0 },
                    horizon: 4,
                    rows,
                    offsets,
                    ends: flat,
                    bonus_half: if tied {
                        bonus.iter().map(|&bonus| f16::from_f32(bonus)).collect()
                    } else {
                        vec![]
                    },
                    bonus: if tied { vec![] } else { bonus },
                    eligible,
                    classes: if pairs && horizon {
                        (0..15).map(|at| 1.0 - (at % 5) as f32 * [0.0, 0.11, 0.25][at / 5]).collect()
                    } else {
                        vec![]
                    },
                }
            })
    })
}

/// Columns of many runs: some hundred requests, mostly terms per pair, a horizon, short or long, and margins
/// that lie between the lengths.
fn long_parts() -> impl Strategy<Value = Parts> {
    (2..6usize, 120..420usize, any::<[bool; 6]>(), any::<u64>()).prop_map(|(g, n, flags, seed)| {
        let [tied, classes, masks, few, far, plain] = flags;
        let (classes, masks) = (classes && !plain, masks && !plain);
        let steps = if far { 12 } else { 5 };
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (longest, aged) = if tied { (12, 2) } else { (3000, 40) };
        let requests = (0..n as u64)
            .map(|id| {
                let request =
                    Request::new(id, 1 + rng.random_range(0..longest)).passed(rng.random_range(0..aged));
                match rng.random_range(if plain { 7 } else { 0 }..8) {
                    0..5 => request.pairs(rng.random_range(0..40)),
                    5 if classes => request.class(rng.random_range(0..3)),
                    6 if masks => request.bound_to(rng.random_range(0..g as u32)),
                    _ => request,
                }
            })
            .collect();
        let load = |rng: &mut ChaCha8Rng| 100_000 + u64::from(rng.random_range(0..longest));
        let workers: Vec<Worker> =
            (0..g).map(|_| Worker::new(load(rng), 20, rng.random_range(0..6))).collect();
        let mut rows: Vec<u64> = (0..steps * g).map(|_| load(rng)).collect();
        for (row, worker) in rows.chunks_mut(steps).zip(&workers) {
            row[0] = worker.load_tokens;
        }
        let often = if few { 20 } else { 2 };
        let bonus = (0..40 * g).map(|_| {
            if rng.random_range(0..often) == 0 { rng.random_range(0..longest) as f32 / 3.0 } else { 0.0 }
        });
        Parts {
            bonus: bonus.collect(),
            bonus_half: vec![],
            eligible: (0..if masks { 40 } else { 0 })
                .map(|_| rng.random::<u64>() | rng.random::<u64>())
                .collect(),
            classes: if classes {
                (0..3 * steps).map(|at| 1.0 - (at % steps) as f32 * [0.0, 0.03, 0.08][at / steps]).collect()
            } else {
                vec![]
            },
            requests,
            workers,
            rows,
            traffic: Traffic::new().prompts(1500, 700).small_prompts(300).outputs(300),
            growth: 0,
            horizon: steps - 1,
            offsets: vec![0; g + 1],
            ends: vec![],
        }
    })
}

/// More workers than a block has lanes, some with several free slots; loads that tie, that lie as lengths do,
/// or further apart than lanes hold.
fn wide_parts() -> impl Strategy<Value = Parts> {
    (9..70usize, 1..90usize, any::<[bool; 3]>(), 0..4usize, any::<u64>()).prop_map(
        |(g, n, [tied, bounded, light], spread, seed)| {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let longest = if tied { 9 } else { 5000 };
            let requests = (0..n as u64)
                .map(|id| Request::new(id, 1 + rng.random_range(0..longest)).passed(rng.random_range(0..40)))
                .collect();
            let spread = [3, 6000, 400_000, 1 << 29][spread];
            let workers: Vec<Worker> = (0..g)
                .map(|_| {
                    let free = rng.random_range(0..9u32).saturating_sub(6);
                    let load = 100_000 + rng.random_range(0..spread);
                    let worker = Worker::new(load, 20, free);
                    if bounded { worker.capacity(load + rng.random_range(0..9000)) } else { worker }
                })
                .collect();
            let mean = i64::from(longest) / 2;
            let outputs = if light { 4 * mean } else { mean / 9 };
            Parts {
                offsets: vec![0; g + 1],
                requests,
                workers,
                traffic: Traffic::new().prompts(mean, mean).small_prompts(1).outputs(outputs),
                ..Parts::default()
            }
        },
    )
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000)
}

fn agree(name: &str) {
    agree_with(name, &Parameters::default());
}

fn agree_with(name: &str, parameters: &Parameters) {
    let available: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    for &isa in &available {
        for backend in [BackendKind::Auto, BackendKind::Cpu] {
            // The slowest oracle bounds the time of a run, so the cases are shared out.
            let cases = cases() / available.len() as u32 / 2 + 1;
            agree_on(name, isa, cases, &parameters.clone().backend(backend));
        }
    }
}

fn agree_on(name: &str, isa: Isa, cases: u32, parameters: &Parameters) {
    agree_over(parts(), name, isa, cases, parameters);
}

fn agree_over(
    parts: impl Strategy<Value = Parts>,
    name: &str,
    isa: Isa,
    cases: u32,
    parameters: &Parameters,
) {
    println!("{name} on {isa}: {cases} cases");
    let mut config = ProptestConfig::with_cases(cases);
    config.failure_persistence = None;
    config.max_shrink_iters = 20_000;
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let mut fast = policy::build(name, &parameters.clone().isa(Some(isa))).expect("a policy");
    let by_reference = parameters.clone().backend(BackendKind::Reference);
    let mut slow = policy::build(name, &by_reference).expect("a policy");
    let scores = (std::cell::RefCell::new(Vec::new()), std::cell::RefCell::new(Vec::new()));
    let (fast, slow) = (std::cell::RefCell::new(&mut fast), std::cell::RefCell::new(&mut slow));
    runner
        .run(&parts, |parts| {
            // Some reach past the window of what is decided.
            let count = parts.requests.len();
            let pool = if count % 4 == 3 { parts.pool_of(count / 2 + 1) } else { parts.pool() };
            let batch = parts.batch(&pool);
            let (mut left, mut right) = (Assignment::new(), Assignment::new());
            fast.borrow_mut().decide(&batch, &mut left);
            slow.borrow_mut().decide(&batch, &mut right);
            prop_assert_eq!(&left, &right);
            if fast.borrow_mut().score_into(&batch, &mut scores.0.borrow_mut()) {
                slow.borrow_mut().score_into(&batch, &mut scores.1.borrow_mut());
                prop_assert_eq!(&scores.0, &scores.1);
            }
            check_promises(&batch, &left)?;
            if !["exact", "level", "rollout"].iter().any(|family| name.starts_with(family)) {
                // As published, and as in engines: whoever could still be placed is.
                let kept = |(id, reason)| match reason {
                    WaitReason::Deferred => true,
                    WaitReason::OutsideWindow => batch.slot_of(id).is_some(),
                    _ => false,
                };
                prop_assert!(!left.waiting(&batch).any(kept));
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{name} on {isa}: {error}"));
}

/// What holds for every answer of every policy.
fn check_promises(batch: &Batch<'_>, answer: &Assignment) -> Result<(), TestCaseError> {
    let mut seen = std::collections::HashSet::new();
    let mut slots: Vec<u32> = batch.workers().iter().map(Worker::open_slots).collect();
    let mut room: Vec<i64> = batch.workers().iter().map(Worker::room_tokens).collect();
    for admission in &answer.admitted {
        let worker = admission.worker.index();
        prop_assert!(seen.insert(admission.id), "{} twice", admission.id);
        prop_assert!(slots[worker] > 0, "no slot on {worker}");
        slots[worker] -= 1;
        let request = batch.waiting().request(admission.slot);
        prop_assert_eq!(request.id, admission.id);
        prop_assert!(batch.eligible(request, worker));
        room[worker] -= i64::from(request.prompt_tokens) + i64::from(batch.request_growth_tokens());
        prop_assert!(room[worker] >= 0, "no room on {worker}");
    }
    prop_assert_eq!(answer.admitted.len() + answer.waiting(batch).count(), batch.pool().len());
    prop_assert!(answer.waiting(batch).all(|(id, _)| !seen.contains(&id)));
    Ok(())
}

#[test]
fn few_may_pass() {
    for max_passed in [0, 7, 39] {
        let parameters = Parameters::new().max_passed(Some(max_passed));
        for name in ["level", "level-oracle", "exact"] {
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                agree_on(name, isa, cases() / 20 + 1, &parameters);
            }
        }
    }
}

#[test]
fn the_matrix_where_a_search_would_do() {
    let parameters = Parameters::new().backend(BackendKind::Cpu);
    for name in ["exact", "exact-oracle", "level"] {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            agree_on(name, isa, cases() / 5 + 1, &parameters);
        }
    }
}

#[test]
fn columns_of_many_runs() {
    for name in ["exact", "exact-survival", "exact-oracle", "brh-survival", "brh-oracle", "level"] {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for backend in [BackendKind::Auto, BackendKind::Cpu] {
                let parameters = Parameters::new().backend(backend);
                agree_over(long_parts(), name, isa, cases() / 100 + 1, &parameters);
            }
        }
    }
}

#[test]
fn more_workers_than_lanes() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        agree_over(wide_parts(), "level", isa, cases() / 50 + 1, &Parameters::default());
    }
}

/// Whether `exact-oracle` decides such a batch of six workers with two free slots each in the matrix; the
/// answer is the oracle's either way.
fn decided_dense(
    isa: Isa,
    (waiting, horizon): (u64, usize),
    aging: f64,
    weight: f32,
    search_by_length: bool,
) -> bool {
    let requests: Vec<Request> =
        (0..waiting).map(|id| Request::new(id, 1 + (id as u32 * 271) % 900).passed(id as u32 % 7)).collect();
    let workers: Vec<Worker> = (0..6)
        .map(|at| Worker::new(9_000 + 100 * at, 9, 2).weight(if at == 0 { weight } else { 1.0 }))
        .collect();
    let row = |(at, worker): (usize, &Worker)| -> Vec<u64> {
        (0..=horizon).map(|step| worker.load_tokens + (step * (at + 1) * 97 % 800) as u64).collect()
    };
    let rows: Vec<u64> = workers.iter().enumerate().flat_map(row).collect();
    let mut pool = Pool::with_window(requests.len());
    pool.refill(&requests).expect("valid");
    // Each that has passed one of six workers' requests is worth a 120th of the spread, and more.
    let traffic = Traffic::new().prompts(500, ((120.0 * aging) as i64).min(1 << 22));
    let batch =
        Batch::draft(&workers, &pool).traffic(traffic).projection(horizon, &rows).check().expect("valid");
    let mut parameters = Parameters::new().isa(Some(isa)).testing(search_by_length);
    (parameters.exact.horizon_steps, parameters.exact.gamma) = (100, 1.0);
    let mut policy = policy::build("exact-oracle", &parameters).expect("a policy");
    let (mut answer, mut expected) = (Assignment::new(), Assignment::new());
    policy.decide(&batch, &mut answer);
    // The oracle takes its time with thousands.
    if waiting < 1_000 {
        policy.decide_by_reference(&batch, &mut expected).expect("a rule");
        assert_eq!(answer, expected, "{waiting} {horizon} {aging} {weight}");
    }
    policy.dense_columns().0 > 0
}

/// Whoever looks far ahead is decided in the matrix, unless its lanes do not hold the batch: the answer is
/// the same.
#[test]
fn who_looks_far_is_decided_in_the_matrix() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        // Plain lanes gain later.
        let far = if matches!(isa, Isa::Avx2 | Isa::Avx512) { 8 } else { 23 };
        assert!(!decided_dense(isa, (300, far - 1), 2.0, 1.0, false));
        assert!(decided_dense(isa, (300, far), 2.0, 1.0, false));
        assert!(!decided_dense(isa, (300, far), 2.0, 1.0, true));
        assert!(!decided_dense(isa, (300, far), 1e5, 1.0, false));
        assert!(!decided_dense(isa, (300, 100), 2.0, 64.0, false));
        // Twelve slots: in a large pool few admissions do not earn what the matrix costs, unless each looks
        // further.
        assert!(!decided_dense(isa, (8_000, far), 2.0, 1.0, false));
        assert!(decided_dense(isa, (8_000, 40), 2.0, 1.0, false));
    }
}

macro_rules! policies {
    ($($test:ident $name:literal),* $(,)?) => {
        $(#[test] fn $test() { agree($name); })*

        #[test]
        fn every_policy_has_its_test() {
            let tested = [$($name),*];
            for name in policy::NAMES {
                assert!(tested.contains(name), "{name} has no differential test");
            }
        }
    };
}

policies! {
    random "random",
    round_robin "round-robin",
    power_of_two "power-of-two",
    jsq "jsq",
    vllm_legacy "vllm-legacy",
    vllm_0_33 "vllm-0.33",
    sglang_total_tokens "sglang-total-tokens",
    least_kv "least-kv",
    longest_first "longest-first",
    br0 "br0",
    brh_survival "brh-survival",
    brh_exactmatch "brh-exactmatch",
    brh_oracle "brh-oracle",
    exact "exact",
    exact_survival "exact-survival",
    exact_oracle "exact-oracle",
    level "level",
    level_exactmatch "level-exactmatch",
    level_oracle "level-oracle",
    rollout_oracle "rollout-oracle",
}

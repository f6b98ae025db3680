//! Rules of another crate, with any plan that a rule may make, on the fast engine and on the oracle: every
//! order, with and without subsets, ages, deadlines, bonuses, a judge and a repair.

#[path = "support/parts.rs"]
mod parts;

use balanceroute::backend::BackendKind;
use balanceroute::backend::cpu::Isa;
use balanceroute::policy::{
    self, Order, PairCost, Parameters, Pin, Plan, PolicyError, Repair, Rule, SubsetStage, View,
};
use balanceroute::score::{Age, Knot, Profile};
use balanceroute::{Assignment, Batch, Needs, Policy, Request, Traffic, WaitReason, Worker};
use parts::Parts;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A rule with a plan of anybody's: F with a slope and a weight of its own, and the judge that takes the
/// last.
#[derive(Clone, Debug)]
struct Own {
    plan: Plan,
    slope: i64,
    weight: i64,
    candidates: usize,
    /// Places in the pool and workers that requests are kept for; some twice, some that are not there.
    kept: [(usize, usize); 3],
    pins: Vec<Pin>,
}

impl Rule for Own {
    fn begin(&mut self, batch: &Batch<'_>, _: &mut Vec<i64>) -> Plan {
        let mut plan = self.plan;
        let slots: Vec<_> = batch.waiting().iter().map(|(slot, ..)| slot).collect();
        let there = self.kept.iter().filter_map(|&(at, worker)| Some(Pin { slot: *slots.get(at)?, worker }));
        self.pins = there.collect();
        // Swaps are for workers that cost alike.
        plan.repair.swap = plan.repair.swap.filter(|_| batch.is_uniform());
        plan
    }

    fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        let alive = class.map_or(0, |class| class.iter().map(|&alive| (alive * 4.0) as i64).sum());
        profile.slope = (self.slope + alive) * view.cost_per_token;
        profile.knots.push(Knot {
            at_tokens: (view.envelope - view.cost).div_euclid(view.cost_per_token),
            weight: self.weight * view.cost_per_token,
        });
    }

    fn candidates(&self) -> usize {
        self.candidates
    }

    fn pins(&self) -> &[Pin] {
        &self.pins
    }

    fn judge(&mut self, _: &Batch<'_>, _: &[i64], _: &[i64], worker: usize, tokens: &[i64]) -> usize {
        // Now and then an answer that is none.
        if worker == 3 { tokens.len() } else { tokens.len() - 1 }
    }
}

fn order(rng: &mut ChaCha8Rng) -> Order {
    match rng.random_range(0..7) {
        0 => Order::Matrix,
        1 => Order::LeastLoaded,
        2 => Order::LongestFirst { fewest_requests: false },
        3 => Order::LongestFirst { fewest_requests: true },
        _ => Order::MostOpenSlots(
            SubsetStage::new()
                .greedy_slots([0, 2, 7, 1000][rng.random_range(0..4)])
                .subset_window([0, 1, 3, 4, 8, 99][rng.random_range(0..6)])
                .candidate_window([0, 1, 4, 20, 1 << 20][rng.random_range(0..5)]),
        ),
    }
}

fn rule(rng: &mut ChaCha8Rng) -> Own {
    let age = Age {
        linear: [0.0, 0.0, 2.5][rng.random_range(0..3)],
        quadratic: [0.0, 0.02][rng.random_range(0..2)],
    };
    let max_passed = [None, None, Some(0), Some(80)][rng.random_range(0..4)];
    let swap = [None, Some(PairCost::Envelope), Some(PairCost::Level { offset: 40, overflow_weight: 3 })];
    let repair = Repair::new()
        .rounds(rng.random_range(0..3))
        .tolerance_tokens([None, Some(30)][rng.random_range(0..2)])
        .swap(swap[rng.random_range(0..3)]);
    let plan = Plan::new()
        .order(order(rng))
        .unit(rng.random_range(1..4))
        .age(age)
        .max_passed(max_passed)
        .envelope_floor([0, 2_000][rng.random_range(0..2)])
        .repair(repair);
    let candidates = [1, 1, 3][rng.random_range(0..3)];
    let kept = std::array::from_fn(|_| match rng.random_range(0..3) {
        0 => (rng.random_range(0..3), rng.random_range(0..10)),
        _ => (usize::MAX, 0),
    });
    let (slope, weight) = (rng.random_range(-1..4), rng.random_range(0..9));
    Own { plan, slope, weight, candidates, kept, pins: vec![] }
}

fn parts(rng: &mut ChaCha8Rng) -> Parts {
    let workers = rng.random_range(1..9usize);
    let (paired, classes, bounded, dear): (bool, bool, bool, bool) =
        (rng.random(), rng.random(), rng.random(), rng.random_range(0..4) == 0);
    // Few lengths and loads: ties are where rules differ.
    let few: bool = rng.random();
    let length = |rng: &mut ChaCha8Rng| {
        if few { 100 * rng.random_range(1..5) } else { rng.random_range(1..1500) }
    };
    let requests = (0..rng.random_range(0..40u64))
        .map(|id| {
            let mut request = Request::new(id, length(rng))
                .waited(rng.random_range(0..100))
                .passed(rng.random_range(0..100));
            request.deadline_steps = (rng.random_range(0..9) == 0).then_some(50);
            match rng.random_range(0..6) {
                0 if paired => request.bound_to(rng.random_range(0..workers as u32)),
                1 | 2 if paired => request.pairs(rng.random_range(0..5)),
                3 if classes => request.class(rng.random_range(0..2)),
                _ => request,
            }
        })
        .collect();
    let most_free = [2, 5][rng.random_range(0..2)];
    let list: Vec<Worker> = (0..workers)
        .map(|_| {
            let load = if few { 500 * rng.random_range(0..4u64) } else { rng.random_range(0..4_000) };
            let mut worker = Worker::new(load, rng.random_range(0..4), rng.random_range(0..most_free));
            worker.kv_capacity_tokens = bounded.then(|| load + rng.random_range(0..3_000));
            worker.weight = if dear { [0.5, 1.0, 2.0][rng.random_range(0..3)] } else { 1.0 };
            worker
        })
        .collect();
    let horizon = 3;
    let rows = list
        .iter()
        .flat_map(|worker| (0..=horizon as u64).map(move |h| worker.load_tokens + 13 * h))
        .collect();
    Parts {
        requests,
        traffic: Traffic::new().prompts(700, 0).outputs(300),
        growth: if bounded { rng.random_range(0..40) } else { 0 },
        horizon,
        rows: if classes { rows } else { vec![] },
        offsets: vec![0; workers + 1],
        bonus: (0..5 * workers).map(|_| [0.0, 0.0, 250.0, -100.0][rng.random_range(0..4)]).collect(),
        eligible: (0..5).map(|_| rng.random::<u64>() | rng.random::<u64>()).collect(),
        classes: if classes { vec![1.0, 0.9, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0] } else { vec![] },
        workers: list,
        ..Parts::default()
    }
}

#[test]
fn any_plan_of_anybody_is_decided_as_the_oracle_decides_it() {
    let available: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut out, mut expected) = (Assignment::new(), Assignment::new());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000);
    let mut subsets = 0;
    for case in 0..cases {
        let (rule, parts) = (rule(&mut rng), parts(&mut rng));
        let pool = parts.pool();
        let batch = parts.batch(&pool);
        let isa = available[case % available.len()];
        let backend = [BackendKind::Auto, BackendKind::Cpu][case / 2 % 2];
        let parameters = Parameters::new().isa(Some(isa)).backend(backend);
        let mut policy = policy::from_rule("own", rule.clone(), &parameters).expect("valid");
        policy.decide(&batch, &mut out);
        policy.decide_by_reference(&batch, &mut expected).expect("a rule");
        assert_eq!(out, expected, "case {case} on {isa}, {backend}: {rule:?} {parts:#?}");
        // Whoever could still be placed is, whatever the order; a repair may make room once all are.
        assert!(
            rule.plan.repair.rounds > 0
                || !out.waiting(&batch).any(|(_, reason)| reason == WaitReason::Deferred),
            "case {case}: {rule:?} {parts:#?}"
        );
        let score = |at: usize| out.admitted.get(at).map(|admission| admission.score_tokens);
        subsets += u32::from(score(0).is_some_and(|first| first > 0.0 && score(1) == Some(first)));
    }
    assert!(subsets as usize > cases / 500, "{subsets} subsets of several");
}

/// Scores are told in tokens, so a token has at least one unit.
#[test]
fn a_unit_of_nothing_counts_as_one() {
    let plan = Plan::new().age(Age { linear: 3.0, quadratic: 0.0 });
    let workers = [Worker::new(900, 3, 2), Worker::new(500, 2, 2)];
    let pool = balanceroute::Pool::from_requests(&[Request::new(1, 300), Request::new(2, 70).waited(4)]);
    let pool = pool.expect("valid");
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    let decided = |unit| {
        let plan = plan.unit(unit);
        let rule = Own { plan, slope: 1, weight: 2, candidates: 1, kept: [(usize::MAX, 0); 3], pins: vec![] };
        let mut policy = policy::from_rule("own", rule, &Parameters::new()).expect("valid");
        let (mut fast, mut oracle, mut scores) = (Assignment::new(), Assignment::new(), Vec::new());
        policy.decide(&batch, &mut fast);
        policy.decide_by_reference(&batch, &mut oracle).expect("a rule");
        assert!(policy.score_into(&batch, &mut scores));
        assert_eq!(fast, oracle);
        (fast, scores)
    };
    let (expected, scores) = decided(1);
    assert!(expected.admitted.len() == 2 && scores.iter().all(|score| score.is_finite()), "{scores:?}");
    for unit in [0, -7] {
        assert_eq!(decided(unit), (expected.clone(), scores.clone()));
    }
}

/// A policy that is no rule has nothing to be compared with, and says so.
#[test]
fn a_policy_without_a_rule_has_no_oracle() {
    struct Nobody;
    impl Policy for Nobody {
        fn name(&self) -> &'static str {
            "nobody"
        }
        fn needs(&self) -> Needs {
            Needs::new()
        }
        fn decide(&mut self, _: &Batch<'_>, out: &mut Assignment) {
            out.clear();
        }
    }
    let workers = [Worker::new(1, 1, 1)];
    let pool = balanceroute::Pool::new();
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    let found = Nobody.decide_by_reference(&batch, &mut Assignment::new());
    assert_eq!(found, Err(PolicyError::NoRule { policy: "nobody" }));
    assert!(Nobody.device().is_none());
}

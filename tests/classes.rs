//! Classes: the highest first, each as the oracle decides it alone on what those before it have left.

use balanceroute::policy::{self, Parameters};
use balanceroute::router::Metrics;
use balanceroute::{
    Assigner, Assignment, Batch, BatchError, Pairs, Pool, Request, Router, RouterConfig, Step, Worker,
    WorkerConfig,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const GROWTH_TOKENS: u32 = 30;
/// Steps that loads are projected ahead.
const HORIZON: usize = 16;

fn workers(rng: &mut ChaCha8Rng) -> Vec<Worker> {
    let worker = |rng: &mut ChaCha8Rng| {
        let load = rng.random_range(0..6_000);
        let worker = Worker::new(load, rng.random_range(0..9), rng.random_range(0..4));
        let bound = rng.random_range(0..3) == 0;
        worker.capacity(bound.then(|| load + rng.random_range(0..2_500)))
    };
    (0..rng.random_range(1..7)).map(|_| worker(rng)).collect()
}

fn requests(rng: &mut ChaCha8Rng, workers: usize, rows: u32) -> Vec<Request> {
    let request = |rng: &mut ChaCha8Rng, id: u64| {
        let request = Request::new(7 * id, rng.random_range(1..900)).passed(rng.random_range(0..60));
        let request = request.priority([-128, 0, 0, 3, 127][rng.random_range(0..5)]);
        match rng.random_range(0..6) {
            0 => request.bound_to(rng.random_range(0..workers as u32)),
            1 | 2 if rows > 0 => request.pairs(rng.random_range(0..rows)),
            3 => request.deadline(rng.random_range(0..3)),
            _ => request,
        }
    };
    (0..rng.random_range(0..40)).map(|id| request(rng, id)).collect()
}

/// Loads that fall as requests end, now and then.
fn projected(rng: &mut ChaCha8Rng, workers: &[Worker]) -> Vec<u64> {
    let mut rows = Vec::new();
    for worker in workers {
        let mut load = worker.load_tokens;
        for _ in 0..=HORIZON {
            rows.push(load);
            load = if rng.random_range(0..4) == 0 { load * 2 / 3 } else { load + u64::from(worker.running) };
        }
    }
    rows
}

/// The row and the worker of each who is admitted, by the oracle, class by class.
fn by_oracle(
    name: &str,
    workers: &[Worker],
    projected: &[u64],
    requests: &[Request],
    pairs: Pairs<'_>,
) -> Vec<(usize, u32, f64)> {
    let mut policy = policy::build(name, &Parameters::default()).expect("known");
    let (mut workers, mut projected) = (workers.to_vec(), projected.to_vec());
    let mut found = Vec::new();
    for class in (i8::MIN..=i8::MAX).rev() {
        let rows: Vec<usize> = (0..requests.len()).filter(|&row| requests[row].priority == class).collect();
        let of_class: Vec<Request> = rows.iter().map(|&row| requests[row].priority(0)).collect();
        let pool = Pool::from_requests(&of_class).expect("valid");
        let draft = Batch::draft(&workers, &pool).request_growth(GROWTH_TOKENS).pairs(pairs);
        let draft = draft.projection(HORIZON, &projected);
        let (batch, mut answer) = (draft.check().expect("valid"), Assignment::new());
        policy.decide_by_reference(&batch, &mut answer).expect("a rule");
        for admission in &answer.admitted {
            let at = admission.worker.get();
            found.push((rows[pool.row_of(admission.slot)], at, admission.score_tokens));
            let (worker, tokens) = (&mut workers[at as usize], u64::from(admission.prompt_tokens));
            worker.free_slots -= 1;
            worker.running += 1;
            worker.load_tokens += tokens;
            worker.kv_used_tokens += tokens;
            worker.kv_growth_tokens += u64::from(GROWTH_TOKENS);
            let row = projected.chunks_exact_mut(HORIZON + 1).nth(at as usize).expect("a row for each");
            row.iter_mut().for_each(|load| *load += tokens);
        }
    }
    found
}

#[test]
fn each_class_is_decided_as_the_oracle_does_on_what_is_left() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut below_the_highest = 0;
    for round in 0..600 {
        let workers = workers(&mut rng);
        let eligible: Vec<u64> = (0..round % 4).map(|_| rng.random()).collect();
        let requests = requests(&mut rng, workers.len(), eligible.len() as u32);
        let pairs = Pairs { eligible: &eligible, ..Pairs::default() };
        let projected = projected(&mut rng, &workers);
        for name in ["level", "exact", "br0", "longest-first", "exact-oracle", "brh-oracle"] {
            let expected = by_oracle(name, &workers, &projected, &requests, pairs);
            let mut assigner = Assigner::new(name, &Parameters::default()).expect("known");
            let step = Step::new(&workers, &requests).request_growth(GROWTH_TOKENS).pairs(pairs);
            let step = step.projection(HORIZON, &projected);
            let decision = assigner.assign(&step).expect("valid");
            let found: Vec<(usize, u32, f64)> = decision
                .admissions()
                .map(|(row, admission)| (row, admission.worker.get(), admission.score_tokens))
                .collect();
            assert_eq!(found, expected, "{name}, round {round}");
            let reasons = decision.reasons();
            for (row, reason) in reasons.iter().enumerate() {
                assert_eq!(reason.is_none(), found.iter().any(|&(admitted, ..)| admitted == row));
            }
            let highest = requests.iter().map(|request| request.priority).max();
            let is_lower = |&&(row, ..): &&(usize, u32, f64)| Some(requests[row].priority) < highest;
            below_the_highest += found.iter().filter(is_lower).count();
        }
    }
    assert!(below_the_highest > 1_000, "{below_the_highest}");
}

/// Nobody is decided where a request of any class is not sound, and the row that is told is the caller's.
#[test]
fn a_row_of_a_lower_class_is_refused_before_anybody_is_decided() {
    let workers = [Worker::new(10, 1, 1)];
    let requests = [Request::new(0, 10).priority(9), Request::new(1, 10), Request::new(2, 10).pairs(4)];
    let mut assigner = Assigner::new("level", &Parameters::default()).expect("known");
    let pairs = Pairs { eligible: &[1], ..Pairs::default() };
    let refused = assigner.assign(&Step::new(&workers, &requests).pairs(pairs)).unwrap_err();
    assert_eq!(refused, BatchError::PairRow { index: 2, id: 2.into(), rows: 1, found: 4 });
}

fn admitted(router: &mut Router, now_ms: u64) -> Vec<u64> {
    let plan = router.step(now_ms).expect("a decision");
    plan.admissions.iter().map(|dispatch| dispatch.id.get()).collect()
}

/// A router with one worker of one slot, and six requests of class 1 before three of class 0 and one of -1.
fn crowded(lower_class_one_in: Option<u32>) -> Router {
    let config = RouterConfig::uniform(1, WorkerConfig::new(1)).lower_class_one_in(lower_class_one_in);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    for (id, class) in [(1, 0), (2, -1), (3, 0), (4, 0), (11, 1), (12, 1), (13, 1), (14, 1), (15, 1), (16, 1)]
    {
        router.enqueue(Request::new(id, 100).priority(class), 0).expect("valid");
    }
    router
}

/// In which order those of [`crowded`] run.
fn order(mut router: Router) -> Vec<u64> {
    let mut order = Vec::new();
    for now_ms in 0..10 {
        let [id] = admitted(&mut router, now_ms)[..] else { panic!("one at a time") };
        router.finish(id, None).expect("it runs");
        order.push(id);
    }
    order
}

#[test]
fn a_share_is_the_lower_classes_and_the_rest_is_strict() {
    let classes = |order: Vec<u64>| -> Vec<i8> {
        let class = |id: u64| match id {
            2 => -1,
            id => i8::from(id > 10),
        };
        order.into_iter().map(class).collect()
    };
    assert_eq!(classes(order(crowded(None))), [1, 1, 1, 1, 1, 1, 0, 0, 0, -1]);
    // Two of the highest, then one of each that has seen two go past.
    assert_eq!(classes(order(crowded(Some(3)))), [1, 1, 0, -1, 1, 1, 0, 1, 1, 0]);
    // One in two of those above is the lowest's, and one in two of the highest is the middle's.
    assert_eq!(classes(order(crowded(Some(2)))), [1, 0, -1, 1, 0, 1, 0, 1, 1, 1]);
}

#[test]
fn who_comes_again_is_of_its_class_unless_it_names_another() {
    let mut router = crowded(None);
    assert_eq!(admitted(&mut router, 0).len(), 1);
    let (id, _) = (router.plan().admissions[0].id, router.advance());
    let mut again = router.preempt(id).expect("it runs");
    assert_eq!(again.priority, 1);
    // Without a word of its class.
    again.priority = 0;
    router.enqueue(again, 1).expect("valid");
    assert_eq!(router.explain(id).expect("it waits").priority, 1);
    assert_eq!(admitted(&mut router, 2), [id.get()]);
    let again = router.preempt(id).expect("it runs").priority(-5);
    router.enqueue(again, 3).expect("valid");
    assert_eq!(router.explain(id).expect("it waits").priority, -5);
}

/// Turns that a class could not use are not saved; those that it could not yet have are, wherever it took the
/// last slot that was open to it.
#[test]
fn who_took_the_last_open_slot_beside_a_claimed_worker_keeps_its_turns() {
    let config = RouterConfig::uniform(2, WorkerConfig::new(16).capacity(10_000)).headroom_steps(0);
    let config = config.lower_class_one_in(Some(3));
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    router.configure_worker(1, WorkerConfig::new(3).capacity(10_000)).expect("a worker");
    router.adopt(Request::new(100, 7_000), 0, 0).expect("valid");
    router.adopt(Request::new(101, 8_000), 1, 0).expect("valid");
    // Class 0 claims worker 0, whose slots class 1 may use and class -1 may not.
    router.enqueue(Request::new(200, 9_000).deadline(0), 0).expect("valid");
    for id in 0..8 {
        router.enqueue(Request::new(300 + id, 100).priority(-1), 0).expect("valid");
    }
    let enqueue = |router: &mut Router, ids: std::ops::Range<u64>, worker: u32| {
        for id in ids {
            router.enqueue(Request::new(id, 100).priority(1).bound_to(worker), 0).expect("valid");
        }
    };
    // Four of class 1 are two turns of class -1 ...
    router.set_accepting(1, false).expect("a worker");
    enqueue(&mut router, 1..5, 0);
    assert_eq!(admitted(&mut router, 0), [1, 2, 3, 4]);
    // ... which take both slots of worker 1, while five more of class 1 enter worker 0.
    router.set_accepting(1, true).expect("a worker");
    enqueue(&mut router, 5..10, 0);
    assert_eq!(admitted(&mut router, 1), [300, 301, 5, 6, 7, 8, 9]);
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    assert_eq!(metrics.ranks[0].claimed_by, Some(200.into()));
    // Those five are its next two turns, before anybody of class 1.
    router.finish(300, None).expect("it runs");
    router.finish(301, None).expect("it runs");
    enqueue(&mut router, 10..14, 1);
    assert_eq!(admitted(&mut router, 2), [302, 303]);
}

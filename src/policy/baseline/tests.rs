//! The rules of engines in use, by hand.

use super::*;
use crate::batch::Worker;
use crate::policy::{Parameters, build};
use crate::pool::Pool;

fn rank(load: u64, running: u32, queued_requests: u32, queued_tokens: u64) -> Rank {
    Rank { worker: Worker::new(load, running, 4), queued_requests, queued_tokens }
}

fn policy(name: &str) -> Box<dyn Policy> {
    build(name, &Parameters::new().seed(3)).expect("a policy")
}

const BINDING: [&str; 7] =
    ["random", "round-robin", "power-of-two", "jsq", "vllm-legacy", "vllm-0.33", "sglang-total-tokens"];

#[test]
fn a_bind_avoids_ranks_that_take_nobody_and_keeps_a_given_rank() {
    let mut ranks = vec![rank(0, 0, 0, 0), rank(900, 9, 9, 900), rank(0, 0, 0, 0)];
    ranks[0].worker.accepting = false;
    ranks[2].worker.accepting = false;
    for name in BINDING {
        let mut policy = policy(name);
        assert!(policy.needs().binds_on_arrival, "{name}");
        for id in 0..20 {
            assert_eq!(policy.bind(&Request::new(id, 10), &ranks), Some(1), "{name}");
        }
        assert_eq!(policy.bind(&Request::new(99, 10).bound_to(2), &ranks), Some(2), "{name}");
        let draining = [ranks[0], ranks[2]];
        assert_eq!(policy.bind(&Request::new(99, 10), &draining), None, "{name}");
        assert_eq!(policy.bind(&Request::new(99, 10), &[]), None, "{name}");
    }
}

#[test]
fn each_rule_binds_as_its_formula_says() {
    // requests 7, 6, 9; 4 * queued + running 13, 24, 9; tokens 700, 900, 800
    let ranks = [rank(600, 5, 2, 100), rank(300, 0, 6, 600), rank(800, 9, 0, 0)];
    let bind = |name: &str| policy(name).bind(&Request::new(1, 250), &ranks);
    assert_eq!(bind("jsq"), Some(1));
    assert_eq!(bind("vllm-legacy"), Some(2));
    assert_eq!(bind("sglang-total-tokens"), Some(0));
    assert_eq!(bind("vllm-0.33"), Some(1));
    let mut turns = policy("round-robin");
    let order: Vec<_> = (0..5).map(|id| turns.bind(&Request::new(id, 5), &ranks)).collect();
    assert_eq!(order, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
    // Of any two ranks the heavier one is never taken, so the heaviest is taken by nobody.
    let mut two = policy("power-of-two");
    let mut seen = [0; 3];
    for id in 0..300 {
        seen[two.bind(&Request::new(id, 5), &ranks).expect("a rank") as usize] += 1;
    }
    assert!(seen[1] == 0 && seen[0] > 150 && seen[2] > 50, "{seen:?}");
    let mut random = policy("random");
    let mut seen = [0; 3];
    for id in 0..300 {
        seen[random.bind(&Request::new(id, 5), &ranks).expect("a rank") as usize] += 1;
    }
    assert!(seen.iter().all(|&count| count > 60), "{seen:?}");
}

#[test]
fn a_seed_repeats_its_draws() {
    let ranks = [rank(1, 0, 0, 0), rank(1, 0, 0, 0), rank(1, 0, 0, 0)];
    for name in ["random", "power-of-two"] {
        let (mut one, mut other) = (policy(name), policy(name));
        for id in 0..50 {
            let request = Request::new(id, 1);
            assert_eq!(one.bind(&request, &ranks), other.bind(&request, &ranks));
        }
    }
}

#[test]
fn what_was_dispatched_counts_until_the_view_shows_it() {
    let ranks = [rank(100, 1, 0, 0), rank(150, 1, 0, 0)];
    let mut policy = policy("sglang-total-tokens");
    assert_eq!(policy.bind(&Request::new(1, 80), &ranks), Some(0));
    // The view is the old one: 100 + 80 against 150.
    assert_eq!(policy.bind(&Request::new(2, 10), &ranks), Some(1));
    assert_eq!(policy.bind(&Request::new(3, 30), &ranks), Some(1));
    assert_eq!(policy.bind(&Request::new(4, 30), &ranks), Some(0));
    // Now it shows what rank 0 got, and the count begins again there only.
    let ranks = [rank(100, 1, 2, 10), rank(150, 1, 0, 0)];
    assert_eq!(policy.bind(&Request::new(5, 90), &ranks), Some(0));
    assert_eq!(policy.bind(&Request::new(6, 5), &ranks), Some(1));
}

#[test]
fn lagging_statistics_are_refreshed_after_their_steps() {
    let full = |queued, used| {
        let mut rank = rank(used, 4, queued, 50);
        rank.worker.kv_capacity_tokens = Some(1000);
        rank
    };
    let mut policy = policy("vllm-0.33");
    // Rank 0: max(6, 6) + 6 * 2 * (0.9 - 0.5) = 10.8. Rank 1: 4 + 4 = 8, half full: no surcharge.
    assert_eq!(policy.bind(&Request::new(1, 5), &[full(2, 900), full(4, 400)]), Some(1));
    // Rank 1 fills up and rank 0 empties, but the snapshot still says 10.8 against max(9, 8).
    let now = [full(0, 100), full(5, 900)];
    assert_eq!(policy.bind(&Request::new(2, 5), &now), Some(1));
    let pool = Pool::new();
    let workers = [now[0].worker, now[1].worker];
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    for _ in 0..2 {
        policy.decide(&batch, &mut Assignment::new());
    }
    assert_eq!(policy.bind(&Request::new(3, 5), &now), Some(0));
    // Equal ranks: the scan starts one further each time.
    let mut policy = self::policy("vllm-0.33");
    let mut equal = [rank(5, 1, 0, 0); 3];
    let order: Vec<_> = (0..3)
        .map(|id| {
            let to = policy.bind(&Request::new(id, 5), &equal).expect("a rank");
            equal[to as usize].queued_requests += 1;
            to
        })
        .collect();
    assert_eq!(order, [0, 1, 2]);
}

fn decide(name: &str, workers: &[Worker], requests: &[Request]) -> Vec<(u64, u32)> {
    let pool = Pool::from_requests(requests).expect("valid");
    let batch = Batch::draft(workers, &pool).check().expect("valid");
    let mut out = Assignment::new();
    policy(name).decide(&batch, &mut out);
    out.admitted.iter().map(|admission| (admission.id, admission.worker)).collect()
}

#[test]
fn steps_serve_first_come_or_longest_first() {
    let workers = [Worker::new(500, 5, 1), Worker::new(300, 3, 2), Worker::new(0, 0, 0)];
    let requests: Vec<_> =
        [10, 250, 40, 900].iter().zip(1..).map(|(&tokens, id)| Request::new(id, tokens)).collect();
    // 300 takes 1, 310 takes 2, then 560 is full and 500 takes 3.
    assert_eq!(decide("least-kv", &workers, &requests), [(1, 1), (2, 1), (3, 0)]);
    // Three slots: the earliest three, 250 first. 900 came too late.
    assert_eq!(decide("longest-first", &workers, &requests), [(2, 1), (3, 0), (1, 1)]);
    let equal = [Worker::new(500, 5, 1), Worker::new(500, 3, 1)];
    assert_eq!(decide("longest-first", &equal, &requests), [(2, 1), (1, 0)]);
    // Bound requests wait for their own rank although another slot is free.
    let bound: Vec<_> = (1..4).map(|id| Request::new(id, 10).bound_to(0)).collect();
    assert_eq!(decide("jsq", &workers, &bound), [(1, 0)]);
}

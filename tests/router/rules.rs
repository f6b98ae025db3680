//! Modes, ranks, shares, draining, expiry, explanations.

use balanceroute::policy::{NAMES, Parameters};
use balanceroute::router::{Decided, Metrics};
use balanceroute::{
    Mode, PairTerms, Placement, Request, RequestId, ReturnReason, Router, RouterConfig, RouterError, Share,
    WaitReason, WorkerConfig, WorkerId, WorkerReport,
};

fn build(config: RouterConfig, name: &str) -> Router {
    Router::new(config, name, &Parameters::default()).expect("valid")
}

fn placed(placement: Placement) -> Option<u32> {
    match placement {
        Placement::Placed(dispatch) => Some(dispatch.worker.0),
        Placement::Waits => None,
    }
}

#[test]
fn on_arrival_the_greatest_f_wins_and_ties_go_to_the_lowest_load() {
    let config = RouterConfig::new(3, 2).mode(Mode::Arrival);
    let mut router = build(config, "level");
    for (id, tokens, expected) in [(1, 100, 0), (2, 40, 1), (3, 70, 2)] {
        assert_eq!(placed(router.place(Request::new(id, tokens), 0).unwrap()), Some(expected));
    }
    // Margins 0, 60, 30: twenty tokens fit on two workers, the lighter one is 1. Fifty fit there only; so the
    // second slot is gone.
    assert_eq!(placed(router.place(Request::new(4, 20), 1).unwrap()), Some(1));
    assert_eq!(placed(router.place(Request::new(5, 20), 1).unwrap()), Some(2));
    assert_eq!(placed(router.place(Request::new(6, 20), 1).unwrap()), Some(0));
    // Everything is full: it waits, and a step takes it when a slot is free.
    assert_eq!(placed(router.place(Request::new(7, 20), 1).unwrap()), None);
    assert!(router.step(2).unwrap().admissions.is_empty());
    assert_eq!(router.finish(3, None).unwrap().worker, 2);
    assert_eq!(router.step(3).unwrap().of(7).map(|dispatch| dispatch.worker.0), Some(2));
    assert_eq!(router.counters().placed_on_arrival, 6);
    assert_eq!(router.counters().admitted_by_step, 1);
}

#[test]
fn the_threshold_on_free_slots_chooses_between_the_modes() {
    let config = RouterConfig::new(2, 2).mode(Mode::Mixed { free_slots: 2 });
    let mut router = build(config, "level");
    assert!(placed(router.place(Request::new(1, 10), 0).unwrap()).is_some());
    assert!(placed(router.place(Request::new(2, 10), 0).unwrap()).is_some());
    // Two are left, and more than two is what it takes.
    assert_eq!(placed(router.place(Request::new(3, 10), 0).unwrap()), None);
    assert_eq!(router.step(1).unwrap().admissions.len(), 1);
    let mut steps = build(RouterConfig::new(2, 2), "level");
    assert_eq!(placed(steps.place(Request::new(1, 10), 0).unwrap()), None);
}

#[test]
fn a_rank_is_kept_in_every_mode_or_waited_for() {
    for mode in [Mode::Step, Mode::Arrival] {
        let mut router = build(RouterConfig::new(3, 1).mode(mode), "level");
        for id in [1, 2] {
            let _ = router.place(Request::new(id, 900).bound_to(2), 0).unwrap();
        }
        router.step(0).unwrap();
        assert_eq!((router.running_on(1), router.running_on(2)), (Some(WorkerId(2)), None));
        assert_eq!(router.waiting(), [(RequestId(2), WaitReason::NotEligible)]);
        router.finish(1, None).unwrap();
        assert_eq!(router.step(1).unwrap().of(2).map(|dispatch| dispatch.worker.0), Some(2));
        // A rank is an id: after others are gone it still means the same worker.
        router.remove_worker(0, &mut Vec::new()).unwrap();
        router.finish(2, None).unwrap();
        let _ = router.place(Request::new(3, 10).bound_to(2), 2).unwrap();
        router.step(2).unwrap();
        assert_eq!(router.running_on(3), Some(WorkerId(2)));
        assert_eq!(router.preempt(3).unwrap().rank, Some(WorkerId(2)));
        let error = router.enqueue(Request::new(4, 10).bound_to(0), None).unwrap_err();
        assert_eq!(error, RouterError::Worker { workers: 2, found: WorkerId(0) });
    }
}

#[test]
fn a_bonus_counts_on_arrival_too() {
    let config = RouterConfig::new(2, 4).mode(Mode::Arrival);
    let mut router = build(config, "level");
    let _ = router.place(Request::new(1, 500), 0).unwrap();
    let mut cached = |_: &Request, bonus: &mut [f32]| {
        bonus[0] = 5_000.0;
        true
    };
    assert_eq!(placed(router.place_with(Request::new(2, 300), 0, &mut cached).unwrap()), Some(0));
    assert_eq!(placed(router.place(Request::new(3, 300), 0).unwrap()), Some(1));
}

#[test]
fn shares_hold_together_without_a_word_between_the_front_ends() {
    const FRONT_ENDS: u32 = 3;
    let worker = WorkerConfig::new(7).capacity(5_000);
    let mut routers: Vec<Router> = (0..FRONT_ENDS)
        .map(|index| {
            let share = Share { index, of: FRONT_ENDS };
            let mode = Mode::Arrival;
            build(RouterConfig::uniform(2, worker).share(share).mode(mode).headroom_steps(50), "level")
        })
        .collect();
    let mut totals = [(0u32, 0u64); 2];
    for id in 0..200u64 {
        let tokens = 1 + (id * 7919) % 600;
        let router = &mut routers[(id % u64::from(FRONT_ENDS)) as usize];
        if let Some(worker) = placed(router.place(Request::new(id, tokens as u32), id).unwrap()) {
            let total = &mut totals[worker as usize];
            *total = (total.0 + 1, total.1 + tokens + 50);
        }
    }
    for (requests, tokens) in totals {
        assert!(requests <= 7 && tokens <= 5_000, "{requests} requests, {tokens} tokens");
        assert!(requests >= 6, "the parts are all of it");
    }
    // What the others sent counts for the balance when a report shows it, as much of it as is ours to level,
    // and not against our part of the cache.
    let mut alone = build(
        RouterConfig::uniform(2, WorkerConfig::new(8).capacity(4_000))
            .share(Share { index: 0, of: 2 })
            .headroom_steps(256)
            .mode(Mode::Arrival),
        "level",
    );
    let others = WorkerReport::new(3, 1_000);
    alone.report(0, others, None).unwrap();
    assert_eq!(alone.workers()[0].load_tokens, 500);
    assert_eq!(alone.rank_metrics(0).unwrap().load_tokens, 1_000);
    assert_eq!(alone.workers()[0].room_tokens(), 2_000);
    assert_eq!(placed(alone.place(Request::new(1, 500), 0).unwrap()), Some(1));
}

#[test]
fn what_is_sent_goes_where_it_must_and_is_no_longer_than_it_may_be() {
    let mut router = build(RouterConfig::uniform(3, WorkerConfig::new(1).capacity(1_000)), "level");
    router.adopt(Request::new(1, 900), 2, 0).unwrap();
    router.enqueue(Request::new(2, 900).bound_to(2), 0).unwrap();
    router.step(0).unwrap();
    for tokens in [0, u32::MAX] {
        let refused = router.send(Request::new(2, tokens), None, None).unwrap_err();
        assert!(matches!(refused, RouterError::Batch(_)), "{refused}");
    }
    // It waits for its worker, which is full: there it queues, not on an empty one.
    let dispatch = router.send(Request::new(2, 900).bound_to(2), None, None).unwrap();
    assert_eq!((dispatch.worker, router.counters().sent_beyond), (WorkerId(2), 1));
    // Whoever names another worker means it: the request is bound no more.
    let dispatch = router.send(Request::new(3, 10).bound_to(2), Some(WorkerId(0)), None).unwrap();
    assert_eq!((dispatch.worker, router.preempt(3).unwrap().rank), (WorkerId(0), None));
    let (one, other) = (Request::new(4, 10), Request::new(5, 10));
    assert_eq!(router.send(one, None, None).unwrap().worker, WorkerId(0));
    assert_eq!(router.send(other, None, None).unwrap().worker, WorkerId(1));
}

#[test]
fn a_plan_has_the_admission_of_each_request() {
    let mut router = build(RouterConfig::new(2, 1), "level");
    for id in 1..4 {
        router.enqueue(Request::new(id, 10 * id as u32), 0).unwrap();
    }
    let plan = router.step(0).unwrap();
    let found: Vec<_> = (1..5).filter_map(|id| plan.of(id)).copied().collect();
    assert_eq!((found.len(), plan.admissions.len()), (2, 2));
    assert!(found.iter().all(|dispatch| plan.admissions.contains(dispatch)));
}

/// A worker says that it runs as many requests as can be written: nobody is sent there by a sum that wrapped.
#[test]
fn a_worker_that_tells_of_the_most_requests_has_the_longest_queue() {
    let mut router = build(RouterConfig::new(2, 1), "level");
    router.report(0, WorkerReport::requests(u32::MAX, u32::MAX), None).unwrap();
    router.report(1, WorkerReport::requests(3, 0), None).unwrap();
    for id in 1..4 {
        assert_eq!(router.send(Request::new(id, 10), None, None).unwrap().worker, WorkerId(1));
    }
    // Without slots nobody is served there, however few are said to queue.
    let mut router = build(RouterConfig::new(2, 0), "level");
    router.report(0, WorkerReport::requests(u32::MAX, 0), None).unwrap();
    assert_eq!(router.send(Request::new(1, 10), None, None).unwrap().worker, WorkerId(1));
}

/// A request that leaves nothing to the others enters an empty worker in this front end's turn, and one that
/// is longer than its part goes where a report has shown that nobody is.
#[test]
fn what_is_longer_than_a_part_has_its_turn() {
    for (of, index) in [(2, 0), (3, 1), (16, 15)] {
        let worker = WorkerConfig::new(20).capacity(4_000);
        let config = RouterConfig::uniform(2, worker).share(Share { index, of }).headroom_steps(50);
        let mut router = build(config, "level");
        for (id, tokens) in [(1, 3_990), (2, 2_900)] {
            router.enqueue(Request::new(id, tokens), 0).unwrap();
        }
        // Nothing is lent that no report has shown to be free, but a whole worker that is empty for all we
        // know.
        let turns = |from: u64| (0..200).map(move |at| from + 32 * at);
        let early: usize = turns(0).map(|now_ms| router.step(now_ms).unwrap().admissions.len()).sum();
        assert!(early <= 2, "{of}: {early}");
        for rank in [0, 1] {
            router.report(rank, WorkerReport::new(0, 0), None).unwrap();
        }
        for now_ms in turns(10_000) {
            assert!(router.step(now_ms).unwrap().returned.is_empty());
        }
        assert!(router.pool().is_empty(), "{of}: {:?}", router.waiting());
        assert_ne!(router.running_on(1), router.running_on(2));
    }
}

#[test]
fn what_no_worker_can_ever_hold_comes_back() {
    let config = RouterConfig::uniform(2, WorkerConfig::new(4).capacity(1_000)).headroom_steps(100);
    let mut router = build(config, "level");
    router.enqueue(Request::new(1, 1_001), None).unwrap();
    router.enqueue(Request::new(2, 900), None).unwrap();
    // It fits, and with what it may generate it does not; and one that leaves no headroom, but room enough.
    router.enqueue(Request::new(3, 990).max_tokens(11), None).unwrap();
    router.enqueue(Request::new(4, 990).max_tokens(10), None).unwrap();
    let plan = router.step(0).unwrap();
    assert_eq!(plan.returned.iter().map(|back| back.id.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((plan.returned[0].reason, plan.returned[0].worker), (ReturnReason::NeverFits, None));
    assert_eq!(plan.admissions.len(), 2);
    router.finish(4, None).unwrap();
    // A cache that shrinks, and one that joins.
    for rank in [0, 1] {
        router.enqueue(Request::new(10 + rank, 600).bound_to(rank as u32), None).unwrap();
    }
    let shrunk = WorkerReport::new(0, 0).capacity(500);
    let taken = router.running_on(2).unwrap().0;
    router.report(1 - taken, shrunk, None).unwrap();
    let plan = router.step(1).unwrap();
    assert_eq!(plan.returned.len(), 1);
    assert_eq!(
        (plan.returned[0].id, plan.returned[0].worker),
        (RequestId(10 + u64::from(1 - taken)), Some(WorkerId(1 - taken)))
    );
    router.add_worker(WorkerConfig::new(1).capacity(9_000)).unwrap();
    router.enqueue(Request::new(20, 5_000), None).unwrap();
    assert_eq!(router.step(2).unwrap().of(20).map(|dispatch| dispatch.worker.0), Some(2));
}

#[test]
fn a_draining_worker_runs_on_takes_nobody_and_says_when_it_is_empty() {
    let mut router = build(RouterConfig::new(2, 2), "level");
    for id in 0..2 {
        router.enqueue(Request::new(id, 100).bound_to(id as u32), None).unwrap();
    }
    router.step(0).unwrap();
    router.drain_worker(1).unwrap();
    router.enqueue(Request::new(5, 10).bound_to(1), None).unwrap();
    router.enqueue(Request::new(6, 10), None).unwrap();
    router.enqueue(Request::new(7, 10), None).unwrap();
    let plan = router.step(1).unwrap();
    assert_eq!((plan.returned[0].id, plan.returned[0].reason), (RequestId(5), ReturnReason::WorkerDraining));
    assert_eq!(plan.admissions.iter().map(|dispatch| dispatch.worker.0).collect::<Vec<_>>(), [0]);
    assert_eq!(router.is_drained(1), Ok(false));
    router.finish(1, None).unwrap();
    assert_eq!((router.is_drained(1), router.is_drained(0)), (Ok(true), Ok(false)));
    let mut returned = Vec::new();
    router.remove_worker(1, &mut returned).unwrap();
    assert!(returned.is_empty());
    assert_eq!(router.step(2).unwrap().admissions.len(), 0);
}

#[test]
fn nobody_waits_longer_than_the_configuration_allows() {
    let config = RouterConfig::new(1, 1).expire_after_ms(500);
    let mut router = build(config, "level");
    router.step(1_000).unwrap();
    for id in 1..4 {
        router.enqueue(Request::new(id, 10), 1_000).unwrap();
    }
    assert_eq!(router.step(1_100).unwrap().admissions.len(), 1);
    assert!(router.step(1_499).unwrap().returned.is_empty());
    let plan = router.step(1_500).unwrap();
    assert_eq!(plan.returned.iter().filter(|back| back.reason == ReturnReason::Expired).count(), 2);
    // The clock does not run backwards.
    router.enqueue(Request::new(9, 10), 0).unwrap();
    assert!(router.step(0).unwrap().returned.is_empty());
    assert_eq!(router.step(2_000).unwrap().returned.len(), 1);
}

#[test]
fn explaining_changes_no_decision() {
    for name in NAMES {
        let config = RouterConfig::new(4, 3).mode(Mode::Mixed { free_slots: 6 });
        let (mut plain, mut asked) = (build(config.clone(), name), build(config, name));
        asked.set_explaining(true);
        let mut seed = 9u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        let (mut id, mut explained, mut second) = (0, 0, 0);
        for step in 0..200u64 {
            for _ in 0..next(4) {
                id += 1;
                let request = Request::new(id, 1 + next(2_000) as u32).hash(next(5));
                let placement = plain.place(request, step).unwrap();
                assert_eq!(placement, asked.place(request, step).unwrap(), "{name}");
                if let Placement::Placed(dispatch) = placement {
                    let why = asked.explain(id).expect("placed");
                    assert_eq!((why.decided, why.worker), (Decided::Arrival, Some(dispatch.worker)));
                    assert_eq!(why.score_tokens, dispatch.score_tokens);
                    assert!(why.lead_tokens().is_none_or(|lead| lead >= 0.0));
                }
            }
            let plan = plain.step(step).unwrap().clone();
            assert_eq!(&plan, asked.step(step).unwrap(), "{name}");
            for dispatch in &plan.admissions {
                let why = asked.explain(dispatch.id).expect("admitted");
                assert_eq!((why.decided, why.worker), (Decided::Step, Some(dispatch.worker)));
                assert_eq!(why.score_tokens, dispatch.score_tokens);
                assert!(why.margin_tokens >= 0.0);
                explained += 1;
                second += u32::from(why.runner_up.is_some());
                assert!(why.runner_up.is_none_or(|other| other.worker != dispatch.worker));
                assert_eq!(plain.explain(dispatch.id), None, "nobody asked");
            }
            for (id, reason) in plain.waiting() {
                let why = plain.explain(id).expect("it waits");
                assert_eq!(why.decided, Decided::Waits(reason));
            }
            plain.advance();
            asked.advance();
            for id in id.saturating_sub(15)..id {
                if plain.running_on(id).is_some() && next(4) == 0 {
                    assert_eq!(plain.finish(id, None).unwrap(), asked.finish(id, None).unwrap());
                }
            }
        }
        assert!(explained > 20, "{name}: {explained}");
        let scores = name.starts_with("level") || name.starts_with("exact") || *name == "least-kv";
        assert!(!scores || second > 5, "{name}: {second}");
        assert_eq!(asked.explain(u64::MAX), None);
    }
}

#[test]
fn metrics_add_up() {
    let config = RouterConfig::uniform(2, WorkerConfig::new(2).capacity(3_000)).headroom_steps(256);
    let mut router = build(config, "level");
    for (id, tokens) in [(1, 400), (2, 300), (3, 200), (4, 100), (5, 50)] {
        router.enqueue(Request::new(id, tokens), 0).unwrap();
    }
    router.step(10).unwrap();
    router.advance();
    router.step(60).unwrap();
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    let loads: Vec<u64> = metrics.ranks.iter().map(|rank| rank.load_tokens).collect();
    let (most, sum) = (*loads.iter().max().unwrap(), loads.iter().sum::<u64>());
    assert_eq!((metrics.waiting, metrics.running, metrics.step), (1, 4, 1));
    assert_eq!(metrics.waiting_by_reason[WaitReason::NoSlot as usize], 1);
    assert_eq!(metrics.envelope_tokens, most as f64);
    assert_eq!(metrics.imbalance_tokens, (2 * most - sum) as f64);
    assert!(metrics.ranks.iter().all(|rank| rank.margin_tokens == (most - rank.load_tokens) as f64));
    assert!(metrics.ranks.iter().all(|rank| rank.free_slots == 0 && rank.kv_growth_tokens == 512));
    assert_eq!((metrics.longest_wait_ms, metrics.longest_wait_steps), (60, 1));
    let counters = &metrics.counters;
    assert_eq!((counters.arrived, counters.admitted_by_step), (5, 4));
    assert_eq!((counters.decide_ns.count(), counters.wait_ms.count(), counters.wait_steps.sum), (1, 4, 0));
    assert_eq!(counters.wait_ms.sum, 40);
}

#[test]
fn a_wait_begins_when_it_was_enqueued() {
    let config = RouterConfig::new(1, 1).expire_after_ms(5_000);
    let mut router = build(config, "level");
    router.enqueue(Request::new(1, 100), 0).unwrap();
    router.step(0).unwrap();
    router.finish(1, None).unwrap();
    // A minute in which nobody comes; then one comes, and no time was told.
    router.enqueue(Request::new(2, 100), None).unwrap();
    let plan = router.step(60_000).unwrap();
    assert_eq!((plan.admissions.len(), plan.returned.len()), (1, 0));
    assert_eq!(router.counters().wait_ms.sum, 0);
    // One that tells when it came has waited since, whenever somebody steps.
    router.enqueue(Request::new(3, 100), 61_000).unwrap();
    router.enqueue(Request::new(4, 100), None).unwrap();
    router.enqueue(Request::new(5, 100), 63_000).unwrap();
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    assert_eq!((metrics.now_ms, metrics.longest_wait_ms), (63_000, 2_000));
    assert!(router.step(65_999).unwrap().returned.is_empty());
    assert_eq!(router.step(66_000).unwrap().returned[0].id, 3);
    // The fourth got the date of the fifth.
    assert!(router.step(67_999).unwrap().returned.is_empty());
    let back: Vec<u64> = router.step(68_000).unwrap().returned.iter().map(|back| back.id.0).collect();
    assert_eq!(back, [4, 5]);
}

#[test]
fn a_jump_of_the_clock_neither_expires_nor_freezes() {
    const HOUR: u64 = 3_600_000;
    for (from, to) in
        [(10 * HOUR, 11 * HOUR), (10 * HOUR, 9 * HOUR), (1_700_000_000_000, 40), (40, u64::MAX - HOUR)]
    {
        let config = RouterConfig::new(1, 1)
            .expire_after_ms(5_000)
            .silence_timeout_ms(8_000)
            .dispatch_timeout_ms(8_000);
        let mut router = build(config, "level");
        router.enqueue(Request::new(1, 100), from).unwrap();
        router.enqueue(Request::new(2, 100), from).unwrap();
        assert_eq!(router.step(from).unwrap().admissions.len(), 1);
        assert!(router.step(from + 3_000).unwrap().returned.is_empty());
        // Three seconds are behind it, whatever the clock says now; a report carries it, and the same thing
        // happens twice.
        let report = WorkerReport::new(0, 0).last_dispatch(0);
        router.report(0, report, to).unwrap();
        assert!(router.step(to).unwrap().returned.is_empty());
        assert!(router.step(to + 1_999).unwrap().returned.is_empty());
        let back = router.step(to + 2_000).unwrap().returned.clone();
        assert_eq!(
            back.iter().map(|back| (back.id, back.reason)).collect::<Vec<_>>(),
            [(RequestId(2), ReturnReason::Expired)]
        );
        // Dispatched eight seconds ago.
        assert!(router.step(to + 4_999).unwrap().returned.is_empty());
        let back = router.step(to + 5_000).unwrap().returned.clone();
        assert_eq!((back[0].id, back[0].reason), (RequestId(1), ReturnReason::WorkerSilent));
        let mut metrics = Metrics::default();
        router.metrics(&mut metrics);
        assert_eq!((metrics.now_ms, metrics.counters.clock_jumps), (to + 5_000, 1));
    }
}

#[test]
fn what_has_grown_past_all_lengths_can_be_enqueued_again() {
    let mut router = build(RouterConfig::new(1, 1).expire_after_ms(0), "level");
    router.adopt(Request::new(1, 1 << 22), 0, 7).unwrap();
    let again = router.preempt(1).unwrap();
    assert_eq!(again.prompt_tokens, 1 << 22);
    router.enqueue(again, None).unwrap();
    // Nobody may wait at all, whether or not it came with a date.
    router.enqueue(Request::new(2, 5), 0).unwrap();
    assert_eq!(router.step(0).unwrap().returned.len(), 2);
}

/// Slots are open, and who may enter stands far behind those who may not: by rank, by length, by mask.
#[test]
fn no_slot_waits_for_somebody_who_is_only_far_behind() {
    struct Even;
    impl PairTerms for Even {
        fn bonus(&mut self, _: &Request, _: &mut [f32]) -> bool {
            false
        }
        fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
            workers[0] = if request.id.0 < 9_000 { 0 } else { u64::MAX };
            true
        }
    }
    for name in ["level", "exact", "br0", "least-kv", "longest-first", "jsq"] {
        let mut router = build(RouterConfig::new(3, 2), name);
        router.set_accepting(0, false).unwrap();
        for id in 0..10_000 {
            let request = Request::new(id, 100 + (id % 50) as u32);
            let request = if id < 9_998 { request.bound_to(0) } else { request.bound_to(1) };
            router.enqueue(request, 0).unwrap();
        }
        let mut entered: Vec<u64> =
            router.step(1).unwrap().admissions.iter().map(|dispatch| dispatch.id.0).collect();
        entered.sort_unstable();
        assert_eq!(entered, [9_998, 9_999], "{name}: by rank");

        let worker = WorkerConfig::new(4).capacity(3_000);
        let mut router = build(RouterConfig::uniform(2, worker).headroom_steps(0), name);
        router.adopt(Request::new(1 << 40, 1_000), 0, 0).unwrap();
        router.adopt(Request::new(1 << 41, 1_000), 1, 0).unwrap();
        for id in 0..10_000 {
            router.enqueue(Request::new(id, if id < 9_500 { 2_500 } else { 900 }), 0).unwrap();
        }
        let plan = router.step(1).unwrap();
        assert_eq!(plan.admissions.len(), 4, "{name}: by length");
        assert!(plan.admissions.iter().all(|dispatch| dispatch.id.0 >= 9_500));

        let mut router = build(RouterConfig::new(2, 3), name);
        for id in 0..10_000 {
            router.enqueue(Request::new(id, 100), 0).unwrap();
        }
        let plan = router.step_with(1, &mut Even).unwrap();
        assert_eq!(plan.admissions.len(), 6, "{name}: by mask");
        assert!(plan.admissions.iter().all(|dispatch| dispatch.id.0 >= 9_000));
    }
}

/// More slots are open than a window has requests: all of them are filled.
#[test]
fn a_cluster_that_starts_is_filled_in_one_step() {
    for name in ["level", "exact", "br0"] {
        let mut router = build(RouterConfig::new(8, 1_000), name);
        for id in 0..9_000 {
            router.enqueue(Request::new(id, 100 + (id * 7 % 900) as u32), 0).unwrap();
        }
        assert_eq!(router.step(0).unwrap().admissions.len(), 8_000, "{name}");
        assert_eq!(router.pool().len(), 1_000);
    }
}

/// What takes a look at everybody for each who leaves does not come to an end here.
#[test]
fn a_million_leave_at_once() {
    for (count, equal) in [(100_000, true), (1 << 20, false)] {
        let tokens = |id: u64| if equal { 1_000 } else { 2 + (id * 7919 % 5_000) as u32 };
        let config = RouterConfig::uniform(4, WorkerConfig::new(0).capacity(1 << 29)).expire_after_ms(1_000);
        let mut router = build(config, "level");
        let fill = |router: &mut Router, now_ms: u64| {
            for id in 0..count {
                router.enqueue(Request::new(id, tokens(id)).bound_to(3), now_ms).unwrap();
            }
        };
        let all = |back: &[balanceroute::Returned], reason: ReturnReason| {
            assert_eq!(back.len() as u64, count);
            assert!(back.iter().all(|back| back.reason == reason && back.worker == Some(WorkerId(3))));
        };
        fill(&mut router, 0);
        assert!(matches!(
            router.enqueue(Request::new(count, 1), 0),
            Err(RouterError::Batch(balanceroute::BatchError::TooManyWaiting { .. })) | Ok(())
        ));
        let _ = router.abort(count, None);
        all(&router.step(1_000).unwrap().returned, ReturnReason::Expired);
        fill(&mut router, 1_000);
        router.drain_worker(3).unwrap();
        all(&router.step(1_001).unwrap().returned, ReturnReason::WorkerDraining);
        router.set_accepting(3, true).unwrap();
        fill(&mut router, 1_001);
        let small = WorkerReport::new(0, 0).capacity(1);
        router.report(3, small, None).unwrap();
        all(&router.step(1_002).unwrap().returned, ReturnReason::NeverFits);
        router.report(3, small.capacity(1 << 29), None).unwrap();
        fill(&mut router, 1_002);
        let mut back = Vec::new();
        router.remove_worker(3, &mut back).unwrap();
        all(&back, ReturnReason::WorkerRemoved);
        assert!(router.pool().is_empty());
    }
}

#[test]
fn a_front_end_that_decides_for_the_others_has_the_whole() {
    let config = RouterConfig::uniform(2, WorkerConfig::new(8).capacity(8_000)).headroom_steps(10);
    let mut router = build(config.share(Share { index: 1, of: 4 }), "level");
    for id in 0..20 {
        router.enqueue(Request::new(id, 100), 0).unwrap();
    }
    assert_eq!(router.step(0).unwrap().admissions.len(), 4);
    router.set_share(Share::WHOLE).unwrap();
    assert_eq!(router.step(1).unwrap().admissions.len(), 12);
    router.set_share(Share { index: 1, of: 4 }).unwrap();
    for id in 0..4 {
        router.finish(id, 2).unwrap();
    }
    assert_eq!(router.step(2).unwrap().admissions.len(), 0, "it has more than its part");
    let refused = router.set_share(Share { index: 4, of: 4 }).unwrap_err();
    assert_eq!(refused, RouterError::Share { index: 4, of: 4, limit: 1024 });
    assert_eq!(router.config().share, Share { index: 1, of: 4 });
}

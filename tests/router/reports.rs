//! Reports that are late, repeated, out of order, contradictory or missing, one by one.

use balanceroute::policy::Parameters;
use balanceroute::router::{Metrics, RankMetrics};
use balanceroute::{
    BatchError, Request, RequestId, ReturnReason, Router, RouterConfig, RouterError, Verdict, WorkerConfig,
    WorkerId, WorkerReport,
};

fn router(timeout_ms: Option<u64>) -> Router {
    let config = RouterConfig::uniform(1, WorkerConfig::new(8).capacity(10_000))
        .headroom_steps(10)
        .dispatch_timeout_ms(timeout_ms);
    Router::new(config, "level", &Parameters::default()).expect("valid")
}

fn report(sequence: u64, last_dispatch: u64, running: u32, kv_used_tokens: u64) -> WorkerReport {
    WorkerReport::new(running, kv_used_tokens).sequence(sequence).last_dispatch(last_dispatch)
}

fn rank(router: &Router) -> RankMetrics {
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    metrics.ranks[0]
}

fn dispatch(router: &mut Router, ids: std::ops::RangeInclusive<u64>, now_ms: u64) {
    let count = ids.clone().count();
    for id in ids {
        router.enqueue(Request::new(id, 100), None).expect("valid");
    }
    assert_eq!(router.step(now_ms).expect("a decision").admissions.len(), count);
}

#[test]
fn a_stale_snapshot_erases_nothing() {
    let mut router = router(None);
    dispatch(&mut router, 1..=3, 0);
    // It has seen the first only, and holds 500 tokens of somebody else: 100 + 500 measured, 200 on top.
    assert_eq!(router.report(0, report(1, 1, 2, 600), None), Ok(Verdict::Taken));
    let found = rank(&router);
    assert_eq!((found.load_tokens, found.foreign_tokens, found.foreign_requests), (800, 500, 1));
    assert_eq!((found.unseen, found.acknowledged, found.free_slots), (2, 1, 4));
    // A new number on an old snapshot: nothing moves but our own growth, which it has not measured.
    router.progress(0, 5).expect("a worker");
    assert_eq!(router.report(0, report(2, 1, 2, 600), None), Ok(Verdict::Taken));
    assert_eq!(rank(&router).load_tokens, 105 + 495 + 210);
    // Much less than our lengths: they share. What has only just been acknowledged counts in full.
    assert_eq!(router.report(0, report(3, 3, 3, 7), None), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).unseen), (7 + 210, 0));
    // Once they decode, what is measured is what there is.
    router.progress(0, 1).expect("a worker");
    assert_eq!(router.report(0, report(4, 3, 3, 10), None), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).shared_tokens), (10, 308));
    // Who leaves takes its part of that, not its length.
    router.finish(2, None).expect("it runs");
    assert_eq!(rank(&router).load_tokens, 6);
}

#[test]
fn order_and_repetition() {
    let mut router = router(None);
    dispatch(&mut router, 1..=4, 0);
    assert_eq!(router.report(0, report(5, 2, 2, 900), None), Ok(Verdict::Taken));
    // A number again, whatever the report says.
    assert_eq!(router.report(0, report(5, 4, 8, 9_000), None), Ok(Verdict::Repeated));
    assert_eq!((rank(&router).load_tokens, rank(&router).unseen), (900 + 200, 2));
    // Overtaken on the way: it does not measure any more, but what it has seen has been seen.
    assert_eq!(router.report(0, report(4, 3, 8, 9_000), None), Ok(Verdict::Late));
    assert_eq!((rank(&router).load_tokens, rank(&router).unseen), (400 + 700, 1));
    // Newer, and has seen less.
    assert_eq!(router.report(0, report(6, 1, 0, 0), None), Ok(Verdict::Contradictory));
    assert_eq!(rank(&router).load_tokens, 1_100);
    // Without a number the order of coming counts, and what it has seen.
    let plain = |last| report(0, last, 4, 400).sequence(None);
    assert_eq!(router.report(0, plain(2), None), Ok(Verdict::Late));
    // Those 400 tokens may be ours or, while ours are on their way, still somebody else's.
    assert_eq!(router.report(0, plain(4), None), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).unseen), (800, 0));
    router.progress(0, 1).expect("a worker");
    assert_eq!(router.report(0, plain(4).kv_used(404), None), Ok(Verdict::Taken));
    assert_eq!(rank(&router).load_tokens, 404);
    // Numbers go on where they were.
    assert_eq!(router.report(0, report(6, 4, 5, 450), None), Ok(Verdict::Taken));
    let counts = rank(&router).reports;
    let found = (counts.taken, counts.repeated, counts.late, counts.contradictory);
    assert_eq!(found, (4, 1, 2, 1));
}

#[test]
fn impossible_reports_are_errors_and_change_nothing() {
    let mut router = router(None);
    dispatch(&mut router, 1..=2, 0);
    let before = rank(&router);
    let refused = RouterError::Dispatch { worker: WorkerId(0), sent: 2, found: 3 };
    assert_eq!(router.report(0, report(1, 3, 0, 0), None), Err(refused));
    assert!(matches!(
        router.report(0, report(1, 2, 0, u64::MAX), None),
        Err(RouterError::Batch(BatchError::WorkerTokens { what: "KV tokens used", .. }))
    ));
    assert_eq!(
        router.report(7, report(1, 0, 0, 0), None),
        Err(RouterError::Worker { workers: 1, found: WorkerId(7) })
    );
    assert_eq!(rank(&router), before);
    // More in use than fits: the worker is full, and full is no error.
    let over = report(1, 2, 2, 5_000).capacity(2_000);
    assert_eq!(router.report(0, over, None), Ok(Verdict::Taken));
    router.enqueue(Request::new(3, 1), None).expect("valid");
    assert!(router.step(1).expect("a decision").admissions.is_empty());
}

#[test]
fn a_lost_dispatch_comes_back_once_and_only_on_evidence() {
    let mut router = router(Some(1_000));
    dispatch(&mut router, 1..=4, 0);
    // Silence for a long time is no loss.
    assert!(router.step(60_000).expect("a decision").returned.is_empty());
    dispatch(&mut router, 5..=5, 60_000);
    // 2 and 4 have not arrived, 3 and 5 have.
    let gaps = report(1, 5, 3, 300).missing(0b101);
    assert_eq!(router.report(0, gaps, None), Ok(Verdict::Taken));
    assert_eq!(rank(&router).load_tokens, 300);
    let plan = router.step(60_001).expect("a decision");
    let lost: Vec<_> = plan.returned.iter().map(|back| (back.id, back.worker, back.reason)).collect();
    assert_eq!(
        lost,
        [
            (RequestId(2), Some(WorkerId(0)), ReturnReason::LostDispatch),
            (RequestId(4), Some(WorkerId(0)), ReturnReason::LostDispatch)
        ]
    );
    assert!(router.step(60_002).expect("a decision").returned.is_empty());
    assert_eq!(router.finish(2, None), Err(RouterError::Unknown { id: RequestId(2) }));
    // The caller sends one again, under the next number; it is too fresh to be lost.
    dispatch(&mut router, 2..=2, 60_100);
    assert_eq!(router.plan().admissions[0].number, 6);
    assert_eq!(router.report(0, report(2, 5, 3, 300), None), Ok(Verdict::Taken));
    assert!(router.step(60_200).expect("a decision").returned.is_empty());
    // If 4 runs there all the same, the next measurement shows it as somebody else's.
    assert_eq!(router.report(0, report(3, 6, 5, 500), None), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).foreign_requests), (500, 1));
}

#[test]
fn progress_is_as_good_as_an_acknowledgement() {
    let mut router = router(Some(1_000));
    dispatch(&mut router, 1..=2, 0);
    router.progress_request(2, 3).expect("it runs");
    assert_eq!(rank(&router).unseen, 1);
    // A worker that cannot tell what it has seen: 2 is in the measurement, 1 on top of it. It proves no loss
    // either.
    let silent = report(1, 0, 1, 103).last_dispatch(None);
    router.step(5_000).expect("a decision");
    assert_eq!(router.report(0, silent, None), Ok(Verdict::Taken));
    assert_eq!(rank(&router).load_tokens, 203);
    assert!(router.step(5_000).expect("a decision").returned.is_empty());
    // One that can: 1 never came.
    assert_eq!(router.report(0, report(2, 0, 1, 103), None), Ok(Verdict::Taken));
    let returned = &router.step(5_001).expect("a decision").returned;
    assert_eq!(returned.iter().map(|back| back.id).collect::<Vec<_>>(), [1]);
    assert_eq!(router.running_on(2), Some(WorkerId(0)));
}

/// Tokens overtake reports: one that was made before them has seen less and is right all the same.
#[test]
fn a_token_contradicts_no_report() {
    let config = RouterConfig::new(1, 8).in_order(true).dispatch_timeout_ms(5_000);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    dispatch(&mut router, 1..=4, 0);
    router.held(4).expect("it runs");
    router.progress_request(3, 1).expect("it runs");
    assert_eq!((rank(&router).unseen, rank(&router).acknowledged), (0, 0));
    for at in 1..6 {
        let before = report(at, 1, 1, 100);
        assert_eq!(router.report(0, before, 500 * at), Ok(Verdict::Taken));
    }
    assert!(router.step(3_000).expect("a decision").returned.is_empty());
    // By a token of one that is held the worker has those sent before it as well.
    dispatch(&mut router, 5..=6, 3_000);
    router.held(6).expect("it runs");
    assert_eq!(rank(&router).unseen, 1);
    router.progress_request(6, 1).expect("it runs");
    assert_eq!(rank(&router).unseen, 0);
}

#[test]
fn a_worker_that_holds_nothing_for_a_timeout_has_forgotten() {
    let mut router = router(Some(1_000));
    dispatch(&mut router, 1..=2, 0);
    router.progress(0, 7).expect("a worker");
    assert_eq!(router.report(0, report(1, 2, 2, 214), None), Ok(Verdict::Taken));
    router.step(3_000).expect("a decision");
    assert_eq!(router.report(0, report(2, 2, 0, 0), None), Ok(Verdict::Taken));
    // Once is not enough: the ends may be on their way to us.
    assert!(router.step(3_900).expect("a decision").returned.is_empty());
    router.step(4_000).expect("a decision");
    assert_eq!(router.report(0, report(3, 2, 0, 0), None), Ok(Verdict::Taken));
    let returned = &router.step(4_001).expect("a decision").returned;
    let found: Vec<_> = returned.iter().map(|back| (back.id, back.reason, back.generated_tokens)).collect();
    assert_eq!(
        found,
        [(RequestId(1), ReturnReason::WorkerForgot, 7), (RequestId(2), ReturnReason::WorkerForgot, 7)]
    );
    assert_eq!(router.running_len(), 0);
}

#[test]
fn silence_is_a_loss_where_the_configuration_says_so() {
    let config = RouterConfig::new(1, 4).silence_timeout_ms(2_000);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    dispatch(&mut router, 1..=3, 0);
    router.progress_request(2, 1).expect("it runs");
    assert!(router.step(1_999).expect("a decision").returned.is_empty());
    let returned = &router.step(2_000).expect("a decision").returned;
    let found: Vec<_> = returned.iter().map(|back| (back.id, back.reason)).collect();
    assert_eq!(
        found,
        [(RequestId(1), ReturnReason::WorkerSilent), (RequestId(3), ReturnReason::WorkerSilent)]
    );
}

#[test]
fn a_report_of_a_removed_worker_cannot_be_taken_for_anothers() {
    let mut router = router(None);
    dispatch(&mut router, 1..=1, 0);
    let mut returned = Vec::new();
    router.remove_worker(0, &mut returned).expect("a worker");
    assert_eq!((returned.len(), returned[0].reason), (1, ReturnReason::WorkerRemoved));
    assert!(router.step(1).expect("nobody to decide for").admissions.is_empty());
    let joined = router.add_worker(WorkerConfig::new(2)).expect("room");
    assert_eq!(joined, 1);
    assert!(matches!(router.report(0, report(9, 1, 1, 100), None), Err(RouterError::Worker { .. })));
    dispatch(&mut router, 1..=1, 2);
    assert_eq!((router.plan().admissions[0].worker, router.plan().admissions[0].number), (WorkerId(1), 1));
}

/// Whoever ran on a worker that starts anew comes back, once; what was sent to its new life stays there.
#[test]
fn a_worker_that_starts_anew_gives_back_what_it_forgot() {
    // Its numbers begin anew; it cannot number its reports; it tells its life.
    let plain = |sequence: u64, epoch: u64| WorkerReport::new(0, 0).sequence(sequence).epoch(epoch);
    type Life = fn(&dyn Fn(u64, u64) -> WorkerReport, u64) -> WorkerReport;
    let lives: [(Life, bool); 4] = [
        (|plain, round| plain(round, 1).epoch(None).last_dispatch(0), false),
        (|plain, round| plain(round, 1).epoch(None), false),
        (|plain, _| plain(0, 1).epoch(None).sequence(None).last_dispatch(0), false),
        (|plain, round| plain(round, 2), true),
    ];
    for (at, (life, at_once)) in lives.into_iter().enumerate() {
        let mut router = router(None);
        dispatch(&mut router, 1..=4, 0);
        for round in 1..=50 {
            router.advance();
            let report = report(1_000 + round, 4, 4, 400 + 4 * round).epoch(at_once.then_some(1));
            assert_eq!(router.report(0, report, 20 * round), Ok(Verdict::Taken));
        }
        let (mut back, mut restarts) = (Vec::new(), 0);
        for round in 1..=100 {
            let now_ms = 1_000 + 20 * round;
            // Where nothing is numbered, what arrives in the new life hides that it is one.
            if round == if at == 2 { 60 } else { 20 } {
                dispatch(&mut router, 9..=9, now_ms);
            }
            let mut report = life(&plain, round);
            if report.last_dispatch.is_some() && router.running_on(9).is_some() && round > 65 {
                report = report.last_dispatch(5).running(1).kv_used(100);
            }
            restarts += u32::from(router.report(0, report, now_ms) == Ok(Verdict::Restarted));
            let plan = router.step(now_ms).expect("a decision");
            back.extend(plan.returned.iter().map(|back| (back.id.0, back.reason)));
        }
        let forgot = |id| (id, ReturnReason::WorkerForgot);
        assert_eq!((restarts, back), (1, vec![forgot(1), forgot(2), forgot(3), forgot(4)]), "life {at}");
        assert_eq!(router.running_on(9), Some(WorkerId(0)), "life {at}");
        assert_eq!(rank(&router).reports.restarted, 1);
    }
}

/// Whatever was reported before a restart, or two, may come after it; whichever life it was of, that is over.
#[test]
fn a_report_of_any_life_before_is_no_new_one() {
    let mut router = router(None);
    let of = |epoch: u64, sequence: u64| WorkerReport::new(0, 0).epoch(epoch).sequence(sequence);
    assert_eq!(router.report(0, of(50, 9), 0), Ok(Verdict::Taken));
    for (at, epoch) in [20, 40, 10, 30].into_iter().enumerate() {
        assert_eq!(router.report(0, of(epoch, 1), 100 + at as u64), Ok(Verdict::Restarted));
    }
    dispatch(&mut router, 1..=2, 200);
    let held = of(30, 2).running(2).kv_used(200).last_dispatch(2);
    assert_eq!(router.report(0, held, 210), Ok(Verdict::Taken));
    // Those of two lives, now and then, for longer than it takes to be seen as a new life.
    for round in 0..30 {
        for (step, epoch) in [(0, 50), (1, 40), (2, 10), (3, 20)] {
            let late = of(epoch, 10 + round).running(7).last_dispatch(0);
            assert_eq!(
                router.report(0, late, 300 + 40 * round + step),
                Ok(Verdict::Contradictory),
                "{epoch}"
            );
        }
        if round % 10 == 9 {
            let held = held.sequence(3 + round);
            assert_eq!(router.report(0, held, 310 + 40 * round), Ok(Verdict::Taken));
        }
    }
    assert_eq!(router.step(2_000).expect("a decision").returned, []);
    // One that goes on all the same is alive.
    let verdicts: Vec<Verdict> =
        (0..4).map(|at| router.report(0, of(50, 100 + at), 3_000 + 400 * at).expect("taken")).collect();
    assert_eq!(verdicts[3], Verdict::Restarted, "{verdicts:?}");
    assert_eq!(router.step(5_000).expect("a decision").returned.len(), 2);
}

/// What others overtake on their way is no new life, however long that goes on.
#[test]
fn reports_out_of_order_are_no_new_life() {
    let mut router = router(None);
    dispatch(&mut router, 1..=4, 0);
    for round in 1..=500 {
        let now_ms = 20 * round;
        assert_eq!(router.report(0, report(10 * round, 4, 4, 400), now_ms), Ok(Verdict::Taken));
        for behind in 1..4 {
            let late = report(10 * round - 5 + behind, 4, 4, 400);
            assert_eq!(router.report(0, late, now_ms), Ok(Verdict::Late));
        }
    }
    assert_eq!((rank(&router).reports.restarted, router.running_len()), (0, 4));
}

/// What an engine says it runs is so.
#[test]
fn adopting_is_never_refused_for_want_of_room() {
    let config = RouterConfig::uniform(1, WorkerConfig::new(2).capacity(1_000)).headroom_steps(10);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    for id in 1..=3 {
        router.enqueue(Request::new(id, 400), None).expect("valid");
    }
    assert_eq!(router.step(0).expect("a decision").admissions.len(), 2);
    // It resumes one of its own, and runs one that waits here.
    router.adopt(Request::new(7, 300), 0, 50).expect("its word is good");
    router.adopt(Request::new(3, 400), 0, 0).expect("its word is good");
    assert_eq!((router.pool().len(), router.running_len()), (0, 4));
    assert_eq!(router.counters().adopted_beyond, 2);
    assert_eq!((rank(&router).running, rank(&router).free_slots, rank(&router).load_tokens), (4, 0, 1_550));
    router.enqueue(Request::new(8, 1), None).expect("valid");
    assert!(router.step(1).expect("a decision").admissions.is_empty());
    for id in [1, 2, 3, 7] {
        router.finish(id, None).expect("it runs");
    }
    assert_eq!(router.step(2).expect("a decision").admissions.len(), 1);
    let arrived = router.counters().arrived;
    assert_eq!(arrived, 5);
}

/// A report that tells its age is not taken to know what has begun and ended since.
#[test]
fn what_a_report_is_too_old_to_know_is_neither_foreign_nor_shared() {
    let mut router = router(None);
    dispatch(&mut router, 1..=2, 0);
    assert_eq!(router.report(0, report(1, 2, 2, 200).age(200), 10), Ok(Verdict::Taken));
    router.progress(0, 1).expect("a worker");
    assert_eq!(router.report(0, report(2, 2, 2, 202).age(200), 20), Ok(Verdict::Taken));
    assert_eq!(rank(&router).load_tokens, 202);
    // One ends, and is in the next measurement all the same.
    router.finish(1, 1_000).expect("it runs");
    assert_eq!(router.report(0, report(3, 2, 2, 202).age(200), 1_100), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).foreign_requests), (101, 0));
    // One begins, and is not in it yet, nor is the token that it began with.
    dispatch(&mut router, 3..=3, 1_150);
    router.progress_request(3, 1).expect("it runs");
    assert_eq!(router.report(0, report(4, 3, 1, 101).age(200), 1_200), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).shared_tokens), (202, 0));
    // Both were long ago: what is above and below our lengths is there, and is shared.
    assert_eq!(router.report(0, report(5, 3, 3, 303).age(200), 2_000), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).foreign_requests), (303, 1));
    assert_eq!(router.report(0, report(6, 3, 2, 150).age(200), 2_100), Ok(Verdict::Taken));
    assert_eq!((rank(&router).load_tokens, rank(&router).shared_tokens), (150, 52));
}

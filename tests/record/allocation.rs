//! Within a segment a call allocates nothing that it does not allocate without a recorder.

use balanceroute::policy::Parameters;
use balanceroute::record::RecordConfig;
use balanceroute::{Request, Router, RouterConfig, WorkerReport};

use crate::Folder;
use crate::counting::BYTES;

/// A request comes, waits with terms of its own, enters, grows and ends; and a worker reports.
fn round(router: &mut Router, round: u64) {
    let now_ms = 10 * round;
    for id in 4 * round..4 * round + 4 {
        router.enqueue(Request::new(id, 500 + id as u32 % 90).hash(id % 5), now_ms).expect("new");
    }
    let mut terms = |request: &Request, bonus_tokens: &mut [f32]| {
        bonus_tokens[request.id.get() as usize % 4] = 300.0;
        true
    };
    let admitted = router.step_with(now_ms, &mut terms).expect("sound").admissions.len();
    assert_eq!(admitted, 4);
    router.advance();
    for worker in 0..4 {
        let report = WorkerReport::new(1, 600).sequence(round);
        router.report(worker, report, now_ms).expect("a worker");
        router.progress(worker, 1).expect("a worker");
    }
    for id in 4 * round..4 * round + 4 {
        router.progress_requests(&[(id.into(), 2)]).expect("it runs");
        router.finish(id, now_ms).expect("it runs");
    }
}

#[test]
fn a_recorded_call_allocates_nothing_after_the_warm_up() {
    let folder = Folder::new();
    let mut router = Router::new(RouterConfig::new(4, 3), "level", &Parameters::default()).expect("valid");
    // What learns lengths grows for a while.
    (0..500).for_each(|at| round(&mut router, at));
    router.record(&RecordConfig::new(folder.path())).expect("a recording");
    (500..550).for_each(|at| round(&mut router, at));
    let before = BYTES.get();
    (550..1_000).for_each(|at| round(&mut router, at));
    assert_eq!(BYTES.get() - before, 0);
    assert_eq!(folder.segments().len(), 1);
    assert!(router.recording().expect("under way").calls > 10_000);
}

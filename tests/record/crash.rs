//! Logs of processes that were killed, and files that were damaged: what was written whole is kept.

use balanceroute::policy::Parameters;
use balanceroute::record::{RecordConfig, RecordError, Replay};
use balanceroute::{Request, Router, RouterConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::calls::{Calls, config};
use crate::{Folder, Seen, seen};

/// A recording in one segment, and how the router stood after each call.
fn recording(folder: &Folder, seed: u64, calls: usize) -> Vec<Seen> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut router = Router::new(config(&mut rng), "level", &Parameters::default()).expect("valid");
    router.record(&RecordConfig::new(folder.path())).expect("a recording");
    let mut stood = vec![seen(&router)];
    let mut drawn = Calls::new(rng);
    for _ in 0..calls {
        if router.apply(&drawn.next(&router)).is_ok() {
            stood.push(seen(&router));
        }
    }
    stood
}

#[test]
fn a_log_that_ends_anywhere_is_replayed_up_to_there() {
    let folder = Folder::new();
    let stood = recording(&folder, 3, 400);
    let path = folder.segments().remove(0);
    let whole = std::fs::read(&path).expect("a segment");
    let end = whole.iter().rposition(|&byte| byte != 0).expect("records") + 1;
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (mut torn, mut calls) = (0, Vec::new());
    for case in 0..300 {
        let mut bytes = whole.clone();
        let at = rng.random_range(0..end);
        match case % 3 {
            // What follows was never written.
            0 => bytes[at..].fill(0),
            1 => bytes.truncate(at),
            // A byte of it is another one.
            _ => bytes[at] ^= 1 << rng.random_range(0..8),
        }
        std::fs::write(&path, &bytes).expect("a file");
        let mut replay = match Replay::open(folder.path()) {
            Ok(replay) => replay,
            // Not even the beginning is there.
            Err(RecordError::NoSegment { .. } | RecordError::Nothing { .. }) => continue,
            Err(error) => panic!("case {case}: {error}"),
        };
        while let Some(event) = replay.next_event().expect("whole records") {
            assert!(!event.differs(), "case {case}: {event:?}");
        }
        torn += usize::from(!replay.torn().is_empty());
        let made = replay.calls() as usize;
        calls.push(made);
        assert_eq!(seen(replay.router()), stood[made], "case {case}");
    }
    assert!(torn > 60, "{torn} cases were found to be torn");
    assert!(calls.iter().any(|&made| made < 50) && calls.iter().any(|&made| made > 150), "{calls:?}");
}

#[test]
fn a_router_goes_on_where_another_one_stopped() {
    for (seed, policy) in [(1, "level"), (2, "brh-survival"), (3, "power-of-two"), (4, "level-exactmatch")] {
        let folder = Folder::new();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = config(&mut rng);
        let build = || Router::new(config.clone(), policy, &Parameters::default()).expect("valid");
        let (mut router, mut twin) = (build(), build());
        let ring = RecordConfig::new(folder.path()).segment_bytes(1 << 16).segments(3);
        router.record(&ring).expect("a recording");
        // Hashes come back under a key: they are equal where they were, and others.
        let mut calls = Calls::new(rng).without_hashes();
        for round in 0..4_000 {
            let call = calls.next(&twin);
            assert_eq!(
                format!("{:?}", router.apply(&call)),
                format!("{:?}", twin.apply(&call)),
                "{policy}, call {round}: {call:?}"
            );
            if round % 97 == 0 {
                // The process ends without a word, and another one begins.
                drop(router);
                router = Router::resume(&ring).expect("a recording");
                assert_eq!(seen(&router), Seen { learned: router.learned(), ..seen(&twin) }, "{policy}");
                assert_eq!(router.learned(), twin.learned(), "{policy}");
            }
        }
        assert!(folder.segments().len() <= 3);
    }
}

#[test]
fn a_segment_that_was_not_finished_is_passed_over() {
    let folder = Folder::new();
    let expected = recording(&folder, 5, 300).pop();
    let next = folder.path().join("00000002.brlog");
    for bytes in [&b""[..], b"brlog\0\0\x01", &[0; 1 << 10], b"brlog\0\0\x01\x05\0\0\0\x01\x02\x03\x04half"] {
        std::fs::write(&next, bytes).expect("a file");
        let ring = RecordConfig::new(folder.path());
        let router = Router::resume(&ring).expect("a recording");
        assert_eq!(Some(seen(&router)), expected);
        drop(router);
        let mut replay = Replay::open(folder.path()).expect("a log");
        while replay.next_event().expect("whole records").is_some() {}
        assert_eq!(Some(seen(replay.router())), expected);
        folder.segments()[1..].iter().for_each(|path| std::fs::remove_file(path).expect("a file"));
    }
}

#[test]
fn a_folder_is_one_routers() {
    let folder = Folder::new();
    let build = || Router::new(RouterConfig::new(2, 2), "level", &Parameters::default()).expect("valid");
    let (mut first, mut second) = (build(), build());
    let ring = RecordConfig::new(folder.path());
    assert!(matches!(Router::resume(&ring), Err(RecordError::Nothing { .. })));
    first.record(&ring).expect("a recording");
    assert!(matches!(second.record(&ring), Err(RecordError::InUse { .. })));
    assert!(matches!(Router::resume(&ring), Err(RecordError::InUse { .. })));
    assert!(second.recording().is_none());
    drop(first);
    second.record(&ring).expect("a recording");
    let calls = second.recording().expect("under way").calls;
    second.enqueue(Request::new(1, 10), 0).expect("new");
    let stopped = second.stop_recording().expect("under way");
    assert_eq!((stopped.calls, stopped.stopped), (calls + 1, None));
    second.enqueue(Request::new(2, 10), 0).expect("new");
    assert_eq!(Router::resume(&ring).expect("a recording").waiting().len(), 1);
}

#[test]
fn what_cannot_be_recorded_is_said_and_the_router_goes_on() {
    let folder = Folder::new();
    let mut router = Router::new(RouterConfig::new(2, 2), "level", &Parameters::default()).expect("valid");
    for (config, name) in [
        (RecordConfig::new(folder.path()).segment_bytes(10), "segment_bytes"),
        (RecordConfig::new(folder.path()).segments(1), "segments"),
    ] {
        let refused = router.record(&config).expect_err("out of range");
        assert!(matches!(refused, RecordError::Config { name: found, .. } if found == name), "{refused}");
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").expect("a file");
    let refused = router.record(&RecordConfig::new(&file)).expect_err("no folder");
    assert!(matches!(refused, RecordError::Io { .. }) && refused.to_string().contains("file"), "{refused}");
    assert!(router.recording().is_none());
    // The folder of a recording goes: it ends where its segment does, and says why.
    let gone = folder.path().join("gone");
    router.record(&RecordConfig::new(&gone).segment_bytes(1 << 16)).expect("a recording");
    std::fs::remove_dir_all(&gone).expect("a folder");
    for id in 0..20_000 {
        router.enqueue(Request::new(id, 10), id).expect("new");
        let _ = router.abort(id, None).expect("it waits");
    }
    let recording = router.recording().expect("it was under way");
    assert!(matches!(recording.stopped, Some(RecordError::Io { what: "create", .. })), "{recording:?}");
}

/// What a router does after its log has ended is nowhere: to go on from there would be to do it again.
#[test]
fn nobody_goes_on_from_a_log_that_ended_before_its_router() {
    let folder = Folder::new();
    let ring = RecordConfig::new(folder.path()).segment_bytes(1 << 16).segments(2);
    let mut router = Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).expect("valid");
    router.record(&ring).expect("a recording");
    // The next segment cannot be made.
    let in_the_way = folder.path().join("00000002.brlog");
    std::fs::create_dir(&in_the_way).expect("a folder");
    let mut calls = 0;
    while router.recording().expect("it was under way").stopped.is_none() {
        router.enqueue(Request::new(calls, 10), 0).expect("new");
        calls += 1;
    }
    drop(router);
    std::fs::remove_dir(&in_the_way).expect("a folder");
    let refused = Router::resume(&ring).err();
    assert!(
        matches!(&refused, Some(RecordError::Ended { path }) if path.ends_with("00000001.brlog")),
        "{refused:?}"
    );
    // All but the call that did not fit is replayed.
    let mut replay = Replay::open(folder.path()).expect("a log");
    while let Some(event) = replay.next_event().expect("whole records") {
        assert!(!event.differs());
    }
    assert_eq!((replay.calls(), replay.torn().len()), (calls - 1, 0));
    // A recording that is begun anew after it is another one.
    let mut router = Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).expect("valid");
    router.record(&ring).expect("a recording");
    router.enqueue(Request::new(1, 10), 0).expect("new");
    drop(router);
    assert_eq!(Router::resume(&ring).expect("a recording").waiting().len(), 1);
}

/// Who was given back is told again for as long as it has not come again, across segments and processes.
#[test]
fn who_was_given_back_is_not_lost_with_the_process() {
    let folder = Folder::new();
    let ring = RecordConfig::new(folder.path()).segment_bytes(1 << 16).segments(2);
    let config = RouterConfig::new(2, 2).dispatch_timeout_ms(100);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    router.record(&ring).expect("a recording");
    for id in 1..=4 {
        router.enqueue(Request::new(id, 10).hash(id), 0).expect("new");
    }
    let sent = router.step(0).expect("sound").admissions.clone();
    let unseen = |router: &Router| -> Vec<_> {
        router.unseen().iter().map(|of| (of.id.get(), of.worker.get(), of.number, of.prompt_tokens)).collect()
    };
    let mut expected: Vec<_> = sent.iter().map(|of| (of.id.get(), of.worker.get(), of.number, 10)).collect();
    expected.sort_unstable_by_key(|&(_, worker, number, _)| (worker, number));
    // What was shown is not among them, nor what was adopted.
    let first = expected.remove(0);
    router.progress_request(first.0, 1).expect("it runs");
    router.adopt(Request::new(9, 10), 0, 3).expect("a worker");
    assert_eq!(unseen(&router), expected);
    let id_on = |worker| sent.iter().find(|of| of.worker.get() == worker).expect("two of them").id;
    let (put_off, lost) = (id_on(0), id_on(1));
    let _ = router.preempt(put_off).expect("it runs");
    let mut gone = Vec::new();
    router.remove_worker(1, &mut gone).expect("a worker");
    let told = |router: &Router| {
        let untold = router.untold().expect("a recording");
        let mut ids: Vec<_> = untold.returned().map(|of| of.id).collect();
        ids.sort_unstable();
        (ids, untold.preempted().map(|of| (of.id, of.prompt_tokens)).collect::<Vec<_>>())
    };
    let mut ids: Vec<_> = gone.iter().map(|of| of.id).collect();
    ids.sort_unstable();
    let length = if put_off.get() == first.0 { 11 } else { 10 };
    assert_eq!(told(&router), (ids.clone(), vec![(put_off, length)]));
    for round in 0..3 {
        drop(router);
        router = Router::resume(&ring).expect("a recording");
        assert_eq!(told(&router), (ids.clone(), vec![(put_off, length)]), "round {round}");
        assert!(router.unseen().iter().all(|of| of.worker.get() == 0), "{:?}", router.unseen());
        // They are known until they come again, many segments later too.
        for id in 1_000..3_000 {
            router.enqueue(Request::new(id, 10), 0).expect("new");
            let _ = router.abort(id, None).expect("it waits");
        }
        if round == 0 {
            router.enqueue(Request::new(lost, 10), 0).expect("it has left");
            ids.retain(|&id| id != lost);
        }
    }
    assert!(!folder.segments()[0].ends_with("00000001.brlog"), "the first segment is still there");
    // Whoever steps has done with them.
    let _ = router.step(1).expect("sound");
    assert!(router.untold().expect("a recording").is_empty());
}

/// A process was gone for longer than a report may take to show a dispatch.
#[test]
fn a_dispatch_that_is_made_again_is_not_lost_by_the_time_without_a_process() {
    for again in [false, true] {
        let folder = Folder::new();
        let ring = RecordConfig::new(folder.path());
        let config = RouterConfig::new(1, 1).dispatch_timeout_ms(100);
        let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
        router.record(&ring).expect("a recording");
        router.enqueue(Request::new(1, 10), 0).expect("new");
        let sent = router.step(0).expect("sound").admissions.clone();
        drop(router);
        let mut router = Router::resume(&ring).expect("a recording");
        if again {
            let made = router.resend(5_000);
            assert_eq!(
                (made[0].id, made[0].worker, made[0].number),
                (sent[0].id, sent[0].worker, sent[0].number)
            );
        }
        // It was measured before the dispatch came.
        let report = balanceroute::WorkerReport::new(0, 0).last_dispatch(0);
        router.report(0, report, 5_050).expect("a worker");
        assert_eq!(router.running_len(), usize::from(again));
        router.report(0, report, 5_100).expect("a worker");
        assert_eq!(router.running_len(), 0, "it is lost");
    }
}

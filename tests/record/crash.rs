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

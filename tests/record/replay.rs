//! A replay is the router that was, from the beginning and from each segment.

use balanceroute::Router;
use balanceroute::policy::{NAMES, Parameters};
use balanceroute::record::{Log, RecordConfig, Replay};
use balanceroute::router::{Answer, Call};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::calls::{Calls, config};
use crate::{Folder, seen};

/// Replays a log to its end: how many calls, and the router.
fn replay(mut replay: Replay, name: &str) -> (u64, Router) {
    while let Some(event) = replay.next_event().expect("a whole log") {
        assert!(!event.differs(), "{name}: {event:?}");
    }
    (replay.calls(), replay.into_router())
}

#[test]
fn every_policy_is_replayed_call_by_call() {
    let mut kinds = std::collections::HashSet::new();
    for (seed, name) in NAMES.iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let config = config(&mut rng);
        let folder = Folder::new();
        let parameters = Parameters::new().seed(seed as u64);
        let mut router = Router::new(config, name, &parameters).expect("valid");
        let small = RecordConfig::new(folder.path()).segment_bytes(1 << 16).segments(1_000);
        router.record(&small).expect("a recording");
        let mut calls = Calls::new(rng);
        let mut made = 0;
        for _ in 0..6_000 {
            let call = calls.next(&router);
            let done = router.apply(&call).is_ok();
            made += u64::from(done);
            if done {
                kinds.insert(std::mem::discriminant(&call));
            }
        }
        let recording = router.recording().expect("under way");
        assert_eq!((recording.calls, &recording.stopped), (made, &None), "{name}");
        let expected = seen(&router);
        drop(router);
        let segments = folder.segments();
        assert!(segments.len() > 3, "{name}: {} segments", segments.len());
        let (count, replayed) = replay(Replay::open(folder.path()).expect("a log"), name);
        assert_eq!((count, seen(&replayed)), (made, expected), "{name}");
        // What the last segment alone tells.
        let last = segments.last().expect("a segment");
        let (count, replayed) = replay(Replay::open(last).expect("a segment"), name);
        assert_eq!((count, seen(&replayed)), (made, seen(&replay_all(folder.path()))), "{name}");
    }
    assert_eq!(kinds.len(), 32, "not every kind of call was made");
}

fn replay_all(folder: &std::path::Path) -> Router {
    replay(Replay::open(folder).expect("a log"), "again").1
}

#[test]
fn the_oldest_segments_go_and_the_rest_is_replayed() {
    let mut rng = ChaCha8Rng::seed_from_u64(40);
    let folder = Folder::new();
    let mut router = Router::new(config(&mut rng), "level", &Parameters::default()).expect("valid");
    let ring = RecordConfig::new(folder.path()).segment_bytes(1 << 16).segments(3);
    router.record(&ring).expect("a recording");
    let mut calls = Calls::new(rng);
    for _ in 0..20_000 {
        let _ = router.apply(&calls.next(&router));
    }
    assert_eq!(folder.segments().len(), 3);
    let expected = (router.recording().expect("under way").calls, seen(&router));
    let (count, replayed) = replay(Replay::open(folder.path()).expect("a log"), "level");
    assert_eq!((count, seen(&replayed)), expected);
}

#[test]
fn a_difference_is_named_where_it_begins() {
    let folder = Folder::new();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut router = Router::new(config(&mut rng), "exact", &Parameters::default()).expect("valid");
    router.record(&RecordConfig::new(folder.path())).expect("a recording");
    let mut calls = Calls::new(rng);
    for _ in 0..3_000 {
        let _ = router.apply(&calls.next(&router));
    }
    drop(router);
    // Another rule under the recorded one's name decides otherwise sooner or later.
    struct Other(Box<dyn balanceroute::Policy>);
    impl balanceroute::Policy for Other {
        fn name(&self) -> &'static str {
            "exact"
        }
        fn needs(&self) -> balanceroute::Needs {
            self.0.needs()
        }
        fn decide(&mut self, batch: &balanceroute::Batch<'_>, out: &mut balanceroute::Assignment) {
            self.0.decide(batch, out);
        }
        fn decide_by_reference(
            &mut self,
            batch: &balanceroute::Batch<'_>,
            out: &mut balanceroute::Assignment,
        ) -> Result<(), balanceroute::PolicyError> {
            self.0.decide_by_reference(batch, out)
        }
    }
    let other = balanceroute::policy::build("longest-first", &Parameters::default()).expect("a policy");
    let mut replay = Replay::with_policy(folder.path(), Box::new(Other(other)), None).expect("a log");
    let mut first = None;
    while let Some(event) = replay.next_event().expect("a whole log") {
        if event.differs() {
            first = Some(event);
            break;
        }
    }
    let first = first.expect("rules that differ");
    assert!(matches!(first.call, Call::Step { .. }), "{first:?}");
    assert!(matches!(first.recorded, Answer::Plan(_)), "{first:?}");
    assert!(first.at > 1, "{first:?}");
}

#[test]
fn prompts_are_told_apart_and_never_written() {
    let folder = Folder::new();
    let secret = 0x1122_3344_5566_7788;
    let written = |folder: &Folder| {
        let mut found = Vec::new();
        let mut replay = Replay::open(folder.path()).expect("a log");
        while let Some(event) = replay.next_event().expect("a whole log") {
            if let Call::Enqueue { request, .. } = event.call {
                found.push(request.prompt_hash.expect("a hash"));
            }
        }
        found
    };
    let mut runs = Vec::new();
    for _ in 0..2 {
        let config = balanceroute::RouterConfig::new(1, 1);
        let mut router = Router::new(config, "level-exactmatch", &Parameters::default()).expect("valid");
        router.record(&RecordConfig::new(folder.path())).expect("a recording");
        for (id, hash) in [(1, secret), (2, 5), (3, secret)] {
            router.enqueue(balanceroute::Request::new(id, 10).hash(hash), 0).expect("new");
        }
        drop(router);
        let found = written(&folder);
        assert_eq!(found[0], found[2]);
        assert!(found[0] != found[1] && !found.contains(&secret) && !found.contains(&5), "{found:?}");
        runs.push(found[0]);
        folder.segments().iter().for_each(|path| std::fs::remove_file(path).expect("a file"));
    }
    assert_ne!(runs[0], runs[1], "two recordings have one key");
}

#[test]
fn a_log_is_opened_by_its_folder_its_file_or_the_folder_above() {
    let above = Folder::new();
    let own = above.path().join("router-1-1");
    assert!(Log::open(above.path()).is_err());
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut router = Router::new(config(&mut rng), "br0", &Parameters::default()).expect("valid");
    router.record(&RecordConfig::new(&own)).expect("a recording");
    router.advance();
    for path in [above.path().to_owned(), own.clone(), own.join("00000001.brlog")] {
        let (count, _) = replay(Replay::open(&path).expect("a log"), "br0");
        assert_eq!(count, 1, "{}", path.display());
    }
}

/// What pair terms said in a step that was refused is no part of the next one.
#[test]
fn a_refused_step_leaves_no_terms_behind() {
    let folder = Folder::new();
    let config = balanceroute::RouterConfig::new(2, 1);
    let mut router = Router::new(config, "exact", &Parameters::default()).expect("valid");
    router.record(&RecordConfig::new(folder.path())).expect("a recording");
    for id in 1..4 {
        router.enqueue(balanceroute::Request::new(id, 100), 0).expect("new");
    }
    let mut says = |request: &balanceroute::Request, bonus_tokens: &mut [f32]| {
        bonus_tokens.fill(if request.id == 3 { f32::NAN } else { 9_000.0 });
        true
    };
    assert!(router.step_with(1, &mut says).is_err());
    router.step(2).expect("sound");
    let mut replay = Replay::open(folder.path()).expect("a log");
    let mut steps = 0;
    while let Some(event) = replay.next_event().expect("a whole log") {
        assert!(!event.differs(), "{event:?}");
        if let Call::Step { terms, .. } = &event.call {
            assert_eq!(terms, &None);
            steps += 1;
        }
    }
    assert_eq!(steps, 1);
}

#[test]
fn routers_of_different_rules_may_follow_one_another_in_a_folder() {
    let folder = Folder::new();
    let rules = [
        ("exact", Parameters::new()),
        ("longest-first", Parameters::new()),
        ("random", Parameters::new().seed(7)),
    ];
    let mut last = None;
    for (seed, (name, parameters)) in rules.iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let mut router = Router::new(config(&mut rng), name, parameters).expect("valid");
        router.record(&RecordConfig::new(folder.path())).expect("a recording");
        let mut calls = Calls::new(rng);
        for _ in 0..2_000 {
            let _ = router.apply(&calls.next(&router));
        }
        last = Some(seen(&router));
    }
    let mut found = Replay::open(folder.path()).expect("a log");
    while let Some(event) = found.next_event().expect("a whole log") {
        assert!(!event.differs(), "{}: {event:?}", found.header().policy);
    }
    assert_eq!((found.header().policy.as_str(), Some(seen(found.router()))), ("random", last));
}

//! The router as its own module sees it.

use super::*;
use crate::forecast::{Running, Termination};
use crate::ids::WorkerIndex;
use std::collections::HashMap;

fn router(name: &str, workers: usize, slots: u32) -> Router {
    Router::new(RouterConfig::new(workers, slots), name, &Parameters::default()).expect("valid")
}

#[test]
fn a_request_is_counted_from_arrival_to_end() {
    let mut router = router("level", 2, 1);
    router.enqueue(Request::new(1, 100), None).unwrap();
    router.enqueue(Request::new(2, 50), None).unwrap();
    router.enqueue(Request::new(3, 70), None).unwrap();
    assert_eq!(router.step(0).unwrap().admissions.len(), 2);
    assert_eq!(router.waiting().len(), 1);
    assert_eq!(router.waiting()[0].1, WaitReason::NoSlot);
    let before: u64 = router.workers().iter().map(|w| w.load_tokens).sum();
    router.advance();
    assert_eq!(router.workers().iter().map(|w| w.load_tokens).sum::<u64>(), before + 2);
    let first = router.plan().admissions[0].id;
    assert_eq!(router.finish(first, None).unwrap().generated_tokens, 1);
    assert_eq!(router.finish(first, None), Err(RouterError::Unknown { id: first }));
    assert_eq!(router.step(0).unwrap().admissions.len(), 1);
    router.abort(router.plan().admissions[0].id, None).unwrap();
    assert_eq!(router.running_len(), 1);
    assert!(router.pool().is_empty());
}

#[test]
fn who_was_sent_later_is_not_disowned_whatever_the_clock_shows() {
    for origin_ms in [0, 86_400_000] {
        let mut router = router("level", 1, 4);
        for (id, at_ms) in [(1, 10), (2, 20), (3, 30)] {
            let _ = router.send(Request::new(id, 100), None, origin_ms + at_ms).unwrap();
        }
        let mut left = Vec::new();
        for (until_ms, expected) in [(9, 0), (20, 2), (29, 2), (u64::MAX - origin_ms, 3)] {
            router.disown_sent(0, origin_ms + until_ms, &mut left).unwrap();
            assert_eq!(left.len(), expected, "by {until_ms} from {origin_ms} on: {left:?}");
        }
    }
}

#[test]
fn who_comes_again_without_a_reading_waits_from_the_next_one_on() {
    let config = RouterConfig::new(1, 1).expire_after_ms(5_000);
    let mut router = Router::new(config, "level", &Parameters::default()).unwrap();
    router.enqueue(Request::new(1, 100), 0).unwrap();
    assert_eq!(router.step(0).unwrap().admissions.len(), 1);
    let again = router.preempt(1).unwrap();
    router.enqueue(again, None).unwrap();
    // It has waited for no time yet, however long ago the clock was read.
    assert_eq!(router.step(60_000).unwrap().admissions.len(), 1);
    assert_eq!(router.counters().wait_ms.sum, 0);
}

#[test]
fn a_request_with_a_rank_is_sent_there_unless_a_worker_is_named() {
    let mut router = router("level", 3, 1);
    let mut sent_to = |id, rank: Option<u32>, worker: Option<WorkerId>| {
        router.send(Request::new(id, 100).rank(rank), worker, 0).map(|dispatch| dispatch.worker.0)
    };
    // The rank is full, and others are free.
    assert_eq!([1, 2].map(|id| sent_to(id, Some(2), None)), [Ok(2), Ok(2)]);
    assert_eq!(sent_to(3, Some(2), Some(WorkerId(1))), Ok(1));
    assert_eq!(sent_to(4, None, None), Ok(0));
    assert!(matches!(sent_to(5, Some(9), None), Err(RouterError::Worker { .. })));
}

#[test]
fn refusals_change_nothing() {
    let mut router = router("level", 2, 2);
    router.enqueue(Request::new(1, 100), None).unwrap();
    assert!(router.enqueue(Request::new(1, 100), None).is_err());
    assert!(router.enqueue(Request::new(2, 0), None).is_err());
    assert_eq!(
        router.enqueue(Request::new(2, 1).bound_to(2), None),
        Err(RouterError::Worker { workers: 2, found: WorkerId(2) })
    );
    // A message names what the caller knows: ids, and no index of the router's.
    let limits = "must be in 1..=4194304, found 0";
    for refused in [router.enqueue(Request::new(2, 0), None), router.adopt(Request::new(2, 0), 0, 0)] {
        assert_eq!(refused.unwrap_err().to_string(), format!("request 2: prompt tokens {limits}"));
    }
    let nobody = router.drain_worker(7).unwrap_err();
    assert_eq!(nobody.to_string(), "no worker has id 7 (2 workers are here)");
    let one = Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).unwrap().drain_worker(7);
    assert_eq!(one.unwrap_err().to_string(), "no worker has id 7 (1 worker is here)");
    let wide = Router::new(RouterConfig::new(1, 70_000), "level", &Parameters::default()).err().unwrap();
    assert_eq!(wide.to_string(), "worker 0: slots must be at most 65536, found 70000");
    router.step(0).unwrap();
    assert!(matches!(
        router.enqueue(Request::new(1, 100), None),
        Err(RouterError::Running { id: RequestId(1), .. })
    ));
    assert_eq!(router.pool().len(), 0);
    assert_eq!(router.preempt(9), Err(RouterError::Unknown { id: RequestId(9) }));
    // Who waits is told apart from who is not here; nothing has changed by the calls.
    router.enqueue(Request::new(8, 10), None).unwrap();
    let waits = RouterError::NotRunning { id: RequestId(8) };
    assert_eq!(waits.to_string(), "request 8 waits and does not run");
    assert_eq!(router.finish(8, None), Err(waits.clone()));
    assert_eq!(router.preempt(8), Err(waits.clone()));
    assert_eq!(router.progress_request(8, 1), Err(waits));
    assert_eq!(router.abort(8, None), Ok(None));
    assert!(router.set_accepting(7, false).is_err());
    let wrong = RouterConfig::uniform(2, WorkerConfig::new(1).weight(f32::NAN));
    assert!(Router::new(wrong, "level", &Parameters::default()).is_err());
    for found in [0, 65_537] {
        let wrong = RouterConfig::new(2, 1).refresh_steps(found);
        let refused = Router::new(wrong, "level", &Parameters::default()).err();
        let (name, low, high) = ("refresh_steps", 1, 65_536);
        assert_eq!(refused, Some(RouterError::Config { name, low, high, found }));
    }
    for within in [1, 65_536] {
        let config = RouterConfig::new(2, 1).refresh_steps(within);
        assert!(Router::new(config, "exact-survival", &Parameters::default()).is_ok());
    }
    let wrong = RouterConfig { share: Share { index: 2, of: 2 }, ..RouterConfig::new(2, 1) };
    assert!(matches!(
        Router::new(wrong, "level", &Parameters::default()),
        Err(RouterError::Share { index: 2, of: 2, .. })
    ));
}

#[test]
fn a_policy_that_breaks_its_promise_admits_nobody() {
    /// Sends everybody to this position.
    struct Twice(WorkerIndex);
    impl Policy for Twice {
        fn name(&self) -> &'static str {
            "twice"
        }
        fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
            out.clear();
            for (slot, request, _) in batch.waiting().iter() {
                let (id, prompt_tokens) = (request.id, request.prompt_tokens);
                out.admitted.push(crate::Admission {
                    id,
                    slot,
                    worker: self.0,
                    prompt_tokens,
                    score_tokens: 0.0,
                });
            }
        }
        fn needs(&self) -> crate::Needs {
            crate::Needs::new()
        }
    }
    let told = |position, removed: u32| {
        let policy = Box::new(Twice(WorkerIndex(position)));
        let mut router =
            Router::with_policy(RouterConfig::new(1 + removed as usize, 1), policy, None).unwrap();
        for worker in 0..removed {
            router.remove_worker(worker, &mut Vec::new()).unwrap();
        }
        router.enqueue(Request::new(1, 10), None).unwrap();
        router.enqueue(Request::new(2, 10), None).unwrap();
        let error = router.step(0).unwrap_err();
        assert_eq!((router.pool().len(), router.running_len()), (2, 0));
        error
    };
    let refused = |id, worker: Option<u32>| RouterError::Refused {
        policy: "twice",
        id: RequestId(id),
        worker: worker.map(WorkerId),
    };
    assert_eq!(told(0, 0), refused(2, Some(0)));
    // The worker at this position is known by another number.
    assert_eq!(told(0, 2), refused(2, Some(2)));
    assert_eq!(told(0, 2).to_string(), "policy twice may not send request 2 to worker 2");
    assert_eq!(told(1, 2), refused(1, None));
    assert_eq!(told(1, 2).to_string(), "policy twice may not send request 1 to a worker that is not there");
}

#[test]
fn a_preempted_request_comes_back_longer() {
    let mut router = router("level", 1, 2);
    router.enqueue(Request::new(1, 100), None).unwrap();
    router.step(0).unwrap();
    (0..5).for_each(|_| router.advance());
    let again = router.preempt(1).unwrap();
    assert_eq!(again.prompt_tokens, 105);
    assert_eq!(router.workers()[0].load_tokens, 0);
    router.enqueue(again, None).unwrap();
    assert_eq!(router.step(0).unwrap().admissions[0].prompt_tokens, 105);
}

#[test]
fn a_bonus_is_asked_for_again_each_step_and_outweighs_the_load() {
    let mut router = router("exact", 2, 2);
    router.adopt(Request::new(9, 400), 1, 0).unwrap();
    let mut asked = Vec::new();
    let mut likes = |request: &Request, bonus: &mut [f32]| {
        asked.push(request.id);
        if request.id == 2 {
            bonus[1] = 10_000.0;
        }
        request.id == 2
    };
    // A row that the caller names is nobody's.
    router.enqueue(Request::new(1, 100).pairs(7), None).unwrap();
    router.enqueue(Request::new(2, 100), None).unwrap();
    router.step_with(0, &mut likes).unwrap();
    assert_eq!(router.running_on(2), Some(WorkerId(1)));
    assert_eq!(router.running_on(1), Some(WorkerId(0)));
    router.enqueue(Request::new(3, 100), None).unwrap();
    router.enqueue(Request::new(4, 100), None).unwrap();
    router.step_with(0, &mut likes).unwrap();
    assert_eq!(asked, [1, 2, 3, 4]);
    // Full: nobody is asked, and the reasons can still be read; later steps without terms know nothing of
    // rows.
    let again = router.preempt(2).unwrap();
    assert_eq!(again.pair_row, None);
    router.enqueue(again, None).unwrap();
    router.enqueue(Request::new(5, 100), None).unwrap();
    router
        .step_by_reference_with(0, &mut |_: &Request, bonus: &mut [f32]| {
            bonus[0] = 1.0;
            true
        })
        .unwrap();
    // It stands where it stood before.
    assert_eq!(router.waiting(), [(RequestId(4), WaitReason::NoSlot), (RequestId(5), WaitReason::NoSlot)]);
    router.finish(1, None).unwrap();
    assert_eq!(router.step(0).unwrap().admissions[0].id, 4);
    assert!(router.pair_rows.is_empty() && !router.pool().candidates().any_pair_terms());
}

/// One request with a class must not refuse the steps of everybody.
#[test]
fn a_survival_class_says_nothing_to_a_router() {
    let mut router = router("level", 2, 1);
    router.enqueue(Request::new(1, 100).class(3), None).unwrap();
    router.enqueue(Request::new(2, 100), None).unwrap();
    assert_eq!(router.step(0).unwrap().admissions.len(), 2);
    assert_eq!(router.place(Request::new(3, 100).class(0), 0), Ok(Placement::Waits));
    router.step(0).unwrap();
    assert_eq!(router.waiting(), [(RequestId(3), WaitReason::NoSlot)]);
}

/// One request that is said to have run for an age must not refuse the steps of everybody.
#[test]
fn the_longest_output_leaves_steps_valid() {
    for name in ["level", "exact-oracle", "level-oracle"] {
        let mut router = router(name, 1, 2);
        router.tell_length(1, u32::MAX);
        router.adopt(Request::new(1, 100), 0, u32::MAX - 10).unwrap();
        router.enqueue(Request::new(2, 100), None).unwrap();
        assert_eq!(router.step(0).map(|plan| plan.admissions.len()), Ok(1), "{name}");
        assert_eq!(router.finish(1, None).unwrap().generated_tokens, u32::MAX - 10);
        router.enqueue(Request::new(3, 100), None).unwrap();
        assert_eq!(router.step(0).map(|plan| plan.admissions.len()), Ok(1), "{name}");
    }
}

#[test]
fn kv_capacity_leaves_room_for_growth() {
    let worker = WorkerConfig::new(8).capacity(1000);
    let config = RouterConfig { headroom_steps: Some(100), ..RouterConfig::uniform(1, worker) };
    let mut router = Router::new(config, "level", &Parameters::default()).unwrap();
    for id in 0..4 {
        router.enqueue(Request::new(id, 300), None).unwrap();
    }
    // 300 + 100 each: two fit into 1000.
    assert_eq!(router.step(0).unwrap().admissions.len(), 2);
    assert!(router.waiting().iter().all(|&(_, reason)| reason == WaitReason::NoCapacity));
}

/// Plays random events and compares what a policy is shown with a naive model of the truth.
#[test]
fn an_oracles_projection_is_the_future() {
    let mut router = router("exact-oracle", 3, 6);
    let horizon = router.policy().needs().projection_horizon.unwrap();
    let mut seed = 5u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % bound
    };
    let mut ends: HashMap<u64, (u32, u64, u64)> = HashMap::new();
    let mut outputs = HashMap::new();
    let mut id = 0;
    for now in 0..600u64 {
        while router.pool().len() < 4 {
            let (tokens, output) = (1 + next(500) as u32, 1 + next(60) as u32);
            router.tell_length(id, output);
            outputs.insert(id, (tokens, output));
            router.enqueue(Request::new(id, tokens), None).unwrap();
            id += 1;
        }
        router.step(0).unwrap();
        for admission in &router.plan().admissions {
            let (tokens, output) = outputs[&admission.id.0];
            ends.insert(admission.id.0, (admission.worker.0, now + u64::from(output), u64::from(tokens)));
        }
        let forecast_state = router.forecast_state.as_mut().unwrap();
        let accounts = &router.accounts;
        forecast_state.refresh(&router.slab, router.now, |active| {
            (active.worker.0 as usize, accounts[active.worker.0 as usize].generated_tokens(active))
        });
        for (g, worker) in router.workers.iter().enumerate() {
            let mut row = Vec::new();
            forecast_state.buckets.project(g, worker.load_tokens, worker.running, horizon, &mut row);
            for (h, &found) in row.iter().enumerate() {
                let expected: u64 = ends
                    .iter()
                    .filter(|(_, (on, end, _))| *on as usize == g && *end > now + h as u64)
                    .map(|(id, (_, end, tokens))| tokens + now + h as u64 - (end - u64::from(outputs[id].1)))
                    .sum();
                assert_eq!(found, expected, "worker {g}, step {now} + {h}");
            }
        }
        router.advance();
        let over: Vec<u64> =
            ends.iter().filter(|(_, (_, end, _))| *end == now + 1).map(|(&id, _)| id).collect();
        for id in over {
            assert_eq!(router.finish(id, None).unwrap().generated_tokens, outputs[&id].1);
            ends.remove(&id);
        }
    }
    assert!(id > 100);
}

/// What a classifier answers is the caller's: a probability that is none projects what the nearest one does.
#[test]
fn a_probability_that_is_none_is_put_in_its_range() {
    struct Says(Termination);
    impl TerminationClassifier for Says {
        fn predict(&mut self, _request: &Running, _horizon_steps: u32) -> Termination {
            self.0
        }
    }
    let projected = |probability, remaining_steps| {
        let policy = policy::build("exact-survival", &Parameters::default()).unwrap();
        let says = Box::new(Says(Termination { probability, remaining_steps }));
        let mut router = Router::with_policy(RouterConfig::new(2, 2), policy, Some(says)).unwrap();
        for id in 0..2 {
            router.enqueue(Request::new(id, 100), None).unwrap();
            router.step(id).unwrap();
            router.advance();
        }
        router.enqueue(Request::new(2, 100), None).unwrap();
        router.step(2).unwrap();
        router.forecast_state.unwrap().rows
    };
    let (never, surely) = (projected(0.0, 5.0), projected(1.0, 5.0));
    assert_ne!(never, surely);
    for (found, meant) in [(f64::NAN, &never), (-3.0, &never), (7.5, &surely), (f64::INFINITY, &surely)] {
        assert_eq!(&projected(found, 5.0), meant, "{found}");
    }
    assert_eq!(projected(1.0, f64::NAN), never);
}

#[test]
fn a_policy_that_looks_too_far_ahead_is_refused_before_the_first_step() {
    struct Far(usize);
    impl Policy for Far {
        fn name(&self) -> &'static str {
            "far"
        }
        fn decide(&mut self, _batch: &Batch<'_>, out: &mut Assignment) {
            out.clear();
        }
        fn needs(&self) -> crate::Needs {
            crate::Needs::new().projection_horizon(Some(self.0))
        }
    }
    let built = |horizon| Router::with_policy(RouterConfig::new(1, 1), Box::new(Far(horizon)), None).err();
    let refused = BatchError::Horizon { what: "projection", limit: MAX_HORIZON, found: 129 };
    assert_eq!((built(129), built(128)), (Some(refused.into()), None));
}

/// Who is held or preempted does not grow: nothing is predicted of it until it does again.
#[test]
fn who_does_not_grow_has_no_end() {
    struct Soon;
    impl crate::forecast::TerminationClassifier for Soon {
        fn predict(&mut self, _: &Running, _: u32) -> Termination {
            Termination { probability: 1.0, remaining_steps: 3.0 }
        }
    }
    let policy = policy::build("level-exactmatch", &Parameters::default()).unwrap();
    let config = RouterConfig::new(1, 2).refresh_steps(1_000);
    let mut router = Router::with_policy(config, policy, Some(Box::new(Soon))).unwrap();
    let ends = |router: &Router| {
        let mut ends = Vec::new();
        router.forecast_state.as_ref().unwrap().buckets.next_ends(0, 9, &mut ends);
        ends.len()
    };
    router.enqueue(Request::new(1, 100), 0).unwrap();
    router.step(0).unwrap();
    assert_eq!(ends(&router), 1);
    // It should have ended: the next step would ask again.
    (0..3).for_each(|_| router.advance());
    router.held(1).unwrap();
    router.step(1).unwrap();
    assert_eq!(ends(&router), 0);
    router.progress_request(1, 0).unwrap();
    assert_eq!((ends(&router), router.generated_tokens(1)), (0, Some(3)));
    router.progress_request(1, 2).unwrap();
    assert_eq!((ends(&router), router.generated_tokens(1)), (1, Some(5)));
    router.preempted(1).unwrap();
    router.finish(1, None).unwrap();
    assert_eq!(ends(&router), 0);
}

/// Those who run are as old as they are in the mean, not as whoever is ahead.
#[test]
fn what_is_learned_goes_by_all_who_run() {
    let config = RouterConfig::uniform(2, WorkerConfig::new(4).capacity(100_000));
    let mut router = Router::new(config, "level", &Parameters::default()).unwrap();
    let seen = |router: &Router| router.slab.entries.iter().map(|active| active.seen_tokens).sum::<u32>();
    (0..5).for_each(|id| router.enqueue(Request::new(id, 100), 0).unwrap());
    assert_eq!(router.step(0).unwrap().admissions.len(), 5);
    (0..4).for_each(|id| router.progress_request(id, 1).unwrap());
    assert_eq!((router.lived.steps, router.now), (0, 1));
    router.progress_request(4, 1).unwrap();
    assert_eq!((router.lived.steps, router.now), (1, 1));
    router.progress_request(3, 17).unwrap();
    router.progress_requests(&[(RequestId(2), 1), (RequestId(1), 1)]).unwrap();
    assert_eq!((router.lived.steps, router.lived.tokens, router.now), (4, 4, 18));
    router.advance();
    assert_eq!((router.lived.steps, router.now), (5, 19));
    router.progress(0, 10).unwrap();
    router.progress(1, 10).unwrap();
    assert_eq!((router.lived.steps, router.lived.tokens), (15, 4));
    // Each worker has its turn within 16 steps.
    router.progress(0, 16).unwrap();
    router.progress(1, 16).unwrap();
    let generated: u32 = (0..5).filter_map(|id| router.generated_tokens(id)).sum();
    assert!(seen(&router) >= generated - 5 * 16, "{} {generated}", seen(&router));
}

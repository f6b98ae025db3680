//! Calls that must be refused: each is a typed error that names what was wrong, and changes nothing.

use balanceroute::batch::{MAX_LOAD_TOKENS, MAX_PASSED, MAX_PROMPT_TOKENS, MAX_SLOTS, MAX_WAITED_STEPS};
use balanceroute::{
    Assigner, BatchError, Dispatch, PredictedEnd, PredictedEnds, Request, RequestId, Router, RouterError,
    Share, Worker, WorkerConfig, WorkerId, WorkerReport,
};

use crate::front::Front;
use crate::network::Draw;
use crate::tally::{Kind, Seen};
use crate::world::World;

type Refused = Result<(), RouterError>;
/// A call, and whether its error is the right one.
type Call = (Box<dyn FnOnce(&mut Router) -> Refused>, fn(&RouterError) -> bool);

fn call(call: impl FnOnce(&mut Router) -> Refused + 'static, is_right: fn(&RouterError) -> bool) -> Call {
    (Box::new(call), is_right)
}

impl World {
    pub(crate) fn invalid(&mut self, front: usize, kind: u64, salt: u64) {
        let mut draw = Draw(salt);
        let at = &mut self.fronts[front];
        if kind.is_multiple_of(8) {
            return bad_offsets(at, &mut draw, &mut self.seen);
        }
        let Some((make, is_right)) = invalid_call(at, kind / 8, &mut draw) else { return };
        at.call(true, &mut self.seen, |router| {
            let done = make(router);
            if let Err(error) = &done {
                assert!(is_right(error), "another error is right: {error:?}");
            }
            done
        });
    }
}

/// One of many kinds; none where nobody is there whom it could be about.
fn invalid_call(front: &Front, kind: u64, draw: &mut Draw) -> Option<Call> {
    // Nobody has these.
    let (nobody, nowhere) =
        (RequestId(1 << 60 | draw.next() >> 8), WorkerId(1 << 20 | draw.below(99) as u32));
    let fresh = Request::<WorkerId>::new(nobody, 1 + draw.below(400) as u32);
    let of_length = move |tokens: u32| {
        let mut request = fresh;
        request.prompt_tokens = tokens;
        request
    };
    let some = |list: &[RequestId], draw: &mut Draw| {
        if list.is_empty() { None } else { Some(list[draw.below(list.len() as u64) as usize]) }
    };
    let workers = front.router.worker_ids();
    let worker = (!workers.is_empty()).then(|| workers[draw.below(workers.len() as u64) as usize]);
    let now_ms = front.shows(draw.below(1 << 30), 0);
    let huge = MAX_PROMPT_TOKENS + 1 + draw.below(99) as u32;
    let unknown = |error: &RouterError| matches!(error, RouterError::Unknown { .. });
    let no_worker = |error: &RouterError| matches!(error, RouterError::Worker { .. });
    let of_batch = |error: &RouterError| matches!(error, RouterError::Batch(_));
    let weights = [f32::NAN, -1.0, 64.5, f32::INFINITY];
    let config = match draw.below(3) {
        0 => WorkerConfig::new(MAX_SLOTS + 1),
        1 => WorkerConfig::new(4).capacity(MAX_LOAD_TOKENS + 1),
        _ => WorkerConfig::new(4).weight(weights[draw.below(4) as usize]),
    };
    let call = match kind % 27 {
        0 => call(move |router| router.enqueue(of_length(0), now_ms), of_batch),
        1 => call(move |router| router.enqueue(of_length(huge), None), of_batch),
        2 => call(move |router| router.place(of_length(huge), now_ms).map(drop), of_batch),
        3 => call(move |router| router.enqueue(fresh.passed(MAX_PASSED + 1), now_ms), of_batch),
        4 => call(move |router| router.enqueue(fresh.waited(MAX_WAITED_STEPS + 1), None), of_batch),
        5 => call(
            move |router| router.enqueue(fresh.generated(fresh.prompt_tokens + 1), now_ms),
            |error| matches!(error, RouterError::Generated { .. }),
        ),
        6 => call(move |router| router.enqueue(fresh.bound_to(nowhere), now_ms), no_worker),
        // Doubles.
        7 => {
            let again = Request::new(some(&front.waiting, draw)?, 7);
            call(move |router| router.enqueue(again, now_ms), of_batch)
        }
        8 => {
            let again = Request::new(some(&front.running, draw)?, 7);
            let runs = |error: &RouterError| matches!(error, RouterError::Running { .. });
            call(move |router| router.place(again, now_ms).map(drop), runs)
        }
        9 => {
            let again = Request::new(some(&front.running, draw)?, 7);
            let runs = |error: &RouterError| matches!(error, RouterError::Running { .. });
            call(move |router| router.send(again, None, now_ms).map(drop), runs)
        }
        // Nobody's, or of one who waits.
        10 => call(move |router| router.finish(nobody, now_ms).map(drop), unknown),
        11 => call(move |router| router.abort(nobody, now_ms).map(drop), unknown),
        12 => call(move |router| router.progress_request(nobody, 1), unknown),
        13 => call(move |router| router.preempt(nobody).map(drop), unknown),
        14 => {
            let id = some(&front.waiting, draw)?;
            let waits = |error: &RouterError| matches!(error, RouterError::NotRunning { .. });
            call(move |router| router.finish(id, now_ms).map(drop), waits)
        }
        15 => {
            let id = some(&front.running, draw)?;
            let (worker, number) = front.runs_on(id)?;
            let dispatch = Dispatch { id, worker, number: number + 1, prompt_tokens: 1, score_tokens: 0.0 };
            let other = |error: &RouterError| matches!(error, RouterError::OtherDispatch { .. });
            call(move |router| router.abort_dispatch(&dispatch, now_ms).map(drop), other)
        }
        // Lengths out of range.
        16 => {
            let id = some(&front.running, draw)?;
            let grows = |error: &RouterError| matches!(error, RouterError::Progress { .. });
            call(move |router| router.progress_requests(&[(id, 1), (id, huge)]).map(drop), grows)
        }
        17 => {
            let (worker, grows) =
                (worker?, |error: &RouterError| matches!(error, RouterError::Progress { .. }));
            call(move |router| router.progress(worker, huge), grows)
        }
        18 => {
            let worker = worker?;
            call(move |router| router.adopt(of_length(0), worker, 3), of_batch)
        }
        // Reports.
        19 => {
            let worker = worker?;
            let report = WorkerReport::new(1, MAX_LOAD_TOKENS + 1);
            call(move |router| router.report(worker, report, now_ms).map(drop), of_batch)
        }
        20 => {
            let worker = worker?;
            let sent = front.router.rank_metrics(worker).ok()?.dispatches;
            let report = WorkerReport::new(1, 1).last_dispatch(sent + 1).capacity(1);
            let never = |error: &RouterError| matches!(error, RouterError::Dispatch { .. });
            call(move |router| router.report(worker, report, now_ms).map(drop), never)
        }
        // Workers.
        21 => call(move |router| router.adopt(fresh, nowhere, 0), no_worker),
        22 => call(move |router| router.remove_worker(nowhere, &mut Vec::new()), no_worker),
        23 => call(move |router| router.add_worker(config).map(drop), of_batch),
        24 => {
            let worker = worker?;
            call(move |router| router.configure_worker(worker, config), of_batch)
        }
        25 => {
            let share = [Share { index: 0, of: 0 }, Share { index: 3, of: 3 }, Share { index: 0, of: 1025 }];
            let share = share[draw.below(3) as usize];
            call(move |router| router.set_share(share), |error| matches!(error, RouterError::Share { .. }))
        }
        _ => {
            let mut learned = front.router.learned();
            learned.truncate(draw.below(learned.len() as u64) as usize);
            call(move |router| router.learn(&learned), |error| matches!(error, RouterError::Learned { .. }))
        }
    };
    Some(call)
}

/// A decision over the same workers with predicted ends whose offsets leave the array, fall, or are too few;
/// then one without, which the object must still be able to make.
fn bad_offsets(front: &Front, draw: &mut Draw, seen: &mut Seen) {
    let workers: Vec<Worker> = front.router.workers().iter().copied().take(8).collect();
    if workers.is_empty() {
        return;
    }
    let requests: Vec<Request> = (0..6).map(|id| Request::new(id, 1 + draw.below(900) as u32)).collect();
    let mut assigner = Assigner::new(front.setting.policy, &Default::default()).expect("a policy");
    let ends = [PredictedEnd { in_steps: 3, freed_tokens: 7 }; 2];
    let mut offsets = vec![0; workers.len() + 1];
    *offsets.last_mut().expect("one at least") = 2;
    let step = balanceroute::Step::new(&workers, &requests);
    let place = draw.below(offsets.len() as u64) as usize;
    match draw.below(3) {
        // Past the end, and perhaps back.
        0 => offsets[place] = 3 + draw.below(1 << 31) as u32,
        1 => offsets[0] = 1 + draw.below(2) as u32,
        _ => offsets.truncate(place),
    }
    let bad = step.ends(PredictedEnds { offsets: &offsets, ends: &ends });
    match assigner.assign(&bad) {
        Err(BatchError::PredictedEnd { .. } | BatchError::Length { .. }) => seen.add(Kind::BadOffsets),
        Err(error) => panic!("another error is right: {error}"),
        Ok(_) => panic!("{offsets:?} of {} ends must be refused", ends.len()),
    }
    let _ = assigner.assign(&balanceroute::Step::new(&workers, &requests)).expect("a sound step");
}

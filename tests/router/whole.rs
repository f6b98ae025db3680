//! A call is whole or not at all: a random stream with refused calls of every kind in it, against a router
//! that is spared them.
//!
//! Before and after each refused call what can be asked is the same; and since the twin's plans stay equal to
//! the end, so is what cannot.

use std::sync::Once;

use balanceroute::forecast::{Running, Survival, Termination, TerminationClassifier};
use balanceroute::policy::{self, Needs, Parameters, PolicyError, Rank, Rule};
use balanceroute::router::Metrics;
use balanceroute::{
    Assignment, Batch, BatchError, Dispatch, Mode, PairTerms, Policy, Request, RequestId, ReturnReason,
    Router, RouterConfig, RouterError, WaitReason, WorkerConfig, WorkerId, WorkerIndex, WorkerReport,
};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// How terms fail, once so many rows have been asked for.
#[derive(Clone, Copy)]
enum Fails {
    Never,
    NotANumber(u32),
    TooMuch(u32),
    Panics(u32),
}

/// Bonuses and masks that depend on who is asked for alone.
#[derive(Clone, Copy)]
struct Terms {
    salt: u64,
    fails: Fails,
    half: bool,
}

impl PairTerms for Terms {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        match &mut self.fails {
            Fails::NotANumber(0) => bonus_tokens[bonus_tokens.len() - 1] = f32::NAN,
            Fails::TooMuch(0) => bonus_tokens[0] = if self.half { 65_600.0 } else { 2e9 },
            Fails::Panics(0) => panic!("asked once too often"),
            Fails::NotANumber(left) | Fails::TooMuch(left) | Fails::Panics(left) => *left -= 1,
            Fails::Never => {}
        }
        let mut random = Random(self.salt ^ request.id.0);
        for bonus in bonus_tokens.iter_mut().filter(|bonus| **bonus == 0.0) {
            *bonus = if random.one_in(3) { random.below(400) as f32 } else { 0.0 };
        }
        true
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        let mut random = Random(self.salt ^ request.id.0 << 7);
        workers[0] = random.below(1 << 12);
        random.one_in(3)
    }

    fn stores_half(&self) -> bool {
        self.half
    }
}

/// A policy that may break its promise, or panic, after it has decided.
struct Unsound {
    inner: Box<dyn Policy>,
    next: std::sync::Arc<std::sync::atomic::AtomicU32>,
}

const SOUND: u32 = 0;
const TWICE: u32 = 1;
const PANICS: u32 = 2;

impl Policy for Unsound {
    fn name(&self) -> &'static str {
        "unsound"
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn bind(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<WorkerIndex> {
        self.inner.bind(arrival, ranks)
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        match self.next.swap(SOUND, std::sync::atomic::Ordering::Relaxed) {
            PANICS => panic!("a policy of somebody's"),
            TWICE => {
                self.inner.decide(batch, out);
                let first = out.admitted.first().copied();
                out.admitted.extend(first);
                // Nobody was admitted: somebody who does not wait is.
                if let (None, Some((slot, ..))) = (first, batch.waiting().iter().next()) {
                    let (id, prompt_tokens, score_tokens) = (RequestId(u64::MAX), 1, 0.0);
                    out.admitted.push(balanceroute::Admission {
                        id,
                        slot,
                        worker: WorkerIndex(0),
                        prompt_tokens,
                        score_tokens,
                    });
                }
            }
            _ => self.inner.decide(batch, out),
        }
    }

    fn rule(&mut self) -> Option<&mut dyn Rule> {
        self.inner.rule()
    }

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) -> Result<(), PolicyError> {
        self.inner.decide_by_reference(batch, out)
    }
}

/// The dispatch of nobody who runs here.
fn dispatch(id: u64) -> Dispatch {
    Dispatch { id: id.into(), worker: WorkerId(0), number: u64::MAX, prompt_tokens: 1, score_tokens: 0.0 }
}

/// What can be asked.
fn state(router: &Router) -> (Metrics, Vec<(RequestId, WaitReason)>, balanceroute::Plan) {
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    // A time of this machine's.
    metrics.counters.decide_ns = Default::default();
    (metrics, router.waiting(), router.plan().clone())
}

struct World {
    router: Router,
    twin: Router,
    unsound: std::sync::Arc<std::sync::atomic::AtomicU32>,
    random: Random,
    now_ms: u64,
    next_id: u64,
    refused: [u32; 12],
}

impl World {
    fn new(name: &str, mode: Mode, window: usize, seed: u64) -> Self {
        let unsound = std::sync::Arc::default();
        let parameters = Parameters::new().candidate_window(window);
        let build = |next: &std::sync::Arc<std::sync::atomic::AtomicU32>| {
            let config = RouterConfig::uniform(4, WorkerConfig::new(3).capacity(4_000))
                .mode(mode)
                .headroom_steps(10)
                .expire_after_ms(900)
                .silence_timeout_ms(700);
            let inner = policy::build(name, &parameters).expect("a policy");
            let classifier: Box<dyn TerminationClassifier> = Box::new(Survival::new());
            let policy = Unsound { inner, next: std::sync::Arc::clone(next) };
            Router::with_policy(config, Box::new(policy), Some(classifier)).expect("valid")
        };
        let (router, twin) = (build(&unsound), build(&std::sync::Arc::default()));
        Self { router, twin, unsound, random: Random(seed), now_ms: 0, next_id: 0, refused: [0; 12] }
    }

    /// A call that is refused: nothing that can be asked has changed, and it says why.
    fn refused<T: std::fmt::Debug>(
        &mut self,
        kind: usize,
        call: impl FnOnce(&mut Router) -> Result<T, RouterError>,
    ) {
        let before = state(&self.router);
        let error = call(&mut self.router).expect_err("refused");
        assert_eq!(before, state(&self.router), "{error}");
        self.refused[kind] += 1;
    }

    /// A step whose terms may be wrong. The router may take it all the same, if it never reads what is wrong:
    /// then the twin takes it too.
    fn step_or_refused(&mut self, kind: usize, terms: Terms) {
        let before = state(&self.router);
        let (now_ms, mut given) = (self.now_ms, terms);
        let taken = match self.router.step_with(now_ms, &mut given) {
            Ok(plan) => Some(plan.clone()),
            Err(error) => {
                assert_eq!(before, state(&self.router), "{error}");
                None
            }
        };
        match taken {
            None => self.refused[kind] += 1,
            Some(plan) => {
                let mut terms = Terms { fails: Fails::Never, ..terms };
                assert_eq!(&plan, self.twin.step_with(now_ms, &mut terms).expect("sound"));
            }
        }
    }

    fn request(&mut self) -> Request<WorkerId> {
        self.next_id += 1;
        let request = Request::new(self.next_id, 1 + self.random.below(1_500) as u32);
        let ids = self.router.worker_ids();
        match self.random.below(5) {
            0 if !ids.is_empty() => request.bound_to(ids[self.random.below(ids.len() as u64) as usize]),
            1 => request.deadline(3),
            _ => request,
        }
    }

    fn running(&mut self) -> Option<u64> {
        let from = self.next_id.saturating_sub(40);
        (0..20).map(|_| from + self.random.below(41)).find(|&id| self.router.running_on(id).is_some())
    }

    fn event(&mut self) {
        self.now_ms += self.random.below(30);
        let now_ms = self.random.one_in(2).then_some(self.now_ms);
        let some = self.router.worker_ids().get(self.random.below(6) as usize).copied();
        match self.random.below(42) {
            40 => {
                if let Some(id) = self.running() {
                    let call = [Router::held, Router::transfer_done, Router::preempted, Router::resumed]
                        [self.random.below(4) as usize];
                    assert_eq!(call(&mut self.router, id), Ok(()));
                    assert_eq!(call(&mut self.twin, id), Ok(()));
                }
            }
            41 => {
                let request = self.request();
                let sent = self.router.send(request, some, now_ms);
                assert_eq!(sent, self.twin.send(request, some, now_ms));
            }
            0..10 => {
                let request = self.request();
                self.router.enqueue(request, now_ms).expect("valid");
                self.twin.enqueue(request, now_ms).expect("valid");
            }
            10..12 => {
                let request = self.request();
                let terms = Terms { salt: self.random.below(1 << 30), fails: Fails::Never, half: false };
                let placed = self.router.place_with(request, self.now_ms, &mut { terms }).expect("valid");
                assert_eq!(Ok(placed), self.twin.place_with(request, self.now_ms, &mut { terms }));
            }
            12..18 => self.step(),
            18..20 => {
                self.router.advance();
                self.twin.advance();
            }
            20..24 => {
                if let Some(id) = self.running() {
                    let finished = self.router.finish(id, now_ms);
                    assert_eq!(finished, self.twin.finish(id, now_ms));
                }
            }
            24 => {
                let id = self.next_id - self.random.below(self.next_id.min(20) + 1);
                assert_eq!(self.router.abort(id, now_ms), self.twin.abort(id, now_ms));
            }
            25 => {
                if let Some(worker) = some {
                    let report = WorkerReport::new(self.random.below(4) as u32, self.random.below(3_000))
                        .capacity(self.random.one_in(3).then(|| 500 + self.random.below(5_000)));
                    let verdict = self.router.report(worker, report, now_ms);
                    assert_eq!(verdict, self.twin.report(worker, report, now_ms));
                }
            }
            26 => match (self.random.below(8), some) {
                (0, Some(worker)) => {
                    let config = WorkerConfig::new(4).capacity(1_500 + self.random.below(4_000));
                    assert_eq!(self.router.configure_worker(worker, config), Ok(()));
                    assert_eq!(self.twin.configure_worker(worker, config), Ok(()));
                }
                (0..3, _) if self.router.workers().len() < 7 => {
                    let config = WorkerConfig::new(3).capacity(2_000 + self.random.below(4_000));
                    assert_eq!(self.router.add_worker(config), self.twin.add_worker(config));
                }
                (3, Some(worker)) => {
                    self.router.drain_worker(worker).expect("a worker");
                    self.twin.drain_worker(worker).expect("a worker");
                }
                (4..6, Some(worker)) => {
                    let accepting = self.random.below(4) > 0;
                    self.router.set_accepting(worker, accepting).expect("a worker");
                    self.twin.set_accepting(worker, accepting).expect("a worker");
                }
                (6, Some(worker)) if self.router.workers().len() > 2 => {
                    let (mut returned, mut of_twin) = (Vec::new(), Vec::new());
                    self.router.remove_worker(worker, &mut returned).expect("a worker");
                    self.twin.remove_worker(worker, &mut of_twin).expect("a worker");
                    returned.sort_unstable_by_key(|returned| returned.id);
                    of_twin.sort_unstable_by_key(|returned| returned.id);
                    assert_eq!(returned, of_twin);
                }
                _ => {}
            },
            _ => self.refuse(),
        }
        let (mut ours, mut twins) = (state(&self.router), state(&self.twin));
        for metrics in [&mut ours.0, &mut twins.0] {
            metrics.ranks.iter_mut().for_each(|rank| rank.report_age_ms = None);
        }
        assert_eq!(ours, twins);
    }

    fn step(&mut self) {
        let now_ms = self.now_ms;
        let plan = if self.random.one_in(2) {
            let terms =
                Terms { salt: self.random.below(1 << 30), fails: Fails::Never, half: self.random.one_in(2) };
            let plan = self.twin.step_with(now_ms, &mut { terms }).expect("sound").clone();
            assert_eq!(&plan, self.router.step_with(now_ms, &mut { terms }).expect("sound"));
            plan
        } else {
            let plan = self.twin.step(now_ms).expect("sound").clone();
            assert_eq!(&plan, self.router.step(now_ms).expect("sound"));
            plan
        };
        for dispatch in plan.admissions {
            // As text: a score may be no number.
            let why = |router: &Router| format!("{:?}", router.explain(dispatch.id));
            assert_eq!(why(&self.router), why(&self.twin));
        }
    }

    fn refuse(&mut self) {
        let later = self.now_ms + self.random.below(2_000);
        let worker = self.router.worker_ids().first().copied().unwrap_or_default();
        let left = self.random.below(3) as u32;
        let terms = |fails, half| Terms { salt: 3, fails, half };
        match self.random.below(12) {
            0 => {
                let ids: Vec<RequestId> = self.router.waiting().iter().map(|&(id, _)| id).collect();
                if let Some(&id) = ids.get(self.random.below(1 + ids.len() as u64) as usize) {
                    self.refused(0, |router| {
                        let found = router.enqueue(Request::new(id, 5), later);
                        assert_eq!(found, Err(BatchError::Waits { id }.into()));
                        found
                    });
                }
            }
            1 => {
                if let Some(id) = self.running() {
                    self.refused(1, |router| router.place(Request::new(id, 5), later));
                    self.refused(1, |router| router.send(Request::new(id, 5), Some(worker), later));
                    let other = Dispatch { id: id.into(), worker: WorkerId(99), ..dispatch(0) };
                    self.refused(1, |router| router.finish_dispatch(&other, later));
                    self.refused(1, |router| router.abort_dispatch(&other, later));
                }
            }
            2 => {
                let id = self.next_id + 1;
                self.refused(2, |router| router.enqueue(Request::new(id, 0), later));
                self.refused(2, |router| router.enqueue(Request::new(id, u32::MAX), later));
                self.refused(2, |router| router.enqueue(Request::new(id, 5).waited(u32::MAX), later));
                self.refused(2, |router| router.enqueue(Request::new(id, 5).bound_to(999), later));
                self.refused(2, |router| router.adopt(Request::new(id, 0), worker, 3));
                self.refused(2, |router| router.enqueue(Request::new(id, 5).generated(6), later));
                self.refused(2, |router| router.send(Request::new(id, 5), Some(WorkerId(999)), later));
                let of_waiting = self.router.waiting().first().map_or(id.into(), |&(id, _)| id);
                for tokens in [0, u32::MAX] {
                    self.refused(2, |router| router.send(Request::new(of_waiting, tokens), None, later));
                }
            }
            3 => {
                self.refused(3, |router| router.finish(u64::MAX, later));
                self.refused(3, |router| router.abort(u64::MAX, later));
                self.refused(3, |router| router.preempt(u64::MAX));
                self.refused(3, |router| router.progress_request(u64::MAX, 1));
                self.refused(3, |router| router.held(u64::MAX));
                self.refused(3, |router| router.transfer_done(u64::MAX));
                self.refused(3, |router| router.preempted(u64::MAX));
                self.refused(3, |router| router.resumed(u64::MAX));
                self.refused(3, |router| router.finish_dispatch(&dispatch(u64::MAX), later));
                self.refused(3, |router| router.abort_dispatch(&dispatch(u64::MAX), later));
            }
            4 => {
                let report = WorkerReport::default();
                let much = report.kv_used(1 << 40);
                let early = report.last_dispatch(1 << 40);
                let wide = report.capacity(u64::MAX);
                for report in [much, early, wide] {
                    self.refused(4, |router| router.report(worker, report, later));
                }
                self.refused(4, |router| router.report(999, report, later));
                self.refused(4, |router| router.progress(worker, u32::MAX));
                let grown: Vec<(RequestId, u32)> =
                    self.running().map(|id| (id.into(), 1)).into_iter().collect();
                let grown = [grown, vec![(RequestId(u64::MAX), u32::MAX)]].concat();
                self.refused(4, |router| router.progress_requests(&grown));
                self.refused(4, |router| router.disown_sent(999, later, &mut Vec::new()));
            }
            5 => {
                self.refused(5, |router| router.add_worker(WorkerConfig::new(u32::MAX)));
                self.refused(5, |router| router.add_worker(WorkerConfig::new(1).weight(f32::NAN)));
                self.refused(5, |router| router.announce_worker(WorkerConfig::new(u32::MAX)));
                self.refused(5, |router| router.configure_worker(worker, WorkerConfig::new(u32::MAX)));
                self.refused(5, |router| router.configure_worker(999, WorkerConfig::new(1)));
                self.refused(5, |router| router.worker_config(999));
                self.refused(5, |router| router.drain_worker(999));
                self.refused(5, |router| router.set_accepting(999, true));
                self.refused(5, |router| router.remove_worker(999, &mut Vec::new()));
            }
            6 => self.step_or_refused(6, terms(Fails::NotANumber(left), self.random.0.is_multiple_of(2))),
            7 => self.step_or_refused(7, terms(Fails::TooMuch(left), self.random.0.is_multiple_of(2))),
            8 => self.step_or_refused(8, terms(Fails::Panics(left), false)),
            9 | 10 => {
                let fault = if self.random.one_in(2) { TWICE } else { PANICS };
                // A policy that is not asked breaks nothing.
                if self.router.pool().is_empty() || self.router.workers().is_empty() {
                    return;
                }
                self.unsound.store(fault, std::sync::atomic::Ordering::Relaxed);
                let before = state(&self.router);
                match self.router.step(later).cloned() {
                    // Everybody had expired: nobody was left to send twice.
                    Ok(plan) => {
                        assert_eq!(fault, TWICE);
                        assert_eq!(&plan, self.twin.step(later).expect("sound"));
                        self.now_ms = later;
                    }
                    Err(error) => {
                        match (fault, &error) {
                            (TWICE, RouterError::Refused { policy: "unsound", .. }) => {}
                            (_, RouterError::Panicked { message, .. }) if message.contains("somebody's") => {}
                            _ => panic!("{error:?}"),
                        }
                        assert_eq!(before, state(&self.router), "{error}");
                        self.refused[8 + fault as usize] += 1;
                    }
                }
            }
            _ => {
                let id = self.next_id + 1;
                let request = Request::new(id, 100);
                // Nobody is placed on a worker that is claimed, nor asked for it.
                let ranks = state(&self.router).0.ranks;
                let mut places = self.router.workers().iter().zip(&ranks);
                let open = places.any(|(worker, rank)| worker.open_slots() > 0 && rank.claimed_by.is_none());
                if open && self.router.config().mode == Mode::Arrival {
                    for fails in [Fails::NotANumber(0), Fails::TooMuch(0), Fails::Panics(0)] {
                        self.refused(11, |router| {
                            router.place_with(request, later, &mut terms(fails, false))
                        });
                    }
                }
            }
        }
    }
}

/// What panics on purpose does not fill the output.
fn quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload().downcast_ref::<&str>().copied().unwrap_or_default();
            if !["asked once too often", "a policy of somebody's", "the second is too much"].contains(&text) {
                hook(panic);
            }
        }));
    });
}

#[test]
fn what_is_refused_has_changed_nothing() {
    quietly();
    let mut refused = [0; 12];
    for (seed, (name, mode, window)) in [
        ("level", Mode::Step, 4096),
        ("level", Mode::Step, 3),
        ("exact-survival", Mode::Arrival, 5),
        ("br0", Mode::Step, 2),
        ("jsq", Mode::Arrival, 4),
        ("longest-first", Mode::Mixed { free_slots: 2 }, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = World::new(name, mode, window, 77 + seed as u64);
        world.router.set_explaining(seed % 2 == 1);
        world.twin.set_explaining(seed % 2 == 1);
        for _ in 0..6_000 {
            world.event();
        }
        for (sum, more) in refused.iter_mut().zip(world.refused) {
            *sum += more;
        }
    }
    assert!(refused.iter().all(|&count| count > 20), "{refused:?}");
}

/// A classifier may be anybody's too: it panics, the step says so once, and everything else goes on.
#[test]
fn a_classifier_that_panics_is_told_once() {
    struct Panics;
    impl TerminationClassifier for Panics {
        fn predict(&mut self, request: &Running, _horizon_steps: u32) -> Termination {
            assert!(request.id != 2, "the second is too much");
            Termination::NEVER
        }
    }
    let policy = policy::build("exact-survival", &Parameters::default()).expect("a policy");
    let mut router =
        Router::with_policy(RouterConfig::new(2, 1), policy, Some(Box::new(Panics))).expect("valid");
    for id in 1..=3 {
        router.enqueue(Request::new(id, 100), 0).expect("valid");
    }
    quietly();
    let admitted = router.step(0).map(|plan| plan.admissions.len());
    let told = router.step(1).cloned();
    assert_eq!(admitted, Ok(2));
    assert!(
        matches!(&told, Err(RouterError::Panicked { message, .. }) if message.contains("too much")),
        "{told:?}"
    );
    assert!(router.step(2).is_ok());
    assert_eq!(router.finish(2, None).map(|finished| finished.worker), Ok(WorkerId(1)));
    assert_eq!(router.step(3).map(|plan| plan.admissions[0].id), Ok(RequestId(3)));
}

#[test]
fn beginning_anew_gives_everybody_back_once_and_goes_on() {
    let config = RouterConfig::new(2, 2).expire_after_ms(5_000);
    let mut router = Router::new(config, "level-exactmatch", &Parameters::default()).expect("valid");
    for id in 0..7 {
        let request = if id == 6 { Request::new(id, 100).bound_to(1) } else { Request::new(id, 100) };
        router.enqueue(request, 0).expect("valid");
    }
    let numbers: Vec<u64> =
        router.step(0).expect("sound").admissions.iter().map(|dispatch| dispatch.number).collect();
    assert_eq!(numbers.len(), 4);
    router.advance();
    let before: Vec<u64> = router.workers().iter().map(|worker| worker.load_tokens).collect();
    let mut returned = router.recover();
    returned.sort_unstable_by_key(|returned| returned.id);
    assert_eq!(returned.iter().map(|returned| returned.id).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    assert!(returned.iter().all(|returned| returned.reason == ReturnReason::Recovered));
    assert_eq!(returned.iter().map(|returned| returned.generated_tokens).sum::<u32>(), 4);
    assert_eq!(returned[6].worker, Some(WorkerId(1)));
    assert!(router.pool().is_empty() && router.running_len() == 0);
    // What ran runs on, as somebody else's.
    assert_eq!(router.workers().iter().map(|worker| worker.load_tokens).collect::<Vec<_>>(), before);
    assert!(router.workers().iter().all(|worker| worker.free_slots == 0));
    assert!(router.recover().is_empty());
    // The ids come again, their workers report, and the dispatches are numbered on.
    for returned in returned {
        router.enqueue(Request::new(returned.id, 100), 1).expect("it has left");
    }
    for worker in 0..2 {
        let report = WorkerReport::new(0, 0).last_dispatch(2);
        router.report(worker, report, 2).expect("those of before were made");
    }
    let plan = router.step(3).expect("sound");
    assert_eq!(plan.admissions.len(), 4);
    assert!(plan.admissions.iter().all(|dispatch| dispatch.number > 2));
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    let counters = &metrics.counters;
    assert_eq!(counters.returned[ReturnReason::Recovered as usize], 7);
    let left =
        counters.finished + counters.aborted + counters.preempted + counters.returned.iter().sum::<u64>();
    assert_eq!(counters.arrived, left + metrics.waiting + metrics.running);
}

/// Its first life is not told yet as it is let in again: both come back, and the counts add up.
#[test]
fn beginning_anew_gives_an_id_back_for_every_time_that_it_was_let_in() {
    let config = RouterConfig::new(1, 1).dispatch_timeout_ms(100);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    router.enqueue(Request::new(1, 100), 0).expect("valid");
    assert_eq!(router.step(0).expect("sound").admissions.len(), 1);
    let unseen = WorkerReport::new(0, 0).last_dispatch(0);
    router.report(0, unseen, 200).expect("a worker");
    assert_eq!(router.running_len(), 0);
    router.enqueue(Request::new(1, 100), 300).expect("it has left");
    let returned: Vec<_> = router.recover().iter().map(|returned| (returned.id, returned.reason)).collect();
    assert_eq!(
        returned,
        [(RequestId(1), ReturnReason::LostDispatch), (RequestId(1), ReturnReason::Recovered)]
    );
    let counters = router.counters();
    assert_eq!((counters.arrived, counters.returned.iter().sum::<u64>()), (2, 2));
}

//! Where KV caches bind: who is overdue and fits nowhere claims a worker, which drains for it.

use std::collections::BTreeMap;

use balanceroute::policy::Parameters;
use balanceroute::router::{Decided, Metrics};
use balanceroute::{
    Dispatch, Mode, PairTerms, Placement, Request, RequestId, Router, RouterConfig, Share, WaitReason,
    WorkerConfig, WorkerId, WorkerReport,
};

const CAPACITY: u64 = 100_000;
/// A short request runs for so many steps at most.
const LONGEST_STEPS: u64 = 150;
/// The long request waits in vain so long that it is overdue.
const MOST_PASSED: u32 = 50;
/// Steps in which so many short ones are admitted, with some to spare.
const PASSED_STEPS: u64 = 150;
const LONG: u64 = 1 << 40;

/// A steady stream of short requests that keeps every KV cache full.
struct Stream {
    router: Router,
    /// The only workers that requests of these ids may use.
    masks: Masks,
    random: u64,
    next_id: u64,
    /// The step at whose end a request that runs is done.
    ends: BTreeMap<RequestId, u64>,
    step: u64,
    /// Pins of short ones, in turn.
    pinned: bool,
}

#[derive(Clone, Default)]
struct Masks(BTreeMap<RequestId, Vec<u32>>);

impl PairTerms for Masks {
    fn bonus(&mut self, _: &Request, _: &mut [f32]) -> bool {
        false
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        let Some(allowed) = self.0.get(&request.id) else { return false };
        workers[0] = allowed.iter().map(|worker| 1 << worker).sum();
        true
    }
}

fn config() -> RouterConfig {
    RouterConfig::uniform(4, WorkerConfig::new(64).capacity(CAPACITY))
}

fn stream(policy: &str, config: RouterConfig) -> Stream {
    let router =
        Router::new(config, policy, &Parameters::new().max_passed(Some(MOST_PASSED))).expect("valid");
    let mut stream = Stream {
        router,
        masks: Masks::default(),
        random: 7,
        next_id: 0,
        ends: BTreeMap::new(),
        step: 0,
        pinned: false,
    };
    stream.play(400);
    assert!(stream.ends.len() > 100, "caches are full");
    stream
}

impl Stream {
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % bound
    }

    fn short(&mut self) -> Request<WorkerId> {
        self.next_id += 1;
        let request = Request::new(self.next_id, 1_500 + self.below(1_000) as u32);
        let worker = self.router.worker_ids()[self.next_id as usize % self.router.worker_ids().len()];
        if self.pinned { request.bound_to(worker) } else { request }
    }

    fn begins(&mut self, id: RequestId) {
        let steps = LONGEST_STEPS - self.below(100);
        self.ends.insert(id, self.step + steps);
    }

    /// One step, and who was admitted by it.
    fn step(&mut self) -> Vec<Dispatch> {
        while self.router.pool().len() < 32 {
            let request = self.short();
            match self.router.place(request, self.step * 20).expect("valid") {
                Placement::Placed(dispatch) => self.begins(dispatch.id),
                Placement::Waits => {}
            }
        }
        let plan = match self.masks.0.is_empty() {
            true => self.router.step(self.step * 20),
            false => self.router.step_with(self.step * 20, &mut self.masks),
        };
        let admissions = plan.expect("a decision").admissions.clone();
        for dispatch in &admissions {
            self.begins(dispatch.id);
        }
        self.router.advance();
        self.step += 1;
        let ended: Vec<RequestId> =
            self.ends.iter().filter(|&(_, &end)| end <= self.step).map(|(&id, _)| id).collect();
        for id in ended {
            self.ends.remove(&id);
            self.router.finish(id, None).expect("it runs");
        }
        admissions
    }

    fn play(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    fn enqueue(&mut self, request: Request<WorkerId>) {
        self.router.enqueue(request, self.step * 20).expect("valid");
    }

    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        self.router.metrics(&mut metrics);
        metrics
    }

    /// Who claims which worker.
    fn claim(&self) -> Option<(RequestId, WorkerId)> {
        let metrics = self.metrics();
        let mut claims = metrics.ranks.iter().filter_map(|rank| Some((rank.claimed_by?, rank.worker)));
        let claim = claims.next();
        assert!(claims.next().is_none(), "one at a time");
        claim
    }

    /// Steps until a request claims a worker, and the worker.
    fn until_claim(&mut self, id: u64) -> WorkerId {
        for _ in 0..PASSED_STEPS {
            match self.claim() {
                Some((claims, worker)) if claims == id => return worker,
                _ => drop(self.step()),
            }
        }
        panic!("nothing is claimed: {:?}", self.metrics());
    }

    /// Steps until a request runs, at most so many; where.
    fn until_running(&mut self, id: u64, steps: u64) -> WorkerId {
        for _ in 0..=steps {
            if let Some(worker) = self.router.running_on(id) {
                return worker;
            }
            self.step();
        }
        panic!("it waits on: {:?}", self.router.explain(id));
    }
}

#[test]
fn a_long_request_enters_as_those_end_who_hold_the_room() {
    for policy in ["level", "exact", "level-exactmatch"] {
        for headroom_steps in [None, Some(256)] {
            let mut stream = stream(policy, config().headroom_steps(headroom_steps));
            stream.enqueue(Request::new(LONG, 60_000));
            let worker = stream.until_claim(LONG);
            let explained = stream.router.explain(LONG).expect("it waits");
            assert_eq!(explained.decided, Decided::Waits(WaitReason::Claims), "{policy}");
            assert_eq!(explained.worker, Some(worker));
            stream.until_running(LONG, LONGEST_STEPS);
            assert_eq!(stream.claim(), None);
            let counters = stream.router.counters();
            assert!(counters.claims > 0 && counters.returned.iter().all(|&count| count == 0));
            // It was passed by as many as may pass anybody, those of one step, and those beside its claim.
            let most = u64::from(MOST_PASSED) + 32 + counters.admitted_beside_claims;
            assert!(u64::from(counters.most_passed) <= most, "{counters:?}");
        }
    }
}

#[test]
fn a_deadline_of_its_own_claims_under_every_rule() {
    for policy in ["br0", "least-kv", "longest-first", "level"] {
        let mut stream = stream(policy, config());
        stream.enqueue(Request::new(LONG, 60_000).deadline(20));
        stream.play(21);
        assert_eq!(stream.claim().map(|claim| claim.0), Some(RequestId(LONG)), "{policy}");
        stream.until_running(LONG, LONGEST_STEPS);
    }
}

#[test]
fn nobody_else_enters_the_claimed_worker_in_any_mode() {
    for mode in [Mode::Step, Mode::Arrival, Mode::Mixed { free_slots: 40 }] {
        for pinned in [false, true] {
            let mut stream = stream("level", config().mode(mode));
            stream.pinned = pinned;
            stream.enqueue(Request::new(LONG, 60_000).bound_to(2));
            let worker = stream.until_claim(LONG);
            assert_eq!(worker, WorkerId(2), "it may use no other");
            let mut claimed = 0;
            while stream.router.running_on(LONG).is_none() {
                let before: Vec<RequestId> = stream.ends.keys().copied().collect();
                let is_claimed = stream.claim().is_some();
                stream.step();
                // What enters in the step that ends the claim enters beside the request itself.
                if is_claimed && stream.router.running_on(LONG).is_none() {
                    let entered = stream.ends.keys().filter(|id| !before.contains(id));
                    let there = entered.filter(|&&id| stream.router.running_on(id) == Some(worker)).count();
                    assert_eq!(there, 0, "{mode:?}, pinned {pinned}");
                    claimed += 1;
                }
                assert!(claimed <= LONGEST_STEPS, "{mode:?}, pinned {pinned}");
            }
            assert!(claimed > 10, "{claimed} steps");
            let placed = stream.router.counters().placed_on_arrival;
            assert!(mode == Mode::Step || placed > 100, "{mode:?}: {placed}");
        }
    }
}

#[test]
fn who_fits_only_on_the_claimed_worker_is_told_so() {
    let mut stream = stream("level", config());
    stream.enqueue(Request::new(LONG, 60_000).bound_to(2));
    stream.until_claim(LONG);
    stream.play(40);
    assert!(stream.claim().is_some());
    stream.enqueue(Request::new(LONG + 1, 10_000));
    stream.enqueue(Request::new(LONG + 2, 900).bound_to(2));
    stream.enqueue(Request::new(LONG + 3, 59_000).bound_to(2));
    let reasons = stream.router.waiting();
    let of = |id: u64| reasons.iter().find(|(of, _)| *of == id).map(|&(_, reason)| reason);
    let claimed = Some(WaitReason::Claimed);
    assert_eq!((of(LONG), of(LONG + 1), of(LONG + 2)), (Some(WaitReason::Claims), claimed, claimed));
    assert_eq!(of(LONG + 3), Some(WaitReason::NoCapacity));
    let mut by_reason = [0; WaitReason::ALL.len()];
    reasons.iter().for_each(|(_, reason)| by_reason[*reason as usize] += 1);
    assert_eq!(stream.metrics().waiting_by_reason, by_reason);
}

#[test]
fn reasons_behind_the_window_know_the_claim() {
    let parameters = Parameters::new().max_passed(Some(MOST_PASSED)).candidate_window(1);
    let mut router = Router::new(config(), "level", &parameters).expect("valid");
    for worker in 0..4u32 {
        router
            .adopt(Request::new(10 + u64::from(worker), 80_000 - 1_000 * worker), worker, 0)
            .expect("valid");
    }
    router.enqueue(Request::new(LONG, 60_000).deadline(0), 0).expect("valid");
    for (id, tokens) in [(1, 40_000), (2, 16_500), (3, 15_500)] {
        router.enqueue(Request::new(id, tokens), 0).expect("valid");
    }
    router.enqueue(Request::new(4, 15_500).bound_to(3), 0).expect("valid");
    router.enqueue(Request::new(5, 40_000).bound_to(3), 0).expect("valid");
    router.set_accepting(0, false).expect("a worker");
    router.set_accepting(1, false).expect("a worker");
    router.step(0).expect("a decision");
    // Room is 16,000 on worker 2 and 17,000 on the claimed one.
    assert_eq!(router.running_on(3), Some(WorkerId(2)));
    let reason = |id: u64| router.waiting().into_iter().find(|(of, _)| *of == id).map(|(_, reason)| reason);
    let found = [LONG, 1, 2, 4, 5].map(|id| reason(id).expect("it waits"));
    use WaitReason::{Claimed, Claims, NoCapacity};
    assert_eq!(found, [Claims, NoCapacity, Claimed, Claimed, NoCapacity]);
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    let counts = [Claims, NoCapacity, Claimed].map(|reason| metrics.waiting_by_reason[reason as usize]);
    assert_eq!((counts, metrics.waiting), ([1, 2, 2], 5));
    assert_eq!(metrics.ranks[3].claimed_by, Some(RequestId(LONG)));
}

#[test]
fn it_claims_a_worker_that_it_may_use_and_that_could_ever_hold_it() {
    let mut stream = stream("level", config());
    stream.router.configure_worker(1, WorkerConfig::new(64).capacity(50_000)).expect("a worker");
    // Somebody else's tokens never end by our word.
    let foreign = WorkerReport::new(64, 190_000);
    stream.router.report(3, foreign, None).expect("a worker");
    stream.masks.0.insert(RequestId(LONG), vec![1, 2, 3]);
    stream.enqueue(Request::new(LONG, 60_000));
    for _ in 0..20 {
        assert_eq!(stream.until_claim(LONG), WorkerId(2));
        stream.step();
    }
    assert_eq!(stream.until_running(LONG, LONGEST_STEPS), WorkerId(2));
}

#[test]
fn the_claim_moves_on_when_its_worker_drains_leaves_or_shrinks() {
    for change in 0..4 {
        let mut stream = stream("level", config());
        stream.enqueue(Request::new(LONG, 60_000));
        let worker = stream.until_claim(LONG);
        stream.play(20);
        let (_, worker) = stream.claim().unwrap_or((RequestId(LONG), worker));
        match change {
            0 => stream.router.drain_worker(worker).expect("a worker"),
            1 => stream.router.set_accepting(worker, false).expect("a worker"),
            2 => {
                let mut returned = Vec::new();
                stream.router.remove_worker(worker, &mut returned).expect("a worker");
                stream.ends.retain(|id, _| returned.iter().all(|gone| gone.id != *id));
            }
            _ => {
                let smaller = WorkerConfig::new(64).capacity(50_000);
                stream.router.configure_worker(worker, smaller).expect("a worker");
            }
        }
        if change < 3 {
            assert_eq!(stream.claim(), None, "nobody claims a worker that takes nobody");
        }
        stream.step();
        assert!(stream.claim().is_some_and(|claim| claim.1 != worker), "change {change}");
        assert_ne!(stream.until_running(LONG, LONGEST_STEPS), worker);
    }
}

#[test]
fn the_claim_is_gone_with_the_request() {
    let claims = |expire_after_ms: Option<u64>| {
        let mut stream = stream("level", config().expire_after_ms(expire_after_ms));
        stream.enqueue(Request::new(LONG, 60_000));
        stream.until_claim(LONG);
        stream.play(10);
        assert!(stream.claim().is_some());
        stream
    };
    let mut given_up = claims(None);
    given_up.router.abort(LONG, None).expect("it waits");
    assert_eq!(given_up.claim(), None);
    let mut sent = claims(None);
    let _ = sent.router.send(Request::new(LONG, 60_000), None, None).expect("a worker");
    assert_eq!(sent.claim(), None);
    let mut adopted = claims(None);
    adopted.router.adopt(Request::new(LONG, 60_000), 1, 0).expect("a worker");
    assert_eq!(adopted.claim(), None);
    let mut recovered = claims(None);
    let _ = recovered.router.recover();
    assert_eq!(recovered.claim(), None);
    let mut expired = claims(Some(20 * 400));
    let late_ms = 20 * (expired.step + 400);
    let plan = expired.router.step(late_ms).expect("a decision");
    assert!(plan.returned.iter().any(|gone| gone.id == LONG));
    assert_eq!(expired.claim(), None);
    // What was kept is filled again.
    let room = |stream: &Stream| {
        stream.router.workers().iter().map(|worker| worker.room_tokens()).max().expect("workers")
    };
    let before = room(&given_up);
    given_up.play(10);
    assert!(before > 8_000 && room(&given_up) < 4_000, "{before} {}", room(&given_up));
}

#[test]
fn one_claims_at_a_time_and_overdue_ones_before_it_may_still_enter() {
    let mut stream = stream("level", config());
    stream.enqueue(Request::new(LONG, 60_000).bound_to(2).deadline(1));
    stream.enqueue(Request::new(LONG + 1, 60_000).bound_to(1).deadline(1));
    stream.play(3);
    assert_eq!(stream.claim(), Some((RequestId(LONG), WorkerId(2))));
    let room = |stream: &Stream| stream.router.workers()[2].room_tokens();
    while room(&stream) < 30_000 {
        stream.step();
    }
    // One that has waited longer, and fits there alone: it has come back from another router, say.
    let older = Request::new(LONG + 2, 20_000).bound_to(2).deadline(1).waited(5_000);
    stream.enqueue(older);
    let admitted = stream.step();
    let there: Vec<RequestId> =
        admitted.iter().filter(|to| to.worker == WorkerId(2)).map(|to| to.id).collect();
    assert_eq!(there, [RequestId(LONG + 2)], "and nobody with it");
    assert_eq!(stream.claim(), Some((RequestId(LONG), WorkerId(2))));
    stream.until_running(LONG, LONGEST_STEPS);
    stream.step();
    assert_eq!(stream.claim(), Some((RequestId(LONG + 1), WorkerId(1))));
    stream.until_running(LONG + 1, LONGEST_STEPS);
}

#[test]
fn one_that_needs_an_empty_worker_gets_one() {
    for headroom_steps in [None, Some(256)] {
        let mut stream = stream("level", config().headroom_steps(headroom_steps));
        stream.enqueue(Request::new(LONG, CAPACITY as u32 - 10));
        stream.until_claim(LONG);
        // Which worker drains is open at first, while all have about as much room.
        stream.until_running(LONG, 2 * LONGEST_STEPS);
    }
}

#[test]
fn a_preempted_request_claims_again_from_its_old_place() {
    let mut stream = stream("level", config());
    stream.enqueue(Request::new(LONG, 60_000));
    stream.until_claim(LONG);
    stream.until_running(LONG, LONGEST_STEPS);
    // Its engine puts it off, and it comes back while others have filled its room.
    stream.router.preempted(LONG).expect("it runs");
    stream.router.resumed(LONG).expect("it runs");
    stream.router.preempted(LONG).expect("it runs");
    let again = stream.router.preempt(LONG).expect("it runs");
    stream.ends.remove(&RequestId(LONG));
    stream.play(40);
    stream.enqueue(again);
    let first = stream.router.waiting()[0].0;
    assert_eq!(first, RequestId(LONG), "it stands where it stood");
    stream.step();
    assert_eq!(stream.claim().map(|claim| claim.0), Some(RequestId(LONG)), "it has not been passed anew");
    stream.until_running(LONG, LONGEST_STEPS);
}

#[test]
fn a_worker_is_kept_once_its_claim_has_been_passed_as_often_again() {
    let parameters = Parameters::new().max_passed(Some(4));
    let workers = RouterConfig::uniform(2, WorkerConfig::new(8).capacity(10_000)).headroom_steps(0);
    let mut router = Router::new(workers, "level", &parameters).expect("valid");
    for worker in 0..2u32 {
        for id in 0..4 {
            let id = 10 * (u64::from(worker) + 1) + id;
            router.adopt(Request::new(id, 2_400), worker, 0).expect("valid");
        }
    }
    let claim = |router: &Router| {
        let mut metrics = Metrics::default();
        router.metrics(&mut metrics);
        metrics.ranks.iter().position(|rank| rank.claimed_by == Some(RequestId(LONG)))
    };
    let claim_with = |router: &mut Router, passed: u32| {
        router.enqueue(Request::new(LONG, 9_000).passed(passed), 0).expect("valid");
        router.step(0).expect("a decision");
        let first = claim(router);
        // The other has more room from now on.
        router.finish(20, None).expect("it runs");
        router.step(0).expect("a decision");
        let then = claim(router);
        router.abort(LONG, None).expect("it waits");
        router.adopt(Request::new(20, 2_400), 1, 0).expect("valid");
        (first, then)
    };
    router.step(0).expect("nothing to decide");
    assert_eq!(claim_with(&mut router, 7), (Some(0), Some(1)));
    assert_eq!(claim_with(&mut router, 8), (Some(0), Some(0)));
    assert_eq!(claim_with(&mut router, 3), (None, None), "it is not overdue");
}

#[test]
fn where_slots_bind_or_front_ends_share_nobody_claims() {
    // One is bound to a worker without a slot that has room for it.
    let few = RouterConfig::uniform(2, WorkerConfig::new(1).capacity(CAPACITY));
    let mut router = Router::new(few, "level", &Parameters::new().max_passed(Some(0))).expect("valid");
    router.adopt(Request::new(1, 500), 0, 0).expect("valid");
    router.enqueue(Request::new(2, 500).bound_to(0).deadline(0), 0).expect("valid");
    router.step(0).expect("a decision");
    router.step(0).expect("a decision");
    assert_eq!((router.counters().claims, router.waiting().len()), (0, 1));

    for (share, claims) in [(Share::WHOLE, 1), (Share { index: 0, of: 2 }, 0)] {
        let mut router = Router::new(config().share(share), "level", &Parameters::new()).expect("valid");
        for worker in 0..4u32 {
            router.adopt(Request::new(u64::from(worker), 80_000), worker, 0).expect("valid");
        }
        router.enqueue(Request::new(LONG, 40_000).deadline(0), 0).expect("valid");
        router.step(0).expect("a decision");
        assert_eq!(router.counters().claims, claims, "{share:?}");
    }
}

/// Two workers with room for 20,000 and 21,000 tokens, and a request of class 0 that claims the second.
fn claimed_by_a_class(config: RouterConfig) -> Router {
    let mut router = Router::new(config, "level", &Parameters::new()).expect("valid");
    for (worker, tokens) in [(0, 80_000), (1, 79_000)] {
        router.adopt(Request::new(LONG + 10 + u64::from(worker), tokens), worker, 0).expect("valid");
    }
    router.enqueue(Request::new(LONG, 60_000).deadline(0), 0).expect("valid");
    assert_eq!(stepped(&mut router), []);
    assert_eq!(claim_of(&router), Some((LONG, 1)));
    router
}

fn two_workers() -> RouterConfig {
    RouterConfig::uniform(2, WorkerConfig::new(8).capacity(CAPACITY)).headroom_steps(0)
}

/// Who is admitted by a step, and to which worker.
fn stepped(router: &mut Router) -> Vec<(u64, u32)> {
    let admissions = &router.step(0).expect("a decision").admissions;
    admissions.iter().map(|dispatch| (dispatch.id.get(), dispatch.worker.get())).collect()
}

fn claim_of(router: &Router) -> Option<(u64, u32)> {
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    metrics.ranks.iter().find_map(|rank| Some((rank.claimed_by?.get(), rank.worker.get())))
}

#[test]
fn a_claim_shuts_its_worker_for_its_class_and_lower_ones_only() {
    let mut router = claimed_by_a_class(two_workers().mode(Mode::Arrival));
    let placed = |router: &mut Router, request| match router.place(request, 0).expect("valid") {
        Placement::Placed(dispatch) => Some(dispatch.worker.get()),
        Placement::Waits => None,
    };
    assert_eq!(placed(&mut router, Request::new(1, 20_500)), None);
    assert_eq!(placed(&mut router, Request::new(2, 900).bound_to(1).priority(-1)), None);
    assert_eq!(placed(&mut router, Request::new(3, 900).bound_to(1).priority(1)), Some(1));
    router.enqueue(Request::new(4, 20_050).priority(1), 0).expect("valid");
    let reasons = |router: &Router| {
        let reasons = router.waiting();
        [LONG, 1, 2, 4].map(|id| reasons.iter().find(|of| of.0 == id).expect("it waits").1)
    };
    use WaitReason::{Claimed, Claims, Deferred, NoCapacity};
    assert_eq!(reasons(&router), [Claims, NoCapacity, Claimed, Deferred]);
    router.finish(3, None).expect("it ran");
    assert_eq!(reasons(&router), [Claims, Claimed, Claimed, Deferred]);
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    assert_eq!(metrics.waiting_by_reason[Claimed as usize], 2);
    // Whoever is sent goes where it has room.
    let sent = |router: &mut Router, request| router.send(request, None, 0).expect("a worker").worker.get();
    assert_eq!(sent(&mut router, Request::new(5, 20_500)), 0);
    router.abort(5, None).expect("it runs");
    assert_eq!(sent(&mut router, Request::new(6, 20_500).priority(1)), 1);
    router.abort(6, None).expect("it runs");
    assert_eq!(stepped(&mut router), [(4, 1)]);
    // The other has more room now.
    assert_eq!(stepped(&mut router), [(2, 1)]);
    assert_eq!(claim_of(&router), Some((LONG, 0)));
}

#[test]
fn the_claim_is_of_the_highest_class_that_has_one() {
    let mut router = claimed_by_a_class(two_workers());
    router.enqueue(Request::new(1, 50_000).deadline(0).bound_to(0).priority(3), 0).expect("valid");
    router.enqueue(Request::new(2, 900).bound_to(0).priority(3), 0).expect("valid");
    assert_eq!((stepped(&mut router), claim_of(&router)), (vec![], Some((1, 0))));
    router.abort(1, None).expect("it waits");
    assert_eq!((stepped(&mut router), claim_of(&router)), (vec![(2, 0)], Some((LONG, 1))));
}

#[test]
fn a_turn_that_is_due_does_not_enter_the_claimed_worker_nor_end_the_step() {
    let mut router = claimed_by_a_class(two_workers().lower_class_one_in(2));
    router.enqueue(Request::new(1, 900).bound_to(1).priority(-1), 0).expect("valid");
    router.enqueue(Request::new(2, 900).bound_to(0).priority(3), 0).expect("valid");
    assert_eq!(stepped(&mut router), [(2, 0)]);
    // A turn of both lower classes is due, and only the claimed worker has slots.
    router.set_accepting(0, false).expect("a worker");
    router.enqueue(Request::new(3, 900).priority(3), 0).expect("valid");
    assert_eq!(stepped(&mut router), [(3, 1)]);
    assert_eq!(claim_of(&router), Some((LONG, 1)));
    router.abort(LONG, None).expect("it waits");
    router.enqueue(Request::new(4, 900).priority(3), 0).expect("valid");
    assert_eq!(stepped(&mut router), [(1, 1), (4, 1)]);
}

#[test]
fn what_a_higher_class_takes_from_those_before_the_claim_is_nobody_elses() {
    for taken in [0, 10_000] {
        let mut router = claimed_by_a_class(two_workers());
        let before = Request::new(1, 20_500).waited(50).deadline(0);
        router.enqueue(before, 0).expect("valid");
        router.enqueue(Request::new(2, 400).bound_to(1), 0).expect("valid");
        if taken > 0 {
            router.enqueue(Request::new(3, taken).bound_to(1).priority(3), 0).expect("valid");
        }
        let expected = if taken > 0 { (3, 1) } else { (1, 1) };
        assert_eq!(stepped(&mut router), [expected]);
    }
}

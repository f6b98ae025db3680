//! Random events against a model that recounts everything from nothing.
//!
//! The world has engines that hold requests, ways to them that lose dispatches, and reports that come late,
//! twice, in the wrong order, wrong, or never. The model keeps one plain record per request and sums over all
//! of them whenever it wants to know anything; it predicts every verdict, every returned request and the step
//! clock, and checks every admission.
//!
//! `BALANCEROUTE_EVENTS` sets the number of events over all settings (10,000,000 in `tests/run`).

use std::collections::{BTreeMap, HashMap, VecDeque};

use balanceroute::policy::Parameters;
use balanceroute::router::Metrics;
use balanceroute::{
    BatchError, Dispatch, Mode, PairTerms, Placement, Request, RequestId, ReturnReason, Returned, Router,
    RouterConfig, RouterError, Share, Verdict, WaitReason, WorkerConfig, WorkerId, WorkerReport,
};

const HEADROOM_STEPS: u32 = 20;
const TIMEOUT_MS: u64 = 400;
const SILENCE_MS: u64 = 3_000;
const EXPIRE_MS: u64 = 6_000;
const MOST_WORKERS: usize = 9;
const MOST_WAITING: usize = 60;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// How far a request is on its worker: sent, acknowledged when the worker had grown by so much, or decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Sent,
    Received { reach: i64 },
    Decoding,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waits,
    Runs { worker: WorkerId, number: u64, stage: Stage, since_ms: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Record {
    prompt: u64,
    generated: u64,
    rank: Option<WorkerId>,
    deadline: Option<u32>,
    since_ms: u64,
    /// Step clock when it began to wait, or when it had generated nothing.
    step: i64,
    state: State,
    /// Its place in the list of those who wait or of those who run.
    at: usize,
}

/// A worker as the router should see it, and the engine behind it.
struct Side {
    id: WorkerId,
    slots: u64,
    capacity: Option<u64>,
    accepting: bool,
    draining: bool,
    reach: i64,
    sent: u64,
    acknowledged: u64,
    sequence: Option<u64>,
    /// Reports that rise below the last one taken: since when, the last number, how many.
    anew: Option<(u64, Option<u64>, u32)>,
    foreign_requests: u64,
    /// Measured tokens less the lengths of those who decode.
    correction: i64,
    empty_since_ms: Option<u64>,
    // The engine.
    on_the_way: VecDeque<(u64, RequestId)>,
    received: Vec<u64>,
    holds: Vec<(u64, RequestId)>,
    reports: u64,
    /// Never reports.
    mute: bool,
    /// Has forgotten what it held and takes nothing.
    dead: bool,
}

#[derive(Clone, Copy)]
struct Setting {
    policy: &'static str,
    mode: Mode,
    share: Share,
    bounded: bool,
    silence: bool,
    terms: bool,
    repairs: bool,
    overdue_first: bool,
    /// How many a decision chooses among.
    window: usize,
}

/// Bonuses and masks of some requests, drawn from who is asked for.
struct Terms<'a> {
    salt: u64,
    ids: &'a [WorkerId],
}

impl Terms<'_> {
    fn draw(&self, id: RequestId, worker: u32) -> u64 {
        Rng(self.salt ^ id.0 << 20 ^ u64::from(worker) << 50).next()
    }

    /// Whether a request may enter a worker.
    fn may(&self, id: RequestId, worker: WorkerId) -> bool {
        !self.has_mask(id) || self.draw(id, worker.0).is_multiple_of(3)
    }

    fn has_mask(&self, id: RequestId) -> bool {
        self.draw(id, u32::MAX).is_multiple_of(3)
    }
}

impl PairTerms for Terms<'_> {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        assert_eq!(bonus_tokens.len(), self.ids.len());
        for (bonus, &worker) in bonus_tokens.iter_mut().zip(self.ids) {
            let draw = self.draw(request.id, worker.0 ^ 0x5555);
            if draw.is_multiple_of(4) {
                *bonus += (draw >> 40) as f32 % 300.0 - 100.0;
            }
        }
        !self.draw(request.id, 1 << 30).is_multiple_of(3)
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        for (place, &worker) in self.ids.iter().enumerate() {
            if !self.may(request.id, worker) {
                workers[place / 64] &= !(1 << (place % 64));
            }
        }
        self.has_mask(request.id)
    }

    fn stores_half(&self) -> bool {
        self.salt.is_multiple_of(2)
    }
}

struct World {
    setting: Setting,
    rng: Rng,
    router: Router,
    now_ms: u64,
    /// The router's clock: the last time that it was told.
    told_ms: u64,
    /// Who came since without a reading of the clock: their wait begins with the next.
    undated: Vec<RequestId>,
    clock: i64,
    records: HashMap<RequestId, Record>,
    waiting: Vec<RequestId>,
    running: Vec<RequestId>,
    sides: Vec<Side>,
    removed: Vec<WorkerId>,
    network: Vec<(WorkerId, WorkerReport)>,
    /// Who must be in the next plan.
    expected: BTreeMap<RequestId, ReturnReason>,
    next_id: u64,
    arrived: u64,
    left: u64,
    metrics: Metrics,
    tally: Tally,
}

/// What happened: a test that never reaches a case tests nothing.
#[derive(Clone, Debug, Default)]
struct Tally {
    admitted: u64,
    placed: u64,
    finished: u64,
    returned: [u64; ReturnReason::ALL.len()],
    verdicts: [u64; 5],
    refused_reports: u64,
    refused_steps: u64,
    joins: u64,
    removals: u64,
    overdue: u64,
    held_back: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.admitted += other.admitted;
        self.placed += other.placed;
        self.finished += other.finished;
        self.refused_reports += other.refused_reports;
        self.refused_steps += other.refused_steps;
        self.joins += other.joins;
        self.removals += other.removals;
        self.overdue += other.overdue;
        self.held_back += other.held_back;
        for (sum, more) in self.returned.iter_mut().zip(other.returned) {
            *sum += more;
        }
        for (sum, more) in self.verdicts.iter_mut().zip(other.verdicts) {
            *sum += more;
        }
    }
}

fn part(share: Share, whole: u64) -> u64 {
    let (index, of) = (u64::from(share.index), u64::from(share.of));
    whole * (index + 1) / of - whole * index / of
}

impl World {
    fn new(setting: Setting, seed: u64) -> Self {
        let config = RouterConfig::new(0, 0)
            .headroom_steps(HEADROOM_STEPS)
            .mode(setting.mode)
            .share(setting.share)
            .dispatch_timeout_ms(TIMEOUT_MS)
            .silence_timeout_ms(setting.silence.then_some(SILENCE_MS))
            .expire_after_ms(EXPIRE_MS);
        let parameters = Parameters::new().candidate_window(setting.window);
        let router = Router::new(config, setting.policy, &parameters).expect("valid");
        let mut world = Self {
            setting,
            rng: Rng(seed),
            router,
            now_ms: 0,
            told_ms: 0,
            undated: Vec::new(),
            clock: 0,
            records: HashMap::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            sides: Vec::new(),
            removed: Vec::new(),
            network: Vec::new(),
            expected: BTreeMap::new(),
            next_id: 0,
            arrived: 0,
            left: 0,
            metrics: Metrics::default(),
            tally: Tally::default(),
        };
        world.router.step(0).expect("nothing to decide");
        for _ in 0..4 {
            world.join();
        }
        world
    }

    /// The router is told the time.
    fn tell(&mut self) -> u64 {
        self.told_ms = self.now_ms;
        for id in self.undated.drain(..) {
            if let Some(record) = self.records.get_mut(&id) {
                record.since_ms = self.told_ms;
            }
        }
        self.told_ms
    }

    /// A call tells it now and then.
    fn tell_perhaps(&mut self) -> Option<u64> {
        self.rng.one_in(3).then(|| self.tell())
    }

    fn side(&self, worker: WorkerId) -> usize {
        self.sides.iter().position(|side| side.id == worker).expect("a worker")
    }

    /// Requests and tokens that a sum over all records finds on a worker, of those that `which` wants.
    fn sum(&self, worker: WorkerId, which: impl Fn(Stage) -> bool) -> (u64, u64) {
        let mut found = (0, 0);
        for id in &self.running {
            let record = &self.records[id];
            if let State::Runs { worker: on, stage, .. } = record.state
                && on == worker
                && which(stage)
            {
                found = (found.0 + 1, found.1 + record.prompt + record.generated);
            }
        }
        found
    }

    /// KV tokens as they count: those of the worker's own requests, and all.
    fn counted(&self, side: &Side) -> (u64, u64) {
        let (_, own) = self.sum(side.id, |_| true);
        let (_, decoding) = self.sum(side.id, |stage| stage == Stage::Decoding);
        let all = (decoding as i64 + side.correction).max(0) as u64 + own - decoding;
        (own.min(all), all)
    }

    /// Somebody who decodes leaves a worker, and with it its part of what they share.
    fn release(&mut self, worker: WorkerId, stage: Stage, tokens: u64) {
        let (_, decoding) = self.sum(worker, |stage| stage == Stage::Decoding);
        let at = self.side(worker);
        let side = &mut self.sides[at];
        // It has left the list already.
        let decoding = (decoding + tokens) as i64;
        if stage == Stage::Decoding && side.correction < 0 && decoding > 0 {
            side.correction -= side.correction * tokens as i64 / decoding;
        }
    }

    /// Whether the engine has a running request.
    fn is_held(&self, id: RequestId) -> bool {
        let State::Runs { worker, .. } = self.records[&id].state else { return false };
        self.sides[self.side(worker)].holds.iter().any(|&(_, other)| other == id)
    }

    fn free_slots(&self, side: &Side) -> u64 {
        let (own, _) = self.sum(side.id, |_| true);
        let share = part(self.setting.share, side.slots).saturating_sub(own);
        share.min(side.slots.saturating_sub(own + side.foreign_requests))
    }

    /// Tokens that one more request may have on a worker, by our part of it and by the whole.
    fn room(&self, side: &Side) -> i64 {
        let Some(capacity) = side.capacity else { return i64::MAX };
        let (own, _) = self.sum(side.id, |_| true);
        let (tokens, all_tokens) = self.counted(side);
        let growth = u64::from(HEADROOM_STEPS);
        let room = |capacity: u64, requests: u64, tokens: u64| {
            capacity as i64 - tokens as i64 - ((requests + 1) * growth) as i64
        };
        room(part(self.setting.share, capacity), own, tokens).min(room(
            capacity,
            own + side.foreign_requests,
            all_tokens,
        ))
    }

    /// Whether a request may enter a worker as the model counts.
    fn fits(&self, record: &Record, side: &Side) -> bool {
        side.accepting
            && record.rank.is_none_or(|rank| rank == side.id)
            && self.free_slots(side) > 0
            && record.prompt as i64 <= self.room(side)
    }

    fn enlist(&mut self, id: RequestId, mut record: Record) {
        let list = if record.state == State::Waits { &mut self.waiting } else { &mut self.running };
        record.at = list.len();
        list.push(id);
        assert!(self.records.insert(id, record).is_none(), "{id} is there already");
    }

    /// Takes a record out; it must be there, so nobody leaves twice.
    fn strike(&mut self, id: RequestId) -> Record {
        let record = self.records.remove(&id).unwrap_or_else(|| panic!("{id} left twice or was never there"));
        let list = if record.state == State::Waits { &mut self.waiting } else { &mut self.running };
        assert_eq!(list.swap_remove(record.at), id);
        if let Some(&moved) = list.get(record.at) {
            self.records.get_mut(&moved).expect("listed").at = record.at;
        }
        record
    }

    fn begins(&mut self, dispatch: &Dispatch) {
        let Dispatch { id, worker, number, .. } = *dispatch;
        let mut record = self.strike(id);
        assert_eq!(record.state, State::Waits, "{id}");
        let at = self.side(worker);
        assert!(self.fits(&record, &self.sides[at]), "{id} {record:?} does not fit worker {worker}");
        let empty = self.sum(worker, |_| true).0 == 0;
        let side = &mut self.sides[at];
        if empty {
            side.reach = self.clock;
        }
        side.sent += 1;
        assert_eq!(number, side.sent, "dispatch numbers have no gap");
        record.generated = 0;
        record.step = self.clock;
        record.state = State::Runs { worker, number, stage: Stage::Sent, since_ms: self.told_ms };
        self.enlist(id, record);
        // Some are lost on the way.
        if !self.rng.one_in(20) {
            self.sides[at].on_the_way.push_back((number, id));
        }
    }

    fn request(&mut self) -> (Request<WorkerId>, Record) {
        self.next_id += 1;
        let prompt = match self.rng.below(40) {
            0 => 1 + self.rng.below(6_000),
            1..8 => 200 + self.rng.below(800),
            _ => 1 + self.rng.below(200),
        };
        let rank = (self.rng.one_in(6) && !self.sides.is_empty())
            .then(|| self.sides[self.rng.index(self.sides.len())].id);
        let deadline = self.rng.one_in(5).then(|| 1 + self.rng.below(60) as u32);
        let mut request = Request::new(self.next_id, prompt as u32);
        (request.rank, request.deadline_steps) = (rank, deadline);
        if self.rng.one_in(3) {
            request.prompt_hash = Some(self.rng.below(5));
        }
        let record = Record {
            prompt,
            generated: 0,
            rank,
            deadline,
            since_ms: self.told_ms,
            step: self.clock,
            state: State::Waits,
            at: 0,
        };
        (request, record)
    }

    /// Under a policy that binds on arrival the router chose a rank.
    fn waits(&mut self, id: RequestId, mut record: Record) {
        let request = self.router.pool().request(id).expect("it waits");
        let rank = request.rank.map(|place| self.sides[place.index()].id);
        assert!(record.rank.is_none() || rank == record.rank, "a given rank is kept");
        record.rank = rank;
        self.enlist(id, record);
    }

    fn enqueue(&mut self) {
        if self.waiting.len() >= MOST_WAITING {
            return;
        }
        let now_ms = self.tell_perhaps();
        let (request, record) = self.request();
        self.router.enqueue(request, now_ms).expect("valid");
        self.arrived += 1;
        self.waits(request.id, record);
        if now_ms.is_none() {
            self.undated.push(request.id);
        }
        if self.rng.one_in(20) {
            assert!(self.router.enqueue(request, self.now_ms + 1).is_err(), "a second one of the same id");
        }
    }

    fn place(&mut self) {
        if self.waiting.len() >= MOST_WAITING {
            return;
        }
        self.tell();
        let (request, record) = self.request();
        let open: u64 =
            self.sides.iter().filter(|side| side.accepting).map(|side| self.free_slots(side)).sum();
        let at_once = match self.setting.mode {
            Mode::Step => false,
            Mode::Arrival => open > 0,
            Mode::Mixed { free_slots } => open > u64::from(free_slots),
        };
        let loads: Vec<i64> = self.sides.iter().map(|side| self.counted(side).1 as i64).collect();
        let most = loads.iter().copied().max().unwrap_or(0);
        let score = |g: usize| {
            let tokens = record.prompt as i64;
            tokens - self.sides.len() as i64 * (tokens - (most - loads[g])).max(0)
        };
        let best = (0..self.sides.len())
            .filter(|&g| at_once && self.fits(&record, &self.sides[g]))
            .max_by_key(|&g| (score(g), -loads[g], std::cmp::Reverse(g)))
            .map(|g| self.sides[g].id);
        let binds = self.router.policy().needs().binds_on_arrival;
        match self.router.place(request, self.told_ms).expect("valid") {
            Placement::Placed(dispatch) => {
                assert!(at_once, "the mode lets it wait");
                let mut record = record;
                if binds {
                    record.rank = Some(dispatch.worker);
                } else {
                    assert_eq!(Some(dispatch.worker), best);
                }
                self.enlist(request.id, record);
                self.begins(&dispatch);
                self.tally.placed += 1;
            }
            Placement::Waits => {
                assert!(binds || best.is_none(), "it could have entered {best:?}");
                self.waits(request.id, record);
            }
        }
        self.arrived += 1;
    }

    /// What the next plan must return beside what is expected already.
    fn foresee(&mut self) {
        let growth = u64::from(HEADROOM_STEPS);
        let mut most = Some(0);
        let staying: Vec<&Side> = self.sides.iter().filter(|side| !side.draining).collect();
        for side in &staying {
            most = match (most, side.capacity) {
                (Some(most), Some(whole)) => Some(part(self.setting.share, whole).max(most)),
                _ => None,
            };
        }
        let most = most.filter(|_| !staying.is_empty());
        let mut found = Vec::new();
        for &id in &self.waiting {
            let record = &self.records[&id];
            let bound = record.rank.map(|rank| &self.sides[self.side(rank)]);
            let needs = record.prompt + growth;
            let too_long = |capacity: Option<u64>| capacity.is_some_and(|capacity| needs > capacity);
            let own = |side: &Side| side.capacity.map(|whole| part(self.setting.share, whole));
            // Dated: the step has told the time.
            let reason = if self.told_ms - record.since_ms >= EXPIRE_MS {
                Some(ReturnReason::Expired)
            } else if bound.is_some_and(|side| side.draining) {
                Some(ReturnReason::WorkerDraining)
            } else if bound.is_some_and(|side| too_long(own(side))) || too_long(most) {
                Some(ReturnReason::NeverFits)
            } else {
                None
            };
            found.extend(reason.map(|reason| (id, reason)));
        }
        if self.setting.silence {
            for &id in &self.running {
                if let State::Runs { stage: Stage::Sent, since_ms, .. } = self.records[&id].state
                    && self.told_ms - since_ms >= SILENCE_MS
                {
                    found.push((id, ReturnReason::WorkerSilent));
                }
            }
        }
        for (id, reason) in found {
            self.gone(id, reason);
        }
    }

    /// A request comes back with the next plan.
    fn gone(&mut self, id: RequestId, reason: ReturnReason) {
        let record = self.strike(id);
        if let State::Runs { worker, stage, .. } = record.state {
            self.release(worker, stage, record.prompt + record.generated);
        }
        self.left += 1;
        assert!(self.expected.insert(id, reason).is_none());
    }

    fn step(&mut self) {
        self.tell();
        self.foresee();
        let ids: Vec<WorkerId> = self.sides.iter().map(|side| side.id).collect();
        let salt = (self.setting.terms && self.rng.one_in(3)).then(|| self.rng.next());
        let terms = salt.map(|salt| Terms { salt, ids: &ids });
        let may = |id: RequestId, worker: WorkerId| terms.as_ref().is_none_or(|terms| terms.may(id, worker));
        let plan = match salt {
            Some(salt) => {
                let mut terms = Terms { salt, ids: &ids };
                self.router.step_with(self.told_ms, &mut terms).expect("a decision").clone()
            }
            None => self.router.step(self.told_ms).expect("a decision").clone(),
        };
        let returned: BTreeMap<RequestId, ReturnReason> =
            plan.returned.iter().map(|back| (back.id, back.reason)).collect();
        assert_eq!(returned.len(), plan.returned.len(), "nobody comes back twice");
        assert_eq!(returned, std::mem::take(&mut self.expected));
        for reason in returned.values() {
            self.tally.returned[*reason as usize] += 1;
        }
        for dispatch in &plan.admissions {
            assert!(may(dispatch.id, dispatch.worker), "{dispatch:?} was masked");
            let record = self.records[&dispatch.id];
            let due = |record: &Record| {
                record.deadline.is_some_and(|steps| self.clock - record.step >= i64::from(steps))
            };
            if due(&record) {
                self.tally.overdue += 1;
            } else if self.setting.overdue_first {
                // Overdue by the policy's own bound, or nobody who is overdue by its deadline and has waited
                // longer could have entered here.
                let side = &self.sides[self.side(dispatch.worker)];
                for id in &self.waiting {
                    let other = &self.records[id];
                    let passed_over = due(other)
                        && other.step < record.step
                        && self.fits(other, side)
                        && may(*id, dispatch.worker);
                    assert!(
                        !passed_over,
                        "{}: {id} is overdue: {other:?}, {dispatch:?} of {plan:?}",
                        self.setting.policy
                    );
                }
            }
            self.begins(dispatch);
            self.tally.admitted += 1;
        }
        // Nobody waits beside a slot that would take it; only the joint repair of `level` and `exact` may
        // exchange a pick for a shorter or a bound one and so leave room, which the next step fills.
        let fits = |id: &RequestId| {
            self.sides.iter().any(|side| self.fits(&self.records[id], side) && may(*id, side.id))
        };
        if self.waiting.iter().any(fits) {
            let policy = self.setting.policy;
            let why = self.router.waiting();
            assert!(self.setting.repairs && !plan.admissions.is_empty(), "{policy}: {plan:?}, {why:?}");
            return self.step();
        }
        self.tally.held_back += u64::from(!self.waiting.is_empty());
        if self.rng.one_in(8) {
            self.refused_step();
        }
        // The bound of the wait.
        let late = self.waiting.iter().any(|id| self.told_ms - self.records[id].since_ms >= EXPIRE_MS);
        assert!(!late);
    }

    /// Terms that are refused, or that panic: the router says so, and is as it was.
    fn refused_step(&mut self) {
        // Somebody is asked for: nobody leaves at the time of the last step.
        let open = self.sides.iter().any(|side| side.accepting && self.free_slots(side) > 0);
        if self.waiting.is_empty() || !open {
            return;
        }
        let state = |router: &Router| {
            let mut metrics = Metrics::default();
            router.metrics(&mut metrics);
            (metrics, router.waiting(), router.plan().clone())
        };
        let before = state(&self.router);
        let mut wrong = |_: &Request, bonus_tokens: &mut [f32]| {
            bonus_tokens[0] = f32::NAN;
            true
        };
        let refused = self.router.step_with(self.told_ms, &mut wrong);
        assert!(matches!(refused, Err(RouterError::Batch(BatchError::Bonus { .. }))), "{refused:?}");
        assert_eq!(before, state(&self.router));
        self.tally.refused_steps += 1;
    }

    fn progress(&mut self) {
        match self.rng.below(8) {
            0 => {
                self.router.advance();
                self.clock += 1;
                self.sides.iter_mut().for_each(|side| side.reach += 1);
                for id in &self.running {
                    self.records.get_mut(id).expect("it runs").generated += 1;
                }
            }
            1..5 if !self.sides.is_empty() => {
                let at = self.rng.index(self.sides.len());
                let (worker, tokens) = (self.sides[at].id, self.rng.below(4));
                self.router.progress(worker, tokens as u32).expect("a worker");
                let mut any = false;
                for id in &self.running {
                    let record = self.records.get_mut(id).expect("it runs");
                    if matches!(record.state, State::Runs { worker: on, .. } if on == worker) {
                        record.generated += tokens;
                        any = true;
                    }
                }
                if any {
                    self.sides[at].reach += tokens as i64;
                    self.clock = self.clock.max(self.sides[at].reach);
                }
            }
            _ if !self.running.is_empty() => {
                let id = self.running[self.rng.index(self.running.len())];
                if !self.is_held(id) && !self.rng.one_in(50) {
                    return;
                }
                let tokens = 1 + self.rng.below(5);
                self.router.progress_request(id, tokens as u32).expect("it runs");
                let record = self.records.get_mut(&id).expect("it runs");
                record.generated += tokens;
                self.clock = self.clock.max(record.step + record.generated as i64);
                if let State::Runs { stage, since_ms, .. } = &mut record.state
                    && std::mem::replace(stage, Stage::Decoding) == Stage::Sent
                {
                    *since_ms = self.told_ms;
                }
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let id = self.running[self.rng.index(self.running.len())];
        if !self.is_held(id) && !self.rng.one_in(10) {
            return;
        }
        let record = self.strike(id);
        let State::Runs { worker, stage, .. } = record.state else { unreachable!("it runs") };
        self.release(worker, stage, record.prompt + record.generated);
        match self.rng.below(8) {
            0 => {
                let now_ms = self.tell_perhaps();
                assert_eq!(self.router.abort(id, now_ms).expect("it runs"), Some(worker));
            }
            1 => {
                let again = self.router.preempt(id).expect("it runs");
                assert_eq!(u64::from(again.prompt_tokens), record.prompt + record.generated);
                assert_eq!(again.rank, record.rank);
                if self.waiting.len() < MOST_WAITING {
                    let now_ms = self.tell_perhaps();
                    self.router.enqueue(again, now_ms).expect("it has left");
                    if now_ms.is_none() {
                        self.undated.push(id);
                    }
                    self.arrived += 1;
                    let again = Record {
                        prompt: record.prompt + record.generated,
                        generated: 0,
                        since_ms: self.told_ms,
                        step: self.clock,
                        state: State::Waits,
                        ..record
                    };
                    self.waits(id, again);
                }
            }
            _ => {
                let now_ms = self.tell_perhaps();
                let finished = self.router.finish(id, now_ms).expect("it runs");
                assert_eq!((finished.id, finished.worker), (id, worker));
                assert_eq!(u64::from(finished.generated_tokens), record.generated);
                self.tally.finished += 1;
            }
        }
        self.left += 1;
        let at = self.side(worker);
        self.sides[at].holds.retain(|&(_, other)| other != id);
        self.sides[at].on_the_way.retain(|&(_, other)| other != id);
        if !self.records.contains_key(&id) {
            assert_eq!(self.router.finish(id, None), Err(RouterError::Unknown { id }));
        }
    }

    fn abort_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let id = self.waiting[self.rng.index(self.waiting.len())];
        self.strike(id);
        self.left += 1;
        let now_ms = self.tell_perhaps();
        assert_eq!(self.router.abort(id, now_ms).expect("it waits"), None);
        assert_eq!(self.router.abort(id, None), Err(RouterError::Unknown { id }));
    }

    fn join(&mut self) {
        if self.sides.len() >= MOST_WORKERS {
            return;
        }
        let slots = 1 + self.rng.below(12);
        let bounded = self.setting.bounded && !self.rng.one_in(12);
        let capacity = bounded.then(|| 800 + self.rng.below(4_000));
        let config = WorkerConfig::new(slots as u32).capacity(capacity);
        let id = self.router.add_worker(config).expect("room for a worker");
        assert!(self.sides.iter().all(|side| side.id != id) && !self.removed.contains(&id));
        self.sides.push(Side {
            id,
            slots,
            capacity,
            accepting: true,
            draining: false,
            reach: self.clock,
            sent: 0,
            acknowledged: 0,
            sequence: None,
            anew: None,
            foreign_requests: 0,
            correction: 0,
            empty_since_ms: None,
            on_the_way: VecDeque::new(),
            received: Vec::new(),
            holds: Vec::new(),
            reports: 0,
            mute: self.rng.one_in(10),
            dead: false,
        });
        self.tally.joins += 1;
    }

    fn change_worker(&mut self) {
        if self.sides.is_empty() {
            return self.join();
        }
        let at = self.rng.index(self.sides.len());
        let worker = self.sides[at].id;
        match self.rng.below(8) {
            0..3 => self.join(),
            3 => {
                self.router.drain_worker(worker).expect("a worker");
                (self.sides[at].accepting, self.sides[at].draining) = (false, true);
            }
            4 | 5 => {
                let accepting = self.rng.below(4) > 0;
                self.router.set_accepting(worker, accepting).expect("a worker");
                self.sides[at].accepting = accepting;
                self.sides[at].draining &= !accepting;
            }
            _ => {
                // Failed, or drained and taken out.
                let drained = self.router.is_drained(worker).expect("a worker");
                let runs = self.sum(worker, |_| true).0;
                assert_eq!(drained, self.sides[at].draining && runs == 0);
                let mut returned: Vec<Returned> = Vec::new();
                self.router.remove_worker(worker, &mut returned).expect("a worker");
                let mut found: Vec<RequestId> = returned.iter().map(|back| back.id).collect();
                found.sort_unstable();
                let on = |record: &Record| match record.state {
                    State::Waits => record.rank == Some(worker),
                    State::Runs { worker: on, .. } => on == worker,
                };
                let mut expected: Vec<RequestId> =
                    self.records.iter().filter(|(_, record)| on(record)).map(|(&id, _)| id).collect();
                expected.sort_unstable();
                assert_eq!(found, expected);
                for back in returned {
                    let record = self.strike(back.id);
                    assert_eq!((back.worker, back.reason), (Some(worker), ReturnReason::WorkerRemoved));
                    assert_eq!(u64::from(back.generated_tokens), record.generated);
                    self.left += 1;
                    self.tally.returned[back.reason as usize] += 1;
                }
                self.sides.remove(at);
                self.removed.push(worker);
                self.removed.drain(..self.removed.len().saturating_sub(4));
                self.tally.removals += 1;
                assert!(
                    self.router.progress(worker, 1).is_err() && self.router.drain_worker(worker).is_err()
                );
            }
        }
    }

    /// The engines move: dispatches arrive, and a report goes out.
    fn engines(&mut self) {
        if self.sides.is_empty() {
            return;
        }
        let at = self.rng.index(self.sides.len());
        for _ in 0..self.rng.below(5) {
            let Some((number, id)) = self.sides[at].on_the_way.pop_front() else { break };
            if !self.sides[at].dead {
                self.sides[at].holds.push((number, id));
            }
            self.sides[at].received.push(number);
        }
        let turns = self.rng.one_in(if self.sides[at].dead { 8 } else { 300 });
        let side = &mut self.sides[at];
        if turns {
            side.dead = !side.dead;
            side.holds.clear();
        }
        if side.mute {
            return;
        }
        let last = side.received.last().copied().unwrap_or(0);
        let missing = (0..64)
            .filter(|back| last > *back + 1 && !side.received.contains(&(last - 1 - back)))
            .fold(0u64, |missing, back| missing | 1 << back);
        let from = side.received.len().saturating_sub(70);
        side.received.drain(..from);
        side.reports += 1;
        let (numbered, counts_dispatches) = (self.rng.below(6) > 0, self.rng.below(8) > 0);
        let tokens: u64 = side
            .holds
            .iter()
            .map(|(_, id)| self.records.get(id).map_or(150, |record| record.prompt + record.generated))
            .sum();
        let foreign = if self.rng.one_in(3) { self.rng.below(500) } else { 0 };
        let waiting = self.rng.below(side.holds.len() as u64 + 1);
        let report =
            WorkerReport::new((side.holds.len() as u64 - waiting + foreign / 200) as u32, tokens + foreign)
                .sequence(numbered.then_some(side.reports))
                .last_dispatch(counts_dispatches.then_some(last))
                .missing(missing)
                .waiting(waiting as u32)
                .capacity(match self.rng.below(12) {
                    0 if self.setting.bounded => Some(800 + self.rng.below(4_000)),
                    _ => None,
                });
        self.network.push((side.id, report));
    }

    /// The network delivers: in order, out of order, twice, never, or garbage.
    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let (worker, mut report) = match self.rng.below(10) {
            0 => {
                let at = self.rng.index(self.network.len());
                self.network.remove(at);
                return;
            }
            1 => self.network.remove(self.rng.index(self.network.len())),
            2 => self.network[self.rng.index(self.network.len())],
            _ => self.network.remove(0),
        };
        match self.rng.below(40) {
            0 => report.last_dispatch = Some(report.last_dispatch.unwrap_or(0) + 1 + self.rng.below(50)),
            1 => report.last_dispatch = Some(self.rng.below(3)),
            2 => report.kv_used_tokens = Some(u64::MAX >> self.rng.below(40)),
            3 => report.sequence = report.sequence.map(|number| number + self.rng.below(9)),
            4 => report.missing = self.rng.next(),
            _ => {}
        }
        let now_ms = self.rng.one_in(2).then_some(self.now_ms);
        let found = self.router.report(worker, report, now_ms);
        if found.is_ok() && now_ms.is_some() {
            self.tell();
        }
        let Some(at) = self.sides.iter().position(|side| side.id == worker) else {
            assert!(matches!(found, Err(RouterError::Worker { .. })));
            return;
        };
        let side = &self.sides[at];
        if report.kv_used_tokens.is_some_and(|used| used > 1 << 30)
            || report.last_dispatch.is_some_and(|last| last > side.sent)
        {
            assert!(found.is_err(), "{report:?}");
            self.tally.refused_reports += 1;
            return;
        }
        let less = report.last_dispatch.is_some_and(|last| last < side.acknowledged);
        let verdict = match (report.sequence, side.sequence) {
            (Some(new), Some(old)) if new == old => Verdict::Repeated,
            (Some(new), Some(old)) if new < old => Verdict::Late,
            (Some(_), Some(_)) if less => Verdict::Contradictory,
            (None, _) if less => Verdict::Late,
            _ => Verdict::Taken,
        };
        let now_ms = self.told_ms;
        let side = &mut self.sides[at];
        let mut restarted_ms = None;
        match verdict {
            Verdict::Late | Verdict::Contradictory => {
                let rises = |last: Option<u64>| match (report.sequence, last) {
                    (Some(new), Some(old)) => new > old,
                    (new, old) => new == old,
                };
                let (since, _, count) = side.anew.filter(|anew| rises(anew.1)).unwrap_or((now_ms, None, 0));
                side.anew = Some((since, report.sequence, count + 1));
                if count + 1 >= 3 && now_ms - since >= 1_000 {
                    restarted_ms = Some(since);
                }
            }
            Verdict::Taken => side.anew = None,
            _ => {}
        }
        let verdict = restarted_ms.map_or(verdict, |_| Verdict::Restarted);
        assert_eq!(found, Ok(verdict));
        self.tally.verdicts[verdict as usize] += 1;
        if matches!(verdict, Verdict::Repeated | Verdict::Contradictory) {
            return;
        }
        let on = |record: &Record| match record.state {
            State::Runs { worker: on, number, stage, since_ms } if on == worker => {
                Some((number, stage, since_ms))
            }
            _ => None,
        };
        if let Some(restarted_ms) = restarted_ms {
            let side = &mut self.sides[at];
            (side.anew, side.sequence, side.acknowledged, side.empty_since_ms) = (None, None, 0, None);
            (side.foreign_requests, side.correction) = (0, 0);
            let forgotten = |record: &Record| match on(record) {
                Some((number, Stage::Sent, since_ms)) => {
                    since_ms < restarted_ms.min(now_ms.saturating_sub(1_000)) && !report.has_seen(number)
                }
                Some((_, _, since_ms)) => since_ms < restarted_ms,
                None => false,
            };
            let gone: Vec<RequestId> =
                self.running.iter().copied().filter(|id| forgotten(&self.records[id])).collect();
            for id in gone {
                self.gone(id, ReturnReason::WorkerForgot);
            }
        }
        let reach = self.sides[at].reach;
        for id in &self.running {
            let record = self.records.get_mut(id).expect("it runs");
            if let Some((number, Stage::Received { reach: then }, since_ms)) = on(record)
                && then < reach
            {
                record.state = State::Runs { worker, number, stage: Stage::Decoding, since_ms };
            }
        }
        if let Some(last) = report.last_dispatch {
            self.sides[at].acknowledged = self.sides[at].acknowledged.max(last);
            for id in &self.running {
                let record = self.records.get_mut(id).expect("it runs");
                let Some((number, Stage::Sent, _)) = on(record) else { continue };
                let back = last.wrapping_sub(number).wrapping_sub(1);
                let missed = number > last || (number < last && back < 64 && report.missing >> back & 1 == 1);
                if !missed {
                    let stage = Stage::Received { reach };
                    record.state = State::Runs { worker, number, stage, since_ms: self.told_ms };
                }
            }
        }
        if verdict == Verdict::Late {
            return;
        }
        let (sent, sent_tokens) = self.sum(worker, |stage| stage == Stage::Sent);
        let (own, own_tokens) = self.sum(worker, |_| true);
        let (_, decoding) = self.sum(worker, |stage| stage == Stage::Decoding);
        let seen = own - sent;
        let (most, most_tokens) = match report.last_dispatch {
            Some(_) => (seen, own_tokens - sent_tokens),
            None => (own, own_tokens),
        };
        let held = u64::from(report.running) + u64::from(report.waiting);
        let (now_ms, measured) = (self.told_ms, report.kv_used_tokens.expect("measured") as i64);
        let side = &mut self.sides[at];
        side.sequence = report.sequence.or(side.sequence);
        side.capacity = report.kv_capacity_tokens.or(side.capacity);
        side.foreign_requests =
            side.foreign_requests.clamp(held.saturating_sub(most), held.saturating_sub(seen));
        side.correction = side.correction.clamp(measured - most_tokens as i64, measured - decoding as i64);
        side.empty_since_ms = if held == 0 && seen > 0 { side.empty_since_ms.or(Some(now_ms)) } else { None };
        let forgets = side.empty_since_ms.is_some_and(|since| now_ms - since >= TIMEOUT_MS);
        if forgets {
            side.empty_since_ms = None;
        }
        let mut lost = Vec::new();
        for &id in &self.running {
            let Some((_, stage, since_ms)) = on(&self.records[&id]) else { continue };
            let (old, seen) = (now_ms - since_ms >= TIMEOUT_MS, stage != Stage::Sent);
            if old && !seen && report.last_dispatch.is_some() {
                lost.push((id, ReturnReason::LostDispatch));
            } else if old && seen && forgets {
                lost.push((id, ReturnReason::WorkerForgot));
            }
        }
        let several = lost.len() as i64;
        for (id, reason) in lost {
            self.gone(id, reason);
        }
        // Each takes its part of what is shared, rounded: the last token depends on who goes first.
        if several > 1 {
            self.router.metrics(&mut self.metrics);
            let rank = &self.metrics.ranks[at];
            let correction = rank.foreign_tokens as i64 - rank.shared_tokens as i64;
            let side = &mut self.sides[at];
            assert!((correction - side.correction).abs() <= several, "{correction} {}", side.correction);
            side.correction = correction;
        }
    }

    fn event(&mut self) {
        self.now_ms += self.rng.below(6);
        match self.rng.below(100) {
            0..13 => {
                // In a mode that places, most requests are placed.
                let enqueues = (self.setting.mode == Mode::Step) != self.rng.one_in(4);
                if enqueues { self.enqueue() } else { self.place() }
            }
            13..29 => self.step(),
            29..53 => self.progress(),
            53..74 => self.end(),
            74..76 => self.abort_waiting(),
            76 => {
                if self.rng.one_in(10) {
                    self.change_worker();
                }
            }
            77..87 => self.engines(),
            _ => self.deliver(),
        }
    }

    /// Everything that can be asked, against everything recounted.
    fn audit(&mut self) {
        self.router.metrics(&mut self.metrics);
        let metrics = &self.metrics;
        assert_eq!(metrics.step as i64, self.clock);
        assert_eq!(metrics.waiting, self.waiting.len() as u64);
        assert_eq!(metrics.running, self.running.len() as u64);
        assert_eq!(metrics.waiting_by_reason.iter().sum::<u64>(), metrics.waiting);
        assert_eq!(self.router.worker_ids(), self.sides.iter().map(|side| side.id).collect::<Vec<_>>());
        for (rank, side) in metrics.ranks.iter().zip(&self.sides) {
            let (own, _) = self.sum(side.id, |_| true);
            assert_eq!((rank.worker, u64::from(rank.running)), (side.id, own));
            assert_eq!(rank.load_tokens, self.counted(side).1.min(1 << 30));
            let correction = rank.foreign_tokens as i64 - rank.shared_tokens as i64;
            assert_eq!(correction, side.correction);
            assert_eq!(u64::from(rank.free_slots), self.free_slots(side));
            assert_eq!(u64::from(rank.unseen), self.sum(side.id, |stage| stage == Stage::Sent).0);
            assert_eq!((rank.dispatches, rank.acknowledged), (side.sent, side.acknowledged));
            assert_eq!(u64::from(rank.foreign_requests), side.foreign_requests);
            assert_eq!((rank.accepting, rank.draining), (side.accepting, side.draining));
            if side.capacity.is_some() && side.correction < 1 << 29 {
                let room = rank.kv_capacity_tokens.expect("bounded") as i64
                    - (rank.kv_used_tokens + rank.kv_growth_tokens) as i64;
                assert_eq!(room - i64::from(HEADROOM_STEPS), self.room(side));
            }
        }
        let (oldest, longest) = self.waiting.iter().fold((0, 0), |(ms, steps), id| {
            let record = &self.records[id];
            let waited_ms = if self.undated.contains(id) { 0 } else { self.told_ms - record.since_ms };
            (ms.max(waited_ms), steps.max(self.clock - record.step))
        });
        assert_eq!((metrics.now_ms, metrics.longest_wait_ms), (self.told_ms, oldest));
        assert_eq!(i64::from(metrics.longest_wait_steps), longest);
        let counters = &metrics.counters;
        assert_eq!(counters.arrived, self.arrived);
        let left =
            counters.finished + counters.aborted + counters.preempted + counters.returned.iter().sum::<u64>();
        assert_eq!(left, self.left);
        assert_eq!(self.arrived, self.left + metrics.waiting + metrics.running);
        for id in self.waiting.iter().take(3) {
            assert!(self.router.explain(*id).is_some());
        }
        let mut by_reason = [0; WaitReason::ALL.len()];
        for (id, reason) in self.router.waiting() {
            by_reason[reason as usize] += 1;
            assert!(self.waiting.contains(&id));
        }
        assert_eq!(by_reason, self.metrics.waiting_by_reason);
    }

    /// Everybody leaves.
    fn close(&mut self) {
        self.step();
        while let Some(&id) = self.running.first() {
            let record = self.strike(id);
            if let State::Runs { worker, stage, .. } = record.state {
                self.release(worker, stage, record.prompt + record.generated);
            }
            self.router.finish(id, None).expect("it runs");
        }
        while let Some(&id) = self.waiting.first() {
            self.strike(id);
            self.router.abort(id, None).expect("it waits");
        }
        assert!(self.records.is_empty() && self.router.pool().is_empty());
        assert_eq!(self.router.running_len(), 0);
        assert!(
            self.router
                .workers()
                .iter()
                .zip(&self.sides)
                .all(|(worker, side)| { worker.load_tokens == side.correction.max(0) as u64 })
        );
        let plan = self.router.step(self.told_ms).expect("nothing to decide");
        assert!(plan.admissions.is_empty() && plan.returned.is_empty());
    }
}

const WHOLE: Share = Share::WHOLE;
const THIRD: Share = Share { index: 1, of: 3 };

fn setting(policy: &'static str, mode: Mode, share: Share, bounded: bool) -> Setting {
    let repairs = policy.starts_with("level") || policy.starts_with("exact");
    // The published rule and those of engines know no bound of the wait but a request's own.
    let (terms, window) = (false, 4096);
    Setting { policy, mode, share, bounded, silence: bounded, terms, repairs, overdue_first: true, window }
}

fn among(window: usize, setting: Setting) -> Setting {
    Setting { window, ..setting }
}

fn with_terms(setting: Setting) -> Setting {
    Setting { terms: true, ..setting }
}

#[test]
fn random_events_against_a_model() {
    let events: u64 = match std::env::var("BALANCEROUTE_EVENTS") {
        Ok(count) => count.parse().expect("BALANCEROUTE_EVENTS is a number"),
        Err(_) => 200_000,
    };
    let settings = [
        setting("level", Mode::Step, WHOLE, true),
        setting("level", Mode::Mixed { free_slots: 8 }, WHOLE, true),
        setting("level", Mode::Arrival, THIRD, true),
        setting("level", Mode::Step, WHOLE, false),
        setting("exact", Mode::Mixed { free_slots: 3 }, THIRD, true),
        setting("br0", Mode::Step, WHOLE, true),
        setting("brh-survival", Mode::Step, WHOLE, true),
        setting("level-exactmatch", Mode::Mixed { free_slots: 20 }, WHOLE, true),
        setting("jsq", Mode::Arrival, WHOLE, true),
        setting("vllm-0.33", Mode::Step, WHOLE, true),
        with_terms(setting("level", Mode::Step, WHOLE, true)),
        with_terms(among(7, setting("level", Mode::Step, WHOLE, true))),
        with_terms(among(3, setting("exact-survival", Mode::Mixed { free_slots: 3 }, THIRD, true))),
        with_terms(among(5, setting("br0", Mode::Step, WHOLE, true))),
        among(4, setting("jsq", Mode::Arrival, WHOLE, true)),
        among(1, setting("longest-first", Mode::Step, WHOLE, true)),
    ];
    let mut tally = Tally::default();
    let count = events / settings.len() as u64;
    for (seed, &setting) in settings.iter().enumerate() {
        let mut world = World::new(setting, seed as u64);
        for event in 0..count {
            world.event();
            if event % 512 == 0 {
                world.audit();
            }
        }
        world.audit();
        world.close();
        tally.add(&world.tally);
    }
    println!("{} events: {tally:?}", count * settings.len() as u64);
    assert!(
        tally.admitted > events / 50 && tally.placed > events / 800 && tally.finished > events / 50,
        "{tally:?}"
    );
    // Nobody asks it to begin anew here.
    let (recovered, returned) = tally.returned.split_last().expect("reasons");
    assert!(*recovered == 0 && returned.iter().all(|&count| count > 5), "{tally:?}");
    assert!(tally.verdicts[..4].iter().all(|&count| count > 50) && tally.verdicts[4] > 0, "{tally:?}");
    assert!(tally.refused_steps > 100, "{tally:?}");
    assert!(tally.refused_reports > 50 && tally.overdue > 200 && tally.held_back > 500, "{tally:?}");
    assert!(tally.joins > 60 && tally.removals > 30, "{tally:?}");
}

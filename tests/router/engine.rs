//! The account against simulated engines that do what engines do.
//!
//! [`rank`] has KV blocks, shared prefixes, chunked prefill, transfers, preemption and restarts. What it says
//! of requests comes late or not at all, and its reports late, twice, in another order, in part or never. The
//! test keeps of each request what the router was told of it, and of each engine what is true. After every
//! report that is taken both the router's KV tokens and its requests must lie as near to what was measured,
//! and to what is true by now, as `src/account` promises.
//!
//! `BALANCEROUTE_EVENTS` sets the number of calls.

mod check;
mod rank;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use balanceroute::policy::Parameters;
use balanceroute::{
    Dispatch, Request, RequestId, ReturnReason, Router, RouterConfig, WorkerConfig, WorkerId, WorkerReport,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use rank::{BLOCK, Job, Phase, Rank, Snapshot, Voice};

const STEP_MS: u64 = 20;
const RANKS: usize = 4;
const SLOTS: usize = 12;
/// So few that requests outgrow them.
const BLOCKS: u64 = 240;

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// What is to happen at least once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Kind { $($kind),* }
        const KINDS: &[Kind] = &[$(Kind::$kind),*];
    };
}

kinds! {
    Arrival, Abort, End, Foreign, Pinned, SharedPrefix, PrefillChunk, Transfer, Held, TransferDone, Preempted,
    PreemptedUntold, Resumed, Restart, RestartSeen, Forgotten, LostDispatch, LostReturned, Adopted, StaleEnd,
    Progress, ProgressRequest, ProgressRequests, Silence, ReportLost, ReportTwice, Repeated, Late,
    Contradictory, NoKv, OldKv, NoAge, NoNumber, NoSequence, Exact, Again,
}

/// How often each has happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(BTreeMap<Kind, u64>);

impl Seen {
    fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }
}

/// What the router was told of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Sent,
    Received { reach: u64 },
    Held,
    Decoding,
    Preempted,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    dispatch: Dispatch,
    rank: usize,
    tokens: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Begun,
    Ended,
    Preempted,
}

/// How a rank's tokens are told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Talk {
    Each,
    Batch,
    Worker,
    Silent,
}

/// A rank, the ways to and from it, and what was told of it.
struct Side {
    rank: Rank,
    way: VecDeque<(u64, Job)>,
    said: VecDeque<(u64, Vec<Voice>)>,
    talk: Talk,
    /// Tokens that were not told yet.
    kept: BTreeMap<RequestId, u32>,
    snapshots: VecDeque<Snapshot>,
    reports: Vec<(u64, Report)>,
    numbers: bool,
    sequences: bool,
    epochs: bool,
    ages: bool,
    /// Steps of growth that were told of the whole rank.
    reach: u64,
    changes: Vec<(u64, What, u64)>,
    restarted: bool,
    /// How far the count was off after the last report that measured, and what has moved since by its word.
    off_tokens: u64,
    moved_tokens: u64,
    truth: Snapshot,
}

#[derive(Clone, Debug)]
struct Report {
    counts: Snapshot,
    kv: Option<Snapshot>,
    report: WorkerReport,
}

struct World {
    seed: u64,
    rng: ChaCha8Rng,
    router: Router,
    in_order: bool,
    now_ms: u64,
    sides: Vec<Side>,
    records: BTreeMap<RequestId, Record>,
    waiting: BTreeSet<RequestId>,
    /// Returned, and not in a plan yet.
    gone: BTreeMap<RequestId, Record>,
    /// Nobody comes any more, and nothing happens by itself.
    closing: bool,
    next_id: u64,
    calls: u64,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let in_order = rng.random_bool(0.3);
        let worker = WorkerConfig::new(SLOTS as u32).capacity(BLOCKS * BLOCK);
        let config = RouterConfig::uniform(RANKS, worker)
            .headroom_steps(10)
            .in_order(in_order)
            .dispatch_timeout_ms(2_000)
            .silence_timeout_ms(8_000);
        let router = Router::new(config, "level", &Parameters::default()).expect("valid");
        let sides = (0..RANKS)
            .map(|_| Side {
                rank: Rank::new(BLOCKS, SLOTS),
                way: VecDeque::new(),
                said: VecDeque::new(),
                talk: Talk::Batch,
                kept: BTreeMap::new(),
                snapshots: VecDeque::from([Snapshot::default()]),
                reports: Vec::new(),
                numbers: rng.random_bool(0.7),
                sequences: rng.random_bool(0.7),
                epochs: rng.random_bool(0.5),
                ages: rng.random_bool(0.6),
                reach: 0,
                changes: Vec::new(),
                restarted: false,
                off_tokens: 0,
                moved_tokens: 0,
                truth: Snapshot::default(),
            })
            .collect();
        Self {
            seed,
            rng,
            router,
            in_order,
            now_ms: 0,
            sides,
            records: BTreeMap::new(),
            waiting: BTreeSet::new(),
            gone: BTreeMap::new(),
            closing: false,
            next_id: 0,
            calls: 0,
            seen: Seen::default(),
        }
    }

    fn change(&mut self, at: usize, what: What, tokens: u64) {
        self.sides[at].changes.push((self.now_ms, what, tokens));
        self.sides[at].moved_tokens += tokens;
    }

    fn enter(&mut self, id: RequestId, stage: Stage) {
        let record = self.records.get_mut(&id).expect("it runs");
        let (before, at, tokens) = (record.stage, record.rank, record.tokens);
        if before == stage {
            return;
        }
        record.stage = stage;
        match stage {
            Stage::Decoding => self.change(at, What::Begun, tokens),
            Stage::Preempted => self.change(at, What::Preempted, tokens),
            _ => self.sides[at].moved_tokens += tokens,
        }
    }

    /// It is no longer the router's.
    fn leave(&mut self, id: RequestId) -> Record {
        let record = self.records.remove(&id).expect("it ran");
        if record.stage != Stage::Preempted {
            self.change(record.rank, What::Ended, record.tokens);
        }
        record
    }

    fn grown(&mut self, id: RequestId, tokens: u32) {
        let Some(&Record { dispatch, rank, stage, .. }) = self.records.get(&id) else { return };
        if stage == Stage::Sent && self.in_order {
            let reach = self.sides[rank].reach;
            let before = |record: &Record| {
                record.rank == rank
                    && record.stage == Stage::Sent
                    && (1..dispatch.number).contains(&record.dispatch.number)
            };
            let ids: Vec<_> = self.records.iter().filter(|(_, it)| before(it)).map(|(&id, _)| id).collect();
            ids.into_iter().for_each(|id| self.enter(id, Stage::Received { reach }));
        }
        self.enter(id, Stage::Decoding);
        self.records.get_mut(&id).expect("it runs").tokens += u64::from(tokens);
        if stage != Stage::Decoding
            && let Some(begun) = self.sides[rank].changes.last_mut()
        {
            // It has begun with these tokens.
            begun.2 += u64::from(tokens);
        }
        self.sides[rank].moved_tokens += u64::from(tokens);
    }

    fn arrive(&mut self) {
        self.next_id += 1;
        self.enqueue(RequestId(self.next_id));
        self.seen.add(Kind::Arrival);
    }

    fn enqueue(&mut self, id: RequestId) {
        let tokens = 140 + (id.0 * 7_919) % 500;
        self.calls += 1;
        self.router.enqueue(Request::new(id, tokens as u32), self.now_ms).expect("valid");
        assert!(self.waiting.insert(id));
    }

    fn job(&mut self, id: RequestId, dispatch: Option<Dispatch>, prompt: u64) -> Job {
        let group = self.rng.random_range(0..3);
        Job {
            id,
            dispatch,
            group,
            prefix_blocks: [0, 4, 8][group as usize],
            prompt,
            generated: 0,
            left: self.rng.random_range(5..150),
            computed: 0,
            phase: Phase::Queued,
            transfers: self.rng.random_bool(0.3),
        }
    }

    /// The router decides; its dispatches go on their way.
    fn decide(&mut self) {
        self.calls += 1;
        let plan = self.router.step(self.now_ms).expect("a decision").clone();
        for back in &plan.returned {
            let record = self.gone.remove(&back.id).unwrap_or_else(|| self.leave(back.id));
            assert_eq!(back.worker, Some(WorkerId(record.rank as u32)), "seed {}", self.seed);
            match back.reason {
                ReturnReason::LostDispatch => self.seen.add(Kind::LostReturned),
                ReturnReason::WorkerForgot => self.seen.add(Kind::Forgotten),
                reason => assert_eq!(reason, ReturnReason::WorkerSilent, "seed {}", self.seed),
            }
            // Whoever asked for it gives the old one up, and asks again under its id.
            let side = &mut self.sides[record.rank];
            side.way.retain(|(_, job)| job.id != back.id);
            side.rank.drop(back.id);
            side.kept.remove(&back.id);
            if !self.closing && self.rng.random_bool(0.5) {
                self.enqueue(back.id);
                self.seen.add(Kind::Again);
            }
        }
        for &dispatch in &plan.admissions {
            assert!(self.waiting.remove(&dispatch.id), "seed {}: {dispatch:?}", self.seed);
            let at = dispatch.worker.0 as usize;
            let tokens = u64::from(dispatch.prompt_tokens);
            let record = Record { dispatch, rank: at, tokens, stage: Stage::Sent };
            assert!(self.records.insert(dispatch.id, record).is_none());
            self.sides[at].moved_tokens += tokens;
            let job = self.job(dispatch.id, Some(dispatch), tokens);
            if !self.in_order && self.rng.random_ratio(1, 60) {
                self.seen.add(Kind::LostDispatch);
                continue;
            }
            let mut when = self.now_ms + self.rng.random_range(0..60);
            if self.in_order {
                when = when.max(self.sides[at].way.back().map_or(0, |&(when, _)| when));
            }
            self.sides[at].way.push_back((when, job));
        }
    }

    /// Dispatches arrive, the rank steps, and what it says goes on its way.
    fn engine(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let side = &mut self.sides[at];
        let way = std::mem::take(&mut side.way).into_iter();
        let (due, later): (VecDeque<_>, _) = way.partition(|&(when, _)| when <= now_ms);
        side.way = later;
        due.into_iter().for_each(|(_, job)| side.rank.receive(job));
        let mut said = Vec::new();
        side.rank.step(now_ms, &mut self.rng, &mut said, &mut self.seen);
        let when = side.said.back().map_or(0, |&(when, _)| when);
        let late = if self.rng.random_bool(0.2) { self.rng.random_range(0..60) } else { 0 };
        side.said.push_back((when.max(now_ms + late), said));
        side.snapshots.push_back(side.rank.now.clone());
        if side.snapshots.len() > 50 {
            side.snapshots.pop_front();
        }
        if self.closing {
            side.talk = Talk::Batch;
        } else if self.rng.random_ratio(1, 80) {
            side.talk = [Talk::Each, Talk::Batch, Talk::Worker, Talk::Silent][self.rng.random_range(0..4)];
        }
        if self.closing {
            return;
        }
        if self.rng.random_ratio(1, 100) {
            self.seen.add(Kind::Pinned);
            side.rank.pinned_blocks = self.rng.random_range(0..60);
            side.rank.count();
        }
        if self.rng.random_ratio(1, 60) {
            self.seen.add(Kind::Foreign);
            self.next_id += 1;
            let tokens = self.rng.random_range(130..600);
            let job = self.job(RequestId(self.next_id), None, tokens);
            self.sides[at].rank.receive(job);
        }
        if self.rng.random_ratio(1, 500) {
            self.seen.add(Kind::Restart);
            self.sides[at].restarted = true;
            self.sides[at].rank.restart();
        }
    }

    /// What was said arrives.
    fn listen(&mut self, at: usize) {
        while let Some(&(when, _)) = self.sides[at].said.front()
            && when <= self.now_ms
        {
            let (_, said) = self.sides[at].said.pop_front().expect("something");
            let worker = WorkerId(at as u32);
            let grown: Vec<(RequestId, u32)> = said
                .iter()
                .filter_map(|voice| match *voice {
                    Voice::Tokens(id, tokens) => Some((id, tokens)),
                    _ => None,
                })
                .collect();
            self.tell_tokens(at, worker, grown);
            for voice in said {
                self.hear(at, voice);
            }
        }
    }

    fn tell_tokens(&mut self, at: usize, worker: WorkerId, mut grown: Vec<(RequestId, u32)>) {
        let talk = self.sides[at].talk;
        if talk == Talk::Silent {
            self.seen.add(Kind::Silence);
            for (id, tokens) in grown {
                *self.sides[at].kept.entry(id).or_default() += tokens;
            }
            return;
        }
        grown.splice(0..0, std::mem::take(&mut self.sides[at].kept));
        match talk {
            Talk::Worker => {
                let grows = |record: &Record| {
                    record.rank == at && !matches!(record.stage, Stage::Held | Stage::Preempted)
                };
                let ids: Vec<_> =
                    self.records.iter().filter(|(_, it)| grows(it)).map(|(&id, _)| id).collect();
                if grown.is_empty() || ids.is_empty() {
                    return;
                }
                self.calls += 1;
                self.seen.add(Kind::Progress);
                self.router.progress(worker, 1).expect("a worker");
                self.sides[at].reach += 1;
                for id in ids {
                    self.records.get_mut(&id).expect("it runs").tokens += 1;
                    self.sides[at].moved_tokens += 1;
                }
            }
            Talk::Each => {
                for (id, tokens) in grown {
                    self.calls += 1;
                    self.seen.add(Kind::ProgressRequest);
                    let done = self.router.progress_request(id, tokens).is_ok();
                    assert_eq!(done, self.records.contains_key(&id), "seed {}", self.seed);
                    self.grown(id, tokens);
                }
            }
            _ => {
                self.calls += 1;
                self.seen.add(Kind::ProgressRequests);
                let count = grown.iter().filter(|(id, _)| self.records.contains_key(id)).count();
                assert_eq!(self.router.progress_requests(&grown), Ok(count), "seed {}", self.seed);
                grown.into_iter().for_each(|(id, tokens)| self.grown(id, tokens));
            }
        }
    }

    fn hear(&mut self, at: usize, voice: Voice) {
        let told = !self.rng.random_ratio(1, 4);
        let stage = |world: &Self, id| world.records.get(&id).map(|record| record.stage);
        let (id, done, next) = match voice {
            Voice::Tokens(..) => return,
            Voice::Ended(dispatch) => return self.end(at, &dispatch),
            Voice::Preempted(_) if !told => return self.seen.add(Kind::PreemptedUntold),
            _ if !told => return,
            Voice::Held(id) => (id, self.router.held(id), Some(Stage::Held)),
            Voice::Arrived(id) => {
                let next = (stage(self, id) != Some(Stage::Preempted)).then_some(Stage::Decoding);
                (id, self.router.transfer_done(id), next)
            }
            Voice::Preempted(id) => (id, self.router.preempted(id), Some(Stage::Preempted)),
            Voice::Resumed(id) => {
                let next = (stage(self, id) == Some(Stage::Preempted)).then_some(Stage::Decoding);
                (id, self.router.resumed(id), next)
            }
        };
        self.calls += 1;
        assert_eq!(done.is_ok(), self.records.contains_key(&id), "seed {}: {voice:?}", self.seed);
        if done.is_ok()
            && let Some(next) = next
        {
            self.enter(id, next);
            self.seen.add(match voice {
                Voice::Held(_) => Kind::Held,
                Voice::Arrived(_) => Kind::TransferDone,
                Voice::Preempted(_) => Kind::Preempted,
                _ => Kind::Resumed,
            });
        }
    }

    fn end(&mut self, at: usize, dispatch: &Dispatch) {
        self.calls += 1;
        self.sides[at].kept.remove(&dispatch.id);
        let runs = self
            .records
            .get(&dispatch.id)
            .is_some_and(|record| (record.rank, record.dispatch.number) == (at, dispatch.number));
        let done = self.router.finish_dispatch(dispatch, self.now_ms);
        assert_eq!(done.is_ok(), runs, "seed {}: {done:?}", self.seed);
        if runs {
            self.leave(dispatch.id);
            self.seen.add(Kind::End);
        } else {
            self.seen.add(Kind::StaleEnd);
        }
    }

    /// Somebody does not want an answer any more; its engine hears of it at once or not at all.
    fn abort(&mut self) {
        let ids: Vec<RequestId> = self.records.keys().chain(&self.waiting).copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.random_range(0..ids.len())];
        self.calls += 1;
        self.seen.add(Kind::Abort);
        let on = self.router.abort(id, self.now_ms).expect("it is there");
        assert_eq!(on.map(|worker| worker.0 as usize), self.records.get(&id).map(|record| record.rank));
        if !self.waiting.remove(&id) {
            let record = self.leave(id);
            if self.rng.random_bool(0.7) {
                self.sides[record.rank].way.retain(|(_, job)| job.id != id);
                self.sides[record.rank].rank.drop(id);
            }
        }
    }

    /// A request of somebody else's becomes ours where it runs.
    fn adopt(&mut self, at: usize) {
        let Some(job) = self.sides[at].rank.jobs.iter_mut().find(|job| job.dispatch.is_none()) else {
            return;
        };
        let dispatch = Dispatch {
            id: job.id,
            worker: WorkerId(at as u32),
            number: 0,
            prompt_tokens: job.prompt as u32,
            score_tokens: 0.0,
        };
        let (id, tokens, generated) = (job.id, job.prompt + job.generated, job.generated as u32);
        job.dispatch = Some(dispatch);
        self.calls += 1;
        self.seen.add(Kind::Adopted);
        let request = Request::new(id, dispatch.prompt_tokens);
        self.router.adopt(request, WorkerId(at as u32), generated).expect("valid");
        self.records.insert(id, Record { dispatch, rank: at, tokens, stage: Stage::Decoding });
        self.sides[at].moved_tokens += tokens;
        self.sides[at].rank.count();
    }
}

#[test]
fn the_account_is_as_near_to_the_truth_as_it_promises() {
    let calls: u64 = match std::env::var("BALANCEROUTE_EVENTS") {
        Ok(count) => count.parse().expect("BALANCEROUTE_EVENTS is a number"),
        Err(_) => 100_000,
    };
    let only: Option<u64> =
        std::env::var("BALANCEROUTE_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let (mut done, mut seen) = (0, Seen::default());
    let mut seed = only.unwrap_or(0);
    while done < calls {
        let mut world = World::new(seed);
        world.run(only.map_or(25_000, |_| calls));
        done += world.calls;
        world.seen.0.into_iter().for_each(|(kind, count)| *seen.0.entry(kind).or_default() += count);
        seed += 1;
    }
    println!("{done} calls, {seed} seeds: {seen:?}");
    if only.is_none() {
        let never: Vec<_> = KINDS.iter().filter(|kind| !seen.0.contains_key(kind)).collect();
        assert!(never.is_empty(), "never happened: {never:?}");
    }
}

//! A front end: a real router, and plain books of what it was told and must therefore know.

use std::collections::HashMap;
use std::fmt::Debug;

use balanceroute::forecast::classifier_for;
use balanceroute::policy::{self, Parameters};
use balanceroute::router::Metrics;
use balanceroute::{
    Dispatch, Mode, Plan, Policy, Request, RequestId, Router, RouterConfig, RouterError, Share, WaitReason,
    WorkerConfig, WorkerId,
};

use crate::caller::{Guesses, Manner, Order, Orders, PANIC, Supplied, Terms};
use crate::clocks::{Clocks, Date};
use crate::plan::Setting;
use crate::tally::{Kind, Seen};

/// What makes a policy of a name.
pub(crate) type Build = dyn Fn(&'static str, &Parameters) -> Box<dyn Policy>;

/// What can be asked of a router.
type State = (Metrics, Vec<(RequestId, WaitReason)>, Plan);

/// Of so many who wait passes are counted one by one.
const COUNTED: usize = 400;
/// Of so many a refused call is compared with what was before.
const COMPARED: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Life {
    /// For this worker alone, or any.
    Waits(Option<WorkerId>),
    Runs {
        worker: WorkerId,
        /// Of its dispatch; zero for one that was adopted.
        number: u64,
        stage: Stage,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Nothing was told of it yet.
    Sent,
    Held,
    Decoding,
    PutOff,
}

/// A request that is inside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) life: Life,
    /// As it would be sent again.
    pub(crate) request: Request<WorkerId>,
    /// Tokens that it will truly generate.
    pub(crate) output: u64,
    /// When it was let in; none before a clock was read.
    since: Option<Date>,
    /// Its place in the order of arrival.
    pub(crate) arrival: u64,
    /// How often it was passed in all, and by steps; none where that is not counted.
    passed: Option<(u32, u32)>,
    /// Its place in the list of those who wait or run.
    at: usize,
}

/// A worker as the router was told of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) worker: WorkerId,
    pub(crate) config: WorkerConfig,
    /// The last capacity that was not zero.
    pub(crate) ceiling_tokens: Option<u64>,
    pub(crate) accepting: bool,
    pub(crate) draining: bool,
    /// Of which life of the rank the last report was, and how far clocks had been off by then.
    pub(crate) life: u64,
    pub(crate) off_ms: u64,
    /// When that was.
    pub(crate) taken_ms: Option<u64>,
}

impl Known {
    pub(crate) fn new(worker: WorkerId, config: WorkerConfig) -> Self {
        let (accepting, draining) = (true, false);
        let (life, off_ms, taken_ms, ceiling_tokens) = (0, 0, None, None);
        let mut known = Self { worker, config, ceiling_tokens, accepting, draining, life, off_ms, taken_ms };
        known.set(config);
        known
    }

    pub(crate) fn set(&mut self, config: WorkerConfig) {
        self.config = config;
        if config.kv_capacity_tokens != Some(0) {
            self.ceiling_tokens = config.kv_capacity_tokens;
        }
    }
}

/// One who has left and is not told yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) id: RequestId,
    pub(crate) worker: WorkerId,
    pub(crate) record: Record,
}

/// What was counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) arrived: u64,
    pub(crate) admitted: u64,
    pub(crate) placed: u64,
    pub(crate) finished: u64,
    pub(crate) aborted: u64,
    pub(crate) preempted: u64,
    pub(crate) disowned: u64,
    pub(crate) returned: [u64; balanceroute::ReturnReason::ALL.len()],
    /// Requests that waited and were sent.
    pub(crate) sent_waiting: u64,
}

pub(crate) struct Front {
    pub(crate) index: usize,
    pub(crate) setting: Setting,
    pub(crate) router: Router,
    pub(crate) orders: Orders,
    /// A classifier that has panicked tells with the next step, and is not asked again.
    pub(crate) classifier_failed: bool,
    /// Whether workers have come or gone since the last step: its rows of pair terms have ended with them.
    pub(crate) rows_ended: bool,
    /// Its worker of each rank.
    pub(crate) known: Vec<Option<Known>>,
    pub(crate) records: HashMap<RequestId, Record>,
    pub(crate) waiting: Vec<RequestId>,
    pub(crate) running: Vec<RequestId>,
    /// Who has left and is told with the next plan.
    pub(crate) pending: Vec<Gone>,
    undated: Vec<RequestId>,
    pub(crate) arrivals: u64,
    counts_passes: bool,
    pub(crate) counts: Counts,
    pub(crate) next_id: u64,
    pub(crate) metrics: Metrics,
    pub(crate) most_admitted: u32,
    pub(crate) clocks: Clocks,
}

impl Front {
    /// With a policy that `build` makes of its name, where that is given.
    pub(crate) fn new(setting: Setting, index: usize, build: Option<&Build>) -> Self {
        let some = |value: u64| Some(value).filter(|&value| value > 0);
        let orders = Orders::default();
        let config = RouterConfig::new(0, 0)
            .mode(match setting.mode {
                0 => Mode::Step,
                1 => Mode::Arrival,
                _ => Mode::Mixed { free_slots: setting.bypass as u32 },
            })
            .share(match setting.shared {
                0 => Share::WHOLE,
                _ => Share::new(index as u32, setting.fronts as u32),
            })
            .headroom_steps(some(setting.headroom).map(|steps| steps as u32))
            .in_order(setting.in_order == 1)
            .dispatch_timeout_ms(some(setting.dispatch_ms))
            .silence_timeout_ms(some(setting.silence_ms))
            .expire_after_ms(some(setting.expire_ms))
            .lower_class_one_in(some(setting.one_in).map(|one_in| one_in as u32));
        let parameters = Parameters::new()
            .candidate_window(setting.window as usize)
            .max_passed(some(setting.max_passed).map(|most| most as u32));
        let router = if setting.supplied == 1 {
            let inner = policy::build(setting.policy, &parameters).expect("a policy");
            let supplied = Box::new(Supplied { inner, orders: orders.clone() });
            Router::with_policy(config, supplied, Some(Box::new(Guesses { orders: orders.clone() })))
        } else if let Some(build) = build {
            let policy = build(setting.policy, &parameters);
            let classifier = policy.needs().forecast.map(classifier_for);
            Router::with_policy(config, policy, classifier)
        } else {
            Router::new(config, setting.policy, &parameters)
        };
        let mut front = Self {
            index,
            setting,
            router: router.expect("valid"),
            orders,
            classifier_failed: false,
            rows_ended: false,
            known: vec![None; setting.ranks as usize],
            records: HashMap::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            pending: Vec::new(),
            undated: Vec::new(),
            arrivals: 0,
            counts_passes: true,
            counts: Counts::default(),
            next_id: 0,
            metrics: Metrics::default(),
            most_admitted: 0,
            clocks: Clocks::new(setting.clocks),
        };
        front.router.set_explaining(setting.explains == 1);
        front
    }

    pub(crate) fn new_id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id << 2 | self.index as u64)
    }

    // Time.

    /// What a clock shows, for a call that may be refused.
    pub(crate) fn shows(&self, now_ms: u64, clock: u64) -> u64 {
        self.clocks.shows(now_ms, clock)
    }

    /// The router was told what a clock shows: whoever came without a date waits from now on.
    pub(crate) fn read(&mut self, now_ms: u64, clock: u64) {
        self.clocks.was_read(now_ms, clock);
        let date = self.clocks.date(now_ms);
        for id in self.undated.drain(..) {
            if let Some(record) = self.records.get_mut(&id) {
                record.since = record.since.or(Some(date));
            }
        }
    }

    /// How long a request has waited: at least, and at most, as far as clocks can tell.
    fn waited_ms(&self, record: &Record, now_ms: u64) -> (u64, u64) {
        record.since.map_or((0, 0), |since| self.clocks.since_ms(since, now_ms))
    }

    // Workers.

    pub(crate) fn rank_of(&self, worker: WorkerId) -> Option<usize> {
        self.known.iter().position(|known| known.is_some_and(|known| known.worker == worker))
    }

    pub(crate) fn worker_of(&self, rank: usize) -> Option<WorkerId> {
        self.known[rank].map(|known| known.worker)
    }

    pub(crate) fn has_worker(&self, worker: WorkerId) -> bool {
        self.rank_of(worker).is_some()
    }

    // Calls.

    /// What could be asked before a call that may fail.
    pub(crate) fn state_before(&self, terms: Option<&Terms<'_>>) -> Option<State> {
        let may_fail = terms.is_some_and(|terms| !matches!(terms.manner, Manner::Sound | Manner::Neutral))
            || self.classifier_failed
            || self.orders.get() != Order::Nothing;
        if may_fail { self.state() } else { None }
    }

    pub(crate) fn assert_unchanged(&self, before: Option<State>, error: &RouterError) {
        if let Some(before) = before {
            assert_eq!(self.state(), Some(before), "{error}");
        }
    }

    /// What can be asked, where that does not take long.
    fn state(&self) -> Option<State> {
        if self.waiting.len() > COMPARED {
            return None;
        }
        let mut metrics = Metrics::default();
        self.router.metrics(&mut metrics);
        // A time of this machine's.
        metrics.counters.decide_ns = Default::default();
        Some((metrics, self.router.waiting(), self.router.plan().clone()))
    }

    /// A call that is refused or not, as the books know beforehand; a refused one has changed nothing.
    pub(crate) fn call<T: Debug>(
        &mut self,
        refused: bool,
        seen: &mut Seen,
        call: impl FnOnce(&mut Router) -> Result<T, RouterError>,
    ) -> Option<T> {
        let spoilt = self.orders.get() != Order::Nothing;
        let before = if refused || spoilt { self.state() } else { None };
        match call(&mut self.router) {
            Ok(answer) => {
                assert!(!refused, "it must be refused: {answer:?}");
                Some(answer)
            }
            Err(error) => {
                if refused {
                    assert!(!matches!(error, RouterError::Panicked { .. }), "{error}");
                    seen.add(Kind::Refused);
                } else {
                    assert!(self.excuses(&error, seen), "it may not fail: {error}");
                }
                self.assert_unchanged(before, &error);
                None
            }
        }
    }

    /// Whether something that the caller supplies is to blame. The order to misbehave is over with it.
    pub(crate) fn excuses(&mut self, error: &RouterError, seen: &mut Seen) -> bool {
        let order = self.orders.get();
        self.orders.give(Order::Nothing);
        let panicked = |message: &str| message == PANIC;
        let (kind, excused) = match (order, error) {
            (Order::Decides | Order::Binds, RouterError::Panicked { message, .. }) => {
                (Kind::PolicyPanicked, panicked(message))
            }
            (_, RouterError::Panicked { message, .. }) => {
                let failed = std::mem::take(&mut self.classifier_failed) || order == Order::Predicts;
                (Kind::ClassifierPanicked, failed && panicked(message))
            }
            (
                Order::Invents | Order::Repeats | Order::LeavesTheWorkers | Order::Overfills,
                RouterError::Refused { .. },
            ) => (Kind::PolicyRefused, true),
            _ => return false,
        };
        seen.add(kind);
        excused
    }

    /// The order to misbehave is over; a classifier may have met it in a call that cannot fail.
    pub(crate) fn end_order(&mut self) {
        if self.orders.get() == Order::Predicts {
            self.classifier_failed = true;
        }
        self.orders.give(Order::Nothing);
    }

    // The books.

    fn push(&mut self, id: RequestId, mut record: Record) {
        let list = match record.life {
            Life::Waits(_) => &mut self.waiting,
            Life::Runs { .. } => &mut self.running,
        };
        record.at = list.len();
        list.push(id);
        assert!(self.records.insert(id, record).is_none(), "{id} is inside already");
    }

    /// Takes a request out of the books.
    pub(crate) fn take(&mut self, id: RequestId) -> Record {
        let record = self.records.remove(&id).unwrap_or_else(|| panic!("{id} is not inside"));
        let list = match record.life {
            Life::Waits(_) => &mut self.waiting,
            Life::Runs { .. } => &mut self.running,
        };
        list.swap_remove(record.at);
        if let Some(moved) = list.get(record.at) {
            self.records.get_mut(moved).expect("it is listed").at = record.at;
        }
        record
    }

    /// A request was let in to wait; a policy that binds may have named its worker.
    pub(crate) fn waits(
        &mut self,
        (request, output): (Request<WorkerId>, u64),
        dated_ms: Option<u64>,
        arrival: Option<u64>,
    ) {
        let id = request.id;
        let found = self.router.pool().request(id).expect("it waits");
        let bound = found.rank.map(|place| self.router.worker_ids()[place.index()]);
        assert!(request.rank.is_none() || bound == request.rank, "{id}: a given rank is kept");
        let arrival = arrival.unwrap_or_else(|| self.next_arrival());
        self.counts.arrived += 1;
        if self.waiting.is_empty() {
            self.counts_passes = true;
        }
        let passed = self.counts_passes.then_some((found.passed, 0));
        let since = dated_ms.map(|now_ms| self.clocks.date(now_ms));
        if since.is_none() {
            self.undated.push(id);
        }
        self.push(id, Record { life: Life::Waits(bound), request, output, since, arrival, passed, at: 0 });
    }

    pub(crate) fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// A request runs that waited, or was not inside.
    pub(crate) fn runs(&mut self, mut record: Record, dispatch: &Dispatch, stage: Stage) {
        let &Dispatch { id, worker, number, .. } = dispatch;
        record.life = Life::Runs { worker, number, stage };
        self.push(id, record);
    }

    /// A record of one that comes to run without having waited.
    pub(crate) fn newcomer(&mut self, request: Request<WorkerId>, output: u64) -> Record {
        self.counts.arrived += 1;
        let arrival = self.next_arrival();
        let life = Life::Waits(None);
        Record { life, request, output, since: None, arrival, passed: None, at: 0 }
    }

    /// The worker and the dispatch that a request runs by.
    pub(crate) fn runs_on(&self, id: RequestId) -> Option<(WorkerId, u64)> {
        match self.records.get(&id)?.life {
            Life::Runs { worker, number, .. } => Some((worker, number)),
            Life::Waits(_) => None,
        }
    }

    pub(crate) fn set_stage(&mut self, id: RequestId, to: Stage, from: impl Fn(Stage) -> bool) {
        if let Some(Record { life: Life::Runs { stage, .. }, .. }) = self.records.get_mut(&id)
            && from(*stage)
        {
            *stage = to;
        }
    }

    /// One has entered a worker: whoever came before it, is of its class and may use the worker was passed.
    pub(crate) fn passes(&mut self, (arrival, class): (u64, i8), worker: WorkerId, by_step: bool) {
        if !self.counts_passes {
            return;
        }
        // Where masks or so many are, only the router counts.
        if self.setting.masks == 1 || self.waiting.len() > COUNTED {
            self.counts_passes = false;
            return self.records.values_mut().for_each(|record| record.passed = None);
        }
        for id in &self.waiting {
            let record = self.records.get_mut(id).expect("it waits");
            let may = matches!(record.life, Life::Waits(rank) if rank.is_none_or(|rank| rank == worker));
            if may
                && record.arrival < arrival
                && record.request.priority == class
                && let Some((all, by_steps)) = &mut record.passed
            {
                (*all, *by_steps) = (*all + 1, *by_steps + u32::from(by_step));
            }
        }
    }

    pub(crate) fn passed(record: &Record) -> Option<(u32, u32)> {
        record.passed
    }

    /// Nobody waits who should have been given back, and nobody was who had not waited for so long.
    pub(crate) fn check_expiry(&self, now_ms: u64) {
        if self.setting.expire_ms == 0 || self.waiting.len() > COMPARED {
            return;
        }
        for id in &self.waiting {
            let (least_ms, _) = self.waited_ms(&self.records[id], now_ms);
            let expire_ms = self.setting.expire_ms;
            assert!(
                least_ms < expire_ms,
                "{id} has waited {least_ms} ms and more, of {expire_ms}, and stays"
            );
        }
    }

    pub(crate) fn may_expire(&self, record: &Record, now_ms: u64) {
        let (_, most_ms) = self.waited_ms(record, now_ms);
        let expire_ms = self.setting.expire_ms;
        assert!(
            expire_ms > 0 && most_ms >= expire_ms,
            "{record:?} has waited {most_ms} ms at most and expires after {expire_ms}"
        );
    }
}

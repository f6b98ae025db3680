//! The state across steps: the waiting pool, what runs where, what traffic looks like, and one policy that
//! decides.
//!
//! The caller tells it what happens and asks for decisions:
//!
//! | call | tells or asks |
//! |---|---|
//! | [`Router::enqueue`] | a request waits for a step |
//! | [`Router::place`] | a request arrived: it enters a worker at once if the [`Mode`] allows, else waits |
//! | [`Router::step`] | who enters which worker now, and who comes back |
//! | [`Router::advance`] | every running request has a token more |
//! | [`Router::progress`], [`Router::progress_request`] | one worker's requests, or one, grow |
//! | [`Router::send`] | a request enters a worker, whether or not it has room |
//! | [`Router::adopt`] | a request runs already |
//! | [`Router::held`], [`Router::transfer_done`] | a request has KV and does not decode yet; now it does |
//! | [`Router::preempted`], [`Router::resumed`] | its engine put a request off and goes on with it itself |
//! | [`Router::preempt`] | a request was put off its worker and comes back |
//! | [`Router::finish`], [`Router::abort`] | a request ended, was given up |
//! | [`Router::finish_dispatch`], [`Router::abort_dispatch`] | the same, of one of its lives |
//! | [`Router::disown_sent`] | the ends of requests will not be told |
//! | [`Router::report`] | what a worker measured, and the last dispatch that it had seen |
//! | [`Router::add_worker`], [`Router::announce_worker`] | a worker joins, will join |
//! | [`Router::configure_worker`] | its slots, capacity or weight are others |
//! | [`Router::set_share`] | our part of all workers is another |
//! | [`Router::drain_worker`], [`Router::remove_worker`] | a worker takes nobody new, is gone |
//! | [`Router::explain`], [`Router::waiting`], [`Router::metrics`] | why; how it stands |
//! | [`Router::learned`], [`Router::learn`] | what the traffic has taught, across restarts |
//! | [`Router::recover`] | everybody comes back, and it begins anew |
//! | [`Router::apply`] | any of these, as a value |
//!
//! Every request that was let in leaves exactly once: by `finish` or `abort`, in [`Plan::returned`], or from
//! `remove_worker` or `recover`.
//!
//! # A call is whole or not at all
//! A call that returns an error has changed nothing: [`Router::waiting`], [`Router::metrics`] and the next
//! plan are those that would have been without it. A step first decides, windows and pair terms included, and
//! then does what it has decided. What the caller supplies (a policy, pair terms, a classifier) may panic:
//! that is an error too ([`RouterError::Panicked`]). The memory of a policy is its own business; a classifier
//! that has panicked is not asked again until [`Router::recover`].
//!
//! # Clocks
//! `now_ms` is the caller's clock in milliseconds, any origin. Time begins at its first reading and never
//! runs backwards; calls that carry no reading happen at the last one, except that a request that is enqueued
//! without begins to wait when the clock is next read. Timeouts and expiry go by it. A reading more than
//! [`FORWARD_JUMP_MS`] ahead of the last, or more than [`BACKWARD_JUMP_MS`] behind it, is a *jump*: no time
//! has passed by it, time goes on from there, and it is counted ([`Counters::clock_jumps`]). So a clock that
//! is set neither expires who waits nor stops their time. A few clocks that disagree by more than that may
//! alternate (eight); time follows the one that is ahead.
//!
//! # Windows
//! A step chooses among the oldest requests, [`crate::policy::Needs::candidate_window`] of them. When it has
//! left none of them that may enter an open worker (by slots, room, rank and eligibility) although slots are
//! open and others wait behind, the window moves on past them for that step: to the next, in order of
//! arrival, whose length and rank fit, and again until slots or requests run out. So no slot stays empty for
//! want of somebody who is only far behind (but for a step in which the repair of `level` or `exact` leaves
//! room, which the next one fills), and no step looks at a million: those who do not fit are passed over a
//! thousand at a time.
//!
//! Waits and forecasts go by the *step clock*. [`Router::advance`] moves it by one; progress moves it when a
//! worker, or a request by itself, gets ahead of it. So with lock-step workers that report one by one it
//! counts steps, and with speculative decoding the tokens of the fastest.
//!
//! # Workers
//! A worker has a [`WorkerId`]: its position in [`RouterConfig::workers`], or what [`Router::add_worker`]
//! gave. It stays with the worker and is never used again, so a report of a worker that is gone cannot be
//! taken for another's. A request that comes here names its worker by id ([`Request::rank`], an explicit rank
//! or a sticky session), and that is a promise: the request enters that worker or none. Policies see workers
//! in order of id without gaps, by their [`WorkerIndex`](crate::WorkerIndex).
//!
//! # Claims
//! Where KV caches bind, a request that is overdue and fits nowhere claims a worker: until it enters, nobody
//! else of its class or a lower one does but overdue ones before it, by a step or on arrival
//! ([`WaitReason::Claims`], [`WaitReason::Claimed`], [`RankMetrics::claimed_by`]). Callers that send or adopt
//! requests themselves are not held back. A single batch has no claims: they are between steps.
//!
//! # Several front ends
//! *All feed one router*: everything holds. *Each has its own, with a [`Share`]*: each is sure of its part of
//! every worker and borrows in turns what reports show to be free beyond all parts; requests are judged by
//! the whole worker ([`Share`] tells how far they may overfill one). *Each has its own without shares*: each
//! counts the others as foreign load since its last report and may overshoot by what they sent since then.
//!
//! # Cost
//! An event costs O(1), whoever waits; one that changes the window also moves what stands between two places
//! of its order of length. A step costs what the policy needs for the window, and what those who leave cost
//! one by one; a report what it newly acknowledges; a placement on arrival looks at every worker once.
//! Nothing allocates once everything has seen its largest size (`tests/allocation.rs`). `cargo bench --bench
//! router` and `--bench pool` have the figures. A router belongs to one thread at a time (it is `Send`);
//! there is no global state. Ids are the caller's and may be an attacker's choice, so they are found by the
//! standard library's keyed hash: of the 50 ns of an event it takes a part, and no order of iteration ever
//! decides anything.

mod call;
mod claim;
mod classes;
mod clock;
mod config;
mod error;
mod events;
mod explain;
mod forecast_state;
mod learned;
mod metrics;
mod pairs;
mod placement;
mod plan;
#[cfg(feature = "record")]
pub mod record;
mod recording;
mod recover;
mod returns;
mod running;
mod stages;
#[cfg(feature = "record")]
mod state;
mod step;
mod trace;
mod traffic;
mod workers;

pub use self::call::{Answer, Call, Terms, TermsRow};
pub use self::clock::{BACKWARD_JUMP_MS, FORWARD_JUMP_MS};
pub use self::config::{Mode, RouterConfig};
pub use self::error::RouterError;
pub use self::explain::{Decided, Explanation, RunnerUp};
pub use self::metrics::{Counters, Histogram, Metrics, RankMetrics};
pub use self::pairs::PairTerms;
pub use self::plan::{Dispatch, Finished, Placement, Plan, ReturnReason, Returned};
pub use self::traffic::TrafficMeter;
pub use crate::account::{PreemptionCost, ReportCounts, Share, Verdict, WorkerConfig, WorkerReport};

use self::claim::{Claim, Turns};
use self::classes::Credits;
use self::clock::Clock;
use self::explain::Explainer;
use self::forecast_state::ForecastState;
use self::pairs::PairRows;
use self::stages::Preempted;
use self::step::Planned;
use crate::account::{Account, Rules, Sight, Slab};
use crate::assignment::{Assignment, Balance, Reasons, WaitReason};
use crate::batch::{Batch, BatchError, MAX_HORIZON, MAX_PROMPT_TOKENS, Request, Traffic, Worker};
use crate::forecast::ruin::Lives;
use crate::forecast::{TerminationClassifier, classifier_for};
use crate::ids::{RequestId, WorkerId};
use crate::policy::{self, Parameters, Policy, Rank};
use crate::pool::{CANDIDATE_WINDOW, Pool, Waiting};

/// Decides step after step for one cluster.
pub struct Router {
    config: RouterConfig,
    policy: Box<dyn Policy>,
    forecast_state: Option<ForecastState>,
    /// The step clock, and that of those who run.
    now: i64,
    lived: traffic::Lived,
    clock: Clock,
    pool: Pool,
    // One entry per worker, in order of id.
    ids: Vec<WorkerId>,
    workers: Vec<Worker>,
    accounts: Vec<Account>,
    queued: Vec<(u32, u64)>,
    next_id: u32,
    /// Whether any worker's KV cache is bounded.
    bounded: bool,
    /// The longest request that some worker could take if it were empty, beside the room that it leaves and
    /// what is left to others, if there is such a bound.
    longest_tokens: Option<u64>,
    /// Whether a waiting request may have become one that no worker will ever take.
    rescan: bool,
    /// Whether somebody may wait who tells how many tokens it may generate.
    any_most: bool,
    /// From where the workers were last looked at.
    sight: Sight,
    /// Who was preempted, to come again by a call that may not say so.
    preempted: Preempted,
    ranks: Vec<Rank>,
    slab: Slab,
    meter: TrafficMeter,
    /// Rows of the last step with pair terms; every `pair_row` in the pool points into it.
    pair_rows: PairRows,
    /// Those of the step under way.
    next_rows: PairRows,
    assignment: Assignment,
    /// What the last step told those whom it could still have placed.
    passed_over: Option<WaitReason>,
    /// Who had been passed by so many went first in it.
    max_passed: Option<u32>,
    /// Which worker is kept for whom since the last step, and with the step under way.
    claim: Option<Claim>,
    next_claim: Option<Claim>,
    /// Slots of the claimed worker that the class which is decided does not see.
    hidden_slots: u32,
    turns: Turns,
    /// What higher classes have gone past the others by.
    credits: Credits,
    /// Before the step under way and after it.
    balance: (Balance, Balance),
    /// How many windows it has decided.
    windows: u32,
    plan: Plan,
    /// Left since the last plan; told in the next.
    pending: Vec<Returned>,
    explainer: Explainer,
    counters: Counters,
    /// Nobody waits here: the batch of one request on its arrival.
    nobody: Pool,
    arrival_rows: PairRows,
    // Scratch.
    taken: Vec<u32>,
    stamps: Vec<u64>,
    stamp: u64,
    /// Who leaves the pool with the step under way, and who is admitted by it.
    leaving: Vec<(RequestId, ReturnReason)>,
    planned: Vec<Planned>,
    left: Vec<Waiting>,
    /// Dispatches that come back with it, by their place in the slab.
    silent: Vec<u32>,
    /// The workers as the next window finds them, where they are not as they were.
    later: Vec<Worker>,
    changed: bool,
    most_tokens: Vec<Option<i64>>,
    /// Rows before the step under way, of the oldest of each class in order of arrival.
    former_rows: Vec<Option<u32>>,
    /// Rows that it asked for as it began.
    asked: Vec<(RequestId, Option<u32>)>,
    lives: Lives,
    #[cfg(feature = "record")]
    recorder: Option<Box<crate::router::record::Recorder>>,
}

impl Router {
    /// A router with empty workers that decides by the policy of this name ([`policy::NAMES`]); a policy that
    /// wants a forecast gets it.
    ///
    /// # Errors
    /// A configuration out of its ranges, or what [`policy::build`] refuses.
    pub fn new(config: RouterConfig, name: &str, parameters: &Parameters) -> Result<Self, RouterError> {
        Self::unrecorded(config, name, parameters)?.recorded_if_asked()
    }

    /// [`Router::new`] that no recorder is asked for.
    pub(crate) fn unrecorded(
        config: RouterConfig,
        name: &str,
        parameters: &Parameters,
    ) -> Result<Self, RouterError> {
        let policy = policy::build(name, parameters)?;
        let classifier = policy.needs().forecast.map(classifier_for);
        Self::of_policy(config, policy, classifier)
    }

    /// A router with a policy and a classifier of the caller's. The classifier serves policies that name a
    /// forecast among their needs. Without one such a policy decides without a forecast: only [`Router::new`]
    /// supplies it.
    ///
    /// # Errors
    /// A configuration out of its ranges, or a policy that needs a projection past
    /// [`MAX_HORIZON`].
    pub fn with_policy(
        config: RouterConfig,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RouterError> {
        Self::of_policy(config, policy, classifier)?.recorded_if_asked()
    }

    /// [`Router::with_policy`] that no recorder is asked for.
    pub(crate) fn of_policy(
        config: RouterConfig,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RouterError> {
        config.check()?;
        let needs = policy.needs();
        if let Some(found) = needs.projection_horizon.filter(|&horizon| horizon > MAX_HORIZON) {
            return Err(BatchError::Horizon { what: "projection", limit: MAX_HORIZON, found }.into());
        }
        let window = needs.candidate_window.unwrap_or(CANDIDATE_WINDOW);
        let forecast_state = classifier
            .filter(|_| needs.forecast.is_some())
            .map(|classifier| ForecastState::new(classifier, needs, &config));
        let joining = config.workers.clone();
        let sight = Sight::new(config.share, 0, joining.len(), false);
        let mut router = Self {
            config,
            policy,
            forecast_state,
            now: 0,
            lived: traffic::Lived::default(),
            clock: Clock::default(),
            pool: Pool::with_window(window),
            ids: Vec::new(),
            workers: Vec::new(),
            accounts: Vec::new(),
            queued: Vec::new(),
            next_id: 0,
            bounded: false,
            longest_tokens: None,
            rescan: false,
            any_most: false,
            sight,
            preempted: Preempted::default(),
            ranks: Vec::new(),
            slab: Slab::default(),
            meter: TrafficMeter::new(),
            pair_rows: PairRows::default(),
            next_rows: PairRows::default(),
            assignment: Assignment::new(),
            passed_over: None,
            max_passed: None,
            claim: None,
            next_claim: None,
            hidden_slots: 0,
            turns: Turns::new(),
            credits: Credits::default(),
            balance: Default::default(),
            windows: 0,
            plan: Plan::default(),
            pending: Vec::new(),
            explainer: Explainer::default(),
            counters: Counters::default(),
            nobody: Pool::new(),
            arrival_rows: PairRows::default(),
            taken: Vec::new(),
            stamps: Vec::new(),
            stamp: 0,
            leaving: Vec::new(),
            planned: Vec::new(),
            left: Vec::new(),
            silent: Vec::new(),
            later: Vec::new(),
            changed: false,
            most_tokens: Vec::new(),
            former_rows: Vec::new(),
            asked: Vec::new(),
            lives: Lives::default(),
            #[cfg(feature = "record")]
            recorder: None,
        };
        for worker in &joining {
            router.join(worker);
        }
        Ok(router)
    }

    // What can be asked.

    /// Why each request still waits, as things stand, in arrival order. Costs nothing when not asked for.
    #[must_use]
    pub fn waiting(&self) -> Vec<(RequestId, WaitReason)> {
        let mut reasons = Vec::new();
        self.waiting_into(&mut reasons);
        reasons
    }

    /// [`Router::waiting`] into a buffer, which is cleared first.
    pub fn waiting_into(&self, into: &mut Vec<(RequestId, WaitReason)>) {
        into.clear();
        let reasons = self.reasons();
        into.extend(
            self.pool.iter_with_slots().map(|(slot, request, _)| (request.id, reasons.of(slot, &request))),
        );
    }

    /// Why requests wait, as things stand.
    fn reasons(&self) -> Reasons<'_> {
        // Every part of it was checked when it came in.
        let batch = Batch::draft(&self.workers, &self.pool)
            .request_growth(self.headroom_steps())
            .pairs(self.pair_rows.pairs())
            .unchecked();
        let nothing = Assignment { passed_over: self.passed_over, ..Assignment::new() };
        Reasons::new(batch, &nothing).claimed(self.claimed())
    }

    /// The workers as a step sees them, in order of id.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Their ids, ascending.
    #[must_use]
    pub fn worker_ids(&self) -> &[WorkerId] {
        &self.ids
    }

    /// The waiting requests; their ranks are positions in [`Router::workers`].
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The last step's plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the traffic looks like.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    /// What the router was configured with; its workers are those of the beginning.
    #[must_use]
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// The policy that decides.
    #[must_use]
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// Requests that run.
    #[must_use]
    pub fn running_len(&self) -> usize {
        self.slab.len()
    }

    /// Who runs, in order of id: the worker, and the number of the dispatch (zero for one that was adopted).
    pub fn running(&self) -> impl Iterator<Item = (RequestId, WorkerId, u64)> {
        let mut ids = self.slab.ids();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| {
            let active = &self.slab.entries[self.slab.index_of(id)? as usize];
            Some((id, active.worker, active.number))
        })
    }

    /// The worker that a request runs on.
    #[must_use]
    pub fn running_on(&self, id: impl Into<RequestId>) -> Option<WorkerId> {
        self.slab.index_of(id.into()).map(|index| self.slab.entries[index as usize].worker)
    }

    /// Tokens that a running request has generated.
    #[must_use]
    pub fn generated_tokens(&self, id: impl Into<RequestId>) -> Option<u32> {
        let active = &self.slab.entries[self.slab.index_of(id.into())? as usize];
        let place = self.place_of(active.worker).ok()?;
        Some(self.accounts[place].generated_tokens(active))
    }

    /// Tokens of a running request's prompt.
    #[must_use]
    pub fn prompt_tokens(&self, id: impl Into<RequestId>) -> Option<u32> {
        self.slab.index_of(id.into()).map(|index| self.slab.entries[index as usize].request.prompt_tokens)
    }

    // The count.

    fn place_of(&self, worker: WorkerId) -> Result<usize, RouterError> {
        find(&self.ids, worker).ok_or(RouterError::Worker { workers: self.ids.len(), found: worker })
    }

    fn headroom_steps(&self) -> u32 {
        let headroom_steps = self.config.headroom_steps.filter(|_| self.bounded);
        headroom_steps.map_or(0, |steps| steps.min(MAX_PROMPT_TOKENS))
    }

    #[inline]
    fn settle(&mut self, place: usize) {
        self.accounts[place].settle(&self.sight, place, &mut self.workers[place]);
    }

    /// [`Router::settle`] after requests there have grown and nothing else has happened.
    fn settle_growth(&mut self, place: usize) {
        self.accounts[place].settle_growth(&self.sight, place, &mut self.workers[place]);
    }

    fn settle_all(&mut self) {
        self.sight.workers = self.accounts.len();
        for place in 0..self.accounts.len() {
            self.settle(place);
        }
    }

    /// Looks at the workers from another time, and for those who wait now. From where it was before. By the
    /// caller's clock, which front ends may have in common.
    fn look(&mut self, told_ms: u64, tight: bool) -> Sight {
        let sight = Sight::new(self.config.share, told_ms, self.accounts.len(), tight);
        self.look_from(sight)
    }

    fn look_from(&mut self, sight: Sight) -> Sight {
        let before = std::mem::replace(&mut self.sight, sight);
        if before != sight {
            self.settle_all();
        }
        before
    }

    /// What the accounts go by.
    fn rules(&self) -> Rules {
        let RouterConfig { share, headroom_steps, in_order, .. } = self.config;
        let headroom_tokens = headroom_steps.map(|steps| steps.min(MAX_PROMPT_TOKENS));
        Rules { share, headroom_tokens, in_order }
    }

    /// The time.
    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Takes a reading of the clock.
    fn tell(&mut self, clock: Clock) {
        self.clock = clock;
        self.pool.date(clock.now_ms());
    }

    /// What the clock would be after a call that may carry a reading.
    fn read(&self, now_ms: impl Into<Option<u64>>) -> Option<Clock> {
        Some(self.clock.read(now_ms.into()?))
    }

    /// The router stops counting a request as queued for its worker; its rank becomes an id again.
    fn left_queue(&mut self, request: Request) -> Request<WorkerId> {
        self.drop_claim_of(request.id);
        let worker = request.rank.map(|rank| {
            let (requests, tokens) = &mut self.queued[rank.index()];
            *requests -= 1;
            *tokens -= u64::from(request.prompt_tokens);
            self.ids[rank.index()]
        });
        request.ranked(worker)
    }

    /// Rows of pair terms have an entry for each worker: they end with the workers of their step.
    fn drop_rows(&mut self) {
        if !self.pair_rows.is_empty() {
            self.pair_rows.clear();
            self.pool.set_all_pair_rows(|_| None);
        }
    }

    /// Workers or their capacities are others now.
    fn limits_changed(&mut self) {
        self.bounded = self.accounts.iter().any(|account| account.capacity_tokens.is_some());
        self.longest_tokens = if self.bounded { self.find_longest_tokens() } else { None };
        self.rescan = true;
        let slots = self.accounts.iter().map(|account| u64::from(account.own_slots)).sum();
        self.meter.outputs.set_slots(slots);
    }
}

/// The position of a worker's id: where it says, unless workers before it are gone.
fn find(ids: &[WorkerId], worker: WorkerId) -> Option<usize> {
    match ids.get(worker.get() as usize) {
        Some(&id) if id == worker => Some(worker.get() as usize),
        _ => ids.binary_search(&worker).ok(),
    }
}

#[cfg(test)]
mod tests;

//! The state across steps: the waiting pool, what runs where, what traffic looks like, and one policy that decides.
//!
//! The caller tells it what happens and asks for decisions:
//!
//! | call | tells or asks |
//! |---|---|
//! | [`Router::enqueue`] | a request waits for a step |
//! | [`Router::place`] | a request arrived: place it at once if the [`Mode`] and the workers allow, else it waits |
//! | [`Router::step`] | who enters which worker now, and who comes back |
//! | [`Router::advance`], [`Router::progress`], [`Router::progress_request`] | running requests have more tokens: all, one worker's, one |
//! | [`Router::finish`], [`Router::abort`], [`Router::preempt`] | a request ended, was given up, was put off its worker |
//! | [`Router::report`] | what a worker measured, and the last dispatch that it had seen |
//! | [`Router::add_worker`], [`Router::drain_worker`], [`Router::remove_worker`] | a worker joins, takes nobody new, is gone |
//! | [`Router::explain`], [`Router::waiting`], [`Router::metrics`] | why; how it stands |
//!
//! Every request that was let in leaves exactly once: by `finish` or `abort`, in [`Plan::returned`], or from `remove_worker`.
//!
//! # Clocks
//! `now_ms` is the caller's clock in milliseconds, any origin; it never runs backwards here: the latest value given counts, also for calls that
//! carry none. Timeouts and expiry go by it.
//!
//! Waits and forecasts go by the *step clock*. [`Router::advance`] moves it by one; progress moves it when a worker, or a request by itself, gets
//! ahead of it. So with lock-step workers that report one by one it counts steps, and with speculative decoding the tokens of the fastest.
//!
//! # Workers
//! A worker's id is its position in [`RouterConfig::workers`], or what [`Router::add_worker`] gave; it is never used again, so a report of a worker that
//! is gone cannot be taken for another's. [`Request::rank`] (an explicit rank or a sticky session) names a worker by id and is a promise: the request enters
//! that worker or none. Policies see workers in order of id without gaps.
//!
//! # Several front ends
//! *All feed one router*: everything holds. *Each has its own, with a [`Share`]*: the parts add up to each worker, so slots and KV capacity are never
//! exceeded by what they admit together, whatever their reports; they balance against each other as far as reports show the others' load.
//! *Each has its own without shares*: each counts the others as foreign load since its last report and may overshoot by what they sent since then.
//!
//! # Cost
//! An event costs O(1) beside the pool's order, a step what the policy needs, a report what it newly acknowledges. Nothing allocates once everything has
//! seen its largest size. A router belongs to one thread at a time (it is `Send`); there is no global state.

mod accounting;
mod config;
mod error;
mod explain;
mod foresight;
mod metrics;
mod placement;
mod plan;
mod report;
mod traffic;

use std::time::Instant;

pub use self::accounting::ReportCounts;
pub use self::config::{Mode, RouterConfig, Share, WorkerConfig};
pub use self::error::RouterError;
pub use self::explain::{Decided, Explanation, RunnerUp};
pub use self::metrics::{Counters, Histogram, Metrics, RankMetrics};
pub use self::plan::{Dispatch, Finished, Placement, Plan, ReturnReason, Returned};
pub use self::report::{Verdict, WorkerReport};
pub use self::traffic::TrafficMeter;

use self::accounting::{Account, Active, Slab};
use self::explain::Explainer;
use self::foresight::Foresight;
use crate::assignment::{Assignment, WaitReason};
use crate::batch::{
    Batch, BatchError, MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS, MAX_WORKERS, Pairs, PredictedEnds, Request,
    Traffic, Worker,
};
use crate::forecast::{Running, TerminationClassifier, classifier_for};
use crate::policy::{self, Parameters, Policy, Rank};
use crate::pool::{Pool, PoolSlot};

/// What a waiting request gains on single workers: prefix affinity, as the caller knows it.
///
/// Asked for every waiting request before each [`Router::step_with`] that can admit anybody. A closure of the same shape is one too.
pub trait PairTerms {
    /// Writes the bonus in tokens on each worker, in the order of [`Router::worker_ids`], into `bonus_tokens`, which is zero. False when there is
    /// none: without terms of their own requests are decided faster.
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool;
}

impl<F: FnMut(&Request, &mut [f32]) -> bool> PairTerms for F {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        self(request, bonus_tokens)
    }
}

/// Decides step after step for one cluster.
pub struct Router {
    config: RouterConfig,
    policy: Box<dyn Policy>,
    foresight: Option<Foresight>,
    /// The step clock.
    now: i64,
    now_ms: u64,
    pool: Pool,
    /// When the request in each pool slot began to wait.
    since_ms: Vec<u64>,
    // One entry per worker, in order of id.
    ids: Vec<u32>,
    workers: Vec<Worker>,
    accounts: Vec<Account>,
    queued: Vec<(u32, u64)>,
    next_id: u32,
    /// Whether any worker's KV cache is bounded.
    bounded: bool,
    /// Whether a waiting request may have become one that no worker will ever take.
    rescan: bool,
    ranks: Vec<Rank>,
    slab: Slab,
    meter: TrafficMeter,
    /// Rows of the last step with pair terms; every `pair_row` in the pool points into it.
    bonus_tokens: Vec<f32>,
    assignment: Assignment,
    plan: Plan,
    /// Whether the caller has been given the plan's returned requests.
    told: bool,
    /// Left since.
    pending: Vec<Returned>,
    explainer: Explainer,
    counters: Counters,
    /// Nobody waits here: the batch of one request on its arrival.
    nobody: Pool,
    arrival_bonus_tokens: Vec<f32>,
    // Scratch.
    taken: Vec<u32>,
    stamps: Vec<u64>,
    stamp: u64,
    leaving: Vec<(u64, ReturnReason)>,
}

impl Router {
    /// A router with empty workers that decides by the policy of this name ([`policy::NAMES`]); a policy that wants a forecast gets it.
    ///
    /// # Errors
    /// A configuration out of its ranges, or what [`policy::build`] refuses.
    pub fn new(config: RouterConfig, name: &str, parameters: &Parameters) -> Result<Self, RouterError> {
        let policy = policy::build(name, parameters)?;
        let classifier = policy.needs().forecast.map(classifier_for);
        Self::with_policy(config, policy, classifier)
    }

    /// The same with a policy and a classifier of the caller's. The classifier serves policies that name a forecast among their needs.
    ///
    /// # Errors
    /// A configuration out of its ranges.
    pub fn with_policy(
        config: RouterConfig,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RouterError> {
        config.check()?;
        let needs = policy.needs();
        let foresight = classifier
            .filter(|_| needs.forecast.is_some())
            .map(|classifier| Foresight::new(classifier, needs, &config));
        let joining = config.workers.clone();
        let mut router = Self {
            config,
            policy,
            foresight,
            now: 0,
            now_ms: 0,
            pool: Pool::new(),
            since_ms: Vec::new(),
            ids: Vec::new(),
            workers: Vec::new(),
            accounts: Vec::new(),
            queued: Vec::new(),
            next_id: 0,
            bounded: false,
            rescan: false,
            ranks: Vec::new(),
            slab: Slab::default(),
            meter: TrafficMeter::new(),
            bonus_tokens: Vec::new(),
            assignment: Assignment::new(),
            plan: Plan::default(),
            told: true,
            pending: Vec::new(),
            explainer: Explainer::default(),
            counters: Counters::default(),
            nobody: Pool::new(),
            arrival_bonus_tokens: Vec::new(),
            taken: Vec::new(),
            stamps: Vec::new(),
            stamp: 0,
            leaving: Vec::new(),
        };
        for worker in &joining {
            router.join(worker);
        }
        Ok(router)
    }

    // Requests.

    /// Lets a request wait for a step; a policy that binds on arrival binds it now, unless it names its rank itself.
    /// The router sets [`Request::pair_row`] itself, see [`PairTerms`].
    ///
    /// # Errors
    /// A request that is invalid, whose id waits or runs already, or whose rank is no worker; nothing changes then.
    pub fn enqueue(&mut self, request: Request) -> Result<(), RouterError> {
        let request = self.admissible(request)?;
        self.wait(request)?;
        self.arrived(&request);
        Ok(())
    }

    fn arrived(&mut self, request: &Request) {
        self.meter.arrived(request.prompt_tokens);
        self.counters.arrived += 1;
    }

    /// The request as the pool wants it: its rank as an index.
    fn admissible(&self, request: Request) -> Result<Request, RouterError> {
        if let Some(index) = self.slab.index_of(request.id) {
            let worker = self.slab.entries[index as usize].worker;
            return Err(RouterError::Running { id: request.id, worker });
        }
        let rank = request.rank.map(|worker| self.place_of(worker)).transpose()?;
        Ok(Request { rank: rank.map(|place| place as u32), pair_row: None, ..request })
    }

    fn wait(&mut self, request: Request) -> Result<(), RouterError> {
        let slot = self.pool.insert(request)?;
        if self.since_ms.len() <= slot.index() {
            self.since_ms.resize(slot.index() + 1, 0);
        }
        self.since_ms[slot.index()] = self.now_ms;
        let mut rank = request.rank;
        if rank.is_none() && self.policy.needs().binds_on_arrival {
            rank = self.bind(&request);
            rank.inspect(|&rank| {
                self.pool.bind(request.id, rank);
            });
        }
        if let Some(rank) = rank {
            let (requests, tokens) = &mut self.queued[rank as usize];
            *requests += 1;
            *tokens += u64::from(request.prompt_tokens);
            self.rescan |= self.stranded(&request, rank as usize).is_some();
        }
        Ok(())
    }

    fn bind(&mut self, request: &Request) -> Option<u32> {
        self.ranks.clear();
        self.ranks.extend(self.workers.iter().zip(&self.queued).map(
            |(&worker, &(queued_requests, queued_tokens))| Rank { worker, queued_requests, queued_tokens },
        ));
        let rank = self.policy.bind(request, &self.ranks)?;
        ((rank as usize) < self.workers.len()).then_some(rank)
    }

    /// Takes over a request that already runs on a worker (a restart, a warm start). It has no dispatch number and counts as seen.
    ///
    /// # Errors
    /// An id that waits or runs already, an invalid length, an unknown worker, or one without a free slot.
    pub fn adopt(&mut self, request: Request, worker: u32, generated_tokens: u32) -> Result<(), RouterError> {
        let request = Request { rank: request.rank.filter(|&rank| rank == worker), ..request };
        let request = Request { rank: request.rank.map(|_| worker), ..self.admissible(request)? };
        let id = request.id;
        if self.pool.slot_of(id).is_some() {
            return Err(BatchError::DuplicateId { index: self.pool.len(), id, first: 0 }.into());
        }
        let found = request.prompt_tokens;
        if found == 0 || found > MAX_PROMPT_TOKENS {
            return Err(BatchError::PromptTokens { index: 0, id, limit: MAX_PROMPT_TOKENS, found }.into());
        }
        let place = self.place_of(worker)?;
        if self.workers[place].free_slots == 0 {
            return Err(RouterError::NoSlot { id, worker });
        }
        self.arrived(&request);
        self.begin(request, place, generated_tokens, false);
        Ok(())
    }

    /// A running request ended: it leaves, and its output length is learned.
    ///
    /// # Errors
    /// The request does not run.
    pub fn finish(&mut self, id: u64) -> Result<Finished, RouterError> {
        let (active, generated_tokens) = self.leave_worker(id)?;
        self.counters.finished += 1;
        self.meter.finished(generated_tokens);
        if let Some(foresight) = &mut self.foresight {
            foresight.classifier.finished(&Running {
                id,
                prompt_tokens: active.request.prompt_tokens,
                prompt_hash: active.request.prompt_hash,
                generated_tokens,
            });
        }
        Ok(Finished { id, worker: active.worker, generated_tokens })
    }

    /// A waiting or running request was given up: it leaves and teaches nothing. The worker that it ran on, if any.
    ///
    /// # Errors
    /// The request neither waits nor runs.
    pub fn abort(&mut self, id: u64) -> Result<Option<u32>, RouterError> {
        let worker = match self.leave_pool(id) {
            Some(_) => None,
            None => Some(self.leave_worker(id)?.0.worker),
        };
        self.counters.aborted += 1;
        self.forget(id);
        Ok(worker)
    }

    /// The engine took a running request's KV cache away: it leaves its worker, and comes back as a request of the length that it
    /// has reached, for the caller to enqueue again. Nothing is learned.
    ///
    /// # Errors
    /// The request does not run.
    pub fn preempt(&mut self, id: u64) -> Result<Request, RouterError> {
        let (active, generated) = self.leave_worker(id)?;
        self.counters.preempted += 1;
        let prompt_tokens = active.request.prompt_tokens.saturating_add(generated);
        Ok(Request { prompt_tokens, waited_steps: 0, pair_row: None, ..active.request })
    }

    /// Tells the classifier the true output length of a request: only an oracle listens.
    pub fn tell_length(&mut self, id: u64, output_tokens: u32) {
        if let Some(foresight) = &mut self.foresight {
            foresight.classifier.told(id, output_tokens);
        }
    }

    // Progress.

    /// One lock-step decode step has run: every running request has a token more and everybody who waits has waited a step.
    pub fn advance(&mut self) {
        for account in &mut self.accounts {
            account.grown_tokens += 1;
        }
        for place in 0..self.accounts.len() {
            self.settle(place);
        }
        self.tick(1);
    }

    /// Every running request of a worker has `tokens` more. A worker on which nothing of ours runs does not move the step clock.
    ///
    /// # Errors
    /// No such worker, or more than 2^22 tokens at once.
    pub fn progress(&mut self, worker: u32, tokens: u32) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        self.check_progress(worker, tokens)?;
        let account = &mut self.accounts[place];
        if account.running() == 0 {
            return Ok(());
        }
        account.grown_tokens += i64::from(tokens);
        let ahead = account.grown_tokens - self.now;
        self.settle(place);
        self.tick(ahead);
        Ok(())
    }

    /// One running request has `tokens` more, which also shows that its worker has it.
    ///
    /// # Errors
    /// The request does not run, or more than 2^22 tokens at once.
    pub fn progress_request(&mut self, id: u64, tokens: u32) -> Result<(), RouterError> {
        let index = self.slab.index_of(id).ok_or(RouterError::Unknown { id })?;
        let Active { worker, born_step, .. } = self.slab.entries[index as usize];
        let place = self.place_of(worker)?;
        self.check_progress(worker, tokens)?;
        let account = &mut self.accounts[place];
        account.grow(&mut self.slab, index, tokens, self.now_ms);
        let generated = account.generated_tokens(&self.slab.entries[index as usize]);
        self.settle(place);
        self.tick(born_step + i64::from(generated) - self.now);
        Ok(())
    }

    fn check_progress(&self, worker: u32, found: u32) -> Result<(), RouterError> {
        let limit = MAX_PROMPT_TOKENS;
        if found > limit { Err(RouterError::Progress { worker, limit, found }) } else { Ok(()) }
    }

    /// Moves the step clock on; not at all by nothing or less.
    fn tick(&mut self, steps: i64) {
        if steps <= 0 {
            return;
        }
        self.now += steps;
        self.pool.advance(steps.min(i64::from(u32::MAX)) as u32);
        if let Some(foresight) = &mut self.foresight {
            foresight.advance(steps as u64, self.slab.len());
        }
    }

    // Workers.

    /// Takes in what a worker measured; see [`Verdict`] for what becomes of it. What is lost by it is in the next plan.
    ///
    /// # Errors
    /// No such worker, figures past the limits of a batch, or a dispatch acknowledged that was never made; the report is ignored then.
    pub fn report(&mut self, worker: u32, report: WorkerReport) -> Result<Verdict, RouterError> {
        let place = self.place_of(worker)?;
        for (what, found) in [
            ("KV tokens used", report.kv_used_tokens),
            ("KV capacity tokens", report.kv_capacity_tokens.unwrap_or(0)),
        ] {
            if found > MAX_LOAD_TOKENS {
                self.accounts[place].counts.refused += 1;
                let limit = MAX_LOAD_TOKENS;
                return Err(BatchError::WorkerTokens { index: place, what, limit, found }.into());
            }
        }
        let account = &mut self.accounts[place];
        let sent = account.sent;
        if let Some(found) = report.last_dispatch.filter(|&number| number > sent) {
            account.counts.refused += 1;
            return Err(RouterError::Dispatch { worker, sent, found });
        }
        let verdict = account.report(&mut self.slab, &report, self.now_ms);
        if verdict == Verdict::Taken {
            let capacity = report.kv_capacity_tokens.or(account.whole_capacity_tokens);
            if capacity != account.whole_capacity_tokens {
                account.set_capacity(capacity, self.config.share);
                self.bounded |= capacity.is_some();
                self.rescan = true;
            }
            self.find_lost(place, report.last_dispatch.is_some());
        }
        self.settle(place);
        Ok(verdict)
    }

    /// After a report was taken: dispatches that it should have seen, and requests that the worker has forgotten.
    fn find_lost(&mut self, place: usize, acknowledges: bool) {
        let Some(timeout_ms) = self.config.dispatch_timeout_ms else { return };
        while acknowledges
            && let Some(index) = self.accounts[place].overdue_dispatch(&self.slab, timeout_ms, self.now_ms)
        {
            self.give_back(index, ReturnReason::LostDispatch);
        }
        let old = |since_ms: u64| self.now_ms.saturating_sub(since_ms) >= timeout_ms;
        if !self.accounts[place].empty_since_ms.is_some_and(old) {
            return;
        }
        self.accounts[place].empty_since_ms = None;
        let worker = self.ids[place];
        for index in 0..self.slab.entries.len() {
            let active = &self.slab.entries[index];
            if active.live
                && active.worker == worker
                && active.seen
                && self.now_ms.saturating_sub(active.since_ms) >= timeout_ms
            {
                self.give_back(index as u32, ReturnReason::WorkerForgot);
            }
        }
    }

    /// Lets a worker join, empty. Its id.
    ///
    /// # Errors
    /// A configuration out of its ranges, or too many workers.
    pub fn add_worker(&mut self, config: WorkerConfig) -> Result<u32, RouterError> {
        let found = self.workers.len() + 1;
        if found > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found }.into());
        }
        config.check(self.workers.len())?;
        if let Some(foresight) = &mut self.foresight {
            foresight.buckets.add_worker();
        }
        Ok(self.join(&config))
    }

    fn join(&mut self, config: &WorkerConfig) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.ids.push(id);
        self.workers.push(Worker::new(0, 0, config.slots).weight(config.weight));
        self.accounts.push(Account::new(id, config, self.config.share, self.now));
        self.queued.push((0, 0));
        self.bounded |= config.kv_capacity_tokens.is_some();
        self.settle(self.ids.len() - 1);
        id
    }

    /// Lets a worker take nobody new. What runs there runs on; requests that wait for it alone are returned by the next step.
    ///
    /// # Errors
    /// No such worker.
    pub fn drain_worker(&mut self, worker: u32) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        self.workers[place].accepting = false;
        self.accounts[place].draining = true;
        self.rescan = true;
        Ok(())
    }

    /// Whether a draining worker holds none of our requests any more: it may be removed without a loss.
    ///
    /// # Errors
    /// No such worker.
    pub fn is_drained(&self, worker: u32) -> Result<bool, RouterError> {
        let account = &self.accounts[self.place_of(worker)?];
        Ok(account.draining && account.running() == 0)
    }

    /// Stops new requests to a worker for a while, or resumes them (also of a draining one). Requests that wait for it alone go on waiting.
    ///
    /// # Errors
    /// No such worker.
    pub fn set_accepting(&mut self, worker: u32, accepting: bool) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        self.workers[place].accepting = accepting;
        self.accounts[place].draining &= !accepting;
        Ok(())
    }

    /// Takes a worker out, at once: it failed, or it is drained. Appends to `returned` the requests that ran there and those that waited for it
    /// alone; they have left, and may be enqueued again.
    ///
    /// # Errors
    /// No such worker.
    pub fn remove_worker(&mut self, worker: u32, returned: &mut Vec<Returned>) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        let reason = ReturnReason::WorkerRemoved;
        // `pending` is the way out of every request; what was there before stays there.
        let from = self.pending.len();
        for index in 0..self.slab.entries.len() {
            if self.slab.entries[index].live && self.slab.entries[index].worker == worker {
                self.give_back(index as u32, reason);
            }
        }
        self.leaving.clear();
        let bound = self.pool.iter().filter(|(_, request, _)| request.rank == Some(place as u32));
        self.leaving.extend(bound.map(|(_, request, _)| (request.id, reason)));
        self.send_back_waiting();
        returned.extend(self.pending.drain(from..));

        self.ids.remove(place);
        self.workers.remove(place);
        self.accounts.remove(place);
        self.queued.remove(place);
        self.bounded = self.accounts.iter().any(|account| account.whole_capacity_tokens.is_some());
        self.rescan = true;
        self.pool.map_ranks(|rank| if rank as usize > place { rank - 1 } else { rank });
        // Rows of pair terms have one entry per worker.
        if !self.bonus_tokens.is_empty() {
            self.bonus_tokens.clear();
            self.pool.set_pair_rows(|_| None);
        }
        if let Some(foresight) = &mut self.foresight {
            foresight.buckets.remove_worker(place);
        }
        for place in 0..self.accounts.len() {
            self.settle(place);
        }
        Ok(())
    }

    // Decisions.

    /// Decides the step: admits, and accounts for what it admitted. `now_ms` is the caller's clock.
    ///
    /// # Errors
    /// A policy that breaks its promise; nobody is admitted then, and who came back is in the next plan.
    pub fn step(&mut self, now_ms: u64) -> Result<&Plan, RouterError> {
        self.decide(now_ms, false, None)
    }

    /// The same with a bonus per waiting request and worker.
    ///
    /// # Errors
    /// As [`Router::step`], and a bonus past its limits.
    pub fn step_with(&mut self, now_ms: u64, terms: &mut dyn PairTerms) -> Result<&Plan, RouterError> {
        self.decide(now_ms, false, Some(terms))
    }

    /// The same through the oracle ([`Policy::decide_by_reference`]): slow, for comparison.
    ///
    /// # Errors
    /// As [`Router::step`].
    pub fn step_by_reference(&mut self, now_ms: u64) -> Result<&Plan, RouterError> {
        self.decide(now_ms, true, None)
    }

    /// [`Router::step_with`] through the oracle.
    ///
    /// # Errors
    /// As [`Router::step_with`].
    pub fn step_by_reference_with(
        &mut self,
        now_ms: u64,
        terms: &mut dyn PairTerms,
    ) -> Result<&Plan, RouterError> {
        self.decide(now_ms, true, Some(terms))
    }

    /// Asks for the rows of this step; without terms those of an earlier step go.
    fn fill_pairs(&mut self, terms: Option<&mut dyn PairTerms>) {
        let had_rows = !self.bonus_tokens.is_empty();
        self.bonus_tokens.clear();
        let (rows, workers) = (&mut self.bonus_tokens, self.workers.len());
        match terms {
            Some(terms) => self.pool.set_pair_rows(|request| {
                let from = rows.len();
                rows.resize(from + workers, 0.0);
                if terms.bonus(request, &mut rows[from..]) {
                    return Some((from / workers) as u32);
                }
                rows.truncate(from);
                None
            }),
            None if had_rows => self.pool.set_pair_rows(|_| None),
            None => {}
        }
    }

    fn decide(
        &mut self,
        now_ms: u64,
        by_reference: bool,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<&Plan, RouterError> {
        self.now_ms = self.now_ms.max(now_ms);
        self.assignment.clear();
        self.plan.admissions.clear();
        self.send_back();
        if std::mem::replace(&mut self.told, false) {
            self.plan.returned.clear();
        }
        self.plan.returned.append(&mut self.pending);
        self.explainer.clear();
        if !self.workers.is_empty() {
            self.assign(by_reference, terms)?;
        }
        self.told = true;
        (self.plan.before, self.plan.after) = (self.assignment.before, self.assignment.after);
        Ok(&self.plan)
    }

    fn assign(&mut self, by_reference: bool, terms: Option<&mut dyn PairTerms>) -> Result<(), RouterError> {
        // Nothing can be admitted: predictions and pair terms are not worth reading either.
        let idle = self.pool.is_empty() || self.workers.iter().all(|worker| worker.open_slots() == 0);
        let start = (!idle).then(Instant::now);
        if !idle {
            self.fill_pairs(terms);
        }
        let growth_tokens = self.headroom_steps();
        let mut draft = Batch::draft(&self.workers, &self.pool)
            .traffic(self.meter.traffic())
            .request_growth(growth_tokens)
            .pairs(Pairs { bonus_tokens: &self.bonus_tokens, ..Pairs::default() });
        if let Some(foresight) = &mut self.foresight {
            let (ids, accounts) = (&self.ids, &self.accounts);
            foresight.refresh(&self.slab, self.now, |active| {
                let place = find(ids, active.worker).unwrap_or_default();
                (place, accounts[place].generated_tokens(active))
            });
            if !idle {
                let Foresight { buckets, needs, rows, offsets, ends, .. } = foresight;
                if let Some(horizon) = needs.projection_horizon {
                    rows.clear();
                    for (g, worker) in self.workers.iter().enumerate() {
                        buckets.project(g, worker.load_tokens, worker.running, horizon, rows);
                    }
                    for tokens in rows.iter_mut() {
                        *tokens = (*tokens).min(MAX_LOAD_TOKENS);
                    }
                    draft = draft.projection(horizon, rows);
                }
                if let Some(most) = needs.ends_per_worker {
                    ends.clear();
                    offsets.clear();
                    offsets.push(0);
                    for g in 0..self.workers.len() {
                        buckets.next_ends(g, most, ends);
                        offsets.push(ends.len() as u32);
                    }
                    draft = draft.ends(PredictedEnds { offsets, ends });
                }
            }
        }
        let batch = draft.check()?;
        if !idle {
            self.explainer.look(self.policy.as_mut(), &batch);
        }
        if by_reference {
            self.policy.decide_by_reference(&batch, &mut self.assignment);
        } else {
            self.policy.decide(&batch, &mut self.assignment);
        }
        self.check_answer()?;
        if !idle {
            self.explainer.explain(&self.workers, &self.ids, &self.assignment);
        }
        for at in 0..self.assignment.admitted.len() {
            let admission = self.assignment.admitted[at];
            let waited_ms = self.now_ms - self.since_ms[admission.slot.index()];
            let Some(request) = self.leave_pool(admission.id) else { continue };
            self.counters.waited(waited_ms, request.waited_steps);
            self.counters.admitted_by_step += 1;
            let dispatch = self.begin(request, admission.worker as usize, 0, true);
            self.plan.admissions.push(Dispatch { score_tokens: admission.score_tokens, ..dispatch });
        }
        if let Some(start) = start {
            self.counters.decide_ns.record(start.elapsed().as_nanos() as u64);
        }
        Ok(())
    }

    /// A policy may be anybody's: what it answers is checked before anything changes.
    fn check_answer(&mut self) -> Result<(), RouterError> {
        self.taken.clear();
        self.taken.resize(self.workers.len(), 0);
        if self.stamps.len() < self.pool.slot_bound() {
            self.stamps.resize(self.pool.slot_bound(), 0);
        }
        self.stamp += 1;
        for admission in &self.assignment.admitted {
            let (id, worker) = (admission.id, admission.worker);
            let waits = self.pool.slot_of(id) == Some(admission.slot)
                && std::mem::replace(&mut self.stamps[admission.slot.index()], self.stamp) != self.stamp;
            let open = self.workers.get(worker as usize).is_some_and(|at| {
                self.taken[worker as usize] += 1;
                self.taken[worker as usize] <= at.open_slots()
            });
            if !waits || !open {
                self.assignment.clear();
                return Err(RouterError::Refused { policy: self.policy.name(), id, worker });
            }
        }
        Ok(())
    }

    // Who comes back.

    /// Before a step: what silence, expiry, draining workers and shrunken caches leave without a future.
    fn send_back(&mut self) {
        if let Some(timeout_ms) = self.config.silence_timeout_ms {
            for place in 0..self.accounts.len() {
                while let Some(index) =
                    self.accounts[place].overdue_dispatch(&self.slab, timeout_ms, self.now_ms)
                {
                    self.give_back(index, ReturnReason::WorkerSilent);
                }
            }
        }
        if let Some(after_ms) = self.config.expire_after_ms {
            // The pool is in order of arrival and the clock does not run backwards: the first to expire is the first.
            self.leaving.clear();
            let late = |slot: PoolSlot| self.now_ms - self.since_ms[slot.index()] >= after_ms;
            let expired = self.pool.iter().take_while(|&(slot, ..)| late(slot));
            self.leaving.extend(expired.map(|(_, request, _)| (request.id, ReturnReason::Expired)));
            self.send_back_waiting();
        }
        if std::mem::take(&mut self.rescan) {
            let mut leaving = std::mem::take(&mut self.leaving);
            leaving.clear();
            leaving.extend(self.pool.iter().filter_map(|(_, request, _)| {
                Some((request.id, self.stranded(request, request.rank? as usize)?))
            }));
            self.leaving = leaving;
            self.send_back_waiting();
        }
        while self.bounded
            && let Some(limit_tokens) = self.longest_tokens()
            && let Some(id) = self.pool.longest().filter(|at| at.1 > limit_tokens).map(|at| at.0)
        {
            self.leaving.clear();
            self.leaving.push((id, ReturnReason::NeverFits));
            self.send_back_waiting();
        }
    }

    /// Why a request that may only go to this worker never will, if so.
    fn stranded(&self, request: &Request, place: usize) -> Option<ReturnReason> {
        let account = &self.accounts[place];
        let needs = u64::from(request.prompt_tokens) + u64::from(self.config.headroom_steps);
        if account.draining {
            Some(ReturnReason::WorkerDraining)
        } else if account.own_capacity_tokens.is_some_and(|capacity| needs > capacity) {
            Some(ReturnReason::NeverFits)
        } else {
            None
        }
    }

    /// The longest request that some worker could take if it were empty; none where there is no such bound.
    fn longest_tokens(&self) -> Option<u64> {
        let staying = self.accounts.iter().filter(|account| !account.draining);
        let mut most = None;
        for account in staying {
            let limit = account.own_capacity_tokens?.saturating_sub(u64::from(self.config.headroom_steps));
            most = most.max(Some(limit));
        }
        most
    }

    /// Moves everybody in `leaving` from the pool to `pending`.
    fn send_back_waiting(&mut self) {
        for at in 0..self.leaving.len() {
            let (id, reason) = self.leaving[at];
            let Some(request) = self.leave_pool(id) else { continue };
            self.pending.push(Returned { id, worker: request.rank, reason, generated_tokens: 0 });
            self.counters.returned[reason as usize] += 1;
            self.forget(id);
        }
    }

    /// Moves a running request to `pending`.
    fn give_back(&mut self, index: u32, reason: ReturnReason) {
        let id = self.slab.entries[index as usize].request.id;
        let Ok((active, generated_tokens)) = self.leave_worker(id) else { return };
        self.pending.push(Returned { id, worker: Some(active.worker), reason, generated_tokens });
        self.counters.returned[reason as usize] += 1;
        self.forget(id);
    }

    fn forget(&mut self, id: u64) {
        if let Some(foresight) = &mut self.foresight {
            foresight.classifier.aborted(id);
        }
    }

    // What can be asked.

    /// Why each request still waits, as things stand, in arrival order. Costs nothing when not asked for.
    ///
    /// # Errors
    /// None in practice: the batch is one that a step would be given.
    pub fn waiting(&self) -> Result<Vec<(u64, WaitReason)>, RouterError> {
        let mut reasons = Vec::new();
        self.waiting_into(&mut reasons)?;
        Ok(reasons)
    }

    /// The same into a buffer, which is cleared first.
    ///
    /// # Errors
    /// As [`Router::waiting`].
    pub fn waiting_into(&self, reasons: &mut Vec<(u64, WaitReason)>) -> Result<(), RouterError> {
        reasons.clear();
        if self.workers.is_empty() {
            reasons.extend(self.pool.iter().map(|(_, request, _)| (request.id, WaitReason::NoSlot)));
            return Ok(());
        }
        let batch = Batch::draft(&self.workers, &self.pool)
            .request_growth(self.headroom_steps())
            .pairs(Pairs { bonus_tokens: &self.bonus_tokens, ..Pairs::default() })
            .check()?;
        let nothing = Assignment { passed_over: self.assignment.passed_over, ..Assignment::new() };
        reasons.extend(nothing.waiting(&batch));
        Ok(())
    }

    /// The workers as a step sees them, in order of id.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Their ids, ascending.
    #[must_use]
    pub fn worker_ids(&self) -> &[u32] {
        &self.ids
    }

    /// The waiting requests; their ranks are positions in [`Router::workers`].
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The last step's plan.
    #[must_use]
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

    /// The worker that a request runs on.
    #[must_use]
    pub fn running_on(&self, id: u64) -> Option<u32> {
        self.slab.index_of(id).map(|index| self.slab.entries[index as usize].worker)
    }

    // The count.

    fn place_of(&self, worker: u32) -> Result<usize, RouterError> {
        find(&self.ids, worker).ok_or(RouterError::Worker { workers: self.ids.len(), found: worker })
    }

    fn headroom_steps(&self) -> u32 {
        if self.bounded { self.config.headroom_steps.min(MAX_PROMPT_TOKENS) } else { 0 }
    }

    fn settle(&mut self, place: usize) {
        let headroom_steps = self.headroom_steps();
        self.accounts[place].settle(headroom_steps, &mut self.workers[place]);
    }

    /// Takes a request out of the pool; its rank is an id then.
    fn leave_pool(&mut self, id: u64) -> Option<Request> {
        let mut request = self.pool.remove(id)?;
        if let Some(rank) = &mut request.rank {
            let (requests, tokens) = &mut self.queued[*rank as usize];
            *requests -= 1;
            *tokens -= u64::from(request.prompt_tokens);
            *rank = self.ids[*rank as usize];
        }
        Some(request)
    }

    /// A request begins to run.
    fn begin(&mut self, request: Request, place: usize, generated_tokens: u32, dispatched: bool) -> Dispatch {
        let (worker, generated) = (self.ids[place], i64::from(generated_tokens));
        let account = &mut self.accounts[place];
        if account.running() == 0 {
            // Nobody's length depends on the growth of an empty worker: it comes along.
            account.grown_tokens = self.now;
        }
        let (born_tokens, born_step) = (account.grown_tokens - generated, self.now - generated);
        let index = self.slab.insert(Active::new(request, worker, born_tokens, born_step, self.now_ms));
        let number = account.begin(&mut self.slab, index, dispatched.then_some(self.now_ms));
        self.settle(place);
        if let Some(foresight) = &mut self.foresight {
            foresight.begin(&mut self.slab, index, place, generated_tokens);
        }
        let Request { id, prompt_tokens, .. } = request;
        Dispatch { id, worker, number, prompt_tokens, score_tokens: 0.0 }
    }

    /// A request ends to run. With the tokens that it has generated.
    fn leave_worker(&mut self, id: u64) -> Result<(Active, u32), RouterError> {
        let index = self.slab.index_of(id).ok_or(RouterError::Unknown { id })?;
        let place = self.place_of(self.slab.entries[index as usize].worker)?;
        let account = &mut self.accounts[place];
        let active = account.end(&mut self.slab, index);
        let generated = account.generated_tokens(&active);
        self.settle(place);
        if let Some(foresight) = &mut self.foresight {
            foresight.end(&mut self.slab, index);
        }
        Ok((active, generated))
    }
}

/// The position of a worker's id: where it says, unless workers before it are gone.
fn find(ids: &[u32], worker: u32) -> Option<usize> {
    match ids.get(worker as usize) {
        Some(&id) if id == worker => Some(worker as usize),
        _ => ids.binary_search(&worker).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn router(name: &str, workers: usize, slots: u32) -> Router {
        Router::new(RouterConfig::new(workers, slots), name, &Parameters::default()).expect("valid")
    }

    #[test]
    fn a_request_is_counted_from_arrival_to_end() {
        let mut router = router("level", 2, 1);
        router.enqueue(Request::new(1, 100)).unwrap();
        router.enqueue(Request::new(2, 50)).unwrap();
        router.enqueue(Request::new(3, 70)).unwrap();
        assert_eq!(router.step(0).unwrap().admissions.len(), 2);
        assert_eq!(router.waiting().unwrap().len(), 1);
        assert_eq!(router.waiting().unwrap()[0].1, WaitReason::NoSlot);
        let before: u64 = router.workers().iter().map(|w| w.load_tokens).sum();
        router.advance();
        assert_eq!(router.workers().iter().map(|w| w.load_tokens).sum::<u64>(), before + 2);
        let first = router.plan().admissions[0].id;
        assert_eq!(router.finish(first).unwrap().generated_tokens, 1);
        assert_eq!(router.finish(first), Err(RouterError::Unknown { id: first }));
        assert_eq!(router.step(0).unwrap().admissions.len(), 1);
        router.abort(router.plan().admissions[0].id).unwrap();
        assert_eq!(router.running_len(), 1);
        assert!(router.pool().is_empty());
    }

    #[test]
    fn refusals_change_nothing() {
        let mut router = router("level", 2, 2);
        router.enqueue(Request::new(1, 100)).unwrap();
        assert!(router.enqueue(Request::new(1, 100)).is_err());
        assert!(router.enqueue(Request::new(2, 0)).is_err());
        assert_eq!(
            router.enqueue(Request::new(2, 1).bound_to(2)),
            Err(RouterError::Worker { workers: 2, found: 2 })
        );
        router.step(0).unwrap();
        assert!(matches!(router.enqueue(Request::new(1, 100)), Err(RouterError::Running { id: 1, .. })));
        assert_eq!(router.pool().len(), 0);
        assert_eq!(router.preempt(9), Err(RouterError::Unknown { id: 9 }));
        assert!(router.set_accepting(7, false).is_err());
        let wrong = RouterConfig::uniform(2, WorkerConfig::new(1).weight(f32::NAN));
        assert!(Router::new(wrong, "level", &Parameters::default()).is_err());
        let wrong = RouterConfig { share: Share { index: 2, of: 2 }, ..RouterConfig::new(2, 1) };
        assert!(matches!(
            Router::new(wrong, "level", &Parameters::default()),
            Err(RouterError::Share { index: 2, of: 2, .. })
        ));
    }

    #[test]
    fn a_policy_that_breaks_its_promise_admits_nobody() {
        struct Twice;
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
                        worker: 0,
                        prompt_tokens,
                        score_tokens: 0.0,
                    });
                }
            }
            fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
                self.decide(batch, out);
            }
        }
        let mut router = Router::with_policy(RouterConfig::new(1, 1), Box::new(Twice), None).unwrap();
        router.enqueue(Request::new(1, 10)).unwrap();
        router.enqueue(Request::new(2, 10)).unwrap();
        assert_eq!(router.step(0).unwrap_err(), RouterError::Refused { policy: "twice", id: 2, worker: 0 });
        assert_eq!((router.pool().len(), router.running_len()), (2, 0));
    }

    #[test]
    fn a_preempted_request_comes_back_longer() {
        let mut router = router("level", 1, 2);
        router.enqueue(Request::new(1, 100)).unwrap();
        router.step(0).unwrap();
        (0..5).for_each(|_| router.advance());
        let again = router.preempt(1).unwrap();
        assert_eq!(again.prompt_tokens, 105);
        assert_eq!(router.workers()[0].load_tokens, 0);
        router.enqueue(again).unwrap();
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
        router.enqueue(Request::new(1, 100).pairs(7)).unwrap();
        router.enqueue(Request::new(2, 100)).unwrap();
        router.step_with(0, &mut likes).unwrap();
        assert_eq!(router.running_on(2), Some(1));
        assert_eq!(router.running_on(1), Some(0));
        router.enqueue(Request::new(3, 100)).unwrap();
        router.enqueue(Request::new(4, 100)).unwrap();
        router.step_with(0, &mut likes).unwrap();
        assert_eq!(asked, [1, 2, 3, 4]);
        // Full: nobody is asked, and the reasons can still be read; later steps without terms know nothing of rows.
        let again = router.preempt(2).unwrap();
        assert_eq!(again.pair_row, None);
        router.enqueue(again).unwrap();
        router.enqueue(Request::new(5, 100)).unwrap();
        router
            .step_by_reference_with(0, &mut |_: &Request, bonus: &mut [f32]| {
                bonus[0] = 1.0;
                true
            })
            .unwrap();
        assert_eq!(router.waiting().unwrap(), [(2, WaitReason::NoSlot), (5, WaitReason::NoSlot)]);
        router.finish(1).unwrap();
        assert_eq!(router.step(0).unwrap().admissions[0].id, 2);
        assert!(router.bonus_tokens.is_empty() && !router.pool().any_pair_terms());
    }

    #[test]
    fn kv_capacity_leaves_room_for_growth() {
        let worker = WorkerConfig::new(8).capacity(1000);
        let config = RouterConfig { headroom_steps: 100, ..RouterConfig::uniform(1, worker) };
        let mut router = Router::new(config, "level", &Parameters::default()).unwrap();
        for id in 0..4 {
            router.enqueue(Request::new(id, 300)).unwrap();
        }
        // 300 + 100 each: two fit into 1000.
        assert_eq!(router.step(0).unwrap().admissions.len(), 2);
        assert!(router.waiting().unwrap().iter().all(|&(_, reason)| reason == WaitReason::NoCapacity));
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
                router.enqueue(Request::new(id, tokens)).unwrap();
                id += 1;
            }
            router.step(0).unwrap();
            for admission in &router.plan().admissions {
                let (tokens, output) = outputs[&admission.id];
                ends.insert(admission.id, (admission.worker, now + u64::from(output), u64::from(tokens)));
            }
            let foresight = router.foresight.as_mut().unwrap();
            let accounts = &router.accounts;
            foresight.refresh(&router.slab, router.now, |active| {
                (active.worker as usize, accounts[active.worker as usize].generated_tokens(active))
            });
            for (g, worker) in router.workers.iter().enumerate() {
                let mut row = Vec::new();
                foresight.buckets.project(g, worker.load_tokens, worker.running, horizon, &mut row);
                for (h, &found) in row.iter().enumerate() {
                    let expected: u64 = ends
                        .iter()
                        .filter(|(_, (on, end, _))| *on as usize == g && *end > now + h as u64)
                        .map(|(id, (_, end, tokens))| {
                            tokens + now + h as u64 - (end - u64::from(outputs[id].1))
                        })
                        .sum();
                    assert_eq!(found, expected, "worker {g}, step {now} + {h}");
                }
            }
            router.advance();
            let over: Vec<u64> =
                ends.iter().filter(|(_, (_, end, _))| *end == now + 1).map(|(&id, _)| id).collect();
            for id in over {
                assert_eq!(router.finish(id).unwrap().generated_tokens, outputs[&id].1);
                ends.remove(&id);
            }
        }
        assert!(id > 100);
    }
}

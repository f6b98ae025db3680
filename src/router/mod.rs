//! The state across steps: the waiting pool, what runs where, what traffic looks like, and one policy that decides.
//!
//! The caller tells it what happens ([`Router::enqueue`], [`Router::advance`], [`Router::finish`], [`Router::abort`]) and asks
//! [`Router::step`] for the admissions. An event costs O(1) beside the pool's order, a step what the policy needs; nothing
//! allocates once everything has seen its largest size.

mod traffic;

use std::collections::{HashMap, HashSet};

use thiserror::Error;

pub use self::traffic::TrafficMeter;
use crate::assignment::{Assignment, WaitReason};
use crate::batch::{
    Batch, BatchError, MAX_SLOTS, MAX_WORKERS, Pairs, PredictedEnd, PredictedEnds, Request, Traffic, Worker,
};
use crate::forecast::projection::EventBuckets;
use crate::forecast::{Running, TerminationClassifier};
use crate::policy::{Needs, Policy, Rank};
use crate::pool::Pool;

/// The workers of a cluster and how a router looks ahead.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// Number of workers.
    pub workers: usize,
    /// Batch slots of each.
    pub slots: u32,
    /// KV tokens that fit on each, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Relative step cost per token of each worker; empty for 1 everywhere.
    pub weights: Vec<f32>,
    /// Steps of growth that an admission leaves free for each running request and for itself; only used with a KV bound.
    pub headroom_steps: u32,
    /// Steps between two predictions for the same running request, at least 1.
    pub refresh_steps: u32,
    /// How far ahead predicted ends are kept for policies that level peaks, in steps.
    pub ends_horizon_steps: u32,
}

impl RouterConfig {
    /// Uniform workers without a KV bound; predictions refreshed every 16 steps, ends kept 512 steps ahead.
    #[must_use]
    pub fn new(workers: usize, slots: u32) -> Self {
        Self {
            workers,
            slots,
            kv_capacity_tokens: None,
            weights: Vec::new(),
            headroom_steps: 256,
            refresh_steps: 16,
            ends_horizon_steps: 512,
        }
    }
}

/// A request that has left: it ran from admission to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Request id.
    pub id: u64,
    /// Worker that it ran on.
    pub worker: u32,
    /// Tokens generated.
    pub generated_tokens: u32,
}

/// What a router refuses.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RouterError {
    /// The batch would not be valid.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The request neither waits nor runs here.
    #[error("request {id} neither waits nor runs")]
    Unknown {
        /// Request id.
        id: u64,
    },
    /// The id is already running.
    #[error("request {id} already runs on worker {worker}")]
    Running {
        /// Request id.
        id: u64,
        /// Worker that it runs on.
        worker: u32,
    },
    /// No such worker.
    #[error("worker must be below {workers}, found {found}")]
    Worker {
        /// Number of workers.
        workers: usize,
        /// Index found.
        found: u32,
    },
    /// The policy broke its promise: it sent a request that does not wait, or one twice, or to a worker that may not take it.
    #[error("policy {policy} may not send request {id} to worker {worker}")]
    Refused {
        /// Name of the policy.
        policy: &'static str,
        /// Request id.
        id: u64,
        /// Worker index.
        worker: u32,
    },
    /// The worker has no free slot for a request that is said to run there.
    #[error("worker {worker} has no free slot for request {id}")]
    NoSlot {
        /// Request id.
        id: u64,
        /// Worker.
        worker: u32,
    },
}

/// What a waiting request gains on single workers: prefix affinity, as the caller knows it.
///
/// Asked for every waiting request before each [`Router::step_with`] that can admit anybody. A closure of the same shape is one too.
pub trait PairTerms {
    /// Writes the bonus in tokens on each worker into `bonus_tokens`, which is zero. False when there is none: without terms of their own
    /// requests are decided faster.
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool;
}

impl<F: FnMut(&Request, &mut [f32]) -> bool> PairTerms for F {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        self(request, bonus_tokens)
    }
}

/// A running request; its slab index names it to the event buckets.
#[derive(Clone, Copy, Debug)]
struct Active {
    request: Request,
    worker: u32,
    /// Step of the count at which it had generated nothing; may lie before the router's first.
    born_step: i64,
    /// Its place in the list of its refresh phase.
    phase_at: u32,
    live: bool,
}

/// Keeps predictions of running requests current: only there when the policy needs them.
struct Foresight {
    classifier: Box<dyn TerminationClassifier>,
    buckets: EventBuckets,
    needs: Needs,
    /// Running requests by the step, modulo the refresh, at which they are predicted again.
    phases: Vec<Vec<u32>>,
    due: Vec<u32>,
    passed: Vec<u32>,
    rows: Vec<u64>,
    offsets: Vec<u32>,
    ends: Vec<PredictedEnd>,
}

impl Foresight {
    fn predict(&mut self, index: u32, active: &Active, now: i64) {
        let generated = (now - active.born_step).max(0) as u32;
        let running = Running {
            id: active.request.id,
            prompt_tokens: active.request.prompt_tokens,
            prompt_hash: active.request.prompt_hash,
            generated_tokens: generated,
        };
        // The window reaches past the horizon by a refresh, so that an end is known before the horizon comes to it.
        let horizon = self.buckets.window_steps();
        let in_steps = if self.needs.projection_horizon.is_some() {
            let termination = self.classifier.predict(&running, horizon);
            let counted = termination.counted_steps(horizon).round() as u32;
            // Counted over the whole window: unless it is expected to end with it, it is taken to go on.
            (counted < horizon || termination.probability >= 0.5).then_some(counted)
        } else {
            self.classifier.end_in(&running, horizon)
        };
        let kv_tokens = u64::from(active.request.prompt_tokens) + u64::from(generated);
        self.buckets.set(index, active.worker, kv_tokens, in_steps);
    }
}

/// Decides step after step for one cluster.
pub struct Router {
    config: RouterConfig,
    policy: Box<dyn Policy>,
    foresight: Option<Foresight>,
    now: i64,
    pool: Pool,
    workers: Vec<Worker>,
    queued: Vec<(u32, u64)>,
    ranks: Vec<Rank>,
    active: Vec<Active>,
    vacant: Vec<u32>,
    by_id: HashMap<u64, u32>,
    meter: TrafficMeter,
    /// Rows of the last step with pair terms; every `pair_row` in the pool points into it.
    bonus_tokens: Vec<f32>,
    assignment: Assignment,
    // Scratch of the answer's check.
    taken: Vec<u32>,
    seen: HashSet<u64>,
}

impl Router {
    /// A router with empty workers. The classifier serves policies that name a forecast among their needs.
    ///
    /// # Errors
    /// A configuration that no batch of it could pass.
    pub fn new(
        config: RouterConfig,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RouterError> {
        if config.workers > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: config.workers }.into());
        }
        if config.slots > MAX_SLOTS {
            let found = u64::from(config.slots);
            return Err(BatchError::WorkerSlots { index: 0, limit: MAX_SLOTS, found }.into());
        }
        if !config.weights.is_empty() && config.weights.len() != config.workers {
            return Err(BatchError::Length {
                what: "weights",
                expected: config.workers,
                found: config.weights.len(),
            }
            .into());
        }
        let workers: Vec<Worker> = (0..config.workers)
            .map(|g| Worker {
                kv_capacity_tokens: config.kv_capacity_tokens,
                weight: config.weights.get(g).copied().unwrap_or(1.0),
                ..Worker::new(0, 0, config.slots)
            })
            .collect();
        let pool = Pool::new();
        Batch::draft(&workers, &pool).check()?;
        let needs = policy.needs();
        let foresight = classifier.filter(|_| needs.forecast.is_some()).map(|classifier| {
            let window = needs.projection_horizon.map_or(config.ends_horizon_steps, |horizon| horizon as u32)
                + config.refresh_steps;
            Foresight {
                classifier,
                buckets: EventBuckets::new(config.workers, window.clamp(1, 1 << 16)),
                needs,
                phases: vec![Vec::new(); config.refresh_steps.max(1) as usize],
                due: Vec::new(),
                passed: Vec::new(),
                rows: Vec::new(),
                offsets: Vec::new(),
                ends: Vec::new(),
            }
        });
        Ok(Self {
            queued: vec![(0, 0); config.workers],
            ranks: Vec::with_capacity(config.workers),
            config,
            policy,
            foresight,
            now: 0,
            pool,
            workers,
            active: Vec::new(),
            vacant: Vec::new(),
            by_id: HashMap::new(),
            meter: TrafficMeter::new(),
            bonus_tokens: Vec::new(),
            assignment: Assignment::new(),
            taken: Vec::new(),
            seen: HashSet::new(),
        })
    }

    /// Lets a request wait; a policy that binds on arrival binds it now, unless it names its rank itself.
    /// The router sets [`Request::pair_row`] itself, see [`PairTerms`].
    ///
    /// # Errors
    /// A request that is invalid or whose id waits or runs already; nothing changes then.
    pub fn enqueue(&mut self, request: Request) -> Result<(), RouterError> {
        self.check_new(&request)?;
        let request = Request { pair_row: None, ..request };
        let bind = request.rank.is_none() && self.policy.needs().binds_on_arrival;
        self.pool.insert(request)?;
        self.meter.arrived(request.prompt_tokens);
        let rank = if bind { self.bind(&request) } else { request.rank };
        if let Some(rank) = rank {
            let (requests, tokens) = &mut self.queued[rank as usize];
            *requests += 1;
            *tokens += u64::from(request.prompt_tokens);
        }
        Ok(())
    }

    fn check_new(&self, request: &Request) -> Result<(), RouterError> {
        if let Some(&index) = self.by_id.get(&request.id) {
            let worker = self.active[index as usize].worker;
            return Err(RouterError::Running { id: request.id, worker });
        }
        match request.rank {
            Some(found) if found as usize >= self.workers.len() => {
                Err(RouterError::Worker { workers: self.workers.len(), found })
            }
            _ => Ok(()),
        }
    }

    fn bind(&mut self, request: &Request) -> Option<u32> {
        self.ranks.clear();
        self.ranks.extend(self.workers.iter().zip(&self.queued).map(
            |(&worker, &(queued_requests, queued_tokens))| Rank { worker, queued_requests, queued_tokens },
        ));
        let rank = self.policy.bind(request, &self.ranks)?;
        ((rank as usize) < self.workers.len() && self.pool.bind(request.id, rank)).then_some(rank)
    }

    /// Takes over a request that already runs on a worker (a restart, a warm start).
    ///
    /// # Errors
    /// An id that waits or runs already, an unknown worker, or one without a free slot.
    pub fn adopt(&mut self, request: Request, worker: u32, generated_tokens: u32) -> Result<(), RouterError> {
        self.check_new(&request)?;
        let id = request.id;
        if self.pool.slot_of(id).is_some() {
            return Err(BatchError::DuplicateId { index: self.pool.len(), id, first: 0 }.into());
        }
        match self.workers.get(worker as usize) {
            None => return Err(RouterError::Worker { workers: self.workers.len(), found: worker }),
            Some(at) if at.free_slots == 0 => return Err(RouterError::NoSlot { id, worker }),
            Some(_) => {}
        }
        self.meter.arrived(request.prompt_tokens);
        self.place(request, worker, generated_tokens);
        Ok(())
    }

    /// Decides the step: admits and accounts for what it admitted.
    ///
    /// # Errors
    /// Loads past the limits of a batch, or a policy that breaks its promise; nothing is admitted then.
    pub fn step(&mut self) -> Result<&Assignment, RouterError> {
        self.decide(false, None)
    }

    /// The same with a bonus per waiting request and worker.
    ///
    /// # Errors
    /// As [`Router::step`], and a bonus past its limits.
    pub fn step_with(&mut self, terms: &mut dyn PairTerms) -> Result<&Assignment, RouterError> {
        self.decide(false, Some(terms))
    }

    /// The same through the oracle ([`Policy::decide_by_reference`]): slow, for comparison.
    ///
    /// # Errors
    /// As [`Router::step`].
    pub fn step_by_reference(&mut self) -> Result<&Assignment, RouterError> {
        self.decide(true, None)
    }

    /// [`Router::step_with`] through the oracle.
    ///
    /// # Errors
    /// As [`Router::step_with`].
    pub fn step_by_reference_with(&mut self, terms: &mut dyn PairTerms) -> Result<&Assignment, RouterError> {
        self.decide(true, Some(terms))
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
        by_reference: bool,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<&Assignment, RouterError> {
        self.assignment.clear();
        // Nothing can be admitted: predictions and pair terms are not worth reading either.
        let idle = self.pool.is_empty() || self.workers.iter().all(|worker| worker.open_slots() == 0);
        if !idle {
            self.fill_pairs(terms);
        }
        let growth_tokens = self.headroom_steps();
        let mut draft = Batch::draft(&self.workers, &self.pool)
            .traffic(self.meter.traffic())
            .request_growth(growth_tokens)
            .pairs(Pairs { bonus_tokens: &self.bonus_tokens, ..Pairs::default() });
        if let Some(foresight) = &mut self.foresight {
            refresh(foresight, &self.active, self.now);
            if !idle {
                let Foresight { buckets, needs, rows, offsets, ends, .. } = foresight;
                if let Some(horizon) = needs.projection_horizon {
                    rows.clear();
                    for (g, worker) in self.workers.iter().enumerate() {
                        buckets.project(g, worker.load_tokens, worker.running, horizon, rows);
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
        if by_reference {
            self.policy.decide_by_reference(&batch, &mut self.assignment);
        } else {
            self.policy.decide(&batch, &mut self.assignment);
        }
        self.check_answer()?;
        for at in 0..self.assignment.admitted.len() {
            let (id, worker) = (self.assignment.admitted[at].id, self.assignment.admitted[at].worker);
            if let Some(request) = self.leave_pool(id) {
                self.place(request, worker, 0);
            }
        }
        Ok(&self.assignment)
    }

    /// A policy may be anybody's: what it answers is checked before anything changes.
    fn check_answer(&mut self) -> Result<(), RouterError> {
        self.taken.clear();
        self.taken.resize(self.workers.len(), 0);
        self.seen.clear();
        for admission in &self.assignment.admitted {
            let (id, worker) = (admission.id, admission.worker);
            let waits = self.pool.slot_of(id) == Some(admission.slot) && self.seen.insert(id);
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

    /// One lock-step decode step has run: every running request has a token more and everybody who waits has waited a step.
    pub fn advance(&mut self) {
        self.now += 1;
        self.pool.advance(1);
        for worker in &mut self.workers {
            worker.load_tokens += u64::from(worker.running);
            worker.kv_used_tokens = worker.load_tokens;
        }
        if let Some(Foresight { buckets, passed, due, .. }) = &mut self.foresight {
            buckets.advance(passed);
            due.append(passed);
        }
    }

    /// A running request ended: it leaves, and its output length is learned.
    ///
    /// # Errors
    /// The request does not run.
    pub fn finish(&mut self, id: u64) -> Result<Finished, RouterError> {
        let (active, generated_tokens) = self.leave_worker(id)?;
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

    /// A waiting or running request was given up: it leaves and teaches nothing.
    ///
    /// # Errors
    /// The request neither waits nor runs.
    pub fn abort(&mut self, id: u64) -> Result<(), RouterError> {
        if self.leave_pool(id).is_none() {
            self.leave_worker(id)?;
        }
        if let Some(foresight) = &mut self.foresight {
            foresight.classifier.aborted(id);
        }
        Ok(())
    }

    /// The engine took a running request's KV cache away: it leaves its worker, and comes back as a request of the length that it
    /// has reached, for the caller to enqueue again. Nothing is learned.
    ///
    /// # Errors
    /// The request does not run.
    pub fn preempt(&mut self, id: u64) -> Result<Request, RouterError> {
        let (active, generated) = self.leave_worker(id)?;
        let prompt_tokens = active.request.prompt_tokens.saturating_add(generated);
        Ok(Request { prompt_tokens, waited_steps: 0, pair_row: None, ..active.request })
    }

    /// Tells the classifier the true output length of a request: only an oracle listens.
    pub fn tell_length(&mut self, id: u64, output_tokens: u32) {
        if let Some(foresight) = &mut self.foresight {
            foresight.classifier.told(id, output_tokens);
        }
    }

    /// Why each request still waits after the last step, in arrival order.
    ///
    /// # Errors
    /// As [`Router::step`].
    pub fn waiting(&self) -> Result<Vec<(u64, WaitReason)>, RouterError> {
        let batch = Batch::draft(&self.workers, &self.pool)
            .request_growth(self.headroom_steps())
            .pairs(Pairs { bonus_tokens: &self.bonus_tokens, ..Pairs::default() })
            .check()?;
        let nothing = Assignment { passed_over: self.assignment.passed_over, ..Assignment::new() };
        Ok(nothing.waiting(&batch).collect())
    }

    /// Stops or resumes new requests to a worker.
    ///
    /// # Errors
    /// No such worker.
    pub fn set_accepting(&mut self, worker: u32, accepting: bool) -> Result<(), RouterError> {
        let workers = self.workers.len();
        let at = self.workers.get_mut(worker as usize);
        at.ok_or(RouterError::Worker { workers, found: worker })?.accepting = accepting;
        Ok(())
    }

    /// The workers as things stand.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// The waiting requests.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The last step's admissions.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// What the traffic looks like.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    /// Requests that run.
    #[must_use]
    pub fn running_len(&self) -> usize {
        self.by_id.len()
    }

    /// The worker that a request runs on.
    #[must_use]
    pub fn running_on(&self, id: u64) -> Option<u32> {
        self.by_id.get(&id).map(|&index| self.active[index as usize].worker)
    }

    fn headroom_steps(&self) -> u32 {
        if self.config.kv_capacity_tokens.is_some() { self.config.headroom_steps } else { 0 }
    }

    /// Sets what follows from a worker's load and running count.
    fn settle(&mut self, worker: u32) {
        let headroom_steps = self.headroom_steps();
        let at = &mut self.workers[worker as usize];
        at.kv_used_tokens = at.load_tokens;
        at.kv_growth_tokens = u64::from(at.running) * u64::from(headroom_steps);
    }

    fn leave_pool(&mut self, id: u64) -> Option<Request> {
        let request = self.pool.remove(id)?;
        if let Some(rank) = request.rank {
            let (requests, tokens) = &mut self.queued[rank as usize];
            *requests -= 1;
            *tokens -= u64::from(request.prompt_tokens);
        }
        Some(request)
    }

    fn place(&mut self, request: Request, worker: u32, generated_tokens: u32) {
        let at = &mut self.workers[worker as usize];
        at.running += 1;
        at.free_slots -= 1;
        at.load_tokens += u64::from(request.prompt_tokens) + u64::from(generated_tokens);
        self.settle(worker);
        let active = Active {
            request,
            worker,
            born_step: self.now - i64::from(generated_tokens),
            phase_at: 0,
            live: true,
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.active[index as usize] = active;
                index
            }
            None => {
                self.active.push(active);
                (self.active.len() - 1) as u32
            }
        };
        self.by_id.insert(request.id, index);
        if let Some(foresight) = &mut self.foresight {
            let phase = phase_of(foresight, &active);
            self.active[index as usize].phase_at = foresight.phases[phase].len() as u32;
            foresight.phases[phase].push(index);
            foresight.predict(index, &active, self.now);
        }
    }

    fn leave_worker(&mut self, id: u64) -> Result<(Active, u32), RouterError> {
        let index = self.by_id.remove(&id).ok_or(RouterError::Unknown { id })?;
        let active = self.active[index as usize];
        self.active[index as usize].live = false;
        self.vacant.push(index);
        let generated = (self.now - active.born_step).max(0) as u32;
        let at = &mut self.workers[active.worker as usize];
        at.running -= 1;
        at.free_slots += 1;
        at.load_tokens -= u64::from(active.request.prompt_tokens) + u64::from(generated);
        self.settle(active.worker);
        if let Some(foresight) = &mut self.foresight {
            foresight.buckets.remove(index);
            let phase = phase_of(foresight, &active);
            let list = &mut foresight.phases[phase];
            list.swap_remove(active.phase_at as usize);
            if let Some(&moved) = list.get(active.phase_at as usize) {
                self.active[moved as usize].phase_at = active.phase_at;
            }
        }
        Ok((active, generated))
    }
}

fn phase_of(foresight: &Foresight, active: &Active) -> usize {
    active.born_step.rem_euclid(foresight.phases.len() as i64) as usize
}

/// Predicts again whose turn it is, and who should have ended and has not.
fn refresh(foresight: &mut Foresight, active: &[Active], now: i64) {
    let mut due = std::mem::take(&mut foresight.due);
    for index in due.drain(..) {
        if active[index as usize].live {
            foresight.predict(index, &active[index as usize], now);
        }
    }
    foresight.due = due;
    let phase = now.rem_euclid(foresight.phases.len() as i64) as usize;
    let list = std::mem::take(&mut foresight.phases[phase]);
    for &index in &list {
        foresight.predict(index, &active[index as usize], now);
    }
    foresight.phases[phase] = list;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::{Oracle, classifier_for};
    use crate::policy::{self, Parameters};

    fn router(name: &str, workers: usize, slots: u32) -> Router {
        let policy = policy::build(name, &Parameters::default()).expect("known");
        let classifier = policy.needs().forecast.map(classifier_for);
        Router::new(RouterConfig::new(workers, slots), policy, classifier).expect("valid")
    }

    #[test]
    fn a_request_is_counted_from_arrival_to_end() {
        let mut router = router("level", 2, 1);
        router.enqueue(Request::new(1, 100)).unwrap();
        router.enqueue(Request::new(2, 50)).unwrap();
        router.enqueue(Request::new(3, 70)).unwrap();
        assert_eq!(router.step().unwrap().admitted.len(), 2);
        assert_eq!(router.waiting().unwrap().len(), 1);
        assert_eq!(router.waiting().unwrap()[0].1, WaitReason::NoSlot);
        let before: u64 = router.workers().iter().map(|w| w.load_tokens).sum();
        router.advance();
        assert_eq!(router.workers().iter().map(|w| w.load_tokens).sum::<u64>(), before + 2);
        let first = router.assignment().admitted[0].id;
        assert_eq!(router.finish(first).unwrap().generated_tokens, 1);
        assert_eq!(router.finish(first), Err(RouterError::Unknown { id: first }));
        assert_eq!(router.step().unwrap().admitted.len(), 1);
        router.abort(router.assignment().admitted[0].id).unwrap();
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
        router.step().unwrap();
        assert!(matches!(router.enqueue(Request::new(1, 100)), Err(RouterError::Running { id: 1, .. })));
        assert_eq!(router.pool().len(), 0);
        assert_eq!(router.preempt(9), Err(RouterError::Unknown { id: 9 }));
        assert!(router.set_accepting(7, false).is_err());
        let wrong = RouterConfig { weights: vec![1.0, f32::NAN], ..RouterConfig::new(2, 1) };
        assert!(Router::new(wrong, policy::build("level", &Parameters::default()).unwrap(), None).is_err());
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
        let mut router = Router::new(RouterConfig::new(1, 1), Box::new(Twice), None).unwrap();
        router.enqueue(Request::new(1, 10)).unwrap();
        router.enqueue(Request::new(2, 10)).unwrap();
        assert_eq!(router.step().unwrap_err(), RouterError::Refused { policy: "twice", id: 2, worker: 0 });
        assert_eq!((router.pool().len(), router.running_len()), (2, 0));
    }

    #[test]
    fn a_preempted_request_comes_back_longer() {
        let mut router = router("level", 1, 2);
        router.enqueue(Request::new(1, 100)).unwrap();
        router.step().unwrap();
        (0..5).for_each(|_| router.advance());
        let again = router.preempt(1).unwrap();
        assert_eq!(again.prompt_tokens, 105);
        assert_eq!(router.workers()[0].load_tokens, 0);
        router.enqueue(again).unwrap();
        assert_eq!(router.step().unwrap().admitted[0].prompt_tokens, 105);
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
        router.step_with(&mut likes).unwrap();
        assert_eq!(router.running_on(2), Some(1));
        assert_eq!(router.running_on(1), Some(0));
        router.enqueue(Request::new(3, 100)).unwrap();
        router.enqueue(Request::new(4, 100)).unwrap();
        router.step_with(&mut likes).unwrap();
        assert_eq!(asked, [1, 2, 3, 4]);
        // Full: nobody is asked, and the reasons can still be read; later steps without terms know nothing of rows.
        let again = router.preempt(2).unwrap();
        assert_eq!(again.pair_row, None);
        router.enqueue(again).unwrap();
        router.enqueue(Request::new(5, 100)).unwrap();
        router
            .step_by_reference_with(&mut |_: &Request, bonus: &mut [f32]| {
                bonus[0] = 1.0;
                true
            })
            .unwrap();
        assert_eq!(router.waiting().unwrap(), [(2, WaitReason::NoSlot), (5, WaitReason::NoSlot)]);
        router.finish(1).unwrap();
        assert_eq!(router.step().unwrap().admitted[0].id, 2);
        assert!(router.bonus_tokens.is_empty() && !router.pool().any_pair_terms());
    }

    #[test]
    fn kv_capacity_leaves_room_for_growth() {
        let config =
            RouterConfig { kv_capacity_tokens: Some(1000), headroom_steps: 100, ..RouterConfig::new(1, 8) };
        let policy = policy::build("level", &Parameters::default()).unwrap();
        let mut router = Router::new(config, policy, None).unwrap();
        for id in 0..4 {
            router.enqueue(Request::new(id, 300)).unwrap();
        }
        // 300 + 100 each: two fit into 1000.
        assert_eq!(router.step().unwrap().admitted.len(), 2);
        assert!(router.waiting().unwrap().iter().all(|&(_, reason)| reason == WaitReason::NoCapacity));
    }

    /// Plays random events and compares what a policy is shown with a naive model of the truth.
    #[test]
    fn an_oracles_projection_is_the_future() {
        let policy = policy::build("exact-oracle", &Parameters::default()).unwrap();
        let horizon = policy.needs().projection_horizon.unwrap();
        let mut router = Router::new(RouterConfig::new(3, 6), policy, Some(Box::new(Oracle::new()))).unwrap();
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
            router.step().unwrap();
            for admission in &router.assignment().admitted {
                let (tokens, output) = outputs[&admission.id];
                ends.insert(admission.id, (admission.worker, now + u64::from(output), u64::from(tokens)));
            }
            let foresight = router.foresight.as_mut().unwrap();
            refresh(foresight, &router.active, router.now);
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

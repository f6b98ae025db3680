//! BalanceRoute as published (arXiv 2605.06113): `br0`, which predicts nothing, and `brh-*`, which look ahead.
//!
//! A set of requests put on worker `g` is worth, with `D` the sum of its lengths and `m_{g,h}` the projected margins of the worker,
//!
//! ```text
//! F_g(D) = alpha * (sum_h gamma^h) * D - beta * sum_h gamma^h * max(D - m_{g,h}, 0)         h = 0..=H
//! ```
//!
//! `br0` is `H = 0`, `alpha = 1`, `beta = G`: F is then minus the change of the imbalance. `D` is held constant over the horizon, and
//! an admission adds it to the whole row of its worker. Without a projection `brh-*` look at today's margins alone.
//!
//! Workers go in the order of most open slots, then greatest margin (least load), then lowest index, those left out that may take nobody:
//! 1. *Plenty*: while more slots are open than `greedy_slots`, over all workers, the worker admits the single request of the whole
//!    pool with the largest F, the earliest of equals.
//! 2. *Scarcity*: it looks at the first `candidate_window` requests that it may take, keeps the `subset_window` of them with the largest
//!    single F, and admits the subset that fits its slots and its room with the largest F: of equals the smallest, then the
//!    one with the earlier requests. Where no subset is worth more than nothing the best single request goes in all the same, so that
//!    a request waits only for a slot.
//!
//! Overdue requests (their own deadline) go first, as everywhere; nothing else ages, as published: short requests may starve.
//!
//! The paper leaves alpha, beta and gamma of its main runs, the number of slots that are plenty and the ties of stage 2 open:
//! [`BalanceRouteParameters`] and the lines above say what was chosen.

use crate::assignment::{Admission, Assignment};
#[cfg(feature = "ascend")]
use crate::backend::ascend::blob::{AnswerError, DevicePick, Problem, Source, Turn};
#[cfg(feature = "ascend")]
use crate::backend::ascend::launch::{Device, Outcome};
#[cfg(feature = "ascend")]
use crate::backend::ascend::result::Counters;
use crate::backend::column::{Column, Terms};
use crate::backend::cpu::Kernels;
use crate::backend::loads::Loads;
use crate::batch::{Batch, MAX_HORIZON, MAX_WAITING, Request, WEIGHT_ONE, Worker};
#[cfg(feature = "ascend")]
use crate::policy::ProfileSpec;
use crate::policy::baseline::PLAIN;
use crate::policy::lookahead::Lookahead;
#[cfg(feature = "ascend")]
use crate::policy::{Decided, Ticket};
use crate::policy::{Needs, Plan, Policy, PolicyError, View};
use crate::pool::PoolSlot;
use crate::score::{Knot, Profile};

/// Greatest `subset_window`: 256 subsets.
const MAX_SUBSET_WINDOW: usize = 8;

/// Parameters of `br0`, `brh-survival`, `brh-exactmatch` and `brh-oracle`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalanceRouteParameters {
    /// Open slots over all workers above which requests go one by one, 0..=1000000; default 7 (the authors' earlier code, BF-IO).
    pub greedy_slots: u32,
    /// Requests whose subsets are tried, `R_max`, 1..=8; default 4 (published).
    pub subset_window: usize,
    /// Requests, in arrival order, that `brh-*` choose these from, 1..=1048576; default all candidates. `br0` takes the first `subset_window`.
    pub candidate_window: usize,
    /// Steps looked ahead by `brh-*`, `H`, 0..=128; default 80 (published).
    pub horizon_steps: usize,
    /// Worth of a token that fits, 0..=16; default 1 (the authors' earlier code; `br0` by definition).
    pub alpha: f64,
    /// Price of a token past the margin in numbers of workers, 0..=16; default 4. Not published (the earlier code: 43 tokens, 5.4 times
    /// its 8 workers); of 1..5.4, with gamma .86..1, the value that comes nearest to the published imbalances.
    pub beta_workers: f64,
    /// Discount per step looked ahead, 0..=1; default 0.98. Not published (the earlier code: .86); chosen with beta. In a closed
    /// loop of means 3200/1200, 8 workers, 72 slots, 32 waiting this gives 42.7k with survival estimates and 24.0k with true lengths
    /// (published: 40.8k, 23.6k); `br0` gives 57.7k (51.9k).
    pub gamma: f64,
}

impl Default for BalanceRouteParameters {
    fn default() -> Self {
        Self {
            greedy_slots: 7,
            subset_window: 4,
            candidate_window: MAX_WAITING,
            horizon_steps: 80,
            alpha: 1.0,
            beta_workers: 4.0,
            gamma: 0.98,
        }
    }
}

impl BalanceRouteParameters {
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        PolicyError::check("greedy_slots", f64::from(self.greedy_slots), 0.0, 1e6)?;
        PolicyError::check("subset_window", self.subset_window as f64, 1.0, MAX_SUBSET_WINDOW as f64)?;
        PolicyError::check("candidate_window", self.candidate_window as f64, 1.0, MAX_WAITING as f64)?;
        PolicyError::check("horizon_steps", self.horizon_steps as f64, 0.0, MAX_HORIZON as f64)?;
        PolicyError::check("alpha", self.alpha, 0.0, 16.0)?;
        PolicyError::check("beta_workers", self.beta_workers, 0.0, 16.0)?;
        PolicyError::check("gamma", self.gamma, 0.0, 1.0)
    }
}

/// The two stages with their numbers: what the fast path and the oracle share.
#[derive(Clone, Debug)]
pub(crate) struct Stages {
    pub greedy_slots: u32,
    pub subset_window: usize,
    pub candidate_window: usize,
    pub alpha: f64,
    pub beta_workers: f64,
    /// The steps looked ahead; one for `br0`.
    pub lookahead: Lookahead,
}

impl Stages {
    fn br0(parameters: &BalanceRouteParameters) -> Self {
        Self {
            greedy_slots: parameters.greedy_slots,
            subset_window: parameters.subset_window,
            candidate_window: parameters.subset_window,
            alpha: 1.0,
            beta_workers: 1.0,
            lookahead: Lookahead::new(1.0, 0),
        }
    }

    fn brh(parameters: &BalanceRouteParameters) -> Self {
        Self {
            candidate_window: parameters.candidate_window,
            alpha: parameters.alpha,
            beta_workers: parameters.beta_workers,
            lookahead: Lookahead::new(parameters.gamma, parameters.horizon_steps),
            ..Self::br0(parameters)
        }
    }

    pub(crate) fn looks_ahead(&self, batch: &Batch<'_>) -> bool {
        self.lookahead.discounts.len() > 1 && batch.projection().is_some()
    }

    /// The unit makes a token of bonus worth a token that fits over the whole horizon (at alpha 1).
    pub(crate) fn plan(&self, batch: &Batch<'_>) -> Plan {
        let cost_one = if batch.is_uniform() { 1 } else { WEIGHT_ONE };
        let unit = (self.discount_sum(batch) * cost_one) as f64 * self.scale(batch);
        Plan { unit: (unit as i64).max(1), ..PLAIN }
    }

    fn discount_sum(&self, batch: &Batch<'_>) -> i64 {
        let steps = if self.looks_ahead(batch) { self.lookahead.discounts.len() } else { 1 };
        self.lookahead.discounts[..steps].iter().sum()
    }

    /// Alpha, and beta of a whole worker count, as they go into the profiles of a batch.
    pub(crate) fn price(&self, batch: &Batch<'_>) -> (f64, f64) {
        let scale = self.scale(batch);
        (self.alpha * scale, self.beta_workers * batch.workers().len() as f64 * scale)
    }

    /// A power of two, 1 in all but absurd batches, that keeps the greatest score of a subset within an i64.
    fn scale(&self, batch: &Batch<'_>) -> f64 {
        let longest = batch.waiting().ordered().tokens.last().copied().unwrap_or(1);
        let dearest = if batch.is_uniform() {
            1
        } else {
            batch.workers().iter().map(Worker::cost_per_token).max().unwrap_or(1)
        };
        let price = self.alpha.max(self.beta_workers * batch.workers().len() as f64).max(1.0);
        let greatest = f64::from(longest)
            * self.subset_window as f64
            * dearest as f64
            * price
            * self.discount_sum(batch) as f64;
        (i64::MAX as f64 / 4.0 / greatest).log2().floor().min(0.0).exp2()
    }

    /// What [`Stages::profile`] draws, as data.
    #[cfg(feature = "ascend")]
    fn profile_spec(&self, looks_ahead: bool) -> ProfileSpec<'_> {
        let (alpha, beta) = self.lookahead.price;
        if looks_ahead {
            return ProfileSpec::Lookahead {
                discounts: &self.lookahead.discounts,
                alpha,
                beta,
                by_class: false,
            };
        }
        let weight = self.lookahead.discounts[0] as f64;
        ProfileSpec::Margin { slope: (alpha * weight).round() as i64, weight: (beta * weight).round() as i64 }
    }

    fn profile(&self, view: &View<'_>, looks_ahead: bool, profile: &mut Profile) {
        profile.clear();
        if looks_ahead {
            self.lookahead.profile(view, None, profile);
        } else {
            let ((alpha, beta), weight) = (self.lookahead.price, self.lookahead.discounts[0] as f64);
            profile.slope = (alpha * weight).round() as i64 * view.cost_per_token;
            profile.knots.push(Knot {
                at_tokens: (view.envelope - view.cost).div_euclid(view.cost_per_token),
                weight: (beta * weight).round() as i64 * view.cost_per_token,
            });
        }
    }
}

/// Where a request goes on arrival, and where it would have gone otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Index of the worker.
    pub worker: usize,
    /// Its score there in tokens, bonus included.
    pub score_tokens: f64,
    /// The second-best worker and the score there, if another one may take it.
    pub runner_up: Option<(usize, f64)>,
}

/// The worker for one request that arrives while there is room: greatest `br0` F, then least load, then lowest index, among the workers that
/// may take it. Looks at nobody who waits, so it can be asked before the request joins the pool.
#[must_use]
pub fn route_one(batch: &Batch<'_>, request: &Request) -> Option<usize> {
    route_scored(batch, request).map(|routed| routed.worker)
}

/// The same with scores.
#[must_use]
pub fn route_scored(batch: &Batch<'_>, request: &Request) -> Option<Routed> {
    let workers = batch.workers();
    let uniform = batch.is_uniform();
    let per_token = |g: usize| if uniform { 1 } else { workers[g].cost_per_token() };
    let cost = |g: usize| workers[g].load_tokens as i64 * per_token(g);
    let envelope = (0..workers.len()).map(cost).max()?;
    let tokens = i64::from(request.prompt_tokens);
    let needs = tokens + i64::from(batch.request_growth_tokens());
    let unit = if uniform { 1 } else { WEIGHT_ONE };
    let score = |g: usize| {
        let over = (tokens - (envelope - cost(g)).div_euclid(per_token(g))).max(0);
        per_token(g) * (tokens - workers.len() as i64 * over) + batch.bonus_tokens(request, g) * unit
    };
    // Greatest first: score, then least cost; of equals the first found stays.
    let (mut best, mut second): (Option<(i64, i64, usize)>, Option<(i64, i64, usize)>) = (None, None);
    for (g, worker) in workers.iter().enumerate() {
        let room = worker.open_slots() > 0 && needs <= worker.room_tokens();
        if !room || !batch.eligible(request, g) {
            continue;
        }
        let found = (score(g), -cost(g), g);
        let beats = |other: Option<(i64, i64, usize)>| {
            other.is_none_or(|other| (found.0, found.1) > (other.0, other.1))
        };
        if beats(best) {
            second = best.replace(found);
        } else if beats(second) {
            second = Some(found);
        }
    }
    let in_tokens = |score: i64| score as f64 / unit as f64;
    best.map(|(score, _, worker)| Routed {
        worker,
        score_tokens: in_tokens(score),
        runner_up: second.map(|(score, _, worker)| (worker, in_tokens(score))),
    })
}

/// A request that a subset may be made of.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    slot: PoolSlot,
    /// Its position in the length order, where it was found there.
    position: Option<usize>,
    arrival: u64,
    /// F of the request alone, bonus included.
    single: i64,
    tokens: i64,
    /// Its bonus in score units.
    bonus: i64,
}

/// A policy of the family.
#[derive(Debug)]
pub(crate) struct BalanceRoute {
    name: &'static str,
    needs: Needs,
    stages: Stages,
    loads: Loads,
    column: Column,
    profile: Profile,
    admitted: Vec<bool>,
    /// (open slots, -cost, -index) of open workers, ascending: the next one is the last.
    open: Vec<(i64, i64, i64)>,
    /// (-waited, arrival, position in the length order).
    overdue: Vec<(i64, u64, usize)>,
    candidates: Vec<Candidate>,
    /// Makes the picks of the first stage.
    #[cfg(feature = "ascend")]
    device: Option<Device>,
    /// Why there is no device, where one was looked for.
    #[cfg(feature = "ascend")]
    no_device: Option<String>,
    #[cfg(feature = "ascend")]
    scratch: Assignment,
    #[cfg(feature = "ascend")]
    device_picks: Vec<DevicePick>,
}

struct Step<'a, 'b> {
    batch: &'a Batch<'b>,
    terms: Terms,
    looks_ahead: bool,
    /// Whether the pool may be searched by length.
    ordered: bool,
}

impl BalanceRoute {
    pub(super) fn new(
        name: &'static str,
        parameters: &BalanceRouteParameters,
        needs: Needs,
        kernels: &'static Kernels,
    ) -> Self {
        let stages = if needs.forecast.is_some() { Stages::brh(parameters) } else { Stages::br0(parameters) };
        let projection_horizon = needs.forecast.map(|_| parameters.horizon_steps);
        Self {
            name,
            needs: Needs { projection_horizon, ..needs },
            stages,
            loads: Loads::new(kernels.loads),
            column: Column::new(kernels),
            profile: Profile::default(),
            admitted: Vec::new(),
            open: Vec::new(),
            overdue: Vec::new(),
            candidates: Vec::new(),
            #[cfg(feature = "ascend")]
            device: None,
            #[cfg(feature = "ascend")]
            no_device: None,
            #[cfg(feature = "ascend")]
            scratch: Assignment::new(),
            #[cfg(feature = "ascend")]
            device_picks: Vec::new(),
        }
    }

    /// Has the picks of the first stage made on a device, if there is one.
    #[cfg(feature = "ascend")]
    pub(super) fn on(mut self, device: Option<Device>, no_device: Option<String>) -> Self {
        (self.device, self.no_device) = (device, no_device);
        self
    }

    /// The picks of the first stage from the device; none made where it cannot or answers badly.
    #[cfg(feature = "ascend")]
    fn place_on_device(&mut self, plan: &Plan, step: &Step<'_, '_>, out: &mut Assignment) {
        let Some(mut device) = self.device.take() else { return };
        if !device.is_wanted(step.batch) {
            self.device = Some(device);
            return;
        }
        let pool = step.batch.waiting();
        let profile_spec = self.stages.profile_spec(step.looks_ahead);
        let problem = Problem {
            batch: step.batch,
            plan,
            turn: Turn::MostSlots { stop_open_slots: self.stages.greedy_slots },
            source: Source::Spec(profile_spec),
            loads: &self.loads,
            taken: &self.admitted,
        };
        let before = out.admitted.len();
        let mut picks = std::mem::take(&mut self.device_picks);
        if let Some(work) = device.picks(&problem, &mut picks) {
            let mut wrong = None;
            for (index, &DevicePick { slot, worker, score }) in picks.iter().enumerate() {
                if let Err(what) = self.check(step, slot, worker, score) {
                    wrong = Some(AnswerError::Pick { index, slot: slot.0, worker: worker as u32, what });
                    break;
                }
                if let Some(position) = pool.position(slot) {
                    self.column.take(&pool.ordered(), position);
                }
                self.admit(step, slot, worker, score, out);
            }
            match wrong {
                None => device.note(Outcome::Decided(work)),
                Some(error) => {
                    while out.admitted.len() > before {
                        let Some(admission) = out.admitted.pop() else { break };
                        let (slot, worker) = (admission.slot, admission.worker.index());
                        self.loads.release(worker, i64::from(admission.prompt_tokens));
                        self.admitted[slot.index()] = false;
                        if let Some(position) = pool.position(slot) {
                            self.column.give_back(&pool.ordered(), position);
                        }
                    }
                    device.note(Outcome::Refused(error));
                }
            }
        }
        self.device_picks = picks;
        self.device = Some(device);
    }

    /// What is wrong with a pick of the device.
    #[cfg(feature = "ascend")]
    fn check(
        &mut self,
        step: &Step<'_, '_>,
        slot: PoolSlot,
        worker: usize,
        score: i64,
    ) -> Result<(), &'static str> {
        let request = step.batch.waiting().request(slot);
        if self.admitted[slot.index()] {
            return Err("it waits no longer");
        }
        if let Some(what) = self.loads.refusal(step.batch, request, worker) {
            return Err(what);
        }
        self.stages.profile(&self.loads.view(worker), step.looks_ahead, &mut self.profile);
        let bonus = step.terms.unit * step.batch.bonus_tokens(request, worker);
        if self.profile.score(i64::from(request.prompt_tokens)) + bonus != score {
            return Err("its score is another");
        }
        Ok(())
    }

    fn reopen(&mut self, worker: usize) {
        let open_slots = self.loads.open_slots(worker);
        if open_slots > 0 {
            let key = (open_slots, -self.loads.cost(worker), -(worker as i64));
            let at = self.open.partition_point(|other| *other < key);
            self.open.insert(at, key);
        }
    }

    fn admit(
        &mut self,
        step: &Step<'_, '_>,
        slot: PoolSlot,
        worker: usize,
        score: i64,
        out: &mut Assignment,
    ) {
        let request = step.batch.waiting().request(slot);
        self.loads.admit(worker, i64::from(request.prompt_tokens));
        self.admitted[slot.index()] = true;
        out.admitted.push(Admission {
            id: request.id,
            slot,
            worker: crate::WorkerIndex::at(worker),
            prompt_tokens: request.prompt_tokens,
            score_tokens: score as f64 / step.terms.unit as f64,
        });
    }

    /// Overdue requests, oldest first, each to the least-loaded open worker that may take it.
    fn place_overdue(&mut self, step: &Step<'_, '_>, out: &mut Assignment) {
        let pool = step.batch.waiting();
        if !pool.any_deadline() {
            return;
        }
        let ordered = pool.ordered();
        self.overdue.clear();
        for (position, &slot) in ordered.slots.iter().enumerate() {
            let slot = PoolSlot(slot);
            let waited = pool.waited_steps(slot);
            if pool.request(slot).deadline_steps.is_some_and(|steps| waited >= steps) {
                self.overdue.push((-i64::from(waited), pool.arrival(slot), position));
            }
        }
        self.overdue.sort_unstable();
        for index in 0..self.overdue.len() {
            let (_, _, position) = self.overdue[index];
            let slot = PoolSlot(ordered.slots[position]);
            let request = pool.request(slot);
            let worker = (0..step.batch.workers().len())
                .filter(|&worker| {
                    self.loads.open_slots(worker) > 0
                        && i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker)
                        && step.batch.eligible(request, worker)
                })
                .min_by_key(|&worker| (self.loads.cost(worker), worker));
            if let Some(worker) = worker {
                self.column.take(&pool.ordered(), position);
                self.admit(step, slot, worker, 0, out);
            }
        }
    }

    /// Of the first `window` requests that a worker may take, the `keep` with the largest F, best first. The profile is drawn by now.
    fn find(&mut self, step: &Step<'_, '_>, worker: usize, window: usize, keep: usize) {
        self.candidates.clear();
        let pool = step.batch.waiting();
        let longest = self.loads.longest_tokens(worker);
        if step.ordered && window >= pool.len() {
            let ordered = pool.ordered();
            for _ in 0..keep {
                let Some(found) = self.column.best(&ordered, &self.profile, &step.terms, longest, i64::MIN)
                else {
                    break;
                };
                self.column.take(&ordered, found.position);
                let slot = PoolSlot(ordered.slots[found.position]);
                self.candidates.push(Candidate {
                    slot,
                    position: Some(found.position),
                    arrival: pool.arrival(slot),
                    single: found.score,
                    tokens: i64::from(ordered.tokens[found.position]),
                    bonus: 0,
                });
            }
            return;
        }
        let mut seen = 0;
        for (slot, request, _) in pool.iter() {
            let tokens = i64::from(request.prompt_tokens);
            if self.admitted[slot.index()] || tokens > longest || !step.batch.eligible(request, worker) {
                continue;
            }
            let bonus = step.terms.unit * step.batch.bonus_tokens(request, worker);
            let single = self.profile.score(tokens) + bonus;
            // Arrival order: equals stay behind those already there.
            let at = self.candidates.partition_point(|other| other.single >= single);
            if at < keep {
                self.candidates.truncate(keep - 1);
                let arrival = pool.arrival(slot);
                let candidate = Candidate { slot, position: None, arrival, single, tokens, bonus };
                self.candidates.insert(at, candidate);
            }
            seen += 1;
            if seen == window {
                break;
            }
        }
    }

    /// The subset of the candidates to admit: a mask in which the earliest candidate has the highest bit, and its F.
    fn best_subset(&self, worker: usize, growth_tokens: i64) -> Option<(u32, i64)> {
        let count = self.candidates.len();
        let room = self.loads.longest_tokens(worker) + growth_tokens;
        let mut best: Option<(u32, i64)> = None;
        for mask in 1u32..1 << count {
            let size = i64::from(mask.count_ones());
            if size > self.loads.open_slots(worker) {
                continue;
            }
            let (mut tokens, mut bonus) = (0, 0);
            for (index, candidate) in self.candidates.iter().enumerate() {
                if mask >> (count - 1 - index) & 1 == 1 {
                    tokens += candidate.tokens;
                    bonus += candidate.bonus;
                }
            }
            if tokens + size * growth_tokens > room {
                continue;
            }
            let score = self.profile.score(tokens) + bonus;
            let better = match best {
                None => score > 0,
                Some((_, other)) if score != other => score > other,
                // The smaller set, then the one with the earlier requests.
                Some((other, _)) => {
                    let size_then_later = |mask: u32| (mask.count_ones(), u32::MAX - mask);
                    size_then_later(mask) < size_then_later(other)
                }
            };
            if better {
                best = Some((mask, score));
            }
        }
        best
    }

    fn place(&mut self, step: &Step<'_, '_>, out: &mut Assignment) {
        let pool = step.batch.waiting();
        let growth_tokens = i64::from(step.batch.request_growth_tokens());
        let mut total: i64 = 0;
        self.open.clear();
        for worker in 0..step.batch.workers().len() {
            total += self.loads.open_slots(worker);
            if self.loads.open_slots(worker) > 0 {
                self.open.push((self.loads.open_slots(worker), -self.loads.cost(worker), -(worker as i64)));
            }
        }
        self.open.sort_unstable();
        // A worker that may take nobody now never may again: rooms and the pool only shrink.
        while let Some((_, _, index)) = self.open.pop() {
            let worker = (-index) as usize;
            let view = self.loads.view(worker);
            self.stages.profile(&view, step.looks_ahead, &mut self.profile);
            let plenty = total > i64::from(self.stages.greedy_slots);
            if plenty {
                self.find(step, worker, pool.len(), 1);
            } else {
                self.find(step, worker, self.stages.candidate_window, self.stages.subset_window);
            }
            let Some(&best) = self.candidates.first() else { continue };
            let subset = if plenty {
                None
            } else {
                self.candidates.sort_unstable_by_key(|candidate| candidate.arrival);
                self.best_subset(worker, growth_tokens)
            };
            let count = self.candidates.len();
            for index in 0..count {
                let Candidate { slot, position, arrival, .. } = self.candidates[index];
                let (chosen, score) = match subset {
                    Some((mask, score)) => (mask >> (count - 1 - index) & 1 == 1, score),
                    None => (arrival == best.arrival, best.single),
                };
                if chosen {
                    self.admit(step, slot, worker, score, out);
                    total -= 1;
                } else if let Some(position) = position {
                    self.column.give_back(&step.batch.waiting().ordered(), position);
                }
            }
            self.reopen(worker);
        }
    }
}

impl Policy for BalanceRoute {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        out.clear();
        let plan = self.stages.plan(batch);
        self.loads.prepare(batch);
        self.loads.load(batch, &plan, false);
        self.column.reset(&batch.waiting().ordered(), batch.open_slots() as usize);
        self.admitted.clear();
        self.admitted.resize(batch.waiting().slot_bound(), false);
        let price = self.stages.price(batch);
        self.stages.lookahead.set_price(price);
        let step = Step {
            batch,
            terms: Terms::new(batch.waiting(), plan.age, plan.unit),
            looks_ahead: self.stages.looks_ahead(batch),
            ordered: !batch.has_pair_terms(),
        };
        self.place_overdue(&step, out);
        #[cfg(feature = "ascend")]
        let mut begin = self.device.as_ref().and_then(Device::clock);
        #[cfg(feature = "ascend")]
        self.place_on_device(&plan, &step, out);
        #[cfg(feature = "ascend")]
        if let Some(device) = self.device.as_ref().filter(|device| !device.has_decided()) {
            if device.is_submitting() {
                return;
            }
            begin = device.clock();
        }
        self.place(&step, out);
        #[cfg(feature = "ascend")]
        if let Some(device) = &mut self.device {
            device.picked(batch, begin);
        }
        out.measure(batch);
    }

    #[cfg(feature = "ascend")]
    fn describe(&self) -> String {
        let on_cpu = "cpu: one column at a time";
        match (&self.device, &self.no_device) {
            (Some(device), _) => device.describe(),
            (None, Some(reason)) => format!("{on_cpu}; {reason}"),
            (None, None) => on_cpu.to_owned(),
        }
    }

    #[cfg(feature = "ascend")]
    fn submit(&mut self, batch: &Batch<'_>) -> Ticket {
        let Some(device) = &mut self.device else { return Ticket::default() };
        device.submitting();
        let mut scratch = std::mem::take(&mut self.scratch);
        self.decide(batch, &mut scratch);
        self.scratch = scratch;
        self.device.as_mut().map_or(Ticket::default(), Device::submitted)
    }

    #[cfg(feature = "ascend")]
    fn poll(&mut self, ticket: &Ticket) -> bool {
        self.device.as_ref().is_none_or(|device| device.poll(ticket.serial))
    }

    #[cfg(feature = "ascend")]
    fn collect(
        &mut self,
        ticket: Ticket,
        batch: &Batch<'_>,
        timeout: std::time::Duration,
        out: &mut Assignment,
    ) -> Decided {
        if let Some(device) = &mut self.device {
            device.collecting(ticket, timeout);
        }
        self.decide(batch, out);
        self.device.as_mut().map_or(Decided::Cpu, Device::decided)
    }

    #[cfg(feature = "ascend")]
    fn discard(&mut self, ticket: Ticket) {
        if let Some(device) = &mut self.device {
            device.discard(ticket.serial);
        }
    }

    #[cfg(feature = "ascend")]
    fn device_counters(&self) -> Option<Counters> {
        self.device.as_ref().and_then(Device::counters)
    }

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        crate::reference::balance_route(&self.stages, batch, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Parameters, build};
    use crate::pool::Pool;

    fn pool(lengths: &[u32]) -> Pool {
        let requests: Vec<_> =
            lengths.iter().zip(1..).map(|(&tokens, id)| Request::new(id, tokens)).collect();
        Pool::from_requests(&requests).expect("valid")
    }

    fn workers(load_and_free: &[(u64, u32)]) -> Vec<Worker> {
        load_and_free.iter().map(|&(load, free)| Worker::new(load, 1, free)).collect()
    }

    fn decide(name: &str, parameters: BalanceRouteParameters, batch: &Batch<'_>) -> Vec<(u64, u32, f64)> {
        let parameters = Parameters { balance_route: parameters, ..Parameters::default() };
        let mut policy = build(name, &parameters).expect("a policy");
        let (mut out, mut oracle) = (Assignment::new(), Assignment::new());
        policy.decide(batch, &mut out);
        policy.decide_by_reference(batch, &mut oracle);
        assert_eq!(out, oracle);
        out.admitted
            .iter()
            .map(|admission| (admission.id.0, admission.worker.0, admission.score_tokens))
            .collect()
    }

    #[test]
    fn one_arrival_goes_where_f_is_greatest() {
        let mut workers = workers(&[(100, 1), (40, 1), (70, 1)]);
        let nobody = Pool::new();
        let route = |workers: &[Worker], request: &Request| {
            route_one(&Batch::draft(workers, &nobody).check().expect("valid"), request)
        };
        // Margins 0, 60, 30. 50 tokens: -100, 50, -10. 20 tokens: -40, 20, 20, a tie for the lesser load.
        assert_eq!(route(&workers, &Request::new(1, 50)), Some(1));
        assert_eq!(route(&workers, &Request::new(1, 20)), Some(1));
        assert_eq!(route(&workers, &Request::new(1, 20).bound_to(0)), Some(0));
        workers[1].kv_capacity_tokens = Some(55);
        assert_eq!(route(&workers, &Request::new(1, 20)), Some(2));
        assert_eq!(route(&workers, &Request::new(1, 15)), Some(1));
        workers[1].free_slots = 0;
        assert_eq!(route(&workers, &Request::new(1, 15)), Some(2));
        workers[2].accepting = false;
        assert_eq!(route(&workers, &Request::new(1, 15)), Some(0));
        workers[0].accepting = false;
        assert_eq!(route(&workers, &Request::new(1, 15)), None);
    }

    #[test]
    fn plenty_goes_one_by_one_and_scarcity_begins_at_seven() {
        // Nine slots: worker 0 has most, margin 0, F(s) = -s: the shortest. Eight: a tie, worker 1 is lighter, margin 90: the longest.
        // Seven: worker 0 again, and though F(55) = -55 it goes in.
        let (workers, pool) = (workers(&[(100, 5), (40, 4)]), pool(&[30, 60, 55]));
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        let expected = [(1, 0, -30.0), (2, 1, 60.0), (3, 0, -55.0)];
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
    }

    #[test]
    fn scarcity_admits_the_best_subset_of_the_window() {
        let (workers, pool) = (workers(&[(100, 0), (40, 3)]), pool(&[50, 25, 35, 10, 60]));
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        // Margin 60. {50, 10} and {25, 35} reach it with two requests each: the earlier pair. The fifth is outside the window.
        // Then margin 0 and one slot, nothing is worth anything: the best single, 25 - 2 * 25.
        let expected = [(1, 1, 60.0), (4, 1, 60.0), (2, 1, -25.0)];
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
        // From the whole pool the single 60 reaches it with one request; past the margin a token costs 2 * 2 here.
        let parameters = BalanceRouteParameters { beta_workers: 2.0, ..BalanceRouteParameters::default() };
        let expected = [(5, 1, 60.0), (4, 1, 10.0 - 40.0), (2, 1, 25.0 - 100.0)];
        assert_eq!(decide("brh-survival", parameters, &batch), expected);
        // A window of two cannot see them.
        let parameters = BalanceRouteParameters { subset_window: 2, ..BalanceRouteParameters::default() };
        assert_eq!(decide("br0", parameters, &batch)[..1], [(1, 1, 50.0)]);
    }

    #[test]
    fn subsets_respect_slots_and_room() {
        let mut workers = workers(&[(100, 0), (40, 1)]);
        let pool = pool(&[25, 35, 10, 50]);
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), [(4, 1, 50.0)]);
        // Two slots and room for 58 tokens, five of growth each: 25 + 10, 35 + 10 and 50 alone fit, 25 + 35 and 50 + 10 do not.
        workers[1].free_slots = 2;
        workers[1].kv_capacity_tokens = Some(98);
        let batch = Batch::draft(&workers, &pool).request_growth(5).check().expect("valid");
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), [(4, 1, 50.0)]);
        workers[1].kv_capacity_tokens = Some(96);
        let batch = Batch::draft(&workers, &pool).request_growth(3).check().expect("valid");
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), [(4, 1, 50.0)]);
        workers[1].kv_capacity_tokens = Some(92);
        let batch = Batch::draft(&workers, &pool).request_growth(3).check().expect("valid");
        let expected = [(2, 1, 45.0), (3, 1, 45.0)];
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
    }

    #[test]
    fn lookahead_weighs_every_step() {
        let parameters = BalanceRouteParameters {
            horizon_steps: 1,
            gamma: 0.5,
            beta_workers: 1.0,
            ..BalanceRouteParameters::default()
        };
        let (workers, pool) = (workers(&[(100, 0), (50, 1)]), pool(&[20, 5, 60, 50]));
        let rows = [100, 60, 50, 55];
        let batch = Batch::draft(&workers, &pool).projection(1, &rows).check().expect("valid");
        // Margins 50 and 5: F(20) = 30 - 15, F(5) = 7.5, F(60) = 90 - 2 * (10 + 27.5), F(50) = 75 - 45; a token over both steps is 1.5.
        assert_eq!(decide("brh-oracle", parameters, &batch), [(4, 1, 20.0)]);
        // br0 looks at today: 50 fits exactly.
        assert_eq!(decide("br0", parameters, &batch), [(4, 1, 50.0)]);
        // A worker that stays this low takes the longest.
        let rows = [100, 160, 50, 55];
        let batch = Batch::draft(&workers, &pool).projection(1, &rows).check().expect("valid");
        assert_eq!(decide("brh-oracle", parameters, &batch), [(4, 1, 50.0)]);
        let rows = [100, 160, 40, 55];
        let batch = Batch::draft(&workers, &pool).projection(1, &rows).check().expect("valid");
        assert_eq!(decide("brh-oracle", parameters, &batch), [(3, 1, 60.0)]);
    }

    #[test]
    fn an_overdue_request_goes_first_and_nothing_blocks_the_window() {
        let workers = workers(&[(100, 1), (40, 1)]);
        let mut requests: Vec<_> = (1..7).map(|id| Request::new(id, 10).bound_to(0)).collect();
        requests.push(Request::new(7, 30));
        requests.push(Request::new(8, 500).waited(9).deadline(9));
        let pool = Pool::from_requests(&requests).expect("valid");
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        let expected = [(8, 1, 0.0), (1, 0, 10.0)];
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
        requests.pop();
        let pool = Pool::from_requests(&requests).expect("valid");
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        // Six that may not go to worker 1 wait before the one that may.
        let expected = [(7, 1, 30.0), (1, 0, -10.0)];
        assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        use crate::batch::{MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS, MAX_WEIGHT, MAX_WORKERS};
        let mut workers = vec![Worker::new(0, 0, 0).weight(MAX_WEIGHT); MAX_WORKERS];
        workers[0] = Worker::new(MAX_LOAD_TOKENS, 0, 0).weight(0.0);
        workers[1].free_slots = 8;
        workers[2].free_slots = 9;
        let pool = pool(&[MAX_PROMPT_TOKENS; 12]);
        let rows = vec![0; MAX_WORKERS * (MAX_HORIZON + 1)];
        let batch = Batch::draft(&workers, &pool).projection(MAX_HORIZON, &rows).check().expect("valid");
        let parameters = BalanceRouteParameters {
            greedy_slots: 12,
            subset_window: MAX_SUBSET_WINDOW,
            horizon_steps: MAX_HORIZON,
            alpha: 16.0,
            beta_workers: 16.0,
            gamma: 1.0,
            ..BalanceRouteParameters::default()
        };
        let parameters = Parameters { balance_route: parameters, ..Parameters::default() };
        for name in ["br0", "brh-oracle"] {
            let mut out = Assignment::new();
            build(name, &parameters).expect("a policy").decide(&batch, &mut out);
            assert_eq!(out.admitted.len(), 12, "{name}");
            assert!(out.admitted.iter().all(|admission| admission.score_tokens.is_finite()));
        }
    }
}

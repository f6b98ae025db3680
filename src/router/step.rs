//! The decision of a step: first all of it is decided, then it is done, so that a step that fails has changed
//! nothing.

use std::time::Instant;

use crate::assignment::Balance;
use crate::batch::{Batch, MAX_LOAD_TOKENS, PredictedEnds, Request, Worker};
use crate::ids::{RequestId, WorkerIndex};
use crate::pool::{Candidates, PoolSlot};
use crate::router::error::unless_panicked;
use crate::router::forecast_state::ForecastState;
use crate::router::{Call, Dispatch, PairTerms, Plan, ReturnReason, Router, RouterError, find, trace};

/// An admission that is decided and not done yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    id: RequestId,
    place: usize,
    score_tokens: f64,
}

impl Router {
    /// Decides the step: admits, and accounts for what it admitted. `now_ms` is the caller's clock. Its plan
    /// must be read: whoever it admits counts as running, and whoever it returns has left. [`Router::plan`]
    /// tells it again until the next step.
    ///
    /// # Errors
    /// A policy that breaks its promise, or panics.
    pub fn step(&mut self, now_ms: u64) -> Result<&Plan, RouterError> {
        self.decide(now_ms, false, None)
    }

    /// [`Router::step`] with a bonus per waiting request and worker.
    ///
    /// # Errors
    /// As [`Router::step`], and terms that panic or a bonus past its limits.
    pub fn step_with(&mut self, now_ms: u64, terms: &mut dyn PairTerms) -> Result<&Plan, RouterError> {
        self.decide(now_ms, false, Some(terms))
    }

    /// [`Router::step`] through the oracle ([`crate::Policy::decide_by_reference`]): slow, for comparison.
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

    fn decide(
        &mut self,
        now_ms: u64,
        by_reference: bool,
        terms: Option<&mut (dyn PairTerms + '_)>,
    ) -> Result<&Plan, RouterError> {
        let mut listener = self.listen(terms);
        let done = self.decide_and_do(now_ms, by_reference, listener.terms());
        let terms = listener.heard;
        self.recorded_step(done, || Call::Step { now_ms, by_reference, terms })?;
        Ok(&self.plan)
    }

    fn decide_and_do(
        &mut self,
        now_ms: u64,
        by_reference: bool,
        mut terms: Option<&mut (dyn PairTerms + '_)>,
    ) -> Result<(), RouterError> {
        let clock = self.clock.read(now_ms);
        let start = Instant::now();
        let span = trace::Step::begin(self.policy.name(), self.pool.len(), self.workers.len());
        self.explainer.begin();
        self.former_rows.clear();
        self.asked.clear();
        let before = self.sight;
        let decided = unless_panicked(self.policy.name(), || {
            let tight = self.find_leaving(clock.now_ms());
            self.look(clock.told_ms(), tight);
            self.find_silent(clock.now_ms());
            self.pool.look_past_marked();
            self.decide_windows(by_reference, &mut terms)
        });
        self.pool.move_back();
        let idle = match decided.and_then(|decided| decided) {
            Ok(idle) => idle,
            Err(error) => {
                self.restore_rows();
                self.credits.forget_step();
                self.keep_leaving();
                self.look_from(before);
                if let Some(forecast_state) = &mut self.forecast_state {
                    forecast_state.undo();
                }
                return Err(error);
            }
        };
        self.tell(clock);
        (self.passed_over, self.max_passed) = (self.assignment.passed_over, self.assignment.max_passed);
        self.keep_claim();
        self.explainer.keep();
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.keep();
        }
        let had_rows = !self.pair_rows.is_empty();
        std::mem::swap(&mut self.pair_rows, &mut self.next_rows);
        let looked_past = !self.leaving.is_empty();
        self.carry_out();
        if looked_past && (had_rows || !self.pair_rows.is_empty()) {
            self.carry_rows();
        }
        let (left, planned) = (std::mem::take(&mut self.left), std::mem::take(&mut self.planned));
        let entered = left.iter().zip(&planned);
        let entered = entered.map(|(waiting, planned)| {
            (waiting.request.priority, waiting.arrival, WorkerIndex::at(planned.place))
        });
        self.count_passes(entered);
        (self.left, self.planned) = (left, planned);
        if !idle {
            self.counters.decide_ns.record(start.elapsed().as_nanos() as u64);
        }
        span.decided(&self.plan);
        Ok(())
    }

    /// Decides window by window, into `planned`. Whether there was nothing to decide.
    fn decide_windows(
        &mut self,
        by_reference: bool,
        terms: &mut Option<&mut (dyn PairTerms + '_)>,
    ) -> Result<bool, RouterError> {
        self.planned.clear();
        self.next_rows.clear();
        self.assignment.clear();
        (self.balance, self.windows) = ((Balance::default(), Balance::default()), 0);
        self.next_claim = None;
        if self.workers.is_empty() {
            return Ok(true);
        }
        // Nothing can be admitted: predictions and pair terms are not worth reading either.
        let workers = if self.changed { &self.later } else { &self.workers };
        let idle = self.pool.candidates().is_empty() || !workers.iter().any(|worker| worker.open_slots() > 0);
        self.foresee(idle);
        if let Some(message) = self.forecast_state.as_mut().and_then(ForecastState::panic) {
            return Err(RouterError::Panicked { policy: self.policy.name(), message });
        }
        let mut wanted = terms.as_deref_mut().filter(|_| !idle);
        if wanted.is_some() || !self.pair_rows.is_empty() {
            self.ask_all_terms(&mut wanted)?;
        }
        if idle {
            self.next_claim = self.claim;
            self.decide_window(by_reference, false, usize::MAX)?;
            return Ok(true);
        }
        self.claim_worker();
        if self.pool.has_classes() {
            self.decide_classes(by_reference, terms)?;
            return Ok(false);
        }
        self.show_claimed();
        self.decide_window(by_reference, true, usize::MAX)?;
        while self.move_on() {
            if let Some(terms) = terms {
                self.ask_terms(Some(&mut **terms), false)?;
            }
            self.decide_window(by_reference, true, usize::MAX)?;
        }
        Ok(false)
    }

    /// Brings predictions up to date, and projects them unless nobody will ask.
    fn foresee(&mut self, idle: bool) {
        let Some(forecast_state) = &mut self.forecast_state else { return };
        let (ids, accounts) = (&self.ids, &self.accounts);
        forecast_state.refresh(&self.slab, self.now, |active| {
            let place = find(ids, active.worker).unwrap_or_default();
            (place, accounts[place].generated_tokens(active))
        });
        if idle {
            return;
        }
        let ForecastState { buckets, needs, rows, offsets, ends, .. } = forecast_state;
        if let Some(horizon) = needs.projection_horizon {
            rows.clear();
            for (g, worker) in self.workers.iter().enumerate() {
                buckets.project(g, worker.load_tokens, worker.running, horizon, rows);
            }
            for tokens in rows.iter_mut() {
                *tokens = (*tokens).min(MAX_LOAD_TOKENS);
            }
        }
        if let Some(most) = needs.ends_per_worker {
            ends.clear();
            offsets.clear();
            offsets.push(0);
            for g in 0..self.workers.len() {
                buckets.next_ends(g, most, ends);
                offsets.push(ends.len() as u32);
            }
            for end in ends.iter_mut() {
                end.freed_tokens = end.freed_tokens.min(MAX_LOAD_TOKENS);
            }
        }
    }

    /// Asks for the rows of every class as a step begins; without terms those of an earlier step go.
    fn ask_all_terms(&mut self, terms: &mut Option<&mut (dyn PairTerms + '_)>) -> Result<(), RouterError> {
        self.former_rows.reserve(self.pool.windows().map(Candidates::len).sum());
        let windows = self.pool.windows().flat_map(Candidates::iter);
        self.former_rows.extend(windows.map(|(_, request, _)| request.pair_row));
        let mut class = None;
        while self.pool.turn_below(class) {
            class = Some(self.pool.priority());
            match terms {
                Some(terms) => self.ask_terms(Some(&mut **terms), true)?,
                None => self.ask_terms(None, true)?,
            }
        }
        self.pool.face_first();
        Ok(())
    }

    /// Asks for the rows of the window, as a step begins (`first`) or goes on.
    pub(super) fn ask_terms(
        &mut self,
        mut terms: Option<&mut (dyn PairTerms + '_)>,
        first: bool,
    ) -> Result<(), RouterError> {
        let (rows, workers, asked) = (&mut self.next_rows, &self.ids, &mut self.asked);
        if first {
            asked.reserve(self.pool.candidates().len());
        }
        // They are told apart again only where somebody leaves.
        let is_kept = first && !self.leaving.is_empty();
        let mut refused = None;
        self.pool.set_pair_rows(|request| {
            let terms = terms.as_deref_mut().filter(|_| refused.is_none())?;
            let row = rows.add(workers, request, terms).unwrap_or_else(|error| {
                refused = Some(error);
                None
            });
            if is_kept {
                asked.push((request.id, row));
            }
            row
        });
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// After a step that has failed: the rows of the last one that was done.
    fn restore_rows(&mut self) {
        if !self.former_rows.is_empty() {
            let mut former = self.former_rows.iter();
            self.pool.set_all_pair_rows(|request| former.next().copied().unwrap_or(request.pair_row));
        }
    }

    /// Where a window had been moved past those who left, its rows go to who stands in it now. Those who have
    /// come were not asked for.
    fn carry_rows(&mut self) {
        let asked = &mut self.asked;
        asked.sort_unstable_by_key(|&(id, _)| id);
        self.pool.set_all_pair_rows(|request| {
            let at = asked.binary_search_by_key(&request.id, |&(id, _)| id).ok()?;
            asked[at].1
        });
    }

    /// Decides the window where it stands, and makes its first `most` admissions.
    pub(super) fn decide_window(
        &mut self,
        by_reference: bool,
        explain: bool,
        most: usize,
    ) -> Result<(), RouterError> {
        let workers = if self.changed { &self.later } else { &self.workers };
        let mut draft = Batch::draft(workers, &self.pool)
            .traffic(self.meter.traffic())
            .request_growth(self.headroom_steps())
            .pairs(self.next_rows.pairs());
        if let Some(forecast_state) = self.forecast_state.as_ref().filter(|_| explain) {
            if let Some(horizon) = forecast_state.needs.projection_horizon {
                draft = draft.projection(horizon, &forecast_state.rows);
            }
            if forecast_state.needs.ends_per_worker.is_some() {
                draft = draft
                    .ends(PredictedEnds { offsets: &forecast_state.offsets, ends: &forecast_state.ends });
            }
        }
        let batch = draft.check()?;
        if explain {
            self.explainer.look(self.policy.as_mut(), &batch);
        }
        if by_reference {
            self.policy.decide_by_reference(&batch, &mut self.assignment)?;
        } else {
            self.policy.decide(&batch, &mut self.assignment);
        }
        if self.assignment.admitted.len() > most {
            self.assignment.admitted.truncate(most);
            self.assignment.measure(&batch);
        }
        // A policy may be anybody's: what it answers is checked before anything changes.
        self.taken.clear();
        self.taken.resize(workers.len(), 0);
        let candidates = self.pool.candidates();
        if self.stamps.len() < candidates.slot_bound() {
            self.stamps.resize(candidates.slot_bound(), 0);
        }
        self.stamp += 1;
        for admission in &self.assignment.admitted {
            let (id, worker, slot) = (admission.id, admission.worker, admission.slot);
            let waits = candidates.holds(slot)
                && candidates.request(slot).id == id
                && std::mem::replace(&mut self.stamps[slot.index()], self.stamp) != self.stamp;
            let open = workers.get(worker.index()).is_some_and(|at| {
                self.taken[worker.index()] += 1;
                self.taken[worker.index()] <= at.open_slots()
            });
            if !waits || !open {
                let (policy, worker) = (self.policy.name(), self.ids.get(worker.index()).copied());
                self.assignment.clear();
                return Err(RouterError::Refused { policy, id, worker });
            }
        }
        if explain {
            self.explainer.explain(workers, &self.ids, &self.assignment);
        }
        self.planned.extend(self.assignment.admitted.iter().map(|admission| Planned {
            id: admission.id,
            place: admission.worker.index(),
            score_tokens: admission.score_tokens,
        }));
        if self.windows == 0 {
            self.balance.0 = self.assignment.before;
        }
        self.balance.1 = self.assignment.after;
        self.windows += 1;
        Ok(())
    }

    /// Moves the window on where slots are open that nobody left in it may enter, and others wait behind.
    fn move_on(&mut self) -> bool {
        let workers = if self.changed { &self.later } else { &self.workers };
        let open: u64 = workers.iter().map(|worker| u64::from(worker.open_slots())).sum();
        if open == self.assignment.admitted.len() as u64 || !self.pool.has_queued() {
            return false;
        }
        self.admit_ahead();
        let of_any = self.find_most_tokens();
        !self.is_wanted(of_any) && self.move_window(of_any)
    }

    /// The tokens that a request may have on each worker as things will stand, and on any; none where no slot
    /// is open.
    pub(super) fn find_most_tokens(&mut self) -> Option<i64> {
        let growth_tokens = i64::from(self.headroom_steps());
        let most_tokens =
            |worker: &Worker| (worker.open_slots() > 0).then(|| worker.room_tokens() - growth_tokens);
        self.most_tokens.clear();
        self.most_tokens.extend(self.later.iter().map(most_tokens));
        self.most_tokens.iter().copied().flatten().max()
    }

    /// Moves the window on to the next who fit; false where there is nobody.
    pub(super) fn move_window(&mut self, of_any: Option<i64>) -> bool {
        let of_rank = &self.most_tokens;
        self.pool.move_on(|rank| rank.map_or(of_any, |place| of_rank[place.index()]))
    }

    /// Takes those out of the window whom its decision has admitted.
    pub(super) fn narrow_window(&mut self) {
        let (stamps, stamp) = (&self.stamps, self.stamp);
        self.pool.narrow(|slot| stamps[slot.index()] != stamp);
    }

    /// The workers, and what is projected for them, as the admissions of the window leave them.
    pub(super) fn admit_ahead(&mut self) {
        if !std::mem::replace(&mut self.changed, true) {
            self.later.clone_from(&self.workers);
        }
        let growth_tokens = self.headroom_steps();
        let looks_ahead = |of: &&mut ForecastState| of.needs.projection_horizon.is_some();
        let forecast_state = self.forecast_state.as_mut().filter(looks_ahead);
        let projected = forecast_state.map_or(&mut [][..], |of| &mut of.rows[..]);
        self.assignment.carry_into(&mut self.later, projected, growth_tokens);
    }

    /// Whether somebody who is left in the window may enter a worker yet; requests that any worker takes may
    /// have `of_any` tokens.
    pub(super) fn is_wanted(&self, of_any: Option<i64>) -> bool {
        let candidates = self.pool.candidates();
        let is_left = |slot: PoolSlot| self.stamps[slot.index()] != self.stamp;
        let Some(of_any) = of_any else { return false };
        if !candidates.any_pair_terms() {
            // The shortest of those who are left.
            let ordered = candidates.ordered();
            let shortest = ordered.slots.iter().position(|&slot| is_left(PoolSlot(slot)));
            return shortest.is_some_and(|at| i64::from(ordered.tokens[at]) <= of_any);
        }
        let batch = Batch::draft(&self.later, &self.pool).pairs(self.next_rows.pairs()).unchecked();
        let may_enter = |request: &Request| {
            let tokens = i64::from(request.prompt_tokens);
            let fits = |most: &Option<i64>| most.is_some_and(|most| tokens <= most);
            let mut workers = self.most_tokens.iter().enumerate();
            tokens <= of_any && workers.any(|(g, most)| fits(most) && batch.eligible(request, g))
        };
        candidates.iter().any(|(slot, request, _)| is_left(slot) && may_enter(request))
    }

    /// Does what was decided.
    fn carry_out(&mut self) {
        for at in 0..self.silent.len() {
            self.give_back(self.silent[at], ReturnReason::WorkerSilent);
        }
        // Who may be placed on an empty worker only is looked at by every step.
        self.rescan = self.sight.tight;
        self.any_most &= !self.pool.is_empty();
        self.return_leaving();
        let mut left = std::mem::take(&mut self.left);
        left.clear();
        self.pool.leave_all(self.planned.iter().map(|planned| planned.id), |waiting| left.push(waiting));
        self.plan.returned.clear();
        self.plan.returned.append(&mut self.pending);
        self.plan.admissions.clear();
        for (at, waiting) in left.iter().enumerate() {
            let Planned { place, score_tokens, .. } = self.planned[at];
            let request = self.left_queue(waiting.request);
            self.counters.waited(self.now_ms().saturating_sub(waiting.since_ms), &request);
            self.counters.admitted_by_step += 1;
            let dispatch = self.dispatch(request, place, waiting.arrival);
            self.plan.admissions.push(Dispatch { score_tokens, ..dispatch });
        }
        self.left = left;
        (self.plan.before, self.plan.after) = self.balance;
    }
}

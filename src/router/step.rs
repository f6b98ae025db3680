//! The decision of a step.

use std::time::Instant;

use crate::batch::{Batch, MAX_LOAD_TOKENS, PredictedEnds};
use crate::router::foresight::Foresight;
use crate::router::{Dispatch, PairTerms, Plan, Router, RouterError, find};

impl Router {
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

    /// The same through the oracle ([`crate::Policy::decide_by_reference`]): slow, for comparison.
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
    pub(super) fn fill_pairs(&mut self, terms: Option<&mut dyn PairTerms>) {
        let had_rows = !self.pair_rows.is_empty();
        self.pair_rows.clear();
        let (rows, workers) = (&mut self.pair_rows, self.workers.len());
        match terms {
            Some(terms) => self.pool.set_pair_rows(|request| rows.add(workers, request, terms)),
            None if had_rows => self.pool.set_pair_rows(|_| None),
            None => {}
        }
    }

    pub(super) fn decide(
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

    pub(super) fn assign(
        &mut self,
        by_reference: bool,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<(), RouterError> {
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
            .pairs(self.pair_rows.pairs());
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
    pub(super) fn check_answer(&mut self) -> Result<(), RouterError> {
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
}

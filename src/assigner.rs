//! One step for a caller that keeps its own state: workers and requests in, who enters which worker out.
//!
//! C, Python and Rust have this in common: an assigner is a policy and its buffers, a [`Step`] is what it is
//! asked, and the answer speaks of the rows that were given. Who wants the state kept across steps takes a
//! [`Router`](crate::Router).
//!
//! ```
//! use balanceroute::policy::Parameters;
//! use balanceroute::{Assigner, Request, Step, Worker};
//!
//! let workers = [Worker::new(40_000, 11, 1), Worker::new(43_000, 11, 1)];
//! let requests = [Request::new(1, 900), Request::new(2, 3_100), Request::new(3, 5_200)];
//! let mut assigner = Assigner::new("level", &Parameters::default())?;
//! let decision = assigner.assign(&Step::new(&workers, &requests))?;
//!
//! assert_eq!(decision.admissions().len(), 2);
//! for (row, admission) in decision.admissions() {
//!     println!("row {row} (request {}) enters worker {}", admission.id, admission.worker);
//! }
//! for (row, reason) in decision.reasons().iter().enumerate() {
//!     if let Some(reason) = reason {
//!         println!("row {row} waits: {reason}");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::assignment::{Admission, Assignment, Balance, WaitReason};
use crate::batch::{
    Batch, BatchError, Pairs, PredictedEnds, Projection, Request, SurvivalClasses, Traffic, Worker,
};
use crate::policy::{self, Parameters, Policy, PolicyError};
use crate::pool::{CANDIDATE_WINDOW, Pool};

/// What an assigner is asked: the workers, who waits in order of arrival, and what else is known.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Step<'a> {
    /// The workers as the step begins.
    pub workers: &'a [Worker],
    /// Who waits, in order of arrival, of whatever classes: the highest is decided first, and the next on
    /// what that has left. Ids 0, 1, 2 and so on are fastest; others matter only to a policy with
    /// a memory.
    pub requests: &'a [Request],
    /// Statistics of the traffic.
    pub traffic: Traffic,
    /// Tokens that an admission must leave free for the admitted request's own growth.
    pub request_growth_tokens: u32,
    /// Projected loads.
    pub projection: Option<Projection<'a>>,
    /// Predicted completions.
    pub ends: Option<PredictedEnds<'a>>,
    /// Bonuses and eligibility of pairs.
    pub pairs: Pairs<'a>,
    /// Survival classes over the projection's horizon.
    pub classes: Option<SurvivalClasses<'a>>,
}

impl<'a> Step<'a> {
    /// A step of which nothing else is known.
    #[must_use]
    pub fn new(workers: &'a [Worker], requests: &'a [Request]) -> Self {
        Self {
            workers,
            requests,
            traffic: Traffic::new(),
            request_growth_tokens: 0,
            projection: None,
            ends: None,
            pairs: Pairs::default(),
            classes: None,
        }
    }

    /// Sets the statistics of the traffic.
    #[must_use]
    pub fn traffic(self, traffic: Traffic) -> Self {
        Self { traffic, ..self }
    }

    /// Sets the tokens left free for each admitted request's own growth.
    #[must_use]
    pub fn request_growth(self, request_growth_tokens: u32) -> Self {
        Self { request_growth_tokens, ..self }
    }

    /// Sets projected loads, a row of `horizon + 1` for each worker.
    #[must_use]
    pub fn projection(self, horizon: usize, rows: &'a [u64]) -> Self {
        Self { projection: Some(Projection { horizon, rows }), ..self }
    }

    /// Sets predicted completions.
    #[must_use]
    pub fn ends(self, ends: PredictedEnds<'a>) -> Self {
        Self { ends: Some(ends), ..self }
    }

    /// Sets bonuses and eligibility of pairs.
    #[must_use]
    pub fn pairs(self, pairs: Pairs<'a>) -> Self {
        Self { pairs, ..self }
    }

    /// Sets survival classes, a row of `horizon + 1` probabilities for each.
    #[must_use]
    pub fn classes(self, rows: &'a [f32]) -> Self {
        Self { classes: Some(SurvivalClasses { rows }), ..self }
    }

    /// The batch of those who stand in the pool's window.
    fn batch<'b>(
        &self,
        pool: &'b Pool,
        workers: &'b [Worker],
        projection: Option<Projection<'b>>,
    ) -> Result<Batch<'b>, BatchError>
    where
        'a: 'b,
    {
        let mut draft = Batch::draft(workers, pool)
            .traffic(self.traffic)
            .request_growth(self.request_growth_tokens)
            .pairs(self.pairs);
        if let Some(Projection { horizon, rows }) = projection {
            draft = draft.projection(horizon, rows);
        }
        if let Some(ends) = self.ends {
            draft = draft.ends(ends);
        }
        if let Some(SurvivalClasses { rows }) = self.classes {
            draft = draft.classes(rows);
        }
        draft.check()
    }
}

/// The buffers of one decision at a time, without the policy: for callers whose policy is shared and locked
/// elsewhere.
#[derive(Clone, Debug)]
pub struct Workspace {
    pool: Pool,
    assignment: Assignment,
    /// The row of each who is admitted.
    rows: Vec<u32>,
    // Where several classes wait: the workers and what is projected for them as those before have left them,
    // and the answer for one class.
    workers: Vec<Worker>,
    projected: Vec<u64>,
    of_class: Assignment,
}

impl Workspace {
    /// Buffers for decisions of a policy, which says how many of the oldest it looks at.
    #[must_use]
    pub fn for_policy(policy: &dyn Policy) -> Self {
        Self::with_window(policy.needs().candidate_window.unwrap_or(CANDIDATE_WINDOW))
    }

    /// Buffers for decisions among so many of the oldest who may enter a worker.
    #[must_use]
    pub fn with_window(candidates: usize) -> Self {
        Self {
            pool: Pool::with_window(candidates),
            assignment: Assignment::new(),
            rows: Vec::new(),
            workers: Vec::new(),
            projected: Vec::new(),
            of_class: Assignment::new(),
        }
    }

    /// Checks a step and has `decide` decide it, class by class where requests of several wait; where it
    /// answers an error nothing is decided.
    ///
    /// # Errors
    /// The first inconsistency of the step, or what `decide` answers.
    pub fn decide<'a, E: From<BatchError>>(
        &'a mut self,
        step: &Step<'a>,
        mut decide: impl FnMut(&Batch<'_>, &mut Assignment) -> Result<(), E>,
    ) -> Result<Decision<'a>, E> {
        self.pool.refill(step.requests)?;
        self.rows.clear();
        let has_classes = self.pool.has_classes();
        if has_classes {
            self.decide_classes(step, &mut decide)?;
        }
        let Self { pool, assignment, rows, .. } = self;
        pool.look_past_shut(step.workers, step.request_growth_tokens, step.pairs.eligible);
        let batch = step.batch(pool, step.workers, step.projection)?;
        if !has_classes {
            decide(&batch, assignment)?;
            rows.extend(assignment.admitted.iter().map(|admission| pool.row_of(admission.slot) as u32));
        }
        Ok(Decision { batch, assignment, rows })
    }

    /// Decides one class after the other, the highest first, each on what those before it have left.
    fn decide_classes<E: From<BatchError>>(
        &mut self,
        step: &Step<'_>,
        decide: &mut impl FnMut(&Batch<'_>, &mut Assignment) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { pool, assignment, rows, workers, projected, of_class } = self;
        let mut class = None;
        // Everybody is checked before anybody is decided.
        while pool.turn_below(class) {
            class = Some(pool.priority());
            step.batch(pool, step.workers, step.projection)?;
        }
        workers.clear();
        workers.extend_from_slice(step.workers);
        projected.clear();
        projected.extend_from_slice(step.projection.map_or(&[], |projection| projection.rows));
        assignment.clear();
        class = None;
        while pool.turn_below(class) {
            pool.look_past_shut(workers, step.request_growth_tokens, step.pairs.eligible);
            let projection = step.projection.map(|of| Projection { rows: &projected[..], ..of });
            let batch = step.batch(pool, workers, projection)?;
            decide(&batch, of_class)?;
            if class.is_none() {
                assignment.before = of_class.before;
            }
            class = Some(pool.priority());
            assignment.after = of_class.after;
            (assignment.passed_over, assignment.max_passed) = (of_class.passed_over, of_class.max_passed);
            rows.extend(of_class.admitted.iter().map(|admission| pool.row_of(admission.slot) as u32));
            of_class.carry_into(workers, projected, step.request_growth_tokens);
            assignment.admitted.extend_from_slice(&of_class.admitted);
        }
        pool.turn_below(None);
        Ok(())
    }
}

/// Who is admitted, in rows of the [`Step`]. It lives in the buffers until the next call.
#[derive(Clone, Copy, Debug)]
#[must_use = "it says who enters which worker"]
pub struct Decision<'a> {
    batch: Batch<'a>,
    assignment: &'a Assignment,
    rows: &'a [u32],
}

impl<'a> Decision<'a> {
    /// Who enters which worker, in the order of decision: the row of the request, and its admission.
    pub fn admissions(&self) -> impl ExactSizeIterator<Item = (usize, &'a Admission)> + use<'a> {
        let rows = self.rows.iter().map(|&row| row as usize);
        rows.zip(&self.assignment.admitted)
    }

    /// Why each row waits, none for the admitted. It costs nothing when it is not asked for.
    #[must_use]
    pub fn reasons(&self) -> Vec<Option<WaitReason>> {
        let mut waits = vec![true; self.batch.pool().len()];
        for (row, _) in self.admissions() {
            waits[row] = false;
        }
        // Rows are in order of arrival, as reasons are.
        let mut reasons = self.assignment.waiting(&self.batch).map(|(_, reason)| reason);
        waits.into_iter().map(|waits| if waits { reasons.next() } else { None }).collect()
    }

    /// How level the loads were before the admissions.
    #[must_use]
    pub fn before(&self) -> Balance {
        self.assignment.before
    }

    /// How level they are after them.
    #[must_use]
    pub fn after(&self) -> Balance {
        self.assignment.after
    }

    /// The step as it was decided; where requests of several classes wait, that of the highest.
    #[must_use]
    pub fn batch(&self) -> &Batch<'a> {
        &self.batch
    }

    /// The answer of the policy, for all classes: a slot is that of the request in the batch of its class.
    #[must_use]
    pub fn assignment(&self) -> &'a Assignment {
        self.assignment
    }
}

/// A policy and its buffers: decides step after step, fastest when it is used again.
///
/// One step gives one answer, whatever was decided before, unless the policy has a memory. Nothing is
/// allocated once it has seen its largest sizes, unless reasons are asked for.
pub struct Assigner {
    policy: Box<dyn Policy>,
    workspace: Workspace,
}

impl Assigner {
    /// An assigner that decides by the policy of this name ([`policy::NAMES`]).
    ///
    /// # Errors
    /// What [`policy::build`] refuses.
    pub fn new(name: &str, parameters: &Parameters) -> Result<Self, PolicyError> {
        Ok(Self::with_policy(policy::build(name, parameters)?))
    }

    /// An assigner that decides by a policy of the caller's.
    #[must_use]
    pub fn with_policy(policy: Box<dyn Policy>) -> Self {
        let workspace = Workspace::for_policy(policy.as_ref());
        Self { policy, workspace }
    }

    /// The policy that decides.
    #[must_use]
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// Decides a step. Of more requests than the policy's window it chooses among the oldest who may enter a
    /// worker.
    ///
    /// # Errors
    /// The first inconsistency of the step.
    ///
    /// # Panics
    /// Where a policy of the caller's does; the next call begins anew.
    pub fn assign<'a>(&'a mut self, step: &Step<'a>) -> Result<Decision<'a>, BatchError> {
        self.assign_if(step, |_| Ok(()))
    }

    /// Decides a step unless `agrees` refuses the batch, which is checked by then: for answers with room for
    /// so many.
    ///
    /// # Errors
    /// The first inconsistency of the step, or what `agrees` answers.
    ///
    /// # Panics
    /// As [`Assigner::assign`].
    pub fn assign_if<'a, E: From<BatchError>>(
        &'a mut self,
        step: &Step<'a>,
        agrees: impl FnOnce(&Batch<'_>) -> Result<(), E>,
    ) -> Result<Decision<'a>, E> {
        let (policy, mut agrees) = (&mut self.policy, Some(agrees));
        self.workspace.decide(step, |batch, out| {
            agrees.take().map_or(Ok(()), |agrees| agrees(batch))?;
            policy.decide(batch, out);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assigner_answers_in_rows_and_what_a_batch_answers() {
        let workers = [Worker::new(900, 3, 1), Worker::new(500, 2, 2), Worker::new(100, 1, 1).draining()];
        let requests: Vec<Request> =
            (0..6u64).map(|at| Request::new(90 - at, 100 + 10 * at as u32)).collect();
        let mut assigner = Assigner::new("level", &Parameters::default()).unwrap();
        // A second call begins anew.
        for _ in 0..2 {
            let decision = assigner.assign(&Step::new(&workers, &requests)).unwrap();
            let reasons = decision.reasons();
            assert_eq!((decision.admissions().len(), reasons.len()), (3, 6));
            for (row, admission) in decision.admissions() {
                assert_eq!((requests[row].id, reasons[row]), (admission.id, None));
            }
            let waits = Some(WaitReason::NoSlot);
            assert_eq!(reasons.iter().filter(|&&reason| reason == waits).count(), 3);

            let pool = Pool::from_requests(&requests).unwrap();
            let batch = Batch::draft(&workers, &pool).check().unwrap();
            let mut expected = Assignment::new();
            policy::build("level", &Parameters::default()).unwrap().decide(&batch, &mut expected);
            assert_eq!(decision.assignment(), &expected);
            assert_eq!((decision.before(), decision.after()), (expected.before, expected.after));
        }
    }

    #[test]
    fn after_a_panic_of_a_policy_the_next_call_begins_anew() {
        /// Panics where more than one waits, once half of its answer is written.
        struct Panics;
        impl Policy for Panics {
            fn name(&self) -> &'static str {
                "panics"
            }
            fn needs(&self) -> crate::Needs {
                crate::Needs::new()
            }
            fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
                out.clear();
                let (slot, request, _) = batch.waiting().iter().next().unwrap();
                let (id, prompt_tokens) = (request.id, request.prompt_tokens);
                let worker = crate::WorkerIndex(0);
                out.admitted.push(Admission { id, slot, worker, prompt_tokens, score_tokens: 0.0 });
                assert!(batch.waiting().len() == 1, "too many");
            }
        }
        let (workers, requests) = ([Worker::new(0, 0, 2)], [Request::new(7, 5), Request::new(8, 5)]);
        let mut assigner = Assigner::with_policy(Box::new(Panics));
        let both = std::panic::AssertUnwindSafe(|| assigner.assign(&Step::new(&workers, &requests)).is_ok());
        assert!(std::panic::catch_unwind(both).is_err());
        let decision = assigner.assign(&Step::new(&workers, &requests[1..])).unwrap();
        let admitted: Vec<_> = decision.admissions().map(|(row, admission)| (row, admission.id.0)).collect();
        assert_eq!(admitted, [(0, 8)]);
    }

    #[test]
    fn what_is_refused_is_not_decided() {
        let (workers, requests) = ([Worker::new(0, 0, 1)], [Request::new(1, 5)]);
        let mut assigner = Assigner::new("level", &Parameters::default()).unwrap();
        assert_eq!(assigner.assign(&Step::new(&[], &requests)).unwrap_err(), BatchError::NoWorkers);
        let step = Step::new(&workers, &requests);
        let refused = assigner.assign_if(&step, |_| Err(BatchError::NoWorkers));
        assert_eq!(refused.unwrap_err(), BatchError::NoWorkers);
        assert_eq!(assigner.assign(&step).unwrap().admissions().len(), 1);
        let half = step.classes(&[0.5]).projection(2, &[1]);
        assert!(matches!(assigner.assign(&half), Err(BatchError::Length { .. })));
    }
}

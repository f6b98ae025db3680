//! Why a decision fell as it did. Costs nothing unless switched on.

use crate::assignment::{Assignment, WaitReason};
use crate::batch::{Batch, Worker};
use crate::ids::{RequestId, WorkerId};
use crate::policy::Policy;
use crate::router::{Call, Router};

/// How it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Admitted by the last step.
    Step,
    /// Placed on arrival since the last step.
    Arrival,
    /// It waits.
    Waits(WaitReason),
}

/// The worker that came second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunnerUp {
    /// Worker id.
    pub worker: WorkerId,
    /// The request's score there, in tokens.
    pub score_tokens: f64,
}

/// One decision explained.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// Request id.
    pub id: RequestId,
    /// How it was decided, or why it waits.
    pub decided: Decided,
    /// The worker that it entered, or claims while it waits.
    pub worker: Option<WorkerId>,
    /// The score that won, in tokens, after the picks before it.
    pub score_tokens: f64,
    /// Its score on that worker as the step began, to compare with the runner-up; NaN for a policy that
    /// scores no pairs.
    pub opening_score_tokens: f64,
    /// The best other worker with a free slot and room as the step began, if there was one and the policy
    /// scores pairs.
    pub runner_up: Option<RunnerUp>,
    /// Tokens by which the worker was below the most loaded one as the step began (the envelope's margin).
    pub margin_tokens: f64,
    /// KV tokens that it had to leave free on that worker, where its cache is bounded, for those who ran
    /// there to grow by as the step began; zero while it waits.
    pub kv_growth_tokens: u64,
    /// Steps that it has waited, while it waits.
    pub waited_steps: u32,
    /// How many of its class that came later have been admitted before it, to workers that it may use.
    pub passed: u32,
    /// Its class.
    pub priority: i8,
}

impl Explanation {
    /// By how many tokens the worker beat the runner-up as the step began. Negative when picks before this
    /// one changed the order.
    #[must_use]
    pub fn lead_tokens(&self) -> Option<f64> {
        self.runner_up.map(|second| self.opening_score_tokens - second.score_tokens)
    }
}

/// Placements on arrival between two steps that are kept to be explained.
const KEPT: usize = 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct Explainer {
    pub(super) on: bool,
    /// Scores of every pair as the step begins, row by row in arrival order.
    scores: Vec<f64>,
    scored: bool,
    /// Row of each pool slot.
    row_of: Vec<u32>,
    passed_by_row: Vec<u32>,
    /// The class that is decided.
    priority: i8,
    explained: Vec<Explanation>,
    /// Of the decision under way.
    fresh: Vec<Explanation>,
    /// The oldest placement, once as many are kept as may be.
    oldest: usize,
}

impl Explainer {
    pub(super) fn clear(&mut self) {
        self.explained.clear();
        self.fresh.clear();
        self.oldest = 0;
        self.scored = false;
    }

    /// A decision begins that may yet fail.
    pub(super) fn begin(&mut self) {
        self.fresh.clear();
    }

    /// It stands: what was explained before it goes.
    pub(super) fn keep(&mut self) {
        std::mem::swap(&mut self.explained, &mut self.fresh);
        self.oldest = 0;
    }

    /// As a window is decided.
    pub(super) fn look(&mut self, policy: &mut dyn Policy, batch: &Batch<'_>) {
        if !self.on {
            return;
        }
        self.scores.clear();
        self.scored = policy.score_into(batch, &mut self.scores);
        self.row_of.clear();
        self.row_of.resize(batch.waiting().slot_bound(), 0);
        self.passed_by_row.clear();
        self.priority = batch.pool().priority();
        for (row, (slot, ..)) in batch.waiting().iter().enumerate() {
            self.row_of[slot.index()] = row as u32;
            self.passed_by_row.push(batch.waiting().passed(slot));
        }
    }

    /// When it has been decided and nothing has changed yet.
    pub(super) fn explain(&mut self, workers: &[Worker], ids: &[WorkerId], assignment: &Assignment) {
        if !self.on {
            return;
        }
        for admission in &assignment.admitted {
            let chosen = admission.worker.index();
            let from = self.row_of[admission.slot.index()] as usize * workers.len();
            let scores = if self.scored { &self.scores[from..from + workers.len()] } else { &[] };
            let second = (0..scores.len())
                .filter(|&g| g != chosen && workers[g].open_slots() > 0 && scores[g] > f64::NEG_INFINITY)
                .max_by(|&a, &b| {
                    let lighter = workers[b].load_tokens.cmp(&workers[a].load_tokens);
                    scores[a].total_cmp(&scores[b]).then(lighter).then(b.cmp(&a))
                });
            self.fresh.push(Explanation {
                id: admission.id,
                decided: Decided::Step,
                worker: Some(ids[chosen]),
                score_tokens: admission.score_tokens,
                opening_score_tokens: scores.get(chosen).copied().unwrap_or(f64::NAN),
                runner_up: second.map(|g| RunnerUp { worker: ids[g], score_tokens: scores[g] }),
                margin_tokens: margin_tokens(workers, chosen),
                kv_growth_tokens: workers[chosen].kv_growth_tokens,
                waited_steps: 0,
                passed: self.passed_by_row[self.row_of[admission.slot.index()] as usize],
                priority: self.priority,
            });
        }
    }

    /// A placement on arrival.
    pub(super) fn placed(&mut self, explanation: impl FnOnce() -> Explanation) {
        if !self.on {
            return;
        }
        if self.explained.len() < KEPT {
            self.explained.push(explanation());
        } else {
            self.oldest %= self.explained.len();
            self.explained[self.oldest] = explanation();
            self.oldest += 1;
        }
    }
}

/// Tokens by which a worker is below the most loaded one, by the cost of a token on it.
pub(super) fn margin_tokens(workers: &[Worker], place: usize) -> f64 {
    let cost = |worker: &Worker| worker.load_tokens as f64 * f64::from(worker.weight);
    let envelope = workers.iter().map(cost).fold(0.0, f64::max);
    let weight = f64::from(workers[place].weight);
    if weight > 0.0 { (envelope - cost(&workers[place])) / weight } else { envelope }
}

impl Router {
    /// Keeps what [`Router::explain`] tells about admissions, from the next decision on. A step then scores
    /// every pair once more; decisions stay the same.
    pub fn set_explaining(&mut self, on: bool) {
        self.explainer.on = on;
        self.explainer.clear();
        self.record_call(&(), || Call::SetExplaining { on });
    }

    /// Whether that is kept.
    #[must_use]
    pub fn is_explaining(&self) -> bool {
        self.explainer.on
    }

    /// Why a request was admitted by the last step or placed since, where that is kept
    /// ([`Router::set_explaining`]), or why it waits as things stand, always. None for a request that neither
    /// waits nor was decided lately.
    #[must_use]
    pub fn explain(&self, id: impl Into<RequestId>) -> Option<Explanation> {
        let id = id.into();
        if let Some((slot, request, waited_steps)) = self.pool.find(id) {
            let claimed = self.claimed().filter(|claimed| claimed.id == id);
            return Some(Explanation {
                id,
                decided: Decided::Waits(self.reasons().of(slot, &request)),
                worker: claimed.map(|claimed| self.ids[claimed.worker]),
                score_tokens: f64::NAN,
                opening_score_tokens: f64::NAN,
                runner_up: None,
                margin_tokens: f64::NAN,
                kv_growth_tokens: 0,
                waited_steps,
                passed: request.passed,
                priority: request.priority,
            });
        }
        self.explainer.explained.iter().rev().find(|explained| explained.id == id).copied()
    }
}

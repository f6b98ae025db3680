//! Steps of a run as they were before they were decided, and what was made of them.

use balanceroute::Router;

use crate::cluster::{Observer, StepSeen};

/// What a step could be decided on: workers with a slot, and who waits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// Of each worker its KV tokens and the cost of one, relative to a uniform cluster's.
    pub loads: Vec<Load>,
    /// Those that may take somebody.
    pub open: Vec<Open>,
    /// Id and prompt of everybody who waits.
    pub waiting: Vec<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub tokens: u64,
    pub weight: f64,
}

/// A worker with open slots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Open {
    pub worker: usize,
    pub slots: u32,
    /// KV tokens that fit there, growth not counted, where that is bounded.
    pub room_tokens: Option<u64>,
}

impl State {
    fn of(router: &Router) -> Self {
        let workers = router.workers();
        let open = workers.iter().enumerate().filter(|(_, worker)| worker.open_slots() > 0);
        Self {
            loads: workers
                .iter()
                .map(|worker| Load { tokens: worker.load_tokens, weight: f64::from(worker.weight) })
                .collect(),
            open: open
                .map(|(place, worker)| Open {
                    worker: place,
                    slots: worker.open_slots(),
                    room_tokens: worker
                        .kv_capacity_tokens
                        .map(|capacity| capacity.saturating_sub(worker.kv_used_tokens)),
                })
                .collect(),
            waiting: router
                .pool()
                .iter()
                .map(|(request, _)| (request.id.get(), request.prompt_tokens))
                .collect(),
        }
    }

    /// Pairs of somebody who waits and a worker that may take them.
    pub(crate) fn pairs(&self) -> usize {
        self.open.len() * self.waiting.len()
    }

    /// The workers' costs once these have entered, in tokens.
    fn costs_after(&self, admissions: &[(u64, u32)]) -> Vec<f64> {
        let mut loads = self.loads.clone();
        for &(id, worker) in admissions {
            let tokens = self.waiting.iter().find(|of| of.0 == id).map_or(0, |of| of.1);
            loads[worker as usize].tokens += u64::from(tokens);
        }
        loads.iter().map(|load| load.tokens as f64 * load.weight).collect()
    }

    /// The greatest of them.
    pub(crate) fn envelope_after(&self, admissions: &[(u64, u32)]) -> f64 {
        self.costs_after(admissions).into_iter().fold(0.0, f64::max)
    }

    /// `G * max - sum` of them.
    pub(crate) fn imbalance_after(&self, admissions: &[(u64, u32)]) -> f64 {
        let costs = self.costs_after(admissions);
        let greatest = costs.iter().copied().fold(0.0, f64::max);
        costs.iter().map(|cost| greatest - cost).sum()
    }
}

/// A step with admissions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub state: State,
    /// Request and worker of everybody who entered.
    pub admissions: Vec<(u64, u32)>,
}

/// Keeps decisions of a run, evenly over its measured steps: up to twice as many as are asked for, however
/// long it is.
pub(crate) struct Sampler {
    asked: usize,
    most_pairs: usize,
    /// Every so-manyth decision is kept.
    every: u64,
    decisions: u64,
    /// The step that is decided next, where it is one to keep; none inside where it is too large.
    state: Option<Option<State>>,
    /// With the count of the decision, from 0.
    kept: Vec<(u64, Decision)>,
    /// Kept ones of more pairs than are solved.
    too_large: Vec<u64>,
}

impl Sampler {
    /// `most_pairs` of requests and open workers: beyond, a decision counts as too large to be solved.
    pub(crate) fn new(asked: usize, most_pairs: usize) -> Self {
        let (kept, too_large) = (Vec::new(), Vec::new());
        Self { asked, most_pairs, every: 1, decisions: 0, state: None, kept, too_large }
    }

    /// The decisions in order, and how many beside them are too large.
    pub(crate) fn into_decisions(self) -> (Vec<Decision>, usize) {
        let decisions = self.kept.into_iter().map(|(_, decision)| decision).collect();
        (decisions, self.too_large.len())
    }

    /// The step that is played next, as it is before.
    pub(super) fn show(&mut self, state: State) {
        self.state = Some(Some(state).filter(|state| state.pairs() <= self.most_pairs));
    }

    fn thin_out(&mut self) {
        while self.kept.len() + self.too_large.len() >= (2 * self.asked).max(2) {
            self.every *= 2;
            self.kept.retain(|&(at, _)| at.is_multiple_of(self.every));
            self.too_large.retain(|at| at.is_multiple_of(self.every));
        }
    }
}

impl Observer for Sampler {
    fn decides(&mut self, router: &Router) {
        self.state = None;
        if self.decisions.is_multiple_of(self.every) && !router.pool().is_empty() {
            // A million who wait are not copied to be thrown away.
            let open = router.workers().iter().filter(|worker| worker.open_slots() > 0).count();
            if open * router.pool().len() > self.most_pairs {
                self.state = Some(None);
            } else {
                self.show(State::of(router));
            }
        }
    }

    fn step(&mut self, step: StepSeen<'_>) {
        if !step.measured || step.admissions.is_empty() {
            return;
        }
        let at = self.decisions;
        self.decisions += 1;
        let due = at.is_multiple_of(self.every);
        let Some(state) = self.state.take().filter(|_| due) else { return };
        match state {
            Some(state) => self.kept.push((at, Decision { state, admissions: step.admissions.to_vec() })),
            None => self.too_large.push(at),
        }
        self.thin_out();
    }
}

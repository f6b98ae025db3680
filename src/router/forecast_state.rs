//! Keeps predictions of running requests current; only there when the policy needs them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::account::{Active, Slab};
use crate::batch::PredictedEnd;
use crate::forecast::projection::{EventBuckets, Node};
use crate::forecast::{Running, Termination, TerminationClassifier};
use crate::ids::{RequestId, WorkerIndex};
use crate::policy::Needs;
use crate::router::RouterConfig;
use crate::router::error::message_of;
#[cfg(feature = "record")]
use crate::router::state::Foreseen;

/// A classifier that has panicked is not asked again: nothing is predicted then.
enum Fault {
    None,
    /// What it said, until a step tells.
    Untold(String),
    Told,
}

pub(super) struct ForecastState {
    /// May be anybody's: only [`ForecastState::ask`] calls it.
    classifier: Box<dyn TerminationClassifier>,
    fault: Fault,
    pub buckets: EventBuckets,
    pub needs: Needs,
    /// Running requests by the step, modulo the refresh, at which they are predicted again.
    phases: Vec<Vec<u32>>,
    due: Vec<u32>,
    passed: Vec<u32>,
    /// Predictions before the decision under way.
    before: Vec<(u32, Node)>,
    pub rows: Vec<u64>,
    pub offsets: Vec<u32>,
    pub ends: Vec<PredictedEnd>,
}

impl ForecastState {
    pub(super) fn new(
        classifier: Box<dyn TerminationClassifier>,
        needs: Needs,
        config: &RouterConfig,
    ) -> Self {
        let window = needs
            .projection_horizon
            .map_or(config.ends_horizon_steps, |horizon| horizon as u32)
            .saturating_add(config.refresh_steps);
        Self {
            classifier,
            fault: Fault::None,
            buckets: EventBuckets::new(config.workers.len(), window.clamp(1, 1 << 16)),
            needs,
            phases: vec![Vec::new(); config.refresh_steps as usize],
            due: Vec::new(),
            passed: Vec::new(),
            before: Vec::new(),
            rows: Vec::new(),
            offsets: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn ask<T>(&mut self, otherwise: T, ask: impl FnOnce(&mut dyn TerminationClassifier) -> T) -> T {
        if !matches!(self.fault, Fault::None) {
            return otherwise;
        }
        let classifier = self.classifier.as_mut();
        catch_unwind(AssertUnwindSafe(|| ask(classifier))).unwrap_or_else(|panic| {
            self.fault = Fault::Untold(message_of(panic.as_ref()));
            otherwise
        })
    }

    /// What the classifier said when it panicked, once.
    pub(super) fn panic(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.fault, Fault::Told) {
            Fault::Untold(message) => Some(message),
            fault => {
                self.fault = fault;
                None
            }
        }
    }

    pub(super) fn finished(&mut self, request: &Running) {
        self.ask((), |classifier| classifier.finished(request));
    }

    pub(super) fn aborted(&mut self, id: RequestId) {
        self.ask((), |classifier| classifier.aborted(id));
    }

    pub(super) fn told(&mut self, id: RequestId, output_tokens: u32) {
        self.ask((), |classifier| classifier.told(id, output_tokens));
    }

    /// Nobody runs any more, and the classifier is asked again.
    pub(super) fn forget_running(&mut self, workers: usize) {
        self.fault = Fault::None;
        self.buckets = EventBuckets::new(workers, self.buckets.window_steps());
        self.phases.iter_mut().for_each(Vec::clear);
        self.due.clear();
        self.passed.clear();
        self.before.clear();
    }

    /// What is foreseen.
    #[cfg(feature = "record")]
    pub(super) fn foreseen(&self) -> Foreseen {
        Foreseen {
            buckets: self.buckets.clone(),
            phases: self.phases.clone(),
            due: self.due.clone(),
            passed: self.passed.clone(),
            memory: self.classifier.memory(),
        }
    }

    /// Takes the place of the one that has foreseen this, if it is built alike.
    #[cfg(feature = "record")]
    pub(super) fn go_on_from(&mut self, foreseen: Foreseen) -> Option<()> {
        let Foreseen { buckets, phases, due, passed, memory } = foreseen;
        (self.buckets, self.phases, self.due, self.passed) = (buckets, phases, due, passed);
        self.classifier.recall(&memory).then_some(())
    }

    /// A request begins to run; `place` is the dense index of its worker.
    pub(super) fn begin(&mut self, slab: &mut Slab, index: u32, place: usize, generated: u32) {
        let phase = slab.entries[index as usize].born_step.rem_euclid(self.phases.len() as i64) as u32;
        let list = &mut self.phases[phase as usize];
        slab.entries[index as usize].phase = phase;
        slab.entries[index as usize].phase_at = list.len() as u32;
        list.push(index);
        self.predict(index, &slab.entries[index as usize], place, generated);
    }

    /// A request has left the slab, or does not grow for a while.
    pub(super) fn end(&mut self, slab: &mut Slab, index: u32) {
        self.buckets.remove(index);
        let Active { phase, phase_at, .. } = slab.entries[index as usize];
        let list = &mut self.phases[phase as usize];
        list.swap_remove(phase_at as usize);
        if let Some(&moved) = list.get(phase_at as usize) {
            slab.entries[moved as usize].phase_at = phase_at;
        }
    }

    /// The step clock moves on.
    pub(super) fn advance(&mut self, steps: u64, running: usize) {
        let within = u64::from(self.buckets.window_steps()) + 64;
        for _ in 0..steps.min(within) {
            self.buckets.advance(&mut self.passed);
            // Nobody decides for a long time: the same requests pass again and again.
            if self.due.len() <= 2 * running {
                self.due.append(&mut self.passed);
            }
        }
        self.buckets.skip(steps.saturating_sub(within));
    }

    fn predict(&mut self, index: u32, active: &Active, place: usize, generated: u32) {
        let running = Running {
            id: active.request.id,
            prompt_tokens: active.request.prompt_tokens,
            prompt_hash: active.request.prompt_hash,
            generated_tokens: generated,
        };
        // The window reaches past the horizon by a refresh, so that an end is known before the horizon comes
        // to it.
        let horizon = self.buckets.window_steps();
        let in_steps = if self.needs.projection_horizon.is_some() {
            let termination = self
                .ask(Termination::NEVER, |classifier| classifier.predict(&running, horizon))
                .in_range(horizon);
            let counted = termination.counted_steps(horizon).round() as u32;
            // Counted over the whole window: unless it is expected to end with it, it is taken to go on.
            (counted < horizon || termination.probability >= 0.5).then_some(counted)
        } else {
            self.ask(None, |classifier| classifier.end_in(&running, horizon))
        };
        let kv_tokens = u64::from(active.request.prompt_tokens) + u64::from(generated);
        self.buckets.set(index, WorkerIndex::at(place), kv_tokens, in_steps);
    }

    /// Predicts again whose turn it is, and who should have ended and has not, for a decision that may yet
    /// fail. `locate` gives a request's dense worker index and generated tokens.
    pub(super) fn refresh(&mut self, slab: &Slab, now: i64, locate: impl Fn(&Active) -> (usize, u32)) {
        self.before.clear();
        let phase = now.rem_euclid(self.phases.len() as i64) as usize;
        let (due, phased) = (std::mem::take(&mut self.due), std::mem::take(&mut self.phases[phase]));
        for &index in due.iter().chain(&phased) {
            let active = &slab.entries[index as usize];
            // Whoever does not grow is not on its way to an end.
            if active.live && active.stage.grows() {
                self.before.extend(self.buckets.prediction(index).map(|before| (index, before)));
                let (place, generated) = locate(active);
                self.predict(index, active, place, generated);
            }
        }
        (self.due, self.phases[phase]) = (due, phased);
    }

    /// The decision stands.
    pub(super) fn keep(&mut self) {
        self.due.clear();
        self.before.clear();
    }

    /// It has failed: the predictions are those of before.
    pub(super) fn undo(&mut self) {
        while let Some((index, before)) = self.before.pop() {
            self.buckets.restore(index, before);
        }
    }
}

//! What waiting is worth, and when a request has waited long enough to go first.

use crate::batch::{Batch, MAX_WAITED_STEPS};

/// The mean wait that the traffic implies: `W = N * E[o] / (G * B)` steps (Little), at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MeanWait {
    pub steps: f64,
}

impl MeanWait {
    pub(crate) fn of(batch: &Batch<'_>) -> Self {
        let slots: u64 = batch
            .workers()
            .iter()
            .map(|worker| u64::from(worker.running) + u64::from(worker.free_slots))
            .sum();
        let waiting = batch.waiting().len() as f64;
        let steps = waiting * batch.traffic().mean_output_tokens as f64 / slots.max(1) as f64;
        Self { steps: steps.max(1.0) }
    }

    /// Steps after which a request is overdue; none before the first request has finished, for then nothing is known.
    pub(crate) fn overdue_steps(self, mean_waits: f64) -> Option<u32> {
        let steps = (self.steps * mean_waits).ceil();
        (self.steps > 1.0).then(|| steps.min(f64::from(MAX_WAITED_STEPS)) as u32)
    }
}

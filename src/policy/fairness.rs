//! What waiting is worth, and when a request has waited long enough to go first.

use crate::batch::{Batch, MAX_WAITED_STEPS};
use crate::rule::Overdue;

/// The mean wait that the traffic implies: `W = N * E[o] / (G * B)` steps (Little), at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MeanWait {
    pub steps: f64,
}

impl MeanWait {
    pub(crate) fn of(batch: &Batch<'_>) -> Self {
        let waiting = batch.pool().len() as f64;
        let steps = waiting * batch.traffic().mean_output_tokens as f64 / batch.slots().max(1) as f64;
        Self { steps: steps.max(1.0) }
    }

    /// When requests are overdue: never while the mean wait is at most a step, for then nothing is known yet
    /// or most enter at once.
    pub(crate) fn overdue(self, batch: &Batch<'_>, bound: &WaitBound) -> Overdue {
        let steps = |mean_waits: f64| {
            let steps = (self.steps * mean_waits).min(f64::from(MAX_WAITED_STEPS));
            // Rounds up without `ceil`, which is a call where the CPU's baseline lacks the instruction.
            let whole = steps as u32;
            (self.steps > 1.0).then_some(whole + u32::from(f64::from(whole) < steps))
        };
        let traffic = batch.traffic();
        let spread = (bound.giant_spreads * traffic.sd_prompt_tokens as f64) as i64;
        Overdue {
            steps: steps(bound.overdue_mean_waits),
            ordinary_tokens: traffic.mean_prompt_tokens + spread,
            giant_steps: steps(bound.giant_mean_waits),
        }
    }
}

/// How long a request may wait before it goes first.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WaitBound {
    /// Mean waits for requests of ordinary length, 1..=1e6; default 8 (a deadline near the mean wait ruins
    /// balance).
    pub overdue_mean_waits: f64,
    /// Standard deviations above the mean length up to which a length is ordinary, 0..=1e6; default 4.
    pub giant_spreads: f64,
    /// Mean waits for longer requests, 1..=1e6; default 32: on heavy tails an early deadline doubles the
    /// imbalance (measured).
    pub giant_mean_waits: f64,
}

impl Default for WaitBound {
    fn default() -> Self {
        Self { overdue_mean_waits: 8.0, giant_spreads: 4.0, giant_mean_waits: 32.0 }
    }
}

setters!(WaitBound { overdue_mean_waits: f64, giant_spreads: f64, giant_mean_waits: f64 });

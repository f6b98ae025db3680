//! When running requests end: predictions that a user may replace by their own, and what they project.
//!
//! A [`TerminationClassifier`] answers two questions about a running request: does it end within a horizon,
//! and if so when. [`projection`] turns the answers into projected loads and predicted ends, incrementally.

pub mod exact_match;
pub mod lifetimes;
pub mod oracle;
pub mod projection;
pub mod quality;
pub(crate) mod ruin;
pub mod survival;

pub use exact_match::ExactMatch;
pub use lifetimes::Lifetimes;
pub use oracle::{Noise, Oracle};
pub use survival::Survival;

use crate::ids::RequestId;
use crate::policy::Forecast;

/// A running request as a classifier sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Request id.
    pub id: RequestId,
    /// KV tokens that it brought.
    pub prompt_tokens: u32,
    /// Equal for equal prompts.
    pub prompt_hash: Option<u64>,
    /// Tokens generated so far; its output length when it has finished.
    pub generated_tokens: u32,
}

/// The two stages of a termination forecast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Termination {
    /// P(ends within the horizon), 0..=1.
    pub probability: f64,
    /// E[remaining steps | ends within the horizon]; at least 1 and at most the horizon.
    pub remaining_steps: f64,
}

impl Termination {
    /// It surely runs past the horizon.
    pub const NEVER: Self = Self { probability: 0.0, remaining_steps: 1.0 };

    /// The forecast with both fields in their ranges. What is no number says nothing: such a probability is
    /// 0, and such remaining steps are the whole horizon.
    #[must_use]
    pub fn in_range(self, horizon_steps: u32) -> Self {
        let within = |found: f64, low: f64, high: f64, otherwise: f64| {
            if found.is_nan() { otherwise } else { found.clamp(low, high) }
        };
        let horizon = f64::from(horizon_steps.max(1));
        Self {
            probability: within(self.probability, 0.0, 1.0, 0.0),
            remaining_steps: within(self.remaining_steps, 1.0, horizon, horizon),
        }
    }

    /// `(1 - p) * H + p * mu`, the estimate of E[min(remaining, H)] at which a request stops to count.
    #[must_use]
    pub fn counted_steps(&self, horizon_steps: u32) -> f64 {
        (1.0 - self.probability) * f64::from(horizon_steps) + self.probability * self.remaining_steps
    }
}

/// Predicts whether a running request ends within a horizon, and when.
///
/// A router asks over [`RouterConfig::refresh_steps`](crate::RouterConfig::refresh_steps) more than the
/// policy looks ahead ([`Needs::projection_horizon`](crate::Needs::projection_horizon), or
/// [`RouterConfig::ends_horizon_steps`](crate::RouterConfig::ends_horizon_steps)), at most over 65536 steps:
/// so an end is known before the policy's horizon comes to it.
pub trait TerminationClassifier: Send {
    /// The forecast for a running request over `horizon_steps`: a probability in 0..=1, and remaining steps
    /// in `1..=horizon_steps`. What lies outside is taken as the nearest that does not, and NaN as no
    /// prediction ([`Termination::in_range`]).
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination;

    /// The remaining steps where the classifier knows this request's end, not only how requests end on the
    /// whole; none past the horizon. Policies that level peaks ask this: a distribution that all requests
    /// share tells them nothing.
    fn end_in(&mut self, request: &Running, horizon_steps: u32) -> Option<u32> {
        let termination = self.predict(request, horizon_steps).in_range(horizon_steps);
        (termination.probability >= 0.5).then(|| termination.remaining_steps.round() as u32)
    }

    /// Learns from a finished request: `generated_tokens` is its output length.
    fn finished(&mut self, _request: &Running) {}

    /// Forgets a request that was given up.
    fn aborted(&mut self, _id: RequestId) {}

    /// Hears the true output length of a request. Only an oracle listens; a simulator tells it, an engine
    /// cannot.
    fn told(&mut self, _id: RequestId, _output_tokens: u32) {}

    /// What it has learned, for [`TerminationClassifier::recall`] of the same classifier elsewhere.
    #[cfg(feature = "record")]
    fn memory(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on from what another one has learned; false for bytes that are none of its
    /// [`TerminationClassifier::memory`].
    #[cfg(feature = "record")]
    #[must_use]
    fn recall(&mut self, memory: &[u8]) -> bool {
        memory.is_empty()
    }
}

/// The classifier that a policy's [`crate::policy::Needs`] names, with its defaults.
#[must_use]
pub fn classifier_for(forecast: Forecast) -> Box<dyn TerminationClassifier> {
    match forecast {
        Forecast::Survival => Box::new(Survival::new()),
        Forecast::ExactMatch => Box::new(ExactMatch::new()),
        Forecast::Oracle => Box::new(Oracle::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_out_of_its_ranges_is_the_nearest_in_them() {
        let in_range = |probability, remaining_steps| {
            let found = Termination { probability, remaining_steps }.in_range(20);
            (found.probability, found.remaining_steps)
        };
        assert_eq!(in_range(0.3, 7.5), (0.3, 7.5));
        assert_eq!(in_range(-0.5, 0.0), (0.0, 1.0));
        assert_eq!(in_range(7.5, 21.0), (1.0, 20.0));
        assert_eq!(in_range(f64::INFINITY, f64::NEG_INFINITY), (1.0, 1.0));
        assert_eq!(in_range(f64::NAN, f64::NAN), (0.0, 20.0));
    }
}

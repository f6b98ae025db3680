//! When running requests end: predictions that a user may replace by their own, and what they project.

/// A running request as a classifier sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Request id.
    pub id: u64,
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
    /// P(ends within the horizon).
    pub probability: f64,
    /// E[remaining steps | ends within the horizon]; at least 1 and at most the horizon.
    pub remaining_steps: f64,
}

impl Termination {
    /// `(1 - p) * H + p * mu`, the estimate of E[min(remaining, H)] at which a request stops to count.
    #[must_use]
    pub fn counted_steps(&self, horizon_steps: u32) -> f64 {
        (1.0 - self.probability) * f64::from(horizon_steps) + self.probability * self.remaining_steps
    }
}

/// Predicts whether a running request ends within a horizon, and when.
pub trait TerminationClassifier: Send {
    /// The forecast for a running request over `horizon_steps`.
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination;

    /// Learns from a finished request: `generated_tokens` is its output length.
    fn finished(&mut self, _request: &Running) {}
}

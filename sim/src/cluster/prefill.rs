//! What a prompt costs that is computed on the worker which it enters.
//!
//! Each such token holds its worker up for a fixed time, and in lock-step the worker with most of them holds
//! up everybody ([`StepCost`](super::StepCost)).
//!
//! Which tokens are computed there: with prefix caches the tokens of every admission that are not cached;
//! without them those of a preempted request that returns, its prompt and what it had generated, and where
//! prompts are computed on the worker ([`Prompts`](super::Prompts)) those of every admission. Else a first
//! admission has had its prefill elsewhere.

/// The tokens that each worker computes in a step.
#[derive(Clone, Debug)]
pub(crate) struct Prefill {
    us_per_token: f64,
    tokens: Vec<u64>,
}

impl Prefill {
    pub(crate) fn new(us_per_token: f64, workers: usize) -> Self {
        Self { us_per_token, tokens: vec![0; workers] }
    }

    pub(crate) fn add(&mut self, worker: u32, tokens: u64) {
        self.tokens[worker as usize] += tokens;
    }

    /// The time that this step's tokens take in ms: on the worker with most of them, and on average. The next
    /// step begins.
    pub(crate) fn take_ms(&mut self) -> (f64, f64) {
        let ms = |tokens: f64| tokens * self.us_per_token / 1e3;
        let most = self.tokens.iter().copied().max().unwrap_or(0);
        let mean = self.tokens.iter().sum::<u64>() as f64 / self.tokens.len().max(1) as f64;
        self.tokens.fill(0);
        (ms(most as f64), ms(mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_most_tokens_holds_up_the_step() {
        let mut prefill = Prefill::new(10.0, 4);
        prefill.add(2, 300);
        prefill.add(1, 500);
        prefill.add(2, 400);
        assert_eq!(prefill.take_ms(), (7.0, 3.0));
        assert_eq!(prefill.take_ms(), (0.0, 0.0));
    }
}

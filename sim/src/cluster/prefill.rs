//! What a prompt costs that is computed on the worker which it enters.
//!
//! Each such token holds its worker up for a fixed time `t_p`, and in lock-step the worker with most of them
//! holds up everybody:
//!
//! ```text
//! step time = C + t_l * max load + t_p * max over workers of (tokens computed there in this step)
//! ```
//!
//! Which tokens are computed there: with prefix caches the tokens of every admission that are not cached;
//! without them those of a preempted request that returns, its prompt and what it had generated. A first
//! admission has then had its prefill elsewhere.

/// Where the cache is not bounded: a KV transfer of 70 KB per token at 35 GB/s.
pub const TRANSFER_US_PER_TOKEN: f64 = 2.0;
/// Where the cache is bounded: prefill on the worker itself.
pub const PREFILL_US_PER_TOKEN: f64 = 10.0;

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

//! A worker as its engine sees it.

use super::limits::{MAX_LOAD_TOKENS, WEIGHT_ONE};

/// A decode worker (data-parallel rank) as the step begins.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Worker {
    /// KV tokens that its running requests read each step.
    pub load_tokens: u64,
    /// Requests decoding there now; each adds a token a step.
    pub running: u32,
    /// Free batch slots.
    pub free_slots: u32,
    /// KV tokens that fit, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// KV tokens held, at least what running requests hold.
    pub kv_used_tokens: u64,
    /// KV tokens by which running requests are predicted to grow and that an admission must leave free.
    pub kv_growth_tokens: u64,
    /// Relative step cost per token, 1 for a uniform cluster; resolved to 1/64, at least that.
    pub weight: f32,
    /// Whether it takes new requests; a draining worker still holds the step up.
    pub accepting: bool,
    /// Steps to its next predicted completion, if predicted.
    pub next_completion_steps: Option<u32>,
}

impl Worker {
    /// An accepting worker without a KV bound, weight 1.
    #[must_use]
    pub fn new(load_tokens: u64, running: u32, free_slots: u32) -> Self {
        Self {
            load_tokens,
            running,
            free_slots,
            kv_capacity_tokens: None,
            kv_used_tokens: load_tokens,
            kv_growth_tokens: 0,
            weight: 1.0,
            accepting: true,
            next_completion_steps: None,
        }
    }

    /// Bounds its KV cache; `None` takes the bound away.
    #[must_use]
    pub fn capacity(self, kv_capacity_tokens: impl Into<Option<u64>>) -> Self {
        Self { kv_capacity_tokens: kv_capacity_tokens.into(), ..self }
    }

    /// Sets the KV tokens held, where they are more than the load.
    #[must_use]
    pub fn kv_used(self, kv_used_tokens: u64) -> Self {
        Self { kv_used_tokens, ..self }
    }

    /// Sets the KV tokens to be left free for the growth of what runs.
    #[must_use]
    pub fn kv_growth(self, kv_growth_tokens: u64) -> Self {
        Self { kv_growth_tokens, ..self }
    }

    /// Sets the steps to its next predicted completion.
    #[must_use]
    pub fn next_completion(self, next_completion_steps: impl Into<Option<u32>>) -> Self {
        Self { next_completion_steps: next_completion_steps.into(), ..self }
    }

    /// Sets the relative step cost per token.
    #[must_use]
    pub fn weight(self, weight: f32) -> Self {
        Self { weight, ..self }
    }

    /// Stops new requests.
    #[must_use]
    pub fn draining(self) -> Self {
        self.accepting(false)
    }

    /// Sets whether it takes new requests.
    #[must_use]
    pub fn accepting(self, accepting: bool) -> Self {
        Self { accepting, ..self }
    }

    /// Cost units of one token where weights differ: the weight in units of 1/[`WEIGHT_ONE`], at least one.
    #[inline]
    #[must_use]
    pub fn cost_per_token(&self) -> i64 {
        ((f64::from(self.weight) * WEIGHT_ONE as f64).round() as i64).max(1)
    }

    /// Free slots that may be filled now.
    #[inline]
    #[must_use]
    pub fn open_slots(&self) -> u32 {
        if self.accepting { self.free_slots } else { 0 }
    }

    /// Takes a request in as it is admitted: it and its growth are there from now on.
    pub(crate) fn take(&mut self, tokens: u64, growth_tokens: u64) {
        self.free_slots = self.free_slots.saturating_sub(1);
        self.running += 1;
        self.load_tokens = (self.load_tokens + tokens).min(MAX_LOAD_TOKENS);
        self.kv_used_tokens = (self.kv_used_tokens + tokens).min(MAX_LOAD_TOKENS);
        if self.kv_capacity_tokens.is_some() {
            self.kv_growth_tokens = (self.kv_growth_tokens + growth_tokens).min(MAX_LOAD_TOKENS);
        }
    }

    /// Tokens that an admission may still take, growth of the running requests left free.
    #[inline]
    #[must_use]
    pub fn room_tokens(&self) -> i64 {
        match self.kv_capacity_tokens {
            Some(capacity) => capacity as i64 - self.kv_used_tokens as i64 - self.kv_growth_tokens as i64,
            None => i64::MAX / 4,
        }
    }
}

//! A worker as it is told of, and which part of it is ours.

use crate::batch::{BatchError, MAX_LOAD_TOKENS, MAX_SLOTS, MAX_WEIGHT};

/// One worker (data-parallel rank) as the whole cluster has it; a [`Share`] divides it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WorkerConfig {
    /// Batch slots: requests that decode there at once.
    pub slots: u32,
    /// KV tokens that fit, if bounded. A report may change it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub kv_capacity_tokens: Option<u64>,
    /// Relative step cost per token, 0..=64; 1 for a uniform cluster.
    #[cfg_attr(feature = "serde", serde(default = "one"))]
    pub weight: f32,
}

/// What room for growth costs and what a preemption costs, for where [`RouterConfig::headroom_steps`] is not
/// set: they say how rare preemptions are to be. Any unit of time, the same for both.
///
/// [`RouterConfig::headroom_steps`]: crate::RouterConfig::headroom_steps
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PreemptionCost {
    /// How long a decode step takes without load, in milliseconds, 0..=1e6.
    pub step_base_ms: f64,
    /// How long the prefill of a token takes that is done again, in microseconds, 0..=1e6.
    pub prefill_us_per_token: f64,
}

impl PreemptionCost {
    /// Greatest value of both.
    pub const MOST: f64 = 1e6;

    /// Both of them.
    #[must_use]
    pub const fn new(step_base_ms: f64, prefill_us_per_token: f64) -> Self {
        Self { step_base_ms, prefill_us_per_token }
    }
}

#[cfg(feature = "serde")]
fn one() -> f32 {
    1.0
}

impl WorkerConfig {
    /// Where room for growth is learned, no more of a KV cache than this part, in percent, is left free: past
    /// it a preemption is the lesser loss.
    pub const MOST_GROWTH_PERCENT: u64 = 6;

    /// A worker without a KV bound, weight 1.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self { slots, kv_capacity_tokens: None, weight: 1.0 }
    }

    /// Bounds its KV cache; `None` takes the bound away.
    #[must_use]
    pub fn capacity(self, kv_capacity_tokens: impl Into<Option<u64>>) -> Self {
        Self { kv_capacity_tokens: kv_capacity_tokens.into(), ..self }
    }

    /// Sets the relative step cost per token.
    #[must_use]
    pub fn weight(self, weight: f32) -> Self {
        Self { weight, ..self }
    }

    /// Checks every range; `index` goes into the error.
    pub(crate) fn check(&self, index: usize) -> Result<(), BatchError> {
        if self.slots > MAX_SLOTS {
            let found = u64::from(self.slots);
            return Err(BatchError::WorkerSlots { index, what: "slots", limit: MAX_SLOTS, found });
        }
        let capacity = self.kv_capacity_tokens.unwrap_or(0);
        if capacity > MAX_LOAD_TOKENS {
            let what = "KV capacity tokens";
            return Err(BatchError::WorkerTokens { index, what, limit: MAX_LOAD_TOKENS, found: capacity });
        }
        if !(0.0..=MAX_WEIGHT).contains(&self.weight) {
            return Err(BatchError::Weight { index, limit: MAX_WEIGHT, found: self.weight });
        }
        Ok(())
    }
}

/// Which part of every worker this router is sure of when several front ends feed the same workers.
///
/// Part `index` of `of` has `slots * (index + 1) / of - slots * index / of` of each worker's slots, but one
/// at least, and of its KV capacity likewise. It is no wall: front ends fill what they have freed themselves,
/// take parts of what reports show to be free, and turns at all of it; one that has more than its part of a
/// full worker gives way to those that have less. What all of them send together exceeds a worker by no more
/// than the others have sent since the report was measured that the last of them went by, and what of its own
/// has ended within that report's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Share {
    /// This front end, below `of`.
    pub index: u32,
    /// Number of front ends, 1..=1024.
    pub of: u32,
}

impl Share {
    /// One of several front ends.
    #[must_use]
    pub const fn new(index: u32, of: u32) -> Self {
        Self { index, of }
    }

    /// The only front end: everything is its own.
    pub const WHOLE: Self = Self { index: 0, of: 1 };
    pub(crate) const MOST: u32 = 1024;

    /// Its part of a quantity.
    #[must_use]
    pub fn part(self, whole: u64) -> u64 {
        if self.of <= 1 {
            return whole;
        }
        let of = u64::from(self.of);
        let (each, left) = (whole / of, whole % of);
        let upto = |count: u64| left * count / of;
        each + upto(u64::from(self.index) + 1) - upto(self.index.into())
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_front_ends_are_the_whole() {
        for of in [1, 2, 3, 7, 64] {
            for whole in [0u64, 1, 5, 72, 400_001] {
                let parts = (0..of).map(|index| Share { index, of }.part(whole));
                let (least, most) = (parts.clone().min().unwrap(), parts.clone().max().unwrap());
                assert_eq!(parts.sum::<u64>(), whole);
                assert!(most - least <= 1);
            }
        }
    }
}

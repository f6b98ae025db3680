//! What a router is told once: the workers, how it looks ahead, when it decides, and which part of the cluster is its own.

use crate::batch::{BatchError, MAX_LOAD_TOKENS, MAX_SLOTS, MAX_WEIGHT, MAX_WORKERS};
use crate::router::RouterError;

/// One worker (data-parallel rank) as the whole cluster has it; a [`Share`] divides it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerConfig {
    /// Batch slots: requests that decode there at once.
    pub slots: u32,
    /// KV tokens that fit, if bounded. A report may change it.
    pub kv_capacity_tokens: Option<u64>,
    /// Relative step cost per token, 0..=64; 1 for a uniform cluster.
    pub weight: f32,
}

impl WorkerConfig {
    /// A worker without a KV bound, weight 1.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self { slots, kv_capacity_tokens: None, weight: 1.0 }
    }

    /// Bounds its KV cache.
    #[must_use]
    pub fn capacity(self, kv_capacity_tokens: u64) -> Self {
        Self { kv_capacity_tokens: Some(kv_capacity_tokens), ..self }
    }

    /// Sets the relative step cost per token.
    #[must_use]
    pub fn weight(self, weight: f32) -> Self {
        Self { weight, ..self }
    }

    /// Checks every range; `index` goes into the error.
    pub(super) fn check(&self, index: usize) -> Result<(), RouterError> {
        if self.slots > MAX_SLOTS {
            let found = u64::from(self.slots);
            return Err(BatchError::WorkerSlots { index, limit: MAX_SLOTS, found }.into());
        }
        let capacity = self.kv_capacity_tokens.unwrap_or(0);
        if capacity > MAX_LOAD_TOKENS {
            let what = "KV capacity tokens";
            return Err(
                BatchError::WorkerTokens { index, what, limit: MAX_LOAD_TOKENS, found: capacity }.into()
            );
        }
        if !(0.0..=MAX_WEIGHT).contains(&self.weight) {
            return Err(BatchError::Weight { index, limit: MAX_WEIGHT, found: self.weight }.into());
        }
        Ok(())
    }
}

/// When [`super::Router::place`] decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every request waits for the next step: the best balance, since the step chooses among all who wait.
    #[default]
    Step,
    /// An arriving request goes at once to the worker with the greatest F-score (ties to the least load, then the lowest index) that
    /// has a free slot and room; it waits for a step only when there is none.
    Arrival,
    /// On arrival while more than `free_slots` slots are open over all workers, per step otherwise: the published bypass.
    Mixed {
        /// Open slots of this router, over all workers, above which a request does not wait for a step.
        free_slots: u32,
    },
}

/// Which part of every worker belongs to this router when several front ends feed the same workers.
///
/// Part `index` of `of` has `slots * (index + 1) / of - slots * index / of` of each worker's slots, and of its KV capacity likewise: the
/// parts of all front ends add up to the worker, so together they never admit more than it has, however late their reports are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This front end, below `of`.
    pub index: u32,
    /// Number of front ends, 1..=1024.
    pub of: u32,
}

impl Share {
    /// The only front end: everything is its own.
    pub const WHOLE: Self = Self { index: 0, of: 1 };
    const MOST: u32 = 1024;

    /// Its part of a quantity.
    #[must_use]
    pub fn part(self, whole: u64) -> u64 {
        let upto = |count: u32| (u128::from(whole) * u128::from(count) / u128::from(self.of.max(1))) as u64;
        upto(self.index + 1) - upto(self.index)
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::WHOLE
    }
}

/// The workers of a cluster, how a router looks ahead and what it does about silence.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// The workers; their ids are their positions here. None is fine: workers may join.
    pub workers: Vec<WorkerConfig>,
    /// Steps of growth that an admission leaves free for each running request and for itself; only used where the KV cache is bounded.
    pub headroom_steps: u32,
    /// Steps between two predictions for the same running request, at least 1.
    pub refresh_steps: u32,
    /// How far ahead predicted ends are kept for policies that level peaks, in steps.
    pub ends_horizon_steps: u32,
    /// When [`super::Router::place`] decides.
    pub mode: Mode,
    /// Which part of every worker is this router's.
    pub share: Share,
    /// A dispatch is lost, and returned, when a report that comes at least this long after it still has not seen it. None: never, for callers
    /// that hand requests over in process. Longer than a report may be late.
    pub dispatch_timeout_ms: Option<u64>,
    /// A dispatch is returned when nothing at all, neither report nor progress, has shown it for this long. None: silence is no evidence.
    pub silence_timeout_ms: Option<u64>,
    /// A request that has waited this long is returned by the next step. None: it waits on.
    pub expire_after_ms: Option<u64>,
}

impl RouterConfig {
    /// Uniform workers without a KV bound; predictions refreshed every 16 steps, ends kept 512 steps ahead, 256 steps of headroom where a
    /// bound is set. Decides per step, owns the whole cluster, loses nothing and lets nobody expire.
    #[must_use]
    pub fn new(workers: usize, slots: u32) -> Self {
        Self::uniform(workers, WorkerConfig::new(slots))
    }

    /// The same with the given worker.
    #[must_use]
    pub fn uniform(workers: usize, worker: WorkerConfig) -> Self {
        Self {
            workers: vec![worker; workers],
            headroom_steps: 256,
            refresh_steps: 16,
            ends_horizon_steps: 512,
            mode: Mode::Step,
            share: Share::WHOLE,
            dispatch_timeout_ms: None,
            silence_timeout_ms: None,
            expire_after_ms: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), RouterError> {
        if self.workers.len() > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: self.workers.len() }.into());
        }
        for (index, worker) in self.workers.iter().enumerate() {
            worker.check(index)?;
        }
        let Share { index, of } = self.share;
        if of == 0 || of > Share::MOST || index >= of {
            return Err(RouterError::Share { index, of, limit: Share::MOST });
        }
        Ok(())
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

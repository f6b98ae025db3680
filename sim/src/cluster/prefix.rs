//! Prefix caches of the workers: what affinity may save and what it costs.
//!
//! Each worker keeps the prefix blocks of the requests admitted to it, a bounded number of them, least
//! recently used out first. A request that is admitted finds the longest run of its leading blocks that are
//! kept there; those tokens are *cached*. Every other prompt token is computed there
//! ([`super::prefill`]), or its KV cache is fetched from where the prefill ran.
//!
//! Admissions of one step count in order, so the second of two equal prompts finds the first. Loads and KV
//! capacity are the same with and without a hit: blocks are not shared between running requests.
//!
//! `docs/affinity.md` has the figures.

use std::sync::Arc;

use balanceroute::batch::Request;
use balanceroute::router::PairTerms;

use crate::job::Job;
use crate::lru::Lru;

/// Tokens of a prefix block in Mooncake's traces, in which the size of the caches is told.
pub const BLOCK_TOKENS: u64 = 512;

/// How large the caches are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefixModel {
    /// Blocks of 512 tokens that each worker keeps; of a trace with smaller blocks as many more.
    pub cache_blocks: usize,
}

impl Default for PrefixModel {
    /// 2048 blocks, a million tokens.
    fn default() -> Self {
        Self { cache_blocks: 2048 }
    }
}

impl PrefixModel {
    /// Blocks of so many tokens that each worker keeps.
    pub(crate) fn blocks_of(self, block_tokens: u64) -> usize {
        (self.cache_blocks as u64 * BLOCK_TOKENS / block_tokens).max(1) as usize
    }
}

/// The caches of all workers, and the blocks of every request.
pub(crate) struct Prefixes {
    affinity: f64,
    block_tokens: u64,
    caches: Vec<Lru>,
    /// By request id.
    blocks: Vec<Option<Arc<[u64]>>>,
    cached_tokens: u64,
    prompt_tokens: u64,
}

impl Prefixes {
    pub(crate) fn new(model: PrefixModel, block_tokens: u64, affinity: f64, workers: usize) -> Self {
        let cache = Lru::new(model.blocks_of(block_tokens));
        Self {
            affinity,
            block_tokens,
            caches: vec![cache; workers],
            blocks: Vec::new(),
            cached_tokens: 0,
            prompt_tokens: 0,
        }
    }

    /// The next request; ids count from zero.
    pub(crate) fn entered(&mut self, job: &Job) {
        self.blocks.push(job.prefix_blocks.clone());
    }

    fn cached_on(&self, worker: usize, blocks: &[u64], prompt_tokens: u32) -> u64 {
        (self.caches[worker].matched(blocks) as u64 * self.block_tokens).min(u64::from(prompt_tokens))
    }

    /// A request found running when the simulation begins: its blocks are there.
    pub(crate) fn adopted(&mut self, id: u64, worker: u32) {
        if let Some(blocks) = &self.blocks[id as usize] {
            self.caches[worker as usize].keep(blocks);
        }
    }

    /// An admission; returns the tokens that are not cached.
    pub(crate) fn admitted(&mut self, id: u64, prompt_tokens: u32, worker: u32, measured: bool) -> u64 {
        let worker = worker as usize;
        let mut cached = 0;
        if let Some(blocks) = self.blocks[id as usize].clone() {
            cached = self.cached_on(worker, &blocks, prompt_tokens);
            self.caches[worker].keep(&blocks);
        }
        if measured {
            self.cached_tokens += cached;
            self.prompt_tokens += u64::from(prompt_tokens);
        }
        u64::from(prompt_tokens) - cached
    }

    /// Cached tokens as a share of the prompt tokens of the measured admissions.
    pub(crate) fn cached_share(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64
    }
}

impl PairTerms for Prefixes {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        let Some(blocks) = self.blocks.get(request.id.0 as usize).and_then(Option::as_deref) else {
            return false;
        };
        let mut any = false;
        for (worker, bonus) in bonus_tokens.iter_mut().enumerate() {
            *bonus = (self.affinity * self.cached_on(worker, blocks, request.prompt_tokens) as f64) as f32;
            any |= *bonus != 0.0;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(prompt_tokens: u32, blocks: &[u64]) -> Job {
        Job { prefix_blocks: Some(Arc::from(blocks)), ..Job::new(prompt_tokens, 1) }
    }

    #[test]
    fn tokens_are_cached_where_a_prefix_was_admitted() {
        let model = PrefixModel { cache_blocks: 8 };
        let mut prefixes = Prefixes::new(model, 512, 0.5, 2);
        for job in [job(1_000, &[1, 2]), job(1_400, &[1, 2, 3]), job(700, &[1, 9]), Job::new(300, 1)] {
            prefixes.entered(&job);
        }
        let mut bonus = [0.0; 2];
        assert!(!prefixes.bonus(&Request::new(1, 1_400), &mut bonus));
        assert_eq!(prefixes.admitted(0, 1_000, 1, true), 1_000);
        assert!(prefixes.bonus(&Request::new(1, 1_400), &mut bonus));
        // Two blocks hold 1024 tokens, although the prompt that brought them had 1000.
        assert_eq!(bonus, [0.0, 512.0]);
        assert!(!prefixes.bonus(&Request::new(3, 300), &mut [0.0; 2]));
        assert_eq!(prefixes.admitted(1, 1_400, 1, true), 1_400 - 1_024);
        assert_eq!(prefixes.admitted(2, 700, 0, true), 700);
        approx::assert_abs_diff_eq!(prefixes.cached_share(), 1_024.0 / 3_100.0, epsilon = 1e-12);
        // A cached prompt shorter than its blocks is cached to its end, no further.
        assert_eq!(prefixes.admitted(0, 1_000, 1, false), 0);
    }

    #[test]
    fn a_cache_keeps_as_many_tokens_in_small_blocks() {
        let mut prefixes = Prefixes::new(PrefixModel { cache_blocks: 1 }, 16, 0.5, 1);
        let blocks: Vec<u64> = (0..40).collect();
        prefixes.entered(&job(640, &blocks));
        prefixes.entered(&job(640, &blocks));
        assert_eq!(prefixes.admitted(0, 640, 0, true), 640);
        // 512 tokens are 32 of these blocks.
        assert_eq!(prefixes.admitted(1, 640, 0, true), 640 - 512);
    }
}

//! Rules that send a request where its prefix is: `cache-aware` and `llm-d`.

use rand::SeedableRng;
use rand::seq::IteratorRandom;
use rand_chacha::ChaCha8Rng;

use super::chooser::{Arriving, Chooser, RankSeen, Setup, least};
use crate::lru::Lru;

/// What a router believes of the prefix caches: each rank keeps what was sent there last.
#[derive(Clone, Debug)]
pub(super) struct Index {
    ranks: Vec<Lru>,
}

impl Index {
    pub(super) fn new(setup: &Setup) -> Self {
        Self { ranks: vec![Lru::new(setup.cache_blocks); setup.workers()] }
    }

    /// Leading blocks that a rank keeps.
    pub(super) fn matched(&self, rank: usize, blocks: &[u64]) -> usize {
        self.ranks[rank].matched(blocks)
    }

    pub(super) fn sent(&mut self, rank: usize, blocks: &[u64]) {
        self.ranks[rank].keep(blocks);
    }

    /// The share of the blocks that a rank keeps; 0 where there are none.
    pub(super) fn share(&self, rank: usize, blocks: &[u64]) -> f64 {
        self.matched(rank, blocks) as f64 / blocks.len().max(1) as f64
    }
}

/// The least share of a prompt that is worth following.
const MATCH: f64 = 0.3;
/// Ranks are out of balance when the fullest has so many requests more than the emptiest,
const ABSOLUTE: u32 = 64;
/// and so many times as many.
const RELATIVE: f64 = 1.5;

/// The rank with the longest cached prefix, unless too little of it matches or the ranks are out of balance:
/// then the one with fewest requests.
pub(super) struct CacheAware {
    index: Index,
}

impl CacheAware {
    pub(super) fn new(setup: &Setup) -> Self {
        Self { index: Index::new(setup) }
    }
}

impl Chooser for CacheAware {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        let blocks = arriving.blocks();
        let requests = || ranks.iter().map(RankSeen::requests);
        let (most, fewest) = (requests().max().unwrap_or(0), requests().min().unwrap_or(0));
        let out_of_balance = most - fewest > ABSOLUTE && f64::from(most) > RELATIVE * f64::from(fewest);
        let longest = least(0..ranks.len(), |rank| {
            (std::cmp::Reverse(self.index.matched(rank, blocks)), ranks[rank].requests())
        });
        let follows = longest.filter(|&rank| !out_of_balance && self.index.share(rank, blocks) >= MATCH);
        let emptiest = || least(0..ranks.len(), |rank| ranks[rank].requests()).unwrap_or(0);
        let rank = follows.unwrap_or_else(emptiest);
        self.index.sent(rank, blocks);
        rank
    }

    fn adopted(&mut self, running: &Arriving<'_>, _generated_tokens: u32, rank: usize) {
        self.index.sent(rank, running.blocks());
    }
}

/// What the scorers of llm-d's default profile weigh.
const PREFIX_WEIGHT: f64 = 3.0;
const QUEUE_WEIGHT: f64 = 2.0;
const KV_WEIGHT: f64 = 2.0;

/// The rank of the greatest weighted sum of scores; lots are drawn among equals.
pub(super) struct LlmD {
    index: Index,
    kv_capacity_tokens: Option<u64>,
    rng: ChaCha8Rng,
}

impl LlmD {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            index: Index::new(setup),
            kv_capacity_tokens: setup.kv_capacity_tokens,
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
        }
    }

    fn scores(&self, blocks: &[u64], ranks: &[RankSeen]) -> Vec<f64> {
        let queued = || ranks.iter().map(|rank| rank.queued);
        let (most, fewest) = (queued().max().unwrap_or(0), queued().min().unwrap_or(0));
        let scored = ranks.iter().enumerate().map(|(at, rank)| {
            let queue = match most - fewest {
                0 => 1.0,
                range => f64::from(most - rank.queued) / f64::from(range),
            };
            let capacity = self.kv_capacity_tokens;
            let usage = capacity.map_or(0.0, |capacity| rank.kv_tokens as f64 / capacity as f64);
            PREFIX_WEIGHT * self.index.share(at, blocks) + QUEUE_WEIGHT * queue + KV_WEIGHT * (1.0 - usage)
        });
        scored.collect()
    }
}

impl Chooser for LlmD {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        let blocks = arriving.blocks();
        let scores = self.scores(blocks, ranks);
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let equals = (0..ranks.len()).filter(|&rank| scores[rank] == best);
        let rank = equals.choose(&mut self.rng).unwrap_or(0);
        self.index.sent(rank, blocks);
        rank
    }

    fn adopted(&mut self, running: &Arriving<'_>, _generated_tokens: u32, rank: usize) {
        self.index.sent(rank, running.blocks());
    }
}

//! Consistent hashing, and the rule that shifts it where queues grow: `hash-ring`.

use super::chooser::{Arriving, Chooser, RankSeen, Setup, hash};

/// Leading blocks by which prompts are of one class.
pub(super) const PREFIX_BLOCKS: usize = 4;

/// What a request is placed by: the class of its prefix, or itself.
pub(super) fn prefix_key(arriving: &Arriving<'_>) -> u64 {
    let blocks = arriving.blocks();
    if blocks.is_empty() {
        return hash(1, arriving.id);
    }
    blocks.iter().take(PREFIX_BLOCKS).fold(2, |key, &block| hash(key, block))
}

/// Tokens of ranks on a circle of hashes; a key belongs to the first token at or after it.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    salt: u64,
    /// Tokens of each rank.
    counts: Vec<u32>,
    /// Places and their ranks, in order.
    tokens: Vec<(u64, usize)>,
}

impl Ring {
    pub(super) fn new(salt: u64, ranks: usize, tokens_each: u32) -> Self {
        let mut ring = Self { salt, counts: vec![tokens_each; ranks], tokens: Vec::new() };
        ring.place();
        ring
    }

    /// A rank's tokens stand where they stood before: one that has fewer loses the last of them.
    fn place(&mut self) {
        self.tokens.clear();
        for (rank, &count) in self.counts.iter().enumerate() {
            let place = |token: u32| hash(self.salt, hash(rank as u64, u64::from(token)));
            self.tokens.extend((0..count).map(|token| (place(token), rank)));
        }
        self.tokens.sort_unstable();
    }

    /// The rank of a key; the first that is not `unless`, where there is another.
    pub(super) fn owner(&self, key: u64, unless: Option<usize>) -> usize {
        let key = hash(self.salt, key);
        let from = self.tokens.partition_point(|&(place, _)| place < key);
        let (before, after) = self.tokens.split_at(from);
        let mut ranks = after.iter().chain(before).map(|&(_, rank)| rank);
        ranks.find(|&rank| Some(rank) != unless).or(unless).unwrap_or(0)
    }
}

/// Tokens of each rank as the run begins.
const TOKENS: u32 = 8;
/// By this share the longest queue may exceed the second longest.
const TAU: f64 = 0.2;
/// No rank gets more tokens than that: our choice.
const MOST_TOKENS: u32 = 1 << 12;

/// Sessions, prefix classes or requests on a ring; a rank whose queue is far longer than any other loses half
/// of its tokens, and where it has but one all others double theirs.
pub(super) struct HashRing {
    ring: Ring,
    /// Arrivals until the ring may change again.
    rests: usize,
}

impl HashRing {
    pub(super) fn new(setup: &Setup) -> Self {
        Self { ring: Ring::new(3, setup.workers(), TOKENS), rests: 0 }
    }

    fn rebalance(&mut self, ranks: &[RankSeen]) {
        if self.rests > 0 {
            self.rests -= 1;
            return;
        }
        let mut longest: Option<(u32, usize)> = None;
        let mut second = None;
        for (rank, queue) in ranks.iter().map(RankSeen::requests).enumerate() {
            if longest.is_none_or(|(length, _)| queue > length) {
                second = longest.replace((queue, rank)).map(|(length, _)| length);
            } else {
                second = second.max(Some(queue));
            }
        }
        let (Some((length, rank)), Some(second)) = (longest, second) else { return };
        if f64::from(length) <= (1.0 + TAU) * f64::from(second) {
            return;
        }
        let counts = &mut self.ring.counts;
        if counts[rank] > 1 {
            counts[rank] /= 2;
        } else if counts.iter().all(|&count| count <= MOST_TOKENS / 2) {
            for (_, count) in counts.iter_mut().enumerate().filter(|&(other, _)| other != rank) {
                *count *= 2;
            }
        } else {
            return;
        }
        self.ring.place();
        // What was changed is to show before it is changed again.
        self.rests = TOKENS as usize * ranks.len();
    }
}

impl Chooser for HashRing {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        self.rebalance(ranks);
        let session = arriving.job.session.map(|session| hash(4, session));
        self.ring.owner(session.unwrap_or_else(|| prefix_key(arriving)), None)
    }
}

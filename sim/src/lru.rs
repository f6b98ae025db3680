//! A bounded number of prefix blocks, the least recently used out first.

use std::collections::{BTreeMap, HashMap};

/// Blocks by last use.
#[derive(Clone, Debug)]
pub(crate) struct Lru {
    limit: usize,
    clock: u64,
    used_at: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, clock: 0, used_at: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn touch(&mut self, block: u64) {
        self.clock += 1;
        if let Some(before) = self.used_at.insert(block, self.clock) {
            self.by_use.remove(&before);
        }
        self.by_use.insert(self.clock, block);
        if self.used_at.len() > self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.used_at.remove(&oldest);
        }
    }

    /// Leading blocks that are kept.
    pub(crate) fn matched(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used_at.contains_key(block)).count()
    }

    pub(crate) fn keep(&mut self, blocks: &[u64]) {
        // Touch the last block first, so that eviction takes tails and the heads stay usable.
        for &block in blocks.iter().rev() {
            self.touch(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_long_prompt_goes_first() {
        let mut lru = Lru::new(4);
        lru.keep(&[1, 2, 3]);
        assert_eq!(lru.matched(&[1, 2, 9]), 2);
        lru.keep(&[7, 8]);
        // One of five must go: block 3, the end of the older prompt.
        assert_eq!((lru.matched(&[1, 2, 3]), lru.matched(&[7, 8])), (2, 2));
        lru.keep(&[1]);
        lru.keep(&[4, 5]);
        assert_eq!((lru.matched(&[1]), lru.matched(&[2]), lru.matched(&[7, 8])), (1, 0, 1));
        assert_eq!(lru.used_at.len(), lru.by_use.len());
    }
}

//! Eligibility of requests on workers, a bit for each pair; a placed request has none.

use super::layout::Layout;
use crate::backend::cpu::Kernels;
use crate::backend::cpu::lanes::Block;
use crate::batch::{Batch, Request};
use crate::pool::{BLOCK, PoolSlot};

#[derive(Clone, Debug, Default)]
pub(super) struct Eligibility {
    /// Per 32 workers a word for each request.
    words: Vec<Block>,
    /// Blocks of a column.
    blocks: usize,
    /// The entries that are bound to a rank.
    bound: Vec<u32>,
}

impl Eligibility {
    /// Makes room for columns of so many blocks.
    pub(super) fn resize(&mut self, workers: usize, blocks: usize) {
        self.blocks = blocks;
        // The words are masked as they are put, old ones too.
        self.words.resize(workers.div_ceil(32) * blocks, Block::default());
    }

    /// Finds the entries that are bound to a rank: whether any request may not enter every worker.
    pub(super) fn find_bound(&mut self, batch: &Batch<'_>, layout: &Layout) -> bool {
        let pool = batch.waiting();
        self.bound.clear();
        if pool.any_rank() {
            let slots = pool.ordered().slots;
            let slot_of = |position: u32| slots.get(position as usize).map(|&slot| PoolSlot(slot));
            let is_bound = |position| slot_of(position).is_some_and(|slot| pool.request(slot).rank.is_some());
            let entries = layout.positions().iter().zip(0..).filter(|&(&position, _)| is_bound(position));
            self.bound.extend(entries.map(|(_, entry)| entry));
        }
        !self.bound.is_empty() || batch.eligible_rows().is_some()
    }

    /// Puts the words of all waiting requests; `rows` are those of their pair terms.
    pub(super) fn put(&mut self, kernels: &Kernels, batch: &Batch<'_>, layout: &Layout, rows: &[u32]) {
        let (pool, blocks) = (batch.waiting(), self.blocks);
        let (slots, positions) = (pool.ordered().slots, layout.positions());
        match batch.eligible_rows() {
            None => self.words.fill(Block([-1; BLOCK])),
            Some((masks, stride)) => {
                let rows = rows.as_chunks().0;
                for (pair, words) in self.words.chunks_mut((2 * blocks).max(1)).enumerate() {
                    (kernels.words)((masks, stride, pair), rows, words.split_at_mut(blocks));
                }
            }
        }
        for at in 0..self.bound.len() {
            let entry = self.bound[at] as usize;
            let request = pool.request(PoolSlot(slots[positions[entry] as usize]));
            self.put_all(entry, |word| eligible_word(batch, request, word));
        }
        // The rest of the last stride of a class is empty.
        let first = if layout.is_in_order() { slots.len() } else { 0 };
        for (entry, &position) in positions.iter().enumerate().skip(first) {
            if position as usize >= slots.len() {
                self.put_all(entry, |_| 0);
            }
        }
    }

    /// Lets an entry enter no worker.
    pub(super) fn take(&mut self, entry: usize) {
        self.put_all(entry, |_| 0);
    }

    /// Lets it enter those that it may.
    pub(super) fn give_back(&mut self, entry: usize, batch: &Batch<'_>, request: &Request) {
        self.put_all(entry, |word| eligible_word(batch, request, word));
    }

    #[inline]
    fn put_all(&mut self, entry: usize, bits: impl Fn(usize) -> i32) {
        for (word, blocks) in self.words.chunks_exact_mut(self.blocks.max(1)).enumerate() {
            blocks[entry / BLOCK].0[entry % BLOCK] = bits(word);
        }
    }

    /// The words of 32 workers, this one among them.
    pub(super) fn words(&self, worker: usize) -> &[Block] {
        &self.words[worker / 32 * self.blocks..(worker / 32 + 1) * self.blocks]
    }
}

/// Whether a request may run on each of 32 workers.
fn eligible_word(batch: &Batch<'_>, request: &Request, word: usize) -> i32 {
    let mut bits = batch.eligible_word(request, word / 2) >> (word % 2 * 32);
    if let Some(rank) = request.rank.map(crate::WorkerIndex::index) {
        bits &= if rank / 32 == word { 1 << (rank % 32) } else { 0 };
    }
    bits as u32 as i32
}

//! Where each request stands in the columns.

use super::runs::{Runs, run_blocks};
use crate::batch::Batch;
use crate::pool::{BLOCK, PoolSlot};

/// Entries of the columns and positions of the length order. Without survival classes an entry is a position;
/// with them, each class has whole strides of its own, in order of length.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Past the length order where an entry is empty.
    positions: Vec<u32>,
    entry_of: Vec<u32>,
    /// Where the next of each class goes.
    classes: Vec<(u8, u32)>,
}

impl Layout {
    /// Whether entries are positions.
    pub(super) fn is_in_order(&self) -> bool {
        self.classes.is_empty()
    }

    /// The position of each entry.
    pub(super) fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub(super) fn entry(&self, position: usize) -> usize {
        self.entry_of[position] as usize
    }

    /// Lays the requests of a batch out, in runs.
    pub(super) fn lay_out(&mut self, batch: &Batch<'_>, runs: &mut Runs) {
        let pool = batch.waiting();
        let mut common = pool.len();
        // Without classes entries are positions, most of them from before.
        let kept = if self.classes.is_empty() { self.positions.len() as u32 } else { 0 };
        self.classes.clear();
        runs.clear();
        if batch.classes().is_some() && batch.has_pair_terms() {
            for (_, request, _) in pool.iter() {
                let Some(class) = batch.class_of(request) else { continue };
                common -= 1;
                match self.classes.iter_mut().find(|(other, _)| *other == class) {
                    Some((_, count)) => *count += 1,
                    None => self.classes.push((class, 1)),
                }
            }
        }
        let looks_ahead = batch.projection().is_some_and(|rows| rows.horizon > 0);
        let longest = run_blocks(pool.len(), looks_ahead);
        runs.push(common, None, longest);
        for (class, count) in &mut self.classes {
            *count = runs.push(*count as usize, Some(*class), longest) as u32;
        }
        runs.hold(batch.workers().len());
        let entries = runs.blocks() * BLOCK;
        if self.classes.is_empty() {
            let end = entries as u32;
            for column in [&mut self.positions, &mut self.entry_of] {
                column.truncate(kept.min(end) as usize);
                column.extend(column.len() as u32..end);
            }
            return;
        }
        self.positions.clear();
        self.positions.resize(entries, u32::MAX);
        self.entry_of.resize(pool.len(), u32::MAX);
        let mut next = 0;
        for (position, &slot) in pool.ordered().slots.iter().enumerate() {
            let next = match batch.class_of(pool.request(PoolSlot(slot))) {
                Some(class) => {
                    let known = self.classes.iter_mut().find(|(other, _)| *other == class);
                    &mut known.expect("counted above").1
                }
                None => &mut next,
            };
            self.positions[*next as usize] = position as u32;
            self.entry_of[position] = *next;
            *next += 1;
        }
    }
}

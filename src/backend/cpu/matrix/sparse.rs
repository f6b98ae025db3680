//! Bonuses on single workers, one by one: where few pairs have any, a column is searched as if there were
//! none.

use crate::backend::cpu::column::Found;
use crate::backend::cpu::lanes::Block;
use crate::pool::{BLOCK, Ordered};

/// The column of a worker that has none.
pub(super) const NO_COLUMN: u32 = u32::MAX;

/// What an entry gains on the worker of a column.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bonus {
    pub(super) column: u32,
    pub(super) entry: u32,
    pub(super) units: i32,
}

/// The bonuses of a batch without survival classes, by column: entries are positions of the length order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SparseBonuses<'a> {
    /// Which column a worker has; empty without any bonus.
    pub(super) column_of: &'a [u32],
    /// Where each column ends.
    pub(super) ends: &'a [u32],
    pub(super) bonuses: &'a [Bonus],
    /// Ages in score units.
    pub(super) ages: &'a [Block],
}

impl<'a> SparseBonuses<'a> {
    fn of_worker(self, worker: usize) -> &'a [Bonus] {
        let column = self.column_of.get(worker).map_or(NO_COLUMN, |&column| column) as usize;
        let Some(&to) = self.ends.get(column) else { return &[] };
        let from = column.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bonuses[from as usize..to as usize]
    }

    /// What an entry gains on a worker, in score units.
    pub(crate) fn units(self, worker: usize, position: usize) -> i64 {
        let own = self.of_worker(worker).iter().find(|bonus| bonus.entry as usize == position);
        own.map_or(0, |bonus| i64::from(bonus.units))
    }

    /// The better of a worker's best without any bonus and its best with one.
    pub(crate) fn best(
        self,
        ordered: &Ordered<'_>,
        found: Option<Found>,
        score_of: impl Fn(i64) -> i64,
        (worker, longest): (usize, i64),
        is_taken: impl Fn(usize) -> bool,
    ) -> Option<Found> {
        let mut best = found;
        for bonus in self.of_worker(worker) {
            let position = bonus.entry as usize;
            let at = (position / BLOCK, position % BLOCK);
            let tokens = i64::from(ordered.tokens[position]);
            let score = score_of(tokens) + i64::from(self.ages[at.0].0[at.1]) + i64::from(bonus.units);
            let found = Found { position, score };
            if found.beats(best, ordered) && tokens <= longest && !is_taken(position) {
                best = Some(found);
            }
        }
        best
    }
}

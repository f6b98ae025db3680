//! Age plus bonus of each request on each open worker: what a score begins with.
//!
//! Where few pairs have a bonus, and none a malus, these are listed one by one ([`SparseBonuses`]) and
//! columns are searched by length. Otherwise each open worker has a column.

use super::runs::Runs;
use super::sparse::{Bonus, NO_COLUMN, SparseBonuses};
use crate::backend::cpu::Kernels;
use crate::backend::cpu::dense::{Hit, Span};
use crate::backend::cpu::lanes::Block;
use crate::backend::picks::hold;
use crate::batch::{Batch, Bonuses};
use crate::pool::{BLOCK, NO_ROW};
use crate::score::Age;

/// Bonuses are listed where at most one cell of an open worker in so many has one (measured).
const SPARSE: usize = 32;

/// Looking into sixteen workers of a row costs as much as gathering the bonuses of so many requests on one
/// worker (measured).
const LOOK: usize = 2;

/// Entries whose bonuses are found before it is asked again whether these are few.
const FEW_ENTRIES: usize = 64;

/// How bonuses are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BonusStorage {
    /// There are none.
    #[default]
    None,
    /// A column for each open worker.
    Columns,
    /// Few: listed one by one.
    Sparse,
}

#[derive(Clone, Debug, Default)]
pub(super) struct BonusColumns {
    storage: BonusStorage,
    /// Ages in score units.
    ages: Vec<Block>,
    unit: i64,
    workers: usize,
    /// The greatest magnitude of an age plus a bonus.
    greatest: i64,
    open: Vec<u32>,
    /// Which column a worker has: its place among the open ones.
    column_of: Vec<u32>,
    /// Ages plus bonuses, a column for each open worker.
    columns: Vec<Block>,
    /// The bonuses one by one, as found and by column, and where each column ends.
    found: Vec<Bonus>,
    bonuses: Vec<Bonus>,
    ends: Vec<u32>,
    spans: Vec<Span>,
    open_lanes: Vec<Block>,
    entries: Vec<[u32; 2]>,
    hits: Vec<Hit>,
}

impl BonusColumns {
    /// Has none: nothing fits the lanes.
    pub(super) fn clear(&mut self) {
        self.storage = BonusStorage::None;
    }

    /// Takes the ages of requests, `unit` score units a token, the greatest of them given.
    pub(super) fn put_ages(
        &mut self,
        kernels: &Kernels,
        passed: &[[u32; BLOCK]],
        (age, unit): (Age, i64),
        greatest: i64,
    ) {
        (self.storage, self.unit, self.greatest) = (BonusStorage::None, unit, greatest);
        (kernels.ages)(passed, (age, unit as i32), &mut self.ages);
    }

    /// Makes room for so many blocks.
    pub(super) fn resize(&mut self, blocks: usize) {
        self.ages.resize(blocks, Block::default());
    }

    /// Takes the bonuses on the open workers, by the rows of the requests' pair terms: whether these are few
    /// and `may_list`, or none.
    pub(super) fn put_bonuses(
        &mut self,
        kernels: &Kernels,
        batch: &Batch<'_>,
        rows: &[u32],
        may_list: bool,
    ) -> bool {
        let Some(bonuses) = batch.bonuses() else { return may_list };
        self.workers = batch.workers().len();
        self.list_open(batch);
        self.make_room(rows.len());
        let with_row = batch.waiting().with_pair_row();
        let listed = if may_list { self.list_bonuses(kernels, bonuses, (rows, with_row)) } else { None };
        if let Some(greatest) = listed {
            self.storage = BonusStorage::Sparse;
            self.raise_greatest(greatest);
            if self.greatest < 1 << 31 {
                return true;
            }
        }
        self.storage = BonusStorage::Columns;
        let greatest = self.fill_columns(kernels, bonuses, rows);
        self.raise_greatest(greatest);
        false
    }

    fn list_open(&mut self, batch: &Batch<'_>) {
        self.column_of.clear();
        self.column_of.resize(self.workers, NO_COLUMN);
        self.open.clear();
        self.spans.clear();
        self.open_lanes.clear();
        self.open_lanes.resize(self.workers.div_ceil(BLOCK), Block::default());
        for (workers, from) in batch.workers().chunks(64).zip((0..).step_by(64)) {
            let mut bits = 0;
            for (worker, at) in workers.iter().zip(0..) {
                if worker.open_slots() > 0 {
                    self.column_of[(from + at) as usize] = self.open.len() as u32;
                    self.open.push(from + at);
                    self.open_lanes[(from + at) as usize / BLOCK].0[at as usize % BLOCK] = -1;
                    bits |= 1 << at;
                }
            }
            if bits != 0 {
                self.spans.push((from, bits));
            }
        }
    }

    /// Makes room for as many bonuses as may be listed, whichever workers are open: a later batch must not
    /// allocate.
    fn make_room(&mut self, most: usize) {
        for bonuses in [&mut self.found, &mut self.bonuses] {
            bonuses.clear();
            hold(bonuses, (most / SPARSE + 2 * FEW_ENTRIES) * self.workers);
        }
        self.ends.clear();
        hold(&mut self.ends, self.workers + 1);
        hold(&mut self.columns, self.open.len() * self.ages.len());
        self.entries.resize(most + 1, [0; 2]);
        self.hits.resize(FEW_ENTRIES * self.workers.div_ceil(64) + 1, Hit::default());
    }

    /// Lists the bonuses that are not zero and returns the greatest in tokens; none where they are many, or
    /// one is a malus.
    fn list_bonuses(
        &mut self,
        kernels: &Kernels,
        bonuses: Bonuses<'_>,
        (rows, with_row): (&[u32], usize),
    ) -> Option<i64> {
        let most = rows.len();
        // Looking into every row must pay.
        if with_row * (self.open_lanes.len() + 2) * LOOK > most * self.open.len() {
            return None;
        }
        let mut listed = 0;
        for (&row, entry) in rows.iter().zip(0..) {
            // Written before it is known whether it counts, so that no branch is mispredicted.
            self.entries[listed] = [entry, row];
            listed += usize::from(row != NO_ROW);
        }
        let count = self.open.len();
        self.ends.resize(count + 1, 0);
        let (mut greatest, mut least, mut looked_at) = (0, 0, 0);
        for entries in self.entries[..listed].chunks_mut(FEW_ENTRIES) {
            // Requests without a row have no bonus, and count as looked at.
            looked_at = entries.last().map_or(looked_at, |&[entry, _]| entry as usize + 1);
            let open = (&self.open_lanes[..], &self.spans[..]);
            let hits = (kernels.find_bonuses)((bonuses, self.workers), open, entries, &mut self.hits);
            for &Hit { entry, from, mut bits } in &self.hits[..hits] {
                let row = rows[entry as usize] as usize * self.workers;
                while bits != 0 {
                    let worker = from as usize + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let tokens = bonuses.at(row + worker);
                    (greatest, least) = (tokens.max(greatest), tokens.min(least));
                    let column = self.column_of[worker];
                    let units = (tokens as i32).wrapping_mul(self.unit as i32);
                    self.ends[column as usize + 1] += 1;
                    self.found.push(Bonus { column, entry, units });
                }
            }
            if least < 0 || self.found.len() * SPARSE > (looked_at + FEW_ENTRIES) * count {
                return None;
            }
        }
        // By column, in two passes.
        let mut end = 0;
        for from in &mut self.ends {
            end += *from;
            *from = end;
        }
        self.bonuses.resize(self.found.len(), Bonus::default());
        for &bonus in &self.found {
            let at = &mut self.ends[bonus.column as usize];
            self.bonuses[*at as usize] = bonus;
            *at += 1;
        }
        Some(greatest)
    }

    /// Fills a column for each open worker, and returns the greatest magnitude of a bonus in tokens.
    fn fill_columns(&mut self, kernels: &Kernels, bonuses: Bonuses<'_>, rows: &[u32]) -> i64 {
        // What is left over from before is written over.
        self.columns.resize(self.open.len() * self.ages.len(), Block::default());
        // Offsets that do not fit their lanes have no place in a matrix that fits a memory, but nothing here
        // relies on that.
        if bonuses.len() >= NO_ROW as usize - self.workers {
            return i64::MAX;
        }
        let from = (rows.as_chunks().0, &self.ages[..]);
        let bonuses = (bonuses, self.workers);
        (kernels.add_bonuses)(bonuses, &self.open, self.unit as i32, from, &mut self.columns)
    }

    /// Bounds each of these runs on each column.
    pub(super) fn bound(&self, kernels: &Kernels, runs: &mut Runs) {
        // A single run is scored anyway.
        if runs.list().len() <= 1 || self.greatest >= 1 << 31 {
            runs.unbound();
        } else if self.storage == BonusStorage::None {
            runs.bound_columns(kernels, &self.ages);
        } else {
            runs.bound_columns(kernels, &self.columns);
        }
    }

    fn raise_greatest(&mut self, bonus_tokens: i64) {
        self.greatest = bonus_tokens.saturating_mul(self.unit).saturating_add(self.greatest);
    }

    /// The bonuses one by one, where they are.
    pub(super) fn sparse(&self) -> SparseBonuses<'_> {
        // What is left over from a batch with bonuses means nothing in one without.
        let column_of = if self.storage == BonusStorage::Sparse { &self.column_of[..] } else { &[] };
        SparseBonuses { column_of, ends: &self.ends, bonuses: &self.bonuses, ages: &self.ages }
    }

    /// The column of a worker: the only one where there are no bonuses, none for a worker without an open
    /// slot.
    pub(super) fn column(&self, worker: usize) -> Option<usize> {
        match self.storage {
            BonusStorage::None => Some(0),
            _ => self
                .column_of
                .get(worker)
                .copied()
                .filter(|&column| column != NO_COLUMN)
                .map(|column| column as usize),
        }
    }

    /// A column.
    pub(super) fn of_column(&self, column: usize) -> &[Block] {
        let blocks = self.ages.len();
        match self.storage {
            BonusStorage::Columns => &self.columns[column * blocks..(column + 1) * blocks],
            BonusStorage::None | BonusStorage::Sparse => &self.ages,
        }
    }

    /// At least the magnitude of every age plus bonus.
    pub(super) fn greatest(&self) -> i64 {
        self.greatest
    }

    /// How bonuses are kept.
    #[cfg(test)]
    pub(super) fn storage(&self) -> BonusStorage {
        self.storage
    }
}

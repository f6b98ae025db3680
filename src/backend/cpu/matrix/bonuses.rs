//! Age plus bonus of each request on each open worker: what a score begins with.

use crate::backend::cpu::Kernels;
use crate::backend::cpu::dense::{Hit, Span};
use crate::backend::cpu::lanes::Block;
use crate::backend::cpu::runs::Runs;
use crate::backend::cpu::sparse::{Bonus, NO_COLUMN, SparseBonuses};
use crate::batch::{Batch, Bonuses};
use crate::pool::{BLOCK, NO_ROW};
use crate::score::Age;

/// Bonuses are listed where at most one cell of an open worker in so many has one: from there on adding and taking off costs more than a column
/// each (measured).
const SPARSE: usize = 16;

/// Looking into sixteen workers of a row costs as much as gathering the bonuses of so many requests on one worker (measured).
const LOOK: usize = 2;

/// A column that takes its turn at the ages for a run of requests, again and again, costs as much for a bonus as so many blocks of a column of its own
/// (measured).
const TURN: usize = 8;

/// Entries whose bonuses are found before it is asked again whether these are few.
const FEW_ENTRIES: usize = 64;

/// How bonuses are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BonusStorage {
    /// There are none.
    #[default]
    None,
    /// Many: a column for each open worker.
    Columns,
    /// Few: listed one by one, and added to the ages and taken off again, a column at a time.
    Turns,
    /// Few, but asked for often: listed, and a column for each open worker made from the list.
    Both,
}

#[derive(Clone, Debug, Default)]
pub(super) struct BonusColumns {
    storage: BonusStorage,
    /// Ages in score units; where columns take turns, those of one of them are added.
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
    any_malus: bool,
    /// The column whose bonuses the ages have.
    added: u32,
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
        (now_step, enqueued): (u32, &[[u32; BLOCK]]),
        (age, unit): (Age, i64),
        greatest: i64,
    ) {
        (self.storage, self.unit, self.greatest) = (BonusStorage::None, unit, greatest);
        (kernels.ages)(now_step, enqueued, age, unit as i32, &mut self.ages);
    }

    /// Makes room for so many blocks.
    pub(super) fn resize(&mut self, blocks: usize) {
        self.ages.resize(blocks, Block::default());
    }

    /// Takes the bonuses on the workers that may take anybody, by the rows of the requests' pair terms.
    pub(super) fn put_bonuses(&mut self, kernels: &Kernels, batch: &Batch<'_>, rows: &[u32]) {
        self.added = NO_COLUMN;
        let Some(bonuses) = batch.bonuses() else { return };
        self.workers = batch.workers().len();
        self.list_open(batch);
        let listed = self.list_bonuses(kernels, bonuses, (rows, batch.waiting().with_pair_row()));
        self.storage = if listed.is_some() { BonusStorage::Turns } else { BonusStorage::Columns };
        let greatest = listed.unwrap_or_else(|| self.fill_columns(kernels, bonuses, rows));
        self.greatest = greatest.saturating_mul(self.unit).saturating_add(self.greatest);
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

    /// Lists the bonuses that are not zero and returns the greatest magnitude in tokens; none where they are many.
    fn list_bonuses(
        &mut self,
        kernels: &Kernels,
        bonuses: Bonuses<'_>,
        (rows, with_row): (&[u32], usize),
    ) -> Option<i64> {
        // As many as may be found, whoever is open and whether it pays today: a later batch must not allocate.
        let most = rows.len();
        for bonuses in [&mut self.found, &mut self.bonuses] {
            bonuses.clear();
            bonuses.reserve((most / SPARSE + 2 * FEW_ENTRIES) * self.workers);
        }
        self.ends.clear();
        self.ends.reserve(self.workers + 1);
        self.columns.reserve((self.open.len() * self.ages.len()).saturating_sub(self.columns.len()));
        self.entries.resize(most + 1, [0; 2]);
        self.hits.resize(FEW_ENTRIES * self.workers.div_ceil(64) + 1, Hit::default());
        // Looking into every row must pay.
        if with_row * (self.open_lanes.len() + 2) * LOOK > most * self.open.len() {
            return None;
        }
        let mut listed = 0;
        for (&row, entry) in rows.iter().zip(0..) {
            // Written without asking, so that nothing is mispredicted.
            self.entries[listed] = [entry, row];
            listed += usize::from(row != NO_ROW);
        }
        let count = self.open.len();
        self.ends.resize(count + 1, 0);
        let (mut greatest, mut looked_at) = (0, 0);
        self.any_malus = false;
        for entries in self.entries[..listed].chunks_mut(FEW_ENTRIES) {
            // Who has no row has no bonus, and counts as looked at.
            looked_at = entries.last().map_or(looked_at, |&[entry, _]| entry as usize + 1);
            let open = (&self.open_lanes[..], &self.spans[..]);
            let hits = (kernels.find_bonuses)(bonuses, self.workers, open, entries, &mut self.hits);
            for &Hit { entry, from, mut bits } in &self.hits[..hits] {
                let row = rows[entry as usize] as usize * self.workers;
                while bits != 0 {
                    let worker = from as usize + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let tokens = bonuses.at(row + worker);
                    greatest = greatest.max(tokens.abs());
                    self.any_malus |= tokens < 0;
                    let column = self.column_of[worker];
                    let units = (tokens as i32).wrapping_mul(self.unit as i32);
                    self.ends[column as usize + 1] += 1;
                    self.found.push(Bonus { column, entry, units });
                }
            }
            if self.found.len() * SPARSE > (looked_at + FEW_ENTRIES) * count {
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
        // Offsets that do not fit their lanes have no place in a matrix that fits a memory, but nothing here relies on that.
        if bonuses.len() >= NO_ROW as usize - self.workers {
            return i64::MAX;
        }
        let from = (rows.as_chunks().0, &self.ages[..]);
        let bonuses = (bonuses, self.workers as u32);
        (kernels.add_bonuses)(bonuses, &self.open, self.unit as i32, from, &mut self.columns)
    }

    /// Bounds each of these runs on each column, and gives up turns where they would be taken too often.
    pub(super) fn bound(&mut self, kernels: &Kernels, runs: &mut Runs) {
        // A single run is looked at anyway.
        if runs.list().len() <= 1 || self.greatest >= 1 << 31 {
            runs.unbound();
        } else {
            match self.storage {
                BonusStorage::None => runs.bound_bonuses(kernels, &self.ages, &[], 1),
                BonusStorage::Columns => runs.bound_bonus_columns(kernels, &self.columns),
                BonusStorage::Turns | BonusStorage::Both => {
                    runs.bound_bonuses(kernels, &self.ages, &self.bonuses, self.open.len());
                }
            }
        }
        let turns = self.bonuses.len() * TURN * runs.list().len();
        if self.storage == BonusStorage::Turns && turns > self.open.len() * self.ages.len() {
            self.spread();
        }
    }

    /// Fills a column for each open worker from the list.
    fn spread(&mut self) {
        let blocks = self.ages.len();
        self.storage = BonusStorage::Both;
        let mut columns = std::mem::take(&mut self.columns);
        // What is left over from before is written over.
        columns.resize(self.open.len() * blocks, Block::default());
        for (base, column) in columns.chunks_exact_mut(blocks.max(1)).zip(0..) {
            base.copy_from_slice(&self.ages);
            add(base, self.sparse().of_column(column), 1);
        }
        self.columns = columns;
    }

    /// The bonuses one by one, where they are.
    pub(super) fn sparse(&self) -> SparseBonuses<'_> {
        // What is left over from a batch with bonuses means nothing in one without.
        let column_of = if self.storage == BonusStorage::None { &[] } else { &self.column_of[..] };
        SparseBonuses { column_of, ends: &self.ends, bonuses: &self.bonuses, ages: &self.ages }
    }

    /// Whether what is not listed has no bonus, and what is has no malus: these only add.
    pub(super) fn only_add(&self) -> bool {
        match self.storage {
            BonusStorage::None => true,
            BonusStorage::Columns => false,
            BonusStorage::Turns | BonusStorage::Both => !self.any_malus && self.greatest < 1 << 31,
        }
    }

    /// The column of a worker, the only one where there are no bonuses; none where it may take nobody.
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

    /// Gives a column its turn, where they take turns.
    pub(super) fn turn_to(&mut self, column: usize) {
        let column = column as u32;
        if self.storage != BonusStorage::Turns || self.added == column {
            return;
        }
        let before = std::mem::replace(&mut self.added, column);
        let mut ages = std::mem::take(&mut self.ages);
        for (column, sign) in [(before, -1), (column, 1)] {
            add(&mut ages, self.sparse().of_column(column), sign);
        }
        self.ages = ages;
    }

    /// A column; where they take turns, it must be its own.
    pub(super) fn of_column(&self, column: usize) -> &[Block] {
        match self.storage {
            BonusStorage::None | BonusStorage::Turns => &self.ages,
            BonusStorage::Columns | BonusStorage::Both => {
                let blocks = self.ages.len();
                &self.columns[column * blocks..(column + 1) * blocks]
            }
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

/// Adds bonuses to a column, or takes them off.
fn add(base: &mut [Block], bonuses: &[Bonus], sign: i32) {
    for bonus in bonuses {
        let units = &mut base[bonus.entry as usize / BLOCK].0[bonus.entry as usize % BLOCK];
        *units = units.wrapping_add(sign * bonus.units);
    }
}

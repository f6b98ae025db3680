//! A batch as dense columns: requests in the pool's length order (by survival class first), eligibility bits and bonuses by worker.

mod bonuses;
mod eligibility;
mod layout;
#[cfg(test)]
mod tests;

use self::bonuses::BonusColumns;
use self::eligibility::Eligibility;
use self::layout::Layout;
use super::Kernels;
use super::column::{Found, GREATEST};
use super::dense::{Kept, Query, Rows, Tier};
use super::lanes::Block;
use super::runs::{Run, Runs};
use super::sparse::SparseBonuses;
use crate::backend::picks::hold;
use crate::batch::Batch;
use crate::pool::{BLOCK, NO_ROW, Ordered, PoolSlot};
use crate::score::{Age, Profile};

/// Buffers of the dense columns, kept across steps.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    kernels: &'static Kernels,
    only: Option<Tier>,
    layout: Layout,
    runs: Runs,
    tokens: Vec<Block>,
    /// When each request came and its rank in arrival order, where there are classes; the pool's own order has them otherwise.
    enqueued: Vec<[u32; BLOCK]>,
    arrived: Vec<u64>,
    /// Each request's row of pair terms.
    rows: Vec<u32>,
    bonuses: BonusColumns,
    eligibility: Eligibility,
    /// Whether who waits may be searched by length for anybody, its bonuses aside: these only add.
    searchable: bool,
    lengths: (i64, i64),
    greatest_age: i64,
    unit: i64,
    age: Age,
    query: Query,
    kept: Kept,
    /// The worker and class whose profile was prepared last, its column, and whether lanes may hold it.
    prepared: Option<(usize, Option<u8>)>,
    column: usize,
    held: bool,
    /// Runs scored so far, and those that no allowed lanes could hold.
    scored_count: u64,
    unheld_count: u64,
}

impl Matrix {
    pub(crate) fn new(kernels: &'static Kernels) -> Self {
        Self {
            kernels,
            only: None,
            layout: Layout::default(),
            runs: Runs::default(),
            tokens: Vec::new(),
            enqueued: Vec::new(),
            arrived: Vec::new(),
            rows: Vec::new(),
            bonuses: BonusColumns::default(),
            eligibility: Eligibility::default(),
            searchable: false,
            lengths: (0, 0),
            greatest_age: 0,
            unit: 1,
            age: Age::default(),
            query: Query::default(),
            kept: Kept::default(),
            prepared: None,
            column: 0,
            held: false,
            scored_count: 0,
            unheld_count: 0,
        }
    }

    /// Allows only certain lanes: what they cannot hold exactly is scored one by one.
    pub(crate) fn only(mut self, tier: Option<Tier>) -> Self {
        self.only = tier;
        self
    }

    /// Takes the waiting requests of a batch; nobody is taken yet. Where a search by length may find the best of a column, and does but for a few
    /// bonuses, the columns stay empty.
    pub(crate) fn load(&mut self, batch: &Batch<'_>, age: Age, unit: i64, may_search: bool) {
        let pool = batch.waiting();
        let ordered = pool.ordered();
        (self.age, self.unit) = (age, unit);
        self.prepared = None;
        self.lengths = match (ordered.tokens.first(), ordered.tokens.last()) {
            (Some(&shortest), Some(&longest)) => (i64::from(shortest), i64::from(longest)),
            _ => (0, 0),
        };

        self.lay_out(batch);
        if !self.layout.is_in_order() {
            self.put_classes(&ordered);
        }
        self.runs.measure(|entry| ordered.tokens[self.layout.positions()[entry] as usize]);
        self.put_rows(&ordered);
        let anybody_refused = self.eligibility.find_bound(batch, &self.layout);
        self.greatest_age = unit.saturating_mul(age.tokens(pool.longest_wait_steps()));
        self.searchable = false;
        if self.fits_lanes() {
            let enqueued =
                if self.layout.is_in_order() { ordered.enqueued_blocks } else { &self.enqueued[..] };
            let ages = (ordered.now_step, enqueued);
            self.bonuses.put_ages(self.kernels, ages, (age, unit), self.greatest_age);
            self.bonuses.put_bonuses(self.kernels, batch, &self.rows);
            self.searchable =
                may_search && self.layout.is_in_order() && !anybody_refused && self.bonuses.only_add();
            if self.searchable {
                return;
            }
            self.bonuses.bound(self.kernels, &mut self.runs);
        } else {
            self.bonuses.clear();
            self.runs.unbound();
        }
        if self.layout.is_in_order() {
            for (into, from) in self.tokens.iter_mut().zip(ordered.token_blocks) {
                into.0 = from.map(|tokens| tokens as i32);
            }
        }
        self.eligibility.put(self.kernels, batch, &self.layout, &self.rows);
    }

    /// Lays a batch out and makes room for it, whether it comes here or not: a later one may.
    pub(crate) fn lay_out(&mut self, batch: &Batch<'_>) {
        self.layout.lay_out(batch, &mut self.runs);
        let blocks = self.runs.blocks();
        self.tokens.resize(blocks, Block::default());
        self.bonuses.resize(blocks);
        self.eligibility.resize(batch.workers().len(), blocks);
        hold(&mut self.rows, blocks * BLOCK);
    }

    /// Puts requests where those of their class are.
    fn put_classes(&mut self, ordered: &Ordered<'_>) {
        self.enqueued.resize(self.tokens.len(), [0; BLOCK]);
        self.arrived.resize(self.tokens.len() * BLOCK, 0);
        for (entry, &position) in self.layout.positions().iter().enumerate() {
            let at = position as usize;
            if at < ordered.tokens.len() {
                self.tokens[entry / BLOCK].0[entry % BLOCK] = ordered.tokens[at] as i32;
                self.enqueued[entry / BLOCK][entry % BLOCK] = ordered.enqueued[at];
                self.arrived[entry] = ordered.arrived_blocks[at / BLOCK][at % BLOCK];
            }
        }
    }

    /// Takes the row of every request.
    fn put_rows(&mut self, ordered: &Ordered<'_>) {
        self.rows.clear();
        if self.layout.is_in_order() {
            self.rows.extend_from_slice(ordered.pair_rows);
        } else {
            let row_of = |&position: &u32| ordered.pair_rows.get(position as usize).copied();
            let rows = self.layout.positions().iter().map(|position| row_of(position).unwrap_or(NO_ROW));
            self.rows.extend(rows);
        }
        self.rows.resize(self.tokens.len() * BLOCK, NO_ROW);
    }

    fn fits_lanes(&self) -> bool {
        self.greatest_age < GREATEST && self.unit < GREATEST
    }

    /// Whether the best free request of any column is that of a search by length or one that [`SparseBonuses::best`] adds.
    pub(crate) fn is_searchable(&self) -> bool {
        self.searchable
    }

    /// The bonuses, where they are few.
    pub(crate) fn sparse(&self) -> SparseBonuses<'_> {
        self.bonuses.sparse()
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.list().len()
    }

    pub(crate) fn run(&self, run: usize) -> Run {
        self.runs.list()[run]
    }

    /// Whether the request at a position of the length order is one of a run.
    #[cfg(feature = "ascend")]
    pub(crate) fn holds(&self, run: usize, position: usize) -> bool {
        let run = self.runs.list()[run];
        (run.from..run.to).contains(&(self.layout.entry(position) / BLOCK))
    }

    /// Takes the request at a position of the length order.
    pub(crate) fn take(&mut self, position: usize) {
        if !self.searchable {
            self.eligibility.take(self.layout.entry(position));
        }
    }

    pub(crate) fn give_back(&mut self, batch: &Batch<'_>, position: usize) {
        if !self.searchable {
            let pool = batch.waiting();
            let request = pool.request(PoolSlot(pool.ordered().slots[position]));
            self.eligibility.give_back(self.layout.entry(position), batch, request);
        }
    }

    /// Says that a profile is about to be drawn anew.
    pub(crate) fn forget(&mut self) {
        self.prepared = None;
    }

    /// Whether the profile of a worker and class is the one prepared last.
    pub(crate) fn is_prepared(&self, worker: usize, class: Option<u8>) -> bool {
        self.prepared == Some((worker, class))
    }

    /// Prepares the profile of a worker for requests of one class and at most `longest` tokens.
    pub(crate) fn prepare(&mut self, (worker, class): (usize, Option<u8>), profile: &Profile, longest: i64) {
        self.prepared = Some((worker, class));
        self.runs.forget();
        self.held = false;
        let Some(column) = self.bonuses.column(worker) else { return };
        if !self.fits_lanes() || longest < self.lengths.0 {
            return;
        }
        self.column = column;
        self.bonuses.turn_to(column);
        self.query.bit = 1 << (worker % 32);
        self.query.cut_off = longest < self.lengths.1;
        let lengths = (self.lengths.0, self.lengths.1.min(longest));
        self.held = (self.kernels.prepare)(&mut self.query, profile, lengths);
        if self.held {
            self.runs.bound(self.kernels, &self.query, column);
        }
    }

    /// At least the best score of each run for the worker and profile prepared last; empty where that is not known.
    pub(crate) fn bounds(&self) -> &[i64] {
        self.runs.bounds()
    }

    /// Runs scored so far, and how many of these no allowed lanes could hold.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.scored_count, self.unheld_count)
    }

    /// The best free entry of a run for the worker and profile prepared last, at most `longest` tokens long.
    pub(crate) fn best(
        &mut self,
        batch: &Batch<'_>,
        run: Run,
        profile: &Profile,
        worker: usize,
        longest: i64,
    ) -> Option<Found> {
        if longest < i64::from(run.lengths.0) {
            return None;
        }
        self.scored_count += 1;
        let tiers = self.only.as_ref().map_or(self.kernels.tiers, std::slice::from_ref);
        let held = match self.held {
            true => (self.kernels.cut)(&mut self.query, run.lengths, self.bonuses.greatest(), tiers),
            false => None,
        };
        let Some((tier, short_of)) = held else {
            self.unheld_count += 1;
            return self.best_one_by_one(batch, run, profile, worker, longest);
        };
        let base = self.bonuses.of_column(self.column);
        let words = self.eligibility.words(worker);
        let arrived = match self.layout.is_in_order() {
            true => batch.waiting().ordered().arrived_blocks.as_flattened(),
            false => &self.arrived[..],
        };
        let rows = Rows {
            tokens: &self.tokens[run.from..run.to],
            base: &base[run.from..run.to],
            words: &words[run.from..run.to],
            arrived: &arrived[run.from * BLOCK..(run.to * BLOCK).min(arrived.len())],
        };
        let best = (self.kernels.dense)(tier, &rows, &self.query, &mut self.kept)?;
        let position = self.layout.positions()[run.from * BLOCK + best.index as usize] as usize;
        Some(Found { position, score: best.score + short_of })
    }

    /// The same in 64 bits, by the definition of a score.
    fn best_one_by_one(
        &self,
        batch: &Batch<'_>,
        run: Run,
        profile: &Profile,
        worker: usize,
        longest: i64,
    ) -> Option<Found> {
        let (pool, words) = (batch.waiting(), self.eligibility.words(worker));
        let slots = pool.ordered().slots;
        let mut best: Option<(i64, u64, usize)> = None;
        for entry in run.from * BLOCK..run.to * BLOCK {
            let word = words[entry / BLOCK].0[entry % BLOCK];
            let tokens = i64::from(self.tokens[entry / BLOCK].0[entry % BLOCK]);
            if word >> (worker % 32) & 1 == 0 || tokens > longest {
                continue;
            }
            let position = self.layout.positions()[entry] as usize;
            let slot = PoolSlot(slots[position]);
            let arrived = pool.arrival(slot);
            let extra =
                self.age.tokens(pool.waited_steps(slot)) + batch.bonus_tokens(pool.request(slot), worker);
            let score = profile.score(tokens) + self.unit * extra;
            if best.is_none_or(|(other, earlier, _)| score > other || (score == other && arrived < earlier)) {
                best = Some((score, arrived, position));
            }
        }
        best.map(|(score, _, position)| Found { position, score })
    }
}

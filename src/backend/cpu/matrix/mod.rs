//! A batch as dense columns, for requests that their lengths alone do not tell apart.
//!
//! | module | |
//! |---|---|
//! | `layout` | where each request stands: in the length order, each survival class for itself |
//! | `runs` | stretches of that order, which are bounded and scored one by one |
//! | `bonuses` | age plus bonus of each request on each open worker |
//! | `sparse` | bonuses of few pairs, which leave the columns empty: searched by length |
//! | `eligibility` | which request may enter which worker, and which are placed |

mod bonuses;
mod eligibility;
mod layout;
mod runs;
mod sparse;
#[cfg(test)]
mod tests;

pub(crate) use self::runs::NO_REQUEST;
pub(crate) use self::sparse::SparseBonuses;

use self::bonuses::BonusColumns;
use self::eligibility::Eligibility;
use self::layout::Layout;
use self::runs::{Run, Runs};
use super::Kernels;
use super::column::{Found, GREATEST};
use super::dense::{Rows, SortedKnots, TooWide};
use super::lanes::Block;
use crate::backend::picks::hold;
use crate::batch::Batch;
use crate::pool::{BLOCK, NO_ROW, Ordered, PoolSlot};
use crate::score::{Age, Profile};

/// Buffers of the dense columns, kept across steps.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    kernels: &'static Kernels,
    layout: Layout,
    runs: Runs,
    tokens: Vec<Block>,
    /// Where there are classes, how often each request was passed and its rank in arrival order; otherwise
    /// the pool has both.
    passed: Vec<[u32; BLOCK]>,
    arrived: Vec<u64>,
    /// Each request's row of pair terms.
    rows: Vec<u32>,
    bonuses: BonusColumns,
    eligibility: Eligibility,
    /// Whether columns are searched by length: nothing but bonuses tells requests apart, and these only add.
    searchable: bool,
    lengths: (i64, i64),
    greatest_age: i64,
    unit: i64,
    age: Age,
    knots: Box<SortedKnots>,
    /// Scores of a run.
    scores: Vec<Block>,
    /// The worker and class whose profile was prepared last, its column, and whether lanes may hold it.
    prepared: Option<(usize, Option<u8>)>,
    column: usize,
    held: bool,
    /// Runs scored so far, and those that no lanes could hold.
    scored_count: u64,
    unheld_count: u64,
}

impl Matrix {
    pub(crate) fn new(kernels: &'static Kernels) -> Self {
        Self {
            kernels,
            layout: Layout::default(),
            runs: Runs::default(),
            tokens: Vec::new(),
            passed: Vec::new(),
            arrived: Vec::new(),
            rows: Vec::new(),
            bonuses: BonusColumns::default(),
            eligibility: Eligibility::default(),
            searchable: false,
            lengths: (0, 0),
            greatest_age: 0,
            unit: 1,
            age: Age::default(),
            knots: Box::default(),
            scores: Vec::new(),
            prepared: None,
            column: 0,
            held: false,
            scored_count: 0,
            unheld_count: 0,
        }
    }

    /// Takes the waiting requests of a batch, none of them placed. With `may_search` the columns stay empty
    /// where a search by length finds the best of a column, a few bonuses aside.
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
        let may_search = may_search && self.layout.is_in_order() && !anybody_refused;
        self.greatest_age = unit.saturating_mul(age.tokens(pool.most_passed()));
        self.searchable = false;
        if self.fits_lanes() {
            let passed = if self.layout.is_in_order() { ordered.passed_blocks } else { &self.passed[..] };
            self.bonuses.put_ages(self.kernels, passed, (age, unit), self.greatest_age);
            self.searchable = self.bonuses.put_bonuses(self.kernels, batch, &self.rows, may_search);
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

    /// Lays a batch out and makes room for it, even where it is searched by length: a later one may come
    /// here.
    pub(crate) fn lay_out(&mut self, batch: &Batch<'_>) {
        self.layout.lay_out(batch, &mut self.runs);
        let blocks = self.runs.blocks();
        self.tokens.resize(blocks, Block::default());
        self.bonuses.resize(blocks);
        self.scores.resize(self.runs.longest(), Block::default());
        self.eligibility.resize(batch.workers().len(), blocks);
        hold(&mut self.rows, blocks * BLOCK);
    }

    /// Puts requests where those of their class are.
    fn put_classes(&mut self, ordered: &Ordered<'_>) {
        self.passed.resize(self.tokens.len(), [0; BLOCK]);
        self.arrived.resize(self.tokens.len() * BLOCK, 0);
        for (entry, &position) in self.layout.positions().iter().enumerate() {
            let at = position as usize;
            if at < ordered.tokens.len() {
                self.tokens[entry / BLOCK].0[entry % BLOCK] = ordered.tokens[at] as i32;
                self.passed[entry / BLOCK][entry % BLOCK] = ordered.passed[at];
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

    /// Whether the best free request of a column is the one that a search by length finds or one that
    /// [`SparseBonuses::best`] adds.
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

    /// Says that a new profile is about to be made.
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
        let lengths = (self.lengths.0, self.lengths.1.min(longest));
        self.held = (self.kernels.sort_knots)(&mut self.knots, profile, lengths);
        if self.held {
            self.runs.bound(self.kernels, &self.knots, column);
        }
    }

    /// At least the best score of each run for the worker and profile prepared last; empty where that is not
    /// known.
    pub(crate) fn bounds(&self) -> &[i64] {
        self.runs.bounds()
    }

    /// Runs scored so far, and how many of these no lanes could hold.
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
        let scored = if self.held { self.best_in_lanes(batch, run, worker) } else { Err(TooWide) };
        scored.unwrap_or_else(|TooWide| {
            self.unheld_count += 1;
            if !self.held || self.bonuses.greatest() >= 1 << 31 {
                return self.best_by_definition(batch, run, profile, worker, longest);
            }
            // A run is in order of length: the line of a request is that of the one before, or a later one.
            let (base, mut line) = (self.bonuses.of_column(self.column), self.knots.ascending());
            self.best_one_by_one(batch, run, (worker, longest), |entry, tokens| {
                line(tokens) + i64::from(base[entry / BLOCK].0[entry % BLOCK])
            })
        })
    }

    fn best_in_lanes(
        &mut self,
        batch: &Batch<'_>,
        run: Run,
        worker: usize,
    ) -> Result<Option<Found>, TooWide> {
        let arrived = match self.layout.is_in_order() {
            true => batch.waiting().ordered().arrived_blocks.as_flattened(),
            false => &self.arrived[..],
        };
        let rows = Rows {
            tokens: &self.tokens[run.from..run.to],
            base: &self.bonuses.of_column(self.column)[run.from..run.to],
            words: &self.eligibility.words(worker)[run.from..run.to],
            arrived: &arrived[run.from * BLOCK..(run.to * BLOCK).min(arrived.len())],
            lengths: run.lengths,
            greatest_base: self.bonuses.greatest(),
            bit: 1 << (worker % 32),
        };
        let best = (self.kernels.best_of_run)(&rows, &self.knots, &mut self.scores)?;
        Ok(best.map(|best| {
            let entry = run.from * BLOCK + best.index as usize;
            Found { position: self.layout.positions()[entry] as usize, score: best.score }
        }))
    }

    /// The best of a run in 64 bits, by the definition of a score.
    fn best_by_definition(
        &self,
        batch: &Batch<'_>,
        run: Run,
        profile: &Profile,
        worker: usize,
        longest: i64,
    ) -> Option<Found> {
        let pool = batch.waiting();
        let slots = pool.ordered().slots;
        self.best_one_by_one(batch, run, (worker, longest), |entry, tokens| {
            let slot = PoolSlot(slots[self.layout.positions()[entry] as usize]);
            let extra = self.age.tokens(pool.passed(slot)) + batch.bonus_tokens(pool.request(slot), worker);
            profile.score(tokens) + self.unit * extra
        })
    }

    /// The best of a run in 64 bits, given the score of an entry and its tokens.
    fn best_one_by_one(
        &self,
        batch: &Batch<'_>,
        run: Run,
        (worker, longest): (usize, i64),
        mut score_of: impl FnMut(usize, i64) -> i64,
    ) -> Option<Found> {
        let (ordered, words) = (batch.waiting().ordered(), self.eligibility.words(worker));
        let mut best = None;
        for entry in run.from * BLOCK..run.to * BLOCK {
            let word = words[entry / BLOCK].0[entry % BLOCK];
            let tokens = i64::from(self.tokens[entry / BLOCK].0[entry % BLOCK]);
            if word >> (worker % 32) & 1 == 0 || tokens > longest {
                continue;
            }
            let position = self.layout.positions()[entry] as usize;
            let found = Found { position, score: score_of(entry, tokens) };
            if found.beats(best, &ordered) {
                best = Some(found);
            }
        }
        best
    }
}

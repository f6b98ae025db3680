//! A batch as dense columns: requests in the pool's length order (by survival class first), eligibility bits and bonuses by worker.

use super::Kernels;
use super::column::{Found, GREATEST};
use super::dense::{Hit, Kept, Query, Rows, Span, Tier};
use super::lanes::Block;
use super::listed::{Bonus, Listed, NO_COLUMN};
use super::runs::{Run, Runs, run_blocks};
use crate::batch::{Batch, Bonuses, Request};
use crate::pool::{BLOCK, NO_ROW, Ordered, PoolSlot};
use crate::score::{Age, Profile};

/// Bonuses are kept one by one where at most one cell of an open worker in so many has one: from there on adding and taking off costs more
/// than a column each (measured).
const SPARSE: usize = 16;

/// Looking into sixteen workers of a row costs as much as gathering the bonuses of so many requests on one worker (measured).
const LOOK: usize = 2;

/// A column that takes its turn at the ages for a run of requests, again and again, costs as much for a bonus as so many blocks of a column of its own
/// (measured).
const TURN: usize = 8;

/// Entries whose bonuses are found before it is asked again whether these are few.
const FEW_ENTRIES: usize = 64;

/// Buffers of the dense columns, kept across steps.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    kernels: &'static Kernels,
    only: Option<Tier>,
    tokens: Vec<Block>,
    /// When each request came and its rank in arrival order, where there are classes; the pool's own order has them otherwise.
    enqueued: Vec<[u32; BLOCK]>,
    arrived: Vec<u64>,
    /// Ages in score units; where bonuses are few, those of the worker prepared last are added.
    ages: Vec<Block>,
    /// Each request's row of pair terms, and who is bound to a rank.
    rows: Vec<u32>,
    bound: Vec<u32>,
    /// Per 32 workers a word for each request.
    words: Vec<Block>,
    open: Vec<u32>,
    /// Which column of bonuses a worker has: its place among the open ones.
    base_of: Vec<u32>,
    /// Whether bonuses are so few that they are kept one by one, and whether these are added to the ages and taken off again.
    listed: bool,
    sparse: bool,
    /// Ages plus bonuses, a column for each open worker, where they are many.
    bases: Vec<Block>,
    /// The bonuses one by one, as found and by column, and where each column ends, where they are few.
    found: Vec<Bonus>,
    bonuses: Vec<Bonus>,
    ends: Vec<u32>,
    any_malus: bool,
    /// Whether who waits may be searched by length for anybody, its bonuses aside: these only add.
    searchable: bool,
    /// The column whose bonuses `ages` has.
    added: u32,
    spans: Vec<Span>,
    open_lanes: Vec<Block>,
    entries: Vec<[u32; 2]>,
    hits: Vec<Hit>,
    /// The greatest magnitude of an age plus a bonus.
    greatest_base: i64,
    /// Position in the length order of each entry, and the entry of each position.
    positions: Vec<u32>,
    entry_of: Vec<u32>,
    runs: Runs,
    classes: Vec<(u8, u32)>,
    lengths: (i64, i64),
    greatest_age: i64,
    unit: i64,
    age: Age,
    any_bonus: bool,
    workers: usize,
    query: Query,
    kept: Kept,
    prepared: Option<(usize, Option<u8>)>,
    /// Whether lanes may hold the profile prepared last.
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
            tokens: Vec::new(),
            enqueued: Vec::new(),
            arrived: Vec::new(),
            ages: Vec::new(),
            rows: Vec::new(),
            bound: Vec::new(),
            words: Vec::new(),
            open: Vec::new(),
            base_of: Vec::new(),
            listed: false,
            sparse: false,
            bases: Vec::new(),
            found: Vec::new(),
            bonuses: Vec::new(),
            ends: Vec::new(),
            any_malus: false,
            searchable: false,
            added: NO_COLUMN,
            spans: Vec::new(),
            open_lanes: Vec::new(),
            entries: Vec::new(),
            hits: Vec::new(),
            greatest_base: 0,
            positions: Vec::new(),
            entry_of: Vec::new(),
            runs: Runs::default(),
            classes: Vec::new(),
            lengths: (0, 0),
            greatest_age: 0,
            unit: 1,
            age: Age::default(),
            any_bonus: false,
            workers: 0,
            query: Query::default(),
            kept: Kept::default(),
            prepared: None,
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
        (self.age, self.unit, self.workers) = (age, unit, batch.workers().len());
        self.any_bonus = batch.bonuses().is_some();
        self.prepared = None;
        self.lengths = match (ordered.tokens.first(), ordered.tokens.last()) {
            (Some(&shortest), Some(&longest)) => (i64::from(shortest), i64::from(longest)),
            _ => (0, 0),
        };

        self.lay_out(batch);
        let blocks = self.runs.blocks();
        // What is left over from before is masked out by the words.
        self.words.resize(self.workers.div_ceil(32) * blocks, Block::default());
        for column in [&mut self.tokens, &mut self.ages] {
            column.resize(blocks, Block::default());
        }
        if !self.classes.is_empty() {
            self.put_classes(&ordered);
        }
        self.runs.measure(|entry| ordered.tokens[self.positions[entry] as usize]);
        self.put_rows(batch, &ordered);
        let longest_wait = pool.longest_wait_steps();
        self.greatest_age = unit.saturating_mul(age.tokens(longest_wait));
        self.greatest_base = self.greatest_age;
        (self.listed, self.sparse, self.searchable) = (false, false, false);
        if self.fits_lanes() {
            let enqueued = if self.classes.is_empty() { ordered.enqueued_blocks } else { &self.enqueued[..] };
            (self.kernels.ages)(ordered.now_step, enqueued, age, unit as i32, &mut self.ages);
            self.add_bonuses(batch);
            let nobody_refused = self.bound.is_empty() && batch.eligible_rows().is_none();
            let few = !self.any_bonus || (self.listed && !self.any_malus && self.greatest_base < 1 << 31);
            self.searchable = may_search && self.classes.is_empty() && nobody_refused && few;
        }
        if self.searchable {
            return;
        }
        let turns = self.bonuses.len() * TURN * self.runs.list().len();
        self.bound_runs();
        if self.any_bonus && self.sparse && turns > self.open.len() * blocks {
            self.spread_bonuses();
        }
        if self.classes.is_empty() {
            for (into, from) in self.tokens.iter_mut().zip(ordered.token_blocks) {
                into.0 = from.map(|tokens| tokens as i32);
            }
        }
        self.put_words(batch, ordered.slots);
    }

    /// Puts requests where those of their class are.
    fn put_classes(&mut self, ordered: &Ordered<'_>) {
        self.enqueued.resize(self.tokens.len(), [0; BLOCK]);
        self.arrived.resize(self.tokens.len() * BLOCK, 0);
        for (entry, &position) in self.positions.iter().enumerate() {
            let at = position as usize;
            if at < ordered.tokens.len() {
                self.tokens[entry / BLOCK].0[entry % BLOCK] = ordered.tokens[at] as i32;
                self.enqueued[entry / BLOCK][entry % BLOCK] = ordered.enqueued[at];
                self.arrived[entry] = ordered.arrived_blocks[at / BLOCK][at % BLOCK];
            }
        }
    }

    /// Whether the best free request of any column is that of a search by length or one that [`Listed::best`] adds.
    pub(crate) fn is_searchable(&self) -> bool {
        self.searchable
    }

    /// The bonuses, where they are few.
    pub(crate) fn listed(&self) -> Listed<'_> {
        // What is left over from a batch with bonuses means nothing in one without.
        let base_of = if self.any_bonus { &self.base_of[..] } else { &[] };
        Listed { base_of, ends: &self.ends, bonuses: &self.bonuses, ages: &self.ages }
    }

    /// The bonuses of a column, where they are few.
    fn bonuses_of(&self, column: u32) -> &[Bonus] {
        if self.any_bonus { self.listed().of_column(column) } else { &[] }
    }

    /// The row of every request, and who is bound to a rank.
    fn put_rows(&mut self, batch: &Batch<'_>, ordered: &Ordered<'_>) {
        let (pool, slots) = (batch.waiting(), ordered.slots);
        self.rows.clear();
        if self.classes.is_empty() {
            self.rows.extend_from_slice(ordered.pair_rows);
        } else {
            let row_of = |&position: &u32| ordered.pair_rows.get(position as usize).copied();
            self.rows.extend(self.positions.iter().map(|position| row_of(position).unwrap_or(NO_ROW)));
        }
        self.rows.resize(self.tokens.len() * BLOCK, NO_ROW);
        self.bound.clear();
        if pool.any_rank() {
            let slot_of = |position: u32| slots.get(position as usize).map(|&slot| PoolSlot(slot));
            let is_bound = |position| slot_of(position).is_some_and(|slot| pool.request(slot).rank.is_some());
            let entries = self.positions.iter().zip(0..).filter(|&(&position, _)| is_bound(position));
            self.bound.extend(entries.map(|(_, entry)| entry));
        }
    }

    /// Which workers may take each request.
    fn put_words(&mut self, batch: &Batch<'_>, slots: &[u32]) {
        let (pool, blocks) = (batch.waiting(), self.tokens.len());
        let words = self.workers.div_ceil(32);
        match batch.eligible_rows() {
            None => self.words.fill(Block([-1; BLOCK])),
            Some((masks, stride)) => {
                let rows = self.rows.as_chunks().0;
                for (pair, words) in self.words.chunks_mut((2 * blocks).max(1)).enumerate() {
                    (self.kernels.words)((masks, stride, pair), rows, words.split_at_mut(blocks));
                }
            }
        }
        for &entry in &self.bound {
            let request = pool.request(PoolSlot(slots[self.positions[entry as usize] as usize]));
            for word in 0..words {
                let block = &mut self.words[word * blocks + entry as usize / BLOCK];
                block.0[entry as usize % BLOCK] = eligible_word(batch, request, word);
            }
        }
        // Nobody stands where a class is filled up to whole strides.
        let nobody = |&(_, &position): &(usize, &u32)| position as usize >= slots.len();
        let empty: &[u32] =
            if self.classes.is_empty() { &self.positions[slots.len()..] } else { &self.positions };
        let first = self.positions.len() - empty.len();
        for (at, _) in empty.iter().enumerate().filter(nobody) {
            for word in 0..words {
                self.words[word * blocks + (first + at) / BLOCK].0[(first + at) % BLOCK] = 0;
            }
        }
    }

    /// Takes the bonuses on the workers that may take anybody.
    fn add_bonuses(&mut self, batch: &Batch<'_>) {
        self.added = NO_COLUMN;
        let Some(bonuses) = batch.bonuses() else { return };
        self.base_of.clear();
        self.base_of.resize(self.workers, NO_COLUMN);
        self.open.clear();
        self.spans.clear();
        self.open_lanes.clear();
        self.open_lanes.resize(self.workers.div_ceil(BLOCK), Block::default());
        for (workers, from) in batch.workers().chunks(64).zip((0..).step_by(64)) {
            let mut bits = 0;
            for (worker, at) in workers.iter().zip(0..) {
                if worker.open_slots() > 0 {
                    self.base_of[(from + at) as usize] = self.open.len() as u32;
                    self.open.push(from + at);
                    self.open_lanes[(from + at) as usize / BLOCK].0[at as usize % BLOCK] = -1;
                    bits |= 1 << at;
                }
            }
            if bits != 0 {
                self.spans.push((from, bits));
            }
        }
        let few = self.list_bonuses(batch, bonuses);
        (self.listed, self.sparse) = (few.is_some(), few.is_some());
        let greatest = few.unwrap_or_else(|| self.fill_bases(bonuses));
        self.greatest_base = greatest.saturating_mul(self.unit).saturating_add(self.greatest_age);
    }

    /// Lists the bonuses that are not zero and returns the greatest magnitude in tokens; none where they are many.
    fn list_bonuses(&mut self, batch: &Batch<'_>, bonuses: Bonuses<'_>) -> Option<i64> {
        // As many as may be found, whoever is open and whether it pays today: a later batch must not allocate.
        let most = self.rows.len();
        for bonuses in [&mut self.found, &mut self.bonuses] {
            bonuses.clear();
            bonuses.reserve((most / SPARSE + 2 * FEW_ENTRIES) * self.workers);
        }
        self.ends.clear();
        self.ends.reserve(self.workers + 1);
        self.bases.reserve((self.open.len() * self.tokens.len()).saturating_sub(self.bases.len()));
        self.entries.resize(most + 1, [0; 2]);
        self.hits.resize(FEW_ENTRIES * self.workers.div_ceil(64) + 1, Hit::default());
        // Looking into every row must pay.
        let with_row = batch.waiting().with_pair_row();
        if with_row * (self.open_lanes.len() + 2) * LOOK > most * self.open.len() {
            return None;
        }
        let mut listed = 0;
        for (&row, entry) in self.rows.iter().zip(0..) {
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
            let hits = (self.kernels.find_bonuses)(bonuses, self.workers, open, entries, &mut self.hits);
            for &Hit { entry, from, mut bits } in &self.hits[..hits] {
                let row = self.rows[entry as usize] as usize * self.workers;
                while bits != 0 {
                    let worker = from as usize + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let tokens = bonuses.at(row + worker);
                    greatest = greatest.max(tokens.abs());
                    self.any_malus |= tokens < 0;
                    let column = self.base_of[worker];
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

    /// Fills a base for each open worker, and returns the greatest magnitude of a bonus in tokens.
    fn fill_bases(&mut self, bonuses: Bonuses<'_>) -> i64 {
        // What is left over from before is written over.
        self.bases.resize(self.open.len() * self.tokens.len(), Block::default());
        // Offsets that do not fit their lanes have no place in a matrix that fits a memory, but nothing here relies on that.
        if bonuses.len() >= NO_ROW as usize - self.workers {
            return i64::MAX;
        }
        let from = (self.rows.as_chunks().0, &self.ages[..]);
        let bonuses = (bonuses, self.workers as u32);
        (self.kernels.add_bonuses)(bonuses, &self.open, self.unit as i32, from, &mut self.bases)
    }

    /// Fills a base for each open worker from the bonuses one by one.
    fn spread_bonuses(&mut self) {
        let blocks = self.tokens.len();
        self.sparse = false;
        let mut bases = std::mem::take(&mut self.bases);
        // What is left over from before is written over.
        bases.resize(self.open.len() * blocks, Block::default());
        for (base, column) in bases.chunks_exact_mut(blocks.max(1)).zip(0..) {
            base.copy_from_slice(&self.ages);
            for bonus in self.bonuses_of(column) {
                let age = &mut base[bonus.entry as usize / BLOCK].0[bonus.entry as usize % BLOCK];
                *age = age.wrapping_add(bonus.units);
            }
        }
        self.bases = bases;
    }

    /// Adds the bonuses of a column to the ages instead of those that are there.
    fn add_column(&mut self, column: u32) {
        let before = std::mem::replace(&mut self.added, column);
        if before == column {
            return;
        }
        for (column, sign) in [(before, -1), (column, 1)] {
            let mut ages = std::mem::take(&mut self.ages);
            for bonus in self.bonuses_of(column) {
                let age = &mut ages[bonus.entry as usize / BLOCK].0[bonus.entry as usize % BLOCK];
                *age = age.wrapping_add(sign * bonus.units);
            }
            self.ages = ages;
        }
    }

    /// Bounds the ages and bonuses of each run.
    fn bound_runs(&mut self) {
        // A single run is looked at anyway.
        if self.runs.list().len() <= 1 || !self.fits_lanes() || self.greatest_base >= 1 << 31 {
            self.runs.unbound();
        } else if self.any_bonus && !self.listed {
            self.runs.bound_bases(self.kernels, &self.bases);
        } else {
            let (bonuses, columns) =
                if self.any_bonus { (&self.bonuses[..], self.open.len()) } else { (&[][..], 1) };
            self.runs.bound_bonuses(self.kernels, &self.ages, bonuses, columns);
        }
    }

    fn fits_lanes(&self) -> bool {
        self.greatest_age < GREATEST && self.unit < GREATEST
    }

    /// Where the requests of each class go, each class in whole strides.
    fn lay_out(&mut self, batch: &Batch<'_>) {
        let pool = batch.waiting();
        let mut common = pool.len();
        // Without classes entries are positions, most of them from before.
        let kept = if self.classes.is_empty() { self.positions.len() as u32 } else { 0 };
        self.classes.clear();
        self.runs.clear();
        if batch.classes().is_some() && batch.has_pair_terms() {
            for (_, request, _) in pool.iter() {
                let Some(class) = request.survival_class else { continue };
                common -= 1;
                match self.classes.iter_mut().find(|(other, _)| *other == class) {
                    Some((_, count)) => *count += 1,
                    None => self.classes.push((class, 1)),
                }
            }
        }
        let looks_ahead = batch.projection().is_some_and(|rows| rows.horizon > 0);
        let longest = run_blocks(pool.len(), looks_ahead);
        self.runs.push(common, None, longest);
        for (class, count) in &mut self.classes {
            *count = self.runs.push(*count as usize, Some(*class), longest) as u32;
        }
        self.runs.hold(self.workers);
        let entries = self.runs.blocks() * BLOCK;
        let count = pool.len() as u32;
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
        self.entry_of.resize(count as usize, u32::MAX);
        let mut next = 0;
        for (position, &slot) in pool.ordered().slots.iter().enumerate() {
            let next = match pool.request(PoolSlot(slot)).survival_class {
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
        (run.from..run.to).contains(&(self.entry_of[position] as usize / BLOCK))
    }

    /// Takes the request at a position of the length order.
    pub(crate) fn take(&mut self, position: usize) {
        if self.searchable {
            return;
        }
        let (at, blocks) = (self.entry_of[position] as usize, self.tokens.len());
        for word in 0..self.workers.div_ceil(32) {
            self.words[word * blocks + at / BLOCK].0[at % BLOCK] = 0;
        }
    }

    pub(crate) fn give_back(&mut self, batch: &Batch<'_>, position: usize) {
        if self.searchable {
            return;
        }
        let (at, blocks) = (self.entry_of[position] as usize, self.tokens.len());
        let pool = batch.waiting();
        let request = pool.request(PoolSlot(pool.ordered().slots[position]));
        for word in 0..self.workers.div_ceil(32) {
            self.words[word * blocks + at / BLOCK].0[at % BLOCK] = eligible_word(batch, request, word);
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
        let column =
            self.base_of.get(worker).copied().filter(|&column| self.any_bonus && column != NO_COLUMN);
        self.held = self.fits_lanes() && (!self.any_bonus || column.is_some()) && longest >= self.lengths.0;
        self.runs.forget();
        if !self.held {
            return;
        }
        if let (true, Some(column)) = (self.sparse, column) {
            self.add_column(column);
        }
        self.query.bit = 1 << (worker % 32);
        self.query.cut_off = longest < self.lengths.1;
        let lengths = (self.lengths.0, self.lengths.1.min(longest));
        self.held = (self.kernels.prepare)(&mut self.query, profile, lengths);
        if self.held {
            self.runs.bound(self.kernels, &self.query, column.map_or(0, |column| column as usize));
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
        let blocks = self.tokens.len();
        if longest < i64::from(run.lengths.0) {
            return None;
        }
        self.scored_count += 1;
        let tiers = self.only.as_ref().map_or(self.kernels.tiers, std::slice::from_ref);
        let held = match self.held {
            true => (self.kernels.cut)(&mut self.query, run.lengths, self.greatest_base, tiers),
            false => None,
        };
        let Some((tier, short_of)) = held else {
            self.unheld_count += 1;
            return self.best_one_by_one(batch, run, profile, worker, longest);
        };
        let base = if self.any_bonus && !self.sparse {
            let column = self.base_of[worker] as usize;
            &self.bases[column * blocks..(column + 1) * blocks]
        } else {
            &self.ages[..]
        };
        let words = &self.words[worker / 32 * blocks..(worker / 32 + 1) * blocks];
        let arrived = match self.classes.is_empty() {
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
        let position = self.positions[run.from * BLOCK + best.index as usize] as usize;
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
        let (blocks, pool) = (self.tokens.len(), batch.waiting());
        let slots = pool.ordered().slots;
        let mut best: Option<(i64, u64, usize)> = None;
        for entry in run.from * BLOCK..run.to * BLOCK {
            let word = self.words[worker / 32 * blocks + entry / BLOCK].0[entry % BLOCK];
            let tokens = i64::from(self.tokens[entry / BLOCK].0[entry % BLOCK]);
            if word >> (worker % 32) & 1 == 0 || tokens > longest {
                continue;
            }
            let position = self.positions[entry] as usize;
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

/// Whether a request may run on each of 32 workers.
fn eligible_word(batch: &Batch<'_>, request: &Request, word: usize) -> i32 {
    let mut bits = batch.eligible_word(request, word / 2) >> (word % 2 * 32);
    if let Some(rank) = request.rank {
        bits &= if rank as usize / 32 == word { 1 << (rank % 32) } else { 0 };
    }
    bits as u32 as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::runs::NOBODY;
    use crate::batch::{Pairs, Worker};
    use crate::pool::Pool;
    use crate::score::Knot;
    use half::f16;

    fn random(seed: &mut u64, bound: u64) -> u64 {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 33) % bound
    }

    /// Every column's best, wherever bonuses are kept, is that of the definition, one request at a time.
    #[test]
    fn the_best_of_a_column_is_that_of_the_definition() {
        let (mut sparse, mut spread, mut filled, mut searched) = (0, 0, 0, 0);
        let mut matrices: Vec<Matrix> =
            super::super::Isa::ALL.into_iter().filter_map(Kernels::of).map(Matrix::new).collect();
        let seed = &mut 3u64;
        let rounds = if cfg!(miri) { 4 } else { 400 };
        for round in 0..rounds {
            // As many as an interpreter gets through.
            let (sizes, most) = if cfg!(miri) { (2, 20) } else { (7, 200) };
            let workers = [1usize, 5, 16, 31, 64, 70, 130][random(seed, sizes) as usize];
            let waiting = random(seed, most) as usize;
            // None has a bonus up to all.
            let density = [0, 1, 4, 30, 100][random(seed, 5) as usize];
            let (malus, halves, masks) = (random(seed, 3) == 0, random(seed, 2) == 0, random(seed, 2) == 0);
            let requests: Vec<Request> = (0..waiting as u64)
                .map(|id| {
                    let request =
                        Request::new(id, 1 + random(seed, 60) as u32).waited(random(seed, 30) as u32);
                    if random(seed, 3) > 0 { request.pairs(random(seed, 40) as u32) } else { request }
                })
                .collect();
            let list: Vec<Worker> =
                (0..workers).map(|_| Worker::new(1000, 1, u32::from(random(seed, 3) > 0))).collect();
            let bonus: Vec<f32> = (0..40 * workers)
                .map(|_| {
                    let bonus =
                        if random(seed, 100) < density { random(seed, 900) as f32 / 8.0 } else { 0.0 };
                    if malus && random(seed, 2) == 0 { -bonus } else { bonus }
                })
                .collect();
            let half: Vec<f16> = bonus.iter().map(|&bonus| f16::from_f32(bonus)).collect();
            let eligible: Vec<u64> = (0..40 * workers.div_ceil(64))
                .map(|_| random(seed, 1 << 31) * random(seed, 1 << 31))
                .collect();
            let pool = Pool::from_requests(&requests).expect("valid");
            let pairs = Pairs {
                bonus_tokens: if halves { &[] } else { &bonus },
                bonus_half_tokens: if halves { &half } else { &[] },
                eligible: if masks { &eligible } else { &[] },
            };
            let batch = Batch::draft(&list, &pool).pairs(pairs).check().expect("valid");
            let ordered = pool.ordered();
            let profile = Profile {
                intercept: 7,
                slope: 2,
                knots: vec![Knot { at_tokens: random(seed, 60) as i64, weight: 5 }],
            };
            let longest = 20 + random(seed, 60) as i64;
            let age = Age { linear: 1.0, quadratic: 0.25 };
            for matrix in &mut matrices {
                matrix.load(&batch, age, 3, false);
                match (matrix.listed, matrix.sparse) {
                    (true, true) => sparse += 1,
                    (true, false) => spread += 1,
                    (false, _) => filled += 1,
                }
                let taken: Vec<usize> = (0..waiting).filter(|_| random(seed, 6) == 0).collect();
                taken.iter().for_each(|&position| matrix.take(position));
                let best_of = |matrix: &mut Matrix, worker: usize| {
                    matrix.prepare((worker, None), &profile, longest);
                    assert!(matrix.held);
                    matrix.best(&batch, matrix.run(0), &profile, worker, longest)
                };
                // Twice, and in another order: columns take turns.
                let open = || (0..workers).filter(|&worker| list[worker].open_slots() > 0);
                for worker in open().chain(open().rev()).filter(|_| waiting > 0) {
                    let expected = matrix.best_one_by_one(&batch, matrix.run(0), &profile, worker, longest);
                    assert_eq!(best_of(matrix, worker), expected, "round {round}, worker {worker}");
                }
                if !matrix.listed || masks || malus || waiting == 0 {
                    continue;
                }
                let expected: Vec<Option<Found>> = open().map(|worker| best_of(matrix, worker)).collect();
                matrix.load(&batch, age, 3, true);
                assert!(matrix.is_searchable());
                let scan = |worker: Option<usize>| {
                    let free = (0..waiting).filter(|position| !taken.contains(position));
                    let fits = free.filter(|&position| i64::from(ordered.tokens[position]) <= longest);
                    let found = fits.map(|position| {
                        let slot = PoolSlot(ordered.slots[position]);
                        let extra = age.tokens(pool.waited_steps(slot))
                            + worker.map_or(0, |worker| batch.bonus_tokens(pool.request(slot), worker));
                        let tokens = i64::from(ordered.tokens[position]);
                        (profile.score(tokens) + 3 * extra, std::cmp::Reverse(pool.arrival(slot)), position)
                    });
                    found.max().map(|(score, _, position)| Found { position, score })
                };
                for (worker, expected) in open().zip(expected) {
                    assert_eq!(scan(Some(worker)), expected);
                    let is_taken = |position: usize| taken.contains(&position);
                    let fit = (worker, longest);
                    let found = matrix.listed().best(
                        &ordered,
                        scan(None),
                        |tokens| profile.score(tokens),
                        fit,
                        is_taken,
                    );
                    assert_eq!(found, expected, "round {round}, worker {worker}");
                    searched += 1;
                }
            }
        }
        assert!(
            cfg!(miri) || (sparse.min(spread).min(filled).min(searched) > 20),
            "{sparse} {spread} {filled} {searched}"
        );
    }

    /// Every run's best is that of the definition, whatever the profile, and lies below its bound; without bonuses the bound is exact.
    #[test]
    fn the_best_of_a_run_lies_below_its_bound() {
        let (mut bounded, mut wrapped, mut empty) = (0, 0, 0);
        let mut matrices: Vec<Matrix> =
            super::super::Isa::ALL.into_iter().filter_map(Kernels::of).map(Matrix::new).collect();
        let seed = &mut 5u64;
        let horizon = 3;
        for _ in 0..if cfg!(miri) { 1 } else { 60 } {
            let waiting = if cfg!(miri) { 140 } else { 1 + random(seed, 700) as usize };
            let workers = 3;
            let density = [0, 0, 2, 40][random(seed, 4) as usize];
            let classed = random(seed, 2) == 0;
            let longest = [60, 3000, 30_000][random(seed, 3) as usize];
            let requests: Vec<Request> = (0..waiting as u64)
                .map(|id| {
                    let request = Request::new(id, 1 + random(seed, longest) as u32);
                    let request = request.waited(random(seed, 30) as u32).pairs(id as u32);
                    if classed && random(seed, 3) > 0 {
                        request.class(random(seed, 2) as u8)
                    } else {
                        request
                    }
                })
                .collect();
            let list: Vec<Worker> = (0..workers).map(|_| Worker::new(1000, 1, 1)).collect();
            let rows = vec![1000u64; workers * (horizon + 1)];
            let classes = vec![0.5f32; 2 * (horizon + 1)];
            let bonus: Vec<f32> = (0..waiting * workers)
                .map(|_| if random(seed, 100) < density { random(seed, 900) as f32 - 200.0 } else { 0.0 })
                .collect();
            let pool = Pool::from_requests(&requests).expect("valid");
            let eligible: Vec<u64> = (0..waiting).map(|_| random(seed, 8) | random(seed, 8)).collect();
            let bonus_tokens = if density > 0 { &bonus[..] } else { &[] };
            let pairs = Pairs { bonus_tokens, eligible: &eligible, ..Pairs::default() };
            let mut draft = Batch::draft(&list, &pool).projection(horizon, &rows).pairs(pairs);
            if classed {
                draft = draft.classes(&classes);
            }
            let batch = draft.check().expect("valid");
            let age = Age { linear: 1.0, quadratic: 0.25 };
            for matrix in &mut matrices {
                matrix.load(&batch, age, 3, false);
                let taken: Vec<usize> = (0..waiting).filter(|_| random(seed, 6) == 0).collect();
                taken.iter().for_each(|&position| matrix.take(position));
                let sizes: &[u64] = if cfg!(miri) { &[1, 17] } else { &[0, 1, 2, 3, 17, 81, 129, 144, 145] };
                for &knots in sizes {
                    // Up to weights that only fit a run's lengths, and such that fit no lanes.
                    let heaviest = [3, 1 << 12, 1 << 20, 1 << 32][random(seed, 4) as usize];
                    let inside = random(seed, 2) == 0;
                    let profile = Profile {
                        intercept: random(seed, 1 << 40) as i64 - (1 << 39),
                        slope: (knots * random(seed, heaviest) / 2) as i64 + random(seed, 5) as i64 - 2,
                        knots: (0..knots)
                            .map(|_| Knot {
                                at_tokens: match inside {
                                    true => 2 + random(seed, longest - 3) as i64,
                                    false => random(seed, longest + longest / 4) as i64 - longest as i64 / 8,
                                },
                                weight: random(seed, heaviest) as i64,
                            })
                            .collect(),
                    };
                    let (worker, fits) = (random(seed, 3) as usize, 1 + random(seed, longest * 3 / 2) as i64);
                    for at in 0..matrix.runs() {
                        let run = matrix.run(at);
                        if !matrix.is_prepared(worker, run.class) {
                            matrix.prepare((worker, run.class), &profile, fits);
                        }
                        let found = matrix.best(&batch, run, &profile, worker, fits);
                        let expected = matrix.best_one_by_one(&batch, run, &profile, worker, fits);
                        assert_eq!(found, expected, "{knots} knots, {}", matrix.kernels.isa);
                        wrapped += u32::from(found.is_some() && matrix.held && matrix.query.wraps());
                        let Some(&bound) = matrix.bounds().get(at) else { continue };
                        bounded += 1;
                        assert!(found.is_none_or(|found| found.score <= bound), "{knots} knots");
                        let (shortest, longest) = (i64::from(run.lengths.0), i64::from(run.lengths.1));
                        if shortest > fits {
                            empty += 1;
                            assert_eq!(bound, NOBODY);
                        } else if density == 0 {
                            let scores = (shortest..=longest.min(fits)).map(|tokens| profile.score(tokens));
                            let oldest = matrix.ages[run.from..run.to].iter().flat_map(|block| block.0);
                            let top = oldest.take(run.count()).max().expect("somebody");
                            assert_eq!(Some(bound - i64::from(top)), scores.max(), "{knots} knots");
                        }
                    }
                    matrix.forget();
                }
            }
        }
        assert!(cfg!(miri) || bounded.min(wrapped).min(empty) > 100, "{bounded} {wrapped} {empty}");
    }
}

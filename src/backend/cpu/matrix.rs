//! A batch as dense columns: requests in the pool's length order (by survival class first), eligibility bits and bonuses by worker.

use super::Kernels;
use super::column::Found;
use super::dense::{Block, NO_ROW, Query, Rows, STRIDE, Tier};
use crate::batch::{Batch, Request};
use crate::pool::{BLOCK, PoolSlot};
use crate::score::{Age, Profile};

/// Blocks of a run that is scored as one, without a horizon and with one: the longer a score takes, the less is scored again.
const RUN_BLOCKS: [usize; 2] = [64, 8];

/// A run of requests of one survival class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    from: usize,
    to: usize,
    pub class: Option<u8>,
}

/// Buffers of the dense columns, kept across steps.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    kernels: &'static Kernels,
    only: Option<Tier>,
    tokens: Vec<Block>,
    enqueued: Vec<[u32; BLOCK]>,
    /// Rank in arrival order.
    arrived: Vec<u64>,
    /// Ages in score units.
    ages: Vec<Block>,
    /// Each request's row of pair terms, where its bonuses begin, and who is bound to a rank.
    rows: Vec<u32>,
    offsets: Vec<Block>,
    bound: Vec<u32>,
    /// Per 32 workers a word for each request.
    words: Vec<Block>,
    /// Ages plus bonuses, a column for each open worker.
    bases: Vec<Block>,
    open: Vec<u32>,
    /// Which column of `bases` a worker has.
    base_of: Vec<u32>,
    /// The greatest magnitude of an age plus a bonus.
    greatest_base: i64,
    /// Position in the length order of each entry, and the entry of each position.
    positions: Vec<u32>,
    entry_of: Vec<u32>,
    runs: Vec<Run>,
    classes: Vec<(u8, u32)>,
    lengths: (i64, i64),
    greatest_age: i64,
    unit: i64,
    age: Age,
    any_bonus: bool,
    workers: usize,
    query: Query,
    prepared: Option<(usize, Option<u8>)>,
    tier: Option<Tier>,
    intercept: i64,
    /// Profiles prepared so far, and those that no allowed lanes could hold.
    prepared_count: u64,
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
            offsets: Vec::new(),
            bound: Vec::new(),
            words: Vec::new(),
            bases: Vec::new(),
            open: Vec::new(),
            base_of: Vec::new(),
            greatest_base: 0,
            positions: Vec::new(),
            entry_of: Vec::new(),
            runs: Vec::new(),
            classes: Vec::new(),
            lengths: (0, 0),
            greatest_age: 0,
            unit: 1,
            age: Age::default(),
            any_bonus: false,
            workers: 0,
            query: Query::default(),
            prepared: None,
            tier: None,
            intercept: 0,
            prepared_count: 0,
            unheld_count: 0,
        }
    }

    /// Allows only certain lanes: what they cannot hold exactly is scored one by one.
    pub(crate) fn only(mut self, tier: Option<Tier>) -> Self {
        self.only = tier;
        self
    }

    /// Takes the waiting requests of a batch; nobody is taken yet.
    pub(crate) fn load(&mut self, batch: &Batch<'_>, age: Age, unit: i64) {
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
        let blocks = self.runs.last().map_or(0, |run| run.to);
        // What is left over from before is masked out by the words.
        for column in [&mut self.tokens, &mut self.ages, &mut self.offsets] {
            column.resize(blocks, Block::default());
        }
        self.enqueued.resize(blocks, [0; BLOCK]);
        self.arrived.resize(blocks * BLOCK, 0);
        let count = ordered.tokens.len();
        if self.classes.is_empty() {
            for (into, from) in self.tokens.iter_mut().zip(ordered.token_blocks) {
                into.0 = from.map(|tokens| tokens as i32);
            }
            self.enqueued[..ordered.enqueued_blocks.len()].copy_from_slice(ordered.enqueued_blocks);
            self.arrived[..count].copy_from_slice(&ordered.arrived_blocks.as_flattened()[..count]);
        } else {
            for (entry, &position) in self.positions.iter().enumerate() {
                let at = position as usize;
                if at < count {
                    self.tokens[entry / BLOCK].0[entry % BLOCK] = ordered.tokens[at] as i32;
                    self.enqueued[entry / BLOCK][entry % BLOCK] = ordered.enqueued[at];
                    self.arrived[entry] = ordered.arrived_blocks[at / BLOCK][at % BLOCK];
                }
            }
        }
        self.put_pairs(batch, ordered.slots);

        let longest_wait = pool.longest_wait_steps();
        self.greatest_age = unit.saturating_mul(age.tokens(longest_wait));
        self.greatest_base = self.greatest_age;
        if self.fits_lanes() {
            (self.kernels.ages)(ordered.now_step, &self.enqueued, age, unit as i32, &mut self.ages);
            self.add_bonuses(batch);
        }
    }

    /// Where the bonuses of every request begin, and which workers may take it.
    fn put_pairs(&mut self, batch: &Batch<'_>, slots: &[u32]) {
        let pool = batch.waiting();
        let (blocks, workers) = (self.tokens.len(), self.workers as u64);
        let words = self.workers.div_ceil(32);
        self.rows.clear();
        self.bound.clear();
        // One short loop that does nothing but wait for memory.
        self.rows.extend(self.positions.iter().zip(0..).map(|(&position, entry)| {
            let Some(&slot) = slots.get(position as usize) else { return NO_ROW };
            let request = pool.request(PoolSlot(slot));
            if request.rank.is_some() {
                self.bound.push(entry);
            }
            request.pair_row.unwrap_or(NO_ROW)
        }));
        for (offsets, rows) in self.offsets.iter_mut().zip(self.rows.as_chunks::<BLOCK>().0) {
            for (offset, &row) in offsets.0.iter_mut().zip(rows) {
                let from = u64::from(row) * workers;
                *offset = if from < u64::from(NO_ROW) { from as i32 } else { NO_ROW as i32 };
            }
        }
        self.words.resize(words * blocks, Block::default());
        match batch.eligible_rows() {
            None => self.words.fill(Block([-1; BLOCK])),
            Some((masks, stride)) => {
                for (pair, words) in self.words.chunks_mut((2 * blocks).max(1)).enumerate() {
                    let (first, second) = words.split_at_mut(blocks);
                    let mut seconds = second.iter_mut();
                    for (first, rows) in first.iter_mut().zip(self.rows.as_chunks::<BLOCK>().0) {
                        // The last of an odd number has no second.
                        let mut none = Block::default();
                        let second = seconds.next().unwrap_or(&mut none);
                        for ((first, second), &row) in first.0.iter_mut().zip(&mut second.0).zip(rows) {
                            // A request without a row may run anywhere.
                            let bits = masks.get(row as usize * stride + pair).copied().unwrap_or(u64::MAX);
                            (*first, *second) = (bits as i32, (bits >> 32) as i32);
                        }
                    }
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

    /// Fills the bases of the workers that may take anybody.
    fn add_bonuses(&mut self, batch: &Batch<'_>) {
        let Some(bonuses) = batch.bonuses() else { return };
        let blocks = self.tokens.len();
        self.base_of.clear();
        self.base_of.resize(self.workers, u32::MAX);
        self.open.clear();
        for (worker, at) in batch.workers().iter().zip(0..) {
            if worker.open_slots() > 0 {
                self.base_of[at as usize] = self.open.len() as u32;
                self.open.push(at);
            }
        }
        // What is left over from before is written over.
        self.bases.resize(self.open.len() * blocks, Block::default());
        // Offsets that do not fit their lanes have no place in a matrix that fits a memory, but nothing here relies on that.
        let greatest = if bonuses.len() >= NO_ROW as usize {
            i64::MAX
        } else {
            let from = (&self.offsets[..], &self.ages[..]);
            (self.kernels.add_bonuses)(bonuses, &self.open, self.unit as i32, from, &mut self.bases)
        };
        self.greatest_base = greatest.saturating_mul(self.unit).saturating_add(self.greatest_age);
    }

    fn fits_lanes(&self) -> bool {
        self.greatest_age < 1 << 29 && self.unit < 1 << 29
    }

    /// Where the requests of each class go, each class in whole strides.
    fn lay_out(&mut self, batch: &Batch<'_>) {
        let pool = batch.waiting();
        let (mut common, mut at) = (pool.len(), 0);
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
        let longest = RUN_BLOCKS[usize::from(batch.projection().is_some_and(|rows| rows.horizon > 0))];
        let runs = &mut self.runs;
        let mut push = |count: usize, class: Option<u8>| {
            let first = at;
            let to = at + count.div_ceil(BLOCK).next_multiple_of(STRIDE);
            while at < to {
                let end = (at + longest).min(to);
                runs.push(Run { from: at, to: end, class });
                at = end;
            }
            first * BLOCK
        };
        push(common, None);
        for (class, count) in &mut self.classes {
            *count = push(*count as usize, Some(*class)) as u32;
        }
        self.positions.clear();
        let count = pool.len() as u32;
        if self.classes.is_empty() {
            self.positions.extend(0..(at * BLOCK) as u32);
            self.entry_of.clear();
            self.entry_of.extend(0..count);
            return;
        }
        self.positions.resize(at * BLOCK, u32::MAX);
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
        self.runs.len()
    }

    pub(crate) fn run(&self, run: usize) -> Run {
        self.runs[run]
    }

    /// Whether the request at a position of the length order is one of a run.
    #[cfg(feature = "ascend")]
    pub(crate) fn holds(&self, run: usize, position: usize) -> bool {
        let run = self.runs[run];
        (run.from..run.to).contains(&(self.entry_of[position] as usize / BLOCK))
    }

    /// Takes the request at a position of the length order.
    pub(crate) fn take(&mut self, position: usize) {
        let (at, blocks) = (self.entry_of[position] as usize, self.tokens.len());
        for word in 0..self.workers.div_ceil(32) {
            self.words[word * blocks + at / BLOCK].0[at % BLOCK] = 0;
        }
    }

    pub(crate) fn give_back(&mut self, batch: &Batch<'_>, position: usize) {
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
        self.tier = None;
        let known = !self.any_bonus || self.base_of.get(worker).is_some_and(|&column| column != u32::MAX);
        if self.fits_lanes() && known {
            let lengths = (self.lengths.0, self.lengths.1.min(longest));
            self.query.bit = 1 << (worker % 32);
            self.query.cut = longest < self.lengths.1;
            (self.intercept, self.tier) =
                self.query.prepare(profile, lengths, self.greatest_base, self.kernels.floats, self.only);
        }
        self.prepared_count += 1;
        self.unheld_count += u64::from(self.tier.is_none());
    }

    /// Profiles prepared so far, and how many of these no allowed lanes could hold.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.prepared_count, self.unheld_count)
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
        if longest < self.lengths.0 {
            return None;
        }
        let Some(tier) = self.tier else { return self.best_one_by_one(batch, run, profile, worker, longest) };
        let base = if self.any_bonus {
            let column = self.base_of[worker] as usize;
            &self.bases[column * blocks..(column + 1) * blocks]
        } else {
            &self.ages[..]
        };
        let words = &self.words[worker / 32 * blocks..(worker / 32 + 1) * blocks];
        let rows = Rows {
            tokens: &self.tokens[run.from..run.to],
            base: &base[run.from..run.to],
            words: &words[run.from..run.to],
            arrived: &self.arrived[run.from * BLOCK..run.to * BLOCK],
        };
        let best = (self.kernels.dense)(tier, &rows, &self.query)?;
        let position = self.positions[run.from * BLOCK + best.index as usize] as usize;
        Some(Found { position, score: best.score + self.intercept })
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
            let (position, arrived) = (self.positions[entry] as usize, self.arrived[entry]);
            let slot = PoolSlot(slots[position]);
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

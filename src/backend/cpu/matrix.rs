//! A batch as dense columns: requests in arrival order (by survival class first), eligibility bits and bonuses by worker.

use super::Kernels;
use super::dense::{Block, NO_ROW, Query, Rows, STRIDE, Tier};
use super::lanes::Bonuses;
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

/// The best of a run on one worker: an entry of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub index: u32,
    pub score: i64,
}

/// Buffers of the dense columns, kept across steps.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    kernels: &'static Kernels,
    only: Option<Tier>,
    tokens: Vec<Block>,
    enqueued: Vec<Block>,
    /// Ages in score units.
    ages: Vec<Block>,
    /// Where each request's bonuses begin.
    offsets: Vec<Block>,
    /// Per 32 workers a word for each request.
    words: Vec<Block>,
    /// Ages plus bonuses, a column for each worker that was asked for.
    bases: Vec<Block>,
    /// Which column of `bases` a worker has, and its greatest magnitude.
    base_of: Vec<(u32, i64)>,
    columns: u32,
    slots: Vec<u32>,
    /// Of each pool slot, its entry.
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
}

impl Matrix {
    pub(crate) fn new(kernels: &'static Kernels) -> Self {
        Self {
            kernels,
            only: None,
            tokens: Vec::new(),
            enqueued: Vec::new(),
            ages: Vec::new(),
            offsets: Vec::new(),
            words: Vec::new(),
            bases: Vec::new(),
            base_of: Vec::new(),
            columns: 0,
            slots: Vec::new(),
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
        let words = self.workers.div_ceil(32);
        // What is left over from before is masked out by the words.
        for column in [&mut self.tokens, &mut self.enqueued, &mut self.ages] {
            column.resize(blocks, Block::default());
        }
        self.offsets.clear();
        self.offsets.resize(blocks, Block([NO_ROW as i32; BLOCK]));
        self.words.clear();
        self.words.resize(words * blocks, Block::default());
        self.slots.resize(blocks * BLOCK, u32::MAX);
        self.entry_of.resize(pool.slot_bound(), u32::MAX);

        let mut requests = pool.iter();
        if self.classes.is_empty() {
            // Block by block, so that nothing but the requests themselves is looked up.
            for block in 0..blocks {
                for lane in 0..BLOCK {
                    let Some((slot, request, waited)) = requests.next() else { break };
                    self.tokens[block].0[lane] = request.prompt_tokens as i32;
                    self.enqueued[block].0[lane] = (ordered.now_step - waited) as i32;
                    self.entry_of[slot.index()] = (block * BLOCK + lane) as u32;
                    self.slots[block * BLOCK + lane] = slot.0;
                    self.put_pairs(batch, request, (block, lane));
                }
            }
        } else {
            let mut next = 0;
            for (slot, request, waited) in requests {
                let count = match request.survival_class {
                    Some(class) => {
                        let known = self.classes.iter_mut().find(|(other, _)| *other == class);
                        &mut known.expect("laid out").1
                    }
                    None => &mut next,
                };
                let at = *count as usize;
                *count += 1;
                let (block, lane) = (at / BLOCK, at % BLOCK);
                self.tokens[block].0[lane] = request.prompt_tokens as i32;
                self.enqueued[block].0[lane] = (ordered.now_step - waited) as i32;
                self.entry_of[slot.index()] = at as u32;
                self.slots[at] = slot.0;
                self.put_pairs(batch, request, (block, lane));
            }
        }

        let longest_wait = pool.longest_wait_steps();
        self.greatest_age = unit.saturating_mul(age.tokens(longest_wait));
        if self.fits_lanes() {
            (self.kernels.ages)(ordered.now_step, &self.enqueued, age, unit as i32, &mut self.ages);
        }
        self.base_of.clear();
        self.base_of.resize(self.workers, (u32::MAX, 0));
        self.columns = 0;
    }

    /// Where the bonuses of a request begin, and which workers may take it.
    #[inline(always)]
    fn put_pairs(&mut self, batch: &Batch<'_>, request: &Request, (block, lane): (usize, usize)) {
        if let Some(row) = request.pair_row
            && self.any_bonus
        {
            let offset = u64::from(row) * self.workers as u64;
            self.offsets[block].0[lane] = u32::try_from(offset).unwrap_or(NO_ROW) as i32;
        }
        let (blocks, words) = (self.tokens.len(), self.workers.div_ceil(32));
        let mut at = block;
        if request.rank.is_some() {
            for word in 0..words {
                self.words[at].0[lane] = eligible_word(batch, request, word);
                at += blocks;
            }
            return;
        }
        for pair in 0..words.div_ceil(2) {
            let bits = batch.eligible_word(request, pair);
            self.words[at].0[lane] = bits as i32;
            // The last of an odd number has no second.
            if let Some(second) = self.words.get_mut(at + blocks) {
                second.0[lane] = (bits >> 32) as i32;
            }
            at += 2 * blocks;
        }
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
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn run(&self, run: usize) -> Run {
        self.runs[run]
    }

    /// Whether a request is one of a run.
    #[cfg(feature = "ascend")]
    pub(crate) fn holds(&self, run: usize, slot: PoolSlot) -> bool {
        let run = self.runs[run];
        (run.from..run.to).contains(&(self.entry_of[slot.index()] as usize / BLOCK))
    }

    pub(crate) fn slot(&self, index: u32) -> PoolSlot {
        PoolSlot(self.slots[index as usize])
    }

    pub(crate) fn take(&mut self, slot: PoolSlot) {
        let at = self.entry_of[slot.index()] as usize;
        let blocks = self.tokens.len();
        for word in 0..self.workers.div_ceil(32) {
            self.words[word * blocks + at / BLOCK].0[at % BLOCK] = 0;
        }
    }

    pub(crate) fn give_back(&mut self, batch: &Batch<'_>, slot: PoolSlot) {
        let at = self.entry_of[slot.index()] as usize;
        let (blocks, request) = (self.tokens.len(), batch.waiting().request(slot));
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
    pub(crate) fn prepare(
        &mut self,
        batch: &Batch<'_>,
        (worker, class): (usize, Option<u8>),
        profile: &Profile,
        longest: i64,
    ) {
        self.prepared = Some((worker, class));
        self.tier = None;
        if !self.fits_lanes() {
            return;
        }
        let greatest = self.add_bonuses(batch, worker);
        let lengths = (self.lengths.0, self.lengths.1.min(longest));
        self.query.bit = 1 << (worker % 32);
        let (intercept, tier) =
            self.query.prepare(profile, lengths, greatest, self.kernels.floats, self.only);
        (self.intercept, self.tier) = (intercept, tier);
    }

    /// Fills the base of a worker unless it is there; returns its greatest magnitude.
    fn add_bonuses(&mut self, batch: &Batch<'_>, worker: usize) -> i64 {
        let Some(bonuses) = batch.bonuses() else { return self.greatest_age };
        if self.base_of[worker].0 == u32::MAX {
            let blocks = self.tokens.len();
            let from = self.columns as usize * blocks;
            if self.bases.len() < from + blocks {
                self.bases.resize(from + blocks, Block::default());
            }
            let base = &mut self.bases[from..from + blocks];
            let unit = self.unit as i32;
            // Offsets that do not fit their lanes have no place in a matrix that fits a memory, but nothing here relies on that.
            let greatest = if bonuses.len() >= NO_ROW as usize {
                i64::MAX
            } else {
                let from = (&self.offsets[..], &self.ages[..]);
                (self.kernels.add_bonuses)(bonuses, worker as u32, unit, from, base)
            };
            let greatest = greatest.saturating_mul(self.unit).saturating_add(self.greatest_age);
            self.base_of[worker] = (self.columns, greatest);
            self.columns += 1;
        }
        self.base_of[worker].1
    }

    /// The best free entry of a run for the worker and profile prepared last, at most `longest` tokens long.
    pub(crate) fn best(
        &mut self,
        batch: &Batch<'_>,
        run: Run,
        profile: &Profile,
        worker: usize,
        longest: i64,
    ) -> Option<Entry> {
        let blocks = self.tokens.len();
        if longest < self.lengths.0 {
            return None;
        }
        let Some(tier) = self.tier else { return self.best_one_by_one(batch, run, profile, worker, longest) };
        let base = if self.any_bonus {
            let column = self.base_of[worker].0 as usize;
            &self.bases[column * blocks..(column + 1) * blocks]
        } else {
            &self.ages[..]
        };
        let words = &self.words[worker / 32 * blocks..(worker / 32 + 1) * blocks];
        let rows = Rows {
            tokens: &self.tokens[run.from..run.to],
            base: &base[run.from..run.to],
            words: &words[run.from..run.to],
        };
        let best = (self.kernels.dense)(tier, &rows, &self.query)?;
        let index = (run.from * BLOCK) as u32 + best.index;
        Some(Entry { index, score: best.score + self.intercept })
    }

    /// The same in 64 bits, by the definition of a score.
    fn best_one_by_one(
        &self,
        batch: &Batch<'_>,
        run: Run,
        profile: &Profile,
        worker: usize,
        longest: i64,
    ) -> Option<Entry> {
        let (blocks, pool) = (self.tokens.len(), batch.waiting());
        let mut best: Option<Entry> = None;
        for index in run.from * BLOCK..run.to * BLOCK {
            let word = self.words[worker / 32 * blocks + index / BLOCK].0[index % BLOCK];
            let tokens = i64::from(self.tokens[index / BLOCK].0[index % BLOCK]);
            if word >> (worker % 32) & 1 == 0 || tokens > longest {
                continue;
            }
            let slot = self.slot(index as u32);
            let extra =
                self.age.tokens(pool.waited_steps(slot)) + batch.bonus_tokens(pool.request(slot), worker);
            let score = profile.score(tokens) + self.unit * extra;
            if best.is_none_or(|best| score > best.score) {
                best = Some(Entry { index: index as u32, score });
            }
        }
        best
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

impl Bonuses<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(matrix) => matrix.len(),
            Self::F16(matrix) => matrix.len(),
        }
    }
}

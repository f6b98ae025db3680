//! What measuring programs call: columns of made-up requests, scored by one instruction set in lanes of one kind.

use std::ops::Range;

use super::dense::{Kept, Query, Rows, STRIDE, Tier};
use super::lanes::Block;
use super::runs::run_blocks;
use super::{Isa, Kernels};
use crate::pool::BLOCK;
use crate::score::{Knot, Profile};

/// One dense column: a number of waiting requests and a profile, on one instruction set and one kind of lanes.
#[derive(Debug)]
pub struct ColumnProbe {
    kernels: &'static Kernels,
    /// The lanes asked for, and what takes over where few knots leave these nothing to do.
    tiers: Vec<Tier>,
    profile: Profile,
    query: Query,
    lengths: Vec<i64>,
    tokens: Vec<Block>,
    base: Vec<Block>,
    words: Vec<Block>,
    arrived: Vec<u64>,
    /// Where the column is in order, the blocks of each run, its shortest and its longest request.
    runs: Vec<(Range<usize>, (i32, i32))>,
    /// The lanes of the cut to all lengths, and what its scores are short of.
    cut: (Tier, i64),
    kept: Kept,
    result: i64,
}

/// The longest request of a probe, and its greatest age plus bonus.
const LONGEST_TOKENS: i64 = 1500;
const GREATEST_BASE: i64 = 200;

impl ColumnProbe {
    /// `waiting` requests in any order against a profile of `steps` knots, all of them between the lengths: the arithmetic of the lanes and
    /// nothing else. None where the CPU lacks the instruction set, or the lanes could not hold every score exactly.
    #[must_use]
    pub fn new(isa: Isa, tier: Tier, waiting: usize, steps: usize) -> Option<Self> {
        Self::build(isa, vec![tier], waiting, steps, false)
    }

    /// The same column as a decision scores it: requests in order of length, each run of them against the knots between its lengths. A pass puts
    /// the knots in order as well. Where a run sees too few of them for dot products, `i32` lanes take over.
    #[must_use]
    pub fn in_order(isa: Isa, tier: Tier, waiting: usize, steps: usize) -> Option<Self> {
        let tiers = if tier == Tier::Dot { vec![Tier::Dot, Tier::I32] } else { vec![tier] };
        Self::build(isa, tiers, waiting, steps, true)
    }

    fn build(isa: Isa, tiers: Vec<Tier>, waiting: usize, steps: usize, in_order: bool) -> Option<Self> {
        let kernels = Kernels::of(isa)?;
        let mut state = 9u64;
        let mut next = |bound: i64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as i64 % bound
        };
        let blocks = waiting.div_ceil(BLOCK).next_multiple_of(STRIDE);
        let mut lengths: Vec<i64> = (0..waiting).map(|_| 1 + next(LONGEST_TOKENS)).collect();
        let mut runs = Vec::new();
        if in_order {
            lengths.sort_unstable();
            let longest_run = run_blocks(waiting, steps > 1);
            runs.extend((0..blocks).step_by(longest_run).map(|from| {
                let to = (from + longest_run).min(blocks);
                let ends = [from * BLOCK, (to * BLOCK).min(waiting) - 1].map(|at| lengths[at] as i32);
                (from..to, (ends[0], ends[1]))
            }));
        }
        let mut probe = Self {
            kernels,
            cut: (tiers[0], 0),
            tiers,
            profile: Profile::default(),
            query: Query::default(),
            lengths,
            tokens: vec![Block::default(); blocks],
            base: vec![Block::default(); blocks],
            words: vec![Block::default(); blocks],
            arrived: (0..(blocks * BLOCK) as u64).collect(),
            runs,
            kept: Kept::default(),
            result: 0,
        };
        for (at, &length) in probe.lengths.iter().enumerate() {
            let (block, lane) = (at / BLOCK, at % BLOCK);
            probe.tokens[block].0[lane] = length as i32;
            probe.base[block].0[lane] = next(GREATEST_BASE) as i32;
            probe.words[block].0[lane] = next(1 << 16) as i32 | 1 << 3;
        }
        probe.profile.slope = steps as i64;
        let knots =
            (0..steps).map(|_| Knot { at_tokens: 100 + next(1200), weight: 128 / steps.max(8) as i64 });
        probe.profile.knots.extend(knots);
        probe.query.bit = 1 << 3;
        (kernels.prepare)(&mut probe.query, &probe.profile, (1, LONGEST_TOKENS));
        // Every cut that a pass makes, so that none of it fails there.
        for (_, lengths) in &probe.runs {
            (kernels.cut)(&mut probe.query, *lengths, GREATEST_BASE, &probe.tiers)?;
        }
        let whole = (1, LONGEST_TOKENS as i32);
        probe.cut = (kernels.cut)(&mut probe.query, whole, GREATEST_BASE, &probe.tiers)?;
        Some(probe)
    }

    /// Cells of a pass: every request against one worker.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.lengths.len()
    }

    /// The worker whose column it is.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.query.bit.trailing_zeros() as usize
    }

    /// The worker's profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What is scored, sixteen requests at a time: tokens, ages plus bonuses in score units, and a word with a bit for each worker that may take
    /// the request; zero past the end.
    pub fn blocks(&self) -> impl Iterator<Item = [&[i32; BLOCK]; 3]> {
        self.tokens
            .iter()
            .zip(&self.base)
            .zip(&self.words)
            .map(|((tokens, base), words)| [&tokens.0, &base.0, &words.0])
    }

    /// Scores the column once.
    pub fn pass(&mut self) -> i64 {
        if !self.runs.is_empty() {
            return self.pass_in_order();
        }
        let rows =
            Rows { tokens: &self.tokens, base: &self.base, words: &self.words, arrived: &self.arrived };
        let (tier, short_of) = self.cut;
        let best = (self.kernels.dense)(tier, &rows, &self.query, &mut self.kept);
        self.result = best.map_or(i64::MIN, |best| best.score + short_of);
        self.result
    }

    fn pass_in_order(&mut self) -> i64 {
        (self.kernels.prepare)(&mut self.query, &self.profile, (1, LONGEST_TOKENS));
        self.result = i64::MIN;
        for (blocks, lengths) in &self.runs {
            let rows = Rows {
                tokens: &self.tokens[blocks.clone()],
                base: &self.base[blocks.clone()],
                words: &self.words[blocks.clone()],
                arrived: &self.arrived[blocks.start * BLOCK..blocks.end * BLOCK],
            };
            let cut = (self.kernels.cut)(&mut self.query, *lengths, GREATEST_BASE, &self.tiers);
            let best = cut.and_then(|(tier, short_of)| {
                let best = (self.kernels.dense)(tier, &rows, &self.query, &mut self.kept)?;
                Some(best.score + short_of)
            });
            self.result = self.result.max(best.unwrap_or(i64::MIN));
        }
        self.result
    }

    /// The instructions of a pass in any order on registers alone, nothing loaded.
    #[must_use]
    pub fn spin(&mut self, passes: usize) -> i64 {
        (self.kernels.spin)(self.cut.0, &self.query, passes * self.tokens.len(), &mut self.kept)
    }

    /// The same pass by the definition of a score, one request at a time.
    #[must_use]
    pub fn by_definition(&self) -> i64 {
        let mut best = i64::MIN;
        for (at, &length) in self.lengths.iter().enumerate() {
            let base = i64::from(self.base[at / BLOCK].0[at % BLOCK]);
            let word = self.words[at / BLOCK].0[at % BLOCK];
            if word & self.query.bit != 0 {
                best = best.max(self.profile.score(length) + base);
            }
        }
        best
    }
}

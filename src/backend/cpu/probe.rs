//! Columns of made-up requests, for self-tests and measurements of the dense kernels from outside.

use super::dense::{Kept, Query, Rows, STRIDE, Tier};
use super::lanes::Block;
use super::{Isa, Kernels};
use crate::pool::BLOCK;
use crate::score::{Knot, Profile};

/// One dense column: a number of waiting requests and a profile, on one instruction set and one kind of lanes.
#[derive(Debug)]
pub struct ColumnProbe {
    kernels: &'static Kernels,
    tier: Tier,
    profile: Profile,
    query: Query,
    lengths: Vec<i64>,
    intercept: i64,
    tokens: Vec<Block>,
    base: Vec<Block>,
    words: Vec<Block>,
    arrived: Vec<u64>,
    kept: Kept,
    result: i64,
}

impl ColumnProbe {
    /// `waiting` requests against a profile of `steps` knots. None where the CPU lacks the instruction set, or the lanes could not hold every
    /// score exactly.
    #[must_use]
    pub fn new(isa: Isa, tier: Tier, waiting: usize, steps: usize) -> Option<Self> {
        let kernels = Kernels::of(isa)?;
        let mut state = 9u64;
        let mut next = |bound: i64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as i64 % bound
        };
        let blocks = waiting.div_ceil(BLOCK).next_multiple_of(STRIDE);
        let mut probe = Self {
            kernels,
            tier,
            profile: Profile::default(),
            query: Query::default(),
            lengths: (0..waiting).map(|_| 1 + next(1500)).collect(),
            intercept: 0,
            tokens: vec![Block::default(); blocks],
            base: vec![Block::default(); blocks],
            words: vec![Block::default(); blocks],
            arrived: (0..(blocks * BLOCK) as u64).collect(),
            kept: Kept::default(),
            result: 0,
        };
        for (at, &length) in probe.lengths.iter().enumerate() {
            let (block, lane) = (at / BLOCK, at % BLOCK);
            probe.tokens[block].0[lane] = length as i32;
            probe.base[block].0[lane] = next(200) as i32;
            probe.words[block].0[lane] = next(1 << 16) as i32 | 1 << 3;
        }
        probe.profile.slope = steps as i64;
        let knots =
            (0..steps).map(|_| Knot { at_tokens: 100 + next(1200), weight: 128 / steps.max(8) as i64 });
        probe.profile.knots.extend(knots);
        probe.query.bit = 1 << 3;
        (kernels.prepare)(&mut probe.query, &probe.profile, (1, 1500));
        let part = probe.query.part((1, 1500));
        let (found, intercept) = probe.query.cut_to(part, 200, &[tier])?;
        probe.intercept = intercept;
        (found == tier).then_some(probe)
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
        let rows =
            Rows { tokens: &self.tokens, base: &self.base, words: &self.words, arrived: &self.arrived };
        let best = (self.kernels.dense)(self.tier, &rows, &self.query, &mut self.kept);
        self.result = best.map_or(i64::MIN, |best| best.score + self.intercept);
        self.result
    }

    /// The same instructions on registers alone, nothing loaded.
    #[must_use]
    pub fn spin(&mut self, passes: usize) -> i64 {
        (self.kernels.spin)(self.tier, &self.query, passes * self.tokens.len(), &mut self.kept)
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

//! A column of made-up requests, for measurements of the dense kernel from outside.

use super::dense::{Rows, STRIDE, SortedKnots};
use super::lanes::Block;
use super::{Isa, Kernels};
use crate::pool::BLOCK;
use crate::score::{Knot, Profile};

/// One dense column: a number of waiting requests in any order and a profile, on one instruction set.
#[derive(Debug)]
pub struct ColumnProbe {
    kernels: &'static Kernels,
    profile: Profile,
    knots: Box<SortedKnots>,
    waiting: usize,
    tokens: Vec<Block>,
    base: Vec<Block>,
    words: Vec<Block>,
    arrived: Vec<u64>,
    scores: Vec<Block>,
}

/// The longest request of a probe, and its greatest age plus bonus.
const LONGEST_TOKENS: i64 = 1500;
const GREATEST_BASE: i64 = 200;
/// The worker whose column it is.
const WORKER: usize = 3;

/// The run of a probe without its requests.
const RUN: Rows<'static> = Rows {
    tokens: &[],
    base: &[],
    words: &[],
    arrived: &[],
    lengths: (1, LONGEST_TOKENS as i32),
    greatest_base: GREATEST_BASE,
    bit: 1 << WORKER,
};

impl ColumnProbe {
    /// `waiting` requests against a profile of `steps` knots, all of them between the lengths: the arithmetic
    /// of the lanes and nothing else. None where the CPU lacks the instruction set.
    #[must_use]
    pub fn new(isa: Isa, waiting: usize, steps: usize) -> Option<Self> {
        let kernels = Kernels::of(isa)?;
        let mut state = 9u64;
        let mut next = |bound: i64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as i64 % bound
        };
        let blocks = waiting.div_ceil(BLOCK).next_multiple_of(STRIDE);
        let column = || vec![Block::default(); blocks];
        let [mut tokens, mut base, mut words, scores] = [column(), column(), column(), column()];
        for at in 0..waiting {
            let (block, lane) = (at / BLOCK, at % BLOCK);
            tokens[block].0[lane] = 1 + next(LONGEST_TOKENS) as i32;
            base[block].0[lane] = next(GREATEST_BASE) as i32;
            words[block].0[lane] = next(1 << 16) as i32 | 1 << WORKER;
        }
        let mut profile = Profile { slope: steps as i64, ..Profile::default() };
        let weight = 128 / steps.max(8) as i64;
        profile.knots.extend((0..steps).map(|_| Knot { at_tokens: 100 + next(1200), weight }));
        let mut knots = Box::<SortedKnots>::default();
        let arrived = (0..(blocks * BLOCK) as u64).collect();
        (kernels.sort_knots)(&mut knots, &profile, (1, LONGEST_TOKENS)).then_some(Self {
            kernels,
            profile,
            knots,
            waiting,
            tokens,
            base,
            words,
            arrived,
            scores,
        })
    }

    /// Cells of a pass: every request against one worker.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.waiting
    }

    /// The worker whose column it is.
    #[must_use]
    pub fn worker(&self) -> usize {
        WORKER
    }

    /// The worker's profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What is scored, sixteen requests at a time: tokens, ages plus bonuses in score units, and a word with
    /// a bit for each worker that may take the request; zero past the end.
    pub fn blocks(&self) -> impl Iterator<Item = [&[i32; BLOCK]; 3]> {
        let rest = self.base.iter().zip(&self.words);
        self.tokens.iter().zip(rest).map(|(tokens, (base, words))| [&tokens.0, &base.0, &words.0])
    }

    /// Scores the column once: the greatest score.
    pub fn pass(&mut self) -> i64 {
        let Self { tokens, base, words, arrived, .. } = self;
        let rows = Rows { tokens, base, words, arrived, ..RUN };
        let best = (self.kernels.best_of_run)(&rows, &self.knots, &mut self.scores);
        best.ok().flatten().map_or(i64::MIN, |best| best.score)
    }

    /// The arithmetic of so many passes on registers alone, nothing loaded or stored: what a pass cannot be
    /// faster than. A yardstick for AVX-512 only: elsewhere there are too few registers for it.
    pub fn spin(&self, passes: usize) -> i64 {
        i64::from((self.kernels.spin)(&RUN, &self.knots, passes * self.tokens.len()))
    }

    /// What a pass answers, by the definition of a score, one request at a time.
    #[must_use]
    pub fn by_definition(&self) -> i64 {
        let mut best = i64::MIN;
        for (at, [tokens, base, words]) in self.blocks().enumerate() {
            for lane in (0..BLOCK).filter(|lane| at * BLOCK + lane < self.waiting) {
                if words[lane] >> WORKER & 1 == 1 {
                    let score = self.profile.score(i64::from(tokens[lane])) + i64::from(base[lane]);
                    best = best.max(score);
                }
            }
        }
        best
    }
}

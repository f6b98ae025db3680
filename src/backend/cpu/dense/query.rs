//! A profile as lanes add it up over one run, and which lanes hold every sum of it exactly.

use std::ops::Range;

use super::sorted_knots::{Edges, INT, MOST_KNOTS, SortedKnots};
use crate::backend::cpu::lanes::Lanes;
use crate::pool::BLOCK;
use crate::score::Profile;

/// Knots from which the 16-bit dot products pay.
const DOT_FROM: usize = 4;

/// Which lanes hold the scores of a dense column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// Single precision, where every sum is a whole number below 2^24.
    F32,
    /// 32-bit integers.
    I32,
    /// 16-bit dot products.
    Dot,
    /// 64-bit sums of 32-bit products.
    I64,
}

impl Tier {
    /// Every kind of lanes.
    pub const ALL: [Self; 4] = [Self::F32, Self::I32, Self::Dot, Self::I64];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 => "i32",
            Self::Dot => "dot16",
            Self::I64 => "i64",
        }
    }
}

/// A worker's profile, and its cut to the lengths of one run in lanes.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Whether anybody is too long for the worker.
    pub cut_off: bool,
    /// The worker's bit of an eligibility word.
    pub bit: i32,
    /// Whether lanes may hold the profile.
    held: bool,
    sorted_knots: Box<SortedKnots>,
    /// The slope past every length of the run, the low half of it where sums wrap.
    pub(super) rest: i32,
    /// What each sum wraps by: then it is the score less the greatest of the profile.
    pub(super) shift: i32,
    /// What the weights of dot products were divided by.
    pub(super) factor: i32,
    bends: Box<Bends>,
    bend_count: usize,
}

/// Lengths and weights of the knots between the lengths of a run, as lanes take them.
#[derive(Clone, Debug)]
struct Bends {
    /// Two each in halves of a lane for dot products.
    ints: [(i32, i32); MOST_KNOTS],
    floats: [(f32, f32); MOST_KNOTS],
}

impl Default for Query {
    fn default() -> Self {
        Self {
            cut_off: false,
            bit: 0,
            held: false,
            sorted_knots: Box::default(),
            rest: 0,
            shift: 0,
            factor: 1,
            bends: Box::new(Bends { ints: [(0, 0); MOST_KNOTS], floats: [(0.0, 0.0); MOST_KNOTS] }),
            bend_count: 0,
        }
    }
}

impl Query {
    /// A query for the worker of this eligibility bit.
    #[cfg(test)]
    pub(crate) fn of_bit(bit: i32) -> Self {
        Self { bit, cut_off: true, ..Self::default() }
    }

    /// Whether sums of the last cut may wrap.
    #[cfg(test)]
    pub(crate) fn wraps(&self) -> bool {
        self.shift != 0
    }

    /// The longest request that fits the worker.
    #[inline(always)]
    pub(super) fn longest(&self) -> i32 {
        self.sorted_knots.longest
    }

    /// Knots of the run in `i32` lanes, in pairs where these are dot products.
    #[inline(always)]
    pub(super) fn bends(&self) -> &[(i32, i32)] {
        &self.bends.ints[..self.bend_count]
    }

    /// Knots of the run in `f32` lanes.
    #[inline(always)]
    pub(super) fn float_bends(&self) -> &[(f32, f32)] {
        &self.bends.floats[..self.bend_count]
    }

    /// Takes a profile for the lengths `shortest..=longest`: false where no lanes hold it.
    #[inline(always)]
    pub(crate) fn prepare<L: Lanes>(&mut self, lanes: L, profile: &Profile, lengths: (i64, i64)) -> bool {
        self.held = self.sorted_knots.take(lanes, profile, lengths);
        self.held
    }

    /// At least the greatest score of sixteen runs, age and bonus aside; the least `i64` where everybody is too long.
    #[inline(always)]
    pub(crate) fn bounds<L: Lanes>(&self, lanes: L, edges: &Edges) -> [i64; BLOCK] {
        self.sorted_knots.bounds(lanes, edges)
    }

    /// Cuts the profile to a run of these lengths: the first of `tiers` that is exact, if any, and what their scores are short of.
    /// `greatest_base` bounds the magnitude of age plus bonus.
    #[inline(always)]
    pub(crate) fn cut<L: Lanes>(
        &mut self,
        lanes: L,
        (shortest, longest): (i32, i32),
        greatest_base: i64,
        tiers: &[Tier],
    ) -> Option<(Tier, i64)> {
        if !self.held || greatest_base >= INT {
            return None;
        }
        let lengths = (shortest, longest.min(self.sorted_knots.longest));
        let knots = self.sorted_knots.between(lanes, lengths.0, lengths.1);
        let (first, last) = (self.sorted_knots.line(knots.start), self.sorted_knots.line(knots.end));
        // What the knots add at most, where that is no more than an `i64` holds.
        let longest = i64::from(lengths.1);
        let weights = first.slope.saturating_sub(last.slope).saturating_mul(longest);
        let gained = if weights < i64::MAX { last.start.wrapping_sub(first.start) } else { weights };
        let line = last.slope.abs().saturating_mul(longest);
        let bound = line.saturating_add(greatest_base).saturating_add(gained);
        // Sums that would leave an `i32` may wrap if the scores do not: less the greatest of the profile, these fit.
        let (mut fits, mut short_of) = (true, first.start);
        if bound >= INT - 1 {
            let (greatest, least) = self.sorted_knots.range(lengths, knots.clone());
            short_of = greatest;
            fits = greatest.saturating_sub(least).saturating_add(greatest_base) < INT - 1;
        }
        // A loop, no closure: that might be compiled apart, without the instruction set.
        for &tier in tiers {
            let exact = match tier {
                Tier::Dot => {
                    fits && knots.len() >= DOT_FROM && longest < 1 << 15 && self.pair_up(knots.clone())
                }
                Tier::F32 => bound < 1 << 24,
                Tier::I32 => fits,
                Tier::I64 => last.slope.abs() < INT,
            };
            if exact {
                let short_of = if tier == Tier::I64 { first.start } else { short_of };
                (self.rest, self.shift) = (last.slope as i32, first.start.wrapping_sub(short_of) as i32);
                if tier != Tier::Dot {
                    self.line_up(tier == Tier::F32, knots);
                }
                return Some((tier, short_of));
            }
        }
        None
    }

    /// Puts knots into `i32` or `f32` lanes.
    #[inline(always)]
    fn line_up(&mut self, floats: bool, knots: Range<usize>) {
        let (ats, weights) = self.sorted_knots.knots(knots);
        let knots = ats.iter().zip(weights);
        self.bend_count = ats.len();
        if floats {
            for ((&at, &weight), into) in knots.zip(&mut self.bends.floats) {
                *into = (at as f32, weight as f32);
            }
        } else {
            for ((&at, &weight), into) in knots.zip(&mut self.bends.ints) {
                *into = (at, weight);
            }
        }
    }

    /// Pairs knots up, their weights divided by a common factor where that must be; false when they do not fit 16 bits then.
    fn pair_up(&mut self, knots: Range<usize>) -> bool {
        let (ats, weights) = self.sorted_knots.knots(knots);
        let mut factor = Factor::of(1);
        if self.sorted_knots.heaviest >= 1 << 15 {
            factor = weights.iter().fold(Factor::of(weights[0]), |factor, &weight| factor.common(weight));
            if self.sorted_knots.heaviest / i64::from(factor.value) >= 1 << 15 {
                return false;
            }
        }
        self.factor = factor.value;
        self.bend_count = ats.len().div_ceil(2);
        let both = |pair: &[i32], of: fn(Factor, i32) -> i32| {
            of(factor, pair[0]) | pair.get(1).map_or(0, |&second| of(factor, second)) << 16
        };
        for ((ats, weights), into) in ats.chunks(2).zip(weights.chunks(2)).zip(&mut self.bends.ints) {
            *into = (both(ats, |_, at| at), both(weights, Factor::quotient));
        }
        true
    }
}

/// A common factor of weights. Divisions are slow: products with its inverse take their place.
#[derive(Clone, Copy)]
struct Factor {
    value: i32,
    inverse: f64,
}

impl Factor {
    fn of(value: i32) -> Self {
        Self { value, inverse: 1.0 / f64::from(value) }
    }

    /// The quotient, if it divides a weight; close to it otherwise.
    fn quotient(self, weight: i32) -> i32 {
        (f64::from(weight) * self.inverse + 0.5) as i32
    }

    /// The greatest common factor with one more weight: mostly the same.
    fn common(self, weight: i32) -> Self {
        if self.quotient(weight).wrapping_mul(self.value) == weight {
            return self;
        }
        let (mut a, mut b) = (self.value, weight);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self::of(a)
    }
}

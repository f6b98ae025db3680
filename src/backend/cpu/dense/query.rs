//! A profile as lanes add it up, and which lanes hold every sum of it exactly.

use crate::backend::cpu::lanes::Lanes;
use crate::pool::BLOCK;
use crate::score::{Knot, Profile};

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

/// Knots that a query holds: one for each step of the longest horizon, and a few more.
const MOST_KNOTS: usize = 144;

/// A profile whose knots are in order of length, and its cut to the lengths of one run in lanes.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    shortest: i32,
    pub longest: i32,
    /// Whether anybody is longer than that.
    pub cut: bool,
    pub bit: i32,
    knots: Box<Knots>,
    /// Knots between the lengths.
    count: usize,
    /// The first line that does not rise, and where it begins: there the profile is greatest.
    summit: usize,
    peak: i32,
    /// Whether lanes may hold the knots.
    held: bool,
    heaviest: i64,
    /// The slope past every length of the run, the low half of it where sums wrap.
    pub(super) rest: i32,
    /// What each sum wraps by: then it is the score less the greatest of the profile.
    pub(super) shift: i32,
    pub(super) bends: Vec<(i32, i32)>,
    pub(super) float_bends: Vec<(f32, f32)>,
    /// Two knots each, in halves of a lane.
    pub(super) dot_bends: Vec<(i32, i32)>,
    /// What these weights were divided by.
    pub(super) factor: i32,
}

/// Room for the knots between the lengths.
#[derive(Clone, Debug)]
struct Knots {
    /// Lengths and weights of all knots as they come, and of those between the lengths.
    all: [[i32; MOST_KNOTS]; 2],
    found: [[i32; MOST_KNOTS + BLOCK]; 2],
    /// Lengths in order, the greatest `i32` past the last one.
    ats: [[i32; BLOCK]; MOST_KNOTS / BLOCK],
    weights: [i32; MOST_KNOTS],
    /// The line that the profile follows past so many knots.
    lines: [Line; MOST_KNOTS + 1],
}

impl Default for Query {
    fn default() -> Self {
        let knots = Knots {
            all: [[0; MOST_KNOTS]; 2],
            found: [[0; MOST_KNOTS + BLOCK]; 2],
            ats: [[0; BLOCK]; MOST_KNOTS / BLOCK],
            weights: [0; MOST_KNOTS],
            lines: [Line::default(); MOST_KNOTS + 1],
        };
        Self {
            shortest: 0,
            longest: 0,
            cut: false,
            bit: 0,
            knots: Box::new(knots),
            count: 0,
            summit: 0,
            peak: 0,
            held: false,
            heaviest: 0,
            rest: 0,
            shift: 0,
            bends: Vec::new(),
            float_bends: Vec::new(),
            dot_bends: Vec::new(),
            factor: 1,
        }
    }
}

/// `start + slope * tokens`.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    start: i64,
    slope: i64,
}

impl Line {
    fn at(self, tokens: i64) -> i64 {
        self.start.wrapping_add(self.slope.wrapping_mul(tokens))
    }
}

/// The lengths of a run, and which knots of a query bend between them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    shortest: i64,
    longest: i64,
    /// Knots up to the shortest length.
    from: usize,
    /// Knots before the longest one.
    to: usize,
}

/// The shortest and the longest lengths of sixteen runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edges {
    pub shortest: [i32; BLOCK],
    pub longest: [i32; BLOCK],
}

/// One more than the magnitude that an `i32` holds on either side.
const INT: i64 = 1 << 31;

/// So many knots are taken one by one.
const FEW_KNOTS: usize = 2;

/// So many knots are put in order by counting, for each of them, how many come before it.
const RANKED: usize = 64;

impl Query {
    /// A query for the worker of this eligibility bit.
    #[cfg(test)]
    pub(crate) fn of_bit(bit: i32) -> Self {
        Self { bit, cut: true, ..Self::default() }
    }

    /// Takes a profile for the lengths `shortest..=longest`: false where no lanes hold its knots.
    #[inline(always)]
    pub(crate) fn prepare<L: Lanes>(
        &mut self,
        lanes: L,
        profile: &Profile,
        (shortest, longest): (i64, i64),
    ) -> bool {
        self.held = profile.knots.len() <= MOST_KNOTS && longest < INT;
        if !self.held {
            return false;
        }
        (self.shortest, self.longest) = (shortest as i32, longest as i32);
        let mut line = Line { start: profile.intercept, slope: profile.slope };
        let heavy = if profile.knots.len() <= FEW_KNOTS {
            self.take_few(profile, (shortest, longest), &mut line)
        } else {
            self.take_many(lanes, profile, (shortest, longest), &mut line)
        };
        self.held = heavy < INT;
        let (mut summit, mut peak) = (0, if line.slope > 0 { i32::MAX } else { i32::MIN });
        let Knots { ats, weights, lines, .. } = &mut *self.knots;
        let (first, others) = lines.split_first_mut().expect("not empty");
        *first = line;
        self.heaviest = 0;
        let ordered = ats.as_flattened().iter().zip(&*weights).zip(others).take(self.count);
        for ((&at, &weight), into) in ordered {
            let rises = line.slope > 0;
            let (at_tokens, weight) = (i64::from(at), i64::from(weight));
            self.heaviest = self.heaviest.max(weight);
            line.slope -= weight;
            line.start = line.start.wrapping_add(weight * at_tokens);
            *into = line;
            summit += usize::from(rises);
            peak = if rises & (line.slope <= 0) { at } else { peak };
        }
        (self.summit, self.peak) = (summit, peak);
        self.held
    }

    /// Folds the knots up to the shortest length into a line and puts those before the longest in order; returns the bits of all weights.
    #[inline(always)]
    fn take_few(&mut self, profile: &Profile, (shortest, longest): (i64, i64), line: &mut Line) -> i64 {
        let (ats, weights) = (&mut self.knots.ats[0], &mut self.knots.weights);
        *ats = [i32::MAX; BLOCK];
        let (mut count, mut heavy) = (0, 0);
        for &Knot { at_tokens, weight } in &profile.knots {
            heavy |= weight;
            if at_tokens <= shortest {
                line.slope -= weight;
                line.start += weight * at_tokens;
            } else if at_tokens < longest && weight != 0 {
                let mut at = count;
                while at > 0 && i64::from(ats[at - 1]) > at_tokens {
                    (ats[at], weights[at]) = (ats[at - 1], weights[at - 1]);
                    at -= 1;
                }
                (ats[at], weights[at]) = (at_tokens as i32, weight as i32);
                count += 1;
            }
        }
        self.count = count;
        heavy
    }

    /// The same without branches: nobody foresees where one of many knots lies.
    #[inline(always)]
    fn take_many<L: Lanes>(
        &mut self,
        lanes: L,
        profile: &Profile,
        (shortest, longest): (i64, i64),
        line: &mut Line,
    ) -> i64 {
        let [ats, weights] = &mut self.knots.all;
        let mut heavy = 0;
        for ((&Knot { at_tokens, weight }, at), into) in profile.knots.iter().zip(ats).zip(weights) {
            heavy |= weight;
            (*at, *into) = (at_tokens.max(shortest).min(longest) as i32, weight as i32);
            let weight = if at_tokens <= shortest { weight } else { 0 };
            line.slope -= weight;
            line.start += weight * at_tokens;
        }
        self.keep_between(lanes, profile.knots.len());
        self.put_in_order(lanes);
        heavy
    }

    /// Keeps those of so many knots that bend something between the lengths.
    #[inline(always)]
    fn keep_between<L: Lanes>(&mut self, lanes: L, count: usize) {
        let (shortest, longest) = (lanes.splat(self.shortest), lanes.splat(self.longest));
        let Knots { all: [ats, weights], found: [found_ats, found_weights], .. } = &mut *self.knots;
        self.count = 0;
        for ((ats, weights), from) in ats.as_chunks().0.iter().zip(weights.as_chunks().0).zip((0..count).step_by(BLOCK)) {
            let (ats, weights) = (lanes.load(ats), lanes.load(weights));
            let known = u16::MAX >> BLOCK.saturating_sub(count - from);
            let between = known & lanes.greater(ats, shortest) & lanes.greater(longest, ats);
            let between = between & lanes.greater(weights, lanes.splat(0));
            let to = (found_ats[self.count..].first_chunk_mut(), found_weights[self.count..].first_chunk_mut());
            if let (Some(at), Some(weight)) = to {
                lanes.compress(ats, between, at);
                lanes.compress(weights, between, weight);
            }
            self.count += between.count_ones() as usize;
        }
    }

    /// Sorts the knots by length.
    #[inline(always)]
    fn put_in_order<L: Lanes>(&mut self, lanes: L) {
        let (count, Knots { found, ats, weights, .. }) = (self.count, &mut *self.knots);
        ats[..count.div_ceil(BLOCK)].fill([i32::MAX; BLOCK]);
        let ats = ats.as_flattened_mut();
        let [found_ats, found_weights] = found.each_ref().map(|found| &found[..count]);
        if count > RANKED || self.longest >= 1 << (31 - RANKED.ilog2()) {
            let mut order: [u8; MOST_KNOTS] = std::array::from_fn(|index| index as u8);
            order[..count].sort_unstable_by_key(|&index| found_ats[usize::from(index)]);
            for ((index, at), weight) in order[..count].iter().zip(ats).zip(weights) {
                (*at, *weight) = (found_ats[usize::from(*index)], found_weights[usize::from(*index)]);
            }
            return;
        }
        // Each goes where it belongs at once: no branch depends on their order.
        let mut keys = [[i32::MAX; BLOCK]; RANKED / BLOCK];
        let keys = &mut keys[..count.div_ceil(BLOCK)];
        for ((&at, index), key) in found_ats.iter().zip(0..).zip(keys.as_flattened_mut()) {
            *key = at * RANKED as i32 + index;
        }
        for ((&at, &weight), &key) in found_ats.iter().zip(found_weights).zip(keys.as_flattened()) {
            let rank = less(lanes, keys, key) % RANKED;
            (ats[rank], weights[rank]) = (at, weight);
        }
    }

    /// Lengths of the knots, in order.
    fn ats(&self) -> &[i32] {
        &self.knots.ats.as_flattened()[..self.count]
    }

    /// At least the greatest score between the lengths of sixteen runs, age and bonus aside; the least `i64` where nobody is that short.
    #[inline(always)]
    pub(crate) fn bounds<L: Lanes>(&self, lanes: L, edges: &Edges) -> [i64; BLOCK] {
        let mut bounds = [i64::MIN; BLOCK];
        let ats = &self.knots.ats[..self.count.div_ceil(BLOCK)];
        for ((bound, &shortest), &longest) in bounds.iter_mut().zip(&edges.shortest).zip(&edges.longest) {
            if shortest <= self.longest {
                let tokens = self.peak.max(shortest).min(longest.min(self.longest));
                *bound = self.knots.lines[less(lanes, ats, tokens)].at(i64::from(tokens));
            }
        }
        bounds
    }

    /// The part of the profile that a run's lengths see.
    pub(crate) fn part(&self, (shortest, longest): (i64, i64)) -> Part {
        let longest = longest.min(i64::from(self.longest));
        if shortest <= i64::from(self.shortest) && longest >= i64::from(self.longest) {
            return Part { shortest, longest, from: 0, to: self.count };
        }
        let from = self.ats().partition_point(|&at| i64::from(at) <= shortest);
        let to = self.ats().partition_point(|&at| i64::from(at) < longest);
        Part { shortest, longest, from, to: to.max(from) }
    }

    /// The greatest score between the lengths of a run, age and bonus aside.
    fn greatest(&self, part: Part) -> i64 {
        let (peak, lines) = (i64::from(self.peak), &self.knots.lines);
        if peak <= part.shortest {
            lines[part.from].at(part.shortest)
        } else if peak >= part.longest {
            lines[part.to].at(part.longest)
        } else {
            lines[self.summit].at(peak)
        }
    }

    /// Cuts the profile to a run: the first of `tiers` that is exact, if any, and what their scores are short of.
    /// `greatest_base` bounds the magnitude of age plus bonus.
    pub(crate) fn cut_to(&mut self, part: Part, greatest_base: i64, tiers: &[Tier]) -> Option<(Tier, i64)> {
        if !self.held || greatest_base >= INT {
            return None;
        }
        let Part { shortest, longest, from, to } = part;
        let (first, last) = (self.knots.lines[from], self.knots.lines[to]);
        // What the knots add at most, where that is no more than an `i64` holds.
        let weights = first.slope.saturating_sub(last.slope).saturating_mul(longest);
        let gained = if weights < i64::MAX { last.start.wrapping_sub(first.start) } else { weights };
        let bound = last.slope.abs().saturating_mul(longest).saturating_add(greatest_base).saturating_add(gained);
        self.rest = last.slope as i32;
        // Sums that would leave an `i32` may wrap if the scores do not: less the greatest of the profile, they lie between these.
        let wraps = bound >= INT - 1;
        let (mut fits, mut short_of) = (true, first.start);
        if wraps {
            short_of = self.greatest(part);
            let least = first.at(shortest).min(last.at(longest));
            fits = short_of.saturating_sub(least).saturating_add(greatest_base) < INT - 1;
        }
        self.bends.clear();
        let ats = self.knots.ats.as_flattened()[from..to].iter();
        self.bends.extend(ats.copied().zip(self.knots.weights[from..to].iter().copied()));
        let exact = |&tier: &Tier| match tier {
            Tier::Dot => fits && self.bends.len() >= DOT_FROM && longest < 1 << 15 && self.pair_up(),
            Tier::F32 => bound < 1 << 24,
            Tier::I32 => fits,
            Tier::I64 => last.slope.abs() < INT,
        };
        let tier = tiers.iter().copied().find(exact)?;
        if tier == Tier::F32 {
            self.float_bends.clear();
            self.float_bends.extend(self.bends.iter().map(|&(at, weight)| (at as f32, weight as f32)));
        }
        if tier == Tier::I64 {
            short_of = first.start;
        }
        self.shift = first.start.wrapping_sub(short_of) as i32;
        Some((tier, short_of))
    }

    /// Pairs knots up, their weights divided by a common factor where that must be; false when they do not fit 16 bits then.
    fn pair_up(&mut self) -> bool {
        let bends = &self.bends;
        let mut factor = Factor::of(1);
        if self.heaviest >= 1 << 15 {
            factor = bends.iter().fold(Factor::of(bends[0].1), |factor, &(_, weight)| factor.common(weight));
            if self.heaviest / i64::from(factor.value) >= 1 << 15 {
                return false;
            }
        }
        self.factor = factor.value;
        let pack = |low: i32, high: i32| low | high << 16;
        self.dot_bends.clear();
        self.dot_bends.extend(bends.chunks(2).map(|pair| {
            let (first, second) = (pair[0], pair.get(1).copied().unwrap_or((0, 0)));
            (pack(first.0, second.0), pack(factor.quotient(first.1), factor.quotient(second.1)))
        }));
        true
    }
}

/// How many lie below a value.
#[inline(always)]
fn less<L: Lanes>(lanes: L, values: &[[i32; BLOCK]], value: i32) -> usize {
    let mut count = 0;
    for block in values {
        count += lanes.greater(lanes.splat(value), lanes.load(block)).count_ones();
    }
    count as usize
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

//! A profile in order of length: its knots, and the line that it follows between two of them.
//!
//! A column is scored run by run, and a run sees only the few knots between its own lengths. Sorting all of
//! them once makes each cut a count of how many lie below a length.

use std::ops::Range;

use crate::backend::cpu::lanes::Lanes;
use crate::pool::BLOCK;
use crate::score::{Knot, Profile};

/// Knots that there is room for: one for each step of the longest horizon, and a few more.
const MOST_KNOTS: usize = 144;

/// So many knots are taken one by one.
const FEW_KNOTS: usize = 2;

/// So many knots are put in order by counting, for each of them, how many come before it.
const RANKED: usize = 128;

/// One more than the greatest magnitude in `i32` lanes.
const INT: i64 = 1 << 31;

/// The shortest and the longest lengths of sixteen runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edges {
    pub shortest: [i32; BLOCK],
    pub longest: [i32; BLOCK],
}

/// `start + slope * tokens`, of which only sums that fit are read.
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

/// A profile between two lengths of one run, less the greatest score that it has there; all sums modulo 2^32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut<'a> {
    /// The line past every knot.
    pub start: i32,
    pub slope: i32,
    /// Lengths and weights of the knots: each adds its weight for every token up to it.
    pub ats: &'a [i32],
    pub weights: &'a [i32],
    /// What was taken off.
    pub greatest: i64,
}

/// The knots of a profile between two lengths, in order.
#[derive(Clone, Debug)]
pub(crate) struct SortedKnots {
    shortest: i32,
    longest: i32,
    count: usize,
    /// Lengths, the greatest `i32` past the last one, and weights.
    ats: [[i32; BLOCK]; MOST_KNOTS / BLOCK],
    weights: [i32; MOST_KNOTS],
    /// The line past so many knots.
    lines: [Line; MOST_KNOTS + 1],
    /// The first line that does not rise, and where it begins: there the profile is greatest.
    summit: usize,
    peak: i32,
    /// Lengths and weights of all knots as they come, and of those between the lengths.
    all: [[i32; MOST_KNOTS]; 2],
    found: [[i32; MOST_KNOTS + BLOCK]; 2],
}

impl Default for SortedKnots {
    fn default() -> Self {
        Self {
            shortest: 0,
            longest: 0,
            count: 0,
            ats: [[0; BLOCK]; MOST_KNOTS / BLOCK],
            weights: [0; MOST_KNOTS],
            lines: [Line::default(); MOST_KNOTS + 1],
            summit: 0,
            peak: 0,
            all: [[0; MOST_KNOTS]; 2],
            found: [[0; MOST_KNOTS + BLOCK]; 2],
        }
    }
}

impl SortedKnots {
    /// Takes the part of a profile between the lengths `shortest..=longest`: false where no `i32` lanes hold
    /// it.
    #[inline(always)]
    pub(crate) fn take<L: Lanes>(
        &mut self,
        lanes: L,
        profile: &Profile,
        (shortest, longest): (i64, i64),
    ) -> bool {
        if profile.knots.len() > MOST_KNOTS || longest >= INT {
            return false;
        }
        (self.shortest, self.longest) = (shortest as i32, longest as i32);
        let mut line = Line { start: profile.intercept, slope: profile.slope };
        let weights = if profile.knots.len() <= FEW_KNOTS {
            self.take_few(profile, (shortest, longest), &mut line)
        } else {
            self.take_many(lanes, profile, (shortest, longest), &mut line)
        };
        self.draw_lines(line);
        weights < INT
    }

    /// Folds the knots up to the shortest length into a line and puts those before the longest in order;
    /// returns the bits of all weights.
    #[inline(always)]
    fn take_few(&mut self, profile: &Profile, (shortest, longest): (i64, i64), line: &mut Line) -> i64 {
        let (ats, weights) = (&mut self.ats[0], &mut self.weights);
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

    /// [`Self::take_few`] without branches: where one of many knots lies cannot be predicted.
    #[inline(always)]
    fn take_many<L: Lanes>(
        &mut self,
        lanes: L,
        profile: &Profile,
        (shortest, longest): (i64, i64),
        line: &mut Line,
    ) -> i64 {
        let [ats, weights] = &mut self.all;
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
        let ([ats, weights], [found_ats, found_weights]) = (&self.all, &mut self.found);
        self.count = 0;
        for ((ats, weights), from) in
            ats.as_chunks().0.iter().zip(weights.as_chunks().0).zip((0..count).step_by(BLOCK))
        {
            let (ats, weights) = (lanes.load(ats), lanes.load(weights));
            let known = u16::MAX >> BLOCK.saturating_sub(count - from);
            let between = known & lanes.greater(ats, shortest) & lanes.greater(longest, ats);
            let between = between & lanes.greater(weights, lanes.splat(0));
            let to =
                (found_ats[self.count..].first_chunk_mut(), found_weights[self.count..].first_chunk_mut());
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
        let (count, ats, weights) = (self.count, &mut self.ats, &mut self.weights);
        ats[..count.div_ceil(BLOCK)].fill([i32::MAX; BLOCK]);
        let ats = ats.as_flattened_mut();
        let [found_ats, found_weights] = self.found.each_ref().map(|found| &found[..count]);
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

    /// Draws the lines past each knot, from the first one on.
    #[inline(always)]
    fn draw_lines(&mut self, mut line: Line) {
        let (mut summit, mut peak) = (0, if line.slope > 0 { i32::MAX } else { i32::MIN });
        let (first, others) = self.lines.split_first_mut().expect("one more than there are knots");
        *first = line;
        let knots = self.ats.as_flattened().iter().zip(&self.weights);
        for ((&at, &weight), into) in knots.zip(others).take(self.count) {
            let rises = line.slope > 0;
            let (at_tokens, weight) = (i64::from(at), i64::from(weight));
            line.slope -= weight;
            line.start = line.start.wrapping_add(weight * at_tokens);
            *into = line;
            summit += usize::from(rises);
            peak = if rises & (line.slope <= 0) { at } else { peak };
        }
        (self.summit, self.peak) = (summit, peak);
    }

    /// The longest request that fits the worker.
    #[inline(always)]
    pub(super) fn longest(&self) -> i32 {
        self.longest
    }

    /// Cuts the profile to the lengths of a run; none where its scores, bases of at most this magnitude
    /// included, do not fit `i32` lanes.
    #[inline(always)]
    pub(super) fn cut<L: Lanes>(
        &self,
        lanes: L,
        (shortest, longest): (i32, i32),
        greatest_base: i64,
    ) -> Option<Cut<'_>> {
        let longest = longest.min(self.longest);
        let knots = self.between(lanes, shortest, longest);
        let (greatest, least) = self.range((shortest, longest), knots.clone());
        if greatest.saturating_sub(least).saturating_add(greatest_base) >= INT - 1 {
            return None;
        }
        let (first, last) = (self.lines[knots.start], self.lines[knots.end]);
        Some(Cut {
            start: first.start.wrapping_sub(greatest) as i32,
            slope: last.slope as i32,
            ats: &self.ats.as_flattened()[knots.clone()],
            weights: &self.weights[knots],
            greatest,
        })
    }

    /// The scores of lengths that are asked for in ascending order, age and bonus aside.
    pub(crate) fn ascending(&self) -> impl FnMut(i64) -> i64 {
        let (ats, lines) = (&self.ats.as_flattened()[..self.count], &self.lines);
        let mut knots = 0;
        move |tokens| {
            while ats.get(knots).is_some_and(|&at| i64::from(at) < tokens) {
                knots += 1;
            }
            lines[knots].at(tokens)
        }
    }

    /// The knots strictly between the lengths of a run.
    #[inline(always)]
    fn between<L: Lanes>(&self, lanes: L, shortest: i32, longest: i32) -> Range<usize> {
        if shortest <= self.shortest && longest >= self.longest {
            return 0..self.count;
        }
        let from = self.before(lanes, shortest.saturating_add(1));
        from..self.before(lanes, longest).max(from)
    }

    /// The greatest and the least score between the lengths of a run, and these knots between them.
    #[inline(always)]
    fn range(&self, (shortest, longest): (i32, i32), knots: Range<usize>) -> (i64, i64) {
        let at_shortest = self.lines[knots.start].at(i64::from(shortest));
        let at_longest = self.lines[knots.end].at(i64::from(longest));
        let greatest = if self.peak <= shortest {
            at_shortest
        } else if self.peak >= longest {
            at_longest
        } else {
            self.lines[self.summit].at(i64::from(self.peak))
        };
        (greatest, at_shortest.min(at_longest))
    }

    /// At least the greatest score between the lengths of sixteen runs; the least `i64` where every request
    /// is too long.
    #[inline(always)]
    pub(crate) fn bounds<L: Lanes>(&self, lanes: L, edges: &Edges) -> [i64; BLOCK] {
        let mut bounds = [i64::MIN; BLOCK];
        for ((bound, &shortest), &longest) in bounds.iter_mut().zip(&edges.shortest).zip(&edges.longest) {
            if shortest <= self.longest {
                let tokens = self.peak.max(shortest).min(longest.min(self.longest));
                *bound = self.lines[self.before(lanes, tokens)].at(i64::from(tokens));
            }
        }
        bounds
    }

    /// How many knots lie before a length.
    #[inline(always)]
    fn before<L: Lanes>(&self, lanes: L, tokens: i32) -> usize {
        less(lanes, &self.ats[..self.count.div_ceil(BLOCK)], tokens)
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

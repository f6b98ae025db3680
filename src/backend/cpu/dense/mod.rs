//! Dense columns: every waiting request scored on one worker, where terms per pair leave nothing to search by.
//!
//! A column is scored by runs of the length order. A profile is put in order once ([`Query::prepare`]), bounded over all runs at once
//! ([`Query::bounds`]), and cut to the lengths of each run that is scored ([`Query::cut`]): knots below them are part of the line `base + rest * s`,
//! knots above them are never reached, and only those between are left to add.
//!
//! # Numeric contract
//! Scores are integers (see [`crate::score`]) and every path computes exactly these integers, so no path can pick another pair.
//! Which lanes may be used is decided per run from a bound on everything that is added up, [`Query::cut`]:
//!
//! | lanes | condition | |
//! |---|---|---|
//! | [`Tier::F32`] | every product and partial sum is below 2^24 | exact: whole numbers below 2^24 are `f32`s |
//! | [`Tier::I32`] | the scores of the run lie within 2^31 of its greatest | sums may wrap on the way: modulo 2^32 they end where they belong |
//! | [`Tier::Dot`] | the same, lengths below 2^15, weights a common factor times less than 2^15 | 16-bit dot products, summed in `i32` |
//! | [`Tier::I64`] | knots, weights, ages and bonuses are `i32`s | products of `i32`, summed in `i64` |
//! | none | otherwise | [`crate::score::Profile::score`], one request at a time |
//!
//! The order of the operations is fixed and nothing is fused: `base + rest * s`, where `rest` is the slope past every length of the run, then
//! `+ weight * min(s, at)` knot by knot, the shortest first: the same as `base + slope * s - weight * max(0, s - at)`, with an operation less for
//! each knot.
//!
//! A bonus is rounded to whole tokens, halves away from zero; a half-precision bonus is widened exactly before that. A caller
//! who stores bonuses `b` as `f16` moves each by at most `2^-11 * |b| + 2^-25`, and rounding by at most one token more; with `E` the greatest such
//! move in whole tokens, the pick of one admission scores at most `2 * E` tokens below the best pick of the `f32` bonuses.

mod cells;
mod fill;
mod query;
mod sorted_knots;

pub(crate) use cells::{Kept, STRIDE};
pub(crate) use fill::{Hit, Plain, Span};
pub(super) use fill::{add_bonuses, ages, find_bonuses, top, words};
pub(crate) use query::Query;
pub use query::Tier;
pub(crate) use sorted_knots::Edges;

use super::lanes::{Block, DenseLanes};
use crate::pool::BLOCK;
use cells::{Cells, FEW_BLOCKS, SEGMENT, Score, Scores, Work, choose};

/// A run of requests in any order, in whole strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub tokens: &'a [Block],
    /// Age plus bonus in score units.
    pub base: &'a [Block],
    /// Eligibility of 32 workers per request; zero once it is taken, and past the end.
    pub words: &'a [Block],
    /// Rank in arrival order of each request: the earliest of equals wins.
    pub arrived: &'a [u64],
}

/// The best request of a run: where it stands in it, and its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Best {
    pub index: u32,
    pub score: i64,
}

/// The best request of a run on one worker: greatest score, then earliest.
#[inline(always)]
pub(super) fn column<L: DenseLanes, const N: usize, const W: usize>(
    lanes: L,
    tier: Tier,
    rows: &Rows<'_>,
    query: &Query,
    kept: &mut Kept,
) -> Option<Best> {
    choose::<_, _, N, W>(lanes, tier, query, Run(rows, kept))
}

/// [`column()`] of `blocks` blocks on what is in registers already: the least time that it could take.
#[inline(always)]
pub(super) fn spin<L: DenseLanes, const N: usize, const W: usize>(
    lanes: L,
    tier: Tier,
    query: &Query,
    blocks: usize,
    kept: &mut Kept,
) -> i64 {
    choose::<_, _, N, W>(lanes, tier, query, Spin(blocks, kept))
}

/// Tokens, bases and eligibility words of `N` blocks.
type Registers<L, const N: usize> = [[<L as super::lanes::Lanes>::V; N]; 3];

/// Scores `N` blocks at once, so that a knot is loaded once for all of them and their sums do not wait for each other.
#[inline(always)]
fn score<L: DenseLanes, C: Cells<L>, const N: usize, const CUT: bool>(
    lanes: L,
    query: &Query,
    [tokens, base, words]: Registers<L, N>,
) -> [(L::M, Score<L, C>); N] {
    let mut sums = [C::begin(lanes, query, tokens[0], base[0]); N];
    let mut lengths = [C::tokens(lanes, tokens[0]); N];
    for n in 1..N {
        sums[n] = C::begin(lanes, query, tokens[n], base[n]);
        lengths[n] = C::tokens(lanes, tokens[n]);
    }
    for at in 0..C::count(query) {
        let bend = C::bend_at(lanes, query, at);
        // All lengths first: units that only compare then leave alone those that multiply (measured).
        let mut clipped = lengths;
        for clipped in &mut clipped {
            *clipped = C::clip(lanes, *clipped, bend);
        }
        for (sum, clipped) in sums.iter_mut().zip(clipped) {
            *sum = C::bend(lanes, *sum, clipped, bend);
        }
    }
    // No closures on the way: they would be compiled without the instruction set.
    let first = allowed::<L, CUT>(lanes, query, tokens[0], words[0]);
    let mut scored = [(first, C::score(lanes, query, sums[0], tokens[0], base[0])); N];
    for n in 1..N {
        scored[n].0 = allowed::<L, CUT>(lanes, query, tokens[n], words[n]);
        scored[n].1 = C::score(lanes, query, sums[n], tokens[n], base[n]);
    }
    scored
}

/// Who of a block may be taken.
#[inline(always)]
fn allowed<L: DenseLanes, const CUT: bool>(lanes: L, query: &Query, tokens: L::V, words: L::V) -> L::M {
    let bit = lanes.splat(query.bit);
    match CUT {
        true => lanes.allowed(words, bit, tokens, lanes.splat(query.longest())),
        false => lanes.has(words, bit),
    }
}

/// Where the registers of a step come from.
trait Source<L: DenseLanes, const N: usize> {
    fn step(&mut self, lanes: L, at: usize) -> Registers<L, N>;
}

/// The greatest score of at most [`SEGMENT`] steps and where it stands; the earliest of equals, by `rows`.
///
/// First the greatest of every step and lane, without asking whose it is; then who has it, in the steps that reach the greatest of all.
#[inline(always)]
fn segment<L: DenseLanes, C: Cells<L>, const N: usize, const CUT: bool>(
    lanes: L,
    query: &Query,
    (source, from, to): (&mut impl Source<L, N>, usize, usize),
    (rows, kept): (&Rows<'_>, &mut Kept),
    mut found: Option<Best>,
) -> Option<Best> {
    let greatest = C::Scores::kept(kept);
    let nothing = C::Scores::splat(lanes, C::Scores::NOTHING);
    let mut best = nothing;
    for (at, greatest) in (from..to).zip(greatest.iter_mut()) {
        let mut step = nothing;
        for (mask, score) in score::<L, C, N, CUT>(lanes, query, source.step(lanes, at)) {
            step = C::Scores::raise(lanes, mask, step, score);
        }
        C::Scores::keep(lanes, step, greatest);
        best = C::Scores::greater(lanes, best, step);
    }
    let (top, wanted) = C::Scores::top(lanes, best);
    if top == C::Scores::NOTHING || found.is_some_and(|found| top < found.score) {
        return found;
    }
    // All of them at once: one after the other, each would be a branch that nobody foresees.
    let mut steps = 0u32;
    let fours = greatest.as_chunks::<4>().0.iter().zip((0..to - from).step_by(4));
    for (lines, first) in fours {
        let mut four = 0u32;
        for (line, at) in lines.iter().zip(0..4) {
            let equals = C::Scores::equal(lanes, C::Scores::load(lanes, line), wanted);
            four |= u32::from(equals != 0) << at;
        }
        steps |= four << first;
    }
    // What is left over past the end means nothing.
    steps &= u32::MAX >> (32 - (to - from));
    while steps != 0 {
        let step = steps.trailing_zeros() as usize;
        steps &= steps - 1;
        let at = from + step;
        let scored = score::<L, C, N, CUT>(lanes, query, source.step(lanes, at));
        for (n, (mask, score)) in scored.into_iter().enumerate() {
            let mut bits = lanes.bits(mask) & C::Scores::equal(lanes, score, wanted);
            while bits != 0 {
                let index = ((at * N + n) * BLOCK) as u32 + bits.trailing_zeros();
                bits &= bits - 1;
                found = Some(rows.earlier(found, Best { index, score: top }));
            }
        }
    }
    found
}

/// The same of at most [`FEW_BLOCKS`] blocks: every score is kept, so whoever has the greatest stands in one word, and no branch asks where.
#[inline(always)]
fn few<L: DenseLanes, C: Cells<L>, const N: usize, const CUT: bool>(
    lanes: L,
    query: &Query,
    (source, steps): (&mut impl Source<L, N>, usize),
    (rows, kept): (&Rows<'_>, &mut Kept),
) -> Option<Best> {
    let lines = C::Scores::kept(kept);
    let mut best = C::Scores::splat(lanes, C::Scores::NOTHING);
    let mut allowed = [0u16; FEW_BLOCKS];
    for at in 0..steps {
        let scored = score::<L, C, N, CUT>(lanes, query, source.step(lanes, at));
        for (n, (mask, score)) in scored.into_iter().enumerate() {
            let block = (at * N + n) % FEW_BLOCKS;
            best = C::Scores::raise(lanes, mask, best, score);
            C::Scores::keep(lanes, score, &mut lines[block]);
            allowed[block] = lanes.bits(mask);
        }
    }
    let (top, wanted) = C::Scores::top(lanes, best);
    if top == C::Scores::NOTHING {
        return None;
    }
    let mut bits = 0u128;
    for (block, (line, allowed)) in lines.iter().zip(allowed).enumerate() {
        // What is left over past the end is nobody's.
        let equal = C::Scores::equal(lanes, C::Scores::load(lanes, line), wanted) & allowed;
        bits |= u128::from(equal) << (block * BLOCK);
    }
    let mut found = None;
    while bits != 0 {
        let best = Best { index: bits.trailing_zeros(), score: top };
        bits &= bits - 1;
        found = Some(rows.earlier(found, best));
    }
    found
}

struct Memory<'a, const N: usize>([&'a [[Block; N]]; 3]);

impl<L: DenseLanes, const N: usize> Source<L, N> for Memory<'_, N> {
    #[inline(always)]
    fn step(&mut self, lanes: L, at: usize) -> Registers<L, N> {
        let mut registers = [[lanes.splat(0); N]; 3];
        for (registers, blocks) in registers.iter_mut().zip(self.0) {
            for (register, block) in registers.iter_mut().zip(&blocks[at]) {
                *register = lanes.load(&block.0);
            }
        }
        registers
    }
}

struct Run<'a>(&'a Rows<'a>, &'a mut Kept);

impl<L: DenseLanes> Work<L> for Run<'_> {
    type Answer = Option<Best>;
    const CUT_OFF: bool = true;

    #[inline(always)]
    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> Option<Best> {
        let Self(rows, kept) = self;
        let steps = rows.tokens.len() / N;
        let blocks = [rows.tokens, rows.base, rows.words].map(|blocks| &blocks.as_chunks::<N>().0[..steps]);
        let (mut memory, mut found) = (Memory(blocks), None);
        if steps * N <= FEW_BLOCKS {
            return few::<L, C, N, CUT>(lanes, query, (&mut memory, steps), (rows, kept));
        }
        for from in (0..steps).step_by(SEGMENT) {
            let part = (&mut memory, from, (from + SEGMENT).min(steps));
            found = segment::<L, C, N, CUT>(lanes, query, part, (rows, kept), found);
        }
        found
    }
}

/// Somebody whose best request stands in the first block, alone.
struct Opaque<L: DenseLanes, const N: usize>(Registers<L, N>);

impl<L: DenseLanes, const N: usize> Source<L, N> for Opaque<L, N> {
    #[inline(always)]
    fn step(&mut self, lanes: L, _: usize) -> Registers<L, N> {
        for registers in &mut self.0 {
            for register in registers {
                *register = lanes.opaque(*register);
            }
        }
        let registers = self.0;
        self.0[1][0] = lanes.sub(registers[1][0], lanes.splat(1));
        registers
    }
}

struct Spin<'a>(usize, &'a mut Kept);

impl<L: DenseLanes> Work<L> for Spin<'_> {
    type Answer = i64;
    const CUT_OFF: bool = false;

    #[inline(always)]
    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> i64 {
        let mut first = [100; BLOCK];
        first[3] = 101;
        let rows = Rows { tokens: &[], base: &[], words: &[], arrived: &[] };
        let Self(blocks, kept) = self;
        let (mut score, mut left) = (0, blocks / N);
        while left > 0 {
            let steps = left.min(SEGMENT);
            let mut registers = [[lanes.splat(700); N], [lanes.splat(3); N], [lanes.splat(-1); N]];
            registers[1][0] = lanes.load(&first);
            let part = (&mut Opaque(registers), 0, steps);
            let best = segment::<L, C, N, CUT>(lanes, query, part, (&rows, kept), None);
            score += best.map_or(0, |best| best.score);
            left -= steps;
        }
        score
    }
}

impl Rows<'_> {
    /// The better of two, the earlier of equals.
    #[inline(always)]
    fn earlier(&self, found: Option<Best>, other: Best) -> Best {
        let arrived = |best: Best| self.arrived[best.index as usize];
        match found {
            Some(found) if found.score > other.score => found,
            Some(found) if found.score == other.score && arrived(found) < arrived(other) => found,
            _ => other,
        }
    }
}

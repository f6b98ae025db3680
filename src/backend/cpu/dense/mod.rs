//! Dense columns: every request of a run scored on one worker, where terms per pair leave nothing to search
//! by.
//!
//! A run is a stretch of the length order. The knots of a profile are sorted once for all runs
//! ([`SortedKnots::take`]), give a bound for each of them ([`SortedKnots::bounds`]), and are cut to the
//! lengths of each run that is scored ([`SortedKnots::cut`]): knots below these lengths are part of a line,
//! knots above them are never reached, and only those between are left to add.
//!
//! # Numeric contract
//! Scores are integers (see [`crate::score`]), and every path computes exactly these integers:
//!
//! | path | condition |
//! |---|---|
//! | `i32` lanes ([`best_of_run`]) | weights below 2^31, and the scores of the run lie within 2^31 |
//! | 64 bits, one request at a time ([`SortedKnots::ascending`]) | weights below 2^31 |
//! | the definition ([`crate::score::Profile::score`]) | otherwise |
//!
//! Lanes hold a score less the greatest of the profile. Sums may wrap on the way: modulo 2^32 they end where
//! they belong.
//!
//! A bonus is rounded to whole tokens, halves away from zero; a half-precision bonus is widened exactly
//! before that. A caller who stores bonuses `b` as `f16` moves each by at most `2^-11 * |b| + 2^-25`, and
//! rounding by at most one token more; with `E` the greatest such move in whole tokens, the pick of one
//! admission scores at most `2 * E` tokens below the best pick of the `f32` bonuses.

mod fill;
mod sorted_knots;

pub(crate) use fill::{Hit, Plain, Span};
pub(super) use fill::{add_bonuses, ages, find_bonuses, top, words};
pub(crate) use sorted_knots::{Edges, SortedKnots};

use super::lanes::{Block, Lanes};
use crate::pool::BLOCK;
use sorted_knots::Cut;

/// Blocks of a run come in multiples of this: what the widest loop takes at once.
pub(crate) const STRIDE: usize = 4;

/// Below every score.
const NOTHING: i32 = i32::MIN;

/// A run of requests and the worker that they are scored on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub tokens: &'a [Block],
    /// Age plus bonus in score units.
    pub base: &'a [Block],
    /// Eligibility of 32 workers per request; zero once it is taken, and past the end.
    pub words: &'a [Block],
    /// Rank in arrival order of each request: the earliest of equals wins.
    pub arrived: &'a [u64],
    /// The shortest and the longest request in tokens.
    pub lengths: (i32, i32),
    /// At least the magnitude of every base.
    pub greatest_base: i64,
    /// The worker's bit of an eligibility word.
    pub bit: i32,
}

/// The best request of a run: where it stands in it, and its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Best {
    pub index: u32,
    pub score: i64,
}

/// The scores of a run do not fit `i32` lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooWide;

/// The best request of a run on one worker: greatest score, then earliest. `scores` has room for its blocks.
#[inline(always)]
pub(super) fn best_of_run<L: Lanes, const N: usize>(
    lanes: L,
    rows: &Rows<'_>,
    knots: &SortedKnots,
    scores: &mut [Block],
) -> Result<Option<Best>, TooWide> {
    let cut = knots.cut(lanes, rows.lengths, rows.greatest_base).ok_or(TooWide)?;
    let blocks = rows.tokens.len();
    let (tokens, base, words) = (&rows.tokens[..blocks], &rows.base[..blocks], &rows.words[..blocks]);
    let scores = &mut scores[..blocks];
    // First the greatest score of all.
    let mut best = lanes.splat(NOTHING);
    let steps = tokens.as_chunks::<N>().0.iter().zip(base.as_chunks::<N>().0);
    let steps = steps.zip(words.as_chunks::<N>().0).zip(scores.as_chunks_mut::<N>().0);
    for (((tokens, base), words), into) in steps {
        let mut registers = [[best; N]; 3];
        for (registers, blocks) in registers.iter_mut().zip([tokens, base, words]) {
            for (register, block) in registers.iter_mut().zip(blocks) {
                *register = lanes.load(&block.0);
            }
        }
        let scored = score(lanes, &cut, (rows.bit, knots.longest()), registers);
        for (into, scored) in into.iter_mut().zip(scored) {
            lanes.store(scored, &mut into.0);
            best = lanes.max(best, scored);
        }
    }
    let top = lanes.top(best);
    if top == NOTHING {
        return Ok(None);
    }
    // Then the earliest that has it, four blocks at a time.
    let (wanted, mut index) = (lanes.splat(top), usize::MAX);
    for (scores, from) in scores.as_chunks::<STRIDE>().0.iter().zip((0..).step_by(STRIDE * BLOCK)) {
        let mut greatest = lanes.load(&scores[0].0);
        for scores in &scores[1..] {
            greatest = lanes.max(greatest, lanes.load(&scores.0));
        }
        if lanes.equal(greatest, wanted) == 0 {
            continue;
        }
        let mut bits = 0u64;
        for (block, scores) in scores.iter().enumerate() {
            bits |= u64::from(lanes.equal(lanes.load(&scores.0), wanted)) << (block * BLOCK);
        }
        while bits != 0 {
            let other = from + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if index == usize::MAX || rows.arrived[other] < rows.arrived[index] {
                index = other;
            }
        }
    }
    Ok(Some(Best { index: index as u32, score: i64::from(top) + cut.greatest }))
}

/// The greatest score of so many blocks that lie in registers: the least time that the scores of
/// [`best_of_run`] could take.
#[inline(always)]
pub(super) fn spin<L: Lanes, const N: usize>(
    lanes: L,
    rows: &Rows<'_>,
    knots: &SortedKnots,
    blocks: usize,
) -> i32 {
    let Some(cut) = knots.cut(lanes, rows.lengths, rows.greatest_base) else { return NOTHING };
    let mut registers = [[lanes.splat(rows.lengths.0); N], [lanes.splat(3); N], [lanes.splat(rows.bit); N]];
    let mut best = lanes.splat(NOTHING);
    for _ in 0..blocks / N {
        for register in registers.as_flattened_mut() {
            *register = lanes.opaque(*register);
        }
        for scored in score(lanes, &cut, (rows.bit, knots.longest()), registers) {
            best = lanes.max(best, scored);
        }
    }
    lanes.top(best)
}

/// Tokens, ages plus bonuses, and eligibility words of `N` blocks.
type Registers<L, const N: usize> = [[<L as Lanes>::V; N]; 3];

/// Scores `N` blocks at once, so that a knot is loaded once for all of them and their sums do not wait for
/// each other.
#[inline(always)]
fn score<L: Lanes, const N: usize>(
    lanes: L,
    cut: &Cut<'_>,
    (bit, longest): (i32, i32),
    [lengths, base, words]: Registers<L, N>,
) -> [L::V; N] {
    // No closures on the way: they would be compiled without the instruction set.
    let mut sums = base;
    for (sum, length) in sums.iter_mut().zip(lengths) {
        let line = lanes.add(lanes.mul(length, lanes.splat(cut.slope)), lanes.splat(cut.start));
        *sum = lanes.add(line, *sum);
    }
    for (&at, &weight) in cut.ats.iter().zip(cut.weights) {
        let (at, weight) = (lanes.splat(at), lanes.splat(weight));
        // All lengths first: units that only compare then leave alone those that multiply (measured).
        let mut clipped = lengths;
        for clipped in &mut clipped {
            *clipped = lanes.min(*clipped, at);
        }
        for (sum, clipped) in sums.iter_mut().zip(clipped) {
            *sum = lanes.add(*sum, lanes.mul(clipped, weight));
        }
    }
    for n in 0..N {
        sums[n] = lanes.admit(sums[n], words[n], bit, lengths[n], longest);
    }
    sums
}

//! One cell of a dense column, written once for every kind of lanes.

use super::query::{Query, Tier};
use crate::backend::cpu::lanes::DenseLanes;
use crate::pool::BLOCK;

/// Blocks come in multiples of this: what the widest loop takes at once.
pub(crate) const STRIDE: usize = 4;

/// Steps of a column that are searched at once for whoever has the greatest score.
pub(super) const SEGMENT: usize = 16;

/// Blocks whose lanes have a bit each in one word.
pub(super) const FEW_BLOCKS: usize = 8;

/// Scores of a block, on cache lines of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line<T>([T; BLOCK]);

/// Room for the greatest scores of each step of a segment, or for all scores of a few blocks: there whoever has the greatest is found again.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    ints: Box<[Line<i32>; SEGMENT]>,
    floats: Box<[Line<f32>; SEGMENT]>,
    wides: Box<[Line<i64>; SEGMENT]>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            ints: Box::new([Line([0; BLOCK]); SEGMENT]),
            floats: Box::new([Line([0.0; BLOCK]); SEGMENT]),
            wides: Box::new([Line([0; BLOCK]); SEGMENT]),
        }
    }
}

/// Lanes that hold scores: the greatest so far, per lane.
pub(super) trait Scores<L: DenseLanes> {
    type N: Copy;
    /// One of them.
    type Lane: Copy;
    /// Below any score.
    const NOTHING: i64;

    fn splat(lanes: L, score: i64) -> Self::N;
    /// The greater of both in the lanes of a mask, `best` elsewhere.
    fn raise(lanes: L, mask: L::M, best: Self::N, score: Self::N) -> Self::N;
    fn greater(lanes: L, a: Self::N, b: Self::N) -> Self::N;
    /// The greatest of the lanes, and lanes that all hold it.
    fn top(lanes: L, best: Self::N) -> (i64, Self::N);
    /// Their place among the kept ones.
    fn kept(kept: &mut Kept) -> &mut [Line<Self::Lane>; SEGMENT];
    fn keep(lanes: L, scores: Self::N, line: &mut Line<Self::Lane>);
    fn load(lanes: L, line: &Line<Self::Lane>) -> Self::N;
    /// A bit for each lane with `a == b`.
    fn equal(lanes: L, a: Self::N, b: Self::N) -> u16;
}

/// Lanes that also add up a profile, lengths and all.
trait Sums<L: DenseLanes>: Scores<L> {
    fn count(query: &Query) -> usize;
    fn bend_at(lanes: L, query: &Query, at: usize) -> (Self::N, Self::N);
    fn of(lanes: L, a: L::V) -> Self::N;
    fn add(lanes: L, a: Self::N, b: Self::N) -> Self::N;
    /// The lesser of two that are not negative.
    fn lesser(lanes: L, a: Self::N, b: Self::N) -> Self::N;
    fn mul(lanes: L, a: Self::N, b: Self::N) -> Self::N;
}

/// `i32` lanes.
#[derive(Clone, Copy)]
struct Ints;
/// `f32` lanes.
#[derive(Clone, Copy)]
struct Floats;
/// `i64` lanes.
#[derive(Clone, Copy)]
struct Wides;

impl<L: DenseLanes> Scores<L> for Ints {
    type N = L::V;
    type Lane = i32;
    const NOTHING: i64 = i32::MIN as i64;

    #[inline(always)]
    fn splat(lanes: L, score: i64) -> L::V {
        lanes.splat(score as i32)
    }

    #[inline(always)]
    fn raise(lanes: L, mask: L::M, best: L::V, score: L::V) -> L::V {
        lanes.raise(mask, best, score)
    }

    #[inline(always)]
    fn greater(lanes: L, a: L::V, b: L::V) -> L::V {
        lanes.max(a, b)
    }

    #[inline(always)]
    fn top(lanes: L, best: L::V) -> (i64, L::V) {
        let (top, everywhere) = lanes.spread_top(best);
        (i64::from(top), everywhere)
    }

    #[inline(always)]
    fn kept(kept: &mut Kept) -> &mut [Line<i32>; SEGMENT] {
        &mut kept.ints
    }

    #[inline(always)]
    fn keep(lanes: L, scores: L::V, line: &mut Line<i32>) {
        lanes.store(scores, &mut line.0);
    }

    #[inline(always)]
    fn load(lanes: L, line: &Line<i32>) -> L::V {
        lanes.load(&line.0)
    }

    #[inline(always)]
    fn equal(lanes: L, a: L::V, b: L::V) -> u16 {
        lanes.equal(a, b)
    }
}

impl<L: DenseLanes> Sums<L> for Ints {
    #[inline(always)]
    fn count(query: &Query) -> usize {
        query.bends().len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> (L::V, L::V) {
        let (at, weight) = query.bends()[at];
        (lanes.splat(at), lanes.splat(weight))
    }

    #[inline(always)]
    fn of(_: L, a: L::V) -> L::V {
        a
    }

    #[inline(always)]
    fn add(lanes: L, a: L::V, b: L::V) -> L::V {
        lanes.add(a, b)
    }

    #[inline(always)]
    fn lesser(lanes: L, a: L::V, b: L::V) -> L::V {
        lanes.min(a, b)
    }

    #[inline(always)]
    fn mul(lanes: L, a: L::V, b: L::V) -> L::V {
        lanes.mul(a, b)
    }
}

impl<L: DenseLanes> Scores<L> for Floats {
    type N = L::F;
    type Lane = f32;
    /// What minus infinity becomes.
    const NOTHING: i64 = i64::MIN;

    #[inline(always)]
    fn splat(lanes: L, score: i64) -> L::F {
        lanes.splat_float(if score == i64::MIN { f32::NEG_INFINITY } else { score as f32 })
    }

    #[inline(always)]
    fn raise(lanes: L, mask: L::M, best: L::F, score: L::F) -> L::F {
        lanes.raise_float(mask, best, score)
    }

    #[inline(always)]
    fn greater(lanes: L, a: L::F, b: L::F) -> L::F {
        lanes.max_float(a, b)
    }

    #[inline(always)]
    fn top(lanes: L, best: L::F) -> (i64, L::F) {
        let (top, everywhere) = lanes.spread_top_float(best);
        (top as i64, everywhere)
    }

    #[inline(always)]
    fn kept(kept: &mut Kept) -> &mut [Line<f32>; SEGMENT] {
        &mut kept.floats
    }

    #[inline(always)]
    fn keep(lanes: L, scores: L::F, line: &mut Line<f32>) {
        lanes.store_float(scores, &mut line.0);
    }

    #[inline(always)]
    fn load(lanes: L, line: &Line<f32>) -> L::F {
        lanes.load_float(&line.0)
    }

    #[inline(always)]
    fn equal(lanes: L, a: L::F, b: L::F) -> u16 {
        lanes.equal_float(a, b)
    }
}

impl<L: DenseLanes> Sums<L> for Floats {
    #[inline(always)]
    fn count(query: &Query) -> usize {
        query.float_bends().len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> (L::F, L::F) {
        let (at, weight) = &query.float_bends()[at];
        (lanes.splat_float_from(at), lanes.splat_float_from(weight))
    }

    #[inline(always)]
    fn of(lanes: L, a: L::V) -> L::F {
        lanes.float(a)
    }

    #[inline(always)]
    fn add(lanes: L, a: L::F, b: L::F) -> L::F {
        lanes.add_float(a, b)
    }

    #[inline(always)]
    fn lesser(lanes: L, a: L::F, b: L::F) -> L::F {
        lanes.lesser_float(a, b)
    }

    #[inline(always)]
    fn mul(lanes: L, a: L::F, b: L::F) -> L::F {
        lanes.mul_float(a, b)
    }
}

impl<L: DenseLanes> Scores<L> for Wides {
    type N = L::W;
    type Lane = i64;
    const NOTHING: i64 = i64::MIN;

    #[inline(always)]
    fn splat(lanes: L, score: i64) -> L::W {
        lanes.splat_wide(score)
    }

    #[inline(always)]
    fn raise(lanes: L, mask: L::M, best: L::W, score: L::W) -> L::W {
        lanes.raise_wide(mask, best, score)
    }

    #[inline(always)]
    fn greater(lanes: L, a: L::W, b: L::W) -> L::W {
        lanes.max_wide(a, b)
    }

    #[inline(always)]
    fn top(lanes: L, best: L::W) -> (i64, L::W) {
        let mut scores = [0; BLOCK];
        lanes.store_wide(best, &mut scores);
        let top = scores.into_iter().fold(i64::MIN, i64::max);
        (top, lanes.splat_wide(top))
    }

    #[inline(always)]
    fn kept(kept: &mut Kept) -> &mut [Line<i64>; SEGMENT] {
        &mut kept.wides
    }

    #[inline(always)]
    fn keep(lanes: L, scores: L::W, line: &mut Line<i64>) {
        lanes.store_wide(scores, &mut line.0);
    }

    #[inline(always)]
    fn load(lanes: L, line: &Line<i64>) -> L::W {
        lanes.load_wide(&line.0)
    }

    #[inline(always)]
    fn equal(lanes: L, a: L::W, b: L::W) -> u16 {
        lanes.equal_wide(a, b)
    }
}

/// One way to score a column: which lanes sum, which lanes hold the score.
pub(super) trait Cells<L: DenseLanes>: Copy {
    type Scores: Scores<L>;
    type Tokens: Copy;
    type Sum: Copy;
    type Bend: Copy;

    fn count(query: &Query) -> usize;
    fn bend_at(lanes: L, query: &Query, at: usize) -> Self::Bend;
    fn tokens(lanes: L, tokens: L::V) -> Self::Tokens;
    fn begin(lanes: L, query: &Query, tokens: L::V, base: L::V) -> Self::Sum;
    /// Tokens up to a knot.
    fn clip(lanes: L, tokens: Self::Tokens, bend: Self::Bend) -> Self::Tokens;
    /// Adds what these are worth.
    fn bend(lanes: L, sum: Self::Sum, clipped: Self::Tokens, bend: Self::Bend) -> Self::Sum;
    fn score(lanes: L, query: &Query, sum: Self::Sum, tokens: L::V, base: L::V) -> Score<L, Self>;
}

pub(super) type Score<L, C> = <<C as Cells<L>>::Scores as Scores<L>>::N;

/// Sums of products; where they may wrap, they are shifted so that the score does not.
#[derive(Clone, Copy)]
struct Plainly<S, const WRAP: bool>(std::marker::PhantomData<S>);
/// Sums of 16-bit dot products in `i32` lanes, `ONTO` the line where weights are undivided.
#[derive(Clone, Copy)]
struct Dots<const ONTO: bool, const WRAP: bool>;
/// Sums of 32-bit products in `i64` lanes.
#[derive(Clone, Copy)]
struct Widely;

impl<L: DenseLanes, S: Sums<L> + Copy, const WRAP: bool> Cells<L> for Plainly<S, WRAP> {
    type Scores = S;
    type Tokens = S::N;
    type Sum = S::N;
    type Bend = (S::N, S::N);

    #[inline(always)]
    fn count(query: &Query) -> usize {
        S::count(query)
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> Self::Bend {
        S::bend_at(lanes, query, at)
    }

    #[inline(always)]
    fn tokens(lanes: L, tokens: L::V) -> S::N {
        S::of(lanes, tokens)
    }

    #[inline(always)]
    fn begin(lanes: L, query: &Query, tokens: L::V, base: L::V) -> S::N {
        let rest = S::splat(lanes, i64::from(query.rest));
        let line = S::add(lanes, S::of(lanes, base), S::mul(lanes, rest, S::of(lanes, tokens)));
        if WRAP { S::add(lanes, line, S::splat(lanes, i64::from(query.shift))) } else { line }
    }

    #[inline(always)]
    fn clip(lanes: L, tokens: S::N, (at, _): Self::Bend) -> S::N {
        S::lesser(lanes, tokens, at)
    }

    #[inline(always)]
    fn bend(lanes: L, sum: S::N, clipped: S::N, (_, weight): Self::Bend) -> S::N {
        S::add(lanes, sum, S::mul(lanes, clipped, weight))
    }

    #[inline(always)]
    fn score(_: L, _: &Query, sum: S::N, _: L::V, _: L::V) -> S::N {
        sum
    }
}

impl<L: DenseLanes, const ONTO: bool, const WRAP: bool> Cells<L> for Dots<ONTO, WRAP> {
    type Scores = Ints;
    type Tokens = L::V;
    type Sum = L::V;
    type Bend = (L::V, L::V);

    #[inline(always)]
    fn count(query: &Query) -> usize {
        query.bends().len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> Self::Bend {
        let (at, weight) = query.bends()[at];
        (lanes.splat(at), lanes.splat(weight))
    }

    #[inline(always)]
    fn tokens(lanes: L, tokens: L::V) -> L::V {
        lanes.twice(tokens)
    }

    #[inline(always)]
    fn begin(lanes: L, query: &Query, tokens: L::V, base: L::V) -> L::V {
        if ONTO { Plainly::<Ints, WRAP>::begin(lanes, query, tokens, base) } else { lanes.splat(0) }
    }

    #[inline(always)]
    fn clip(lanes: L, tokens: L::V, (at, _): Self::Bend) -> L::V {
        lanes.min_halves(tokens, at)
    }

    #[inline(always)]
    fn bend(lanes: L, sum: L::V, clipped: L::V, (_, weight): Self::Bend) -> L::V {
        lanes.dot(sum, clipped, weight)
    }

    #[inline(always)]
    fn score(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> L::V {
        if ONTO {
            return sum;
        }
        let gained = lanes.mul(sum, lanes.splat(query.factor));
        lanes.add(Plainly::<Ints, WRAP>::begin(lanes, query, tokens, base), gained)
    }
}

impl<L: DenseLanes> Cells<L> for Widely {
    type Scores = Wides;
    type Tokens = L::V;
    type Sum = L::W;
    type Bend = (L::V, L::V);

    #[inline(always)]
    fn count(query: &Query) -> usize {
        query.bends().len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> Self::Bend {
        Ints::bend_at(lanes, query, at)
    }

    #[inline(always)]
    fn tokens(_: L, tokens: L::V) -> L::V {
        tokens
    }

    #[inline(always)]
    fn begin(lanes: L, query: &Query, tokens: L::V, base: L::V) -> L::W {
        lanes.add_wide(lanes.widen(base), lanes.mul_wide(lanes.splat(query.rest), tokens))
    }

    #[inline(always)]
    fn clip(lanes: L, tokens: L::V, (at, _): Self::Bend) -> L::V {
        lanes.min(tokens, at)
    }

    #[inline(always)]
    fn bend(lanes: L, sum: L::W, clipped: L::V, (_, weight): Self::Bend) -> L::W {
        lanes.add_wide(sum, lanes.mul_wide(clipped, weight))
    }

    #[inline(always)]
    fn score(_: L, _: &Query, sum: L::W, _: L::V, _: L::V) -> L::W {
        sum
    }
}

/// What is done with the cells of a query, whichever they are.
pub(super) trait Work<L: DenseLanes> {
    type Answer;
    /// Whether a query that leaves the longest out may be asked for.
    const CUT_OFF: bool;

    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> Self::Answer;
}

/// Chooses the cells: `N` blocks at once, `W` where scores are wide.
#[inline(always)]
pub(super) fn choose<L: DenseLanes, K: Work<L>, const N: usize, const W: usize>(
    lanes: L,
    tier: Tier,
    query: &Query,
    work: K,
) -> K::Answer {
    macro_rules! cells {
        ($cells:ty, $blocks:ident) => {
            if K::CUT_OFF && query.cut_off {
                work.with::<$cells, $blocks, true>(lanes, query)
            } else {
                work.with::<$cells, $blocks, false>(lanes, query)
            }
        };
    }
    match tier {
        Tier::F32 => cells!(Plainly<Floats, false>, N),
        Tier::I32 if query.shift == 0 => cells!(Plainly<Ints, false>, N),
        Tier::I32 => cells!(Plainly<Ints, true>, N),
        Tier::Dot if query.factor != 1 => cells!(Dots<false, true>, N),
        Tier::Dot if query.shift == 0 => cells!(Dots<true, false>, N),
        Tier::Dot => cells!(Dots<true, true>, N),
        Tier::I64 => cells!(Widely, W),
    }
}

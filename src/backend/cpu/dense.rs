//! Dense columns: every waiting request scored on one worker, where terms per pair leave nothing to search by.
//!
//! # Numeric contract
//! Scores are integers (see [`crate::score`]) and every path computes exactly these integers, so no path can pick another pair.
//! Which lanes may be used is decided per profile from a bound on everything that is added up, [`Query::prepare`]:
//!
//! | lanes | condition | |
//! |---|---|---|
//! | [`Tier::F32`] | every product and partial sum is below 2^24 | exact: whole numbers below 2^24 are `f32`s |
//! | [`Tier::I32`] | the same below 2^31 | |
//! | [`Tier::Dot`] | lengths below 2^15, weights a common factor times less than 2^15 | 16-bit dot products, summed in `i32`; the score in `i32` or `i64` |
//! | [`Tier::I64`] | knots, weights, ages and bonuses are `i32`s | products of `i32`, summed in `i64` |
//! | none | otherwise | [`crate::score::Profile::score`], one request at a time |
//!
//! The order of the operations is fixed and nothing is fused: `base + rest * s`, where `rest` is the slope past every knot, then
//! `+ weight * min(s, at)` knot by knot: the same as `base + slope * s - weight * max(0, s - at)`, with an operation less for each knot.
//!
//! A bonus is rounded to whole tokens, halves away from zero; a half-precision bonus is widened exactly before that. A caller
//! who stores bonuses `b` as `f16` moves each by at most `2^-11 * |b| + 2^-25`, and rounding by at most one token more; with `E` the greatest such
//! move in whole tokens, the pick of one admission scores at most `2 * E` tokens below the best pick of the `f32` bonuses.

use super::lanes::{DenseLanes, gather};
use crate::batch::Bonuses;
use crate::pool::BLOCK;
use crate::score::{Age, Profile};

/// Blocks come in multiples of this: what the widest loop takes at once.
pub(crate) const STRIDE: usize = 4;

/// Knots from which the 16-bit dot products pay.
const DOT_FROM: usize = 4;

/// One block of a column, on a cache line of its own.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Block(pub [i32; BLOCK]);

/// Each request's row of pair terms, and its age in score units.
pub(crate) type Plain<'a> = (&'a [[u32; BLOCK]], &'a [Block]);

/// Bonuses that are not zero: which of the 64 workers from `from` on have one for an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    pub entry: u32,
    pub from: u32,
    pub bits: u64,
}

/// Workers that may take anybody: a bit for each of the 64 from the first of these on.
pub(crate) type Span = (u32, u64);

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

/// A profile in lanes, its intercept taken off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub longest: i32,
    /// Whether anybody is longer than that.
    pub cut: bool,
    pub bit: i32,
    /// The slope past every knot.
    rest: i32,
    bends: Vec<(i32, i32)>,
    float_bends: Vec<(f32, f32)>,
    /// Two knots each, in halves of a lane.
    dot_bends: Vec<(i32, i32)>,
    factor: i32,
    /// Whether the score of a dot product fits an `i32`.
    narrow: bool,
}

/// The best request of a run: where it stands in it, and its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Best {
    pub index: u32,
    pub score: i64,
}

impl Query {
    /// A query for the worker of this eligibility bit.
    #[cfg(test)]
    pub(crate) fn of_bit(bit: i32) -> Self {
        Self { bit, cut: true, ..Self::default() }
    }

    /// Cuts a profile to the lengths `shortest..=longest`; returns the intercept and the first of `tiers` that is exact, if any.
    /// `greatest_base` bounds the magnitude of age plus bonus.
    pub(crate) fn prepare(
        &mut self,
        profile: &Profile,
        (shortest, longest): (i64, i64),
        greatest_base: i64,
        tiers: &[Tier],
    ) -> (i64, Option<Tier>) {
        let (mut intercept, mut rest, mut gained, mut heaviest) = (profile.intercept, profile.slope, 0i64, 0);
        self.bends.clear();
        for knot in &profile.knots {
            if knot.at_tokens <= shortest {
                rest -= knot.weight;
                intercept += knot.weight * knot.at_tokens;
            } else if knot.at_tokens < longest && knot.weight != 0 {
                rest -= knot.weight;
                gained = gained.saturating_add(knot.weight.saturating_mul(knot.at_tokens));
                heaviest = heaviest.max(knot.weight);
                self.bends.push((knot.at_tokens as i32, knot.weight as i32));
            }
        }
        let int = 1i64 << 31;
        if rest.abs() >= int || heaviest >= int || greatest_base >= int || longest >= int {
            return (intercept, None);
        }
        self.rest = rest as i32;
        self.longest = longest as i32;
        let bound = (rest.abs().saturating_mul(longest)).saturating_add(greatest_base).saturating_add(gained);
        self.narrow = bound < int - 1;
        let exact = |&tier: &Tier| match tier {
            Tier::Dot => self.bends.len() >= DOT_FROM && longest < 1 << 15 && self.pair_up(),
            Tier::F32 => bound < 1 << 24,
            Tier::I32 => bound < int - 1,
            Tier::I64 => true,
        };
        let tier = tiers.iter().copied().find(exact);
        if tier == Some(Tier::F32) {
            self.float_bends.clear();
            self.float_bends.extend(self.bends.iter().map(|&(at, weight)| (at as f32, weight as f32)));
        }
        (intercept, tier)
    }

    /// Divides the weights by their common factor; false when they do not fit 16 bits then, or their sum 31.
    fn pair_up(&mut self) -> bool {
        let fits = |factor: i32, bends: &[(i32, i32)]| {
            factor > 0 && bends.iter().all(|&(_, weight)| weight % factor == 0 && weight / factor < 1 << 15)
        };
        if !fits(self.factor, &self.bends) {
            self.factor = self.bends.iter().fold(0, |factor, &(_, weight)| gcd(factor, weight));
            if !fits(self.factor, &self.bends) {
                return false;
            }
        }
        let sum: i64 =
            self.bends.iter().map(|&(at, weight)| i64::from(weight / self.factor) * i64::from(at)).sum();
        if sum >= 1 << 31 {
            return false;
        }
        self.dot_bends.clear();
        for pair in self.bends.chunks(2) {
            let second = pair.get(1).copied().unwrap_or((0, 0));
            let pack = |low: i32, high: i32| low | high << 16;
            let weights = pack(pair[0].1 / self.factor, second.1 / self.factor);
            self.dot_bends.push((pack(pair[0].0, second.0), weights));
        }
        true
    }
}

fn gcd(mut a: i32, mut b: i32) -> i32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Steps of a column whose scores are kept.
const SEGMENT: usize = 16;

/// Knots from which keeping every score is cheaper than scoring again where the greatest stands (measured).
const KEEP_FROM: usize = 4;

/// Lines of a segment: the scores of each block, and the greatest of each step.
const KEPT: usize = SEGMENT * (STRIDE + 1);

/// Scores of a block, on cache lines of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line<T>([T; BLOCK]);

/// Room for the scores of a segment, so that who has the greatest is found without scoring anybody again.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    ints: Box<[Line<i32>; KEPT]>,
    floats: Box<[Line<f32>; KEPT]>,
    wides: Box<[Line<i64>; KEPT]>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            ints: Box::new([Line([0; BLOCK]); KEPT]),
            floats: Box::new([Line([0.0; BLOCK]); KEPT]),
            wides: Box::new([Line([0; BLOCK]); KEPT]),
        }
    }
}

/// Lanes that hold scores: the greatest so far, per lane.
trait Scores<L: DenseLanes> {
    type N: Copy;
    /// One of them.
    type Lane: Copy;
    /// Below any score.
    const NOTHING: i64;

    fn splat(lanes: L, score: i64) -> Self::N;
    /// The greater of both in the lanes of a mask, `best` elsewhere.
    fn raise(lanes: L, mask: L::M, best: Self::N, score: Self::N) -> Self::N;
    fn greater(lanes: L, a: Self::N, b: Self::N) -> Self::N;
    /// The greatest of the lanes.
    fn greatest(lanes: L, best: Self::N) -> i64;
    /// Their place among the kept ones.
    fn kept(kept: &mut Kept) -> &mut [Line<Self::Lane>; KEPT];
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
    fn greatest(lanes: L, best: L::V) -> i64 {
        i64::from(lanes.top(best))
    }

    #[inline(always)]
    fn kept(kept: &mut Kept) -> &mut [Line<i32>; KEPT] {
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
        query.bends.len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> (L::V, L::V) {
        let (at, weight) = query.bends[at];
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
    fn greatest(lanes: L, best: L::F) -> i64 {
        lanes.top_float(best) as i64
    }

    #[inline(always)]
    fn kept(kept: &mut Kept) -> &mut [Line<f32>; KEPT] {
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
        query.float_bends.len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> (L::F, L::F) {
        let (at, weight) = query.float_bends[at];
        (lanes.splat_float(at), lanes.splat_float(weight))
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
    fn greatest(lanes: L, best: L::W) -> i64 {
        let mut scores = [0; BLOCK];
        lanes.store_wide(best, &mut scores);
        scores.into_iter().fold(i64::MIN, i64::max)
    }

    #[inline(always)]
    fn kept(kept: &mut Kept) -> &mut [Line<i64>; KEPT] {
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
trait Cells<L: DenseLanes>: Copy {
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

type Score<L, C> = <<C as Cells<L>>::Scores as Scores<L>>::N;

/// Sums and scores in the same lanes.
#[derive(Clone, Copy)]
struct Plainly<S>(std::marker::PhantomData<S>);
/// Sums of 16-bit dot products in `i32` lanes, scores in others.
#[derive(Clone, Copy)]
struct Dots<S>(std::marker::PhantomData<S>);
/// Sums of 32-bit products in `i64` lanes.
#[derive(Clone, Copy)]
struct Widely;

impl<L: DenseLanes, S: Sums<L> + Copy> Cells<L> for Plainly<S> {
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
        S::add(lanes, S::of(lanes, base), S::mul(lanes, rest, S::of(lanes, tokens)))
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

/// What a dot product ends in: the line plus the product times the common factor.
trait AfterDot<L: DenseLanes>: Scores<L> {
    fn end(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> Self::N;
}

impl<L: DenseLanes> AfterDot<L> for Ints {
    #[inline(always)]
    fn end(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> L::V {
        let gained = lanes.mul(sum, lanes.splat(query.factor));
        lanes.add(Plainly::<Ints>::begin(lanes, query, tokens, base), gained)
    }
}

impl<L: DenseLanes> AfterDot<L> for Wides {
    #[inline(always)]
    fn end(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> L::W {
        let gained = lanes.mul_wide(sum, lanes.splat(query.factor));
        lanes.add_wide(Widely::begin(lanes, query, tokens, base), gained)
    }
}

impl<L: DenseLanes, S: AfterDot<L> + Copy> Cells<L> for Dots<S> {
    type Scores = S;
    type Tokens = L::V;
    type Sum = L::V;
    type Bend = (L::V, L::V);

    #[inline(always)]
    fn count(query: &Query) -> usize {
        query.dot_bends.len()
    }

    #[inline(always)]
    fn bend_at(lanes: L, query: &Query, at: usize) -> Self::Bend {
        let (at, weight) = query.dot_bends[at];
        (lanes.splat(at), lanes.splat(weight))
    }

    #[inline(always)]
    fn tokens(lanes: L, tokens: L::V) -> L::V {
        lanes.mul(tokens, lanes.splat(0x1_0001))
    }

    #[inline(always)]
    fn begin(lanes: L, _: &Query, _: L::V, _: L::V) -> L::V {
        lanes.splat(0)
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
    fn score(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> S::N {
        S::end(lanes, query, sum, tokens, base)
    }
}

impl<L: DenseLanes> Cells<L> for Widely {
    type Scores = Wides;
    type Tokens = L::V;
    type Sum = L::W;
    type Bend = (L::V, L::V);

    #[inline(always)]
    fn count(query: &Query) -> usize {
        query.bends.len()
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
trait Work<L: DenseLanes> {
    type Answer;
    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> Self::Answer;
}

/// Chooses the cells: `N` blocks at once, `W` where scores are wide.
#[inline(always)]
fn choose<L: DenseLanes, K: Work<L>, const N: usize, const W: usize>(
    lanes: L,
    tier: Tier,
    query: &Query,
    work: K,
) -> K::Answer {
    macro_rules! cells {
        ($cells:ty, $blocks:ident) => {
            match query.cut {
                false => work.with::<$cells, $blocks, false>(lanes, query),
                true => work.with::<$cells, $blocks, true>(lanes, query),
            }
        };
    }
    match tier {
        Tier::F32 => cells!(Plainly<Floats>, N),
        Tier::I32 => cells!(Plainly<Ints>, N),
        Tier::Dot if query.narrow => cells!(Dots<Ints>, N),
        Tier::Dot => cells!(Dots<Wides>, N),
        Tier::I64 => cells!(Widely, W),
    }
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

/// [`column`] of `blocks` blocks on what is in registers already: the least time that it could take.
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
        true => lanes.allowed(words, bit, tokens, lanes.splat(query.longest)),
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
    let keep = C::count(query) >= KEEP_FROM;
    let (lines, greatest) = C::Scores::kept(kept).split_at_mut(SEGMENT * STRIDE);
    let nothing = C::Scores::splat(lanes, C::Scores::NOTHING);
    let mut best = nothing;
    let kept = lines.chunks_exact_mut(STRIDE).zip(greatest.iter_mut());
    for (at, (lines, greatest)) in (from..to).zip(kept) {
        let mut step = nothing;
        let scored = score::<L, C, N, CUT>(lanes, query, source.step(lanes, at));
        for (mask, score) in scored {
            step = C::Scores::raise(lanes, mask, step, score);
        }
        if keep {
            for ((_, score), line) in scored.into_iter().zip(lines) {
                C::Scores::keep(lanes, score, line);
            }
        }
        C::Scores::keep(lanes, step, greatest);
        best = C::Scores::greater(lanes, best, step);
    }
    let top = C::Scores::greatest(lanes, best);
    if top == C::Scores::NOTHING || found.is_some_and(|found| top < found.score) {
        return found;
    }
    let wanted = C::Scores::splat(lanes, top);
    // All of them at once: one after the other, each would be a branch that nobody foresees.
    let mut steps = 0u32;
    for (step, greatest) in greatest[..to - from].iter().enumerate() {
        let greatest = C::Scores::load(lanes, greatest);
        steps |= u32::from(C::Scores::equal(lanes, greatest, wanted) != 0) << step;
    }
    while steps != 0 {
        let step = steps.trailing_zeros() as usize;
        steps &= steps - 1;
        let at = from + step;
        let registers = source.step(lanes, at);
        let scored = if keep {
            let [tokens, _, words] = registers;
            let mut scored = [(allowed::<L, CUT>(lanes, query, tokens[0], words[0]), nothing); N];
            for n in 0..N {
                scored[n].0 = allowed::<L, CUT>(lanes, query, tokens[n], words[n]);
                scored[n].1 = C::Scores::load(lanes, &lines[step * STRIDE + n]);
            }
            scored
        } else {
            score::<L, C, N, CUT>(lanes, query, registers)
        };
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

    #[inline(always)]
    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> Option<Best> {
        let Self(rows, kept) = self;
        let steps = rows.tokens.len() / N;
        let blocks = [rows.tokens, rows.base, rows.words].map(|blocks| &blocks.as_chunks::<N>().0[..steps]);
        let (mut memory, mut found) = (Memory(blocks), None);
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

/// Fills the bases of some workers, one column after the other: ages plus bonuses. The matrix has `width` workers and fewer than 2^32 - `width`
/// entries. Returns the greatest magnitude of a bonus in tokens.
#[inline(always)]
pub(super) fn add_bonuses<L: DenseLanes>(
    lanes: L,
    (bonuses, width): (Bonuses<'_>, u32),
    workers: &[u32],
    unit: i32,
    (rows, ages): Plain<'_>,
    bases: &mut [Block],
) -> i64 {
    // Block by block, so that the next worker finds the rows in the nearest cache.
    let (unit, mut greatest) = (lanes.splat(unit), lanes.splat(0));
    for (block, (rows, of_age)) in rows.iter().zip(ages).enumerate() {
        let of_age = lanes.load(&of_age.0);
        // Who has no row begins past the end, `width` before 2^32.
        let mut offsets = [0; BLOCK];
        lanes.store(lanes.mul(lanes.load_unsigned(rows), lanes.splat(width as i32)), &mut offsets);
        for (&worker, base) in workers.iter().zip(bases.chunks_exact_mut(ages.len())) {
            let bonus = lanes.round(match bonuses {
                Bonuses::F32(matrix) => lanes.gather(matrix, &offsets, worker),
                Bonuses::F16(matrix) => {
                    lanes.widen_halves(&gather(matrix, &offsets, worker, half::f16::to_bits))
                }
            });
            greatest = lanes.max(greatest, lanes.abs(bonus));
            lanes.store(lanes.add(of_age, lanes.mul(bonus, unit)), &mut base[block].0);
        }
    }
    i64::from(lanes.greatest(greatest, u16::MAX))
}

/// Finds the bonuses of some entries, given with their rows, that are not zero on an open worker; returns the number of hits. `open` has
/// every bit of a worker that is open and none of others, `hits` a place for every entry and span and one more. The entries are left in
/// another order.
#[inline(always)]
pub(super) fn find_bonuses<L: DenseLanes>(
    lanes: L,
    bonuses: Bonuses<'_>,
    workers: usize,
    open: (&[Block], &[Span]),
    entries: &mut [[u32; 2]],
    hits: &mut [Hit],
) -> usize {
    match bonuses {
        Bonuses::F32(matrix) => {
            find_nonzero(lanes, (matrix, |value| value.to_bits() & 0x7fff_ffff), workers, open, entries, hits)
        }
        Bonuses::F16(matrix) => {
            let magnitude = |value: half::f16| u32::from(value.to_bits() & 0x7fff);
            find_nonzero(lanes, (matrix, magnitude), workers, open, entries, hits)
        }
    }
}

/// The same for one type; `magnitude` is zero where a value is.
#[inline(always)]
fn find_nonzero<L: DenseLanes, T: Copy>(
    lanes: L,
    (matrix, magnitude): (&[T], impl Fn(T) -> u32 + Copy),
    workers: usize,
    (open, spans): (&[Block], &[Span]),
    entries: &mut [[u32; 2]],
    hits: &mut [Hit],
) -> usize {
    // Most rows have nothing: one test for all of a row. Nobody is asked before he is written down, so that nothing is mispredicted.
    let mut kept = 0;
    for at in 0..entries.len() {
        let [entry, row] = entries[at];
        let from = row as usize * workers;
        let mut any = [0; BLOCK];
        match matrix.get(from..from + open.len() * BLOCK) {
            // What belongs to the next row is not open.
            Some(values) => {
                for (values, open) in values.as_chunks::<BLOCK>().0.iter().zip(open) {
                    any = std::array::from_fn(|lane| {
                        any[lane] | (magnitude(values[lane]) as i32 & open.0[lane])
                    });
                }
            }
            // The end of the matrix.
            None => any[0] = 1,
        }
        let zero = lanes.equal(lanes.load(&any), lanes.splat(0));
        entries[kept] = [entry, row];
        kept += usize::from(zero != u16::MAX);
    }
    let mut count = 0;
    for &[entry, row] in &entries[..kept] {
        for &(from, open) in spans {
            let at = row as usize * workers + from as usize;
            let parts = (workers - from as usize).min(64).div_ceil(BLOCK);
            let mut bits = 0;
            match matrix.get(at..at + parts * BLOCK) {
                Some(values) => {
                    for (part, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
                        let magnitudes = values.map(|value| magnitude(value) as i32);
                        let zero = lanes.equal(lanes.load(&magnitudes), lanes.splat(0));
                        bits |= u64::from(!zero) << (part * BLOCK);
                    }
                }
                None => {
                    for (worker, &value) in matrix[at..].iter().enumerate() {
                        bits |= u64::from(magnitude(value) != 0) << worker;
                    }
                }
            }
            hits[count] = Hit { entry, from, bits: bits & open };
            count += usize::from(bits & open != 0);
        }
    }
    count
}

/// Eligibility words of 64 workers, 32 in each half of `into`, by row of a matrix of `stride` words a row, of which `word` is wanted. The
/// second half may be empty.
#[inline(always)]
pub(super) fn words<L: DenseLanes>(
    lanes: L,
    (masks, stride, word): (&[u64], usize, usize),
    rows: &[[u32; BLOCK]],
    into: (&mut [Block], &mut [Block]),
) {
    let mut seconds = into.1.iter_mut();
    for (first, rows) in into.0.iter_mut().zip(rows) {
        let halves = lanes.gather_words(masks, stride, word, rows);
        lanes.store(halves[0], &mut first.0);
        if let Some(second) = seconds.next() {
            lanes.store(halves[1], &mut second.0);
        }
    }
}

/// Ages in score units, where both stay below 2^29.
#[inline(always)]
pub(super) fn ages<L: DenseLanes>(
    lanes: L,
    now_step: u32,
    enqueued: &[[u32; BLOCK]],
    age: Age,
    unit: i32,
    into: &mut [Block],
) {
    for (enqueued, into) in enqueued.iter().zip(into) {
        lanes.store(lanes.mul(lanes.ages(now_step, enqueued, age), lanes.splat(unit)), &mut into.0);
    }
}

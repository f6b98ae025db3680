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
//! The order of the operations is fixed and nothing is fused: `base + slope * s`, then `- weight * max(0, s - at)` knot by knot.
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
    slope: i32,
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

    /// Cuts a profile to the lengths `shortest..=longest`; returns the intercept and the fastest exact lanes, if any. `greatest_base` bounds
    /// the magnitude of age plus bonus; `floats` says whether `f32` lanes go before `i32` lanes; `only` asks for certain lanes.
    pub(crate) fn prepare(
        &mut self,
        profile: &Profile,
        (shortest, longest): (i64, i64),
        greatest_base: i64,
        floats: bool,
        only: Option<Tier>,
    ) -> (i64, Option<Tier>) {
        let (mut intercept, mut slope, mut lost, mut heaviest) = (profile.intercept, profile.slope, 0i64, 0);
        self.bends.clear();
        for knot in &profile.knots {
            if knot.at_tokens <= shortest {
                slope -= knot.weight;
                intercept += knot.weight * knot.at_tokens;
            } else if knot.at_tokens < longest && knot.weight != 0 {
                lost = lost.saturating_add(knot.weight.saturating_mul(longest - knot.at_tokens));
                heaviest = heaviest.max(knot.weight);
                self.bends.push((knot.at_tokens as i32, knot.weight as i32));
            }
        }
        let int = 1i64 << 31;
        if slope.abs() >= int || heaviest >= int || greatest_base >= int || longest >= int {
            return (intercept, None);
        }
        self.slope = slope as i32;
        self.longest = longest as i32;
        let bound = (slope.abs().saturating_mul(longest)).saturating_add(greatest_base).saturating_add(lost);
        self.narrow = bound < int - 1;
        let exact = |tier| only.is_none_or(|only| only == tier);
        if exact(Tier::Dot) && self.bends.len() >= DOT_FROM && longest < 1 << 15 && self.pair_up() {
            return (intercept, Some(Tier::Dot));
        }
        if exact(Tier::F32) && (floats || only.is_some()) && bound < 1 << 24 {
            self.float_bends.clear();
            self.float_bends.extend(self.bends.iter().map(|&(at, weight)| (at as f32, weight as f32)));
            return (intercept, Some(Tier::F32));
        }
        if exact(Tier::I32) && bound < int - 1 {
            return (intercept, Some(Tier::I32));
        }
        (intercept, exact(Tier::I64).then_some(Tier::I64))
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
        let sum: i64 = self
            .bends
            .iter()
            .map(|&(at, weight)| i64::from(weight / self.factor) * i64::from(self.longest - at))
            .sum();
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

/// Lanes that hold scores: the greatest so far, per lane.
trait Scores<L: DenseLanes> {
    type N: Copy;
    /// Below any score.
    const NOTHING: i64;

    fn splat(lanes: L, score: i64) -> Self::N;
    /// The greater of both in the lanes of a mask, `best` elsewhere.
    fn raise(lanes: L, mask: L::M, best: Self::N, score: Self::N) -> Self::N;
    fn greater(lanes: L, a: Self::N, b: Self::N) -> Self::N;
    /// A bit for each lane with `a == b`.
    fn equal(lanes: L, a: Self::N, b: Self::N) -> u16;
    /// The greatest of the lanes.
    fn greatest(lanes: L, best: Self::N) -> i64;
}

/// Lanes that also add up a profile, lengths and all.
trait Sums<L: DenseLanes>: Scores<L> {
    fn count(query: &Query) -> usize;
    fn bend_at(lanes: L, query: &Query, at: usize) -> (Self::N, Self::N);
    fn of(lanes: L, a: L::V) -> Self::N;
    fn add(lanes: L, a: Self::N, b: Self::N) -> Self::N;
    fn sub(lanes: L, a: Self::N, b: Self::N) -> Self::N;
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
    fn equal(lanes: L, a: L::V, b: L::V) -> u16 {
        lanes.equal(a, b)
    }

    #[inline(always)]
    fn greatest(lanes: L, best: L::V) -> i64 {
        let mut scores = [0; BLOCK];
        lanes.store(best, &mut scores);
        i64::from(scores.into_iter().fold(i32::MIN, i32::max))
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
    fn sub(lanes: L, a: L::V, b: L::V) -> L::V {
        lanes.sub(a, b)
    }

    #[inline(always)]
    fn mul(lanes: L, a: L::V, b: L::V) -> L::V {
        lanes.mul(a, b)
    }
}

impl<L: DenseLanes> Scores<L> for Floats {
    type N = L::F;
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
    fn equal(lanes: L, a: L::F, b: L::F) -> u16 {
        lanes.equal_float(a, b)
    }

    #[inline(always)]
    fn greatest(lanes: L, best: L::F) -> i64 {
        let mut scores = [0.0; BLOCK];
        lanes.store_float(best, &mut scores);
        let mut greatest = scores[0];
        for score in scores {
            greatest = if score > greatest { score } else { greatest };
        }
        greatest as i64
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
    fn sub(lanes: L, a: L::F, b: L::F) -> L::F {
        lanes.sub_float(a, b)
    }

    #[inline(always)]
    fn mul(lanes: L, a: L::F, b: L::F) -> L::F {
        lanes.mul_float(a, b)
    }
}

impl<L: DenseLanes> Scores<L> for Wides {
    type N = L::W;
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
    fn equal(lanes: L, a: L::W, b: L::W) -> u16 {
        lanes.equal_wide(a, b)
    }

    #[inline(always)]
    fn greatest(lanes: L, best: L::W) -> i64 {
        let mut scores = [0; BLOCK];
        lanes.store_wide(best, &mut scores);
        scores.into_iter().fold(i64::MIN, i64::max)
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
    fn bend(lanes: L, sum: Self::Sum, tokens: Self::Tokens, bend: Self::Bend) -> Self::Sum;
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
        let slope = S::splat(lanes, i64::from(query.slope));
        S::add(lanes, S::of(lanes, base), S::mul(lanes, slope, S::of(lanes, tokens)))
    }

    #[inline(always)]
    fn bend(lanes: L, sum: S::N, tokens: S::N, (at, weight): Self::Bend) -> S::N {
        let past = S::greater(lanes, S::sub(lanes, tokens, at), S::splat(lanes, 0));
        S::sub(lanes, sum, S::mul(lanes, past, weight))
    }

    #[inline(always)]
    fn score(_: L, _: &Query, sum: S::N, _: L::V, _: L::V) -> S::N {
        sum
    }
}

/// What a dot product ends in: the line less the product times the common factor.
trait AfterDot<L: DenseLanes>: Scores<L> {
    fn end(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> Self::N;
}

impl<L: DenseLanes> AfterDot<L> for Ints {
    #[inline(always)]
    fn end(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> L::V {
        let lost = lanes.mul(sum, lanes.splat(query.factor));
        lanes.sub(Plainly::<Ints>::begin(lanes, query, tokens, base), lost)
    }
}

impl<L: DenseLanes> AfterDot<L> for Wides {
    #[inline(always)]
    fn end(lanes: L, query: &Query, sum: L::V, tokens: L::V, base: L::V) -> L::W {
        let lost = lanes.mul_wide(sum, lanes.splat(query.factor));
        lanes.sub_wide(Widely::begin(lanes, query, tokens, base), lost)
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
    fn bend(lanes: L, sum: L::V, tokens: L::V, (at, weight): Self::Bend) -> L::V {
        lanes.dot(sum, tokens, at, weight)
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
        lanes.add_wide(lanes.widen(base), lanes.mul_wide(lanes.splat(query.slope), tokens))
    }

    #[inline(always)]
    fn bend(lanes: L, sum: L::W, tokens: L::V, (at, weight): Self::Bend) -> L::W {
        let past = lanes.max(lanes.sub(tokens, at), lanes.splat(0));
        lanes.sub_wide(sum, lanes.mul_wide(past, weight))
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
) -> Option<Best> {
    choose::<_, _, N, W>(lanes, tier, query, Run(rows))
}

/// [`column`] of `blocks` blocks on what is in registers already: the least time that it could take.
#[inline(always)]
pub(super) fn spin<L: DenseLanes, const N: usize, const W: usize>(
    lanes: L,
    tier: Tier,
    query: &Query,
    blocks: usize,
) -> i64 {
    choose::<_, _, N, W>(lanes, tier, query, Spin(blocks))
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
        for n in 0..N {
            sums[n] = C::bend(lanes, sums[n], lengths[n], bend);
        }
    }
    let (bit, longest) = (lanes.splat(query.bit), lanes.splat(query.longest));
    // No closures on the way: they would be compiled without the instruction set.
    let mut scored = [(lanes.has(words[0], bit), C::score(lanes, query, sums[0], tokens[0], base[0])); N];
    for n in 0..N {
        scored[n].0 = match CUT {
            true => lanes.allowed(words[n], bit, tokens[n], longest),
            false => lanes.has(words[n], bit),
        };
        scored[n].1 = C::score(lanes, query, sums[n], tokens[n], base[n]);
    }
    scored
}

/// The greatest allowed score of each lane.
#[inline(always)]
fn greatest<L: DenseLanes, C: Cells<L>, const N: usize>(
    lanes: L,
    scored: [(L::M, Score<L, C>); N],
) -> Score<L, C> {
    let mut best = C::Scores::splat(lanes, C::Scores::NOTHING);
    for (mask, score) in scored {
        best = C::Scores::raise(lanes, mask, best, score);
    }
    best
}

/// Where the registers of a step come from.
trait Source<L: DenseLanes, const N: usize> {
    fn step(&mut self, lanes: L, at: usize) -> Registers<L, N>;
}

/// Steps whose greatest scores are kept, so that no other is looked into again.
const SEGMENT: usize = 16;

/// The greatest score of at most [`SEGMENT`] steps and where it stands; the earliest of equals, by `rows`.
///
/// First the greatest of every step and lane, without asking whose it is; then the steps that reach the greatest of all are scored again for
/// who has it.
#[inline(always)]
fn segment<L: DenseLanes, C: Cells<L>, const N: usize, const CUT: bool>(
    lanes: L,
    query: &Query,
    (source, from, to): (&mut impl Source<L, N>, usize, usize),
    rows: &Rows<'_>,
    mut found: Option<Best>,
) -> Option<Best> {
    let mut best = C::Scores::splat(lanes, C::Scores::NOTHING);
    let mut kept = [best; SEGMENT];
    for at in from..to {
        let step = greatest::<L, C, N>(lanes, score::<L, C, N, CUT>(lanes, query, source.step(lanes, at)));
        kept[at % SEGMENT] = step;
        best = C::Scores::greater(lanes, best, step);
    }
    let top = C::Scores::greatest(lanes, best);
    if top == C::Scores::NOTHING || found.is_some_and(|found| top < found.score) {
        return found;
    }
    let wanted = C::Scores::splat(lanes, top);
    for at in from..to {
        if C::Scores::equal(lanes, kept[at % SEGMENT], wanted) == 0 {
            continue;
        }
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

struct Run<'a>(&'a Rows<'a>);

impl<L: DenseLanes> Work<L> for Run<'_> {
    type Answer = Option<Best>;

    #[inline(always)]
    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> Option<Best> {
        let rows = self.0;
        let steps = rows.tokens.len() / N;
        let blocks = [rows.tokens, rows.base, rows.words].map(|blocks| &blocks.as_chunks::<N>().0[..steps]);
        let (mut memory, mut found) = (Memory(blocks), None);
        for from in (0..steps).step_by(SEGMENT) {
            let part = (&mut memory, from, (from + SEGMENT).min(steps));
            found = segment::<L, C, N, CUT>(lanes, query, part, rows, found);
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

struct Spin(usize);

impl<L: DenseLanes> Work<L> for Spin {
    type Answer = i64;

    #[inline(always)]
    fn with<C: Cells<L>, const N: usize, const CUT: bool>(self, lanes: L, query: &Query) -> i64 {
        let mut first = [100; BLOCK];
        first[3] = 101;
        let rows = Rows { tokens: &[], base: &[], words: &[], arrived: &[] };
        let (mut score, mut left) = (0, self.0 / N);
        while left > 0 {
            let steps = left.min(SEGMENT);
            let mut registers = [[lanes.splat(700); N], [lanes.splat(3); N], [lanes.splat(-1); N]];
            registers[1][0] = lanes.load(&first);
            let part = (&mut Opaque(registers), 0, steps);
            let best = segment::<L, C, N, CUT>(lanes, query, part, &rows, None);
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

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

use super::lanes::{Bonuses, DenseLanes};
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

/// Where each request's bonuses begin, and its age in score units.
pub(crate) type Plain<'a> = (&'a [Block], &'a [Block]);

/// Row offset of a request without a row.
pub(crate) const NO_ROW: u32 = u32::MAX;

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

/// A run of requests in arrival order, in whole strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub tokens: &'a [Block],
    /// Age plus bonus in score units.
    pub base: &'a [Block],
    /// Eligibility of 32 workers per request; zero once it is taken, and past the end.
    pub words: &'a [Block],
}

/// A profile in lanes, its intercept taken off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub longest: i32,
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
        Self { bit, ..Self::default() }
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

/// What differs between lanes of `f32`, `i32`, 16-bit pairs and `i64`.
trait Cells: Copy {
    type L: DenseLanes;
    type Tokens: Copy;
    type Sum: Copy;
    type Bend: Copy;
    type Best: Copy;

    fn lanes(self) -> Self::L;
    fn count(self, query: &Query) -> usize;
    fn bend_at(self, query: &Query, at: usize) -> Self::Bend;
    fn tokens(self, tokens: V<Self>) -> Self::Tokens;
    fn begin(self, query: &Query, tokens: V<Self>, base: V<Self>) -> Self::Sum;
    fn bend(self, sum: Self::Sum, tokens: Self::Tokens, bend: Self::Bend) -> Self::Sum;
    fn nothing(self) -> Self::Best;
    #[expect(clippy::too_many_arguments, reason = "one step of one loop")]
    fn keep(
        self,
        best: &mut Self::Best,
        mask: <Self::L as DenseLanes>::M,
        sum: Self::Sum,
        query: &Query,
        tokens: V<Self>,
        base: V<Self>,
        block: i32,
    );
    /// Scores and blocks per lane.
    fn finish(self, best: Self::Best) -> ([i64; BLOCK], [i32; BLOCK]);
}

type V<C> = <<C as Cells>::L as super::lanes::Lanes>::V;

#[derive(Clone, Copy)]
struct F32<L>(L);
#[derive(Clone, Copy)]
struct I32<L>(L);
#[derive(Clone, Copy)]
struct Dot<L>(L);
/// Where the score fits an `i32` as well.
#[derive(Clone, Copy)]
struct DotNarrow<L>(L);
#[derive(Clone, Copy)]
struct I64<L>(L);

impl<L: DenseLanes> Cells for F32<L> {
    type L = L;
    type Tokens = L::F;
    type Sum = L::F;
    type Bend = (L::F, L::F);
    type Best = (L::F, L::V);

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    fn count(self, query: &Query) -> usize {
        query.float_bends.len()
    }

    #[inline(always)]
    fn bend_at(self, query: &Query, at: usize) -> Self::Bend {
        let (at, weight) = query.float_bends[at];
        (self.0.splat_float(at), self.0.splat_float(weight))
    }

    #[inline(always)]
    fn tokens(self, tokens: L::V) -> L::F {
        self.0.float(tokens)
    }

    #[inline(always)]
    fn begin(self, query: &Query, tokens: L::V, base: L::V) -> L::F {
        let slope = self.0.splat_float(query.slope as f32);
        self.0.add_float(self.0.float(base), self.0.mul_float(slope, self.0.float(tokens)))
    }

    #[inline(always)]
    fn bend(self, sum: L::F, tokens: L::F, (at, weight): Self::Bend) -> L::F {
        let past = self.0.max_float(self.0.sub_float(tokens, at), self.0.splat_float(0.0));
        self.0.sub_float(sum, self.0.mul_float(past, weight))
    }

    #[inline(always)]
    fn nothing(self) -> Self::Best {
        (self.0.splat_float(f32::NEG_INFINITY), self.0.splat(-1))
    }

    #[inline(always)]
    fn keep(self, best: &mut Self::Best, mask: L::M, sum: L::F, _: &Query, _: L::V, _: L::V, block: i32) {
        let above = self.0.above_float(mask, sum, best.0);
        best.0 = self.0.select_float(above, sum, best.0);
        best.1 = self.0.select(above, self.0.splat(block), best.1);
    }

    #[inline(always)]
    fn finish(self, best: Self::Best) -> ([i64; BLOCK], [i32; BLOCK]) {
        let (mut scores, mut blocks) = ([0.0; BLOCK], [0; BLOCK]);
        self.0.store_float(best.0, &mut scores);
        self.0.store(best.1, &mut blocks);
        (scores.map(|score| score as i64), blocks)
    }
}

impl<L: DenseLanes> Cells for I32<L> {
    type L = L;
    type Tokens = L::V;
    type Sum = L::V;
    type Bend = (L::V, L::V);
    type Best = (L::V, L::V);

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    fn count(self, query: &Query) -> usize {
        query.bends.len()
    }

    #[inline(always)]
    fn bend_at(self, query: &Query, at: usize) -> Self::Bend {
        let (at, weight) = query.bends[at];
        (self.0.splat(at), self.0.splat(weight))
    }

    #[inline(always)]
    fn tokens(self, tokens: L::V) -> L::V {
        tokens
    }

    #[inline(always)]
    fn begin(self, query: &Query, tokens: L::V, base: L::V) -> L::V {
        self.0.add(base, self.0.mul(self.0.splat(query.slope), tokens))
    }

    #[inline(always)]
    fn bend(self, sum: L::V, tokens: L::V, (at, weight): Self::Bend) -> L::V {
        let past = self.0.max(self.0.sub(tokens, at), self.0.splat(0));
        self.0.sub(sum, self.0.mul(past, weight))
    }

    #[inline(always)]
    fn nothing(self) -> Self::Best {
        (self.0.splat(i32::MIN), self.0.splat(-1))
    }

    #[inline(always)]
    fn keep(self, best: &mut Self::Best, mask: L::M, sum: L::V, _: &Query, _: L::V, _: L::V, block: i32) {
        let above = self.0.above(mask, sum, best.0);
        best.0 = self.0.select(above, sum, best.0);
        best.1 = self.0.select(above, self.0.splat(block), best.1);
    }

    #[inline(always)]
    fn finish(self, best: Self::Best) -> ([i64; BLOCK], [i32; BLOCK]) {
        let (mut scores, mut blocks) = ([0; BLOCK], [0; BLOCK]);
        self.0.store(best.0, &mut scores);
        self.0.store(best.1, &mut blocks);
        (scores.map(i64::from), blocks)
    }
}

#[inline(always)]
fn wide_start<L: DenseLanes>(lanes: L, query: &Query, tokens: L::V, base: L::V) -> L::W {
    lanes.add_wide(lanes.widen(base), lanes.mul_wide(lanes.splat(query.slope), tokens))
}

#[inline(always)]
fn wide_finish<L: DenseLanes>(lanes: L, best: (L::W, L::W)) -> ([i64; BLOCK], [i32; BLOCK]) {
    let (mut scores, mut blocks) = ([0; BLOCK], [0; BLOCK]);
    lanes.store_wide(best.0, &mut scores);
    lanes.store_wide(best.1, &mut blocks);
    (scores, blocks.map(|block| block as i32))
}

impl<L: DenseLanes> Cells for Dot<L> {
    type L = L;
    type Tokens = L::V;
    type Sum = L::V;
    type Bend = (L::V, L::V);
    type Best = (L::W, L::W);

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    fn count(self, query: &Query) -> usize {
        query.dot_bends.len()
    }

    #[inline(always)]
    fn bend_at(self, query: &Query, at: usize) -> Self::Bend {
        let (at, weight) = query.dot_bends[at];
        (self.0.splat(at), self.0.splat(weight))
    }

    #[inline(always)]
    fn tokens(self, tokens: L::V) -> L::V {
        self.0.mul(tokens, self.0.splat(0x1_0001))
    }

    #[inline(always)]
    fn begin(self, _: &Query, _: L::V, _: L::V) -> L::V {
        self.0.splat(0)
    }

    #[inline(always)]
    fn bend(self, sum: L::V, tokens: L::V, (at, weight): Self::Bend) -> L::V {
        self.0.dot(sum, tokens, at, weight)
    }

    #[inline(always)]
    fn nothing(self) -> Self::Best {
        (self.0.splat_wide(i64::MIN), self.0.splat_wide(-1))
    }

    #[inline(always)]
    fn keep(
        self,
        best: &mut Self::Best,
        mask: L::M,
        sum: L::V,
        query: &Query,
        tokens: L::V,
        base: L::V,
        block: i32,
    ) {
        let lost = self.0.mul_wide(sum, self.0.splat(query.factor));
        let score = self.0.sub_wide(wide_start(self.0, query, tokens, base), lost);
        self.0.keep_wide(mask, best, score, self.0.splat_wide(i64::from(block)));
    }

    #[inline(always)]
    fn finish(self, best: Self::Best) -> ([i64; BLOCK], [i32; BLOCK]) {
        wide_finish(self.0, best)
    }
}

impl<L: DenseLanes> Cells for DotNarrow<L> {
    type L = L;
    type Tokens = L::V;
    type Sum = L::V;
    type Bend = (L::V, L::V);
    type Best = (L::V, L::V);

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    fn count(self, query: &Query) -> usize {
        Dot(self.0).count(query)
    }

    #[inline(always)]
    fn bend_at(self, query: &Query, at: usize) -> Self::Bend {
        Dot(self.0).bend_at(query, at)
    }

    #[inline(always)]
    fn tokens(self, tokens: L::V) -> L::V {
        Dot(self.0).tokens(tokens)
    }

    #[inline(always)]
    fn begin(self, query: &Query, tokens: L::V, base: L::V) -> L::V {
        Dot(self.0).begin(query, tokens, base)
    }

    #[inline(always)]
    fn bend(self, sum: L::V, tokens: L::V, bend: Self::Bend) -> L::V {
        Dot(self.0).bend(sum, tokens, bend)
    }

    #[inline(always)]
    fn nothing(self) -> Self::Best {
        I32(self.0).nothing()
    }

    #[inline(always)]
    fn keep(
        self,
        best: &mut Self::Best,
        mask: L::M,
        sum: L::V,
        query: &Query,
        tokens: L::V,
        base: L::V,
        block: i32,
    ) {
        let lost = self.0.mul(sum, self.0.splat(query.factor));
        let score = self.0.sub(I32(self.0).begin(query, tokens, base), lost);
        I32(self.0).keep(best, mask, score, query, tokens, base, block);
    }

    #[inline(always)]
    fn finish(self, best: Self::Best) -> ([i64; BLOCK], [i32; BLOCK]) {
        I32(self.0).finish(best)
    }
}

impl<L: DenseLanes> Cells for I64<L> {
    type L = L;
    type Tokens = L::V;
    type Sum = L::W;
    type Bend = (L::V, L::V);
    type Best = (L::W, L::W);

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    fn count(self, query: &Query) -> usize {
        query.bends.len()
    }

    #[inline(always)]
    fn bend_at(self, query: &Query, at: usize) -> Self::Bend {
        let (at, weight) = query.bends[at];
        (self.0.splat(at), self.0.splat(weight))
    }

    #[inline(always)]
    fn tokens(self, tokens: L::V) -> L::V {
        tokens
    }

    #[inline(always)]
    fn begin(self, query: &Query, tokens: L::V, base: L::V) -> L::W {
        wide_start(self.0, query, tokens, base)
    }

    #[inline(always)]
    fn bend(self, sum: L::W, tokens: L::V, (at, weight): Self::Bend) -> L::W {
        let past = self.0.max(self.0.sub(tokens, at), self.0.splat(0));
        self.0.sub_wide(sum, self.0.mul_wide(past, weight))
    }

    #[inline(always)]
    fn nothing(self) -> Self::Best {
        (self.0.splat_wide(i64::MIN), self.0.splat_wide(-1))
    }

    #[inline(always)]
    fn keep(self, best: &mut Self::Best, mask: L::M, sum: L::W, _: &Query, _: L::V, _: L::V, block: i32) {
        self.0.keep_wide(mask, best, sum, self.0.splat_wide(i64::from(block)));
    }

    #[inline(always)]
    fn finish(self, best: Self::Best) -> ([i64; BLOCK], [i32; BLOCK]) {
        wide_finish(self.0, best)
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
    match tier {
        Tier::F32 => run::<_, N>(F32(lanes), rows, query),
        Tier::I32 => run::<_, N>(I32(lanes), rows, query),
        Tier::Dot if query.narrow => run::<_, N>(DotNarrow(lanes), rows, query),
        Tier::Dot => run::<_, N>(Dot(lanes), rows, query),
        Tier::I64 => run::<_, W>(I64(lanes), rows, query),
    }
}

/// The instructions of `blocks` blocks on what is in registers already: the least time that [`column`] could take.
#[inline(always)]
pub(super) fn spin<L: DenseLanes, const N: usize, const W: usize>(
    lanes: L,
    tier: Tier,
    query: &Query,
    blocks: usize,
) -> i64 {
    match tier {
        Tier::F32 => turn::<_, N>(F32(lanes), query, blocks),
        Tier::I32 => turn::<_, N>(I32(lanes), query, blocks),
        Tier::Dot if query.narrow => turn::<_, N>(DotNarrow(lanes), query, blocks),
        Tier::Dot => turn::<_, N>(Dot(lanes), query, blocks),
        Tier::I64 => turn::<_, W>(I64(lanes), query, blocks),
    }
}

/// `N` blocks at once, so that a knot is loaded once for all of them and their sums do not wait for each other.
#[inline(always)]
fn step<C: Cells, const N: usize>(
    cells: C,
    query: &Query,
    [tokens, base, words]: [[V<C>; N]; 3],
    first: usize,
    best: &mut C::Best,
) {
    use super::lanes::Lanes;
    let lanes = cells.lanes();
    let mut sums = [cells.begin(query, tokens[0], base[0]); N];
    let mut lengths = [cells.tokens(tokens[0]); N];
    for n in 1..N {
        sums[n] = cells.begin(query, tokens[n], base[n]);
        lengths[n] = cells.tokens(tokens[n]);
    }
    for at in 0..cells.count(query) {
        let bend = cells.bend_at(query, at);
        for n in 0..N {
            sums[n] = cells.bend(sums[n], lengths[n], bend);
        }
    }
    let (bit, longest) = (lanes.splat(query.bit), lanes.splat(query.longest));
    for n in 0..N {
        let mask = lanes.allowed(words[n], bit, tokens[n], longest);
        cells.keep(best, mask, sums[n], query, tokens[n], base[n], (first + n) as i32);
    }
}

#[inline(always)]
fn run<C: Cells, const N: usize>(cells: C, rows: &Rows<'_>, query: &Query) -> Option<Best> {
    use super::lanes::Lanes;
    let lanes = cells.lanes();
    let mut best = cells.nothing();
    let (tokens, _) = rows.tokens.as_chunks::<N>();
    let (base, _) = rows.base.as_chunks::<N>();
    let (words, _) = rows.words.as_chunks::<N>();
    for (at, ((tokens, base), words)) in tokens.iter().zip(base).zip(words).enumerate() {
        let mut registers = [[lanes.splat(0); N]; 3];
        for n in 0..N {
            registers[0][n] = lanes.load(&tokens[n].0);
            registers[1][n] = lanes.load(&base[n].0);
            registers[2][n] = lanes.load(&words[n].0);
        }
        step(cells, query, registers, at * N, &mut best);
    }
    let (scores, blocks) = cells.finish(best);
    earliest(&scores, &blocks)
}

/// The best lane; of equals the one whose request stands first. Lanes without anybody hold the least score and block -1. No branches: which
/// lane wins is anybody's guess.
#[inline(always)]
fn earliest(scores: &[i64; BLOCK], blocks: &[i32; BLOCK]) -> Option<Best> {
    let mut score = i64::MIN;
    for &other in scores {
        score = score.max(other);
    }
    let mut index = u32::MAX;
    for lane in 0..BLOCK {
        let here = (blocks[lane] as u32).wrapping_mul(BLOCK as u32) + lane as u32;
        index = index.min(if scores[lane] == score { here } else { u32::MAX });
    }
    (index < 1 << 31).then_some(Best { index, score })
}

#[inline(always)]
fn turn<C: Cells, const N: usize>(cells: C, query: &Query, blocks: usize) -> i64 {
    use super::lanes::Lanes;
    let lanes = cells.lanes();
    let mut best = cells.nothing();
    let (mut tokens, mut base, mut words) = (lanes.splat(700), lanes.splat(3), lanes.splat(-1));
    for at in 0..blocks / N {
        let mut registers = [[tokens; N], [base; N], [words; N]];
        let [all_tokens, all_base, all_words] = &mut registers;
        for ((into_tokens, into_base), into_words) in all_tokens.iter_mut().zip(all_base).zip(all_words) {
            tokens = lanes.opaque(tokens);
            base = lanes.opaque(base);
            words = lanes.opaque(words);
            (*into_tokens, *into_base, *into_words) = (tokens, base, words);
        }
        step(cells, query, registers, at * N, &mut best);
    }
    let (scores, blocks) = cells.finish(best);
    earliest(&scores, &blocks).map_or(0, |best| best.score)
}

/// Adds the bonuses of a run of requests on one worker to their ages; returns the greatest magnitude of a bonus in tokens.
#[inline(always)]
pub(super) fn add_bonuses<L: DenseLanes>(
    lanes: L,
    bonuses: Bonuses<'_>,
    worker: u32,
    unit: i32,
    (offsets, ages): Plain<'_>,
    base: &mut [Block],
) -> i64 {
    // Plain loads: gather instructions are no faster where they are microcode, and these are checked.
    let mut greatest = lanes.splat(0);
    let worker = worker as usize;
    for ((offsets, ages), base) in offsets.iter().zip(ages).zip(base) {
        let bonus = match bonuses {
            Bonuses::F32(matrix) => {
                let mut values = [0.0; BLOCK];
                // The matrix is shorter than `NO_ROW`: nobody's bonus is past its end.
                for (value, &offset) in values.iter_mut().zip(&offsets.0) {
                    *value = matrix.get(offset as u32 as usize + worker).copied().unwrap_or(0.0);
                }
                lanes.round(&values)
            }
            Bonuses::F16(matrix) => {
                let mut values = [0; BLOCK];
                for (value, &offset) in values.iter_mut().zip(&offsets.0) {
                    *value = matrix.get(offset as u32 as usize + worker).map_or(0, |bonus| bonus.to_bits());
                }
                lanes.round_halves(&values)
            }
        };
        greatest = lanes.max(greatest, lanes.abs(bonus));
        let units = lanes.mul(bonus, lanes.splat(unit));
        lanes.store(lanes.add(lanes.load(&ages.0), units), &mut base.0);
    }
    i64::from(lanes.greatest(greatest, u16::MAX))
}

/// Ages in score units, where both stay below 2^29.
#[inline(always)]
pub(super) fn ages<L: DenseLanes>(
    lanes: L,
    now_step: u32,
    enqueued: &[Block],
    age: Age,
    unit: i32,
    into: &mut [Block],
) {
    for (enqueued, into) in enqueued.iter().zip(into) {
        let ages = lanes.ages(now_step, &enqueued.0.map(|step| step as u32), age);
        lanes.store(lanes.mul(ages, lanes.splat(unit)), &mut into.0);
    }
}

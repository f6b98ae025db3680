//! The inner loop of the dense columns once more, over `fearless_simd` instead of `std::arch`: the same data, operations and blocks at once.
//! Two things are done otherwise there: dot products whose weights need no division start from the line, and AVX-512 has instructions that compilers
//! would take apart.
//!
//! Every answer is checked before it is timed; both take turns, so that what else runs on the machine meets both.

use std::hint::black_box;
use std::time::Instant;

use balanceroute::backend::cpu::probe::ColumnProbe;
use balanceroute::backend::cpu::{Isa, Tier};
use fearless_simd::prelude::*;
use fearless_simd::{Level, f32x16, i16x32, i32x16, mask32x16};

const LANES: usize = 16;
const WAITING: usize = 1024;
const ROUNDS: usize = 400;
const PASSES: u32 = 20;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Block([i32; LANES]);

/// A column and a profile as `balanceroute` holds them.
struct Column {
    tokens: Vec<Block>,
    base: Vec<Block>,
    words: Vec<Block>,
    arrived: Vec<u64>,
    bit: i32,
    /// The slope past every knot.
    rest: i32,
    intercept: i64,
    bends: Vec<(i32, i32)>,
    float_bends: Vec<(f32, f32)>,
    /// Two knots each, in halves of a lane; their weights divided by the factor.
    pairs: Vec<(i32, i32)>,
    factor: i32,
}

impl Column {
    fn new(probe: &ColumnProbe) -> Self {
        let mut column = Self {
            tokens: Vec::new(),
            base: Vec::new(),
            words: Vec::new(),
            arrived: Vec::new(),
            bit: 1 << probe.worker(),
            rest: 0,
            intercept: probe.profile().intercept,
            bends: probe
                .profile()
                .knots
                .iter()
                .map(|knot| (knot.at_tokens as i32, knot.weight as i32))
                .collect(),
            float_bends: Vec::new(),
            pairs: Vec::new(),
            factor: 1,
        };
        for [tokens, base, words] in probe.blocks() {
            column.tokens.push(Block(*tokens));
            column.base.push(Block(*base));
            column.words.push(Block(*words));
            let from = column.arrived.len() as u64;
            column.arrived.extend(from..from + LANES as u64);
        }
        column.float_bends = column.bends.iter().map(|&(at, weight)| (at as f32, weight as f32)).collect();
        let weights: i32 = column.bends.iter().map(|&(_, weight)| weight).sum();
        column.rest = probe.profile().slope as i32 - weights;
        // Every knot of the made-up profile weighs the same.
        column.factor = column.bends[0].1;
        column.pairs = column
            .bends
            .chunks(2)
            .map(|pair| {
                let second = pair.get(1).copied().unwrap_or((0, 0));
                (pair[0].0 | second.0 << 16, pair[0].1 / column.factor | second.1 / column.factor << 16)
            })
            .collect();
        column
    }
}

/// One kind of lanes: how a sum begins, bends and ends.
trait Cells<S: Simd>: Copy {
    type Lengths: Copy;
    type Sum: Copy;
    type Bend: Copy;

    fn lengths(simd: S, tokens: i32x16<S>) -> Self::Lengths;
    fn begin(simd: S, column: &Column, tokens: i32x16<S>, base: i32x16<S>) -> Self::Sum;
    fn bends(column: &Column) -> &[Self::Bend];
    fn clip(simd: S, lengths: Self::Lengths, bend: Self::Bend) -> Self::Lengths;
    fn bend(simd: S, sum: Self::Sum, clipped: Self::Lengths, bend: Self::Bend) -> Self::Sum;
    fn score(simd: S, column: &Column, sum: Self::Sum, tokens: i32x16<S>, base: i32x16<S>) -> Self::Score;

    type Score: Copy;
    fn least(simd: S) -> Self::Score;
    fn splat(simd: S, score: i64) -> Self::Score;
    fn greater(simd: S, a: Self::Score, b: Self::Score) -> Self::Score;
    fn equal(simd: S, a: Self::Score, b: Self::Score) -> mask32x16<S>;
    fn select(simd: S, mask: mask32x16<S>, a: Self::Score, b: Self::Score) -> Self::Score;
    fn values(score: Self::Score) -> [i64; LANES];
}

#[derive(Clone, Copy)]
struct F32;
#[derive(Clone, Copy)]
struct I32;
#[derive(Clone, Copy)]
struct Dot;

impl<S: Simd> Cells<S> for F32 {
    type Lengths = f32x16<S>;
    type Sum = f32x16<S>;
    type Bend = (f32, f32);
    type Score = f32x16<S>;

    #[inline(always)]
    fn lengths(simd: S, tokens: i32x16<S>) -> f32x16<S> {
        simd.cvt_f32_i32x16(tokens)
    }

    #[inline(always)]
    fn begin(simd: S, column: &Column, tokens: i32x16<S>, base: i32x16<S>) -> f32x16<S> {
        let rest = simd.splat_f32x16(column.rest as f32);
        simd.add_f32x16(simd.cvt_f32_i32x16(base), simd.mul_f32x16(rest, simd.cvt_f32_i32x16(tokens)))
    }

    #[inline(always)]
    fn bends(column: &Column) -> &[(f32, f32)] {
        &column.float_bends
    }

    #[inline(always)]
    fn clip(simd: S, lengths: f32x16<S>, (at, _): (f32, f32)) -> f32x16<S> {
        // As integers, which are ordered alike and compared by more units.
        let at: i32x16<S> = simd.splat_f32x16(at).bitcast();
        simd.min_i32x16(lengths.bitcast(), at).bitcast()
    }

    #[inline(always)]
    fn bend(simd: S, sum: f32x16<S>, clipped: f32x16<S>, (_, weight): (f32, f32)) -> f32x16<S> {
        simd.add_f32x16(sum, simd.mul_f32x16(clipped, simd.splat_f32x16(weight)))
    }

    #[inline(always)]
    fn score(_: S, _: &Column, sum: f32x16<S>, _: i32x16<S>, _: i32x16<S>) -> f32x16<S> {
        sum
    }

    #[inline(always)]
    fn least(simd: S) -> f32x16<S> {
        simd.splat_f32x16(f32::NEG_INFINITY)
    }

    #[inline(always)]
    fn splat(simd: S, score: i64) -> f32x16<S> {
        simd.splat_f32x16(score as f32)
    }

    #[inline(always)]
    fn greater(simd: S, a: f32x16<S>, b: f32x16<S>) -> f32x16<S> {
        simd.max_f32x16(a, b)
    }

    #[inline(always)]
    fn equal(simd: S, a: f32x16<S>, b: f32x16<S>) -> mask32x16<S> {
        simd.simd_eq_f32x16(a, b)
    }

    #[inline(always)]
    fn select(simd: S, mask: mask32x16<S>, a: f32x16<S>, b: f32x16<S>) -> f32x16<S> {
        simd.select_f32x16(mask, a, b)
    }

    #[inline(always)]
    fn values(score: f32x16<S>) -> [i64; LANES] {
        score.as_array().map(|value| value as i64)
    }
}

impl<S: Simd> Cells<S> for I32 {
    type Lengths = i32x16<S>;
    type Sum = i32x16<S>;
    type Bend = (i32, i32);
    type Score = i32x16<S>;

    #[inline(always)]
    fn lengths(_: S, tokens: i32x16<S>) -> i32x16<S> {
        tokens
    }

    #[inline(always)]
    fn begin(simd: S, column: &Column, tokens: i32x16<S>, base: i32x16<S>) -> i32x16<S> {
        simd.add_i32x16(base, simd.mul_i32x16(simd.splat_i32x16(column.rest), tokens))
    }

    #[inline(always)]
    fn bends(column: &Column) -> &[(i32, i32)] {
        &column.bends
    }

    #[inline(always)]
    fn clip(simd: S, lengths: i32x16<S>, (at, _): (i32, i32)) -> i32x16<S> {
        simd.min_i32x16(lengths, simd.splat_i32x16(at))
    }

    #[inline(always)]
    fn bend(simd: S, sum: i32x16<S>, clipped: i32x16<S>, (_, weight): (i32, i32)) -> i32x16<S> {
        simd.add_i32x16(sum, simd.mul_i32x16(clipped, simd.splat_i32x16(weight)))
    }

    #[inline(always)]
    fn score(_: S, _: &Column, sum: i32x16<S>, _: i32x16<S>, _: i32x16<S>) -> i32x16<S> {
        sum
    }

    #[inline(always)]
    fn least(simd: S) -> i32x16<S> {
        simd.splat_i32x16(i32::MIN)
    }

    #[inline(always)]
    fn splat(simd: S, score: i64) -> i32x16<S> {
        simd.splat_i32x16(score as i32)
    }

    #[inline(always)]
    fn greater(simd: S, a: i32x16<S>, b: i32x16<S>) -> i32x16<S> {
        simd.max_i32x16(a, b)
    }

    #[inline(always)]
    fn equal(simd: S, a: i32x16<S>, b: i32x16<S>) -> mask32x16<S> {
        simd.simd_eq_i32x16(a, b)
    }

    #[inline(always)]
    fn select(simd: S, mask: mask32x16<S>, a: i32x16<S>, b: i32x16<S>) -> i32x16<S> {
        simd.select_i32x16(mask, a, b)
    }

    #[inline(always)]
    fn values(score: i32x16<S>) -> [i64; LANES] {
        score.as_array().map(i64::from)
    }
}

impl<S: Simd> Cells<S> for Dot {
    type Lengths = i16x32<S>;
    type Sum = i32x16<S>;
    type Bend = (i32, i32);
    type Score = i32x16<S>;

    #[inline(always)]
    fn lengths(simd: S, tokens: i32x16<S>) -> i16x32<S> {
        simd.mul_i32x16(tokens, simd.splat_i32x16(0x1_0001)).bitcast()
    }

    #[inline(always)]
    fn begin(simd: S, _: &Column, _: i32x16<S>, _: i32x16<S>) -> i32x16<S> {
        simd.splat_i32x16(0)
    }

    #[inline(always)]
    fn bends(column: &Column) -> &[(i32, i32)] {
        &column.pairs
    }

    #[inline(always)]
    fn clip(simd: S, lengths: i16x32<S>, (at, _): (i32, i32)) -> i16x32<S> {
        simd.min_i16x32(lengths, simd.splat_i32x16(at).bitcast())
    }

    #[inline(always)]
    fn bend(simd: S, sum: i32x16<S>, clipped: i16x32<S>, (_, weight): (i32, i32)) -> i32x16<S> {
        let gained = simd.pairwise_dot_product_i16x32(clipped, simd.splat_i32x16(weight).bitcast());
        simd.add_i32x16(sum, gained)
    }

    #[inline(always)]
    fn score(simd: S, column: &Column, sum: i32x16<S>, tokens: i32x16<S>, base: i32x16<S>) -> i32x16<S> {
        let gained = simd.mul_i32x16(sum, simd.splat_i32x16(column.factor));
        simd.add_i32x16(I32::begin(simd, column, tokens, base), gained)
    }

    #[inline(always)]
    fn least(simd: S) -> i32x16<S> {
        I32::least(simd)
    }

    #[inline(always)]
    fn splat(simd: S, score: i64) -> i32x16<S> {
        I32::splat(simd, score)
    }

    #[inline(always)]
    fn greater(simd: S, a: i32x16<S>, b: i32x16<S>) -> i32x16<S> {
        I32::greater(simd, a, b)
    }

    #[inline(always)]
    fn equal(simd: S, a: i32x16<S>, b: i32x16<S>) -> mask32x16<S> {
        I32::equal(simd, a, b)
    }

    #[inline(always)]
    fn select(simd: S, mask: mask32x16<S>, a: i32x16<S>, b: i32x16<S>) -> i32x16<S> {
        I32::select(simd, mask, a, b)
    }

    #[inline(always)]
    fn values(score: i32x16<S>) -> [i64; LANES] {
        I32::values(score)
    }
}

/// Scores `N` blocks at once; says who is allowed.
#[inline(always)]
fn score<S: Simd, C: Cells<S>, const N: usize>(
    simd: S,
    column: &Column,
    [tokens, base, words]: [&[Block; N]; 3],
) -> [(mask32x16<S>, C::Score); N] {
    let zero = simd.splat_i32x16(0);
    let (mut tokens_of, mut base_of) = ([zero; N], [zero; N]);
    for n in 0..N {
        tokens_of[n] = i32x16::load_array_ref(simd, &tokens[n].0);
        base_of[n] = i32x16::load_array_ref(simd, &base[n].0);
    }
    let mut sums = [C::begin(simd, column, tokens_of[0], base_of[0]); N];
    let mut lengths = [C::lengths(simd, tokens_of[0]); N];
    for n in 1..N {
        sums[n] = C::begin(simd, column, tokens_of[n], base_of[n]);
        lengths[n] = C::lengths(simd, tokens_of[n]);
    }
    for &bend in C::bends(column) {
        let mut clipped = lengths;
        for clipped in &mut clipped {
            *clipped = C::clip(simd, *clipped, bend);
        }
        for (sum, clipped) in sums.iter_mut().zip(clipped) {
            *sum = C::bend(simd, *sum, clipped, bend);
        }
    }
    let bit = simd.splat_i32x16(column.bit);
    let mut scored = [(simd.simd_ne_i32x16(zero, zero), C::least(simd)); N];
    for n in 0..N {
        let words = i32x16::load_array_ref(simd, &words[n].0);
        scored[n].0 = simd.simd_ne_i32x16(simd.and_i32x16(words, bit), zero);
        scored[n].1 = C::score(simd, column, sums[n], tokens_of[n], base_of[n]);
    }
    scored
}

/// Steps whose greatest scores are kept.
const SEGMENT: usize = 16;

/// The best score of a column and where it stands: the greatest of every step first, then the steps that reach it once more.
#[inline(always)]
fn run<S: Simd, C: Cells<S>, const N: usize>(simd: S, column: &Column) -> (i64, u32) {
    let (tokens, _) = column.tokens.as_chunks::<N>();
    let (base, _) = column.base.as_chunks::<N>();
    let (words, _) = column.words.as_chunks::<N>();
    let (mut top, mut index) = (i64::MIN, u32::MAX);
    for from in (0..tokens.len()).step_by(SEGMENT) {
        let to = (from + SEGMENT).min(tokens.len());
        let mut best = C::least(simd);
        let mut kept = [best; SEGMENT];
        for at in from..to {
            let mut step = C::least(simd);
            for (allowed, score) in score::<S, C, N>(simd, column, [&tokens[at], &base[at], &words[at]]) {
                step = C::select(simd, allowed, C::greater(simd, step, score), step);
            }
            kept[at % SEGMENT] = step;
            best = C::greater(simd, best, step);
        }
        let greatest = C::values(best).into_iter().fold(i64::MIN, i64::max);
        if greatest < top || greatest == i64::MIN {
            continue;
        }
        let wanted = C::splat(simd, greatest);
        for at in from..to {
            if C::equal(simd, kept[at % SEGMENT], wanted).to_bitmask() == 0 {
                continue;
            }
            let scored = score::<S, C, N>(simd, column, [&tokens[at], &base[at], &words[at]]);
            for (n, (allowed, score)) in scored.into_iter().enumerate() {
                let mut bits = simd.and_mask32x16(allowed, C::equal(simd, score, wanted)).to_bitmask();
                while bits != 0 {
                    let other = ((at * N + n) * LANES) as u32 + bits.trailing_zeros();
                    bits &= bits - 1;
                    // The earliest of equals wins.
                    let earlier =
                        greatest > top || column.arrived[other as usize] < column.arrived[index as usize];
                    (top, index) = if earlier { (greatest, other) } else { (top, index) };
                }
            }
        }
    }
    (top, index)
}

/// One pass on an instruction set, as many blocks at once as `balanceroute` takes there.
fn pass(isa: Isa, tier: Tier, column: &Column) -> Option<(i64, u32)> {
    let level = Level::new();
    macro_rules! on {
        ($simd:ident, $n:literal) => {
            match tier {
                Tier::F32 => $simd.vectorize(
                    #[inline(always)]
                    || run::<_, F32, $n>($simd, column),
                ),
                Tier::I32 => $simd.vectorize(
                    #[inline(always)]
                    || run::<_, I32, $n>($simd, column),
                ),
                Tier::Dot => $simd.vectorize(
                    #[inline(always)]
                    || run::<_, Dot, $n>($simd, column),
                ),
                _ => return None,
            }
        };
    }
    Some(match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            let simd = level.as_avx2()?;
            on!(simd, 2)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            let simd = level.as_avx512()?;
            on!(simd, 4)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => {
            let simd = level.as_neon()?;
            on!(simd, 1)
        }
        _ => return None,
    })
}

/// Least time of one call in nanoseconds, over calls that take turns.
fn least<const N: usize>(calls: &mut [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut least = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for (call, least) in calls.iter_mut().zip(&mut least) {
            let start = Instant::now();
            (0..PASSES).for_each(|_| call());
            *least = least.min(start.elapsed().as_nanos() as f64 / f64::from(PASSES));
        }
    }
    least
}

fn main() {
    println!(
        "| 1024 requests, one worker | knots | std::arch ns | fearless_simd ns | ratio |\n|---|---|---|---|---|"
    );
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for tier in [Tier::F32, Tier::I32, Tier::Dot] {
            for knots in [1, 17, 81] {
                let Some(mut probe) = ColumnProbe::new(isa, tier, WAITING, knots) else { continue };
                let column = Column::new(&probe);
                let Some((score, _)) = pass(isa, tier, &column) else { continue };
                assert_eq!(score + column.intercept, probe.pass(), "{isa} {}", tier.name());
                assert_eq!(probe.pass(), probe.by_definition(), "{isa} {}", tier.name());
                let [ours, theirs] = least(&mut [
                    &mut || {
                        black_box(probe.pass());
                    },
                    &mut || {
                        black_box(pass(isa, tier, black_box(&column)));
                    },
                ]);
                println!(
                    "| {isa} {} | {knots} | {ours:.0} | {theirs:.0} | {:.2} |",
                    tier.name(),
                    theirs / ours
                );
            }
        }
    }
}

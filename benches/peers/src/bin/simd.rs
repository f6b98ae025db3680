//! The inner loop of the dense columns once more, over `fearless_simd` instead of `std::arch`: the same data, operations and blocks at once.
//!
//! Every answer is checked before it is timed; both take turns, so that what else runs on the machine meets both.

use std::hint::black_box;
use std::time::Instant;

use balanceroute::backend::cpu::{ColumnProbe, Isa, Tier};
use fearless_simd::prelude::*;
use fearless_simd::{Level, f32x16, i16x32, i32x16, mask32x16, u16x32};

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
    bit: i32,
    longest: i32,
    slope: i32,
    intercept: i64,
    bends: Vec<(i32, i32)>,
    float_bends: Vec<(f32, f32)>,
    /// Two knots each, in halves of a lane; their weights divided by the factor.
    pairs: Vec<(i32, i32)>,
    factor: i32,
}

impl Column {
    fn new(probe: &ColumnProbe, longest: i32) -> Self {
        let mut column = Self {
            tokens: Vec::new(),
            base: Vec::new(),
            words: Vec::new(),
            bit: 1 << probe.worker(),
            longest,
            slope: probe.profile().slope as i32,
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
        }
        column.float_bends = column.bends.iter().map(|&(at, weight)| (at as f32, weight as f32)).collect();
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
    fn bend(simd: S, sum: Self::Sum, lengths: Self::Lengths, bend: Self::Bend) -> Self::Sum;
    fn score(simd: S, column: &Column, sum: Self::Sum, tokens: i32x16<S>, base: i32x16<S>) -> Self::Score;

    type Score: Copy;
    fn least(simd: S) -> Self::Score;
    fn above(simd: S, a: Self::Score, b: Self::Score) -> mask32x16<S>;
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
        let slope = simd.splat_f32x16(column.slope as f32);
        simd.add_f32x16(simd.cvt_f32_i32x16(base), simd.mul_f32x16(slope, simd.cvt_f32_i32x16(tokens)))
    }

    #[inline(always)]
    fn bends(column: &Column) -> &[(f32, f32)] {
        &column.float_bends
    }

    #[inline(always)]
    fn bend(simd: S, sum: f32x16<S>, lengths: f32x16<S>, (at, weight): (f32, f32)) -> f32x16<S> {
        let past = simd.max_f32x16(simd.sub_f32x16(lengths, simd.splat_f32x16(at)), simd.splat_f32x16(0.0));
        simd.sub_f32x16(sum, simd.mul_f32x16(past, simd.splat_f32x16(weight)))
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
    fn above(simd: S, a: f32x16<S>, b: f32x16<S>) -> mask32x16<S> {
        simd.simd_gt_f32x16(a, b)
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
        simd.add_i32x16(base, simd.mul_i32x16(simd.splat_i32x16(column.slope), tokens))
    }

    #[inline(always)]
    fn bends(column: &Column) -> &[(i32, i32)] {
        &column.bends
    }

    #[inline(always)]
    fn bend(simd: S, sum: i32x16<S>, lengths: i32x16<S>, (at, weight): (i32, i32)) -> i32x16<S> {
        let past = simd.max_i32x16(simd.sub_i32x16(lengths, simd.splat_i32x16(at)), simd.splat_i32x16(0));
        simd.sub_i32x16(sum, simd.mul_i32x16(past, simd.splat_i32x16(weight)))
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
    fn above(simd: S, a: i32x16<S>, b: i32x16<S>) -> mask32x16<S> {
        simd.simd_gt_i32x16(a, b)
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
    type Lengths = u16x32<S>;
    type Sum = i32x16<S>;
    type Bend = (i32, i32);
    type Score = i32x16<S>;

    #[inline(always)]
    fn lengths(simd: S, tokens: i32x16<S>) -> u16x32<S> {
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
    fn bend(simd: S, sum: i32x16<S>, lengths: u16x32<S>, (at, weight): (i32, i32)) -> i32x16<S> {
        let past: i16x32<S> = simd.saturating_sub_u16x32(lengths, simd.splat_i32x16(at).bitcast()).bitcast();
        let lost = simd.pairwise_dot_product_i16x32(past, simd.splat_i32x16(weight).bitcast());
        simd.add_i32x16(sum, lost)
    }

    #[inline(always)]
    fn score(simd: S, column: &Column, sum: i32x16<S>, tokens: i32x16<S>, base: i32x16<S>) -> i32x16<S> {
        let lost = simd.mul_i32x16(sum, simd.splat_i32x16(column.factor));
        simd.sub_i32x16(I32::begin(simd, column, tokens, base), lost)
    }

    #[inline(always)]
    fn least(simd: S) -> i32x16<S> {
        I32::least(simd)
    }

    #[inline(always)]
    fn above(simd: S, a: i32x16<S>, b: i32x16<S>) -> mask32x16<S> {
        I32::above(simd, a, b)
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

/// The best score of a column and where it stands, `N` blocks at once.
#[inline(always)]
fn run<S: Simd, C: Cells<S>, const N: usize>(simd: S, column: &Column) -> (i64, u32) {
    let mut best = C::least(simd);
    let mut places = simd.splat_i32x16(-1);
    let (bit, longest) = (simd.splat_i32x16(column.bit), simd.splat_i32x16(column.longest));
    let (tokens, _) = column.tokens.as_chunks::<N>();
    let (base, _) = column.base.as_chunks::<N>();
    let (words, _) = column.words.as_chunks::<N>();
    for (at, ((tokens, base), words)) in tokens.iter().zip(base).zip(words).enumerate() {
        let load = |blocks: &[Block; N]| {
            let mut lanes = [simd.splat_i32x16(0); N];
            for n in 0..N {
                lanes[n] = i32x16::load_array_ref(simd, &blocks[n].0);
            }
            lanes
        };
        let (tokens, base, words) = (load(tokens), load(base), load(words));
        let mut sums = [C::begin(simd, column, tokens[0], base[0]); N];
        let mut lengths = [C::lengths(simd, tokens[0]); N];
        for n in 1..N {
            sums[n] = C::begin(simd, column, tokens[n], base[n]);
            lengths[n] = C::lengths(simd, tokens[n]);
        }
        for &bend in C::bends(column) {
            for n in 0..N {
                sums[n] = C::bend(simd, sums[n], lengths[n], bend);
            }
        }
        for n in 0..N {
            let has = simd.simd_ne_i32x16(simd.and_i32x16(words[n], bit), simd.splat_i32x16(0));
            let allowed = simd.and_mask32x16(has, simd.simd_le_i32x16(tokens[n], longest));
            let score = C::score(simd, column, sums[n], tokens[n], base[n]);
            let above = simd.and_mask32x16(allowed, C::above(simd, score, best));
            best = C::select(simd, above, score, best);
            places = simd.select_i32x16(above, simd.splat_i32x16((at * N + n) as i32), places);
        }
    }
    let (scores, places) = (C::values(best), *places.as_array());
    let score = scores.iter().copied().fold(i64::MIN, i64::max);
    let mut index = u32::MAX;
    for lane in 0..LANES {
        let here = (places[lane] as u32).wrapping_mul(LANES as u32) + lane as u32;
        index = index.min(if scores[lane] == score { here } else { u32::MAX });
    }
    (score, index)
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
                let column = Column::new(&probe, 1500);
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

//! The inner loop of the dense columns once more, over `fearless_simd` instead of `std::arch`: equal data,
//! operations and blocks at once.
//!
//! Every answer is checked before it is timed; both take turns, so that what else runs on the machine meets
//! both.

use std::hint::black_box;
use std::time::Instant;

use balanceroute::backend::cpu::{ColumnProbe, Isa};
use fearless_simd::prelude::*;
use fearless_simd::{Level, i32x16};

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
    scores: Vec<Block>,
    arrived: Vec<u64>,
    bit: i32,
    longest: i32,
    /// The slope past every knot.
    slope: i32,
    intercept: i64,
    knots: Vec<(i32, i32)>,
}

impl Column {
    fn new(probe: &ColumnProbe) -> Self {
        let profile = probe.profile();
        let knots = profile.knots.iter().map(|knot| (knot.at_tokens as i32, knot.weight as i32));
        let knots: Vec<(i32, i32)> = knots.collect();
        let weights: i32 = knots.iter().map(|&(_, weight)| weight).sum();
        let of = |part: usize| probe.blocks().map(|block| Block(*block[part])).collect::<Vec<_>>();
        let [tokens, base, words] = [of(0), of(1), of(2)];
        Self {
            scores: vec![Block([0; LANES]); tokens.len()],
            arrived: (0..(tokens.len() * LANES) as u64).collect(),
            bit: 1 << probe.worker(),
            longest: i32::MAX - 1,
            slope: profile.slope as i32 - weights,
            intercept: profile.intercept,
            tokens,
            base,
            words,
            knots,
        }
    }
}

/// Scores `N` blocks at once; the least value where a request may not run.
#[inline(always)]
fn score<S: Simd, const N: usize>(
    simd: S,
    (knots, slope, bit, longest): (&[(i32, i32)], i32, i32, i32),
    [tokens, base, words]: [&[Block; N]; 3],
) -> [i32x16<S>; N] {
    let zero = simd.splat_i32x16(0);
    let (mut lengths, mut sums) = ([zero; N], [zero; N]);
    for n in 0..N {
        lengths[n] = i32x16::load_array_ref(simd, &tokens[n].0);
        let line = simd.mul_i32x16(simd.splat_i32x16(slope), lengths[n]);
        sums[n] = simd.add_i32x16(i32x16::load_array_ref(simd, &base[n].0), line);
    }
    for &(at, weight) in knots {
        let (at, weight) = (simd.splat_i32x16(at), simd.splat_i32x16(weight));
        let mut clipped = lengths;
        for clipped in &mut clipped {
            *clipped = simd.min_i32x16(*clipped, at);
        }
        for (sum, clipped) in sums.iter_mut().zip(clipped) {
            *sum = simd.add_i32x16(*sum, simd.mul_i32x16(clipped, weight));
        }
    }
    for n in 0..N {
        let words = simd.and_i32x16(i32x16::load_array_ref(simd, &words[n].0), simd.splat_i32x16(bit));
        let fits = simd.simd_le_i32x16(lengths[n], simd.splat_i32x16(longest));
        let may = simd.and_mask32x16(simd.simd_ne_i32x16(words, zero), fits);
        sums[n] = simd.select_i32x16(may, sums[n], simd.splat_i32x16(i32::MIN));
    }
    sums
}

/// The best score of a column and where it stands: the greatest of all first, then the earliest that has it.
#[inline(always)]
fn run<S: Simd, const N: usize>(simd: S, column: &mut Column) -> (i64, u32) {
    let Column { tokens, base, words, scores, arrived, bit, longest, slope, knots, .. } = column;
    let mut best = simd.splat_i32x16(i32::MIN);
    let steps = tokens.as_chunks::<N>().0.iter().zip(base.as_chunks::<N>().0);
    let steps = steps.zip(words.as_chunks::<N>().0).zip(scores.as_chunks_mut::<N>().0);
    for (((tokens, base), words), into) in steps {
        let scored = score(simd, (knots, *slope, *bit, *longest), [tokens, base, words]);
        for (into, scored) in into.iter_mut().zip(scored) {
            into.0 = *scored.as_array();
            best = simd.max_i32x16(best, scored);
        }
    }
    let top = best.as_array().iter().copied().fold(i32::MIN, i32::max);
    let (wanted, mut index) = (simd.splat_i32x16(top), u32::MAX);
    for (block, scores) in scores.iter().enumerate() {
        let equal = simd.simd_eq_i32x16(i32x16::load_array_ref(simd, &scores.0), wanted);
        let mut bits = equal.to_bitmask();
        while bits != 0 {
            let other = (block * LANES) as u32 + bits.trailing_zeros();
            bits &= bits - 1;
            if index == u32::MAX || arrived[other as usize] < arrived[index as usize] {
                index = other;
            }
        }
    }
    (i64::from(top), index)
}

/// One pass on an instruction set, as many blocks at once as `balanceroute` takes there.
fn pass(isa: Isa, column: &mut Column) -> Option<(i64, u32)> {
    let level = Level::new();
    macro_rules! on {
        ($simd:expr, $n:literal) => {{
            let simd = $simd?;
            simd.vectorize(
                #[inline(always)]
                || run::<_, $n>(simd, column),
            )
        }};
    }
    Some(match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => on!(level.as_avx2(), 2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => on!(level.as_avx512(), 4),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => on!(level.as_neon(), 2),
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
        "| 1024 requests, one worker | knots | std::arch ns | fearless_simd ns | ratio |\n\
         |---|---|---|---|---|"
    );
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for knots in [1, 17, 81] {
            let Some(mut probe) = ColumnProbe::new(isa, WAITING, knots) else { continue };
            let mut column = Column::new(&probe);
            let Some((score, _)) = pass(isa, &mut column) else { continue };
            assert_eq!(score + column.intercept, probe.pass(), "{isa}");
            assert_eq!(probe.pass(), probe.by_definition(), "{isa}");
            let [ours, theirs] = least(&mut [
                &mut || {
                    black_box(probe.pass());
                },
                &mut || {
                    black_box(pass(isa, black_box(&mut column)));
                },
            ]);
            println!("| {isa} | {knots} | {ours:.0} | {theirs:.0} | {:.2} |", theirs / ours);
        }
    }
}

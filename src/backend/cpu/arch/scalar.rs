//! The target's baseline: lanes are an array, and the compiler makes of it what it can.

use crate::backend::cpu::lanes::{DenseLanes, Lanes, gather};
use crate::backend::cpu::{Far, Isa, Kernels, Tier, column, dense, level, loads, swap};
use crate::pool::BLOCK;
use crate::score::Age;

#[derive(Clone, Copy)]
pub(super) struct Scalar;

/// The x86-64 baseline multiplies and compares `f32` lanes only.
const TIERS: &[Tier] = match cfg!(target_arch = "x86_64") {
    true => &[Tier::F32, Tier::I32, Tier::I64],
    false => &[Tier::I32, Tier::I64],
};

static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    begin: |ordered, age, slopes, marks| column::begin(Scalar, ordered, age, slopes, marks),
    take: |ordered, position, marks| column::take(Scalar, ordered, position, marks),
    search: |ordered, query, marks| column::search(Scalar, ordered, query, marks),
    level: |chain| level::place(Scalar, chain),
    level_repair: |chain, first| level::replace(Scalar, chain, first),
    swap: |picks| swap::pass(Scalar, picks),
    loads: loads::LoadKernels {
        anticipate: |columns, refill, anticipated| loads::anticipate(columns, refill, anticipated),
        top: |values| loads::top(values),
        sum_and_max: |values| loads::sum_and_max(values),
        raise: |rows, greatest| loads::raise(rows, greatest),
    },
    prepare: |query, profile, lengths| query.prepare(Scalar, profile, lengths),
    bounds: |query, edges| query.bounds(Scalar, edges),
    cut: |query, lengths, greatest_base, tiers| query.cut(Scalar, lengths, greatest_base, tiers),
    dense: |tier, rows, query, kept| dense::column::<_, 1, 1>(Scalar, tier, rows, query, kept),
    spin: |tier, query, blocks, kept| dense::spin::<_, 1, 1>(Scalar, tier, query, blocks, kept),
    add_bonuses: |bonuses, workers, unit, from, bases| {
        dense::add_bonuses(Scalar, bonuses, workers, unit, from, bases)
    },
    words: |masks, rows, into| dense::words(Scalar, masks, rows, into),
    find_bonuses: |bonuses, workers, open, entries, hits| {
        dense::find_bonuses(Scalar, bonuses, workers, open, entries, hits)
    },
    ages: |now_step, enqueued, age, unit, into| dense::ages(Scalar, now_step, enqueued, age, unit, into),
    top: |blocks, count| dense::top(Scalar, blocks, count),
    tiers: TIERS,
    far: Far::PLAIN,
};

pub(in crate::backend::cpu) fn kernels() -> &'static Kernels {
    &KERNELS
}

#[inline(always)]
fn each(mut of: impl FnMut(usize) -> i32) -> [i32; BLOCK] {
    let mut lanes = [0; BLOCK];
    for (lane, value) in lanes.iter_mut().enumerate() {
        *value = of(lane);
    }
    lanes
}

#[inline(always)]
fn all<T: Copy + Default>(mut of: impl FnMut(usize) -> T) -> [T; BLOCK] {
    let mut lanes = [T::default(); BLOCK];
    for (lane, value) in lanes.iter_mut().enumerate() {
        *value = of(lane);
    }
    lanes
}

#[inline(always)]
fn mask(mut of: impl FnMut(usize) -> bool) -> u16 {
    let mut bits = 0;
    for lane in 0..BLOCK {
        bits |= u16::from(of(lane)) << lane;
    }
    bits
}

impl Lanes for Scalar {
    type V = [i32; BLOCK];

    #[inline(always)]
    fn splat(self, value: i32) -> Self::V {
        [value; BLOCK]
    }

    #[inline(always)]
    fn load(self, values: &[i32; BLOCK]) -> Self::V {
        *values
    }

    #[inline(always)]
    fn load_unsigned(self, values: &[u32; BLOCK]) -> Self::V {
        each(|lane| values[lane] as i32)
    }

    #[inline(always)]
    fn store(self, lanes: Self::V, values: &mut [i32; BLOCK]) {
        *values = lanes;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].wrapping_sub(b[lane]))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].wrapping_mul(b[lane]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].max(b[lane]))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].min(b[lane]))
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> u16 {
        mask(|lane| a[lane] > b[lane])
    }

    #[inline(always)]
    fn at_most(self, mask: u16, a: Self::V, b: Self::V) -> u16 {
        mask & !self.greater(a, b)
    }

    #[inline(always)]
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        mask(|lane| a[lane] == b[lane])
    }

    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        let kept = each(|lane| if mask >> lane & 1 == 1 { lanes[lane] } else { i32::MIN });
        kept.into_iter().fold(i32::MIN, i32::max)
    }

    #[inline(always)]
    fn put(self, mut lanes: Self::V, lane: usize, value: i32) -> Self::V {
        lanes[lane] = value;
        lanes
    }

    #[inline(always)]
    fn top(self, lanes: Self::V) -> i32 {
        lanes.into_iter().fold(i32::MIN, i32::max)
    }

    #[inline(always)]
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V {
        each(|lane| if mask >> lane & 1 == 1 { lanes[lane] } else { i32::MIN })
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        each(|lane| a[lane] << BITS)
    }

    #[inline(always)]
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V {
        each(|lane| age.tokens(now_step.wrapping_sub(enqueued[lane])) as i32)
    }
}

impl DenseLanes for Scalar {
    type M = [bool; BLOCK];
    type F = [f32; BLOCK];
    type W = [i64; BLOCK];

    #[inline(always)]
    fn allowed(self, words: Self::V, bit: Self::V, tokens: Self::V, longest: Self::V) -> Self::M {
        all(|lane| (words[lane] & bit[lane] != 0) & (tokens[lane] <= longest[lane]))
    }

    #[inline(always)]
    fn has(self, words: Self::V, bit: Self::V) -> Self::M {
        all(|lane| words[lane] & bit[lane] != 0)
    }

    #[inline(always)]
    fn bits(self, of: Self::M) -> u16 {
        mask(|lane| of[lane])
    }

    #[inline(always)]
    fn raise(self, mask: Self::M, best: Self::V, score: Self::V) -> Self::V {
        all(|lane| if mask[lane] & (score[lane] > best[lane]) { score[lane] } else { best[lane] })
    }

    #[inline(always)]
    fn min_halves(self, a: Self::V, b: Self::V) -> Self::V {
        all(|lane| (a[lane] & 0xffff).min(b[lane] & 0xffff) | (a[lane] >> 16).min(b[lane] >> 16) << 16)
    }

    #[inline(always)]
    fn dot(self, sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
        all(|lane| {
            let low = (a[lane] & 0xffff) * (b[lane] & 0xffff);
            sum[lane].wrapping_add(low).wrapping_add((a[lane] >> 16) * (b[lane] >> 16))
        })
    }

    #[inline(always)]
    fn opaque(self, a: Self::V) -> Self::V {
        std::hint::black_box(a)
    }

    #[inline(always)]
    fn float(self, a: Self::V) -> Self::F {
        all(|lane| a[lane] as f32)
    }

    #[inline(always)]
    fn splat_float(self, value: f32) -> Self::F {
        [value; BLOCK]
    }

    #[inline(always)]
    fn add_float(self, a: Self::F, b: Self::F) -> Self::F {
        all(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn mul_float(self, a: Self::F, b: Self::F) -> Self::F {
        all(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn max_float(self, a: Self::F, b: Self::F) -> Self::F {
        all(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn lesser_float(self, a: Self::F, b: Self::F) -> Self::F {
        all(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn raise_float(self, mask: Self::M, best: Self::F, score: Self::F) -> Self::F {
        all(|lane| if mask[lane] & (score[lane] > best[lane]) { score[lane] } else { best[lane] })
    }

    #[inline(always)]
    fn equal_float(self, a: Self::F, b: Self::F) -> u16 {
        mask(|lane| a[lane] == b[lane])
    }

    #[inline(always)]
    fn load_float(self, values: &[f32; BLOCK]) -> Self::F {
        *values
    }

    #[inline(always)]
    fn store_float(self, lanes: Self::F, values: &mut [f32; BLOCK]) {
        *values = lanes;
    }

    #[inline(always)]
    fn widen(self, a: Self::V) -> Self::W {
        all(|lane| i64::from(a[lane]))
    }

    #[inline(always)]
    fn splat_wide(self, value: i64) -> Self::W {
        [value; BLOCK]
    }

    #[inline(always)]
    fn mul_wide(self, a: Self::V, b: Self::V) -> Self::W {
        all(|lane| i64::from(a[lane]) * i64::from(b[lane]))
    }

    #[inline(always)]
    fn add_wide(self, a: Self::W, b: Self::W) -> Self::W {
        all(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    fn max_wide(self, a: Self::W, b: Self::W) -> Self::W {
        all(|lane| a[lane].max(b[lane]))
    }

    #[inline(always)]
    fn raise_wide(self, mask: Self::M, best: Self::W, score: Self::W) -> Self::W {
        all(|lane| if mask[lane] & (score[lane] > best[lane]) { score[lane] } else { best[lane] })
    }

    #[inline(always)]
    fn equal_wide(self, a: Self::W, b: Self::W) -> u16 {
        mask(|lane| a[lane] == b[lane])
    }

    #[inline(always)]
    fn load_wide(self, values: &[i64; BLOCK]) -> Self::W {
        *values
    }

    #[inline(always)]
    fn store_wide(self, lanes: Self::W, values: &mut [i64; BLOCK]) {
        *values = lanes;
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::V {
        each(|lane| {
            let whole = a[lane] as i32;
            let rest = a[lane] - whole as f32;
            whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)
        })
    }

    #[inline(always)]
    fn gather(self, matrix: &[f32], offsets: &[i32; BLOCK], worker: u32) -> Self::F {
        gather(matrix, offsets, worker, |value| value)
    }

    #[inline(always)]
    fn widen_halves(self, values: &[u16; BLOCK]) -> Self::F {
        all(|lane| half::f16::from_bits(values[lane]).to_f32())
    }
}

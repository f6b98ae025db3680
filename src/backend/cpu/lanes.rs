//! The few vector operations that the kernels are made of: [`BLOCK`] lanes of `i32`, wrapping.

use crate::pool::BLOCK;
use crate::score::Age;

/// One block of a column, on a cache line of its own.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Block(pub [i32; BLOCK]);

/// Sixteen lanes of an instruction set. A value of the type is the proof that the CPU has it.
pub(crate) trait Lanes: Copy {
    /// The lanes.
    type V: Copy;

    fn splat(self, value: i32) -> Self::V;
    fn load(self, values: &[i32; BLOCK]) -> Self::V;
    /// Loads values below 2^31.
    fn load_unsigned(self, values: &[u32; BLOCK]) -> Self::V;
    fn store(self, lanes: Self::V, values: &mut [i32; BLOCK]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// A bit for each lane with `a > b`.
    fn greater(self, a: Self::V, b: Self::V) -> u16;
    /// A bit for each lane of the mask with `a <= b`.
    fn at_most(self, mask: u16, a: Self::V, b: Self::V) -> u16;
    /// A bit for each lane with `a == b`.
    fn equal(self, a: Self::V, b: Self::V) -> u16;
    /// Writes the lanes of a mask one after the other; what follows them means nothing.
    #[inline(always)]
    fn compress(self, lanes: Self::V, mut mask: u16, into: &mut [i32; BLOCK]) {
        let mut values = [0; BLOCK];
        self.store(lanes, &mut values);
        for into in into {
            if mask == 0 {
                return;
            }
            *into = values[mask.trailing_zeros() as usize];
            mask &= mask - 1;
        }
    }
    /// The greatest of the lanes in a mask that is not empty.
    fn greatest(self, lanes: Self::V, mask: u16) -> i32;
    /// Replaces one lane.
    fn put(self, lanes: Self::V, lane: usize, value: i32) -> Self::V;
    /// The greatest of all lanes.
    fn top(self, lanes: Self::V) -> i32;
    /// The greatest of either.
    #[inline(always)]
    fn tops(self, a: Self::V, b: Self::V) -> (i32, i32) {
        (self.top(a), self.top(b))
    }
    /// The lanes in a mask, and the least value elsewhere.
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V;
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V;
    /// [`Age::tokens`] of `now_step - enqueued`, where both the waits and the ages are below 2^31.
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V;

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.max(a, self.sub(self.splat(0), a))
    }
}

/// What the dense columns need beyond that: masks, `f32` lanes for sums that stay exact in them, and `i64` sums of `i32` products.
pub(crate) trait DenseLanes: Lanes {
    /// Which lanes.
    type M: Copy;
    /// Sixteen lanes of `f32`.
    type F: Copy;
    /// Sixteen lanes of `i64`, in an order that is its own.
    type W: Copy;

    /// Lanes whose word has the bit and whose tokens are at most `longest`.
    fn allowed(self, words: Self::V, bit: Self::V, tokens: Self::V, longest: Self::V) -> Self::M;
    /// Lanes whose word has the bit.
    fn has(self, words: Self::V, bit: Self::V) -> Self::M;
    /// A bit for each lane of the mask.
    fn bits(self, mask: Self::M) -> u16;
    /// The greater of both where the mask says so, `best` elsewhere.
    fn raise(self, mask: Self::M, best: Self::V, score: Self::V) -> Self::V;
    /// Lanes below 2^15, in both halves of each.
    #[inline(always)]
    fn twice(self, a: Self::V) -> Self::V {
        self.add(a, self.shift_left::<16>(a))
    }
    /// The lesser of each pair of 16-bit lanes that are not negative.
    fn min_halves(self, a: Self::V, b: Self::V) -> Self::V;
    /// `sum` plus the dot products of pairs of 16-bit lanes that are not negative.
    fn dot(self, sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Hides where a value came from, at no cost: what is timed is then not worked out beforehand.
    fn opaque(self, a: Self::V) -> Self::V;

    fn float(self, a: Self::V) -> Self::F;
    fn splat_float(self, value: f32) -> Self::F;
    /// The same straight from memory.
    #[inline(always)]
    fn splat_float_from(self, value: &f32) -> Self::F {
        self.splat_float(*value)
    }
    fn add_float(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul_float(self, a: Self::F, b: Self::F) -> Self::F;
    fn max_float(self, a: Self::F, b: Self::F) -> Self::F;
    /// The lesser of two that are not negative.
    fn lesser_float(self, a: Self::F, b: Self::F) -> Self::F;
    fn raise_float(self, mask: Self::M, best: Self::F, score: Self::F) -> Self::F;
    fn equal_float(self, a: Self::F, b: Self::F) -> u16;
    fn load_float(self, values: &[f32; BLOCK]) -> Self::F;
    fn store_float(self, lanes: Self::F, values: &mut [f32; BLOCK]);
    /// The greatest of all lanes, and lanes that all hold it.
    #[inline(always)]
    fn spread_top(self, a: Self::V) -> (i32, Self::V) {
        let top = self.top(a);
        (top, self.splat(top))
    }
    /// The same of lanes of `f32`.
    #[inline(always)]
    fn spread_top_float(self, a: Self::F) -> (f32, Self::F) {
        let mut values = [0.0; BLOCK];
        self.store_float(a, &mut values);
        let mut top = values[0];
        for value in values {
            top = if value > top { value } else { top };
        }
        (top, self.splat_float(top))
    }

    fn widen(self, a: Self::V) -> Self::W;
    fn splat_wide(self, value: i64) -> Self::W;
    fn mul_wide(self, a: Self::V, b: Self::V) -> Self::W;
    fn add_wide(self, a: Self::W, b: Self::W) -> Self::W;
    fn max_wide(self, a: Self::W, b: Self::W) -> Self::W;
    fn raise_wide(self, mask: Self::M, best: Self::W, score: Self::W) -> Self::W;
    /// A bit for each lane, in the order of the others.
    fn equal_wide(self, a: Self::W, b: Self::W) -> u16;
    fn load_wide(self, values: &[i64; BLOCK]) -> Self::W;
    /// In the order that [`DenseLanes::load_wide`] has them in.
    fn store_wide(self, lanes: Self::W, values: &mut [i64; BLOCK]);

    /// Whole tokens: halves round away from zero, as [`f32::round`] does.
    fn round(self, a: Self::F) -> Self::V;
    /// The values at `offset + worker`, zero where that is past the end.
    fn gather(self, matrix: &[f32], offsets: &[i32; BLOCK], worker: u32) -> Self::F;
    /// Low and high half of the words at `row * stride + word`; all bits where that is past the end.
    #[inline(always)]
    fn gather_words(self, words: &[u64], stride: usize, word: usize, rows: &[u32; BLOCK]) -> [Self::V; 2] {
        let mut halves = [[0; BLOCK]; 2];
        for (lane, &row) in rows.iter().enumerate() {
            let bits = words.get(row as usize * stride + word).copied().unwrap_or(u64::MAX);
            (halves[0][lane], halves[1][lane]) = (bits as i32, (bits >> 32) as i32);
        }
        [self.load(&halves[0]), self.load(&halves[1])]
    }
    /// Widens half-precision values, given as bits, exactly.
    fn widen_halves(self, values: &[u16; BLOCK]) -> Self::F;
}

/// The values at `offset + worker` by plain loads; the default value where that is past the end.
#[inline(always)]
pub(crate) fn gather<T: Copy, U: Copy + Default>(
    matrix: &[T],
    offsets: &[i32; BLOCK],
    worker: u32,
    of: impl Fn(T) -> U,
) -> [U; BLOCK] {
    let mut values = [U::default(); BLOCK];
    for (value, &offset) in values.iter_mut().zip(offsets) {
        let at = offset as u32 as usize + worker as usize;
        *value = matrix.get(at).map_or(U::default(), |&value| of(value));
    }
    values
}

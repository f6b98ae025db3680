//! The few vector operations that the kernels are made of: [`BLOCK`] lanes of `i32`, wrapping.
//!
//! Every kernel is written once over [`Lanes`]; an instruction set is a file in `arch` that implements it.

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
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V;
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.max(a, self.sub(self.splat(0), a))
    }

    /// A bit for each lane with `a > b`.
    fn greater(self, a: Self::V, b: Self::V) -> u16;
    /// A bit for each lane of the mask with `a <= b`.
    #[inline(always)]
    fn at_most(self, mask: u16, a: Self::V, b: Self::V) -> u16 {
        mask & !self.greater(a, b)
    }
    /// A bit for each lane with `a == b`.
    fn equal(self, a: Self::V, b: Self::V) -> u16;

    /// The lanes in a mask, and the least value elsewhere.
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V;
    /// The scores of requests whose word has the worker's bit and that are at most `longest` tokens long; the
    /// least value elsewhere.
    fn admit(self, scores: Self::V, words: Self::V, bit: i32, tokens: Self::V, longest: i32) -> Self::V;
    /// The lanes that lie below others, and the greatest value elsewhere.
    fn lift(self, a: Self::V, b: Self::V) -> Self::V;
    /// Replaces one lane.
    fn put(self, lanes: Self::V, lane: usize, value: i32) -> Self::V;
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

    /// Each lane and all before it, added up.
    #[inline(always)]
    fn running(self, lanes: Self::V) -> Self::V {
        let (mut sums, mut sum) = ([0; BLOCK], 0i32);
        self.store(lanes, &mut sums);
        for value in &mut sums {
            sum = sum.wrapping_add(*value);
            *value = sum;
        }
        self.load(&sums)
    }

    /// The greatest of all lanes.
    fn top(self, lanes: Self::V) -> i32;
    /// The greatest of either.
    #[inline(always)]
    fn tops(self, a: Self::V, b: Self::V) -> (i32, i32) {
        (self.top(a), self.top(b))
    }
    /// The greatest of the lanes in a mask that is not empty.
    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        self.top(self.keep(lanes, mask))
    }

    /// Hides from the compiler where a value came from, for measurements: what is timed is then not worked
    /// out beforehand. It costs nothing where an instruction set says so itself.
    #[inline(always)]
    fn opaque(self, lanes: Self::V) -> Self::V {
        std::hint::black_box(lanes)
    }

    /// [`Age::tokens`] of how often each was passed, where these and the ages are below 2^31.
    fn ages(self, passed: &[u32; BLOCK], age: Age) -> Self::V;
    /// Bonuses in whole tokens: halves round away from zero, as [`f32::round`] does.
    fn round(self, bonuses: &[f32; BLOCK]) -> Self::V;
    /// [`Lanes::round`] of half-precision bonuses, given as bits: widened exactly before.
    fn round_halves(self, bonuses: &[u16; BLOCK]) -> Self::V;
    /// [`Lanes::round`] of the bonuses at `offset + worker`, zero where that is past the end.
    #[inline(always)]
    fn gather(self, matrix: &[f32], offsets: &[i32; BLOCK], worker: u32) -> Self::V {
        self.round(&gather(matrix, offsets, worker, |bonus| bonus))
    }
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

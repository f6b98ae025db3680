//! The few vector operations that the kernels are made of: [`BLOCK`] lanes of `i32`, wrapping.

use crate::pool::BLOCK;
use crate::score::Age;

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
    /// A bit for each lane with `a == b`.
    fn equal(self, a: Self::V, b: Self::V) -> u16;
    /// The greatest of the lanes in a mask that is not empty.
    fn greatest(self, lanes: Self::V, mask: u16) -> i32;
    /// [`Age::tokens`] of `now_step - enqueued`, where both the waits and the ages are below 2^31.
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V;

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.max(a, self.sub(self.splat(0), a))
    }
}

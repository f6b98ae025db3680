//! The target's baseline: lanes are an array, and the compiler makes of it what it can.

use crate::backend::cpu::lanes::Lanes;
use crate::backend::cpu::{Isa, Kernels, column, exchange, loads};
use crate::pool::BLOCK;
use crate::score::Age;

#[derive(Clone, Copy)]
pub(super) struct Scalar;

static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    begin: |ordered, age, unit, marks| column::begin(Scalar, ordered, age, unit, marks),
    search: |ordered, query, marks| column::search(Scalar, ordered, query, marks),
    next_exchange: |pairs, from| exchange::next(Scalar, pairs, from),
    top: |values| loads::top(values),
    sum_and_max: |values| loads::sum_and_max(values),
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
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        mask(|lane| a[lane] == b[lane])
    }

    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        let kept = each(|lane| if mask >> lane & 1 == 1 { lanes[lane] } else { i32::MIN });
        kept.into_iter().fold(i32::MIN, i32::max)
    }

    #[inline(always)]
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V {
        each(|lane| age.tokens(now_step.wrapping_sub(enqueued[lane])) as i32)
    }
}

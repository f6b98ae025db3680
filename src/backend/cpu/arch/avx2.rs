//! x86-64 with AVX2: two registers hold a block.

use std::arch::x86_64::*;

use super::instantiate;
use crate::backend::cpu::column::{self, Found, Marks, Query};
use crate::backend::cpu::exchange::{self, Pairs, Place};
use crate::backend::cpu::lanes::Lanes;
use crate::backend::cpu::loads::{self, Top};
use crate::backend::cpu::{Isa, Kernels};
use crate::pool::{BLOCK, Ordered};
use crate::score::{Age, MAX_AGE_TOKENS};

instantiate!(Isa::Avx2, Avx2::new_unchecked(), "avx2,bmi1,bmi2,lzcnt,popcnt");

pub(in crate::backend::cpu) fn kernels() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    found.then_some(&KERNELS)
}

/// Exists only where the CPU has the features of the table above; every SAFETY line below leans on that.
#[derive(Clone, Copy)]
struct Avx2(());

impl Avx2 {
    #[target_feature(enable = "avx2")]
    fn new_unchecked() -> Self {
        Self(())
    }

    #[inline(always)]
    fn mask(self, [low, high]: [__m256i; 2]) -> u16 {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_castsi256_ps(low)) as u16;
            let high = _mm256_movemask_ps(_mm256_castsi256_ps(high)) as u16;
            low | high << 8
        }
    }

    #[inline(always)]
    fn four_ages(self, waited: __m128i, age: Age) -> __m128i {
        // SAFETY: the CPU has AVX2. Multiplications and the addition stay apart: nothing fuses them.
        unsafe {
            let waited = _mm256_cvtepi32_pd(waited);
            let linear = _mm256_mul_pd(_mm256_set1_pd(age.linear), waited);
            let square = _mm256_mul_pd(waited, waited);
            let age = _mm256_add_pd(linear, _mm256_mul_pd(_mm256_set1_pd(age.quadratic), square));
            let age = _mm256_min_pd(age, _mm256_set1_pd(MAX_AGE_TOKENS));
            _mm256_cvttpd_epi32(_mm256_floor_pd(age))
        }
    }
}

impl Lanes for Avx2 {
    type V = [__m256i; 2];

    #[inline(always)]
    fn splat(self, value: i32) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn load(self, values: &[i32; BLOCK]) -> Self::V {
        let at = values.as_ptr().cast::<__m256i>();
        // SAFETY: the CPU has AVX2, and the array is two registers long; no alignment is asked for.
        unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
    }

    #[inline(always)]
    fn load_unsigned(self, values: &[u32; BLOCK]) -> Self::V {
        let at = values.as_ptr().cast::<__m256i>();
        // SAFETY: as in `load`.
        unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
    }

    #[inline(always)]
    fn store(self, [low, high]: Self::V, values: &mut [i32; BLOCK]) {
        let at = values.as_mut_ptr().cast::<__m256i>();
        // SAFETY: as in `load`.
        unsafe {
            _mm256_storeu_si256(at, low);
            _mm256_storeu_si256(at.add(1), high);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_max_epi32(a[0], b[0]), _mm256_max_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_min_epi32(a[0], b[0]), _mm256_min_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX2.
        self.mask(unsafe { [_mm256_cmpgt_epi32(a[0], b[0]), _mm256_cmpgt_epi32(a[1], b[1])] })
    }

    #[inline(always)]
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX2.
        self.mask(unsafe { [_mm256_cmpeq_epi32(a[0], b[0]), _mm256_cmpeq_epi32(a[1], b[1])] })
    }

    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        let mut values = [0; BLOCK];
        self.store(lanes, &mut values);
        let (mut mask, mut greatest) = (mask, i32::MIN);
        while mask != 0 {
            greatest = greatest.max(values[mask.trailing_zeros() as usize]);
            mask &= mask - 1;
        }
        greatest
    }

    #[inline(always)]
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V {
        let [first, second] = self.sub(self.splat(now_step as i32), self.load_unsigned(enqueued));
        // SAFETY: the CPU has AVX2.
        unsafe {
            let a = self.four_ages(_mm256_castsi256_si128(first), age);
            let b = self.four_ages(_mm256_extracti128_si256::<1>(first), age);
            let c = self.four_ages(_mm256_castsi256_si128(second), age);
            let d = self.four_ages(_mm256_extracti128_si256::<1>(second), age);
            [
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d),
            ]
        }
    }
}

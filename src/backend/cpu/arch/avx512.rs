//! x86-64 with AVX-512: one register holds a block.

use std::arch::x86_64::*;

use super::instantiate;
use crate::backend::cpu::column::{self, Found, Marks, Query};
use crate::backend::cpu::exchange::{self, Pairs, Place};
use crate::backend::cpu::lanes::Lanes;
use crate::backend::cpu::loads::{self, Top};
use crate::backend::cpu::{Isa, Kernels};
use crate::pool::{BLOCK, Ordered};
use crate::score::{Age, MAX_AGE_TOKENS};

instantiate!(
    Isa::Avx512,
    Avx512::new_unchecked(),
    "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,lzcnt,popcnt"
);

pub(in crate::backend::cpu) fn kernels() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    found.then_some(&KERNELS)
}

/// Exists only where the CPU has the features of the table above; every SAFETY line below leans on that.
#[derive(Clone, Copy)]
struct Avx512(());

impl Avx512 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new_unchecked() -> Self {
        Self(())
    }

    #[inline(always)]
    fn eight_ages(self, waited: __m256i, age: Age) -> __m256i {
        // SAFETY: the CPU has AVX-512. Multiplications and the addition stay apart: nothing fuses them.
        unsafe {
            let waited = _mm512_cvtepi32_pd(waited);
            let linear = _mm512_mul_pd(_mm512_set1_pd(age.linear), waited);
            let square = _mm512_mul_pd(waited, waited);
            let age = _mm512_add_pd(linear, _mm512_mul_pd(_mm512_set1_pd(age.quadratic), square));
            let age = _mm512_min_pd(age, _mm512_set1_pd(MAX_AGE_TOKENS));
            _mm512_cvt_roundpd_epi32::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(age)
        }
    }
}

impl Lanes for Avx512 {
    type V = __m512i;

    #[inline(always)]
    fn splat(self, value: i32) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn load(self, values: &[i32; BLOCK]) -> Self::V {
        // SAFETY: the CPU has AVX-512, and the array is 64 bytes; no alignment is asked for.
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_unsigned(self, values: &[u32; BLOCK]) -> Self::V {
        // SAFETY: as in `load`.
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, lanes: Self::V, values: &mut [i32; BLOCK]) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), lanes) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_min_epi32(a, b) }
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_cmpgt_epi32_mask(a, b) }
    }

    #[inline(always)]
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_cmpeq_epi32_mask(a, b) }
    }

    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_reduce_max_epi32(mask, lanes) }
    }

    #[inline(always)]
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V {
        let waited = self.sub(self.splat(now_step as i32), self.load_unsigned(enqueued));
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let low = self.eight_ages(_mm512_castsi512_si256(waited), age);
            let high = self.eight_ages(_mm512_extracti64x4_epi64::<1>(waited), age);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }
}

//! x86-64 with AVX2: two registers hold a block.

use std::arch::x86_64::*;

use super::{compiled, instantiate};
use crate::backend::cpu::column::{self, Found, Marks, Query};
use crate::backend::cpu::dense::{self, Best, Edges, Hit, Plain, Rows, SortedKnots, Span, TooWide};
use crate::backend::cpu::lanes::{Block, Lanes};
use crate::backend::cpu::level::{self, Chain};
use crate::backend::cpu::levels;
use crate::backend::cpu::loads::{self, LoadKernels, Top};
use crate::backend::cpu::swap::{self, Swap};
use crate::backend::cpu::{ChainKernels, Far, Isa, Kernels};
use crate::batch::Bonuses;
use crate::pool::{BLOCK, Ordered};
use crate::score::{Age, Profile};

#[cfg(not(miri))]
instantiate!(Isa::Avx2, Avx2::new_unchecked(), "avx2,f16c,bmi1,bmi2,lzcnt,popcnt", 2, Far::VECTORS);
// Miri interprets everything here but the conversion of half-precision values.
#[cfg(miri)]
instantiate!(Isa::Avx2, Avx2::new_unchecked(), "avx2,bmi1,bmi2,lzcnt,popcnt", 2, Far::VECTORS);

pub(in crate::backend::cpu) fn kernels() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx2")
        && (cfg!(miri) || is_x86_feature_detected!("f16c"))
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
            let square = _mm256_mul_pd(waited, waited);
            let mut tokens = _mm256_mul_pd(_mm256_set1_pd(age.quadratic), square);
            // Level has no linear term, and skipping it shortens the chain. No age in these lanes reaches the
            // greatest.
            if age.linear != 0.0 {
                tokens = _mm256_add_pd(_mm256_mul_pd(_mm256_set1_pd(age.linear), waited), tokens);
            }
            _mm256_cvttpd_epi32(_mm256_floor_pd(tokens))
        }
    }

    #[inline(always)]
    fn eight_running(self, lanes: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let lanes = _mm256_add_epi32(lanes, _mm256_slli_si256::<4>(lanes));
            let lanes = _mm256_add_epi32(lanes, _mm256_slli_si256::<8>(lanes));
            // What the lower half ends with belongs to all of the upper one.
            let ends = _mm256_shuffle_epi32::<0b11_11_11_11>(lanes);
            _mm256_add_epi32(lanes, _mm256_permute2x128_si256::<0x08>(ends, ends))
        }
    }

    #[inline(always)]
    fn round_away(self, values: __m256) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe {
            // The greatest number below a half. With a half itself, what lies just below one half would round
            // up.
            let half = _mm256_set1_ps(0.5f32.next_down());
            let sign = _mm256_and_ps(values, _mm256_set1_ps(-0.0));
            _mm256_cvttps_epi32(_mm256_add_ps(values, _mm256_or_ps(half, sign)))
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
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [_mm256_sll_epi32(a[0], bits), _mm256_sll_epi32(a[1], bits)]
        }
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
    fn keep(self, [low, high]: Self::V, mask: u16) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let (mask, none) = (_mm256_set1_epi32(i32::from(mask)), _mm256_set1_epi32(i32::MIN));
            let first = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let second = _mm256_slli_epi32::<8>(first);
            let in_first = _mm256_cmpeq_epi32(_mm256_and_si256(mask, first), first);
            let in_second = _mm256_cmpeq_epi32(_mm256_and_si256(mask, second), second);
            [_mm256_blendv_epi8(none, low, in_first), _mm256_blendv_epi8(none, high, in_second)]
        }
    }

    #[inline(always)]
    fn admit(self, scores: Self::V, words: Self::V, bit: i32, tokens: Self::V, longest: i32) -> Self::V {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe {
            let (bit, longest) = (_mm256_set1_epi32(bit), _mm256_set1_epi32(longest));
            let has = _mm256_cmpeq_epi32(_mm256_and_si256(words[at], bit), bit);
            let may = _mm256_andnot_si256(_mm256_cmpgt_epi32(tokens[at], longest), has);
            _mm256_blendv_epi8(_mm256_set1_epi32(i32::MIN), scores[at], may)
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn lift(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe {
            let below = _mm256_cmpgt_epi32(b[at], a[at]);
            _mm256_blendv_epi8(_mm256_set1_epi32(i32::MAX), a[at], below)
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn put(self, [low, high]: Self::V, lane: usize, value: i32) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let (lane, value) = (_mm256_set1_epi32(lane as i32), _mm256_set1_epi32(value));
            let first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let second = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            [
                _mm256_blendv_epi8(low, value, _mm256_cmpeq_epi32(lane, first)),
                _mm256_blendv_epi8(high, value, _mm256_cmpeq_epi32(lane, second)),
            ]
        }
    }

    #[inline(always)]
    fn running(self, [low, high]: Self::V) -> Self::V {
        let (low, high) = (self.eight_running(low), self.eight_running(high));
        // SAFETY: the CPU has AVX2.
        unsafe { [low, _mm256_add_epi32(high, _mm256_permutevar8x32_epi32(low, _mm256_set1_epi32(7)))] }
    }

    #[inline(always)]
    fn top(self, [low, high]: Self::V) -> i32 {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let eight = _mm256_max_epi32(low, high);
            let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
        }
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
    fn ages(self, passed: &[u32; BLOCK], age: Age) -> Self::V {
        let [first, second] = self.load_unsigned(passed);
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

    #[inline(always)]
    fn round(self, bonuses: &[f32; BLOCK]) -> Self::V {
        let at = bonuses.as_ptr();
        // SAFETY: the CPU has AVX2, and the array is two registers long.
        unsafe {
            let (low, high) = (_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(BLOCK / 2)));
            [self.round_away(low), self.round_away(high)]
        }
    }

    #[inline(always)]
    fn round_halves(self, bonuses: &[u16; BLOCK]) -> Self::V {
        if cfg!(miri) {
            return self.round(&bonuses.map(|bits| half::f16::from_bits(bits).to_f32()));
        }
        let at = bonuses.as_ptr().cast::<__m128i>();
        // SAFETY: the CPU has F16C, and the array is two half registers long.
        unsafe {
            let (low, high) = (_mm_loadu_si128(at), _mm_loadu_si128(at.add(1)));
            [self.round_away(_mm256_cvtph_ps(low)), self.round_away(_mm256_cvtph_ps(high))]
        }
    }
}

//! x86-64 with AVX2: two registers hold a block.

use std::arch::x86_64::*;

use super::instantiate;
use crate::backend::cpu::column::{self, Found, Marks, Query};
use crate::backend::cpu::dense::{self, Best, Kept, Query as DenseQuery, Rows, Tier};
use crate::backend::cpu::lanes::{Block, DenseLanes, Lanes, gather};
use crate::backend::cpu::level::{self, Chain};
use crate::backend::cpu::loads::{self, LoadKernels, Top};
use crate::backend::cpu::swap::{self, Swap};
use crate::backend::cpu::{Far, Isa, Kernels};
use crate::batch::Bonuses;
use crate::pool::{BLOCK, Ordered};
use crate::score::{Age, Profile};

#[cfg(not(miri))]
instantiate!(
    KERNELS,
    Isa::Avx2,
    Avx2::new_unchecked(),
    "avx2,f16c,bmi1,bmi2,lzcnt,popcnt",
    (2, 1),
    TIERS,
    Far::VECTORS
);
// Miri interprets everything here but the conversion of half-precision values.
#[cfg(miri)]
instantiate!(
    KERNELS,
    Isa::Avx2,
    Avx2::new_unchecked(),
    "avx2,bmi1,bmi2,lzcnt,popcnt",
    (2, 1),
    TIERS,
    Far::VECTORS
);

const TIERS: &[Tier] = &[Tier::Dot, Tier::I32, Tier::I64];

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
            // level adds nothing here and would wait for it; nor does anybody in these lanes reach the greatest age.
            if age.linear != 0.0 {
                tokens = _mm256_add_pd(_mm256_mul_pd(_mm256_set1_pd(age.linear), waited), tokens);
            }
            _mm256_cvttpd_epi32(_mm256_floor_pd(tokens))
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
    fn at_most(self, mask: u16, a: Self::V, b: Self::V) -> u16 {
        mask & !self.greater(a, b)
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
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [_mm256_sll_epi32(a[0], bits), _mm256_sll_epi32(a[1], bits)]
        }
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

impl Avx2 {
    #[target_feature(enable = "avx2")]
    fn hide([mut low, mut high]: [__m256i; 2]) -> [__m256i; 2] {
        if cfg!(miri) {
            return [low, high];
        }
        // SAFETY: no instruction at all.
        unsafe {
            std::arch::asm!(
                "/* {0} {1} */", inout(ymm_reg) low, inout(ymm_reg) high,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        [low, high]
    }

    #[inline(always)]
    fn round_away(self, values: __m256) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe {
            // The greatest number below a half: with a half itself, what lies just below one half would round up in the sum.
            let half = _mm256_set1_ps(0.5f32.next_down());
            let sign = _mm256_and_ps(values, _mm256_set1_ps(-0.0));
            _mm256_cvttps_epi32(_mm256_add_ps(values, _mm256_or_ps(half, sign)))
        }
    }

    /// Sign-extends lanes with even index.
    #[inline(always)]
    fn even(self, a: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2. AVX2 shifts no signs through 64 bits; a product with one extends them.
        unsafe { _mm256_mul_epi32(a, _mm256_set1_epi64x(1)) }
    }

    /// Lanes with odd index, in the low half of each pair.
    #[inline(always)]
    fn odd(self, a: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_srli_epi64::<32>(a) }
    }
}

impl DenseLanes for Avx2 {
    type M = [__m256i; 2];
    type F = [__m256; 2];
    /// Of each half lanes with even index, lanes with odd index.
    type W = [__m256i; 4];

    #[inline(always)]
    fn allowed(self, words: Self::V, bit: Self::V, tokens: Self::V, longest: Self::V) -> Self::M {
        let has = self.has(words, bit);
        // SAFETY: the CPU has AVX2.
        let half =
            |at: usize| unsafe { _mm256_andnot_si256(_mm256_cmpgt_epi32(tokens[at], longest[at]), has[at]) };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn has(self, words: Self::V, bit: Self::V) -> Self::M {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe { _mm256_cmpeq_epi32(_mm256_and_si256(words[at], bit[at]), bit[at]) };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn bits(self, mask: Self::M) -> u16 {
        self.mask(mask)
    }

    #[inline(always)]
    fn raise(self, mask: Self::M, best: Self::V, score: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe {
            _mm256_blendv_epi8(best[at], _mm256_max_epi32(best[at], score[at]), mask[at])
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn min_halves(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_min_epi16(a[0], b[0]), _mm256_min_epi16(a[1], b[1])] }
    }

    #[inline(always)]
    fn dot(self, sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe { _mm256_add_epi32(sum[at], _mm256_madd_epi16(a[at], b[at])) };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn opaque(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX2.
        unsafe { Self::hide(a) }
    }

    #[inline(always)]
    fn float(self, a: Self::V) -> Self::F {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }

    #[inline(always)]
    fn splat_float(self, value: f32) -> Self::F {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn add_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn lesser_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX2. The bits of what is not negative are ordered as it is, and more units compare integers.
        let half = |at: usize| unsafe {
            let bits = |a: __m256| _mm256_castps_si256(a);
            _mm256_castsi256_ps(_mm256_min_epi32(bits(a[at]), bits(b[at])))
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn raise_float(self, mask: Self::M, best: Self::F, score: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe {
            _mm256_blendv_ps(best[at], _mm256_max_ps(best[at], score[at]), _mm256_castsi256_ps(mask[at]))
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn equal_float(self, a: Self::F, b: Self::F) -> u16 {
        // SAFETY: the CPU has AVX2.
        let half = |at: usize| unsafe { _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(a[at], b[at])) };
        self.mask([half(0), half(1)])
    }

    #[inline(always)]
    fn load_float(self, values: &[f32; BLOCK]) -> Self::F {
        // SAFETY: as in `load`.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(BLOCK / 2))] }
    }

    #[inline(always)]
    fn store_float(self, [low, high]: Self::F, values: &mut [f32; BLOCK]) {
        // SAFETY: as in `load`.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), low);
            _mm256_storeu_ps(values.as_mut_ptr().add(BLOCK / 2), high);
        }
    }

    #[inline(always)]
    fn widen(self, a: Self::V) -> Self::W {
        [self.even(a[0]), self.even(self.odd(a[0])), self.even(a[1]), self.even(self.odd(a[1]))]
    }

    #[inline(always)]
    fn splat_wide(self, value: i64) -> Self::W {
        // SAFETY: the CPU has AVX2.
        unsafe { [_mm256_set1_epi64x(value); 4] }
    }

    #[inline(always)]
    fn mul_wide(self, a: Self::V, b: Self::V) -> Self::W {
        // SAFETY: the CPU has AVX2.
        let product = |a: __m256i, b: __m256i| unsafe { _mm256_mul_epi32(a, b) };
        [
            product(a[0], b[0]),
            product(self.odd(a[0]), self.odd(b[0])),
            product(a[1], b[1]),
            product(self.odd(a[1]), self.odd(b[1])),
        ]
    }

    #[inline(always)]
    fn add_wide(self, a: Self::W, b: Self::W) -> Self::W {
        // SAFETY: the CPU has AVX2.
        let quarter = |at: usize| unsafe { _mm256_add_epi64(a[at], b[at]) };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }

    #[inline(always)]
    fn max_wide(self, a: Self::W, b: Self::W) -> Self::W {
        // SAFETY: the CPU has AVX2.
        let quarter =
            |at: usize| unsafe { _mm256_blendv_epi8(b[at], a[at], _mm256_cmpgt_epi64(a[at], b[at])) };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }

    #[inline(always)]
    fn raise_wide(self, mask: Self::M, best: Self::W, score: Self::W) -> Self::W {
        // SAFETY: the CPU has AVX2.
        let quarter = |at: usize| unsafe {
            let half = mask[at / 2];
            let pairs = if at.is_multiple_of(2) {
                _mm256_shuffle_epi32::<0xa0>(half)
            } else {
                _mm256_shuffle_epi32::<0xf5>(half)
            };
            let above = _mm256_and_si256(pairs, _mm256_cmpgt_epi64(score[at], best[at]));
            _mm256_blendv_epi8(best[at], score[at], above)
        };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }

    #[inline(always)]
    fn equal_wide(self, a: Self::W, b: Self::W) -> u16 {
        // SAFETY: the CPU has AVX2 and BMI2.
        let quarter = |at: usize| unsafe {
            let equal = _mm256_castsi256_pd(_mm256_cmpeq_epi64(a[at], b[at]));
            _pdep_u32(_mm256_movemask_pd(equal) as u32, 0x55 << (at % 2)) << (at / 2 * 8)
        };
        (quarter(0) | quarter(1) | quarter(2) | quarter(3)) as u16
    }

    #[inline(always)]
    fn load_wide(self, values: &[i64; BLOCK]) -> Self::W {
        // SAFETY: the CPU has AVX2, and a quarter of the array is 32 bytes.
        let quarter = |at: usize| unsafe { _mm256_loadu_si256(values.as_ptr().add(at * BLOCK / 4).cast()) };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }

    #[inline(always)]
    fn store_wide(self, lanes: Self::W, values: &mut [i64; BLOCK]) {
        for (at, lanes) in lanes.into_iter().enumerate() {
            // SAFETY: as in `load_wide`.
            unsafe { _mm256_storeu_si256(values.as_mut_ptr().add(at * BLOCK / 4).cast(), lanes) };
        }
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::V {
        [self.round_away(a[0]), self.round_away(a[1])]
    }

    #[inline(always)]
    fn gather(self, matrix: &[f32], offsets: &[i32; BLOCK], worker: u32) -> Self::F {
        let values = gather(matrix, offsets, worker, |value| value);
        // SAFETY: the CPU has AVX2, and the array is two registers long.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(BLOCK / 2))] }
    }

    #[inline(always)]
    fn widen_halves(self, values: &[u16; BLOCK]) -> Self::F {
        if cfg!(miri) {
            let wide = values.map(|bits| half::f16::from_bits(bits).to_f32());
            // SAFETY: as in `gather`.
            return unsafe {
                [_mm256_loadu_ps(wide.as_ptr()), _mm256_loadu_ps(wide.as_ptr().add(BLOCK / 2))]
            };
        }
        let at = values.as_ptr().cast::<__m128i>();
        // SAFETY: the CPU has F16C, and the array is two half registers long.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))] }
    }
}

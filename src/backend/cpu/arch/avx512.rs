//! x86-64 with AVX-512: one register holds a block.

use std::arch::x86_64::*;

use super::{compiled, instantiate};
use crate::backend::cpu::column::{self, Found, Marks, Query};
use crate::backend::cpu::dense::{self, Best, Edges, Hit, Plain, Rows, SortedKnots, Span, TooWide};
use crate::backend::cpu::lanes::{Block, Lanes, gather};
use crate::backend::cpu::level::{self, Chain};
use crate::backend::cpu::levels;
use crate::backend::cpu::loads::{self, LoadKernels, Top};
use crate::backend::cpu::swap::{self, Swap};
use crate::backend::cpu::{ChainKernels, Far, Isa, Kernels};
use crate::batch::Bonuses;
use crate::pool::{BLOCK, Ordered};
use crate::score::{Age, Profile};

instantiate!(
    Isa::Avx512,
    Avx512::new_unchecked(),
    "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,lzcnt,popcnt",
    4,
    Far::VECTORS
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

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn hide(mut lanes: __m512i) -> __m512i {
        // No instruction: the value stays where it is.
        // SAFETY: nothing is read or written.
        unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) lanes, options(pure, nomem, nostack)) };
        lanes
    }

    #[inline(always)]
    fn halves(self, a: __m512i) -> __m256i {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64::<1>(a)) }
    }

    #[inline(always)]
    fn eight_ages(self, waited: __m256i, age: Age) -> __m256i {
        // SAFETY: the CPU has AVX-512. Multiplications and the addition stay apart: nothing fuses them.
        unsafe {
            let waited = _mm512_cvtepi32_pd(waited);
            let square = _mm512_mul_pd(waited, waited);
            let mut tokens = _mm512_mul_pd(_mm512_set1_pd(age.quadratic), square);
            // Level has no linear term, and skipping it shortens the chain. No age in these lanes reaches the
            // greatest.
            if age.linear != 0.0 {
                tokens = _mm512_add_pd(_mm512_mul_pd(_mm512_set1_pd(age.linear), waited), tokens);
            }
            _mm512_cvt_roundpd_epi32::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(tokens)
        }
    }

    #[inline(always)]
    fn round_away(self, values: __m512) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            // The greatest number below a half. With a half itself, what lies just below one half would round
            // up.
            let half = _mm512_set1_ps(0.5f32.next_down());
            let sign = _mm512_and_ps(values, _mm512_set1_ps(-0.0));
            _mm512_cvttps_epi32(_mm512_add_ps(values, _mm512_or_ps(half, sign)))
        }
    }

    #[inline(always)]
    fn narrow(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let low = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(a));
            _mm512_inserti64x4::<1>(low, _mm512_cvtepi64_epi32(b))
        }
    }

    #[inline(always)]
    fn odd(self, a: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_srli_epi64::<32>(a) }
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
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_slli_epi32::<BITS>(a) }
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_cmpgt_epi32_mask(a, b) }
    }

    #[inline(always)]
    fn at_most(self, mask: u16, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_cmple_epi32_mask(mask, a, b) }
    }

    #[inline(always)]
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_cmpeq_epi32_mask(a, b) }
    }

    #[inline(always)]
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::MIN), mask, lanes) }
    }

    #[inline(always)]
    fn admit(self, scores: Self::V, words: Self::V, bit: i32, tokens: Self::V, longest: i32) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let fits = _mm512_cmple_epi32_mask(tokens, _mm512_set1_epi32(longest));
            let may = _mm512_mask_test_epi32_mask(fits, words, _mm512_set1_epi32(bit));
            _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::MIN), may, scores)
        }
    }

    #[inline(always)]
    fn lift(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let below = _mm512_cmplt_epi32_mask(a, b);
            _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::MAX), below, a)
        }
    }

    #[inline(always)]
    fn put(self, lanes: Self::V, lane: usize, value: i32) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_set1_epi32(lanes, 1 << lane, value) }
    }

    #[inline(always)]
    fn compress(self, lanes: Self::V, mask: u16, into: &mut [i32; BLOCK]) {
        // SAFETY: the CPU has AVX-512. Straight into memory would be slow.
        self.store(unsafe { _mm512_maskz_compress_epi32(mask, lanes) }, into);
    }

    #[inline(always)]
    fn running(self, lanes: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let none = _mm512_setzero_si512();
            let lanes = _mm512_add_epi32(lanes, _mm512_alignr_epi32::<15>(lanes, none));
            let lanes = _mm512_add_epi32(lanes, _mm512_alignr_epi32::<14>(lanes, none));
            let lanes = _mm512_add_epi32(lanes, _mm512_alignr_epi32::<12>(lanes, none));
            _mm512_add_epi32(lanes, _mm512_alignr_epi32::<8>(lanes, none))
        }
    }

    #[inline(always)]
    fn top(self, lanes: Self::V) -> i32 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_reduce_max_epi32(lanes) }
    }

    #[inline(always)]
    fn tops(self, a: Self::V, b: Self::V) -> (i32, i32) {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(self.halves(a)), self.halves(b));
            let both = _mm512_max_epi32(both, _mm512_shuffle_i64x2::<0b10_11_00_01>(both, both));
            let both = _mm512_max_epi32(both, _mm512_shuffle_epi32::<0b01_00_11_10>(both));
            let both = _mm512_max_epi32(both, _mm512_shuffle_epi32::<0b10_11_00_01>(both));
            let second = _mm512_extracti64x4_epi64::<1>(both);
            (
                _mm_cvtsi128_si32(_mm512_castsi512_si128(both)),
                _mm_cvtsi128_si32(_mm256_castsi256_si128(second)),
            )
        }
    }

    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_reduce_max_epi32(mask, lanes) }
    }

    #[inline(always)]
    fn opaque(self, lanes: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { Self::hide(lanes) }
    }

    #[inline(always)]
    fn ages(self, passed: &[u32; BLOCK], age: Age) -> Self::V {
        // SAFETY: the CPU has AVX-512, and each half of the array is 32 bytes.
        unsafe {
            let from = passed.as_ptr();
            let low = _mm256_loadu_si256(from.cast());
            let high = _mm256_loadu_si256(from.add(BLOCK / 2).cast());
            let (low, high) = (self.eight_ages(low, age), self.eight_ages(high, age));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    #[inline(always)]
    fn round(self, bonuses: &[f32; BLOCK]) -> Self::V {
        // SAFETY: the CPU has AVX-512, and the array is 64 bytes.
        unsafe { self.round_away(_mm512_loadu_ps(bonuses.as_ptr())) }
    }

    #[inline(always)]
    fn round_halves(self, bonuses: &[u16; BLOCK]) -> Self::V {
        // SAFETY: the CPU has AVX-512, and the array is 32 bytes.
        unsafe { self.round_away(_mm512_cvtph_ps(_mm256_loadu_si256(bonuses.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn gather(self, matrix: &[f32], offsets: &[i32; BLOCK], worker: u32) -> Self::V {
        let Ok(end) = i32::try_from(matrix.len()) else {
            return self.round(&gather(matrix, offsets, worker, |bonus| bonus));
        };
        // SAFETY: the CPU has AVX-512. Only lanes whose index is in `0..end` are loaded, and these are not
        // negative as `i32`.
        unsafe {
            let (offsets, worker) = (self.load(offsets), worker as i32);
            let inside =
                _mm512_cmplt_epu32_mask(offsets, _mm512_set1_epi32(end.saturating_sub(worker).max(0)));
            let index = _mm512_add_epi32(offsets, _mm512_set1_epi32(worker));
            let bonuses = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), inside, index, matrix.as_ptr());
            self.round_away(bonuses)
        }
    }

    #[inline(always)]
    fn gather_words(self, words: &[u64], stride: usize, word: usize, rows: &[u32; BLOCK]) -> [Self::V; 2] {
        // A request without a row has one past the end of any matrix that fits the lanes.
        let whole = words.len() / stride.max(1);
        let (Ok(_), Ok(count)) = (i32::try_from(words.len()), i32::try_from(whole)) else {
            let at = rows.map(|row| row as usize * stride + word);
            let bits = at.map(|at| words.get(at).copied().unwrap_or(u64::MAX));
            return [
                self.load(&bits.map(|bits| bits as i32)),
                self.load(&bits.map(|bits| (bits >> 32) as i32)),
            ];
        };
        assert!(word < stride);
        // SAFETY: the CPU has AVX-512. Only lanes whose row is below `count` are loaded, whose `stride` words
        // are all there.
        unsafe {
            let rows = self.load_unsigned(rows);
            let inside = _mm512_cmplt_epu32_mask(rows, _mm512_set1_epi32(count));
            let at = self.add(self.mul(rows, self.splat(stride as i32)), self.splat(word as i32));
            let all = _mm512_set1_epi64(-1);
            let from = words.as_ptr().cast();
            let low = _mm512_castsi512_si256(at);
            let high = _mm512_extracti64x4_epi64::<1>(at);
            let low = _mm512_mask_i32gather_epi64::<8>(all, inside as __mmask8, low, from);
            let high = _mm512_mask_i32gather_epi64::<8>(all, (inside >> 8) as __mmask8, high, from);
            [self.narrow(low, high), self.narrow(self.odd(low), self.odd(high))]
        }
    }
}

//! x86-64 with AVX-512: one register holds a block.

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

instantiate!(
    KERNELS,
    Isa::Avx512,
    Avx512::<false>::new_unchecked(),
    "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,lzcnt,popcnt",
    (4, 4),
    TIERS,
    Far::VECTORS
);

instantiate!(
    VNNI_KERNELS,
    Isa::Avx512,
    Avx512::<true>::new_unchecked(),
    "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,lzcnt,popcnt,avx512vnni",
    (4, 4),
    TIERS,
    Far::VECTORS
);

const TIERS: &[Tier] = &[Tier::Dot, Tier::I32, Tier::I64];

pub(in crate::backend::cpu) fn kernels() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let best = if is_x86_feature_detected!("avx512vnni") { &VNNI_KERNELS } else { &KERNELS };
    found.then_some(best)
}

/// The table for CPUs without VNNI, on any that has the rest: for tests.
#[cfg(test)]
pub(in crate::backend::cpu) fn kernels_without_vnni() -> Option<&'static Kernels> {
    kernels().map(|_| &KERNELS)
}

/// Exists only where the CPU has the features of the table above; every SAFETY line below leans on that.
///
/// With `VNNI` it has the dot products that add up as they multiply: as exact as the two instructions that they replace, and faster
/// (measured, 16-bit lanes with a horizon of 16).
#[derive(Clone, Copy)]
struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new_unchecked() -> Self {
        Self(())
    }

    /// The greater of each lane and the one eight further on.
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
            // level adds nothing here and would wait for it; nor does anybody in these lanes reach the greatest age.
            if age.linear != 0.0 {
                tokens = _mm512_add_pd(_mm512_mul_pd(_mm512_set1_pd(age.linear), waited), tokens);
            }
            _mm512_cvt_roundpd_epi32::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(tokens)
        }
    }
}

impl<const VNNI: bool> Lanes for Avx512<VNNI> {
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
    fn compress(self, lanes: Self::V, mask: u16, into: &mut [i32; BLOCK]) {
        // SAFETY: the CPU has AVX-512. Straight into memory would be slow.
        self.store(unsafe { _mm512_maskz_compress_epi32(mask, lanes) }, into);
    }

    #[inline(always)]
    fn greatest(self, lanes: Self::V, mask: u16) -> i32 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_reduce_max_epi32(mask, lanes) }
    }

    #[inline(always)]
    fn put(self, lanes: Self::V, lane: usize, value: i32) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_set1_epi32(lanes, 1 << lane, value) }
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
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::MIN), mask, lanes) }
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_slli_epi32::<BITS>(a) }
    }

    #[inline(always)]
    fn ages(self, now_step: u32, enqueued: &[u32; BLOCK], age: Age) -> Self::V {
        // SAFETY: the CPU has AVX-512, and each half of the array is 32 bytes.
        unsafe {
            let (now, from) = (_mm256_set1_epi32(now_step as i32), enqueued.as_ptr());
            let low = _mm256_sub_epi32(now, _mm256_loadu_si256(from.cast()));
            let high = _mm256_sub_epi32(now, _mm256_loadu_si256(from.add(BLOCK / 2).cast()));
            let (low, high) = (self.eight_ages(low, age), self.eight_ages(high, age));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }
}

impl<const VNNI: bool> Avx512<VNNI> {
    #[target_feature(enable = "avx512f")]
    fn hide(mut a: __m512i) -> __m512i {
        // SAFETY: no instruction at all.
        unsafe {
            std::arch::asm!("/* {0} */", inout(zmm_reg) a, options(pure, nomem, nostack, preserves_flags))
        };
        a
    }

    /// Broadcast as the integer that its bits are: compilers broadcast a float, which takes a unit from those that add and multiply (measured on
    /// Zen 4).
    #[target_feature(enable = "avx512f")]
    fn broadcast(from: &f32) -> __m512 {
        let lanes;
        // SAFETY: reads what the reference points at, and nothing else.
        unsafe {
            std::arch::asm!(
                "vpbroadcastd {0}, dword ptr [{1}]", out(zmm_reg) lanes, in(reg) from,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        lanes
    }

    /// One instruction: compilers that see the pattern take two.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn shuffle_bytes(a: __m512i, pattern: __m512i) -> __m512i {
        let lanes;
        // SAFETY: registers only.
        unsafe {
            std::arch::asm!(
                "vpshufb {0}, {1}, {2}", lateout(zmm_reg) lanes, in(zmm_reg) a, in(zmm_reg) pattern,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        lanes
    }

    /// One instruction: compilers take it apart at the end of a loop that they unroll. The CPU must have VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn add_dot(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {0}, {1}, {2}", inout(zmm_reg) sum, in(zmm_reg) a, in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }

    /// The greater where the mask says so, in one instruction: compilers take two.
    #[target_feature(enable = "avx512f")]
    fn raise_in_place(mask: __mmask16, mut best: __m512, score: __m512) -> __m512 {
        // SAFETY: registers only.
        unsafe {
            std::arch::asm!(
                "vmaxps {0}{{{2}}}, {0}, {1}", inout(zmm_reg) best, in(zmm_reg) score, in(kreg) mask,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        best
    }

    #[inline(always)]
    fn round_away(self, values: __m512) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            // The greatest number below a half: with a half itself, what lies just below one half would round up in the sum.
            let half = _mm512_set1_ps(0.5f32.next_down());
            let sign = _mm512_and_ps(values, _mm512_set1_ps(-0.0));
            _mm512_cvttps_epi32(_mm512_add_ps(values, _mm512_or_ps(half, sign)))
        }
    }

    /// The low halves of sixteen lanes of 64 bits.
    #[inline(always)]
    fn narrow(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let low = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(a));
            _mm512_inserti64x4::<1>(low, _mm512_cvtepi64_epi32(b))
        }
    }

    /// Lanes with odd index, in the low half of each pair.
    #[inline(always)]
    fn odd(self, a: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_srli_epi64::<32>(a) }
    }
}

impl<const VNNI: bool> DenseLanes for Avx512<VNNI> {
    type M = __mmask16;
    type F = __m512;
    /// Lanes with even index, lanes with odd index.
    type W = [__m512i; 2];

    #[inline(always)]
    fn allowed(self, words: Self::V, bit: Self::V, tokens: Self::V, longest: Self::V) -> Self::M {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_test_epi32_mask(_mm512_cmple_epi32_mask(tokens, longest), words, bit) }
    }

    #[inline(always)]
    fn has(self, words: Self::V, bit: Self::V) -> Self::M {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_test_epi32_mask(words, bit) }
    }

    #[inline(always)]
    fn bits(self, mask: Self::M) -> u16 {
        mask
    }

    #[inline(always)]
    fn raise(self, mask: Self::M, best: Self::V, score: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mask_max_epi32(best, mask, best, score) }
    }

    #[inline(always)]
    fn twice(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            Self::shuffle_bytes(
                a,
                _mm512_broadcast_i32x4(_mm_set_epi8(13, 12, 13, 12, 9, 8, 9, 8, 5, 4, 5, 4, 1, 0, 1, 0)),
            )
        }
    }

    #[inline(always)]
    fn min_halves(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_min_epi16(a, b) }
    }

    #[inline(always)]
    fn dot(self, sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512, and VNNI where the type says so.
        unsafe {
            if VNNI { Self::add_dot(sum, a, b) } else { _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)) }
        }
    }

    #[inline(always)]
    fn opaque(self, a: Self::V) -> Self::V {
        // SAFETY: the CPU has AVX-512.
        unsafe { Self::hide(a) }
    }

    #[inline(always)]
    fn float(self, a: Self::V) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn splat_float(self, value: f32) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn splat_float_from(self, value: &f32) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { Self::broadcast(value) }
    }

    #[inline(always)]
    fn add_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn lesser_float(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX-512. The bits of what is not negative are ordered as it is, and more units compare integers.
        unsafe { _mm512_castsi512_ps(_mm512_min_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
    }

    #[inline(always)]
    fn raise_float(self, mask: Self::M, best: Self::F, score: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe { Self::raise_in_place(mask, best, score) }
    }

    #[inline(always)]
    fn equal_float(self, a: Self::F, b: Self::F) -> u16 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }

    #[inline(always)]
    fn load_float(self, values: &[f32; BLOCK]) -> Self::F {
        // SAFETY: as in `load`.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store_float(self, lanes: Self::F, values: &mut [f32; BLOCK]) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), lanes) }
    }

    #[inline(always)]
    fn spread_top(self, a: Self::V) -> (i32, Self::V) {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let a = _mm512_max_epi32(a, _mm512_shuffle_i64x2::<0b01_00_11_10>(a, a));
            let a = _mm512_max_epi32(a, _mm512_shuffle_i64x2::<0b10_11_00_01>(a, a));
            let a = _mm512_max_epi32(a, _mm512_shuffle_epi32::<0b01_00_11_10>(a));
            let a = _mm512_max_epi32(a, _mm512_shuffle_epi32::<0b10_11_00_01>(a));
            (_mm512_cvtsi512_si32(a), a)
        }
    }

    #[inline(always)]
    fn spread_top_float(self, a: Self::F) -> (f32, Self::F) {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let a = _mm512_max_ps(a, _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a));
            let a = _mm512_max_ps(a, _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a));
            let a = _mm512_max_ps(a, _mm512_permute_ps::<0b01_00_11_10>(a));
            let a = _mm512_max_ps(a, _mm512_permute_ps::<0b10_11_00_01>(a));
            (_mm512_cvtss_f32(a), a)
        }
    }

    #[inline(always)]
    fn widen(self, a: Self::V) -> Self::W {
        // SAFETY: the CPU has AVX-512.
        unsafe { [_mm512_srai_epi64::<32>(_mm512_slli_epi64::<32>(a)), _mm512_srai_epi64::<32>(a)] }
    }

    #[inline(always)]
    fn splat_wide(self, value: i64) -> Self::W {
        // SAFETY: the CPU has AVX-512.
        unsafe { [_mm512_set1_epi64(value); 2] }
    }

    #[inline(always)]
    fn mul_wide(self, a: Self::V, b: Self::V) -> Self::W {
        // SAFETY: the CPU has AVX-512.
        unsafe { [_mm512_mul_epi32(a, b), _mm512_mul_epi32(self.odd(a), self.odd(b))] }
    }

    #[inline(always)]
    fn add_wide(self, a: Self::W, b: Self::W) -> Self::W {
        // SAFETY: the CPU has AVX-512.
        unsafe { [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1])] }
    }

    #[inline(always)]
    fn max_wide(self, a: Self::W, b: Self::W) -> Self::W {
        // SAFETY: the CPU has AVX-512.
        unsafe { [_mm512_max_epi64(a[0], b[0]), _mm512_max_epi64(a[1], b[1])] }
    }

    #[inline(always)]
    fn raise_wide(self, mask: Self::M, best: Self::W, score: Self::W) -> Self::W {
        // SAFETY: the CPU has AVX-512 and BMI2.
        unsafe {
            let even = _pext_u32(u32::from(mask), 0x5555) as __mmask8;
            let odd = _pext_u32(u32::from(mask), 0xaaaa) as __mmask8;
            [
                _mm512_mask_max_epi64(best[0], even, best[0], score[0]),
                _mm512_mask_max_epi64(best[1], odd, best[1], score[1]),
            ]
        }
    }

    #[inline(always)]
    fn equal_wide(self, a: Self::W, b: Self::W) -> u16 {
        // SAFETY: the CPU has AVX-512 and BMI2.
        unsafe {
            let half = |at: usize| u32::from(_mm512_cmpeq_epi64_mask(a[at], b[at]));
            (_pdep_u32(half(0), 0x5555) | _pdep_u32(half(1), 0xaaaa)) as u16
        }
    }

    #[inline(always)]
    fn load_wide(self, values: &[i64; BLOCK]) -> Self::W {
        // SAFETY: the CPU has AVX-512, and half of the array is 64 bytes.
        unsafe {
            let from = values.as_ptr();
            [_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(BLOCK / 2).cast())]
        }
    }

    #[inline(always)]
    fn store_wide(self, lanes: Self::W, values: &mut [i64; BLOCK]) {
        // SAFETY: as in `load_wide`.
        unsafe {
            let into = values.as_mut_ptr();
            _mm512_storeu_si512(into.cast(), lanes[0]);
            _mm512_storeu_si512(into.add(BLOCK / 2).cast(), lanes[1]);
        }
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::V {
        self.round_away(a)
    }

    #[inline(always)]
    fn gather(self, matrix: &[f32], offsets: &[i32; BLOCK], worker: u32) -> Self::F {
        let Ok(end) = i32::try_from(matrix.len()) else {
            // SAFETY: the CPU has AVX-512, and the array is 64 bytes.
            return unsafe { _mm512_loadu_ps(gather(matrix, offsets, worker, |value| value).as_ptr()) };
        };
        // SAFETY: the CPU has AVX-512. Only lanes whose index is in `0..end` are loaded, and these are not negative as `i32`.
        unsafe {
            let (offsets, worker) = (self.load(offsets), worker as i32);
            let inside =
                _mm512_cmplt_epu32_mask(offsets, _mm512_set1_epi32(end.saturating_sub(worker).max(0)));
            let index = _mm512_add_epi32(offsets, _mm512_set1_epi32(worker));
            _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), inside, index, matrix.as_ptr())
        }
    }

    #[inline(always)]
    fn gather_words(self, words: &[u64], stride: usize, word: usize, rows: &[u32; BLOCK]) -> [Self::V; 2] {
        // Who has no row is past the end of any that fits the lanes.
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
        // SAFETY: the CPU has AVX-512. Only lanes whose row is below `count` are loaded, whose `stride` words are all there.
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

    #[inline(always)]
    fn widen_halves(self, values: &[u16; BLOCK]) -> Self::F {
        // SAFETY: the CPU has AVX-512, and the array is 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
    }
}

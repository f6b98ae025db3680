//! AArch64 with NEON: four registers hold a block.
//!
//! Compilers turn the array lanes of `scalar` into NEON as well, but take masks, reductions and choices
//! apart. Instructions of a decision at 512 waiting, 64 workers and 8 free slots, counted by an emulator:
//!
//! | | array lanes | intrinsics |
//! |---|---|---|
//! | `level` | 17,800 | 11,400 |
//! | `exact` | 31,500 | 21,900 |
//! | `exact`, affinity and masks | 105,400 | 87,100 |
//!
//! Time on such a CPU has not been measured.

use std::arch::aarch64::*;

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

instantiate!(Isa::Neon, Neon(()), "neon", 2, Far::PLAIN);

pub(in crate::backend::cpu) fn kernels() -> Option<&'static Kernels> {
    std::arch::is_aarch64_feature_detected!("neon").then_some(&KERNELS)
}

/// Lanes of a register.
const PART: usize = BLOCK / 4;

/// The bit of each lane in a mask.
const BITS: [u32; BLOCK] = {
    let mut bits = [0; BLOCK];
    let mut lane = 0;
    while lane < BLOCK {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// Exists only where the CPU has NEON; every SAFETY line below leans on that.
#[derive(Clone, Copy)]
struct Neon(());

/// An operation on each of the four registers.
macro_rules! each {
    (|$at:ident| $value:expr) => {
        // SAFETY: the CPU has NEON, and a quarter of an array is a register long.
        unsafe {
            let part = |$at: usize| $value;
            [part(0), part(1), part(2), part(3)]
        }
    };
}

impl Neon {
    /// A bit for each lane that is all ones.
    #[inline(always)]
    fn mask(self, lanes: [uint32x4_t; 4]) -> u16 {
        // SAFETY: the CPU has NEON.
        unsafe {
            let low = vuzp1q_u16(vreinterpretq_u16_u32(lanes[0]), vreinterpretq_u16_u32(lanes[1]));
            let high = vuzp1q_u16(vreinterpretq_u16_u32(lanes[2]), vreinterpretq_u16_u32(lanes[3]));
            let bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
            let bits = vandq_u8(bytes, vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201)));
            let bits = vpaddq_u8(bits, bits);
            let bits = vpaddq_u8(bits, bits);
            vgetq_lane_u16::<0>(vreinterpretq_u16_u8(vpaddq_u8(bits, bits)))
        }
    }

    /// Lanes of the mask are all ones.
    #[inline(always)]
    fn spread(self, mask: u16) -> [uint32x4_t; 4] {
        each!(|at| vtstq_u32(vdupq_n_u32(u32::from(mask)), vld1q_u32(BITS.as_ptr().add(at * PART))))
    }

    #[inline(always)]
    fn two_ages(self, waited: int32x2_t, age: Age) -> int32x2_t {
        // SAFETY: the CPU has NEON. Multiplications and the addition stay apart: nothing fuses them.
        unsafe {
            let waited = vcvtq_f64_s64(vmovl_s32(waited));
            let mut tokens = vmulq_n_f64(vmulq_f64(waited, waited), age.quadratic);
            // Level has no linear term, and skipping it shortens the chain. No age in these lanes reaches the
            // greatest.
            if age.linear != 0.0 {
                tokens = vaddq_f64(vmulq_n_f64(waited, age.linear), tokens);
            }
            vmovn_s64(vcvtmq_s64_f64(tokens))
        }
    }
}

impl Lanes for Neon {
    type V = [int32x4_t; 4];

    #[inline(always)]
    fn splat(self, value: i32) -> Self::V {
        // SAFETY: the CPU has NEON.
        unsafe { [vdupq_n_s32(value); 4] }
    }

    #[inline(always)]
    fn load(self, values: &[i32; BLOCK]) -> Self::V {
        each!(|at| vld1q_s32(values.as_ptr().add(at * PART)))
    }

    #[inline(always)]
    fn load_unsigned(self, values: &[u32; BLOCK]) -> Self::V {
        each!(|at| vreinterpretq_s32_u32(vld1q_u32(values.as_ptr().add(at * PART))))
    }

    #[inline(always)]
    fn store(self, lanes: Self::V, values: &mut [i32; BLOCK]) {
        for (at, lanes) in lanes.into_iter().enumerate() {
            // SAFETY: the CPU has NEON, and a quarter of the array is a register long.
            unsafe { vst1q_s32(values.as_mut_ptr().add(at * PART), lanes) };
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|at| vaddq_s32(a[at], b[at]))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|at| vsubq_s32(a[at], b[at]))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|at| vmulq_s32(a[at], b[at]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|at| vmaxq_s32(a[at], b[at]))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|at| vminq_s32(a[at], b[at]))
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        each!(|at| vshlq_s32(a[at], vdupq_n_s32(BITS as i32)))
    }

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        each!(|at| vabsq_s32(a[at]))
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> u16 {
        self.mask(each!(|at| vcgtq_s32(a[at], b[at])))
    }

    #[inline(always)]
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        self.mask(each!(|at| vceqq_s32(a[at], b[at])))
    }

    #[inline(always)]
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V {
        let mask = self.spread(mask);
        each!(|at| vbslq_s32(mask[at], lanes[at], vdupq_n_s32(i32::MIN)))
    }

    #[inline(always)]
    fn admit(self, scores: Self::V, words: Self::V, bit: i32, tokens: Self::V, longest: i32) -> Self::V {
        each!(|at| {
            let fits = vcleq_s32(tokens[at], vdupq_n_s32(longest));
            let may = vandq_u32(vtstq_s32(words[at], vdupq_n_s32(bit)), fits);
            vbslq_s32(may, scores[at], vdupq_n_s32(i32::MIN))
        })
    }

    #[inline(always)]
    fn lift(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|at| vbslq_s32(vcltq_s32(a[at], b[at]), a[at], vdupq_n_s32(i32::MAX)))
    }

    #[inline(always)]
    fn put(self, lanes: Self::V, lane: usize, value: i32) -> Self::V {
        let mask = self.spread(1 << lane);
        each!(|at| vbslq_s32(mask[at], vdupq_n_s32(value), lanes[at]))
    }

    #[inline(always)]
    fn top(self, a: Self::V) -> i32 {
        // SAFETY: the CPU has NEON.
        unsafe { vmaxvq_s32(vmaxq_s32(vmaxq_s32(a[0], a[1]), vmaxq_s32(a[2], a[3]))) }
    }

    #[inline(always)]
    fn ages(self, passed: &[u32; BLOCK], age: Age) -> Self::V {
        let passed = self.load_unsigned(passed);
        each!(|at| {
            let low = self.two_ages(vget_low_s32(passed[at]), age);
            vcombine_s32(low, self.two_ages(vget_high_s32(passed[at]), age))
        })
    }

    #[inline(always)]
    fn round(self, bonuses: &[f32; BLOCK]) -> Self::V {
        each!(|at| vcvtaq_s32_f32(vld1q_f32(bonuses.as_ptr().add(at * PART))))
    }

    #[inline(always)]
    fn round_halves(self, bonuses: &[u16; BLOCK]) -> Self::V {
        self.round(&bonuses.map(|bits| half::f16::from_bits(bits).to_f32()))
    }
}

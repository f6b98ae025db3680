//! AArch64 with NEON: the array lanes, which the compiler turns into NEON.

use super::instantiate;
use super::scalar::Scalar;
use crate::backend::cpu::column::{self, Found, Marks, Query};
use crate::backend::cpu::dense::{self, Best, Kept, Query as DenseQuery, Rows, Tier};
use crate::backend::cpu::lanes::Block;
use crate::backend::cpu::level::{self, Chain};
use crate::backend::cpu::loads::{self, LoadKernels, Top};
use crate::backend::cpu::swap::{self, Swap};
use crate::backend::cpu::{Far, Isa, Kernels};
use crate::batch::Bonuses;
use crate::pool::Ordered;
use crate::score::{Age, Profile};

instantiate!(KERNELS, Isa::Neon, Scalar, "neon", (1, 1), &[Tier::I32, Tier::I64], Far::PLAIN);

pub(in crate::backend::cpu) fn kernels() -> Option<&'static Kernels> {
    std::arch::is_aarch64_feature_detected!("neon").then_some(&KERNELS)
}

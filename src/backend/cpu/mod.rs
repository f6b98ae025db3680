//! The CPU's kernels: written once over a few vector operations, compiled per instruction set, chosen once
//! per policy.
//!
//! | room | |
//! |---|---|
//! | `arch` | the instruction sets: vector operations and a table of kernels each |
//! | `lanes` | the vector operations that an instruction set must have |
//! | `column` | the search of one column by length |
//! | `level` | all admissions of level at once |
//! | `levels` | the same of level with the terms of the pool |
//! | `matrix` | the batch as dense columns, where lengths alone do not tell requests apart |
//! | `dense` | scores of a run of such a column |
//! | `swap` | swaps of picks between workers |
//! | `loads` | sums and greatest values |
//!
//! Every instruction set gives the same answers to the bit: lanes hold integers, and ages are rounded in the
//! order that [`crate::score::Age::tokens`] fixes. Adding one is a file in `arch` and a line in
//! `Kernels::of`.

mod arch;
pub(crate) mod column;
pub(crate) mod dense;
pub(crate) mod lanes;
pub(crate) mod level;
pub(crate) mod levels;
pub(crate) mod loads;
pub(crate) mod matrix;
mod probe;
pub(crate) mod swap;
#[cfg(test)]
mod tests;

pub use probe::ColumnProbe;

use crate::batch::Bonuses;
use column::{Found, Marks, Query};
use dense::{Best, Edges, Hit, Plain, Rows, SortedKnots, Span, TooWide};
use lanes::Block;
use level::Chain;
use loads::LoadKernels;
use swap::Swap;

use crate::names::names;
use crate::pool::{BLOCK, Ordered};
use crate::score::{Age, Profile};

/// An instruction set that the kernels are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// The target's baseline.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AArch64 with NEON.
    Neon,
}

// The fastest last.
names! {
    Isa, "instruction set":
    Scalar = "scalar",
    Neon = "neon",
    Avx2 = "avx2",
    Avx512 = "avx512",
}

impl Isa {
    /// Whether this CPU has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        Kernels::of(self).is_some()
    }

    /// The fastest that this CPU has.
    #[must_use]
    pub fn best() -> Self {
        Kernels::best().isa
    }
}

/// One instruction set's kernels. Only a CPU that has the instruction set is handed its table.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub isa: Isa,
    /// Bounds the age of each block, and lines of these slopes.
    pub begin: fn(&Ordered<'_>, (Age, i32), Option<[i32; 2]>, &mut Marks),
    /// Takes an entry.
    pub take: fn(&Ordered<'_>, usize, &mut Marks),
    /// The best free entry for a profile.
    pub search: fn(&Ordered<'_>, &Query<'_>, &mut Marks) -> Option<Found>,
    /// level, and level with the terms of the pool.
    pub level: ChainKernels,
    pub levels: ChainKernels,
    /// Swaps pairs of picks, in order, where that lowers their cost: whether any was.
    pub swap: fn(&mut Swap<'_>) -> bool,
    /// Sums and greatest values of loads.
    pub loads: LoadKernels,
    /// Sorts the knots of a profile between two lengths: false where no lanes hold them.
    pub sort_knots: fn(&mut SortedKnots, &Profile, (i64, i64)) -> bool,
    /// At least the greatest score of sixteen runs, age and bonus aside.
    pub bounds: fn(&SortedKnots, &Edges) -> [i64; BLOCK],
    /// The best request of a run on a worker, its scores in the last argument.
    pub best_of_run: fn(&Rows<'_>, &SortedKnots, &mut [Block]) -> Result<Option<Best>, TooWide>,
    /// The scores of so many blocks in registers, for measurements: the greatest.
    pub spin: fn(&Rows<'_>, &SortedKnots, usize) -> i32,
    /// Finds the bonuses that are not zero on an open worker, of a matrix with so many workers, for some
    /// entries and their rows. Returns the number of hits.
    pub find_bonuses: fn((Bonuses<'_>, usize), (&[Block], &[Span]), &mut [[u32; 2]], &mut [Hit]) -> usize,
    /// Ages plus the bonuses on some workers of a matrix with so many, a column each, into the last argument;
    /// returns the greatest bonus.
    pub add_bonuses: fn((Bonuses<'_>, usize), &[u32], i32, Plain<'_>, &mut [Block]) -> i64,
    /// Eligibility words of 64 workers by row.
    pub words: fn((&[u64], usize, usize), &[[u32; BLOCK]], (&mut [Block], &mut [Block])),
    /// Ages in score units of who was passed so often.
    pub ages: fn(&[[u32; BLOCK]], (Age, i32), &mut [Block]),
    /// The greatest of the first entries of some blocks: so many, at least one.
    pub top: fn(&[Block], usize) -> i32,
    /// From where on a lookahead is far.
    pub far: Far,
}

/// A rule that is known as data, all of a step at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainKernels {
    /// Admits until no request fits. Returns a worker whose search does not fit the lanes.
    pub place: fn(&mut Chain<'_>) -> Option<usize>,
    /// Looks again at the picks, from one on: whether any changed, and the pick whose search does not fit the
    /// lanes.
    pub replace: fn(&mut Chain<'_>, usize) -> (bool, Option<usize>),
}

/// From where on dense columns are faster than searches by length, although lengths tell requests apart:
/// measured over pools of 256 to 65,536 requests, 2 to 64 admissions and horizons of 8 to 80 steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Far {
    /// Knots of a profile: a search adds up all of them for each block, a run of a dense column those between
    /// its lengths.
    pub knots: u64,
    /// Knots of all admissions, squared, for each waiting request: loading the columns must pay.
    pub squared_per_request: u64,
}

impl Far {
    #[cfg(target_arch = "x86_64")]
    const VECTORS: Self = Self { knots: 9, squared_per_request: 4 };
    const PLAIN: Self = Self { knots: 24, squared_per_request: 16 };

    /// Whether profiles of so many knots may be far, if admissions are many enough.
    pub(crate) fn may_be_reached(self, knots: u64) -> bool {
        knots >= self.knots
    }

    /// Whether so many admissions by such profiles are, of so many that wait.
    pub(crate) fn is_reached(self, knots: u64, admissions: u64, waiting: u64) -> bool {
        let all = admissions * knots;
        all * all >= self.squared_per_request * waiting
    }
}

impl Kernels {
    /// The kernels of an instruction set, if this CPU has it.
    pub(crate) fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            Isa::Scalar => Some(arch::scalar::kernels()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => arch::avx2::kernels(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => arch::avx512::kernels(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => arch::neon::kernels(),
            _ => None,
        }
    }

    pub(crate) fn best() -> &'static Self {
        let scalar = arch::scalar::kernels();
        Isa::ALL.into_iter().rev().find_map(Self::of).unwrap_or(scalar)
    }
}

//! One batch as the device kernel reads it, and the device's answer.
//!
//! `kernels/ascendc/tiling.h` says how host and device split a decision, and why rounding on the device
//! cannot change a pick. The host keeps a batch that the device cannot hold; [`Kept`] is the reason.
//!
//! | module | |
//! |---|---|
//! | `layout` | the bytes of a launch: structures, constants, limits |
//! | `plan` | which form a batch takes on the device, or why the host keeps it |
//! | `write` | the planned batch, written as bytes |
//! | `answer` | the device's answer, read and checked |

mod answer;
mod layout;
mod plan;
mod write;

use thiserror::Error;

pub use answer::AnswerError;
pub use layout::{
    BLOB_ALIGN, ENTRY_COLUMNS, ENTRY_GREEDY, FIELDS, MAGIC, MAX_BATCHES, MAX_KNOTS, MAX_REQUESTS, MAX_RUNS,
    MAX_STEPS, MAX_WORKERS, SIZES, VERSION, launch_head_bytes, write_launch_head,
};

use layout::{FLAG_COLUMNS_READY, Header, MODE_FIXED, NOBODY, Run};

use crate::backend::loads::Loads;
use crate::batch::{Batch, Request};
use crate::pool::PoolSlot;
use crate::rule::{Plan, ProfileSpec};
use crate::score::Profile;

/// Why the host keeps a batch, so that the CPU decides it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// No slot is open, or no request is left after the pinned and the overdue ones.
    #[error("nobody to place")]
    Nobody,
    /// The rule gives no [`ProfileSpec`], from which the device could compute profiles.
    #[error("the device cannot compute this rule's profiles")]
    NoProfileSpec,
    /// Every admission changes all profiles that follow the loads of all others, so the device seeks no best
    /// pair by them.
    #[error("the device seeks no best pair by profiles that follow the loads of all others")]
    Levels,
    /// A judge on the host chooses among the best requests.
    #[error("the rule chooses among several requests on the host")]
    Judge,
    /// The longest go first, so nothing is scored.
    #[error("the longest go first: nothing to score")]
    LongestFirst,
    /// The batch exceeds a limit of the device.
    #[error("{what}: at most {limit} on the device, found {found}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: i64,
        /// What the batch has.
        found: i64,
    },
    /// The planes of the batch do not fit into the unified buffer.
    #[error("unified buffer: {planned} bytes planned, {needed} needed")]
    UnifiedBuffer {
        /// Bytes that the device has.
        planned: usize,
        /// Bytes that the batch takes with the smallest tile.
        needed: usize,
    },
}

/// The chip that batches are packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Vector cores: so many blocks run at once.
    pub vector_cores: u32,
    /// Bytes of each core's unified buffer that a kernel may use.
    pub ub_bytes: u32,
    /// Most entries of a tile, for tests; none for as many as fit.
    pub tile_limit: Option<u32>,
}

impl Soc {
    /// Ascend 910B3, 910B4 and A3 with 40 cores: the smallest chips of the family.
    pub const ASCEND_910B: Self = Self { vector_cores: 40, ub_bytes: 184 * 1024, tile_limit: None };
}

/// Who computes the profiles.
pub(crate) enum Source<'a> {
    /// The device, from this.
    Spec(ProfileSpec<'a>),
    /// The host, by `profile(worker, class, into)`. The device scores the first columns and picks nothing.
    Fixed(&'a dyn Fn(usize, Option<u8>, &mut Profile)),
}

/// What is left of a decision after the host's placements.
pub(crate) struct Problem<'a> {
    pub batch: &'a Batch<'a>,
    pub plan: &'a Plan,
    pub source: Source<'a>,
    pub loads: &'a Loads,
    /// For each pool slot, whether the host has placed its request.
    pub taken: &'a [bool],
}

/// A pick of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePick {
    pub slot: PoolSlot,
    pub worker: usize,
    pub score: i64,
}

/// The best request of a survival class on a worker, as the device found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceColumn {
    pub worker: usize,
    pub class: Option<u8>,
    pub best: Option<(PoolSlot, i64)>,
}

/// What a launch did, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Columns that the greedy scored, after those of the first look.
    pub columns: u32,
    /// Requests that were scored again in integers.
    pub rescored: u32,
}

/// A planned batch: its shape, and which entry is which request. Its vectors are reused from batch to batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packing {
    header: Header,
    runs: Vec<Run>,
    classes: Vec<Option<u8>>,
    /// Pool slot and place in the arrival order of each entry; the slot of padding is [`NOBODY`].
    entries: Vec<(u32, u32)>,
    /// Workers with an open slot: only they have a column, and only their bonuses are written.
    open: Vec<u32>,
    profiles: Vec<Profile>,
    weights: Vec<i32>,
}

impl Packing {
    /// Notes that the batch shares its launch with others: its block scores the first columns itself.
    pub(crate) fn share(&mut self) {
        self.header.flags &= !FLAG_COLUMNS_READY;
    }

    /// The pool slots of all entries, without padding.
    fn occupied(&self) -> impl Iterator<Item = PoolSlot> {
        self.entries.iter().filter(|(slot, _)| *slot != NOBODY).map(|&(slot, _)| PoolSlot(slot))
    }

    fn requests<'a>(&'a self, batch: &'a Batch<'a>) -> impl Iterator<Item = &'a Request> {
        self.occupied().map(move |slot| batch.waiting().request(slot))
    }

    /// Bytes of the batch in the input blob.
    pub(crate) fn in_bytes(&self) -> usize {
        self.header.in_bytes as usize
    }

    /// Bytes of its answer in the output blob.
    pub(crate) fn out_bytes(&self) -> usize {
        self.header.out_bytes as usize
    }

    /// Bytes at the beginning of its answer that the host zeroes before a launch, so that a status which the
    /// kernel never wrote is an error.
    pub(crate) fn zeroed_bytes(&self) -> usize {
        self.header.out_picks_at as usize
    }

    /// The entries to launch for this batch alone, one after the other, with the blocks of each.
    pub(crate) fn launches(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let blocks = self.header.workers.div_ceil(self.header.group.max(1));
        let fixed = self.header.mode == MODE_FIXED;
        let columns = fixed || self.header.flags & FLAG_COLUMNS_READY != 0;
        [columns.then_some((ENTRY_COLUMNS, blocks)), (!fixed).then_some((ENTRY_GREEDY, 1))]
            .into_iter()
            .flatten()
    }
}

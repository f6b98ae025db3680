//! One batch as the device kernel reads it, and the device's answer.
//!
//! The text of `kernels/ascendc/tiling.h` says how host and device split a decision, and why rounding on the
//! device cannot change a pick. What the device cannot hold stays with the host, which is told why by
//! [`Kept`].
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
    BLOB_ALIGN, ENTRY_COLUMNS, ENTRY_GREEDY, FIELDS, MAGIC, MAX_BATCHES, MAX_REQUESTS, MAX_RUNS, MAX_STEPS,
    MAX_WORKERS, SIZES, VERSION, launch_head_bytes, write_launch_head,
};

use layout::{FLAG_COLUMNS_READY, Header, MODE_FIXED, NOBODY, Run};

use crate::backend::loads::Loads;
use crate::batch::{Batch, Request};
use crate::pool::PoolSlot;
use crate::rule::{Plan, ProfileSpec};
use crate::score::Profile;

/// Why the host keeps a batch: the CPU decides it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// No open slot, or nobody left after pinned and overdue requests.
    #[error("nobody to place")]
    Nobody,
    /// The rule's profiles cannot be drawn on the device.
    #[error("the device cannot draw this rule's profiles")]
    NoDrawer,
    /// A judge on the host chooses among several requests.
    #[error("the rule chooses among several requests on the host")]
    Judge,
    /// Nothing is scored.
    #[error("the longest go first: nothing to score")]
    LongestFirst,
    /// A limit of the device is passed.
    #[error("{what}: at most {limit} on the device, found {found}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// Its limit.
        limit: i64,
        /// Found.
        found: i64,
    },
    /// The unified buffer of the device cannot hold the planes of the batch.
    #[error("unified buffer: {planned} bytes planned, {needed} needed")]
    UnifiedBuffer {
        /// Bytes of the device.
        planned: usize,
        /// Bytes of the batch with the smallest tile.
        needed: usize,
    },
}

/// The device that batches are packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Vector cores: blocks that run at once.
    pub vector_cores: u32,
    /// Bytes of the unified buffer of each that a kernel may use.
    pub ub_bytes: u32,
    /// Most entries of a tile, for tests; none for what fits.
    pub tile_limit: Option<u32>,
}

impl Soc {
    /// Ascend 910B3/B4 and A3 with 40 cores: the least of the family.
    pub const ASCEND_910B: Self = Self { vector_cores: 40, ub_bytes: 184 * 1024, tile_limit: None };
}

/// Where profiles come from.
pub(crate) enum Source<'a> {
    /// The device draws them.
    Spec(ProfileSpec<'a>),
    /// The host has drawn them: `draw(worker, class, profile)`. Columns only.
    Fixed(&'a dyn Fn(usize, Option<u8>, &mut Profile)),
}

/// A decision after the host's placements.
pub(crate) struct Problem<'a> {
    pub batch: &'a Batch<'a>,
    pub plan: &'a Plan,
    pub source: Source<'a>,
    pub loads: &'a Loads,
    /// By pool slot: who has been placed by the host.
    pub taken: &'a [bool],
}

/// A pick of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePick {
    pub slot: PoolSlot,
    pub worker: usize,
    pub score: i64,
}

/// The best of each survival class on each worker, as the device found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceColumn {
    pub worker: usize,
    pub class: Option<u8>,
    pub best: Option<(PoolSlot, i64)>,
}

/// What a launch did, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Columns scored by the greedy, after those of the first look.
    pub columns: u32,
    /// Requests scored again in integers.
    pub rescored: u32,
}

/// A packed batch: its shape, and whose entries are whose. Its buffers are kept from batch to batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packing {
    header: Header,
    runs: Vec<Run>,
    classes: Vec<Option<u8>>,
    /// Pool slot, place in the arrival order, of each entry; of padding, nobody's.
    entries: Vec<(u32, u32)>,
    profiles: Vec<Profile>,
    weights: Vec<i32>,
}

impl Packing {
    /// Says that the batch shares its launch with others: its block scores the first columns itself.
    pub(crate) fn share(&mut self) {
        self.header.flags &= !FLAG_COLUMNS_READY;
    }

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

    /// Bytes at the beginning of its answer that are zeroed before a launch: an unwritten status is an error
    /// then.
    pub(crate) fn zeroed_bytes(&self) -> usize {
        self.header.out_picks_at as usize
    }

    /// What to launch for this batch alone, in one stream: entries and their blocks.
    pub(crate) fn launches(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let blocks = self.header.workers.div_ceil(self.header.group.max(1));
        let fixed = self.header.mode == MODE_FIXED;
        let columns = fixed || self.header.flags & FLAG_COLUMNS_READY != 0;
        [columns.then_some((ENTRY_COLUMNS, blocks)), (!fixed).then_some((ENTRY_GREEDY, 1))]
            .into_iter()
            .flatten()
    }
}

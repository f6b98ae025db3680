//! A request that waits, as the pool keeps it.

use crate::entities::request::Request;
use crate::ids::WorkerIndex;

/// A request that waits, and since when.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Waiting {
    pub request: Request,
    pub enqueued_step: u32,
    /// The clock as it arrived; [`super::dates`] knows it of whoever came without a reading.
    pub since_ms: u64,
    /// Rises from one to the next.
    pub arrival: u64,
    /// Whether it leaves with the next decision.
    pub leaves: bool,
    /// Whether it has come back to its old place in the order of arrival: it waits for less time than its
    /// neighbours.
    pub returned: bool,
}

impl Waiting {
    pub(super) fn bound_to(self, rank: Option<WorkerIndex>) -> Self {
        Self { request: Request { rank, ..self.request }, ..self }
    }
}

/// What becomes of a request that is looked at.
pub(super) enum Mark {
    Leaves,
    Stays,
    /// Neither it nor anybody after it leaves.
    Enough,
}

//! Why a batch is refused.

use thiserror::Error;

use crate::ids::{RequestId, WorkerId, WorkerIndex};

/// A refused batch: what, where, expected and found.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are in the message")]
pub enum BatchError {
    #[error("a batch needs at least one worker")]
    NoWorkers,
    #[error("too many workers: at most {limit}, found {found}")]
    TooManyWorkers { limit: usize, found: usize },
    #[error("too many waiting requests: at most {limit}, found {found}")]
    TooManyWaiting { limit: usize, found: usize },
    #[error("request {index} (id {id}): id already waits at index {first}")]
    DuplicateId { index: usize, id: RequestId, first: usize },
    #[error("request {id} already waits")]
    Waits { id: RequestId },
    #[error("{}: prompt tokens must be in 1..={limit}, found {found}", request(*index, *id))]
    PromptTokens { index: Option<usize>, id: RequestId, limit: u32, found: u32 },
    #[error("{}: it can have been passed at most {limit} times, found {found}", request(*index, *id))]
    Passed { index: Option<usize>, id: RequestId, limit: u32, found: u32 },
    #[error("{}: priority must be in {}..={}, found {found}", request(*index, *id), i8::MIN, i8::MAX)]
    Priority { index: Option<usize>, id: RequestId, found: i64 },
    #[error("{}: waited steps must be at most {limit}, found {found}", request(*index, *id))]
    WaitedSteps { index: Option<usize>, id: RequestId, limit: u32, found: u32 },
    #[error("{}: rank must be below {workers}, found {found}", request(*index, *id))]
    Rank { index: Option<usize>, id: RequestId, workers: usize, found: WorkerIndex },
    #[error("request {index} (id {id}): pair row must be below {rows}, found {found}")]
    PairRow { index: usize, id: RequestId, rows: usize, found: u32 },
    #[error("request {index} (id {id}): survival class must be below {classes}, found {found}")]
    SurvivalClass { index: usize, id: RequestId, classes: usize, found: u8 },
    #[error("worker {index}: {what} must be at most {limit}, found {found}")]
    WorkerTokens { index: usize, what: &'static str, limit: u64, found: u64 },
    #[error("worker {index}: {what} must be at most {limit}, found {found}")]
    WorkerSlots { index: usize, what: &'static str, limit: u32, found: u64 },
    #[error("worker {index}: weight must be in 0..={limit}, found {found}")]
    Weight { index: usize, limit: f32, found: f32 },
    #[error("{what}: horizon must be at most {limit}, found {found}")]
    Horizon { what: &'static str, limit: usize, found: usize },
    #[error("{what}: expected {expected} entries, found {found}")]
    Length { what: &'static str, expected: usize, found: usize },
    #[error("{what}, entry {index}: must be in {low}..={high}, found {found}")]
    Value { what: &'static str, index: usize, low: f64, high: f64, found: f64 },
    #[error("request {id}: bonus on worker {worker} must be in -{limit}..={limit}, found {found}")]
    Bonus { id: RequestId, worker: WorkerId, limit: f32, found: f32 },
    #[error("traffic: {what} must be in 0..={limit}, found {found}")]
    Traffic { what: &'static str, limit: i64, found: i64 },
    #[error("predicted ends of worker {worker}, entry {index}: {expected}, found {found}")]
    PredictedEnd { worker: WorkerIndex, index: usize, expected: &'static str, found: u64 },
}

impl BatchError {
    /// The class of a request, for callers whose numbers are wider.
    ///
    /// # Errors
    /// [`BatchError::Priority`].
    pub fn check_priority(index: Option<usize>, id: RequestId, found: i64) -> Result<i8, Self> {
        i8::try_from(found).map_err(|_| Self::Priority { index, id, found })
    }
}

/// A request by its row, where the caller has given rows, and its id.
fn request(index: Option<usize>, id: RequestId) -> String {
    index.map_or_else(|| format!("request {id}"), |index| format!("request {index} (id {id})"))
}

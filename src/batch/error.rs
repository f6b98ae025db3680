//! Why a batch is refused.

use thiserror::Error;

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
    DuplicateId { index: usize, id: u64, first: usize },
    #[error("request {id} already waits")]
    Waits { id: u64 },
    #[error("request {index} (id {id}): prompt tokens must be in 1..={limit}, found {found}")]
    PromptTokens { index: usize, id: u64, limit: u32, found: u32 },
    #[error("request {index} (id {id}): waited steps must be at most {limit}, found {found}")]
    WaitedSteps { index: usize, id: u64, limit: u32, found: u32 },
    #[error("request {index} (id {id}): rank must be below {workers}, found {found}")]
    Rank { index: usize, id: u64, workers: usize, found: u32 },
    #[error("request {index} (id {id}): pair row must be below {rows}, found {found}")]
    PairRow { index: usize, id: u64, rows: usize, found: u32 },
    #[error("request {index} (id {id}): survival class must be below {classes}, found {found}")]
    SurvivalClass { index: usize, id: u64, classes: usize, found: u8 },
    #[error("worker {index}: {what} must be at most {limit}, found {found}")]
    WorkerTokens { index: usize, what: &'static str, limit: u64, found: u64 },
    #[error("worker {index}: running plus free slots must be at most {limit}, found {found}")]
    WorkerSlots { index: usize, limit: u32, found: u64 },
    #[error("worker {index}: weight must be in 0..={limit}, found {found}")]
    Weight { index: usize, limit: f32, found: f32 },
    #[error("{what}: horizon must be at most {limit}, found {found}")]
    Horizon { what: &'static str, limit: usize, found: usize },
    #[error("{what}: expected {expected} entries, found {found}")]
    Length { what: &'static str, expected: usize, found: usize },
    #[error("{what}, entry {index}: must be in {low}..={high}, found {found}")]
    Value { what: &'static str, index: usize, low: f64, high: f64, found: f64 },
    #[error("request {id}: bonus on worker {worker} must be in -{limit}..={limit}, found {found}")]
    Bonus { id: u64, worker: u32, limit: f32, found: f32 },
    #[error("traffic: {what} must be in 0..={limit}, found {found}")]
    Traffic { what: &'static str, limit: i64, found: i64 },
    #[error("predicted ends of worker {worker}, entry {index}: {expected}, found {found}")]
    PredictedEnd { worker: usize, index: usize, expected: &'static str, found: u64 },
}

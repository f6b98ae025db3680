//! What a router refuses.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use thiserror::Error;

use crate::batch::BatchError;
use crate::ids::{RequestId, WorkerId};
use crate::policy::PolicyError;

/// A refused call. Nothing has changed then.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RouterError {
    /// The batch would not be valid.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The policy cannot be built.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The request neither waits nor runs here.
    #[error("request {id} neither waits nor runs")]
    Unknown {
        /// Request id.
        id: RequestId,
    },
    /// The request waits, and the call is about one that runs.
    #[error("request {id} waits and does not run")]
    NotRunning {
        /// Request id.
        id: RequestId,
    },
    /// The id is already running.
    #[error("request {id} already runs on worker {worker}")]
    Running {
        /// Request id.
        id: RequestId,
        /// Worker that it runs on.
        worker: WorkerId,
    },
    /// The request runs by another dispatch, or waits: what is told is of a life before.
    #[error("request {id} is not of dispatch {number} to worker {worker}")]
    OtherDispatch {
        /// Request id.
        id: RequestId,
        /// Worker of the dispatch that was named.
        worker: WorkerId,
        /// Its number.
        number: u64,
    },
    /// It has generated more tokens than it is long.
    #[error("request {id} has {limit} tokens and cannot have generated {found} of them")]
    Generated {
        /// Request id.
        id: RequestId,
        /// Its length.
        limit: u32,
        /// Tokens found.
        found: u32,
    },
    /// There is no worker at all to send a request to.
    #[error("no worker is here to send request {id} to")]
    NoWorker {
        /// Request id.
        id: RequestId,
    },
    /// No such worker: never there, or removed.
    #[error("no worker has id {found} ({})", here(*workers))]
    Worker {
        /// Number of workers.
        workers: usize,
        /// Id found.
        found: WorkerId,
    },
    /// The policy broke its promise: it sent a request that does not wait, or one twice, or to a worker that
    /// may not take it.
    #[error("policy {policy} may not send request {id} to {}", worker_of(*worker))]
    Refused {
        /// Name of the policy.
        policy: &'static str,
        /// Request id.
        id: RequestId,
        /// Worker; none where the policy named a position past the last worker.
        worker: Option<WorkerId>,
    },
    /// A report acknowledges a dispatch that was never made: it is meant for another router.
    #[error("worker {worker} reports dispatch {found}, but only {sent} were made")]
    Dispatch {
        /// Worker.
        worker: WorkerId,
        /// Dispatches made to it.
        sent: u64,
        /// Dispatch that the report has seen.
        found: u64,
    },
    /// Progress that no request can make.
    #[error("progress of worker {worker} must be at most {limit} tokens, found {found}")]
    Progress {
        /// Worker.
        worker: WorkerId,
        /// Most tokens of one call.
        limit: u32,
        /// Tokens found.
        found: u32,
    },
    /// A share that is none.
    #[error("share must be an index below its number of front ends, at most {limit}, found {index} of {of}")]
    Share {
        /// Index found.
        index: u32,
        /// Number of front ends found.
        of: u32,
        /// Most front ends.
        limit: u32,
    },
    /// A configuration's number out of its range.
    #[error("{name} must be in {low}..={high}, found {found}")]
    Config {
        /// Field name.
        name: &'static str,
        /// Least value.
        low: u32,
        /// Greatest value.
        high: u32,
        /// Value found.
        found: u32,
    },
    /// A cost out of its range.
    #[error("{name} must be in 0..={limit}, found {found}")]
    Cost {
        /// Field name.
        name: &'static str,
        /// Greatest value.
        limit: f64,
        /// Value found.
        found: f64,
    },
    /// What was to be learned is no [`Router::learned`](super::Router::learned) of this version.
    #[error("{found} bytes are not what a router of this version has learned")]
    Learned {
        /// Number of bytes found.
        found: usize,
    },
    /// The recording that the environment asks for cannot begin.
    #[cfg(feature = "record")]
    #[error("BALANCEROUTE_RECORD: {0}")]
    Record(#[from] crate::router::record::RecordError),
    /// What the caller supplied has panicked: the policy, pair terms or the classifier. Its own memory may be
    /// in disorder, the router's is not.
    #[error("policy {policy}, or what was supplied to it, panicked: {message}")]
    Panicked {
        /// Name of the policy.
        policy: &'static str,
        /// What it said.
        message: String,
    },
}

fn here(workers: usize) -> String {
    if workers == 1 { "1 worker is here".to_owned() } else { format!("{workers} workers are here") }
}

fn worker_of(worker: Option<WorkerId>) -> String {
    worker.map_or_else(|| "a worker that is not there".to_owned(), |worker| format!("worker {worker}"))
}

/// Runs what may be the caller's code.
pub(super) fn unless_panicked<T>(policy: &'static str, run: impl FnOnce() -> T) -> Result<T, RouterError> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| RouterError::Panicked { policy, message: message_of(panic.as_ref()) })
}

/// What a panic says.
pub(super) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "something that is no text".to_owned())
}

//! What can go wrong, as values.

use balanceroute::policy::PolicyError;
use balanceroute::record::RecordError;
use balanceroute::router::RouterError;
use thiserror::Error;

use crate::calibration::CalibrateError;
use crate::cost::CostError;
use crate::names::did_you_mean;
use crate::report::evaluated::FolderError;
use crate::rules::RuleError;
use crate::traces::TraceError;

/// What a simulation cannot do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SimError {
    /// No such workload.
    #[error("unknown workload {found:?}{}; expected one of {expected}", did_you_mean(*meant))]
    UnknownWorkload {
        /// The name asked for.
        found: String,
        /// The name that is most like it, if one is.
        meant: Option<&'static str>,
        /// All names.
        expected: String,
    },
    /// An argument out of its range, or one that needs another.
    #[error("{name}: expected {expected}, found {found}")]
    Argument {
        /// The argument.
        name: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The KV capacity is below every request.
    #[error("no request of {source_name} fits the KV capacity of an empty worker")]
    NothingFits {
        /// Workload or trace.
        source_name: String,
    },
    /// Nothing runs and the policy admits nobody.
    #[error("{policy} admits nobody although nothing runs and {waiting} requests wait")]
    Halted {
        /// The policy.
        policy: String,
        /// Requests that wait.
        waiting: u64,
    },
    /// Somebody asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// A trace that cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A step law that cannot be read.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// Measurements that make no step law.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// A folder of results that cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A policy that does not exist, or its parameters.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A rule that does not exist, or that the cluster is too small for.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The router refused a call: loads past its limits.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// A recording that cannot be read or replayed.
    #[error(transparent)]
    Record(RecordError),
    /// A result could not be written.
    #[error("{file}: {source}")]
    Write {
        /// Path as given.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Standard output could not be written to.
    #[error("standard output: {source}")]
    Stdout {
        /// Why; a reader that has gone is [`std::io::ErrorKind::BrokenPipe`].
        source: std::io::Error,
    },
}

pub(crate) fn argument(name: &'static str, expected: impl Into<String>, found: impl ToString) -> SimError {
    SimError::Argument { name, expected: expected.into(), found: found.to_string() }
}

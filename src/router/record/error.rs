//! What goes wrong with logs.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A log that cannot be written, read or replayed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// A file or folder refuses.
    #[error("cannot {what} {}: {why}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Kind of the error.
        kind: io::ErrorKind,
        /// What the system says.
        why: String,
    },
    /// Another router records there.
    #[error("another router records into {}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A number out of its range.
    #[error("{name} must be in {low}..={high}, found {found}")]
    Config {
        /// Field name.
        name: &'static str,
        /// Least value.
        low: u64,
        /// Greatest value.
        high: u64,
        /// Value found.
        found: u64,
    },
    /// Recordings of several routers lie below the folder.
    #[error("{} has recordings of several routers: name one of {}", path.display(), folders.join(", "))]
    Several {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        folders: Vec<String>,
    },
    /// There is no log.
    #[error("{} is no recording and has none", path.display())]
    Nothing {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file is not of a log, or its beginning is damaged.
    #[error("{} is no segment of a recording: {what}", path.display())]
    NoSegment {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The log could not be written any more, and the router has gone on without: what it has is not how the
    /// router stood.
    #[error("{} ended before its router did: it can be replayed, not gone on from", path.display())]
    Ended {
        /// The file that was written last.
        path: PathBuf,
    },
    /// Another version wrote it.
    #[error("{} was written by version {found}, this is {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: String,
        /// Version of this library.
        expected: String,
    },
    /// The policy is none of this library's.
    #[error("policy {name} is none of this library's: replay it where it is, or choose another")]
    Policy {
        /// Its name.
        name: String,
    },
    /// The state in a log does not fit the router that is to take it over.
    #[error("the state is damaged, or policy {policy} is not the one that had it")]
    State {
        /// Name of the policy.
        policy: String,
    },
    /// A replayed call answers otherwise than it did, so the router would not be the one that was.
    #[error("call {at} answers otherwise than it did: this is not the router that was recorded")]
    Differs {
        /// Which call of the log.
        at: u64,
    },
    /// The router panicked: the log is not what a router wrote.
    #[error("call {at} cannot be replayed: {message}")]
    Panicked {
        /// Which call of the log.
        at: u64,
        /// What it said.
        message: String,
    },
}

impl RecordError {
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |error| Self::Io { what, path: path.to_owned(), kind: error.kind(), why: error.to_string() }
    }
}

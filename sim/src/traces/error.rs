//! What can be wrong with a trace, as values.

use thiserror::Error;

/// A trace that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// Path as given.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A folder, a device, a fifo or a socket; nothing of it has been read.
    #[error("{file}: a trace: expected a regular file or - for stdin, found {found}")]
    NotAFile {
        /// Path as given.
        file: String,
        /// What it is.
        found: &'static str,
    },
    /// A line, or a CSV row over several, that does not end within the limit. Never skipped: where it ends is
    /// not known.
    #[error(
        "{file}:{line}: a line of a trace: expected at most {limit} bytes, found at least {found_at_least}"
    )]
    LineTooLong {
        /// Path as given.
        file: String,
        /// Line number, from 1; of a row over several, the first.
        line: u64,
        /// Most bytes that it may have.
        limit: usize,
        /// Bytes that it has at least.
        found_at_least: usize,
    },
    /// None of the known formats.
    #[error("{file}: not a known trace: expected {expected}; found {found:?}")]
    Unrecognised {
        /// Path as given.
        file: String,
        /// What traces of the known formats begin with.
        expected: String,
        /// Start of its first line.
        found: String,
    },
    /// A malformed row.
    #[error("{file}:{line}: {what}: expected {expected}, found {found:?}")]
    Row {
        /// Path as given.
        file: String,
        /// Line number, from 1.
        line: u64,
        /// The column or key.
        what: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// Nothing left to run.
    #[error("{file}: no rows to run ({skipped} skipped as malformed, {filtered} below the least output)")]
    Empty {
        /// Path as given.
        file: String,
        /// Malformed rows.
        skipped: u64,
        /// Rows below the least output length.
        filtered: u64,
    },
}

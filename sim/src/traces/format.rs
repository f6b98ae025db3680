//! What a trace format is, and the rows that it reads.

use std::io::BufRead;

use super::error::TraceError;
use crate::job::Job;

/// How a format is recognised and read.
#[derive(Clone, Copy)]
pub(super) struct Format {
    /// Its name in [`Trace::format`](super::Trace::format).
    pub(super) name: &'static str,
    /// What a trace of it begins with, for whoever brings another.
    pub(super) begins_with: &'static str,
    /// Reads all rows of a trace with this first line, which the reader still holds; none where it is of no
    /// such format.
    pub(super) read: fn(&str, &mut dyn BufRead, &mut Rows<'_>) -> Option<Result<(), TraceError>>,
    /// What is to be done with the arrivals of all rows, in order and in seconds from the first.
    pub(super) settle: fn(&mut [f64]),
}

/// Timestamps are kept in units of 100 ns: the resolution of Azure's seven digits.
pub(super) const TICKS_PER_SECOND: i64 = 10_000_000;
/// Most tokens that a trace may ask one request to generate.
pub(super) const MAX_OUTPUT_TOKENS: u32 = 1 << 24;

pub(super) const PROMPT_EXPECTED: &str = "a whole number of tokens in 1..=4194304";
pub(super) const OUTPUT_EXPECTED: &str =
    "a whole number of tokens in 1..=16777216 (a request without output never decodes)";

/// Longest line of a trace in bytes, with its end, unless [`ReadOptions::max_line_bytes`] says otherwise: a
/// hundred times what the hashes of the longest prompt take.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// What to do with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Count malformed rows instead of refusing the trace.
    pub skip_bad_rows: bool,
    /// Leave out rows with fewer output tokens.
    pub min_output_tokens: u32,
    /// Longest line in bytes, with its end.
    pub max_line_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { skip_bad_rows: false, min_output_tokens: 0, max_line_bytes: MAX_LINE_BYTES }
    }
}

/// A row refused, before the file and line are known.
pub(super) struct Bad {
    pub(super) what: &'static str,
    pub(super) expected: &'static str,
    pub(super) found: String,
}

/// What has been read so far, and what to do with the next row.
pub(super) struct Rows<'a> {
    /// File, for errors.
    pub(super) file: &'a str,
    pub(super) options: ReadOptions,
    /// Arrival in ticks, and request.
    pub(super) rows: Vec<(i64, Job)>,
    pub(super) skipped: u64,
    pub(super) filtered: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(file: &'a str, options: ReadOptions) -> Self {
        Self { file, options, rows: Vec::new(), skipped: 0, filtered: 0 }
    }

    /// Takes the row of a line, leaves it out, or refuses the trace for it.
    pub(super) fn take(&mut self, line: u64, row: Result<(i64, Job), Bad>) -> Result<(), TraceError> {
        match row {
            Ok((_, job)) if job.output_tokens < self.options.min_output_tokens => self.filtered += 1,
            Ok(row) => self.rows.push(row),
            Err(_) if self.options.skip_bad_rows => self.skipped += 1,
            Err(Bad { what, expected, found }) => {
                let found = found.chars().take(80).collect();
                return Err(TraceError::Row { file: self.file.to_owned(), line, what, expected, found });
            }
        }
        Ok(())
    }
}

//! Public traces: Azure's CSV of 2023 and 2024 and Mooncake's JSON lines, known by their columns or keys.
//!
//! Read from a regular file or a stream, line by line: no line, and no CSV row that a quote carries over
//! several, is buffered past [`MAX_LINE_BYTES`]. A row that cannot be run is refused with its line, what was
//! expected and what was found, or counted when asked to. A format is one file here (`format.rs` says what it
//! must tell) and one line in `FORMATS`.

mod azure;
mod error;
mod format;
mod lines;
mod mooncake;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

pub use error::TraceError;
use format::{Format, Rows, TICKS_PER_SECOND};
pub use format::{MAX_LINE_BYTES, ReadOptions};
use lines::read_line;

use crate::job::Job;

/// Every format, in the order in which a trace is tried.
const FORMATS: [Format; 2] = [azure::FORMAT, mooncake::FORMAT];

/// A trace in order of arrival.
#[derive(Clone, Debug)]
pub struct Trace {
    /// File name without its folder.
    pub name: String,
    /// Name of its format, such as `azure` or `mooncake`.
    pub format: &'static str,
    /// The requests, in order of arrival.
    pub jobs: Vec<Job>,
    /// Arrival of each, in seconds from the first.
    pub arrival_s: Vec<f64>,
    /// Malformed rows left out.
    pub skipped_rows: u64,
    /// Rows left out for a short output.
    pub filtered_rows: u64,
}

impl Trace {
    /// Reads a trace of any known format from a regular file.
    ///
    /// # Errors
    /// An unreadable or unknown file, one that is no regular file, a line past the limit, the first malformed
    /// row unless they are skipped, or nothing left to run.
    pub fn read(path: &Path, options: ReadOptions) -> Result<Self, TraceError> {
        let file = path.display().to_string();
        let io = |source| TraceError::Io { file: file.clone(), source };
        // Before it is opened: opening a fifo waits for a writer.
        let kind = std::fs::metadata(path).map_err(io)?.file_type();
        if !kind.is_file() {
            return Err(TraceError::NotAFile { file, found: in_words(kind) });
        }
        let reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
        let name = path.file_name().map_or_else(|| file.clone(), |name| name.to_string_lossy().into_owned());
        Self::parse(reader, &file, name, options)
    }

    /// Reads a trace from a stream, such as standard input; the trace and its errors have this name.
    ///
    /// # Errors
    /// As [`Trace::read`].
    pub fn from_reader(reader: impl BufRead, name: &str, options: ReadOptions) -> Result<Self, TraceError> {
        Self::parse(reader, name, name.to_owned(), options)
    }

    /// Reads a trace from memory; errors call it `bytes`.
    ///
    /// # Errors
    /// As [`Trace::read`].
    pub fn parse_bytes(bytes: &[u8], options: ReadOptions) -> Result<Self, TraceError> {
        Self::from_reader(bytes, "bytes", options)
    }

    fn parse(
        mut reader: impl BufRead,
        file: &str,
        name: String,
        options: ReadOptions,
    ) -> Result<Self, TraceError> {
        let mut first = Vec::new();
        read_line(&mut reader, &mut first, file, 1, options.max_line_bytes)?;
        // A stream cannot be rewound.
        let mut reader = first.as_slice().chain(reader);
        let first_line = String::from_utf8_lossy(&first);
        let mut rows = Rows::new(file, options);
        let first_line = first_line.trim_start_matches('\u{feff}').trim();
        let known = FORMATS.iter().find_map(|format| {
            let read = (format.read)(first_line, &mut reader, &mut rows)?;
            Some(read.map(|()| format))
        });
        let format = known.unwrap_or_else(|| {
            Err(TraceError::Unrecognised {
                file: file.to_owned(),
                expected: FORMATS.map(|format| format.begins_with).join(" or "),
                found: first_line.chars().take(80).collect(),
            })
        })?;
        let Rows { mut rows, skipped, filtered, .. } = rows;
        if rows.is_empty() {
            return Err(TraceError::Empty { file: file.to_owned(), skipped, filtered });
        }
        // Logs merged from several front ends are not always in order.
        rows.sort_by_key(|&(ticks, _)| ticks);
        let start = rows[0].0;
        let mut arrival_s: Vec<f64> =
            rows.iter().map(|&(ticks, _)| (ticks - start) as f64 / TICKS_PER_SECOND as f64).collect();
        (format.settle)(&mut arrival_s);
        let jobs = rows.into_iter().map(|(_, job)| job).collect();
        Ok(Self {
            name,
            format: format.name,
            jobs,
            arrival_s,
            skipped_rows: skipped,
            filtered_rows: filtered,
        })
    }
}

/// What is no regular file.
fn in_words(kind: std::fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;

        for (is, words) in [
            (kind.is_fifo(), "a fifo"),
            (kind.is_socket(), "a socket"),
            (kind.is_char_device(), "a character device"),
            (kind.is_block_device(), "a block device"),
        ] {
            if is {
                return words;
            }
        }
    }
    if kind.is_dir() { "a directory" } else { "something else" }
}

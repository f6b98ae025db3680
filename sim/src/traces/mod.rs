//! Traces as people have them, known by their columns or keys: public traces, results of load generators,
//! spans, and logs.
//!
//! Read from a regular file or a stream, line by line: no line, and no CSV row that a quote carries over
//! several, is buffered past [`MAX_LINE_BYTES`]. A row that cannot be run is refused with its line, what was
//! expected and what was found, or counted when asked to. What could be read in two ways is refused with the
//! flag that settles it. A layout is one entry in `layout.rs`.

mod convert;
mod error;
mod input;
mod json;
mod layout;
mod lines;
mod options;
mod results;
mod rows;
mod shape;
mod stamp;
mod table;
#[cfg(test)]
mod tests;
mod ties;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

pub use convert::{Conversion, ConvertError, Target, convert};
pub use error::TraceError;
use lines::read_line;
pub use options::{ColumnMap, MAX_LINE_BYTES, ReadOptions, TimeUnit};
pub(crate) use results::Failed;
use rows::{Row, Rows};
pub use shape::{Lengths, Prefix, Sessions, Shape, Window};
use stamp::TICKS_PER_SECOND;

use crate::job::Job;

/// A trace in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// File name without its folder.
    pub name: String,
    /// Name of its layout, such as `azure` or `mooncake`.
    pub format: &'static str,
    /// The requests, in order of arrival.
    pub jobs: Vec<Job>,
    /// Arrival of each, in seconds from the first; empty where the trace has lengths only. Of a turn that
    /// comes a delay after the one before it, the earliest that it can be.
    pub arrival_s: Vec<f64>,
    /// For each request the turn before it, if it waits for one; empty where nobody waits.
    pub turns: Vec<Option<Turn>>,
    /// Tokens of a prefix block.
    pub block_tokens: u32,
    /// Malformed rows left out.
    pub skipped_rows: u64,
    /// Rows left out because they failed or generated nothing.
    pub rows_without_output: u64,
    /// Rows left out for a short output.
    pub filtered_rows: u64,
    /// Rows passed over that are no requests, such as other spans.
    pub other_rows: u64,
    /// Requests with images, whose cost is not simulated.
    pub requests_with_images: u64,
}

/// A turn of a session comes when it was logged, and not before the turn before it has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// The request that it waits for: its place in [`Trace::jobs`].
    pub after: u32,
    /// How long after the end of that it comes at the earliest, in seconds.
    pub delay_s: f64,
}

impl Trace {
    /// Reads a trace of any known layout from a regular file.
    ///
    /// # Errors
    /// An unreadable or unknown file, one that is no regular file, a line past the limit, the first malformed
    /// row unless they are skipped, what could be read in two ways, or nothing left to run.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self, TraceError> {
        let file = path.display().to_string();
        let reader = open(path, &file)?;
        let name = path.file_name().map_or_else(|| file.clone(), |name| name.to_string_lossy().into_owned());
        Self::parse(reader, &file, name, options)
    }

    /// Reads a trace from a stream, such as standard input; the trace and its errors have this name.
    ///
    /// # Errors
    /// As [`Trace::read`].
    pub fn from_reader(reader: impl BufRead, name: &str, options: &ReadOptions) -> Result<Self, TraceError> {
        Self::parse(reader, name, name.to_owned(), options)
    }

    /// Reads a trace from memory; errors call it `bytes`.
    ///
    /// # Errors
    /// As [`Trace::read`].
    pub fn parse_bytes(bytes: &[u8], options: &ReadOptions) -> Result<Self, TraceError> {
        Self::from_reader(bytes, "bytes", options)
    }

    fn parse(
        reader: impl BufRead,
        file: &str,
        name: String,
        options: &ReadOptions,
    ) -> Result<Self, TraceError> {
        if options.block_tokens == Some(0) {
            return Err(TraceError::option("block-tokens", "at least 1", "0"));
        }
        let mut reader = input::text(reader, file)?;
        let mut first = Vec::new();
        match read_line(&mut reader, &mut first, file, 1, options.max_line_bytes) {
            Err(TraceError::LineTooLong { .. }) if json::is_in_pieces(&first) => {}
            read => read?,
        }
        // A stream cannot be rewound.
        let mut reader = first.as_slice().chain(reader);
        let rows = if json::may_begin(&first) {
            json::read(&mut reader, &first, file, options)?
        } else {
            let first_line = String::from_utf8_lossy(&first);
            let rows = table::read(&mut reader, first_line.trim_end_matches(['\r', '\n']), file, options)?;
            rows.ok_or_else(|| TraceError::Unrecognised {
                file: file.to_owned(),
                expected: layout::known_by(),
                found: first_line.trim().chars().take(200).collect(),
            })?
        };
        Self::in_order(name, rows)
    }

    /// The rows in order of arrival.
    fn in_order(name: String, rows: Rows<'_>) -> Result<Self, TraceError> {
        let Rows { file, layout, skipped, filtered, without_output, others, with_images, .. } = rows;
        if rows.rows.is_empty() {
            let file = file.to_owned();
            return Err(TraceError::Empty { file, skipped, without_output, filtered });
        }
        if rows.options.block_tokens.is_none() {
            check_blocks(file, layout.block_tokens, &rows.rows)?;
        }
        let rows = rows.rows;
        // Logs merged from several front ends are not always in order.
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by_key(|&row| rows[row as usize].ticks);
        let start = rows[order[0] as usize].ticks;
        let seconds = |ticks: i64| ticks as f64 / TICKS_PER_SECOND as f64;
        let mut arrival_s = Vec::new();
        if layout.key(layout::Role::Time).is_some() {
            arrival_s.extend(order.iter().map(|&row| seconds(rows[row as usize].ticks - start)));
        }
        let mut turns = Vec::new();
        if rows.iter().any(|row| row.after.is_some()) {
            let mut place = vec![0; rows.len()];
            for (at, &row) in order.iter().enumerate() {
                place[row as usize] = at as u32;
            }
            turns.extend(order.iter().map(|&row| {
                let (after, delay) = rows[row as usize].after?;
                Some(Turn { after: place[after as usize], delay_s: seconds(delay) })
            }));
        } else if layout.ticked {
            // Turns are not moved: what lies between them is their delay.
            ties::spread(&mut arrival_s);
        }
        let mut rows: Vec<Option<Job>> = rows.into_iter().map(|row| Some(row.job)).collect();
        let mut jobs: Vec<Job> = order.iter().filter_map(|&row| rows[row as usize].take()).collect();
        name_sessions(&mut jobs, &turns);
        Ok(Self {
            name,
            format: layout.name,
            jobs,
            arrival_s,
            turns,
            block_tokens: layout.block_tokens,
            skipped_rows: skipped,
            rows_without_output: without_output,
            filtered_rows: filtered,
            other_rows: others,
            requests_with_images: with_images,
        })
    }

    /// From the first arrival to the last, in seconds; none where the trace has lengths only.
    #[must_use]
    pub fn span_s(&self) -> Option<f64> {
        self.arrival_s.last().copied()
    }

    /// Arrivals after the first per second; none where nothing lies between them.
    #[must_use]
    pub fn requests_per_s(&self) -> Option<f64> {
        let span_s = self.span_s().filter(|&span_s| span_s > 0.0)?;
        Some((self.jobs.len() - 1) as f64 / span_s)
    }
}

/// Gives the turns of each session the place of its first one as their name.
fn name_sessions(jobs: &mut [Job], turns: &[Option<Turn>]) {
    for at in 0..turns.len() {
        let mut first = at;
        // A turn waits for one that was logged before it, so that this ends.
        while let Some(turn) = turns[first] {
            first = turn.after as usize;
            if let Some(session) = jobs[first].session {
                first = session as usize;
                break;
            }
        }
        if first != at {
            jobs[first].session = Some(first as u64);
            jobs[at].session = Some(first as u64);
        }
    }
}

/// A regular file.
fn open(path: &Path, file: &str) -> Result<BufReader<File>, TraceError> {
    let io = |source| TraceError::Io { file: file.to_owned(), source };
    // Before it is opened: opening a fifo waits for a writer.
    let kind = std::fs::metadata(path).map_err(io)?.file_type();
    if !kind.is_file() {
        return Err(TraceError::NotAFile { file: file.to_owned(), found: in_words(kind) });
    }
    Ok(BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?))
}

/// The text of a regular file or, for -, of standard input, unpacked.
pub(crate) fn open_text(path: &Path, file: &str) -> Result<Box<dyn BufRead>, TraceError> {
    if path == Path::new("-") {
        return input::text(BufReader::new(std::io::stdin()), file);
    }
    input::text(open(path, file)?, file)
}

/// Whether the prompts can be as long as their blocks say: a layout that is taken for another has blocks of
/// another size. The last block of a prompt need not be full.
fn check_blocks(file: &str, block_tokens: u32, rows: &[Row]) -> Result<(), TraceError> {
    let (mut blocks, mut full, mut prompt_tokens) = (0, 0, 0);
    for job in rows.iter().map(|row| &row.job) {
        let count = job.prefix_blocks.as_ref().map_or(0, |blocks| blocks.len() as u64);
        blocks += count;
        full += count.saturating_sub(1);
        prompt_tokens += if count > 0 { u64::from(job.prompt_tokens) } else { 0 };
    }
    if full * u64::from(block_tokens) <= 2 * prompt_tokens {
        return Ok(());
    }
    Err(TraceError::Blocks { file: file.to_owned(), block_tokens, blocks, prompt_tokens })
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

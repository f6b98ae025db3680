//! Public traces: Azure's CSV of 2023 and 2024 and Mooncake's JSON lines, recognised by their columns or keys.
//!
//! Read from a regular file or a stream, line by line: no line, and no CSV row that a quote carries over several, is buffered past
//! [`MAX_LINE_BYTES`]. A row that cannot be run is refused with its line, what was expected and what was found, or counted when asked to.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use balanceroute::batch::MAX_PROMPT_TOKENS;
use serde_json::Value;
use thiserror::Error;

use crate::workloads::Job;

/// Timestamps are kept in units of 100 ns: the resolution of Azure's seven digits.
const TICKS_PER_SECOND: i64 = 10_000_000;
/// Most tokens that a trace may ask one request to generate.
const MAX_OUTPUT_TOKENS: u32 = 1 << 24;

/// Longest line of a trace in bytes, with its end, unless [`ReadOptions::max_line_bytes`] says otherwise: a hundred times what the
/// hashes of the longest prompt take.
pub const MAX_LINE_BYTES: usize = 16 << 20;

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
    /// A line, or a CSV row over several, that does not end within the limit. Never skipped: where it ends is not known.
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
    /// Neither of the known formats.
    #[error(
        "{file}: not a known trace: expected the columns TIMESTAMP,ContextTokens,GeneratedTokens or JSON lines with \
         timestamp, input_length, output_length; found {found:?}"
    )]
    Unrecognised {
        /// Path as given.
        file: String,
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

/// Which format a trace had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// `TIMESTAMP,ContextTokens,GeneratedTokens`, seven fractional digits, with or without an offset.
    Azure,
    /// JSON lines with `timestamp` in ms, `input_length`, `output_length`, `hash_ids`.
    Mooncake,
}

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

/// A trace in order of arrival.
#[derive(Clone, Debug)]
pub struct Trace {
    /// File name without its folder.
    pub name: String,
    /// Recognised format.
    pub format: Format,
    /// The requests, in order of arrival.
    pub jobs: Vec<Job>,
    /// Arrival of each, in seconds from the first.
    pub arrival_s: Vec<f64>,
    /// Malformed rows left out.
    pub skipped_rows: u64,
    /// Rows left out for a short output.
    pub filtered_rows: u64,
}

/// A row refused, before the file and line are known.
struct Bad {
    what: &'static str,
    expected: &'static str,
    found: String,
}

impl Trace {
    /// Reads a trace of either format from a regular file.
    ///
    /// # Errors
    /// An unreadable or unknown file, one that is no regular file, a line past the limit, the first malformed row unless they are
    /// skipped, or nothing left to run.
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
        let reader = first.as_slice().chain(reader);
        let first_line = String::from_utf8_lossy(&first);
        let mut rows = Rows { file, options, rows: Vec::new(), skipped: 0, filtered: 0 };
        let first_line = first_line.trim_start_matches('\u{feff}').trim();
        let format = if let Some(columns) = azure_columns(first_line) {
            rows.azure(reader, columns)?;
            Format::Azure
        } else if is_mooncake(first_line) {
            rows.mooncake(reader)?;
            Format::Mooncake
        } else {
            return Err(TraceError::Unrecognised {
                file: file.to_owned(),
                found: first_line.chars().take(80).collect(),
            });
        };
        let Rows { mut rows, skipped, filtered, .. } = rows;
        if rows.is_empty() {
            return Err(TraceError::Empty { file: file.to_owned(), skipped, filtered });
        }
        // Logs merged from several front ends are not always in order.
        rows.sort_by_key(|&(ticks, _)| ticks);
        let start = rows[0].0;
        let mut arrival_s: Vec<f64> =
            rows.iter().map(|&(ticks, _)| (ticks - start) as f64 / TICKS_PER_SECOND as f64).collect();
        if format == Format::Mooncake {
            spread_ties(&mut arrival_s);
        }
        let jobs = rows.into_iter().map(|(_, job)| job).collect();
        Ok(Self { name, format, jobs, arrival_s, skipped_rows: skipped, filtered_rows: filtered })
    }
}

/// Reads a line with its end into an empty buffer; at the end of the stream nothing.
fn read_line(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
    file: &str,
    number: u64,
    limit: usize,
) -> Result<(), TraceError> {
    let read = reader.by_ref().take(limit as u64 + 1).read_until(b'\n', line);
    read.map_err(|source| TraceError::Io { file: file.to_owned(), source })?;
    if line.len() > limit {
        let found_at_least = line.len();
        return Err(TraceError::LineTooLong { file: file.to_owned(), line: number, limit, found_at_least });
    }
    Ok(())
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

/// Hands out one line at a time, so that a CSV reader, which buffers whole rows, is stopped within a row that has become too long,
/// and the line of each row is known whatever blank lines are before it.
struct OneByOne<R> {
    inner: R,
    limit: usize,
    /// Number of the line that is handed out, from 1.
    line: u64,
    within_line: bool,
    /// Line on which the current row begins, once something of it has been handed out.
    row_line: Option<u64>,
    /// Bytes handed out for the current row.
    row_bytes: usize,
}

impl<R: BufRead> OneByOne<R> {
    fn new(inner: R, limit: usize) -> Self {
        Self { inner, limit, line: 0, within_line: false, row_line: None, row_bytes: 0 }
    }

    fn too_long(&self) -> bool {
        self.row_bytes > self.limit
    }

    /// Line of the row that has been read, or that is being read. A bare carriage return ends a row within a line.
    fn row_line(&self) -> u64 {
        self.row_line.unwrap_or(self.line)
    }

    fn next_row(&mut self) {
        self.row_line = None;
        self.row_bytes = 0;
    }
}

impl<R: BufRead> Read for OneByOne<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.inner.fill_buf()?;
        let end = available.iter().position(|&byte| byte == b'\n').map_or(available.len(), |at| at + 1);
        let length = end.min(into.len());
        let part = &available[..length];
        into[..length].copy_from_slice(part);
        if length == 0 {
            return Ok(0);
        }
        if !self.within_line {
            self.line += 1;
        }
        self.within_line = part.last() != Some(&b'\n');
        // Blank lines before a row do not belong to it.
        if self.row_line.is_some() || part.iter().any(|byte| !b"\r\n".contains(byte)) {
            self.row_line.get_or_insert(self.line);
            self.row_bytes += length;
        }
        self.inner.consume(length);
        if self.too_long() { Err(io::Error::other("a row past the limit")) } else { Ok(length) }
    }
}

struct Rows<'a> {
    file: &'a str,
    options: ReadOptions,
    rows: Vec<(i64, Job)>,
    skipped: u64,
    filtered: u64,
}

impl Rows<'_> {
    fn take(&mut self, line: u64, row: Result<(i64, Job), Bad>) -> Result<(), TraceError> {
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

    fn azure(&mut self, reader: impl BufRead, columns: [usize; 3]) -> Result<(), TraceError> {
        let limit = self.options.max_line_bytes;
        // The head is read as a row of its own, so that each row is counted alone.
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .has_headers(false)
            .from_reader(OneByOne::new(reader, limit));
        let mut record = csv::ByteRecord::new();
        let mut is_head = true;
        loop {
            let read = reader.read_byte_record(&mut record);
            let lines = reader.get_mut();
            let line = lines.row_line();
            match read {
                Ok(false) => return Ok(()),
                Ok(true) if is_head => is_head = false,
                Ok(true) => self.take(line, azure_row(&record, columns))?,
                Err(_) if lines.too_long() => {
                    let (file, found_at_least) = (self.file.to_owned(), limit + 1);
                    return Err(TraceError::LineTooLong { file, line, limit, found_at_least });
                }
                Err(error) => {
                    return Err(TraceError::Io {
                        file: self.file.to_owned(),
                        source: io::Error::other(error),
                    });
                }
            }
            lines.next_row();
        }
    }

    fn mooncake(&mut self, mut reader: impl BufRead) -> Result<(), TraceError> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            read_line(&mut reader, &mut line, self.file, number, self.options.max_line_bytes)?;
            if line.is_empty() {
                break;
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
            if !text.is_empty() {
                self.take(number, mooncake_row(text))?;
            }
        }
        Ok(())
    }
}

fn azure_columns(header: &str) -> Option<[usize; 3]> {
    let names: Vec<&str> = header.split(',').map(|name| name.trim().trim_matches('"')).collect();
    let of = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
    Some([of("TIMESTAMP")?, of("ContextTokens")?, of("GeneratedTokens")?])
}

fn azure_row(record: &csv::ByteRecord, columns: [usize; 3]) -> Result<(i64, Job), Bad> {
    let field = |column: usize, what: &'static str| {
        let bytes = record.get(columns[column]).ok_or_else(|| Bad {
            what,
            expected: "a field",
            found: format!("a row of {} fields", record.len()),
        })?;
        Ok(String::from_utf8_lossy(bytes).trim().to_owned())
    };
    let stamp = field(0, "TIMESTAMP")?;
    let ticks = parse_timestamp(&stamp).ok_or(Bad {
        what: "TIMESTAMP",
        expected: "YYYY-MM-DD HH:MM:SS.fffffff with or without an offset",
        found: stamp,
    })?;
    let tokens = |column, what, limit, expected| {
        let text = field(column, what)?;
        text.parse::<u32>().ok().filter(|tokens| (1..=limit).contains(tokens)).ok_or(Bad {
            what,
            expected,
            found: text,
        })
    };
    let prompt = tokens(1, "ContextTokens", MAX_PROMPT_TOKENS, PROMPT_EXPECTED)?;
    let output = tokens(2, "GeneratedTokens", MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED)?;
    Ok((ticks, Job::new(prompt, output)))
}

const PROMPT_EXPECTED: &str = "a whole number of tokens in 1..=4194304";
const OUTPUT_EXPECTED: &str =
    "a whole number of tokens in 1..=16777216 (a request without output never decodes)";

fn is_mooncake(first_line: &str) -> bool {
    serde_json::from_str::<Value>(first_line).is_ok_and(|row| {
        ["timestamp", "input_length", "output_length"].iter().all(|&key| row.get(key).is_some())
    })
}

fn mooncake_row(text: &[u8]) -> Result<(i64, Job), Bad> {
    let row: Value = serde_json::from_slice(text).map_err(|_| Bad {
        what: "row",
        expected: "a JSON object",
        found: String::from_utf8_lossy(text).into_owned(),
    })?;
    let field = |key: &'static str, expected: &'static str| {
        row.get(key).ok_or_else(|| Bad { what: key, expected, found: "no such key".to_owned() })
    };
    let stamp = field("timestamp", "milliseconds")?;
    // Below 2^40 seconds, so that the conversion to ticks cannot overflow.
    let ms = stamp.as_f64().filter(|ms| (0.0..1.1e15).contains(ms)).ok_or_else(|| Bad {
        what: "timestamp",
        expected: "milliseconds, not negative",
        found: stamp.to_string(),
    })?;
    let tokens = |key, limit, expected| {
        let value = field(key, expected)?;
        value
            .as_u64()
            .and_then(|tokens| u32::try_from(tokens).ok())
            .filter(|tokens| (1..=limit).contains(tokens))
            .ok_or_else(|| Bad { what: key, expected, found: value.to_string() })
    };
    let mut job = Job::new(
        tokens("input_length", MAX_PROMPT_TOKENS, PROMPT_EXPECTED)?,
        tokens("output_length", MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED)?,
    );
    if let Some(hashes) = row.get("hash_ids") {
        let blocks: Option<Vec<u64>> =
            hashes.as_array().and_then(|hashes| hashes.iter().map(Value::as_u64).collect());
        let blocks = blocks.ok_or_else(|| Bad {
            what: "hash_ids",
            expected: "an array of whole numbers",
            found: hashes.to_string(),
        })?;
        // Equal blocks and equal length: the nearest that the trace has to "the same prompt".
        let mut hasher = DefaultHasher::new();
        (job.prompt_tokens, &blocks).hash(&mut hasher);
        job.prompt_hash = Some(hasher.finish());
        job.prefix_blocks = Some(Arc::from(blocks));
    }
    Ok(((ms * (TICKS_PER_SECOND as f64 / 1e3)) as i64, job))
}

/// Ticks of 100 ns since 1970 of `YYYY-MM-DD HH:MM:SS[.fraction][Z|+HH:MM|-HH:MM]`.
fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let number = |text: &str, digits: usize, low: i64, high: i64| {
        let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|value| whole && (low..=high).contains(value))
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4, 1970, 9999)?;
    let month = number(parts.next()?, 2, 1, 12)?;
    let day = number(parts.next()?, 2, 1, 31)?;
    if parts.next().is_some() {
        return None;
    }

    let (time, offset_minutes) = if let Some(time) = time.strip_suffix('Z') {
        (time, 0)
    } else if let Some(at) = time.find(['+', '-']) {
        let (hours, minutes) = time[at + 1..].split_once(':')?;
        let minutes = number(hours, 2, 0, 23)? * 60 + number(minutes, 2, 0, 59)?;
        (&time[..at], if time.as_bytes()[at] == b'-' { -minutes } else { minutes })
    } else {
        (time, 0)
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let hour = number(parts.next()?, 2, 0, 23)?;
    let minute = number(parts.next()?, 2, 0, 59)?;
    let second = number(parts.next()?, 2, 0, 60)?;
    if parts.next().is_some() || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ticks = format!("{:0<7}", &fraction[..fraction.len().min(7)]).parse::<i64>().ok()?;

    // Days from the civil date: years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    Some(seconds * TICKS_PER_SECOND + ticks)
}

/// Mooncake logs in ticks of seconds: spreads the arrivals of a tick evenly up to the next one.
fn spread_ties(arrival_s: &mut [f64]) {
    let mut ticks: BTreeMap<u64, usize> = BTreeMap::new();
    for &at in arrival_s.iter() {
        *ticks.entry(at.to_bits()).or_default() += 1;
    }
    let starts: Vec<(f64, usize)> =
        ticks.into_iter().map(|(bits, count)| (f64::from_bits(bits), count)).collect();
    // A silent gap is not spread over: no tick is longer than the shortest distance between two.
    let tick = starts.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::INFINITY, f64::min);
    let tick = if tick.is_finite() { tick } else { 0.0 };
    let mut at = 0;
    for (start, count) in starts {
        for position in 0..count {
            arrival_s[at] = start + tick * position as f64 / count as f64;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, options: ReadOptions) -> Result<Trace, TraceError> {
        Trace::from_reader(text.as_bytes(), "t", options)
    }

    const SKIP: ReadOptions =
        ReadOptions { skip_bad_rows: true, min_output_tokens: 0, max_line_bytes: MAX_LINE_BYTES };

    #[test]
    fn azure_of_both_years() {
        let trace = parse(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
            ReadOptions::default(),
        )
        .expect("valid");
        assert_eq!(trace.format, Format::Azure);
        assert_eq!(trace.jobs, [Job::new(374, 44), Job::new(396, 109)]);
        assert!((trace.arrival_s[1] - 4.314579).abs() < 1e-9);

        let trace = parse(
            "\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\r\n2024-05-10 00:00:00.009930+00:00,2162,5\r\n2024-05-10 02:00:01+02:00,1,7\r\n",
            ReadOptions::default(),
        )
        .expect("valid");
        assert_eq!(trace.jobs, [Job::new(2162, 5), Job::new(1, 7)]);
        assert!((trace.arrival_s[1] - 0.99007).abs() < 1e-9);
    }

    #[test]
    fn columns_are_found_by_name_and_rows_are_sorted() {
        let trace = parse(
            "GeneratedTokens,TIMESTAMP,other,ContextTokens\n3,2024-02-29 00:00:01,x,30\n4,2024-02-28 23:59:59,x,40\n",
            ReadOptions::default(),
        )
        .expect("valid");
        assert_eq!(trace.jobs, [Job::new(40, 4), Job::new(30, 3)]);
        assert_eq!(trace.arrival_s, [0.0, 2.0]);
    }

    #[test]
    fn malformed_azure_rows_are_named() {
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n";
        for (row, what) in [
            ("2023-11-16 18:15:50.9951690,396,0", "GeneratedTokens"),
            ("2023-11-16 18:15:50.9951690,0,5", "ContextTokens"),
            ("2023-11-16 18:15:50.9951690,-1,5", "ContextTokens"),
            ("2023-11-16 18:15:50.9951690,396", "GeneratedTokens"),
            ("2023-13-16 18:15:50.9951690,396,5", "TIMESTAMP"),
            ("yesterday,396,5", "TIMESTAMP"),
            ("2023-11-16 18:15:50.,396,5", "TIMESTAMP"),
        ] {
            let text = format!("{head}{row}\n2023-11-16 18:16:00,1,1\n");
            match parse(&text, ReadOptions::default()) {
                Err(TraceError::Row { line: 3, what: found, .. }) => assert_eq!(found, what, "{row}"),
                other => panic!("{row}: {other:?}"),
            }
            let trace = parse(&text, SKIP).expect("skipped");
            assert_eq!((trace.jobs.len(), trace.skipped_rows), (2, 1), "{row}");
        }
    }

    const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 3000, "input_length": 6758, "output_length": 3, "hash_ids": [0, 1]}
"#;

    #[test]
    fn mooncake_rows_and_their_ticks() {
        let trace = parse(MOONCAKE, ReadOptions::default()).expect("valid");
        assert_eq!(trace.format, Format::Mooncake);
        assert_eq!(trace.arrival_s, [0.0, 1.5, 3.0]);
        assert_eq!(trace.jobs[0].prompt_hash, trace.jobs[2].prompt_hash);
        assert_ne!(trace.jobs[0].prompt_hash, trace.jobs[1].prompt_hash);
        assert_eq!(trace.jobs[1].prefix_blocks.as_deref(), Some(&[0, 14][..]));
        let filtered =
            parse(MOONCAKE, ReadOptions { min_output_tokens: 100, ..Default::default() }).expect("valid");
        assert_eq!((filtered.jobs.len(), filtered.filtered_rows), (2, 1));
    }

    #[test]
    fn malformed_mooncake_rows_are_named() {
        for (row, what) in [
            ("{\"timestamp\": 1,", "row"),
            ("{\"timestamp\": 1, \"input_length\": 5}", "output_length"),
            ("{\"timestamp\": -1, \"input_length\": 5, \"output_length\": 5}", "timestamp"),
            ("{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 0}", "output_length"),
            ("{\"timestamp\": 1, \"input_length\": 5.5, \"output_length\": 1}", "input_length"),
            ("{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": 3}", "hash_ids"),
        ] {
            let text = format!("{MOONCAKE}{row}\n");
            match parse(&text, ReadOptions::default()) {
                Err(TraceError::Row { line: 4, what: found, .. }) => assert_eq!(found, what, "{row}"),
                other => panic!("{row}: {other:?}"),
            }
            assert_eq!(parse(&text, SKIP).expect("skipped").skipped_rows, 1);
        }
    }

    const HEAD: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
    const ROW: &str = "2023-11-16 18:15:46.6805900,374,44";

    #[test]
    fn lines_have_a_limit_to_the_byte() {
        // Of an end of one byte and of two, the head being shorter than the row.
        for end in ["\n", "\r\n"] {
            let azure = format!("{HEAD}{end}{ROW}{end}{ROW},{}{end}", "x".repeat(20));
            let hashes = "1, ".repeat(20);
            let mooncake = MOONCAKE.lines().map(|line| format!("{line}{end}")).collect::<String>()
                + &format!(
                    "{{\"timestamp\": 9, \"input_length\": 5, \"output_length\": 5, \"hash_ids\": [{hashes}1]}}{end}"
                );
            for (text, number) in [(azure, 3), (mooncake, 4)] {
                let longest = text.split_inclusive('\n').map(str::len).max().expect("lines");
                let within = |max_line_bytes| parse(&text, ReadOptions { max_line_bytes, ..SKIP });
                assert_eq!(within(longest).expect("within the limit").skipped_rows, 0);
                match within(longest - 1) {
                    Err(TraceError::LineTooLong { line, limit, found_at_least, .. }) => {
                        assert_eq!((line, limit, found_at_least), (number, longest - 1, longest));
                    }
                    other => panic!("{other:?}"),
                }
                // Even the first one.
                assert!(matches!(within(20), Err(TraceError::LineTooLong { line: 1, .. })));
            }
        }
    }

    #[test]
    fn a_quoted_field_over_several_lines_counts_as_one() {
        let quoted = format!("{ROW},\"{}\"\n", "x\n".repeat(100));
        let text = format!("{HEAD}\n\n{quoted}{ROW}\n\r\n\nno row\n");
        match parse(&text, ReadOptions::default()) {
            Err(TraceError::Row { line, .. }) => assert_eq!(line, 107),
            other => panic!("{other:?}"),
        }
        let within = |max_line_bytes| parse(&text, ReadOptions { max_line_bytes, ..SKIP });
        assert_eq!(within(quoted.len()).expect("within the limit").jobs.len(), 2);
        assert!(matches!(within(quoted.len() - 1), Err(TraceError::LineTooLong { line: 3, .. })));
        // A carriage return alone ends a row and no line.
        match parse(&format!("{HEAD}\r\n{ROW}\rno row\r\n"), ReadOptions::default()) {
            Err(TraceError::Row { line, .. }) => assert_eq!(line, 2),
            other => panic!("{other:?}"),
        }
    }

    /// A stream without an end, of which no more is taken than the limit and what a reader asks for at once.
    #[test]
    fn an_endless_line_is_read_to_the_limit() {
        const SOME: u64 = 1 << 17;
        for head in ["", HEAD, &format!("{HEAD}\n{ROW}\n\n"), &format!("{HEAD}\n\""), MOONCAKE] {
            let mut endless = io::repeat(b'0').take(u64::MAX);
            let stream = head.as_bytes().chain(&mut endless);
            let options = ReadOptions { max_line_bytes: 1 << 20, ..SKIP };
            let result = Trace::from_reader(BufReader::new(stream), "t", options);
            assert!(matches!(result, Err(TraceError::LineTooLong { .. })), "{head}: {result:?}");
            let taken = u64::MAX - endless.limit();
            assert!(taken < (1 << 20) + SOME, "{head}: {taken}");
        }
    }

    #[test]
    fn unknown_and_empty_files_are_refused() {
        assert!(matches!(parse("a,b,c\n1,2,3\n", SKIP), Err(TraceError::Unrecognised { .. })));
        assert!(matches!(parse("", SKIP), Err(TraceError::Unrecognised { .. })));
        assert!(matches!(
            parse("TIMESTAMP,ContextTokens,GeneratedTokens\n", SKIP),
            Err(TraceError::Empty { .. })
        ));
    }

    /// The folder of public traces, or None where they are not needed.
    fn traces() -> Option<std::path::PathBuf> {
        let folder = std::env::var_os("BALANCEROUTE_TRACES")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces"), Into::into);
        if folder.is_dir() {
            return Some(folder);
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing", folder.display());
        println!("skipped: {} is missing", folder.display());
        None
    }

    #[test]
    fn public_traces_are_read_whole() {
        let Some(folder) = traces() else { return };
        for (name, format, rows) in [
            ("azure_2023_conv.csv", Format::Azure, 19_366),
            ("azure_2023_code.csv", Format::Azure, 8_819),
            ("mooncake_conversation.jsonl", Format::Mooncake, 12_031),
        ] {
            let trace = Trace::read(&folder.join(name), ReadOptions::default()).expect("readable");
            assert_eq!((trace.format, trace.jobs.len(), trace.skipped_rows), (format, rows, 0), "{name}");
            assert!(trace.arrival_s.is_sorted());
            assert!((3300.0..3700.0).contains(trace.arrival_s.last().expect("rows")), "{name}");
        }
    }
}

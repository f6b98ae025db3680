//! Lines within a limit, from a stream that cannot be rewound.

use std::io::{self, BufRead, Read};

use super::error::TraceError;

/// Reads a line with its end into an empty buffer; at the end of the stream nothing.
pub(super) fn read_line(
    mut reader: impl BufRead,
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

/// Hands out one line at a time, so that a CSV reader, which buffers whole rows, is stopped within a row that
/// has become too long, and the line of each row is known whatever blank lines are before it.
pub(super) struct OneByOne<R> {
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
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self { inner, limit, line: 0, within_line: false, row_line: None, row_bytes: 0 }
    }

    pub(super) fn too_long(&self) -> bool {
        self.row_bytes > self.limit
    }

    /// Line of the row that has been read, or that is being read. A bare carriage return ends a row within a
    /// line.
    pub(super) fn row_line(&self) -> u64 {
        self.row_line.unwrap_or(self.line)
    }

    pub(super) fn next_row(&mut self) {
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

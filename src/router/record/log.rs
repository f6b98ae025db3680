//! A log as it is read: segment after segment, each with a header, a state and calls.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::segment::{End, Reader};
use super::{RecordError, Untold, ring};
use crate::bytes::from_bytes;
use crate::policy::Parameters;
use crate::router::{Answer, Call};

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// Version of the library that wrote it.
    pub version: String,
    /// Name of the policy.
    pub policy: String,
    /// Its parameters, but for the backend, which is the reader's; none for a policy of the caller's.
    pub parameters: Option<Parameters>,
    /// Calls of the recording before those that this segment begins with.
    pub calls: u64,
    /// Who had left by then and may have been known to nobody.
    pub untold: Untold,
    /// Time of day as it began, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// A call and its answer, as they were written.
pub(super) type Recorded = (Call<'static>, Answer<'static>);

/// How a segment begins.
pub(super) struct Begun {
    pub header: Header,
    /// The call that did not fit into the segment before; the state is the one after it.
    pub last_call: Option<Recorded>,
    pub state: Vec<u8>,
}

/// Calls that were recorded, in order. Segments are read one by one.
pub struct Log {
    paths: std::vec::IntoIter<PathBuf>,
    reader: Option<(PathBuf, Reader)>,
    torn: Vec<(PathBuf, u64)>,
}

impl Log {
    /// The log in a folder, one segment of it, or the only one below a folder.
    ///
    /// # Errors
    /// There is none, or several, or a folder that cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RecordError> {
        let path = path.as_ref();
        let paths = if path.is_file() {
            vec![path.to_owned()]
        } else {
            let folder = ring::find(path)?;
            ring::segments(&folder)?.into_iter().map(|number| ring::path_of(&folder, number)).collect()
        };
        Ok(Self { paths: paths.into_iter(), reader: None, torn: Vec::new() })
    }

    /// Segments that end in something that cannot be read, and the byte where it begins: what the process
    /// was writing when the machine stopped, or damage.
    #[must_use]
    pub fn torn(&self) -> &[(PathBuf, u64)] {
        &self.torn
    }

    /// The next segment that has a beginning.
    pub(super) fn begin_next(&mut self) -> Result<Option<Begun>, RecordError> {
        while let Some(path) = self.paths.next() {
            match begin(&path) {
                Ok((begun, reader)) => {
                    self.reader = Some((path, reader));
                    return Ok(Some(begun));
                }
                // The process was killed before the segment was one.
                Err(RecordError::NoSegment { .. }) if self.paths.len() == 0 => self.torn.push((path, 0)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether the router has gone on after the segment without a log.
    pub(super) fn has_ended(&self) -> bool {
        self.reader.as_ref().is_some_and(|(_, reader)| reader.ended)
    }

    /// The next call of the segment.
    pub(super) fn next(&mut self) -> Result<Option<Recorded>, RecordError> {
        let Some((path, reader)) = &mut self.reader else { return Ok(None) };
        if let Some(bytes) = reader.next() {
            let recorded = from_bytes(bytes);
            return recorded.map(Some).ok_or_else(|| no_segment(path, "a record is no call"));
        }
        if let End::Torn(byte) = reader.end() {
            self.torn.push((path.clone(), byte));
        }
        self.reader = None;
        Ok(None)
    }
}

fn begin(path: &Path) -> Result<(Begun, Reader), RecordError> {
    let mut reader = Reader::open(path)?;
    let header: Header = reader
        .next()
        .and_then(from_bytes)
        .ok_or_else(|| no_segment(path, "it has no header, or another version's"))?;
    let (found, expected) = (&header.version, env!("CARGO_PKG_VERSION"));
    if found != expected {
        let (path, found, expected) = (path.to_owned(), found.clone(), expected.to_owned());
        return Err(RecordError::Version { path, found, expected });
    }
    let last_call = reader.next().and_then(from_bytes).ok_or_else(|| no_segment(path, "it is cut off"))?;
    let state = reader.next().ok_or_else(|| no_segment(path, "it has no state"))?.to_vec();
    Ok((Begun { header, last_call, state }, reader))
}

fn no_segment(path: &Path, what: &'static str) -> RecordError {
    RecordError::NoSegment { path: path.to_owned(), what }
}

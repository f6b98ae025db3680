//! One file of a log: magic, then records of a length, a sum and so many bytes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, compiler_fence};

use memmap2::MmapMut;
use serde::Serialize;

use super::RecordError;

pub(super) const MAGIC: [u8; 8] = *b"brlog\0\0\x01";
/// The byte of it that says that the router has gone on without a log.
const ENDED: usize = 6;
/// Before each record: its length and its sum.
const FRAME: usize = 8;

/// A segment that is written.
pub(super) struct Writer {
    map: MmapMut,
    at: usize,
}

impl Writer {
    /// A new file of so many bytes.
    pub(super) fn create(path: &Path, bytes: usize) -> Result<Self, RecordError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(RecordError::io("create", path))?;
        let filled = fill(&mut file, bytes).map_err(RecordError::io("write", path)).and_then(|()| {
            // SAFETY: the map is written by this process alone, which holds the lock of the folder; the file
            // has all its blocks, and whoever shortens it while it is recorded has to expect the worst.
            unsafe { MmapMut::map_mut(&file) }.map_err(RecordError::io("map", path))
        });
        match filled {
            Ok(mut map) => {
                map[..MAGIC.len()].copy_from_slice(&MAGIC);
                Ok(Self { map, at: MAGIC.len() })
            }
            Err(error) => {
                // What was begun must not be taken for a segment, nor fill the disk.
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Appends a record; false where it does not fit.
    #[inline]
    pub(super) fn push(&mut self, record: &impl Serialize) -> bool {
        // What was written of one that does not fit is no record: its length says that there is none.
        self.append(|room| postcard::to_slice(record, room).ok().map(|written| written.len()))
    }

    /// Appends bytes as a record; false where they do not fit.
    pub(super) fn push_bytes(&mut self, record: &[u8]) -> bool {
        self.append(|room| {
            room.get_mut(..record.len())?.copy_from_slice(record);
            Some(record.len())
        })
    }

    #[inline]
    fn append(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some((frame, room)) = self.map[self.at..].split_at_mut_checked(FRAME) else { return false };
        let Some(length) = write(room) else { return false };
        let sum = crc32fast::hash(&room[..length]);
        // A process that is killed in between leaves no length.
        compiler_fence(Ordering::Release);
        frame[4..].copy_from_slice(&sum.to_le_bytes());
        frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
        self.at += FRAME + length;
        true
    }

    /// Says that what comes next is in no segment. Takes no space, where there may be none.
    pub(super) fn mark_ended(&mut self) {
        self.map[ENDED] = 1;
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.at as u64
    }
}

/// Takes the space, so that a full disk is an error here and not a signal later.
fn fill(file: &mut File, bytes: usize) -> std::io::Result<()> {
    let zeros = [0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let some = left.min(zeros.len());
        file.write_all(&zeros[..some])?;
        left -= some;
    }
    Ok(())
}

/// A segment that is read.
pub(super) struct Reader {
    bytes: Vec<u8>,
    at: usize,
    end: End,
    /// Whether the router has gone on without a log.
    pub(super) ended: bool,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After a whole record.
    Whole,
    /// In the middle of one, or in something else: what follows the byte cannot be read.
    Torn(u64),
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, RecordError> {
        let bytes = std::fs::read(path).map_err(RecordError::io("read", path))?;
        Self::of(bytes).ok_or_else(|| RecordError::NoSegment {
            path: PathBuf::from(path),
            what: "it does not begin as one",
        })
    }

    fn of(mut bytes: Vec<u8>) -> Option<Self> {
        let ended = std::mem::take(bytes.get_mut(ENDED)?);
        let is_one = bytes.starts_with(&MAGIC) && ended <= 1;
        is_one.then_some(Self { bytes, at: MAGIC.len(), end: End::Whole, ended: ended == 1 })
    }

    /// The bytes of the next record; none after the last whole one.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let rest = &self.bytes[self.at..];
        let found = rest.split_first_chunk::<FRAME>().and_then(|(frame, rest)| {
            let (length, sum) = frame.split_first_chunk::<4>()?;
            let length = u32::from_le_bytes(*length) as usize;
            let sum = u32::from_le_bytes(sum.try_into().ok()?);
            let record = rest.get(..length).filter(|_| length > 0)?;
            (crc32fast::hash(record) == sum).then_some(length)
        });
        let Some(length) = found else {
            // Nothing has been written where all is zero; what a record left that did not fit is not zero but
            // has no length.
            let length = rest.get(..4).unwrap_or(rest);
            let empty = length.iter().all(|&byte| byte == 0);
            self.end = if empty { End::Whole } else { End::Torn(self.at as u64) };
            return None;
        };
        let from = self.at + FRAME;
        self.at = from + length;
        Some(&self.bytes[from..self.at])
    }

    /// How it ends, once [`Reader::next`] has said that there is nothing more.
    pub(super) fn end(&self) -> End {
        self.end
    }
}

//! Reading the device's answer: every index, count and status is checked before anything of it is used.

use thiserror::Error;

use super::layout::*;
use super::{DeviceColumn, DevicePick, Packing, Work};
use crate::pool::PoolSlot;

/// Why an answer of the device cannot be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerError {
    /// The output is too short or of another version.
    #[error("answer of the device: {what}: expected {expected}, found {found}")]
    Malformed {
        /// Which part of it.
        what: &'static str,
        /// The value expected.
        expected: u64,
        /// The value found.
        found: u64,
    },
    /// In some column, more requests than the kernel scores again are within rounding of the best.
    #[error("the device found too many near ties in a column")]
    Ties,
    /// A pick that breaks a limit of the batch.
    #[error("pick {index} of the device, request in pool slot {slot} on worker {worker}: {what}")]
    Pick {
        /// Its index.
        index: usize,
        /// The pool slot of its request.
        slot: u32,
        /// Its worker.
        worker: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Packing {
    /// Reads the picks of an answer, which is [`Packing::out_bytes`] long, into `picks`.
    pub(crate) fn read(&self, bytes: &[u8], picks: &mut Vec<DevicePick>) -> Result<Work, AnswerError> {
        picks.clear();
        let out = self.head(bytes)?;
        match out.status {
            STATUS_OK => {}
            STATUS_TIES => return Err(AnswerError::Ties),
            found => return Err(malformed("status", STATUS_OK.into(), found.into())),
        }
        if out.picks > self.header.max_picks {
            return Err(malformed("picks at most", self.header.max_picks.into(), out.picks.into()));
        }
        for index in 0..out.picks as usize {
            let pick =
                PickBytes::get(&bytes[self.header.out_picks_at as usize + index * size_of::<PickBytes>()..]);
            let slot = self.slot(pick.entry).ok_or(malformed("entry of a pick", 0, pick.entry.into()))?;
            if pick.worker >= self.header.workers {
                return Err(malformed(
                    "worker of a pick below",
                    self.header.workers.into(),
                    pick.worker.into(),
                ));
            }
            picks.push(DevicePick { slot, worker: pick.worker as usize, score: pick.score });
        }
        Ok(Work { columns: out.columns, rescored: out.rescored })
    }

    /// Reads the columns of an answer, worker by worker.
    pub(crate) fn read_columns(
        &self,
        bytes: &[u8],
        columns: &mut Vec<DeviceColumn>,
    ) -> Result<(), AnswerError> {
        columns.clear();
        if bytes.len() < self.out_bytes() {
            return Err(malformed("bytes", self.out_bytes() as u64, bytes.len() as u64));
        }
        for worker in 0..self.header.workers as usize {
            for (run, &class) in self.classes.iter().enumerate() {
                let from = self.header.out_columns_at as usize
                    + worker * self.header.column_stride as usize
                    + run * size_of::<ColumnBytes>();
                let column = ColumnBytes::get(&bytes[from..]);
                match column.status {
                    STATUS_OK => {}
                    STATUS_TIES => return Err(AnswerError::Ties),
                    found => return Err(malformed("status of a column", STATUS_OK.into(), found.into())),
                }
                let best = match column.entry {
                    NOBODY => None,
                    entry => {
                        let slot = self.slot(entry).ok_or(malformed("entry of a column", 0, entry.into()))?;
                        Some((slot, column.score))
                    }
                };
                columns.push(DeviceColumn { worker, class, best });
            }
        }
        Ok(())
    }

    /// Reads the head of an answer and checks length, magic and version.
    fn head(&self, bytes: &[u8]) -> Result<Out, AnswerError> {
        if bytes.len() < self.out_bytes() {
            return Err(malformed("bytes", self.out_bytes() as u64, bytes.len() as u64));
        }
        let out = Out::get(bytes);
        if out.magic != MAGIC {
            return Err(malformed("magic", MAGIC.into(), out.magic.into()));
        }
        if out.version != VERSION {
            return Err(malformed("version", VERSION.into(), out.version.into()));
        }
        Ok(out)
    }

    /// The pool slot of an entry; none for padding and beyond the last entry.
    fn slot(&self, entry: u32) -> Option<PoolSlot> {
        let &(slot, _) = self.entries.get(entry as usize)?;
        (slot != NOBODY).then_some(PoolSlot(slot))
    }
}

fn malformed(what: &'static str, expected: u64, found: u64) -> AnswerError {
    AnswerError::Malformed { what, expected, found }
}

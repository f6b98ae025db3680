//! What single requests gain on single workers, and which they may use.

use std::collections::HashMap;
use std::mem::offset_of;

use balanceroute::{PairTerms, Request};

use super::check_bonuses;
use crate::guard::{Failure, Versioned, array, needed, read_versioned};

/// What single requests gain on single workers in tokens, such as prefix affinity, and which workers they may
/// use. Rows are for one call: a request that waits on needs its row again in the next step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_bonuses {
    /// `sizeof(br_bonuses)`.
    pub struct_size: usize,
    /// Number of requests that have a row.
    pub count: usize,
    /// Their ids.
    pub ids: *const u64,
    /// A row of one entry per worker, in order of id, for each; NULL for no bonus where `eligible` has rows.
    pub tokens: *const f32,
    /// Which workers may take it: a row of one entry per worker, in order of id, for each, 0 for no and
    /// anything else for yes; NULL where any may.
    pub eligible: *const u8,
    /// Entries of a row, as the caller has them: a call with other workers is refused. 0 says nothing.
    pub workers: usize,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_bonuses {
    const NAME: &'static str = "br_bonuses";
    const FIRST_SIZE: usize = offset_of!(br_bonuses, eligible);
}

/// The rows of a call, if it has any.
///
/// # Safety
/// `from` is NULL or a struct.
pub(super) unsafe fn read_bonuses(from: *const br_bonuses) -> Result<Option<br_bonuses>, Failure> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let found = unsafe { read_versioned(from) }?;
    Ok((found.count > 0).then_some(found))
}

/// Rows of one call, checked.
pub(super) struct Terms<'a> {
    row_of: &'a HashMap<u64, usize>,
    workers: usize,
    tokens: &'a [f32],
    eligible: &'a [u8],
}

/// Reads the rows; `row_of`, which is emptied first, has the place of each.
///
/// # Safety
/// The arrays are as the header says and stay so during `'a`.
pub(super) unsafe fn read_terms<'a>(
    from: &br_bonuses,
    workers: usize,
    row_of: &'a mut HashMap<u64, usize>,
) -> Result<Terms<'a>, Failure> {
    if from.workers != 0 && from.workers != workers {
        let found = from.workers;
        let text = format!("br_bonuses.workers: expected {workers}, one entry per worker, found {found}");
        return Err(Failure::argument(text));
    }
    let count = from.count.saturating_mul(workers);
    // SAFETY: the caller's word.
    let (ids, eligible, tokens) = unsafe {
        let ids = needed("br_bonuses.ids", from.ids, from.count)?;
        let eligible = array("br_bonuses.eligible", from.eligible, count)?;
        let tokens = match eligible {
            Some(_) => array("br_bonuses.tokens", from.tokens, count)?.unwrap_or_default(),
            None => needed("br_bonuses.tokens", from.tokens, count)?,
        };
        (ids, eligible.unwrap_or_default(), tokens)
    };
    check_bonuses("br_bonuses.tokens", tokens)?;
    row_of.clear();
    for (row, &id) in ids.iter().enumerate() {
        if let Some(first) = row_of.insert(id, row) {
            let text = format!("br_bonuses.ids, entry {row}: request {id} has entry {first} already");
            return Err(Failure::argument(text));
        }
    }
    Ok(Terms { row_of, workers, tokens, eligible })
}

impl Terms<'_> {
    /// The row of a request, if there are such rows.
    fn row<'a, T>(&self, request: &Request, entries: &'a [T]) -> Option<&'a [T]> {
        let row = *self.row_of.get(&request.id.0)?;
        entries.get(row * self.workers..(row + 1) * self.workers)
    }
}

impl PairTerms for Terms<'_> {
    fn bonus(&mut self, request: &Request, into: &mut [f32]) -> bool {
        let Some(row) = self.row(request, self.tokens) else { return false };
        into.copy_from_slice(row);
        true
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        let Some(row) = self.row(request, self.eligible) else { return false };
        for (place, _) in row.iter().enumerate().filter(|&(_, &may)| may == 0) {
            workers[place / 64] &= !(1 << (place % 64));
        }
        true
    }
}

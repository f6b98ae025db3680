//! What single requests gain on single workers, and which they may use.

use std::collections::HashMap;
use std::ops::Range;

use balanceroute::WorkerId;
use balanceroute::batch::{MAX_BONUS_TOKENS, MAX_WORKERS};
use balanceroute::router as core;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::Column;
use crate::errors::Failure;

/// Rows of one argument, an entry per worker each, by the request that brings it.
#[derive(Default)]
struct Rows<T> {
    entries: Vec<T>,
    by_id: HashMap<u64, Range<usize>>,
    /// As they were given.
    ids: Vec<u64>,
}

impl<T> Rows<T> {
    fn of(&self, id: u64) -> Option<&[T]> {
        self.by_id.get(&id).map(|row| &self.entries[row.clone()])
    }

    fn add(
        &mut self,
        name: &'static str,
        id: u64,
        argument: &Bound<'_, PyAny>,
        read: impl FnOnce(&Column<'_, '_>, &mut Vec<T>) -> Result<(), Failure>,
    ) -> Result<&[T], Failure> {
        let column = Column::new(name, argument, None)?;
        column.at_most(MAX_WORKERS)?;
        let from = self.entries.len();
        read(&column, &mut self.entries)?;
        if self.by_id.insert(id, from..self.entries.len()).is_some() {
            return Err(Failure::Twice { name, id });
        }
        self.ids.push(id);
        Ok(&self.entries[from..])
    }

    /// Whether every row has an entry per worker, also those of requests that nobody knows.
    fn fit(&self, name: &'static str, expected: usize) -> Result<(), Failure> {
        let found = |id: &u64| self.by_id[id].len();
        match self.ids.iter().find(|&id| found(id) != expected) {
            Some(id) => Err(Failure::Row { name, id: *id, expected, found: found(id) }),
            None => Ok(()),
        }
    }
}

/// What single requests gain on single workers, and which they may use: read and checked, so that nothing of
/// a call with a wrong row is kept.
#[derive(Default)]
pub(crate) struct Terms {
    bonus_tokens: Rows<f32>,
    eligible: Rows<bool>,
}

impl Terms {
    const BONUS: &'static str = "bonus_tokens";
    const ELIGIBLE: &'static str = "eligible";

    /// Of a step: rows by request.
    pub(crate) fn of_step(
        bonus_tokens: Option<&Bound<'_, PyDict>>,
        eligible: Option<&Bound<'_, PyDict>>,
    ) -> Result<Self, Failure> {
        let mut terms = Self::default();
        for (id, row) in rows(bonus_tokens)? {
            terms.add_bonus(id, &row)?;
        }
        for (id, row) in rows(eligible)? {
            terms.add_eligible(id, &row)?;
        }
        Ok(terms)
    }

    /// Of one request.
    pub(crate) fn of_request(
        id: u64,
        bonus_tokens: Option<&Bound<'_, PyAny>>,
        eligible: Option<&Bound<'_, PyAny>>,
    ) -> Result<Self, Failure> {
        let mut terms = Self::default();
        bonus_tokens.map_or(Ok(()), |row| terms.add_bonus(id, row))?;
        eligible.map_or(Ok(()), |row| terms.add_eligible(id, row))?;
        Ok(terms)
    }

    fn add_bonus(&mut self, id: u64, argument: &Bound<'_, PyAny>) -> Result<(), Failure> {
        let (name, limit) = (Self::BONUS, MAX_BONUS_TOKENS);
        let row = self.bonus_tokens.add(name, id, argument, |column, into| column.bonuses(into))?;
        match row.iter().position(|tokens| !(-limit..=limit).contains(tokens)) {
            Some(index) => Err(Failure::Entry { name, id, index, limit: limit.into(), found: row[index] }),
            None => Ok(()),
        }
    }

    fn add_eligible(&mut self, id: u64, argument: &Bound<'_, PyAny>) -> Result<(), Failure> {
        let read = |column: &Column<'_, '_>, into: &mut Vec<bool>| column.flags(|_, flag| into.push(flag));
        self.eligible.add(Self::ELIGIBLE, id, argument, read).map(drop)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bonus_tokens.ids.is_empty() && self.eligible.ids.is_empty()
    }

    /// Refuses a row that has not an entry per worker.
    pub(crate) fn fit(&self, workers: usize) -> Result<(), Failure> {
        self.bonus_tokens.fit(Self::BONUS, workers)?;
        self.eligible.fit(Self::ELIGIBLE, workers)
    }
}

/// What one who waits gains on single workers, and which may take it.
#[derive(Default)]
struct OfOne {
    bonus_tokens: Vec<(WorkerId, f32)>,
    eligible: Option<Vec<WorkerId>>,
}

/// Terms that hold for as long as a request waits. They name workers by their ids, which stay what they are
/// when others come and go.
#[derive(Default)]
pub(crate) struct Kept {
    by_id: HashMap<u64, OfOne>,
}

impl Kept {
    /// In place of what was kept of a request; nothing may be.
    pub(crate) fn set(&mut self, id: u64, bonus_tokens: Vec<(u32, f32)>, eligible: Option<Vec<u32>>) {
        if bonus_tokens.is_empty() && eligible.is_none() {
            self.drop(id);
            return;
        }
        let bonus_tokens = bonus_tokens.into_iter().map(|(at, tokens)| (WorkerId::new(at), tokens)).collect();
        let eligible = eligible.map(|of| of.into_iter().map(WorkerId::new).collect());
        self.by_id.insert(id, OfOne { bonus_tokens, eligible });
    }

    /// It waits no more.
    pub(crate) fn drop(&mut self, id: u64) {
        if !self.by_id.is_empty() {
            self.by_id.remove(&id);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.by_id.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// Bonuses by worker, within their limits.
pub(crate) fn bonuses(id: u64, of: Option<&Bound<'_, PyDict>>) -> Result<Vec<(u32, f32)>, Failure> {
    let mut read = Vec::new();
    for item in of.map(|rows| rows.items()).into_iter().flatten() {
        let (worker, tokens): (u32, f32) = item.extract()?;
        let (name, limit, index) = (Terms::BONUS, MAX_BONUS_TOKENS, worker as usize);
        if !(-limit..=limit).contains(&tokens) {
            return Err(Failure::Entry { name, id, index, limit: limit.into(), found: tokens });
        }
        read.push((worker, tokens));
    }
    Ok(read)
}

/// Ids of workers, from whatever can be gone through.
pub(crate) fn worker_ids(of: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    of.try_iter()?.map(|worker| worker?.extract()).collect()
}

/// The terms of a step: what is given for it, and for others what is kept.
pub(crate) struct OfStep<'a> {
    pub given: &'a Terms,
    pub kept: &'a Kept,
    /// Of the workers, ascending.
    pub ids: &'a [WorkerId],
}

impl core::PairTerms for OfStep<'_> {
    fn bonus(&mut self, request: &balanceroute::Request, into: &mut [f32]) -> bool {
        if self.given.bonus(request, into) {
            return true;
        }
        let Some(of) = self.kept.by_id.get(&request.id.get()) else { return false };
        for (worker, tokens) in &of.bonus_tokens {
            if let Ok(place) = self.ids.binary_search(worker) {
                into[place] = *tokens;
            }
        }
        !of.bonus_tokens.is_empty()
    }

    fn eligible(&mut self, request: &balanceroute::Request, workers: &mut [u64]) -> bool {
        if self.given.eligible(request, workers) {
            return true;
        }
        let of = self.kept.by_id.get(&request.id.get()).and_then(|of| of.eligible.as_ref());
        let Some(may) = of else { return false };
        for (place, _) in self.ids.iter().enumerate().filter(|(_, id)| !may.contains(id)) {
            workers[place / 64] &= !(1 << (place % 64));
        }
        true
    }
}

/// A list of its own: what a key does as it is read may change the dict.
fn rows<'py>(of: Option<&Bound<'py, PyDict>>) -> Result<Vec<(u64, Bound<'py, PyAny>)>, Failure> {
    let items = of.map(|rows| rows.items());
    let pair = |item: Bound<'py, PyAny>| {
        let (id, row) = item.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>()?;
        Ok((id.extract()?, row))
    };
    Ok(items.into_iter().flatten().map(pair).collect::<PyResult<_>>()?)
}

impl core::PairTerms for &Terms {
    fn bonus(&mut self, request: &balanceroute::Request, into: &mut [f32]) -> bool {
        let Some(row) = self.bonus_tokens.of(request.id.get()) else { return false };
        into.copy_from_slice(row);
        true
    }

    fn eligible(&mut self, request: &balanceroute::Request, workers: &mut [u64]) -> bool {
        let Some(row) = self.eligible.of(request.id.get()) else { return false };
        for (place, _) in row.iter().enumerate().filter(|&(_, &may)| !may) {
            workers[place / 64] &= !(1 << (place % 64));
        }
        true
    }
}

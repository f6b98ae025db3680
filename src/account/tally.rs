//! Sums over the requests of one worker that are in one stage.

use crate::account::running::{Active, NONE, Slab};

/// Requests and tokens. Of those that grow with their worker each token is less the worker's growth at its
/// request's birth; of the others it is what it is, and they are read with a growth of zero.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Tally {
    pub requests: u32,
    pub base_tokens: i64,
    /// What they may grow by and an admission leaves free.
    pub growth_tokens: i64,
}

impl Tally {
    pub(super) fn add(&mut self, active: &Active) {
        self.requests += 1;
        self.base_tokens += active.base_tokens();
        self.growth_tokens += i64::from(active.growth_tokens);
    }

    pub(super) fn take(&mut self, active: &Active) {
        self.requests -= 1;
        self.base_tokens -= active.base_tokens();
        self.growth_tokens -= i64::from(active.growth_tokens);
    }

    #[inline]
    pub(super) fn tokens(&self, grown_tokens: i64) -> u64 {
        (self.base_tokens + i64::from(self.requests) * grown_tokens).max(0) as u64
    }
}

/// The requests of one stage, in the order in which they entered it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Line {
    pub tally: Tally,
    pub head: u32,
    pub tail: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self { tally: Tally::default(), head: NONE, tail: NONE }
    }
}

impl Line {
    pub(super) fn push(&mut self, slab: &mut Slab, index: u32) {
        let active = &mut slab.entries[index as usize];
        (active.previous, active.next) = (self.tail, NONE);
        self.tally.add(active);
        match std::mem::replace(&mut self.tail, index) {
            NONE => self.head = index,
            tail => slab.entries[tail as usize].next = index,
        }
    }

    pub(super) fn unlink(&mut self, slab: &mut Slab, index: u32) {
        let active = slab.entries[index as usize];
        self.tally.take(&active);
        match active.previous {
            NONE => self.head = active.next,
            previous => slab.entries[previous as usize].next = active.next,
        }
        match active.next {
            NONE => self.tail = active.previous,
            next => slab.entries[next as usize].previous = active.previous,
        }
    }
}

//! The running requests, wherever they run.

use std::collections::HashMap;

use crate::batch::Request;
use crate::ids::{RequestId, WorkerId};

pub(crate) const NONE: u32 = u32::MAX;

/// How far a request is on its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Stage {
    /// Nothing has shown that the worker has it.
    Sent,
    /// A report has acknowledged it. Its KV cache may still be on the way, or be filled part by part.
    Received,
    /// Its engine says that its KV cache is on the way or is filled part by part: it does not grow.
    Held,
    /// It has shown tokens: its KV cache is there.
    Decoding,
    /// Its engine has taken its KV cache away and will go on with it by itself: it does not grow.
    Preempted,
}

impl Stage {
    /// Whether it has a token more when its worker's requests have.
    pub(crate) fn grows(self) -> bool {
        !matches!(self, Self::Held | Self::Preempted)
    }
}

/// A running request; its slab index names it to the event buckets. What an event looks at comes first and is
/// one line of a cache: of many thousand requests hardly any is there when it grows.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[repr(C, align(64))]
pub(crate) struct Active {
    /// Tokens that the worker had grown by when this request had generated none; below zero if it is older
    /// than our record. While it does not grow: what it has generated, below zero.
    pub born_tokens: i64,
    /// The step clock when it had generated nothing.
    pub born_step: i64,
    /// Its dispatch number; zero for one that was adopted.
    pub number: u64,
    /// When it was dispatched; once its worker is known to have it, when that was known.
    pub since_ms: u64,
    /// Worker id.
    pub worker: WorkerId,
    /// Tokens that it had generated when its life was last looked at.
    pub seen_tokens: u32,
    /// What it may grow by and an admission leaves free.
    pub growth_tokens: u32,
    /// The request that had progressed after it in a call for many: most likely it does again.
    pub follower: u32,
    /// Its place among all of its worker's.
    pub(super) member: u32,
    /// Its neighbours among the worker's requests of its stage, where it is not decoding.
    pub(super) previous: u32,
    pub(super) next: u32,
    pub stage: Stage,
    pub live: bool,
    /// As it was when it had generated nothing; its rank, if any, is a worker id.
    pub request: Request<WorkerId>,
    /// Tokens that the worker had grown by when it was acknowledged.
    pub received_tokens: i64,
    /// Its place in the order of arrival.
    pub arrival: u64,
    /// Refresh phase.
    pub phase: u32,
    /// Position in that phase's list.
    pub phase_at: u32,
}

impl Active {
    pub(crate) fn new(
        request: Request<WorkerId>,
        worker: WorkerId,
        born_tokens: i64,
        born_step: i64,
        (since_ms, arrival): (u64, u64),
    ) -> Self {
        Self {
            request,
            worker,
            born_tokens,
            born_step,
            seen_tokens: 0,
            arrival,
            phase: 0,
            phase_at: 0,
            number: 0,
            since_ms,
            stage: Stage::Decoding,
            growth_tokens: 0,
            follower: NONE,
            received_tokens: 0,
            live: true,
            member: 0,
            previous: NONE,
            next: NONE,
        }
    }

    /// Prompt tokens less the worker's growth at birth: add the growth now for what it holds, where it grows.
    pub(super) fn base_tokens(&self) -> i64 {
        i64::from(self.request.prompt_tokens) - self.born_tokens
    }
}

/// The running requests.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Slab {
    pub entries: Vec<Active>,
    vacant: Vec<u32>,
    by_id: HashMap<RequestId, u32>,
}

impl Slab {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn index_of(&self, id: RequestId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn insert(&mut self, active: Active) -> u32 {
        let index = match self.vacant.pop() {
            Some(index) => {
                self.entries[index as usize] = active;
                index
            }
            None => {
                self.entries.push(active);
                // Everybody may leave.
                self.vacant.reserve(self.entries.len());
                (self.entries.len() - 1) as u32
            }
        };
        self.by_id.insert(active.request.id, index);
        index
    }

    /// Ids of everybody, in no order.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        self.by_id.keys().copied().collect()
    }

    /// [`Slab::index_of`], where most likely it is this one.
    pub(crate) fn index_near(&self, id: RequestId, likely: u32) -> Option<u32> {
        match self.entries.get(likely as usize) {
            Some(active) if active.live && active.request.id == id => Some(likely),
            _ => self.index_of(id),
        }
    }

    /// What it was can be read in its place until another one has that.
    pub(super) fn remove(&mut self, index: u32) {
        let active = &mut self.entries[index as usize];
        active.live = false;
        self.by_id.remove(&active.request.id);
        self.vacant.push(index);
    }
}

//! The picks of a step as the engine keeps them, and the order in which open workers choose.

use crate::batch::MAX_WORKERS;

/// A request that was given to a worker in this step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    /// Its place in the length order.
    pub position: usize,
    pub worker: usize,
    pub tokens: i64,
    pub score: i64,
    pub overdue: bool,
    /// Whether terms of its own hold it where it is: found out before picks change places.
    pub held: bool,
    /// The length wanted when it was chosen; none where it was not.
    pub wanted_tokens: Option<i64>,
    /// How many changes the repair had made, plus one, when it was last found to be the best for its worker.
    pub best_at: u32,
}

impl Pick {
    /// A pick of nobody's choice.
    pub(crate) fn new(worker: usize, position: usize, tokens: i64) -> Self {
        Self {
            position,
            worker,
            tokens,
            score: 0,
            overdue: false,
            held: false,
            wanted_tokens: None,
            best_at: 0,
        }
    }

    /// Whether another worker may take it over.
    pub(crate) fn may_move(&self) -> bool {
        !self.overdue && !self.held
    }
}

/// A worker's place among the open ones in one word, which sorts faster than a pair: loads stay below 2^54.
pub(crate) fn open_key(cost: i64, worker: usize) -> u64 {
    (cost as u64) << MAX_WORKERS.trailing_zeros() | worker as u64
}

pub(crate) fn worker_of(key: u64) -> usize {
    (key % MAX_WORKERS as u64) as usize
}

/// The load in such a word.
pub(crate) fn cost_of(key: u64) -> u64 {
    key / MAX_WORKERS as u64
}

/// Puts a worker back among the open ones.
#[inline(always)]
pub(crate) fn put_back(open: &mut Vec<u64>, cost: i64, worker: usize) {
    let key = open_key(cost, worker);
    let at = open.partition_point(|other| *other > key);
    open.insert(at, key);
}

/// Makes room for so many: what a later batch may need is there before it.
pub(crate) fn hold<T>(values: &mut Vec<T>, count: usize) {
    values.reserve(count.saturating_sub(values.len()));
}

/// For how many workers and picks there is room by now. A clone of buffers keeps no room, so neither does a
/// clone of this.
#[derive(Debug, Default)]
pub(crate) struct Room {
    workers: usize,
    picks: usize,
}

impl Clone for Room {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Room {
    /// Whether room must be made for so many.
    pub(crate) fn grow(&mut self, workers: usize, picks: usize) -> bool {
        let more = workers > self.workers || picks > self.picks;
        if more {
            (self.workers, self.picks) = (self.workers.max(workers), self.picks.max(picks));
        }
        more
    }
}

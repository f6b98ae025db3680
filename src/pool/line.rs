//! Those of one class who wait: the candidates of a decision, and everybody behind them.

use super::candidates::{Candidates, PoolSlot};
use super::queue::{Heads, Queue};
use super::waiting::Waiting;

/// Where a request stands, in the line of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Place {
    Candidate(i8, PoolSlot),
    Queued(i8, u32),
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Line {
    pub(super) priority: i8,
    pub(super) candidates: Candidates,
    pub(super) queue: Queue,
    /// The window while it is moved on.
    pub(super) further: Candidates,
    pub(super) moved: bool,
}

impl Line {
    /// Nobody of a class, at a time of the step clock.
    pub(super) fn new(priority: i8, now_step: u32) -> Self {
        let mut candidates = Candidates::new();
        candidates.set_step(now_step, 0);
        Self { priority, candidates, queue: Queue::new(), further: Candidates::new(), moved: false }
    }

    pub(super) fn len(&self) -> usize {
        self.candidates.len() + self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn clear(&mut self) {
        self.candidates.clear();
        self.queue.clear();
        self.moved = false;
    }

    /// Replaces everybody by those who are given in order of arrival, the first in slot 0.
    pub(super) fn refill(&mut self, mut waiting: impl Iterator<Item = Waiting>, window: usize) {
        self.candidates.refill(waiting.by_ref().take(window));
        for waiting in waiting {
            self.queue.push(waiting);
        }
    }

    /// Everybody in order of arrival, with the slots of those in the window, where that is not moved on.
    pub(super) fn iter_with_slots(&self) -> impl Iterator<Item = (Option<PoolSlot>, Waiting)> {
        let window = self.candidates.iter_as_they_stand(Vec::new());
        let behind = self.queue.iter(Heads::new()).map(|waiting| (None, waiting));
        window.map(|(slot, waiting)| (Some(slot), waiting)).chain(behind)
    }

    /// Who a decision chooses among.
    pub(super) fn window(&self) -> &Candidates {
        if self.moved { &self.further } else { &self.candidates }
    }
}

//! Where the window stands, and who leaves with the next decision.

use super::queue::{Heads, Wanted};
use super::waiting::{Mark, Waiting};
use super::{Place, Pool};
use crate::entities::request::Request;
use crate::entities::worker::Worker;
use crate::ids::{RequestId, WorkerIndex};

impl Pool {
    /// For a pool of one decision, before its batch is drafted: where more wait than the window holds, it is
    /// moved past those who may not enter a worker as things stand, by slots, room (`growth_tokens` is that
    /// of the batch), rank and eligibility. Nothing moves where nobody may enter.
    pub fn look_past_shut(&mut self, workers: &[Worker], growth_tokens: u32, eligible: &[u64]) {
        self.moved = false;
        if self.queue.is_empty() {
            return;
        }
        // Nothing has been checked yet: sums may be of anything.
        let room = |worker: &Worker| match worker.kv_capacity_tokens {
            Some(capacity) => {
                i128::from(capacity) - i128::from(worker.kv_used_tokens) - i128::from(worker.kv_growth_tokens)
            }
            None => i128::MAX / 2,
        };
        let open: Vec<(usize, i128)> = (0..workers.len())
            .filter(|&at| workers[at].open_slots() > 0)
            .map(|at| (at, room(&workers[at]) - i128::from(growth_tokens)))
            .collect();
        let words = workers.len().div_ceil(64);
        let may = |request: &Request| {
            // A row that is not there is the batch's to refuse.
            let mask = request
                .pair_row
                .and_then(|row| eligible.get((row as usize).saturating_mul(words)..)?.get(..words));
            open.iter().any(|&(at, room)| {
                i128::from(request.prompt_tokens) <= room
                    && request.rank.is_none_or(|rank| rank.index() == at || rank.index() >= workers.len())
                    && mask.is_none_or(|mask| mask[at / 64] >> (at % 64) & 1 == 1)
            })
        };
        self.further.set_step(self.candidates.now_step(), 0);
        let everybody = self.candidates.iter().map(|(slot, ..)| *self.candidates.waiting(slot));
        let everybody = everybody.chain(self.queue.iter(Heads::new()));
        self.further.refill(everybody.filter(|waiting| may(&waiting.request)).take(self.window));
        self.moved = !self.further.is_empty();
    }

    /// Marks those who leave with the next decision, and gives the id of each to `leaves`, once: those who
    /// have waited for `after_ms`.
    pub(crate) fn mark_expired(&mut self, (now_ms, after_ms): (u64, u64), mut leaves: impl FnMut(RequestId)) {
        let dates = &self.dates;
        // Whoever came later has waited less.
        let is_old = |waiting: &Waiting| {
            // Who has no date yet gets that of now.
            let since_ms = dates.since_ms(waiting).min(now_ms);
            now_ms - since_ms >= after_ms
        };
        self.candidates.mark(|waiting| is_first(waiting, is_old), &mut leaves);
        self.queue.mark_first(is_old, leaves);
    }

    /// Marks everybody who is bound to a rank.
    pub(crate) fn mark_bound(&mut self, rank: WorkerIndex, mut leaves: impl FnMut(RequestId)) {
        if self.candidates.any_rank() {
            let bound = |waiting: &Waiting| waiting.request.rank == Some(rank);
            self.candidates
                .mark(|waiting| if bound(waiting) { Mark::Leaves } else { Mark::Stays }, &mut leaves);
        }
        self.queue.mark_bound(rank, leaves);
    }

    /// Marks everybody longer than the limit of the rank that it is bound to; `limit_of` says none
    /// where there is no limit.
    pub(crate) fn mark_longer(
        &mut self,
        limit_of: impl Fn(Option<WorkerIndex>) -> Option<i64>,
        mut leaves: impl FnMut(RequestId),
    ) {
        let is_longer = |waiting: &Waiting| {
            limit_of(waiting.request.rank)
                .is_some_and(|limit| i64::from(waiting.request.prompt_tokens) > limit)
        };
        self.candidates
            .mark(|waiting| if is_longer(waiting) { Mark::Leaves } else { Mark::Stays }, &mut leaves);
        self.queue.mark_longer(limit_of, leaves);
    }

    /// Marks everybody of whom this is true: it looks at all who wait.
    pub(crate) fn mark_if(&mut self, is_so: impl Fn(&Request) -> bool, mut leaves: impl FnMut(RequestId)) {
        self.candidates
            .mark(|waiting| if is_so(&waiting.request) { Mark::Leaves } else { Mark::Stays }, &mut leaves);
        self.queue.mark_if(is_so, leaves);
    }

    /// Takes marks back.
    pub(crate) fn unmark(&mut self, ids: impl Iterator<Item = RequestId>) {
        for id in ids {
            match self.place(id) {
                Some(Place::Candidate(slot)) => self.candidates.unmark(slot),
                Some(Place::Queued(node)) => self.queue.unmark(node),
                None => {}
            }
        }
    }

    /// How many wait behind the window, by the rank that they are bound to.
    pub(crate) fn queued(&self) -> impl Iterator<Item = (Option<WorkerIndex>, usize)> {
        self.queue.ranks()
    }

    /// How many of those have at most so many tokens.
    pub(crate) fn queued_of_at_most(&self, rank: Option<WorkerIndex>, tokens: i64) -> usize {
        self.queue.count_of_length(rank, Wanted::AtMost(tokens))
    }

    /// Whether somebody waits behind the window.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Before a decision: where some of the window leave with it, it is moved to the oldest who stay.
    pub(crate) fn look_past_marked(&mut self) {
        self.moved = self.candidates.any_marked();
        if !self.moved {
            self.queue.search_from(0);
            return;
        }
        let stay = |waiting: &Waiting| !waiting.leaves;
        self.candidates.passed_by_slot(&mut self.by_slot);
        let by_slot = &self.by_slot;
        let all = self
            .candidates
            .iter()
            .map(|(slot, ..)| {
                let waiting = *self.candidates.waiting(slot);
                Waiting { request: waiting.request.passed(by_slot[slot.index()]), ..waiting }
            })
            .chain(self.queue.iter(&mut self.heads))
            .filter(stay);
        self.further.set_step(self.candidates.now_step(), 0);
        self.further.refill(all.take(self.window));
        let last = self.further.last_arrival();
        self.queue.search_from(last.map_or(u64::MAX, |last| last + 1));
    }

    /// Moves the window on past everybody who stands in it, to the next who stay and have at most as many
    /// tokens as `most_tokens` says for the rank that they are bound to (none for no room). False where there
    /// is nobody.
    pub(crate) fn move_on(&mut self, most_tokens: impl Fn(Option<WorkerIndex>) -> Option<i64>) -> bool {
        self.moved = true;
        let wanted = |rank| most_tokens(rank).map(Wanted::AtMost);
        self.queue.search(wanted, self.window, &mut self.found);
        let queue = &self.queue;
        self.further.set_step(self.candidates.now_step(), 0);
        self.further.refill(self.found.iter().map(|&node| queue.as_it_stands(node)));
        !self.further.is_empty()
    }

    /// Whether the window stands elsewhere than with the oldest.
    pub(crate) fn is_moved(&self) -> bool {
        self.moved
    }

    /// Moves the window back to the oldest.
    pub(crate) fn move_back(&mut self) {
        self.moved = false;
    }
}

/// Whoever came later has waited less, but for those who have come back.
fn is_first(waiting: &Waiting, is_old: impl Fn(&Waiting) -> bool) -> Mark {
    match (is_old(waiting), waiting.returned) {
        (true, _) => Mark::Leaves,
        (_, true) => Mark::Stays,
        _ => Mark::Enough,
    }
}

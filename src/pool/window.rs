//! Where the window stands, and who leaves with the next decision.

use super::candidates::PoolSlot;
use super::line::Line;
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
        let Line { candidates, queue, further, moved, .. } = &mut self.lines[self.at];
        *moved = false;
        if queue.is_empty() {
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
        further.set_step(candidates.now_step(), 0);
        let everybody = candidates.iter().map(|(slot, ..)| *candidates.waiting(slot));
        let everybody = everybody.chain(queue.iter(Heads::new()));
        further.refill(everybody.filter(|waiting| may(&waiting.request)).take(self.window));
        *moved = !further.is_empty();
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
        for line in &mut self.lines {
            line.candidates.mark(|waiting| is_first(waiting, is_old), &mut leaves);
            line.queue.mark_first(is_old, &mut leaves);
        }
    }

    /// Marks everybody who is bound to a rank.
    pub(crate) fn mark_bound(&mut self, rank: WorkerIndex, mut leaves: impl FnMut(RequestId)) {
        let bound = |waiting: &Waiting| waiting.request.rank == Some(rank);
        for line in &mut self.lines {
            if line.candidates.any_rank() {
                line.candidates
                    .mark(|waiting| if bound(waiting) { Mark::Leaves } else { Mark::Stays }, &mut leaves);
            }
            line.queue.mark_bound(rank, &mut leaves);
        }
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
        for line in &mut self.lines {
            line.candidates
                .mark(|waiting| if is_longer(waiting) { Mark::Leaves } else { Mark::Stays }, &mut leaves);
            line.queue.mark_longer(&limit_of, &mut leaves);
        }
    }

    /// Marks everybody of whom this is true: it looks at all who wait.
    pub(crate) fn mark_if(&mut self, is_so: impl Fn(&Request) -> bool, mut leaves: impl FnMut(RequestId)) {
        for line in &mut self.lines {
            line.candidates.mark(
                |waiting| if is_so(&waiting.request) { Mark::Leaves } else { Mark::Stays },
                &mut leaves,
            );
            line.queue.mark_if(&is_so, &mut leaves);
        }
    }

    /// Takes marks back.
    pub(crate) fn unmark(&mut self, ids: impl Iterator<Item = RequestId>) {
        for id in ids {
            let Some(place) = self.place(id) else { continue };
            let (Place::Candidate(priority, _) | Place::Queued(priority, _)) = place;
            let at = self.line_for(priority);
            match place {
                Place::Candidate(_, slot) => self.lines[at].candidates.unmark(slot),
                Place::Queued(_, node) => self.lines[at].queue.unmark(node),
            }
        }
    }

    /// How many of each class wait behind its window, by the rank that they are bound to.
    pub(crate) fn queued(&self) -> impl Iterator<Item = (i8, Option<WorkerIndex>, usize)> {
        self.lines
            .iter()
            .flat_map(|line| line.queue.ranks().map(|(rank, count)| (line.priority, rank, count)))
    }

    /// How many of those of a class have at most so many tokens.
    pub(crate) fn queued_of_at_most(&self, priority: i8, rank: Option<WorkerIndex>, tokens: i64) -> usize {
        let line = self.line_of(priority).map(|at| &self.lines[at]);
        line.map_or(0, |line| line.queue.count_of_length(rank, Wanted::AtMost(tokens)))
    }

    /// Whether somebody waits behind the window of the decision.
    pub(crate) fn has_queued(&self) -> bool {
        !self.lines[self.at].queue.is_empty()
    }

    /// Before a decision: where some of the window leave with it, it is moved to the oldest who stay.
    pub(crate) fn look_past_marked(&mut self) {
        let (by_slot, heads) = (&mut self.by_slot, &mut self.heads);
        for Line { candidates, queue, further, moved, .. } in &mut self.lines {
            *moved = candidates.any_marked();
            if !*moved {
                queue.search_from(0);
                continue;
            }
            let window = candidates.iter_as_they_stand(&mut *by_slot).map(|(_, waiting)| waiting);
            let all = window.chain(queue.iter(&mut *heads)).filter(|waiting| !waiting.leaves);
            further.set_step(candidates.now_step(), 0);
            further.refill(all.take(self.window));
            let last = further.last_arrival();
            queue.search_from(last.map_or(u64::MAX, |last| last + 1));
        }
        self.face_first();
    }

    /// The decision is of the highest class of whom anybody stands in the window.
    pub(crate) fn face_first(&mut self) {
        self.face(|line| !line.window().is_empty());
    }

    /// Keeps those in the window of the decision of whom this is true.
    pub(crate) fn narrow(&mut self, stays: impl Fn(PoolSlot) -> bool) {
        let (line, spare) = (&mut self.lines[self.at], &mut self.spare);
        let window = line.window();
        spare.set_step(window.now_step(), 0);
        let left = window.iter_as_they_stand(&mut self.by_slot).filter(|&(slot, _)| stays(slot));
        spare.refill(left.map(|(_, waiting)| waiting));
        std::mem::swap(spare, &mut line.further);
        line.moved = true;
    }

    /// Moves the window on past everybody who stands in it, to the next who stay and have at most as many
    /// tokens as `most_tokens` says for the rank that they are bound to (none for no room). False where there
    /// is nobody.
    pub(crate) fn move_on(&mut self, most_tokens: impl Fn(Option<WorkerIndex>) -> Option<i64>) -> bool {
        let Line { candidates, queue, further, moved, .. } = &mut self.lines[self.at];
        *moved = true;
        let wanted = |rank| most_tokens(rank).map(Wanted::AtMost);
        queue.search(wanted, self.window, &mut self.found);
        further.set_step(candidates.now_step(), 0);
        further.refill(self.found.iter().map(|&node| queue.as_it_stands(node)));
        !further.is_empty()
    }

    /// Moves every window back to the oldest; the next decision is of the highest class.
    pub(crate) fn move_back(&mut self) {
        self.lines.iter_mut().for_each(|line| line.moved = false);
        self.face(|line| !line.is_empty());
    }

    /// The decision is of the highest class of whom this is true.
    pub(super) fn face(&mut self, is_wanted: impl Fn(&Line) -> bool) {
        self.at = self.lines.iter().position(is_wanted).unwrap_or_default();
    }

    /// Whether a decision has requests of more than one class to choose among.
    pub(crate) fn has_classes(&self) -> bool {
        self.lines.len() > 1 && self.lines.iter().filter(|line| !line.window().is_empty()).count() > 1
    }

    /// The classes of whom somebody waits, the highest first, and how many wait of each.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (i8, usize)> {
        self.lines.iter().filter(|line| !line.is_empty()).map(|line| (line.priority, line.len()))
    }

    /// The next decision is of the first class below this one of whom anybody waits, of the highest for none;
    /// false where there is none.
    pub(crate) fn turn_below(&mut self, priority: Option<i8>) -> bool {
        let is_next =
            |line: &Line| !line.is_empty() && priority.is_none_or(|priority| line.priority < priority);
        let next = self.lines.iter().position(is_next);
        self.at = next.unwrap_or(self.at);
        next.is_some()
    }

    /// Whether somebody of a class waits whom a worker with so much room could take, by length and rank.
    pub(crate) fn any_for(&self, priority: i8, place: usize, room: i64) -> bool {
        let Ok(at) = self.line_of(priority) else { return false };
        let line = &self.lines[at];
        let behind = |rank| line.queue.count_of_length(rank, Wanted::AtMost(room)) > 0;
        line.candidates.iter().any(|(_, request, _)| is_for(request, place, room))
            || behind(None)
            || behind(Some(WorkerIndex::at(place)))
    }

    /// Whether one of them has been passed by so many, of those in the window.
    pub(crate) fn any_passed_for(&self, priority: i8, place: usize, room: i64, most: u32) -> bool {
        let Ok(at) = self.line_of(priority) else { return false };
        let candidates = &self.lines[at].candidates;
        let is_next =
            |slot, request: &Request| is_for(request, place, room) && candidates.passed(slot) >= most;
        candidates.most_passed() >= most && candidates.iter().any(|(slot, request, _)| is_next(slot, request))
    }

    /// The class of the decision.
    pub(crate) fn priority(&self) -> i8 {
        self.lines[self.at].priority
    }
}

fn is_for(request: &Request, place: usize, room: i64) -> bool {
    i64::from(request.prompt_tokens) <= room && request.rank.is_none_or(|rank| rank.index() == place)
}

/// Whoever came later has waited less, but for those who have come back.
fn is_first(waiting: &Waiting, is_old: impl Fn(&Waiting) -> bool) -> Mark {
    match (is_old(waiting), waiting.returned) {
        (true, _) => Mark::Leaves,
        (_, true) => Mark::Stays,
        _ => Mark::Enough,
    }
}

//! Who has been passed: of each who waits, how many of its class came later and were admitted before it, to
//! workers that it may use.
//!
//! An admission passes everybody of its class who came before it, so it is enough to know its place in the
//! order of arrival. Of those in the window the counts stand in a column, which one pass brings up to date;
//! behind it a stretch keeps what all of it have been passed by in one number.

use std::borrow::BorrowMut;

use super::Pool;
use super::candidates::{BLOCK, Candidates, NONE, PoolSlot};
use super::line::Place;
use super::waiting::Waiting;
use crate::entities::limits::MAX_PASSED;
use crate::entities::request::Request;
use crate::ids::{RequestId, WorkerIndex};

/// Admissions that pass others, sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Passes {
    /// Their places in the order of arrival.
    arrivals: Vec<u64>,
    /// The worker that each has entered, and its place in the order of arrival.
    by_worker: Vec<(u32, u64)>,
}

impl Passes {
    fn set(&mut self, admitted: impl Iterator<Item = (u64, WorkerIndex)>) {
        self.by_worker.clear();
        self.by_worker.extend(admitted.map(|(arrival, worker)| (worker.get(), arrival)));
        self.by_worker.sort_unstable();
        self.arrivals.clear();
        self.arrivals.extend(self.by_worker.iter().map(|&(_, arrival)| arrival));
        self.arrivals.sort_unstable();
    }

    /// How many came after this one.
    fn after(&self, arrival: u64) -> u32 {
        (self.arrivals.len() - self.arrivals.partition_point(|&other| other <= arrival)) as u32
    }

    /// How many of those came after it that have entered a worker.
    fn after_on(&self, arrival: u64, worker: WorkerIndex) -> u32 {
        let from = self.by_worker.partition_point(|&other| other <= (worker.get(), arrival));
        let to = self.by_worker.partition_point(|&other| other <= (worker.get(), u64::MAX));
        (to - from) as u32
    }

    /// How many of those came after a request that have entered a worker which it may use.
    fn of(&self, request: &Request, arrival: u64, may_use: &impl Fn(&Request, WorkerIndex) -> bool) -> u32 {
        match request.rank {
            // A mask may shut even the rank that it is bound to.
            Some(rank) if request.pair_row.is_some() && !may_use(request, rank) => 0,
            Some(rank) => self.after_on(arrival, rank),
            None if request.pair_row.is_none() => self.after(arrival),
            None => {
                let passes = self.by_worker.iter();
                let passes = passes.filter(|&&(worker, other)| {
                    other > arrival && may_use(request, WorkerIndex::new(worker))
                });
                passes.count() as u32
            }
        }
    }
}

impl Candidates {
    /// How many that came later have been admitted before the request in a slot, to workers that it may use.
    ///
    /// # Panics
    /// When nobody stands in the slot.
    #[must_use]
    pub fn passed(&self, slot: PoolSlot) -> u32 {
        self.passed[self.position(slot).expect("somebody stands there")]
    }

    /// The most that any candidate has been passed; zero when nobody waits.
    #[must_use]
    pub fn most_passed(&self) -> u32 {
        self.most_passed_of_all
    }

    /// Everybody in order of arrival, with what has changed since each came; `by_slot` is scratch.
    pub(super) fn iter_as_they_stand(
        &self,
        mut by_slot: impl BorrowMut<Vec<u32>>,
    ) -> impl Iterator<Item = (PoolSlot, Waiting)> {
        let passed_by_slot = by_slot.borrow_mut();
        passed_by_slot.clear();
        passed_by_slot.resize(self.slot_bound(), 0);
        for (&slot, &passed) in self.slots[..self.count].iter().zip(&self.passed) {
            passed_by_slot[slot as usize] = passed;
        }
        self.iter().map(move |(slot, ..)| {
            let waiting = *self.waiting(slot);
            let passed = by_slot.borrow()[slot.index()];
            (slot, Waiting { request: waiting.request.passed(passed), ..waiting })
        })
    }

    /// Counts admissions for everybody whom they pass.
    fn count_passes(&mut self, passes: &Passes, may_use: &impl Fn(&Request, WorkerIndex) -> bool) {
        let Some(&last) = passes.arrivals.last() else { return };
        let alike = self.with_pair_terms == 0;
        let mut most_of_all = 0;
        for block in 0..self.blocks() {
            let from = block * BLOCK;
            let to = (from + BLOCK).min(self.count);
            let mut most = 0;
            for at in from..to {
                let arrival = self.arrived[at];
                if arrival < last {
                    let more = if alike {
                        passes.after(arrival)
                    } else {
                        let request = &self.entries[self.slots[at] as usize].waiting.request;
                        passes.of(request, arrival, may_use)
                    };
                    self.passed[at] = self.passed[at].saturating_add(more).min(MAX_PASSED);
                }
                most = most.max(self.passed[at]);
            }
            self.most_passed[block] = most;
            most_of_all = most_of_all.max(most);
        }
        self.most_passed_of_all = most_of_all;
    }

    /// Who came next after this arrival, of those who are bound to this rank or to none as well.
    pub(super) fn younger_than(&self, arrival: u64, rank: Option<WorkerIndex>) -> Option<PoolSlot> {
        let mut at = self.next_of(arrival);
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.waiting.request.rank == rank {
                return Some(PoolSlot(at));
            }
            at = entry.next;
        }
        None
    }

    /// Who came last.
    pub(super) fn youngest(&self) -> Option<PoolSlot> {
        (self.tail != NONE).then_some(PoolSlot(self.tail))
    }

    /// Among these is whoever has waited longest: those who have come back stand in old places.
    pub(super) fn oldest(&self) -> impl Iterator<Item = &Waiting> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let waiting = &self.entries.get(at as usize)?.waiting;
            at = if waiting.returned { self.entries[at as usize].next } else { NONE };
            Some(waiting)
        })
    }

    /// Everything known of it, with what has changed since it came.
    pub(super) fn as_it_stands(&self, slot: PoolSlot) -> Waiting {
        let waiting = *self.waiting(slot);
        Waiting { request: waiting.request.passed(self.passed(slot)), ..waiting }
    }
}

impl Pool {
    /// The place in the order of arrival of somebody who does not wait: after everybody else.
    pub(crate) fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals - 1
    }

    /// Counts admissions, each by its class, its place in the order of arrival and its worker, for those of
    /// that class who wait and came earlier. Of those behind the window it is taken that they may use any
    /// worker but for their rank.
    pub(crate) fn count_passes(
        &mut self,
        admitted: impl Iterator<Item = (i8, u64, WorkerIndex)> + Clone,
        may_use: impl Fn(&Request, WorkerIndex) -> bool,
    ) {
        if self.is_empty() {
            return;
        }
        self.begin_change();
        let passes = &mut self.passes;
        for line in self.lines.iter_mut().filter(|line| !line.is_empty()) {
            let of_class = admitted.clone().filter(|&(priority, ..)| priority == line.priority);
            passes.set(of_class.map(|(_, arrival, worker)| (arrival, worker)));
            line.candidates.count_passes(passes, &may_use);
            if let Some(last) = line.candidates.last_arrival()
                && !line.queue.is_empty()
            {
                for &(worker, arrival) in passes.by_worker.iter().filter(|&&(_, arrival)| arrival > last) {
                    line.queue.count_pass(arrival, WorkerIndex::new(worker));
                }
            }
        }
    }

    /// How often a request that waits has been passed.
    #[must_use]
    pub fn passed(&self, id: impl Into<RequestId>) -> Option<u32> {
        Some(match self.place(id.into())? {
            Place::Candidate(priority, slot) => self.line_at(priority).candidates.passed(slot),
            Place::Queued(priority, node) => self.line_at(priority).queue.passed(node),
        })
    }

    /// The most that anybody who waits has been passed; of those behind the window only what those in it
    /// have been.
    #[must_use]
    pub fn most_passed(&self) -> u32 {
        self.windows().map(Candidates::most_passed).max().unwrap_or(0)
    }

    /// Lets somebody in who has been here before, in its old place: [`Pool::enter`] for one that has been
    /// passed as often as who came after it, or more.
    pub(crate) fn enter_again(&mut self, request: Request, since_ms: Option<u64>, arrival: u64) {
        self.begin_change();
        let since_ms = since_ms.unwrap_or_else(|| {
            let now = self.next_arrival();
            self.dates.returns(now)
        });
        let (priority, at) = (request.priority, self.line_for(request.priority));
        let line = &self.lines[at];
        let younger = match line.candidates.younger_than(arrival, request.rank) {
            Some(slot) => line.candidates.passed(slot),
            None => line.queue.younger_than(arrival, request.rank).map_or(0, |node| line.queue.passed(node)),
        };
        let request = request.passed(request.passed.max(younger));
        let waiting = self.waiting_at(request, since_ms, arrival);
        let (places, line) = (&mut self.places, &mut self.lines[at]);
        let is_full = line.candidates.len() >= self.window;
        let is_last = line.candidates.last_arrival().is_none_or(|last| last < arrival);
        if is_full && is_last {
            places.insert(request.id, Place::Queued(priority, line.queue.insert(waiting)));
            return;
        }
        let leaving = line.candidates.youngest().filter(|_| is_full);
        let pushed_out = leaving.map(|slot| line.candidates.as_it_stands(slot));
        // Only those in the window are asked for rows.
        let pushed_out =
            pushed_out.map(|waiting| Waiting { request: waiting.request.pairs(None), ..waiting });
        let leaving = leaving.as_slice();
        line.candidates.exchange(leaving, std::iter::once(waiting), |id, slot| {
            places.insert(id, Place::Candidate(priority, slot));
        });
        if let Some(waiting) = pushed_out {
            places.insert(waiting.request.id, Place::Queued(priority, line.queue.insert(waiting)));
        }
        self.face(|line| !line.is_empty());
    }
}

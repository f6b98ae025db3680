//! Who is admitted in turn: overdue requests, the longest first, and the workers with most open slots.
//!
//! There is one list of open workers, by load. Requests that are placed in turn take the last of it that may
//! take them; the worker with most open slots is the last of those with that many.

use super::Greedy;
use super::step::Step;
use crate::backend::column::Found;
use crate::backend::picks::{cost_of, worker_of};
use crate::batch::Request;
use crate::pool::PoolSlot;
use crate::rule::{Order, Rule, SubsetStage};

/// A request that a subset may be made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    slot: PoolSlot,
    /// Its position where it was found by length: it has been taken then.
    taken_at: Option<usize>,
    arrival: u64,
    tokens: i64,
    /// What waiting and a bonus add, in score units.
    extra: i64,
    /// The score of the request alone.
    single: i64,
}

impl Greedy {
    fn may_take(&self, step: &Step<'_, '_, &mut impl Rule>, request: &Request, worker: usize) -> bool {
        i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker)
            && step.batch.eligible(request, worker)
    }

    /// The least-loaded open worker that may take a request: its place in `open`.
    fn open_for(&self, step: &Step<'_, '_, &mut impl Rule>, request: &Request) -> Option<usize> {
        let may_take = |key: u64| self.may_take(step, request, worker_of(key));
        let at = self.open.iter().rposition(|&key| may_take(key))?;
        if step.plan.order != (Order::LongestFirst { fewest_requests: true }) {
            return Some(at);
        }
        let workers = step.batch.workers();
        let requests = |worker: usize| {
            let placed = i64::from(workers[worker].open_slots()) - self.loads.open_slots(worker);
            i64::from(workers[worker].running) + placed
        };
        let equals = (0..=at).rev().take_while(|&other| cost_of(self.open[other]) == cost_of(self.open[at]));
        // The lowest index comes first, and of equals the first stays.
        equals
            .filter(|&other| may_take(self.open[other]))
            .min_by_key(|&other| requests(worker_of(self.open[other])))
    }

    /// Places a request on the least-loaded open worker that may take it, with the score that it has there.
    fn place_in_turn<R: Rule>(
        &mut self,
        step: &Step<'_, '_, &mut R>,
        position: usize,
        score: impl FnOnce(&mut Self, usize) -> i64,
        overdue: bool,
    ) {
        let request = step.batch.waiting().request(PoolSlot(step.waiting.slots[position]));
        let Some(at) = self.open_for(step, request) else { return };
        let worker = worker_of(self.open.remove(at));
        let score = score(self, worker);
        self.admit(step, worker, Found { position, score }, overdue);
        self.reopen(worker);
    }

    pub(super) fn place_overdue(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let pool = step.batch.waiting();
        let most = step.plan.max_passed.unwrap_or(u32::MAX);
        if most > pool.most_passed() && !pool.any_deadline() {
            return;
        }
        self.queue.clear();
        let ordered = &step.waiting;
        for (position, (&slot, &passed)) in ordered.slots.iter().zip(ordered.passed).enumerate() {
            let (slot, is_taken) = (PoolSlot(slot), self.column.is_taken(position));
            let waited = if pool.any_deadline() { pool.waited_steps(slot) } else { 0 };
            if is_taken {
            } else if pool.request(slot).deadline_steps.is_some_and(|steps| waited >= steps) {
                self.queue.push((u32::MAX - 1 - waited, pool.arrival(slot), position));
            } else if passed >= most {
                // After those who are past a deadline of their own.
                self.queue.push((u32::MAX, pool.arrival(slot), position));
            }
        }
        self.queue.sort_unstable();
        self.list_open();
        // Without terms of pairs a request that fits nowhere says the same of all that are as long.
        let mut too_long = u32::MAX;
        for index in 0..self.queue.len() {
            let position = self.queue[index].2;
            if self.open.is_empty() {
                return;
            }
            if ordered.tokens[position] < too_long {
                self.place_in_turn(step, position, |_, _| 0, true);
                if !self.column.is_taken(position) && !step.batch.has_pair_terms() {
                    too_long = ordered.tokens[position];
                }
            }
        }
    }

    pub(super) fn place_longest_first(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        self.list_open();
        let left = step.waiting.tokens.len() - self.picks.len();
        if left as i64 <= self.all_open_slots() {
            self.place_all_longest_first(step);
            return;
        }
        let pool = step.batch.waiting();
        loop {
            let slots = self.all_open_slots();
            self.queue.clear();
            for (slot, request, _) in pool.iter() {
                if self.queue.len() as i64 == slots {
                    break;
                }
                if !self.placed[slot.index()]
                    && self.open.iter().any(|&key| self.may_take(step, request, worker_of(key)))
                    && let Some(position) = pool.position(slot)
                {
                    self.queue.push((u32::MAX - request.prompt_tokens, pool.arrival(slot), position));
                }
            }
            if self.queue.is_empty() {
                return;
            }
            self.queue.sort_unstable();
            for index in 0..self.queue.len() {
                let position = self.queue[index].2;
                let score = |greedy: &mut Self, worker| greedy.score_of_length(step, worker, position);
                self.place_in_turn(step, position, score, false);
            }
        }
    }

    /// There is a slot for everybody: the length order is the order, and a second pass would find nobody.
    fn place_all_longest_first(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let ordered = &step.waiting;
        let mut to = ordered.tokens.len();
        while to > 0 && !self.open.is_empty() {
            // Equal lengths go by arrival, and so they stand in the length order.
            let tokens = ordered.tokens[to - 1];
            let from = ordered.tokens[..to].partition_point(|&other| other < tokens);
            for position in from..to {
                if !self.column.is_taken(position) {
                    let score = |greedy: &mut Self, worker| greedy.score_of_length(step, worker, position);
                    self.place_in_turn(step, position, score, false);
                }
            }
            to = from;
        }
    }

    /// Open slots over all workers.
    fn all_open_slots(&self) -> i64 {
        self.loads.open_workers().iter().map(|&worker| self.loads.open_slots(worker as usize)).sum()
    }

    pub(super) fn place_by_open_slots(
        &mut self,
        step: &mut Step<'_, '_, &mut impl Rule>,
        stage: SubsetStage,
    ) {
        self.list_open();
        let (mut slots, mut most) = (self.all_open_slots(), i64::MAX);
        while let Some(worker) = self.next_by_open_slots(&mut most) {
            // A worker that may take nobody now never may again: rooms and the pool only shrink.
            let before = self.picks.len();
            if slots <= i64::from(stage.greedy_slots) {
                self.admit_subset(step, worker, &stage);
            } else if let Some(found) = self.best_judged(step, worker) {
                self.admit_best(step, worker, found);
            }
            if self.picks.len() > before {
                slots -= (self.picks.len() - before) as i64;
                self.reopen(worker);
            }
        }
    }

    /// Takes the worker with most open slots out of the open ones: of equals the one with the least load,
    /// then the lowest index. No worker has more than `most` slots.
    fn next_by_open_slots(&mut self, most: &mut i64) -> Option<usize> {
        let slots_of = |&key: &u64| self.loads.open_slots(worker_of(key));
        let at = match self.open.iter().rposition(|key| slots_of(key) >= *most) {
            Some(at) => at,
            None => {
                *most = self.open.iter().map(slots_of).max()?;
                self.open.iter().rposition(|key| slots_of(key) >= *most)?
            }
        };
        Some(worker_of(self.open.remove(at)))
    }

    /// Admits the best subset of what a worker may take, or the best single request.
    fn admit_subset(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, stage: &SubsetStage) {
        self.find_candidates(step, worker, stage);
        let Some(&best) = self.candidates.first() else { return };
        self.candidates.sort_unstable_by_key(|candidate| candidate.arrival);
        let subset = self.best_subset(worker, i64::from(step.batch.request_growth_tokens()));
        let count = self.candidates.len();
        for index in 0..count {
            let Candidate { slot, taken_at, arrival, .. } = self.candidates[index];
            let (chosen, score) = match subset {
                Some((mask, score)) => (mask >> (count - 1 - index) & 1 == 1, score),
                None => (arrival == best.arrival, best.single),
            };
            match (chosen, taken_at) {
                (true, Some(position)) => self.admit_taken(step, worker, Found { position, score }, false),
                (false, Some(position)) => self.give_back(step, position),
                (true, None) => {
                    if let Some(position) = step.batch.waiting().position(slot) {
                        self.admit(step, worker, Found { position, score }, false);
                    }
                }
                (false, None) => {}
            }
        }
    }

    /// Finds the best requests of a worker's window, best first, and makes its profile.
    fn find_candidates(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, stage: &SubsetStage) {
        self.candidates.clear();
        self.profile(step, worker, None);
        let (batch, pool) = (step.batch, step.batch.waiting());
        let (keep, unit, age) = (stage.subset_window, step.plan.unit, step.plan.age);
        let longest = self.loads.longest_tokens(worker);
        if stage.candidate_window >= pool.len() && !batch.has_pair_terms() {
            let ordered = &step.waiting;
            for _ in 0..keep {
                let found = self.column.best(ordered, &self.profile, &step.terms, longest, i64::MIN);
                let Some(Found { position, score }) = found else { break };
                self.take(step, position);
                let slot = PoolSlot(ordered.slots[position]);
                self.candidates.push(Candidate {
                    slot,
                    taken_at: Some(position),
                    arrival: pool.arrival(slot),
                    tokens: i64::from(ordered.tokens[position]),
                    extra: unit * age.tokens(ordered.passed[position]),
                    single: score,
                });
            }
            return;
        }
        let mut seen = 0;
        for (slot, request, _) in pool.iter() {
            let tokens = i64::from(request.prompt_tokens);
            if self.placed[slot.index()] || tokens > longest || !batch.eligible(request, worker) {
                continue;
            }
            let extra = unit * (age.tokens(pool.passed(slot)) + batch.bonus_tokens(request, worker));
            let single = self.profile.score(tokens) + extra;
            // In order of arrival: equals stay behind those already there.
            let at = self.candidates.partition_point(|other| other.single >= single);
            if at < keep {
                self.candidates.truncate(keep - 1);
                let arrival = pool.arrival(slot);
                let candidate = Candidate { slot, taken_at: None, arrival, tokens, extra, single };
                self.candidates.insert(at, candidate);
            }
            seen += 1;
            if seen == stage.candidate_window {
                break;
            }
        }
    }

    /// The subset of the candidates to admit, and its score: a mask in which the earliest has the highest
    /// bit.
    fn best_subset(&self, worker: usize, growth_tokens: i64) -> Option<(u32, i64)> {
        let count = self.candidates.len();
        let room = self.loads.longest_tokens(worker) + growth_tokens;
        let mut best: Option<(u32, i64)> = None;
        for mask in 1u32..1 << count {
            let size = i64::from(mask.count_ones());
            if size > self.loads.open_slots(worker) {
                continue;
            }
            let (mut tokens, mut extra) = (0, 0);
            for (index, candidate) in self.candidates.iter().enumerate() {
                if mask >> (count - 1 - index) & 1 == 1 {
                    tokens += candidate.tokens;
                    extra += candidate.extra;
                }
            }
            if tokens + size * growth_tokens > room {
                continue;
            }
            let score = self.profile.score(tokens) + extra;
            let better = match best {
                None => score > 0,
                Some((_, other)) if score != other => score > other,
                // The smaller set, then the one with the earlier requests.
                Some((other, _)) => {
                    let size_then_later = |mask: u32| (mask.count_ones(), u32::MAX - mask);
                    size_then_later(mask) < size_then_later(other)
                }
            };
            if better {
                best = Some((mask, score));
            }
        }
        best
    }
}

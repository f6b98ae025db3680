//! The candidates of a decision, in two orders at once.
//!
//! Arrival order (an intrusive list) serves first-come rules; length order (flat sorted columns, in blocks
//! whose bounds are known) serves every rule that looks for a length. Both live across steps, so a step pays
//! only for who left and who came: one pass over the columns, however many they are. Nothing allocates once
//! the largest size has been seen.

use crate::entities::limits::MAX_WAITED_STEPS;
use crate::entities::request::Request;
use crate::ids::{RequestId, WorkerIndex};
use crate::pool::waiting::{Mark, Waiting};

/// Entries per block of the length order: a cache line of `u32`, and the width of the column kernels.
pub(crate) const BLOCK: usize = 16;

pub(super) const NONE: u32 = u32::MAX;

/// Stands for the row of pair terms of a request that has none.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// The arrival of nobody: marks a slot that is vacant.
const NOBODY: u64 = u64::MAX;

/// Position of a request among the candidates: stable until the request is removed, then reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PoolSlot(pub(crate) u32);

impl PoolSlot {
    /// The slot as an index below [`Candidates::slot_bound`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Entry {
    pub(super) waiting: Waiting,
    previous: u32,
    pub(super) next: u32,
}

/// Waiting requests that a decision chooses among, in arrival order and by length.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Candidates {
    now_step: u32,
    pub(super) entries: Vec<Entry>,
    vacant: Vec<u32>,
    pub(super) head: u32,
    pub(super) tail: u32,
    with_deadline: usize,
    pub(super) with_pair_terms: usize,
    with_rank: usize,
    with_pair_row: usize,
    marked: usize,
    /// Sums of the lengths, and of their squares.
    sums: (u64, u128),
    /// Sort keys of those who come: tokens and slot, and as many places to sort them into.
    pub(super) keys: Vec<(u32, u32)>,
    /// Where those stood who leave.
    left: Vec<u32>,
    // The length order: parallel columns sorted by tokens, then by arrival. They are longer than `count`, in
    // whole blocks, so that kernels read blocks only; so are the columns of blocks below. What lies past the
    // end is left over and means nothing.
    pub(super) count: usize,
    tokens: Vec<u32>,
    /// [`Request::passed`] as it has grown since: a request's own says what it was as it came.
    pub(super) passed: Vec<u32>,
    pub(super) slots: Vec<u32>,
    pub(super) arrived: Vec<u64>,
    /// [`Request::pair_row`], [`NO_ROW`] for none: read together, where the requests themselves lie all over
    /// memory.
    pair_rows: Vec<u32>,
    // Per block: least and greatest length, most passed.
    low: Vec<u32>,
    high: Vec<u32>,
    pub(super) most_passed: Vec<u32>,
    /// The greatest of them; zero while nobody waits.
    pub(super) most_passed_of_all: u32,
}

impl Candidates {
    pub(super) fn new() -> Self {
        Self {
            // Leaves room below for requests that arrive with a wait behind them.
            now_step: MAX_WAITED_STEPS,
            entries: Vec::new(),
            vacant: Vec::new(),
            head: NONE,
            tail: NONE,
            with_deadline: 0,
            with_pair_terms: 0,
            with_rank: 0,
            with_pair_row: 0,
            marked: 0,
            sums: (0, 0),
            keys: Vec::new(),
            left: Vec::new(),
            count: 0,
            tokens: Vec::new(),
            passed: Vec::new(),
            slots: Vec::new(),
            arrived: Vec::new(),
            pair_rows: Vec::new(),
            low: Vec::new(),
            high: Vec::new(),
            most_passed: Vec::new(),
            most_passed_of_all: 0,
        }
    }

    /// Empties them and keeps the buffers.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.vacant.clear();
        (self.head, self.tail) = (NONE, NONE);
        (self.count, self.most_passed_of_all) = (0, 0);
        (self.with_deadline, self.with_pair_terms) = (0, 0);
        (self.with_rank, self.with_pair_row, self.marked) = (0, 0, 0);
        self.sums = (0, 0);
    }

    /// Replaces everybody by those who are given in order of arrival, the first in slot 0: far cheaper than
    /// one after the other.
    pub(super) fn refill(&mut self, waiting: impl Iterator<Item = Waiting>) {
        self.clear();
        let (mut deadlines, mut terms, mut ranks, mut rows) = (0, 0, 0, 0);
        let mut sums = (0, 0);
        self.entries.extend(waiting.zip(0u32..).map(|(waiting, slot)| {
            let request = &waiting.request;
            deadlines += usize::from(request.deadline_steps.is_some());
            terms += usize::from(request.has_pair_terms());
            ranks += usize::from(request.rank.is_some());
            rows += usize::from(request.pair_row.is_some());
            let tokens = u64::from(request.prompt_tokens);
            sums = (sums.0 + tokens, sums.1 + u128::from(tokens * tokens));
            Entry { waiting, previous: slot.wrapping_sub(1), next: slot + 1 }
        }));
        (self.with_deadline, self.with_pair_terms) = (deadlines, terms);
        (self.with_rank, self.with_pair_row, self.sums) = (ranks, rows, sums);
        self.count = self.entries.len();
        if let Some(last) = self.entries.last_mut() {
            last.next = NONE;
            (self.head, self.tail) = (0, self.count as u32 - 1);
        }
        self.widen();
        self.sort();
        for at in 0..self.count {
            self.write(at, self.keys[at].1);
        }
        self.refresh_blocks(0, self.blocks());
    }

    /// Adds or takes what is counted of a request.
    fn count_terms(&mut self, request: &Request, sign: isize) {
        let change =
            |count: &mut usize, has: bool| *count = count.wrapping_add_signed(sign * isize::from(has));
        change(&mut self.with_deadline, request.deadline_steps.is_some());
        change(&mut self.with_pair_terms, request.has_pair_terms());
        change(&mut self.with_rank, request.rank.is_some());
        change(&mut self.with_pair_row, request.pair_row.is_some());
        let tokens = u64::from(request.prompt_tokens);
        let square = u128::from(tokens * tokens);
        self.sums = match sign {
            1 => (self.sums.0 + tokens, self.sums.1 + square),
            _ => (self.sums.0 - tokens, self.sums.1 - square),
        };
    }

    /// Writes the request of a slot to a position of the length order.
    fn write(&mut self, at: usize, slot: u32) {
        let Waiting { request, arrival, .. } = &self.entries[slot as usize].waiting;
        self.tokens[at] = request.prompt_tokens;
        self.passed[at] = request.passed;
        self.arrived[at] = *arrival;
        self.pair_rows[at] = request.pair_row.unwrap_or(NO_ROW);
        self.slots[at] = slot;
    }

    /// Moves a run of the length order.
    fn shift(&mut self, run: std::ops::Range<usize>, to: usize) {
        self.tokens.copy_within(run.clone(), to);
        self.passed.copy_within(run.clone(), to);
        self.slots.copy_within(run.clone(), to);
        self.arrived.copy_within(run.clone(), to);
        self.pair_rows.copy_within(run, to);
    }

    /// Lets those go who stand in `leaving`, and those in who are `joining`, in order of arrival: younger
    /// than everybody here, or one who comes back to its old place. `entered` is told each one's slot. At
    /// most one pass over the columns.
    pub(super) fn exchange(
        &mut self,
        leaving: &[PoolSlot],
        joining: impl Iterator<Item = Waiting>,
        mut entered: impl FnMut(RequestId, PoolSlot),
    ) {
        self.left.clear();
        for &slot in leaving {
            if let Some(at) = self.position(slot) {
                self.left.push(at as u32);
                self.unlink(slot);
            }
        }
        self.keys.clear();
        for waiting in joining {
            let slot = self.link(waiting);
            entered(waiting.request.id, PoolSlot(slot));
            self.keys.push((waiting.request.prompt_tokens, slot));
        }
        match (&self.left[..], &self.keys[..]) {
            ([], []) => {}
            (&[at], &[(tokens, slot)]) => self.replace(at as usize, tokens, slot),
            _ => self.merge(),
        }
    }

    /// Puts one in the place of another: only those between them move.
    fn replace(&mut self, at: usize, tokens: u32, slot: u32) {
        let after = self.after(tokens, slot, self.count);
        if after > at {
            self.shift(at + 1..after, at);
            self.write(after - 1, slot);
            self.refresh_blocks(at / BLOCK, (after - 1) / BLOCK + 1);
        } else {
            self.shift(after..at, after + 1);
            self.write(after, slot);
            self.refresh_blocks(after / BLOCK, at / BLOCK + 1);
        }
    }

    /// Where one of this length belongs among the first so many: equal lengths stand in order of arrival.
    fn after(&self, tokens: u32, slot: u32, count: usize) -> usize {
        let arrival = self.entries[slot as usize].waiting.arrival;
        let to = self.tokens[..count].partition_point(|&other| other <= tokens);
        if to == 0 || self.tokens[to - 1] < tokens || self.arrived[to - 1] < arrival {
            return to;
        }
        let from = self.tokens[..to].partition_point(|&other| other < tokens);
        from + self.arrived[from..to].partition_point(|&other| other < arrival)
    }

    /// Takes those in `left` out of the columns and puts those in `keys` in.
    fn merge(&mut self) {
        let mut first = self.count;
        self.left.sort_unstable();
        if let Some(&at) = self.left.first() {
            first = at as usize;
            let mut to = first;
            for index in 0..self.left.len() {
                let from = self.left[index] as usize + 1;
                let next = self.left.get(index + 1).map_or(self.count, |&next| next as usize);
                self.shift(from..next, to);
                to += next - from;
            }
            self.count = to;
        }
        // Stable: equal lengths stay in order of arrival.
        self.keys.sort_by_key(|&(tokens, _)| tokens);
        let mut end = self.count;
        self.count += self.keys.len();
        self.widen();
        for index in (0..self.keys.len()).rev() {
            let (tokens, slot) = self.keys[index];
            let at = self.after(tokens, slot, end);
            self.shift(at..end, at + index + 1);
            self.write(at + index, slot);
            first = first.min(at + index);
            end = at;
        }
        self.refresh_blocks(first / BLOCK, self.blocks());
    }

    /// Puts a request in its place in the order of arrival. Its slot.
    fn link(&mut self, waiting: Waiting) -> u32 {
        self.count_terms(&waiting.request, 1);
        let next = self.next_of(waiting.arrival);
        let previous = self.entries.get(next as usize).map_or(self.tail, |next| next.previous);
        let entry = Entry { waiting, previous, next };
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        match previous {
            NONE => self.head = slot,
            previous => self.entries[previous as usize].next = slot,
        }
        match next {
            NONE => self.tail = slot,
            next => self.entries[next as usize].previous = slot,
        }
        slot
    }

    /// The first who came later than this; most often there is nobody.
    pub(super) fn next_of(&self, arrival: u64) -> u32 {
        if self.last_arrival().is_none_or(|last| last < arrival) {
            return NONE;
        }
        let mut at = self.head;
        while let Some(entry) = self.entries.get(at as usize)
            && entry.waiting.arrival < arrival
        {
            at = entry.next;
        }
        at
    }

    /// Takes a request out of the order of arrival.
    fn unlink(&mut self, slot: PoolSlot) {
        let Entry { waiting, previous, next } = self.entries[slot.index()].clone();
        match previous {
            NONE => self.head = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => self.entries[next as usize].previous = previous,
        }
        self.entries[slot.index()].waiting.arrival = NOBODY;
        self.vacant.push(slot.0);
        self.marked -= usize::from(waiting.leaves);
        self.count_terms(&waiting.request, -1);
    }

    /// What is known of these blocks is found again.
    fn refresh_blocks(&mut self, first: usize, end: usize) {
        for block in first..end {
            let from = block * BLOCK;
            let last = (from + BLOCK).min(self.count) - 1;
            self.low[block] = self.tokens[from];
            self.high[block] = self.tokens[last];
            self.most_passed[block] = match self.passed[from..].first_chunk::<BLOCK>() {
                Some(block) if last + 1 == from + BLOCK => block.iter().copied().fold(0, u32::max),
                _ => self.passed[from..=last].iter().copied().fold(0, u32::max),
            };
        }
        self.most_passed_of_all = self.most_passed[..self.blocks()].iter().copied().fold(0, u32::max);
    }

    /// Makes the columns hold `count` entries.
    fn widen(&mut self) {
        if self.count <= self.tokens.len() {
            return;
        }
        let padded = self.count.next_multiple_of(BLOCK);
        self.tokens.resize(padded, 0);
        self.passed.resize(padded, 0);
        self.slots.resize(padded, 0);
        self.arrived.resize(padded, 0);
        self.pair_rows.resize(padded, NO_ROW);
        let groups = (padded / BLOCK).next_multiple_of(BLOCK);
        self.low.resize(groups, 0);
        self.high.resize(groups, 0);
        self.most_passed.resize(groups, 0);
    }

    pub(super) fn blocks(&self) -> usize {
        self.count.div_ceil(BLOCK)
    }

    /// Lets steps pass, or sets the step back by as many (`shift`) for everybody.
    pub(super) fn set_step(&mut self, now_step: u32, shift: u32) {
        self.now_step = now_step;
        if shift > 0 {
            for entry in &mut self.entries {
                entry.waiting.enqueued_step = entry.waiting.enqueued_step.saturating_sub(shift);
            }
        }
    }

    /// The step clock.
    pub(super) fn now_step(&self) -> u32 {
        self.now_step
    }

    /// Marks those who leave with the next decision, in order of arrival.
    pub(super) fn mark(&mut self, judge: impl Fn(&Waiting) -> Mark, mut leaves: impl FnMut(RequestId)) {
        let mut at = self.head;
        while let Some(Entry { waiting, next, .. }) = self.entries.get_mut(at as usize) {
            match judge(waiting) {
                Mark::Leaves if !waiting.leaves => {
                    waiting.leaves = true;
                    self.marked += 1;
                    leaves(waiting.request.id);
                }
                Mark::Enough => break,
                _ => {}
            }
            at = *next;
        }
    }

    pub(super) fn unmark(&mut self, slot: PoolSlot) {
        let leaves = &mut self.entries[slot.index()].waiting.leaves;
        self.marked -= usize::from(std::mem::take(leaves));
    }

    pub(super) fn any_marked(&self) -> bool {
        self.marked > 0
    }

    /// Renames the ranks that requests are bound to.
    pub(super) fn map_ranks(&mut self, rename: impl Fn(WorkerIndex) -> WorkerIndex) {
        let mut at = self.head;
        while let Some(entry) = self.entries.get_mut(at as usize) {
            entry.waiting.request.rank = entry.waiting.request.rank.map(&rename);
            at = entry.next;
        }
    }

    /// Gives every candidate the row of pair terms that `row_of` names, in arrival order.
    pub(super) fn set_pair_rows(&mut self, mut row_of: impl FnMut(&Request) -> Option<u32>) {
        let mut at = self.head;
        while let Some(entry) = self.entries.get(at as usize) {
            let (before, next) = (entry.waiting.request, entry.next);
            // The caller's code may panic: until it returns, nothing has changed.
            let after = Request { pair_row: row_of(&before), ..before };
            self.count_terms(&before, -1);
            self.count_terms(&after, 1);
            self.entries[at as usize].waiting.request = after;
            at = next;
        }
        for (row, &slot) in self.pair_rows.iter_mut().zip(&self.slots[..self.count]) {
            *row = self.entries[slot as usize].waiting.request.pair_row.unwrap_or(NO_ROW);
        }
    }

    /// Everything known of the request in a slot.
    pub(super) fn waiting(&self, slot: PoolSlot) -> &Waiting {
        &self.entries[slot.index()].waiting
    }

    /// Number of candidates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One past the greatest slot index ever used: the size of a table indexed by slot.
    #[must_use]
    pub fn slot_bound(&self) -> usize {
        self.entries.len()
    }

    /// Whether a candidate stands in a slot.
    #[must_use]
    pub fn holds(&self, slot: PoolSlot) -> bool {
        self.entries.get(slot.index()).is_some_and(|entry| entry.waiting.arrival != NOBODY)
    }

    /// The request in a slot, as it was inserted; its wait is [`Candidates::waited_steps`].
    ///
    /// # Panics
    /// When the slot never belonged to these candidates.
    pub fn request(&self, slot: PoolSlot) -> &Request {
        &self.entries[slot.index()].waiting.request
    }

    /// Steps that the request in a slot has waited.
    #[must_use]
    pub fn waited_steps(&self, slot: PoolSlot) -> u32 {
        self.now_step - self.entries[slot.index()].waiting.enqueued_step
    }

    /// Rank in arrival order: lower came earlier. The last tie-break of every rule.
    #[must_use]
    pub fn arrival(&self, slot: PoolSlot) -> u64 {
        self.entries[slot.index()].waiting.arrival
    }

    /// The candidates in arrival order, with their slots and waits.
    pub fn iter(&self) -> impl Iterator<Item = (PoolSlot, &Request, u32)> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            let slot = PoolSlot(at);
            at = entry.next;
            Some((slot, &entry.waiting.request, self.now_step - entry.waiting.enqueued_step))
        })
    }

    /// The arrival of the oldest.
    pub(super) fn first_arrival(&self) -> Option<u64> {
        Some(self.entries.get(self.head as usize)?.waiting.arrival)
    }

    /// The arrival of the youngest.
    pub(super) fn last_arrival(&self) -> Option<u64> {
        Some(self.entries.get(self.tail as usize)?.waiting.arrival)
    }

    /// The longest wait so far, in steps; zero when nobody waits.
    #[must_use]
    pub fn longest_wait_steps(&self) -> u32 {
        self.iter().map(|(.., waited_steps)| waited_steps).max().unwrap_or(0)
    }

    /// Mean length of the candidates, and the standard deviation of the same; zeros when nobody waits.
    pub(crate) fn mean_and_spread(&self) -> (f64, f64) {
        let count = self.count.max(1) as f64;
        let mean = self.sums.0 as f64 / count;
        (mean, (self.sums.1 as f64 / count - mean * mean).max(0.0).sqrt())
    }

    /// Whether a candidate carries a deadline of its own.
    pub(crate) fn any_deadline(&self) -> bool {
        self.with_deadline > 0
    }

    /// Whether a candidate prefers or refuses single workers, or has a survival class.
    pub(crate) fn any_pair_terms(&self) -> bool {
        self.with_pair_terms > 0
    }

    /// Whether a candidate is bound to a rank.
    pub(crate) fn any_rank(&self) -> bool {
        self.with_rank > 0
    }

    /// How many candidates have a row of pair terms.
    pub(crate) fn with_pair_row(&self) -> usize {
        self.with_pair_row
    }

    /// The longest of them.
    pub(crate) fn longest_tokens(&self) -> u32 {
        self.tokens[..self.count].last().copied().unwrap_or(0)
    }

    /// The length order.
    pub(crate) fn ordered(&self) -> Ordered<'_> {
        let padded = self.blocks() * BLOCK;
        let groups = padded.next_multiple_of(BLOCK * BLOCK) / BLOCK;
        Ordered {
            tokens: &self.tokens[..self.count],
            passed: &self.passed[..self.count],
            slots: &self.slots[..self.count],
            pair_rows: &self.pair_rows[..self.count],
            token_blocks: self.tokens[..padded].as_chunks().0,
            passed_blocks: self.passed[..padded].as_chunks().0,
            arrived_blocks: self.arrived[..padded].as_chunks().0,
            low: self.low[..groups].as_chunks().0,
            high: self.high[..groups].as_chunks().0,
            most_passed: self.most_passed[..groups].as_chunks().0,
        }
    }

    /// Where a candidate stands in the length order.
    pub(crate) fn position(&self, slot: PoolSlot) -> Option<usize> {
        let Waiting { request: Request { prompt_tokens, .. }, arrival, .. } =
            self.entries[slot.index()].waiting;
        let tokens = &self.tokens[..self.count];
        let from = tokens.partition_point(|&other| other < prompt_tokens);
        // Equal lengths stand in order of arrival.
        let to = from + tokens[from..].partition_point(|&other| other == prompt_tokens);
        let at = from + self.arrived[from..to].partition_point(|&other| other < arrival);
        (at < to && self.slots[at] == slot.0).then_some(at)
    }
}

/// Candidates by length: parallel columns, ascending in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ordered<'a> {
    pub tokens: &'a [u32],
    pub passed: &'a [u32],
    pub slots: &'a [u32],
    pub pair_rows: &'a [u32],
    // These columns in whole blocks; the last block may end in entries that mean nothing.
    pub token_blocks: &'a [[u32; BLOCK]],
    pub passed_blocks: &'a [[u32; BLOCK]],
    pub arrived_blocks: &'a [[u64; BLOCK]],
    // Per block, in groups of [`BLOCK`] blocks: least and greatest length, most passed. The last group may
    // end likewise.
    pub low: &'a [[u32; BLOCK]],
    pub high: &'a [[u32; BLOCK]],
    pub most_passed: &'a [[u32; BLOCK]],
}

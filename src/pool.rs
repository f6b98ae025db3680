//! The waiting pool: every request that may be admitted, in two orders at once.
//!
//! Arrival order (an intrusive list) serves first-come rules; length order (flat sorted columns) serves every
//! rule that looks for a length. A pool lives across steps, so a step pays only for what arrived and left. One-shot
//! callers build it from a slice. Nothing allocates once the pool has seen its largest size.

use std::collections::{HashMap, hash_map};

use crate::batch::error::BatchError;
use crate::batch::limits::{MAX_PROMPT_TOKENS, MAX_WAITED_STEPS, MAX_WAITING};
use crate::batch::request::Request;

/// Entries per block of the length order: a cache line of `u32`, and the width of the column kernels.
pub(crate) const BLOCK: usize = 16;

const NONE: u32 = u32::MAX;

/// Stands for the row of pair terms of a request that has none.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// Position of a request in its pool: stable until the request is removed, then reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolSlot(pub(crate) u32);

impl PoolSlot {
    /// The slot as an index below [`Pool::slot_bound`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
struct Entry {
    request: Request,
    enqueued_step: u32,
    arrival: u64,
    previous: u32,
    next: u32,
}

/// Waiting requests, in arrival order and by length.
#[derive(Clone, Debug)]
pub struct Pool {
    now_step: u32,
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    by_id: HashMap<u64, u32>,
    /// Every id is its slot, and `by_id` is empty: nothing has to be looked up.
    by_slot: bool,
    head: u32,
    tail: u32,
    arrivals: u64,
    with_deadline: usize,
    with_pair_terms: usize,
    with_rank: usize,
    with_pair_row: usize,
    /// Sort keys of a bulk fill: tokens and slot, and as many places to sort them into.
    keys: Vec<(u32, u32)>,
    // The length order: parallel columns sorted by tokens, then by insertion. They are longer than `count`, in whole blocks, so
    // that kernels read blocks only; so are the columns of blocks below. What lies past the end is left over and means nothing.
    count: usize,
    tokens: Vec<u32>,
    enqueued: Vec<u32>,
    slots: Vec<u32>,
    arrived: Vec<u64>,
    /// [`Request::pair_row`], [`NO_ROW`] for none: read together, where the requests themselves lie all over memory.
    pair_rows: Vec<u32>,
    // Per block: least and greatest length, oldest step.
    low: Vec<u32>,
    high: Vec<u32>,
    oldest: Vec<u32>,
    /// The least of them; means nothing while nobody waits.
    oldest_of_all: u32,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self {
            // Leaves room below for requests that arrive with a wait behind them.
            now_step: MAX_WAITED_STEPS,
            entries: Vec::new(),
            vacant: Vec::new(),
            by_id: HashMap::new(),
            by_slot: true,
            head: NONE,
            tail: NONE,
            arrivals: 0,
            with_deadline: 0,
            with_pair_terms: 0,
            with_rank: 0,
            with_pair_row: 0,
            keys: Vec::new(),
            count: 0,
            tokens: Vec::new(),
            enqueued: Vec::new(),
            slots: Vec::new(),
            arrived: Vec::new(),
            pair_rows: Vec::new(),
            low: Vec::new(),
            high: Vec::new(),
            oldest: Vec::new(),
            oldest_of_all: 0,
        }
    }

    /// A pool of the given requests; arrival order is the order of the slice.
    ///
    /// # Errors
    /// The first request that [`Pool::insert`] refuses, named by its index.
    pub fn from_requests(requests: &[Request]) -> Result<Self, BatchError> {
        let mut pool = Self::new();
        pool.refill(requests)?;
        Ok(pool)
    }

    /// Empties the pool and keeps its buffers.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.vacant.clear();
        self.by_id.clear();
        self.by_slot = true;
        (self.head, self.tail) = (NONE, NONE);
        (self.arrivals, self.count) = (0, 0);
        (self.with_deadline, self.with_pair_terms) = (0, 0);
        (self.with_rank, self.with_pair_row) = (0, 0);
    }

    /// Replaces everything by the given requests, in arrival order: far cheaper than one insertion after the other, and cheapest where
    /// ids are the places 0, 1, 2 and so on. Slots of before mean nothing any more.
    ///
    /// # Errors
    /// The first request that [`Pool::insert`] would refuse, named by its index; the pool is empty then.
    pub fn refill(&mut self, requests: &[Request]) -> Result<(), BatchError> {
        self.clear();
        let mut by_slot = requests.len() <= MAX_WAITING;
        let mut valid = by_slot;
        for (index, request) in requests.iter().enumerate() {
            by_slot &= request.id == index as u64;
            valid &= is_valid(request);
            self.with_deadline += usize::from(request.deadline_steps.is_some());
            self.with_pair_terms += usize::from(request.has_pair_terms());
            self.with_rank += usize::from(request.rank.is_some());
            self.with_pair_row += usize::from(request.pair_row.is_some());
        }
        if !(valid && by_slot) {
            // Something is wrong, or ids must be looked at one by one.
            self.by_slot = false;
            let refused = requests.iter().enumerate().try_for_each(|(index, request)| {
                check_new(index, request)?;
                match self.by_id.entry(request.id) {
                    hash_map::Entry::Occupied(first) => {
                        let first = *first.get() as usize;
                        Err(BatchError::DuplicateId { index, id: request.id, first })
                    }
                    hash_map::Entry::Vacant(free) => {
                        free.insert(index as u32);
                        Ok(())
                    }
                }
            });
            if refused.is_err() {
                self.clear();
                return refused;
            }
        }
        let now_step = self.now_step;
        self.entries.extend(requests.iter().zip(0u32..).map(|(&request, slot)| Entry {
            request,
            enqueued_step: now_step - request.waited_steps,
            arrival: u64::from(slot),
            previous: slot.wrapping_sub(1),
            next: slot + 1,
        }));
        self.count = self.entries.len();
        self.arrivals = self.count as u64;
        if let Some(last) = self.entries.last_mut() {
            last.next = NONE;
            (self.head, self.tail) = (0, self.count as u32 - 1);
        }
        self.order();
        Ok(())
    }

    /// Draws the length order of entries in order of arrival.
    fn order(&mut self) {
        self.widen();
        self.sort();
        for (at, &(tokens, slot)) in self.keys[..self.count].iter().enumerate() {
            let entry = &self.entries[slot as usize];
            self.tokens[at] = tokens;
            self.slots[at] = slot;
            self.enqueued[at] = entry.enqueued_step;
            self.arrived[at] = entry.arrival;
            self.pair_rows[at] = entry.request.pair_row.unwrap_or(NO_ROW);
        }
        for block in 0..self.blocks() {
            let from = block * BLOCK;
            let last = (from + BLOCK).min(self.count) - 1;
            self.low[block] = self.tokens[from];
            self.high[block] = self.tokens[last];
            self.oldest[block] = self.enqueued[from..=last].iter().copied().fold(u32::MAX, u32::min);
        }
        self.find_oldest();
    }

    fn find_oldest(&mut self) {
        self.oldest_of_all = self.oldest[..self.blocks()].iter().copied().fold(u32::MAX, u32::min);
    }

    /// Sorts (tokens, slot) into the first half of `keys`, byte by byte from the last: equal lengths stay in arrival order.
    fn sort(&mut self) {
        const BYTES: usize = MAX_PROMPT_TOKENS.ilog2() as usize / 8 + 1;
        let count = self.count;
        self.keys.clear();
        self.keys
            .extend(self.entries.iter().zip(0u32..).map(|(entry, slot)| (entry.request.prompt_tokens, slot)));
        self.keys.resize(2 * count, (0, 0));
        let mut ends = [[0u32; 256]; BYTES];
        for &(tokens, _) in &self.keys[..count] {
            for (byte, ends) in ends.iter_mut().enumerate() {
                ends[(tokens >> (8 * byte)) as usize & 255] += 1;
            }
        }
        let (mut from, mut to) = self.keys.split_at_mut(count);
        let mut swapped = false;
        for (byte, ends) in ends.iter_mut().enumerate() {
            let at = |tokens: u32| (tokens >> (8 * byte)) as usize & 255;
            // All alike in this byte.
            if from.first().is_none_or(|&(tokens, _)| ends[at(tokens)] as usize == count) {
                continue;
            }
            let mut sum = 0;
            for end in ends.iter_mut() {
                sum += std::mem::replace(end, sum);
            }
            for &key in from.iter() {
                let place = &mut ends[at(key.0)];
                to[*place as usize] = key;
                *place += 1;
            }
            std::mem::swap(&mut from, &mut to);
            swapped = !swapped;
        }
        if swapped {
            to.copy_from_slice(from);
        }
    }

    /// Looks ids up in the map from now on.
    fn index_ids(&mut self) {
        if self.by_slot {
            self.by_slot = false;
            let entries = self.entries.iter().enumerate();
            self.by_id.extend(entries.map(|(slot, entry)| (entry.request.id, slot as u32)));
        }
    }

    /// Adds a request at the end of the arrival order.
    ///
    /// # Errors
    /// A duplicate id, a length of zero or above [`MAX_PROMPT_TOKENS`], a wait above [`MAX_WAITED_STEPS`], or a full pool. The
    /// pool is unchanged then.
    pub fn insert(&mut self, request: Request) -> Result<PoolSlot, BatchError> {
        self.check(&request)?;
        let index = self.len();
        self.index_ids();
        let entry = Entry {
            request,
            enqueued_step: self.now_step - request.waited_steps,
            arrival: self.arrivals,
            previous: self.tail,
            next: NONE,
        };
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
        let arrival = self.arrivals;
        self.arrivals += 1;
        match self.tail {
            NONE => self.head = slot,
            tail => self.entries[tail as usize].next = slot,
        }
        self.tail = slot;
        self.by_id.insert(request.id, slot);
        self.with_deadline += usize::from(request.deadline_steps.is_some());
        self.with_pair_terms += usize::from(request.has_pair_terms());
        self.with_rank += usize::from(request.rank.is_some());
        self.with_pair_row += usize::from(request.pair_row.is_some());

        let at = self.tokens[..index].partition_point(|&tokens| tokens <= request.prompt_tokens);
        self.count += 1;
        self.widen();
        put(&mut self.tokens[..=index], at, request.prompt_tokens);
        put(&mut self.enqueued[..=index], at, self.now_step - request.waited_steps);
        put(&mut self.slots[..=index], at, slot);
        put(&mut self.arrived[..=index], at, arrival);
        put(&mut self.pair_rows[..=index], at, request.pair_row.unwrap_or(NO_ROW));
        self.refresh_blocks(at, true);
        let enqueued_step = self.now_step - request.waited_steps;
        self.oldest_of_all = if index == 0 { enqueued_step } else { self.oldest_of_all.min(enqueued_step) };
        Ok(PoolSlot(slot))
    }

    /// What [`Pool::insert`] refuses.
    pub(crate) fn check(&self, request: &Request) -> Result<(), BatchError> {
        let index = self.len();
        check_new(index, request)?;
        if let Some(slot) = self.slot_of(request.id) {
            return Err(BatchError::DuplicateId {
                index,
                id: request.id,
                first: self.iter().position(|(at, ..)| at == slot).unwrap_or(index),
            });
        }
        Ok(())
    }

    /// Takes the request with this id out of the pool, with its wait so far.
    pub fn remove(&mut self, id: u64) -> Option<Request> {
        self.index_ids();
        let slot = self.by_id.remove(&id)?;
        let entry = self.entries[slot as usize].clone();
        match entry.previous {
            NONE => self.head = entry.next,
            previous => self.entries[previous as usize].next = entry.next,
        }
        match entry.next {
            NONE => self.tail = entry.previous,
            next => self.entries[next as usize].previous = entry.previous,
        }
        self.vacant.push(slot);
        self.with_deadline -= usize::from(entry.request.deadline_steps.is_some());
        self.with_pair_terms -= usize::from(entry.request.has_pair_terms());
        self.with_rank -= usize::from(entry.request.rank.is_some());
        self.with_pair_row -= usize::from(entry.request.pair_row.is_some());

        let count = self.count;
        let first = self.tokens[..count].partition_point(|&tokens| tokens < entry.request.prompt_tokens);
        let offset = self.slots[first..count].iter().position(|&other| other == slot).unwrap_or_default();
        let at = first + offset;
        self.tokens.copy_within(at + 1..count, at);
        self.enqueued.copy_within(at + 1..count, at);
        self.slots.copy_within(at + 1..count, at);
        self.arrived.copy_within(at + 1..count, at);
        self.pair_rows.copy_within(at + 1..count, at);
        self.count -= 1;
        self.refresh_blocks(at, false);
        if entry.enqueued_step == self.oldest_of_all {
            self.find_oldest();
        }
        Some(Request { waited_steps: self.now_step - entry.enqueued_step, ..entry.request })
    }

    /// Lets `steps` pass: every waiting request has waited that much longer.
    pub fn advance(&mut self, steps: u32) {
        // Years of steps fit; past that, waits saturate at MAX_WAITED_STEPS instead of wrapping.
        const REBASE_AT: u32 = u32::MAX - 2 * MAX_WAITED_STEPS;
        self.now_step += steps.min(MAX_WAITED_STEPS);
        if self.now_step >= REBASE_AT {
            let shift = self.now_step - MAX_WAITED_STEPS;
            self.now_step -= shift;
            for entry in &mut self.entries {
                entry.enqueued_step = entry.enqueued_step.saturating_sub(shift);
            }
            for step in self.enqueued.iter_mut().chain(&mut self.oldest).chain([&mut self.oldest_of_all]) {
                *step = step.saturating_sub(shift);
            }
        }
    }

    /// Number of waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One past the greatest slot index ever used: the size of a table indexed by slot.
    #[must_use]
    pub fn slot_bound(&self) -> usize {
        self.entries.len()
    }

    /// The slot of a waiting request.
    #[must_use]
    pub fn slot_of(&self, id: u64) -> Option<PoolSlot> {
        if self.by_slot {
            return (id < self.count as u64).then_some(PoolSlot(id as u32));
        }
        self.by_id.get(&id).copied().map(PoolSlot)
    }

    /// The request in a slot, as it was inserted; its wait is [`Pool::waited_steps`].
    ///
    /// # Panics
    /// When the slot never belonged to this pool.
    #[must_use]
    pub fn request(&self, slot: PoolSlot) -> &Request {
        &self.entries[slot.index()].request
    }

    /// Steps that the request in a slot has waited.
    #[must_use]
    pub fn waited_steps(&self, slot: PoolSlot) -> u32 {
        self.now_step - self.entries[slot.index()].enqueued_step
    }

    /// Rank in arrival order: lower came earlier. The last tie-break of every rule.
    #[must_use]
    pub fn arrival(&self, slot: PoolSlot) -> u64 {
        self.entries[slot.index()].arrival
    }

    /// Sets the rank that a waiting request is bound to; false when it does not wait.
    pub fn bind(&mut self, id: u64, rank: u32) -> bool {
        let Some(slot) = self.slot_of(id) else { return false };
        let request = &mut self.entries[slot.index()].request;
        self.with_pair_terms += usize::from(!request.has_pair_terms());
        self.with_rank += usize::from(request.rank.is_none());
        request.rank = Some(rank);
        true
    }

    /// Renames the ranks that waiting requests are bound to.
    pub(crate) fn map_ranks(&mut self, rename: impl Fn(u32) -> u32) {
        let mut at = self.head;
        while let Some(entry) = self.entries.get_mut(at as usize) {
            entry.request.rank = entry.request.rank.map(&rename);
            at = entry.next;
        }
    }

    /// Id and tokens of the longest waiting request.
    pub(crate) fn longest(&self) -> Option<(u64, u64)> {
        let at = self.count.checked_sub(1)?;
        Some((self.entries[self.slots[at] as usize].request.id, u64::from(self.tokens[at])))
    }

    /// Gives every waiting request the row of pair terms that `row_of` names, in arrival order.
    pub(crate) fn set_pair_rows(&mut self, mut row_of: impl FnMut(&Request) -> Option<u32>) {
        let mut at = self.head;
        while let Some(entry) = self.entries.get_mut(at as usize) {
            let row = row_of(&entry.request);
            self.with_pair_row -= usize::from(entry.request.pair_row.is_some());
            self.with_pair_row += usize::from(row.is_some());
            self.with_pair_terms -= usize::from(entry.request.has_pair_terms());
            entry.request.pair_row = row;
            self.with_pair_terms += usize::from(entry.request.has_pair_terms());
            at = entry.next;
        }
        for (row, &slot) in self.pair_rows.iter_mut().zip(&self.slots[..self.count]) {
            *row = self.entries[slot as usize].request.pair_row.unwrap_or(NO_ROW);
        }
    }

    /// Waiting requests in arrival order, with their slots and waits.
    pub fn iter(&self) -> impl Iterator<Item = (PoolSlot, &Request, u32)> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            let slot = PoolSlot(at);
            at = entry.next;
            Some((slot, &entry.request, self.now_step - entry.enqueued_step))
        })
    }

    /// The longest wait so far, in steps; zero when nobody waits.
    #[must_use]
    pub fn longest_wait_steps(&self) -> u32 {
        if self.is_empty() { 0 } else { self.now_step - self.oldest_of_all }
    }

    /// Whether a waiting request carries a deadline of its own.
    pub(crate) fn any_deadline(&self) -> bool {
        self.with_deadline > 0
    }

    /// Whether a waiting request prefers or refuses single workers, or has a survival class.
    pub(crate) fn any_pair_terms(&self) -> bool {
        self.with_pair_terms > 0
    }

    /// Whether a waiting request is bound to a rank.
    pub(crate) fn any_rank(&self) -> bool {
        self.with_rank > 0
    }

    /// How many waiting requests have a row of pair terms.
    pub(crate) fn with_pair_row(&self) -> usize {
        self.with_pair_row
    }

    /// The length order.
    pub(crate) fn ordered(&self) -> Ordered<'_> {
        let padded = self.blocks() * BLOCK;
        let groups = padded.next_multiple_of(BLOCK * BLOCK) / BLOCK;
        Ordered {
            now_step: self.now_step,
            tokens: &self.tokens[..self.count],
            enqueued: &self.enqueued[..self.count],
            slots: &self.slots[..self.count],
            pair_rows: &self.pair_rows[..self.count],
            token_blocks: self.tokens[..padded].as_chunks().0,
            enqueued_blocks: self.enqueued[..padded].as_chunks().0,
            arrived_blocks: self.arrived[..padded].as_chunks().0,
            low: self.low[..groups].as_chunks().0,
            high: self.high[..groups].as_chunks().0,
            oldest: self.oldest[..groups].as_chunks().0,
        }
    }

    /// Where a waiting request stands in the length order.
    pub(crate) fn position(&self, slot: PoolSlot) -> Option<usize> {
        let tokens = self.entries[slot.index()].request.prompt_tokens;
        let first = self.tokens[..self.count].partition_point(|&other| other < tokens);
        let offset = self.slots[first..self.count].iter().position(|&other| other == slot.0)?;
        Some(first + offset)
    }

    fn blocks(&self) -> usize {
        self.count.div_ceil(BLOCK)
    }

    /// Makes the columns hold `count` entries.
    fn widen(&mut self) {
        if self.count <= self.tokens.len() {
            return;
        }
        let padded = self.count.next_multiple_of(BLOCK);
        self.tokens.resize(padded, 0);
        self.enqueued.resize(padded, 0);
        self.slots.resize(padded, 0);
        self.arrived.resize(padded, 0);
        self.pair_rows.resize(padded, NO_ROW);
        let groups = (padded / BLOCK).next_multiple_of(BLOCK);
        self.low.resize(groups, 0);
        self.high.resize(groups, 0);
        self.oldest.resize(groups, 0);
    }

    /// Brings what is known of each block up to date after an insertion at `position` has moved the entries behind it up by one, or a
    /// removal down by one (`inserted` says which).
    fn refresh_blocks(&mut self, position: usize, inserted: bool) {
        let first = position / BLOCK;
        for block in first..self.blocks() {
            let from = block * BLOCK;
            let last = (from + BLOCK).min(self.count) - 1;
            self.low[block] = self.tokens[from];
            self.high[block] = self.tokens[last];
            // A full block further on has lost one entry to its neighbour and gained one: mostly not its oldest.
            let inner = block > first && last + 1 < self.count;
            if inner {
                let (gained, lost) = if inserted { (from, last + 1) } else { (last, from - 1) };
                let (gained, oldest) = (self.enqueued[gained], self.oldest[block]);
                if gained <= oldest || self.enqueued[lost] > oldest {
                    self.oldest[block] = gained.min(oldest);
                    continue;
                }
            }
            self.oldest[block] = self.enqueued[from..=last].iter().copied().fold(u32::MAX, u32::min);
        }
    }
}

/// Whether [`check_new`] finds nothing, where there is room.
fn is_valid(request: &Request) -> bool {
    (1..=MAX_PROMPT_TOKENS).contains(&request.prompt_tokens) & (request.waited_steps <= MAX_WAITED_STEPS)
}

/// Checks what a request says of itself, as the one at `index`.
fn check_new(index: usize, request: &Request) -> Result<(), BatchError> {
    if index >= MAX_WAITING {
        return Err(BatchError::TooManyWaiting { limit: MAX_WAITING, found: index + 1 });
    }
    if request.prompt_tokens == 0 || request.prompt_tokens > MAX_PROMPT_TOKENS {
        return Err(BatchError::PromptTokens {
            index,
            id: request.id,
            limit: MAX_PROMPT_TOKENS,
            found: request.prompt_tokens,
        });
    }
    if request.waited_steps > MAX_WAITED_STEPS {
        return Err(BatchError::WaitedSteps {
            index,
            id: request.id,
            limit: MAX_WAITED_STEPS,
            found: request.waited_steps,
        });
    }
    Ok(())
}

/// Puts a value into a slice whose last element is spare.
fn put<T: Copy>(values: &mut [T], at: usize, value: T) {
    let last = values.len() - 1;
    values.copy_within(at..last, at + 1);
    values[at] = value;
}

/// Waiting requests by length: parallel columns, ascending in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ordered<'a> {
    pub now_step: u32,
    pub tokens: &'a [u32],
    pub enqueued: &'a [u32],
    pub slots: &'a [u32],
    pub pair_rows: &'a [u32],
    // The same columns in whole blocks; the last block may end in entries that mean nothing.
    pub token_blocks: &'a [[u32; BLOCK]],
    pub enqueued_blocks: &'a [[u32; BLOCK]],
    pub arrived_blocks: &'a [[u64; BLOCK]],
    // Per block, in groups of [`BLOCK`] blocks: least and greatest length, oldest step. The last group may end likewise.
    pub low: &'a [[u32; BLOCK]],
    pub high: &'a [[u32; BLOCK]],
    pub oldest: &'a [[u32; BLOCK]],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pool: &Pool) {
        let ordered = pool.ordered();
        assert_eq!(pool.iter().count(), pool.len());
        let with_row = pool.iter().filter(|(_, request, _)| request.pair_row.is_some());
        assert_eq!(pool.with_pair_row(), with_row.count());
        assert_eq!(pool.any_rank(), pool.iter().any(|(_, request, _)| request.rank.is_some()));
        assert!(ordered.tokens.is_sorted());
        assert_eq!(ordered.token_blocks.len(), pool.len().div_ceil(BLOCK));
        assert_eq!(ordered.oldest.len(), pool.len().div_ceil(BLOCK * BLOCK));
        let longest = pool.iter().map(|(.., waited)| waited).max().unwrap_or(0);
        assert_eq!(pool.longest_wait_steps(), longest);
        for (position, &slot) in ordered.slots.iter().enumerate() {
            let slot = PoolSlot(slot);
            assert_eq!(pool.request(slot).prompt_tokens, ordered.tokens[position]);
            assert_eq!(pool.waited_steps(slot), ordered.now_step - ordered.enqueued[position]);
            assert_eq!(pool.arrival(slot), ordered.arrived_blocks[position / BLOCK][position % BLOCK]);
            assert_eq!(pool.request(slot).pair_row.unwrap_or(NO_ROW), ordered.pair_rows[position]);
        }
        for (block, chunk) in ordered.enqueued.chunks(BLOCK).enumerate() {
            assert_eq!(chunk.iter().min(), Some(&ordered.oldest[block / BLOCK][block % BLOCK]));
        }
        for (block, chunk) in ordered.tokens.chunks(BLOCK).enumerate() {
            assert_eq!(chunk.first(), Some(&ordered.low[block / BLOCK][block % BLOCK]));
            assert_eq!(chunk.last(), Some(&ordered.high[block / BLOCK][block % BLOCK]));
        }
        let arrivals: Vec<u64> = pool.iter().map(|(slot, ..)| pool.arrival(slot)).collect();
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn both_orders_hold_while_requests_come_and_go() {
        let mut pool = Pool::new();
        let mut seed = 1u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        let mut live = Vec::new();
        for id in 0..2000 {
            pool.advance(next(3) as u32);
            if live.len() > 90 || (live.len() > 1 && next(3) == 0) {
                let gone = live.swap_remove(next(live.len() as u64) as usize);
                let request = pool.remove(gone).expect("it waits");
                assert_eq!(request.id, gone);
            }
            let request = Request::new(id, 1 + next(40) as u32).waited(next(50) as u32);
            let request = match next(3) {
                0 => request.pairs(next(9) as u32),
                1 if id % 500 > 400 => request.bound_to(next(9) as u32),
                _ => request,
            };
            pool.insert(request).expect("valid");
            live.push(id);
            if id % 91 == 0 {
                assert!(pool.bind(id, 3));
                pool.set_pair_rows(|request| request.pair_row.map(|row| row + 1));
            }
            if id % 37 == 0 {
                check(&pool);
            }
        }
        check(&pool);
        for id in live {
            assert!(pool.remove(id).is_some());
        }
        assert!(pool.is_empty() && pool.iter().next().is_none());
        assert_eq!(pool.remove(3), None);
    }

    #[test]
    fn refusals_name_the_place_and_change_nothing() {
        let error = Pool::from_requests(&[Request::new(1, 5), Request::new(2, 5), Request::new(1, 7)]);
        assert_eq!(error.unwrap_err(), BatchError::DuplicateId { index: 2, id: 1, first: 0 });
        let mut pool = Pool::new();
        assert!(matches!(pool.insert(Request::new(1, 0)), Err(BatchError::PromptTokens { found: 0, .. })));
        assert!(pool.insert(Request::new(1, MAX_PROMPT_TOKENS + 1)).is_err());
        assert!(pool.insert(Request::new(1, 1).waited(MAX_WAITED_STEPS + 1)).is_err());
        assert!(pool.is_empty());
    }

    #[test]
    fn a_refilled_pool_is_the_one_filled_request_by_request() {
        let mut seed = 7u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        let mut bulk = Pool::new();
        for size in [0, 1, 2, 15, 16, 17, 31, 256, 257, 40, 3] {
            for (first_id, longest) in
                [(0, 40), (1, 40), (0, 300), (0, 70_000), (1, u64::from(MAX_PROMPT_TOKENS))]
            {
                let requests: Vec<Request> = (0..size)
                    .map(|at| Request::new(first_id + at, 1 + next(longest) as u32).waited(next(50) as u32))
                    .collect();
                let mut single = Pool::new();
                requests.iter().for_each(|&request| {
                    single.insert(request).expect("valid");
                });
                bulk.refill(&requests).expect("valid");
                let same = |bulk: &Pool, single: &Pool| {
                    check(bulk);
                    let ids = |pool: &Pool| -> Vec<(u64, u32)> {
                        pool.iter().map(|(_, request, waited)| (request.id, waited)).collect()
                    };
                    let ordered = |pool: &Pool| -> Vec<u64> {
                        let slots = pool.ordered().slots.iter();
                        slots.map(|&slot| pool.request(PoolSlot(slot)).id).collect()
                    };
                    assert_eq!((ids(bulk), ordered(bulk)), (ids(single), ordered(single)));
                };
                same(&bulk, &single);
                assert_eq!(bulk.slot_of(size + first_id), None);
                // It lives on like any other.
                for id in [first_id, 12, 30, size] {
                    assert_eq!(bulk.remove(id), single.remove(id));
                    let late = Request::new(1000 + id, 1 + next(40) as u32);
                    bulk.insert(late).expect("valid");
                    single.insert(late).expect("valid");
                    assert!(
                        bulk.bind(1000 + id, 1)
                            && bulk.request(bulk.slot_of(1000 + id).expect("waits")).rank == Some(1)
                    );
                    assert_eq!(
                        bulk.remove(1000 + id).map(|request| request.id),
                        single.remove(1000 + id).map(|request| request.id)
                    );
                }
                same(&bulk, &single);
            }
        }
        let twice = [Request::new(0, 5), Request::new(1, 5), Request::new(0, 7)];
        assert_eq!(bulk.refill(&twice), Err(BatchError::DuplicateId { index: 2, id: 0, first: 0 }));
        assert!(bulk.is_empty() && bulk.iter().next().is_none());
        let late = [Request::new(0, 5), Request::new(1, 5).waited(MAX_WAITED_STEPS + 1)];
        assert!(matches!(bulk.refill(&late), Err(BatchError::WaitedSteps { index: 1, id: 1, .. })));
        let none = [Request::new(0, 5), Request::new(0, 0)];
        assert!(matches!(bulk.refill(&none), Err(BatchError::PromptTokens { index: 1, id: 0, .. })));
        assert!(bulk.is_empty() && !bulk.any_pair_terms() && !bulk.any_deadline());
    }

    #[test]
    fn waits_survive_the_rebase_of_the_clock() {
        let mut pool = Pool::from_requests(&[Request::new(1, 5).waited(7)]).expect("valid");
        pool.now_step = u32::MAX - 2 * MAX_WAITED_STEPS - 1;
        let slot = pool.slot_of(1).expect("it waits");
        pool.entries[0].enqueued_step = pool.now_step - 7;
        pool.enqueued[0] = pool.now_step - 7;
        pool.oldest[0] = pool.now_step - 7;
        pool.oldest_of_all = pool.now_step - 7;
        pool.advance(1);
        assert_eq!(pool.waited_steps(slot), 8);
        assert_eq!(pool.longest_wait_steps(), 8);
        check(&pool);
    }
}

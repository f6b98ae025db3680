//! What waits: a queue in order of arrival, the oldest of which are the candidates of a decision.
//!
//! A decision chooses among the oldest [`CANDIDATE_WINDOW`] requests (or as many as [`Pool::with_window`]
//! says), the oracle as well: only they stand in length order. So a million who wait cost a decision what a
//! few thousand do, and to come, to leave or to be refused costs the same however many wait. Where nobody in
//! the window may enter an open worker, the router moves the window on past them for that step.
//!
//! | module | holds |
//! |---|---|
//! | `candidates` | who a decision chooses among, in order of arrival and, in blocks, by length |
//! | `queue` | everybody behind them: a list for each rank, in stretches of known lengths |
//! | `passed` | how many younger ones have been admitted before each |
//! | `sort` | the length order of everybody at once |
//! | `window` | where the window stands while it is moved on, and who leaves with the next decision |
//! | `dates` | since when those wait who came without a reading of the clock |
//! | here | ids, and who stands in which of the first two |
//!
//! Ids are the caller's and may be an attacker's choice, so they are found by the standard library's keyed
//! hash.

mod candidates;
mod dates;
mod passed;
mod queue;
mod sort;
mod waiting;
mod window;

use std::collections::{HashMap, hash_map};

pub(crate) use self::candidates::{BLOCK, NO_ROW, Ordered};
pub use self::candidates::{Candidates, PoolSlot};
use self::dates::{Dates, UNDATED};
use self::passed::Passes;
use self::queue::{Heads, Queue};
pub(crate) use self::waiting::Waiting;
use crate::entities::error::BatchError;
use crate::entities::limits::{MAX_PASSED, MAX_PROMPT_TOKENS, MAX_WAITED_STEPS, MAX_WAITING, MAX_WORKERS};
use crate::entities::request::Request;
use crate::ids::{RequestId, WorkerIndex};

/// Requests that a decision chooses among unless told otherwise. More buy nothing: a window of the oldest 16
/// a worker costs no balance (measured).
pub const CANDIDATE_WINDOW: usize = 4096;

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Candidate(PoolSlot),
    Queued(u32),
}

/// Waiting requests in order of arrival.
#[derive(Clone, Debug)]
pub struct Pool {
    window: usize,
    candidates: Candidates,
    queue: Queue,
    places: HashMap<RequestId, Place>,
    /// Every id is its row in the last [`Pool::refill`], and `places` is empty: nothing has to be looked up.
    by_row: bool,
    arrivals: u64,
    dates: Dates,
    /// The window while it is moved on.
    further: Candidates,
    moved: bool,
    // Scratch.
    passes: Passes,
    by_slot: Vec<u32>,
    found: Vec<u32>,
    slots: Vec<PoolSlot>,
    gone: Vec<Place>,
    joining: Vec<Waiting>,
    heads: Heads,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// An empty pool with a window of [`CANDIDATE_WINDOW`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_window(CANDIDATE_WINDOW)
    }

    /// An empty pool whose oldest so many requests are candidates; at least one.
    #[must_use]
    pub fn with_window(candidates: usize) -> Self {
        Self {
            window: candidates.max(1),
            candidates: Candidates::new(),
            queue: Queue::new(),
            places: HashMap::new(),
            by_row: true,
            arrivals: 0,
            dates: Dates::default(),
            further: Candidates::new(),
            moved: false,
            passes: Passes::default(),
            by_slot: Vec::new(),
            found: Vec::new(),
            slots: Vec::new(),
            gone: Vec::new(),
            joining: Vec::new(),
            heads: Heads::new(),
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
        self.candidates.clear();
        self.queue.clear();
        self.places.clear();
        self.by_row = true;
        self.arrivals = 0;
        self.dates = Dates::default();
        self.moved = false;
    }

    /// Replaces everything by the given requests, in arrival order: far cheaper than one insertion after the
    /// other, and cheapest where ids are the places 0, 1, 2 and so on. Slots of before mean nothing any more.
    ///
    /// # Errors
    /// The first request that [`Pool::insert`] would refuse, named by its index; the pool is empty then.
    pub fn refill(&mut self, requests: &[Request]) -> Result<(), BatchError> {
        self.clear();
        let mut by_row = requests.len() <= MAX_WAITING;
        let mut valid = by_row;
        for (index, request) in requests.iter().enumerate() {
            by_row &= request.id == index as u64;
            valid &= is_valid(request);
        }
        if !(valid && by_row) {
            // Something is wrong, or ids must be looked at one by one.
            self.by_row = false;
            let refused = requests.iter().enumerate().try_for_each(|(index, request)| {
                check_new(index, Some(index), request)?;
                let place = self.place_of_row(index);
                match self.places.entry(request.id) {
                    hash_map::Entry::Occupied(first) => {
                        let first = match *first.get() {
                            Place::Candidate(slot) => slot.index(),
                            Place::Queued(node) => self.window + node as usize,
                        };
                        Err(BatchError::DuplicateId { index, id: request.id, first })
                    }
                    hash_map::Entry::Vacant(free) => {
                        free.insert(place);
                        Ok(())
                    }
                }
            });
            if refused.is_err() {
                self.clear();
                return refused;
            }
        }
        let now_step = self.candidates.now_step();
        let mut waiting = requests.iter().zip(0u64..).map(|(&request, arrival)| Waiting {
            request,
            enqueued_step: now_step - request.waited_steps,
            since_ms: 0,
            arrival,
            leaves: false,
            returned: false,
        });
        self.candidates.refill(waiting.by_ref().take(self.window));
        for waiting in waiting {
            self.queue.push(waiting);
        }
        self.arrivals = requests.len() as u64;
        Ok(())
    }

    /// Where the request of a row stands in a pool that has just been refilled.
    fn place_of_row(&self, row: usize) -> Place {
        if row < self.window {
            Place::Candidate(PoolSlot(row as u32))
        } else {
            Place::Queued((row - self.window) as u32)
        }
    }

    /// Who waits will be others: ids are looked up in the map from now on, and the window stands with the
    /// oldest.
    fn begin_change(&mut self) {
        self.moved = false;
        if std::mem::take(&mut self.by_row) {
            self.places =
                (0..self.len()).map(|row| (RequestId::new(row as u64), self.place_of_row(row))).collect();
        }
    }

    fn place(&self, id: RequestId) -> Option<Place> {
        if self.by_row {
            return (id.get() < self.len() as u64).then(|| self.place_of_row(id.get() as usize));
        }
        self.places.get(&id).copied()
    }

    /// Adds a request at the end of the arrival order.
    ///
    /// # Errors
    /// A duplicate id, a length of zero or above [`MAX_PROMPT_TOKENS`], a wait above [`MAX_WAITED_STEPS`], a
    /// rank that is none of [`MAX_WORKERS`], or a full pool. The pool is unchanged then.
    pub fn insert(&mut self, request: Request) -> Result<(), BatchError> {
        self.check(&request)?;
        self.enter(request, Some(0));
        Ok(())
    }

    /// What is refused of a request that does not wait, or waits already.
    pub(crate) fn check_alone(request: &Request) -> Result<(), BatchError> {
        check_new(0, None, request)
    }

    /// What [`Pool::insert`] refuses.
    pub(crate) fn check(&self, request: &Request) -> Result<(), BatchError> {
        check_new(self.len(), None, request)?;
        match self.contains(request.id) {
            true => Err(BatchError::Waits { id: request.id }),
            false => Ok(()),
        }
    }

    /// Adds a request that [`Pool::check`] lets in; without a date it gets that of the next [`Pool::date`].
    pub(crate) fn enter(&mut self, request: Request, since_ms: Option<u64>) {
        self.begin_change();
        if since_ms.is_none() {
            self.dates.undated(self.arrivals);
        }
        let waiting = self.waiting_at(request, since_ms.unwrap_or(UNDATED), self.arrivals);
        self.arrivals += 1;
        let places = &mut self.places;
        if self.queue.is_empty() && self.candidates.len() < self.window {
            let entered = |id, slot| {
                places.insert(id, Place::Candidate(slot));
            };
            self.candidates.exchange(&[], std::iter::once(waiting), entered);
        } else {
            places.insert(request.id, Place::Queued(self.queue.push(waiting)));
        }
    }

    fn waiting_at(&self, request: Request, since_ms: u64, arrival: u64) -> Waiting {
        let enqueued_step = self.candidates.now_step() - request.waited_steps;
        let returned = arrival < self.arrivals;
        Waiting { request, enqueued_step, since_ms, arrival, leaves: false, returned }
    }

    /// Takes the request with this id out of the pool, with its wait so far.
    pub fn remove(&mut self, id: impl Into<RequestId>) -> Option<Request> {
        Some(self.leave(id.into())?.request)
    }

    /// Takes a request out, with all that is known of it.
    pub(crate) fn leave(&mut self, id: RequestId) -> Option<Waiting> {
        let mut found = None;
        self.leave_all(std::iter::once(id), |waiting| found = Some(waiting));
        found
    }

    /// Takes everybody out whose ids are given, and gives each to `left` with its wait so far; ids of nobody
    /// are passed over. The window is full again afterwards, as far as there are requests.
    pub(crate) fn leave_all(&mut self, ids: impl Iterator<Item = RequestId>, mut left: impl FnMut(Waiting)) {
        self.begin_change();
        let (mut slots, mut gone) = (std::mem::take(&mut self.slots), std::mem::take(&mut self.gone));
        slots.clear();
        gone.clear();
        // All ids first: the memory of one is on its way while the next is looked up.
        gone.extend(ids.filter_map(|id| self.places.remove(&id)));
        for &place in &gone {
            match place {
                Place::Candidate(slot) => {
                    slots.push(slot);
                    left(self.as_it_left(self.candidates.as_it_stands(slot)));
                }
                Place::Queued(node) => {
                    let waiting = self.queue.remove(node);
                    left(self.as_it_left(waiting));
                }
            }
        }
        if !slots.is_empty() {
            self.exchange(&slots);
        }
        (self.slots, self.gone) = (slots, gone);
    }

    fn as_it_left(&self, waiting: Waiting) -> Waiting {
        let waited_steps = self.candidates.now_step() - waiting.enqueued_step;
        let since_ms = self.dates.since_ms(&waiting);
        Waiting { request: Request { waited_steps, ..waiting.request }, since_ms, ..waiting }
    }

    /// Lets those go who stand in these slots, and the oldest of the queue in.
    fn exchange(&mut self, leaving: &[PoolSlot]) {
        let free = (self.window + leaving.len()).saturating_sub(self.candidates.len());
        let (places, joining) = (&mut self.places, &mut self.joining);
        self.queue.take_oldest(free, |waiting| joining.push(waiting));
        self.candidates.exchange(leaving, joining.drain(..), |id, slot| {
            places.insert(id, Place::Candidate(slot));
        });
    }

    /// Lets `steps` pass: every waiting request has waited that much longer.
    pub fn advance(&mut self, steps: u32) {
        // Years of steps fit; past that, waits saturate at MAX_WAITED_STEPS instead of wrapping.
        const REBASE_AT: u32 = u32::MAX - 2 * MAX_WAITED_STEPS;
        self.moved = false;
        let mut now_step = self.candidates.now_step() + steps.min(MAX_WAITED_STEPS);
        let mut shift = 0;
        if now_step >= REBASE_AT {
            shift = now_step - MAX_WAITED_STEPS;
            now_step = MAX_WAITED_STEPS;
            self.queue.shift_steps(shift);
        }
        self.candidates.set_step(now_step, shift);
    }

    /// Number of waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.candidates.len() + self.queue.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a request waits.
    #[must_use]
    pub fn contains(&self, id: impl Into<RequestId>) -> bool {
        self.place(id.into()).is_some()
    }

    /// A request that waits, its wait so far within it.
    #[must_use]
    pub fn request(&self, id: impl Into<RequestId>) -> Option<Request> {
        self.find(id.into()).map(|(_, request, waited_steps)| Request { waited_steps, ..request })
    }

    /// A request that waits, its slot if it is a candidate, and the steps that it has waited.
    pub(crate) fn find(&self, id: RequestId) -> Option<(Option<PoolSlot>, Request, u32)> {
        let (slot, waiting) = match self.place(id)? {
            Place::Candidate(slot) => (Some(slot), self.candidates.as_it_stands(slot)),
            Place::Queued(node) => (None, self.queue.as_it_stands(node)),
        };
        Some((slot, waiting.request, self.candidates.now_step() - waiting.enqueued_step))
    }

    /// Who a decision chooses among: the oldest, up to the window.
    #[must_use]
    pub fn candidates(&self) -> &Candidates {
        if self.moved { &self.further } else { &self.candidates }
    }

    /// The slot of a candidate.
    #[must_use]
    pub fn slot_of(&self, id: impl Into<RequestId>) -> Option<PoolSlot> {
        let id = id.into();
        if self.moved {
            return self.further.iter().find(|(_, request, _)| request.id == id).map(|(slot, ..)| slot);
        }
        match self.place(id)? {
            Place::Candidate(slot) => Some(slot),
            Place::Queued(_) => None,
        }
    }

    /// Everybody in arrival order, with the steps that each has waited.
    pub fn iter(&self) -> impl Iterator<Item = (Request, u32)> {
        self.iter_with_slots().map(|(_, request, waited)| (request, waited))
    }

    /// Everybody in order of arrival, with the slots of those in the window, where it stands when it is not
    /// moved on.
    pub(crate) fn iter_with_slots(&self) -> impl Iterator<Item = (Option<PoolSlot>, Request, u32)> {
        let now_step = self.candidates.now_step();
        let mut by_slot = Vec::new();
        self.candidates.passed_by_slot(&mut by_slot);
        let first = self
            .candidates
            .iter()
            .map(move |(slot, &request, waited)| (Some(slot), request.passed(by_slot[slot.index()]), waited));
        first.chain(
            self.queue
                .iter(Heads::new())
                .map(move |waiting| (None, waiting.request, now_step - waiting.enqueued_step)),
        )
    }

    /// The longest wait of all, in steps; zero when nobody waits. Of those behind the window it is known only
    /// that the window came first.
    #[must_use]
    pub fn longest_wait_steps(&self) -> u32 {
        let queued = self.queue.oldest().map(|waiting| self.candidates.now_step() - waiting.enqueued_step);
        self.candidates.longest_wait_steps().max(queued.max().unwrap_or(0))
    }

    /// The row of a candidate in the requests of [`Pool::refill`].
    #[must_use]
    pub fn row_of(&self, slot: PoolSlot) -> usize {
        self.candidates().arrival(slot) as usize
    }

    /// Whether somebody behind the window has a row of pair terms or a survival class.
    pub(crate) fn any_queued_terms(&self) -> bool {
        self.queue.with_terms() > 0
    }

    // For the router.

    /// Since when the one waits who came first, by the clock; none before it has a date.
    pub(crate) fn first_since_ms(&self) -> Option<u64> {
        let since_ms = |waiting: &Waiting| self.dates.since_ms(waiting);
        let first = self.candidates.oldest().chain(self.queue.oldest()).map(since_ms).min()?;
        Some(first).filter(|&since_ms| since_ms != UNDATED)
    }

    /// Who came without a date gets this one.
    pub(crate) fn date(&mut self, now_ms: u64) {
        let oldest =
            self.candidates.iter().next().map_or(u64::MAX, |(slot, ..)| self.candidates.arrival(slot));
        self.dates.date(now_ms, oldest);
    }

    /// Ids of everybody, in no order.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        if self.by_row {
            (0..self.len() as u64).map(RequestId::new).collect()
        } else {
            self.places.keys().copied().collect()
        }
    }

    /// Gives every candidate the row of pair terms that `row_of` names, in arrival order.
    pub(crate) fn set_pair_rows(&mut self, row_of: impl FnMut(&Request) -> Option<u32>) {
        if self.moved { &mut self.further } else { &mut self.candidates }.set_pair_rows(row_of);
    }

    /// A rank is gone to which nobody is bound any more: those after it move up.
    pub(crate) fn drop_rank(&mut self, gone: WorkerIndex) {
        self.candidates.map_ranks(|rank| if rank > gone { WorkerIndex::new(rank.get() - 1) } else { rank });
        self.queue.drop_rank(gone);
    }
}

/// Whether [`check_new`] finds nothing, where there is room.
fn is_valid(request: &Request) -> bool {
    (1..=MAX_PROMPT_TOKENS).contains(&request.prompt_tokens)
        & (request.waited_steps <= MAX_WAITED_STEPS)
        & (request.passed <= MAX_PASSED)
        & (request.rank.is_none_or(|rank| rank.index() < MAX_WORKERS))
}

/// Checks what a request says of itself, as the one that comes behind `before` others; `index` is its row
/// where the caller has given rows.
fn check_new(before: usize, index: Option<usize>, request: &Request) -> Result<(), BatchError> {
    if before >= MAX_WAITING {
        return Err(BatchError::TooManyWaiting { limit: MAX_WAITING, found: before + 1 });
    }
    if request.prompt_tokens == 0 || request.prompt_tokens > MAX_PROMPT_TOKENS {
        return Err(BatchError::PromptTokens {
            index,
            id: request.id,
            limit: MAX_PROMPT_TOKENS,
            found: request.prompt_tokens,
        });
    }
    if request.passed > MAX_PASSED {
        return Err(BatchError::Passed { index, id: request.id, limit: MAX_PASSED, found: request.passed });
    }
    if request.waited_steps > MAX_WAITED_STEPS {
        return Err(BatchError::WaitedSteps {
            index,
            id: request.id,
            limit: MAX_WAITED_STEPS,
            found: request.waited_steps,
        });
    }
    // No batch has such a worker, and behind the window there is a list for each rank up to the greatest.
    match request.rank {
        Some(found) if found.index() >= MAX_WORKERS => {
            Err(BatchError::Rank { index, id: request.id, workers: MAX_WORKERS, found })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

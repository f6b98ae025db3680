//! What waits: a queue in order of arrival, the oldest of which are the candidates of a decision.
//!
//! A decision chooses among the oldest [`CANDIDATE_WINDOW`] requests (or as many as [`Pool::with_window`]
//! says), the oracle as well: only they stand in length order. So a million who wait cost a decision what a
//! few thousand do, and to come, to leave or to be refused costs the same however many wait. Where nobody in
//! the window may enter an open worker, the router moves the window on past them for that step.
//!
//! Each class ([`Request::priority`]) has a line, and a window, of its own. A decision is one of a class: who
//! decides a step ([`crate::Router`], [`crate::Assigner`]) takes them in turn, the highest first, each on
//! what those before it have left. So no rule knows of classes.
//!
//! | module | holds |
//! |---|---|
//! | `candidates` | who a decision chooses among, in order of arrival and, in blocks, by length |
//! | `line` | those of one class |
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
mod line;
mod passed;
mod queue;
mod sort;
mod waiting;
mod window;

use std::cmp::Reverse;
use std::collections::{HashMap, hash_map};

pub(crate) use self::candidates::{BLOCK, NO_ROW, Ordered};
pub use self::candidates::{Candidates, PoolSlot};
use self::dates::{Dates, UNDATED};
use self::line::{Line, Place};
use self::passed::Passes;
use self::queue::Heads;
pub(crate) use self::waiting::Waiting;
use crate::entities::error::BatchError;
use crate::entities::limits::{MAX_PASSED, MAX_PROMPT_TOKENS, MAX_WAITED_STEPS, MAX_WAITING, MAX_WORKERS};
use crate::entities::request::Request;
use crate::ids::{RequestId, WorkerIndex};

/// Requests that a decision chooses among unless told otherwise. More buy nothing: a window of the oldest 16
/// a worker costs no balance (measured).
pub const CANDIDATE_WINDOW: usize = 4096;

/// Waiting requests in order of arrival.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Pool {
    window: usize,
    /// The highest class first. There is always one; those of whom nobody waits keep their buffers.
    lines: Vec<Line>,
    /// The line of the decision: outside of a step the first where somebody waits.
    at: usize,
    places: HashMap<RequestId, Place>,
    /// Every id is its row in the last [`Pool::refill`], and `places` is empty: nothing has to be looked up.
    by_row: bool,
    arrivals: u64,
    dates: Dates,
    // Scratch.
    #[cfg_attr(feature = "record", serde(skip, default = "Candidates::new"))]
    spare: Candidates,
    #[cfg_attr(feature = "record", serde(skip))]
    passes: Passes,
    #[cfg_attr(feature = "record", serde(skip))]
    by_slot: Vec<u32>,
    #[cfg_attr(feature = "record", serde(skip))]
    found: Vec<u32>,
    #[cfg_attr(feature = "record", serde(skip))]
    slots: Vec<PoolSlot>,
    #[cfg_attr(feature = "record", serde(skip))]
    gone: Vec<Place>,
    #[cfg_attr(feature = "record", serde(skip))]
    joining: Vec<Waiting>,
    #[cfg_attr(feature = "record", serde(skip))]
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
            lines: vec![Line::new(0, MAX_WAITED_STEPS)],
            at: 0,
            places: HashMap::new(),
            by_row: true,
            arrivals: 0,
            dates: Dates::default(),
            spare: Candidates::new(),
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
        self.lines.iter_mut().for_each(Line::clear);
        self.places.clear();
        self.by_row = true;
        self.arrivals = 0;
        self.dates = Dates::default();
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
        let priority = requests.first().map_or(0, |request| request.priority);
        let mut alike = true;
        for (index, request) in requests.iter().enumerate() {
            by_row &= request.id == index as u64;
            alike &= request.priority == priority;
            valid &= is_valid(request);
        }
        self.at = self.line_for(priority);
        by_row &= alike;
        if !(valid && by_row) {
            // Something is wrong, or ids must be looked at one by one.
            self.by_row = false;
            let refused = requests.iter().enumerate().try_for_each(|(index, request)| {
                check_new(index, Some(index), request)?;
                let place = self.place_of_row(index);
                match self.places.entry(request.id) {
                    hash_map::Entry::Occupied(_) => {
                        let first = requests.iter().position(|first| first.id == request.id);
                        Err(BatchError::DuplicateId { index, id: request.id, first: first.unwrap_or(index) })
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
        let now_step = self.now_step();
        let waiting = requests.iter().zip(0u64..).map(|(&request, arrival)| Waiting {
            request,
            enqueued_step: now_step - request.waited_steps,
            since_ms: 0,
            arrival,
            leaves: false,
            returned: false,
        });
        self.arrivals = requests.len() as u64;
        if alike {
            self.lines[self.at].refill(waiting, self.window);
            return Ok(());
        }
        for request in requests {
            self.line_for(request.priority);
        }
        for line in &mut self.lines {
            let priority = line.priority;
            line.refill(waiting.clone().filter(|waiting| waiting.request.priority == priority), self.window);
            let rows = requests.iter().filter(|request| request.priority == priority);
            for (row, request) in rows.enumerate() {
                self.places.insert(request.id, place_of_row(priority, row, self.window));
            }
        }
        self.face(|line| !line.is_empty());
        Ok(())
    }

    /// Where the request of a row stands in a pool that has just been refilled by those of one class.
    fn place_of_row(&self, row: usize) -> Place {
        place_of_row(self.lines[self.at].priority, row, self.window)
    }

    /// The line of a class, if there is one, or where it would stand.
    fn line_of(&self, priority: i8) -> Result<usize, usize> {
        self.lines.binary_search_by_key(&Reverse(priority), |line| Reverse(line.priority))
    }

    /// The line of a class.
    fn line_for(&mut self, priority: i8) -> usize {
        self.line_of(priority).unwrap_or_else(|at| {
            let now_step = self.now_step();
            self.lines.insert(at, Line::new(priority, now_step));
            self.at += usize::from(at <= self.at);
            at
        })
    }

    /// The line of somebody who waits.
    fn line_at(&self, priority: i8) -> &Line {
        &self.lines[self.line_of(priority).unwrap_or_default()]
    }

    fn now_step(&self) -> u32 {
        self.lines[0].candidates.now_step()
    }

    /// Who waits will be others: ids are looked up in the map from now on, and the window stands with the
    /// oldest.
    fn begin_change(&mut self) {
        self.move_back();
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
        let (priority, at) = (request.priority, self.line_for(request.priority));
        let (places, line) = (&mut self.places, &mut self.lines[at]);
        if line.queue.is_empty() && line.candidates.len() < self.window {
            let entered = |id, slot| {
                places.insert(id, Place::Candidate(priority, slot));
            };
            line.candidates.exchange(&[], std::iter::once(waiting), entered);
        } else {
            places.insert(request.id, Place::Queued(priority, line.queue.push(waiting)));
        }
        self.face(|line| !line.is_empty());
    }

    fn waiting_at(&self, request: Request, since_ms: u64, arrival: u64) -> Waiting {
        let enqueued_step = self.now_step() - request.waited_steps;
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
        let mut any_candidate = false;
        for &place in &gone {
            match place {
                Place::Candidate(priority, slot) => {
                    any_candidate = true;
                    left(self.as_it_left(self.line_at(priority).candidates.as_it_stands(slot)));
                }
                Place::Queued(priority, node) => {
                    let at = self.line_for(priority);
                    let waiting = self.lines[at].queue.remove(node);
                    left(self.as_it_left(waiting));
                }
            }
        }
        for at in 0..if any_candidate { self.lines.len() } else { 0 } {
            slots.clear();
            slots.extend(gone.iter().filter_map(|place| match *place {
                Place::Candidate(priority, slot) if priority == self.lines[at].priority => Some(slot),
                _ => None,
            }));
            if !slots.is_empty() {
                self.exchange(at, &slots);
            }
        }
        (self.slots, self.gone) = (slots, gone);
        self.face(|line| !line.is_empty());
    }

    fn as_it_left(&self, waiting: Waiting) -> Waiting {
        let waited_steps = self.now_step() - waiting.enqueued_step;
        let since_ms = self.dates.since_ms(&waiting);
        Waiting { request: Request { waited_steps, ..waiting.request }, since_ms, ..waiting }
    }

    /// Lets those of a line go who stand in these slots, and the oldest of its queue in.
    fn exchange(&mut self, at: usize, leaving: &[PoolSlot]) {
        let (line, places, joining) = (&mut self.lines[at], &mut self.places, &mut self.joining);
        let free = (self.window + leaving.len()).saturating_sub(line.candidates.len());
        line.queue.take_oldest(free, |waiting| joining.push(waiting));
        line.candidates.exchange(leaving, joining.drain(..), |id, slot| {
            places.insert(id, Place::Candidate(line.priority, slot));
        });
    }

    /// Lets `steps` pass: every waiting request has waited that much longer.
    pub fn advance(&mut self, steps: u32) {
        // Years of steps fit; past that, waits saturate at MAX_WAITED_STEPS instead of wrapping.
        const REBASE_AT: u32 = u32::MAX - 2 * MAX_WAITED_STEPS;
        self.move_back();
        let mut now_step = self.now_step() + steps.min(MAX_WAITED_STEPS);
        let mut shift = 0;
        if now_step >= REBASE_AT {
            shift = now_step - MAX_WAITED_STEPS;
            now_step = MAX_WAITED_STEPS;
        }
        for line in &mut self.lines {
            line.candidates.set_step(now_step, shift);
            if shift > 0 {
                line.queue.shift_steps(shift);
            }
        }
    }

    /// Number of waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.iter().map(Line::len).sum()
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
            Place::Candidate(priority, slot) => {
                (Some(slot), self.line_at(priority).candidates.as_it_stands(slot))
            }
            Place::Queued(priority, node) => (None, self.line_at(priority).queue.as_it_stands(node)),
        };
        Some((slot, waiting.request, self.now_step() - waiting.enqueued_step))
    }

    /// Who a decision chooses among: the oldest of the highest class of whom anybody waits, up to the window.
    #[must_use]
    pub fn candidates(&self) -> &Candidates {
        self.lines[self.at].window()
    }

    /// Those of each class who stand in its window, where that is not moved on.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &Candidates> {
        self.lines.iter().map(|line| &line.candidates)
    }

    /// The slot of a candidate.
    #[must_use]
    pub fn slot_of(&self, id: impl Into<RequestId>) -> Option<PoolSlot> {
        let id = id.into();
        let line = &self.lines[self.at];
        if line.moved {
            return line.further.iter().find(|(_, request, _)| request.id == id).map(|(slot, ..)| slot);
        }
        match self.place(id)? {
            Place::Candidate(priority, slot) if priority == line.priority => Some(slot),
            _ => None,
        }
    }

    /// Everybody in arrival order, with the steps that each has waited.
    pub fn iter(&self) -> impl Iterator<Item = (Request, u32)> {
        self.iter_with_slots().map(|(_, request, waited)| (request, waited))
    }

    /// Everybody in order of arrival, with the slots of those in the window, where it stands when it is not
    /// moved on.
    pub(crate) fn iter_with_slots(&self) -> impl Iterator<Item = (Option<PoolSlot>, Request, u32)> {
        let now_step = self.now_step();
        let told = move |(slot, waiting): (Option<PoolSlot>, Waiting)| {
            (slot, waiting.request, now_step - waiting.enqueued_step)
        };
        let mut merged = Vec::new();
        if self.classes().count() > 1 {
            merged.extend(self.lines.iter().flat_map(Line::iter_with_slots));
            merged.sort_by_key(|(_, waiting)| waiting.arrival);
        }
        let single = merged.is_empty().then(|| self.lines[self.at].iter_with_slots());
        single.into_iter().flatten().chain(merged).map(told)
    }

    /// The longest wait of all, in steps; zero when nobody waits. Of those behind the window it is known only
    /// that the window came first.
    #[must_use]
    pub fn longest_wait_steps(&self) -> u32 {
        let now_step = self.now_step();
        let longest = self.lines.iter().map(|line| {
            let queued = line.queue.oldest().map(|waiting| now_step - waiting.enqueued_step);
            line.candidates.longest_wait_steps().max(queued.max().unwrap_or(0))
        });
        longest.max().unwrap_or(0)
    }

    /// The row of a candidate in the requests of [`Pool::refill`].
    #[must_use]
    pub fn row_of(&self, slot: PoolSlot) -> usize {
        self.candidates().arrival(slot) as usize
    }

    /// Whether somebody behind the window has a row of pair terms or a survival class.
    pub(crate) fn any_queued_terms(&self) -> bool {
        self.lines.iter().any(|line| line.queue.with_terms() > 0)
    }

    // For the router.

    /// Since when the one waits who came first, by the clock; none before it has a date.
    pub(crate) fn first_since_ms(&self) -> Option<u64> {
        let since_ms = |waiting: &Waiting| self.dates.since_ms(waiting);
        let oldest = self.lines.iter().flat_map(|line| line.candidates.oldest().chain(line.queue.oldest()));
        let first = oldest.map(since_ms).min()?;
        Some(first).filter(|&since_ms| since_ms != UNDATED)
    }

    /// Who came without a date gets this one.
    pub(crate) fn date(&mut self, now_ms: u64) {
        let oldest = self.windows().filter_map(Candidates::first_arrival).min();
        self.dates.date(now_ms, oldest.unwrap_or(u64::MAX));
    }

    /// Ids of everybody, in no order.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        if self.by_row {
            (0..self.len() as u64).map(RequestId::new).collect()
        } else {
            self.places.keys().copied().collect()
        }
    }

    /// Gives every candidate of the decision the row of pair terms that `row_of` names, in arrival order.
    pub(crate) fn set_pair_rows(&mut self, row_of: impl FnMut(&Request) -> Option<u32>) {
        let line = &mut self.lines[self.at];
        if line.moved { &mut line.further } else { &mut line.candidates }.set_pair_rows(row_of);
    }

    /// [`Pool::set_pair_rows`] for those of every class, where no window is moved on.
    pub(crate) fn set_all_pair_rows(&mut self, mut row_of: impl FnMut(&Request) -> Option<u32>) {
        for line in &mut self.lines {
            line.candidates.set_pair_rows(&mut row_of);
        }
    }

    /// A rank is gone to which nobody is bound any more: those after it move up.
    pub(crate) fn drop_rank(&mut self, gone: WorkerIndex) {
        let rename = |rank: WorkerIndex| if rank > gone { WorkerIndex::new(rank.get() - 1) } else { rank };
        for line in &mut self.lines {
            line.candidates.map_ranks(rename);
            line.queue.drop_rank(gone);
        }
    }
}

/// Where somebody stands in a line that has just been refilled.
fn place_of_row(priority: i8, row: usize, window: usize) -> Place {
    match row.checked_sub(window) {
        None => Place::Candidate(priority, PoolSlot(row as u32)),
        Some(node) => Place::Queued(priority, node as u32),
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

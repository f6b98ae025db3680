//! What each worker holds, as our own count and its reports say.

use crate::account::running::{Active, NONE, Slab};
use crate::account::{Share, Verdict, WorkerConfig, WorkerReport};
use crate::batch::{MAX_LOAD_TOKENS, MAX_SLOTS, Worker};
use crate::ids::WorkerId;

/// Requests and tokens, each token less the worker's growth at its request's birth.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    requests: u32,
    base_tokens: i64,
}

impl Tally {
    fn add(&mut self, active: &Active) {
        self.requests += 1;
        self.base_tokens += active.base_tokens();
    }

    fn take(&mut self, active: &Active) {
        self.requests -= 1;
        self.base_tokens -= active.base_tokens();
    }

    fn tokens(&self, grown_tokens: i64) -> u64 {
        (self.base_tokens + i64::from(self.requests) * grown_tokens).max(0) as u64
    }
}

/// How many reports of a worker met which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReportCounts {
    /// Newest when they came.
    pub taken: u64,
    /// Seen before.
    pub repeated: u64,
    /// Older than one seen before.
    pub late: u64,
    /// At odds with what was acknowledged before.
    pub contradictory: u64,
}

/// What is known of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub id: WorkerId,
    pub draining: bool,
    /// The whole worker, and this router's part of it.
    whole_slots: u32,
    pub own_slots: u32,
    pub whole_capacity_tokens: Option<u64>,
    pub own_capacity_tokens: Option<u64>,
    /// Tokens by which every running request has grown since the worker joined.
    pub grown_tokens: i64,
    own: Tally,
    unseen: Tally,
    unseen_head: u32,
    unseen_tail: u32,
    /// Numbers of the last dispatch made and of the last acknowledged.
    pub sent: u64,
    pub acknowledged: u64,
    sequence: Option<u64>,
    pub reported_ms: Option<u64>,
    pub foreign_requests: u32,
    pub foreign_tokens: u64,
    /// Since when it reports that it holds nothing although requests of ours were seen there.
    pub empty_since_ms: Option<u64>,
    pub counts: ReportCounts,
}

impl Account {
    pub(crate) fn new(id: WorkerId, config: &WorkerConfig, share: Share, clock: i64) -> Self {
        let mut account = Self {
            id,
            draining: false,
            whole_slots: config.slots,
            own_slots: share.part(u64::from(config.slots)) as u32,
            whole_capacity_tokens: None,
            own_capacity_tokens: None,
            grown_tokens: clock,
            own: Tally::default(),
            unseen: Tally::default(),
            unseen_head: NONE,
            unseen_tail: NONE,
            sent: 0,
            acknowledged: 0,
            sequence: None,
            reported_ms: None,
            foreign_requests: 0,
            foreign_tokens: 0,
            empty_since_ms: None,
            counts: ReportCounts::default(),
        };
        account.set_capacity(config.kv_capacity_tokens, share);
        account
    }

    pub(crate) fn set_capacity(&mut self, capacity_tokens: Option<u64>, share: Share) {
        self.whole_capacity_tokens = capacity_tokens;
        self.own_capacity_tokens = capacity_tokens.map(|whole| share.part(whole));
    }

    /// What runs there is ours no longer, and runs on.
    pub(crate) fn disown(&mut self) {
        self.foreign_requests = self.foreign_requests.saturating_add(self.own.requests);
        self.foreign_tokens = (self.foreign_tokens + self.own_tokens()).min(MAX_LOAD_TOKENS);
        (self.own, self.unseen) = (Tally::default(), Tally::default());
        (self.unseen_head, self.unseen_tail) = (NONE, NONE);
        self.empty_since_ms = None;
    }

    /// Requests of ours that run there.
    pub(crate) fn running(&self) -> u32 {
        self.own.requests
    }

    /// KV tokens that they hold.
    pub(crate) fn own_tokens(&self) -> u64 {
        self.own.tokens(self.grown_tokens)
    }

    /// Dispatches that nothing has shown yet.
    pub(crate) fn unseen(&self) -> u32 {
        self.unseen.requests
    }

    /// Tokens that a running request has generated.
    pub(crate) fn generated_tokens(&self, active: &Active) -> u32 {
        (self.grown_tokens - active.born_tokens).clamp(0, i64::from(u32::MAX)) as u32
    }

    /// Numbers a dispatch and begins to count it.
    pub(crate) fn begin(&mut self, slab: &mut Slab, index: u32, dispatched_ms: Option<u64>) -> u64 {
        let active = &mut slab.entries[index as usize];
        self.own.add(active);
        let Some(now_ms) = dispatched_ms else { return 0 };
        self.sent += 1;
        active.number = self.sent;
        active.since_ms = now_ms;
        active.seen = false;
        active.previous = self.unseen_tail;
        active.next = NONE;
        self.unseen.add(active);
        match std::mem::replace(&mut self.unseen_tail, index) {
            NONE => self.unseen_head = index,
            tail => slab.entries[tail as usize].next = index,
        }
        self.sent
    }

    /// Ends the count of a request, which leaves the slab.
    pub(crate) fn end(&mut self, slab: &mut Slab, index: u32) -> Active {
        if !slab.entries[index as usize].seen {
            self.unlink(slab, index);
        }
        let active = slab.remove(index);
        self.own.take(&active);
        active
    }

    fn unlink(&mut self, slab: &mut Slab, index: u32) {
        let active = slab.entries[index as usize];
        self.unseen.take(&active);
        match active.previous {
            NONE => self.unseen_head = active.next,
            previous => slab.entries[previous as usize].next = active.next,
        }
        match active.next {
            NONE => self.unseen_tail = active.previous,
            next => slab.entries[next as usize].previous = active.previous,
        }
    }

    /// The worker has this request: a report or its own progress says so.
    pub(crate) fn see(&mut self, slab: &mut Slab, index: u32, now_ms: u64) {
        if slab.entries[index as usize].seen {
            return;
        }
        self.unlink(slab, index);
        let active = &mut slab.entries[index as usize];
        active.seen = true;
        active.since_ms = now_ms;
    }

    /// One request has grown by itself; it is seen by that.
    pub(crate) fn grow(&mut self, slab: &mut Slab, index: u32, tokens: u32, now_ms: u64) {
        self.see(slab, index, now_ms);
        slab.entries[index as usize].born_tokens -= i64::from(tokens);
        self.own.base_tokens += i64::from(tokens);
    }

    /// Dispatches that nothing has shown and that were made `timeout_ms` ago or earlier, the oldest first.
    pub(crate) fn overdue_dispatches<'a>(
        &self,
        slab: &'a Slab,
        timeout_ms: u64,
        now_ms: u64,
    ) -> impl Iterator<Item = u32> + 'a {
        let mut at = self.unseen_head;
        std::iter::from_fn(move || {
            let active = slab.entries.get(at as usize)?;
            let overdue = now_ms.saturating_sub(active.since_ms) >= timeout_ms;
            overdue.then(|| std::mem::replace(&mut at, active.next))
        })
    }

    /// What would be known without these dispatches, which nothing has shown; good for [`Account::settle`].
    pub(crate) fn without<'a>(&self, dispatches: impl Iterator<Item = &'a Active>) -> Self {
        let mut account = self.clone();
        for active in dispatches {
            account.own.take(active);
            account.unseen.take(active);
        }
        account
    }

    /// Takes a report in, but for its capacity. Its last dispatch was made.
    pub(crate) fn report(&mut self, slab: &mut Slab, report: &WorkerReport, now_ms: u64) -> Verdict {
        let seen_less = report.last_dispatch.is_some_and(|number| number < self.acknowledged);
        let verdict = match (report.sequence, self.sequence) {
            (Some(number), Some(last)) if number == last => Verdict::Repeated,
            (Some(number), Some(last)) if number < last => Verdict::Late,
            (Some(_), Some(_)) if seen_less => Verdict::Contradictory,
            (None, _) if seen_less => Verdict::Late,
            _ => Verdict::Taken,
        };
        match verdict {
            Verdict::Taken => self.counts.taken += 1,
            Verdict::Repeated => self.counts.repeated += 1,
            Verdict::Late => self.counts.late += 1,
            Verdict::Contradictory => self.counts.contradictory += 1,
        }
        if let Verdict::Repeated | Verdict::Contradictory = verdict {
            return verdict;
        }
        let last = report.last_dispatch.unwrap_or(0);
        self.acknowledged = self.acknowledged.max(last);
        // In order of number; the missing ones stay.
        let mut at = self.unseen_head;
        while let Some(&Active { number, next, .. }) = slab.entries.get(at as usize)
            && number <= last
        {
            if report.has_seen(number) {
                self.see(slab, at, now_ms);
            }
            at = next;
        }
        if verdict == Verdict::Late {
            return verdict;
        }
        self.sequence = report.sequence.or(self.sequence);
        self.reported_ms = Some(now_ms);
        let seen_requests = self.own.requests - self.unseen.requests;
        let seen_tokens = self.own_tokens().saturating_sub(self.unseen.tokens(self.grown_tokens));
        let held = report.running.saturating_add(report.waiting);
        self.foreign_requests = held.saturating_sub(seen_requests);
        self.foreign_tokens = report.kv_used_tokens.saturating_sub(seen_tokens).min(MAX_LOAD_TOKENS);
        self.empty_since_ms =
            if held == 0 && seen_requests > 0 { self.empty_since_ms.or(Some(now_ms)) } else { None };
        verdict
    }

    /// Writes what a batch is to know of the worker: the least of what our share and what the whole worker
    /// leaves.
    pub(crate) fn settle(&self, headroom_steps: u32, worker: &mut Worker) {
        let (own, own_tokens) = (self.own.requests, self.own_tokens());
        let counted = own.saturating_add(self.foreign_requests);
        worker.free_slots = self.own_slots.saturating_sub(own).min(self.whole_slots.saturating_sub(counted));
        worker.running = counted.min(MAX_SLOTS - worker.free_slots);
        worker.load_tokens = (own_tokens + self.foreign_tokens).min(MAX_LOAD_TOKENS);
        worker.kv_capacity_tokens = self.own_capacity_tokens;
        let (Some(part), Some(whole)) = (self.own_capacity_tokens, self.whole_capacity_tokens) else {
            worker.kv_used_tokens = worker.load_tokens;
            worker.kv_growth_tokens = 0;
            return;
        };
        let growth = |requests: u32| i64::from(requests) * i64::from(headroom_steps);
        let own_room = part as i64 - own_tokens as i64 - growth(own);
        let whole_room = whole as i64 - own_tokens as i64 - self.foreign_tokens as i64 - growth(counted);
        let used = part as i64 - growth(own) - own_room.min(whole_room);
        worker.kv_growth_tokens = (growth(own) as u64).min(MAX_LOAD_TOKENS);
        worker.kv_used_tokens = used.clamp(0, MAX_LOAD_TOKENS as i64) as u64;
    }
}

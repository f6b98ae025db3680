//! What each worker holds, as our own count and its reports say.

use std::collections::VecDeque;

use crate::account::running::{Active, NONE, Slab, Stage};
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

/// The requests of one stage, in the order in which they entered it.
#[derive(Clone, Copy, Debug)]
struct Line {
    tally: Tally,
    head: u32,
    tail: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self { tally: Tally::default(), head: NONE, tail: NONE }
    }
}

impl Line {
    fn push(&mut self, slab: &mut Slab, index: u32) {
        let active = &mut slab.entries[index as usize];
        (active.previous, active.next) = (self.tail, NONE);
        self.tally.add(active);
        match std::mem::replace(&mut self.tail, index) {
            NONE => self.head = index,
            tail => slab.entries[tail as usize].next = index,
        }
    }

    fn unlink(&mut self, slab: &mut Slab, index: u32) {
        let active = slab.entries[index as usize];
        self.tally.take(&active);
        match active.previous {
            NONE => self.head = active.next,
            previous => slab.entries[previous as usize].next = active.next,
        }
        match active.next {
            NONE => self.tail = active.previous,
            next => slab.entries[next as usize].previous = active.previous,
        }
    }
}

/// A request that began to decode, or that ended, and its length then.
#[derive(Clone, Copy, Debug)]
struct Change {
    at_ms: u64,
    tokens: u64,
    ended: bool,
}

/// No report is taken to be older than this.
const OLDEST_REPORT_MS: u64 = 5_000;

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
    /// First of a new life.
    pub restarted: u64,
}

/// Reports that are no newer than the last one taken, yet rise among themselves: of a new life perhaps.
#[derive(Clone, Copy, Debug)]
struct Anew {
    since_ms: u64,
    sequence: Option<u64>,
    reports: u32,
}

/// So long, and so often, do reports rise below the last one taken until they count as those of a new life:
/// by far longer than the way of a report that others overtake.
const ANEW_MS: u64 = 1_000;
const ANEW_REPORTS: u32 = 3;

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
    sent_line: Line,
    received_line: Line,
    /// Numbers of the last dispatch made and of the last acknowledged.
    pub sent: u64,
    pub acknowledged: u64,
    sequence: Option<u64>,
    epoch: Option<u64>,
    anew: Option<Anew>,
    /// When its present life was first heard of.
    restarted_ms: u64,
    pub reported_ms: Option<u64>,
    pub foreign_requests: u32,
    /// What the measured KV tokens are above the lengths of those who decode; below zero where they share.
    correction_tokens: i64,
    /// What a report that was measured a while ago does not know, the oldest first; none is kept before a
    /// report tells an age.
    changes: VecDeque<Change>,
    oldest_report_ms: u64,
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
            sent_line: Line::default(),
            received_line: Line::default(),
            sent: 0,
            acknowledged: 0,
            sequence: None,
            epoch: None,
            anew: None,
            restarted_ms: 0,
            reported_ms: None,
            foreign_requests: 0,
            correction_tokens: 0,
            changes: VecDeque::new(),
            oldest_report_ms: 0,
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
        self.correct(self.correction_tokens + self.own_tokens() as i64);
        self.own = Tally::default();
        (self.sent_line, self.received_line) = (Line::default(), Line::default());
        self.changes.clear();
        self.empty_since_ms = None;
    }

    fn correct(&mut self, tokens: i64) {
        self.correction_tokens = tokens.clamp(-(MAX_LOAD_TOKENS as i64), MAX_LOAD_TOKENS as i64);
    }

    /// Requests of ours that run there.
    pub(crate) fn running(&self) -> u32 {
        self.own.requests
    }

    /// The lengths of these.
    pub(crate) fn own_tokens(&self) -> u64 {
        self.own.tokens(self.grown_tokens)
    }

    /// The lengths of those whose KV cache is not known to be there yet.
    fn coming_tokens(&self) -> u64 {
        let [sent, received] =
            [&self.sent_line, &self.received_line].map(|line| line.tally.tokens(self.grown_tokens));
        sent + received
    }

    fn decoding_tokens(&self) -> u64 {
        self.own_tokens().saturating_sub(self.coming_tokens())
    }

    /// KV tokens counted: what was measured of those who decode and of others, and in full what is coming.
    pub(crate) fn counted_tokens(&self) -> u64 {
        let there = self.decoding_tokens() as i64 + self.correction_tokens;
        there.max(0) as u64 + self.coming_tokens()
    }

    /// KV tokens that reports show beyond our requests.
    pub(crate) fn foreign_tokens(&self) -> u64 {
        self.correction_tokens.max(0) as u64
    }

    /// KV tokens by which our requests hold less than their lengths.
    pub(crate) fn shared_tokens(&self) -> u64 {
        self.correction_tokens.min(0).unsigned_abs()
    }

    /// Dispatches that nothing has shown yet.
    pub(crate) fn unseen(&self) -> u32 {
        self.sent_line.tally.requests
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
        (active.number, active.since_ms, active.stage) = (self.sent, now_ms, Stage::Sent);
        self.sent_line.push(slab, index);
        self.sent
    }

    /// Ends the count of a request, which leaves the slab.
    pub(crate) fn end(&mut self, slab: &mut Slab, index: u32, now_ms: u64) -> Active {
        let tokens = self.tokens_of(&slab.entries[index as usize]);
        match slab.entries[index as usize].stage {
            Stage::Sent => self.sent_line.unlink(slab, index),
            Stage::Received => self.received_line.unlink(slab, index),
            Stage::Decoding => self.release(tokens),
        }
        self.changed(Change { at_ms: now_ms, tokens, ended: true });
        let active = slab.remove(index);
        self.own.take(&active);
        active
    }

    /// One of those who decode leaves. What they share stays with the others: it takes its part of what all
    /// of them hold, by length.
    fn release(&mut self, tokens: u64) {
        let decoding = self.decoding_tokens();
        if self.correction_tokens < 0 && decoding > 0 {
            let part = i128::from(self.correction_tokens) * i128::from(tokens) / i128::from(decoding);
            self.correction_tokens -= part as i64;
        }
    }

    fn tokens_of(&self, active: &Active) -> u64 {
        (active.base_tokens() + self.grown_tokens).max(0) as u64
    }

    fn changed(&mut self, change: Change) {
        if self.oldest_report_ms > 0 {
            self.changes.push_back(change);
            let from_ms = change.at_ms.saturating_sub(self.oldest_report_ms);
            while self.changes.front().is_some_and(|first| first.at_ms < from_ms) {
                self.changes.pop_front();
            }
        }
    }

    /// The worker has this request: a report says so.
    fn receive(&mut self, slab: &mut Slab, index: u32, now_ms: u64) {
        self.sent_line.unlink(slab, index);
        let active = &mut slab.entries[index as usize];
        (active.stage, active.since_ms) = (Stage::Received, now_ms);
        active.received_tokens = self.grown_tokens;
        self.received_line.push(slab, index);
    }

    /// The request has shown tokens.
    fn decode(&mut self, slab: &mut Slab, index: u32, now_ms: u64) {
        let active = &mut slab.entries[index as usize];
        match std::mem::replace(&mut active.stage, Stage::Decoding) {
            Stage::Decoding => return,
            Stage::Received => self.received_line.unlink(slab, index),
            Stage::Sent => {
                active.since_ms = now_ms;
                self.sent_line.unlink(slab, index);
            }
        }
        let tokens = self.tokens_of(&slab.entries[index as usize]);
        self.changed(Change { at_ms: now_ms, tokens, ended: false });
    }

    /// One request has grown by itself; it is seen by that.
    pub(crate) fn grow(&mut self, slab: &mut Slab, index: u32, tokens: u32, now_ms: u64) {
        self.decode(slab, index, now_ms);
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
        let mut at = self.sent_line.head;
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
            account.sent_line.tally.take(active);
        }
        account
    }

    /// Judges a report whose last dispatch was made. After [`Verdict::Restarted`] the account is that of a
    /// new life, but for the requests of the old one ([`Account::is_forgotten`]).
    pub(crate) fn judge(&mut self, report: &WorkerReport, now_ms: u64) -> Verdict {
        let verdict = self.verdict(report, now_ms);
        let count = match verdict {
            Verdict::Taken => &mut self.counts.taken,
            Verdict::Repeated => &mut self.counts.repeated,
            Verdict::Late => &mut self.counts.late,
            Verdict::Contradictory => &mut self.counts.contradictory,
            Verdict::Restarted => &mut self.counts.restarted,
        };
        *count += 1;
        if verdict == Verdict::Restarted {
            self.restarted_ms = self.anew.take().map_or(now_ms, |anew| anew.since_ms);
            (self.sequence, self.acknowledged, self.empty_since_ms) = (None, 0, None);
            self.correct(0);
            self.foreign_requests = 0;
            self.changes.clear();
        }
        if !matches!(verdict, Verdict::Repeated | Verdict::Contradictory) {
            self.epoch = report.epoch.or(self.epoch);
        }
        verdict
    }

    /// Whether a request was the old life's. What was sent a moment ago may still arrive in the new one.
    pub(crate) fn is_forgotten(&self, active: &Active, report: &WorkerReport, now_ms: u64) -> bool {
        match active.stage {
            Stage::Sent => {
                let from_ms = self.restarted_ms.min(now_ms.saturating_sub(ANEW_MS));
                active.since_ms < from_ms && !report.has_seen(active.number)
            }
            _ => active.since_ms < self.restarted_ms,
        }
    }

    /// Takes a report in, but for its capacity.
    pub(crate) fn take(&mut self, slab: &mut Slab, report: &WorkerReport, verdict: Verdict, now_ms: u64) {
        if let Verdict::Repeated | Verdict::Contradictory = verdict {
            return;
        }
        let last = report.last_dispatch.unwrap_or(0);
        self.acknowledged = self.acknowledged.max(last);
        // Whoever was there already and has grown with the others decodes.
        while let Some(active) = slab.entries.get(self.received_line.head as usize)
            && active.received_tokens < self.grown_tokens
        {
            self.decode(slab, self.received_line.head, now_ms);
        }
        // In order of number; the missing ones stay.
        let mut at = self.sent_line.head;
        while let Some(&Active { number, next, .. }) = slab.entries.get(at as usize)
            && number <= last
        {
            if report.has_seen(number) {
                self.receive(slab, at, now_ms);
            }
            at = next;
        }
        if verdict == Verdict::Late {
            return;
        }
        self.sequence = report.sequence.or(self.sequence);
        self.reported_ms = Some(now_ms);
        self.measure(report, now_ms);
    }

    fn verdict(&mut self, report: &WorkerReport, now_ms: u64) -> Verdict {
        if let (Some(epoch), Some(last)) = (report.epoch, self.epoch)
            && epoch != last
        {
            self.anew = None;
            return Verdict::Restarted;
        }
        let seen_less = report.last_dispatch.is_some_and(|number| number < self.acknowledged);
        let verdict = match (report.sequence, self.sequence) {
            (Some(number), Some(last)) if number == last => Verdict::Repeated,
            (Some(number), Some(last)) if number < last => Verdict::Late,
            (Some(_), Some(_)) if seen_less => Verdict::Contradictory,
            (None, _) if seen_less => Verdict::Late,
            _ => Verdict::Taken,
        };
        match verdict {
            Verdict::Taken => self.anew = None,
            Verdict::Repeated | Verdict::Restarted => {}
            Verdict::Late | Verdict::Contradictory => {
                let begins = Anew { since_ms: now_ms, sequence: report.sequence, reports: 0 };
                let before = self.anew.filter(|anew| match (report.sequence, anew.sequence) {
                    (Some(number), Some(last)) => number > last,
                    (None, None) => true,
                    _ => false,
                });
                let mut anew = before.unwrap_or(begins);
                anew.reports += 1;
                anew.sequence = report.sequence;
                self.anew = Some(anew);
                let lasts = now_ms.saturating_sub(anew.since_ms) >= ANEW_MS;
                if lasts && anew.reports >= ANEW_REPORTS {
                    return Verdict::Restarted;
                }
            }
        }
        verdict
    }

    /// Renews what is corrected by a measurement.
    ///
    /// It holds the requests that decoded when it was made, and at most all that may have been there: those
    /// acknowledged, those sent where the worker cannot tell what it has, those that have ended since. So the
    /// correction lies between two bounds; it stays where it is between them, and moves to the nearer one
    /// where it is not.
    fn measure(&mut self, report: &WorkerReport, now_ms: u64) {
        let age_ms = u64::from(report.age_ms).min(OLDEST_REPORT_MS);
        self.oldest_report_ms = self.oldest_report_ms.max(age_ms);
        let (mut begun_tokens, mut ended_tokens, mut ended) = (0, 0, 0u32);
        for change in self
            .changes
            .iter()
            .rev()
            .take_while(|change| age_ms > 0 && now_ms.saturating_sub(change.at_ms) <= age_ms)
        {
            if change.ended {
                ended_tokens += change.tokens;
                ended += 1;
            } else {
                begun_tokens += change.tokens;
            }
        }
        let (sent, received) = (self.sent_line.tally, self.received_line.tally);
        let (unsure, unsure_tokens) = match report.last_dispatch {
            Some(_) => (0, 0),
            None => (sent.requests, sent.tokens(self.grown_tokens)),
        };
        let decoding_tokens = self.decoding_tokens();
        let least = decoding_tokens.saturating_sub(begun_tokens) as i64;
        let most =
            (decoding_tokens + received.tokens(self.grown_tokens) + unsure_tokens + ended_tokens) as i64;
        let measured = report.kv_used_tokens as i64;
        self.correct(self.correction_tokens.clamp(measured - most, measured - least));
        let held = report.running.saturating_add(report.waiting);
        let seen = self.own.requests - sent.requests;
        let most = seen.saturating_add(unsure).saturating_add(ended);
        self.foreign_requests =
            self.foreign_requests.clamp(held.saturating_sub(most), held.saturating_sub(seen));
        self.empty_since_ms = if held == 0 && seen > 0 { self.empty_since_ms.or(Some(now_ms)) } else { None };
    }

    /// Writes what a batch is to know of the worker: the least of what our share and what the whole worker
    /// leaves.
    pub(crate) fn settle(&self, headroom_steps: u32, worker: &mut Worker) {
        let (own, counted_tokens) = (self.own.requests, self.counted_tokens());
        let own_tokens = counted_tokens.min(self.own_tokens());
        let counted = own.saturating_add(self.foreign_requests);
        worker.free_slots = self.own_slots.saturating_sub(own).min(self.whole_slots.saturating_sub(counted));
        worker.running = counted.min(MAX_SLOTS - worker.free_slots);
        worker.load_tokens = counted_tokens.min(MAX_LOAD_TOKENS);
        worker.kv_capacity_tokens = self.own_capacity_tokens;
        let (Some(part), Some(whole)) = (self.own_capacity_tokens, self.whole_capacity_tokens) else {
            worker.kv_used_tokens = worker.load_tokens;
            worker.kv_growth_tokens = 0;
            return;
        };
        let growth = |requests: u32| i64::from(requests) * i64::from(headroom_steps);
        let own_room = part as i64 - own_tokens as i64 - growth(own);
        let whole_room = whole as i64 - counted_tokens as i64 - growth(counted);
        let used = part as i64 - growth(own) - own_room.min(whole_room);
        worker.kv_growth_tokens = (growth(own) as u64).min(MAX_LOAD_TOKENS);
        worker.kv_used_tokens = used.clamp(0, MAX_LOAD_TOKENS as i64) as u64;
    }
}

//! What each worker holds, as our own count has it: who is there, in which stage, and how long.

use std::collections::VecDeque;

use crate::account::reports::{Anew, Change, FORMER_EPOCHS, What};
use crate::account::running::{Active, Slab, Stage};
use crate::account::tally::{Line, Tally};
use crate::account::{ReportCounts, Share, WorkerConfig};
use crate::batch::MAX_LOAD_TOKENS;
use crate::forecast::Lifetimes;
use crate::ids::WorkerId;

/// Requests of a worker for whom there is a place from the beginning, at most.
const MOST_RESERVED: u32 = 1024;

/// What every account of a router goes by.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Rules {
    pub share: Share,
    /// Tokens of growth that an admission leaves free for each request; none: what [`Account::make_room`]
    /// finds for all of them.
    pub headroom_tokens: Option<u32>,
    /// Whether requests reach their worker in the order of their dispatch.
    pub in_order: bool,
}

/// What is known of one worker.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Account {
    pub id: WorkerId,
    pub draining: bool,
    pub(super) rules: Rules,
    /// The whole worker, and the part of its slots that this router is sure of.
    pub whole_slots: u32,
    pub own_slots: u32,
    pub capacity_tokens: Option<u64>,
    /// The last capacity that was one: zero says that the worker is not up yet.
    pub ceiling_tokens: Option<u64>,
    /// Tokens by which every running request has grown since the worker joined.
    pub grown_tokens: i64,
    /// Who grows: sent, received and decoding. The first two have lines of their own.
    pub(super) own: Tally,
    pub(super) sent_line: Line,
    pub(super) received_line: Line,
    pub(super) held: Tally,
    pub(super) preempted: Tally,
    /// Everybody of ours, as places in the slab, and whether others than when room was last made for them.
    pub(super) members: Vec<u32>,
    pub(super) stale: bool,
    /// Whether room was made by what is known now of how requests end.
    pub(super) made: bool,
    /// KV tokens to leave free for what all of them grow by, but never more than a part of the cache.
    pub(super) room_tokens: u64,
    /// The prompts of all of them.
    pub(super) prompt_tokens: u64,
    /// Numbers of the last dispatch made and of the last acknowledged.
    pub sent: u64,
    pub acknowledged: u64,
    pub(super) sequence: Option<u64>,
    pub(super) epoch: Option<u64>,
    /// Those of the lives before, the last one first: reports of them may still be on their way.
    pub(super) former_epochs: [Option<u64>; FORMER_EPOCHS],
    pub(super) anew: Option<Anew>,
    /// When its present life was first heard of.
    pub(super) restarted_ms: u64,
    pub reported_ms: Option<u64>,
    pub foreign_requests: u32,
    /// What the measured KV tokens are above the lengths of those who decode; below zero where they share.
    pub(super) correction_tokens: i64,
    /// What a report that was measured a while ago does not know, the oldest first.
    pub(super) changes: VecDeque<Change>,
    /// The greatest age that a report has told.
    pub(super) oldest_report_ms: u64,
    /// Requests and tokens that were sent since the last report was measured, seen by now or not: what that
    /// report shows to be free was free before them.
    pub(super) since: (u32, u64),
    /// Requests and tokens that have ended since the last report was measured: room that only we know of.
    pub(super) freed: (u32, u64),
    /// Foreign requests and the correction by the report before the last.
    pub(super) before: (u32, i64),
    /// Since when it reports that it holds nothing although requests of ours were seen there.
    pub empty_since_ms: Option<u64>,
    pub counts: ReportCounts,
}

impl Account {
    pub(crate) fn new(id: WorkerId, config: &WorkerConfig, rules: Rules, clock: i64) -> Self {
        let mut account = Self {
            id,
            draining: false,
            rules,
            whole_slots: 0,
            own_slots: 0,
            capacity_tokens: None,
            ceiling_tokens: None,
            grown_tokens: clock,
            own: Tally::default(),
            sent_line: Line::default(),
            received_line: Line::default(),
            held: Tally::default(),
            preempted: Tally::default(),
            members: Vec::new(),
            stale: false,
            made: false,
            room_tokens: u64::MAX,
            prompt_tokens: 0,
            sent: 0,
            acknowledged: 0,
            sequence: None,
            epoch: None,
            former_epochs: [None; FORMER_EPOCHS],
            anew: None,
            restarted_ms: 0,
            reported_ms: None,
            foreign_requests: 0,
            correction_tokens: 0,
            changes: VecDeque::new(),
            oldest_report_ms: 0,
            since: (0, 0),
            freed: (0, 0),
            before: (0, 0),
            empty_since_ms: None,
            counts: ReportCounts::default(),
        };
        account.set_slots(config.slots);
        account.set_capacity(config.kv_capacity_tokens);
        account
    }

    pub(crate) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        self.set_slots(self.whole_slots);
    }

    /// Every front end is sure of a slot at least.
    pub(crate) fn set_slots(&mut self, slots: u32) {
        self.whole_slots = slots;
        // Where they are ever so many, so that a step need not.
        self.members.reserve((slots.min(MOST_RESERVED) as usize).saturating_sub(self.members.len()));
        self.own_slots = (self.rules.share.part(u64::from(slots)) as u32).max(slots.min(1));
    }

    pub(crate) fn set_capacity(&mut self, capacity_tokens: Option<u64>) {
        self.capacity_tokens = capacity_tokens;
        if capacity_tokens != Some(0) {
            self.ceiling_tokens = capacity_tokens;
        }
    }

    /// What runs there is ours no longer, and runs on.
    pub(crate) fn disown_all(&mut self) {
        self.foreign_requests = self.foreign_requests.saturating_add(self.running());
        self.correct(self.correction_tokens + self.own_tokens() as i64);
        self.own = Tally::default();
        (self.sent_line, self.received_line) = (Line::default(), Line::default());
        (self.held, self.preempted) = (Tally::default(), Tally::default());
        self.members.clear();
        (self.stale, self.prompt_tokens) = (true, 0);
        (self.since, self.freed) = ((0, 0), (0, 0));
        self.changes.clear();
        self.empty_since_ms = None;
    }

    pub(super) fn correct(&mut self, tokens: i64) {
        self.correction_tokens = tokens.clamp(-(MAX_LOAD_TOKENS as i64), MAX_LOAD_TOKENS as i64);
    }

    // What it holds.

    /// Requests of ours that are there, in whichever stage.
    pub(crate) fn running(&self) -> u32 {
        self.own.requests + self.held.requests + self.preempted.requests
    }

    /// Those who grow with the worker.
    pub(crate) fn growing(&self) -> u32 {
        self.own.requests
    }

    pub(crate) fn held_requests(&self) -> u32 {
        self.held.requests
    }

    pub(crate) fn preempted_requests(&self) -> u32 {
        self.preempted.requests
    }

    /// The lengths of ours.
    pub(crate) fn own_tokens(&self) -> u64 {
        self.own.tokens(self.grown_tokens) + self.held.tokens(0) + self.preempted.tokens(0)
    }

    /// The lengths of those sent and received; mostly there are none.
    #[inline]
    fn lined_tokens(&self) -> u64 {
        if self.sent_line.tally.requests + self.received_line.tally.requests == 0 {
            return 0;
        }
        let [sent, received] =
            [&self.sent_line, &self.received_line].map(|line| line.tally.tokens(self.grown_tokens));
        sent + received
    }

    pub(super) fn decoding_tokens(&self) -> u64 {
        self.own.tokens(self.grown_tokens).saturating_sub(self.lined_tokens())
    }

    /// KV tokens counted: what was measured of those who decode and of others, and in full what is coming.
    pub(crate) fn counted_tokens(&self) -> u64 {
        let lined = self.lined_tokens();
        let decoding = self.own.tokens(self.grown_tokens).saturating_sub(lined);
        let there = decoding as i64 + self.correction_tokens;
        there.max(0) as u64 + lined + self.held.tokens(0)
    }

    /// The lengths of those who will come back into the KV cache without being sent again.
    pub(super) fn preempted_tokens(&self) -> u64 {
        self.preempted.tokens(0)
    }

    /// KV tokens that a step reads there, or will.
    pub(crate) fn load_tokens(&self) -> u64 {
        (self.counted_tokens() + self.preempted_tokens()).min(MAX_LOAD_TOKENS)
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

    fn growth_of(&self, active: &Active) -> i64 {
        if active.stage.grows() { self.grown_tokens } else { 0 }
    }

    /// Tokens that a running request has generated.
    pub(crate) fn generated_tokens(&self, active: &Active) -> u32 {
        (self.growth_of(active) - active.born_tokens).clamp(0, i64::from(u32::MAX)) as u32
    }

    pub(super) fn tokens_of(&self, active: &Active) -> u64 {
        (active.base_tokens() + self.growth_of(active)).max(0) as u64
    }

    /// Whether its turn comes between two times of a step clock, where each worker has one in two to the
    /// power of `exponent` steps.
    #[inline]
    pub(crate) fn has_turn(&self, exponent: u32, from_step: i64, to_step: i64) -> bool {
        let phase = i64::from(self.id.get());
        (from_step + phase) >> exponent != (to_step + phase) >> exponent
    }

    /// Tokens that its requests have generated.
    pub(crate) fn age_tokens(&self) -> u64 {
        self.own_tokens().saturating_sub(self.prompt_tokens)
    }

    /// What its requests have lived since they were last looked at teaches how long outputs are.
    pub(crate) fn look_at_lives(&mut self, slab: &mut Slab, outputs: &mut Lifetimes) {
        // Of many thousand requests hardly any is in a cache: the memory of some is on its way while the
        // first of them teaches.
        for members in self.members.chunks(16) {
            let mut ages = [(0, 0); 16];
            for (age, &index) in ages.iter_mut().zip(members) {
                let active = &mut slab.entries[index as usize];
                let generated_tokens = self.generated_tokens(active);
                *age = (active.seen_tokens, generated_tokens);
                active.seen_tokens = active.seen_tokens.max(generated_tokens);
            }
            for &(from, to) in &ages[..members.len()] {
                outputs.lived(from, to);
            }
        }
    }

    // Who comes, changes and goes.

    /// Numbers a dispatch and begins to count it.
    pub(crate) fn begin(&mut self, slab: &mut Slab, index: u32, dispatched_ms: Option<u64>) -> u64 {
        let generated_tokens = self.generated_tokens(&slab.entries[index as usize]);
        let tokens = self.tokens_of(&slab.entries[index as usize]);
        let active = &mut slab.entries[index as usize];
        let most = active.request.max_tokens.map_or(u32::MAX, |most| most.saturating_sub(generated_tokens));
        active.growth_tokens = self.rules.headroom_tokens.unwrap_or(0).min(most);
        active.member = self.members.len() as u32;
        self.members.push(index);
        self.prompt_tokens += u64::from(active.request.prompt_tokens);
        self.stale = true;
        self.own.add(active);
        let Some(now_ms) = dispatched_ms else { return 0 };
        self.sent += 1;
        self.since = (self.since.0 + 1, self.since.1 + tokens);
        (active.number, active.since_ms, active.stage) = (self.sent, now_ms, Stage::Sent);
        self.sent_line.push(slab, index);
        self.sent
    }

    /// Ends the count of a request, which leaves the slab.
    pub(crate) fn end(&mut self, slab: &mut Slab, index: u32, now_ms: u64) {
        let tokens = self.tokens_of(&slab.entries[index as usize]);
        let Active { stage, growth_tokens, .. } = slab.entries[index as usize];
        if stage == Stage::Decoding {
            self.release(tokens);
        }
        if stage != Stage::Preempted {
            self.changed(Change { at_ms: now_ms, tokens, what: What::Ended });
        }
        if stage == Stage::Sent {
            self.unsend(tokens);
        } else {
            self.freed = (self.freed.0 + 1, self.freed.1 + tokens + u64::from(growth_tokens));
        }
        self.leave_stage(slab, index);
        self.remove(slab, index);
    }

    /// A request ends to be ours where it runs, and runs on.
    pub(crate) fn disown(&mut self, slab: &mut Slab, index: u32) {
        let active = &slab.entries[index as usize];
        let (stage, tokens) = (active.stage, self.tokens_of(active));
        self.leave_stage(slab, index);
        self.foreign_requests = self.foreign_requests.saturating_add(1);
        if stage == Stage::Sent {
            self.unsend(tokens);
        }
        if stage != Stage::Preempted {
            self.correct(self.correction_tokens + tokens as i64);
        }
        self.remove(slab, index);
    }

    fn remove(&mut self, slab: &mut Slab, index: u32) {
        let Active { member, request, .. } = slab.entries[index as usize];
        self.prompt_tokens -= u64::from(request.prompt_tokens);
        slab.remove(index);
        self.members.swap_remove(member as usize);
        if let Some(&moved) = self.members.get(member as usize) {
            slab.entries[moved as usize].member = member;
        }
        self.stale = true;
    }

    /// Somebody whom nothing has shown is not on the way any more.
    fn unsend(&mut self, tokens: u64) {
        self.since = (self.since.0.saturating_sub(1), self.since.1.saturating_sub(tokens));
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

    fn leave_stage(&mut self, slab: &mut Slab, index: u32) {
        match slab.entries[index as usize].stage {
            Stage::Sent => self.sent_line.unlink(slab, index),
            Stage::Received => self.received_line.unlink(slab, index),
            Stage::Held | Stage::Decoding | Stage::Preempted => {}
        }
        let active = &slab.entries[index as usize];
        match active.stage {
            Stage::Held => self.held.take(active),
            Stage::Preempted => self.preempted.take(active),
            Stage::Sent | Stage::Received | Stage::Decoding => self.own.take(active),
        }
    }

    /// Moves a request to another stage, and notes what a report that is older than that cannot know.
    #[inline(never)]
    pub(crate) fn move_to(&mut self, slab: &mut Slab, index: u32, stage: Stage, now_ms: u64) {
        let active = &slab.entries[index as usize];
        let (before, tokens) = (active.stage, self.tokens_of(active));
        if before == stage {
            return;
        }
        if (before, stage) == (Stage::Decoding, Stage::Preempted) {
            self.release(tokens);
        }
        match (before, stage) {
            (_, Stage::Decoding) => self.changed(Change { at_ms: now_ms, tokens, what: What::Begun }),
            (_, Stage::Preempted) => self.changed(Change { at_ms: now_ms, tokens, what: What::Preempted }),
            _ => {}
        }
        self.leave_stage(slab, index);
        let grown_tokens = self.grown_tokens;
        let active = &mut slab.entries[index as usize];
        match (before.grows(), stage.grows()) {
            (true, false) => active.born_tokens -= grown_tokens,
            (false, true) => active.born_tokens += grown_tokens,
            _ => {}
        }
        if before == Stage::Sent {
            active.since_ms = now_ms;
        }
        active.stage = stage;
        match stage {
            Stage::Held => self.held.add(active),
            Stage::Preempted => self.preempted.add(active),
            Stage::Sent | Stage::Received | Stage::Decoding => self.own.add(active),
        }
        match stage {
            Stage::Sent => self.sent_line.push(slab, index),
            Stage::Received => {
                active.received_tokens = grown_tokens;
                self.received_line.push(slab, index);
            }
            Stage::Held | Stage::Decoding | Stage::Preempted => {}
        }
    }

    /// One request has grown by itself; it is seen by that, and so are those that were sent before it where
    /// requests keep their order.
    #[inline]
    pub(crate) fn grow(&mut self, slab: &mut Slab, index: u32, tokens: u32, now_ms: u64) {
        let Active { stage, number, .. } = slab.entries[index as usize];
        if stage != Stage::Decoding {
            self.move_to(slab, index, Stage::Decoding, now_ms);
        }
        // Whoever brings tokens has not been forgotten.
        self.empty_since_ms = None;
        if self.rules.in_order {
            self.receive_up_to(slab, number, now_ms, |_| true);
        }
        slab.entries[index as usize].born_tokens -= i64::from(tokens);
        self.own.base_tokens += i64::from(tokens);
        if stage != Stage::Decoding
            && let Some(begun) = self.changes.back_mut()
        {
            // It has begun with these tokens.
            begun.tokens += u64::from(tokens);
        }
    }

    /// The worker has the dispatches up to this number, but for those that are missing.
    pub(super) fn receive_up_to(
        &mut self,
        slab: &mut Slab,
        number: u64,
        now_ms: u64,
        has_seen: impl Fn(u64) -> bool,
    ) {
        if self.sent_line.tally.requests == 0 {
            return;
        }
        let mut at = self.sent_line.head;
        while let Some(&Active { number: found, next, .. }) = slab.entries.get(at as usize)
            && found <= number
        {
            if has_seen(found) {
                self.move_to(slab, at, Stage::Received, now_ms);
            }
            at = next;
        }
    }

    /// The oldest dispatch that nothing has shown, if it was made by `until_ms`.
    pub(crate) fn first_sent(&self, slab: &Slab, until_ms: u64) -> Option<u32> {
        let first = slab.entries.get(self.sent_line.head as usize)?;
        (first.since_ms <= until_ms).then_some(self.sent_line.head)
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
            let tokens = account.tokens_of(active);
            account.unsend(tokens);
        }
        account
    }
}

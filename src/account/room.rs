//! What a worker has left for one more request, and which part of that is for this front end.
//!
//! # Several front ends
//! A [`Share`] is what a front end may always use, as far as the whole worker has it by the last report, and
//! at least a slot. Beyond it there is what nobody uses, once a report has shown it. All front ends see the
//! same report, so each takes of what is free only its part of that, less what it has sent since and the
//! report cannot know; the parts change hands from worker to worker and from turn to turn ([`TURN_MS`]). A
//! front end whose turn a worker is may take all that is free there: a request that is longer than any part
//! waits for that. An eighth of the worker is left to the others until they use as much, but for a request
//! that nothing less than an empty worker can hold. So front ends whose reports are late may overfill a
//! worker by what they borrow within the age of a report, and by no more.

use crate::account::Share;
use crate::account::worker::Account;
use crate::batch::{MAX_LOAD_TOKENS, MAX_SLOTS, Worker};

/// How long a turn lasts. It begins with a quarter in which nothing is taken by it: what was taken in the
/// turn before is in a report by then.
pub(crate) const TURN_MS: u64 = 256;
const QUIET_MS: u64 = TURN_MS / 4;
/// The part of a worker that is left to front ends which use less.
const RESERVE: u64 = 8;

/// From where a worker is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    turn: u64,
    /// Whether a turn may be used yet.
    open: bool,
    /// Position of the worker, and how many there are.
    place: usize,
    pub workers: usize,
    /// Whether a request waits that only a worker with nobody on it can hold: it leaves no headroom, or
    /// nothing to other front ends.
    pub tight: bool,
}

impl Sight {
    pub(crate) fn new(share: Share, now_ms: u64, workers: usize, tight: bool) -> Self {
        let (turn, open) = if share.of == 1 {
            (0, true)
        } else {
            (now_ms / TURN_MS, now_ms < TURN_MS || now_ms % TURN_MS >= QUIET_MS)
        };
        Self { turn, open, place: 0, workers, tight }
    }

    /// One of the workers.
    pub(crate) fn at(self, place: usize) -> Self {
        Self { place, ..self }
    }

    /// Which part of a worker is this front end's now, of what is free there.
    fn part_of(&self, share: Share) -> Share {
        let index = (u64::from(share.index) + self.place as u64 + self.turn) % u64::from(share.of);
        Share { index: index as u32, ..share }
    }
}

/// What a front end may take of what is free: all figures in slots, or all in tokens.
struct Free {
    /// On the whole worker, by what we know.
    left: i64,
    /// To the part that is surely ours.
    own: i64,
    /// Sent by us and not in any report yet.
    unseen: i64,
    /// To be left to the others.
    reserved: i64,
    /// Whether a report has shown what is free.
    shown: bool,
}

impl Free {
    fn ours(&self, sight: &Sight, share: Share) -> i64 {
        if share.of == 1 || !self.shown {
            return self.left.min(self.own);
        }
        let part = sight.part_of(share);
        let spare = self.left - self.reserved;
        let borrowed = if part.index == 0 && sight.open {
            spare
        } else {
            part.part((spare + self.unseen).max(0) as u64) as i64 - self.unseen
        };
        self.left.min(self.own.max(borrowed))
    }
}

/// The tokens of a worker that are left to other front ends.
fn reserved_tokens(share: Share, capacity_tokens: u64) -> u64 {
    if share.of > 1 { capacity_tokens / RESERVE } else { 0 }
}

impl Account {
    /// What it may hold, when it is empty, beside what is left to others; none where there is no bound.
    pub(crate) fn lent_tokens(&self) -> Option<u64> {
        self.ceiling_tokens.map(|tokens| tokens - reserved_tokens(self.rules.share, tokens))
    }

    /// Writes what a batch is to know of the worker.
    pub(crate) fn settle(&self, sight: Sight, worker: &mut Worker) {
        let share = self.rules.share;
        let (own, counted_tokens) = (self.running(), self.counted_tokens());
        let counted = own.saturating_add(self.foreign_requests);
        let others = i64::from(share.of) - 1;
        let shown = self.reported_ms.is_some();
        let eased = sight.tight && counted == 0;
        let slots = Free {
            left: i64::from(self.whole_slots) - i64::from(counted),
            own: i64::from(self.own_slots) - i64::from(own),
            unseen: i64::from(self.unseen()),
            reserved: (others.min(i64::from(self.whole_slots) / RESERVE as i64)
                - i64::from(self.foreign_requests))
            .max(0),
            shown,
        };
        worker.free_slots = slots.ours(&sight, share).max(0) as u32;
        worker.running = counted.min(MAX_SLOTS - worker.free_slots);
        let there = (counted_tokens + self.preempted_tokens()).min(MAX_LOAD_TOKENS);
        worker.load_tokens = there;
        if share.of > 1 {
            // Front ends that see the same loads begin with different workers.
            let first = (sight.place as u64 + u64::from(share.index) + sight.turn) % sight.workers as u64;
            worker.load_tokens = (there + first).min(MAX_LOAD_TOKENS);
        }
        worker.kv_capacity_tokens = self.capacity_tokens;
        let Some(capacity) = self.capacity_tokens else {
            worker.kv_used_tokens = there;
            worker.kv_growth_tokens = 0;
            return;
        };
        // Those who were preempted come back without being sent: their room is kept.
        let own_growth = self.own.growth_tokens
            + self.held.growth_tokens
            + self.preempted.growth_tokens
            + self.preempted_tokens() as i64;
        let growth = own_growth + i64::from(self.foreign_requests) * i64::from(self.rules.headroom_tokens);
        let own_tokens = counted_tokens.min(self.own_tokens() - self.preempted_tokens());
        let tokens = Free {
            left: capacity as i64 - counted_tokens as i64 - growth,
            own: share.part(capacity) as i64 - own_tokens as i64 - own_growth,
            unseen: self.sent_line.tally.tokens(self.grown_tokens) as i64,
            reserved: if eased {
                0
            } else {
                reserved_tokens(share, capacity).saturating_sub(self.foreign_tokens()) as i64
            },
            shown,
        };
        let mut room = tokens.ours(&sight, share);
        if eased {
            // It leaves no headroom for itself where it is as long as the whole cache.
            room += i64::from(self.rules.headroom_tokens);
            worker.kv_capacity_tokens =
                Some((capacity + u64::from(self.rules.headroom_tokens)).min(MAX_LOAD_TOKENS));
        }
        let kept = worker.kv_capacity_tokens.unwrap_or(capacity) as i64 - room;
        worker.kv_growth_tokens = growth.clamp(0, MAX_LOAD_TOKENS as i64) as u64;
        worker.kv_used_tokens = (kept - growth).clamp(0, MAX_LOAD_TOKENS as i64) as u64;
    }
}

//! What a worker has left for one more request, and which part of that is for this front end.
//!
//! # Several front ends
//! Nobody tells one front end what another has just sent; all of them hear the same reports, a little late.
//! So each counts three things of a worker:
//!
//! - *Freed*: what its own requests have left since the last report was measured. It alone knows, and fills
//!   it at once: past saturation every front end goes on with what it has, and no report is waited for.
//! - *Free*: what the last two reports show, both of them, for what a single one shows is mostly what another
//!   front end is about to fill again. Of that each takes only its part, less what it has sent and no report
//!   knows of; parts that do not come out even go round from worker to worker and from turn to turn
//!   ([`TURN_MS`]). Of slots one front end a turn may take all: a request too many waits in the engine, and
//!   nobody's cache is lost by it. An eighth of a worker is left to the others, until they use as much, by
//!   those who have used up their [`Share`].
//! - *Whole turns*: every fourth turn of a worker, three quarters of its free KV tokens are one front end's,
//!   and the others have their parts of the rest. So a request longer than any part finds its place. Who has
//!   used up its share of a full worker does not fill what it frees then: so one that begins late gets its
//!   share.
//!
//! What a front end has of its [`Share`] left it may take at once where the others leave it that, which is
//! where they have no more than theirs. Before the first report nothing else is free, for nothing has shown
//! it. A request that nothing less than an empty worker can hold enters one in a whole turn.
//!
//! Loads are shared out likewise. Where reports show that a worker has less than the others, every front end
//! would fill that gap, and by the next report it would be filled as many times. So of what the others have
//! there each counts one part in as many as there are front ends, and its own in full: together they fill the
//! gap once. Of slots and KV tokens everything counts.
//!
//! In the first half of a turn nobody takes all of anything, and after a whole turn parts are small for half
//! a turn: what was taken before is in a report by then. Nobody sends to a worker that is full by its own
//! last report. So what is too much on a worker is at most what the others have sent there since that report
//! was measured, and those of its own that ended within the age of that report. Turns go by the caller's
//! clock: front ends are to read one clock, or clocks that agree within half a turn.

use crate::account::Share;
use crate::account::growth::most_room;
use crate::account::worker::Account;
use crate::batch::{MAX_LOAD_TOKENS, MAX_SLOTS, Worker};

/// How long a turn lasts: its half is longer than a report is late.
pub(crate) const TURN_MS: u64 = 256;
/// One turn of so many is a whole one.
const WHOLE_TURNS: u64 = 4;
/// The part of a worker that is left to front ends which use less.
const RESERVE: u64 = 8;

/// From where a worker is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Sight {
    turn: u64,
    /// Whether the turn is in its first half.
    young: bool,
    /// Position of the worker, and how many there are.
    place: usize,
    pub workers: usize,
    /// Whether a request waits that only a worker with nobody on it can hold: it leaves no headroom, or
    /// nothing to other front ends.
    pub tight: bool,
}

/// Whose the free KV tokens of a worker are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Parts,
    Ours,
    /// Somebody else's, or nobody's yet.
    Closed,
}

impl Sight {
    /// `told_ms` is what the caller's clock shows, which other front ends read too.
    pub(crate) fn new(share: Share, told_ms: u64, workers: usize, tight: bool) -> Self {
        let (turn, young) = match share.of {
            1 => (0, false),
            _ => (told_ms / TURN_MS, told_ms % TURN_MS < TURN_MS / 2),
        };
        Self { turn, young, place: 0, workers, tight }
    }

    /// One of the workers.
    fn at(self, place: usize) -> Self {
        Self { place, ..self }
    }

    /// Which part of a worker is this front end's now, of what is free there.
    fn part_of(&self, share: Share) -> Share {
        let index = (u64::from(share.index) + self.place as u64 + self.turn) % u64::from(share.of);
        Share { index: index as u32, ..share }
    }

    /// After as many turns as there are front ends a whole turn is another one's.
    fn turn_of(&self, share: Share) -> Turn {
        let of = u64::from(share.of);
        match (self.place as u64 + self.turn % of + self.turn / of) % WHOLE_TURNS {
            0 if !self.young && self.part_of(share).index == 0 => Turn::Ours,
            0 => Turn::Closed,
            1 if self.young => Turn::Closed,
            _ => Turn::Parts,
        }
    }
}

/// What a front end may take of what is free: all figures in slots, or all in tokens.
struct Free {
    /// On the whole worker, by what we know.
    left: i64,
    /// To the part that is ours.
    own: i64,
    /// Whether the others leave us that part: they have no more than theirs.
    intact: bool,
    /// Sent by us since the last report was measured.
    since: i64,
    /// Ended of ours since the last report was measured.
    freed: i64,
    /// What the others have less by the last report than by the one before.
    gone: i64,
    /// To be left to the others.
    reserved: i64,
    /// Whether a report has come yet.
    reported: bool,
}

impl Free {
    /// What the last two reports show to be free, as far as it is not left to the others.
    fn spare(&self) -> i64 {
        if !self.reported {
            return 0;
        }
        let reserved = if self.own > 0 { 0 } else { self.reserved };
        (self.left + self.since - self.freed - self.gone - reserved).max(0)
    }

    fn ours(&self, turn: Turn, spare: i64, lent: i64) -> i64 {
        if !self.reported {
            return self.left.min(self.own);
        }
        // Who has more than its share leaves what it frees, for a while, to those who have less.
        let gives = turn == Turn::Closed && self.own <= 0 && spare == 0;
        let taken = if gives { 0 } else { self.freed } + lent - self.since;
        self.left.min(if self.intact { taken.max(self.own) } else { taken })
    }

    fn slots(&self, sight: &Sight, share: Share) -> i64 {
        let (spare, part, turn) = (self.spare(), sight.part_of(share), sight.turn_of(share));
        let lent = if part.index == 0 && !sight.young { spare } else { 0 };
        let lent = lent.max(part.part(spare as u64) as i64);
        self.ours(turn, spare, lent)
    }

    fn tokens(&self, sight: &Sight, share: Share) -> i64 {
        let (spare, turn) = (self.spare(), sight.turn_of(share));
        let lent = match turn {
            Turn::Parts => sight.part_of(share).part(spare as u64) as i64,
            Turn::Ours => whole_turn(spare as u64) as i64,
            Turn::Closed => sight.part_of(share).part(spare as u64 / 4) as i64,
        };
        self.ours(turn, spare, lent)
    }
}

/// What one front end may take in a whole turn of so many tokens.
fn whole_turn(tokens: u64) -> u64 {
    tokens / 4 * 3
}

impl Account {
    /// What a request may have, with the room that it leaves, on the worker when nobody is there; none where
    /// there is no bound.
    fn lent_tokens(&self) -> Option<u64> {
        let share = self.rules.share;
        let turn = |tokens| if self.reported_ms.is_some() { whole_turn(tokens) } else { 0 };
        let lent = |tokens| turn(tokens).max(share.part(tokens));
        self.ceiling_tokens.map(|tokens| if share.of == 1 { tokens } else { lent(tokens) })
    }

    /// What a request may have itself on the worker when nobody is there. Longer ones may enter it all the
    /// same when its turn is theirs ([`Sight::tight`]). Below zero where less fits than is to be left free.
    pub(crate) fn ordinary_tokens(&self) -> Option<i64> {
        let left = |tokens: u64| self.rules.headroom_tokens.map_or(most_room(tokens), u64::from);
        Some(self.lent_tokens()? as i64 - left(self.ceiling_tokens?) as i64)
    }

    /// Whether a request of so many tokens could enter once all of ours there have ended; what reports show
    /// beyond those is taken to stay.
    pub(crate) fn could_hold(&self, tokens: u64, sight: &Sight) -> bool {
        let Some(capacity) = self.capacity_tokens else { return true };
        let free = capacity.saturating_sub(self.foreign_tokens());
        let growth = match self.rules.headroom_tokens {
            Some(headroom_tokens) => u64::from(headroom_tokens) * (u64::from(self.foreign_requests) + 1),
            None => most_room(capacity),
        };
        let is_eased = sight.tight && self.foreign_requests == 0;
        tokens <= if is_eased { free } else { free.saturating_sub(growth) }
    }

    /// Of so many slots that are left, by what we know, those that this front end may fill.
    #[inline(never)]
    fn slots_of_share(&self, sight: &Sight, left: i64) -> i64 {
        let share = self.rules.share;
        let others = i64::from(share.of) - 1;
        let foreign = i64::from(self.foreign_requests);
        let free = Free {
            left,
            own: i64::from(self.own_slots) - i64::from(self.running()),
            intact: self.foreign_requests <= self.whole_slots - self.own_slots,
            since: i64::from(self.since.0),
            freed: i64::from(self.freed.0),
            gone: (i64::from(self.before.0) - foreign).max(0),
            reserved: (others.min(i64::from(self.whole_slots) / RESERVE as i64) - foreign).max(0),
            reported: self.reported_ms.is_some(),
        };
        free.slots(sight, share)
    }

    /// Of so many KV tokens that are left beside all growth, by what we know, those that this front end may
    /// fill.
    #[inline(never)]
    fn tokens_of_share(&self, sight: &Sight, capacity: u64, left: i64, own_growth: i64) -> i64 {
        let share = self.rules.share;
        let own_tokens = self.counted_tokens().min(self.own_tokens() - self.preempted_tokens());
        let foreign = self.foreign_tokens();
        let free = Free {
            left,
            own: share.part(capacity) as i64 - own_tokens as i64 - own_growth,
            intact: foreign <= capacity - share.part(capacity),
            since: self.since.1 as i64,
            freed: self.freed.1 as i64,
            gone: (self.before.1 - self.correction_tokens).max(0),
            reserved: (capacity as i64 / RESERVE as i64 - foreign as i64).max(0),
            reported: self.reported_ms.is_some(),
        };
        free.tokens(sight, share)
    }

    /// Writes what a batch is to know of the worker.
    #[inline]
    pub(crate) fn settle(&self, sight: &Sight, place: usize, worker: &mut Worker) {
        let counted = self.running().saturating_add(self.foreign_requests);
        worker.free_slots = self.whole_slots.saturating_sub(counted);
        worker.running = counted.min(MAX_SLOTS - worker.free_slots);
        worker.kv_capacity_tokens = self.capacity_tokens;
        let growth = self.capacity_tokens.map_or(0, |capacity| self.growth_tokens(capacity).1);
        worker.kv_growth_tokens = growth.clamp(0, MAX_LOAD_TOKENS as i64) as u64;
        self.settle_lengths(worker);
        if self.rules.share.of > 1 || (sight.tight && counted == 0) {
            self.settle_part(sight.at(place), counted, worker);
        }
    }

    /// [`Account::settle`] after somebody of ours has grown and nothing else has happened.
    #[inline]
    pub(crate) fn settle_growth(&self, sight: &Sight, place: usize, worker: &mut Worker) {
        if self.rules.share.of > 1 {
            self.settle(sight, place, worker);
        } else {
            self.settle_lengths(worker);
        }
    }

    fn settle_lengths(&self, worker: &mut Worker) {
        let counted_tokens = self.counted_tokens();
        worker.load_tokens = (counted_tokens + self.preempted_tokens()).min(MAX_LOAD_TOKENS);
        let held_tokens = if self.capacity_tokens.is_some() { counted_tokens } else { worker.load_tokens };
        worker.kv_used_tokens = held_tokens.min(MAX_LOAD_TOKENS);
    }

    /// What is otherwise where the worker is not all ours, or is for one who needs all of it.
    #[inline(never)]
    fn settle_part(&self, sight: Sight, counted: u32, worker: &mut Worker) {
        let share = self.rules.share;
        if share.of > 1 {
            let left = i64::from(self.whole_slots) - i64::from(counted);
            worker.free_slots = self.slots_of_share(&sight, left).max(0) as u32;
            worker.running = counted.min(MAX_SLOTS - worker.free_slots);
            // Front ends that see the same loads begin with different workers.
            let first = (sight.place as u64 + u64::from(share.index) + sight.turn) % sight.workers as u64;
            // All of them see the same gap and fill it before a report shows that: each fills its part of it.
            let (there, foreign_tokens) = (worker.load_tokens, self.foreign_tokens());
            let seen = there - foreign_tokens.min(there) + foreign_tokens / u64::from(share.of);
            worker.load_tokens = (seen + first).min(MAX_LOAD_TOKENS);
        }
        let Some(capacity) = self.capacity_tokens else { return };
        // Those who were preempted come back without being sent: their room is kept.
        let (own_growth, mut growth) = self.growth_tokens(capacity);
        let left = capacity as i64 - self.counted_tokens() as i64 - growth;
        let mut room =
            if share.of == 1 { left } else { self.tokens_of_share(&sight, capacity, left, own_growth) };
        let is_ours = share.of == 1 || sight.turn_of(share) == Turn::Ours;
        if sight.tight && counted == 0 && is_ours {
            match self.rules.headroom_tokens {
                // It leaves no headroom for itself where it is as long as the whole cache.
                Some(headroom_tokens) => {
                    room = left + i64::from(headroom_tokens);
                    worker.kv_capacity_tokens =
                        Some((capacity + u64::from(headroom_tokens)).min(MAX_LOAD_TOKENS));
                }
                // Nobody else is to fill what one that is alone leaves free.
                None => {
                    room = left + growth;
                    growth = 0;
                    worker.free_slots = worker.free_slots.min(1);
                }
            }
        }
        let kept = worker.kv_capacity_tokens.unwrap_or(capacity) as i64 - room;
        worker.kv_growth_tokens = growth.clamp(0, MAX_LOAD_TOKENS as i64) as u64;
        worker.kv_used_tokens = (kept - growth).clamp(0, MAX_LOAD_TOKENS as i64) as u64;
    }
}

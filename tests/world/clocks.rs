//! The clocks of a front end's callers, and how well time can be told by them.
//!
//! A router is told the readings of clocks that are apart, that are set a little (which it must take for time
//! that passes, or stands still) and by hours (by which no time has passed). So what it makes of a wait lies
//! between two bounds, which are worked out here from what truly was.

/// What clocks show as the world begins: their origin is their own.
const ORIGIN_MS: u64 = 1_700_000_000_000;
/// So far is one ahead of the next.
const APART_MS: u64 = 700;
/// What a clock is set by is a jump for certain from here on, and none below.
const JUMP_MS: u64 = 600_000;
/// Whoever was not read for so long may be taken for another clock.
const LONG_MS: u64 = 500_000;

#[derive(Clone, Copy)]
struct Clock {
    ahead_ms: i64,
    /// By how much it was set a little since it was read.
    little_ms: u64,
    /// Whether any was set since it was read, and when that was.
    is_set: bool,
    read_ms: u64,
}

/// When something was, and how far clocks had been off by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Date {
    at_ms: u64,
    off_ms: u64,
}

pub(crate) struct Clocks {
    clocks: Vec<Clock>,
    /// By how much they may have told less or more than has passed, in all.
    off_ms: u64,
    /// For so long time may stand still yet, as of when: clocks that were set back catch up.
    behind_ms: (u64, u64),
    /// How far those are apart that are taken for one, or a clock from what it was before.
    apart_ms: u64,
    /// Whether there is another clock, or one was set by much; and by how much they were set a little before.
    is_alone: bool,
    little_ms: u64,
    /// Time that none may have shown: one that is set back to where it was shows it in the end.
    lost_ms: u64,
    read_ms: u64,
}

impl Clocks {
    pub(crate) fn new(count: u64) -> Self {
        let clock = |at: u64| {
            let ahead_ms = (at * APART_MS) as i64;
            Clock { ahead_ms, little_ms: 0, is_set: false, read_ms: 0 }
        };
        Self {
            clocks: (0..count).map(clock).collect(),
            off_ms: 0,
            behind_ms: (0, 0),
            apart_ms: count * APART_MS,
            is_alone: count == 1,
            little_ms: 0,
            lost_ms: 0,
            read_ms: 0,
        }
    }

    fn at(&self, clock: u64) -> usize {
        clock as usize % self.clocks.len()
    }

    /// By how much they may have been off so far, in all.
    pub(crate) fn off_ms(&self) -> u64 {
        self.off_ms
    }

    /// What one shows.
    pub(crate) fn shows(&self, now_ms: u64, clock: u64) -> u64 {
        (ORIGIN_MS + now_ms).saturating_add_signed(self.clocks[self.at(clock)].ahead_ms)
    }

    /// One is set. Whether by so much that no time may pass by it.
    pub(crate) fn set(&mut self, (now_ms, clock): (u64, u64), by_ms: u64, back: bool) -> bool {
        let at = self.at(clock);
        let signed_ms = by_ms as i64;
        self.clocks[at].ahead_ms += if back { -signed_ms } else { signed_ms };
        self.clocks.iter_mut().for_each(|clock| clock.is_set = true);
        let is_jump = by_ms >= JUMP_MS;
        if is_jump {
            self.is_alone = false;
        } else {
            self.clocks[at].little_ms += by_ms;
            self.little_ms += by_ms;
            self.behind_ms = (self.still_behind_ms(now_ms) + by_ms, now_ms);
        }
        if !self.is_alone {
            self.apart_ms += std::mem::take(&mut self.little_ms);
        }
        is_jump
    }

    fn still_behind_ms(&self, now_ms: u64) -> u64 {
        self.behind_ms.0.saturating_sub(now_ms - self.behind_ms.1)
    }

    /// The router was told what one shows.
    pub(crate) fn was_read(&mut self, now_ms: u64, clock: u64) {
        let at = self.at(clock);
        let Clock { is_set, read_ms, little_ms, .. } = self.clocks[at];
        self.off_ms += little_ms;
        self.behind_ms = (self.still_behind_ms(now_ms) + little_ms, now_ms);
        // By a clock that was set, or not read for long, no time has passed since any was read.
        if is_set || now_ms - read_ms > LONG_MS {
            let lost_ms = now_ms - self.read_ms;
            (self.off_ms, self.lost_ms) = (self.off_ms + lost_ms, self.lost_ms + lost_ms);
        }
        let ahead_ms = self.clocks[at].ahead_ms;
        self.clocks[at] = Clock { ahead_ms, little_ms: 0, is_set: false, read_ms: now_ms };
        self.read_ms = now_ms;
    }

    /// Now, and how far they have been off, but for what they may make up yet.
    pub(crate) fn date(&self, now_ms: u64) -> Date {
        let later_ms = self.still_behind_ms(now_ms) + self.lost_ms;
        Date { at_ms: now_ms, off_ms: self.off_ms.saturating_sub(later_ms) }
    }

    /// How long it has been since a date, at least and at most, as far as they can tell.
    pub(crate) fn since_ms(&self, date: Date, now_ms: u64) -> (u64, u64) {
        let (passed_ms, off_ms) = (now_ms - date.at_ms, self.off_ms - date.off_ms + self.apart_ms);
        (passed_ms.saturating_sub(off_ms), passed_ms + off_ms)
    }
}

//! Since when requests wait that came without a reading of the clock: since it was next read.
//!
//! The date of a reading is kept once, for all arrivals since the reading before, so that a reading costs the
//! same however many have come.

use std::collections::VecDeque;

use crate::pool::waiting::Waiting;

/// The clock of a request that came before the clock was read.
pub(super) const UNDATED: u64 = u64::MAX;

/// With this, the arrival that one counts as who has come back to its old place before the clock was read:
/// its date is that of those who come at that time.
const RETURNED: u64 = 1 << 63;

/// Dates of those who came without one.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Dates {
    /// From this arrival on, up to the next entry: the time at which the clock was next read.
    from: VecDeque<(u64, u64)>,
    /// The first arrival without a date since.
    undated_from: Option<u64>,
}

/// Most dates that are kept apart.
const MOST_DATES: usize = 1024;

impl Dates {
    /// This arrival has no date yet.
    pub(super) fn undated(&mut self, arrival: u64) {
        self.undated_from.get_or_insert(arrival);
    }

    /// One that comes back has no date yet, like whoever arrives now. What it is to keep until it has.
    pub(super) fn returns(&mut self, arrival: u64) -> u64 {
        self.undated(arrival);
        RETURNED | arrival
    }

    /// Everybody who came without a date gets this one; `oldest_arrival` is that of the oldest who waits.
    pub(super) fn date(&mut self, now_ms: u64, oldest_arrival: u64) {
        let Some(from) = self.undated_from.take() else { return };
        // All at once: how many there are depends on how long somebody waits, and that day must not allocate.
        self.from.reserve(MOST_DATES + 1 - self.from.len());
        self.from.push_back((from, now_ms));
        while self.from.get(1).is_some_and(|&(from, _)| from <= oldest_arrival) {
            self.from.pop_front();
        }
        if self.from.len() > MOST_DATES {
            // Somebody waits for very long: two dates become one, the later, so that nobody seems to have
            // waited longer than it has.
            let half = self.from.len() / 2;
            for at in 0..half {
                self.from[at] = (self.from[2 * at].0, self.from[2 * at + 1].1);
            }
            self.from.drain(half..2 * half);
        }
    }

    /// Since when a request waits; [`UNDATED`] before the clock was read.
    pub(super) fn since_ms(&self, waiting: &Waiting) -> u64 {
        let arrival = match waiting.since_ms {
            UNDATED => waiting.arrival,
            since_ms if since_ms & RETURNED != 0 => since_ms ^ RETURNED,
            since_ms => return since_ms,
        };
        if self.undated_from.is_some_and(|from| arrival >= from) {
            return UNDATED;
        }
        let after = self.from.partition_point(|&(from, _)| from <= arrival);
        after.checked_sub(1).map_or(UNDATED, |at| self.from[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entities::request::Request;

    fn waiting(arrival: u64) -> Waiting {
        Waiting {
            request: Request::new(arrival, 1),
            enqueued_step: 0,
            since_ms: UNDATED,
            arrival,
            leaves: false,
            returned: false,
        }
    }

    #[test]
    fn a_reading_dates_who_came_before_it_and_nobody_after() {
        let mut dates = Dates::default();
        assert_eq!(dates.since_ms(&waiting(0)), UNDATED);
        (0..3).for_each(|arrival| dates.undated(arrival));
        dates.date(50, 0);
        dates.date(60, 0);
        (5..7).for_each(|arrival| dates.undated(arrival));
        assert_eq!([0, 2].map(|arrival| dates.since_ms(&waiting(arrival))), [50, 50]);
        assert_eq!(dates.since_ms(&waiting(5)), UNDATED);
        dates.date(70, 2);
        assert_eq!([0, 2, 5, 6].map(|arrival| dates.since_ms(&waiting(arrival))), [50, 50, 70, 70]);
        assert_eq!(dates.since_ms(&Waiting { since_ms: 3, ..waiting(5) }), 3);
        // Nobody waits who came before the fifth.
        dates.undated(9);
        dates.date(80, 5);
        assert_eq!((dates.from.len(), dates.since_ms(&waiting(6))), (2, 70));
    }

    #[test]
    fn one_that_comes_back_is_dated_by_the_next_reading() {
        let mut dates = Dates::default();
        dates.undated(1);
        dates.date(50, 1);
        let returned = Waiting { since_ms: dates.returns(7), returned: true, ..waiting(2) };
        assert_eq!((dates.since_ms(&returned), dates.since_ms(&waiting(2))), (UNDATED, 50));
        dates.date(90, 1);
        assert_eq!((dates.since_ms(&returned), dates.since_ms(&waiting(2))), (90, 50));
    }

    /// One waits for ever, and readings go on: what is kept is bounded, and nobody seems to have waited
    /// longer than it has.
    #[test]
    fn dates_are_merged_towards_the_later() {
        let mut dates = Dates::default();
        for arrival in 0..10 * MOST_DATES as u64 {
            dates.undated(arrival);
            dates.date(10 * arrival, 0);
            assert!(dates.from.len() <= MOST_DATES);
        }
        for arrival in 0..10 * MOST_DATES as u64 {
            assert!(dates.since_ms(&waiting(arrival)) >= 10 * arrival);
        }
        let last = 10 * MOST_DATES as u64 - 1;
        assert_eq!(dates.since_ms(&waiting(last)), 10 * last);
    }
}

//! The caller's clock, and what the router makes of it.

/// A reading further ahead of the last one than this, in milliseconds, is a jump and not time that has
/// passed: ten minutes.
pub const FORWARD_JUMP_MS: u64 = 600_000;
/// A reading further behind the last one than this is a jump and not one that comes late: ten seconds.
pub const BACKWARD_JUMP_MS: u64 = 10_000;

/// Clocks that are remembered.
const CLOCKS: usize = 8;

/// A clock of the caller's, and the router's time as it was last read.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Dial {
    told_ms: u64,
    now_ms: u64,
}

impl Dial {
    /// How far a reading is from the last one, if it can be of this clock.
    fn distance(&self, told_ms: u64) -> Option<u64> {
        let most = if told_ms < self.told_ms { BACKWARD_JUMP_MS } else { FORWARD_JUMP_MS };
        Some(told_ms.abs_diff(self.told_ms)).filter(|&distance| distance <= most)
    }
}

/// The router's time in milliseconds: it begins at the first reading and never runs backwards.
///
/// A reading that a clock which was read before cannot show is the beginning of another clock (a jump): no
/// time has passed by it, and it is counted. A few clocks are remembered, so that readings of several that
/// disagree may alternate, as those of a host and of its workers do.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Clock {
    /// The one that was read last first.
    dials: [Option<Dial>; CLOCKS],
    now_ms: u64,
    pub jumps: u64,
}

impl Clock {
    /// The time.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// What the caller's clock showed last; zero before it was read.
    pub(super) fn told_ms(&self) -> u64 {
        self.dials[0].map_or(0, |dial| dial.told_ms)
    }

    /// The clock after a reading.
    pub(super) fn read(self, told_ms: u64) -> Self {
        let mut clock = self;
        let known = (0..CLOCKS).filter_map(|at| Some((self.dials[at]?.distance(told_ms)?, at))).min();
        let dial = match known {
            Some((_, at)) => {
                clock.dials[..=at].rotate_right(1);
                clock.dials[0].map(|dial| match told_ms.checked_sub(dial.told_ms) {
                    Some(passed) => Dial { told_ms, now_ms: dial.now_ms.saturating_add(passed) },
                    None => dial,
                })
            }
            None => {
                clock.jumps += u64::from(self.dials[0].is_some());
                clock.dials.rotate_right(1);
                Some(Dial { told_ms, now_ms: self.now_ms })
            }
        };
        clock.dials[0] = dial;
        clock.now_ms = dial.map_or(0, |dial| dial.now_ms).max(self.now_ms);
        clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(readings: &[u64]) -> (u64, u64) {
        let clock = readings.iter().fold(Clock::default(), |clock, &told_ms| clock.read(told_ms));
        (clock.now_ms(), clock.jumps)
    }

    #[test]
    fn time_begins_at_the_first_reading_and_follows_the_clock() {
        assert_eq!(read(&[]), (0, 0));
        assert_eq!(read(&[1_700_000_000_000]), (0, 0));
        assert_eq!(read(&[5_000, 5_010, 5_010, 6_000]), (1_000, 0));
        // Late readings are the greatest so far.
        assert_eq!(read(&[5_000, 6_000, 5_990, 5_500, 6_001]), (1_001, 0));
        assert_eq!(read(&[0, FORWARD_JUMP_MS, 2 * FORWARD_JUMP_MS]), (2 * FORWARD_JUMP_MS, 0));
    }

    #[test]
    fn a_jump_passes_no_time_and_time_goes_on() {
        let hour = 3_600_000;
        assert_eq!(read(&[hour, hour + 50, 2 * hour, 2 * hour + 20]), (70, 1));
        assert_eq!(read(&[2 * hour, 2 * hour + 50, hour, hour + 20, hour + 40]), (90, 1));
        assert_eq!(read(&[hour, 2 * hour, hour + 30, u64::MAX, 0, 7]), (37, 3));
    }

    #[test]
    fn clocks_that_disagree_may_alternate() {
        // 15 seconds apart, a reading of each every 100 ms.
        let readings: Vec<u64> = (0..100).flat_map(|at| [100_000 + 100 * at, 85_000 + 100 * at]).collect();
        assert_eq!(read(&readings), (9_900, 1));
        // A host and five workers, each with a clock of its own.
        let hour = 3_600_000;
        let readings: Vec<u64> =
            (0..100).flat_map(|at| (1..7).map(move |host| host * hour + 100 * at)).collect();
        assert_eq!(read(&readings), (9_900, 5));
    }
}

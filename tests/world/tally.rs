//! What happened: a world that never comes to a case tests nothing of it.

use std::fmt;
use std::ops::AddAssign;

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// A case that is to be met.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind { $($kind),* }

        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$kind),*];
        }
    };
}

kinds! {
    // Requests.
    Arrived, Placed, PlacedWaits, Admitted, Finished, Expired, NeverFits, Draining, Removed, Lost, Silent,
    Forgot, Recovered, AbortedWaiting, AbortedRunning, Again, AgainAsAnother, GivenUp, Sent, Adopted, Moved,
    Preempted, Disowned, Pinned, Deadline, MaxTokens, Burst, Masked, Passed,
    // Ranks.
    Transfer, SharedPrefix, PrefillChunk, Held, TransferDone, PutOff, Resumed, Foreign, Restart, RestartSeen,
    Stuck, Shrunk, PinnedKv, TooLong, Joined, Announced, Drained, Gone, Configured, Closed,
    // The network.
    LostMessage, Repeated, Reordered, LostOnTheWay, StaleEnd, RepeatedEnd, Zombie, Late, Contradictory,
    OldWorker, NoKv, Aged, WorkerProgress, RequestProgress, ManyProgress, Lockstep,
    // Clocks and front ends.
    SmallJump, GreatJump, OtherClock, Undated, ShareChanged,
    // What is refused.
    Refused, BadBonus, TermsPanicked, PolicyPanicked, PolicyRefused, ClassifierPanicked, BadOffsets,
    // The calm.
    Exact, Calm,
}

/// How often each case was met.
#[derive(Clone)]
pub(crate) struct Seen([u64; Kind::ALL.len()]);

impl Default for Seen {
    fn default() -> Self {
        Self([0; Kind::ALL.len()])
    }
}

impl Seen {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// Cases that were never met.
    pub(crate) fn never(&self) -> Vec<Kind> {
        Kind::ALL.iter().copied().filter(|&kind| self.count(kind) == 0).collect()
    }
}

impl AddAssign<&Seen> for Seen {
    fn add_assign(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum += more);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &kind in Kind::ALL {
            write!(f, "{}{kind:?} {}", if kind as usize == 0 { "" } else { ", " }, self.count(kind))?;
        }
        Ok(())
    }
}

//! The ranks as they truly are: the simulated engine of `tests/router/engine/rank.rs`, and what it is for
//! several front ends.

use std::collections::VecDeque;

use balanceroute::RequestId;

use crate::rank::{BLOCK, Job, Rank, Snapshot};

/// Most front ends of a world.
pub(crate) const FRONTS: usize = 3;
/// Snapshots that a rank keeps to tell older figures.
const SNAPSHOTS: usize = 16;

/// Whose a request is: its id says so.
pub(crate) fn owner(id: RequestId) -> usize {
    (id.0 & 3) as usize
}

/// Numbers of dispatches that one life of a rank has received from a front end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    last: u64,
    /// Bit `i`: whether it has the one `i + 1` before the last.
    before: u64,
}

impl Received {
    pub(crate) fn has(&self, number: u64) -> bool {
        match self.last.checked_sub(number) {
            None => false,
            Some(0) => true,
            Some(back) => back > 64 || self.before >> (back - 1) & 1 == 1,
        }
    }

    pub(crate) fn receive(&mut self, number: u64) {
        if let Some(ahead) = number.checked_sub(self.last).filter(|&ahead| ahead > 0) {
            let with_last = if self.last > 0 { self.before << 1 | 1 } else { 0 };
            self.before = if ahead > 64 { 0 } else { with_last << (ahead - 1) };
            self.last = number;
        } else if let Some(back) = self.last.checked_sub(number + 1).filter(|&back| back < 64) {
            self.before |= 1 << back;
        }
    }

    /// The greatest number, and which of the 64 before it are missing.
    pub(crate) fn told(&self) -> (u64, u64) {
        let there = self.last.saturating_sub(1).min(64);
        let known = if there == 64 { u64::MAX } else { (1 << there) - 1 };
        (self.last, !self.before & known)
    }
}

/// One rank.
pub(crate) struct Side {
    pub(crate) rank: Rank,
    pub(crate) received: [Received; FRONTS],
    /// When the last dispatch of each front end arrives, where they come in order.
    pub(crate) arrives_ms: [u64; FRONTS],
    pub(crate) stuck_until_ms: u64,
    pub(crate) snapshots: VecDeque<Snapshot>,
    /// Foreign requests that came so far.
    pub(crate) foreign: u64,
}

impl Side {
    pub(crate) fn new(blocks: u64, slots: u64) -> Self {
        Self {
            rank: Rank::new(blocks, slots as usize),
            received: Default::default(),
            arrives_ms: [0; FRONTS],
            stuck_until_ms: 0,
            snapshots: VecDeque::new(),
            foreign: 0,
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        u64::from(self.rank.now.running + self.rank.now.waiting)
    }

    pub(crate) fn capacity_tokens(&self) -> u64 {
        self.rank.capacity_blocks * BLOCK
    }

    pub(crate) fn receive(&mut self, job: Job) {
        self.rank.receive(job);
        // Ours are numbered by front end.
        self.rank.received.clear();
    }

    /// One life of a request leaves at once.
    pub(crate) fn drop(&mut self, is_it: impl Fn(&Job) -> bool) -> Option<Job> {
        let at = self.rank.jobs.iter().position(is_it)?;
        let job = self.rank.jobs.remove(at);
        self.rank.now.went += 1;
        self.rank.count();
        Some(job)
    }

    pub(crate) fn restart(&mut self) {
        self.rank.restart();
        self.received = Default::default();
        self.snapshots.clear();
    }

    /// Keeps what is now, to be told later.
    pub(crate) fn keep_snapshot(&mut self) {
        if self.snapshots.len() == SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.snapshots.push_back(self.rank.now.clone());
    }
}

#[test]
fn received_numbers_are_told_as_reports_tell_them() {
    let mut received = Received::default();
    assert_eq!(received.told(), (0, 0));
    [1, 2, 5, 4].into_iter().for_each(|number| received.receive(number));
    // Of the four before 5 the third is missing: two before it stand 4 and 3.
    assert_eq!(received.told(), (5, 0b10));
    assert!(received.has(4) && !received.has(3) && received.has(1) && !received.has(6));
    received.receive(100);
    assert_eq!(received.told(), (100, u64::MAX));
    // Further back than can be told counts as there.
    assert!(received.has(35) && !received.has(36));
    received.receive(36);
    assert_eq!(received.told(), (100, u64::MAX >> 1));
}

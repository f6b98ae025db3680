//! What is on its way: messages are lost, come late, twice and in another order, as their salt decides.

use std::collections::BTreeMap;

use balanceroute::{RequestId, WorkerId, WorkerReport};

use crate::plan::Setting;
use crate::rank::{Job, Voice};
use crate::tally::{Kind, Seen};

/// Numbers that a salt stands for.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound; zero where that is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// When counts of requests were measured, and when KV tokens.
type Times = (u64, u64);

#[derive(Clone)]
pub(crate) enum Message {
    /// A request on its way to its rank.
    Dispatch { rank: usize, job: Job },
    /// What a rank says of one front end's requests.
    Said { rank: usize, front: usize, voices: Vec<Voice> },
    /// A report, of which life, and when it was measured.
    Report { rank: usize, front: usize, worker: WorkerId, report: WorkerReport, life: u64, at_ms: Times },
    /// A request is given up.
    Abort { rank: usize, id: RequestId, number: u64 },
}

/// Messages by when they arrive.
pub(crate) struct Network {
    lost: u64,
    twice: u64,
    delay_ms: u64,
    queue: BTreeMap<(u64, u64), Message>,
    next: u64,
}

impl Network {
    pub(crate) fn new(setting: &Setting) -> Self {
        let Setting { lost, twice, delay_ms, .. } = *setting;
        Self { lost, twice, delay_ms, queue: BTreeMap::new(), next: 0 }
    }

    /// Nothing is lost any more, and all comes at once.
    pub(crate) fn heal(&mut self) {
        (self.lost, self.twice, self.delay_ms) = (0, 0, 0);
    }

    /// Sends a message. When it comes, if it does.
    pub(crate) fn send(&mut self, now_ms: u64, message: Message, draw: &mut Draw, seen: &mut Seen) {
        if draw.below(1000) < self.lost {
            if matches!(message, Message::Dispatch { .. }) {
                seen.add(Kind::LostOnTheWay);
            }
            return seen.add(Kind::LostMessage);
        }
        if draw.below(1000) < self.twice {
            seen.add(Kind::Repeated);
            self.post(now_ms + draw.below(self.delay_ms + 1), message.clone());
        }
        // Most of them are swift.
        let late = if draw.one_in(2) { 0 } else { draw.below(self.delay_ms + 1) };
        if late > 0 && self.queue.last_key_value().is_some_and(|(&(last, _), _)| last > now_ms + late) {
            seen.add(Kind::Reordered);
        }
        self.post(now_ms + late, message);
    }

    /// Sends what arrives for certain, not before `from_ms`. When.
    pub(crate) fn send_in_order(
        &mut self,
        (now_ms, from_ms): (u64, u64),
        message: Message,
        draw: &mut Draw,
    ) -> u64 {
        let when = (now_ms + draw.below(self.delay_ms + 1)).max(from_ms);
        self.post(when, message);
        when
    }

    fn post(&mut self, when: u64, message: Message) {
        self.queue.insert((when, self.next), message);
        self.next += 1;
    }

    /// The next message that comes by then, and when it does.
    pub(crate) fn next_by(&mut self, until_ms: u64) -> Option<(u64, Message)> {
        let first = self.queue.first_entry().filter(|first| first.key().0 <= until_ms)?;
        Some((first.key().0, first.remove()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What is on its way for one request to a rank or back is dropped: both ends were closed.
    pub(crate) fn drop_dispatches(&mut self, id: RequestId) {
        self.queue.retain(|_, message| !matches!(message, Message::Dispatch { job, .. } if job.id == id));
    }
}

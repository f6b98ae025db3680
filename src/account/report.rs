//! What a worker says about itself, and what becomes of it.

use crate::names::names;

/// What a worker measured, and up to where it had heard of us when it did.
///
/// The state that a router counts with is *measured, plus every dispatch that the measurement has not seen*:
/// a snapshot never erases what was sent since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct WorkerReport {
    /// Number of the report, rising with each of this worker's; its step counter or its clock will do. It
    /// tells reordered and repeated reports. None: reports are taken to come in order.
    pub sequence: Option<u64>,
    /// Greatest [`Dispatch::number`](crate::Dispatch::number) that the worker had received, 0 for none. None
    /// when the worker cannot tell: a request is then in the measurement if it has shown itself by progress,
    /// and counted on top of it if not.
    pub last_dispatch: Option<u64>,
    /// Which of the 64 dispatches before `last_dispatch` had not been received: bit `i` for number
    /// `last_dispatch - 1 - i`. Zero where the way to the worker keeps order and loses nothing. Dispatches
    /// further back count as received.
    pub missing: u64,
    /// Requests that decode there.
    pub running: u32,
    /// Requests that it holds and that do not decode yet.
    pub waiting: u32,
    /// KV tokens in use. None where only requests are known: what was measured before goes on to be so, and
    /// who has come since, or left, and is none of ours is taken to be as long as ours are in the mean.
    pub kv_used_tokens: Option<u64>,
    /// KV tokens that fit; None leaves the capacity as it was.
    pub kv_capacity_tokens: Option<u64>,
    /// Which life of the worker this is, where it can tell: any other number than before says that it has
    /// started anew. Its start time will do; reports of the eight numbers before are ignored, unless one of
    /// them goes on.
    pub epoch: Option<u64>,
    /// How long ago it may have been measured, in milliseconds: what has begun since may be missing from it,
    /// and what has ended since may be in it. At most five seconds count.
    pub age_ms: u32,
    /// How long ago the KV tokens alone may have been measured, where they are older than the counts of
    /// requests.
    pub kv_age_ms: Option<u32>,
}

impl WorkerReport {
    /// A report of requests that decode and KV tokens in use, of a worker that cannot tell what it has
    /// received.
    #[must_use]
    pub fn new(running: u32, kv_used_tokens: u64) -> Self {
        Self { running, kv_used_tokens: Some(kv_used_tokens), ..Self::default() }
    }

    /// A report of a worker that tells requests only.
    #[must_use]
    pub fn requests(running: u32, waiting: u32) -> Self {
        Self { running, waiting, ..Self::default() }
    }

    /// Sets the requests that decode there.
    #[must_use]
    pub fn running(self, running: u32) -> Self {
        Self { running, ..self }
    }

    /// Sets the KV tokens in use.
    #[must_use]
    pub fn kv_used(self, kv_used_tokens: impl Into<Option<u64>>) -> Self {
        Self { kv_used_tokens: kv_used_tokens.into(), ..self }
    }

    /// Sets the requests that it holds and that do not decode yet.
    #[must_use]
    pub fn waiting(self, waiting: u32) -> Self {
        Self { waiting, ..self }
    }

    /// Sets the number of the report.
    #[must_use]
    pub fn sequence(self, sequence: impl Into<Option<u64>>) -> Self {
        Self { sequence: sequence.into(), ..self }
    }

    /// Sets the greatest dispatch number that it had received.
    #[must_use]
    pub fn last_dispatch(self, number: impl Into<Option<u64>>) -> Self {
        Self { last_dispatch: number.into(), ..self }
    }

    /// Sets which of the 64 dispatches before that one it lacks.
    #[must_use]
    pub fn missing(self, missing: u64) -> Self {
        Self { missing, ..self }
    }

    /// Sets the KV tokens that fit.
    #[must_use]
    pub fn capacity(self, kv_capacity_tokens: impl Into<Option<u64>>) -> Self {
        Self { kv_capacity_tokens: kv_capacity_tokens.into(), ..self }
    }

    /// Sets which life of the worker this is.
    #[must_use]
    pub fn epoch(self, epoch: impl Into<Option<u64>>) -> Self {
        Self { epoch: epoch.into(), ..self }
    }

    /// Sets how long ago it may have been measured.
    #[must_use]
    pub fn age(self, age_ms: u32) -> Self {
        Self { age_ms, ..self }
    }

    /// Sets how long ago the KV tokens alone may have been measured.
    #[must_use]
    pub fn kv_age(self, kv_age_ms: impl Into<Option<u32>>) -> Self {
        Self { kv_age_ms: kv_age_ms.into(), ..self }
    }

    /// Whether the worker had received a dispatch.
    #[must_use]
    pub fn has_seen(&self, number: u64) -> bool {
        match self.last_dispatch {
            Some(last) if number < last => {
                let back = last - 1 - number;
                back >= u64::from(u64::BITS) || self.missing >> back & 1 == 0
            }
            Some(last) => number == last,
            None => false,
        }
    }
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Verdict {
    /// It is the newest: the state is now what it measured plus what it has not seen.
    Taken,
    /// It carries the number of the newest one: ignored, whatever it says.
    Repeated,
    /// It is older than the newest one: its acknowledgement counts, its measurement does not.
    Late,
    /// It is newer by its number and has seen less than the one before, or is of the life before: ignored,
    /// unless that goes on.
    Contradictory,
    /// Its worker has started anew under the same id: it is the first of the new life, and taken. What ran
    /// there comes back with the next plan.
    Restarted,
}

names! {
    Verdict, "verdict":
    Taken = "taken",
    Repeated = "repeated",
    Late = "late",
    Contradictory = "contradictory",
    Restarted = "restarted",
}

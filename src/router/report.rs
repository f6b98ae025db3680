//! What a worker says about itself, and what becomes of it.

/// What a worker measured, and up to where it had heard of us when it did.
///
/// The state that a router counts with is *measured, plus every dispatch that the measurement has not seen*: a snapshot never erases
/// what was sent since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Number of the report, rising with each of this worker's; its step counter or its clock will do. It tells reordered and repeated reports.
    /// None: reports are taken to come in order.
    pub sequence: Option<u64>,
    /// Greatest [`super::Dispatch::number`] that the worker had received, 0 for none. None when the worker cannot tell: a request is then in the
    /// measurement if it has shown itself by progress, and counted on top of it if not.
    pub last_dispatch: Option<u64>,
    /// Which of the 64 dispatches before `last_dispatch` had not been received: bit `i` for number `last_dispatch - 1 - i`. Zero where the way
    /// to the worker keeps order and loses nothing. Dispatches further back count as received.
    pub missing: u64,
    /// Requests that decode there.
    pub running: u32,
    /// Requests that it holds and that do not decode yet.
    pub waiting: u32,
    /// KV tokens in use.
    pub kv_used_tokens: u64,
    /// KV tokens that fit; None leaves the capacity as it was.
    pub kv_capacity_tokens: Option<u64>,
}

impl WorkerReport {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It is the newest: the state is now what it measured plus what it has not seen.
    Taken,
    /// It carries the number of the newest one: ignored, whatever it says.
    Repeated,
    /// It is older than the newest one: its acknowledgement counts, its measurement does not.
    Late,
    /// It is newer by its number and has seen less than the one before: ignored. A worker that lost its memory must be removed and added.
    Contradictory,
}

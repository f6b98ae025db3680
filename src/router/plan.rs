//! What a step answers: who goes where under which dispatch number, and who comes back and why.

use std::fmt;

use crate::assignment::Balance;

/// One admission, numbered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dispatch {
    /// Request id.
    pub id: u64,
    /// Worker id.
    pub worker: u32,
    /// Number of this dispatch among those to this worker: 1, 2, 3 and so on without a gap. What a [`super::WorkerReport`] acknowledges.
    pub number: u64,
    /// Its length in tokens.
    pub prompt_tokens: u32,
    /// The score that won, in tokens; comparable within one decision of one policy.
    pub score_tokens: f64,
}

/// Why a request comes back to the caller, who may enqueue it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReturnReason {
    /// A report that came long enough after the dispatch has not seen it.
    LostDispatch,
    /// Nothing at all has shown the dispatch for the silence timeout.
    WorkerSilent,
    /// The worker had acknowledged it and has reported for the dispatch timeout that it holds no request.
    WorkerForgot,
    /// Its worker was removed: it ran there or might go nowhere else.
    WorkerRemoved,
    /// It waits for a worker that is draining and might go nowhere else.
    WorkerDraining,
    /// It and its headroom are longer than the KV cache of any worker that it may use.
    NeverFits,
    /// It has waited for the time that the configuration allows.
    Expired,
    /// The router has begun anew ([`super::Router::recover`]): it waited, or runs on.
    Recovered,
}

impl ReturnReason {
    /// Every reason, in order.
    pub const ALL: [Self; 8] = [
        Self::LostDispatch,
        Self::WorkerSilent,
        Self::WorkerForgot,
        Self::WorkerRemoved,
        Self::WorkerDraining,
        Self::NeverFits,
        Self::Expired,
        Self::Recovered,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LostDispatch => "lost_dispatch",
            Self::WorkerSilent => "worker_silent",
            Self::WorkerForgot => "worker_forgot",
            Self::WorkerRemoved => "worker_removed",
            Self::WorkerDraining => "worker_draining",
            Self::NeverFits => "never_fits",
            Self::Expired => "expired",
            Self::Recovered => "recovered",
        }
    }
}

impl fmt::Display for ReturnReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LostDispatch => "the worker reports without having seen it",
            Self::WorkerSilent => "the worker shows no sign of it",
            Self::WorkerForgot => "the worker holds no request any more",
            Self::WorkerRemoved => "its worker was removed",
            Self::WorkerDraining => "its worker is draining",
            Self::NeverFits => "longer than any KV cache that it may use",
            Self::Expired => "it has waited too long",
            Self::Recovered => "the router has begun anew",
        })
    }
}

/// A request that leaves the router without having finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Request id.
    pub id: u64,
    /// The worker that it ran on or was bound to, if any.
    pub worker: Option<u32>,
    /// Why.
    pub reason: ReturnReason,
    /// Tokens that it is known to have generated; zero when it never ran.
    pub generated_tokens: u32,
}

/// The answer of one step. The buffers are the router's and are used again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Who enters which worker, in the order of decision.
    pub admissions: Vec<Dispatch>,
    /// Who has left without having finished since the plan before: told once, here.
    pub returned: Vec<Returned>,
    /// How level the loads were before the admissions.
    pub before: Balance,
    /// And after them.
    pub after: Balance,
}

impl Plan {
    /// The admission of a request, if it was admitted.
    #[must_use]
    pub fn of(&self, id: u64) -> Option<&Dispatch> {
        self.admissions.iter().find(|dispatch| dispatch.id == id)
    }
}

/// What became of a request that was to be placed on arrival.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Placement {
    /// It enters this worker now.
    Placed(Dispatch),
    /// It waits for a step.
    Waits,
}

/// A request that has left: it ran from admission to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Request id.
    pub id: u64,
    /// Worker that it ran on.
    pub worker: u32,
    /// Tokens generated.
    pub generated_tokens: u32,
}

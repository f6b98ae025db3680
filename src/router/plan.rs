//! What a step answers: who goes where under which dispatch number, and who comes back and why.

use crate::assignment::Balance;
use crate::ids::{RequestId, WorkerId};
use crate::names::names;

/// One admission, numbered.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "the request is counted as running: hand it to its worker"]
pub struct Dispatch {
    /// Request id.
    pub id: RequestId,
    /// Worker id.
    pub worker: WorkerId,
    /// Number of this dispatch among those to this worker: 1, 2, 3 and so on without a gap. What a
    /// [`super::WorkerReport`] acknowledges.
    pub number: u64,
    /// Its length in tokens.
    pub prompt_tokens: u32,
    /// The score that won, in tokens; comparable within one decision of one policy.
    pub score_tokens: f64,
}

/// Why a request comes back to the caller, who may enqueue it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
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

names! {
    ReturnReason, "return reason":
    LostDispatch = "lost_dispatch",
    WorkerSilent = "worker_silent",
    WorkerForgot = "worker_forgot",
    WorkerRemoved = "worker_removed",
    WorkerDraining = "worker_draining",
    NeverFits = "never_fits",
    Expired = "expired",
    Recovered = "recovered",
}

impl ReturnReason {
    /// What it says, in words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::LostDispatch => "the worker reports without having seen it",
            Self::WorkerSilent => "the worker shows no sign of it",
            Self::WorkerForgot => "the worker holds no request any more",
            Self::WorkerRemoved => "its worker was removed",
            Self::WorkerDraining => "its worker is draining",
            Self::NeverFits => "longer than any KV cache that it may use",
            Self::Expired => "it has waited too long",
            Self::Recovered => "the router has begun anew",
        }
    }
}

/// A request that leaves the router without having finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "the request has left: nobody else tells of it"]
pub struct Returned {
    /// Request id.
    pub id: RequestId,
    /// The worker that it ran on or was bound to, if any.
    pub worker: Option<WorkerId>,
    /// Why.
    pub reason: ReturnReason,
    /// Tokens that it is known to have generated; zero when it never ran.
    pub generated_tokens: u32,
}

/// The answer of one step. The buffers are the router's and are used again.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "its requests are counted as running or have left"]
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
    pub fn of(&self, id: impl Into<RequestId>) -> Option<&Dispatch> {
        let id = id.into();
        self.admissions.iter().find(|dispatch| dispatch.id == id)
    }
}

/// What became of a request that was to be placed on arrival.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[must_use = "a request that is placed is counted as running: hand it to its worker"]
pub enum Placement {
    /// It enters this worker now.
    Placed(Dispatch),
    /// It waits for a step.
    Waits,
}

/// A request that has left: it ran from admission to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Finished {
    /// Request id.
    pub id: RequestId,
    /// Worker that it ran on.
    pub worker: WorkerId,
    /// Tokens generated.
    pub generated_tokens: u32,
}

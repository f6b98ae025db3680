//! Events for a subscriber of the crate `tracing` (feature `tracing`); nothing at all without it.
//!
//! The target is `balanceroute`. A step is a span `step` (debug) with the policy and how many wait; what it
//! decided is an event in it. Requests that come back, workers that change (info) and calls that are refused
//! (warn) are events. Where no subscriber listens an event costs one load and allocates nothing.

use crate::ids::WorkerId;
use crate::router::{Plan, Returned, RouterError};

#[cfg(feature = "tracing")]
const TARGET: &str = "balanceroute";

/// Tells of a call that was refused.
#[inline]
pub(super) fn refused<T>(call: &'static str, done: Result<T, RouterError>) -> Result<T, RouterError> {
    #[cfg(feature = "tracing")]
    if let Err(error) = &done {
        tracing::warn!(target: TARGET, call, %error, "refused");
    }
    let _ = call;
    done
}

/// Tells of a request that comes back.
#[inline]
pub(super) fn returned(returned: &Returned) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        target: TARGET,
        request = returned.id.get(),
        worker = returned.worker.map(WorkerId::get),
        reason = returned.reason.name(),
        generated_tokens = returned.generated_tokens,
        "returned"
    );
    let _ = returned;
}

/// Tells of a worker that joins, drains, opens, closes or leaves.
#[inline]
pub(super) fn worker(worker: WorkerId, change: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, worker = worker.get(), change, "worker");
    let _ = (worker, change);
}

/// A step under way.
pub(super) struct Step {
    #[cfg(feature = "tracing")]
    span: tracing::span::EnteredSpan,
}

impl Step {
    #[inline]
    pub(super) fn begin(policy: &'static str, waiting: usize, workers: usize) -> Self {
        let _ = (policy, waiting, workers);
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::debug_span!(
                target: TARGET,
                "step",
                policy,
                waiting,
                workers,
                admitted = tracing::field::Empty,
                returned = tracing::field::Empty,
            )
            .entered(),
        }
    }

    /// The step stands.
    #[inline]
    pub(super) fn decided(self, plan: &Plan) {
        #[cfg(feature = "tracing")]
        {
            let (admitted, returned) = (plan.admissions.len(), plan.returned.len());
            self.span.record("admitted", admitted).record("returned", returned);
            tracing::debug!(
                target: TARGET,
                admitted,
                returned,
                envelope_tokens = plan.after.envelope_tokens,
                imbalance_tokens = plan.after.imbalance_tokens,
                "decided"
            );
        }
        let _ = plan;
    }
}

//! Decisions that a device makes while the caller does something else.

use std::time::Duration;

use crate::assignment::Assignment;
use crate::backend::ascend::result::Counters;
pub use crate::backend::{Decided, Ticket};
use crate::batch::Batch;

/// A policy whose decisions a device may make, handed over by [`crate::Policy::device`].
pub trait Submissions {
    /// Hands what a device can do of a decision over to it, and returns: the decision then overlaps whatever
    /// the caller does. At most two batches are under way; what is not handed over is decided when it is
    /// collected.
    fn submit(&mut self, batch: &Batch<'_>) -> Ticket;

    /// Whether [`Submissions::collect`] would not wait.
    fn poll(&self, ticket: &Ticket) -> bool;

    /// Decides the batch that was submitted into `out`, as [`crate::Policy::decide`] does, with what the
    /// device has made of it. Waits for it at most `timeout`; the CPU decides where it is late, has failed or
    /// answers wrongly, and the answer is the one that the CPU alone gives.
    fn collect(
        &mut self,
        ticket: Ticket,
        batch: &Batch<'_>,
        timeout: Duration,
        out: &mut Assignment,
    ) -> Decided;

    /// Gives a submission up.
    fn discard(&mut self, ticket: Ticket);

    /// What the device has done; none where it is the caller's own launcher, which knows.
    fn counters(&self) -> Option<Counters>;
}

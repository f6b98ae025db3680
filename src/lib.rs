//! Which waiting request enters which free slot, for lock-step LLM decode workers.
//!
//! Data-parallel decode workers wait for each other at the end of every step, so a step lasts as long as its
//! most loaded worker. A request, once placed, stays, grows by a token a step and ends nobody knows when.
//! This crate takes the one decision that is left: which waiting request enters which free slot.
//!
//! A [`Router`] keeps the state across steps for an engine; a [`Batch`] and a [`Policy`] decide one step for
//! a caller that keeps its own.
//!
//! ```
//! use balanceroute::{Assignment, Batch, Pool, Request, Worker, policy};
//!
//! // Two workers with a free slot each (KV tokens, running requests, free slots), three requests that wait.
//! let workers = [Worker::new(40_000, 11, 1), Worker::new(43_000, 11, 1)];
//! let waiting = Pool::from_requests(&[
//!     Request::new(1, 900),
//!     Request::new(2, 3_100),
//!     Request::new(3, 5_200).waited(12),
//! ])?;
//! let batch = Batch::draft(&workers, &waiting).check()?;
//! let mut level = policy::build("level", &policy::Parameters::default())?;
//! let mut answer = Assignment::new();
//! level.decide(&batch, &mut answer);
//!
//! assert_eq!(answer.admitted.len(), 2);
//! for (id, reason) in answer.waiting(&batch) {
//!     println!("request {id} waits: {reason}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where things are: [`batch`] and [`pool`] hold one step's problem, [`score`] what a request is worth on a
//! worker, [`assignment`] the answer, [`mod@reference`] the definition of right, [`policy`] the rules by name
//! ([`rule`] says what one is), [`forecast`] predictions, [`account`] who runs where, [`router`] the state
//! across steps, [`assigner`] one step without it, [`backend`] who evaluates.
//!
//! Features: `serde` writes and reads configurations, reports, plans and metrics; `tracing` tells a
//! subscriber of steps, returned requests, workers and refused calls; `record` adds a flight recorder;
//! `ascend` adds the NPU backend.
//! The crate `balanceroute-sim` compares the rules on workloads and traces.

#[macro_use]
mod setters;

pub mod account;
pub mod assigner;
pub mod assignment;
pub mod backend;
pub mod batch;
#[cfg(feature = "record")]
mod bytes;
mod entities;
pub mod forecast;
pub mod ids;
pub mod names;
pub mod policy;
pub mod pool;
pub mod reference;
pub mod router;
pub mod rule;
pub mod score;

pub use assigner::{Assigner, Step};
pub use assignment::{Admission, Assignment, Balance, WaitReason};
pub use batch::{Batch, BatchError, Pairs, PredictedEnd, PredictedEnds, Request, Traffic, Worker};
pub use ids::{RequestId, WorkerId, WorkerIndex};
pub use names::UnknownName;
pub use policy::{Needs, Policy, PolicyError};
pub use pool::{Candidates, Pool, PoolSlot};
#[cfg(feature = "record")]
pub use router::record;
pub use router::{
    Dispatch, Finished, Mode, PairTerms, Placement, Plan, PreemptionCost, ReturnReason, Returned, Router,
    RouterConfig, RouterError, Share, Verdict, WorkerConfig, WorkerReport,
};

#[cfg(test)]
mod tests;

/// The README's example, so that it compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Which waiting request enters which free slot, for lock-step LLM decode workers.
//!
//! Data-parallel decode workers wait for each other at the end of every step, so a step lasts as long as its most loaded
//! worker. A request, once placed, stays, grows by a token a step and ends nobody knows when. This crate takes the one
//! decision that is left: which waiting request enters which free slot.

pub mod assignment;
pub mod backend;
pub mod batch;
pub mod forecast;
pub mod policy;
pub mod pool;
pub mod reference;
pub mod router;
pub mod score;

#[cfg(feature = "sim")]
pub mod sim;

pub use assignment::{Admission, Assignment, Balance, WaitReason};
pub use batch::{Batch, BatchError, Pairs, PredictedEnd, PredictedEnds, Request, Traffic, Worker};
pub use policy::{Needs, Policy, PolicyError};
pub use pool::{Pool, PoolSlot};
pub use router::{PairTerms, Router, RouterConfig, RouterError};

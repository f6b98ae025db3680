//! The state across steps: the waiting pool, what runs where, what traffic looks like, and one policy that decides.
//!
//! The caller tells it what happens (`enqueue`, `advance`, `finish`, `abort`) and asks `step` for the admissions.

use thiserror::Error;

use crate::assignment::{Assignment, WaitReason};
use crate::batch::{BatchError, Request};
use crate::forecast::TerminationClassifier;
use crate::policy::Policy;

/// The workers of a cluster and how a router looks ahead.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// Number of workers.
    pub workers: usize,
    /// Batch slots of each.
    pub slots: u32,
    /// KV tokens that fit on each, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Relative step cost per token of each worker; empty for 1 everywhere.
    pub weights: Vec<f32>,
    /// Steps of growth that an admission leaves free for each running request and for itself; only used with a KV bound.
    pub headroom_steps: u32,
    /// Steps between two predictions for the same running request.
    pub refresh_steps: u32,
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

/// What a router refuses.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RouterError {
    /// The batch would not be valid.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The request neither waits nor runs here.
    #[error("request {id} neither waits nor runs")]
    Unknown {
        /// Request id.
        id: u64,
    },
    /// The id is already running.
    #[error("request {id} already runs on worker {worker}")]
    Running {
        /// Request id.
        id: u64,
        /// Worker that it runs on.
        worker: u32,
    },
}

/// Decides step after step for one cluster.
pub struct Router {
    _policy: Box<dyn Policy>,
    _classifier: Option<Box<dyn TerminationClassifier>>,
}

impl Router {
    /// A router with empty workers.
    ///
    /// # Errors
    /// A configuration that no batch of it could pass.
    pub fn new(
        _config: RouterConfig,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RouterError> {
        Ok(Self { _policy: policy, _classifier: classifier })
    }

    /// Lets a request wait; a policy that binds on arrival binds it now.
    ///
    /// # Errors
    /// A request that is invalid or whose id waits or runs already; nothing changes then.
    pub fn enqueue(&mut self, _request: Request) -> Result<(), RouterError> {
        todo!()
    }

    /// Decides the step: admits and accounts for what it admitted.
    ///
    /// # Errors
    /// Loads past the limits of a batch; nothing is admitted then.
    pub fn step(&mut self) -> Result<&Assignment, RouterError> {
        todo!()
    }

    /// One lock-step decode step has run: every running request has a token more and everybody who waits has waited a step.
    pub fn advance(&mut self) {
        todo!()
    }

    /// A running request ended.
    ///
    /// # Errors
    /// The request does not run.
    pub fn finish(&mut self, _id: u64) -> Result<Finished, RouterError> {
        todo!()
    }

    /// A waiting or running request was given up: it leaves and teaches nothing.
    ///
    /// # Errors
    /// The request neither waits nor runs.
    pub fn abort(&mut self, _id: u64) -> Result<(), RouterError> {
        todo!()
    }

    /// Why each request still waits after the last step.
    pub fn waiting(&self) -> Vec<(u64, WaitReason)> {
        todo!()
    }
}

//! What a step's problem is made of: requests, workers, limits of both, and what can be wrong with them.
//!
//! The pool keeps requests before there is a batch, and a batch is built from the pool. Both use these types,
//! so the types belong to neither. [`crate::batch`] gives them to users.

pub(crate) mod error;
pub(crate) mod limits;
pub(crate) mod request;
pub(crate) mod worker;

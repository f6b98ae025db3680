//! What a batch and a pool are made of: requests and workers, how large they may be, and why one is refused.
//!
//! They lie below both, so that the pool need not know the batch that is made of it. Callers find them in
//! [`crate::batch`].

pub(crate) mod error;
pub(crate) mod limits;
pub(crate) mod request;
pub(crate) mod worker;

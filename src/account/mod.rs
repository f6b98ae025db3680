//! Who runs where, and what each worker holds: our own count, and on top of it what a report shows that we
//! cannot explain. Nothing is decided here: a router tells it what happened and reads what follows.
//!
//! # The count
//! A worker's *own* tokens are the lengths of the requests that this router sent there and that have not
//! ended, grown by what [`Router::progress`](crate::Router::progress) and its like told. Every dispatch to a
//! worker has a number; a request is *seen* once a report acknowledges its number or it has shown progress
//! itself.
//!
//! A report measures `kv_used` tokens and `running + waiting` requests. What of it our own seen requests do
//! not explain is *foreign*: other front ends, shared blocks, requests that we returned as lost and that run
//! all the same. It is kept until the next report. So
//!
//! ```text
//! counted = own + foreign = max(measured, own seen) + own not seen
//! ```
//!
//! and whatever the order and age of reports, the count is never below what our own requests hold: a report
//! adds, events take away. An old measurement therefore errs on the full side, by what ended between
//! measuring and hearing of it, until the next one.
//!
//! # Reports that are not in order
//! | a report | is |
//! |---|---|
//! | with a sequence above the last, or without one | taken |
//! | with the last sequence again | ignored, whatever it says ([`Verdict::Repeated`]) |
//! | with a lower sequence, or with none and having seen less | acknowledges only ([`Verdict::Late`]) |
//! | with a higher sequence and having seen less | ignored ([`Verdict::Contradictory`]) |
//! | of another epoch, or late for a second and rising all the while | of a new life ([`Verdict::Restarted`]) |
//! | having seen a dispatch that was never made | an error, ignored |
//! | of a worker that is not there | an error, ignored |
//! | using more than it says fits | taken: the worker is full |
//!
//! # Lost dispatches
//! Silence alone is no loss: statistics stop while the workers go on. A dispatch is lost when a report
//! *taken* at least [`RouterConfig::dispatch_timeout_ms`](crate::RouterConfig::dispatch_timeout_ms) after it
//! has still not seen it; or, where
//! [`RouterConfig::silence_timeout_ms`](crate::RouterConfig::silence_timeout_ms) is set, when nothing has
//! shown it for that long. A worker that acknowledged a request and then reports for the dispatch timeout
//! that it holds none has forgotten it. All three are returned once, with the reason; if such a request runs
//! all the same, reports show it as foreign.

mod config;
mod report;
mod running;
mod worker;

pub use self::config::{Share, WorkerConfig};
pub use self::report::{Verdict, WorkerReport};
pub(crate) use self::running::{Active, Slab, Stage};
pub(crate) use self::worker::Account;
pub use self::worker::ReportCounts;

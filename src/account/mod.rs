//! Who runs where, and what each worker holds: our own count, and on top of it what a report shows that we
//! cannot explain. Nothing is decided here: a router tells it what happened and reads what follows.
//!
//! # The count
//! A worker's *own* tokens are the lengths of the requests that this router sent there and that have not
//! ended, grown by what [`Router::progress`](crate::Router::progress) and its like told. Every dispatch to a
//! worker has a number. A request of ours is in one of five stages:
//!
//! | stage | is entered by | KV tokens | load | grows with its worker |
//! |---|---|---|---|---|
//! | *sent* | a dispatch | its length, on top of what was measured | its length | yes |
//! | *received* | a report that has seen its number | the same | the same | yes |
//! | *held* | [`Router::held`](crate::Router::held): transfer, chunked prefill | the same | the same | no |
//! | *decoding* | its tokens or its line's; [`transfer_done`], [`resumed`] | measured | measured | yes |
//! | *preempted* | [`preempted`]: its engine goes on with it later | none; room is kept | its length | no |
//!
//! [`transfer_done`]: crate::Router::transfer_done
//! [`resumed`]: crate::Router::resumed
//! [`preempted`]: crate::Router::preempted
//!
//! Who is held or preempted is load all the same: it will be read for longer than it is not.
//!
//! A report measures `kv_used` tokens. They are less than the lengths where requests share a prefix, and more
//! where somebody else's blocks are there: both are one signed *correction*, which each report renews:
//!
//! ```text
//! counted = max(0, decoding + correction) + received + held + sent
//! ```
//!
//! What was sent, received or held counts in full: its blocks may still be filled part by part. What the
//! measurement holds of ours is known between two bounds: at least those who decode, at most also those
//! received or held, those sent where the worker cannot tell what it has, and those ended within
//! [`WorkerReport::age_ms`]. So the correction lies between `measured - most` and `measured - least`; it
//! stays where it is between them, and moves to the nearer bound where it is not. Between two reports the
//! count is off by at most what has happened since: who ends takes its part of what is shared, by length.
//!
//! # Reports that are not in order
//! | a report | is |
//! |---|---|
//! | with a sequence above the last, or without one | taken |
//! | with the last sequence again | ignored, whatever it says ([`Verdict::Repeated`]) |
//! | with a lower sequence, or with none and having seen less | acknowledges only ([`Verdict::Late`]) |
//! | with a higher sequence and having seen less | ignored ([`Verdict::Contradictory`]) |
//! | of one of the last eight epochs before | ignored ([`Verdict::Contradictory`]) |
//! | of another epoch, or rising below the last for a second | a new life's ([`Verdict::Restarted`]) |
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
mod growth;
mod report;
mod reports;
mod room;
mod running;
mod tally;
mod worker;

pub use self::config::{PreemptionCost, Share, WorkerConfig};
pub(crate) use self::growth::Outlook;
pub use self::report::{Verdict, WorkerReport};
pub use self::reports::ReportCounts;
pub(crate) use self::room::Sight;
pub(crate) use self::running::{Active, NONE, Slab, Stage};
pub(crate) use self::worker::{Account, Rules};

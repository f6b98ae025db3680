//! A lock-step cluster to judge policies on: built-in workloads and public traces, one table, one JSON file.
//!
//! It uses the public interface of [`balanceroute`] only, and everything but `decide_us` is a function of the
//! arguments. The program `balanceroute` (`cargo sim` in the repository) is its command line.
//!
//! ```no_run
//! use balanceroute_sim::{Scenario, report};
//!
//! let scenario = Scenario { policies: vec!["level".into()], ..Scenario::default() };
//! let runs = balanceroute_sim::run(&scenario, false)?;
//! println!("{}", report::table(&runs));
//! # Ok::<(), balanceroute_sim::SimError>(())
//! ```
//!
//! | module | |
//! |---|---|
//! | [`workloads`] | requests of the built-in workloads |
//! | [`traces`] | requests of public traces, one file a format |
//! | [`cost`] | the step law |
//! | [`calibration`] | the step law of a machine, from what was measured on it |
//! | [`rules`] | every rule by name: those of the library, and neighbours that are simulated only |
//! | [`cluster`] | what is simulated, one run of one policy, and what it measures |
//! | [`recording`] | what flight recorders have written: replayed, explained, made traces |
//! | [`report`] | tables for people, JSON for programs |
//! | [`evaluation`] | comparisons of policies, of forecasts, and of the ways to compute |
//!
//! Each uses those above it only.

pub mod calibration;
pub mod cluster;
pub mod cost;
mod error;
pub mod evaluation;
mod job;
#[cfg(feature = "watch")]
pub mod live;
mod lru;
mod names;
pub mod recording;
pub mod report;
pub mod rules;
pub mod traces;
pub mod workloads;

pub use cluster::{Arrivals, PrefixModel, Run, Scenario, Source};
pub use cost::{CostError, Prompts, StepCost};
pub use error::SimError;
pub use evaluation::run;
pub use job::Job;

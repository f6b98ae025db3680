//! A lock-step cluster: what is simulated ([`Scenario`]), one run of it, and what that measures ([`Run`]).

mod binding;
mod capacity;
mod latency;
mod library;
mod lockstep;
pub mod metrics;
mod observer;
mod overtaking;
pub mod prefill;
pub mod prefix;
mod scenario;
mod source;
mod timetable;
mod waits;
mod window;

pub use capacity::Capacity;
pub(crate) use library::Library;
pub(crate) use lockstep::Cluster;
pub use metrics::Run;
pub(crate) use observer::{Loads, Observer, RequestSeen, StepSeen};
pub use prefix::PrefixModel;
pub use scenario::{DEFAULT_STEPS, DEFAULT_WARMUP, MAX_AFFINITY, Scenario, Unfit};
pub use source::{Arrivals, Source};
pub(crate) use window::Window;

pub use crate::cost::{Prompts, StepCost};

//! A deterministic world of faults, after the simulator of TigerBeetle: real routers among front ends, ranks
//! and a network that do whatever such do, and all of it, time too, from one seed.
//!
//! `README.md` beside this file says what may happen, what must hold, and the commands.

#[path = "../support/counting.rs"]
mod counting;
#[path = "../router/engine/rank.rs"]
#[allow(dead_code, reason = "front ends count for themselves what ranks have received")]
mod rank;

mod audit;
mod caller;
mod calls;
mod calm;
mod clocks;
#[cfg(feature = "ascend")]
mod device;
mod front;
mod invalid;
mod network;
mod plan;
mod ranks;
mod runs;
mod shrink;
mod soak;
mod source;
mod steps;
mod tally;
mod tells;
mod world;

#[cfg(feature = "ascend")]
#[path = "../device/support/mod.rs"]
mod support;

// What `rank` tallies.
use tally::{Kind, Seen};

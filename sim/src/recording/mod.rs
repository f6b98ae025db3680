//! What a flight recorder of the library has written, read: replayed call by call, explained step by step,
//! and made a trace and a cluster to simulate other rules on.

mod played;
mod traffic;

pub use played::{Difference, Explained, Played, Reach, Torn, play};
pub use traffic::{Recorded, recorded};

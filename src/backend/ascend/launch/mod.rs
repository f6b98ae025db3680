//! A batch's way to a device and back: through a launcher of the caller, which returns with the answer, or
//! through the queue of an open device.
//!
//! If a launch fails, if the answer is wrong, or if the device cannot hold the batch, the CPU decides and
//! [`Launch::note`] is told.
//!
//! A batch may be submitted first and collected later. Both calls run the host's code up to the device's
//! part, so the CPU can decide at any time, and an answer is checked against the batch that it is collected
//! for.
//!
//! | module | |
//! |---|---|
//! | `device` | a device as the engine asks it: whether to ask, tickets, who decided, counters |
//! | `one` | one batch: packed, launched, awaited, read |
//! | `many` | many batches in one launch |

mod device;
mod many;
mod one;

use std::error::Error;

pub(crate) use device::Device;

use super::blob::{AnswerError, Kept, Soc, Work};

/// Runs packed batches on a device and waits for them.
pub trait Launch: Send {
    /// The chip that batches are packed for.
    fn soc(&self) -> Soc;

    /// Runs entries of the kernel one after the other, each with its number of blocks, over one input and one
    /// output blob. Both are 64-byte aligned. The caller has zeroed the output where the kernel expects it.
    ///
    /// # Errors
    /// What went wrong; the CPU then decides the batch.
    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Is called with the outcome of each decision.
    fn note(&mut self, _outcome: Outcome<'_>) {}

    /// Names the device.
    fn describe(&self) -> String;
}

/// How a decision went.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// The device made the picks.
    Decided(Work),
    /// The device scored every column once, and the host made the picks.
    Looked,
    /// The host kept the batch.
    Kept(Kept),
    /// The launch failed.
    Failed(&'a (dyn Error + Send + Sync)),
    /// The answer failed a check.
    Refused(AnswerError),
}

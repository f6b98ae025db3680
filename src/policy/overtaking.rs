//! Bounded overtaking: what a request gains as others pass it, and how many may.
//!
//! Whoever came later and is admitted earlier has passed a request, if it has entered a worker that the
//! request may use. There is no clock in this, and no estimate of a mean wait: the bound means the same below
//! saturation and past it, for light tails and heavy ones, from the first minute on.

use crate::batch::Batch;
use crate::score::Age;

/// Passes for each worker after which a request is next, unless a caller says how many in all.
pub const PASSED_PER_WORKER: u32 = 128;
/// Passes for each worker at which the square of the age is worth a standard deviation of the lengths.
const SQUARE_PER_WORKER: f64 = 16.0;
/// And its linear part.
const LINEAR_PER_WORKER: f64 = 20.0;

/// `sd * ((p / 16 G)^2 + p / 20 G)` tokens for one whom `p` have passed.
pub(crate) fn age(batch: &Batch<'_>) -> Age {
    let workers = batch.workers().len() as f64;
    let spread = batch.traffic().sd_prompt_tokens as f64;
    let square = SQUARE_PER_WORKER * workers;
    Age { linear: spread / (LINEAR_PER_WORKER * workers), quadratic: spread / (square * square) }
}

/// By how many a request may be passed in this batch.
pub(crate) fn max_passed(batch: &Batch<'_>, asked: Option<u32>) -> u32 {
    asked.unwrap_or(PASSED_PER_WORKER * batch.workers().len() as u32)
}

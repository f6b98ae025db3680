//! Why measurements make no step law, as values.

use std::fmt::Write as _;

use thiserror::Error;

use super::fit::{Fitted, LEAST_EXPLAINED, LEAST_STEPS, MOST_CONDITION, MOST_OPEN};
use super::range::{LENGTHS_APART, RUNNING_APART};
use crate::traces::TraceError;

const MEASURE: &str = "give results of two rates or more (vllm bench serve --request-rate 2, 4, 8, 16), each \
                       with two mixes of lengths (--random-input-len 512 and 4096)";

/// Measurements that make no step law.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] Box<TraceError>),
    /// Neither a result nor a table.
    #[error(
        "{file}: measurements: expected the JSON of `vllm bench serve --save-result --save-detailed`, or a \
         CSV of steps with {expected}; found {found:?}"
    )]
    Unrecognised {
        /// Path as given.
        file: String,
        /// Columns of a table.
        expected: String,
        /// Its first line.
        found: String,
    },
    /// Something of a file that cannot be used.
    #[error("{file}: {what}: expected {expected}, found {found}")]
    Measurement {
        /// Path as given.
        file: String,
        /// The key or the line.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Too few steps.
    #[error(
        "steps: expected at least {LEAST_STEPS}, found {found}; a step needs somebody who decodes: send more \
         requests, several at a time"
    )]
    TooFew {
        /// Steps that there are.
        found: usize,
    },
    /// Load does not say how long a step takes.
    #[error(
        "step times: expected running requests, KV and prompt tokens to explain at least {:.0} % of their \
         variance, found {:.0} %; either steps take as long at any load (a small model waits for its host: \
         measure at higher rates), or something else holds them up (another program on the machine, a slow \
         client or network)",
        100.0 * LEAST_EXPLAINED,
        100.0 * explained
    )]
    Unexplained {
        /// Share of the variance that is explained.
        explained: f64,
    },
    /// One rate and one mix of lengths.
    #[error(
        "measurements: expected two rates or mixes of lengths (running requests {RUNNING_APART} times apart, \
         or KV tokens per request {LENGTHS_APART} times), found {:.1} to {:.1} running requests with {:.0} \
         to {:.0} tokens each; {MEASURE}",
        running.0, running.1, tokens_per_request.0, tokens_per_request.1
    )]
    OnePoint {
        /// Fewest and most running requests, of the parts of the runs.
        running: (f64, f64),
        /// Least and most KV tokens per running request.
        tokens_per_request: (f64, f64),
    },
    /// Many laws explain the steps as well.
    #[error(
        "step law: expected measurements in which running requests and KV tokens vary apart (condition \
         number at most {MOST_CONDITION}, at most {:.0} % of a step left open by the error of a term), found \
         {}; {MEASURE}",
        100.0 * MOST_OPEN,
        in_doubt(*condition, vaguest.as_deref(), *mean_ms)
    )]
    NotSeparable {
        /// Of the design, columns scaled to length one.
        condition: f64,
        /// The term whose error leaves most of a step open.
        vaguest: Option<Box<Fitted>>,
        /// Time of a step on average.
        mean_ms: f64,
    },
    /// More load, and less time.
    #[error(
        "{}: expected a positive value, found {:.4} +- {:.4} {}; the law does not hold on these \
         measurements: prompts over several steps need --max-batched-tokens, and speculative decoding, \
         cached prefixes and other programs on the machine have no term",
        term.term.words().0, term.value, term.error, term.term.words().1
    )]
    Negative {
        /// The term.
        term: Box<Fitted>,
    },
}

fn in_doubt(condition: f64, vaguest: Option<&Fitted>, mean_ms: f64) -> String {
    let mut text = format!("condition number {condition:.0}");
    if let Some(Fitted { term, value, error, open_ms, .. }) = vaguest {
        let ((name, unit), open) = (term.words(), 100.0 * open_ms / mean_ms);
        // Writing to a string cannot fail.
        let _ = write!(text, ", {name} {value:.4} +- {error:.4} {unit}, which leaves {open:.0} % open");
    }
    text
}

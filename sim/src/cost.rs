//! What a step costs: the step law.
//!
//! Workers run in lock-step, so the slowest holds up everybody. With `n` running requests, `L` KV tokens and
//! the weight `w` on each worker:
//!
//! ```text
//! step time = base + max over workers of w (a n + b L) + p max over workers of (tokens computed there)
//! ```
//!
//! The base is what a step takes whatever it does: launches, communication, reading the weights of the model.
//! `a` is what each running request adds to it (its row in every product with the weights, sampling), `b`
//! what is read of the KV cache, `p` what is computed of prompts ([`prefill`](crate::cluster::prefill) says
//! of which). The published law has no `a`: its base is that of a full batch, and charges slots that are
//! empty.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where prompts are computed elsewhere and nobody returns: a KV transfer of 70 KB per token at 35 GB/s.
pub const TRANSFER_US_PER_TOKEN: f64 = 2.0;
/// Prefill on the worker itself.
pub const PREFILL_US_PER_TOKEN: f64 = 10.0;

/// The step law.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepCost {
    /// Milliseconds of a step without load.
    pub base_ms: f64,
    /// Microseconds per running request (times weight) of the slowest worker.
    #[serde(default)]
    pub us_per_request: f64,
    /// Microseconds per KV token (times weight) of the slowest worker.
    pub us_per_token: f64,
    /// Microseconds per prompt token that is computed on a worker; without it 10 where the cache is bounded
    /// or prompts are computed there, else 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_us_per_token: Option<f64>,
    /// Where the prompt of a first admission is computed.
    #[serde(default)]
    pub prompts: Prompts,
}

/// Where the prompt of a first admission is computed. Those of preempted requests that return always are on
/// the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prompts {
    /// On other machines, before the request comes.
    #[default]
    Elsewhere,
    /// On the worker which it enters, in its first step.
    Worker,
}

impl Prompts {
    /// As it is written in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Worker => "worker",
        }
    }
}

impl FromStr for Prompts {
    type Err = CostError;

    fn from_str(text: &str) -> Result<Self, CostError> {
        let known = [Self::Elsewhere, Self::Worker].into_iter().find(|place| place.name() == text);
        known.ok_or_else(|| CostError::Place { found: text.to_owned() })
    }
}

/// A step law that cannot be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CostError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// Path as given.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// No TOML, or not the keys of a step law.
    #[error("{file}{place}: a step law: expected what `balanceroute calibrate --out` writes, found: {found}")]
    Layout {
        /// Path as given.
        file: String,
        /// `:` and the line, from 1, where it is known.
        place: String,
        /// What is wrong with it.
        found: String,
    },
    /// No place where prompts are computed.
    #[error("prompts: expected elsewhere or worker, found {found:?}")]
    Place {
        /// What was given.
        found: String,
    },
    /// A law that cannot be written.
    #[error(transparent)]
    Unwritable(#[from] toml::ser::Error),
    /// A term out of its range.
    #[error("{file}: {what}: expected {expected}, found {found}")]
    Term {
        /// Path as given.
        file: String,
        /// The key.
        what: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
}

/// The load of a worker in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerLoad {
    pub requests: f64,
    pub tokens: f64,
    pub weight: f64,
}

impl WorkerLoad {
    /// Of each worker its KV tokens, who runs there, and its weight.
    pub(crate) fn of_all<R>(
        tokens: &[u64],
        residents: &[Vec<R>],
        weights: &[f64],
    ) -> impl Iterator<Item = Self> + Clone {
        tokens.iter().zip(residents).zip(weights).map(|((&tokens, residents), &weight)| Self {
            requests: residents.len() as f64,
            tokens: tokens as f64,
            weight,
        })
    }
}

impl StepCost {
    /// The constants of the published study: `(0.6 ms * B + 35 ms) / 16` and 1.005e-7 s per token.
    #[must_use]
    pub fn published(slots: u32) -> Self {
        Self {
            base_ms: (0.6 * f64::from(slots) + 35.0) / 16.0,
            us_per_request: 0.0,
            us_per_token: 0.1005,
            prefill_us_per_token: None,
            prompts: Prompts::Elsewhere,
        }
    }

    /// Reads a law from TOML, as `calibrate` writes it.
    ///
    /// # Errors
    /// An unreadable file, other keys than those of this struct, or a term out of its range.
    pub fn read(path: &Path) -> Result<Self, CostError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, file),
            Err(source) => Err(CostError::Io { file, source }),
        }
    }

    fn parse(text: &str, file: String) -> Result<Self, CostError> {
        let law: Self = toml::from_str(text).map_err(|error| {
            let line = |at: usize| text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count() + 1;
            let place = error.span().map_or(String::new(), |span| format!(":{}", line(span.start)));
            let found = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            CostError::Layout { file: file.clone(), place, found }
        })?;
        match law.out_of_range() {
            Some((what, _, expected, found)) => Err(CostError::Term { file, what, expected, found }),
            None => Ok(law),
        }
    }

    /// The first term that cannot be: its key, its flag, what it should be, what it is.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, &'static str, &'static str, f64)> {
        const POSITIVE: &str = "a number above 0";
        const NOT_NEGATIVE: &str = "a number that is not negative";
        [
            ("base_ms", "step-base-ms", self.base_ms, false),
            ("us_per_request", "step-us-per-request", self.us_per_request, true),
            ("us_per_token", "step-us-per-token", self.us_per_token, true),
            ("prefill_us_per_token", "prefill-us-per-token", self.prefill_us_per_token.unwrap_or(0.0), true),
        ]
        .into_iter()
        .find(|&(.., term, zero)| !(term.is_finite() && (term > 0.0 || zero && term == 0.0)))
        .map(|(key, flag, term, zero)| (key, flag, if zero { NOT_NEGATIVE } else { POSITIVE }, term))
    }

    /// The law as TOML that [`StepCost::read`] reads.
    ///
    /// # Errors
    /// The writer gave up.
    pub fn to_toml(&self) -> Result<String, CostError> {
        Ok(toml::to_string(self)?)
    }

    /// What prompt tokens cost that are computed on a worker.
    pub(crate) fn prefill_us(&self, is_bounded: bool) -> f64 {
        let is_prefill = is_bounded || self.prompts == Prompts::Worker;
        let default = if is_prefill { PREFILL_US_PER_TOKEN } else { TRANSFER_US_PER_TOKEN };
        self.prefill_us_per_token.unwrap_or(default)
    }

    /// How long a step lasts in ms without prefill.
    pub(crate) fn step_ms(&self, workers: impl Iterator<Item = WorkerLoad>) -> f64 {
        let us = workers.map(|WorkerLoad { requests, tokens, weight }| {
            self.us_per_token * (tokens * weight) + self.us_per_request * (requests * weight)
        });
        self.base_ms + us.fold(0.0, f64::max) / 1e3
    }

    /// How long a step lasts in ms when this load is spread over workers so that all take the same time; the
    /// speed is the sum of `1 / w`.
    pub(crate) fn level_ms(&self, requests: f64, tokens: f64, speed: f64) -> f64 {
        self.base_ms + (self.us_per_token * (tokens / speed) + self.us_per_request * (requests / speed)) / 1e3
    }
}

/// In words.
impl fmt::Display for StepCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ms + {} us a running request + {} us a KV token of the slowest worker",
            self.base_ms, self.us_per_request, self.us_per_token
        )?;
        match (self.prompts, self.prefill_us_per_token) {
            (Prompts::Worker, Some(us)) => write!(f, " + {us} us a prompt token, computed there"),
            (Prompts::Worker, None) => write!(f, "; prompts are computed there"),
            (Prompts::Elsewhere, _) => write!(f, "; prompts are computed elsewhere"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        StepCost::parse(text, "gpu.toml".to_owned()).expect_err("it is refused").to_string()
    }

    #[test]
    fn the_slowest_worker_by_hand() {
        let law =
            StepCost { base_ms: 5.0, us_per_request: 100.0, us_per_token: 1.0, ..StepCost::published(1) };
        let load = |requests, tokens, weight| WorkerLoad { requests, tokens, weight };
        // 2.0 ms, 2.1 ms, and on the slow one 1.5 x 1.6 ms.
        let workers = [load(10.0, 1_000.0, 1.0), load(1.0, 2_000.0, 1.0), load(6.0, 1_000.0, 1.5)];
        approx::assert_abs_diff_eq!(law.step_ms(workers.into_iter()), 7.4, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(law.step_ms(std::iter::empty()), 5.0, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(law.level_ms(17.0, 4_000.0, 2.0), 5.0 + 5.7 / 2.0, epsilon = 1e-12);
    }

    #[test]
    fn a_law_comes_back_from_its_file() {
        let law = StepCost {
            base_ms: 5.125,
            us_per_request: 12.5,
            us_per_token: 0.0998,
            prefill_us_per_token: Some(8.75),
            prompts: Prompts::Worker,
        };
        let text = law.to_toml().expect("text");
        assert_eq!(StepCost::parse(&text, String::new()).expect("a law"), law);
        let text = StepCost::published(72).to_toml().expect("text");
        assert_eq!(StepCost::parse(&text, String::new()).expect("a law"), StepCost::published(72));
        let least = StepCost::parse("base_ms = 3.0\nus_per_token = 0.1", String::new()).expect("a law");
        assert_eq!((least.us_per_request, least.prompts), (0.0, Prompts::Elsewhere));
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_place() {
        let unknown = refused("base_ms = 3.0\nus_per_token = 0.1\nus_per_slot = 2.0\n");
        assert!(unknown.starts_with("gpu.toml:3: ") && unknown.contains("us_per_slot"), "{unknown}");
        assert!(refused("base_ms = 3.0\n").contains("us_per_token"));
        assert!(refused("base_ms = \"3\"\nus_per_token = 0.1\n").starts_with("gpu.toml:1: "));
        assert!(refused("base_ms = 3.0\nus_per_token = 0.1\nprompts = \"here\"\n").contains("elsewhere"));
        assert_eq!(
            refused("base_ms = 0.0\nus_per_token = 0.1\n"),
            "gpu.toml: base_ms: expected a number above 0, found 0"
        );
        assert!(refused("base_ms = nan\nus_per_token = 0.1\n").contains("found NaN"));
        assert!(refused("base_ms = 1.0\nus_per_token = -0.1\n").contains("us_per_token"));
        assert!(!refused("base_ms = {\n").contains('\n'));
    }
}

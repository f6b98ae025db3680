//! The step law of a machine out of what was measured on it: results of `vllm bench serve`, or a table of
//! steps.
//!
//! [`Measurements::read`] takes files, [`Measurements::calibrate`] fits the law
//! ([`StepCost`]) and says how sure it is, or why there is none.

mod bench;
mod error;
mod fit;
mod range;
mod table;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::{BufRead, Read as _};
use std::path::Path;

pub use error::CalibrateError;
use fit::quantile_of;
pub use fit::{Fitted, Term};
use serde::Serialize;

use crate::cost::{CostError, Prompts, StepCost};
use crate::traces::{self, TraceError};

/// As much of a file as tells what it is.
const BEGINNING_BYTES: u64 = 4096;

/// One step as it was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// Which run it is of; runs follow each other.
    pub run: u32,
    pub ms: f64,
    /// Requests that it generated a token of.
    pub running: f64,
    /// Of these, before that token.
    pub kv_tokens: f64,
    /// Prompt tokens that it computed.
    pub prefill_tokens: f64,
}

/// What one file has.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MeasuredFile {
    /// Path as given.
    pub file: String,
    /// Requests of load generators; none in tables of steps.
    pub requests: u64,
    /// Those of them that failed: what they did to the machine is not known.
    pub failed: u64,
    /// Steps.
    pub steps: usize,
    /// Running requests of a step, on average.
    pub running: f64,
    /// KV tokens of a step, on average.
    pub kv_tokens: f64,
    /// Prompt tokens computed in a step, on average.
    pub prefill_tokens: f64,
    /// Time of a step on average.
    pub mean_ms: f64,
    /// Median of the relative residuals: how far the law is off here.
    pub residual_median: f64,
    /// 95th percentile of their sizes.
    pub residual_p95: f64,
}

/// Steps of one or several files.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    files: Vec<MeasuredFile>,
    steps: Vec<Step>,
    runs: u32,
}

impl Measurements {
    /// Adds the steps of a file, also in gzip or zstd; - is standard input. With a budget of tokens a step,
    /// the engine's `max_num_batched_tokens`, prompts longer than that were computed over several steps.
    ///
    /// # Errors
    /// A file that cannot be read or is of no known layout, or what in it cannot be.
    pub fn read(&mut self, path: &Path, max_batched_tokens: Option<u32>) -> Result<(), CalibrateError> {
        let file = path.display().to_string();
        let reader = traces::open_text(path, &file).map_err(Box::new)?;
        self.read_text(reader, file, max_batched_tokens)
    }

    fn read_text(
        &mut self,
        mut reader: impl BufRead,
        file: String,
        max_batched_tokens: Option<u32>,
    ) -> Result<(), CalibrateError> {
        let io = |source| Box::new(TraceError::Io { file: file.clone(), source });
        let mut begins = Vec::new();
        reader.by_ref().take(BEGINNING_BYTES).read_to_end(&mut begins).map_err(io)?;
        let reader = begins.as_slice().chain(reader);
        let before = self.steps.len();
        let mut taken = bench::Taken::default();
        if begins.trim_ascii_start().starts_with(b"{") {
            taken = bench::read(reader, &file, max_batched_tokens, &mut self.runs, &mut self.steps)?;
        } else {
            let head = begins.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let head = String::from_utf8_lossy(head).into_owned();
            table::read(reader, &head, &file, self.runs, &mut self.steps)?;
            self.runs += 1;
        }
        let bench::Taken { requests, failed } = taken;
        let steps = self.steps.len() - before;
        self.files.push(MeasuredFile { file, requests, failed, steps, ..MeasuredFile::default() });
        Ok(())
    }

    /// The law that explains the steps best.
    ///
    /// # Errors
    /// Too few steps, load that does not explain their times, or load that varies too little to tell its
    /// terms apart.
    pub fn calibrate(mut self) -> Result<Calibration, CalibrateError> {
        if self.steps.len() < fit::LEAST_STEPS {
            return Err(CalibrateError::TooFew { found: self.steps.len() });
        }
        range::check(&self.files, &self.steps)?;
        let fit = fit::fit(&self.steps)?;
        let relative = |at: usize| self.steps[at].ms / fit.fitted_ms[at] - 1.0;
        let mut begin = 0;
        for file in &mut self.files {
            let of_file = begin..begin + file.steps;
            begin = of_file.end;
            if of_file.is_empty() {
                continue;
            }
            let mean = |of: fn(&Step) -> f64| {
                self.steps[of_file.clone()].iter().map(of).sum::<f64>() / file.steps as f64
            };
            (file.running, file.kv_tokens) = (mean(|step| step.running), mean(|step| step.kv_tokens));
            (file.prefill_tokens, file.mean_ms) = (mean(|step| step.prefill_tokens), mean(|step| step.ms));
            file.residual_median = quantile_of(of_file.clone().map(relative), 0.5);
            file.residual_p95 = quantile_of(of_file.map(|at| relative(at).abs()), 0.95);
        }
        let beyond = (0..self.steps.len()).filter(|&at| relative(at).abs() > 3.0 * fit.relative_sd).count();
        let value =
            |term: Term| fit.terms.iter().find(|fitted| fitted.term == term).map(|fitted| fitted.value);
        let prefill_us_per_token = value(Term::PromptToken).map(four_digits);
        let law = StepCost {
            base_ms: four_digits(value(Term::Base).unwrap_or(0.0)),
            us_per_request: four_digits(value(Term::Request).unwrap_or(0.0)),
            us_per_token: four_digits(value(Term::KvToken).unwrap_or(0.0)),
            prefill_us_per_token,
            prompts: if prefill_us_per_token.is_some() { Prompts::Worker } else { Prompts::Elsewhere },
        };
        Ok(Calibration {
            law,
            terms: fit.terms,
            condition: fit.condition,
            explained: fit.explained,
            residual_sd: fit.relative_sd,
            beyond_3_sd: beyond as f64 / self.steps.len() as f64,
            prompt_residual_p90: {
                let computes = |&at: &usize| self.steps[at].prefill_tokens > 0.0;
                quantile_of((0..self.steps.len()).filter(computes).map(|at| relative(at).abs()), 0.9)
            },
            mean_ms: self.steps.iter().map(|step| step.ms).sum::<f64>() / self.steps.len() as f64,
            files: self.files,
            steps: self.steps,
            fitted_ms: fit.fitted_ms,
        })
    }
}

/// What is written has no more digits than it is worth.
fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A step law, and how sure it is.
#[derive(Clone, Debug, Serialize)]
pub struct Calibration {
    /// The law, in four digits.
    pub law: StepCost,
    /// Its terms with their errors.
    pub terms: Vec<Fitted>,
    /// Condition number of the design, columns scaled to length one.
    pub condition: f64,
    /// Share of the variance of the step times that load explains.
    pub explained: f64,
    /// Standard deviation of the relative residuals, by their median.
    pub residual_sd: f64,
    /// Share of the steps that are further off than three of it.
    pub beyond_3_sd: f64,
    /// 90th percentile of the sizes of the relative residuals of steps that computed prompts.
    pub prompt_residual_p90: f64,
    /// Time of a step on average, in ms.
    pub mean_ms: f64,
    /// What it was measured on.
    pub files: Vec<MeasuredFile>,
    /// All steps, file by file.
    #[serde(skip)]
    pub(crate) steps: Vec<Step>,
    /// Their times by the law.
    #[serde(skip)]
    pub(crate) fitted_ms: Vec<f64>,
}

/// Size that one in ten of normal errors is above, in standard deviations.
const NORMAL_90: f64 = 1.645;
/// From how many times that on steps with prompts are worth a warning.
const FAR_OFF: f64 = 2.0;

impl Calibration {
    /// What to look at before the law is used.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let by_chance = NORMAL_90 * self.residual_sd;
        if self.prompt_residual_p90 > FAR_OFF * by_chance.max(0.01) {
            warnings.push(format!(
                "of the steps that compute prompts one in ten is off by more than {:.0} %, where noise makes \
                 {:.0} %: prompts over several steps need --max-batched-tokens, and neither cached prefixes \
                 nor the square of long prompts are in the term",
                100.0 * self.prompt_residual_p90,
                100.0 * by_chance
            ));
        }
        let (requests, failed) =
            self.files.iter().fold((0, 0), |(all, bad), file| (all + file.requests, bad + file.failed));
        if failed > 0 {
            warnings.push(format!(
                "{failed} of {requests} requests failed; what they did to the machine is not in the law"
            ));
        }
        warnings
    }

    /// The law as a file for `--cost`, with what it comes from.
    ///
    /// # Errors
    /// As [`StepCost::to_toml`].
    pub fn toml(&self) -> Result<String, CostError> {
        let mut text = format!(
            "# The step law of {} steps, by `balanceroute calibrate` {}; condition number {:.1}, residuals \
             {:.1} %.\n",
            self.steps.len(),
            env!("CARGO_PKG_VERSION"),
            self.condition,
            100.0 * self.residual_sd
        );
        for Fitted { term, value, error, .. } in &self.terms {
            let (name, unit) = term.words();
            let _ = writeln!(text, "# {name}: {value:.4} +- {error:.4} {unit}");
        }
        text.push_str(&self.law.to_toml()?);
        Ok(text)
    }
}

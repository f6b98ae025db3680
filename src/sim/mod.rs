//! A lock-step cluster to judge policies on: built-in workloads and public traces, one table, one JSON file.
//!
//! It uses the public interface of the crate only, and everything but `decide_us` is a function of the arguments.
//!
//! ```no_run
//! use balanceroute::sim::{self, Scenario};
//!
//! let scenario = Scenario { policies: vec!["level".into()], ..Scenario::default() };
//! let runs = sim::run(&scenario, false)?;
//! println!("{}", sim::report::table(&runs));
//! # Ok::<(), sim::SimError>(())
//! ```

mod cluster;
pub mod forecast;
pub mod json;
pub mod kernels;
pub mod metrics;
pub mod prefix;
pub mod report;
pub mod settings;
mod supply;
pub mod trace;
pub mod workload;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;

pub use metrics::{Run, StepCost};
pub use prefix::PrefixModel;
pub use supply::{Arrivals, Source};

use crate::batch::{MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS, MAX_SLOTS, MAX_WAITING, MAX_WEIGHT, MAX_WORKERS};
use crate::forecast::Noise;
use crate::policy::{self, Parameters, Policy, PolicyError};
use crate::router::RouterError;
use cluster::{Cluster, Library};
use workload::{Job, Workload};

/// What a simulation cannot do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SimError {
    /// No such workload.
    #[error("unknown workload {found:?}; expected one of {expected}")]
    UnknownWorkload {
        /// The name asked for.
        found: String,
        /// All names.
        expected: String,
    },
    /// An argument out of its range, or one that needs another.
    #[error("{name}: expected {expected}, found {found}")]
    Argument {
        /// The argument.
        name: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The KV capacity is below every request.
    #[error("no request of {source_name} fits the KV capacity of an empty worker")]
    NothingFits {
        /// Workload or trace.
        source_name: String,
    },
    /// Nothing runs and the policy admits nobody.
    #[error("{policy} admits nobody although nothing runs and {waiting} requests wait")]
    Halted {
        /// The policy.
        policy: String,
        /// Requests that wait.
        waiting: u64,
    },
    /// A trace that cannot be used.
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
    /// A policy that does not exist, or its parameters.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The router refused a call: loads past its limits.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// A result could not be written.
    #[error("{file}: {source}")]
    Write {
        /// Path as given.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Standard output could not be written to.
    #[error("standard output: {source}")]
    Stdout {
        /// Why; a reader that has gone is [`std::io::ErrorKind::BrokenPipe`].
        source: std::io::Error,
    },
}

/// A cluster, its traffic and the policies to compare.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Lengths of requests.
    pub source: Source,
    /// When they come.
    pub arrivals: Arrivals,
    /// Decode workers, `G`.
    pub workers: usize,
    /// Batch slots of each, `B`.
    pub slots: u32,
    /// Requests kept waiting when arrivals are closed.
    pub pool: usize,
    /// Names of the policies, in the order of the table.
    pub policies: Vec<String>,
    /// Seeds `0..seeds`, one run each per policy.
    pub seeds: u64,
    /// Measured steps; without a bound an open run goes on until everybody has finished.
    pub steps: Option<u64>,
    /// Steps before the measured ones.
    pub warmup: u64,
    /// KV tokens that fit on each worker, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Steps of growth that an admission leaves free where the cache is bounded.
    pub headroom_steps: u32,
    /// Relative step cost per token of each worker; empty for 1 everywhere.
    pub weights: Vec<f32>,
    /// What a step costs.
    pub cost: StepCost,
    /// Prefix affinity: a bonus of so many tokens per cached token, one run each. Empty leaves prefix caches and their costs out.
    pub affinity: Vec<f64>,
    /// Prefix caches, where affinity is asked for.
    pub prefix: PrefixModel,
    /// Starts a closed run empty instead of near its steady state.
    pub cold_start: bool,
    /// Runs at a time; 0 for one per processor. No result depends on it.
    pub threads: usize,
    /// Errors put on what oracle policies are told; the seed of each run replaces theirs.
    pub noise: Noise,
    /// Parameters of the policies; the seed of each run replaces theirs.
    pub parameters: Parameters,
}

/// Requests that no empty worker can hold to their end, out of a trace or a sample of a workload. As text, a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfit {
    /// Workload or trace.
    pub source_name: String,
    /// How many they are.
    pub requests: u64,
    /// Of how many.
    pub of: u64,
    /// Prompt and output of the longest.
    pub longest_tokens: u64,
    /// Room for growth that an admission leaves beside it.
    pub headroom_tokens: u64,
    /// KV tokens that fit on a worker, if bounded.
    pub kv_capacity_tokens: Option<u64>,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source_name, requests, of, longest_tokens: longest, headroom_tokens: headroom, .. } = self;
        write!(f, "{requests} of {of} requests of {source_name} can run on no worker and are refused: ")?;
        match self.kv_capacity_tokens {
            Some(capacity) if longest + headroom > capacity => write!(
                f,
                "the longest needs {} KV tokens ({longest} of prompt and output, {headroom} of headroom), a worker has {capacity}",
                longest + headroom
            ),
            _ => write!(
                f,
                "the longest has {longest} tokens of prompt and output, the limit is {MAX_PROMPT_TOKENS}"
            ),
        }
    }
}

/// Warm-up of a closed run in steps.
pub const DEFAULT_WARMUP: u64 = 3_000;
/// Measured steps of a closed run.
pub const DEFAULT_STEPS: u64 = 10_000;
/// Greatest affinity: keeps the longest prompt's bonus within its limit.
pub const MAX_AFFINITY: f64 = 64.0;

impl Default for Scenario {
    /// `paper-prod`, closed, 8 workers of 72 slots, 32 waiting, every policy, three seeds.
    fn default() -> Self {
        Self {
            source: Source::Workload(Workload::PaperProd),
            arrivals: Arrivals::Closed,
            workers: 8,
            slots: 72,
            pool: 32,
            policies: policy::NAMES.iter().map(|&name| name.to_owned()).collect(),
            seeds: 3,
            steps: Some(DEFAULT_STEPS),
            warmup: DEFAULT_WARMUP,
            kv_capacity_tokens: None,
            headroom_steps: 32,
            weights: Vec::new(),
            cost: StepCost::published(72),
            affinity: Vec::new(),
            prefix: PrefixModel::default(),
            cold_start: false,
            threads: 0,
            noise: Noise::NONE,
            parameters: Parameters::default(),
        }
    }
}

/// Tokens that a request has in the cache at its end.
fn whole_tokens(job: &Job) -> u64 {
    u64::from(job.prompt_tokens) + u64::from(job.output_tokens)
}

fn argument(name: &'static str, expected: impl Into<String>, found: impl ToString) -> SimError {
    SimError::Argument { name, expected: expected.into(), found: found.to_string() }
}

impl Scenario {
    /// Checks every range and every policy name.
    ///
    /// # Errors
    /// The first argument that cannot be used.
    pub fn check(&self) -> Result<(), SimError> {
        let within = |name, found: u64, low: u64, high: u64| {
            let expected = || format!("a whole number in {low}..={high}");
            if (low..=high).contains(&found) { Ok(()) } else { Err(argument(name, expected(), found)) }
        };
        within("workers", self.workers as u64, 1, MAX_WORKERS as u64)?;
        within("slots", u64::from(self.slots), 1, u64::from(MAX_SLOTS))?;
        within("pool", self.pool as u64, 1, MAX_WAITING as u64)?;
        within("seeds", self.seeds, 1, 1_000_000)?;
        within("headroom-steps", u64::from(self.headroom_steps), 0, 1 << 20)?;
        if let Some(steps) = self.steps {
            within("steps", steps, 1, 1 << 40)?;
        }
        if let Some(capacity) = self.kv_capacity_tokens {
            within("kv-capacity", capacity, 1, MAX_LOAD_TOKENS)?;
        }
        if !self.weights.is_empty() && self.weights.len() != self.workers {
            let expected = format!("one weight per worker ({})", self.workers);
            return Err(argument("weights", expected, self.weights.len()));
        }
        if let Some(weight) = self.weights.iter().find(|&&weight| !(weight > 0.0 && weight <= MAX_WEIGHT)) {
            return Err(argument("weights", format!("numbers above 0 and at most {MAX_WEIGHT}"), weight));
        }
        let positive = |name, found: f64, zero: bool| {
            let valid = found.is_finite() && (found > 0.0 || zero && found == 0.0);
            if valid { Ok(()) } else { Err(argument(name, "a positive number", found)) }
        };
        positive("step-base-ms", self.cost.base_ms, false)?;
        positive("step-us-per-token", self.cost.us_per_token, true)?;
        self.check_prefix()?;
        positive("noise-sigma", self.noise.length_sigma, true)?;
        for (name, share) in [
            ("noise-true-positive", self.noise.true_positive_rate),
            ("noise-false-positive", self.noise.false_positive_rate),
            ("noise-unpredicted", self.noise.unpredicted_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(argument(name, "a share in 0..=1", share));
            }
        }
        match (self.arrivals, &self.source) {
            (Arrivals::Closed, _) if self.steps.is_none() => {
                return Err(argument("steps", "a bound, since closed arrivals never end", "none"));
            }
            (Arrivals::Closed, _) => {}
            (Arrivals::Trace { rate_scale }, Source::Trace(_)) => positive("rate-scale", rate_scale, false)?,
            (Arrivals::Trace { .. }, Source::Workload(workload)) => {
                let expected = "a rate (--rate) for open arrivals of a workload without times";
                return Err(argument("arrivals", expected, workload.name()));
            }
            (Arrivals::Poisson { per_second, requests }, _) => {
                positive("rate", per_second, false)?;
                within("requests", requests, 1, 1 << 32)?;
            }
        }
        if self.policies.is_empty() {
            return Err(argument("policy", format!("some of {}", policy::NAMES.join(", ")), "none"));
        }
        for name in &self.policies {
            policy::build(name, &self.parameters)?;
        }
        Ok(())
    }

    fn check_prefix(&self) -> Result<(), SimError> {
        if self.affinity.is_empty() {
            return Ok(());
        }
        if let Some(weight) = self.affinity.iter().find(|weight| !(0.0..=MAX_AFFINITY).contains(*weight)) {
            return Err(argument("affinity", format!("numbers in 0..={MAX_AFFINITY}"), weight));
        }
        if self.prefix.cache_blocks == 0 {
            return Err(argument("prefix-cache-blocks", "at least 1", 0));
        }
        let prefill = self.prefix.prefill_us_per_token;
        if !prefill.is_finite() || prefill < 0.0 {
            return Err(argument("prefill-us-per-token", "a number of at least 0", prefill));
        }
        let has_prefixes = match &self.source {
            Source::Trace(trace) => trace.jobs.iter().any(|job| job.prefix_blocks.is_some()),
            Source::Workload(_) => false,
        };
        let expected = "a trace with prefix hashes (hash_ids)";
        if has_prefixes { Ok(()) } else { Err(argument("affinity", expected, self.source.name())) }
    }

    /// Whether an empty worker could hold the request to its end, with the headroom that the router keeps.
    fn fits(&self, job: &Job) -> bool {
        let whole = whole_tokens(job);
        // An evicted request comes back with the tokens it has generated; that must still be a valid prompt.
        whole <= u64::from(MAX_PROMPT_TOKENS)
            && self
                .kv_capacity_tokens
                .is_none_or(|capacity| whole + u64::from(self.headroom_steps) <= capacity)
    }

    /// The requests of the source that every run refuses, if there are any.
    #[must_use]
    pub fn unfit(&self) -> Option<Unfit> {
        let jobs = self.source.library();
        let unfit = || jobs.iter().filter(|job| !self.fits(job));
        Some(Unfit {
            longest_tokens: unfit().map(whole_tokens).max()?,
            requests: unfit().count() as u64,
            of: jobs.len() as u64,
            source_name: self.source.name().to_owned(),
            headroom_tokens: u64::from(self.headroom_steps),
            kv_capacity_tokens: self.kv_capacity_tokens,
        })
    }

    fn build(&self, name: &str, seed: u64) -> Result<Box<dyn Policy>, PolicyError> {
        policy::build(name, &self.parameters.clone().seed(seed))
    }
}

/// Runs every policy with every affinity under every seed; the runs come in that order, whatever the number of threads.
///
/// With `progress` a bar is drawn on stderr when that is a terminal.
///
/// # Errors
/// An argument out of range, or the first run (in that order) that could not go on.
pub fn run(scenario: &Scenario, progress: bool) -> Result<Vec<Run>, SimError> {
    scenario.check()?;
    let library = Library::new(scenario.source.library());
    let affinities: Vec<Option<f64>> = match scenario.affinity.as_slice() {
        [] => vec![None],
        weights => weights.iter().copied().map(Some).collect(),
    };
    let mut tasks = Vec::new();
    for name in &scenario.policies {
        for &affinity in &affinities {
            tasks.extend((0..scenario.seeds).map(|seed| (name.as_str(), affinity, seed)));
        }
    }
    let bar = if progress { progress_bar(tasks.len() as u64) } else { ProgressBar::hidden() };
    let one = |(name, affinity, seed): (&str, Option<f64>, u64)| {
        bar.set_message(name.to_owned());
        let run = Cluster::new(scenario, &library, scenario.build(name, seed)?, affinity, seed)?.run();
        bar.inc(1);
        run
    };
    let results = in_parallel(scenario.threads, &tasks, one);
    bar.finish_and_clear();
    results
}

fn progress_bar(length: u64) -> ProgressBar {
    // Hidden by indicatif itself when stderr is no terminal.
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Maps the tasks on several threads; results in the order of the tasks, or the first error in that order.
fn in_parallel<T: Copy + Sync, R: Send, E: Send>(
    threads: usize,
    tasks: &[T],
    one: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Vec<Mutex<Option<Result<R, E>>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(tasks.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&task) = tasks.get(at) else { break };
                    let result = one(task);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    *results[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    // Tasks are handed out in order, so everything before a failed one has a result.
    results
        .into_iter()
        .map_while(|result| result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
        .collect()
}

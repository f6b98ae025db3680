//! The command line: arguments in, tables and JSON out.
//!
//! `print!` and `eprintln!` panic where a stream is closed or full; [`print`] and [`tell`] do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use balanceroute::backend::BackendKind;
use balanceroute::forecast::Noise;
use balanceroute::policy::level::LevelParameters;
use balanceroute::policy::{self, Parameters};
use balanceroute::sim::json::JsonFile;
use balanceroute::sim::trace::{ReadOptions, Trace};
use balanceroute::sim::workload::Workload;
use balanceroute::sim::{self, Arrivals, PrefixModel, Scenario, SimError, Source, StepCost, report};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

const EXIT_STATUS: &str = "\
Exit status: 0 for success, also where a reader of standard output has gone; 1 where a result cannot be written or a kernel differs \
from the oracle; 2 for arguments and traces that cannot be used.";

/// Which waiting request enters which free slot of lock-step LLM decode workers: a simulator.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare policies on one workload or trace.
    Simulate(Box<SimulateArgs>),
    /// Compare policies on the whole table of workloads, traces and cluster sizes.
    Settings(SettingsArgs),
    /// How well the built-in forecasts know the ends of requests, offline.
    Forecast(ForecastArgs),
    /// What this machine has: every kernel tested against the oracle and measured.
    Kernels(KernelsArgs),
}

#[derive(Args)]
struct KernelsArgs {
    /// Random batches that each path is tested on.
    #[arg(long, default_value_t = 3_000, value_name = "N")]
    batches: u64,
    /// Write the report to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct ForecastArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Steps looked ahead, H.
    #[arg(long, default_value_t = 80, value_name = "H")]
    horizon: u32,
}

/// Errors put on what oracle policies are told.
#[derive(Args)]
struct NoiseArgs {
    /// Oracles: sigma of a lognormal factor on the remaining lengths that they tell.
    #[arg(long, default_value_t = 0.0, value_name = "S", allow_negative_numbers = true)]
    noise_sigma: f64,
    /// Oracles: share of ends within the horizon that they see.
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    noise_true_positive: f64,
    /// Oracles: share of running requests falsely said to end.
    #[arg(long, default_value_t = 0.0, value_name = "P", allow_negative_numbers = true)]
    noise_false_positive: f64,
    /// Oracles: share of requests that they never predict.
    #[arg(long, default_value_t = 0.0, value_name = "P", allow_negative_numbers = true)]
    noise_unpredicted: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum ArrivalKind {
    /// The pool is kept full.
    Closed,
    /// The trace's own times, or Poisson with --rate.
    Open,
}

#[derive(Args)]
struct SourceArgs {
    /// Built-in workload: paper-prod, paper-azure, lognormal, geometric, repeats, mooncake-like.
    #[arg(long, default_value = "paper-prod", value_name = "W")]
    workload: String,
    /// A trace instead: Azure CSV or Mooncake JSON lines, no line longer than 16 MiB; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "workload")]
    trace: Option<PathBuf>,
    /// Leave out rows of the trace with fewer output tokens.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "trace")]
    min_output: u32,
    /// Count malformed rows of the trace instead of refusing it.
    #[arg(long, requires = "trace")]
    skip_bad_rows: bool,
}

impl SourceArgs {
    fn read(&self) -> Result<Source, SimError> {
        let options = ReadOptions {
            skip_bad_rows: self.skip_bad_rows,
            min_output_tokens: self.min_output,
            ..ReadOptions::default()
        };
        Ok(match &self.trace {
            Some(path) if path == Path::new("-") => {
                Source::Trace(Arc::new(Trace::from_reader(io::stdin().lock(), "stdin", options)?))
            }
            Some(path) => Source::Trace(Arc::new(Trace::read(path, options)?)),
            None => Source::Workload(Workload::from_name(&self.workload)?),
        })
    }
}

#[derive(Args)]
struct SimulateArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Decode workers, G.
    #[arg(long, default_value_t = 8, value_name = "G")]
    workers: usize,
    /// Batch slots of each worker, B.
    #[arg(long, default_value_t = 72, value_name = "B")]
    slots: u32,
    /// Requests kept waiting when arrivals are closed.
    #[arg(long, default_value_t = 32, value_name = "P")]
    pool: usize,
    /// Whether the pool is kept full or requests come in their own time.
    #[arg(long, value_enum, default_value = "closed")]
    arrivals: ArrivalKind,
    /// Open arrivals: plays the trace this many times as fast [default: 1].
    #[arg(long, value_name = "X", conflicts_with = "rate", allow_negative_numbers = true)]
    rate_scale: Option<f64>,
    /// Open arrivals: Poisson with this many requests per second instead of the trace's times.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Requests of a Poisson run [default: the rows of the trace, 2000 for a workload].
    #[arg(long, value_name = "N", requires = "rate")]
    requests: Option<u64>,
    /// Policies, separated by commas [default: all].
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    policy: Vec<String>,
    /// Who evaluates: auto, cpu, ascend or reference; results do not depend on it.
    #[arg(long, default_value = "auto", value_name = "B")]
    backend: String,
    /// Seeds 0..N, one run each per policy.
    #[arg(long, default_value_t = 3, value_name = "N")]
    seeds: u64,
    /// Measured steps [default: closed 10000, open until everybody has finished].
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Steps before the measured ones [default: closed 3000, open 0].
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,
    /// Runs at a time [default: one per processor]; results do not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    threads: usize,
    /// KV tokens that fit on each worker [default: unbounded].
    #[arg(long, value_name = "T")]
    kv_capacity: Option<u64>,
    /// Steps of growth that an admission leaves free for each request where KV is bounded.
    #[arg(long, default_value_t = 32, value_name = "N")]
    headroom_steps: u32,
    /// Relative step cost per token of each worker, separated by commas [default: 1 everywhere].
    #[arg(long, value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Vec<f32>,
    /// Step time without load in ms [default: (0.6 B + 35) / 16].
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    step_base_ms: Option<f64>,
    /// Step time per token of the most loaded worker in microseconds.
    #[arg(long, default_value_t = 0.1005, value_name = "T", allow_negative_numbers = true)]
    step_us_per_token: f64,
    /// Prefix caches on, and a bonus of W tokens per token cached on a worker; one run for each W. Needs a trace with hash_ids.
    #[arg(long, value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    affinity: Vec<f64>,
    /// With --affinity: prefix blocks of 512 tokens that each worker keeps, least recently used out first.
    #[arg(long, default_value_t = PrefixModel::default().cache_blocks, value_name = "N")]
    prefix_cache_blocks: usize,
    /// With --affinity: time per prompt token that is not cached; the worker with most of them holds up the step.
    #[arg(long, default_value_t = PrefixModel::default().prefill_us_per_token, value_name = "T", allow_negative_numbers = true)]
    prefill_us_per_token: f64,
    /// Start a closed run with empty workers instead of near its steady state.
    #[arg(long)]
    cold_start: bool,
    /// `level` and its kin: requests that have waited for long reserve a worker.
    #[arg(long)]
    reserve: bool,
    #[command(flatten)]
    noise: NoiseArgs,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
    /// Write every run to this file, which takes its name when it is whole; - is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct SettingsArgs {
    /// Folder of the public traces [default: $BALANCEROUTE_TRACES or ../shared/traces; rows of missing traces are left out].
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Seeds 0..N, one run each per policy.
    #[arg(long, default_value_t = 5, value_name = "N")]
    seeds: u64,
    /// Policies, separated by commas; ratios are to the last.
    #[arg(long, default_value = "level,exact", value_name = "A,B", value_delimiter = ',')]
    policy: Vec<String>,
    /// Runs at a time [default: one per processor]; results do not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    threads: usize,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
    /// Write every run to this file, which takes its name when it is whole; - is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Requests of a Poisson run on a built-in workload.
const POISSON_REQUESTS: u64 = 2_000;

fn policies(asked: &[String]) -> Vec<String> {
    match asked {
        [] => policy::NAMES.iter().map(|&name| name.to_owned()).collect(),
        names => names.to_vec(),
    }
}

fn backend(name: &str) -> Result<BackendKind, SimError> {
    name.parse().map_err(|_| SimError::Argument {
        name: "backend",
        expected: BackendKind::ALL.map(BackendKind::name).join(", "),
        found: name.to_owned(),
    })
}

impl SimulateArgs {
    fn scenario(&self) -> Result<Scenario, SimError> {
        let source = self.source.read()?;
        let rows = match &source {
            Source::Trace(trace) => trace.jobs.len() as u64,
            _ => POISSON_REQUESTS,
        };
        let arrivals = match (self.arrivals, self.rate) {
            (ArrivalKind::Closed, None) if self.rate_scale.is_none() => Arrivals::Closed,
            (ArrivalKind::Closed, _) => {
                return Err(SimError::Argument {
                    name: "arrivals",
                    expected: "open where a rate is given".to_owned(),
                    found: "closed".to_owned(),
                });
            }
            (ArrivalKind::Open, None) => Arrivals::Trace { rate_scale: self.rate_scale.unwrap_or(1.0) },
            (ArrivalKind::Open, Some(per_second)) => {
                Arrivals::Poisson { per_second, requests: self.requests.unwrap_or(rows) }
            }
        };
        let closed = arrivals == Arrivals::Closed;
        let published = StepCost::published(self.slots);
        Ok(Scenario {
            source,
            arrivals,
            workers: self.workers,
            slots: self.slots,
            pool: self.pool,
            policies: policies(&self.policy),
            seeds: self.seeds,
            steps: self.steps.or(closed.then_some(sim::DEFAULT_STEPS)),
            warmup: self.warmup.unwrap_or(if closed { sim::DEFAULT_WARMUP } else { 0 }),
            kv_capacity_tokens: self.kv_capacity,
            headroom_steps: self.headroom_steps,
            weights: self.weights.clone(),
            cost: StepCost {
                base_ms: self.step_base_ms.unwrap_or(published.base_ms),
                us_per_token: self.step_us_per_token,
            },
            affinity: self.affinity.clone(),
            prefix: PrefixModel {
                cache_blocks: self.prefix_cache_blocks,
                prefill_us_per_token: self.prefill_us_per_token,
            },
            cold_start: self.cold_start,
            threads: self.threads,
            noise: Noise {
                length_sigma: self.noise.noise_sigma,
                true_positive_rate: self.noise.noise_true_positive,
                false_positive_rate: self.noise.noise_false_positive,
                unpredicted_share: self.noise.noise_unpredicted,
                seed: 0,
            },
            parameters: Parameters::new()
                .backend(backend(&self.backend)?)
                .level(LevelParameters::new().reserve(self.reserve)),
        })
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), SimError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| SimError::Stdout { source })
}

/// Writes a line to standard error. Where nobody can be told, nobody is.
fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn has_gone(error: &SimError) -> bool {
    matches!(error, SimError::Stdout { source } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// The text to standard output, the document to where it was asked for. A file takes its name last: whoever fails before leaves the
/// old one. A reader who has gone has seen enough of the text; the file is whole all the same.
fn hand_over(json: Option<JsonFile>, text: &str, document: &impl Serialize) -> Result<(), SimError> {
    let Some(json) = json else { return print(text) };
    let text = if json.is_stdout() { "" } else { text };
    let written = json.write(document)?;
    print(text).or_else(|error| if has_gone(&error) { Ok(()) } else { Err(error) })?;
    written.publish()
}

fn simulate(args: &SimulateArgs) -> Result<(), SimError> {
    let scenario = args.scenario()?;
    scenario.check()?;
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    if scenario.parameters.backend == BackendKind::Ascend {
        match sim::kernels::device(&scenario.parameters) {
            (true, name) => tell(format_args!("device: {name}")),
            (false, reason) => tell(format_args!("no device, the CPU decides: {reason}")),
        }
    }
    // Where nothing fits, a closed run has no request to keep its pool full with, and says so itself.
    let unfit = scenario.unfit();
    if let Some(unfit) =
        unfit.filter(|unfit| unfit.requests < unfit.of || scenario.arrivals != Arrivals::Closed)
    {
        tell(format_args!("warning: {unfit}"));
    }
    let runs = sim::run(&scenario, !args.quiet)?;
    let text =
        format!("{}\n{}\n{}", report::heading(&scenario), report::table(&runs), report::footing(&runs));
    hand_over(json, &text, &report::Document::new(&scenario, &runs))
}

fn settings(args: &SettingsArgs) -> Result<(), SimError> {
    let default = || std::env::var_os("BALANCEROUTE_TRACES").map_or("../shared/traces".into(), PathBuf::from);
    let traces = args.traces.clone().unwrap_or_else(default);
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let table = sim::settings::table(&sim::settings::Options {
        traces: &traces,
        skip_missing: args.traces.is_none(),
        policies: &args.policy,
        seeds: args.seeds,
        threads: args.threads,
        progress: !args.quiet,
    })?;
    hand_over(json, &table.text(), &table)
}

fn forecast(args: &ForecastArgs) -> Result<(), SimError> {
    let source = args.source.read()?;
    let rows = sim::forecast::table(&source, args.horizon)?;
    print(&sim::forecast::text(&source, args.horizon, &rows))
}

/// Tests and measures; whether every path agreed with the oracle.
fn kernels(args: &KernelsArgs) -> Result<bool, SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let report = sim::kernels::report(args.batches)?;
    hand_over(json, &report.text(), &report)?;
    Ok(report.agrees())
}

/// What clap has to say, on one line.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or(&text);
    let message = message.split("\n\nFor more information").next().unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run() -> Result<ExitCode, SimError> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print(&error.render().to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        // Help and version.
        Err(error) if !error.use_stderr() => {
            error
                .print()
                .and_then(|()| io::stdout().flush())
                .map_err(|source| SimError::Stdout { source })?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            tell(in_one_line(&error));
            return Ok(ExitCode::from(2));
        }
    };
    match cli.command {
        Command::Simulate(args) => simulate(&args)?,
        Command::Settings(args) => settings(&args)?,
        Command::Forecast(args) => forecast(&args)?,
        Command::Kernels(args) => {
            if !kernels(&args)? {
                tell("error: a path differs from the oracle");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        // As `head` closes a pipe: 0 and not the 141 of a program that the signal ends, so that `set -o pipefail` sees no failure
        // where nothing has failed.
        Err(error) if has_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            match error {
                SimError::Write { .. } | SimError::Stdout { .. } => ExitCode::FAILURE,
                _ => ExitCode::from(2),
            }
        }
    }
}

//! The arguments of the command line, and the scenario that they ask for.

use std::path::PathBuf;
use std::sync::Arc;

use balanceroute::backend::BackendKind;
use balanceroute::forecast::Noise;
use balanceroute::policy::{self, Parameters};
use balanceroute_sim::cluster::{DEFAULT_STEPS, DEFAULT_WARMUP};
use balanceroute_sim::workloads::Workload;
use balanceroute_sim::{Arrivals, PrefixModel, Scenario, SimError, Source, StepCost, rules};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::calibrate::CalibrateArgs;
use crate::choices;
use crate::cost::CostArgs;
use crate::evaluate::EvaluateArgs;
use crate::examples;
use crate::html::ReportArgs;
use crate::manual::{CompletionsArgs, ManArgs};
use crate::optimum::OptimumArgs;
use crate::output::OutputArgs;
use crate::recommend::RecommendArgs;
use crate::replay::ReplayArgs;
use crate::sweep::SweepArgs;
use crate::traces::{ReadArgs, TraceArgs};
#[cfg(feature = "watch")]
use crate::watch::WatchArgs;

const EXIT_STATUS: &str = "\
Exit status: 0 for success, also where a reader of standard output has gone; 1 where a result \
cannot be written, a kernel differs from the oracle or a recording from its replay; 2 for \
arguments, traces and folders that cannot be used; 3 for a gate of `evaluate` that does not hold; 130 where \
an evaluation was interrupted.";

/// Which waiting request enters which free slot of lock-step LLM decode workers: a simulator.
#[derive(Parser)]
#[command(name = "balanceroute", version, arg_required_else_help = true, after_help = EXIT_STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Compare policies on one workload or trace.
    #[command(after_help = examples::SIMULATE)]
    Simulate(Box<SimulateArgs>),
    /// A verdict on rules beside what you run today, on your traces, from their own rate to past saturation.
    #[command(after_help = examples::EVALUATE)]
    Evaluate(Box<EvaluateArgs>),
    /// The smallest cluster, and the rule, that keeps latency limits at the rate of a trace.
    #[command(after_help = examples::RECOMMEND)]
    Recommend(Box<RecommendArgs>),
    /// Compare policies over values of any flags of `simulate`.
    #[command(after_help = examples::SWEEP)]
    Sweep(Box<SweepArgs>),
    /// What `evaluate` has written as one HTML page, the verdict first; two of them side by side.
    #[command(after_help = examples::REPORT)]
    Report(ReportArgs),
    /// Compare policies on the whole table of workloads, traces and cluster sizes.
    #[command(after_help = examples::SETTINGS)]
    Settings(SettingsArgs),
    /// How well the built-in forecasts know the ends of requests, offline.
    #[command(after_help = examples::FORECAST)]
    Forecast(ForecastArgs),
    /// What this machine has: every kernel tested against the oracle and measured.
    #[command(after_help = examples::KERNELS)]
    Kernels(KernelsArgs),
    /// What a trace is like, and traces in other layouts; or the trace of a recording.
    #[command(after_help = examples::TRACE)]
    Trace(TraceArgs),
    /// A recording of a router, call by call: whether it answers as it did, why, and what others would do.
    #[command(after_help = examples::REPLAY)]
    Replay(ReplayArgs),
    /// The step law of a machine (base, per request, per KV token, prefill) from measurements of it.
    Calibrate(CalibrateArgs),
    /// How far policies are from optimal: from the best decision of each step, and from the bound of a run.
    #[command(after_help = examples::OPTIMUM)]
    Optimum(Box<OptimumArgs>),
    /// A cluster live in the terminal: a simulation as it runs, or a router by its metrics page.
    #[cfg(feature = "watch")]
    #[command(after_help = examples::WATCH)]
    Watch(Box<WatchArgs>),
    /// Every rule: who uses it, when it decides, what it must be told.
    #[command(after_help = examples::POLICIES)]
    Policies(PoliciesArgs),
    /// Draw the loads of all workers over time, one panel a policy, as SVG.
    #[command(after_help = examples::PICTURE)]
    Picture(PictureArgs),
    /// A script by which a shell completes commands, flags and names.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// The manual in the format of man.
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
}

#[derive(Args)]
pub(crate) struct PoliciesArgs {
    /// Write the listing to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct PictureArgs {
    /// The file of the picture.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Policies, separated by commas; at most four.
    #[arg(long, default_value = "vllm-0.33,level", value_name = "A,B", value_delimiter = ',')]
    #[arg(value_parser = choices::policies())]
    policy: Vec<String>,
    /// Built-in workload.
    #[arg(long, default_value = "paper-prod", value_name = "W", value_parser = choices::workloads())]
    workload: String,
    /// Decode workers, G.
    #[arg(long, default_value_t = 8, value_name = "G")]
    workers: usize,
    /// Steps drawn.
    #[arg(long, default_value_t = 400, value_name = "N")]
    steps: u64,
    /// Steps before them.
    #[arg(long, default_value_t = DEFAULT_WARMUP, value_name = "N")]
    warmup: u64,
    /// Seed of lengths and arrivals.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
}

impl PictureArgs {
    pub(crate) fn scenario(&self) -> Result<Scenario, SimError> {
        Ok(Scenario {
            source: Source::Workload(Workload::from_name(&self.workload)?),
            workers: self.workers,
            policies: policies(&self.policy),
            steps: Some(self.steps),
            warmup: self.warmup,
            ..Scenario::default()
        })
    }
}

#[derive(Args)]
pub(crate) struct KernelsArgs {
    /// Random batches that each path is tested on.
    #[arg(long, default_value_t = 3_000, value_name = "N")]
    pub(crate) batches: u64,
    /// Write the report to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ForecastArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Steps looked ahead, H.
    #[arg(long, default_value_t = 80, value_name = "H")]
    pub(crate) horizon: u32,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
pub(crate) struct SourceArgs {
    /// Built-in workload.
    #[arg(long, default_value = "paper-prod", value_name = "W", value_parser = choices::workloads())]
    workload: String,
    /// A trace instead, known by its columns (docs/evaluation.md has the layouts), also in gzip or zstd; no
    /// line longer than 16 MiB; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "workload")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
}

impl SourceArgs {
    pub(crate) fn read(&self) -> Result<Source, SimError> {
        if let (None, Some(name)) = (&self.trace, self.read.given()) {
            let expected = "--trace, which it says how to read".to_owned();
            return Err(SimError::Argument {
                name,
                expected,
                found: format!("--workload {}", self.workload),
            });
        }
        Ok(match &self.trace {
            Some(path) => Source::Trace(Arc::new(self.read.trace(path)?)),
            None => Source::Workload(Workload::from_name(&self.workload)?),
        })
    }
}

/// What a worker holds, what a step costs, and what rules are given beside their names.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// KV tokens that fit on each worker [default: unbounded].
    #[arg(long, value_name = "T")]
    kv_capacity: Option<u64>,
    /// Steps of growth that an admission leaves free for each request where KV is bounded [default: room as
    /// it is learned from how requests end].
    #[arg(long, value_name = "N")]
    headroom_steps: Option<u32>,
    /// Deadline of every request in waited steps: who has waited longer goes first [default: none].
    #[arg(long, value_name = "N")]
    deadline_steps: Option<u32>,
    /// `level`, `exact` and their kin: who has been passed by so many is next [default: 128 a worker].
    #[arg(long, value_name = "N")]
    max_passed: Option<u32>,
    /// Who evaluates; results do not depend on it.
    #[arg(long, default_value = "auto", value_name = "B", value_parser = choices::backends())]
    backend: String,
    #[command(flatten)]
    cost: CostArgs,
}

impl ModelArgs {
    /// Its flags.
    pub(crate) const NAMES: [&str; 11] = [
        "kv-capacity",
        "headroom-steps",
        "deadline-steps",
        "cost",
        "step-base-ms",
        "step-us-per-request",
        "step-us-per-token",
        "prefill-us-per-token",
        "prompts",
        "max-passed",
        "backend",
    ];

    /// What a step costs on workers of so many slots.
    pub(crate) fn cost(&self, slots: u32) -> Result<StepCost, SimError> {
        self.cost.law(slots)
    }

    /// Whether a term of the step law is given.
    pub(crate) fn names_cost(&self) -> bool {
        self.cost.is_given()
    }

    /// The scenario with what the flags say.
    pub(crate) fn apply(&self, scenario: Scenario) -> Result<Scenario, SimError> {
        let parameters = Parameters::new().backend(backend(&self.backend)?).max_passed(self.max_passed);
        Ok(Scenario {
            kv_capacity_tokens: self.kv_capacity,
            headroom_steps: self.headroom_steps,
            deadline_steps: self.deadline_steps,
            cost: self.cost(scenario.slots)?,
            parameters,
            ..scenario
        })
    }
}

/// A cluster, its traffic and the policies to compare.
#[derive(Args)]
pub(crate) struct ScenarioArgs {
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
    /// Policies, separated by commas (`balanceroute policies` has them) [default: all of the library].
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = choices::policies())]
    policy: Vec<String>,
    /// Seeds, one run each per policy.
    #[arg(long, default_value_t = 3, value_name = "N")]
    seeds: u64,
    /// The first seed; the others follow it.
    #[arg(long, visible_alias = "seed", default_value_t = 0, value_name = "N")]
    first_seed: u64,
    /// Open arrivals of a trace: cut it into so many windows, one run each; the table has their means, and
    /// below it stand the differences to the last policy, window by window.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    windows: u32,
    /// Measured steps [default: closed 10000, open until everybody has finished].
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Steps before the measured ones [default: closed 3000, open 0].
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,
    /// Runs at a time [default: one per processor]; results do not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    threads: usize,
    /// Relative step cost of each worker, per KV token and running request, separated by commas [default: 1
    /// everywhere].
    #[arg(long, value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Vec<f32>,
    /// Prefix caches on, and a bonus of W tokens per token cached on a worker; one run for each W. Needs a
    /// trace with hash_ids.
    #[arg(long, value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    affinity: Vec<f64>,
    /// With --affinity: prefix blocks of 512 tokens that each worker keeps, least recently used out first.
    #[arg(long, default_value_t = PrefixModel::default().cache_blocks, value_name = "N")]
    prefix_cache_blocks: usize,
    /// Statistics so many ms late: rules that bind on arrival see ranks as they were then, all others hear of
    /// an end so much later.
    #[arg(long, default_value_t = 0.0, value_name = "MS", allow_negative_numbers = true)]
    stats_late_ms: f64,
    /// Start a closed run with empty workers instead of near its steady state.
    #[arg(long)]
    cold_start: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    noise: NoiseArgs,
}

#[derive(Args)]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub(crate) of: ScenarioArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// No progress bar.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Write every run to this file, which takes its name when it is whole; - is standard output, in place of
    /// the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct SettingsArgs {
    /// Folder of the public traces [default: $BALANCEROUTE_TRACES or ../shared/traces; rows of missing traces
    /// are left out].
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,
    /// Rows with one of these in their `group: name`, separated by commas [default: all].
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// The rows and the commands that play them, without running any.
    #[arg(long)]
    pub(crate) list: bool,
    /// Seeds, one run each per policy [default: 5, 8 for cold starts]; open arrivals have one.
    #[arg(long, value_name = "N")]
    pub(crate) seeds: Option<u64>,
    /// The first seed; the others follow it.
    #[arg(long, visible_alias = "seed", default_value_t = 0, value_name = "N")]
    pub(crate) first_seed: u64,
    /// Policies, separated by commas; ratios are to the last.
    #[arg(long, default_value = "level,exact", value_name = "A,B", value_delimiter = ',')]
    #[arg(value_parser = choices::policies())]
    pub(crate) policy: Vec<String>,
    /// Runs at a time [default: one per processor]; results do not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    pub(crate) threads: usize,
    /// No progress bar.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Write every run to this file, which takes its name when it is whole; - is standard output, in place of
    /// the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Add a line of CSV per row and policy to this file after each row: the table in short, to compare with.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// Requests of a Poisson run on a built-in workload.
const POISSON_REQUESTS: u64 = 2_000;

/// Policies by their own names; one that is not known is refused when the scenario is checked.
pub(crate) fn policies(asked: &[String]) -> Vec<String> {
    match asked {
        [] => policy::NAMES.iter().map(|&name| name.to_owned()).collect(),
        names => {
            let own = |name: &String| rules::find(name).map_or(name.as_str(), |rule| rule.name).to_owned();
            names.iter().map(own).collect()
        }
    }
}

fn backend(name: &str) -> Result<BackendKind, SimError> {
    name.parse().map_err(|_| SimError::Argument {
        name: "backend",
        expected: BackendKind::ALL.map(BackendKind::name).join(", "),
        found: name.to_owned(),
    })
}

impl ScenarioArgs {
    /// The policies that are named.
    #[cfg(feature = "watch")]
    pub(crate) fn policy(&self) -> &[String] {
        &self.policy
    }

    /// The measured steps that are asked for.
    #[cfg(feature = "watch")]
    pub(crate) fn steps(&self) -> Option<u64> {
        self.steps
    }

    pub(crate) fn scenario(&self) -> Result<Scenario, SimError> {
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
        self.model.apply(Scenario {
            source,
            arrivals,
            workers: self.workers,
            slots: self.slots,
            pool: self.pool,
            policies: policies(&self.policy),
            seeds: self.seeds,
            first_seed: self.first_seed,
            windows: self.windows,
            steps: self.steps.or(closed.then_some(DEFAULT_STEPS)),
            warmup: self.warmup.unwrap_or(if closed { DEFAULT_WARMUP } else { 0 }),
            weights: self.weights.clone(),
            affinity: self.affinity.clone(),
            prefix: PrefixModel { cache_blocks: self.prefix_cache_blocks },
            cold_start: self.cold_start,
            stats_late_ms: self.stats_late_ms,
            threads: self.threads,
            noise: Noise {
                length_sigma: self.noise.noise_sigma,
                true_positive_rate: self.noise.noise_true_positive,
                false_positive_rate: self.noise.noise_false_positive,
                unpredicted_share: self.noise.noise_unpredicted,
                seed: 0,
            },
            ..Scenario::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use balanceroute_sim::evaluation::settings;
    use balanceroute_sim::report::Arguments;

    use super::*;

    #[test]
    fn every_setting_is_what_its_flags_say() {
        // The traces are not needed for that: two rows of each format do.
        let folder = tempfile::tempdir().expect("a folder");
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,400\n\
                     2023-11-16 18:17:04.0319600,318,400\n";
        let mooncake = "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1]}\n";
        for (file, text) in [
            ("azure_2023_conv.csv", azure),
            ("azure_2023_code.csv", azure),
            ("mooncake_conversation.jsonl", mooncake),
        ] {
            std::fs::write(folder.path().join(file), text).expect("writable");
        }
        for setting in settings::settings() {
            let flags = setting.flags(folder.path());
            let words = ["balanceroute", "simulate"].map(str::to_owned).into_iter().chain(flags.clone());
            let Command::Simulate(parsed) = Cli::try_parse_from(words).expect("flags that exist").command
            else {
                panic!("not simulate");
            };
            let parsed = parsed.of.scenario().expect("a scenario");
            let scenario = setting.scenario(parsed.source.clone());
            let written = |scenario: &Scenario| {
                serde_json::to_string(&Arguments::of(scenario)).expect("numbers and names")
            };
            assert_eq!(written(&scenario), written(&parsed), "{flags:?}");
        }
    }
}

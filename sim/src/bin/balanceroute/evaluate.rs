//! `evaluate`: a verdict on rules beside one another, on traces and workloads.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balanceroute_sim::evaluation::paper;
use balanceroute_sim::evaluation::trial::{self, Gate, Plan, Playing, RateAsked, TrialSource, evaluate};
use balanceroute_sim::report::folder::Folder;
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::report::results::Limits;
use balanceroute_sim::report::verdict;
use balanceroute_sim::workloads::Workload;
use balanceroute_sim::{Scenario, SimError, Source};
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use crate::arguments::ModelArgs;
use crate::traces::ReadArgs;
use crate::{default_traces, hand_over, print, tell};

/// What a gate that does not hold ends with.
const GATE: u8 = 3;
/// What a program ends with that SIGINT has ended.
const INTERRUPTED: u8 = 130;

/// How often rates are added between two, to find the largest that keeps the limits: from 20 % of the
/// capacity to less than 2 %, and to 5 %.
const MOST_REFINEMENTS: u32 = 4;
const QUICK_REFINEMENTS: u32 = 2;

/// What a study decides itself.
const NOT_OF_A_STUDY: [&str; 25] = [
    "trace",
    "workload",
    "workers",
    "slots",
    "rules",
    "slo",
    "rates",
    "windows",
    "requests",
    "gate",
    "columns",
    "time_unit",
    "block_tokens",
    "min_output",
    "kv_capacity",
    "headroom_steps",
    "deadline_steps",
    "max_passed",
    "cost",
    "step_base_ms",
    "step_us_per_request",
    "step_us_per_token",
    "prefill_us_per_token",
    "prompts",
    "skip_bad_rows",
];

#[derive(Clone, Copy, ValueEnum)]
enum StudyName {
    /// BalanceRoute as published.
    Paper,
}

#[derive(Args)]
pub(crate) struct EvaluateArgs {
    /// Traces, each judged for itself; - is standard input. Without one: a built-in workload.
    #[arg(value_name = "TRACE")]
    trace: Vec<PathBuf>,
    /// Built-in workloads, separated by commas, as of `simulate` [default without a trace: paper-prod].
    #[arg(long, value_name = "W,W", value_delimiter = ',')]
    workload: Vec<String>,
    #[command(flatten)]
    read: ReadArgs,
    /// Numbers of decode workers G, separated by commas.
    #[arg(long, default_value = "8", value_name = "G,G", value_delimiter = ',')]
    workers: Vec<usize>,
    /// Numbers of batch slots of each worker B, separated by commas.
    #[arg(long, default_value = "72", value_name = "B,B", value_delimiter = ',')]
    slots: Vec<u32>,
    /// Rules, separated by commas: policies, or NAME=POLICY to call one otherwise. All are set beside the
    /// first: name what you run today.
    #[arg(long, default_value = "vllm-0.33,level", value_name = "A,N=B", value_delimiter = ',')]
    rules: Vec<String>,
    /// What a request must keep to count, and how many must: ttft=2s, tpot=50ms, e2e=30s, share=99%; `none`
    /// for no limits.
    #[arg(long, default_value = "ttft=2s,tpot=50ms", value_name = "LIMITS")]
    slo: String,
    /// Rates, separated by commas: own (the trace's), auto (60 to 120 % of capacity), 80% (of capacity), 2x
    /// (of the trace's), 12.5/s [default: own,auto; quick: own,80%,100%,120%].
    #[arg(long, value_name = "R,R", value_delimiter = ',')]
    rates: Vec<RateAsked>,
    /// Windows that each trace is cut into; so many draws of a workload [default: 12; quick: 5].
    #[arg(long, value_name = "N")]
    windows: Option<u32>,
    /// Seeds. A window under all of them is one replicate; a workload has so many times the draws
    /// [default: 1; of a study 5, quick 3].
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed; the others follow it.
    #[arg(long, default_value_t = 0, value_name = "N")]
    first_seed: u64,
    /// Requests of a draw of a workload, of which the middle third is measured [default: 9 for each slot, at
    /// least 3000].
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
    /// Ends with 3 unless the difference to the first rule keeps it with its whole interval, at every rate:
    /// tok/s>=-1%, level:wait-p99<=5. May be given again.
    #[arg(long, value_name = "GATE", allow_hyphen_values = true)]
    gate: Vec<Gate>,
    /// The published study instead, beside its printed figures and beyond them.
    #[arg(long, value_name = "STUDY", conflicts_with_all = NOT_OF_A_STUDY)]
    study: Option<StudyName>,
    /// With --study: sections, separated by commas [default: all].
    #[arg(long, value_name = "A,B", value_delimiter = ',', requires = "study")]
    only: Vec<String>,
    /// With --study: folder of the public traces [default: $BALANCEROUTE_TRACES or ../shared/traces; a
    /// section whose trace is missing is left out].
    #[arg(long, value_name = "DIR", requires = "study")]
    traces: Option<PathBuf>,
    /// With --study: write it to this file, which takes its name when it is whole; - is standard output, in
    /// place of the text.
    #[arg(long, value_name = "FILE", requires = "study")]
    json: Option<PathBuf>,
    /// Write results.json, requests and series to this folder; of a study study.json, after each section.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A first look: fewer windows and rates.
    #[arg(long)]
    quick: bool,
    /// Runs at a time [default: one per processor]; results do not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    threads: usize,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
}

/// Hashes what passes through.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

impl<R: Read> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// Of everything, also of what nobody has read.
    fn hash(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl EvaluateArgs {
    fn sources(&self) -> Result<Vec<TrialSource>, SimError> {
        let mut sources = self.trace.iter().map(|path| self.traced(path)).collect::<Result<Vec<_>, _>>()?;
        let default = ["paper-prod".to_owned()];
        let workloads =
            if sources.is_empty() && self.workload.is_empty() { &default[..] } else { &self.workload };
        for name in workloads {
            let source = Source::Workload(Workload::from_name(name)?);
            sources.push(TrialSource { source, path: None, sha256: None });
        }
        Ok(sources)
    }

    fn traced(&self, path: &Path) -> Result<TrialSource, SimError> {
        let io = |source| {
            SimError::from(balanceroute_sim::traces::TraceError::Io {
                file: path.display().to_string(),
                source,
            })
        };
        let (trace, hash) = if path == Path::new("-") {
            let mut stream = Hashed::new(io::stdin().lock());
            let trace = self.read.stream(&mut BufReader::new(&mut stream))?;
            (trace, stream.hash().map_err(io)?)
        } else {
            let trace = self.read.trace(path)?;
            (trace, Hashed::new(File::open(path).map_err(io)?).hash().map_err(io)?)
        };
        let source = Source::Trace(Arc::new(trace));
        Ok(TrialSource { source, path: Some(path.display().to_string()), sha256: Some(hash) })
    }

    fn plan(&self) -> Result<Plan, SimError> {
        let sweep = if self.quick {
            vec![
                RateAsked::Own,
                RateAsked::OfCapacity(0.8),
                RateAsked::OfCapacity(1.0),
                RateAsked::OfCapacity(1.2),
            ]
        } else {
            vec![RateAsked::Own, RateAsked::Sweep]
        };
        let rates = if self.rates.is_empty() { sweep } else { self.rates.clone() };
        // Who names rates gets those.
        let refinements = match (self.rates.is_empty() || rates.contains(&RateAsked::Sweep), self.quick) {
            (false, _) => 0,
            (true, false) => MOST_REFINEMENTS,
            (true, true) => QUICK_REFINEMENTS,
        };
        let model = self.model.apply(Scenario::default())?;
        let cost = self.model.clone();
        Ok(Plan {
            rules: trial::rules(&self.rules)?,
            limits: match self.slo.as_str() {
                "none" => None,
                limits => Some(limits.parse::<Limits>()?),
            },
            sources: self.sources()?,
            workers: self.workers.clone(),
            slots: self.slots.clone(),
            rates,
            refinements,
            windows: self.windows.unwrap_or(if self.quick { 5 } else { 12 }),
            seeds: self.seeds.unwrap_or(1),
            first_seed: self.first_seed,
            requests: self.requests,
            gates: self.gate.clone(),
            cost: Box::new(move |slots| cost.cost(slots)),
            model,
            flags: passed_on(std::env::args().skip(1)),
        })
    }
}

/// Flags that `simulate` has as well and that change what is played, as they were given.
fn passed_on(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let (mut passed, mut arguments) = (Vec::new(), arguments);
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        let Some(name) = name.strip_prefix("--") else { continue };
        let (is_read, is_switch) = (ReadArgs::NAMES.contains(&name), ReadArgs::SWITCHES.contains(&name));
        if !(is_read || is_switch || ModelArgs::NAMES.contains(&name)) {
            continue;
        }
        let has_value = argument.contains('=') || is_switch;
        passed.push(argument);
        passed.extend(if has_value { None } else { arguments.next() });
    }
    passed
}

/// The flag that the first Ctrl-C sets; the second ends the program where it is.
fn stop_at_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let set = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    });
    if let Err(error) = set {
        tell(format_args!("warning: an interrupt will keep only scenarios that are done: {error}"));
    }
    stop
}

/// The published study; each section is shown as soon as it is there.
fn study(args: &EvaluateArgs) -> Result<ExitCode, SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let is_silent = json.as_ref().is_some_and(JsonFile::is_stdout);
    let traces = args.traces.clone().unwrap_or_else(default_traces);
    let options = paper::Options {
        only: &args.only,
        quick: args.quick,
        seeds: args.seeds,
        first_seed: args.first_seed,
        traces: &traces,
        threads: args.threads,
        progress: !args.quiet,
        out: args.out.as_deref(),
    };
    let study = paper::study(&options, |section| if is_silent { Ok(()) } else { print(&section.text()) })?;
    hand_over(json, &study.text(), &study)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(args: &EvaluateArgs) -> Result<ExitCode, SimError> {
    if let Some(StudyName::Paper) = args.study {
        return study(args);
    }
    let plan = args.plan()?;
    let folder = args.out.as_deref().map(Folder::create).transpose()?;
    let stop = stop_at_interrupt();
    let command = std::iter::once("balanceroute".to_owned()).chain(std::env::args().skip(1));
    let command: Vec<String> = command.collect();
    let results = evaluate(
        &plan,
        &Playing {
            folder: folder.as_ref(),
            threads: args.threads,
            stop: &stop,
            progress: !args.quiet,
            command: shlex::try_join(command.iter().map(String::as_str))
                .unwrap_or_else(|_| command.join(" ")),
            quick: args.quick,
        },
    )?;
    print(&verdict::text(&results))?;
    if let Some(folder) = &folder {
        tell(format_args!("results: {}", folder.results_file().display()));
    }
    Ok(match (results.complete, results.gate.iter().all(|gate| gate.holds)) {
        (false, _) => ExitCode::from(INTERRUPTED),
        (true, false) => ExitCode::from(GATE),
        (true, true) => ExitCode::SUCCESS,
    })
}

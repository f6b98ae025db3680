//! What is played, as `evaluate` and `recommend` ask for it: sources, rules, limits, replicates.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balanceroute_sim::evaluation::trial::{self, Plan, TrialSource};
use balanceroute_sim::report::results::Limits;
use balanceroute_sim::workloads::Workload;
use balanceroute_sim::{Scenario, SimError, Source};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::arguments::ModelArgs;
use crate::choices;
use crate::tell;
use crate::traces::ReadArgs;

/// What a program ends with that SIGINT has ended.
pub(crate) const INTERRUPTED: u8 = 130;

#[derive(Args)]
pub(crate) struct TrialArgs {
    /// Traces, each judged for itself; - is standard input. Without one: a built-in workload.
    #[arg(value_name = "TRACE")]
    trace: Vec<PathBuf>,
    /// Built-in workloads, separated by commas [default without a trace: paper-prod].
    #[arg(long, value_name = "W,W", value_delimiter = ',', value_parser = choices::workloads())]
    workload: Vec<String>,
    #[command(flatten)]
    read: ReadArgs,
    /// Rules, separated by commas: policies, or NAME=POLICY to call one otherwise. All are set beside the
    /// first: name what you run today.
    #[arg(long, default_value = "vllm-0.33,level", value_name = "A,N=B", value_delimiter = ',')]
    #[arg(value_parser = choices::policies())]
    rules: Vec<String>,
    /// What a request must keep to count, and how many must: ttft=2s, tpot=50ms, e2e=30s, share=99%; `none`
    /// for no limits.
    #[arg(long, default_value = "ttft=2s,tpot=50ms", value_name = "LIMITS")]
    slo: String,
    /// Windows that each trace is cut into; so many draws of a workload [default: 12; quick: 5].
    #[arg(long, value_name = "N")]
    windows: Option<u32>,
    /// Seeds. A window under all of them is one replicate; a workload has so many times the draws
    /// [default: 1; of a study 5, quick 3].
    #[arg(long, value_name = "N")]
    pub(crate) seeds: Option<u64>,
    /// The first seed; the others follow it.
    #[arg(long, visible_alias = "seed", default_value_t = 0, value_name = "N")]
    pub(crate) first_seed: u64,
    /// Requests of a draw of a workload, of which the middle third is measured [default: 9 for each slot, at
    /// least 3000].
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
    /// A first look: fewer windows and rates.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Runs at a time [default: one per processor]; results do not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    pub(crate) threads: usize,
    /// No progress bar.
    #[arg(long)]
    pub(crate) quiet: bool,
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

impl TrialArgs {
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

    /// What is played, on the clusters and at the rates that are named here.
    pub(crate) fn plan(&self) -> Result<Plan, SimError> {
        let cost = self.model.clone();
        Ok(Plan {
            rules: trial::rules(&self.rules)?,
            limits: match self.slo.as_str() {
                "none" => None,
                limits => Some(limits.parse::<Limits>()?),
            },
            sources: self.sources()?,
            workers: Vec::new(),
            slots: Vec::new(),
            rates: Vec::new(),
            refinements: 0,
            windows: self.windows.unwrap_or(if self.quick { 5 } else { 12 }),
            seeds: self.seeds.unwrap_or(1),
            first_seed: self.first_seed,
            requests: self.requests,
            decisions: 0,
            gates: Vec::new(),
            cost: Arc::new(move |slots| cost.cost(slots)),
            model: self.model.apply(Scenario::default())?,
            flags: passed_on(std::env::args().skip(1)),
        })
    }

    /// Whether a term of the step law is given.
    pub(crate) fn names_cost(&self) -> bool {
        self.model.names_cost()
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
pub(crate) fn stop_at_interrupt() -> Arc<AtomicBool> {
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

//! `evaluate`: a verdict on rules beside one another, on traces and workloads.

use std::path::PathBuf;
use std::process::ExitCode;

use balanceroute_sim::SimError;
use balanceroute_sim::evaluation::paper;
use balanceroute_sim::evaluation::trial::{Gate, Plan, Playing, RateAsked, evaluate};
use balanceroute_sim::report::folder::Folder;
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::report::verdict;
use clap::{Args, ValueEnum};

use crate::output::OutputArgs;
use crate::trial::{INTERRUPTED, TrialArgs, stop_at_interrupt};
use crate::{command, default_traces, hand_over, print, tell};

/// What a gate that does not hold ends with.
const GATE: u8 = 3;

/// How often rates are added between two, to find the largest that keeps the limits: from 20 % of the
/// capacity to less than 2 %, and to 5 %.
const MOST_REFINEMENTS: u32 = 4;
const QUICK_REFINEMENTS: u32 = 2;

/// What a study decides itself.
const NOT_OF_A_STUDY: [&str; 28] = [
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
    "optimum",
    "format",
    "legend",
];

#[derive(Clone, Copy, ValueEnum)]
enum StudyName {
    /// BalanceRoute as published.
    Paper,
}

#[derive(Args)]
pub(crate) struct EvaluateArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// Numbers of decode workers G, separated by commas.
    #[arg(long, default_value = "8", value_name = "G,G", value_delimiter = ',')]
    workers: Vec<usize>,
    /// Numbers of batch slots of each worker B, separated by commas.
    #[arg(long, default_value = "72", value_name = "B,B", value_delimiter = ',')]
    slots: Vec<u32>,
    /// Rates, separated by commas: own (the trace's), auto (60 to 120 % of capacity), 80% (of capacity), 2x
    /// (of the trace's), 12.5/s [default: own,auto; quick: own,80%,100%,120%].
    #[arg(long, value_name = "R,R", value_delimiter = ',')]
    rates: Vec<RateAsked>,
    /// Sets so many decisions of each rule and rate, at least, beside the best of their steps, and writes how
    /// far they are [default: none].
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    optimum: usize,
    /// Ends with 3 unless the difference to the first rule keeps it with its whole interval, at every rate:
    /// tok/s>=-1%, level:wait-p99<=5. May be given again.
    #[arg(long, value_name = "GATE", allow_hyphen_values = true)]
    gate: Vec<Gate>,
    #[command(flatten)]
    output: OutputArgs,
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
}

impl EvaluateArgs {
    fn plan(&self) -> Result<Plan, SimError> {
        let sweep = if self.trial.quick {
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
        let refinements = match (self.rates.is_empty() || rates.contains(&RateAsked::Sweep), self.trial.quick)
        {
            (false, _) => 0,
            (true, false) => MOST_REFINEMENTS,
            (true, true) => QUICK_REFINEMENTS,
        };
        Ok(Plan {
            workers: self.workers.clone(),
            slots: self.slots.clone(),
            rates,
            refinements,
            decisions: self.optimum,
            gates: self.gate.clone(),
            ..self.trial.plan()?
        })
    }
}

/// The published study; each section is shown as soon as it is there.
fn study(args: &EvaluateArgs) -> Result<ExitCode, SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let is_silent = json.as_ref().is_some_and(JsonFile::is_stdout);
    let traces = args.traces.clone().unwrap_or_else(default_traces);
    let options = paper::Options {
        only: &args.only,
        quick: args.trial.quick,
        seeds: args.trial.seeds,
        first_seed: args.trial.first_seed,
        traces: &traces,
        threads: args.trial.threads,
        progress: !args.trial.quiet,
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
    let of_a_study =
        [("json", args.json.is_some()), ("only", !args.only.is_empty()), ("traces", args.traces.is_some())];
    if let Some((name, _)) = of_a_study.into_iter().find(|(_, is_given)| *is_given) {
        let expected = "--study, of which it is; without one --format and --out".to_owned();
        return Err(SimError::Argument { name, expected, found: format!("--{name}") });
    }
    let plan = args.plan()?;
    let folder = args.out.as_deref().map(Folder::create).transpose()?;
    let stop = stop_at_interrupt();
    let results = evaluate(
        &plan,
        &Playing {
            folder: folder.as_ref(),
            threads: args.trial.threads,
            stop: &stop,
            progress: !args.trial.quiet,
            command: command(),
            quick: args.trial.quick,
        },
    )?;
    args.output.show(
        &results,
        |_, legend| verdict::page(&results, legend),
        || results.lines(),
        &["source", "workers", "slots", "rate", "offered_load", "rule"],
    )?;
    if let Some(folder) = &folder {
        tell(format_args!("results: {}", folder.results_file().display()));
    }
    Ok(match (results.complete, results.gate.iter().all(|gate| gate.holds)) {
        (false, _) => ExitCode::from(INTERRUPTED),
        (true, false) => ExitCode::from(GATE),
        (true, true) => ExitCode::SUCCESS,
    })
}

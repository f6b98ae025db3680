//! `evaluate`: a verdict on rules beside one another, on traces and workloads.

use std::path::PathBuf;
use std::process::ExitCode;

use balanceroute_sim::SimError;
use balanceroute_sim::evaluation::trial::{Gate, Plan, Playing, RateAsked, evaluate};
use balanceroute_sim::report::folder::Folder;
use balanceroute_sim::report::verdict;
use clap::Args;

use crate::output::OutputArgs;
use crate::trial::{INTERRUPTED, TrialArgs, stop_at_interrupt};
use crate::{command, tell};

/// What a gate that does not hold ends with.
const GATE: u8 = 3;

/// How often rates are added between two, to find the largest that keeps the limits: from 20 % of the
/// capacity to less than 2 %, and to 5 %.
const MOST_REFINEMENTS: u32 = 4;
const QUICK_REFINEMENTS: u32 = 2;

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
    /// Write results.json, requests and series to this folder.
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

pub(crate) fn run(args: &EvaluateArgs) -> Result<ExitCode, SimError> {
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

//! `recommend`: its arguments, and what they ask for.

use std::path::PathBuf;
use std::process::ExitCode;

use balanceroute_sim::SimError;
use balanceroute_sim::evaluation::sizing::{Question, SizeOption, recommend};
use balanceroute_sim::evaluation::trial::{Plan, RateAsked};
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::report::sizing;
use clap::Args;

use crate::output::OutputArgs;
use crate::tell;
use crate::trial::{INTERRUPTED, TrialArgs, stop_at_interrupt};

/// Said where no step law is given.
const PUBLISHED: &str = "\
note: the published step law charges for every slot, also for an empty one, so that few slots look best: \
measure yours (balanceroute calibrate) and give it with --cost";

#[derive(Args)]
pub(crate) struct RecommendArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// Numbers of batch slots of a worker B, separated by commas.
    #[arg(long, default_value = "16,32,64,128", value_name = "B,B", value_delimiter = ',')]
    slots: Vec<u32>,
    /// The most decode workers G.
    #[arg(long, default_value_t = 256, value_name = "G")]
    most_workers: usize,
    /// What comes: own (the trace's times), 2x (of the trace's), 12.5/s.
    #[arg(long, default_value = "own", value_name = "R")]
    rate: RateAsked,
    /// Write what was found and everything tried to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &RecommendArgs) -> Result<ExitCode, SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    args.output.check(json.as_ref(), false)?;
    let stop = stop_at_interrupt();
    let asked = args.trial.plan()?;
    let plan = |workers, slots| Plan {
        workers: vec![workers],
        slots: vec![slots],
        rates: vec![args.rate],
        ..asked.clone()
    };
    let question = Question {
        plan: &plan,
        slots: args.slots.clone(),
        most_workers: args.most_workers,
        threads: args.trial.threads,
        stop: &stop,
        progress: !args.trial.quiet,
    };
    match recommend(&question) {
        Ok(found) => {
            let rows = || found.options.iter().map(SizeOption::line).collect();
            let page = |_, legend| sizing::page(&found, legend);
            args.output.hand_over(json, &found, page, rows, &["slots", "rule", "workers"])?;
            if !args.trial.names_cost() {
                tell(PUBLISHED);
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(SimError::Interrupted) => {
            tell("interrupted");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}

//! `replay`: its arguments, and what they ask for.

use std::path::PathBuf;
use std::process::ExitCode;

use balanceroute_sim::recording::{Reach, Recorded, play, recorded};
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::{SimError, report};
use clap::Args;

use crate::cost::CostArgs;
use crate::output::OutputArgs;
use crate::{arguments, choices, show_runs, tell};

#[derive(Args)]
pub(crate) struct ReplayArgs {
    /// The folder of a recording, the folder above the only one, or one segment.
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Stop after this step of the log, counted from 1 [default: the last one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// Say of the last step why each request went where it went, and why the others stay.
    #[arg(long)]
    explain: bool,
    /// Simulate these policies, separated by commas, beside the recorded one: on the requests of the log at
    /// their times, on its cluster.
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = choices::policies())]
    #[arg(conflicts_with_all = ["at", "explain"])]
    policy: Vec<String>,
    #[command(flatten)]
    cost: CostArgs,
    /// Write all figures to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Draw no progress bar.
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(args: &ReplayArgs) -> Result<ExitCode, SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    args.output.check(json.as_ref(), false)?;
    if !args.policy.is_empty() {
        compare(args, json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let played = play(&args.log, Reach { step: args.at, explain: args.explain })?;
    let differs = played.difference.is_some();
    args.output.hand_over(
        json,
        &played,
        |_, legend| report::played(&played, legend),
        || played.explained.iter().flatten().collect(),
        &["request"],
    )?;
    if differs {
        tell("error: the log is not what this library would have done");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What other policies would have done on the same arrivals.
fn compare(args: &ReplayArgs, json: Option<JsonFile>) -> Result<(), SimError> {
    let recorded = recorded(&args.log)?;
    tell_of_left_out(&recorded);
    if !recorded.is_uniform() {
        tell("warning: workers are not alike; each is simulated with the slots and the capacity of the mean");
    }
    let mut scenario = recorded.scenario(&arguments::policies(&args.policy));
    scenario.cost = args.cost.law(scenario.slots)?;
    scenario.check()?;
    show_runs(&scenario, json, &args.output, args.quiet)
}

/// Says how much of a log is missing in its trace.
pub(crate) fn tell_of_left_out(recorded: &Recorded) {
    let left_out = recorded.left_out;
    if left_out > 0 {
        tell(format_args!("warning: {left_out} requests left out, whose lengths the log does not know"));
    }
}

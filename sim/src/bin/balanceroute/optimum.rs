//! `optimum`: its arguments, and what they ask for.

use std::time::Duration;

use balanceroute_sim::SimError;
use balanceroute_sim::evaluation::optimum::{self, Options};
use balanceroute_sim::report::json::JsonFile;
use clap::Args;

use crate::arguments::SimulateArgs;

#[derive(Args)]
pub(crate) struct OptimumArgs {
    #[command(flatten)]
    simulate: SimulateArgs,
    /// Decisions solved of each run, at least; they are spread over its measured steps.
    #[arg(long, default_value_t = 100, value_name = "N")]
    decisions: usize,
    /// Seconds for each, after which it counts as unsolved: where many wait and many slots are free a command
    /// may last this times the decisions.
    #[arg(long, default_value_t = 10.0, value_name = "S", allow_negative_numbers = true)]
    limit_s: f64,
}

pub(crate) fn run(args: &OptimumArgs) -> Result<(), SimError> {
    let scenario = args.simulate.of.scenario()?;
    scenario.check()?;
    let limit = Duration::try_from_secs_f64(args.limit_s).ok().filter(|limit| !limit.is_zero());
    let limit = limit.ok_or_else(|| SimError::Argument {
        name: "limit-s",
        expected: "seconds above 0".to_owned(),
        found: args.limit_s.to_string(),
    })?;
    let json = args.simulate.json.as_deref().map(JsonFile::create).transpose()?;
    args.simulate.output.check(json.as_ref(), false)?;
    let options = Options { decisions: args.decisions, limit, progress: !args.simulate.quiet };
    let found = optimum::optimum(&scenario, options)?;
    let rows = || found.rules.iter().collect();
    args.simulate.output.hand_over(json, &found, |_, legend| found.page(legend), rows, &["policy"])
}

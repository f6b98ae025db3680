//! `report`: evaluations as one HTML page.

use std::path::PathBuf;

use balanceroute_sim::SimError;
use balanceroute_sim::evaluation;
use balanceroute_sim::report::evaluated::Evaluated;
use balanceroute_sim::report::folder::PAGE;
use balanceroute_sim::report::json::JsonFile;
use clap::Args;

use crate::{command, tell};

const EXAMPLES: &str = "\
The page needs nothing but itself: send it, print it, open it on a phone. It says first what the evaluation \
comes to, then shows goodput, waits and times to tokens against the rate, distributions, the loads of the \
ranks over time, the trace, and tables that can be sorted.

  balanceroute evaluate TRACE --rules today=vllm,level --out DIR
  balanceroute report DIR
  balanceroute report DIR OTHER --out both.html

Of two folders the second is set beside the first, replicate by replicate where both have the same requests \
at the same rate in the same windows or draws; where not, the page says why.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Folders that `evaluate --out` has written, also of an evaluation that was interrupted; all others are
    /// set beside the first.
    #[arg(value_name = "DIR", required = true, num_args = 1..=26)]
    folders: Vec<PathBuf>,
    /// The page, which takes its name when it is whole; - is standard output [default: report.html in the
    /// first folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ReportArgs) -> Result<(), SimError> {
    let read = |folder: &PathBuf| Evaluated::read(folder);
    let evaluations = args.folders.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let out = match (&args.out, args.folders.first()) {
        (Some(out), _) => out.clone(),
        (None, Some(first)) => first.join(PAGE),
        (None, None) => PathBuf::from(PAGE),
    };
    let file = JsonFile::create(&out)?;
    let html = evaluation::page::html(&evaluations, &command())?;
    let is_stdout = file.is_stdout();
    file.write_with(|to| to.write_all(html.as_bytes()))?.publish()?;
    if !is_stdout {
        tell(format_args!("page: {}", out.display()));
    }
    Ok(())
}

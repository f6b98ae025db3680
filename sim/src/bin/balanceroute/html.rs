//! `report`: evaluations as one HTML page.

use std::path::PathBuf;

use balanceroute_sim::SimError;
use balanceroute_sim::evaluation;
use balanceroute_sim::report::evaluated::Evaluated;
use balanceroute_sim::report::folder::PAGE;
use balanceroute_sim::report::json::JsonFile;
use clap::Args;

use crate::{command, tell};

#[derive(Args)]
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
    let html = evaluation::html::page(&evaluations, &command())?;
    let is_stdout = file.is_stdout();
    file.write_with(|to| to.write_all(html.as_bytes()))?.publish()?;
    if !is_stdout {
        tell(format_args!("page: {}", out.display()));
    }
    Ok(())
}

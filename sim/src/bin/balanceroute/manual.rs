//! What shells and `man` know of the program.

use std::path::PathBuf;

use balanceroute_sim::SimError;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Cli;
use crate::print;

const NAME: &str = "balanceroute";

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that completes.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Write the pages of all commands to this folder, which is made; without it the program's own page goes
    /// to standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Text of a generator that fails only where its stream does, as memory does not.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), SimError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    print(&text(&script))
}

pub(crate) fn man(args: &ManArgs) -> Result<(), SimError> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|source| SimError::Stdout { source })?;
        return print(&text(&page));
    };
    let write = || {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)
    };
    write().map_err(|source| SimError::Write { file: folder.display().to_string(), source })
}

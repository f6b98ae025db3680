//! The command line: arguments in, tables and JSON out.
//!
//! `print!` and `eprintln!` panic where a stream is closed or full; [`print`] and [`tell`] do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod calibrate;
mod choices;
mod cost;
mod evaluate;
mod examples;
mod html;
mod manual;
mod optimum;
mod output;
mod recommend;
mod replay;
mod sweep;
mod traces;
mod trial;
#[cfg(feature = "watch")]
mod watch;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use arguments::{
    Cli, Command, ForecastArgs, KernelsArgs, PictureArgs, PoliciesArgs, SettingsArgs, SimulateArgs,
};
use balanceroute::backend::BackendKind;
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::{Arrivals, Scenario, SimError, evaluation, report};
use clap::Parser;
use clap::error::ErrorKind;
use output::OutputArgs;
use serde::Serialize;

/// Writes to standard output.
fn print(text: &str) -> Result<(), SimError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| SimError::Stdout { source })
}

/// Writes a line to standard error. Where nobody can be told, nobody is.
fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The command as it was given, with the name of the program.
fn command() -> String {
    let words: Vec<String> =
        std::iter::once("balanceroute".to_owned()).chain(std::env::args().skip(1)).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

fn has_gone(error: &SimError) -> bool {
    matches!(error, SimError::Stdout { source } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// The text to standard output, the document to where it was asked for. A file takes its name last: whoever
/// fails before leaves the old one. A reader who has gone has seen enough of the text; the file is whole all
/// the same.
fn hand_over(json: Option<JsonFile>, text: &str, document: &impl Serialize) -> Result<(), SimError> {
    let Some(json) = json else { return print(text) };
    let text = if json.is_stdout() { "" } else { text };
    let written = json.write(document)?;
    print(text).or_else(|error| if has_gone(&error) { Ok(()) } else { Err(error) })?;
    written.publish()
}

fn simulate(args: &SimulateArgs) -> Result<(), SimError> {
    let scenario = args.of.scenario()?;
    scenario.check()?;
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    args.output.check(json.as_ref(), false)?;
    if scenario.parameters.backend == BackendKind::Ascend {
        match evaluation::kernels::device(&scenario.parameters) {
            (true, name) => tell(format_args!("device: {name}")),
            (false, reason) => tell(format_args!("no device, the CPU decides: {reason}")),
        }
    }
    show_runs(&scenario, json, &args.output, args.quiet)
}

/// Runs a scenario that was checked, after what must be known of it, and hands its table over.
fn show_runs(
    scenario: &Scenario,
    json: Option<JsonFile>,
    output: &OutputArgs,
    quiet: bool,
) -> Result<(), SimError> {
    // Where nothing fits, a closed run has no request to keep its pool full with, and says so itself.
    let unfit = scenario.unfit();
    if let Some(unfit) =
        unfit.filter(|unfit| unfit.requests < unfit.of || scenario.arrivals != Arrivals::Closed)
    {
        tell(format_args!("warning: {unfit}"));
    }
    for sentence in scenario.untold() {
        tell(format_args!("warning: {sentence}"));
    }
    let runs = evaluation::run(scenario, !quiet)?;
    output.hand_over(
        json,
        &report::Document::new(scenario, &runs),
        |_, legend| report::simulation(scenario, &runs, legend),
        || runs.iter().collect(),
        &["policy", "affinity", "seed", "window"],
    )
}

/// Where public traces are, if nobody says so.
fn default_traces() -> PathBuf {
    std::env::var_os("BALANCEROUTE_TRACES").map_or("../shared/traces".into(), PathBuf::from)
}

fn settings(args: &SettingsArgs) -> Result<(), SimError> {
    let traces = args.traces.clone().unwrap_or_else(default_traces);
    if args.list {
        return print(&evaluation::settings::list(&args.only, &traces)?);
    }
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    args.output.check(json.as_ref(), false)?;
    let mut record = args.record.as_deref().map(report::CsvLines::append).transpose()?;
    let options = evaluation::settings::Options {
        traces: &traces,
        skip_missing: args.traces.is_none(),
        policies: &arguments::policies(&args.policy),
        only: &args.only,
        seeds: args.seeds,
        first_seed: args.first_seed,
        threads: args.threads,
        progress: !args.quiet,
    };
    let table = evaluation::settings::table_seen(&options, |row| {
        let Some(record) = &mut record else { return Ok(()) };
        row.records().iter().try_for_each(|line| record.write(line))
    })?;
    args.output.hand_over(
        json,
        &table,
        |style, legend| table.page(style, legend),
        || table.records(),
        &["row", "policy", "runs"],
    )
}

fn forecast(args: &ForecastArgs) -> Result<(), SimError> {
    let source = args.source.read()?;
    let rows = evaluation::forecast::table(&source, args.horizon)?;
    let document = evaluation::forecast::Document::new(&source, args.horizon, &rows);
    args.output.show(
        &document,
        |_, legend| evaluation::forecast::page(&source, args.horizon, &rows, legend),
        || document.classifiers.clone(),
        &["classifier", "samples"],
    )
}

/// Tests and measures; whether every path agreed with the oracle.
fn kernels(args: &KernelsArgs) -> Result<bool, SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let report = evaluation::kernels::report(args.batches)?;
    hand_over(json, &report.text(), &report)?;
    Ok(report.agrees())
}

fn policies(args: &PoliciesArgs) -> Result<(), SimError> {
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    hand_over(json, &report::rules(balanceroute_sim::rules::all()), &report::RulesDocument::new())
}

fn picture(args: &PictureArgs) -> Result<(), SimError> {
    let document = evaluation::picture::svg(&args.scenario()?, args.seed)?;
    std::fs::write(&args.out, document)
        .map_err(|source| SimError::Write { file: args.out.display().to_string(), source })
}

/// What clap has to say, on one line.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or(&text);
    let message = message.split("\n\nFor more information").next().unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run() -> Result<ExitCode, SimError> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print(&error.render().to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        // Help and version.
        Err(error) if !error.use_stderr() => {
            error
                .print()
                .and_then(|()| io::stdout().flush())
                .map_err(|source| SimError::Stdout { source })?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            tell(in_one_line(&error));
            return Ok(ExitCode::from(2));
        }
    };
    match cli.command {
        Command::Simulate(args) => simulate(&args)?,
        Command::Evaluate(args) => return evaluate::run(&args),
        Command::Recommend(args) => return recommend::run(&args),
        Command::Sweep(args) => sweep::run(&args)?,
        Command::Report(args) => html::run(&args)?,
        Command::Settings(args) => settings(&args)?,
        Command::Forecast(args) => forecast(&args)?,
        Command::Trace(args) => traces::run(&args)?,
        Command::Replay(args) => return replay::run(&args),
        Command::Calibrate(args) => calibrate::run(&args)?,
        #[cfg(feature = "watch")]
        Command::Watch(args) => return watch::run(&args),
        Command::Policies(args) => policies(&args)?,
        Command::Picture(args) => picture(&args)?,
        Command::Optimum(args) => optimum::run(&args)?,
        Command::Completions(args) => manual::completions(&args)?,
        Command::Man(args) => manual::man(&args)?,
        Command::Kernels(args) => {
            if !kernels(&args)? {
                tell("error: a path differs from the oracle");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        // As `head` closes a pipe: 0 and not the 141 of a program that the signal ends, so that
        // `set -o pipefail` sees no failure where nothing has failed.
        Err(error) if has_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            match error {
                SimError::Write { .. } | SimError::Stdout { .. } => ExitCode::FAILURE,
                _ => ExitCode::from(2),
            }
        }
    }
}

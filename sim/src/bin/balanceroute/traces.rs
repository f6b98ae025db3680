//! `trace`: what a trace is like, and traces in other layouts; and how any command reads one.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use balanceroute_sim::recording::recorded;
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::report::page::Style;
use balanceroute_sim::traces::{
    ColumnMap, ConvertError, ReadOptions, Shape, Target, TimeUnit, Trace, convert,
};
use balanceroute_sim::{Arrivals, Scenario, SimError, Source, evaluation, report};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cost::CostArgs;
use crate::output::OutputArgs;
use crate::replay::tell_of_left_out;
use crate::{choices, examples, tell};

/// What a trace does not say itself.
#[derive(Args)]
pub(crate) struct ReadArgs {
    /// Leave out rows of the trace with fewer output tokens.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "trace")]
    min_output: u32,
    /// Count malformed rows of the trace instead of refusing it.
    #[arg(long, requires = "trace")]
    skip_bad_rows: bool,
    /// Which columns, or keys of JSON (usage.prompt_tokens), hold what, where they are not known by name:
    /// time=Timestamp:s,prompt="Request tokens",output="Response tokens"; also session, delay (from the end
    /// of the turn before) and hashes. Without a time the trace has lengths only.
    #[arg(long, value_name = "MAP", requires = "trace")]
    columns: Option<ColumnMap>,
    /// Unit of times that are plain numbers [default: that of the layout; dates and times
    /// since 1970 need none].
    #[arg(long, value_name = "U", requires = "trace")]
    #[arg(value_parser = choices::one_of::<TimeUnit>(|| vec!["s", "ms", "us", "ns"]))]
    time_unit: Option<TimeUnit>,
    /// Tokens of a prefix block [default: that of the layout].
    #[arg(long, value_name = "N", requires = "trace")]
    block_tokens: Option<u32>,
}

impl ReadArgs {
    /// A flag that only a trace can follow; clap does not ask for the trace beside a workload.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let Self { min_output, skip_bad_rows, columns, time_unit, block_tokens } = self;
        let flags = [
            ("min-output", *min_output > 0),
            ("skip-bad-rows", *skip_bad_rows),
            ("columns", columns.is_some()),
            ("time-unit", time_unit.is_some()),
            ("block-tokens", block_tokens.is_some()),
        ];
        flags.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    /// Its flags with a value, and those without.
    pub(crate) const NAMES: [&str; 4] = ["min-output", "columns", "time-unit", "block-tokens"];
    pub(crate) const SWITCHES: [&str; 1] = ["skip-bad-rows"];

    fn options(&self) -> ReadOptions {
        ReadOptions {
            skip_bad_rows: self.skip_bad_rows,
            min_output_tokens: self.min_output,
            columns: self.columns.clone(),
            time_unit: self.time_unit,
            block_tokens: self.block_tokens,
            ..ReadOptions::default()
        }
    }

    /// The trace of a file, or of standard input.
    pub(crate) fn trace(&self, path: &Path) -> Result<Trace, SimError> {
        if path == Path::new("-") {
            return self.stream(&mut io::stdin().lock());
        }
        Ok(Trace::read(path, &self.options())?)
    }

    /// The trace of standard input, which the reader takes from.
    pub(crate) fn stream(&self, reader: &mut impl BufRead) -> Result<Trace, SimError> {
        Ok(Trace::from_reader(reader, "stdin", &self.options())?)
    }
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: Option<TraceCommand>,
    #[command(flatten)]
    recording: RecordingArgs,
}

/// A recording as a trace.
#[derive(Args)]
struct RecordingArgs {
    /// The folder of a recording, the folder above the only one, or one segment: its requests, when they
    /// came and how long they were.
    #[arg(value_name = "LOG")]
    log: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Where a trace is written.
#[derive(Args)]
struct TargetArgs {
    /// Layout: aiperf (JSON lines in the manner of Mooncake, with sessions and prefix blocks) or vidur (CSV
    /// of times and lengths).
    #[arg(long, default_value = "aiperf", value_name = "L")]
    #[arg(value_parser = choices::one_of::<Target>(|| vec!["aiperf", "vidur"]))]
    to: Target,
    /// The file, which takes its name when it is whole; - is standard output.
    #[arg(long, default_value = "-", value_name = "FILE")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum TraceCommand {
    /// Span, rate, lengths, burstiness, shared prefix and sessions of a trace, and the load that it offers.
    #[command(after_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// Write a trace in a layout that other tools read.
    #[command(after_help = examples::CONVERT)]
    Convert(ConvertArgs),
}

#[derive(Args)]
struct InspectArgs {
    /// The trace; - is standard input.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    /// Decode workers that the load is offered to, G.
    #[arg(long, default_value_t = 8, value_name = "G")]
    workers: usize,
    /// Batch slots of each worker, B.
    #[arg(long, default_value_t = 72, value_name = "B")]
    slots: u32,
    /// KV tokens that fit on each worker [default: unbounded].
    #[arg(long, value_name = "T")]
    kv_capacity: Option<u64>,
    #[command(flatten)]
    cost: CostArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Draw arrivals, lengths and gaps to this file, as SVG; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write all figures to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct ConvertArgs {
    /// The trace; - is standard input.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) fn run(args: &TraceArgs) -> Result<(), SimError> {
    match (&args.command, &args.recording.log) {
        (Some(TraceCommand::Inspect(args)), _) => inspect(args),
        (Some(TraceCommand::Convert(args)), _) => write(&args.read.trace(&args.trace)?, &args.target),
        (None, Some(log)) => write_recorded(log, &args.recording.target),
        (None, None) => Err(SimError::Argument {
            name: "LOG",
            expected: "a recording, inspect or convert".to_owned(),
            found: "nothing".to_owned(),
        }),
    }
}

fn write_recorded(log: &Path, target: &TargetArgs) -> Result<(), SimError> {
    let recorded = recorded(log)?;
    write(&recorded.trace, target)?;
    tell_of_left_out(&recorded);
    let given_up = recorded.given_up;
    if given_up > 0 {
        tell(format_args!("{given_up} requests were given up as they ran: they end where they did"));
    }
    Ok(())
}

/// What is in the JSON of `trace inspect`.
#[derive(Serialize)]
struct Inspected {
    version: &'static str,
    trace: String,
    shape: Shape,
    arguments: report::Arguments,
}

/// What is in its CSV.
#[derive(Serialize)]
struct Line<'a> {
    trace: &'a str,
    #[serde(flatten)]
    shape: &'a Shape,
}

fn inspect(args: &InspectArgs) -> Result<(), SimError> {
    let trace = Arc::new(args.read.trace(&args.trace)?);
    let scenario = Scenario {
        source: Source::Trace(Arc::clone(&trace)),
        arrivals: match trace.arrival_s.as_slice() {
            [] => Arrivals::Closed,
            _ => Arrivals::Trace { rate_scale: 1.0 },
        },
        workers: args.workers,
        slots: args.slots,
        kv_capacity_tokens: args.kv_capacity,
        cost: args.cost.law(args.slots)?,
        ..Scenario::default()
    };
    scenario.check()?;
    let picture = args.out.as_deref().map(JsonFile::create).transpose()?;
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let drawn = picture.as_ref().is_some_and(JsonFile::is_stdout);
    args.output.check(json.as_ref(), drawn)?;
    if drawn && json.as_ref().is_some_and(JsonFile::is_stdout) {
        let expected = "a file, since the figures go to standard output".to_owned();
        return Err(SimError::Argument { name: "out", expected, found: "-".to_owned() });
    }
    let shape = Shape::of(&trace);
    if let Some(picture) = picture {
        let document = evaluation::portrait::svg(&trace)?;
        picture.write_with(|out| out.write_all(document.as_bytes()))?.publish()?;
    }
    let arguments = report::Arguments::of(&scenario);
    let version = env!("CARGO_PKG_VERSION");
    let document = Inspected { version, trace: trace.name.clone(), shape, arguments };
    if drawn {
        return json.map_or(Ok(()), |json| json.write(&document)?.publish());
    }
    let page = |_: Style, _: bool| {
        let page = report::shape_page(&trace.name, &trace, &document.shape);
        match report::load(&scenario) {
            Some(load) => page.text(format!("{} workers x {} slots: {load}\n", args.workers, args.slots)),
            None => page,
        }
    };
    args.output.hand_over(
        json,
        &document,
        page,
        || vec![Line { trace: &trace.name, shape: &document.shape }],
        &["trace"],
    )
}

fn write(trace: &Trace, target: &TargetArgs) -> Result<(), SimError> {
    let file = JsonFile::create(&target.out)?;
    let (mut lost, mut refused) = (None, None);
    let written = file.write_with(|out| match convert(trace, target.to, out) {
        Ok(conversion) => {
            lost = Some(conversion);
            Ok(())
        }
        Err(ConvertError::Io(error)) => Err(error),
        Err(ConvertError::Trace(error)) => {
            refused = Some(error);
            Err(io::Error::other("refused"))
        }
        Err(error) => Err(io::Error::other(error)),
    });
    if let Some(error) = refused {
        return Err(error.into());
    }
    written?.publish()?;
    let Some(lost) = lost else { return Ok(()) };
    if lost.turns_lost > 0 {
        let count = lost.turns_lost;
        tell(format_args!("warning: {count} turns no longer wait for the turn before them"));
    }
    if lost.blocks_lost {
        tell("warning: the layout has no prefix blocks");
    }
    if lost.blocks_merged {
        tell(format_args!(
            "warning: prefix blocks of {} tokens are put together to blocks of 512",
            trace.block_tokens
        ));
    }
    Ok(())
}

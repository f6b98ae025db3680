//! The table of settings: one command that plays built-in workloads and public traces at several sizes.
//!
//! No policy may be tuned to one of them; a policy that leads on one and falls behind on another shows here.

use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;
use serde::Serialize;

use super::{progress_bar, run};
use crate::cluster::{Run, Scenario, Source, StepCost};
use crate::error::SimError;
use crate::report::{Arguments, Spread, aligned, by_policy, short};
use crate::traces::{ReadOptions, Trace};
use crate::workloads::Workload;

/// What a setting draws its requests from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A built-in workload.
    Workload(Workload),
    /// A trace of this file name, cut to outputs of at least so many tokens.
    Trace(&'static str, u32),
}

/// One row of the table, closed arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Lengths of requests.
    pub from: From,
    /// Decode workers.
    pub workers: usize,
    /// Slots of each.
    pub slots: u32,
    /// Requests kept waiting.
    pub pool: usize,
}

const fn row(from: From, workers: usize, slots: u32, pool: usize) -> Setting {
    Setting { from, workers, slots, pool }
}

const PROD: From = From::Workload(Workload::PaperProd);
const LOGNORMAL: From = From::Workload(Workload::Lognormal);
const CONV: From = From::Trace("azure_2023_conv.csv", 0);
const CODE: From = From::Trace("azure_2023_code.csv", 0);
const MOONCAKE: From = From::Trace("mooncake_conversation.jsonl", 0);

/// Every row, in the order of the table.
pub const SETTINGS: [Setting; 18] = [
    row(PROD, 8, 72, 8),
    row(PROD, 8, 72, 32),
    row(PROD, 8, 72, 128),
    row(PROD, 8, 72, 512),
    row(PROD, 16, 72, 64),
    row(PROD, 32, 72, 128),
    row(PROD, 64, 72, 256),
    row(LOGNORMAL, 8, 64, 64),
    row(LOGNORMAL, 16, 64, 256),
    row(LOGNORMAL, 64, 64, 256),
    row(From::Workload(Workload::Geometric), 16, 72, 64),
    row(CONV, 8, 72, 32),
    row(CONV, 16, 72, 128),
    row(From::Trace("azure_2023_conv.csv", 301), 8, 72, 32),
    row(CODE, 8, 72, 32),
    row(CODE, 16, 72, 256),
    row(MOONCAKE, 8, 72, 32),
    row(MOONCAKE, 16, 72, 64),
];

/// A heavy tail of our own, in place of Mooncake's synthetic trace.
pub const HEAVY_TAIL: Setting = row(From::Workload(Workload::MooncakeLike), 8, 72, 32);

/// How the table is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Folder of the traces.
    pub traces: &'a Path,
    /// Leave out the rows whose trace is not there instead of failing.
    pub skip_missing: bool,
    /// Policies; ratios are to the last.
    pub policies: &'a [String],
    /// Seeds per policy.
    pub seeds: u64,
    /// Runs at a time; 0 for one per processor.
    pub threads: usize,
    /// Draw a bar on stderr when that is a terminal.
    pub progress: bool,
}

/// The runs of one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Source, workers, slots and pool in words.
    pub name: String,
    /// What was simulated.
    pub arguments: Arguments,
    /// One object per policy and seed.
    pub runs: Vec<Run>,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Version of this crate.
    pub version: &'static str,
    /// One entry per setting.
    pub settings: Vec<Row>,
    /// Settings left out because their trace is missing.
    pub missing: Vec<String>,
}

impl Setting {
    /// In words.
    #[must_use]
    pub fn name(&self) -> String {
        let source = match self.from {
            From::Workload(workload) => workload.name().to_owned(),
            From::Trace(file, 0) => file.split('.').next().unwrap_or(file).to_owned(),
            From::Trace(file, least) => {
                format!("{} out>={least}", file.split('.').next().unwrap_or(file))
            }
        };
        format!("{source} G={} B={} P={}", self.workers, self.slots, self.pool)
    }

    fn scenario(&self, source: Source, options: &Options<'_>) -> Scenario {
        // Steps follow the residence time: some turnovers of the cluster whatever the outputs.
        let jobs = source.library();
        let outputs: u64 = jobs.iter().map(|job| u64::from(job.output_tokens)).sum();
        let mean_output = outputs / jobs.len().max(1) as u64;
        Scenario {
            source,
            workers: self.workers,
            slots: self.slots,
            pool: self.pool,
            policies: options.policies.to_vec(),
            seeds: options.seeds,
            steps: Some((16 * mean_output).clamp(10_000, 20_000)),
            warmup: (2 * mean_output).clamp(500, 3_000),
            cost: StepCost::published(self.slots),
            threads: options.threads,
            ..Scenario::default()
        }
    }
}

/// Runs every setting.
///
/// # Errors
/// A trace that is missing (unless skipped) or malformed, or a run that could not go on.
pub fn table(options: &Options<'_>) -> Result<Table, SimError> {
    let settings: Vec<Setting> = SETTINGS.into_iter().chain([HEAVY_TAIL]).collect();
    let bar = if options.progress { progress_bar(settings.len() as u64) } else { ProgressBar::hidden() };
    let mut table = Table { version: env!("CARGO_PKG_VERSION"), settings: Vec::new(), missing: Vec::new() };
    let mut last: Option<(From, Source)> = None;
    for setting in settings {
        let name = setting.name();
        bar.set_message(name.clone());
        let source = match (setting.from, last.take()) {
            (from, Some((read, source))) if from == read => source,
            (From::Workload(workload), _) => Source::Workload(workload),
            (From::Trace(file, min_output_tokens), _) => {
                let path = options.traces.join(file);
                if options.skip_missing && !path.exists() {
                    table.missing.push(name);
                    continue;
                }
                let read = ReadOptions { min_output_tokens, ..ReadOptions::default() };
                Source::Trace(Arc::new(Trace::read(&path, read)?))
            }
        };
        last = Some((setting.from, source.clone()));
        let scenario = setting.scenario(source, options);
        let runs = run(&scenario, false)?;
        table.settings.push(Row { name, arguments: Arguments::of(&scenario), runs });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(table)
}

impl Table {
    /// One line per setting: imbalance of each policy and its ratio to the last one.
    #[must_use]
    pub fn text(&self) -> String {
        let Some(first) = self.settings.first() else { return String::new() };
        let policies = &first.arguments.policies;
        let mut head = vec!["imbalance, mean over seeds".to_owned(), "bound".to_owned()];
        head.extend(policies.iter().cloned());
        if let Some((reference, others)) = policies.split_last() {
            head.extend(others.iter().map(|policy| format!("{policy}/{reference}")));
        }
        let mut rows = vec![head];
        for setting in &self.settings {
            let groups = by_policy(&setting.runs);
            let means: Vec<Spread> =
                groups.iter().map(|runs| Spread::of(runs.iter().map(|run| run.imbalance_mean))).collect();
            let bound = setting.runs.first().map_or(0.0, |run| run.bound_imbalance);
            let mut cells = vec![setting.name.clone(), short(bound)];
            cells.extend(means.iter().map(|mean| format!("{} +- {}", short(mean.mean), short(mean.sd))));
            if let Some((reference, others)) = means.split_last() {
                cells.extend(others.iter().map(|mean| format!("{:.2}", mean.mean / reference.mean)));
            }
            rows.push(cells);
        }
        let mut text = aligned(&rows);
        for name in &self.missing {
            text.push_str(&format!("{name}: left out, its trace is missing\n"));
        }
        text
    }
}

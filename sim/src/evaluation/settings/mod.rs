//! The table of settings: one command that plays built-in workloads and public traces at several sizes.
//!
//! No policy may be tuned to one of them; a policy that leads on one and falls behind on another shows here.
//! Each row has the arguments and the warm-up of `simulate`, and says with which arguments that plays it.

mod record;
mod rows;

use std::path::Path;
use std::sync::Arc;

pub use record::Record;
pub use rows::{From, Group, Setting, settings};
use serde::Serialize;

use super::progress::count_bar;
use super::run;
use crate::cluster::{Run, Source};
use crate::error::{SimError, argument};
use crate::report::page::{Grid, Page, Style};
use crate::report::{
    Arguments, Paired, SETTINGS_LEGEND, by_policy, difference_grid, differences, legend_of, paired, short,
};
use crate::traces::{ReadOptions, Trace};

/// How the table is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Folder of the traces.
    pub traces: &'a Path,
    /// Leave out the rows whose trace is not there instead of failing.
    pub skip_missing: bool,
    /// Policies; ratios and differences are to the last.
    pub policies: &'a [String],
    /// Rows with one of these in their `group: name`; empty for all.
    pub only: &'a [String],
    /// Seeds per policy; without it as many as the row has. A trace in its own times leaves nothing to a
    /// seed and has one.
    pub seeds: Option<u64>,
    /// The first seed.
    pub first_seed: u64,
    /// Runs at a time; 0 for one per processor.
    pub threads: usize,
    /// Draw a bar on stderr when that is a terminal.
    pub progress: bool,
}

/// The runs of one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Source, workers, slots, pool and what else differs, in words.
    pub name: String,
    /// What the row is there to show.
    pub group: &'static str,
    /// The command that plays it alone.
    pub command: String,
    /// What was simulated.
    pub arguments: Arguments,
    /// One object per policy, seed and window.
    pub runs: Vec<Run>,
    /// What each policy differs by from the last, run by run.
    pub paired: Vec<Paired>,
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

/// The rows that the patterns choose; all without patterns.
///
/// # Errors
/// No row is chosen.
pub fn chosen(only: &[String]) -> Result<Vec<Setting>, SimError> {
    let mut chosen = settings();
    chosen.retain(|setting| setting.matches(only));
    if chosen.is_empty() {
        return Err(argument("only", "a part of a row's group: name (--list has them)", only.join(",")));
    }
    Ok(chosen)
}

/// Two lines per row: its group and name, and the command that plays it alone.
///
/// # Errors
/// No row is chosen.
pub fn list(only: &[String], traces: &Path) -> Result<String, SimError> {
    let line = |setting: Setting| {
        let (group, name, command) = (setting.group.name(), setting.name(), command(&setting, traces));
        format!("{group}: {name}\n    {command}\n")
    };
    Ok(chosen(only)?.into_iter().map(line).collect())
}

fn command(setting: &Setting, traces: &Path) -> String {
    format!("cargo sim simulate {}", setting.flags(traces).join(" "))
}

/// Runs every chosen setting.
///
/// # Errors
/// No row is chosen, a trace that is missing (unless skipped) or malformed, or a run that could not go on.
pub fn table(options: &Options<'_>) -> Result<Table, SimError> {
    table_seen(options, |_| Ok(()))
}

/// Runs every chosen setting and shows each row as soon as it is there.
///
/// # Errors
/// As [`table`], and whatever the caller finds.
pub fn table_seen(
    options: &Options<'_>,
    mut see: impl FnMut(&Row) -> Result<(), SimError>,
) -> Result<Table, SimError> {
    let settings = chosen(options.only)?;
    let bar = count_bar(options.progress, settings.len(), "rows");
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
                Source::Trace(Arc::new(Trace::read(&path, &read)?))
            }
        };
        last = Some((setting.from, source.clone()));
        let mut scenario = setting.scenario(source);
        scenario.policies = options.policies.to_vec();
        scenario.seeds =
            if setting.rate_scale.is_some() { 1 } else { options.seeds.unwrap_or(setting.seeds) };
        scenario.first_seed = options.first_seed;
        scenario.threads = options.threads;
        let runs = run(&scenario, false)?;
        let row = Row {
            name,
            group: setting.group.name(),
            command: command(&setting, options.traces),
            arguments: Arguments::of(&scenario),
            paired: paired(&runs),
            runs,
        };
        see(&row)?;
        table.settings.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(table)
}

impl Row {
    fn caption(&self) -> String {
        let bound = self.runs.first().map_or(0.0, |run| run.bound_imbalance);
        format!("{}: {}, bound {}\n", self.group, self.name, short(bound))
    }

    /// One record per policy.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        by_policy(&self.runs).into_iter().map(|runs| Record::of(self, runs)).collect()
    }
}

impl Table {
    /// One record per setting and policy.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.settings.iter().flat_map(Row::records).collect()
    }

    /// Each setting with one line per policy; ratios are of the imbalance to the last policy's. Windows show
    /// their paired differences as well.
    #[must_use]
    pub fn text(&self) -> String {
        self.in_one(&self.grid().show(Style::Plain))
    }

    /// The table in a style: in one piece where there is room for that, else setting by setting; with what
    /// the names of the columns mean where that is asked for.
    #[must_use]
    pub fn page(&self, style: Style, with_legend: bool) -> Page {
        let grid = self.grid();
        let names = grid.names();
        let page = if grid.fits(style) {
            Page::new().text(self.in_one(&grid.show(Style::Plain)))
        } else {
            self.one_by_one(&grid)
        };
        if with_legend { page.legend(legend_of(&SETTINGS_LEGEND, &names)) } else { page }
    }

    /// A line per setting and policy.
    fn grid(&self) -> Grid {
        let records = self.records();
        let head = [Record::HEAD, Record::UNITS].map(|row| row.map(str::to_owned).to_vec());
        let cells = records.iter().map(|record| {
            let of_row = records.iter().rfind(|other| other.row == record.row);
            record.cells(of_row.map_or(0.0, |last| last.imbalance))
        });
        Grid::new(head.into_iter().chain(cells).collect(), 2)
    }

    fn one_by_one(&self, grid: &Grid) -> Page {
        let (mut page, mut from) = (Page::new(), 0);
        for row in &self.settings {
            let to = from + by_policy(&row.runs).len();
            page = page.captioned(row.caption(), grid.part(from..to));
            from = to;
            if row.arguments.windows > 0 {
                page = page.grid(difference_grid(&row.paired));
            }
        }
        if self.missing.is_empty() { page } else { page.text(self.left_out()) }
    }

    fn left_out(&self) -> String {
        self.missing.iter().map(|name| format!("{name}: left out, its trace is missing\n")).collect()
    }

    /// The lines of the table, settings between them.
    fn in_one(&self, lines: &str) -> String {
        let mut lines = lines.lines();
        let mut text = String::new();
        let mut line = |text: &mut String| {
            text.push_str(lines.next().unwrap_or_default());
            text.push('\n');
        };
        line(&mut text);
        line(&mut text);
        for row in &self.settings {
            text.push_str(&row.caption());
            for _ in by_policy(&row.runs) {
                line(&mut text);
            }
            if row.arguments.windows > 0 {
                text.push_str(&differences(&row.paired));
            }
        }
        text + &self.left_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Scenario;

    fn row(name: &str, windows: u32) -> Row {
        let run = |policy: &str, imbalance_mean| Run {
            policy: policy.to_owned(),
            imbalance_mean,
            bound_imbalance: 17_000.0,
            ..Run::default()
        };
        let runs = vec![run("level", 20_000.0), run("exact", 40_000.0)];
        let arguments = Arguments::of(&Scenario { windows, ..Scenario::default() });
        let (name, command) = (name.to_owned(), String::new());
        Row { name, group: "closed", command, arguments, paired: paired(&runs), runs }
    }

    #[test]
    fn settings_stand_in_one_table_where_there_is_room_and_else_apart() {
        let table = Table {
            version: "0",
            settings: vec![row("one", 0), row("two", 3)],
            missing: vec!["three".to_owned()],
        };
        let text = table.text();
        assert_eq!(table.page(Style::Plain, false).show(Style::Plain), text);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("imbalance") && lines[2] == "closed: one, bound 17.0k", "{text}");
        assert!(lines[3].starts_with("  level") && lines[3].contains("0.50"), "{text}");
        assert!(lines[5] == "closed: two, bound 17.0k" && lines[8].starts_with("minus exact"), "{text}");
        assert_eq!(lines[10], "three: left out, its trace is missing");

        let narrow = Style::Within(40);
        let apart = table.page(narrow, false).show(narrow);
        assert!(apart.lines().all(|line| line.chars().count() <= 40), "{apart}");
        assert!(apart.lines().filter(|line| line.starts_with("  level")).count() >= 4, "{apart}");
        let md = table.page(Style::Markdown, true).show(Style::Markdown);
        assert_eq!(md.lines().filter(|line| line.starts_with("| level ")).count(), 3, "{md}");
        for part in ["closed: one, bound 17.0k", "| TPOT p95 ms |", "three: left out", "| column "] {
            assert!(md.contains(part), "{part}: {md}");
        }
    }
}

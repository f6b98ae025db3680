//! `evaluate --study paper`: the published study beside a simulation of it, and what it leaves out.
//!
//! A section plays a few cases under some policies and several seeds, lays what was published beside them
//! ([`published`]), and derives from the numbers where both agree: other seeds, or a change of a rule, give
//! other lines.

mod findings;
mod played;
pub mod published;
mod sections;

use std::path::{Path, PathBuf};

pub use findings::{Finding, TOLERANCE};
pub use played::Row;
use played::{Played, Results};
use sections::{Cases, SECTIONS, Section, Size};
use serde::Serialize;

use super::progress::steps_bar;
use super::run_all;
use crate::error::{SimError, argument};
use crate::report::json::JsonFile;
use crate::report::page::{Grid, Style};
use crate::report::{Spread, by_policy, short};

/// Fewest seeds: with fewer an interval says little.
pub const LEAST_SEEDS: u64 = 3;
const SEEDS: u64 = 5;
/// The file in the folder of `--out`.
const FILE: &str = "study.json";

/// How the study is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Names of sections; empty for all.
    pub only: &'a [String],
    /// Fewer cases and steps, and three seeds.
    pub quick: bool,
    /// Seeds of each case; without it 5, quick 3.
    pub seeds: Option<u64>,
    /// The first of them.
    pub first_seed: u64,
    /// Folder of the public traces.
    pub traces: &'a Path,
    /// Runs at a time; 0 for one per processor. No result depends on it.
    pub threads: usize,
    /// Draw a bar on stderr when that is a terminal.
    pub progress: bool,
    /// Where the study is written after each section.
    pub out: Option<&'a Path>,
}

/// A section that was played.
#[derive(Clone, Debug, Serialize)]
pub struct SectionPlayed {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The command that plays it alone.
    pub command: String,
    /// Why it was left out, if it was.
    pub left_out: Option<String>,
    /// One entry per case and policy.
    pub rows: Vec<Row>,
    /// What the numbers say.
    pub findings: Vec<Finding>,
}

/// The study.
#[derive(Clone, Debug, Serialize)]
pub struct Study {
    /// Version of this crate.
    pub version: &'static str,
    /// Where the published figures are from.
    pub source: &'static str,
    /// Whether it was a quick one.
    pub quick: bool,
    /// Seeds of each case; as many windows where arrivals are those of a trace.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
    /// How near a figure must be to the published one to agree, as a share of it.
    pub tolerance: f64,
    /// Whether every section that was asked for is there.
    pub complete: bool,
    /// Section by section.
    pub sections: Vec<SectionPlayed>,
}

/// Names of the sections, in order.
pub fn section_names() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|section| section.name)
}

fn chosen(only: &[String]) -> Result<Vec<&'static Section>, SimError> {
    let expected = || format!("some of {}", section_names().collect::<Vec<_>>().join(", "));
    if let Some(name) = only.iter().find(|name| !section_names().any(|known| known == name.as_str())) {
        return Err(argument("only", expected(), format!("{name:?}")));
    }
    let wanted = |section: &&Section| only.is_empty() || only.iter().any(|name| name == section.name);
    Ok(SECTIONS.iter().filter(wanted).collect())
}

/// Plays the sections, and shows each as soon as it is there.
///
/// # Errors
/// A section that does not exist, fewer than [`LEAST_SEEDS`] seeds, a trace that cannot be read, a run that
/// could not go on, what cannot be written, and whatever the caller finds.
pub fn study(
    options: &Options<'_>,
    mut see: impl FnMut(&SectionPlayed) -> Result<(), SimError>,
) -> Result<Study, SimError> {
    let sections = chosen(options.only)?;
    let seeds = options.seeds.unwrap_or(if options.quick { LEAST_SEEDS } else { SEEDS });
    if seeds < LEAST_SEEDS {
        return Err(argument("seeds", format!("at least {LEAST_SEEDS} of a study"), seeds));
    }
    let file = options.out.map(folder).transpose()?;
    let size = Size { quick: options.quick, seeds, first_seed: options.first_seed, traces: options.traces };
    let mut study = Study {
        version: env!("CARGO_PKG_VERSION"),
        source: published::SOURCE,
        quick: options.quick,
        seeds,
        first_seed: options.first_seed,
        tolerance: TOLERANCE,
        complete: false,
        sections: Vec::new(),
    };
    for (at, section) in sections.iter().enumerate() {
        let played = play(section, &size, options)?;
        see(&played)?;
        study.sections.push(played);
        study.complete = at + 1 == sections.len();
        if let Some(file) = &file {
            JsonFile::create(file)?.write(&study)?.publish()?;
        }
    }
    Ok(study)
}

fn folder(path: &Path) -> Result<PathBuf, SimError> {
    let made = std::fs::create_dir_all(path);
    made.map_err(|source| SimError::Write { file: path.display().to_string(), source })?;
    Ok(path.join(FILE))
}

fn play(section: &Section, size: &Size<'_>, options: &Options<'_>) -> Result<SectionPlayed, SimError> {
    let mut command = format!("balanceroute evaluate --study paper --only {}", section.name);
    command.push_str(if size.quick { " --quick" } else { "" });
    for (flag, value, default) in [
        ("seeds", size.seeds, if size.quick { LEAST_SEEDS } else { SEEDS }),
        ("first-seed", size.first_seed, 0),
    ] {
        if value != default {
            command.push_str(&format!(" --{flag} {value}"));
        }
    }
    let empty = SectionPlayed {
        name: section.name,
        about: section.about,
        command,
        left_out: None,
        rows: Vec::new(),
        findings: Vec::new(),
    };
    let cases = match (section.cases)(size)? {
        Cases::Played(cases) => cases,
        Cases::LeftOut(why) => return Ok(SectionPlayed { left_out: Some(why), ..empty }),
    };
    let scenarios: Vec<_> = cases.iter().map(|case| case.scenario.clone()).collect();
    let runs = run_all(&scenarios, options.threads, &steps_bar(options.progress))?;
    let of_case = |(case, runs): (&sections::Case, Vec<crate::cluster::Run>)| -> Vec<Played> {
        let of_policy = |runs: &[crate::cluster::Run]| {
            let policy = runs.first().map_or_else(String::new, |run| run.policy.clone());
            let published = case.published.iter().find(|row| row.policy == policy).copied();
            Played { case: case.name.clone(), policy, runs: runs.to_vec(), published }
        };
        by_policy(&runs).into_iter().map(of_policy).collect()
    };
    let results = Results(cases.iter().zip(runs).flat_map(of_case).collect());
    Ok(SectionPlayed {
        rows: results.0.iter().map(Played::row).collect(),
        findings: (section.findings)(&results),
        ..empty
    })
}

impl SectionPlayed {
    /// Heading, table and findings.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n{}\n\n", self.name, self.about, self.command);
        if let Some(why) = &self.left_out {
            text.push_str(&format!("left out: {why}\n\n"));
            return text;
        }
        text.push_str(&self.table());
        text.push('\n');
        self.findings.iter().for_each(|finding| text.push_str(&finding.line()));
        text.push('\n');
        text
    }

    fn table(&self) -> String {
        let is_printed = self.rows.iter().any(|row| row.published.is_some());
        let is_cached = self.rows.iter().any(|row| row.cached_token_share.is_some());
        let mut rows = vec![Vec::new(), Vec::new()];
        let mut add = |first: &str, second: &str| {
            rows[0].push(first.to_owned());
            rows[1].push(second.to_owned());
        };
        add("", "");
        for (name, unit) in [("imbalance", ""), ("tok/s", ""), ("TPOT", "p95 ms")] {
            add(name, unit);
            add("+-", "sd");
            if is_printed {
                add("published", "");
            }
        }
        for (name, unit) in
            [("wait", "p99 ms"), ("wait", "max ms"), ("empty", "slots %"), ("preempted", "/finished")]
        {
            add(name, unit);
        }
        if is_cached {
            add("cached", "tokens %");
        }
        add("decide", "p50 us");
        add("", "p99 us");
        for row in &self.rows {
            let fixed = |value: f64, digits: usize| format!("{value:.digits$}");
            let mut cells = vec![format!("  {}", row.policy)];
            let printed = row.published.as_ref();
            let mut figure = |of: Spread, printed: Option<f64>, show: &dyn Fn(f64) -> String| {
                cells.extend([show(of.mean), show(of.sd)]);
                if is_printed {
                    cells.push(printed.map_or("-".to_owned(), show));
                }
            };
            figure(row.imbalance, printed.map(|of| of.imbalance), &short);
            figure(row.tokens_per_s, printed.map(|of| of.tokens_per_s), &|value| fixed(value, 0));
            figure(row.tpot_p95_ms, printed.map(|of| of.tpot_p95_ms), &|value| fixed(value, 2));
            cells.extend([
                fixed(row.wait_p99_ms.mean, 0),
                fixed(row.wait_max_ms.max, 0),
                fixed(100.0 * row.empty_slot_fraction.mean, 2),
                fixed(row.preempted_per_finished.mean, 3),
            ]);
            if is_cached {
                cells.push(row.cached_token_share.map_or("-".to_owned(), |of| fixed(100.0 * of.mean, 1)));
            }
            cells.extend(row.decide_us.map(|of| fixed(of.mean, 1)));
            rows.push(cells);
        }
        // Each case stands above its rows.
        let table = Grid::new(rows, 2).show(Style::Plain);
        let (head, lines) = (table.lines().take(2), table.lines().skip(2));
        let mut text: String = head.map(|line| format!("{line}\n")).collect();
        let mut case = None;
        for (row, line) in self.rows.iter().zip(lines) {
            if case.replace(&row.case) != Some(&row.case) {
                text.push_str(&format!("{}\n", row.case));
            }
            text.push_str(&format!("{line}\n"));
        }
        text
    }
}

impl Study {
    /// How many lines agree with the publication, and how many do not.
    #[must_use]
    pub fn text(&self) -> String {
        let findings = || self.sections.iter().flat_map(|section| &section.findings);
        let count = |agrees: bool| findings().filter(|found| found.agrees == Some(agrees)).count();
        format!(
            "{} lines agree with the publication ({}) within {:.0} %, {} differ; {} seeds a case\n",
            count(true),
            self.source,
            100.0 * self.tolerance,
            count(false),
            self.seeds
        )
    }
}

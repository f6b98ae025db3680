//! `sweep`: scenarios that differ in some arguments, in one table.

use std::collections::BTreeMap;

use serde::Serialize;

use super::progress::count_bar;
use super::run;
use crate::cluster::{Run, Scenario};
use crate::error::SimError;
use crate::report::page::{Grid, Page};
use crate::report::{Arguments, SWEEP_LEGEND, Spread, by_policy, legend_of, short};

/// A scenario, and the arguments by which it differs from the others.
#[derive(Clone, Debug)]
pub struct Point {
    /// Names and values.
    pub varied: Vec<(String, String)>,
    /// What is played.
    pub scenario: Scenario,
}

/// All scenarios, each with its runs.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// Version of this crate.
    pub version: &'static str,
    /// In the order of the values, the last flag fastest.
    pub points: Vec<Played>,
}

/// A scenario that has been played.
#[derive(Clone, Debug, Serialize)]
pub struct Played {
    /// Names and values.
    pub varied: Vec<(String, String)>,
    /// What was played.
    pub arguments: Arguments,
    /// One object per policy, seed and window.
    pub runs: Vec<Run>,
}

/// Plays them one after the other, the runs of each in parallel.
///
/// # Errors
/// The first run that could not go on.
pub fn sweep(points: Vec<Point>, progress: bool) -> Result<Sweep, SimError> {
    let bar = count_bar(progress, points.len(), "rows");
    let mut played = Vec::new();
    for Point { varied, scenario } in points {
        bar.set_message(varied.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" "));
        let runs = run(&scenario, false)?;
        played.push(Played { varied, arguments: Arguments::of(&scenario), runs });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Sweep { version: env!("CARGO_PKG_VERSION"), points: played })
}

/// A run, and the arguments by which it differs from the others.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'a> {
    varied: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    run: &'a Run,
}

impl Sweep {
    /// Every run of every scenario.
    #[must_use]
    pub fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        for point in &self.points {
            let varied =
                || point.varied.iter().map(|(flag, value)| (flag.as_str(), value.as_str())).collect();
            lines.extend(point.runs.iter().map(|run| Line { varied: varied(), run }));
        }
        lines
    }

    /// A row per scenario and policy: means over seeds and windows. With what the names of the columns mean
    /// where that is asked for.
    #[must_use]
    pub fn page(&self, with_legend: bool) -> Page {
        const HEAD: [[&str; 9]; 2] = [
            ["imbalance", "+-", "tok/s", "+-", "TPOT", "wait ms", "wait ms", "preempted", "empty"],
            ["G*max-sum", "sd", "", "sd", "p95 ms", "p99", "max", "/finished", "slots %"],
        ];
        let flags = self.points.first().map_or(&[][..], |first| &first.varied);
        let mut names: Vec<String> = flags.iter().map(|(flag, _)| flag.clone()).collect();
        names.push("policy".to_owned());
        let below = vec![String::new(); names.len()];
        let mut rows = [names, below].to_vec();
        for (row, head) in rows.iter_mut().zip(HEAD) {
            row.extend(head.map(str::to_owned));
        }
        for point in &self.points {
            for runs in by_policy(&point.runs) {
                let over = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
                let (imbalance, tokens) = (over(|run| run.imbalance_mean), over(|run| run.tokens_per_s));
                let mut row: Vec<String> = point.varied.iter().map(|(_, value)| value.clone()).collect();
                row.extend([
                    runs[0].policy.clone(),
                    short(imbalance.mean),
                    short(imbalance.sd),
                    format!("{:.0}", tokens.mean),
                    format!("{:.0}", tokens.sd),
                    format!("{:.2}", over(|run| run.tpot_ms.p95).mean),
                    short(over(|run| run.wait_ms.p99).mean),
                    short(over(|run| run.wait_ms.max).max),
                    format!("{:.3}", over(|run| run.preempted_per_finished).mean),
                    format!("{:.2}", 100.0 * over(|run| run.empty_slot_fraction).mean),
                ]);
                rows.push(row);
            }
        }
        let grid = Grid::new(rows, HEAD.len());
        let names = grid.names();
        let page = Page::new().grid(grid);
        if with_legend { page.legend(legend_of(&SWEEP_LEGEND, &names)) } else { page }
    }
}

//! `sweep`: scenarios that differ in some arguments, in one table.

use indicatif::ProgressBar;
use serde::Serialize;

use super::{bar, run};
use crate::cluster::{Run, Scenario};
use crate::error::SimError;
use crate::report::{Arguments, Spread, aligned, by_policy, short};

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
    let bar: ProgressBar = bar(points.len() as u64, "scenarios", progress);
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

impl Sweep {
    /// A row per scenario and policy: means over seeds and windows.
    #[must_use]
    pub fn text(&self) -> String {
        const HEAD: [[&str; 9]; 2] = [
            ["imbalance", "+-", "tok/s", "+-", "TPOT", "wait ms", "wait ms", "preempted", "empty"],
            ["G*max-sum", "sd", "", "sd", "p95 ms", "p99", "max", "/finished", "slots %"],
        ];
        let Some(first) = self.points.first() else { return String::new() };
        let names = first.varied.iter().map(|(name, _)| name.clone());
        let mut rows = vec![
            names.chain(["policy".to_owned()]).chain(HEAD[0].map(str::to_owned)).collect::<Vec<_>>(),
            vec![String::new(); first.varied.len() + 1],
        ];
        rows[1].extend(HEAD[1].map(str::to_owned));
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
        aligned(&rows)
    }
}

//! How far rules are from optimal: decision by decision from the least imbalance that their step could have
//! left, and over a whole run from the bound that holds without knowledge of ends.

mod program;
mod state;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

pub(crate) use self::state::{Decision, Sampler};
use super::progress::{count_bar, steps_bar};
use super::{in_parallel, runs_seen};
use crate::cluster::{Arrivals, Run, Scenario};
use crate::error::{SimError, argument};
use crate::report::page::{Grid, Page};
use crate::report::results::OptimumFigures;
use crate::report::{Arguments, OPTIMUM_LEGEND, Spread, by_policy, heading, legend_of, short};

/// Of a decision, pairs of a waiting request and an open worker that the program may choose from.
pub const MOST_PAIRS: usize = 2_048;
/// Decisions that may be asked for, of each run.
pub const MOST_DECISIONS: usize = 100_000;

/// What is solved.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decisions of each run, at least, where it has so many; up to twice as many are taken.
    pub decisions: usize,
    /// Time for each, after which it counts as unsolved.
    pub limit: Duration,
    /// Whether bars are drawn on stderr, where that is a terminal.
    pub progress: bool,
}

/// Every rule beside the optimum.
#[derive(Clone, Debug, Serialize)]
pub struct Optimum {
    /// Version of this crate.
    pub version: &'static str,
    /// Who solved.
    pub solver: &'static str,
    /// What was played.
    pub arguments: Arguments,
    /// In the order of the policies.
    pub rules: Vec<RuleOptimum>,
    #[serde(skip)]
    heading: String,
}

/// A rule beside the optimum.
#[derive(Clone, Debug, Serialize)]
pub struct RuleOptimum {
    /// Its name.
    pub policy: String,
    /// Mean imbalance of its runs in tokens, over the seeds.
    pub imbalance_tokens: Spread,
    /// That over the bound of the closed loop, which holds without knowledge of ends; none where arrivals are
    /// open or one worker is all.
    pub of_bound: Option<f64>,
    /// Its decisions beside the best of their steps.
    #[serde(flatten)]
    pub figures: OptimumFigures,
}

#[cfg(feature = "highs")]
const SOLVER: &str = "HiGHS";
#[cfg(not(feature = "highs"))]
const SOLVER: &str = "microlp";

/// What a decision left, and the least that it could have, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Solved {
    left: f64,
    least: f64,
}

/// Solves a decision; none where the time did not suffice.
fn solve(decision: &Decision, limit: Duration) -> Option<Solved> {
    let left = decision.state.imbalance_after(&decision.admissions);
    let best = program::best(decision, limit)?;
    // Solvers round: what a rule does better than they is the optimum.
    let least = decision.state.imbalance_after(&best).min(left);
    Some(Solved { left, least })
}

/// Plays every policy of a scenario and solves decisions of each run.
///
/// # Errors
/// An argument out of range, or the first run that could not go on.
pub fn optimum(scenario: &Scenario, options: Options) -> Result<Optimum, SimError> {
    if !(1..=MOST_DECISIONS).contains(&options.decisions) {
        let expected = format!("a whole number in 1..={MOST_DECISIONS}");
        return Err(argument("decisions", expected, options.decisions));
    }
    let sampler = || Sampler::new(options.decisions, MOST_PAIRS);
    let scenarios = std::slice::from_ref(scenario);
    let seen = runs_seen(scenarios, scenario.threads, &steps_bar(options.progress), sampler)?;
    let (runs, samplers): (Vec<Run>, Vec<Sampler>) = seen.into_iter().flatten().unzip();
    let mut samplers = samplers.into_iter();
    let mut rules = Vec::new();
    for runs in by_policy(&runs) {
        let (mut decisions, mut too_large) = (Vec::new(), 0);
        for sampler in samplers.by_ref().take(runs.len()) {
            let (of_run, beyond) = sampler.into_decisions();
            decisions.extend(of_run);
            too_large += beyond;
        }
        let tasks: Vec<&Decision> = decisions.iter().collect();
        let bar = count_bar(options.progress, tasks.len(), "decisions");
        bar.set_message(runs[0].policy.clone());
        let solved = in_parallel(scenario.threads, &tasks, |decision| {
            let solved = solve(decision, options.limit);
            bar.inc(1);
            Ok(solved)
        });
        bar.finish_and_clear();
        rules.push(RuleOptimum::of(scenario, runs, figures(&solved?, too_large)));
    }
    Ok(Optimum {
        version: env!("CARGO_PKG_VERSION"),
        solver: SOLVER,
        arguments: Arguments::of(scenario),
        rules,
        heading: heading(scenario),
    })
}

impl RuleOptimum {
    fn of(scenario: &Scenario, runs: &[Run], figures: OptimumFigures) -> Self {
        let imbalance_tokens = Spread::of(runs.iter().map(|run| run.imbalance_mean));
        let bound = Spread::of(runs.iter().map(|run| run.bound_imbalance)).mean;
        let is_bound = scenario.arrivals == Arrivals::Closed && bound > 0.0;
        let of_bound = is_bound.then(|| imbalance_tokens.mean / bound);
        Self { policy: runs[0].policy.clone(), imbalance_tokens, of_bound, figures }
    }
}

/// Figures of decisions: what those left that were solved, and how many were not.
fn figures(outcomes: &[Option<Solved>], too_large: usize) -> OptimumFigures {
    let solved: Vec<Solved> = outcomes.iter().copied().flatten().collect();
    let mut above: Vec<f64> = solved.iter().map(|of| of.left - of.least).collect();
    above.sort_unstable_by(f64::total_cmp);
    let mean = |figure: fn(&Solved) -> f64| Spread::of(solved.iter().map(figure)).mean;
    let optimal = above.iter().filter(|&&above| above < HALF_A_TOKEN).count();
    OptimumFigures {
        decisions: solved.len(),
        unsolved: outcomes.len() - solved.len(),
        too_large,
        optimal: optimal as f64 / solved.len().max(1) as f64,
        left_tokens: mean(|of| of.left),
        least_tokens: mean(|of| of.least),
        above_mean_tokens: Spread::of(above.iter().copied()).mean,
        above_p95_tokens: above.get(above.len() * 95 / 100).copied().unwrap_or(0.0),
    }
}

impl Sampler {
    /// Solves what was kept, one after the other.
    pub(crate) fn figures(self, limit: Duration) -> OptimumFigures {
        let (decisions, too_large) = self.into_decisions();
        figures(&decisions.iter().map(|decision| solve(decision, limit)).collect::<Vec<_>>(), too_large)
    }
}

/// Where weights are fractions, so are loads.
const HALF_A_TOKEN: f64 = 0.5;

impl Optimum {
    /// The table, with what the names of the columns mean where that is asked for.
    #[must_use]
    pub fn page(&self, with_legend: bool) -> Page {
        const HEAD: [[&str; 9]; 2] = [
            ["policy", "imbalance", "/ bound", "decisions", "optimal", "left", "least", "above", "above"],
            ["", "of the run", "", "solved", "%", "by them", "possible", "mean", "p95"],
        ];
        let mut rows = HEAD.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        for rule in &self.rules {
            let of = &rule.figures;
            rows.push(vec![
                rule.policy.clone(),
                short(rule.imbalance_tokens.mean),
                rule.of_bound.map_or("-".to_owned(), |of| format!("{of:.2}")),
                of.decisions.to_string(),
                format!("{:.1}", 100.0 * of.optimal),
                short(of.left_tokens),
                short(of.least_tokens),
                short(of.above_mean_tokens),
                short(of.above_p95_tokens),
            ]);
        }
        let grid = Grid::new(rows, HEAD.len());
        let names = grid.names();
        let mut notes = format!("{NOTE}\n");
        for RuleOptimum { policy, figures, .. } in &self.rules {
            let OptimumFigures { unsolved, too_large, .. } = figures;
            if unsolved + too_large > 0 {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    notes,
                    "{policy}: beside these {unsolved} unsolved in time and {too_large} of more than \
                     {MOST_PAIRS} pairs of requests and workers"
                );
            }
        }
        let page = Page::new().text(self.heading.clone()).grid(grid).text(notes);
        if with_legend { page.legend(legend_of(&OPTIMUM_LEGEND, &names)) } else { page }
    }
}

const NOTE: &str = "\
Tokens of G * max - sum after a decision. `least`: an integer program on the same step with as many
admissions, by slots and KV capacity alone. A rule that looks beyond its step leaves more than the least in
it and less over its run; `/ bound` is the run beside G (H_G - 1) E[output], about the least that is
possible without knowing which request ends when.";

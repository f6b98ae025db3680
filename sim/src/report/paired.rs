//! Policies on the same requests: what they differ by, run by run.
//!
//! Runs of one seed and window have the same arrivals under every policy. Their differences vary less than
//! the runs themselves: what all policies suffer from alike drops out.

use serde::Serialize;

use super::figures::{Spread, by_policy};
use super::page::{Grid, Style};
use super::table::label;
use crate::cluster::Run;

/// One policy against the last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// The policy, with its affinity where prefix caches are in.
    pub policy: String,
    /// The one that it is compared with.
    pub against: String,
    /// Pairs of one seed and window.
    pub pairs: usize,
    /// Difference of `imbalance_mean`, in tokens.
    pub imbalance_mean: Spread,
    /// Difference of `tokens_per_s`.
    pub tokens_per_s: Spread,
    /// Difference of `requests_per_s`.
    pub requests_per_s: Spread,
    /// Difference of the 95th percentile of `tpot_ms`.
    pub tpot_p95_ms: Spread,
    /// Difference of the 99th percentile of `wait_ms`.
    pub wait_p99_ms: Spread,
    /// Difference of the longest of `wait_ms`.
    pub wait_max_ms: Spread,
}

/// Every policy against the last; empty for a single one.
#[must_use]
pub fn paired(runs: &[Run]) -> Vec<Paired> {
    let groups = by_policy(runs);
    let Some((reference, others)) = groups.split_last() else { return Vec::new() };
    let one = |runs: &&[Run]| {
        let pairs: Vec<(&Run, &Run)> = runs
            .iter()
            .filter_map(|run| {
                let other =
                    reference.iter().find(|other| (other.seed, other.window) == (run.seed, run.window));
                Some((run, other?))
            })
            .collect();
        let of = |figure: fn(&Run) -> f64| Spread::of(pairs.iter().map(|(a, b)| figure(a) - figure(b)));
        let served = || pairs.iter().filter(|(a, b)| a.has_times() && b.has_times());
        let time = |figure: fn(&Run) -> f64| Spread::of(served().map(|(a, b)| figure(a) - figure(b)));
        Paired {
            policy: label(&runs[0]),
            against: label(&reference[0]),
            pairs: pairs.len(),
            imbalance_mean: of(|run| run.imbalance_mean),
            tokens_per_s: of(|run| run.tokens_per_s),
            requests_per_s: of(|run| run.requests_per_s),
            tpot_p95_ms: time(|run| run.tpot_ms.p95),
            wait_p99_ms: time(|run| run.wait_ms.p99),
            wait_max_ms: time(|run| run.wait_ms.max),
        }
    };
    others.iter().map(one).collect()
}

/// One line per policy: mean and standard deviation of the differences.
#[must_use]
pub fn differences(paired: &[Paired]) -> String {
    if paired.is_empty() { String::new() } else { difference_grid(paired).show(Style::Plain) }
}

pub(crate) fn difference_grid(paired: &[Paired]) -> Grid {
    let Some(first) = paired.first() else { return Grid::default() };
    let mut rows = vec![
        ["minus", "imbalance", "tok/s", "requests/s", "TPOT p95 ms", "wait p99 ms", "longest wait ms"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows[0][0] = format!("minus {}, pairs: {}", first.against, first.pairs);
    for pair in paired {
        let cell =
            |spread: Spread, digits: usize| format!("{:+.digits$} +- {:.digits$}", spread.mean, spread.sd);
        rows.push(vec![
            pair.policy.clone(),
            cell(pair.imbalance_mean, 0),
            cell(pair.tokens_per_s, 0),
            cell(pair.requests_per_s, 2),
            cell(pair.tpot_p95_ms, 2),
            cell(pair.wait_p99_ms, 0),
            cell(pair.wait_max_ms, 0),
        ]);
    }
    Grid::new(rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: &str, seed: u64, window: Option<u32>, tokens_per_s: f64) -> Run {
        Run { policy: policy.to_owned(), seed, window, tokens_per_s, ..Run::default() }
    }

    #[test]
    fn runs_are_paired_by_seed_and_window() {
        // The reference has its runs in another order: 100 lies beside 98, 200 beside 206.
        let runs = [
            run("a", 1, Some(0), 100.0),
            run("a", 1, Some(1), 200.0),
            run("b", 1, Some(1), 206.0),
            run("b", 1, Some(0), 98.0),
        ];
        let paired = paired(&runs);
        assert_eq!(paired.len(), 1);
        assert_eq!((&paired[0].policy[..], &paired[0].against[..], paired[0].pairs), ("a", "b", 2));
        let found = paired[0].tokens_per_s;
        assert_eq!((found.mean, found.min, found.max), (-2.0, -6.0, 2.0));
        approx::assert_abs_diff_eq!(found.sd, 32f64.sqrt(), epsilon = 1e-12);
        let text = differences(&paired);
        assert!(text.contains("minus b, pairs: 2") && text.contains("-2 +- 6"), "{text}");
        assert!(super::paired(&runs[..2]).is_empty() && differences(&[]).is_empty());
    }
}

//! The short form of the table: one line per setting and policy, to be kept and compared with.

use serde::Serialize;

use super::Row;
use crate::cluster::Run;
use crate::report::{Spread, short};

/// One setting under one policy: means over the runs, the longest waits and the most passed of any. Figures
/// have five digits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// The setting.
    pub row: String,
    /// The policy.
    pub policy: String,
    /// Seeds, times windows.
    pub runs: usize,
    /// Mean imbalance in tokens.
    pub imbalance: f64,
    /// Its standard deviation over the runs.
    pub imbalance_sd: f64,
    /// Tokens per second.
    pub tok_s: f64,
    /// Their standard deviation.
    pub tok_s_sd: f64,
    /// Requests that ended per second.
    pub req_s: f64,
    /// 95th percentile of the time per output token in ms.
    pub tpot_p95: f64,
    /// 99th percentile of the waits in ms.
    pub wait_ms_p99: f64,
    /// The longest in ms.
    pub wait_ms_max: f64,
    /// 99th percentile in steps.
    pub wait_p99: f64,
    /// The longest in steps.
    pub wait_max: u64,
    /// The most younger ones that passed a request which waited.
    pub passed: u64,
    /// The most admissions of one step.
    pub admissions: u64,
    /// Evictions per request that ended.
    pub preempted: f64,
}

/// Rounded to five significant digits.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    let rounded = (value * scale).round() / scale;
    // Division leaves no digits behind whole numbers.
    if rounded.abs() >= 1e4 { rounded.round() } else { rounded }
}

impl Record {
    pub(super) const HEAD: [&'static str; 13] = [
        "",
        "imbalance",
        "+-",
        "ratio",
        "tok/s",
        "req/s",
        "TPOT",
        "wait",
        "wait",
        "wait",
        "wait",
        "passed",
        "preempted",
    ];
    pub(super) const UNITS: [&'static str; 13] =
        ["", "", "sd", "", "", "", "p95 ms", "p99 ms", "max ms", "p99", "max", "max", "/finished"];

    pub(super) fn of(row: &Row, runs: &[Run]) -> Self {
        let over = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
        let mean = |figure: fn(&Run) -> f64| rounded(over(figure).mean);
        let most = |figure: fn(&Run) -> u64| runs.iter().map(figure).max().unwrap_or(0);
        Self {
            row: row.name.clone(),
            policy: runs.first().map_or_else(String::new, |run| run.policy.clone()),
            runs: runs.len(),
            imbalance: mean(|run| run.imbalance_mean),
            imbalance_sd: rounded(over(|run| run.imbalance_mean).sd),
            tok_s: mean(|run| run.tokens_per_s),
            tok_s_sd: rounded(over(|run| run.tokens_per_s).sd),
            req_s: mean(|run| run.requests_per_s),
            tpot_p95: mean(|run| run.tpot_ms.p95),
            wait_ms_p99: mean(|run| run.wait_ms.p99),
            wait_ms_max: rounded(over(|run| run.wait_ms.max).max),
            wait_p99: mean(|run| run.wait_steps.p99),
            wait_max: most(|run| run.wait_steps.max),
            passed: most(|run| run.passed_max),
            admissions: most(|run| run.admissions_max),
            preempted: mean(|run| run.preempted_per_finished),
        }
    }

    /// Cells of the table; the ratio is to this imbalance.
    pub(super) fn cells(&self, reference: f64) -> Vec<String> {
        vec![
            format!("  {}", self.policy),
            short(self.imbalance),
            short(self.imbalance_sd),
            if reference > 0.0 { format!("{:.2}", self.imbalance / reference) } else { "-".to_owned() },
            format!("{:.0}", self.tok_s),
            format!("{:.2}", self.req_s),
            format!("{:.2}", self.tpot_p95),
            format!("{:.0}", self.wait_ms_p99),
            format!("{:.0}", self.wait_ms_max),
            format!("{:.0}", self.wait_p99),
            self.wait_max.to_string(),
            self.passed.to_string(),
            format!("{:.3}", self.preempted),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_digits_are_kept() {
        for (value, kept) in [
            (0.0, 0.0),
            (0.012_345_67, 0.012_346),
            (-2.718_352, -2.718_4),
            (9_999.96, 10_000.0),
            (15_528.4, 15_528.0),
            (155_284.0, 155_280.0),
            (1e6, 1e6),
        ] {
            assert_eq!(rounded(value), kept);
        }
    }
}

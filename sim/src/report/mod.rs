//! Tables for people and what is in the JSON for programs.

pub mod json;

use std::fmt::Write as _;

use serde::Serialize;

use crate::cluster::prefix::{BLOCK_TOKENS, PrefixModel};
use crate::cluster::{Arrivals, Run, Scenario, Source};

/// A figure over the seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; 0 for one seed.
    pub sd: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of some figures; all zero for none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() {
            return Self::default();
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            sd: if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 },
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// The runs of each policy (and affinity), in the order in which they were asked for.
#[must_use]
pub fn by_policy(runs: &[Run]) -> Vec<&[Run]> {
    runs.chunk_by(|a, b| a.policy == b.policy && a.affinity == b.affinity).collect()
}

/// A figure of one policy over its seeds.
fn over(runs: &[Run], figure: impl Fn(&Run) -> f64) -> Spread {
    Spread::of(runs.iter().map(figure))
}

/// Tokens in three digits: `812`, `20.7k`, `1.23M`.
#[must_use]
pub fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if suffix.is_empty() || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{suffix}")
}

/// Columns aligned: the first to the left, all others to the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a string cannot fail.
            let _ =
                if column == 0 { write!(line, "{cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One row per policy (and affinity): means over the seeds, with the sample standard deviation of the imbalance.
#[must_use]
pub fn table(runs: &[Run]) -> String {
    const HEAD: [[&str; 14]; 2] = [
        [
            "policy",
            "imbalance",
            "+-",
            "/ bound",
            "tok/s",
            "balanced",
            "TPOT",
            "wait",
            "wait",
            "wait",
            "wait",
            "empty",
            "decide",
            "us",
        ],
        [
            "",
            "G*max-sum",
            "sd",
            "",
            "",
            "%",
            "p95 ms",
            "mean",
            "p99",
            "max",
            "oldest",
            "slots %",
            "p50",
            "p99",
        ],
    ];
    let mut rows = HEAD.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    let with_prefixes = runs.iter().any(|run| run.affinity.is_some());
    if with_prefixes {
        for (row, text) in rows.iter_mut().zip(["cached", "tokens %"]) {
            row.insert(1, text.to_owned());
        }
    }
    for runs in by_policy(runs) {
        let mean = |figure: fn(&Run) -> f64| over(runs, figure).mean;
        let imbalance = over(runs, |run| run.imbalance_mean);
        let bound = mean(|run| run.bound_imbalance);
        let mut row = vec![
            match runs[0].affinity {
                Some(weight) => format!("{} W={weight}", runs[0].policy),
                None => runs[0].policy.clone(),
            },
            short(imbalance.mean),
            short(imbalance.sd),
            if bound > 0.0 { format!("{:.2}", imbalance.mean / bound) } else { "-".to_owned() },
            format!("{:.0}", mean(|run| run.tokens_per_s)),
            format!("{:.2}", 100.0 * mean(|run| run.balanced_fraction)),
            format!("{:.2}", mean(|run| run.tpot_ms.p95)),
            format!("{:.0}", mean(|run| run.wait_steps.mean)),
            format!("{:.0}", mean(|run| run.wait_steps.p99)),
            format!("{:.0}", over(runs, |run| run.wait_steps.max as f64).max),
            format!("{:.0}", over(runs, |run| run.wait_steps.oldest as f64).max),
            format!("{:.2}", 100.0 * mean(|run| run.empty_slot_fraction)),
            format!("{:.1}", mean(|run| run.decide_us.p50)),
            format!("{:.1}", mean(|run| run.decide_us.p99)),
        ];
        if with_prefixes {
            row.insert(1, format!("{:.1}", 100.0 * mean(|run| run.cached_token_share.unwrap_or(0.0))));
        }
        rows.push(row);
    }
    aligned(&rows)
}

/// What was simulated, and what every policy shares: two or three lines to stand above and below the table.
#[must_use]
pub fn heading(scenario: &Scenario) -> String {
    let arrivals = match scenario.arrivals {
        Arrivals::Closed => format!("closed, {} waiting", scenario.pool),
        Arrivals::Trace { rate_scale } => format!("open, the trace's times / {rate_scale}"),
        Arrivals::Poisson { per_second, requests } => {
            format!("open, {requests} requests at {per_second}/s (Poisson)")
        }
    };
    let steps = scenario.steps.map_or("to the end".to_owned(), |steps| format!("{steps} steps"));
    let mut text = format!(
        "{}: {} workers x {} slots, {arrivals}; {steps} after {} of warm-up, {} seeds",
        scenario.source.name(),
        scenario.workers,
        scenario.slots,
        scenario.warmup,
        scenario.seeds
    );
    if let Source::Trace(trace) = &scenario.source {
        let _ = write!(text, "; {} requests", trace.jobs.len());
        if trace.skipped_rows > 0 {
            let _ = write!(text, ", {} malformed rows skipped", trace.skipped_rows);
        }
        if trace.filtered_rows > 0 {
            let _ = write!(text, ", {} below the least output left out", trace.filtered_rows);
        }
    }
    if !scenario.affinity.is_empty() {
        let PrefixModel { cache_blocks, prefill_us_per_token } = scenario.prefix;
        let _ = write!(
            text,
            "\nprefix caches of {cache_blocks} blocks of {BLOCK_TOKENS} tokens per worker; {prefill_us_per_token} us per prompt token \
             that is not cached, on the worker with most of them; bonus W tokens per cached token"
        );
    }
    text.push('\n');
    text
}

/// The line below the table: the bound, and what happened to the requests.
#[must_use]
pub fn footing(runs: &[Run]) -> String {
    let sum = |figure: fn(&Run) -> u64| runs.iter().map(figure).sum::<u64>();
    let bound = Spread::of(runs.iter().map(|run| run.bound_imbalance)).mean;
    format!(
        "bound without knowledge of ends: {}. All runs: {} requests in, {} done, {} waiting, {} active, {} lost, {} refused, {} preemptions\n\
         wait in steps; max and oldest are the greatest over the seeds\n",
        short(bound),
        sum(|run| run.requests_in),
        sum(|run| run.requests_done),
        sum(|run| run.requests_waiting),
        sum(|run| run.requests_active),
        sum(|run| run.requests_lost),
        sum(|run| run.requests_refused),
        sum(|run| run.preemptions),
    )
}

/// The arguments as they are written to JSON: everything that a result depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Arguments {
    /// Workload or file name of the trace.
    pub source: String,
    /// `closed` or `open`.
    pub arrivals: &'static str,
    /// Divisor of the trace's times.
    pub rate_scale: Option<f64>,
    /// Poisson rate in requests per second.
    pub rate: Option<f64>,
    /// Requests of a Poisson run.
    pub requests: Option<u64>,
    /// Rows of the trace.
    pub trace_requests: Option<usize>,
    /// Malformed rows that were skipped.
    pub skipped_rows: u64,
    /// Rows left out for a short output.
    pub filtered_rows: u64,
    /// Decode workers.
    pub workers: usize,
    /// Slots of each.
    pub slots: u32,
    /// Requests kept waiting when closed.
    pub pool: usize,
    /// Policies in order.
    pub policies: Vec<String>,
    /// Seeds.
    pub seeds: u64,
    /// Measured steps, if bounded.
    pub steps: Option<u64>,
    /// Steps before them.
    pub warmup: u64,
    /// KV tokens of each worker, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Steps of growth left free.
    pub headroom_steps: u32,
    /// Weights, if any.
    pub weights: Vec<f32>,
    /// Step time without load, in ms.
    pub step_base_ms: f64,
    /// Step time per token, in microseconds.
    pub step_us_per_token: f64,
    /// Bonus tokens per cached token; empty where prefix caches are left out.
    pub affinity: Vec<f64>,
    /// Prefix blocks that each worker keeps.
    pub prefix_cache_blocks: usize,
    /// Microseconds per prompt token that is not cached.
    pub prefill_us_per_token: f64,
    /// Whether a closed run started empty.
    pub cold_start: bool,
    /// Whether `level` reserves workers for requests that have waited for long.
    pub reserve: bool,
    /// Sigma of the lognormal factor on the remaining lengths that oracles tell.
    pub noise_sigma: f64,
    /// Share of ends within the horizon that oracles see.
    pub noise_true_positive: f64,
    /// Share of false alarms of oracles.
    pub noise_false_positive: f64,
    /// Share of requests that oracles never predict.
    pub noise_unpredicted: f64,
}

impl Arguments {
    /// The arguments of a scenario.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let trace = match &scenario.source {
            Source::Trace(trace) => Some(trace),
            Source::Workload(_) => None,
        };
        let (arrivals, rate_scale, rate, requests) = match scenario.arrivals {
            Arrivals::Closed => ("closed", None, None, None),
            Arrivals::Trace { rate_scale } => ("open", Some(rate_scale), None, None),
            Arrivals::Poisson { per_second, requests } => ("open", None, Some(per_second), Some(requests)),
        };
        Self {
            source: scenario.source.name().to_owned(),
            arrivals,
            rate_scale,
            rate,
            requests,
            trace_requests: trace.map(|trace| trace.jobs.len()),
            skipped_rows: trace.map_or(0, |trace| trace.skipped_rows),
            filtered_rows: trace.map_or(0, |trace| trace.filtered_rows),
            workers: scenario.workers,
            slots: scenario.slots,
            pool: scenario.pool,
            policies: scenario.policies.clone(),
            seeds: scenario.seeds,
            steps: scenario.steps,
            warmup: scenario.warmup,
            kv_capacity_tokens: scenario.kv_capacity_tokens,
            headroom_steps: scenario.headroom_steps,
            weights: scenario.weights.clone(),
            step_base_ms: scenario.cost.base_ms,
            step_us_per_token: scenario.cost.us_per_token,
            affinity: scenario.affinity.clone(),
            prefix_cache_blocks: scenario.prefix.cache_blocks,
            prefill_us_per_token: scenario.prefix.prefill_us_per_token,
            cold_start: scenario.cold_start,
            reserve: scenario.parameters.level.reserve,
            noise_sigma: scenario.noise.length_sigma,
            noise_true_positive: scenario.noise.true_positive_rate,
            noise_false_positive: scenario.noise.false_positive_rate,
            noise_unpredicted: scenario.noise.unpredicted_share,
        }
    }
}

/// The JSON file of a simulation.
#[derive(Clone, Debug, Serialize)]
pub struct Document<'a> {
    /// Version of this crate.
    pub version: &'static str,
    /// What was asked for.
    pub arguments: Arguments,
    /// One object per policy and seed.
    pub runs: &'a [Run],
}

impl<'a> Document<'a> {
    /// The document of a scenario's runs.
    #[must_use]
    pub fn new(scenario: &Scenario, runs: &'a [Run]) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), arguments: Arguments::of(scenario), runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_mean_and_sample_deviation() {
        let spread = Spread::of([2.0, 4.0, 9.0]);
        assert_eq!((spread.mean, spread.min, spread.max), (5.0, 2.0, 9.0));
        assert!((spread.sd - 13f64.sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of([3.0]).sd, 0.0);
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn short_keeps_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (812.4, "812"),
            (1234.0, "1.23k"),
            (20_700.0, "20.7k"),
            (99_960.0, "100k"),
            (438_225.0, "438k"),
            (1_690_000.0, "1.69M"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn the_table_is_aligned_and_narrow() {
        let run = |policy: &str, imbalance_mean| Run {
            policy: policy.to_owned(),
            imbalance_mean,
            bound_imbalance: 17_000.0,
            tokens_per_s: 123_456.7,
            ..Run::default()
        };
        let text = table(&[
            run("sglang-total-tokens", 20_000.0),
            run("sglang-total-tokens", 22_000.0),
            run("b", 1e6),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() <= 120), "{text}");
        assert!(
            lines[2].contains("21.0k") && lines[2].contains("1.41k") && lines[2].contains("1.24"),
            "{text}"
        );
    }
}

//! `results.json` of `evaluate`: what was asked for, what was played, and what follows from it.
//!
//! The structs are the JSON contract: names and nesting do not change within a schema, fields may be added.
//! Intervals are 95 %, shares and relative differences are fractions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::METRICS;
use crate::traces::Shape;

/// Version of the layout of the folder.
pub const SCHEMA: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "docs/evaluation.md has the fields")]
pub struct Results {
    pub schema: u32,
    pub program: String,
    pub version: String,
    pub command: String,
    pub started: String,
    pub elapsed_s: f64,
    pub complete: bool,
    pub runs_done: u64,
    pub runs_planned: u64,
    pub arguments: Asked,
    pub sentences: Vec<String>,
    pub metrics: Vec<MetricEntry>,
    pub sources: Vec<SourceEntry>,
    pub scenarios: Vec<ScenarioEntry>,
    pub largest_rates: Vec<LargestRates>,
    pub gate: Vec<GateEntry>,
}

/// The arguments that results depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the flags")]
pub struct Asked {
    pub workers: Vec<usize>,
    pub slots: Vec<u32>,
    pub kv_capacity_tokens: Option<u64>,
    pub rates: Vec<String>,
    pub rules: Vec<RuleEntry>,
    pub slo: Option<Limits>,
    pub windows: u32,
    pub seeds: u64,
    pub first_seed: u64,
    pub requests: Option<u64>,
    pub quick: bool,
    pub gate: Vec<String>,
    pub step_us_per_token: f64,
    pub step_us_per_request: f64,
    pub step_base_ms: Option<f64>,
    pub prefill_us_per_token: Option<f64>,
    pub prompts: String,
    pub headroom_steps: Option<u32>,
    pub deadline_steps: Option<u32>,
    pub max_passed: Option<u32>,
}

/// A rule under the name that it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// As tables call it.
    pub name: String,
    /// The policy.
    pub policy: String,
}

/// What a request must keep to count, and how many of them must.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// From arrival to the end of the first step after admission, in ms.
    pub ttft_ms: Option<f64>,
    /// From admission to the last token, over its tokens, in ms.
    pub tpot_ms: Option<f64>,
    /// From arrival to the last token, in ms.
    pub e2e_ms: Option<f64>,
    /// The share of the requests that must keep all of them.
    pub share: f64,
}

/// A metric.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as `Metric`")]
pub struct MetricEntry {
    pub key: String,
    pub name: String,
    pub label: String,
    pub unit: String,
    pub more_is_better: bool,
    pub tie_below: f64,
}

impl MetricEntry {
    /// All metrics.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let entry = |metric: super::metric::Metric| Self {
            key: metric.key.to_owned(),
            name: metric.name.to_owned(),
            label: metric.label.to_owned(),
            unit: metric.unit.to_owned(),
            more_is_better: metric.more_is_better,
            tie_below: metric.tie_below,
        };
        METRICS.into_iter().map(entry).collect()
    }
}

/// A trace or a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceEntry {
    /// Workload, or file name.
    pub name: String,
    /// `trace` or `workload`.
    pub kind: String,
    /// Of a file, as given.
    pub path: Option<String>,
    /// Of the bytes of the trace.
    pub sha256: Option<String>,
    /// Layout.
    pub format: Option<String>,
    /// Span, rate, lengths.
    pub shape: Shape,
    /// Lower edge and requests of each bin.
    pub prompt_tokens: Vec<(u32, u64)>,
    /// Lower edge and requests of each bin.
    pub output_tokens: Vec<(u32, u64)>,
    /// When they come.
    pub arrivals: Option<ArrivalBins>,
}

/// Arrivals in bins of equal length.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArrivalBins {
    /// Length in seconds.
    pub bin_s: f64,
    /// Requests of each.
    pub requests: Vec<u64>,
}

/// One cluster under one rate of one source.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "docs/evaluation.md has the fields")]
pub struct ScenarioEntry {
    pub id: String,
    pub source: usize,
    pub workers: usize,
    pub slots: u32,
    pub kv_capacity_tokens: Option<u64>,
    pub rate: RateEntry,
    pub capacity_requests_per_s: f64,
    pub running_per_worker: f64,
    pub step_base_ms: f64,
    /// `window` or `draw`.
    pub replicate: String,
    pub replicates: u64,
    pub command: String,
    pub complete: bool,
    pub requests_file: Option<String>,
    pub series_file: Option<String>,
    pub notes: Vec<String>,
    pub rules: Vec<RuleFigures>,
    pub differences: Vec<Difference>,
}

/// The figures of one rule at one rate, as a line of CSV.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "those of the results")]
pub struct ResultLine<'a> {
    pub source: &'a str,
    pub workers: usize,
    pub slots: u32,
    pub rate: &'a str,
    pub requests_per_s: f64,
    pub offered_load: f64,
    pub rule: &'a str,
    pub figures: &'a BTreeMap<String, Interval>,
}

impl Results {
    /// A line for each scenario and rule.
    #[must_use]
    pub fn lines(&self) -> Vec<ResultLine<'_>> {
        let mut lines = Vec::new();
        for scenario in &self.scenarios {
            let ScenarioEntry { source, workers, slots, .. } = *scenario;
            let source = self.sources.get(source).map_or("", |source| source.name.as_str());
            let RateEntry { ref label, requests_per_s, offered_load, .. } = scenario.rate;
            lines.extend(scenario.rules.iter().map(|rule| ResultLine {
                source,
                workers,
                slots,
                rate: label,
                requests_per_s,
                offered_load,
                rule: &rule.rule,
                figures: &rule.figures,
            }));
        }
        lines
    }
}

/// What a rate was asked for that nobody asked for: it lies between two, to find the largest that keeps the
/// limits.
pub const BETWEEN: &str = "between";

/// A rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateEntry {
    /// As asked for.
    pub asked: String,
    /// In words.
    pub label: String,
    /// The trace's own.
    pub own: bool,
    /// Requests per second.
    pub requests_per_s: f64,
    /// Of the trace's times; none for Poisson arrivals.
    pub rate_scale: Option<f64>,
    /// Share of what the cluster can serve, of the requests that fit.
    pub offered_load: f64,
}

/// What one rule does in a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleFigures {
    /// Its name.
    pub rule: String,
    /// Means over the replicates, by key of the metric.
    pub figures: BTreeMap<String, Interval>,
    /// One entry a window or draw.
    pub replicates: Vec<Replicate>,
    /// Over all measured requests of all replicates.
    pub quantiles: Quantiles,
    /// Wall-clock time of a decision: differs between two runs of a command.
    pub decide_us: Decide,
    /// Decisions of the first replicate beside the best of their steps, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimum: Option<OptimumFigures>,
}

/// Sampled decisions beside the least `G * max - sum` that each could have left with as many admissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OptimumFigures {
    /// Decisions that were solved.
    pub decisions: usize,
    /// Sampled beside them: the time did not suffice.
    pub unsolved: usize,
    /// Sampled beside them: more pairs of requests and workers than are solved.
    pub too_large: usize,
    /// Share of the solved ones that left no more than the optimum.
    pub optimal: f64,
    /// Mean imbalance that they left, in tokens.
    pub left_tokens: f64,
    /// Mean of the least that they could have left.
    pub least_tokens: f64,
    /// Mean of the difference.
    pub above_mean_tokens: f64,
    /// Its 95th percentile.
    pub above_p95_tokens: f64,
}

/// A mean and what is known of it; bounds only where there are two values at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in statistics")]
pub struct Interval {
    pub mean: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub sd: f64,
    pub n: u64,
}

/// The figures of one window or draw; means over its seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "units in the names; docs/evaluation.md has the rest")]
pub struct Replicate {
    pub replicate: u32,
    pub seeds: u64,
    pub tokens_per_s: f64,
    pub requests_per_s: f64,
    pub imbalance_tokens: f64,
    pub wait_mean_ms: f64,
    pub wait_p99_ms: f64,
    pub ttft_mean_ms: f64,
    pub ttft_p99_ms: f64,
    pub tpot_mean_ms: f64,
    pub tpot_p99_ms: f64,
    pub empty_slots: f64,
    pub preempted: f64,
    pub goodput_requests_per_s: Option<f64>,
    pub within_slo: Option<f64>,
    pub balanced: f64,
    pub requests: f64,
    pub refused: f64,
}

impl Replicate {
    /// Requests, and how many of them keep all limits; none where there are no limits.
    pub(crate) fn counts(&self) -> Option<(f64, f64)> {
        Some((self.requests, self.requests * self.within_slo?))
    }
}

/// Quantiles by nearest rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "units in the names")]
pub struct Quantiles {
    pub at: Vec<f64>,
    pub wait_ms: Vec<f64>,
    pub ttft_ms: Vec<f64>,
    pub tpot_ms: Vec<f64>,
    pub e2e_ms: Vec<f64>,
}

/// Wall-clock time of a decision in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decide {
    /// Mean of the medians of the runs.
    pub p50: f64,
    /// Mean of their 99th percentiles.
    pub p99: f64,
}

/// A rule beside the first, by one metric, replicate by replicate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Difference {
    /// The rule.
    pub rule: String,
    /// The first rule.
    pub against: String,
    /// Key of the metric.
    pub metric: String,
    /// Replicates that both have.
    pub pairs: u64,
    /// Rule minus first rule.
    pub mean: f64,
    /// 95 %, Student t.
    pub low: Option<f64>,
    /// 95 %, Student t.
    pub high: Option<f64>,
    /// Standard deviation of the differences.
    pub sd: f64,
    /// Mean of the first rule in these pairs.
    pub base: f64,
    /// `mean / base`.
    pub relative: Option<f64>,
    /// `low / base`.
    pub relative_low: Option<f64>,
    /// `high / base`.
    pub relative_high: Option<f64>,
    /// Two-sided, of no difference.
    pub p: Option<f64>,
    /// Over all metrics of the rule in the scenario, by Holm.
    pub p_holm: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
}

/// A rule beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Surely better.
    Better,
    /// Surely worse.
    Worse,
    /// No difference is shown, or none that anybody would notice.
    Tie,
    /// Fewer than two pairs.
    Unknown,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Tie => "tie",
            Self::Unknown => "unknown",
        }
    }
}

/// The largest rates of all rules at which the limits are kept, on one cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LargestRates {
    /// Place of the source.
    pub source: usize,
    /// Workers.
    pub workers: usize,
    /// Slots of each.
    pub slots: u32,
    /// The least rate that was played.
    pub tested_from: f64,
    /// The greatest.
    pub tested_to: f64,
    /// Perfect balance.
    pub capacity_requests_per_s: f64,
    /// One entry a rule.
    pub rules: Vec<LargestRate>,
    /// All rules but the first beside it.
    pub differences: Vec<RateDifference>,
}

/// The largest rate of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LargestRate {
    /// The rule.
    pub rule: String,
    /// Requests per second.
    pub requests_per_s: f64,
    /// 95 %, bootstrap over the replicates.
    pub low: Option<f64>,
    /// 95 %, bootstrap over the replicates.
    pub high: Option<f64>,
    /// Of the cluster's capacity.
    pub of_capacity: f64,
    /// Where it lies beyond what was played.
    pub bound: Option<RateBound>,
    /// The rates around it that were played.
    pub between: Option<(f64, f64)>,
}

/// Two rates that lie further apart than this share of the capacity say little of what is between them.
const FAR: f64 = 0.15;

impl LargestRate {
    /// The rates between which it lies, where these are so far apart that one between them is a guess.
    #[must_use]
    pub fn far_between(&self) -> Option<(f64, f64)> {
        let (from, to) = self.between.filter(|_| self.bound.is_none())?;
        let capacity = self.requests_per_s / self.of_capacity;
        (to - from > FAR * capacity).then_some((from, to))
    }
}

/// On which side of the rates that were played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateBound {
    /// The limits are kept at all of them.
    #[serde(rename = "at least")]
    AtLeast,
    /// The limits are not even kept at the least.
    #[serde(rename = "below")]
    Below,
}

/// How much more a rule bears than the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateDifference {
    /// The rule.
    pub rule: String,
    /// The first rule.
    pub against: String,
    /// Ratio of the rates less 1; none where the first rule has no rate.
    pub relative: Option<f64>,
    /// 95 %, bootstrap over the replicates.
    pub low: Option<f64>,
    /// 95 %, bootstrap over the replicates.
    pub high: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
    /// Where the rule's own rate lies beyond what was played.
    pub bound: Option<RateBound>,
}

/// What became of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateEntry {
    /// As asked for.
    pub expression: String,
    /// Whether it holds everywhere.
    pub holds: bool,
    /// Where it does not, and why.
    pub failures: Vec<String>,
}

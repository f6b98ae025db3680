//! What is in the JSON of a simulation.

use serde::Serialize;

use super::paired::{Paired, paired};
use crate::cluster::{Arrivals, Capacity, Run, Scenario, Source};
use crate::cost::Prompts;

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
    /// Rows left out because they failed or generated nothing.
    pub rows_without_output: u64,
    /// Rows left out for a short output.
    pub filtered_rows: u64,
    /// Layout of the trace.
    pub trace_format: Option<&'static str>,
    /// From the first arrival of the trace to the last, in seconds.
    pub trace_span_s: Option<f64>,
    /// Arrivals of the trace per second, at its own rate.
    pub trace_requests_per_s: Option<f64>,
    /// What the cluster can serve at most: perfect balance, every slot full as far as KV allows.
    pub capacity_requests_per_s: Option<f64>,
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
    /// The first of them.
    pub first_seed: u64,
    /// Windows of an open trace; 0 where the whole of it is run.
    pub windows: u32,
    /// Measured steps, if bounded.
    pub steps: Option<u64>,
    /// Warm-up steps, which are not measured.
    pub warmup: u64,
    /// KV tokens of each worker, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Steps of growth left free.
    pub headroom_steps: Option<u32>,
    /// Deadline of every request in waited steps, if they have one.
    pub deadline_steps: Option<u32>,
    /// Weights, if any.
    pub weights: Vec<f32>,
    /// Step time without load, in ms.
    pub step_base_ms: f64,
    /// Step time per running request, in microseconds.
    pub step_us_per_request: f64,
    /// Step time per KV token, in microseconds.
    pub step_us_per_token: f64,
    /// How late statistics are, in ms.
    pub stats_late_ms: f64,
    /// Bonus tokens per cached token; empty where prefix caches are left out.
    pub affinity: Vec<f64>,
    /// Prefix blocks that each worker keeps.
    pub prefix_cache_blocks: usize,
    /// Microseconds per prompt token that is computed on the worker.
    pub prefill_us_per_token: f64,
    /// Where the prompts of first admissions are computed: `elsewhere` or on the `worker`.
    pub prompts: Prompts,
    /// Whether a closed run started empty.
    pub cold_start: bool,
    /// By how many that came later a request may be passed; none for 128 a worker.
    pub max_passed: Option<u32>,
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
            rows_without_output: trace.map_or(0, |trace| trace.rows_without_output),
            filtered_rows: trace.map_or(0, |trace| trace.filtered_rows),
            trace_format: trace.map(|trace| trace.format),
            trace_span_s: trace.and_then(|trace| trace.span_s()),
            trace_requests_per_s: trace.and_then(|trace| trace.requests_per_s()),
            capacity_requests_per_s: Capacity::of(scenario).map(|capacity| capacity.requests_per_s),
            workers: scenario.workers,
            slots: scenario.slots,
            pool: scenario.pool,
            policies: scenario.policies.clone(),
            seeds: scenario.seeds,
            first_seed: scenario.first_seed,
            windows: scenario.windows,
            steps: scenario.steps,
            warmup: scenario.warmup,
            kv_capacity_tokens: scenario.kv_capacity_tokens,
            headroom_steps: scenario.headroom_steps,
            deadline_steps: scenario.deadline_steps,
            weights: scenario.weights.clone(),
            step_base_ms: scenario.cost.base_ms,
            step_us_per_request: scenario.cost.us_per_request,
            step_us_per_token: scenario.cost.us_per_token,
            stats_late_ms: scenario.stats_late_ms,
            affinity: scenario.affinity.clone(),
            prefix_cache_blocks: scenario.prefix.cache_blocks,
            prefill_us_per_token: scenario.prefill_us_per_token(),
            prompts: scenario.cost.prompts,
            cold_start: scenario.cold_start,
            max_passed: scenario.parameters.max_passed,
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
    /// One object per policy, seed and window.
    pub runs: &'a [Run],
    /// What each policy differs by from the last, run by run.
    pub paired: Vec<Paired>,
}

impl<'a> Document<'a> {
    /// The document of a scenario's runs.
    #[must_use]
    pub fn new(scenario: &Scenario, runs: &'a [Run]) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            arguments: Arguments::of(scenario),
            runs,
            paired: paired(runs),
        }
    }
}

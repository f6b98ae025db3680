//! What rules are compared by: one entry a metric.

use super::results::Replicate;

/// A figure of a replicate, and which of two is the better.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name in JSON.
    pub key: &'static str,
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// Its name in sentences.
    pub label: &'static str,
    /// What it is measured in; empty for a share.
    pub unit: &'static str,
    /// Whether the greater of two is the better.
    pub more_is_better: bool,
    /// A difference that nobody would notice, in its unit.
    pub tie_below: f64,
    /// The figure; none where it is not measured.
    pub of: fn(&Replicate) -> Option<f64>,
}

const MS: &str = "ms";

/// A difference below this share of the figure itself is a tie, however sure it is.
pub const TIE_SHARE: f64 = 1e-3;

const fn metric(
    (key, name, label, unit): (&'static str, &'static str, &'static str, &'static str),
    more_is_better: bool,
    tie_below: f64,
    of: fn(&Replicate) -> Option<f64>,
) -> Metric {
    Metric { key, name, label, unit, more_is_better, tie_below, of }
}

/// A time of requests: a replicate without any has none.
fn time(of: &Replicate, ms: f64) -> Option<f64> {
    (of.requests > 0.0).then_some(ms)
}

/// All of them, in the order of tables.
pub const METRICS: [Metric; 12] = [
    metric(("tokens_per_s", "tok/s", "tokens/s", "tokens/s"), true, 0.0, |of| Some(of.tokens_per_s)),
    metric(("requests_per_s", "req/s", "requests/s", "requests/s"), true, 0.0, |of| Some(of.requests_per_s)),
    metric(("goodput_requests_per_s", "goodput", "goodput", "requests/s"), true, 0.0, |of| {
        of.goodput_requests_per_s
    }),
    metric(("imbalance_tokens", "imbalance", "imbalance", "KV tokens"), false, 0.0, |of| {
        Some(of.imbalance_tokens)
    }),
    metric(("wait_mean_ms", "wait", "mean wait", MS), false, 1.0, |of| time(of, of.wait_mean_ms)),
    metric(("wait_p99_ms", "wait-p99", "p99 wait", MS), false, 1.0, |of| time(of, of.wait_p99_ms)),
    metric(("ttft_mean_ms", "ttft", "mean TTFT", MS), false, 1.0, |of| time(of, of.ttft_mean_ms)),
    metric(("ttft_p99_ms", "ttft-p99", "p99 TTFT", MS), false, 1.0, |of| time(of, of.ttft_p99_ms)),
    metric(("tpot_mean_ms", "tpot", "mean TPOT", MS), false, 0.01, |of| time(of, of.tpot_mean_ms)),
    metric(("tpot_p99_ms", "tpot-p99", "p99 TPOT", MS), false, 0.01, |of| time(of, of.tpot_p99_ms)),
    metric(("empty_slots", "empty-slots", "slots empty while requests wait", ""), false, 5e-4, |of| {
        Some(of.empty_slots)
    }),
    metric(("preempted", "preempted", "preempted per finished", ""), false, 5e-4, |of| Some(of.preempted)),
];

impl Metric {
    /// The metric of a name or key.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.name == name || metric.key == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_in_which_nobody_came_has_rates_and_no_times() {
        let empty = Replicate { imbalance_tokens: 5.0, ..Replicate::default() };
        let there = Replicate { requests: 1.0, ..empty };
        for metric in &METRICS {
            let is_time = metric.unit == MS;
            assert_eq!((metric.of)(&empty).is_none(), is_time || metric.name == "goodput", "{}", metric.name);
            assert!((metric.of)(&there).is_some() || metric.name == "goodput", "{}", metric.name);
        }
    }
}

//! Figures against the rate: what a rule does from the trace's own rate to beyond what the cluster can serve.

use super::plot::{Axis, Plot};
use super::{Figure, milliseconds, percent_of};
use crate::error::SimError;
use crate::report::metric::Metric;
use crate::report::results::{Interval, Limits, RuleFigures, ScenarioEntry};
use crate::report::short;

/// One line: a rule of one evaluation at all rates, which rise.
pub(super) struct Curve<'a> {
    pub(super) series: usize,
    pub(super) points: Vec<(&'a ScenarioEntry, &'a RuleFigures)>,
}

impl<'a> Curve<'a> {
    pub(super) fn new(series: usize, mut points: Vec<(&'a ScenarioEntry, &'a RuleFigures)>) -> Self {
        points.sort_by(|a, b| a.0.rate.requests_per_s.total_cmp(&b.0.rate.requests_per_s));
        Self { series, points }
    }

    fn of(&self, key: &str) -> Vec<(f64, Interval)> {
        let point = |(scenario, rule): &(&ScenarioEntry, &RuleFigures)| {
            Some((100.0 * scenario.rate.offered_load, *rule.figures.get(key)?))
        };
        self.points.iter().filter_map(point).collect()
    }
}

/// What a chart is of.
struct Chart {
    key: &'static str,
    title: &'static str,
    is_log: bool,
    format: fn(f64) -> String,
    scale: f64,
    limit: fn(&Limits) -> Option<f64>,
}

const fn chart(key: &'static str, title: &'static str, format: fn(f64) -> String) -> Chart {
    Chart { key, title, is_log: false, format, scale: 1.0, limit: |_| None }
}

const CHARTS: [Chart; 7] = [
    chart("goodput_requests_per_s", "Goodput: requests a second within all limits", rate),
    Chart {
        scale: 100.0,
        limit: |limits| Some(100.0 * limits.share),
        ..chart("within_slo", "Requests within all limits", percent_of)
    },
    Chart { is_log: true, limit: |limits| limits.ttft_ms, ..chart("ttft_p99_ms", "p99 TTFT", milliseconds) },
    Chart { limit: |limits| limits.tpot_ms, ..chart("tpot_p99_ms", "p99 TPOT", milliseconds) },
    Chart { is_log: true, ..chart("wait_p99_ms", "p99 wait", milliseconds) },
    chart("tokens_per_s", "Tokens a second", short),
    chart("imbalance_tokens", "Imbalance in KV tokens", short),
];

fn rate(requests_per_s: f64) -> String {
    match requests_per_s {
        rate if rate >= 9.95 || rate == 0.0 => format!("{rate:.0}/s"),
        rate if rate >= 0.995 => format!("{rate:.1}/s"),
        rate => format!("{rate:.2}/s"),
    }
}

/// One figure for each of what is measured; none where no rule has been played.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn figures(
    curves: &[Curve<'_>],
    limits: Option<&Limits>,
    command: &str,
) -> Result<Vec<Figure>, SimError> {
    let drawn = CHARTS.iter().map(|chart| figure(chart, curves, limits, command));
    Ok(drawn.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn figure(
    chart: &Chart,
    curves: &[Curve<'_>],
    limits: Option<&Limits>,
    command: &str,
) -> Result<Option<Figure>, SimError> {
    let scale = chart.scale;
    let lines: Vec<(usize, Vec<(f64, Interval)>)> =
        curves.iter().map(|curve| (curve.series, curve.of(chart.key))).collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    if all().next().is_none() {
        return Ok(None);
    }
    let limit = limits.and_then(chart.limit);
    // The whole of an interval is to be seen, but not where doubt is larger than the figure.
    let shown = |of: &Interval| [of.mean, of.high.unwrap_or(of.mean).min(2.0 * of.mean)];
    let values = all().flat_map(|(_, of)| shown(of)).map(|value| value * scale).chain(limit);
    let x = Axis::linear(all().map(|&(load, _)| load), percent_of).labelled("offered load, % of capacity");
    let y = match chart.key {
        "within_slo" => Axis::between(0.0, 104.0, chart.format),
        _ if chart.is_log => Axis::log(values, chart.format),
        _ => Axis::linear(values, chart.format),
    };
    let mut plot = Plot::new(x, y)?;
    if all().any(|&(load, _)| load > 97.0) {
        plot.place(100.0, "full");
    }
    if let Some(limit) = limit {
        plot.level(limit, &format!("limit {}", (chart.format)(limit)));
    }
    let mut note = String::new();
    if chart.key == "goodput_requests_per_s" {
        let offered = curves.iter().flat_map(|curve| &curve.points).map(|(scenario, _)| &scenario.rate);
        let mut offered: Vec<(f64, f64)> =
            offered.map(|rate| (100.0 * rate.offered_load, rate.requests_per_s)).collect();
        offered.sort_by(|a, b| a.0.total_cmp(&b.0));
        plot.line("ideal", offered);
        note.push_str("Dotted: all that comes. ");
    }
    for (series, points) in &lines {
        let means: Vec<(f64, f64)> = points.iter().map(|(load, of)| (*load, of.mean * scale)).collect();
        for (load, of) in points {
            if let (Some(low), Some(high)) = (of.low, of.high) {
                plot.whisker(*series, (*load, low * scale), (*load, high * scale));
            }
        }
        plot.series(*series, &means);
    }
    let better = match Metric::find(chart.key) {
        Some(metric) if !metric.more_is_better => "less is better",
        _ => "more is better",
    };
    note.push_str(&format!("Means with 95 % intervals; {better}."));
    let words = format!(
        "{} against offered load, {} lines; the table of figures has the values",
        chart.title,
        lines.len()
    );
    Ok(Some(Figure::new(chart.title, plot.finish(&words), &note, command)))
}

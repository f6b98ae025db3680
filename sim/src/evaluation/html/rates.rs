//! Figures against the rate: what a rule does from the trace's own rate to beyond what the cluster can serve.

use super::plot::{Axis, Plot};
use super::{Figure, amount, milliseconds, percent_of, plain};
use crate::error::SimError;
use crate::report::metric::Metric;
use crate::report::results::{Difference, Interval, Limits, RuleFigures, ScenarioEntry};
use crate::report::verdict;

/// One line: a rule of one evaluation at all rates, which rise.
pub(super) struct Curve<'a> {
    pub(super) series: usize,
    pub(super) points: Vec<(&'a ScenarioEntry, &'a RuleFigures)>,
}

/// Where on the axis a rate lies.
fn load(scenario: &ScenarioEntry) -> f64 {
    100.0 * scenario.rate.offered_load
}

impl<'a> Curve<'a> {
    pub(super) fn new(series: usize, mut points: Vec<(&'a ScenarioEntry, &'a RuleFigures)>) -> Self {
        points.sort_by(|a, b| a.0.rate.requests_per_s.total_cmp(&b.0.rate.requests_per_s));
        Self { series, points }
    }

    fn of(&self, key: &str) -> Vec<(f64, Interval)> {
        let point = |(scenario, rule): &(&ScenarioEntry, &RuleFigures)| {
            Some((load(scenario), *rule.figures.get(key)?))
        };
        self.points.iter().filter_map(point).collect()
    }

    /// The paired differences to the first rule, in per cent of it.
    fn beside_first(&self, key: &str) -> Vec<(f64, Interval)> {
        let point = |(scenario, rule): &(&ScenarioEntry, &RuleFigures)| {
            let is = |of: &&Difference| of.rule == rule.rule && of.metric == key;
            let of = scenario.differences.iter().find(is)?;
            let percent = |share: Option<f64>| share.map(|share| 100.0 * share);
            let (low, high) = (percent(of.relative_low), percent(of.relative_high));
            Some((load(scenario), Interval { mean: percent(of.relative)?, low, high, sd: 0.0, n: of.pairs }))
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
    chart("tokens_per_s", "Tokens a second", amount),
    chart("imbalance_tokens", "Imbalance in KV tokens", amount),
];

fn rate(requests_per_s: f64) -> String {
    match requests_per_s {
        rate if rate >= 9.95 || rate == 0.0 => format!("{rate:.0}/s"),
        rate if rate >= 0.995 => format!("{rate:.1}/s"),
        rate => format!("{rate:.2}/s"),
    }
}

/// Differences to the first rule: by which figure, and what of.
const BESIDE: [(&str, &str); 3] =
    [("tokens_per_s", "Tokens a second"), ("ttft_p99_ms", "p99 TTFT"), ("tpot_p99_ms", "p99 TPOT")];

/// A rate at less than this share of the next leaves the others no room on the axis.
const FAR: f64 = 0.4;
/// Differences beyond so many per cent are told by the figures themselves.
const MOST_PERCENT: f64 = 120.0;

/// The axis of the rates: without the least where it lies far below all others, which is said.
struct Loads {
    axis: Axis,
    least: f64,
    note: String,
}

impl Loads {
    fn of(curves: &[Curve<'_>]) -> Self {
        let mut scenarios: Vec<&ScenarioEntry> =
            curves.iter().flat_map(|curve| curve.points.iter().map(|(scenario, _)| *scenario)).collect();
        scenarios.sort_by(|a, b| a.rate.offered_load.total_cmp(&b.rate.offered_load));
        scenarios.dedup_by(|a, b| a.rate.offered_load == b.rate.offered_load);
        let (mut least, mut note) = (0.0, String::new());
        if let [first, second, _, ..] = scenarios[..]
            && load(first) < FAR * load(second)
        {
            least = load(second);
            note = format!(" Not shown: {}, {}.", first.rate.label, verdict::load(first.rate.offered_load));
        }
        let shown = scenarios.iter().map(|scenario| load(scenario)).filter(|&load| load >= least);
        let axis = Axis::around(shown, percent_of).labelled("offered load, % of capacity");
        Self { axis, least, note }
    }

    fn panel(&self, y: Axis) -> Result<Plot, SimError> {
        let mut plot = Plot::new(self.axis.clone(), y)?;
        if self.axis.holds(100.0) {
            plot.place(100.0, "full");
        }
        Ok(plot)
    }
}

/// The points of a series, with their intervals.
fn draw(plot: &mut Plot, series: usize, points: &[(f64, Interval)], scale: f64) {
    for (load, of) in points {
        if let (Some(low), Some(high)) = (of.low, of.high) {
            plot.whisker(series, (*load, low * scale), (*load, high * scale));
        }
    }
    let means: Vec<(f64, f64)> = points.iter().map(|(load, of)| (*load, of.mean * scale)).collect();
    plot.series(series, &means);
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
    let loads = Loads::of(curves);
    let drawn = CHARTS.iter().map(|chart| figure(chart, &loads, curves, limits, command));
    Ok(drawn.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn figure(
    chart: &Chart,
    loads: &Loads,
    curves: &[Curve<'_>],
    limits: Option<&Limits>,
    command: &str,
) -> Result<Option<Figure>, SimError> {
    let is_shown = |load: f64| load >= loads.least;
    let shown = |curve: &Curve<'_>| -> Vec<(f64, Interval)> {
        curve.of(chart.key).into_iter().filter(|&(load, _)| is_shown(load)).collect()
    };
    let lines: Vec<Vec<(f64, Interval)>> = curves.iter().map(shown).collect();
    if lines.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let limit = limits.and_then(chart.limit);
    let mut offered: Vec<(f64, f64)> = Vec::new();
    if chart.key == "goodput_requests_per_s" {
        let rates = curves.iter().flat_map(|curve| &curve.points).map(|(scenario, _)| *scenario);
        let rates = rates.map(|scenario| (load(scenario), scenario.rate.requests_per_s));
        offered = rates.filter(|&(load, _)| is_shown(load)).collect();
        offered.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    // The whole of an interval is to be seen, but not where doubt is larger than the figure.
    let ends = |of: &Interval| [of.mean, of.high.unwrap_or(of.mean).min(2.0 * of.mean)];
    let values = lines.iter().flatten().flat_map(|(_, of)| ends(of)).map(|value| value * chart.scale);
    let values = values.chain(limit).chain(offered.iter().map(|&(_, rate)| rate));
    let mut plot = loads.panel(match chart.key {
        "within_slo" => Axis::between(0.0, 104.0, chart.format),
        "tokens_per_s" => Axis::around(values, chart.format),
        _ if chart.is_log => Axis::log(values, chart.format),
        _ => Axis::linear(values, chart.format),
    })?;
    if let Some(limit) = limit {
        plot.level(limit, &format!("limit {}", (chart.format)(limit)));
    }
    let mut note = String::new();
    if !offered.is_empty() {
        plot.line("ideal", offered);
        note.push_str("Dotted: all that comes. ");
    }
    for (curve, points) in curves.iter().zip(&lines) {
        draw(&mut plot, curve.series, points, chart.scale);
    }
    let is_less = Metric::find(chart.key).is_some_and(|metric| !metric.more_is_better);
    let better = if is_less { "less" } else { "more" };
    note.push_str(&format!("Means with 95 % intervals; {better} is better.{}", loads.note));
    let title = chart.title;
    let words = format!("{title} against offered load, {} lines; the table has the values", lines.len());
    Ok(Some(Figure::new(title, plot.finish(&words), &note, command)))
}

/// What all rules differ by from the first, with paired intervals; none where there is no other.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn beside_first(
    curves: &[Curve<'_>],
    first: &str,
    command: &str,
) -> Result<Vec<Figure>, SimError> {
    let loads = Loads::of(curves);
    let mut figures = Vec::new();
    for (key, name) in BESIDE {
        let of = |curve: &Curve<'_>| -> Vec<(f64, Interval)> {
            let is_shown =
                |&(load, of): &(f64, Interval)| load >= loads.least && of.mean.abs() <= MOST_PERCENT;
            curve.beside_first(key).into_iter().filter(is_shown).collect()
        };
        let lines: Vec<Vec<(f64, Interval)>> = curves.iter().map(of).collect();
        let points = || lines.iter().flatten();
        if points().next().is_none() {
            continue;
        }
        // Beside differences of which one is shown, doubt as wide as the panel needs not be seen to its end.
        let widest = 3.0 * points().map(|(_, of)| of.mean.abs()).fold(0.1, f64::max);
        let ends = points().flat_map(|(_, of)| [of.mean, of.low.unwrap_or(0.0), of.high.unwrap_or(0.0)]);
        let (least, most) = ends
            .map(|end| end.clamp(-widest, widest))
            .fold((0.0f64, 0.0f64), |(least, most), end| (least.min(end), most.max(end)));
        let room = (0.08 * (most - least)).max(0.1);
        let mut plot = loads.panel(Axis::between(least - room, most + room, percent_more))?;
        plot.level(0.0, "");
        for (curve, points) in curves.iter().zip(&lines) {
            draw(&mut plot, curve.series, points, 1.0);
        }
        let title = format!("{name} beside {first}");
        let better = match Metric::find(key) {
            Some(metric) if !metric.more_is_better => "below 0",
            _ => "above 0",
        };
        let note = format!("Paired, with 95 % intervals; {better} is better than {first}.{}", loads.note);
        let words =
            format!("{title} in per cent, against offered load; the table of differences has the values");
        figures.push(Figure::new(&title, plot.finish(&words), &note, command));
    }
    Ok(figures)
}

fn percent_more(percent: f64) -> String {
    if percent.abs() < 1e-9 {
        "0 %".to_owned()
    } else {
        format!("{}{} %", if percent > 0.0 { "+" } else { "" }, plain(percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_their_digits_and_differences_their_signs() {
        assert_eq!([0.0, 0.05, 2.0, 12.4, 198.0].map(rate), ["0/s", "0.05/s", "2.0/s", "12/s", "198/s"]);
        assert_eq!([0.0, 2.0, -0.5].map(percent_more), ["0 %", "+2 %", "-0.5 %"]);
    }
}

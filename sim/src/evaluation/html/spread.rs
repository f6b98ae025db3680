//! Distributions of times: the share of the requests that take longer.

use super::plot::{Axis, Plot};
use super::{Figure, milliseconds};
use crate::error::SimError;
use crate::report::results::{Limits, Quantiles, ScenarioEntry};

/// The least share that is drawn, in per cent.
const LEAST: f64 = 0.1;

type Part = fn(&Quantiles) -> &Vec<f64>;

/// What is drawn: name, where it is, and its limit.
const PARTS: [(&str, Part, fn(&Limits) -> Option<f64>); 3] = [
    ("wait", |of| &of.wait_ms, |_| None),
    ("TTFT", |of| &of.ttft_ms, |limits| limits.ttft_ms),
    ("TPOT", |of| &of.tpot_ms, |limits| limits.tpot_ms),
];

/// The quantiles as shares of the requests that take longer, in per cent.
fn tail(at: &[f64], values: &[f64]) -> Vec<(f64, f64)> {
    at.iter().zip(values).map(|(at, &value)| (value, (100.0 * (1.0 - at)).max(LEAST))).collect()
}

fn share(percent: f64) -> String {
    if percent >= 0.95 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// One figure for wait, TTFT and TPOT of all rules of a scenario.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn figures(scenario: &ScenarioEntry, limits: Option<&Limits>) -> Result<Vec<Figure>, SimError> {
    let mut figures = Vec::new();
    for (name, part, limit) in PARTS {
        let tails: Vec<Vec<(f64, f64)>> =
            (scenario.rules.iter()).map(|rule| tail(&rule.quantiles.at, part(&rule.quantiles))).collect();
        let times = || tails.iter().flatten().map(|&(time, _)| time);
        if times().next().is_none() {
            continue;
        }
        let limit = limits.and_then(limit);
        // Of what is always alike an axis of decades shows nothing.
        let (least, most) =
            times().fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), time| (a.min(time), b.max(time)));
        let is_narrow = most < 8.0 * least;
        let x = if is_narrow {
            Axis::linear(times().chain(limit.filter(|&limit| limit < 3.0 * most)), milliseconds)
        } else {
            Axis::log(times().map(|time| time.max(most / 1e3)), milliseconds)
        };
        let mut plot =
            Plot::new(x.labelled(&format!("a {name} longer than this")), Axis::log([LEAST, 100.0], share))?;
        let reaches = |limit: f64| most > limit / 3.0;
        if let Some(limit) = limit.filter(|&limit| reaches(limit)) {
            plot.place(limit, &format!("limit {}", milliseconds(limit)));
        }
        if let Some(limits) = limits.filter(|limits| limit.is_some() && limits.share < 1.0) {
            let late = 100.0 * (1.0 - limits.share);
            plot.level(late, &format!("{} may be later", share(late)));
        }
        for (series, tail) in tails.iter().enumerate() {
            plot.line(&format!("l {}", super::plot::class(series)), tail.iter().copied());
            // The median, p90, p99 and p99.9 have points.
            let marked = |&&(_, longer): &&(f64, f64)| {
                [50.0, 10.0, 1.0, 0.1].iter().any(|at: &f64| (longer - at).abs() < 1e-6 * at)
            };
            // The greatest lies beyond the last share that is drawn.
            let without_last = &tail[..tail.len().saturating_sub(1)];
            let points: Vec<(f64, f64)> = without_last.iter().filter(marked).copied().collect();
            plot.points(series, &points);
        }
        let title = format!("{} at {}", if name == "wait" { "Wait" } else { name }, scenario.rate.label);
        let note = format!(
            "Share of the requests of every {} with a longer {name}; points are p50, p90, p99 and p99.9. \
             Further left is better.",
            scenario.replicate
        );
        let words = format!("{title}: share of the requests that take longer, one line a rule");
        figures.push(Figure::new(&title, plot.finish(&words), &note, &scenario.command));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_what_the_rest_takes_longer_than() {
        let tail = tail(&[0.0, 0.5, 0.99, 1.0], &[1.0, 2.0, 3.0, 4.0]);
        for ((time, longer), (expected, share)) in
            tail.into_iter().zip([(1.0, 100.0), (2.0, 50.0), (3.0, 1.0), (4.0, LEAST)])
        {
            assert_eq!(time, expected);
            approx::assert_abs_diff_eq!(longer, share, epsilon = 1e-9);
        }
    }
}

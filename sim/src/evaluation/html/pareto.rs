//! Throughput beside waits: which rules no other rule beats in both.

use super::plot::{Axis, Plot};
use super::{Figure, amount, milliseconds};
use crate::error::SimError;
use crate::report::results::{Interval, ScenarioEntry};

/// Those beside which no other has both more of the first and less of the second, as the first rises.
fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let beats = |a: (f64, f64), b: (f64, f64)| a.0 >= b.0 && a.1 <= b.1 && a != b;
    let mut front: Vec<usize> =
        (0..points.len()).filter(|&at| !points.iter().any(|&other| beats(other, points[at]))).collect();
    front.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0));
    front
}

/// Tokens a second and p99 wait of all rules of a scenario; none with fewer than two rules.
///
/// # Errors
/// It cannot be drawn.
pub(super) fn figure(scenario: &ScenarioEntry) -> Result<Option<Figure>, SimError> {
    let of = |key: &str| -> Option<Vec<Interval>> {
        scenario.rules.iter().map(|rule| rule.figures.get(key).copied()).collect()
    };
    let (Some(tokens), Some(waits)) = (of("tokens_per_s"), of("wait_p99_ms")) else { return Ok(None) };
    if tokens.len() < 2 {
        return Ok(None);
    }
    let ends = |of: &Interval| [of.mean, of.low.unwrap_or(of.mean), of.high.unwrap_or(of.mean)];
    let (least, most) = tokens
        .iter()
        .flat_map(ends)
        .fold((f64::INFINITY, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
    let room = (0.1 * (most - least)).max(1e-3 * most).max(1e-9);
    let x = Axis::between((least - room).max(0.0), most + room, amount).labelled("tokens a second");
    // The lower end of a wide interval would squeeze all the rest.
    let shown = waits.iter().flat_map(|of| [of.mean, of.high.unwrap_or(of.mean).min(3.0 * of.mean)]);
    let shown: Vec<f64> = shown.collect();
    let (shortest, longest) =
        shown.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &value| (a.min(value), b.max(value)));
    // Of waits that are nearly alike an axis of decades shows nothing.
    let is_narrow = longest < 5.0 * shortest;
    let y = if is_narrow { Axis::around(shown, milliseconds) } else { Axis::log(shown, milliseconds) };
    let mut plot = Plot::new(x, y)?;
    let points: Vec<(f64, f64)> = tokens.iter().zip(&waits).map(|(x, y)| (x.mean, y.mean)).collect();
    plot.line("ideal", front(&points).into_iter().map(|at| points[at]));
    for (series, (tokens, waits)) in tokens.iter().zip(&waits).enumerate() {
        if let (Some(low), Some(high)) = (tokens.low, tokens.high) {
            plot.whisker(series, (low, waits.mean), (high, waits.mean));
        }
        if let (Some(low), Some(high)) = (waits.low, waits.high) {
            plot.whisker(series, (tokens.mean, low), (tokens.mean, high));
        }
        plot.points(series, &[points[series]]);
    }
    let title = format!("Throughput and p99 wait at {}", scenario.rate.label);
    let note = "Further right and further down is better; with 95 % intervals. Dotted: rules that no other \
                beats in both.";
    let words = format!("{title}, one point a rule; the table of figures has the values");
    Ok(Some(Figure::new(&title, plot.finish(&words), note, &scenario.command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_front_nobody_is_beaten_in_both() {
        let points = [(10.0, 5.0), (12.0, 6.0), (11.0, 7.0), (9.0, 5.0), (12.0, 6.0), (13.0, 9.0)];
        assert_eq!(front(&points), [0, 1, 4, 5]);
        assert!(front(&[]).is_empty());
    }
}

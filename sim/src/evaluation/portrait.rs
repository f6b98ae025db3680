//! A trace as a picture: when its requests come, and how long prompts, outputs and gaps are, as SVG.

use std::ops::Range;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::IntoLogRange;
use plotters::element::{PathElement, Polygon};
use plotters::style::Color;

use super::chart::{Area, Drawn, RANKS, document, style, titled};
use crate::error::SimError;
use crate::report::short;
use crate::traces::Trace;

const PANEL: (u32, u32) = (480, 300);
/// Bars of the arrivals.
const BARS: usize = 96;

/// Draws a trace as an SVG document.
///
/// # Errors
/// It cannot be drawn.
pub fn svg(trace: &Trace) -> Result<String, SimError> {
    let timed = trace.requests_per_s().is_some();
    let size = (2 * PANEL.0, if timed { 2 * PANEL.1 } else { PANEL.1 });
    document("picture", size, |root| draw(trace, timed, root))
}

fn draw(trace: &Trace, timed: bool, root: &Area<'_>) -> Drawn {
    let prompts = trace.jobs.iter().map(|job| f64::from(job.prompt_tokens)).collect();
    let outputs = trace.jobs.iter().map(|job| f64::from(job.output_tokens)).collect();
    let gaps: Vec<f64> = trace.arrival_s.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3).collect();
    let (lengths, times) = root.split_vertically(PANEL.1);
    let panels = lengths.split_evenly((1, 2));
    distribution(&panels[0], "prompts up to so long", "tokens", prompts)?;
    distribution(&panels[1], "outputs up to so long", "tokens", outputs)?;
    if timed {
        let panels = times.split_evenly((1, 2));
        arrivals(&panels[0], &trace.arrival_s)?;
        distribution(&panels[1], "gaps between arrivals up to so long", "ms", gaps)?;
    }
    Ok(())
}

/// The share of the values up to each, in per cent, over a logarithmic axis.
fn distribution(area: &Area<'_>, title: &str, unit: &str, mut values: Vec<f64>) -> Drawn {
    let below = titled(area, title)?;
    values.sort_unstable_by(f64::total_cmp);
    let last = values.last().copied().unwrap_or(1.0);
    // What comes at once has no gap, and no place on such an axis.
    let least = values.iter().copied().find(|&value| value > 0.0).unwrap_or(1.0).max(last / 1e7);
    let (low, high) = (10f64.powf(least.log10().floor()), 10f64.powf((last * 1.001).log10().ceil()));
    let mut chart = ChartBuilder::on(&below)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .margin_right(20)
        .build_cartesian_2d((low..high.max(low * 10.0)).log_scale(), 0.0..100.0)?;
    let mut mesh = chart.configure_mesh();
    style(&mut mesh);
    mesh.x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|value| if *value >= 1.0 { short(*value) } else { value.to_string() })
        .y_label_formatter(&|share| format!("{share:.0} %"))
        .x_desc(unit)
        .draw()?;
    // As many points as can be told apart.
    let points = (0..=400).filter_map(|point| {
        let at = point * (values.len().max(1) - 1) / 400;
        let share = 100.0 * (at + 1) as f64 / values.len() as f64;
        values.get(at).map(|value| (value.max(low), share))
    });
    chart.draw_series([PathElement::new(points.collect::<Vec<_>>(), RANKS.stroke_width(2))])?;
    Ok(())
}

/// Requests per second over time.
fn arrivals(area: &Area<'_>, arrival_s: &[f64]) -> Drawn {
    let below = titled(area, "arrivals a second")?;
    let span_s = arrival_s.last().copied().unwrap_or(0.0);
    let (unit, scale) = match span_s {
        span_s if span_s >= 2.0 * 86_400.0 => ("days", 86_400.0),
        span_s if span_s >= 2.0 * 3_600.0 => ("hours", 3_600.0),
        span_s if span_s >= 120.0 => ("minutes", 60.0),
        _ => ("seconds", 1.0),
    };
    let width_s = span_s / BARS as f64;
    let mut rates = vec![0.0; BARS];
    for at_s in arrival_s {
        rates[((at_s / width_s) as usize).min(BARS - 1)] += 1.0 / width_s;
    }
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let axes: (Range<f64>, Range<f64>) = (0.0..span_s / scale, 0.0..highest * 1.05);
    let mut chart = ChartBuilder::on(&below)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .margin_right(20)
        .build_cartesian_2d(axes.0, axes.1)?;
    let mut mesh = chart.configure_mesh();
    style(&mut mesh);
    mesh.disable_x_mesh().x_labels(6).y_labels(5).x_desc(unit).draw()?;
    chart.draw_series(rates.iter().enumerate().map(|(at, &rate)| {
        let (from, to) = (at as f64 * width_s / scale, (at + 1) as f64 * width_s / scale);
        Polygon::new(vec![(from, 0.0), (from, rate), (to, rate), (to, 0.0)], RANKS.mix(0.8))
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;

    #[test]
    fn a_trace_has_four_panels_and_two_without_times() {
        let timed = Trace {
            jobs: (1..=200).map(|prompt| Job::new(prompt, 7)).collect(),
            arrival_s: (0..200).map(|at| f64::from(at / 2)).collect(),
            ..Trace::default()
        };
        let picture = svg(&timed).expect("a picture");
        let bars = picture.matches("<polygon").count();
        assert_eq!((bars, picture.matches("up to so long").count()), (BARS, 3), "{picture}");
        let lengths = Trace { arrival_s: Vec::new(), ..timed.clone() };
        let half = svg(&lengths).expect("a picture");
        assert_eq!(half.matches("up to so long").count(), 2);
        assert!(picture.contains("height=\"600\"") && half.contains("height=\"300\""), "{half}");
        // One request, and all at once.
        for rows in [1, 200] {
            let trace =
                Trace { jobs: timed.jobs[..rows].to_vec(), arrival_s: vec![0.0; rows], ..timed.clone() };
            assert!(!svg(&trace).expect("a picture").contains("NaN"));
        }
    }
}

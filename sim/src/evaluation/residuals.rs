//! A step law beside its measurements, as SVG.

use plotters::chart::ChartBuilder;
use plotters::element::{Circle, PathElement};
use plotters::style::Color;

use super::chart::{Area, Drawn, GREATEST, RANKS, document, style, titled};
use crate::calibration::{Calibration, Step};
use crate::error::SimError;

const PANEL: (u32, u32) = (480, 340);
/// As many as can be told apart.
const MOST_POINTS: usize = 2_000;

/// Draws three panels: measured against fitted times, and the residuals over running requests and over KV
/// tokens.
///
/// # Errors
/// It cannot be drawn.
pub fn svg(calibration: &Calibration) -> Result<String, SimError> {
    document("plot", (3 * PANEL.0, PANEL.1), |root| draw(calibration, root))
}

/// What a panel shows.
struct Panel<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    points: Vec<(f64, f64)>,
    /// Where points lie that the law has right: from here to there.
    right: [(f64, f64); 2],
    y_range: (f64, f64),
}

fn draw(calibration: &Calibration, root: &Area<'_>) -> Drawn {
    let every = calibration.steps.len().div_ceil(MOST_POINTS).max(1);
    let steps = || calibration.steps.iter().zip(&calibration.fitted_ms).step_by(every);
    // Pauses would leave nothing else to be seen; they lie on the upper edge.
    let longest = calibration.fitted_ms.iter().copied().fold(0.0, f64::max) * 1.25;
    let least = 100.0 * (4.0 * calibration.residual_sd).max(0.01);
    let over = |x: fn(&Step) -> f64| -> Vec<(f64, f64)> {
        let residual = |step: &Step, fitted: f64| (100.0 * (step.ms / fitted - 1.0)).clamp(-least, least);
        steps().map(|(step, &fitted)| (x(step), residual(step, fitted))).collect()
    };
    let most = |points: &[(f64, f64)]| points.iter().map(|point| point.0).fold(1e-9, f64::max) * 1.02;
    let (running, kv) = (over(|step| step.running), over(|step| step.kv_tokens / 1e3));
    let panels = [
        Panel {
            title: "measured over fitted",
            x: "ms by the law",
            y: "ms measured",
            points: steps().map(|(step, &fitted)| (fitted, step.ms.min(longest))).collect(),
            right: [(0.0, 0.0), (longest, longest)],
            y_range: (0.0, longest),
        },
        Panel {
            title: "residuals over running requests",
            x: "running requests",
            y: "% of the law",
            right: [(0.0, 0.0), (most(&running), 0.0)],
            y_range: (-least, least),
            points: running,
        },
        Panel {
            title: "residuals over KV tokens",
            x: "thousands of KV tokens",
            y: "% of the law",
            right: [(0.0, 0.0), (most(&kv), 0.0)],
            y_range: (-least, least),
            points: kv,
        },
    ];
    for (panel, area) in panels.iter().zip(root.split_evenly((1, 3))) {
        draw_panel(panel, &area)?;
    }
    Ok(())
}

fn draw_panel(panel: &Panel<'_>, area: &Area<'_>) -> Drawn {
    let below = titled(area, panel.title)?;
    let mut chart = ChartBuilder::on(&below)
        .x_label_area_size(44)
        .y_label_area_size(66)
        .margin_left(10)
        .margin_right(20)
        .margin_bottom(8)
        .build_cartesian_2d(0.0..panel.right[1].0, panel.y_range.0..panel.y_range.1)?;
    let mut mesh = chart.configure_mesh();
    style(&mut mesh);
    mesh.x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_desc(panel.x)
        .y_desc(panel.y)
        .draw()?;
    let point = RANKS.mix(0.35).filled();
    chart.draw_series(panel.points.iter().map(|&at| Circle::new(at, 2, point)))?;
    chart.draw_series([PathElement::new(panel.right.to_vec(), GREATEST.stroke_width(2))])?;
    Ok(())
}

//! A step law beside its measurements, as SVG.

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::drawing::IntoDrawingArea;
use plotters::element::{Circle, PathElement, Text};
use plotters::style::Color;
use plotters::style::text_anchor::HPos;

use super::picture::{Area, Drawn, GREATEST, RANKS, TEXT, text};
use crate::calibration::{Calibration, Step};
use crate::error::{SimError, argument};

const PANEL: (u32, u32) = (480, 340);
const TITLE_HEIGHT: u32 = 30;
/// As many as can be told apart.
const MOST_POINTS: usize = 2_000;

/// Draws three panels: measured against fitted times, and the residuals over running requests and over KV
/// tokens.
///
/// # Errors
/// It cannot be drawn.
pub fn svg(calibration: &Calibration) -> Result<String, SimError> {
    let mut document = String::new();
    draw(calibration, &mut document)
        .map_err(|error| argument("plot", "one that can be drawn", error.to_string()))?;
    Ok(document)
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

fn draw(calibration: &Calibration, document: &mut String) -> Drawn {
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
    let root = SVGBackend::with_string(document, (3 * PANEL.0, PANEL.1)).into_drawing_area();
    for (panel, area) in panels.iter().zip(root.split_evenly((1, 3))) {
        draw_panel(panel, &area)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(panel: &Panel<'_>, area: &Area<'_>) -> Drawn {
    let (above, below) = area.split_vertically(TITLE_HEIGHT);
    let middle = PANEL.0 as i32 / 2 + 30;
    above.draw(&Text::new(panel.title, (middle, 18), text(16, true, HPos::Center)))?;
    let mut chart = ChartBuilder::on(&below)
        .x_label_area_size(44)
        .y_label_area_size(66)
        .margin_left(10)
        .margin_right(20)
        .margin_bottom(8)
        .build_cartesian_2d(0.0..panel.right[1].0, panel.y_range.0..panel.y_range.1)?;
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(5)
        .light_line_style(TEXT.mix(0.0))
        .bold_line_style(TEXT.mix(0.25))
        .axis_style(TEXT.mix(0.6))
        .label_style(text(13, false, HPos::Left))
        .axis_desc_style(text(13, false, HPos::Center))
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

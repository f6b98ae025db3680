//! A step law in words, and how sure it is.

use std::fmt::Write as _;

use super::figures::short;
use super::page::{Grid, Page, Style};
use crate::calibration::Calibration;

/// Files, terms and residuals in words.
#[must_use]
pub fn calibration(calibration: &Calibration) -> String {
    calibration_page(calibration).show(Style::Plain)
}

/// Files, terms and residuals as tables and words.
#[must_use]
pub fn calibration_page(calibration: &Calibration) -> Page {
    let cells = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
    let mut files = vec![
        cells(&["", "steps", "running", "KV", "prompt", "step", "residual %", "residual %"]),
        cells(&["file", "", "requests", "tokens", "tokens", "ms", "median", "p95 of size"]),
    ];
    files.extend(calibration.files.iter().map(|file| {
        vec![
            file.file.clone(),
            file.steps.to_string(),
            format!("{:.1}", file.running),
            short(file.kv_tokens),
            short(file.prefill_tokens),
            format!("{:.2}", file.mean_ms),
            format!("{:+.1}", 100.0 * file.residual_median),
            format!("{:.1}", 100.0 * file.residual_p95),
        ]
    }));
    let mut terms = vec![cells(&["term", "", "", "95 %", "of a mean step"])];
    terms.extend(calibration.terms.iter().map(|fitted| {
        let (name, unit) = fitted.term.words();
        vec![
            name.to_owned(),
            format!("{:.4}", fitted.value),
            unit.to_owned(),
            format!("+- {:.4}", fitted.error),
            format!("{:.1} %", 100.0 * fitted.mean_ms / calibration.mean_ms),
        ]
    }));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "residuals: standard deviation {:.1} %, {:.1} % of {} steps beyond three of it\n\
         load explains {:.1} % of the variance; condition number {:.1}",
        100.0 * calibration.residual_sd,
        100.0 * calibration.beyond_3_sd,
        calibration.steps.len(),
        100.0 * calibration.explained,
        calibration.condition
    );
    Page::new().grid(Grid::new(files, 2)).grid(Grid::new(terms, 1)).text(text)
}

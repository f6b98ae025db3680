//! Whether load was varied at all.
//!
//! At one rate and one mix of lengths running requests rise and fall by chance alone, and KV tokens with
//! them. The fit then finds terms, and errors that look small; but whatever else is not as the law has it
//! (how late a client sees tokens) is as large as these changes. So two points of work are asked for: runs,
//! or parts of one, whose running requests or whose tokens per request are apart.

use super::{CalibrateError, MeasuredFile, Step};

/// Parts of a run that may be points of their own: a rate may have been ramped up.
const PARTS: usize = 3;
/// Of such a part: fewer are a point by chance.
const LEAST_STEPS: usize = 50;
/// Of a run at each end: it fills up and runs dry.
const TRIMMED: f64 = 0.2;
/// How far apart two points have to be, as a factor.
pub(super) const RUNNING_APART: f64 = 2.0;
pub(super) const LENGTHS_APART: f64 = 1.5;
/// Variance of running requests over their mean, which is about 1 for Poisson arrivals at one rate. Rows of a
/// table may be in no order of time.
const DISPERSED: f64 = 3.0;

/// Running requests, and KV tokens per running request.
fn point(steps: &[Step]) -> (f64, f64) {
    let (running, kv_tokens) =
        steps.iter().fold((0.0, 0.0), |sum, step| (sum.0 + step.running, sum.1 + step.kv_tokens));
    (running / steps.len() as f64, kv_tokens / f64::max(running, 1.0))
}

fn dispersion(steps: &[Step]) -> f64 {
    let mean = steps.iter().map(|step| step.running).sum::<f64>() / steps.len().max(1) as f64;
    let squares: f64 = steps.iter().map(|step| (step.running - mean).powi(2)).sum();
    squares / steps.len().max(1) as f64 / mean.max(1e-9)
}

/// Refuses steps of one point; `files` say how many each has.
pub(super) fn check(files: &[MeasuredFile], steps: &[Step]) -> Result<(), CalibrateError> {
    let mut rest = steps;
    for file in files {
        let (of_file, after) = rest.split_at(file.steps);
        rest = after;
        if file.requests == 0 && dispersion(of_file) >= DISPERSED {
            return Ok(());
        }
    }
    let points = steps.chunk_by(|a, b| a.run == b.run).flat_map(|run| {
        let trimmed = (TRIMMED * run.len() as f64) as usize;
        let middle = &run[trimmed..run.len() - trimmed];
        middle.chunks(middle.len().div_ceil((middle.len() / LEAST_STEPS).clamp(1, PARTS))).map(point)
    });
    let nothing = [(f64::INFINITY, 0.0f64); 2];
    let [running, lengths] = points.fold(nothing, |[running, lengths], (of_running, of_lengths)| {
        let wider = |range: (f64, f64), value: f64| (range.0.min(value), range.1.max(value));
        [wider(running, of_running), wider(lengths, of_lengths)]
    });
    if running.1 >= RUNNING_APART * running.0 || lengths.1 >= LENGTHS_APART * lengths.0 {
        return Ok(());
    }
    Err(CalibrateError::OnePoint { running, tokens_per_request: lengths })
}

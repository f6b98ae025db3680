//! A swim lane: one second, step by step, in which every rank works for as long as it has to and waits for
//! the fullest.

use std::fmt::Write as _;

use super::plot::{Axis, Plot};
use super::{Figure, plain};
use crate::error::SimError;
use crate::report::evaluated::{RequestOf, SeriesOf};
use crate::report::folder::{SeriesLine, StepKind};
use crate::report::results::{Asked, ScenarioEntry};

/// Lanes: of more ranks every so-manyth is drawn.
const MOST_LANES: usize = 16;
/// Pixels of a lane, with what is above and below it.
const LANE: u32 = 24;
/// Steps that have room side by side.
const MOST_STEPS: usize = 12;

/// What a rank does for so long.
struct Law {
    us_per_request: f64,
    us_per_token: f64,
}

impl Law {
    /// What the law says of a rank, but for what all ranks have in common.
    fn own_ms(&self, running: usize, tokens: u64) -> f64 {
        (self.us_per_request * running as f64 + self.us_per_token * tokens as f64) / 1e3
    }

    /// The share of a step in which each rank works: all but what the fullest has more to do.
    fn busy(&self, step: &SeriesLine, running: &[usize]) -> Vec<f64> {
        let own: Vec<f64> =
            step.loads.iter().zip(running).map(|(&load, &running)| self.own_ms(running, load)).collect();
        let most = own.iter().copied().fold(0.0, f64::max);
        let waits = |own: &f64| if step.step_ms > 0.0 { (most - own) / step.step_ms } else { 0.0 };
        own.iter().map(|own| (1.0 - waits(own)).clamp(0.0, 1.0)).collect()
    }
}

/// Requests of each rank that run in a step that begins then.
fn running(requests: &[&RequestOf], ranks: usize, at_ms: f64) -> Vec<usize> {
    let mut running = vec![0; ranks];
    for request in requests {
        if request.line.admitted_ms <= at_ms && at_ms < request.line.ended_ms {
            running[request.line.worker as usize] += 1;
        }
    }
    running
}

/// The lanes of one rule; none where no step was kept.
///
/// # Errors
/// They cannot be drawn.
pub(super) fn figure(
    scenario: &ScenarioEntry,
    asked: &Asked,
    rule: &str,
    series: &[SeriesOf],
    requests: &[RequestOf],
) -> Result<Option<Figure>, SimError> {
    let all = || series.iter().filter(|step| step.rule == rule && step.line.kind == StepKind::Lane);
    let steps: Vec<&SeriesLine> = all().take(MOST_STEPS).map(|step| &step.line).collect();
    let requests: Vec<&RequestOf> = requests.iter().filter(|request| request.rule == rule).collect();
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Ok(None) };
    let (from_ms, ms) = (first.t_ms, last.t_ms + last.step_ms - first.t_ms);
    if ms <= 0.0 {
        return Ok(None);
    }
    let every = scenario.workers.div_ceil(MOST_LANES).max(1);
    let lanes: Vec<usize> = (0..scenario.workers).step_by(every).collect();
    let law = Law { us_per_request: asked.step_us_per_request, us_per_token: asked.step_us_per_token };
    let x = Axis::between(0.0, ms, plain).labelled("ms");
    let height = 60 + LANE * lanes.len() as u32;
    let mut plot = Plot::of_height(x, Axis::of_rows(lanes.len()), height)?;
    let (mut works, mut waits, mut waited) = (String::new(), String::new(), 0.0);
    for step in &steps {
        let busy = law.busy(step, &running(&requests, scenario.workers, step.t_ms));
        waited += step.step_ms * busy.iter().map(|busy| 1.0 - busy).sum::<f64>() / busy.len().max(1) as f64;
        let begin = step.t_ms - from_ms;
        for (lane, &of) in lanes.iter().enumerate() {
            let (y, to_y) = (lane as f64 + 0.72, lane as f64 + 0.28);
            let (x, y) = plot.at(begin, y);
            let (end, to_y) = plot.at(begin + step.step_ms, to_y);
            let middle = x + busy[of] * (end - x);
            // Writing to a string cannot fail.
            // A hair of the background between two steps.
            let begin = x + 0.5;
            let _ = write!(works, "M{begin:.1} {y:.1}H{middle:.1}V{to_y:.1}H{begin:.1}z");
            if end - middle >= 0.1 {
                let _ = write!(waits, "M{middle:.1} {y:.1}H{end:.1}V{to_y:.1}H{middle:.1}z");
            }
        }
    }
    plot.path("works", &works);
    plot.path("waits", &waits);
    let (mut enters, mut leaves) = (String::new(), String::new());
    for request in &requests {
        let Some(lane) = lanes.iter().position(|&rank| rank == request.line.worker as usize) else {
            continue;
        };
        for (at_ms, path, shape, offset) in [
            (request.line.admitted_ms, &mut enters, "l2.6 -5.2h-5.2z", 0.86),
            (request.line.ended_ms, &mut leaves, "l2.6 5.2h-5.2z", 0.14),
        ] {
            if (from_ms..=from_ms + ms).contains(&at_ms) {
                let (x, y) = plot.at(at_ms - from_ms, lane as f64 + offset);
                let y = if offset > 0.5 { y + 2.6 } else { y - 2.6 };
                let _ = write!(path, "M{x:.1} {y:.1}{shape}");
            }
        }
    }
    plot.path("enters", &enters);
    plot.path("leaves", &leaves);
    for (lane, &of) in lanes.iter().enumerate() {
        plot.beside(lane as f64 + 0.5, &of.to_string());
    }
    let title = format!("Under {rule}");
    let mut note = format!(
        "One lane a rank. Dark: it works; light: it waits for the fullest, {:.1} % of the time. Triangles \
         above: a request enters; below: one leaves.",
        100.0 * waited / ms
    );
    if all().count() > steps.len() {
        note.push_str(&format!(" The first {} of {} steps.", steps.len(), all().count()));
    }
    if every > 1 {
        note.push_str(&format!(" Every {every}th of {} ranks.", scenario.workers));
    }
    if asked.prompts == "worker" || scenario.kv_capacity_tokens.is_some() {
        note.push_str(" Prompts that are computed on a rank count as work of all.");
    }
    let words = format!(
        "A busy second under {rule}: bars of work and waiting, one lane for each of {} ranks",
        lanes.len()
    );
    Ok(Some(Figure::new(&title, plot.finish(&words), &note, &scenario.command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_waits_for_what_the_fullest_has_more() {
        let law = Law { us_per_request: 100.0, us_per_token: 1.0 };
        let step = SeriesLine {
            kind: StepKind::Lane,
            step: 0,
            t_ms: 0.0,
            step_ms: 10.0,
            loads: vec![4_000, 1_000, 0],
            imbalance: 0.0,
            running: 20,
            waiting: 0,
        };
        // 5 ms, 2 ms and nothing of a step of 10 ms.
        let busy = law.busy(&step, &[10, 10, 0]);
        for (busy, expected) in busy.iter().zip([1.0, 0.7, 0.5]) {
            approx::assert_abs_diff_eq!(*busy, expected, epsilon = 1e-12);
        }
        let standing = SeriesLine { step_ms: 0.0, ..step };
        assert_eq!(law.busy(&standing, &[0, 0, 0]), [1.0, 1.0, 1.0]);
    }
}

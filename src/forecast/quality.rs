//! Offline quality of a classifier on a list of requests: how well it tells that, and when, a request ends.

use crate::forecast::{Running, TerminationClassifier};
use crate::ids::RequestId;

/// A finished request of a trace, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// KV tokens that it brought.
    pub prompt_tokens: u32,
    /// Equal for equal prompts.
    pub prompt_hash: Option<u64>,
    /// Output length.
    pub output_tokens: u32,
}

/// Quality over one horizon.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Samples (request, age) judged.
    pub samples: usize,
    /// Of these, how many did end within the horizon.
    pub positives: usize,
    /// Area under the ROC curve of P(ends within H); 0.5 is guessing, none without both outcomes.
    pub auc: Option<f64>,
    /// Mean absolute error of the remaining steps where the request does end within the horizon and the
    /// classifier thought it possible, in steps.
    pub mae_steps: Option<f64>,
}

/// Judges a classifier that has learned from the first half of `requests` on the second half, which it goes
/// on learning from. Each request is looked at every `every_steps` of its age.
#[must_use]
pub fn judge(
    classifier: &mut dyn TerminationClassifier,
    requests: &[Observed],
    horizon_steps: u32,
    every_steps: u32,
) -> Quality {
    let running = |id: usize, request: &Observed, generated_tokens: u32| Running {
        id: RequestId::new(id as u64),
        prompt_tokens: request.prompt_tokens,
        prompt_hash: request.prompt_hash,
        generated_tokens,
    };
    let mut scored: Vec<(f64, bool)> = Vec::new();
    let (mut error, mut errors, mut positives) = (0.0, 0usize, 0usize);
    for (id, request) in requests.iter().enumerate() {
        if id >= requests.len() / 2 {
            classifier.told(RequestId::new(id as u64), request.output_tokens);
            for age in (0..request.output_tokens).step_by(every_steps.max(1) as usize) {
                let found =
                    classifier.predict(&running(id, request, age), horizon_steps).in_range(horizon_steps);
                let remaining = request.output_tokens - age;
                let ends = remaining <= horizon_steps;
                scored.push((found.probability, ends));
                positives += usize::from(ends);
                if ends && found.probability > 0.0 {
                    error += (found.remaining_steps - f64::from(remaining)).abs();
                    errors += 1;
                }
            }
        }
        classifier.finished(&running(id, request, request.output_tokens));
    }
    Quality {
        samples: scored.len(),
        positives,
        mae_steps: (errors > 0).then(|| error / errors as f64),
        auc: auc(&mut scored),
    }
}

/// The Mann-Whitney form of the area, ties counted half.
fn auc(scored: &mut [(f64, bool)]) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|(_, ends)| *ends).count() as f64;
    let negatives = scored.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let (mut below, mut wins) = (0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let hits = tied.iter().filter(|(_, ends)| *ends).count() as f64;
        let misses = tied.len() as f64 - hits;
        wins += hits * (below + misses / 2.0);
        below += misses;
    }
    Some(wins / (positives * negatives))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::{Oracle, Survival};

    #[test]
    fn auc_of_a_hand_made_list() {
        assert_eq!(auc(&mut [(0.1, false), (0.4, true), (0.35, false), (0.8, true)]), Some(1.0));
        assert_eq!(auc(&mut [(0.1, true), (0.4, false), (0.35, true), (0.2, false)]), Some(0.25));
        assert_eq!(auc(&mut [(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(auc(&mut [(0.5, true)]), None);
    }

    #[test]
    fn the_oracle_is_perfect_and_survival_is_better_than_guessing() {
        let requests: Vec<Observed> = (0..400u32)
            .map(|i| Observed {
                prompt_tokens: 10,
                prompt_hash: None,
                output_tokens: if i % 3 == 0 { 300 } else { 40 + i % 20 },
            })
            .collect();
        let oracle = judge(&mut Oracle::new(), &requests, 16, 8);
        assert_eq!((oracle.auc, oracle.mae_steps), (Some(1.0), Some(0.0)));
        let survival = judge(&mut Survival::new(), &requests, 16, 8);
        assert!(survival.auc > Some(0.8) && survival.mae_steps < Some(8.0), "{survival:?}");
        assert_eq!(survival.samples, oracle.samples);
    }
}

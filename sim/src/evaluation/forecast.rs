//! How well the forecasts know the ends of a trace or a workload, offline.

use balanceroute::forecast::quality::{Observed, Quality, judge};
use balanceroute::forecast::{ExactMatch, Oracle, Survival, TerminationClassifier};

use crate::cluster::Source;
use crate::error::{SimError, argument};
use crate::report::aligned;

/// Ages at which each request is looked at, in steps apart.
const EVERY_STEPS: u32 = 16;

/// Judges every built-in classifier: each learns from the first half of the requests and is judged on the
/// second.
///
/// # Errors
/// A horizon of zero or above 65,536 steps.
pub fn table(source: &Source, horizon_steps: u32) -> Result<Vec<(&'static str, Quality)>, SimError> {
    if !(1..=1 << 16).contains(&horizon_steps) {
        return Err(argument("horizon", "a whole number in 1..=65536", horizon_steps));
    }
    let requests: Vec<Observed> = source
        .library()
        .iter()
        .map(|job| Observed {
            prompt_tokens: job.prompt_tokens,
            prompt_hash: job.prompt_hash,
            output_tokens: job.output_tokens,
        })
        .collect();
    let classifiers: [(&str, Box<dyn TerminationClassifier>); 3] = [
        ("survival", Box::new(Survival::new())),
        ("exactmatch", Box::new(ExactMatch::new())),
        ("oracle", Box::new(Oracle::new())),
    ];
    Ok(classifiers
        .into_iter()
        .map(|(name, mut classifier)| {
            (name, judge(classifier.as_mut(), &requests, horizon_steps, EVERY_STEPS))
        })
        .collect())
}

/// The table as text.
#[must_use]
pub fn text(source: &Source, horizon_steps: u32, rows: &[(&'static str, Quality)]) -> String {
    let head = ["classifier", "samples", "end within", "AUC", "MAE steps"].map(str::to_owned).to_vec();
    let lines = rows.iter().map(|(name, quality)| {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        vec![
            (*name).to_owned(),
            quality.samples.to_string(),
            quality.positives.to_string(),
            number(quality.auc, 3),
            number(quality.mae_steps, 1),
        ]
    });
    let table = aligned(&std::iter::once(head).chain(lines).collect::<Vec<_>>());
    format!("{}: does a running request end within {horizon_steps} steps, and when\n\n{table}", source.name())
}

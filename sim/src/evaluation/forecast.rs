//! How well the forecasts know the ends of a trace or a workload, offline.

use balanceroute::forecast::quality::{Observed, Quality, judge};
use balanceroute::forecast::{ExactMatch, Oracle, Survival, TerminationClassifier};

use serde::Serialize;

use crate::cluster::Source;
use crate::error::{SimError, argument};
use crate::report::page::{Grid, Page, Style};
use crate::report::{FORECAST_LEGEND, legend_of};

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

/// What is in the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// Version of this crate.
    pub version: &'static str,
    /// Workload or trace.
    pub source: String,
    /// Steps looked ahead.
    pub horizon_steps: u32,
    /// One entry a classifier.
    pub classifiers: Vec<Judged>,
}

/// How good a classifier is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Judged {
    /// Its name.
    pub classifier: &'static str,
    /// Looks at a running request.
    pub samples: usize,
    /// Of these, how many end within the horizon.
    pub end_within: usize,
    /// Area under the curve of true over false positives; none where all or none end.
    pub auc: Option<f64>,
    /// Mean absolute error of the time of the end, in steps; none where it tells none.
    pub mae_steps: Option<f64>,
}

impl Document {
    /// The document of a table.
    #[must_use]
    pub fn new(source: &Source, horizon_steps: u32, rows: &[(&'static str, Quality)]) -> Self {
        let judged = |(classifier, quality): &(&'static str, Quality)| Judged {
            classifier,
            samples: quality.samples,
            end_within: quality.positives,
            auc: quality.auc,
            mae_steps: quality.mae_steps,
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            source: source.name().to_owned(),
            horizon_steps,
            classifiers: rows.iter().map(judged).collect(),
        }
    }
}

/// The table as text.
#[must_use]
pub fn text(source: &Source, horizon_steps: u32, rows: &[(&'static str, Quality)]) -> String {
    page(source, horizon_steps, rows, false).show(Style::Plain)
}

/// The table; with what the names of the columns mean where that is asked for.
#[must_use]
pub fn page(
    source: &Source,
    horizon_steps: u32,
    rows: &[(&'static str, Quality)],
    with_legend: bool,
) -> Page {
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
    let grid = Grid::new(std::iter::once(head).chain(lines).collect(), 1);
    let names = grid.names();
    let asked =
        format!("{}: does a running request end within {horizon_steps} steps, and when\n", source.name());
    let page = Page::new().text(asked).grid(grid);
    if with_legend { page.legend(legend_of(&FORECAST_LEGEND, &names)) } else { page }
}

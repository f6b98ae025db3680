//! The fit: which law explains these steps.
//!
//! The time of a step is taken to err by a share of itself. So each step counts by the inverse square of its
//! fitted time, and the steps are fitted again until nothing changes (iteratively reweighted least squares).
//! Relative residuals beyond 1.345 standard deviations count less by Huber's weight, the deviation taken from
//! the median of the residuals: what a pause of the machine or of the client adds to a few steps moves
//! nothing.
//!
//! Steps that follow each other err alike (clocks, neighbours), so the errors of the terms are those of
//! blocks of steps, not of single ones.
//!
//! # When there is no law
//! Running requests and KV tokens rise and fall together where only one rate and one mix of lengths were
//! measured: many laws then explain the steps as well. The columns of the design, each scaled to length one,
//! have a condition number, the ratio of their greatest singular value to the least, that tells it, and so
//! does the part of a step's time that the error of a term leaves open.

use nalgebra::{DMatrix, DVector};
use serde::Serialize;

use super::{CalibrateError, Step};

/// Relative residuals in standard deviations from which on steps count less: 95 % as good as least squares
/// where errors are normal.
const HUBER: f64 = 1.345;
/// Median of the absolute residuals, in standard deviations of a normal distribution.
const MEDIAN_OF_NORMAL: f64 = 0.6745;
/// Steps whose errors may be alike; fewer where there would not be enough blocks.
const BLOCK_STEPS: usize = 64;
const LEAST_BLOCKS: usize = 40;
/// Rounds of the fit, and the change relative to the greatest term at which it ends.
const MOST_ROUNDS: usize = 200;
const SETTLED: f64 = 1e-9;
pub(super) const LEAST_STEPS: usize = 200;
/// Beyond it an error of a hundredth in a column, such as KV tokens that are counted in whole blocks, passes
/// for another term.
pub(super) const MOST_CONDITION: f64 = 100.0;
/// Most of the mean step time that the error of a term may leave open.
pub(super) const MOST_OPEN: f64 = 0.02;
/// Least share of the variance that load must explain.
pub(super) const LEAST_EXPLAINED: f64 = 0.5;
/// How many errors a term is below nothing that cannot be chance: three standard deviations.
const CLEARLY: f64 = 1.5;
/// Two-sided 95 % of a normal distribution.
const NORMAL_95: f64 = 1.96;

/// What a term is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// Every step.
    Base,
    /// Running requests.
    Request,
    /// KV tokens.
    KvToken,
    /// Prompt tokens.
    PromptToken,
}

impl Term {
    /// In words: the name, and the unit of its value here.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Base => ("base", "ms"),
            Self::Request => ("per running request", "us"),
            Self::KvToken => ("per KV token", "us"),
            Self::PromptToken => ("per prompt token", "us"),
        }
    }

    fn of(self, step: &Step) -> f64 {
        match self {
            Self::Base => 1.0,
            Self::Request => step.running,
            Self::KvToken => step.kv_tokens,
            Self::PromptToken => step.prefill_tokens,
        }
    }

    /// From ms to the unit of its value.
    pub(super) fn scale(self) -> f64 {
        if self == Self::Base { 1.0 } else { 1e3 }
    }
}

/// A term of the law as the steps have it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fitted {
    /// Of what.
    pub term: Term,
    /// In ms for the base, else in us.
    pub value: f64,
    /// Half of the 95 % interval.
    pub error: f64,
    /// What it adds to a step on average, in ms.
    pub mean_ms: f64,
    /// By how much that may be off, in ms.
    pub open_ms: f64,
}

/// A law with its errors.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    /// One that is nothing within its error is exactly that.
    pub terms: Vec<Fitted>,
    /// Of the design, columns scaled to length one.
    pub condition: f64,
    /// Share of the variance of the step times that the law explains.
    pub explained: f64,
    /// Standard deviation of the relative residuals.
    pub relative_sd: f64,
    /// Time by the law of each step, in ms.
    pub fitted_ms: Vec<f64>,
}

/// One fit of some columns.
struct Solved {
    coefficients: DVector<f64>,
    /// Half of the 95 % interval of each.
    errors: DVector<f64>,
    condition: f64,
    fitted_ms: DVector<f64>,
    /// Huber's weight of each step.
    huber: DVector<f64>,
    relative_sd: f64,
}

/// The value that this share of the values is not above; 0 of none.
pub(super) fn quantile_of(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let at = (share * values.len().saturating_sub(1) as f64).round() as usize;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(at, f64::total_cmp).1 }
}

fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    quantile_of(values, 0.5)
}

/// Rows times weights.
fn weighted(design: &DMatrix<f64>, weights: &DVector<f64>) -> DMatrix<f64> {
    let mut rows = design.clone();
    rows.column_iter_mut().for_each(|mut column| column.component_mul_assign(weights));
    rows
}

/// None where the columns cannot be told apart at all.
fn solve(steps: &[Step], terms: &[Term]) -> Option<Solved> {
    let design = DMatrix::from_fn(steps.len(), terms.len(), |at, column| terms[column].of(&steps[at]));
    let measured_ms = DVector::from_iterator(steps.len(), steps.iter().map(|step| step.ms));
    // A step never takes no time, whatever a law says that is still far off.
    let least_ms = 0.01 * median_of(measured_ms.iter().copied());
    let mut fitted_ms = measured_ms.clone();
    let mut huber = DVector::repeat(steps.len(), 1.0);
    let mut coefficients = DVector::zeros(terms.len());
    let mut rounds = 0;
    loop {
        let weights = huber.zip_map(&fitted_ms, |huber, ms| huber / (ms * ms));
        let rows = weighted(&design, &weights);
        // Tokens are thousands of times as many as requests.
        let scales = DVector::from_fn(terms.len(), |at, _| design.column(at).dot(&rows.column(at)).sqrt());
        if !scales.iter().all(|&scale| scale > 0.0 && scale.is_finite()) {
            return None;
        }
        let gram = design.tr_mul(&rows).component_div(&(&scales * scales.transpose()));
        let right = rows.tr_mul(&measured_ms).component_div(&scales);
        let solution = gram.clone().cholesky()?.solve(&right);
        let moved = (&solution - coefficients.component_mul(&scales)).amax() / solution.amax();
        coefficients = solution.component_div(&scales);
        fitted_ms = (&design * &coefficients).map(|ms| ms.max(least_ms));
        let relative = measured_ms.zip_map(&fitted_ms, |measured, fitted| measured / fitted - 1.0);
        let relative_sd = median_of(relative.iter().map(|error| error.abs())) / MEDIAN_OF_NORMAL;
        let most = HUBER * relative_sd.max(1e-9);
        huber = relative.map(|error| (most / error.abs()).min(1.0));
        rounds += 1;
        if moved <= SETTLED || rounds == MOST_ROUNDS {
            // The eigenvalues are the squares of the singular values of the scaled design.
            let eigenvalues = gram.symmetric_eigenvalues();
            let condition = (eigenvalues.max() / eigenvalues.min().max(f64::MIN_POSITIVE)).sqrt();
            let errors = errors(steps, &rows, &(&measured_ms - &fitted_ms), &gram, &scales)?;
            return Some(Solved { coefficients, errors, condition, fitted_ms, huber, relative_sd });
        }
    }
}

/// Half of the 95 % intervals, by what the blocks of steps pull the terms to.
fn errors(
    steps: &[Step],
    rows: &DMatrix<f64>,
    residual_ms: &DVector<f64>,
    gram: &DMatrix<f64>,
    scales: &DVector<f64>,
) -> Option<DVector<f64>> {
    let length = BLOCK_STEPS.min(steps.len().div_ceil(LEAST_BLOCKS));
    let mut spread = DMatrix::zeros(scales.len(), scales.len());
    let mut at = 0;
    for block in steps.chunk_by(|a, b| a.run == b.run).flat_map(|run| run.chunks(length)) {
        let pull = rows.rows(at, block.len()).tr_mul(&residual_ms.rows(at, block.len()));
        let pull = pull.component_div(scales);
        spread += &pull * pull.transpose();
        at += block.len();
    }
    let inverse = gram.clone().try_inverse()?;
    let variance = (&inverse * spread * &inverse).diagonal();
    Some(variance.map(|variance| NORMAL_95 * variance.max(0.0).sqrt()).component_div(scales))
}

/// Share of the variance of the step times that the law explains; pauses count little.
fn explained(steps: &[Step], solved: &Solved) -> f64 {
    let weight: f64 = solved.huber.sum();
    let each = || steps.iter().map(|step| step.ms).zip(&solved.huber);
    let mean = each().map(|(ms, huber)| huber * ms).sum::<f64>() / weight;
    let all: f64 = each().map(|(ms, huber)| huber * (ms - mean).powi(2)).sum();
    let left: f64 =
        each().zip(&solved.fitted_ms).map(|((ms, huber), fitted)| huber * (ms - fitted).powi(2)).sum();
    if all > 0.0 { 1.0 - left / all } else { 0.0 }
}

/// Fits the law.
pub(super) fn fit(steps: &[Step]) -> Result<Fit, CalibrateError> {
    let mean = |of: &dyn Fn(&Step) -> f64| steps.iter().map(of).sum::<f64>() / steps.len() as f64;
    let mean_ms = mean(&|step| step.ms);
    let mut terms = vec![Term::Base, Term::Request, Term::KvToken];
    terms.extend(steps.iter().any(|step| step.prefill_tokens > 0.0).then_some(Term::PromptToken));
    let one = |solved: &Solved, at: usize, term: Term| Fitted {
        term,
        value: solved.coefficients[at] * term.scale(),
        error: solved.errors[at] * term.scale(),
        mean_ms: solved.coefficients[at] * mean(&|step| term.of(step)),
        open_ms: solved.errors[at] * mean(&|step| term.of(step)),
    };
    let inseparable = |condition: f64, vaguest: Option<Fitted>| CalibrateError::NotSeparable {
        condition,
        vaguest: vaguest.map(Box::new),
        mean_ms,
    };
    let whole = solve(steps, &terms).ok_or_else(|| inseparable(f64::INFINITY, None))?;
    // Where load explains nothing, nothing can be told apart either, and the former is what to say.
    let explained = explained(steps, &whole);
    if explained < LEAST_EXPLAINED {
        return Err(CalibrateError::Unexplained { explained });
    }
    let all: Vec<Fitted> = terms.iter().enumerate().map(|(at, &term)| one(&whole, at, term)).collect();
    let vaguest = all.iter().max_by(|a, b| a.open_ms.total_cmp(&b.open_ms)).copied();
    if whole.condition > MOST_CONDITION || vaguest.is_some_and(|term| term.open_ms > MOST_OPEN * mean_ms) {
        return Err(inseparable(whole.condition, vaguest));
    }
    // What is nothing within its error is left out, the furthest below nothing first.
    let condition = whole.condition;
    let mut solved = whole;
    loop {
        let below = |&at: &usize| solved.coefficients[at] < 0.0 || at == 0 && solved.coefficients[0] == 0.0;
        let depth = |at: usize| solved.coefficients[at] / solved.errors[at];
        let Some(at) = (0..terms.len()).filter(below).min_by(|&a, &b| depth(a).total_cmp(&depth(b))) else {
            break;
        };
        if terms[at] == Term::Base || depth(at) < -CLEARLY {
            return Err(CalibrateError::Negative { term: Box::new(one(&solved, at, terms[at])) });
        }
        terms.remove(at);
        solved = solve(steps, &terms).ok_or_else(|| inseparable(condition, None))?;
    }
    let terms = all
        .into_iter()
        .map(|fitted| match terms.iter().position(|&term| term == fitted.term) {
            Some(at) => one(&solved, at, fitted.term),
            None => Fitted { value: 0.0, mean_ms: 0.0, ..fitted },
        })
        .collect();
    let Solved { fitted_ms, relative_sd, .. } = solved;
    Ok(Fit { terms, condition, explained, relative_sd, fitted_ms: fitted_ms.data.into() })
}

//! What has been played: runs by case and policy, and their figures.

use serde::Serialize;

use super::published::Printed;
use crate::cluster::Run;
use crate::report::Spread;
use crate::report::results::Interval;

use super::super::trial::inference::interval;

/// A figure of a run.
pub(super) type Figure = fn(&Run) -> f64;

pub(super) const IMBALANCE: Figure = |run| run.imbalance_mean;
pub(super) const TOKENS: Figure = |run| run.tokens_per_s;
pub(super) const TPOT: Figure = |run| run.tpot_ms.p95;
pub(super) const WAIT: Figure = |run| run.wait_ms.p99;

/// A policy in a case: figures over its seeds or windows.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is played.
    pub case: String,
    /// The policy.
    pub policy: String,
    /// Runs.
    pub runs: usize,
    /// Mean imbalance in tokens.
    pub imbalance: Spread,
    /// Tokens per second.
    pub tokens_per_s: Spread,
    /// 95th percentile of the time per output token, in ms.
    pub tpot_p95_ms: Spread,
    /// 99th percentile of the waits, in ms.
    pub wait_p99_ms: Spread,
    /// The longest wait, in ms.
    pub wait_max_ms: Spread,
    /// Slots left empty after admission, as a share of all.
    pub empty_slot_fraction: Spread,
    /// Evictions per request that ended.
    pub preempted_per_finished: Spread,
    /// Prompt tokens that were cached on their worker, as a share of all.
    pub cached_token_share: Option<Spread>,
    /// Time of a decision in microseconds, median and 99th percentile: the only figures that differ between
    /// two runs of the same arguments.
    pub decide_us: [Spread; 2],
    /// What was published for it.
    pub published: Option<Printed>,
}

/// The runs of a policy in a case.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) case: String,
    pub(super) policy: String,
    pub(super) runs: Vec<Run>,
    pub(super) published: Option<Printed>,
}

impl Played {
    pub(super) fn mean(&self, figure: Figure) -> f64 {
        Spread::of(self.runs.iter().map(figure)).mean
    }

    /// This over the other, seed by seed.
    pub(super) fn ratio(&self, other: &Self, figure: Figure) -> Interval {
        let ratio = |(a, b): (&Run, &Run)| figure(a) / figure(b);
        interval(&self.pairs(other).into_iter().map(ratio).collect::<Vec<_>>())
    }

    /// By how many per cent this lies above the other, seed by seed.
    pub(super) fn above_percent(&self, other: &Self, figure: Figure) -> Interval {
        let above = |(a, b): (&Run, &Run)| 100.0 * (figure(a) / figure(b) - 1.0);
        interval(&self.pairs(other).into_iter().map(above).collect::<Vec<_>>())
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> Vec<(&'a Run, &'a Run)> {
        let twin =
            |run: &Run| other.runs.iter().find(|other| (other.seed, other.window) == (run.seed, run.window));
        self.runs.iter().filter_map(|run| Some((run, twin(run)?))).collect()
    }

    pub(super) fn row(&self) -> Row {
        let of = |figure: Figure| Spread::of(self.runs.iter().map(figure));
        let cached: Vec<f64> = self.runs.iter().filter_map(|run| run.cached_token_share).collect();
        Row {
            case: self.case.clone(),
            policy: self.policy.clone(),
            runs: self.runs.len(),
            imbalance: of(IMBALANCE),
            tokens_per_s: of(TOKENS),
            tpot_p95_ms: of(TPOT),
            wait_p99_ms: of(WAIT),
            wait_max_ms: of(|run| run.wait_ms.max),
            empty_slot_fraction: of(|run| run.empty_slot_fraction),
            preempted_per_finished: of(|run| run.preempted_per_finished),
            cached_token_share: (!cached.is_empty()).then(|| Spread::of(cached)),
            decide_us: [of(|run| run.decide_us.p50), of(|run| run.decide_us.p99)],
            published: self.published,
        }
    }
}

/// Everything of a section.
pub(super) struct Results(pub(super) Vec<Played>);

impl Results {
    /// The runs of a policy in a case.
    pub(super) fn of(&self, case: &str, policy: &str) -> Option<&Played> {
        self.0.iter().find(|played| played.case == case && played.policy == policy)
    }

    /// Every case once, in order.
    pub(super) fn cases(&self) -> Vec<&str> {
        let mut cases: Vec<&str> = self.0.iter().map(|played| played.case.as_str()).collect();
        cases.dedup();
        cases
    }

    /// All policies of a case.
    pub(super) fn case<'a>(&'a self, case: &'a str) -> impl Iterator<Item = &'a Played> {
        self.0.iter().filter(move |played| played.case == case)
    }
}

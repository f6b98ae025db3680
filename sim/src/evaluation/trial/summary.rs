//! What the runs of a scenario come to: figures, differences to the first rule, and what is written of them.

use std::collections::BTreeMap;

use super::inference::{holm, interval, p_value};
use super::recorder::{Outcome, Times};
use crate::report::folder::RuleLines;
use crate::report::metric::{METRICS, TIE_SHARE};
use crate::report::results::{
    Decide, Difference, Interval, Quantiles, Replicate, RuleEntry, RuleFigures, Verdict,
};

/// Level of the tests, over all metrics of a rule in a scenario.
const LEVEL: f64 = 0.05;
/// Closer where few requests are: a tail is looked at more closely than a middle.
const QUANTILES: [f64; 24] = [
    0.0, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98,
    0.99, 0.995, 0.998, 0.999, 1.0,
];

/// The runs of one rule: for each replicate those of all seeds.
pub(super) type RuleOutcomes = Vec<Vec<Option<Outcome>>>;

fn mean(of: &[Outcome], figure: impl Fn(&Replicate) -> f64) -> f64 {
    of.iter().map(|outcome| figure(&outcome.figures)).sum::<f64>() / of.len() as f64
}

/// A replicate over its seeds. The same window under another seed is no other window: only a rule that draws
/// lots has another run there.
fn over_seeds(of: &[Outcome]) -> Option<Replicate> {
    let first = of.first()?;
    let mean = |figure: fn(&Replicate) -> f64| mean(of, figure);
    let some = |figure: fn(&Replicate) -> Option<f64>| {
        figure(&first.figures).map(|_| self::mean(of, |replicate| figure(replicate).unwrap_or_default()))
    };
    Some(Replicate {
        replicate: first.figures.replicate,
        seeds: of.len() as u64,
        tokens_per_s: mean(|of| of.tokens_per_s),
        requests_per_s: mean(|of| of.requests_per_s),
        imbalance_tokens: mean(|of| of.imbalance_tokens),
        wait_mean_ms: mean(|of| of.wait_mean_ms),
        wait_p99_ms: mean(|of| of.wait_p99_ms),
        ttft_mean_ms: mean(|of| of.ttft_mean_ms),
        ttft_p99_ms: mean(|of| of.ttft_p99_ms),
        tpot_mean_ms: mean(|of| of.tpot_mean_ms),
        tpot_p99_ms: mean(|of| of.tpot_p99_ms),
        empty_slots: mean(|of| of.empty_slots),
        preempted: mean(|of| of.preempted),
        goodput_requests_per_s: some(|of| of.goodput_requests_per_s),
        within_slo: some(|of| of.within_slo),
        balanced: mean(|of| of.balanced),
        requests: mean(|of| of.requests),
        refused: mean(|of| of.refused),
    })
}

fn quantiles(times: Vec<&Times>) -> Quantiles {
    let of = |part: fn(&Times) -> &Vec<f32>| -> Vec<f64> {
        let mut all: Vec<f32> = times.iter().flat_map(|times| part(times).iter().copied()).collect();
        all.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| (share * all.len() as f64).ceil().max(1.0) as usize - 1;
        QUANTILES.iter().filter_map(|&share| all.get(at(share)).copied()).map(f64::from).collect()
    };
    Quantiles {
        at: QUANTILES.to_vec(),
        wait_ms: of(|times| &times.wait),
        ttft_ms: of(|times| &times.ttft),
        tpot_ms: of(|times| &times.tpot),
        e2e_ms: of(|times| &times.e2e),
    }
}

fn figures(replicates: &[Replicate]) -> BTreeMap<String, Interval> {
    let beside: [(&str, fn(&Replicate) -> Option<f64>); 2] =
        [("within_slo", |of| of.within_slo), ("balanced", |of| Some(of.balanced))];
    let all = METRICS.iter().map(|metric| (metric.key, metric.of)).chain(beside);
    all.filter_map(|(key, of)| {
        let values: Vec<f64> = replicates.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| (key.to_owned(), interval(&values)))
    })
    .collect()
}

/// One rule, of the replicates that are done.
pub(super) fn rule(name: &str, outcomes: RuleOutcomes) -> (RuleFigures, RuleLines) {
    let done: Vec<Vec<Outcome>> =
        outcomes.into_iter().filter_map(|seeds| seeds.into_iter().collect::<Option<Vec<_>>>()).collect();
    let replicates: Vec<Replicate> = done.iter().filter_map(|seeds| over_seeds(seeds)).collect();
    let all = || done.iter().flatten();
    let runs = all().count().max(1) as f64;
    let decide_us = Decide {
        p50: all().map(|outcome| outcome.decide_us.0).sum::<f64>() / runs,
        p99: all().map(|outcome| outcome.decide_us.1).sum::<f64>() / runs,
    };
    let figures = RuleFigures {
        rule: name.to_owned(),
        figures: figures(&replicates),
        quantiles: quantiles(all().map(|outcome| &outcome.times).collect()),
        decide_us,
        optimum: all().find_map(|outcome| outcome.optimum),
        replicates,
    };
    // One seed of each replicate is enough to look at.
    let first = || done.iter().filter_map(|seeds| seeds.first());
    let lines = RuleLines {
        rule: name.to_owned(),
        requests: first().map(|outcome| outcome.requests).sum(),
        every: first().map(|outcome| outcome.every).max().unwrap_or(1),
        lines: first()
            .flat_map(|outcome| outcome.lines.iter().map(|line| (outcome.figures.replicate, *line)))
            .collect(),
        series: first().flat_map(|outcome| outcome.series.iter().cloned()).collect(),
    };
    (figures, lines)
}

/// The first rule beside which all others are set, and one of those.
pub(in crate::evaluation) fn beside_first(first: &RuleFigures, rule: &RuleFigures) -> Vec<Difference> {
    let mut differences = Vec::new();
    for metric in &METRICS {
        let pairs: Vec<(f64, f64)> = (rule.replicates.iter())
            .filter_map(|replicate| {
                let other = first.replicates.iter().find(|other| other.replicate == replicate.replicate)?;
                Some(((metric.of)(replicate)?, (metric.of)(other)?))
            })
            .collect();
        if pairs.is_empty() {
            continue;
        }
        let values: Vec<f64> = pairs.iter().map(|(own, other)| own - other).collect();
        let base = pairs.iter().map(|(_, other)| other).sum::<f64>() / pairs.len() as f64;
        let Interval { mean, low, high, sd, n } = interval(&values);
        let over = |value: f64| (base != 0.0).then(|| value / base);
        differences.push(Difference {
            rule: rule.rule.clone(),
            against: first.rule.clone(),
            metric: metric.key.to_owned(),
            pairs: n,
            mean,
            low,
            high,
            sd,
            base,
            relative: over(mean),
            relative_low: low.and_then(over),
            relative_high: high.and_then(over),
            p: p_value(&values),
            p_holm: None,
            verdict: Verdict::Unknown,
        });
    }
    // Where all is equal nothing was tested, and the others need not pay for it.
    let tested =
        |difference: &Difference| difference.p.filter(|_| difference.mean != 0.0 || difference.sd != 0.0);
    let mut adjusted = holm(&differences.iter().filter_map(tested).collect::<Vec<_>>()).into_iter();
    for difference in &mut differences {
        difference.p_holm = match tested(difference) {
            Some(_) => adjusted.next(),
            None => difference.p,
        };
        difference.verdict = verdict(difference);
    }
    differences
}

fn verdict(difference: &Difference) -> Verdict {
    let Some(metric) = METRICS.iter().find(|metric| metric.key == difference.metric) else {
        return Verdict::Unknown;
    };
    let Some(p) = difference.p_holm else { return Verdict::Unknown };
    let size = difference.mean.abs();
    let noticed = size > metric.tie_below && size > TIE_SHARE * difference.base.abs();
    match (p < LEVEL && noticed, (difference.mean > 0.0) == metric.more_is_better) {
        (false, _) => Verdict::Tie,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    }
}

/// All rules but the first beside it.
pub(super) fn differences(rules: &[RuleFigures]) -> Vec<Difference> {
    let Some((first, others)) = rules.split_first() else { return Vec::new() };
    others.iter().flat_map(|rule| beside_first(first, rule)).collect()
}

/// One entry a rule, in the order of the rules.
pub(super) fn all(rules: &[RuleEntry], outcomes: Vec<RuleOutcomes>) -> (Vec<RuleFigures>, Vec<RuleLines>) {
    rules.iter().zip(outcomes).map(|(entry, outcomes)| rule(&entry.name, outcomes)).unzip()
}

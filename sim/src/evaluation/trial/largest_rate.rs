//! The largest rate at which a rule keeps the limits, and what is known of it.
//!
//! Of the rates that were played it is looked for between the last that keeps the limits and the first that
//! does not, where the share of the requests within them falls below what is asked for; between the two the
//! share is taken to fall evenly. The interval is that of a bootstrap: replicates are drawn with
//! replacement, the same for all rates and rules, since a window is as hard for one as for the other. Where
//! between the two rates it lies is not known, so that an interval reaches from the lower to the upper.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::inference::{DRAWS, kept_share};
use crate::report::results::{
    LargestRate, LargestRates, RateBound, RateDifference, Replicate, ScenarioEntry, Verdict,
};

/// Where the limits stop being kept.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Crossing {
    rate: f64,
    bound: Option<RateBound>,
    between: Option<(f64, f64)>,
}

/// Of rising rates and the share that keeps the limits at each.
fn crossing(curve: &[(f64, f64)], share: f64) -> Option<Crossing> {
    let (first, last) = (curve.first()?, curve.last()?);
    let Some(fails) = curve.iter().position(|&(_, kept)| kept < share) else {
        return Some(Crossing { rate: last.0, bound: Some(RateBound::AtLeast), between: None });
    };
    if fails == 0 {
        return Some(Crossing { rate: first.0, bound: Some(RateBound::Below), between: None });
    }
    let ((rate, kept), (next, next_kept)) = (curve[fails - 1], curve[fails]);
    // The share falls from one that is enough to one that is not.
    let rate_there = rate + (next - rate) * (kept - share) / (kept - next_kept);
    Some(Crossing { rate: rate_there, bound: None, between: Some((rate, next)) })
}

impl Crossing {
    /// The least and the greatest that it can be.
    fn edges(&self) -> (f64, f64) {
        match (self.bound, self.between) {
            (Some(RateBound::AtLeast), _) => (self.rate, f64::INFINITY),
            (Some(RateBound::Below), _) => (0.0, self.rate),
            (None, Some(between)) => between,
            (None, None) => (self.rate, self.rate),
        }
    }
}

impl LargestRate {
    /// Whether it may lie between two rates next to each other.
    pub(super) fn may_lie_in(&self, from: f64, to: f64) -> bool {
        // A rate that was not kept by any draw, or by all of them, is none to look below or above.
        let Some((low, high)) = self.between else { return false };
        let (low, high) = (self.low.unwrap_or(low), self.high.unwrap_or(high));
        low <= from && to <= high
    }
}

/// One rule: at each rate the requests of each replicate, and how many of them keep the limits.
struct Curve<'a> {
    rule: &'a str,
    points: Vec<(f64, Vec<(f64, f64)>)>,
}

impl<'a> Curve<'a> {
    /// None where the rule has not been played to the end at every rate.
    fn new(scenarios: &[&'a ScenarioEntry], at: usize) -> Option<Self> {
        let rule = scenarios.first()?.rules.get(at)?.rule.as_str();
        let point = |scenario: &&ScenarioEntry| {
            let counts = scenario.rules.get(at)?.replicates.iter().map(Replicate::counts);
            Some((scenario.rate.requests_per_s, counts.collect::<Option<Vec<_>>>()?))
        };
        Some(Self { rule, points: scenarios.iter().map(point).collect::<Option<Vec<_>>>()? })
    }

    fn crossing(&self, share: f64, drawn: &[usize]) -> Option<Crossing> {
        let of = |(rate, counts): &(f64, Vec<(f64, f64)>)| {
            (*rate, kept_share(drawn.iter().map(|&at| counts.get(at).copied().unwrap_or_default())))
        };
        crossing(&self.points.iter().map(of).collect::<Vec<_>>(), share)
    }
}

/// What 2.5 % of the draws fall below.
fn lower(drawn: impl Iterator<Item = f64>) -> Option<f64> {
    percentile(drawn, 0.025)
}

/// What 2.5 % of the draws rise above.
fn upper(drawn: impl Iterator<Item = f64>) -> Option<f64> {
    percentile(drawn, 0.975)
}

/// None where it lies beyond what was played.
fn percentile(drawn: impl Iterator<Item = f64>, share: f64) -> Option<f64> {
    let mut drawn: Vec<f64> = drawn.collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let at = ((drawn.len() as f64 - 1.0) * share).round() as usize;
    drawn.get(at).copied().filter(|value| value.is_finite())
}

/// Of one source and cluster, whose scenarios are given in any order; none where a rule has no figures of
/// limits.
pub(super) fn largest_rates(scenarios: &[&ScenarioEntry], share: f64) -> Option<LargestRates> {
    let mut scenarios: Vec<&ScenarioEntry> =
        scenarios.iter().copied().filter(|scenario| scenario.complete).collect();
    scenarios.sort_by(|a, b| a.rate.requests_per_s.total_cmp(&b.rate.requests_per_s));
    let (first, last) = (*scenarios.first()?, *scenarios.last()?);
    let curves = (0..first.rules.len()).map(|at| Curve::new(&scenarios, at)).collect::<Option<Vec<_>>>()?;
    let replicates = first.replicates as usize;
    let whole: Vec<usize> = (0..replicates).collect();
    let found: Vec<Crossing> =
        curves.iter().map(|curve| curve.crossing(share, &whole)).collect::<Option<_>>()?;

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut drawn: Vec<Vec<Crossing>> = Vec::new();
    if replicates > 1 {
        for _ in 0..DRAWS {
            let draw: Vec<usize> = (0..replicates).map(|_| rng.random_range(0..replicates)).collect();
            drawn.push(curves.iter().map(|curve| curve.crossing(share, &draw)).collect::<Option<_>>()?);
        }
    }
    let capacity = first.capacity_requests_per_s;
    let rule = |(at, curve): (usize, &Curve<'_>)| {
        let Crossing { rate, bound, between } = found[at];
        LargestRate {
            rule: curve.rule.to_owned(),
            requests_per_s: rate,
            low: lower(drawn.iter().map(|draw| draw[at].edges().0)).filter(|&low| low > 0.0),
            high: upper(drawn.iter().map(|draw| draw[at].edges().1)),
            of_capacity: rate / capacity,
            bound,
            between,
        }
    };
    let beside = |(at, curve): (usize, &Curve<'_>)| {
        // A rate beyond what was played is none to divide by; over one the ratio is the least that it can be.
        let known = found[0].bound.is_none() && found[at].bound != Some(RateBound::Below);
        let edges = |draw: &[Crossing]| (draw[0].edges(), draw[at].edges());
        let least = |draw: &Vec<Crossing>| {
            let ((_, first), (own, _)) = edges(draw);
            own / first - 1.0
        };
        let most = |draw: &Vec<Crossing>| {
            let ((first, _), (_, own)) = edges(draw);
            own / first - 1.0
        };
        let (low, high) = if known {
            (lower(drawn.iter().map(least)), upper(drawn.iter().map(most)))
        } else {
            (None, None)
        };
        RateDifference {
            rule: curve.rule.to_owned(),
            against: curves[0].rule.to_owned(),
            relative: known.then(|| found[at].rate / found[0].rate - 1.0),
            low,
            high,
            verdict: match (low, high) {
                _ if !known || drawn.is_empty() => Verdict::Unknown,
                (Some(low), _) if low > 0.0 => Verdict::Better,
                (_, Some(high)) if high < 0.0 => Verdict::Worse,
                _ => Verdict::Tie,
            },
            bound: found[at].bound,
        }
    };
    Some(LargestRates {
        source: first.source,
        workers: first.workers,
        slots: first.slots,
        tested_from: first.rate.requests_per_s,
        tested_to: last.rate.requests_per_s,
        capacity_requests_per_s: capacity,
        rules: curves.iter().enumerate().map(rule).collect(),
        differences: curves.iter().enumerate().skip(1).map(beside).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::results::{Decide, Quantiles, RateEntry, RuleFigures};

    #[test]
    fn the_limits_stop_being_kept_between_two_rates() {
        let curve = [(10.0, 1.0), (20.0, 0.995), (30.0, 0.985), (40.0, 0.999)];
        let found = crossing(&curve, 0.99).expect("rates");
        approx::assert_abs_diff_eq!(found.rate, 25.0, epsilon = 1e-9);
        // A rate above the first that fails does not count, however well it does.
        assert_eq!((found.bound, found.between), (None, Some((20.0, 30.0))));
        let bound = |share| crossing(&curve, share).map(|found| (found.rate, found.bound));
        assert_eq!(bound(0.98), Some((40.0, Some(RateBound::AtLeast))));
        assert_eq!(crossing(&curve[2..], 0.99).map(|found| found.bound), Some(Some(RateBound::Below)));
        assert_eq!(crossing(&[], 0.99), None);
    }

    #[test]
    fn percentiles_of_draws() {
        let draws = || (0..=1000).map(f64::from);
        assert_eq!((lower(draws()), upper(draws())), (Some(25.0), Some(975.0)));
        assert_eq!(upper(draws().chain([f64::INFINITY; 100])), None);
        assert_eq!(lower(std::iter::empty()), None);
    }

    /// What rule keeps how much of ten requests at each rate, replicate by replicate.
    fn scenarios(rates: &[f64], kept: [&[[f64; 3]]; 2]) -> Vec<ScenarioEntry> {
        let scenario = |(at, &rate): (usize, &f64)| {
            let rule = |(name, kept): (&str, &[[f64; 3]])| {
                let replicate =
                    |within| Replicate { requests: 10.0, within_slo: Some(within), ..Replicate::default() };
                RuleFigures {
                    rule: name.to_owned(),
                    figures: BTreeMap::new(),
                    replicates: kept[at].map(replicate).to_vec(),
                    quantiles: Quantiles::default(),
                    optimum: None,
                    decide_us: Decide::default(),
                }
            };
            ScenarioEntry {
                id: format!("s{at:03}"),
                source: 0,
                workers: 2,
                slots: 4,
                kv_capacity_tokens: None,
                rate: RateEntry {
                    asked: String::new(),
                    label: String::new(),
                    own: false,
                    requests_per_s: rate,
                    rate_scale: None,
                    offered_load: rate / 40.0,
                },
                capacity_requests_per_s: 40.0,
                running_per_worker: 4.0,
                step_base_ms: 1.0,
                replicate: "draw".to_owned(),
                replicates: 3,
                command: String::new(),
                complete: true,
                requests_file: None,
                series_file: None,
                notes: Vec::new(),
                rules: ["today", "level"].into_iter().zip(kept).map(rule).collect(),
                differences: Vec::new(),
            }
        };
        rates.iter().enumerate().map(scenario).collect()
    }

    #[test]
    fn an_interval_covers_the_rates_between_which_nothing_was_played() {
        let today: &[[f64; 3]] = &[[1.0; 3], [0.5; 3], [0.0; 3]];
        let level: &[[f64; 3]] = &[[1.0; 3], [1.0; 3], [0.98, 0.98, 0.6]];
        let scenarios = scenarios(&[10.0, 20.0, 30.0], [today, level]);
        let found = largest_rates(&scenarios.iter().rev().collect::<Vec<_>>(), 0.95).expect("limits");
        assert_eq!((found.tested_from, found.tested_to), (10.0, 30.0));
        let [first, second] = &found.rules[..] else { panic!("two rules") };
        approx::assert_abs_diff_eq!(first.requests_per_s, 11.0, epsilon = 1e-9);
        assert_eq!((first.low, first.high, first.between), (Some(10.0), Some(20.0), Some((10.0, 20.0))));
        assert_eq!((second.low, second.high), (Some(20.0), None), "some draws keep the limits at 30");
        let beside = &found.differences[0];
        assert_eq!((beside.low, beside.high), (Some(0.0), None));
        assert_eq!(beside.verdict, Verdict::Tie, "20 and 20 are within both intervals");
    }
}

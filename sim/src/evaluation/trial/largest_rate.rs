//! The largest rate at which a rule keeps the limits, and what is known of it.
//!
//! Of the rates that were played it is looked for between the last that keeps the limits and the first that
//! does not, where the share of the requests within them falls below what is asked for; between the two the
//! share is taken to fall evenly. The interval is that of a bootstrap: replicates are drawn with
//! replacement, the same for all rates and rules, since a window is as hard for one as for the other.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::report::results::{
    LargestRate, LargestRates, RateBound, RateDifference, Replicate, ScenarioEntry, Verdict,
};

/// Draws of a bootstrap.
const DRAWS: usize = 2_000;

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
            let counts = |replicate: &Replicate| {
                Some((replicate.requests, replicate.requests * replicate.within_slo?))
            };
            let replicates = &scenario.rules.get(at)?.replicates;
            Some((scenario.rate.requests_per_s, replicates.iter().map(counts).collect::<Option<Vec<_>>>()?))
        };
        Some(Self { rule, points: scenarios.iter().map(point).collect::<Option<Vec<_>>>()? })
    }

    fn crossing(&self, share: f64, drawn: &[usize]) -> Option<Crossing> {
        let of = |(rate, counts): &(f64, Vec<(f64, f64)>)| {
            let (requests, kept) = drawn.iter().fold((0.0, 0.0), |sum, &at| {
                let (requests, kept) = counts.get(at).copied().unwrap_or_default();
                (sum.0 + requests, sum.1 + kept)
            });
            (*rate, if requests > 0.0 { kept / requests } else { 1.0 })
        };
        crossing(&self.points.iter().map(of).collect::<Vec<_>>(), share)
    }
}

/// 2.5th and 97.5th percentile.
fn interval(mut drawn: Vec<f64>) -> Option<(f64, f64)> {
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| drawn.get(((drawn.len() as f64 - 1.0) * share).round() as usize).copied();
    Some((at(0.025)?, at(0.975)?))
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
        let bounds = interval(drawn.iter().map(|draw| draw[at].rate).collect());
        LargestRate {
            rule: curve.rule.to_owned(),
            requests_per_s: rate,
            low: bounds.map(|(low, _)| low),
            high: bounds.map(|(_, high)| high),
            of_capacity: rate / capacity,
            bound,
            between,
        }
    };
    let beside = |(at, curve): (usize, &Curve<'_>)| {
        // A rate beyond what was played is none to divide by; over one the ratio is the least that it can be.
        let known = found[0].bound.is_none() && found[at].bound != Some(RateBound::Below);
        let bounds = interval(drawn.iter().map(|draw| draw[at].rate / draw[0].rate - 1.0).collect());
        let bounds = bounds.filter(|_| known);
        RateDifference {
            rule: curve.rule.to_owned(),
            against: curves[0].rule.to_owned(),
            relative: known.then(|| found[at].rate / found[0].rate - 1.0),
            low: bounds.map(|(low, _)| low),
            high: bounds.map(|(_, high)| high),
            verdict: match bounds {
                None => Verdict::Unknown,
                Some((low, _)) if low > 0.0 => Verdict::Better,
                Some((_, high)) if high < 0.0 => Verdict::Worse,
                Some(_) => Verdict::Tie,
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
    use super::*;

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
        assert_eq!(interval((0..=1000).map(f64::from).collect()), Some((25.0, 975.0)));
        assert_eq!(interval(Vec::new()), None);
    }
}

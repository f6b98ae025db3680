//! What must hold of the differences, for scripts: `tok/s>=-1%`, `level:wait-p99<=5`.
//!
//! A gate holds where the whole interval of the difference keeps it: what was not shown does not pass.

use std::fmt;
use std::str::FromStr;

use crate::error::{SimError, argument};
use crate::report::metric::{METRICS, Metric};
use crate::report::results::{Difference, GateEntry, ScenarioEntry};

/// A bound on the difference of a metric to the first rule, in every scenario.
#[derive(Clone, Debug)]
pub struct Gate {
    text: String,
    rule: Option<String>,
    metric: &'static Metric,
    at_least: bool,
    bound: f64,
    relative: bool,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Gate {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        let refused = |expected: String| argument("gate", expected, format!("{text:?}"));
        let parts = [(">=", true), ("<=", false)].into_iter().find_map(|(sign, at_least)| {
            text.split_once(sign).map(|(left, right)| (left.trim(), right.trim(), at_least))
        });
        let Some((left, right, at_least)) = parts else {
            return Err(refused("a bound such as tok/s>=-1% or level:wait-p99<=5".to_owned()));
        };
        let (rule, name) = match left.rsplit_once(':') {
            Some((rule, name)) => (Some(rule.to_owned()), name),
            None => (None, left),
        };
        let metric = Metric::find(name)
            .ok_or_else(|| refused(format!("one of {}", METRICS.map(|metric| metric.name).join(", "))))?;
        let (number, relative) = match right.strip_suffix('%') {
            Some(number) => (number.trim(), true),
            None => (right, false),
        };
        let bound = number.parse::<f64>().ok().filter(|bound| bound.is_finite());
        let bound = bound.ok_or_else(|| refused(format!("a number or per cent after {name}")))?;
        let bound = if relative { bound / 100.0 } else { bound };
        Ok(Self { text: text.to_owned(), rule, metric, at_least, bound, relative })
    }
}

impl Gate {
    /// The rule that it names.
    pub(super) fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    fn concerns(&self, difference: &Difference) -> bool {
        difference.metric == self.metric.key && self.rule.as_ref().is_none_or(|rule| *rule == difference.rule)
    }

    /// Why it does not hold; none where it does.
    fn failure(&self, difference: &Difference) -> Option<String> {
        let Difference { mean, low, high, relative, relative_low, relative_high, .. } = *difference;
        let (found, low, high) =
            if self.relative { (relative, relative_low, relative_high) } else { (Some(mean), low, high) };
        let shown = |value: f64| {
            if self.relative { format!("{:+.2} %", 100.0 * value) } else { format!("{value:+.3}") }
        };
        // Where the first rule has 0, a share of it says nothing: only no difference passes.
        let Some(found) = found else {
            return (mean != 0.0).then(|| format!("{mean:+.3} on a figure of 0"));
        };
        let (Some(low), Some(high)) = (low, high) else {
            return Some(format!("{} of one pair, which shows nothing", shown(found)));
        };
        let holds = if self.at_least { low >= self.bound } else { high <= self.bound };
        (!holds).then(|| format!("{} ({} to {})", shown(found), shown(low), shown(high)))
    }

    /// Over all scenarios. What is not there is not held.
    pub(super) fn check(&self, scenarios: &[ScenarioEntry], complete: bool) -> GateEntry {
        let mut failures = Vec::new();
        let mut looked_at = 0;
        for scenario in scenarios {
            for difference in scenario.differences.iter().filter(|difference| self.concerns(difference)) {
                looked_at += 1;
                if let Some(why) = self.failure(difference) {
                    let ScenarioEntry { id, workers, slots, rate, .. } = scenario;
                    failures.push(format!(
                        "{id}, {workers} workers x {slots} slots at {}: {} {} {why}",
                        rate.label, difference.rule, self.metric.name
                    ));
                }
            }
        }
        if looked_at == 0 {
            failures.push("nothing to look at".to_owned());
        }
        if !complete {
            failures.push("not everything was played".to_owned());
        }
        GateEntry { expression: self.text.clone(), holds: failures.is_empty(), failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::results::Verdict;

    fn difference(mean: f64, half: Option<f64>, base: f64) -> Difference {
        let over = |value: f64| (base != 0.0).then(|| value / base);
        let (low, high) = (half.map(|half| mean - half), half.map(|half| mean + half));
        Difference {
            rule: "level".to_owned(),
            against: "today".to_owned(),
            metric: "tokens_per_s".to_owned(),
            pairs: 12,
            mean,
            low,
            high,
            sd: 1.0,
            base,
            relative: over(mean),
            relative_low: low.and_then(over),
            relative_high: high.and_then(over),
            p: None,
            p_holm: None,
            verdict: Verdict::Tie,
        }
    }

    #[test]
    fn a_gate_holds_where_the_whole_interval_keeps_it() {
        let gate: Gate = "tok/s>=-1%".parse().expect("a gate");
        let failure = |mean, half, base| gate.failure(&difference(mean, half, base));
        assert_eq!(failure(-5.0, Some(4.0), 1_000.0), None);
        assert_eq!(failure(20.0, Some(4.0), 1_000.0), None);
        // The mean keeps it, the interval does not.
        let why = failure(-5.0, Some(6.0), 1_000.0).expect("not shown");
        assert_eq!(why, "-0.50 % (-1.10 % to +0.10 %)");
        assert!(failure(5.0, None, 1_000.0).expect("one pair").contains("one pair"));
        assert!(failure(5.0, Some(1.0), 0.0).expect("no share").contains("figure of 0"));
        assert_eq!(failure(0.0, Some(0.0), 0.0), None);
        let most: Gate = "level:tokens_per_s<=10".parse().expect("a gate");
        assert_eq!(most.failure(&difference(5.0, Some(4.0), 0.0)), None);
        assert!(most.failure(&difference(5.0, Some(6.0), 0.0)).is_some());
        assert_eq!(most.rule(), Some("level"));
        let other: Gate = "exact:tok/s<=10".parse().expect("a gate");
        assert!(most.concerns(&difference(5.0, None, 0.0)) && !other.concerns(&difference(5.0, None, 0.0)));
    }

    #[test]
    fn a_gate_that_nothing_was_played_for_does_not_hold() {
        let gate: Gate = "tok/s>=-1%".parse().expect("a gate");
        assert!(!gate.check(&[], true).holds);
    }

    #[test]
    fn gates_are_refused_with_what_they_should_be() {
        for text in ["", "tok/s", "tok/s>1", "speed>=1", "tok/s>=", "tok/s>=x%", "a:b:tok/s=3"] {
            let error = text.parse::<Gate>().expect_err(text).to_string();
            assert!(error.starts_with("gate: expected "), "{text}: {error}");
        }
    }
}

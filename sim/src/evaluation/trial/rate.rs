//! The rates at which a source is played.

use std::fmt;
use std::str::FromStr;

use crate::cluster::Capacity;
use crate::error::{SimError, argument};
use crate::report::results::{BETWEEN, RateEntry};

/// A rate as asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RateAsked {
    /// The trace's own.
    Own,
    /// From well below what the cluster can serve to beyond it.
    Sweep,
    /// A share of what the cluster can serve.
    OfCapacity(f64),
    /// The trace so many times as fast.
    Times(f64),
    /// Requests per second.
    PerSecond(f64),
    /// A share of what the cluster can serve, to find the largest rate that keeps the limits.
    Between(f64),
}

/// Shares of the capacity that a sweep plays.
const SWEEP: [f64; 6] = [0.6, 0.8, 0.9, 1.0, 1.1, 1.2];
/// Of rates that lie closer together than this share, one is played.
const ALIKE: f64 = 1e-3;

impl fmt::Display for RateAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Sweep => f.write_str("auto"),
            Self::OfCapacity(share) => write!(f, "{}%", round(100.0 * share)),
            Self::Times(times) => write!(f, "{times}x"),
            Self::PerSecond(rate) => write!(f, "{rate}/s"),
            Self::Between(_) => f.write_str(BETWEEN),
        }
    }
}

/// Without what a product of decimals leaves behind.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

impl FromStr for RateAsked {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        let number = |suffix| {
            let value: f64 = text.strip_suffix(suffix)?.trim().parse().ok()?;
            (value.is_finite() && value > 0.0).then_some(value)
        };
        match text {
            "own" => Some(Self::Own),
            "auto" => Some(Self::Sweep),
            _ => (number("%").map(|percent| Self::OfCapacity(percent / 100.0)))
                .or_else(|| number("x").map(Self::Times))
                .or_else(|| number("/s").map(Self::PerSecond)),
        }
        .ok_or_else(|| {
            argument("rates", "own, auto, 80% (of capacity), 2x (of the trace) or 12.5/s, above 0", text)
        })
    }
}

/// The rates in the order in which they are played: the trace's own, then the others as they rise.
pub(super) fn resolve(
    asked: &[RateAsked],
    own: Option<f64>,
    source: &str,
    capacity: &Capacity,
) -> Result<Vec<RateEntry>, SimError> {
    let fitting = capacity.fitting_share;
    let mut rates = Vec::new();
    let mut add = |asked: RateAsked, label: String, rate: f64| {
        rates.push(RateEntry {
            asked: asked.to_string(),
            label,
            own: asked == RateAsked::Own,
            requests_per_s: rate,
            rate_scale: own.map(|own| rate / own),
            offered_load: rate * fitting / capacity.requests_per_s,
        });
    };
    let mut of_capacity = |asked, share: f64| {
        let percent = round(100.0 * share);
        add(asked, format!("{percent} % of capacity"), share * capacity.requests_per_s / fitting);
    };
    for &asked in asked {
        match asked {
            RateAsked::Sweep => {
                SWEEP.into_iter().for_each(|share| of_capacity(RateAsked::OfCapacity(share), share));
            }
            RateAsked::OfCapacity(share) | RateAsked::Between(share) => of_capacity(asked, share),
            _ => {}
        }
    }
    for &asked in asked {
        match (asked, own) {
            (RateAsked::Own, Some(own)) => add(asked, "own rate".to_owned(), own),
            (RateAsked::Times(times), Some(own)) => {
                add(asked, format!("{times} times the own rate"), times * own);
            }
            (RateAsked::Times(_), None) => {
                let expected = "a share of capacity (80%) or requests per second (12.5/s) for a source \
                                without times";
                return Err(argument("rates", expected, format!("{asked} of {source}")));
            }
            (RateAsked::PerSecond(rate), _) => add(asked, format!("{rate}/s"), rate),
            _ => {}
        }
    }
    rates.sort_by(|a, b| b.own.cmp(&a.own).then(a.requests_per_s.total_cmp(&b.requests_per_s)));
    let own_rate = rates.first().filter(|rate| rate.own).map(|rate| rate.requests_per_s);
    let alike = |a: f64, b: f64| (a - b).abs() <= ALIKE * b;
    rates.dedup_by(|later, earlier| alike(later.requests_per_s, earlier.requests_per_s));
    rates.retain(|rate| rate.own || own_rate.is_none_or(|own| !alike(rate.requests_per_s, own)));
    if rates.is_empty() {
        return Err(argument("rates", format!("auto or 80% for {source}, which has no times"), "own"));
    }
    Ok(rates)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{Scenario, Source};
    use crate::job::Job;
    use crate::traces::Trace;

    fn capacity() -> Capacity {
        let trace = Trace { jobs: vec![Job::new(1_000, 100)], ..Trace::default() };
        let scenario = Scenario { source: Source::Trace(Arc::new(trace)), ..Scenario::default() };
        Capacity::of(&scenario).expect("it fits")
    }

    fn asked(text: &str) -> Vec<RateAsked> {
        text.split(',').map(|rate| rate.parse().expect("a rate")).collect()
    }

    #[test]
    fn the_own_rate_comes_first_and_the_others_rise() {
        let capacity = capacity();
        let most = capacity.requests_per_s;
        let rates = |text, own| resolve(&asked(text), own, "here", &capacity).expect("rates");
        let labels =
            |text, own| -> Vec<String> { rates(text, own).into_iter().map(|rate| rate.label).collect() };
        let own = Some(0.7 * most);
        assert_eq!(
            labels("auto,own,2x", own),
            [
                "own rate",
                "60 % of capacity",
                "80 % of capacity",
                "90 % of capacity",
                "100 % of capacity",
                "110 % of capacity",
                "120 % of capacity",
                "2 times the own rate"
            ]
        );
        let first = &rates("auto,own", own)[0];
        assert_eq!((first.rate_scale, first.own), (Some(1.0), true));
        approx::assert_abs_diff_eq!(first.offered_load, 0.7, epsilon = 1e-12);
        // What is asked for twice is played once, also where it is the own rate.
        assert_eq!(labels("80%,70%,own,80%,1x", own), ["own rate", "80 % of capacity"]);
        // A source without times has no rate of its own.
        let without = rates("own,80%", None);
        assert_eq!((without.len(), without[0].rate_scale), (1, None));
    }

    #[test]
    fn a_rate_that_nothing_is_known_of_is_refused() {
        for text in ["", "fast", "-1%", "0x", "nan/s", "80", "inf/s"] {
            assert!(text.parse::<RateAsked>().is_err(), "{text}");
        }
        let error = |text| resolve(&asked(text), None, "lengths", &capacity()).expect_err("no times");
        assert!(error("own").to_string().contains("rates: expected auto"), "{}", error("own"));
        assert!(error("2x").to_string().contains("2x of lengths"), "{}", error("2x"));
    }

    #[test]
    fn a_rate_is_written_as_it_is_read() {
        for text in ["own", "auto", "80%", "110%", "2.5x", "12.5/s"] {
            assert_eq!(text.parse::<RateAsked>().expect("a rate").to_string(), text);
        }
    }
}

//! What a request must keep, as asked for: `ttft=2s,tpot=50ms,share=99%`.

use std::str::FromStr;

use crate::error::{SimError, argument};
use crate::report::results::Limits;

/// Share of the requests that must keep the limits, unless it is given.
const SHARE: f64 = 0.99;

/// `2s`, `50ms` in ms.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("ms", 1.0), ("us", 1e-3), ("s", 1e3)];
    let (number, factor) =
        units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let value: f64 = number.trim().parse().ok()?;
    (value.is_finite() && value > 0.0).then_some(value * factor)
}

fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    (percent > 0.0 && percent <= 100.0).then_some(percent / 100.0)
}

impl FromStr for Limits {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        let mut limits = Self { ttft_ms: None, tpot_ms: None, e2e_ms: None, share: SHARE };
        for piece in text.split(',') {
            let refused = |expected: &str| argument("slo", expected, format!("{piece:?}"));
            let Some((name, value)) = piece.split_once('=') else {
                return Err(refused("ttft=2s, tpot=50ms, e2e=30s and share=99%, with commas between"));
            };
            let limit = match name.trim() {
                "ttft" => &mut limits.ttft_ms,
                "tpot" => &mut limits.tpot_ms,
                "e2e" => &mut limits.e2e_ms,
                "share" => {
                    limits.share =
                        share(value).ok_or_else(|| refused("a share in per cent, above 0 to 100%"))?;
                    continue;
                }
                _ => return Err(refused("one of ttft, tpot, e2e and share")),
            };
            let value =
                milliseconds(value).ok_or_else(|| refused("a time above 0 with its unit, s or ms"))?;
            if limit.replace(value).is_some() {
                return Err(refused("each limit once"));
            }
        }
        if limits.ttft_ms.or(limits.tpot_ms).or(limits.e2e_ms).is_none() {
            return Err(argument("slo", "one of ttft, tpot and e2e at least", format!("{text:?}")));
        }
        Ok(limits)
    }
}

impl Limits {
    /// Whether a request keeps all of them.
    pub(super) fn keeps(&self, ttft_ms: f64, tpot_ms: f64, e2e_ms: f64) -> bool {
        [(self.ttft_ms, ttft_ms), (self.tpot_ms, tpot_ms), (self.e2e_ms, e2e_ms)]
            .into_iter()
            .all(|(limit, found)| limit.is_none_or(|limit| found <= limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units() {
        let limits: Limits = "ttft=2s,tpot=50ms".parse().expect("limits");
        assert_eq!((limits.ttft_ms, limits.tpot_ms, limits.e2e_ms), (Some(2_000.0), Some(50.0), None));
        assert_eq!(limits.share, 0.99);
        let limits: Limits = "share=95%, e2e=1.5s".parse().expect("limits");
        assert_eq!((limits.e2e_ms, limits.share), (Some(1_500.0), 0.95));
    }

    #[test]
    fn a_request_keeps_all_limits_or_does_not_count() {
        let limits: Limits = "ttft=2s,tpot=50ms".parse().expect("limits");
        assert!(limits.keeps(2_000.0, 50.0, 1e9));
        assert!(!limits.keeps(2_000.1, 50.0, 0.0) && !limits.keeps(0.0, 50.1, 0.0));
    }

    #[test]
    fn limits_that_say_too_little_or_too_much_are_refused() {
        for text in
            ["", "ttft", "ttft=2", "ttft=-1s", "ttft=2s,ttft=3s", "who=1s", "share=99%", "ttft=1s,share=0%"]
        {
            let error = text.parse::<Limits>().expect_err(text).to_string();
            assert!(error.starts_with("slo: expected "), "{text}: {error}");
        }
    }
}

//! The score of a request on a worker: one concave piecewise-linear function of the request's length.
//!
//! ```text
//! score(i, g) = c_g + k_g * s_i - sum_j w_{g,j} * max(0, s_i - b_{g,j}) + age_i + bonus_{i,g}
//! ```
//!
//! BR-0, BR-H, the exact greedy and level differ only in the profiles that they make: nothing past this type
//! knows which policy it serves. All values are integers in *score units*; a policy chooses how many units
//! make one token ([`Unit`]), so the order of any two scores of one decision is exact on every machine.

/// Score units per token of KV cache: 1 where every weight is whole, more where a policy needs fractions.
pub type Unit = i64;

/// The largest age term in tokens: ages beyond it tie, long after any deadline.
pub const MAX_AGE_TOKENS: f64 = (1u64 << 32) as f64;

/// Where a profile bends: past `at_tokens` every token costs `weight` score units more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knot {
    /// Length in tokens at which the knot begins to cost; may lie below zero (then every request pays).
    pub at_tokens: i64,
    /// Score units lost per token past the knot, not negative.
    pub weight: i64,
}

/// A concave piecewise-linear score of a request's length on one worker.
///
/// Scores are added up in 64 bits without checks, so a profile must be small enough for every length up to
/// [`MAX_PROMPT_TOKENS`](crate::batch::MAX_PROMPT_TOKENS). It surely is with a slope within `-2^28..=2^28`,
/// weights that add up to at most `2^28`, knots within `-2^32..=2^32` tokens, an intercept within
/// `-2^60..=2^60` and a [`Unit`] of at most `2^28`. Past that a score may wrap, and any request may be
/// picked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Score units at length zero, before the knots.
    pub intercept: i64,
    /// Score units per token below the first knot; may be negative.
    pub slope: i64,
    /// The bends, in any order.
    pub knots: Vec<Knot>,
}

impl Profile {
    /// Empties the profile and keeps its buffer.
    pub fn clear(&mut self) {
        self.intercept = 0;
        self.slope = 0;
        self.knots.clear();
    }

    /// Score units for `tokens` of length: the definition that every faster path is compared with.
    #[must_use]
    pub fn score(&self, tokens: i64) -> i64 {
        let lost: i64 = self.knots.iter().map(|knot| knot.weight * (tokens - knot.at_tokens).max(0)).sum();
        self.intercept + self.slope * tokens - lost
    }

    /// A length in `[low, high]` at which the score is greatest (the least such length at a knot).
    ///
    /// `order` is scratch for the knots in ascending order.
    #[must_use]
    pub fn peak(&self, low: i64, high: i64, order: &mut Vec<Knot>) -> i64 {
        // Two knots are what almost every profile has; they need no sorting.
        if let [a, b] = self.knots[..] {
            let (first, second) = if a.at_tokens <= b.at_tokens { (a, b) } else { (b, a) };
            let peak = match self.slope {
                slope if slope <= 0 => low,
                slope if slope <= first.weight => first.at_tokens,
                slope if slope <= first.weight + second.weight => second.at_tokens,
                _ => high,
            };
            return peak.clamp(low, high);
        }
        order.clear();
        order.extend_from_slice(&self.knots);
        // Two or three knots come sorted or nearly so; insertion sort beats the general one there.
        order.sort_unstable_by_key(|knot| knot.at_tokens);
        let mut slope = self.slope;
        for knot in order.iter() {
            if slope <= 0 {
                break;
            }
            slope -= knot.weight;
            if slope <= 0 {
                return knot.at_tokens.clamp(low, high);
            }
        }
        if slope > 0 { high } else { low }
    }
}

/// What a request gains as others pass it: `linear * p + quadratic * p^2` tokens once `p` that came later
/// were admitted before it, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Age {
    /// Tokens for each that has passed it.
    pub linear: f64,
    /// Tokens for the square of how many have.
    pub quadratic: f64,
}

impl Age {
    /// The age term in whole tokens of a request that so many have passed. Never falls as they grow.
    ///
    /// The order of the operations is part of the contract: vector paths repeat it to the bit.
    #[must_use]
    pub fn tokens(&self, passed: u32) -> i64 {
        let passed = f64::from(passed);
        let age = (self.linear * passed + self.quadratic * (passed * passed)).min(MAX_AGE_TOKENS);
        // Rounds down without `floor`, which is a call where the CPU's baseline lacks the instruction.
        let whole = age as i64;
        whole - i64::from(whole as f64 > age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f_score(margin: i64, workers: i64) -> Profile {
        Profile { intercept: 0, slope: 1, knots: vec![Knot { at_tokens: margin, weight: workers }] }
    }

    #[test]
    fn f_rises_to_the_margin_and_falls_past_it() {
        let profile = f_score(100, 8);
        assert_eq!(profile.score(99), 99);
        assert_eq!(profile.score(100), 100);
        assert_eq!(profile.score(110), 110 - 80);
        assert_eq!(profile.peak(1, 1000, &mut Vec::new()), 100);
        assert_eq!(profile.peak(150, 1000, &mut Vec::new()), 150);
        assert_eq!(profile.peak(1, 60, &mut Vec::new()), 60);
    }

    #[test]
    fn peak_is_the_greatest_score_of_the_range() {
        let profile = Profile {
            intercept: -7,
            slope: 5,
            knots: vec![
                Knot { at_tokens: 40, weight: 3 },
                Knot { at_tokens: -5, weight: 1 },
                Knot { at_tokens: 20, weight: 2 },
            ],
        };
        for (low, high) in [(0, 10), (0, 100), (30, 35), (50, 90)] {
            let best = (low..=high).map(|s| profile.score(s)).max().unwrap();
            assert_eq!(profile.score(profile.peak(low, high, &mut Vec::new())), best, "{low}..={high}");
        }
    }

    #[test]
    fn age_is_whole_tokens_and_never_falls() {
        let age = Age { linear: 2.5, quadratic: 0.01 };
        assert_eq!(age.tokens(0), 0);
        assert_eq!(age.tokens(10), 26);
        let mut last = 0;
        for waited in (0..2_000_000).step_by(997) {
            let now = age.tokens(waited);
            assert!(now >= last);
            last = now;
        }
        assert_eq!(Age { linear: 1e9, quadratic: 1e9 }.tokens(u32::MAX), MAX_AGE_TOKENS as i64);
    }
}

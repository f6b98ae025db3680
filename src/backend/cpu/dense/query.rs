//! A profile as lanes add it up, and which lanes hold every sum of it exactly.

use crate::score::Profile;

/// Knots from which the 16-bit dot products pay.
const DOT_FROM: usize = 4;

/// Which lanes hold the scores of a dense column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// Single precision, where every sum is a whole number below 2^24.
    F32,
    /// 32-bit integers.
    I32,
    /// 16-bit dot products.
    Dot,
    /// 64-bit sums of 32-bit products.
    I64,
}

impl Tier {
    /// Every kind of lanes.
    pub const ALL: [Self; 4] = [Self::F32, Self::I32, Self::Dot, Self::I64];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 => "i32",
            Self::Dot => "dot16",
            Self::I64 => "i64",
        }
    }
}

/// A profile in lanes, its intercept taken off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub longest: i32,
    /// Whether anybody is longer than that.
    pub cut: bool,
    pub bit: i32,
    /// The slope past every knot.
    pub(super) rest: i32,
    pub(super) bends: Vec<(i32, i32)>,
    pub(super) float_bends: Vec<(f32, f32)>,
    /// Two knots each, in halves of a lane.
    pub(super) dot_bends: Vec<(i32, i32)>,
    /// What these weights were divided by.
    pub(super) factor: i32,
    /// Whether the score of a dot product fits an `i32`.
    pub(super) narrow: bool,
}

impl Query {
    /// A query for the worker of this eligibility bit.
    #[cfg(test)]
    pub(crate) fn of_bit(bit: i32) -> Self {
        Self { bit, cut: true, ..Self::default() }
    }

    /// Cuts a profile to the lengths `shortest..=longest`; returns the intercept and the first of `tiers` that is exact, if any.
    /// `greatest_base` bounds the magnitude of age plus bonus.
    pub(crate) fn prepare(
        &mut self,
        profile: &Profile,
        (shortest, longest): (i64, i64),
        greatest_base: i64,
        tiers: &[Tier],
    ) -> (i64, Option<Tier>) {
        let (mut intercept, mut rest, mut gained, mut heaviest) = (profile.intercept, profile.slope, 0i64, 0);
        self.bends.clear();
        for knot in &profile.knots {
            if knot.at_tokens <= shortest {
                rest -= knot.weight;
                intercept += knot.weight * knot.at_tokens;
            } else if knot.at_tokens < longest && knot.weight != 0 {
                rest -= knot.weight;
                // The product wraps only where the weight is too heavy for any lanes.
                gained = gained.saturating_add(knot.weight.wrapping_mul(knot.at_tokens));
                heaviest = heaviest.max(knot.weight);
                self.bends.push((knot.at_tokens as i32, knot.weight as i32));
            }
        }
        let int = 1i64 << 31;
        if rest.abs() >= int || heaviest >= int || greatest_base >= int || longest >= int {
            return (intercept, None);
        }
        self.rest = rest as i32;
        self.longest = longest as i32;
        let bound = (rest.abs().saturating_mul(longest)).saturating_add(greatest_base).saturating_add(gained);
        self.narrow = bound < int - 1;
        let exact = |&tier: &Tier| match tier {
            Tier::Dot => {
                self.bends.len() >= DOT_FROM && longest < 1 << 15 && self.pair_up(heaviest as i32, gained)
            }
            Tier::F32 => bound < 1 << 24,
            Tier::I32 => bound < int - 1,
            Tier::I64 => true,
        };
        let tier = tiers.iter().copied().find(exact);
        if tier == Some(Tier::F32) {
            self.float_bends.clear();
            self.float_bends.extend(self.bends.iter().map(|&(at, weight)| (at as f32, weight as f32)));
        }
        (intercept, tier)
    }

    /// Pairs knots up, their weights divided by a common factor where that must be; false when they do not fit 16 bits then, or their sum 31.
    fn pair_up(&mut self, heaviest: i32, gained: i64) -> bool {
        let bends = &self.bends;
        let mut factor = Factor::of(1);
        if heaviest >= 1 << 15 || gained >= 1 << 31 {
            factor = bends.iter().fold(Factor::of(bends[0].1), |factor, &(_, weight)| factor.common(weight));
            if heaviest / factor.value >= 1 << 15 || gained / i64::from(factor.value) >= 1 << 31 {
                return false;
            }
        }
        self.factor = factor.value;
        let pack = |low: i32, high: i32| low | high << 16;
        self.dot_bends.clear();
        self.dot_bends.extend(bends.chunks(2).map(|pair| {
            let (first, second) = (pair[0], pair.get(1).copied().unwrap_or((0, 0)));
            (pack(first.0, second.0), pack(factor.quotient(first.1), factor.quotient(second.1)))
        }));
        true
    }
}

/// A common factor of weights. Divisions are slow: products with its inverse take their place.
#[derive(Clone, Copy)]
struct Factor {
    value: i32,
    inverse: f64,
}

impl Factor {
    fn of(value: i32) -> Self {
        Self { value, inverse: 1.0 / f64::from(value) }
    }

    /// The quotient, if it divides a weight; close to it otherwise.
    fn quotient(self, weight: i32) -> i32 {
        (f64::from(weight) * self.inverse + 0.5) as i32
    }

    /// The greatest common factor with one more weight: mostly the same.
    fn common(self, weight: i32) -> Self {
        if self.quotient(weight).wrapping_mul(self.value) == weight {
            return self;
        }
        let (mut a, mut b) = (self.value, weight);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self::of(a)
    }
}

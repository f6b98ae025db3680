//! The F-score summed over a horizon: what its steps weigh, and the profile that they make.

use crate::policy::View;
use crate::score::{Knot, Profile};

/// Score units per token where discounts make weights fractional.
const FRACTION: i64 = 1 << 10;

/// The steps looked ahead.
#[derive(Clone, Debug)]
pub(crate) struct Lookahead {
    /// Discount of each, `gamma^h` in units of 1/[`FRACTION`].
    pub discounts: Vec<i64>,
    /// Alpha and beta of the batch.
    price: (f64, f64),
    /// Of a request that surely runs: the slope of every step up to this one, and the weight of its knot, per unit that a token costs.
    sure: Vec<(i64, i64)>,
}

/// Nearest for what is not negative, without a call.
fn nearest(value: f64) -> i64 {
    (value + 0.5) as i64
}

impl Lookahead {
    pub(crate) fn new(gamma: f64, horizon_steps: usize) -> Self {
        let discounts = (0..=horizon_steps).map(|h| (gamma.powi(h as i32) * FRACTION as f64).round() as i64);
        Self { discounts: discounts.collect(), price: (0.0, 0.0), sure: Vec::new() }
    }

    /// Sets alpha and beta, for all profiles that are drawn from now on.
    pub(crate) fn set_price(&mut self, price: (f64, f64)) {
        if self.price == price && self.sure.len() == self.discounts.len() {
            return;
        }
        self.price = price;
        self.sure.clear();
        let mut slope = 0;
        self.sure.extend(self.discounts.iter().map(|&discount| {
            let (gain, loss) = Self::weights(price, discount, 1.0);
            slope += gain;
            (slope, loss)
        }));
    }

    /// What a token is worth in a step, and what it costs past the margin.
    fn weights((alpha, beta): (f64, f64), discount: i64, survival: f64) -> (i64, i64) {
        let weight = discount as f64 * survival;
        (nearest(alpha * weight), nearest(beta * weight))
    }

    /// Draws `alpha * sum_h d_h * s - beta * sum_h d_h * max(0, s - m_h)` from the rows of a view.
    ///
    /// `class` scales each step's weight by the probability that the request still runs.
    pub(crate) fn draw(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        let per_token = view.cost_per_token;
        let margin = |load: i64, envelope: i64| {
            if per_token == 1 { envelope - load } else { (envelope - load).div_euclid(per_token) }
        };
        let steps = self.sure.iter().zip(view.row.iter().zip(view.envelope_row));
        let Some(class) = class else {
            let mut slope = 0;
            profile.knots.extend(steps.map(|(&(slope_so_far, weight), (&load, &envelope))| {
                slope = slope_so_far;
                Knot { at_tokens: margin(load, envelope), weight: weight * per_token }
            }));
            profile.slope += slope * per_token;
            return;
        };
        // Past its end it surely runs.
        let survival = class.iter().map(|&p| f64::from(p)).chain(std::iter::repeat(1.0));
        for ((&discount, (_, (&load, &envelope))), survival) in self.discounts.iter().zip(steps).zip(survival)
        {
            let (gain, loss) = Self::weights(self.price, discount, survival);
            profile.slope += gain * per_token;
            profile.knots.push(Knot { at_tokens: margin(load, envelope), weight: loss * per_token });
        }
    }
}

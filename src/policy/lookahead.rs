//! The F-score summed over a horizon: what its steps weigh, and the profile that they make.

use crate::rule::{View, step_weights};
use crate::score::{Knot, Profile};

/// Score units per token where discounts make weights fractional.
const FRACTION: i64 = 1 << 10;

/// The steps looked ahead.
#[derive(Clone, Debug)]
pub(crate) struct Lookahead {
    /// Discount of each, `gamma^h` in units of 1/[`FRACTION`].
    pub discounts: Vec<i64>,
    /// Alpha and beta of the batch.
    pub price: (f64, f64),
    /// Of a request that surely runs: the slope of every step up to this one, and the weight of its knot, per
    /// unit that a token costs.
    sure: Vec<(i64, i64)>,
}

impl Lookahead {
    pub(crate) fn new(gamma: f64, horizon_steps: usize) -> Self {
        let discounts = (0..=horizon_steps).map(|h| (gamma.powi(h as i32) * FRACTION as f64).round() as i64);
        Self { discounts: discounts.collect(), price: (0.0, 0.0), sure: Vec::new() }
    }

    /// Sets alpha and beta, for all profiles that are made from now on.
    pub(crate) fn set_price(&mut self, price: (f64, f64)) {
        if self.price == price && self.sure.len() == self.discounts.len() {
            return;
        }
        self.price = price;
        self.sure.clear();
        let mut slope = 0;
        self.sure.extend(self.discounts.iter().map(|&discount| {
            let (gain, loss) = step_weights(price, discount, 1.0);
            slope += gain;
            (slope, loss)
        }));
    }

    /// Makes `alpha * sum_h d_h * s - beta * sum_h d_h * max(0, s - m_h)` from the rows of a view.
    ///
    /// `class` scales each step's weight by the probability that the request still runs.
    pub(crate) fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        let per_token = view.cost_per_token;
        let margin = |load: i64, envelope: i64| {
            if per_token == 1 { envelope - load } else { (envelope - load).div_euclid(per_token) }
        };
        let margins = view.row.iter().zip(view.envelope_row).map(|(&load, &envelope)| margin(load, envelope));
        let Some(class) = class else {
            let mut slope = 0;
            profile.knots.extend(margins.zip(&self.sure).map(|(at_tokens, &(slope_so_far, weight))| {
                slope = slope_so_far;
                Knot { at_tokens, weight: weight * per_token }
            }));
            profile.slope += slope * per_token;
            return;
        };
        // Past its end it surely runs.
        let survival = class.iter().map(|&p| f64::from(p)).chain(std::iter::repeat(1.0));
        for ((at_tokens, &discount), survival) in margins.zip(&self.discounts).zip(survival) {
            let (gain, loss) = step_weights(self.price, discount, survival);
            profile.slope += gain * per_token;
            profile.knots.push(Knot { at_tokens, weight: loss * per_token });
        }
    }
}

//! BalanceRoute as published (arXiv 2605.06113): `br0`, which predicts nothing, and `brh-*`, which look
//! ahead.
//!
//! A set of requests put on worker `g` is worth, with `D` the sum of its lengths and `m_{g,h}` the worker's
//! projected margin, the envelope less its own load `h` steps from now,
//!
//! ```text
//! F_g(D) = alpha * (sum_h gamma^h) * D - beta * sum_h gamma^h * max(D - m_{g,h}, 0)         h = 0..=H
//! ```
//!
//! `br0` is `H = 0`, `alpha = 1`, `beta = G`: F is then minus the change of the imbalance. `D` is held
//! constant over the horizon, and an admission adds it to the whole row of its worker. Without a projection
//! `brh-*` look at today's margins alone.
//!
//! Workers choose in the order of most open slots, then greatest margin (least load), then lowest index
//! ([`Order::MostOpenSlots`]):
//! 1. *Plenty*: while more slots are open than `greedy_slots`, over all workers, the worker admits the single
//!    request of the whole pool with the largest F, the earliest of equals.
//! 2. *Scarcity*: it looks at the first `candidate_window` requests that it may take, keeps the
//!    `subset_window` of them with the largest single F, and admits the subset that fits its slots and its
//!    room with the largest F: of equals the smallest, then the one with the earlier requests. Where no
//!    subset is worth more than nothing the best single request goes in all the same, so that a request waits
//!    only for a slot.
//!
//! Overdue requests (their own deadline) go first, as everywhere; nothing else ages, as published: short
//! requests may starve.
//!
//! The paper leaves alpha, beta and gamma of its main runs, the number of slots that are plenty and the ties
//! of stage 2 open: [`BalanceRouteParameters`] and the lines above say what was chosen.

use crate::batch::{Batch, MAX_WAITING, WEIGHT_ONE, Worker};
use crate::policy::lookahead::Lookahead;
use crate::policy::{Policy, Recipe};
use crate::rule::{Forecast, Needs, Order, Plan, ProfileSpec, Rule, SubsetStage, View};
use crate::score::{Knot, Profile};

/// Parameters of `br0`, `brh-survival`, `brh-exactmatch` and `brh-oracle`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BalanceRouteParameters {
    /// Open slots over all workers above which requests go one by one, 0..=1000000; default 7 (the authors'
    /// earlier code, BF-IO).
    pub greedy_slots: u32,
    /// Requests whose subsets are tried, `R_max`, 1..=8; default 4 (published).
    pub subset_window: usize,
    /// Requests, in arrival order, that `brh-*` choose these from, 1..=1048576; default all candidates. `br0`
    /// takes the first `subset_window`.
    pub candidate_window: usize,
    /// Steps looked ahead by `brh-*`, `H`, 0..=128; default 80 (published).
    pub horizon_steps: usize,
    /// Worth of a token that fits, 0..=16; default 1 (the authors' earlier code; `br0` by definition).
    pub alpha: f64,
    /// Price of a token past the margin in numbers of workers, 0..=16; default 4. Not published (the earlier
    /// code: 43 tokens, 5.4 times its 8 workers); of 1..5.4, with gamma .86..1, the value that comes nearest
    /// to the published imbalances.
    pub beta_workers: f64,
    /// Discount per step looked ahead, 0..=1; default 0.98. Not published (the earlier code: .86); chosen
    /// with beta. In a closed loop of means 3200/1200, 8 workers, 72 slots, 32 waiting this gives 42.7k with
    /// survival estimates and 24.0k with true lengths (published: 40.8k, 23.6k); `br0` gives 57.7k (51.9k).
    pub gamma: f64,
}

impl Default for BalanceRouteParameters {
    fn default() -> Self {
        Self {
            greedy_slots: 7,
            subset_window: 4,
            candidate_window: MAX_WAITING,
            horizon_steps: 80,
            alpha: 1.0,
            beta_workers: 4.0,
            gamma: 0.98,
        }
    }
}

setters!(BalanceRouteParameters {
    greedy_slots: u32,
    subset_window: usize,
    candidate_window: usize,
    horizon_steps: usize,
    alpha: f64,
    beta_workers: f64,
    gamma: f64,
});

/// Builds `br0` or, with a forecast, one of `brh-*`.
pub(super) fn build(made: Recipe<'_>) -> Box<dyn Policy> {
    let rule = BalanceRoute::new(&made.parameters.balance_route, made.forecast);
    Box::new(made.policy(rule))
}

/// The rule of the family.
#[derive(Clone, Debug)]
pub(crate) struct BalanceRoute {
    needs: Needs,
    stage: SubsetStage,
    alpha: f64,
    beta_workers: f64,
    /// The steps looked ahead, one for `br0`, and alpha and beta of the batch.
    lookahead: Lookahead,
}

impl BalanceRoute {
    pub(crate) fn new(parameters: &BalanceRouteParameters, forecast: Option<Forecast>) -> Self {
        let stage = SubsetStage {
            greedy_slots: parameters.greedy_slots,
            subset_window: parameters.subset_window,
            ..SubsetStage::new()
        };
        match forecast {
            None => Self {
                needs: Needs::new(),
                stage: stage.candidate_window(parameters.subset_window),
                alpha: 1.0,
                beta_workers: 1.0,
                lookahead: Lookahead::new(1.0, 0),
            },
            Some(_) => Self {
                needs: Needs::new().forecast(forecast).projection_horizon(Some(parameters.horizon_steps)),
                stage: stage.candidate_window(parameters.candidate_window),
                alpha: parameters.alpha,
                beta_workers: parameters.beta_workers,
                lookahead: Lookahead::new(parameters.gamma, parameters.horizon_steps),
            },
        }
    }

    /// Whether profiles are made from projected rows of this many steps.
    fn looks_ahead(&self, steps: usize) -> bool {
        self.lookahead.discounts.len() > 1 && steps > 0
    }

    fn discount_sum(&self, batch: &Batch<'_>) -> i64 {
        let far = self.looks_ahead(usize::from(batch.projection().is_some()));
        let steps = if far { self.lookahead.discounts.len() } else { 1 };
        self.lookahead.discounts[..steps].iter().sum()
    }

    /// A power of two, 1 in all but absurd batches, that keeps the greatest score of a subset within an i64.
    fn scale(&self, batch: &Batch<'_>) -> f64 {
        let longest = batch.waiting().ordered().tokens.last().copied().unwrap_or(1);
        let dearest = if batch.is_uniform() {
            1
        } else {
            batch.workers().iter().map(Worker::cost_per_token).max().unwrap_or(1)
        };
        let price = self.alpha.max(self.beta_workers * batch.workers().len() as f64).max(1.0);
        let greatest = f64::from(longest)
            * self.stage.subset_window as f64
            * dearest as f64
            * price
            * self.discount_sum(batch) as f64;
        (i64::MAX as f64 / 4.0 / greatest).log2().floor().min(0.0).exp2()
    }

    /// Slope and weight of today's margin, per cost unit.
    fn margin_weights(&self) -> (i64, i64) {
        let ((alpha, beta), discount) = (self.lookahead.price, self.lookahead.discounts[0] as f64);
        ((alpha * discount).round() as i64, (beta * discount).round() as i64)
    }
}

impl Rule for BalanceRoute {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn begin(&mut self, batch: &Batch<'_>, _load_offsets: &mut Vec<i64>) -> Plan {
        let scale = self.scale(batch);
        self.lookahead
            .set_price((self.alpha * scale, self.beta_workers * batch.workers().len() as f64 * scale));
        // A token of bonus is worth a token that fits over the whole horizon (at alpha 1).
        let cost_one = if batch.is_uniform() { 1 } else { WEIGHT_ONE };
        let unit = (self.discount_sum(batch) * cost_one) as f64 * scale;
        Plan { order: Order::MostOpenSlots(self.stage), unit: (unit as i64).max(1), ..Plan::default() }
    }

    fn profile(&self, view: &View<'_>, _class: Option<&[f32]>, profile: &mut Profile) {
        if self.looks_ahead(view.row.len()) {
            self.lookahead.profile(view, None, profile);
        } else {
            let (slope, weight) = self.margin_weights();
            profile.slope = slope * view.cost_per_token;
            profile.knots.push(Knot {
                at_tokens: (view.envelope - view.cost).div_euclid(view.cost_per_token),
                weight: weight * view.cost_per_token,
            });
        }
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        if self.looks_ahead(usize::from(batch.projection().is_some())) {
            let ((alpha, beta), discounts) = (self.lookahead.price, &self.lookahead.discounts);
            return Some(ProfileSpec::Lookahead { discounts, alpha, beta, by_class: false });
        }
        let (slope, weight) = self.margin_weights();
        Some(ProfileSpec::Margin { slope, weight })
    }
}

#[cfg(test)]
mod tests;

//! F over the whole pool and every worker, with aging, an anticipated envelope and repair.
//!
//! `F_g(s) = s - G * max(s - m_g, 0)` is minus the change of the imbalance `G * max L - sum L` when a request
//! of length `s` enters a worker with margin `m_g = M - L_g` (arXiv 2605.06113). With a projection the same
//! is summed over a horizon, discounted.

use crate::batch::{Batch, WEIGHT_ONE, Worker};
use crate::policy::lookahead::Lookahead;
use crate::policy::{Parameters, Policy, Recipe, overtaking};
use crate::rule::{Forecast, Needs, Order, PairCost, Plan, ProfileSpec, Repair, Rule, View};
use crate::score::{Knot, Profile};

/// Parameters of `exact`, `exact-survival` and `exact-oracle`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ExactParameters {
    /// Steps looked ahead by `exact-survival` and `exact-oracle`, 0..=128; default 16 (the best of 8..64,
    /// measured).
    pub horizon_steps: usize,
    /// Discount per step looked ahead, 0..=1; default 0.9 (measured with the horizon).
    pub gamma: f64,
    /// Passes of local search over a step's picks, 0..=16; default 2.
    pub repair_rounds: u32,
}

impl Default for ExactParameters {
    fn default() -> Self {
        Self { horizon_steps: 16, gamma: 0.9, repair_rounds: 2 }
    }
}

setters!(ExactParameters { horizon_steps: usize, gamma: f64, repair_rounds: u32 });

/// Builds `exact` or, with a forecast, one of its kin that look ahead.
pub(super) fn build(made: Recipe<'_>) -> Box<dyn Policy> {
    let rule = Exact::new(made.parameters, made.forecast);
    Box::new(made.policy(rule))
}

/// The rule of the exact greedy.
#[derive(Clone, Debug)]
pub(crate) struct Exact {
    parameters: ExactParameters,
    max_passed: Option<u32>,
    needs: Needs,
    /// Present when it looks ahead.
    lookahead: Option<Lookahead>,
}

impl Exact {
    pub(crate) fn new(parameters: &Parameters, forecast: Option<Forecast>) -> Self {
        let (parameters, max_passed) = (parameters.exact, parameters.max_passed);
        let horizon = forecast.map(|_| parameters.horizon_steps);
        let lookahead = horizon.map(|steps| Lookahead::new(parameters.gamma, steps));
        let needs = Needs::new().forecast(forecast).projection_horizon(horizon);
        Self { parameters, max_passed, needs, lookahead }
    }
}

/// The envelope that a burst will reach anyway, in cost units: margins measured from it keep the first picks
/// from being the shortest.
pub(crate) fn anticipated_envelope(batch: &Batch<'_>) -> i64 {
    let (uniform, workers) = (batch.is_uniform(), batch.workers());
    let admissions = batch.open_slots().min(batch.waiting().len() as u64) as i64;
    let cost =
        |worker: &Worker| worker.load_tokens as i64 * if uniform { 1 } else { worker.cost_per_token() };
    let refill = batch.traffic().mean_prompt_tokens * admissions * if uniform { 1 } else { WEIGHT_ONE };
    (workers.iter().map(cost).sum::<i64>() + refill) / workers.len() as i64
}

/// The F-score: a token below the margin is worth one, a token past it costs all the workers that wait.
#[inline(always)]
pub(crate) fn margin_profile(view: &View<'_>, profile: &mut Profile) {
    profile.slope = view.cost_per_token;
    profile.knots.push(Knot {
        at_tokens: (view.envelope - view.cost).div_euclid(view.cost_per_token),
        weight: view.workers * view.cost_per_token,
    });
}

impl Rule for Exact {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn begin(&mut self, batch: &Batch<'_>, _load_offsets: &mut Vec<i64>) -> Plan {
        let uniform = batch.is_uniform();
        let cost_one = if uniform { 1 } else { WEIGHT_ONE };
        let looks_ahead = self.lookahead.is_some() && batch.projection().is_some();
        if let Some(lookahead) = &mut self.lookahead {
            lookahead.set_price((1.0, batch.workers().len() as f64));
        }
        let everybody_fits = batch.waiting().len() as u64 <= batch.open_slots();
        Plan {
            order: if everybody_fits && !batch.has_pair_terms() {
                Order::LongestFirst { fewest_requests: false }
            } else {
                Order::Matrix
            },
            nested: !looks_ahead,
            unit: cost_one * if looks_ahead { self.discount_sum() } else { 1 },
            age: overtaking::age(batch),
            max_passed: Some(overtaking::max_passed(batch, self.max_passed)),
            refill_tokens: 0,
            envelope_floor: anticipated_envelope(batch),
            follows_levels: false,
            follows_envelope: true,
            repair: Repair {
                tolerance_tokens: None,
                rounds: self.parameters.repair_rounds,
                swap: (uniform && !looks_ahead).then_some(PairCost::Envelope),
                one_each: false,
            },
            passed_over: None,
        }
    }

    #[inline]
    fn envelope_weights(&self, workers: i64, steps: usize, weights: &mut Vec<i64>) -> bool {
        match &self.lookahead {
            // A class scales a weight down, never up.
            Some(lookahead) if steps > 0 => {
                weights.push(0);
                weights.extend(lookahead.discounts.iter().take(steps).map(|discount| workers * discount));
                weights.resize(steps + 1, 0);
            }
            _ => {
                weights.push(workers);
                weights.resize(steps + 1, 0);
            }
        }
        true
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        let workers = batch.workers().len();
        Some(match &self.lookahead {
            Some(Lookahead { discounts, .. }) if batch.projection().is_some() => {
                ProfileSpec::Lookahead { discounts, alpha: 1.0, beta: workers as f64, by_class: true }
            }
            _ => ProfileSpec::Margin { slope: 1, weight: workers as i64 },
        })
    }

    fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        match &self.lookahead {
            Some(lookahead) if !view.row.is_empty() => lookahead.profile(view, class, profile),
            _ => margin_profile(view, profile),
        }
    }
}

impl Exact {
    /// One token over the whole horizon, in units: what an aging token must be worth to weigh as much as a
    /// token of F.
    fn discount_sum(&self) -> i64 {
        self.lookahead.as_ref().map_or(1, |lookahead| lookahead.discounts.iter().sum())
    }
}

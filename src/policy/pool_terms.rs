//! What the pool and all other workers add to level.
//!
//! Let `Z_1 >= ... >= Z_{G-1}` be the anticipated loads of the others. A refill costs nothing while it ends
//! lowest; with `k - 1` others above it every token costs `G/k - 1`, in the long run, under any rule: that is
//! `phi`, of which level alone knows `k = 1`. Short requests are what the pool lacks later, so taking one has
//! a price, and lengths are wanted as the pool has them:
//!
//! ```text
//! beta   = min(1, 3 E[o] / sd)                                 heavy tails switch all of this off
//! t0     = mean(others) - E[o] - own                            t1 = min(others) - E[o] / (G - 1) - own
//! t      = (1 - 0.6 beta) u + 0.6 beta (m_P + (u - mu) sd_P / sd)      u = t0 + 0.2 beta (t0 - t1)
//! cost_i = beta phi(own + s) + (1 - beta) phi_1(own + s) + 1.5 beta sd exp(-3 s / mu) - age
//!        + { t - s below t; (1 - 0.75 beta) (s - t) above }
//! ```
//!
//! `m_P` and `sd_P` are the mean and the spread of the window. All of it is one profile of whole numbers, in
//! units of 1/64 token: slopes, beta and t are rounded once, and the exponential lies on fixed knots, so that
//! no library decides.

use crate::batch::{Batch, WEIGHT_ONE};
use crate::rule::{LevelTerms, View};
use crate::score::{Knot, Profile};

/// How far lengths are wanted as the pool has them.
const POOL_SHARE: f64 = 0.6;
/// How far the least of the others counts beside their mean.
const LEAST_SHARE: f64 = 0.2;
/// By how much less a token past the length wanted costs than one short of it.
const FALL_SHARE: f64 = 0.75;
/// Standard deviations that the shortest request costs.
const RESERVE_SPREADS: f64 = 1.5;
/// Where its price bends, in mean lengths `x`, and `exp(-3 x)` there.
const RESERVE: [(f64, f64); 8] = [
    (0.0, 1.0),
    (0.1, 0.7408182206817179),
    (0.25, 0.4723665527410147),
    (0.5, 0.22313016014842982),
    (0.75, 0.10539922456186433),
    (1.0, 0.049787068367863944),
    (1.5, 0.011108996538242306),
    (2.0, 0.0024787521766663585),
];
/// The pool's spread counts up to so many times that of the traffic.
const MOST_SPREAD: f64 = 4.0;
/// Fractions of a length wanted, per token.
const FRACTION: f64 = (1 << 16) as f64;

/// To the nearest whole number, without a call where the CPU's baseline lacks the instruction.
fn nearest(value: f64) -> i64 {
    if value < 0.0 { -((0.5 - value) as i64) } else { (value + 0.5) as i64 }
}

/// Tokens that a token costs while `k - 1` others lie higher.
fn rise(beta: f64, workers: usize, k: usize) -> f64 {
    let workers = workers as f64;
    if k == 1 { workers - 1.0 } else { beta * (workers / k as f64 - 1.0) }
}

/// The terms of one batch. Units are those of a token that costs [`WEIGHT_ONE`].
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolTerms {
    beta: f64,
    workers: usize,
    uniform: bool,
    /// See [`LevelTerms::mean`].
    wanted: [i64; 3],
    fall: i64,
    /// See [`LevelTerms::rises`].
    rises: Vec<i64>,
    /// The beta and the number of workers that these were made for.
    risen: (f64, usize),
    reserve: (i64, i64),
    reserve_knots: Vec<Knot>,
}

impl PoolTerms {
    /// Whether there are any.
    pub(crate) fn are_on(&self) -> bool {
        self.beta > 0.0
    }

    /// Takes a batch, of which they are a part or not.
    pub(crate) fn begin(&mut self, batch: &Batch<'_>, are_wanted: bool) {
        let traffic = batch.traffic();
        let output = traffic.mean_output_tokens as f64;
        let spread = traffic.sd_prompt_tokens as f64;
        self.workers = batch.workers().len();
        self.uniform = batch.is_uniform();
        self.beta = match (are_wanted && self.workers > 1 && output > 0.0, spread > 0.0) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => (3.0 * output / spread).min(1.0),
        };
        if !self.are_on() {
            return;
        }
        let (beta, mean) = (self.beta, (traffic.mean_prompt_tokens as f64).max(1.0));
        let (pool_mean, pool_spread) = batch.waiting().mean_and_spread();
        let wider = if spread > 0.0 { (pool_spread / spread).min(MOST_SPREAD) } else { 1.0 };
        let scale = 1.0 - POOL_SHARE * beta + POOL_SHARE * beta * wider;
        let (of_mean, of_least) = (scale * (1.0 + LEAST_SHARE * beta), -scale * LEAST_SHARE * beta);
        let others = (self.workers - 1) as f64;
        let base =
            POOL_SHARE * beta * (pool_mean - mean * wider) - of_mean * output - of_least * output / others;
        self.wanted = [of_mean, of_least, base].map(|share| nearest(share * FRACTION));
        let unit = WEIGHT_ONE as f64;
        self.fall = nearest((1.0 - FALL_SHARE * beta) * unit);
        if self.risen != (beta, self.workers) {
            self.risen = (beta, self.workers);
            self.rises.clear();
            let workers = self.workers;
            self.rises.extend((1..=workers).map(|k| nearest(rise(beta, workers, k) * unit)));
        }
        self.price_short(RESERVE_SPREADS * beta * spread * unit, mean);
    }

    /// Sets the price of a short request: so many units for the shortest.
    fn price_short(&mut self, units: f64, mean: f64) {
        self.reserve_knots.clear();
        self.reserve = (nearest(units), 0);
        let mut slope = None;
        for pair in RESERVE.windows(2) {
            let [(from, high), (to, low)] = [pair[0], pair[1]];
            let [from, to] = [from, to].map(|share| nearest(share * mean));
            if from == to {
                continue;
            }
            // Never steeper than before, whatever is rounded.
            let before = slope.unwrap_or(i64::MAX);
            let next = nearest(units * (high - low) / (to - from) as f64).min(before);
            match slope {
                None => self.reserve.1 = next,
                Some(before) => self.reserve_knots.push(Knot { at_tokens: from, weight: before - next }),
            }
            slope = Some(next);
        }
        let end = nearest(RESERVE[RESERVE.len() - 1].0 * mean);
        self.reserve_knots.push(Knot { at_tokens: end, weight: slope.unwrap_or(0) });
    }

    /// The terms as data.
    pub(crate) fn spec(&self) -> LevelTerms<'_> {
        let [mean, least, base] = self.wanted;
        LevelTerms {
            mean,
            least,
            base,
            fall: self.fall,
            rises: &self.rises,
            reserve: self.reserve,
            reserve_knots: &self.reserve_knots,
        }
    }

    /// The length wanted on a worker.
    pub(crate) fn wanted_tokens(&self, view: &View<'_>, refill_tokens: i64) -> i64 {
        let per_token = view.cost_per_token;
        let own = view.anticipated - refill_tokens * per_token;
        let mean = view.others_sum.div_euclid(view.workers - 1);
        let least = view.others_min().unwrap_or(mean);
        let gap = |level: i64| (level - own).div_euclid(per_token);
        self.spec().wanted(gap(mean), gap(least))
    }

    /// The profile of a worker.
    pub(crate) fn profile(&self, view: &View<'_>, refill_tokens: i64, profile: &mut Profile) {
        let per_token = view.cost_per_token;
        let own = view.anticipated - refill_tokens * per_token;
        // Units of a token here, of which there are 64 where tokens cost alike.
        let unit = if self.uniform { WEIGHT_ONE } else { per_token };
        let here = |units: i64| if self.uniform { units } else { units * unit / WEIGHT_ONE };
        let wanted = self.wanted_tokens(view, refill_tokens);
        profile.intercept = -wanted * unit - here(self.reserve.0);
        profile.slope = unit + here(self.reserve.1);
        profile.knots.push(Knot { at_tokens: wanted, weight: unit + here(self.fall) });
        let knots = view.others().zip(self.rises.windows(2)).map(|(level, rises)| Knot {
            at_tokens: (level - own).div_euclid(per_token),
            weight: here(rises[0]) - here(rises[1]),
        });
        profile.knots.extend(knots.filter(|knot| knot.weight > 0));
        let (mut slope, mut before) = (self.reserve.1, here(self.reserve.1));
        for knot in &self.reserve_knots {
            slope -= knot.weight;
            profile.knots.push(Knot { at_tokens: knot.at_tokens, weight: before - here(slope) });
            before = here(slope);
        }
    }
}

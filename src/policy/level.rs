//! level: the rule of our own that predicts nothing.
//!
//! Every full worker grows alike, so growth cancels. A completion takes `s + o` away and the refill brings
//! `s'`; in the long run `E[s']` = `E[s]`, so every completion must lower its worker by `E[o]`. Filling up to
//! the envelope (what F rewards) fights that: it spends the long requests and later lacks them. level aims
//! each worker at one common level instead, `E[o]` below the mean of the others:
//!
//! ```text
//! A_j    = L_j + c_j * mu                     what worker j will hold once its c_j free slots are filled
//! own    = L_x + (c_x - 1) * mu               the load of x, the least-loaded one, without the slot to fill
//! t      = mean_{j != x} A_j - E[o] - own     the length wanted on x
//! cost_i = |s_i - t| + (G - 1) * max(0, own + s_i - max_{j != x} A_j)
//!        - sd * ((p_i / 16 G)^2 + p_i / 20 G)         p_i: how many younger ones have passed it
//! ```
//!
//! Once all slots are filled, each pick is looked at again: what it was chosen for has moved since. Then
//! lengths change places between workers. Where no worker got more than one, they are reassigned: the longest
//! to the worker that lies lowest, for no other order of the same lengths has a lower sum of any convex cost.
//! Where some got more, pairs of picks are swapped, and both is done twice.
//!
//! Where everybody fits and some prefer a worker (prefix affinity, a session), no slot is scarce and only the
//! place is left to choose: then the F-score takes the whole matrix, and a bonus decides among workers that
//! have room below the envelope.
//!
//! With predicted ends it becomes *peak levelling*: `v_j`, the highest that worker `j` climbs above its load
//! before one of its next `K` completions, takes the place of `E[o]`.

use crate::batch::{Batch, WEIGHT_ONE};
use crate::policy::exact::{anticipated_envelope, margin_profile};
use crate::policy::pool_terms::PoolTerms;
use crate::policy::{Parameters, Policy, Recipe, overtaking};
use crate::rule::{Forecast, Needs, Order, PairCost, Plan, ProfileSpec, Repair, Rule, View};
use crate::score::{Knot, Profile};

/// Completions of a worker that predictions must cover to be worth following.
const NEXT_ENDS: usize = 4;
/// Completions of a worker beyond which a prediction says nothing about this refill.
const FURTHEST_ENDS: i64 = 24;

/// Parameters of `level`, `level-exactmatch`, `level-oracle` and `rollout-oracle`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LevelParameters {
    /// Passes of repair over a step's picks, 0..=16; default 2. Where no worker has more than one slot to
    /// fill, one at most: a second changes nothing there (measured).
    pub repair_rounds: u32,
    /// Share of the spread of lengths by which a wanted length may move before the pick is looked at again,
    /// 0..=10; default 0.04 (measured: costs no balance, and saves two searches of three).
    pub repair_tolerance_spread: f64,
    /// Predicted completions per worker looked at by peak levelling, 1..=64; default 16.
    pub ends_per_worker: usize,
    /// Candidates that `rollout-oracle` plays ahead for each slot, 1..=64; default 6.
    pub rollout_candidates: usize,
}

impl Default for LevelParameters {
    fn default() -> Self {
        Self { repair_rounds: 2, repair_tolerance_spread: 0.04, ends_per_worker: 16, rollout_candidates: 6 }
    }
}

setters!(LevelParameters {
    repair_rounds: u32,
    repair_tolerance_spread: f64,
    ends_per_worker: usize,
    rollout_candidates: usize,
});

/// Builds `level` or, with a forecast, peak levelling.
pub(super) fn build(made: Recipe<'_>) -> Box<dyn Policy> {
    let rule = Level::new(made.parameters, made.forecast);
    Box::new(made.policy(rule))
}

/// The rule of level and of peak levelling.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    parameters: LevelParameters,
    max_passed: Option<u32>,
    /// The predicted ends, which are used when the batch has them.
    forecast: Option<Forecast>,
    /// Tokens by which a completion must lower its worker; zero where predicted ends say more, and for a thin
    /// pool.
    drop_tokens: i64,
    /// Tokens that each further free slot is expected to receive; zero for a thin pool, where they stay free.
    refill_tokens: i64,
    /// What the pool adds; nothing for a thin pool, where nothing has ended yet, and with predicted ends.
    terms: PoolTerms,
    /// Whether slots are plenty and only places are chosen.
    pub(crate) places: bool,
}

impl Level {
    pub(crate) fn new(parameters: &Parameters, forecast: Option<Forecast>) -> Self {
        Self {
            parameters: parameters.level,
            max_passed: parameters.max_passed,
            forecast,
            drop_tokens: 0,
            refill_tokens: 0,
            terms: PoolTerms::default(),
            places: false,
        }
    }

    /// Whether at least half of the next few completions that the mean output implies are predicted. Fewer,
    /// or only distant ones, say too little about what a worker will climb, and plain level does better.
    fn knows_next_ends(&self, batch: &Batch<'_>) -> bool {
        let workers = batch.workers();
        let Some(ends) = batch.ends() else {
            let known = workers.iter().filter(|worker| worker.next_completion_steps.is_some()).count();
            return 2 * known >= workers.len();
        };
        let few = self.parameters.ends_per_worker.min(NEXT_ENDS);
        let known: usize = (0..workers.len())
            .map(|g| {
                let soon = steps_for_ends(batch, g, few as i64);
                ends.of(g).iter().take_while(|end| i64::from(end.in_steps) <= soon).count()
            })
            .sum();
        2 * known >= few * workers.len()
    }

    /// How far each worker climbs above its load before one of its next completions.
    fn offset_peaks(&self, batch: &Batch<'_>, load_offsets: &mut [i64]) {
        let traffic = batch.traffic();
        let uniform = batch.is_uniform();
        for (g, (worker, load_offsets)) in batch.workers().iter().zip(load_offsets).enumerate() {
            let growth = i64::from(worker.running) + i64::from(worker.free_slots);
            let furthest = steps_for_ends(batch, g, FURTHEST_ENDS).max(64);
            let single = worker.next_completion_steps.map(i64::from);
            let mut freed = 0;
            let mut peak = i64::MIN;
            let mut see = |steps: i64, tokens: i64| {
                peak = peak.max(growth * steps - freed);
                freed += tokens - traffic.small_prompt_tokens;
            };
            match batch.ends() {
                Some(ends) => {
                    let near = ends.of(g).iter().take_while(|end| i64::from(end.in_steps) <= furthest);
                    for end in near.take(self.parameters.ends_per_worker) {
                        see(i64::from(end.in_steps), end.freed_tokens as i64);
                    }
                }
                None => {
                    if let Some(steps) = single {
                        see(steps, 0);
                    }
                }
            }
            // Nothing predicted to end: it climbs as long as anybody looks.
            let longest = 4 * traffic.mean_output_tokens;
            let tokens = if peak == i64::MIN { longest } else { peak.min(6 * longest) };
            *load_offsets = tokens * if uniform { 1 } else { worker.cost_per_token() };
        }
    }
}

/// Steps in which a worker completes this many requests on average.
fn steps_for_ends(batch: &Batch<'_>, worker: usize, ends: i64) -> i64 {
    let worker = &batch.workers()[worker];
    let slots = i64::from(worker.running) + i64::from(worker.free_slots);
    ends * batch.traffic().mean_output_tokens / slots.max(1)
}

impl Rule for Level {
    fn needs(&self) -> Needs {
        let ends = self.forecast.map(|_| self.parameters.ends_per_worker);
        Needs::new().forecast(self.forecast).ends_per_worker(ends)
    }

    fn begin(&mut self, batch: &Batch<'_>, load_offsets: &mut Vec<i64>) -> Plan {
        let traffic = batch.traffic();
        let uniform = batch.is_uniform();
        let everybody_fits = batch.waiting().len() as u64 <= batch.open_slots();
        self.places = everybody_fits && batch.has_pair_terms();
        let thin = everybody_fits && !self.places;
        let peaks = self.forecast.is_some() && !everybody_fits && self.knows_next_ends(batch);
        self.drop_tokens = if peaks || everybody_fits { 0 } else { traffic.mean_output_tokens };
        if peaks {
            load_offsets.resize(batch.workers().len(), 0);
            self.offset_peaks(batch, load_offsets);
        }
        self.refill_tokens = if everybody_fits { 0 } else { traffic.mean_prompt_tokens };
        let uses_pool = !everybody_fits && !peaks;
        self.terms.begin(batch, uses_pool);
        let one_each = !everybody_fits && !batch.has_several_open();
        // Distances from each worker's wanted level in units of 1 / (G - 1), so that they stay whole.
        let others = batch.workers().len() as i64 - 1;
        let swap = if self.places {
            PairCost::Envelope
        } else {
            PairCost::Level { offset: others * self.drop_tokens, overflow_weight: others * others }
        };
        Plan {
            order: match (self.places, thin) {
                (true, _) => Order::Matrix,
                (_, true) => Order::LongestFirst { fewest_requests: false },
                _ => Order::LeastLoaded,
            },
            nested: false,
            unit: if uniform && !self.terms.are_on() { 1 } else { WEIGHT_ONE },
            age: overtaking::age(batch),
            max_passed: Some(overtaking::max_passed(batch, self.max_passed)),
            refill_tokens: self.refill_tokens,
            envelope_floor: if self.places { anticipated_envelope(batch) } else { 0 },
            follows_levels: self.terms.are_on(),
            follows_envelope: self.places,
            repair: Repair {
                // One is all that pays there (measured on the table of settings).
                rounds: self.parameters.repair_rounds.min(if one_each { 1 } else { u32::MAX }),
                tolerance_tokens: (!self.places).then_some(
                    (self.parameters.repair_tolerance_spread * traffic.sd_prompt_tokens as f64) as i64,
                ),
                swap: uniform.then_some(swap),
                one_each,
            },
            passed_over: None,
        }
    }

    #[inline(always)]
    fn profile(&self, view: &View<'_>, _class: Option<&[f32]>, profile: &mut Profile) {
        if self.places {
            margin_profile(view, profile);
            return;
        }
        let others = view.workers - 1;
        if others == 0 {
            return;
        }
        if self.terms.are_on() {
            self.terms.profile(view, self.refill_tokens, profile);
            return;
        }
        let per_token = view.cost_per_token;
        // The slot that is being filled counts no refill.
        let own = view.anticipated - self.refill_tokens * per_token;
        let wanted = view.others_sum.div_euclid(others) - self.drop_tokens * per_token - own;
        // One token, one unit is the common case: it spares the divisions.
        let tokens = |units: i64| if per_token == 1 { units } else { units.div_euclid(per_token) };
        let wanted_tokens = tokens(wanted);
        profile.intercept = -wanted_tokens * per_token;
        profile.slope = per_token;
        profile.knots.push(Knot { at_tokens: wanted_tokens, weight: 2 * per_token });
        profile.knots.push(Knot { at_tokens: tokens(view.others_max - own), weight: others * per_token });
    }

    fn wanted_tokens(&self, view: &View<'_>) -> Option<i64> {
        self.terms.are_on().then(|| self.terms.wanted_tokens(view, self.refill_tokens))
    }

    fn envelope_weights(&self, workers: i64, steps: usize, weights: &mut Vec<i64>) -> bool {
        weights.push(workers);
        weights.resize(steps + 1, 0);
        self.places
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        if self.places {
            return Some(ProfileSpec::Margin { slope: 1, weight: batch.workers().len() as i64 });
        }
        if self.terms.are_on() {
            return Some(ProfileSpec::Levels(self.terms.spec()));
        }
        Some(ProfileSpec::Level { drop_tokens: self.drop_tokens })
    }
}

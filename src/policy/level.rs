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
//!        - 0.1 * sd * (w_i / W)^2 * min(4, sqrt(N / 32))
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
use crate::policy::fairness::{MeanWait, WaitBound};
use crate::policy::reservation::{ReservationTerms, Reservations};
use crate::policy::{Policy, Recipe};
use crate::rule::{Forecast, Needs, Order, PairCost, Pin, Plan, ProfileSpec, Repair, Rule, View};
use crate::score::{Age, Knot, Profile};

/// The more wait, the closer together their lengths, and the less it costs to prefer the older of two: the
/// root of the pool over 32, at most 4. Past that, in a pool of thousands, age would leave nothing for the
/// lengths to say.
fn pool_factor(waiting: usize) -> f64 {
    (waiting as f64 / 32.0).sqrt().min(4.0)
}

/// Completions of a worker that predictions must cover to be worth following.
const NEXT_ENDS: usize = 4;
/// Completions of a worker beyond which a prediction says nothing about this refill.
const FURTHEST_ENDS: i64 = 24;

/// Parameters of `level`, `level-exactmatch`, `level-oracle` and `rollout-oracle`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LevelParameters {
    /// Share of the spread of lengths that a request gains after one mean wait when 32 wait, 0..=100; it
    /// grows with the square of the wait and the root of the pool. Default 0.1 (measured on the table of
    /// settings and on open traces).
    pub aging_spread: f64,
    /// How long a request may wait.
    pub wait_bound: WaitBound,
    /// Passes of repair over a step's picks, 0..=16; default 2. Where no worker has more than one slot to
    /// fill, one at most: a second changes nothing there (measured).
    pub repair_rounds: u32,
    /// Share of the spread of lengths by which a wanted length may move before the pick is looked at again,
    /// 0..=10; default 0.04 (measured: costs no balance, and saves two searches of three).
    pub repair_tolerance_spread: f64,
    /// Predicted completions per worker looked at by peak levelling, 1..=64; default 16.
    pub ends_per_worker: usize,
    /// Whether requests that have waited for long reserve a worker, off by default: it shortens the longest
    /// waits of heavy tails and costs balance there.
    pub reserve: bool,
    /// Mean waits after which a request reserves, 1..=1e6; default 5 (measured).
    pub reserve_mean_waits: f64,
    /// Mean waits after which it enters its worker's next free slot, 1..=1e6; default 8 (measured).
    pub reserve_enter_mean_waits: f64,
    /// Share of the workers that may be reserved at once, 0..=1, at least one worker; default 0.06
    /// (measured).
    pub reserve_share: f64,
    /// Candidates that `rollout-oracle` plays ahead for each slot, 1..=64; default 6.
    pub rollout_candidates: usize,
}

impl Default for LevelParameters {
    fn default() -> Self {
        Self {
            aging_spread: 0.1,
            wait_bound: WaitBound::default(),
            repair_rounds: 2,
            repair_tolerance_spread: 0.04,
            ends_per_worker: 16,
            reserve: false,
            reserve_mean_waits: 5.0,
            reserve_enter_mean_waits: 8.0,
            reserve_share: 0.06,
            rollout_candidates: 6,
        }
    }
}

setters!(LevelParameters {
    aging_spread: f64,
    wait_bound: WaitBound,
    repair_rounds: u32,
    repair_tolerance_spread: f64,
    ends_per_worker: usize,
    reserve: bool,
    reserve_mean_waits: f64,
    reserve_enter_mean_waits: f64,
    reserve_share: f64,
    rollout_candidates: usize,
});

/// Builds `level` or, with a forecast, peak levelling.
pub(super) fn build(made: Recipe<'_>) -> Box<dyn Policy> {
    let rule = Level::new(made.parameters.level, made.forecast);
    Box::new(made.policy(rule))
}

/// The rule of level and of peak levelling.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    parameters: LevelParameters,
    /// The predicted ends, which are used when the batch has them.
    forecast: Option<Forecast>,
    /// Tokens by which a completion must lower its worker; zero where predicted ends say more, and for a thin
    /// pool.
    drop_tokens: i64,
    /// Tokens that each further free slot is expected to receive; zero for a thin pool, where they stay free.
    refill_tokens: i64,
    /// Whether slots are plenty and only places are chosen.
    pub(crate) places: bool,
    reservations: Reservations,
}

impl Level {
    pub(crate) fn new(parameters: LevelParameters, forecast: Option<Forecast>) -> Self {
        Self {
            parameters,
            forecast,
            drop_tokens: 0,
            refill_tokens: 0,
            places: false,
            reservations: Reservations::default(),
        }
    }

    fn reserve(&mut self, batch: &Batch<'_>, load_offsets: &mut [i64]) {
        let terms = ReservationTerms {
            after_mean_waits: self.parameters.reserve_mean_waits,
            enter_mean_waits: self.parameters.reserve_enter_mean_waits,
            workers_share: self.parameters.reserve_share,
        };
        let workers = batch.workers();
        let refill = |g: usize| i64::from(workers[g].open_slots()) * self.refill_tokens;
        let load = |g: usize| workers[g].load_tokens as i64 + refill(g);
        let sum: i64 = (0..workers.len()).map(load).sum();
        let others = (workers.len() as i64 - 1).max(1);
        let wanted = |g: usize| (sum - load(g)) / others - self.drop_tokens - load(g) + self.refill_tokens;
        self.reservations.begin(batch, &terms, load_offsets, wanted);
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
        if peaks || self.parameters.reserve {
            load_offsets.resize(batch.workers().len(), 0);
        }
        if peaks {
            self.offset_peaks(batch, load_offsets);
        }
        self.refill_tokens = if everybody_fits { 0 } else { traffic.mean_prompt_tokens };
        if self.parameters.reserve {
            self.reserve(batch, load_offsets);
        }
        let wait = MeanWait::of(batch);
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
            unit: if uniform { 1 } else { WEIGHT_ONE },
            age: Age {
                linear: 0.0,
                quadratic: self.parameters.aging_spread
                    * pool_factor(batch.waiting().len())
                    * traffic.sd_prompt_tokens as f64
                    / (wait.steps * wait.steps),
            },
            overdue: wait.overdue(batch, &self.parameters.wait_bound),
            refill_tokens: self.refill_tokens,
            envelope_floor: if self.places { anticipated_envelope(batch) } else { 0 },
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

    fn envelope_weights(&self, workers: i64, steps: usize, weights: &mut Vec<i64>) -> bool {
        weights.push(workers);
        weights.resize(steps + 1, 0);
        self.places
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        if self.places {
            return Some(ProfileSpec::Margin { slope: 1, weight: batch.workers().len() as i64 });
        }
        Some(ProfileSpec::Level { drop_tokens: self.drop_tokens })
    }

    fn pins(&self) -> &[Pin] {
        self.reservations.pins()
    }
}

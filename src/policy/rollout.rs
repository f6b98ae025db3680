//! Rollout: play the predicted completions of the next steps for the best few candidates and admit the one
//! that costs least.
//!
//! Every refill of the played steps follows level on the lengths that wait now; each played step costs its
//! imbalance, and what is left at the end costs the imbalance there for as long as it takes a worker to turn
//! over.

use crate::batch::Batch;
use crate::policy::level::Level;
use crate::policy::{Parameters, Policy, Recipe};
use crate::rule::{Forecast, Needs, Plan, Rule, View};
use crate::score::Profile;

/// Steps played.
const DEPTH_STEPS: u32 = 64;

/// Builds `rollout-oracle`.
pub(super) fn build(made: Recipe<'_>) -> Box<dyn Policy> {
    let rule = Rollout::new(made.parameters, made.forecast);
    Box::new(made.policy(rule))
}

/// The rule of peak levelling with a judge that plays ahead.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    level: Level,
    candidates: usize,
    loads: Vec<i64>,
    next_end: Vec<usize>,
    waiting: Vec<u32>,
}

impl Rollout {
    pub(crate) fn new(parameters: &Parameters, forecast: Option<Forecast>) -> Self {
        Self {
            candidates: parameters.level.rollout_candidates,
            level: Level::new(parameters, forecast),
            loads: Vec::new(),
            next_end: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Sum of the imbalance over the played steps if `worker` receives `tokens` now.
    fn play(&mut self, batch: &Batch<'_>, costs: &[i64], worker: usize, tokens: i64) -> i64 {
        let Some(ends) = batch.ends() else { return 0 };
        let traffic = batch.traffic();
        let workers = costs.len() as i64;
        self.loads.clear();
        self.loads.extend_from_slice(costs);
        self.loads[worker] += tokens;
        self.next_end.clear();
        self.next_end.resize(costs.len(), 0);
        let slots: i64 = batch.workers().iter().map(|w| i64::from(w.running) + i64::from(w.free_slots)).sum();
        let per_worker = (slots / workers).max(1);
        let longest_steps = 4 * traffic.mean_output_tokens / per_worker;
        let mut sum: i64 = self.loads.iter().sum();
        let mut total = 0;
        let mut last = 0;
        for step in 1..=DEPTH_STEPS {
            for (load, w) in self.loads.iter_mut().zip(batch.workers()) {
                let growth = i64::from(w.running) + i64::from(w.free_slots);
                *load += growth;
                sum += growth;
            }
            for x in 0..costs.len() {
                while let Some(end) = ends.of(x).get(self.next_end[x])
                    && end.in_steps <= step
                {
                    self.next_end[x] += 1;
                    self.loads[x] -= end.freed_tokens as i64;
                    sum -= end.freed_tokens as i64;
                    // A completion must lower its worker by what that worker will climb until its next one.
                    let climb = |j: usize| {
                        let next = ends.of(j).get(self.next_end[j]);
                        let steps =
                            next.map_or(longest_steps, |end| i64::from(end.in_steps) - i64::from(step));
                        per_worker * steps.clamp(0, longest_steps)
                    };
                    let others = (workers - 1).max(1);
                    let others_climb: i64 = (0..costs.len()).filter(|&j| j != x).map(climb).sum();
                    let wanted =
                        (sum - self.loads[x] + others_climb).div_euclid(others) - self.loads[x] - climb(x);
                    let at = self.waiting.partition_point(|&length| i64::from(length) < wanted);
                    let above = self.waiting.get(at).map(|&length| i64::from(length));
                    let below = at.checked_sub(1).map(|at| i64::from(self.waiting[at]));
                    let refill = match (below, above) {
                        (Some(low), Some(high)) if wanted - low <= high - wanted => low,
                        (_, Some(high)) => high,
                        (Some(low), None) => low,
                        (None, None) => 0,
                    };
                    self.loads[x] += refill;
                    sum += refill;
                }
            }
            last = workers * self.loads.iter().copied().max().unwrap_or(0) - sum;
            total += last;
        }
        total + last * traffic.mean_output_tokens / per_worker
    }
}

impl Rule for Rollout {
    fn needs(&self) -> Needs {
        self.level.needs()
    }

    fn begin(&mut self, batch: &Batch<'_>, load_offsets: &mut Vec<i64>) -> Plan {
        self.waiting.clear();
        self.waiting.extend_from_slice(batch.waiting().ordered().tokens);
        self.level.begin(batch, load_offsets)
    }

    fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        self.level.profile(view, class, profile);
    }

    fn envelope_weights(&self, workers: i64, steps: usize, weights: &mut Vec<i64>) -> bool {
        self.level.envelope_weights(workers, steps, weights)
    }

    fn candidates(&self) -> usize {
        // Where only places are chosen, nothing is left to play ahead.
        if self.level.places { 1 } else { self.candidates }
    }

    fn judge(
        &mut self,
        batch: &Batch<'_>,
        costs: &[i64],
        _open_slots: &[i64],
        worker: usize,
        tokens: &[i64],
    ) -> usize {
        if batch.ends().is_none() || !batch.is_uniform() {
            return 0;
        }
        (0..tokens.len()).min_by_key(|&at| self.play(batch, costs, worker, tokens[at])).unwrap_or(0)
    }
}

//! What a cluster can serve at most: requests per second of perfect balance.
//!
//! A request of `p` prompt and `o` output tokens runs for `o` steps and has `p + k` KV tokens in the `k`-th,
//! from 0. So over all requests of the source a running one has on average
//!
//! ```text
//! L = sum(o p + o (o - 1) / 2) / sum(o)      KV tokens
//! n = min(B, KV capacity / L)                running requests of a worker
//! T = base + G n (a + b L) / sum(1 / w)      time of a step whose workers are level
//!     + t_p n mean(p) / mean(o)              where prompts are computed on the workers, spread evenly
//! capacity = G n / (mean(o) T)               requests/s, a token of each running request a step
//! ```
//!
//! What preempted requests compute again is not in it, nor what prefix caches save. Requests that fit no
//! worker are left out, also of the rate that is set against it.

use super::scenario::Scenario;
use crate::cost::Prompts;

/// What a cluster can serve at most.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Capacity {
    /// Requests per second.
    pub requests_per_s: f64,
    /// Running requests of a worker: all slots, or as many as its KV cache holds.
    pub running_per_worker: f64,
    /// Share of the requests that fit a worker.
    pub fitting_share: f64,
    /// Mean of the prompts in tokens.
    pub prompt_tokens: f64,
    /// Mean of the outputs in tokens.
    pub output_tokens: f64,
}

impl Capacity {
    /// Of a scenario's cluster under the requests of its source; none where no request fits.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Option<Self> {
        let (mut requests, mut prompts, mut outputs, mut kv_steps) = (0.0, 0.0, 0.0, 0.0);
        let library = scenario.source.library();
        for job in library.iter().filter(|job| scenario.fits(job)) {
            let (prompt, output) = (f64::from(job.prompt_tokens), f64::from(job.output_tokens));
            requests += 1.0;
            prompts += prompt;
            outputs += output;
            kv_steps += output * prompt + output * (output - 1.0) / 2.0;
        }
        if requests == 0.0 {
            return None;
        }
        let kv_tokens = kv_steps / outputs;
        let slots = f64::from(scenario.slots);
        let running = scenario.kv_capacity_tokens.map_or(slots, |kv| slots.min(kv as f64 / kv_tokens));
        let workers = scenario.workers as f64;
        let speed = match scenario.weights.as_slice() {
            [] => workers,
            weights => weights.iter().map(|&weight| 1.0 / f64::from(weight)).sum(),
        };
        let mut step_ms = scenario.cost.level_ms(workers * running, workers * running * kv_tokens, speed);
        if scenario.cost.prompts == Prompts::Worker {
            step_ms += scenario.prefill_us_per_token() * running * prompts / outputs / 1e3;
        }
        Some(Self {
            requests_per_s: 1e3 * workers * running * requests / (outputs * step_ms),
            running_per_worker: running,
            fitting_share: requests / library.len() as f64,
            prompt_tokens: prompts / requests,
            output_tokens: outputs / requests,
        })
    }

    /// Length of a step under a load, 1 for all that can be served: between the step without load and the
    /// full one.
    pub(crate) fn step_ms(&self, scenario: &Scenario, offered_load: f64) -> f64 {
        let running = self.running_per_worker * scenario.workers as f64;
        let full_ms = 1e3 * running / (self.output_tokens * self.requests_per_s);
        let base_ms = scenario.cost.base_ms;
        base_ms + (full_ms - base_ms).max(0.0) * offered_load.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{Source, StepCost};
    use crate::job::Job;
    use crate::traces::Trace;

    fn scenario(jobs: Vec<Job>) -> Scenario {
        Scenario {
            source: Source::Trace(Arc::new(Trace { jobs, ..Trace::default() })),
            workers: 2,
            slots: 4,
            cost: StepCost { base_ms: 5.0, us_per_token: 1000.0, ..StepCost::published(1) },
            ..Scenario::default()
        }
    }

    #[test]
    fn full_slots_and_level_workers_by_hand() {
        // One of 3 steps with 10, 11, 12 tokens, one of 1 with 7: L = 40 / 4.
        let mut scenario = scenario(vec![Job::new(10, 3), Job::new(7, 1)]);
        let capacity = |scenario: &Scenario| Capacity::of(scenario).expect("requests");
        let full = capacity(&scenario);
        // 40 tokens a worker: 45 ms for 8 tokens of output, of which a request has 2.
        approx::assert_abs_diff_eq!(full.requests_per_s, 8.0 / 2.0 / 0.045, epsilon = 1e-9);
        assert_eq!((full.running_per_worker, full.prompt_tokens, full.output_tokens), (4.0, 8.5, 2.0));
        scenario.kv_capacity_tokens = Some(25);
        let bound = capacity(&scenario);
        assert_eq!(bound.running_per_worker, 2.5);
        approx::assert_abs_diff_eq!(bound.requests_per_s, 5.0 / 2.0 / 0.030, epsilon = 1e-9);
        // A worker of half the speed has a third of the 80 tokens.
        (scenario.kv_capacity_tokens, scenario.weights) = (None, vec![1.0, 2.0]);
        let step_s = 0.005 + 0.001 * 80.0 / 1.5;
        approx::assert_abs_diff_eq!(capacity(&scenario).requests_per_s, 4.0 / step_s, epsilon = 1e-9);
        // Half a ms for each of the four, and 17 prompt tokens in 4 steps for each of them.
        (scenario.weights, scenario.cost.us_per_request) = (Vec::new(), 500.0);
        approx::assert_abs_diff_eq!(capacity(&scenario).requests_per_s, 8.0 / 2.0 / 0.047, epsilon = 1e-9);
        scenario.cost.prefill_us_per_token = Some(100.0);
        assert_eq!(capacity(&scenario).requests_per_s, 8.0 / 2.0 / 0.047);
        scenario.cost.prompts = Prompts::Worker;
        approx::assert_abs_diff_eq!(capacity(&scenario).requests_per_s, 8.0 / 2.0 / 0.0487, epsilon = 1e-9);
        // The longer one has 13 tokens at its end.
        (scenario.kv_capacity_tokens, scenario.weights) = (Some(10), Vec::new());
        let half = capacity(&scenario);
        assert_eq!((half.fitting_share, half.prompt_tokens, full.fitting_share), (0.5, 7.0, 1.0));
        scenario.kv_capacity_tokens = Some(3);
        assert_eq!(Capacity::of(&scenario), None);
    }
}

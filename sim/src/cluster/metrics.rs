//! What a run measures. The serialised structs are the JSON contract: names and nesting do not change.

use serde::Serialize;

use crate::cost::{StepCost, WorkerLoad};

/// One policy under one seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Run {
    /// Policy name.
    pub policy: String,
    /// Bonus tokens per cached prefix token; none where prefix caches are left out.
    pub affinity: Option<f64>,
    /// Seed of lengths and arrivals.
    pub seed: u64,
    /// Window of the trace, counted from 0; none where the whole of it is run.
    pub window: Option<u32>,
    /// Decode workers, `G`.
    pub workers: usize,
    /// Batch slots of each worker, `B`.
    pub slots: u32,
    /// Measured steps, warm-up left out.
    pub steps: u64,
    /// Requests that entered, over the whole run: done + waiting + active + lost + refused.
    pub requests_in: u64,
    /// Requests that generated all their tokens, over the whole run.
    pub requests_done: u64,
    /// Requests that wait at the end.
    pub requests_waiting: u64,
    /// Requests that decode at the end.
    pub requests_active: u64,
    /// Requests in none of the other counts; anything but 0 is a bug.
    pub requests_lost: u64,
    /// Requests sent back because no empty worker could ever hold them, over the whole run.
    pub requests_refused: u64,
    /// Evictions from a full KV cache, over the whole run; an evicted request waits again with what is left
    /// of its output.
    pub preemptions: u64,
    /// Evictions per request that ended, both in the measured steps.
    pub preempted_per_finished: f64,
    /// The most admissions, while a request waited, of requests that arrived after it: over the requests that
    /// were admitted in the measured steps or wait at the end. Admissions of one step pass nobody who is
    /// admitted in that step; a preempted request keeps its place and its count.
    pub passed_max: u64,
    /// The most admissions of one step, over the whole run.
    pub admissions_max: u64,
    /// Times that a request which was overdue and fitted nowhere began to claim a worker, over the whole run.
    pub claims: u64,
    /// Admissions meanwhile.
    pub admitted_beside_claims: u64,
    /// Mean of `G * max - sum` of the loads after admission, in tokens (times weight).
    pub imbalance_mean: f64,
    /// Mean of `max - min`, in tokens (times weight).
    pub imbalance_max_min_mean: f64,
    /// Mean of `(max - mean) / max`; 0 for an idle step.
    pub imbalance_norm_mean: f64,
    /// `G * (H_G - 1) * E[output]` with `H_G = 1 + 1/2 + ... + 1/G`, in tokens: about the least mean
    /// imbalance without knowledge of ends.
    pub bound_imbalance: f64,
    /// Tokens generated per simulated second, idle time included.
    pub tokens_per_s: f64,
    /// Requests that ended per simulated second, idle time included.
    pub requests_per_s: f64,
    /// `tokens_per_s` over that of perfect balance on the same loads; idle time left out.
    pub balanced_fraction: f64,
    /// Time per output token in ms of the requests that ended in the measured steps: from first admission to
    /// the last token.
    pub tpot_ms: Latency,
    /// Time to first token in ms of the requests that got it in the measured steps: from arrival to the end
    /// of the step that admitted them.
    pub ttft_ms: Latency,
    /// End-to-end time in ms of the requests that ended in the measured steps: from arrival to the last
    /// token. Those that run when a closed run starts have none.
    pub e2e_ms: Latency,
    /// Waits in steps.
    pub wait_steps: WaitSteps,
    /// Waits in simulated ms, over the admissions of the measured steps.
    pub wait_ms: WaitMs,
    /// Waits of each quarter of the requests by the length of the prompt with which they came, shortest
    /// first; the quarters are those of the whole workload or trace.
    pub wait_by_length: [LengthWaits; 4],
    /// Slots left empty after admission, as a share of all.
    pub empty_slot_fraction: f64,
    /// Prompt tokens of the measured admissions that were cached on their worker, as a share of all.
    pub cached_token_share: Option<f64>,
    /// Wall-clock time of a decision in microseconds, over steps with a free slot and somebody waiting. The
    /// only figures that differ between two runs of the same arguments.
    pub decide_us: DecideUs,
}

impl Run {
    /// Whether there were requests whose times could be measured.
    #[must_use]
    pub fn has_times(&self) -> bool {
        [self.ttft_ms, self.tpot_ms, self.e2e_ms].iter().any(|time| time.mean > 0.0)
    }
}

/// A time of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Waits in steps, from entering to admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WaitSteps {
    /// Mean over the admissions of the measured steps.
    pub mean: f64,
    /// Median of the same.
    pub p50: f64,
    /// 99th percentile of the same.
    pub p99: f64,
    /// Longest of the measured steps, served or still waiting at the end.
    pub max: u64,
    /// Longest of those still waiting at the end.
    pub oldest: u64,
}

/// Waits in simulated ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WaitMs {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Longest, served or still waiting at the end.
    pub max: f64,
}

/// Waits of a quarter of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LengthWaits {
    /// Its longest prompt.
    pub prompt_tokens_up_to: u32,
    /// Admissions of the measured steps.
    pub admissions: u64,
    /// Mean in steps.
    pub steps_mean: f64,
    /// 99th percentile in steps.
    pub steps_p99: f64,
    /// Longest in steps, served or still waiting at the end.
    pub steps_max: u64,
    /// 99th percentile in simulated ms.
    pub ms_p99: f64,
    /// Longest in simulated ms, served or still waiting at the end.
    pub ms_max: f64,
}

/// Wall-clock time of decisions in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DecideUs {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Longest.
    pub max: f64,
}

/// Exact percentiles of a sample, by nearest rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    values: Vec<f64>,
    sorted: bool,
}

impl Sample {
    pub(crate) fn push(&mut self, value: f64) {
        self.values.push(value);
        self.sorted = false;
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn mean(&self) -> f64 {
        if self.values.is_empty() {
            return 0.0;
        }
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }

    /// The least value with at least `share` of the sample at or below it; 0 for an empty sample.
    pub(crate) fn percentile(&mut self, share: f64) -> f64 {
        if !self.sorted {
            self.values.sort_unstable_by(f64::total_cmp);
            self.sorted = true;
        }
        let rank = (share * self.values.len() as f64).ceil().max(1.0) as usize;
        self.values.get(rank - 1).or(self.values.last()).copied().unwrap_or(0.0)
    }

    pub(crate) fn latency(&mut self) -> Latency {
        Latency {
            mean: self.mean(),
            p50: self.percentile(0.5),
            p95: self.percentile(0.95),
            p99: self.percentile(0.99),
        }
    }

    pub(crate) fn wait_ms(&mut self) -> WaitMs {
        WaitMs { mean: self.mean(), p50: self.percentile(0.5), p99: self.percentile(0.99), max: 0.0 }
    }

    pub(crate) fn decide_us(&mut self) -> DecideUs {
        DecideUs { p50: self.percentile(0.5), p99: self.percentile(0.99), max: self.percentile(1.0) }
    }
}

/// Loads and time of the measured steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepSums {
    pub steps: u64,
    pub tokens: u64,
    /// Requests that ended, and evictions.
    pub done: u64,
    pub preempted: u64,
    imbalance: f64,
    max_min: f64,
    norm: f64,
    empty_share: f64,
    busy_ms: f64,
    perfect_ms: f64,
}

impl StepSums {
    /// Adds one step: the loads of all workers after admission, and how many requests run on how many slots.
    /// Returns how long the step lasts in ms.
    pub(crate) fn step(
        &mut self,
        cost: &StepCost,
        loads: impl Iterator<Item = WorkerLoad> + Clone,
        running: u64,
        slots: u64,
    ) -> f64 {
        let (mut sum, mut max, mut min) = (0.0, 0.0f64, f64::INFINITY);
        let (mut tokens, mut speed, mut workers) = (0.0, 0.0, 0.0);
        for load in loads.clone() {
            let weighted = load.tokens * load.weight;
            sum += weighted;
            max = max.max(weighted);
            min = min.min(weighted);
            tokens += load.tokens;
            speed += 1.0 / load.weight;
            workers += 1.0;
        }
        self.steps += 1;
        self.tokens += running;
        self.imbalance += workers * max - sum;
        self.max_min += max - min;
        if max > 0.0 {
            self.norm += (max - sum / workers) / max;
        }
        self.empty_share += (slots - running) as f64 / slots as f64;
        let step_ms = cost.step_ms(loads);
        self.busy_ms += step_ms;
        // Perfect balance gives every worker the same time, so a slow worker fewer tokens.
        self.perfect_ms += cost.level_ms(running as f64, tokens, speed);
        step_ms
    }

    /// Adds the time that prompt tokens took in the last step in ms: on the worker with most of them, and
    /// spread evenly.
    pub(crate) fn prefill(&mut self, most_ms: f64, mean_ms: f64) {
        self.busy_ms += most_ms;
        self.perfect_ms += mean_ms;
    }

    /// Fills in what follows from the steps; `elapsed_ms` includes idle time.
    pub(crate) fn write(&self, elapsed_ms: f64, run: &mut Run) {
        let steps = self.steps.max(1) as f64;
        run.steps = self.steps;
        run.imbalance_mean = self.imbalance / steps;
        run.imbalance_max_min_mean = self.max_min / steps;
        run.imbalance_norm_mean = self.norm / steps;
        run.empty_slot_fraction = self.empty_share / steps;
        let per_s = |count: u64| if elapsed_ms > 0.0 { count as f64 / elapsed_ms * 1e3 } else { 0.0 };
        run.tokens_per_s = per_s(self.tokens);
        run.requests_per_s = per_s(self.done);
        run.preempted_per_finished = self.preempted as f64 / self.done.max(1) as f64;
        run.balanced_fraction = if self.busy_ms > 0.0 { self.perfect_ms / self.busy_ms } else { 1.0 };
    }
}

/// `G * (H_G - 1) * E[output]`.
#[must_use]
pub fn bound_imbalance(workers: usize, mean_output_tokens: f64) -> f64 {
    let harmonic: f64 = (1..=workers).map(|g| 1.0 / g as f64).sum();
    workers as f64 * (harmonic - 1.0) * mean_output_tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut sample = Sample::default();
        assert_eq!((sample.mean(), sample.percentile(0.5)), (0.0, 0.0));
        for value in [5.0, 1.0, 4.0, 2.0, 3.0] {
            sample.push(value);
        }
        assert_eq!(sample.mean(), 3.0);
        for (share, value) in [(0.0, 1.0), (0.2, 1.0), (0.21, 2.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)] {
            assert_eq!(sample.percentile(share), value, "{share}");
        }
        sample.push(0.0);
        assert_eq!(sample.percentile(0.5), 2.0);
    }

    #[test]
    fn the_bound_of_the_published_setting() {
        approx::assert_abs_diff_eq!(bound_imbalance(8, 1251.0), 17_193.0, epsilon = 1.0);
        assert_eq!(bound_imbalance(1, 1251.0), 0.0);
    }

    #[test]
    fn a_slow_worker_should_hold_less() {
        // Weights 1 and 2: 300 tokens are level in time at 200 and 100.
        let cost = StepCost { base_ms: 0.0, us_per_token: 1.0, ..StepCost::published(1) };
        let mut sums = StepSums::default();
        let load = |tokens, weight| WorkerLoad { requests: 1.0, tokens, weight };
        let ms = sums.step(&cost, [load(200.0, 1.0), load(100.0, 2.0)].into_iter(), 2, 4);
        let mut run = Run::default();
        sums.write(ms, &mut run);
        approx::assert_abs_diff_eq!(ms, 0.2, epsilon = 1e-12);
        assert_eq!((run.imbalance_mean, run.imbalance_norm_mean, run.empty_slot_fraction), (0.0, 0.0, 0.5));
        approx::assert_abs_diff_eq!(run.balanced_fraction, 1.0, epsilon = 1e-12);
    }
}

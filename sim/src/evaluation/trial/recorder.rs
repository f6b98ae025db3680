//! What is kept of a run: the times of its requests, and now and then the loads of its workers.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::{Observer, RequestSeen, Run, StepSeen, Window};
use crate::report::folder::{RequestLine, SeriesLine, StepKind};
use crate::report::results::{Limits, OptimumFigures, Replicate};
use crate::traces::Lengths;

/// Requests that are written for each rule of a scenario, about.
const REQUESTS_KEPT: usize = 2_000;
/// Steps that are written for each rule of a scenario, about.
const STEPS_KEPT: f64 = 600.0;
/// Length of the lane, in which every step and every request is written.
const LANE_MS: f64 = 1_000.0;

/// Times of all measured requests of a run, in ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Times {
    pub(super) wait: Vec<f32>,
    pub(super) ttft: Vec<f32>,
    pub(super) tpot: Vec<f32>,
    pub(super) e2e: Vec<f32>,
}

/// What is left of a run.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) figures: Replicate,
    pub(super) decide_us: (f64, f64),
    pub(super) times: Times,
    /// Measured requests, of which every so-manyth is kept.
    pub(super) requests: u64,
    pub(super) every: u64,
    pub(super) lines: Vec<RequestLine>,
    pub(super) series: Vec<SeriesLine>,
    /// Its decisions beside the best of their steps.
    pub(super) optimum: Option<OptimumFigures>,
}

#[derive(Clone, Copy)]
struct Life {
    /// End of the first step after admission; not a number before.
    first_token_ms: f64,
    admissions: u32,
}

pub(super) struct Recorder<'a> {
    /// Ends the run when it is set.
    stop: &'a AtomicBool,
    window: Window,
    limits: Option<Limits>,
    /// Whether loads are kept as well.
    keeps_series: bool,
    lives: Vec<Life>,
    lines: Vec<RequestLine>,
    series: Vec<SeriesLine>,
    next_sample_ms: f64,
    measured_steps: u64,
    idle_slots: f64,
    slots: u64,
}

/// In microseconds of a long run, not in digits that only a float has.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

impl<'a> Recorder<'a> {
    pub(super) fn new(
        stop: &'a AtomicBool,
        window: Window,
        limits: Option<Limits>,
        slots: u64,
        keeps_series: bool,
    ) -> Self {
        Self {
            stop,
            window,
            limits,
            keeps_series,
            lives: Vec::new(),
            lines: Vec::new(),
            series: Vec::new(),
            next_sample_ms: window.from_ms,
            measured_steps: 0,
            idle_slots: 0.0,
            slots,
        }
    }

    fn lane_ms(&self) -> (f64, f64) {
        let middle = (self.window.from_ms + self.window.to_ms) / 2.0;
        (middle, (middle + LANE_MS).min(self.window.to_ms))
    }

    fn keep(&mut self, step: &StepSeen<'_>) {
        let greatest = step.loads.iter().copied().max().unwrap_or(0);
        let line = |kind| SeriesLine {
            kind,
            step: step.step,
            t_ms: rounded(step.from_ms),
            step_ms: rounded(step.to_ms - step.from_ms),
            loads: step.loads.to_vec(),
            imbalance: step.loads.iter().map(|load| (greatest - load) as f64).sum(),
            running: step.running,
            waiting: step.waiting,
        };
        if step.from_ms >= self.next_sample_ms {
            self.series.push(line(StepKind::Sample));
            let every_ms = (self.window.to_ms - self.window.from_ms) / STEPS_KEPT;
            // Idle time and long steps leave moments out.
            let passed = ((step.from_ms - self.next_sample_ms) / every_ms).floor() + 1.0;
            self.next_sample_ms += passed * every_ms;
        }
        let (from_ms, to_ms) = self.lane_ms();
        if (from_ms..to_ms).contains(&step.from_ms) {
            self.series.push(line(StepKind::Lane));
        }
    }

    /// The figures, and a sample of the requests: about so many of each of the replicates of a rule.
    pub(super) fn outcome(mut self, run: &Run, replicate: u32, replicates: u64) -> Outcome {
        self.lines.sort_unstable_by_key(|line| line.id);
        let (mut times, mut within) = (Times::default(), 0u64);
        for line in self.lines.iter().filter(|line| line.sampled) {
            let ttft = line.first_token_ms - line.arrived_ms;
            let tpot = (line.ended_ms - line.admitted_ms) / f64::from(line.output);
            let e2e = line.ended_ms - line.arrived_ms;
            within += u64::from(self.limits.is_some_and(|limits| limits.keeps(ttft, tpot, e2e)));
            times.wait.push((line.admitted_ms - line.arrived_ms) as f32);
            times.ttft.push(ttft as f32);
            times.tpot.push(tpot as f32);
            times.e2e.push(e2e as f32);
        }
        let requests = times.wait.len() as u64;
        let ttft = Lengths::of(times.ttft.iter().map(|&ms| f64::from(ms)));
        let window_s = (self.window.to_ms - self.window.from_ms) / 1e3;
        let figures = Replicate {
            replicate,
            seeds: 1,
            tokens_per_s: run.tokens_per_s,
            requests_per_s: run.requests_per_s,
            imbalance_tokens: run.imbalance_mean,
            wait_mean_ms: run.wait_ms.mean,
            wait_p99_ms: run.wait_ms.p99,
            ttft_mean_ms: ttft.mean,
            ttft_p99_ms: ttft.p99,
            tpot_mean_ms: run.tpot_ms.mean,
            tpot_p99_ms: run.tpot_ms.p99,
            empty_slots: self.idle_slots / self.measured_steps.max(1) as f64,
            preempted: run.preempted_per_finished,
            goodput_requests_per_s: self.limits.map(|_| within as f64 / window_s),
            within_slo: self.limits.map(|_| within as f64 / requests.max(1) as f64),
            balanced: run.balanced_fraction,
            requests: requests as f64,
            refused: run.requests_refused as f64,
        };
        let kept = (REQUESTS_KEPT / replicates.max(1) as usize).max(1) as u64;
        let every = requests.div_ceil(kept).max(1);
        let mut rank = 0;
        self.lines.retain_mut(|line| {
            if line.sampled {
                line.sampled = rank % every == 0;
                rank += 1;
            }
            line.sampled || line.lane
        });
        Outcome {
            figures,
            decide_us: (run.decide_us.p50, run.decide_us.p99),
            times,
            requests,
            every,
            lines: self.lines,
            series: self.series,
            optimum: None,
        }
    }
}

impl Observer for Recorder<'_> {
    fn step(&mut self, step: StepSeen<'_>) {
        for &(id, _) in step.admissions {
            if self.lives.len() <= id as usize {
                self.lives.resize(id as usize + 1, Life { first_token_ms: f64::NAN, admissions: 0 });
            }
            let life = &mut self.lives[id as usize];
            life.admissions += 1;
            if life.admissions == 1 {
                life.first_token_ms = step.to_ms;
            }
        }
        if step.measured {
            self.measured_steps += 1;
            let free = self.slots.saturating_sub(step.running);
            self.idle_slots += free.min(step.waiting) as f64 / self.slots as f64;
            if self.keeps_series {
                self.keep(&step);
            }
        }
    }

    fn ended(&mut self, request: RequestSeen) {
        let (lane_from_ms, lane_to_ms) = self.lane_ms();
        let lane = self.keeps_series && request.admitted_ms < lane_to_ms && request.ended_ms > lane_from_ms;
        let Some(life) = self.lives.get(request.id as usize) else { return };
        if request.measured || lane {
            self.lines.push(RequestLine {
                id: request.id,
                prompt: request.prompt_tokens,
                output: request.output_tokens,
                arrived_ms: rounded(request.arrived_ms),
                admitted_ms: rounded(request.admitted_ms),
                first_token_ms: rounded(life.first_token_ms),
                ended_ms: rounded(request.ended_ms),
                worker: request.worker,
                preempted: life.admissions - 1,
                sampled: request.measured,
                lane,
            });
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

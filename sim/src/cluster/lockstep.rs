//! A lock-step cluster around a [`Router`]: one run of one policy under one seed.
//!
//! A step: requests arrive, the router admits, the step lasts as long as its heaviest worker (and as the
//! prefill that a worker has to do, [`super::prefill`]), every running request has a token more, and those
//! that have generated all their tokens leave. Then a worker whose KV cache overflows gives its newest
//! requests back to the pool. Nobody but the oracle is told how long an output will be.
//!
//! # The start of a closed run
//! A cluster that starts empty is far from its steady state for several residence times: everybody enters at
//! once and has the same age. So every slot is filled before the first step with a request that already runs,
//! drawn as in a stationary system: in proportion to its output length (long requests are found running more
//! often) at an age uniform over that output. They are placed in random order, for a policy that binds on
//! arrival wherever a slot is free (its steady state is not level, and levelling would flatter it), for all
//! others on the least loaded worker. The pool starts with fresh requests. [`super::Scenario::cold_start`]
//! starts empty instead.

#[cfg(test)]
mod identity;
mod start;
#[cfg(test)]
mod tests;
mod told;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use balanceroute::batch::{BatchError, Request};
use balanceroute::forecast::{Noise, Oracle, classifier_for};
use balanceroute::policy::Forecast;
use balanceroute::router::{PreemptionCost, Router, RouterConfig, RouterError, WorkerConfig};

use super::binding::Binding;
use super::latency::Latencies;
use super::library::Library;
use super::metrics::{Run, Sample, StepSums, bound_imbalance};
use super::observer::{Observer, RequestSeen, StepSeen};
use super::overtaking::Overtaking;
use super::prefill::Prefill;
use super::prefix::Prefixes;
use super::scenario::Scenario;
use super::source::{Arrivals, RequestSource};
use super::timetable::{Arrival, Timetable};
use super::waits::{WaitBook, quarter_of};
use super::window::Window;
use crate::cost::{Prompts, WorkerLoad};
use crate::error::SimError;
use crate::job::Job;
use crate::rules::{Rule, Setup};

/// Steps between two predictions for the same running request.
const REFRESH_STEPS: u32 = 16;
/// A run in which nothing runs and nothing is admitted for this many steps has come to a halt.
const STUCK_STEPS: u64 = 100_000;

/// The two ways in which requests come.
enum Inflow {
    Closed(RequestSource),
    Open(Box<Timetable>),
}

/// A request in the simulated world; its id is its index.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// KV tokens that it brings to its (next) admission.
    prompt_tokens: u32,
    /// Tokens still to be generated as of that admission.
    output_tokens: u32,
    /// Tokens generated in this run before that admission.
    generated_before: u32,
    /// Quarter of the source by the prompt with which it came.
    quarter: u8,
    /// It has been evicted: its next admission computes its whole prompt again.
    evicted: bool,
    arrived_ms: f64,
    /// Step at which it began to wait (again).
    waits_since: u64,
    waits_since_ms: f64,
    /// First admission; negative before it.
    admitted_ms: f64,
    admitted_step: u64,
    /// It ran when the run began.
    adopted: bool,
    /// Last step of its output while it runs.
    ends_step: u64,
    worker: u32,
    running: bool,
    /// Row of the trace whose followers wait for it.
    row: Option<u32>,
}

impl Life {
    fn seen(&self, id: u64, now_ms: f64, measured: bool) -> RequestSeen {
        RequestSeen {
            id,
            prompt_tokens: self.prompt_tokens - self.generated_before,
            output_tokens: self.generated_before + self.output_tokens,
            worker: self.worker,
            arrived_ms: self.arrived_ms,
            admitted_ms: self.admitted_ms,
            ended_ms: now_ms,
            measured,
        }
    }
}

pub(crate) struct Cluster<'a> {
    scenario: &'a Scenario,
    router: Router,
    /// Where the router does not choose the ranks of requests that arrive.
    binding: Option<Binding>,
    inflow: Inflow,
    weights: Vec<f64>,
    lives: Vec<Life>,
    loads: Vec<u64>,
    /// Running requests of each worker, in order of admission.
    residents: Vec<Vec<u64>>,
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    admissions: Vec<(u64, u32)>,
    prefixes: Option<Prefixes>,
    prefill: Prefill,
    overtaking: Overtaking,
    quartiles: [u32; 4],
    /// Ends that the router has not heard of yet, and when it does.
    unheard: VecDeque<(f64, u64)>,
    hears_late: bool,
    window: Option<Window>,
    /// Requests that arrived in the window and have not ended.
    window_open: u64,
    step: u64,
    now_ms: f64,
    waiting: u64,
    active: u64,
    halted_steps: u64,
    /// Whether this step is measured.
    measured: bool,
    measured_from_ms: f64,
    sums: StepSums,
    latencies: Latencies,
    waits: WaitBook,
    decide_us: Sample,
    run: Run,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(
        scenario: &'a Scenario,
        library: &Library,
        rule: impl Into<Rule>,
        affinity: Option<f64>,
        seed: u64,
        window: Option<u32>,
    ) -> Result<Self, SimError> {
        let Rule { name, policy, chooser } = rule.into();
        let needs = policy.needs();
        let noise = Noise { seed, ..scenario.noise };
        let classifier = needs.forecast.map(|forecast| match forecast {
            Forecast::Oracle if scenario.noise != Noise::NONE => Box::new(Oracle::noisy(noise)),
            forecast => classifier_for(forecast),
        });
        let worker = WorkerConfig::new(scenario.slots).capacity(scenario.kv_capacity_tokens);
        let mut config = RouterConfig::uniform(scenario.workers, worker)
            .headroom_steps(scenario.headroom_steps)
            .preemption_cost(PreemptionCost::new(scenario.cost.base_ms, scenario.prefill_us_per_token()))
            .refresh_steps(REFRESH_STEPS);
        if !scenario.weights.is_empty() && scenario.weights.len() != scenario.workers {
            let (expected, found) = (scenario.workers, scenario.weights.len());
            return Err(RouterError::from(BatchError::Length { what: "weights", expected, found }).into());
        }
        for (worker, &weight) in config.workers.iter_mut().zip(&scenario.weights) {
            worker.weight = weight;
        }
        let span =
            window.and_then(|at| Window::new(&scenario.source, scenario.arrivals, at, scenario.windows));
        let inflow = match scenario.arrivals {
            Arrivals::Closed => Inflow::Closed(RequestSource::new(&scenario.source, seed, false)),
            arrivals => Inflow::Open(Box::new(Timetable::new(&scenario.source, arrivals, seed, span))),
        };
        let weights = match scenario.weights.as_slice() {
            [] => vec![1.0; scenario.workers],
            weights => weights.iter().map(|&weight| f64::from(weight)).collect(),
        };
        // A rank admits its own queue, and needs to hear of nothing.
        let hears_late = scenario.stats_late_ms > 0.0 && !needs.binds_on_arrival && chooser.is_none();
        let setup = Setup::of(scenario, &weights, affinity.is_some(), seed);
        let run = Run {
            policy: name.to_owned(),
            affinity,
            seed,
            window,
            workers: scenario.workers,
            slots: scenario.slots,
            bound_imbalance: bound_imbalance(scenario.workers, library.mean_output()),
            ..Run::default()
        };
        let mut cluster = Self {
            scenario,
            router: Router::with_policy(config, policy, classifier)?,
            binding: chooser.map(|make| Binding::new(make(&setup), scenario.workers, scenario.stats_late_ms)),
            inflow,
            weights,
            lives: Vec::new(),
            loads: vec![0; scenario.workers],
            residents: vec![Vec::new(); scenario.workers],
            ends: BinaryHeap::new(),
            admissions: Vec::new(),
            prefixes: affinity.map(|weight| {
                let block_tokens = scenario.source.block_tokens();
                Prefixes::new(scenario.prefix, block_tokens, weight, scenario.workers)
            }),
            prefill: Prefill::new(scenario.prefill_us_per_token(), scenario.workers),
            overtaking: Overtaking::default(),
            quartiles: library.quartiles,
            unheard: VecDeque::new(),
            hears_late,
            window: span,
            window_open: 0,
            step: 0,
            now_ms: 0.0,
            waiting: 0,
            active: 0,
            halted_steps: 0,
            measured: false,
            measured_from_ms: 0.0,
            sums: StepSums::default(),
            latencies: Latencies::default(),
            waits: WaitBook::default(),
            decide_us: Sample::default(),
            run,
        };
        if matches!(cluster.inflow, Inflow::Closed(_)) && !scenario.cold_start {
            let at_random = needs.binds_on_arrival || cluster.binding.is_some();
            cluster.warm_start(library, seed, at_random)?;
        }
        Ok(cluster)
    }

    /// Runs it and shows every step and every request that ends.
    pub(crate) fn run_seen(mut self, observer: &mut impl Observer) -> Result<Run, SimError> {
        self.router.set_explaining(observer.asks_why());
        let last_step = self.scenario.steps.map(|steps| self.scenario.warmup.saturating_add(steps));
        while last_step.is_none_or(|last| self.step < last) {
            if self.step == self.scenario.warmup && self.sums.steps == 0 {
                self.measured_from_ms = self.now_ms;
            }
            if !observer.goes_on() {
                return Err(SimError::Interrupted);
            }
            if !self.play_step(observer)? {
                break;
            }
        }
        Ok(self.close())
    }

    /// One step; false when the run is over.
    fn play_step(&mut self, observer: &mut impl Observer) -> Result<bool, SimError> {
        if !self.arrive()? || self.window_is_over() {
            return Ok(false);
        }
        self.measured = self.step >= self.scenario.warmup
            && self.window.is_none_or(|window| window.contains(self.now_ms));
        observer.decides(&self.router);
        self.admit()?;
        observer.decided(&self.router);
        self.decode(observer)?;
        Ok(true)
    }

    /// The window lies behind, and everybody who arrived in it has finished.
    fn window_is_over(&self) -> bool {
        self.window_open == 0 && self.window.is_some_and(|window| self.now_ms >= window.to_ms)
    }

    /// Whether what happens to a request now is measured: in the measured steps, or to who arrived in the
    /// window.
    fn counts(&self, arrived_ms: f64) -> bool {
        self.window.map_or(self.measured, |window| window.contains(arrived_ms))
    }

    /// Takes in what has arrived; false when an open run is over.
    fn arrive(&mut self) -> Result<bool, SimError> {
        match &mut self.inflow {
            Inflow::Closed(_) => {
                let mut refused = 0;
                while self.waiting < self.scenario.pool as u64 {
                    let Inflow::Closed(requests) = &mut self.inflow else { break };
                    let job = requests.draw(self.step, self.step >= self.scenario.middle_step());
                    if self.enter(&job, self.now_ms, None)? {
                        refused = 0;
                    } else {
                        refused += 1;
                        if refused >= STUCK_STEPS {
                            return Err(SimError::NothingFits {
                                source_name: self.scenario.source.name().to_owned(),
                            });
                        }
                    }
                }
                Ok(true)
            }
            Inflow::Open(_) => loop {
                let Inflow::Open(timetable) = &mut self.inflow else { return Ok(false) };
                if let Some(Arrival { job, at_ms, row }) = timetable.pop(self.now_ms, self.step) {
                    if !self.enter(&job, at_ms, row)? {
                        self.ended(row, at_ms);
                    }
                } else if self.waiting + self.active > 0 {
                    return Ok(true);
                } else if let Some(next_ms) = timetable.next_ms() {
                    // Nobody is here: time passes without a step.
                    self.now_ms = next_ms;
                } else {
                    return Ok(false);
                }
            },
        }
    }

    /// A request enters and waits; false when it is sent back because it could never run.
    fn enter(&mut self, job: &Job, at_ms: f64, row: Option<u32>) -> Result<bool, SimError> {
        self.run.requests_in += 1;
        if !self.scenario.fits(job) {
            self.run.requests_refused += 1;
            return Ok(false);
        }
        let id = self.lives.len() as u64;
        self.router.tell_length(id, job.output_tokens);
        let request = Request::new(id, job.prompt_tokens).hash(job.prompt_hash);
        let quarter = quarter_of(&self.quartiles, job.prompt_tokens);
        let rank = self.binding.as_mut().map(|binding| binding.arrives(self.now_ms, id, job, quarter));
        self.router.enqueue(request.deadline(self.scenario.deadline_steps).rank(rank), None)?;
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.entered(job);
        }
        self.begin_life(job, at_ms, row);
        self.lives[id as usize].worker = rank.unwrap_or(0);
        self.waiting += 1;
        if self.window.is_some_and(|window| window.contains(at_ms)) {
            self.window_open += 1;
        }
        Ok(true)
    }

    /// The next request in order of arrival.
    fn begin_life(&mut self, job: &Job, at_ms: f64, row: Option<u32>) {
        self.overtaking.arrived();
        self.lives.push(Life {
            prompt_tokens: job.prompt_tokens,
            output_tokens: job.output_tokens,
            generated_before: 0,
            quarter: quarter_of(&self.quartiles, job.prompt_tokens),
            evicted: false,
            arrived_ms: at_ms,
            waits_since: self.step,
            waits_since_ms: at_ms,
            admitted_ms: -1.0,
            admitted_step: 0,
            adopted: false,
            ends_step: 0,
            worker: 0,
            running: false,
            row,
        });
    }

    /// Turns that wait for the request of this row are due.
    fn ended(&mut self, row: Option<u32>, now_ms: f64) {
        if let (Inflow::Open(timetable), Some(row)) = (&mut self.inflow, row) {
            timetable.ended(row, now_ms);
        }
    }

    /// The rest of a step, once it has admitted.
    fn decode(&mut self, observer: &mut impl Observer) -> Result<(), SimError> {
        let from_ms = self.now_ms;
        let slots = self.scenario.workers as u64 * u64::from(self.scenario.slots);
        let loads = WorkerLoad::of_all(&self.loads, &self.residents, &self.weights);
        let step_ms = if self.measured {
            self.sums.step(&self.scenario.cost, loads, self.active, slots)
        } else {
            self.scenario.cost.step_ms(loads)
        };
        self.now_ms += step_ms;
        let (most_ms, mean_ms) = self.prefill.take_ms();
        self.now_ms += most_ms;
        if self.measured {
            self.sums.prefill(most_ms, mean_ms);
        }
        for &(id, _) in &self.admissions {
            let Life { arrived_ms, evicted, .. } = self.lives[id as usize];
            if !evicted && self.counts(arrived_ms) {
                self.latencies.began(self.now_ms - arrived_ms);
            }
        }
        observer.step(StepSeen {
            step: self.step,
            from_ms,
            to_ms: self.now_ms,
            loads: &self.loads,
            admissions: &self.admissions,
            running: self.active,
            waiting: self.waiting,
            measured: self.measured,
        });
        self.router.advance();
        if let Some(binding) = &mut self.binding {
            binding.stepped(step_ms + most_ms);
        }
        for (load, residents) in self.loads.iter_mut().zip(&self.residents) {
            *load += residents.len() as u64;
        }
        self.finish(observer)?;
        self.evict()?;
        self.step += 1;
        Ok(())
    }

    fn admit(&mut self) -> Result<(), SimError> {
        let slots = self.scenario.workers as u64 * u64::from(self.scenario.slots);
        let decides = self.waiting > 0 && self.active < slots;
        self.rebind()?;
        self.hear()?;
        let start = Instant::now();
        let now_ms = self.now_ms as u64;
        let plan = match &mut self.prefixes {
            Some(prefixes) => self.router.step_with(now_ms, prefixes)?,
            None => self.router.step(now_ms)?,
        };
        let took_us = start.elapsed().as_secs_f64() * 1e6;
        self.admissions.clear();
        self.admissions.extend(plan.admissions.iter().map(|dispatch| (dispatch.id.0, dispatch.worker.0)));
        if decides && self.measured {
            self.decide_us.push(took_us);
        }
        self.overtaking.admitted(self.admissions.iter().map(|&(id, _)| id));
        for at in 0..self.admissions.len() {
            let (id, worker) = self.admissions[at];
            let life = self.lives[id as usize];
            self.waiting -= 1;
            let counts = self.counts(life.arrived_ms);
            if counts {
                let waited_ms = self.now_ms - life.waits_since_ms;
                self.waits.admitted(life.quarter, self.step - life.waits_since, waited_ms);
                self.run.passed_max = self.run.passed_max.max(self.overtaking.passed_before(id));
            }
            let computed = match &mut self.prefixes {
                Some(prefixes) => prefixes.admitted(id, life.prompt_tokens, worker, counts),
                None if life.evicted || self.scenario.cost.prompts == Prompts::Worker => {
                    u64::from(life.prompt_tokens)
                }
                None => 0,
            };
            self.prefill.add(worker, computed);
            if let Some(binding) = &mut self.binding {
                binding.admitted(id, life.prompt_tokens, worker);
            }
            self.place(id, worker);
        }
        if let Some(binding) = &mut self.binding {
            binding.begins(self.now_ms);
        }
        let halted = self.active == 0 && self.waiting > 0;
        self.halted_steps = if halted { self.halted_steps + 1 } else { 0 };
        if self.halted_steps >= STUCK_STEPS {
            return Err(SimError::Halted { policy: self.run.policy.clone(), waiting: self.waiting });
        }
        Ok(())
    }

    /// The request runs on the worker from this step on.
    fn place(&mut self, id: u64, worker: u32) {
        let life = &mut self.lives[id as usize];
        if life.admitted_ms < 0.0 {
            life.admitted_ms = self.now_ms;
        }
        life.admitted_step = self.step;
        life.ends_step = self.step + u64::from(life.output_tokens) - 1;
        life.worker = worker;
        life.running = true;
        self.ends.push(Reverse((life.ends_step, id)));
        self.loads[worker as usize] += u64::from(life.prompt_tokens);
        self.residents[worker as usize].push(id);
        self.active += 1;
    }

    fn finish(&mut self, observer: &mut impl Observer) -> Result<(), SimError> {
        while let Some(&Reverse((ends_step, id))) = self.ends.peek() {
            if ends_step > self.step {
                break;
            }
            self.ends.pop();
            let life = self.lives[id as usize];
            // An eviction leaves the old end behind in the heap.
            if !life.running || life.ends_step != ends_step {
                continue;
            }
            if self.hears_late {
                self.unheard.push_back((self.now_ms + self.scenario.stats_late_ms, id));
            } else {
                self.router.finish(id, None)?;
            }
            self.lives[id as usize].running = false;
            let residents = &mut self.residents[life.worker as usize];
            residents.retain(|&other| other != id);
            self.loads[life.worker as usize] -= u64::from(life.prompt_tokens) + u64::from(life.output_tokens);
            if let Some(binding) = &mut self.binding {
                let output_tokens = life.generated_before + life.output_tokens;
                let kv_tokens = u64::from(life.prompt_tokens) + u64::from(life.output_tokens);
                binding.ended(id, life.worker, kv_tokens, output_tokens);
            }
            self.active -= 1;
            self.run.requests_done += 1;
            self.sums.done += u64::from(self.measured);
            let Life { arrived_ms, row, adopted, .. } = life;
            let seen = life.seen(id, self.now_ms, self.counts(arrived_ms));
            if seen.measured {
                let since_arrival_ms = (!adopted).then_some(self.now_ms - arrived_ms);
                self.latencies.ended(seen.per_token_ms(), since_arrival_ms);
            }
            observer.ended(seen);
            if self.window.is_some_and(|window| window.contains(arrived_ms)) {
                self.window_open -= 1;
            }
            self.ended(row, self.now_ms);
        }
        Ok(())
    }

    /// Frees overfull KV caches: the newest request of the worker goes back to the pool. The oldest stays, so
    /// the worker moves on.
    fn evict(&mut self) -> Result<(), SimError> {
        let Some(capacity) = self.scenario.kv_capacity_tokens else { return Ok(()) };
        for worker in 0..self.loads.len() {
            while self.loads[worker] > capacity {
                let Some(id) = self.residents[worker].pop() else { break };
                let again = self.router.preempt(id)?;
                let life = &mut self.lives[id as usize];
                let generated = (self.step + 1 - life.admitted_step) as u32;
                self.loads[worker] -= u64::from(life.prompt_tokens) + u64::from(generated);
                life.prompt_tokens += generated;
                life.output_tokens -= generated;
                self.router.tell_length(id, life.output_tokens);
                self.router.enqueue(again, None)?;
                if let Some(binding) = &mut self.binding {
                    binding.preempted(id, worker as u32, life.prompt_tokens);
                }
                life.generated_before += generated;
                life.evicted = true;
                life.waits_since = self.step + 1;
                life.waits_since_ms = self.now_ms;
                life.running = false;
                self.active -= 1;
                self.waiting += 1;
                self.overtaking.waits_again(id);
                self.run.preemptions += 1;
                self.sums.preempted += u64::from(self.measured);
            }
        }
        Ok(())
    }

    fn close(mut self) -> Run {
        let mut run = self.run;
        // Who waits is the router's word, not our own count: a request that it forgot shows up as lost.
        let waiting: Vec<u64> = self.router.pool().iter().map(|(request, _)| request.id.0).collect();
        run.requests_waiting = waiting.len() as u64;
        run.requests_active = self.residents.iter().map(|residents| residents.len() as u64).sum();
        let known = run.requests_done + run.requests_refused + run.requests_waiting + run.requests_active;
        run.requests_lost = run.requests_in.saturating_sub(known);
        for id in waiting {
            let Some(life) = self.lives.get(id as usize) else { continue };
            if self.window.is_none_or(|window| window.contains(life.arrived_ms)) {
                let steps = self.step.saturating_sub(life.waits_since);
                self.waits.waiting(life.quarter, steps, self.now_ms - life.waits_since_ms);
                run.passed_max = run.passed_max.max(self.overtaking.passed(id));
            }
        }
        run.admissions_max = self.overtaking.most_admissions();
        let counters = self.router.counters();
        (run.claims, run.admitted_beside_claims) = (counters.claims, counters.admitted_beside_claims);
        let elapsed_ms =
            self.window.map_or(self.now_ms - self.measured_from_ms, |window| window.to_ms - window.from_ms);
        self.sums.write(elapsed_ms, &mut run);
        self.latencies.write(&mut run);
        self.waits.write(&self.quartiles, &mut run);
        run.cached_token_share = self.prefixes.as_ref().map(Prefixes::cached_share);
        run.decide_us = self.decide_us.decide_us();
        run
    }
}

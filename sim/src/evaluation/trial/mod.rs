//! `evaluate`: rules beside one another on the same arrivals, from the rate that a trace has to beyond what
//! the cluster can serve.
//!
//! A replicate is a window of a trace, or a draw of a source without times. Every rule plays the same
//! replicates, and what is said of a rule is said of its differences to the first, replicate by replicate.
//! Runs are played scenario by scenario, and what is done is written: somebody who ends a long evaluation has
//! the scenarios that were done, and the replicates of the one that was not.

mod gate;
pub(super) mod inference;
mod largest_rate;
mod limits;
mod plan;
mod rate;
mod recorder;
mod sources;
mod summary;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use gate::Gate;
use indicatif::ProgressBar;
use largest_rate::largest_rates;
use plan::{ClusterOf, Prepared};
pub use plan::{CostOf, Plan, TrialSource, rules};
pub use rate::RateAsked;
use rayon::iter::{ParallelBridge, ParallelIterator};
use recorder::{Outcome, Recorder};
use summary::RuleOutcomes;
pub(super) use summary::beside_first;

use super::optimum::{MOST_PAIRS, Sampler};
use super::progress::{Ticks, steps_bar};
use crate::cluster::{Cluster, Window};
use crate::error::{SimError, argument};
use crate::report::folder::Folder;
use crate::report::results::{MetricEntry, Results, SCHEMA, ScenarioEntry};
use crate::report::verdict;

/// How a plan is played.
pub struct Playing<'a> {
    /// Where results go as they come.
    pub folder: Option<&'a Folder>,
    /// Runs at a time; 0 for one per processor. No result depends on it.
    pub threads: usize,
    /// Ends the evaluation when it is set: what is done is kept.
    pub stop: &'a AtomicBool,
    /// Draw a bar on stderr when that is a terminal.
    pub progress: bool,
    /// The command, to be written.
    pub command: String,
    /// Whether the defaults are those of a quick look, to be written.
    pub quick: bool,
}

/// One run.
#[derive(Clone, Copy)]
struct Task {
    scenario: usize,
    replicate: u32,
    rule: usize,
    seed: u64,
}

/// The runs of a scenario so far, by rule, replicate and seed.
struct Pending {
    rules: Vec<RuleOutcomes>,
    left: u64,
}

impl Pending {
    fn new(prepared: &Prepared, rules: usize) -> Self {
        let replicates = prepared.replicates as usize;
        let seeds = prepared.seeds as usize;
        let empty = || (0..replicates).map(|_| (0..seeds).map(|_| None).collect()).collect();
        Self {
            rules: (0..rules).map(|_| empty()).collect(),
            left: rules as u64 * u64::from(prepared.replicates) * prepared.seeds,
        }
    }

    fn has_begun(&self) -> bool {
        self.rules.iter().flatten().flatten().any(Option::is_some)
    }
}

struct Evaluation<'a> {
    plan: &'a Plan,
    playing: &'a Playing<'a>,
    pool: rayon::ThreadPool,
    prepared: Vec<Prepared>,
    pending: Vec<Mutex<Pending>>,
    bar: ProgressBar,
    begun: Instant,
    results: Mutex<Results>,
    /// The first task, in their order, that could not go on.
    failed: Mutex<Option<(usize, SimError)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two rates that lie closer together than this share of the capacity have none between them.
const FINEST: f64 = 0.015;

/// Time to solve a decision, after which it counts as unsolved.
const DECISION_LIMIT: Duration = Duration::from_secs(2);

/// Plays the plan. Interrupted, the results say that they are not complete.
///
/// # Errors
/// Arguments that cannot be used, a run that cannot go on, or results that cannot be written.
pub fn evaluate(plan: &Plan, playing: &Playing<'_>) -> Result<Results, SimError> {
    let begun = Instant::now();
    let prepared = plan.scenarios()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(playing.threads).build();
    let mut evaluation = Evaluation {
        plan,
        playing,
        pool: pool.map_err(|error| argument("threads", "as many as can be started", error))?,
        prepared: Vec::new(),
        pending: Vec::new(),
        bar: steps_bar(playing.progress),
        begun,
        results: Mutex::new(Results {
            schema: SCHEMA,
            program: "balanceroute".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: playing.command.clone(),
            started: jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
            elapsed_s: 0.0,
            complete: false,
            runs_done: 0,
            runs_planned: 0,
            arguments: plan.asked(playing.quick)?,
            sentences: Vec::new(),
            metrics: MetricEntry::all(),
            sources: plan.sources.iter().map(sources::entry).collect(),
            scenarios: Vec::new(),
            largest_rates: Vec::new(),
            gate: Vec::new(),
        }),
        failed: Mutex::new(None),
    };
    evaluation.play_all(prepared);
    for _ in 0..plan.refinements {
        let between = evaluation.between()?;
        evaluation.play_all(between);
    }
    evaluation.close()
}

impl Evaluation<'_> {
    /// Every rule in every replicate of some scenarios.
    fn play_all(&mut self, prepared: Vec<Prepared>) {
        let rules = self.plan.rules.len();
        let mut tasks = Vec::new();
        for of in prepared {
            let scenario = self.prepared.len();
            for replicate in 0..of.replicates {
                for rule in 0..rules {
                    tasks.extend((0..of.seeds).map(|seed| Task { scenario, replicate, rule, seed }));
                }
            }
            self.pending.push(Mutex::new(Pending::new(&of, rules)));
            self.prepared.push(of);
        }
        self.bar.inc_length(tasks.iter().map(|task| self.prepared[task.scenario].steps).sum());
        locked(&self.results).runs_planned += tasks.len() as u64;
        let playing = &*self;
        // A bridge hands tasks out in their order: scenarios are done one after the other.
        let tasks = tasks.iter().enumerate().par_bridge();
        self.pool.install(|| tasks.for_each(|(at, &task)| playing.play(at, task)));
    }

    /// Rates in the middle of two between which the largest that keeps the limits may lie.
    fn between(&self) -> Result<Vec<Prepared>, SimError> {
        let mut prepared = Vec::new();
        if self.playing.stop.load(Ordering::Relaxed) {
            return Ok(prepared);
        }
        for of in &locked(&self.results).largest_rates {
            let cluster = ClusterOf { source: of.source, workers: of.workers, slots: of.slots };
            let of_cluster = || self.prepared.iter().filter(|prepared| prepared.cluster() == cluster);
            let Some(known) = of_cluster().next() else { continue };
            let mut played: Vec<f64> = of_cluster().map(|of| of.entry.rate.requests_per_s).collect();
            played.sort_unstable_by(f64::total_cmp);
            // The rate of requests that fit nowhere is not in the load.
            let load = known.entry.rate.offered_load / known.entry.rate.requests_per_s;
            let mut middles: Vec<RateAsked> = Vec::new();
            for gap in played.windows(2).filter(|gap| gap[1] - gap[0] > FINEST * of.capacity_requests_per_s) {
                if of.rules.iter().any(|rule| rule.may_lie_in(gap[0], gap[1])) {
                    // In tenths of a per cent, as people read them.
                    let middle = ((gap[0] + gap[1]) / 2.0 * load * 1e3).round() / 1e3;
                    middles.push(RateAsked::Between(middle));
                }
            }
            if !middles.is_empty() {
                let first = self.prepared.len() + prepared.len();
                prepared.extend(self.plan.at_rates(cluster, &known.library, &middles, first)?);
            }
        }
        Ok(prepared)
    }

    fn play(&self, at: usize, task: Task) {
        if self.playing.stop.load(Ordering::Relaxed) {
            return;
        }
        let error = match self.outcome(task).and_then(|outcome| self.keep(task, outcome)) {
            Ok(()) | Err(SimError::Interrupted) => return,
            Err(error) => error,
        };
        let mut failed = locked(&self.failed);
        if failed.as_ref().is_none_or(|(before, _)| at < *before) {
            *failed = Some((at, error));
        }
        self.playing.stop.store(true, Ordering::Relaxed);
    }

    fn outcome(&self, task: Task) -> Result<Outcome, SimError> {
        let prepared = &self.prepared[task.scenario];
        let scenario = &prepared.scenario;
        let rule = &self.plan.rules[task.rule];
        self.bar.set_message(format!("{} at {}", rule.name, prepared.entry.rate.label));
        let (window, seed) = prepared.window_and_seed(task.replicate, task.seed);
        let span = Window::new(&scenario.source, scenario.arrivals, window, scenario.windows);
        let span = span.ok_or_else(|| argument("rates", "open arrivals", &prepared.entry.rate.label))?;
        let policy = scenario.build(&rule.policy, seed)?;
        let cluster = Cluster::new(scenario, &prepared.library, policy, None, seed, Some(window))?;
        let slots = scenario.workers as u64 * u64::from(scenario.slots);
        let keeps_series = task.replicate == 0 && task.seed == 0;
        let recorder = Recorder::new(self.playing.stop, span, self.plan.limits, slots, keeps_series);
        let sampled = keeps_series && self.plan.decisions > 0;
        let sampler = sampled.then(|| Sampler::new(self.plan.decisions, MOST_PAIRS));
        let mut seen = (Ticks::new(&self.bar, prepared.steps), (recorder, sampler));
        let run = cluster.run_seen(&mut seen)?;
        let (ticks, (recorder, sampler)) = seen;
        ticks.ended();
        let mut outcome = recorder.outcome(&run, task.replicate, u64::from(prepared.replicates));
        outcome.optimum = sampler.map(|sampler| sampler.figures(DECISION_LIMIT));
        Ok(outcome)
    }

    fn keep(&self, task: Task, outcome: Outcome) -> Result<(), SimError> {
        let done = {
            let mut pending = locked(&self.pending[task.scenario]);
            pending.rules[task.rule][task.replicate as usize][task.seed as usize] = Some(outcome);
            pending.left -= 1;
            (pending.left == 0).then(|| std::mem::take(&mut pending.rules))
        };
        locked(&self.results).runs_done += 1;
        let Some(outcomes) = done else { return Ok(()) };
        let (mut entry, lines) = self.entry(task.scenario, outcomes);
        entry.complete = true;
        if let Some(folder) = self.playing.folder {
            let (requests, series) = folder.scenario(&entry.id, &lines)?;
            (entry.requests_file, entry.series_file) = (Some(requests), Some(series));
        }
        let mut results = locked(&self.results);
        results.scenarios.push(entry);
        self.conclude(&mut results, false);
        self.playing.folder.map_or(Ok(()), |folder| folder.results(&results))
    }

    fn entry(
        &self,
        at: usize,
        outcomes: Vec<RuleOutcomes>,
    ) -> (ScenarioEntry, Vec<crate::report::folder::RuleLines>) {
        let (rules, lines) = summary::all(&self.plan.rules, outcomes);
        let differences = summary::differences(&rules);
        (ScenarioEntry { rules, differences, ..self.prepared[at].entry.clone() }, lines)
    }

    /// What follows from the scenarios that are there.
    fn conclude(&self, results: &mut Results, is_over: bool) {
        results.scenarios.sort_by_key(|entry| self.plan.order(entry));
        results.complete = is_over && results.runs_done == results.runs_planned;
        results.elapsed_s = self.begun.elapsed().as_secs_f64();
        let cluster = |entry: &ScenarioEntry| (entry.source, entry.workers, entry.slots);
        let share = self.plan.limits.map(|limits| limits.share);
        let scenarios: Vec<&ScenarioEntry> = results.scenarios.iter().collect();
        results.largest_rates = scenarios
            .chunk_by(|a, b| cluster(a) == cluster(b))
            .filter_map(|scenarios| largest_rates(scenarios, share?))
            .collect();
        results.gate =
            self.plan.gates.iter().map(|gate| gate.check(&results.scenarios, results.complete)).collect();
        results.sentences = verdict::sentences(results);
    }

    /// The results of what has been played.
    fn close(self) -> Result<Results, SimError> {
        self.bar.finish_and_clear();
        if let Some((_, error)) = locked(&self.failed).take() {
            return Err(error);
        }
        for (at, pending) in self.pending.iter().enumerate() {
            let mut pending = locked(pending);
            if pending.left > 0 && pending.has_begun() {
                let (entry, _) = self.entry(at, std::mem::take(&mut pending.rules));
                locked(&self.results).scenarios.push(entry);
            }
        }
        let mut results = locked(&self.results);
        self.conclude(&mut results, true);
        if let Some(folder) = self.playing.folder {
            folder.results(&results)?;
        }
        Ok(results.clone())
    }
}

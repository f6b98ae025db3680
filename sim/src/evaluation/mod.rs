//! What is asked of the simulator: comparisons of policies ([`run`], [`settings`]) and tables over arguments
//! ([`sweep`]), a verdict on rules ([`trial`]), the published study ([`paper`]), the smallest cluster that is
//! enough ([`sizing`]), how far rules are from optimal ([`optimum`]), comparisons of forecasts ([`forecast`])
//! and of the ways to compute ([`kernels`]), and what balance ([`picture`]), a trace ([`portrait`]), a step
//! law beside its measurements ([`residuals`]) and a verdict ([`html`]) look like.

mod chart;
pub mod forecast;
pub mod html;
pub mod kernels;
pub mod optimum;
pub mod paper;
pub mod picture;
pub mod portrait;
mod progress;
pub mod residuals;
pub mod settings;
pub mod sizing;
pub mod sweep;
pub mod trial;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use progress::{Ticks, expected_steps, steps_bar};
use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::cluster::{Cluster, Library, Observer, Run, Scenario};
use crate::error::{SimError, argument};

/// Runs every policy with every affinity under every seed, and in every window of an open trace; the runs
/// come in that order, whatever the number of threads.
///
/// With `progress` a bar is drawn on stderr when that is a terminal.
///
/// # Errors
/// An argument out of range, or the first run (in that order) that could not go on.
pub fn run(scenario: &Scenario, progress: bool) -> Result<Vec<Run>, SimError> {
    let runs = run_all(std::slice::from_ref(scenario), scenario.threads, &steps_bar(progress))?;
    Ok(runs.into_iter().flatten().collect())
}

/// A run of a scenario.
#[derive(Clone, Copy)]
struct Task<'a> {
    scenario: usize,
    policy: &'a str,
    affinity: Option<f64>,
    seed: u64,
    window: Option<u32>,
}

/// Every run of a scenario, in the order of its results.
fn tasks(at: usize, scenario: &Scenario) -> Vec<Task<'_>> {
    let affinities: Vec<Option<f64>> = match scenario.affinity.as_slice() {
        [] => vec![None],
        weights => weights.iter().copied().map(Some).collect(),
    };
    let windows: Vec<Option<u32>> = match scenario.windows {
        0 => vec![None],
        windows => (0..windows).map(Some).collect(),
    };
    let mut tasks = Vec::new();
    for policy in &scenario.policies {
        for &affinity in &affinities {
            for seed in scenario.first_seed..scenario.first_seed + scenario.seeds {
                let task = |&window| Task { scenario: at, policy, affinity, seed, window };
                tasks.extend(windows.iter().map(task));
            }
        }
    }
    tasks
}

/// [`run`] of several scenarios, whose runs are played side by side; the runs of each for itself.
fn run_all(scenarios: &[Scenario], threads: usize, bar: &ProgressBar) -> Result<Vec<Vec<Run>>, SimError> {
    let seen = runs_seen(scenarios, threads, bar, || ())?;
    Ok(seen.into_iter().map(|runs| runs.into_iter().map(|(run, ())| run).collect()).collect())
}

/// As [`run_all`], each run with who looked on.
fn runs_seen<O: Observer + Send>(
    scenarios: &[Scenario],
    threads: usize,
    bar: &ProgressBar,
    observer: impl Fn() -> O + Sync,
) -> Result<Vec<Vec<(Run, O)>>, SimError> {
    let (mut libraries, mut expected) = (Vec::new(), Vec::new());
    for (at, scenario) in scenarios.iter().enumerate() {
        scenario.check()?;
        let known = scenarios[..at].iter().position(|before| before.source.is(&scenario.source));
        libraries.push(match known {
            Some(known) => Arc::clone(&libraries[known]),
            None => Arc::new(Library::new(&scenario.source)),
        });
        expected.push(if bar.is_hidden() { 0 } else { expected_steps(scenario) });
    }
    let tasks: Vec<Task<'_>> =
        scenarios.iter().enumerate().flat_map(|(at, scenario)| tasks(at, scenario)).collect();
    bar.set_length(tasks.iter().map(|task| expected[task.scenario]).sum());
    let one = |Task { scenario: at, policy, affinity, seed, window }: Task<'_>| {
        let scenario = &scenarios[at];
        bar.set_message(policy.to_owned());
        let rule = scenario.build(policy, seed)?;
        let cluster = Cluster::new(scenario, &libraries[at], rule, affinity, seed, window)?;
        let mut seen = (Ticks::new(bar, expected[at]), observer());
        let run = cluster.run_seen(&mut seen)?;
        let (ticks, observer) = seen;
        ticks.ended();
        Ok((run, observer))
    };
    let results = in_parallel(threads, &tasks, one);
    bar.finish_and_clear();
    let mut seen: Vec<Vec<(Run, O)>> = scenarios.iter().map(|_| Vec::new()).collect();
    for (task, result) in tasks.iter().zip(results?) {
        seen[task.scenario].push(result);
    }
    Ok(seen)
}

/// Maps the tasks on so many threads, 0 for one per processor; results in the order of the tasks, or the
/// first error in that order.
fn in_parallel<T: Copy + Sync, R: Send>(
    threads: usize,
    tasks: &[T],
    one: impl Fn(T) -> Result<R, SimError> + Sync,
) -> Result<Vec<R>, SimError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| argument("threads", "as many as can be started", error))?;
    // Handed out in their order until one fails, so that everything before that one has a result.
    let failed = AtomicBool::new(false);
    let handed_out = tasks.iter().enumerate().take_while(|_| !failed.load(Ordering::Relaxed));
    let mut results: Vec<(usize, Result<R, SimError>)> = pool.install(|| {
        let results = handed_out.par_bridge().map(|(at, &task)| {
            let result = one(task);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            (at, result)
        });
        results.collect()
    });
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

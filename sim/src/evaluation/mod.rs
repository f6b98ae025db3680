//! What is asked of the simulator: comparisons of policies ([`run`], [`settings`]), a verdict on rules
//! ([`trial`]), the published study ([`paper`]), comparisons of forecasts ([`forecast`]) and of the ways to
//! compute ([`kernels`]), and what balance ([`picture`]), a trace ([`portrait`]) and a step law beside its
//! measurements ([`residuals`]) look like.

pub mod forecast;
pub mod kernels;
pub mod paper;
pub mod picture;
pub mod portrait;
pub mod residuals;
pub mod settings;
pub mod trial;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cluster::{Cluster, Library, Run, Scenario};
use crate::error::SimError;

/// Runs every policy with every affinity under every seed, and in every window of an open trace; the runs
/// come in that order, whatever the number of threads.
///
/// With `progress` a bar is drawn on stderr when that is a terminal.
///
/// # Errors
/// An argument out of range, or the first run (in that order) that could not go on.
pub fn run(scenario: &Scenario, progress: bool) -> Result<Vec<Run>, SimError> {
    let bar = if progress { progress_bar(0) } else { ProgressBar::hidden() };
    let runs = run_all(std::slice::from_ref(scenario), scenario.threads, &bar)?;
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
    let mut libraries: Vec<Arc<Library>> = Vec::new();
    for (at, scenario) in scenarios.iter().enumerate() {
        scenario.check()?;
        let known = scenarios[..at].iter().position(|before| before.source.is(&scenario.source));
        libraries.push(match known {
            Some(known) => Arc::clone(&libraries[known]),
            None => Arc::new(Library::new(&scenario.source)),
        });
    }
    let tasks: Vec<Task<'_>> =
        scenarios.iter().enumerate().flat_map(|(at, scenario)| tasks(at, scenario)).collect();
    bar.set_length(tasks.len() as u64);
    let one = |Task { scenario: at, policy, affinity, seed, window }: Task<'_>| {
        let scenario = &scenarios[at];
        bar.set_message(policy.to_owned());
        let rule = scenario.build(policy, seed)?;
        let run = Cluster::new(scenario, &libraries[at], rule, affinity, seed, window)?.run();
        bar.inc(1);
        run
    };
    let results = in_parallel(threads, &tasks, one);
    bar.finish_and_clear();
    let mut runs: Vec<Vec<Run>> = scenarios.iter().map(|_| Vec::new()).collect();
    for (task, run) in tasks.iter().zip(results?) {
        runs[task.scenario].push(run);
    }
    Ok(runs)
}

fn progress_bar(length: u64) -> ProgressBar {
    // Hidden by indicatif itself when stderr is no terminal.
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Maps the tasks on several threads; results in the order of the tasks, or the first error in that order.
fn in_parallel<T: Copy + Sync, R: Send, E: Send>(
    threads: usize,
    tasks: &[T],
    one: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Vec<Mutex<Option<Result<R, E>>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(tasks.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&task) = tasks.get(at) else { break };
                    let result = one(task);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    *results[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    // Tasks are handed out in order, so everything before a failed one has a result.
    results
        .into_iter()
        .map_while(|result| result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
        .collect()
}

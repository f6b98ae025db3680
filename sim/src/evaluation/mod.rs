//! What is asked of the simulator: comparisons of policies ([`run`], [`settings`]) and tables over arguments
//! ([`sweep`]), a verdict on rules ([`trial`]), the smallest cluster that is enough ([`sizing`]), how far rules
//! are from optimal ([`optimum`]), comparisons of forecasts ([`forecast`]) and of the ways to compute
//! ([`kernels`]), and what balance ([`picture`]), a trace ([`portrait`]), a step law beside its measurements
//! ([`residuals`]) and a verdict ([`page`]) look like.

mod chart;
pub mod forecast;
pub mod kernels;
pub mod optimum;
pub mod page;
pub mod picture;
pub mod portrait;
mod progress;
pub mod residuals;
pub mod settings;
pub mod sizing;
pub mod sweep;
pub mod trial;

use std::sync::atomic::{AtomicBool, Ordering};

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
    let seen = runs_seen(scenario, progress, || ())?;
    Ok(seen.into_iter().map(|(run, ())| run).collect())
}

/// The runs, each with who looked on.
fn runs_seen<O: Observer + Send>(
    scenario: &Scenario,
    progress: bool,
    observer: impl Fn() -> O + Sync,
) -> Result<Vec<(Run, O)>, SimError> {
    scenario.check()?;
    let library = Library::new(&scenario.source);
    let affinities: Vec<Option<f64>> = match scenario.affinity.as_slice() {
        [] => vec![None],
        weights => weights.iter().copied().map(Some).collect(),
    };
    let windows: Vec<Option<u32>> = match scenario.windows {
        0 => vec![None],
        windows => (0..windows).map(Some).collect(),
    };
    let mut tasks = Vec::new();
    for name in &scenario.policies {
        for &affinity in &affinities {
            for seed in scenario.first_seed..scenario.first_seed + scenario.seeds {
                tasks.extend(windows.iter().map(|&window| (name.as_str(), affinity, seed, window)));
            }
        }
    }
    let expected = if progress { expected_steps(scenario) } else { 0 };
    let bar = steps_bar(progress);
    bar.set_length(expected.saturating_mul(tasks.len() as u64));
    let one = |(name, affinity, seed, window): (&str, Option<f64>, u64, Option<u32>)| {
        bar.set_message(name.to_owned());
        let policy = scenario.build(name, seed)?;
        let cluster = Cluster::new(scenario, &library, policy, affinity, seed, window)?;
        let mut seen = (Ticks::new(&bar, expected), observer());
        let run = cluster.run_seen(&mut seen)?;
        let (ticks, observer) = seen;
        ticks.ended();
        Ok((run, observer))
    };
    let results = in_parallel(scenario.threads, &tasks, one);
    bar.finish_and_clear();
    results
}

/// Maps the tasks on so many threads, 0 for one per processor; results in the order of the tasks, or the first
/// error in that order.
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

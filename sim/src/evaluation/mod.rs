//! What is asked of the simulator: comparisons of policies ([`run`], [`settings`]), a verdict on rules
//! ([`trial`]), comparisons of forecasts ([`forecast`]) and of the ways to compute ([`kernels`]), and what
//! balance ([`picture`]), a trace ([`portrait`]) and a step law beside its measurements ([`residuals`]) look
//! like.

pub mod forecast;
pub mod kernels;
pub mod picture;
pub mod portrait;
mod progress;
pub mod residuals;
pub mod settings;
pub mod trial;

use std::sync::atomic::{AtomicBool, Ordering};

use progress::{Ticks, expected_steps, steps_bar};
use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::cluster::{Cluster, Library, Run, Scenario};
use crate::error::{SimError, argument};

/// Runs every policy with every affinity under every seed, and in every window of an open trace; the runs
/// come in that order, whatever the number of threads.
///
/// With `progress` a bar is drawn on stderr when that is a terminal.
///
/// # Errors
/// An argument out of range, or the first run (in that order) that could not go on.
pub fn run(scenario: &Scenario, progress: bool) -> Result<Vec<Run>, SimError> {
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
        let mut ticks = Ticks::new(&bar, expected);
        let run = cluster.run_seen(&mut ticks);
        ticks.ended();
        run
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(scenario.threads).build();
    let pool = pool.map_err(|error| argument("threads", "as many as can be started", error))?;
    // Handed out in their order until one fails, so that everything before that one has a result.
    let failed = AtomicBool::new(false);
    let handed_out = tasks.into_iter().enumerate().take_while(|_| !failed.load(Ordering::Relaxed));
    let mut results: Vec<(usize, Result<Run, SimError>)> = pool.install(|| {
        let runs = handed_out.par_bridge().map(|(at, task)| {
            let result = one(task);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            (at, result)
        });
        runs.collect()
    });
    bar.finish_and_clear();
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

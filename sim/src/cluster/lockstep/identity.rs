//! The mean imbalance of any rule, from where its refills end (`docs/algorithms.md`, level).
//!
//! Levels are loads less the growth that all full workers share: a worker's level changes when a request of
//! its ends and another takes the slot. What a rule pays for such a change is `Phi` of where it ends; the
//! rest, `G (H_G - 1) E[o]`, every rule pays.

use super::*;
use crate::cluster::{Loads, Source};
use crate::workloads::Workload;

/// What is added up over the refills of some runs.
#[derive(Default)]
struct Refills {
    count: u64,
    phi: f64,
    steps: u64,
    imbalance: f64,
}

/// `G (G/k - 1)` for each token of `y` between the `k`-th and the next higher of the other levels.
fn phi(y: i64, others: &mut [i64]) -> f64 {
    others.sort_unstable_by(|a, b| b.cmp(a));
    let workers = (others.len() + 1) as f64;
    let mut above = i64::MAX;
    let mut sum = 0.0;
    for (k, &level) in others.iter().enumerate() {
        let within = (y.min(above) - level).max(0);
        sum += workers * (workers / (k + 1) as f64 - 1.0) * within as f64;
        above = level;
    }
    sum
}

impl Refills {
    fn add_run(&mut self, scenario: &Scenario, seed: u64) {
        let library = Library::new(&scenario.source);
        let policy = scenario.build("level", seed).expect("a policy");
        let cluster = Cluster::new(scenario, &library, policy, None, seed, None).expect("valid");
        let mut levels: Vec<i64> = Vec::new();
        let run = cluster.run_seen(&mut Loads(|loads: &[u64]| {
            let grown = self.steps as i64 * i64::from(scenario.slots);
            let now: Vec<i64> = loads.iter().map(|&load| load as i64 - grown).collect();
            self.steps += 1;
            let greatest = now.iter().max().copied().unwrap_or(0);
            self.imbalance += now.iter().map(|level| (greatest - level) as f64).sum::<f64>();
            if levels.is_empty() {
                levels = now;
                return;
            }
            // One after the other: the levels of the others are those before or after their own.
            for worker in 0..now.len() {
                if levels[worker] != now[worker] {
                    let mut others = levels.clone();
                    others.swap_remove(worker);
                    self.count += 1;
                    self.phi += phi(now[worker], &mut others);
                    levels[worker] = now[worker];
                }
            }
        }));
        assert_eq!(run.expect("it ends").empty_slot_fraction, 0.0, "levels need full workers");
    }
}

#[test]
fn imbalance_is_what_every_rule_pays_and_what_its_refills_cost() {
    let mut parameters = balanceroute::policy::Parameters::default();
    parameters.level.repair_rounds = 0;
    let scenario = Scenario {
        source: Source::Workload(Workload::Geometric),
        workers: 16,
        // Few: a worker that was refilled cannot complete again in that step, and the identity takes it that
        // each is equally likely to be next.
        slots: 16,
        pool: 64,
        steps: Some(40_000),
        policies: vec!["level".to_owned()],
        parameters,
        ..Scenario::default()
    };
    let mut refills = Refills::default();
    for seed in 0..3 {
        // Levels of another run are others: only differences within one count.
        refills.add_run(&scenario, seed);
    }
    let (count, steps) = (refills.count as f64, refills.steps as f64);
    // What all generate between two refills: the mean output, but that now and then two of a worker end at
    // once.
    let output = steps * scenario.workers as f64 * f64::from(scenario.slots) / count;
    let expected = bound_imbalance(scenario.workers, output) + refills.phi / count;
    let found = refills.imbalance / steps;
    println!("simulated {found:.0}, by the identity {expected:.0}, phi {:.0}", refills.phi / count);
    assert!((found / expected - 1.0).abs() < 0.03, "simulated {found:.0}, by the identity {expected:.0}");
}

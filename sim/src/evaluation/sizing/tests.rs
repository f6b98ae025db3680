//! The search finds what trying all clusters finds.

use std::sync::Arc;

use super::*;
use crate::cluster::{Scenario, Source, StepCost};
use crate::evaluation::trial::{TrialSource, rules};
use crate::workloads::Workload;

fn plan(workers: usize, slots: u32) -> Plan {
    Plan {
        sources: vec![TrialSource {
            source: Source::Workload(Workload::Lognormal),
            path: None,
            sha256: None,
        }],
        workers: vec![workers],
        slots: vec![slots],
        rules: rules(&["jsq".to_owned(), "level".to_owned()]).expect("rules"),
        rates: vec!["25/s".parse().expect("a rate")],
        refinements: 0,
        limits: Some("ttft=1s,tpot=8ms".parse().expect("limits")),
        windows: 6,
        seeds: 1,
        first_seed: 0,
        requests: Some(600),
        decisions: 0,
        gates: Vec::new(),
        // A slot that is empty costs nothing.
        cost: Arc::new(|_| Ok(StepCost { us_per_request: 60.0, base_ms: 5.0, ..StepCost::published(16) })),
        model: Scenario::default(),
        flags: Vec::new(),
    }
}

fn question<'a>(stop: &'a AtomicBool, slots: &[u32], most_workers: usize) -> Question<'a> {
    Question { plan: &plan, slots: slots.to_vec(), most_workers, threads: 0, stop, progress: false }
}

#[test]
fn the_smallest_cluster_is_the_one_that_trying_all_finds() {
    let stop = AtomicBool::new(false);
    let found = recommend(&question(&stop, &[8, 24], 12)).expect("sound");
    assert_eq!(found.options.len(), 4);
    // A number that is enough by what was seen, and not beyond doubt.
    assert!(found.options.iter().any(|option| option.high > option.workers), "{found:?}");
    for option in &found.options {
        let rule = usize::from(option.rule == "level");
        let mut all = OfSlots {
            question: &question(&stop, &[8], 12),
            slots: option.slots,
            share: 0.99,
            bar: &ProgressBar::hidden(),
            tried: BTreeMap::new(),
        };
        let mut fewest = |enough: &dyn Fn(&Tried) -> bool| {
            (1..=12).find(|&workers| enough(&all.at(workers).expect("sound").rules[rule]))
        };
        assert_eq!(option.workers, fewest(&|tried| tried.kept >= 0.99), "{option:?}");
        assert_eq!(option.low, fewest(&|tried| tried.sure >= 0.025), "{option:?}");
        assert_eq!(option.high, fewest(&|tried| tried.sure >= 0.975), "{option:?}");
        let workers = option.workers.expect("enough");
        assert!(option.low <= option.workers && option.there.workers == workers);
        assert!(option.high.is_none_or(|high| high >= workers));
        assert!(option.with_one_less.is_none_or(|less| less.kept < 0.99 && less.workers == workers - 1));
        assert!(option.command.contains(&format!("--workers {workers} --slots {}", option.slots)));
    }
    let best = &found.options[found.best.expect("one")];
    let size = |option: &SizeOption| (option.workers, option.slots);
    assert!(found.options.iter().all(|option| size(best) <= size(option)));
}

#[test]
fn where_no_cluster_keeps_them_the_best_is_told() {
    let stop = AtomicBool::new(false);
    let found = recommend(&question(&stop, &[4], 2)).expect("sound");
    assert_eq!(found.best, None);
    for option in &found.options {
        assert_eq!((option.workers, option.high), (None, None));
        assert!(option.there.kept < 0.99 && option.there.workers == 2);
    }
}

#[test]
fn an_interrupt_ends_it() {
    let stop = AtomicBool::new(true);
    assert!(matches!(recommend(&question(&stop, &[8], 4)), Err(SimError::Interrupted)));
}

#[test]
fn what_no_answer_can_follow_from_is_refused() {
    let stop = AtomicBool::new(false);
    let refused = |plan: &dyn Fn(usize, u32) -> Plan, most_workers| {
        let question = Question { plan, ..question(&stop, &[8], most_workers) };
        recommend(&question).expect_err("refused").to_string()
    };
    assert!(refused(&plan, 0).starts_with("most-workers: expected a whole number in 1..="));
    let of_capacity =
        |workers, slots| Plan { rates: vec![RateAsked::OfCapacity(0.8)], ..plan(workers, slots) };
    assert!(refused(&of_capacity, 4).contains("one rate that no cluster decides"));
    let unlimited = |workers, slots| Plan { limits: None, ..plan(workers, slots) };
    assert_eq!(refused(&unlimited, 4), "slo: expected limits to keep, found none");
}

#[test]
fn doubt_is_that_of_the_replicates() {
    let of = |kept: &[f64]| -> Vec<Replicate> {
        let replicate =
            |&within| Replicate { requests: 10.0, within_slo: Some(within), ..Replicate::default() };
        kept.iter().map(replicate).collect()
    };
    assert_eq!((sure(&of(&[1.0; 6]), 0.99), sure(&of(&[0.9; 6]), 0.99)), (1.0, 0.0));
    // Half of the time more ones than zeros are drawn of one each: 1/4 both ones, 1/2 one of each.
    approx::assert_abs_diff_eq!(sure(&of(&[1.0, 0.0]), 0.75), 0.25, epsilon = 0.03);
    approx::assert_abs_diff_eq!(sure(&of(&[1.0, 0.0]), 0.5), 0.75, epsilon = 0.03);
}

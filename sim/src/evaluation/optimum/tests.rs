//! The program finds what trying everything finds, and no rule is better.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::state::{Load, Open, State};
use super::*;
use crate::cluster::{Observer, Source, StepSeen};
use crate::report::page::Style;
use crate::workloads::Workload;

const LIMIT: Duration = Duration::from_secs(60);

/// Every way to have so many enter, by requests in order.
fn brute_force(state: &State, admissions: usize) -> Option<f64> {
    fn go(
        state: &State,
        at: usize,
        left: usize,
        open: &mut [Open],
        chosen: &mut Vec<(u64, u32)>,
        best: &mut Option<f64>,
    ) {
        if left == 0 {
            let found = state.imbalance_after(chosen);
            *best = Some(best.map_or(found, |best| best.min(found)));
            return;
        }
        let Some(&(id, tokens)) = state.waiting.get(at) else { return };
        go(state, at + 1, left, open, chosen, best);
        for of in 0..open.len() {
            let before = open[of];
            let room = before.room_tokens;
            if before.slots == 0 || room.is_some_and(|room| room < u64::from(tokens)) {
                continue;
            }
            let room_tokens = room.map(|room| room - u64::from(tokens));
            open[of] = Open { slots: before.slots - 1, room_tokens, ..before };
            chosen.push((id, before.worker as u32));
            go(state, at + 1, left - 1, open, chosen, best);
            chosen.pop();
            open[of] = before;
        }
    }
    let mut best = None;
    go(state, 0, admissions, &mut state.open.clone(), &mut Vec::new(), &mut best);
    best
}

/// Somebody goes somewhere, first come, first served.
fn any_admissions(state: &State, most: usize) -> Vec<(u64, u32)> {
    let mut open = state.open.clone();
    let mut admissions = Vec::new();
    for &(id, tokens) in state.waiting.iter() {
        let tokens = u64::from(tokens);
        let fits = |open: &&mut Open| open.slots > 0 && open.room_tokens.is_none_or(|room| room >= tokens);
        if let Some(open) = open.iter_mut().find(fits).filter(|_| admissions.len() < most) {
            open.slots -= 1;
            open.room_tokens = open.room_tokens.map(|room| room - tokens);
            admissions.push((id, open.worker as u32));
        }
    }
    admissions
}

fn state(rng: &mut ChaCha8Rng, weighted: bool, bounded: bool) -> State {
    let workers = rng.random_range(2..6);
    let loads = (0..workers)
        .map(|_| Load {
            tokens: rng.random_range(20_000..60_000),
            weight: if weighted { rng.random_range(0.5..2.0) } else { 1.0 },
        })
        .collect();
    let open = (0..workers).filter(|at| *at == 0 || rng.random_range(0..2) == 0).take(3);
    let open = open.collect::<Vec<_>>().into_iter().map(|worker| Open {
        worker,
        slots: rng.random_range(1..4),
        room_tokens: bounded.then(|| rng.random_range(2_000..9_000)),
    });
    let open = open.collect();
    let waiting = (0..rng.random_range(1..7)).map(|id| (3 * id, rng.random_range(1..8_000))).collect();
    State { loads, open, waiting }
}

#[test]
fn the_program_finds_what_trying_everything_finds() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut better = 0;
    for round in 0..300 {
        let state = state(&mut rng, round % 2 == 1, round % 3 == 0);
        let most = rng.random_range(1..5);
        let admissions = any_admissions(&state, most);
        if admissions.is_empty() {
            continue;
        }
        let decision = Decision { admissions, state };
        let best = program::best(&decision, LIMIT).expect("small");
        assert_eq!(best.len(), decision.admissions.len());
        let found = decision.state.imbalance_after(&best);
        let expected = brute_force(&decision.state, best.len()).expect("as it was made");
        approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-3);
        better += usize::from(found < decision.state.imbalance_after(&decision.admissions) - 1.0);
    }
    assert!(better > 100, "{better}");
}

#[test]
fn samples_are_spread_over_the_run_however_long_it_is() {
    let of = |steps: u64| {
        let mut sampler = Sampler::new(50, usize::MAX);
        let seen = StepSeen {
            step: 0,
            from_ms: 0.0,
            to_ms: 1.0,
            loads: &[],
            admissions: &[(0, 0)],
            running: 0,
            waiting: 0,
            measured: true,
        };
        for step in 0..steps {
            sampler.show(State { loads: Vec::new(), open: Vec::new(), waiting: vec![(step, 1)] });
            sampler.step(StepSeen { step, ..seen });
        }
        let (decisions, too_large) = sampler.into_decisions();
        assert_eq!(too_large, 0);
        decisions.iter().map(|decision| decision.state.waiting[0].0).collect::<Vec<_>>()
    };
    assert_eq!(of(7), (0..7).collect::<Vec<_>>());
    let found = of(10_000);
    assert!((50..100).contains(&found.len()), "{}", found.len());
    let apart = found[1];
    assert!(found.windows(2).all(|two| two[1] - two[0] == apart), "{found:?}");
    assert!(found[found.len() - 1] + apart >= 10_000);
}

#[test]
fn a_rule_that_looks_at_its_step_alone_is_closest_to_the_steps_optimum() {
    let scenario = Scenario {
        workers: 4,
        slots: 16,
        pool: 12,
        policies: ["exact", "level", "jsq"].map(str::to_owned).to_vec(),
        seeds: 2,
        steps: Some(2_000),
        warmup: 2_000,
        ..Scenario::default()
    };
    let options = Options { decisions: 40, limit: LIMIT, progress: false };
    let found = optimum(&scenario, options).expect("sound");
    let [exact, level, jsq] = &found.rules[..] else { panic!("a row each") };
    for rule in &found.rules {
        let of = &rule.figures;
        assert_eq!((of.unsolved, of.too_large), (0, 0), "{rule:?}");
        assert!(of.decisions >= 80 && of.above_mean_tokens >= 0.0, "{rule:?}");
        approx::assert_abs_diff_eq!(
            of.left_tokens - of.least_tokens,
            of.above_mean_tokens,
            epsilon = 1e-6 * of.left_tokens
        );
    }
    let above = |rule: &RuleOptimum| rule.figures.above_mean_tokens;
    assert!(exact.figures.optimal > 0.6, "{exact:?}");
    assert!(above(exact) < above(level) && above(level) < above(jsq), "{found:?}");
    // Over the run it is the other way round.
    assert!(level.of_bound < exact.of_bound && exact.of_bound < jsq.of_bound, "{found:?}");
    let again = optimum(&scenario, options).expect("sound");
    let text = |of: &Optimum| of.page(true).show(Style::Plain);
    assert_eq!(text(&again), text(&found));
}

#[test]
fn what_is_too_large_is_counted_and_not_solved() {
    let decision = |requests: u64| State {
        loads: vec![Load { tokens: 9, weight: 1.0 }; 2],
        open: vec![Open { worker: 1, slots: 1, room_tokens: None }],
        waiting: (0..requests).map(|id| (id, 5)).collect(),
    };
    let mut sampler = Sampler::new(10, 3);
    for requests in [3, 4] {
        sampler.show(decision(requests));
        sampler.step(StepSeen {
            step: 0,
            from_ms: 0.0,
            to_ms: 1.0,
            loads: &[],
            admissions: &[(0, 1)],
            running: 0,
            waiting: 0,
            measured: true,
        });
    }
    let (decisions, too_large) = sampler.into_decisions();
    assert_eq!((decisions.len(), too_large), (1, 1));
}

#[test]
fn in_a_run_all_that_is_small_enough_is_kept_as_it_is() {
    let scenario = Scenario {
        source: Source::Workload(Workload::Lognormal),
        workers: 3,
        slots: 24,
        pool: 9,
        policies: vec!["level".to_owned()],
        seeds: 1,
        steps: Some(3_000),
        warmup: 50,
        ..Scenario::default()
    };
    let sampled = |most_pairs| {
        let bar = super::steps_bar(false);
        let seen = runs_seen(std::slice::from_ref(&scenario), 1, &bar, || Sampler::new(50, most_pairs));
        seen.expect("sound").remove(0).remove(0).1.into_decisions()
    };
    let ((all, none), (small, too_large)) = (sampled(usize::MAX), sampled(9));
    assert_eq!((none, small.len() + too_large), (0, all.len()));
    assert!(too_large > 0 && small.len() > 10, "{too_large} of {}", all.len());
    let expected: Vec<Decision> = all.into_iter().filter(|decision| decision.state.pairs() <= 9).collect();
    assert_eq!(small, expected);
}

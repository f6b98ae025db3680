//! The definitions of the two policies that place a batch at a time.

use std::cmp::Reverse;

use super::{State, Waiting};
use crate::assignment::Assignment;
use crate::batch::Batch;
use crate::policy::balance_route::Stages;
use crate::policy::baseline::PLAIN;

/// Longest first: overdue requests as everywhere; then the earliest requests that some worker may take, as many as slots are
/// free, longest first (then earliest), each to the worker with least (load, requests, index) that may take it; again until nobody fits.
pub(crate) fn longest_first(batch: &Batch<'_>, out: &mut Assignment) {
    let mut state = State::new(batch, PLAIN, vec![0; batch.workers().len()]);
    let place = |state: &mut State<'_>, waiting: &Waiting, score: i64, overdue: bool| {
        let worker = (0..state.workers())
            .filter(|&worker| state.may_take(&waiting.request, worker))
            .min_by_key(|&worker| {
                let requests = i64::from(batch.workers()[worker].running) + state.picked_count(worker);
                (state.cost(worker), requests, worker)
            });
        if let Some(worker) = worker {
            let at = state.left.iter().position(|left| left.slot == waiting.slot).expect("it waits");
            state.admit(at, worker, score, overdue);
        }
    };

    let mut overdue = state.left.clone();
    overdue
        .retain(|waiting| waiting.request.deadline_steps.is_some_and(|steps| waiting.waited_steps >= steps));
    overdue.sort_by_key(|waiting| (Reverse(waiting.waited_steps), waiting.arrival));
    for waiting in overdue {
        place(&mut state, &waiting, 0, true);
    }
    loop {
        let slots: i64 = (0..state.workers()).map(|worker| state.open_slots(worker)).sum();
        let mut taken = state.left.clone();
        taken.retain(|waiting| (0..state.workers()).any(|worker| state.may_take(&waiting.request, worker)));
        taken.truncate(slots as usize);
        if taken.is_empty() {
            break;
        }
        taken.sort_by_key(|waiting| (Reverse(waiting.request.prompt_tokens), waiting.arrival));
        for waiting in taken {
            place(&mut state, &waiting, i64::from(waiting.request.prompt_tokens), false);
        }
    }
    state.answer(out);
}

/// BalanceRoute in its two stages, as [`crate::policy::balance_route`] states them.
pub(crate) fn balance_route(stages: &Stages, batch: &Batch<'_>, out: &mut Assignment) {
    let mut state = State::new(batch, stages.plan(batch), vec![0; batch.workers().len()]);
    state.place_overdue();
    // The worker with most open slots, then least load (greatest margin), then lowest index, among those that may take anybody.
    while let Some(worker) = (0..state.workers())
        .filter(|&worker| state.left.iter().any(|waiting| state.may_take(&waiting.request, worker)))
        .min_by_key(|&worker| (Reverse(state.open_slots(worker)), state.cost(worker), worker))
    {
        let value = |set: &[Waiting]| {
            let tokens = set.iter().map(|waiting| i64::from(waiting.request.prompt_tokens)).sum();
            let bonus: i64 = set.iter().map(|waiting| batch.bonus_tokens(&waiting.request, worker)).sum();
            f_score(stages, &state, worker, tokens) + state.plan.unit * bonus
        };
        let mut placeable = state.left.clone();
        placeable.retain(|waiting| state.fits(&waiting.request, worker));
        let total: i64 = (0..state.workers()).map(|worker| state.open_slots(worker)).sum();

        if total > i64::from(stages.greedy_slots) {
            let best = best_single(&placeable, value);
            admit_all(&mut state, worker, &[best.1], best.0);
            continue;
        }
        placeable.truncate(stages.candidate_window);
        let (single, best) = best_single(&placeable, value);
        placeable.sort_by_key(|waiting| (Reverse(value(&[*waiting])), waiting.arrival));
        placeable.truncate(stages.subset_window);
        placeable.sort_by_key(|waiting| waiting.arrival);

        let mut positive: Option<(i64, Vec<Waiting>)> = None;
        let mut sets = Vec::new();
        for size in 1..=placeable.len().min(state.open_slots(worker) as usize) {
            subsets(&placeable, size, &mut Vec::new(), &mut sets);
        }
        for set in sets {
            let growth = i64::from(batch.request_growth_tokens());
            let needs: i64 =
                set.iter().map(|waiting| i64::from(waiting.request.prompt_tokens) + growth).sum();
            let score = value(&set);
            // Smaller sets come first and earlier ones before later ones, so the first of equals is the one that the rules name.
            if needs <= state.room_tokens(worker)
                && score > 0
                && positive.as_ref().is_none_or(|(other, _)| score > *other)
            {
                positive = Some((score, set));
            }
        }
        let (score, set) = positive.unwrap_or((single, vec![best]));
        admit_all(&mut state, worker, &set, score);
    }
    state.answer(out);
}

/// `sum_h [alpha d_h] D - [beta d_h] max(0, D - m_h)` in units, with `m_h` in tokens, over the projected rows, or today's loads alone.
fn f_score(stages: &Stages, state: &State<'_>, worker: usize, tokens: i64) -> i64 {
    let per_token = state.cost_per_token(worker);
    let today = |worker: usize| vec![state.cost(worker)];
    let row = |worker: usize| if stages.looks_ahead(state.batch) { state.row(worker) } else { today(worker) };
    let rows: Vec<Vec<i64>> = (0..state.workers()).map(row).collect();
    let (alpha, beta) = stages.price(state.batch);
    (0..rows[worker].len().min(stages.lookahead.discounts.len()))
        .map(|h| {
            let envelope = rows.iter().map(|row| row[h]).max().unwrap_or(0);
            let margin = (envelope - rows[worker][h]).div_euclid(per_token);
            let discount = stages.lookahead.discounts[h] as f64;
            (alpha * discount).round() as i64 * per_token * tokens
                - (beta * discount).round() as i64 * per_token * (tokens - margin).max(0)
        })
        .sum()
}

fn best_single(of: &[Waiting], value: impl Fn(&[Waiting]) -> i64) -> (i64, Waiting) {
    let mut best = (value(&of[..1]), of[0]);
    for waiting in of {
        let score = value(&[*waiting]);
        if score > best.0 {
            best = (score, *waiting);
        }
    }
    best
}

/// Every subset of a size, the earlier before the later.
fn subsets(of: &[Waiting], size: usize, chosen: &mut Vec<Waiting>, sets: &mut Vec<Vec<Waiting>>) {
    if size == 0 {
        sets.push(chosen.clone());
        return;
    }
    for (at, waiting) in of.iter().enumerate() {
        chosen.push(*waiting);
        subsets(&of[at + 1..], size - 1, chosen, sets);
        chosen.pop();
    }
}

fn admit_all(state: &mut State<'_>, worker: usize, set: &[Waiting], score: i64) {
    for waiting in set {
        let at = state.left.iter().position(|left| left.slot == waiting.slot).expect("it waits");
        state.admit(at, worker, score, false);
    }
}

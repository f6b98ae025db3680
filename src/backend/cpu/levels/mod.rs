//! The admissions of level with the terms of the pool ([`crate::rule::LevelTerms`]), one after the other, and
//! the repair of its picks, in one kernel.
//!
//! A score is `base + distance - price`: ages and the price of short requests, which do not change in a step;
//! what being off the wanted length is worth; what the other workers make a length cost. That price bends at
//! the load of every other worker, too often to be added up for each block. Three things spare that:
//!
//! * It is convex, so it is the highest of its lines, and a few of these bound a block. How high each lies
//!   follows from one running sum over the loads.
//! * Within a block it bends a few times at most: the lines in between are the price there.
//! * What is worked out of the others serves all blocks, and the bases of a block all searches of a step.

mod bends;
mod field;
mod ranks;

pub(crate) use self::field::{Levels, MOST_GROUPS};

use self::field::Field;
use self::ranks::Ranks;
use super::column::Found;
use super::lanes::Lanes;
use super::level::Chain;
use crate::backend::picks::{Pick, put_back, worker_of};

/// Admits until no request fits any worker. Returns a worker whose search does not fit these lanes: the
/// caller decides for it.
#[inline(always)]
pub(super) fn place<L: Lanes>(lanes: L, chain: &mut Chain<'_>) -> Option<usize> {
    let (loads, open, picks) = (&mut *chain.loads, &mut *chain.open, &mut *chain.picks);
    let mut field = Field::new(lanes, chain.ordered, chain.marks, chain.levels, loads.levels());
    let tolerant = chain.tolerance_tokens.is_some();
    let mut unfit = None;
    while let Some(key) = open.pop() {
        let worker = worker_of(key);
        let longest = loads.longest_tokens(worker);
        let query = field.query(loads, worker, loads.refilled(worker));
        let Some(query) = query.filter(|query| field.holds(query)) else {
            unfit = Some(worker);
            break;
        };
        field.price(lanes, &query);
        // A worker that finds no request now never will: rooms and the pool only shrink.
        let Some(Found { position, score }) = field.search(lanes, &query, longest, i32::MIN) else {
            continue;
        };
        let tokens = field.tokens_of(position);
        loads.admit_alike(worker, tokens);
        field.take(lanes, position);
        field.follow(loads.anticipated()[worker]);
        let wanted_tokens = tolerant.then_some(query.wanted);
        picks.push(Pick { score, wanted_tokens, ..Pick::new(worker, position, tokens) });
        if loads.open_slots(worker) > 0 {
            put_back(open, loads.cost(worker), worker);
        }
    }
    field.give_levels(loads.levels_mut());
    unfit
}

/// Looks again at the picks from the `first`th on, and replaces each that another waiting request now suits
/// better. Whether any was, and the pick whose search does not fit these lanes.
#[inline(always)]
pub(super) fn replace<L: Lanes>(lanes: L, chain: &mut Chain<'_>, first: usize) -> (bool, Option<usize>) {
    let loads = &mut *chain.loads;
    let mut field = Field::new(lanes, chain.ordered, chain.marks, chain.levels, loads.levels());
    let mut changed = false;
    for (index, pick) in chain.picks.iter_mut().enumerate().skip(first) {
        // Nothing has changed since it was looked at: neither would the answer.
        if pick.overdue || pick.best_at == chain.changes {
            continue;
        }
        let own = loads.without(pick.worker, pick.tokens);
        let Some(query) = field.query(loads, pick.worker, own) else {
            return (changed, Some(index));
        };
        let moved_tokens = pick.wanted_tokens.map(|then| (query.wanted - then).abs());
        if chain.tolerance_tokens.zip(moved_tokens).is_some_and(|(most, moved)| moved <= most) {
            continue;
        }
        if !field.holds(&query) {
            return (changed, Some(index));
        }
        let longest = loads.longest_without(pick.worker, pick.tokens);
        field.price(lanes, &query);
        pick.score = field.score_of(lanes, &query, pick.position);
        if let Some(Found { position, score }) = field.search(lanes, &query, longest, pick.score as i32 + 1) {
            changed = true;
            chain.changes += 1;
            field.give_back(pick.position);
            field.take(lanes, position);
            let tokens = field.tokens_of(position);
            loads.change_tokens(pick.worker, tokens - pick.tokens);
            field.follow(loads.anticipated()[pick.worker]);
            (pick.position, pick.tokens, pick.score) = (position, tokens, score);
        }
        // Its own change leaves it the best: its worker without the pick is as before, and the request that
        // went back was worse.
        (pick.best_at, pick.wanted_tokens) = (chain.changes, Some(query.wanted));
    }
    (changed, None)
}

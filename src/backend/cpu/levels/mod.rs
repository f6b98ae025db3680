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

use self::field::{Field, Wish};
use self::ranks::Ranks;
use super::column::Found;
use super::lanes::Lanes;
use super::level::Chain;
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, put_back, worker_of};

/// Admits until no request fits any worker. Returns a worker whose search does not fit these lanes: the
/// caller decides for it.
#[inline(always)]
pub(super) fn place<L: Lanes>(lanes: L, chain: &mut Chain<'_>) -> Option<usize> {
    let (loads, open, picks) = (&mut *chain.loads, &mut *chain.open, &mut *chain.picks);
    let field = Field::new(lanes, chain.ordered, chain.marks, chain.levels, loads.levels());
    let Some(mut field) = field else { return open.pop().map(worker_of) };
    let tolerant = chain.tolerance_tokens.is_some();
    let mut unfit = None;
    while let Some(key) = open.pop() {
        let worker = worker_of(key);
        let wish = field.wish(loads, worker);
        let Some(query) = field.query(&wish) else {
            unfit = Some(worker);
            break;
        };
        field.price(lanes, &query);
        // A worker that finds no request now never will: rooms and the pool only shrink.
        let found = field.search(lanes, &query, loads.longest_tokens(worker), i32::MIN);
        let Some(Found { position, score }) = found else { continue };
        let tokens = field.tokens_of(position);
        loads.admit_alike(worker, tokens);
        field.take(lanes, position);
        field.follow(loads.anticipated()[worker]);
        let wanted_tokens = tolerant.then_some(wish.tokens);
        picks.push(Pick { score, wanted_tokens, ..Pick::new(worker, position, tokens) });
        if loads.open_slots(worker) > 0 {
            put_back(open, loads.cost(worker), worker);
        }
    }
    field.give_levels(loads.levels_mut());
    unfit
}

/// Which picks are looked at again.
#[derive(Clone, Copy)]
struct NeedsRecheck {
    tolerance_tokens: Option<i64>,
    wanted: [i64; 3],
}

impl NeedsRecheck {
    /// The first pick from here on, and what its worker wants without it.
    #[inline(always)]
    fn next(self, picks: &[Pick], loads: &Loads, changes: u32, from: usize) -> Option<(usize, Wish)> {
        for (index, pick) in picks.iter().enumerate().skip(from) {
            // Nothing has changed since it was looked at: neither would the answer.
            if pick.overdue || pick.best_at == changes {
                continue;
            }
            let (worker, own) = (pick.worker, loads.without(pick.worker, pick.tokens));
            let wish = Wish::new(self.wanted, loads, worker, own, loads.least_without(worker));
            let moved_tokens = pick.wanted_tokens.map(|then| (wish.tokens - then).abs());
            if self.tolerance_tokens.is_none_or(|most| moved_tokens.is_none_or(|moved| moved > most)) {
                return Some((index, wish));
            }
        }
        None
    }
}

/// Looks again at the picks from the `first`th on, and replaces each that another waiting request now suits
/// better. Whether any was, and the pick whose search does not fit these lanes.
#[inline(always)]
pub(super) fn replace<L: Lanes>(lanes: L, chain: &mut Chain<'_>, first: usize) -> (bool, Option<usize>) {
    let recheck = NeedsRecheck { tolerance_tokens: chain.tolerance_tokens, wanted: chain.levels.wanted() };
    let loads = &mut *chain.loads;
    // Most often there is none where few are admitted.
    let Some((mut index, mut wish)) = recheck.next(chain.picks, loads, chain.changes, first) else {
        return (false, None);
    };
    let field = Field::new(lanes, chain.ordered, chain.marks, chain.levels, loads.levels());
    let Some(mut field) = field else { return (false, Some(index)) };
    let mut changed = false;
    loop {
        let Some(query) = field.query(&wish) else { return (changed, Some(index)) };
        let pick = &mut chain.picks[index];
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
        (pick.best_at, pick.wanted_tokens) = (chain.changes, Some(wish.tokens));
        let Some(next) = recheck.next(chain.picks, loads, chain.changes, index + 1) else {
            return (changed, None);
        };
        (index, wish) = next;
    }
}

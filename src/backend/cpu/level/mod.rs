//! The admissions of level, one after the other, in one kernel.
//!
//! Each admission waits for the one before it: what it changes moves the length that the next worker wants.
//! So what counts is how long one takes from end to end, and how few instructions it has. A rule that is
//! known as data ([`crate::rule::ProfileSpec::Level`]) needs no profile: its score rises to the wanted
//! length, falls past it, and falls faster past the margin,
//!
//! ```text
//! score(s) = age - |s - wanted| - overflow_weight * max(0, s - margin)
//! ```
//!
//! What does not fit these lanes is left to the general search, which answers the same.

mod field;

pub(crate) use self::field::{BlockBounds, MOST_GROUPS, SPAN};

use self::field::{Field, LIMIT, PLACES, Query};
use super::column::{Found, Marks};
use super::lanes::Lanes;
use super::levels::Levels;
use super::matrix::SparseBonuses;
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, put_back, worker_of};
use crate::batch::MAX_PROMPT_TOKENS;
use crate::pool::{BLOCK, Ordered};

/// What the admissions of a step work on.
pub(crate) struct Chain<'a> {
    pub ordered: &'a Ordered<'a>,
    pub marks: &'a mut Marks,
    pub block_bounds: &'a mut BlockBounds,
    /// The terms of the pool, where the rule has them.
    pub levels: &'a mut Levels,
    /// Bonuses on single workers, where some have any.
    pub pairs: Option<SparseBonuses<'a>>,
    pub loads: &'a mut Loads,
    /// Open workers by descending (load, index): the next one is the last.
    pub open: &'a mut Vec<u64>,
    pub picks: &'a mut Vec<Pick>,
    pub greatest_age: i64,
    pub drop_tokens: i64,
    /// Whether the repair asks what length was wanted.
    pub tolerance_tokens: Option<i64>,
    /// Changes that the repair has made to the picks of this step, plus one.
    pub changes: u32,
}

/// What a worker wants.
#[derive(Clone, Copy)]
struct LevelProfile {
    wanted: i64,
    margin: i64,
}

impl LevelProfile {
    /// The length that it would take most gladly.
    #[inline(always)]
    fn peak_tokens(self) -> i64 {
        self.wanted.min(self.margin).clamp(0, i64::from(MAX_PROMPT_TOKENS))
    }

    /// The score of a length, its age aside.
    #[inline(always)]
    fn score(self, overflow_weight: i64, tokens: i64) -> i64 {
        -(tokens - self.wanted).abs() - overflow_weight * (tokens - self.margin).max(0)
    }
}

/// What a worker wants whose load is `own` without the slot that is being filled.
#[inline(always)]
fn profile(loads: &Loads, worker: usize, own: i64, drop_tokens: i64) -> LevelProfile {
    let (others_mean, others_max) = loads.others(worker);
    LevelProfile { wanted: others_mean - drop_tokens - own, margin: others_max - own }
}

/// Which picks are looked at again.
#[derive(Clone, Copy)]
struct NeedsRecheck {
    tolerance_tokens: Option<i64>,
    drop_tokens: i64,
}

impl NeedsRecheck {
    /// The first pick from here on, and what its worker wants without it.
    #[inline(always)]
    fn next(self, picks: &[Pick], loads: &Loads, changes: u32, from: usize) -> Option<(usize, LevelProfile)> {
        for (index, pick) in picks.iter().enumerate().skip(from) {
            // Nothing has changed since it was looked at: neither would the answer.
            if pick.overdue || pick.best_at == changes {
                continue;
            }
            let profile =
                profile(loads, pick.worker, loads.without(pick.worker, pick.tokens), self.drop_tokens);
            let moved_tokens = pick.wanted_tokens.map(|then| (profile.peak_tokens() - then).abs());
            if self.tolerance_tokens.is_none_or(|most| moved_tokens.is_none_or(|moved| moved > most)) {
                return Some((index, profile));
            }
        }
        None
    }
}

/// What every search of a step shares.
#[derive(Clone, Copy)]
struct Terms {
    last: i64,
    /// Wanted lengths whose distances and ages fit the lanes: from, and how many.
    least_wanted: i64,
    wanted_span: i64,
    overflow_weight: i64,
    /// The least margin that keeps the price of every length in its lanes.
    least_margin: i64,
    drop_tokens: i64,
}

impl Terms {
    fn new(chain: &Chain<'_>) -> Self {
        let tokens = chain.ordered.tokens;
        let (shortest, last) = (i64::from(tokens[0]), i64::from(tokens[tokens.len() - 1]));
        let reach = SPAN - 1 - chain.greatest_age;
        let overflow_weight = chain.loads.costs().len() as i64 - 1;
        Self {
            last,
            least_wanted: last - reach,
            wanted_span: shortest - last + 2 * reach,
            overflow_weight,
            least_margin: last - SPAN / overflow_weight,
            drop_tokens: chain.drop_tokens,
        }
    }

    /// Whether all distances and ages of a search fit the lanes.
    #[inline(always)]
    fn fit(&self, profile: LevelProfile) -> bool {
        (0..=self.wanted_span).contains(&(profile.wanted - self.least_wanted))
    }

    #[inline(always)]
    fn query<L: Lanes>(&self, lanes: L, profile: LevelProfile, longest_tokens: i64) -> Query<L::V> {
        let margin = profile.margin.clamp(self.least_margin, self.last) as i32;
        Query {
            wanted: lanes.splat(profile.wanted as i32),
            wanted_place: lanes.splat(profile.wanted as i32 * PLACES),
            margin: lanes.splat(margin),
            overflow_weight: lanes.splat(self.overflow_weight as i32),
            overflow_weight_place: lanes.splat(self.overflow_weight as i32 * PLACES),
            longest: lanes.splat(longest_tokens.clamp(0, i64::from(i32::MAX)) as i32),
        }
    }

    /// Whether the price of this length may be greater than its lanes could say.
    #[inline(always)]
    fn is_cut(&self, profile: LevelProfile, tokens: i64) -> bool {
        profile.margin < self.least_margin && tokens > profile.margin
    }
}

/// Admits until no request fits any worker. Returns a worker whose search does not fit these lanes: the
/// caller decides for it.
#[inline(always)]
pub(super) fn place<L: Lanes>(lanes: L, chain: &mut Chain<'_>) -> Option<usize> {
    match chain.ordered.low.len() {
        1 => place_in::<_, 1>(lanes, chain),
        2 => place_in::<_, 2>(lanes, chain),
        3 => place_in::<_, 3>(lanes, chain),
        _ => place_in::<_, 4>(lanes, chain),
    }
}

#[inline(always)]
fn place_in<L: Lanes, const GROUPS: usize>(lanes: L, chain: &mut Chain<'_>) -> Option<usize> {
    let terms = Terms::new(chain);
    // What does not change stays in registers.
    let (pairs, tolerant, ordered) = (chain.pairs, chain.tolerance_tokens.is_some(), chain.ordered);
    let (loads, open, picks) = (&mut *chain.loads, &mut *chain.open, &mut *chain.picks);
    let many = 2 * open.len() > ordered.token_blocks.len();
    let mut field = Field::<GROUPS>::new(lanes, ordered, chain.marks, chain.block_bounds, many)?;
    let mut late = None;
    let mut unfit = None;
    while let Some(key) = open.pop() {
        let worker = worker_of(key);
        let profile = profile(loads, worker, loads.refilled(worker), terms.drop_tokens);
        if !terms.fit(profile) {
            unfit = Some(worker);
            break;
        }
        let query = terms.query(lanes, profile, loads.longest_tokens(worker));
        let found = field.search_late(lanes, &query, late.take());
        // A worker that finds no request now never will: rooms and the pool only shrink.
        let Some(mut found) = found else { continue };
        if terms.is_cut(profile, field.tokens_of(found.position)) {
            unfit = Some(worker);
            break;
        }
        if let Some(pairs) = pairs {
            let place = (worker, loads.longest_tokens(worker));
            found = field.better_with_bonus(pairs, &terms, profile, Some(found), place).unwrap_or(found);
        }
        let Found { position, score } = found;
        let tokens = field.tokens_of(position);
        loads.admit_alike(worker, tokens);
        field.take(position);
        if field.many {
            field.shut(position / BLOCK);
            late = Some(position / BLOCK);
        }
        let wanted_tokens = tolerant.then(|| profile.peak_tokens());
        picks.push(Pick { score, wanted_tokens, ..Pick::new(worker, position, tokens) });
        if loads.open_slots(worker) > 0 {
            put_back(open, loads.cost(worker), worker);
        }
    }
    if let Some(block) = late {
        field.reopen(lanes, block);
    }
    unfit
}

/// Looks again at the picks from the `first`th on, and replaces each that another waiting request now suits
/// better. Whether any was, and the pick whose search does not fit these lanes.
#[inline(always)]
pub(super) fn replace<L: Lanes>(lanes: L, chain: &mut Chain<'_>, first: usize) -> (bool, Option<usize>) {
    let recheck = NeedsRecheck { tolerance_tokens: chain.tolerance_tokens, drop_tokens: chain.drop_tokens };
    // Most often there is none.
    let Some((first, _)) = recheck.next(chain.picks, chain.loads, chain.changes, first) else {
        return (false, None);
    };
    match chain.ordered.low.len() {
        1 => replace_in::<_, 1>(lanes, chain, recheck, first),
        2 => replace_in::<_, 2>(lanes, chain, recheck, first),
        3 => replace_in::<_, 3>(lanes, chain, recheck, first),
        _ => replace_in::<_, 4>(lanes, chain, recheck, first),
    }
}

#[inline(always)]
fn replace_in<L: Lanes, const GROUPS: usize>(
    lanes: L,
    chain: &mut Chain<'_>,
    recheck: NeedsRecheck,
    first: usize,
) -> (bool, Option<usize>) {
    let terms = Terms::new(chain);
    let loads = &mut *chain.loads;
    let mut changed = false;
    let field = Field::<GROUPS>::new(lanes, chain.ordered, chain.marks, chain.block_bounds, false);
    let Some(mut field) = field else { return (false, None) };
    let mut from = first;
    while let Some((index, profile)) = recheck.next(chain.picks, loads, chain.changes, from) {
        from = index + 1;
        let pick = &mut chain.picks[index];
        if !terms.fit(profile) {
            return (changed, Some(index));
        }
        let bonus = chain.pairs.map_or(0, |pairs| pairs.units(pick.worker, pick.position));
        let current = profile.score(terms.overflow_weight, pick.tokens) + field.age_of(pick.position) + bonus;
        let longest = loads.longest_without(pick.worker, pick.tokens);
        let mut found = None;
        // Only a bonus scores more.
        if current < i64::from(LIMIT) {
            let wanted = (current + 1).max(1 - i64::from(LIMIT)) as i32;
            found = field.search(lanes, &terms.query(lanes, profile, longest), wanted);
            if found.is_some_and(|found| terms.is_cut(profile, field.tokens_of(found.position))) {
                return (changed, Some(index));
            }
        }
        if let Some(pairs) = chain.pairs {
            found = field.better_with_bonus(pairs, &terms, profile, found, (pick.worker, longest));
            found = found.filter(|found| found.score > current);
        }
        if let Some(Found { position, score }) = found {
            let tokens = field.tokens_of(position);
            changed = true;
            chain.changes += 1;
            field.give_back(lanes, pick.position);
            field.take(position);
            field.reopen(lanes, position / BLOCK);
            loads.change_tokens(pick.worker, tokens - pick.tokens);
            (pick.position, pick.tokens, pick.score) = (position, tokens, score);
        } else {
            pick.score = current;
        }
        // Its own change leaves it the best: its worker without the pick is as before, and the request that
        // went back was worse.
        (pick.best_at, pick.wanted_tokens) =
            (chain.changes, chain.tolerance_tokens.map(|_| profile.peak_tokens()));
    }
    (changed, None)
}

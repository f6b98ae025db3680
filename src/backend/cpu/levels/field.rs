//! The waiting requests as the kernel of level with the terms of the pool sees them, and its searches.

use super::Ranks;
use super::bends::Bends;
use crate::backend::cpu::column::{Found, Marks};
use crate::backend::cpu::lanes::Lanes;
use crate::backend::loads::Loads;
use crate::backend::picks::hold;
use crate::pool::{BLOCK, Ordered};
use crate::rule::LevelTerms;

/// What adds up to a score stays below this, each part of it.
const PART: i64 = 1 << 29;
/// Below every score.
const NOTHING: i32 = i32::MIN;
/// The base of a block without a free entry: what is taken off it stays in its lanes.
const NO_BASE: i32 = NOTHING / 4;
/// Groups of blocks that are searched here.
pub(crate) const MOST_GROUPS: usize = 16;

/// A line of the price of the others that bounds blocks.
#[derive(Clone, Copy, Debug)]
struct Bound {
    passed: usize,
    slope: i32,
    height: i32,
}

/// The terms of a step, and what is known of the waiting requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    unit: i32,
    fall: i32,
    /// See [`LevelTerms::mean`].
    wanted: [i64; 3],
    /// What the terms below were made of.
    rises: Vec<i64>,
    /// What each of the others adds to a slope, the lowest first, less than zero.
    falls: Vec<[i32; BLOCK]>,
    /// How many of the others a length passes from where on a token costs more than it gains.
    peak: usize,
    bounds: Vec<Bound>,
    /// What the others make a length cost.
    others: Bends,
    /// What a short request costs.
    reserve: Bends,
    ranks: Ranks,
    /// Bases of the entries of blocks that are known.
    base: Vec<[i32; BLOCK]>,
    /// Per group a bit for each block that is known.
    known: Vec<u16>,
    /// At least the greatest base of the free entries of each block, and the greatest score.
    tops: Vec<[i32; BLOCK]>,
    scores: Vec<[i32; BLOCK]>,
    begun: bool,
}

impl Levels {
    /// Takes the terms of a step; false where lanes do not hold them.
    pub(crate) fn take_terms(&mut self, terms: &LevelTerms<'_>, unit: i64, ordered: &Ordered<'_>) -> bool {
        self.begun = false;
        let last = ordered.tokens.last().map_or(0, |&tokens| i64::from(tokens));
        let priced = terms.reserve.0 < PART && terms.reserve.1.saturating_mul(last) < PART;
        let fits = unit < 1 << 20 && terms.rises[0] < 1 << 24 && priced;
        if !fits || ordered.low.len() > MOST_GROUPS {
            return false;
        }
        self.wanted = [terms.mean, terms.least, terms.base];
        self.reserve.set_reserve(terms);
        if self.unit != unit as i32 || self.rises != terms.rises {
            self.take_rises(terms.rises, unit);
        }
        (self.unit, self.fall) = (unit as i32, terms.fall as i32);
        true
    }

    fn take_rises(&mut self, rises: &[i64], unit: i64) {
        self.rises.clear();
        self.rises.extend(rises);
        let others = rises.len() - 1;
        self.others.set_slopes(rises.iter().rev().map(|&rise| rise as i32));
        self.falls.clear();
        self.falls.resize(others.div_ceil(BLOCK), [0; BLOCK]);
        for (fall, rises) in self.falls.as_flattened_mut().iter_mut().zip(rises.windows(2).rev()) {
            *fall = (rises[1] - rises[0]) as i32;
        }
        self.bounds.clear();
        let mut ahead = 0;
        while ahead < others {
            self.bounds.push(Bound { passed: others - ahead, slope: rises[ahead] as i32, height: 0 });
            ahead += 1 + ahead / 2;
        }
        self.peak = others - rises.iter().rposition(|&rise| rise >= unit).unwrap_or(0);
    }

    /// Makes room for so many workers and groups.
    pub(crate) fn hold(&mut self, workers: usize, groups: usize) {
        hold(&mut self.rises, workers);
        hold(&mut self.falls, workers.div_ceil(BLOCK));
        hold(&mut self.bounds, workers.min(64));
        self.others.hold(workers);
        self.reserve.hold(BLOCK);
        self.ranks.hold(workers);
        hold(&mut self.base, groups * BLOCK);
        hold(&mut self.tops, groups);
        hold(&mut self.scores, groups);
        hold(&mut self.known, groups);
    }

    /// Forgets the requests.
    pub(crate) fn reset(&mut self) {
        self.begun = false;
    }

    fn is_known(&self, block: usize) -> bool {
        self.known.get(block / BLOCK).is_some_and(|known| known >> (block % BLOCK) & 1 == 1)
    }

    /// An entry is free again.
    pub(crate) fn give_back(&mut self, position: usize) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        if self.begun && self.is_known(block) {
            let top = &mut self.tops[block / BLOCK][block % BLOCK];
            *top = (*top).max(self.base[block][lane]);
        }
    }

    #[inline(always)]
    fn begin<L: Lanes>(&mut self, lanes: L, ordered: &Ordered<'_>, marks: &Marks) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let groups = ordered.low.len();
        self.known.clear();
        self.known.resize(groups, 0);
        self.tops.resize(groups, [0; BLOCK]);
        self.scores.resize(groups, [0; BLOCK]);
        if self.base.len() < ordered.token_blocks.len() {
            self.base.resize(ordered.token_blocks.len(), [0; BLOCK]);
        }
        for group in 0..groups {
            // The longest of a block costs least.
            let high = lanes.load_unsigned(&ordered.high[group]);
            let reserve = self.reserve.heights(lanes, high, (0, i32::MAX));
            lanes.store(lanes.sub(lanes.load(&marks.block_ages[group]), reserve), &mut self.tops[group]);
        }
    }
}

/// What a worker wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    /// Its load as the ranks count it, and without the slot that is to be filled.
    level: i32,
    own: i64,
    /// By how much the least of the others lies above the latter.
    least: i64,
    /// The length wanted.
    pub wanted: i64,
}

/// The waiting requests by length, and the workers by load.
pub(super) struct Field<'a> {
    ordered: &'a Ordered<'a>,
    marks: &'a mut Marks,
    levels: &'a mut Levels,
    /// Whether lanes hold the loads.
    ranked: bool,
}

impl<'a> Field<'a> {
    #[inline(always)]
    pub(super) fn new<L: Lanes>(
        lanes: L,
        ordered: &'a Ordered<'a>,
        marks: &'a mut Marks,
        levels: &'a mut Levels,
        loads: &[i64],
    ) -> Self {
        levels.begin(lanes, ordered, marks);
        let ranked = levels.ranks.take(loads);
        Self { ordered, marks, levels, ranked }
    }

    /// Gives the loads back as they are now.
    #[inline(always)]
    pub(super) fn give_levels(&self, loads: &mut [i64]) {
        if self.ranked {
            self.levels.ranks.give(loads);
        }
    }

    #[inline(always)]
    pub(super) fn tokens_of(&self, position: usize) -> i64 {
        i64::from(self.ordered.token_blocks[position / BLOCK][position % BLOCK])
    }

    /// What a worker wants whose load is `own` without the slot that is to be filled; none where lanes do not
    /// hold its load.
    #[inline(always)]
    pub(super) fn query(&self, loads: &Loads, worker: usize, own: i64) -> Option<Query> {
        let ranks = &self.levels.ranks;
        let level = ranks.level_of(loads.anticipated()[worker]);
        if !self.ranked || level.abs() >= PART {
            return None;
        }
        let (mean, _) = loads.others(worker);
        let (mean, own) = (ranks.level_of(mean), ranks.level_of(own));
        let least = i64::from(ranks.least_without(level as i32)) - own;
        let wanted = LevelTerms::wanted_tokens(self.levels.wanted, mean - own, least);
        Some(Query { level: level as i32, own, least, wanted })
    }

    /// Whether lanes hold a search.
    #[inline(always)]
    pub(super) fn holds(&self, query: &Query) -> bool {
        let levels = &*self.levels;
        let tokens = self.ordered.tokens;
        let (shortest, last) = (i64::from(tokens[0]), i64::from(tokens[tokens.len() - 1]));
        let price = levels.rises[0].saturating_mul(last - query.least.min(shortest));
        let off = (last - query.wanted).abs().max((shortest - query.wanted).abs());
        query.own.abs() < PART && price < PART && i64::from(levels.unit).saturating_mul(off) < PART
    }

    /// Takes an entry.
    #[inline(always)]
    pub(super) fn take<L: Lanes>(&mut self, lanes: L, position: usize) {
        self.marks.take(position);
        let block = position / BLOCK;
        if self.levels.is_known(block) {
            self.tighten(lanes, block, lanes.load(&self.levels.base[block]));
        }
    }

    /// An entry is free again.
    #[inline(always)]
    pub(super) fn give_back(&mut self, position: usize) {
        self.marks.give_back(position);
        self.levels.give_back(position);
    }

    /// The worker that was priced last has another load.
    #[inline(always)]
    pub(super) fn follow(&mut self, load: i64) {
        let ranks = &mut self.levels.ranks;
        ranks.set_left_out(ranks.level_of(load) as i32);
    }

    /// The bases of a block.
    #[inline(always)]
    fn base_of<L: Lanes>(&mut self, lanes: L, block: usize) -> L::V {
        if self.levels.is_known(block) {
            return lanes.load(&self.levels.base[block]);
        }
        let ages = lanes.ages(&self.ordered.passed_blocks[block], self.marks.age);
        let ages = lanes.mul(ages, lanes.splat(self.levels.unit));
        let tokens = lanes.load_unsigned(&self.ordered.token_blocks[block]);
        let base = lanes.sub(ages, self.levels.reserve.heights(lanes, tokens, self.ends_of(block)));
        lanes.store(base, &mut self.levels.base[block]);
        self.levels.known[block / BLOCK] |= 1 << (block % BLOCK);
        self.tighten(lanes, block, base);
        base
    }

    /// Brings the greatest base of a block down to its free entries.
    #[inline(always)]
    fn tighten<L: Lanes>(&mut self, lanes: L, block: usize, base: L::V) {
        let top = lanes.top(lanes.keep(base, !self.marks.taken[block]));
        self.levels.tops[block / BLOCK][block % BLOCK] = top.max(NO_BASE);
    }

    /// The shortest and the longest of a block.
    #[inline(always)]
    fn ends_of(&self, block: usize) -> (i32, i32) {
        let (group, lane) = (block / BLOCK, block % BLOCK);
        (self.ordered.low[group][lane] as i32, self.ordered.high[group][lane] as i32)
    }

    /// The scores of a block.
    #[inline(always)]
    fn scores<L: Lanes>(&mut self, lanes: L, query: &Query, block: usize) -> L::V {
        let (own, (low, high)) = (query.own as i32, self.ends_of(block));
        let tokens = lanes.load_unsigned(&self.ordered.token_blocks[block]);
        let loads = lanes.add(tokens, lanes.splat(own));
        let price = self.levels.others.heights(lanes, loads, (low + own, high + own));
        let base = self.base_of(lanes, block);
        let terms = (self.levels.unit, self.levels.fall);
        let worth = lanes.add(base, distances(lanes, tokens, query.wanted as i32, terms));
        lanes.sub(worth, price)
    }

    /// The score of an entry, after [`Self::price`].
    #[inline(always)]
    pub(super) fn score_of<L: Lanes>(&mut self, lanes: L, query: &Query, position: usize) -> i64 {
        let mut scores = [0; BLOCK];
        let block = position / BLOCK;
        lanes.store(self.scores(lanes, query, block), &mut scores);
        i64::from(scores[position % BLOCK])
    }

    /// Works out what the others make a length cost on the worker, which is left out of the ranks.
    #[inline(always)]
    pub(super) fn price<L: Lanes>(&mut self, lanes: L, query: &Query) {
        let Levels { others, ranks, falls, bounds, .. } = &mut *self.levels;
        ranks.leave_out(lanes, query.level);
        let last = self.ordered.tokens[self.ordered.tokens.len() - 1] as i32;
        others.set_others(lanes, (ranks.others(), query.own as i32 + last), falls);
        for bound in bounds {
            bound.height = others.height_of_line(bound.passed);
        }
    }

    /// At least the greatest score of a free entry that fits, for each block; the greatest of all.
    #[inline(always)]
    fn bound_blocks<L: Lanes>(&mut self, lanes: L, query: &Query, longest: i32) -> i32 {
        let Levels { unit, fall, peak, others, bounds, tops, scores, .. } = &mut *self.levels;
        let (own, wanted) = (query.own as i32, query.wanted as i32);
        let peak = lanes.splat(wanted.min(others.bend(*peak - 1) - own));
        let longest = lanes.splat(longest);
        let mut first = lanes.splat(NOTHING);
        let ends = self.ordered.low.iter().zip(self.ordered.high).zip(&self.marks.full);
        for (((low, high), &full), (top, into)) in ends.zip(tops.iter().zip(scores)) {
            let low = lanes.load_unsigned(low);
            let high = lanes.min(lanes.load_unsigned(high), longest);
            let nearest = lanes.min(lanes.max(peak, low), high);
            let loads = lanes.add(nearest, lanes.splat(own));
            let mut price = lanes.splat(0);
            for &Bound { slope, height, .. } in bounds.iter() {
                let rise = lanes.mul(loads, lanes.splat(slope));
                price = lanes.max(price, lanes.add(rise, lanes.splat(height)));
            }
            let worth = lanes.add(lanes.load(top), distances(lanes, nearest, wanted, (*unit, *fall)));
            let scores = lanes.keep(lanes.sub(worth, price), lanes.at_most(!full, low, longest));
            lanes.store(scores, into);
            first = lanes.max(first, scores);
        }
        lanes.top(first)
    }

    /// The best free entry of at most `longest` tokens that scores at least so much, after [`Self::price`]:
    /// greatest score, then earliest arrival.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(
        &mut self,
        lanes: L,
        query: &Query,
        longest: i64,
        least: i32,
    ) -> Option<Found> {
        let tokens = self.ordered.tokens;
        let longest = longest.min(i64::from(tokens[tokens.len() - 1]));
        if longest < i64::from(tokens[0]) {
            return None;
        }
        let mut best = (least, None);
        let longest = longest as i32;
        let first = self.bound_blocks(lanes, query, longest);
        if first == NOTHING || first < least {
            return None;
        }
        // The most promising block leaves the fewest others.
        let mut promising = 0;
        for (group, scores) in self.levels.scores.iter().enumerate() {
            let lane = lanes.equal(lanes.load(scores), lanes.splat(first));
            if lane != 0 {
                promising = group * BLOCK + lane.trailing_zeros() as usize;
                break;
            }
        }
        let (mut block, mut group, mut left) = (promising, 0, u16::MAX);
        if promising < BLOCK {
            left &= !(1 << promising);
        }
        loop {
            self.look_into(lanes, query, (block, longest), &mut best);
            let reached = lanes.splat(best.0.max(NOTHING + 1));
            let mut reach = left & !lanes.greater(reached, lanes.load(&self.levels.scores[group]));
            while reach == 0 {
                group += 1;
                let Some(scores) = self.levels.scores.get(group) else {
                    return best.1.map(|position| Found { position, score: i64::from(best.0) });
                };
                left = if promising / BLOCK == group { !(1 << (promising % BLOCK)) } else { u16::MAX };
                reach = left & !lanes.greater(reached, lanes.load(scores));
            }
            let lane = reach.trailing_zeros() as usize;
            left &= !(1 << lane);
            block = group * BLOCK + lane;
        }
    }

    /// Scores one block and keeps the better of its best and `best`.
    #[inline(always)]
    fn look_into<L: Lanes>(
        &mut self,
        lanes: L,
        query: &Query,
        (block, longest): (usize, i32),
        best: &mut (i32, Option<usize>),
    ) {
        let scores = self.scores(lanes, query, block);
        let tokens = lanes.load_unsigned(&self.ordered.token_blocks[block]);
        let fit = lanes.at_most(!self.marks.taken[block], tokens, lanes.splat(longest));
        let score = lanes.top(lanes.keep(scores, fit));
        if score < best.0 || score == NOTHING {
            return;
        }
        if score > best.0 {
            *best = (score, None);
        }
        let mut equals = fit & lanes.equal(scores, lanes.splat(score));
        let arrived = |position: usize| self.ordered.arrived_blocks[position / BLOCK][position % BLOCK];
        while equals != 0 {
            let position = block * BLOCK + equals.trailing_zeros() as usize;
            equals &= equals - 1;
            if best.1.is_none_or(|other| arrived(position) < arrived(other)) {
                best.1 = Some(position);
            }
        }
    }
}

/// What being off the wanted length is worth, where a token short of it and one past it cost so many units.
#[inline(always)]
fn distances<L: Lanes>(lanes: L, tokens: L::V, wanted: i32, (unit, fall): (i32, i32)) -> L::V {
    let past = lanes.sub(tokens, lanes.splat(wanted));
    lanes.min(lanes.mul(past, lanes.splat(unit)), lanes.mul(past, lanes.splat(-fall)))
}

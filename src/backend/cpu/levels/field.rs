//! The waiting requests as the kernel of level with the terms of the pool sees them, and its searches.

use super::Ranks;
use super::bends::{Bends, Reserve};
use crate::backend::cpu::column::{Found, Marks};
use crate::backend::cpu::lanes::Lanes;
use crate::backend::loads::Loads;
use crate::backend::picks::hold;
use crate::pool::{BLOCK, Ordered};
use crate::rule::LevelTerms;
use crate::score::Age;

/// What adds up to a score stays below this, each part of it.
const PART: i64 = 1 << 29;
/// Below every score.
const NOTHING: i32 = i32::MIN;
/// The base of a block without a free entry: what is taken off it stays in its lanes.
const NO_BASE: i32 = NOTHING / 4;
/// Groups of blocks that are searched here.
pub(crate) const MOST_GROUPS: usize = 16;
/// Lines of the price of the others, and of the price of short requests, that are looked at together within a
/// block: most often no more bend there.
const OTHERS_TOGETHER: usize = 4;
const RESERVE_TOGETHER: usize = 2;
/// About as many as the price of short requests has.
const RESERVE_LINES: usize = BLOCK / 2;

/// A line of the price of the others that bounds blocks.
#[derive(Clone, Copy, Debug)]
struct Bound {
    passed: usize,
    slope: i32,
}

/// What lanes hold of a search.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    /// By how much the least of the others lies above a worker's own load, at least.
    least: i64,
    /// Lengths wanted: from, up to.
    wanted: (i64, i64),
}

/// The terms of a step, and what is known of the waiting requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    unit: i32,
    fall: i32,
    /// See [`LevelTerms::mean`].
    wanted: [i64; 3],
    limits: Limits,
    /// What the terms below were made of.
    rises: Vec<i64>,
    /// What each of the others adds to a slope, the lowest first, less than zero.
    falls: Vec<[i32; BLOCK]>,
    /// How many of the others a length passes from where on a token costs more than it gains.
    peak: usize,
    bounds: Vec<Bound>,
    /// What the others make a length cost: see [`Bends`].
    slopes: Vec<i32>,
    heights: Vec<i32>,
    ranks: Ranks,
    /// What a short request costs.
    reserve: Reserve,
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
        let (Some(&shortest), Some(&last)) = (ordered.tokens.first(), ordered.tokens.last()) else {
            return false;
        };
        let (shortest, last) = (i64::from(shortest), i64::from(last));
        let priced = terms.reserve.0 < PART && terms.reserve.1.saturating_mul(last) < PART;
        let fits = (1..1 << 20).contains(&unit) && terms.rises[0] < 1 << 24 && priced;
        let (furthest, off) = ((PART - 1) / terms.rises[0].max(1), (PART - 1) / unit.max(1));
        if !fits || last - shortest > furthest || ordered.low.len() > MOST_GROUPS {
            return false;
        }
        self.limits = Limits { least: last - furthest, wanted: (last - off, shortest + off) };
        self.wanted = [terms.mean, terms.least, terms.base];
        self.reserve.set(terms);
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
        let blocks = others.div_ceil(BLOCK);
        self.slopes.clear();
        self.slopes.extend(rises.iter().rev().map(|&rise| rise as i32));
        self.slopes.resize(blocks * BLOCK + 1, rises[0] as i32);
        self.heights.clear();
        self.heights.resize(blocks * BLOCK + 1, 0);
        self.falls.clear();
        self.falls.resize(blocks, [0; BLOCK]);
        for (fall, rises) in self.falls.as_flattened_mut().iter_mut().zip(rises.windows(2).rev()) {
            *fall = (rises[1] - rises[0]) as i32;
        }
        self.bounds.clear();
        // Of many lines, the two steepest bound no block that the third does not.
        let mut ahead = if others < BLOCK { 0 } else { 2 };
        while ahead < others {
            self.bounds.push(Bound { passed: others - ahead, slope: rises[ahead] as i32 });
            ahead += 1 + ahead / 2;
        }
        self.peak = others - rises.iter().rposition(|&rise| rise >= unit).unwrap_or(0);
    }

    /// Makes room for so many workers and groups.
    pub(crate) fn hold(&mut self, workers: usize, groups: usize) {
        let blocks = workers.div_ceil(BLOCK);
        hold(&mut self.rises, workers);
        hold(&mut self.falls, blocks);
        hold(&mut self.bounds, workers.min(64));
        hold(&mut self.slopes, blocks * BLOCK + 1);
        hold(&mut self.heights, blocks * BLOCK + 1);
        self.reserve.hold();
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

    /// What the length wanted is made of: see [`LevelTerms::mean`].
    pub(super) fn wanted(&self) -> [i64; 3] {
        self.wanted
    }

    /// An entry is free again.
    pub(crate) fn give_back(&mut self, position: usize) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        if self.begun && self.known[block / BLOCK] >> (block % BLOCK) & 1 == 1 {
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
        let reserve = self.reserve.bends();
        for ((tops, high), ages) in self.tops.iter_mut().zip(ordered.high).zip(&marks.block_ages) {
            // The longest of a block costs least.
            let high = lanes.load_unsigned(high);
            let reserve = reserve.heights::<_, RESERVE_LINES>(lanes, high, (0, i32::MAX));
            lanes.store(lanes.sub(lanes.load(ages), reserve), tops);
        }
    }
}

/// What a worker wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Its anticipated load, with the slot that is to be filled and without it, and the least of the others.
    level: i64,
    own: i64,
    least: i64,
    /// The length wanted.
    pub tokens: i64,
}

impl Wish {
    #[inline(always)]
    pub(super) fn new(wanted: [i64; 3], loads: &Loads, worker: usize, own: i64, least: i64) -> Self {
        let (mean, _) = loads.others(worker);
        let tokens = LevelTerms::wanted_tokens(wanted, mean - own, least - own);
        Self { level: loads.anticipated()[worker], own, least, tokens }
    }
}

/// A wish as lanes hold it: loads as the ranks count them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    level: i32,
    own: i32,
    wanted: i32,
}

/// The waiting requests by length, and the workers by load.
pub(super) struct Field<'a> {
    tokens: &'a [[u32; BLOCK]],
    passed: &'a [[u32; BLOCK]],
    arrived: &'a [[u64; BLOCK]],
    low: &'a [[u32; BLOCK]],
    high: &'a [[u32; BLOCK]],
    /// The shortest and the longest.
    ends: (i32, i32),
    taken: &'a mut [u16],
    full: &'a mut [u16],
    age: Age,
    unit: i32,
    fall: i32,
    wanted: [i64; 3],
    limits: Limits,
    falls: &'a [[i32; BLOCK]],
    peak: usize,
    bounds: &'a [Bound],
    slopes: &'a [i32],
    heights: &'a mut [i32],
    reserve: Bends<'a>,
    ranks: &'a mut Ranks,
    base: &'a mut [[i32; BLOCK]],
    known: &'a mut [u16],
    tops: &'a mut [[i32; BLOCK]],
    scores: &'a mut [[i32; BLOCK]],
}

impl<'a> Field<'a> {
    /// None where lanes do not hold the loads.
    #[inline(always)]
    pub(super) fn new<L: Lanes>(
        lanes: L,
        ordered: &'a Ordered<'a>,
        marks: &'a mut Marks,
        levels: &'a mut Levels,
        loads: &[i64],
    ) -> Option<Self> {
        levels.begin(lanes, ordered, marks);
        if !levels.ranks.take(loads) {
            return None;
        }
        let (blocks, groups) = (ordered.token_blocks.len(), ordered.low.len());
        Some(Self {
            tokens: ordered.token_blocks,
            passed: &ordered.passed_blocks[..blocks],
            arrived: &ordered.arrived_blocks[..blocks],
            low: ordered.low,
            high: &ordered.high[..groups],
            ends: (*ordered.tokens.first()? as i32, *ordered.tokens.last()? as i32),
            taken: &mut marks.taken[..blocks],
            full: &mut marks.full[..groups],
            age: marks.age,
            unit: levels.unit,
            fall: levels.fall,
            wanted: levels.wanted,
            limits: levels.limits,
            falls: &levels.falls,
            peak: levels.peak,
            bounds: &levels.bounds,
            slopes: &levels.slopes,
            heights: &mut levels.heights,
            reserve: levels.reserve.bends(),
            ranks: &mut levels.ranks,
            base: &mut levels.base[..blocks],
            known: &mut levels.known[..groups],
            tops: &mut levels.tops[..groups],
            scores: &mut levels.scores[..groups],
        })
    }

    /// Gives the loads back as they are now.
    #[inline(always)]
    pub(super) fn give_levels(&self, loads: &mut [i64]) {
        self.ranks.give(loads);
    }

    #[inline(always)]
    pub(super) fn tokens_of(&self, position: usize) -> i64 {
        i64::from(self.tokens[position / BLOCK][position % BLOCK])
    }

    /// What a worker wants for a slot that is to be filled.
    #[inline(always)]
    pub(super) fn wish(&self, loads: &Loads, worker: usize) -> Wish {
        let least = self.ranks.least_without(loads.anticipated()[worker]);
        Wish::new(self.wanted, loads, worker, loads.refilled(worker), least)
    }

    /// The search for a wish; none where lanes do not hold it.
    #[inline(always)]
    pub(super) fn query(&self, wish: &Wish) -> Option<Query> {
        let (level, own) = (self.ranks.level_of(wish.level), self.ranks.level_of(wish.own));
        let (from, to) = self.limits.wanted;
        let holds = level.abs().max(own.abs()) < PART
            && wish.least - wish.own >= self.limits.least
            && (from..=to).contains(&wish.tokens);
        holds.then_some(Query { level: level as i32, own: own as i32, wanted: wish.tokens as i32 })
    }

    #[inline(always)]
    fn is_known(&self, block: usize) -> bool {
        self.known[block / BLOCK] >> (block % BLOCK) & 1 == 1
    }

    /// Takes an entry.
    #[inline(always)]
    pub(super) fn take<L: Lanes>(&mut self, lanes: L, position: usize) {
        let block = position / BLOCK;
        self.taken[block] |= 1 << (position % BLOCK);
        if self.taken[block] == u16::MAX {
            self.full[block / BLOCK] |= 1 << (block % BLOCK);
        }
        if self.is_known(block) {
            self.tighten(lanes, block, lanes.load(&self.base[block]));
        }
    }

    /// An entry is free again.
    #[inline(always)]
    pub(super) fn give_back(&mut self, position: usize) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        self.taken[block] &= !(1 << lane);
        self.full[block / BLOCK] &= !(1 << (block % BLOCK));
        if self.is_known(block) {
            let top = &mut self.tops[block / BLOCK][block % BLOCK];
            *top = (*top).max(self.base[block][lane]);
        }
    }

    /// The worker that was priced last has another load.
    #[inline(always)]
    pub(super) fn follow(&mut self, load: i64) {
        self.ranks.set_left_out(self.ranks.level_of(load) as i32);
    }

    /// The bases of a block.
    #[inline(always)]
    fn base_of<L: Lanes>(&mut self, lanes: L, block: usize) -> L::V {
        if self.is_known(block) {
            return lanes.load(&self.base[block]);
        }
        let ages = lanes.mul(lanes.ages(&self.passed[block], self.age), lanes.splat(self.unit));
        let tokens = lanes.load_unsigned(&self.tokens[block]);
        let reserve = self.reserve.heights::<_, RESERVE_TOGETHER>(lanes, tokens, self.ends_of(block));
        let base = lanes.sub(ages, reserve);
        lanes.store(base, &mut self.base[block]);
        self.known[block / BLOCK] |= 1 << (block % BLOCK);
        self.tighten(lanes, block, base);
        base
    }

    /// Brings the greatest base of a block down to its free entries.
    #[inline(always)]
    fn tighten<L: Lanes>(&mut self, lanes: L, block: usize, base: L::V) {
        let top = lanes.top(lanes.keep(base, !self.taken[block]));
        self.tops[block / BLOCK][block % BLOCK] = top.max(NO_BASE);
    }

    /// The shortest and the longest of a block.
    #[inline(always)]
    fn ends_of(&self, block: usize) -> (i32, i32) {
        let (group, lane) = (block / BLOCK, block % BLOCK);
        (self.low[group][lane] as i32, self.high[group][lane] as i32)
    }

    /// What the others make a length cost on the worker that is left out.
    #[inline(always)]
    fn others(&self) -> Bends<'_> {
        Bends { at: self.ranks.others(), slopes: self.slopes, heights: self.heights }
    }

    /// The score of an entry, after [`Self::price`].
    #[inline(always)]
    pub(super) fn score_of<L: Lanes>(&mut self, lanes: L, query: &Query, position: usize) -> i64 {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        self.base_of(lanes, block);
        let tokens = self.tokens[block][lane] as i32;
        let price = self.others().height(lanes, tokens + query.own);
        let past = tokens - query.wanted;
        let distance = (past * self.unit).min(past * -self.fall);
        i64::from(self.base[block][lane] + distance - price)
    }

    /// Works out what the others make a length cost on the worker, which is left out of the ranks.
    #[inline(always)]
    pub(super) fn price<L: Lanes>(&mut self, lanes: L, query: &Query) {
        let reach = query.own + self.ends.1;
        self.ranks.leave_out(lanes, (query.level, reach), self.falls, self.heights);
    }

    /// At least the greatest score of a free entry that fits, for each block; the greatest of all.
    #[inline(always)]
    fn bound_blocks<L: Lanes>(&mut self, lanes: L, query: &Query, longest: i32) -> i32 {
        let peak = query.wanted.min(self.others().bend(self.peak - 1) - query.own);
        let mut first = lanes.splat(NOTHING);
        let mut group = 0;
        // Two groups share what a line is loaded for.
        while group + 2 <= self.scores.len() {
            first = lanes.max(first, self.bound_groups::<_, 2>(lanes, query, (peak, longest), group));
            group += 2;
        }
        if group < self.scores.len() {
            first = lanes.max(first, self.bound_groups::<_, 1>(lanes, query, (peak, longest), group));
        }
        lanes.top(first)
    }

    /// [`Self::bound_blocks`] for some groups: the greatest of each lane.
    #[inline(always)]
    fn bound_groups<L: Lanes, const GROUPS: usize>(
        &mut self,
        lanes: L,
        query: &Query,
        (peak, longest): (i32, i32),
        from: usize,
    ) -> L::V {
        let (none, longest) = (lanes.splat(0), lanes.splat(longest));
        let (low, high) = (&self.low[from..from + GROUPS], &self.high[from..from + GROUPS]);
        let (full, tops) = (&self.full[from..from + GROUPS], &self.tops[from..from + GROUPS]);
        let into = &mut self.scores[from..from + GROUPS];
        let (mut nearest, mut loads, mut price) = ([none; GROUPS], [none; GROUPS], [none; GROUPS]);
        for at in 0..GROUPS {
            let high = lanes.min(lanes.load_unsigned(&high[at]), longest);
            nearest[at] = lanes.min(lanes.max(lanes.splat(peak), lanes.load_unsigned(&low[at])), high);
            loads[at] = lanes.add(nearest[at], lanes.splat(query.own));
        }
        for &Bound { passed, slope } in self.bounds {
            let (slope, height) = (lanes.splat(slope), lanes.splat(self.heights[passed]));
            for at in 0..GROUPS {
                price[at] = lanes.max(price[at], lanes.add(lanes.mul(loads[at], slope), height));
            }
        }
        let mut first = lanes.splat(NOTHING);
        for at in 0..GROUPS {
            let distances = distances(lanes, nearest[at], query.wanted, (self.unit, self.fall));
            let scores = lanes.sub(lanes.add(lanes.load(&tops[at]), distances), price[at]);
            let fit = lanes.at_most(!full[at], lanes.load_unsigned(&low[at]), longest);
            let scores = lanes.keep(scores, fit);
            lanes.store(scores, &mut into[at]);
            first = lanes.max(first, scores);
        }
        first
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
        let (shortest, last) = self.ends;
        if longest < i64::from(shortest) {
            return None;
        }
        let longest = longest.min(i64::from(last)) as i32;
        let first = self.bound_blocks(lanes, query, longest);
        if first == NOTHING || first < least {
            return None;
        }
        // The most promising block leaves the fewest others. No branch could foresee its group.
        let mut promising = 0;
        for (group, scores) in self.scores.iter().enumerate() {
            let lane = lanes.equal(lanes.load(scores), lanes.splat(first));
            let block = group * BLOCK + lane.trailing_zeros() as usize;
            promising = if lane != 0 { block } else { promising };
        }
        let mut best = (least, None);
        let (mut block, mut group, mut left) = (promising, 0, u16::MAX);
        if promising < BLOCK {
            left &= !(1 << promising);
        }
        loop {
            self.look_into(lanes, query, (block, longest), &mut best);
            let reached = lanes.splat(best.0.max(NOTHING + 1));
            let mut reach = left & !lanes.greater(reached, lanes.load(&self.scores[group]));
            while reach == 0 {
                group += 1;
                let Some(scores) = self.scores.get(group) else {
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
        let (own, (low, high)) = (query.own, self.ends_of(block));
        let base = self.base_of(lanes, block);
        let tokens = lanes.load_unsigned(&self.tokens[block]);
        let loads = lanes.add(tokens, lanes.splat(own));
        let price = self.others().heights::<_, OTHERS_TOGETHER>(lanes, loads, (low + own, high + own));
        let distances = distances(lanes, tokens, query.wanted, (self.unit, self.fall));
        let scores = lanes.sub(lanes.add(base, distances), price);
        let fit = lanes.at_most(!self.taken[block], tokens, lanes.splat(longest));
        let score = lanes.top(lanes.keep(scores, fit));
        if score < best.0 || score == NOTHING {
            return;
        }
        if score > best.0 {
            *best = (score, None);
        }
        let mut equals = fit & lanes.equal(scores, lanes.splat(score));
        let arrived = |position: usize| self.arrived[position / BLOCK][position % BLOCK];
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

//! The search of one column for level with the terms of the pool ([`crate::rule::LevelTerms`]).
//!
//! Its profile bends at the load of every other worker, which is too many knots to add up for each block.
//! Three things spare that:
//!
//! * What does not change in a step, ages and the price of short requests, is one number for each request,
//!   worked out when its block is first looked at.
//! * Blocks are bounded by a profile with fewer knots: each of some stretches of workers counts as if all of
//!   it lay where its highest lies, which costs no length more than the true profile does.
//! * A block that is looked into is short: below it all knots together are a line, and few lie within it.
//!   What is below is added up over the knots, sixteen at a time, once for the block.

use super::column::{Found, Marks};
use super::dense::TooWide;
use super::lanes::Lanes;
use crate::backend::picks::hold;
use crate::pool::{BLOCK, Ordered};
use crate::rule::LevelTerms;
use crate::score::Knot;

/// What adds up to a score stays below this, each part of it.
const PART: i64 = 1 << 29;
/// Further away than any length.
const FAR: i64 = 1 << 29;
/// Below every score.
const NOTHING: i32 = i32::MIN;
/// Groups of blocks that are searched here.
pub(crate) const MOST_GROUPS: usize = 16;

/// One search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LevelQuery<'a> {
    /// The anticipated loads of all, greatest first, and which is the worker's own.
    pub levels: &'a [i64],
    pub own_at: usize,
    /// The worker's load without the slot that is to be filled.
    pub own: i64,
    /// The length wanted.
    pub wanted: i64,
    /// Longest entry that fits.
    pub longest: i64,
    /// A taken entry that only a better one is sought for; none for any.
    pub instead_of: Option<(usize, i64)>,
}

/// The terms of a step, and what is known of the waiting requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    unit: i32,
    fall: i32,
    /// Units that a token costs where this many others lie below.
    below: Vec<i32>,
    /// What each of the others adds to that, the highest first.
    weights: Vec<[i32; BLOCK]>,
    /// Where stretches of them begin, and what each adds.
    stretches: Vec<(usize, i32)>,
    /// The stretch from which on a token costs more than it gains.
    peak: usize,
    reserve: (i32, i32),
    reserve_knots: Vec<(i32, i32)>,
    /// Ages and reserves of the entries of blocks that are known.
    base: Vec<[i32; BLOCK]>,
    known: Vec<u16>,
    /// At least the greatest of the free entries of each block.
    tops: Vec<[i32; BLOCK]>,
    begun: bool,
    /// Loads of the others above the worker's.
    above: Vec<[i32; BLOCK]>,
    bounds: Vec<[i32; BLOCK]>,
}

impl Levels {
    /// Takes the terms of a step; false where lanes do not hold them.
    pub(crate) fn take_terms(&mut self, terms: &LevelTerms<'_>, unit: i64, groups: usize) -> bool {
        self.begun = false;
        let others = terms.rises.len() - 1;
        let fits = unit < 1 << 20 && terms.reserve.0 < PART && terms.rises[0] < 1 << 24;
        if !fits || groups > MOST_GROUPS {
            return false;
        }
        (self.unit, self.fall) = (unit as i32, terms.fall as i32);
        self.reserve = (terms.reserve.0 as i32, terms.reserve.1 as i32);
        let bend = |knot: &Knot| (knot.at_tokens as i32, knot.weight as i32);
        self.reserve_knots.clear();
        self.reserve_knots.extend(terms.reserve_knots.iter().map(bend));
        self.below.clear();
        self.below.extend(terms.rises.iter().rev().map(|&rise| rise as i32));
        self.weights.clear();
        self.weights.resize(others.div_ceil(BLOCK), [0; BLOCK]);
        for (at, rises) in terms.rises.windows(2).enumerate() {
            self.weights[at / BLOCK][at % BLOCK] = (rises[0] - rises[1]) as i32;
        }
        self.stretches.clear();
        let mut from = 0;
        while from < others {
            // The highest one by one: they cost most.
            let to = (from + 1 + from / 3).min(others);
            self.stretches.push((from, (terms.rises[from] - terms.rises[to]) as i32));
            from = to;
        }
        let costs_more = |&(from, _): &(usize, i32)| terms.rises[from] >= unit;
        self.peak = self.stretches.iter().rposition(costs_more).map_or(0, |at| self.stretches[at].0);
        self.above.clear();
        self.above.resize(self.weights.len(), [i32::MAX; BLOCK]);
        true
    }

    /// Makes room for so many workers and groups.
    pub(crate) fn hold(&mut self, workers: usize, groups: usize) {
        hold(&mut self.below, workers);
        hold(&mut self.weights, workers.div_ceil(BLOCK));
        hold(&mut self.above, workers.div_ceil(BLOCK));
        hold(&mut self.stretches, workers.min(64));
        hold(&mut self.reserve_knots, 8);
        hold(&mut self.base, groups * BLOCK);
        for column in [&mut self.tops, &mut self.bounds] {
            hold(column, groups);
        }
        hold(&mut self.known, groups);
    }

    /// Forgets the requests.
    pub(crate) fn reset(&mut self) {
        self.begun = false;
    }

    fn is_known(&self, block: usize) -> bool {
        self.known.get(block / BLOCK).is_some_and(|known| known >> (block % BLOCK) & 1 == 1)
    }

    /// An entry is taken: its block holds less.
    pub(crate) fn take(&mut self, position: usize, taken: &[u16]) {
        let block = position / BLOCK;
        if self.begun && self.is_known(block) {
            let mut top = NOTHING;
            for (lane, &base) in self.base[block].iter().enumerate() {
                let free = taken[block] >> lane & 1 == 0;
                top = top.max(if free { base } else { NOTHING });
            }
            self.tops[block / BLOCK][block % BLOCK] = top.max(NOTHING / 4);
        }
    }

    /// An entry is free again.
    pub(crate) fn give_back(&mut self, position: usize) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        if self.begun && self.is_known(block) {
            let top = &mut self.tops[block / BLOCK][block % BLOCK];
            *top = (*top).max(self.base[block][lane]);
        }
    }

    /// What a short request costs.
    #[inline(always)]
    fn reserves<L: Lanes>(&self, lanes: L, tokens: L::V) -> L::V {
        let mut sum = lanes.sub(lanes.mul(tokens, lanes.splat(self.reserve.1)), lanes.splat(self.reserve.0));
        let mut at = 0;
        // Loops, no closures: these may be compiled apart, without the instruction set.
        while at < self.reserve_knots.len() {
            sum = lanes.sub(sum, lost(lanes, tokens, self.reserve_knots[at]));
            at += 1;
        }
        sum
    }

    #[inline(always)]
    fn begin<L: Lanes>(&mut self, lanes: L, ordered: &Ordered<'_>, marks: &Marks) {
        let groups = ordered.low.len();
        self.begun = true;
        self.known.clear();
        self.known.resize(groups, 0);
        self.tops.resize(groups, [0; BLOCK]);
        self.bounds.resize(groups, [0; BLOCK]);
        if self.base.len() < ordered.token_blocks.len() {
            self.base.resize(ordered.token_blocks.len(), [0; BLOCK]);
        }
        for group in 0..groups {
            // The price falls as lengths grow.
            let reserves = self.reserves(lanes, lanes.load_unsigned(&ordered.high[group]));
            let tops = lanes.add(lanes.load(&marks.block_ages[group]), reserves);
            lanes.store(tops, &mut self.tops[group]);
        }
    }

    /// Ages and reserves of a block.
    #[inline(always)]
    fn base_of<L: Lanes>(&mut self, lanes: L, ordered: &Ordered<'_>, marks: &Marks, block: usize) -> L::V {
        if self.is_known(block) {
            return lanes.load(&self.base[block]);
        }
        let ages = lanes.mul(lanes.ages(&ordered.passed_blocks[block], marks.age), lanes.splat(self.unit));
        let base = lanes.add(ages, self.reserves(lanes, lanes.load_unsigned(&ordered.token_blocks[block])));
        lanes.store(base, &mut self.base[block]);
        self.known[block / BLOCK] |= 1 << (block % BLOCK);
        let free = !marks.taken[block];
        let top = if free == 0 { NOTHING / 4 } else { lanes.greatest(base, free) };
        self.tops[block / BLOCK][block % BLOCK] = top;
        base
    }

    /// What the others cost a length, and how many of them lie below it.
    #[inline(always)]
    fn cost_of<L: Lanes>(&self, lanes: L, tokens: i32) -> (i32, usize) {
        let (length, mut sum, mut count) = (lanes.splat(tokens), lanes.splat(0), 0);
        let mut at = 0;
        while at < self.above.len() {
            let above = lanes.load(&self.above[at]);
            let past = lanes.max(lanes.sub(length, above), lanes.splat(0));
            sum = lanes.add(sum, lanes.mul(past, lanes.load(&self.weights[at])));
            count += lanes.greater(length, above).count_ones() as usize;
            at += 1;
        }
        let mut values = [0; BLOCK];
        lanes.store(sum, &mut values);
        let mut cost = 0i32;
        for value in values {
            cost = cost.wrapping_add(value);
        }
        (cost, count)
    }

    /// What being off the wanted length is worth.
    #[inline(always)]
    fn distances<L: Lanes>(&self, lanes: L, tokens: L::V, wanted: i32) -> L::V {
        let past = lanes.sub(tokens, lanes.splat(wanted));
        let (rising, falling) = (lanes.splat(self.unit), lanes.splat(-self.fall));
        lanes.min(lanes.mul(past, rising), lanes.mul(past, falling))
    }

    /// The scores of a block.
    #[inline(always)]
    fn scores<L: Lanes>(
        &mut self,
        lanes: L,
        ordered: &Ordered<'_>,
        marks: &Marks,
        (block, wanted): (usize, i32),
    ) -> L::V {
        let tokens = lanes.load_unsigned(&ordered.token_blocks[block]);
        let (group, lane) = (block / BLOCK, block % BLOCK);
        let (low, high) = (ordered.low[group][lane] as i32, ordered.high[group][lane] as i32);
        let (cost, below) = self.cost_of(lanes, low);
        let past = lanes.sub(tokens, lanes.splat(low));
        let mut costs = lanes.add(lanes.splat(cost), lanes.mul(past, lanes.splat(self.below[below])));
        // Who lies within the block: the highest come first.
        let mut at = self.below.len() - 1 - below;
        while at > 0 {
            at -= 1;
            let above = self.above[at / BLOCK][at % BLOCK];
            if above >= high {
                break;
            }
            costs = lanes.add(costs, lost(lanes, tokens, (above, self.weights[at / BLOCK][at % BLOCK])));
        }
        let base = self.base_of(lanes, ordered, marks, block);
        lanes.sub(lanes.add(base, self.distances(lanes, tokens, wanted)), costs)
    }
}

#[inline(always)]
fn lost<L: Lanes>(lanes: L, tokens: L::V, (at, weight): (i32, i32)) -> L::V {
    let past = lanes.max(lanes.sub(tokens, lanes.splat(at)), lanes.splat(0));
    lanes.mul(past, lanes.splat(weight))
}

/// The best free entry, with the score of the one that it is sought for, if there is one: greatest score,
/// then earliest arrival.
#[inline(always)]
pub(super) fn search<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &LevelQuery<'_>,
    marks: &Marks,
    levels: &mut Levels,
) -> Result<(i64, Option<Found>), TooWide> {
    let others = levels.below.len() - 1;
    let (shortest, last) =
        (i64::from(ordered.tokens[0]), i64::from(ordered.tokens[ordered.tokens.len() - 1]));
    let longest = last.min(query.longest);
    let lowest = query.levels[if query.own_at == others { others - 1 } else { others }] - query.own;
    let greatest = last.max(query.instead_of.map_or(0, |(_, tokens)| tokens));
    let cost = i64::from(levels.below[others]).saturating_mul(greatest - lowest.min(greatest));
    let off = (greatest - query.wanted).abs().max((shortest - query.wanted).abs());
    if cost >= PART || i64::from(levels.unit) * off >= PART {
        return Err(TooWide);
    }
    if !levels.begun {
        levels.begin(lanes, ordered, marks);
    }
    let wanted = query.wanted as i32;
    // In two runs, which become vectors.
    let (higher, lower) = levels.above.as_flattened_mut()[..others].split_at_mut(query.own_at);
    let (higher_levels, lower_levels) = (&query.levels[..query.own_at], &query.levels[query.own_at + 1..]);
    for (above, &level) in higher.iter_mut().zip(higher_levels) {
        *above = (level - query.own).min(FAR) as i32;
    }
    for (above, &level) in lower.iter_mut().zip(lower_levels) {
        *above = (level - query.own).min(FAR) as i32;
    }
    let mut best = (NOTHING, None::<usize>);
    let mut current = 0;
    if let Some((position, _)) = query.instead_of {
        let mut scores = [0; BLOCK];
        let block = position / BLOCK;
        lanes.store(levels.scores(lanes, ordered, marks, (block, wanted)), &mut scores);
        current = scores[position % BLOCK];
        best.0 = current + 1;
    }
    if longest < shortest {
        return Ok((i64::from(current), None));
    }
    let peak = wanted.min(levels.above[levels.peak / BLOCK][levels.peak % BLOCK]);
    let longest = longest as i32;
    let groups = ordered.low.len();
    let mut tops = [NOTHING; MOST_GROUPS];
    for group in 0..groups {
        let low = lanes.load_unsigned(&ordered.low[group]);
        let high = lanes.min(lanes.load_unsigned(&ordered.high[group]), lanes.splat(longest));
        let nearest = lanes.min(lanes.max(lanes.splat(peak), low), high);
        let mut bound = lanes.add(lanes.load(&levels.tops[group]), levels.distances(lanes, nearest, wanted));
        let mut at = 0;
        while at < levels.stretches.len() {
            let (from, weight) = levels.stretches[at];
            let above = levels.above[from / BLOCK][from % BLOCK];
            bound = lanes.sub(bound, lost(lanes, nearest, (above, weight)));
            at += 1;
        }
        let open = lanes.at_most(!marks.full[group], low, lanes.splat(longest));
        let bound = lanes.keep(bound, open);
        lanes.store(bound, &mut levels.bounds[group]);
        tops[group] = lanes.top(bound);
    }
    loop {
        let (mut group, mut top) = (0, tops[0]);
        for (at, &other) in tops.iter().enumerate().take(groups).skip(1) {
            if other > top {
                (group, top) = (at, other);
            }
        }
        if top == NOTHING || top < best.0 {
            break;
        }
        let bounds = lanes.load(&levels.bounds[group]);
        let lane = lanes.equal(bounds, lanes.splat(top)).trailing_zeros() as usize;
        let block = group * BLOCK + lane;
        levels.bounds[group][lane] = NOTHING;
        tops[group] = lanes.top(lanes.load(&levels.bounds[group]));
        let scores = levels.scores(lanes, ordered, marks, (block, wanted));
        let tokens = lanes.load_unsigned(&ordered.token_blocks[block]);
        let fit = lanes.at_most(!marks.taken[block], tokens, lanes.splat(longest));
        let reach = fit & !lanes.greater(lanes.splat(best.0), scores);
        if reach == 0 {
            continue;
        }
        let score = lanes.greatest(scores, reach);
        let mut equals = reach & lanes.equal(scores, lanes.splat(score));
        if score > best.0 {
            best = (score, None);
        }
        let arrived = |position: usize| ordered.arrived_blocks[position / BLOCK][position % BLOCK];
        while equals != 0 {
            let position = block * BLOCK + equals.trailing_zeros() as usize;
            equals &= equals - 1;
            if best.1.is_none_or(|other| arrived(position) < arrived(other)) {
                best.1 = Some(position);
            }
        }
    }
    let score = i64::from(best.0);
    Ok((i64::from(current), best.1.map(|position| Found { position, score })))
}

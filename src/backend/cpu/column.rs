//! The search for the best request of one profile in the pool's length order.
//!
//! Blocks are bounded, sixteen at a time, and only those whose bound reaches the best score are looked into,
//! so a search returns what a scan of everything returns. There are two bounds:
//!
//! * The profile is concave, so over the lengths of one block it is greatest where its peak is clamped to
//!   them; the greatest age of the block is added. This bound needs no preparation, and is loose where
//!   ages are worth more than a block is wide.
//! * A profile that bends once or twice lies below two lines. Every profile of a decision has lines of these
//!   slopes. The greatest `slope * tokens + age` of a block bounds it to the token on either side of the
//!   bend, and is kept up to date as entries are taken. This pays from a search for every four blocks on.

use super::lanes::Lanes;
use crate::backend::picks::hold;
use crate::pool::{BLOCK, Ordered};
use crate::score::Age;

/// Scores and ages stay below this, so that no intermediate of a search leaves an `i32`.
pub(crate) const GREATEST: i64 = 1 << 29;

/// What a search found: a position of the length order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub position: usize,
    pub score: i64,
}

impl Found {
    /// Whether it comes before the best so far: greater score, then earlier arrival.
    #[inline(always)]
    pub(crate) fn beats(self, best: Option<Self>, ordered: &Ordered<'_>) -> bool {
        let arrived = |position: usize| ordered.arrived_blocks[position / BLOCK][position % BLOCK];
        best.is_none_or(|best| {
            self.score > best.score
                || (self.score == best.score && arrived(self.position) < arrived(best.position))
        })
    }
}

/// A profile in lanes, its score at zero taken off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    pub slope: i32,
    /// Lengths at which the profile bends, and what each token past them costs: two, which is what almost
    /// every profile has (a weight of zero bends nothing), and the others.
    pub knots: [(i32, i32); 2],
    pub further: &'a [(i32, i32)],
    /// A length of the pool at most `longest` where the profile is greatest.
    pub peak: i32,
    /// Longest entry that fits.
    pub longest: i32,
    /// Least score wanted.
    pub wanted: i32,
    /// Heights at length zero of two lines above the profile whose slopes are [`Marks::slopes`].
    pub lines: [i32; 2],
    /// Whether it has such lines.
    pub lined: bool,
}

/// Which entries are taken, and the ages known so far in a decision, in score units.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    /// Per block a bit for each entry that is taken or lies past the end.
    pub taken: Vec<u16>,
    /// Per group a bit for each block without a free entry.
    pub(super) full: Vec<u16>,
    /// Per group a bit for each block whose ages are known.
    pub(super) aged: Vec<u16>,
    pub(super) block_ages: Vec<[i32; BLOCK]>,
    pub(super) ages: Vec<[i32; BLOCK]>,
    greatest_age: i32,
    /// Slopes of the lines that blocks are bounded by, where they are.
    pub slopes: Option<[i32; 2]>,
    /// Per line and block at least the greatest `slope * tokens + age` of its free entries.
    lines: [Vec<[i32; BLOCK]>; 2],
    pub(super) age: Age,
    unit: i32,
}

impl Marks {
    /// Everything free, nothing known.
    pub(crate) fn reset(&mut self, count: usize) {
        self.slopes = None;
        let blocks = count.div_ceil(BLOCK);
        let groups = blocks.div_ceil(BLOCK);
        self.taken.clear();
        self.taken.resize(blocks, 0);
        self.full.clear();
        self.full.resize(groups, 0);
        // Only some profiles have lines: the first that has must not allocate.
        self.lines.iter_mut().for_each(|line| hold(line, groups));
        if let Some(last) = self.taken.last_mut()
            && !count.is_multiple_of(BLOCK)
        {
            *last = u16::MAX << (count % BLOCK);
        }
        if let Some(last) = self.full.last_mut()
            && !blocks.is_multiple_of(BLOCK)
        {
            *last = u16::MAX << (blocks % BLOCK);
        }
    }

    pub(crate) fn take(&mut self, position: usize) {
        let block = position / BLOCK;
        self.taken[block] |= 1 << (position % BLOCK);
        if self.taken[block] == u16::MAX {
            self.full[block / BLOCK] |= 1 << (block % BLOCK);
        }
    }

    pub(crate) fn give_back(&mut self, position: usize) {
        let block = position / BLOCK;
        self.taken[block] &= !(1 << (position % BLOCK));
        self.full[block / BLOCK] &= !(1 << (block % BLOCK));
    }

    /// Raises the bounds of a block to an entry of it that is free again, of this length; its age is known,
    /// or the bounds still hold it.
    pub(crate) fn raise_lines(&mut self, position: usize, tokens: u32) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        let (group, bit) = (block / BLOCK, 1 << (block % BLOCK));
        if let Some(slopes) = self.slopes
            && self.aged[group] & bit != 0
        {
            let age = self.ages[block][lane];
            for (line, slope) in self.lines.iter_mut().zip(slopes) {
                let bound = &mut line[group][block % BLOCK];
                *bound = (*bound).max(slope * tokens as i32 + age);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn block_age(&self, block: usize) -> i32 {
        self.block_ages[block / BLOCK][block % BLOCK]
    }

    pub(crate) fn is_taken(&self, position: usize) -> bool {
        self.taken[position / BLOCK] >> (position % BLOCK) & 1 == 1
    }
}

/// Bounds the age of every block, and the lines if there are any; the ages of entries are worked out when a
/// search first looks at them.
#[inline(always)]
pub(super) fn begin<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    (age, unit): (Age, i32),
    slopes: Option<[i32; 2]>,
    marks: &mut Marks,
) {
    let (groups, blocks) = (ordered.most_passed.len(), ordered.token_blocks.len());
    (marks.age, marks.unit) = (age, unit);
    marks.aged.clear();
    marks.aged.resize(groups, 0);
    marks.block_ages.resize(groups, [0; BLOCK]);
    // Old values past the end are not read.
    if marks.ages.len() < blocks {
        marks.ages.resize(blocks, [0; BLOCK]);
    }
    let mut greatest = i32::MIN;
    for (group, (passed, ages)) in ordered.most_passed.iter().zip(&mut marks.block_ages).enumerate() {
        let bounds = lanes.mul(lanes.ages(passed, age), lanes.splat(unit));
        lanes.store(bounds, ages);
        let inside = (blocks - group * BLOCK).min(BLOCK);
        greatest = greatest.max(lanes.top(lanes.keep(bounds, u16::MAX >> (BLOCK - inside))));
    }
    marks.greatest_age = greatest;
    marks.slopes = slopes;
    for (line, slope) in marks.lines.iter_mut().zip(slopes.into_iter().flatten()) {
        line.resize(groups, [0; BLOCK]);
        let ends = if slope > 0 { ordered.high } else { ordered.low };
        for ((line, end), ages) in line.iter_mut().zip(ends).zip(&marks.block_ages) {
            let bounds = lanes.mul(lanes.load_unsigned(end), lanes.splat(slope));
            lanes.store(lanes.add(bounds, lanes.load(ages)), line);
        }
    }
}

/// Lower than any score, and far from the end of the lanes.
const NOTHING: i32 = i32::MIN / 2;

/// Marks an entry as taken, and tightens the lines of its block.
#[inline(always)]
pub(super) fn take<L: Lanes>(lanes: L, ordered: &Ordered<'_>, position: usize, marks: &mut Marks) {
    marks.take(position);
    let block = position / BLOCK;
    if marks.slopes.is_some() && marks.aged[block / BLOCK] >> (block % BLOCK) & 1 == 1 {
        tighten(lanes, ordered, block, marks);
    }
}

/// Brings the lines of a block whose ages are known down to its free entries.
#[inline(always)]
fn tighten<L: Lanes>(lanes: L, ordered: &Ordered<'_>, block: usize, marks: &mut Marks) {
    let (tokens, ages) = (lanes.load_unsigned(&ordered.token_blocks[block]), lanes.load(&marks.ages[block]));
    let free = !marks.taken[block];
    for (line, slope) in marks.lines.iter_mut().zip(marks.slopes.into_iter().flatten()) {
        let values = lanes.add(lanes.mul(tokens, lanes.splat(slope)), ages);
        line[block / BLOCK][block % BLOCK] = if free == 0 { NOTHING } else { lanes.greatest(values, free) };
    }
}

#[derive(Clone, Copy)]
struct Best {
    score: i32,
    position: usize,
    arrived: u64,
}

const NOWHERE: usize = usize::MAX;

#[inline(always)]
fn value(query: &Query<'_>, tokens: u32) -> i32 {
    let tokens = tokens as i32;
    let mut score = query.slope * tokens;
    for &(at, weight) in query.knots.iter().chain(query.further) {
        score -= weight * (tokens - at).max(0);
    }
    score
}

#[inline(always)]
fn lost<L: Lanes>(lanes: L, tokens: L::V, (at, weight): (i32, i32)) -> L::V {
    let past = lanes.max(lanes.sub(tokens, lanes.splat(at)), lanes.splat(0));
    lanes.mul(past, lanes.splat(weight))
}

#[inline(always)]
fn values<L: Lanes>(lanes: L, query: &Query<'_>, tokens: L::V) -> L::V {
    let score = lanes.mul(tokens, lanes.splat(query.slope));
    let both = lanes.add(lost(lanes, tokens, query.knots[0]), lost(lanes, tokens, query.knots[1]));
    let mut score = lanes.sub(score, both);
    // Not unrolled: it hardly ever runs.
    let mut at = 0;
    while at < query.further.len() {
        score = lanes.sub(score, lost(lanes, tokens, query.further[at]));
        at += 1;
    }
    score
}

#[inline(always)]
pub(super) fn search<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &Query<'_>,
    marks: &mut Marks,
) -> Option<Found> {
    let groups = ordered.low.len();
    let mut best = Best { score: query.wanted, position: NOWHERE, arrived: u64::MAX };
    match groups {
        0 => return None,
        1 => look::<_, 1>(lanes, ordered, query, marks, 0, &mut best),
        2 => look::<_, 2>(lanes, ordered, query, marks, 0, &mut best),
        3 => look::<_, 3>(lanes, ordered, query, marks, 0, &mut best),
        4 => look::<_, 4>(lanes, ordered, query, marks, 0, &mut best),
        _ => search_outward(lanes, ordered, query, marks, &mut best),
    }
    (best.position != NOWHERE).then_some(Found { position: best.position, score: i64::from(best.score) })
}

/// Goes outward from the peak, on either side until the profile and the greatest age together cannot reach
/// the best score.
#[inline(always)]
fn search_outward<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &Query<'_>,
    marks: &mut Marks,
    best: &mut Best,
) {
    let peak = query.peak as u32;
    let mut group = ordered.low.partition_point(|low| low[0] < peak).saturating_sub(1);
    let greatest_age = marks.greatest_age;
    let (mut left, mut right) = (group, group + 1);
    loop {
        look::<_, 1>(lanes, ordered, query, marks, group, best);
        if left > 0 {
            if value(query, ordered.high[left - 1][BLOCK - 1]) + greatest_age >= best.score {
                left -= 1;
                group = left;
                continue;
            }
            left = 0;
        }
        group = loop {
            let Some(low) = ordered.low.get(right).map(|low| low[0]) else { return };
            if low as i32 > query.longest || value(query, low) + greatest_age < best.score {
                return;
            }
            right += 1;
            if !only_ties(lanes, ordered, query, marks, right - 1, best) {
                break right - 1;
            }
        };
    }
}

/// Whether a group can at most tie with the best: its lengths are all the same as the best's, and so it
/// arrived later.
#[inline(always)]
fn only_ties<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &Query<'_>,
    marks: &Marks,
    group: usize,
    best: &Best,
) -> bool {
    if best.position == NOWHERE || best.position / (BLOCK * BLOCK) >= group {
        return false;
    }
    let last = ((group + 1) * BLOCK * BLOCK).min(ordered.tokens.len()) - 1;
    let tokens = ordered.tokens[best.position];
    if ordered.low[group][0] != tokens || ordered.tokens[last] != tokens {
        return false;
    }
    let blocks = (last / BLOCK) % BLOCK + 1;
    let greatest_age = lanes.greatest(lanes.load(&marks.block_ages[group]), u16::MAX >> (BLOCK - blocks));
    value(query, tokens) + greatest_age <= best.score
}

/// At least the greatest score of a free entry that fits, for each block of a group.
#[inline(always)]
fn bounds<L: Lanes>(lanes: L, ordered: &Ordered<'_>, query: &Query<'_>, marks: &Marks, group: usize) -> L::V {
    if query.lined {
        let [first, second] = query.lines;
        let first = lanes.add(lanes.load(&marks.lines[0][group]), lanes.splat(first));
        let second = lanes.add(lanes.load(&marks.lines[1][group]), lanes.splat(second));
        lanes.min(first, second)
    } else {
        let low = lanes.load_unsigned(&ordered.low[group]);
        let high = lanes.min(lanes.load_unsigned(&ordered.high[group]), lanes.splat(query.longest));
        let nearest = lanes.min(lanes.max(lanes.splat(query.peak), low), high);
        lanes.add(values(lanes, query, nearest), lanes.load(&marks.block_ages[group]))
    }
}

/// Looks into the blocks of `GROUPS` groups that may hold better than `best`, the most promising first.
#[inline(always)]
fn look<L: Lanes, const GROUPS: usize>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &Query<'_>,
    marks: &mut Marks,
    from_group: usize,
    best: &mut Best,
) {
    let longest = lanes.splat(query.longest);
    // Loops, no closures: closures may be compiled apart, without the instruction set.
    let mut bound = [bounds(lanes, ordered, query, marks, from_group); GROUPS];
    #[expect(clippy::needless_range_loop, reason = "an iterator costs 500 instructions a decision here")]
    for at in 1..GROUPS {
        bound[at] = bounds(lanes, ordered, query, marks, from_group + at);
    }
    // A bit for each block.
    let mut blocks = 0u64;
    for (at, &bound) in bound.iter().enumerate() {
        let group = from_group + at;
        let open = !marks.full[group] & !lanes.greater(lanes.load_unsigned(&ordered.low[group]), longest);
        let reach = open & !lanes.greater(lanes.splat(best.score), bound);
        blocks |= u64::from(reach) << (at * BLOCK);
    }
    let mut next = blocks;
    if blocks & blocks.wrapping_sub(1) != 0 {
        // The most promising block leaves the fewest others. Should a full one promise more, any will do.
        let mut greatest = bound[0];
        #[expect(clippy::needless_range_loop, reason = "as above")]
        for at in 1..GROUPS {
            greatest = lanes.max(greatest, bound[at]);
        }
        let greatest = lanes.splat(lanes.greatest(greatest, u16::MAX));
        for (at, &bound) in bound.iter().enumerate() {
            next &= !(u64::from(!lanes.equal(bound, greatest)) << (at * BLOCK));
        }
        next = if next == 0 { blocks } else { next };
    }
    while blocks != 0 {
        let at = next.trailing_zeros() as usize;
        blocks &= !(1 << at);
        if look_into(lanes, ordered, query, marks, from_group * BLOCK + at, best) {
            for (at, &bound) in bound.iter().enumerate() {
                let below = lanes.greater(lanes.splat(best.score), bound);
                blocks &= !(u64::from(below) << (at * BLOCK));
            }
        }
        next = blocks;
    }
}

/// The ages of a block in score units, worked out at the first look.
#[inline(always)]
fn ages_of<L: Lanes>(lanes: L, ordered: &Ordered<'_>, block: usize, marks: &mut Marks) -> L::V {
    let (group, bit) = (block / BLOCK, 1 << (block % BLOCK));
    if marks.aged[group] & bit != 0 {
        return lanes.load(&marks.ages[block]);
    }
    let ages = lanes.ages(&ordered.passed_blocks[block], marks.age);
    let ages = lanes.mul(ages, lanes.splat(marks.unit));
    lanes.store(ages, &mut marks.ages[block]);
    marks.aged[group] |= bit;
    if marks.slopes.is_some() {
        tighten(lanes, ordered, block, marks);
    }
    ages
}

/// Scores one block and keeps the better of its best and `best`: greatest score, then earliest arrival.
#[inline(always)]
fn look_into<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &Query<'_>,
    marks: &mut Marks,
    block: usize,
    best: &mut Best,
) -> bool {
    let ages = ages_of(lanes, ordered, block, marks);
    let tokens = lanes.load_unsigned(&ordered.token_blocks[block]);
    let scores = lanes.add(values(lanes, query, tokens), ages);
    let fit = !lanes.greater(tokens, lanes.splat(query.longest)) & !marks.taken[block];
    let reach = fit & !lanes.greater(lanes.splat(best.score), scores);
    if reach == 0 {
        return false;
    }
    let score = lanes.greatest(scores, reach);
    let mut equals = reach & lanes.equal(scores, lanes.splat(score));
    let better = score > best.score;
    if better {
        *best = Best { score, position: NOWHERE, arrived: u64::MAX };
    }
    while equals != 0 {
        let lane = equals.trailing_zeros() as usize;
        equals &= equals - 1;
        let arrived = ordered.arrived_blocks[block][lane];
        if best.position == NOWHERE || arrived < best.arrived {
            best.position = block * BLOCK + lane;
            best.arrived = arrived;
        }
    }
    better
}

//! The waiting requests as the level kernel sees them: blocks of the length order, their bounds and their
//! ages.
//!
//! A block is bounded from two sides: by its greatest `age + s`, which bounds its scores below the wanted
//! length, and by its greatest `age - s`, which bounds them above. A bound and the place of its block share
//! one lane, so that one reduction finds the block that promises most; a score and the place of its entry do
//! the same.

use super::{LevelProfile, Terms};
use crate::backend::cpu::column::{Found, Marks};
use crate::backend::cpu::lanes::Lanes;
use crate::backend::cpu::matrix::SparseBonuses;
use crate::pool::{BLOCK, Ordered};

/// Distances from the wanted length and ages together stay below this, and so does what a length costs past
/// the margin.
pub(crate) const SPAN: i64 = 1 << 24;
/// Scores lie between this on either side of zero: a place of six bits fits below one.
pub(super) const LIMIT: i32 = 1 << 25;
const PLACE_BITS: u32 = 6;
pub(super) const PLACES: i32 = 1 << PLACE_BITS;
const LANE_BITS: u32 = BLOCK.ilog2();
/// Groups of blocks that a search holds in registers.
pub(crate) const MOST_GROUPS: usize = PLACES as usize / BLOCK;
/// Below every score.
const NOTHING: i32 = i32::MIN;

/// For each lane of a block its place, the first the greatest.
const LANES: [i32; BLOCK] = {
    let mut lanes = [0; BLOCK];
    let mut at = 0;
    while at < BLOCK {
        lanes[at] = (BLOCK - 1 - at) as i32;
        at += 1;
    }
    lanes
};

/// Per block at least the greatest `age + s` and the greatest `age - s` of its free entries, times
/// [`PLACES`], plus its place: the first block has the greatest.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockBounds {
    rising: [[i32; BLOCK]; MOST_GROUPS],
    falling: [[i32; BLOCK]; MOST_GROUPS],
    begun: bool,
}

impl BlockBounds {
    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        self.begun = false;
    }
}

/// A profile in lanes.
#[derive(Clone, Copy)]
pub(super) struct Query<V> {
    pub wanted: V,
    /// `wanted` times [`PLACES`].
    pub wanted_place: V,
    pub margin: V,
    pub overflow_weight: V,
    pub overflow_weight_place: V,
    pub longest: V,
}

#[derive(Clone, Copy)]
struct Best {
    score: i32,
    position: usize,
}

impl Best {
    /// None where nothing was found.
    #[inline(always)]
    fn found(self) -> Option<Found> {
        (self.position != NOWHERE).then_some(Found { position: self.position, score: i64::from(self.score) })
    }
}

const NOWHERE: usize = usize::MAX;

/// The block of a key of [`Field::bounds`].
#[inline(always)]
fn block_of(key: i32) -> usize {
    (PLACES - 1 - (key & (PLACES - 1))) as usize
}

/// The waiting requests by length: columns of the same length.
pub(super) struct Field<'a, const GROUPS: usize> {
    ordered: &'a Ordered<'a>,
    low: &'a [[u32; BLOCK]; GROUPS],
    tokens: &'a [[u32; BLOCK]],
    passed: &'a [[u32; BLOCK]],
    arrived: &'a [[u64; BLOCK]],
    ages: &'a mut [[i32; BLOCK]],
    taken: &'a mut [u16],
    full: &'a mut [u16; GROUPS],
    aged: &'a mut [u16; GROUPS],
    age: crate::score::Age,
    block_bounds: &'a mut BlockBounds,
    /// Whether so many searches are to come that better bounds pay: of a block that is first looked into, and
    /// of one that loses an entry.
    pub(super) many: bool,
}

impl<'a, const GROUPS: usize> Field<'a, GROUPS> {
    /// Bounds every block by its ends and its greatest age, unless that has been done; none where there are
    /// fewer groups.
    #[inline(always)]
    pub(super) fn new<L: Lanes>(
        lanes: L,
        ordered: &'a Ordered<'a>,
        marks: &'a mut Marks,
        block_bounds: &'a mut BlockBounds,
        many: bool,
    ) -> Option<Self> {
        begin(lanes, ordered, &marks.block_ages, block_bounds);
        let blocks = ordered.token_blocks.len();
        Some(Self {
            ordered,
            low: ordered.low.first_chunk()?,
            tokens: &ordered.token_blocks[..blocks],
            passed: &ordered.passed_blocks[..blocks],
            arrived: &ordered.arrived_blocks[..blocks],
            ages: &mut marks.ages[..blocks],
            taken: &mut marks.taken[..blocks],
            full: marks.full.first_chunk_mut()?,
            aged: marks.aged.first_chunk_mut()?,
            age: marks.age,
            block_bounds,
            many,
        })
    }

    #[inline(always)]
    pub(super) fn tokens_of(&self, position: usize) -> i64 {
        i64::from(self.tokens[position / BLOCK][position % BLOCK])
    }

    /// The better of what a search has found and the best entry with a bonus on the worker.
    pub(super) fn better_with_bonus(
        &self,
        pairs: SparseBonuses<'_>,
        terms: &Terms,
        profile: LevelProfile,
        found: Option<Found>,
        place: (usize, i64),
    ) -> Option<Found> {
        let score_of = |tokens| profile.score(terms.overflow_weight, tokens);
        let is_taken = |position: usize| self.taken[position / BLOCK] >> (position % BLOCK) & 1 == 1;
        pairs.best(self.ordered, found, score_of, place, is_taken)
    }

    /// Takes an entry: until its block is tightened, the block bounds still hold it.
    #[inline(always)]
    pub(super) fn take(&mut self, position: usize) {
        self.taken[position / BLOCK] |= 1 << (position % BLOCK);
    }

    /// Leaves a block out of the bounds until it is tightened.
    #[inline(always)]
    pub(super) fn shut(&mut self, block: usize) {
        self.full[block / BLOCK % GROUPS] |= 1 << (block % BLOCK);
    }

    /// Frees an entry and raises the block bounds of its block to it, if they are known.
    #[inline(always)]
    pub(super) fn give_back<L: Lanes>(&mut self, lanes: L, position: usize) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        let group = block / BLOCK % GROUPS;
        self.taken[block] &= !(1 << lane);
        self.full[group] &= !(1 << (block % BLOCK));
        if self.aged[group] >> (block % BLOCK) & 1 == 1 {
            let (age, tokens) = (self.ages[block][lane], self.tokens[block][lane] as i32);
            let place = PLACES - 1 - block as i32;
            for (bounds, value) in [
                (&mut self.block_bounds.rising, age + tokens),
                (&mut self.block_bounds.falling, age - tokens),
            ] {
                let bound = lanes.put(lanes.splat(NOTHING), block % BLOCK, value * PLACES + place);
                lanes.store(lanes.max(lanes.load(&bounds[group]), bound), &mut bounds[group]);
            }
        }
    }

    /// The age of an entry.
    #[inline(always)]
    pub(super) fn age_of(&self, position: usize) -> i64 {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        if self.aged[block / BLOCK % GROUPS] >> (block % BLOCK) & 1 == 1 {
            return i64::from(self.ages[block][lane]);
        }
        self.age.tokens(self.passed[block][lane])
    }

    /// The ages of a block, worked out at the first look.
    #[inline(always)]
    fn ages_of<L: Lanes>(&mut self, lanes: L, block: usize) -> L::V {
        let (group, bit) = (block / BLOCK % GROUPS, 1 << (block % BLOCK));
        if self.aged[group] & bit != 0 {
            return lanes.load(&self.ages[block]);
        }
        let ages = lanes.ages(&self.passed[block], self.age);
        lanes.store(ages, &mut self.ages[block]);
        self.aged[group] |= bit;
        if self.many {
            self.tighten(lanes, block, ages);
        }
        ages
    }

    /// Brings the block bounds of a block down to its free entries.
    #[inline(always)]
    fn tighten<L: Lanes>(&mut self, lanes: L, block: usize, ages: L::V) {
        let group = block / BLOCK % GROUPS;
        let tokens = lanes.load_unsigned(&self.tokens[block]);
        let free = !self.taken[block];
        let place = PLACES - 1 - block as i32;
        let rising = lanes.keep(lanes.add(ages, tokens), free);
        let falling = lanes.keep(lanes.sub(ages, tokens), free);
        let (rising, falling) = lanes.tops(rising, falling);
        for (bounds, value) in
            [(&mut self.block_bounds.rising, rising), (&mut self.block_bounds.falling, falling)]
        {
            // With no entry left the bound lies below every score.
            let bound =
                lanes.put(lanes.splat(i32::MAX), block % BLOCK, value.max(1 - LIMIT) * PLACES + place);
            lanes.store(lanes.min(lanes.load(&bounds[group]), bound), &mut bounds[group]);
        }
    }

    /// Tightens a block after [`Field::take`], and opens it if any entry is left.
    #[inline(always)]
    pub(super) fn reopen<L: Lanes>(&mut self, lanes: L, block: usize) {
        let ages = self.ages_of(lanes, block);
        self.tighten(lanes, block, ages);
        let (full, bit) = (&mut self.full[block / BLOCK % GROUPS], 1 << (block % BLOCK));
        *full = if self.taken[block] == u16::MAX { *full | bit } else { *full & !bit };
    }

    /// At least the greatest score of a free entry that fits, times [`PLACES`], plus its place, for each
    /// block.
    #[inline(always)]
    fn bounds<L: Lanes>(&self, lanes: L, query: &Query<L::V>) -> [L::V; GROUPS] {
        // Loops, no closures: these may be compiled apart, without the instruction set.
        let mut keys = [lanes.splat(NOTHING); GROUPS];
        #[expect(clippy::needless_range_loop, reason = "an array of lanes stays in registers so")]
        for group in 0..GROUPS {
            let rising = lanes.sub(lanes.load(&self.block_bounds.rising[group]), query.wanted_place);
            let falling = lanes.add(lanes.load(&self.block_bounds.falling[group]), query.wanted_place);
            let low = lanes.load_unsigned(&self.low[group]);
            let past = lanes.max(lanes.sub(low, query.margin), lanes.splat(0));
            let bound = lanes.sub(lanes.min(rising, falling), lanes.mul(past, query.overflow_weight_place));
            keys[group] = lanes.keep(bound, lanes.at_most(!self.full[group], low, query.longest));
        }
        keys
    }

    /// The key of the block that promises most; [`NOTHING`] if none does.
    #[inline(always)]
    fn most_promising<L: Lanes>(&self, lanes: L, keys: &[L::V; GROUPS]) -> i32 {
        let mut first = keys[0];
        #[expect(clippy::needless_range_loop, reason = "as in the bounds")]
        for group in 1..GROUPS {
            first = lanes.max(first, keys[group]);
        }
        lanes.top(first)
    }

    /// The best free entry of at least `wanted` score units: greatest score, then earliest arrival.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(&mut self, lanes: L, query: &Query<L::V>, wanted: i32) -> Option<Found> {
        let best = Best { score: wanted, position: NOWHERE };
        let keys = self.bounds(lanes, query);
        if self.reaching(lanes, &keys, wanted) == 0 {
            return None;
        }
        self.look_into_all(lanes, query, keys, best)
    }

    /// The best free entry at all. The block of the last admission may come late: its bounds are not yet
    /// brought down. This search looks into it first, beside the search for the best of all others, instead
    /// of waiting for them.
    #[inline(always)]
    pub(super) fn search_late<L: Lanes>(
        &mut self,
        lanes: L,
        query: &Query<L::V>,
        late: Option<usize>,
    ) -> Option<Found> {
        let mut best = Best { score: 1 - LIMIT, position: NOWHERE };
        let keys = self.bounds(lanes, query);
        if let Some(block) = late {
            self.look_into(lanes, query, block, &mut best);
            self.reopen(lanes, block);
        }
        self.look_into_all(lanes, query, keys, best)
    }

    /// Looks into blocks until none promises better, the most promising first.
    #[inline(always)]
    fn look_into_all<L: Lanes>(
        &mut self,
        lanes: L,
        query: &Query<L::V>,
        mut keys: [L::V; GROUPS],
        mut best: Best,
    ) -> Option<Found> {
        loop {
            let key = self.most_promising(lanes, &keys);
            if key >> PLACE_BITS < best.score {
                return best.found();
            }
            let block = block_of(key);
            self.look_into(lanes, query, block, &mut best);
            // Most often one block is enough.
            if self.reaching(lanes, &keys, best.score) & !(1 << block) == 0 {
                return best.found();
            }
            #[expect(clippy::needless_range_loop, reason = "as in the bounds")]
            for group in 0..GROUPS {
                keys[group] = lanes.keep(keys[group], !lanes.equal(keys[group], lanes.splat(key)));
            }
        }
    }

    /// A bit for each block whose bound reaches a score.
    #[inline(always)]
    fn reaching<L: Lanes>(&self, lanes: L, keys: &[L::V; GROUPS], score: i32) -> u64 {
        let below = lanes.splat(score * PLACES - 1);
        let mut blocks = 0;
        #[expect(clippy::needless_range_loop, reason = "as in a search")]
        for group in 0..GROUPS {
            blocks |= u64::from(lanes.greater(keys[group], below)) << (group * BLOCK);
        }
        blocks
    }

    /// Scores one block and keeps the better of its best and `best`.
    #[inline(always)]
    fn look_into<L: Lanes>(&mut self, lanes: L, query: &Query<L::V>, block: usize, best: &mut Best) {
        let tokens = lanes.load_unsigned(&self.tokens[block]);
        let ages = self.ages_of(lanes, block);
        let distance = lanes.abs(lanes.sub(tokens, query.wanted));
        let past = lanes.max(lanes.sub(tokens, query.margin), lanes.splat(0));
        let scores = lanes.sub(lanes.sub(ages, distance), lanes.mul(past, query.overflow_weight));
        let fit = lanes.at_most(!self.taken[block], tokens, query.longest);
        let keys = lanes.add(lanes.shift_left::<LANE_BITS>(scores), lanes.load(&LANES));
        let key = lanes.top(lanes.keep(keys, fit));
        let score = key >> LANE_BITS;
        if score < best.score {
            return;
        }
        let position = block * BLOCK + BLOCK - 1 - (key as usize & (BLOCK - 1));
        let equals = fit & lanes.equal(scores, lanes.splat(score));
        let tied = score == best.score && best.position != NOWHERE;
        *best = if tied || equals & equals.wrapping_sub(1) != 0 {
            let position = if tied { best.position } else { position };
            Best { score, position: self.earliest(position, block, equals) }
        } else {
            Best { score, position }
        };
    }

    /// The earliest to arrive of an entry and some of a block.
    #[cold]
    fn earliest(&self, position: usize, block: usize, mut entries: u16) -> usize {
        let arrived = |position: usize| self.arrived[position / BLOCK][position % BLOCK];
        let mut earliest = position;
        while entries != 0 {
            let other = block * BLOCK + entries.trailing_zeros() as usize;
            entries &= entries - 1;
            if arrived(other) < arrived(earliest) {
                earliest = other;
            }
        }
        earliest
    }
}

#[inline(always)]
fn begin<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    block_ages: &[[i32; BLOCK]],
    block_bounds: &mut BlockBounds,
) {
    if std::mem::replace(&mut block_bounds.begun, true) {
        return;
    }
    let ends = ordered.low.iter().zip(ordered.high);
    let bounds = block_bounds.rising.iter_mut().zip(&mut block_bounds.falling);
    let mut places = lanes.add(lanes.load(&LANES), lanes.splat(PLACES - BLOCK as i32));
    for (((low, high), ages), (rising, falling)) in ends.zip(block_ages).zip(bounds) {
        let ages = lanes.load(ages);
        let high = lanes.add(ages, lanes.load_unsigned(high));
        let low = lanes.sub(ages, lanes.load_unsigned(low));
        lanes.store(lanes.add(lanes.shift_left::<PLACE_BITS>(high), places), rising);
        lanes.store(lanes.add(lanes.shift_left::<PLACE_BITS>(low), places), falling);
        places = lanes.sub(places, lanes.splat(BLOCK as i32));
    }
}

//! The admissions of level, one after the other, in one kernel.
//!
//! Each admission waits for the one before it: what it changes moves the length that the next worker wants. So what counts is how long
//! one takes from end to end, and how few instructions it has. A rule that is known as data ([`crate::rule::ProfileSpec::Level`]) needs no
//! profile: its score is a profile over the wanted length, lower still past the margin,
//!
//! ```text
//! score(s) = age - |s - wanted| - overflow_weight * max(0, s - margin)
//! ```
//!
//! and a block is bounded by its greatest `s + age` on one flank and its greatest `age - s` on the other. Score and place share one lane, so
//! that one reduction finds both. What leaves these lanes is left to the general search, which answers the same.

use super::column::{Found, Marks};
use super::lanes::Lanes;
use super::matrix::SparseBonuses;
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, open_key, worker_of};
use crate::batch::MAX_PROMPT_TOKENS;
use crate::pool::{BLOCK, Ordered};

/// Distances from the wanted length and ages together stay below this, and so does what a length costs past the margin.
pub(crate) const SPAN: i64 = 1 << 24;
/// Scores lie between this on either side of zero: a place of six bits fits below one.
const LIMIT: i32 = 1 << 25;
const PLACE_BITS: u32 = 6;
const PLACES: i32 = 1 << PLACE_BITS;
const LANE_BITS: u32 = BLOCK.ilog2();
/// Groups of blocks that a search holds in registers.
pub(crate) const MOST_GROUPS: usize = PLACES as usize / BLOCK;
/// Nobody there: below every score.
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

/// Per block at least the greatest `age + s` and the greatest `age - s` of its free entries, times [`PLACES`], plus its place: the first
/// block has the greatest.
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

/// What the admissions of a step work on.
pub(crate) struct Chain<'a> {
    pub ordered: &'a Ordered<'a>,
    pub marks: &'a mut Marks,
    pub block_bounds: &'a mut BlockBounds,
    /// Bonuses on single workers, where some have any.
    pub pairs: Option<SparseBonuses<'a>>,
    pub loads: &'a mut Loads,
    /// Open workers by descending (load, index): the next one is the last.
    pub open: &'a mut Vec<u64>,
    pub picks: &'a mut Vec<Pick>,
    pub oldest_age: i64,
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
            let moved_tokens = pick.peak_tokens.map(|then| (profile.peak_tokens() - then).abs());
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
        let reach = SPAN - 1 - chain.oldest_age;
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

/// A profile in lanes.
#[derive(Clone, Copy)]
struct Query<V> {
    wanted: V,
    /// The same times [`PLACES`].
    wanted_place: V,
    margin: V,
    overflow_weight: V,
    overflow_weight_place: V,
    longest: V,
}

#[derive(Clone, Copy)]
struct Best {
    score: i32,
    position: usize,
}

impl Best {
    #[inline(always)]
    fn found(self) -> Found {
        Found { position: self.position, score: i64::from(self.score) }
    }
}

const NOWHERE: usize = usize::MAX;

/// The block of a key of [`Field::bounds`].
#[inline(always)]
fn block_of(key: i32) -> usize {
    (PLACES - 1 - (key & (PLACES - 1))) as usize
}

/// The waiting requests by length: columns of the same length. With `MANY` so many searches are to come that a block pays for better block bounds when it is
/// first looked into and whenever one of it is taken.
struct Field<'a, const GROUPS: usize, const MANY: bool> {
    ordered: &'a Ordered<'a>,
    low: &'a [[u32; BLOCK]; GROUPS],
    tokens: &'a [[u32; BLOCK]],
    enqueued: &'a [[u32; BLOCK]],
    arrived: &'a [[u64; BLOCK]],
    ages: &'a mut [[i32; BLOCK]],
    taken: &'a mut [u16],
    full: &'a mut [u16; GROUPS],
    aged: &'a mut [u16; GROUPS],
    age: crate::score::Age,
    block_bounds: &'a mut BlockBounds,
}

impl<'a, const GROUPS: usize, const MANY: bool> Field<'a, GROUPS, MANY> {
    /// None where there are fewer groups.
    #[inline(always)]
    fn new(
        ordered: &'a Ordered<'a>,
        marks: &'a mut Marks,
        block_bounds: &'a mut BlockBounds,
    ) -> Option<Self> {
        let blocks = ordered.token_blocks.len();
        Some(Self {
            ordered,
            low: ordered.low.first_chunk()?,
            tokens: &ordered.token_blocks[..blocks],
            enqueued: &ordered.enqueued_blocks[..blocks],
            arrived: &ordered.arrived_blocks[..blocks],
            ages: &mut marks.ages[..blocks],
            taken: &mut marks.taken[..blocks],
            full: marks.full.first_chunk_mut()?,
            aged: marks.aged.first_chunk_mut()?,
            age: marks.age,
            block_bounds,
        })
    }

    #[inline(always)]
    fn tokens_of(&self, position: usize) -> i64 {
        i64::from(self.tokens[position / BLOCK][position % BLOCK])
    }

    /// The better of what a search has found and the best entry with a bonus on the worker.
    fn best_listed(
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
    fn take(&mut self, position: usize) {
        self.taken[position / BLOCK] |= 1 << (position % BLOCK);
    }

    /// Leaves a block out of the bounds until it is tightened.
    #[inline(always)]
    fn shut(&mut self, block: usize) {
        self.full[block / BLOCK % GROUPS] |= 1 << (block % BLOCK);
    }

    /// Frees an entry and raises the block bounds of its block to it, if they are known.
    #[inline(always)]
    fn give_back<L: Lanes>(&mut self, lanes: L, position: usize) {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        let group = block / BLOCK % GROUPS;
        self.taken[block] &= !(1 << lane);
        self.full[group] &= !(1 << (block % BLOCK));
        if self.aged[group] >> (block % BLOCK) & 1 == 1 {
            let (age, tokens) = (self.ages[block][lane], self.tokens[block][lane] as i32);
            let place = PLACES - 1 - block as i32;
            for (flank, value) in [
                (&mut self.block_bounds.rising, age + tokens),
                (&mut self.block_bounds.falling, age - tokens),
            ] {
                let bound = lanes.put(lanes.splat(NOTHING), block % BLOCK, value * PLACES + place);
                lanes.store(lanes.max(lanes.load(&flank[group]), bound), &mut flank[group]);
            }
        }
    }

    /// The age of an entry.
    #[inline(always)]
    fn age_of(&self, position: usize) -> i64 {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        if self.aged[block / BLOCK % GROUPS] >> (block % BLOCK) & 1 == 1 {
            return i64::from(self.ages[block][lane]);
        }
        self.age.tokens(self.ordered.now_step - self.enqueued[block][lane])
    }

    /// The ages of a block, worked out at the first look.
    #[inline(always)]
    fn ages_of<L: Lanes>(&mut self, lanes: L, block: usize) -> L::V {
        let (group, bit) = (block / BLOCK % GROUPS, 1 << (block % BLOCK));
        if self.aged[group] & bit != 0 {
            return lanes.load(&self.ages[block]);
        }
        let ages = lanes.ages(self.ordered.now_step, &self.enqueued[block], self.age);
        lanes.store(ages, &mut self.ages[block]);
        self.aged[group] |= bit;
        if MANY {
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
        for (flank, value) in
            [(&mut self.block_bounds.rising, rising), (&mut self.block_bounds.falling, falling)]
        {
            // Nobody left: a bound that no score is below.
            let bound =
                lanes.put(lanes.splat(i32::MAX), block % BLOCK, value.max(1 - LIMIT) * PLACES + place);
            lanes.store(lanes.min(lanes.load(&flank[group]), bound), &mut flank[group]);
        }
    }

    /// Tightens a block after [`Field::take`], and opens it if anybody is left.
    #[inline(always)]
    fn reopen<L: Lanes>(&mut self, lanes: L, block: usize) {
        let ages = self.ages_of(lanes, block);
        self.tighten(lanes, block, ages);
        let (full, bit) = (&mut self.full[block / BLOCK % GROUPS], 1 << (block % BLOCK));
        *full = if self.taken[block] == u16::MAX { *full | bit } else { *full & !bit };
    }

    /// At least the greatest score of a free entry that fits, times [`PLACES`], plus its place, for each block.
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
    fn search<L: Lanes>(&mut self, lanes: L, query: &Query<L::V>, wanted: i32) -> Best {
        let best = Best { score: wanted, position: NOWHERE };
        let keys = self.bounds(lanes, query);
        if wanted > 1 - LIMIT && self.reaching(lanes, &keys, wanted) == 0 {
            return best;
        }
        self.look_into_all(lanes, query, keys, best)
    }

    /// The same for a worker whose turn it is. The block of the last admission may come late: its block bounds are not brought down before this search,
    /// which looks into it anyway, beside the search for the best of all others, instead of waiting for them.
    #[inline(always)]
    fn search_late<L: Lanes>(&mut self, lanes: L, query: &Query<L::V>, late: Option<usize>) -> Best {
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
    ) -> Best {
        loop {
            let key = self.most_promising(lanes, &keys);
            if key >> PLACE_BITS < best.score {
                return best;
            }
            let block = block_of(key);
            self.look_into(lanes, query, block, &mut best);
            // Most often one block is enough.
            if self.reaching(lanes, &keys, best.score) & !(1 << block) == 0 {
                return best;
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

/// Bounds every block by its ends and its oldest.
#[inline(always)]
fn begin<L: Lanes>(lanes: L, chain: &mut Chain<'_>) {
    if std::mem::replace(&mut chain.block_bounds.begun, true) {
        return;
    }
    let ends = chain.ordered.low.iter().zip(chain.ordered.high);
    let block_bounds = chain.block_bounds.rising.iter_mut().zip(&mut chain.block_bounds.falling);
    let mut places = lanes.add(lanes.load(&LANES), lanes.splat(PLACES - BLOCK as i32));
    for (((low, high), ages), (rising, falling)) in ends.zip(&chain.marks.block_ages).zip(block_bounds) {
        let ages = lanes.load(ages);
        let high = lanes.add(ages, lanes.load_unsigned(high));
        let low = lanes.sub(ages, lanes.load_unsigned(low));
        lanes.store(lanes.add(lanes.shift_left::<PLACE_BITS>(high), places), rising);
        lanes.store(lanes.add(lanes.shift_left::<PLACE_BITS>(low), places), falling);
        places = lanes.sub(places, lanes.splat(BLOCK as i32));
    }
}

/// Admits until nobody fits anywhere: a worker whose search does not fit these lanes is returned, and left to the caller.
#[inline(always)]
pub(super) fn place<L: Lanes>(lanes: L, chain: &mut Chain<'_>) -> Option<usize> {
    begin(lanes, chain);
    let many = 2 * chain.open.len() > chain.ordered.token_blocks.len();
    match (chain.ordered.low.len(), many) {
        (1, false) => place_in::<_, 1, false>(lanes, chain),
        (1, true) => place_in::<_, 1, true>(lanes, chain),
        (2, false) => place_in::<_, 2, false>(lanes, chain),
        (2, true) => place_in::<_, 2, true>(lanes, chain),
        (3, false) => place_in::<_, 3, false>(lanes, chain),
        (3, true) => place_in::<_, 3, true>(lanes, chain),
        (_, false) => place_in::<_, 4, false>(lanes, chain),
        (_, true) => place_in::<_, 4, true>(lanes, chain),
    }
}

#[inline(always)]
fn place_in<L: Lanes, const GROUPS: usize, const MANY: bool>(
    lanes: L,
    chain: &mut Chain<'_>,
) -> Option<usize> {
    let terms = Terms::new(chain);
    // What does not change stays in registers.
    let (pairs, tolerant, ordered) = (chain.pairs, chain.tolerance_tokens.is_some(), chain.ordered);
    let (loads, open, picks) = (&mut *chain.loads, &mut *chain.open, &mut *chain.picks);
    let mut field = Field::<GROUPS, MANY>::new(ordered, chain.marks, chain.block_bounds)?;
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
        let best = field.search_late(lanes, &query, late);
        late = None;
        if best.position == NOWHERE {
            // A worker that may take nobody now never may again: rooms and the pool only shrink.
            continue;
        }
        if terms.is_cut(profile, field.tokens_of(best.position)) {
            unfit = Some(worker);
            break;
        }
        let mut found = best.found();
        if let Some(pairs) = pairs {
            let place = (worker, loads.longest_tokens(worker));
            found = field.best_listed(pairs, &terms, profile, Some(found), place).unwrap_or(found);
        }
        let Found { position, score } = found;
        let tokens = field.tokens_of(position);
        loads.admit_alike(worker, tokens);
        field.take(position);
        if MANY {
            field.shut(position / BLOCK);
            late = Some(position / BLOCK);
        }
        picks.push(Pick {
            position,
            worker,
            tokens,
            score,
            overdue: false,
            held: false,
            peak_tokens: tolerant.then(|| profile.peak_tokens()),
            best_at: 0,
        });
        if loads.open_slots(worker) > 0 {
            let key = open_key(loads.cost(worker), worker);
            let at = open.partition_point(|other| *other > key);
            open.insert(at, key);
        }
    }
    if let Some(block) = late {
        field.reopen(lanes, block);
    }
    unfit
}

/// Looks at the picks again from the `first`th on: each that another waiting request now suits better changes places with it. Whether any did, and the
/// pick whose search does not fit these lanes.
#[inline(always)]
pub(super) fn replace<L: Lanes>(lanes: L, chain: &mut Chain<'_>, first: usize) -> (bool, Option<usize>) {
    // Mostly nobody.
    let again = NeedsRecheck { tolerance_tokens: chain.tolerance_tokens, drop_tokens: chain.drop_tokens };
    let Some((first, _)) = again.next(chain.picks, chain.loads, chain.changes, first) else {
        return (false, None);
    };
    begin(lanes, chain);
    match chain.ordered.low.len() {
        1 => replace_in::<_, 1>(lanes, chain, again, first),
        2 => replace_in::<_, 2>(lanes, chain, again, first),
        3 => replace_in::<_, 3>(lanes, chain, again, first),
        _ => replace_in::<_, 4>(lanes, chain, again, first),
    }
}

#[inline(always)]
fn replace_in<L: Lanes, const GROUPS: usize>(
    lanes: L,
    chain: &mut Chain<'_>,
    again: NeedsRecheck,
    first: usize,
) -> (bool, Option<usize>) {
    let terms = Terms::new(chain);
    let loads = &mut *chain.loads;
    let mut changed = false;
    let Some(mut field) = Field::<GROUPS, false>::new(chain.ordered, chain.marks, chain.block_bounds) else {
        return (false, None);
    };
    let mut from = first;
    while let Some((index, profile)) = again.next(chain.picks, loads, chain.changes, from) {
        from = index + 1;
        let pick = &mut chain.picks[index];
        if !terms.fit(profile) {
            return (changed, Some(index));
        }
        let bonus = chain.pairs.map_or(0, |pairs| pairs.units(pick.worker, pick.position));
        let current = profile.score(terms.overflow_weight, pick.tokens) + field.age_of(pick.position) + bonus;
        let longest = loads.longest_without(pick.worker, pick.tokens);
        let mut found = None;
        // Without a bonus nobody scores more.
        if current < i64::from(LIMIT) {
            let wanted = (current + 1).max(1 - i64::from(LIMIT)) as i32;
            let best = field.search(lanes, &terms.query(lanes, profile, longest), wanted);
            if best.position != NOWHERE {
                if terms.is_cut(profile, field.tokens_of(best.position)) {
                    return (changed, Some(index));
                }
                found = Some(best.found());
            }
        }
        if let Some(pairs) = chain.pairs {
            found = field.best_listed(pairs, &terms, profile, found, (pick.worker, longest));
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
        // Its own change leaves it the best: its worker without it is the same, and who went back to the pool was worse.
        (pick.best_at, pick.peak_tokens) =
            (chain.changes, chain.tolerance_tokens.map(|_| profile.peak_tokens()));
    }
    (changed, None)
}

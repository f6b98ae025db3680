//! The admissions of level refill, one after the other, in one kernel.
//!
//! Each admission waits for the one before it: what it changes moves the length that the next worker wants. So what counts is how long
//! one takes from end to end, not how many instructions it has. A rule that is known as data ([`crate::rule::Drawer::Level`]) needs no
//! profile: its score is a tent over the wanted length, lower still past the margin,
//!
//! ```text
//! score(s) = age - |s - wanted| - overflow_weight * max(0, s - margin)
//! ```
//!
//! and a block is bounded by its greatest `s + age` on one flank and its greatest `age - s` on the other. Score and place share one lane, so
//! that one reduction finds both. What leaves these lanes is left to the general search, which answers the same.

use super::column::{self, Marks};
use super::lanes::Lanes;
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, open_key, worker_of};
use crate::batch::MAX_PROMPT_TOKENS;
use crate::pool::{BLOCK, Ordered};

/// Distances from the wanted length and ages together stay below this, and so does what a length costs past the margin.
pub(crate) const SPAN: i64 = 1 << 24;
/// Scores lie between this on either side of zero: a place of six bits fits below one.
const LIMIT: i32 = 1 << 25;
const PLACE_BITS: u32 = 6;
const LANE_BITS: u32 = BLOCK.ilog2();
/// Groups of blocks that a search holds in registers.
pub(crate) const MOST_GROUPS: usize = (1 << PLACE_BITS) / BLOCK;
/// Slopes of a tent: its flanks are the lines that blocks are bounded by.
pub(crate) const FLANKS: [i32; 2] = [1, -1];

/// For each block of a search its place, the first the greatest.
const PLACES: [[i32; BLOCK]; MOST_GROUPS] = {
    let mut places = [[0; BLOCK]; MOST_GROUPS];
    let mut at = 0;
    while at < MOST_GROUPS * BLOCK {
        places[at / BLOCK][at % BLOCK] = (MOST_GROUPS * BLOCK - 1 - at) as i32;
        at += 1;
    }
    places
};

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

/// What the admissions of a step work on.
pub(crate) struct Chain<'a> {
    pub ordered: &'a Ordered<'a>,
    pub marks: &'a mut Marks,
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
struct Tent {
    wanted: i64,
    margin: i64,
}

impl Tent {
    /// The length that it would take most gladly.
    fn peak_tokens(self) -> i64 {
        self.wanted.min(self.margin).clamp(0, i64::from(MAX_PROMPT_TOKENS))
    }
}

/// A tent in lanes.
#[derive(Clone, Copy)]
struct Query {
    wanted: i32,
    margin: i32,
    overflow_weight: i32,
    /// Most tokens past the margin that are told apart.
    furthest: i32,
    longest: i32,
}

#[derive(Clone, Copy)]
struct Best {
    score: i32,
    position: usize,
}

const NOWHERE: usize = usize::MAX;

/// The answer of a search.
enum Answer {
    Found(Best),
    Nobody,
    /// It does not fit these lanes.
    Unfit,
}

impl Chain<'_> {
    #[inline(always)]
    fn tent(&self, worker: usize, own: i64) -> Tent {
        let (others_mean, others_max) = self.loads.others(worker);
        Tent { wanted: others_mean - self.drop_tokens - own, margin: others_max - own }
    }

    /// A tent in lanes, if it fits them: distances, ages and the price past the margin.
    #[inline(always)]
    fn query(&self, tent: Tent, longest_tokens: i64) -> Option<Query> {
        let tokens = self.ordered.tokens;
        let (shortest, last) = (i64::from(tokens[0]), i64::from(tokens[tokens.len() - 1]));
        let reach = i64::max((tent.wanted - shortest).abs(), (last - tent.wanted).abs()) + self.oldest_age;
        let overflow_weight = self.loads.costs().len() as i64 - 1;
        (reach < SPAN).then(|| Query {
            wanted: tent.wanted as i32,
            margin: tent.margin.clamp(-SPAN, last) as i32,
            overflow_weight: overflow_weight as i32,
            furthest: (SPAN as u32 / overflow_weight as u32) as i32 - 1,
            longest: longest_tokens.clamp(0, i64::from(i32::MAX)) as i32,
        })
    }
}

/// Admits until nobody fits anywhere: a worker whose search does not fit these lanes is returned, and left to the caller.
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
    let mut late = LateBlock(None);
    let unfit = place_late::<_, GROUPS>(lanes, chain, &mut late);
    late.tighten(lanes, chain.ordered, chain.marks);
    unfit
}

/// The block of the last admission. Its bounds are not brought down to what is left of it before the next search: that one looks into it
/// anyway, beside the search for the best of all others, instead of waiting for its bounds.
#[derive(Clone, Copy)]
struct LateBlock(Option<usize>);

impl LateBlock {
    #[inline(always)]
    fn tighten<L: Lanes>(&mut self, lanes: L, ordered: &Ordered<'_>, marks: &mut Marks) {
        if let Some(block) = self.0.take() {
            column::tighten(lanes, ordered, block, marks);
        }
    }
}

#[inline(always)]
fn place_late<L: Lanes, const GROUPS: usize>(
    lanes: L,
    chain: &mut Chain<'_>,
    late: &mut LateBlock,
) -> Option<usize> {
    while let Some(key) = chain.open.pop() {
        let worker = worker_of(key);
        let longest = chain.loads.longest_tokens(worker);
        let tent = chain.tent(worker, chain.loads.refilled(worker));
        let Some(query) = chain.query(tent, longest) else { return Some(worker) };
        match search::<_, GROUPS>(lanes, chain, &query, 1 - LIMIT, late) {
            // A worker that may take nobody now never may again: rooms and the pool only shrink.
            Answer::Nobody => {}
            Answer::Unfit => return Some(worker),
            Answer::Found(best) => {
                let tokens = i64::from(chain.ordered.tokens[best.position]);
                chain.loads.admit(worker, tokens);
                chain.marks.take(best.position);
                late.0 = Some(best.position / BLOCK);
                chain.picks.push(Pick {
                    position: best.position,
                    worker,
                    tokens,
                    score: i64::from(best.score),
                    overdue: false,
                    pair_terms: false,
                    peak_tokens: chain.tolerance_tokens.map(|_| tent.peak_tokens()),
                    best_at: 0,
                });
                if chain.loads.open_slots(worker) > 0 {
                    let key = open_key(chain.loads.cost(worker), worker);
                    let at = chain.open.partition_point(|other| *other > key);
                    chain.open.insert(at, key);
                }
            }
        }
    }
    None
}

/// What tokens past the margin cost.
#[inline(always)]
fn overflow<L: Lanes>(lanes: L, query: &Query, tokens: L::V) -> L::V {
    let past = lanes.max(lanes.sub(tokens, lanes.splat(query.margin)), lanes.splat(0));
    lanes.mul(lanes.min(past, lanes.splat(query.furthest + 1)), lanes.splat(query.overflow_weight))
}

/// The best free entry of at least `wanted` score units: greatest score, then earliest arrival.
#[inline(always)]
fn search<L: Lanes, const GROUPS: usize>(
    lanes: L,
    chain: &mut Chain<'_>,
    query: &Query,
    wanted: i32,
    late: &mut LateBlock,
) -> Answer {
    let (ordered, marks) = (chain.ordered, &mut *chain.marks);
    let mut best = Best { score: wanted, position: NOWHERE };
    // Loops, no closures: these may be compiled apart, without the instruction set.
    let mut keys = [lanes.splat(i32::MIN); GROUPS];
    #[expect(clippy::needless_range_loop, reason = "an array of lanes stays in registers so")]
    for group in 0..GROUPS {
        let rising = lanes.sub(lanes.load(&marks.lines[0][group]), lanes.splat(query.wanted));
        let falling = lanes.add(lanes.load(&marks.lines[1][group]), lanes.splat(query.wanted));
        let low = lanes.load_unsigned(&ordered.low[group]);
        let bound = lanes.sub(lanes.min(rising, falling), overflow(lanes, query, low));
        let mut open = !marks.full[group] & !lanes.greater(low, lanes.splat(query.longest));
        if let Some(block) = late.0
            && block / BLOCK == group
        {
            open &= !(1 << (block % BLOCK));
        }
        let key = lanes.add(lanes.shift_left::<PLACE_BITS>(bound), lanes.load(&PLACES[group]));
        keys[group] = lanes.keep(key, open);
    }
    if let Some(block) = late.0 {
        look_into(lanes, ordered, query, marks, block, &mut best);
        late.tighten(lanes, ordered, marks);
    }
    loop {
        let mut first = keys[0];
        #[expect(clippy::needless_range_loop, reason = "as above")]
        for group in 1..GROUPS {
            first = lanes.max(first, keys[group]);
        }
        let key = lanes.top(first);
        if key >> PLACE_BITS < best.score {
            break;
        }
        let block = MOST_GROUPS * BLOCK - 1 - (key & ((1 << PLACE_BITS) - 1)) as usize;
        look_into(lanes, ordered, query, marks, block, &mut best);
        // Most often one block is enough; that is known before the next is looked for.
        let reach = lanes.splat((best.score << PLACE_BITS) - 1);
        let mut further = 0;
        #[expect(clippy::needless_range_loop, reason = "as above")]
        for group in 0..GROUPS {
            let seen = lanes.equal(keys[group], lanes.splat(key));
            keys[group] = lanes.keep(keys[group], !seen);
            further |= lanes.greater(keys[group], reach);
        }
        if further == 0 {
            break;
        }
    }
    if best.position == NOWHERE {
        Answer::Nobody
    } else if ordered.tokens[best.position] as i32 - query.margin > query.furthest {
        Answer::Unfit
    } else {
        Answer::Found(best)
    }
}

/// Scores one block and keeps the better of its best and `best`.
#[inline(always)]
fn look_into<L: Lanes>(
    lanes: L,
    ordered: &Ordered<'_>,
    query: &Query,
    marks: &mut Marks,
    block: usize,
    best: &mut Best,
) {
    let ages = column::ages_of(lanes, ordered, block, marks);
    let tokens = lanes.load_unsigned(&ordered.token_blocks[block]);
    let distance = lanes.abs(lanes.sub(tokens, lanes.splat(query.wanted)));
    let scores = lanes.sub(lanes.sub(ages, distance), overflow(lanes, query, tokens));
    let fit = !lanes.greater(tokens, lanes.splat(query.longest)) & !marks.taken[block];
    let keys = lanes.add(lanes.shift_left::<LANE_BITS>(scores), lanes.load(&LANES));
    let key = lanes.top(lanes.keep(keys, fit));
    let score = key >> LANE_BITS;
    if score < best.score {
        return;
    }
    let mut position = block * BLOCK + BLOCK - 1 - (key as usize & (BLOCK - 1));
    let mut equals = fit & lanes.equal(scores, lanes.splat(score));
    let tied = score == best.score && best.position != NOWHERE;
    if tied || equals & (equals - 1) != 0 {
        let arrived = |position: usize| ordered.arrived_blocks[position / BLOCK][position % BLOCK];
        if tied {
            position = best.position;
        }
        while equals != 0 {
            let other = block * BLOCK + equals.trailing_zeros() as usize;
            equals &= equals - 1;
            if arrived(other) < arrived(position) {
                position = other;
            }
        }
    }
    *best = Best { score, position };
}

/// Looks at the picks again from the `first`th on: each that another waiting request now suits better changes places with it. Whether any did, and the
/// pick whose search does not fit these lanes.
#[inline(always)]
pub(super) fn replace<L: Lanes>(lanes: L, chain: &mut Chain<'_>, first: usize) -> (bool, Option<usize>) {
    match chain.ordered.low.len() {
        1 => replace_in::<_, 1>(lanes, chain, first),
        2 => replace_in::<_, 2>(lanes, chain, first),
        3 => replace_in::<_, 3>(lanes, chain, first),
        _ => replace_in::<_, 4>(lanes, chain, first),
    }
}

#[inline(always)]
fn replace_in<L: Lanes, const GROUPS: usize>(
    lanes: L,
    chain: &mut Chain<'_>,
    first: usize,
) -> (bool, Option<usize>) {
    let mut changed = false;
    for index in first..chain.picks.len() {
        let pick = chain.picks[index];
        // Nothing has changed since it was looked at: neither would the answer.
        if pick.overdue || pick.best_at == chain.changes {
            continue;
        }
        let tent = chain.tent(pick.worker, chain.loads.without(pick.worker, pick.tokens));
        let peak_tokens = tent.peak_tokens();
        if let (Some(tolerance), Some(then)) = (chain.tolerance_tokens, pick.peak_tokens)
            && (peak_tokens - then).abs() <= tolerance
        {
            continue;
        }
        let longest = chain.loads.longest_without(pick.worker, pick.tokens);
        let Some(query) = chain.query(tent, longest) else { return (changed, Some(index)) };
        let age = column::age_of(chain.ordered, pick.position, chain.marks);
        let past = (pick.tokens - tent.margin).max(0);
        let current = i64::from(age)
            - (pick.tokens - tent.wanted).abs()
            - i64::from(query.overflow_weight) * past;
        let wanted = (current + 1).max(1 - i64::from(LIMIT)) as i32;
        let mut kept = Pick { score: current, ..pick };
        match search::<_, GROUPS>(lanes, chain, &query, wanted, &mut LateBlock(None)) {
            Answer::Unfit => return (changed, Some(index)),
            Answer::Nobody => {}
            Answer::Found(best) => {
                changed = true;
                chain.changes += 1;
                chain.marks.give_back(pick.position);
                chain.marks.raise_lines(pick.position, pick.tokens as u32);
                column::take(lanes, chain.ordered, best.position, chain.marks);
                let tokens = i64::from(chain.ordered.tokens[best.position]);
                chain.loads.exchange(pick.worker, tokens - pick.tokens);
                kept = Pick { position: best.position, tokens, score: i64::from(best.score), ..kept };
            }
        }
        // Its own change leaves it the best: its worker without it is the same, and who went back to the pool was worse.
        chain.picks[index] =
            Pick { best_at: chain.changes, peak_tokens: chain.tolerance_tokens.map(|_| peak_tokens), ..kept };
    }
    (changed, None)
}

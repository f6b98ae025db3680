//! Swaps of picks between workers: each pair whose swap lowers the plan's pair cost changes places, in order.
//!
//! A filter leaves the exact question to few pairs. Each pick has three numbers, in tokens times workers: by
//! how much its worker lies above the common level (`above`), its own length (`length`), and their
//! difference, by how much the worker lies above without it (`bare`). Swapping picks `a` and `b` moves
//! `u = length_a - length_b` from one worker to the other. Then
//! `|above_a - u| + |above_b + u| < |above_a| + |above_b|` holds just where the two lie on different sides of
//! the level and `u` is between zero and `above_a - above_b`: the higher worker has the longer pick, and
//! would lie higher even without it. The greatest load falls where that holds of the top worker and any
//! other. Two comparisons tell both.

use super::lanes::Lanes;
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, hold};
use crate::pool::BLOCK;
use crate::rule::PairCost;

/// Lanes hold values below this, so that no sum of four leaves an `i32`.
const GREATEST: i64 = 1 << 28;

/// Ends a list of picks.
const NO_PICK: u32 = u32::MAX;

/// The picks of a step in lanes, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    /// By how much the worker lies above the level without the pick.
    bare: Vec<[i32; BLOCK]>,
    length: Vec<[i32; BLOCK]>,
    /// Picks on workers above the level, and on those below.
    above: Vec<u16>,
    below: Vec<u16>,
    /// Picks on the top worker.
    top: Vec<u16>,
    top_worker: usize,
    /// Picks that may move.
    movable: Vec<u16>,
    /// The first pick of each worker, and the next of the same worker for each pick: they never change places
    /// during the repair.
    first_of: Vec<u32>,
    next_of: Vec<u32>,
}

impl Pairs {
    /// Makes room for so many workers and picks.
    pub(crate) fn reserve(&mut self, workers: usize, picks: usize) {
        let blocks = picks.div_ceil(BLOCK);
        hold(&mut self.bare, blocks);
        hold(&mut self.length, blocks);
        for bits in [&mut self.above, &mut self.below, &mut self.top, &mut self.movable] {
            hold(bits, blocks);
        }
        hold(&mut self.first_of, workers);
        hold(&mut self.next_of, picks);
    }
}

/// What the swaps of a step work on.
pub(crate) struct Swap<'a> {
    pub loads: &'a mut Loads,
    pub picks: &'a mut [Pick],
    pub pairs: &'a mut Pairs,
    pub cost: PairCost,
    /// Changes that the repair has made to the picks of this step, plus one.
    pub changes: u32,
}

fn set(bits: &mut u16, lane: usize, to: bool) {
    *bits = *bits & !(1 << lane) | u16::from(to) << lane;
}

impl Swap<'_> {
    /// By how much a worker lies above the common level, times the number of workers.
    #[inline(always)]
    fn above(&self, worker: usize) -> i64 {
        let offset = match self.cost {
            PairCost::Envelope => 0,
            PairCost::Level { offset, .. } => offset,
        };
        let anticipated = self.loads.anticipated();
        anticipated.len() as i64 * anticipated[worker] - self.loads.sum() + offset
    }

    /// Fills the lanes; false when something does not fit them.
    #[inline(always)]
    fn fill(&mut self) -> bool {
        let workers = self.loads.anticipated().len();
        let blocks = self.picks.len().div_ceil(BLOCK);
        self.pairs.bare.resize(blocks, [0; BLOCK]);
        self.pairs.length.resize(blocks, [0; BLOCK]);
        self.pairs.top.resize(blocks, 0);
        for bits in [&mut self.pairs.above, &mut self.pairs.below, &mut self.pairs.movable] {
            bits.clear();
            bits.resize(blocks, 0);
        }
        self.pairs.first_of.clear();
        self.pairs.first_of.resize(workers, NO_PICK);
        self.pairs.next_of.clear();
        let distances = self.cost != PairCost::Envelope;
        let mut greatest = 0;
        for index in 0..self.picks.len() {
            let pick = self.picks[index];
            let (above, length) = (self.above(pick.worker), workers as i64 * pick.tokens);
            greatest = greatest.max(above.abs()).max(length);
            let (block, lane) = (index / BLOCK, index % BLOCK);
            self.pairs.bare[block][lane] = (above - length) as i32;
            if distances {
                self.pairs.above[block] |= u16::from(above > 0) << lane;
                self.pairs.below[block] |= u16::from(above < 0) << lane;
            }
            self.pairs.length[block][lane] = length as i32;
            self.pairs.movable[block] |= u16::from(pick.may_move()) << lane;
            let first = std::mem::replace(&mut self.pairs.first_of[pick.worker], index as u32);
            self.pairs.next_of.push(first);
        }
        self.mark_top();
        greatest < GREATEST
    }

    fn mark_top(&mut self) {
        self.pairs.top_worker = self.loads.top();
        self.pairs.top.fill(0);
        let first = self.pairs.first_of.get(self.pairs.top_worker);
        let mut index = first.map_or(NO_PICK, |&first| first) as usize;
        while let Some(&next) = self.pairs.next_of.get(index) {
            self.pairs.top[index / BLOCK] |= 1 << (index % BLOCK);
            index = next as usize;
        }
    }

    /// Swaps two picks if that lowers the cost of their workers.
    #[inline(always)]
    fn try_pair(&mut self, first: usize, second: usize) -> bool {
        let (a, b) = (self.picks[first], self.picks[second]);
        if a.worker == b.worker || !a.may_move() || !b.may_move() || a.tokens == b.tokens {
            return false;
        }
        let room = |pick: &Pick| self.loads.longest_without(pick.worker, pick.tokens);
        if b.tokens > room(&a) || a.tokens > room(&b) {
            return false;
        }
        let pair = self.loads.pair(a.worker, b.worker);
        let anticipated = self.loads.anticipated();
        let (x, v) = (anticipated[a.worker], anticipated[b.worker]);
        let moved = b.tokens - a.tokens;
        if self.cost.of(&pair, x + moved, v - moved) >= self.cost.of(&pair, x, v) {
            return false;
        }
        self.changes += 1;
        self.loads.change_tokens(a.worker, moved);
        self.loads.change_tokens(b.worker, -moved);
        self.picks[first] = Pick { position: b.position, tokens: b.tokens, wanted_tokens: None, ..a };
        self.picks[second] = Pick { position: a.position, tokens: a.tokens, wanted_tokens: None, ..b };
        true
    }

    /// Brings the lanes up to date after a swap; false when something does not fit them any more.
    #[inline(always)]
    fn follow(&mut self, first: usize, second: usize) -> bool {
        let workers = self.loads.anticipated().len() as i64;
        let mut fits = true;
        let distances = self.cost != PairCost::Envelope;
        for changed in [first, second] {
            let Pick { worker, tokens, .. } = self.picks[changed];
            let above = self.above(worker);
            fits &= above.abs() < GREATEST;
            self.pairs.length[changed / BLOCK][changed % BLOCK] = (workers * tokens) as i32;
            let mut index = self.pairs.first_of[worker] as usize;
            while let Some(&next) = self.pairs.next_of.get(index) {
                let (block, lane) = (index / BLOCK, index % BLOCK);
                self.pairs.bare[block][lane] = above as i32 - self.pairs.length[block][lane];
                if distances {
                    set(&mut self.pairs.above[block], lane, above > 0);
                    set(&mut self.pairs.below[block], lane, above < 0);
                }
                index = next as usize;
            }
        }
        if self.loads.top() != self.pairs.top_worker {
            self.mark_top();
        }
        fits
    }

    /// The rest of a pass, pair by pair.
    pub(super) fn plain(&mut self, first: usize, second: usize) -> bool {
        let mut changed = false;
        let mut from = second;
        for first in first..self.picks.len() {
            for second in from..self.picks.len() {
                changed |= self.try_pair(first, second);
            }
            from = first + 2;
        }
        changed
    }
}

/// One pass over all pairs: whether any was swapped.
#[inline(always)]
pub(super) fn pass<L: Lanes>(lanes: L, swap: &mut Swap<'_>) -> bool {
    let mut changed = false;
    if !swap.fill() {
        return swap.plain(0, 1);
    }
    for first in 0..swap.picks.len() {
        let mut from = first + 1;
        while let Some(second) = next(lanes, swap.pairs, first, from) {
            if swap.try_pair(first, second) {
                changed = true;
                if !swap.follow(first, second) {
                    swap.plain(first, second + 1);
                    return true;
                }
            }
            from = second + 1;
        }
    }
    changed
}

/// The next pick, from one on, whose swap with the `first` may help.
#[inline(always)]
fn next<L: Lanes>(lanes: L, pairs: &Pairs, first: usize, from: usize) -> Option<usize> {
    let blocks = pairs.bare.len();
    let (bare, length) = (&pairs.bare[..blocks], &pairs.length[..blocks]);
    let (above, below, top) = (&pairs.above[..blocks], &pairs.below[..blocks], &pairs.top[..blocks]);
    let movable = &pairs.movable[..blocks];
    let (block, lane) = (first / BLOCK, first % BLOCK);
    let has = |bits: &[u16]| if bits[block] >> lane & 1 == 1 { u16::MAX } else { 0 };
    if has(movable) == 0 {
        return None;
    }
    let (first_above, first_below, first_top) = (has(above), has(below), has(top));
    let first_bare = lanes.splat(bare[block][lane]);
    let first_length = lanes.splat(length[block][lane]);
    let mut later = u16::MAX.wrapping_shl((from % BLOCK) as u32);
    for at in from / BLOCK..blocks {
        let (second_bare, second_length) = (lanes.load(&bare[at]), lanes.load(&length[at]));
        let higher = lanes.greater(first_bare, second_bare) & lanes.greater(first_length, second_length);
        let lower = lanes.greater(second_bare, first_bare) & lanes.greater(second_length, first_length);
        let mask =
            higher & (first_above & below[at] | first_top) | lower & (first_below & above[at] | top[at]);
        let mask = mask & later & movable[at];
        if mask != 0 {
            return Some(at * BLOCK + mask.trailing_zeros() as usize);
        }
        later = u16::MAX;
    }
    None
}

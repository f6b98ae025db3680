//! The anticipated loads of all workers in lanes, in order.

use crate::backend::cpu::lanes::Lanes;
use crate::backend::picks::hold;
use crate::pool::BLOCK;

/// Loads lie this close together, so that lanes hold their differences.
const SPREAD: i64 = 1 << 28;

/// The loads of all workers but one, ascending, and of that one, above the least that there was at first.
///
/// Who goes next is left out, and who was left out comes in with the load that it has got: both at once, and
/// nobody has to be moved for it. Of a sorted column `r` with `v` put in, the entry at `k` is
/// `max(r[k - 1], min(v, r[k]))`.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranks {
    /// A block below all loads, the loads, and what lies above all of them.
    others: Vec<[i32; BLOCK]>,
    /// The column of the last time.
    before: Vec<[i32; BLOCK]>,
    left_out: i32,
    /// How many workers there are.
    count: usize,
    origin: i64,
}

/// How many blocks hold the loads of so many workers, and what lies on either side of them.
fn blocks(workers: usize) -> usize {
    workers.div_ceil(BLOCK) + 2
}

/// Sixteen entries from one on.
#[inline(always)]
fn from<L: Lanes>(lanes: L, column: &[[i32; BLOCK]], at: usize) -> L::V {
    lanes.load(column.as_flattened()[at..].first_chunk().expect("the column ends in a block of its own"))
}

impl Ranks {
    /// Makes room for so many workers.
    pub(super) fn hold(&mut self, workers: usize) {
        hold(&mut self.others, blocks(workers));
        hold(&mut self.before, blocks(workers));
    }

    /// Takes the loads of two workers or more, least first; the last is left out. False where they lie too
    /// far apart.
    #[inline(always)]
    pub(super) fn take(&mut self, loads: &[i64]) -> bool {
        let [least, .., greatest] = *loads else { return false };
        if greatest - least >= SPREAD {
            return false;
        }
        if self.count != loads.len() {
            self.count = loads.len();
            for column in [&mut self.others, &mut self.before] {
                column.clear();
                column.resize(blocks(self.count), [i32::MAX; BLOCK]);
                column[0] = [i32::MIN; BLOCK];
            }
        }
        self.origin = least;
        let levels = &mut self.others.as_flattened_mut()[BLOCK..BLOCK + loads.len()];
        for (level, &load) in levels.iter_mut().zip(loads) {
            *level = (load - least) as i32;
        }
        self.left_out = std::mem::replace(&mut levels[loads.len() - 1], i32::MAX);
        true
    }

    /// Gives all of them back as they are now.
    #[inline(always)]
    pub(super) fn give(&self, loads: &mut [i64]) {
        let levels = &self.others.as_flattened()[BLOCK - 1..BLOCK + loads.len()];
        for (load, pair) in loads.iter_mut().zip(levels.windows(2)) {
            *load = self.origin + i64::from(pair[0].max(self.left_out.min(pair[1])));
        }
    }

    /// A load as they count it.
    #[inline(always)]
    pub(super) fn level_of(&self, load: i64) -> i64 {
        load - self.origin
    }

    /// The one that is left out has another level.
    #[inline(always)]
    pub(super) fn set_left_out(&mut self, level: i32) {
        self.left_out = level;
    }

    /// Leaves out one that has this level.
    #[inline(always)]
    pub(super) fn leave_out<L: Lanes>(&mut self, lanes: L, level: i32) {
        let back = lanes.splat(self.left_out);
        let mut below = usize::from(self.left_out < level);
        let inside = 1..self.others.len() - 1;
        for others in &self.others[inside.clone()] {
            below += lanes.greater(lanes.splat(level), lanes.load(others)).count_ones() as usize;
        }
        std::mem::swap(&mut self.others, &mut self.before);
        let before = &self.before[..];
        for (block, others) in self.others[inside].iter_mut().enumerate() {
            let at = BLOCK + block * BLOCK;
            let here = from(lanes, before, at);
            let all = lanes.max(from(lanes, before, at - 1), lanes.min(back, here));
            let next = lanes.max(here, lanes.min(back, from(lanes, before, at + 1)));
            let stay = ((1u32 << below.saturating_sub(block * BLOCK).min(BLOCK)) - 1) as u16;
            lanes.store(lanes.max(lanes.keep(all, stay), lanes.keep(next, !stay)), others);
        }
        self.left_out = level;
    }

    /// The levels of all but the one that is left out.
    #[inline(always)]
    pub(super) fn others(&self) -> &[[i32; BLOCK]] {
        &self.others[1..self.others.len() - 1]
    }

    /// The least level of all but one that has this level.
    #[inline(always)]
    pub(super) fn least_without(&self, level: i32) -> i32 {
        let [first, second, ..] = self.others[1];
        let (least, next) = (first.min(self.left_out), first.max(second.min(self.left_out)));
        if level == least { next } else { least }
    }
}

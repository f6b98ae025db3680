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

/// How many blocks hold the loads of so many workers but one, and what lies on either side of them.
fn blocks(workers: usize) -> usize {
    workers.saturating_sub(1).div_ceil(BLOCK) + 2
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

    /// Leaves out one that has this level. Past each of the others, up to one that no length reaches, a price
    /// is steeper, so much per token less than zero in `falls`: `heights` become those of its lines at zero.
    #[inline(always)]
    pub(super) fn leave_out<L: Lanes>(
        &mut self,
        lanes: L,
        (level, reach): (i32, i32),
        falls: &[[i32; BLOCK]],
        heights: &mut [i32],
    ) {
        std::mem::swap(&mut self.others, &mut self.before);
        let (back, own) = (lanes.splat(self.left_out), lanes.splat(level));
        let (reach, mut sum) = (lanes.splat(reach), lanes.splat(0));
        let before = self.before.as_flattened();
        let [lower, here, upper] =
            [BLOCK - 1, BLOCK, BLOCK + 1].map(|from| before[from..].as_chunks::<BLOCK>().0.iter());
        let into = self.others[1..].iter_mut().zip(heights[1..].as_chunks_mut::<BLOCK>().0);
        for (((into, heights), falls), ((lower, here), upper)) in
            into.zip(falls).zip(lower.zip(here).zip(upper))
        {
            let here = lanes.load(here);
            let all = lanes.max(lanes.load(lower), lanes.min(back, here));
            let next = lanes.max(here, lanes.min(back, lanes.load(upper)));
            // From the one that leaves on, each takes the place of the one before it.
            let others = lanes.min(lanes.lift(all, own), next);
            lanes.store(others, into);
            let costs = lanes.mul(lanes.min(others, reach), lanes.load(falls));
            let sums = lanes.add(lanes.running(costs), sum);
            lanes.store(sums, heights);
            sum = lanes.splat(heights[BLOCK - 1]);
        }
        self.left_out = level;
    }

    /// The levels of all but the one that is left out.
    #[inline(always)]
    pub(super) fn others(&self) -> &[[i32; BLOCK]] {
        let [_, others @ .., _] = &self.others[..] else { return &[] };
        others
    }

    /// The least load of all but one that has this load.
    #[inline(always)]
    pub(super) fn least_without(&self, load: i64) -> i64 {
        let [first, second, ..] = self.others[1];
        let (least, next) = (first.min(self.left_out), first.max(second.min(self.left_out)));
        let least_load = self.origin + i64::from(least);
        if load == least_load { self.origin + i64::from(next) } else { least_load }
    }
}

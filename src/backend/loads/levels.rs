//! The anticipated loads in order: what profiles are made from that know every other worker.

use super::{Loads, SHUT};
use crate::batch::Worker;

impl Loads {
    /// The anticipated loads, least first, where the plan follows them.
    pub(crate) fn levels(&self) -> &[i64] {
        &self.levels
    }

    /// The least of them but a worker's own, of two or more.
    #[inline(always)]
    pub(crate) fn least_without(&self, worker: usize) -> i64 {
        let [least, next, ..] = self.levels[..] else { return 0 };
        if self.anticipated[worker] == least { next } else { least }
    }

    /// These, for who follows them.
    pub(crate) fn levels_mut(&mut self) -> &mut [i64] {
        &mut self.levels
    }

    /// Puts the anticipated loads in order, from the order that they had in the last step: of few it is
    /// another.
    pub(super) fn sort_levels(&mut self, workers: &[Worker]) {
        if !self.follows_levels {
            self.levels.clear();
            return;
        }
        let count = workers.len();
        self.levels.resize(count, 0);
        if self.order.len() != count {
            self.order.clear();
            self.order.extend(0..count as u32);
        }
        let anticipated = &self.anticipated[..count];
        let level_of = |worker: u32| {
            let (load, level) = (workers[worker as usize].load_tokens as i64, anticipated[worker as usize]);
            // A worker without an open slot keeps its load.
            if level == SHUT { load } else { level }
        };
        let (mut sorted, mut before) = (true, i64::MIN);
        for (level, &worker) in self.levels.iter_mut().zip(&self.order) {
            *level = level_of(worker);
            sorted &= before <= *level;
            before = *level;
        }
        if sorted {
            return;
        }
        // Insertion, as long as little moves.
        let (levels, order) = (&mut self.levels[..count], &mut self.order[..count]);
        let mut moves = 0;
        for next in 1..count {
            let (level, worker) = (levels[next], order[next]);
            let mut at = next;
            while at > 0 && levels[at - 1] > level {
                (levels[at], order[at]) = (levels[at - 1], order[at - 1]);
                at -= 1;
            }
            if at < next {
                (levels[at], order[at]) = (level, worker);
                moves += next - at;
            }
            if moves > 16 * count {
                order.sort_unstable_by_key(|&worker| level_of(worker));
                levels.sort_unstable();
                return;
            }
        }
    }

    /// One of the levels is another now.
    #[inline(always)]
    pub(super) fn follow_level(&mut self, old: i64, new: i64) {
        let levels = &mut self.levels[..];
        let from = levels.partition_point(|&level| level < old);
        let to = levels.partition_point(|&level| level < new);
        if to <= from {
            levels.copy_within(to..from, to + 1);
            levels[to] = new;
        } else {
            levels.copy_within(from + 1..to, from);
            levels[to - 1] = new;
        }
    }
}

//! The anticipated loads in order: what profiles are made from that know every other worker.

use super::Loads;

impl Loads {
    /// Puts the anticipated loads in order, from the order that they had in the last step: of few it is
    /// another.
    pub(super) fn sort_levels(&mut self) {
        self.levels.clear();
        if !self.follows_levels {
            return;
        }
        let count = self.anticipated.len();
        if self.order.len() != count {
            self.order.clear();
            self.order.extend(0..count as u32);
        }
        // Insertion, as long as little moves.
        let (anticipated, order) = (&self.anticipated[..], &mut self.order[..]);
        let mut moves = 0;
        for next in 1..count {
            let worker = order[next];
            let level = anticipated[worker as usize];
            let mut at = next;
            while at > 0 && anticipated[order[at - 1] as usize] < level {
                order[at] = order[at - 1];
                at -= 1;
            }
            order[at] = worker;
            moves += next - at;
            if moves > 16 * count {
                order.sort_unstable_by_key(|&worker| std::cmp::Reverse(anticipated[worker as usize]));
                break;
            }
        }
        self.levels.extend(order.iter().map(|&worker| anticipated[worker as usize]));
    }

    /// One of the levels is another now.
    #[inline(always)]
    pub(super) fn follow_level(&mut self, old: i64, new: i64) {
        let levels = &mut self.levels[..];
        let from = levels.partition_point(|&level| level > old);
        let to = levels.partition_point(|&level| level > new);
        if to <= from {
            levels.copy_within(to..from, to + 1);
            levels[to] = new;
        } else {
            levels.copy_within(from + 1..to, from);
            levels[to - 1] = new;
        }
    }
}

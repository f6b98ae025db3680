//! Which pairs of picks may be worth an exchange: a filter that leaves the exact question to few pairs.
//!
//! Each pick knows by how much its worker lies above the common level (`above`, in tokens times workers) and its own length in the
//! same unit (`length`). An exchange of picks `a` and `b` moves `u = length_a - length_b` from one to the other. With distances to be
//! lowered it can help only if `|above_a - u| + |above_b + u| < |above_a| + |above_b|`; the greatest load can be
//! lowered only by a pick of the top worker that gets shorter without raising the other as high.

use super::lanes::Lanes;
use crate::pool::BLOCK;

/// Lanes hold values below this, so that no sum of four leaves an `i32`.
pub(crate) const GREATEST: i64 = 1 << 28;

/// The picks of a step, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    pub above: Vec<[i32; BLOCK]>,
    pub length: Vec<[i32; BLOCK]>,
    /// Picks on the top worker.
    pub top: Vec<u16>,
    pub top_worker: usize,
    /// Picks that may move.
    pub movable: Vec<u16>,
    pub count: usize,
    /// Whether distances from the level count, or the greatest load only.
    pub distances: bool,
}

/// A pair of picks, the first before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub first: usize,
    pub second: usize,
}

#[inline(always)]
pub(super) fn next<L: Lanes>(lanes: L, pairs: &Pairs, from: Place) -> Option<Place> {
    let blocks = pairs.count.div_ceil(BLOCK);
    let (above, length) = (&pairs.above[..blocks], &pairs.length[..blocks]);
    let (top, movable) = (&pairs.top[..blocks], &pairs.movable[..blocks]);
    let mut second = from.second;
    for first in from.first..pairs.count {
        let (block, lane) = (first / BLOCK, first % BLOCK);
        if movable[block] >> lane & 1 == 1 {
            let first_top = top[block] >> lane & 1 == 1;
            let first_above = lanes.splat(above[block][lane]);
            let first_length = lanes.splat(length[block][lane]);
            let first_distance = lanes.abs(first_above);
            let mut later = u16::MAX.wrapping_shl((second % BLOCK) as u32);
            for at in second / BLOCK..blocks {
                let second_above = lanes.load(&above[at]);
                let moved = lanes.sub(first_length, lanes.load(&length[at]));
                let first_after = lanes.sub(first_above, moved);
                let second_after = lanes.add(second_above, moved);
                let mut mask = 0;
                if pairs.distances {
                    let before = lanes.add(first_distance, lanes.abs(second_above));
                    let after = lanes.add(lanes.abs(first_after), lanes.abs(second_after));
                    mask = lanes.greater(before, after);
                }
                if first_top {
                    mask |= lanes.greater(moved, lanes.splat(0)) & lanes.greater(first_above, second_after);
                } else if top[at] != 0 {
                    mask |= top[at]
                        & lanes.greater(lanes.splat(0), moved)
                        & lanes.greater(second_above, first_after);
                }
                mask &= later & movable[at];
                if mask != 0 {
                    return Some(Place { first, second: at * BLOCK + mask.trailing_zeros() as usize });
                }
                later = u16::MAX;
            }
        }
        second = first + 2;
    }
    None
}

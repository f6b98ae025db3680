//! A convex function of a length, piece by piece: the highest of its lines.

use crate::backend::cpu::lanes::Lanes;
use crate::backend::picks::hold;
use crate::pool::BLOCK;
use crate::rule::LevelTerms;

/// Lines that are looked at together. One too many changes nothing: none lies above the function.
const TOGETHER: usize = 4;

/// The function. No product of a slope and a length leaves its lanes; what is added up may wrap on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Bends {
    /// Where it bends, ascending; what fills the last block is never passed.
    at: Vec<[i32; BLOCK]>,
    /// How steep it is once so many bends are passed, and how high that line lies at zero.
    slopes: Vec<i32>,
    heights: Vec<i32>,
}

impl Bends {
    /// Makes room for so many bends.
    pub(super) fn hold(&mut self, bends: usize) {
        let blocks = bends.div_ceil(BLOCK);
        hold(&mut self.at, blocks);
        hold(&mut self.slopes, bends + 1);
        hold(&mut self.heights, blocks * BLOCK + 1);
    }

    /// Becomes what a length costs for being short.
    pub(super) fn set_reserve(&mut self, terms: &LevelTerms<'_>) {
        let knots = terms.reserve_knots;
        self.at.clear();
        self.at.resize(knots.len().div_ceil(BLOCK), [i32::MAX; BLOCK]);
        self.slopes.clear();
        self.heights.clear();
        let (mut height, mut slope) = (terms.reserve.0, -terms.reserve.1);
        for (at, knot) in self.at.as_flattened_mut().iter_mut().zip(knots) {
            self.slopes.push(slope as i32);
            self.heights.push(height as i32);
            *at = knot.at_tokens as i32;
            (height, slope) = (height - knot.weight * knot.at_tokens, slope + knot.weight);
        }
        self.slopes.push(slope as i32);
        self.heights.push(height as i32);
    }

    /// Takes the slopes of a function whose bends are the loads of all workers but one; the first is zero.
    pub(super) fn set_slopes(&mut self, slopes: impl ExactSizeIterator<Item = i32>) {
        let blocks = (slopes.len() - 1).div_ceil(BLOCK);
        self.slopes.clear();
        self.slopes.extend(slopes);
        self.at.clear();
        self.at.resize(blocks, [i32::MAX; BLOCK]);
        self.heights.clear();
        self.heights.resize(blocks * BLOCK + 1, 0);
    }

    /// Takes these bends: the levels of all workers but one, up to one that no length reaches. Less steep by
    /// `falls` past each.
    #[inline(always)]
    pub(super) fn set_others<L: Lanes>(
        &mut self,
        lanes: L,
        (levels, reach): (&[[i32; BLOCK]], i32),
        falls: &[[i32; BLOCK]],
    ) {
        let mut before = lanes.splat(0);
        let (heights, _) = self.heights[1..].as_chunks_mut::<BLOCK>();
        for (((at, heights), falls), levels) in self.at.iter_mut().zip(heights).zip(falls).zip(levels) {
            let levels = lanes.min(lanes.load(levels), lanes.splat(reach));
            lanes.store(levels, at);
            let sums = lanes.add(lanes.running(lanes.mul(levels, lanes.load(falls))), before);
            lanes.store(sums, heights);
            before = lanes.splat(heights[BLOCK - 1]);
        }
    }

    /// Where it bends for the so-manieth time.
    #[inline(always)]
    pub(super) fn bend(&self, index: usize) -> i32 {
        self.at.as_flattened()[index]
    }

    /// How many bends lie below a place.
    #[inline(always)]
    fn passed<L: Lanes>(&self, lanes: L, place: i32) -> usize {
        let (place, mut count) = (lanes.splat(place), 0);
        // Loops, no closures: these may be compiled apart, without the instruction set.
        for at in &self.at {
            count += lanes.greater(place, lanes.load(at)).count_ones();
        }
        count as usize
    }

    /// How high the line past so many bends lies at zero.
    #[inline(always)]
    pub(super) fn height_of_line(&self, passed: usize) -> i32 {
        self.heights[passed]
    }

    #[inline(always)]
    fn line<L: Lanes>(&self, lanes: L, places: L::V, passed: usize) -> L::V {
        let rise = lanes.mul(places, lanes.splat(self.slopes[passed]));
        lanes.add(rise, lanes.splat(self.heights[passed]))
    }

    /// Its heights at places between two, the ends included.
    #[inline(always)]
    pub(super) fn heights<L: Lanes>(&self, lanes: L, places: L::V, (low, high): (i32, i32)) -> L::V {
        let mut passed = self.passed(lanes, low);
        let last = self.slopes.len() - 1;
        let mut heights = self.line(lanes, places, passed);
        loop {
            let mut more = 0;
            while more < TOGETHER {
                passed = (passed + 1).min(last);
                heights = lanes.max(heights, self.line(lanes, places, passed));
                more += 1;
            }
            // Most often these are all.
            if passed == last || self.bend(passed) >= high {
                return heights;
            }
        }
    }
}

//! A convex function of a length, piece by piece: the highest of its lines.

use crate::backend::cpu::lanes::Lanes;
use crate::backend::picks::hold;
use crate::pool::BLOCK;
use crate::rule::LevelTerms;
use crate::score::Knot;

/// The function. No product of a slope and a length leaves its lanes; what is added up may wrap on the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bends<'a> {
    /// Where it bends, ascending; what fills the last block is never passed.
    pub at: &'a [[i32; BLOCK]],
    /// How steep it is once so many bends are passed, and how high that line lies at zero: one more than the
    /// blocks have bends. The last line comes again and again at the end.
    pub slopes: &'a [i32],
    pub heights: &'a [i32],
}

impl Bends<'_> {
    /// Where it bends for the so-manieth time.
    #[inline(always)]
    pub(super) fn bend(&self, index: usize) -> i32 {
        self.at.as_flattened().get(index).copied().unwrap_or(i32::MAX)
    }

    /// How many bends lie below a place.
    #[inline(always)]
    fn passed<L: Lanes>(&self, lanes: L, place: i32) -> usize {
        let (place, mut count) = (lanes.splat(place), 0);
        // Loops, no closures: these may be compiled apart, without the instruction set.
        for at in self.at {
            count += lanes.greater(place, lanes.load(at)).count_ones();
        }
        count as usize
    }

    /// Its height at one place.
    #[inline(always)]
    pub(super) fn height<L: Lanes>(&self, lanes: L, place: i32) -> i32 {
        let passed = self.passed(lanes, place);
        self.slopes[passed].wrapping_mul(place).wrapping_add(self.heights[passed])
    }

    /// Its heights at places between two, the ends included. So many lines are looked at together: one too
    /// many changes nothing, for none lies above the function.
    #[inline(always)]
    pub(super) fn heights<L: Lanes, const TOGETHER: usize>(
        &self,
        lanes: L,
        places: L::V,
        (low, high): (i32, i32),
    ) -> L::V {
        let last = self.slopes.len() - TOGETHER;
        let mut passed = self.passed(lanes, low).min(last);
        let mut heights = lanes.splat(i32::MIN);
        while let (Some(slopes), Some(at_zero)) = (
            self.slopes.get(passed..).and_then(|slopes| slopes.first_chunk::<TOGETHER>()),
            self.heights.get(passed..).and_then(|heights| heights.first_chunk::<TOGETHER>()),
        ) {
            let mut line = 0;
            while line < TOGETHER {
                let rise = lanes.mul(places, lanes.splat(slopes[line]));
                heights = lanes.max(heights, lanes.add(rise, lanes.splat(at_zero[line])));
                line += 1;
            }
            // Most often these are all.
            if self.bend(passed + TOGETHER - 1) >= high {
                break;
            }
            passed = (passed + TOGETHER).min(last);
        }
        heights
    }
}

/// What a length costs for being short.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserve {
    /// What the lines below were made of.
    shortest: (i64, i64),
    knots: Vec<Knot>,
    at: Vec<[i32; BLOCK]>,
    slopes: Vec<i32>,
    heights: Vec<i32>,
}

impl Reserve {
    pub(super) fn hold(&mut self) {
        hold(&mut self.knots, BLOCK);
        hold(&mut self.at, 1);
        hold(&mut self.slopes, BLOCK + 1);
        hold(&mut self.heights, BLOCK + 1);
    }

    pub(super) fn set(&mut self, terms: &LevelTerms<'_>) {
        let knots = terms.reserve_knots;
        if !self.at.is_empty() && self.shortest == terms.reserve && self.knots == knots {
            return;
        }
        self.shortest = terms.reserve;
        self.knots.clear();
        self.knots.extend(knots);
        let blocks = knots.len().div_ceil(BLOCK).max(1);
        self.at.clear();
        self.at.resize(blocks, [i32::MAX; BLOCK]);
        self.slopes.clear();
        self.heights.clear();
        let (mut height, mut slope) = (terms.reserve.0, -terms.reserve.1);
        for (at, knot) in self.at.as_flattened_mut().iter_mut().zip(knots) {
            self.slopes.push(slope as i32);
            self.heights.push(height as i32);
            *at = knot.at_tokens as i32;
            (height, slope) = (height - knot.weight * knot.at_tokens, slope + knot.weight);
        }
        self.slopes.resize(blocks * BLOCK + 1, slope as i32);
        self.heights.resize(blocks * BLOCK + 1, height as i32);
    }

    #[inline(always)]
    pub(super) fn bends(&self) -> Bends<'_> {
        Bends { at: &self.at, slopes: &self.slopes, heights: &self.heights }
    }
}

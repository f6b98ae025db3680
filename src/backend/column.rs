//! The best request for one profile: a search of the pool's length order.
//!
//! A profile is first cut to the lengths that wait: a knot below them moves to the shortest, its cost up to
//! there into the intercept; a knot above them never bends. What is left almost always fits the 32-bit
//! kernels of [`crate::backend::cpu::column`]. Where it does not, the search runs here in 64 bits, one entry
//! at a time: the profile is concave, so its score falls on both sides of its peak, and the search walks
//! outward from there until the profile plus the greatest age cannot reach the best score any more.

use crate::backend::cpu::Kernels;
pub(crate) use crate::backend::cpu::column::Found;
use crate::backend::cpu::column::{GREATEST, Marks, Query};
use crate::backend::cpu::level::{BlockBounds, MOST_GROUPS, SPAN};
use crate::backend::cpu::levels::{Levels, MOST_GROUPS as MOST_LEVEL_GROUPS};
use crate::backend::picks::hold;
use crate::batch::MAX_PROMPT_TOKENS;
use crate::pool::{BLOCK, Candidates, Ordered};
use crate::rule::LevelTerms;
use crate::score::{Age, Knot, Profile};

/// Scratch of the searches of one decision, and which entries are taken.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    kernels: &'static Kernels,
    marks: Marks,
    block_bounds: BlockBounds,
    /// What the kernel of level with the terms of the pool knows.
    levels: Levels,
    /// Whether the kernels know the ages of this decision.
    begun: bool,
    /// Whether so many searches are to come that lines pay ([`crate::backend::cpu::column`]).
    many: bool,
    knots: Vec<Knot>,
    bends: Vec<(i32, i32)>,
    scores: [i64; BLOCK],
}

/// The terms of a search that stay the same during a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub age: Age,
    pub unit: i64,
    /// Score units of the greatest age.
    pub greatest_age: i64,
}

impl Terms {
    pub(crate) fn new(pool: &Candidates, age: Age, unit: i64) -> Self {
        Self { age, unit, greatest_age: unit * age.tokens(pool.most_passed()) }
    }

    /// Whether everything fits the level kernel.
    pub(crate) fn fit_refill(&self, ordered: &Ordered<'_>) -> bool {
        let longest = ordered.tokens.last().map_or(0, |&tokens| i64::from(tokens));
        ordered.low.len() <= MOST_GROUPS && self.greatest_age < SPAN && longest < SPAN
    }

    /// Whether ages fit the lanes of the kernels.
    pub(crate) fn fit_lanes(&self) -> bool {
        self.greatest_age < GREATEST && self.unit < GREATEST
    }
}

impl Column {
    pub(crate) fn new(kernels: &'static Kernels) -> Self {
        Self {
            kernels,
            marks: Marks::default(),
            block_bounds: BlockBounds::default(),
            levels: Levels::default(),
            begun: false,
            many: false,
            knots: Vec::new(),
            bends: Vec::new(),
            scores: [0; BLOCK],
        }
    }

    /// Forgets what was taken. About so many searches are to come.
    pub(crate) fn reset(&mut self, ordered: &Ordered<'_>, searches: usize) {
        self.begun = false;
        self.block_bounds.reset();
        self.levels.reset();
        self.many = 4 * searches > ordered.token_blocks.len();
        self.marks.reset(ordered.tokens.len());
    }

    /// Makes room for profiles of so many knots.
    pub(crate) fn hold(&mut self, knots: usize) {
        hold(&mut self.knots, knots);
        hold(&mut self.bends, knots);
    }

    pub(crate) fn take(&mut self, ordered: &Ordered<'_>, position: usize) {
        if self.marks.slopes.is_some() {
            (self.kernels.take)(ordered, position, &mut self.marks);
        } else {
            self.marks.take(position);
        }
    }

    pub(crate) fn give_back(&mut self, ordered: &Ordered<'_>, position: usize) {
        self.marks.give_back(position);
        self.marks.raise_lines(position, ordered.tokens[position]);
        self.levels.give_back(position);
        // The block bounds of its block may have been brought down below it.
        self.block_bounds.reset();
    }

    /// Takes the terms of level for this decision: whether lanes hold them.
    pub(crate) fn take_terms(
        &mut self,
        ordered: &Ordered<'_>,
        terms: &Terms,
        of_level: &LevelTerms<'_>,
    ) -> bool {
        self.levels.hold(of_level.rises.len(), ordered.low.len().min(MOST_LEVEL_GROUPS));
        terms.greatest_age < GREATEST && self.levels.take_terms(of_level, terms.unit, ordered)
    }

    /// What the kernels of level know of the pool.
    pub(crate) fn bounded(
        &mut self,
        ordered: &Ordered<'_>,
        terms: &Terms,
    ) -> (&mut Marks, &mut BlockBounds, &mut Levels) {
        if !self.begun {
            (self.kernels.begin)(ordered, (terms.age, terms.unit as i32), None, &mut self.marks);
            self.begun = true;
        }
        (&mut self.marks, &mut self.block_bounds, &mut self.levels)
    }

    pub(crate) fn is_taken(&self, position: usize) -> bool {
        self.marks.is_taken(position)
    }

    /// The length at which a profile is greatest, among all lengths.
    pub(crate) fn peak_tokens(&mut self, profile: &Profile) -> i64 {
        profile.peak(0, i64::from(MAX_PROMPT_TOKENS), &mut self.knots)
    }

    /// The best entry of at most `longest_tokens` and at least `wanted` score units: greatest score, then
    /// earliest arrival.
    #[inline]
    pub(crate) fn best(
        &mut self,
        ordered: &Ordered<'_>,
        profile: &Profile,
        terms: &Terms,
        longest_tokens: i64,
        wanted: i64,
    ) -> Option<Found> {
        let (shortest, last) = (i64::from(*ordered.tokens.first()?), i64::from(*ordered.tokens.last()?));
        let longest = last.min(longest_tokens);
        if longest < shortest {
            return None;
        }
        let (mut intercept, slope) = (profile.intercept, profile.slope);
        let mut steepest = 0;
        let mut cut = |knot: Knot| {
            intercept -= knot.weight * (shortest - knot.at_tokens).max(0);
            steepest += knot.weight;
            Knot { at_tokens: knot.at_tokens.clamp(shortest, longest), ..knot }
        };
        let none = Knot { at_tokens: longest, weight: 0 };
        // Almost every profile has one or two knots.
        let first_two = match profile.knots[..] {
            [] => [none; 2],
            [knot] => [cut(knot), none],
            [first, second] if first.at_tokens <= second.at_tokens => [cut(first), cut(second)],
            [first, second] => [cut(second), cut(first)],
            ref knots => {
                self.knots.clear();
                self.knots.extend(knots.iter().map(|&knot| cut(knot)));
                self.knots.sort_unstable_by_key(|knot| knot.at_tokens);
                [self.knots[0], self.knots[1]]
            }
        };
        let fit_up_to = |tokens: i64| {
            terms.fit_lanes()
                && (slope.abs() + steepest).saturating_mul(tokens).saturating_add(terms.greatest_age)
                    < GREATEST
        };
        if !fit_up_to(longest) {
            return self.best_wide(ordered, profile, terms, longest).filter(|found| found.score >= wanted);
        }
        let bend = |knot: &Knot| (knot.at_tokens as i32, knot.weight as i32);
        let [first, second] = first_two.each_ref().map(bend);
        let few = profile.knots.len() <= 2;
        let slopes = few.then_some([slope as i32, slope as i32 - first.1]);
        if !self.begun {
            // Lines bound whole blocks, longer entries included.
            let kept = slopes.filter(|_| self.many && fit_up_to(last));
            (self.kernels.begin)(ordered, (terms.age, terms.unit as i32), kept, &mut self.marks);
            self.begun = true;
        }
        let wanted = wanted.saturating_sub(intercept);
        if wanted > 2 * GREATEST {
            return None;
        }
        self.bends.clear();
        if !few {
            self.bends.extend(self.knots[2..].iter().map(bend));
        }
        let knots = if few { &first_two } else { &self.knots[..] };
        let query = Query {
            slope: slope as i32,
            knots: [first, second],
            further: &self.bends,
            peak: peak(slope, knots, shortest, longest) as i32,
            longest: longest as i32,
            wanted: wanted.max(i64::from(i32::MIN)) as i32,
            lines: [0, first.1 * first.0],
            lined: few && slopes == self.marks.slopes,
        };
        let found = (self.kernels.search)(ordered, &query, &mut self.marks)?;
        Some(Found { score: found.score + intercept, ..found })
    }

    /// [`Self::best`] in 64 bits.
    fn best_wide(
        &mut self,
        ordered: &Ordered<'_>,
        profile: &Profile,
        terms: &Terms,
        longest_tokens: i64,
    ) -> Option<Found> {
        let tokens = ordered.tokens;
        let count = tokens.partition_point(|&tokens| i64::from(tokens) <= longest_tokens);
        if count == 0 {
            return None;
        }
        let peak = profile.peak(i64::from(tokens[0]), i64::from(tokens[count - 1]), &mut self.knots);
        let at = tokens[..count].partition_point(|&tokens| i64::from(tokens) < peak).min(count - 1);
        let (mut left, mut right) = (at / BLOCK, at / BLOCK + 1);
        let blocks = count.div_ceil(BLOCK);
        let mut best = None;
        self.visit(ordered, profile, terms, left, count, &mut best);
        loop {
            let reach = |edge: usize, best: &Option<Found>| {
                let bound = profile.score(i64::from(tokens[edge])) + terms.greatest_age;
                best.is_none_or(|best| bound >= best.score)
            };
            let go_left = left > 0 && reach(left * BLOCK - 1, &best);
            if go_left {
                left -= 1;
                self.visit(ordered, profile, terms, left, count, &mut best);
            } else {
                left = 0;
            }
            let go_right = right < blocks && reach(right * BLOCK, &best);
            if go_right {
                self.visit(ordered, profile, terms, right, count, &mut best);
                right += 1;
            } else {
                right = blocks;
            }
            if !go_left && !go_right {
                return best;
            }
        }
    }

    /// Scores one block and keeps the better of its best and `best`.
    fn visit(
        &mut self,
        ordered: &Ordered<'_>,
        profile: &Profile,
        terms: &Terms,
        block: usize,
        count: usize,
        best: &mut Option<Found>,
    ) {
        let from = block * BLOCK;
        let to = (from + BLOCK).min(count);
        let mut free = !self.marks.taken[block];
        if to - from < BLOCK {
            free &= (1 << (to - from)) - 1;
        }
        if free == 0 {
            return;
        }
        score_block(&ordered.tokens[from..to], &ordered.passed[from..to], profile, terms, &mut self.scores);
        while free != 0 {
            let lane = free.trailing_zeros() as usize;
            free &= free - 1;
            let found = Found { position: from + lane, score: self.scores[lane] };
            if found.beats(*best, ordered) {
                *best = Some(found);
            }
        }
    }
}

/// Where a profile of this slope, bent at ascending knots between `low` and `high`, is greatest.
fn peak(mut slope: i64, knots: &[Knot], low: i64, high: i64) -> i64 {
    if slope <= 0 {
        return low;
    }
    for knot in knots {
        slope -= knot.weight;
        if slope <= 0 {
            return knot.at_tokens;
        }
    }
    high
}

#[inline(always)]
fn score_block(tokens: &[u32], passed: &[u32], profile: &Profile, terms: &Terms, scores: &mut [i64; BLOCK]) {
    for ((score, &tokens), &passed) in scores.iter_mut().zip(tokens).zip(passed) {
        *score = profile.score(i64::from(tokens)) + terms.unit * terms.age.tokens(passed);
    }
}

//! The best request for one profile: a search of the pool's length order.
//!
//! The profile is concave, so its score falls on both sides of its peak and only what waiting adds can favour a length
//! further off. The search begins at the peak and walks outward, block by block, until the profile plus the oldest request's
//! age cannot reach the best score any more. It is exact: it returns what a scan of everything returns.

use crate::pool::{BLOCK, Ordered, Pool, PoolSlot};
use crate::score::{Age, Knot, Profile};

/// What the search found: a position of the length order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub position: usize,
    pub score: i64,
}

/// Scratch of the searches of one decision, and which entries are taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    taken: Vec<u16>,
    knots: Vec<Knot>,
    scores: [i64; BLOCK],
}

/// The terms of a search that stay the same during a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub age: Age,
    pub unit: i64,
    /// Score units of the oldest request's age.
    pub oldest_age: i64,
}

impl Terms {
    pub(crate) fn new(pool: &Pool, age: Age, unit: i64) -> Self {
        Self { age, unit, oldest_age: unit * age.tokens(pool.longest_wait_steps()) }
    }
}

impl Column {
    /// Forgets what was taken.
    pub(crate) fn reset(&mut self, ordered: &Ordered<'_>) {
        self.taken.clear();
        self.taken.resize(ordered.oldest.len(), 0);
    }

    pub(crate) fn take(&mut self, position: usize) {
        self.taken[position / BLOCK] |= 1 << (position % BLOCK);
    }

    pub(crate) fn give_back(&mut self, position: usize) {
        self.taken[position / BLOCK] &= !(1 << (position % BLOCK));
    }

    pub(crate) fn is_taken(&self, position: usize) -> bool {
        self.taken[position / BLOCK] >> (position % BLOCK) & 1 == 1
    }

    /// The best entry of at most `longest_tokens`: greatest score, then earliest arrival.
    pub(crate) fn best(
        &mut self,
        pool: &Pool,
        profile: &Profile,
        terms: &Terms,
        longest_tokens: i64,
    ) -> Option<Found> {
        let ordered = pool.ordered();
        let tokens = ordered.tokens;
        let count = match tokens.last() {
            Some(&last) if i64::from(last) <= longest_tokens => tokens.len(),
            _ => tokens.partition_point(|&tokens| i64::from(tokens) <= longest_tokens),
        };
        if count == 0 {
            return None;
        }
        let peak = profile.peak(i64::from(tokens[0]), i64::from(tokens[count - 1]), &mut self.knots);
        let at = tokens[..count].partition_point(|&tokens| i64::from(tokens) < peak).min(count - 1);
        let (mut left, mut right) = (at / BLOCK, at / BLOCK + 1);
        let blocks = count.div_ceil(BLOCK);
        let mut best = None;
        self.visit(pool, &ordered, profile, terms, left, count, &mut best);
        loop {
            let reach = |edge: usize, best: &Option<Found>| {
                let bound = profile.score(i64::from(tokens[edge])) + terms.oldest_age;
                best.is_none_or(|best| bound >= best.score)
            };
            let go_left = left > 0 && reach(left * BLOCK - 1, &best);
            if go_left {
                left -= 1;
                self.visit(pool, &ordered, profile, terms, left, count, &mut best);
            } else {
                left = 0;
            }
            let go_right = right < blocks && reach(right * BLOCK, &best);
            if go_right {
                self.visit(pool, &ordered, profile, terms, right, count, &mut best);
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
    #[expect(clippy::too_many_arguments, reason = "one call site's loop body")]
    fn visit(
        &mut self,
        pool: &Pool,
        ordered: &Ordered<'_>,
        profile: &Profile,
        terms: &Terms,
        block: usize,
        count: usize,
        best: &mut Option<Found>,
    ) {
        let from = block * BLOCK;
        let to = (from + BLOCK).min(count);
        let mut free = !self.taken[block];
        if to - from < BLOCK {
            free &= (1 << (to - from)) - 1;
        }
        if free == 0 {
            return;
        }
        score_block(
            &ordered.tokens[from..to],
            &ordered.enqueued[from..to],
            ordered.now_step,
            profile,
            terms,
            &mut self.scores,
        );
        while free != 0 {
            let lane = free.trailing_zeros() as usize;
            free &= free - 1;
            let found = Found { position: from + lane, score: self.scores[lane] };
            let better = match best {
                None => true,
                Some(best) if found.score == best.score => {
                    let arrival = |position: usize| pool.arrival(PoolSlot(ordered.slots[position]));
                    arrival(found.position) < arrival(best.position)
                }
                Some(best) => found.score > best.score,
            };
            if better {
                *best = Some(found);
            }
        }
    }
}

#[inline(always)]
fn score_block(
    tokens: &[u32],
    enqueued: &[u32],
    now_step: u32,
    profile: &Profile,
    terms: &Terms,
    scores: &mut [i64; BLOCK],
) {
    for ((score, &tokens), &enqueued) in scores.iter_mut().zip(tokens).zip(enqueued) {
        *score = profile.score(i64::from(tokens)) + terms.unit * terms.age.tokens(now_step - enqueued);
    }
}

//! What the picks of a step gain once all of them are known: reassigned, sorted, swapped in pairs, replaced
//! by who waits.

use super::Greedy;
use super::step::Step;
use crate::backend::cpu::swap::Swap;
use crate::backend::picks::{Pick, hold};
use crate::rule::{PairCost, Rule};

/// A pick in [`Greedy::reassigned`]: the longest first, equal lengths in order of arrival.
fn reassigned_key(pick: &Pick) -> u64 {
    u64::from(u32::MAX - pick.tokens as u32) << 32 | pick.position as u64
}

/// The length in a key of [`Greedy::reassigned`].
fn tokens_of(key: u64) -> i64 {
    i64::from(u32::MAX - (key >> 32) as u32)
}

impl Greedy {
    /// Makes room for a repair: whether picks are reassigned or swapped may change with the batch, and that
    /// day must not allocate.
    pub(super) fn hold_repair(&mut self, workers: usize, picks: usize) {
        if self.repair_room.grow(workers, picks) {
            hold(&mut self.reassigned, picks);
            hold(&mut self.places, picks);
            self.pairs.reserve(workers, picks);
        }
    }

    /// Deals the picks anew, the longest to the worker that lies lowest without its own: whether any came to
    /// another worker; none where one would not fit.
    pub(super) fn reassign_sorted(&mut self, checked_later: bool) -> Option<bool> {
        let (picks, loads) = (&self.picks, &self.loads);
        let bare = |pick: &Pick| (loads.without(pick.worker, pick.tokens), pick.worker);
        let movable = || picks.iter().enumerate().filter(|(_, pick)| pick.may_move());
        // Least loaded first is how they were placed, mostly, and the longest goes there.
        if movable()
            .map(|(_, pick)| (reassigned_key(pick), bare(pick)))
            .is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
        {
            return Some(false);
        }
        self.reassigned.clear();
        self.reassigned.extend(movable().map(|(_, pick)| reassigned_key(pick)));
        self.reassigned.sort_unstable();
        self.places.clear();
        self.places.extend(movable().map(|(index, _)| index as u32));
        if !movable().map(|(_, pick)| bare(pick)).is_sorted() {
            self.places.sort_unstable_by_key(|&index| bare(&picks[index as usize]));
        }
        let reassignment =
            || self.places.iter().zip(&self.reassigned).map(|(&index, &key)| (index as usize, key));
        let fits = |(index, key): (usize, u64)| {
            let pick = &picks[index];
            tokens_of(key) <= loads.longest_without(pick.worker, pick.tokens)
        };
        if loads.is_bounded() && !reassignment().all(fits) {
            return None;
        }
        let (picks, mut moved) = (&mut self.picks, 0);
        let swaps = reassignment().filter_map(|(index, key)| {
            let pick = &mut picks[index];
            let (position, tokens) = (key as u32 as usize, tokens_of(key));
            if position == pick.position {
                return None;
            }
            moved += 1;
            let more_tokens = tokens - pick.tokens;
            (pick.position, pick.tokens, pick.wanted_tokens) = (position, tokens, None);
            Some((pick.worker, more_tokens))
        });
        self.loads.change_all(swaps, checked_later);
        self.changes += moved;
        Some(moved > 0)
    }

    /// Swaps picks of two workers where that lowers their cost.
    pub(super) fn swap_pairs(&mut self, cost: PairCost) -> bool {
        let mut swap = Swap {
            loads: &mut self.loads,
            picks: &mut self.picks,
            pairs: &mut self.pairs,
            cost,
            changes: self.changes,
        };
        let changed = (self.kernels.swap)(&mut swap);
        self.changes = swap.changes;
        changed
    }

    /// Puts a waiting request in the place of each pick that it suits better.
    pub(super) fn replace(&mut self, step: &Step<'_, '_, &mut impl Rule>) -> bool {
        let mut changed = false;
        let mut from = 0;
        while let Some(chained) = step.chained {
            let (some, stuck) =
                self.with_chain(step, chained, |kernels, chain| (kernels.replace)(chain, from));
            changed |= some;
            let Some(index) = stuck else { return changed };
            // Too large for that kernel: this one goes the general way.
            changed |= self.replace_general(step, index..index + 1);
            from = index + 1;
        }
        self.replace_general(step, 0..self.picks.len())
    }

    fn replace_general(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        picks: std::ops::Range<usize>,
    ) -> bool {
        let mut changed = false;
        for index in picks {
            let pick = self.picks[index];
            // Nothing has changed since it was looked at: neither would the answer.
            if pick.overdue || pick.best_at == self.changes {
                continue;
            }
            // The pick itself stays taken, so only others are found.
            let mut wanted_tokens = None;
            let (position, score) = match self.loads.view_without(pick.worker, pick.tokens) {
                Some((view, longest)) if step.ordered => {
                    self.profile.clear();
                    step.rule.profile(&view, None, &mut self.profile);
                    if let Some(tolerance) = step.plan.repair.tolerance_tokens {
                        let wanted = step.rule.wanted_tokens(&view);
                        let wanted = wanted.unwrap_or_else(|| self.column.peak_tokens(&self.profile));
                        if pick.wanted_tokens.is_some_and(|then| (wanted - then).abs() <= tolerance) {
                            continue;
                        }
                        wanted_tokens = Some(wanted);
                    }
                    let age = step.plan.age.tokens(step.waiting.passed[pick.position]);
                    let current = self.profile.score(pick.tokens) + step.plan.unit * age;
                    let better =
                        self.column.best(&step.waiting, &self.profile, &step.terms, longest, current + 1);
                    better.map_or((pick.position, current), |found| (found.position, found.score))
                }
                _ => {
                    self.loads.release(pick.worker, pick.tokens);
                    let current = self.score(step, pick.worker, pick.position);
                    if let Some(tolerance) = step.plan.repair.tolerance_tokens {
                        let wanted = step.rule.wanted_tokens(&self.loads.view(pick.worker));
                        let wanted = wanted.unwrap_or_else(|| self.column.peak_tokens(&self.profile));
                        if pick.wanted_tokens.is_some_and(|then| (wanted - then).abs() <= tolerance) {
                            self.loads.admit(pick.worker, pick.tokens);
                            continue;
                        }
                        wanted_tokens = Some(wanted);
                    }
                    let class = step.class_of(pick.position);
                    let better = self
                        .best_of_at_least(step, pick.worker, current + 1, Some(class))
                        .filter(|found| found.score > current);
                    self.loads.admit(pick.worker, pick.tokens);
                    better.map_or((pick.position, current), |found| (found.position, found.score))
                }
            };
            if position != pick.position {
                changed = true;
                self.changes += 1;
                self.give_back(step, pick.position);
                self.take(step, position);
                let tokens = i64::from(step.waiting.tokens[position]);
                self.loads.change_tokens(pick.worker, tokens - pick.tokens);
                self.picks[index] = Pick { position, tokens, ..pick };
            }
            // Its own change leaves it the best: its worker without it is the same, and who went back to the
            // pool was worse.
            let pick = &mut self.picks[index];
            (pick.score, pick.best_at, pick.wanted_tokens) = (score, self.changes, wanted_tokens);
        }
        changed
    }
}

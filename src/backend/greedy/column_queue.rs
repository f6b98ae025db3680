//! Columns that compete for the next admission.
//!
//! Each column keeps the best that it found, which stays an upper bound until it is looked at again. Placing
//! requests only lowers what is left, and an envelope that rises raises every score by a bounded amount,
//! equal for all columns ([`Rule::envelope_weights`]). Only a column whose bound comes first is scored again,
//! so the answer is that of scoring everything.

use super::step::Step;
use super::{Greedy, UNCHANGED, UNKNOWN};
use crate::backend::column::Found;
use crate::backend::cpu::matrix::NO_REQUEST;
use crate::backend::picks::{hold, worker_of};
use crate::rule::Rule;

/// The rise of a bound that was not looked at.
const NEVER: i64 = -1;
/// No pick yet.
const NO_PICK: u32 = u32::MAX;

/// The best known of each run of each column.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// Its score, less the rise of the envelopes by then.
    key: i64,
    rise: i64,
    /// Position in the length order; none before the first look.
    position: u32,
}

/// Columns that compete for the next admission.
#[derive(Clone, Debug, Default)]
pub(super) struct ColumnQueue {
    /// Runs of each worker's column.
    bounds: Vec<Bound>,
    /// The greatest key of each worker.
    keys: Vec<i64>,
    runs: usize,
    /// By how much the envelopes have lifted scores at most.
    rise: i64,
    weights: Vec<i64>,
    weighted: bool,
    dearest_token: i64,
    envelope: i64,
    envelope_row: Vec<i64>,
    /// Admissions that have moved an envelope.
    moves: u32,
    /// By worker: its last pick, and the moves by then.
    last: Vec<(u32, u32)>,
}

enum Leader {
    Stale(usize),
    Fresh(Found),
}

impl Greedy {
    pub(super) fn begin_column_queue(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let workers = step.batch.workers().len();
        let searched = self.is_searched(step);
        let (envelope, row) = self.loads.envelopes();
        let column_queue = &mut self.column_queue;
        column_queue.runs = if searched { 1 } else { self.matrix.runs() };
        column_queue.rise = 0;
        column_queue.dearest_token = self.loads.dearest_token();
        column_queue.envelope = envelope;
        column_queue.envelope_row.clear();
        column_queue.envelope_row.extend_from_slice(row);
        column_queue.weights.clear();
        column_queue.weighted =
            step.rule.envelope_weights(workers as i64, row.len(), &mut column_queue.weights);
        column_queue.bounds.clear();
        column_queue
            .bounds
            .resize(workers * column_queue.runs, Bound { key: UNKNOWN, rise: NEVER, position: u32::MAX });
        column_queue.keys.clear();
        column_queue.keys.resize(workers, UNKNOWN);
        column_queue.moves = 0;
        column_queue.last.clear();
        column_queue.last.resize(workers, (NO_PICK, 0));
    }

    /// Admits the best pair of all columns until no request fits.
    pub(super) fn place_by_column_queue(&mut self, step: &Step<'_, '_, &mut impl Rule>, looked: bool) {
        if !looked {
            self.begin_column_queue(step);
        }
        let unknown = if looked { 0 } else { self.open.len() };
        for at in 0..unknown {
            let worker = worker_of(self.open[at]);
            while self.column_queue.keys[worker] != NO_REQUEST
                && let Leader::Stale(run) = self.leader(step, worker)
            {
                self.look(step, worker, run);
                self.column_queue.rank(worker);
            }
        }
        while let Some((at, worker, next)) = self.first_column() {
            loop {
                match self.leader(step, worker) {
                    Leader::Stale(run) => {
                        self.look(step, worker, run);
                        self.column_queue.rank(worker);
                    }
                    Leader::Fresh(found) => {
                        self.open.remove(at);
                        self.column_queue.last[worker] = (self.picks.len() as u32, self.column_queue.moves);
                        self.admit(step, worker, found, false);
                        self.reopen(worker);
                        self.follow_envelopes(worker);
                        break;
                    }
                }
                if self.column_queue.keys[worker] <= next {
                    break;
                }
            }
        }
        if step.plan.repair.tolerance_tokens.is_none() {
            self.mark_lasting();
        }
    }

    /// Spares the repair the picks that are still the best for their worker: no envelope has moved since, the
    /// worker has taken no other, and every request that waits now waited then.
    fn mark_lasting(&mut self) {
        for &(pick, moves) in &self.column_queue.last {
            if moves == self.column_queue.moves
                && let Some(pick) = self.picks.get_mut(pick as usize)
            {
                pick.best_at = UNCHANGED;
            }
        }
    }

    /// The column whose best may come first, and the greatest bound of the others: greatest bound, then least
    /// load, then lowest index. Empty columns are passed over.
    fn first_column(&mut self) -> Option<(usize, usize, i64)> {
        let (mut best, mut next, mut first) = (NO_REQUEST, NO_REQUEST, None);
        for at in (0..self.open.len()).rev() {
            let key = self.column_queue.keys[worker_of(self.open[at])];
            if key > best {
                (best, next, first) = (key, best, Some(at));
            } else {
                next = next.max(key);
            }
        }
        first.map(|at| (at, worker_of(self.open[at]), next))
    }

    /// The run that leads a column: one to look at again, or the earliest of the best.
    fn leader(&self, step: &Step<'_, '_, &mut impl Rule>, worker: usize) -> Leader {
        let column_queue = &self.column_queue;
        let bounds = &column_queue.bounds[worker * column_queue.runs..(worker + 1) * column_queue.runs];
        let mut best = None;
        for (run, bound) in bounds.iter().enumerate() {
            if bound.key != column_queue.keys[worker] {
                continue;
            }
            let position = bound.position as usize;
            if bound.rise != column_queue.rise || self.column.is_taken(position) {
                return Leader::Stale(run);
            }
            let found = Found { position, score: bound.key + bound.rise };
            if found.beats(best, &step.waiting) {
                best = Some(found);
            }
        }
        best.map_or(Leader::Stale(0), Leader::Fresh)
    }

    /// Scores a run of a column again; where the profile is another by now, brings bounds down to it first.
    fn look(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, run: usize) {
        let searched = self.is_searched(step);
        if !searched && self.prepare(step, worker, run) && self.tighten_runs(worker, run) {
            // Another run may lead now.
            return;
        }
        let found = if searched { self.best(step, worker) } else { self.best_of_run(step, worker, run) };
        let column_queue = &mut self.column_queue;
        column_queue.bounds[worker * column_queue.runs + run] = match found {
            Some(found) => Bound {
                key: found.score - column_queue.rise,
                rise: column_queue.rise,
                position: found.position as u32,
            },
            None => Bound { key: NO_REQUEST, rise: column_queue.rise, position: u32::MAX },
        };
    }

    /// Prepares the profile of a worker for a run: false where it is the one prepared last.
    fn prepare(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, run: usize) -> bool {
        let class = self.matrix.run(run).class;
        if self.matrix.is_prepared(worker, class) {
            return false;
        }
        self.profile(step, worker, class);
        self.matrix.prepare((worker, class), &self.profile, self.loads.longest_tokens(worker));
        true
    }

    /// Brings the bounds of runs that are to be looked at down to what the profile prepared last allows:
    /// whether there are others than this one.
    fn tighten_runs(&mut self, worker: usize, run: usize) -> bool {
        let (column_queue, class) = (&mut self.column_queue, self.matrix.run(run).class);
        let of_worker =
            &mut column_queue.bounds[worker * column_queue.runs..(worker + 1) * column_queue.runs];
        let mut others = false;
        for ((at, known), &bound) in of_worker.iter_mut().enumerate().zip(self.matrix.bounds()) {
            if self.matrix.run(at).class == class && known.rise != column_queue.rise {
                let key = bound.saturating_sub(column_queue.rise).min(known.key);
                *known = Bound { key, rise: NEVER, position: u32::MAX };
                others |= at != run;
            }
        }
        others
    }

    /// Takes note of what an admission has changed: the profile of its worker, and every profile where an
    /// envelope has risen.
    fn follow_envelopes(&mut self, worker: usize) {
        let (envelope, row) = self.loads.envelopes();
        let column_queue = &mut self.column_queue;
        let (mut moved, mut any) = (false, false);
        let seen = std::iter::once(&mut column_queue.envelope).chain(&mut column_queue.envelope_row);
        for (step, (seen, &now)) in seen.zip(std::iter::once(&envelope).chain(row)).enumerate() {
            if now != *seen {
                // A knot moves by whole tokens.
                let weight = column_queue.weights.get(step).copied().unwrap_or(0);
                column_queue.rise += weight * (now - *seen + column_queue.dearest_token - 1);
                moved |= weight != 0 || !column_queue.weighted;
                any = true;
                *seen = now;
            }
        }
        column_queue.moves += u32::from(any);
        self.matrix.forget();
        let unknown = Bound { key: UNKNOWN, rise: NEVER, position: u32::MAX };
        let far = column_queue.rise >= 1 << 60;
        if far || (moved && !column_queue.weighted) {
            column_queue.bounds.fill(unknown);
            column_queue.keys.fill(UNKNOWN);
            column_queue.rise = if far { 0 } else { column_queue.rise };
        } else {
            column_queue.bounds[worker * column_queue.runs..(worker + 1) * column_queue.runs].fill(unknown);
            column_queue.keys[worker] = UNKNOWN;
        }
    }
}

impl ColumnQueue {
    /// Nothing is left in any column, unless [`ColumnQueue::know`] says otherwise.
    #[cfg(feature = "ascend")]
    pub(super) fn know_nobody(&mut self) {
        self.bounds.fill(Bound { key: NO_REQUEST, rise: 0, position: u32::MAX });
    }

    /// Takes the best of a column as the decision begins: as the best of a run where it lies there, as a
    /// bound of the others.
    #[cfg(feature = "ascend")]
    pub(super) fn know(&mut self, worker: usize, run: usize, found: Found, own: bool) {
        let rise = if own { 0 } else { NEVER };
        self.bounds[worker * self.runs + run] =
            Bound { key: found.score, rise, position: found.position as u32 };
    }

    /// Makes room for so many workers, runs of each and projected steps.
    pub(super) fn reserve(&mut self, workers: usize, runs: usize, steps: usize) {
        hold(&mut self.bounds, workers * runs);
        hold(&mut self.keys, workers);
        hold(&mut self.last, workers);
        hold(&mut self.weights, steps + 1);
        hold(&mut self.envelope_row, steps);
    }

    /// Works out the greatest key of a worker.
    pub(super) fn rank(&mut self, worker: usize) {
        let bounds = &self.bounds[worker * self.runs..(worker + 1) * self.runs];
        self.keys[worker] = bounds.iter().map(|bound| bound.key).fold(NO_REQUEST, i64::max);
    }
}

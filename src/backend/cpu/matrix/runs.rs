//! Runs of requests in order of length: what is scored at once, and how high each may score at most.

use crate::backend::cpu::Kernels;
use crate::backend::cpu::dense::{Edges, STRIDE, SortedKnots};
use crate::backend::cpu::lanes::Block;
use crate::backend::picks::hold;
use crate::pool::BLOCK;

/// Blocks of a run, without a horizon and with one: the longer a score takes, the less is scored for nothing
/// (measured).
const RUN_BLOCKS: [usize; 2] = [64, 8];

/// The bound of a run without a request that fits the worker.
pub(crate) const NO_REQUEST: i64 = i64::MIN;

/// About as many runs as a column has at most: the queue of columns looks at each of them.
const MOST_RUNS: usize = 128;

/// Blocks of each run of so many requests.
pub(super) fn run_blocks(requests: usize, looks_ahead: bool) -> usize {
    let least = requests.div_ceil(BLOCK * MOST_RUNS).next_multiple_of(STRIDE);
    RUN_BLOCKS[usize::from(looks_ahead)].max(least)
}

/// A run of requests of one survival class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(super) from: usize,
    pub(super) to: usize,
    /// How many requests it has: the rest of its last block is empty.
    count: usize,
    /// The shortest and the longest of them in tokens.
    pub(super) lengths: (i32, i32),
    pub class: Option<u8>,
}

#[cfg(test)]
impl Run {
    /// How many requests it has.
    pub(super) fn count(self) -> usize {
        self.count
    }
}

/// All runs of a batch, and their bounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    list: Vec<Run>,
    /// The lengths of sixteen runs at a time.
    edges: Vec<Edges>,
    /// The greatest age plus bonus of each run, column by column; empty where runs have no bounds.
    tops: Vec<i32>,
    /// At least the best score of each run, for the profile prepared last.
    bounds: Vec<i64>,
}

impl Runs {
    pub(super) fn list(&self) -> &[Run] {
        &self.list
    }

    /// Where the last one ends.
    pub(super) fn blocks(&self) -> usize {
        self.list.last().map_or(0, |run| run.to)
    }

    /// Blocks of the longest one.
    pub(super) fn longest(&self) -> usize {
        self.list.iter().map(|run| run.to - run.from).max().unwrap_or(0)
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// Puts so many requests of a class behind the others, in whole strides and runs of at most `longest`
    /// blocks; returns the place of the first.
    pub(super) fn push(&mut self, requests: usize, class: Option<u8>, longest: usize) -> usize {
        let first = self.blocks();
        let blocks = requests.div_ceil(BLOCK).next_multiple_of(STRIDE);
        for from in (0..blocks).step_by(longest) {
            let to = (from + longest).min(blocks);
            let count = (requests - from * BLOCK).min((to - from) * BLOCK);
            self.list.push(Run { from: first + from, to: first + to, count, lengths: (0, 0), class });
        }
        first * BLOCK
    }

    /// Makes room for the bounds of so many columns: a later batch of these runs must not allocate, whichever
    /// workers are open then.
    pub(super) fn hold(&mut self, columns: usize) {
        let runs = self.list.len();
        hold(&mut self.tops, columns * runs);
        hold(&mut self.bounds, runs);
        hold(&mut self.edges, runs.div_ceil(BLOCK));
    }

    /// Takes the lengths of the requests by their place.
    pub(super) fn measure(&mut self, tokens_at: impl Fn(usize) -> u32) {
        for run in &mut self.list {
            let last = run.from * BLOCK + run.count - 1;
            run.lengths = (tokens_at(run.from * BLOCK) as i32, tokens_at(last) as i32);
        }
    }

    /// Bounds nothing: every run is looked at.
    pub(super) fn unbound(&mut self) {
        self.tops.clear();
        self.bounds.clear();
    }

    /// Bounds ages plus bonuses, one column after the other.
    pub(super) fn bound_columns(&mut self, kernels: &Kernels, columns: &[Block]) {
        self.put_edges();
        for column in columns.chunks_exact(self.blocks().max(1)) {
            let tops = self.list.iter().map(|run| (kernels.top)(&column[run.from..run.to], run.count));
            self.tops.extend(tops);
        }
    }

    fn put_edges(&mut self) {
        self.tops.clear();
        self.edges.clear();
        for runs in self.list.chunks(BLOCK) {
            let mut edges = Edges { shortest: [i32::MAX; BLOCK], longest: [i32::MAX; BLOCK] };
            for (at, run) in runs.iter().enumerate() {
                (edges.shortest[at], edges.longest[at]) = run.lengths;
            }
            self.edges.push(edges);
        }
    }

    /// Bounds the scores of each run for a profile and a column.
    pub(super) fn bound(&mut self, kernels: &Kernels, knots: &SortedKnots, column: usize) {
        self.bounds.clear();
        if self.tops.is_empty() {
            return;
        }
        let runs = self.list.len();
        let tops = self.tops[column * runs..(column + 1) * runs].chunks(BLOCK);
        for (edges, tops) in self.edges.iter().zip(tops) {
            let bounds = (kernels.bounds)(knots, edges);
            let with_base = |(bound, &top): (i64, &i32)| match bound {
                NO_REQUEST => NO_REQUEST,
                bound => bound.saturating_add(i64::from(top)),
            };
            self.bounds.extend(bounds.into_iter().zip(tops).map(with_base));
        }
    }

    /// Forgets the bounds of the profile prepared last.
    pub(super) fn forget(&mut self) {
        self.bounds.clear();
    }

    /// At least the best score of each run for the profile prepared last; empty where that is not known.
    pub(super) fn bounds(&self) -> &[i64] {
        &self.bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_everybody_and_stay_few() {
        for requests in [0, 1, 63, 64, 65, 1024, 16_384, 16_385, 100_000, 1 << 20] {
            for looks_ahead in [false, true] {
                let mut runs = Runs::default();
                let longest = run_blocks(requests, looks_ahead);
                let firsts = [runs.push(requests, None, longest), runs.push(100, Some(3), longest)];
                assert_eq!(firsts, [0, requests.div_ceil(BLOCK).next_multiple_of(STRIDE) * BLOCK]);
                let (mut end, mut counts) = (0, [0; 2]);
                for run in runs.list() {
                    assert_eq!(run.from, end, "{requests}");
                    end = run.to;
                    assert!(run.count > 0 && run.count <= (run.to - run.from) * BLOCK, "{run:?}");
                    assert!(run.to.is_multiple_of(STRIDE), "{run:?}");
                    counts[usize::from(run.class.is_some())] += run.count;
                }
                assert_eq!((counts, runs.blocks()), ([requests, 100], end));
                assert!(runs.list().len() <= MOST_RUNS + 1, "{requests}");
            }
        }
    }
}

//! Where the next request comes from and when: a stream that depends on the seed, not on what a policy does.

use std::sync::Arc;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::prefix::BLOCK_TOKENS;
use crate::job::Job;
use crate::traces::Trace;
use crate::workloads::Workload;

/// Lengths of requests: built in, or from a trace.
#[derive(Clone, Debug)]
pub enum Source {
    /// A built-in workload.
    Workload(Workload),
    /// A trace; shared by all runs.
    Trace(Arc<Trace>),
}

/// Requests drawn to know the lengths of a built-in workload.
const LIBRARY: usize = 100_000;

impl Source {
    /// Workload name, or file name of the trace.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Workload(workload) => workload.name(),
            Self::Trace(trace) => &trace.name,
        }
    }

    /// Whether it is the other: the same workload, or one trace that is shared.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Workload(own), Self::Workload(other)) => own == other,
            (Self::Trace(own), Self::Trace(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// Requests that stand for the whole source: the trace, or a large sample of the workload that no seed of
    /// a run shares.
    pub(crate) fn library(&self) -> Vec<Job> {
        match self {
            Self::Workload(workload) => workload.sample(u64::MAX, LIBRARY),
            Self::Trace(trace) => trace.jobs.clone(),
        }
    }

    /// Tokens of a prefix block.
    pub(crate) fn block_tokens(&self) -> u64 {
        match self {
            Self::Trace(trace) if trace.block_tokens > 0 => u64::from(trace.block_tokens),
            _ => BLOCK_TOKENS,
        }
    }

    /// How many of the `count` requests of the library stand for the traffic at the start of a run.
    pub(crate) fn at_start(&self, count: usize) -> usize {
        match self {
            Self::Workload(workload) => workload.at_start(count),
            Self::Trace(_) => count,
        }
    }
}

/// Independent streams of one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Lengths,
    Times,
    Start,
    /// What a workload turns into: each half of a run has the same requests under every policy.
    Later,
}

pub(crate) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// The requests of a run, without an end.
pub(crate) enum RequestSource {
    Workload { workload: Workload, rng: Box<ChaCha8Rng>, later: Box<ChaCha8Rng>, special_drawn: bool },
    Trace { trace: Arc<Trace>, order: Vec<u32>, at: usize, rng: Box<ChaCha8Rng> },
}

impl RequestSource {
    /// Begins at the first row of a trace, or at a row that the seed chooses, so that seeds differ.
    pub(crate) fn new(source: &Source, seed: u64, from_first: bool) -> Self {
        let mut rng = Box::new(stream(seed, Stream::Lengths));
        match source {
            Source::Workload(workload) => {
                let later = Box::new(stream(seed, Stream::Later));
                Self::Workload { workload: *workload, rng, later, special_drawn: false }
            }
            Source::Trace(trace) => {
                let mut order: Vec<u32> = (0..trace.jobs.len() as u32).collect();
                if !from_first && !order.is_empty() {
                    let start = rng.random_range(0..order.len());
                    order.rotate_left(start);
                }
                Self::Trace { trace: Arc::clone(trace), order, at: 0, rng }
            }
        }
    }

    /// The next request, at this step of the run and in which half of it.
    pub(crate) fn draw(&mut self, step: u64, second_half: bool) -> Job {
        match self {
            Self::Workload { workload, rng, later, special_drawn } => {
                if let Some((from_step, job)) = workload.special()
                    && step >= from_step
                    && !*special_drawn
                {
                    *special_drawn = true;
                    return job;
                }
                match workload.later() {
                    Some(turned) if second_half => turned.draw(later),
                    _ => workload.draw(rng),
                }
            }
            Self::Trace { trace, order, at, rng } => {
                // The first pass keeps the trace's own order; later ones are shuffled, or every pass would
                // repeat the first.
                if *at == order.len() {
                    order.shuffle(rng);
                    *at = 0;
                }
                *at += 1;
                trace.jobs[order[*at - 1] as usize].clone()
            }
        }
    }
}

/// When requests enter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// The pool is kept full: a request enters for each that leaves it.
    Closed,
    /// The trace's own times, and the delays between the turns of its sessions, divided by the factor.
    Trace {
        /// 2 plays the trace twice as fast.
        rate_scale: f64,
    },
    /// Exponential gaps.
    Poisson {
        /// Mean requests per simulated second.
        per_second: f64,
        /// Requests until the source ends.
        requests: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_workload_turns_into_is_alike_however_long_the_first_half_was() {
        let source = Source::Workload(Workload::ChatToReasoning);
        let later = |first: usize| -> Vec<Job> {
            let mut requests = RequestSource::new(&source, 4, false);
            for _ in 0..first {
                requests.draw(0, false);
            }
            (0..20).map(|_| requests.draw(0, true)).collect()
        };
        assert_eq!(later(10), later(25));
        let mut requests = RequestSource::new(&source, 4, false);
        assert_ne!((0..20).map(|_| requests.draw(0, false)).collect::<Vec<_>>(), later(0));
    }
}

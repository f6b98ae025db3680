//! Where the next request comes from and when: a stream that depends on the seed, not on what a policy does.

use std::sync::Arc;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use super::window::Window;
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

    /// Requests that stand for the whole source: the trace, or a large sample of the workload that no seed of
    /// a run shares.
    pub(crate) fn library(&self) -> Vec<Job> {
        match self {
            Self::Workload(workload) => workload.sample(u64::MAX, LIBRARY),
            Self::Trace(trace) => trace.jobs.clone(),
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
    /// Begins at the row `first` of a trace; without it at a row that the seed chooses, so that seeds differ.
    pub(crate) fn new(source: &Source, seed: u64, first: Option<usize>) -> Self {
        let mut rng = Box::new(stream(seed, Stream::Lengths));
        match source {
            Source::Workload(workload) => {
                let later = Box::new(stream(seed, Stream::Later));
                Self::Workload { workload: *workload, rng, later, special_drawn: false }
            }
            Source::Trace(trace) => {
                let mut order: Vec<u32> = (0..trace.jobs.len() as u32).collect();
                let mut at = 0;
                match first {
                    Some(first) => at = first,
                    None if order.is_empty() => {}
                    None => {
                        let start = rng.random_range(0..order.len());
                        order.rotate_left(start);
                    }
                }
                Self::Trace { trace: Arc::clone(trace), order, at, rng }
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
    /// The trace's own times, divided by the factor.
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

/// The requests of an open run, in order of time.
pub(crate) struct Timetable {
    requests: RequestSource,
    arrivals: Arrivals,
    rng: ChaCha8Rng,
    /// Rows of the trace before the first that enters count as entered.
    entered: u64,
    total: u64,
    origin_s: f64,
    next_ms: f64,
}

impl Timetable {
    pub(crate) fn new(source: &Source, arrivals: Arrivals, seed: u64, window: Option<Window>) -> Self {
        let total = match (source, arrivals) {
            (Source::Trace(trace), Arrivals::Trace { .. }) => trace.jobs.len() as u64,
            (_, Arrivals::Poisson { requests, .. }) => requests,
            _ => 0,
        };
        let (first, origin_s) = window.map_or((0, 0.0), |window| (window.first_row, window.origin_s));
        let mut table = Self {
            requests: RequestSource::new(source, seed, Some(first)),
            arrivals,
            rng: stream(seed, Stream::Times),
            entered: first as u64,
            total,
            origin_s,
            next_ms: 0.0,
        };
        table.schedule();
        table
    }

    fn schedule(&mut self) {
        match (self.arrivals, &self.requests) {
            (Arrivals::Trace { rate_scale }, RequestSource::Trace { trace, .. }) => {
                let at_s = trace.arrival_s.get(self.entered as usize).copied().unwrap_or_default();
                self.next_ms = (at_s - self.origin_s) / rate_scale * 1e3;
            }
            (Arrivals::Poisson { per_second, .. }, _) => {
                let gap: f64 = Exp1.sample(&mut self.rng);
                self.next_ms += gap / per_second * 1e3;
            }
            _ => {}
        }
    }

    /// When the next request enters, in ms; none at the end.
    pub(crate) fn next_ms(&self) -> Option<f64> {
        (self.entered < self.total).then_some(self.next_ms)
    }

    /// The next request, if it has arrived by `now_ms`, which is in this step, and when it did.
    pub(crate) fn pop(&mut self, now_ms: f64, step: u64) -> Option<(Job, f64)> {
        let at_ms = self.next_ms().filter(|&at_ms| at_ms <= now_ms)?;
        let job = self.requests.draw(step, 2 * self.entered >= self.total);
        self.entered += 1;
        self.schedule();
        Some((job, at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_workload_turns_into_is_alike_however_long_the_first_half_was() {
        let source = Source::Workload(Workload::ChatToReasoning);
        let later = |first: usize| -> Vec<Job> {
            let mut requests = RequestSource::new(&source, 4, None);
            for _ in 0..first {
                requests.draw(0, false);
            }
            (0..20).map(|_| requests.draw(0, true)).collect()
        };
        assert_eq!(later(10), later(25));
        let mut requests = RequestSource::new(&source, 4, None);
        assert_ne!((0..20).map(|_| requests.draw(0, false)).collect::<Vec<_>>(), later(0));
    }

    #[test]
    fn a_window_begins_with_the_rows_that_lead_in() {
        let trace = Trace {
            name: "rows".to_owned(),
            format: "azure",
            jobs: (1..=5).map(|prompt| Job::new(prompt, 1)).collect(),
            arrival_s: vec![0.0, 4.0, 8.0, 12.0, 16.0],
            ..Trace::default()
        };
        let (source, arrivals) = (Source::Trace(Arc::new(trace)), Arrivals::Trace { rate_scale: 2.0 });
        // Three windows: four spans of four seconds, played twice as fast.
        let spans: Vec<Window> =
            (0..3).filter_map(|index| Window::new(&source, arrivals, index, 3)).collect();
        assert_eq!(spans.iter().map(|span| span.first_row).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(spans.iter().all(|span| (span.from_ms, span.to_ms) == (2_000.0, 4_000.0)));
        let mut table = Timetable::new(&source, arrivals, 0, Some(spans[1]));
        let popped: Vec<(u32, f64)> =
            std::iter::from_fn(|| table.pop(1e9, 0)).map(|(job, at_ms)| (job.prompt_tokens, at_ms)).collect();
        assert_eq!(popped, [(2, 0.0), (3, 2_000.0), (4, 4_000.0), (5, 6_000.0)]);
    }
}

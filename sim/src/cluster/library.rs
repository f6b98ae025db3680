//! The requests of a source, to know their lengths and to begin a run near its steady state.

use rand::RngExt;

use super::source::Source;
use super::waits::quartiles;
use crate::job::Job;

/// What all runs of a scenario share about its source.
pub(crate) struct Library {
    jobs: Vec<Job>,
    /// Sum of the output lengths up to and including each job.
    cumulative_output: Vec<u64>,
    /// So many, the first, are like the traffic at the start of a run.
    at_start: usize,
    /// The longest prompt of each quarter.
    pub(super) quartiles: [u32; 4],
}

impl Library {
    pub(crate) fn new(source: &Source) -> Self {
        let jobs = source.library();
        let cumulative_output = jobs
            .iter()
            .scan(0u64, |sum, job| {
                *sum += u64::from(job.output_tokens);
                Some(*sum)
            })
            .collect();
        let (at_start, quartiles) = (source.at_start(jobs.len()), quartiles(&jobs));
        Self { jobs, cumulative_output, at_start, quartiles }
    }

    fn total_output(&self) -> u64 {
        self.cumulative_output.last().copied().unwrap_or(0)
    }

    pub(crate) fn mean_output(&self) -> f64 {
        self.total_output() as f64 / self.jobs.len().max(1) as f64
    }

    /// A running request as an observer finds it at the start, and the tokens it has generated.
    pub(super) fn running(&self, rng: &mut impl rand::Rng) -> (&Job, u32) {
        let at = rng.random_range(0..self.cumulative_output[self.at_start - 1]);
        let index = self.cumulative_output.partition_point(|&sum| sum <= at);
        let job = &self.jobs[index];
        // The position within the output is uniform: the draw itself gives the age.
        let before = self.cumulative_output[index] - u64::from(job.output_tokens);
        (job, (at - before) as u32)
    }
}

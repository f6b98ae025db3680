//! How long requests wait: all of them, and each quarter of them by the length of their prompts.

use super::metrics::{LengthWaits, Run, Sample};
use crate::job::Job;

/// Waits of some requests.
#[derive(Clone, Debug, Default)]
struct Waits {
    steps: Sample,
    ms: Sample,
    longest_steps: u64,
    longest_ms: f64,
}

impl Waits {
    fn push(&mut self, steps: u64, ms: f64) {
        self.steps.push(steps as f64);
        self.ms.push(ms);
        self.still(steps, ms);
    }

    /// A wait that is not over.
    fn still(&mut self, steps: u64, ms: f64) {
        self.longest_steps = self.longest_steps.max(steps);
        self.longest_ms = self.longest_ms.max(ms);
    }
}

/// The waits of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitBook {
    all: Waits,
    quarters: [Waits; 4],
    oldest_steps: u64,
}

/// The longest prompt of each quarter of the requests; equal lengths fall into one.
pub(crate) fn quartiles(jobs: &[Job]) -> [u32; 4] {
    let mut lengths: Vec<u32> = jobs.iter().map(|job| job.prompt_tokens).collect();
    lengths.sort_unstable();
    let at = |quarter: usize| lengths.get((quarter * lengths.len()).div_ceil(4).max(1) - 1).copied();
    [1, 2, 3, 4].map(|quarter| at(quarter).unwrap_or(0))
}

/// The quarter that a prompt falls into; a longer one than any into the last.
pub(crate) fn quarter_of(quartiles: &[u32; 4], prompt_tokens: u32) -> u8 {
    quartiles[..3].partition_point(|&longest| longest < prompt_tokens) as u8
}

impl WaitBook {
    /// A request of this quarter is admitted after so long.
    pub(crate) fn admitted(&mut self, quarter: u8, steps: u64, ms: f64) {
        self.all.push(steps, ms);
        self.quarters[usize::from(quarter)].push(steps, ms);
    }

    /// A request of this quarter waits at the end.
    pub(crate) fn waiting(&mut self, quarter: u8, steps: u64, ms: f64) {
        self.all.still(steps, ms);
        self.quarters[usize::from(quarter)].still(steps, ms);
        self.oldest_steps = self.oldest_steps.max(steps);
    }

    pub(crate) fn write(&mut self, quartiles: &[u32; 4], run: &mut Run) {
        let all = &mut self.all;
        run.wait_steps.mean = all.steps.mean();
        run.wait_steps.p50 = all.steps.percentile(0.5);
        run.wait_steps.p99 = all.steps.percentile(0.99);
        run.wait_steps.max = all.longest_steps;
        run.wait_steps.oldest = self.oldest_steps;
        run.wait_ms = all.ms.wait_ms();
        run.wait_ms.max = all.longest_ms;
        for (at, quarter) in self.quarters.iter_mut().enumerate() {
            run.wait_by_length[at] = LengthWaits {
                prompt_tokens_up_to: quartiles[at],
                admissions: quarter.steps.len() as u64,
                steps_mean: quarter.steps.mean(),
                steps_p99: quarter.steps.percentile(0.99),
                steps_max: quarter.longest_steps,
                ms_p99: quarter.ms.percentile(0.99),
                ms_max: quarter.longest_ms,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_lengths_lies_in_each() {
        let jobs: Vec<Job> = [8, 1, 7, 2, 6, 3, 5, 4].map(|prompt| Job::new(prompt, 1)).to_vec();
        let quartiles = quartiles(&jobs);
        assert_eq!(quartiles, [2, 4, 6, 8]);
        let quarters = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|prompt| quarter_of(&quartiles, prompt));
        assert_eq!(quarters, [0, 0, 1, 1, 2, 2, 3, 3, 3]);
        // Lengths that are alike stay together, in the first quarter that has them.
        let alike = super::quartiles(&vec![Job::new(9, 1); 5]);
        assert_eq!((alike, quarter_of(&alike, 9)), ([9; 4], 0));
    }

    #[test]
    fn waits_that_are_not_over_count_for_the_longest_only() {
        let (mut book, mut run) = (WaitBook::default(), Run::default());
        book.admitted(0, 4, 40.0);
        book.admitted(0, 2, 20.0);
        book.admitted(3, 6, 60.0);
        book.waiting(3, 9, 90.0);
        book.write(&[10, 20, 30, 40], &mut run);
        assert_eq!((run.wait_steps.mean, run.wait_steps.max, run.wait_steps.oldest), (4.0, 9, 9));
        assert_eq!((run.wait_ms.p99, run.wait_ms.max), (60.0, 90.0));
        let [short, .., long] = run.wait_by_length;
        assert_eq!((short.admissions, short.steps_mean, short.steps_max, short.ms_max), (2, 3.0, 4, 40.0));
        assert_eq!((long.admissions, long.steps_p99, long.steps_max, long.ms_max), (1, 6.0, 9, 90.0));
        assert_eq!((long.prompt_tokens_up_to, long.ms_p99), (40, 60.0));
    }
}

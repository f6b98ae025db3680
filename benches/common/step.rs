//! The step that every bench decides: shared by `decide`, by the peers and by the instruction counts.

use balanceroute::{Batch, Pool, Request, Traffic, Worker};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// (waiting N, workers G, admissions K).
pub(crate) type Size = (usize, usize, usize);

pub(crate) const TRAFFIC: Traffic = Traffic::new().prompts(3700, 2200).small_prompts(1000).outputs(1200);

pub(crate) struct Step {
    pub workers: Vec<Worker>,
    pub pool: Pool,
}

impl Step {
    /// A saturated step: lengths as in `paper-prod`, one slot free on each of K workers.
    pub(crate) fn new(seed: u64, (waiting, workers, open): Size) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let most_passed = 16 * workers as u32;
        let mut length = || (0..4).map(|_| rng.random_range(0..1900u32)).sum::<u32>() + 1;
        let lengths: Vec<u32> = (0..waiting).map(|_| length()).collect();
        let requests: Vec<Request> = lengths
            .iter()
            .enumerate()
            .map(|(id, &tokens)| Request::new(id as u64, tokens).passed(rng.random_range(0..most_passed)))
            .collect();
        let workers = (0..workers)
            .map(|worker| {
                let free = u32::from(worker * open / workers != (worker + 1) * open / workers);
                let load = 72 * 4300 + rng.random_range(0..6000u64);
                Worker::new(load - u64::from(free) * 5000, 72 - free, free)
            })
            .collect();
        Self { workers, pool: Pool::from_requests(&requests).expect("valid") }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch::draft(&self.workers, &self.pool).traffic(TRAFFIC).check().expect("valid")
    }
}

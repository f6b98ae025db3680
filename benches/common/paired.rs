//! A saturated step with terms per pair: shared by the bench of dense decisions and by the instruction
//! counts.

use balanceroute::{Batch, Pairs, Pool, Request, Worker};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::step::TRAFFIC;

pub(crate) struct Paired {
    workers: Vec<Worker>,
    pool: Pool,
    rows: Vec<u64>,
    pub horizon: usize,
    bonus: Vec<f32>,
    eligible: Vec<u64>,
}

impl Paired {
    /// A saturated step with one slot free on each of `open` workers; with `pairs`, one request in three has
    /// a cached prefix on a few workers and one in sixteen may not run on some.
    pub(crate) fn new((waiting, workers, horizon): (usize, usize, usize), open: usize, pairs: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let most_passed = 16 * workers as u32;
        let requests: Vec<Request> = (0..waiting)
            .map(|id| {
                let tokens = (0..4).map(|_| rng.random_range(0..1900u32)).sum::<u32>() + 1;
                let request = Request::new(id as u64, tokens).passed(rng.random_range(0..most_passed));
                if pairs { request.pairs(id as u32) } else { request }
            })
            .collect();
        let list: Vec<Worker> = (0..workers)
            .map(|worker| {
                let free = u32::from(worker * open / workers != (worker + 1) * open / workers);
                let load = 72 * 4300 + rng.random_range(0..6000u64);
                Worker::new(load - u64::from(free) * 5000, 72 - free, free)
            })
            .collect();
        let mut rows = Vec::new();
        for worker in &list {
            let mut load = worker.load_tokens;
            for h in 0..=horizon {
                if h > 0 {
                    load += 72;
                    if rng.random_range(0..17) == 0 {
                        load -= 4300;
                    }
                }
                rows.push(load);
            }
        }
        let words = workers.div_ceil(64);
        let (mut bonus, mut eligible) = (Vec::new(), Vec::new());
        if pairs {
            bonus = vec![0.0; waiting * workers];
            eligible = vec![u64::MAX; waiting * words];
            for id in 0..waiting {
                if id % 3 == 0 {
                    for _ in 0..1 + workers / 16 {
                        bonus[id * workers + rng.random_range(0..workers)] =
                            rng.random_range(100..2000) as f32;
                    }
                }
                if id % 16 == 0 {
                    eligible[id * words] = rng.random();
                }
            }
        }
        Self {
            workers: list,
            pool: Pool::from_requests(&requests).expect("valid"),
            rows,
            horizon,
            bonus,
            eligible,
        }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        let mut draft = Batch::draft(&self.workers, &self.pool).traffic(TRAFFIC).pairs(Pairs {
            bonus_tokens: &self.bonus,
            eligible: &self.eligible,
            ..Pairs::default()
        });
        if self.horizon > 0 {
            draft = draft.projection(self.horizon, &self.rows);
        }
        draft.check().expect("valid")
    }
}

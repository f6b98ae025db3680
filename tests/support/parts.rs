//! A batch with everything optional in it, as owned parts: what random batches are drawn as.

use balanceroute::{Batch, Pairs, Pool, PredictedEnd, PredictedEnds, Request, Traffic, Worker};
use half::f16;

/// What a batch borrows. Without `rows` it looks nowhere ahead and has no classes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) workers: Vec<Worker>,
    pub(crate) requests: Vec<Request>,
    pub(crate) traffic: Traffic,
    pub(crate) growth: u32,
    pub(crate) horizon: usize,
    pub(crate) rows: Vec<u64>,
    pub(crate) offsets: Vec<u32>,
    pub(crate) ends: Vec<PredictedEnd>,
    pub(crate) bonus: Vec<f32>,
    pub(crate) bonus_half: Vec<f16>,
    pub(crate) eligible: Vec<u64>,
    pub(crate) classes: Vec<f32>,
}

impl Parts {
    /// Everybody is a candidate.
    pub(crate) fn pool(&self) -> Pool {
        self.pool_of(self.requests.len())
    }

    /// The oldest so many are.
    pub(crate) fn pool_of(&self, window: usize) -> Pool {
        let mut pool = Pool::with_window(window);
        pool.refill(&self.requests).expect("valid requests");
        pool
    }

    pub(crate) fn batch<'a>(&'a self, pool: &'a Pool) -> Batch<'a> {
        let mut draft = Batch::draft(&self.workers, pool)
            .traffic(self.traffic)
            .request_growth(self.growth)
            .pairs(Pairs {
                bonus_tokens: &self.bonus,
                bonus_half_tokens: &self.bonus_half,
                eligible: &self.eligible,
            });
        if !self.rows.is_empty() {
            draft = draft.projection(self.horizon, &self.rows);
            draft = draft.ends(PredictedEnds { offsets: &self.offsets, ends: &self.ends });
            draft = draft.classes(&self.classes);
        }
        draft.check().expect("a valid batch")
    }
}

//! One step's problem: workers, waiting requests and what is known about them, validated here and
//! nowhere else.
//!
//! A [`Batch`] exists only when everything in it is consistent, so no policy and no backend checks its input
//! again. Tokens are integers. Nothing waiting, no free slot and all workers draining are valid: the answer
//! is then empty.

mod check;
mod terms;
mod totals;

pub use crate::entities::error::BatchError;
pub use crate::entities::limits::{
    MAX_BONUS_TOKENS, MAX_CLASSES, MAX_HORIZON, MAX_LOAD_TOKENS, MAX_PASSED, MAX_PROMPT_TOKENS, MAX_SLOTS,
    MAX_WAITED_STEPS, MAX_WAITING, MAX_WEIGHT, MAX_WORKERS, WEIGHT_ONE,
};
pub use crate::entities::request::Request;
pub use crate::entities::worker::Worker;
pub(crate) use terms::Bonuses;
pub use terms::{Pairs, PredictedEnd, PredictedEnds, Projection, SurvivalClasses, Traffic};

use crate::ids::RequestId;
use crate::pool::{Candidates, Pool, PoolSlot};
use totals::Totals;

/// One step's problem, checked.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    workers: &'a [Worker],
    pool: &'a Pool,
    waiting: &'a Candidates,
    has_pair_terms: bool,
    traffic: Traffic,
    request_growth_tokens: u32,
    projection: Option<Projection<'a>>,
    ends: Option<PredictedEnds<'a>>,
    pairs: Pairs<'a>,
    classes: Option<SurvivalClasses<'a>>,
    totals: Totals,
}

/// A batch before its check.
#[derive(Clone, Copy, Debug)]
#[must_use = "call `check` to obtain the batch"]
pub struct BatchDraft<'a>(Batch<'a>);

impl<'a> Batch<'a> {
    /// Begins a batch of workers and waiting requests.
    pub fn draft(workers: &'a [Worker], pool: &'a Pool) -> BatchDraft<'a> {
        BatchDraft(Self {
            workers,
            pool,
            waiting: pool.candidates(),
            has_pair_terms: false,
            traffic: Traffic::default(),
            request_growth_tokens: 0,
            projection: None,
            ends: None,
            pairs: Pairs::default(),
            classes: None,
            totals: Totals::default(),
        })
    }

    /// The workers, in rank order.
    #[must_use]
    pub fn workers(&self) -> &'a [Worker] {
        self.workers
    }

    /// The waiting requests that the decision chooses among: of one class the oldest, up to the window.
    #[must_use]
    pub fn waiting(&self) -> &'a Candidates {
        self.waiting
    }

    /// Everybody who waits, those behind the window as well.
    #[must_use]
    pub fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// The slot of a waiting request that the decision may choose.
    #[must_use]
    pub fn slot_of(&self, id: impl Into<RequestId>) -> Option<PoolSlot> {
        self.pool.slot_of(id)
    }

    /// Traffic statistics.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Tokens that an admission must leave free for the admitted request's own growth.
    #[must_use]
    pub fn request_growth_tokens(&self) -> u32 {
        self.request_growth_tokens
    }

    /// Projected loads, if given.
    #[must_use]
    pub fn projection(&self) -> Option<Projection<'a>> {
        self.projection
    }

    /// Predicted completions, if given.
    #[must_use]
    pub fn ends(&self) -> Option<PredictedEnds<'a>> {
        self.ends
    }

    /// Survival classes, if given.
    #[must_use]
    pub fn classes(&self) -> Option<SurvivalClasses<'a>> {
        self.classes
    }

    /// The probabilities of a class, by step, where every class has so many; none for a class that says
    /// nothing.
    pub(crate) fn survival(&self, class: Option<u8>, steps: usize) -> Option<&'a [f32]> {
        let class = usize::from(class?);
        let row = self.classes?.rows.get(class * steps..(class + 1) * steps)?;
        row.iter().any(|&survival| survival < 1.0).then_some(row)
    }

    /// The survival class of a request, if it says anything.
    pub(crate) fn class_of(&self, request: &Request) -> Option<u8> {
        let steps = self.projection.map_or(1, |rows| rows.horizon + 1);
        request.survival_class.filter(|&class| self.survival(Some(class), steps).is_some())
    }

    /// Whether a request may run on a worker at all (rank and eligibility; not capacity).
    #[must_use]
    pub fn eligible(&self, request: &Request, worker: usize) -> bool {
        if request.rank.is_some_and(|rank| rank.index() != worker) {
            return false;
        }
        match request.pair_row {
            Some(row) if !self.pairs.eligible.is_empty() => {
                let words = self.workers.len().div_ceil(64);
                // Validation looks at the window only: a request behind it may name a row that is not there,
                // which says nothing.
                let word = self.pairs.eligible.get(row as usize * words + worker / 64);
                word.is_none_or(|word| word >> (worker % 64) & 1 == 1)
            }
            _ => true,
        }
    }

    /// The bonus of a request on a worker in whole tokens.
    #[must_use]
    pub fn bonus_tokens(&self, request: &Request, worker: usize) -> i64 {
        match (request.pair_row, self.bonuses()) {
            (Some(row), Some(bonuses)) => bonuses.at(row as usize * self.workers.len() + worker),
            _ => 0,
        }
    }

    /// The bonus matrix, if there is one.
    pub(crate) fn bonuses(&self) -> Option<Bonuses<'a>> {
        let Pairs { bonus_tokens, bonus_half_tokens, .. } = self.pairs;
        if !bonus_tokens.is_empty() {
            Some(Bonuses::F32(bonus_tokens))
        } else if !bonus_half_tokens.is_empty() {
            Some(Bonuses::F16(bonus_half_tokens))
        } else {
            None
        }
    }

    /// Eligibility words of every row, if there are any, and how many a row has.
    pub(crate) fn eligible_rows(&self) -> Option<(&'a [u64], usize)> {
        let eligible = self.pairs.eligible;
        (!eligible.is_empty()).then(|| (eligible, self.workers.len().div_ceil(64)))
    }

    /// Eligibility of a request on 64 workers at once, its rank aside.
    pub(crate) fn eligible_word(&self, request: &Request, word: usize) -> u64 {
        match request.pair_row {
            Some(row) if !self.pairs.eligible.is_empty() => {
                self.pairs.eligible[row as usize * self.workers.len().div_ceil(64) + word]
            }
            _ => u64::MAX,
        }
    }

    /// Free slots that may be filled now, over all workers.
    #[must_use]
    pub fn open_slots(&self) -> u64 {
        self.totals.open_slots
    }

    /// Whether some worker has more than one slot that may be filled now.
    pub(crate) fn has_several_open(&self) -> bool {
        self.totals.several_open
    }

    /// A bit for each worker with an open slot.
    pub(crate) fn open_workers(&self) -> &[u64] {
        &self.totals.open[..self.workers.len().div_ceil(64)]
    }

    /// The greatest load of the workers without an open slot.
    pub(crate) fn greatest_shut_tokens(&self) -> Option<i64> {
        Some(self.totals.greatest_shut_tokens).filter(|&tokens| tokens >= 0)
    }

    /// Sum and greatest of the loads in tokens.
    pub(crate) fn load_totals(&self) -> (u64, u64) {
        (self.totals.load_tokens, self.totals.greatest_load_tokens)
    }

    /// Slots, taken and free, over all workers.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.totals.slots
    }

    /// Whether the KV cache of some worker is bounded.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.totals.bounded
    }

    /// Whether a token costs the same on every worker.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        self.totals.uniform
    }

    /// Whether some waiting request prefers or refuses single workers, or has a survival class of its own.
    /// Terms that say nothing are none.
    #[must_use]
    pub fn has_pair_terms(&self) -> bool {
        self.has_pair_terms
    }

    /// Whether a request has such terms: a rank, a bonus that is not zero, a worker that it may not use, a
    /// survival class that is not all ones.
    pub(crate) fn has_terms(&self, request: &Request) -> bool {
        if !request.has_pair_terms() {
            return false;
        }
        let by_row = |row: usize| {
            let workers = self.workers.len();
            let bonus = self.bonuses().is_some_and(|of| (0..workers).any(|g| of.at(row * workers + g) != 0));
            let masked = || {
                self.eligible_rows()
                    .is_some_and(|(masks, words)| !all_ones(&masks[row * words..][..words], workers))
            };
            bonus || masked()
        };
        request.rank.is_some()
            || request.pair_row.is_some_and(|row| by_row(row as usize))
            || self.class_of(request).is_some()
    }
}

/// Whether the first so many bits are all set.
pub(crate) fn all_ones(words: &[u64], bits: usize) -> bool {
    let (whole, rest) = (bits / 64, bits % 64);
    words[..whole].iter().all(|&word| word == u64::MAX)
        && (rest == 0 || words[whole] & ((1 << rest) - 1) == (1 << rest) - 1)
}

impl<'a> BatchDraft<'a> {
    /// Sets the traffic statistics.
    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.0.traffic = traffic;
        self
    }

    /// Sets the tokens left free for each admitted request's own growth.
    pub fn request_growth(mut self, tokens: u32) -> Self {
        self.0.request_growth_tokens = tokens;
        self
    }

    /// Sets projected loads.
    pub fn projection(mut self, horizon: usize, rows: &'a [u64]) -> Self {
        self.0.projection = Some(Projection { horizon, rows });
        self
    }

    /// Sets predicted completions.
    pub fn ends(mut self, ends: PredictedEnds<'a>) -> Self {
        self.0.ends = Some(ends);
        self
    }

    /// Sets pair terms.
    pub fn pairs(mut self, pairs: Pairs<'a>) -> Self {
        self.0.pairs = pairs;
        self
    }

    /// Sets survival classes over the projection's horizon.
    pub fn classes(mut self, rows: &'a [f32]) -> Self {
        self.0.classes = Some(SurvivalClasses { rows });
        self
    }

    /// The batch of a caller that knows it to be consistent. It has no totals: good for questions about
    /// pairs, not for a decision.
    pub(crate) fn unchecked(self) -> Batch<'a> {
        self.0
    }

    /// [`BatchDraft::unchecked`] with the totals of its workers.
    pub(crate) fn trusted(self) -> Batch<'a> {
        let mut batch = self.0;
        batch.totals = Totals::of(batch.workers);
        batch
    }

    /// Validates everything once.
    ///
    /// # Errors
    /// The first inconsistency, with its place, what was expected and what was found.
    pub fn check(self) -> Result<Batch<'a>, BatchError> {
        let mut batch = self.0;
        check::check(&batch)?;
        batch.totals = Totals::of(batch.workers);
        batch.has_pair_terms = batch.waiting.any_pair_terms()
            && batch.waiting.iter().any(|(_, request, _)| batch.has_terms(request));
        Ok(batch)
    }
}

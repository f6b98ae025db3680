//! One step's problem: workers, waiting requests and what is known about them, validated at this door and nowhere else.
//!
//! A [`Batch`] exists only when everything in it is consistent, so no policy and no backend checks its input again.
//! Tokens are integers. Nothing waiting, no free slot and all workers draining are valid: the answer is then empty.

use half::f16;
use thiserror::Error;

use crate::pool::Pool;

// The limits below bound every sum and product of a decision within an i64: G^2 * load * weight, and
// length * weight * G * sum of discounts. A uniform cluster stays within the 53 bits of an f64 as well.

/// Most workers of a batch.
pub const MAX_WORKERS: usize = 1024;
/// Most waiting requests of a pool.
pub const MAX_WAITING: usize = 1 << 20;
/// Greatest horizon `H`: a projected row has `H + 1` entries.
pub const MAX_HORIZON: usize = 128;
/// Longest prompt in tokens.
pub const MAX_PROMPT_TOKENS: u32 = 1 << 22;
/// Greatest load, use or capacity of one worker in tokens.
pub const MAX_LOAD_TOKENS: u64 = 1 << 30;
/// Most slots of one worker.
pub const MAX_SLOTS: u32 = 1 << 16;
/// Longest wait in steps.
pub const MAX_WAITED_STEPS: u32 = 1 << 24;
/// Greatest relative step cost per token of a worker.
pub const MAX_WEIGHT: f32 = 64.0;
/// Resolution of a weight: one token on a worker of weight 1 costs this many units where weights differ.
pub const WEIGHT_ONE: i64 = 64;
/// Greatest pair bonus in tokens, either sign.
pub const MAX_BONUS_TOKENS: f32 = (1u32 << 30) as f32;
/// Most survival classes of a batch.
pub const MAX_CLASSES: usize = 256;

/// A decode worker (data-parallel rank) as the step begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worker {
    /// KV tokens that its running requests read each step.
    pub load_tokens: u64,
    /// Requests decoding there now; each adds a token a step.
    pub running: u32,
    /// Free batch slots.
    pub free_slots: u32,
    /// KV tokens that fit, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// KV tokens held, at least what running requests hold.
    pub kv_used_tokens: u64,
    /// KV tokens by which running requests are predicted to grow and that an admission must leave free.
    pub kv_growth_tokens: u64,
    /// Relative step cost per token, 1 for a uniform cluster; resolved to 1/64, at least that.
    pub weight: f32,
    /// Whether it takes new requests; a draining worker still holds the step up.
    pub accepting: bool,
    /// Steps to its next predicted completion, if predicted.
    pub next_completion_steps: Option<u32>,
}

impl Worker {
    /// An accepting worker without a KV bound, weight 1.
    #[must_use]
    pub fn new(load_tokens: u64, running: u32, free_slots: u32) -> Self {
        Self {
            load_tokens,
            running,
            free_slots,
            kv_capacity_tokens: None,
            kv_used_tokens: load_tokens,
            kv_growth_tokens: 0,
            weight: 1.0,
            accepting: true,
            next_completion_steps: None,
        }
    }

    /// Bounds its KV cache.
    #[must_use]
    pub fn capacity(self, kv_capacity_tokens: u64) -> Self {
        Self { kv_capacity_tokens: Some(kv_capacity_tokens), ..self }
    }

    /// Sets the relative step cost per token.
    #[must_use]
    pub fn weight(self, weight: f32) -> Self {
        Self { weight, ..self }
    }

    /// Stops new requests.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { accepting: false, ..self }
    }

    /// Cost units of one token where weights differ: the weight in units of 1/[`WEIGHT_ONE`], at least one.
    #[must_use]
    pub fn cost_per_token(&self) -> i64 {
        ((f64::from(self.weight) * WEIGHT_ONE as f64).round() as i64).max(1)
    }

    /// Free slots that may be filled now.
    #[must_use]
    pub fn open_slots(&self) -> u32 {
        if self.accepting { self.free_slots } else { 0 }
    }

    /// Tokens that an admission may still take, growth of the running requests left free.
    #[must_use]
    pub fn room_tokens(&self) -> i64 {
        match self.kv_capacity_tokens {
            Some(capacity) => capacity as i64 - self.kv_used_tokens as i64 - self.kv_growth_tokens as i64,
            None => i64::MAX / 4,
        }
    }
}

/// A waiting request; its prefill is done or is the engine's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique among the waiting.
    pub id: u64,
    /// KV tokens that it brings.
    pub prompt_tokens: u32,
    /// Steps waited so far.
    pub waited_steps: u32,
    /// Overdue once it has waited this many steps, if set.
    pub deadline_steps: Option<u32>,
    /// Equal for equal prompts, for forecasts that know repeated prompts.
    pub prompt_hash: Option<u64>,
    /// The only worker that may take it (sticky session, explicit rank, or bound on arrival).
    pub rank: Option<u32>,
    /// Its row in the batch's [`Pairs`].
    pub pair_row: Option<u32>,
    /// Its row in the batch's survival classes.
    pub survival_class: Option<u8>,
}

impl Request {
    /// A request that just arrived and fits anywhere.
    #[must_use]
    pub fn new(id: u64, prompt_tokens: u32) -> Self {
        Self {
            id,
            prompt_tokens,
            waited_steps: 0,
            deadline_steps: None,
            prompt_hash: None,
            rank: None,
            pair_row: None,
            survival_class: None,
        }
    }

    /// Sets the steps waited so far.
    #[must_use]
    pub fn waited(self, waited_steps: u32) -> Self {
        Self { waited_steps, ..self }
    }

    /// Sets the deadline in waited steps.
    #[must_use]
    pub fn deadline(self, deadline_steps: u32) -> Self {
        Self { deadline_steps: Some(deadline_steps), ..self }
    }

    /// Sets the prompt hash.
    #[must_use]
    pub fn hash(self, prompt_hash: u64) -> Self {
        Self { prompt_hash: Some(prompt_hash), ..self }
    }

    /// Binds it to one worker.
    #[must_use]
    pub fn bound_to(self, rank: u32) -> Self {
        Self { rank: Some(rank), ..self }
    }

    /// Names its row of pair terms.
    #[must_use]
    pub fn pairs(self, pair_row: u32) -> Self {
        Self { pair_row: Some(pair_row), ..self }
    }

    /// Names its survival class.
    #[must_use]
    pub fn class(self, survival_class: u8) -> Self {
        Self { survival_class: Some(survival_class), ..self }
    }

    /// Whether its score depends on more than its length and age.
    pub(crate) fn has_pair_terms(&self) -> bool {
        self.rank.is_some() || self.pair_row.is_some() || self.survival_class.is_some()
    }
}

/// Running statistics of the traffic, in tokens: what a rule may know without predicting anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Mean length of arriving requests.
    pub mean_prompt_tokens: i64,
    /// Standard deviation of the same.
    pub sd_prompt_tokens: i64,
    /// The 10 % quantile of the same: the smallest refill to be expected.
    pub small_prompt_tokens: i64,
    /// Mean output length of finished requests.
    pub mean_output_tokens: i64,
}

/// Projected loads: `rows[g * (horizon + 1) + h]` are the tokens that the requests running now on worker `g` hold in `h` steps.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// Steps looked ahead, `H`.
    pub horizon: usize,
    /// `workers * (horizon + 1)` loads in tokens, row-major.
    pub rows: &'a [u64],
}

/// A predicted completion on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictedEnd {
    /// Steps until it, at least 1.
    pub in_steps: u32,
    /// KV tokens that it frees then.
    pub freed_tokens: u64,
}

/// Predicted completions per worker, each worker's in order of time.
#[derive(Clone, Copy, Debug)]
pub struct PredictedEnds<'a> {
    /// `workers + 1` offsets into `ends`.
    pub offsets: &'a [u32],
    /// All workers' completions.
    pub ends: &'a [PredictedEnd],
}

impl<'a> PredictedEnds<'a> {
    /// The completions of one worker.
    #[must_use]
    pub fn of(&self, worker: usize) -> &'a [PredictedEnd] {
        &self.ends[self.offsets[worker] as usize..self.offsets[worker + 1] as usize]
    }
}

/// Terms per (request, worker) pair, one row for each [`Request::pair_row`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Pairs<'a> {
    /// Bonus in tokens (prefix affinity), `rows * workers`, row-major; empty for none. Rounded to whole tokens, halves away from zero.
    pub bonus_tokens: &'a [f32],
    /// The same in half the memory, instead of `bonus_tokens`: a bonus `b` moves by at most `2^-11 * |b|` (at most 65504 tokens).
    pub bonus_half_tokens: &'a [f16],
    /// Eligibility bits, `rows * workers.div_ceil(64)` words, row-major, bit `g % 64` of word `g / 64`; empty for all.
    pub eligible: &'a [u64],
}

/// A bonus matrix, row-major, as a caller stores it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bonuses<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl Bonuses<'_> {
    /// The entry at an index, widened exactly and rounded to whole tokens.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> i64 {
        whole_tokens(match self {
            Self::F32(matrix) => matrix[index],
            Self::F16(matrix) => matrix[index].to_f32(),
        })
    }

    /// Entries of the matrix.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(matrix) => matrix.len(),
            Self::F16(matrix) => matrix.len(),
        }
    }
}

/// A bonus in whole tokens, halves away from zero: what `f32::round` says, without a call where the CPU's baseline lacks the instruction.
#[inline(always)]
fn whole_tokens(bonus: f32) -> i64 {
    // A bonus is at most `MAX_BONUS_TOKENS`; neither the sum nor the half is rounded in an `f64`.
    let whole = i64::from((f64::from(bonus.abs()) + 0.5) as i32);
    if bonus < 0.0 { -whole } else { whole }
}

/// Survival classes: `rows[c * (horizon + 1) + h]` is the probability that a request of class `c` still runs after `h` steps.
#[derive(Clone, Copy, Debug)]
pub struct SurvivalClasses<'a> {
    /// `classes * (horizon + 1)` probabilities, row-major; the horizon is the projection's.
    pub rows: &'a [f32],
}

/// A refused batch: what, where, expected and found.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are in the message")]
pub enum BatchError {
    #[error("a batch needs at least one worker")]
    NoWorkers,
    #[error("too many workers: at most {limit}, found {found}")]
    TooManyWorkers { limit: usize, found: usize },
    #[error("too many waiting requests: at most {limit}, found {found}")]
    TooManyWaiting { limit: usize, found: usize },
    #[error("request {index} (id {id}): id already waits at index {first}")]
    DuplicateId { index: usize, id: u64, first: usize },
    #[error("request {index} (id {id}): prompt tokens must be in 1..={limit}, found {found}")]
    PromptTokens { index: usize, id: u64, limit: u32, found: u32 },
    #[error("request {index} (id {id}): waited steps must be at most {limit}, found {found}")]
    WaitedSteps { index: usize, id: u64, limit: u32, found: u32 },
    #[error("request {index} (id {id}): rank must be below {workers}, found {found}")]
    Rank { index: usize, id: u64, workers: usize, found: u32 },
    #[error("request {index} (id {id}): pair row must be below {rows}, found {found}")]
    PairRow { index: usize, id: u64, rows: usize, found: u32 },
    #[error("request {index} (id {id}): survival class must be below {classes}, found {found}")]
    SurvivalClass { index: usize, id: u64, classes: usize, found: u8 },
    #[error("worker {index}: {what} must be at most {limit}, found {found}")]
    WorkerTokens { index: usize, what: &'static str, limit: u64, found: u64 },
    #[error("worker {index}: running plus free slots must be at most {limit}, found {found}")]
    WorkerSlots { index: usize, limit: u32, found: u64 },
    #[error("worker {index}: weight must be in 0..={limit}, found {found}")]
    Weight { index: usize, limit: f32, found: f32 },
    #[error("{what}: horizon must be at most {limit}, found {found}")]
    Horizon { what: &'static str, limit: usize, found: usize },
    #[error("{what}: expected {expected} entries, found {found}")]
    Length { what: &'static str, expected: usize, found: usize },
    #[error("{what}, entry {index}: must be in {low}..={high}, found {found}")]
    Value { what: &'static str, index: usize, low: f64, high: f64, found: f64 },
    #[error("traffic: {what} must be in 0..={limit}, found {found}")]
    Traffic { what: &'static str, limit: i64, found: i64 },
    #[error("predicted ends of worker {worker}, entry {index}: {expected}, found {found}")]
    PredictedEnd { worker: usize, index: usize, expected: &'static str, found: u64 },
}

/// One step's problem, checked.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    workers: &'a [Worker],
    waiting: &'a Pool,
    traffic: Traffic,
    request_growth_tokens: u32,
    projection: Option<Projection<'a>>,
    ends: Option<PredictedEnds<'a>>,
    pairs: Pairs<'a>,
    classes: Option<SurvivalClasses<'a>>,
    totals: Totals,
}

/// What every decision wants to know of the workers: added up at the door, where each is looked at anyway.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// A bit for each worker with an open slot.
    open: [u64; MAX_WORKERS / 64],
    /// The greatest load of all others, which in one step stay what they are; negative if there are none.
    greatest_shut_tokens: i64,
    open_slots: u64,
    slots: u64,
    load_tokens: u64,
    greatest_load_tokens: u64,
    /// Some worker has more than one open slot.
    several_open: bool,
    uniform: bool,
    bounded: bool,
}

impl Totals {
    fn of(workers: &[Worker]) -> Self {
        let first_weight = workers.first().map_or(0, |worker| worker.weight.to_bits());
        let mut totals = Self { greatest_shut_tokens: -1, ..Self::default() };
        // Numbers instead of flags: compilers pack those into one register, and unpack them for each worker.
        let (mut most_open, mut capacities, mut other_weights) = (0, 0, 0);
        for (part, workers) in workers.chunks(64).enumerate() {
            let mut open = 0;
            for (at, worker) in workers.iter().enumerate() {
                let open_slots = worker.open_slots();
                open |= u64::from(open_slots > 0) << at;
                let shut_tokens = if open_slots > 0 { -1 } else { worker.load_tokens as i64 };
                totals.greatest_shut_tokens = totals.greatest_shut_tokens.max(shut_tokens);
                totals.open_slots += u64::from(open_slots);
                totals.slots += u64::from(worker.running) + u64::from(worker.free_slots);
                totals.load_tokens += worker.load_tokens;
                totals.greatest_load_tokens = totals.greatest_load_tokens.max(worker.load_tokens);
                most_open = most_open.max(open_slots);
                capacities += u32::from(worker.kv_capacity_tokens.is_some());
                other_weights |= worker.weight.to_bits() ^ first_weight;
            }
            totals.open[part] = open;
        }
        totals.several_open = most_open > 1;
        totals.uniform = other_weights == 0;
        totals.bounded = capacities > 0;
        totals
    }
}

/// A batch before its check.
#[derive(Clone, Copy, Debug)]
#[must_use = "call `check` to obtain the batch"]
pub struct BatchDraft<'a>(Batch<'a>);

impl<'a> Batch<'a> {
    /// Begins a batch of workers and waiting requests.
    pub fn draft(workers: &'a [Worker], waiting: &'a Pool) -> BatchDraft<'a> {
        BatchDraft(Self {
            workers,
            waiting,
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

    /// The waiting requests.
    #[must_use]
    pub fn waiting(&self) -> &'a Pool {
        self.waiting
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

    /// Whether a request may run on a worker at all (rank and eligibility; not capacity).
    #[must_use]
    pub fn eligible(&self, request: &Request, worker: usize) -> bool {
        if request.rank.is_some_and(|rank| rank as usize != worker) {
            return false;
        }
        match request.pair_row {
            Some(row) if !self.pairs.eligible.is_empty() => {
                let words = self.workers.len().div_ceil(64);
                self.pairs.eligible[row as usize * words + worker / 64] >> (worker % 64) & 1 == 1
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
    #[must_use]
    pub fn has_pair_terms(&self) -> bool {
        self.waiting.any_pair_terms()
    }
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

    /// Validates everything once.
    ///
    /// # Errors
    /// The first inconsistency, with its place, what was expected and what was found.
    pub fn check(self) -> Result<Batch<'a>, BatchError> {
        let mut batch = self.0;
        let workers = batch.workers.len();
        if workers == 0 {
            return Err(BatchError::NoWorkers);
        }
        if workers > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: workers });
        }
        if !are_sound(batch.workers) {
            for (index, worker) in batch.workers.iter().enumerate() {
                check_worker(index, worker)?;
            }
        }
        batch.totals = Totals::of(batch.workers);
        check_traffic(&batch.traffic)?;
        if batch.request_growth_tokens > MAX_PROMPT_TOKENS {
            return Err(BatchError::Traffic {
                what: "growth tokens of a request",
                limit: i64::from(MAX_PROMPT_TOKENS),
                found: i64::from(batch.request_growth_tokens),
            });
        }
        if let Some(projection) = batch.projection {
            check_projection(workers, projection)?;
        }
        if let Some(ends) = batch.ends {
            check_ends(workers, ends)?;
        }
        check_pairs(&batch)?;
        Ok(batch)
    }
}

/// Whether [`check_worker`] surely finds nothing: who and what is at fault is asked only otherwise.
fn are_sound(workers: &[Worker]) -> bool {
    let (mut most_tokens, mut most_slots, mut greatest_weight) = (0, 0, 0);
    for worker in workers {
        let kept = worker.kv_used_tokens.max(worker.kv_growth_tokens);
        most_tokens =
            most_tokens.max(worker.load_tokens).max(kept.max(worker.kv_capacity_tokens.unwrap_or(0)));
        most_slots = most_slots.max(u64::from(worker.running) + u64::from(worker.free_slots));
        // What is negative or no number has greater bits than every weight that is allowed.
        greatest_weight = greatest_weight.max(worker.weight.to_bits());
    }
    most_tokens <= MAX_LOAD_TOKENS
        && most_slots <= u64::from(MAX_SLOTS)
        && greatest_weight <= MAX_WEIGHT.to_bits()
}

fn check_worker(index: usize, worker: &Worker) -> Result<(), BatchError> {
    let limit = MAX_LOAD_TOKENS;
    for (what, found) in [
        ("load tokens", worker.load_tokens),
        ("KV tokens used", worker.kv_used_tokens),
        ("KV growth tokens", worker.kv_growth_tokens),
        ("KV capacity tokens", worker.kv_capacity_tokens.unwrap_or(0)),
    ] {
        if found > limit {
            return Err(BatchError::WorkerTokens { index, what, limit, found });
        }
    }
    let slots = u64::from(worker.running) + u64::from(worker.free_slots);
    if slots > u64::from(MAX_SLOTS) {
        return Err(BatchError::WorkerSlots { index, limit: MAX_SLOTS, found: slots });
    }
    if !(0.0..=MAX_WEIGHT).contains(&worker.weight) {
        return Err(BatchError::Weight { index, limit: MAX_WEIGHT, found: worker.weight });
    }
    Ok(())
}

fn check_traffic(traffic: &Traffic) -> Result<(), BatchError> {
    let limit = i64::from(MAX_PROMPT_TOKENS);
    for (what, found) in [
        ("mean prompt tokens", traffic.mean_prompt_tokens),
        ("spread of prompt tokens", traffic.sd_prompt_tokens),
        ("small prompt tokens", traffic.small_prompt_tokens),
        ("mean output tokens", traffic.mean_output_tokens),
    ] {
        if !(0..=limit).contains(&found) {
            return Err(BatchError::Traffic { what, limit, found });
        }
    }
    Ok(())
}

fn check_projection(workers: usize, projection: Projection<'_>) -> Result<(), BatchError> {
    if projection.horizon > MAX_HORIZON {
        return Err(BatchError::Horizon {
            what: "projection",
            limit: MAX_HORIZON,
            found: projection.horizon,
        });
    }
    let expected = workers * (projection.horizon + 1);
    if projection.rows.len() != expected {
        return Err(BatchError::Length { what: "projection rows", expected, found: projection.rows.len() });
    }
    match projection.rows.iter().position(|&tokens| tokens > MAX_LOAD_TOKENS) {
        Some(index) => Err(BatchError::Value {
            what: "projection rows",
            index,
            low: 0.0,
            high: MAX_LOAD_TOKENS as f64,
            found: projection.rows[index] as f64,
        }),
        None => Ok(()),
    }
}

fn check_ends(workers: usize, ends: PredictedEnds<'_>) -> Result<(), BatchError> {
    if ends.offsets.len() != workers + 1 {
        return Err(BatchError::Length {
            what: "offsets of predicted ends",
            expected: workers + 1,
            found: ends.offsets.len(),
        });
    }
    if ends.offsets[workers] as usize != ends.ends.len() {
        return Err(BatchError::Length {
            what: "predicted ends",
            expected: ends.offsets[workers] as usize,
            found: ends.ends.len(),
        });
    }
    for worker in 0..workers {
        if ends.offsets[worker] > ends.offsets[worker + 1] || (worker == 0 && ends.offsets[0] != 0) {
            return Err(BatchError::PredictedEnd {
                worker,
                index: 0,
                expected: "offsets that begin at 0 and do not fall",
                found: u64::from(ends.offsets[worker]),
            });
        }
        let mut last = 1;
        for (index, end) in ends.of(worker).iter().enumerate() {
            if end.in_steps < last {
                return Err(BatchError::PredictedEnd {
                    worker,
                    index,
                    expected: "steps of at least 1 in order of time",
                    found: u64::from(end.in_steps),
                });
            }
            if end.freed_tokens > MAX_LOAD_TOKENS {
                return Err(BatchError::PredictedEnd {
                    worker,
                    index,
                    expected: "freed tokens within the greatest load",
                    found: end.freed_tokens,
                });
            }
            last = end.in_steps;
        }
    }
    Ok(())
}

fn check_pairs(batch: &Batch<'_>) -> Result<(), BatchError> {
    let workers = batch.workers.len();
    let Pairs { bonus_tokens, bonus_half_tokens, eligible } = batch.pairs;
    let words = workers.div_ceil(64);
    if !bonus_tokens.is_empty() && !bonus_half_tokens.is_empty() {
        return Err(BatchError::Length {
            what: "pair bonuses in half precision beside full ones",
            expected: 0,
            found: bonus_half_tokens.len(),
        });
    }
    let bonus_count = bonus_tokens.len().max(bonus_half_tokens.len());
    if !bonus_count.is_multiple_of(workers) {
        return Err(BatchError::Length {
            what: "pair bonus rows",
            expected: bonus_count.next_multiple_of(workers),
            found: bonus_count,
        });
    }
    let rows = if bonus_count == 0 { eligible.len() / words } else { bonus_count / workers };
    if let Some(index) = bonus_half_tokens.iter().position(|bonus| !bonus.is_finite()) {
        let high = f64::from(f16::MAX.to_f32());
        let found = f64::from(bonus_half_tokens[index].to_f32());
        return Err(BatchError::Value { what: "pair bonus", index, low: -high, high, found });
    }
    if !eligible.is_empty() && eligible.len() != rows * words {
        return Err(BatchError::Length {
            what: "eligibility words",
            expected: rows * words,
            found: eligible.len(),
        });
    }
    if let Some(index) =
        bonus_tokens.iter().position(|bonus| !(-MAX_BONUS_TOKENS..=MAX_BONUS_TOKENS).contains(bonus))
    {
        return Err(BatchError::Value {
            what: "pair bonus",
            index,
            low: f64::from(-MAX_BONUS_TOKENS),
            high: f64::from(MAX_BONUS_TOKENS),
            found: f64::from(bonus_tokens[index]),
        });
    }
    let mut classes = 0;
    if let Some(SurvivalClasses { rows }) = batch.classes {
        let width = batch.projection.map_or(1, |projection| projection.horizon + 1);
        classes = rows.len() / width;
        if classes > MAX_CLASSES || rows.len() != classes * width {
            return Err(BatchError::Length {
                what: "survival classes",
                expected: classes.clamp(1, MAX_CLASSES) * width,
                found: rows.len(),
            });
        }
        if let Some(index) = rows.iter().position(|survival| !(0.0..=1.0).contains(survival)) {
            return Err(BatchError::Value {
                what: "survival classes",
                index,
                low: 0.0,
                high: 1.0,
                found: f64::from(rows[index]),
            });
        }
    }
    if !batch.waiting.any_pair_terms() {
        return Ok(());
    }
    for (index, (_, request, _)) in batch.waiting.iter().enumerate() {
        let id = request.id;
        match request.rank {
            Some(found) if found as usize >= workers => {
                return Err(BatchError::Rank { index, id, workers, found });
            }
            _ => {}
        }
        match request.pair_row {
            Some(found) if found as usize >= rows => {
                return Err(BatchError::PairRow { index, id, rows, found });
            }
            _ => {}
        }
        match request.survival_class {
            Some(found) if usize::from(found) >= classes => {
                return Err(BatchError::SurvivalClass { index, id, classes, found });
            }
            _ => {}
        }
    }
    Ok(())
}

//! What is known beside workers and requests: traffic, predictions, and terms of pairs.

use half::f16;

/// Running statistics of the traffic, in tokens: what a rule may know without predicting anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
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

impl Traffic {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { mean_prompt_tokens: 0, sd_prompt_tokens: 0, small_prompt_tokens: 0, mean_output_tokens: 0 }
    }

    /// Sets the mean length of arriving requests and its standard deviation.
    #[must_use]
    pub const fn prompts(self, mean_prompt_tokens: i64, sd_prompt_tokens: i64) -> Self {
        Self { mean_prompt_tokens, sd_prompt_tokens, ..self }
    }

    /// Sets the 10 % quantile of the length of arriving requests.
    #[must_use]
    pub const fn small_prompts(self, small_prompt_tokens: i64) -> Self {
        Self { small_prompt_tokens, ..self }
    }

    /// Sets the mean output length of finished requests.
    #[must_use]
    pub const fn outputs(self, mean_output_tokens: i64) -> Self {
        Self { mean_output_tokens, ..self }
    }
}

/// Projected loads: `rows[g * (horizon + 1) + h]` are the tokens that the requests running now on worker `g`
/// hold in `h` steps.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// Steps looked ahead, `H`.
    pub horizon: usize,
    /// `workers * (horizon + 1)` loads in tokens, row-major.
    pub rows: &'a [u64],
}

/// A predicted completion on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

/// Terms per (request, worker) pair, one row for each [`Request::pair_row`](super::Request::pair_row).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pairs<'a> {
    /// Bonus in tokens (prefix affinity), `rows * workers`, row-major; empty for none. Rounded to whole
    /// tokens, halves away from zero.
    pub bonus_tokens: &'a [f32],
    /// Bonuses in half the memory, instead of `bonus_tokens`: a bonus `b` moves by at most `2^-11 * |b|` (at
    /// most 65504 tokens).
    pub bonus_half_tokens: &'a [f16],
    /// Eligibility bits, `rows * workers.div_ceil(64)` words, row-major, bit `g % 64` of word `g / 64`; empty
    /// for all.
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

/// A bonus in whole tokens, halves away from zero: what `f32::round` says, without a call where the CPU's
/// baseline lacks the instruction.
#[inline(always)]
fn whole_tokens(bonus: f32) -> i64 {
    // A bonus is at most `MAX_BONUS_TOKENS`; neither the sum nor the half is rounded in an `f64`.
    let whole = i64::from((f64::from(bonus.abs()) + 0.5) as i32);
    if bonus < 0.0 { -whole } else { whole }
}

/// Survival classes: `rows[c * (horizon + 1) + h]` is the probability that a request of class `c` still runs
/// after `h` steps.
#[derive(Clone, Copy, Debug)]
pub struct SurvivalClasses<'a> {
    /// `classes * (horizon + 1)` probabilities, row-major; the horizon is the projection's.
    pub rows: &'a [f32],
}

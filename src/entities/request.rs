//! A request that waits.

use crate::ids::{RequestId, WorkerIndex};

/// A waiting request; its prefill is done or is the engine's business.
///
/// `W` is how it names a worker: a batch's request by position ([`WorkerIndex`]), a router's by id
/// ([`WorkerId`](crate::WorkerId)). Calls say which they take, so `Request::new(1, 900)` serves both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "it waits nowhere: enqueue it"]
#[non_exhaustive]
pub struct Request<W = WorkerIndex> {
    /// Unique among the waiting.
    pub id: RequestId,
    /// KV tokens that it brings: its length, less what its worker has of it already ([`Request::cached`]).
    pub prompt_tokens: u32,
    /// Tokens of its length that its worker has already, on top of those.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cached_tokens: u32,
    /// Of its length, tokens that it has generated on a worker before, for one that comes back.
    #[cfg_attr(feature = "serde", serde(default))]
    pub generated_tokens: u32,
    /// Tokens that it may generate in all, if known: it needs no room for more.
    #[cfg_attr(feature = "serde", serde(default))]
    pub max_tokens: Option<u32>,
    /// Steps waited so far.
    #[cfg_attr(feature = "serde", serde(default))]
    pub waited_steps: u32,
    /// Requests of its class that came later and were admitted before it, to workers that it may use.
    #[cfg_attr(feature = "serde", serde(default))]
    pub passed: u32,
    /// Its class: whoever is of a higher one goes before it. 0 unless set.
    #[cfg_attr(feature = "serde", serde(default))]
    pub priority: i8,
    /// Overdue once it has waited this many steps, if set.
    #[cfg_attr(feature = "serde", serde(default))]
    pub deadline_steps: Option<u32>,
    /// Equal for equal prompts, for forecasts that know repeated prompts.
    #[cfg_attr(feature = "serde", serde(default))]
    #[cfg_attr(feature = "record", serde(with = "crate::bytes::keyed::hash"))]
    pub prompt_hash: Option<u64>,
    /// The only worker that may take it (sticky session, explicit rank, or bound on arrival).
    #[cfg_attr(feature = "serde", serde(default))]
    pub rank: Option<W>,
    /// Its row in the batch's [`Pairs`](crate::batch::Pairs).
    #[cfg_attr(feature = "serde", serde(default))]
    pub pair_row: Option<u32>,
    /// Its row in the batch's survival classes.
    #[cfg_attr(feature = "serde", serde(default))]
    pub survival_class: Option<u8>,
}

impl<W> Request<W> {
    /// A request that just arrived and fits anywhere.
    pub fn new(id: impl Into<RequestId>, prompt_tokens: u32) -> Self {
        Self {
            id: id.into(),
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens: 0,
            max_tokens: None,
            waited_steps: 0,
            passed: 0,
            priority: 0,
            deadline_steps: None,
            prompt_hash: None,
            rank: None,
            pair_row: None,
            survival_class: None,
        }
    }

    /// Sets the steps waited so far.
    pub fn waited(self, waited_steps: u32) -> Self {
        Self { waited_steps, ..self }
    }

    /// Sets how many of its class that came later were admitted before it.
    pub fn passed(self, passed: u32) -> Self {
        Self { passed, ..self }
    }

    /// Sets its class: whoever is of a higher one goes before it.
    pub fn priority(self, priority: i8) -> Self {
        Self { priority, ..self }
    }

    /// The request as one that was here before: it has been passed as often as then, or more, and is of its
    /// class of then unless it names another.
    pub(crate) fn known(self, passed: u32, priority: i8) -> Self {
        let priority = if self.priority == 0 { priority } else { self.priority };
        Self { passed: self.passed.max(passed), priority, ..self }
    }

    /// Says that so many tokens of it are in the KV cache of its worker already, a shared prefix: it brings
    /// that many less. Where this is not known, reports teach it.
    pub fn cached(self, cached_tokens: u32) -> Self {
        let brought = self.prompt_tokens.saturating_sub(cached_tokens).max(self.prompt_tokens.min(1));
        Self { prompt_tokens: brought, cached_tokens: self.prompt_tokens - brought, ..self }
    }

    /// Says that it comes back, and that so many of its tokens it has generated before.
    pub fn generated(self, generated_tokens: u32) -> Self {
        Self { generated_tokens, ..self }
    }

    /// Sets how many tokens it may generate in all.
    pub fn max_tokens(self, max_tokens: impl Into<Option<u32>>) -> Self {
        Self { max_tokens: max_tokens.into(), ..self }
    }

    /// Tokens that it may still generate, if that is known.
    pub(crate) fn left_tokens(&self) -> Option<u32> {
        self.max_tokens.map(|most| most.saturating_sub(self.generated_tokens))
    }

    /// Sets the deadline in waited steps.
    pub fn deadline(self, deadline_steps: impl Into<Option<u32>>) -> Self {
        Self { deadline_steps: deadline_steps.into(), ..self }
    }

    /// Sets the prompt hash.
    pub fn hash(self, prompt_hash: impl Into<Option<u64>>) -> Self {
        Self { prompt_hash: prompt_hash.into(), ..self }
    }

    /// Binds it to one worker.
    pub fn bound_to(self, rank: impl Into<W>) -> Self {
        Self { rank: Some(rank.into()), ..self }
    }

    /// Binds it to one worker, or to none.
    pub fn rank(self, rank: Option<impl Into<W>>) -> Self {
        Self { rank: rank.map(Into::into), ..self }
    }

    /// Names its row of pair terms.
    pub fn pairs(self, pair_row: impl Into<Option<u32>>) -> Self {
        Self { pair_row: pair_row.into(), ..self }
    }

    /// Names its survival class.
    pub fn class(self, survival_class: impl Into<Option<u8>>) -> Self {
        Self { survival_class: survival_class.into(), ..self }
    }

    /// The request with another way to name its worker.
    pub(crate) fn ranked<V>(self, rank: Option<V>) -> Request<V> {
        let Self {
            id,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            max_tokens,
            waited_steps,
            passed,
            priority,
            deadline_steps,
            prompt_hash,
            pair_row,
            survival_class,
            ..
        } = self;
        Request {
            id,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            max_tokens,
            waited_steps,
            passed,
            priority,
            deadline_steps,
            prompt_hash,
            rank,
            pair_row,
            survival_class,
        }
    }

    /// Whether its score depends on more than its length and age.
    #[inline]
    pub(crate) fn has_pair_terms(&self) -> bool {
        self.rank.is_some() || self.pair_row.is_some() || self.survival_class.is_some()
    }
}

//! A request that waits.

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
    /// Its row in the batch's [`Pairs`](super::Pairs).
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
    #[inline]
    pub(crate) fn has_pair_terms(&self) -> bool {
        self.rank.is_some() || self.pair_row.is_some() || self.survival_class.is_some()
    }
}

//! What every source hands out: one request.

use std::sync::Arc;

/// One request of a workload or a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// KV tokens that it brings.
    pub prompt_tokens: u32,
    /// Tokens that it generates, at least 1: one a step.
    pub output_tokens: u32,
    /// Equal for equal prompts, where the source knows.
    pub prompt_hash: Option<u64>,
    /// Hashes of its prefix blocks, first block first, where the source knows.
    pub prefix_blocks: Option<Arc<[u64]>>,
    /// Equal for the turns of a session, where the source has sessions.
    pub session: Option<u64>,
}

impl Job {
    /// A request of these lengths and no hashes.
    #[must_use]
    pub fn new(prompt_tokens: u32, output_tokens: u32) -> Self {
        Self { prompt_tokens, output_tokens, prompt_hash: None, prefix_blocks: None, session: None }
    }
}

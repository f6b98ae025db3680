//! How large a batch may be: what bounds every sum and product of a decision within an i64, G^2 * load *
//! weight, and length * weight * G * sum of discounts. A uniform cluster stays within the 53 bits of an f64
//! as well.

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
/// Most admissions that are counted past a request.
pub const MAX_PASSED: u32 = 1 << 24;
/// Greatest relative step cost per token of a worker.
pub const MAX_WEIGHT: f32 = 64.0;
/// Resolution of a weight: one token on a worker of weight 1 costs this many units where weights differ.
pub const WEIGHT_ONE: i64 = 64;
/// Greatest pair bonus in tokens, either sign.
pub const MAX_BONUS_TOKENS: f32 = (1u32 << 30) as f32;
/// Most survival classes of a batch.
pub const MAX_CLASSES: usize = 256;

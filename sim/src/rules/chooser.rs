//! What a rule of the simulator is: it chooses the rank of a request as it arrives.
//!
//! The cluster tells it what happens to the requests after that ([`Chooser`]); what a rule keeps of them is
//! its own book. Each rank then serves its requests first come, first served, as the library's rules that
//! bind on arrival do.

use crate::cost::StepCost;
use crate::job::Job;

/// A rank as it is when a request arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RankSeen {
    /// Requests that decode there.
    pub running: u32,
    /// Requests bound to it that wait.
    pub queued: u32,
    /// Prompt tokens of these.
    pub queued_tokens: u64,
    /// KV tokens of those that decode.
    pub kv_tokens: u64,
}

impl RankSeen {
    /// Bound to it and not finished.
    pub(crate) fn requests(&self) -> u32 {
        self.running + self.queued
    }
}

/// A request whose rank is to be chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arriving<'a> {
    /// In order of arrival, from 0.
    pub id: u64,
    /// Its lengths and hashes.
    pub job: &'a Job,
    /// Its quarter by the length of the prompt among all requests of the source, shortest first.
    pub quarter: u8,
}

impl Arriving<'_> {
    /// Its prefix blocks; none where the source has no hashes.
    pub(crate) fn blocks(&self) -> &[u64] {
        self.job.prefix_blocks.as_deref().unwrap_or_default()
    }
}

/// The cluster, as a rule is told of it before the first request.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Step cost relative to others, of each rank; as many as there are ranks.
    pub weights: Vec<f64>,
    /// Batch slots of each.
    pub slots: u32,
    /// KV tokens of each, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// What a step costs.
    pub cost: StepCost,
    /// Microseconds of each prompt token that an admission computes on its rank; 0 where that is elsewhere.
    pub prompt_us_per_token: f64,
    /// Prefix blocks that a rank is believed to keep.
    pub cache_blocks: usize,
    /// Sigma of a lognormal factor on outputs that are told in advance.
    pub length_sigma: f64,
    /// Of the run.
    pub seed: u64,
}

impl Setup {
    pub(crate) fn workers(&self) -> usize {
        self.weights.len()
    }
}

/// Chooses the rank of each request as it arrives. Deterministic: the draws of a rule that draws lots follow
/// from the seed.
pub(crate) trait Chooser: Send {
    /// The rank of a request; `ranks` are as many as there are workers.
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize;

    /// A request was found decoding on a rank when the run began.
    fn adopted(&mut self, _running: &Arriving<'_>, _generated_tokens: u32, _rank: usize) {}

    /// A request has a slot on its rank, from this step on.
    fn admitted(&mut self, _id: u64, _rank: usize) {}

    /// A step has run, in so many ms: whoever decodes has a token more.
    fn stepped(&mut self, _step_ms: f64) {}

    /// A request has its last token, of so many.
    fn ended(&mut self, _id: u64, _rank: usize, _output_tokens: u32) {}

    /// A request lost its slot and waits again on its rank, before all others, with so many KV tokens.
    fn preempted(&mut self, _id: u64, _rank: usize, _prompt_tokens: u32) {}

    /// Waiting requests that go to another rank's queue, and which; asked before each step.
    fn moves(&mut self, _ranks: &[RankSeen], _moves: &mut Vec<(u64, usize)>) {}
}

/// The first of the ranks with the least key.
pub(crate) fn least<K: PartialOrd>(
    ranks: impl IntoIterator<Item = usize>,
    key: impl Fn(usize) -> K,
) -> Option<usize> {
    let mut best: Option<(K, usize)> = None;
    for rank in ranks {
        let found = key(rank);
        if best.as_ref().is_none_or(|(least, _)| found < *least) {
            best = Some((found, rank));
        }
    }
    best.map(|(_, rank)| rank)
}

/// A hash whose bits all depend on all bits of both (the finaliser of SplitMix64): equal on every machine.
pub(crate) fn hash(salt: u64, value: u64) -> u64 {
    let mut bits = value ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(factor);
    }
    bits ^ (bits >> 31)
}

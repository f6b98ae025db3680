//! What is simulated: a cluster, its traffic, and the policies to compare.

use std::fmt;

use balanceroute::batch::{
    MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS, MAX_SLOTS, MAX_WAITING, MAX_WEIGHT, MAX_WORKERS,
};
use balanceroute::forecast::Noise;
use balanceroute::policy::{self, Parameters};

use super::capacity::Capacity;
use super::prefix::PrefixModel;
use super::source::{Arrivals, Source};
use crate::cost::{Prompts, StepCost};
use crate::error::{SimError, argument};
use crate::job::Job;
use crate::rules::{self, Need, Rule, RuleInfo, Setup};
use crate::workloads::Workload;

/// A cluster, its traffic and the policies to compare.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Lengths of requests.
    pub source: Source,
    /// When they come.
    pub arrivals: Arrivals,
    /// Decode workers, `G`.
    pub workers: usize,
    /// Batch slots of each, `B`.
    pub slots: u32,
    /// Requests kept waiting when arrivals are closed.
    pub pool: usize,
    /// Names of the policies, in the order of the table.
    pub policies: Vec<String>,
    /// Seeds from `first_seed` on, one run each per policy.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
    /// Windows that an open trace is cut into, one run each per policy and seed; 0 runs the whole trace.
    pub windows: u32,
    /// Measured steps; without a bound an open run goes on until everybody has finished.
    pub steps: Option<u64>,
    /// Steps before the measured ones.
    pub warmup: u64,
    /// KV tokens that fit on each worker, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Steps of growth that an admission leaves free where the cache is bounded; none for the room that the
    /// router learns to be needed.
    pub headroom_steps: Option<u32>,
    /// Deadline of every request in waited steps, if they have one.
    pub deadline_steps: Option<u32>,
    /// Relative step cost per token of each worker; empty for 1 everywhere.
    pub weights: Vec<f32>,
    /// What a step costs.
    pub cost: StepCost,
    /// How late statistics are, in ms. A rule that binds on arrival sees ranks as they were so long ago
    /// (`vllm-0.33`, which counts what is in flight itself, gets new statistics once in so long); any other
    /// hears so much later that a request has ended, and its slot stands empty until then.
    pub stats_late_ms: f64,
    /// Prefix affinity: a bonus of so many tokens per cached token, one run each. Empty leaves prefix caches
    /// and their costs out.
    pub affinity: Vec<f64>,
    /// Prefix caches, where affinity is asked for.
    pub prefix: PrefixModel,
    /// Starts a closed run empty instead of near its steady state.
    pub cold_start: bool,
    /// Runs at a time; 0 for one per processor. No result depends on it.
    pub threads: usize,
    /// Errors put on what oracle policies are told; the seed of each run replaces theirs.
    pub noise: Noise,
    /// Parameters of the policies; the seed of each run replaces theirs.
    pub parameters: Parameters,
}

/// The rule that counts what is in flight itself, and whose statistics lag by a parameter of its own.
const OWN_COUNT: &str = "vllm-0.33";

/// Requests that no empty worker can hold to their end, out of a trace or a sample of a workload. As text, a
/// warning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfit {
    /// Workload or trace.
    pub source_name: String,
    /// How many they are.
    pub requests: u64,
    /// Of how many.
    pub of: u64,
    /// Prompt and output of the longest.
    pub longest_tokens: u64,
    /// Room for growth that an admission leaves beside it.
    pub headroom_tokens: u64,
    /// KV tokens that fit on a worker, if bounded.
    pub kv_capacity_tokens: Option<u64>,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source_name, requests, of, longest_tokens: longest, headroom_tokens: headroom, .. } = self;
        write!(f, "{requests} of {of} requests of {source_name} can run on no worker and are refused: ")?;
        match self.kv_capacity_tokens {
            Some(capacity) if longest + headroom > capacity => write!(
                f,
                "the longest needs {} KV tokens ({longest} of prompt and output, {headroom} of headroom), \
                 a worker has {capacity}",
                longest + headroom
            ),
            _ => write!(
                f,
                "the longest has {longest} tokens of prompt and output, the limit is {MAX_PROMPT_TOKENS}"
            ),
        }
    }
}

/// Warm-up of a closed run in steps.
pub const DEFAULT_WARMUP: u64 = 3_000;
/// Measured steps of a closed run.
pub const DEFAULT_STEPS: u64 = 10_000;
/// Greatest first seed: a program that reads numbers as doubles reads every seed exactly.
const MAX_FIRST_SEED: u64 = (1 << 53) - 1_000_000;
/// Latest statistics: one step's loads are kept for each step of that time.
const MAX_LATE_MS: f64 = 60_000.0;
/// Greatest affinity: keeps the longest prompt's bonus within its limit.
pub const MAX_AFFINITY: f64 = 64.0;

impl Default for Scenario {
    /// `paper-prod`, closed, 8 workers of 72 slots, 32 waiting, every policy, three seeds.
    fn default() -> Self {
        Self {
            source: Source::Workload(Workload::PaperProd),
            arrivals: Arrivals::Closed,
            workers: 8,
            slots: 72,
            pool: 32,
            policies: policy::NAMES.iter().map(|&name| name.to_owned()).collect(),
            seeds: 3,
            first_seed: 0,
            windows: 0,
            steps: Some(DEFAULT_STEPS),
            warmup: DEFAULT_WARMUP,
            kv_capacity_tokens: None,
            headroom_steps: None,
            deadline_steps: None,
            weights: Vec::new(),
            cost: StepCost::published(72),
            stats_late_ms: 0.0,
            affinity: Vec::new(),
            prefix: PrefixModel::default(),
            cold_start: false,
            threads: 0,
            noise: Noise::NONE,
            parameters: Parameters::default(),
        }
    }
}

/// Tokens that a request has in the cache at its end.
fn whole_tokens(job: &Job) -> u64 {
    u64::from(job.prompt_tokens) + u64::from(job.output_tokens)
}

impl Scenario {
    /// Checks every range and every policy name.
    ///
    /// # Errors
    /// The first argument that cannot be used.
    pub fn check(&self) -> Result<(), SimError> {
        let within = |name, found: u64, low: u64, high: u64| {
            let expected = || format!("a whole number in {low}..={high}");
            if (low..=high).contains(&found) { Ok(()) } else { Err(argument(name, expected(), found)) }
        };
        within("workers", self.workers as u64, 1, MAX_WORKERS as u64)?;
        within("slots", u64::from(self.slots), 1, u64::from(MAX_SLOTS))?;
        within("pool", self.pool as u64, 1, MAX_WAITING as u64)?;
        within("seeds", self.seeds, 1, 1_000_000)?;
        within("first-seed", self.first_seed, 0, MAX_FIRST_SEED)?;
        within("windows", u64::from(self.windows), 0, 10_000)?;
        if let Some(steps) = self.deadline_steps {
            within("deadline-steps", u64::from(steps), 0, 1 << 30)?;
        }
        within("headroom-steps", u64::from(self.headroom_steps.unwrap_or(0)), 0, 1 << 20)?;
        if let Some(steps) = self.steps {
            within("steps", steps, 1, 1 << 40)?;
        }
        if let Some(capacity) = self.kv_capacity_tokens {
            within("kv-capacity", capacity, 1, MAX_LOAD_TOKENS)?;
        }
        if !self.weights.is_empty() && self.weights.len() != self.workers {
            let expected = format!("one weight per worker ({})", self.workers);
            return Err(argument("weights", expected, self.weights.len()));
        }
        if let Some(weight) = self.weights.iter().find(|&&weight| !(weight > 0.0 && weight <= MAX_WEIGHT)) {
            return Err(argument("weights", format!("numbers above 0 and at most {MAX_WEIGHT}"), weight));
        }
        let positive = |name, found: f64, zero: bool| {
            let valid = found.is_finite() && (found > 0.0 || zero && found == 0.0);
            if valid { Ok(()) } else { Err(argument(name, "a positive number", found)) }
        };
        if let Some((_, flag, expected, found)) = self.cost.out_of_range() {
            return Err(argument(flag, expected, found));
        }
        if !(0.0..=MAX_LATE_MS).contains(&self.stats_late_ms) {
            return Err(argument("stats-late-ms", format!("ms in 0..={MAX_LATE_MS}"), self.stats_late_ms));
        }
        self.check_prefix()?;
        positive("noise-sigma", self.noise.length_sigma, true)?;
        for (name, share) in [
            ("noise-true-positive", self.noise.true_positive_rate),
            ("noise-false-positive", self.noise.false_positive_rate),
            ("noise-unpredicted", self.noise.unpredicted_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(argument(name, "a share in 0..=1", share));
            }
        }
        match (self.windows, self.arrivals) {
            (0, _) | (_, Arrivals::Trace { .. }) | (1, Arrivals::Poisson { .. }) => {}
            (windows, Arrivals::Poisson { .. }) => {
                return Err(argument("windows", "1 with a rate, where seeds make many runs", windows));
            }
            (windows, Arrivals::Closed) => {
                return Err(argument("windows", "open arrivals", windows));
            }
        }
        match (self.arrivals, &self.source) {
            (Arrivals::Closed, _) if self.steps.is_none() => {
                return Err(argument("steps", "a bound, since closed arrivals never end", "none"));
            }
            (Arrivals::Closed, _) => {}
            (Arrivals::Trace { .. }, Source::Trace(trace)) if trace.arrival_s.is_empty() => {
                let expected = "closed, or a rate (--rate), for a trace of lengths without times";
                return Err(argument("arrivals", expected, "open"));
            }
            (Arrivals::Trace { rate_scale }, Source::Trace(_)) => positive("rate-scale", rate_scale, false)?,
            (Arrivals::Trace { .. }, Source::Workload(workload)) => {
                let expected = "a rate (--rate) for open arrivals of a workload without times";
                return Err(argument("arrivals", expected, workload.name()));
            }
            (Arrivals::Poisson { per_second, requests }, _) => {
                positive("rate", per_second, false)?;
                within("requests", requests, 1, 1 << 32)?;
            }
        }
        if self.policies.is_empty() {
            let names: Vec<&str> = rules::names().collect();
            return Err(argument("policy", format!("some of {}", names.join(", ")), "none"));
        }
        for name in &self.policies {
            self.build(name, self.first_seed)?;
        }
        Ok(())
    }

    fn check_prefix(&self) -> Result<(), SimError> {
        if self.affinity.is_empty() {
            return Ok(());
        }
        if let Some(weight) = self.affinity.iter().find(|weight| !(0.0..=MAX_AFFINITY).contains(*weight)) {
            return Err(argument("affinity", format!("numbers in 0..={MAX_AFFINITY}"), weight));
        }
        if self.prefix.cache_blocks == 0 {
            return Err(argument("prefix-cache-blocks", "at least 1", 0));
        }
        let expected = "a trace with prefix hashes (hash_ids)";
        if self.any_job(|job| job.prefix_blocks.is_some()) {
            Ok(())
        } else {
            Err(argument("affinity", expected, self.source.name()))
        }
    }

    /// The cost of prefill that holds.
    #[must_use]
    pub fn prefill_us_per_token(&self) -> f64 {
        self.cost.prefill_us(self.kv_capacity_tokens.is_some())
    }

    /// The step from which on a closed run is in its second half.
    pub(super) fn middle_step(&self) -> u64 {
        self.warmup.saturating_add(self.steps.unwrap_or(u64::MAX) / 2)
    }

    /// Whether an empty worker could hold the request to its end, with the headroom that the router keeps.
    pub(super) fn fits(&self, job: &Job) -> bool {
        let whole = whole_tokens(job);
        // An evicted request comes back with the tokens it has generated; that must still be a valid prompt.
        whole <= u64::from(MAX_PROMPT_TOKENS)
            && self
                .kv_capacity_tokens
                .is_none_or(|capacity| whole + u64::from(self.headroom_steps.unwrap_or(0)) <= capacity)
    }

    /// The requests of the source that every run refuses, if there are any.
    #[must_use]
    pub fn unfit(&self) -> Option<Unfit> {
        let jobs = self.source.library();
        let unfit = || jobs.iter().filter(|job| !self.fits(job));
        Some(Unfit {
            longest_tokens: unfit().map(whole_tokens).max()?,
            requests: unfit().count() as u64,
            of: jobs.len() as u64,
            source_name: self.source.name().to_owned(),
            headroom_tokens: u64::from(self.headroom_steps.unwrap_or(0)),
            kv_capacity_tokens: self.kv_capacity_tokens,
        })
    }

    pub(crate) fn build(&self, name: &str, seed: u64) -> Result<Rule, SimError> {
        let mut parameters = self.parameters.clone().seed(seed);
        if self.stats_late_ms == 0.0 {
            return rules::build(name, &parameters, self.workers);
        }
        if rules::find(name)?.name != OWN_COUNT {
            return rules::build(name, &parameters, self.workers)?.shown_ranks(&parameters);
        }
        if let Some(capacity) = Capacity::of(self) {
            let running = capacity.running_per_worker * self.workers as f64;
            let step_ms = 1e3 * running / (capacity.output_tokens * capacity.requests_per_s);
            let steps = (self.stats_late_ms / step_ms).ceil().max(1.0);
            parameters.baseline = parameters.baseline.stats_refresh_steps(steps as u32);
        }
        rules::build(name, &parameters, self.workers)
    }

    /// Whether a request of the trace is so; a workload has no hashes of prefixes and no sessions.
    fn any_job(&self, is_so: impl Fn(&Job) -> bool) -> bool {
        match &self.source {
            Source::Trace(trace) => trace.jobs.iter().any(is_so),
            Source::Workload(_) => false,
        }
    }

    /// What rules of this scenario are not told although they decide by it, a sentence each.
    #[must_use]
    pub fn untold(&self) -> Vec<String> {
        let rules: Vec<&RuleInfo> = self
            .policies
            .iter()
            .filter_map(|name| rules::find(name).ok())
            .filter(|rule| !rule.in_library)
            .collect();
        let needing = |need: Need| {
            let names = rules.iter().filter(|rule| rule.needs.contains(&need)).map(|rule| rule.name);
            names.collect::<Vec<_>>().join(", ")
        };
        let source = self.source.name();
        let mut sentences = Vec::new();
        let mut say = |needing: String, is_told: bool, sentence: String| {
            if !needing.is_empty() && !is_told {
                sentences.push(format!("{needing}: {sentence}"));
            }
        };
        let has_prefixes = self.any_job(|job| job.prefix_blocks.is_some());
        say(
            needing(Need::PrefixHashes),
            has_prefixes,
            format!("{source} has no prefix hashes (hash_ids), so that no prefix counts"),
        );
        say(
            needing(Need::Sessions),
            self.any_job(|job| job.session.is_some()),
            format!("{source} has no sessions"),
        );
        say(
            needing(Need::KvCapacity),
            self.kv_capacity_tokens.is_some(),
            "KV caches are not bounded (--kv-capacity), so that their use does not count".to_owned(),
        );
        say(
            needing(Need::PrefixHashes),
            !has_prefixes || !self.affinity.is_empty(),
            "what a cached prefix saves is not simulated (--affinity 0)".to_owned(),
        );
        sentences
    }
}

impl Setup {
    /// The cluster of a scenario; where prefix caches are simulated prompts are computed on the ranks.
    pub(super) fn of(scenario: &Scenario, weights: &[f64], with_caches: bool, seed: u64) -> Self {
        let on_ranks = with_caches || scenario.cost.prompts == Prompts::Worker;
        Self {
            weights: weights.to_vec(),
            slots: scenario.slots,
            kv_capacity_tokens: scenario.kv_capacity_tokens,
            cost: scenario.cost,
            prompt_us_per_token: if on_ranks { scenario.prefill_us_per_token() } else { 0.0 },
            cache_blocks: scenario.prefix.blocks_of(scenario.source.block_tokens()),
            length_sigma: scenario.noise.length_sigma,
            seed,
        }
    }
}

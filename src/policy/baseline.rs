//! The policies of engines in use, to stand beside: their rules in our own words.
//!
//! | name | an arriving request is bound to |
//! |---|---|
//! | `random` | a rank drawn at random |
//! | `round-robin` | the next rank in turn |
//! | `power-of-two` | of two ranks drawn at random the one with fewer KV tokens, running and queued |
//! | `jsq` | the rank with fewest requests, running and queued |
//! | `vllm-legacy` | the rank with least `4 * queued + running` requests |
//! | `vllm-0.33` | that idea with statistics that lag, see [`BaselineParameters::stats_refresh_steps`] |
//! | `sglang-total-tokens` | the rank with fewest KV tokens in use, queued and just dispatched |
//!
//! These bind on arrival ([`Policy::bind`]); a step then serves each rank first come first served, so a slot
//! stays free where nobody queues while others wait elsewhere. Two decide from the common pool:
//!
//! | name | a step |
//! |---|---|
//! | `least-kv` | the least-loaded worker with a free slot takes the earliest request, again and again |
//! | `longest-first` | the earliest requests, one a free slot, longest first, to the least (load, requests) |
//!
//! All fill every slot that somebody may take. A bonus, where a request has one, goes before arrival order.
//! Ties go to the lowest rank unless the rule says otherwise. A rank that takes nobody new is never chosen;
//! when none takes anybody the request stays in the common pool. A request that arrives with a rank keeps it.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::assignment::Assignment;
use crate::backend::ascend::result::Counters;
use crate::batch::{Batch, Request};
#[cfg(feature = "record")]
use crate::policy::Parameters;
use crate::policy::rule_policy::RulePolicy;
use crate::policy::{Decided, Policy, PolicyError, Rank, Recipe, Submissions, Ticket};
use crate::rule::{Needs, Order, Plan, ProfileSpec, Rule, View};
use crate::score::Profile;

/// Parameters of the baselines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BaselineParameters {
    /// Steps between two statistics of the ranks as `vllm-0.33` sees them, 1..=1000000; default 2: that
    /// engine publishes every 100 ms, and the published steps last about 60 ms.
    pub stats_refresh_steps: u32,
}

impl Default for BaselineParameters {
    fn default() -> Self {
        Self { stats_refresh_steps: 2 }
    }
}

setters!(BaselineParameters { stats_refresh_steps: u32 });

/// First come, first served: every length is worth the same, so arrival decides.
#[derive(Clone, Copy, Debug)]
struct FirstCome {
    needs: Needs,
}

impl Rule for FirstCome {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn begin(&mut self, _batch: &Batch<'_>, _load_offsets: &mut Vec<i64>) -> Plan {
        Plan::default()
    }

    fn profile(&self, _view: &View<'_>, _class: Option<&[f32]>, _profile: &mut Profile) {}

    fn profile_spec(&self, _batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        Some(ProfileSpec::Margin { slope: 0, weight: 0 })
    }
}

/// The batch router of TensorRT-LLM: it takes as many of the earliest requests as slots are free, and places
/// them longest first (then earliest) on the worker with least (load, requests, index). Where somebody among
/// them fits nowhere, the next ones step in. The score is the length.
#[derive(Clone, Copy, Debug)]
struct LongestFirst;

impl Rule for LongestFirst {
    fn begin(&mut self, _batch: &Batch<'_>, _load_offsets: &mut Vec<i64>) -> Plan {
        Plan::new().order(Order::LongestFirst { fewest_requests: true })
    }

    fn profile(&self, _view: &View<'_>, _class: Option<&[f32]>, profile: &mut Profile) {
        profile.slope = 1;
    }
}

pub(super) fn least_kv(made: Recipe<'_>) -> Box<dyn Policy> {
    Box::new(made.policy(FirstCome { needs: Needs::new() }))
}

pub(super) fn longest_first(made: Recipe<'_>) -> Box<dyn Policy> {
    Box::new(made.policy(LongestFirst))
}

pub(super) fn random(made: Recipe<'_>) -> Box<dyn Policy> {
    let rng = ChaCha8Rng::seed_from_u64(made.parameters.seed);
    binding(made, Choice::Random(rng))
}

pub(super) fn round_robin(made: Recipe<'_>) -> Box<dyn Policy> {
    binding(made, Choice::RoundRobin { next: 0 })
}

pub(super) fn power_of_two(made: Recipe<'_>) -> Box<dyn Policy> {
    let rng = ChaCha8Rng::seed_from_u64(made.parameters.seed);
    binding(made, Choice::PowerOfTwo(rng))
}

pub(super) fn jsq(made: Recipe<'_>) -> Box<dyn Policy> {
    binding(made, Choice::FewestRequests)
}

pub(super) fn vllm_legacy(made: Recipe<'_>) -> Box<dyn Policy> {
    binding(made, Choice::QueuedFourfold)
}

pub(super) fn vllm_0_33(made: Recipe<'_>) -> Box<dyn Policy> {
    let lagging = Lagging::new(made.parameters.baseline.stats_refresh_steps);
    binding(made, Choice::Lagging(lagging))
}

pub(super) fn sglang_total_tokens(made: Recipe<'_>) -> Box<dyn Policy> {
    binding(made, Choice::TotalTokens(Dispatched::default()))
}

fn binding(made: Recipe<'_>, choice: Choice) -> Box<dyn Policy> {
    let rule = FirstCome { needs: Needs::new().binds_on_arrival(true) };
    Box::new(Binding { choice, queues: made.policy(rule) })
}

/// Binds on arrival, then serves each rank first come first served.
struct Binding {
    choice: Choice,
    queues: RulePolicy<FirstCome>,
}

/// How a binding policy chooses.
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
enum Choice {
    Random(ChaCha8Rng),
    RoundRobin { next: usize },
    PowerOfTwo(ChaCha8Rng),
    FewestRequests,
    QueuedFourfold,
    Lagging(Lagging),
    TotalTokens(Dispatched),
}

impl Policy for Binding {
    fn name(&self) -> &'static str {
        self.queues.name()
    }

    fn needs(&self) -> Needs {
        self.queues.needs()
    }

    fn bind(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<crate::WorkerIndex> {
        if let Some(rank) = arrival.rank {
            return Some(rank);
        }
        self.choice.choose(arrival, ranks).map(crate::WorkerIndex::at)
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        self.choice.step();
        self.queues.decide(batch, out);
    }

    fn rule(&mut self) -> Option<&mut dyn Rule> {
        self.queues.rule()
    }

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) -> Result<(), PolicyError> {
        self.choice.step();
        self.queues.decide_by_reference(batch, out)
    }

    fn score_into(&mut self, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) -> bool {
        self.queues.score_into(batch, score_tokens)
    }

    fn describe(&self) -> String {
        self.queues.describe()
    }

    fn dense_columns(&self) -> (u64, u64) {
        self.queues.dense_columns()
    }

    #[cfg(feature = "record")]
    fn built_from(&self) -> Option<&Parameters> {
        self.queues.built_from()
    }

    #[cfg(feature = "record")]
    fn memory(&self) -> Vec<u8> {
        crate::bytes::to_bytes(&self.choice)
    }

    #[cfg(feature = "record")]
    fn recall(&mut self, memory: &[u8]) -> bool {
        crate::bytes::from_bytes(memory).map(|choice| self.choice = choice).is_some()
    }

    fn device(&mut self) -> Option<&mut dyn Submissions> {
        self.queues.device()?;
        Some(self)
    }
}

impl Submissions for Binding {
    fn submit(&mut self, batch: &Batch<'_>) -> Ticket {
        self.queues.submit(batch)
    }

    fn poll(&self, ticket: &Ticket) -> bool {
        self.queues.poll(ticket)
    }

    fn collect(
        &mut self,
        ticket: Ticket,
        batch: &Batch<'_>,
        timeout: Duration,
        out: &mut Assignment,
    ) -> Decided {
        self.choice.step();
        self.queues.collect(ticket, batch, timeout, out)
    }

    fn discard(&mut self, ticket: Ticket) {
        self.queues.discard(ticket);
    }

    fn counters(&self) -> Option<Counters> {
        self.queues.counters()
    }
}

fn accepting(ranks: &[Rank]) -> impl Iterator<Item = usize> + Clone {
    (0..ranks.len()).filter(|&rank| ranks[rank].worker.accepting)
}

fn requests(rank: &Rank) -> u64 {
    u64::from(rank.worker.running) + u64::from(rank.queued_requests)
}

impl Choice {
    fn choose(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<usize> {
        let open = accepting(ranks).count();
        if open == 0 {
            return None;
        }
        let nth = |index: usize| accepting(ranks).nth(index);
        match self {
            Self::Random(rng) => nth(rng.random_range(0..open)),
            Self::RoundRobin { next } => {
                let rank = accepting(ranks).find(|&rank| rank >= *next).or_else(|| nth(0))?;
                *next = rank + 1;
                Some(rank)
            }
            Self::PowerOfTwo(rng) => {
                let first = rng.random_range(0..open);
                if open == 1 {
                    return nth(0);
                }
                // Another one: the draw leaves the first out.
                let second = (first + rng.random_range(1..open)) % open;
                let (first, second) = (nth(first)?, nth(second)?);
                let tokens = |rank: usize| ranks[rank].worker.load_tokens + ranks[rank].queued_tokens;
                Some(if tokens(second) < tokens(first) { second } else { first })
            }
            Self::FewestRequests => accepting(ranks).min_by_key(|&rank| requests(&ranks[rank])),
            Self::QueuedFourfold => accepting(ranks).min_by_key(|&rank| {
                4 * u64::from(ranks[rank].queued_requests) + u64::from(ranks[rank].worker.running)
            }),
            Self::Lagging(lagging) => lagging.choose(arrival, ranks),
            Self::TotalTokens(dispatched) => {
                dispatched.look(ranks);
                let rank = accepting(ranks).min_by_key(|&rank| {
                    let sent = dispatched.since[rank];
                    let tokens = ranks[rank].worker.kv_used_tokens + ranks[rank].queued_tokens + sent.tokens;
                    (tokens, requests(&ranks[rank]) + sent.requests)
                })?;
                dispatched.send(rank, arrival);
                Some(rank)
            }
        }
    }

    fn step(&mut self) {
        if let Self::Lagging(lagging) = self {
            lagging.steps_to_refresh = lagging.steps_to_refresh.saturating_sub(1);
        }
    }
}

/// What was sent to each rank and is not in its view yet: forgotten as soon as the view of the rank changes.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Dispatched {
    since: Vec<Sent>,
}

#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Sent {
    /// Load, KV use, running, queued requests and queued tokens as last seen.
    seen: (u64, u64, u32, u32, u64),
    requests: u64,
    tokens: u64,
}

impl Dispatched {
    fn look(&mut self, ranks: &[Rank]) {
        self.since.resize(ranks.len(), Sent::default());
        for (sent, rank) in self.since.iter_mut().zip(ranks) {
            let worker = &rank.worker;
            let queued = (rank.queued_requests, rank.queued_tokens);
            let seen = (worker.load_tokens, worker.kv_used_tokens, worker.running, queued.0, queued.1);
            if sent.seen != seen {
                *sent = Sent { seen, ..Sent::default() };
            }
        }
    }

    fn send(&mut self, rank: usize, request: &Request) {
        self.since[rank].requests += 1;
        self.since[rank].tokens += u64::from(request.prompt_tokens);
    }
}

/// vLLM 0.33 with one client:
/// `argmin max(in flight, queued + running) + (queued > 0 ? 6 * queued * max(0, kv_usage - 0.5) : 0)`.
///
/// Queued, running and `kv_usage` are a snapshot, taken again once enough steps have gone by; in flight is
/// what the only client knows of its own requests: bound and not finished, as of now. The scan begins one
/// rank further each time, so ties rotate.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Lagging {
    stats_refresh_steps: u32,
    steps_to_refresh: u32,
    snapshot: Vec<Statistics>,
    dispatched: Dispatched,
    start: usize,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Statistics {
    queued: u32,
    running: u32,
    kv_usage: f64,
}

impl Lagging {
    fn new(stats_refresh_steps: u32) -> Self {
        Self {
            stats_refresh_steps,
            steps_to_refresh: 0,
            snapshot: Vec::new(),
            dispatched: Dispatched::default(),
            start: 0,
        }
    }

    fn choose(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<usize> {
        if self.steps_to_refresh == 0 || self.snapshot.len() != ranks.len() {
            self.steps_to_refresh = self.stats_refresh_steps;
            self.snapshot.clear();
            self.snapshot.extend(ranks.iter().map(|rank| Statistics {
                queued: rank.queued_requests,
                running: rank.worker.running,
                kv_usage: match rank.worker.kv_capacity_tokens {
                    Some(capacity) => rank.worker.kv_used_tokens as f64 / capacity.max(1) as f64,
                    None => 0.0,
                },
            }));
        }
        self.dispatched.look(ranks);
        let score = |rank: usize| {
            let Statistics { queued, running, kv_usage } = self.snapshot[rank];
            let in_flight = requests(&ranks[rank]) + self.dispatched.since[rank].requests;
            let counted = in_flight.max(u64::from(queued) + u64::from(running)) as f64;
            counted + 6.0 * f64::from(queued) * (kv_usage - 0.5).max(0.0)
        };
        let mut best: Option<(f64, usize)> = None;
        for offset in 0..ranks.len() {
            let rank = (self.start + offset) % ranks.len();
            if ranks[rank].worker.accepting && best.is_none_or(|(least, _)| score(rank) < least) {
                best = Some((score(rank), rank));
            }
        }
        let (_, rank) = best?;
        self.start = (self.start + 1) % ranks.len();
        self.dispatched.send(rank, arrival);
        Some(rank)
    }
}

#[cfg(test)]
mod tests;

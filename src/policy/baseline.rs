//! The policies of engines in use, to stand beside: their rules in our own words.
//!
//! | name | an arriving request is bound to |
//! |---|---|
//! | `random` | a rank drawn at random |
//! | `round-robin` | the next rank in turn |
//! | `power-of-two` | of two ranks drawn at random the one with fewer KV tokens, running and queued |
//! | `jsq` | the rank with fewest requests, running and queued |
//! | `vllm-legacy` | the rank with least `4 * queued + running` requests |
//! | `vllm-0.33` | the same idea with statistics that lag behind, see [`BaselineParameters::stats_refresh_steps`] |
//! | `sglang-total-tokens` | the rank with fewest KV tokens in use, queued and just dispatched |
//!
//! These bind on arrival ([`Policy::bind`]); a step then serves each rank first come first served, so a slot stays free where nobody queues
//! while others wait elsewhere. Two decide from the common pool:
//!
//! | name | a step |
//! |---|---|
//! | `least-kv` | the least-loaded worker with a free slot takes the earliest request, until no slot is free |
//! | `longest-first` | as many of the earliest requests as slots are free, longest first, each to the worker with least (load, requests) |
//!
//! All fill every slot that somebody may take. A bonus, where a request has one, goes before arrival order. Ties go to the lowest rank
//! unless the rule says otherwise. A rank that takes nobody new is never chosen; when none takes anybody the request stays in the common
//! pool. A request that arrives with a rank keeps it.

use std::cmp::Reverse;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::assignment::{Admission, Assignment};
use crate::backend::Chosen;
use crate::backend::ascend::result::Counters;
use crate::backend::cpu::Kernels;
use crate::backend::loads::Loads;
use crate::batch::{Batch, Request};
use crate::policy::rule_policy::RulePolicy;
use crate::policy::{
    Decided, Needs, Order, Overdue, Plan, Policy, PolicyError, ProfileSpec, Rank, Repair, Rule, Ticket, View,
};
use crate::pool::PoolSlot;
use crate::score::{Age, Profile};

/// Parameters of the baselines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaselineParameters {
    /// Steps between two statistics of the ranks as `vllm-0.33` sees them, 1..=1000000; default 2: that engine publishes
    /// every 100 ms, and the published steps last about 60 ms.
    pub stats_refresh_steps: u32,
}

impl Default for BaselineParameters {
    fn default() -> Self {
        Self { stats_refresh_steps: 2 }
    }
}

impl BaselineParameters {
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        PolicyError::check("stats_refresh_steps", f64::from(self.stats_refresh_steps), 1.0, 1e6)
    }
}

/// What every plan of this file has in common: no aging, no deadline of its own, no second look.
pub(crate) const PLAIN: Plan = Plan {
    order: Order::LeastLoaded,
    nested: false,
    unit: 1,
    age: Age { linear: 0.0, quadratic: 0.0 },
    overdue: Overdue { steps: None, ordinary_tokens: 0, giant_steps: None },
    refill_tokens: 0,
    envelope_floor: 0,
    follows_envelope: true,
    longest_first: false,
    repair: Repair { rounds: 0, tolerance_tokens: None, swap: None, one_each: false },
    passed_over: None,
};

/// First come, first served: every length is worth the same, so arrival decides.
#[derive(Clone, Copy, Debug)]
struct FirstCome;

impl Rule for FirstCome {
    fn begin(&mut self, _batch: &Batch<'_>, _lift: &mut Vec<i64>) -> Plan {
        PLAIN
    }

    fn profile(&self, _view: &View<'_>, _class: Option<&[f32]>, _profile: &mut Profile) {}

    fn profile_spec(&self, _batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        Some(ProfileSpec::Margin { slope: 0, weight: 0 })
    }
}

/// First come, first served, from the common pool or from what a binding policy made of it.
fn first_come(name: &'static str, needs: Needs, backend: Chosen) -> RulePolicy<FirstCome> {
    RulePolicy { name, needs, rule: FirstCome, backend }
}

/// Builds a baseline by name.
pub(super) fn build(
    name: &'static str,
    (parameters, seed): (BaselineParameters, u64),
    needs: Needs,
    kernels: &'static Kernels,
    backend: Chosen,
) -> Option<Box<dyn Policy>> {
    let choice = match name {
        "random" => Choice::Random(ChaCha8Rng::seed_from_u64(seed)),
        "round-robin" => Choice::RoundRobin { next: 0 },
        "power-of-two" => Choice::PowerOfTwo(ChaCha8Rng::seed_from_u64(seed)),
        "jsq" => Choice::FewestRequests,
        "vllm-legacy" => Choice::QueuedFourfold,
        "vllm-0.33" => Choice::Lagging(Lagging::new(parameters.stats_refresh_steps)),
        "sglang-total-tokens" => Choice::TotalTokens(Dispatched::default()),
        "least-kv" => return Some(Box::new(first_come(name, needs, backend))),
        "longest-first" => return Some(Box::new(LongestFirst::new(needs, kernels))),
        _ => return None,
    };
    Some(Box::new(Binding {
        choice,
        queues: first_come(name, Needs { binds_on_arrival: true, ..needs }, backend),
    }))
}

/// Binds on arrival, then serves each rank first come first served.
struct Binding {
    choice: Choice,
    queues: RulePolicy<FirstCome>,
}

/// How a binding policy chooses.
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

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        self.choice.step();
        self.queues.decide_by_reference(batch, out);
    }

    fn describe(&self) -> String {
        self.queues.describe()
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Ticket {
        self.queues.submit(batch)
    }

    fn poll(&mut self, ticket: &Ticket) -> bool {
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

    fn device_counters(&self) -> Option<Counters> {
        self.queues.device_counters()
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
struct Dispatched {
    since: Vec<Sent>,
}

#[derive(Clone, Copy, Debug, Default)]
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
/// Queued, running and `kv_usage` are a snapshot, taken again once enough steps have gone by; in flight is what the only client
/// knows of its own requests: bound and not finished, as of now. The scan begins one rank further each time, so ties rotate.
#[derive(Clone, Debug)]
struct Lagging {
    stats_refresh_steps: u32,
    steps_to_refresh: u32,
    snapshot: Vec<Statistics>,
    dispatched: Dispatched,
    start: usize,
}

#[derive(Clone, Copy, Debug)]
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

/// The batch router of TensorRT-LLM: it takes as many of the earliest requests as slots are free, and places them longest first (then
/// earliest) on the worker with least (load, requests, index). Where somebody among them fits nowhere, the next ones step in.
#[derive(Clone, Debug)]
struct LongestFirst {
    needs: Needs,
    loads: Loads,
    /// (load, requests, worker) of open workers, descending: the next one is the last.
    open: Vec<(i64, u64, usize)>,
    admitted: Vec<bool>,
    /// (tokens, arrival, slot).
    taken: Vec<(Reverse<u32>, u64, PoolSlot)>,
}

impl LongestFirst {
    fn new(needs: Needs, kernels: &'static Kernels) -> Self {
        Self {
            needs,
            loads: Loads::new(kernels.loads),
            open: Vec::new(),
            admitted: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn place(&mut self, batch: &Batch<'_>, slot: PoolSlot, score_tokens: f64, out: &mut Assignment) -> bool {
        let request = batch.waiting().request(slot);
        let Some(at) = self.open.iter().rposition(|&(_, _, worker)| self.may_take(batch, request, worker))
        else {
            return false;
        };
        let (_, requests, worker) = self.open.remove(at);
        let tokens = request.prompt_tokens;
        self.loads.admit(worker, i64::from(tokens));
        self.admitted[slot.index()] = true;
        out.admitted.push(Admission {
            id: request.id,
            slot,
            worker: crate::WorkerIndex::at(worker),
            prompt_tokens: tokens,
            score_tokens,
        });
        if self.loads.open_slots(worker) > 0 {
            let key = (self.loads.cost(worker), requests + 1, worker);
            self.open.insert(self.open.partition_point(|other| *other > key), key);
        }
        true
    }

    fn may_take(&self, batch: &Batch<'_>, request: &Request, worker: usize) -> bool {
        i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker)
            && batch.eligible(request, worker)
    }
}

impl Policy for LongestFirst {
    fn name(&self) -> &'static str {
        "longest-first"
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        out.clear();
        self.loads.prepare(batch);
        self.loads.load(batch, &PLAIN, false);
        let pool = batch.waiting();
        self.admitted.clear();
        self.admitted.resize(pool.slot_bound(), false);
        self.open.clear();
        for (index, worker) in batch.workers().iter().enumerate() {
            if worker.open_slots() > 0 {
                self.open.push((self.loads.cost(index), u64::from(worker.running), index));
            }
        }
        self.open.sort_unstable_by(|a, b| b.cmp(a));

        if pool.any_deadline() {
            self.taken.clear();
            for (slot, request, waited) in pool.iter() {
                if request.deadline_steps.is_some_and(|steps| waited >= steps) {
                    self.taken.push((Reverse(waited), pool.arrival(slot), slot));
                }
            }
            self.place_taken(batch, |_| 0.0, out);
        }
        loop {
            let slots: i64 = self.open.iter().map(|&(_, _, worker)| self.loads.open_slots(worker)).sum();
            self.taken.clear();
            for (slot, request, _) in pool.iter() {
                if self.taken.len() as i64 == slots {
                    break;
                }
                if !self.admitted[slot.index()]
                    && self.open.iter().any(|&(_, _, worker)| self.may_take(batch, request, worker))
                {
                    self.taken.push((Reverse(request.prompt_tokens), pool.arrival(slot), slot));
                }
            }
            if self.taken.is_empty() {
                break;
            }
            self.place_taken(batch, f64::from, out);
        }
        out.measure(batch);
    }

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        crate::reference::longest_first(batch, out);
    }
}

impl LongestFirst {
    /// Places what was taken in its order; the score is made of the first key.
    fn place_taken(&mut self, batch: &Batch<'_>, score_tokens: impl Fn(u32) -> f64, out: &mut Assignment) {
        let mut taken = std::mem::take(&mut self.taken);
        taken.sort_unstable();
        for &(Reverse(key), _, slot) in &taken {
            self.place(batch, slot, score_tokens(key), out);
        }
        self.taken = taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Worker;
    use crate::policy::{Parameters, build};
    use crate::pool::Pool;

    fn rank(load: u64, running: u32, queued_requests: u32, queued_tokens: u64) -> Rank {
        Rank { worker: Worker::new(load, running, 4), queued_requests, queued_tokens }
    }

    fn policy(name: &str) -> Box<dyn Policy> {
        build(name, &Parameters { seed: 3, ..Parameters::default() }).expect("a policy")
    }

    const BINDING: [&str; 7] =
        ["random", "round-robin", "power-of-two", "jsq", "vllm-legacy", "vllm-0.33", "sglang-total-tokens"];

    #[test]
    fn a_bind_avoids_ranks_that_take_nobody_and_keeps_a_given_rank() {
        let mut ranks = vec![rank(0, 0, 0, 0), rank(900, 9, 9, 900), rank(0, 0, 0, 0)];
        ranks[0].worker.accepting = false;
        ranks[2].worker.accepting = false;
        for name in BINDING {
            let mut policy = policy(name);
            assert!(policy.needs().binds_on_arrival, "{name}");
            for id in 0..20 {
                assert_eq!(policy.bind(&Request::new(id, 10), &ranks), Some(1.into()), "{name}");
            }
            assert_eq!(policy.bind(&Request::new(99, 10).bound_to(2), &ranks), Some(2.into()), "{name}");
            let draining = [ranks[0], ranks[2]];
            assert_eq!(policy.bind(&Request::new(99, 10), &draining), None, "{name}");
            assert_eq!(policy.bind(&Request::new(99, 10), &[]), None, "{name}");
        }
    }

    #[test]
    fn each_rule_binds_as_its_formula_says() {
        // requests 7, 6, 9; 4 * queued + running 13, 24, 9; tokens 700, 900, 800
        let ranks = [rank(600, 5, 2, 100), rank(300, 0, 6, 600), rank(800, 9, 0, 0)];
        let bind = |name: &str| policy(name).bind(&Request::new(1, 250), &ranks);
        assert_eq!(bind("jsq"), Some(1.into()));
        assert_eq!(bind("vllm-legacy"), Some(2.into()));
        assert_eq!(bind("sglang-total-tokens"), Some(0.into()));
        assert_eq!(bind("vllm-0.33"), Some(1.into()));
        let mut turns = policy("round-robin");
        let order: Vec<_> = (0..5).map(|id| turns.bind(&Request::new(id, 5), &ranks)).collect();
        assert_eq!(order, [Some(0.into()), Some(1.into()), Some(2.into()), Some(0.into()), Some(1.into())]);
        // Of any two ranks the heavier one is never taken, so the heaviest is taken by nobody.
        let mut two = policy("power-of-two");
        let mut seen = [0; 3];
        for id in 0..300 {
            seen[two.bind(&Request::new(id, 5), &ranks).expect("a rank").index()] += 1;
        }
        assert!(seen[1] == 0 && seen[0] > 150 && seen[2] > 50, "{seen:?}");
        let mut random = policy("random");
        let mut seen = [0; 3];
        for id in 0..300 {
            seen[random.bind(&Request::new(id, 5), &ranks).expect("a rank").index()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 60), "{seen:?}");
    }

    #[test]
    fn a_seed_repeats_its_draws() {
        let ranks = [rank(1, 0, 0, 0), rank(1, 0, 0, 0), rank(1, 0, 0, 0)];
        for name in ["random", "power-of-two"] {
            let (mut one, mut other) = (policy(name), policy(name));
            for id in 0..50 {
                let request = Request::new(id, 1);
                assert_eq!(one.bind(&request, &ranks), other.bind(&request, &ranks));
            }
        }
    }

    #[test]
    fn what_was_dispatched_counts_until_the_view_shows_it() {
        let ranks = [rank(100, 1, 0, 0), rank(150, 1, 0, 0)];
        let mut policy = policy("sglang-total-tokens");
        assert_eq!(policy.bind(&Request::new(1, 80), &ranks), Some(0.into()));
        // The view is the old one: 100 + 80 against 150.
        assert_eq!(policy.bind(&Request::new(2, 10), &ranks), Some(1.into()));
        assert_eq!(policy.bind(&Request::new(3, 30), &ranks), Some(1.into()));
        assert_eq!(policy.bind(&Request::new(4, 30), &ranks), Some(0.into()));
        // Now it shows what rank 0 got, and the count begins again there only.
        let ranks = [rank(100, 1, 2, 10), rank(150, 1, 0, 0)];
        assert_eq!(policy.bind(&Request::new(5, 90), &ranks), Some(0.into()));
        assert_eq!(policy.bind(&Request::new(6, 5), &ranks), Some(1.into()));
    }

    #[test]
    fn lagging_statistics_are_refreshed_after_their_steps() {
        let full = |queued, used| {
            let mut rank = rank(used, 4, queued, 50);
            rank.worker.kv_capacity_tokens = Some(1000);
            rank
        };
        let mut policy = policy("vllm-0.33");
        // Rank 0: max(6, 6) + 6 * 2 * (0.9 - 0.5) = 10.8. Rank 1: 4 + 4 = 8, half full: no surcharge.
        assert_eq!(policy.bind(&Request::new(1, 5), &[full(2, 900), full(4, 400)]), Some(1.into()));
        // Rank 1 fills up and rank 0 empties, but the snapshot still says 10.8 against max(9, 8).
        let now = [full(0, 100), full(5, 900)];
        assert_eq!(policy.bind(&Request::new(2, 5), &now), Some(1.into()));
        let pool = Pool::new();
        let workers = [now[0].worker, now[1].worker];
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        for _ in 0..2 {
            policy.decide(&batch, &mut Assignment::new());
        }
        assert_eq!(policy.bind(&Request::new(3, 5), &now), Some(0.into()));
        // Equal ranks: the scan starts one further each time.
        let mut policy = super::tests::policy("vllm-0.33");
        let mut equal = [rank(5, 1, 0, 0); 3];
        let order: Vec<_> = (0..3)
            .map(|id| {
                let to = policy.bind(&Request::new(id, 5), &equal).expect("a rank");
                equal[to.index()].queued_requests += 1;
                to
            })
            .collect();
        assert_eq!(order, [0, 1, 2]);
    }

    fn decide(name: &str, workers: &[Worker], requests: &[Request]) -> Vec<(u64, u32)> {
        let pool = Pool::from_requests(requests).expect("valid");
        let batch = Batch::draft(workers, &pool).check().expect("valid");
        let mut out = Assignment::new();
        policy(name).decide(&batch, &mut out);
        out.admitted.iter().map(|admission| (admission.id.0, admission.worker.0)).collect()
    }

    #[test]
    fn steps_serve_first_come_or_longest_first() {
        let workers = [Worker::new(500, 5, 1), Worker::new(300, 3, 2), Worker::new(0, 0, 0)];
        let requests: Vec<_> =
            [10, 250, 40, 900].iter().zip(1..).map(|(&tokens, id)| Request::new(id, tokens)).collect();
        // 300 takes 1, 310 takes 2, then 560 is full and 500 takes 3.
        assert_eq!(decide("least-kv", &workers, &requests), [(1, 1), (2, 1), (3, 0)]);
        // Three slots: the earliest three, 250 first. 900 came too late.
        assert_eq!(decide("longest-first", &workers, &requests), [(2, 1), (3, 0), (1, 1)]);
        let equal = [Worker::new(500, 5, 1), Worker::new(500, 3, 1)];
        assert_eq!(decide("longest-first", &equal, &requests), [(2, 1), (1, 0)]);
        // Bound requests wait for their own rank although another slot is free.
        let bound: Vec<_> = (1..4).map(|id| Request::new(id, 10).bound_to(0)).collect();
        assert_eq!(decide("jsq", &workers, &bound), [(1, 0)]);
    }
}

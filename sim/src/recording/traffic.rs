//! What a log says of the traffic and of the cluster: a trace, and a scenario to simulate it on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use balanceroute::record::Replay;
use balanceroute::router::{Answer, Call};
use balanceroute::{Request, RequestId, Router, WorkerConfig, WorkerId};

use crate::cluster::{Arrivals, Scenario, Source};
use crate::error::SimError;
use crate::job::Job;
use crate::traces::Trace;

/// The traffic of a log, and the cluster that had it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// Requests in order of arrival. Those that waited or ran as the log begins come first, at its beginning:
    /// with what they had left to generate.
    pub trace: Trace,
    /// The policy that decided.
    pub policy: String,
    /// Workers, by their configurations as the log ends.
    pub workers: Vec<WorkerConfig>,
    /// Requests left out: given up or returned before they ran, or running as the log ends, so that what they
    /// would have generated is not known.
    pub left_out: u64,
    /// Of those that are in, given up while they ran: they end where they did.
    pub given_up: u64,
}

/// A request that has come and not ended yet.
struct Open {
    /// None before the clock was read.
    arrival_ms: Option<u64>,
    prompt_tokens: u32,
    /// Tokens that it had generated when it came; none of its output here.
    generated_tokens: u32,
    order: u64,
}

#[derive(Default)]
struct Requests {
    open: HashMap<RequestId, Open>,
    ended: Vec<(Open, u32)>,
    left_out: u64,
    given_up: u64,
    came: u64,
}

/// Reads a log for its traffic and its cluster.
///
/// # Errors
/// A log that cannot be read or replayed, or in which no request has ended.
pub fn recorded(log: &Path) -> Result<Recorded, SimError> {
    let mut replay = Replay::open(log)?;
    let policy = replay.header().policy.clone();
    let mut requests = Requests::default();
    requests.begin(replay.router());
    let (mut now_ms, mut first_ms) = (None, None);
    loop {
        // What one has generated that is given up is in no answer: the router knows, before it goes.
        let given_up = match replay.peek()? {
            Some(&(Call::Abort { id, .. } | Call::AbortDispatch { id, .. })) => Some(id),
            _ => None,
        };
        let generated_tokens = given_up.and_then(|id| replay.router().generated_tokens(id));
        let before = replay.calls();
        let Some(event) = replay.next_event()? else { break };
        if event.at <= before {
            // Another router recorded into the folder from here on: its ids are others.
            requests.forget_open();
        }
        now_ms = reading(&event.call).or(now_ms);
        first_ms = first_ms.or(now_ms);
        match (&event.call, &event.recorded) {
            (
                Call::Enqueue { request, .. }
                | Call::Place { request, .. }
                | Call::Send { request, .. }
                | Call::Adopt { request, .. },
                _,
            ) => requests.comes(request, now_ms),
            (_, Answer::Finished(finished)) => requests.ends(finished.id, finished.generated_tokens),
            (Call::Abort { id, .. } | Call::AbortDispatch { id, .. }, _) => {
                let before = requests.ended.len();
                requests.ends(*id, generated_tokens.unwrap_or(0));
                requests.given_up += (requests.ended.len() - before) as u64;
            }
            _ => {}
        }
    }
    requests.recorded(log, policy, configurations(replay.router()), first_ms)
}

impl Requests {
    /// Those who are there as the log begins.
    fn begin(&mut self, router: &Router) {
        for (request, _) in router.pool().iter() {
            self.comes(&request, None);
        }
        for (id, ..) in router.running() {
            let (Some(prompt), Some(generated)) = (router.prompt_tokens(id), router.generated_tokens(id))
            else {
                continue;
            };
            self.comes::<WorkerId>(&Request::new(id, prompt.saturating_add(generated)), None);
            if let Some(open) = self.open.get_mut(&id) {
                open.generated_tokens = generated;
            }
        }
    }

    /// Nobody tells any more how those end who have come.
    fn forget_open(&mut self) {
        self.left_out += self.open.len() as u64;
        self.open.clear();
    }

    /// One comes, or comes again.
    fn comes<W>(&mut self, request: &Request<W>, arrival_ms: Option<u64>) {
        let order = self.came;
        self.came += 1;
        let prompt_tokens = request.prompt_tokens.saturating_add(request.cached_tokens);
        self.open.entry(request.id).or_insert(Open { arrival_ms, prompt_tokens, generated_tokens: 0, order });
    }

    /// One ends that has generated so many tokens in all.
    fn ends(&mut self, id: RequestId, generated_tokens: u32) {
        let Some(open) = self.open.remove(&id) else { return };
        match generated_tokens.saturating_sub(open.generated_tokens) {
            0 => self.left_out += 1,
            output => self.ended.push((open, output)),
        }
    }

    fn recorded(
        mut self,
        log: &Path,
        policy: String,
        workers: Vec<WorkerConfig>,
        first_ms: Option<u64>,
    ) -> Result<Recorded, SimError> {
        let first_ms = first_ms.unwrap_or(0);
        let arrival_ms = |open: &Open| open.arrival_ms.unwrap_or(first_ms).max(first_ms) - first_ms;
        self.ended.sort_unstable_by_key(|(open, _)| (arrival_ms(open), open.order));
        if self.ended.is_empty() {
            let expected = "a recording in which requests have ended".to_owned();
            return Err(SimError::Argument { name: "log", expected, found: log.display().to_string() });
        }
        let trace = Trace {
            name: log.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            format: "recording",
            jobs: self
                .ended
                .iter()
                .map(|(open, output)| Job::new(open.prompt_tokens.max(1), *output))
                .collect(),
            arrival_s: self.ended.iter().map(|(open, _)| arrival_ms(open) as f64 / 1e3).collect(),
            block_tokens: 512,
            ..Trace::default()
        };
        let left_out = self.left_out + self.open.len() as u64;
        Ok(Recorded { trace, policy, workers, left_out, given_up: self.given_up })
    }
}

impl Recorded {
    /// The recorded traffic at its own times on the recorded cluster, by the recorded rule and by others.
    /// Where workers are not alike they are simulated as so many with the slots and the KV capacity of the
    /// mean, each with its own weight.
    #[must_use]
    pub fn scenario(&self, others: &[String]) -> Scenario {
        let count = self.workers.len().max(1) as u64;
        let mean = |of: &dyn Fn(&WorkerConfig) -> u64| self.workers.iter().map(of).sum::<u64>() / count;
        let bounded =
            self.workers.iter().all(|worker| worker.kv_capacity_tokens.is_some_and(|tokens| tokens > 0));
        let weights: Vec<f32> = self.workers.iter().map(|worker| worker.weight).collect();
        let mut policies = vec![self.policy.clone()];
        policies.extend(others.iter().filter(|&name| *name != self.policy).cloned());
        Scenario {
            source: Source::Trace(Arc::new(self.trace.clone())),
            arrivals: Arrivals::Trace { rate_scale: 1.0 },
            workers: self.workers.len(),
            slots: mean(&|worker| u64::from(worker.slots)) as u32,
            kv_capacity_tokens: bounded.then(|| mean(&|worker| worker.kv_capacity_tokens.unwrap_or(0))),
            weights: if weights.iter().all(|&weight| weight == 1.0) { Vec::new() } else { weights },
            policies,
            seeds: 1,
            steps: None,
            warmup: 0,
            ..Scenario::default()
        }
    }

    /// Whether all workers are alike.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        self.workers.windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// The workers as they are configured.
fn configurations(router: &Router) -> Vec<WorkerConfig> {
    router.worker_ids().iter().filter_map(|&id| router.worker_config(id).ok()).collect()
}

/// The reading of the clock that a call carries.
fn reading(call: &Call<'_>) -> Option<u64> {
    match *call {
        Call::Step { now_ms, .. } | Call::Place { now_ms, .. } => Some(now_ms),
        Call::Enqueue { now_ms, .. }
        | Call::Send { now_ms, .. }
        | Call::Finish { now_ms, .. }
        | Call::FinishDispatch { now_ms, .. }
        | Call::Abort { now_ms, .. }
        | Call::AbortDispatch { now_ms, .. }
        | Call::Report { now_ms, .. } => now_ms,
        _ => None,
    }
}

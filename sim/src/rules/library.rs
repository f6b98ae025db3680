//! A rule of the library that binds on arrival, with ranks that the cluster shows it.

use balanceroute::batch::Worker;
use balanceroute::policy::{Policy, Rank};
use balanceroute::{Request, WorkerIndex};

use super::chooser::{Arriving, Chooser, RankSeen, Setup};

pub(super) struct OfLibrary {
    policy: Box<dyn Policy>,
    slots: u32,
    kv_capacity_tokens: Option<u64>,
    weights: Vec<f64>,
    ranks: Vec<Rank>,
}

impl OfLibrary {
    pub(super) fn new(policy: Box<dyn Policy>, setup: &Setup) -> Self {
        let (slots, kv_capacity_tokens) = (setup.slots, setup.kv_capacity_tokens);
        Self { policy, slots, kv_capacity_tokens, weights: setup.weights.clone(), ranks: Vec::new() }
    }
}

impl Chooser for OfLibrary {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        self.ranks.clear();
        self.ranks.extend(ranks.iter().zip(&self.weights).map(|(seen, &weight)| {
            let free_slots = self.slots.saturating_sub(seen.running);
            let mut worker = Worker::new(seen.kv_tokens, seen.running, free_slots);
            (worker.kv_capacity_tokens, worker.weight) = (self.kv_capacity_tokens, weight as f32);
            Rank { worker, queued_requests: seen.queued, queued_tokens: seen.queued_tokens }
        }));
        let request = Request::new(arriving.id, arriving.job.prompt_tokens);
        self.policy.bind(&request, &self.ranks).map_or(0, WorkerIndex::index)
    }
}

//! NVIDIA Dynamo's selector: one request at a time, from loads and overlaps that others have gathered for it
//! in maps. Only the choice is timed; gathering is not.

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::time::Duration;

use dynamo_kv_router::protocols::{RoutingConstraints, WorkerConfigLike, WorkerId, WorkerWithDpRank};
use dynamo_kv_router::scheduling::{OverlapSignals, ScheduleMode};
use dynamo_kv_router::{
    DefaultWorkerSelector, KvRouterConfig, SchedulingRequest, WorkerLoadProjection, WorkerSelectionInput,
    WorkerSelector,
};
use rustc_hash::FxHashMap;

use crate::step::Step;
use crate::time;

const BLOCK_TOKENS: u32 = 16;

#[derive(Default)]
struct Config {
    taints: HashSet<String>,
}

impl WorkerConfigLike for Config {
    fn data_parallel_start_rank(&self) -> u32 {
        0
    }

    fn data_parallel_size(&self) -> u32 {
        1
    }

    fn max_num_batched_tokens(&self) -> Option<u64> {
        None
    }

    fn total_kv_blocks(&self) -> Option<u64> {
        Some(131_072)
    }

    fn taints(&self) -> &HashSet<String> {
        &self.taints
    }
}

/// Time to choose the worker of the first request of the step.
pub(crate) fn select(step: &Step) -> Duration {
    let mut workers: HashMap<WorkerId, Config> = HashMap::new();
    let mut worker_loads = FxHashMap::default();
    let mut effective_overlap_blocks = FxHashMap::default();
    let mut effective_cached_tokens = FxHashMap::default();
    let mut least = (usize::MAX, 0);
    for (id, worker) in step.workers.iter().enumerate() {
        let rank = WorkerWithDpRank::from_worker_id(id as WorkerId);
        let active_decode_blocks = worker.load_tokens as usize / BLOCK_TOKENS as usize;
        least = least.min((active_decode_blocks, id));
        workers.insert(id as WorkerId, Config::default());
        worker_loads.insert(
            rank,
            WorkerLoadProjection {
                active_decode_blocks,
                active_requests: worker.running as usize,
                ..Default::default()
            },
        );
        // Every worker has an entry, as after a lookup in its index; none overlaps, so that the least loaded
        // must win.
        effective_overlap_blocks.insert(rank, 0.0);
        effective_cached_tokens.insert(rank, 0);
    }
    let request = SchedulingRequest {
        mode: ScheduleMode::QueryOnly { request_id: None },
        token_seq: None,
        isl_tokens: step.pool.iter().next().map_or(0, |(request, _)| request.prompt_tokens as usize),
        lora_name: None,
        expected_output_tokens: Some(256),
        affinity_target: None,
        pinned_worker: None,
        allowed_worker_ids: None,
        routing_constraints: RoutingConstraints {
            required_taints: HashSet::new(),
            preferred_taints: HashMap::new(),
        },
        router_config_override: None,
        track_prefill_tokens: true,
        priority_jump: 0.0,
        strict_priority: 0,
        policy_class: None,
        session_context: None,
        overlap: OverlapSignals {
            tier_overlap_blocks: Default::default(),
            effective_overlap_blocks,
            effective_cached_tokens,
        },
        kv_transfer_candidates: None,
        retain_kv_transfer_chain: false,
        shared_cache_hits: None,
        worker_loads,
        resp_tx: None,
    };
    let selector = DefaultWorkerSelector::new(
        Some(KvRouterConfig { router_temperature: 0.0, ..Default::default() }),
        "decode",
    );
    let choose = || {
        let input = WorkerSelectionInput::configured(
            black_box(&workers),
            black_box(&request),
            request.eligibility(),
            black_box(BLOCK_TOKENS),
        );
        selector.select_worker(input).expect("a worker")
    };
    let chosen = choose().worker.worker_id as usize;
    let blocks = |id: usize| step.workers[id].load_tokens as usize / BLOCK_TOKENS as usize;
    assert_eq!(blocks(chosen), least.0, "the least loaded worker wins");
    time(choose)
}

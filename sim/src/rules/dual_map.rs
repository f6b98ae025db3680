//! `dualmap`: two candidates by two hashes of the prefix; the one that keeps more of it, unless it is too
//! busy.

use std::collections::HashMap;
use std::sync::Arc;

use super::chooser::{Arriving, Chooser, RankSeen, Setup};
use super::prefix::Index;
use super::ring::{Ring, prefix_key};

/// Time to first token past which a rank is too busy.
const LIMIT_MS: f64 = 2_000.0;
/// Tokens of a rank on each ring: our choice.
const TOKENS: u32 = 64;

/// A request that waits.
#[derive(Clone, Debug)]
struct Waiting {
    candidates: [usize; 2],
    prompt_tokens: u32,
    blocks: Option<Arc<[u64]>>,
}

impl Waiting {
    fn other(&self, rank: usize) -> usize {
        if self.candidates[0] == rank { self.candidates[1] } else { self.candidates[0] }
    }
}

/// Places a request on one of two candidates, and moves it to the other while it waits.
pub(super) struct DualMap {
    rings: [Ring; 2],
    index: Index,
    slots: u32,
    prompt_us_per_token: f64,
    /// Who waits on each rank for the first time, first come first: behind those that were preempted.
    queues: Vec<Vec<u64>>,
    waiting: HashMap<u64, Waiting>,
    /// Of the step before, and of all requests that have ended.
    step_ms: f64,
    output_tokens: u64,
    ended: u64,
}

impl DualMap {
    pub(super) fn new(setup: &Setup) -> Self {
        let ranks = setup.workers();
        Self {
            rings: [5, 6].map(|salt| Ring::new(salt, ranks, TOKENS)),
            index: Index::new(setup),
            slots: setup.slots,
            prompt_us_per_token: setup.prompt_us_per_token,
            queues: vec![Vec::new(); ranks],
            waiting: HashMap::new(),
            step_ms: 0.0,
            output_tokens: 0,
            ended: 0,
        }
    }

    /// Until the request at this place of a rank's queue, from 0, has its first token: each place that finds
    /// no free slot waits for an end, of which there is one in mean output / slots steps.
    fn first_token_ms(&self, place: usize, rank: usize, seen: &RankSeen, request: &Waiting) -> f64 {
        let free = self.slots.saturating_sub(seen.running) as usize;
        let ends = (place + 1).saturating_sub(free) as f64;
        let mean_output = self.output_tokens as f64 / self.ended.max(1) as f64;
        let steps = 1.0 + ends * mean_output / f64::from(self.slots);
        let blocks = request.blocks.as_deref().unwrap_or_default();
        let computed = f64::from(request.prompt_tokens) * (1.0 - self.index.share(rank, blocks));
        steps * self.step_ms + self.prompt_us_per_token * computed / 1e3
    }
}

impl Chooser for DualMap {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        let key = prefix_key(arriving);
        let first = self.rings[0].owner(key, None);
        let second = self.rings[1].owner(key, Some(first));
        let request = Waiting {
            candidates: [first, second],
            prompt_tokens: arriving.job.prompt_tokens,
            blocks: arriving.job.prefix_blocks.clone(),
        };
        let kept = |rank: usize| self.index.matched(rank, arriving.blocks());
        let favourite = if kept(second) > kept(first) { second } else { first };
        let place = ranks[favourite].queued as usize;
        let rank = if self.first_token_ms(place, favourite, &ranks[favourite], &request) > LIMIT_MS {
            let load = |rank: usize| ranks[rank].requests();
            if load(second) < load(first) { second } else { first }
        } else {
            favourite
        };
        self.index.sent(rank, arriving.blocks());
        self.queues[rank].push(arriving.id);
        self.waiting.insert(arriving.id, request);
        rank
    }

    fn adopted(&mut self, running: &Arriving<'_>, _generated_tokens: u32, rank: usize) {
        self.index.sent(rank, running.blocks());
    }

    fn admitted(&mut self, id: u64, rank: usize) {
        self.queues[rank].retain(|&other| other != id);
        self.waiting.remove(&id);
    }

    fn stepped(&mut self, step_ms: f64) {
        self.step_ms = step_ms;
    }

    fn ended(&mut self, _id: u64, _rank: usize, output_tokens: u32) {
        self.output_tokens += u64::from(output_tokens);
        self.ended += 1;
    }

    fn moves(&mut self, ranks: &[RankSeen], moves: &mut Vec<(u64, usize)>) {
        // Those that were preempted stay: their rank is where they will be prefilled again.
        let preempted = |rank: usize, queue: &[u64]| ranks[rank].queued as usize - queue.len();
        let ahead: Vec<usize> =
            self.queues.iter().enumerate().map(|(rank, queue)| preempted(rank, queue)).collect();
        for rank in 0..ranks.len() {
            // The last come goes first: it has waited least.
            for place in (0..self.queues[rank].len()).rev() {
                let id = self.queues[rank][place];
                let Some(request) = self.waiting.get(&id) else { continue };
                let here = self.first_token_ms(ahead[rank] + place, rank, &ranks[rank], request);
                if here <= LIMIT_MS {
                    break;
                }
                let other = request.other(rank);
                let end = ahead[other] + self.queues[other].len();
                if self.first_token_ms(end, other, &ranks[other], request) < here {
                    let blocks = request.blocks.clone();
                    self.index.sent(other, blocks.as_deref().unwrap_or_default());
                    self.queues[rank].remove(place);
                    self.queues[other].push(id);
                    moves.push((id, other));
                }
            }
        }
    }
}

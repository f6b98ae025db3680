//! `block`: plays each rank's own future with predicted lengths, and takes the rank that would finish the
//! request first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::chooser::{Arriving, Chooser, RankSeen, Setup, hash, least};

/// A request with KV tokens, and tokens that it is thought to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    kv_tokens: u64,
    left: u64,
}

/// A request that decodes, as it was when it entered.
#[derive(Clone, Copy, Debug)]
struct Resident {
    job: Job,
    /// Steps that had run by then.
    since: u64,
}

impl Resident {
    /// After so many steps. Who was thought to have ended and has not is thought to end with the next.
    fn now(&self, steps: u64) -> Job {
        let ran = steps - self.since;
        Job { kv_tokens: self.job.kv_tokens + ran, left: self.job.left.saturating_sub(ran).max(1) }
    }
}

/// What is known of a rank.
#[derive(Clone, Debug, Default)]
struct Rank {
    residents: HashMap<u64, Resident>,
    queue: VecDeque<(u64, Job)>,
}

/// Takes the rank that would finish the request first.
pub(super) struct Block {
    setup: Setup,
    ranks: Vec<Rank>,
    steps: u64,
}

impl Block {
    pub(super) fn new(setup: &Setup) -> Self {
        Self { setup: setup.clone(), ranks: vec![Rank::default(); setup.workers()], steps: 0 }
    }

    /// The output that is foretold for a request: the true one, times the error.
    fn foretold(&self, arriving: &Arriving<'_>) -> u64 {
        let output = f64::from(arriving.job.output_tokens);
        if self.setup.length_sigma == 0.0 {
            return output as u64;
        }
        // Of the request and the seed alone, so that it does not depend on who came before.
        let mut rng = ChaCha8Rng::seed_from_u64(hash(self.setup.seed, arriving.id));
        let drawn: f64 = StandardNormal.sample(&mut rng);
        (output * (self.setup.length_sigma * drawn).exp()).round().max(1.0) as u64
    }

    /// When the last of a queue ends on a rank of its own, in ms from now; infinite where it never fits. The
    /// rank admits its queue in order, whatever fits a slot and the KV cache, and preempts nobody.
    fn finishes_ms(&self, rank: usize, newcomer: Job) -> f64 {
        let Setup { slots, kv_capacity_tokens, cost, prompt_us_per_token, .. } = &self.setup;
        let weight = self.setup.weights[rank];
        let capacity = kv_capacity_tokens.unwrap_or(u64::MAX);
        let known = &self.ranks[rank];
        // Whoever runs ends at a step, with so many KV tokens on the way out.
        let mut ends: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let (mut step, mut kv_tokens, mut ms) = (0, 0, 0.0);
        let run = |ends: &mut BinaryHeap<_>, job: Job, step: u64| {
            ends.push(Reverse((step + job.left, job.kv_tokens + job.left)));
        };
        for job in known.residents.values().map(|resident| resident.now(self.steps)) {
            kv_tokens += job.kv_tokens;
            run(&mut ends, job, step);
        }
        let mut queue = known.queue.iter().map(|&(_, job)| job).chain([newcomer]).peekable();
        let mut last_end = None;
        loop {
            while let Some(&job) = queue.peek() {
                if ends.len() >= *slots as usize || kv_tokens + job.kv_tokens > capacity {
                    break;
                }
                queue.next();
                kv_tokens += job.kv_tokens;
                ms += prompt_us_per_token * job.kv_tokens as f64 / 1e3;
                run(&mut ends, job, step);
                if queue.peek().is_none() {
                    last_end = Some(step + job.left);
                }
            }
            let Some(&Reverse((next, _))) = ends.peek() else { return f64::INFINITY };
            // Nobody comes or goes in these steps: loads grow by a token a request.
            let (steps, running) = ((next - step) as f64, ends.len() as f64);
            let tokens = steps * kv_tokens as f64 + running * steps * (steps - 1.0) / 2.0;
            let of_load = cost.us_per_request * running * steps + cost.us_per_token * tokens;
            ms += cost.base_ms * steps + weight * of_load / 1e3;
            kv_tokens += (next - step) * ends.len() as u64;
            step = next;
            if last_end == Some(step) {
                return ms;
            }
            while let Some(&Reverse((end, leaves))) = ends.peek()
                && end == step
            {
                ends.pop();
                kv_tokens -= leaves;
            }
        }
    }
}

impl Chooser for Block {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        let kv_tokens = u64::from(arriving.job.prompt_tokens);
        let newcomer = Job { kv_tokens, left: self.foretold(arriving) };
        let rank = least(0..ranks.len(), |rank| self.finishes_ms(rank, newcomer)).unwrap_or(0);
        self.ranks[rank].queue.push_back((arriving.id, newcomer));
        rank
    }

    fn adopted(&mut self, running: &Arriving<'_>, generated_tokens: u32, rank: usize) {
        let generated = u64::from(generated_tokens);
        let kv_tokens = u64::from(running.job.prompt_tokens) + generated;
        let job = Job { kv_tokens, left: self.foretold(running).saturating_sub(generated).max(1) };
        self.ranks[rank].residents.insert(running.id, Resident { job, since: self.steps });
    }

    fn admitted(&mut self, id: u64, rank: usize) {
        let Rank { residents, queue } = &mut self.ranks[rank];
        if let Some(at) = queue.iter().position(|&(other, _)| other == id)
            && let Some((_, job)) = queue.remove(at)
        {
            residents.insert(id, Resident { job, since: self.steps });
        }
    }

    fn stepped(&mut self, _step_ms: f64) {
        self.steps += 1;
    }

    fn ended(&mut self, id: u64, rank: usize, _output_tokens: u32) {
        self.ranks[rank].residents.remove(&id);
    }

    fn preempted(&mut self, id: u64, rank: usize, prompt_tokens: u32) {
        let steps = self.steps;
        let Rank { residents, queue } = &mut self.ranks[rank];
        if let Some(resident) = residents.remove(&id) {
            let left = resident.now(steps).left;
            queue.push_front((id, Job { kv_tokens: u64::from(prompt_tokens), left }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::StepCost;

    #[test]
    fn a_future_by_hand() {
        let mut block = Block::new(&Setup {
            weights: vec![1.0],
            slots: 2,
            kv_capacity_tokens: None,
            cost: StepCost { base_ms: 1.0, us_per_token: 1_000.0, ..StepCost::published(1) },
            prompt_us_per_token: 100.0,
            cache_blocks: 1,
            length_sigma: 0.0,
            seed: 0,
        });
        for (id, kv_tokens, left) in [(0, 10, 2), (1, 20, 3)] {
            block.ranks[0].residents.insert(id, Resident { job: Job { kv_tokens, left }, since: 0 });
        }
        // Loads of 30 and 32 until the first ends; then 22 and the 5 of the newcomer, which computes its
        // prompt; then the newcomer alone with 6, 7 and 8.
        let expected = 31.0 + 33.0 + 28.0 + 0.5 + 7.0 + 8.0 + 9.0;
        let newcomer = Job { kv_tokens: 5, left: 4 };
        approx::assert_abs_diff_eq!(block.finishes_ms(0, newcomer), expected, epsilon = 1e-9);
        // A step later the residents have a token more and a step less to go: the newcomer comes sooner.
        block.stepped(0.0);
        approx::assert_abs_diff_eq!(block.finishes_ms(0, newcomer), expected - 31.0, epsilon = 1e-9);
        block.setup.weights = vec![2.0];
        let weighed = 6.0 + 2.0 * (expected - 31.0 - 0.5 - 5.0) + 0.5 - 1.0;
        approx::assert_abs_diff_eq!(block.finishes_ms(0, newcomer), weighed, epsilon = 1e-9);
    }
}

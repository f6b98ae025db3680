//! How a closed run starts: with every slot full, near its steady state.

use balanceroute::batch::Request;
use balanceroute::router::WorkerConfig;
use rand::seq::SliceRandom;

use super::Cluster;
use crate::cluster::Library;
use crate::cluster::source::{Stream, stream};
use crate::error::SimError;

impl Cluster<'_> {
    pub(super) fn warm_start(
        &mut self,
        library: &Library,
        seed: u64,
        at_random: bool,
    ) -> Result<(), SimError> {
        let mut rng = stream(seed, Stream::Start);
        let slots = self.scenario.slots as usize;
        let mut free: Vec<usize> =
            (0..self.scenario.workers).flat_map(|g| std::iter::repeat_n(g, slots)).collect();
        free.shuffle(&mut rng);
        for drawn in free {
            let (job, generated) = library.running(&mut rng);
            let job = job.clone();
            let load = u64::from(job.prompt_tokens) + u64::from(generated);
            // With a bounded cache the cluster starts as full as an admission would leave it.
            let room = |g: usize| {
                self.residents[g].len() < slots
                    && self.scenario.kv_capacity_tokens.is_none_or(|capacity| {
                        // A router leaves the most where nothing is learned yet.
                        let growth = match self.scenario.headroom_steps {
                            Some(steps) => (self.residents[g].len() as u64 + 1) * u64::from(steps),
                            None => capacity * WorkerConfig::MOST_GROWTH_PERCENT / 100,
                        };
                        self.loads[g] + load + growth <= capacity
                    })
            };
            let worker = if at_random {
                Some(drawn).filter(|&g| room(g))
            } else {
                (0..self.scenario.workers).filter(|&g| room(g)).min_by(|&a, &b| {
                    let cost = |g: usize| self.loads[g] as f64 * self.weights[g];
                    cost(a).total_cmp(&cost(b))
                })
            };
            let Some(worker) = worker.filter(|_| self.scenario.fits(&job)) else { continue };
            let id = self.lives.len() as u64;
            self.run.requests_in += 1;
            self.router.tell_length(id, job.output_tokens);
            let request = Request::new(id, job.prompt_tokens).hash(job.prompt_hash);
            self.router.adopt(request, worker as u32, generated)?;
            if let Some(prefixes) = &mut self.prefixes {
                prefixes.entered(&job);
                prefixes.adopted(id, worker as u32);
            }
            self.begin_life(&job, 0.0, None);
            let quarter = self.lives[id as usize].quarter;
            if let Some(binding) = &mut self.binding {
                binding.adopted(id, &job, quarter, generated, worker as u32);
            }
            let life = &mut self.lives[id as usize];
            (life.prompt_tokens, life.output_tokens) = (load as u32, job.output_tokens - generated);
            life.adopted = true;
            self.place(id, worker as u32);
        }
        Ok(())
    }
}

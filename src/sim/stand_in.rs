//! Stands in for the router until its bodies are there: true ends for the oracle only, no other forecasts, no binding on arrival.

use std::collections::HashMap;

use crate::assignment::{Assignment, WaitReason};
use crate::batch::{Batch, PredictedEnd, PredictedEnds, Request, Traffic, Worker};
use crate::policy::{Forecast, Policy};
use crate::pool::Pool;
use crate::router::{RouterConfig, RouterError};

#[derive(Clone)]
pub(crate) struct Truths(std::sync::Arc<std::sync::Mutex<HashMap<u64, u32>>>);
impl Truths {
    pub(crate) fn tell(&self, id: u64, output_tokens: u32) {
        self.0.lock().unwrap().insert(id, output_tokens);
    }
    pub(crate) fn forget(&self, id: u64) {
        self.0.lock().unwrap().remove(&id);
    }
}

pub(crate) fn classifier(forecast: Option<Forecast>) -> (Option<Truths>, Option<Truths>) {
    let truths = (forecast == Some(Forecast::Oracle)).then(|| Truths(std::sync::Arc::default()));
    (truths.clone(), truths)
}

pub(crate) struct Router {
    config: RouterConfig,
    policy: Box<dyn Policy>,
    pool: Pool,
    workers: Vec<Worker>,
    running: HashMap<u64, (u32, Request, u32, u64)>,
    out: Assignment,
    now: u64,
    prompts: (f64, f64, f64),
    outputs: (f64, f64),
    truths: Option<Truths>,
    // Per worker: (end, tokens freed then), in order.
    ends: Vec<Vec<(u64, u64)>>,
}

impl Router {
    pub(crate) fn new(
        config: RouterConfig,
        policy: Box<dyn Policy>,
        truths: Option<Truths>,
    ) -> Result<Self, RouterError> {
        let workers = (0..config.workers)
            .map(|g| Worker {
                kv_capacity_tokens: config.kv_capacity_tokens,
                weight: config.weights.get(g).copied().unwrap_or(1.0),
                ..Worker::new(0, 0, config.slots)
            })
            .collect();
        let ends = vec![Vec::new(); config.workers];
        Ok(Self {
            config,
            policy,
            pool: Pool::new(),
            workers,
            running: HashMap::new(),
            out: Assignment::new(),
            now: 0,
            prompts: (0.0, 0.0, 0.0),
            outputs: (0.0, 0.0),
            truths,
            ends,
        })
    }

    fn seen(&mut self, prompt: u32) {
        let prompt = f64::from(prompt);
        self.prompts = (self.prompts.0 + 1.0, self.prompts.1 + prompt, self.prompts.2 + prompt * prompt);
    }

    pub(crate) fn adopt(&mut self, request: Request, worker: u32, generated: u32) -> Result<(), RouterError> {
        self.seen(request.prompt_tokens);
        self.occupy(request, worker, generated);
        Ok(())
    }

    fn end_of(&self, request: &Request, generated: u32, since: u64) -> Option<(u64, u64)> {
        let output = *self.truths.as_ref()?.0.lock().unwrap().get(&request.id)?;
        Some((
            since + u64::from(output.saturating_sub(generated).max(1)),
            u64::from(request.prompt_tokens) + u64::from(output),
        ))
    }

    fn occupy(&mut self, request: Request, worker: u32, generated: u32) {
        let at = &mut self.workers[worker as usize];
        at.running += 1;
        at.free_slots -= 1;
        at.load_tokens += u64::from(request.prompt_tokens) + u64::from(generated);
        at.kv_used_tokens = at.load_tokens;
        self.running.insert(request.id, (worker, request, generated, self.now));
        if let Some(end) = self.end_of(&request, generated, self.now) {
            let ends = &mut self.ends[worker as usize];
            ends.insert(ends.partition_point(|other| *other <= end), end);
        }
    }

    pub(crate) fn enqueue(&mut self, request: Request) -> Result<(), RouterError> {
        self.pool.insert(request)?;
        self.seen(request.prompt_tokens);
        Ok(())
    }

    pub(crate) fn step(&mut self) -> Result<&Assignment, RouterError> {
        let (n, sum, squares) = self.prompts;
        let mean = sum / n.max(1.0);
        let traffic = Traffic {
            mean_prompt_tokens: mean as i64,
            sd_prompt_tokens: (squares / n.max(1.0) - mean * mean).max(0.0).sqrt() as i64,
            small_prompt_tokens: (mean / 5.0) as i64,
            mean_output_tokens: (self.outputs.1 / self.outputs.0.max(1.0)) as i64,
        };
        if self.config.kv_capacity_tokens.is_some() {
            for worker in &mut self.workers {
                worker.kv_growth_tokens = u64::from(worker.running) * u64::from(self.config.headroom_steps);
            }
        }
        let growth = if self.config.kv_capacity_tokens.is_some() { self.config.headroom_steps } else { 0 };
        let needs = self.policy.needs();
        let mut draft = Batch::draft(&self.workers, &self.pool).traffic(traffic).request_growth(growth);
        let (mut offsets, mut ends, mut rows) = (vec![0], Vec::new(), Vec::new());
        let open = self.workers.iter().any(|worker| worker.free_slots > 0);
        if self.truths.is_some() && !self.pool.is_empty() && open {
            if let Some(count) = needs.ends_per_worker {
                for all in &self.ends {
                    ends.extend(all.iter().take(count).map(|&(end, freed_tokens)| PredictedEnd {
                        in_steps: (end.saturating_sub(self.now)).max(1) as u32,
                        freed_tokens,
                    }));
                    offsets.push(ends.len() as u32);
                }
                draft = draft.ends(PredictedEnds { offsets: &offsets, ends: &ends });
            }
            if let Some(horizon) = needs.projection_horizon {
                for (worker, all) in self.workers.iter().zip(&self.ends) {
                    let (mut load, mut running) = (worker.load_tokens, u64::from(worker.running));
                    let mut next = all.iter().peekable();
                    rows.push(load);
                    for h in 1..=horizon as u64 {
                        load += running;
                        while let Some(&(_, freed)) = next.next_if(|&&(end, _)| end <= self.now + h) {
                            load -= freed;
                            running -= 1;
                        }
                        rows.push(load);
                    }
                }
                draft = draft.projection(horizon, &rows);
            }
        }
        let batch = draft.check()?;
        self.policy.decide(&batch, &mut self.out);
        for at in 0..self.out.admitted.len() {
            let (id, worker) = (self.out.admitted[at].id, self.out.admitted[at].worker);
            if let Some(request) = self.pool.remove(id) {
                self.occupy(request, worker, 0);
            }
        }
        Ok(&self.out)
    }

    pub(crate) fn advance(&mut self) {
        self.now += 1;
        self.pool.advance(1);
        for worker in &mut self.workers {
            worker.load_tokens += u64::from(worker.running);
            worker.kv_used_tokens = worker.load_tokens;
        }
    }

    fn leave(&mut self, id: u64) -> Result<(Request, u32), RouterError> {
        let (worker, request, generated, since) =
            self.running.remove(&id).ok_or(RouterError::Unknown { id })?;

        if let Some(end) = self.end_of(&request, generated, since) {
            let ends = &mut self.ends[worker as usize];
            if let Some(at) = ends.iter().position(|&other| other == end) {
                ends.remove(at);
            }
        }
        let generated = generated + (self.now - since) as u32;
        let at = &mut self.workers[worker as usize];
        at.running -= 1;
        at.free_slots += 1;
        at.load_tokens -= u64::from(request.prompt_tokens) + u64::from(generated);
        at.kv_used_tokens = at.load_tokens;
        Ok((request, generated))
    }

    pub(crate) fn finish(&mut self, id: u64) -> Result<(), RouterError> {
        let (_, generated) = self.leave(id)?;
        self.outputs = (self.outputs.0 + 1.0, self.outputs.1 + f64::from(generated));
        Ok(())
    }

    pub(crate) fn preempt(&mut self, id: u64) -> Result<(), RouterError> {
        let (request, generated) = self.leave(id)?;
        self.pool.insert(Request::new(id, request.prompt_tokens + generated))?;
        Ok(())
    }

    pub(crate) fn waiting(&self) -> Vec<(u64, WaitReason)> {
        self.pool.iter().map(|(_, request, _)| (request.id, WaitReason::NoSlot)).collect()
    }
}

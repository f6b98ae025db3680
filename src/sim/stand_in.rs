//! Stands in for the router until its bodies are there: no forecasts, no binding on arrival.

use std::collections::HashMap;

use crate::assignment::{Assignment, WaitReason};
use crate::batch::{Batch, Request, Traffic, Worker};
use crate::policy::{Forecast, Policy};
use crate::pool::Pool;
use crate::router::{RouterConfig, RouterError};

pub(crate) struct Truths;
impl Truths {
    pub(crate) fn tell(&self, _id: u64, _output_tokens: u32) {}
    pub(crate) fn forget(&self, _id: u64) {}
}

pub(crate) fn classifier(_forecast: Option<Forecast>) -> ((), Option<Truths>) {
    ((), None)
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
}

impl Router {
    pub(crate) fn new(config: RouterConfig, policy: Box<dyn Policy>, _: ()) -> Result<Self, RouterError> {
        let workers = (0..config.workers)
            .map(|g| Worker {
                kv_capacity_tokens: config.kv_capacity_tokens,
                weight: config.weights.get(g).copied().unwrap_or(1.0),
                ..Worker::new(0, 0, config.slots)
            })
            .collect();
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

    fn occupy(&mut self, request: Request, worker: u32, generated: u32) {
        let at = &mut self.workers[worker as usize];
        at.running += 1;
        at.free_slots -= 1;
        at.load_tokens += u64::from(request.prompt_tokens) + u64::from(generated);
        at.kv_used_tokens = at.load_tokens;
        self.running.insert(request.id, (worker, request, generated, self.now));
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
        let batch =
            Batch::draft(&self.workers, &self.pool).traffic(traffic).request_growth(growth).check()?;
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

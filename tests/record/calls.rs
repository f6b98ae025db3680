//! Calls of every kind, drawn at random: most of them sensible, some of them refused.

use balanceroute::router::{Call, Terms, TermsRow};
use balanceroute::{
    Mode, Request, RequestId, Router, RouterConfig, Share, WorkerConfig, WorkerId, WorkerReport,
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A cluster that has something of everything.
pub(crate) fn config(rng: &mut ChaCha8Rng) -> RouterConfig {
    let bounded = rng.random_range(0..2) == 0;
    let worker = |at: usize| {
        let worker = WorkerConfig::new(2 + at as u32 % 3);
        if bounded { worker.capacity(20_000 + 3_000 * at as u64) } else { worker }
    };
    let mode = match rng.random_range(0..3) {
        0 => Mode::Step,
        1 => Mode::Arrival,
        _ => Mode::Mixed { free_slots: 3 },
    };
    let share = if rng.random_range(0..4) == 0 { Share::new(1, 3) } else { Share::WHOLE };
    RouterConfig::default()
        .workers((0..6).map(worker).collect::<Vec<_>>())
        .mode(mode)
        .share(share)
        .refresh_steps(4)
        .lower_class_one_in(Some(3).filter(|_| rng.random_range(0..2) == 0))
        .dispatch_timeout_ms(2_000)
        .silence_timeout_ms(5_000)
        .expire_after_ms(4_000)
}

/// Draws calls; time goes on with them.
pub(crate) struct Calls {
    rng: ChaCha8Rng,
    now_ms: u64,
    next_id: u64,
    hashes: bool,
}

impl Calls {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Self { rng, now_ms: 1_000_000, next_id: 0, hashes: true }
    }

    /// No request has a hash of its prompt.
    pub(crate) fn without_hashes(self) -> Self {
        Self { hashes: false, ..self }
    }

    fn of(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..most)
    }

    fn reading(&mut self) -> Option<u64> {
        (self.of(3) > 0).then_some(self.now_ms)
    }

    fn worker(&mut self, router: &Router) -> WorkerId {
        let ids = router.worker_ids();
        match ids.is_empty() || self.of(20) == 0 {
            true => WorkerId::new(self.of(40) as u32),
            false => ids[self.of(ids.len() as u64) as usize],
        }
    }

    /// Somebody who runs, mostly.
    fn runner(&mut self, router: &Router) -> RequestId {
        let running = router.running_len() as u64;
        let nth = if running == 0 { 0 } else { self.of(running) };
        let found = router.running().nth(nth as usize).map(|(id, ..)| id);
        found.filter(|_| self.of(10) > 0).unwrap_or_else(|| RequestId::new(self.of(self.next_id.max(1))))
    }

    fn request(&mut self, router: &Router) -> Request<WorkerId> {
        self.next_id += 1;
        let id = if self.of(12) == 0 { self.of(self.next_id) } else { self.next_id };
        let mut request = Request::new(id, 1 + self.of(6_000) as u32);
        if self.hashes && self.of(3) == 0 {
            request = request.hash(self.of(8));
        }
        if self.of(4) == 0 {
            request = request.priority(self.of(3) as i8 - 1);
        }
        if self.of(6) == 0 {
            request = request.deadline(self.of(30) as u32);
        }
        if self.of(6) == 0 {
            request = request.max_tokens(self.of(4_000) as u32);
        }
        if self.of(6) == 0 {
            request = request.cached(self.of(3_000) as u32);
        }
        if self.of(10) == 0 {
            request = request.rank(Some(self.worker(router)));
        }
        request
    }

    fn terms(&mut self, router: &Router) -> Option<Terms<'static>> {
        if self.of(3) > 0 {
            return None;
        }
        let mut terms = Terms::default();
        terms.stores_half = self.of(2) == 0;
        let workers = router.workers().len() as u64;
        let waiting: Vec<RequestId> = router.waiting().iter().map(|&(id, _)| id).collect();
        for id in waiting {
            if self.of(2) == 0 || workers == 0 {
                continue;
            }
            let (bonuses, words) = (self.of(3), self.of(2));
            for _ in 0..bonuses {
                let bonus = (self.of(workers) as u32, self.of(3_000) as f32 - 500.0);
                terms.bonuses.to_mut().push(bonus);
            }
            for _ in 0..words {
                let mask = self.of(1 << workers) | 1;
                terms.masks.to_mut().push(mask);
            }
            terms.rows.to_mut().push(TermsRow::new(id, bonuses as u32, words as u32));
        }
        Some(terms)
    }

    fn report(&mut self, router: &Router, worker: WorkerId) -> WorkerReport {
        let running = router.running().filter(|&(_, on, _)| on == worker);
        let (mut count, mut last) = (0, 0);
        for (_, _, number) in running {
            (count, last) = (count + 1, last.max(number));
        }
        let mut report = match self.of(4) {
            0 => WorkerReport::requests(count, self.of(2) as u32),
            _ => WorkerReport::new(count, u64::from(count) * 1_500 + self.of(2_000)),
        };
        report.sequence = (self.of(3) > 0).then_some(self.now_ms - self.of(30));
        report.last_dispatch = (self.of(2) == 0).then_some(last);
        report.age_ms = self.of(80) as u32;
        if self.of(8) == 0 {
            report.kv_capacity_tokens = Some(15_000 + self.of(9_000));
        }
        if self.of(60) == 0 {
            report = WorkerReport::new(0, 0);
            report.epoch = Some(self.of(4));
        }
        report
    }

    /// The next call for a router that stands as this one.
    pub(crate) fn next(&mut self, router: &Router) -> Call<'static> {
        self.now_ms += self.of(25);
        if self.of(400) == 0 {
            self.now_ms += 2_000_000;
        }
        let now_ms = self.now_ms;
        match self.of(100) {
            0..20 => Call::Enqueue { request: self.request(router), now_ms: self.reading() },
            20..26 => {
                // Terms of a request that does not wait yet.
                let (request, half) = (self.request(router), self.of(2) == 0);
                let mut terms = Terms::default();
                terms.stores_half = half;
                terms.bonuses.to_mut().push((0, 900.0));
                terms.rows.to_mut().push(TermsRow::new(request.id, 1, 0));
                Call::Place { request, now_ms, terms: Some(terms).filter(|_| half) }
            }
            26..44 => {
                let by_reference = self.of(4) == 0;
                Call::Step { now_ms, by_reference, terms: self.terms(router) }
            }
            44..52 => Call::Advance,
            52..56 => Call::Progress { worker: self.worker(router), tokens: self.of(4) as u32 },
            56..60 => Call::ProgressRequest { id: self.runner(router), tokens: self.of(5) as u32 },
            60..64 => {
                let grown = router.running().take(5).map(|(id, ..)| (id, 2)).collect::<Vec<_>>();
                Call::ProgressRequests { grown: grown.into() }
            }
            64..74 => {
                let worker = self.worker(router);
                Call::Report { worker, report: self.report(router, worker), now_ms: self.reading() }
            }
            74..80 => Call::Finish { id: self.runner(router), now_ms: self.reading() },
            80..82 => {
                let (id, now_ms) = (self.runner(router), self.reading());
                let life = router.running().find(|&(other, ..)| other == id);
                let (_, worker, number) = life.unwrap_or_default();
                if self.of(2) == 0 {
                    Call::FinishDispatch { id, worker, number, now_ms }
                } else {
                    Call::AbortDispatch { id, worker, number, now_ms }
                }
            }
            82..84 => Call::Abort { id: RequestId::new(self.of(self.next_id.max(1))), now_ms: None },
            84 => Call::Preempt { id: self.runner(router) },
            85 => Call::Held { id: self.runner(router) },
            86 => Call::TransferDone { id: self.runner(router) },
            87 => Call::Preempted { id: self.runner(router) },
            88 => Call::Resumed { id: self.runner(router) },
            89 => Call::TellLength { id: self.runner(router), output_tokens: self.of(400) as u32 },
            90 => {
                let until_ms = self.now_ms.saturating_sub(500);
                Call::DisownSent { worker: self.worker(router), until_ms }
            }
            91 => {
                let (request, worker) = (self.request(router), self.worker(router));
                Call::Adopt { request, worker, generated_tokens: self.of(300) as u32 }
            }
            92 => {
                let (request, worker) = (self.request(router), self.worker(router));
                Call::Send { request, worker: Some(worker).filter(|_| self.of(2) == 0), now_ms: Some(now_ms) }
            }
            99 if self.of(3) == 0 => Call::Resend { now_ms },
            93 if router.workers().len() < 9 => {
                let config = WorkerConfig::new(1 + self.of(4) as u32);
                match self.of(2) {
                    0 => Call::AddWorker { config },
                    _ => Call::AnnounceWorker { config },
                }
            }
            94 => Call::SetAccepting { worker: self.worker(router), accepting: self.of(4) > 0 },
            95 => {
                let config = WorkerConfig::new(1 + self.of(5) as u32).weight(1.5);
                Call::ConfigureWorker { worker: self.worker(router), config }
            }
            96 => Call::DrainWorker { worker: self.worker(router) },
            97 if router.workers().len() > 4 => Call::RemoveWorker { worker: self.worker(router) },
            98 => match self.of(12) {
                0 => Call::Recover,
                1 => Call::Learn { learned: router.learned().into() },
                2 => Call::SetShare { share: Share::new(self.of(2) as u32, 2) },
                _ => Call::SetExplaining { on: self.of(2) == 0 },
            },
            _ => Call::Advance,
        }
    }
}

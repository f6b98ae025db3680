//! A step allocates nothing once its buffers have seen their largest size, nor does any event of a router.

#[path = "support/counting.rs"]
mod counting;

use balanceroute::backend::BackendKind;
use balanceroute::policy::{self, Parameters};
use balanceroute::router::Metrics;
use balanceroute::{
    Assignment, Batch, Mode, PairTerms, Pairs, Placement, Pool, PredictedEnd, PredictedEnds, Request, Router,
    RouterConfig, Traffic, Worker, WorkerConfig, WorkerReport,
};
use counting::BYTES;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A random step: workers with up to three free slots, a pool, a projection and predicted ends. Who has
/// been passed by up to 12,000 is mostly next, by up to 100 is not: the two leave by different ways.
fn step(
    rng: &mut ChaCha8Rng,
    largest: bool,
    pairs: bool,
) -> (Vec<Worker>, Pool, Vec<u64>, Vec<u32>, Vec<PredictedEnd>) {
    let (workers, waiting) = (24, if largest { 400 } else { rng.random_range(0..400u64) });
    let most_passed = if rng.random_range(0..2) == 0 { 100 } else { 12_000 };
    let pool: Vec<Request> = (0..waiting)
        .map(|id| {
            let request =
                Request::new(id, rng.random_range(1..5000)).passed(rng.random_range(0..most_passed));
            if pairs { request.pairs(rng.random_range(0..8)) } else { request }
        })
        .collect();
    let pool = Pool::from_requests(&pool).expect("valid");
    let workers: Vec<Worker> = (0..workers)
        .map(|_| {
            let free = if largest { 3 } else { rng.random_range(0..4) };
            Worker::new(rng.random_range(100_000..140_000), 40, free)
        })
        .collect();
    let horizon = 16;
    let rows = workers.iter().flat_map(|worker| vec![worker.load_tokens; horizon + 1]).collect();
    let offsets = (0..=workers.len() as u32).map(|worker| worker * 2).collect();
    let ends = (0..workers.len() * 2)
        .map(|at| PredictedEnd { in_steps: 1 + at as u32 % 2 * 50, freed_tokens: rng.random_range(0..9000) })
        .collect();
    (workers, pool, rows, offsets, ends)
}

#[test]
fn a_step_allocates_nothing_after_the_warm_up() {
    for (name, backend, pairs) in policy::NAMES.iter().flat_map(|name| {
        [(name, BackendKind::Auto, false), (name, BackendKind::Auto, true), (name, BackendKind::Cpu, false)]
    }) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut policy = policy::build(name, &Parameters::new().backend(backend)).expect("a policy");
        let mut out = Assignment::new();
        for round in 0..220 {
            let (workers, pool, rows, offsets, ends) = step(&mut rng, round < 20, pairs);
            let bonus: Vec<f32> = (0..8 * workers.len()).map(|_| rng.random_range(0.0..900.0)).collect();
            let traffic = Traffic::new().prompts(2500, 1400).small_prompts(500).outputs(400);
            let batch = Batch::draft(&workers, &pool)
                .traffic(traffic)
                .pairs(Pairs { bonus_tokens: &bonus, ..Pairs::default() })
                .projection(16, &rows)
                .ends(PredictedEnds { offsets: &offsets, ends: &ends })
                .check()
                .expect("valid");
            let before = BYTES.get();
            policy.decide(&batch, &mut out);
            let allocated = BYTES.get() - before;
            assert!(
                round < 20 || allocated == 0,
                "{name} on {backend}, pairs {pairs}: allocated {allocated} bytes in step {round}"
            );
        }
    }
}

/// Few admissions of many requests are searched by length and many of few go through the matrix: many of many
/// have room there too.
#[test]
fn a_step_that_goes_another_way_allocates_nothing() {
    let horizon = 30;
    let mut policy = policy::build("exact-oracle", &Parameters::default()).expect("a policy");
    let mut out = Assignment::new();
    let sizes = [(100, 3), (3_000, 0), (100, 3), (3_000, 3), (2_000, 3)];
    for (step, (waiting, free)) in sizes.into_iter().enumerate() {
        let requests: Vec<Request> = (0..waiting)
            .map(|id| Request::new(id, 1 + id as u32 * 271 % 900).passed(id as u32 % 7))
            .collect();
        let workers: Vec<Worker> =
            (0..24).map(|at| Worker::new(9_000 + 100 * at, 9, free.max(u32::from(at == 5)))).collect();
        let rows: Vec<u64> =
            workers.iter().flat_map(|worker| vec![worker.load_tokens; horizon + 1]).collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let batch = Batch::draft(&workers, &pool).projection(horizon, &rows).check().expect("valid");
        let (before, dense) = (BYTES.get(), policy.dense_columns().0);
        policy.decide(&batch, &mut out);
        let (allocated, dense) = (BYTES.get() - before, policy.dense_columns().0 > dense);
        assert_eq!(dense, free == 3, "step {step}");
        assert!(step < 3 || allocated == 0, "{allocated} bytes in step {step}");
    }
}

/// Requests of a router's life, reports included: a round fills the pool up, decides, moves on and ends a
/// third of what runs.
struct Life {
    rng: ChaCha8Rng,
    next_id: u64,
    running: Vec<(u64, u32, u64)>,
    now_ms: u64,
}

impl Life {
    fn step(&mut self, router: &mut Router) {
        let plan = router.step(self.now_ms).expect("a decision");
        assert!(plan.returned.is_empty());
        self.running.extend(plan.admissions.iter().map(|to| (to.id.0, to.worker.0, to.number)));
    }

    fn round(&mut self, router: &mut Router, most_waiting: usize, largest: bool) {
        self.now_ms += 50;
        if largest {
            // Everybody has ended: the step that follows has every slot to fill.
            self.running.drain(..).for_each(|(id, ..)| {
                router.finish(id, None).expect("it runs");
            });
            self.step(router);
        }
        while router.pool().len() < most_waiting {
            self.next_id += 1;
            let mut request = Request::new(self.next_id, self.rng.random_range(1..5000));
            request.prompt_hash = Some(self.next_id % 8);
            if self.next_id.is_multiple_of(3) {
                router.enqueue(request, None).expect("valid");
            } else if let Placement::Placed(to) = router.place(request, self.now_ms).expect("valid") {
                self.running.push((to.id.0, to.worker.0, to.number));
            }
        }
        self.step(router);
        for worker in 0..router.workers().len() as u32 {
            router.progress(worker, 1).expect("a worker");
            let on = |&&(_, other, _): &&(u64, u32, u64)| other == worker;
            let report = WorkerReport::new(
                self.running.iter().filter(on).count() as u32,
                router.workers()[worker as usize].load_tokens,
            )
            .sequence(self.now_ms)
            .last_dispatch(self.running.iter().filter(on).map(|&(_, _, number)| number).max());
            router.report(worker, report, None).expect("a report");
        }
        for at in (0..self.running.len()).rev() {
            match self.rng.random_range(0..9) {
                0..2 => {
                    router.finish(self.running.swap_remove(at).0, None).expect("it runs");
                }
                2 => {
                    router.abort(self.running.swap_remove(at).0, None).expect("it runs");
                }
                3 => router.progress_request(self.running[at].0, 2).expect("it runs"),
                _ => {}
            }
        }
    }
}

#[test]
fn a_router_allocates_nothing_after_the_warm_up() {
    for name in ["level", "exact", "br0", "least-kv", "longest-first", "jsq", "vllm-0.33", "brh-survival"] {
        let worker = WorkerConfig::new(24).capacity(400_000);
        let config = RouterConfig::uniform(12, worker)
            .mode(Mode::Mixed { free_slots: 40 })
            .dispatch_timeout_ms(1_000)
            .silence_timeout_ms(60_000)
            .expire_after_ms(600_000);
        let mut router = Router::new(config, name, &Parameters::default()).expect("valid");
        let mut metrics = Metrics::default();
        let rng = ChaCha8Rng::seed_from_u64(2);
        let mut life = Life { rng, next_id: 0, running: Vec::with_capacity(12 * 24), now_ms: 0 };
        for round in 0..600 {
            let before = BYTES.get();
            let warm_up = round < 300;
            life.round(&mut router, if warm_up { 400 } else { 300 }, warm_up && round % 5 == 0);
            let allocated = BYTES.get() - before;
            assert!(warm_up || allocated == 0, "{name}: {allocated} bytes in round {round}");
        }
        router.metrics(&mut metrics);
        assert!(metrics.counters.finished > 5_000 && metrics.counters.admitted_by_step > 5_000, "{name}");
    }
}

/// Masks and bonuses of a few.
struct Terms(u64);

impl PairTerms for Terms {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        bonus_tokens[0] = 300.0;
        (request.id.0 ^ self.0).is_multiple_of(7)
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        workers[0] = (request.id.0 ^ self.0) % 15;
        (request.id.0 ^ self.0).is_multiple_of(5)
    }
}

/// More wait than the window holds, caches bind so that it moves on, ranks are asked for, some expire in
/// every step.
#[test]
fn windows_and_departures_allocate_nothing_after_the_warm_up() {
    let learned = [("level", None), ("exact", None)];
    let fixed = ["level", "exact", "br0", "longest-first"].map(|name| (name, Some(16)));
    for (name, headroom_steps) in learned.into_iter().chain(fixed) {
        let config = RouterConfig::uniform(4, WorkerConfig::new(40).capacity(40_000))
            .headroom_steps(headroom_steps)
            .expire_after_ms(4_000);
        let parameters = Parameters::new().candidate_window(50);
        let mut router = Router::new(config, name, &parameters).expect("valid");
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (mut next_id, mut running) = (0, Vec::with_capacity(200));
        let (mut expired, mut behind) = (0, 0);
        for round in 0..900u64 {
            let before = BYTES.get();
            let warm_up = round < 600;
            // The largest days are in the warm-up.
            while router.pool().len() < if warm_up && round % 3 == 0 { 900 } else { 600 } {
                next_id += 1;
                let request = Request::new(next_id, rng.random_range(1..9_000));
                let rank = if next_id % 3 == 0 { Some(rng.random_range(0..4u32)) } else { None };
                router
                    .enqueue(request.rank(rank), if next_id % 2 == 0 { Some(50 * round) } else { None })
                    .expect("valid");
            }
            let first = router.pool().candidates().iter().last().map_or(0, |(_, request, _)| request.id.0);
            let plan = if round % 2 == 0 {
                router.step_with(50 * round, &mut Terms(round)).expect("a decision")
            } else {
                router.step(50 * round).expect("a decision")
            };
            running.extend(plan.admissions.iter().map(|to| to.id));
            if !warm_up {
                expired += plan.returned.len();
                behind += plan.admissions.iter().filter(|to| to.id.0 > first).count();
            }
            router.advance();
            for _ in 0..6 {
                if !running.is_empty() {
                    let id = running.swap_remove(rng.random_range(0..running.len()));
                    router.finish(id, None).expect("it runs");
                }
            }
            let allocated = BYTES.get() - before;
            assert!(warm_up || allocated == 0, "{name}: {allocated} bytes in round {round}");
        }
        assert!(
            expired > 100 && behind > 30,
            "{name}: {expired} expired, {behind} entered from behind the window"
        );
    }
}

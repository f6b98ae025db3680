//! What it costs to hold many who wait: events, steps and departures of a router with 1,000, 30,000 and
//! 1,000,000 of them.
//!
//! Workers are full but for what a step fills; `full-cache` leaves slots open that nobody's length fits.
//! Lengths are random, or all equal. Departures are those of 100,000 at once, in the step that returns them,
//! when nobody else waits and when 900,000 do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use balanceroute::policy::Parameters;
use balanceroute::{Request, ReturnReason, Router, RouterConfig, WorkerConfig, WorkerId, WorkerReport};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

const WORKERS: u32 = 8;
const SLOTS: u32 = 64;
/// Slots that a step fills.
const FREED: usize = 64;
/// Who leaves at once.
const LEAVING: u64 = 100_000;
const CAPACITY: u64 = 1 << 29;
const EXPIRE_MS: u64 = 100_000;

struct Waiting {
    router: Router,
    seed: u64,
    equal: bool,
    next_id: u64,
    now_ms: u64,
    running: Vec<u64>,
}

impl Waiting {
    /// A router whose workers are full, with so many who wait.
    fn new(count: u64, equal: bool, expires: bool) -> Self {
        let config = RouterConfig::uniform(WORKERS as usize, WorkerConfig::new(SLOTS).capacity(CAPACITY))
            .expire_after_ms(expires.then_some(EXPIRE_MS));
        let router = Router::new(config, "level", &Parameters::default()).expect("valid");
        let mut waiting = Self { router, seed: count, equal, next_id: 0, now_ms: 0, running: Vec::new() };
        waiting.enqueue(u64::from(WORKERS * SLOTS), None);
        waiting.step();
        waiting.enqueue(count, None);
        // What ends teaches how long outputs are.
        for _ in 0..100 {
            waiting.round();
        }
        waiting
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % bound
    }

    fn request(&mut self) -> Request<WorkerId> {
        let tokens = if self.equal { 3_000 } else { 100 + self.draw(5_900) as u32 };
        self.next_id += 1;
        Request::new(self.next_id, tokens)
    }

    fn enqueue(&mut self, count: u64, rank: Option<u32>) {
        for _ in 0..count {
            let request = self.request().rank(rank);
            self.router.enqueue(request, self.now_ms).expect("valid");
        }
    }

    /// A step, and what it took.
    fn step(&mut self) -> Duration {
        let start = Instant::now();
        let plan = black_box(self.router.step(self.now_ms).expect("a decision"));
        let took = start.elapsed();
        self.running.extend(plan.admissions.iter().map(|dispatch| dispatch.id.0));
        took
    }

    /// Some end, as many come, and a step fills their slots; what the step took.
    fn round(&mut self) -> Duration {
        for _ in 0..FREED {
            let at = self.draw(self.running.len() as u64) as usize;
            self.router.finish(self.running.swap_remove(at), self.now_ms).expect("it runs");
        }
        self.enqueue(FREED as u64, None);
        self.now_ms += 50;
        self.router.advance();
        let took = self.step();
        assert_eq!(self.router.plan().admissions.len(), FREED);
        took
    }

    /// A step in which so many come back for this reason; what it took.
    fn departure(&mut self, reason: ReturnReason) -> Duration {
        let took = self.step();
        let returned = &self.router.plan().returned;
        assert_eq!(returned.len() as u64, LEAVING);
        assert!(returned.iter().all(|returned| returned.reason == reason));
        took
    }

    fn report_capacity(&mut self, capacity: u64) {
        for worker in 0..WORKERS {
            let report = WorkerReport::new(SLOTS, 1).capacity(capacity);
            self.router.report(worker, report, self.now_ms).expect("a report");
        }
    }
}

/// Sums what `run` says it took.
fn timed(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut run: impl FnMut() -> Duration) {
    group.bench_function(name, |bench| bench.iter_custom(|count| (0..count).map(|_| run()).sum()));
}

fn events(criterion: &mut Criterion) {
    for (count, name) in [(1_000, "1k"), (30_000, "30k"), (1_000_000, "1M")] {
        for (equal, lengths) in [(false, "random"), (true, "equal")] {
            let mut waiting = Waiting::new(count, equal, false);
            let mut group = criterion.benchmark_group(format!("{name}-{lengths}"));
            timed(&mut group, "enqueue", || {
                let request = waiting.request();
                let start = Instant::now();
                waiting.router.enqueue(black_box(request), waiting.now_ms).expect("valid");
                let took = start.elapsed();
                waiting.router.abort(request.id, None).expect("it waits");
                took
            });
            // Who waits where, the oldest as often as the youngest.
            let ids: Vec<u64> = waiting.router.pool().iter().map(|(request, _)| request.id.0).collect();
            let mut at = 0;
            timed(&mut group, "abort", || {
                at = (at + 7_919) % ids.len();
                let start = Instant::now();
                let gone = black_box(waiting.router.abort(ids[at], None));
                let took = start.elapsed();
                // Its place is taken by another of the same id, at the end.
                gone.expect("it waits");
                waiting.router.enqueue(Request::new(ids[at], 3_000), waiting.now_ms).expect("valid");
                took
            });
            timed(&mut group, "refused-duplicate", || {
                at = (at + 7_919) % ids.len();
                let twice = Request::new(ids[at], 3_000);
                let start = Instant::now();
                let refused = black_box(waiting.router.enqueue(twice, waiting.now_ms));
                let took = start.elapsed();
                refused.expect_err("it waits");
                took
            });
            timed(&mut group, "step-64", || waiting.round());
            let mut metrics = balanceroute::router::Metrics::default();
            timed(&mut group, "metrics", || {
                let start = Instant::now();
                waiting.router.metrics(black_box(&mut metrics));
                start.elapsed()
            });
            // Every slot is open, and no length fits.
            while let Some(id) = waiting.running.pop() {
                waiting.router.abort(id, None).expect("it runs");
            }
            for worker in 0..WORKERS {
                let full = WorkerReport::new(0, CAPACITY - 300);
                waiting.router.report(worker, full, None).expect("a report");
            }
            timed(&mut group, "full-cache", || {
                waiting.now_ms += 50;
                let took = waiting.step();
                assert!(waiting.router.plan().admissions.is_empty());
                took
            });
            group.finish();
        }
    }
}

fn departures(criterion: &mut Criterion) {
    // Those who leave, and those who stay.
    for (count, name) in [(0, "100k"), (1_000_000 - LEAVING, "1M")] {
        for (equal, lengths) in [(false, "random"), (true, "equal")] {
            let mut group = criterion.benchmark_group(format!("{name}-{lengths}"));
            group.sample_size(10);
            let mut waiting = Waiting::new(count, equal, false);
            waiting.enqueue(LEAVING, Some(3));
            timed(&mut group, "drained", || {
                waiting.router.drain_worker(3).expect("a worker");
                let took = waiting.departure(ReturnReason::WorkerDraining);
                waiting.router.set_accepting(3, true).expect("a worker");
                waiting.enqueue(LEAVING, Some(3));
                took
            });
            timed(&mut group, "never-fit", || {
                // Those of before are short; these are not.
                waiting.router.drain_worker(3).expect("a worker");
                waiting.step();
                waiting.router.set_accepting(3, true).expect("a worker");
                for _ in 0..LEAVING {
                    let request = Request::new(waiting.next_id + 1, 50_000);
                    waiting.next_id += 1;
                    waiting.router.enqueue(request, waiting.now_ms).expect("valid");
                }
                waiting.report_capacity(20_000);
                let took = waiting.departure(ReturnReason::NeverFits);
                waiting.report_capacity(CAPACITY);
                took
            });
            drop(waiting);
            // The oldest hundred thousand expire, those behind them do not.
            let mut waiting = Waiting::new(0, equal, true);
            waiting.now_ms += EXPIRE_MS;
            waiting.step();
            waiting.enqueue(LEAVING, None);
            waiting.now_ms += EXPIRE_MS / 2;
            waiting.enqueue(count, None);
            timed(&mut group, "expire", || {
                waiting.now_ms += EXPIRE_MS / 2;
                let took = waiting.departure(ReturnReason::Expired);
                // As many again, and those behind them a while later.
                let behind: Vec<u64> =
                    waiting.router.pool().iter().map(|(request, _)| request.id.0).collect();
                behind.iter().for_each(|&id| {
                    waiting.router.abort(id, None).expect("it waits");
                });
                waiting.enqueue(LEAVING, None);
                waiting.now_ms += EXPIRE_MS / 2;
                waiting.enqueue(count, None);
                took
            });
            group.finish();
        }
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = config(); targets = events, departures }
criterion_main!(benches);

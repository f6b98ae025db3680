//! What a router costs: per event, per step, and a whole second of traffic on one core.
//!
//! Sizes are (waiting N, workers G, slots B); every slot is taken but for those that the step fills.
//! *traffic* is one simulated second of 20 steps of 50 ms with 100,000 events in it, of which each worker's
//! progress and report, arrivals, ends and single requests' progress are parts: divide by the second for the
//! share of a core, by 20 for what a step's worth of events costs beside the 50 ms that the step lasts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use balanceroute::policy::Parameters;
use balanceroute::{Mode, Placement, Request, Router, RouterConfig, WorkerConfig, WorkerId, WorkerReport};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

type Size = (usize, usize, u32);

const SIZES: [Size; 3] = [(32, 8, 72), (256, 64, 72), (512, 144, 256)];
const STEPS: u64 = 20;
const EVENTS_PER_SECOND: u64 = 100_000;

/// A router in the middle of its life.
struct Life {
    router: Router,
    size: Size,
    seed: u64,
    next_id: u64,
    now_ms: u64,
    running: Vec<u64>,
    acknowledged: Vec<u64>,
}

impl Life {
    fn new(size: Size, mode: Mode) -> Self {
        let (_, workers, slots) = size;
        let config = RouterConfig::uniform(workers, WorkerConfig::new(slots).capacity(1 << 29))
            .mode(mode)
            .dispatch_timeout_ms(5_000)
            .silence_timeout_ms(60_000)
            .expire_after_ms(1 << 40);
        let router = Router::new(config, "level", &Parameters::default()).expect("valid");
        let acknowledged = vec![0; workers];
        let mut life =
            Self { router, size, seed: 3, next_id: 0, now_ms: 0, running: Vec::new(), acknowledged };
        while life.running.len() < workers * slots as usize {
            life.fill();
            life.step();
        }
        // Churned until every buffer has seen its size.
        for _ in 0..40 {
            (0..workers.max(16)).for_each(|_| life.finish_one());
            life.fill();
            life.step();
            life.router.advance();
        }
        life
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % bound
    }

    fn request(&mut self) -> Request<WorkerId> {
        self.next_id += 1;
        Request::new(self.next_id, 100 + self.draw(4_000) as u32)
    }

    fn fill(&mut self) {
        while self.router.pool().len() < self.size.0 {
            let request = self.request();
            self.router.enqueue(request, None).expect("valid");
        }
    }

    fn step(&mut self) -> usize {
        self.now_ms += 50;
        let plan = self.router.step(self.now_ms).expect("a decision");
        assert!(plan.returned.is_empty());
        for to in &plan.admissions {
            self.running.push(to.id.0);
            self.acknowledged[to.worker.0 as usize] = to.number;
        }
        plan.admissions.len()
    }

    fn finish_one(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.draw(self.running.len() as u64) as usize;
        self.router.finish(self.running.swap_remove(at), None).expect("it runs");
    }

    fn report(&mut self, worker: u32) {
        let at = &self.router.workers()[worker as usize];
        let report = WorkerReport::new(at.running, at.load_tokens)
            .sequence(self.now_ms)
            .last_dispatch(self.acknowledged[worker as usize]);
        self.router.report(worker, report, None).expect("a report");
    }

    /// A second of traffic: the time that its steps took of it, and the number of events.
    fn second(&mut self) -> (Duration, u64) {
        let workers = self.size.1 as u64;
        let (mut in_steps, mut events) = (Duration::ZERO, 0);
        for _ in 0..STEPS {
            for worker in 0..self.size.1 as u32 {
                self.router.progress(worker, 1).expect("a worker");
                self.report(worker);
            }
            events += 2 * workers;
            // As many ends as arrivals; the rest is progress of single requests (more than one token a step).
            let churn = self.running.len().min(200) / 2;
            for _ in 0..churn {
                self.finish_one();
                let request = self.request();
                if self.router.pool().len() < 2 * self.size.0 {
                    self.router.enqueue(request, None).expect("valid");
                }
            }
            events += 2 * churn as u64;
            let share = EVENTS_PER_SECOND / STEPS;
            let rest = share.saturating_sub(2 * workers + 2 * churn as u64);
            for _ in 0..rest {
                let at = self.draw(self.running.len() as u64) as usize;
                self.router.progress_request(self.running[at], 1).expect("it runs");
            }
            events += rest;
            let start = Instant::now();
            self.step();
            in_steps += start.elapsed();
        }
        (in_steps, events)
    }
}

fn label((waiting, workers, slots): Size) -> String {
    format!("{waiting}x{workers}x{slots}")
}

/// One event each; what an event takes away is put back outside of the time.
fn events(c: &mut Criterion) {
    for size in SIZES {
        let mut group = c.benchmark_group("router/event");
        let mut life = Life::new(size, Mode::Step);
        let name = label(size);
        let one = |name: &str, from: &str| BenchmarkId::new(name.to_owned(), from);
        group.bench_function(one("enqueue, abort", &name), |bench| {
            bench.iter(|| {
                let request = life.request();
                life.router.enqueue(request, None).expect("valid");
                life.router.abort(request.id, None).expect("it waits")
            });
        });
        group.bench_function(one("progress of a worker", &name), |bench| {
            let mut worker = 0;
            bench.iter(|| {
                worker = (worker + 1) % size.1 as u32;
                life.router.progress(black_box(worker), 1).expect("a worker");
            });
        });
        group.bench_function(one("progress of a request", &name), |bench| {
            let mut at = 0;
            bench.iter(|| {
                at = (at + 7) % life.running.len();
                life.router.progress_request(life.running[at], 1).expect("it runs");
            });
        });
        group.bench_function(one("report", &name), |bench| {
            let mut worker = 0;
            bench.iter(|| {
                worker = (worker + 1) % size.1 as u32;
                life.now_ms += 1;
                life.report(worker);
            });
        });
        drop(life);
        let mut life = Life::new(size, Mode::Arrival);
        (0..size.1).for_each(|_| life.finish_one());
        group.bench_function(one("place on arrival, finish", &name), |bench| {
            bench.iter(|| {
                let request = life.request();
                match life.router.place(request, life.now_ms).expect("valid") {
                    Placement::Placed(to) => life.router.finish(to.id, None).expect("it runs"),
                    Placement::Waits => panic!("slots are free"),
                }
            });
        });
        group.finish();
    }
}

/// A step with eight slots to fill, the counting of what it admits included; everything else is outside of
/// the time.
fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("router/step");
    for size in SIZES {
        let mut life = Life::new(size, Mode::Step);
        group.bench_function(BenchmarkId::new("8 free slots", label(size)), |bench| {
            bench.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    life.fill();
                    life.router.advance();
                    (0..8).for_each(|_| life.finish_one());
                    (0..size.1 as u32).for_each(|worker| life.report(worker));
                    let start = Instant::now();
                    let admitted = life.step();
                    took += start.elapsed();
                    assert_eq!(admitted, 8);
                }
                took
            });
        });
        group.bench_function(BenchmarkId::new("nothing to decide", label(size)), |bench| {
            life.fill();
            bench.iter(|| life.router.step(life.now_ms).expect("a decision").admissions.len());
        });
    }
    group.finish();
}

/// A second of traffic, 100,000 events and 20 steps, on one core.
fn traffic(c: &mut Criterion) {
    let mut group = c.benchmark_group("router/second of 100,000 events");
    group.sample_size(10);
    for size in SIZES {
        let mut life = Life::new(size, Mode::Step);
        let (in_steps, events) = life.second();
        assert!(events >= EVENTS_PER_SECOND, "{events} events");
        println!("{}: {events} events, its {STEPS} steps took {in_steps:?}", label(size));
        group.bench_function(label(size), |bench| bench.iter(|| life.second()));
    }
    group.finish();
}

criterion_group!(benches, events, steps, traffic);
criterion_main!(benches);

//! What making room for growth costs: [`Router::advance`] of clusters whose KV caches are bounded, with a
//! fixed headroom and with room as it is learned. Where nobody is new each worker is looked at once in
//! sixteen steps; one new request in each is about the worst. Both learn when requests end: a part of each.

use std::hint::black_box;
use std::time::Instant;

use balanceroute::policy::Parameters;
use balanceroute::{Request, Router, RouterConfig, WorkerConfig};
use criterion::{Criterion, criterion_group, criterion_main};

/// Full workers, as they are after some thousand ends.
fn cluster(workers: usize, slots: u32, headroom_steps: Option<u32>) -> (Router, Vec<u64>) {
    let worker = WorkerConfig::new(slots).capacity(5_000 * u64::from(slots));
    let config = RouterConfig::uniform(workers, worker).headroom_steps(headroom_steps);
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    let running = workers as u64 * u64::from(slots);
    let mut ids: Vec<u64> = (0..running).collect();
    for &id in &ids {
        router.adopt(request(id), id as u32 % workers as u32, (id * 7_919 % 1_200) as u32).expect("valid");
    }
    for _ in 0..600 {
        router.advance();
        turn_over(&mut router, &mut ids, running / 600 + 1, workers);
    }
    (router, ids)
}

fn request(id: u64) -> Request<balanceroute::WorkerId> {
    Request::new(id, 500 + (id * 104_729 % 5_000) as u32)
}

/// So many of the oldest end, and as many begin in their places.
fn turn_over(router: &mut Router, ids: &mut [u64], count: u64, workers: usize) {
    for _ in 0..count {
        let oldest = ids.iter_mut().min().expect("somebody runs");
        let worker = router.running_on(*oldest).expect("it runs");
        router.finish(*oldest, None).expect("it runs");
        *oldest += workers as u64 * 65_536;
        router.adopt(request(*oldest), worker, 0).expect("valid");
    }
}

fn advance(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("advance");
    for (workers, slots) in [(8, 72), (8, 256), (64, 72)] {
        for (name, headroom_steps) in [("fixed", Some(64)), ("learned", None)] {
            // Ages alone, then one new request in each worker.
            for turned in [0, workers as u64] {
                let (mut router, mut ids) = cluster(workers, slots, headroom_steps);
                group.bench_function(format!("{workers}x{slots} {name}, {turned} new"), |bencher| {
                    bencher.iter_custom(|rounds| {
                        (0..rounds)
                            .map(|_| {
                                turn_over(&mut router, &mut ids, turned, workers);
                                let start = Instant::now();
                                black_box(&mut router).advance();
                                start.elapsed()
                            })
                            .sum()
                    });
                });
            }
        }
    }
}

criterion_group!(benches, advance);
criterion_main!(benches);

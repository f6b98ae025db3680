//! What the flight recorder costs: the calls of a router with it and without, and the change of a segment.

use std::hint::black_box;
use std::time::Instant;

use balanceroute::policy::Parameters;
use balanceroute::record::RecordConfig;
use balanceroute::{Request, Router, RouterConfig, WorkerReport};

const WORKERS: u32 = 64;
const SLOTS: u32 = 64;
/// Runs of each figure; the median counts.
const RUNS: usize = 9;

fn router() -> Router {
    let mut router = Router::new(RouterConfig::new(WORKERS as usize, SLOTS), "level", &Parameters::default())
        .expect("a valid configuration");
    for id in 0..u64::from(WORKERS * SLOTS - WORKERS) {
        let worker = id as u32 % WORKERS;
        router.adopt(Request::new(id, 2_000), worker, 10).expect("new");
    }
    router
}

/// So many times five calls: a request that comes and goes, a report, progress of one and of a worker.
fn events(router: &mut Router, rounds: u64) {
    for round in 0..rounds {
        let (id, worker) = (1_000_000 + round, (round % u64::from(WORKERS)) as u32);
        router.enqueue(Request::new(id, 900), round / 100).expect("new");
        router.abort(id, None).expect("it waits");
        router.progress_request(round % 4_000, 1).expect("it runs");
        let report = WorkerReport::new(SLOTS - 1, 130_000).sequence(round);
        black_box(router.report(worker, report, round / 100).expect("a worker"));
        router.progress(worker, 1).expect("a worker");
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let folder = std::env::temp_dir().join(format!("balanceroute-bench-{}", std::process::id()));
    let rounds = 20_000;
    let (mut plain, mut recorded, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    // Alternating, so that both see the machine alike.
    for _ in 0..RUNS {
        for record in [false, true] {
            let mut router = router();
            if record {
                router.record(&RecordConfig::new(&folder)).expect("a folder");
            }
            events(&mut router, rounds / 10);
            let before = router.recording();
            let start = Instant::now();
            events(&mut router, rounds);
            let nanoseconds = start.elapsed().as_nanos() as f64 / (5 * rounds) as f64;
            if record { &mut recorded } else { &mut plain }.push(nanoseconds);
            if let (Some(before), Some(after)) = (before, router.recording()) {
                assert!(after.stopped.is_none());
                bytes = (after.bytes - before.bytes) as f64 / (after.calls - before.calls) as f64;
            }
        }
    }
    let (plain, recorded) = (median(plain), median(recorded));
    println!("{WORKERS} workers of {SLOTS} slots, a call in the mean of {} calls", 5 * rounds);
    println!("  without a recorder     {plain:7.0} ns");
    println!("  with one               {recorded:7.0} ns   + {:.0} ns, {bytes:.0} bytes", recorded - plain);

    for waiting in [0, 10_000, 1_000_000] {
        let mut router = router();
        for id in 0..waiting {
            router.enqueue(Request::new(10_000_000 + id, 900), 0).expect("new");
        }
        let mut times = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            router.record(&RecordConfig::new(&folder)).expect("a folder");
            times.push(start.elapsed().as_secs_f64() * 1e3);
            router.stop_recording();
        }
        println!("  a segment of 16 MiB, {waiting:>7} waiting {:7.1} ms", median(times));
    }
    let _ = std::fs::remove_dir_all(&folder);
}

//! A step allocates nothing once its buffers have seen their largest size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use balanceroute::backend::BackendKind;
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, PredictedEnd, PredictedEnds, Request, Traffic, Worker};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A random step: workers with up to three free slots, a pool, a projection and predicted ends. Waits of up to 3000 steps are mostly
/// overdue, waits of up to 100 are not: the two leave by different ways.
fn step(
    rng: &mut ChaCha8Rng,
    largest: bool,
    pairs: bool,
) -> (Vec<Worker>, Pool, Vec<u64>, Vec<u32>, Vec<PredictedEnd>) {
    let (workers, waiting) = (24, if largest { 400 } else { rng.random_range(0..400u64) });
    let longest_wait = if rng.random_range(0..2) == 0 { 100 } else { 3000 };
    let pool: Vec<Request> = (0..waiting)
        .map(|id| {
            let request =
                Request::new(id, rng.random_range(1..5000)).waited(rng.random_range(0..longest_wait));
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
        let mut policy =
            policy::build(name, &Parameters { backend, ..Parameters::default() }).expect("a policy");
        let mut out = Assignment::new();
        for round in 0..220 {
            let (workers, pool, rows, offsets, ends) = step(&mut rng, round < 20, pairs);
            let bonus: Vec<f32> = (0..8 * workers.len()).map(|_| rng.random_range(0.0..900.0)).collect();
            let traffic = Traffic {
                mean_prompt_tokens: 2500,
                sd_prompt_tokens: 1400,
                small_prompt_tokens: 500,
                mean_output_tokens: 400,
            };
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
            assert!(round < 20 || allocated == 0, "{name} allocated {allocated} bytes in step {round}");
        }
    }
}

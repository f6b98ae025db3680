//! What one decision costs: `level`, `exact` and BalanceRoute, beside the naive matrix and touching the
//! inputs once.
//!
//! Sizes are (waiting N, workers G, admissions K). *Hot* repeats one batch; *cold* walks through enough
//! batches to leave the caches. Every answer is checked against the oracle before it is timed.

#[path = "common/step.rs"]
mod step;

use std::hint::black_box;

use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Request};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use step::{Size, Step};

const SIZES: [Size; 6] =
    [(256, 16, 8), (512, 64, 8), (512, 64, 64), (1024, 144, 8), (1024, 144, 144), (4096, 256, 256)];

/// F over the whole matrix, scored again after each admission: what a first implementation does.
fn naive_matrix(step: &Step, lengths: &[i64], admitted: &mut Vec<(usize, usize)>) {
    let workers = step.workers.len() as i64;
    let mut loads: Vec<i64> = step.workers.iter().map(|worker| worker.load_tokens as i64).collect();
    let mut open: Vec<u32> = step.workers.iter().map(|worker| worker.free_slots).collect();
    let mut taken = vec![false; lengths.len()];
    admitted.clear();
    loop {
        let envelope = loads.iter().copied().max().unwrap_or(0);
        let mut best = (i64::MIN, i64::MAX, 0, 0);
        for (g, &load) in loads.iter().enumerate() {
            if open[g] == 0 {
                continue;
            }
            for (i, &tokens) in lengths.iter().enumerate() {
                let score = tokens - workers * (tokens - (envelope - load)).max(0);
                if !taken[i] && (score > best.0 || (score == best.0 && load < best.1)) {
                    best = (score, load, g, i);
                }
            }
        }
        if best.0 == i64::MIN {
            return;
        }
        let (_, _, g, i) = best;
        taken[i] = true;
        open[g] -= 1;
        loads[g] += lengths[i];
        admitted.push((g, i));
    }
}

/// Reads every length, wait and load once: no decision is cheaper.
fn touch(step: &Step, lengths: &[i64], passed: &[u32]) -> i64 {
    let workers: i64 = step.workers.iter().map(|worker| worker.load_tokens as i64).sum();
    workers + lengths.iter().sum::<i64>() + passed.iter().map(|&passed| i64::from(passed)).sum::<i64>()
}

/// Steps that BalanceRoute looks ahead as published.
const HORIZON: usize = 80;

/// Loads that grow by a token per running request and fall now and then.
fn projected(step: &Step) -> Vec<u64> {
    let row = |(at, worker): (usize, &balanceroute::Worker)| {
        let load = worker.load_tokens;
        (0..=HORIZON).map(move |h| load + 72 * h as u64 - 4300 * ((h + at) / 17) as u64)
    };
    step.workers.iter().enumerate().flat_map(row).collect()
}

fn decide(c: &mut Criterion) {
    for size in SIZES {
        let label = format!("{}x{}x{}", size.0, size.1, size.2);
        let mut group = c.benchmark_group(label);
        let step = Step::new(1, size);
        let lengths: Vec<i64> =
            step.pool.iter().map(|(request, _)| i64::from(request.prompt_tokens)).collect();
        let passed: Vec<u32> = step.pool.iter().map(|(request, _)| request.passed).collect();
        // About 64 MiB of pools: more than the last-level share of one core.
        let cold: Vec<Step> =
            (0..(64 << 20) / (size.0 * 100 + size.1 * 80)).map(|seed| Step::new(seed as u64, size)).collect();

        for name in ["level", "exact", "br0"] {
            let mut policy = policy::build(name, &Parameters::default()).expect("known");
            let mut out = Assignment::new();
            let batch = step.batch();
            policy.decide(&batch, &mut out);
            assert_eq!(out.admitted.len(), size.2);
            if size.0 <= 512 && size.2 <= 8 {
                let mut expected = Assignment::new();
                policy.decide_by_reference(&batch, &mut expected).expect("a rule");
                assert_eq!(out, expected, "{name} and the oracle differ");
            }
            group.bench_function(BenchmarkId::new(name, "hot"), |b| {
                b.iter(|| policy.decide(black_box(&batch), &mut out));
            });
            let mut at = 0;
            let batches: Vec<Batch<'_>> = cold.iter().map(Step::batch).collect();
            group.bench_function(BenchmarkId::new(name, "cold"), |b| {
                b.iter(|| {
                    at = (at + 1) % batches.len();
                    policy.decide(black_box(&batches[at]), &mut out);
                });
            });
        }
        let (mut ahead, mut out) =
            (policy::build("brh-oracle", &Parameters::default()).expect("known"), Assignment::new());
        let rows = projected(&step);
        let batch = Batch::draft(&step.workers, &step.pool).traffic(step::TRAFFIC).projection(HORIZON, &rows);
        let batch = batch.check().expect("valid");
        group.bench_function(BenchmarkId::new("brh-oracle", "hot"), |b| {
            b.iter(|| ahead.decide(black_box(&batch), &mut out));
        });
        group.bench_function("validation", |b| b.iter(|| black_box(&step).batch().open_slots()));
        let mut admitted = Vec::new();
        if size.0 * size.1 * size.2 <= 1 << 22 {
            group.bench_function("naive-matrix", |b| {
                b.iter(|| naive_matrix(black_box(&step), &lengths, &mut admitted));
            });
        }
        group.bench_function("touch-only", |b| b.iter(|| touch(black_box(&step), &lengths, &passed)));
        group.finish();
    }
}

/// What keeping the length order costs: one request arrives and one leaves.
fn events(c: &mut Criterion) {
    for waiting in [512, 4096] {
        let mut step = Step::new(1, (waiting, 64, 8));
        let lengths: Vec<u32> = step.pool.iter().map(|(request, _)| request.prompt_tokens).collect();
        let mut id = waiting as u64;
        c.bench_function(&format!("pool/{waiting}/insert-remove"), |b| {
            b.iter(|| {
                let tokens = lengths[id as usize * 7 % lengths.len()];
                step.pool.insert(Request::new(id, tokens)).expect("valid");
                let gone = step.pool.remove(id - waiting as u64);
                id += 1;
                gone
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(30);
    targets = decide, events
}
criterion_main!(benches);

//! What one decision costs here and elsewhere, on the same inputs: one table on stdout.
//!
//! Every answer is checked before it is timed. A figure is the least of some samples, each of some
//! milliseconds.

#[cfg(feature = "dynamo")]
mod dynamo;
mod solvers;
#[path = "../../common/step.rs"]
mod step;

use std::hint::black_box;
use std::time::{Duration, Instant};

use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Worker};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use step::{Size, Step, TRAFFIC};

const SIZES: [Size; 7] = [
    (32, 8, 4),
    (256, 16, 8),
    (256, 32, 32),
    (512, 64, 8),
    (512, 64, 64),
    (1024, 144, 144),
    (4096, 256, 256),
];
/// A dispatch of the published proxy, written in Python: median as its authors print it.
const PROXY_DISPATCH: Duration = Duration::from_micros(1200);
const SAMPLES: usize = 25;
const SAMPLE_TIME: Duration = Duration::from_millis(8);

/// Prefix affinity: a quarter of the requests has a prefix of up to five blocks cached somewhere. One row per
/// request.
fn bonus_rows((waiting, workers, _): Size) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut rows = vec![0.0; waiting * workers];
    for row in rows.chunks_mut(workers) {
        let at = rng.random_range(0..4 * workers);
        let tokens = rng.random_range(0..6u32) * 512;
        if let Some(bonus) = row.get_mut(at) {
            *bonus = tokens as f32;
        }
    }
    rows
}

/// A copy of the requests in which each names its row of pair terms where it has a bonus.
fn with_rows(pool: &Pool, bonus_tokens: &[f32], workers: usize) -> Pool {
    let requests: Vec<Request> = pool
        .iter()
        .zip(bonus_tokens.chunks(workers))
        .enumerate()
        .map(
            |(row, ((_, request, _), bonus))| {
                if bonus.iter().any(|&tokens| tokens != 0.0) { request.pairs(row as u32) } else { *request }
            },
        )
        .collect();
    Pool::from_requests(&requests).expect("valid")
}

/// F of every request on every free slot: one row per slot.
fn matrix(step: &Step) -> Vec<Vec<i64>> {
    let envelope = step.workers.iter().map(|worker| worker.load_tokens).max().unwrap_or(0) as i64;
    let g = step.workers.len() as i64;
    let slots = step.workers.iter().flat_map(|worker| {
        std::iter::repeat_n(envelope - worker.load_tokens as i64, worker.free_slots as usize)
    });
    slots
        .map(|margin| {
            let tokens = step.pool.iter().map(|(request, _)| i64::from(request.prompt_tokens));
            tokens.map(|tokens| tokens - g * (tokens - margin).max(0)).collect()
        })
        .collect()
}

/// Least mean time of a call over the samples: what the machine does when nobody disturbs it.
fn time<R>(mut call: impl FnMut() -> R) -> Duration {
    let mut calls = 1u32;
    loop {
        let start = Instant::now();
        (0..calls).for_each(|_| drop(black_box(call())));
        if start.elapsed() >= SAMPLE_TIME / 2 {
            break;
        }
        calls = calls.saturating_mul(2);
    }
    let sample = |_| {
        let start = Instant::now();
        (0..calls).for_each(|_| drop(black_box(call())));
        start.elapsed() / calls
    };
    (0..SAMPLES).map(sample).min().unwrap_or_default()
}

fn check(batch: &Batch<'_>, answer: &Assignment, admissions: usize) {
    assert_eq!(answer.admitted.len(), admissions, "every free slot is filled");
    let mut open: Vec<u32> = batch.workers().iter().map(Worker::open_slots).collect();
    let mut seen = std::collections::HashSet::new();
    for pick in &answer.admitted {
        assert!(seen.insert(pick.id) && open[pick.worker.index()] > 0);
        open[pick.worker.index()] -= 1;
    }
}

/// Time of one batch under one of our policies, checked against its oracle where that takes less than
/// minutes.
fn ours(name: &str, step: &Step, size: Size, affinity: bool) -> Duration {
    let bonus_tokens = bonus_rows(size);
    let pool = with_rows(&step.pool, &bonus_tokens, size.1);
    let pairs = Pairs { bonus_tokens: &bonus_tokens, ..Pairs::default() };
    let with_pairs = Batch::draft(&step.workers, &pool).traffic(TRAFFIC).pairs(pairs);
    let batch = if affinity { with_pairs.check().expect("valid") } else { step.batch() };
    let mut policy = policy::build(name, &Parameters::default()).expect("known");
    let mut out = Assignment::new();
    policy.decide(&batch, &mut out);
    check(&batch, &out, size.2);
    if size.0 * size.1 * size.2 <= 1 << 17 {
        let mut expected = Assignment::new();
        policy.decide_by_reference(&batch, &mut expected).expect("a rule");
        assert_eq!(out, expected, "{name} and the oracle differ");
    }
    time(|| policy.decide(black_box(&batch), &mut out))
}

fn micros(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    let digits = match us {
        us if us >= 100.0 => 0,
        us if us >= 10.0 => 1,
        us if us >= 1.0 => 2,
        _ => 3,
    };
    format!("{us:.digits$}")
}

/// What the peers and we take for one size.
struct Row {
    size: Size,
    /// Time of a whole batch, by decider.
    batches: Vec<(&'static str, Duration)>,
}

fn measure(size: Size) -> Row {
    let step = Step::new(1, size);
    let (waiting, admissions) = (size.0 as u32, size.2 as u32);
    let mut batches = vec![
        ("`level`", ours("level", &step, size, false)),
        ("`exact`", ours("exact", &step, size, false)),
        ("`level`, affinity", ours("level", &step, size, true)),
    ];
    #[cfg(feature = "dynamo")]
    {
        let one = dynamo::select(&step);
        batches.push(("dynamo, K requests", one * admissions));
        batches.push(("dynamo, N requests", one * waiting));
    }
    let [munkres, lsap] = solvers::solve(&matrix(&step));
    batches.push(("kuhn_munkres", munkres));
    batches.push(("lsap", lsap));
    batches.push(("published proxy, K requests", PROXY_DISPATCH * admissions));
    batches.push(("published proxy, N requests", PROXY_DISPATCH * waiting));
    Row { size, batches }
}

fn main() {
    let rows: Vec<Row> = SIZES.into_iter().map(measure).collect();
    // Requests that a batch stands for, by its size; and the columns that do not stand for so many.
    type Share = fn(Size) -> usize;
    let tables: [(&str, Share, &str); 3] = [
        ("us per batch", |_| 1, ""),
        ("us per admission", |size| size.2, ", N requests"),
        ("us per waiting request", |size| size.0, ", K requests"),
    ];
    for (title, per, without) in tables {
        let kept: Vec<usize> = (0..rows[0].batches.len())
            .filter(|&at| without.is_empty() || !rows[0].batches[at].0.ends_with(without))
            .collect();
        let names: Vec<&str> = kept.iter().map(|&at| rows[0].batches[at].0).collect();
        println!("| {title}, N x G x K | {} |\n|{}", names.join(" | "), "---|".repeat(kept.len() + 1));
        for Row { size, batches } in &rows {
            let share = per(*size) as f64;
            let cells: Vec<String> = kept.iter().map(|&at| micros(batches[at].1.div_f64(share))).collect();
            println!("| {} x {} x {} | {} |", size.0, size.1, size.2, cells.join(" | "));
        }
        println!();
    }
}

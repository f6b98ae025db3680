//! Times: columns of each instruction set, whole decisions, and where the structured search is faster.

use std::time::Instant;

use balanceroute::backend::BackendKind;
use balanceroute::backend::cpu::{ColumnProbe, Isa};
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Worker};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::machine::on_cpu;
use super::outcome::{AutoReport, Crossing, PairedDecision, PathReport};
use crate::error::SimError;

/// Waiting requests of a measured column.
pub(super) const WAITING: usize = 1024;
/// Steps looked ahead by a measured column.
pub(super) const HORIZON: usize = 16;

/// Compares every measured path of the CPU with the definition, without a horizon and with one, and with the
/// plain lanes.
pub(super) fn compare(paths: &mut [PathReport], definition: [Option<f64>; 2]) {
    let plain = |time: fn(&PathReport) -> Option<f64>| {
        let of_plain = |path: &&PathReport| path.name.starts_with(Isa::Scalar.name());
        paths.iter().filter(of_plain).filter_map(time).min_by(f64::total_cmp)
    };
    let plain = [plain(|path| path.ns_per_cell), plain(|path| path.ns_per_cell_horizon)];
    let times = |slow: Option<f64>, fast: Option<f64>| slow.zip(fast).map(|(slow, fast)| slow / fast);
    for path in paths {
        path.times_definition = times(definition[0], path.ns_per_cell);
        path.times_definition_horizon = times(definition[1], path.ns_per_cell_horizon);
        path.times_plain_lanes = times(plain[0], path.ns_per_cell);
        path.times_plain_lanes_horizon = times(plain[1], path.ns_per_cell_horizon);
    }
}

/// Time per request, worker and step by the definition of a score, one request at a time.
pub(super) fn definition(steps: usize) -> Option<f64> {
    let probe = ColumnProbe::new(Isa::Scalar, WAITING, steps)?;
    let pass = least_ns(300, || {
        std::hint::black_box(std::hint::black_box(&probe).by_definition());
    });
    Some(pass / (probe.cells() * steps) as f64)
}

/// The least time of one call, in nanoseconds: others may use the machine as well.
fn least_ns(rounds: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    call();
    let calls = (20_000 / start.elapsed().as_nanos().max(1)).clamp(1, 1000) as u32;
    let mut least = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..calls {
            call();
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(calls));
    }
    least
}

pub(super) fn measure(path: &mut PathReport, isa: Isa) {
    let per_cell = |steps: usize| {
        let mut probe = ColumnProbe::new(isa, WAITING, steps)?;
        let pass = least_ns(300, || {
            std::hint::black_box(probe.pass());
        });
        let passes = 8;
        // Only there are registers enough for the blocks that are scored at once.
        let peak = (isa == Isa::Avx512).then(|| {
            least_ns(300, || {
                std::hint::black_box(probe.spin(std::hint::black_box(passes)));
            }) / passes as f64
        });
        Some((pass / (probe.cells() * steps) as f64, peak.map(|peak| peak / pass)))
    };
    if let Some((ns, fraction)) = per_cell(1) {
        (path.ns_per_cell, path.peak_fraction) = (Some(ns), fraction);
    }
    if let Some((ns, fraction)) = per_cell(HORIZON + 1) {
        (path.ns_per_cell_horizon, path.peak_fraction_horizon) = (Some(ns), fraction);
    }
}

pub(super) fn auto(definition: [Option<f64>; 2]) -> Result<AutoReport, SimError> {
    let mut crossover = Vec::new();
    let mut structured_from = Vec::new();
    let workers = 16;
    for horizon in [0, HORIZON] {
        let mut from = None;
        for waiting in [16, 64, 256, 1024, 4096] {
            let crossing = cross(waiting, workers, horizon)?;
            if crossing.structured_ns < crossing.dense_ns {
                from = from.or(Some(waiting));
            } else {
                from = None;
            }
            crossover.push(crossing);
        }
        structured_from.push((horizon, from));
    }
    let describe = policy::build("exact", &Parameters::default())?.describe();
    let paired = [(512, 64, 8, 0), (1024, 144, 144, 0), (1024, 144, 144, HORIZON)]
        .into_iter()
        .map(|(waiting, workers, open, horizon)| {
            let made = Made::new(waiting, workers, open, horizon, true);
            let ns = made.least_ns(BackendKind::Auto)?;
            Ok(PairedDecision { waiting, workers, open, horizon, ns })
        })
        .collect::<Result<_, SimError>>()?;
    Ok(AutoReport {
        isa: Isa::best().to_string(),
        definition_ns_per_cell: definition[0],
        definition_ns_per_cell_horizon: definition[1],
        describe,
        structured_from,
        crossover,
        paired,
    })
}

fn cross(waiting: usize, workers: usize, horizon: usize) -> Result<Crossing, SimError> {
    let made = Made::new(waiting, workers, workers / 2, horizon, false);
    let structured_ns = made.time(&on_cpu().testing(true), 300)?;
    let dense_ns = made.least_ns(BackendKind::Cpu)?;
    Ok(Crossing { waiting, workers, horizon, structured_ns, dense_ns })
}

/// A saturated step that is decided again and again: one slot free on each open worker. With pairs, one
/// request in three has a cached prefix on a few workers and one in sixteen is refused by some.
pub(super) struct Made {
    workers: Vec<Worker>,
    pool: Pool,
    rows: Vec<u64>,
    bonus: Vec<f32>,
    eligible: Vec<u64>,
    horizon: usize,
}

impl Made {
    pub(super) fn new(waiting: usize, workers: usize, open: usize, horizon: usize, pairs: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let requests: Vec<Request> = (0..waiting)
            .map(|id| {
                let tokens = (0..4).map(|_| rng.random_range(0..1900u32)).sum::<u32>() + 1;
                let request = Request::new(id as u64, tokens).passed(rng.random_range(0..30));
                if pairs { request.pairs(id as u32) } else { request }
            })
            .collect();
        let list: Vec<Worker> = (0..workers)
            .map(|worker| {
                let free = u32::from(worker * open / workers != (worker + 1) * open / workers);
                Worker::new(309_600 + rng.random_range(0..6000) - u64::from(free) * 5000, 71, free)
            })
            .collect();
        let mut rows = Vec::new();
        if horizon > 0 {
            for worker in &list {
                let mut load = worker.load_tokens;
                for _ in 0..=horizon {
                    rows.push(load);
                    load = load + 72 - if rng.random_range(0..17) == 0 { 4300 } else { 0 };
                }
            }
        }
        let words = workers.div_ceil(64);
        let (mut bonus, mut eligible) = (Vec::new(), Vec::new());
        if pairs {
            bonus.resize(waiting * workers, 0.0);
            eligible.resize(waiting * words, u64::MAX);
            for id in 0..waiting {
                if id % 3 == 0 {
                    for _ in 0..1 + workers / 16 {
                        bonus[id * workers + rng.random_range(0..workers)] = rng.random_range(100.0..2000.0);
                    }
                }
                if id % 16 == 0 {
                    eligible[id * words] = rng.random();
                }
            }
        }
        let pool = Pool::from_requests(&requests).expect("ids and lengths are valid");
        Self { workers: list, pool, rows, bonus, eligible, horizon }
    }

    fn least_ns(&self, backend: BackendKind) -> Result<f64, SimError> {
        self.time(&on_cpu().backend(backend), 300)
    }

    pub(super) fn time(&self, parameters: &Parameters, rounds: u32) -> Result<f64, SimError> {
        let pairs = Pairs { bonus_tokens: &self.bonus, eligible: &self.eligible, ..Pairs::default() };
        let mut draft = Batch::draft(&self.workers, &self.pool).pairs(pairs);
        if self.horizon > 0 {
            draft = draft.projection(self.horizon, &self.rows);
        }
        let batch = draft.check().expect("a valid batch");
        let name = if self.horizon > 0 { "exact-oracle" } else { "exact" };
        let mut policy = policy::build(name, parameters)?;
        let mut out = Assignment::new();
        Ok(least_ns(rounds, || policy.decide(&batch, &mut out)))
    }
}

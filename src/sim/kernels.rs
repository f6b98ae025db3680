//! What this machine has: every path tested against the oracle, measured, and compared with its own registers.

use std::fmt::Write as _;
use std::time::Instant;

use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::SimError;
use crate::assignment::Assignment;
use crate::backend::BackendKind;
use crate::backend::ascend::AscendParameters;
use crate::backend::ascend::result::Counters;
use crate::backend::cpu::{ColumnProbe, Isa, Tier};
use crate::batch::{Batch, Pairs, Request, Traffic, Worker};
use crate::policy::{self, Parameters, Policy};
use crate::pool::Pool;

/// Policies that the self-test runs.
const POLICIES: [&str; 3] = ["exact", "exact-oracle", "level"];
/// Waiting requests of a measured column.
const WAITING: usize = 1024;
/// How long the self-test waits for a device.
const SELF_TEST_MS: u32 = 10_000;
/// Steps looked ahead by a measured column.
const HORIZON: usize = 16;

/// One way to evaluate a batch on one instruction set.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Instruction set and kind.
    pub name: String,
    /// Whether it runs here.
    pub available: bool,
    /// Why it does, or does not.
    pub reason: String,
    /// Batches tested against the oracle: as many as were asked for, and more until so many stayed in the path's lanes.
    pub batches: u64,
    /// Those of them with no column that the path's lanes could not hold exactly: such columns are scored one request at a time.
    pub batches_in_lanes: u64,
    /// How many answers differed.
    pub mismatches: u64,
    /// Time per request and worker without a horizon.
    pub ns_per_cell: Option<f64>,
    /// Time per request, worker and step with a horizon of 16, every knot of it between the lengths of every run: the arithmetic alone.
    pub ns_per_cell_horizon: Option<f64>,
    /// The same for a whole column as a decision scores it: requests in order of length, knots put in order and cut to each run.
    pub ns_per_cell_horizon_in_order: Option<f64>,
    /// How near a pass comes to its own instructions on registers alone, without a horizon. Above 1 where there are too few registers to hold even
    /// these: a yardstick for AVX-512 only.
    pub peak_fraction: Option<f64>,
    /// The same with the horizon.
    pub peak_fraction_horizon: Option<f64>,
    /// How many times as fast as the definition of a score, one request at a time, without a horizon.
    pub times_definition: Option<f64>,
    /// The same with the horizon.
    pub times_definition_horizon: Option<f64>,
    /// How many times as fast as the fastest of the plain lanes, which the compiler turns into the vector instructions of the target's baseline (SSE2
    /// on x86-64), without a horizon.
    pub times_plain_lanes: Option<f64>,
    /// The same with the horizon.
    pub times_plain_lanes_horizon: Option<f64>,
}

impl PathReport {
    /// Nothing tested or measured yet.
    fn new(name: String, available: bool, reason: String) -> Self {
        Self {
            name,
            available,
            reason,
            batches: 0,
            batches_in_lanes: 0,
            mismatches: 0,
            ns_per_cell: None,
            ns_per_cell_horizon: None,
            ns_per_cell_horizon_in_order: None,
            peak_fraction: None,
            peak_fraction_horizon: None,
            times_definition: None,
            times_definition_horizon: None,
            times_plain_lanes: None,
            times_plain_lanes_horizon: None,
        }
    }
}

/// Compares every measured path of the CPU with the definition, without a horizon and with one, and with the plain lanes.
fn compare(paths: &mut [PathReport], definition: [Option<f64>; 2]) {
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
fn definition(steps: usize) -> Option<f64> {
    let probe = ColumnProbe::new(Isa::Scalar, Tier::I32, WAITING, steps)?;
    let pass = least_ns(300, || {
        std::hint::black_box(std::hint::black_box(&probe).by_definition());
    });
    Some(pass / (probe.cells() * steps) as f64)
}

/// One size of the comparison between structured search and matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Crossing {
    /// Waiting requests.
    pub waiting: usize,
    /// Workers, half of them open.
    pub workers: usize,
    /// Steps looked ahead.
    pub horizon: usize,
    /// A decision by length-ordered search.
    pub structured_ns: f64,
    /// The same decision by the matrix.
    pub dense_ns: f64,
}

/// What `auto` does here.
#[derive(Clone, Debug, Serialize)]
pub struct AutoReport {
    /// The fastest instruction set.
    pub isa: String,
    /// Time per request and worker by the definition of a score, one request at a time, without a horizon.
    pub definition_ns_per_cell: Option<f64>,
    /// Time per request, worker and step by the same definition with a horizon of 16.
    pub definition_ns_per_cell_horizon: Option<f64>,
    /// In words.
    pub describe: String,
    /// Per horizon the fewest waiting requests from which the structured search is faster at every larger measured size.
    pub structured_from: Vec<(usize, Option<usize>)>,
    /// What was measured.
    pub crossover: Vec<Crossing>,
    /// Decisions that only the matrix can make: affinity and masks.
    pub paired: Vec<PairedDecision>,
}

/// A whole decision with a bonus matrix and masks.
#[derive(Clone, Debug, Serialize)]
pub struct PairedDecision {
    /// Waiting requests.
    pub waiting: usize,
    /// Workers.
    pub workers: usize,
    /// Workers with a free slot: as many admissions.
    pub open: usize,
    /// Steps looked ahead.
    pub horizon: usize,
    /// The whole decision.
    pub ns: f64,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// The processor.
    pub cpu: String,
    /// Every path.
    pub paths: Vec<PathReport>,
    /// The choice.
    pub auto: AutoReport,
}

/// Tests and measures everything.
///
/// # Errors
/// A policy that cannot be built.
pub fn report(batches: u64) -> Result<KernelReport, SimError> {
    let mut paths = Vec::new();
    let mut contenders = Vec::new();
    for isa in Isa::ALL {
        for lanes in std::iter::once(None).chain(Tier::ALL.map(Some)) {
            let kind = lanes.map_or("structured".to_owned(), |lanes| format!("dense-{}", lanes.name()));
            let available = isa.is_available();
            let reason = if available { "this CPU has it" } else { "this CPU or this build lacks it" };
            let path = PathReport::new(format!("{isa}-{kind}"), available, reason.to_owned());
            if available {
                let backend = if lanes.is_some() { BackendKind::Cpu } else { BackendKind::Auto };
                let search_by_length = lanes.is_none();
                let parameters = on_cpu().isa(Some(isa)).backend(backend).testing(lanes, search_by_length);
                contenders.push((paths.len(), build_all(&parameters)?));
            }
            paths.push(path);
            if let (Some(tier), Some(path)) = (lanes, paths.last_mut()) {
                measure(path, isa, tier);
            }
        }
    }
    let definition = [definition(1), definition(HORIZON + 1)];
    compare(&mut paths, definition);
    // A test waits for the answer; a decision would not.
    let ascend = AscendParameters::new().answer_timeout_ms(SELF_TEST_MS);
    let parameters = Parameters::new().backend(BackendKind::Ascend).ascend(ascend);
    let (available, reason) = device(&parameters);
    let mut path = PathReport::new(BackendKind::Ascend.name().to_owned(), available, reason);
    if available {
        contenders.push((paths.len(), build_all(&parameters)?));
        // Whole decisions, launch and copies included: 64 picks.
        let (waiting, workers) = (WAITING, 64);
        let per_cell = |horizon| -> Result<Option<f64>, SimError> {
            let made = Made::new(waiting, workers, workers, horizon, true);
            let cells = (waiting * workers * (horizon + 1)) as f64;
            Ok(Some(made.time(&parameters, 5)? / cells))
        };
        (path.ns_per_cell, path.ns_per_cell_horizon) = (per_cell(0)?, per_cell(HORIZON)?);
    }
    paths.push(path);
    test(batches, &mut paths, &mut contenders)?;
    test_in_lanes(batches, &mut paths, contenders)?;
    Ok(KernelReport { cpu: cpu(), paths, auto: auto(definition)? })
}

/// Whatever this build and this machine have beside the CPU is a path of its own.
fn on_cpu() -> Parameters {
    Parameters::new().ascend(AscendParameters::new().device(None))
}

/// Whether there is a device, and which, or why not: opened and closed again.
#[cfg(feature = "ascend")]
pub fn device(parameters: &Parameters) -> (bool, String) {
    match crate::backend::ascend::probe(&parameters.ascend) {
        Ok(name) => (true, name),
        Err(error) => (false, error.to_string()),
    }
}

/// Whether there is a device, and which, or why not: opened and closed again.
#[cfg(not(feature = "ascend"))]
pub fn device(_: &Parameters) -> (bool, String) {
    (false, "this build lacks the feature `ascend`".to_owned())
}

fn build_all(parameters: &Parameters) -> Result<Vec<Box<dyn Policy>>, SimError> {
    POLICIES.iter().map(|name| Ok(policy::build(name, parameters)?)).collect()
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{} ({})", model.map_or("unknown", |(_, model)| model), std::env::consts::ARCH)
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

fn measure(path: &mut PathReport, isa: Isa, tier: Tier) {
    let per_cell = |steps: usize| {
        let mut probe = ColumnProbe::new(isa, tier, WAITING, steps)?;
        let passes = 8;
        let pass = least_ns(300, || {
            std::hint::black_box(probe.pass());
        });
        let peak = least_ns(300, || {
            std::hint::black_box(probe.spin(std::hint::black_box(passes)));
        }) / passes as f64;
        Some((pass / (probe.cells() * steps) as f64, peak / pass))
    };
    if let Some((ns, fraction)) = per_cell(1) {
        (path.ns_per_cell, path.peak_fraction) = (Some(ns), Some(fraction));
    }
    if let Some((ns, fraction)) = per_cell(HORIZON + 1) {
        (path.ns_per_cell_horizon, path.peak_fraction_horizon) = (Some(ns), Some(fraction));
    }
    let steps = HORIZON + 1;
    path.ns_per_cell_horizon_in_order = ColumnProbe::in_order(isa, tier, WAITING, steps).map(|mut probe| {
        let pass = least_ns(300, || {
            std::hint::black_box(probe.pass());
        });
        pass / (probe.cells() * steps) as f64
    });
}

/// A random batch with everything optional in it, as owned parts.
struct Parts {
    workers: Vec<Worker>,
    pool: Pool,
    rows: Vec<u64>,
    bonus: Vec<f32>,
    bonus_half: Vec<f16>,
    eligible: Vec<u64>,
    classes: Vec<f32>,
    horizon: usize,
    mean_prompt_tokens: i64,
}

const TEST_HORIZON: usize = 4;
/// Steps of a batch that is made to fit the 16-bit dot products: so many that each column keeps enough knots.
const FITTING_HORIZON: usize = 7;

impl Parts {
    fn new(rng: &mut ChaCha8Rng) -> Self {
        let workers = rng.random_range(1..6usize);
        let waiting = [rng.random_range(0..6usize), rng.random_range(6..40)][rng.random_range(0..2)];
        let (pairs, ahead, tied): (bool, bool, bool) = (rng.random(), rng.random(), rng.random());
        let longest = [5000, 40_000, 400][rng.random_range(0..3)];
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let tokens = if tied { rng.random_range(95..105) } else { rng.random_range(1..longest) };
                let mut request = Request::new(id, tokens).waited(rng.random_range(0..50));
                if pairs {
                    request = match rng.random_range(0..6) {
                        0 => request.bound_to(rng.random_range(0..workers as u32)),
                        1 if ahead => request.class(rng.random_range(0..2)),
                        2..=4 => request.pairs(rng.random_range(0..3)),
                        _ => request,
                    };
                }
                request
            })
            .collect();
        let bounded = rng.random_range(0..4) == 0;
        let list: Vec<Worker> = (0..workers)
            .map(|_| {
                let load = if tied { rng.random_range(990..1010) } else { rng.random_range(0..200_000u64) };
                let worker = Worker::new(load, 10, rng.random_range(0..3));
                if bounded { worker.capacity(load + rng.random_range(0..9000)) } else { worker }
            })
            .collect();
        let rows = if ahead {
            let drift = |worker: &Worker, rng: &mut ChaCha8Rng| -> Vec<u64> {
                (0..=TEST_HORIZON).map(|_| worker.load_tokens + rng.random_range(0..3000)).collect()
            };
            list.iter().flat_map(|worker| drift(worker, rng)).collect()
        } else {
            Vec::new()
        };
        let count = if pairs { 3 * workers } else { 0 };
        let bonus: Vec<f32> = (0..count).map(|_| rng.random_range(-500.0..4000.0)).collect();
        let halves: bool = rng.random();
        Self {
            workers: list,
            pool: Pool::from_requests(&requests).expect("ids and lengths are valid"),
            rows,
            bonus_half: if halves {
                bonus.iter().map(|&bonus| f16::from_f32(bonus)).collect()
            } else {
                vec![]
            },
            bonus: if halves { vec![] } else { bonus },
            eligible: (0..if pairs { 3 } else { 0 }).map(|_| rng.random()).collect(),
            classes: (0..2 * (TEST_HORIZON + 1)).map(|_| rng.random_range(0.0..1.0)).collect(),
            horizon: TEST_HORIZON,
            mean_prompt_tokens: 2000,
        }
    }

    /// A batch whose columns mostly fit the narrowest lanes: lengths up to a 16-bit lane's greatest, and now and then one more, and every
    /// projected margin within them.
    fn fitting(rng: &mut ChaCha8Rng) -> Self {
        let (workers, waiting) = (rng.random_range(2..5usize), rng.random_range(4..12usize));
        let edge = 1 << 15;
        let longest = [400, 5000, edge - 1, edge][[0, 1, 1, 2, 2, 2, 2, 3][rng.random_range(0..8)]];
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let tokens = if id == 0 { longest } else { rng.random_range(1..=longest) };
                let request = Request::new(id, tokens).waited(rng.random_range(0..50));
                match rng.random_range(0..5) {
                    0 => request.class(rng.random_range(0..2)),
                    1 | 2 => request.pairs(rng.random_range(0..3)),
                    _ => request,
                }
            })
            .collect();
        let list: Vec<Worker> = (0..workers)
            .map(|_| {
                Worker::new(200_000 + rng.random_range(0..u64::from(longest / 8)), 10, rng.random_range(0..3))
            })
            .collect();
        // The greatest load of each step lies above them all, on a worker that takes nobody.
        let above = |rng: &mut ChaCha8Rng| rng.random_range(longest / 4..longest);
        let mut rows: Vec<u64> = Vec::new();
        for worker in &list {
            rows.extend(
                (0..=FITTING_HORIZON)
                    .map(|_| worker.load_tokens + rng.random_range(0..u64::from(longest / 8))),
            );
        }
        rows.extend((0..=FITTING_HORIZON).map(|_| 200_000 + u64::from(longest / 4 + above(rng))));
        let mut list = list;
        list.push(Worker::new(200_000 + u64::from(longest), 10, 0));
        let count = 3 * list.len();
        Self {
            pool: Pool::from_requests(&requests).expect("ids and lengths are valid"),
            rows,
            bonus: (0..count).map(|_| rng.random_range(-500.0..4000.0)).collect(),
            bonus_half: vec![],
            eligible: (0..3).map(|_| rng.random()).collect(),
            classes: (0..2 * (FITTING_HORIZON + 1)).map(|_| rng.random_range(0.0..1.0)).collect(),
            horizon: FITTING_HORIZON,
            mean_prompt_tokens: 0,
            workers: list,
        }
    }

    fn batch(&self) -> Batch<'_> {
        let traffic = Traffic {
            mean_prompt_tokens: self.mean_prompt_tokens,
            sd_prompt_tokens: 1000,
            small_prompt_tokens: 300,
            mean_output_tokens: 700,
        };
        let mut draft = Batch::draft(&self.workers, &self.pool).traffic(traffic).pairs(Pairs {
            bonus_tokens: &self.bonus,
            bonus_half_tokens: &self.bonus_half,
            eligible: &self.eligible,
        });
        if !self.rows.is_empty() {
            draft = draft.projection(self.horizon, &self.rows).classes(&self.classes);
        }
        draft.check().expect("a valid batch")
    }
}

type Contender = (usize, Vec<Box<dyn Policy>>);

fn test(batches: u64, paths: &mut [PathReport], contenders: &mut [Contender]) -> Result<(), SimError> {
    let reference = on_cpu().backend(BackendKind::Reference);
    let mut oracle = build_all(&reference)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut expected, mut out) = (Assignment::new(), Assignment::new());
    for batch in 0..batches {
        let parts = Parts::new(&mut rng);
        let checked = parts.batch();
        let at = batch as usize % POLICIES.len();
        oracle[at].decide(&checked, &mut expected);
        for (path, policies) in contenders.iter_mut() {
            judge(&mut paths[*path], policies[at].as_mut(), &checked, &expected, &mut out);
        }
    }
    // The host refuses a device's wrong answer and decides itself: that is a difference as well.
    for (path, policies) in contenders.iter_mut() {
        let counters: Vec<_> = policies.iter_mut().filter_map(|policy| policy.device()?.counters()).collect();
        if counters.is_empty() {
            continue;
        }
        let sum = |figure: fn(&Counters) -> u64| counters.iter().map(figure).sum::<u64>();
        let path = &mut paths[*path];
        path.mismatches += sum(|counters| counters.refused);
        let _ = write!(
            path.reason,
            "; self-test: {} batches decided, {} kept by the host, {} fallen back, {} failures",
            sum(|counters| counters.decided),
            sum(|counters| counters.kept),
            sum(|counters| counters.fallen_back),
            sum(|counters| counters.failures),
        );
    }
    Ok(())
}

/// Goes on where only part of the batches stayed in a path's lanes, until so many have: with more of the same, and with batches made to fit
/// the 16-bit dot products and their edge.
fn test_in_lanes(
    batches: u64,
    paths: &mut [PathReport],
    mut contenders: Vec<Contender>,
) -> Result<(), SimError> {
    let reference = on_cpu().backend(BackendKind::Reference);
    let mut oracle = build_all(&reference)?;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut expected, mut out) = (Assignment::new(), Assignment::new());
    let looks_ahead = POLICIES.iter().position(|name| *name == "exact-oracle").unwrap_or(0);
    // Lanes that hold nothing at all would never be done.
    for round in 0..8 * batches as usize {
        contenders.retain(|(path, _)| paths[*path].batches_in_lanes < batches);
        if contenders.is_empty() {
            break;
        }
        let (parts, at) = match round % 4 {
            0 => (Parts::new(&mut rng), round / 4 % POLICIES.len()),
            _ => (Parts::fitting(&mut rng), looks_ahead),
        };
        let checked = parts.batch();
        oracle[at].decide(&checked, &mut expected);
        for (path, policies) in contenders.iter_mut() {
            judge(&mut paths[*path], policies[at].as_mut(), &checked, &expected, &mut out);
        }
    }
    Ok(())
}

/// Has a path decide a batch and counts what comes of it.
fn judge(
    path: &mut PathReport,
    policy: &mut dyn Policy,
    batch: &Batch<'_>,
    expected: &Assignment,
    out: &mut Assignment,
) {
    let unheld = policy.dense_columns().1;
    policy.decide(batch, out);
    path.batches += 1;
    path.batches_in_lanes += u64::from(policy.dense_columns().1 == unheld);
    path.mismatches += u64::from(out != expected);
}

fn auto(definition: [Option<f64>; 2]) -> Result<AutoReport, SimError> {
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
    let structured_ns = made.time(&on_cpu().testing(None, true), 300)?;
    let dense_ns = made.least_ns(BackendKind::Cpu)?;
    Ok(Crossing { waiting, workers, horizon, structured_ns, dense_ns })
}

/// A saturated step that is decided again and again: one slot free on each open worker. With pairs, one request in three has a cached
/// prefix on a few workers and one in sixteen is refused by some.
struct Made {
    workers: Vec<Worker>,
    pool: Pool,
    rows: Vec<u64>,
    bonus: Vec<f32>,
    eligible: Vec<u64>,
    horizon: usize,
}

impl Made {
    fn new(waiting: usize, workers: usize, open: usize, horizon: usize, pairs: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let requests: Vec<Request> = (0..waiting)
            .map(|id| {
                let tokens = (0..4).map(|_| rng.random_range(0..1900u32)).sum::<u32>() + 1;
                let request = Request::new(id as u64, tokens).waited(rng.random_range(0..30));
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

    fn time(&self, parameters: &Parameters, rounds: u32) -> Result<f64, SimError> {
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

impl KernelReport {
    /// Whether every path that runs here answered as the oracle does.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.paths.iter().all(|path| path.mismatches == 0)
    }

    /// The report as a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.cpu, self.auto.describe);
        let number = |value: Option<f64>, scale: f64, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{:.digits$}", value * scale))
        };
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11} {:>8} {:>12} {:>7} {:>9}",
            "",
            "",
            "",
            "",
            "ps per",
            "times",
            "times plain",
            "of",
            "H = 16, ps",
            "times",
            "times plain",
            "of",
            "in order,"
        );
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11} {:>8} {:>12} {:>7} {:>9}",
            "path",
            "batches",
            "in lanes",
            "mismatches",
            "cell",
            "one by 1",
            "lanes",
            "peak",
            "a step",
            "one by 1",
            "lanes",
            "peak",
            "ps a step"
        );
        for path in &self.paths {
            if !path.available {
                let _ = writeln!(text, "{:<20} {}", path.name, path.reason);
                continue;
            }
            if path.name == BackendKind::Ascend.name() {
                let _ = writeln!(text, "{:<20} {}", path.name, path.reason);
            }
            let _ = writeln!(
                text,
                "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11} {:>8} {:>12} {:>7} {:>9}",
                path.name,
                path.batches,
                path.batches_in_lanes,
                path.mismatches,
                number(path.ns_per_cell, 1e3, 0),
                number(path.times_definition, 1.0, 1),
                number(path.times_plain_lanes, 1.0, 1),
                number(path.peak_fraction, 1.0, 2),
                number(path.ns_per_cell_horizon, 1e3, 1),
                number(path.times_definition_horizon, 1.0, 1),
                number(path.times_plain_lanes_horizon, 1.0, 1),
                number(path.peak_fraction_horizon, 1.0, 2),
                number(path.ns_per_cell_horizon_in_order, 1e3, 1),
            );
        }
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11}",
            "one by one",
            "",
            "",
            "",
            number(self.auto.definition_ns_per_cell, 1e3, 0),
            "",
            "",
            "",
            number(self.auto.definition_ns_per_cell_horizon, 1e3, 0)
        );
        let _ = writeln!(
            text,
            "times one by one: as many times as fast as the definition, a request at a time; times plain lanes: as the fastest of the scalar paths,\n\
             which the compiler turns into the vector instructions of the target's baseline; in order: a whole column as a decision scores it, each run\n\
             of requests against the knots between its lengths (dense-dot16: in i32 lanes where these are few)"
        );
        let _ =
            writeln!(text, "\n{:>8} {:>8} {:>14} {:>10}", "waiting", "horizon", "structured us", "dense us");
        for crossing in &self.auto.crossover {
            let _ = writeln!(
                text,
                "{:>8} {:>8} {:>14.2} {:>10.2}",
                crossing.waiting,
                crossing.horizon,
                crossing.structured_ns / 1e3,
                crossing.dense_ns / 1e3
            );
        }
        for decision in &self.auto.paired {
            let PairedDecision { waiting, workers, open, horizon, ns } = decision;
            let _ = writeln!(
                text,
                "affinity and masks, {waiting} waiting, {workers} workers, {open} admissions, horizon {horizon}: {:.1} us",
                ns / 1e3
            );
        }
        text
    }
}

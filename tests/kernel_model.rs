//! The device kernel on the model of its machine: the same source as on a device, built with g++, against the oracle pick for pick.
//!
//! Small batches are compared with the oracle, which scores every pair again after each admission; large ones with the CPU's matrix,
//! which is compared with the oracle elsewhere. Every decision also passes the model's own checks: a launch that does what a device would
//! punish fails.
#![cfg(feature = "ascend")]

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use balanceroute::backend::ascend::blob::{self, Kept, Soc};
use balanceroute::backend::ascend::offload::{Launch, Offload, Outcome};
use balanceroute::backend::{Backend, BackendKind, Reference};
use balanceroute::policy::{self, Drawer, Order, Overdue, Parameters, Plan, Repair, Rule, View};
use balanceroute::score::{Age, Knot, Profile};
use balanceroute::{
    Assignment, Batch, Pairs, Policy, Pool, PredictedEnd, PredictedEnds, Request, Traffic, Worker,
};
use half::f16;
use libloading::{Library, Symbol};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[repr(C)]
struct Range {
    address: *const c_void,
    bytes: usize,
}

type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    u32,
    *const c_void,
    usize,
    *const Range,
    usize,
    *mut c_char,
    usize,
) -> i32;

/// The kernel on the model, built once for each kind; every test gets a copy, and with it a machine of its own. `CXX` names the compiler.
fn build(kind: &'static str, copy: &str) -> PathBuf {
    static BUILT: Mutex<Vec<(&str, PathBuf)>> = Mutex::new(Vec::new());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel_model");
    let mut built = BUILT.lock().expect("no build panics");
    if !built.iter().any(|(other, _)| *other == kind) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/model/build.sh");
        let output =
            Command::new("bash").arg(script).arg(directory.join(kind)).arg(kind).output().expect("bash runs");
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            std::process::exit(1);
        }
        built.push((kind, directory.join(kind).join("libbalanceroute_model_kernel.so")));
    }
    let original = &built.iter().find(|(other, _)| *other == kind).expect("built").1;
    let path = directory.join(kind).join(format!("{copy}.so"));
    std::fs::copy(original, &path).expect("copied");
    path
}

/// What became of the decisions.
#[derive(Debug, Default)]
struct Tally {
    decided: usize,
    looked: usize,
    kept: Vec<String>,
    refused: Vec<String>,
    failed: Vec<String>,
    columns: u64,
    rescored: u64,
}

/// The kernel on the model.
struct Model {
    library: Library,
    soc: Soc,
    tally: Arc<Mutex<Tally>>,
}

impl Model {
    fn open(path: &Path, soc: Soc) -> (Self, Arc<Mutex<Tally>>) {
        // SAFETY: the library is ours and runs no code when it is loaded but its constructors of static data.
        let library = unsafe { Library::new(path) }.expect("the model loads");
        let tally = Arc::default();
        (Self { library, soc, tally: Arc::clone(&tally) }, tally)
    }

    fn seed_bug(&self, bug: i32) {
        // SAFETY: the model exports an `int` of this name.
        let variable: Symbol<'_, *mut i32> = unsafe { self.library.get(b"br_seed_bug\0") }.expect("exported");
        // SAFETY: the pointer is to that variable, and no launch runs meanwhile: a launch takes `&mut self`.
        unsafe { **variable = bug };
    }
}

impl Launch for Model {
    fn soc(&self) -> Soc {
        self.soc
    }

    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // SAFETY: the signature is that of `kernels/model/model.h`.
        let launch: Symbol<'_, LaunchFn> = unsafe { self.library.get(b"br_model_launch\0") }?;
        for &(entry, blocks) in launches {
            let entry = std::ffi::CString::new(entry)?;
            let arguments =
                [input.as_ptr().cast::<c_void>(), output.as_mut_ptr().cast::<c_void>().cast_const()];
            let ranges = [
                Range { address: arguments[0], bytes: input.len() },
                Range { address: arguments[1], bytes: output.len() },
            ];
            let mut message = [0; 4096];
            // SAFETY: every pointer is to memory of the stated size that lives until the call returns; the kernel writes to the output
            // and the message only, both borrowed mutably.
            let code = unsafe {
                launch(
                    entry.as_ptr(),
                    blocks,
                    arguments.as_ptr().cast(),
                    size_of_val(&arguments),
                    ranges.as_ptr(),
                    ranges.len(),
                    message.as_mut_ptr(),
                    message.len(),
                )
            };
            if code != 0 {
                // SAFETY: the model ends the message with a zero.
                let message = unsafe { CStr::from_ptr(message.as_ptr()) };
                return Err(
                    format!("{}: {code}: {}", entry.to_string_lossy(), message.to_string_lossy()).into()
                );
            }
        }
        Ok(())
    }

    fn note(&mut self, outcome: Outcome<'_>) {
        let mut tally = self.tally.lock().expect("no panic while it is held");
        match outcome {
            Outcome::Decided(work) => {
                tally.decided += 1;
                tally.columns += u64::from(work.columns);
                tally.rescored += u64::from(work.rescored);
            }
            Outcome::Looked => tally.looked += 1,
            Outcome::Kept(Kept::Nobody) => {}
            Outcome::Kept(kept) => tally.kept.push(kept.to_string()),
            Outcome::Refused(error) => tally.refused.push(error.to_string()),
            Outcome::Failed(error) => tally.failed.push(error.to_string()),
            _ => {}
        }
    }

    fn describe(&self) -> String {
        "the model".to_owned()
    }
}

/// A batch with everything optional in it, as owned parts.
#[derive(Clone, Debug, Default)]
struct Parts {
    workers: Vec<Worker>,
    requests: Vec<Request>,
    traffic: Traffic,
    growth: u32,
    horizon: usize,
    rows: Vec<u64>,
    offsets: Vec<u32>,
    ends: Vec<PredictedEnd>,
    bonus: Vec<f32>,
    bonus_half: Vec<f16>,
    eligible: Vec<u64>,
    classes: Vec<f32>,
}

/// Bounds of a random batch.
#[derive(Clone, Copy, Debug)]
struct Shape {
    requests: usize,
    workers: usize,
    horizon: usize,
    free: u32,
}

fn draw(rng: &mut impl Rng, shape: Shape) -> Parts {
    let Shape { requests: n, workers: g, horizon, free } = shape;
    let mut coin = |of: u32| rng.random_range(0..of) == 0;
    let (tied, capacity, weights, bonus, old) = (coin(4), coin(3), coin(5), coin(3), coin(6));
    let (eligible, ranks, classes, looks_ahead, small) = (coin(3), coin(4), coin(2), coin(2), coin(4));
    let (half, thin) = (coin(2), coin(3));
    let any_pairs = bonus || eligible;
    let longest = if small { 60 } else { 6000 };
    let workers: Vec<Worker> = (0..g)
        .map(|_| {
            let load = if tied { rng.random_range(990..1010) } else { rng.random_range(0..200_000) };
            let open = if thin && rng.random_range(0..3) != 0 { 0 } else { rng.random_range(0..=free) };
            let mut worker = Worker::new(load, rng.random_range(0..80), open);
            worker.accepting = rng.random_range(0..12) != 0;
            worker.next_completion_steps = (rng.random_range(0..2) == 0).then(|| rng.random_range(1..400));
            if capacity {
                let spare = rng.random_range(0..4 * u64::from(longest as u32));
                worker.kv_growth_tokens = spare / 4;
                worker.kv_capacity_tokens = Some(load + spare);
            }
            if weights {
                worker.weight = [1.0, 1.5, 0.25, 3.0][rng.random_range(0..4)];
            }
            worker
        })
        .collect();
    let pair_rows = if any_pairs { 1 + n / 2 } else { 0 };
    let kinds = rng.random_range(1..5u8);
    let requests = (0..n)
        .map(|id| {
            let tokens = if tied {
                [100, 200, rng.random_range(95..105)][id % 3]
            } else {
                rng.random_range(1..=longest)
            };
            let waited = rng.random_range(0..if old { 3000 } else { 40 });
            let mut request = Request::new(id as u64 * 7, tokens).waited(waited);
            if rng.random_range(0..40) == 0 {
                request = request.deadline(30);
            }
            if any_pairs && rng.random_range(0..5) != 0 {
                request = request.pairs(rng.random_range(0..pair_rows as u32));
            }
            if ranks && rng.random_range(0..3) == 0 {
                request = request.bound_to(rng.random_range(0..g as u32));
            }
            if classes && looks_ahead && rng.random_range(0..3) != 0 {
                request = request.class(rng.random_range(0..kinds));
            }
            request
        })
        .collect();
    let width = horizon + 1;
    let mut rows = Vec::new();
    let mut offsets = vec![0];
    let mut ends = Vec::new();
    if looks_ahead {
        for worker in &workers {
            rows.push(worker.load_tokens);
            rows.extend((1..width).map(|h| {
                worker.load_tokens * 9 / 10 + rng.random_range(0..=worker.load_tokens / 5 + 50 * h as u64)
            }));
            let mut own: Vec<PredictedEnd> = (0..rng.random_range(0..6))
                .map(|_| PredictedEnd {
                    in_steps: rng.random_range(1..300),
                    freed_tokens: rng.random_range(0..9000),
                })
                .collect();
            own.sort_unstable_by_key(|end| end.in_steps);
            ends.extend(own);
            offsets.push(ends.len() as u32);
        }
    }
    let bonuses: Vec<f32> = (0..if bonus { pair_rows * g } else { 0 })
        .map(|_| match rng.random_range(0..4) {
            0 => 0.0,
            1 => rng.random_range(-60_000.0..60_000.0),
            _ => rng.random_range(-500.0..4000.0),
        })
        .collect();
    Parts {
        traffic: Traffic {
            mean_prompt_tokens: rng.random_range(0..i64::from(longest)),
            sd_prompt_tokens: rng.random_range(0..3000),
            small_prompt_tokens: rng.random_range(0..1000),
            mean_output_tokens: rng.random_range(0..2000),
        },
        growth: if capacity { rng.random_range(0..50) } else { 0 },
        horizon,
        rows,
        offsets,
        ends,
        bonus_half: if half { bonuses.iter().map(|&bonus| f16::from_f32(bonus)).collect() } else { vec![] },
        bonus: if half { vec![] } else { bonuses },
        eligible: (0..if eligible { pair_rows * g.div_ceil(64) } else { 0 })
            .map(|_| rng.random::<u64>() | rng.random::<u64>())
            .collect(),
        classes: if classes && looks_ahead {
            (0..usize::from(kinds) * width)
                .map(|at| (1.0 - (at % width) as f32 / width as f32 * (at / width) as f32 / 5.0).max(0.0))
                .collect()
        } else {
            vec![]
        },
        workers,
        requests,
    }
}

impl Parts {
    fn pool(&self) -> Pool {
        Pool::from_requests(&self.requests).expect("valid requests")
    }

    fn batch<'a>(&'a self, pool: &'a Pool) -> Batch<'a> {
        let mut draft = Batch::draft(&self.workers, pool)
            .traffic(self.traffic)
            .request_growth(self.growth)
            .pairs(Pairs {
                bonus_tokens: &self.bonus,
                bonus_half_tokens: &self.bonus_half,
                eligible: &self.eligible,
            });
        if !self.rows.is_empty() {
            draft = draft.projection(self.horizon, &self.rows);
            draft = draft.ends(PredictedEnds { offsets: &self.offsets, ends: &self.ends });
            if !self.classes.is_empty() {
                draft = draft.classes(&self.classes);
            }
        }
        draft.check().expect("a valid batch")
    }
}

/// The policies whose scored part runs on the device.
const DRAWN: &[&str] = &[
    "exact",
    "exact-survival",
    "exact-oracle",
    "level",
    "level-exactmatch",
    "level-oracle",
    "br0",
    "brh-survival",
    "brh-exactmatch",
    "brh-oracle",
    "least-kv",
    "random",
    "round-robin",
    "power-of-two",
    "jsq",
    "vllm-legacy",
    "vllm-0.33",
    "sglang-total-tokens",
];

fn soc(tile: Option<u32>) -> Soc {
    Soc { vector_cores: 5, tile_limit: tile, ..Soc::ASCEND_910B }
}

fn parameters(backend: BackendKind) -> Parameters {
    let mut parameters = Parameters { backend, ..Parameters::default() };
    // The first stage of `br0` and `brh` is what runs on the device.
    parameters.balance_route.greedy_slots = 2;
    parameters.level.reserve = true;
    parameters.level.reserve_mean_waits = 1.0;
    parameters
}

fn cases(of: usize) -> usize {
    let share = std::env::var("BALANCEROUTE_KERNEL_CASES").ok().and_then(|cases| cases.parse::<f64>().ok());
    ((of as f64 * share.unwrap_or(1.0)) as usize).max(1)
}

/// One policy on the device beside the same on the host.
struct Pair {
    device: Box<dyn Policy>,
    host: Box<dyn Policy>,
    tally: Arc<Mutex<Tally>>,
}

impl Pair {
    fn new(library: &Path, name: &str, host: BackendKind, soc: Soc) -> Self {
        let (model, tally) = Model::open(library, soc);
        let device = policy::build_on(name, &parameters(host), Box::new(model)).expect("a policy");
        Self { device, host: policy::build(name, &parameters(host)).expect("a policy"), tally }
    }

    fn agree(&mut self, parts: &Parts, what: &str) {
        let pool = parts.pool();
        let batch = parts.batch(&pool);
        let (mut found, mut expected) = (Assignment::new(), Assignment::new());
        self.device.decide(&batch, &mut found);
        self.host.decide(&batch, &mut expected);
        let tally = self.tally.lock().expect("no panic while it is held");
        assert!(tally.failed.is_empty(), "{what}: {}", tally.failed[0]);
        let wrong: Vec<&String> = tally.refused.iter().filter(|text| !text.contains("ties")).collect();
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
        assert!(
            found == expected,
            "{what}: {:?} instead of {:?}\n{parts:?}",
            found.admitted,
            expected.admitted
        );
    }
}

#[test]
fn the_layout_is_that_of_the_header() {
    let mut program = String::from("#include \"tiling.h\"\n");
    for (name, bytes) in blob::SIZES {
        program += &format!("BR_LAYOUT(sizeof({name}) == {bytes});\n");
    }
    for (name, field, offset, bytes) in blob::FIELDS {
        program += &format!("BR_LAYOUT(offsetof({name}, {field}) == {offset});\n");
        program += &format!("BR_LAYOUT(sizeof((({name} *)0)->{field}) == {bytes});\n");
    }
    for (name, value) in [
        ("BR_MAGIC", blob::MAGIC as usize),
        ("BR_VERSION", blob::VERSION as usize),
        ("BR_MAX_REQUESTS", blob::MAX_REQUESTS),
        ("BR_MAX_WORKERS", blob::MAX_WORKERS),
        ("BR_MAX_STEPS", blob::MAX_STEPS),
        ("BR_MAX_RUNS", blob::MAX_RUNS),
        ("BR_MAX_BATCHES", blob::MAX_BATCHES),
        ("BR_BLOB_ALIGN", blob::BLOB_ALIGN),
    ] {
        program += &format!("BR_LAYOUT({name} == {value});\n");
    }
    let same = |name: &str, value: &str| format!("BR_LAYOUT(sizeof({name}) == sizeof(\"{value}\"));\n");
    program += &same("BR_ENTRY_COLUMNS", blob::ENTRY_COLUMNS);
    program += &same("BR_ENTRY_GREEDY", blob::ENTRY_GREEDY);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel_model");
    std::fs::create_dir_all(&directory).expect("a directory");
    for (extension, standard) in [("c", "-std=c11"), ("cpp", "-std=c++17")] {
        let source = directory.join(format!("layout.{extension}"));
        std::fs::write(&source, &program).expect("written");
        let output = Command::new(std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned()))
            .args([
                "-x",
                if extension == "c" { "c" } else { "c++" },
                standard,
                "-Wall",
                "-Werror",
                "-fsyntax-only",
            ])
            .arg("-I")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/ascendc"))
            .arg(&source)
            .output()
            .expect("the compiler runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Sizes around every boundary of a tile of 128 entries, small pools more often.
fn requests(rng: &mut impl Rng) -> usize {
    match rng.random_range(0..40) {
        0 => [127, 128, 129, 130][rng.random_range(0..4)],
        1 => [63, 64, 65, 191, 192, 193][rng.random_range(0..6)],
        2 => rng.random_range(60..200),
        3..10 => rng.random_range(16..60),
        _ => rng.random_range(1..24),
    }
}

fn every_policy_on_random_batches(library: &Path, per_policy: usize) {
    let mut decided = 0;
    for (at, name) in DRAWN.iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(at as u64);
        let mut pairs = [Some(128), Some(256), None]
            .map(|tile| Pair::new(library, name, BackendKind::Reference, soc(tile)));
        for case in 0..per_policy {
            let shape = Shape {
                requests: requests(&mut rng),
                workers: rng.random_range(1..10),
                horizon: [0, 1, 4, 7, 16, 40][rng.random_range(0..6)],
                free: rng.random_range(1..5),
            };
            let parts = draw(&mut rng, shape);
            pairs[case % 3].agree(&parts, &format!("{name}, case {case}, {shape:?}"));
        }
        let (mut own, mut columns, mut rescored, mut kept) = (0, 0, 0, Vec::new());
        for pair in &pairs {
            let tally = pair.tally.lock().expect("no panic");
            own += tally.decided;
            columns += tally.columns;
            rescored += tally.rescored;
            kept.extend(tally.kept.iter().chain(&tally.refused).cloned());
        }
        println!(
            "{name}: {per_policy} batches, {own} by the device ({columns} columns, {rescored} scored again), kept {}",
            kept.len()
        );
        assert!(own * 3 >= per_policy, "{name}: only {own} of {per_policy} by the device: {kept:?}");
        decided += own;
    }
    println!("{decided} batches decided by the device, 0 mismatches");
}

#[test]
fn random_batches_agree_with_the_oracle() {
    every_policy_on_random_batches(&build("plain", "random"), cases(700));
}

/// Every size at a boundary: of tiles, of repeats, of words, of the stage of picks, and the largest of all.
#[test]
fn sizes_around_every_boundary_agree() {
    let library = build("plain", "sizes");
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let names = ["exact", "exact-oracle", "level", "brh-oracle", "br0"];
    let mut pairs: Vec<Pair> = names
        .iter()
        .flat_map(|name| [Some(128), None].map(|tile| Pair::new(&library, name, BackendKind::Cpu, soc(tile))))
        .collect();
    let edges: Vec<usize> = [64usize, 128, 256, 1024, 2048]
        .into_iter()
        .flat_map(|edge| [edge - 1, edge, edge + 1])
        .chain([1, 2, 8, 15, 16, 17, 4095, 4096])
        .collect();
    for (at, &requests) in edges.iter().enumerate() {
        for (which, pair) in pairs.iter_mut().enumerate() {
            let workers = [1, 2, 15, 16, 17, 31, 32, 33][(at + which) % 8];
            let free = if requests > 1500 { 3 } else { 9 };
            let shape = Shape { requests, workers, horizon: [4, 16, 80][which % 3], free };
            let parts = draw(&mut rng, shape);
            pair.agree(&parts, &format!("{shape:?}"));
        }
    }
    // The limits of the device, one by one, and past them.
    for (requests, workers, horizon) in [
        (300, 255, 16),
        (300, 256, 16),
        (257, 16, 127),
        (257, 16, 128),
        (4096, 256, 128),
        (4097, 8, 4),
        (64, 257, 4),
    ] {
        for pair in &mut pairs {
            let shape = Shape { requests, workers, horizon, free: 1 };
            let mut parts = draw(&mut rng, shape);
            for worker in parts.workers.iter_mut().skip(if requests > 4000 { 6 } else { 60 }) {
                worker.free_slots = 0;
            }
            pair.agree(&parts, &format!("{shape:?}"));
        }
    }
    let kept: Vec<String> =
        pairs.iter().flat_map(|pair| pair.tally.lock().expect("no panic").kept.clone()).collect();
    assert!(
        kept.iter().any(|text| text == "waiting requests: at most 4096 on the device, found 4097"),
        "{kept:?}"
    );
    assert!(kept.iter().any(|text| text == "workers: at most 256 on the device, found 257"), "{kept:?}");
}

/// Numbers far beyond 2^24, where single vectors decide nothing by themselves, and many near ties.
#[test]
fn scores_beyond_single_precision_agree() {
    let library = build("plain", "beyond");
    let mut rescored = 0;
    for (at, name) in ["exact", "exact-oracle", "level", "brh-oracle", "br0"].into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(1000 + at as u64);
        let mut pair = Pair::new(&library, name, BackendKind::Reference, soc(None));
        for case in 0..cases(150) {
            let shape = Shape {
                requests: rng.random_range(2..60),
                workers: rng.random_range(1..7),
                horizon: 16,
                free: 4,
            };
            let mut parts = draw(&mut rng, shape);
            let close = rng.random_range(0..2) == 0;
            for request in &mut parts.requests {
                request.prompt_tokens =
                    if close { 4_000_000 + rng.random_range(0..3) } else { rng.random_range(1..1 << 22) };
            }
            for worker in &mut parts.workers {
                worker.load_tokens += rng.random_range(0..1 << 26);
                worker.kv_capacity_tokens = worker.kv_capacity_tokens.map(|_| worker.load_tokens + (1 << 23));
                worker.kv_used_tokens = worker.load_tokens;
            }
            if !parts.rows.is_empty() {
                let width = parts.horizon + 1;
                for (worker, row) in parts.workers.iter().zip(parts.rows.chunks_mut(width)) {
                    for load in row {
                        *load = worker.load_tokens - worker.load_tokens % 7 + rng.random_range(0..1 << 20);
                    }
                }
            }
            pair.agree(&parts, &format!("{name}, case {case}"));
        }
        rescored += pair.tally.lock().expect("no panic").rescored;
    }
    println!("{rescored} scored again in integers");
    assert!(rescored > 1000, "only {rescored} were in doubt");
}

/// A rule in matrix order that draws for itself: with a drawer for groups of batches, without one for the first look.
#[derive(Clone, Copy)]
struct Bent {
    drawn: bool,
}

impl Rule for Bent {
    fn begin(&mut self, _: &Batch<'_>, _: &mut [i64]) -> Plan {
        Plan {
            order: Order::Matrix,
            nested: false,
            unit: 3,
            age: Age { linear: 1.5, quadratic: 0.01 },
            overdue: Overdue::default(),
            refill_tokens: 0,
            envelope_floor: 100,
            longest_first: false,
            repair: Repair { rounds: 1, tolerance_tokens: None, swap: None },
            passed_over: None,
        }
    }

    fn draw(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        let margin = (view.envelope - view.cost).div_euclid(view.cost_per_token);
        if self.drawn {
            profile.slope = 2 * view.cost_per_token;
            profile.knots.push(Knot { at_tokens: margin, weight: 7 * view.cost_per_token });
            return;
        }
        let slope = 3 + class.map_or(0, |class| class.iter().map(|&alive| (alive * 4.0) as i64).sum());
        profile.intercept = view.worker as i64 - 1000;
        profile.slope = slope;
        for part in 1..=9 {
            profile.knots.push(Knot { at_tokens: margin * part / 7 - 20, weight: part });
        }
    }

    fn drawer(&self, _: &Batch<'_>) -> Option<Drawer<'_>> {
        self.drawn.then_some(Drawer::Margin { slope: 2, weight: 7 })
    }
}

#[test]
fn the_first_look_at_fixed_profiles_agrees() {
    let (model, tally) = Model::open(&build("plain", "fixed"), soc(Some(128)));
    let mut device = Offload::new(Box::new(model));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let count = cases(600);
    for case in 0..count {
        let shape = Shape {
            requests: requests(&mut rng),
            workers: rng.random_range(1..20),
            horizon: rng.random_range(0..9),
            free: 3,
        };
        let parts = draw(&mut rng, shape);
        let pool = parts.pool();
        let batch = parts.batch(&pool);
        let (mut found, mut expected) = (Assignment::new(), Assignment::new());
        device.assign(&mut Bent { drawn: false }, &batch, &mut found);
        Reference.assign(&mut Bent { drawn: false }, &batch, &mut expected);
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
        assert_eq!(found, expected, "case {case}, {shape:?}");
    }
    let looked = tally.lock().expect("no panic").looked;
    assert!(looked * 2 > count, "{looked} of {count}");
}

#[test]
fn many_batches_in_one_launch_agree() {
    let (model, tally) = Model::open(&build("plain", "many"), soc(Some(256)));
    let mut device = Offload::new(Box::new(model));
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let (mut batches, mut all) = (0, 0);
    for _ in 0..cases(60) {
        let many: Vec<Parts> = (0..rng.random_range(1..20))
            .map(|_| {
                let shape = Shape {
                    requests: requests(&mut rng),
                    workers: rng.random_range(1..20),
                    horizon: 3,
                    free: 2,
                };
                draw(&mut rng, shape)
            })
            .collect();
        let pools: Vec<Pool> = many.iter().map(Parts::pool).collect();
        let many: Vec<Batch<'_>> = many.iter().zip(&pools).map(|(parts, pool)| parts.batch(pool)).collect();
        let mut found = vec![Assignment::new(); many.len()];
        device.assign_many(&mut vec![Bent { drawn: true }; many.len()], &many, &mut found);
        for (batch, found) in many.iter().zip(&found) {
            let mut expected = Assignment::new();
            Reference.assign(&mut Bent { drawn: true }, batch, &mut expected);
            assert_eq!(*found, expected);
            all += 1;
        }
        batches += many.len();
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
    }
    let decided = tally.lock().expect("no panic").decided;
    println!("{batches} batches in groups, {decided} by the device");
    assert!(decided * 2 > all);
}

//! The device kernel on the model of its machine: the same source as on a device, against the oracle pick for
//! pick.
//!
//! Small batches are compared with the oracle, which scores every pair again after each admission; large ones
//! with the CPU's matrix, which is compared with the oracle elsewhere. Every decision also passes the model's
//! own checks: a launch that does what a device would punish fails.

mod cost;
mod levels;
#[path = "../../support/parts.rs"]
mod parts;
mod seeded;
#[path = "../support/sheet.rs"]
#[allow(dead_code, unreachable_pub, reason = "the bench of the crossover uses the rest")]
mod sheet;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use balanceroute::backend::ascend::blob::{self, Soc};
use balanceroute::backend::ascend::launch::{Launch, Outcome};
use balanceroute::backend::offload::Offload;
use balanceroute::backend::{Backend, BackendKind, Reference};
use balanceroute::policy::{self, Order, Parameters, Plan, ProfileSpec, Repair, Rule, View};
use balanceroute::score::{Age, Knot, Profile};
use balanceroute::{Assignment, Batch, Policy, Pool, PredictedEnd, Request, Traffic, Worker};
use half::f16;
use parts::Parts;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::model::{self, Model, Tally};
use support::{compile, folder, root};

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
    // Equals everywhere: ties then go by load, index and arrival alone.
    let (half, thin, calm) = (coin(2), coin(3), coin(3));
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
                let spare = rng.random_range(0..4 * u64::from(longest));
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
            let passed = if calm { 0 } else { rng.random_range(0..if old { 3000 } else { 40 }) };
            let mut request = Request::new(id as u64 * 7, tokens).passed(passed);
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
        traffic: Traffic::new()
            .prompts(rng.random_range(0..i64::from(longest)), rng.random_range(0..3000))
            .small_prompts(rng.random_range(0..1000))
            .outputs(rng.random_range(0..2000)),
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
        // The first says nothing, and two say the same: equals in two classes.
        classes: if classes && looks_ahead {
            (0..usize::from(kinds) * width)
                .map(|at| {
                    let steepness = (at / width).div_ceil(2) as f32 / 5.0;
                    (1.0 - (at % width) as f32 / width as f32 * steepness).max(0.0)
                })
                .collect()
        } else {
            vec![]
        },
        workers,
        requests,
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
    let mut parameters = Parameters::new().backend(backend);
    // The first stage of `br0` and `brh` is what runs on the device.
    parameters.balance_route.greedy_slots = 2;
    parameters.exact.horizon_steps = 40;
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
        let mut tally = self.tally.lock().expect("no panic while it is held");
        tally.launches.clear();
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
        ("BR_MAX_KNOTS", blob::MAX_KNOTS),
        ("BR_MAX_RUNS", blob::MAX_RUNS),
        ("BR_MAX_BATCHES", blob::MAX_BATCHES),
        ("BR_BLOB_ALIGN", blob::BLOB_ALIGN),
    ] {
        program += &format!("BR_LAYOUT({name} == {value});\n");
    }
    let same = |name: &str, value: &str| format!("BR_LAYOUT(sizeof({name}) == sizeof(\"{value}\"));\n");
    program += &same("BR_ENTRY_COLUMNS", blob::ENTRY_COLUMNS);
    program += &same("BR_ENTRY_GREEDY", blob::ENTRY_GREEDY);
    for (mut build, extension) in [(compile::c("c11"), "c"), (compile::cpp("c++17"), "cpp")] {
        let source = folder().join("layout").with_extension(extension);
        std::fs::write(&source, &program).expect("written");
        compile::run(build.include(root("kernels/ascendc")), |command| {
            command.arg("-fsyntax-only").arg(&source);
        });
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
            let mut parts = draw(&mut rng, shape);
            if case % 4 == 0 {
                crowd(&mut rng, &mut parts);
            }
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
            "{name}: {per_policy} batches, {own} by the device \
             ({columns} columns, {rescored} scored again), kept {}",
            kept.len()
        );
        assert!(own * 3 >= per_policy, "{name}: only {own} of {per_policy} by the device: {kept:?}");
        decided += own;
    }
    println!("{decided} batches decided by the device, 0 mismatches");
}

#[test]
fn random_batches_agree_with_the_oracle() {
    every_policy_on_random_batches(&model::plain_copy("random"), cases(1200));
}

/// Every size at a boundary: of tiles, of repeats, of words, of the stage of picks, and the largest of all.
#[test]
fn sizes_around_every_boundary_agree() {
    let library = model::plain_copy("sizes");
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
    // The limits of the device, one by one, then all at once, then past them.
    for (requests, workers, horizon, fits) in [
        (300, 255, 16, true),
        (300, 256, 16, true),
        (257, 16, 127, true),
        (257, 16, 128, true),
        (4096, 256, 128, true),
        (4097, 8, 4, false),
        (64, 257, 4, false),
    ] {
        for pair in &mut pairs {
            let shape = Shape { requests, workers, horizon, free: 1 };
            let mut parts = draw(&mut rng, shape);
            // Nobody overdue, few slots, and somebody who fits.
            parts.traffic.mean_output_tokens = 0;
            for request in &mut parts.requests {
                (request.deadline_steps, request.rank, request.passed) = (None, None, 0);
            }
            for (at, worker) in parts.workers.iter_mut().enumerate() {
                (worker.free_slots, worker.accepting) = (u32::from(at % (workers / 8) == 0), true);
            }
            let before = pair.tally.lock().expect("no panic").decided;
            pair.agree(&parts, &format!("{shape:?}"));
            let decided = pair.tally.lock().expect("no panic").decided > before;
            assert_eq!(decided, fits, "{shape:?}: {:?}", pair.tally.lock().expect("no panic").kept.last());
        }
    }
    let kept: Vec<String> =
        pairs.iter().flat_map(|pair| pair.tally.lock().expect("no panic").kept.clone()).collect();
    let most = "waiting requests: at most 4096 on the device, found 4097";
    assert!(kept.iter().any(|text| text == most), "{kept:?}");
    assert!(kept.iter().any(|text| text == "workers: at most 256 on the device, found 257"), "{kept:?}");
}

/// Lengths and loads near their limits, half of the time with many lengths almost alike.
fn enlarge(rng: &mut impl Rng, parts: &mut Parts) {
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
        for (worker, row) in parts.workers.iter().zip(parts.rows.chunks_mut(parts.horizon + 1)) {
            for load in row {
                *load = worker.load_tokens - worker.load_tokens % 7 + rng.random_range(0..1 << 20);
            }
        }
    }
}

/// Loads so alike that most margins lie among the lengths: every step of the horizon is a knot that counts.
fn crowd(rng: &mut impl Rng, parts: &mut Parts) {
    for worker in &mut parts.workers {
        worker.load_tokens = 100_000 + rng.random_range(0..5000);
        worker.kv_used_tokens = worker.load_tokens;
        worker.kv_capacity_tokens = worker.kv_capacity_tokens.map(|_| 106_000);
    }
    for (worker, row) in parts.workers.iter().zip(parts.rows.chunks_mut(parts.horizon + 1)) {
        row.fill_with(|| 100_000 + rng.random_range(0..5000));
        row[0] = worker.load_tokens;
    }
}

/// Numbers far beyond 2^24, where single vectors decide nothing by themselves, and many near ties.
#[test]
fn scores_beyond_single_precision_agree() {
    let library = model::plain_copy("beyond");
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
            enlarge(&mut rng, &mut parts);
            pair.agree(&parts, &format!("{name}, case {case}"));
        }
        rescored += pair.tally.lock().expect("no panic").rescored;
    }
    println!("{rescored} scored again in integers");
    assert!(rescored > 1000, "only {rescored} were in doubt");
}

/// Rules of the test's own: each kind of profile once more, written down independently of the policies, and
/// one that only the host can draw.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Own {
    Margin,
    Lookahead,
    Level,
    Bent,
}

const DISCOUNTS: [i64; 4] = [900, 700, 500, 30];

impl Rule for Own {
    fn begin(&mut self, batch: &Batch<'_>, _: &mut Vec<i64>) -> Plan {
        let level = *self == Self::Level;
        Plan::new()
            .order(if level { Order::LeastLoaded } else { Order::Matrix })
            .unit(3)
            .age(Age { linear: 1.5, quadratic: 0.01 })
            .refill_tokens(if level { batch.traffic().mean_prompt_tokens } else { 0 })
            .envelope_floor(100)
            .repair(Repair::new().rounds(1))
    }

    fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        let per_token = view.cost_per_token;
        let margin = (view.envelope - view.cost).div_euclid(per_token);
        match self {
            Self::Margin => {
                profile.slope = 2 * per_token;
                profile.knots.push(Knot { at_tokens: margin, weight: 7 * per_token });
            }
            Self::Lookahead => {
                for (h, &discount) in DISCOUNTS.iter().enumerate().take(view.row.len()) {
                    let weight = discount as f64 * class.map_or(1.0, |class| f64::from(class[h]));
                    profile.slope += (0.5 * weight + 0.5).floor() as i64 * per_token;
                    let at_tokens = (view.envelope_row[h] - view.row[h]).div_euclid(per_token);
                    let weight = (1.25 * weight + 0.5).floor() as i64 * per_token;
                    profile.knots.push(Knot { at_tokens, weight });
                }
            }
            Self::Level if view.workers == 1 => {}
            Self::Level => {
                let own = view.anticipated - view.refill_tokens_of_own();
                let wanted = view.others_sum.div_euclid(view.workers - 1) - 50 * per_token - own;
                let wanted = wanted.div_euclid(per_token);
                profile.intercept = -wanted * per_token;
                profile.slope = per_token;
                profile.knots.push(Knot { at_tokens: wanted, weight: 2 * per_token });
                let at_tokens = (view.others_max - own).div_euclid(per_token);
                profile.knots.push(Knot { at_tokens, weight: (view.workers - 1) * per_token });
            }
            Self::Bent => {
                let alive = class.map_or(0, |class| class.iter().map(|&alive| (alive * 4.0) as i64).sum());
                profile.intercept = view.worker as i64 - 1000;
                profile.slope = 3 + alive;
                for part in 1..=9 {
                    profile.knots.push(Knot { at_tokens: margin * part / 7 - 20, weight: part });
                }
            }
        }
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        match self {
            Self::Margin => Some(ProfileSpec::Margin { slope: 2, weight: 7 }),
            Self::Lookahead if batch.projection().is_some() => {
                Some(ProfileSpec::Lookahead { discounts: &DISCOUNTS, alpha: 0.5, beta: 1.25, by_class: true })
            }
            // Without rows its profiles are empty.
            Self::Lookahead => Some(ProfileSpec::Margin { slope: 0, weight: 0 }),
            Self::Level => Some(ProfileSpec::Level { drop_tokens: 50 }),
            Self::Bent => None,
        }
    }
}

/// What a view's own anticipated load counts for the slot that is being filled. The rule's refill is the
/// traffic's mean length.
trait OwnRefill {
    fn refill_tokens_of_own(&self) -> i64;
}

impl OwnRefill for View<'_> {
    fn refill_tokens_of_own(&self) -> i64 {
        // load + open * refill = anticipated, as this rule has no load offsets.
        (self.anticipated - self.cost).checked_div(self.open_slots).unwrap_or(0)
    }
}

#[test]
fn the_first_look_at_fixed_profiles_agrees() {
    let (model, tally) = Model::open(&model::plain_copy("fixed"), soc(Some(128)));
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
        device.assign(&mut Own::Bent, &batch, &mut found);
        Reference.assign(&mut Own::Bent, &batch, &mut expected);
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
        assert_eq!(found, expected, "case {case}, {shape:?}");
    }
    let looked = tally.lock().expect("no panic").looked;
    assert!(looked * 2 > count, "{looked} of {count}");
}

/// The second launch shape: a block for each batch, every kind of profile.
#[test]
fn many_batches_in_one_launch_agree() {
    let library = model::plain_copy("many");
    for (at, rule) in [Own::Margin, Own::Lookahead, Own::Level].into_iter().enumerate() {
        let (model, tally) = Model::open(&library, soc(Some(256)));
        let mut device = Offload::new(Box::new(model));
        let mut rng = ChaCha8Rng::seed_from_u64(6 + at as u64);
        let mut all = 0;
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
            let many: Vec<Batch<'_>> =
                many.iter().zip(&pools).map(|(parts, pool)| parts.batch(pool)).collect();
            let mut found = vec![Assignment::new(); many.len()];
            device.assign_many(&mut vec![rule; many.len()], &many, &mut found);
            for (batch, found) in many.iter().zip(&found) {
                let mut expected = Assignment::new();
                Reference.assign(&mut { rule }, batch, &mut expected);
                assert_eq!(*found, expected, "{rule:?}");
            }
            all += many.len();
            let tally = tally.lock().expect("no panic");
            assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
        }
        let decided = tally.lock().expect("no panic").decided;
        println!("{rule:?}: {all} batches in groups, {decided} by the device");
        assert!(decided * 2 > all);
    }
}

/// The model, with one word of the batch's header replaced on its way.
struct Tampered {
    model: Model,
    word: usize,
    value: u32,
}

impl Launch for Tampered {
    fn soc(&self) -> Soc {
        self.model.soc()
    }

    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // At a 64-byte boundary, as every blob.
        let mut lines = vec![0u64; input.len() / 8 + 8];
        let at = lines.as_ptr().align_offset(64);
        for (word, bytes) in lines[at..].iter_mut().zip(input.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("eight"));
        }
        let from = blob::launch_head_bytes(1) + self.word * 4;
        let shift = from % 8 * 8;
        let word = &mut lines[at + from / 8];
        *word = *word & !(0xffff_ffff << shift) | u64::from(self.value) << shift;
        let copy = model::bytes(&lines[at..at + input.len() / 8]);
        self.model.launch(launches, copy, output)
    }

    fn note(&mut self, outcome: Outcome<'_>) {
        self.model.note(outcome);
    }

    fn describe(&self) -> String {
        self.model.describe()
    }
}

#[test]
fn a_header_that_is_not_this_kernels_is_refused() {
    let library = model::plain_copy("header");
    // Word of the header, its value, the status that comes back: magic, version, mode, workers, steps, tile,
    // reserved memory.
    for (word, value, status) in [
        (0, 7, 0),
        (1, 1, 0),
        (2, 5, 3),
        (2, 4, 3),
        (2, 3, 3),
        (3, 3, 3),
        (7, 257, 3),
        (8, 130, 3),
        (11, 100, 3),
        (15, 64, 3),
    ] {
        let (model, tally) = Model::open(&library, soc(None));
        let mut device = Offload::new(Box::new(Tampered { model, word, value }));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..20 {
            let parts = draw(&mut rng, Shape { requests: 20, workers: 4, horizon: 3, free: 2 });
            let pool = parts.pool();
            let batch = parts.batch(&pool);
            let (mut found, mut expected) = (Assignment::new(), Assignment::new());
            device.assign(&mut Own::Level, &batch, &mut found);
            Reference.assign(&mut Own::Level, &batch, &mut expected);
            assert_eq!(found, expected, "the CPU decides");
        }
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.decided == 0, "{tally:?}");
        let says = match status {
            0 => "magic".to_owned(),
            _ => format!("status: expected 1, found {status}"),
        };
        assert!(!tally.refused.is_empty(), "word {word}");
        assert!(tally.refused.iter().all(|text| text.contains(&says)), "word {word}: {:?}", tally.refused);
    }
}

/// Without the host's memory declared, nothing would bound what the kernel reads and writes.
#[test]
fn a_launch_declares_its_memory() {
    let (model, _) = Model::open(&model::plain_copy("memory"), soc(None));
    assert_eq!(model.launch_without_memory(), 3, "BR_MODEL_ARGUMENTS");
}

/// The model's own rules, each broken once by itself.
#[test]
fn the_model_names_what_breaks_its_rules() {
    let program = folder().join("selftest");
    compile::run(&model::compiler(), |command| {
        command.args(["selftest.cpp", "machine.cpp"].map(|file| root("kernels/model").join(file)));
        command.arg("-o").arg(&program);
    });
    let output = Command::new(&program).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}");
}

/// The sanitizers must be in the process from its beginning: the test runs a part of itself again with them.
#[test]
fn the_kernel_is_clean_under_the_sanitizers() {
    if std::env::var_os("BALANCEROUTE_KERNEL_SANITIZED").is_some() {
        every_policy_on_random_batches(&model::sanitized(), cases(60));
        return;
    }
    let mut compiler = model::compiler().get_compiler().to_command();
    let output = compiler.arg("-print-file-name=libasan.so").output().expect("the compiler runs");
    let library = String::from_utf8(output.stdout).expect("a path");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_kernel_is_clean_under_the_sanitizers", "--nocapture"])
        .env("BALANCEROUTE_KERNEL_SANITIZED", "1")
        .env("LD_PRELOAD", library.trim())
        // The test harness keeps its allocations to the end.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .output()
        .expect("this program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("decided by the device, 0 mismatches"), "{text}");
}

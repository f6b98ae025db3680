//! The cost sheet of the kernel: batches that are decided on the model, what their launches count, and what
//! those counts take at assumed rates. No figure of it is a time measured on a device.

use std::path::Path;
use std::sync::{Arc, Mutex};

use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::AscendParameters;
use balanceroute::backend::ascend::blob::{ENTRY_COLUMNS, ENTRY_GREEDY, Soc};
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Traffic, Worker};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::support::model::{Counts, Model, Tally};

/// Waiting requests, workers, horizon, open slots (one on each of so many workers; one worker is full).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub n: usize,
    pub g: usize,
    pub h: usize,
    pub k: usize,
}

const LONGEST: u32 = 8000;
pub const TILE: usize = 2048;

// Assumed, none of them measured by us: clock, a repeat of 256 bytes in each cycle, cycles that a barrier or
// an event pair waits and that a scalar access of the unified buffer or of cached global memory takes; host
// link.
pub const CLOCK_GHZ: f64 = 1.8;
pub const WAIT_CYCLES: f64 = 30.0;
pub const SCALAR_CYCLES: f64 = 10.0;
pub const LINK_BYTES_PER_NS: f64 = 20.0;
/// Launch and synchronise: the least and the most that is published for 910B3.
pub const LAUNCH_US: [f64; 2] = [20.0, 31.0];

/// What a batch is made of.
pub struct Drawn {
    workers: Vec<Worker>,
    pool: Pool,
    h: usize,
    rows: Vec<u64>,
    bonus: Vec<f16>,
    eligible: Vec<u64>,
}

impl Drawn {
    /// Random loads, with every knot among the lengths, so that none is cut; with `paired`, a bonus and an
    /// eligibility bit for each pair.
    pub fn new(Shape { n, g, h, k }: Shape, paired: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64((n + g + h + k) as u64);
        let below = |rng: &mut ChaCha8Rng| 400_000 - rng.random_range(200..u64::from(LONGEST) - 200);
        let mut workers: Vec<Worker> = (0..g)
            .map(|worker| Worker::new(below(&mut rng), 70, u32::from((1..=k).contains(&worker))))
            .collect();
        // A closed worker holds the envelope, so that every open one has a margin.
        workers[0].load_tokens = 400_000;
        let requests: Vec<Request> = (0..n)
            .map(|id| {
                let tokens = match id {
                    0 => 1,
                    1 => LONGEST,
                    _ => rng.random_range(1..LONGEST),
                };
                let request = Request::new(id as u64, tokens).passed(rng.random_range(0..60));
                if paired { request.pairs(id as u32) } else { request }
            })
            .collect();
        let rows: Vec<u64> = workers
            .iter()
            .enumerate()
            .flat_map(|(worker, of)| {
                let load = of.load_tokens;
                let mut row: Vec<u64> = (0..h).map(|_| below(&mut rng)).collect();
                if worker == 0 {
                    row.fill(400_000);
                }
                std::iter::once(load).chain(row).collect::<Vec<_>>()
            })
            .collect();
        let (bonuses, words) = if paired { (n * g, n * g.div_ceil(64)) } else { (0, 0) };
        let bonus = (0..bonuses).map(|_| f16::from_f32(rng.random_range(0..2000) as f32)).collect();
        let eligible = (0..words).map(|_| u64::MAX ^ 1 << rng.random_range(0..64)).collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        Self { workers, pool, h, rows, bonus, eligible }
    }

    pub fn batch(&self) -> Batch<'_> {
        self.batch_in(Traffic::new().prompts(0, 0))
    }

    pub fn batch_in(&self, traffic: Traffic) -> Batch<'_> {
        let pairs = Pairs { bonus_half_tokens: &self.bonus, eligible: &self.eligible, ..Pairs::default() };
        let draft = Batch::draft(&self.workers, &self.pool).traffic(traffic).pairs(pairs);
        let draft = if self.h > 0 { draft.projection(self.h, &self.rows) } else { draft };
        draft.check().expect("valid")
    }
}

/// The policy that decides batches of a horizon.
pub fn exact(h: usize) -> (&'static str, Parameters) {
    let mut parameters = Parameters::new().backend(BackendKind::Auto);
    parameters.ascend = AscendParameters::default().device(None);
    parameters.exact.horizon_steps = h;
    // No weight rounds to nothing.
    parameters.exact.gamma = 0.98;
    parameters.exact.repair_rounds = 0;
    (if h > 0 { "exact-oracle" } else { "exact" }, parameters)
}

/// The kernel on the model, in tiles of [`TILE`].
pub fn open(library: &Path) -> (Model, Arc<Mutex<Tally>>) {
    let (model, tally) = Model::open(library, Soc { tile_limit: Some(TILE as u32), ..Soc::ASCEND_910B });
    (model.counting(), tally)
}

/// What the launches of a batch, or of a group of batches, did.
pub struct Cost {
    /// The first look at the columns, where it is a launch of its own, and in how many blocks.
    pub columns: Counts,
    pub blocks: u32,
    /// The picks.
    pub greedy: Counts,
    /// Columns that the picks have scored.
    pub scored: u64,
    pub input_bytes: usize,
}

impl Cost {
    pub fn of(tally: &Tally) -> Self {
        let (blocks, columns, greedy) = match tally.launches[..] {
            [(ENTRY_COLUMNS, blocks, columns), (ENTRY_GREEDY, 1, greedy)] => (blocks, columns, greedy),
            [(ENTRY_GREEDY, _, greedy)] => (1, Counts::default(), greedy),
            _ => panic!("one launch or two: {:?}", tally.launches),
        };
        Self { columns, blocks, greedy, scored: tally.columns, input_bytes: tally.input_bytes }
    }
}

/// Decides a batch with a bonus and an eligibility bit for each pair by `exact`.
pub fn run(library: &Path, shape: Shape) -> Cost {
    let drawn = Drawn::new(shape, true);
    let (model, tally) = open(library);
    let (name, parameters) = exact(shape.h);
    let mut device = policy::build_on(name, &parameters, Box::new(model)).expect("a policy");
    let mut host = policy::build(name, &parameters).expect("a policy");
    let (mut found, mut expected) = (Assignment::new(), Assignment::new());
    device.decide(&drawn.batch(), &mut found);
    host.decide(&drawn.batch(), &mut expected);
    assert_eq!(found, expected);
    assert_eq!(found.admitted.len(), shape.k);
    let tally = tally.lock().expect("no panic");
    assert_eq!(tally.decided, 1, "{tally:?}");
    Cost::of(&tally)
}

/// Microseconds, computed from counts.
pub struct Times {
    pub link: f64,
    /// Repeats alone.
    pub floor: f64,
    /// The first look, with barriers, events and scalar accesses.
    pub look: f64,
    /// The first look and the picks.
    pub likely: f64,
}

impl Times {
    /// Of one batch.
    pub fn of(cost: &Cost, Shape { g, k, .. }: Shape) -> Self {
        let (columns, greedy) = (&cost.columns, &cost.greedy);
        // Columns go to blocks unevenly; what each block reads by scalars is the same for all, and little
        // depends on its columns.
        let busiest = g.div_ceil(cost.blocks as usize).min(k) as f64 / k as f64;
        let even = 1.0 / f64::from(cost.blocks);
        let look = us(busiest * vectors(columns, WAIT_CYCLES) + even * scalars(columns));
        Self {
            link: cost.input_bytes as f64 / LINK_BYTES_PER_NS / 1e3,
            floor: us(busiest * vectors(columns, 0.0) + vectors(greedy, 0.0)),
            look,
            likely: look + us(vectors(greedy, WAIT_CYCLES) + scalars(greedy)),
        }
    }
}

fn vectors(counts: &Counts, waits: f64) -> f64 {
    counts.vector_repeats as f64 + waits * (counts.barriers + counts.events) as f64
}

fn scalars(counts: &Counts) -> f64 {
    SCALAR_CYCLES * (counts.scalar_ub_accesses + counts.scalar_gm_reads) as f64
}

fn us(cycles: f64) -> f64 {
    cycles / CLOCK_GHZ / 1e3
}

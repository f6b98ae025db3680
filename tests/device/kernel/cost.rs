//! What a launch of the device kernel costs, on paper: counted on the model, compared with formulas and with
//! the table in `kernels/README.md`. Nothing here is a time measured on a device.

use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::blob::{ENTRY_COLUMNS, ENTRY_GREEDY, Soc};
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Traffic, Worker};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::support::model::{self, Counts, Model};
use super::support::root;

/// Waiting requests, workers, horizon, open slots (one on each of so many workers; one worker is full).
#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    g: usize,
    h: usize,
    k: usize,
}

const SHAPES: [Shape; 8] = [
    Shape { n: 512, g: 64, h: 0, k: 8 },
    Shape { n: 512, g: 64, h: 0, k: 63 },
    Shape { n: 1024, g: 144, h: 16, k: 8 },
    Shape { n: 1024, g: 144, h: 16, k: 143 },
    Shape { n: 1024, g: 144, h: 80, k: 8 },
    Shape { n: 1024, g: 144, h: 80, k: 143 },
    Shape { n: 4096, g: 256, h: 80, k: 8 },
    Shape { n: 4096, g: 256, h: 80, k: 255 },
];

const LONGEST: u32 = 8000;
const TILE: usize = 2048;

// Assumed, none of them measured by us: clock, a repeat of 256 bytes in each cycle, cycles that a barrier or
// an event pair waits and that a scalar access of the unified buffer or of cached global memory takes; host
// link; launch and synchronise (published for 910B3).
const CLOCK_GHZ: f64 = 1.8;
const WAIT_CYCLES: f64 = 30.0;
const SCALAR_CYCLES: f64 = 10.0;
const LINK_BYTES_PER_NS: f64 = 20.0;
const LAUNCH_US: f64 = 20.0;

struct Cost {
    columns: Counts,
    blocks: u32,
    greedy: Counts,
    scored: u64,
    input_bytes: usize,
}

/// Runs `exact` with a bonus and an eligibility bit for each pair; every knot lies among the lengths, so none
/// is cut.
fn run(library: &std::path::Path, Shape { n, g, h, k }: Shape) -> Cost {
    let mut rng = ChaCha8Rng::seed_from_u64((n + g + h + k) as u64);
    let below = |rng: &mut ChaCha8Rng| 400_000 - rng.random_range(200..u64::from(LONGEST) - 200);
    let mut workers: Vec<Worker> =
        (0..g).map(|worker| Worker::new(below(&mut rng), 70, u32::from((1..=k).contains(&worker)))).collect();
    // A closed worker holds the envelope, so that every open one has a margin.
    workers[0].load_tokens = 400_000;
    let requests: Vec<Request> = (0..n)
        .map(|id| {
            let tokens = match id {
                0 => 1,
                1 => LONGEST,
                _ => rng.random_range(1..LONGEST),
            };
            Request::new(id as u64, tokens).waited(rng.random_range(0..60)).pairs(id as u32)
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
    let bonus: Vec<f16> = (0..n * g).map(|_| f16::from_f32(rng.random_range(0..2000) as f32)).collect();
    let eligible: Vec<u64> =
        (0..n * g.div_ceil(64)).map(|_| u64::MAX ^ 1 << rng.random_range(0..64)).collect();
    let pool = Pool::from_requests(&requests).expect("valid");
    let mut draft = Batch::draft(&workers, &pool).traffic(Traffic::new().prompts(0, 0)).pairs(Pairs {
        bonus_half_tokens: &bonus,
        eligible: &eligible,
        ..Pairs::default()
    });
    if h > 0 {
        draft = draft.projection(h, &rows);
    }
    let batch = draft.check().expect("valid");

    let (model, tally) = Model::open(library, Soc { tile_limit: Some(TILE as u32), ..Soc::ASCEND_910B });
    let mut parameters = Parameters::new().backend(BackendKind::Cpu);
    parameters.exact.horizon_steps = h;
    // No weight rounds to nothing.
    parameters.exact.gamma = 0.98;
    parameters.exact.repair_rounds = 0;
    let name = if h > 0 { "exact-oracle" } else { "exact" };
    let mut device = policy::build_on(name, &parameters, Box::new(model.counting())).expect("a policy");
    let mut host = policy::build(name, &parameters).expect("a policy");
    let (mut found, mut expected) = (Assignment::new(), Assignment::new());
    device.decide(&batch, &mut found);
    host.decide(&batch, &mut expected);
    assert_eq!(found, expected);
    assert_eq!(found.admitted.len(), k);
    let tally = tally.lock().expect("no panic");
    assert_eq!(tally.decided, 1, "{tally:?}");
    let [(ENTRY_COLUMNS, blocks, columns), (ENTRY_GREEDY, 1, greedy)] = tally.launches[..] else {
        panic!("two launches: {:?}", tally.launches)
    };
    Cost { columns, blocks, greedy, scored: tally.columns, input_bytes: tally.input_bytes }
}

/// What one column costs without rounding doubts.
struct Column {
    instructions: u64,
    repeats: u64,
    barriers_and_events: u64,
}

fn column(n: usize, knots: usize) -> Column {
    // The eligibility bit, and a barrier; the scalar unit goes first. Then the two rounds of the reduction: a
    // barrier between them, an event after them.
    let rounds = n.div_ceil(64).div_ceil(32);
    let mut instructions = 1 + 1 + rounds;
    let mut repeats = TILE.min(n.next_multiple_of(128)).div_ceil(128) + n.div_ceil(64) + rounds;
    let mut barriers_and_events = 2 + 2;
    for from in (0..n).step_by(TILE) {
        let tile = TILE.min(n - from);
        // Bonus: Cast, Add. Base: two Muls, Add. Knots: Adds, Maxs, Muls, and Add or Sub. Eligibility: And on
        // 16 bits; Cast, CompareScalar, Select, which first duplicates its scalar.
        let floats = 2 + 3 + 4 * knots + 3;
        instructions += floats + 2;
        repeats += floats * tile.div_ceil(64) + tile.div_ceil(128) + 1;
        // Intervals; Select's two barriers and ours; two events of each queue.
        barriers_and_events += knots.div_ceil(2) + 4 + 3 + 4;
    }
    let [instructions, repeats, barriers_and_events] =
        [instructions, repeats, barriers_and_events].map(|count| count as u64);
    Column { instructions, repeats, barriers_and_events }
}

#[test]
fn the_table_in_the_readme_is_what_the_model_counts() {
    let library = model::plain_copy("cost");
    let readme = root("kernels/README.md");
    let readme = std::fs::read_to_string(readme).expect("a README");
    let mut missing = Vec::new();
    for shape in SHAPES {
        let Shape { n, g, h, k } = shape;
        let cost = run(&library, shape);
        let Column { instructions, repeats, barriers_and_events } = column(n, h + 1);
        let (columns, greedy) = (cost.columns, cost.greedy);
        // Scores are crossed out once a block. What is above the formula settles doubts: few repeats.
        let blocks = u64::from(cost.blocks);
        let (formula, again) = (k as u64 * repeats + blocks * n.div_ceil(64) as u64, columns.vector_repeats);
        assert!(again >= formula && again - formula <= formula / 20, "{shape:?}: {columns:?} for {formula}");
        assert!(columns.vector_instructions >= k as u64 * instructions + blocks, "{shape:?}");
        // An envelope that rises moves some knots above every length; they cost nothing then.
        let formula = cost.scored * repeats;
        let found = greedy.vector_repeats - n.div_ceil(64) as u64;
        assert!(found.abs_diff(formula) * 10 <= formula, "{shape:?}: {greedy:?}");
        // Each pick adds a little, and so does each doubt.
        let formula = cost.scored * barriers_and_events;
        let found = greedy.barriers + greedy.events;
        assert!(found * 20 >= formula * 19, "{shape:?}: {greedy:?}");
        assert!(found * 10 <= formula * 12 + 40 * k as u64 + 300, "{shape:?}: {greedy:?} for {formula}");
        // Tokens and ages once for each block, bonus and words once for each column.
        let loaded = blocks * 8 * n as u64 + k as u64 * 4 * n as u64;
        assert!(columns.copied_in_bytes <= loaded, "{shape:?}");

        // Columns go to blocks unevenly; what each block reads by scalars is the same for all, and little
        // depends on its columns.
        let busiest = g.div_ceil(blocks as usize).min(k) as f64 / k as f64;
        let even = 1.0 / blocks as f64;
        let vectors = |counts: &Counts, waits: f64| {
            counts.vector_repeats as f64 + waits * (counts.barriers + counts.events) as f64
        };
        let scalars =
            |counts: &Counts| SCALAR_CYCLES * (counts.scalar_ub_accesses + counts.scalar_gm_reads) as f64;
        let us = |cycles: f64| cycles / CLOCK_GHZ / 1e3;
        let link = cost.input_bytes as f64 / LINK_BYTES_PER_NS / 1e3;
        let floor = us(busiest * vectors(&columns, 0.0) + vectors(&greedy, 0.0));
        let look = us(busiest * vectors(&columns, WAIT_CYCLES) + even * scalars(&columns));
        let likely = look + us(vectors(&greedy, WAIT_CYCLES) + scalars(&greedy));
        let row = format!(
            "| {n}, {g}, {h}, {k} | {} KiB | {} | {} | {} | {} | {} | {} \
             | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            cost.input_bytes.div_ceil(1024),
            columns.vector_instructions,
            columns.vector_repeats,
            cost.scored,
            greedy.vector_instructions,
            greedy.vector_repeats,
            greedy.barriers + greedy.events,
            link,
            floor,
            look,
            likely,
            LAUNCH_US + link + likely,
        );
        println!("{row}");
        if !readme.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "kernels/README.md lacks:\n{}", missing.join("\n"));
}

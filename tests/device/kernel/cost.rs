//! What a launch of the device kernel costs, on paper: counted on the model, compared with formulas and with
//! the table in `kernels/README.md`. Nothing here is a time measured on a device.

use balanceroute::backend::BackendKind;
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Traffic};

use super::sheet::{Cost, Drawn, LAUNCH_US, Shape, TILE, Times, open, run};
use super::support::{model, root};

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

/// Every row stands in the page of the kernels.
fn assert_listed(rows: &[String]) {
    rows.iter().for_each(|row| println!("{row}"));
    let readme = std::fs::read_to_string(root("kernels/README.md")).expect("a README");
    let missing: Vec<&str> = rows.iter().map(String::as_str).filter(|row| !readme.contains(row)).collect();
    assert!(missing.is_empty(), "kernels/README.md lacks:\n{}", missing.join("\n"));
}

#[test]
fn the_table_in_the_readme_is_what_the_model_counts() {
    let library = model::plain_copy("cost");
    let mut rows = Vec::new();
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
        let Times { link, floor, look, likely } = Times::of(&cost, shape);
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
            LAUNCH_US[0] + link + likely,
        );
        rows.push(row);
    }
    assert_listed(&rows);
}

/// level with the terms of the pool: a knot for each of the others, a few more, one column a pick.
#[test]
fn the_table_of_level_is_what_the_model_counts() {
    let library = model::plain_copy("cost of level");
    let mut rows = Vec::new();
    for (n, g, k) in [(512, 64, 8), (512, 64, 63), (1024, 144, 8), (1024, 144, 143), (4096, 256, 8)] {
        let shape = Shape { n, g, h: 0, k };
        let drawn = Drawn::new(shape, false);
        let batch = drawn.batch_in(Traffic::new().prompts(2_500, 1_500).outputs(600));
        let (model, tally) = open(&library);
        let mut parameters = Parameters::new().backend(BackendKind::Cpu);
        parameters.level.repair_rounds = 0;
        let mut device = policy::build_on("level", &parameters, Box::new(model)).expect("a policy");
        let mut host = policy::build("level", &parameters).expect("a policy");
        let (mut found, mut expected) = (Assignment::new(), Assignment::new());
        device.decide(&batch, &mut found);
        host.decide(&batch, &mut expected);
        assert_eq!(found, expected);
        let tally = tally.lock().expect("no panic");
        assert_eq!(tally.decided, 1, "{tally:?}");
        let cost = Cost::of(&tally);
        assert_eq!(cost.scored, k as u64, "one column a pick");
        let Times { link, likely, .. } = Times::of(&cost, shape);
        let row = format!(
            "| {n}, {g}, {k} | {} KiB | {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} |",
            cost.input_bytes.div_ceil(1024),
            cost.greedy.vector_instructions,
            cost.greedy.vector_repeats,
            cost.greedy.barriers + cost.greedy.events,
            cost.greedy.scalar_gm_reads,
            tally.rescored,
            link,
            likely,
            LAUNCH_US[0] + link + likely,
        );
        rows.push(row);
    }
    assert_listed(&rows);
}

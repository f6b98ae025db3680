//! Where a device would decide faster than the CPU: computed, for none was at hand.
//!
//! The CPU's times and the host's share of a device's decision are measured here. The device's share is
//! computed from what its kernel counts on a model of the machine, at assumed rates
//! (`tests/device/support/sheet.rs`), and from published times of a launch.
//!
//! `--picture FILE` draws the result. `--all` also runs the largest shapes on the model, which takes
//! many minutes; without it their counts are those of `kernels/README.md`, where it has them.

#[path = "crossover/measure.rs"]
mod measure;
#[path = "crossover/picture.rs"]
mod picture;
#[path = "../tests/device/support/sheet.rs"]
#[allow(dead_code, unreachable_pub, reason = "the test of the sheet uses the rest")]
mod sheet;
#[path = "../tests/device/support/mod.rs"]
mod support;

use balanceroute::backend::ascend::ChoiceProbe;
use balanceroute::backend::cpu::Isa;
use measure::{Decision, Group, Kind};
use sheet::{Drawn, LAUNCH_US, Shape};

const SIZES: [(usize, usize); 3] = [(512, 64), (1024, 144), (4096, 256)];
const HORIZONS: [usize; 3] = [0, 16, 80];
const GROUPS: [Shape; 6] = [
    Shape { n: 512, g: 64, h: 0, k: 8 },
    Shape { n: 512, g: 64, h: 0, k: 63 },
    Shape { n: 512, g: 64, h: 16, k: 63 },
    Shape { n: 512, g: 64, h: 80, k: 63 },
    Shape { n: 1024, g: 144, h: 16, k: 8 },
    Shape { n: 1024, g: 144, h: 16, k: 143 },
];
/// Batches of a launch.
const BATCHES: [usize; 5] = [1, 10, 40, 200, 400];
/// Decisions of one shape in a row, after which `auto` has been right or wrong so often.
const DECISIONS: usize = 1000;

/// Minutes on the model.
fn is_heavy(Shape { n, h, k, .. }: Shape) -> bool {
    k > 8 && n * (h + 1) > 45_000
}

fn main() {
    let (mut picture, mut all) = (None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--picture" => picture = Some(arguments.next().expect("--picture FILE")),
            "--all" => all = true,
            // From cargo.
            "--bench" => {}
            _ => panic!("{argument}: --picture FILE or --all"),
        }
    }
    head();
    let mut decisions = Vec::new();
    for kind in [Kind::Pairs, Kind::Plain, Kind::Level] {
        for (n, g) in SIZES {
            for h in HORIZONS {
                for k in [8, g - 1] {
                    let shape = Shape { n, g, h, k };
                    if kind != Kind::Level || h == 0 {
                        decisions.extend(measure::decision(kind, shape, all || !is_heavy(shape)));
                    }
                }
            }
        }
    }
    one_decision(&decisions);
    let groups: Vec<[Group; 2]> = GROUPS
        .into_iter()
        .map(|shape| [Kind::Pairs, Kind::Plain].map(|kind| measure::group(kind, shape)))
        .collect();
    many(&groups);
    automatic(&decisions);
    if let Some(file) = picture {
        let drawn = picture::svg(&decisions, &groups).expect("a picture");
        std::fs::write(&file, drawn).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

fn head() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("of an unknown name");
    let isa = Isa::ALL.into_iter().rfind(|isa| isa.is_available());
    println!("CPU: {}, {}, one thread", name.trim_start_matches([' ', '\t', ':']), isa.map_or("", Isa::name));
    println!("No figure of a device is measured: none was at hand. Microseconds are");
    println!("  measured   cpu: a whole decision, the least of many; of `exact`, `exact-oracle` or `level`");
    println!(
        "  measured   host: what it does of a device's decision, packing and checking: the least of many"
    );
    println!("  computed   link: the input's bytes at {} bytes/ns (assumed)", sheet::LINK_BYTES_PER_NS);
    println!(
        "  computed   kernel: counts of the model, at {} GHz, a repeat of 256 bytes each",
        sheet::CLOCK_GHZ
    );
    println!(
        "             cycle, {} cycles for a barrier or event pair, {} for a",
        sheet::WAIT_CYCLES,
        sheet::SCALAR_CYCLES
    );
    println!("             scalar access (all assumed)");
    println!("  published  launch: {} and {} us to launch and wait on a 910B3", LAUNCH_US[0], LAUNCH_US[1]);
    println!("A device's time is host + link + launch + kernel. Not counted: threads that wake each other.");
}

fn one_decision(decisions: &[Decision]) {
    println!("\nOne decision. host marked `+`: packing alone, and a kernel's counts from kernels/README.md.");
    println!(
        "overlapped: who is faster if the host does other work while the device runs, so that only its own"
    );
    println!("share counts (`Submissions::submit` and `collect`).");
    println!(
        "| terms | N, G, H, K | cpu | host | link | kernel | device, 20 us | 31 us | faster | overlapped |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for decision in decisions {
        let Decision { kind, shape, cpu, host, link, kernel, counted, .. } = decision;
        let Shape { n, g, h, k } = shape;
        let [short, long] = LAUNCH_US.map(|launch| decision.device(launch));
        let mark = if *counted { "" } else { "+" };
        println!(
            "| {} | {n}, {g}, {h}, {k} | {cpu:.1} | {host:.1}{mark} | {link:.1} | {kernel:.1} \
             | {short:.1} | {long:.1} | {} | {} |",
            kind.name(),
            faster(*cpu, [short, long]),
            faster(*cpu, [*host; 2]),
        );
    }
}

/// Who is faster at both times of a launch.
fn faster(cpu: f64, device: [f64; 2]) -> &'static str {
    match device.map(|device| device < cpu) {
        [true, true] => "device",
        [true, false] => "device at 20 us",
        _ => "CPU",
    }
}

fn many(groups: &[[Group; 2]]) {
    println!(
        "\nB batches in one launch, microseconds a batch; 40 cores, a batch on each. A wave: the kernel on"
    );
    println!(
        "one core. resident: if the terms per pair lay on the device already, so that packing and link were"
    );
    println!("those of a batch without any; that is not built.");
    let batches = BATCHES.map(|batches| format!("B = {batches}")).join(" | ");
    println!(
        "| terms | N, G, H, K | cpu | host | link | a wave | {batches} | faster from | resident: from |"
    );
    println!("|---|---|---|---|---|---|{}---|---|", "---|".repeat(BATCHES.len()));
    for [pairs, plain] in groups {
        let resident = from(&pairs.resident(plain));
        for (group, resident) in [(pairs, &*resident), (plain, "")] {
            let Group { kind, shape: Shape { n, g, h, k }, cpu, host, link, block } = group;
            let of = |batches: usize| {
                let [short, long] = LAUNCH_US.map(|launch| group.device(batches, launch));
                format!("{short:.1} to {long:.1}")
            };
            println!(
                "| {} | {n}, {g}, {h}, {k} | {cpu:.1} | {host:.1} | {link:.1} | {block:.1} | {} | {} \
                 | {resident} |",
                kind.name(),
                BATCHES.map(of).join(" | "),
                from(group),
            );
        }
    }
    println!("`auto` does not decide about groups: whoever has them calls `Offload::assign_many`.");
}

/// From how many batches on the device is faster, at both times of a launch.
fn from(group: &Group) -> String {
    let from = LAUNCH_US.map(|launch| match group.crossover(launch) {
        Some(batches) => batches.to_string(),
        None => "never".to_owned(),
    });
    if from[0] == from[1] { from[0].clone() } else { from.join(" to ") }
}

/// What `auto` would choose.
fn automatic(decisions: &[Decision]) {
    let sides: Vec<[f64; 3]> = measure::calibration();
    println!("\n`auto`, given these times. first: right after a policy was built, and what a wrong choice");
    println!("costs; wrong: how many of {DECISIONS} decisions of one shape in a row go to the slower side.");
    println!("| terms | N, G, H, K | first at 20 us | wrong | first at 31 us | wrong | overlapped | wrong |");
    println!("|---|---|---|---|---|---|---|---|");
    for decision in decisions {
        let Shape { n, g, h, k } = decision.shape;
        let [short, long] = LAUNCH_US;
        let cells = [(short, false), (long, false), (short, true)]
            .map(|(launch, overlapped)| chosen(&sides, decision, launch, overlapped));
        println!("| {} | {n}, {g}, {h}, {k} | {} |", decision.kind.name(), cells.join(" | "));
    }
}

/// Whether the first choice agrees with the times, and how many of those after it do not.
fn chosen(sides: &[[f64; 3]], decision: &Decision, launch: f64, overlapped: bool) -> String {
    let mut at = sides.iter();
    let mut choice = ChoiceProbe::calibrated(|_| {
        let [cpu, device, host] = at.next().expect("as many batches");
        [cpu * 1e3, (device + launch) * 1e3, host * 1e3]
    });
    let drawn = Drawn::new(decision.shape, decision.kind == Kind::Pairs);
    let batch = drawn.batch();
    let cpu = decision.cpu;
    let device = if overlapped { decision.host } else { decision.device(launch) };
    let is_wrong = |by_device: bool| by_device != (device < cpu);
    let (mut first, mut wrong) = (None, 0);
    for _ in 0..DECISIONS {
        let by_device = choice.device(&batch, overlapped);
        first.get_or_insert(by_device);
        wrong += usize::from(is_wrong(by_device));
        match by_device {
            true => choice.device_took(&batch, device * 1e3, overlapped),
            false => choice.cpu_took(&batch, cpu * 1e3),
        }
    }
    let lost = (device - cpu).abs();
    if first.is_some_and(is_wrong) {
        format!("disagrees, {lost:.0} us, {:.0} % | {wrong}", 100.0 * lost / cpu.min(device))
    } else {
        format!("agrees | {wrong}")
    }
}

//! Many small worlds, one after the other, and what is done about one that fails.

use std::path::PathBuf;

use crate::plan::Plan;
use crate::shrink::{Failure, attempt, shrink};
use crate::source::Source;
use crate::tally::Seen;
use crate::world::World;

/// Events of one world.
const EVENTS: usize = 2_000;
/// What the tests of a debug build take.
const FEW: u64 = 100_000;

pub(crate) fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, found {value:?}")))
}

fn run(plan: &Plan) -> Result<Seen, Failure> {
    attempt(|| World::run(plan))
}

/// A world has failed: the shortest plan that fails there is written to a file and printed.
fn report(plan: &Plan, failure: &Failure) -> ! {
    let seed = plan.setting.seed;
    println!("seed {seed} fails at {}: {}", failure.place, failure.message);
    println!("  BALANCEROUTE_WORLD_SEED={seed} cargo test --release --test world worlds -- --nocapture");
    let (short, how) = shrink(plan, failure, |plan| run(plan).err());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("world-{seed}.plan"));
    let text = format!("# {}\n# {}\n{short}", how.place, how.message.replace('\n', "\n# "));
    std::fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("{} of {} events are enough:\n{text}", short.events.len(), plan.events.len());
    println!(
        "  BALANCEROUTE_WORLD_PLAN={} cargo test --release --test world worlds -- --nocapture",
        path.display()
    );
    panic!("seed {seed} fails at {}: {}", how.place, how.message);
}

#[test]
fn nothing_breaks_in_any_of_many_worlds() {
    if let Ok(path) = std::env::var("BALANCEROUTE_WORLD_PLAN") {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let plan: Plan = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        println!("{} events: {}", plan.events.len(), World::run(&plan));
        return;
    }
    let only = number("BALANCEROUTE_WORLD_SEED");
    let events = number("BALANCEROUTE_WORLD_EVENTS").unwrap_or(FEW);
    let (first, worlds) = only.map_or((0, events.div_ceil(EVENTS as u64)), |seed| (seed, 1));
    let mut seen = Seen::default();
    for seed in first..first + worlds {
        let plan = Source::new(seed).plan(EVENTS);
        match run(&plan) {
            Ok(met) => seen += &met,
            Err(failure) => report(&plan, &failure),
        }
    }
    println!("{worlds} worlds of {EVENTS} events: {seen}");
    if only.is_none() && events >= FEW {
        assert!(seen.never().is_empty(), "never met: {:?}", seen.never());
    }
}

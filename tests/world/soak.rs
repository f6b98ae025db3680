//! The soak: worlds that live long, with all faults on.
//!
//! ```text
//! BALANCEROUTE_WORLD_EVENTS=100000000 cargo test --release --test world soak -- --ignored --nocapture
//! ```

use balanceroute::router::Histogram;

use crate::counting::HELD;
use crate::plan::Event;
use crate::runs::number;
use crate::source::Source;
use crate::tally::Seen;
use crate::world::World;

/// Events of one life; of one with a million who wait.
const LIFE: u64 = 500_000;
const CROWDED: u64 = 20_000;
const MILLION: u64 = 1 << 20;
/// One life in so many is crowded.
const CROWDED_EACH: u64 = 21;
const DEFAULT: u64 = 10_000_000;
/// Everything is recounted after so many events.
const AUDITED: u64 = 1_000;
/// Looks at the memory in a life.
const LOOKS: u64 = 64;
/// What may be held more late in a life than early in it, in bytes: lists that grow by halves.
const SLACK: isize = 256 << 10;

/// The resident set in KiB, where the system tells it.
fn resident_kib() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4
}

fn held() -> isize {
    HELD.with(std::cell::Cell::get)
}

/// Time of the decisions of all front ends so far.
fn decide_ns(world: &World) -> Histogram {
    let mut sum = Histogram::default();
    for front in &world.fronts {
        let of = front.router.counters().decide_ns;
        sum.buckets.iter_mut().zip(of.buckets).for_each(|(sum, more)| *sum += more);
    }
    sum
}

fn since(now: &Histogram, before: &Histogram) -> Histogram {
    let mut since = *now;
    since.buckets.iter_mut().zip(before.buckets).for_each(|(now, before)| *now -= before);
    since
}

/// Percentiles of a life's first half and of its second.
fn percentiles(of: &Histogram) -> String {
    let quantile = |q| of.quantile(q).map_or("-".to_owned(), |ns| format!("{:.1}", (ns + 1) as f64 / 1e3));
    [0.5, 0.99, 0.999].map(quantile).join("/")
}

/// One life: what was met in it.
fn live(seed: u64, events: u64, crowded: bool) -> Seen {
    let before = held();
    let source = Source::new(seed);
    let mut source = if crowded { source.bursts(MILLION) } else { source };
    let mut world = World::new(source.setting);
    world.audited = AUDITED;
    let (mut early, mut late, mut half) = (0, 0, Histogram::default());
    let (mut longest_ms, mut most_waiting) = (0, 0);
    for event in 0..events {
        world.play(&source.next());
        if event % (events / LOOKS) == 0 {
            let most = if event < events / 2 { &mut early } else { &mut late };
            *most = (*most).max(held() - before);
            for front in &world.fronts {
                longest_ms = longest_ms.max(front.metrics.longest_wait_ms);
                most_waiting = most_waiting.max(front.waiting.len());
            }
        }
        if event == events / 2 {
            half = decide_ns(&world);
        }
    }
    let second = since(&decide_ns(&world), &half);
    println!(
        "{seed:>4} {:<19} {events:>8} {most_waiting:>8} {longest_ms:>10} {:>8} {:>8} {:>8} {:>16} {:>16}",
        world.setting.policy,
        early >> 10,
        late >> 10,
        resident_kib(),
        percentiles(&half),
        percentiles(&second),
    );
    assert!(
        crowded || late <= early + early / 2 + SLACK,
        "seed {seed}: {early} bytes held early, {late} late"
    );
    if crowded {
        // A million are not served in a minute: everybody comes back, each once.
        (0..world.setting.fronts).for_each(|front| world.play(&Event::Recover { front, salt: seed }));
        (0..world.setting.fronts).for_each(|front| world.play(&Event::Recover { front, salt: seed }));
    }
    world.ends();
    let seen = world.seen.clone();
    drop((world, source));
    // With a device's thread beside this one each gives back what the other has asked for.
    if !cfg!(feature = "ascend") {
        assert_eq!(held(), before, "seed {seed}: bytes that nobody gives back");
    }
    seen
}

#[test]
#[ignore = "takes minutes to hours: see above"]
fn soak() {
    let events = number("BALANCEROUTE_WORLD_EVENTS").unwrap_or(DEFAULT);
    let first = number("BALANCEROUTE_WORLD_SEED").unwrap_or(0);
    println!(
        "{:>4} {:<19} {:>8} {:>8} {:>10} {:>8} {:>8} {:>8} {:>16} {:>16}",
        "seed",
        "policy",
        "events",
        "waiting",
        "wait ms",
        "KiB",
        "KiB late",
        "RSS KiB",
        "us 50/99/99.9",
        "2nd half"
    );
    let (mut done, mut seen) = (0, Seen::default());
    for seed in first.. {
        if done >= events {
            break;
        }
        let crowded = seed % CROWDED_EACH == CROWDED_EACH - 1;
        let life = if crowded { CROWDED } else { LIFE.min(events) };
        seen += &live(seed, life, crowded);
        done += life;
    }
    println!("{done} events: {seen}");
}

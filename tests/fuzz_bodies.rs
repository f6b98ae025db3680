//! The bodies of the fuzz targets on seeded bytes, for machines without a fuzzer. `FUZZ_CASES` sets how many.

#[path = "../fuzz/bodies/cases.rs"]
mod cases;
#[path = "../fuzz/bodies/decide.rs"]
mod decide_body;
#[path = "../fuzz/bodies/router.rs"]
mod router_body;

use cases::{cases, corpus};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn decide_on_seeded_bytes() {
    let cases = cases(10_000);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut bytes = vec![0; 4096];
    let mut seen = decide_body::Seen::default();
    for _ in 0..cases {
        let length = rng.random_range(64..=bytes.len());
        rng.fill_bytes(&mut bytes[..length]);
        // Runs of zeros: lengths that tie and optional parts that are not there.
        if rng.random_range(0..4) == 0 {
            let from = rng.random_range(0..length);
            bytes[from..length].fill(0);
        }
        seen += decide_body::decide(&bytes[..length]);
    }
    assert_eq!(seen.errors, (1 << decide_body::KINDS) - 1, "not every error was met: {seen:?}");
    assert!(4 * seen.refused > seen.batches && 2 * (seen.batches - seen.refused) > cases, "{seen:?}");
    assert!(seen.spoilt > seen.refused && seen.refused_requests > cases / 50, "{seen:?}");
    for few in [seen.windowed, seen.halves, seen.neutral, seen.masks] {
        assert!(few > cases / 25, "{seen:?}");
    }
    assert!(seen.admitted > 10 * cases, "{seen:?}");
}

#[test]
fn router_on_seeded_bytes() {
    let cases = cases(2_000);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut bytes = vec![0; 4096];
    let mut tally = router_body::Tally::default();
    for _ in 0..cases {
        let length = rng.random_range(64..=bytes.len());
        rng.fill_bytes(&mut bytes[..length]);
        tally += router_body::route(&bytes[..length]);
    }
    assert!(tally.refused_configs < cases / 2 && tally.refused_configs > cases / 50, "{tally:?}");
    assert!(tally.calls > 50 * cases, "{tally:?}");
    assert!(tally.refused > 10 * cases && 2 * tally.refused < tally.calls, "{tally:?}");
    assert!(tally.admitted > 5 * cases && tally.finished > cases, "{tally:?}");
    assert!(tally.sent > cases && tally.stages > cases && tally.grown > cases, "{tally:?}");
    let rare =
        [tally.moved, tally.by_life, tally.disowned, tally.configured, tally.shared_out, tally.learned];
    for few in rare {
        assert!(few > cases / 20, "{tally:?}");
    }
    for few in [
        tally.refused_steps,
        tally.masked,
        tally.classed,
        tally.placed,
        tally.behind_window,
        tally.jumps as usize,
    ] {
        assert!(few > cases / 2, "{tally:?}");
    }
    assert!(tally.returned.iter().all(|&count| count > cases / 100), "{tally:?}");
}

#[test]
fn what_fuzzers_have_found_is_run_again() {
    for bytes in corpus("decide") {
        let _ = decide_body::decide(&bytes);
    }
    for bytes in corpus("router") {
        let _ = router_body::route(&bytes);
    }
}

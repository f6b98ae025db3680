//! The bodies of the fuzz targets on seeded bytes, for machines without a fuzzer. `FUZZ_CASES` sets how many.

#[path = "../fuzz/bodies/decide.rs"]
mod decide_body;
#[path = "../fuzz/bodies/router.rs"]
mod router_body;
#[cfg(feature = "sim")]
#[path = "../fuzz/bodies/trace.rs"]
mod trace_body;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn cases(default: usize) -> usize {
    std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

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
    for few in [tally.refused_steps, tally.masked, tally.placed, tally.behind_window, tally.jumps as usize] {
        assert!(few > cases / 2, "{tally:?}");
    }
    assert!(tally.returned.iter().all(|&count| count > cases / 100), "{tally:?}");
}

/// Rows of both formats with bytes changed, doubled and left out.
#[cfg(feature = "sim")]
#[test]
fn trace_on_seeded_bytes() {
    const ROWS: [&str; 6] = [
        "2023-11-16 18:15:46.6805900,374,44\n",
        "2024-05-10 00:00:00.009930+00:00,2162,5\r\n",
        "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n",
        "{\"timestamp\": 1e3, \"input_length\": 4194304, \"output_length\": 1}\n",
        "\"3\",\"\",2024-02-29T00:00:01-23:59,40\n",
        "\n",
    ];
    let cases = cases(20_000);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut taken = 0;
    for _ in 0..cases {
        let mut bytes = vec![rng.random::<u8>()];
        for _ in 0..rng.random_range(0..5) {
            bytes.extend_from_slice(ROWS[rng.random_range(0..ROWS.len())].as_bytes());
        }
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] = rng.random(),
                1 => bytes.insert(at, *b"0,\"\n-+:{}9\xff".get(rng.random_range(0..11)).unwrap_or(&0)),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        taken += usize::from(trace_body::trace(&bytes));
    }
    assert!(taken > cases / 50, "only {taken} of {cases} were taken");
}

//! The bodies of the C interface's fuzz targets on seeded bytes, for machines without a fuzzer. `FUZZ_CASES`
//! sets how many.

#![allow(clippy::duplicate_mod, reason = "two bodies share what they draw")]

#[path = "../../../fuzz/bodies/arrays.rs"]
mod arrays_body;
#[path = "../../../fuzz/bodies/capi.rs"]
mod capi_body;
#[path = "../../../fuzz/bodies/cases.rs"]
mod cases;

use cases::{cases, corpus};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn arrays_on_seeded_bytes() {
    let cases = cases(5_000);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut bytes = vec![0; 8192];
    let mut seen = arrays_body::Seen::default();
    for _ in 0..cases {
        let length = rng.random_range(64..=bytes.len());
        rng.fill_bytes(&mut bytes[..length]);
        seen += arrays_body::arrays(&bytes[..length]);
    }
    println!("{seen:?}");
    assert!(seen.calls > 2 * cases && seen.refused_options > cases / 100, "{seen:?}");
    // Every status that a call of this kind has, none of them seldom.
    assert!(seen.statuses.iter().enumerate().all(|(at, &count)| at == 2 || count > cases / 20), "{seen:?}");
    assert!(seen.admitted > cases && seen.terms.iter().all(|&count| count > cases / 20), "{seen:?}");
}

#[test]
fn calls_on_seeded_bytes() {
    let cases = cases(1_500);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut bytes = vec![0; 8192];
    let mut tally = capi_body::Tally::default();
    for _ in 0..cases {
        let length = rng.random_range(64..=bytes.len());
        rng.fill_bytes(&mut bytes[..length]);
        tally += capi_body::calls(&bytes[..length]);
    }
    println!("{tally:?}");
    assert!(tally.calls > 30 * cases && tally.refused_configs < cases / 2, "{tally:?}");
    assert_eq!(tally.kinds, (1 << capi_body::KINDS) - 1, "a call that never went through: {tally:?}");
    let [ok, argument, _, batch, space, busy, internal, request, worker, state, broken] = tally.statuses;
    assert!([ok, argument, batch, space, request, worker, state].iter().all(|&count| count > cases / 20));
    assert_eq!([busy, internal, broken], [0; 3], "{tally:?}");
    assert!(tally.admitted > cases && tally.returned > cases / 4 && tally.with_rows > cases, "{tally:?}");
}

#[test]
fn what_fuzzers_have_found_is_run_again() {
    for bytes in corpus("arrays") {
        let _ = arrays_body::arrays(&bytes);
    }
    for bytes in corpus("capi") {
        let _ = capi_body::calls(&bytes);
    }
}

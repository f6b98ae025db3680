//! The body of the fuzz target `record` on seeded bytes. `FUZZ_CASES` sets how many.

#[path = "../../fuzz/bodies/record.rs"]
mod body;
#[path = "../../fuzz/bodies/cases.rs"]
mod cases;

use balanceroute::Router;
use balanceroute::policy::Parameters;
use cases::{cases, corpus};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Folder;
use crate::calls::{Calls, config};

/// Calls as they are recorded, with the answers that they had elsewhere, each behind its length.
fn calls(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut router = Router::new(config(rng), "level", &Parameters::default()).expect("valid");
    let mut drawn = Calls::new(ChaCha8Rng::seed_from_u64(rng.random()));
    let mut bytes = Vec::new();
    for _ in 0..60 {
        let call = drawn.next(&router);
        let Ok(answer) = router.apply(&call) else { continue };
        let record = postcard::to_stdvec(&(call, answer)).expect("bytes");
        if let Ok(length) = u8::try_from(record.len()) {
            bytes.push(length);
            bytes.extend(record);
        }
    }
    bytes
}

#[test]
fn recordings_of_any_bytes() {
    let cases = cases(1_500);
    let folder = Folder::new();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut met = [body::Met::default(); 3];
    for case in 0..cases {
        let choice = case % 3;
        let mut bytes = vec![choice as u8];
        match choice {
            0 => bytes.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>())),
            1 => bytes.extend((0..3 * rng.random_range(1..4)).map(|_| rng.random::<u8>())),
            _ => bytes.extend(calls(&mut rng)),
        }
        if choice == 2 && case % 2 == 0 {
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(1..bytes.len());
                bytes[at] = rng.random();
            }
        }
        met[choice] += body::replay(&bytes, folder.path());
    }
    let [any, damaged, made] = met;
    assert_eq!((any.calls, any.refused), (0, cases / 3), "{any:?}");
    assert!(damaged.torn > cases / 60 && damaged.calls > 0 && damaged.differ == 0, "{damaged:?}");
    assert!(made.calls > 10 * cases as u64 && made.differ > 0 && made.refused > cases / 60, "{made:?}");
    for bytes in corpus("record") {
        body::replay(&bytes, folder.path());
    }
}

/// Writes the first seeds of the corpus.
#[test]
#[ignore = "writes into the repository"]
fn seeds() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/record");
    std::fs::create_dir_all(&path).expect("a folder");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for at in 0..8 {
        let mut bytes = vec![2];
        bytes.extend(calls(&mut rng));
        std::fs::write(path.join(format!("calls-{at}.bin")), bytes).expect("a file");
    }
}

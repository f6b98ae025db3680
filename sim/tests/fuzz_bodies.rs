//! The bodies of the simulator's fuzz targets on seeded bytes, for machines without a fuzzer. `FUZZ_CASES`
//! sets how many.

#[path = "../../fuzz/bodies/cases.rs"]
mod cases;
#[path = "../../fuzz/bodies/files.rs"]
mod files_body;
#[path = "../../fuzz/bodies/trace.rs"]
mod trace_body;

use cases::{cases, corpus};
use files_body::Taken;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows of many layouts with bytes changed, doubled and left out.
#[test]
fn trace_on_seeded_bytes() {
    const ROWS: [&str; 13] = [
        "2023-11-16 18:15:46.6805900,374,44\n",
        "2024-05-10 00:00:00.009930+00:00,2162,5\r\n",
        "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n",
        "{\"timestamp\": 1e3, \"input_length\": 4194304, \"output_length\": 1}\n",
        "\"3\",\"\",2024-02-29T00:00:01-23:59,40\n",
        "\n",
        "{\"session_id\": \"a\", \"timestamp\": 0.5, \"input_length\": 5, \"output_length\": 12}\n",
        "{\"session_id\": \"a\", \"delay\": 20, \"input_length\": 5, \"output_length\": 12}\n",
        "{\"chat_id\": 1, \"parent_chat_id\": 1, \"timestamp\": 1.5, \"input_length\": 16, \
         \"output_length\": 1}\n",
        "[{\"timestamp\": 0, \"input_length\": 6, \"output_length\": 0},\n",
        "{\"timestamp\": 9, \"input_length\": 6, \"output_length\": 3}]\n",
        "{\"input_lens\": [3, 4], \"output_lens\": [1, 0], \"start_times\": [1.5, 2]}\n",
        "Timestamp;Request tokens;Response tokens\n5;472;18\n",
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

/// Files of each kind, of any bytes and of sound ones with some changed.
#[test]
fn files_on_seeded_bytes() {
    const LAW: &[u8] = b"base_ms = 5.0\nus_per_token = 0.1\nus_per_request = 2.0\nprompts = \"worker\"\n";
    const ROW: &[u8] = b"2023-11-16 18:15:47.68,374,44\n";
    const STEPS: &[u8] = b"step_ms,running,kv_tokens,prefill_tokens\n5.1,3,900,0\n5.6,4,1300,20\n";
    let cases = cases(2_500);
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut taken = Vec::new();
    for at in 0..cases {
        let kind = (at % 8) as u8;
        let mut bytes = match kind {
            // Neither torn, and read by the first of the maps.
            0 | 1 => [&[1], ROW].concat(),
            2 => b"\x01\x00\x00\x00\x00".to_vec(),
            4 => LAW.to_vec(),
            5 => [&[0], STEPS].concat(),
            _ => vec![0; rng.random_range(0..200)],
        };
        if kind == 3 || kind > 5 {
            rng.fill_bytes(&mut bytes);
        } else if rng.random() {
            // A sound one, with a byte changed.
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        bytes.insert(0, kind);
        taken.extend(files_body::files(&bytes));
    }
    for of in [Taken::Gzip, Taken::Zstd, Taken::Columns, Taken::Law, Taken::Steps, Taken::Page] {
        let count = taken.iter().filter(|&&found| found == of).count();
        println!("{of:?}: {count}");
        assert!(count > cases / 200, "{of:?} was taken {count} times of {cases}");
    }
}

#[test]
fn what_fuzzers_have_found_is_run_again() {
    for bytes in corpus("trace") {
        let _ = trace_body::trace(&bytes);
    }
    for bytes in corpus("files") {
        let _ = files_body::files(&bytes);
    }
}

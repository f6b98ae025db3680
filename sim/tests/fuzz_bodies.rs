//! The body of the trace reader's fuzz target on seeded bytes, for machines without a fuzzer. `FUZZ_CASES`
//! sets how many.

#[path = "../../fuzz/bodies/trace.rs"]
mod trace_body;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn cases(default: usize) -> usize {
    std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

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

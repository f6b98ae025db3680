//! Bytes are a trace file; the reader takes it or refuses it, and what it takes can be run.
//!
//! Included by the fuzz target and by `sim/tests/fuzz_bodies.rs`.

use balanceroute_sim::traces::{MAX_LINE_BYTES, ReadOptions, Trace, TraceError};

/// Whether the reader took the bytes. The first byte chooses the options and a head, so that rows are reached
/// at once.
pub(crate) fn trace(data: &[u8]) -> bool {
    let Some((&choice, rows)) = data.split_first() else { return false };
    let options = ReadOptions {
        skip_bad_rows: choice & 1 == 1,
        min_output_tokens: if choice & 2 == 2 { 10 } else { 0 },
        // Some rows are longer than 50 bytes, no head is longer than 90.
        max_line_bytes: [MAX_LINE_BYTES, 50, 90, 100][usize::from(choice >> 4 & 3)],
    };
    let limit = options.max_line_bytes;
    let head: &[u8] = match choice >> 2 & 3 {
        0 => b"TIMESTAMP,ContextTokens,GeneratedTokens\n",
        1 => b"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 12, \"hash_ids\": [0, 1]}\n",
        2 => b"\xef\xbb\xbfGeneratedTokens,x,TIMESTAMP,ContextTokens\r\n3,,2024-02-29T00:00:01Z,30\r\n",
        _ => b"",
    };
    let bytes = [head, rows].concat();
    let trace = match Trace::parse_bytes(&bytes, options) {
        Ok(trace) => trace,
        Err(TraceError::LineTooLong { line, limit: found, found_at_least, .. }) => {
            let from = bytes.split_inclusive(|&byte| byte == b'\n').skip(line as usize - 1);
            assert!(
                from.map(<[u8]>::len).sum::<usize>() > limit,
                "the rest from line {line} is within {limit}"
            );
            assert!(found == limit && found_at_least > limit);
            return false;
        }
        Err(_) => return false,
    };
    // A row of CSV ends with either.
    assert!(bytes.split(|byte| b"\r\n".contains(byte)).all(|line| line.len() <= limit));
    assert!(!trace.jobs.is_empty());
    assert_eq!(trace.jobs.len(), trace.arrival_s.len());
    assert!(trace.arrival_s.is_sorted());
    assert!(trace.arrival_s.iter().all(|at_s| at_s.is_finite() && *at_s >= 0.0));
    assert!(trace.jobs.iter().all(|job| job.prompt_tokens > 0 && job.output_tokens > 0));
    true
}

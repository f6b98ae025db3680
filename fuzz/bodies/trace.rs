//! Bytes are a trace file; the reader takes it or refuses it, and what it takes can be run.
//!
//! Included by the fuzz target and by `sim/tests/fuzz_bodies.rs`.

use balanceroute_sim::traces::{
    MAX_LINE_BYTES, ReadOptions, Shape, Target, TimeUnit, Trace, TraceError, convert,
};

/// Whether the reader took the bytes. The first byte chooses the options and a head, so that rows are reached
/// at once.
pub(crate) fn trace(data: &[u8]) -> bool {
    let Some((&choice, rows)) = data.split_first() else { return false };
    let options = ReadOptions {
        skip_bad_rows: choice & 1 == 1,
        min_output_tokens: if choice & 2 == 2 { 10 } else { 0 },
        // Some rows are longer than 50 bytes, no head is longer than 90.
        max_line_bytes: [MAX_LINE_BYTES, 50, 90, 100][usize::from(choice >> 4 & 3)],
        // Whatever the rows are taken for, they are taken or refused.
        time_unit: (choice >> 6 & 3 == 1).then_some(TimeUnit::Seconds),
        block_tokens: (choice >> 6 & 3 == 2).then_some(16),
        columns: if choice >> 6 & 3 == 3 {
            "time=timestamp:us,prompt=input_length,output=output_length,session=session_id,delay=delay"
                .parse()
                .ok()
        } else {
            None
        },
    };
    let limit = options.max_line_bytes;
    let head: &[u8] = match choice >> 2 & 3 {
        0 => b"TIMESTAMP,ContextTokens,GeneratedTokens\n",
        1 => b"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 12, \"hash_ids\": [0, 1]}\n",
        2 => b"\xef\xbb\xbfGeneratedTokens,x,TIMESTAMP,ContextTokens\r\n3,,2024-02-29T00:00:01Z,30\r\n",
        // What comes after it is of any layout.
        _ => b"",
    };
    let bytes = [head, rows].concat();
    let trace = match Trace::parse_bytes(&bytes, &options) {
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
    let is_text = !bytes.starts_with(b"\x1f\x8b");
    // A row of CSV ends with either. Elements of arrays and results are no lines.
    if is_text && matches!(trace.format, "azure" | "burstgpt" | "vidur" | "vidur-lengths" | "splitwise") {
        let longest = bytes.split(|byte| b"\r\n".contains(byte)).map(<[u8]>::len).max();
        assert!(longest <= Some(limit + 3));
    }
    assert!(!trace.jobs.is_empty());
    assert!(trace.arrival_s.is_empty() || trace.jobs.len() == trace.arrival_s.len());
    assert!(trace.arrival_s.is_sorted());
    assert!(trace.arrival_s.iter().all(|at_s| at_s.is_finite() && *at_s >= 0.0));
    assert!(trace.jobs.iter().all(|job| job.prompt_tokens > 0 && job.output_tokens > 0));
    // Who waits, waits for somebody before it.
    assert!(trace.turns.is_empty() || trace.jobs.len() == trace.turns.len());
    assert!(
        trace
            .turns
            .iter()
            .zip(0..)
            .all(|(turn, at)| turn.is_none_or(|turn| turn.after < at && turn.delay_s >= 0.0))
    );
    let shape = Shape::of(&trace);
    assert!(shape.prefix.is_none_or(|prefix| prefix.seen_before <= prefix.shared && prefix.shared <= 1.0));
    // What is written is read back.
    let mut written = Vec::new();
    if convert(&trace, Target::Aiperf, &mut written).is_ok_and(|lost| !lost.blocks_merged) {
        let options = ReadOptions { block_tokens: Some(512), ..ReadOptions::DEFAULT };
        let again = Trace::parse_bytes(&written, &options).expect("readable");
        assert_eq!(again.jobs, trace.jobs);
    }
    true
}

//! Mooncake's traces: JSON lines with `timestamp` in ms, `input_length`, `output_length`, `hash_ids`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::sync::Arc;

use balanceroute::batch::MAX_PROMPT_TOKENS;
use serde_json::Value;

use super::error::TraceError;
use super::format::{
    Bad, Format, MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED, PROMPT_EXPECTED, Rows, TICKS_PER_SECOND,
};
use super::lines::read_line;
use crate::job::Job;

pub(super) const FORMAT: Format = Format {
    name: "mooncake",
    begins_with: "JSON lines with timestamp, input_length, output_length",
    read: |first_line, reader, rows| recognises(first_line).then(|| read(reader, rows)),
    settle: spread_ties,
};

fn recognises(first_line: &str) -> bool {
    serde_json::from_str::<Value>(first_line).is_ok_and(|row| {
        ["timestamp", "input_length", "output_length"].iter().all(|&key| row.get(key).is_some())
    })
}

fn read(reader: &mut dyn BufRead, rows: &mut Rows<'_>) -> Result<(), TraceError> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        read_line(&mut *reader, &mut line, rows.file, number, rows.options.max_line_bytes)?;
        if line.is_empty() {
            break;
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if !text.is_empty() {
            rows.take(number, row(text))?;
        }
    }
    Ok(())
}

fn row(text: &[u8]) -> Result<(i64, Job), Bad> {
    let row: Value = serde_json::from_slice(text).map_err(|_| Bad {
        what: "row",
        expected: "a JSON object",
        found: String::from_utf8_lossy(text).into_owned(),
    })?;
    let field = |key: &'static str, expected: &'static str| {
        row.get(key).ok_or_else(|| Bad { what: key, expected, found: "no such key".to_owned() })
    };
    let stamp = field("timestamp", "milliseconds")?;
    // Below 2^40 seconds, so that the conversion to ticks cannot overflow.
    let ms = stamp.as_f64().filter(|ms| (0.0..1.1e15).contains(ms)).ok_or_else(|| Bad {
        what: "timestamp",
        expected: "milliseconds, not negative",
        found: stamp.to_string(),
    })?;
    let tokens = |key, limit, expected| {
        let value = field(key, expected)?;
        value
            .as_u64()
            .and_then(|tokens| u32::try_from(tokens).ok())
            .filter(|tokens| (1..=limit).contains(tokens))
            .ok_or_else(|| Bad { what: key, expected, found: value.to_string() })
    };
    let mut job = Job::new(
        tokens("input_length", MAX_PROMPT_TOKENS, PROMPT_EXPECTED)?,
        tokens("output_length", MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED)?,
    );
    if let Some(hashes) = row.get("hash_ids") {
        let blocks: Option<Vec<u64>> =
            hashes.as_array().and_then(|hashes| hashes.iter().map(Value::as_u64).collect());
        let blocks = blocks.ok_or_else(|| Bad {
            what: "hash_ids",
            expected: "an array of whole numbers",
            found: hashes.to_string(),
        })?;
        // Equal blocks and equal length: the nearest that the trace has to "the same prompt".
        let mut hasher = DefaultHasher::new();
        (job.prompt_tokens, &blocks).hash(&mut hasher);
        job.prompt_hash = Some(hasher.finish());
        job.prefix_blocks = Some(Arc::from(blocks));
    }
    Ok(((ms * (TICKS_PER_SECOND as f64 / 1e3)) as i64, job))
}

/// Mooncake logs in ticks of seconds: spreads the arrivals of a tick evenly up to the next one.
fn spread_ties(arrival_s: &mut [f64]) {
    let mut ticks: BTreeMap<u64, usize> = BTreeMap::new();
    for &at in arrival_s.iter() {
        *ticks.entry(at.to_bits()).or_default() += 1;
    }
    let starts: Vec<(f64, usize)> =
        ticks.into_iter().map(|(bits, count)| (f64::from_bits(bits), count)).collect();
    // A silent gap is not spread over: no tick is longer than the shortest distance between two.
    let tick = starts.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::INFINITY, f64::min);
    let tick = if tick.is_finite() { tick } else { 0.0 };
    let mut at = 0;
    for (start, count) in starts {
        for position in 0..count {
            arrival_s[at] = start + tick * position as f64 / count as f64;
            at += 1;
        }
    }
}

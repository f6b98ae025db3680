//! Traces in layouts that other tools read, and that are read back as they were.

use std::collections::HashMap;
use std::io::{self, Write};
use std::str::FromStr;

use serde::Serialize;

use super::error::TraceError;
use super::{Trace, Turn};

/// A layout to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// JSON lines in the manner of Mooncake with sessions, as aiperf and dynamo read them: times and delays
    /// in ms, blocks of 512 tokens.
    Aiperf,
    /// CSV with `arrived_at` in seconds and lengths, as Vidur reads it: no sessions and no blocks.
    Vidur,
}

impl FromStr for Target {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        match text {
            "aiperf" => Ok(Self::Aiperf),
            "vidur" => Ok(Self::Vidur),
            _ => Err(TraceError::option("to", "aiperf or vidur", text)),
        }
    }
}

/// What a conversion leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conversion {
    /// Requests whose turn before is lost: they come at their earliest time.
    pub turns_lost: u64,
    /// Whether blocks are lost.
    pub blocks_lost: bool,
    /// Whether blocks are put together to larger ones: what is shared within one is lost.
    pub blocks_merged: bool,
}

/// Tokens of a block in Mooncake's layout.
const BLOCK_TOKENS: u32 = 512;

/// A row of [`Target::Aiperf`].
#[derive(Serialize)]
struct AiperfRow {
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<f64>,
    input_length: u32,
    output_length: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_ids: Option<Vec<u64>>,
}

/// Writes the trace, and tells what is lost by that.
///
/// # Errors
/// A trace that cannot be written so: without times for aiperf, or with blocks that make no block of 512.
/// Nothing has been written then. Otherwise what the stream says.
pub fn convert(trace: &Trace, target: Target, out: &mut dyn Write) -> Result<Conversion, ConvertError> {
    match target {
        Target::Aiperf => aiperf(trace, out),
        Target::Vidur => vidur(trace, out),
    }
}

/// Why a trace is not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// It cannot be written in this layout.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// It cannot be written to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn vidur(trace: &Trace, out: &mut dyn Write) -> Result<Conversion, ConvertError> {
    let mut table = csv::Writer::from_writer(out);
    let lengths = ["num_prefill_tokens", "num_decode_tokens"];
    let text = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) => ConvertError::Io(error),
        kind => ConvertError::Io(io::Error::other(format!("{kind:?}"))),
    };
    if trace.arrival_s.is_empty() {
        // What Vidur's own files of lengths have, and what tells them from tables whose times have no name.
        table.write_record([lengths[0], lengths[1], "num_total_tokens", "pd_ratio"]).map_err(text)?;
    } else {
        table.write_record(["arrived_at", lengths[0], lengths[1]]).map_err(text)?;
    }
    for (at, job) in trace.jobs.iter().enumerate() {
        let (prompt, output) = (job.prompt_tokens, job.output_tokens);
        match trace.arrival_s.get(at) {
            Some(arrival_s) => table.serialize((arrival_s, prompt, output)),
            None => {
                let total = u64::from(prompt) + u64::from(output);
                table.serialize((prompt, output, total, f64::from(prompt) / f64::from(output)))
            }
        }
        .map_err(text)?;
    }
    table.flush()?;
    Ok(Conversion {
        turns_lost: trace.turns.iter().flatten().count() as u64,
        blocks_lost: trace.jobs.iter().any(|job| job.prefix_blocks.is_some()),
        blocks_merged: false,
    })
}

fn aiperf(trace: &Trace, out: &mut dyn Write) -> Result<Conversion, ConvertError> {
    if trace.arrival_s.is_empty() {
        return Err(TraceError::option("to", "vidur, since the trace has lengths only", "aiperf").into());
    }
    let has_blocks = trace.jobs.iter().any(|job| job.prefix_blocks.is_some());
    if has_blocks && !BLOCK_TOKENS.is_multiple_of(trace.block_tokens) {
        let expected = format!("prefix blocks of which {BLOCK_TOKENS} is a multiple");
        return Err(TraceError::option("to", expected, trace.block_tokens.to_string()).into());
    }
    let mut conversion = Conversion::default();
    let mut merged = Merged::default();
    // The last turn of each session: another that waits for the one before it cannot be told.
    let mut sessions: Vec<usize> = Vec::new();
    let mut last: Vec<u32> = Vec::new();
    for (at, job) in trace.jobs.iter().enumerate() {
        let turn = trace.turns.get(at).copied().flatten();
        let follows = turn.filter(|turn| last[sessions[turn.after as usize]] == turn.after);
        conversion.turns_lost += u64::from(turn.is_some() && follows.is_none());
        let session = match follows {
            Some(turn) => sessions[turn.after as usize],
            None => {
                last.push(0);
                last.len() - 1
            }
        };
        sessions.push(session);
        last[session] = at as u32;
        let hash_ids = match job.prefix_blocks.as_deref() {
            Some(blocks) if trace.block_tokens != BLOCK_TOKENS => {
                conversion.blocks_merged = true;
                Some(merged.blocks(blocks, (BLOCK_TOKENS / trace.block_tokens) as usize))
            }
            blocks => blocks.map(<[u64]>::to_vec),
        };
        let own_time = follows.is_none_or(|turn| !is_earliest(trace, at, turn));
        let row = AiperfRow {
            session_id: session.to_string(),
            timestamp: own_time.then(|| milliseconds(trace.arrival_s[at])),
            delay: follows.map(|turn| milliseconds(turn.delay_s)).filter(|&ms| ms > 0.0 || !own_time),
            input_length: job.prompt_tokens,
            output_length: job.output_tokens,
            hash_ids,
        };
        serde_json::to_writer(&mut *out, &row).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(conversion)
}

/// Whether a turn has no time of its own but that of the turn before it and its delay.
fn is_earliest(trace: &Trace, at: usize, turn: Turn) -> bool {
    let earliest_s = trace.arrival_s[turn.after as usize] + turn.delay_s;
    turn.delay_s > 0.0 && (trace.arrival_s[at] - earliest_s).abs() < 1e-7
}

/// To the resolution of a trace, without digits that only a double has.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e7).round() / 1e4
}

/// Blocks put together to larger ones, which are equal where all before and in them are.
#[derive(Default)]
struct Merged {
    ids: HashMap<(Option<u64>, Vec<u64>), u64>,
}

impl Merged {
    fn blocks(&mut self, blocks: &[u64], count: usize) -> Vec<u64> {
        let mut before = None;
        let mut merged = Vec::new();
        for group in blocks.chunks(count) {
            let next = self.ids.len() as u64;
            let id = *self.ids.entry((before, group.to_vec())).or_insert(next);
            before = Some(id);
            merged.push(id);
        }
        merged
    }
}

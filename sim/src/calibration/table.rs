//! Steps out of a table, as an engine's own log has them.

use std::io::BufRead;

use super::{CalibrateError, Step};

/// Names of the time of a step, and what makes ms of it.
const TIMES: [(&str, f64); 3] = [("step_ms", 1.0), ("step_us", 1e-3), ("step_s", 1e3)];
const RUNNING: &str = "running";
const KV_TOKENS: &str = "kv_tokens";
const PREFILL_TOKENS: &str = "prefill_tokens";

/// What a table has to have, in words.
pub(super) fn columns() -> String {
    format!(
        "step_ms (or step_us, step_s), {RUNNING}, {KV_TOKENS} and, if prompts are computed there, \
         {PREFILL_TOKENS}"
    )
}

/// What separates columns: of those that a table is written with the one that its head has most of.
fn separator(head: &str) -> u8 {
    [b',', b';', b'\t']
        .into_iter()
        .rev()
        .max_by_key(|&by| head.bytes().filter(|&byte| byte == by).count())
        .unwrap_or(b',')
}

/// Adds the steps of a table with this first line, which the reader still holds.
pub(super) fn read(
    reader: impl BufRead,
    head: &str,
    file: &str,
    run: u32,
    steps: &mut Vec<Step>,
) -> Result<(), CalibrateError> {
    let mut table =
        csv::ReaderBuilder::new().delimiter(separator(head)).trim(csv::Trim::All).from_reader(reader);
    let malformed = |error: &csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        let expected = "a row of the table".to_owned();
        let what = format!("line {line}");
        CalibrateError::Measurement { file: file.to_owned(), what, expected, found: error.to_string() }
    };
    let names = table.headers().map_err(|error| malformed(&error))?.clone();
    let column = |name: &str| names.iter().position(|other| other == name);
    let time = TIMES.iter().find_map(|&(name, to_ms)| Some((column(name)?, name, to_ms)));
    let (Some(time), Some(running), Some(kv_tokens)) = (time, column(RUNNING), column(KV_TOKENS)) else {
        let found = head.trim().chars().take(200).collect();
        return Err(CalibrateError::Unrecognised { file: file.to_owned(), expected: columns(), found });
    };
    let prefill_tokens = column(PREFILL_TOKENS);
    for row in table.records() {
        let row = row.map_err(|error| malformed(&error))?;
        let line = row.position().map_or(1, csv::Position::line);
        let number = |at: usize, name: &str, least: f64| {
            let text = row.get(at).unwrap_or("");
            let value: Option<f64> = text.parse().ok();
            value.filter(|value| value.is_finite() && *value >= least).ok_or_else(|| {
                CalibrateError::Measurement {
                    file: file.to_owned(),
                    what: format!("line {line}: {name}"),
                    expected: if least > 0.0 { "a number above 0" } else { "a number that is not negative" }
                        .to_owned(),
                    found: format!("{text:?}"),
                }
            })
        };
        let (at, name, to_ms) = time;
        steps.push(Step {
            run,
            ms: to_ms * number(at, name, f64::MIN_POSITIVE)?,
            running: number(running, RUNNING, 0.0)?,
            kv_tokens: number(kv_tokens, KV_TOKENS, 0.0)?,
            prefill_tokens: prefill_tokens.map_or(Ok(0.0), |at| number(at, PREFILL_TOKENS, 0.0))?,
        });
    }
    Ok(())
}

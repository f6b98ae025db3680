//! Azure's LLM inference traces of 2023 and 2024: CSV with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`,
//! seven fractional digits, with or without an offset.

use std::io::{self, BufRead};

use balanceroute::batch::MAX_PROMPT_TOKENS;

use super::error::TraceError;
use super::format::{
    Bad, Format, MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED, PROMPT_EXPECTED, Rows, TICKS_PER_SECOND,
};
use super::lines::OneByOne;
use crate::job::Job;

pub(super) const FORMAT: Format = Format {
    name: "azure",
    begins_with: "the columns TIMESTAMP,ContextTokens,GeneratedTokens",
    read: |first_line, reader, rows| Some(read(reader, columns(first_line)?, rows)),
    settle: |_| {},
};

/// Where the three columns are, if this is the head of such a file.
fn columns(header: &str) -> Option<[usize; 3]> {
    let names: Vec<&str> = header.split(',').map(|name| name.trim().trim_matches('"')).collect();
    let of = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
    Some([of("TIMESTAMP")?, of("ContextTokens")?, of("GeneratedTokens")?])
}

fn read(reader: &mut dyn BufRead, columns: [usize; 3], rows: &mut Rows<'_>) -> Result<(), TraceError> {
    let limit = rows.options.max_line_bytes;
    // The head is read as a row of its own, so that each row is counted alone.
    let mut reader =
        csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(OneByOne::new(reader, limit));
    let mut record = csv::ByteRecord::new();
    let mut is_head = true;
    loop {
        let read = reader.read_byte_record(&mut record);
        let lines = reader.get_mut();
        let line = lines.row_line();
        match read {
            Ok(false) => return Ok(()),
            Ok(true) if is_head => is_head = false,
            Ok(true) => rows.take(line, row(&record, columns))?,
            Err(_) if lines.too_long() => {
                let (file, found_at_least) = (rows.file.to_owned(), limit + 1);
                return Err(TraceError::LineTooLong { file, line, limit, found_at_least });
            }
            Err(error) => {
                return Err(TraceError::Io { file: rows.file.to_owned(), source: io::Error::other(error) });
            }
        }
        lines.next_row();
    }
}

fn row(record: &csv::ByteRecord, columns: [usize; 3]) -> Result<(i64, Job), Bad> {
    let field = |column: usize, what: &'static str| {
        let bytes = record.get(columns[column]).ok_or_else(|| Bad {
            what,
            expected: "a field",
            found: format!("a row of {} fields", record.len()),
        })?;
        Ok(String::from_utf8_lossy(bytes).trim().to_owned())
    };
    let stamp = field(0, "TIMESTAMP")?;
    let ticks = parse_timestamp(&stamp).ok_or(Bad {
        what: "TIMESTAMP",
        expected: "YYYY-MM-DD HH:MM:SS.fffffff with or without an offset",
        found: stamp,
    })?;
    let tokens = |column, what, limit, expected| {
        let text = field(column, what)?;
        text.parse::<u32>().ok().filter(|tokens| (1..=limit).contains(tokens)).ok_or(Bad {
            what,
            expected,
            found: text,
        })
    };
    let prompt = tokens(1, "ContextTokens", MAX_PROMPT_TOKENS, PROMPT_EXPECTED)?;
    let output = tokens(2, "GeneratedTokens", MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED)?;
    Ok((ticks, Job::new(prompt, output)))
}

/// Ticks of 100 ns since 1970 of `YYYY-MM-DD HH:MM:SS[.fraction][Z|+HH:MM|-HH:MM]`.
fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let number = |text: &str, digits: usize, low: i64, high: i64| {
        let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|value| whole && (low..=high).contains(value))
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4, 1970, 9999)?;
    let month = number(parts.next()?, 2, 1, 12)?;
    let day = number(parts.next()?, 2, 1, 31)?;
    if parts.next().is_some() {
        return None;
    }

    let (time, offset_minutes) = if let Some(time) = time.strip_suffix('Z') {
        (time, 0)
    } else if let Some(at) = time.find(['+', '-']) {
        let (hours, minutes) = time[at + 1..].split_once(':')?;
        let minutes = number(hours, 2, 0, 23)? * 60 + number(minutes, 2, 0, 59)?;
        (&time[..at], if time.as_bytes()[at] == b'-' { -minutes } else { minutes })
    } else {
        (time, 0)
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let hour = number(parts.next()?, 2, 0, 23)?;
    let minute = number(parts.next()?, 2, 0, 59)?;
    let second = number(parts.next()?, 2, 0, 60)?;
    if parts.next().is_some() || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ticks = format!("{:0<7}", &fraction[..fraction.len().min(7)]).parse::<i64>().ok()?;

    // Days from the civil date: years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    Some(seconds * TICKS_PER_SECOND + ticks)
}

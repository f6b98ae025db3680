//! Tables: CSV with commas, semicolons or tabs between.

use std::borrow::Cow;
use std::io::{self, BufRead};

use super::error::TraceError;
use super::layout::{self, Layout};
use super::lines::OneByOne;
use super::options::ReadOptions;
use super::rows::{Cell, Record, Rows};

const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];

/// The head of a table: its layout and what is between its columns.
struct Head {
    delimiter: u8,
    layout: Layout,
    /// Column of each key of the layout.
    columns: Vec<Option<usize>>,
}

fn names(head: &str, delimiter: u8) -> Vec<String> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(head.as_bytes());
    let mut record = csv::StringRecord::new();
    // A head that is no CSV has no columns.
    let _ = reader.read_record(&mut record);
    record.iter().map(|name| name.trim().to_owned()).collect()
}

fn recognise(head: &str, file: &str, options: &ReadOptions) -> Result<Option<Head>, TraceError> {
    let at = |names: &[String], wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
    let mut most: Vec<String> = Vec::new();
    for delimiter in DELIMITERS {
        let names = names(head, delimiter);
        let layout = match &options.columns {
            Some(map) => {
                let has_all = map.keys().iter().all(|(_, key)| at(&names, key).is_some());
                has_all.then(|| map.layout(options)).transpose()?
            }
            None => match layout::preset(true, |key| at(&names, key).is_some()) {
                Some(layout) => Some(layout),
                None => layout::log(file, &names)?,
            },
        };
        if let Some(mut layout) = layout {
            layout.keys.retain(|(_, key)| at(&names, key).is_some());
            let columns = layout.keys.iter().map(|(_, key)| at(&names, key)).collect();
            return Ok(Some(Head { delimiter, layout, columns }));
        }
        if names.len() > most.len() {
            most = names;
        }
    }
    let Some(map) = &options.columns else { return Ok(None) };
    let missing = map.keys().iter().find(|(_, key)| at(&most, key).is_none());
    let found = missing.map_or_else(String::new, |(_, key)| key.clone());
    Err(TraceError::NoColumn { file: file.to_owned(), expected: most.join(", "), found })
}

/// Reads a table with this first line, which the reader still holds; none where its columns are unknown.
pub(super) fn read<'a>(
    reader: &mut dyn BufRead,
    first_line: &str,
    file: &'a str,
    options: &'a ReadOptions,
) -> Result<Option<Rows<'a>>, TraceError> {
    let Some(Head { delimiter, layout, columns }) = recognise(first_line, file, options)? else {
        return Ok(None);
    };
    let mut rows = Rows::new(file, options, layout);
    let limit = options.max_line_bytes;
    // The head is read as a row of its own, so that each row is counted alone.
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .has_headers(false)
        .delimiter(delimiter)
        .from_reader(OneByOne::new(reader, limit));
    let mut record = csv::ByteRecord::new();
    let mut is_head = true;
    loop {
        let read = reader.read_byte_record(&mut record);
        let lines = reader.get_mut();
        let line = lines.row_line();
        match read {
            Ok(false) => return Ok(Some(rows)),
            Ok(true) if is_head => is_head = false,
            Ok(true) => rows.take(line, &TableRow { record: &record, columns: &columns })?,
            Err(_) if lines.too_long() => {
                let (file, found_at_least) = (file.to_owned(), limit + 1);
                return Err(TraceError::LineTooLong { file, line, limit, found_at_least });
            }
            Err(error) => {
                return Err(TraceError::Io { file: file.to_owned(), source: io::Error::other(error) });
            }
        }
        lines.next_row();
    }
}

struct TableRow<'a> {
    record: &'a csv::ByteRecord,
    columns: &'a [Option<usize>],
}

impl Record for TableRow<'_> {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        let bytes = self.record.get(self.columns[at]?)?;
        Some(Cell::Text(match String::from_utf8_lossy(bytes) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        }))
    }

    fn missing(&self) -> String {
        format!("a row of {} fields", self.record.len())
    }
}

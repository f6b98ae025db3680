//! JSON: an object a line, an array of objects, or objects over several lines; and results, whose requests
//! lie in arrays ([`super::results`]).

use std::borrow::Cow;
use std::cell::Cell as Shared;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use serde::Deserialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::{Deserializer, Value};

use super::error::TraceError;
use super::layout::{self, Layout};
use super::lines::read_line;
use super::options::ReadOptions;
use super::results;
use super::rows::{Bad, Cell, Record, Rows};

/// What of a line tells that it is a result, though it does not end within the limit.
const RESULT_KEY: &[u8] = b"\"input_lens\"";
/// Longest result in bytes: with generated texts and the time of each token they are far longer than a row.
const MAX_RESULT_BYTES: usize = 1 << 30;

/// Whether such a line can be the first of JSON.
pub(super) fn may_begin(first_line: &[u8]) -> bool {
    matches!(first_line.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Whether a line that begins so is read piece by piece, however long it is: an array, or a result.
pub(super) fn is_in_pieces(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"[") || begins_result(line)
}

fn begins_result(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"{")
        && line.windows(RESULT_KEY.len()).any(|window| window == RESULT_KEY)
}

/// Reads JSON with this first line, which the reader still holds.
pub(super) fn read<'a>(
    reader: &mut dyn BufRead,
    first_line: &[u8],
    file: &'a str,
    options: &'a ReadOptions,
) -> Result<Rows<'a>, TraceError> {
    let mut sink = Sink { file, options, rows: None, refused: 0, results: 0, error: None };
    let text = first_line.trim_ascii();
    if begins_result(first_line) {
        let place = Rc::new(Place::new(MAX_RESULT_BYTES));
        let metered = Metered { inner: reader, place: Rc::clone(&place) };
        for result in Deserializer::from_reader(metered).into_iter::<results::Results>() {
            let result = result.map_err(|error| place.error(file, &error))?;
            sink.take_result(place.began.get(), &result)?;
            place.next();
        }
    } else if text.starts_with(b"[") {
        let place = Rc::new(Place::new(options.max_line_bytes));
        let metered = Metered { inner: reader, place: Rc::clone(&place) };
        let mut deserializer = Deserializer::from_reader(metered);
        let read = deserializer.deserialize_seq(Elements { sink: &mut sink, place: &place });
        if let Some(error) = sink.error.take() {
            return Err(error);
        }
        read.and_then(|()| deserializer.end()).map_err(|error| place.error(file, &error))?;
    } else if serde_json::from_slice::<Value>(text).is_err_and(|error| error.is_eof()) {
        // An object that goes on: its lines are nothing by themselves.
        let place = Rc::new(Place::new(options.max_line_bytes));
        let metered = Metered { inner: reader, place: Rc::clone(&place) };
        for value in Deserializer::from_reader(metered).into_iter::<Value>() {
            let value = value.map_err(|error| place.error(file, &error))?;
            sink.take(place.began.get(), &value)?;
            place.next();
        }
    } else {
        read_lines(reader, &mut sink)?;
    }
    sink.into_rows(first_line)
}

fn read_lines(reader: &mut dyn BufRead, sink: &mut Sink<'_>) -> Result<(), TraceError> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        read_line(&mut *reader, &mut line, sink.file, number, sink.options.max_line_bytes)?;
        if line.is_empty() {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(text) {
            Ok(value) => sink.take(number, &value)?,
            Err(_) => sink.refuse(number, Bad::new("row", "a JSON object", String::from_utf8_lossy(text)))?,
        }
    }
    Ok(())
}

/// Where the objects go. The first one tells the layout.
struct Sink<'a> {
    file: &'a str,
    options: &'a ReadOptions,
    rows: Option<Rows<'a>>,
    /// Malformed rows before the first that could be read.
    refused: u64,
    results: u64,
    /// What a visitor cannot hand back.
    error: Option<TraceError>,
}

impl<'a> Sink<'a> {
    fn refuse(&mut self, line: u64, bad: Bad) -> Result<(), TraceError> {
        match &mut self.rows {
            Some(rows) => rows.refuse(line, bad),
            None if self.options.skip_bad_rows => {
                self.refused += 1;
                Ok(())
            }
            None => Err(bad.at(self.file, line)),
        }
    }

    fn take(&mut self, line: u64, value: &Value) -> Result<(), TraceError> {
        if value.get("input_lens").is_some() && self.options.columns.is_none() {
            return match results::Results::deserialize(value) {
                Ok(result) => self.take_result(line, &result),
                Err(error) => {
                    self.refuse(line, Bad::new("result", layout::RESULTS_KNOWN_BY, error.to_string()))
                }
            };
        }
        if value.get("resourceSpans").is_some() {
            // As a collector writes them: all spans of a batch on a line.
            let scopes = list(value, "resourceSpans").iter().flat_map(|of| list(of, "scopeSpans"));
            return scopes.flat_map(|of| list(of, "spans")).try_for_each(|span| self.take_row(line, span));
        }
        self.take_row(line, value)
    }

    fn take_row(&mut self, line: u64, value: &Value) -> Result<(), TraceError> {
        if !value.is_object() {
            return self.refuse(line, Bad::new("row", "a JSON object", value.to_string()));
        }
        if self.rows.is_none() {
            let layout = recognise(value, self.file, self.options)?;
            self.rows = Some(Rows::new(self.file, self.options, layout));
        }
        let Some(rows) = &mut self.rows else { return Ok(()) };
        let cells = rows.layout.keys.iter().map(|(_, key)| find(value, key)).collect();
        rows.take(line, &ObjectRow { cells })
    }

    fn take_result(&mut self, line: u64, result: &results::Results) -> Result<(), TraceError> {
        self.results += 1;
        let (file, options) = (self.file, self.options);
        let rows = self.rows.get_or_insert_with(|| Rows::new(file, options, result.layout()));
        result.add(line, self.results, rows)
    }

    fn into_rows(self, first_line: &[u8]) -> Result<Rows<'a>, TraceError> {
        let Some(mut rows) = self.rows else {
            let found = String::from_utf8_lossy(first_line).trim().chars().take(80).collect();
            let expected = layout::known_by();
            return Err(TraceError::Unrecognised { file: self.file.to_owned(), expected, found });
        };
        rows.skipped += self.refused;
        Ok(rows)
    }
}

fn recognise(value: &Value, file: &str, options: &ReadOptions) -> Result<Layout, TraceError> {
    if let Some(map) = &options.columns {
        return map.layout(options);
    }
    if let Some(layout) = layout::preset(false, |key| find(value, key).is_some()) {
        return Ok(layout);
    }
    let names = key_names(value);
    if let Some(layout) = layout::log(file, &names)? {
        return Ok(layout);
    }
    for what in ["conversations", "conversation", "messages"] {
        if value.get(what).is_some() {
            return Err(TraceError::Texts { file: file.to_owned(), what });
        }
    }
    // The rest is long, and no help where there is a result without its requests.
    let is_result = value.get("request_throughput").is_some();
    let expected = if is_result { layout::RESULTS_KNOWN_BY.to_owned() } else { layout::known_by() };
    let found = names.join(", ").chars().take(200).collect();
    Err(TraceError::Unrecognised { file: file.to_owned(), expected, found })
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The keys of an object, and those of the objects in it.
fn key_names(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(inner) => names.extend(inner.keys().map(|name| format!("{key}.{name}"))),
            None => names.push(key.clone()),
        }
    }
    names
}

/// What is under a key, under a path of keys with dots between, or in the attributes of a span.
fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    if let Some(found) = value.get(key) {
        return Some(found);
    }
    match value.get("attributes") {
        Some(Value::Array(list)) => {
            let attribute = list.iter().find(|attribute| attribute["key"] == key);
            if let Some(attribute) = attribute {
                return attribute.get("value").and_then(|value| value.as_object()?.values().next());
            }
        }
        Some(Value::Object(map)) if map.contains_key(key) => return map.get(key),
        _ => {}
    }
    let (head, rest) = key.split_once('.')?;
    value.get(head).and_then(|inner| find(inner, rest))
}

struct ObjectRow<'a> {
    cells: Vec<Option<&'a Value>>,
}

impl Record for ObjectRow<'_> {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        Some(match self.cells[at]? {
            Value::Array(list) => Cell::List(list),
            Value::Null => Cell::Text(Cow::Borrowed("")),
            Value::String(text) => Cell::Text(Cow::Borrowed(text.trim())),
            other => Cell::Text(Cow::Owned(other.to_string())),
        })
    }

    fn missing(&self) -> String {
        "no such key".to_owned()
    }
}

/// How far a stream has been read: it cannot be asked, and an element must not grow without an end.
struct Place {
    line: Shared<u64>,
    /// Line on which the element begins that is being read, or that has been.
    began: Shared<u64>,
    /// Bytes of that element.
    bytes: Shared<usize>,
    limit: usize,
}

impl Place {
    fn new(limit: usize) -> Self {
        Self { line: Shared::new(1), began: Shared::new(1), bytes: Shared::new(0), limit }
    }

    fn next(&self) {
        self.bytes.set(0);
    }

    fn error(&self, file: &str, error: &serde_json::Error) -> TraceError {
        let (file, line, limit) = (file.to_owned(), self.line.get(), self.limit);
        if self.bytes.get() > limit {
            let (line, found_at_least) = (self.began.get(), self.bytes.get());
            return TraceError::LineTooLong { file, line, limit, found_at_least };
        }
        match error.io_error_kind() {
            Some(kind) => TraceError::Io { file, source: io::Error::new(kind, error.to_string()) },
            None => {
                Bad::new(&format!("column {}", error.column()), "JSON", error.to_string()).at(&file, line)
            }
        }
    }
}

struct Metered<R> {
    inner: R,
    place: Rc<Place>,
}

impl<R: BufRead> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(into)?;
        let Place { line, began, bytes, limit } = &*self.place;
        for &byte in &into[..length] {
            // What is between two elements belongs to none.
            if bytes.get() > 0 || !(byte.is_ascii_whitespace() || byte == b',') {
                if bytes.get() == 0 {
                    began.set(line.get());
                }
                bytes.set(bytes.get() + 1);
            }
            line.set(line.get() + u64::from(byte == b'\n'));
        }
        if bytes.get() > *limit {
            return Err(io::Error::other("an element past the limit"));
        }
        Ok(length)
    }
}

/// Takes the elements of an array one by one.
struct Elements<'s, 'a> {
    sink: &'s mut Sink<'a>,
    place: &'s Place,
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of JSON objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element::<Value>()? {
            if let Err(error) = self.sink.take(self.place.began.get(), &value) {
                self.sink.error = Some(error);
                return Err(serde::de::Error::custom("a row is refused"));
            }
            self.place.next();
        }
        Ok(())
    }
}

//! CSV: lines that are added as they come, so that whoever is ended on the way has what was there by then,
//! and documents as lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use csv::{Writer, WriterBuilder};
use serde::Serialize;
use serde_json::Value;

use crate::error::SimError;

/// Objects as lines: a column for each figure, `wait_ms.p99` for one of an object inside,
/// `wait_by_length.0.ms_p99` for one of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    columns: Vec<String>,
    lines: Vec<BTreeMap<String, String>>,
}

/// The records of some objects. The columns `first` come first, the others in the order of their names.
///
/// # Errors
/// An object has keys that are no text.
pub fn records(objects: &[impl Serialize], first: &[&str]) -> Result<Records, SimError> {
    let mut lines = Vec::new();
    for object in objects {
        let value = serde_json::to_value(object)
            .map_err(|error| SimError::Stdout { source: io::Error::other(error) })?;
        let mut line = BTreeMap::new();
        flatten("", &value, &mut line);
        lines.push(line);
    }
    let mut others: BTreeSet<&String> = lines.iter().flat_map(BTreeMap::keys).collect();
    let mut columns: Vec<String> = Vec::new();
    for name in first {
        if let Some(found) = others.take(&(*name).to_owned()) {
            columns.push(found.clone());
        }
    }
    columns.extend(others.into_iter().cloned());
    Ok(Records { columns, lines })
}

fn flatten(name: &str, value: &Value, line: &mut BTreeMap<String, String>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&below(key), value, line)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(&below(&at.to_string()), value, line));
        }
        Value::Null => drop(line.insert(name.to_owned(), String::new())),
        Value::String(text) => drop(line.insert(name.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => drop(line.insert(name.to_owned(), value.to_string())),
    }
}

impl Records {
    /// Names of the columns, and a line for each object; empty without objects.
    ///
    /// # Errors
    /// Those of the writer of CSV, which has none for text in memory.
    pub fn csv(&self) -> Result<String, csv::Error> {
        let mut out = Writer::from_writer(Vec::new());
        if !self.columns.is_empty() {
            out.write_record(&self.columns)?;
        }
        for line in &self.lines {
            out.write_record(self.columns.iter().map(|name| line.get(name).map_or("", String::as_str)))?;
        }
        let bytes = out.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A file of lines, with a line of names at its head.
#[derive(Debug)]
pub struct CsvLines {
    name: String,
    out: Writer<File>,
}

impl CsvLines {
    /// Opens the file, or makes it, to add to it.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn append(path: &Path) -> Result<Self, SimError> {
        let name = path.display().to_string();
        let open = || {
            let file = File::options().append(true).create(true).open(path)?;
            let is_new = file.metadata()?.len() == 0;
            Ok(WriterBuilder::new().has_headers(is_new).from_writer(file))
        };
        match open() {
            Ok(out) => Ok(Self { name, out }),
            Err(source) => Err(SimError::Write { file: name, source }),
        }
    }

    /// Adds a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, line: &impl Serialize) -> Result<(), SimError> {
        let written = self.out.serialize(line).map_err(io::Error::from).and_then(|()| self.out.flush());
        written.map_err(|source| SimError::Write { file: self.name.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_lines_under_the_names_of_all_their_figures() {
        let objects = [
            json!({"policy": "level, exact", "wait_ms": {"p99": 1.5, "max": 2}, "window": null}),
            json!({"policy": "b", "seed": 3, "by": [{"ms": 4}, {"ms": 5}], "cold": true}),
        ];
        let text = records(&objects, &["policy", "nothing", "seed"]).expect("objects").csv().expect("text");
        assert_eq!(
            text,
            "policy,seed,by.0.ms,by.1.ms,cold,wait_ms.max,wait_ms.p99,window\n\
             \"level, exact\",,,,,2,1.5,\n\
             b,3,4,5,true,,,\n"
        );
        let none: [Value; 0] = [];
        assert_eq!(records(&none, &["policy"]).expect("objects").csv().expect("text"), "");
    }
}

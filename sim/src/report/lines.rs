//! CSV that grows: a line at a time, so that whoever is ended on the way has what was there by then.

use std::fs::File;
use std::io;
use std::path::Path;

use csv::{Writer, WriterBuilder};
use serde::Serialize;

use crate::error::SimError;

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

//! The folder of `evaluate`: `results.json`, requests and series of each scenario as compressed JSON lines.
//!
//! Each file takes its name when it is whole, and `results.json` is written again after each scenario: what
//! is ended on the way leaves what was done by then.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::json::JsonFile;
use super::results::Results;
use crate::error::{SimError, argument};

/// One request as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequestLine {
    pub id: u64,
    pub prompt: u32,
    pub output: u32,
    pub arrived_ms: f64,
    pub admitted_ms: f64,
    pub first_token_ms: f64,
    pub ended_ms: f64,
    pub worker: u32,
    pub preempted: u32,
    pub sampled: bool,
    pub lane: bool,
}

/// Why a step is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StepKind {
    /// One of many, at even distances of time.
    Sample,
    /// Of the second in which every step is there.
    Lane,
}

/// One step as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeriesLine {
    pub kind: StepKind,
    pub step: u64,
    pub t_ms: f64,
    pub step_ms: f64,
    pub loads: Vec<u64>,
    pub imbalance: f64,
    pub running: u64,
    pub waiting: u64,
}

/// What is written of one rule: the requests that it had, of which every so-manyth is there by replicate, and
/// steps.
pub(crate) struct RuleLines {
    pub rule: String,
    pub requests: u64,
    pub every: u64,
    pub lines: Vec<(u32, RequestLine)>,
    pub series: Vec<SeriesLine>,
}

/// The first line of the requests of a scenario.
#[derive(Serialize)]
struct Head<'a> {
    scenario: &'a str,
    every: Vec<Every<'a>>,
}

#[derive(Serialize)]
struct Every<'a> {
    rule: &'a str,
    requests: u64,
    every: u64,
}

#[derive(Serialize)]
struct OfRule<'a, T> {
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicate: Option<u32>,
    #[serde(flatten)]
    line: T,
}

/// The page of `report`, where none is asked for by name.
pub const PAGE: &str = "report.html";
pub(super) const RESULTS: &str = "results.json";
const REQUESTS: &str = "requests";
const SERIES: &str = "series";
const LINES: &str = "jsonl.gz";

/// A folder of results.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> SimError {
    let file = path.display().to_string();
    move |source| SimError::Write { file: file.clone(), source }
}

impl Folder {
    /// Makes the folder, or empties one of an earlier evaluation.
    ///
    /// # Errors
    /// It cannot be made or written to, or holds something else.
    pub fn create(path: &Path) -> Result<Self, SimError> {
        let folder = Self { path: path.to_owned() };
        let mut entries = match fs::read_dir(path) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(write_error(path)(error)),
        };
        let is_empty = entries.as_mut().is_none_or(|entries| entries.next().is_none());
        if !is_empty && !path.join(RESULTS).is_file() {
            let expected = "a folder that is new, empty or of an earlier evaluation";
            return Err(argument("out", expected, path.display()));
        }
        for part in [REQUESTS, SERIES] {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(write_error(&part))?;
            for entry in fs::read_dir(&part).map_err(write_error(&part))? {
                let file = entry.map_err(write_error(&part))?.path();
                if file.to_string_lossy().ends_with(LINES) {
                    fs::remove_file(&file).map_err(write_error(&file))?;
                }
            }
        }
        // Old results beside new requests would be taken for theirs, and an old page for one of new results.
        for name in [PAGE, RESULTS] {
            match fs::remove_file(path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(write_error(path)(error));
                }
                _ => {}
            }
        }
        Ok(folder)
    }

    /// Where the results are.
    #[must_use]
    pub fn results_file(&self) -> PathBuf {
        self.path.join(RESULTS)
    }

    /// Writes the results in place of those before.
    ///
    /// # Errors
    /// They cannot be written; those before are left.
    pub fn results(&self, results: &Results) -> Result<(), SimError> {
        JsonFile::create(&self.results_file())?.write(results)?.publish()
    }

    /// Writes requests and series of a scenario; their names within the folder.
    pub(crate) fn scenario(&self, id: &str, rules: &[RuleLines]) -> Result<(String, String), SimError> {
        let requests = self.lines(REQUESTS, id, |out| {
            let of = rules.iter().map(|of| Every { rule: &of.rule, requests: of.requests, every: of.every });
            write_line(out, &Head { scenario: id, every: of.collect() })?;
            for RuleLines { rule, lines, .. } in rules {
                for (replicate, line) in lines {
                    write_line(out, &OfRule { rule, replicate: Some(*replicate), line })?;
                }
            }
            Ok(())
        })?;
        let series = self.lines(SERIES, id, |out| {
            for RuleLines { rule, series, .. } in rules {
                for line in series {
                    write_line(out, &OfRule { rule, replicate: None, line })?;
                }
            }
            Ok(())
        })?;
        Ok((requests, series))
    }

    fn lines(
        &self,
        part: &str,
        id: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<String, SimError> {
        let name = format!("{part}/{id}.{LINES}");
        let file = JsonFile::create(&self.path.join(&name))?;
        file.write_with(|out| {
            let mut packed = GzEncoder::new(out, Compression::default());
            write(&mut packed)?;
            packed.finish().map(drop)
        })?
        .publish()?;
        Ok(name)
    }
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

//! A folder of `evaluate` as it is read again.
//!
//! Somebody may have cut it, edited it or taken it from elsewhere: what is not as `evaluate` writes it is an
//! error that names the file. Requests and series may be missing, as they are of an evaluation that was
//! interrupted; results may not.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::folder::{RESULTS, RequestLine, SeriesLine};
use super::results::{Results, SCHEMA, ScenarioEntry};

/// Most bytes of a file of lines, unpacked: a hundred times what an evaluation writes.
const MOST_BYTES: u64 = 1 << 30;

/// Why a folder cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Nothing of `evaluate` is there.
    #[error("{folder}: expected a folder that `evaluate --out` has written, found {found}")]
    NoEvaluation {
        /// As given.
        folder: String,
        /// What is there.
        found: String,
    },
    /// Written by a version with another layout.
    #[error("{file}: expected schema {expected}, found {found}; the balanceroute that wrote it reads it")]
    Schema {
        /// The results.
        file: String,
        /// What this version reads.
        expected: u32,
        /// What is there.
        found: String,
    },
    /// Something else than `evaluate` writes.
    #[error("{file}: line {line}: expected what `evaluate` writes, found {found}")]
    Content {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
    /// Results that name a file outside of their folder.
    #[error("{file}: expected names of files within the folder, found {found:?}")]
    Outside {
        /// The results.
        file: String,
        /// The name.
        found: String,
    },
    /// A file that ends early, is damaged, or may not be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// An evaluation, as its folder has it.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The folder, as given.
    pub name: String,
    folder: PathBuf,
    /// What was written of all scenarios.
    pub results: Results,
}

/// A step of a rule.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SeriesOf {
    pub rule: String,
    #[serde(flatten)]
    pub line: SeriesLine,
}

/// A request of a rule.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RequestOf {
    pub rule: String,
    #[serde(flatten)]
    pub line: RequestLine,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    schema: Option<serde_json::Value>,
}

fn content(file: &Path, line: usize, error: &serde_json::Error) -> FolderError {
    // Where serde_json says it is, in a document of many lines.
    let line = line.max(error.line());
    FolderError::Content { file: file.display().to_string(), line, found: error.to_string() }
}

impl Evaluated {
    /// Reads the results of a folder.
    ///
    /// # Errors
    /// It holds no evaluation, one of another version, or cannot be read.
    pub fn read(folder: &Path) -> Result<Self, FolderError> {
        let name = folder.display().to_string();
        let nothing =
            |found: &str| FolderError::NoEvaluation { folder: name.clone(), found: found.to_owned() };
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(nothing("a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(nothing("nothing")),
            Err(source) => return Err(FolderError::Read { file: name, source }),
        }
        let file = folder.join(RESULTS);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(nothing("no results.json in it"));
            }
            Err(source) => return Err(FolderError::Read { file: file.display().to_string(), source }),
        };
        // The version first: what another one writes need not be of this shape.
        let version: Version = serde_json::from_str(&text).map_err(|error| content(&file, 1, &error))?;
        match version.schema {
            Some(schema) if schema == SCHEMA => {}
            found => {
                let found = found.map_or("none".to_owned(), |schema| schema.to_string());
                let file = file.display().to_string();
                return Err(FolderError::Schema { file, expected: SCHEMA, found });
            }
        }
        let results: Results = serde_json::from_str(&text).map_err(|error| content(&file, 1, &error))?;
        let evaluated = Self { name, folder: folder.to_owned(), results };
        evaluated.check(&file)?;
        Ok(evaluated)
    }

    /// Places of sources are within them, and files within the folder.
    fn check(&self, file: &Path) -> Result<(), FolderError> {
        let file = || file.display().to_string();
        let sources = self.results.sources.len();
        let largest = self.results.largest_rates.iter().map(|rates| rates.source);
        let places = self.results.scenarios.iter().map(|scenario| scenario.source).chain(largest);
        if let Some(source) = places.into_iter().find(|&source| source >= sources) {
            let found = format!("a scenario of source {source} where there are {sources}");
            return Err(FolderError::Content { file: file(), line: 1, found });
        }
        if self.results.scenarios.iter().any(|scenario| scenario.workers == 0) {
            let found = "a scenario without workers".to_owned();
            return Err(FolderError::Content { file: file(), line: 1, found });
        }
        let names = self.results.scenarios.iter().flat_map(|of| [&of.requests_file, &of.series_file]);
        for name in names.flatten() {
            let mut parts = Path::new(name).components();
            if !parts.all(|part| matches!(part, Component::Normal(_))) {
                return Err(FolderError::Outside { file: file(), found: name.clone() });
            }
        }
        Ok(())
    }

    /// The steps that are kept of a scenario, rule by rule; none where there is no such file.
    pub(crate) fn series(&self, of: &ScenarioEntry) -> Result<Option<Vec<SeriesOf>>, FolderError> {
        let Some(name) = &of.series_file else { return Ok(None) };
        let mut series: Vec<SeriesOf> = Vec::new();
        let there = self.lines(name, |step: SeriesOf| {
            series.push(step);
            None
        })?;
        if series.iter().any(|step| step.line.loads.len() != of.workers) {
            let found = format!("loads of other workers than {}", of.workers);
            let file = self.folder.join(name).display().to_string();
            return Err(FolderError::Content { file, line: 1, found });
        }
        Ok(there.then_some(series))
    }

    /// The requests of the second in which all are kept; none where there is no such file.
    pub(crate) fn lane(&self, of: &ScenarioEntry) -> Result<Option<Vec<RequestOf>>, FolderError> {
        let Some(name) = &of.requests_file else { return Ok(None) };
        let mut requests = Vec::new();
        let mut is_head = true;
        let there = self.lines(name, |line: serde_json::Value| {
            if std::mem::take(&mut is_head) {
                return line.get("scenario").is_none().then(|| "no head".to_owned());
            }
            match serde_json::from_value::<RequestOf>(line) {
                Ok(request) if request.line.worker as usize >= of.workers => {
                    Some(format!("worker {} of {}", request.line.worker, of.workers))
                }
                Ok(request) => {
                    if request.line.lane {
                        requests.push(request);
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        })?;
        Ok(there.then_some(requests))
    }

    /// Hands out what is on each line of a packed file; what is wrong with one ends it. Whether the file is
    /// there.
    fn lines<T: DeserializeOwned>(
        &self,
        name: &str,
        mut take: impl FnMut(T) -> Option<String>,
    ) -> Result<bool, FolderError> {
        let path = self.folder.join(name);
        let read = |source| FolderError::Read { file: path.display().to_string(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(read(source)),
        };
        let lines = BufReader::new(GzDecoder::new(BufReader::new(file)).take(MOST_BYTES)).lines();
        for (at, line) in lines.enumerate() {
            let parsed = serde_json::from_str(&line.map_err(read)?);
            let wrong = match parsed {
                Ok(parsed) => take(parsed),
                Err(error) => return Err(content(&path, at + 1, &error)),
            };
            if let Some(found) = wrong {
                return Err(FolderError::Content { file: path.display().to_string(), line: at + 1, found });
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// The least that results have, with one scenario.
    fn results() -> serde_json::Value {
        let length = serde_json::json!({"mean": 1.0, "p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0});
        serde_json::json!({
            "schema": SCHEMA, "program": "balanceroute", "version": "0", "command": "", "started": "",
            "elapsed_s": 0.0, "complete": true, "runs_done": 0, "runs_planned": 0, "sentences": [],
            "metrics": [], "largest_rates": [], "gate": [],
            "arguments": {
                "workers": [2], "slots": [4], "kv_capacity_tokens": null, "rates": [], "rules": [],
                "slo": null, "windows": 1,
                "seeds": 1, "first_seed": 0, "requests": null, "quick": false, "gate": [],
                "step_us_per_token": 0.1, "step_us_per_request": 0.0, "step_base_ms": null,
                "prefill_us_per_token": null, "prompts": "elsewhere", "headroom_steps": null,
                "deadline_steps": null, "max_passed": null
            },
            "sources": [{
                "name": "w", "kind": "workload", "path": null, "sha256": null, "format": null,
                "prompt_tokens": [], "output_tokens": [], "arrivals": null,
                "shape": {
                    "requests": 1, "span_s": null, "requests_per_s": null, "gap_variation": null,
                    "windows": null, "prompt_tokens": length, "output_tokens": length, "prefix": null,
                    "sessions": null
                }
            }],
            "scenarios": [{
                "id": "s000", "source": 0, "workers": 2, "slots": 4, "kv_capacity_tokens": null,
                "rate": {
                    "asked": "90%", "label": "", "own": false, "requests_per_s": 1.0, "rate_scale": null,
                    "offered_load": 0.9
                },
                "capacity_requests_per_s": 1.0, "running_per_worker": 4.0, "step_base_ms": 5.0,
                "replicate": "draw", "replicates": 1, "command": "", "complete": true,
                "requests_file": "requests/s000.jsonl.gz", "series_file": "series/s000.jsonl.gz",
                "notes": [], "rules": [], "differences": []
            }]
        })
    }

    fn folder(results: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(RESULTS), results).expect("writable");
        folder
    }

    fn refused(results: &str) -> String {
        Evaluated::read(folder(results).path()).expect_err("refused").to_string()
    }

    fn packed(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        let mut out = GzEncoder::new(File::create(&path).expect("writable"), Compression::fast());
        out.write_all(text.as_bytes()).and_then(|()| out.finish()).expect("writable");
        path
    }

    #[test]
    fn what_is_no_evaluation_is_refused_with_what_is_there() {
        let empty = tempfile::tempdir().expect("a folder");
        let read = |path: &Path| Evaluated::read(path).expect_err("refused").to_string();
        assert!(read(empty.path()).ends_with("has written, found no results.json in it"));
        assert!(read(&empty.path().join("nowhere")).ends_with("found nothing"));
        let file = empty.path().join("file");
        fs::write(&file, "").expect("writable");
        assert!(read(&file).ends_with("found a file"));
        assert!(refused("Dear Sir").contains("results.json: line 1: expected what `evaluate` writes"));
        assert!(refused("{}").contains("expected schema 1, found none"));
        let text = |results: &serde_json::Value| serde_json::to_string_pretty(results).expect("JSON");
        let mut other = results();
        other["schema"] = 2.into();
        other["scenarios"] = "elsewhere".into();
        assert!(refused(&text(&other)).contains("expected schema 1, found 2"));
        // Cut short.
        let whole = text(&results());
        let cut = refused(&whole[..whole.len() / 2]);
        assert!(cut.contains("EOF while parsing"), "{cut}");
        let mut lost = results();
        lost["scenarios"][0]["source"] = 1.into();
        assert!(refused(&text(&lost)).contains("a scenario of source 1 where there are 1"));
        let mut none = results();
        none["scenarios"][0]["workers"] = 0.into();
        assert!(refused(&text(&none)).contains("a scenario without workers"));
        for name in ["../elsewhere.gz", "/etc/passwd"] {
            let mut outside = results();
            outside["scenarios"][0]["series_file"] = name.into();
            assert!(refused(&text(&outside)).contains("within the folder, found"), "{name}");
        }
    }

    #[test]
    fn files_may_be_missing_but_not_damaged() {
        let folder = folder(&results().to_string());
        let evaluated = Evaluated::read(folder.path()).expect("an evaluation");
        let scenario = &evaluated.results.scenarios[0];
        assert!(evaluated.series(scenario).expect("no file").is_none());
        assert!(evaluated.lane(scenario).expect("no file").is_none());
        let step = r#"{"rule":"a","kind":"lane","step":1,"t_ms":0.0,"step_ms":9.0,"loads":[1,2],"#;
        let step = format!("{step}\"imbalance\":1.0,\"running\":2,\"waiting\":0}}\n");
        let series = packed(folder.path(), "series/s000.jsonl.gz", &step.repeat(3));
        assert_eq!(evaluated.series(scenario).expect("steps").map(|steps| steps.len()), Some(3));
        let refused = |error: FolderError| error.to_string();
        let bytes = fs::read(&series).expect("written");
        fs::write(&series, &bytes[..bytes.len() - 9]).expect("writable");
        let error = refused(evaluated.series(scenario).expect_err("cut"));
        assert!(error.contains("s000.jsonl.gz: "), "{error}");
        packed(folder.path(), "series/s000.jsonl.gz", &step.replace("[1,2]", "[1]"));
        let error = refused(evaluated.series(scenario).expect_err("one worker"));
        assert!(error.ends_with("loads of other workers than 2"), "{error}");
        let request = r#"{"rule":"a","replicate":0,"id":1,"prompt":9,"output":1,"arrived_ms":0.0,"#;
        let request = format!("{request}\"admitted_ms\":0.0,\"first_token_ms\":1.0,\"ended_ms\":1.0,");
        let request = format!("{request}\"worker\":1,\"preempted\":0,\"sampled\":true,\"lane\":true}}\n");
        let head = "{\"scenario\":\"s000\",\"every\":[]}\n";
        let write = |text: String| packed(folder.path(), "requests/s000.jsonl.gz", &text);
        write(format!("{head}{request}{}", request.replace("\"lane\":true", "\"lane\":false")));
        assert_eq!(evaluated.lane(scenario).expect("requests").map(|requests| requests.len()), Some(1));
        for (text, says) in [
            (request.clone(), "line 1: expected what `evaluate` writes, found no head"),
            (format!("{head}{}", request.replace("\"worker\":1", "\"worker\":2")), "found worker 2 of 2"),
            (format!("{head}{{}}\n"), "line 2: expected what `evaluate` writes, found missing field"),
            (format!("{head}no\n"), "line 2: "),
        ] {
            write(text);
            let error = refused(evaluated.lane(scenario).expect_err(says));
            assert!(error.contains(says), "{error}");
        }
    }
}

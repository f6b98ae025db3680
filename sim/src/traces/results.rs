//! Results of load generators, whose requests lie in arrays: `vllm bench serve --save-detailed`, and SGLang's
//! `bench_serving --output-details`, which has no times.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::error::TraceError;
use super::layout::{Layout, Role};
use super::options::TimeUnit;
use super::rows::{Bad, Cell, Record, Rows};

/// One run. All else that it holds is passed over as it is read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Results {
    input_lens: Vec<f64>,
    output_lens: Vec<f64>,
    /// In seconds of the clock of the load generator.
    start_times: Option<Vec<f64>>,
    errors: Option<Vec<Failed>>,
}

/// Whether there is an error, which may be a long text.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "Value")]
pub(crate) struct Failed(pub(crate) bool);

impl From<Value> for Failed {
    fn from(value: Value) -> Self {
        Self(!(value.is_null() || value == ""))
    }
}

const KEYS: [(Role, &str); 4] = [
    (Role::Prompt, "input_lens"),
    (Role::Output, "output_lens"),
    (Role::Failed, "errors"),
    (Role::Time, "start_times"),
];

impl Results {
    pub(super) fn layout(&self) -> Layout {
        let name = if self.start_times.is_some() { "vllm-bench" } else { "sglang-bench" };
        let keys = KEYS.iter().filter(|&&(role, _)| role != Role::Time || self.start_times.is_some());
        Layout {
            unit: Some(TimeUnit::Seconds),
            keys: keys.map(|&(role, key)| (role, key.to_owned())).collect(),
            ..Layout::plain(name)
        }
    }

    /// Adds the requests of the run `number` of a file.
    pub(super) fn add(&self, line: u64, number: u64, rows: &mut Rows<'_>) -> Result<(), TraceError> {
        let timed = rows.layout.key(Role::Time).is_some();
        if number > 1 && (timed || self.start_times.is_some()) {
            // Each run has a clock of its own.
            let bad =
                Bad::new("start_times", "one run a file, where runs have times", format!("run {number}"));
            return Err(bad.at(rows.file, line));
        }
        let requests = self.input_lens.len();
        for (what, found) in [
            ("output_lens", Some(self.output_lens.len())),
            ("start_times", self.start_times.as_ref().map(Vec::len)),
            ("errors", self.errors.as_ref().map(Vec::len)),
        ] {
            if let Some(found) = found.filter(|&found| found != requests) {
                let expected = format!("as many as input_lens ({requests})");
                return Err(Bad::new(what, expected, found.to_string()).at(rows.file, line));
            }
        }
        (0..requests).try_for_each(|at| {
            rows.take(line, &Request { results: self, at }).map_err(|error| match error {
                TraceError::Row { file, line, what, expected, found } => {
                    TraceError::Row { file, line, what: format!("{what}[{at}]"), expected, found }
                }
                error => error,
            })
        })
    }
}

struct Request<'a> {
    results: &'a Results,
    at: usize,
}

impl Record for Request<'_> {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        let number = |list: &[f64]| list.get(self.at).map(f64::to_string);
        let text = match KEYS[at].0 {
            Role::Prompt => number(&self.results.input_lens),
            Role::Output => number(&self.results.output_lens),
            Role::Time => number(self.results.start_times.as_ref()?),
            _ => self.results.errors.as_ref()?.get(self.at).map(|failed| failed.0.to_string()),
        };
        text.map(|text| Cell::Text(Cow::Owned(text)))
    }

    fn missing(&self) -> String {
        "no such key".to_owned()
    }
}

//! Errors as Python exceptions of `balanceroute._errors`, with their numbers as attributes.

use std::path::PathBuf;

use balanceroute::record::RecordError;
use balanceroute::{BatchError, PolicyError, RequestId, RouterError, WorkerId, WorkerIndex};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What a call can fail of.
pub(crate) enum Failure {
    /// An argument that is no column or matrix of its kind.
    Argument {
        kind: &'static str,
        name: &'static str,
        index: Option<usize>,
        expected: String,
        found: String,
    },
    Batch(BatchError),
    Policy(PolicyError),
    Router(RouterError),
    Record {
        error: RecordError,
        /// What it was for, where the call does not say it.
        text: String,
    },
    Python(PyErr),
    /// A row that a request brings and that has not an entry per worker.
    Row {
        name: &'static str,
        id: u64,
        expected: usize,
        found: usize,
    },
    /// An entry of such a row that no bonus can be.
    Entry {
        name: &'static str,
        id: u64,
        index: usize,
        limit: f64,
        found: f32,
    },
    /// Two such rows for one request.
    Twice {
        name: &'static str,
        id: u64,
    },
    /// This call has panicked.
    Panicked {
        message: String,
    },
    /// An earlier call has panicked with the state in its hands.
    Broken {
        way_out: &'static str,
    },
    /// The process was forked off while a thread that is not here was inside.
    Forked,
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

impl From<RouterError> for Failure {
    fn from(error: RouterError) -> Self {
        match error {
            RouterError::Batch(error) => Self::Batch(error),
            RouterError::Policy(error) => Self::Policy(error),
            RouterError::Record(ref inner) => Self::Record { error: inner.clone(), text: error.to_string() },
            error => Self::Router(error),
        }
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::Record { text: error.to_string(), error }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// A field as Python has it: names of requests and workers are plain numbers there.
trait Plain {
    type Plain;

    fn plain(&self) -> Self::Plain;
}

impl<T: Plain> Plain for Option<T> {
    type Plain = Option<T::Plain>;

    fn plain(&self) -> Self::Plain {
        self.as_ref().map(Plain::plain)
    }
}

macro_rules! plain {
    ($($type:ty),*; $($name:ty: $number:ty),*) => {
        $(impl Plain for $type {
            type Plain = $type;

            fn plain(&self) -> $type {
                self.clone()
            }
        })*
        $(impl Plain for $name {
            type Plain = $number;

            fn plain(&self) -> $number {
                self.get()
            }
        })*
    };
}
plain! {
    u8, u32, u64, usize, i64, f32, f64, String, &'static str, PathBuf, Vec<String>;
    RequestId: u64, WorkerId: u32, WorkerIndex: u32
}

/// Puts the fields of whichever variant it is into a dict: the variant's name.
macro_rules! facts {
    ($error:expr, $into:expr, $of:ident: $($variant:ident { $($field:ident),* })*) => {
        match $error {
            $($of::$variant { $($field,)* .. } => {
                $($into.set_item(stringify!($field), $field.plain())?;)*
                stringify!($variant)
            })*
            _ => "Other",
        }
    };
}

fn batch_facts(error: &BatchError, into: &Bound<'_, PyDict>) -> PyResult<&'static str> {
    Ok(facts!(error, into, BatchError:
        NoWorkers {}
        TooManyWorkers { limit, found }
        TooManyWaiting { limit, found }
        DuplicateId { index, id, first }
        Waits { id }
        PromptTokens { index, id, limit, found }
        Passed { index, id, limit, found }
        Priority { index, id, found }
        WaitedSteps { index, id, limit, found }
        Rank { index, id, workers, found }
        PairRow { index, id, rows, found }
        SurvivalClass { index, id, classes, found }
        WorkerTokens { index, what, limit, found }
        WorkerSlots { index, what, limit, found }
        Weight { index, limit, found }
        Horizon { what, limit, found }
        Length { what, expected, found }
        Value { what, index, low, high, found }
        Bonus { id, worker, limit, found }
        Traffic { what, limit, found }
        PredictedEnd { worker, index, expected, found }
    ))
}

fn policy_facts(error: &PolicyError, into: &Bound<'_, PyDict>) -> PyResult<&'static str> {
    Ok(facts!(error, into, PolicyError:
        Unknown { found, expected }
        Parameter { name, low, high, found }
        ParameterName { found, expected }
        Gone { found, instead }
        Whole { name, found }
        Backend { found }
        Isa { found }
    ))
}

fn router_facts(error: &RouterError, into: &Bound<'_, PyDict>) -> PyResult<&'static str> {
    Ok(facts!(error, into, RouterError:
        Unknown { id }
        NotRunning { id }
        Running { id, worker }
        OtherDispatch { id, worker, number }
        Generated { id, limit, found }
        NoWorker { id }
        Worker { workers, found }
        Refused { policy, id, worker }
        Dispatch { worker, sent, found }
        Progress { worker, limit, found }
        Share { index, of, limit }
        Config { name, low, high, found }
        Panicked { policy, message }
    ))
}

fn record_facts(error: &RecordError, into: &Bound<'_, PyDict>) -> PyResult<&'static str> {
    Ok(facts!(error, into, RecordError:
        Io { what, path, why }
        InUse { path }
        Config { name, low, high, found }
        Several { path, folders }
        Nothing { path }
        NoSegment { path, what }
        Ended { path }
        Version { path, found, expected }
        Policy { name }
        State { policy }
        Differs { at }
        Panicked { at, message }
    ))
}

impl Failure {
    fn raised(self, py: Python<'_>) -> PyResult<PyErr> {
        let facts = PyDict::new(py);
        let (class, text, kind) = match self {
            Self::Python(error) => return Ok(error),
            Self::Row { name, id, expected, found } => {
                facts.set_item("name", name)?;
                facts.set_item("id", id)?;
                facts.set_item("expected", expected)?;
                facts.set_item("found", found)?;
                let text = format!(
                    "{name} of request {id}: expected {expected} entries, one per worker, found {found}"
                );
                ("ArgumentError", text, "Array")
            }
            Self::Entry { name, id, index, limit, found } => {
                facts.set_item("name", name)?;
                facts.set_item("id", id)?;
                facts.set_item("index", index)?;
                facts.set_item("expected", format!("a number in -{limit}..={limit}"))?;
                facts.set_item("found", found)?;
                let text = format!(
                    "{name} of request {id}, entry {index}: \
                     expected a number in -{limit}..={limit}, found {found}"
                );
                ("ArgumentError", text, "Range")
            }
            Self::Twice { name, id } => {
                facts.set_item("name", name)?;
                facts.set_item("id", id)?;
                ("ArgumentError", format!("{name} of request {id}: expected one row, found two"), "Twice")
            }
            Self::Panicked { message } => {
                facts.set_item("message", &message)?;
                ("PanicError", format!("the library has failed inside: {message}"), "Panicked")
            }
            Self::Broken { way_out } => {
                ("BalanceRouteError", format!("an earlier call has failed inside: {way_out}"), "Broken")
            }
            Self::Forked => {
                let text =
                    "another thread was inside this object as the process was forked: make a new one here";
                ("BalanceRouteError", text.to_owned(), "Forked")
            }
            Self::Argument { kind, name, index, expected, found } => {
                facts.set_item("name", name)?;
                facts.set_item("expected", &expected)?;
                facts.set_item("found", &found)?;
                let place = index.map_or(String::new(), |at| format!(", entry {at}"));
                if let Some(index) = index {
                    facts.set_item("index", index)?;
                }
                ("ArgumentError", format!("{name}{place}: expected {expected}, found {found}"), kind)
            }
            Self::Batch(error) => ("BatchError", error.to_string(), batch_facts(&error, &facts)?),
            Self::Policy(error) => ("PolicyError", error.to_string(), policy_facts(&error, &facts)?),
            Self::Record { error, text } => ("RecordError", text, record_facts(&error, &facts)?),
            Self::Router(error) => {
                let class = match error {
                    RouterError::Unknown { .. }
                    | RouterError::NotRunning { .. }
                    | RouterError::OtherDispatch { .. } => "UnknownRequestError",
                    RouterError::Worker { .. } => "UnknownWorkerError",
                    RouterError::Panicked { .. } => "PanicError",
                    _ => "RouterError",
                };
                (class, error.to_string(), router_facts(&error, &facts)?)
            }
        };
        let class = py.import("balanceroute._errors")?.getattr(class)?;
        Ok(PyErr::from_value(class.call1((text, kind, facts))?))
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        Python::attach(|py| failure.raised(py).unwrap_or_else(|error| error))
    }
}

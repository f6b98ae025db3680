//! Recordings: of a router under way, gone on from, fed to a router again.

use std::path::PathBuf;

use balanceroute::record::{self as core, RecordConfig, Replay};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::cluster::Cluster;
use crate::errors::Failure;
use crate::plan::{Preempted, Returned, list};
use crate::records::record;
use crate::shared::guarded;

record! {
    /// How a recording stands.
    Recording { folder: PathBuf, calls: u64, bytes: u64, stopped: Option<String> }
}

impl From<core::Recording> for Recording {
    fn from(of: core::Recording) -> Self {
        let core::Recording { folder, calls, bytes, stopped, .. } = of;
        Self { folder, calls, bytes, stopped: stopped.map(|error| error.to_string()) }
    }
}

record! {
    /// Who has left without having finished and may be known to nobody.
    Untold { returned: Py<PyList>, preempted: Py<PyList> }
}

impl Untold {
    pub(crate) fn of(py: Python<'_>, of: core::Untold) -> PyResult<Self> {
        let preempted = list::<Preempted>(py, of.preempted())?;
        Ok(Self { returned: list::<Returned>(py, of.returned())?, preempted })
    }
}

record! {
    /// What became of a recording that was fed to a router again.
    Replayed { calls: u64, differences: u64, first_difference: Option<String>, torn: Vec<(PathBuf, u64)> }
}

/// Where a router is recorded.
pub(crate) fn config(folder: PathBuf, segment_bytes: Option<u64>, segments: Option<u64>) -> RecordConfig {
    let default = RecordConfig::new(folder);
    let segment_bytes = segment_bytes.unwrap_or(default.segment_bytes);
    let segments = segments.unwrap_or(default.segments);
    default.segment_bytes(segment_bytes).segments(segments)
}

/// The router of a process that is no more.
pub(crate) fn resumed(py: Python<'_>, config: &RecordConfig) -> Result<Cluster, Failure> {
    let router = py.detach(|| guarded(|| balanceroute::Router::resume(config)))??;
    Ok(Cluster::new(router))
}

/// Makes all calls of a log again.
pub(crate) fn replayed(folder: PathBuf) -> Result<Replayed, core::RecordError> {
    let mut replay = Replay::open(folder)?;
    let (mut calls, mut differences, mut first_difference) = (0, 0, None);
    while let Some(event) = replay.next_event()? {
        calls += 1;
        if event.differs() {
            differences += 1;
            first_difference.get_or_insert_with(|| {
                let core::Event { at, call, recorded, answered, .. } = event;
                format!("call {at}, {call:?}: recorded {recorded:?}, found {answered:?}")
            });
        }
    }
    Ok(Replayed { calls, differences, first_difference, torn: replay.torn().to_vec() })
}

//! Who writes the log of one router.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::log::Header;
use super::segment::Writer;
use super::{RecordError, Untold, ring};
use crate::bytes::{keyed, to_bytes};
use crate::policy::Parameters;
use crate::router::{Answer, Call, Terms};

/// Where a router is recorded, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordConfig {
    /// The folder, which is made where it is missing: one for each router.
    pub folder: PathBuf,
    /// Bytes of calls in a segment, 2^16..=2^30; the router's state as it begins comes on top. Default 2^24.
    pub segment_bytes: u64,
    /// Segments that are kept, at least 2; default 16.
    pub segments: u64,
}

impl RecordConfig {
    /// The newest sixteen segments of 16 MiB.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), segment_bytes: 1 << 24, segments: 16 }
    }

    /// Sets the bytes of a segment.
    #[must_use]
    pub fn segment_bytes(self, segment_bytes: u64) -> Self {
        Self { segment_bytes, ..self }
    }

    /// Sets how many segments are kept.
    #[must_use]
    pub fn segments(self, segments: u64) -> Self {
        Self { segments, ..self }
    }

    fn check(&self) -> Result<(), RecordError> {
        for (name, low, high, found) in [
            ("segment_bytes", 1 << 16, 1 << 30, self.segment_bytes),
            ("segments", 2, u64::MAX, self.segments),
        ] {
            if !(low..=high).contains(&found) {
                return Err(RecordError::Config { name, low, high, found });
            }
        }
        Ok(())
    }
}

/// How a recording stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// Its folder.
    pub folder: PathBuf,
    /// Calls written since it began.
    pub calls: u64,
    /// Bytes written since then, those of segments that are gone too.
    pub bytes: u64,
    /// Why it has ended, if it has; the router goes on without.
    pub stopped: Option<RecordError>,
}

/// A segment that no call led to.
const NO_CALL: Option<(Call<'_>, Answer<'_>)> = None;

/// Writes the calls of one router.
pub(in crate::router) struct Recorder {
    config: RecordConfig,
    /// Keeps others out of the folder.
    _lock: File,
    key: RandomState,
    policy: &'static str,
    parameters: Option<Parameters>,
    /// The number of the segment, and the calls before it.
    number: u64,
    writer: Option<Writer>,
    calls: u64,
    bytes: u64,
    untold: Untold,
    stopped: Option<RecordError>,
    /// Buffers for what pair terms will answer.
    spare: Terms<'static>,
}

impl Recorder {
    /// Begins a recording with a router's state, after the segments and the calls that are there.
    pub(in crate::router) fn begin(
        config: &RecordConfig,
        lock: File,
        (policy, parameters): (&'static str, Option<Parameters>),
        (last, calls, untold): (u64, u64, Untold),
        state: impl FnOnce() -> Vec<u8>,
    ) -> Result<Self, RecordError> {
        config.check()?;
        let mut recorder = Self {
            config: config.clone(),
            _lock: lock,
            key: RandomState::new(),
            policy,
            parameters,
            number: last,
            writer: None,
            calls,
            bytes: 0,
            untold,
            stopped: None,
            spare: Terms::default(),
        };
        recorder.open_next(&to_bytes(&NO_CALL), state)?;
        Ok(recorder)
    }

    /// The lock of a folder, and the number of its last segment.
    pub(in crate::router) fn claim(folder: &Path) -> Result<(File, u64), RecordError> {
        let lock = ring::lock(folder)?;
        let last = ring::segments(folder)?.last().copied().unwrap_or(0);
        Ok((lock, last))
    }

    /// The folder that the environment names for this router.
    pub(in crate::router) fn asked_for() -> Result<Option<PathBuf>, RecordError> {
        ring::asked_for()
    }

    /// Writes a call that was made; `state` is the router's after it.
    #[inline]
    pub(in crate::router) fn write(
        &mut self,
        call: &Call<'_>,
        answer: &Answer<'_>,
        state: impl FnOnce() -> Vec<u8>,
    ) {
        let Some(writer) = &mut self.writer else { return };
        self.calls += 1;
        self.untold.hear(call, answer);
        let record = (call, answer);
        if keyed::under(&self.key, || writer.push(&record)) {
            return;
        }
        let record = keyed::under(&self.key, || to_bytes(&Some(record)));
        self.go_on_in_next(&record, state);
    }

    /// Begins a segment where the last one would do, so that a replay takes the state from here.
    pub(in crate::router) fn write_state(&mut self, state: impl FnOnce() -> Vec<u8>) {
        if self.writer.is_some() {
            self.go_on_in_next(&to_bytes(&NO_CALL), state);
        }
    }

    fn go_on_in_next(&mut self, record: &[u8], state: impl FnOnce() -> Vec<u8>) {
        if let Err(error) = self.open_next(record, state) {
            #[cfg(feature = "tracing")]
            tracing::warn!(target: "balanceroute", %error, "recording ends");
            if let Some(writer) = &mut self.writer {
                writer.mark_ended();
            }
            (self.stopped, self.writer) = (Some(error), None);
        }
    }

    /// The next segment, which tells of the call that did not fit into the one before, and of the state after
    /// it.
    fn open_next(&mut self, last_call: &[u8], state: impl FnOnce() -> Vec<u8>) -> Result<(), RecordError> {
        let header = Header {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy: self.policy.to_owned(),
            parameters: self.parameters.clone(),
            calls: self.calls,
            untold: self.untold.clone(),
            unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        };
        let (header, state) = keyed::under(&self.key, || (to_bytes(&header), state()));
        let bytes = self.config.segment_bytes as usize + header.len() + last_call.len() + state.len() + 64;
        let number = self.number + 1;
        let mut writer = Writer::create(&ring::path_of(&self.config.folder, number), bytes)?;
        for record in [&header, last_call, &state] {
            writer.push_bytes(record);
        }
        if let Some(before) = self.writer.replace(writer) {
            self.bytes += before.bytes();
        }
        self.number = number;
        for oldest in ring::segments(&self.config.folder)? {
            if oldest + self.config.segments <= number {
                // One that cannot go is no reason not to record: the next change tries again.
                let _ = std::fs::remove_file(ring::path_of(&self.config.folder, oldest));
            }
        }
        Ok(())
    }

    /// Buffers for what pair terms will answer.
    pub(in crate::router) fn take_spare(&mut self) -> Terms<'static> {
        let mut terms = std::mem::take(&mut self.spare);
        terms.rows.to_mut().clear();
        terms.bonuses.to_mut().clear();
        terms.masks.to_mut().clear();
        terms
    }

    /// Those of an answer that is written.
    pub(in crate::router) fn keep_spare(&mut self, terms: Terms<'_>) {
        let Terms { stores_half, rows, bonuses, masks } = terms;
        let owned = (rows.into_owned().into(), bonuses.into_owned().into(), masks.into_owned().into());
        self.spare = Terms { stores_half, rows: owned.0, bonuses: owned.1, masks: owned.2 };
    }

    pub(in crate::router) fn untold(&self) -> &Untold {
        &self.untold
    }

    pub(in crate::router) fn recording(&self) -> Recording {
        Recording {
            folder: self.config.folder.clone(),
            calls: self.calls,
            bytes: self.bytes + self.writer.as_ref().map_or(0, Writer::bytes),
            stopped: self.stopped.clone(),
        }
    }
}

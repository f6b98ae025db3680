//! The calls of a log, made again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::log::{Begun, Recorded};
use super::{Header, Log, RecordError, Untold, ring};
use crate::bytes::to_bytes;
use crate::forecast::TerminationClassifier;
use crate::policy::{NAMES, Policy};
use crate::router::error::message_of;
use crate::router::{Answer, Call, Router, RouterConfig, RouterError};

/// A call of the log, what it answered then and what it answers now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Which call of the recording, from 1.
    pub at: u64,
    /// The call.
    pub call: Call<'static>,
    /// What was recorded.
    pub recorded: Answer<'static>,
    /// What it answers now: whatever was recorded was no error.
    pub answered: Result<Answer<'static>, RouterError>,
}

impl Event {
    /// Whether the answer is another one.
    #[must_use]
    pub fn differs(&self) -> bool {
        // By their bytes: a score may be no number.
        !self.answered.as_ref().is_ok_and(|answered| to_bytes(answered) == to_bytes(&self.recorded))
    }
}

/// Makes the calls of a log again, one by one. At the beginning of each segment the router takes the state
/// that was recorded there, so that damage before it does not matter.
pub struct Replay {
    log: Log,
    header: Header,
    router: Router,
    at: u64,
    peeked: Option<Recorded>,
    untold: Untold,
    /// Whether to explain, where the recording is not to say.
    explaining: Option<bool>,
}

impl Replay {
    /// From the beginning of the [`Log`] at a path, by the policy that it names.
    ///
    /// # Errors
    /// No log, or one of another version or of a policy that is not this library's.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RecordError> {
        let mut log = Log::open(path.as_ref())?;
        let begun =
            log.begin_next()?.ok_or_else(|| RecordError::Nothing { path: path.as_ref().to_owned() })?;
        let mut router = built_as(&begun.header)?;
        go_on_from(&mut router, &begun)?;
        Ok(Self::of(log, begun.header, router))
    }

    /// [`Replay::open`] with the policy and the classifier that decided, where they are the caller's.
    ///
    /// # Errors
    /// As [`Replay::open`], and a policy that is not the one which was recorded.
    pub fn with_policy(
        path: impl AsRef<Path>,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RecordError> {
        let mut log = Log::open(path.as_ref())?;
        let begun =
            log.begin_next()?.ok_or_else(|| RecordError::Nothing { path: path.as_ref().to_owned() })?;
        let mut router = built_of(&begun.header, policy, classifier)?;
        go_on_from(&mut router, &begun)?;
        Ok(Self::of(log, begun.header, router))
    }

    /// From the newest segment that has a beginning, for who writes into the folder next: one after it that
    /// was never finished goes. And its number.
    pub(in crate::router) fn of_newest(
        folder: &Path,
        build: impl FnOnce(&Header) -> Result<Router, RecordError>,
    ) -> Result<(Self, u64), RecordError> {
        for number in ring::segments(folder)?.into_iter().rev() {
            let path = ring::path_of(folder, number);
            let mut log = Log::open(&path)?;
            if let Some(begun) = log.begin_next()? {
                if log.has_ended() {
                    return Err(RecordError::Ended { path });
                }
                let mut router = build(&begun.header)?;
                go_on_from(&mut router, &begun)?;
                return Ok((Self::of(log, begun.header, router), number));
            }
            std::fs::remove_file(&path).map_err(RecordError::io("remove", &path))?;
        }
        Err(RecordError::Nothing { path: folder.to_owned() })
    }

    fn of(log: Log, header: Header, router: Router) -> Self {
        Self {
            log,
            at: header.calls,
            untold: header.untold.clone(),
            header,
            router,
            peeked: None,
            explaining: None,
        }
    }

    /// The header of the segment that is replayed.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The router as it was after the last event.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// That router, to go on with.
    #[must_use]
    pub fn into_router(self) -> Router {
        self.router
    }

    /// Who had left by the last event and may have been known to nobody.
    #[must_use]
    pub fn untold(&self) -> &Untold {
        &self.untold
    }

    /// Calls of the recording up to the last event.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.at
    }

    /// [`Log::torn`].
    #[must_use]
    pub fn torn(&self) -> &[(PathBuf, u64)] {
        self.log.torn()
    }

    /// Keeps why requests are admitted, from the next event on ([`Router::set_explaining`]).
    pub fn set_explaining(&mut self, on: bool) {
        self.explaining = Some(on);
        self.router.set_explaining(on);
    }

    /// Makes the next call.
    ///
    /// # Errors
    /// A segment that cannot be read, or a call that panics: then the log is not what a router wrote.
    pub fn next_event(&mut self) -> Result<Option<Event>, RecordError> {
        if let Some(recorded) = self.next_recorded()? {
            return self.make(recorded).map(Some);
        }
        let Some(mut begun) = self.log.begin_next()? else { return Ok(None) };
        let event = match begun.last_call.take() {
            // Calls are missing in between where the segment before was torn.
            Some(recorded) if self.at + 1 == begun.header.calls => Some(self.make(recorded)?),
            _ => None,
        };
        let Header { policy, parameters, .. } = &begun.header;
        if (policy, parameters) != (&self.header.policy, &self.header.parameters) {
            // Another router recorded into the folder from here on.
            self.router = built_as(&begun.header)?;
        }
        go_on_from(&mut self.router, &begun)?;
        if let Some(on) = self.explaining {
            self.router.set_explaining(on);
        }
        self.at = begun.header.calls;
        self.untold.clone_from(&begun.header.untold);
        self.header = begun.header;
        match event {
            Some(event) => Ok(Some(event)),
            None => self.next_event(),
        }
    }

    /// The call that the next event makes, while the router is as it was before; none between two segments.
    ///
    /// # Errors
    /// A segment that cannot be read.
    pub fn peek(&mut self) -> Result<Option<&Call<'static>>, RecordError> {
        self.peeked = self.next_recorded()?;
        Ok(self.peeked.as_ref().map(|(call, _)| call))
    }

    fn next_recorded(&mut self) -> Result<Option<Recorded>, RecordError> {
        match self.peeked.take() {
            Some(recorded) => Ok(Some(recorded)),
            None => self.log.next(),
        }
    }

    fn make(&mut self, (call, recorded): Recorded) -> Result<Event, RecordError> {
        self.at += 1;
        let at = self.at;
        self.untold.hear(&call, &recorded);
        let answered = match call {
            // The replay has its own say in that.
            Call::SetExplaining { .. } if self.explaining.is_some() => Ok(Answer::Done),
            _ => unless_panicked(at, || self.router.apply(&call))?,
        };
        Ok(Event { at, call, recorded, answered })
    }
}

fn unless_panicked<T>(at: u64, run: impl FnOnce() -> T) -> Result<T, RecordError> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| RecordError::Panicked { at, message: message_of(panic.as_ref()) })
}

fn go_on_from(router: &mut Router, begun: &Begun) -> Result<(), RecordError> {
    unless_panicked(begun.header.calls, || router.go_on_from(&begun.state))?
}

/// A router as a header describes it, empty.
pub(in crate::router) fn built_as(header: &Header) -> Result<Router, RecordError> {
    let known = NAMES.contains(&header.policy.as_str());
    let no_policy = || RecordError::Policy { name: header.policy.clone() };
    let parameters = header.parameters.as_ref().filter(|_| known).ok_or_else(no_policy)?;
    Router::unrecorded(RouterConfig::default(), &header.policy, parameters).map_err(|_| no_policy())
}

/// A router of the caller's policy, empty.
pub(in crate::router) fn built_of(
    header: &Header,
    policy: Box<dyn Policy>,
    classifier: Option<Box<dyn TerminationClassifier>>,
) -> Result<Router, RecordError> {
    let other = || RecordError::Policy { name: header.policy.clone() };
    if policy.name() != header.policy {
        return Err(other());
    }
    Router::of_policy(RouterConfig::default(), policy, classifier).map_err(|_| other())
}

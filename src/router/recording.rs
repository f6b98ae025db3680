//! Where every call that has changed something is told to the flight recorder (feature `record`), and what
//! pair terms answered in it. Without a recorder a call costs one look at whether there is one.

use std::borrow::Cow;

use crate::batch::Request;
#[cfg(feature = "record")]
use crate::forecast::TerminationClassifier;
use crate::ids::{RequestId, WorkerId};
#[cfg(feature = "record")]
use crate::policy::Policy;
#[cfg(feature = "record")]
use crate::router::record::{
    Header, RecordConfig, RecordError, Recorder, Recording, Replay, Untold, built_as, built_of,
};
use crate::router::trace::refused;
use crate::router::{
    Answer, Call, Dispatch, Finished, PairTerms, Placement, Returned, Router, RouterError, Terms, TermsRow,
    Verdict,
};

impl Router {
    /// What a call has answered, told to who listens: what was done to the recorder, what was refused to
    /// `tracing`.
    #[inline]
    pub(super) fn recorded<'a, T: Told>(
        &mut self,
        name: &'static str,
        done: Result<T, RouterError>,
        call: impl FnOnce() -> Call<'a>,
    ) -> Result<T, RouterError> {
        if let Ok(told) = &done {
            self.record_call(told, call);
        }
        refused(name, done)
    }

    /// [`Router::recorded`] of a step, which answers by the plan.
    #[inline]
    pub(super) fn recorded_step(
        &mut self,
        done: Result<(), RouterError>,
        call: impl FnOnce() -> Call<'static>,
    ) -> Result<(), RouterError> {
        if done.is_ok() && self.is_recorded() {
            self.write_call(call(), None);
        }
        refused("step", done)
    }

    /// Terms that a recorder hears.
    #[inline]
    pub(super) fn listen<'t, 'o>(&mut self, terms: Option<&'t mut (dyn PairTerms + 'o)>) -> Listener<'t, 'o> {
        let heard = if terms.is_some() { self.spare_terms() } else { None };
        Listener { terms, heard }
    }
}

#[cfg(feature = "record")]
impl Router {
    /// Writes every call that changes this router from now on, with its answer, into the log of a folder,
    /// after what is there ([`crate::router::record`]). A recording that was under way ends.
    ///
    /// # Errors
    /// A configuration out of its ranges, a folder that cannot be written, or that another router records
    /// into; the router goes on as before.
    pub fn record(&mut self, config: &RecordConfig) -> Result<(), RecordError> {
        let (lock, last) = Recorder::claim(&config.folder)?;
        self.begin_recording(config, lock, (last, 0, Untold::default()))
    }

    fn begin_recording(
        &mut self,
        config: &RecordConfig,
        lock: std::fs::File,
        after: (u64, u64, Untold),
    ) -> Result<(), RecordError> {
        let of = (self.policy.name(), self.policy.built_from().cloned());
        let recorder = Recorder::begin(config, lock, of, after, || self.state())?;
        self.recorder = Some(Box::new(recorder));
        Ok(())
    }

    /// The router of a process that is no more, as it was after the last call that it had recorded into this
    /// folder; it goes on to record there. Who waited waits, and who ran runs ([`Router::running`]). Some of
    /// what it had answered may not have been carried out: [`Router::resend`] has the dispatches, each to be
    /// handed to its worker again, which knows by its number whether it has it, and [`Router::untold`] who
    /// was given back and has not come again. What engines hold is theirs to say, by reports and
    /// [`Router::adopt`].
    ///
    /// # Errors
    /// No recording, one that is still under way, or of another version, or of a policy that is not this
    /// library's ([`Router::resume_with`]); a folder that cannot be written.
    pub fn resume(config: &RecordConfig) -> Result<Self, RecordError> {
        Self::resume_built(config, built_as)
    }

    /// [`Router::resume`] with the policy and the classifier of the caller's that decided.
    ///
    /// # Errors
    /// As [`Router::resume`], and a policy that is not the one which was recorded.
    pub fn resume_with(
        config: &RecordConfig,
        policy: Box<dyn Policy>,
        classifier: Option<Box<dyn TerminationClassifier>>,
    ) -> Result<Self, RecordError> {
        Self::resume_built(config, |header| built_of(header, policy, classifier))
    }

    fn resume_built(
        config: &RecordConfig,
        build: impl FnOnce(&Header) -> Result<Self, RecordError>,
    ) -> Result<Self, RecordError> {
        let (lock, _) = Recorder::claim(&config.folder)?;
        let (mut replay, last) = Replay::of_newest(&config.folder, build)?;
        while let Some(event) = replay.next_event()? {
            if event.differs() {
                return Err(RecordError::Differs { at: event.at });
            }
        }
        let (calls, untold) = (replay.calls(), replay.untold().clone());
        let mut router = replay.into_router();
        router.begin_recording(config, lock, (last, calls, untold))?;
        Ok(router)
    }

    /// How the recording stands, if there is one.
    #[must_use]
    pub fn recording(&self) -> Option<Recording> {
        self.recorder.as_ref().map(|recorder| recorder.recording())
    }

    /// Who has left without having finished, by the last plan or since, and has not come again: after
    /// [`Router::resume`] nobody else may know of them. None where nothing is recorded.
    #[must_use]
    pub fn untold(&self) -> Option<&Untold> {
        self.recorder.as_ref().map(|recorder| recorder.untold())
    }

    /// Ends the recording. How it stood.
    pub fn stop_recording(&mut self) -> Option<Recording> {
        self.recorder.take().map(|recorder| recorder.recording())
    }

    /// Begins the recording that the environment asks for.
    pub(super) fn recorded_if_asked(mut self) -> Result<Self, RouterError> {
        if let Some(folder) = Recorder::asked_for()? {
            self.record(&RecordConfig::new(folder))?;
        }
        Ok(self)
    }

    #[inline]
    fn is_recorded(&self) -> bool {
        self.recorder.is_some()
    }

    #[inline]
    pub(super) fn record_call<'a, T: Told + ?Sized>(&mut self, told: &T, call: impl FnOnce() -> Call<'a>) {
        if self.is_recorded() {
            self.write_call(call(), Some(&told.answer()));
        }
    }

    /// Writes a call and its answer: the plan where none is given.
    #[inline(never)]
    fn write_call(&mut self, call: Call<'_>, answer: Option<&Answer<'_>>) {
        let Some(mut recorder) = self.recorder.take() else { return };
        match answer {
            Some(answer) => recorder.write(&call, answer, || self.state()),
            None => recorder.write(&call, &Answer::Plan(Cow::Borrowed(&self.plan)), || self.state()),
        }
        if let Call::Step { terms: Some(terms), .. } | Call::Place { terms: Some(terms), .. } = call {
            recorder.keep_spare(terms);
        }
        self.recorder = Some(recorder);
    }

    pub(super) fn record_state(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.write_state(|| self.state());
            self.recorder = Some(recorder);
        }
    }

    #[inline]
    fn spare_terms(&mut self) -> Option<Terms<'static>> {
        Some(self.recorder.as_mut()?.take_spare())
    }
}

#[cfg(not(feature = "record"))]
impl Router {
    pub(super) fn recorded_if_asked(self) -> Result<Self, RouterError> {
        Ok(self)
    }

    #[inline]
    fn is_recorded(&self) -> bool {
        false
    }

    #[inline]
    pub(super) fn record_call<'a, T: Told + ?Sized>(&mut self, _: &T, _: impl FnOnce() -> Call<'a>) {}

    #[inline]
    fn write_call(&mut self, _: Call<'_>, _: Option<&Answer<'_>>) {}

    #[inline]
    pub(super) fn record_state(&mut self) {}

    #[inline]
    fn spare_terms(&mut self) -> Option<Terms<'static>> {
        None
    }
}

/// What a call answers, as it is recorded.
#[cfg_attr(not(feature = "record"), allow(dead_code, reason = "only a recorder asks"))]
pub(super) trait Told {
    fn answer(&self) -> Answer<'_>;
}

macro_rules! told {
    ($($of:ty: $self:ident => $answer:expr;)*) => {
        $(impl Told for $of {
            fn answer(&self) -> Answer<'_> {
                let $self = self;
                $answer
            }
        })*
    };
}

told! {
    (): _done => Answer::Done;
    Placement: placement => Answer::Placement(*placement);
    Dispatch: dispatch => Answer::Dispatch(*dispatch);
    Finished: finished => Answer::Finished(*finished);
    Option<WorkerId>: worker => Answer::Aborted(*worker);
    Request<WorkerId>: request => Answer::Preempted(*request);
    Verdict: verdict => Answer::Verdict(*verdict);
    usize: grown => Answer::Grown(*grown as u64);
    WorkerId: worker => Answer::Worker(*worker);
    [Dispatch]: dispatches => Answer::Dispatches(Cow::Borrowed(dispatches));
    [Returned]: returned => Answer::Returned(Cow::Borrowed(returned));
    &[Returned]: returned => Answer::Returned(Cow::Borrowed(returned));
    Disowned<'_>: disowned => Answer::Disowned(Cow::Borrowed(disowned.0));
}

/// Who was disowned by one call.
#[cfg_attr(not(feature = "record"), allow(dead_code, reason = "only a recorder asks"))]
pub(super) struct Disowned<'a>(pub(super) &'a [RequestId]);

/// Terms of the caller's, and what they have answered where that is recorded.
pub(super) struct Listener<'t, 'o> {
    terms: Option<&'t mut (dyn PairTerms + 'o)>,
    pub(super) heard: Option<Terms<'static>>,
}

impl Listener<'_, '_> {
    /// The terms to ask.
    #[inline]
    pub(super) fn terms(&mut self) -> Option<&mut (dyn PairTerms + '_)> {
        if let (Some(heard), Some(terms)) = (&mut self.heard, &self.terms) {
            heard.stores_half = terms.stores_half();
            return Some(self);
        }
        self.terms.as_mut().map(|terms| &mut **terms as _)
    }
}

impl PairTerms for Listener<'_, '_> {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        let (Some(terms), Some(heard)) = (&mut self.terms, &mut self.heard) else { return false };
        let any = terms.bonus(request, bonus_tokens);
        let bonuses = heard.bonuses.to_mut();
        let before = bonuses.len();
        if any {
            let told = bonus_tokens.iter().enumerate().filter(|&(_, &tokens)| tokens != 0.0);
            bonuses.extend(told.map(|(worker, &tokens)| (worker as u32, tokens)));
        }
        let bonuses = (bonuses.len() - before) as u32;
        heard.rows.to_mut().push(TermsRow { id: request.id, bonuses, words: 0 });
        any
    }

    /// Asked after the bonus of a request.
    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        let (Some(terms), Some(heard)) = (&mut self.terms, &mut self.heard) else { return false };
        let any = terms.eligible(request, workers);
        let rows = heard.rows.to_mut();
        if let Some(row) = rows.last_mut() {
            if any {
                row.words = workers.len() as u32;
                heard.masks.to_mut().extend_from_slice(workers);
            }
            if row.bonuses == 0 && row.words == 0 {
                rows.pop();
            }
        }
        any
    }

    fn stores_half(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.stores_half())
    }
}

//! The calls that change a router, as values: what a flight recorder writes and a replay makes again.

use std::borrow::Cow;

use crate::batch::Request;
use crate::ids::{RequestId, WorkerId};
use crate::router::{
    Dispatch, Finished, PairTerms, Placement, Plan, Returned, Router, RouterError, Share, Verdict,
    WorkerConfig, WorkerReport,
};

/// A call that changes a router, with what it was told; each is the method of its name.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[allow(missing_docs, reason = "the fields are the arguments of the methods")]
#[non_exhaustive]
pub enum Call<'a> {
    /// [`Router::enqueue`].
    Enqueue { request: Request<WorkerId>, now_ms: Option<u64> },
    /// [`Router::place`], or [`Router::place_with`] with terms.
    Place { request: Request<WorkerId>, now_ms: u64, terms: Option<Terms<'a>> },
    /// [`Router::send`].
    Send { request: Request<WorkerId>, worker: Option<WorkerId>, now_ms: Option<u64> },
    /// [`Router::adopt`].
    Adopt { request: Request<WorkerId>, worker: WorkerId, generated_tokens: u32 },
    /// [`Router::finish`].
    Finish { id: RequestId, now_ms: Option<u64> },
    /// [`Router::finish_dispatch`].
    FinishDispatch { id: RequestId, worker: WorkerId, number: u64, now_ms: Option<u64> },
    /// [`Router::abort`].
    Abort { id: RequestId, now_ms: Option<u64> },
    /// [`Router::abort_dispatch`].
    AbortDispatch { id: RequestId, worker: WorkerId, number: u64, now_ms: Option<u64> },
    /// [`Router::preempt`].
    Preempt { id: RequestId },
    /// [`Router::held`].
    Held { id: RequestId },
    /// [`Router::transfer_done`].
    TransferDone { id: RequestId },
    /// [`Router::preempted`].
    Preempted { id: RequestId },
    /// [`Router::resumed`].
    Resumed { id: RequestId },
    /// [`Router::disown_sent`].
    DisownSent { worker: WorkerId, until_ms: u64 },
    /// [`Router::tell_length`].
    TellLength { id: RequestId, output_tokens: u32 },
    /// [`Router::advance`].
    Advance,
    /// [`Router::progress`].
    Progress { worker: WorkerId, tokens: u32 },
    /// [`Router::progress_request`].
    ProgressRequest { id: RequestId, tokens: u32 },
    /// [`Router::progress_requests`].
    ProgressRequests { grown: Cow<'a, [(RequestId, u32)]> },
    /// [`Router::report`].
    Report { worker: WorkerId, report: WorkerReport, now_ms: Option<u64> },
    /// [`Router::add_worker`].
    AddWorker { config: WorkerConfig },
    /// [`Router::announce_worker`].
    AnnounceWorker { config: WorkerConfig },
    /// [`Router::configure_worker`].
    ConfigureWorker { worker: WorkerId, config: WorkerConfig },
    /// [`Router::set_share`].
    SetShare { share: Share },
    /// [`Router::drain_worker`].
    DrainWorker { worker: WorkerId },
    /// [`Router::set_accepting`].
    SetAccepting { worker: WorkerId, accepting: bool },
    /// [`Router::remove_worker`].
    RemoveWorker { worker: WorkerId },
    /// [`Router::step`] and its relatives.
    Step { now_ms: u64, by_reference: bool, terms: Option<Terms<'a>> },
    /// [`Router::resend`].
    Resend { now_ms: u64 },
    /// [`Router::learn`].
    Learn { learned: Cow<'a, [u8]> },
    /// [`Router::recover`].
    Recover,
    /// [`Router::set_explaining`].
    SetExplaining { on: bool },
}

/// What pair terms answered in one call, request by request; of those that are not listed nothing.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Terms<'a> {
    /// [`PairTerms::stores_half`].
    pub stores_half: bool,
    /// Who was asked for and had something to say.
    pub rows: Cow<'a, [TermsRow]>,
    /// Their bonuses in tokens that are not zero, by position of the worker, row after row.
    pub bonuses: Cow<'a, [(u32, f32)]>,
    /// The masks of rows that have one, row after row: a word for 64 workers.
    pub masks: Cow<'a, [u64]>,
}

/// How much of [`Terms`] is one request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TermsRow {
    /// Request id.
    pub id: RequestId,
    /// Its bonuses.
    pub bonuses: u32,
    /// Words of its mask; none where any worker may take it.
    pub words: u32,
}

impl TermsRow {
    /// So many bonuses and words of a mask of a request.
    #[must_use]
    pub fn new(id: RequestId, bonuses: u32, words: u32) -> Self {
        Self { id, bonuses, words }
    }
}

/// What a call answers.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Answer<'a> {
    /// Nothing but that it was done.
    Done,
    /// Of a step.
    Plan(Cow<'a, Plan>),
    /// Of a placement on arrival.
    Placement(Placement),
    /// Of a request that was sent.
    Dispatch(Dispatch),
    /// Of dispatches that are made again.
    Dispatches(Cow<'a, [Dispatch]>),
    /// Of an end.
    Finished(Finished),
    /// Of a request that was given up: the worker that it ran on.
    Aborted(Option<WorkerId>),
    /// Of a request that was put off.
    Preempted(Request<WorkerId>),
    /// Of a report.
    Verdict(Verdict),
    /// How many have grown.
    Grown(u64),
    /// The worker that has joined.
    Worker(WorkerId),
    /// Who has left.
    Returned(Cow<'a, [Returned]>),
    /// Who was disowned.
    Disowned(Cow<'a, [RequestId]>),
}

impl Router {
    /// Makes a call that is given as a value: the method of its name, with these arguments.
    ///
    /// # Errors
    /// As the method.
    pub fn apply(&mut self, call: &Call<'_>) -> Result<Answer<'static>, RouterError> {
        let life = |id, worker, number| Dispatch { id, worker, number, prompt_tokens: 0, score_tokens: 0.0 };
        match *call {
            Call::Enqueue { request, now_ms } => self.enqueue(request, now_ms).map(done),
            Call::Place { request, now_ms, ref terms } => match terms {
                Some(terms) => self.place_with(request, now_ms, &mut terms.told()),
                None => self.place(request, now_ms),
            }
            .map(Answer::Placement),
            Call::Send { request, worker, now_ms } => {
                self.send(request, worker, now_ms).map(Answer::Dispatch)
            }
            Call::Adopt { request, worker, generated_tokens } => {
                self.adopt(request, worker, generated_tokens).map(done)
            }
            Call::Finish { id, now_ms } => self.finish(id, now_ms).map(Answer::Finished),
            Call::FinishDispatch { id, worker, number, now_ms } => {
                self.finish_dispatch(&life(id, worker, number), now_ms).map(Answer::Finished)
            }
            Call::Abort { id, now_ms } => self.abort(id, now_ms).map(Answer::Aborted),
            Call::AbortDispatch { id, worker, number, now_ms } => {
                self.abort_dispatch(&life(id, worker, number), now_ms).map(Answer::Aborted)
            }
            Call::Preempt { id } => self.preempt(id).map(Answer::Preempted),
            Call::Held { id } => self.held(id).map(done),
            Call::TransferDone { id } => self.transfer_done(id).map(done),
            Call::Preempted { id } => self.preempted(id).map(done),
            Call::Resumed { id } => self.resumed(id).map(done),
            Call::DisownSent { worker, until_ms } => {
                let mut left = Vec::new();
                self.disown_sent(worker, until_ms, &mut left)?;
                Ok(Answer::Disowned(left.into()))
            }
            Call::TellLength { id, output_tokens } => {
                self.tell_length(id, output_tokens);
                Ok(Answer::Done)
            }
            Call::Advance => {
                self.advance();
                Ok(Answer::Done)
            }
            Call::Progress { worker, tokens } => self.progress(worker, tokens).map(done),
            Call::ProgressRequest { id, tokens } => self.progress_request(id, tokens).map(done),
            Call::ProgressRequests { ref grown } => {
                self.progress_requests(grown).map(|count| Answer::Grown(count as u64))
            }
            Call::Report { worker, report, now_ms } => {
                self.report(worker, report, now_ms).map(Answer::Verdict)
            }
            Call::AddWorker { config } => self.add_worker(config).map(Answer::Worker),
            Call::AnnounceWorker { config } => self.announce_worker(config).map(Answer::Worker),
            Call::ConfigureWorker { worker, config } => self.configure_worker(worker, config).map(done),
            Call::SetShare { share } => self.set_share(share).map(done),
            Call::DrainWorker { worker } => self.drain_worker(worker).map(done),
            Call::SetAccepting { worker, accepting } => self.set_accepting(worker, accepting).map(done),
            Call::RemoveWorker { worker } => {
                let mut returned = Vec::new();
                self.remove_worker(worker, &mut returned)?;
                Ok(Answer::Returned(returned.into()))
            }
            Call::Step { now_ms, by_reference, ref terms } => match (by_reference, terms) {
                (false, None) => self.step(now_ms),
                (false, Some(terms)) => self.step_with(now_ms, &mut terms.told()),
                (true, None) => self.step_by_reference(now_ms),
                (true, Some(terms)) => self.step_by_reference_with(now_ms, &mut terms.told()),
            }
            .map(|plan| Answer::Plan(Cow::Owned(plan.clone()))),
            Call::Resend { now_ms } => Ok(Answer::Dispatches(self.resend(now_ms).into())),
            Call::Learn { ref learned } => self.learn(learned).map(done),
            Call::Recover => Ok(Answer::Returned(self.recover().into())),
            Call::SetExplaining { on } => {
                self.set_explaining(on);
                Ok(Answer::Done)
            }
        }
    }
}

fn done((): ()) -> Answer<'static> {
    Answer::Done
}

impl Terms<'_> {
    /// The terms that answer so. A list that is not whole says nothing from there on.
    fn told(&self) -> impl PairTerms {
        let mut rows = std::collections::HashMap::with_capacity(self.rows.len());
        let (mut bonus, mut word) = (0, 0);
        for row in self.rows.iter() {
            let ends = (bonus + row.bonuses as usize, word + row.words as usize);
            let bonuses = self.bonuses.get(bonus..ends.0).unwrap_or_default();
            rows.insert(row.id, (bonuses, self.masks.get(word..ends.1).unwrap_or_default()));
            (bonus, word) = ends;
        }
        Told { rows, stores_half: self.stores_half }
    }
}

/// Terms that answer as others have answered before.
struct Told<'a> {
    rows: std::collections::HashMap<RequestId, (&'a [(u32, f32)], &'a [u64])>,
    stores_half: bool,
}

impl PairTerms for Told<'_> {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        let Some(&(bonuses, _)) = self.rows.get(&request.id) else { return false };
        for &(worker, tokens) in bonuses {
            if let Some(bonus) = bonus_tokens.get_mut(worker as usize) {
                *bonus = tokens;
            }
        }
        !bonuses.is_empty()
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        let Some(&(_, mask)) = self.rows.get(&request.id) else { return false };
        for (word, &told) in workers.iter_mut().zip(mask) {
            *word = told;
        }
        !mask.is_empty()
    }

    fn stores_half(&self) -> bool {
        self.stores_half
    }
}

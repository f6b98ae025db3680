//! Between dispatch and end: requests that hold KV and do not decode, and that their engine puts off.

use std::collections::{HashMap, VecDeque};

use crate::account::Stage;
use crate::ids::{RequestId, WorkerId};
use crate::router::recording::Disowned;
use crate::router::{Call, Router, RouterError};

impl Router {
    /// A request has KV on its worker and does not decode yet: its cache is on the way from a prefill node,
    /// or is filled part by part. It weighs its whole length and does not grow until
    /// [`Router::transfer_done`] or a token of its own ([`Router::progress_request`]).
    ///
    /// # Errors
    /// The request does not run.
    pub fn held(&mut self, id: impl Into<RequestId>) -> Result<(), RouterError> {
        let id = id.into();
        let done = self.enter_stage(id, Stage::Held, |_| true);
        self.recorded("held", done, || Call::Held { id })
    }

    /// A request decodes from now on: its KV cache is there. Of one that is preempted it changes nothing.
    ///
    /// # Errors
    /// The request does not run.
    pub fn transfer_done(&mut self, id: impl Into<RequestId>) -> Result<(), RouterError> {
        let id = id.into();
        let done = self.enter_stage(id, Stage::Decoding, |stage| stage != Stage::Preempted);
        self.recorded("transfer_done", done, || Call::TransferDone { id })
    }

    /// The engine has taken a request's KV cache away and will go on with it by itself: it stays on its
    /// worker, room for its length is kept there, and it does not grow until [`Router::resumed`] or a token
    /// of its own. Where the caller is to send it again, that is [`Router::preempt`].
    ///
    /// # Errors
    /// The request does not run.
    pub fn preempted(&mut self, id: impl Into<RequestId>) -> Result<(), RouterError> {
        let id = id.into();
        let before = self.stage_of(id);
        let done = self.enter_stage(id, Stage::Preempted, |_| true);
        self.counters.preempted_in_place += u64::from(done.is_ok() && before != Some(Stage::Preempted));
        self.recorded("preempted", done, || Call::Preempted { id })
    }

    /// The engine goes on with a request that it had preempted. Of one that is not preempted it changes
    /// nothing.
    ///
    /// # Errors
    /// The request does not run.
    pub fn resumed(&mut self, id: impl Into<RequestId>) -> Result<(), RouterError> {
        let id = id.into();
        let done = self.enter_stage(id, Stage::Decoding, |stage| stage == Stage::Preempted);
        self.recorded("resumed", done, || Call::Resumed { id })
    }

    fn stage_of(&self, id: RequestId) -> Option<Stage> {
        self.slab.index_of(id).map(|index| self.slab.entries[index as usize].stage)
    }

    fn enter_stage(
        &mut self,
        id: RequestId,
        stage: Stage,
        from: impl Fn(Stage) -> bool,
    ) -> Result<(), RouterError> {
        let index = self.index_of_running(id)?;
        let active = &self.slab.entries[index as usize];
        let (before, place) = (active.stage, self.place_of(active.worker)?);
        if before == stage || !from(before) {
            return Ok(());
        }
        let now_ms = self.now_ms();
        if !before.grows() && stage.grows() {
            self.come_along(place);
        }
        self.accounts[place].move_to(&mut self.slab, index, stage, now_ms);
        match (before.grows(), stage.grows()) {
            (true, false) => {
                if let Some(forecast_state) = &mut self.forecast_state {
                    forecast_state.end(&mut self.slab, index);
                }
            }
            (false, true) => self.grows_again(index, place),
            _ => {}
        }
        self.settle(place);
        Ok(())
    }

    /// A request that did not grow for a while does again: by the step clock it has just reached its length.
    pub(super) fn grows_again(&mut self, index: u32, place: usize) {
        let generated = self.accounts[place].generated_tokens(&self.slab.entries[index as usize]);
        self.slab.entries[index as usize].born_step = self.now - i64::from(generated);
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.begin(&mut self.slab, index, place, generated);
        }
    }

    /// The ends of requests will not be told: whatever was sent to a worker by `until_ms`, a time of the
    /// clock that was read last, and that nothing has shown, is foreign there from now on, for the next
    /// report to measure. Their ids are appended to `left`; what they have generated is not known, so nothing
    /// is learned.
    ///
    /// # Errors
    /// No such worker.
    pub fn disown_sent(
        &mut self,
        worker: impl Into<WorkerId>,
        until_ms: u64,
        left: &mut Vec<RequestId>,
    ) -> Result<(), RouterError> {
        let (worker, from) = (worker.into(), left.len());
        let done = self.disown(worker, until_ms, left).map(|()| Disowned(&left[from..]));
        self.recorded("disown_sent", done, || Call::DisownSent { worker, until_ms }).map(|_| ())
    }

    fn disown(
        &mut self,
        worker: WorkerId,
        until_ms: u64,
        left: &mut Vec<RequestId>,
    ) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        // In our own time; before its beginning nothing was sent.
        let age_ms = self.clock.told_ms().saturating_sub(until_ms);
        let Some(until_ms) = self.now_ms().checked_sub(age_ms) else { return Ok(()) };
        let first = |router: &Self| router.accounts[place].first_sent(&router.slab, until_ms);
        while let Some(index) = first(self) {
            let id = self.slab.entries[index as usize].request.id;
            self.accounts[place].disown(&mut self.slab, index);
            if let Some(forecast_state) = &mut self.forecast_state {
                forecast_state.end(&mut self.slab, index);
            }
            self.counters.disowned += 1;
            self.forget(id);
            left.push(id);
        }
        self.settle(place);
        Ok(())
    }
}

/// A request that was preempted.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Before {
    /// The length that it had reached, and what it had generated of it.
    pub(super) prompt_tokens: u32,
    pub(super) generated_tokens: u32,
    /// Its place in the order of arrival, how often it had been passed, and its class.
    pub(super) arrival: u64,
    pub(super) passed: u32,
    pub(super) priority: i8,
}

/// Requests that were preempted and have not come again yet.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Preempted {
    by_id: HashMap<RequestId, Before>,
    order: VecDeque<RequestId>,
}

impl Preempted {
    /// So many are remembered; older ones may never come.
    const MOST: usize = 4096;

    pub(super) fn remember(&mut self, id: RequestId, before: Before) {
        if self.order.len() >= Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.by_id.insert(id, before);
        self.order.push_back(id);
    }

    /// Forgets one that has come with this length. Its place in the order of arrival, if it goes on.
    pub(super) fn place_of(&mut self, id: RequestId, prompt_tokens: u32) -> Option<u64> {
        self.forget(id).filter(|before| before.prompt_tokens == prompt_tokens).map(|before| before.arrival)
    }

    /// What is known of one that comes with this length.
    pub(super) fn of(&self, id: RequestId, prompt_tokens: u32) -> Option<Before> {
        if self.by_id.is_empty() {
            return None;
        }
        self.by_id.get(&id).copied().filter(|before| before.prompt_tokens == prompt_tokens)
    }

    /// Forgets one that has come.
    pub(super) fn forget(&mut self, id: RequestId) -> Option<Before> {
        if self.by_id.is_empty() {
            return None;
        }
        let before = self.by_id.remove(&id)?;
        self.order.retain(|&other| other != id);
        Some(before)
    }
}

//! Requests begin to run, and cease to.

use crate::account::{Active, Stage};
use crate::batch::{Batch, Request};
use crate::ids::{RequestId, WorkerId, WorkerIndex};
use crate::router::clock::Clock;
use crate::router::{Call, Dispatch, Router, RouterError};

impl Router {
    /// The dispatches of those who run that nothing has shown to have arrived, by worker and number, each
    /// with the length that it is counted with by now and no score.
    #[must_use]
    pub fn unseen(&self) -> Vec<Dispatch> {
        let sent = self.slab.ids().into_iter().filter_map(|id| {
            let active = &self.slab.entries[self.slab.index_of(id)? as usize];
            let Active { worker, number, stage, .. } = *active;
            let generated_tokens = self.accounts[self.place_of(worker).ok()?].generated_tokens(active);
            let prompt_tokens = active.request.prompt_tokens.saturating_add(generated_tokens);
            let dispatch = Dispatch { id, worker, number, prompt_tokens, score_tokens: 0.0 };
            (stage == Stage::Sent).then_some(dispatch)
        });
        let mut unseen: Vec<Dispatch> = sent.collect();
        unseen.sort_unstable_by_key(|dispatch| (dispatch.worker, dispatch.number));
        unseen
    }

    /// [`Router::unseen`], made again now: each is to be handed to its worker once more, and only from now on
    /// may a report be expected to have seen it. For a router that goes on from a log
    /// (`Router::resume`), and for a worker whose connection was lost. A worker that has it
    /// knows it by its number.
    #[must_use = "hand them to their workers"]
    pub fn resend(&mut self, now_ms: u64) -> Vec<Dispatch> {
        self.tell(self.clock.read(now_ms));
        let again = self.unseen();
        for dispatch in &again {
            if let Some(index) = self.slab.index_of(dispatch.id) {
                self.slab.entries[index as usize].since_ms = self.now_ms();
            }
        }
        self.record_call(&again[..], || Call::Resend { now_ms });
        again
    }

    /// A request that was let in begins to run; `arrival` is its place in the order of arrival.
    pub(super) fn dispatch(&mut self, request: Request<WorkerId>, place: usize, arrival: u64) -> Dispatch {
        let Request { id, prompt_tokens, generated_tokens, .. } = request;
        let prompt = prompt_tokens.saturating_sub(generated_tokens);
        let (worker, number) = (self.ids[place], self.begin(request, place, (prompt, arrival), true));
        Dispatch { id, worker, number, prompt_tokens, score_tokens: 0.0 }
    }

    /// A request begins to run that had so many tokens when it had generated none, and has this place in the
    /// order of arrival. The number of its dispatch.
    pub(super) fn begin(
        &mut self,
        request: Request<WorkerId>,
        place: usize,
        (prompt_tokens, arrival): (u32, u64),
        dispatched: bool,
    ) -> u64 {
        let generated_tokens = request.generated_tokens;
        let request = Request { prompt_tokens, generated_tokens: 0, ..request };
        let (worker, generated, now_ms) = (self.ids[place], i64::from(generated_tokens), self.now_ms());
        self.come_along(place);
        let account = &mut self.accounts[place];
        let (born_tokens, born_step) = (account.grown_tokens - generated, self.now - generated);
        let mut active = Active::new(request, worker, born_tokens, born_step, (now_ms, arrival));
        active.seen_tokens = generated_tokens;
        let index = self.slab.insert(active);
        let number = account.begin(&mut self.slab, index, dispatched.then_some(now_ms));
        self.settle(place);
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.begin(&mut self.slab, index, place, generated_tokens);
        }
        number
    }

    /// Counts who has entered which worker for those who wait and came earlier: each by its class and its
    /// place in the order of arrival.
    pub(super) fn count_passes(&mut self, admitted: impl Iterator<Item = (i8, u64, WorkerIndex)> + Clone) {
        let batch = Batch::draft(&self.workers, &self.nobody).pairs(self.pair_rows.pairs()).unchecked();
        let may_use = |request: &Request, worker: WorkerIndex| batch.eligible(request, worker.index());
        self.pool.count_passes(admitted.clone(), may_use);
        if let Some(one_in) = self.config.lower_class_one_in {
            let waiting = self.pool.classes().map(|(class, _)| class);
            self.credits.count(one_in, waiting, admitted.map(|(class, ..)| class));
        }
    }

    /// Before somebody begins to grow on a worker: where nobody does, no length depends on its growth, and it
    /// is where the step clock is.
    pub(super) fn come_along(&mut self, place: usize) {
        let account = &mut self.accounts[place];
        if account.growing() == 0 {
            account.grown_tokens = self.now;
        }
    }

    /// Where a running request stands in the slab.
    pub(super) fn index_of_running(&self, id: RequestId) -> Result<u32, RouterError> {
        self.slab.index_of(id).ok_or_else(|| match self.pool.contains(id) {
            true => RouterError::NotRunning { id },
            false => RouterError::Unknown { id },
        })
    }

    /// A request ends to run, at the reading of its call, which is told once nothing can fail any more. Where
    /// it stood in the slab, and stands until somebody else begins, and the tokens that it has generated.
    pub(super) fn leave_worker(
        &mut self,
        id: RequestId,
        clock: Option<&Clock>,
    ) -> Result<(usize, u32), RouterError> {
        let index = self.index_of_running(id)?;
        let Active { worker, stage, .. } = self.slab.entries[index as usize];
        let place = self.place_of(worker)?;
        let now_ms = clock.map_or(self.now_ms(), |clock| clock.now_ms());
        let account = &mut self.accounts[place];
        account.end(&mut self.slab, index, now_ms);
        let generated = account.generated_tokens(&self.slab.entries[index as usize]);
        self.settle(place);
        if stage.grows()
            && let Some(forecast_state) = &mut self.forecast_state
        {
            forecast_state.end(&mut self.slab, index);
        }
        Ok((index as usize, generated))
    }
}

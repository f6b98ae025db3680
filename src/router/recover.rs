//! Beginning anew without losing a request.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::account::Slab;
use crate::pool::{CANDIDATE_WINDOW, Pool};
use crate::router::trace;
use crate::router::{Call, ReturnReason, Returned, Router};

impl Router {
    /// Gives every request back that waits or runs, and those that the next plan would have returned, each
    /// once for every time that it was let in; what stays are the workers, what they measured, and what the
    /// traffic and the classifier have taught. For a caller that does not trust the state any more, above all
    /// after a panic in this library: it needs nothing of the state to be in order. Those that ran count as
    /// foreign load until their workers report again.
    #[must_use = "these requests have left: nobody else tells of them"]
    pub fn recover(&mut self) -> Vec<Returned> {
        let mut returned = Vec::new();
        let reason = ReturnReason::Recovered;
        let mut waiting = self.pool.ids();
        waiting.sort_unstable();
        // What is out of order may be out of bounds.
        let found = |id| catch_unwind(AssertUnwindSafe(|| self.pool.find(id))).ok().flatten();
        let bound = |id| found(id).and_then(|(_, request, _)| self.ids.get(request.rank?.index()).copied());
        returned.extend(waiting.into_iter().map(|id| Returned {
            id,
            worker: bound(id),
            reason,
            generated_tokens: 0,
        }));
        let mut running = self.slab.ids();
        running.sort_unstable();
        for id in running {
            let index = self.slab.index_of(id).unwrap_or_default();
            let Some(active) = self.slab.entries.get(index as usize) else { continue };
            let account = self.place_of(active.worker).ok().and_then(|place| self.accounts.get(place));
            let generated_tokens = account.map_or(0, |account| account.generated_tokens(active));
            returned.push(Returned { id, worker: Some(active.worker), reason, generated_tokens });
        }
        let mut seen = HashSet::new();
        returned.retain(|returned: &Returned| seen.insert(returned.id));
        returned.iter().for_each(trace::returned);
        self.counters.returned[reason as usize] += returned.len() as u64;
        // Whoever left before may have been let in again since: both are told, as a plan would tell them.
        returned.splice(0..0, self.pending.drain(..));
        returned.iter().for_each(|returned| self.forget(returned.id));

        self.pool = Pool::with_window(self.policy.needs().candidate_window.unwrap_or(CANDIDATE_WINDOW));
        self.slab = Slab::default();
        self.accounts.iter_mut().for_each(|account| account.disown_all());
        self.queued.fill((0, 0));
        self.preempted = Default::default();
        self.credits = Default::default();
        self.leaving.clear();
        self.planned.clear();
        self.pair_rows.clear();
        self.next_rows.clear();
        self.assignment.clear();
        (self.passed_over, self.max_passed, self.claim) = (None, None, None);
        self.plan = Default::default();
        self.explainer.clear();
        let workers = self.workers.len();
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.forget_running(workers);
        }
        self.settle_all();
        self.limits_changed();
        self.record_call(&returned[..], || Call::Recover);
        // Whatever was out of order is so no more: who replays goes on from here.
        self.record_state();
        returned
    }
}

//! Who comes back without having finished, and why.

use crate::batch::Request;
use crate::pool::PoolSlot;
use crate::router::{ReturnReason, Returned, Router};

impl Router {
    /// Before a step: what silence, expiry, draining workers and shrunken caches leave without a future.
    pub(super) fn send_back(&mut self) {
        if let Some(timeout_ms) = self.config.silence_timeout_ms {
            for place in 0..self.accounts.len() {
                while let Some(index) =
                    self.accounts[place].overdue_dispatch(&self.slab, timeout_ms, self.now_ms)
                {
                    self.give_back(index, ReturnReason::WorkerSilent);
                }
            }
        }
        if let Some(after_ms) = self.config.expire_after_ms {
            // The pool is in order of arrival and the clock does not run backwards: the first to expire is the first.
            self.leaving.clear();
            let late = |slot: PoolSlot| self.now_ms - self.since_ms[slot.index()] >= after_ms;
            let expired = self.pool.iter().take_while(|&(slot, ..)| late(slot));
            self.leaving.extend(expired.map(|(_, request, _)| (request.id, ReturnReason::Expired)));
            self.send_back_waiting();
        }
        if std::mem::take(&mut self.rescan) {
            let mut leaving = std::mem::take(&mut self.leaving);
            leaving.clear();
            leaving.extend(self.pool.iter().filter_map(|(_, request, _)| {
                Some((request.id, self.stranded(request, request.rank? as usize)?))
            }));
            self.leaving = leaving;
            self.send_back_waiting();
        }
        while self.bounded
            && let Some(limit_tokens) = self.longest_tokens()
            && let Some(id) = self.pool.longest().filter(|at| at.1 > limit_tokens).map(|at| at.0)
        {
            self.leaving.clear();
            self.leaving.push((id, ReturnReason::NeverFits));
            self.send_back_waiting();
        }
    }

    /// Why a request that may only go to this worker never will, if so.
    pub(super) fn stranded(&self, request: &Request, place: usize) -> Option<ReturnReason> {
        let account = &self.accounts[place];
        let needs = u64::from(request.prompt_tokens) + u64::from(self.config.headroom_steps);
        if account.draining {
            Some(ReturnReason::WorkerDraining)
        } else if account.own_capacity_tokens.is_some_and(|capacity| needs > capacity) {
            Some(ReturnReason::NeverFits)
        } else {
            None
        }
    }

    /// The longest request that some worker could take if it were empty; none where there is no such bound.
    pub(super) fn longest_tokens(&self) -> Option<u64> {
        let staying = self.accounts.iter().filter(|account| !account.draining);
        let mut most = None;
        for account in staying {
            let limit = account.own_capacity_tokens?.saturating_sub(u64::from(self.config.headroom_steps));
            most = most.max(Some(limit));
        }
        most
    }

    /// Moves everybody in `leaving` from the pool to `pending`.
    pub(super) fn send_back_waiting(&mut self) {
        for at in 0..self.leaving.len() {
            let (id, reason) = self.leaving[at];
            let Some(request) = self.leave_pool(id) else { continue };
            self.pending.push(Returned { id, worker: request.rank, reason, generated_tokens: 0 });
            self.counters.returned[reason as usize] += 1;
            self.forget(id);
        }
    }

    /// Moves a running request to `pending`.
    pub(super) fn give_back(&mut self, index: u32, reason: ReturnReason) {
        let id = self.slab.entries[index as usize].request.id;
        let Ok((active, generated_tokens)) = self.leave_worker(id) else { return };
        self.pending.push(Returned { id, worker: Some(active.worker), reason, generated_tokens });
        self.counters.returned[reason as usize] += 1;
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: u64) {
        if let Some(foresight) = &mut self.foresight {
            foresight.classifier.aborted(id);
        }
    }
}

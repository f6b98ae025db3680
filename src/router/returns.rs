//! Who comes back without having finished, and why.

use crate::account::Account;
use crate::batch::Request;
use crate::ids::{RequestId, WorkerIndex};
use crate::pool::Waiting;
use crate::router::trace;
use crate::router::{ReturnReason, Returned, Router};

impl Router {
    /// Finds who of the pool leaves with the step under way: expired, or waiting for what will never be. They
    /// are marked, and stay until the step is done.
    ///
    /// Whether somebody stays who leaves no headroom, or nothing to other front ends, even on an empty
    /// worker.
    pub(super) fn find_leaving(&mut self, now_ms: u64) -> bool {
        let mut tight = false;
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.clear();
        if let Some(after_ms) = self.config.expire_after_ms {
            self.pool.mark_expired((now_ms, after_ms), |id| leaving.push((id, ReturnReason::Expired)));
        }
        if self.rescan {
            for (place, account) in (0..).map(WorkerIndex::new).zip(&self.accounts) {
                if account.draining {
                    self.pool.mark_bound(place, |id| leaving.push((id, ReturnReason::WorkerDraining)));
                }
            }
            if self.bounded {
                let from = leaving.len();
                let (accounts, pool) = (&self.accounts, &mut self.pool);
                let of_rank =
                    |rank| most(accounts, rank, |account| account.ceiling_tokens).map(|tokens| tokens as i64);
                pool.mark_longer(
                    |rank| most(accounts, rank, Account::ordinary_tokens),
                    |id| leaving.push((id, ReturnReason::NeverFits)),
                );
                let never = |request: &Request| {
                    let needs =
                        i64::from(request.prompt_tokens) + i64::from(request.left_tokens().unwrap_or(0));
                    of_rank(request.rank).is_some_and(|tokens| needs > tokens)
                };
                if self.any_most {
                    pool.mark_if(never, |id| leaving.push((id, ReturnReason::NeverFits)));
                }
                let mut kept = from;
                for at in from..leaving.len() {
                    let (id, _) = leaving[at];
                    if pool.find(id).is_some_and(|(_, request, _)| !never(&request)) {
                        tight = true;
                        pool.unmark(std::iter::once(id));
                    } else {
                        leaving.swap(kept, at);
                        kept += 1;
                    }
                }
                leaving.truncate(kept);
            }
        }
        self.leaving = leaving;
        tight
    }

    /// Whether no worker that a request may use could ever hold it with what it may still generate.
    pub(super) fn outgrows(&self, request: &Request, left_tokens: u32) -> bool {
        let needs = u64::from(request.prompt_tokens) + u64::from(left_tokens);
        most(&self.accounts, request.rank, |account| account.ceiling_tokens)
            .is_some_and(|tokens| needs > tokens)
    }

    /// Nobody leaves after all.
    pub(super) fn keep_leaving(&mut self) {
        self.pool.unmark(self.leaving.iter().map(|&(id, _)| id));
        self.leaving.clear();
    }

    /// Finds the dispatches that nothing has shown for the silence timeout, and the workers as they are
    /// without them.
    pub(super) fn find_silent(&mut self, now_ms: u64) {
        self.silent.clear();
        self.changed = false;
        let Some(timeout_ms) = self.config.silence_timeout_ms else { return };
        for (place, account) in self.accounts.iter().enumerate() {
            let from = self.silent.len();
            self.silent.extend(account.overdue_dispatches(&self.slab, timeout_ms, now_ms));
            if self.silent.len() > from {
                if !std::mem::replace(&mut self.changed, true) {
                    self.later.clone_from(&self.workers);
                }
                let gone = self.silent[from..].iter().map(|&index| &self.slab.entries[index as usize]);
                account.without(gone).settle(&self.sight, place, &mut self.later[place]);
            }
        }
    }

    /// Whether a request that may only go to this worker never will, or only where nobody is on it.
    pub(super) fn is_stranded(&self, request: &Request, place: usize) -> bool {
        let account = &self.accounts[place];
        let tokens = i64::from(request.prompt_tokens);
        account.draining || account.ordinary_tokens().is_some_and(|ordinary| tokens > ordinary)
    }

    /// The longest request that some worker could take, if it were empty, beside the room that it leaves and
    /// what is left to other front ends; none where there is no such bound.
    pub(super) fn find_longest_tokens(&self) -> Option<u64> {
        most(&self.accounts, None, Account::ordinary_tokens).map(|tokens| tokens.max(0) as u64)
    }

    /// Everybody in `leaving` leaves the pool, to `pending`.
    pub(super) fn return_leaving(&mut self) {
        let mut reasons = self.leaving.iter();
        let ids = self.leaving.iter().map(|&(id, _)| id);
        self.pool.leave_all(ids, |Waiting { request: Request { id, prompt_tokens, rank, .. }, .. }| {
            // Those marked wait, so none of them was passed over.
            let Some(&(_, reason)) = reasons.next() else { return };
            let worker = rank.map(|place| {
                let (requests, tokens) = &mut self.queued[place.index()];
                *requests -= 1;
                *tokens -= u64::from(prompt_tokens);
                self.ids[place.index()]
            });
            let returned = Returned { id, worker, reason, generated_tokens: 0 };
            trace::returned(&returned);
            self.pending.push(returned);
            self.claim = self.claim.filter(|claim| claim.id != id);
            self.counters.returned[reason as usize] += 1;
            if let Some(forecast_state) = &mut self.forecast_state {
                forecast_state.aborted(id);
            }
        });
        self.leaving.clear();
    }

    /// Moves a running request to `pending`.
    pub(super) fn give_back(&mut self, index: u32, reason: ReturnReason) {
        let id = self.slab.entries[index as usize].request.id;
        let worker = Some(self.slab.entries[index as usize].worker);
        let Ok((_, generated_tokens)) = self.leave_worker(id, None) else { return };
        let returned = Returned { id, worker, reason, generated_tokens };
        trace::returned(&returned);
        self.pending.push(returned);
        self.counters.returned[reason as usize] += 1;
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.aborted(id);
        }
    }
}

/// The most KV tokens `of` a worker, or of the one of this rank, whether it takes requests now or not; none
/// where there is no such bound.
fn most<T: Ord + Copy>(
    accounts: &[Account],
    rank: Option<WorkerIndex>,
    of: impl Fn(&Account) -> Option<T>,
) -> Option<T> {
    match rank {
        Some(place) => of(&accounts[place.index()]),
        None => {
            let mut most = None;
            for account in accounts {
                most = most.max(Some(of(account)?));
            }
            most
        }
    }
}

//! What happens to workers: they report, join, drain and fail.

use crate::account::{Account, Stage};
use crate::batch::{BatchError, MAX_LOAD_TOKENS, MAX_WORKERS, Worker};
use crate::ids::{WorkerId, WorkerIndex};
use crate::router::clock::Clock;
use crate::router::trace::{self, refused};
use crate::router::{ReturnReason, Returned, Router, RouterError, Verdict, WorkerConfig, WorkerReport};

impl Router {
    /// Takes in what a worker measured; see [`Verdict`] for what becomes of it. What is lost by it is in the
    /// next plan.
    ///
    /// # Errors
    /// No such worker, figures past the limits of a batch, or a dispatch acknowledged that was never made;
    /// the report is ignored then.
    pub fn report(
        &mut self,
        worker: impl Into<WorkerId>,
        report: WorkerReport,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<Verdict, RouterError> {
        let clock = self.read(now_ms);
        let done = self.take_report(worker.into(), &report, clock);
        refused("report", done)
    }

    fn take_report(
        &mut self,
        worker: WorkerId,
        report: &WorkerReport,
        clock: Option<Clock>,
    ) -> Result<Verdict, RouterError> {
        let place = self.place_of(worker)?;
        for (what, found) in [
            ("KV tokens used", report.kv_used_tokens),
            ("KV capacity tokens", report.kv_capacity_tokens.unwrap_or(0)),
        ] {
            if found > MAX_LOAD_TOKENS {
                let limit = MAX_LOAD_TOKENS;
                return Err(BatchError::WorkerTokens { index: place, what, limit, found }.into());
            }
        }
        let sent = self.accounts[place].sent;
        if let Some(found) = report.last_dispatch.filter(|&number| number > sent) {
            return Err(RouterError::Dispatch { worker, sent, found });
        }
        if let Some(clock) = clock {
            self.tell(clock);
        }
        let now_ms = self.now_ms();
        let verdict = self.accounts[place].judge(report, now_ms);
        if verdict == Verdict::Restarted {
            self.return_forgotten(place, report);
        }
        let account = &mut self.accounts[place];
        account.take(&mut self.slab, report, verdict, now_ms);
        if let Verdict::Taken | Verdict::Restarted = verdict {
            let capacity = report.kv_capacity_tokens.or(account.whole_capacity_tokens);
            if capacity != account.whole_capacity_tokens {
                account.set_capacity(capacity, self.config.share);
                self.limits_changed();
            }
            self.find_lost(place, report.last_dispatch.is_some());
        }
        self.settle(place);
        Ok(verdict)
    }

    /// After a report was taken: dispatches that it should have seen, and requests that the worker has
    /// forgotten.
    pub(super) fn find_lost(&mut self, place: usize, acknowledges: bool) {
        let Some(timeout_ms) = self.config.dispatch_timeout_ms else { return };
        let next_overdue = |router: &Self| {
            router.accounts[place].overdue_dispatches(&router.slab, timeout_ms, router.now_ms()).next()
        };
        while acknowledges && let Some(index) = next_overdue(self) {
            self.give_back(index, ReturnReason::LostDispatch);
        }
        let old = |since_ms: u64| self.now_ms().saturating_sub(since_ms) >= timeout_ms;
        if !self.accounts[place].empty_since_ms.is_some_and(old) {
            return;
        }
        self.accounts[place].empty_since_ms = None;
        let worker = self.ids[place];
        for index in 0..self.slab.entries.len() {
            let active = &self.slab.entries[index];
            if active.live
                && active.worker == worker
                && active.stage != Stage::Sent
                && self.now_ms().saturating_sub(active.since_ms) >= timeout_ms
            {
                self.give_back(index as u32, ReturnReason::WorkerForgot);
            }
        }
    }

    /// What a worker had in the life before comes back.
    fn return_forgotten(&mut self, place: usize, report: &WorkerReport) {
        let (worker, now_ms) = (self.ids[place], self.now_ms());
        for index in 0..self.slab.entries.len() {
            let active = &self.slab.entries[index];
            if active.live
                && active.worker == worker
                && self.accounts[place].is_forgotten(active, report, now_ms)
            {
                self.give_back(index as u32, ReturnReason::WorkerForgot);
            }
        }
    }

    /// Lets a worker join, empty. Its id.
    ///
    /// # Errors
    /// A configuration out of its ranges, or too many workers.
    pub fn add_worker(&mut self, config: WorkerConfig) -> Result<WorkerId, RouterError> {
        let worker = refused("add_worker", self.let_join(&config))?;
        trace::worker(worker, "joins");
        Ok(worker)
    }

    fn let_join(&mut self, config: &WorkerConfig) -> Result<WorkerId, RouterError> {
        let found = self.workers.len() + 1;
        if found > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found }.into());
        }
        config.check(self.workers.len())?;
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.buckets.add_worker();
        }
        Ok(self.join(config))
    }

    pub(super) fn join(&mut self, config: &WorkerConfig) -> WorkerId {
        let id = WorkerId::new(self.next_id);
        self.next_id += 1;
        self.ids.push(id);
        self.workers.push(Worker::new(0, 0, config.slots).weight(config.weight));
        self.accounts.push(Account::new(id, config, self.config.share, self.now));
        self.queued.push((0, 0));
        self.settle(self.ids.len() - 1);
        self.limits_changed();
        self.drop_rows();
        id
    }

    /// Lets a worker take nobody new. What runs there runs on; requests that wait for it alone are returned
    /// by the next step.
    ///
    /// # Errors
    /// No such worker.
    pub fn drain_worker(&mut self, worker: impl Into<WorkerId>) -> Result<(), RouterError> {
        let worker = worker.into();
        let place = refused("drain_worker", self.place_of(worker))?;
        trace::worker(worker, "drains");
        self.workers[place].accepting = false;
        self.accounts[place].draining = true;
        self.limits_changed();
        Ok(())
    }

    /// Whether a draining worker holds none of our requests any more: it may be removed without a loss.
    ///
    /// # Errors
    /// No such worker.
    pub fn is_drained(&self, worker: impl Into<WorkerId>) -> Result<bool, RouterError> {
        let account = &self.accounts[refused("is_drained", self.place_of(worker.into()))?];
        Ok(account.draining && account.running() == 0)
    }

    /// Stops new requests to a worker for a while, or resumes them (also of a draining one). Requests that
    /// wait for it alone go on waiting.
    ///
    /// # Errors
    /// No such worker.
    pub fn set_accepting(&mut self, worker: impl Into<WorkerId>, accepting: bool) -> Result<(), RouterError> {
        let worker = worker.into();
        let place = refused("set_accepting", self.place_of(worker))?;
        trace::worker(worker, if accepting { "opens" } else { "closes" });
        self.workers[place].accepting = accepting;
        self.accounts[place].draining &= !accepting;
        self.limits_changed();
        Ok(())
    }

    /// Takes a worker out, at once: it failed, or it is drained. Appends to `returned` the requests that ran
    /// there and those that waited for it alone; they have left, and may be enqueued again.
    ///
    /// # Errors
    /// No such worker.
    pub fn remove_worker(
        &mut self,
        worker: impl Into<WorkerId>,
        returned: &mut Vec<Returned>,
    ) -> Result<(), RouterError> {
        let worker = worker.into();
        let place = refused("remove_worker", self.place_of(worker))?;
        trace::worker(worker, "leaves");
        let reason = ReturnReason::WorkerRemoved;
        // `pending` is the way out of every request; what was there before stays there.
        let from = self.pending.len();
        for index in 0..self.slab.entries.len() {
            if self.slab.entries[index].live && self.slab.entries[index].worker == worker {
                self.give_back(index as u32, reason);
            }
        }
        let (pool, leaving) = (&mut self.pool, &mut self.leaving);
        leaving.clear();
        pool.mark_bound(WorkerIndex::at(place), |id| leaving.push((id, reason)));
        self.return_leaving();
        returned.extend(self.pending.drain(from..));

        self.ids.remove(place);
        self.workers.remove(place);
        self.accounts.remove(place);
        self.queued.remove(place);
        self.pool.drop_rank(WorkerIndex::at(place));
        self.limits_changed();
        self.drop_rows();
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.buckets.remove_worker(place);
        }
        for place in 0..self.accounts.len() {
            self.settle(place);
        }
        Ok(())
    }
}

//! What happens to workers: they report, join, drain and fail.

use crate::account::{Account, Share, Sight, Stage};
use crate::batch::{BatchError, MAX_LOAD_TOKENS, MAX_WORKERS, Worker};
use crate::ids::{WorkerId, WorkerIndex};
use crate::router::clock::Clock;
use crate::router::config::check_share;
use crate::router::trace::{self, refused};
use crate::router::{Call, ReturnReason, Returned, Router, RouterError, Verdict, WorkerConfig, WorkerReport};

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
        let (worker, now_ms) = (worker.into(), now_ms.into());
        let clock = self.read(now_ms);
        let done = self.take_report(worker, &report, clock);
        self.recorded("report", done, || Call::Report { worker, report, now_ms })
    }

    fn take_report(
        &mut self,
        worker: WorkerId,
        report: &WorkerReport,
        clock: Option<Clock>,
    ) -> Result<Verdict, RouterError> {
        let place = self.place_of(worker)?;
        let (used, capacity) = (report.kv_used_tokens.unwrap_or(0), report.kv_capacity_tokens.unwrap_or(0));
        if used.max(capacity) > MAX_LOAD_TOKENS {
            let limit = MAX_LOAD_TOKENS;
            let (what, found) =
                if used > limit { ("KV tokens used", used) } else { ("KV capacity tokens", capacity) };
            return Err(BatchError::WorkerTokens { index: place, what, limit, found }.into());
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
            self.accounts[place].forget_changes();
        }
        let mean_tokens = if report.kv_used_tokens.is_none() { self.mean_tokens() } else { 0 };
        let account = &mut self.accounts[place];
        account.take(&mut self.slab, report, verdict, now_ms, mean_tokens);
        if let Verdict::Taken | Verdict::Restarted = verdict {
            let capacity = report.kv_capacity_tokens.or(account.capacity_tokens);
            if capacity != account.capacity_tokens {
                account.set_capacity(capacity);
                self.limits_changed();
            }
            self.find_lost(place, report.last_dispatch.is_some());
        }
        self.settle(place);
        Ok(verdict)
    }

    /// How long our requests are in the mean.
    fn mean_tokens(&self) -> u64 {
        let sum = |of: fn(&Account) -> u64| self.accounts.iter().map(of).sum::<u64>();
        sum(Account::own_tokens) / sum(|account| account.running().into()).max(1)
    }

    /// After a report was taken: dispatches that it should have seen, and requests that the worker has
    /// forgotten.
    pub(super) fn find_lost(&mut self, place: usize, acknowledges: bool) {
        let account = &self.accounts[place];
        let Some(timeout_ms) = self.config.dispatch_timeout_ms else { return };
        if account.unseen() == 0 && account.empty_since_ms.is_none() {
            return;
        }
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
        let done = self.let_join(&config);
        let worker = self.recorded("add_worker", done, || Call::AddWorker { config })?;
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
        self.accounts.push(Account::new(id, config, self.rules(), self.now));
        self.queued.push((0, 0));
        self.settle_all();
        self.limits_changed();
        self.drop_rows();
        id
    }

    /// [`Router::add_worker`] for one that is yet to come: it takes nobody until [`Router::set_accepting`]
    /// says that it is there, and until then requests wait that only it could hold.
    ///
    /// # Errors
    /// As [`Router::add_worker`].
    pub fn announce_worker(&mut self, config: WorkerConfig) -> Result<WorkerId, RouterError> {
        let done = self.let_join(&config);
        if done.is_ok()
            && let Some(worker) = self.workers.last_mut()
        {
            worker.accepting = false;
        }
        let worker = self.recorded("announce_worker", done, || Call::AnnounceWorker { config })?;
        trace::worker(worker, "is announced");
        Ok(worker)
    }

    /// A worker has other slots, another KV capacity or another weight from now on. What runs there runs on,
    /// also where it is more than fits now.
    ///
    /// # Errors
    /// No such worker, or a configuration out of its ranges.
    pub fn configure_worker(
        &mut self,
        worker: impl Into<WorkerId>,
        config: WorkerConfig,
    ) -> Result<(), RouterError> {
        let worker = worker.into();
        let done = self.change_worker(worker, &config);
        self.recorded("configure_worker", done, || Call::ConfigureWorker { worker, config })
    }

    fn change_worker(&mut self, worker: WorkerId, config: &WorkerConfig) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        config.check(place)?;
        trace::worker(worker, "changes");
        self.workers[place].weight = config.weight;
        self.accounts[place].set_slots(config.slots);
        self.accounts[place].set_capacity(config.kv_capacity_tokens);
        self.settle(place);
        self.limits_changed();
        Ok(())
    }

    /// This router is another part of the front ends from now on: some have come or gone, or are decided for
    /// here.
    ///
    /// # Errors
    /// A share that is none.
    pub fn set_share(&mut self, share: Share) -> Result<(), RouterError> {
        let done = self.change_share(share);
        self.recorded("set_share", done, || Call::SetShare { share })
    }

    fn change_share(&mut self, share: Share) -> Result<(), RouterError> {
        check_share(share)?;
        self.config.share = share;
        let rules = self.rules();
        self.accounts.iter_mut().for_each(|account| account.set_rules(rules));
        self.sight = Sight::new(share, self.clock.told_ms(), self.accounts.len(), self.sight.tight);
        self.settle_all();
        self.limits_changed();
        Ok(())
    }

    /// A worker as it is configured now.
    ///
    /// # Errors
    /// No such worker.
    pub fn worker_config(&self, worker: impl Into<WorkerId>) -> Result<WorkerConfig, RouterError> {
        let place = refused("worker_config", self.place_of(worker.into()))?;
        let account = &self.accounts[place];
        let config = WorkerConfig::new(account.whole_slots).capacity(account.capacity_tokens);
        Ok(config.weight(self.workers[place].weight))
    }

    /// Lets a worker take nobody new. What runs there runs on; requests that wait for it alone are returned
    /// by the next step.
    ///
    /// # Errors
    /// No such worker.
    pub fn drain_worker(&mut self, worker: impl Into<WorkerId>) -> Result<(), RouterError> {
        let worker = worker.into();
        let done = self.place_of(worker).map(|place| {
            trace::worker(worker, "drains");
            self.workers[place].accepting = false;
            self.accounts[place].draining = true;
            self.limits_changed();
        });
        self.recorded("drain_worker", done, || Call::DrainWorker { worker })
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
        let done = self.place_of(worker).map(|place| {
            trace::worker(worker, if accepting { "opens" } else { "closes" });
            self.workers[place].accepting = accepting;
            self.accounts[place].draining &= !accepting;
            self.limits_changed();
        });
        self.recorded("set_accepting", done, || Call::SetAccepting { worker, accepting })
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
        let (worker, from) = (worker.into(), returned.len());
        let done = self.take_out(worker, returned).map(|()| &returned[from..]);
        self.recorded("remove_worker", done, || Call::RemoveWorker { worker }).map(|_| ())
    }

    fn take_out(&mut self, worker: WorkerId, returned: &mut Vec<Returned>) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
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
        self.settle_all();
        Ok(())
    }
}

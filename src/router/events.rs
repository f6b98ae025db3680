//! What happens to requests: they arrive, grow, end.

use crate::account::{Account, Active, NONE, Outlook, Stage};
use crate::batch::{Batch, BatchError, MAX_PROMPT_TOKENS, Request};
use crate::forecast::Running;
use crate::ids::{RequestId, WorkerId, WorkerIndex};
use crate::pool::Candidates;
use crate::router::clock::Clock;
use crate::router::error::unless_panicked;
use crate::router::stages::Before;
use crate::router::{Call, Dispatch, Finished, Rank, Router, RouterError};

/// What is learned is summed up once in so many steps.
const SUM_STEPS: i64 = 16;
/// So many first ends are learned from at once, later ones with the next look.
const SUM_EACH: u64 = 64;

impl Router {
    /// Lets a request wait for a step; a policy that binds on arrival binds it now, unless it names its rank
    /// itself. The router sets [`Request::pair_row`] itself, see [`crate::PairTerms`]; it has no survival
    /// classes, so [`Request::survival_class`] says nothing.
    ///
    /// `now_ms` is the clock's reading as it arrived; without one (`None`) its wait begins when the clock is
    /// next read.
    ///
    /// # Errors
    /// A request that is invalid, whose id waits or runs already, or whose rank is no worker; a policy that
    /// panics.
    pub fn enqueue(
        &mut self,
        request: Request<WorkerId>,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<(), RouterError> {
        let now_ms = now_ms.into();
        let clock = self.read(now_ms);
        let done = self.let_in(request, clock);
        self.recorded("enqueue", done, || Call::Enqueue { request, now_ms })
    }

    fn let_in(&mut self, request: Request<WorkerId>, clock: Option<Clock>) -> Result<(), RouterError> {
        let mut request = self.admissible(request)?;
        self.pool.check(&request)?;
        self.bind(&mut request)?;
        let arrival = self.preempted.place_of(request.id, request.prompt_tokens);
        if let Some(clock) = clock {
            self.tell(clock);
        }
        self.arrived(request.prompt_tokens);
        self.wait(request, clock.map(|clock| clock.now_ms()), arrival);
        Ok(())
    }

    pub(super) fn arrived(&mut self, prompt_tokens: u32) {
        self.meter.arrived(prompt_tokens);
        self.counters.arrived += 1;
    }

    /// The request as the pool wants it: its rank as an index, and no rows of a caller's, which no batch of
    /// the router's has.
    pub(super) fn admissible(&self, request: Request<WorkerId>) -> Result<Request, RouterError> {
        if let Some(index) = self.slab.index_of(request.id) {
            let worker = self.slab.entries[index as usize].worker;
            return Err(RouterError::Running { id: request.id, worker });
        }
        let rank = request.rank.map(|worker| self.place_of(worker)).transpose()?;
        let mut request = Request { pair_row: None, survival_class: None, ..request };
        if let Some(before) = self.preempted.of(request.id, request.prompt_tokens) {
            if request.generated_tokens == 0 {
                request.generated_tokens = before.generated_tokens;
            }
            request = request.known(before.passed, before.priority);
        }
        let limit = request.prompt_tokens.saturating_add(request.cached_tokens);
        let (id, found) = (request.id, request.generated_tokens);
        if found > limit {
            return Err(RouterError::Generated { id, limit, found });
        }
        Ok(request.ranked(rank.map(WorkerIndex::at)))
    }

    /// A request that was checked, and bound where the policy binds, waits; without a date, from the clock's
    /// next reading on. One that was here before comes back to its place in the order of arrival.
    pub(super) fn wait(&mut self, request: Request, since_ms: Option<u64>, arrival: Option<u64>) {
        match arrival {
            Some(arrival) => self.pool.enter_again(request, since_ms, arrival),
            None => self.pool.enter(request, since_ms),
        }
        let tokens = u64::from(request.prompt_tokens);
        if let Some(left_tokens) = request.left_tokens() {
            self.any_most = true;
            self.rescan |= self.outgrows(&request, left_tokens);
        }
        match request.rank {
            None => self.rescan |= self.longest_tokens.is_some_and(|longest| tokens > longest),
            Some(rank) => {
                let (requests, queued_tokens) = &mut self.queued[rank.index()];
                *requests += 1;
                *queued_tokens += tokens;
                self.rescan |= self.is_stranded(&request, rank.index());
            }
        }
    }

    /// Has a policy that binds on arrival choose the rank of a request that has none, among those that its
    /// row of an arrival allows.
    pub(super) fn bind(&mut self, request: &mut Request) -> Result<(), RouterError> {
        if request.rank.is_some() || !self.policy.needs().binds_on_arrival {
            return Ok(());
        }
        self.ranks.clear();
        self.ranks.extend(self.workers.iter().zip(&self.queued).map(
            |(&worker, &(queued_requests, queued_tokens))| Rank { worker, queued_requests, queued_tokens },
        ));
        if request.pair_row.is_some() {
            let batch =
                Batch::draft(&self.workers, &self.nobody).pairs(self.arrival_rows.pairs()).unchecked();
            for (place, rank) in self.ranks.iter_mut().enumerate() {
                rank.worker.accepting &= batch.eligible(request, place);
            }
        }
        let (policy, ranks) = (&mut self.policy, &self.ranks);
        let rank = unless_panicked(policy.name(), || policy.bind(request, ranks))?;
        request.rank = rank.filter(|rank| rank.index() < self.workers.len());
        Ok(())
    }

    /// Takes over a request that already runs on a worker (a restart, a warm start, an engine that resumes
    /// what it had preempted): `prompt_tokens` are those without what it has generated. It has no dispatch
    /// number and counts as seen. What an engine says it runs is so: also past the worker's slots and
    /// capacity ([`Counters::adopted_beyond`](crate::router::Counters)); a request that waits here waits no
    /// more, and one that we believed to run runs there from now on.
    ///
    /// # Errors
    /// An invalid length, or an unknown worker.
    pub fn adopt(
        &mut self,
        request: Request<WorkerId>,
        worker: impl Into<WorkerId>,
        generated_tokens: u32,
    ) -> Result<(), RouterError> {
        let worker = worker.into();
        let done = self.take_over(request, worker, generated_tokens);
        self.recorded("adopt", done, || Call::Adopt { request, worker, generated_tokens })
    }

    fn take_over(
        &mut self,
        request: Request<WorkerId>,
        worker: WorkerId,
        generated_tokens: u32,
    ) -> Result<(), RouterError> {
        let Request { id, prompt_tokens: found, .. } = request;
        if found == 0 || found > MAX_PROMPT_TOKENS {
            return Err(BatchError::PromptTokens { index: None, id, limit: MAX_PROMPT_TOKENS, found }.into());
        }
        let place = self.place_of(worker)?;
        // A request that may only run elsewhere runs here all the same, and is bound no more.
        let rank = request.rank.filter(|&rank| rank == worker);
        let request =
            Request { generated_tokens, pair_row: None, survival_class: None, ..request.ranked(rank) };
        let (at, tokens) = (&self.workers[place], i64::from(found) + i64::from(generated_tokens));
        let beyond = at.free_slots == 0 || at.room_tokens() < tokens;
        let mut known = None;
        if self.slab.index_of(id).is_some() {
            // Nobody is to be told: it goes on.
            let (index, _) = self.leave_worker(id, None)?;
            let active = &self.slab.entries[index];
            known = Some((active.arrival, active.request.passed, active.request.priority));
        } else {
            self.counters.adopted_beyond += u64::from(beyond);
            match self.pool.leave(id) {
                // Nobody is to be given it back.
                Some(waiting) => {
                    let _ = self.left_queue(waiting.request);
                    let Request { passed, priority, .. } = waiting.request;
                    self.count_passes(std::iter::once((priority, waiting.arrival, WorkerIndex::at(place))));
                    known = Some((waiting.arrival, passed, priority));
                }
                None => self.arrived(found),
            }
        }
        let before = self.preempted.forget(id).map(|before| (before.arrival, before.passed, before.priority));
        let (arrival, passed, priority) =
            known.or(before).unwrap_or_else(|| (self.pool.next_arrival(), 0, request.priority));
        let request = request.known(passed, priority);
        self.begin(request, place, (found, arrival), false);
        Ok(())
    }

    /// A running request ended: it leaves, and its output length is learned.
    ///
    /// # Errors
    /// The request does not run.
    pub fn finish(
        &mut self,
        id: impl Into<RequestId>,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<Finished, RouterError> {
        let (id, now_ms) = (id.into(), now_ms.into());
        let clock = self.read(now_ms);
        let done = self.end(id, clock);
        self.recorded("finish", done, || Call::Finish { id, now_ms })
    }

    /// [`Router::finish`] of the life that this dispatch began: the end of an older one, which came late,
    /// ends nothing.
    ///
    /// # Errors
    /// As [`Router::finish`], and [`RouterError::OtherDispatch`] where the request waits or runs anew.
    pub fn finish_dispatch(
        &mut self,
        dispatch: &Dispatch,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<Finished, RouterError> {
        let (&Dispatch { id, worker, number, .. }, now_ms) = (dispatch, now_ms.into());
        let clock = self.read(now_ms);
        let done = self.check_life(dispatch).and_then(|()| self.end(id, clock));
        self.recorded("finish_dispatch", done, || Call::FinishDispatch { id, worker, number, now_ms })
    }

    /// [`Router::abort`] of the life that this dispatch began.
    ///
    /// # Errors
    /// As [`Router::finish_dispatch`].
    pub fn abort_dispatch(
        &mut self,
        dispatch: &Dispatch,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<Option<WorkerId>, RouterError> {
        let (&Dispatch { id, worker, number, .. }, now_ms) = (dispatch, now_ms.into());
        let clock = self.read(now_ms);
        let done = self.check_life(dispatch).and_then(|()| self.give_up(id, clock));
        self.recorded("abort_dispatch", done, || Call::AbortDispatch { id, worker, number, now_ms })
    }

    fn check_life(&self, dispatch: &Dispatch) -> Result<(), RouterError> {
        let &Dispatch { id, worker, number, .. } = dispatch;
        let Some(index) = self.slab.index_of(id) else {
            return match self.pool.contains(id) {
                true => Err(RouterError::OtherDispatch { id, worker, number }),
                false => Err(RouterError::Unknown { id }),
            };
        };
        let active = &self.slab.entries[index as usize];
        match (active.worker, active.number) == (worker, number) {
            true => Ok(()),
            false => Err(RouterError::OtherDispatch { id, worker, number }),
        }
    }

    fn end(&mut self, id: RequestId, clock: Option<Clock>) -> Result<Finished, RouterError> {
        let (index, generated_tokens) = self.leave_worker(id, clock.as_ref())?;
        if let Some(clock) = clock {
            self.tell(clock);
        }
        let active = &self.slab.entries[index];
        self.counters.finished += 1;
        self.meter.outputs.lived(active.seen_tokens, generated_tokens);
        self.meter.outputs.ended(generated_tokens);
        if self.meter.outputs.known() <= SUM_EACH {
            self.meter.outputs.sum();
        }
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.finished(&Running {
                id,
                prompt_tokens: active.request.prompt_tokens,
                prompt_hash: active.request.prompt_hash,
                generated_tokens,
            });
        }
        Ok(Finished { id, worker: active.worker, generated_tokens })
    }

    /// A waiting or running request was given up: it leaves, and what it has generated is no length of an
    /// output; it only teaches that it lived so long. The worker that it ran on, if any.
    ///
    /// # Errors
    /// The request neither waits nor runs.
    pub fn abort(
        &mut self,
        id: impl Into<RequestId>,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<Option<WorkerId>, RouterError> {
        let (id, now_ms) = (id.into(), now_ms.into());
        let clock = self.read(now_ms);
        let done = self.give_up(id, clock);
        self.recorded("abort", done, || Call::Abort { id, now_ms })
    }

    fn give_up(&mut self, id: RequestId, clock: Option<Clock>) -> Result<Option<WorkerId>, RouterError> {
        let worker = match self.pool.leave(id) {
            Some(waiting) => {
                // Nobody is to be given it back.
                let _ = self.left_queue(waiting.request);
                None
            }
            None => {
                let (index, generated_tokens) = self.leave_worker(id, clock.as_ref())?;
                let active = &self.slab.entries[index];
                self.meter.outputs.lived(active.seen_tokens, generated_tokens);
                Some(active.worker)
            }
        };
        if let Some(clock) = clock {
            self.tell(clock);
        }
        self.counters.aborted += 1;
        self.forget(id);
        Ok(worker)
    }

    /// The engine took a running request's KV cache away: it leaves its worker, and comes back as a request
    /// of the length that it has reached, for the caller to enqueue again: one that comes again under its id
    /// with this length goes on, also where it does not say what it had generated, and stands where it stood
    /// before in the order of arrival, in its class of before unless it names another. It teaches that it
    /// lived so long, and no end. Where the engine itself goes on with it later, that is
    /// [`Router::preempted`].
    ///
    /// # Errors
    /// The request does not run.
    #[must_use = "the request has left: enqueue it again"]
    pub fn preempt(&mut self, id: impl Into<RequestId>) -> Result<Request<WorkerId>, RouterError> {
        let id = id.into();
        let done = self.put_off(id);
        self.recorded("preempt", done, || Call::Preempt { id })
    }

    fn put_off(&mut self, id: RequestId) -> Result<Request<WorkerId>, RouterError> {
        let (index, generated) = self.leave_worker(id, None)?;
        let active = self.slab.entries[index];
        self.counters.preempted += 1;
        self.meter.outputs.lived(active.seen_tokens, generated);
        // Longer than any may be: the longest, so that it can be enqueued.
        let prompt_tokens = active.request.prompt_tokens.saturating_add(generated).min(MAX_PROMPT_TOKENS);
        let generated_tokens = generated.min(prompt_tokens);
        let before = Before {
            prompt_tokens,
            generated_tokens,
            arrival: active.arrival,
            passed: active.request.passed,
            priority: active.request.priority,
        };
        self.preempted.remember(active.request.id, before);
        Ok(Request { prompt_tokens, generated_tokens, waited_steps: 0, pair_row: None, ..active.request })
    }

    /// Tells the classifier the true output length of a request: only an oracle listens.
    pub fn tell_length(&mut self, id: impl Into<RequestId>, output_tokens: u32) {
        let id = id.into();
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.told(id, output_tokens);
        }
        self.record_call(&(), || Call::TellLength { id, output_tokens });
    }

    // Progress.

    /// One lock-step decode step has run: every running request has a token more and everybody who waits has
    /// waited a step.
    pub fn advance(&mut self) {
        for account in &mut self.accounts {
            account.grown_tokens += 1;
        }
        self.settle_all();
        self.tick(1);
        self.lived.steps += 1;
        self.learn_since(self.lived.steps - 1);
        self.record_call(&(), || Call::Advance);
    }

    /// Every running request of a worker has `tokens` more. A worker on which nothing of ours runs does not
    /// move the step clock.
    ///
    /// # Errors
    /// No such worker, or more than 2^22 tokens at once.
    pub fn progress(&mut self, worker: impl Into<WorkerId>, tokens: u32) -> Result<(), RouterError> {
        let worker = worker.into();
        let done = self.grow_worker(worker, tokens);
        self.recorded("progress", done, || Call::Progress { worker, tokens })
    }

    fn grow_worker(&mut self, worker: WorkerId, tokens: u32) -> Result<(), RouterError> {
        let place = self.place_of(worker)?;
        self.check_progress(worker, tokens)?;
        let account = &mut self.accounts[place];
        let growing = account.growing();
        if growing == 0 {
            return Ok(());
        }
        account.grown_tokens += i64::from(tokens);
        self.lived.tokens += u64::from(growing) * u64::from(tokens);
        account.empty_since_ms = None;
        let ahead = account.grown_tokens - self.now;
        self.settle_growth(place);
        self.tick(ahead);
        self.keep_up();
        Ok(())
    }

    /// One running request has `tokens` more, which also shows that its worker has it.
    ///
    /// # Errors
    /// The request does not run, or more than 2^22 tokens at once.
    pub fn progress_request(&mut self, id: impl Into<RequestId>, tokens: u32) -> Result<(), RouterError> {
        let id = id.into();
        let done = self.grow_request(id, tokens);
        self.recorded("progress_request", done, || Call::ProgressRequest { id, tokens })
    }

    fn grow_request(&mut self, id: RequestId, tokens: u32) -> Result<(), RouterError> {
        let index = self.index_of_running(id)?;
        let Active { worker, stage, .. } = self.slab.entries[index as usize];
        self.check_progress(worker, tokens)?;
        let place = self.place_of(worker)?;
        let ahead = self.grow(index, place, tokens);
        if stage == Stage::Decoding {
            self.settle_growth(place);
        } else {
            self.settle(place);
        }
        self.tick(ahead);
        self.keep_up();
        Ok(())
    }

    /// [`Router::progress_request`] for many, at a fraction of its cost. Those that do not run are passed
    /// over: engines bring tokens of requests that were given up here. How many have grown.
    ///
    /// # Errors
    /// More than 2^22 tokens at once, of whomever; nobody has grown then.
    pub fn progress_requests(&mut self, grown: &[(RequestId, u32)]) -> Result<usize, RouterError> {
        let done = self.grow_requests(grown);
        self.recorded("progress_requests", done, || Call::ProgressRequests { grown: grown.into() })
    }

    fn grow_requests(&mut self, grown: &[(RequestId, u32)]) -> Result<usize, RouterError> {
        if let Some(&(id, tokens)) = grown.iter().find(|&&(_, tokens)| tokens > MAX_PROMPT_TOKENS) {
            let worker = self.running_on(id).unwrap_or_default();
            self.check_progress(worker, tokens)?;
        }
        let (mut count, mut most_ahead, mut before, mut unsettled) = (0, 0, NONE, None);
        for &(id, tokens) in grown {
            let likely = self.slab.entries.get(before as usize).map_or(NONE, |active| active.follower);
            let Some(index) = self.slab.index_near(id, likely) else { continue };
            if index != likely && before != NONE {
                self.slab.entries[before as usize].follower = index;
            }
            before = index;
            let place = self.place_of(self.slab.entries[index as usize].worker)?;
            most_ahead = most_ahead.max(self.grow(index, place, tokens));
            count += 1;
            if unsettled != Some(place)
                && let Some(before) = unsettled.replace(place)
            {
                self.settle(before);
            }
        }
        if let Some(place) = unsettled {
            self.settle(place);
        }
        self.tick(most_ahead);
        self.keep_up();
        Ok(count)
    }

    /// One request of a worker grows: by how much it is ahead of the step clock.
    #[inline]
    fn grow(&mut self, index: u32, place: usize, tokens: u32) -> i64 {
        let stage = self.slab.entries[index as usize].stage;
        let now_ms = self.clock.now_ms();
        if !stage.grows() {
            if tokens == 0 {
                return 0;
            }
            self.come_along(place);
        }
        self.accounts[place].grow(&mut self.slab, index, tokens, now_ms);
        self.lived.tokens += u64::from(tokens);
        if !stage.grows() {
            self.grows_again(index, place);
        }
        let active = &self.slab.entries[index as usize];
        let generated = self.accounts[place].generated_tokens(active);
        active.born_step + i64::from(generated) - self.now
    }

    fn check_progress(&self, worker: WorkerId, found: u32) -> Result<(), RouterError> {
        let limit = MAX_PROMPT_TOKENS;
        if found > limit { Err(RouterError::Progress { worker, limit, found }) } else { Ok(()) }
    }

    /// What those who run teach about the lengths of outputs: of each worker when its turn comes, so that no
    /// step is long.
    fn look_at_lives(&mut self, before: i64) {
        let exponent = self.meter.outputs.look_exponent();
        for account in &mut self.accounts {
            if account.has_turn(exponent, before, self.lived.steps) {
                account.look_at_lives(&mut self.slab, &mut self.meter.outputs);
            }
        }
        if self.lived.steps.div_euclid(SUM_STEPS) > before.div_euclid(SUM_STEPS) {
            let ages: u64 = self.accounts.iter().map(Account::age_tokens).sum();
            self.meter.outputs.set_mean_age(ages as f64 / self.slab.len().max(1) as f64);
            self.meter.outputs.sum();
        }
    }

    /// Makes room for those who run, where their number or their ages are others.
    fn make_room(&mut self, before: i64) {
        let outlook = Outlook {
            lives: &self.meter.outputs,
            mean_prompt_tokens: self.meter.mean_prompt_tokens(),
            cost: self.config.preemption_cost,
            workers: self.accounts.len(),
        };
        let knows = self.forecast_state.as_ref().filter(|of| of.needs.ends_per_worker.is_some());
        let ends_in = |index| knows?.buckets.ends_in(index);
        self.sight.workers = self.accounts.len();
        let waiting = self.pool.windows().map(Candidates::longest_tokens).max().unwrap_or(0);
        let longest_tokens = u64::from(waiting.max(self.meter.longest_tokens()));
        for (place, account) in self.accounts.iter_mut().enumerate() {
            if account.wants_room(before, self.lived.steps, longest_tokens)
                && account.make_room(&self.slab, &outlook, ends_in, &mut self.lives)
            {
                account.settle(&self.sight, place, &mut self.workers[place]);
            }
        }
    }

    /// Moves the step clock on; not at all by nothing or less.
    #[inline]
    pub(super) fn tick(&mut self, steps: i64) {
        if steps > 0 {
            self.move_clock(steps);
        }
    }

    #[inline(never)]
    fn move_clock(&mut self, steps: i64) {
        self.now += steps;
        self.pool.advance(steps.min(i64::from(u32::MAX)) as u32);
        if let Some(forecast_state) = &mut self.forecast_state {
            forecast_state.advance(steps as u64, self.slab.len());
        }
    }

    /// Learns from those who run, and makes room for them, as far as they have lived since that was done.
    #[inline]
    fn keep_up(&mut self) {
        if let Some(before) = self.lived.advance(self.slab.len()) {
            self.learn_since(before);
        }
    }

    #[inline(never)]
    fn learn_since(&mut self, before: i64) {
        self.look_at_lives(before);
        if self.bounded && self.config.headroom_steps.is_none() {
            self.make_room(before);
        }
    }
}

//! On arrival: one request, at once.

use std::time::Instant;

use crate::batch::{Batch, Request, Worker};
use crate::ids::{WorkerId, WorkerIndex};
use crate::policy::arrival::{Routed, route_scored};
use crate::pool::Pool;
use crate::router::clock::Clock;
use crate::router::error::unless_panicked;
use crate::router::explain::margin_tokens;
use crate::router::{
    Call, Decided, Dispatch, Explanation, Mode, PairTerms, Placement, Router, RouterError, RunnerUp,
};

impl Router {
    /// A request arrives: where the [`Mode`] decides on arrival and a worker has a free slot and room for it,
    /// it enters the one with the greatest F-score at once (ties to the least load, then the lowest index);
    /// otherwise it waits for a step. Under a policy that binds on arrival the policy chooses the worker
    /// instead. A request with a rank enters that worker or waits for it.
    ///
    /// # Errors
    /// As [`Router::enqueue`].
    pub fn place(&mut self, request: Request<WorkerId>, now_ms: u64) -> Result<Placement, RouterError> {
        let done = self.place_on_arrival(request, now_ms, None);
        self.recorded("place", done, || Call::Place { request, now_ms, terms: None })
    }

    /// [`Router::place`] with a bonus on each worker. The terms are asked again by a step if the request
    /// waits.
    ///
    /// # Errors
    /// As [`Router::place`], and a bonus past its limits.
    pub fn place_with(
        &mut self,
        request: Request<WorkerId>,
        now_ms: u64,
        terms: &mut dyn PairTerms,
    ) -> Result<Placement, RouterError> {
        let mut listener = self.listen(Some(terms));
        let done = self.place_on_arrival(request, now_ms, listener.terms());
        let terms = listener.heard;
        self.recorded("place_with", done, || Call::Place { request, now_ms, terms })
    }

    fn place_on_arrival(
        &mut self,
        request: Request<WorkerId>,
        now_ms: u64,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<Placement, RouterError> {
        let (clock, start) = (self.clock.read(now_ms), Instant::now());
        let before = self.look(clock.told_ms(), self.sight.tight);
        let routed = self.route_arrival(request, terms);
        if routed.is_err() {
            self.look_from(before);
        }
        let (request, routed) = routed?;
        let arrival = self.preempted.place_of(request.id, request.prompt_tokens);
        self.tell(clock);
        self.arrived(request.prompt_tokens);
        let Some(Routed { worker: place, score_tokens, runner_up }) = routed else {
            self.wait(request, Some(self.now_ms()), arrival);
            return Ok(Placement::Waits);
        };
        let (ids, workers) = (&self.ids, &self.workers);
        self.explainer.placed(|| Explanation {
            id: request.id,
            decided: Decided::Arrival,
            worker: Some(ids[place]),
            score_tokens,
            opening_score_tokens: score_tokens,
            runner_up: runner_up.map(|(g, score_tokens)| RunnerUp { worker: ids[g], score_tokens }),
            margin_tokens: margin_tokens(workers, place),
            kv_growth_tokens: workers[place].kv_growth_tokens,
            waited_steps: 0,
            passed: request.passed,
            priority: request.priority,
        });
        let request = request.ranked(request.rank.map(|_| self.ids[place]));
        let dispatch = self.enter_past(request, place, arrival);
        self.counters.placed_on_arrival += 1;
        self.counters.admitted_beside_claims += u64::from(self.claimed().is_some());
        self.counters.waited(0, &request);
        self.counters.decide_ns.record(start.elapsed().as_nanos() as u64);
        Ok(Placement::Placed(Dispatch { score_tokens, ..dispatch }))
    }

    /// The request as it is let in, and where it goes at once.
    fn route_arrival(
        &mut self,
        request: Request<WorkerId>,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<(Request, Option<Routed>), RouterError> {
        let mut request = self.admissible(request)?;
        self.pool.check(&request)?;
        let slots_of = |worker: &Worker| u64::from(worker.open_slots());
        let shut = self.claimed_from(request.priority);
        let claimed_slots = shut.map_or(0, |place| slots_of(&self.workers[place]));
        let open_slots = self.workers.iter().map(slots_of).sum::<u64>() - claimed_slots;
        let at_once = match self.config.mode {
            Mode::Step => false,
            Mode::Arrival => open_slots > 0,
            Mode::Mixed { free_slots } => open_slots > u64::from(free_slots),
        };
        let routed = if at_once {
            self.arrival_row(&mut request, terms)?;
            self.bind(&mut request)?;
            self.route(&request)
        } else {
            self.bind(&mut request)?;
            None
        };
        request.pair_row = None;
        Ok((request, routed.filter(|routed| !self.is_kept_from(routed.worker, request.priority))))
    }

    /// A request that does not wait enters a worker, past those of its class who do.
    fn enter_past(&mut self, request: Request<WorkerId>, place: usize, arrival: Option<u64>) -> Dispatch {
        let arrival = arrival.unwrap_or_else(|| self.pool.next_arrival());
        self.count_passes(std::iter::once((request.priority, arrival, WorkerIndex::at(place))));
        self.dispatch(request, place, arrival)
    }

    /// A request enters a worker whether or not that has room: an engine queues whatever it is sent. Without
    /// a `worker` it is its rank, if it has one, or else the one with room for it, or with the shortest queue
    /// for those that it serves, and of such ones the least loaded. One that waits here waits no more.
    ///
    /// # Errors
    /// As [`Router::enqueue`], but that it may wait here; an unknown worker, or none at all.
    pub fn send(
        &mut self,
        request: Request<WorkerId>,
        worker: Option<WorkerId>,
        now_ms: impl Into<Option<u64>>,
    ) -> Result<Dispatch, RouterError> {
        let now_ms = now_ms.into();
        let clock = self.read(now_ms);
        let done = self.send_on(request, worker, clock);
        self.recorded("send", done, || Call::Send { request, worker, now_ms })
    }

    fn send_on(
        &mut self,
        request: Request<WorkerId>,
        worker: Option<WorkerId>,
        clock: Option<Clock>,
    ) -> Result<Dispatch, RouterError> {
        let id = request.id;
        let mut request = self.admissible(request)?;
        Pool::check_alone(&request)?;
        let place = match (worker, request.rank) {
            (Some(worker), _) => self.place_of(worker)?,
            (None, Some(rank)) => rank.index(),
            (None, None) => self.shortest_queue(&request).ok_or(RouterError::NoWorker { id })?,
        };
        let mut arrival = self.preempted.place_of(id, request.prompt_tokens);
        if let Some(clock) = clock {
            self.tell(clock);
        }
        match self.pool.leave(id) {
            Some(waiting) => {
                arrival = Some(waiting.arrival);
                request = request.known(waiting.request.passed, waiting.request.priority);
                self.counters.waited(self.now_ms().saturating_sub(waiting.since_ms), &waiting.request);
                // Nobody is to be given it back.
                let _ = self.left_queue(waiting.request);
            }
            None => self.arrived(request.prompt_tokens),
        }
        let at = &self.workers[place];
        let beyond = at.free_slots == 0 || at.room_tokens() < i64::from(request.prompt_tokens);
        self.counters.sent_beyond += u64::from(beyond);
        // As with one that is adopted: where it is sent elsewhere than it is bound to, it is bound no more.
        let rank = request.rank.filter(|rank| rank.index() == place);
        Ok(self.enter_past(request.ranked(rank.map(|_| self.ids[place])), place, arrival))
    }

    /// Where a request is to queue that fits nowhere: a queue is served by those who end, so it waits for as
    /// long as there are requests before it for each one in service.
    fn shortest_queue(&self, request: &Request) -> Option<usize> {
        let (tokens, shut) = (i64::from(request.prompt_tokens), self.claimed_from(request.priority));
        let key = |place: usize| {
            let (worker, account) = (&self.workers[place], &self.accounts[place]);
            let counted = account.running().saturating_add(account.foreign_requests);
            let lacks_slots = counted.saturating_sub(account.whole_slots);
            // Where KV tokens are short, whoever has shown nothing is taken to queue for them.
            let used_tokens = account.counted_tokens() as i64 + tokens;
            let lacks_room = account.capacity_tokens.is_some_and(|fit| used_tokens > fit as i64);
            let queued = lacks_slots.max(if lacks_room { account.unseen() } else { 0 });
            let ahead =
                if lacks_room || counted >= account.whole_slots { queued.saturating_add(1) } else { 0 };
            let wait = f64::from(ahead) / f64::from(counted.saturating_sub(queued).max(1));
            let cost = (worker.load_tokens as i64 + tokens).saturating_mul(worker.cost_per_token());
            (!worker.accepting || shut == Some(place), wait, cost)
        };
        let keys = (0..self.workers.len()).map(|place| (key(place), place));
        let first = keys.min_by(|((closed, wait, cost), _), (other, _)| {
            closed.cmp(&other.0).then(wait.total_cmp(&other.1)).then(cost.cmp(&other.2))
        });
        first.map(|(_, place)| place)
    }

    /// Asks for the row of a request that arrives.
    fn arrival_row(
        &mut self,
        request: &mut Request,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<(), RouterError> {
        self.arrival_rows.clear();
        if let Some(terms) = terms {
            let (rows, ids) = (&mut self.arrival_rows, &self.ids);
            request.pair_row = unless_panicked(self.policy.name(), || rows.add(ids, request, terms))??;
        }
        Ok(())
    }

    fn route(&mut self, request: &Request) -> Option<Routed> {
        let mut workers = &self.workers;
        if let Some(claimed) = self.claimed_from(request.priority) {
            self.later.clone_from(&self.workers);
            self.later[claimed].free_slots = 0;
            workers = &self.later;
        }
        // Every part of it was checked when it came in.
        let batch = Batch::draft(workers, &self.nobody)
            .request_growth(self.headroom_steps())
            .pairs(self.arrival_rows.pairs())
            .trusted();
        route_scored(&batch, request)
    }
}

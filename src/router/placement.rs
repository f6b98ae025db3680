//! On arrival: one request, at once.

use std::time::Instant;

use crate::batch::{Batch, Request};
use crate::policy::arrival::{Routed, route_scored};
use crate::router::error::unless_panicked;
use crate::router::explain::margin_tokens;
use crate::router::{
    Decided, Dispatch, Explanation, Mode, PairTerms, Placement, Router, RouterError, RunnerUp,
};

impl Router {
    /// A request arrives: where the [`Mode`] decides on arrival and a worker has a free slot and room for it, it enters the one with the greatest
    /// F-score at once (ties to the least load, then the lowest index); otherwise it waits for a step. Under a policy that binds on
    /// arrival the policy chooses the worker instead. A request with a rank enters that worker or waits for it.
    ///
    /// # Errors
    /// As [`Router::enqueue`].
    pub fn place(&mut self, request: Request, now_ms: u64) -> Result<Placement, RouterError> {
        self.place_on_arrival(request, now_ms, None)
    }

    /// The same with a bonus on each worker. The terms are asked again by a step if the request waits.
    ///
    /// # Errors
    /// As [`Router::place`], and a bonus past its limits.
    pub fn place_with(
        &mut self,
        request: Request,
        now_ms: u64,
        terms: &mut dyn PairTerms,
    ) -> Result<Placement, RouterError> {
        self.place_on_arrival(request, now_ms, Some(terms))
    }

    fn place_on_arrival(
        &mut self,
        request: Request,
        now_ms: u64,
        terms: Option<&mut dyn PairTerms>,
    ) -> Result<Placement, RouterError> {
        let (clock, start) = (self.clock.read(now_ms), Instant::now());
        let mut request = self.admissible(request)?;
        self.pool.check(&request)?;
        let open_slots: u64 = self.workers.iter().map(|worker| u64::from(worker.open_slots())).sum();
        let at_once = match self.config.mode {
            Mode::Step => false,
            Mode::Arrival => open_slots > 0,
            Mode::Mixed { free_slots } => open_slots > u64::from(free_slots),
        };
        let routed = if at_once {
            self.arrival_row(&mut request, terms)?;
            self.bind(&mut request)?;
            self.route(&request)?
        } else {
            self.bind(&mut request)?;
            None
        };
        request.pair_row = None;
        self.tell(clock);
        self.arrived(&request);
        let Some(Routed { worker: place, score_tokens, runner_up }) = routed else {
            self.wait(request, Some(self.now_ms()));
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
            waited_steps: 0,
        });
        let request = Request { rank: request.rank.map(|_| self.ids[place]), ..request };
        let dispatch = self.begin(request, place, 0, true);
        self.counters.placed_on_arrival += 1;
        self.counters.waited(0, request.waited_steps);
        self.counters.decide_ns.record(start.elapsed().as_nanos() as u64);
        Ok(Placement::Placed(Dispatch { score_tokens, ..dispatch }))
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

    fn route(&mut self, request: &Request) -> Result<Option<Routed>, RouterError> {
        let batch = Batch::draft(&self.workers, &self.nobody)
            .request_growth(self.headroom_steps())
            .pairs(self.arrival_rows.pairs())
            .check()?;
        Ok(route_scored(&batch, request))
    }
}

//! What a router of Python's holds behind its lock.

use balanceroute::policy::Parameters;
use balanceroute::router::{Dispatch, Placement, Plan, Returned};
use balanceroute::{Request, Router, RouterConfig, RouterError, WorkerId};
use pyo3::prelude::*;

use crate::errors::Failure;
use crate::shared::{State, guarded};
use crate::terms::{Kept, OfStep, Terms};

pub(crate) struct Cluster {
    pub(crate) router: Router,
    /// Of those who wait.
    pub(crate) terms: Kept,
}

impl State for Cluster {
    const WAY_OUT: &'static str = "`recover` gives every request back and begins anew";

    /// The log is its parent's.
    fn forked(&mut self) {
        let _ = self.router.stop_recording();
    }
}

impl Cluster {
    pub(crate) fn new(router: Router) -> Self {
        Self { router, terms: Kept::default() }
    }

    /// Where there is a device it is opened and measured first.
    pub(crate) fn built(
        py: Python<'_>,
        config: RouterConfig,
        (policy, parameters): (&str, &Parameters),
        explaining: bool,
    ) -> Result<Self, Failure> {
        let built = || {
            let mut router = Router::new(config, policy, parameters)?;
            router.set_explaining(explaining);
            Ok(Self::new(router))
        };
        py.detach(|| guarded(built))?
    }

    /// What a waiting request gains on single workers, and which may take it.
    pub(crate) fn set_terms(
        &mut self,
        id: u64,
        bonus_tokens: Vec<(u32, f32)>,
        eligible: Option<Vec<u32>>,
    ) -> Result<(), RouterError> {
        if !self.router.pool().contains(id) {
            return Err(RouterError::Unknown { id: id.into() });
        }
        self.terms.set(id, bonus_tokens, eligible);
        Ok(())
    }

    /// The dispatch of one that does not wait.
    pub(crate) fn place(
        &mut self,
        request: Request<WorkerId>,
        now_ms: u64,
        terms: &Terms,
    ) -> Result<Option<Dispatch>, Failure> {
        let placement = if terms.is_empty() {
            self.router.place(request, now_ms)?
        } else {
            terms.fit(self.router.worker_ids().len())?;
            self.router.place_with(request, now_ms, &mut { terms })?
        };
        Ok(match placement {
            Placement::Placed(dispatch) => Some(dispatch),
            Placement::Waits => None,
        })
    }

    pub(crate) fn step(&mut self, now_ms: u64, terms: &Terms) -> Result<Plan, Failure> {
        terms.fit(self.router.worker_ids().len())?;
        let Self { router, terms: kept } = self;
        let plan = if kept.is_empty() && terms.is_empty() {
            router.step(now_ms)?
        } else {
            let ids = router.worker_ids().to_vec();
            router.step_with(now_ms, &mut OfStep { given: terms, kept, ids: &ids })?
        };
        plan.admissions.iter().for_each(|dispatch| kept.drop(dispatch.id.get()));
        plan.returned.iter().for_each(|returned| kept.drop(returned.id.get()));
        Ok(plan.clone())
    }

    pub(crate) fn remove_worker(&mut self, worker: u32) -> Result<Vec<Returned>, RouterError> {
        let mut returned = Vec::new();
        self.router.remove_worker(worker, &mut returned)?;
        returned.iter().for_each(|returned| self.terms.drop(returned.id.get()));
        Ok(returned)
    }

    /// How it stands, for people.
    pub(crate) fn in_short(&self, policy: &str) -> String {
        let (workers, waiting) = (self.router.worker_ids().len(), self.router.pool().len());
        let running = self.router.running_len();
        format!("Router({workers} workers, policy='{policy}', {waiting} waiting, {running} running)")
    }
}

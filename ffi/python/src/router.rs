//! The state across steps.

use std::collections::HashMap;
use std::ops::Range;

use balanceroute::WorkerId;
use balanceroute::batch::{MAX_BONUS_TOKENS, MAX_WORKERS};
use balanceroute::router::{self as core, Decided, Mode, Placement, RouterConfig, Share};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::arrays::Column;
use crate::assign::parameters;
use crate::errors::Failure;
use crate::metrics::Metrics;
use crate::records::{Balance, record, wait_reason};
use crate::shared::{Shared, State, guarded};

record! {
    /// One worker (data-parallel rank) as the whole cluster has it.
    WorkerConfig { slots: u32, kv_capacity_tokens: Option<u64>, weight: f32 } made with {
        #[new]
        #[pyo3(signature = (slots, *, kv_capacity_tokens = None, weight = 1.0))]
        fn new(slots: u32, kv_capacity_tokens: Option<u64>, weight: f32) -> Self {
            Self { slots, kv_capacity_tokens, weight }
        }
    }
}

impl From<&WorkerConfig> for core::WorkerConfig {
    fn from(of: &WorkerConfig) -> Self {
        let &WorkerConfig { slots, kv_capacity_tokens, weight } = of;
        Self::new(slots).capacity(kv_capacity_tokens).weight(weight)
    }
}

record! {
    /// One admission, numbered.
    Dispatch { id: u64, worker: u32, number: u64, prompt_tokens: u32, score_tokens: f64 }
}

impl From<core::Dispatch> for Dispatch {
    fn from(of: core::Dispatch) -> Self {
        let core::Dispatch { id, worker, number, prompt_tokens, score_tokens } = of;
        Self { id: id.get(), worker: worker.get(), number, prompt_tokens, score_tokens }
    }
}

record! {
    /// A request that leaves without having finished; it may be enqueued again.
    Returned { id: u64, worker: Option<u32>, reason: String, generated_tokens: u32 }
}

impl From<core::Returned> for Returned {
    fn from(of: core::Returned) -> Self {
        let core::Returned { id, worker, reason, generated_tokens } = of;
        let (id, worker) = (id.get(), worker.map(WorkerId::get));
        Self { id, worker, reason: reason.name().to_owned(), generated_tokens }
    }
}

record! {
    /// A request that ran to its end.
    Finished { id: u64, worker: u32, generated_tokens: u32 }
}

record! {
    /// The answer of one step.
    Plan { admissions: Py<PyList>, returned: Py<PyList>, before: Py<Balance>, after: Py<Balance> }
}

record! {
    /// The worker that came second.
    RunnerUp { worker: u32, score_tokens: f64 }
}

record! {
    /// Why a decision fell as it did.
    Explanation {
        id: u64,
        decided: String,
        wait_reason: Option<Py<PyAny>>,
        worker: Option<u32>,
        score_tokens: f64,
        opening_score_tokens: f64,
        runner_up: Option<Py<RunnerUp>>,
        lead_tokens: Option<f64>,
        margin_tokens: f64,
        waited_steps: u32,
    }
}

/// A list of records.
fn list<C: pyo3::PyClass + Into<pyo3::PyClassInitializer<C>>>(
    py: Python<'_>,
    of: impl IntoIterator<Item: Into<C>>,
) -> PyResult<Py<PyList>> {
    let items = of.into_iter().map(|item| Py::new(py, item.into())).collect::<PyResult<Vec<Py<C>>>>()?;
    Ok(PyList::new(py, items)?.unbind())
}

fn mode(of: Option<&Bound<'_, PyAny>>) -> Result<Mode, Failure> {
    let Some(of) = of else { return Ok(Mode::Step) };
    if let Ok(free_slots) = of.extract::<u32>() {
        return Ok(Mode::Mixed { free_slots });
    }
    match of.extract::<String>().as_deref() {
        Ok("step") => Ok(Mode::Step),
        Ok("arrival") => Ok(Mode::Arrival),
        _ => Err(Failure::Argument {
            kind: "Mode",
            name: "mode",
            index: None,
            expected: "'step', 'arrival' or a number of slots".to_owned(),
            found: of.repr()?.to_string(),
        }),
    }
}

/// Bonuses per worker that single requests bring, read and checked: nothing of a call with a wrong one is
/// kept.
#[derive(Default)]
struct Bonuses {
    tokens: Vec<f32>,
    rows: HashMap<u64, Range<usize>>,
    /// As they were given.
    ids: Vec<u64>,
}

impl Bonuses {
    const NAME: &'static str = "bonus_tokens";

    fn read(&mut self, id: u64, argument: &Bound<'_, PyAny>) -> Result<(), Failure> {
        let (name, limit) = (Self::NAME, MAX_BONUS_TOKENS);
        let column = Column::new(name, argument, None)?;
        column.at_most(MAX_WORKERS)?;
        let from = self.tokens.len();
        column.bonuses(&mut self.tokens)?;
        let row = &self.tokens[from..];
        if let Some(index) = row.iter().position(|tokens| !(-limit..=limit).contains(tokens)) {
            return Err(Failure::Entry { name, id, index, limit: limit.into(), found: row[index] });
        }
        if self.rows.insert(id, from..self.tokens.len()).is_some() {
            return Err(Failure::Twice { name, id });
        }
        self.ids.push(id);
        Ok(())
    }

    fn of(argument: Option<&Bound<'_, PyDict>>) -> Result<Self, Failure> {
        let mut bonuses = Self::default();
        // A list of its own: what a key does as it is read may change the dict.
        for item in argument.map(|rows| rows.items()).into_iter().flatten() {
            let (id, row) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
            bonuses.read(id.extract()?, &row)?;
        }
        Ok(bonuses)
    }

    /// Whether every row has an entry per worker, also those of requests that nobody knows.
    fn fit(&self, expected: usize) -> Result<(), Failure> {
        let found = |id: &u64| self.rows[id].len();
        match self.ids.iter().find(|&id| found(id) != expected) {
            Some(id) => Err(Failure::Row { name: Self::NAME, id: *id, expected, found: found(id) }),
            None => Ok(()),
        }
    }
}

impl core::PairTerms for &Bonuses {
    fn bonus(&mut self, request: &balanceroute::Request, into: &mut [f32]) -> bool {
        let Some(row) = self.rows.get(&request.id.get()) else { return false };
        into.copy_from_slice(&self.tokens[row.clone()]);
        true
    }
}

/// The state across steps of one cluster, and one policy that decides.
#[pyclass(frozen, module = "balanceroute")]
pub(crate) struct Router {
    policy: &'static str,
    backend: String,
    shared: Shared<Cluster>,
}

struct Cluster {
    router: core::Router,
    explaining: bool,
}

impl State for Cluster {
    const WAY_OUT: &'static str = "`recover` gives every request back and begins anew";
}

impl Router {
    /// Panics inside a call.
    #[cfg(feature = "faults")]
    pub(crate) fn fault(&self, py: Python<'_>) -> Result<(), Failure> {
        self.shared.call_detached(py, |_| panic!("asked for"))
    }
}

#[pymethods]
impl Router {
    #[new]
    #[pyo3(signature = (
        workers, *, policy = "level", parameters = None, backend = "auto", isa = None, mode = None,
        share = (0, 1), headroom_steps = 256, refresh_steps = 16, ends_horizon_steps = 512,
        dispatch_timeout_ms = None, silence_timeout_ms = None, expire_after_ms = None, explaining = false
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a configuration")]
    fn new(
        py: Python<'_>,
        workers: Vec<Bound<'_, WorkerConfig>>,
        policy: &str,
        parameters: Option<&Bound<'_, PyDict>>,
        backend: &str,
        isa: Option<&str>,
        mode: Option<&Bound<'_, PyAny>>,
        share: (u32, u32),
        headroom_steps: u32,
        refresh_steps: u32,
        ends_horizon_steps: u32,
        dispatch_timeout_ms: Option<u64>,
        silence_timeout_ms: Option<u64>,
        expire_after_ms: Option<u64>,
        explaining: bool,
    ) -> Result<Self, Failure> {
        let workers: Vec<core::WorkerConfig> = workers.iter().map(|worker| worker.get().into()).collect();
        let config = RouterConfig::default()
            .workers(workers)
            .headroom_steps(headroom_steps)
            .refresh_steps(refresh_steps)
            .ends_horizon_steps(ends_horizon_steps)
            .mode(self::mode(mode)?)
            .share(Share::new(share.0, share.1))
            .dispatch_timeout_ms(dispatch_timeout_ms)
            .silence_timeout_ms(silence_timeout_ms)
            .expire_after_ms(expire_after_ms);
        let parameters = self::parameters(parameters, backend, isa)?;
        // Where there is a device it is opened and measured first.
        let router = py.detach(|| {
            guarded(|| {
                let mut router = core::Router::new(config, policy, &parameters)?;
                router.set_explaining(explaining);
                Ok::<_, Failure>(router)
            })
        })??;
        Ok(Self {
            policy: router.policy().name(),
            backend: router.policy().describe(),
            shared: Shared::new(Cluster { router, explaining }),
        })
    }

    /// Lets a request wait for a step. `rank` is the id of the only worker that may take it.
    #[pyo3(signature = (
        id, prompt_tokens, *, waited_steps = 0, deadline_steps = None, prompt_hash = None, rank = None,
        now_ms = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn enqueue(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        waited_steps: u32,
        deadline_steps: Option<u32>,
        prompt_hash: Option<u64>,
        rank: Option<u32>,
        now_ms: Option<u64>,
    ) -> Result<(), Failure> {
        let request = balanceroute::Request::new(id, prompt_tokens)
            .waited(waited_steps)
            .deadline(deadline_steps)
            .hash(prompt_hash)
            .rank(rank);
        Ok(self.shared.call(py, |state| state.router.enqueue(request, now_ms))??)
    }

    /// A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else it
    /// waits, and `None` comes.
    #[pyo3(signature = (
        id, prompt_tokens, now_ms, *, waited_steps = 0, deadline_steps = None, prompt_hash = None,
        rank = None, bonus_tokens = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn place(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        now_ms: u64,
        waited_steps: u32,
        deadline_steps: Option<u32>,
        prompt_hash: Option<u64>,
        rank: Option<u32>,
        bonus_tokens: Option<&Bound<'_, PyAny>>,
    ) -> Result<Option<Dispatch>, Failure> {
        let request = balanceroute::Request::new(id, prompt_tokens)
            .waited(waited_steps)
            .deadline(deadline_steps)
            .hash(prompt_hash)
            .rank(rank);
        let bonuses = match bonus_tokens {
            Some(argument) => {
                let mut bonuses = Bonuses::default();
                bonuses.read(id, argument)?;
                Some(bonuses)
            }
            None => None,
        };
        let placement = self.shared.call(py, |state| {
            let Some(bonuses) = &bonuses else { return Ok(state.router.place(request, now_ms)?) };
            bonuses.fit(state.router.worker_ids().len())?;
            Ok::<_, Failure>(state.router.place_with(request, now_ms, &mut { bonuses })?)
        })??;
        Ok(match placement {
            Placement::Placed(dispatch) => Some(dispatch.into()),
            Placement::Waits => None,
        })
    }

    /// Takes over a request that already runs on a worker (a restart, a warm start).
    #[pyo3(signature = (id, prompt_tokens, worker, *, generated_tokens = 0, prompt_hash = None))]
    fn adopt(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        worker: u32,
        generated_tokens: u32,
        prompt_hash: Option<u64>,
    ) -> Result<(), Failure> {
        let request = balanceroute::Request::new(id, prompt_tokens).hash(prompt_hash);
        Ok(self.shared.call(py, |state| state.router.adopt(request, worker, generated_tokens))??)
    }

    /// A running request has sent its last token.
    #[pyo3(signature = (id, *, now_ms = None))]
    fn finish(&self, py: Python<'_>, id: u64, now_ms: Option<u64>) -> Result<Finished, Failure> {
        let core::Finished { id, worker, generated_tokens } =
            self.shared.call(py, |state| state.router.finish(id, now_ms))??;
        Ok(Finished { id: id.get(), worker: worker.get(), generated_tokens })
    }

    /// A waiting or running request was given up; the worker that it ran on, if any.
    #[pyo3(signature = (id, *, now_ms = None))]
    fn abort(&self, py: Python<'_>, id: u64, now_ms: Option<u64>) -> Result<Option<u32>, Failure> {
        Ok(self.shared.call(py, |state| state.router.abort(id, now_ms))??.map(WorkerId::get))
    }

    /// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length
    /// that is answered.
    fn preempt(&self, py: Python<'_>, id: u64) -> Result<u32, Failure> {
        Ok(self.shared.call(py, |state| state.router.preempt(id))??.prompt_tokens)
    }

    /// One lock-step decode step has run: every running request has a token more, everybody who waits has
    /// waited a step.
    fn advance(&self, py: Python<'_>) -> Result<(), Failure> {
        self.shared.call(py, |state| state.router.advance())
    }

    /// Every running request of a worker has this many tokens more.
    #[pyo3(signature = (worker, tokens = 1))]
    fn progress(&self, py: Python<'_>, worker: u32, tokens: u32) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.progress(worker, tokens))??)
    }

    /// One running request has this many tokens more.
    #[pyo3(signature = (id, tokens = 1))]
    fn progress_request(&self, py: Python<'_>, id: u64, tokens: u32) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.progress_request(id, tokens))??)
    }

    /// What a worker measured; what became of the report.
    #[pyo3(signature = (
        worker, *, running, kv_used_tokens, waiting = 0, kv_capacity_tokens = None, sequence = None,
        last_dispatch = None, missing = 0, epoch = None, age_ms = 0, now_ms = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a report")]
    fn report(
        &self,
        py: Python<'_>,
        worker: u32,
        running: u32,
        kv_used_tokens: u64,
        waiting: u32,
        kv_capacity_tokens: Option<u64>,
        sequence: Option<u64>,
        last_dispatch: Option<u64>,
        missing: u64,
        epoch: Option<u64>,
        age_ms: u32,
        now_ms: Option<u64>,
    ) -> Result<&'static str, Failure> {
        let report = core::WorkerReport::new(running, kv_used_tokens)
            .waiting(waiting)
            .sequence(sequence)
            .last_dispatch(last_dispatch)
            .missing(missing)
            .epoch(epoch)
            .age(age_ms)
            .capacity(kv_capacity_tokens);
        Ok(self.shared.call(py, |state| state.router.report(worker, report, now_ms))??.name())
    }

    /// A worker joins, empty. Its id.
    fn add_worker(&self, py: Python<'_>, worker: &Bound<'_, WorkerConfig>) -> Result<u32, Failure> {
        let worker = worker.get().into();
        Ok(self.shared.call(py, |state| state.router.add_worker(worker))??.get())
    }

    /// It takes nobody new; what runs there runs on.
    fn drain_worker(&self, py: Python<'_>, worker: u32) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.drain_worker(worker))??)
    }

    /// Whether it is draining and holds none of our requests any more.
    fn is_drained(&self, py: Python<'_>, worker: u32) -> Result<bool, Failure> {
        Ok(self.shared.call(py, |state| state.router.is_drained(worker))??)
    }

    /// Stops new requests to a worker for a while, or resumes them.
    fn set_accepting(&self, py: Python<'_>, worker: u32, accepting: bool) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.set_accepting(worker, accepting))??)
    }

    /// It is gone: who ran there or waited for it alone comes back.
    fn remove_worker(&self, py: Python<'_>, worker: u32) -> Result<Py<PyList>, Failure> {
        let returned = self.shared.call_detached(py, |state| {
            let mut returned = Vec::new();
            state.router.remove_worker(worker, &mut returned).map(|()| returned)
        })??;
        Ok(list::<Returned>(py, returned)?)
    }

    /// Begins anew, whatever has happened to the count: every request comes back.
    fn recover(&self, py: Python<'_>) -> Result<Py<PyList>, Failure> {
        let returned = self.shared.repair(py, |state| state.router.recover())?;
        Ok(list::<Returned>(py, returned)?)
    }

    /// Decides a step and accounts for what it admits.
    #[pyo3(signature = (now_ms, *, bonus_tokens = None))]
    fn step(
        &self,
        py: Python<'_>,
        now_ms: u64,
        bonus_tokens: Option<&Bound<'_, PyDict>>,
    ) -> Result<Plan, Failure> {
        let bonuses = Bonuses::of(bonus_tokens)?;
        let plan = self.shared.call_detached(py, |state| {
            bonuses.fit(state.router.worker_ids().len())?;
            let plan = if bonuses.ids.is_empty() {
                state.router.step(now_ms)?
            } else {
                state.router.step_with(now_ms, &mut { &bonuses })?
            };
            Ok::<_, Failure>(plan.clone())
        })??;
        Ok(Plan {
            admissions: list::<Dispatch>(py, plan.admissions)?,
            returned: list::<Returned>(py, plan.returned)?,
            before: Py::new(py, Balance::from(plan.before))?,
            after: Py::new(py, Balance::from(plan.after))?,
        })
    }

    /// Why the last step, or a placement since, decided as it did; why a waiting request waits.
    fn explain(&self, py: Python<'_>, id: u64) -> Result<Option<Explanation>, Failure> {
        let found = self.shared.call_detached(py, |state| state.router.explain(id))?;
        let Some(found) = found else { return Ok(None) };
        let (decided, wait_reason) = match found.decided {
            Decided::Step => ("step", None),
            Decided::Arrival => ("arrival", None),
            Decided::Waits(reason) => ("waits", Some(wait_reason(py, reason)?)),
        };
        let runner_up = match found.runner_up {
            Some(core::RunnerUp { worker, score_tokens }) => {
                Some(Py::new(py, RunnerUp { worker: worker.get(), score_tokens })?)
            }
            None => None,
        };
        Ok(Some(Explanation {
            id: found.id.get(),
            decided: decided.to_owned(),
            wait_reason,
            worker: found.worker.map(WorkerId::get),
            score_tokens: found.score_tokens,
            opening_score_tokens: found.opening_score_tokens,
            runner_up,
            lead_tokens: found.lead_tokens(),
            margin_tokens: found.margin_tokens,
            waited_steps: found.waited_steps,
        }))
    }

    /// Why each request still waits, in order of arrival.
    fn waiting(&self, py: Python<'_>) -> Result<Vec<(u64, Py<PyAny>)>, Failure> {
        let waiting = self.shared.call_detached(py, |state| state.router.waiting())?;
        let told = waiting.into_iter().map(|(id, reason)| Ok((id.get(), wait_reason(py, reason)?)));
        Ok(told.collect::<PyResult<_>>()?)
    }

    /// How it stands.
    fn metrics(&self, py: Python<'_>) -> Result<Metrics, Failure> {
        let metrics = self.shared.call_detached(py, |state| {
            let mut metrics = core::Metrics::default();
            state.router.metrics(&mut metrics);
            metrics
        })?;
        Ok(Metrics::of(py, &metrics)?)
    }

    /// The worker that a request runs on.
    fn running_on(&self, py: Python<'_>, id: u64) -> Result<Option<u32>, Failure> {
        Ok(self.shared.call(py, |state| state.router.running_on(id))?.map(WorkerId::get))
    }

    #[getter]
    fn worker_ids(&self, py: Python<'_>) -> Result<Vec<u32>, Failure> {
        self.shared.call(py, |state| state.router.worker_ids().iter().map(|id| id.get()).collect())
    }

    #[getter]
    fn waiting_len(&self, py: Python<'_>) -> Result<usize, Failure> {
        self.shared.call(py, |state| state.router.pool().len())
    }

    #[getter]
    fn running_len(&self, py: Python<'_>) -> Result<usize, Failure> {
        self.shared.call(py, |state| state.router.running_len())
    }

    #[getter]
    fn policy(&self) -> &'static str {
        self.policy
    }

    #[getter]
    fn backend(&self) -> &str {
        &self.backend
    }

    #[getter]
    fn explaining(&self, py: Python<'_>) -> Result<bool, Failure> {
        self.shared.call(py, |state| state.explaining)
    }

    #[setter]
    fn set_explaining(&self, py: Python<'_>, on: bool) -> Result<(), Failure> {
        self.shared.call(py, |state| {
            state.explaining = on;
            state.router.set_explaining(on);
        })
    }

    fn __repr__(&self, py: Python<'_>) -> Result<String, Failure> {
        let (workers, waiting, running) = self.shared.call(py, |Cluster { router, .. }| {
            (router.worker_ids().len(), router.pool().len(), router.running_len())
        })?;
        Ok(format!(
            "Router({workers} workers, policy='{}', {waiting} waiting, {running} running)",
            self.policy
        ))
    }
}

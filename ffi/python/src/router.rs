//! The state across steps.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use balanceroute::router::{self as core, Decided, Mode, Placement, RouterConfig, Share, Verdict};
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::assign::parameters;
use crate::errors::Failure;
use crate::locked;
use crate::metrics::{Metrics, Report};
use crate::records::{Balance, record, wait_reason_name};

record! {
    /// One worker (data-parallel rank) as the whole cluster has it.
    WorkerConfig { slots: u32, kv_capacity_tokens: Option<u64>, weight: f32 } with {
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
        Self { slots, kv_capacity_tokens, weight }
    }
}

record! {
    /// One admission, numbered.
    Dispatch { id: u64, worker: u32, number: u64, prompt_tokens: u32, score_tokens: f64 }
}

impl From<core::Dispatch> for Dispatch {
    fn from(of: core::Dispatch) -> Self {
        let core::Dispatch { id, worker, number, prompt_tokens, score_tokens } = of;
        Self { id, worker, number, prompt_tokens, score_tokens }
    }
}

record! {
    /// A request that leaves without having finished; it may be enqueued again.
    Returned { id: u64, worker: Option<u32>, reason: &'static str, generated_tokens: u32 }
}

impl From<core::Returned> for Returned {
    fn from(of: core::Returned) -> Self {
        let core::Returned { id, worker, reason, generated_tokens } = of;
        Self { id, worker, reason: reason.name(), generated_tokens }
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
        decided: &'static str,
        wait_reason: Option<&'static str>,
        worker: Option<u32>,
        score_tokens: f64,
        opening_score_tokens: f64,
        runner_up: Option<Py<RunnerUp>>,
        lead_tokens: Option<f64>,
        margin_tokens: f64,
        waited_steps: u32,
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Taken => "taken",
        Verdict::Repeated => "repeated",
        Verdict::Late => "late",
        Verdict::Contradictory => "contradictory",
        _ => "other",
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

/// A bonus per worker, as a request brings it.
fn bonus_row<'py>(argument: &Bound<'py, PyAny>) -> Result<PyReadonlyArray1<'py, f32>, Failure> {
    let expected = "a contiguous one-dimensional numpy array of float32, one entry per worker";
    let refused = |found: String| Failure::Argument {
        kind: "Array",
        name: "bonus_tokens",
        index: None,
        expected: expected.to_owned(),
        found,
    };
    let array = argument.cast::<PyArray1<f32>>().map_err(|_| refused(argument.get_type().to_string()))?;
    let row = array.try_readonly().map_err(|_| refused("one that is being written".to_owned()))?;
    if row.as_slice().is_err() {
        return Err(refused("one that is not contiguous".to_owned()));
    }
    Ok(row)
}

fn check_row(row: &[f32], workers: usize) -> Result<(), Failure> {
    if row.len() == workers {
        return Ok(());
    }
    Err(Failure::Argument {
        kind: "Array",
        name: "bonus_tokens",
        index: None,
        expected: format!("{workers} entries, one per worker"),
        found: row.len().to_string(),
    })
}

/// The state across steps of one cluster, and one policy that decides.
#[pyclass(frozen, module = "balanceroute")]
pub(crate) struct Router {
    policy: &'static str,
    backend: String,
    state: Mutex<State>,
}

struct State {
    router: core::Router,
    metrics: core::Metrics,
    explaining: bool,
}

impl Router {
    /// The state: at once, or when the thread that has it is done, which never waits for the GIL meanwhile without having let this one go.
    fn enter(&self, py: Python<'_>) -> Result<MutexGuard<'_, State>, Failure> {
        locked::enter(&self.state, py)
    }
}

#[pymethods]
impl Router {
    #[new]
    #[pyo3(signature = (
        workers, *, policy = "level", parameters = None, backend = "auto", isa = None, mode = None, share = (0, 1),
        headroom_steps = 256, refresh_steps = 16, ends_horizon_steps = 512, dispatch_timeout_ms = None,
        silence_timeout_ms = None, expire_after_ms = None, explaining = false
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a configuration")]
    fn new(
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
        let config = RouterConfig {
            workers: workers.iter().map(|worker| worker.get().into()).collect(),
            headroom_steps,
            refresh_steps,
            ends_horizon_steps,
            mode: self::mode(mode)?,
            share: Share { index: share.0, of: share.1 },
            dispatch_timeout_ms,
            silence_timeout_ms,
            expire_after_ms,
        };
        let mut router = core::Router::new(config, policy, &self::parameters(parameters, backend, isa)?)?;
        router.set_explaining(explaining);
        Ok(Self {
            policy: router.policy().name(),
            backend: router.policy().describe(),
            state: Mutex::new(State { router, metrics: core::Metrics::default(), explaining }),
        })
    }

    /// Lets a request wait for a step. `rank` is the id of the only worker that may take it.
    #[pyo3(signature = (id, prompt_tokens, *, waited_steps = 0, deadline_steps = None, prompt_hash = None, rank = None))]
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
    ) -> Result<(), Failure> {
        let request = balanceroute::Request::new(id, prompt_tokens);
        let request = balanceroute::Request { waited_steps, deadline_steps, prompt_hash, rank, ..request };
        Ok(self.enter(py)?.router.enqueue(request)?)
    }

    /// A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else it waits, and `None` comes.
    #[pyo3(signature = (
        id, prompt_tokens, now_ms, *, waited_steps = 0, deadline_steps = None, prompt_hash = None, rank = None,
        bonus_tokens = None
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
        let request = balanceroute::Request::new(id, prompt_tokens);
        let request = balanceroute::Request { waited_steps, deadline_steps, prompt_hash, rank, ..request };
        let mut state = self.enter(py)?;
        let placement = match bonus_tokens {
            None => state.router.place(request, now_ms)?,
            Some(argument) => {
                let row = bonus_row(argument)?;
                let row = row.as_slice().unwrap_or_default();
                check_row(row, state.router.worker_ids().len())?;
                let mut terms = |_: &balanceroute::Request, into: &mut [f32]| {
                    into.copy_from_slice(row);
                    true
                };
                state.router.place_with(request, now_ms, &mut terms)?
            }
        };
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
        let request = balanceroute::Request { prompt_hash, ..balanceroute::Request::new(id, prompt_tokens) };
        Ok(self.enter(py)?.router.adopt(request, worker, generated_tokens)?)
    }

    /// A running request has sent its last token.
    fn finish(&self, py: Python<'_>, id: u64) -> Result<Finished, Failure> {
        let core::Finished { id, worker, generated_tokens } = self.enter(py)?.router.finish(id)?;
        Ok(Finished { id, worker, generated_tokens })
    }

    /// A waiting or running request was given up; the worker that it ran on, if any.
    fn abort(&self, py: Python<'_>, id: u64) -> Result<Option<u32>, Failure> {
        Ok(self.enter(py)?.router.abort(id)?)
    }

    /// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length that is answered.
    fn preempt(&self, py: Python<'_>, id: u64) -> Result<u32, Failure> {
        Ok(self.enter(py)?.router.preempt(id)?.prompt_tokens)
    }

    /// One lock-step decode step has run: every running request has a token more, everybody who waits has waited a step.
    fn advance(&self, py: Python<'_>) -> Result<(), Failure> {
        self.enter(py)?.router.advance();
        Ok(())
    }

    /// Every running request of a worker has this many tokens more.
    #[pyo3(signature = (worker, tokens = 1))]
    fn progress(&self, py: Python<'_>, worker: u32, tokens: u32) -> Result<(), Failure> {
        Ok(self.enter(py)?.router.progress(worker, tokens)?)
    }

    /// One running request has this many tokens more.
    #[pyo3(signature = (id, tokens = 1))]
    fn progress_request(&self, py: Python<'_>, id: u64, tokens: u32) -> Result<(), Failure> {
        Ok(self.enter(py)?.router.progress_request(id, tokens)?)
    }

    /// What a worker measured; what became of the report.
    #[pyo3(signature = (
        worker, *, running, kv_used_tokens, waiting = 0, kv_capacity_tokens = None, sequence = None,
        last_dispatch = None, missing = 0
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
    ) -> Result<&'static str, Failure> {
        let report = core::WorkerReport {
            sequence,
            last_dispatch,
            missing,
            running,
            waiting,
            kv_used_tokens,
            kv_capacity_tokens,
        };
        Ok(verdict_name(self.enter(py)?.router.report(worker, report)?))
    }

    /// A worker joins, empty. Its id.
    fn add_worker(&self, py: Python<'_>, worker: &Bound<'_, WorkerConfig>) -> Result<u32, Failure> {
        Ok(self.enter(py)?.router.add_worker(worker.get().into())?)
    }

    /// It takes nobody new; what runs there runs on.
    fn drain_worker(&self, py: Python<'_>, worker: u32) -> Result<(), Failure> {
        Ok(self.enter(py)?.router.drain_worker(worker)?)
    }

    /// Whether it is draining and holds none of our requests any more.
    fn is_drained(&self, py: Python<'_>, worker: u32) -> Result<bool, Failure> {
        Ok(self.enter(py)?.router.is_drained(worker)?)
    }

    /// Stops new requests to a worker for a while, or resumes them.
    fn set_accepting(&self, py: Python<'_>, worker: u32, accepting: bool) -> Result<(), Failure> {
        Ok(self.enter(py)?.router.set_accepting(worker, accepting)?)
    }

    /// It is gone: who ran there or waited for it alone comes back.
    fn remove_worker(&self, py: Python<'_>, worker: u32) -> Result<Py<PyList>, Failure> {
        let mut returned = Vec::new();
        self.enter(py)?.router.remove_worker(worker, &mut returned)?;
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
        let mut rows = Vec::new();
        for (id, row) in bonus_tokens.into_iter().flatten() {
            rows.push((id.extract::<u64>()?, bonus_row(&row)?));
        }
        let terms: HashMap<u64, &[f32]> =
            rows.iter().map(|(id, row)| (*id, row.as_slice().unwrap_or_default())).collect();
        let plan = {
            let mut guard = self.enter(py)?;
            let state: &mut State = &mut guard;
            let workers = state.router.worker_ids().len();
            terms.values().try_for_each(|row| check_row(row, workers))?;
            py.detach(|| {
                if terms.is_empty() {
                    return state.router.step(now_ms).cloned();
                }
                let mut terms =
                    |request: &balanceroute::Request, into: &mut [f32]| match terms.get(&request.id) {
                        Some(row) => {
                            into.copy_from_slice(row);
                            true
                        }
                        None => false,
                    };
                state.router.step_with(now_ms, &mut terms).cloned()
            })?
        };
        Ok(Plan {
            admissions: list::<Dispatch>(py, plan.admissions)?,
            returned: list::<Returned>(py, plan.returned)?,
            before: Py::new(py, Balance::from(plan.before))?,
            after: Py::new(py, Balance::from(plan.after))?,
        })
    }

    /// Why the last step, or a placement since, decided as it did; why a waiting request waits.
    fn explain(&self, py: Python<'_>, id: u64) -> Result<Option<Explanation>, Failure> {
        let Some(found) = self.enter(py)?.router.explain(id)? else { return Ok(None) };
        let (decided, wait_reason) = match found.decided {
            Decided::Step => ("step", None),
            Decided::Arrival => ("arrival", None),
            Decided::Waits(reason) => ("waits", Some(wait_reason_name(reason))),
        };
        let runner_up = match found.runner_up {
            Some(core::RunnerUp { worker, score_tokens }) => {
                Some(Py::new(py, RunnerUp { worker, score_tokens })?)
            }
            None => None,
        };
        Ok(Some(Explanation {
            id: found.id,
            decided,
            wait_reason,
            worker: found.worker,
            score_tokens: found.score_tokens,
            opening_score_tokens: found.opening_score_tokens,
            runner_up,
            lead_tokens: found.lead_tokens(),
            margin_tokens: found.margin_tokens,
            waited_steps: found.waited_steps,
        }))
    }

    /// Why each request still waits, in order of arrival.
    fn waiting(&self, py: Python<'_>) -> Result<Vec<(u64, &'static str)>, Failure> {
        let waiting = self.enter(py)?.router.waiting()?;
        Ok(waiting.into_iter().map(|(id, reason)| (id, wait_reason_name(reason))).collect())
    }

    /// How it stands.
    fn metrics(&self, py: Python<'_>) -> Result<Metrics, Failure> {
        let report = {
            let mut guard = self.enter(py)?;
            let State { router, metrics, .. } = &mut *guard;
            router.metrics(metrics)?;
            Report::of(metrics)
        };
        Ok(report.into_python(py)?)
    }

    /// The worker that a request runs on.
    fn running_on(&self, py: Python<'_>, id: u64) -> Result<Option<u32>, Failure> {
        Ok(self.enter(py)?.router.running_on(id))
    }

    #[getter]
    fn worker_ids(&self, py: Python<'_>) -> Result<Vec<u32>, Failure> {
        Ok(self.enter(py)?.router.worker_ids().to_vec())
    }

    #[getter]
    fn waiting_len(&self, py: Python<'_>) -> Result<usize, Failure> {
        Ok(self.enter(py)?.router.pool().len())
    }

    #[getter]
    fn running_len(&self, py: Python<'_>) -> Result<usize, Failure> {
        Ok(self.enter(py)?.router.running_len())
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
        Ok(self.enter(py)?.explaining)
    }

    #[setter]
    fn set_explaining(&self, py: Python<'_>, on: bool) -> Result<(), Failure> {
        let mut state = self.enter(py)?;
        state.explaining = on;
        state.router.set_explaining(on);
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> Result<String, Failure> {
        let state = self.enter(py)?;
        let (workers, waiting) = (state.router.worker_ids().len(), state.router.pool().len());
        let running = state.router.running_len();
        Ok(format!(
            "Router({workers} workers, policy='{}', {waiting} waiting, {running} running)",
            self.policy
        ))
    }
}

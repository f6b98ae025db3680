//! What a router is told of workers, and what it answers.

use balanceroute::router::{self as core, Mode};
use balanceroute::{BatchError, Request, RequestId, WorkerId};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::arrays::Column;
use crate::errors::Failure;
use crate::records::{Balance, record, wait_reason};

/// When a router decides.
pub(crate) fn mode(of: Option<&Bound<'_, PyAny>>) -> Result<Mode, Failure> {
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

impl From<core::WorkerConfig> for WorkerConfig {
    fn from(of: core::WorkerConfig) -> Self {
        Self { slots: of.slots, kv_capacity_tokens: of.kv_capacity_tokens, weight: of.weight }
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

impl From<&Dispatch> for core::Dispatch {
    fn from(of: &Dispatch) -> Self {
        let &Dispatch { id, worker, number, prompt_tokens, score_tokens } = of;
        Self { id: id.into(), worker: worker.into(), number, prompt_tokens, score_tokens }
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
    /// A request that was put off, as it is to be enqueued again.
    Preempted {
        id: u64,
        prompt_tokens: u32,
        cached_tokens: u32,
        generated_tokens: u32,
        max_tokens: Option<u32>,
        passed: u32,
        deadline_steps: Option<u32>,
        prompt_hash: Option<u64>,
        rank: Option<u32>,
        priority: i8,
    }
}

impl From<Request<WorkerId>> for Preempted {
    fn from(of: Request<WorkerId>) -> Self {
        Self {
            id: of.id.get(),
            prompt_tokens: of.prompt_tokens.saturating_add(of.cached_tokens),
            cached_tokens: of.cached_tokens,
            generated_tokens: of.generated_tokens,
            max_tokens: of.max_tokens,
            passed: of.passed,
            deadline_steps: of.deadline_steps,
            prompt_hash: of.prompt_hash,
            rank: of.rank.map(WorkerId::get),
            priority: of.priority,
        }
    }
}

record! {
    /// A request that ran to its end.
    Finished { id: u64, worker: u32, generated_tokens: u32 }
}

impl From<core::Finished> for Finished {
    fn from(of: core::Finished) -> Self {
        let core::Finished { id, worker, generated_tokens } = of;
        Self { id: id.get(), worker: worker.get(), generated_tokens }
    }
}

record! {
    /// The answer of one step.
    Plan { admissions: Py<PyList>, returned: Py<PyList>, before: Py<Balance>, after: Py<Balance> }
}

impl Plan {
    pub(crate) fn of(py: Python<'_>, of: core::Plan) -> PyResult<Self> {
        Ok(Self {
            admissions: list::<Dispatch>(py, of.admissions)?,
            returned: list::<Returned>(py, of.returned)?,
            before: Py::new(py, Balance::from(of.before))?,
            after: Py::new(py, Balance::from(of.after))?,
        })
    }
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
        kv_growth_tokens: u64,
        waited_steps: u32,
        passed: u32,
        priority: i8,
    }
}

impl Explanation {
    pub(crate) fn of(py: Python<'_>, found: &core::Explanation) -> PyResult<Self> {
        let (decided, wait_reason) = match found.decided {
            core::Decided::Step => ("step", None),
            core::Decided::Arrival => ("arrival", None),
            core::Decided::Waits(reason) => ("waits", Some(wait_reason(py, reason)?)),
        };
        let runner_up = match found.runner_up {
            Some(core::RunnerUp { worker, score_tokens }) => {
                Some(Py::new(py, RunnerUp { worker: worker.get(), score_tokens })?)
            }
            None => None,
        };
        Ok(Self {
            id: found.id.get(),
            decided: decided.to_owned(),
            wait_reason,
            worker: found.worker.map(WorkerId::get),
            score_tokens: found.score_tokens,
            opening_score_tokens: found.opening_score_tokens,
            runner_up,
            lead_tokens: found.lead_tokens(),
            margin_tokens: found.margin_tokens,
            kv_growth_tokens: found.kv_growth_tokens,
            waited_steps: found.waited_steps,
            passed: found.passed,
            priority: found.priority,
        })
    }
}

/// A request: its id, its length and its class, and of its tokens those that its worker has, those that it
/// had generated before, and what it may generate in all.
pub(crate) fn arriving(
    (id, prompt_tokens, priority): (u64, u32, i64),
    (cached_tokens, generated_tokens, max_tokens): (u32, u32, Option<u32>),
) -> Result<Request<WorkerId>, Failure> {
    let request = Request::new(id, prompt_tokens).cached(cached_tokens).generated(generated_tokens);
    let priority = BatchError::check_priority(None, request.id, priority)?;
    Ok(request.max_tokens(max_tokens).priority(priority))
}

/// One that may have waited before and may be bound to a worker.
pub(crate) fn waiting(
    request: Request<WorkerId>,
    (waited_steps, passed, deadline_steps): (u32, u32, Option<u32>),
    (prompt_hash, rank): (Option<u64>, Option<u32>),
) -> Request<WorkerId> {
    request.waited(waited_steps).passed(passed).deadline(deadline_steps).hash(prompt_hash).rank(rank)
}

/// Who has so many tokens more, one each where it is not told.
pub(crate) fn grown(
    ids: &Bound<'_, PyAny>,
    tokens: Option<&Bound<'_, PyAny>>,
) -> Result<Vec<(RequestId, u32)>, Failure> {
    let column = Column::new("ids", ids, None)?;
    let mut grown = Vec::with_capacity(column.len());
    column.whole(u64::MAX, |_, id| grown.push((RequestId::new(id), 1)))?;
    if let Some(tokens) = tokens {
        let tokens = Column::new("tokens", tokens, Some(grown.len()))?;
        tokens.whole(u32::MAX.into(), |at, tokens| grown[at].1 = tokens as u32)?;
    }
    Ok(grown)
}

/// A list of records.
pub(crate) fn list<C: pyo3::PyClass + Into<pyo3::PyClassInitializer<C>>>(
    py: Python<'_>,
    of: impl IntoIterator<Item: Into<C>>,
) -> PyResult<Py<PyList>> {
    let items = of.into_iter().map(|item| Py::new(py, item.into())).collect::<PyResult<Vec<Py<C>>>>()?;
    Ok(PyList::new(py, items)?.unbind())
}

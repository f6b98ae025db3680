//! One step for a caller that keeps its own state.

use std::sync::{Mutex, MutexGuard};

use balanceroute::backend::BackendKind;
use balanceroute::backend::cpu::Isa;
use balanceroute::batch::{MAX_CLASSES, MAX_WAITING, MAX_WORKERS};
use balanceroute::policy::{self, Parameters, Policy};
use balanceroute::{
    Assignment, Batch, BatchError, Pairs, PolicyError, Pool, PredictedEnd, PredictedEnds, Request,
    WaitReason, Worker,
};
use half::f16;
use numpy::{PyArray1, PyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Column, matrix, shaped};
use crate::errors::Failure;
use crate::locked;
use crate::records::{Balance, record};

record! {
    /// Running statistics of the traffic, in tokens.
    Traffic {
        mean_prompt_tokens: i64,
        sd_prompt_tokens: i64,
        small_prompt_tokens: i64,
        mean_output_tokens: i64,
    } with {
        #[new]
        #[pyo3(signature = (mean_prompt_tokens = 0, sd_prompt_tokens = 0, small_prompt_tokens = 0, mean_output_tokens = 0))]
        fn new(
            mean_prompt_tokens: i64,
            sd_prompt_tokens: i64,
            small_prompt_tokens: i64,
            mean_output_tokens: i64,
        ) -> Self {
            Self { mean_prompt_tokens, sd_prompt_tokens, small_prompt_tokens, mean_output_tokens }
        }
    }
}

record! {
    /// Who is admitted, in the order of decision.
    Assigned {
        row: Py<PyArray1<u32>>,
        worker: Py<PyArray1<u32>>,
        score_tokens: Py<PyArray1<f64>>,
        wait_reason: Option<Py<PyArray1<u8>>>,
        before: Py<Balance>,
        after: Py<Balance>,
    } as "Assignment" with {
        fn __len__(&self, py: Python<'_>) -> usize {
            self.row.bind(py).len()
        }
    }
}

/// Parameters from what Python says of them.
pub(crate) fn parameters(
    named: Option<&Bound<'_, PyDict>>,
    backend: &str,
    isa: Option<&str>,
) -> Result<Parameters, Failure> {
    let mut parameters = Parameters::default();
    for (name, value) in named.into_iter().flatten() {
        parameters.set(&name.extract::<String>()?, value.extract::<f64>()?)?;
    }
    parameters.backend = BackendKind::from_name(backend).ok_or_else(|| Failure::Argument {
        kind: "Backend",
        name: "backend",
        index: None,
        expected: format!("one of {}", BackendKind::ALL.map(BackendKind::name).join(", ")),
        found: format!("{backend:?}"),
    })?;
    if let Some(found) = isa {
        parameters.isa =
            Some(Isa::from_name(found).ok_or_else(|| PolicyError::Isa { found: found.to_owned() })?);
    }
    Ok(parameters)
}

struct State {
    policy: Box<dyn Policy>,
    pool: Pool,
    workers: Vec<Worker>,
    requests: Vec<Request>,
    eligible: Vec<u64>,
    offsets: Vec<u32>,
    ends: Vec<PredictedEnd>,
    assignment: Assignment,
    reasons: Vec<u8>,
}

/// A policy and its buffers.
#[pyclass(frozen, module = "balanceroute")]
pub(crate) struct Assigner {
    name: &'static str,
    state: Mutex<State>,
}

impl Assigner {
    /// The state: at once, or when the thread that has it is done.
    fn enter(&self, py: Python<'_>) -> Result<MutexGuard<'_, State>, Failure> {
        locked::enter(&self.state, py)
    }

    /// With the default parameters.
    pub(crate) fn named(policy: &str) -> Result<Self, Failure> {
        Self::new(policy, None, "auto", None)
    }
}

#[pymethods]
impl Assigner {
    #[new]
    #[pyo3(signature = (policy = "level", *, parameters = None, backend = "auto", isa = None))]
    fn new(
        policy: &str,
        parameters: Option<&Bound<'_, PyDict>>,
        backend: &str,
        isa: Option<&str>,
    ) -> Result<Self, Failure> {
        let policy = policy::build(policy, &self::parameters(parameters, backend, isa)?)?;
        Ok(Self {
            name: policy.name(),
            state: Mutex::new(State {
                policy,
                pool: Pool::new(),
                workers: Vec::new(),
                requests: Vec::new(),
                eligible: Vec::new(),
                offsets: Vec::new(),
                ends: Vec::new(),
                assignment: Assignment::new(),
                reasons: Vec::new(),
            }),
        })
    }

    #[getter]
    fn policy(&self) -> &'static str {
        self.name
    }

    #[getter]
    fn backend(&self, py: Python<'_>) -> Result<String, Failure> {
        Ok(self.enter(py)?.policy.describe())
    }

    fn __repr__(&self) -> String {
        format!("Assigner(policy='{}')", self.name)
    }

    #[pyo3(signature = (
        load_tokens, free_slots, prompt_tokens, *, running = None, kv_capacity_tokens = None, kv_used_tokens = None,
        kv_growth_tokens = None, weight = None, accepting = None, next_completion_steps = None, ids = None,
        waited_steps = None, deadline_steps = None, rank = None, pair_row = None, survival_class = None,
        traffic = None, request_growth_tokens = 0, projection = None, ends = None, bonus_tokens = None,
        eligible = None, class_survival = None, reasons = false
    ))]
    #[allow(clippy::too_many_arguments, reason = "the columns of a step")]
    fn assign<'py>(
        &self,
        py: Python<'py>,
        load_tokens: Bound<'py, PyAny>,
        free_slots: Bound<'py, PyAny>,
        prompt_tokens: Bound<'py, PyAny>,
        running: Option<Bound<'py, PyAny>>,
        kv_capacity_tokens: Option<Bound<'py, PyAny>>,
        kv_used_tokens: Option<Bound<'py, PyAny>>,
        kv_growth_tokens: Option<Bound<'py, PyAny>>,
        weight: Option<Bound<'py, PyAny>>,
        accepting: Option<Bound<'py, PyAny>>,
        next_completion_steps: Option<Bound<'py, PyAny>>,
        ids: Option<Bound<'py, PyAny>>,
        waited_steps: Option<Bound<'py, PyAny>>,
        deadline_steps: Option<Bound<'py, PyAny>>,
        rank: Option<Bound<'py, PyAny>>,
        pair_row: Option<Bound<'py, PyAny>>,
        survival_class: Option<Bound<'py, PyAny>>,
        traffic: Option<Bound<'py, Traffic>>,
        request_growth_tokens: u32,
        projection: Option<Bound<'py, PyAny>>,
        ends: Option<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)>,
        bonus_tokens: Option<Bound<'py, PyAny>>,
        eligible: Option<Bound<'py, PyAny>>,
        class_survival: Option<Bound<'py, PyAny>>,
        reasons: bool,
    ) -> Result<Assigned, Failure> {
        let mut guard = self.enter(py)?;
        let state: &mut State = &mut guard;

        // Columns are read with the GIL held: nobody changes them meanwhile.
        let column = |name,
                      argument: &Option<Bound<'py, PyAny>>,
                      len,
                      read: &mut dyn FnMut(Column<'_>) -> Result<(), Failure>| {
            argument.as_ref().map_or(Ok(()), |argument| read(Column::new(name, argument, Some(len))?))
        };
        let load = Column::new("load_tokens", &load_tokens, None)?;
        let workers = load.len();
        if workers > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: workers }.into());
        }
        let to = &mut state.workers;
        to.clear();
        load.whole(u64::MAX, |_, tokens| to.push(Worker::new(tokens, 0, 0)))?;
        let slots = Column::new("free_slots", &free_slots, Some(workers))?;
        let most32 = u64::from(u32::MAX);
        slots.whole(most32, |at, slots| to[at].free_slots = slots as u32)?;
        column("running", &running, workers, &mut |of| {
            of.whole(most32, |at, found| to[at].running = found as u32)
        })?;
        column("kv_capacity_tokens", &kv_capacity_tokens, workers, &mut |of| {
            of.optional(u64::MAX, |at, found| to[at].kv_capacity_tokens = found)
        })?;
        column("kv_used_tokens", &kv_used_tokens, workers, &mut |of| {
            of.whole(u64::MAX, |at, found| to[at].kv_used_tokens = found)
        })?;
        column("kv_growth_tokens", &kv_growth_tokens, workers, &mut |of| {
            of.whole(u64::MAX, |at, found| to[at].kv_growth_tokens = found)
        })?;
        column("weight", &weight, workers, &mut |of| of.real(|at, found| to[at].weight = found))?;
        column("accepting", &accepting, workers, &mut |of| of.flags(|at, found| to[at].accepting = found))?;
        column("next_completion_steps", &next_completion_steps, workers, &mut |of| {
            of.optional(most32, |at, found| to[at].next_completion_steps = found.map(|steps| steps as u32))
        })?;

        let prompt = Column::new("prompt_tokens", &prompt_tokens, None)?;
        let waiting = prompt.len();
        if waiting > MAX_WAITING {
            return Err(BatchError::TooManyWaiting { limit: MAX_WAITING, found: waiting }.into());
        }
        let to = &mut state.requests;
        to.clear();
        prompt.whole(most32, |at, tokens| to.push(Request::new(at as u64, tokens as u32)))?;
        column("ids", &ids, waiting, &mut |of| of.whole(u64::MAX, |at, found| to[at].id = found))?;
        column("waited_steps", &waited_steps, waiting, &mut |of| {
            of.whole(most32, |at, found| to[at].waited_steps = found as u32)
        })?;
        let small = |found: Option<u64>| found.map(|found| found as u32);
        column("deadline_steps", &deadline_steps, waiting, &mut |of| {
            of.optional(most32, |at, found| to[at].deadline_steps = small(found))
        })?;
        column("rank", &rank, waiting, &mut |of| {
            of.optional(most32, |at, found| to[at].rank = small(found))
        })?;
        column("pair_row", &pair_row, waiting, &mut |of| {
            of.optional(most32, |at, found| to[at].pair_row = small(found))
        })?;
        column("survival_class", &survival_class, waiting, &mut |of| {
            let limit = MAX_CLASSES as u64 - 1;
            of.optional(limit, |at, found| to[at].survival_class = found.map(|class| class as u8))
        })?;

        let has_ends = ends.is_some();
        if let Some((offsets, in_steps, freed)) = &ends {
            let to = &mut state.offsets;
            to.clear();
            let offsets = Column::new("ends[0]", offsets, Some(workers + 1))?;
            offsets.whole(most32, |_, found| to.push(found as u32))?;
            let to = &mut state.ends;
            to.clear();
            let in_steps = Column::new("ends[1]", in_steps, None)?;
            in_steps.whole(most32, |_, found| {
                to.push(PredictedEnd { in_steps: found as u32, freed_tokens: 0 })
            })?;
            let freed = Column::new("ends[2]", freed, Some(to.len()))?;
            freed.whole(u64::MAX, |at, found| to[at].freed_tokens = found)?;
        }

        // Matrices are used in place and stay borrowed.
        let projection = match &projection {
            Some(argument) => Some(matrix::<u64>("projection", argument, "uint64")?),
            None => None,
        };
        let mut horizon = 0;
        if let Some(rows) = &projection {
            shaped("projection", rows.shape(), Some(workers), None)?;
            horizon = rows.shape()[1].wrapping_sub(1);
            if rows.shape()[1] == 0 {
                shaped("projection", rows.shape(), Some(workers), Some(1))?;
            }
        }
        let classes = match &class_survival {
            Some(argument) => Some(matrix::<f32>("class_survival", argument, "float32")?),
            None => None,
        };
        if let Some(rows) = &classes {
            shaped("class_survival", rows.shape(), None, Some(horizon + 1))?;
        }
        let mut pair_rows = None;
        let (mut full, mut half) = (None, None);
        if let Some(argument) = &bonus_tokens {
            let shape;
            if argument.cast::<PyArray2<f16>>().is_ok() {
                let rows = matrix::<f16>("bonus_tokens", argument, "float32 or float16")?;
                shape = [rows.shape()[0], rows.shape()[1]];
                half = Some(rows);
            } else {
                let rows = matrix::<f32>("bonus_tokens", argument, "float32 or float16")?;
                shape = [rows.shape()[0], rows.shape()[1]];
                full = Some(rows);
            }
            shaped("bonus_tokens", &shape, None, Some(workers))?;
            pair_rows = Some(shape[0]);
        }
        state.eligible.clear();
        if let Some(argument) = &eligible {
            let may = matrix::<bool>("eligible", argument, "bool")?;
            shaped("eligible", may.shape(), pair_rows, Some(workers))?;
            for row in may.as_slice().unwrap_or_default().chunks(workers.max(1)) {
                let words = row
                    .chunks(64)
                    .map(|of| of.iter().enumerate().fold(0, |word, (at, &may)| word | u64::from(may) << at));
                state.eligible.extend(words);
            }
        }
        let projection = projection.as_ref().map(|rows| rows.as_slice().unwrap_or_default());
        let classes = classes.as_ref().map(|rows| rows.as_slice().unwrap_or_default());
        let full = full.as_ref().map_or(&[][..], |rows| rows.as_slice().unwrap_or_default());
        let half = half.as_ref().map_or(&[][..], |rows| rows.as_slice().unwrap_or_default());
        let traffic = traffic.map(|of| {
            let of = of.get();
            balanceroute::Traffic {
                mean_prompt_tokens: of.mean_prompt_tokens,
                sd_prompt_tokens: of.sd_prompt_tokens,
                small_prompt_tokens: of.small_prompt_tokens,
                mean_output_tokens: of.mean_output_tokens,
            }
        });

        py.detach(|| {
            let State { policy, pool, workers, requests, eligible, offsets, ends, assignment, reasons: into } = state;
            pool.refill(requests)?;
            let mut draft = Batch::draft(workers, pool)
                .traffic(traffic.unwrap_or_default())
                .request_growth(request_growth_tokens)
                .pairs(Pairs { bonus_tokens: full, bonus_half_tokens: half, eligible });
            if let Some(rows) = projection {
                draft = draft.projection(horizon, rows);
            }
            if has_ends {
                draft = draft.ends(PredictedEnds { offsets, ends });
            }
            if let Some(rows) = classes {
                draft = draft.classes(rows);
            }
            let batch = draft.check()?;
            policy.decide(&batch, assignment);
            if reasons {
                into.clear();
                into.resize(requests.len(), u8::MAX);
                assignment.admitted.iter().for_each(|admission| into[admission.slot.index()] = 0);
                // Rows are in arrival order, as reasons are.
                let waiting = into.iter_mut().filter(|code| **code != 0);
                for (code, (_, reason)) in waiting.zip(assignment.waiting(&batch)) {
                    *code = WaitReason::ALL.iter().position(|&known| known == reason).map_or(0, |at| at as u8 + 1);
                }
            }
            Ok::<(), Failure>(())
        })?;

        let admitted = &state.assignment.admitted;
        Ok(Assigned {
            row: PyArray1::from_iter(py, admitted.iter().map(|admission| admission.slot.index() as u32))
                .unbind(),
            worker: PyArray1::from_iter(py, admitted.iter().map(|admission| admission.worker)).unbind(),
            score_tokens: PyArray1::from_iter(py, admitted.iter().map(|admission| admission.score_tokens))
                .unbind(),
            wait_reason: reasons.then(|| PyArray1::from_slice(py, &state.reasons).unbind()),
            before: Py::new(py, Balance::from(state.assignment.before))?,
            after: Py::new(py, Balance::from(state.assignment.after))?,
        })
    }
}

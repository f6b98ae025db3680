//! One step for a caller that keeps its own state.

use std::sync::Mutex;

use balanceroute::assigner::{Step, Workspace};
use balanceroute::backend::BackendKind;
use balanceroute::batch::{MAX_CLASSES, MAX_HORIZON, MAX_SLOTS, MAX_WAITING, MAX_WORKERS};
use balanceroute::policy::{self, Parameters, Policy};
use balanceroute::pool::CANDIDATE_WINDOW;
use balanceroute::{
    BatchError, Pairs, PolicyError, PredictedEnd, PredictedEnds, Request, WaitReason, Worker, WorkerIndex,
};
use half::f16;
use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Column, Matrix};
use crate::errors::Failure;
use crate::records::{Balance, record};
use crate::shared::{Shared, State, guarded};

record! {
    /// Running statistics of the traffic, in tokens.
    Traffic {
        mean_prompt_tokens: i64,
        sd_prompt_tokens: i64,
        small_prompt_tokens: i64,
        mean_output_tokens: i64,
    } made with {
        #[new]
        #[pyo3(signature = (
            mean_prompt_tokens = 0, sd_prompt_tokens = 0, small_prompt_tokens = 0, mean_output_tokens = 0
        ))]
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
    // A list of its own: what a key or a value does as it is read may change the dict.
    for item in named.map(|named| named.items()).into_iter().flatten() {
        let (name, value) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        parameters.set(&name.extract::<String>()?, value.extract::<f64>()?)?;
    }
    parameters.backend = backend.parse().map_err(|_| Failure::Argument {
        kind: "Backend",
        name: "backend",
        index: None,
        expected: format!("one of {}", BackendKind::ALL.map(BackendKind::name).join(", ")),
        found: format!("{backend:?}"),
    })?;
    if let Some(found) = isa {
        parameters.isa = Some(found.parse().map_err(|_| PolicyError::Isa { found: found.to_owned() })?);
    }
    Ok(parameters)
}

/// The policy, and how it was built.
struct Deciding {
    policy: Box<dyn Policy>,
    parameters: Parameters,
}

impl State for Deciding {
    const WAY_OUT: &'static str = "make a new assigner";

    /// A policy is built anew; with its memory goes nothing that a decision needs.
    fn mend(&mut self) -> bool {
        let Ok(policy) = policy::build(self.policy.name(), &self.parameters) else { return false };
        self.policy = policy;
        true
    }
}

/// What one call reads and answers, kept for the next.
struct Call {
    workers: Vec<Worker>,
    requests: Vec<Request>,
    offsets: Vec<u32>,
    ends: Vec<PredictedEnd>,
    projection: Vec<u64>,
    classes: Vec<f32>,
    bonuses: Vec<f32>,
    half_bonuses: Vec<f16>,
    flags: Vec<u8>,
    eligible: Vec<u64>,
    workspace: Workspace,
    // The answer.
    rows: Vec<u32>,
    on_workers: Vec<u32>,
    scores: Vec<f64>,
    reasons: Vec<u8>,
}

impl Call {
    /// For a policy that chooses among so many.
    fn new(candidates: usize) -> Self {
        Self {
            workers: Vec::new(),
            requests: Vec::new(),
            offsets: Vec::new(),
            ends: Vec::new(),
            projection: Vec::new(),
            classes: Vec::new(),
            bonuses: Vec::new(),
            half_bonuses: Vec::new(),
            flags: Vec::new(),
            eligible: Vec::new(),
            workspace: Workspace::with_window(candidates),
            rows: Vec::new(),
            on_workers: Vec::new(),
            scores: Vec::new(),
            reasons: Vec::new(),
        }
    }
}

/// Most calls at a time whose memory is kept.
const KEPT: usize = 4;

/// A policy and its buffers.
#[pyclass(frozen, module = "balanceroute")]
pub(crate) struct Assigner {
    name: &'static str,
    /// Oldest requests that a decision chooses among.
    candidates: usize,
    shared: Shared<Deciding>,
    /// Locked by who has the GIL, and for no longer than it takes to push or pop.
    #[allow(clippy::vec_box, reason = "what comes and goes is a pointer")]
    kept: Mutex<Vec<Box<Call>>>,
}

impl Assigner {
    /// With the default parameters.
    pub(crate) fn named(py: Python<'_>, policy: &str) -> Result<Self, Failure> {
        Self::new(py, policy, None, "auto", None)
    }

    fn take(&self) -> Box<Call> {
        let kept = self.kept.try_lock().ok().and_then(|mut kept| kept.pop());
        kept.unwrap_or_else(|| Box::new(Call::new(self.candidates)))
    }

    fn keep(&self, call: Box<Call>) {
        if let Ok(mut kept) = self.kept.try_lock()
            && kept.len() < KEPT
        {
            kept.push(call);
        }
    }

    /// Panics inside a call.
    #[cfg(feature = "faults")]
    pub(crate) fn fault(&self, py: Python<'_>) -> Result<(), Failure> {
        self.shared.call_detached(py, |_| panic!("asked for"))
    }
}

#[pymethods]
impl Assigner {
    #[new]
    #[pyo3(signature = (policy = "level", *, parameters = None, backend = "auto", isa = None))]
    fn new(
        py: Python<'_>,
        policy: &str,
        parameters: Option<&Bound<'_, PyDict>>,
        backend: &str,
        isa: Option<&str>,
    ) -> Result<Self, Failure> {
        let parameters = self::parameters(parameters, backend, isa)?;
        // Where there is a device it is opened and measured first.
        let policy = py.detach(|| guarded(|| policy::build(policy, &parameters)))??;
        Ok(Self {
            name: policy.name(),
            candidates: policy.needs().candidate_window.unwrap_or(CANDIDATE_WINDOW),
            shared: Shared::new(Deciding { policy, parameters }),
            kept: Mutex::default(),
        })
    }

    #[getter]
    fn policy(&self) -> &'static str {
        self.name
    }

    #[getter]
    fn backend(&self, py: Python<'_>) -> Result<String, Failure> {
        self.shared.call(py, |state| state.policy.describe())
    }

    fn __repr__(&self) -> String {
        format!("Assigner(policy='{}')", self.name)
    }

    #[pyo3(signature = (
        load_tokens, free_slots, prompt_tokens, *, running = None, kv_capacity_tokens = None,
        kv_used_tokens = None, kv_growth_tokens = None, weight = None, accepting = None,
        next_completion_steps = None, ids = None, waited_steps = None, passed = None, priority = None,
        deadline_steps = None, rank = None, pair_row = None, survival_class = None, traffic = None,
        request_growth_tokens = 0, projection = None, ends = None, bonus_tokens = None, eligible = None,
        class_survival = None, reasons = false
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
        passed: Option<Bound<'py, PyAny>>,
        priority: Option<Bound<'py, PyAny>>,
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
        let mut kept = self.take();
        let call: &mut Call = &mut kept;

        // Everything is read here, with the GIL: nobody changes it meanwhile, and it may be changed as soon
        // as the decision lets the GIL go.
        let column = |name,
                      argument: &Option<Bound<'py, PyAny>>,
                      len,
                      read: &mut dyn FnMut(Column<'_, '_>) -> Result<(), Failure>| {
            argument.as_ref().map_or(Ok(()), |argument| read(Column::new(name, argument, Some(len))?))
        };
        let load = Column::new("load_tokens", &load_tokens, None)?;
        let workers = load.len();
        if workers > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: workers }.into());
        }
        let to = &mut call.workers;
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
        let to = &mut call.requests;
        to.clear();
        prompt.whole(most32, |at, tokens| to.push(Request::new(at as u64, tokens as u32)))?;
        column("ids", &ids, waiting, &mut |of| of.whole(u64::MAX, |at, found| to[at].id = found.into()))?;
        column("waited_steps", &waited_steps, waiting, &mut |of| {
            of.whole(most32, |at, found| to[at].waited_steps = found as u32)
        })?;
        column("passed", &passed, waiting, &mut |of| {
            of.whole(most32, |at, found| to[at].passed = found as u32)
        })?;
        column("priority", &priority, waiting, &mut |of| {
            of.signed(|at, found| {
                to[at].priority = BatchError::check_priority(Some(at), to[at].id, found)?;
                Ok(())
            })
        })?;
        let small = |found: Option<u64>| found.map(|found| found as u32);
        column("deadline_steps", &deadline_steps, waiting, &mut |of| {
            of.optional(most32, |at, found| to[at].deadline_steps = small(found))
        })?;
        column("rank", &rank, waiting, &mut |of| {
            of.optional(most32, |at, found| to[at].rank = small(found).map(WorkerIndex))
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
            let to = &mut call.offsets;
            to.clear();
            let offsets = Column::new("ends[0]", offsets, Some(workers + 1))?;
            offsets.whole(most32, |_, found| to.push(found as u32))?;
            let to = &mut call.ends;
            to.clear();
            let in_steps = Column::new("ends[1]", in_steps, None)?;
            in_steps.at_most(workers * MAX_SLOTS as usize)?;
            in_steps.whole(most32, |_, found| {
                to.push(PredictedEnd { in_steps: found as u32, freed_tokens: 0 })
            })?;
            let freed = Column::new("ends[2]", freed, Some(to.len()))?;
            freed.whole(u64::MAX, |at, found| to[at].freed_tokens = found)?;
        }

        let mut horizon = 0;
        call.projection.clear();
        if let Some(argument) = &projection {
            let rows = Matrix::whole("projection", argument)?;
            // At least the tokens of now.
            rows.shaped(Some(workers), if rows.columns() == 0 { Some(1) } else { None })?;
            horizon = rows.columns() - 1;
            if horizon > MAX_HORIZON {
                let what = "projection";
                return Err(BatchError::Horizon { what, limit: MAX_HORIZON, found: horizon }.into());
            }
            rows.read_whole(&mut call.projection)?;
        }
        call.classes.clear();
        if let Some(argument) = &class_survival {
            let rows = Matrix::single("class_survival", argument)?;
            rows.shaped(None, Some(horizon + 1))?;
            rows.at_most(MAX_CLASSES)?;
            rows.read_single(&mut call.classes)?;
        }
        let mut pair_rows = None;
        call.bonuses.clear();
        call.half_bonuses.clear();
        if let Some(argument) = &bonus_tokens {
            let rows = Matrix::bonuses("bonus_tokens", argument)?;
            rows.shaped(None, Some(workers))?;
            rows.at_most(MAX_WAITING)?;
            if rows.is_half() {
                rows.read_half(&mut call.half_bonuses)?;
            } else {
                rows.read_single(&mut call.bonuses)?;
            }
            pair_rows = Some(rows.rows());
        }
        call.eligible.clear();
        if let Some(argument) = &eligible {
            let may = Matrix::flags("eligible", argument)?;
            may.shaped(pair_rows, Some(workers))?;
            may.at_most(MAX_WAITING)?;
            may.read_bits(&mut call.flags, &mut call.eligible)?;
        }
        let (has_projection, has_classes) = (projection.is_some(), class_survival.is_some());
        let traffic = traffic.map(|of| {
            let of = of.get();
            balanceroute::Traffic::new()
                .prompts(of.mean_prompt_tokens, of.sd_prompt_tokens)
                .small_prompts(of.small_prompt_tokens)
                .outputs(of.mean_output_tokens)
        });

        let (before, after) = py.detach(|| {
            let Call { workers, requests, offsets, ends, bonuses, half_bonuses, eligible, .. } = call;
            let pairs = Pairs { bonus_tokens: bonuses, bonus_half_tokens: half_bonuses, eligible };
            let mut step = Step::new(workers, requests)
                .traffic(traffic.unwrap_or_default())
                .request_growth(request_growth_tokens)
                .pairs(pairs);
            if has_projection {
                step = step.projection(horizon, &call.projection);
            }
            if has_ends {
                step = step.ends(PredictedEnds { offsets, ends });
            }
            if has_classes {
                step = step.classes(&call.classes);
            }
            let (rows, on_workers, scores) = (&mut call.rows, &mut call.on_workers, &mut call.scores);
            let (workspace, codes) = (&mut call.workspace, &mut call.reasons);
            guarded(|| -> Result<_, Failure> {
                let decision = workspace.decide(&step, |batch, out| {
                    self.shared.locked(|state| state.policy.decide(batch, out))
                })?;
                rows.clear();
                on_workers.clear();
                scores.clear();
                for (row, admission) in decision.admissions() {
                    rows.push(row as u32);
                    on_workers.push(admission.worker.get());
                    scores.push(admission.score_tokens);
                }
                codes.clear();
                if reasons {
                    codes.extend(decision.reasons().into_iter().map(|of| of.map_or(0, WaitReason::code)));
                }
                Ok((decision.before(), decision.after()))
            })?
        })?;
        let found = Assigned {
            row: PyArray1::from_slice(py, &call.rows).unbind(),
            worker: PyArray1::from_slice(py, &call.on_workers).unbind(),
            score_tokens: PyArray1::from_slice(py, &call.scores).unbind(),
            wait_reason: reasons.then(|| PyArray1::from_slice(py, &call.reasons).unbind()),
            before: Py::new(py, Balance::from(before))?,
            after: Py::new(py, Balance::from(after))?,
        };
        self.keep(kept);
        Ok(found)
    }
}

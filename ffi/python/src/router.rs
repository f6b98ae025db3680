//! The state across steps.

use std::path::PathBuf;

use balanceroute::router::{self as core, RouterConfig, Share};
use balanceroute::{RequestId, WorkerId};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyType};

use crate::assign::parameters;
use crate::cluster::Cluster;
use crate::errors::Failure;
use crate::metrics::{Metrics, RankMetrics};
use crate::plan::{
    Dispatch, Explanation, Finished, Plan, Preempted, Returned, WorkerConfig, arriving, grown, list, mode,
    waiting,
};
use crate::recording::{self, Recording, Untold};
use crate::records::wait_reason;
use crate::shared::Shared;
use crate::terms::{Terms, bonuses, worker_ids};

/// The state across steps of one cluster, and one policy that decides.
#[pyclass(frozen, module = "balanceroute")]
pub(crate) struct Router {
    policy: &'static str,
    backend: String,
    shared: Shared<Cluster>,
}

impl Router {
    fn of(cluster: Cluster) -> Self {
        let policy = cluster.router.policy();
        Self { policy: policy.name(), backend: policy.describe(), shared: Shared::new(cluster) }
    }

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
        lower_class_one_in = None, share = (0, 1), in_order = false, headroom_steps = None,
        preemption_cost = None, refresh_steps = 16, ends_horizon_steps = 512, dispatch_timeout_ms = None,
        silence_timeout_ms = None, expire_after_ms = None, explaining = false
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
        lower_class_one_in: Option<u32>,
        share: (u32, u32),
        in_order: bool,
        headroom_steps: Option<u32>,
        preemption_cost: Option<(f64, f64)>,
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
            .preemption_cost(preemption_cost.map(|(step, prefill)| core::PreemptionCost::new(step, prefill)))
            .refresh_steps(refresh_steps)
            .ends_horizon_steps(ends_horizon_steps)
            .mode(self::mode(mode)?)
            .lower_class_one_in(lower_class_one_in)
            .share(Share::new(share.0, share.1))
            .in_order(in_order)
            .dispatch_timeout_ms(dispatch_timeout_ms)
            .silence_timeout_ms(silence_timeout_ms)
            .expire_after_ms(expire_after_ms);
        let parameters = self::parameters(parameters, backend, isa)?;
        Ok(Self::of(Cluster::built(py, config, (policy, &parameters), explaining)?))
    }

    /// The router of a process that is no more, from what it had recorded; it goes on to record there.
    #[classmethod]
    #[pyo3(signature = (folder, *, segment_bytes = None, segments = None))]
    fn resume(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        folder: PathBuf,
        segment_bytes: Option<u64>,
        segments: Option<u64>,
    ) -> Result<Self, Failure> {
        let config = recording::config(folder, segment_bytes, segments);
        Ok(Self::of(recording::resumed(py, &config)?))
    }

    /// Writes every call from now on, with its answer, into the log of a folder.
    #[pyo3(signature = (folder, *, segment_bytes = None, segments = None))]
    fn record(
        &self,
        py: Python<'_>,
        folder: PathBuf,
        segment_bytes: Option<u64>,
        segments: Option<u64>,
    ) -> Result<(), Failure> {
        let config = recording::config(folder, segment_bytes, segments);
        Ok(self.shared.call_detached(py, |state| state.router.record(&config))??)
    }

    /// Ends the recording. How it stood.
    fn stop_recording(&self, py: Python<'_>) -> Result<Option<Recording>, Failure> {
        Ok(self.shared.call(py, |state| state.router.stop_recording())?.map(Recording::from))
    }

    #[getter]
    fn recording(&self, py: Python<'_>) -> Result<Option<Recording>, Failure> {
        Ok(self.shared.call(py, |state| state.router.recording())?.map(Recording::from))
    }

    /// Lets a request wait for a step. `rank` is the id of the only worker that may take it.
    #[pyo3(signature = (
        id, prompt_tokens, *, cached_tokens = 0, generated_tokens = 0, max_tokens = None, waited_steps = 0,
        passed = 0, priority = 0, deadline_steps = None, prompt_hash = None, rank = None, now_ms = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn enqueue(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        cached_tokens: u32,
        generated_tokens: u32,
        max_tokens: Option<u32>,
        waited_steps: u32,
        passed: u32,
        priority: i64,
        deadline_steps: Option<u32>,
        prompt_hash: Option<u64>,
        rank: Option<u32>,
        now_ms: Option<u64>,
    ) -> Result<(), Failure> {
        let request = arriving((id, prompt_tokens, priority), (cached_tokens, generated_tokens, max_tokens))?;
        let request = waiting(request, (waited_steps, passed, deadline_steps), (prompt_hash, rank));
        Ok(self.shared.call(py, |state| state.router.enqueue(request, now_ms))??)
    }

    /// What a waiting request gains on single workers, and which may take it, by their ids and for as long
    /// as it waits.
    #[pyo3(signature = (id, *, bonus_tokens = None, eligible = None))]
    fn set_terms(
        &self,
        py: Python<'_>,
        id: u64,
        bonus_tokens: Option<&Bound<'_, PyDict>>,
        eligible: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let bonus_tokens = bonuses(id, bonus_tokens)?;
        let eligible = eligible.map(worker_ids).transpose()?;
        Ok(self.shared.call(py, |state| state.set_terms(id, bonus_tokens, eligible))??)
    }

    /// A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else it
    /// waits, and `None` comes.
    #[pyo3(signature = (
        id, prompt_tokens, now_ms, *, cached_tokens = 0, generated_tokens = 0, max_tokens = None,
        waited_steps = 0, passed = 0, priority = 0, deadline_steps = None, prompt_hash = None, rank = None,
        bonus_tokens = None, eligible = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn place(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        now_ms: u64,
        cached_tokens: u32,
        generated_tokens: u32,
        max_tokens: Option<u32>,
        waited_steps: u32,
        passed: u32,
        priority: i64,
        deadline_steps: Option<u32>,
        prompt_hash: Option<u64>,
        rank: Option<u32>,
        bonus_tokens: Option<&Bound<'_, PyAny>>,
        eligible: Option<&Bound<'_, PyAny>>,
    ) -> Result<Option<Dispatch>, Failure> {
        let request = arriving((id, prompt_tokens, priority), (cached_tokens, generated_tokens, max_tokens))?;
        let request = waiting(request, (waited_steps, passed, deadline_steps), (prompt_hash, rank));
        let terms = Terms::of_request(id, bonus_tokens, eligible)?;
        Ok(self.shared.call(py, |state| state.place(request, now_ms, &terms))??.map(Dispatch::from))
    }

    /// A request enters a worker whether or not that has room, or the one with the shortest queue; one that
    /// waits here waits no more.
    #[pyo3(signature = (
        id, prompt_tokens, *, worker = None, cached_tokens = 0, generated_tokens = 0, max_tokens = None,
        priority = 0, prompt_hash = None, now_ms = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn send(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        worker: Option<u32>,
        cached_tokens: u32,
        generated_tokens: u32,
        max_tokens: Option<u32>,
        priority: i64,
        prompt_hash: Option<u64>,
        now_ms: Option<u64>,
    ) -> Result<Dispatch, Failure> {
        let request = arriving((id, prompt_tokens, priority), (cached_tokens, generated_tokens, max_tokens))?
            .hash(prompt_hash);
        let worker = worker.map(WorkerId::new);
        let dispatch = self.shared.call(py, |state| {
            let sent = state.router.send(request, worker, now_ms)?;
            state.terms.drop(id);
            Ok::<_, core::RouterError>(sent)
        })??;
        Ok(dispatch.into())
    }

    /// Takes over a request that already runs on a worker (a restart, a warm start, an engine that resumes).
    #[pyo3(signature = (
        id, prompt_tokens, worker, *, generated_tokens = 0, max_tokens = None, priority = 0,
        prompt_hash = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn adopt(
        &self,
        py: Python<'_>,
        id: u64,
        prompt_tokens: u32,
        worker: u32,
        generated_tokens: u32,
        max_tokens: Option<u32>,
        priority: i64,
        prompt_hash: Option<u64>,
    ) -> Result<(), Failure> {
        let request = arriving((id, prompt_tokens, priority), (0, 0, max_tokens))?.hash(prompt_hash);
        Ok(self.shared.call(py, |state| {
            state.router.adopt(request, worker, generated_tokens)?;
            state.terms.drop(id);
            Ok::<_, core::RouterError>(())
        })??)
    }

    /// A running request has sent its last token.
    #[pyo3(signature = (id, *, now_ms = None))]
    fn finish(&self, py: Python<'_>, id: u64, now_ms: Option<u64>) -> Result<Finished, Failure> {
        Ok(self.shared.call(py, |state| state.router.finish(id, now_ms))??.into())
    }

    /// `finish` of the life that this dispatch began.
    #[pyo3(signature = (dispatch, *, now_ms = None))]
    fn finish_dispatch(
        &self,
        py: Python<'_>,
        dispatch: &Bound<'_, Dispatch>,
        now_ms: Option<u64>,
    ) -> Result<Finished, Failure> {
        let dispatch = core::Dispatch::from(dispatch.get());
        Ok(self.shared.call(py, |state| state.router.finish_dispatch(&dispatch, now_ms))??.into())
    }

    /// A waiting or running request was given up; the worker that it ran on, if any.
    #[pyo3(signature = (id, *, now_ms = None))]
    fn abort(&self, py: Python<'_>, id: u64, now_ms: Option<u64>) -> Result<Option<u32>, Failure> {
        let left = self.shared.call(py, |state| {
            let left = state.router.abort(id, now_ms)?;
            state.terms.drop(id);
            Ok::<_, core::RouterError>(left)
        })??;
        Ok(left.map(WorkerId::get))
    }

    /// `abort` of the life that this dispatch began.
    #[pyo3(signature = (dispatch, *, now_ms = None))]
    fn abort_dispatch(
        &self,
        py: Python<'_>,
        dispatch: &Bound<'_, Dispatch>,
        now_ms: Option<u64>,
    ) -> Result<Option<u32>, Failure> {
        let dispatch = core::Dispatch::from(dispatch.get());
        let left = self.shared.call(py, |state| state.router.abort_dispatch(&dispatch, now_ms))??;
        Ok(left.map(WorkerId::get))
    }

    /// It holds KV and does not decode yet: transfer from a prefill node, chunked prefill.
    fn held(&self, py: Python<'_>, id: u64) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.held(id))??)
    }

    /// It decodes from now on.
    fn transfer_done(&self, py: Python<'_>, id: u64) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.transfer_done(id))??)
    }

    /// Its engine has put it off and will go on with it by itself.
    fn preempted(&self, py: Python<'_>, id: u64) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.preempted(id))??)
    }

    /// Its engine goes on with it.
    fn resumed(&self, py: Python<'_>, id: u64) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.resumed(id))??)
    }

    /// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length
    /// that is answered.
    fn preempt(&self, py: Python<'_>, id: u64) -> Result<u32, Failure> {
        Ok(self.shared.call(py, |state| state.router.preempt(id))??.prompt_tokens)
    }

    /// `preempt` that answers with the whole request.
    fn preempt_request(&self, py: Python<'_>, id: u64) -> Result<Preempted, Failure> {
        Ok(self.shared.call(py, |state| state.router.preempt(id))??.into())
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

    /// Many running requests have so many tokens more; those that do not run are passed over. How many grew.
    #[pyo3(signature = (ids, tokens = None))]
    fn progress_requests(
        &self,
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        tokens: Option<&Bound<'_, PyAny>>,
    ) -> Result<usize, Failure> {
        let grown = grown(ids, tokens)?;
        Ok(self.shared.call(py, |state| state.router.progress_requests(&grown))??)
    }

    /// Whatever was sent to a worker by then and that nothing has shown is no longer ours: its end will not
    /// be told. Ids of these.
    fn disown_sent(&self, py: Python<'_>, worker: u32, until_ms: u64) -> Result<Vec<u64>, Failure> {
        let left = self.shared.call(py, |state| {
            let mut left = Vec::new();
            state.router.disown_sent(worker, until_ms, &mut left).map(|()| left)
        })??;
        Ok(left.into_iter().map(RequestId::get).collect())
    }

    /// What a worker measured; what became of the report.
    #[pyo3(signature = (
        worker, *, running, kv_used_tokens, waiting = 0, kv_capacity_tokens = None, sequence = None,
        last_dispatch = None, missing = 0, epoch = None, age_ms = 0, kv_age_ms = None, now_ms = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "the fields of a report")]
    fn report(
        &self,
        py: Python<'_>,
        worker: u32,
        running: u32,
        kv_used_tokens: Option<u64>,
        waiting: u32,
        kv_capacity_tokens: Option<u64>,
        sequence: Option<u64>,
        last_dispatch: Option<u64>,
        missing: u64,
        epoch: Option<u64>,
        age_ms: u32,
        kv_age_ms: Option<u32>,
        now_ms: Option<u64>,
    ) -> Result<&'static str, Failure> {
        let report = core::WorkerReport::requests(running, waiting)
            .kv_used(kv_used_tokens)
            .sequence(sequence)
            .last_dispatch(last_dispatch)
            .missing(missing)
            .epoch(epoch)
            .age(age_ms)
            .kv_age(kv_age_ms)
            .capacity(kv_capacity_tokens);
        Ok(self.shared.call(py, |state| state.router.report(worker, report, now_ms))??.name())
    }

    /// A worker joins, empty. Its id.
    fn add_worker(&self, py: Python<'_>, worker: &Bound<'_, WorkerConfig>) -> Result<u32, Failure> {
        let worker = worker.get().into();
        Ok(self.shared.call(py, |state| state.router.add_worker(worker))??.get())
    }

    /// A worker that is yet to come: closed until `set_accepting` opens it. Its id.
    fn announce_worker(&self, py: Python<'_>, worker: &Bound<'_, WorkerConfig>) -> Result<u32, Failure> {
        let worker = worker.get().into();
        Ok(self.shared.call(py, |state| state.router.announce_worker(worker))??.get())
    }

    /// It has other slots, another KV capacity or another weight from now on.
    fn configure_worker(
        &self,
        py: Python<'_>,
        worker: u32,
        config: &Bound<'_, WorkerConfig>,
    ) -> Result<(), Failure> {
        let config = config.get().into();
        Ok(self.shared.call(py, |state| state.router.configure_worker(worker, config))??)
    }

    /// This is number `index` of `of` front ends from now on.
    fn set_share(&self, py: Python<'_>, index: u32, of: u32) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.set_share(Share::new(index, of)))??)
    }

    /// As it is configured now.
    fn worker_config(&self, py: Python<'_>, worker: u32) -> Result<WorkerConfig, Failure> {
        Ok(self.shared.call(py, |state| state.router.worker_config(worker))??.into())
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
        let returned = self.shared.call_detached(py, |state| state.remove_worker(worker))??;
        Ok(list::<Returned>(py, returned)?)
    }

    /// What the traffic has taught so far.
    fn learned(&self, py: Python<'_>) -> Result<Py<PyBytes>, Failure> {
        Ok(PyBytes::new(py, &self.shared.call(py, |state| state.router.learned())?).unbind())
    }

    /// Goes on from what another router had learned.
    fn learn(&self, py: Python<'_>, learned: &[u8]) -> Result<(), Failure> {
        Ok(self.shared.call(py, |state| state.router.learn(learned))??)
    }

    /// Begins anew, whatever has happened to the count: every request comes back.
    fn recover(&self, py: Python<'_>) -> Result<Py<PyList>, Failure> {
        let returned = self.shared.repair(py, |state| {
            state.terms.clear();
            state.router.recover()
        })?;
        Ok(list::<Returned>(py, returned)?)
    }

    /// Decides a step and accounts for what it admits.
    #[pyo3(signature = (now_ms, *, bonus_tokens = None, eligible = None))]
    fn step(
        &self,
        py: Python<'_>,
        now_ms: u64,
        bonus_tokens: Option<&Bound<'_, PyDict>>,
        eligible: Option<&Bound<'_, PyDict>>,
    ) -> Result<Plan, Failure> {
        let terms = Terms::of_step(bonus_tokens, eligible)?;
        let plan = self.shared.call_detached(py, |state| state.step(now_ms, &terms))??;
        Ok(Plan::of(py, plan)?)
    }

    /// Why the last step, or a placement since, decided as it did; why a waiting request waits.
    fn explain(&self, py: Python<'_>, id: u64) -> Result<Option<Explanation>, Failure> {
        let found = self.shared.call_detached(py, |state| state.router.explain(id))?;
        Ok(found.map(|found| Explanation::of(py, &found)).transpose()?)
    }

    /// Why each request still waits, in order of arrival.
    fn waiting(&self, py: Python<'_>) -> Result<Vec<(u64, Py<PyAny>)>, Failure> {
        let waiting = self.shared.call_detached(py, |state| state.router.waiting())?;
        let told = waiting.into_iter().map(|(id, reason)| Ok((id.get(), wait_reason(py, reason)?)));
        Ok(told.collect::<PyResult<_>>()?)
    }

    /// Who runs, in order of id: the worker, and the number of the dispatch, 0 for one that was adopted.
    fn running(&self, py: Python<'_>) -> Result<Vec<(u64, u32, u64)>, Failure> {
        self.shared.call_detached(py, |state| {
            let running = state.router.running();
            running.map(|(id, worker, number)| (id.get(), worker.get(), number)).collect()
        })
    }

    /// Dispatches that nothing has shown to have arrived.
    fn unseen(&self, py: Python<'_>) -> Result<Py<PyList>, Failure> {
        Ok(list::<Dispatch>(py, self.shared.call_detached(py, |state| state.router.unseen())?)?)
    }

    /// These, made again now.
    fn resend(&self, py: Python<'_>, now_ms: u64) -> Result<Py<PyList>, Failure> {
        Ok(list::<Dispatch>(py, self.shared.call_detached(py, |state| state.router.resend(now_ms))?)?)
    }

    /// Who has left without having finished, by the last plan or since, and has not come again.
    fn untold(&self, py: Python<'_>) -> Result<Untold, Failure> {
        let untold = self.shared.call(py, |state| state.router.untold().cloned().unwrap_or_default())?;
        Ok(Untold::of(py, untold)?)
    }

    /// How it stands.
    fn metrics(&self, py: Python<'_>) -> Result<Metrics, Failure> {
        let (metrics, recording) = self.shared.call_detached(py, |state| {
            let mut metrics = core::Metrics::default();
            state.router.metrics(&mut metrics);
            (metrics, state.router.recording())
        })?;
        Ok(Metrics::of(py, &metrics, recording.as_ref())?)
    }

    /// One worker as it stands.
    fn rank_metrics(&self, py: Python<'_>, worker: u32) -> Result<RankMetrics, Failure> {
        let rank = self.shared.call(py, |state| state.router.rank_metrics(worker))??;
        Ok(RankMetrics::of(py, &rank)?)
    }

    /// Tokens that a running request has generated.
    fn generated_tokens(&self, py: Python<'_>, id: u64) -> Result<Option<u32>, Failure> {
        self.shared.call(py, |state| state.router.generated_tokens(id))
    }

    /// Tokens of a running request's prompt.
    fn prompt_tokens(&self, py: Python<'_>, id: u64) -> Result<Option<u32>, Failure> {
        self.shared.call(py, |state| state.router.prompt_tokens(id))
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
        self.shared.call(py, |state| state.router.is_explaining())
    }

    #[setter]
    fn set_explaining(&self, py: Python<'_>, on: bool) -> Result<(), Failure> {
        self.shared.call(py, |state| state.router.set_explaining(on))
    }

    fn __repr__(&self, py: Python<'_>) -> Result<String, Failure> {
        self.shared.call(py, |state| state.in_short(self.policy))
    }
}

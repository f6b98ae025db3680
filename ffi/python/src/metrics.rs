//! Metrics as Python reads them.

use std::collections::BTreeMap;

use balanceroute::record::Recording;
use balanceroute::router::{self as core, ReturnReason};
use balanceroute::{RequestId, WaitReason};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::Failure;
use crate::records::{record, wait_reason};

record! {
    /// Counts in powers of two.
    Histogram { buckets: Vec<u64>, sum: u64, count: u64 } made with {
        #[new]
        fn new(buckets: Vec<u64>, sum: u64, count: u64) -> Result<Self, Failure> {
            let total = buckets.iter().try_fold(0u64, |total, &of| total.checked_add(of));
            if buckets.len() == core::Histogram::BUCKETS && total == Some(count) {
                return Ok(Self { buckets, sum, count });
            }
            Err(Failure::Argument {
                kind: "Histogram",
                name: "buckets",
                index: None,
                expected: format!("{} counts that add up to {count}", core::Histogram::BUCKETS),
                found: format!("{} that do not", buckets.len()),
            })
        }

        #[staticmethod]
        fn upper_bound(bucket: usize) -> Option<u64> {
            core::Histogram::upper_bound(bucket)
        }

        fn quantile(&self, q: f64) -> Option<u64> {
            let mut of = core::Histogram { sum: self.sum, ..Default::default() };
            of.buckets.copy_from_slice(&self.buckets);
            of.quantile(q)
        }
    }
}

impl From<core::Histogram> for Histogram {
    fn from(of: core::Histogram) -> Self {
        Self { buckets: of.buckets.to_vec(), sum: of.sum, count: of.count() }
    }
}

record! {
    /// Reports of a worker by what became of them.
    ReportCounts { taken: u64, repeated: u64, late: u64, contradictory: u64, restarted: u64 }
}

record! {
    /// One worker as it stands.
    RankMetrics {
        worker: u32,
        accepting: bool,
        draining: bool,
        claimed_by: Option<u64>,
        load_tokens: u64,
        margin_tokens: f64,
        running: u32,
        held: u32,
        preempted: u32,
        own_tokens: u64,
        slots: u32,
        free_slots: u32,
        kv_used_tokens: u64,
        kv_growth_tokens: u64,
        kv_capacity_tokens: Option<u64>,
        foreign_requests: u32,
        foreign_tokens: u64,
        shared_tokens: u64,
        dispatches: u64,
        acknowledged: u64,
        unseen: u32,
        report_age_ms: Option<u64>,
        reports: Py<ReportCounts>,
    }
}

record! {
    /// How a router stands and what has happened since it was made.
    Metrics {
        now_ms: u64,
        step: u64,
        ranks: Py<PyList>,
        waiting: u64,
        waiting_by_reason: Py<PyDict>,
        waiting_by_priority: BTreeMap<i8, u64>,
        running: u64,
        envelope_tokens: f64,
        imbalance_tokens: f64,
        longest_wait_steps: u32,
        longest_wait_ms: u64,
        most_passed_waiting: u32,
        max_passed: Option<u32>,
        arrived: u64,
        admitted_by_step: u64,
        placed_on_arrival: u64,
        finished: u64,
        aborted: u64,
        preempted: u64,
        preempted_in_place: u64,
        adopted_beyond: u64,
        sent_beyond: u64,
        disowned: u64,
        returned: BTreeMap<String, u64>,
        clock_jumps: u64,
        decide_ns: Py<Histogram>,
        wait_ms: Py<Histogram>,
        wait_steps: Py<Histogram>,
        passed: Py<Histogram>,
        most_passed: u32,
        claims: u64,
        admitted_beside_claims: u64,
        recording: Option<bool>,
        recorded_calls: Option<u64>,
    }
}

impl RankMetrics {
    pub(crate) fn of(py: Python<'_>, of: &core::RankMetrics) -> PyResult<Self> {
        let core::ReportCounts { taken, repeated, late, contradictory, restarted } = of.reports;
        Ok(Self {
            worker: of.worker.get(),
            accepting: of.accepting,
            draining: of.draining,
            claimed_by: of.claimed_by.map(RequestId::get),
            load_tokens: of.load_tokens,
            margin_tokens: of.margin_tokens,
            running: of.running,
            held: of.held,
            preempted: of.preempted,
            own_tokens: of.own_tokens,
            slots: of.slots,
            free_slots: of.free_slots,
            kv_used_tokens: of.kv_used_tokens,
            kv_growth_tokens: of.kv_growth_tokens,
            kv_capacity_tokens: of.kv_capacity_tokens,
            foreign_requests: of.foreign_requests,
            foreign_tokens: of.foreign_tokens,
            shared_tokens: of.shared_tokens,
            dispatches: of.dispatches,
            acknowledged: of.acknowledged,
            unseen: of.unseen,
            report_age_ms: of.report_age_ms,
            reports: Py::new(py, ReportCounts { taken, repeated, late, contradictory, restarted })?,
        })
    }
}

impl Metrics {
    /// As Python reads them, of what was copied out of a router.
    pub(crate) fn of(py: Python<'_>, of: &core::Metrics, recording: Option<&Recording>) -> PyResult<Self> {
        let ranks = of.ranks.iter().map(|rank| Py::new(py, RankMetrics::of(py, rank)?));
        let ranks = PyList::new(py, ranks.collect::<PyResult<Vec<_>>>()?)?.unbind();
        let by_reason = PyDict::new(py);
        for (reason, count) in WaitReason::ALL.into_iter().zip(of.waiting_by_reason) {
            by_reason.set_item(wait_reason(py, reason)?, count)?;
        }
        let counters = of.counters;
        let returned =
            ReturnReason::ALL.into_iter().map(|reason| reason.name().to_owned()).zip(counters.returned);
        Ok(Self {
            now_ms: of.now_ms,
            step: of.step,
            ranks,
            waiting: of.waiting,
            waiting_by_reason: by_reason.unbind(),
            waiting_by_priority: of.waiting_by_priority.iter().copied().collect(),
            running: of.running,
            envelope_tokens: of.envelope_tokens,
            imbalance_tokens: of.imbalance_tokens,
            longest_wait_steps: of.longest_wait_steps,
            longest_wait_ms: of.longest_wait_ms,
            most_passed_waiting: of.most_passed,
            max_passed: of.max_passed,
            arrived: counters.arrived,
            admitted_by_step: counters.admitted_by_step,
            placed_on_arrival: counters.placed_on_arrival,
            finished: counters.finished,
            aborted: counters.aborted,
            preempted: counters.preempted,
            preempted_in_place: counters.preempted_in_place,
            adopted_beyond: counters.adopted_beyond,
            sent_beyond: counters.sent_beyond,
            disowned: counters.disowned,
            returned: returned.collect(),
            clock_jumps: counters.clock_jumps,
            decide_ns: Py::new(py, Histogram::from(counters.decide_ns))?,
            wait_ms: Py::new(py, Histogram::from(counters.wait_ms))?,
            wait_steps: Py::new(py, Histogram::from(counters.wait_steps))?,
            passed: Py::new(py, Histogram::from(counters.passed))?,
            most_passed: counters.most_passed,
            claims: counters.claims,
            admitted_beside_claims: counters.admitted_beside_claims,
            recording: recording.map(|of| of.stopped.is_none()),
            recorded_calls: recording.map(|of| of.calls),
        })
    }
}

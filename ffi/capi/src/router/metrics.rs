//! How a router stands.

use std::mem::offset_of;

use balanceroute::router::{Histogram, Metrics, RankMetrics, ReportCounts};
use balanceroute::{RequestId, ReturnReason, WaitReason};

use super::{br_return_reason, br_router, write_if};
use crate::BR_NONE64;
use crate::columns::br_reason;
use crate::guard::{Failure, Versioned, br_status, maybe_output, output, read_versioned, write_versioned};

/// Buckets of a histogram.
pub const BR_BUCKETS: usize = 40;

/// Counts in powers of two: bucket `b` has values of `b` binary digits, the last one all that are longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_histogram {
    /// Counts.
    pub buckets: [u64; BR_BUCKETS],
    /// Sum of all values.
    pub sum: u64,
}

const _: () = assert!(BR_BUCKETS == Histogram::BUCKETS);

impl From<Histogram> for br_histogram {
    fn from(of: Histogram) -> Self {
        Self { buckets: of.buckets, sum: of.sum }
    }
}

/// One worker as it stands, an entry of `br_metrics.ranks`; `br_rank` says more.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_rank_metrics {
    /// KV tokens that it reads each step, foreign ones included.
    pub load_tokens: u64,
    /// Tokens by which it is below the most loaded worker.
    pub margin_tokens: f64,
    /// KV tokens counted as used.
    pub kv_used_tokens: u64,
    /// KV tokens kept free for the growth of what runs.
    pub kv_growth_tokens: u64,
    /// KV tokens that fit; `BR_NONE64` for no bound.
    pub kv_capacity_tokens: u64,
    /// Tokens that the last report showed and that are none of ours.
    pub foreign_tokens: u64,
    /// Dispatches made.
    pub dispatches: u64,
    /// The last one acknowledged by a report.
    pub acknowledged: u64,
    /// Milliseconds since a report was taken; `BR_NONE64` before the first.
    pub report_age_ms: u64,
    /// Reports: taken, repeated, late, contradictory, restarted.
    pub reports: [u64; 5],
    /// Worker id.
    pub worker: u32,
    /// Whether it takes new requests: 0 or 1.
    pub accepting: u32,
    /// Whether it is being drained.
    pub draining: u32,
    /// Requests of ours that run there.
    pub running: u32,
    /// Slots that this router is sure of.
    pub slots: u32,
    /// Slots that an admission could take.
    pub free_slots: u32,
    /// Requests that the last report showed and that are none of ours.
    pub foreign_requests: u32,
    /// Dispatches that nothing has shown yet.
    pub unseen: u32,
}

/// How a router stands and what has happened since it was made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_metrics {
    /// `sizeof(br_metrics)`.
    pub struct_size: usize,
    /// One entry per worker, in order of id; or NULL.
    pub ranks: *mut br_rank_metrics,
    /// Entries that `ranks` holds.
    pub rank_capacity: usize,
    /// Out: workers; more than `rank_capacity` only if `ranks` is NULL.
    pub rank_count: usize,
    /// Out: the caller's clock.
    pub now_ms: u64,
    /// Out: the step clock.
    pub step: u64,
    /// Out: requests that wait.
    pub waiting: u64,
    /// Out: the same by `br_reason` up to `BR_DEFERRED`; entry 0 stays zero.
    pub waiting_by_reason: [u64; 6],
    /// Out: requests that run.
    pub running: u64,
    /// Out: the greatest load, tokens times weight: a step lasts as long as this.
    pub envelope_tokens: f64,
    /// Out: workers times the greatest load minus the sum of loads.
    pub imbalance_tokens: f64,
    /// Out: wait of the first of those who wait now.
    pub longest_wait_ms: u64,
    /// Out: longest wait of those who wait now.
    pub longest_wait_steps: u64,
    /// Out: requests enqueued, placed or adopted.
    pub arrived: u64,
    /// Out: admissions by steps.
    pub admitted_by_step: u64,
    /// Out: placements on arrival.
    pub placed_on_arrival: u64,
    /// Out: requests that finished.
    pub finished: u64,
    /// Out: requests given up.
    pub aborted: u64,
    /// Out: requests put off their worker.
    pub preempted: u64,
    /// Out: requests returned, by `br_return_reason` up to `BR_EXPIRED`; entry 0 stays zero.
    pub returned: [u64; 8],
    /// Out: time of a decision in nanoseconds.
    pub decide_ns: br_histogram,
    /// Out: waits of the admitted in milliseconds.
    pub wait_ms: br_histogram,
    /// Out: the same in steps.
    pub wait_steps: br_histogram,
    /// Out: requests returned as `BR_RECOVERED`.
    pub recovered: u64,
    /// Out: jumps of the caller's clock: readings more than ten minutes ahead of the last one or more than
    /// ten seconds behind it. No time passes by them.
    pub clock_jumps: u64,
    /// Out: times that an engine put a request off to go on with it by itself.
    pub preempted_in_place: u64,
    /// Out: of those adopted, how many had no slot or no room by our count.
    pub adopted_beyond: u64,
    /// Out: requests sent to a worker that had no room by our count.
    pub sent_beyond: u64,
    /// Out: requests whose ends are not told (`br_router_disown_sent`).
    pub disowned: u64,
    /// Out: how many that came later were admitted before each of the admitted, to workers that it might use.
    pub passed: br_histogram,
    /// Out: the most of these.
    pub most_passed: u64,
    /// Out: the most that anybody who waits now has been passed.
    pub most_passed_waiting: u64,
    /// Out: by how many a request may be passed, as the last step had it; `BR_NONE64` where the policy knows
    /// no bound.
    pub max_passed: u64,
    /// Out: requests that wait as `BR_CLAIMS`: one or none.
    pub waiting_claims: u64,
    /// Out: requests that wait as `BR_CLAIMED`.
    pub waiting_claimed: u64,
    /// Out: times that a request which was overdue and fitted nowhere began to claim a worker.
    pub claims: u64,
    /// Out: requests that entered other workers meanwhile, or this one before it.
    pub admitted_beside_claims: u64,
}

/// All of one worker as it stands.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_rank {
    /// `sizeof(br_rank)`.
    pub struct_size: usize,
    /// Out: KV tokens that it reads each step, foreign ones included.
    pub load_tokens: u64,
    /// Out: tokens by which it is below the most loaded worker.
    pub margin_tokens: f64,
    /// Out: the lengths of our requests there, whatever they share.
    pub own_tokens: u64,
    /// Out: KV tokens counted as used.
    pub kv_used_tokens: u64,
    /// Out: KV tokens kept free for the growth of what runs.
    pub kv_growth_tokens: u64,
    /// Out: KV tokens that fit; `BR_NONE64` for no bound.
    pub kv_capacity_tokens: u64,
    /// Out: KV tokens that reports show beyond our requests: of others, or of blocks that nobody who runs
    /// holds.
    pub foreign_tokens: u64,
    /// Out: tokens by which our requests hold less than their lengths, for they share.
    pub shared_tokens: u64,
    /// Out: dispatches made.
    pub dispatches: u64,
    /// Out: the last one acknowledged by a report.
    pub acknowledged: u64,
    /// Out: milliseconds since a report was taken; `BR_NONE64` before the first.
    pub report_age_ms: u64,
    /// Out: reports: taken, repeated, late, contradictory, restarted.
    pub reports: [u64; 5],
    /// Out: worker id.
    pub worker: u32,
    /// Out: whether it takes new requests: 0 or 1.
    pub accepting: u32,
    /// Out: whether it is being drained: 0 or 1.
    pub draining: u32,
    /// Out: requests of ours that run there, in whichever stage.
    pub running: u32,
    /// Out: of these, how many have KV there and do not decode yet.
    pub held: u32,
    /// Out: of these, how many the engine has put off.
    pub preempted: u32,
    /// Out: of these, how many dispatches nothing has shown yet.
    pub unseen: u32,
    /// Out: slots that this router is sure of.
    pub slots: u32,
    /// Out: slots that an admission could take.
    pub free_slots: u32,
    /// Out: requests that the last report showed and that are none of ours.
    pub foreign_requests: u32,
    /// Out: who is overdue, fits nowhere and waits for room there that nobody else of its class or a lower
    /// one is to fill; `BR_NONE64` for nobody.
    pub claimed_by: u64,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_rank {
    const NAME: &'static str = "br_rank";
    const FIRST_SIZE: usize = offset_of!(br_rank, foreign_requests) + size_of::<u32>();
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_metrics {
    const NAME: &'static str = "br_metrics";
    const FIRST_SIZE: usize = offset_of!(br_metrics, wait_steps) + size_of::<br_histogram>();
}

/// How many requests wait and how many run; either may be NULL.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_counts(
    router: *mut br_router,
    waiting: *mut usize,
    running: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (waiting, running) = (maybe_output("waiting", waiting)?, maybe_output("running", running)?);
            write_if(waiting, state.router.pool().len());
            write_if(running, state.router.running_len());
            Ok(())
        })
    }
}

/// How the router stands. Nothing of it is computed before.
///
/// # Safety
/// `router` is NULL or alive, `metrics` NULL or a struct with an array as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_metrics(router: *mut br_router, metrics: *mut br_metrics) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let mut found = read_versioned(metrics)?;
            state.router.metrics(&mut state.metrics);
            let done = fill_metrics(&state.metrics, &mut found);
            write_versioned(&found, metrics);
            done
        })
    }
}

/// How one worker stands.
///
/// # Safety
/// `router` is NULL or alive, `rank` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_rank(
    router: *mut br_router,
    worker: u32,
    rank: *mut br_rank,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let found = read_versioned(rank)?;
            let told = rank_told(found.struct_size, &state.router.rank_metrics(worker)?);
            write_versioned(&told, rank);
            Ok(())
        })
    }
}

/// # Safety
/// The array is as the header says.
unsafe fn fill_metrics(of: &Metrics, into: &mut br_metrics) -> Result<(), Failure> {
    into.rank_count = of.ranks.len();
    if !into.ranks.is_null() {
        if of.ranks.len() > into.rank_capacity {
            let (found, room) = (of.ranks.len(), into.rank_capacity);
            let text = format!("br_metrics.rank_capacity: {found} workers, found room for {room}");
            return Err(Failure::new(br_status::BR_SPACE, text));
        }
        let ranks = output("br_metrics.ranks", into.ranks)?;
        for (at, rank) in of.ranks.iter().enumerate() {
            // SAFETY: `at < rank_capacity`, by the check above.
            unsafe { ranks.add(at).write(rank_metrics(rank)) };
        }
    }
    into.now_ms = of.now_ms;
    into.step = of.step;
    into.waiting = of.waiting;
    into.waiting_by_reason = [0; 6];
    for (reason, &count) in WaitReason::ALL.iter().zip(&of.waiting_by_reason) {
        match br_reason::from(*reason) {
            br_reason::BR_CLAIMS => into.waiting_claims = count,
            br_reason::BR_CLAIMED => into.waiting_claimed = count,
            reason => {
                if let Some(entry) = into.waiting_by_reason.get_mut(reason as usize) {
                    *entry += count;
                }
            }
        }
    }
    into.running = of.running;
    into.envelope_tokens = of.envelope_tokens;
    into.imbalance_tokens = of.imbalance_tokens;
    into.longest_wait_ms = of.longest_wait_ms;
    into.longest_wait_steps = of.longest_wait_steps.into();
    let counters = &of.counters;
    into.arrived = counters.arrived;
    into.admitted_by_step = counters.admitted_by_step;
    into.placed_on_arrival = counters.placed_on_arrival;
    into.finished = counters.finished;
    into.aborted = counters.aborted;
    into.preempted = counters.preempted;
    into.returned = [0; 8];
    for (reason, &count) in ReturnReason::ALL.iter().zip(&counters.returned) {
        if let Some(entry) = into.returned.get_mut(br_return_reason::from(*reason) as usize) {
            *entry += count;
        }
        if *reason == ReturnReason::Recovered {
            into.recovered = count;
        }
    }
    into.clock_jumps = counters.clock_jumps;
    into.preempted_in_place = counters.preempted_in_place;
    into.adopted_beyond = counters.adopted_beyond;
    into.sent_beyond = counters.sent_beyond;
    into.disowned = counters.disowned;
    into.passed = counters.passed.into();
    into.most_passed = counters.most_passed.into();
    into.most_passed_waiting = of.most_passed.into();
    into.max_passed = of.max_passed.map_or(BR_NONE64, u64::from);
    into.claims = counters.claims;
    into.admitted_beside_claims = counters.admitted_beside_claims;
    into.decide_ns = counters.decide_ns.into();
    into.wait_ms = counters.wait_ms.into();
    into.wait_steps = counters.wait_steps.into();
    Ok(())
}

fn rank_metrics(of: &RankMetrics) -> br_rank_metrics {
    let ReportCounts { taken, repeated, late, contradictory, restarted } = of.reports;
    br_rank_metrics {
        load_tokens: of.load_tokens,
        margin_tokens: of.margin_tokens,
        kv_used_tokens: of.kv_used_tokens,
        kv_growth_tokens: of.kv_growth_tokens,
        kv_capacity_tokens: of.kv_capacity_tokens.unwrap_or(BR_NONE64),
        foreign_tokens: of.foreign_tokens,
        dispatches: of.dispatches,
        acknowledged: of.acknowledged,
        report_age_ms: of.report_age_ms.unwrap_or(BR_NONE64),
        reports: [taken, repeated, late, contradictory, restarted],
        worker: of.worker.0,
        accepting: of.accepting.into(),
        draining: of.draining.into(),
        running: of.running,
        slots: of.slots,
        free_slots: of.free_slots,
        foreign_requests: of.foreign_requests,
        unseen: of.unseen,
    }
}

fn rank_told(struct_size: usize, of: &RankMetrics) -> br_rank {
    let ReportCounts { taken, repeated, late, contradictory, restarted } = of.reports;
    br_rank {
        struct_size,
        load_tokens: of.load_tokens,
        margin_tokens: of.margin_tokens,
        own_tokens: of.own_tokens,
        kv_used_tokens: of.kv_used_tokens,
        kv_growth_tokens: of.kv_growth_tokens,
        kv_capacity_tokens: of.kv_capacity_tokens.unwrap_or(BR_NONE64),
        foreign_tokens: of.foreign_tokens,
        shared_tokens: of.shared_tokens,
        dispatches: of.dispatches,
        acknowledged: of.acknowledged,
        report_age_ms: of.report_age_ms.unwrap_or(BR_NONE64),
        reports: [taken, repeated, late, contradictory, restarted],
        worker: of.worker.0,
        accepting: of.accepting.into(),
        draining: of.draining.into(),
        running: of.running,
        held: of.held,
        preempted: of.preempted,
        unseen: of.unseen,
        slots: of.slots,
        free_slots: of.free_slots,
        foreign_requests: of.foreign_requests,
        claimed_by: of.claimed_by.map_or(BR_NONE64, RequestId::get),
    }
}

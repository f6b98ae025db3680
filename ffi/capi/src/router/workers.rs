//! Workers report, join, drain and leave.

use std::mem::offset_of;

use balanceroute::{Share, Verdict, WorkerConfig, WorkerReport};

use super::{br_router, some64, write_if};
use crate::BR_NONE64;
use crate::guard::{Versioned, br_status, counted, maybe_output, output, read_versioned};

/// What a worker measured.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_report {
    /// `sizeof(br_report)`.
    pub struct_size: usize,
    /// Rises with each of this worker's reports; `BR_NONE64`: reports are taken to come in order.
    pub sequence: u64,
    /// Greatest dispatch number that the worker had received, 0 for none; `BR_NONE64` when it cannot tell.
    /// What it has not seen stays counted on top of what it measured.
    pub last_dispatch: u64,
    /// Bit `i`: it had not received number `last_dispatch - 1 - i`.
    pub missing: u64,
    /// KV tokens in use; `BR_NONE64` where only requests are known: what was measured before goes on to be
    /// so, and who has come since, or left, and is none of ours is taken to be as long as ours are in the
    /// mean.
    pub kv_used_tokens: u64,
    /// KV tokens that fit; `BR_NONE64` leaves the capacity as it was.
    pub kv_capacity_tokens: u64,
    /// Requests that decode there.
    pub running: u32,
    /// Requests that it holds and that do not decode yet.
    pub waiting: u32,
    /// Which life of the worker this is, 0 where it cannot tell: any other than before says that it has
    /// started anew.
    pub epoch: u64,
    /// How long ago it may have been measured, in milliseconds: what has begun since may be missing from it,
    /// and what has ended since may be in it. At most five seconds count.
    pub age_ms: u32,
    /// How long ago the KV tokens in use may have been measured, where they are older than the counts of
    /// requests, 1 at least; 0 or `BR_NONE64` where they are as old.
    pub kv_age_ms: u64,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_report {
    const NAME: &'static str = "br_report";
    const FIRST_SIZE: usize = offset_of!(br_report, waiting) + size_of::<u32>();
}

/// What became of a report.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_verdict {
    /// It is the newest: the state is now what it measured plus what it has not seen.
    BR_TAKEN = 0,
    /// It carries the number of the newest one: ignored.
    BR_REPEATED = 1,
    /// It is older than the newest one: its acknowledgement counts, its measurement does not.
    BR_LATE = 2,
    /// It is newer by its number and has seen less than the one before: ignored.
    BR_CONTRADICTORY = 3,
    /// Its worker has started anew under the same id: taken, and what ran there comes back.
    BR_RESTARTED = 4,
    /// A verdict that this version has no name for.
    BR_OTHER_VERDICT = 255,
}

/// Takes in what a worker measured. `verdict`, which may be NULL, gets a `br_verdict`.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_report(
    router: *mut br_router,
    worker: u32,
    report: *const br_report,
    verdict: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (of, verdict) = (read_versioned(report)?, maybe_output("verdict", verdict)?);
            let kv_age_ms = some64(of.kv_age_ms).filter(|&age_ms| age_ms > 0);
            let report = WorkerReport::requests(of.running, of.waiting)
                .kv_used(some64(of.kv_used_tokens))
                .sequence(some64(of.sequence))
                .last_dispatch(some64(of.last_dispatch))
                .missing(of.missing)
                .epoch((of.epoch != 0).then_some(of.epoch))
                .age(of.age_ms)
                .kv_age(kv_age_ms.map(|age_ms| u32::try_from(age_ms).unwrap_or(u32::MAX)))
                .capacity(some64(of.kv_capacity_tokens));
            let found = match state.router.report(worker, report, state.now_ms)? {
                Verdict::Taken => br_verdict::BR_TAKEN,
                Verdict::Repeated => br_verdict::BR_REPEATED,
                Verdict::Late => br_verdict::BR_LATE,
                Verdict::Contradictory => br_verdict::BR_CONTRADICTORY,
                Verdict::Restarted => br_verdict::BR_RESTARTED,
                _ => br_verdict::BR_OTHER_VERDICT,
            };
            write_if(verdict, found as u32);
            Ok(())
        })
    }
}

/// A worker joins, empty: its id into `worker`. `kv_capacity_tokens` is `BR_NONE64` for no bound; `weight` is
/// 1 in a uniform cluster.
///
/// # Safety
/// `router` is NULL or alive, `worker` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_add_worker(
    router: *mut br_router,
    slots: u32,
    kv_capacity_tokens: u64,
    weight: f32,
    worker: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = output("worker", worker)?;
            let config = WorkerConfig::new(slots).capacity(some64(kv_capacity_tokens)).weight(weight);
            worker.write(state.router.add_worker(config)?.0);
            Ok(())
        })
    }
}

/// `br_router_add_worker` for one that is yet to come: it takes nobody until `br_router_set_accepting` says
/// that it is there, and until then requests wait that only it could hold.
///
/// # Safety
/// `router` is NULL or alive, `worker` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_announce_worker(
    router: *mut br_router,
    slots: u32,
    kv_capacity_tokens: u64,
    weight: f32,
    worker: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = output("worker", worker)?;
            let config = WorkerConfig::new(slots).capacity(some64(kv_capacity_tokens)).weight(weight);
            worker.write(state.router.announce_worker(config)?.0);
            Ok(())
        })
    }
}

/// A worker has these slots, this KV capacity and this weight from now on. What runs there runs on, also
/// where it is more than fits now.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_configure_worker(
    router: *mut br_router,
    worker: u32,
    slots: u32,
    kv_capacity_tokens: u64,
    weight: f32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let config = WorkerConfig::new(slots).capacity(some64(kv_capacity_tokens)).weight(weight);
            Ok(state.router.configure_worker(worker, config)?)
        })
    }
}

/// A worker as it is configured now, all of it whatever the share; a report may have changed its capacity.
/// `slots`, `kv_capacity_tokens` (`BR_NONE64` for no bound) and `weight` may be NULL.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_worker_config(
    router: *mut br_router,
    worker: u32,
    slots: *mut u32,
    kv_capacity_tokens: *mut u64,
    weight: *mut f32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (slots, weight) = (maybe_output("slots", slots)?, maybe_output("weight", weight)?);
            let kv_capacity_tokens = maybe_output("kv_capacity_tokens", kv_capacity_tokens)?;
            let found = state.router.worker_config(worker)?;
            write_if(slots, found.slots);
            write_if(kv_capacity_tokens, found.kv_capacity_tokens.unwrap_or(BR_NONE64));
            write_if(weight, found.weight);
            Ok(())
        })
    }
}

/// A worker takes nobody new; what runs there runs on. Requests that wait for it alone are returned by the
/// next step.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_drain_worker(router: *mut br_router, worker: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.drain_worker(worker)?)) }
}

/// Whether a worker is draining and holds none of our requests any more: 0 or 1 into `drained`.
///
/// # Safety
/// `router` is NULL or alive, `drained` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_is_drained(
    router: *mut br_router,
    worker: u32,
    drained: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let drained = output("drained", drained)?;
            drained.write(state.router.is_drained(worker)?.into());
            Ok(())
        })
    }
}

/// Stops new requests to a worker for a while (0), or resumes them (1).
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_set_accepting(
    router: *mut br_router,
    worker: u32,
    accepting: u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.set_accepting(worker, accepting != 0)?)) }
}

/// A worker is gone. `br_router_returned` and the next step tell who ran there or waited for it alone.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_remove_worker(router: *mut br_router, worker: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.remove_worker(worker, &mut state.returned)?)) }
}

/// This router is number `index` of `of` front ends from now on: some have come or gone, or are decided for
/// here.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_set_share(router: *mut br_router, index: u32, of: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.set_share(Share::new(index, of))?)) }
}

/// The ids of the workers, ascending, into an array of `capacity` entries; how many into `count`; with
/// `BR_SPACE` how many there are.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_worker_ids(
    router: *mut br_router,
    ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let found = state.router.worker_ids();
            counted("workers", found.len(), capacity, count)?;
            if !found.is_empty() {
                let ids = output("ids", ids)?;
                // An id is its number, bit for bit.
                std::ptr::copy_nonoverlapping(found.as_ptr().cast::<u32>(), ids, found.len());
            }
            Ok(())
        })
    }
}

//! Why a decision fell as it did, and why requests wait.

use std::mem::offset_of;

use balanceroute::WorkerId;
use balanceroute::router::{Decided, Explanation};

use super::br_router;
use crate::BR_NONE;
use crate::columns::br_reason;
use crate::guard::{Versioned, br_status, counted, output, read_versioned, write_versioned};

/// Why a decision fell as it did.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_explanation {
    /// `sizeof(br_explanation)`.
    pub struct_size: usize,
    /// Out: a `br_decided`.
    pub decided: u32,
    /// Out: a `br_reason`, if it waits.
    pub wait_reason: u32,
    /// Out: the worker that it entered, or claims while it waits; `BR_NONE` if it waits for any.
    pub worker: u32,
    /// Out: the worker that came second, `BR_NONE` if there was none or the policy scores no pairs.
    pub runner_up: u32,
    /// Out: the score that won, in tokens, after the picks before it; NaN if it waits.
    pub score_tokens: f64,
    /// Out: its score there as the step began; NaN for a policy that scores no pairs.
    pub opening_score_tokens: f64,
    /// Out: the runner-up's score as the step began; NaN without one.
    pub runner_up_score_tokens: f64,
    /// Out: tokens by which the worker was below the most loaded one as the step began.
    pub margin_tokens: f64,
    /// Out: steps that it has waited, while it waits.
    pub waited_steps: u32,
    /// Out: how many of its class that came later were admitted before it, to workers that it may use.
    pub passed: u32,
    /// Out: KV tokens that it had to leave free on that worker for others to grow by; 0 if it waits.
    pub kv_growth_tokens: u64,
    /// Out: its class.
    pub priority: i32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_explanation {
    const NAME: &'static str = "br_explanation";
    const FIRST_SIZE: usize = offset_of!(br_explanation, passed) + size_of::<u32>();
}

/// How a request was decided.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_decided {
    /// Nothing is known of it.
    BR_UNDECIDED = 0,
    /// Admitted by the last step.
    BR_BY_STEP = 1,
    /// Placed on arrival since.
    BR_BY_ARRIVAL = 2,
    /// It waits.
    BR_WAITS = 3,
}

/// Switches `br_router_explain` for admissions on (1) or off (0), from the next decision on. Decisions stay
/// the same.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_set_explaining(router: *mut br_router, on: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            state.router.set_explaining(on != 0);
            Ok(())
        })
    }
}

/// Why the last step, or a placement since, decided as it did; why a waiting request waits.
///
/// # Safety
/// `router` is NULL or alive, `explanation` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_explain(
    router: *mut br_router,
    id: u64,
    explanation: *mut br_explanation,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let told = read_versioned(explanation)?;
            let told = match state.router.explain(id) {
                Some(found) => explained(told.struct_size, &found),
                None => br_explanation {
                    decided: br_decided::BR_UNDECIDED as u32,
                    worker: BR_NONE,
                    runner_up: BR_NONE,
                    ..told
                },
            };
            write_versioned(&told, explanation);
            Ok(())
        })
    }
}

fn explained(struct_size: usize, of: &Explanation) -> br_explanation {
    let (decided, wait_reason) = match of.decided {
        Decided::Step => (br_decided::BR_BY_STEP, br_reason::BR_ADMITTED),
        Decided::Arrival => (br_decided::BR_BY_ARRIVAL, br_reason::BR_ADMITTED),
        Decided::Waits(reason) => (br_decided::BR_WAITS, br_reason::from(reason)),
    };
    br_explanation {
        struct_size,
        decided: decided as u32,
        wait_reason: wait_reason as u32,
        worker: of.worker.map_or(BR_NONE, WorkerId::get),
        runner_up: of.runner_up.map_or(BR_NONE, |second| second.worker.0),
        score_tokens: of.score_tokens,
        opening_score_tokens: of.opening_score_tokens,
        runner_up_score_tokens: of.runner_up.map_or(f64::NAN, |second| second.score_tokens),
        margin_tokens: of.margin_tokens,
        waited_steps: of.waited_steps,
        passed: of.passed,
        kv_growth_tokens: of.kv_growth_tokens,
        priority: of.priority.into(),
        reserved: 0,
    }
}

/// Why each request still waits, in order of arrival: ids and `br_reason`s into arrays of `capacity` entries,
/// how many into `count`; with `BR_SPACE` how many there are.
///
/// # Safety
/// `router` is NULL or alive, arrays are NULL or hold `capacity` entries, `count` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_waiting(
    router: *mut br_router,
    ids: *mut u64,
    reasons: *mut u8,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let waiting = state.router.pool().len();
            counted("requests wait", waiting, capacity, count)?;
            if waiting == 0 {
                return Ok(());
            }
            let (ids, reasons) = (output("ids", ids)?, output("reasons", reasons)?);
            state.router.waiting_into(&mut state.waiting);
            for (at, &(id, reason)) in state.waiting.iter().enumerate().take(capacity) {
                ids.add(at).write(id.0);
                reasons.add(at).write(br_reason::from(reason) as u8);
            }
            Ok(())
        })
    }
}

//! Requests arrive, grow and end.

use std::mem::offset_of;

use balanceroute::{Dispatch, Placement, Request, WorkerId};

use super::{br_router, check_bonuses, write_if};
use crate::BR_NONE;
use crate::guard::{Failure, Versioned, array, br_status, maybe_output, needed, output, read_versioned};

/// `br_request.fields`: `rank` is set.
pub const BR_HAS_RANK: u32 = 1;

/// `br_request.fields`: `deadline_steps` is set.
pub const BR_HAS_DEADLINE: u32 = 2;

/// `br_request.fields`: `prompt_hash` is set.
pub const BR_HAS_PROMPT_HASH: u32 = 4;

/// A request that arrives. All fields but the first three may be zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_request {
    /// `sizeof(br_request)`.
    pub struct_size: usize,
    /// Unique among those that wait or run.
    pub id: u64,
    /// KV tokens that it brings, 1 to 2^22.
    pub prompt_tokens: u32,
    /// Which of the fields below are set: `BR_HAS_RANK`, `BR_HAS_DEADLINE`, `BR_HAS_PROMPT_HASH`.
    pub fields: u32,
    /// The id of the only worker that may take it (a sticky session, an explicit rank).
    pub rank: u32,
    /// Overdue once it has waited this many steps.
    pub deadline_steps: u32,
    /// Equal for equal prompts, for forecasts that know repeated prompts.
    pub prompt_hash: u64,
    /// Steps waited so far.
    pub waited_steps: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_request {
    const NAME: &'static str = "br_request";
    const FIRST_SIZE: usize = offset_of!(br_request, reserved) + size_of::<u32>();
}

/// One admission, numbered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_dispatch {
    /// Request id.
    pub id: u64,
    /// Its number among the dispatches to this worker, 1, 2, 3 and so on: what a report acknowledges. 0: it
    /// waits.
    pub number: u64,
    /// The score that won, in tokens; comparable within one decision.
    pub score_tokens: f64,
    /// Worker id.
    pub worker: u32,
    /// Its length in tokens.
    pub prompt_tokens: u32,
}

/// # Safety
/// `from` is NULL or as the header says.
unsafe fn read_request(from: *const br_request) -> Result<Request<WorkerId>, Failure> {
    // SAFETY: passed on.
    let from = unsafe { read_versioned(from) }?;
    let known = BR_HAS_RANK | BR_HAS_DEADLINE | BR_HAS_PROMPT_HASH;
    if from.fields & !known != 0 || from.reserved != 0 {
        let found = from.fields;
        return Err(Failure::argument(format!(
            "br_request.fields: expected flags of {known:#x}, found {found:#x}"
        )));
    }
    let has = |flag: u32| from.fields & flag != 0;
    Ok(Request::new(from.id, from.prompt_tokens)
        .waited(from.waited_steps)
        .deadline(has(BR_HAS_DEADLINE).then_some(from.deadline_steps))
        .hash(has(BR_HAS_PROMPT_HASH).then_some(from.prompt_hash))
        .rank(has(BR_HAS_RANK).then_some(from.rank)))
}

pub(super) fn dispatch_of(of: &Dispatch) -> br_dispatch {
    let &Dispatch { id, worker, number, prompt_tokens, score_tokens } = of;
    br_dispatch { id: id.0, number, score_tokens, worker: worker.0, prompt_tokens }
}

/// Tells the time: `br_router_enqueue`, `br_router_report`, `br_router_finish` and `br_router_abort` happen
/// at `now_ms` until the clock is read again, here, by `br_router_step` or by `br_router_place`. Without it
/// they happen at the last reading, and a wait begins at the next one.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_at(router: *mut br_router, now_ms: u64) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            state.now_ms = Some(now_ms);
            Ok(())
        })
    }
}

/// Lets a request wait for a step.
///
/// # Safety
/// `router` is NULL or alive, `request` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_enqueue(router: *mut br_router, request: *const br_request) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| Ok(state.router.enqueue(read_request(request)?, state.now_ms)?))
    }
}

/// A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else it
/// waits, and `dispatch->number` is 0. `bonus_tokens` has one entry per worker, in order of id, or is NULL
/// with a `bonus_count` of 0.
///
/// # Safety
/// `router` is NULL or alive, structs and arrays are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_place(
    router: *mut br_router,
    request: *const br_request,
    now_ms: u64,
    bonus_tokens: *const f32,
    bonus_count: usize,
    dispatch: *mut br_dispatch,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let request = read_request(request)?;
            let dispatch = output("dispatch", dispatch)?;
            // NULL is no row, but not one of so many entries.
            let bonus = match array("bonus_tokens", bonus_tokens, bonus_count)? {
                None => (bonus_count > 0)
                    .then(|| needed("bonus_tokens", bonus_tokens, bonus_count))
                    .transpose()?,
                row => row,
            };
            let placement = match bonus {
                None => state.router.place(request, now_ms)?,
                Some(row) => {
                    let expected = state.router.worker_ids().len();
                    if row.len() != expected {
                        let found = row.len();
                        let text = format!("bonus_count: expected {expected}, one per worker, found {found}");
                        return Err(Failure::argument(text));
                    }
                    check_bonuses("bonus_tokens", row)?;
                    let mut terms = |_: &Request, into: &mut [f32]| {
                        into.copy_from_slice(row);
                        true
                    };
                    state.router.place_with(request, now_ms, &mut terms)?
                }
            };
            state.now_ms = None;
            dispatch.write(match placement {
                Placement::Placed(found) => dispatch_of(&found),
                Placement::Waits => br_dispatch {
                    id: request.id.0,
                    number: 0,
                    score_tokens: 0.0,
                    worker: BR_NONE,
                    prompt_tokens: request.prompt_tokens,
                },
            });
            Ok(())
        })
    }
}

/// Takes over a request that already runs on a worker (a restart, a warm start).
///
/// # Safety
/// `router` is NULL or alive, `request` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_adopt(
    router: *mut br_router,
    request: *const br_request,
    worker: u32,
    generated_tokens: u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            Ok(state.router.adopt(read_request(request)?, worker, generated_tokens)?)
        })
    }
}

/// A running request has sent its last token. `worker` and `generated_tokens` may be NULL.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_finish(
    router: *mut br_router,
    id: u64,
    worker: *mut u32,
    generated_tokens: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = maybe_output("worker", worker)?;
            let generated_tokens = maybe_output("generated_tokens", generated_tokens)?;
            let finished = state.router.finish(id, state.now_ms)?;
            write_if(worker, finished.worker.0);
            write_if(generated_tokens, finished.generated_tokens);
            Ok(())
        })
    }
}

/// A waiting or running request was given up. `worker`, which may be NULL, gets the one that it ran on,
/// `BR_NONE` if it waited.
///
/// # Safety
/// `router` is NULL or alive, `worker` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_abort(router: *mut br_router, id: u64, worker: *mut u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = maybe_output("worker", worker)?;
            let found = state.router.abort(id, state.now_ms)?;
            write_if(worker, found.map_or(BR_NONE, WorkerId::get));
            Ok(())
        })
    }
}

/// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length in
/// `prompt_tokens`, which may be NULL.
///
/// # Safety
/// `router` is NULL or alive, `prompt_tokens` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_preempt(
    router: *mut br_router,
    id: u64,
    prompt_tokens: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let prompt_tokens = maybe_output("prompt_tokens", prompt_tokens)?;
            let request = state.router.preempt(id)?;
            write_if(prompt_tokens, request.prompt_tokens);
            Ok(())
        })
    }
}

/// One lock-step decode step has run: every running request has a token more, everybody who waits has waited
/// a step.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_advance(router: *mut br_router) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            state.router.advance();
            Ok(())
        })
    }
}

/// Every running request of a worker has `tokens` more.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_progress(router: *mut br_router, worker: u32, tokens: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.progress(worker, tokens)?)) }
}

/// One running request has `tokens` more.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_progress_request(
    router: *mut br_router,
    id: u64,
    tokens: u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.progress_request(id, tokens)?)) }
}

//! Requests arrive, grow and end.

use std::mem::offset_of;

use balanceroute::{BatchError, Dispatch, Request, RequestId, WorkerId};

use super::{br_router, write_if};
use crate::BR_NONE;
use crate::guard::{
    Failure, Versioned, array, br_status, input, maybe_output, needed, read_versioned, write_versioned,
};

/// `br_request.fields`: `rank` is set.
pub const BR_HAS_RANK: u32 = 1;

/// `br_request.fields`: `deadline_steps` is set.
pub const BR_HAS_DEADLINE: u32 = 2;

/// `br_request.fields`: `prompt_hash` is set.
pub const BR_HAS_PROMPT_HASH: u32 = 4;

/// `br_request.fields`: `max_tokens` is set.
pub const BR_HAS_MAX_TOKENS: u32 = 8;

/// A request that arrives. All fields but the first three may be zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_request {
    /// `sizeof(br_request)`.
    pub struct_size: usize,
    /// Unique among those that wait or run.
    pub id: u64,
    /// Its length, 1 to 2^22: KV tokens that it brings, less those of `cached_tokens`.
    pub prompt_tokens: u32,
    /// Which of the fields below are set: `BR_HAS_RANK`, `BR_HAS_DEADLINE`, `BR_HAS_PROMPT_HASH`,
    /// `BR_HAS_MAX_TOKENS`.
    pub fields: u32,
    /// The id of the only worker that may take it (a sticky session, an explicit rank).
    pub rank: u32,
    /// Overdue once it has waited this many steps.
    pub deadline_steps: u32,
    /// Equal for equal prompts, for forecasts that know repeated prompts.
    pub prompt_hash: u64,
    /// Steps waited so far.
    pub waited_steps: u32,
    /// How many of its class that came later were admitted before it, to workers that it may use; 0 for one
    /// that is new.
    pub passed: u32,
    /// Tokens of it that are in the KV cache of its worker already, a shared prefix: it brings that many
    /// less, and one at least. Where this is not known, reports teach it.
    pub cached_tokens: u32,
    /// Of the tokens that it brings, how many it has generated on a worker before, for one that comes back.
    /// It may be 0 for one that `br_router_preempt` has put off and that comes again with the length told.
    pub generated_tokens: u32,
    /// Tokens that it may generate in all: no room is kept for more.
    pub max_tokens: u32,
    /// Its class, -128 to 127: whoever is of a higher one goes before it. 0 for one that comes again also
    /// stands for the class that it had.
    pub priority: i32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_request {
    const NAME: &'static str = "br_request";
    const FIRST_SIZE: usize = offset_of!(br_request, passed) + size_of::<u32>();
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
    /// KV tokens that it brings.
    pub prompt_tokens: u32,
}

/// The flags that a struct of this size may have set: one of the first version lacks the field of the last.
fn known_fields(size: usize) -> u32 {
    let later = if size < offset_of!(br_request, priority) { 0 } else { BR_HAS_MAX_TOKENS };
    BR_HAS_RANK | BR_HAS_DEADLINE | BR_HAS_PROMPT_HASH | later
}

/// # Safety
/// `from` is NULL or as the header says.
pub(super) unsafe fn read_request(from: *const br_request) -> Result<Request<WorkerId>, Failure> {
    // SAFETY: passed on.
    let from = unsafe { read_versioned(from) }?;
    let has = |flag: u32| from.fields & flag != 0;
    let (size, known) = (from.struct_size, known_fields(from.struct_size));
    if has(!known) {
        let found = from.fields;
        return Err(Failure::argument(format!(
            "br_request.fields: expected flags of {known:#x} in {size} bytes, found {found:#x}"
        )));
    }
    let priority = BatchError::check_priority(None, from.id.into(), from.priority.into())?;
    Ok(Request::new(from.id, from.prompt_tokens)
        .cached(from.cached_tokens)
        .generated(from.generated_tokens)
        .max_tokens(has(BR_HAS_MAX_TOKENS).then_some(from.max_tokens))
        .waited(from.waited_steps)
        .passed(from.passed)
        .priority(priority)
        .deadline(has(BR_HAS_DEADLINE).then_some(from.deadline_steps))
        .hash(has(BR_HAS_PROMPT_HASH).then_some(from.prompt_hash))
        .rank(has(BR_HAS_RANK).then_some(from.rank)))
}

/// What [`read_request`] reads as this, from a struct of so many bytes.
pub(super) fn told_request(of: &Request<WorkerId>, size: usize) -> br_request {
    let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
    let fields = flag(of.rank.is_some(), BR_HAS_RANK)
        | flag(of.deadline_steps.is_some(), BR_HAS_DEADLINE)
        | flag(of.prompt_hash.is_some(), BR_HAS_PROMPT_HASH)
        | flag(of.max_tokens.is_some(), BR_HAS_MAX_TOKENS);
    br_request {
        struct_size: size,
        id: of.id.0,
        prompt_tokens: of.prompt_tokens.saturating_add(of.cached_tokens),
        fields: fields & known_fields(size),
        rank: of.rank.map_or(0, |rank| rank.0),
        deadline_steps: of.deadline_steps.unwrap_or(0),
        prompt_hash: of.prompt_hash.unwrap_or(0),
        waited_steps: of.waited_steps,
        passed: of.passed,
        cached_tokens: of.cached_tokens,
        generated_tokens: of.generated_tokens,
        max_tokens: of.max_tokens.unwrap_or(0),
        priority: of.priority.into(),
    }
}

pub(super) fn dispatch_of(of: &Dispatch) -> br_dispatch {
    let &Dispatch { id, worker, number, prompt_tokens, score_tokens } = of;
    br_dispatch { id: id.0, number, score_tokens, worker: worker.0, prompt_tokens }
}

fn told_dispatch(of: &br_dispatch) -> Dispatch {
    let &br_dispatch { id, number, score_tokens, worker, prompt_tokens } = of;
    Dispatch { id: RequestId(id), worker: WorkerId(worker), number, prompt_tokens, score_tokens }
}

/// Tells the time: `br_router_enqueue`, `br_router_send`, `br_router_report`, `br_router_finish`,
/// `br_router_abort`, `br_router_finish_dispatch` and `br_router_abort_dispatch` happen at `now_ms` until
/// the clock is read again, here, by `br_router_step`, `br_router_resend` or a placement. Without it they
/// happen at the last reading, and a wait begins at the next one. Every other call happens at the last
/// reading.
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

/// Takes over a request that already runs on a worker (a restart, a warm start, an engine that resumes what
/// it had preempted): `prompt_tokens` are those without the `generated_tokens` of this call, which count, not
/// those of the struct. What an engine says it runs is so: also past the worker's slots and capacity
/// (`br_metrics.adopted_beyond`), where it waits here, and where we believed it to run elsewhere.
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

/// `br_router_finish` of the life that a dispatch began: the end of an older life, which came late, ends
/// nothing. `generated_tokens` may be NULL.
///
/// # Safety
/// `router` is NULL or alive, `dispatch` NULL or a struct, `generated_tokens` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_finish_dispatch(
    router: *mut br_router,
    dispatch: *const br_dispatch,
    generated_tokens: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let dispatch = input("dispatch", dispatch)?;
            let generated_tokens = maybe_output("generated_tokens", generated_tokens)?;
            let finished = state.router.finish_dispatch(&told_dispatch(&dispatch), state.now_ms)?;
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

/// `br_router_abort` of the life that a dispatch began. One that waits has none: it stays.
///
/// # Safety
/// `router` is NULL or alive, `dispatch` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_abort_dispatch(
    router: *mut br_router,
    dispatch: *const br_dispatch,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let dispatch = input("dispatch", dispatch)?;
            state.router.abort_dispatch(&told_dispatch(&dispatch), state.now_ms)?;
            Ok(())
        })
    }
}

/// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length in
/// `prompt_tokens`, which may be NULL. Where the engine itself goes on with it: `br_router_preempted`.
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

/// `br_router_preempt` that answers with the whole request, for `br_router_enqueue` as it is: its length,
/// what of it was generated and what its worker had already, and all that it was enqueued with.
///
/// # Safety
/// `router` is NULL or alive, `again` as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_preempt_request(
    router: *mut br_router,
    id: u64,
    again: *mut br_request,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let size = read_versioned(again)?.struct_size;
            let told = told_request(&state.router.preempt(id)?, size);
            write_versioned(&told, again);
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

/// `br_router_progress_request` for `count` requests, at a fraction of its cost: `tokens` has what each has
/// more, NULL for one each. Those that do not run are passed over: engines bring tokens of requests that were
/// given up here. How many have grown into `grown`, which may be NULL.
///
/// # Safety
/// `router` is NULL or alive, arrays are NULL or have `count` entries, `grown` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_progress_requests(
    router: *mut br_router,
    ids: *const u64,
    tokens: *const u32,
    count: usize,
    grown: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let grown = maybe_output("grown", grown)?;
            let (ids, tokens) = (needed("ids", ids, count)?, array("tokens", tokens, count)?);
            state.grown.clear();
            let more = |at: usize| tokens.map_or(1, |of| of[at]);
            state.grown.extend(ids.iter().enumerate().map(|(at, &id)| (RequestId(id), more(at))));
            write_if(grown, state.router.progress_requests(&state.grown)?);
            Ok(())
        })
    }
}

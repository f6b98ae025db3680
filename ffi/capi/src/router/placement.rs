//! One request, at once: on arrival, or because its engine queues it.

use balanceroute::{Placement, Request, WorkerId};

use super::{
    State, br_bonuses, br_dispatch, br_request, br_router, check_bonuses, dispatch_of, read_request,
};
use super::{read_bonuses, read_terms};
use crate::BR_NONE;
use crate::guard::{Failure, array, br_status, needed, output};

fn placed(request: &Request<WorkerId>, placement: &Placement) -> br_dispatch {
    match placement {
        Placement::Placed(found) => dispatch_of(found),
        Placement::Waits => br_dispatch {
            id: request.id.0,
            number: 0,
            score_tokens: 0.0,
            worker: BR_NONE,
            prompt_tokens: request.prompt_tokens,
        },
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
            dispatch.write(placed(&request, &placement));
            Ok(())
        })
    }
}

/// `br_router_place` by the row of `bonuses` that has the request's id, with eligibility; other rows say
/// nothing. `bonuses` may be NULL. The row is for this call: if the request waits, a step needs it again.
///
/// # Safety
/// `router` is NULL or alive, structs and arrays are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_place_with(
    router: *mut br_router,
    request: *const br_request,
    now_ms: u64,
    bonuses: *const br_bonuses,
    dispatch: *mut br_dispatch,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let request = read_request(request)?;
            let bonuses = read_bonuses(bonuses)?;
            let dispatch = output("dispatch", dispatch)?;
            let State { router, row_of, .. } = state;
            let placement = match bonuses {
                None => router.place(request, now_ms)?,
                Some(rows) => {
                    let mut terms = read_terms(&rows, router.worker_ids().len(), row_of)?;
                    router.place_with(request, now_ms, &mut terms)?
                }
            };
            state.now_ms = None;
            dispatch.write(placed(&request, &placement));
            Ok(())
        })
    }
}

/// A request enters a worker whether or not that has room: an engine queues whatever it is sent
/// (`br_metrics.sent_beyond`). With `BR_NONE` for `worker` it is its rank, if it has one, or else the worker
/// with room for it, or with the shortest queue for those that it serves, and of such ones the least loaded.
/// One that waits here waits no more.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_send(
    router: *mut br_router,
    request: *const br_request,
    worker: u32,
    dispatch: *mut br_dispatch,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (request, dispatch) = (read_request(request)?, output("dispatch", dispatch)?);
            let worker = (worker != BR_NONE).then_some(WorkerId(worker));
            dispatch.write(dispatch_of(&state.router.send(request, worker, state.now_ms)?));
            Ok(())
        })
    }
}

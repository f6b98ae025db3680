//! Between dispatch and end: requests that hold KV and do not decode, that their engine puts off, and whose
//! ends will not be told.

use super::br_router;
use crate::guard::{Failure, br_status, output};

/// A running request has KV on its worker and does not decode yet: its cache is on the way from a prefill
/// node, or is filled part by part. It weighs its whole length and does not grow until
/// `br_router_transfer_done` or a token of its own (`br_router_progress_request`).
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_held(router: *mut br_router, id: u64) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.held(id)?)) }
}

/// A running request decodes from now on: its KV cache is there. Of one that is preempted it changes nothing.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_transfer_done(router: *mut br_router, id: u64) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.transfer_done(id)?)) }
}

/// The engine has taken a running request's KV cache away and will go on with it by itself: it stays on its
/// worker, room for its length is kept there, and it does not grow until `br_router_resumed` or a token of
/// its own. Where the caller is to send it again: `br_router_preempt`.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_preempted(router: *mut br_router, id: u64) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.preempted(id)?)) }
}

/// The engine goes on with a request that it had preempted. Of one that is not preempted it changes nothing.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_resumed(router: *mut br_router, id: u64) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.resumed(id)?)) }
}

/// The ends of requests will not be told: whatever was sent to a worker by `until_ms`, a time of the clock
/// that was read last (`BR_NONE64`: whenever), and that nothing has shown, is foreign there from now on, for
/// the next report to measure. Their ids into an array of `capacity` entries, how many into `count`. As many
/// as `br_rank.unseen` says always suffice; with less than may be needed nothing happens but `BR_SPACE`, and
/// `count` says what suffices.
///
/// # Safety
/// `router` is NULL or alive, `ids` is NULL or holds `capacity` entries, `count` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_disown_sent(
    router: *mut br_router,
    worker: u32,
    until_ms: u64,
    ids: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let count = output("count", count)?;
            let most = state.router.rank_metrics(worker)?.unseen as usize;
            if most > capacity {
                count.write(most);
                let text = format!("capacity: at most {most} requests are unseen, found room for {capacity}");
                return Err(Failure::new(br_status::BR_SPACE, text));
            }
            if most > 0 {
                output("ids", ids)?;
            }
            state.disowned.clear();
            state.router.disown_sent(worker, until_ms, &mut state.disowned)?;
            if state.disowned.len() > most {
                let found = state.disowned.len();
                return Err(Failure::lost(format!("{found} disowned requests into {most} places")));
            }
            for (at, id) in state.disowned.iter().enumerate() {
                ids.add(at).write(id.0);
            }
            count.write(state.disowned.len());
            Ok(())
        })
    }
}

//! What traffic has taught, across restarts.

use super::br_router;
use crate::guard::{br_status, counted, needed, output};

/// What the traffic has taught so far, for `br_router_learn` of a router to come, into `bytes`; how many they
/// are into `count`, with `BR_SPACE` where they are more than `capacity`. Who waits or runs is no part of it.
///
/// # Safety
/// `router` is NULL or alive, `bytes` is NULL or holds `capacity`, `count` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_learned(
    router: *mut br_router,
    bytes: *mut u8,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let learned = state.router.learned();
            counted("bytes", learned.len(), capacity, count)?;
            output("bytes", bytes)?.copy_from_nonoverlapping(learned.as_ptr(), learned.len());
            Ok(())
        })
    }
}

/// Goes on from what another router had learned, in place of what this one has. The other may have had other
/// workers. `BR_STATE` where the bytes are none of `br_router_learned`, or of another version.
///
/// # Safety
/// `router` is NULL or alive, `bytes` is NULL or holds `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_learn(
    router: *mut br_router,
    bytes: *const u8,
    count: usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let learned = needed("bytes", bytes, count)?;
            Ok(state.router.learn(learned)?)
        })
    }
}

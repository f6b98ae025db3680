//! The state across steps. Each file holds the structs of some calls and these calls.

mod config;
mod explain;
mod learned;
mod metrics;
mod placement;
mod record;
mod requests;
mod stages;
mod step;
mod terms;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::HashMap;
use std::ffi::c_char;

use balanceroute::batch::MAX_BONUS_TOKENS;
use balanceroute::record::RecordError;
use balanceroute::router::{Metrics, Returned};
use balanceroute::{RequestId, Router, RouterError, WaitReason};

pub use self::config::*;
pub use self::explain::*;
pub use self::learned::*;
pub use self::metrics::*;
pub use self::placement::*;
pub use self::record::*;
pub use self::requests::*;
pub use self::stages::*;
pub use self::step::*;
pub use self::terms::*;
pub use self::workers::*;
use crate::BR_NONE64;
use crate::guard::{Failure, Handle, Mend, br_status, copy_text, free};

/// A cluster's state across steps and the policy that decides. Calls with one handle come one at a time, from
/// any thread.
///
/// Every request that was let in leaves exactly once: by `br_router_finish`, `br_router_abort` or what they
/// do for one dispatch, by `br_router_preempt` or `br_router_disown_sent`, or as a `br_returned`. `now_ms` is
/// the caller's clock in milliseconds, any origin; a clock that is set back or far ahead neither stops nor
/// moves the time here.
pub struct br_router(Handle<State>);

struct State {
    router: Router,
    metrics: Metrics,
    /// Requests that have left and that the caller has not been told of yet, oldest first.
    returned: Vec<Returned>,
    waiting: Vec<(RequestId, WaitReason)>,
    /// Rows of the terms of the call under way.
    row_of: HashMap<u64, usize>,
    /// Who grows by the call under way.
    grown: Vec<(RequestId, u32)>,
    /// Who ends to be ours by it.
    disowned: Vec<RequestId>,
    /// What `br_router_at` has said, until the next reading of the clock.
    now_ms: Option<u64>,
}

impl State {
    fn new(router: Router) -> Self {
        Self {
            router,
            metrics: Metrics::default(),
            returned: Vec::new(),
            waiting: Vec::new(),
            row_of: HashMap::new(),
            grown: Vec::new(),
            disowned: Vec::new(),
            now_ms: None,
        }
    }
}

impl Mend for State {
    const WAY_OUT: &'static str = "br_router_recover gives every request back and begins anew";
}

impl br_router {
    /// The handle inside; NULL for NULL.
    ///
    /// # Safety
    /// `router` is NULL or alive.
    unsafe fn handle(router: *mut Self) -> *mut Handle<State> {
        // SAFETY: alive if not NULL; no reference is made.
        if router.is_null() { std::ptr::null_mut() } else { unsafe { &raw mut (*router).0 } }
    }

    /// Runs `f` on the state.
    ///
    /// # Safety
    /// `router` is NULL or alive.
    unsafe fn enter(router: *mut Self, f: impl FnOnce(&mut State) -> Result<(), Failure>) -> br_status {
        // SAFETY: passed on.
        unsafe { Handle::enter(Self::handle(router), f) }
    }
}

impl From<RouterError> for Failure {
    fn from(error: RouterError) -> Self {
        let status = match &error {
            RouterError::Batch(_) | RouterError::Generated { .. } => br_status::BR_BATCH,
            RouterError::Policy(_) => br_status::BR_POLICY,
            RouterError::Unknown { .. }
            | RouterError::NotRunning { .. }
            | RouterError::OtherDispatch { .. } => br_status::BR_UNKNOWN_REQUEST,
            RouterError::Worker { .. } | RouterError::NoWorker { .. } => br_status::BR_UNKNOWN_WORKER,
            RouterError::Record(error) => status_of(error),
            // Nothing has changed by it.
            RouterError::Panicked { .. } => br_status::BR_INTERNAL,
            _ => br_status::BR_STATE,
        };
        Self::new(status, error.to_string())
    }
}

fn status_of(error: &RecordError) -> br_status {
    match error {
        RecordError::Io { .. } => br_status::BR_IO,
        RecordError::InUse { .. } => br_status::BR_IN_USE,
        RecordError::Config { .. } => br_status::BR_ARGUMENT,
        RecordError::Several { .. } | RecordError::Nothing { .. } | RecordError::NoSegment { .. } => {
            br_status::BR_NO_RECORDING
        }
        _ => br_status::BR_OTHER_RECORDING,
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::new(status_of(&error), error.to_string())
    }
}

/// Frees a router, after its last call; NULL is allowed.
///
/// # Safety
/// It is NULL, or was made by `br_router_new`, is not freed yet, and nobody is inside.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_free(router: *mut br_router) {
    // SAFETY: the caller's word.
    unsafe { free(router) }
}

/// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero;
/// "" after a call without error.
///
/// # Safety
/// `router` is NULL or alive, `buffer` NULL or of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_error(router: *mut br_router, buffer: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller's word.
    unsafe { Handle::last_error(br_router::handle(router), buffer, size) }
}

/// Which policy and backend decide, on which instruction set, and why, into `buffer` of `size` bytes.
///
/// # Safety
/// `router` is NULL or alive, `buffer` NULL or of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_describe(
    router: *mut br_router,
    buffer: *mut c_char,
    size: usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let policy = state.router.policy();
            copy_text(&format!("{}; {}", policy.name(), policy.describe()), buffer, size);
            Ok(())
        })
    }
}

pub(super) fn some64(found: u64) -> Option<u64> {
    (found != BR_NONE64).then_some(found)
}

/// # Safety
/// `to` comes from [`maybe_output`] and may be written if it is not NULL.
pub(super) unsafe fn write_if<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's word.
        unsafe { to.write(value) };
    }
}

/// Refuses a bonus that none can be, before anything of the call is kept.
pub(super) fn check_bonuses(what: &str, tokens: &[f32]) -> Result<(), Failure> {
    let limit = MAX_BONUS_TOKENS;
    match tokens.iter().position(|found| !(-limit..=limit).contains(found)) {
        Some(at) => {
            let (limit, found) = (f64::from(limit), tokens[at]);
            let text = format!("{what}, entry {at}: must be in -{limit}..={limit}, found {found}");
            Err(Failure::new(br_status::BR_BATCH, text))
        }
        None => Ok(()),
    }
}

//! A router's calls in a log, and a router that goes on from one.

use std::ffi::c_char;
use std::mem::offset_of;

use balanceroute::record::RecordConfig;
use balanceroute::{Dispatch, Router};

use super::{State, br_dispatch, br_request, br_router, dispatch_of, told_request};
use crate::guard::{
    Failure, Handle, Versioned, br_status, copy_text, counted, make, output, read_versioned, text,
    write_versioned,
};

/// Whether a router is recorded.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_recording_state {
    /// It is not.
    BR_NOT_RECORDED = 0,
    /// Every call is.
    BR_RECORDED = 1,
    /// It was, until the log could not be written.
    BR_RECORDING_STOPPED = 2,
}

/// How a recording stands.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_recording {
    /// `sizeof(br_recording)`.
    pub struct_size: usize,
    /// Out: calls written since it began, by processes before this one too.
    pub calls: u64,
    /// Out: bytes written by this process, those of segments that are gone too.
    pub bytes: u64,
    /// Out: a `br_recording_state`.
    pub state: u32,
    /// Out: zero.
    pub reserved: u32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_recording {
    const NAME: &'static str = "br_recording";
    const FIRST_SIZE: usize = offset_of!(br_recording, reserved) + size_of::<u32>();
}

/// # Safety
/// `folder` is NULL or text.
unsafe fn config(folder: *const c_char, segment_bytes: u64, segments: u64) -> Result<RecordConfig, Failure> {
    // SAFETY: the caller's word.
    let folder = unsafe { text("folder", folder) }?;
    let default =
        RecordConfig::new(folder.ok_or_else(|| Failure::argument("folder: expected text, found NULL"))?);
    let segment_bytes = if segment_bytes == 0 { default.segment_bytes } else { segment_bytes };
    let segments = if segments == 0 { default.segments } else { segments };
    Ok(default.segment_bytes(segment_bytes).segments(segments))
}

/// Writes every call that changes this router from now on, with its answer, into the log of a folder, after
/// what is there; the folder is made where it is missing, and is one router's. The newest `segments` files of
/// `segment_bytes` are kept, 2 at least of 2^16 to 2^30 bytes; 0 for 16 of 16 MiB. A recording that was under
/// way ends. What a call had recorded when it returned is kept whenever the process is killed. The log has
/// ids and lengths, no prompts, and hashes of these under a key that is kept nowhere.
///
/// With `BALANCEROUTE_RECORD=FOLDER` in the environment every router that is made records itself into a
/// folder of its own below that one. A process that is forked off makes no call with a router that is
/// recorded.
///
/// # Safety
/// `router` is NULL or alive, `folder` is NULL or text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_record(
    router: *mut br_router,
    folder: *const c_char,
    segment_bytes: u64,
    segments: u64,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            Ok(state.router.record(&config(folder, segment_bytes, segments)?)?)
        })
    }
}

/// Makes the router of a process that is no more into `*router`, NULL when it fails, as it was after the
/// last call that it had recorded into this folder; it goes on to record there, in segments as
/// `br_router_record` has them. Who waited waits, and who ran runs. Of what was answered some may not have
/// been carried out: `br_router_resend` has the dispatches, each to be handed to its worker again, which
/// knows by its number whether it has it; `br_router_returned` and the next step tell again who was given
/// back by the last step or since and has not come again (who was left over as that step was made is not
/// among them); `br_router_put_off` has who was preempted. What engines hold is theirs to say, by reports
/// and `br_router_adopt`. The text of an error goes into `error`, which has `error_size` bytes and may be
/// NULL.
///
/// # Safety
/// Pointers are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_resume(
    folder: *const c_char,
    segment_bytes: u64,
    segments: u64,
    router: *mut *mut br_router,
    error: *mut c_char,
    error_size: usize,
) -> br_status {
    let made = || {
        // SAFETY: the caller's word.
        let config = unsafe { config(folder, segment_bytes, segments) }?;
        let mut state = State::new(Router::resume(&config)?);
        state.returned = state.router.untold().map(|untold| untold.returned().collect()).unwrap_or_default();
        Ok(br_router(Handle::new(state)))
    };
    // SAFETY: the caller's word.
    unsafe { make("router", router, (error, error_size), made) }
}

/// How the recording of a router stands. Why it has stopped, if it has, goes into `why`, which has `why_size`
/// bytes and may be NULL.
///
/// # Safety
/// `router` is NULL or alive, `recording` NULL or a struct, `why` NULL or of `why_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_recording(
    router: *mut br_router,
    recording: *mut br_recording,
    why: *mut c_char,
    why_size: usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let mut told = read_versioned(recording)?;
            let found = state.router.recording();
            let stopped = found.as_ref().and_then(|found| found.stopped.as_ref());
            let is = match (&found, stopped) {
                (None, _) => br_recording_state::BR_NOT_RECORDED,
                (Some(_), None) => br_recording_state::BR_RECORDED,
                (Some(_), Some(_)) => br_recording_state::BR_RECORDING_STOPPED,
            };
            (told.state, told.reserved) = (is as u32, 0);
            (told.calls, told.bytes) = found.as_ref().map_or((0, 0), |found| (found.calls, found.bytes));
            copy_text(&stopped.map(ToString::to_string).unwrap_or_default(), why, why_size);
            write_versioned(&told, recording);
            Ok(())
        })
    }
}

/// Ends the recording of a router, if there is one.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_stop_recording(router: *mut br_router) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let _ = state.router.stop_recording();
            Ok(())
        })
    }
}

/// # Safety
/// The array is as the header says.
unsafe fn tell(
    what: &str,
    found: &[Dispatch],
    (to, capacity): (*mut br_dispatch, usize),
    count: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: the caller's word.
    unsafe { counted(what, found.len(), capacity, count) }?;
    if !found.is_empty() {
        let to = output(what, to)?;
        for (at, dispatch) in found.iter().enumerate() {
            // SAFETY: `at < found.len() <= capacity`.
            unsafe { to.add(at).write(dispatch_of(dispatch)) };
        }
    }
    Ok(())
}

/// Who runs, in order of id, into an array of `capacity` entries: worker, number of the dispatch (0 for one
/// that was adopted), tokens of the prompt, no score; how many into `count`; with `BR_SPACE` how many there
/// are.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_running(
    router: *mut br_router,
    running: *mut br_dispatch,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let found: Vec<Dispatch> = state
                .router
                .running()
                .map(|(id, worker, number)| {
                    let prompt_tokens = state.router.prompt_tokens(id).unwrap_or_default();
                    Dispatch { id, worker, number, prompt_tokens, score_tokens: 0.0 }
                })
                .collect();
            tell("running", &found, (running, capacity), count)
        })
    }
}

/// The dispatches of those who run that nothing has shown to have arrived, by worker and number, as
/// `br_router_running` tells them, but with the length that each is counted with by now.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_unseen(
    router: *mut br_router,
    unseen: *mut br_dispatch,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| tell("unseen", &state.router.unseen(), (unseen, capacity), count))
    }
}

/// `br_router_unseen`, made again now: each is to be handed to its worker once more, and only from now on
/// may a report be expected to have seen it. After `br_router_resume`, and for a worker whose connection
/// was lost. A worker that has it knows it by its number.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_resend(
    router: *mut br_router,
    now_ms: u64,
    again: *mut br_dispatch,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            tell("again", &state.router.unseen(), (again, capacity), count)?;
            let _ = state.router.resend(now_ms);
            state.now_ms = None;
            Ok(())
        })
    }
}

/// Of a recorded router, who was preempted since the last step and has not come again: how many into
/// `count`, and the first of them into `again`, which may be NULL, as `br_router_preempt_request` tells it.
/// Once that one has been enqueued the next is the first.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_put_off(
    router: *mut br_router,
    again: *mut br_request,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let put_off = || state.router.untold().into_iter().flat_map(|untold| untold.preempted());
            output("count", count)?.write(put_off().count());
            if let Some(first) = put_off().next().filter(|_| !again.is_null()) {
                let size = read_versioned(again)?.struct_size;
                write_versioned(&told_request(&first, size), again);
            }
            Ok(())
        })
    }
}

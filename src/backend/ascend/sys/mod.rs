//! The runtime's calls behind handles that can neither be forged nor used twice: all unsafe code of this
//! backend.
//!
//! The call that creates an object makes its handle, and the call that destroys the object consumes it. The
//! host reaches memory through [`HostBuffers`], which [`Lanes`] own while the device may be writing it. What
//! the runtime checks itself (a foreign context, a bad length), it reports as an error value.
//!
//! | module | |
//! |---|---|
//! | `bindings` | the calls and types, made by bindgen |
//! | `api` | the library: found, loaded, checked, initialised, finalised |
//! | `handles` | device, context, stream, events, memory, kernel file |
//! | `buffers` | the memory of batches, their copies and launches |

mod api;
mod buffers;
mod handles;

#[rustfmt::skip]
#[expect(
    dead_code,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    reason = "made by bindgen"
)]
mod bindings {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/ffi/acl/bindings.rs"));
}

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use api::{Api, finalize};
pub(super) use buffers::{HostBuffers, Job, KernelLaunch, Lanes};
pub(super) use handles::{Binary, Context, Deferred, Device};

/// Locks a mutex, also after another thread panicked while it held the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

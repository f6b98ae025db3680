//! How several Python threads come into one state: one after the other, none of them holding the GIL while it waits.

use std::sync::{Mutex, MutexGuard, TryLockError};

use pyo3::prelude::*;

use crate::errors::Failure;

/// A locked state: at once, or when the thread that has it is done, which never waits for the GIL meanwhile without having let this one go.
pub(crate) fn enter<'a, T>(state: &'a Mutex<T>, py: Python<'_>) -> Result<MutexGuard<'a, T>, Failure> {
    match state.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(_)) => Err(Failure::Broken),
        Err(TryLockError::WouldBlock) => {
            pyo3::sync::MutexExt::lock_py_attached(state, py).map_err(|_| Failure::Broken)
        }
    }
}

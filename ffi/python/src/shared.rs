//! How several Python threads come into one state: one after the other, and none of them runs anything of
//! Python's while it is inside.
//!
//! Who is inside either keeps the GIL and asks Python for nothing before it is out, or has let the GIL go and
//! takes it back outside. So a signal handler, a finalizer or a `__repr__` that calls the same object never
//! finds its own thread inside, and nobody who waits here holds what the one inside waits for. A panic is an
//! error of the call, and a state that is lost with a thread in a fork is never waited for.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::prelude::*;

use crate::errors::Failure;

/// How many forks lie between this process and the one that loaded the module: the threads of another
/// generation are not here.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Counts forks from now on; once for a process and all that come from it.
#[cfg(unix)]
pub(crate) fn watch_forks() {
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the child only adds to an atomic. Without memory for the handler forks go unnoticed, as
        // they would without this call.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Nothing forks here.
#[cfg(not(unix))]
pub(crate) fn watch_forks() {}

/// A state that calls share.
pub(crate) trait State: Send {
    /// What helps once a panic has left it half changed.
    const WAY_OUT: &'static str;

    /// Makes it usable again after a panic; whether that was possible.
    fn mend(&mut self) -> bool {
        false
    }

    /// It is the copy of a process that was forked off: gives up what only one process may have.
    fn forked(&mut self) {}
}

struct Inner<S> {
    state: S,
    /// A panic has left it half changed.
    broken: bool,
    /// Of the process that it was last used in.
    generation: u32,
}

/// A state, and who is inside.
pub(crate) struct Shared<S> {
    /// Threads that are inside or on their way in (the lower half), and the generation of the process that
    /// they are threads of.
    inside: AtomicU64,
    inner: Mutex<Inner<S>>,
}

/// One of the threads that are counted.
struct Inside<'a>(&'a AtomicU64);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<S: State> Shared<S> {
    pub(crate) fn new(state: S) -> Self {
        let generation = GENERATION.load(Ordering::Relaxed);
        Self { inside: AtomicU64::new(0), inner: Mutex::new(Inner { state, broken: false, generation }) }
    }

    /// A short call, which keeps the GIL unless another thread is inside.
    pub(crate) fn call<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut S) -> R + Send,
    ) -> Result<R, Failure> {
        let _inside = self.count_in()?;
        match self.inner.try_lock() {
            Ok(mut inner) => inner.run(f),
            Err(TryLockError::Poisoned(inner)) => inner.into_inner().run(f),
            Err(TryLockError::WouldBlock) => py.detach(|| self.lock().run(f)),
        }
    }

    /// A call that may take long: other Python threads run meanwhile.
    pub(crate) fn call_detached<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut S) -> R + Send,
    ) -> Result<R, Failure> {
        py.detach(|| self.locked(f))
    }

    /// A call for a thread that does not have the GIL.
    pub(crate) fn locked<R>(&self, f: impl FnOnce(&mut S) -> R) -> Result<R, Failure> {
        let _inside = self.count_in()?;
        self.lock().run(f)
    }

    /// Without the GIL, and also where a panic has left the state half changed: `f` makes it whole.
    pub(crate) fn repair<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut S) -> R + Send,
    ) -> Result<R, Failure> {
        py.detach(|| {
            let _inside = self.count_in()?;
            let mut inner = self.lock();
            let repaired = inner.caught(f)?;
            inner.broken = false;
            Ok(repaired)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // What panics inside is caught inside, so that the word of the mutex itself says nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the mutex is touched: one that a thread of the parent process held at a fork stays locked for
    /// ever.
    fn count_in(&self) -> Result<Inside<'_>, Failure> {
        let now = GENERATION.load(Ordering::Relaxed);
        let mut seen = self.inside.load(Ordering::Relaxed);
        loop {
            let (generation, threads) = ((seen >> 32) as u32, seen as u32);
            let next = match threads {
                _ if generation == now => seen + 1,
                0 => (u64::from(now) << 32) | 1,
                _ => return Err(Failure::Forked),
            };
            match self.inside.compare_exchange_weak(seen, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(Inside(&self.inside)),
                Err(found) => seen = found,
            }
        }
    }
}

impl<S: State> Inner<S> {
    fn run<R>(&mut self, f: impl FnOnce(&mut S) -> R) -> Result<R, Failure> {
        if self.broken {
            return Err(Failure::Broken { way_out: S::WAY_OUT });
        }
        self.caught(f)
    }

    fn caught<R>(&mut self, f: impl FnOnce(&mut S) -> R) -> Result<R, Failure> {
        let generation = GENERATION.load(Ordering::Relaxed);
        if self.generation != generation {
            self.generation = generation;
            self.state.forked();
        }
        catch_unwind(AssertUnwindSafe(|| f(&mut self.state))).map_err(|panic| {
            // What mends may panic as well.
            let mended = catch_unwind(AssertUnwindSafe(|| self.state.mend()));
            self.broken |= !mended.unwrap_or(false);
            Failure::Panicked { message: message(panic.as_ref()) }
        })
    }
}

/// Runs what has no state yet; a panic is an error here too.
pub(crate) fn guarded<R>(f: impl FnOnce() -> R) -> Result<R, Failure> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| Failure::Panicked { message: message(panic.as_ref()) })
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}

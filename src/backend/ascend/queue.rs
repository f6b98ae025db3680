//! A device behind a thread of its own.
//!
//! The runtime keeps one context per thread, and any of its calls may block. A thread of its own has three
//! uses. The caller's context is untouched: a serving engine has one. The caller waits no longer than it
//! asks to. And a device that failed is closed, left alone for a while and opened again while nobody waits.
//! A panic of the thread is such a failure: every batch in flight ends with it.
//!
//! Closing a device waits for what runs on it, because destroying a stream does. Where a task hangs and the
//! launch's limit of time does not end it, the thread hangs as well, and the device is not opened again.
//! Nobody else hangs: batches have got their errors before that, further ones are refused, and who drops the
//! queue waits half a second and leaves the thread behind.
//!
//! A process that is forked from the one with the thread has the queue and no thread. Its batches are refused
//! at once, and it frees nothing: device and pinned memory are its parent's.
//!
//! The caller writes its batches straight into pinned memory. That memory lies in its place, behind a lock,
//! while the host may use it, and is gone from there while a batch of it is in flight.

#[cfg(test)]
mod tests;
mod thread;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::device::{MAX_IN_FLIGHT, OpenOptions, Opened};
use super::result::{CallError, Counters, DeviceError, LoadError};
use super::sys::{HostBuffers, Job, lock};

/// How long opening a device may take, and how long it rests after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// The whole opening of a device.
    pub open: Duration,
    /// The first rest after a failure; doubled after each further one.
    pub rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
}

/// How long dropping a queue waits for its thread.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A batch that was submitted and not collected yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    index: usize,
    serial: u64,
}

impl Handle {
    pub(super) fn serial(self) -> u64 {
        self.serial
    }
}

/// How long a batch took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// From its submission to its answer.
    pub total: Duration,
    /// How long the caller waited in [`Queue::collect`].
    pub waited: Duration,
}

/// Whether the device can be used.
#[derive(Debug)]
enum Phase {
    Opening,
    Ready(Opened),
    Resting,
    Closed(LoadError),
}

/// How far a batch has come.
#[derive(Debug)]
enum Stage {
    Free,
    /// The caller writes its input, or reads its output.
    Filling,
    Queued(Job),
    Running,
    Done(Result<Timing, DeviceError>),
}

/// A place for one batch; each has memory of its own.
#[derive(Debug)]
struct InFlight {
    stage: Stage,
    serial: u64,
    since: Instant,
    /// Nobody will collect it.
    abandoned: bool,
    /// Its caller stopped waiting; no batch is submitted until the device is done with it.
    late: bool,
}

impl InFlight {
    fn new(stage: Stage, serial: u64) -> Self {
        Self { stage, serial, since: Instant::now(), abandoned: false, late: false }
    }
}

/// What callers and thread share, under one lock.
struct State {
    phase: Phase,
    in_flight: [InFlight; MAX_IN_FLIGHT],
    serial: u64,
    stop: bool,
    /// Whether the thread has ended.
    finished: bool,
    /// Set by a caller that got a wrong answer.
    wrong_answer: Option<DeviceError>,
    failures_in_a_row: u32,
    /// Late answers since the last good one, and until when no further batch is submitted.
    late_in_a_row: u32,
    pause_until: Option<Instant>,
    last_error: Option<DeviceError>,
    /// How long the last batch took on the device, copies included; none where the runtime does not tell.
    device_ms: Option<f32>,
    counters: Counters,
}

/// What the queue and its thread hold together.
struct Shared {
    state: Mutex<State>,
    to_device: Condvar,
    to_host: Condvar,
    /// None while the batch is in flight, and while no device is open.
    hosts: [Mutex<Option<HostBuffers>>; MAX_IN_FLIGHT],
}

/// A device and its thread.
pub(super) struct Queue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    timeouts: Timeouts,
    /// The process that has the thread.
    process: u32,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut queue = f.debug_struct("Queue");
        match self.state() {
            Ok(state) => queue.field("phase", &state.phase).finish_non_exhaustive(),
            Err(error) => queue.field("error", &error).finish_non_exhaustive(),
        }
    }
}

impl Queue {
    /// Opens a device. Where a call of the runtime fails, the thread tries again later.
    pub(super) fn open(options: OpenOptions, timeouts: Timeouts) -> Result<Self, LoadError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                phase: Phase::Opening,
                in_flight: std::array::from_fn(|_| InFlight::new(Stage::Free, 0)),
                serial: 0,
                stop: false,
                finished: false,
                wrong_answer: None,
                failures_in_a_row: 0,
                late_in_a_row: 0,
                pause_until: None,
                last_error: None,
                device_ms: None,
                counters: Counters::default(),
            }),
            to_device: Condvar::new(),
            to_host: Condvar::new(),
            hosts: std::array::from_fn(|_| Mutex::new(None)),
        });
        let own = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("balanceroute-ascend".to_owned()).spawn(move || {
            let _ended = thread::Ended(&own);
            own.run(&options, timeouts);
        });
        let thread =
            spawned.map_err(|error| CallError { call: "spawn", code: 0, message: error.to_string() })?;
        let queue = Self { shared, thread: Some(thread), timeouts, process: std::process::id() };
        let opening = |state: &mut State| matches!(state.phase, Phase::Opening);
        let state = queue.shared.wait_while(timeouts.open, opening);
        match &state.phase {
            Phase::Closed(error) => Err(error.clone()),
            Phase::Opening => {
                let message = format!("not open after {} ms", timeouts.open.as_millis());
                Err(CallError { call: "open", code: 0, message }.into())
            }
            _ => {
                drop(state);
                Ok(queue)
            }
        }
    }

    /// Whether this process was forked from the one that has the thread.
    fn forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// Locks the state. A forked process may not: a thread that is not there may have locked it.
    fn state(&self) -> Result<MutexGuard<'_, State>, DeviceError> {
        if self.forked() { Err(LoadError::Forked.into()) } else { Ok(lock(&self.shared.state)) }
    }

    /// The open device, if it may be used now.
    pub(super) fn ready(&self) -> Result<Opened, DeviceError> {
        let state = self.state()?;
        state.usable()?;
        match &state.phase {
            Phase::Ready(opened) => Ok(opened.clone()),
            _ => Err(state.resting()),
        }
    }

    /// Chip of the open device, if it may be used now. Unlike [`Queue::ready`] it allocates nothing.
    pub(super) fn soc(&self) -> Result<super::blob::Soc, DeviceError> {
        let state = self.state()?;
        state.usable()?;
        match &state.phase {
            Phase::Ready(opened) => Ok(opened.soc),
            _ => Err(state.resting()),
        }
    }

    /// Lets `fill` write a batch into pinned memory, and submits it.
    pub(super) fn submit(
        &self,
        fill: impl FnOnce(&mut [u8], &mut [u8]) -> Result<Job, DeviceError>,
    ) -> Result<Handle, DeviceError> {
        let handle = {
            let mut state = self.state()?;
            state.usable()?;
            let free = state.in_flight.iter().position(|entry| matches!(entry.stage, Stage::Free));
            let index = free.ok_or(DeviceError::Busy { in_flight: MAX_IN_FLIGHT })?;
            state.serial += 1;
            let serial = state.serial;
            state.in_flight[index] = InFlight::new(Stage::Filling, serial);
            Handle { index, serial }
        };
        let _held = Held { shared: &self.shared, handle };
        let filled = match self.shared.held_host(handle).as_deref_mut() {
            Some(Some(host)) => {
                let (input, output) = host.bytes();
                fill(input, output)
            }
            _ => Err(DeviceError::Load(LoadError::Call(CallError {
                call: "submit",
                code: 0,
                message: "the device was closed meanwhile".to_owned(),
            }))),
        };
        let mut state = lock(&self.shared.state);
        // The device may have closed meanwhile; every place is free then.
        let entry = &mut state.in_flight[handle.index];
        if entry.serial != handle.serial || !matches!(entry.stage, Stage::Filling) {
            return Err(filled.err().unwrap_or_else(|| state.resting()));
        }
        entry.stage = Stage::Queued(filled?);
        state.counters.submitted += 1;
        self.shared.to_device.notify_one();
        Ok(handle)
    }

    /// Whether a batch has an answer or an error.
    pub(super) fn poll(&self, handle: Handle) -> bool {
        // An error is there at once.
        let Ok(state) = self.state() else { return true };
        let entry = &state.in_flight[handle.index];
        entry.serial != handle.serial || matches!(entry.stage, Stage::Done(_) | Stage::Free)
    }

    /// Waits for a batch and reads its output.
    pub(super) fn collect<T>(
        &self,
        handle: Handle,
        timeout: Duration,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<(T, Timing), DeviceError> {
        let out = |state: &mut State| {
            let entry = &state.in_flight[handle.index];
            entry.serial == handle.serial && matches!(entry.stage, Stage::Queued(_) | Stage::Running)
        };
        drop(self.state()?);
        let begin = Instant::now();
        let mut state = self.shared.wait_while(timeout, out);
        let waited = begin.elapsed();
        let entry = &mut state.in_flight[handle.index];
        if entry.serial != handle.serial {
            return Err(DeviceError::Ticket { ticket: handle.serial });
        }
        let timing = match std::mem::replace(&mut entry.stage, Stage::Free) {
            Stage::Done(Ok(timing)) => Timing { waited, ..timing },
            Stage::Done(Err(error)) => return Err(error),
            stage @ (Stage::Queued(_) | Stage::Running) => {
                (entry.stage, entry.abandoned, entry.late) = (stage, true, true);
                state.counters.late += 1;
                // Without a pause, every decision would wait in vain for a device that is merely slow.
                let rest = self.timeouts.rest * 2u32.saturating_pow(state.late_in_a_row.min(16));
                state.pause_until = Some(Instant::now() + rest.min(self.timeouts.longest_rest));
                state.late_in_a_row += 1;
                let late = DeviceError::Late { waited_ms: timeout.as_millis() as u64 };
                state.last_error = Some(late.clone());
                return Err(late);
            }
            Stage::Free | Stage::Filling => return Err(DeviceError::Ticket { ticket: handle.serial }),
        };
        // The place stays taken while its output is read.
        entry.stage = Stage::Filling;
        drop(state);
        let _held = Held { shared: &self.shared, handle };
        let read = match self.shared.held_host(handle).as_deref_mut() {
            Some(Some(host)) => Some(read(host.bytes().1)),
            _ => None,
        };
        match read {
            Some(read) => Ok((read, timing)),
            None => Err(lock(&self.shared.state).resting()),
        }
    }

    /// Gives up a batch: nobody will collect it.
    pub(super) fn discard(&self, handle: Handle) {
        let Ok(mut state) = self.state() else { return };
        let entry = &mut state.in_flight[handle.index];
        if entry.serial == handle.serial {
            match entry.stage {
                Stage::Done(_) => entry.stage = Stage::Free,
                _ => entry.abandoned = true,
            }
        }
    }

    /// Notes a wrong answer: the device is closed, left alone for a while and opened again.
    pub(super) fn note_wrong_answer(&self, error: DeviceError) {
        let Ok(mut state) = self.state() else { return };
        state.counters.refused += 1;
        if matches!(state.phase, Phase::Ready(_)) && state.wrong_answer.is_none() {
            state.wrong_answer = Some(error);
            self.shared.to_device.notify_one();
        }
    }

    /// Changes the counters under the lock.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        if let Ok(mut state) = self.state() {
            change(&mut state.counters);
        }
    }

    /// Notes a good answer: it ends the row of failures.
    pub(super) fn note_answer(&self) {
        let Ok(mut state) = self.state() else { return };
        state.counters.decided += 1;
        (state.failures_in_a_row, state.late_in_a_row, state.pause_until) = (0, 0, None);
    }

    /// What the device has done; nothing in a forked process.
    pub(super) fn counters(&self) -> Counters {
        self.state().map_or_else(|_| Counters::default(), |state| state.counters)
    }

    /// How long the last batch took on the device, in milliseconds; none where the runtime does not tell.
    pub(super) fn device_ms(&self) -> Option<f32> {
        self.state().ok()?.device_ms
    }

    pub(super) fn last_error(&self) -> Option<DeviceError> {
        self.state().ok()?.last_error.clone()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.forked() {
            // Neither the thread can be joined nor the memory freed.
            std::mem::forget((self.thread.take(), Arc::clone(&self.shared)));
            return;
        }
        lock(&self.shared.state).stop = true;
        self.shared.to_device.notify_all();
        let finished = self.shared.wait_while(CLOSE_TIMEOUT, |state| !state.finished).finished;
        // A thread that hangs in the runtime keeps what it holds.
        if finished && let Some(thread) = self.thread.take() {
            // The thread returns nothing, and has noted its panics.
            let _ = thread.join();
        }
    }
}

impl State {
    /// An error where no batch should be submitted now.
    fn usable(&self) -> Result<(), DeviceError> {
        let late = self
            .in_flight
            .iter()
            .any(|entry| entry.late && matches!(entry.stage, Stage::Queued(_) | Stage::Running));
        let pausing = self.pause_until.is_some_and(|until| Instant::now() < until);
        let ready = matches!(self.phase, Phase::Ready(_)) && !late && !pausing && self.wrong_answer.is_none();
        if ready { Ok(()) } else { Err(self.resting()) }
    }

    fn resting(&self) -> DeviceError {
        DeviceError::Resting { failures: self.failures_in_a_row + self.late_in_a_row }
    }
}

/// A place that its caller fills or reads. It is free again when this goes, also after a panic.
struct Held<'a> {
    shared: &'a Shared,
    handle: Handle,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        let entry = &mut state.in_flight[self.handle.index];
        if entry.serial == self.handle.serial && matches!(entry.stage, Stage::Filling) {
            entry.stage = Stage::Free;
        }
    }
}

impl Shared {
    /// The memory of a place that its caller fills or reads; none where the place is another batch's by now.
    ///
    /// Before the memory is locked, the device may be closed and opened again, and another batch may get the
    /// place. Once it is locked, nobody gets it before this is dropped.
    fn held_host(&self, handle: Handle) -> Option<MutexGuard<'_, Option<HostBuffers>>> {
        let host = lock(&self.hosts[handle.index]);
        let state = lock(&self.state);
        let entry = &state.in_flight[handle.index];
        (entry.serial == handle.serial && matches!(entry.stage, Stage::Filling)).then_some(host)
    }

    /// Waits until the condition ends, at most for `timeout`.
    fn wait_while(
        &self,
        timeout: Duration,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'_, State> {
        let state = lock(&self.state);
        self.to_host.wait_timeout_while(state, timeout, condition).unwrap_or_else(PoisonError::into_inner).0
    }
}

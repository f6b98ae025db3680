//! A device behind a thread of its own.
//!
//! The runtime keeps its context per thread and may block in any call. With a thread of its own the caller's
//! context is left alone (a serving engine has one), the caller waits for as long as it says and no longer,
//! and a device that failed is closed, left alone for a while and opened again without anybody waiting for
//! it. Batches are filled by the caller, straight into pinned memory.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::device::{LANES, Opened, Place as Files, Session};
use super::result::{CallError, Counters, DeviceError, LoadError};
use super::sys::{Flight, Lane, lock};

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// The whole opening of a device.
    pub open: Duration,
    /// The first rest after a failure; doubled after each further one.
    pub rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
}

/// How long the end of a queue waits for its thread.
const CLOSE: Duration = Duration::from_millis(500);

/// A batch on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    place: usize,
    serial: u64,
}

impl Handle {
    pub(super) fn serial(self) -> u64 {
        self.serial
    }
}

/// What a batch took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timing {
    /// From its submission to its answer.
    pub total: Duration,
    /// How long the caller waited in [`Queue::collect`].
    pub waited: Duration,
    /// Copies and kernels on the device, in milliseconds, if the runtime knows.
    pub device_ms: Option<f32>,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Ready(Opened),
    Resting,
    Closed(LoadError),
}

#[derive(Debug)]
enum Slot {
    Free,
    /// The caller writes its input.
    Filling,
    Queued(Flight),
    Running,
    Done(Result<Timing, CallError>),
}

#[derive(Debug)]
struct Berth {
    slot: Slot,
    serial: u64,
    since: Instant,
    /// Nobody waits for it any more.
    abandoned: bool,
    /// Because it came too late: nobody is sent after it until it lands.
    late: bool,
}

impl Berth {
    fn new(slot: Slot, serial: u64) -> Self {
        Self { slot, serial, since: Instant::now(), abandoned: false, late: false }
    }
}

struct State {
    phase: Phase,
    berths: [Berth; LANES],
    serial: u64,
    stop: bool,
    /// Whether the thread has nothing left to do.
    gone: bool,
    /// Set by the caller: the answers are wrong.
    distrusted: Option<DeviceError>,
    failures_in_a_row: u32,
    /// Late answers since the last good one, and until when nobody is to wait for another.
    late_in_a_row: u32,
    quiet_until: Option<Instant>,
    last_error: Option<DeviceError>,
    counters: Counters,
}

struct Shared {
    state: Mutex<State>,
    to_device: Condvar,
    to_host: Condvar,
    lanes: [Mutex<Option<Lane>>; LANES],
}

/// A device and its thread.
pub(super) struct Queue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    patience: Patience,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("phase", &lock(&self.shared.state).phase).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens a device; one that only may work later is opened later.
    pub(super) fn open(files: Files, patience: Patience) -> Result<Self, LoadError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                phase: Phase::Opening,
                berths: std::array::from_fn(|_| Berth::new(Slot::Free, 0)),
                serial: 0,
                stop: false,
                gone: false,
                distrusted: None,
                failures_in_a_row: 0,
                late_in_a_row: 0,
                quiet_until: None,
                last_error: None,
                counters: Counters::default(),
            }),
            to_device: Condvar::new(),
            to_host: Condvar::new(),
            lanes: std::array::from_fn(|_| Mutex::new(None)),
        });
        let own = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("balanceroute-ascend".to_owned()).spawn(move || {
            own.run(&files, patience);
            lock(&own.state).gone = true;
            own.to_host.notify_all();
        });
        let thread =
            spawned.map_err(|error| CallError { call: "spawn", code: 0, message: error.to_string() })?;
        let queue = Self { shared, thread: Some(thread), patience };
        let opening = |state: &mut State| matches!(state.phase, Phase::Opening);
        let state = queue.shared.wait_while(patience.open, opening);
        match &state.phase {
            Phase::Closed(error) => Err(error.clone()),
            Phase::Opening => {
                let message = format!("not open after {} ms", patience.open.as_millis());
                Err(CallError { call: "open", code: 0, message }.into())
            }
            _ => {
                drop(state);
                Ok(queue)
            }
        }
    }

    /// The open device, if it may be used now.
    pub(super) fn ready(&self) -> Result<Opened, DeviceError> {
        let state = lock(&self.shared.state);
        state.usable()?;
        match &state.phase {
            Phase::Ready(opened) => Ok(opened.clone()),
            _ => Err(state.resting()),
        }
    }

    /// Chip of the open device, if it may be used now: as [`Queue::ready`], without allocating.
    pub(super) fn soc(&self) -> Result<super::blob::Soc, DeviceError> {
        let state = lock(&self.shared.state);
        state.usable()?;
        match &state.phase {
            Phase::Ready(opened) => Ok(opened.soc),
            _ => Err(state.resting()),
        }
    }

    /// Fills a batch into memory of the device's own and hands it over.
    pub(super) fn submit(
        &self,
        fill: impl FnOnce(&mut [u8], &mut [u8]) -> Result<Flight, DeviceError>,
    ) -> Result<Handle, DeviceError> {
        let handle = {
            let mut state = lock(&self.shared.state);
            state.usable()?;
            let free = state.berths.iter().position(|berth| matches!(berth.slot, Slot::Free));
            let place = free.ok_or(DeviceError::Busy { in_flight: LANES })?;
            state.serial += 1;
            let serial = state.serial;
            state.berths[place] = Berth::new(Slot::Filling, serial);
            Handle { place, serial }
        };
        let filled = match lock(&self.shared.lanes[handle.place]).as_mut() {
            Some(lane) => {
                let (input, output) = lane.bytes();
                fill(input, output)
            }
            None => Err(DeviceError::Load(LoadError::Call(CallError {
                call: "submit",
                code: 0,
                message: "the device was closed meanwhile".to_owned(),
            }))),
        };
        let mut state = lock(&self.shared.state);
        // A device that closed meanwhile has freed every place.
        let berth = &mut state.berths[handle.place];
        if berth.serial != handle.serial || !matches!(berth.slot, Slot::Filling) {
            return Err(filled.err().unwrap_or_else(|| state.resting()));
        }
        match filled {
            Ok(flight) => {
                berth.slot = Slot::Queued(flight);
                state.counters.submitted += 1;
                self.shared.to_device.notify_one();
                Ok(handle)
            }
            Err(error) => {
                berth.slot = Slot::Free;
                Err(error)
            }
        }
    }

    /// Whether a batch has its answer, good or bad.
    pub(super) fn poll(&self, handle: Handle) -> bool {
        let state = lock(&self.shared.state);
        let berth = &state.berths[handle.place];
        berth.serial != handle.serial || matches!(berth.slot, Slot::Done(_) | Slot::Free)
    }

    /// Waits for a batch and reads its output.
    pub(super) fn collect<T>(
        &self,
        handle: Handle,
        patience: Duration,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<(T, Timing), DeviceError> {
        let out = |state: &mut State| {
            let berth = &state.berths[handle.place];
            berth.serial == handle.serial && matches!(berth.slot, Slot::Queued(_) | Slot::Running)
        };
        let begin = Instant::now();
        let mut state = self.shared.wait_while(patience, out);
        let waited = begin.elapsed();
        let berth = &mut state.berths[handle.place];
        if berth.serial != handle.serial {
            return Err(DeviceError::Ticket { ticket: handle.serial });
        }
        let timing = match std::mem::replace(&mut berth.slot, Slot::Free) {
            Slot::Done(Ok(timing)) => Timing { waited, ..timing },
            Slot::Done(Err(error)) => return Err(error.into()),
            slot @ (Slot::Queued(_) | Slot::Running) => {
                (berth.slot, berth.abandoned, berth.late) = (slot, true, true);
                state.counters.late += 1;
                // A device that is slow rather than stuck would be waited for again and again.
                let rest = self.patience.rest * 2u32.saturating_pow(state.late_in_a_row.min(16));
                state.quiet_until = Some(Instant::now() + rest.min(self.patience.longest_rest));
                state.late_in_a_row += 1;
                let late = DeviceError::Late { waited_ms: patience.as_millis() as u64 };
                state.last_error = Some(late.clone());
                return Err(late);
            }
            Slot::Free | Slot::Filling => return Err(DeviceError::Ticket { ticket: handle.serial }),
        };
        // Read before anybody else may fill it.
        berth.slot = Slot::Filling;
        drop(state);
        let read = lock(&self.shared.lanes[handle.place]).as_mut().map(|lane| read(lane.bytes().1));
        let mut state = lock(&self.shared.state);
        let berth = &mut state.berths[handle.place];
        if berth.serial == handle.serial && matches!(berth.slot, Slot::Filling) {
            berth.slot = Slot::Free;
        }
        match read {
            Some(read) => Ok((read, timing)),
            None => Err(state.resting()),
        }
    }

    /// Gives a batch up.
    pub(super) fn discard(&self, handle: Handle) {
        let mut state = lock(&self.shared.state);
        let berth = &mut state.berths[handle.place];
        if berth.serial == handle.serial {
            match berth.slot {
                Slot::Done(_) => berth.slot = Slot::Free,
                _ => berth.abandoned = true,
            }
        }
    }

    /// Says that the device answers wrongly: it is closed, left alone and opened again.
    pub(super) fn distrust(&self, error: DeviceError) {
        let mut state = lock(&self.shared.state);
        state.counters.refused += 1;
        if matches!(state.phase, Phase::Ready(_)) && state.distrusted.is_none() {
            state.distrusted = Some(error);
            self.shared.to_device.notify_one();
        }
    }

    /// Counts, under the lock.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut lock(&self.shared.state).counters);
    }

    /// A good answer ends the row of failures.
    pub(super) fn praise(&self) {
        let mut state = lock(&self.shared.state);
        state.counters.decided += 1;
        (state.failures_in_a_row, state.late_in_a_row, state.quiet_until) = (0, 0, None);
    }

    pub(super) fn counters(&self) -> Counters {
        lock(&self.shared.state).counters
    }

    pub(super) fn last_error(&self) -> Option<DeviceError> {
        lock(&self.shared.state).last_error.clone()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.to_device.notify_all();
        let gone = self.shared.wait_while(CLOSE, |state| !state.gone).gone;
        // A thread that hangs in the runtime is left behind with what it holds.
        if gone && let Some(thread) = self.thread.take() {
            // It has nothing to say, and it never panics on a device's account.
            let _ = thread.join();
        }
    }
}

impl State {
    /// An error where nothing should be handed over now.
    fn usable(&self) -> Result<(), DeviceError> {
        let late = self
            .berths
            .iter()
            .any(|berth| berth.late && matches!(berth.slot, Slot::Queued(_) | Slot::Running));
        let quiet = self.quiet_until.is_some_and(|until| Instant::now() < until);
        let ready = matches!(self.phase, Phase::Ready(_)) && !late && !quiet && self.distrusted.is_none();
        if ready { Ok(()) } else { Err(self.resting()) }
    }

    fn resting(&self) -> DeviceError {
        DeviceError::Resting { failures: self.failures_in_a_row + self.late_in_a_row }
    }
}

/// Why the thread stopped serving.
enum End {
    Stop,
    Failed(DeviceError),
}

impl Shared {
    fn wait_while(
        &self,
        patience: Duration,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'_, State> {
        let state = lock(&self.state);
        self.to_host.wait_timeout_while(state, patience, condition).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The life of the thread.
    fn run(&self, files: &Files, patience: Patience) {
        let mut rest = patience.rest;
        loop {
            let failure = match Session::open(files) {
                Ok((session, opened, lanes)) => {
                    for (place, lane) in self.lanes.iter().zip(lanes) {
                        *lock(place) = Some(lane);
                    }
                    {
                        let mut state = lock(&self.state);
                        state.phase = Phase::Ready(opened);
                        state.counters.openings += 1;
                    }
                    self.to_host.notify_all();
                    let end = self.serve(&session);
                    // Nobody is to fill or await anything any more when the memory goes.
                    self.fail_all(&end);
                    let lanes: Vec<Lane> = self.lanes.iter().filter_map(|lane| lock(lane).take()).collect();
                    session.close(lanes);
                    match end {
                        End::Stop => return,
                        End::Failed(error) => error,
                    }
                }
                Err(error) if error.may_pass() => error.into(),
                Err(error) => {
                    let mut state = lock(&self.state);
                    state.last_error = Some(error.clone().into());
                    state.phase = Phase::Closed(error);
                    drop(state);
                    self.to_host.notify_all();
                    return;
                }
            };
            let mut state = lock(&self.state);
            // After a good answer the row begins anew.
            rest = if state.failures_in_a_row == 0 {
                patience.rest
            } else {
                (rest * 2).min(patience.longest_rest)
            };
            state.failures_in_a_row += 1;
            state.counters.failures += 1;
            state.last_error = Some(failure);
            state.phase = Phase::Resting;
            self.to_host.notify_all();
            let (state, _) = self
                .to_device
                .wait_timeout_while(state, rest, |state| !state.stop)
                .unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
        }
    }

    /// Runs batches until told to stop or until something fails.
    fn serve(&self, session: &Session) -> End {
        loop {
            let mut jobs = [None; LANES];
            {
                let mut state = lock(&self.state);
                loop {
                    if state.stop {
                        return End::Stop;
                    }
                    if let Some(error) = state.distrusted.take() {
                        return End::Failed(error);
                    }
                    if state.berths.iter().any(|berth| matches!(berth.slot, Slot::Queued(_))) {
                        break;
                    }
                    state = self.to_device.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                for (place, (job, berth)) in jobs.iter_mut().zip(&mut state.berths).enumerate() {
                    if let Slot::Queued(flight) = berth.slot {
                        berth.slot = if berth.abandoned { Slot::Free } else { Slot::Running };
                        *job = (!berth.abandoned).then_some((berth.serial, place, flight));
                    }
                }
            }
            // In the order of submission.
            jobs.sort_by_key(|job| job.map_or(u64::MAX, |(serial, ..)| serial));
            if let Err(error) = self.fly(session, &jobs) {
                return End::Failed(error.into());
            }
        }
    }

    fn fly(&self, session: &Session, jobs: &[Option<(u64, usize, Flight)>; LANES]) -> Result<(), CallError> {
        session.deferred()?;
        for (_, place, flight) in jobs.iter().flatten() {
            if let (Some(lane), Some(stream)) = (lock(&self.lanes[*place]).as_mut(), session.stream()) {
                lane.fly(stream, flight)?;
            }
        }
        session.synchronize()?;
        for (serial, place, _) in jobs.iter().flatten() {
            let device_ms = lock(&self.lanes[*place]).as_mut().and_then(Lane::landed);
            let mut state = lock(&self.state);
            let berth = &mut state.berths[*place];
            debug_assert_eq!(berth.serial, *serial);
            let timing = Timing { total: berth.since.elapsed(), waited: Duration::ZERO, device_ms };
            berth.slot = if berth.abandoned { Slot::Free } else { Slot::Done(Ok(timing)) };
        }
        self.to_host.notify_all();
        Ok(())
    }

    /// Answers everybody with an error, and closes the door.
    fn fail_all(&self, end: &End) {
        let mut state = lock(&self.state);
        let error = match end {
            End::Failed(DeviceError::Call(error)) => error.clone(),
            End::Failed(error) => CallError { call: "serve", code: 0, message: error.to_string() },
            End::Stop => {
                CallError { call: "serve", code: 0, message: "the device is being closed".to_owned() }
            }
        };
        state.phase = Phase::Resting;
        state.distrusted = None;
        for berth in &mut state.berths {
            match berth.slot {
                Slot::Queued(_) | Slot::Running if !berth.abandoned => {
                    berth.slot = Slot::Done(Err(error.clone()))
                }
                Slot::Done(_) => {}
                _ => berth.slot = Slot::Free,
            }
        }
        // A good answer that is not read yet goes with the memory that it is in.
        for berth in &mut state.berths {
            if matches!(berth.slot, Slot::Done(Ok(_))) {
                berth.slot = Slot::Done(Err(error.clone()));
            }
        }
        self.to_host.notify_all();
    }
}

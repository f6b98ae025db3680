//! The thread that owns the device: it opens, serves, closes and rests, and notes its own panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::super::device::{MAX_IN_FLIGHT, OpenOptions, Session};
use super::super::result::{CallError, DeviceError, LoadError};
use super::super::sys::{Deferred, Job, lock};
use super::{Phase, Shared, Stage, Timeouts, Timing};

/// Tells everybody that the thread has ended, however it did.
pub(super) struct Ended<'a>(pub(super) &'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fail_all(&End::Stop);
        lock(&self.0.state).finished = true;
        self.0.to_host.notify_all();
    }
}

/// Why the thread stopped serving, or does not begin.
enum End {
    Stop,
    Failed(DeviceError),
    /// It cannot be opened, now or later.
    Closed(LoadError),
}

/// A panic as an error.
fn panicked(panic: Box<dyn Any + Send>) -> DeviceError {
    let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "without words".to_owned(),
    };
    DeviceError::Panicked { message }
}

impl Shared {
    /// What the thread does: open the device, serve, rest after a failure, open again.
    pub(super) fn run(&self, options: &OpenOptions, timeouts: Timeouts) {
        let (mut rest, deferred) = (timeouts.rest, Arc::new(Deferred::default()));
        loop {
            // Who opens the device shall hear that another thread holds the runtime up.
            let patience = timeouts.open / 2;
            let once = catch_unwind(AssertUnwindSafe(|| self.open_and_serve(options, patience, &deferred)));
            let end = once.unwrap_or_else(|panic| {
                let end = End::Failed(panicked(panic));
                self.fail_all(&end);
                // The stream went with the panic, and the context goes with these.
                self.hosts.iter().for_each(|host| drop(lock(host).take()));
                end
            });
            let failure = match end {
                End::Stop => return,
                End::Closed(error) => {
                    let mut state = lock(&self.state);
                    state.last_error = Some(error.clone().into());
                    state.phase = Phase::Closed(error);
                    return;
                }
                End::Failed(failure) => failure,
            };
            let mut state = lock(&self.state);
            // A good answer has ended the row of failures: the first rest is short again.
            rest = if state.failures_in_a_row == 0 {
                timeouts.rest
            } else {
                (rest * 2).min(timeouts.longest_rest)
            };
            state.failures_in_a_row += 1;
            state.counters.failures += 1;
            state.counters.panics += u64::from(matches!(failure, DeviceError::Panicked { .. }));
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

    /// Opens the device, runs batches until that ends, and closes the device. Fails with what was deferred
    /// when the device was closed before.
    fn open_and_serve(&self, options: &OpenOptions, patience: Duration, deferred: &Arc<Deferred>) -> End {
        if let Err(error) = deferred.take() {
            return End::Failed(error.into());
        }
        let (mut session, opened, hosts) = match Session::open(options, patience, deferred) {
            Ok(open) => open,
            Err(error) if error.may_pass() => return End::Failed(error.into()),
            Err(error) => return End::Closed(error),
        };
        for (place, host) in self.hosts.iter().zip(hosts) {
            *lock(place) = Some(host);
        }
        {
            let mut state = lock(&self.state);
            state.phase = Phase::Ready(opened);
            state.counters.openings += 1;
        }
        self.to_host.notify_all();
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(&mut session)));
        let end = served.unwrap_or_else(|panic| End::Failed(panicked(panic)));
        // All places end before their memory is freed: nobody may fill or await one after that.
        self.fail_all(&end);
        session.close(self.hosts.iter().filter_map(|place| lock(place).take()));
        end
    }

    /// Runs batches until told to stop or until something fails.
    fn serve(&self, session: &mut Session) -> End {
        loop {
            let mut jobs = [None; MAX_IN_FLIGHT];
            {
                let mut state = lock(&self.state);
                loop {
                    if state.stop {
                        return End::Stop;
                    }
                    if let Some(error) = state.wrong_answer.take() {
                        return End::Failed(error);
                    }
                    if state.in_flight.iter().any(|entry| matches!(entry.stage, Stage::Queued(_))) {
                        break;
                    }
                    state = self.to_device.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                for (index, (next, entry)) in jobs.iter_mut().zip(&mut state.in_flight).enumerate() {
                    if let Stage::Queued(job) = entry.stage {
                        entry.stage = if entry.abandoned { Stage::Free } else { Stage::Running };
                        *next = (!entry.abandoned).then_some((entry.serial, index, job));
                    }
                }
            }
            // Batches run in the order of their submission.
            jobs.sort_by_key(|job| job.map_or(u64::MAX, |(serial, ..)| serial));
            if let Err(error) = self.run_jobs(session, &jobs) {
                return End::Failed(error.into());
            }
        }
    }

    /// Enqueues batches, waits for the stream and hands out their answers.
    fn run_jobs(
        &self,
        session: &mut Session,
        jobs: &[Option<(u64, usize, Job)>; MAX_IN_FLIGHT],
    ) -> Result<(), CallError> {
        session.deferred()?;
        for (_, index, job) in jobs.iter().flatten() {
            // Who has filled it may still hold the lock for a moment, but no longer the place.
            let host = lock(&self.hosts[*index]).take();
            let gone = || CallError { call: "enqueue", code: 0, message: "the memory is gone".to_owned() };
            session.enqueue(*index, host.ok_or_else(gone)?, job)?;
        }
        session.synchronize(|index, host, device_ms| {
            *lock(&self.hosts[index]) = Some(host);
            let mut state = lock(&self.state);
            let entry = &mut state.in_flight[index];
            let timing = Timing { total: entry.since.elapsed(), waited: Duration::ZERO };
            entry.stage = if entry.abandoned { Stage::Free } else { Stage::Done(Ok(timing)) };
            // Without the time the answer is as good.
            match device_ms {
                Ok(ms) => state.device_ms = Some(ms),
                Err(error) => (state.device_ms, state.last_error) = (None, Some(error.into())),
            }
        })?;
        self.to_host.notify_all();
        Ok(())
    }

    /// Ends every batch in flight with an error, and lets nobody submit.
    fn fail_all(&self, end: &End) {
        let serving = |message: String| CallError { call: "serve", code: 0, message }.into();
        let error: DeviceError = match end {
            End::Failed(error @ (DeviceError::Call(_) | DeviceError::Panicked { .. })) => error.clone(),
            End::Failed(error) => serving(error.to_string()),
            End::Stop | End::Closed(_) => serving("the device is being closed".to_owned()),
        };
        let mut state = lock(&self.state);
        if !matches!(state.phase, Phase::Closed(_)) {
            state.phase = Phase::Resting;
        }
        state.wrong_answer = None;
        // Closing may take a while, or hang: the reason is told at once.
        if let End::Failed(failure) = end {
            state.last_error = Some(failure.clone());
        }
        for entry in &mut state.in_flight {
            // A good answer that nobody has read yet is lost with its memory.
            match entry.stage {
                Stage::Queued(_) | Stage::Running if entry.abandoned => entry.stage = Stage::Free,
                Stage::Queued(_) | Stage::Running | Stage::Done(Ok(_)) => {
                    entry.stage = Stage::Done(Err(error.clone()));
                }
                Stage::Done(Err(_)) => {}
                Stage::Free | Stage::Filling => entry.stage = Stage::Free,
            }
        }
        self.to_host.notify_all();
    }
}

//! One batch: packed, launched, awaited and read.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::super::blob::{
    self, AnswerError, DeviceColumn, DevicePick, ENTRY_COLUMNS, Kept, Packing, Problem, Soc, Source, Work,
};
use super::super::choice::Side;
use super::super::device::MAX_IN_FLIGHT;
use super::super::queue::Timing;
use super::super::result::DeviceError;
use super::super::sys;
use super::device::{Device, Mode, Transport};
use super::{Launch, Outcome};
use crate::rule::{LevelTerms, ProfileSpec};

impl Device {
    /// The chip that batches are packed for; an error where the device cannot be used now.
    pub(super) fn soc(&mut self) -> Result<Soc, Outcome<'static>> {
        match &self.transport {
            Transport::Launcher(launcher) => Ok(launcher.soc()),
            Transport::Queue(queue, _) => queue.soc().map_err(|error| {
                self.fallback = Some(error);
                Outcome::Failed(&DeviceFailed)
            }),
        }
    }

    /// Plans a batch, writes it and submits it to the queue.
    fn start(&mut self, problem: &Problem<'_>) -> Result<(), Outcome<'static>> {
        let soc = self.soc()?;
        let Transport::Queue(queue, _) = &self.transport else { return Ok(()) };
        let failed = |fallback: &mut Option<DeviceError>, error: DeviceError| {
            *fallback = Some(error);
            Outcome::Failed(&DeviceFailed)
        };
        let free = self.pending.iter_mut().find(|pending| pending.handle.is_none());
        let Some(pending) = free else {
            return Err(failed(&mut self.fallback, DeviceError::Busy { in_flight: MAX_IN_FLIGHT }));
        };
        pending.packing.plan(problem, soc).map_err(Outcome::Kept)?;
        let from = blob::launch_head_bytes(1);
        let packing = &pending.packing;
        let handle = queue.submit(|input, output| {
            let mut job = sys::Job {
                input_bytes: from + packing.in_bytes(),
                output_bytes: packing.out_bytes(),
                head_bytes: packing.zeroed_bytes(),
                ..sys::Job::default()
            };
            fits((job.input_bytes, job.output_bytes), (input.len(), output.len()))?;
            blob::write_launch_head(&[(from, 0)], input);
            packing.write(problem, &mut input[from..job.input_bytes]);
            output[..job.head_bytes].fill(0);
            for (entry, blocks) in packing.launches() {
                let function = usize::from(entry != ENTRY_COLUMNS);
                job.launches[job.launch_count] = sys::KernelLaunch { function, blocks };
                job.launch_count += 1;
            }
            Ok(job)
        });
        match handle {
            Ok(handle) => {
                pending.handle = Some(handle);
                pending.stamp = stamp(problem);
                self.ticket = Some(handle.serial());
                Ok(())
            }
            Err(error) => Err(failed(&mut self.fallback, error)),
        }
    }

    /// Waits for the answer to a ticket and reads it.
    fn finish<T>(
        &mut self,
        ticket: u64,
        timeout: Duration,
        problem: &Problem<'_>,
        read: impl FnOnce(&Packing, &[u8]) -> Result<T, AnswerError>,
    ) -> Result<(T, Timing), Outcome<'static>> {
        let unknown = DeviceError::Ticket { ticket };
        let found = self
            .pending
            .iter_mut()
            .find(|pending| pending.handle.is_some_and(|handle| handle.serial() == ticket));
        let (Transport::Queue(queue, _), Some(pending)) = (&self.transport, found) else {
            self.fallback = Some(unknown);
            return Err(Outcome::Failed(&DeviceFailed));
        };
        let Some(handle) = pending.handle.take() else { return Err(Outcome::Failed(&DeviceFailed)) };
        if pending.stamp != stamp(problem) {
            queue.discard(handle);
            self.fallback = Some(unknown);
            return Err(Outcome::Failed(&DeviceFailed));
        }
        let packing = &pending.packing;
        match queue.collect(handle, timeout, |output| {
            read(packing, &output[..packing.out_bytes().min(output.len())])
        }) {
            Ok((Ok(answer), timing)) => Ok((answer, timing)),
            Ok((Err(error), _)) => Err(Outcome::Refused(error)),
            Err(error) => {
                self.fallback = Some(error);
                Err(Outcome::Failed(&DeviceFailed))
            }
        }
    }

    /// Submits the batch, or collects its answer, or both, as the current decision asks. None where there is
    /// no answer and the CPU must decide.
    fn run<T>(
        &mut self,
        problem: &Problem<'_>,
        read: impl FnOnce(&Packing, &[u8]) -> Result<T, AnswerError>,
    ) -> Option<T> {
        if matches!(self.transport, Transport::Launcher(_)) {
            return self.launch(problem, read);
        }
        let begin = self.clock();
        let (ticket, timeout) = match (self.mode, &self.transport) {
            (Mode::Collect { ticket, timeout }, _) => (ticket, timeout),
            (_, Transport::Queue(_, timeout)) => {
                let timeout = *timeout;
                if let Err(outcome) = self.start(problem) {
                    self.note(outcome);
                    return None;
                }
                (self.ticket.unwrap_or(0), timeout)
            }
            _ => return None,
        };
        if self.mode == Mode::Submit {
            let host = begin.map(|begin| begin.elapsed());
            self.record(problem.batch, Side::Host, host);
            return None;
        }
        match self.finish(ticket, timeout, problem, read) {
            Ok((answer, timing)) => {
                self.waited = timing.waited;
                Some(answer)
            }
            Err(outcome) => {
                self.note(outcome);
                // A late device is a slow one: the wait counts as its time.
                if self.mode == Mode::Now {
                    self.record(problem.batch, Side::Device, begin.map(|begin| begin.elapsed()));
                }
                None
            }
        }
    }

    /// Writes the batch, runs it through the caller's launcher and reads the answer.
    fn launch<T>(
        &mut self,
        problem: &Problem<'_>,
        read: impl FnOnce(&Packing, &[u8]) -> Result<T, AnswerError>,
    ) -> Option<T> {
        let Transport::Launcher(launcher) = &mut self.transport else { return None };
        let packing = &mut self.pending[0].packing;
        if let Err(kept) = packing.plan(problem, launcher.soc()) {
            self.note(Outcome::Kept(kept));
            return None;
        }
        let from = blob::launch_head_bytes(1);
        let input = self.input.take(from + packing.in_bytes());
        blob::write_launch_head(&[(from, 0)], input);
        packing.write(problem, &mut input[from..]);
        let output = self.output.take(packing.out_bytes());
        output[..packing.zeroed_bytes()].fill(0);
        let mut launches = [("", 0); 2];
        let mut count = 0;
        for launch in packing.launches() {
            launches[count] = launch;
            count += 1;
        }
        if !launched(&mut **launcher, &launches[..count], input, output) {
            return None;
        }
        match read(packing, output) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.note(Outcome::Refused(error));
                None
            }
        }
    }

    /// Reads the device's picks into `picks`; none where the CPU must make them.
    pub(crate) fn picks(&mut self, problem: &Problem<'_>, picks: &mut Vec<DevicePick>) -> Option<Work> {
        self.run(problem, |packing, output| packing.read(output, picks))
    }

    /// The best request of every column as the decision begins; none where the CPU must score them.
    pub(crate) fn columns(&mut self, problem: &Problem<'_>) -> Option<&[DeviceColumn]> {
        let mut columns = std::mem::take(&mut self.columns);
        let read = self.run(problem, |packing, output| packing.read_columns(output, &mut columns));
        self.columns = columns;
        read.map(|()| &self.columns[..])
    }
}

/// An error where a blob does not fit into its buffer.
pub(super) fn fits(needed: (usize, usize), found: (usize, usize)) -> Result<(), DeviceError> {
    for (what, limit, found) in [("input bytes", found.0, needed.0), ("output bytes", found.1, needed.1)] {
        if found > limit {
            return Err(DeviceError::Kept(Kept::Limit { what, limit: limit as i64, found: found as i64 }));
        }
    }
    Ok(())
}

/// Stands for an error of the device; [`Device::fallback`] holds the error itself.
#[derive(Debug)]
pub(super) struct DeviceFailed;

impl fmt::Display for DeviceFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device failed")
    }
}

impl Error for DeviceFailed {}

/// A hash of what a batch was packed from: plan, profiles, loads, who waits and how often each has been
/// passed, and who was placed before. Terms of pairs are not in it: they are as much as all the rest.
fn stamp(problem: &Problem<'_>) -> u64 {
    let mut stamp = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |value: i64| stamp = (stamp ^ value as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    let (batch, plan) = (problem.batch, problem.plan);
    let (envelope, envelope_row) = problem.loads.envelopes();
    let waiting = batch.waiting().ordered();
    mix(waiting.tokens.len() as i64);
    for ((&tokens, &passed), &slot) in waiting.tokens.iter().zip(waiting.passed).zip(waiting.slots) {
        mix(i64::from(tokens) << 40 ^ i64::from(passed) << 16 ^ i64::from(slot));
    }
    mix(plan.unit);
    mix(plan.refill_tokens);
    mix(plan.age.linear.to_bits() as i64);
    mix(plan.age.quadratic.to_bits() as i64);
    mix_profiles(&problem.source, &mut mix);
    mix(envelope);
    envelope_row.iter().copied().for_each(&mut mix);
    for worker in 0..batch.workers().len() {
        let view = problem.loads.view(worker);
        mix(view.cost);
        mix(view.cost_per_token);
        mix(view.anticipated);
        mix(view.open_slots);
        mix(problem.loads.longest_tokens(worker));
    }
    for (slot, _) in problem.taken.iter().enumerate().filter(|&(_, &taken)| taken) {
        mix(slot as i64);
    }
    stamp
}

/// Mixes in what the device computes profiles from.
fn mix_profiles(source: &Source<'_>, mix: &mut impl FnMut(i64)) {
    match source {
        Source::Spec(ProfileSpec::Margin { slope, weight }) => [*slope, *weight].into_iter().for_each(mix),
        Source::Spec(ProfileSpec::Level { drop_tokens }) => mix(*drop_tokens),
        Source::Spec(ProfileSpec::Levels(terms)) => {
            let LevelTerms { mean, least, base, fall, rises, reserve, reserve_knots } = *terms;
            [mean, least, base, fall, reserve.0, reserve.1].into_iter().for_each(&mut *mix);
            rises.iter().copied().for_each(&mut *mix);
            reserve_knots.iter().flat_map(|knot| [knot.at_tokens, knot.weight]).for_each(mix);
        }
        Source::Spec(ProfileSpec::Lookahead { discounts, alpha, beta, .. }) => {
            [*alpha, *beta].into_iter().for_each(|price| mix(price.to_bits() as i64));
            discounts.iter().copied().for_each(mix);
        }
        Source::Fixed(_) => {}
    }
}

/// Runs entries through a launcher. Where that fails, notes the error and returns false.
pub(super) fn launched(
    launcher: &mut dyn Launch,
    launches: &[(&'static str, u32)],
    input: &[u8],
    output: &mut [u8],
) -> bool {
    match launcher.launch(launches, input, output) {
        Ok(()) => true,
        Err(error) => {
            launcher.note(Outcome::Failed(&*error));
            false
        }
    }
}

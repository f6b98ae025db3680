//! A batch's way to a device and back: at once through a launcher of the caller, or through the queue of an open device.
//!
//! A launch that fails, an answer that is none and a batch that the device cannot hold all end alike: the CPU decides, and
//! [`Launch::note`] is told.
//!
//! A batch may be submitted first and collected later: both run the host's code up to the device's part, so the CPU can decide at any time,
//! and what comes back is checked against the batch that it is collected for.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use super::blob::{
    self, AnswerError, BLOB_ALIGN, DeviceColumn, DevicePick, ENTRY_COLUMNS, Kept, MAX_BATCHES, Packing,
    Problem, Soc, Work,
};
use super::choice::{Choice, Side};
use super::device::LANES;
use super::queue::{Handle, Queue, Timing};
use super::result::{Counters, DeviceError};
use super::sys;
use crate::backend::{Decided, Ticket};
use crate::batch::Batch;

/// Runs packed batches and waits for them.
pub trait Launch: Send {
    /// What batches are packed for.
    fn soc(&self) -> Soc;

    /// Runs entries of the kernel, each with its number of blocks, one after the other in one stream, over one input and one output blob.
    /// Both are 64-byte aligned; the output comes with zeroes where the kernel expects them.
    ///
    /// # Errors
    /// What went wrong. The CPU decides the batch then.
    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Is told how each decision went.
    fn note(&mut self, _outcome: Outcome<'_>) {}

    /// Which device.
    fn describe(&self) -> String;
}

/// How a decision went.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// The device made the picks.
    Decided(Work),
    /// The device scored the first look at every column, the host did the rest.
    Looked,
    /// The host kept the batch.
    Kept(Kept),
    /// The launch failed.
    Failed(&'a (dyn Error + Send + Sync)),
    /// The answer is none.
    Refused(AnswerError),
}

/// Bytes at a 64-byte boundary, kept from batch to batch.
#[derive(Debug, Default)]
struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    /// The first `len` bytes, with whatever was there.
    fn take(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len + BLOB_ALIGN {
            self.bytes.resize(len + BLOB_ALIGN, 0);
        }
        let at = self.bytes.as_ptr().align_offset(BLOB_ALIGN);
        &mut self.bytes[at..at + len]
    }
}

/// What launches.
enum Way {
    /// At once, through the caller's launcher.
    Launcher(Box<dyn Launch>),
    /// Through a device's queue; each batch is given so long.
    Queue(Queue, Duration),
}

/// A batch at the device.
#[derive(Debug, Default)]
struct Flown {
    /// None where the place is free.
    handle: Option<Handle>,
    /// What it was packed from.
    stamp: u64,
    packing: Packing,
}

/// What the decision under way wants of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The answer.
    Now,
    /// To hand over and go.
    Submit,
    /// The answer to what was handed over.
    Collect { ticket: u64, patience: Duration },
}

/// A device and the buffers of its batches.
pub(crate) struct Device {
    way: Way,
    mode: Mode,
    flown: [Flown; LANES],
    /// The ticket of the batch that was just handed over.
    ticket: Option<u64>,
    /// Whether the device made the picks of the last decision, and why not if it was asked.
    by_device: bool,
    fallback: Option<DeviceError>,
    choice: Option<Choice>,
    only: Option<Side>,
    /// How long the host waited for the last answer.
    waited: Duration,
    input: Aligned,
    output: Aligned,
    columns: Vec<DeviceColumn>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("device", &self.describe()).finish_non_exhaustive()
    }
}

impl Device {
    pub(crate) fn new(launcher: Box<dyn Launch>) -> Self {
        Self::of(Way::Launcher(launcher))
    }

    pub(super) fn queued(queue: Queue, patience: Duration) -> Self {
        Self::of(Way::Queue(queue, patience))
    }

    fn of(way: Way) -> Self {
        Self {
            way,
            mode: Mode::Now,
            flown: Default::default(),
            ticket: None,
            by_device: false,
            fallback: None,
            choice: None,
            only: None,
            waited: Duration::ZERO,
            input: Aligned::default(),
            output: Aligned::default(),
            columns: Vec::new(),
        }
    }

    /// The device and what it has done; who decides when, where that is measured.
    pub(crate) fn describe(&self) -> String {
        let device = self.state();
        match &self.choice {
            Some(choice) => format!("auto: {}; ascend: {device}", choice.describe()),
            None => format!("ascend: {device}"),
        }
    }

    fn state(&self) -> String {
        match &self.way {
            Way::Launcher(launcher) => launcher.describe(),
            Way::Queue(queue, _) => {
                let Counters { decided, kept, fallen_back, .. } = queue.counters();
                let state = queue.ready().map_or_else(|error| error.to_string(), |opened| opened.name);
                let last = queue.last_error().map_or(String::new(), |error| format!("; last error: {error}"));
                format!("{state}; {decided} batches decided, {kept} kept, {fallen_back} fallen back{last}")
            }
        }
    }

    /// The open device, in words.
    pub(super) fn name(&self) -> Result<String, DeviceError> {
        match &self.way {
            Way::Launcher(launcher) => Ok(launcher.describe()),
            Way::Queue(queue, _) => match queue.ready() {
                Ok(opened) => Ok(opened.name),
                Err(resting) => Err(queue.last_error().unwrap_or(resting)),
            },
        }
    }

    /// Lets measurements decide who decides.
    pub(crate) fn choose_by(&mut self, choice: Option<Choice>) {
        self.choice = choice;
    }

    /// Sends everything to one side, for measurements.
    pub(crate) fn only(&mut self, side: Option<Side>) {
        self.only = side;
    }

    pub(crate) fn choice(&self) -> Option<Choice> {
        self.choice
    }

    pub(crate) fn counters(&self) -> Option<Counters> {
        match &self.way {
            Way::Launcher(_) => None,
            Way::Queue(queue, _) => Some(queue.counters()),
        }
    }

    pub(crate) fn note(&mut self, outcome: Outcome<'_>) {
        self.by_device = matches!(outcome, Outcome::Decided(_) | Outcome::Looked);
        let Way::Queue(queue, _) = &self.way else {
            if let Way::Launcher(launcher) = &mut self.way {
                launcher.note(outcome);
            }
            return;
        };
        match outcome {
            Outcome::Decided(_) | Outcome::Looked => queue.praise(),
            Outcome::Kept(kept) => {
                queue.count(|counters| counters.kept += 1);
                self.fallback = Some(DeviceError::Kept(kept));
            }
            // As much as the device can say of this batch; nothing is wrong with it.
            Outcome::Refused(AnswerError::Ties) => {
                queue.count(|counters| counters.kept += 1);
                self.fallback = Some(DeviceError::Answer(AnswerError::Ties));
            }
            Outcome::Refused(error) => {
                let error = DeviceError::Answer(error);
                queue.count(|counters| counters.fallen_back += 1);
                queue.distrust(error.clone());
                self.fallback = Some(error);
            }
            Outcome::Failed(_) => queue.count(|counters| counters.fallen_back += 1),
        }
    }

    /// Whether the decision under way ends once the device has its part.
    pub(crate) fn is_submitting(&self) -> bool {
        self.mode == Mode::Submit
    }

    /// Whether the device is to be asked for this batch at all.
    pub(crate) fn is_wanted(&mut self, batch: &Batch<'_>) -> bool {
        self.by_device = false;
        let queued = matches!(self.way, Way::Queue(..));
        match self.mode {
            Mode::Collect { ticket, .. } if queued => ticket != 0,
            Mode::Submit if !queued => false,
            _ if self.only.is_some() => self.only != Some(Side::Cpu),
            mode => self.choice.as_mut().is_none_or(|choice| choice.device(batch, mode == Mode::Submit)),
        }
    }

    /// Begins a measurement, where somebody wants to know.
    pub(crate) fn clock(&self) -> Option<Instant> {
        self.choice.is_some().then(Instant::now)
    }

    /// Ends a measurement of whoever made the picks.
    pub(crate) fn picked(&mut self, batch: &Batch<'_>, since: Option<Instant>) {
        let time = since.map(|since| since.elapsed());
        if !self.by_device {
            self.took(batch, Side::Cpu, time);
        } else if self.mode == Mode::Now {
            self.took(batch, Side::Device, time);
            self.took(batch, Side::Host, time.map(|time| time.saturating_sub(self.waited)));
        }
    }

    fn took(&mut self, batch: &Batch<'_>, side: Side, time: Option<Duration>) {
        if let (Some(choice), Some(time)) = (&mut self.choice, time) {
            choice.measured(batch, side, time.as_nanos() as f64);
        }
    }

    /// The decision that begins hands over and goes.
    pub(crate) fn submitting(&mut self) {
        (self.mode, self.ticket, self.fallback) = (Mode::Submit, None, None);
    }

    /// Ends a submission: its number, zero for none, and why there is none.
    pub(crate) fn submitted(&mut self) -> Ticket {
        self.mode = Mode::Now;
        Ticket { serial: self.ticket.take().unwrap_or(0), refused: self.fallback.take() }
    }

    /// The decision that begins takes the answer to this ticket.
    pub(crate) fn collecting(&mut self, ticket: Ticket, patience: Duration) {
        self.mode = Mode::Collect { ticket: ticket.serial, patience };
        self.by_device = false;
        self.fallback = ticket.refused;
    }

    /// Ends a decision: who made its picks.
    pub(crate) fn decided(&mut self) -> Decided {
        // The rule kept a batch that had been handed over: nobody will ask for it again.
        if let Mode::Collect { ticket, .. } = self.mode {
            self.discard(ticket);
        }
        self.mode = Mode::Now;
        match self.fallback.take() {
            _ if self.by_device => Decided::Device,
            Some(error) => Decided::InsteadOfDevice(error),
            None => Decided::Cpu,
        }
    }

    pub(crate) fn poll(&self, ticket: u64) -> bool {
        let Way::Queue(queue, _) = &self.way else { return true };
        self.flown
            .iter()
            .filter_map(|flown| flown.handle)
            .all(|handle| handle.serial() != ticket || queue.poll(handle))
    }

    pub(crate) fn discard(&mut self, ticket: u64) {
        let Way::Queue(queue, _) = &self.way else { return };
        for flown in &mut self.flown {
            if flown.handle.is_some_and(|handle| handle.serial() == ticket)
                && let Some(handle) = flown.handle.take()
            {
                queue.discard(handle);
            }
        }
    }

    /// What batches are packed for now.
    fn soc(&mut self) -> Result<Soc, Outcome<'static>> {
        match &self.way {
            Way::Launcher(launcher) => Ok(launcher.soc()),
            Way::Queue(queue, _) => queue.soc().map_err(|error| {
                self.fallback = Some(error);
                Outcome::Failed(&Nobody)
            }),
        }
    }

    /// Plans and packs a batch, and hands it over.
    fn start(&mut self, problem: &Problem<'_>) -> Result<(), Outcome<'static>> {
        let soc = self.soc()?;
        let Way::Queue(queue, _) = &self.way else { return Ok(()) };
        let failed = |fallback: &mut Option<DeviceError>, error: DeviceError| {
            *fallback = Some(error);
            Outcome::Failed(&Nobody)
        };
        let free = self.flown.iter_mut().find(|flown| flown.handle.is_none());
        let Some(flown) = free else {
            return Err(failed(&mut self.fallback, DeviceError::Busy { in_flight: LANES }));
        };
        flown.packing.plan(problem, soc).map_err(Outcome::Kept)?;
        let from = blob::launch_head_bytes(1);
        let packing = &flown.packing;
        let handle = queue.submit(|input, output| {
            let mut flight = sys::Flight {
                input_bytes: from + packing.in_bytes(),
                output_bytes: packing.out_bytes(),
                head_bytes: packing.zeroed_bytes(),
                ..sys::Flight::default()
            };
            fits((flight.input_bytes, flight.output_bytes), (input.len(), output.len()))?;
            blob::write_launch_head(&[(from, 0)], input);
            packing.write(problem, &mut input[from..flight.input_bytes]);
            output[..flight.head_bytes].fill(0);
            for (entry, blocks) in packing.launches() {
                let function = usize::from(entry != ENTRY_COLUMNS);
                flight.launches[flight.launch_count] = sys::Launch { function, blocks };
                flight.launch_count += 1;
            }
            Ok(flight)
        });
        match handle {
            Ok(handle) => {
                flown.handle = Some(handle);
                flown.stamp = stamp(problem);
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
        patience: Duration,
        problem: &Problem<'_>,
        read: impl FnOnce(&Packing, &[u8]) -> Result<T, AnswerError>,
    ) -> Result<(T, Timing), Outcome<'static>> {
        let unknown = DeviceError::Ticket { ticket };
        let found =
            self.flown.iter_mut().find(|flown| flown.handle.is_some_and(|handle| handle.serial() == ticket));
        let (Way::Queue(queue, _), Some(flown)) = (&self.way, found) else {
            self.fallback = Some(unknown);
            return Err(Outcome::Failed(&Nobody));
        };
        let Some(handle) = flown.handle.take() else { return Err(Outcome::Failed(&Nobody)) };
        if flown.stamp != stamp(problem) {
            queue.discard(handle);
            self.fallback = Some(unknown);
            return Err(Outcome::Failed(&Nobody));
        }
        let packing = &flown.packing;
        match queue.collect(handle, patience, |output| {
            read(packing, &output[..packing.out_bytes().min(output.len())])
        }) {
            Ok((Ok(answer), timing)) => Ok((answer, timing)),
            Ok((Err(error), _)) => Err(Outcome::Refused(error)),
            Err(error) => {
                self.fallback = Some(error);
                Err(Outcome::Failed(&Nobody))
            }
        }
    }

    /// Packs, launches, waits and reads, or the half of it that this decision is for; none where the CPU must decide.
    fn run<T>(
        &mut self,
        problem: &Problem<'_>,
        read: impl FnOnce(&Packing, &[u8]) -> Result<T, AnswerError>,
    ) -> Option<T> {
        if matches!(self.way, Way::Launcher(_)) {
            return self.launch(problem, read);
        }
        let begin = self.clock();
        let (ticket, patience) = match (self.mode, &self.way) {
            (Mode::Collect { ticket, patience }, _) => (ticket, patience),
            (_, Way::Queue(_, patience)) => {
                let patience = *patience;
                if let Err(outcome) = self.start(problem) {
                    self.note(outcome);
                    return None;
                }
                (self.ticket.unwrap_or(0), patience)
            }
            _ => return None,
        };
        if self.mode == Mode::Submit {
            let host = begin.map(|begin| begin.elapsed());
            self.took(problem.batch, Side::Host, host);
            return None;
        }
        match self.finish(ticket, patience, problem, read) {
            Ok((answer, timing)) => {
                self.waited = timing.waited;
                Some(answer)
            }
            Err(outcome) => {
                self.note(outcome);
                // In vain, but not for nothing: a device that is late is a slow one.
                if self.mode == Mode::Now {
                    self.took(problem.batch, Side::Device, begin.map(|begin| begin.elapsed()));
                }
                None
            }
        }
    }

    /// The same at once, through a launcher.
    fn launch<T>(
        &mut self,
        problem: &Problem<'_>,
        read: impl FnOnce(&Packing, &[u8]) -> Result<T, AnswerError>,
    ) -> Option<T> {
        let Way::Launcher(launcher) = &mut self.way else { return None };
        let packing = &mut self.flown[0].packing;
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

    /// The picks of a decision into `picks`; none where the CPU must make them.
    pub(crate) fn picks(&mut self, problem: &Problem<'_>, picks: &mut Vec<DevicePick>) -> Option<Work> {
        self.run(problem, |packing, output| packing.read(output, picks))
    }

    /// The same for many decisions in one launch, one block each; no problem for a rule that only the CPU can run.
    pub(crate) fn many(&mut self, problems: &[Option<Problem<'_>>]) -> Vec<(Option<Work>, Vec<DevicePick>)> {
        let mut answers: Vec<(Option<Work>, Vec<DevicePick>)> = Vec::new();
        answers.resize_with(problems.len(), Default::default);
        let mut packed = Vec::with_capacity(problems.len());
        let soc = match self.soc() {
            Ok(soc) => soc,
            Err(outcome) => {
                self.note(outcome);
                return answers;
            }
        };
        for (index, problem) in problems.iter().enumerate() {
            let mut packing = Packing::default();
            let planned = match problem {
                Some(problem) if packed.len() < MAX_BATCHES => packing.plan(problem, soc),
                Some(_) => Err(Kept::Limit {
                    what: "batches",
                    limit: MAX_BATCHES as i64,
                    found: problems.len() as i64,
                }),
                None => Err(Kept::NoDrawer),
            };
            match (planned, problem) {
                (Ok(()), Some(problem)) => {
                    packing.share();
                    packed.push((index, problem, packing));
                }
                (Ok(()), None) => {}
                (Err(kept), _) => self.note(Outcome::Kept(kept)),
            }
        }
        if packed.is_empty() {
            return answers;
        }
        let (mut from, mut to) = (blob::launch_head_bytes(packed.len()), 0);
        let mut offsets = Vec::with_capacity(packed.len());
        for (_, _, packing) in &packed {
            offsets.push((from, to));
            from += packing.in_bytes();
            to += packing.out_bytes();
        }
        let write = |input: &mut [u8], output: &mut [u8]| {
            blob::write_launch_head(&offsets, input);
            for ((_, problem, packing), &(from, to)) in packed.iter().zip(&offsets) {
                packing.write(problem, &mut input[from..from + packing.in_bytes()]);
                output[to..to + packing.zeroed_bytes()].fill(0);
            }
        };
        let mut read = |output: &[u8]| {
            let mut refused = Vec::new();
            for ((index, _, packing), &(_, to)) in packed.iter().zip(&offsets) {
                let (work, picks) = &mut answers[*index];
                match packing.read(&output[to..to + packing.out_bytes()], picks) {
                    Ok(done) => *work = Some(done),
                    Err(error) => refused.push(error),
                }
            }
            refused
        };
        let blocks = packed.len() as u32;
        let refused = match &mut self.way {
            Way::Launcher(launcher) => {
                let input = self.input.take(from);
                let output = self.output.take(to);
                write(input, output);
                let launches = [(blob::ENTRY_GREEDY, blocks)];
                if launched(&mut **launcher, &launches, input, output) {
                    Ok(read(output))
                } else {
                    Ok(Vec::new())
                }
            }
            Way::Queue(queue, patience) => {
                let sizes = (from, to);
                let flight = queue.submit(|input, output| {
                    fits(sizes, (input.len(), output.len()))?;
                    write(input, output);
                    let mut flight = sys::Flight {
                        input_bytes: from,
                        output_bytes: to,
                        head_bytes: to,
                        ..sys::Flight::default()
                    };
                    flight.launches[0] = sys::Launch { function: 1, blocks };
                    flight.launch_count = 1;
                    Ok(flight)
                });
                flight
                    .and_then(|handle| queue.collect(handle, *patience, &mut read))
                    .map(|(refused, _)| refused)
            }
        };
        match refused {
            Ok(refused) => {
                for error in refused {
                    self.note(Outcome::Refused(error));
                }
            }
            Err(error) => {
                self.fallback = Some(error);
                self.note(Outcome::Failed(&Nobody));
            }
        }
        answers
    }

    /// The best of every column as the decision begins; none where the CPU must look.
    pub(crate) fn columns(&mut self, problem: &Problem<'_>) -> Option<&[DeviceColumn]> {
        let mut columns = std::mem::take(&mut self.columns);
        let read = self.run(problem, |packing, output| packing.read_columns(output, &mut columns));
        self.columns = columns;
        read.map(|()| &self.columns[..])
    }
}

/// An error where a blob is larger than the memory kept for it.
fn fits(needed: (usize, usize), found: (usize, usize)) -> Result<(), DeviceError> {
    for (what, limit, found) in [("input bytes", found.0, needed.0), ("output bytes", found.1, needed.1)] {
        if found > limit {
            return Err(DeviceError::Kept(Kept::Limit { what, limit: limit as i64, found: found as i64 }));
        }
    }
    Ok(())
}

/// The device's own error stands in [`Device::fallback`].
#[derive(Debug)]
struct Nobody;

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device failed")
    }
}

impl Error for Nobody {}

/// What a batch was packed from, mixed into one number: plan, loads, who was placed before.
fn stamp(problem: &Problem<'_>) -> u64 {
    let mut stamp = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |value: i64| stamp = (stamp ^ value as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    let (batch, plan) = (problem.batch, problem.plan);
    let (envelope, envelope_row) = problem.loads.envelopes();
    mix(batch.waiting().len() as i64);
    mix(i64::from(batch.waiting().ordered().now_step));
    mix(plan.unit);
    mix(plan.refill_tokens);
    mix(plan.age.linear.to_bits() as i64);
    mix(plan.age.quadratic.to_bits() as i64);
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

/// Launches and waits; false and noted where that fails.
fn launched(
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

//! A device as the engine sees it: whether to ask it for a batch, which batches it holds, who made the last
//! decision, and how long each side took.

use std::fmt;
use std::time::{Duration, Instant};

use super::super::blob::{AnswerError, BLOB_ALIGN, DeviceColumn, Packing};
use super::super::choice::{Choice, Side};
use super::super::device::MAX_IN_FLIGHT;
use super::super::queue::{Handle, Queue};
use super::super::result::{Counters, DeviceError};
use super::{Launch, Outcome};
use crate::backend::{Decided, Ticket};
use crate::batch::Batch;

/// Bytes that begin at a 64-byte boundary, kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    /// The first `len` bytes, with what they held before.
    pub(super) fn take(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len + BLOB_ALIGN {
            self.bytes.resize(len + BLOB_ALIGN, 0);
        }
        let at = self.bytes.as_ptr().align_offset(BLOB_ALIGN);
        &mut self.bytes[at..at + len]
    }
}

/// How batches reach the device.
pub(super) enum Transport {
    /// Through the caller's launcher, which waits for them.
    Launcher(Box<dyn Launch>),
    /// Through the queue of an open device, and how long a decision waits for its answer.
    Queue(Queue, Duration),
}

/// A batch that was submitted and not collected yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// None where there is no such batch.
    pub(super) handle: Option<Handle>,
    /// A hash of what it was packed from.
    pub(super) stamp: u64,
    pub(super) packing: Packing,
}

/// What the current decision does with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Submits the batch and waits for the answer.
    Now,
    /// Submits the batch and returns.
    Submit,
    /// Waits for the answer to a batch submitted before.
    Collect { ticket: u64, timeout: Duration },
}

/// A device, what is submitted to it, and how the last decision went.
pub(crate) struct Device {
    pub(super) transport: Transport,
    pub(super) mode: Mode,
    pub(super) pending: [Pending; MAX_IN_FLIGHT],
    /// The ticket of the batch that was submitted last.
    pub(super) ticket: Option<u64>,
    /// Whether the device made the picks of the last decision; if it was asked and did not, why.
    by_device: bool,
    pub(super) fallback: Option<DeviceError>,
    choice: Option<Choice>,
    only: Option<Side>,
    /// How long the host waited for the last answer.
    pub(super) waited: Duration,
    pub(super) input: Aligned,
    pub(super) output: Aligned,
    pub(super) columns: Vec<DeviceColumn>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("device", &self.describe()).finish_non_exhaustive()
    }
}

impl Device {
    pub(crate) fn new(launcher: Box<dyn Launch>) -> Self {
        Self::of(Transport::Launcher(launcher))
    }

    pub(in crate::backend::ascend) fn queued(queue: Queue, timeout: Duration) -> Self {
        Self::of(Transport::Queue(queue, timeout))
    }

    fn of(transport: Transport) -> Self {
        Self {
            transport,
            mode: Mode::Now,
            pending: Default::default(),
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

    /// Words for the device and what it has done, and for which batches it is faster where that is measured.
    pub(crate) fn describe(&self) -> String {
        let device = self.state();
        match &self.choice {
            Some(choice) => format!("auto: {}; ascend: {device}", choice.describe()),
            None => format!("ascend: {device}"),
        }
    }

    /// Words for the device and what it has done.
    fn state(&self) -> String {
        match &self.transport {
            Transport::Launcher(launcher) => launcher.describe(),
            Transport::Queue(queue, _) => {
                let Counters { decided, kept, fallen_back, .. } = queue.counters();
                let state = queue.ready().map_or_else(|error| error.to_string(), |opened| opened.name);
                let time = queue.device_ms().map_or(String::new(), |ms| format!(", the last in {ms:.3} ms"));
                let last = queue.last_error().map_or(String::new(), |error| format!("; last error: {error}"));
                format!(
                    "{state}; {decided} batches decided{time}, {kept} kept, {fallen_back} fallen back{last}"
                )
            }
        }
    }

    /// Words for the open device.
    pub(in crate::backend::ascend) fn name(&self) -> Result<String, DeviceError> {
        match &self.transport {
            Transport::Launcher(launcher) => Ok(launcher.describe()),
            Transport::Queue(queue, _) => match queue.ready() {
                Ok(opened) => Ok(opened.name),
                Err(resting) => Err(queue.last_error().unwrap_or(resting)),
            },
        }
    }

    /// Lets measurements choose between CPU and device; none to always ask the device.
    pub(crate) fn choose_by(&mut self, choice: Option<Choice>) {
        self.choice = choice;
    }

    /// Sends every batch to one side, so that it is measured.
    pub(crate) fn only(&mut self, side: Option<Side>) {
        self.only = side;
    }

    pub(crate) fn choice(&self) -> Option<Choice> {
        self.choice
    }

    pub(crate) fn counters(&self) -> Option<Counters> {
        match &self.transport {
            Transport::Launcher(_) => None,
            Transport::Queue(queue, _) => Some(queue.counters()),
        }
    }

    /// Counts the outcome of a decision, and keeps the error for the caller.
    pub(crate) fn note(&mut self, outcome: Outcome<'_>) {
        self.by_device = matches!(outcome, Outcome::Decided(_) | Outcome::Looked);
        let Transport::Queue(queue, _) = &self.transport else {
            if let Transport::Launcher(launcher) = &mut self.transport {
                launcher.note(outcome);
            }
            return;
        };
        match outcome {
            Outcome::Decided(_) | Outcome::Looked => queue.note_answer(),
            Outcome::Kept(kept) => {
                queue.count(|counters| counters.kept += 1);
                self.fallback = Some(DeviceError::Kept(kept));
            }
            // The device is sound: this batch has more near ties than it can tell apart.
            Outcome::Refused(AnswerError::Ties) => {
                queue.count(|counters| counters.kept += 1);
                self.fallback = Some(DeviceError::Answer(AnswerError::Ties));
            }
            Outcome::Refused(error) => {
                let error = DeviceError::Answer(error);
                queue.count(|counters| counters.fallen_back += 1);
                queue.note_wrong_answer(error.clone());
                self.fallback = Some(error);
            }
            Outcome::Failed(_) => queue.count(|counters| counters.fallen_back += 1),
        }
    }

    /// Whether the current decision ends once the device has its part.
    pub(crate) fn is_submitting(&self) -> bool {
        self.mode == Mode::Submit
    }

    /// Whether the device is to be asked for this batch.
    pub(crate) fn is_wanted(&mut self, batch: &Batch<'_>) -> bool {
        self.by_device = false;
        let queued = matches!(self.transport, Transport::Queue(..));
        match self.mode {
            Mode::Collect { ticket, .. } if queued => ticket != 0,
            Mode::Submit if !queued => false,
            _ if self.only.is_some() => self.only != Some(Side::Cpu),
            mode => self.choice.as_mut().is_none_or(|choice| choice.device(batch, mode == Mode::Submit)),
        }
    }

    /// Begins a measurement; none where nothing is measured.
    pub(crate) fn clock(&self) -> Option<Instant> {
        self.choice.is_some().then(Instant::now)
    }

    /// Ends a measurement and adds it to the side that made the picks.
    pub(crate) fn picked(&mut self, batch: &Batch<'_>, since: Option<Instant>) {
        let time = since.map(|since| since.elapsed());
        if !self.by_device {
            self.record(batch, Side::Cpu, time);
        } else if self.mode == Mode::Now {
            self.record(batch, Side::Device, time);
            self.record(batch, Side::Host, time.map(|time| time.saturating_sub(self.waited)));
        }
    }

    /// Adds a measurement.
    pub(super) fn record(&mut self, batch: &Batch<'_>, side: Side, time: Option<Duration>) {
        if let (Some(choice), Some(time)) = (&mut self.choice, time) {
            choice.measured(batch, side, time.as_nanos() as f64);
        }
    }

    /// Makes the next decision a submission.
    pub(crate) fn submitting(&mut self) {
        (self.mode, self.ticket, self.fallback) = (Mode::Submit, None, None);
    }

    /// Ends a submission: the ticket's number, or zero and why nothing was submitted.
    pub(crate) fn submitted(&mut self) -> Ticket {
        self.mode = Mode::Now;
        Ticket { serial: self.ticket.take().unwrap_or(0), refused: self.fallback.take() }
    }

    /// Makes the next decision wait for the answer to this ticket.
    pub(crate) fn collecting(&mut self, ticket: Ticket, timeout: Duration) {
        self.mode = Mode::Collect { ticket: ticket.serial, timeout };
        self.by_device = false;
        self.fallback = ticket.refused;
    }

    /// Ends a decision, and says who made its picks.
    pub(crate) fn decided(&mut self) -> Decided {
        // The rule may have kept the batch this time: nobody will collect it then.
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

    /// Whether the answer to a ticket is there, or will never be.
    pub(crate) fn poll(&self, ticket: u64) -> bool {
        let Transport::Queue(queue, _) = &self.transport else { return true };
        self.pending
            .iter()
            .filter_map(|pending| pending.handle)
            .all(|handle| handle.serial() != ticket || queue.poll(handle))
    }

    /// Gives up the batch of a ticket.
    pub(crate) fn discard(&mut self, ticket: u64) {
        let Transport::Queue(queue, _) = &self.transport else { return };
        for pending in &mut self.pending {
            if pending.handle.is_some_and(|handle| handle.serial() == ticket)
                && let Some(handle) = pending.handle.take()
            {
                queue.discard(handle);
            }
        }
    }
}

//! Decisions with their scored part on a device: the host's code around it is the CPU's, so the answers are the CPU's too.
//!
//! A launch that fails, an answer that is none and a batch that the device cannot hold all end alike: the CPU decides, and
//! [`Launch::note`] is told.

use std::error::Error;
use std::fmt;

use super::blob::{
    self, AnswerError, BLOB_ALIGN, DeviceColumn, DevicePick, Kept, MAX_BATCHES, Packing, Problem, Soc, Work,
};
use crate::assignment::Assignment;
use crate::backend::Backend;
use crate::backend::cpu::Kernels;
use crate::batch::Batch;
use crate::policy::Rule;
use crate::policy::greedy::Greedy;

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

/// A device and the buffers of its batches.
pub(crate) struct Device {
    launcher: Box<dyn Launch>,
    packing: Packing,
    input: Aligned,
    output: Aligned,
    columns: Vec<DeviceColumn>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("launcher", &self.launcher.describe()).finish_non_exhaustive()
    }
}

impl Device {
    pub(crate) fn new(launcher: Box<dyn Launch>) -> Self {
        Self {
            launcher,
            packing: Packing::default(),
            input: Aligned::default(),
            output: Aligned::default(),
            columns: Vec::new(),
        }
    }

    pub(crate) fn describe(&self) -> String {
        self.launcher.describe()
    }

    pub(crate) fn note(&mut self, outcome: Outcome<'_>) {
        self.launcher.note(outcome);
    }

    /// Packs, launches and waits; the answer is then in `output`. False where the CPU must decide.
    fn run(&mut self, problem: &Problem<'_>) -> bool {
        if let Err(kept) = self.packing.plan(problem, self.launcher.soc()) {
            self.note(Outcome::Kept(kept));
            return false;
        }
        let from = blob::launch_head_bytes(1);
        let input = self.input.take(from + self.packing.in_bytes());
        blob::write_launch_head(&[(from, 0)], input);
        self.packing.write(problem, &mut input[from..]);
        let output = self.output.take(self.packing.out_bytes());
        output[..self.packing.zeroed_bytes()].fill(0);
        let mut launches = [("", 0); 2];
        let mut count = 0;
        for launch in self.packing.launches() {
            launches[count] = launch;
            count += 1;
        }
        launched(&mut *self.launcher, &launches[..count], input, output)
    }

    /// The picks of a decision into `picks`; none where the CPU must make them.
    pub(crate) fn picks(&mut self, problem: &Problem<'_>, picks: &mut Vec<DevicePick>) -> Option<Work> {
        if !self.run(problem) {
            return None;
        }
        match self.packing.read(self.output.take(self.packing.out_bytes()), picks) {
            Ok(work) => Some(work),
            Err(error) => {
                self.note(Outcome::Refused(error));
                None
            }
        }
    }

    /// The same for many decisions in one launch, one block each; no problem for a rule that only the CPU can run.
    pub(crate) fn many(&mut self, problems: &[Option<Problem<'_>>]) -> Vec<(Option<Work>, Vec<DevicePick>)> {
        let mut answers: Vec<(Option<Work>, Vec<DevicePick>)> = Vec::new();
        answers.resize_with(problems.len(), Default::default);
        let mut packed = Vec::with_capacity(problems.len());
        for (index, problem) in problems.iter().enumerate() {
            let mut packing = Packing::default();
            let planned = match problem {
                Some(problem) if packed.len() < MAX_BATCHES => packing.plan(problem, self.launcher.soc()),
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
        let input = self.input.take(from);
        blob::write_launch_head(&offsets, input);
        let output = self.output.take(to);
        for ((_, problem, packing), &(from, to)) in packed.iter().zip(&offsets) {
            packing.write(problem, &mut input[from..from + packing.in_bytes()]);
            output[to..to + packing.zeroed_bytes()].fill(0);
        }
        let launches = [(blob::ENTRY_GREEDY, packed.len() as u32)];
        if !launched(&mut *self.launcher, &launches, input, output) {
            return answers;
        }
        for ((index, _, packing), &(_, to)) in packed.iter().zip(&offsets) {
            let (work, picks) = &mut answers[*index];
            match packing.read(&output[to..to + packing.out_bytes()], picks) {
                Ok(done) => *work = Some(done),
                Err(error) => self.launcher.note(Outcome::Refused(error)),
            }
        }
        answers
    }

    /// The best of every column as the decision begins; none where the CPU must look.
    pub(crate) fn columns(&mut self, problem: &Problem<'_>) -> Option<&[DeviceColumn]> {
        if !self.run(problem) {
            return None;
        }
        match self.packing.read_columns(self.output.take(self.packing.out_bytes()), &mut self.columns) {
            Ok(()) => Some(&self.columns),
            Err(error) => {
                self.note(Outcome::Refused(error));
                None
            }
        }
    }
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

/// Greedy picks on a device, everything else on the CPU.
#[derive(Debug)]
pub struct Offload {
    greedy: Greedy,
    /// One for each batch of a group.
    group: Vec<Greedy>,
    kernels: &'static Kernels,
    device: Device,
}

impl Offload {
    /// A backend that launches through `launcher`.
    #[must_use]
    pub fn new(launcher: Box<dyn Launch>) -> Self {
        Self::with(launcher, Kernels::best())
    }

    pub(crate) fn with(launcher: Box<dyn Launch>, kernels: &'static Kernels) -> Self {
        Self { greedy: Greedy::new(kernels), group: Vec::new(), kernels, device: Device::new(launcher) }
    }

    /// Runs a rule of its own on each of many batches, all in one launch. Allocates.
    pub fn assign_many<R: Rule>(&mut self, rules: &mut [R], batches: &[Batch<'_>], outs: &mut [Assignment]) {
        Greedy::assign_many_on(&mut self.group, self.kernels, &mut self.device, rules, batches, outs);
    }
}

impl Backend for Offload {
    fn assign<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, out: &mut Assignment) {
        self.greedy.assign_on(&mut self.device, rule, batch, out);
    }

    fn score_into<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) {
        self.greedy.score_into(rule, batch, score_tokens);
    }

    fn describe(&self) -> String {
        format!("device: {}", self.device.describe())
    }
}

//! The backend of a device: the greedy engine, whose scored part the device runs where it can.

use std::time::Duration;

use crate::assignment::Assignment;
use crate::backend::ascend::AscendParameters;
use crate::backend::ascend::launch::{Device, Launch};
use crate::backend::ascend::result::LoadError;
use crate::backend::cpu::Kernels;
use crate::backend::greedy::Greedy;
use crate::backend::{Backend, Decided, Ticket};
use crate::batch::Batch;
use crate::rule::Rule;

/// The device makes the greedy picks, the CPU does the rest.
#[derive(Debug)]
pub struct Offload {
    greedy: Greedy,
    /// One engine for each batch of a group.
    group: Vec<Greedy>,
    kernels: &'static Kernels,
    device: Device,
    scratch: Assignment,
}

impl Offload {
    /// A backend that launches through `launcher`.
    #[must_use]
    pub fn new(launcher: Box<dyn Launch>) -> Self {
        Self::with(Device::new(launcher), Kernels::best())
    }

    /// A backend that opens the device which these parameters name.
    ///
    /// # Errors
    /// [`LoadError`]: why there is no device.
    pub fn open(parameters: &AscendParameters) -> Result<Self, LoadError> {
        Ok(Self::with(super::ascend::open(parameters)?, Kernels::best()))
    }

    pub(crate) fn with(device: Device, kernels: &'static Kernels) -> Self {
        Self { greedy: Greedy::new(kernels), group: Vec::new(), kernels, device, scratch: Assignment::new() }
    }

    pub(crate) fn into_device(self) -> Device {
        self.device
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Submits the scored part of a decision to the device.
    pub(crate) fn submit<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>) -> Ticket {
        self.device.submitting();
        self.greedy.assign_on(&mut self.device, rule, batch, &mut self.scratch);
        self.device.submitted()
    }

    /// Decides with the answer to a submission.
    pub(crate) fn collect<R: Rule>(
        &mut self,
        rule: &mut R,
        ticket: Ticket,
        (batch, timeout): (&Batch<'_>, Duration),
        out: &mut Assignment,
    ) -> Decided {
        self.device.collecting(ticket, timeout);
        self.greedy.assign_on(&mut self.device, rule, batch, out);
        self.device.decided()
    }

    /// Decides many batches in one launch, each by a rule of its own. Allocates memory.
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
        self.device.describe()
    }
}

//! Who evaluates a batch: one call per batch, chosen by name.
//!
//! [`Reference`] scores everything again after each admission and defines what is right. [`Cpu`] holds every
//! batch as a matrix and scores columns of it with vector kernels. [`Auto`] searches columns in the pool's
//! length order where requests have no terms per pair, and takes the matrix where they have or where a rule
//! looks far ahead: that choice is fixed by rule, batch and instruction set, so it does not move with load.
//! With a device ([`ascend`]) it is measured whether that is faster; who decides never changes the answer.
//! `greedy` is the engine of all but the oracle, `column`, `loads` and `picks` are its columns, its workers
//! and what it has picked.

pub mod ascend;
pub(crate) mod column;
pub mod cpu;
pub(crate) mod greedy;
pub(crate) mod loads;
mod names;
#[cfg(feature = "ascend")]
pub mod offload;
pub(crate) mod picks;

use cpu::{Kernels, Tier};

use crate::assignment::Assignment;
use crate::backend::ascend::result::DeviceError;
use crate::backend::greedy::Greedy;
use crate::batch::Batch;
use crate::rule::Rule;

/// Scores the pairs of a batch and assigns greedily by them.
pub trait Backend {
    /// Runs a rule on a batch.
    fn assign<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, out: &mut Assignment);

    /// Scores every pair as the batch begins, in tokens: a row of workers for each request in arrival order;
    /// minus infinity where the request may not run. For inspection.
    fn score_into<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>);

    /// Which backend, which instruction set, and why.
    fn describe(&self) -> String;
}

/// A backend's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// The fastest for each batch.
    #[default]
    Auto,
    /// The matrix on the CPU, always.
    Cpu,
    /// The Ascend NPU; the CPU where it cannot. Needs the feature `ascend`.
    Ascend,
    /// The oracle: slow.
    Reference,
}

impl BackendKind {
    /// Every backend.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Cpu, Self::Ascend, Self::Reference];

    /// The name that chooses it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Ascend => "ascend",
            Self::Reference => "reference",
        }
    }
}

/// The oracle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    fn assign<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, out: &mut Assignment) {
        crate::reference::assign(rule, batch, out);
    }

    fn score_into<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) {
        crate::reference::score_into(rule, batch, score_tokens);
    }

    fn describe(&self) -> String {
        "reference: every pair scored again after each admission".to_owned()
    }
}

/// The matrix on the CPU.
#[derive(Clone, Debug)]
pub struct Cpu {
    greedy: Greedy,
    kernels: &'static Kernels,
    why: &'static str,
}

impl Cpu {
    pub(crate) fn new(kernels: &'static Kernels, why: &'static str, lanes: Option<Tier>) -> Self {
        Self { greedy: Greedy::new(kernels).dense(lanes), kernels, why }
    }

    pub(crate) fn dense_columns(&self) -> (u64, u64) {
        self.greedy.dense_columns()
    }
}

impl Backend for Cpu {
    fn assign<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, out: &mut Assignment) {
        self.greedy.assign(rule, batch, out);
    }

    fn score_into<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) {
        self.greedy.score_into(rule, batch, score_tokens);
    }

    fn describe(&self) -> String {
        format!("cpu: dense columns on {} ({})", self.kernels.isa, self.why)
    }
}

/// The length order where it serves, the matrix otherwise.
#[derive(Clone, Debug)]
pub struct Auto {
    greedy: Greedy,
    kernels: &'static Kernels,
    why: &'static str,
    /// Why there is no device.
    no_device: Option<String>,
}

impl Auto {
    pub(crate) fn new(kernels: &'static Kernels, why: &'static str, no_device: Option<String>) -> Self {
        Self { greedy: Greedy::new(kernels), kernels, why, no_device }
    }

    /// Searches columns by length wherever that is possible, also where the matrix is faster.
    pub(crate) fn searching(self) -> Self {
        Self { greedy: self.greedy.searching(), ..self }
    }

    pub(crate) fn dense_columns(&self) -> (u64, u64) {
        self.greedy.dense_columns()
    }
}

impl Backend for Auto {
    #[inline]
    fn assign<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, out: &mut Assignment) {
        self.greedy.assign(rule, batch, out);
    }

    fn score_into<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) {
        self.greedy.score_into(rule, batch, score_tokens);
    }

    fn describe(&self) -> String {
        let no_device = self.no_device.as_deref().unwrap_or("no device backend in this build");
        format!(
            "auto: columns searched by length, dense columns where requests have terms per pair or a rule \
             looks far ahead; on {} ({}); {no_device}",
            self.kernels.isa, self.why
        )
    }
}

/// The backend that a policy was built with.
#[derive(Debug)]
pub(crate) enum Chosen {
    Auto(Box<Auto>),
    Cpu(Box<Cpu>),
    #[cfg(feature = "ascend")]
    Offload(Box<offload::Offload>),
    Reference(Reference),
}

impl Chosen {
    pub(crate) fn new(
        kind: BackendKind,
        (kernels, why): (&'static Kernels, &'static str),
        no_device: Option<String>,
        (lanes, search_by_length): (Option<Tier>, bool),
    ) -> Self {
        match kind {
            // A device that is not there leaves the CPU's choice.
            BackendKind::Auto | BackendKind::Ascend => {
                let auto = Auto::new(kernels, why, no_device);
                Self::Auto(Box::new(if search_by_length { auto.searching() } else { auto }))
            }
            BackendKind::Cpu => Self::Cpu(Box::new(Cpu::new(kernels, why, lanes))),
            BackendKind::Reference => Self::Reference(Reference),
        }
    }
}

impl Backend for Chosen {
    #[inline]
    fn assign<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, out: &mut Assignment) {
        match self {
            Self::Auto(backend) => backend.assign(rule, batch, out),
            Self::Cpu(backend) => backend.assign(rule, batch, out),
            #[cfg(feature = "ascend")]
            Self::Offload(backend) => backend.assign(rule, batch, out),
            Self::Reference(backend) => backend.assign(rule, batch, out),
        }
    }

    fn score_into<R: Rule>(&mut self, rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) {
        match self {
            Self::Auto(backend) => backend.score_into(rule, batch, score_tokens),
            Self::Cpu(backend) => backend.score_into(rule, batch, score_tokens),
            #[cfg(feature = "ascend")]
            Self::Offload(backend) => backend.score_into(rule, batch, score_tokens),
            Self::Reference(backend) => backend.score_into(rule, batch, score_tokens),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Auto(backend) => backend.describe(),
            Self::Cpu(backend) => backend.describe(),
            #[cfg(feature = "ascend")]
            Self::Offload(backend) => backend.describe(),
            Self::Reference(backend) => backend.describe(),
        }
    }
}

/// A batch that was submitted: to be collected or discarded by the policy that returned it.
#[derive(Debug, Default)]
#[must_use = "a submission is collected or discarded"]
pub struct Ticket {
    /// Zero where nothing was handed over.
    #[cfg_attr(not(feature = "ascend"), expect(dead_code, reason = "no device in this build"))]
    pub(crate) serial: u64,
    /// Why nothing was.
    #[cfg_attr(not(feature = "ascend"), expect(dead_code, reason = "no device in this build"))]
    pub(crate) refused: Option<DeviceError>,
}

/// Who made the picks of a collected decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decided {
    /// The CPU, as it should.
    Cpu,
    /// The device.
    Device,
    /// The CPU, because the device could not.
    InsteadOfDevice(DeviceError),
}

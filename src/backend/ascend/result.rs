//! What can go wrong with a device, as error values, and what a device has done, in numbers.

use thiserror::Error;

/// A call of the runtime that failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{call} returned {code}{}{message}", if message.is_empty() { "" } else { ": " })]
pub struct CallError {
    /// The call.
    pub call: &'static str,
    /// The error value that it returned; zero where it returns none.
    pub code: i32,
    /// The runtime's own message; may be empty.
    pub message: String,
}

/// Why there is no device to use. The CPU decides instead.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// [`super::AscendParameters::device`] names none.
    #[error("none was asked for")]
    NotAsked,
    /// No file of the runtime could be opened.
    #[error("no Ascend runtime: {tried}")]
    NoLibrary {
        /// Each file that was tried, with its error.
        tried: String,
    },
    /// The library is no Ascend runtime, or a broken one.
    #[error("{library}: no symbol {symbol}")]
    Symbol {
        /// The library.
        library: String,
        /// The first symbol that is missing.
        symbol: &'static str,
    },
    /// A runtime from before kernels could be loaded from a file.
    #[error("{library}: API version {found} has no {symbol}; CANN 8.1 or newer is needed")]
    TooOld {
        /// The library.
        library: String,
        /// Its API version.
        found: String,
        /// The first call that is missing.
        symbol: &'static str,
    },
    /// A runtime of another major version: its calls may have changed.
    #[error("{library}: API version {found}, expected 1.x")]
    Version {
        /// The library.
        library: String,
        /// Its API version.
        found: String,
    },
    /// No such device.
    #[error("device {asked}: the runtime {library} finds {found}")]
    NoDevice {
        /// The runtime.
        library: String,
        /// The device asked for.
        asked: u32,
        /// How many there are.
        found: u32,
    },
    /// A chip that no kernel was ever compiled for.
    #[error("no kernel for {soc}: {detail}")]
    UnknownChip {
        /// The chip's name.
        soc: String,
        /// Which chips have one.
        detail: &'static str,
    },
    /// The kernel for this chip is not where it was looked for.
    #[error("no kernel for {soc}: {detail}")]
    NoKernel {
        /// The chip's name.
        soc: String,
        /// Where it was looked for.
        detail: String,
    },
    /// The runtime's threads and the device's memory belong to the parent of this process.
    #[error("this process was forked from the one that opened the device")]
    Forked,
    /// A call failed while the device was opened.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl LoadError {
    /// Whether opening the device may succeed later.
    #[cfg(feature = "ascend")]
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Call(_))
    }
}

/// Why the CPU decided a batch that was meant for the device.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no device.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call failed, or a kernel or copy on the stream.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer was not there in time; the device may still be at work.
    #[error("no answer within {waited_ms} ms")]
    Late {
        /// How long the caller waited.
        waited_ms: u64,
    },
    /// The device failed or was late, and is left alone for a while.
    #[error("the device rests after {failures} failures or late answers in a row")]
    Resting {
        /// Failures and late answers since it last answered in time.
        failures: u32,
    },
    /// The thread that owns the device panicked; the device was closed and is opened again.
    #[error("the device's thread panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// Every place for a batch is taken.
    #[error("{in_flight} batches are in flight, as many as fit")]
    Busy {
        /// How many.
        in_flight: usize,
    },
    /// The device cannot hold this batch, or cannot decide it.
    #[cfg(feature = "ascend")]
    #[error("not for the device: {0}")]
    Kept(super::blob::Kept),
    /// The device's answer failed a check.
    #[cfg(feature = "ascend")]
    #[error(transparent)]
    Answer(super::blob::AnswerError),
    /// The ticket belongs to another batch or another device.
    #[error("ticket {ticket} does not belong to this batch")]
    Ticket {
        /// Its number.
        ticket: u64,
    },
}

/// What a device has done since it was opened first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Batches handed to the device.
    pub submitted: u64,
    /// Batches that the device decided.
    pub decided: u64,
    /// Batches that the host kept: nothing to place, a limit, or a rule whose profiles the device cannot
    /// compute.
    pub kept: u64,
    /// Batches that the CPU decided because the device failed, was late, rested or was busy.
    pub fallen_back: u64,
    /// Answers that came too late.
    pub late: u64,
    /// Answers that failed a check.
    pub refused: u64,
    /// Failures of the device.
    pub failures: u64,
    /// How many of these were a panic of the thread that owns the device.
    pub panics: u64,
    /// How often it was opened.
    pub openings: u64,
}

//! The Ascend NPU beside the CPU: the device makes the greedy picks of a decision, the host does the rest.
//!
//! | module | |
//! |---|---|
//! | [`result`] | what can go wrong, as values |
//! | `sys` | the runtime's calls behind handles: all unsafe code |
//! | `device`, `kernel`, `object` | an open device, the kernel file for it, and that file's content |
//! | `queue` | the thread that owns the device: batches in flight, failures, rests |
//! | `blob` | a batch as the kernel reads it, and the device's answer |
//! | `launch` | a batch's way to the device and back |
//! | `choice` | whether the CPU or the device is faster |
//!
//! The runtime is looked up when a policy is built: [`AscendParameters::library`] (or
//! `BALANCEROUTE_ACL_LIBRARY`), then the toolkit of `ASCEND_HOME_PATH` or `ASCEND_TOOLKIT_HOME`, then the
//! loader's own places. Nothing is linked. Without it, or without a device or a kernel, the CPU decides, and
//! `describe` says why.
//!
//! No request is lost when a device fails, hangs or answers wrongly. The CPU decides the batch instead, and
//! the device is closed, left alone for a while and opened again ([`result::Counters`] tells how often).

#[cfg(feature = "ascend")]
pub mod blob;
#[cfg(feature = "ascend")]
pub(crate) mod choice;
#[cfg(feature = "ascend")]
mod device;
#[cfg(feature = "ascend")]
mod kernel;
#[cfg(feature = "ascend")]
pub mod launch;
#[cfg(feature = "ascend")]
mod object;
#[cfg(feature = "ascend")]
mod queue;
pub mod result;
#[cfg(feature = "ascend")]
mod sys;

use std::path::PathBuf;

#[cfg(feature = "ascend")]
pub use choice::ChoiceProbe;
#[cfg(feature = "ascend")]
pub use kernel::{KERNEL_VARIABLE, LIBRARY_VARIABLE};

/// Where runtime and kernel are, and how long to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AscendParameters {
    /// The runtime's library. None for the file that `BALANCEROUTE_ACL_LIBRARY` names, or else the first that
    /// the toolkit or the loader has.
    pub library: Option<PathBuf>,
    /// The kernel file, or a folder with `balanceroute-c220.o`, which serves every 910B and A3 chip. None for
    /// what `BALANCEROUTE_ASCEND_KERNEL` names, or else the kernel that was built with this crate.
    pub kernel: Option<PathBuf>,
    /// Which device; none to use no device.
    pub device: Option<u32>,
    /// How long a decision waits for the device before the CPU makes it. Default 50 ms: some thousand times
    /// as long as a decision takes.
    pub answer_timeout_ms: u32,
    /// After how long a batch on the device counts as failed; default 2 s.
    pub device_timeout_ms: u32,
    /// How long opening a device may take; default 60 s.
    pub open_timeout_ms: u32,
    /// How long a device rests after a failure, doubled after each further one; default 1 s.
    pub rest_ms: u32,
    /// The longest rest; default 60 s.
    pub longest_rest_ms: u32,
}

impl Default for AscendParameters {
    fn default() -> Self {
        Self {
            library: None,
            kernel: None,
            device: Some(0),
            answer_timeout_ms: 50,
            device_timeout_ms: 2_000,
            open_timeout_ms: 60_000,
            rest_ms: 1_000,
            longest_rest_ms: 60_000,
        }
    }
}

setters!(AscendParameters {
    library: Option<PathBuf>,
    kernel: Option<PathBuf>,
    device: Option<u32>,
    answer_timeout_ms: u32,
    device_timeout_ms: u32,
    open_timeout_ms: u32,
    rest_ms: u32,
    longest_rest_ms: u32,
});

/// Finalises every runtime that this process has loaded, each when its last device is closed; where none is
/// open, on this thread. For the end of a process: a device that is opened later loads its runtime anew.
#[cfg(feature = "ascend")]
pub fn finalize() {
    sys::finalize();
}

/// Opens a device, closes it again and returns its description.
///
/// # Errors
/// [`result::DeviceError`]: why there is none.
#[cfg(feature = "ascend")]
pub fn probe(parameters: &AscendParameters) -> Result<String, result::DeviceError> {
    open(parameters)?.name()
}

#[cfg(feature = "ascend")]
pub(crate) fn open(parameters: &AscendParameters) -> Result<launch::Device, result::LoadError> {
    use std::time::Duration;

    use device::OpenOptions;

    let Some(device) = parameters.device else { return Err(result::LoadError::NotAsked) };
    let ms = |ms: u32| Duration::from_millis(u64::from(ms));
    let options = OpenOptions {
        library: parameters.library.clone().or_else(|| kernel::environment(LIBRARY_VARIABLE)),
        kernel: parameters.kernel.clone(),
        device,
        timeout_ms: parameters.device_timeout_ms,
    };
    let timeouts = queue::Timeouts {
        open: ms(parameters.open_timeout_ms),
        rest: ms(parameters.rest_ms),
        longest_rest: ms(parameters.longest_rest_ms),
    };
    let queue = queue::Queue::open(options, timeouts)?;
    Ok(launch::Device::queued(queue, ms(parameters.answer_timeout_ms)))
}

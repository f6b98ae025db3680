//! The Ascend NPU beside the CPU: the greedy picks of a decision on the device, everything else on the host.
//!
//! | module | |
//! |---|---|
//! | [`result`] | what can go wrong, as values |
//! | `sys` | the runtime's calls behind handles: all unsafe code |
//! | `device`, `kernel` | an open device, and what runs on it |
//! | `queue` | the thread that owns it: batches in flight, failures, rests |
//! | `blob`, `launch` | a batch as the kernel reads it, and how it goes there and comes back |
//! | `choice` | whether the CPU or the device is faster |
//!
//! The runtime is looked up when a policy is built: [`AscendParameters::library`] (or
//! `BALANCEROUTE_ACL_LIBRARY`), then the toolkit of `ASCEND_HOME_PATH` or `ASCEND_TOOLKIT_HOME`, then the
//! loader's own places. Nothing is linked. Without it, or without a device or a kernel, the CPU decides, and
//! `describe` says why.
//!
//! A device that fails, hangs or answers wrongly costs nobody a request: the CPU decides the same batch, the
//! device is closed, left alone and opened again ([`result::Counters`] tells how often).

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
mod queue;
pub mod result;
#[cfg(feature = "ascend")]
mod sys;

use std::path::PathBuf;

#[cfg(feature = "ascend")]
pub use kernel::{KERNEL_VARIABLE, LIBRARY_VARIABLE};

/// Where runtime and kernel are, and how long to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AscendParameters {
    /// The runtime's library; none for `BALANCEROUTE_ACL_LIBRARY`, or else where the toolkit and the loader
    /// have it.
    pub library: Option<PathBuf>,
    /// The kernel file, or a folder with one `balanceroute-<chip>.o` each; none for
    /// `BALANCEROUTE_ASCEND_KERNEL`, or else what was built with this crate.
    pub kernel: Option<PathBuf>,
    /// Which device; none to look for none.
    pub device: Option<u32>,
    /// How long a decision waits for the device before the CPU makes it; default 50 ms, some thousand times
    /// what a decision takes.
    pub answer_timeout_ms: u32,
    /// After how long the device itself is given up; default 2 s.
    pub device_timeout_ms: u32,
    /// How long opening a device may take; default 60 s.
    pub open_timeout_ms: u32,
    /// How long a device is left alone after a failure, doubled after each further one; default 1 s.
    pub rest_ms: u32,
    /// The longest such rest; default 60 s.
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

/// Finalises every runtime that this process has loaded, each once its last device is closed. For the end of
/// a process; devices that are opened later load theirs anew.
#[cfg(feature = "ascend")]
pub fn finalize() {
    sys::finalize();
}

/// Opens a device and closes it again; what it is, in words.
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

    use device::Place;

    let Some(device) = parameters.device else { return Err(result::LoadError::NotAsked) };
    let ms = |ms: u32| Duration::from_millis(u64::from(ms));
    let files = Place {
        library: parameters.library.clone().or_else(|| kernel::environment(LIBRARY_VARIABLE)),
        kernel: parameters.kernel.clone(),
        device,
        timeout_ms: parameters.device_timeout_ms,
    };
    let patience = queue::Patience {
        open: ms(parameters.open_timeout_ms),
        rest: ms(parameters.rest_ms),
        longest_rest: ms(parameters.longest_rest_ms),
    };
    let queue = queue::Queue::open(files, patience)?;
    Ok(launch::Device::queued(queue, ms(parameters.answer_timeout_ms)))
}

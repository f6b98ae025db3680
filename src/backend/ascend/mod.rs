//! The Ascend NPU beside the CPU: the greedy picks of a decision on the device, everything else on the host.
//!
//! | module | |
//! |---|---|
//! | [`result`] | what can go wrong, as values |
//! | `sys` | the runtime's calls behind handles: all unsafe code |
//! | `device`, `kernel` | an open device, and what runs on it |
//! | `queue` | the thread that owns it: batches in flight, failures, rests |
//! | `blob`, `offload` | a batch as the kernel reads it, and the decision around it |
//! | `choice` | whether the CPU or the device is faster |
//!
//! The runtime is looked up when a policy is built: [`AscendParameters::library`] (or `BALANCEROUTE_ACL_LIBRARY`), then the toolkit of
//! `ASCEND_HOME_PATH` or `ASCEND_TOOLKIT_HOME`, then the loader's own places. Nothing is linked. Without it, or without a device or a
//! kernel, the CPU decides, and `describe` says why.
//!
//! A device that fails, hangs or answers wrongly costs nobody a request: the CPU decides the same batch, the device is closed, left alone
//! and opened again ([`result::Counters`] tells how often).

#[cfg(feature = "ascend")]
pub mod blob;
#[cfg(feature = "ascend")]
mod choice;
#[cfg(feature = "ascend")]
mod device;
#[cfg(feature = "ascend")]
mod kernel;
#[cfg(feature = "ascend")]
pub mod offload;
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
pub struct AscendParameters {
    /// The runtime's library; none for `BALANCEROUTE_ACL_LIBRARY`, or else where the toolkit and the loader have it.
    pub library: Option<PathBuf>,
    /// The kernel file, or a folder with one `balanceroute-<chip>.o` each; none for `BALANCEROUTE_ASCEND_KERNEL`, or else what was built with this crate.
    pub kernel: Option<PathBuf>,
    /// Which device; none to look for none.
    pub device: Option<u32>,
    /// How long a decision waits for the device before the CPU makes it; default 50 ms, some thousand times what a decision takes.
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

/// Finalises every runtime that this process has loaded, each once its last device is closed. For the end of a process; devices that are
/// opened later load theirs anew.
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

/// Opens the device that a policy is to use, or says why it uses none.
#[cfg(feature = "ascend")]
pub(crate) fn for_policy(
    backend: crate::backend::BackendKind,
    parameters: &AscendParameters,
    kernels: &'static crate::backend::cpu::Kernels,
) -> (Option<offload::Device>, Option<String>) {
    use crate::backend::BackendKind;
    let measured = backend == BackendKind::Auto;
    if !measured && backend != BackendKind::Ascend {
        return (None, None);
    }
    match open(parameters) {
        Ok(device) if measured => (Some(calibrate(device, kernels)), None),
        Ok(device) => (Some(device), None),
        Err(error) => (None, Some(format!("no device: {error}"))),
    }
}

#[cfg(feature = "ascend")]
fn open(parameters: &AscendParameters) -> Result<offload::Device, result::LoadError> {
    use std::time::Duration;

    use device::Place;

    let Some(device) = parameters.device else { return Err(result::LoadError::NotAsked) };
    let ms = |ms: u32| Duration::from_millis(u64::from(ms));
    let from_environment = || std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from);
    let files = Place {
        library: parameters.library.clone().or_else(from_environment),
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
    Ok(offload::Device::queued(queue, ms(parameters.answer_timeout_ms)))
}

/// Decides the same few batches on both sides, so that the first real one goes to the faster.
#[cfg(feature = "ascend")]
fn calibrate(device: offload::Device, kernels: &'static crate::backend::cpu::Kernels) -> offload::Device {
    use choice::{Choice, Side};
    use offload::Offload;

    use crate::backend::Backend;
    use crate::batch::{Batch, Pairs, Request, Worker};
    use crate::policy::exact::{Exact, ExactParameters};
    use crate::pool::Pool;

    let mut rule = Exact::new(ExactParameters::default(), false);
    let mut offload = Offload::with(device, kernels);
    let mut out = crate::Assignment::new();
    offload.device_mut().choose_by(Some(Choice::default()));
    for (waiting, workers, paired) in [(64, 16, true), (512, 64, true), (64, 16, false), (512, 64, false)] {
        // Lengths and loads that repeat nowhere near each other; what they are does not matter.
        let scattered = |at: usize, below: u32| (at as u32).wrapping_mul(2_654_435_761) % below;
        let requests: Vec<Request> = (0..waiting)
            .map(|at| {
                let request = Request::new(at as u64, 1 + scattered(at, 4_000));
                if paired { request.pairs(at as u32) } else { request }
            })
            .collect();
        let list: Vec<Worker> = (0..workers)
            .map(|at| Worker::new(100_000 + u64::from(scattered(at + 7, 5_000)), 32, 1))
            .collect();
        let bonus: Vec<f32> =
            (0..if paired { waiting * workers } else { 0 }).map(|at| scattered(at, 900) as f32).collect();
        let Ok(pool) = Pool::from_requests(&requests) else { continue };
        let draft = Batch::draft(&list, &pool).pairs(Pairs { bonus_tokens: &bonus, ..Pairs::default() });
        let Ok(batch) = draft.check() else { continue };
        for side in [Side::Cpu, Side::Device] {
            // The first of each warms caches and buffers up.
            for round in 0..4 {
                let before = offload.device_mut().choice();
                offload.device_mut().only(Some(side));
                offload.assign(&mut rule, &batch, &mut out);
                if round == 0 {
                    offload.device_mut().choose_by(before);
                }
            }
        }
    }
    offload.device_mut().only(None);
    offload.into_device()
}

//! One open device: its context, stream, kernel and the memory of the batches in flight, all on one thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::blob::Soc;
use super::kernel;
use super::object::KernelFile;
use super::result::{CallError, LoadError};
use super::sys::{Api, Binary, Context, Deferred, Device, HostBuffers, Job, Lanes};

/// Batches that may be in flight at once: the host writes one while the device runs the other.
pub(super) const MAX_IN_FLIGHT: usize = 2;
/// Input bytes of a batch: enough for 256 workers with single-precision bonuses for 4,096 requests in 16
/// survival classes.
const INPUT_BYTES: usize = 8 << 20;
/// Output bytes of a batch: one column for each of 256 workers and 16 classes, and 4,096 picks.
const OUTPUT_BYTES: usize = 256 << 10;

/// Where the runtime and the kernel are, which device to open, and how long the device may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenOptions {
    pub library: Option<PathBuf>,
    pub kernel: Option<PathBuf>,
    pub device: u32,
    pub timeout_ms: u32,
}

/// What an open device is.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub soc: Soc,
    /// In words.
    pub name: String,
}

/// An open device, made, used and dropped on one thread. Its context goes with the last memory of its
/// batches.
pub(super) struct Session {
    lanes: Lanes,
    deferred: Arc<Deferred>,
    timeout_ms: i32,
}

impl Session {
    /// Opens a device, loads its kernel and allocates the memory of its batches. Waits `patience` for another
    /// thread that initialises or finalises the runtime. Errors of destructions go to `deferred`.
    pub(super) fn open(
        options: &OpenOptions,
        patience: Duration,
        deferred: &Arc<Deferred>,
    ) -> Result<(Self, Opened, [HostBuffers; MAX_IN_FLIGHT]), LoadError> {
        let api = Api::load(options.library.as_deref(), patience)?;
        let found = api.device_count()?;
        if options.device >= found {
            return Err(LoadError::NoDevice { library: api.name(), asked: options.device, found });
        }
        let context = Context::create(Device::set(&api, options.device, deferred)?)?;
        let chip = api.soc()?;
        let soc = kernel::soc(&chip, api.cores(options.device)?)?;
        let overflow = api.overflow().map_or(String::new(), |overflow| format!(", {overflow}"));
        let file = KernelFile::read(kernel::file(options.kernel.as_deref(), &chip)?, &chip)?;
        let content = file.describe();
        let (binary, refused) = Binary::load(&context, file, &kernel::ENTRIES)?;
        let copied = refused.map_or(String::new(), |error| format!(", through a copy, for {error}"));
        let timeout_s = options.timeout_ms.div_ceil(1000).clamp(1, u32::from(u16::MAX)) as u16;
        let bytes = (INPUT_BYTES, OUTPUT_BYTES);
        let (lanes, hosts) = Lanes::new(&context, binary, bytes, timeout_s)?;
        let opened = Opened {
            soc,
            name: format!(
                "{chip}, device {}, {} vector cores{overflow}, {content}{copied} ({})",
                options.device,
                soc.vector_cores,
                api.name()
            ),
        };
        let timeout_ms = options.timeout_ms.min(i32::MAX as u32) as i32;
        Ok((Self { lanes, deferred: Arc::clone(deferred), timeout_ms }, opened, hosts))
    }

    /// The error of an earlier destruction, once.
    pub(super) fn deferred(&self) -> Result<(), CallError> {
        self.deferred.take()
    }

    /// Enqueues a batch, whose memory is in flight from here on.
    pub(super) fn enqueue(&mut self, lane: usize, host: HostBuffers, job: &Job) -> Result<(), CallError> {
        self.lanes.enqueue(lane, host, job)
    }

    /// Waits for all batches and gives their memory back, with the milliseconds that each took on the device.
    pub(super) fn synchronize(
        &mut self,
        back: impl FnMut(usize, HostBuffers, Result<f32, CallError>),
    ) -> Result<(), CallError> {
        self.lanes.synchronize(self.timeout_ms, back)
    }

    /// Waits for what runs and frees everything, also the host's memory that is not in flight. On a device
    /// that hangs it may never return.
    pub(super) fn close(self, idle: impl IntoIterator<Item = HostBuffers>) {
        drop(self.lanes);
        idle.into_iter().for_each(drop);
    }
}

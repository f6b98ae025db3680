//! One open device: its context, stream, kernel and the memory of the batches in flight, all on one thread.

use std::path::PathBuf;
use std::sync::Arc;

use super::blob::Soc;
use super::kernel;
use super::result::{CallError, LoadError};
use super::sys::{Api, Binary, Buffers, Context, Device, Stream};

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

/// An open device, made, used and dropped on one thread. Fields are dropped in order: what needs another
/// field comes before it.
pub(super) struct Session {
    stream: Option<Stream>,
    /// Keeps the kernel's functions alive.
    _binary: Binary,
    context: Context,
    timeout_ms: i32,
}

impl Session {
    /// Opens a device, loads its kernel and allocates the buffers of its batches.
    pub(super) fn open(options: &OpenOptions) -> Result<(Self, Opened, [Buffers; MAX_IN_FLIGHT]), LoadError> {
        let api = Api::load(options.library.as_deref())?;
        api.deferred()?;
        let found = api.device_count()?;
        if options.device >= found {
            return Err(LoadError::NoDevice { library: api.name(), asked: options.device, found });
        }
        let context = Context::create(Device::set(&api, options.device)?)?;
        let chip = api.soc()?;
        let soc = kernel::soc(&chip, api.cores(options.device)?)?;
        let file = kernel::file(options.kernel.as_deref(), &chip)?;
        let binary = Binary::load(&context, &file)?;
        let mut functions = Vec::new();
        for entry in kernel::ENTRIES {
            functions.push(binary.function(entry)?);
        }
        let stream = Stream::create(&context)?;
        let timeout_s = options.timeout_ms.div_ceil(1000).clamp(1, u32::from(u16::MAX)) as u16;
        let bytes = (INPUT_BYTES, OUTPUT_BYTES);
        let first = Buffers::new(&context, &functions, bytes, timeout_s)?;
        let second = Buffers::new(&context, &functions, bytes, timeout_s)?;
        let opened = Opened {
            soc,
            name: format!(
                "{chip}, device {}, {} vector cores, {} ({})",
                options.device,
                soc.vector_cores,
                file.display(),
                api.name()
            ),
        };
        let timeout_ms = options.timeout_ms.min(i32::MAX as u32) as i32;
        Ok((Self { stream: Some(stream), _binary: binary, context, timeout_ms }, opened, [first, second]))
    }

    /// The error of an earlier destruction, once.
    pub(super) fn deferred(&self) -> Result<(), CallError> {
        Arc::clone(self.context.api()).deferred()
    }

    /// The stream; none once the device is closing.
    pub(super) fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// Waits for all that the stream was given.
    pub(super) fn synchronize(&self) -> Result<(), CallError> {
        self.stream.as_ref().map_or(Ok(()), |stream| stream.synchronize(self.timeout_ms))
    }

    /// Stops what runs and frees everything. Buffers that the device may still write are leaked.
    pub(super) fn close(mut self, all: impl IntoIterator<Item = Buffers>) {
        let quiet = self.stream.take().is_none_or(Stream::close);
        for buffers in all {
            if quiet { drop(buffers) } else { buffers.leak() }
        }
    }
}

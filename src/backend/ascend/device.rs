//! One open device: context, stream, kernel and the memory of the batches in flight, all on one thread.

use std::path::PathBuf;
use std::sync::Arc;

use super::blob::Soc;
use super::kernel;
use super::result::{CallError, LoadError};
use super::sys::{Api, Binary, Context, Device, Lane, Stream};

/// Batches that may be in flight at once: one is filled while the other runs.
pub(super) const LANES: usize = 2;
/// Input bytes of a batch: 256 workers with single-precision bonuses for 4,096 requests in 16 survival
/// classes, and the rest.
const INPUT_BYTES: usize = 8 << 20;
/// Output bytes: a column of each of 256 workers and 16 classes, and 4,096 picks.
const OUTPUT_BYTES: usize = 256 << 10;

/// Where runtime and kernel are, and how long to wait for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
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

/// An open device. Made, used and dropped on one thread; fields go in order, what depends on others first.
pub(super) struct Session {
    stream: Option<Stream>,
    /// Holds the functions.
    _binary: Binary,
    context: Context,
    timeout_ms: i32,
}

impl Session {
    /// Opens a device: every step of it, to the memory of its lanes.
    pub(super) fn open(place: &Place) -> Result<(Self, Opened, [Lane; LANES]), LoadError> {
        let api = Api::load(place.library.as_deref())?;
        api.deferred()?;
        let found = api.device_count()?;
        if place.device >= found {
            return Err(LoadError::NoDevice { library: api.name(), asked: place.device, found });
        }
        let context = Context::create(Device::set(&api, place.device)?)?;
        let chip = api.soc()?;
        let soc = kernel::soc(&chip, api.cores(place.device)?)?;
        let file = kernel::file(place.kernel.as_deref(), &chip)?;
        let binary = Binary::load(&context, &file)?;
        let mut functions = Vec::new();
        for entry in kernel::ENTRIES {
            functions.push(binary.function(entry)?);
        }
        let stream = Stream::create(&context)?;
        let timeout_s = place.timeout_ms.div_ceil(1000).clamp(1, u32::from(u16::MAX)) as u16;
        let bytes = (INPUT_BYTES, OUTPUT_BYTES);
        let first = Lane::new(&context, &functions, bytes, timeout_s)?;
        let second = Lane::new(&context, &functions, bytes, timeout_s)?;
        let opened = Opened {
            soc,
            name: format!(
                "{chip}, device {}, {} vector cores, {} ({})",
                place.device,
                soc.vector_cores,
                file.display(),
                api.name()
            ),
        };
        let timeout_ms = place.timeout_ms.min(i32::MAX as u32) as i32;
        Ok((Self { stream: Some(stream), _binary: binary, context, timeout_ms }, opened, [first, second]))
    }

    /// The error of a destruction that nobody has heard of yet.
    pub(super) fn deferred(&self) -> Result<(), CallError> {
        Arc::clone(self.context.api()).deferred()
    }

    /// The stream.
    pub(super) fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// Waits for the stream.
    pub(super) fn synchronize(&self) -> Result<(), CallError> {
        self.stream.as_ref().map_or(Ok(()), |stream| stream.synchronize(self.timeout_ms))
    }

    /// Ends what runs and gives everything back.
    pub(super) fn close(mut self, lanes: impl IntoIterator<Item = Lane>) {
        let quiet = self.stream.take().is_none_or(Stream::close);
        for lane in lanes {
            if quiet { drop(lane) } else { lane.strand() }
        }
    }
}

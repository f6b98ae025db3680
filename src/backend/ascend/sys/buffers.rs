//! The memory of batches on both sides, and the copies and launches that run them.
//!
//! Whether a copy is under way is a matter of ownership. The host reads and writes a [`HostBuffers`].
//! [`Lanes::enqueue`] takes it, and [`Lanes::synchronize`] gives it back once the runtime has said that all
//! work of the stream has ended. Nothing else takes it out again. When the lanes are dropped, the stream is
//! destroyed first, which waits for its work; where the runtime refuses that, memory in flight stays
//! allocated for ever.

use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::sync::Arc;

use super::super::result::CallError;
use super::api::Api;
use super::bindings::{
    ACL_DEVICE_TO_HOST, ACL_ENGINE_VECTOR, ACL_HOST_TO_DEVICE, ACL_INVALID_PARAM, ACL_LAUNCH_ENGINE,
    ACL_LAUNCH_TIMEOUT_S, aclrtArgsHandle, aclrtFuncHandle, aclrtLaunchAttribute, aclrtLaunchConfig,
    aclrtLaunchValue,
};
use super::handles::{Binary, Context, DeviceMemory, Event, PinnedMemory, Stream};

/// Arguments behind a handle, for runtimes that take no host arguments at a launch. They live as long as the
/// kernel file.
struct Arguments(aclrtArgsHandle);

impl Arguments {
    /// # Safety
    /// The file of the function is loaded.
    unsafe fn new(
        api: &Api,
        function: aclrtFuncHandle,
        pointers: &mut [*mut c_void; 2],
    ) -> Result<Self, CallError> {
        let mut handle = ptr::null_mut();
        // SAFETY: the caller's promise; a place to write to.
        api.done("aclrtKernelArgsInit", unsafe { api.acl.aclrtKernelArgsInit(function, &mut handle) })?;
        for pointer in pointers {
            let (at, mut parameter) = (ptr::from_mut(pointer).cast(), ptr::null_mut());
            // SAFETY: the call copies the pointer's bytes.
            let code = unsafe {
                api.acl.aclrtKernelArgsAppend(handle, at, size_of::<*mut c_void>(), &mut parameter)
            };
            api.done("aclrtKernelArgsAppend", code)?;
        }
        // SAFETY: the handle lives.
        api.done("aclrtKernelArgsFinalize", unsafe { api.acl.aclrtKernelArgsFinalize(handle) })?;
        Ok(Self(handle))
    }
}

/// What to copy and launch for one batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Job {
    pub input_bytes: usize,
    pub output_bytes: usize,
    /// Bytes at the beginning of the output that are copied to the device first.
    pub head_bytes: usize,
    pub launches: [KernelLaunch; 2],
    pub launch_count: usize,
}

/// An entry of the kernel, and how many blocks of it run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KernelLaunch {
    /// Index into the entries of the kernel file.
    pub function: usize,
    pub blocks: u32,
}

/// Pinned memory of one batch. Who has it may read and write it: no copy is under way.
pub(crate) struct HostBuffers {
    input: PinnedMemory,
    output: PinnedMemory,
}

impl HostBuffers {
    /// Input and output.
    pub(crate) fn bytes(&mut self) -> (&mut [u8], &mut [u8]) {
        (self.input.bytes(), self.output.bytes())
    }
}

/// The device's side of one batch, and the host's while it is in flight.
struct Lane {
    device_input: DeviceMemory,
    device_output: DeviceMemory,
    start: Event,
    end: Event,
    arguments: Vec<Arguments>,
    in_flight: Option<HostBuffers>,
}

impl Lane {
    fn new(
        context: &Arc<Context>,
        binary: &Binary,
        (input_bytes, output_bytes): (usize, usize),
    ) -> Result<Self, CallError> {
        let api = context.api();
        let device_input = DeviceMemory::new(context, input_bytes)?;
        let device_output = DeviceMemory::new(context, output_bytes)?;
        let arguments = if api.acl.aclrtLaunchKernelWithHostArgs.is_ok() {
            Vec::new()
        } else {
            let mut pointers = [device_input.at, device_output.at];
            let functions = binary.functions().iter();
            functions
                // SAFETY: they are this file's, and it is loaded.
                .map(|&function| unsafe { Arguments::new(api, function, &mut pointers) })
                .collect::<Result<_, _>>()?
        };
        let (start, end) = (Event::create(context)?, Event::create(context)?);
        Ok(Self { device_input, device_output, start, end, arguments, in_flight: None })
    }
}

/// A stream, the kernel, and the memory of the batches that run on them. Fields are dropped in order: what
/// needs another field comes before it.
pub(crate) struct Lanes {
    stream: Stream,
    all: Vec<Lane>,
    /// There until the lanes are dropped.
    binary: Option<Binary>,
    api: Arc<Api>,
    timeout_s: u16,
}

impl Lanes {
    /// As many lanes as asked for, and the host's memory of each.
    pub(crate) fn new<const COUNT: usize>(
        context: &Arc<Context>,
        binary: Binary,
        bytes: (usize, usize),
        timeout_s: u16,
    ) -> Result<(Self, [HostBuffers; COUNT]), CallError> {
        let api = context.api();
        let stream = Stream::create(context)?;
        let (mut all, mut hosts) = (Vec::with_capacity(COUNT), Vec::with_capacity(COUNT));
        for _ in 0..COUNT {
            all.push(Lane::new(context, &binary, bytes)?);
            let (input, output) =
                (PinnedMemory::new(context, bytes.0)?, PinnedMemory::new(context, bytes.1)?);
            hosts.push(HostBuffers { input, output });
        }
        let lanes = Self { stream, all, binary: Some(binary), api: Arc::clone(api), timeout_s };
        match hosts.try_into() {
            Ok(hosts) => Ok((lanes, hosts)),
            Err(_) => Err(api.error("aclrtMallocHost", ACL_INVALID_PARAM)),
        }
    }

    /// Enqueues the copies to the device, the launches and the copy back. The memory is in flight from here
    /// on, even after an error: part of the batch may have been enqueued.
    pub(crate) fn enqueue(&mut self, lane: usize, host: HostBuffers, job: &Job) -> Result<(), CallError> {
        let count = self.all.len();
        let Some(free) = self.all.get_mut(lane).filter(|lane| lane.in_flight.is_none()) else {
            let message = format!("lane {lane} of {count} is not there or taken");
            return Err(CallError { call: "enqueue", code: ACL_INVALID_PARAM, message });
        };
        // It is in the lane before the first call: whatever happens then, nobody frees it under a copy.
        free.in_flight = Some(host);
        let lane = &self.all[lane];
        let Some(host) = &lane.in_flight else { return Ok(()) };
        lane.start.record(&self.stream)?;
        let input = (host.input.at.cast(), host.input.bytes);
        let output = (host.output.at.cast(), host.output.bytes);
        let device_input = (lane.device_input.at, lane.device_input.bytes);
        let device_output = (lane.device_output.at, lane.device_output.bytes);
        self.copy(device_input, input, job.input_bytes, ACL_HOST_TO_DEVICE)?;
        self.copy(device_output, output, job.head_bytes, ACL_HOST_TO_DEVICE)?;
        for launch in &job.launches[..job.launch_count] {
            self.launch(lane, launch)?;
        }
        self.copy(output, device_output, job.output_bytes, ACL_DEVICE_TO_HOST)?;
        lane.end.record(&self.stream)
    }

    /// Waits for everything enqueued so far. Gives each lane's memory back with the milliseconds that its
    /// batch took on the device, or why the runtime does not tell. After an error all of it stays in flight.
    pub(crate) fn synchronize(
        &mut self,
        timeout_ms: i32,
        mut back: impl FnMut(usize, HostBuffers, Result<f32, CallError>),
    ) -> Result<(), CallError> {
        self.stream.synchronize(timeout_ms)?;
        for (index, lane) in self.all.iter_mut().enumerate() {
            if let Some(host) = lane.in_flight.take() {
                back(index, host, lane.start.until(&lane.end));
            }
        }
        Ok(())
    }

    fn copy(
        &self,
        (to, to_bytes): (*mut c_void, usize),
        (from, from_bytes): (*mut c_void, usize),
        bytes: usize,
        kind: i32,
    ) -> Result<(), CallError> {
        if bytes == 0 {
            return Ok(());
        }
        if bytes > to_bytes || bytes > from_bytes {
            let message = format!("{bytes} bytes from {from_bytes} to {to_bytes}");
            return Err(CallError { call: "aclrtMemcpyAsync", code: ACL_INVALID_PARAM, message });
        }
        let stream = self.stream.stream;
        // SAFETY: both sides belong to a lane in flight, which keeps them until the stream has been
        // synchronised or destroyed, and they hold as many bytes.
        let code = unsafe { self.api.acl.aclrtMemcpyAsync(to, to_bytes, from, bytes, kind, stream) };
        self.api.done("aclrtMemcpyAsync", code)
    }

    fn launch(&self, lane: &Lane, launch: &KernelLaunch) -> Result<(), CallError> {
        let function = self.binary.as_ref().and_then(|binary| binary.functions().get(launch.function));
        let Some(&function) = function else {
            let message = format!("the kernel file has no entry {}", launch.function);
            return Err(CallError { call: "launch", code: ACL_INVALID_PARAM, message });
        };
        let stream = self.stream.stream;
        if let Some(arguments) = lane.arguments.get(launch.function) {
            // SAFETY: function, stream and arguments live, and the arguments are this function's; there are
            // no attributes.
            let code = unsafe {
                self.api.acl.aclrtLaunchKernelWithConfig(
                    function,
                    launch.blocks,
                    stream,
                    ptr::null_mut(),
                    arguments.0,
                    ptr::null_mut(),
                )
            };
            return self.api.done("aclrtLaunchKernelWithConfig", code);
        }
        let mut pointers = [lane.device_input.at, lane.device_output.at];
        let mut attributes = attributes(self.timeout_s);
        let mut config = aclrtLaunchConfig { attributes: attributes.as_mut_ptr(), count: attributes.len() };
        // SAFETY: function and stream live; the call reads configuration and arguments before it returns.
        let code = unsafe {
            self.api.acl.aclrtLaunchKernelWithHostArgs(
                function,
                launch.blocks,
                stream,
                &mut config,
                pointers.as_mut_ptr().cast(),
                size_of_val(&pointers),
                ptr::null_mut(),
                0,
            )
        };
        self.api.done("aclrtLaunchKernelWithHostArgs", code)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        if self.stream.close() {
            // Nothing runs on the stream any more: everything may be freed.
            return;
        }
        let mut lost = false;
        for Lane { device_input, device_output, start, end, in_flight, .. } in self.all.drain(..) {
            let Some(host) = in_flight else { continue };
            host.input.leak();
            host.output.leak();
            // The rest goes with the context.
            device_input.leave();
            device_output.leave();
            start.leave();
            end.leave();
            lost = true;
        }
        if lost {
            self.binary.take().into_iter().for_each(Binary::leave);
            // A runtime with leaked memory is not finalised.
            mem::forget(Arc::clone(&self.api));
        }
    }
}

/// What a launch carries beside its arguments. Of the two limits of time, in seconds and in microseconds, the
/// runtime takes one: this has the older.
fn attributes(timeout_s: u16) -> [aclrtLaunchAttribute; 2] {
    let attribute = |id| aclrtLaunchAttribute { id, value: aclrtLaunchValue { words: [0; 4] } };
    let mut attributes = [attribute(ACL_LAUNCH_ENGINE), attribute(ACL_LAUNCH_TIMEOUT_S)];
    attributes[0].value.engine = ACL_ENGINE_VECTOR;
    attributes[1].value.timeout_s = timeout_s;
    attributes
}

#[cfg(test)]
mod tests {
    use super::super::bindings::ACL_LAUNCH_TIMEOUT_US;
    use super::*;

    #[test]
    fn a_launch_carries_one_limit_of_time() {
        for timeout_s in [1, 2, 600, u16::MAX] {
            let ids = attributes(timeout_s).map(|attribute| attribute.id);
            let limits = ids.iter().filter(|id| [ACL_LAUNCH_TIMEOUT_S, ACL_LAUNCH_TIMEOUT_US].contains(id));
            assert_eq!(limits.count(), 1, "{ids:?}");
            assert_eq!(ids, [3, 7]);
            // SAFETY: every field of the union is plain numbers, and all its bytes are set.
            let values = attributes(timeout_s).map(|attribute| unsafe { attribute.value.words });
            assert_eq!(values, [[1, 0, 0, 0], [u32::from(timeout_s).to_le(), 0, 0, 0]]);
        }
    }
}

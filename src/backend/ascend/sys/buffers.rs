//! The memory of one batch on both sides, and the copies and launches that run it.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use super::super::result::CallError;
use super::api::Api;
use super::bindings::{
    ACL_DEVICE_TO_HOST, ACL_ENGINE_VECTOR, ACL_HOST_TO_DEVICE, ACL_INVALID_PARAM, ACL_LAUNCH_ENGINE,
    ACL_LAUNCH_TIMEOUT_S, aclrtArgsHandle, aclrtLaunchAttribute, aclrtLaunchConfig, aclrtLaunchValue,
};
use super::handles::{Context, DeviceMemory, Event, Function, PinnedMemory, Stream};

/// Arguments behind a handle, for runtimes that take no host arguments at a launch. They live as long as the
/// kernel file.
struct Arguments(aclrtArgsHandle);

impl Arguments {
    fn new(api: &Api, function: Function, pointers: &mut [*mut c_void; 2]) -> Result<Self, CallError> {
        let mut handle = ptr::null_mut();
        // SAFETY: the function lives; a place to write to.
        api.done("aclrtKernelArgsInit", unsafe { api.acl.aclrtKernelArgsInit(function.0, &mut handle) })?;
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
    /// Index into the functions that the buffers were made for.
    pub function: usize,
    pub blocks: u32,
}

/// Memory for one batch on host and device. While the batch is in flight, the host cannot reach it.
pub(crate) struct Buffers {
    api: Arc<Api>,
    input: PinnedMemory,
    output: PinnedMemory,
    device_input: DeviceMemory,
    device_output: DeviceMemory,
    start: Event,
    end: Event,
    functions: Vec<Function>,
    arguments: Vec<Arguments>,
    in_flight: bool,
    timeout_s: u16,
}

// SAFETY: nothing else points to the host memory, and any thread may write it. Calls are made on the
// context's thread only: the owner lends buffers to other threads behind a lock, and drops them there.
unsafe impl Send for Buffers {}

impl Buffers {
    pub(crate) fn new(
        context: &Context,
        functions: &[Function],
        (input_bytes, output_bytes): (usize, usize),
        timeout_s: u16,
    ) -> Result<Self, CallError> {
        let api = context.api();
        let device_input = DeviceMemory::new(api, input_bytes)?;
        let device_output = DeviceMemory::new(api, output_bytes)?;
        let arguments = if api.acl.aclrtLaunchKernelWithHostArgs.is_ok() {
            Vec::new()
        } else {
            let mut pointers = [device_input.at, device_output.at];
            functions
                .iter()
                .map(|&function| Arguments::new(api, function, &mut pointers))
                .collect::<Result<_, _>>()?
        };
        Ok(Self {
            input: PinnedMemory::new(api, input_bytes)?,
            output: PinnedMemory::new(api, output_bytes)?,
            device_input,
            device_output,
            start: Event::create(api)?,
            end: Event::create(api)?,
            functions: functions.to_vec(),
            arguments,
            in_flight: false,
            timeout_s,
            api: Arc::clone(api),
        })
    }

    /// Input and output bytes on the host; empty while the batch is in flight.
    pub(crate) fn bytes(&mut self) -> (&mut [u8], &mut [u8]) {
        if self.in_flight {
            return (&mut [], &mut []);
        }
        // SAFETY: the runtime handed out both with these lengths, they are initialised and do not overlap,
        // nothing else points to them, and no copy is under way.
        unsafe {
            (
                std::slice::from_raw_parts_mut(self.input.at, self.input.bytes),
                std::slice::from_raw_parts_mut(self.output.at, self.output.bytes),
            )
        }
    }

    /// Enqueues the copies to the device, the launches and the copy back. The batch is in flight from here
    /// until [`Buffers::complete`], even after an error: part of it may have been enqueued.
    pub(crate) fn enqueue(&mut self, stream: &Stream, job: &Job) -> Result<(), CallError> {
        self.in_flight = true;
        self.start.record(stream)?;
        let (input, device_input) = (self.input.at.cast(), self.device_input.at);
        let (output, device_output) = (self.output.at.cast(), self.device_output.at);
        self.copy(
            stream,
            (device_input, self.device_input.bytes),
            (input, self.input.bytes),
            job.input_bytes,
            true,
        )?;
        self.copy(
            stream,
            (device_output, self.device_output.bytes),
            (output, self.output.bytes),
            job.head_bytes,
            true,
        )?;
        for launch in &job.launches[..job.launch_count] {
            self.launch(stream, launch)?;
        }
        self.copy(
            stream,
            (output, self.output.bytes),
            (device_output, self.device_output.bytes),
            job.output_bytes,
            false,
        )?;
        self.end.record(stream)
    }

    /// Drops the buffers, unless the batch is in flight: the device may still write its memory, which leaks.
    pub(crate) fn leak(self) {
        if self.in_flight {
            std::mem::forget(self);
        }
    }

    /// Notes that the stream was synchronised. Returns the milliseconds that the batch took on the device;
    /// none where the runtime does not tell.
    pub(crate) fn complete(&mut self) -> Option<f32> {
        self.in_flight = false;
        let mut ms = 0.0;
        // SAFETY: both events live and are recorded; a place to write to.
        let code = unsafe { self.api.acl.aclrtEventElapsedTime(&mut ms, self.start.event, self.end.event) };
        self.api.done("aclrtEventElapsedTime", code).ok().map(|()| ms)
    }

    fn copy(
        &self,
        stream: &Stream,
        (to, to_bytes): (*mut c_void, usize),
        (from, from_bytes): (*mut c_void, usize),
        bytes: usize,
        forth: bool,
    ) -> Result<(), CallError> {
        if bytes == 0 {
            return Ok(());
        }
        if bytes > to_bytes || bytes > from_bytes {
            let message = format!("{bytes} bytes from {from_bytes} to {to_bytes}");
            return Err(CallError { call: "aclrtMemcpyAsync", code: ACL_INVALID_PARAM, message });
        }
        let kind = if forth { ACL_HOST_TO_DEVICE } else { ACL_DEVICE_TO_HOST };
        // SAFETY: both sides belong to these buffers, hold as many bytes, and live until the stream is
        // synchronised or destroyed.
        let code = unsafe { self.api.acl.aclrtMemcpyAsync(to, to_bytes, from, bytes, kind, stream.stream) };
        self.api.done("aclrtMemcpyAsync", code)
    }

    fn launch(&self, stream: &Stream, launch: &KernelLaunch) -> Result<(), CallError> {
        let function = self.functions[launch.function].0;
        if let Some(arguments) = self.arguments.get(launch.function) {
            // SAFETY: function, stream and arguments live, and the arguments are this function's; there are
            // no attributes.
            let code = unsafe {
                self.api.acl.aclrtLaunchKernelWithConfig(
                    function,
                    launch.blocks,
                    stream.stream,
                    ptr::null_mut(),
                    arguments.0,
                    ptr::null_mut(),
                )
            };
            return self.api.done("aclrtLaunchKernelWithConfig", code);
        }
        let mut pointers = [self.device_input.at, self.device_output.at];
        let mut attributes = [
            aclrtLaunchAttribute { id: ACL_LAUNCH_ENGINE, value: aclrtLaunchValue { words: [0; 4] } },
            aclrtLaunchAttribute { id: ACL_LAUNCH_TIMEOUT_S, value: aclrtLaunchValue { words: [0; 4] } },
        ];
        attributes[0].value.engine = ACL_ENGINE_VECTOR;
        attributes[1].value.timeout_s = self.timeout_s;
        let mut config = aclrtLaunchConfig { attributes: attributes.as_mut_ptr(), count: attributes.len() };
        // SAFETY: function and stream live; the call reads configuration and arguments before it returns.
        let code = unsafe {
            self.api.acl.aclrtLaunchKernelWithHostArgs(
                function,
                launch.blocks,
                stream.stream,
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

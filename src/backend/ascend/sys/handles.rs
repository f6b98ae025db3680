//! Handles of the runtime's objects: each is created by one call and destroyed by another when it is dropped.

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use super::super::result::CallError;
use super::api::Api;
use super::bindings::{
    ACL_HUGE_PAGES_FIRST, aclrtBinHandle, aclrtContext, aclrtEvent, aclrtFuncHandle, aclrtStream,
};

/// A device that this process has set; dropping it resets the device.
pub(crate) struct Device {
    api: Arc<Api>,
    device: i32,
}

impl Device {
    pub(crate) fn set(api: &Arc<Api>, device: u32) -> Result<Self, CallError> {
        let device = device as i32;
        // SAFETY: the runtime checks the number.
        api.done("aclrtSetDevice", unsafe { api.acl.aclrtSetDevice(device) })?;
        Ok(Self { api: Arc::clone(api), device })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: set once, reset once.
        self.api.destroy("aclrtResetDevice", || unsafe { self.api.acl.aclrtResetDevice(self.device) });
    }
}

/// A context, current on the thread that made it. Every handle below belongs to a context and is used on its
/// thread only.
pub(crate) struct Context {
    device: Device,
    context: aclrtContext,
}

impl Context {
    pub(crate) fn create(device: Device) -> Result<Self, CallError> {
        let (api, mut context) = (&device.api, ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateContext", unsafe { api.acl.aclrtCreateContext(&mut context, device.device) })?;
        let context = Self { context, device };
        let api = context.api();
        // SAFETY: the context was just made.
        api.done("aclrtSetCurrentContext", unsafe { api.acl.aclrtSetCurrentContext(context.context) })?;
        Ok(context)
    }

    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.device.api
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let api = self.api();
        // SAFETY: made once, destroyed once; the owner drops the context last.
        api.destroy("aclrtDestroyContext", || unsafe { api.acl.aclrtDestroyContext(self.context) });
    }
}

/// A stream: copies and launches that run one after the other.
pub(crate) struct Stream {
    api: Arc<Api>,
    pub(super) stream: aclrtStream,
    closed: bool,
}

impl Stream {
    pub(crate) fn create(context: &Context) -> Result<Self, CallError> {
        let (api, mut stream) = (context.api(), ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateStream", unsafe { api.acl.aclrtCreateStream(&mut stream) })?;
        Ok(Self { api: Arc::clone(api), stream, closed: false })
    }

    /// Waits for all that was enqueued so far.
    pub(crate) fn synchronize(&self, timeout_ms: i32) -> Result<(), CallError> {
        // SAFETY: the stream lives.
        let code = unsafe { self.api.acl.aclrtSynchronizeStreamWithTimeout(self.stream, timeout_ms) };
        self.api.done("aclrtSynchronizeStreamWithTimeout", code)
    }

    /// Destroys the stream and stops what runs on it. False where the runtime refused: buffers in flight must
    /// then stay allocated.
    pub(crate) fn close(mut self) -> bool {
        self.destroy()
    }

    fn destroy(&mut self) -> bool {
        if !self.closed {
            // SAFETY: made once, and not destroyed yet.
            let destroy = || unsafe { self.api.acl.aclrtDestroyStream(self.stream) };
            self.closed = self.api.destroy("aclrtDestroyStream", destroy);
        }
        self.closed
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// A mark in a stream, from which the device takes the time.
pub(super) struct Event {
    api: Arc<Api>,
    pub(super) event: aclrtEvent,
}

impl Event {
    pub(super) fn create(api: &Arc<Api>) -> Result<Self, CallError> {
        let mut event = ptr::null_mut();
        // SAFETY: a place to write to.
        api.done("aclrtCreateEvent", unsafe { api.acl.aclrtCreateEvent(&mut event) })?;
        Ok(Self { api: Arc::clone(api), event })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<(), CallError> {
        // SAFETY: both live.
        self.api.done("aclrtRecordEvent", unsafe { self.api.acl.aclrtRecordEvent(self.event, stream.stream) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        self.api.destroy("aclrtDestroyEvent", || unsafe { self.api.acl.aclrtDestroyEvent(self.event) });
    }
}

/// Memory on the device.
pub(super) struct DeviceMemory {
    api: Arc<Api>,
    pub(super) at: *mut c_void,
    pub(super) bytes: usize,
}

impl DeviceMemory {
    pub(super) fn new(api: &Arc<Api>, bytes: usize) -> Result<Self, CallError> {
        let mut at = ptr::null_mut();
        // SAFETY: a place to write to.
        api.done("aclrtMalloc", unsafe { api.acl.aclrtMalloc(&mut at, bytes, ACL_HUGE_PAGES_FIRST) })?;
        Ok(Self { api: Arc::clone(api), at, bytes })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: handed out once, freed once.
        self.api.destroy("aclrtFree", || unsafe { self.api.acl.aclrtFree(self.at) });
    }
}

/// Pinned memory of the host, which the device reads and writes directly.
pub(super) struct PinnedMemory {
    api: Arc<Api>,
    pub(super) at: *mut u8,
    pub(super) bytes: usize,
}

impl PinnedMemory {
    pub(super) fn new(api: &Arc<Api>, bytes: usize) -> Result<Self, CallError> {
        let mut at = ptr::null_mut();
        // SAFETY: a place to write to.
        api.done("aclrtMallocHost", unsafe { api.acl.aclrtMallocHost(&mut at, bytes) })?;
        let at = at.cast::<u8>();
        // SAFETY: the runtime handed out `bytes` writable bytes; this initialises them.
        unsafe { at.write_bytes(0, bytes) };
        Ok(Self { api: Arc::clone(api), at, bytes })
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: handed out once, freed once.
        self.api.destroy("aclrtFreeHost", || unsafe { self.api.acl.aclrtFreeHost(self.at.cast()) });
    }
}

/// A loaded kernel file.
pub(crate) struct Binary {
    api: Arc<Api>,
    binary: aclrtBinHandle,
}

impl Binary {
    /// Loads a file by its absolute path.
    pub(crate) fn load(context: &Context, path: &Path) -> Result<Self, CallError> {
        let api = context.api();
        let invalid = |_| CallError {
            call: "aclrtBinaryLoadFromFile",
            code: 0,
            message: format!("{}: a zero byte in the path", path.display()),
        };
        let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(invalid)?;
        let mut binary = ptr::null_mut();
        // SAFETY: a string that ends in zero, no options, a place to write to.
        let code = unsafe { api.acl.aclrtBinaryLoadFromFile(path.as_ptr(), ptr::null_mut(), &mut binary) };
        api.done("aclrtBinaryLoadFromFile", code)?;
        Ok(Self { api: Arc::clone(api), binary })
    }

    /// The entry of this name.
    pub(crate) fn function(&self, name: &CStr) -> Result<Function, CallError> {
        let mut function = ptr::null_mut();
        // SAFETY: the binary lives; a string that ends in zero, a place to write to.
        let code = unsafe { self.api.acl.aclrtBinaryGetFunction(self.binary, name.as_ptr(), &mut function) };
        self.api.done("aclrtBinaryGetFunction", code)?;
        Ok(Function(function))
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // SAFETY: loaded once, unloaded once.
        self.api.destroy("aclrtBinaryUnLoad", || unsafe { self.api.acl.aclrtBinaryUnLoad(self.binary) });
    }
}

/// An entry of a kernel file. It is valid as long as its [`Binary`].
#[derive(Clone, Copy)]
pub(crate) struct Function(pub(super) aclrtFuncHandle);

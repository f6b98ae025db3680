//! Handles of the runtime's objects: each is created by one call and destroyed by another when it is dropped.

use std::ffi::{CStr, CString, c_void};
use std::mem;
use std::ptr;
use std::sync::{Arc, Mutex};

use super::super::object::KernelFile;
use super::super::result::CallError;
use super::api::Api;
use super::bindings::{
    ACL_HUGE_PAGES_FIRST, aclrtBinHandle, aclrtContext, aclrtEvent, aclrtFuncHandle, aclrtStream,
};
use super::lock;

/// The first error of a destruction that nobody has seen yet: what is dropped cannot return it.
#[derive(Debug, Default)]
pub(crate) struct Deferred(Mutex<Option<CallError>>);

impl Deferred {
    /// The error, once.
    pub(crate) fn take(&self) -> Result<(), CallError> {
        lock(&self.0).take().map_or(Ok(()), Err)
    }
}

/// A device that this process has set; dropping it resets the device.
pub(crate) struct Device {
    api: Arc<Api>,
    device: i32,
    deferred: Arc<Deferred>,
}

impl Device {
    /// Sets a device. Errors of destructions, its own and those of everything on it, go to `deferred`.
    pub(crate) fn set(api: &Arc<Api>, device: u32, deferred: &Arc<Deferred>) -> Result<Self, CallError> {
        let device = device as i32;
        // SAFETY: the runtime checks the number.
        api.done("aclrtSetDevice", unsafe { api.acl.aclrtSetDevice(device) })?;
        Ok(Self { api: Arc::clone(api), device, deferred: Arc::clone(deferred) })
    }

    /// Destroys an object. A failed call is repeated once, because what it leaves stays until its context is
    /// destroyed.
    fn destroy(&self, call: &'static str, destroy: impl Fn() -> i32) -> bool {
        let code = destroy();
        if code == 0 {
            return true;
        }
        let error = self.api.error(call, code);
        lock(&self.deferred.0).get_or_insert(error);
        destroy() == 0
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: set once, reset once.
        self.destroy("aclrtResetDevice", || unsafe { self.api.acl.aclrtResetDevice(self.device) });
    }
}

/// A context, current on the thread that made it. Every handle below keeps its context, which is destroyed
/// after the last of them.
pub(crate) struct Context {
    device: Device,
    context: aclrtContext,
}

// SAFETY: the handle is only ever passed to the runtime, which takes it on every thread.
unsafe impl Send for Context {}
// SAFETY: as above; a shared context lends out its runtime and nothing else.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn create(device: Device) -> Result<Arc<Self>, CallError> {
        let (api, mut context) = (&device.api, ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateContext", unsafe { api.acl.aclrtCreateContext(&mut context, device.device) })?;
        let context = Self { context, device };
        let api = context.api();
        // SAFETY: the context was just made.
        api.done("aclrtSetCurrentContext", unsafe { api.acl.aclrtSetCurrentContext(context.context) })?;
        Ok(Arc::new(context))
    }

    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.device.api
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let api = self.api();
        // SAFETY: made once, destroyed once; every object in it has kept it.
        self.device.destroy("aclrtDestroyContext", || unsafe { api.acl.aclrtDestroyContext(self.context) });
    }
}

/// A stream: copies and launches that run one after the other.
pub(super) struct Stream {
    context: Arc<Context>,
    pub(super) stream: aclrtStream,
    /// Whether the runtime has destroyed it; none before it was asked to.
    closed: Option<bool>,
}

impl Stream {
    pub(super) fn create(context: &Arc<Context>) -> Result<Self, CallError> {
        let (api, mut stream) = (context.api(), ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateStream", unsafe { api.acl.aclrtCreateStream(&mut stream) })?;
        Ok(Self { context: Arc::clone(context), stream, closed: None })
    }

    /// Waits for all that was enqueued so far.
    pub(super) fn synchronize(&self, timeout_ms: i32) -> Result<(), CallError> {
        let api = self.context.api();
        // SAFETY: the stream lives.
        let code = unsafe { api.acl.aclrtSynchronizeStreamWithTimeout(self.stream, timeout_ms) };
        api.done("aclrtSynchronizeStreamWithTimeout", code)
    }

    /// Destroys the stream. The call waits for what was enqueued, so on a device that hangs it may never
    /// return. False where the runtime refused: what is in flight may still be read and written.
    pub(super) fn close(&mut self) -> bool {
        let api = self.context.api();
        // SAFETY: made once, and not destroyed yet.
        let destroy = || unsafe { api.acl.aclrtDestroyStream(self.stream) };
        *self.closed.get_or_insert_with(|| self.context.device.destroy("aclrtDestroyStream", destroy))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

/// A mark in a stream, from which the device takes the time.
pub(super) struct Event {
    context: Arc<Context>,
    /// Null once it is left to the context.
    event: aclrtEvent,
}

impl Event {
    pub(super) fn create(context: &Arc<Context>) -> Result<Self, CallError> {
        let (api, mut event) = (context.api(), ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateEvent", unsafe { api.acl.aclrtCreateEvent(&mut event) })?;
        Ok(Self { context: Arc::clone(context), event })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<(), CallError> {
        let api = self.context.api();
        // SAFETY: both live.
        api.done("aclrtRecordEvent", unsafe { api.acl.aclrtRecordEvent(self.event, stream.stream) })
    }

    /// Milliseconds from here to another mark of the stream; both have been passed.
    pub(super) fn until(&self, end: &Self) -> Result<f32, CallError> {
        let (api, mut ms) = (self.context.api(), 0.0);
        // SAFETY: both live; a place to write to.
        let code = unsafe { api.acl.aclrtEventElapsedTime(&mut ms, self.event, end.event) };
        api.done("aclrtEventElapsedTime", code).map(|()| ms)
    }

    /// Does not destroy it: the stream may still use it.
    pub(super) fn leave(mut self) {
        self.event = ptr::null_mut();
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.event.is_null() {
            return;
        }
        let api = self.context.api();
        // SAFETY: made once, destroyed once.
        self.context.device.destroy("aclrtDestroyEvent", || unsafe { api.acl.aclrtDestroyEvent(self.event) });
    }
}

/// Memory on the device.
pub(super) struct DeviceMemory {
    context: Arc<Context>,
    /// Null once it is left to the context.
    pub(super) at: *mut c_void,
    pub(super) bytes: usize,
}

impl DeviceMemory {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CallError> {
        let (api, mut at) = (context.api(), ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtMalloc", unsafe { api.acl.aclrtMalloc(&mut at, bytes, ACL_HUGE_PAGES_FIRST) })?;
        if at.is_null() {
            return Err(api.error("aclrtMalloc", 0));
        }
        Ok(Self { context: Arc::clone(context), at, bytes })
    }

    /// Does not free it: the stream may still use it.
    pub(super) fn leave(mut self) {
        self.at = ptr::null_mut();
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.at.is_null() {
            return;
        }
        let api = self.context.api();
        // SAFETY: handed out once, freed once.
        self.context.device.destroy("aclrtFree", || unsafe { api.acl.aclrtFree(self.at) });
    }
}

/// Pinned memory of the host, which the device reads and writes directly.
pub(super) struct PinnedMemory {
    context: Arc<Context>,
    /// Null once it is leaked.
    pub(super) at: *mut u8,
    pub(super) bytes: usize,
}

// SAFETY:
// - this is the only owner of the memory, which any thread may read and write;
// - the memory lives as long as this does, for it keeps its context;
// - freeing it on another thread is safe: where the runtime wants a context for that, it returns an error and
//   the memory stays.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CallError> {
        let (api, mut at) = (context.api(), ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtMallocHost", unsafe { api.acl.aclrtMallocHost(&mut at, bytes) })?;
        let at = at.cast::<u8>();
        if at.is_null() {
            return Err(api.error("aclrtMallocHost", 0));
        }
        // SAFETY: the runtime handed out `bytes` writable bytes; this initialises them.
        unsafe { at.write_bytes(0, bytes) };
        Ok(Self { context: Arc::clone(context), at, bytes })
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY:
        // - the runtime handed out as many bytes, and `new` initialised them;
        // - nothing else points there: a copy is enqueued only from memory that a lane owns, and a lane lends
        //   nothing out.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }

    /// Never frees it: the device may still read and write it.
    pub(super) fn leak(mut self) {
        self.at = ptr::null_mut();
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.at.is_null() {
            return;
        }
        let api = self.context.api();
        // SAFETY: handed out once, freed once.
        self.context.device.destroy("aclrtFreeHost", || unsafe { api.acl.aclrtFreeHost(self.at.cast()) });
    }
}

/// A loaded kernel file and its entries.
pub(crate) struct Binary {
    context: Arc<Context>,
    /// Null once it is left to the context.
    binary: aclrtBinHandle,
    /// Valid as long as the file is loaded.
    functions: Vec<aclrtFuncHandle>,
    /// What the runtime may still read, where it was given bytes.
    content: Option<KernelFile>,
}

impl Binary {
    /// Loads the content of a kernel file and finds its entries; with it the reason why it went through a
    /// copy on disk, if it did.
    ///
    /// A path could name another file by the time the runtime opens it, also one in `/proc/self/fd`, which
    /// the runtime resolves. So it gets the bytes that were read where it takes bytes, and else the path of a
    /// copy that nobody else can write. The call with bytes is younger, and some versions document it for
    /// other kernels only: where it fails or finds no entry, the copy is tried as well.
    pub(crate) fn load(
        context: &Arc<Context>,
        content: KernelFile,
        entries: &[&CStr],
    ) -> Result<(Self, Option<CallError>), CallError> {
        let api = context.api();
        let mut refused = None;
        if api.acl.aclrtBinaryLoadFromData.is_ok() {
            match Self::from_data(context, &content, entries) {
                Ok(mut binary) => {
                    binary.content = Some(content);
                    return Ok((binary, None));
                }
                Err(error) if api.acl.aclrtBinaryLoadFromFile.is_err() => return Err(error),
                Err(error) => refused = Some(error),
            }
        }
        match Self::from_copy(context, &content, entries) {
            Ok(binary) => Ok((binary, refused)),
            Err(mut error) => {
                if let Some(refused) = refused {
                    error.message.push_str(&format!("; before that {refused}"));
                }
                Err(error)
            }
        }
    }

    fn from_data(context: &Arc<Context>, content: &KernelFile, entries: &[&CStr]) -> Result<Self, CallError> {
        let (api, mut binary) = (context.api(), ptr::null_mut());
        let (at, bytes) = (content.bytes().as_ptr().cast(), content.bytes().len());
        // SAFETY: as many readable bytes, which live as long as the handle: the caller keeps them with it, or
        // has none; no options; a place to write to.
        let code = unsafe { api.acl.aclrtBinaryLoadFromData(at, bytes, ptr::null(), &mut binary) };
        api.done("aclrtBinaryLoadFromData", code)?;
        Self::with_entries(context, binary, entries)
    }

    fn from_copy(context: &Arc<Context>, content: &KernelFile, entries: &[&CStr]) -> Result<Self, CallError> {
        let (api, mut binary) = (context.api(), ptr::null_mut());
        let failed = |message: String| CallError { call: "aclrtBinaryLoadFromFile", code: 0, message };
        let copy = content.copy().map_err(|error| failed(format!("no copy of the kernel: {error}")))?;
        let path = CString::new(copy.path().as_os_str().as_encoded_bytes())
            .map_err(|_| failed(format!("{}: a zero byte in the path", copy.path().display())))?;
        // SAFETY: a string that ends in zero, no options, a place to write to.
        let code = unsafe { api.acl.aclrtBinaryLoadFromFile(path.as_ptr(), ptr::null_mut(), &mut binary) };
        api.done("aclrtBinaryLoadFromFile", code)?;
        // The runtime has read the file once it knows the entries; the copy goes here.
        Self::with_entries(context, binary, entries)
    }

    /// The entries of a file that was just loaded. Where one is missing, the file is unloaded.
    fn with_entries(
        context: &Arc<Context>,
        binary: aclrtBinHandle,
        entries: &[&CStr],
    ) -> Result<Self, CallError> {
        let mut made = Self { context: Arc::clone(context), binary, functions: Vec::new(), content: None };
        let api = context.api();
        for name in entries {
            let mut function = ptr::null_mut();
            // SAFETY: the binary lives; a string that ends in zero, a place to write to.
            let code = unsafe { api.acl.aclrtBinaryGetFunction(binary, name.as_ptr(), &mut function) };
            api.done("aclrtBinaryGetFunction", code)?;
            made.functions.push(function);
        }
        Ok(made)
    }

    /// The entries, in the order in which they were asked for.
    pub(super) fn functions(&self) -> &[aclrtFuncHandle] {
        &self.functions
    }

    /// Does not unload it: its kernels may still run.
    pub(super) fn leave(mut self) {
        self.binary = ptr::null_mut();
        mem::forget(self.content.take());
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        if self.binary.is_null() {
            return;
        }
        let api = self.context.api();
        // SAFETY: loaded once, unloaded once.
        self.context
            .device
            .destroy("aclrtBinaryUnLoad", || unsafe { api.acl.aclrtBinaryUnLoad(self.binary) });
    }
}

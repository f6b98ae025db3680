//! The runtime's calls behind handles that can neither be forged nor used twice: all unsafe code of this
//! backend.
//!
//! A handle is made by the call that creates the object and consumed by the call that destroys it. Memory is
//! reached through a [`Lane`], which knows whether the device may be writing it. What the runtime itself
//! checks (a foreign context, a bad length) is its error value.

use std::ffi::{CStr, CString, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::kernel;
use super::result::{CallError, LoadError};

#[rustfmt::skip]
#[expect(
    dead_code,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    reason = "made by bindgen"
)]
mod bindings {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/ffi/acl/bindings.rs"));
}

use bindings::{
    ACL_DEVICE_TO_HOST, ACL_ENGINE_VECTOR, ACL_HOST_TO_DEVICE, ACL_HUGE_PAGES_FIRST, ACL_INITIALISED_TWICE,
    ACL_INVALID_PARAM, ACL_LAUNCH_ENGINE, ACL_LAUNCH_TIMEOUT_S, ACL_UNIFIED_BUFFER_BYTES, ACL_VECTOR_CORES,
    Acl, aclrtArgsHandle, aclrtBinHandle, aclrtContext, aclrtEvent, aclrtFuncHandle, aclrtLaunchAttribute,
    aclrtLaunchConfig, aclrtLaunchValue, aclrtStream,
};

/// Locks, whoever panicked while holding it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loaded and initialised runtime.
pub(super) struct Api {
    /// Never unloaded: threads of the runtime may outlive its last call.
    acl: ManuallyDrop<Acl>,
    path: PathBuf,
    version: String,
    /// Whether it was this crate that initialised it, and must finalise it.
    own: bool,
    /// Whether it stands in [`LOADED`].
    listed: bool,
    /// The first error of a destruction since the last call that could report one.
    deferred: Mutex<Option<CallError>>,
}

/// A runtime of this process: known until it is finalised, and kept open until [`finalize`].
struct Loaded {
    path: PathBuf,
    api: Weak<Api>,
    kept: Option<Arc<Api>>,
}

/// Initialisation is the process's in the runtime itself, so it cannot be anybody's own here.
static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// Lets go of every runtime; each is finalised once its last device is closed.
pub(super) fn finalize() {
    let gone: Vec<_> = lock(&LOADED).iter_mut().filter_map(|loaded| loaded.kept.take()).collect();
    drop(gone);
}

/// The files to try, in order.
fn candidates(asked: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = asked {
        return vec![path.to_owned()];
    }
    let mut list = Vec::new();
    for home in ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"] {
        if let Some(home) = kernel::environment(home) {
            let folder = home.join("lib64");
            list.extend(["libacl_rt.so", "libascendcl.so"].map(|name| folder.join(name)));
        }
    }
    list.extend(["libacl_rt.so", "libascendcl.so"].map(PathBuf::from));
    list
}

impl Api {
    /// The runtime of this path, or the first that opens.
    ///
    /// # Errors
    /// [`LoadError`]: no library, a missing symbol, another version, or an initialisation that failed.
    pub(super) fn load(asked: Option<&Path>) -> Result<Arc<Self>, LoadError> {
        let mut tried = String::new();
        for path in candidates(asked) {
            let mut loaded = loop {
                let mut loaded = lock(&LOADED);
                match loaded.iter_mut().find(|loaded| loaded.path == path) {
                    None => break loaded,
                    Some(found) => {
                        if let Some(api) = found.api.upgrade() {
                            found.kept = Some(Arc::clone(&api));
                            return Ok(api);
                        }
                    }
                }
                // Its last user is about to finalise it.
                drop(loaded);
                std::thread::sleep(std::time::Duration::from_millis(1));
            };
            // SAFETY: loading runs the library's initialisers; the path is the operator's or the toolkit's
            // own.
            match unsafe { Acl::new(&path) } {
                Ok(acl) => {
                    let api = Arc::new(Self::check(acl, path.clone())?);
                    loaded.push(Loaded { path, api: Arc::downgrade(&api), kept: Some(Arc::clone(&api)) });
                    return Ok(api);
                }
                Err(error) => {
                    if !tried.is_empty() {
                        tried.push_str("; ");
                    }
                    // The loader's own words stand in the source.
                    let cause =
                        std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                    tried.push_str(&format!("{}: {cause}", path.display()));
                }
            }
        }
        Err(LoadError::NoLibrary { tried })
    }

    fn check(acl: Acl, path: PathBuf) -> Result<Self, LoadError> {
        let library = path.display().to_string();
        macro_rules! missing {
            ($($call:ident)*) => {
                None$(.or_else(|| acl.$call.is_err().then_some(stringify!($call))))*
            };
        }
        let base: Option<&'static str> = missing!(
            aclInit aclFinalize aclrtGetVersion aclGetRecentErrMsg aclrtGetSocName aclrtGetDeviceCount aclrtSetDevice aclrtResetDevice
            aclrtCreateContext aclrtSetCurrentContext aclrtDestroyContext aclrtCreateStream aclrtDestroyStream
            aclrtSynchronizeStreamWithTimeout aclrtCreateEvent aclrtRecordEvent aclrtEventElapsedTime aclrtDestroyEvent aclrtMalloc
            aclrtFree aclrtMallocHost aclrtFreeHost aclrtMemcpyAsync
        );
        if let Some(symbol) = base {
            return Err(LoadError::Symbol { library, symbol });
        }
        let mut version = [0i32; 3];
        let [major, minor, patch] = &mut version;
        // SAFETY: three places to write to; the call needs no initialisation.
        let code = unsafe { acl.aclrtGetVersion(major, minor, patch) };
        if code != 0 {
            return Err(CallError { call: "aclrtGetVersion", code, message: String::new() }.into());
        }
        let found = version.map(|part| part.to_string()).join(".");
        if version[0] != 1 {
            return Err(LoadError::Version { library, found });
        }
        let from_file: Option<&'static str> =
            missing!(aclrtBinaryLoadFromFile aclrtBinaryGetFunction aclrtBinaryUnLoad);
        let by_handle: Option<&'static str> = missing!(aclrtKernelArgsInit aclrtKernelArgsAppend aclrtKernelArgsFinalize aclrtLaunchKernelWithConfig);
        let launch = by_handle.filter(|_| acl.aclrtLaunchKernelWithHostArgs.is_err());
        if let Some(symbol) = from_file.or(launch) {
            return Err(LoadError::TooOld { library, found, symbol });
        }
        // SAFETY: no configuration file.
        let code = unsafe { acl.aclInit(ptr::null()) };
        let acl = ManuallyDrop::new(acl);
        let mut api =
            Self { acl, path, version: found, own: code == 0, listed: false, deferred: Mutex::new(None) };
        if code != 0 && code != ACL_INITIALISED_TWICE {
            return Err(api.error("aclInit", code).into());
        }
        api.listed = true;
        Ok(api)
    }

    /// Library and version, in words.
    pub(super) fn name(&self) -> String {
        format!("{}, API {}", self.path.display(), self.version)
    }

    fn error(&self, call: &'static str, code: i32) -> CallError {
        // SAFETY: the call takes nothing; what it returns is null or a string that lives until this thread's
        // next call.
        let message = unsafe {
            let text = self.acl.aclGetRecentErrMsg();
            if text.is_null() {
                String::new()
            } else {
                CStr::from_ptr(text).to_string_lossy().trim().to_owned()
            }
        };
        CallError { call, code, message }
    }

    fn done(&self, call: &'static str, code: i32) -> Result<(), CallError> {
        if code == 0 { Ok(()) } else { Err(self.error(call, code)) }
    }

    /// A destruction: tried twice, for what stays is lost until its context goes; the error waits for the
    /// next call that can report it.
    fn destroy(&self, call: &'static str, destroy: impl Fn() -> i32) -> bool {
        let code = destroy();
        if code == 0 {
            return true;
        }
        let error = self.error(call, code);
        lock(&self.deferred).get_or_insert(error);
        destroy() == 0
    }

    /// The error of an earlier destruction, if there was one.
    pub(super) fn deferred(&self) -> Result<(), CallError> {
        lock(&self.deferred).take().map_or(Ok(()), Err)
    }

    pub(super) fn device_count(&self) -> Result<u32, CallError> {
        let mut count = 0;
        // SAFETY: a place to write to.
        self.done("aclrtGetDeviceCount", unsafe { self.acl.aclrtGetDeviceCount(&mut count) })?;
        Ok(count)
    }

    pub(super) fn soc(&self) -> Result<String, CallError> {
        // SAFETY: null or a string of the runtime, which lives as long as that.
        unsafe {
            let name = self.acl.aclrtGetSocName();
            if name.is_null() {
                return Err(self.error("aclrtGetSocName", 0));
            }
            Ok(CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// Vector cores and unified buffer of a device in bytes; none where the runtime cannot tell (before CANN
    /// 8.5).
    pub(super) fn cores(&self, device: u32) -> Result<Option<(i64, i64)>, CallError> {
        if self.acl.aclrtGetDeviceInfo.is_err() {
            return Ok(None);
        }
        let ask = |attribute| {
            let mut value = 0;
            // SAFETY: the symbol is there; a place to write to.
            let code = unsafe { self.acl.aclrtGetDeviceInfo(device, attribute, &mut value) };
            self.done("aclrtGetDeviceInfo", code).map(|()| value)
        };
        Ok(Some((ask(ACL_VECTOR_CORES)?, ask(ACL_UNIFIED_BUFFER_BYTES)?)))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if !self.listed {
            return;
        }
        let mut loaded = lock(&LOADED);
        if self.own {
            // SAFETY: the last user is gone, for every object holds the runtime.
            self.destroy("aclFinalize", || unsafe { self.acl.aclFinalize() });
        }
        loaded.retain(|loaded| loaded.path != self.path);
    }
}

/// A device that this process has set.
pub(super) struct Device {
    api: Arc<Api>,
    device: i32,
}

impl Device {
    pub(super) fn set(api: &Arc<Api>, device: u32) -> Result<Self, CallError> {
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

/// A context, current on the thread that made it. Everything below belongs to one and is used on that thread
/// only.
pub(super) struct Context {
    device: Device,
    context: aclrtContext,
}

impl Context {
    pub(super) fn create(device: Device) -> Result<Self, CallError> {
        let (api, mut context) = (&device.api, ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateContext", unsafe { api.acl.aclrtCreateContext(&mut context, device.device) })?;
        let context = Self { context, device };
        let api = context.api();
        // SAFETY: the context was just made.
        api.done("aclrtSetCurrentContext", unsafe { api.acl.aclrtSetCurrentContext(context.context) })?;
        Ok(context)
    }

    pub(super) fn api(&self) -> &Arc<Api> {
        &self.device.api
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let api = self.api();
        // SAFETY: made once, destroyed once; the owner drops what lives in it first.
        api.destroy("aclrtDestroyContext", || unsafe { api.acl.aclrtDestroyContext(self.context) });
    }
}

/// A stream.
pub(super) struct Stream {
    api: Arc<Api>,
    stream: aclrtStream,
    closed: bool,
}

impl Stream {
    pub(super) fn create(context: &Context) -> Result<Self, CallError> {
        let (api, mut stream) = (context.api(), ptr::null_mut());
        // SAFETY: a place to write to.
        api.done("aclrtCreateStream", unsafe { api.acl.aclrtCreateStream(&mut stream) })?;
        Ok(Self { api: Arc::clone(api), stream, closed: false })
    }

    /// Waits for everything enqueued so far.
    pub(super) fn synchronize(&self, timeout_ms: i32) -> Result<(), CallError> {
        // SAFETY: the stream lives.
        let code = unsafe { self.api.acl.aclrtSynchronizeStreamWithTimeout(self.stream, timeout_ms) };
        self.api.done("aclrtSynchronizeStreamWithTimeout", code)
    }

    /// Destroys the stream and what runs on it; false where the runtime would not, and lanes in flight must
    /// stay where they are.
    pub(super) fn close(mut self) -> bool {
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

struct Event {
    api: Arc<Api>,
    event: aclrtEvent,
}

impl Event {
    fn create(api: &Arc<Api>) -> Result<Self, CallError> {
        let mut event = ptr::null_mut();
        // SAFETY: a place to write to.
        api.done("aclrtCreateEvent", unsafe { api.acl.aclrtCreateEvent(&mut event) })?;
        Ok(Self { api: Arc::clone(api), event })
    }

    fn record(&self, stream: &Stream) -> Result<(), CallError> {
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

/// Memory of the device.
struct DeviceMemory {
    api: Arc<Api>,
    at: *mut c_void,
    bytes: usize,
}

impl DeviceMemory {
    fn new(api: &Arc<Api>, bytes: usize) -> Result<Self, CallError> {
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

/// Memory of the host that the device reads and writes by itself.
struct PinnedMemory {
    api: Arc<Api>,
    at: *mut u8,
    bytes: usize,
}

impl PinnedMemory {
    fn new(api: &Arc<Api>, bytes: usize) -> Result<Self, CallError> {
        let mut at = ptr::null_mut();
        // SAFETY: a place to write to.
        api.done("aclrtMallocHost", unsafe { api.acl.aclrtMallocHost(&mut at, bytes) })?;
        let at = at.cast::<u8>();
        // SAFETY: the runtime handed out `bytes` writable bytes; as bytes they are initialised from here on.
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
pub(super) struct Binary {
    api: Arc<Api>,
    binary: aclrtBinHandle,
}

impl Binary {
    /// Loads a file by its absolute path.
    pub(super) fn load(context: &Context, path: &Path) -> Result<Self, CallError> {
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

    pub(super) fn function(&self, name: &CStr) -> Result<Function, CallError> {
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

/// An entry of a kernel file; lives as long as that.
#[derive(Clone, Copy)]
pub(super) struct Function(aclrtFuncHandle);

/// Arguments by handle, for runtimes without launches with host arguments; they live as long as the kernel
/// file.
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

/// What one batch needs of a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    pub input_bytes: usize,
    pub output_bytes: usize,
    /// Output bytes that the device must find as the host left them.
    pub head_bytes: usize,
    pub launches: [Launch; 2],
    pub launch_count: usize,
}

/// One entry and how many blocks of it run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Launch {
    /// Index into the functions that the lane was made for.
    pub function: usize,
    pub blocks: u32,
}

/// Memory for one batch on both sides. While it is in flight the host reaches none of it.
pub(super) struct Lane {
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

// SAFETY: the host memory belongs to the lane alone and any thread may write it; calls are made on the thread
// of the context only, for the owner hands a lane to other threads behind a lock and drops it on its own.
unsafe impl Send for Lane {}

impl Lane {
    pub(super) fn new(
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
    pub(super) fn bytes(&mut self) -> (&mut [u8], &mut [u8]) {
        if self.in_flight {
            return (&mut [], &mut []);
        }
        // SAFETY: both were handed out with these lengths and initialised, belong to this lane, do not
        // overlap, and no copy is under way.
        unsafe {
            (
                std::slice::from_raw_parts_mut(self.input.at, self.input.bytes),
                std::slice::from_raw_parts_mut(self.output.at, self.output.bytes),
            )
        }
    }

    /// Enqueues copies, launches and the copy back. The device finds the first `head_bytes` of the output as
    /// the host left them. In flight from here until [`Lane::landed`], also after an error: a part may have
    /// been enqueued.
    pub(super) fn fly(&mut self, stream: &Stream, flight: &Flight) -> Result<(), CallError> {
        self.in_flight = true;
        self.start.record(stream)?;
        let (input, device_input) = (self.input.at.cast(), self.device_input.at);
        let (output, device_output) = (self.output.at.cast(), self.device_output.at);
        self.copy(
            stream,
            (device_input, self.device_input.bytes),
            (input, self.input.bytes),
            flight.input_bytes,
            true,
        )?;
        self.copy(
            stream,
            (device_output, self.device_output.bytes),
            (output, self.output.bytes),
            flight.head_bytes,
            true,
        )?;
        for launch in &flight.launches[..flight.launch_count] {
            self.launch(stream, launch)?;
        }
        self.copy(
            stream,
            (output, self.output.bytes),
            (device_output, self.device_output.bytes),
            flight.output_bytes,
            false,
        )?;
        self.end.record(stream)
    }

    /// Leaves its memory to the runtime, which may still write it.
    pub(super) fn strand(self) {
        if self.in_flight {
            std::mem::forget(self);
        }
    }

    /// Says that the stream was synchronised; returns what it took on the device, if the runtime knows, in
    /// milliseconds.
    pub(super) fn landed(&mut self) -> Option<f32> {
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
        // SAFETY: both sides are the lane's, hold as many bytes, and live until the stream is synchronised or
        // destroyed.
        let code = unsafe { self.api.acl.aclrtMemcpyAsync(to, to_bytes, from, bytes, kind, stream.stream) };
        self.api.done("aclrtMemcpyAsync", code)
    }

    fn launch(&self, stream: &Stream, launch: &Launch) -> Result<(), CallError> {
        let function = self.functions[launch.function].0;
        if let Some(arguments) = self.arguments.get(launch.function) {
            // SAFETY: function, stream and arguments live; the arguments are this function's, no attributes,
            // nothing reserved.
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
        // SAFETY: function and stream live; configuration and arguments are read before the call returns.
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

//! The runtime's library: found, loaded, checked, initialised, and finalised once nobody uses it.
//!
//! Which symbols must be there, and what happens without the others:
//!
//! | symbols | without them |
//! |---|---|
//! | process, device, context, stream, events, memory, but for what follows | [`LoadError::Symbol`] |
//! | `aclrtBinaryGetFunction`, `aclrtBinaryUnLoad` | [`LoadError::TooOld`] |
//! | `aclrtBinaryLoadFromData` or `...FromFile` | the other, else [`LoadError::TooOld`] |
//! | `aclrtLaunchKernelWithHostArgs` or `...WithConfig` and `aclrtKernelArgs*` | likewise |
//! | `aclrtGetVersion`, which the vendor marks as deprecated | the version is unknown |
//! | `aclrtGetDeviceInfo` | cores and memory are those of the chip's name |
//! | `aclrtGetDeviceSatMode` | nothing is said of overflow, on which no answer depends |
//! | `aclGetRecentErrMsg` | errors have a number and no words |
//!
//! The runtime initialises the whole process, so one list holds every runtime of it. Loading, initialising
//! and finalising may hang and happen outside the list's lock: who needs the same library waits, for a while,
//! and nobody else does.
//!
//! Two paths may lead to one runtime: a link, or the library's old name beside its new one. The second finds
//! it initialised, and cannot tell by whom. So a runtime that somebody else initialised holds those that this
//! crate did: they are finalised after it.

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::kernel;
use super::super::result::{CallError, LoadError};
use super::bindings::{
    ACL_INITIALISED_TWICE, ACL_NOT_INITIALISED, ACL_OVERFLOW_SATURATES, ACL_OVERFLOW_TO_INFINITY,
    ACL_UNIFIED_BUFFER_BYTES, ACL_VECTOR_CORES, Acl,
};
use super::lock;

/// A loaded and initialised runtime.
pub(crate) struct Api {
    /// Never unloaded: threads of the runtime may run on after its last call.
    pub(super) acl: ManuallyDrop<Acl>,
    path: PathBuf,
    /// None where the runtime cannot tell.
    version: Option<String>,
    /// Whether this crate initialised the runtime, and so must finalise it.
    own: bool,
    /// Whether it is in [`LOADED`].
    listed: bool,
    /// Whether somebody else has finalised it.
    lost: AtomicBool,
    /// Where somebody else initialised it: the runtimes of this crate that may be the same one.
    initialisers: Mutex<Vec<Arc<Api>>>,
}

/// A runtime of this process.
struct Entry {
    path: PathBuf,
    stage: Stage,
}

/// How far a runtime is.
enum Stage {
    /// A thread loads and initialises it. `keep`: [`finalize`] has not been called meanwhile.
    Opening { keep: bool },
    /// It is there until the last user drops it, and then until it is finalised. `kept` is a user: it goes
    /// with [`finalize`].
    Open { api: Weak<Api>, kept: Option<Arc<Api>> },
}

/// All runtimes of this process.
static LOADED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
/// Told of each change of [`LOADED`] that somebody may wait for.
static CHANGED: Condvar = Condvar::new();

/// The process that loads runtimes; zero before the first.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Whether this process was forked from one that had loaded a runtime. Neither the runtime nor the list is
/// of any use here: the threads that might hold their locks are not there.
fn forked() -> bool {
    let own = std::process::id();
    PROCESS.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed).is_err_and(|first| first != own)
}

/// Releases every runtime; each is finalised when its last device is closed, or here where none is open.
/// Those of a parent process are the parent's.
pub(crate) fn finalize() {
    if forked() {
        return;
    }
    let mut gone = Vec::new();
    for entry in lock(&LOADED).iter_mut() {
        match &mut entry.stage {
            Stage::Opening { keep } => *keep = false,
            Stage::Open { kept, .. } => gone.extend(kept.take()),
        }
    }
    // The list is free while these are finalised.
    drop(gone);
}

/// The right of one thread to load and initialise a library. Others that want it wait until this is dropped.
struct Claim(PathBuf);

/// A library that is there, or the right to load it.
enum Found {
    Open(Arc<Api>),
    Claimed(Claim),
}

impl Claim {
    /// Finds a library in the list, or enters it.
    fn find(path: &Path, patience: Duration) -> Result<Found, CallError> {
        let begin = Instant::now();
        let mut loaded = lock(&LOADED);
        loop {
            let Some(entry) = loaded.iter_mut().find(|entry| entry.path == path) else {
                loaded.push(Entry { path: path.to_owned(), stage: Stage::Opening { keep: true } });
                return Ok(Found::Claimed(Self(path.to_owned())));
            };
            if let Stage::Open { api, kept } = &mut entry.stage
                && let Some(api) = api.upgrade()
            {
                *kept = Some(Arc::clone(&api));
                return Ok(Found::Open(api));
            }
            // Another thread initialises or finalises it.
            let Some(left) = patience.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else {
                let message =
                    format!("{} is still being initialised or finalised by another thread", path.display());
                return Err(CallError { call: "load", code: 0, message });
            };
            loaded = CHANGED.wait_timeout(loaded, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lists the runtime that this thread has initialised.
    fn finish(self, mut api: Api) -> Arc<Api> {
        api.listed = true;
        let api = Arc::new(api);
        let mut loaded = lock(&LOADED);
        let open = |entry: &Entry| match &entry.stage {
            Stage::Open { api, .. } => api.upgrade(),
            Stage::Opening { .. } => None,
        };
        let others: Vec<Arc<Api>> = loaded.iter().filter_map(open).collect();
        // Whichever of two is listed last sees the other.
        for other in &others {
            match (api.own, other.own) {
                (true, false) => lock(&other.initialisers).push(Arc::clone(&api)),
                (false, true) => lock(&api.initialisers).push(Arc::clone(other)),
                _ => {}
            }
        }
        if let Some(entry) = loaded.iter_mut().find(|entry| entry.path == self.0) {
            let keep = matches!(entry.stage, Stage::Opening { keep: true });
            let kept = keep.then(|| Arc::clone(&api));
            entry.stage = Stage::Open { api: Arc::downgrade(&api), kept };
        }
        // The last user of a runtime locks the list.
        drop(loaded);
        drop(others);
        api
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let unfinished = |entry: &Entry| entry.path == self.0 && matches!(entry.stage, Stage::Opening { .. });
        lock(&LOADED).retain(|entry| !unfinished(entry));
        CHANGED.notify_all();
    }
}

/// The files of a runtime to try, in order.
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
    /// The runtime of this path, or the first that opens. Waits `patience` for another thread that
    /// initialises or finalises it.
    ///
    /// # Errors
    /// [`LoadError`]: a forked process, no library, a missing symbol, another version, or an initialisation
    /// that failed.
    pub(crate) fn load(asked: Option<&Path>, patience: Duration) -> Result<Arc<Self>, LoadError> {
        if forked() {
            return Err(LoadError::Forked);
        }
        let mut tried = String::new();
        for path in candidates(asked) {
            let claim = match Claim::find(&path, patience)? {
                Found::Open(api) => return Ok(api),
                Found::Claimed(claim) => claim,
            };
            // SAFETY: loading runs the library's initialisers; the operator or the toolkit named the path.
            match unsafe { Acl::new(&path) } {
                Ok(acl) => return Ok(claim.finish(Self::initialise(acl, path)?)),
                Err(error) => {
                    if !tried.is_empty() {
                        tried.push_str("; ");
                    }
                    // The error's source holds the loader's own words.
                    let cause =
                        std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                    tried.push_str(&format!("{}: {cause}", path.display()));
                }
            }
        }
        Err(LoadError::NoLibrary { tried })
    }

    /// Checks that the calls are there and that the version is known, and initialises the runtime.
    fn initialise(acl: Acl, path: PathBuf) -> Result<Self, LoadError> {
        let library = path.display().to_string();
        macro_rules! missing {
            ($($call:ident)*) => {
                None$(.or_else(|| acl.$call.is_err().then_some(stringify!($call))))*
            };
        }
        let base: Option<&'static str> = missing!(
            aclInit aclFinalize aclrtGetSocName aclrtGetDeviceCount aclrtSetDevice aclrtResetDevice
            aclrtCreateContext aclrtSetCurrentContext aclrtDestroyContext aclrtCreateStream
            aclrtDestroyStream aclrtSynchronizeStreamWithTimeout aclrtCreateEvent aclrtRecordEvent
            aclrtEventElapsedTime aclrtDestroyEvent aclrtMalloc aclrtFree aclrtMallocHost aclrtFreeHost
            aclrtMemcpyAsync
        );
        if let Some(symbol) = base {
            return Err(LoadError::Symbol { library, symbol });
        }
        let mut version = None;
        if acl.aclrtGetVersion.is_ok() {
            let mut parts = [0i32; 3];
            let [major, minor, patch] = &mut parts;
            // SAFETY: the symbol is there; three places to write to; the call needs no initialisation.
            let code = unsafe { acl.aclrtGetVersion(major, minor, patch) };
            if code != 0 {
                return Err(CallError { call: "aclrtGetVersion", code, message: String::new() }.into());
            }
            let found = parts.map(|part| part.to_string()).join(".");
            if parts[0] != 1 {
                return Err(LoadError::Version { library, found });
            }
            version = Some(found);
        }
        let functions: Option<&'static str> = missing!(aclrtBinaryGetFunction aclrtBinaryUnLoad);
        let from_file: Option<&'static str> = missing!(aclrtBinaryLoadFromFile);
        let load = from_file.filter(|_| acl.aclrtBinaryLoadFromData.is_err());
        let by_handle: Option<&'static str> = missing!(
            aclrtKernelArgsInit aclrtKernelArgsAppend aclrtKernelArgsFinalize aclrtLaunchKernelWithConfig
        );
        let launch = by_handle.filter(|_| acl.aclrtLaunchKernelWithHostArgs.is_err());
        if let Some(symbol) = load.or(functions).or(launch) {
            let found = version.unwrap_or_else(|| "unknown".to_owned());
            return Err(LoadError::TooOld { library, found, symbol });
        }
        // SAFETY: no configuration file.
        let code = unsafe { acl.aclInit(ptr::null()) };
        let acl = ManuallyDrop::new(acl);
        let api = Self {
            acl,
            path,
            version,
            own: code == 0,
            listed: false,
            lost: AtomicBool::new(false),
            initialisers: Mutex::default(),
        };
        if code != 0 && code != ACL_INITIALISED_TWICE {
            return Err(api.error("aclInit", code).into());
        }
        Ok(api)
    }

    /// Names the library and its version.
    pub(crate) fn name(&self) -> String {
        match &self.version {
            Some(version) => format!("{}, API {version}", self.path.display()),
            None => format!("{}, version unknown", self.path.display()),
        }
    }

    /// The error of a call that failed, with the runtime's message.
    pub(super) fn error(&self, call: &'static str, code: i32) -> CallError {
        if self.acl.aclGetRecentErrMsg.is_err() {
            return CallError { call, code, message: String::new() };
        }
        // SAFETY: the symbol is there. It takes nothing, and returns null or a string that lives until this
        // thread's next call.
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

    /// The error of a call, unless it returned zero.
    pub(super) fn done(&self, call: &'static str, code: i32) -> Result<(), CallError> {
        if code == 0 { Ok(()) } else { Err(self.error(call, code)) }
    }

    /// How many devices there are. Where somebody else has finalised the runtime, this fails, and whoever
    /// loads it after its last user initialises it anew.
    pub(crate) fn device_count(self: &Arc<Self>) -> Result<u32, CallError> {
        let mut count = 0;
        // SAFETY: a place to write to.
        let code = unsafe { self.acl.aclrtGetDeviceCount(&mut count) };
        if code == ACL_NOT_INITIALISED {
            self.lost.store(true, Ordering::Relaxed);
            let mut loaded = lock(&LOADED);
            let own = loaded.iter_mut().find(|entry| entry.path == self.path);
            if let Some(Entry { stage: Stage::Open { kept, .. }, .. }) = own {
                // Not the last user: that is the caller.
                kept.take_if(|kept| Arc::ptr_eq(kept, self));
            }
        }
        self.done("aclrtGetDeviceCount", code)?;
        Ok(count)
    }

    pub(crate) fn soc(&self) -> Result<String, CallError> {
        // SAFETY: the call returns null, or a string that lives as long as the runtime.
        unsafe {
            let name = self.acl.aclrtGetSocName();
            if name.is_null() {
                return Err(self.error("aclrtGetSocName", 0));
            }
            Ok(CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// Vector cores of a device, and bytes of the unified buffer of each; none where the runtime cannot tell
    /// (before CANN 8.5).
    pub(crate) fn cores(&self, device: u32) -> Result<Option<(i64, i64)>, CallError> {
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

    /// What the device that is set makes of results that are too great, in words; none where the runtime
    /// cannot tell. For who compares two machines: the kernel answers the same in either mode.
    pub(crate) fn overflow(&self) -> Option<String> {
        if self.acl.aclrtGetDeviceSatMode.is_err() {
            return None;
        }
        let mut mode = 0;
        // SAFETY: the symbol is there; a place to write to.
        let code = unsafe { self.acl.aclrtGetDeviceSatMode(&mut mode) };
        Some(match self.done("aclrtGetDeviceSatMode", code) {
            Ok(()) if mode == ACL_OVERFLOW_SATURATES => "overflow saturates".to_owned(),
            Ok(()) if mode == ACL_OVERFLOW_TO_INFINITY => "overflow gives infinity".to_owned(),
            Ok(()) => format!("overflow mode {mode}"),
            Err(error) => format!("overflow mode unknown ({error})"),
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if !self.listed {
            return;
        }
        if self.own && !self.lost.load(Ordering::Relaxed) {
            // Nobody is left to hear of a failure; a failed call is repeated once, as every destruction is.
            // SAFETY: every object holds the runtime, so none of them is left.
            let _ = unsafe { self.acl.aclFinalize() == 0 || self.acl.aclFinalize() == 0 };
        }
        // Whoever wants it again has waited for this, and loads it anew.
        lock(&LOADED).retain(|entry| entry.path != self.path);
        CHANGED.notify_all();
    }
}

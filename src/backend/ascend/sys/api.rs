//! The runtime's library: found, loaded, checked, initialised, and finalised once nobody uses it.

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, Weak};

use super::super::kernel;
use super::super::result::{CallError, LoadError};
use super::bindings::{ACL_INITIALISED_TWICE, ACL_UNIFIED_BUFFER_BYTES, ACL_VECTOR_CORES, Acl};
use super::lock;

/// A loaded and initialised runtime.
pub(crate) struct Api {
    /// Never unloaded: threads of the runtime may run on after its last call.
    pub(super) acl: ManuallyDrop<Acl>,
    path: PathBuf,
    version: String,
    /// Whether this crate initialised the runtime, and so must finalise it.
    own: bool,
    /// Whether it is in [`LOADED`].
    listed: bool,
    /// The first error of a destruction that no call has reported yet.
    deferred: Mutex<Option<CallError>>,
}

/// A runtime of this process. It is listed until it is finalised, and `kept` holds it until [`finalize`].
pub(super) struct Loaded {
    path: PathBuf,
    api: Weak<Api>,
    kept: Option<Arc<Api>>,
}

/// All runtimes of this process. The runtime initialises the whole process, so this list is global too.
static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// Releases every runtime; each is finalised when its last device is closed.
pub(crate) fn finalize() {
    let gone: Vec<_> = lock(&LOADED).iter_mut().filter_map(|loaded| loaded.kept.take()).collect();
    drop(gone);
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
    /// The runtime of this path, or the first that opens.
    ///
    /// # Errors
    /// [`LoadError`]: no library, a missing symbol, another version, or an initialisation that failed.
    pub(crate) fn load(asked: Option<&Path>) -> Result<Arc<Self>, LoadError> {
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
                // Another thread is about to finalise it.
                drop(loaded);
                std::thread::sleep(std::time::Duration::from_millis(1));
            };
            // SAFETY: loading runs the library's initialisers; the operator or the toolkit named the path.
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
    fn check(acl: Acl, path: PathBuf) -> Result<Self, LoadError> {
        let library = path.display().to_string();
        macro_rules! missing {
            ($($call:ident)*) => {
                None$(.or_else(|| acl.$call.is_err().then_some(stringify!($call))))*
            };
        }
        let base: Option<&'static str> = missing!(
            aclInit aclFinalize aclrtGetVersion aclGetRecentErrMsg aclrtGetSocName aclrtGetDeviceCount
            aclrtSetDevice aclrtResetDevice aclrtCreateContext aclrtSetCurrentContext aclrtDestroyContext
            aclrtCreateStream aclrtDestroyStream aclrtSynchronizeStreamWithTimeout aclrtCreateEvent
            aclrtRecordEvent aclrtEventElapsedTime aclrtDestroyEvent aclrtMalloc aclrtFree aclrtMallocHost
            aclrtFreeHost aclrtMemcpyAsync
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
        let by_handle: Option<&'static str> = missing!(
            aclrtKernelArgsInit aclrtKernelArgsAppend aclrtKernelArgsFinalize aclrtLaunchKernelWithConfig
        );
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

    /// Names the library and its version.
    pub(crate) fn name(&self) -> String {
        format!("{}, API {}", self.path.display(), self.version)
    }

    /// The error of a call that failed, with the runtime's message.
    pub(super) fn error(&self, call: &'static str, code: i32) -> CallError {
        // SAFETY: the call takes nothing. It returns null, or a string that lives until this thread's next
        // call.
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

    /// Destroys an object. A failed call is repeated once, because what it leaves stays until its context is
    /// destroyed. The first error is kept for [`Api::deferred`].
    pub(super) fn destroy(&self, call: &'static str, destroy: impl Fn() -> i32) -> bool {
        let code = destroy();
        if code == 0 {
            return true;
        }
        let error = self.error(call, code);
        lock(&self.deferred).get_or_insert(error);
        destroy() == 0
    }

    /// The error of an earlier destruction that nobody has seen yet.
    pub(crate) fn deferred(&self) -> Result<(), CallError> {
        lock(&self.deferred).take().map_or(Ok(()), Err)
    }

    pub(crate) fn device_count(&self) -> Result<u32, CallError> {
        let mut count = 0;
        // SAFETY: a place to write to.
        self.done("aclrtGetDeviceCount", unsafe { self.acl.aclrtGetDeviceCount(&mut count) })?;
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
}

impl Drop for Api {
    fn drop(&mut self) {
        if !self.listed {
            return;
        }
        let mut loaded = lock(&LOADED);
        if self.own {
            // SAFETY: every object holds the runtime, so none of them is left.
            self.destroy("aclFinalize", || unsafe { self.acl.aclFinalize() });
        }
        loaded.retain(|loaded| loaded.path != self.path);
    }
}

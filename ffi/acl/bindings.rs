// Made by bindgen from acl_min.h; tests/device/bindings.rs keeps it so.

pub const ACL_INVALID_PARAM: i32 = 100000;
pub const ACL_NOT_INITIALISED: i32 = 100001;
pub const ACL_INITIALISED_TWICE: i32 = 100002;
pub const ACL_RT_PARAM: i32 = 107000;
pub const ACL_RT_DEVICE_ID: i32 = 107001;
pub const ACL_RT_CONTEXT_NULL: i32 = 107002;
pub const ACL_RT_FILE_OPEN: i32 = 107009;
pub const ACL_RT_MEMORY: i32 = 207001;
pub const ACL_RT_FAILURE: i32 = 500003;
pub const ACL_RT_STREAM_TIMEOUT: i32 = 507046;
pub const ACL_HUGE_PAGES_FIRST: i32 = 0;
pub const ACL_HUGE_PAGES_ONLY: i32 = 1;
pub const ACL_NORMAL_PAGES_ONLY: i32 = 2;
pub const ACL_HOST_TO_HOST: i32 = 0;
pub const ACL_HOST_TO_DEVICE: i32 = 1;
pub const ACL_DEVICE_TO_HOST: i32 = 2;
pub const ACL_DEVICE_TO_DEVICE: i32 = 3;
pub const ACL_VECTOR_CORES: i32 = 201;
pub const ACL_UNIFIED_BUFFER_BYTES: i32 = 204;
pub const ACL_OVERFLOW_SATURATES: i32 = 0;
pub const ACL_OVERFLOW_TO_INFINITY: i32 = 1;
pub const ACL_LAUNCH_ENGINE: i32 = 3;
pub const ACL_LAUNCH_TIMEOUT_S: i32 = 7;
pub const ACL_LAUNCH_TIMEOUT_US: i32 = 8;
pub const ACL_ENGINE_CUBE: i32 = 0;
pub const ACL_ENGINE_VECTOR: i32 = 1;
pub type aclError = i32;
pub type aclrtContext = *mut ::core::ffi::c_void;
pub type aclrtStream = *mut ::core::ffi::c_void;
pub type aclrtEvent = *mut ::core::ffi::c_void;
pub type aclrtBinHandle = *mut ::core::ffi::c_void;
pub type aclrtFuncHandle = *mut ::core::ffi::c_void;
pub type aclrtArgsHandle = *mut ::core::ffi::c_void;
pub type aclrtParamHandle = *mut ::core::ffi::c_void;
#[repr(C)]
#[derive(Copy, Clone)]
pub union aclrtLaunchValue {
    pub engine: i32,
    pub timeout_s: u16,
    pub words: [u32; 4usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aclrtLaunchValue"][::core::mem::size_of::<aclrtLaunchValue>() - 16usize];
    [
        "Alignment of aclrtLaunchValue",
    ][::core::mem::align_of::<aclrtLaunchValue>() - 4usize];
    [
        "Offset of field: aclrtLaunchValue::engine",
    ][::core::mem::offset_of!(aclrtLaunchValue, engine) - 0usize];
    [
        "Offset of field: aclrtLaunchValue::timeout_s",
    ][::core::mem::offset_of!(aclrtLaunchValue, timeout_s) - 0usize];
    [
        "Offset of field: aclrtLaunchValue::words",
    ][::core::mem::offset_of!(aclrtLaunchValue, words) - 0usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aclrtLaunchAttribute {
    pub id: i32,
    pub value: aclrtLaunchValue,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of aclrtLaunchAttribute",
    ][::core::mem::size_of::<aclrtLaunchAttribute>() - 20usize];
    [
        "Alignment of aclrtLaunchAttribute",
    ][::core::mem::align_of::<aclrtLaunchAttribute>() - 4usize];
    [
        "Offset of field: aclrtLaunchAttribute::id",
    ][::core::mem::offset_of!(aclrtLaunchAttribute, id) - 0usize];
    [
        "Offset of field: aclrtLaunchAttribute::value",
    ][::core::mem::offset_of!(aclrtLaunchAttribute, value) - 4usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aclrtLaunchConfig {
    pub attributes: *mut aclrtLaunchAttribute,
    pub count: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aclrtLaunchConfig"][::core::mem::size_of::<aclrtLaunchConfig>() - 16usize];
    [
        "Alignment of aclrtLaunchConfig",
    ][::core::mem::align_of::<aclrtLaunchConfig>() - 8usize];
    [
        "Offset of field: aclrtLaunchConfig::attributes",
    ][::core::mem::offset_of!(aclrtLaunchConfig, attributes) - 0usize];
    [
        "Offset of field: aclrtLaunchConfig::count",
    ][::core::mem::offset_of!(aclrtLaunchConfig, count) - 8usize];
};
pub struct Acl {
    __library: ::libloading::Library,
    pub aclInit: Result<
        unsafe extern "C" fn(config_path: *const ::core::ffi::c_char) -> aclError,
        ::libloading::Error,
    >,
    pub aclFinalize: Result<unsafe extern "C" fn() -> aclError, ::libloading::Error>,
    pub aclrtGetVersion: Result<
        unsafe extern "C" fn(
            major: *mut i32,
            minor: *mut i32,
            patch: *mut i32,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtGetSocName: Result<
        unsafe extern "C" fn() -> *const ::core::ffi::c_char,
        ::libloading::Error,
    >,
    pub aclGetRecentErrMsg: Result<
        unsafe extern "C" fn() -> *const ::core::ffi::c_char,
        ::libloading::Error,
    >,
    pub aclrtGetDeviceCount: Result<
        unsafe extern "C" fn(count: *mut u32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtGetDeviceInfo: Result<
        unsafe extern "C" fn(device: u32, attribute: i32, value: *mut i64) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtGetDeviceSatMode: Result<
        unsafe extern "C" fn(mode: *mut i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSetDevice: Result<
        unsafe extern "C" fn(device: i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtResetDevice: Result<
        unsafe extern "C" fn(device: i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtCreateContext: Result<
        unsafe extern "C" fn(context: *mut aclrtContext, device: i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSetCurrentContext: Result<
        unsafe extern "C" fn(context: aclrtContext) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtDestroyContext: Result<
        unsafe extern "C" fn(context: aclrtContext) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtCreateStream: Result<
        unsafe extern "C" fn(stream: *mut aclrtStream) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtDestroyStream: Result<
        unsafe extern "C" fn(stream: aclrtStream) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSynchronizeStreamWithTimeout: Result<
        unsafe extern "C" fn(stream: aclrtStream, timeout_ms: i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtCreateEvent: Result<
        unsafe extern "C" fn(event: *mut aclrtEvent) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtRecordEvent: Result<
        unsafe extern "C" fn(event: aclrtEvent, stream: aclrtStream) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtEventElapsedTime: Result<
        unsafe extern "C" fn(
            ms: *mut f32,
            start: aclrtEvent,
            end: aclrtEvent,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtDestroyEvent: Result<
        unsafe extern "C" fn(event: aclrtEvent) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMalloc: Result<
        unsafe extern "C" fn(
            device: *mut *mut ::core::ffi::c_void,
            bytes: usize,
            policy: i32,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtFree: Result<
        unsafe extern "C" fn(device: *mut ::core::ffi::c_void) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMallocHost: Result<
        unsafe extern "C" fn(
            host: *mut *mut ::core::ffi::c_void,
            bytes: usize,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtFreeHost: Result<
        unsafe extern "C" fn(host: *mut ::core::ffi::c_void) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemcpyAsync: Result<
        unsafe extern "C" fn(
            to: *mut ::core::ffi::c_void,
            to_bytes: usize,
            from: *const ::core::ffi::c_void,
            bytes: usize,
            kind: i32,
            stream: aclrtStream,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtBinaryLoadFromFile: Result<
        unsafe extern "C" fn(
            absolute_path: *const ::core::ffi::c_char,
            options: *mut ::core::ffi::c_void,
            binary: *mut aclrtBinHandle,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtBinaryLoadFromData: Result<
        unsafe extern "C" fn(
            data: *const ::core::ffi::c_void,
            bytes: usize,
            options: *const ::core::ffi::c_void,
            binary: *mut aclrtBinHandle,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtBinaryGetFunction: Result<
        unsafe extern "C" fn(
            binary: aclrtBinHandle,
            name: *const ::core::ffi::c_char,
            function: *mut aclrtFuncHandle,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtBinaryUnLoad: Result<
        unsafe extern "C" fn(binary: aclrtBinHandle) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtKernelArgsInit: Result<
        unsafe extern "C" fn(
            function: aclrtFuncHandle,
            arguments: *mut aclrtArgsHandle,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtKernelArgsAppend: Result<
        unsafe extern "C" fn(
            arguments: aclrtArgsHandle,
            value: *mut ::core::ffi::c_void,
            bytes: usize,
            parameter: *mut aclrtParamHandle,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtKernelArgsFinalize: Result<
        unsafe extern "C" fn(arguments: aclrtArgsHandle) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtLaunchKernelWithConfig: Result<
        unsafe extern "C" fn(
            function: aclrtFuncHandle,
            blocks: u32,
            stream: aclrtStream,
            config: *mut aclrtLaunchConfig,
            arguments: aclrtArgsHandle,
            reserved: *mut ::core::ffi::c_void,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtLaunchKernelWithHostArgs: Result<
        unsafe extern "C" fn(
            function: aclrtFuncHandle,
            blocks: u32,
            stream: aclrtStream,
            config: *mut aclrtLaunchConfig,
            arguments: *mut ::core::ffi::c_void,
            bytes: usize,
            placeholders: *mut ::core::ffi::c_void,
            placeholder_count: usize,
        ) -> aclError,
        ::libloading::Error,
    >,
}
impl Acl {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let path = path.as_ref();
        let library = ::libloading::Library::new(path)?;
        Self::from_library(library)
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let aclInit = __library.get(b"aclInit\0").map(|sym| *sym);
        let aclFinalize = __library.get(b"aclFinalize\0").map(|sym| *sym);
        let aclrtGetVersion = __library.get(b"aclrtGetVersion\0").map(|sym| *sym);
        let aclrtGetSocName = __library.get(b"aclrtGetSocName\0").map(|sym| *sym);
        let aclGetRecentErrMsg = __library.get(b"aclGetRecentErrMsg\0").map(|sym| *sym);
        let aclrtGetDeviceCount = __library
            .get(b"aclrtGetDeviceCount\0")
            .map(|sym| *sym);
        let aclrtGetDeviceInfo = __library.get(b"aclrtGetDeviceInfo\0").map(|sym| *sym);
        let aclrtGetDeviceSatMode = __library
            .get(b"aclrtGetDeviceSatMode\0")
            .map(|sym| *sym);
        let aclrtSetDevice = __library.get(b"aclrtSetDevice\0").map(|sym| *sym);
        let aclrtResetDevice = __library.get(b"aclrtResetDevice\0").map(|sym| *sym);
        let aclrtCreateContext = __library.get(b"aclrtCreateContext\0").map(|sym| *sym);
        let aclrtSetCurrentContext = __library
            .get(b"aclrtSetCurrentContext\0")
            .map(|sym| *sym);
        let aclrtDestroyContext = __library
            .get(b"aclrtDestroyContext\0")
            .map(|sym| *sym);
        let aclrtCreateStream = __library.get(b"aclrtCreateStream\0").map(|sym| *sym);
        let aclrtDestroyStream = __library.get(b"aclrtDestroyStream\0").map(|sym| *sym);
        let aclrtSynchronizeStreamWithTimeout = __library
            .get(b"aclrtSynchronizeStreamWithTimeout\0")
            .map(|sym| *sym);
        let aclrtCreateEvent = __library.get(b"aclrtCreateEvent\0").map(|sym| *sym);
        let aclrtRecordEvent = __library.get(b"aclrtRecordEvent\0").map(|sym| *sym);
        let aclrtEventElapsedTime = __library
            .get(b"aclrtEventElapsedTime\0")
            .map(|sym| *sym);
        let aclrtDestroyEvent = __library.get(b"aclrtDestroyEvent\0").map(|sym| *sym);
        let aclrtMalloc = __library.get(b"aclrtMalloc\0").map(|sym| *sym);
        let aclrtFree = __library.get(b"aclrtFree\0").map(|sym| *sym);
        let aclrtMallocHost = __library.get(b"aclrtMallocHost\0").map(|sym| *sym);
        let aclrtFreeHost = __library.get(b"aclrtFreeHost\0").map(|sym| *sym);
        let aclrtMemcpyAsync = __library.get(b"aclrtMemcpyAsync\0").map(|sym| *sym);
        let aclrtBinaryLoadFromFile = __library
            .get(b"aclrtBinaryLoadFromFile\0")
            .map(|sym| *sym);
        let aclrtBinaryLoadFromData = __library
            .get(b"aclrtBinaryLoadFromData\0")
            .map(|sym| *sym);
        let aclrtBinaryGetFunction = __library
            .get(b"aclrtBinaryGetFunction\0")
            .map(|sym| *sym);
        let aclrtBinaryUnLoad = __library.get(b"aclrtBinaryUnLoad\0").map(|sym| *sym);
        let aclrtKernelArgsInit = __library
            .get(b"aclrtKernelArgsInit\0")
            .map(|sym| *sym);
        let aclrtKernelArgsAppend = __library
            .get(b"aclrtKernelArgsAppend\0")
            .map(|sym| *sym);
        let aclrtKernelArgsFinalize = __library
            .get(b"aclrtKernelArgsFinalize\0")
            .map(|sym| *sym);
        let aclrtLaunchKernelWithConfig = __library
            .get(b"aclrtLaunchKernelWithConfig\0")
            .map(|sym| *sym);
        let aclrtLaunchKernelWithHostArgs = __library
            .get(b"aclrtLaunchKernelWithHostArgs\0")
            .map(|sym| *sym);
        Ok(Acl {
            __library,
            aclInit,
            aclFinalize,
            aclrtGetVersion,
            aclrtGetSocName,
            aclGetRecentErrMsg,
            aclrtGetDeviceCount,
            aclrtGetDeviceInfo,
            aclrtGetDeviceSatMode,
            aclrtSetDevice,
            aclrtResetDevice,
            aclrtCreateContext,
            aclrtSetCurrentContext,
            aclrtDestroyContext,
            aclrtCreateStream,
            aclrtDestroyStream,
            aclrtSynchronizeStreamWithTimeout,
            aclrtCreateEvent,
            aclrtRecordEvent,
            aclrtEventElapsedTime,
            aclrtDestroyEvent,
            aclrtMalloc,
            aclrtFree,
            aclrtMallocHost,
            aclrtFreeHost,
            aclrtMemcpyAsync,
            aclrtBinaryLoadFromFile,
            aclrtBinaryLoadFromData,
            aclrtBinaryGetFunction,
            aclrtBinaryUnLoad,
            aclrtKernelArgsInit,
            aclrtKernelArgsAppend,
            aclrtKernelArgsFinalize,
            aclrtLaunchKernelWithConfig,
            aclrtLaunchKernelWithHostArgs,
        })
    }
    pub unsafe fn aclInit(&self, config_path: *const ::core::ffi::c_char) -> aclError {
        (self.aclInit.as_ref().expect("Expected function, got error."))(config_path)
    }
    pub unsafe fn aclFinalize(&self) -> aclError {
        (self.aclFinalize.as_ref().expect("Expected function, got error."))()
    }
    pub unsafe fn aclrtGetVersion(
        &self,
        major: *mut i32,
        minor: *mut i32,
        patch: *mut i32,
    ) -> aclError {
        (self
            .aclrtGetVersion
            .as_ref()
            .expect("Expected function, got error."))(major, minor, patch)
    }
    pub unsafe fn aclrtGetSocName(&self) -> *const ::core::ffi::c_char {
        (self.aclrtGetSocName.as_ref().expect("Expected function, got error."))()
    }
    pub unsafe fn aclGetRecentErrMsg(&self) -> *const ::core::ffi::c_char {
        (self.aclGetRecentErrMsg.as_ref().expect("Expected function, got error."))()
    }
    pub unsafe fn aclrtGetDeviceCount(&self, count: *mut u32) -> aclError {
        (self
            .aclrtGetDeviceCount
            .as_ref()
            .expect("Expected function, got error."))(count)
    }
    pub unsafe fn aclrtGetDeviceInfo(
        &self,
        device: u32,
        attribute: i32,
        value: *mut i64,
    ) -> aclError {
        (self
            .aclrtGetDeviceInfo
            .as_ref()
            .expect("Expected function, got error."))(device, attribute, value)
    }
    pub unsafe fn aclrtGetDeviceSatMode(&self, mode: *mut i32) -> aclError {
        (self
            .aclrtGetDeviceSatMode
            .as_ref()
            .expect("Expected function, got error."))(mode)
    }
    pub unsafe fn aclrtSetDevice(&self, device: i32) -> aclError {
        (self.aclrtSetDevice.as_ref().expect("Expected function, got error."))(device)
    }
    pub unsafe fn aclrtResetDevice(&self, device: i32) -> aclError {
        (self.aclrtResetDevice.as_ref().expect("Expected function, got error."))(device)
    }
    pub unsafe fn aclrtCreateContext(
        &self,
        context: *mut aclrtContext,
        device: i32,
    ) -> aclError {
        (self
            .aclrtCreateContext
            .as_ref()
            .expect("Expected function, got error."))(context, device)
    }
    pub unsafe fn aclrtSetCurrentContext(&self, context: aclrtContext) -> aclError {
        (self
            .aclrtSetCurrentContext
            .as_ref()
            .expect("Expected function, got error."))(context)
    }
    pub unsafe fn aclrtDestroyContext(&self, context: aclrtContext) -> aclError {
        (self
            .aclrtDestroyContext
            .as_ref()
            .expect("Expected function, got error."))(context)
    }
    pub unsafe fn aclrtCreateStream(&self, stream: *mut aclrtStream) -> aclError {
        (self.aclrtCreateStream.as_ref().expect("Expected function, got error."))(stream)
    }
    pub unsafe fn aclrtDestroyStream(&self, stream: aclrtStream) -> aclError {
        (self
            .aclrtDestroyStream
            .as_ref()
            .expect("Expected function, got error."))(stream)
    }
    pub unsafe fn aclrtSynchronizeStreamWithTimeout(
        &self,
        stream: aclrtStream,
        timeout_ms: i32,
    ) -> aclError {
        (self
            .aclrtSynchronizeStreamWithTimeout
            .as_ref()
            .expect("Expected function, got error."))(stream, timeout_ms)
    }
    pub unsafe fn aclrtCreateEvent(&self, event: *mut aclrtEvent) -> aclError {
        (self.aclrtCreateEvent.as_ref().expect("Expected function, got error."))(event)
    }
    pub unsafe fn aclrtRecordEvent(
        &self,
        event: aclrtEvent,
        stream: aclrtStream,
    ) -> aclError {
        (self
            .aclrtRecordEvent
            .as_ref()
            .expect("Expected function, got error."))(event, stream)
    }
    pub unsafe fn aclrtEventElapsedTime(
        &self,
        ms: *mut f32,
        start: aclrtEvent,
        end: aclrtEvent,
    ) -> aclError {
        (self
            .aclrtEventElapsedTime
            .as_ref()
            .expect("Expected function, got error."))(ms, start, end)
    }
    pub unsafe fn aclrtDestroyEvent(&self, event: aclrtEvent) -> aclError {
        (self.aclrtDestroyEvent.as_ref().expect("Expected function, got error."))(event)
    }
    pub unsafe fn aclrtMalloc(
        &self,
        device: *mut *mut ::core::ffi::c_void,
        bytes: usize,
        policy: i32,
    ) -> aclError {
        (self
            .aclrtMalloc
            .as_ref()
            .expect("Expected function, got error."))(device, bytes, policy)
    }
    pub unsafe fn aclrtFree(&self, device: *mut ::core::ffi::c_void) -> aclError {
        (self.aclrtFree.as_ref().expect("Expected function, got error."))(device)
    }
    pub unsafe fn aclrtMallocHost(
        &self,
        host: *mut *mut ::core::ffi::c_void,
        bytes: usize,
    ) -> aclError {
        (self
            .aclrtMallocHost
            .as_ref()
            .expect("Expected function, got error."))(host, bytes)
    }
    pub unsafe fn aclrtFreeHost(&self, host: *mut ::core::ffi::c_void) -> aclError {
        (self.aclrtFreeHost.as_ref().expect("Expected function, got error."))(host)
    }
    pub unsafe fn aclrtMemcpyAsync(
        &self,
        to: *mut ::core::ffi::c_void,
        to_bytes: usize,
        from: *const ::core::ffi::c_void,
        bytes: usize,
        kind: i32,
        stream: aclrtStream,
    ) -> aclError {
        (self
            .aclrtMemcpyAsync
            .as_ref()
            .expect(
                "Expected function, got error.",
            ))(to, to_bytes, from, bytes, kind, stream)
    }
    pub unsafe fn aclrtBinaryLoadFromFile(
        &self,
        absolute_path: *const ::core::ffi::c_char,
        options: *mut ::core::ffi::c_void,
        binary: *mut aclrtBinHandle,
    ) -> aclError {
        (self
            .aclrtBinaryLoadFromFile
            .as_ref()
            .expect("Expected function, got error."))(absolute_path, options, binary)
    }
    pub unsafe fn aclrtBinaryLoadFromData(
        &self,
        data: *const ::core::ffi::c_void,
        bytes: usize,
        options: *const ::core::ffi::c_void,
        binary: *mut aclrtBinHandle,
    ) -> aclError {
        (self
            .aclrtBinaryLoadFromData
            .as_ref()
            .expect("Expected function, got error."))(data, bytes, options, binary)
    }
    pub unsafe fn aclrtBinaryGetFunction(
        &self,
        binary: aclrtBinHandle,
        name: *const ::core::ffi::c_char,
        function: *mut aclrtFuncHandle,
    ) -> aclError {
        (self
            .aclrtBinaryGetFunction
            .as_ref()
            .expect("Expected function, got error."))(binary, name, function)
    }
    pub unsafe fn aclrtBinaryUnLoad(&self, binary: aclrtBinHandle) -> aclError {
        (self.aclrtBinaryUnLoad.as_ref().expect("Expected function, got error."))(binary)
    }
    pub unsafe fn aclrtKernelArgsInit(
        &self,
        function: aclrtFuncHandle,
        arguments: *mut aclrtArgsHandle,
    ) -> aclError {
        (self
            .aclrtKernelArgsInit
            .as_ref()
            .expect("Expected function, got error."))(function, arguments)
    }
    pub unsafe fn aclrtKernelArgsAppend(
        &self,
        arguments: aclrtArgsHandle,
        value: *mut ::core::ffi::c_void,
        bytes: usize,
        parameter: *mut aclrtParamHandle,
    ) -> aclError {
        (self
            .aclrtKernelArgsAppend
            .as_ref()
            .expect("Expected function, got error."))(arguments, value, bytes, parameter)
    }
    pub unsafe fn aclrtKernelArgsFinalize(
        &self,
        arguments: aclrtArgsHandle,
    ) -> aclError {
        (self
            .aclrtKernelArgsFinalize
            .as_ref()
            .expect("Expected function, got error."))(arguments)
    }
    pub unsafe fn aclrtLaunchKernelWithConfig(
        &self,
        function: aclrtFuncHandle,
        blocks: u32,
        stream: aclrtStream,
        config: *mut aclrtLaunchConfig,
        arguments: aclrtArgsHandle,
        reserved: *mut ::core::ffi::c_void,
    ) -> aclError {
        (self
            .aclrtLaunchKernelWithConfig
            .as_ref()
            .expect(
                "Expected function, got error.",
            ))(function, blocks, stream, config, arguments, reserved)
    }
    pub unsafe fn aclrtLaunchKernelWithHostArgs(
        &self,
        function: aclrtFuncHandle,
        blocks: u32,
        stream: aclrtStream,
        config: *mut aclrtLaunchConfig,
        arguments: *mut ::core::ffi::c_void,
        bytes: usize,
        placeholders: *mut ::core::ffi::c_void,
        placeholder_count: usize,
    ) -> aclError {
        (self
            .aclrtLaunchKernelWithHostArgs
            .as_ref()
            .expect(
                "Expected function, got error.",
            ))(
            function,
            blocks,
            stream,
            config,
            arguments,
            bytes,
            placeholders,
            placeholder_count,
        )
    }
}

/* The few calls of the Ascend runtime that BalanceRoute makes, declared from the public API documents.
 *
 * Own declarations of names, types and values; no text of the vendor's headers. `bindings.rs` beside this
 * file is made from it and checked in (`cargo test --features regen-bindings --test device`). Every
 * symbol is looked up at run time, so nothing links to the runtime.
 */
#ifndef BALANCEROUTE_ACL_MIN_H
#define BALANCEROUTE_ACL_MIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Zero is success. */
typedef int32_t aclError;

typedef void *aclrtContext;
typedef void *aclrtStream;
typedef void *aclrtEvent;
typedef void *aclrtBinHandle;
typedef void *aclrtFuncHandle;
typedef void *aclrtArgsHandle;
typedef void *aclrtParamHandle;

#define ACL_INVALID_PARAM 100000
#define ACL_NOT_INITIALISED 100001
#define ACL_INITIALISED_TWICE 100002
#define ACL_RT_PARAM 107000
#define ACL_RT_DEVICE_ID 107001
#define ACL_RT_CONTEXT_NULL 107002
#define ACL_RT_FILE_OPEN 107009
#define ACL_RT_MEMORY 207001
#define ACL_RT_FAILURE 500003
#define ACL_RT_STREAM_TIMEOUT 507046

/* aclrtMalloc's policy. */
#define ACL_HUGE_PAGES_FIRST 0
#define ACL_HUGE_PAGES_ONLY 1
#define ACL_NORMAL_PAGES_ONLY 2

/* aclrtMemcpyAsync's kind. */
#define ACL_HOST_TO_HOST 0
#define ACL_HOST_TO_DEVICE 1
#define ACL_DEVICE_TO_HOST 2
#define ACL_DEVICE_TO_DEVICE 3

/* aclrtGetDeviceInfo's attribute. */
#define ACL_VECTOR_CORES 201
#define ACL_UNIFIED_BUFFER_BYTES 204

/* aclrtGetDeviceSatMode's answer: what becomes of a result that is too great. */
#define ACL_OVERFLOW_SATURATES 0
#define ACL_OVERFLOW_TO_INFINITY 1

/* Attributes of a launch; of the two limits of time at most one. */
#define ACL_LAUNCH_ENGINE 3
#define ACL_LAUNCH_TIMEOUT_S 7
#define ACL_LAUNCH_TIMEOUT_US 8
#define ACL_ENGINE_CUBE 0
#define ACL_ENGINE_VECTOR 1

typedef union {
    int32_t engine;
    uint16_t timeout_s;
    uint32_t words[4];
} aclrtLaunchValue;

typedef struct {
    int32_t id;
    aclrtLaunchValue value;
} aclrtLaunchAttribute;

typedef struct {
    aclrtLaunchAttribute *attributes;
    size_t count;
} aclrtLaunchConfig;

/* Process. */
aclError aclInit(const char *config_path);
aclError aclFinalize(void);
aclError aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch); /* may be missing one day */
const char *aclrtGetSocName(void);
const char *aclGetRecentErrMsg(void);

/* Device. */
aclError aclrtGetDeviceCount(uint32_t *count);
aclError aclrtGetDeviceInfo(uint32_t device, int32_t attribute, int64_t *value); /* from 8.5 */
/* Of the device that is set; may be missing. */
aclError aclrtGetDeviceSatMode(int32_t *mode);
aclError aclrtSetDevice(int32_t device);
aclError aclrtResetDevice(int32_t device);

/* Context, stream, events. */
aclError aclrtCreateContext(aclrtContext *context, int32_t device);
aclError aclrtSetCurrentContext(aclrtContext context);
aclError aclrtDestroyContext(aclrtContext context);
aclError aclrtCreateStream(aclrtStream *stream);
aclError aclrtDestroyStream(aclrtStream stream);
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout_ms);
aclError aclrtCreateEvent(aclrtEvent *event);
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream);
aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end);
aclError aclrtDestroyEvent(aclrtEvent event);

/* Memory. */
aclError aclrtMalloc(void **device, size_t bytes, int32_t policy);
aclError aclrtFree(void *device);
aclError aclrtMallocHost(void **host, size_t bytes);
aclError aclrtFreeHost(void *host);
aclError aclrtMemcpyAsync(void *to, size_t to_bytes, const void *from, size_t bytes, int32_t kind,
                          aclrtStream stream);

/* Kernel. */
aclError aclrtBinaryLoadFromFile(const char *absolute_path, void *options, aclrtBinHandle *binary);
/* From 8.3 for every kernel; no options. */
aclError aclrtBinaryLoadFromData(const void *data, size_t bytes, const void *options, aclrtBinHandle *binary);
aclError aclrtBinaryGetFunction(aclrtBinHandle binary, const char *name, aclrtFuncHandle *function);
aclError aclrtBinaryUnLoad(aclrtBinHandle binary);
aclError aclrtKernelArgsInit(aclrtFuncHandle function, aclrtArgsHandle *arguments);
aclError aclrtKernelArgsAppend(aclrtArgsHandle arguments, void *value, size_t bytes,
                               aclrtParamHandle *parameter);
aclError aclrtKernelArgsFinalize(aclrtArgsHandle arguments);
aclError aclrtLaunchKernelWithConfig(aclrtFuncHandle function, uint32_t blocks, aclrtStream stream,
                                     aclrtLaunchConfig *config, aclrtArgsHandle arguments, void *reserved);
/* From 8.5. */
aclError aclrtLaunchKernelWithHostArgs(aclrtFuncHandle function, uint32_t blocks, aclrtStream stream,
                                       aclrtLaunchConfig *config, void *arguments, size_t bytes,
                                       void *placeholders, size_t placeholder_count);

#ifdef __cplusplus
}
#endif

#endif

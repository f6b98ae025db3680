/* An Ascend runtime without a device: the calls of acl_min.h on the CPU, strict where the real one punishes
 * late or not at all.
 *
 * Streams are threads, so what is not synchronised is seen unfinished; memory is poisoned and fenced; objects
 * are never recycled, so a stale handle is known for what it is. A kernel is a shared library that runs it on
 * a CPU (kernels/model/model.h). */
#define _GNU_SOURCE
#include "fake.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../../kernels/ascendc/tiling.h"
#include "../../../kernels/model/model.h"
#include "../acl_min.h"

#define CALLS(X)                         \
    X(aclInit)                           \
    X(aclFinalize)                       \
    X(aclrtGetVersion)                   \
    X(aclrtGetSocName)                   \
    X(aclGetRecentErrMsg)                \
    X(aclrtGetDeviceCount)               \
    X(aclrtGetDeviceInfo)                \
    X(aclrtGetDeviceSatMode)             \
    X(aclrtSetDevice)                    \
    X(aclrtResetDevice)                  \
    X(aclrtCreateContext)                \
    X(aclrtSetCurrentContext)            \
    X(aclrtDestroyContext)               \
    X(aclrtCreateStream)                 \
    X(aclrtDestroyStream)                \
    X(aclrtSynchronizeStreamWithTimeout) \
    X(aclrtCreateEvent)                  \
    X(aclrtRecordEvent)                  \
    X(aclrtEventElapsedTime)             \
    X(aclrtDestroyEvent)                 \
    X(aclrtMalloc)                       \
    X(aclrtFree)                         \
    X(aclrtMallocHost)                   \
    X(aclrtFreeHost)                     \
    X(aclrtMemcpyAsync)                  \
    X(aclrtBinaryLoadFromFile)           \
    X(aclrtBinaryLoadFromData)           \
    X(aclrtBinaryGetFunction)            \
    X(aclrtBinaryUnLoad)                 \
    X(aclrtKernelArgsInit)               \
    X(aclrtKernelArgsAppend)             \
    X(aclrtKernelArgsFinalize)           \
    X(aclrtLaunchKernelWithConfig)       \
    X(aclrtLaunchKernelWithHostArgs)

#define AS_ENUM(name) CALL_##name,
#define AS_TEXT(name) #name,
enum call { CALLS(AS_ENUM) TASK_COPY, TASK_LAUNCH, TASK_RECORD, CALL_COUNT };
static const char *const call_names[] = {CALLS(AS_TEXT) "task-copy", "task-launch", "task-record"};

enum kind { CONTEXT, STREAM, EVENT, DEVICE, HOST, BINARY, FUNCTION, ARGUMENTS, KINDS };
static const char *const kind_names[] = {"context", "stream", "event",    "device",
                                         "host",    "binary", "function", "arguments"};

#define FENCE 64
#define FENCE_BYTE 0xFD
#define POISON 0xA5
#define MAX_ARGUMENT_BYTES 256

struct task {
    struct task *next;
    enum call call;
    /* Copy. */
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
    bool back;
    /* Launch. */
    struct object *function;
    uint32_t blocks;
    uint8_t arguments[MAX_ARGUMENT_BYTES];
    size_t argument_bytes;
    /* Record. */
    struct object *event;
};

struct object {
    enum kind kind;
    bool live;
    struct object *next;
    struct object *context; /* Where it belongs; null for host memory and contexts. */
    /* Context. */
    int32_t device;
    bool lost;
    /* Stream. */
    pthread_t thread;
    pthread_cond_t changed;
    struct task *first, **last;
    bool running, closing;
    int32_t error;
    /* Event. */
    bool recorded;
    struct timespec at;
    /* Memory. */
    uint8_t *base;
    size_t bytes;
    /* Binary, function. */
    void *library;
    char name[64];
    struct object *binary;
    /* Arguments. */
    struct object *function;
    uint8_t values[MAX_ARGUMENT_BYTES];
    size_t used;
    bool final;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static struct object *objects;
static _Thread_local struct object *current;

static struct {
    uint64_t calls;
    uint32_t fail_in, fail_times, hang_in, slow_us;
    int32_t code;
} plans[CALL_COUNT];

static bool initialised, foreign_init;
static int32_t version[3] = {1, 16, 0};
static uint32_t devices = 1;
static char soc[64] = "Ascend910B3";
static int64_t vector_cores = 40, unified_buffer_bytes = 192 * 1024;
static int32_t overflow_mode = ACL_OVERFLOW_TO_INFINITY;
static uint64_t seconds_limits, microseconds_limits;
static uint64_t memory_limit = UINT64_MAX, memory_used, set_device, reclaimed, violations;
static uint32_t corrupt_in;
static uint64_t corrupt_offset;
static uint64_t release_count;
static char first_violation[256] = "";
static _Thread_local char recent[256];

static int32_t refuse(int32_t code, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void violate(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int32_t refuse(int32_t code, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(recent, sizeof recent, format, list);
    va_end(list);
    return code;
}

/* Counts misuse; under the lock. */
static void violate(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(recent, sizeof recent, format, list);
    va_end(list);
    if (violations++ == 0) {
        memcpy(first_violation, recent, sizeof first_violation);
    }
}

static int find_call(const char *name) {
    for (int call = 0; call < CALL_COUNT; call++) {
        if (strcmp(call_names[call], name) == 0) {
            return call;
        }
    }
    return -1;
}

static void pause_us(uint32_t us) {
    struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {
    }
}

/* What the tests planned for this call; takes and drops the lock. `stream` ends the hang of a task. */
static int32_t enter(enum call call, struct object *stream) {
    pthread_mutex_lock(&lock);
    plans[call].calls++;
    uint32_t slow_us = plans[call].slow_us;
    int32_t code = 0;
    if (plans[call].hang_in != 0 && --plans[call].hang_in == 0) {
        uint64_t seen = release_count;
        while (seen == release_count && !(stream != NULL && stream->closing)) {
            pthread_cond_wait(&released, &lock);
        }
        if (stream != NULL && stream->closing) {
            code = ACL_RT_FAILURE;
        }
    }
    if (plans[call].fail_in != 0 && --plans[call].fail_in == 0) {
        code = plans[call].code;
        if (--plans[call].fail_times != 0) {
            plans[call].fail_in = 1;
        }
        refuse(code, "%s: planned failure", call_names[call]);
    }
    pthread_mutex_unlock(&lock);
    if (slow_us != 0) {
        pause_us(slow_us);
    }
    return code;
}

#define ENTER(name)                                                                               \
    do {                                                                                          \
        int32_t planned = enter(CALL_##name, NULL);                                               \
        if (planned != 0) {                                                                       \
            return planned;                                                                       \
        }                                                                                         \
        if (!initialised && CALL_##name != CALL_aclInit && CALL_##name != CALL_aclrtGetVersion) { \
            return refuse(ACL_NOT_INITIALISED, "%s before aclInit", #name);                       \
        }                                                                                         \
    } while (0)

/* Ends a call under the lock. */
#define LEAVE(value)                 \
    do {                             \
        int32_t result = (value);    \
        pthread_mutex_unlock(&lock); \
        return result;               \
    } while (0)

/* Everything below to the calls themselves runs under the lock. */

static struct object *make(enum kind kind, struct object *context) {
    struct object *object = calloc(1, sizeof *object);
    if (object == NULL) {
        abort();
    }
    object->kind = kind;
    object->live = true;
    object->context = context;
    object->next = objects;
    objects = object;
    return object;
}

/* The living object of a handle. */
static struct object *known(const void *handle, enum kind kind, const char *call) {
    for (struct object *object = objects; object != NULL; object = object->next) {
        if (object == handle && object->kind == kind) {
            if (object->live) {
                return object;
            }
            violate("%s: %s used after it was destroyed", call, kind_names[kind]);
            return NULL;
        }
    }
    violate("%s: %p is no %s", call, handle, kind_names[kind]);
    return NULL;
}

/* An error where the thread has no usable context. */
static int32_t check_context(const char *call) {
    if (current == NULL || !current->live) {
        violate("%s: this thread has no context", call);
        return ACL_RT_CONTEXT_NULL;
    }
    return current->lost ? refuse(ACL_RT_CONTEXT_NULL, "%s: the context is lost", call) : 0;
}

static struct object *in_context(const void *handle, enum kind kind, const char *call) {
    struct object *object = known(handle, kind, call);
    if (object != NULL && object->context != current) {
        violate("%s: %s of another context", call, kind_names[kind]);
        return NULL;
    }
    return object;
}

static struct object *memory_at(const void *address, size_t bytes, enum kind kind) {
    for (struct object *object = objects; object != NULL; object = object->next) {
        const uint8_t *at = address;
        if (object->kind == kind && object->live && at >= object->base &&
            at + bytes <= object->base + object->bytes) {
            return object;
        }
    }
    return NULL;
}

static bool task_uses(const struct task *task, const struct object *memory) {
    const uint8_t *from = memory->base, *to = memory->base + memory->bytes;
    if (task->call == TASK_COPY) {
        return (task->to < to && task->to + task->bytes > from) ||
               (task->from < to && task->from + task->bytes > from);
    }
    for (size_t at = 0; at + 8 <= task->argument_bytes; at += 8) {
        uint8_t *pointer;
        memcpy(&pointer, task->arguments + at, 8);
        if (pointer >= from && pointer < to) {
            return true;
        }
    }
    return false;
}

static int32_t free_memory(void *address, enum kind kind, const char *call) {
    struct object *found = NULL;
    for (struct object *object = objects; object != NULL && found == NULL; object = object->next) {
        if (object->kind == kind && object->base == address) {
            found = object;
        }
    }
    if (found == NULL || !found->live) {
        violate(found == NULL ? "%s: memory that was never handed out" : "%s: memory freed twice", call);
        return ACL_RT_PARAM;
    }
    for (struct object *stream = objects; stream != NULL; stream = stream->next) {
        if (stream->kind != STREAM || !stream->live) {
            continue;
        }
        for (struct task *task = stream->first; task != NULL; task = task->next) {
            if (task_uses(task, found)) {
                violate("%s: memory freed under a task", call);
            }
        }
    }
    for (size_t at = 0; at < FENCE; at++) {
        if (found->base[-1 - (ptrdiff_t)at] != FENCE_BYTE || found->base[found->bytes + at] != FENCE_BYTE) {
            violate("%s: somebody wrote beside the memory", call);
            break;
        }
    }
    found->live = false;
    memory_used -= found->bytes;
    /* The address stays taken: what still points there finds poison, or zeros far from the beginning, whose
     * pages go back to the system. */
    size_t kept = found->bytes < 64 * 1024 ? found->bytes : 64 * 1024;
    memset(found->base, POISON, kept);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)found->base + kept + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)found->base + found->bytes) / page * page;
    if (from < to) {
        madvise((void *)from, to - from, MADV_DONTNEED);
    }
    return 0;
}

static int32_t hand_out(void **address, size_t bytes, enum kind kind, struct object *context,
                        const char *call) {
    if (bytes == 0 || address == NULL) {
        violate("%s: no bytes or no place for the address", call);
        return ACL_RT_PARAM;
    }
    if (bytes > memory_limit || memory_used > memory_limit - bytes) {
        return refuse(ACL_RT_MEMORY, "%s: %zu bytes asked for, %llu in use", call, bytes,
                      (unsigned long long)memory_used);
    }
    uint8_t *raw = NULL;
    if (posix_memalign((void **)&raw, 512, 512 + bytes + FENCE) != 0) {
        return refuse(ACL_RT_MEMORY, "%s: out of memory", call);
    }
    struct object *memory = make(kind, context);
    memory->base = raw + 512;
    memory->bytes = bytes;
    memset(raw, FENCE_BYTE, 512);
    memset(memory->base, POISON, bytes);
    memset(memory->base + bytes, FENCE_BYTE, FENCE);
    memory_used += bytes;
    *address = memory->base;
    return 0;
}

static int32_t enqueue(struct object *stream, struct task task) {
    if (stream->error != 0) {
        return refuse(stream->error, "the stream has failed before");
    }
    struct task *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        abort();
    }
    *copy = task;
    copy->next = NULL;
    *stream->last = copy;
    stream->last = &copy->next;
    pthread_cond_broadcast(&stream->changed);
    return 0;
}

typedef __typeof__(&br_model_launch) launch_fn;

/* A kernel sees the device memory of its context and nothing else. */
static int32_t run_kernel(const struct task *task, char *why, size_t why_bytes) {
    launch_fn launch = (launch_fn)(uintptr_t)dlsym(task->function->binary->library, BR_MODEL_LAUNCH);
    if (launch == NULL) {
        snprintf(why, why_bytes, "the library has no %s", BR_MODEL_LAUNCH);
        return ACL_RT_FILE_OPEN;
    }
    BrModelRange ranges[64];
    size_t count = 0;
    pthread_mutex_lock(&lock);
    for (struct object *object = objects; object != NULL && count < sizeof ranges / sizeof ranges[0];
         object = object->next) {
        if (object->kind == DEVICE && object->live && object->context == task->function->context) {
            ranges[count++] = (BrModelRange){object->base, object->bytes};
        }
    }
    pthread_mutex_unlock(&lock);
    return launch(task->function->name, task->blocks, task->arguments, task->argument_bytes, ranges, count,
                  why, why_bytes);
}

/* Runs one task, outside the lock. */
static int32_t perform(struct object *stream, struct task *task) {
    int32_t code = enter(task->call, stream);
    if (code != 0) {
        return code;
    }
    switch (task->call) {
    case TASK_COPY: {
        memcpy(task->to, task->from, task->bytes);
        pthread_mutex_lock(&lock);
        if (task->back && corrupt_in != 0 && --corrupt_in == 0 && corrupt_offset < task->bytes) {
            task->to[corrupt_offset] ^= 0x5A;
        }
        pthread_mutex_unlock(&lock);
        return 0;
    }
    case TASK_LAUNCH: {
        char why[200] = "";
        code = run_kernel(task, why, sizeof why);
        if (code != 0) {
            pthread_mutex_lock(&lock);
            violate("the kernel failed with %d: %s", code, why);
            pthread_mutex_unlock(&lock);
            return ACL_RT_FAILURE;
        }
        return 0;
    }
    default:
        pthread_mutex_lock(&lock);
        clock_gettime(CLOCK_MONOTONIC, &task->event->at);
        task->event->recorded = true;
        pthread_mutex_unlock(&lock);
        return 0;
    }
}

static void *serve(void *argument) {
    struct object *stream = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (stream->first == NULL && !stream->closing) {
            pthread_cond_wait(&stream->changed, &lock);
        }
        if (stream->first == NULL) {
            break;
        }
        struct task *task = stream->first;
        int32_t code = stream->error;
        if (code == 0 && stream->context->lost) {
            code = ACL_RT_CONTEXT_NULL;
        }
        if (code == 0) {
            stream->running = true;
            pthread_mutex_unlock(&lock);
            code = perform(stream, task);
            pthread_mutex_lock(&lock);
            stream->running = false;
        }
        if (code != 0 && stream->error == 0) {
            stream->error = code;
        }
        /* Only now does it no longer use its memory. */
        stream->first = task->next;
        if (stream->first == NULL) {
            stream->last = &stream->first;
        }
        free(task);
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void close_stream(struct object *stream) {
    stream->closing = true;
    stream->live = false;
    pthread_cond_broadcast(&stream->changed);
    pthread_cond_broadcast(&released);
    pthread_t thread = stream->thread;
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&lock);
}

static void unload(struct object *binary) {
    binary->live = false;
    for (struct object *object = objects; object != NULL; object = object->next) {
        bool of_it = (object->kind == FUNCTION && object->binary == binary) ||
                     (object->kind == ARGUMENTS && object->function->binary == binary);
        object->live = object->live && !of_it;
    }
    dlclose(binary->library);
}

/* Takes back what a context leaves behind. */
static void reclaim(struct object *context) {
    context->live = false;
    for (struct object *object = objects; object != NULL; object = object->next) {
        if (object->context != context || !object->live || object->kind == FUNCTION ||
            object->kind == ARGUMENTS) {
            continue;
        }
        reclaimed++;
        if (object->kind == STREAM) {
            close_stream(object);
        } else if (object->kind == DEVICE) {
            object->live = false;
            memory_used -= object->bytes;
        } else if (object->kind == BINARY) {
            unload(object);
        } else {
            object->live = false;
        }
    }
}

/* The calls. */

aclError aclInit(const char *config_path) {
    (void)config_path;
    ENTER(aclInit);
    pthread_mutex_lock(&lock);
    if (initialised || foreign_init) {
        initialised = true;
        LEAVE(refuse(ACL_INITIALISED_TWICE, "aclInit: this process has called it before"));
    }
    initialised = true;
    LEAVE(0);
}

aclError aclFinalize(void) {
    ENTER(aclFinalize);
    pthread_mutex_lock(&lock);
    for (struct object *object = objects; object != NULL; object = object->next) {
        if (object->live) {
            violate("aclFinalize: a %s lives", kind_names[object->kind]);
            break;
        }
    }
    if (foreign_init) {
        violate("aclFinalize: it was not this caller who initialised");
    }
    initialised = false;
    LEAVE(0);
}

aclError aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
    ENTER(aclrtGetVersion);
    *major = version[0];
    *minor = version[1];
    *patch = version[2];
    return 0;
}

const char *aclrtGetSocName(void) {
    return enter(CALL_aclrtGetSocName, NULL) != 0 || !initialised ? NULL : soc;
}

const char *aclGetRecentErrMsg(void) {
    static _Thread_local char told[256];
    if (enter(CALL_aclGetRecentErrMsg, NULL) != 0 || recent[0] == 0) {
        return NULL;
    }
    memcpy(told, recent, sizeof told);
    recent[0] = 0;
    return told;
}

aclError aclrtGetDeviceCount(uint32_t *count) {
    ENTER(aclrtGetDeviceCount);
    *count = devices;
    return 0;
}

aclError aclrtGetDeviceInfo(uint32_t device, int32_t attribute, int64_t *value) {
    ENTER(aclrtGetDeviceInfo);
    if (device >= devices) {
        return refuse(ACL_RT_DEVICE_ID, "aclrtGetDeviceInfo: no device %u", device);
    }
    if (attribute != ACL_VECTOR_CORES && attribute != ACL_UNIFIED_BUFFER_BYTES) {
        return refuse(ACL_RT_PARAM, "aclrtGetDeviceInfo: attribute %d", attribute);
    }
    *value = attribute == ACL_VECTOR_CORES ? vector_cores : unified_buffer_bytes;
    return 0;
}

aclError aclrtGetDeviceSatMode(int32_t *mode) {
    ENTER(aclrtGetDeviceSatMode);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtGetDeviceSatMode");
    if (code == 0) {
        *mode = overflow_mode;
    }
    LEAVE(code);
}

aclError aclrtSetDevice(int32_t device) {
    ENTER(aclrtSetDevice);
    if (device < 0 || (uint32_t)device >= devices) {
        return refuse(ACL_RT_DEVICE_ID, "aclrtSetDevice: no device %d", device);
    }
    pthread_mutex_lock(&lock);
    set_device++;
    LEAVE(0);
}

aclError aclrtResetDevice(int32_t device) {
    ENTER(aclrtResetDevice);
    pthread_mutex_lock(&lock);
    if (set_device == 0) {
        violate("aclrtResetDevice: not set");
        LEAVE(ACL_RT_DEVICE_ID);
    }
    if (--set_device == 0) {
        for (struct object *object = objects; object != NULL; object = object->next) {
            if (object->kind == CONTEXT && object->live && object->device == device) {
                reclaimed++;
                reclaim(object);
            }
        }
    }
    LEAVE(0);
}

aclError aclrtCreateContext(aclrtContext *context, int32_t device) {
    ENTER(aclrtCreateContext);
    if (device < 0 || (uint32_t)device >= devices) {
        return refuse(ACL_RT_DEVICE_ID, "aclrtCreateContext: no device %d", device);
    }
    pthread_mutex_lock(&lock);
    if (set_device == 0) {
        violate("aclrtCreateContext: the device is not set");
        LEAVE(ACL_RT_DEVICE_ID);
    }
    struct object *made = make(CONTEXT, NULL);
    made->device = device;
    current = made;
    *context = made;
    LEAVE(0);
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    ENTER(aclrtSetCurrentContext);
    pthread_mutex_lock(&lock);
    struct object *found = known(context, CONTEXT, "aclrtSetCurrentContext");
    if (found == NULL) {
        LEAVE(ACL_RT_CONTEXT_NULL);
    }
    current = found;
    LEAVE(0);
}

aclError aclrtDestroyContext(aclrtContext context) {
    ENTER(aclrtDestroyContext);
    pthread_mutex_lock(&lock);
    struct object *found = known(context, CONTEXT, "aclrtDestroyContext");
    if (found == NULL) {
        LEAVE(ACL_RT_CONTEXT_NULL);
    }
    reclaim(found);
    if (current == found) {
        current = NULL;
    }
    LEAVE(0);
}

aclError aclrtCreateStream(aclrtStream *stream) {
    ENTER(aclrtCreateStream);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtCreateStream");
    if (code != 0) {
        LEAVE(code);
    }
    struct object *made = make(STREAM, current);
    made->last = &made->first;
    pthread_cond_init(&made->changed, NULL);
    if (pthread_create(&made->thread, NULL, serve, made) != 0) {
        made->live = false;
        LEAVE(refuse(ACL_RT_FAILURE, "aclrtCreateStream: no thread"));
    }
    *stream = made;
    LEAVE(0);
}

aclError aclrtDestroyStream(aclrtStream stream) {
    ENTER(aclrtDestroyStream);
    pthread_mutex_lock(&lock);
    struct object *found = known(stream, STREAM, "aclrtDestroyStream");
    if (found == NULL) {
        LEAVE(ACL_RT_PARAM);
    }
    close_stream(found);
    LEAVE(0);
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout_ms) {
    ENTER(aclrtSynchronizeStreamWithTimeout);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtSynchronizeStreamWithTimeout");
    struct object *found = code == 0 ? in_context(stream, STREAM, "aclrtSynchronizeStreamWithTimeout") : NULL;
    if (found == NULL) {
        LEAVE(code != 0 ? code : ACL_RT_PARAM);
    }
    while (found->first != NULL && found->live) {
        int waited = timeout_ms < 0 ? pthread_cond_wait(&found->changed, &lock)
                                    : pthread_cond_timedwait(&found->changed, &lock, &until);
        if (waited == ETIMEDOUT && found->first != NULL) {
            LEAVE(refuse(ACL_RT_STREAM_TIMEOUT, "the stream is busy after %d ms", timeout_ms));
        }
    }
    LEAVE(found->error != 0 ? refuse(found->error, "a task of the stream failed") : 0);
}

aclError aclrtCreateEvent(aclrtEvent *event) {
    ENTER(aclrtCreateEvent);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtCreateEvent");
    if (code == 0) {
        *event = make(EVENT, current);
    }
    LEAVE(code);
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
    ENTER(aclrtRecordEvent);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtRecordEvent");
    if (code != 0) {
        LEAVE(code);
    }
    struct object *found = in_context(event, EVENT, "aclrtRecordEvent");
    struct object *onto = in_context(stream, STREAM, "aclrtRecordEvent");
    if (found == NULL || onto == NULL) {
        LEAVE(ACL_RT_PARAM);
    }
    found->recorded = false;
    LEAVE(enqueue(onto, (struct task){.call = TASK_RECORD, .event = found}));
}

aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end) {
    ENTER(aclrtEventElapsedTime);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtEventElapsedTime");
    if (code != 0) {
        LEAVE(code);
    }
    struct object *a = in_context(start, EVENT, "aclrtEventElapsedTime");
    struct object *b = in_context(end, EVENT, "aclrtEventElapsedTime");
    if (a == NULL || b == NULL || !a->recorded || !b->recorded) {
        violate("aclrtEventElapsedTime: not recorded yet");
        LEAVE(ACL_RT_PARAM);
    }
    *ms =
        (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 + (double)(b->at.tv_nsec - a->at.tv_nsec) / 1e6);
    LEAVE(0);
}

aclError aclrtDestroyEvent(aclrtEvent event) {
    ENTER(aclrtDestroyEvent);
    pthread_mutex_lock(&lock);
    struct object *found = known(event, EVENT, "aclrtDestroyEvent");
    if (found == NULL) {
        LEAVE(ACL_RT_PARAM);
    }
    found->live = false;
    LEAVE(0);
}

aclError aclrtMalloc(void **device, size_t bytes, int32_t policy) {
    ENTER(aclrtMalloc);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtMalloc");
    if (code != 0) {
        LEAVE(code);
    }
    if (policy < ACL_HUGE_PAGES_FIRST || policy > ACL_NORMAL_PAGES_ONLY) {
        violate("aclrtMalloc: policy %d", policy);
        LEAVE(ACL_RT_PARAM);
    }
    LEAVE(hand_out(device, bytes, DEVICE, current, "aclrtMalloc"));
}

aclError aclrtFree(void *device) {
    ENTER(aclrtFree);
    pthread_mutex_lock(&lock);
    LEAVE(free_memory(device, DEVICE, "aclrtFree"));
}

aclError aclrtMallocHost(void **host, size_t bytes) {
    ENTER(aclrtMallocHost);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtMallocHost");
    if (code != 0) {
        LEAVE(code);
    }
    LEAVE(hand_out(host, bytes, HOST, NULL, "aclrtMallocHost"));
}

aclError aclrtFreeHost(void *host) {
    ENTER(aclrtFreeHost);
    pthread_mutex_lock(&lock);
    LEAVE(free_memory(host, HOST, "aclrtFreeHost"));
}

aclError aclrtMemcpyAsync(void *to, size_t to_bytes, const void *from, size_t bytes, int32_t kind,
                          aclrtStream stream) {
    ENTER(aclrtMemcpyAsync);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtMemcpyAsync");
    if (code != 0) {
        LEAVE(code);
    }
    struct object *onto = in_context(stream, STREAM, "aclrtMemcpyAsync");
    bool forth = kind == ACL_HOST_TO_DEVICE, back = kind == ACL_DEVICE_TO_HOST;
    struct object *target = memory_at(to, bytes, back ? HOST : DEVICE);
    struct object *source = memory_at(from, bytes, forth ? HOST : DEVICE);
    if (onto == NULL || !(forth || back) || bytes == 0 || bytes > to_bytes || target == NULL ||
        source == NULL) {
        violate("aclrtMemcpyAsync: kind %d, %zu of %zu bytes, target %s, source %s", kind, bytes, to_bytes,
                target ? "known" : "unknown", source ? "known" : "unknown");
        LEAVE(ACL_RT_PARAM);
    }
    LEAVE(enqueue(onto,
                  (struct task){.call = TASK_COPY, .to = to, .from = from, .bytes = bytes, .back = back}));
}

/* Under the lock. */
static int32_t load_library(const char *path, const char *call, aclrtBinHandle *binary) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return refuse(ACL_RT_FILE_OPEN, "%s: %s", call, dlerror());
    }
    struct object *made = make(BINARY, current);
    made->library = library;
    *binary = made;
    return 0;
}

aclError aclrtBinaryLoadFromFile(const char *absolute_path, void *options, aclrtBinHandle *binary) {
    ENTER(aclrtBinaryLoadFromFile);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtBinaryLoadFromFile");
    if (code != 0) {
        LEAVE(code);
    }
    if (absolute_path == NULL || absolute_path[0] != '/' || options != NULL) {
        violate("aclrtBinaryLoadFromFile: the path is not absolute, or unknown options");
        LEAVE(ACL_RT_PARAM);
    }
    /* As the real one, which opens what the path leads to. */
    char *resolved = realpath(absolute_path, NULL);
    if (resolved == NULL) {
        LEAVE(refuse(ACL_RT_FILE_OPEN, "aclrtBinaryLoadFromFile: %s: %s", absolute_path, strerror(errno)));
    }
    code = load_library(resolved, "aclrtBinaryLoadFromFile", binary);
    free(resolved);
    LEAVE(code);
}

aclError aclrtBinaryLoadFromData(const void *data, size_t bytes, const void *options,
                                 aclrtBinHandle *binary) {
    ENTER(aclrtBinaryLoadFromData);
    pthread_mutex_lock(&lock);
    int32_t code = check_context("aclrtBinaryLoadFromData");
    if (code != 0) {
        LEAVE(code);
    }
    if (data == NULL || bytes == 0 || options != NULL) {
        violate("aclrtBinaryLoadFromData: no data, or unknown options");
        LEAVE(ACL_RT_PARAM);
    }
    char path[] = "/tmp/balanceroute-fake-XXXXXX";
    int file = mkstemp(path);
    if (file < 0) {
        LEAVE(refuse(ACL_RT_FILE_OPEN, "aclrtBinaryLoadFromData: %s", strerror(errno)));
    }
    bool written = true;
    for (size_t at = 0; written && at < bytes;) {
        ssize_t count = write(file, (const char *)data + at, bytes - at);
        written = count > 0;
        at += written ? (size_t)count : 0;
    }
    close(file);
    code = written ? load_library(path, "aclrtBinaryLoadFromData", binary)
                   : refuse(ACL_RT_FILE_OPEN, "aclrtBinaryLoadFromData: %s", strerror(errno));
    unlink(path);
    LEAVE(code);
}

aclError aclrtBinaryGetFunction(aclrtBinHandle binary, const char *name, aclrtFuncHandle *function) {
    ENTER(aclrtBinaryGetFunction);
    pthread_mutex_lock(&lock);
    struct object *found = in_context(binary, BINARY, "aclrtBinaryGetFunction");
    if (found == NULL) {
        LEAVE(ACL_RT_PARAM);
    }
    if (dlsym(found->library, name) == NULL || strlen(name) >= sizeof found->name) {
        LEAVE(refuse(ACL_RT_PARAM, "aclrtBinaryGetFunction: no kernel %s", name));
    }
    struct object *made = make(FUNCTION, current);
    made->binary = found;
    strcpy(made->name, name);
    *function = made;
    LEAVE(0);
}

aclError aclrtBinaryUnLoad(aclrtBinHandle binary) {
    ENTER(aclrtBinaryUnLoad);
    pthread_mutex_lock(&lock);
    struct object *found = known(binary, BINARY, "aclrtBinaryUnLoad");
    if (found == NULL) {
        LEAVE(ACL_RT_PARAM);
    }
    for (struct object *stream = objects; stream != NULL; stream = stream->next) {
        for (struct task *task = stream->kind == STREAM && stream->live ? stream->first : NULL; task != NULL;
             task = task->next) {
            if (task->call == TASK_LAUNCH && task->function->binary == found) {
                violate("aclrtBinaryUnLoad: a kernel of it runs");
            }
        }
    }
    unload(found);
    LEAVE(0);
}

aclError aclrtKernelArgsInit(aclrtFuncHandle function, aclrtArgsHandle *arguments) {
    ENTER(aclrtKernelArgsInit);
    pthread_mutex_lock(&lock);
    struct object *found = in_context(function, FUNCTION, "aclrtKernelArgsInit");
    if (found == NULL) {
        LEAVE(ACL_RT_PARAM);
    }
    struct object *made = make(ARGUMENTS, current);
    made->function = found;
    *arguments = made;
    LEAVE(0);
}

aclError aclrtKernelArgsAppend(aclrtArgsHandle arguments, void *value, size_t bytes,
                               aclrtParamHandle *parameter) {
    ENTER(aclrtKernelArgsAppend);
    pthread_mutex_lock(&lock);
    struct object *found = in_context(arguments, ARGUMENTS, "aclrtKernelArgsAppend");
    if (found == NULL || found->final || value == NULL || parameter == NULL ||
        bytes > sizeof found->values - found->used) {
        violate("aclrtKernelArgsAppend: %zu bytes", bytes);
        LEAVE(ACL_RT_PARAM);
    }
    memcpy(found->values + found->used, value, bytes);
    *parameter = found->values + found->used;
    found->used += bytes;
    LEAVE(0);
}

aclError aclrtKernelArgsFinalize(aclrtArgsHandle arguments) {
    ENTER(aclrtKernelArgsFinalize);
    pthread_mutex_lock(&lock);
    struct object *found = in_context(arguments, ARGUMENTS, "aclrtKernelArgsFinalize");
    if (found == NULL || found->final) {
        violate("aclrtKernelArgsFinalize: not open");
        LEAVE(ACL_RT_PARAM);
    }
    found->final = true;
    LEAVE(0);
}

/* Under the lock. */
static int32_t launch(struct object *function, uint32_t blocks, aclrtStream stream,
                      const aclrtLaunchConfig *config, const void *arguments, size_t bytes,
                      const char *call) {
    int32_t code = check_context(call);
    if (code != 0) {
        return code;
    }
    struct object *onto = in_context(stream, STREAM, call);
    if (onto == NULL || blocks == 0 || bytes == 0 || bytes % 8 != 0 || bytes > MAX_ARGUMENT_BYTES) {
        violate("%s: %u blocks, %zu bytes of arguments", call, blocks, bytes);
        return ACL_RT_PARAM;
    }
    uint64_t seconds = 0, microseconds = 0;
    for (size_t at = 0; config != NULL && at < config->count; at++) {
        const aclrtLaunchAttribute *attribute = &config->attributes[at];
        bool limit = attribute->value.words[0] != 0, fine = false;
        switch (attribute->id) {
        case ACL_LAUNCH_ENGINE:
            fine = attribute->value.engine == ACL_ENGINE_VECTOR;
            break;
        case ACL_LAUNCH_TIMEOUT_S:
            fine = limit && seconds++ == 0;
            break;
        case ACL_LAUNCH_TIMEOUT_US:
            fine = limit && microseconds++ == 0;
            break;
        }
        if (!fine) {
            violate("%s: attribute %d", call, attribute->id);
            return ACL_RT_PARAM;
        }
    }
    if (seconds != 0 && microseconds != 0) {
        violate("%s: a limit in seconds and one in microseconds", call);
        return ACL_RT_PARAM;
    }
    struct task task = {.call = TASK_LAUNCH, .function = function, .blocks = blocks, .argument_bytes = bytes};
    memcpy(task.arguments, arguments, bytes);
    for (size_t at = 0; at < bytes; at += 8) {
        void *pointer;
        memcpy(&pointer, task.arguments + at, 8);
        struct object *memory = memory_at(pointer, 1, DEVICE);
        if (memory == NULL || memory->context != current) {
            violate("%s: argument %zu is no device memory of this context", call, at / 8);
            return ACL_RT_PARAM;
        }
    }
    seconds_limits += seconds;
    microseconds_limits += microseconds;
    return enqueue(onto, task);
}

aclError aclrtLaunchKernelWithConfig(aclrtFuncHandle function, uint32_t blocks, aclrtStream stream,
                                     aclrtLaunchConfig *config, aclrtArgsHandle arguments, void *reserved) {
    ENTER(aclrtLaunchKernelWithConfig);
    pthread_mutex_lock(&lock);
    struct object *found = in_context(function, FUNCTION, "aclrtLaunchKernelWithConfig");
    struct object *list = in_context(arguments, ARGUMENTS, "aclrtLaunchKernelWithConfig");
    if (found == NULL || list == NULL || !list->final || list->function != found || reserved != NULL) {
        violate(
            "aclrtLaunchKernelWithConfig: arguments of another kernel or not final, or a reserved pointer");
        LEAVE(ACL_RT_PARAM);
    }
    LEAVE(launch(found, blocks, stream, config, list->values, list->used, "aclrtLaunchKernelWithConfig"));
}

aclError aclrtLaunchKernelWithHostArgs(aclrtFuncHandle function, uint32_t blocks, aclrtStream stream,
                                       aclrtLaunchConfig *config, void *arguments, size_t bytes,
                                       void *placeholders, size_t placeholder_count) {
    ENTER(aclrtLaunchKernelWithHostArgs);
    pthread_mutex_lock(&lock);
    struct object *found = in_context(function, FUNCTION, "aclrtLaunchKernelWithHostArgs");
    if (found == NULL || arguments == NULL || placeholders != NULL || placeholder_count != 0) {
        violate("aclrtLaunchKernelWithHostArgs: no arguments, or placeholders");
        LEAVE(ACL_RT_PARAM);
    }
    LEAVE(launch(found, blocks, stream, config, arguments, bytes, "aclrtLaunchKernelWithHostArgs"));
}

/* What tests steer it by. */

const char *fake_call_name(uint32_t index) { return index < TASK_COPY ? call_names[index] : NULL; }

int32_t fake_fail(const char *call, uint32_t nth, uint32_t times, int32_t code) {
    int at = find_call(call);
    if (at < 0 || nth == 0 || times == 0 || code == 0) {
        return -1;
    }
    pthread_mutex_lock(&lock);
    plans[at].fail_in = nth;
    plans[at].fail_times = times;
    plans[at].code = code;
    LEAVE(0);
}

int32_t fake_slow(const char *call, uint32_t microseconds) {
    int at = find_call(call);
    if (at < 0) {
        return -1;
    }
    pthread_mutex_lock(&lock);
    plans[at].slow_us = microseconds;
    LEAVE(0);
}

int32_t fake_hang(const char *call, uint32_t nth) {
    int at = find_call(call);
    if (at < 0 || nth == 0) {
        return -1;
    }
    pthread_mutex_lock(&lock);
    plans[at].hang_in = nth;
    LEAVE(0);
}

void fake_release(void) {
    pthread_mutex_lock(&lock);
    release_count++;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

void fake_corrupt(uint32_t nth, uint64_t offset) {
    pthread_mutex_lock(&lock);
    corrupt_in = nth;
    corrupt_offset = offset;
    pthread_mutex_unlock(&lock);
}

void fake_lose_contexts(void) {
    pthread_mutex_lock(&lock);
    for (struct object *object = objects; object != NULL; object = object->next) {
        object->lost = object->lost || object->kind == CONTEXT;
    }
    pthread_mutex_unlock(&lock);
}

void fake_forgive(void) {
    pthread_mutex_lock(&lock);
    for (int call = 0; call < CALL_COUNT; call++) {
        plans[call].fail_in = plans[call].fail_times = plans[call].hang_in = plans[call].slow_us = 0;
    }
    corrupt_in = 0;
    pthread_mutex_unlock(&lock);
    fake_release();
}

void fake_version(int32_t major, int32_t minor, int32_t patch) {
    pthread_mutex_lock(&lock);
    version[0] = major;
    version[1] = minor;
    version[2] = patch;
    pthread_mutex_unlock(&lock);
}

void fake_devices(uint32_t count) {
    pthread_mutex_lock(&lock);
    devices = count;
    pthread_mutex_unlock(&lock);
}

void fake_soc(const char *name) {
    pthread_mutex_lock(&lock);
    snprintf(soc, sizeof soc, "%s", name);
    pthread_mutex_unlock(&lock);
}

void fake_cores(int64_t cores, int64_t bytes) {
    pthread_mutex_lock(&lock);
    vector_cores = cores;
    unified_buffer_bytes = bytes;
    pthread_mutex_unlock(&lock);
}

void fake_overflow(int32_t mode) {
    pthread_mutex_lock(&lock);
    overflow_mode = mode;
    pthread_mutex_unlock(&lock);
}

void fake_memory(uint64_t bytes) {
    pthread_mutex_lock(&lock);
    memory_limit = bytes;
    pthread_mutex_unlock(&lock);
}

void fake_foreign_init(int32_t yes) {
    pthread_mutex_lock(&lock);
    foreign_init = yes != 0;
    pthread_mutex_unlock(&lock);
}

uint64_t fake_calls(const char *call) {
    int at = find_call(call);
    pthread_mutex_lock(&lock);
    uint64_t count = at < 0 ? UINT64_MAX : plans[at].calls;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t fake_live(const char *kind) {
    uint64_t count = 0;
    pthread_mutex_lock(&lock);
    if (strcmp(kind, "bytes") == 0) {
        count = memory_used;
    } else if (strcmp(kind, "init") == 0) {
        count = initialised && !foreign_init;
    } else if (strcmp(kind, "set-device") == 0) {
        count = set_device;
    } else if (strcmp(kind, "limits-in-seconds") == 0) {
        count = seconds_limits;
    } else if (strcmp(kind, "limits-in-microseconds") == 0) {
        count = microseconds_limits;
    } else {
        bool all = strcmp(kind, "all") == 0;
        for (struct object *object = objects; object != NULL; object = object->next) {
            count += object->live && (all || strcmp(kind, kind_names[object->kind]) == 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t fake_reclaimed(void) {
    pthread_mutex_lock(&lock);
    uint64_t count = reclaimed;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t fake_violations(void) {
    pthread_mutex_lock(&lock);
    uint64_t count = violations;
    pthread_mutex_unlock(&lock);
    return count;
}

const char *fake_violation(void) { return first_violation; }

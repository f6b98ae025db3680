/* What tests steer the fake runtime by. Exported beside the calls of acl_min.h, so no environment variable is
 * shared between tests. */
#ifndef BALANCEROUTE_FAKE_H
#define BALANCEROUTE_FAKE_H

#include <stdint.h>

/* The calls of acl_min.h, null past the last. */
const char *fake_call_name(uint32_t index);

/* The `nth` call from now (1 for the next) and the `times - 1` after it return `code` and do nothing. Tasks
 * of a stream are calls as well: "task-copy", "task-launch" and "task-record"; a task that fails puts its
 * stream into that error. */
int32_t fake_fail(const char *call, uint32_t nth, uint32_t times, int32_t code);
/* Every call of this name takes so many microseconds more. */
int32_t fake_slow(const char *call, uint32_t microseconds);
/* The `nth` call from now does not return until `fake_release`, or, for a task, until its stream is
 * destroyed. */
int32_t fake_hang(const char *call, uint32_t nth);
/* Ends every hang. */
void fake_release(void);
/* The `nth` copy back from now ends in one wrong byte at this offset. */
void fake_corrupt(uint32_t nth, uint64_t offset);
/* Every context of now is gone: calls in it fail until it is destroyed. */
void fake_lose_contexts(void);
/* Forgets failures, delays and hangs; keeps what lives. */
void fake_forgive(void);

void fake_version(int32_t major, int32_t minor, int32_t patch);
void fake_devices(uint32_t count);
void fake_soc(const char *name);
void fake_cores(int64_t vector_cores, int64_t unified_buffer_bytes);
/* What aclrtGetDeviceSatMode answers. */
void fake_overflow(int32_t mode);
/* Bytes that aclrtMalloc and aclrtMallocHost hand out together at most. */
void fake_memory(uint64_t bytes);
/* Whether the process has called aclInit by itself already: the next one is told so. */
void fake_foreign_init(int32_t yes);

/* How often a call was made, failed ones included. */
uint64_t fake_calls(const char *call);
/* Objects that live: "context", "stream", "event", "device", "host", "binary", "arguments"; "all"; "bytes"
 * for memory; "init", "set-device". And launches so far with a limit of time: "limits-in-seconds",
 * "limits-in-microseconds". */
uint64_t fake_live(const char *kind);
/* Objects that nobody destroyed before their context. */
uint64_t fake_reclaimed(void);
/* Misuse: double free, use after destruction, a foreign context, a copy past the end, memory freed under a
 * task... and the first of it. */
uint64_t fake_violations(void);
const char *fake_violation(void);

#endif

/* Which waiting request enters which free slot: C interface of balanceroute. Apache-2.0.

   Made from ffi/capi/src by cbindgen; `BALANCEROUTE_BLESS=1 cargo test -p balanceroute-capi --test header` makes it again.

   Set struct_size of every struct to its sizeof and everything that is not used to zero. Arrays belong to the caller; the library
   reads and writes them during the call only. One handle serves one thread at a time (BR_BUSY otherwise); several handles are
   independent. There is no global state, and no call ends the process. */

#ifndef BALANCEROUTE_H
#define BALANCEROUTE_H

#include <stddef.h>
#include <stdint.h>

// Version of this interface: the major number in the upper 16 bits changes when a caller must be changed, the minor number below when
// something is added.
#define BR_ABI_VERSION (1 << 16)

// In a `uint32_t` array: no value for this entry.
#define BR_NONE UINT32_MAX

// In a `uint64_t` array: no value for this entry.
#define BR_NONE64 UINT64_MAX

// What a call answers. The text of the error is kept in the handle.
enum br_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Done.
    BR_OK = 0,
    // A pointer that is NULL or not aligned, a `struct_size` that no version has, text that is not UTF-8, a number that is no enum value.
    BR_ARGUMENT = 1,
    // An unknown policy, parameter, backend or instruction set, or a parameter out of its range.
    BR_POLICY = 2,
    // Workers, requests or terms that contradict each other or pass a limit.
    BR_BATCH = 3,
    // A buffer of the caller is too small; its count says what it must hold. Nothing has happened.
    BR_SPACE = 4,
    // Another thread is inside this handle. Nothing has happened.
    BR_BUSY = 5,
    // The library has failed inside; the handle answers nothing else any more and should be freed.
    BR_INTERNAL = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_status br_status;
#else
typedef int32_t br_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A policy and its buffers. Calls with one handle come one at a time, from any thread.
typedef struct br_assigner br_assigner;

// How a policy is built. All fields but the first may be zero.
typedef struct {
    // `sizeof(br_options)`.
    size_t struct_size;
    // Who evaluates: "auto", "cpu" or "reference"; NULL for "auto".
    const char *backend;
    // "scalar", "avx2", "avx512" or "neon"; NULL for what `BALANCEROUTE_ISA` says, or else the best of this CPU.
    const char *isa;
    // Number of parameters.
    size_t parameter_count;
    // Their names, such as "level.aging_spread".
    const char *const *parameter_names;
    // Their values; 1 for true.
    const double *parameter_values;
} br_options;

// The workers (data-parallel ranks) as the step begins, `count` entries in each array. Arrays that may be NULL say what that means.
typedef struct {
    // `sizeof(br_workers)`.
    size_t struct_size;
    // Number of workers, 1 to 1024.
    size_t count;
    // KV tokens that the running requests read each step.
    const uint64_t *load_tokens;
    // Requests decoding there now, each of which adds a token a step; NULL for none.
    const uint32_t *running;
    // Free batch slots.
    const uint32_t *free_slots;
    // KV tokens that fit, `BR_NONE64` for no bound; NULL for no bound anywhere.
    const uint64_t *kv_capacity_tokens;
    // KV tokens held, at least the load; NULL for the load.
    const uint64_t *kv_used_tokens;
    // KV tokens by which running requests are predicted to grow and that an admission must leave free; NULL for 0.
    const uint64_t *kv_growth_tokens;
    // Relative step cost per token, 0 to 64; NULL for 1.
    const float *weight;
    // 0 for a draining worker: it takes nothing new and still holds the step up; NULL for 1.
    const uint8_t *accepting;
    // Steps to the next predicted completion, `BR_NONE` for unknown; NULL for unknown everywhere.
    const uint32_t *next_completion_steps;
} br_workers;

// The waiting requests in arrival order, `count` entries in each array.
typedef struct {
    // `sizeof(br_requests)`.
    size_t struct_size;
    // Number of requests, 0 to 2^20.
    size_t count;
    // KV tokens that each brings, 1 to 2^22.
    const uint32_t *prompt_tokens;
    // Names that stay the same from call to call, each once. NULL for the rows 0, 1, 2 and so on, which is faster and means the same unless
    // the policy has a memory (`level.reserve`).
    const uint64_t *ids;
    // Steps waited so far; NULL for 0.
    const uint32_t *waited_steps;
    // Overdue once it has waited this many steps, `BR_NONE` for no such bound; NULL for none anywhere.
    const uint32_t *deadline_steps;
    // The only worker that may take it, `BR_NONE` for any; NULL for any everywhere.
    const uint32_t *rank;
    // Its row in the bonus and eligibility matrices of `br_batch`, `BR_NONE` for none; NULL for none anywhere.
    const uint32_t *pair_row;
    // Its row in the survival classes of `br_batch`, `BR_NONE` for none; NULL for none anywhere.
    const uint32_t *survival_class;
} br_requests;

// What else is known of the step. All fields but the first may be zero.
typedef struct {
    // `sizeof(br_batch)`.
    size_t struct_size;
    // Mean length of arriving requests in tokens.
    int64_t mean_prompt_tokens;
    // Standard deviation of the same.
    int64_t sd_prompt_tokens;
    // The 10 % quantile of the same: the smallest refill to be expected.
    int64_t small_prompt_tokens;
    // Mean output length of finished requests in tokens.
    int64_t mean_output_tokens;
    // Tokens that an admission must leave free for the admitted request's own growth.
    uint32_t request_growth_tokens;
    // Steps looked ahead by `projection` and `class_survival`, at most 128.
    uint32_t horizon_steps;
    // Tokens that the requests running now hold in 0 to `horizon_steps` steps: a row of `horizon_steps + 1` for each worker; NULL for unknown.
    const uint64_t *projection;
    // Where each worker's predicted completions begin in the two arrays below: one entry more than workers; NULL for unknown.
    const uint32_t *end_offsets;
    // Steps until each completion, at least 1, in order of time for each worker.
    const uint32_t *end_in_steps;
    // KV tokens that each frees.
    const uint64_t *end_freed_tokens;
    // Rows of the matrices below.
    size_t pair_rows;
    // Bonus in tokens (prefix affinity), a row of one entry per worker for each `pair_row`; NULL for none.
    const float *bonus_tokens;
    // The same as the bits of 16-bit floats, instead of `bonus_tokens`; NULL for none.
    const uint16_t *bonus_half_tokens;
    // Eligibility: a row of one 64-bit word per 64 workers for each `pair_row`, bit `g % 64` of word `g / 64`; NULL for all.
    const uint64_t *eligible;
    // Number of survival classes, at most 256.
    size_t class_count;
    // Probability to still run after 0 to `horizon_steps` steps: a row of `horizon_steps + 1` for each class; NULL for none.
    const float *class_survival;
} br_batch;

// The answer, in arrays of the caller; those that may be NULL are not filled then.
typedef struct {
    // `sizeof(br_answer)`.
    size_t struct_size;
    // Entries that `row`, `worker` and `score_tokens` hold; the free slots of accepting workers, or all requests if fewer, always suffice.
    size_t capacity;
    // Out: admissions, in the order of decision; with `BR_SPACE` the capacity that suffices.
    size_t count;
    // Out: row of each admitted request.
    uint32_t *row;
    // Out: its worker.
    uint32_t *worker;
    // Out: the score that won, in tokens, comparable within one call; or NULL.
    double *score_tokens;
    // Out: a `br_reason` for every request; or NULL.
    uint8_t *wait_reason;
    // Out: the greatest load before, in tokens times weight.
    double envelope_before_tokens;
    // Out: workers times the greatest load minus the sum of loads, before.
    double imbalance_before_tokens;
    // Out: the greatest load after.
    double envelope_after_tokens;
    // Out: the imbalance after.
    double imbalance_after_tokens;
} br_answer;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The `BR_ABI_VERSION` of the library at hand: its major number must be the header's, its minor number at least the header's.
uint32_t br_abi_version(void);

// The version of the library, such as "0.1.0"; never freed.
const char *br_version(void);

// Makes an assigner of a policy ("level" for NULL) with options (NULL for none) into `*assigner`, NULL when it fails. The text of an error goes
// into `error`, which has `error_size` bytes and may be NULL.
br_status br_assigner_new(const char *policy,
                          const br_options *options,
                          br_assigner **assigner,
                          char *error,
                          size_t error_size);

// Frees an assigner, after its last call; NULL is allowed.
void br_assigner_free(br_assigner *assigner);

// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero; "" after a call without error.
size_t br_assigner_error(br_assigner *assigner,
                         char *buffer,
                         size_t size);

// Which policy and backend decide, on which instruction set, and why: text, as `br_assigner_error` gives it.
size_t br_assigner_describe(const br_assigner *assigner, char *buffer, size_t size);

// Decides a step: which waiting request enters which free slot. `batch` may be NULL. The same input gives the same answer, whatever was decided
// before, unless the policy has a memory. Nothing is allocated once the handle has seen its largest sizes, unless reasons are asked for.
br_status br_assign(br_assigner *assigner,
                    const br_workers *workers,
                    const br_requests *requests,
                    const br_batch *batch,
                    br_answer *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BALANCEROUTE_H */

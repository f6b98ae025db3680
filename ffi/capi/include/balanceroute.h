/* Which waiting request enters which free slot: C interface of balanceroute. Apache-2.0.

   Made from ffi/capi/src by cbindgen; this makes it again:
   BALANCEROUTE_BLESS=1 cargo test -p balanceroute-capi --test header

   Set struct_size of every struct to its sizeof and everything that is not used to zero. Arrays belong to the
   caller; the library reads and writes them during the call only. One handle serves one thread at a time
   (BR_BUSY otherwise); several handles are independent. There is no global state, and no call ends the
   process. */

#ifndef BALANCEROUTE_H
#define BALANCEROUTE_H

#include <stddef.h>
#include <stdint.h>

// Version of this interface: the major number in the upper 16 bits changes when a caller must be changed,
// the minor number below when something is added.
#define BR_ABI_VERSION ((1 << 16) | 4)

// In a `uint32_t` array: no value for this entry.
#define BR_NONE UINT32_MAX

// In a `uint64_t` array: no value for this entry.
#define BR_NONE64 UINT64_MAX

// Buckets of a histogram.
#define BR_BUCKETS 40

// `br_request.fields`: `rank` is set.
#define BR_HAS_RANK 1

// `br_request.fields`: `deadline_steps` is set.
#define BR_HAS_DEADLINE 2

// `br_request.fields`: `prompt_hash` is set.
#define BR_HAS_PROMPT_HASH 4

// `br_request.fields`: `max_tokens` is set.
#define BR_HAS_MAX_TOKENS 8

// What a call answers. The text of the error is kept in the handle.
enum br_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Done.
    BR_OK = 0,
    // A pointer that is NULL or not aligned, a `struct_size` that no version has, text that is not UTF-8, a
    // number that is no enum value, or a segment that is too small or too large.
    BR_ARGUMENT = 1,
    // An unknown policy, parameter, backend or instruction set, or a parameter out of its range.
    BR_POLICY = 2,
    // Workers, requests or terms that contradict each other or pass a limit.
    BR_BATCH = 3,
    // A buffer of the caller is too small; its count says what it must hold. Nothing has happened.
    BR_SPACE = 4,
    // Another thread is inside this handle, or was as this process was forked. Nothing has happened.
    BR_BUSY = 5,
    // The library itself has failed in this call. An assigner decides on; a router may have lost its count,
    // and then answers BR_BROKEN.
    BR_INTERNAL = 6,
    // The request neither waits nor runs; for calls about running requests: it does not run; for calls about
    // a dispatch: it waits, or runs by another.
    BR_UNKNOWN_REQUEST = 7,
    // No such worker: never there, or removed; for a request that any may take: there is none.
    BR_UNKNOWN_WORKER = 8,
    // A call that does not fit the router's state: an id that runs already, a dispatch that was never made.
    BR_STATE = 9,
    // An earlier call has failed inside (BR_INTERNAL) and the router is not whole: only `br_router_recover`
    // helps. Nothing has happened.
    BR_BROKEN = 10,
    // A file or folder of a recording refuses: the text says which and why.
    BR_IO = 11,
    // Another router records into this folder.
    BR_IN_USE = 12,
    // There is no recording, or several, or the file is none.
    BR_NO_RECORDING = 13,
    // A recording that this library cannot go on from: another version wrote it, its policy is not one of
    // this library's, its state is damaged, or it had stopped before the router did.
    BR_OTHER_RECORDING = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_status br_status;
#else
typedef int32_t br_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What became of a request.
enum br_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It is admitted.
    BR_ADMITTED = 0,
    // It waits: no accepting worker that it may use has a free slot left.
    BR_NO_SLOT = 1,
    // It waits: slots are free, but the KV cache there would not hold it and the predicted growth.
    BR_NO_CAPACITY = 2,
    // It waits: slots are free, but only on workers that it may not use.
    BR_NOT_ELIGIBLE = 3,
    // It waits: the policy looks at the oldest few only, and it is not among them.
    BR_OUTSIDE_WINDOW = 4,
    // It waits: the policy keeps the slot for another request.
    BR_DEFERRED = 5,
    // It waits: it is overdue and fits nowhere, and a worker is kept for it until it does.
    BR_CLAIMS = 6,
    // It waits: it would fit only on the worker that is kept for such a request.
    BR_CLAIMED = 7,
    // It waits for a reason that this version has no name for.
    BR_OTHER_REASON = 255,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_reason br_reason;
#else
typedef uint8_t br_reason;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// When `br_router_place` decides.
enum br_mode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Never: every request waits for a step.
    BR_STEP = 0,
    // Always, where a worker has room.
    BR_ARRIVAL = 1,
    // While more than `mixed_free_slots` slots are open over all workers.
    BR_MIXED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_mode br_mode;
#else
typedef uint32_t br_mode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Why a request comes back.
enum br_return_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // A report that came long enough after the dispatch has not seen it.
    BR_LOST_DISPATCH = 1,
    // Nothing at all has shown the dispatch for the silence timeout.
    BR_WORKER_SILENT = 2,
    // The worker had acknowledged it and has reported for the dispatch timeout that it holds no request.
    BR_WORKER_FORGOT = 3,
    // Its worker was removed.
    BR_WORKER_REMOVED = 4,
    // It waits for a worker that is draining and might go nowhere else.
    BR_WORKER_DRAINING = 5,
    // It and its headroom are longer than the KV cache of any worker that it may use.
    BR_NEVER_FITS = 6,
    // It has waited for the time that the configuration allows.
    BR_EXPIRED = 7,
    // The router has begun anew (`br_router_recover`): it waited, or runs on.
    BR_RECOVERED = 8,
    // A reason that this version has no name for.
    BR_OTHER_RETURN = 255,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_return_reason br_return_reason;
#else
typedef uint32_t br_return_reason;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What became of a report.
enum br_verdict
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It is the newest: the state is now what it measured plus what it has not seen.
    BR_TAKEN = 0,
    // It carries the number of the newest one: ignored.
    BR_REPEATED = 1,
    // It is older than the newest one: its acknowledgement counts, its measurement does not.
    BR_LATE = 2,
    // It is newer by its number and has seen less than the one before: ignored.
    BR_CONTRADICTORY = 3,
    // Its worker has started anew under the same id: taken, and what ran there comes back.
    BR_RESTARTED = 4,
    // A verdict that this version has no name for.
    BR_OTHER_VERDICT = 255,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_verdict br_verdict;
#else
typedef uint32_t br_verdict;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How a request was decided.
enum br_decided
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Nothing is known of it.
    BR_UNDECIDED = 0,
    // Admitted by the last step.
    BR_BY_STEP = 1,
    // Placed on arrival since.
    BR_BY_ARRIVAL = 2,
    // It waits.
    BR_WAITS = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_decided br_decided;
#else
typedef uint32_t br_decided;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Whether a router is recorded.
enum br_recording_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It is not.
    BR_NOT_RECORDED = 0,
    // Every call is.
    BR_RECORDED = 1,
    // It was, until the log could not be written.
    BR_RECORDING_STOPPED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum br_recording_state br_recording_state;
#else
typedef uint32_t br_recording_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A policy and its buffers. Calls with one handle come one at a time, from any thread.
typedef struct br_assigner br_assigner;

// A cluster's state across steps and the policy that decides. Calls with one handle come one at a time, from
// any thread.
//
// Every request that was let in leaves exactly once: by `br_router_finish`, `br_router_abort` or what they
// do for one dispatch, by `br_router_preempt` or `br_router_disown_sent`, or as a `br_returned`. `now_ms` is
// the caller's clock in milliseconds, any origin; a clock that is set back or far ahead neither stops nor
// moves the time here.
typedef struct br_router br_router;

// How a policy is built. All fields but the first may be zero.
typedef struct {
    // `sizeof(br_options)`.
    size_t struct_size;
    // Who evaluates: "auto", "cpu", "ascend" (where built in) or "reference"; NULL for "auto".
    const char *backend;
    // "scalar", "avx2", "avx512" or "neon"; NULL for what `BALANCEROUTE_ISA` says, or else the best of this
    // CPU.
    const char *isa;
    // Number of parameters.
    size_t parameter_count;
    // Their names, such as "max_passed".
    const char *const *parameter_names;
    // Their values; 1 for true.
    const double *parameter_values;
} br_options;

// The workers (data-parallel ranks) as the step begins, `count` entries in each array. Arrays that may be
// NULL say what that means.
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
    // KV tokens by which running requests are predicted to grow and that an admission must leave free; NULL
    // for 0.
    const uint64_t *kv_growth_tokens;
    // Relative step cost per token, 0 to 64; NULL for 1.
    const float *weight;
    // 0 for a draining worker: it takes nothing new and still holds the step up; NULL for 1.
    const uint8_t *accepting;
    // Steps to the next predicted completion, `BR_NONE` for unknown; NULL for unknown everywhere.
    const uint32_t *next_completion_steps;
} br_workers;

// The waiting requests in arrival order, of whatever classes, `count` entries in each array.
typedef struct {
    // `sizeof(br_requests)`.
    size_t struct_size;
    // Number of requests, 0 to 2^20.
    size_t count;
    // KV tokens that each brings, 1 to 2^22.
    const uint32_t *prompt_tokens;
    // Names that stay the same from call to call, each once. NULL for the rows 0, 1, 2 and so on, which is
    // faster and means the same unless the policy has a memory.
    const uint64_t *ids;
    // Steps waited so far; NULL for 0.
    const uint32_t *waited_steps;
    // Overdue once it has waited this many steps, `BR_NONE` for no such bound; NULL for none anywhere.
    const uint32_t *deadline_steps;
    // The only worker that may take it, `BR_NONE` for any; NULL for any everywhere.
    const uint32_t *rank;
    // Its row in the bonus and eligibility matrices of `br_batch`, `BR_NONE` for none; NULL for none
    // anywhere.
    const uint32_t *pair_row;
    // Its row in the survival classes of `br_batch`, `BR_NONE` for none; NULL for none anywhere.
    const uint32_t *survival_class;
    // How many of its class that came later were admitted before each, to workers that it may use; NULL for
    // 0.
    const uint32_t *passed;
    // Class of each, -128 to 127: whoever is of a higher one goes before it; NULL for 0.
    const int32_t *priority;
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
    // Tokens that the requests running now hold in 0 to `horizon_steps` steps: a row of `horizon_steps + 1`
    // for each worker; NULL for unknown.
    const uint64_t *projection;
    // Where each worker's predicted completions begin in the two arrays below: one entry more than workers;
    // NULL for unknown.
    const uint32_t *end_offsets;
    // Steps until each completion, at least 1, in order of time for each worker.
    const uint32_t *end_in_steps;
    // KV tokens that each frees.
    const uint64_t *end_freed_tokens;
    // Rows of the matrices below.
    size_t pair_rows;
    // Bonus in tokens (prefix affinity), a row of one entry per worker for each `pair_row`; NULL for none.
    const float *bonus_tokens;
    // Bonuses as the bits of 16-bit floats, instead of `bonus_tokens`; NULL for none.
    const uint16_t *bonus_half_tokens;
    // Eligibility: a row of one 64-bit word per 64 workers for each `pair_row`, bit `g % 64` of word `g /
    // 64`; NULL for all.
    const uint64_t *eligible;
    // Number of survival classes, at most 256.
    size_t class_count;
    // Probability to still run after 0 to `horizon_steps` steps: a row of `horizon_steps + 1` for each
    // class; NULL for none.
    const float *class_survival;
} br_batch;

// The answer, in arrays of the caller; those that may be NULL are not filled then.
typedef struct {
    // `sizeof(br_answer)`.
    size_t struct_size;
    // Entries that `row`, `worker` and `score_tokens` hold; the free slots of accepting workers, or all
    // requests if fewer, always suffice.
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

// How a router is made; `br_router_defaults` fills it.
typedef struct {
    // `sizeof(br_router_config)`.
    size_t struct_size;
    // Number of workers; their ids are 0, 1, 2 and so on. May be 0.
    size_t worker_count;
    // Batch slots of each worker.
    const uint32_t *slots;
    // KV tokens that fit on each, `BR_NONE64` for no bound; NULL for no bound anywhere.
    const uint64_t *kv_capacity_tokens;
    // Relative step cost per token of each, 0 to 64; NULL for 1.
    const float *weight;
    // Steps of growth that an admission leaves free for each running request and for itself, where the KV
    // cache is bounded; `BR_NONE`, the default, for as much room as is learned to be needed.
    uint32_t headroom_steps;
    // Steps between two predictions for the same running request, 1 to 65536; 16.
    uint32_t refresh_steps;
    // How far ahead predicted ends are kept, in steps; 512.
    uint32_t ends_horizon_steps;
    // A `br_mode`; `BR_STEP`.
    uint32_t mode;
    // Used with `BR_MIXED`.
    uint32_t mixed_free_slots;
    // Which part of every worker this router is sure of, below `share_of`; 0. Beyond it, it takes its turn
    // with the others at what reports show to be free.
    uint32_t share_index;
    // Number of front ends that feed the same workers; 1.
    uint32_t share_of;
    // Whether `br_router_explain` has something to say about admissions; 0.
    uint32_t explaining;
    // A dispatch is lost, and returned, when a report that comes at least this long after it has not seen
    // it; `BR_NONE64` for never, the default.
    uint64_t dispatch_timeout_ms;
    // A dispatch is returned when nothing at all has shown it for this long; `BR_NONE64` for never, the
    // default.
    uint64_t silence_timeout_ms;
    // A request is returned when it has waited this long; `BR_NONE64` for never, the default.
    uint64_t expire_after_ms;
    // Whether requests reach a worker in the order of their dispatch: a token of one then shows that the
    // worker has those sent before it; 0.
    uint32_t in_order;
    // The share that no class above can take: for each `lower_class_one_in - 1` admissions of higher classes
    // while somebody of a class waits, one is that class's before any of a higher one; 2 to 65536. 0, the
    // default: a lower class gets what higher ones leave.
    uint32_t lower_class_one_in;
    // What room and preemptions cost, where `headroom_steps` is `BR_NONE`: how long a decode step takes
    // without load, in milliseconds, and the prefill of a token that is done again, in microseconds; 0 to
    // 1e6. Both 0, the default, where that is not known.
    double step_base_ms;
    // See `step_base_ms`.
    double prefill_us_per_token;
} br_router_config;

// Why a decision fell as it did.
typedef struct {
    // `sizeof(br_explanation)`.
    size_t struct_size;
    // Out: a `br_decided`.
    uint32_t decided;
    // Out: a `br_reason`, if it waits.
    uint32_t wait_reason;
    // Out: the worker that it entered, or claims while it waits; `BR_NONE` if it waits for any.
    uint32_t worker;
    // Out: the worker that came second, `BR_NONE` if there was none or the policy scores no pairs.
    uint32_t runner_up;
    // Out: the score that won, in tokens, after the picks before it; NaN if it waits.
    double score_tokens;
    // Out: its score there as the step began; NaN for a policy that scores no pairs.
    double opening_score_tokens;
    // Out: the runner-up's score as the step began; NaN without one.
    double runner_up_score_tokens;
    // Out: tokens by which the worker was below the most loaded one as the step began.
    double margin_tokens;
    // Out: steps that it has waited, while it waits.
    uint32_t waited_steps;
    // Out: how many of its class that came later were admitted before it, to workers that it may use.
    uint32_t passed;
    // Out: KV tokens that it had to leave free on that worker for others to grow by; 0 if it waits.
    uint64_t kv_growth_tokens;
    // Out: its class.
    int32_t priority;
    // Zero.
    uint32_t reserved;
} br_explanation;

// One worker as it stands, an entry of `br_metrics.ranks`; `br_rank` says more.
typedef struct {
    // KV tokens that it reads each step, foreign ones included.
    uint64_t load_tokens;
    // Tokens by which it is below the most loaded worker.
    double margin_tokens;
    // KV tokens counted as used.
    uint64_t kv_used_tokens;
    // KV tokens kept free for the growth of what runs.
    uint64_t kv_growth_tokens;
    // KV tokens that fit; `BR_NONE64` for no bound.
    uint64_t kv_capacity_tokens;
    // Tokens that the last report showed and that are none of ours.
    uint64_t foreign_tokens;
    // Dispatches made.
    uint64_t dispatches;
    // The last one acknowledged by a report.
    uint64_t acknowledged;
    // Milliseconds since a report was taken; `BR_NONE64` before the first.
    uint64_t report_age_ms;
    // Reports: taken, repeated, late, contradictory, restarted.
    uint64_t reports[5];
    // Worker id.
    uint32_t worker;
    // Whether it takes new requests: 0 or 1.
    uint32_t accepting;
    // Whether it is being drained.
    uint32_t draining;
    // Requests of ours that run there.
    uint32_t running;
    // Slots that this router is sure of.
    uint32_t slots;
    // Slots that an admission could take.
    uint32_t free_slots;
    // Requests that the last report showed and that are none of ours.
    uint32_t foreign_requests;
    // Dispatches that nothing has shown yet.
    uint32_t unseen;
} br_rank_metrics;

// Counts in powers of two: bucket `b` has values of `b` binary digits, the last one all that are longer.
typedef struct {
    // Counts.
    uint64_t buckets[BR_BUCKETS];
    // Sum of all values.
    uint64_t sum;
} br_histogram;

// How a router stands and what has happened since it was made.
typedef struct {
    // `sizeof(br_metrics)`.
    size_t struct_size;
    // One entry per worker, in order of id; or NULL.
    br_rank_metrics *ranks;
    // Entries that `ranks` holds.
    size_t rank_capacity;
    // Out: workers; more than `rank_capacity` only if `ranks` is NULL.
    size_t rank_count;
    // Out: the caller's clock.
    uint64_t now_ms;
    // Out: the step clock.
    uint64_t step;
    // Out: requests that wait.
    uint64_t waiting;
    // Out: the same by `br_reason` up to `BR_DEFERRED`; entry 0 stays zero.
    uint64_t waiting_by_reason[6];
    // Out: requests that run.
    uint64_t running;
    // Out: the greatest load, tokens times weight: a step lasts as long as this.
    double envelope_tokens;
    // Out: workers times the greatest load minus the sum of loads.
    double imbalance_tokens;
    // Out: wait of the first of those who wait now.
    uint64_t longest_wait_ms;
    // Out: longest wait of those who wait now.
    uint64_t longest_wait_steps;
    // Out: requests enqueued, placed or adopted.
    uint64_t arrived;
    // Out: admissions by steps.
    uint64_t admitted_by_step;
    // Out: placements on arrival.
    uint64_t placed_on_arrival;
    // Out: requests that finished.
    uint64_t finished;
    // Out: requests given up.
    uint64_t aborted;
    // Out: requests put off their worker.
    uint64_t preempted;
    // Out: requests returned, by `br_return_reason` up to `BR_EXPIRED`; entry 0 stays zero.
    uint64_t returned[8];
    // Out: time of a decision in nanoseconds.
    br_histogram decide_ns;
    // Out: waits of the admitted in milliseconds.
    br_histogram wait_ms;
    // Out: the same in steps.
    br_histogram wait_steps;
    // Out: requests returned as `BR_RECOVERED`.
    uint64_t recovered;
    // Out: jumps of the caller's clock: readings more than ten minutes ahead of the last one or more than
    // ten seconds behind it. No time passes by them.
    uint64_t clock_jumps;
    // Out: times that an engine put a request off to go on with it by itself.
    uint64_t preempted_in_place;
    // Out: of those adopted, how many had no slot or no room by our count.
    uint64_t adopted_beyond;
    // Out: requests sent to a worker that had no room by our count.
    uint64_t sent_beyond;
    // Out: requests whose ends are not told (`br_router_disown_sent`).
    uint64_t disowned;
    // Out: how many that came later were admitted before each of the admitted, to workers that it might use.
    br_histogram passed;
    // Out: the most of these.
    uint64_t most_passed;
    // Out: the most that anybody who waits now has been passed.
    uint64_t most_passed_waiting;
    // Out: by how many a request may be passed, as the last step had it; `BR_NONE64` where the policy knows
    // no bound.
    uint64_t max_passed;
    // Out: requests that wait as `BR_CLAIMS`: one or none.
    uint64_t waiting_claims;
    // Out: requests that wait as `BR_CLAIMED`.
    uint64_t waiting_claimed;
    // Out: times that a request which was overdue and fitted nowhere began to claim a worker.
    uint64_t claims;
    // Out: requests that entered other workers meanwhile, or this one before it.
    uint64_t admitted_beside_claims;
} br_metrics;

// All of one worker as it stands.
typedef struct {
    // `sizeof(br_rank)`.
    size_t struct_size;
    // Out: KV tokens that it reads each step, foreign ones included.
    uint64_t load_tokens;
    // Out: tokens by which it is below the most loaded worker.
    double margin_tokens;
    // Out: the lengths of our requests there, whatever they share.
    uint64_t own_tokens;
    // Out: KV tokens counted as used.
    uint64_t kv_used_tokens;
    // Out: KV tokens kept free for the growth of what runs.
    uint64_t kv_growth_tokens;
    // Out: KV tokens that fit; `BR_NONE64` for no bound.
    uint64_t kv_capacity_tokens;
    // Out: KV tokens that reports show beyond our requests: of others, or of blocks that nobody who runs
    // holds.
    uint64_t foreign_tokens;
    // Out: tokens by which our requests hold less than their lengths, for they share.
    uint64_t shared_tokens;
    // Out: dispatches made.
    uint64_t dispatches;
    // Out: the last one acknowledged by a report.
    uint64_t acknowledged;
    // Out: milliseconds since a report was taken; `BR_NONE64` before the first.
    uint64_t report_age_ms;
    // Out: reports: taken, repeated, late, contradictory, restarted.
    uint64_t reports[5];
    // Out: worker id.
    uint32_t worker;
    // Out: whether it takes new requests: 0 or 1.
    uint32_t accepting;
    // Out: whether it is being drained: 0 or 1.
    uint32_t draining;
    // Out: requests of ours that run there, in whichever stage.
    uint32_t running;
    // Out: of these, how many have KV there and do not decode yet.
    uint32_t held;
    // Out: of these, how many the engine has put off.
    uint32_t preempted;
    // Out: of these, how many dispatches nothing has shown yet.
    uint32_t unseen;
    // Out: slots that this router is sure of.
    uint32_t slots;
    // Out: slots that an admission could take.
    uint32_t free_slots;
    // Out: requests that the last report showed and that are none of ours.
    uint32_t foreign_requests;
    // Out: who is overdue, fits nowhere and waits for room there that nobody else of its class or a lower
    // one is to fill; `BR_NONE64` for nobody.
    uint64_t claimed_by;
} br_rank;

// A request that arrives. All fields but the first three may be zero.
typedef struct {
    // `sizeof(br_request)`.
    size_t struct_size;
    // Unique among those that wait or run.
    uint64_t id;
    // Its length, 1 to 2^22: KV tokens that it brings, less those of `cached_tokens`.
    uint32_t prompt_tokens;
    // Which of the fields below are set: `BR_HAS_RANK`, `BR_HAS_DEADLINE`, `BR_HAS_PROMPT_HASH`,
    // `BR_HAS_MAX_TOKENS`.
    uint32_t fields;
    // The id of the only worker that may take it (a sticky session, an explicit rank).
    uint32_t rank;
    // Overdue once it has waited this many steps.
    uint32_t deadline_steps;
    // Equal for equal prompts, for forecasts that know repeated prompts.
    uint64_t prompt_hash;
    // Steps waited so far.
    uint32_t waited_steps;
    // How many of its class that came later were admitted before it, to workers that it may use; 0 for one
    // that is new.
    uint32_t passed;
    // Tokens of it that are in the KV cache of its worker already, a shared prefix: it brings that many
    // less, and one at least. Where this is not known, reports teach it.
    uint32_t cached_tokens;
    // Of the tokens that it brings, how many it has generated on a worker before, for one that comes back.
    // It may be 0 for one that `br_router_preempt` has put off and that comes again with the length told.
    uint32_t generated_tokens;
    // Tokens that it may generate in all: no room is kept for more.
    uint32_t max_tokens;
    // Its class, -128 to 127: whoever is of a higher one goes before it. 0 for one that comes again also
    // stands for the class that it had.
    int32_t priority;
} br_request;

// One admission, numbered.
typedef struct {
    // Request id.
    uint64_t id;
    // Its number among the dispatches to this worker, 1, 2, 3 and so on: what a report acknowledges. 0: it
    // waits.
    uint64_t number;
    // The score that won, in tokens; comparable within one decision.
    double score_tokens;
    // Worker id.
    uint32_t worker;
    // KV tokens that it brings.
    uint32_t prompt_tokens;
} br_dispatch;

// What single requests gain on single workers in tokens, such as prefix affinity, and which workers they may
// use. Rows are for one call: a request that waits on needs its row again in the next step.
typedef struct {
    // `sizeof(br_bonuses)`.
    size_t struct_size;
    // Number of requests that have a row.
    size_t count;
    // Their ids.
    const uint64_t *ids;
    // A row of one entry per worker, in order of id, for each; NULL for no bonus where `eligible` has rows.
    const float *tokens;
    // Which workers may take it: a row of one entry per worker, in order of id, for each, 0 for no and
    // anything else for yes; NULL where any may.
    const uint8_t *eligible;
    // Entries of a row, as the caller has them: a call with other workers is refused. 0 says nothing.
    size_t workers;
} br_bonuses;

// How a recording stands.
typedef struct {
    // `sizeof(br_recording)`.
    size_t struct_size;
    // Out: calls written since it began, by processes before this one too.
    uint64_t calls;
    // Out: bytes written by this process, those of segments that are gone too.
    uint64_t bytes;
    // Out: a `br_recording_state`.
    uint32_t state;
    // Out: zero.
    uint32_t reserved;
} br_recording;

// A request that leaves without having finished; it may be enqueued again.
typedef struct {
    // Request id.
    uint64_t id;
    // The worker that it ran on or was bound to, `BR_NONE` for none.
    uint32_t worker;
    // A `br_return_reason`.
    uint32_t reason;
    // Tokens that it is known to have generated.
    uint32_t generated_tokens;
    // Zero.
    uint32_t reserved;
} br_returned;

// The answer of one step, in arrays of the caller.
typedef struct {
    // `sizeof(br_plan)`.
    size_t struct_size;
    // Who enters which worker, in the order of decision.
    br_dispatch *admissions;
    // Entries that `admissions` holds; as many as requests wait, or as all workers have slots together
    // (those of other front ends too), always suffice.
    size_t admission_capacity;
    // Out: admissions; with `BR_SPACE` the capacity that suffices.
    size_t admission_count;
    // Who has left without having finished and was not told of before; NULL to ask with
    // `br_router_returned`.
    br_returned *returned;
    // Entries that `returned` holds.
    size_t returned_capacity;
    // Out: how many of them are told of here.
    size_t returned_count;
    // Out: how many more there are: the next step tells, or `br_router_returned`.
    size_t returned_left;
    // Out: the greatest load before, in tokens times weight.
    double envelope_before_tokens;
    // Out: workers times the greatest load minus the sum of loads, before.
    double imbalance_before_tokens;
    // Out: the greatest load after.
    double envelope_after_tokens;
    // Out: the imbalance after.
    double imbalance_after_tokens;
} br_plan;

// What a worker measured.
typedef struct {
    // `sizeof(br_report)`.
    size_t struct_size;
    // Rises with each of this worker's reports; `BR_NONE64`: reports are taken to come in order.
    uint64_t sequence;
    // Greatest dispatch number that the worker had received, 0 for none; `BR_NONE64` when it cannot tell.
    // What it has not seen stays counted on top of what it measured.
    uint64_t last_dispatch;
    // Bit `i`: it had not received number `last_dispatch - 1 - i`.
    uint64_t missing;
    // KV tokens in use; `BR_NONE64` where only requests are known: what was measured before goes on to be
    // so, and who has come since, or left, and is none of ours is taken to be as long as ours are in the
    // mean.
    uint64_t kv_used_tokens;
    // KV tokens that fit; `BR_NONE64` leaves the capacity as it was.
    uint64_t kv_capacity_tokens;
    // Requests that decode there.
    uint32_t running;
    // Requests that it holds and that do not decode yet.
    uint32_t waiting;
    // Which life of the worker this is, 0 where it cannot tell: any other than before says that it has
    // started anew.
    uint64_t epoch;
    // How long ago it may have been measured, in milliseconds: what has begun since may be missing from it,
    // and what has ended since may be in it. At most five seconds count.
    uint32_t age_ms;
    // How long ago the KV tokens in use may have been measured, where they are older than the counts of
    // requests, 1 at least; 0 or `BR_NONE64` where they are as old.
    uint64_t kv_age_ms;
} br_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The `BR_ABI_VERSION` of the library at hand: its major number must be the header's, its minor number at
// least the header's.
uint32_t br_abi_version(void);

// The version of the library, such as "0.1.0"; never freed.
const char *br_version(void);

// Makes an assigner of a policy ("level" for NULL) with options (NULL for none) into `*assigner`, NULL when
// it fails. The text of an error goes into `error`, which has `error_size` bytes and may be NULL.
br_status br_assigner_new(const char *policy,
                          const br_options *options,
                          br_assigner **assigner,
                          char *error,
                          size_t error_size);

// Frees an assigner, after its last call; NULL is allowed.
void br_assigner_free(br_assigner *assigner);

// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero;
// "" after a call without error.
size_t br_assigner_error(br_assigner *assigner, char *buffer, size_t size);

// Which policy and backend decide, on which instruction set, and why, into `buffer` of `size` bytes.
br_status br_assigner_describe(br_assigner *assigner, char *buffer, size_t size);

// Decides a step: which waiting request enters which free slot. `batch` may be NULL. One input gives
// the same answer, whatever was decided before, unless the policy has a memory. Nothing is allocated once
// the handle has seen its largest sizes, unless reasons are asked for.
br_status br_assign(br_assigner *assigner,
                    const br_workers *workers,
                    const br_requests *requests,
                    const br_batch *batch,
                    br_answer *answer);

// Frees a router, after its last call; NULL is allowed.
void br_router_free(br_router *router);

// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero;
// "" after a call without error.
size_t br_router_error(br_router *router, char *buffer, size_t size);

// Which policy and backend decide, on which instruction set, and why, into `buffer` of `size` bytes.
br_status br_router_describe(br_router *router, char *buffer, size_t size);

// Fills a configuration with its defaults: no workers yet. Set `struct_size` first.
br_status br_router_defaults(br_router_config *config);

// Makes a router of a policy ("level" for NULL), options (NULL for none) and a configuration into `*router`,
// NULL when it fails. The text of an error goes into `error`, which has `error_size` bytes and may be NULL.
br_status br_router_new(const char *policy,
                        const br_options *options,
                        const br_router_config *config,
                        br_router **router,
                        char *error,
                        size_t error_size);

// Switches `br_router_explain` for admissions on (1) or off (0), from the next decision on. Decisions stay
// the same.
br_status br_router_set_explaining(br_router *router, uint32_t on);

// Why the last step, or a placement since, decided as it did; why a waiting request waits.
br_status br_router_explain(br_router *router, uint64_t id, br_explanation *explanation);

// Why each request still waits, in order of arrival: ids and `br_reason`s into arrays of `capacity` entries,
// how many into `count`; with `BR_SPACE` how many there are.
br_status br_router_waiting(br_router *router,
                            uint64_t *ids,
                            uint8_t *reasons,
                            size_t capacity,
                            size_t *count);

// What the traffic has taught so far, for `br_router_learn` of a router to come, into `bytes`; how many they
// are into `count`, with `BR_SPACE` where they are more than `capacity`. Who waits or runs is no part of it.
br_status br_router_learned(br_router *router, uint8_t *bytes, size_t capacity, size_t *count);

// Goes on from what another router had learned, in place of what this one has. The other may have had other
// workers. `BR_STATE` where the bytes are none of `br_router_learned`, or of another version.
br_status br_router_learn(br_router *router, const uint8_t *bytes, size_t count);

// How many requests wait and how many run; either may be NULL.
br_status br_router_counts(br_router *router, size_t *waiting, size_t *running);

// How the router stands. Nothing of it is computed before.
br_status br_router_metrics(br_router *router, br_metrics *metrics);

// How one worker stands.
br_status br_router_rank(br_router *router, uint32_t worker, br_rank *rank);

// A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else it
// waits, and `dispatch->number` is 0. `bonus_tokens` has one entry per worker, in order of id, or is NULL
// with a `bonus_count` of 0.
br_status br_router_place(br_router *router,
                          const br_request *request,
                          uint64_t now_ms,
                          const float *bonus_tokens,
                          size_t bonus_count,
                          br_dispatch *dispatch);

// `br_router_place` by the row of `bonuses` that has the request's id, with eligibility; other rows say
// nothing. `bonuses` may be NULL. The row is for this call: if the request waits, a step needs it again.
br_status br_router_place_with(br_router *router,
                               const br_request *request,
                               uint64_t now_ms,
                               const br_bonuses *bonuses,
                               br_dispatch *dispatch);

// A request enters a worker whether or not that has room: an engine queues whatever it is sent
// (`br_metrics.sent_beyond`). With `BR_NONE` for `worker` it is its rank, if it has one, or else the worker
// with room for it, or with the shortest queue for those that it serves, and of such ones the least loaded.
// One that waits here waits no more.
br_status br_router_send(br_router *router,
                         const br_request *request,
                         uint32_t worker,
                         br_dispatch *dispatch);

// Writes every call that changes this router from now on, with its answer, into the log of a folder, after
// what is there; the folder is made where it is missing, and is one router's. The newest `segments` files of
// `segment_bytes` are kept, 2 at least of 2^16 to 2^30 bytes; 0 for 16 of 16 MiB. A recording that was under
// way ends. What a call had recorded when it returned is kept whenever the process is killed. The log has
// ids and lengths, no prompts, and hashes of these under a key that is kept nowhere.
//
// With `BALANCEROUTE_RECORD=FOLDER` in the environment every router that is made records itself into a
// folder of its own below that one. A process that is forked off makes no call with a router that is
// recorded.
br_status br_router_record(br_router *router, const char *folder, uint64_t segment_bytes, uint64_t segments);

// Makes the router of a process that is no more into `*router`, NULL when it fails, as it was after the
// last call that it had recorded into this folder; it goes on to record there, in segments as
// `br_router_record` has them. Who waited waits, and who ran runs. Of what was answered some may not have
// been carried out: `br_router_resend` has the dispatches, each to be handed to its worker again, which
// knows by its number whether it has it; `br_router_returned` and the next step tell again who was given
// back by the last step or since and has not come again (who was left over as that step was made is not
// among them); `br_router_put_off` has who was preempted. What engines hold is theirs to say, by reports
// and `br_router_adopt`. The text of an error goes into `error`, which has `error_size` bytes and may be
// NULL.
br_status br_router_resume(const char *folder,
                           uint64_t segment_bytes,
                           uint64_t segments,
                           br_router **router,
                           char *error,
                           size_t error_size);

// How the recording of a router stands. Why it has stopped, if it has, goes into `why`, which has `why_size`
// bytes and may be NULL.
br_status br_router_recording(br_router *router, br_recording *recording, char *why, size_t why_size);

// Ends the recording of a router, if there is one.
br_status br_router_stop_recording(br_router *router);

// Who runs, in order of id, into an array of `capacity` entries: worker, number of the dispatch (0 for one
// that was adopted), tokens of the prompt, no score; how many into `count`; with `BR_SPACE` how many there
// are.
br_status br_router_running(br_router *router, br_dispatch *running, size_t capacity, size_t *count);

// The dispatches of those who run that nothing has shown to have arrived, by worker and number, as
// `br_router_running` tells them, but with the length that each is counted with by now.
br_status br_router_unseen(br_router *router, br_dispatch *unseen, size_t capacity, size_t *count);

// `br_router_unseen`, made again now: each is to be handed to its worker once more, and only from now on
// may a report be expected to have seen it. After `br_router_resume`, and for a worker whose connection
// was lost. A worker that has it knows it by its number.
br_status br_router_resend(br_router *router,
                           uint64_t now_ms,
                           br_dispatch *again,
                           size_t capacity,
                           size_t *count);

// Of a recorded router, who was preempted since the last step and has not come again: how many into
// `count`, and the first of them into `again`, which may be NULL, as `br_router_preempt_request` tells it.
// Once that one has been enqueued the next is the first.
br_status br_router_put_off(br_router *router, br_request *again, size_t *count);

// Tells the time: `br_router_enqueue`, `br_router_send`, `br_router_report`, `br_router_finish`,
// `br_router_abort`, `br_router_finish_dispatch` and `br_router_abort_dispatch` happen at `now_ms` until
// the clock is read again, here, by `br_router_step`, `br_router_resend` or a placement. Without it they
// happen at the last reading, and a wait begins at the next one. Every other call happens at the last
// reading.
br_status br_router_at(br_router *router, uint64_t now_ms);

// Lets a request wait for a step.
br_status br_router_enqueue(br_router *router, const br_request *request);

// Takes over a request that already runs on a worker (a restart, a warm start, an engine that resumes what
// it had preempted): `prompt_tokens` are those without the `generated_tokens` of this call, which count, not
// those of the struct. What an engine says it runs is so: also past the worker's slots and capacity
// (`br_metrics.adopted_beyond`), where it waits here, and where we believed it to run elsewhere.
br_status br_router_adopt(br_router *router,
                          const br_request *request,
                          uint32_t worker,
                          uint32_t generated_tokens);

// A running request has sent its last token. `worker` and `generated_tokens` may be NULL.
br_status br_router_finish(br_router *router, uint64_t id, uint32_t *worker, uint32_t *generated_tokens);

// `br_router_finish` of the life that a dispatch began: the end of an older life, which came late, ends
// nothing. `generated_tokens` may be NULL.
br_status br_router_finish_dispatch(br_router *router,
                                    const br_dispatch *dispatch,
                                    uint32_t *generated_tokens);

// A waiting or running request was given up. `worker`, which may be NULL, gets the one that it ran on,
// `BR_NONE` if it waited.
br_status br_router_abort(br_router *router, uint64_t id, uint32_t *worker);

// `br_router_abort` of the life that a dispatch began. One that waits has none: it stays.
br_status br_router_abort_dispatch(br_router *router, const br_dispatch *dispatch);

// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length in
// `prompt_tokens`, which may be NULL. Where the engine itself goes on with it: `br_router_preempted`.
br_status br_router_preempt(br_router *router, uint64_t id, uint32_t *prompt_tokens);

// `br_router_preempt` that answers with the whole request, for `br_router_enqueue` as it is: its length,
// what of it was generated and what its worker had already, and all that it was enqueued with.
br_status br_router_preempt_request(br_router *router, uint64_t id, br_request *again);

// One lock-step decode step has run: every running request has a token more, everybody who waits has waited
// a step.
br_status br_router_advance(br_router *router);

// Every running request of a worker has `tokens` more.
br_status br_router_progress(br_router *router, uint32_t worker, uint32_t tokens);

// One running request has `tokens` more.
br_status br_router_progress_request(br_router *router, uint64_t id, uint32_t tokens);

// `br_router_progress_request` for `count` requests, at a fraction of its cost: `tokens` has what each has
// more, NULL for one each. Those that do not run are passed over: engines bring tokens of requests that were
// given up here. How many have grown into `grown`, which may be NULL.
br_status br_router_progress_requests(br_router *router,
                                      const uint64_t *ids,
                                      const uint32_t *tokens,
                                      size_t count,
                                      size_t *grown);

// A running request has KV on its worker and does not decode yet: its cache is on the way from a prefill
// node, or is filled part by part. It weighs its whole length and does not grow until
// `br_router_transfer_done` or a token of its own (`br_router_progress_request`).
br_status br_router_held(br_router *router, uint64_t id);

// A running request decodes from now on: its KV cache is there. Of one that is preempted it changes nothing.
br_status br_router_transfer_done(br_router *router, uint64_t id);

// The engine has taken a running request's KV cache away and will go on with it by itself: it stays on its
// worker, room for its length is kept there, and it does not grow until `br_router_resumed` or a token of
// its own. Where the caller is to send it again: `br_router_preempt`.
br_status br_router_preempted(br_router *router, uint64_t id);

// The engine goes on with a request that it had preempted. Of one that is not preempted it changes nothing.
br_status br_router_resumed(br_router *router, uint64_t id);

// The ends of requests will not be told: whatever was sent to a worker by `until_ms`, a time of the clock
// that was read last (`BR_NONE64`: whenever), and that nothing has shown, is foreign there from now on, for
// the next report to measure. Their ids into an array of `capacity` entries, how many into `count`. As many
// as `br_rank.unseen` says always suffice; with less than may be needed nothing happens but `BR_SPACE`, and
// `count` says what suffices.
br_status br_router_disown_sent(br_router *router,
                                uint32_t worker,
                                uint64_t until_ms,
                                uint64_t *ids,
                                size_t capacity,
                                size_t *count);

// Begins anew, whatever has happened to the count, and is the way out of `BR_BROKEN`: every request that
// waits or runs comes back as `BR_RECOVERED`, told by `br_router_returned` and the next step. Workers stay,
// with what they measured; what runs there is foreign load until they report again.
br_status br_router_recover(br_router *router);

// Who has left without having finished and was not told of yet, up to `capacity` of them, oldest first: how
// many into `count`, how many more there are into `left`, which may be NULL.
br_status br_router_returned(br_router *router,
                             br_returned *returned,
                             size_t capacity,
                             size_t *count,
                             size_t *left);

// Decides a step: admits, and accounts for what it admitted. `bonuses` may be NULL.
br_status br_router_step(br_router *router, uint64_t now_ms, const br_bonuses *bonuses, br_plan *plan);

// Takes in what a worker measured. `verdict`, which may be NULL, gets a `br_verdict`.
br_status br_router_report(br_router *router, uint32_t worker, const br_report *report, uint32_t *verdict);

// A worker joins, empty: its id into `worker`. `kv_capacity_tokens` is `BR_NONE64` for no bound; `weight` is
// 1 in a uniform cluster.
br_status br_router_add_worker(br_router *router,
                               uint32_t slots,
                               uint64_t kv_capacity_tokens,
                               float weight,
                               uint32_t *worker);

// `br_router_add_worker` for one that is yet to come: it takes nobody until `br_router_set_accepting` says
// that it is there, and until then requests wait that only it could hold.
br_status br_router_announce_worker(br_router *router,
                                    uint32_t slots,
                                    uint64_t kv_capacity_tokens,
                                    float weight,
                                    uint32_t *worker);

// A worker has these slots, this KV capacity and this weight from now on. What runs there runs on, also
// where it is more than fits now.
br_status br_router_configure_worker(br_router *router,
                                     uint32_t worker,
                                     uint32_t slots,
                                     uint64_t kv_capacity_tokens,
                                     float weight);

// A worker as it is configured now, all of it whatever the share; a report may have changed its capacity.
// `slots`, `kv_capacity_tokens` (`BR_NONE64` for no bound) and `weight` may be NULL.
br_status br_router_worker_config(br_router *router,
                                  uint32_t worker,
                                  uint32_t *slots,
                                  uint64_t *kv_capacity_tokens,
                                  float *weight);

// A worker takes nobody new; what runs there runs on. Requests that wait for it alone are returned by the
// next step.
br_status br_router_drain_worker(br_router *router, uint32_t worker);

// Whether a worker is draining and holds none of our requests any more: 0 or 1 into `drained`.
br_status br_router_is_drained(br_router *router, uint32_t worker, uint32_t *drained);

// Stops new requests to a worker for a while (0), or resumes them (1).
br_status br_router_set_accepting(br_router *router, uint32_t worker, uint32_t accepting);

// A worker is gone. `br_router_returned` and the next step tell who ran there or waited for it alone.
br_status br_router_remove_worker(br_router *router, uint32_t worker);

// This router is number `index` of `of` front ends from now on: some have come or gone, or are decided for
// here.
br_status br_router_set_share(br_router *router, uint32_t index, uint32_t of);

// The ids of the workers, ascending, into an array of `capacity` entries; how many into `count`; with
// `BR_SPACE` how many there are.
br_status br_router_worker_ids(br_router *router, uint32_t *ids, size_t capacity, size_t *count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BALANCEROUTE_H */

/*
 * What host and device agree on: the bytes of one launch. C11 and C++17. The host has its own copy of the
 * layout in src/backend/ascend/blob/layout.rs; a test compares sizes and offsets.
 *
 * The split between host and device
 * ---------------------------------
 * The host runs the rule. It begins the plan, places pinned and overdue requests, and packs the remaining
 * ones. The device then makes the greedy picks, one after the other, each from columns of N scores. The host
 * checks every pick (slot, room, eligibility, score) and does the rest, as it does without a device: repair
 * rounds (level, exact), the subsets of BalanceRoute's second stage, reasons, balance.
 *
 *   policy                                    mode        order         what stays on the host
 *   exact                                     F           MATRIX        repair
 *   exact-survival, exact-oracle              LOOKAHEAD   MATRIX        repair
 *   level, level-exactmatch, level-oracle     LEVELS      LEAST_LOADED  repair
 *     with predicted ends, or before any
 *     request has ended                       LEVEL       LEAST_LOADED  load offsets (predicted ends), repair
 *   br0; brh-* without a projection           F           MOST_SLOTS    stage 2, from stop_open_slots on
 *   brh-* with a projection                   LOOKAHEAD   MOST_SLOTS    stage 2
 *   least-kv, sglang-*, vllm-*, jsq,
 *   power-of-two, round-robin, random
 *   (once bound)                              F, slope 0  LEAST_LOADED  binding on arrival
 *   any other rule in matrix order            FIXED       (none)        all but the first columns
 *
 * The host keeps a batch, and the CPU decides it, when the plan places the longest first (nothing is scored),
 * when a judge chooses among several requests (rollout-oracle), when the rule has no profile spec, when it
 * seeks the best pair (MATRIX) by LEVEL or LEVELS, or when the batch exceeds a limit below. Each has a typed
 * reason. The CPU also decides when the device answers anything but BR_STATUS_OK.
 *
 * Ages
 * ----
 * An age says how often a request had been passed as the step began. What the step itself admits passes
 * others from the next step on. So no admission changes an age here; the host packs all of them anew.
 *
 * Numbers
 * -------
 * Answers are those of integer arithmetic. Vectors hold f32. Tokens, knots inside the range of lengths, ages
 * and bonuses in tokens are whole numbers below 2^24 (the host keeps a batch with any other), so their
 * differences and maxima are exact. Products and sums are exact while they stay below 2^24.
 *
 * Where they may grow larger, which BrHeader and the profile tell, the vector scores are a filter with a
 * proven error bound. Let K be the number of knots, u = 2^-24, v the greatest f32 score, and S at least
 * |slope * s| + |unit * (age + bonus)| for every entry. Then every entry whose exact score is greatest has an
 * f32 score of at least v - 4 * (K + 7) * u * (2 * S - v). (A score is a sum of K + 2 products whose
 * magnitudes add up to at most 2 * S - score, in whatever order they are added. Correct rounding would need
 * half of this bound, so an operation may be off by a whole unit in the last place, or be fused.)
 *
 * No result is infinite: an entry that is taken has an age of -2^70, and is told by its range. So a device
 * that saturates answers as one that does not.
 *
 * The scalar unit scores these few entries again in 64-bit integers; the greatest integer wins, then the
 * earliest entry. More than BR_MAX_RESCORED of them in one column end in BR_STATUS_TIES. No f32 value decides
 * anything unless it is exact.
 *
 * Two launch shapes
 * -----------------
 * 1. One batch over many blocks. BR_ENTRY_COLUMNS runs with ceil(workers / BrHeader.group) blocks; each
 *    writes the best of every (worker, run) of its group of workers. Then, in the same stream,
 *    BR_ENTRY_GREEDY runs with one block, and BR_FLAG_COLUMNS_READY is set in the header. FIXED launches
 *    BR_ENTRY_COLUMNS alone. LEAST_LOADED and MOST_SLOTS launch BR_ENTRY_GREEDY alone, for they score one
 *    column per pick.
 * 2. Many batches. BR_ENTRY_GREEDY runs with as many blocks as BrLaunch.batches; block b decides batch b and
 *    scores all of its columns.
 * Both entries take two pointers (16 bytes of arguments): the input blob, then the output blob. Both blobs
 * are 64-byte aligned.
 *
 * Input blob:  BrLaunch, BrSlot[batches], then each batch at BrSlot.in_offset: BrHeader and the sections that
 *              it names.
 * Output blob: each batch at BrSlot.out_offset: BrOut and the sections that BrHeader names. The host zeroes
 *              BrOut before a launch.
 *
 * Requests of a batch are entries, grouped by survival class into runs (run 0 has none) in arrival order. A
 * run begins at a multiple of BR_ENTRY_ALIGN; entries between runs are padding, whose values nothing depends
 * on. Requests that the host has placed are no entries.
 */
#ifndef BALANCEROUTE_TILING_H
#define BALANCEROUTE_TILING_H

#ifdef __cplusplus
#include <cstddef>
#include <cstdint>
#define BR_LAYOUT(condition) static_assert(condition, "layout of the blobs")
#else
#include <stddef.h>
#include <stdint.h>
#define BR_LAYOUT(condition) _Static_assert(condition, "layout of the blobs")
#endif

#define BR_MAGIC 0x314b5242u /* "BRK1" in memory */
#define BR_VERSION 3u

/* Kernel entries, and what the model's shared library exports (kernels/model/model.h). */
#define BR_ENTRY_COLUMNS "balanceroute_columns"
#define BR_ENTRY_GREEDY "balanceroute_greedy"
#define BR_MODEL_LIBRARY "libbalanceroute_model_kernel.so"
#define BR_MODEL_LAUNCH "br_model_launch"

/* Limits of the device; the host keeps larger batches. */
#define BR_MAX_REQUESTS 4096u /* N, entries without padding */
#define BR_MAX_WORKERS 256u   /* G */
#define BR_MAX_STEPS 129u     /* H + 1 */
#define BR_MAX_KNOTS (BR_MAX_WORKERS + 16u) /* of one profile */
#define BR_MAX_RUNS 16u       /* survival classes in use, plus one for none */
#define BR_MAX_BATCHES 1024u
#define BR_MAX_RESCORED 512u
#define BR_MAX_PICKS 4096u

/* So many entries take 256 bytes of the narrowest plane: tiles and runs are aligned in all planes. */
#define BR_ENTRY_ALIGN 128u
#define BR_MAX_STRIDE (BR_MAX_REQUESTS + BR_MAX_RUNS * BR_ENTRY_ALIGN)
#define BR_BLOB_ALIGN 64u
#define BR_BLOCK_BYTES 32u
#define BR_EXACT_F32 16777216 /* 2^24 */
#define BR_GREATEST (INT64_C(1) << 56) /* bound of S and of a profile's losses: sums stay below 2^60 */
#define BR_NOBODY UINT32_C(0xffffffff)

/* How a worker's profile follows from the loads (BrHeader.mode). */
#define BR_MODE_F 0u         /* slope f_slope, one knot (envelope - cost, f_weight), both per token times the
                                cost of a token on the worker */
#define BR_MODE_LOOKAHEAD 1u /* one knot per step: (envelope_row[h] - row[h], weights[run][h]); slope of the
                                run */
#define BR_MODE_LEVEL 2u     /* knots at the wanted length and at the others' greatest anticipated load */
#define BR_MODE_FIXED 3u     /* profiles from the host, one per (worker, run); columns only */
#define BR_MODE_LEVELS 4u    /* knots at the wanted length, at the anticipated load of each of the others, and
                                at the knots of BrLevelTerms */

/* Which worker is next (BrHeader.order). */
#define BR_ORDER_MATRIX 0u       /* greatest score, then least load, then lowest index; F, LOOKAHEAD only */
#define BR_ORDER_LEAST_LOADED 1u /* least load of the open workers, then lowest index */
#define BR_ORDER_MOST_SLOTS 2u   /* most open slots, then least load, then lowest index */

#define BR_BONUS_NONE 0u
#define BR_BONUS_F16 1u /* whole tokens, each exact in half precision */
#define BR_BONUS_F32 2u /* whole tokens */

#define BR_FLAG_COLUMNS_READY 1u /* BR_ENTRY_COLUMNS ran before, in the same stream, on the same blobs */
#define BR_FLAG_ELIGIBILITY 2u   /* there are eligibility words */
#define BR_FLAG_ROOM 4u          /* some worker has bounded room: lengths are compared with it */

/*
 * Bytes of the unified buffer that a batch takes: planes of all entries (tokens, ages, scores; with bonuses
 * also age plus bonus), nine tiles of intermediate results, a mask each for room and eligibility, the
 * eligibility bits and the tile of them that comes in, the tile of bonuses that comes in, the greatest score
 * of each repeat of 64 and of all, and the staging of answers.
 */
#define BR_WORK_TILES 9u
#define BR_REPEATS_BYTES 1024u
#define BR_GREATEST_BYTES 64u
#define BR_STAGE_PICKS 128u
#define BR_STAGE_BYTES (BR_STAGE_PICKS * 16u)
#define BR_BONUS_BYTES(format) ((format) == BR_BONUS_F16 ? 2u : (format) == BR_BONUS_F32 ? 4u : 0u)
#define BR_UB_BYTES(stride, tile, format, flags)                                                           \
  (((format) == BR_BONUS_NONE ? 3u : 4u) * (stride) * 4u + BR_WORK_TILES * (tile) * 4u +                   \
   (((flags) & BR_FLAG_ROOM) != 0 ? BR_MASK_BYTES(tile) : 0u) +                                            \
   (((flags) & BR_FLAG_ELIGIBILITY) != 0 ? BR_MASK_BYTES(tile) + 3u * (tile) * 2u : 0u) +                  \
   (tile) * BR_BONUS_BYTES(format) + BR_REPEATS_BYTES + BR_GREATEST_BYTES + BR_STAGE_BYTES)
#define BR_MASK_BYTES(tile) (((tile) / 8u + BR_BLOCK_BYTES - 1u) / BR_BLOCK_BYTES * BR_BLOCK_BYTES)

#define BR_STATUS_UNWRITTEN 0u
#define BR_STATUS_OK 1u
#define BR_STATUS_TIES 2u   /* too many near ties in a column: the CPU decides */
#define BR_STATUS_HEADER 3u /* this kernel does not know the mode or order, or a limit is exceeded; where
                               magic or version differ, the status stays unwritten */

/* The head of the input blob. */
typedef struct BrLaunch {
  uint32_t magic;
  uint32_t version;
  uint32_t batches;
  uint32_t reserved[13];
} BrLaunch;

/* Where a batch lies, in bytes from the beginning of each blob; multiples of BR_BLOB_ALIGN. */
typedef struct BrSlot {
  uint64_t in_offset;
  uint64_t out_offset;
} BrSlot;

/* One batch. Offsets are bytes from this header (or from BrOut for out_*), multiples of BR_BLOCK_BYTES; zero
 * where there is no section. */
typedef struct BrHeader {
  uint32_t magic;
  uint32_t version;
  uint32_t mode;
  uint32_t order;
  uint32_t flags;
  uint32_t bonus_format;
  uint32_t requests; /* entries without padding, at most BR_MAX_REQUESTS */
  uint32_t workers;
  uint32_t steps; /* knots of LOOKAHEAD and of BrLevelTerms; knot slots of each profile of FIXED; else 0 */
  uint32_t runs;  /* at least 1 */
  uint32_t stride; /* entries of each plane: the end of the last run, a multiple of BR_ENTRY_ALIGN */
  uint32_t tile;   /* entries of bonuses and words that are loaded at once, a multiple of BR_ENTRY_ALIGN */
  uint32_t group;  /* workers of one block of BR_ENTRY_COLUMNS */
  uint32_t max_picks; /* at most min(requests, open slots) */
  uint32_t stop_open_slots; /* picks end when no more slots than this are open; 0 for none */
  uint32_t ub_bytes;        /* what the host planned for */
  int64_t unit;             /* score units per token of age and bonus, at least 1 */
  int64_t envelope;         /* cost units, the plan's floor included */
  int64_t refill_tokens;
  int64_t drop_tokens;   /* LEVEL */
  int64_t growth_tokens; /* room that an admission takes beside its tokens */
  int64_t f_slope;
  int64_t f_weight;
  int64_t shortest_tokens; /* of all entries */
  int64_t longest_tokens;
  int64_t greatest_extra_tokens; /* bound of |age + bonus| over all entries and workers, below 2^24 */
  uint32_t in_bytes;      /* of this batch from its header on */
  uint32_t workers_at;    /* BrWorker[workers] */
  uint32_t envelope_at;   /* int64_t[steps]: LOOKAHEAD */
  uint32_t rows_at;       /* per worker int32_t[steps] tokens, row_stride apart: LOOKAHEAD */
  uint32_t row_stride;    /* bytes, a multiple of BR_BLOCK_BYTES */
  uint32_t runs_at;       /* BrRun[runs] */
  uint32_t weights_at;    /* per run int32_t[steps], weight_stride apart: LOOKAHEAD */
  uint32_t weight_stride; /* bytes */
  uint32_t tokens_at;     /* float[stride] */
  uint32_t ages_at;       /* float[stride], whole tokens */
  uint32_t arrivals_at;   /* uint32_t[stride]: arrival order across runs */
  uint32_t words_at;      /* per 16 workers uint16_t[stride]: bit g % 16: may worker g take the entry */
  uint32_t bonus_at;      /* per worker half[stride] or float[stride] */
  uint32_t profiles_at;   /* per (worker, run) BrProfile and BrKnot[steps], profile_stride apart: FIXED */
  uint32_t profile_stride;
  uint32_t out_bytes;      /* of this batch from its BrOut on */
  uint32_t out_columns_at; /* per worker BrColumn[runs], column_stride apart */
  uint32_t column_stride;  /* bytes, a multiple of BR_BLOCK_BYTES */
  uint32_t out_picks_at;   /* BrPick[max_picks] */
  uint32_t terms_at;       /* BrLevelTerms and BrKnot[steps]: LEVELS */
  uint32_t levels_at;      /* int64_t[workers], anticipated loads, the greatest first: LEVELS */
  uint32_t rises_at;       /* int64_t[workers], units that a token costs while k others lie higher, for each
                              k from 0 on; falling to 0: LEVELS */
  uint32_t reserved[6];
} BrHeader;

/* A worker after the host's placements. */
typedef struct BrWorker {
  int64_t cost;
  int64_t cost_per_token;
  int64_t anticipated;
  int64_t longest_tokens; /* the longest request that fits into its room with its growth */
  int64_t row_added;      /* cost that the host has put on its whole row */
  uint32_t open_slots;
  uint32_t reserved[5];
} BrWorker;

/* A run: the entries of one survival class. */
typedef struct BrRun {
  uint32_t from; /* a multiple of BR_ENTRY_ALIGN */
  uint32_t count;
  int64_t slope; /* LOOKAHEAD: units per token and cost per token */
  uint32_t reserved[4];
} BrRun;

/* LEVELS: what profiles are made of; the knots of the reserve follow. Units are those on a worker whose token
 * costs token_cost; on another one they count times the cost of its token over token_cost, towards zero. With
 * the anticipated loads of the others, and own the worker's without the refill of the slot to be filled:
 *
 *   wanted   = (mean * tokens(mean of the others - own) + least * tokens(least of the others - own) + base
 *               + 2^15) >> 16
 *   score(s) = (unit + reserve_slope) * s - unit * wanted - reserve - (unit + fall) * max(0, s - wanted)
 *              - sum over the others, the highest first, k = 0, 1, ...:
 *                (rises[k] - rises[k + 1]) * max(0, s - tokens(load - own))
 *              - sum over the knots of the reserve: weight * max(0, s - at_tokens)
 */
typedef struct BrLevelTerms {
  int64_t mean;
  int64_t least;
  int64_t base;
  int64_t fall;
  int64_t reserve;       /* units that a request of length zero costs */
  int64_t reserve_slope; /* and what each token gives back before the first knot */
  int64_t token_cost;    /* cost units, at least 1 */
  uint32_t reserved[2];
} BrLevelTerms;

/* FIXED: the head of a profile; its knots follow. */
typedef struct BrProfile {
  int64_t intercept;
  int64_t slope;
  uint32_t knots; /* at most BrHeader.steps */
  uint32_t reserved[3];
} BrProfile;

typedef struct BrKnot {
  int64_t at_tokens;
  int64_t weight;
} BrKnot;

/* The answer to one batch. */
typedef struct BrOut {
  uint32_t magic;
  uint32_t version;
  uint32_t status; /* of the picks; FIXED leaves it unwritten, for each column has its own */
  uint32_t picks;
  uint32_t columns;  /* scored while picking */
  uint32_t rescored; /* requests that the scalar unit scored again */
  uint32_t reserved[10];
} BrOut;

/* The best request of a run on a worker as the step begins. */
typedef struct BrColumn {
  int64_t score; /* units */
  uint32_t entry; /* BR_NOBODY for none, and on a worker without an open slot */
  uint32_t status;
} BrColumn;

typedef struct BrPick {
  uint32_t entry;
  uint32_t worker;
  int64_t score;
} BrPick;

BR_LAYOUT(sizeof(BrLaunch) == 64);
BR_LAYOUT(sizeof(BrSlot) == 16);
BR_LAYOUT(sizeof(BrHeader) == 256);
BR_LAYOUT(offsetof(BrHeader, flags) == 16);
BR_LAYOUT(offsetof(BrHeader, steps) == 32);
BR_LAYOUT(offsetof(BrHeader, unit) == 64);
BR_LAYOUT(offsetof(BrHeader, f_slope) == 104);
BR_LAYOUT(offsetof(BrHeader, in_bytes) == 144);
BR_LAYOUT(offsetof(BrHeader, out_bytes) == 204);
BR_LAYOUT(sizeof(BrWorker) == 64);
BR_LAYOUT(offsetof(BrWorker, open_slots) == 40);
BR_LAYOUT(sizeof(BrRun) == 32);
BR_LAYOUT(offsetof(BrRun, slope) == 8);
BR_LAYOUT(sizeof(BrLevelTerms) == 64);
BR_LAYOUT(sizeof(BrProfile) == 32);
BR_LAYOUT(sizeof(BrKnot) == 16);
BR_LAYOUT(sizeof(BrOut) == 64);
BR_LAYOUT(sizeof(BrColumn) == 16);
BR_LAYOUT(sizeof(BrPick) == 16);

#endif

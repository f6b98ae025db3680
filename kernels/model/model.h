/*
 * What libbalanceroute_model_kernel.so exports to C: how a host runs a kernel on the model.
 */
#ifndef BALANCEROUTE_MODEL_H
#define BALANCEROUTE_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory as the host allocated it. */
typedef struct BrModelRange {
  const void *address;
  size_t bytes;
} BrModelRange;

/* What the last launch did, all blocks together: exported as `br_model_counts`. */
typedef struct BrModelCounts {
  uint64_t vector_instructions;
  uint64_t vector_repeats; /* of 256 bytes */
  uint64_t copied_in_bytes;
  uint64_t copied_out_bytes;
  uint64_t scalar_ub_accesses;
  uint64_t scalar_gm_reads;
  uint64_t barriers;
  uint64_t events; /* pairs */
  uint64_t ub_bytes; /* the most that a block took */
} BrModelCounts;

#define BR_MODEL_OK 0
#define BR_MODEL_VIOLATION 1 /* the kernel did what a device would punish; the message says what and where */
#define BR_MODEL_ENTRY 2     /* no such entry */
#define BR_MODEL_ARGUMENTS 3 /* the arguments do not have this entry's size, or no memory is declared */

/*
 * Runs `blocks` blocks of the entry named `entry`, one after the other. `arguments` are the kernel's
 * parameters, packed as for a launch with host arguments: for both entries two pointers, input and output.
 * An access to global memory outside of `ranges` is a violation.
 * Writes the first violations, or an empty string, to `message` (may be null). A call waits for one that
 * another thread has begun.
 */
int32_t br_model_launch(const char *entry, uint32_t blocks, const void *arguments, size_t argument_bytes,
                        const BrModelRange *ranges, size_t range_count, char *message, size_t message_bytes);

/*
 * The device's mode for the launches from here on: with 1, results beyond the greatest finite value become
 * that value; with 0, as at first, they become infinity.
 */
void br_model_saturate(int32_t on);

#ifdef __cplusplus
}
#endif
#endif

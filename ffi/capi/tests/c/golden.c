/* Reads batches from standard input as counted arrays, decides each, writes the answers with floats as bits:
 * tests/c.rs has the other half. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balanceroute.h"

static uint64_t number(void) {
    uint64_t value;
    if (scanf("%" SCNu64, &value) != 1) {
        fprintf(stderr, "expected a number\n");
        exit(2);
    }
    return value;
}

/* An array of `count` entries; NULL for a count of zero, as calloc'd memory otherwise, so that a sanitizer
 * knows its end. */
static void *array(size_t entry, size_t *count) {
    size_t found = number();
    char *at = found == 0 ? NULL : calloc(found, entry);
    for (size_t i = 0; i < found; i++) {
        uint64_t value = number();
        uint8_t byte = (uint8_t)value;
        uint16_t half = (uint16_t)value;
        uint32_t word = (uint32_t)value;
        const void *narrow = entry == 1 ? (const void *)&byte : &half;
        const void *wide = entry == 4 ? (const void *)&word : &value;
        memcpy(at + i * entry, entry <= 2 ? narrow : wide, entry);
    }
    if (count) *count = found;
    return at;
}

static uint64_t bits(double value) {
    uint64_t found;
    memcpy(&found, &value, sizeof found);
    return found;
}

int main(void) {
    char policy[64];
    while (scanf("%63s", policy) == 1) {
        br_assigner *assigner;
        char error[256];
        if (br_assigner_new(policy, NULL, &assigner, error, sizeof error) != BR_OK) {
            fprintf(stderr, "%s: %s\n", policy, error);
            return 1;
        }
        br_workers workers = {.struct_size = sizeof workers};
        workers.load_tokens = array(8, &workers.count);
        workers.running = array(4, NULL);
        workers.free_slots = array(4, NULL);
        workers.kv_capacity_tokens = array(8, NULL);
        workers.kv_used_tokens = array(8, NULL);
        workers.kv_growth_tokens = array(8, NULL);
        workers.weight = array(4, NULL);
        workers.accepting = array(1, NULL);
        workers.next_completion_steps = array(4, NULL);
        br_requests requests = {.struct_size = sizeof requests};
        requests.prompt_tokens = array(4, &requests.count);
        requests.ids = array(8, NULL);
        requests.waited_steps = array(4, NULL);
        requests.deadline_steps = array(4, NULL);
        requests.rank = array(4, NULL);
        requests.pair_row = array(4, NULL);
        requests.survival_class = array(4, NULL);
        requests.passed = array(4, NULL);
        br_batch batch = {.struct_size = sizeof batch};
        batch.mean_prompt_tokens = (int64_t)number();
        batch.sd_prompt_tokens = (int64_t)number();
        batch.small_prompt_tokens = (int64_t)number();
        batch.mean_output_tokens = (int64_t)number();
        batch.request_growth_tokens = (uint32_t)number();
        batch.horizon_steps = (uint32_t)number();
        batch.projection = array(8, NULL);
        batch.end_offsets = array(4, NULL);
        batch.end_in_steps = array(4, NULL);
        batch.end_freed_tokens = array(8, NULL);
        batch.pair_rows = (size_t)number();
        batch.bonus_tokens = array(4, NULL);
        batch.bonus_half_tokens = array(2, NULL);
        batch.eligible = array(8, NULL);
        batch.class_count = (size_t)number();
        batch.class_survival = array(4, NULL);

        /* First without room, to learn how much is needed, then with exactly as much. */
        br_answer answer = {.struct_size = sizeof answer};
        br_status status = br_assign(assigner, &workers, &requests, &batch, &answer);
        if (status == BR_SPACE) {
            answer.capacity = answer.count;
            answer.row = calloc(answer.count, sizeof *answer.row);
            answer.worker = calloc(answer.count, sizeof *answer.worker);
            answer.score_tokens = calloc(answer.count, sizeof *answer.score_tokens);
        }
        answer.wait_reason = requests.count ? malloc(requests.count) : NULL;
        status = br_assign(assigner, &workers, &requests, &batch, &answer);
        if (status != BR_OK) {
            br_assigner_error(assigner, error, sizeof error);
            fprintf(stderr, "%s: status %d: %s\n", policy, (int)status, error);
            return 1;
        }
        for (size_t at = 0; at < answer.count; at++) {
            printf("admitted %" PRIu64 " %" PRIu32 " %016" PRIx64 "\n", requests.ids[answer.row[at]],
                   answer.worker[at], bits(answer.score_tokens[at]));
        }
        for (size_t at = 0; at < requests.count; at++) {
            if (answer.wait_reason[at] != BR_ADMITTED)
                printf("waiting %" PRIu64 " %d\n", requests.ids[at], answer.wait_reason[at]);
        }
        printf("balance %016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 "\n",
               bits(answer.envelope_before_tokens), bits(answer.imbalance_before_tokens),
               bits(answer.envelope_after_tokens), bits(answer.imbalance_after_tokens));
        const void *made[] = {workers.load_tokens, workers.running, workers.free_slots,
                              workers.kv_capacity_tokens, workers.kv_used_tokens, workers.kv_growth_tokens,
                              workers.weight, workers.accepting, workers.next_completion_steps,
                              requests.prompt_tokens, requests.ids, requests.waited_steps,
                              requests.deadline_steps, requests.rank, requests.pair_row,
                              requests.survival_class, requests.passed, batch.projection, batch.end_offsets,
                              batch.end_in_steps, batch.end_freed_tokens, batch.bonus_tokens,
                              batch.bonus_half_tokens, batch.eligible, batch.class_survival, answer.row,
                              answer.worker, answer.score_tokens, answer.wait_reason};
        for (size_t at = 0; at < sizeof made / sizeof *made; at++) free((void *)made[at]);
        br_assigner_free(assigner);
    }
    return 0;
}

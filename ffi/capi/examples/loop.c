/* A decode loop that asks the router every step: cc loop.c $(pkg-config --cflags --libs balanceroute) */
#include <stdio.h>
#include <stdlib.h>
#include "balanceroute.h"

enum { WORKERS = 8, SLOTS = 16, POOL = 32, STEPS = 2000 };

int main(void) {
    uint32_t slots[WORKERS];
    for (int g = 0; g < WORKERS; g++) slots[g] = SLOTS;
    br_router_config config = {.struct_size = sizeof config};
    br_router_defaults(&config);
    config.worker_count = WORKERS;
    config.slots = slots;
    br_router *router;
    char error[256];
    if (br_router_new("level", NULL, &config, &router, error, sizeof error) != BR_OK)
        return fputs(error, stderr), 1;

    static struct { uint64_t id; int left; } running[WORKERS * SLOTS]; /* tokens that each will still send */
    size_t waiting = 0, count = 0, finished = 0;
    br_dispatch admissions[POOL];
    br_plan plan = {.struct_size = sizeof plan, .admissions = admissions, .admission_capacity = POOL};
    for (uint64_t step = 0, next = 0; step < STEPS; step++) {
        for (; waiting < POOL; waiting++, next++) {
            uint32_t prompt_tokens = 100 + (uint32_t)(next * 7919 % 5900);
            br_request request = {.struct_size = sizeof request, .id = next, .prompt_tokens = prompt_tokens};
            if (br_router_enqueue(router, &request) != BR_OK) return 1;
        }
        if (br_router_step(router, step * 50, NULL, &plan) != BR_OK)
            return br_router_error(router, error, sizeof error), fputs(error, stderr), 1;
        waiting -= plan.admission_count;
        for (size_t at = 0; at < plan.admission_count; at++, count++) {
            /* Hand the request to its worker here. */
            running[count].id = admissions[at].id;
            running[count].left = 1 + (int)(admissions[at].id * 104729 % 400);
        }
        br_router_advance(router); /* one lock-step decode step has run */
        for (size_t at = count; at-- > 0;)
            if (--running[at].left == 0) {
                br_router_finish(router, running[at].id, NULL, NULL);
                running[at] = running[--count], finished++;
            }
    }
    printf("%zu finished, %zu running, imbalance %.0f tokens over %d workers\n", finished, count,
           plan.imbalance_after_tokens, WORKERS);
    br_router_free(router);
}

/* What the tests of the router share. */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balanceroute.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static inline const char *error_of(br_router *router) {
    static char text[512];
    CHECK(br_router_error(router, text, sizeof text) == strlen(text));
    return text;
}

static inline br_router *made(br_router_config *config, const char *policy) {
    br_router *router;
    char error[512] = "";
    if (br_router_new(policy, NULL, config, &router, error, sizeof error) != BR_OK) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    return router;
}

static inline br_router_config defaults(size_t workers, const uint32_t *slots) {
    br_router_config config;
    memset(&config, 0x5a, sizeof config);
    config.struct_size = sizeof config;
    CHECK(br_router_defaults(&config) == BR_OK);
    CHECK(config.worker_count == 0 && config.headroom_steps == BR_NONE && config.share_of == 1 &&
          config.expire_after_ms == BR_NONE64);
    config.worker_count = workers;
    config.slots = slots;
    return config;
}

static inline br_request request(uint64_t id, uint32_t tokens) {
    return (br_request){.struct_size = sizeof(br_request), .id = id, .prompt_tokens = tokens};
}

static inline void enqueue(br_router *router, uint64_t id, uint32_t tokens) {
    br_request arrival = request(id, tokens);
    CHECK(br_router_enqueue(router, &arrival) == BR_OK);
}

static br_dispatch admissions[64];
static br_returned gone[64];

static inline br_plan step(br_router *router, uint64_t now_ms) {
    br_plan plan = {.struct_size = sizeof plan,
                    .admissions = admissions,
                    .admission_capacity = 64,
                    .returned = gone,
                    .returned_capacity = 64};
    CHECK(br_router_step(router, now_ms, NULL, &plan) == BR_OK);
    return plan;
}

static inline br_rank rank_of(br_router *router, uint32_t worker) {
    br_rank rank = {.struct_size = sizeof rank};
    CHECK(br_router_rank(router, worker, &rank) == BR_OK && rank.worker == worker);
    return rank;
}

static inline br_metrics metrics_of(br_router *router) {
    br_metrics metrics = {.struct_size = sizeof metrics};
    CHECK(br_router_metrics(router, &metrics) == BR_OK);
    return metrics;
}

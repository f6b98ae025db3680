/* Who goes first where not everybody can: claims and classes. */
#include "router.h"

/* Who is overdue and fits nowhere has a worker drained. */
static void claims(void) {
    const uint32_t slots[] = {8, 8};
    const uint64_t capacity[] = {100000, 100000};
    br_router_config config = defaults(2, slots);
    config.kv_capacity_tokens = capacity;
    br_router *router = made(&config, "level");
    for (uint32_t worker = 0; worker < 2; worker++) {
        br_request there = request(worker, 80000 - 1000 * worker);
        CHECK(br_router_adopt(router, &there, worker, 0) == BR_OK);
    }
    br_request late = request(9, 60000);
    late.fields = BR_HAS_DEADLINE;
    CHECK(br_router_enqueue(router, &late) == BR_OK);
    /* 14,000 tokens are free on worker 0 and 15,000 on worker 1. */
    enqueue(router, 10, 14500);
    CHECK(step(router, 0).admission_count == 0);
    br_explanation why = {.struct_size = sizeof why};
    CHECK(br_router_explain(router, 9, &why) == BR_OK && why.wait_reason == BR_CLAIMS && why.worker == 1);
    CHECK(br_router_explain(router, 10, &why) == BR_OK && why.wait_reason == BR_CLAIMED &&
          why.worker == BR_NONE);
    CHECK(rank_of(router, 0).claimed_by == BR_NONE64 && rank_of(router, 1).claimed_by == 9);
    br_metrics metrics = metrics_of(router);
    CHECK(metrics.claims == 1 && metrics.admitted_beside_claims == 0);
    CHECK(metrics.waiting_claims == 1 && metrics.waiting_claimed == 1 && metrics.waiting == 2);
    CHECK(br_router_abort(router, 9, NULL) == BR_OK && rank_of(router, 1).claimed_by == BR_NONE64);
    CHECK(step(router, 20).admission_count == 1);
    br_router_free(router);
}

/* The highest class first, and the share that it cannot take. */
static void classes(void) {
    const uint32_t slots[] = {1};
    br_router_config config = defaults(1, slots);
    CHECK(config.lower_class_one_in == 0);
    config.lower_class_one_in = 3;
    br_router *router = made(&config, NULL);
    for (uint64_t id = 1; id <= 8; id++) {
        br_request arrival = request(id, 10);
        arrival.priority = id < 3 ? -1 : 5;
        CHECK(br_router_enqueue(router, &arrival) == BR_OK);
    }
    br_explanation told = {.struct_size = sizeof told};
    CHECK(br_router_explain(router, 2, &told) == BR_OK && told.priority == -1);
    told = (br_explanation){.struct_size = offsetof(br_explanation, priority), .priority = 77};
    CHECK(br_router_explain(router, 3, &told) == BR_OK && told.decided == BR_WAITS && told.priority == 77);
    /* For two of the higher class there is one of the lower. */
    for (uint64_t turn = 0; turn < 6; turn++) {
        CHECK(step(router, turn).admission_count == 1 && (admissions[0].id < 3) == (turn % 3 == 2));
        CHECK(br_router_finish(router, admissions[0].id, NULL, NULL) == BR_OK);
    }
    br_router_free(router);

    const uint64_t loads[] = {5};
    const uint32_t prompts[] = {10, 10};
    int32_t priority[] = {0, 4};
    br_workers workers = {.struct_size = sizeof workers, .count = 1, .load_tokens = loads,
                          .free_slots = slots};
    br_requests requests = {.struct_size = sizeof requests, .count = 2, .prompt_tokens = prompts,
                            .priority = priority};
    uint32_t row[1], worker[1];
    br_answer answer = {.struct_size = sizeof answer, .capacity = 1, .row = row, .worker = worker};
    br_assigner *assigner;
    CHECK(br_assigner_new(NULL, NULL, &assigner, NULL, 0) == BR_OK);
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_OK && answer.count == 1 &&
          row[0] == 1);
    requests.struct_size = offsetof(br_requests, priority);
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_OK && row[0] == 0);
    requests.struct_size = sizeof requests;
    priority[1] = -129;
    char error[256];
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          br_assigner_error(assigner, error, sizeof error) > 0 &&
          strstr(error, "request 1 (id 1): priority must be in -128..=127, found -129"));
    br_assigner_free(assigner);
}

int main(void) {
    claims();
    classes();
    puts("order: all as promised");
    return 0;
}

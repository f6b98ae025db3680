/* What happens between dispatch and end, who may go where, and structs as the version before has them. */
#include "router.h"

/* The layout that programs of version 1.1 were compiled with, where pointers have 64 bits. */
#if UINTPTR_MAX == UINT64_MAX
_Static_assert(offsetof(br_request, waited_steps) == 40 && offsetof(br_request, passed) == 44 &&
                   offsetof(br_request, cached_tokens) == 48,
               "br_request");
/* It ended with four bytes that nobody has set. */
_Static_assert(offsetof(br_report, age_ms) == 64 && offsetof(br_report, kv_age_ms) == 72, "br_report");
_Static_assert(offsetof(br_router_config, expire_after_ms) == 88 &&
                   offsetof(br_router_config, in_order) == 96,
               "br_router_config");
_Static_assert(offsetof(br_bonuses, tokens) == 24 && offsetof(br_bonuses, eligible) == 32, "br_bonuses");
_Static_assert(offsetof(br_metrics, clock_jumps) == 1248 && offsetof(br_metrics, preempted_in_place) == 1256,
               "br_metrics");
_Static_assert(sizeof(br_rank_metrics) == 144 && offsetof(br_rank_metrics, unseen) == 140, "br_rank_metrics");
_Static_assert(sizeof(br_dispatch) == 32 && offsetof(br_dispatch, prompt_tokens) == 28, "br_dispatch");
_Static_assert(sizeof(br_returned) == 24 && sizeof(br_plan) == 96 && offsetof(br_explanation, priority) == 72,
               "outputs");
#endif

/* A router with one worker that everybody given has entered, as `admissions` tells. */
static br_router *entered(br_router_config *config, size_t count) {
    br_router *router = made(config, NULL);
    for (uint64_t id = 1; id <= count; id++) enqueue(router, id, 100);
    CHECK(step(router, 0).admission_count == count);
    return router;
}

static void between_dispatch_and_end(void) {
    const uint32_t slots[] = {4};
    br_router_config config = defaults(1, slots);
    br_router *router = entered(&config, 2);
    CHECK(br_router_held(router, 1) == BR_OK && br_router_advance(router) == BR_OK);
    br_rank rank = rank_of(router, 0);
    CHECK(rank.held == 1 && rank.running == 2 && rank.unseen == 1 && rank.own_tokens == 201);
    CHECK(br_router_transfer_done(router, 1) == BR_OK && br_router_advance(router) == BR_OK);
    rank = rank_of(router, 0);
    CHECK(rank.held == 0 && rank.own_tokens == 203);

    CHECK(br_router_preempted(router, 2) == BR_OK && br_router_preempted(router, 2) == BR_OK);
    CHECK(br_router_transfer_done(router, 2) == BR_OK && br_router_advance(router) == BR_OK);
    rank = rank_of(router, 0);
    CHECK(rank.preempted == 1 && rank.running == 2 && rank.own_tokens == 204 && rank.free_slots == 2);
    CHECK(metrics_of(router).preempted_in_place == 1);
    CHECK(br_router_resumed(router, 2) == BR_OK && br_router_advance(router) == BR_OK);
    rank = rank_of(router, 0);
    CHECK(rank.preempted == 0 && rank.own_tokens == 206);

    enqueue(router, 9, 10);
    br_status (*const calls[])(br_router *, uint64_t) = {br_router_held, br_router_transfer_done,
                                                         br_router_preempted, br_router_resumed};
    for (size_t at = 0; at < sizeof calls / sizeof *calls; at++) {
        CHECK(calls[at](router, 9) == BR_UNKNOWN_REQUEST &&
              strstr(error_of(router), "request 9 waits and does not run"));
        CHECK(calls[at](router, 77) == BR_UNKNOWN_REQUEST &&
              strstr(error_of(router), "request 77 neither waits nor runs"));
        CHECK(calls[at](NULL, 1) == BR_ARGUMENT);
    }
    CHECK(metrics_of(router).preempted_in_place == 1);
    br_router_free(router);
}

/* Who is put off and comes again is whole: enqueued as it is told, it is what it was. */
static void again(void) {
    const uint32_t slots[] = {4, 4};
    br_router_config config = defaults(2, slots);
    br_router *router = entered(&config, 0);
    br_request first = {.struct_size = sizeof first, .id = 5, .prompt_tokens = 1000,
                        .fields = BR_HAS_RANK | BR_HAS_DEADLINE | BR_HAS_PROMPT_HASH | BR_HAS_MAX_TOKENS,
                        .rank = 1, .deadline_steps = 9, .prompt_hash = 77, .cached_tokens = 600,
                        .max_tokens = 50, .priority = -3};
    CHECK(br_router_enqueue(router, &first) == BR_OK && step(router, 1).admission_count == 1);
    for (int token = 0; token < 20; token++) CHECK(br_router_advance(router) == BR_OK);
    br_request told = {.struct_size = sizeof told};
    CHECK(br_router_preempt_request(router, 6, &told) == BR_UNKNOWN_REQUEST && told.id == 0);
    CHECK(br_router_preempt_request(router, 5, NULL) == BR_ARGUMENT && metrics_of(router).running == 1);
    CHECK(br_router_preempt_request(router, 5, &told) == BR_OK);
    CHECK(told.id == 5 && told.prompt_tokens == 1020 && told.cached_tokens == 600 &&
          told.generated_tokens == 20 && told.max_tokens == 50 && told.fields == first.fields &&
          told.priority == -3);
    CHECK(told.rank == 1 && told.deadline_steps == 9 && told.prompt_hash == 77 && told.waited_steps == 0);
    CHECK(br_router_enqueue(router, &told) == BR_OK && step(router, 2).admission_count == 1);
    CHECK(admissions[0].prompt_tokens == 420 && admissions[0].worker == 1);
    uint32_t generated;
    CHECK(br_router_finish(router, 5, NULL, &generated) == BR_OK && generated == 20);
    br_router_free(router);
}

static void lives(void) {
    const uint32_t slots[] = {4};
    br_router_config config = defaults(1, slots);
    br_router *router = entered(&config, 1);
    br_dispatch first = admissions[0];
    uint32_t generated = 7;
    CHECK(br_router_preempt(router, 1, NULL) == BR_OK);
    /* The request is given back and comes anew: what is told of its first life is of nobody. */
    CHECK(br_router_finish_dispatch(router, &first, &generated) == BR_UNKNOWN_REQUEST &&
          strstr(error_of(router), "neither waits nor runs"));
    enqueue(router, 1, 100);
    CHECK(br_router_finish_dispatch(router, &first, &generated) == BR_UNKNOWN_REQUEST &&
          br_router_abort_dispatch(router, &first) == BR_UNKNOWN_REQUEST && metrics_of(router).waiting == 1);
    CHECK(step(router, 1).admission_count == 1 && admissions[0].number == 2);
    br_dispatch second = admissions[0];
    CHECK(br_router_advance(router) == BR_OK);
    CHECK(br_router_finish_dispatch(router, &first, &generated) == BR_UNKNOWN_REQUEST &&
          strstr(error_of(router), "request 1 is not of dispatch 1 to worker 0") && generated == 7);
    CHECK(br_router_abort_dispatch(router, &first) == BR_UNKNOWN_REQUEST && metrics_of(router).running == 1);
    CHECK(br_router_finish_dispatch(router, NULL, NULL) == BR_ARGUMENT &&
          strstr(error_of(router), "dispatch: expected an aligned pointer"));
    CHECK(br_router_abort_dispatch(router, (const br_dispatch *)((const char *)&first + 1)) == BR_ARGUMENT);
    CHECK(br_router_finish_dispatch(router, &second, (uint32_t *)((char *)&first + 1)) == BR_ARGUMENT &&
          metrics_of(router).running == 1);
    CHECK(br_router_at(router, 500) == BR_OK);
    CHECK(br_router_finish_dispatch(router, &second, &generated) == BR_OK && generated == 1);
    br_metrics metrics = metrics_of(router);
    CHECK(metrics.finished == 1 && metrics.aborted == 0 && metrics.now_ms == 500);

    /* One that waits has no dispatch, also by what a placement has told. */
    br_request arrival = request(2, 10);
    br_dispatch waits;
    CHECK(br_router_place(router, &arrival, 500, NULL, 0, &waits) == BR_OK && waits.number == 0);
    CHECK(br_router_abort_dispatch(router, &waits) == BR_UNKNOWN_REQUEST && metrics_of(router).waiting == 1);
    CHECK(step(router, 501).admission_count == 1 &&
          br_router_abort_dispatch(router, admissions) == BR_OK && metrics_of(router).aborted == 1);
    br_router_free(router);
}

static void sending(void) {
    br_router_config config = defaults(0, NULL);
    br_router *router = made(&config, NULL);
    br_request arrival = request(1, 100);
    br_dispatch dispatch;
    CHECK(br_router_send(router, &arrival, BR_NONE, &dispatch) == BR_UNKNOWN_WORKER &&
          strstr(error_of(router), "no worker is here to send request 1 to"));
    br_router_free(router);

    const uint32_t slots[] = {1, 1};
    config = defaults(2, slots);
    router = made(&config, NULL);
    CHECK(br_router_at(router, 5000) == BR_OK);
    CHECK(br_router_send(router, &arrival, 1, &dispatch) == BR_OK && dispatch.worker == 1 &&
          dispatch.number == 1 && dispatch.id == 1);
    br_metrics metrics = metrics_of(router);
    CHECK(metrics.now_ms == 5000 && metrics.running == 1 && metrics.sent_beyond == 0);
    arrival.id = 2;
    CHECK(br_router_send(router, &arrival, BR_NONE, &dispatch) == BR_OK && dispatch.worker == 0);
    /* Both are full: it queues all the same, also one that has waited here. */
    enqueue(router, 3, 50);
    arrival = request(3, 50);
    CHECK(br_router_send(router, &arrival, 7, &dispatch) == BR_UNKNOWN_WORKER);
    CHECK(br_router_send(router, &arrival, 1, NULL) == BR_ARGUMENT &&
          strstr(error_of(router), "dispatch: expected an aligned pointer"));
    CHECK(br_router_send(router, NULL, 1, &dispatch) == BR_ARGUMENT);
    CHECK(metrics_of(router).waiting == 1);
    CHECK(br_router_send(router, &arrival, 1, &dispatch) == BR_OK && dispatch.number == 2);
    metrics = metrics_of(router);
    CHECK(metrics.waiting == 0 && metrics.running == 3 && metrics.sent_beyond == 1 && metrics.arrived == 3);
    /* Its rank is where it goes where nobody says another, however long the queue there is. */
    arrival = request(4, 50);
    arrival.fields = BR_HAS_RANK;
    arrival.rank = 1;
    CHECK(br_router_send(router, &arrival, BR_NONE, &dispatch) == BR_OK && dispatch.worker == 1);
    CHECK(br_router_send(router, &arrival, BR_NONE, &dispatch) == BR_STATE &&
          strstr(error_of(router), "already runs on worker 1"));
    /* An engine's word is good past all slots. */
    arrival = request(5, 50);
    CHECK(br_router_adopt(router, &arrival, 0, 3) == BR_OK && metrics_of(router).adopted_beyond == 1);
    br_router_free(router);
}

static void growing(void) {
    const uint32_t slots[] = {4};
    br_router_config config = defaults(1, slots);
    br_router *router = entered(&config, 3);
    const uint64_t ids[] = {3, 77, 1, 2};
    uint32_t tokens[] = {4, 9, 0, 2};
    size_t grown = 99;
    CHECK(br_router_progress_requests(router, ids, tokens, 4, &grown) == BR_OK && grown == 3);
    CHECK(rank_of(router, 0).own_tokens == 306);
    CHECK(br_router_progress_requests(router, ids, NULL, 4, NULL) == BR_OK &&
          rank_of(router, 0).own_tokens == 309);
    CHECK(br_router_progress_requests(router, NULL, NULL, 0, &grown) == BR_OK && grown == 0);
    /* Nobody has grown by a call that is refused. */
    tokens[3] = (1u << 22) + 1;
    CHECK(br_router_progress_requests(router, ids, tokens, 4, &grown) == BR_STATE &&
          strstr(error_of(router), "found 4194305"));
    CHECK(br_router_progress_requests(router, NULL, tokens, 4, &grown) == BR_ARGUMENT &&
          strstr(error_of(router), "ids: expected 4 entries, found NULL"));
    CHECK(br_router_progress_requests(router, ids, (const uint32_t *)((const char *)tokens + 1), 3, NULL) ==
          BR_ARGUMENT);
    CHECK(br_router_progress_requests(router, ids, NULL, (size_t)-1, NULL) == BR_ARGUMENT);
    CHECK(br_router_progress_requests(router, ids, NULL, 4, (size_t *)((char *)&grown + 1)) == BR_ARGUMENT);
    CHECK(grown == 0 && rank_of(router, 0).own_tokens == 309);
    uint32_t generated;
    CHECK(br_router_finish(router, 3, NULL, &generated) == BR_OK && generated == 5);
    br_router_free(router);
}

static void ends_that_are_not_told(void) {
    const uint32_t slots[] = {4, 4};
    br_router_config config = defaults(2, slots);
    br_router *router = made(&config, NULL);
    br_dispatch dispatch;
    for (uint64_t id = 1; id <= 4; id++) {
        br_request arrival = request(id, 100);
        CHECK(br_router_at(router, id * 10) == BR_OK);
        CHECK(br_router_send(router, &arrival, 1, &dispatch) == BR_OK);
    }
    CHECK(br_router_progress_request(router, 1, 1) == BR_OK);
    uint64_t ids[4] = {77, 77, 77, 77};
    size_t count = 99;
    /* Where the room is short nothing happens. */
    CHECK(br_router_disown_sent(router, 1, BR_NONE64, ids, 2, &count) == BR_SPACE && count == 3 &&
          strstr(error_of(router), "at most 3 requests are unseen, found room for 2"));
    CHECK(br_router_disown_sent(router, 1, BR_NONE64, NULL, 3, &count) == BR_ARGUMENT &&
          strstr(error_of(router), "ids"));
    CHECK(br_router_disown_sent(router, 1, BR_NONE64, ids, 3, NULL) == BR_ARGUMENT);
    CHECK(br_router_disown_sent(router, 2, BR_NONE64, ids, 3, &count) == BR_UNKNOWN_WORKER);
    CHECK(metrics_of(router).running == 4 && metrics_of(router).disowned == 0 && ids[0] == 77);
    CHECK(br_router_disown_sent(router, 1, 30, ids, 4, &count) == BR_OK && count == 2 && ids[0] == 2 &&
          ids[1] == 3 && ids[2] == 77);
    br_rank rank = rank_of(router, 1);
    CHECK(rank.running == 2 && rank.unseen == 1 && rank.foreign_requests == 2 && rank.foreign_tokens == 200 &&
          rank.own_tokens == 201);
    CHECK(metrics_of(router).disowned == 2 && br_router_finish(router, 2, NULL, NULL) == BR_UNKNOWN_REQUEST);
    CHECK(br_router_disown_sent(router, 1, BR_NONE64, ids, 4, &count) == BR_OK && count == 1 && ids[0] == 4);
    CHECK(br_router_disown_sent(router, 1, BR_NONE64, NULL, 0, &count) == BR_OK && count == 0);
    br_router_free(router);
}

static void workers_at_run_time(void) {
    const uint32_t slots[] = {1};
    const uint64_t capacity[] = {1000};
    br_router_config config = defaults(1, slots);
    config.kv_capacity_tokens = capacity;
    config.headroom_steps = 0;
    br_router *router = made(&config, NULL);
    uint32_t worker = 99, found;
    uint64_t tokens;
    float weight;
    CHECK(br_router_announce_worker(router, 4, 5000, 2.0f, NULL) == BR_ARGUMENT &&
          br_router_announce_worker(router, 70000, 5000, 2.0f, &worker) == BR_BATCH && worker == 99);
    CHECK(br_router_announce_worker(router, 4, 5000, 2.0f, &worker) == BR_OK && worker == 1);
    CHECK(rank_of(router, 1).accepting == 0 && rank_of(router, 0).accepting == 1);
    enqueue(router, 1, 3000);
    br_plan plan = step(router, 0);
    CHECK(plan.admission_count == 0 && plan.returned_count == 0);
    CHECK(br_router_set_accepting(router, 1, 1) == BR_OK);
    CHECK(step(router, 1).admission_count == 1 && admissions[0].worker == 1);

    CHECK(br_router_worker_config(router, 1, &found, &tokens, &weight) == BR_OK && found == 4 &&
          tokens == 5000 && weight == 2.0f);
    CHECK(br_router_configure_worker(router, 1, 3, 70, NAN) == BR_BATCH &&
          br_router_configure_worker(router, 1, 3, 1ull << 31, 1.0f) == BR_BATCH &&
          br_router_configure_worker(router, 1, 70000, 70, 1.0f) == BR_BATCH &&
          br_router_configure_worker(router, 2, 3, 70, 1.0f) == BR_UNKNOWN_WORKER);
    CHECK(br_router_worker_config(router, 1, NULL, (uint64_t *)((char *)&tokens + 4 - 3), NULL) ==
          BR_ARGUMENT);
    CHECK(br_router_worker_config(router, 1, &found, &tokens, &weight) == BR_OK && found == 4 &&
          tokens == 5000 && weight == 2.0f);
    CHECK(br_router_configure_worker(router, 1, 3, BR_NONE64, 0.5f) == BR_OK);
    CHECK(br_router_worker_config(router, 1, &found, &tokens, &weight) == BR_OK && found == 3 &&
          tokens == BR_NONE64 && weight == 0.5f);
    CHECK(rank_of(router, 1).slots == 3 && rank_of(router, 1).free_slots == 2);
    CHECK(br_router_worker_config(router, 1, NULL, NULL, NULL) == BR_OK &&
          br_router_worker_config(router, 5, NULL, NULL, NULL) == BR_UNKNOWN_WORKER);
    br_rank rank = {.struct_size = sizeof rank};
    CHECK(br_router_rank(router, 5, &rank) == BR_UNKNOWN_WORKER && rank.slots == 0);
    CHECK(br_router_rank(router, 1, NULL) == BR_ARGUMENT);
    /* As the version before has it. */
    rank.struct_size = offsetof(br_rank, claimed_by);
    rank.claimed_by = 77;
    CHECK(br_router_rank(router, 1, &rank) == BR_OK && rank.slots == 3 && rank.claimed_by == 77);
    rank.struct_size--;
    CHECK(br_router_rank(router, 1, &rank) == BR_ARGUMENT && strstr(error_of(router), "br_rank.struct_size"));
    /* Both say alike. */
    br_rank_metrics ranks[2];
    br_metrics metrics = {.struct_size = sizeof metrics, .ranks = ranks, .rank_capacity = 2};
    CHECK(br_router_metrics(router, &metrics) == BR_OK);
    for (uint32_t at = 0; at < 2; at++) {
        rank = rank_of(router, at);
        CHECK(rank.load_tokens == ranks[at].load_tokens && rank.margin_tokens == ranks[at].margin_tokens &&
              rank.kv_used_tokens == ranks[at].kv_used_tokens &&
              rank.kv_capacity_tokens == ranks[at].kv_capacity_tokens &&
              rank.report_age_ms == BR_NONE64 && rank.dispatches == ranks[at].dispatches &&
              rank.running == ranks[at].running && rank.unseen == ranks[at].unseen);
    }
    br_router_free(router);
}

/* Who may go where, in steps and on arrival. */
static void eligibility(void) {
    enum { WORKERS = 70 };
    uint32_t slots[WORKERS];
    for (int g = 0; g < WORKERS; g++) slots[g] = 2;
    br_router_config config = defaults(WORKERS, slots);
    br_router *router = made(&config, NULL);
    const uint64_t ids[] = {5, 6, 8};
    uint8_t may[3 * WORKERS] = {0};
    may[69] = 1;
    may[WORKERS + 64] = 0x80;
    br_bonuses bonuses = {.struct_size = sizeof bonuses, .count = 3, .ids = ids, .eligible = may};
    br_plan plan = {.struct_size = sizeof plan, .admissions = admissions, .admission_capacity = 64};
    enqueue(router, 5, 100);
    enqueue(router, 6, 100);
    enqueue(router, 8, 100);
    CHECK(br_router_step(router, 0, &bonuses, &plan) == BR_OK && plan.admission_count == 2);
    for (size_t at = 0; at < 2; at++) CHECK(admissions[at].worker == (admissions[at].id == 5 ? 69 : 64));
    uint64_t waiting[1];
    uint8_t reasons[1];
    size_t count;
    CHECK(br_router_waiting(router, waiting, reasons, 1, &count) == BR_OK && waiting[0] == 8 &&
          reasons[0] == BR_NOT_ELIGIBLE);
    /* Rows are for one call. */
    CHECK(br_router_step(router, 1, NULL, &plan) == BR_OK && plan.admission_count == 1);

    /* Both: the greatest bonus of those that it may use. */
    float tokens[WORKERS] = {0};
    tokens[10] = 1000000;
    tokens[20] = 500000;
    memset(may, 1, sizeof may);
    may[10] = 0;
    bonuses.tokens = tokens;
    bonuses.count = 1;
    br_router_free(router);
    router = made(&config, "exact");
    enqueue(router, 5, 100);
    bonuses.workers = WORKERS;
    CHECK(br_router_step(router, 2, &bonuses, &plan) == BR_OK && admissions[0].worker == 20);
    bonuses.tokens = NULL;
    bonuses.eligible = NULL;
    enqueue(router, 6, 100);
    CHECK(br_router_step(router, 3, &bonuses, &plan) == BR_ARGUMENT &&
          strstr(error_of(router), "br_bonuses.tokens: expected 70 entries, found NULL"));
    bonuses.eligible = may;
    bonuses.workers = WORKERS - 1;
    CHECK(br_router_step(router, 3, &bonuses, &plan) == BR_ARGUMENT &&
          strstr(error_of(router), "br_bonuses.workers: expected 70, one entry per worker, found 69"));
    CHECK(metrics_of(router).waiting == 1);
    /* A program of the version before has no such field: what lies behind its struct says nothing. */
    memset(may, 0, sizeof may);
    bonuses.tokens = tokens;
    bonuses.eligible = may;
    bonuses.ids = ids + 1;
    bonuses.struct_size = offsetof(br_bonuses, eligible);
    CHECK(br_router_step(router, 3, &bonuses, &plan) == BR_OK && plan.admission_count == 1 &&
          admissions[0].worker == 10);
    br_router_free(router);

    /* On arrival. */
    config = defaults(4, slots);
    config.mode = BR_ARRIVAL;
    router = made(&config, "exact");
    const uint8_t fourth[] = {0, 0, 0, 0, 0, 0, 0, 3};
    const uint64_t arriving[] = {2, 1};
    const float bonus[] = {0, 0, 0, 0, 0, 100000, 0, 0};
    bonuses = (br_bonuses){.struct_size = sizeof bonuses, .count = 2, .ids = arriving, .eligible = fourth};
    br_request arrival = request(1, 100);
    br_dispatch dispatch;
    CHECK(br_router_place_with(router, &arrival, 0, &bonuses, &dispatch) == BR_OK && dispatch.worker == 3);
    arrival.id = 2;
    CHECK(br_router_place_with(router, &arrival, 0, &bonuses, &dispatch) == BR_OK && dispatch.number == 0 &&
          dispatch.worker == BR_NONE && dispatch.id == 2);
    arrival.id = 3;
    bonuses.eligible = NULL;
    CHECK(br_router_place_with(router, &arrival, 0, &bonuses, &dispatch) == BR_ARGUMENT &&
          strstr(error_of(router), "br_bonuses.tokens: expected 8 entries, found NULL"));
    bonuses.tokens = bonus;
    const uint64_t twice[] = {3, 3};
    bonuses.ids = twice;
    CHECK(br_router_place_with(router, &arrival, 0, &bonuses, &dispatch) == BR_ARGUMENT &&
          strstr(error_of(router), "request 3 has entry 0 already"));
    CHECK(br_router_place_with(router, &arrival, 0, NULL, NULL) == BR_ARGUMENT);
    CHECK(metrics_of(router).arrived == 2);
    const uint64_t last[] = {9, 3};
    bonuses.ids = last;
    CHECK(br_router_place_with(router, &arrival, 0, &bonuses, &dispatch) == BR_OK && dispatch.worker == 1);
    arrival.id = 4;
    CHECK(br_router_place_with(router, &arrival, 0, NULL, &dispatch) == BR_OK && dispatch.number == 1);
    br_router_free(router);
}

/* What a request says of itself. */
static void requests(void) {
    const uint32_t slots[] = {4};
    const uint64_t capacity[] = {100000};
    br_router_config config = defaults(1, slots);
    config.kv_capacity_tokens = capacity;
    config.headroom_steps = 256;
    br_router *router = made(&config, NULL);
    br_request arrival = request(1, 1000);
    arrival.fields = BR_HAS_MAX_TOKENS;
    arrival.cached_tokens = 400;
    arrival.generated_tokens = 30;
    arrival.max_tokens = 50;
    CHECK(br_router_enqueue(router, &arrival) == BR_OK);
    CHECK(step(router, 0).admission_count == 1 && admissions[0].prompt_tokens == 600);
    br_rank rank = rank_of(router, 0);
    CHECK(rank.own_tokens == 600 && rank.kv_growth_tokens == 20);
    uint32_t generated;
    CHECK(br_router_advance(router) == BR_OK && br_router_finish(router, 1, NULL, &generated) == BR_OK &&
          generated == 31);
    /* All of it is there: a token is brought. */
    arrival = request(2, 1000);
    arrival.cached_tokens = 1000;
    CHECK(br_router_enqueue(router, &arrival) == BR_OK && step(router, 1).admission_count == 1 &&
          admissions[0].prompt_tokens == 1 && rank_of(router, 0).kv_growth_tokens == 256);
    CHECK(br_router_finish(router, 2, NULL, NULL) == BR_OK);

    arrival = request(3, 1000);
    arrival.generated_tokens = 1001;
    CHECK(br_router_enqueue(router, &arrival) == BR_BATCH &&
          strstr(error_of(router), "request 3 has 1000 tokens and cannot have generated 1001"));
    arrival.generated_tokens = 0;
    arrival.priority = 128;
    CHECK(br_router_enqueue(router, &arrival) == BR_BATCH &&
          strstr(error_of(router), "request 3: priority must be in -128..=127, found 128"));
    /* The version before ended here: what lies behind says nothing, and no flag can mean it. */
    arrival.cached_tokens = arrival.generated_tokens = arrival.max_tokens = arrival.priority = 0x5a5a5a5a;
    arrival.struct_size = offsetof(br_request, cached_tokens);
    arrival.fields = BR_HAS_MAX_TOKENS;
    CHECK(br_router_enqueue(router, &arrival) == BR_ARGUMENT &&
          strstr(error_of(router), "br_request.fields: expected flags of 0x7 in"));
    arrival.fields = 0;
    CHECK(metrics_of(router).waiting == 0 && br_router_enqueue(router, &arrival) == BR_OK);
    CHECK(step(router, 2).admission_count == 1 && admissions[0].prompt_tokens == 1000 &&
          rank_of(router, 0).kv_growth_tokens == 256);
    br_router_free(router);
}

static void reports(void) {
    const uint32_t slots[] = {8};
    br_router_config config = defaults(1, slots);
    for (int aged = 0; aged < 3; aged++) {
        br_router *router = entered(&config, 2);
        const uint64_t both[] = {1, 2};
        const uint32_t nothing[] = {0, 0};
        CHECK(br_router_progress_requests(router, both, nothing, 2, NULL) == BR_OK);
        br_report report = {.struct_size = sizeof report,
                            .sequence = 1,
                            .last_dispatch = 2,
                            .kv_used_tokens = 200,
                            .kv_capacity_tokens = BR_NONE64,
                            .running = 2,
                            .kv_age_ms = 100};
        CHECK(br_router_report(router, 0, &report, NULL) == BR_OK);
        CHECK(br_router_at(router, 1000) == BR_OK && br_router_finish(router, 1, NULL, NULL) == BR_OK);
        /* The count is of now and the KV tokens are of before: those of the one that ended may be in it. */
        CHECK(br_router_at(router, 1020) == BR_OK);
        report.sequence = 2;
        report.running = 1;
        report.kv_age_ms = aged == 0 ? 100 : aged == 1 ? 0 : BR_NONE64;
        CHECK(br_router_report(router, 0, &report, NULL) == BR_OK);
        CHECK(rank_of(router, 0).foreign_tokens == (aged == 0 ? 0 : 100));
        /* Only requests are known: what was measured goes on, and who has come since is as long as ours. */
        report.sequence = 3;
        report.running = 4;
        report.kv_used_tokens = BR_NONE64;
        CHECK(br_router_report(router, 0, &report, NULL) == BR_OK);
        br_rank rank = rank_of(router, 0);
        CHECK(rank.foreign_requests == 3 && rank.foreign_tokens == (aged == 0 ? 300 : 400));
        CHECK(rank.reports[0] == 3);
        /* The version before ended with four bytes that nobody has set, and more lies behind. */
        report.sequence = 4;
        report.kv_used_tokens = 1ull << 31;
        CHECK(br_router_report(router, 0, &report, NULL) == BR_BATCH);
        report.running = 1;
        report.kv_used_tokens = 200;
        memset((char *)&report.age_ms + sizeof report.age_ms, 0x5a,
               sizeof report - offsetof(br_report, age_ms) - sizeof report.age_ms);
        report.struct_size = offsetof(br_report, kv_age_ms);
        CHECK(br_router_report(router, 0, &report, NULL) == BR_OK);
        rank = rank_of(router, 0);
        CHECK(rank.foreign_requests == 0 && rank.foreign_tokens == 100);
        br_router_free(router);
    }
    /* Whether a token of one shows those before it. */
    for (uint32_t in_order = 0; in_order < 2; in_order++) {
        config.in_order = in_order;
        br_router *router = entered(&config, 2);
        uint64_t second = admissions[admissions[1].number == 2].id;
        CHECK(br_router_progress_request(router, second, 1) == BR_OK);
        CHECK(rank_of(router, 0).unseen == 1 - in_order);
        br_router_free(router);
    }
    config.in_order = 1;
    config.lower_class_one_in = 1;
    br_router *router;
    char error[256];
    CHECK(br_router_new(NULL, NULL, &config, &router, error, sizeof error) == BR_STATE &&
          strstr(error, "lower_class_one_in") && strstr(error, "found 1"));
    config.struct_size = offsetof(br_router_config, in_order);
    router = entered(&config, 2);
    CHECK(br_router_progress_request(router, admissions[admissions[1].number == 2].id, 1) == BR_OK &&
          rank_of(router, 0).unseen == 1);
    br_router_free(router);
}

/* With several front ends the slots that are free change as the time does, within the step too. */
static void room_for_admissions(void) {
    const uint32_t slots[] = {8};
    br_router_config config = defaults(1, slots);
    config.share_index = 1;
    config.share_of = 2;
    br_router *router = made(&config, NULL);
    CHECK(br_router_at(router, 0) == BR_OK);
    for (uint64_t id = 1; id <= 20; id++) enqueue(router, id, 10);
    CHECK(rank_of(router, 0).slots == 4 && rank_of(router, 0).free_slots == 4);
    /* What is lent must have been shown to be free. */
    br_report report = {.struct_size = sizeof report,
                        .sequence = BR_NONE64,
                        .last_dispatch = BR_NONE64,
                        .kv_capacity_tokens = BR_NONE64};
    CHECK(br_router_report(router, 0, &report, NULL) == BR_OK);
    br_plan plan = {.struct_size = sizeof plan, .admissions = admissions, .admission_capacity = 7};
    CHECK(br_router_step(router, 400, NULL, &plan) == BR_SPACE && plan.admission_count == 8 &&
          metrics_of(router).waiting == 20);
    plan.admission_capacity = 8;
    CHECK(br_router_step(router, 400, NULL, &plan) == BR_OK && plan.admission_count > 4);
    CHECK(metrics_of(router).running == plan.admission_count);
    br_router_free(router);
}

int main(void) {
    between_dispatch_and_end();
    again();
    lives();
    sending();
    growing();
    ends_that_are_not_told();
    workers_at_run_time();
    eligibility();
    requests();
    reports();
    room_for_admissions();
    puts("stages: all as promised");
    return 0;
}

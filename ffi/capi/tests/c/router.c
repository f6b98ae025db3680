/* The state across steps, from arrival to every way out. */
#include "router.h"

static void a_life(void) {
    const uint32_t slots[] = {1, 1};
    br_router_config config = defaults(2, slots);
    br_router *router = made(&config, NULL);
    enqueue(router, 1, 100);
    enqueue(router, 2, 50);
    enqueue(router, 3, 70);

    br_plan plan = {.struct_size = sizeof plan, .admissions = admissions, .admission_capacity = 1};
    CHECK(br_router_step(router, 0, NULL, &plan) == BR_SPACE && plan.admission_count == 2 &&
          strstr(error_of(router), "room for 1"));
    plan = step(router, 0);
    CHECK(plan.admission_count == 2 && plan.returned_count == 0 && plan.envelope_after_tokens > 0);
    CHECK(admissions[0].number == 1 && admissions[1].number == 1 &&
          admissions[0].worker != admissions[1].worker);
    uint64_t ids[2];
    uint8_t reasons[2];
    size_t count, waiting, running;
    CHECK(br_router_waiting(router, ids, reasons, 2, &count) == BR_OK && count == 1 &&
          reasons[0] == BR_NO_SLOT);
    CHECK(br_router_waiting(router, NULL, NULL, 0, &count) == BR_SPACE && count == 1);
    CHECK(br_router_counts(router, &waiting, &running) == BR_OK && waiting == 1 && running == 2);
    br_explanation told = {.struct_size = sizeof told};
    CHECK(br_router_explain(router, ids[0], &told) == BR_OK && told.decided == BR_WAITS &&
          told.wait_reason == BR_NO_SLOT && told.worker == BR_NONE);
    CHECK(br_router_explain(router, admissions[0].id, &told) == BR_OK && told.decided == BR_UNDECIDED);

    uint64_t done = admissions[0].id;
    uint32_t worker, generated;
    CHECK(br_router_advance(router) == BR_OK && br_router_progress(router, admissions[0].worker, 2) == BR_OK);
    CHECK(br_router_progress_request(router, done, 1) == BR_OK);
    CHECK(br_router_finish(router, done, &worker, &generated) == BR_OK && worker == admissions[0].worker &&
          generated == 4);
    CHECK(br_router_finish(router, done, NULL, NULL) == BR_UNKNOWN_REQUEST &&
          strstr(error_of(router), "neither waits nor runs"));
    CHECK(br_router_set_explaining(router, 1) == BR_OK);
    plan = step(router, 50);
    CHECK(plan.admission_count == 1 && admissions[0].id == ids[0] && admissions[0].worker == worker &&
          admissions[0].number == 2);
    CHECK(br_router_explain(router, ids[0], &told) == BR_OK && told.decided == BR_BY_STEP &&
          told.worker == worker && told.wait_reason == BR_ADMITTED);
    CHECK(told.runner_up == BR_NONE && isnan(told.runner_up_score_tokens));
    CHECK(br_router_abort(router, ids[0], &generated) == BR_OK && generated == worker);
    enqueue(router, 9, 10);
    CHECK(br_router_finish(router, 9, NULL, NULL) == BR_UNKNOWN_REQUEST &&
          strstr(error_of(router), "request 9 waits and does not run"));
    CHECK(br_router_abort(router, 9, &worker) == BR_OK && worker == BR_NONE);

    br_rank_metrics ranks[2];
    br_metrics metrics = {.struct_size = sizeof metrics, .ranks = ranks, .rank_capacity = 2};
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.rank_count == 2 && metrics.now_ms == 50);
    CHECK(metrics.arrived == 4 && metrics.admitted_by_step == 3 && metrics.finished == 1 &&
          metrics.aborted == 2 && metrics.running == 1);
    CHECK(ranks[0].dispatches + ranks[1].dispatches == 3 && ranks[0].report_age_ms == BR_NONE64 &&
          ranks[0].kv_capacity_tokens == BR_NONE64);
    uint64_t decided = 0;
    for (int b = 0; b < BR_BUCKETS; b++) decided += metrics.decide_ns.buckets[b];
    CHECK(decided == 2 && metrics.decide_ns.sum > 0);
    metrics.rank_capacity = 1;
    CHECK(br_router_metrics(router, &metrics) == BR_SPACE && metrics.rank_count == 2);
    metrics.ranks = NULL;
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.rank_count == 2);
    char text[256];
    CHECK(br_router_describe(router, text, sizeof text) == BR_OK && strncmp(text, "level; ", 7) == 0);
    br_router_free(router);
}

static void ways_out(void) {
    const uint32_t slots[] = {4, 4};
    const uint64_t capacity[] = {10000, 10000};
    br_router_config config = defaults(2, slots);
    config.kv_capacity_tokens = capacity;
    config.headroom_steps = 0;
    config.dispatch_timeout_ms = 100;
    config.expire_after_ms = 10000;
    br_router *router = made(&config, "level");
    enqueue(router, 1, 1000);
    br_plan plan = step(router, 0);
    CHECK(plan.admission_count == 1);
    uint32_t worker = admissions[0].worker, verdict;
    br_report report = {.struct_size = sizeof report, .sequence = 1, .kv_capacity_tokens = BR_NONE64};
    CHECK(br_router_report(router, worker, &report, &verdict) == BR_OK && verdict == BR_TAKEN);
    CHECK(br_router_report(router, worker, &report, &verdict) == BR_OK && verdict == BR_REPEATED);
    step(router, 500);
    report.sequence = 2;
    CHECK(br_router_report(router, worker, &report, NULL) == BR_OK);
    plan = step(router, 501);
    CHECK(plan.returned_count == 1 && plan.returned_left == 0 && gone[0].id == 1 &&
          gone[0].reason == BR_LOST_DISPATCH && gone[0].worker == worker);
    report.last_dispatch = 9;
    report.sequence = 3;
    CHECK(br_router_report(router, worker, &report, NULL) == BR_STATE &&
          strstr(error_of(router), "only 1 were made"));
    CHECK(br_router_report(router, 7, &report, NULL) == BR_UNKNOWN_WORKER);

    /* More leave than the caller asks for at once. */
    uint32_t joined, drained;
    CHECK(br_router_add_worker(router, 8, BR_NONE64, 1.5f, &joined) == BR_OK && joined == 2);
    for (uint64_t id = 10; id < 18; id++) {
        br_request bound = request(id, 10);
        bound.fields = BR_HAS_RANK;
        bound.rank = joined;
        CHECK(br_router_enqueue(router, &bound) == BR_OK);
    }
    plan = step(router, 600);
    CHECK(plan.admission_count == 8);
    CHECK(br_router_drain_worker(router, joined) == BR_OK &&
          br_router_is_drained(router, joined, &drained) == BR_OK && drained == 0);
    CHECK(br_router_remove_worker(router, joined) == BR_OK &&
          br_router_remove_worker(router, joined) == BR_UNKNOWN_WORKER);
    size_t count, left;
    CHECK(br_router_returned(router, gone, 3, &count, &left) == BR_OK && count == 3 && left == 5 &&
          gone[0].reason == BR_WORKER_REMOVED);
    plan = (br_plan){.struct_size = sizeof plan,
                     .admissions = admissions,
                     .admission_capacity = 64,
                     .returned = gone,
                     .returned_capacity = 4};
    CHECK(br_router_step(router, 700, NULL, &plan) == BR_OK && plan.returned_count == 4 &&
          plan.returned_left == 1);
    plan = step(router, 701);
    CHECK(plan.returned_count == 1 && plan.returned_left == 0);
    uint32_t ids[2];
    CHECK(br_router_worker_ids(router, ids, 2, &count) == BR_OK && count == 2 && ids[0] == 0 && ids[1] == 1);
    CHECK(br_router_worker_ids(router, ids, 1, &count) == BR_SPACE && count == 2);

    CHECK(br_router_set_accepting(router, 0, 0) == BR_OK && br_router_set_accepting(router, 1, 0) == BR_OK);
    enqueue(router, 20, 10);
    CHECK(step(router, 800).admission_count == 0);
    plan = step(router, 20000);
    CHECK(plan.returned_count == 1 && gone[0].reason == BR_EXPIRED && gone[0].worker == BR_NONE);
    CHECK(br_router_set_accepting(router, 0, 1) == BR_OK);
    br_request warm = request(30, 100);
    uint32_t length;
    CHECK(br_router_adopt(router, &warm, 1, 3) == BR_OK && br_router_preempt(router, 30, &length) == BR_OK &&
          length == 103);
    br_router_free(router);
}

static void bonuses_and_modes(void) {
    const uint32_t slots[] = {4, 4, 4, 4};
    const float bonus[] = {0, 0, 100000, 0};
    br_router_config config = defaults(4, slots);
    config.mode = BR_ARRIVAL;
    config.explaining = 1;
    br_router *router = made(&config, "exact");
    br_request arrival = request(1, 500);
    br_dispatch dispatch;
    CHECK(br_router_place(router, &arrival, 0, bonus, 4, &dispatch) == BR_OK && dispatch.number == 1 &&
          dispatch.worker == 2);
    br_explanation told = {.struct_size = sizeof told};
    CHECK(br_router_explain(router, 1, &told) == BR_OK && told.decided == BR_BY_ARRIVAL &&
          told.runner_up != BR_NONE && told.runner_up != 2);
    arrival.id = 2;
    CHECK(br_router_place(router, &arrival, 0, bonus, 3, &dispatch) == BR_ARGUMENT &&
          strstr(error_of(router), "one per worker"));
    CHECK(br_router_place(router, &arrival, 0, NULL, 4, &dispatch) == BR_ARGUMENT &&
          strstr(error_of(router), "bonus_tokens: expected 4 entries, found NULL"));
    CHECK(br_router_place(router, &arrival, 0, NULL, 0, NULL) == BR_ARGUMENT);
    const float wrong[][4] = {{0, NAN, 0, 0}, {0, 0, 0, INFINITY}, {-2e9f, 0, 0, 0}};
    for (size_t at = 0; at < 3; at++)
        CHECK(br_router_place(router, &arrival, 0, wrong[at], 4, &dispatch) == BR_BATCH &&
              strstr(error_of(router), "bonus_tokens, entry"));
    size_t waiting, running;
    CHECK(br_router_counts(router, &waiting, &running) == BR_OK && waiting == 0 && running == 1);
    arrival.id = 1;
    CHECK(br_router_place(router, &arrival, 0, NULL, 0, &dispatch) == BR_STATE &&
          strstr(error_of(router), "already runs"));
    br_router_free(router);

    config.mode = BR_STEP;
    router = made(&config, "exact");
    arrival.id = 5;
    CHECK(br_router_place(router, &arrival, 0, NULL, 0, &dispatch) == BR_OK && dispatch.number == 0 &&
          dispatch.worker == BR_NONE);
    enqueue(router, 6, 500);
    const uint64_t ids[] = {77, 5};
    const float rows[] = {1, 2, 3, 4, 0, 0, 100000, 0};
    br_bonuses bonuses = {.struct_size = sizeof bonuses, .count = 2, .ids = ids, .tokens = rows};
    br_plan plan = {.struct_size = sizeof plan, .admissions = admissions, .admission_capacity = 64};
    CHECK(br_router_step(router, 1, &bonuses, &plan) == BR_OK && plan.admission_count == 2);
    CHECK(admissions[0].id == 5 ? admissions[0].worker == 2 : admissions[1].worker == 2);

    /* Every row is looked at before the step begins, also that of an id that does not wait. */
    enqueue(router, 7, 500);
    float spoilt[8];
    for (size_t at = 0; at < 8; at++) {
        memcpy(spoilt, rows, sizeof spoilt);
        spoilt[at] = at % 2 ? NAN : -INFINITY;
        bonuses.tokens = spoilt;
        char entry[64];
        snprintf(entry, sizeof entry, "br_bonuses.tokens, entry %zu:", at);
        CHECK(br_router_step(router, 50000, &bonuses, &plan) == BR_BATCH && strstr(error_of(router), entry));
    }
    bonuses.tokens = rows;
    const uint64_t twice[] = {7, 7};
    bonuses.ids = twice;
    CHECK(br_router_step(router, 50000, &bonuses, &plan) == BR_ARGUMENT &&
          strstr(error_of(router), "entry 1: request 7 has entry 0 already"));
    br_metrics metrics = {.struct_size = sizeof metrics};
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.now_ms == 1 && metrics.waiting == 1 &&
          metrics.running == 2);
    bonuses.tokens = NULL;
    CHECK(br_router_step(router, 2, &bonuses, &plan) == BR_ARGUMENT &&
          strstr(error_of(router), "br_bonuses.tokens"));
    br_router_free(router);
}

/* What a call without a reading of the clock happens at, and a state that is begun anew. */
static void the_clock(void) {
    const uint32_t slots[] = {1};
    br_router_config config = defaults(1, slots);
    config.expire_after_ms = 1000;
    br_router *router = made(&config, NULL);
    enqueue(router, 1, 10);
    CHECK(step(router, 5000).admission_count == 1);
    /* Nothing happens for a minute. */
    CHECK(br_router_at(router, 65000) == BR_OK);
    enqueue(router, 2, 10);
    CHECK(br_router_finish(router, 1, NULL, NULL) == BR_OK);
    br_plan plan = step(router, 65000);
    CHECK(plan.returned_count == 0 && plan.admission_count == 1 && admissions[0].id == 2);
    br_metrics metrics = {.struct_size = sizeof metrics};
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.now_ms == 65000 &&
          metrics.wait_ms.sum == 0 && metrics.clock_jumps == 0);
    /* A refused call leaves the clock as it was; the next reading counts. */
    CHECK(br_router_at(router, 66000) == BR_OK &&
          br_router_finish(router, 9, NULL, NULL) == BR_UNKNOWN_REQUEST);
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.now_ms == 65000);
    enqueue(router, 3, 10);
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.now_ms == 66000);
    CHECK(step(router, 66900).returned_count == 0);
    plan = step(router, 67000);
    CHECK(plan.returned_count == 1 && gone[0].id == 3 && gone[0].reason == BR_EXPIRED);
    /* An hour ahead is another clock. */
    step(router, 3600000 + 67000);
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.clock_jumps == 1);

    enqueue(router, 4, 10);
    CHECK(br_router_recover(router) == BR_OK);
    size_t count, left;
    CHECK(br_router_returned(router, gone, 64, &count, &left) == BR_OK && count == 2 && left == 0);
    for (size_t at = 0; at < count; at++)
        CHECK(gone[at].reason == BR_RECOVERED && gone[at].worker == (gone[at].id == 2 ? 0 : BR_NONE));
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.recovered == 2 && metrics.waiting == 0 &&
          metrics.running == 0);
    /* A program of the first version knows neither. */
    const uint64_t beyond = 77;
    metrics.recovered = metrics.clock_jumps = beyond;
    metrics.struct_size = offsetof(br_metrics, recovered);
    CHECK(br_router_metrics(router, &metrics) == BR_OK && metrics.recovered == beyond &&
          metrics.clock_jumps == beyond);
    CHECK(br_router_at(NULL, 0) == BR_ARGUMENT && br_router_recover(NULL) == BR_ARGUMENT);
    br_router_free(router);
}

static void refusals(void) {
    const uint32_t slots[] = {1, 1};
    br_router_config config = defaults(2, slots);
    br_router *router = (br_router *)1;
    char error[512];
    CHECK(br_router_new("levle", NULL, &config, &router, error, sizeof error) == BR_POLICY && router == NULL);
    CHECK(br_router_new("level", NULL, NULL, &router, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "br_router_config"));
    CHECK(br_router_new("level", NULL, &config, NULL, error, sizeof error) == BR_ARGUMENT);
    config.mode = 7;
    CHECK(br_router_new("level", NULL, &config, &router, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "found 7"));
    config.mode = BR_STEP;
    config.share_index = 1;
    CHECK(br_router_new("level", NULL, &config, &router, error, sizeof error) == BR_STATE &&
          strstr(error, "share"));
    config.share_index = 0;
    config.worker_count = (size_t)-1;
    CHECK(br_router_new("level", NULL, &config, &router, error, sizeof error) == BR_BATCH &&
          strstr(error, "1024"));
    config.worker_count = 2;
    config.slots = NULL;
    CHECK(br_router_new("level", NULL, &config, &router, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "slots: expected 2"));
    config.struct_size = 1;
    CHECK(br_router_defaults(&config) == BR_ARGUMENT && br_router_defaults(NULL) == BR_ARGUMENT);

    config = defaults(2, slots);
    router = made(&config, NULL);
    br_request arrival = request(1, 0);
    CHECK(br_router_enqueue(router, &arrival) == BR_BATCH && strstr(error_of(router), "prompt tokens"));
    arrival.prompt_tokens = 5;
    arrival.fields = 16;
    CHECK(br_router_enqueue(router, &arrival) == BR_ARGUMENT && strstr(error_of(router), "fields"));
    arrival.fields = BR_HAS_RANK;
    arrival.rank = 2;
    CHECK(br_router_enqueue(router, &arrival) == BR_UNKNOWN_WORKER);
    arrival.fields = 0;
    CHECK(br_router_enqueue(router, &arrival) == BR_OK && br_router_enqueue(router, &arrival) == BR_BATCH);
    CHECK(br_router_enqueue(router, NULL) == BR_ARGUMENT && br_router_enqueue(NULL, &arrival) == BR_ARGUMENT);
    CHECK(br_router_step(router, 0, NULL, NULL) == BR_ARGUMENT && br_router_advance(NULL) == BR_ARGUMENT);
    br_plan plan = {.struct_size = sizeof plan, .admission_capacity = 9};
    CHECK(br_router_step(router, 0, NULL, &plan) == BR_ARGUMENT && strstr(error_of(router), "found NULL"));
    CHECK(step(router, 0).admission_count == 1);

    /* Where the answer cannot be put nothing is done. */
    uint32_t *aside = (uint32_t *)((char *)error + 1);
    size_t *far_aside = (size_t *)((char *)error + 1);
    if ((uintptr_t)aside % 2 == 0) aside = (uint32_t *)error, far_aside = (size_t *)error;
    CHECK(br_router_finish(router, 1, aside, NULL) == BR_ARGUMENT &&
          strstr(error_of(router), "worker: expected an aligned pointer"));
    CHECK(br_router_finish(router, 1, NULL, aside) == BR_ARGUMENT &&
          strstr(error_of(router), "generated_tokens"));
    CHECK(br_router_preempt(router, 1, aside) == BR_ARGUMENT &&
          br_router_abort(router, 1, aside) == BR_ARGUMENT);
    CHECK(br_router_counts(router, far_aside, NULL) == BR_ARGUMENT &&
          br_router_counts(router, NULL, far_aside) == BR_ARGUMENT);
    br_report report = {.struct_size = sizeof report,
                        .sequence = 4,
                        .kv_capacity_tokens = BR_NONE64,
                        .last_dispatch = BR_NONE64};
    CHECK(br_router_report(router, 0, &report, aside) == BR_ARGUMENT && strstr(error_of(router), "verdict"));
    uint32_t verdict;
    CHECK(br_router_report(router, 0, &report, &verdict) == BR_OK && verdict == BR_TAKEN);
    size_t count;
    CHECK(br_router_returned(router, gone, 64, &count, far_aside) == BR_ARGUMENT);
    CHECK(br_router_finish(router, 1, NULL, NULL) == BR_OK);
    br_router_free(router);
    br_router_free(NULL);
}

static uint64_t room_of(br_router *router) {
    br_rank rank = {.struct_size = sizeof rank};
    CHECK(br_router_rank(router, 0, &rank) == BR_OK);
    return rank.kv_growth_tokens;
}

/* What traffic teaches: room for growth, and what another router goes on from. */
static void learning(void) {
    const uint32_t slots[] = {40};
    const uint64_t capacity[] = {200000};
    br_router_config config = defaults(1, slots);
    config.kv_capacity_tokens = capacity;
    br_router *router = made(&config, "level");
    for (uint64_t id = 0; id < 40; id++) {
        br_request there = request(id, 2000);
        CHECK(br_router_adopt(router, &there, 0, 0) == BR_OK);
    }
    CHECK(br_router_advance(router) == BR_OK && room_of(router) == 12000);
    for (uint64_t step = 1; step <= 300; step++) {
        CHECK(br_router_advance(router) == BR_OK);
        if (step % 8 == 0) {
            br_request next = request(1000 + step, 2000);
            CHECK(br_router_finish(router, step / 8 - 1, NULL, NULL) == BR_OK &&
                  br_router_adopt(router, &next, 0, 0) == BR_OK);
        }
    }
    const uint64_t learned_room = room_of(router);
    CHECK(learned_room > 0 && learned_room < 12000);

    static uint8_t learned[16384], again[16384];
    size_t count = 0, count_again = 0;
    CHECK(br_router_learned(router, learned, 3, &count) == BR_SPACE && count > 3 && count <= sizeof learned);
    CHECK(br_router_learned(router, learned, sizeof learned, &count) == BR_OK);
    CHECK(br_router_learned(router, learned, sizeof learned, NULL) == BR_ARGUMENT &&
          br_router_learned(router, NULL, sizeof learned, &count) == BR_ARGUMENT &&
          br_router_learn(router, NULL, 8) == BR_ARGUMENT);

    /* A preemption that costs much more than usual. */
    config.step_base_ms = 5;
    config.prefill_us_per_token = 1000;
    br_router *other = made(&config, "level");
    CHECK(br_router_learn(other, learned, count - 1) == BR_STATE && strstr(error_of(other), "learned"));
    CHECK(br_router_learn(other, learned, count) == BR_OK);
    CHECK(br_router_learned(other, again, sizeof again, &count_again) == BR_OK && count_again == count &&
          memcmp(again, learned, count) == 0);
    for (uint64_t id = 0; id < 40; id++) {
        br_request there = request(id, 2000);
        CHECK(br_router_adopt(other, &there, 0, (uint32_t)(7 * id)) == BR_OK);
    }
    CHECK(br_router_advance(other) == BR_OK && room_of(other) > learned_room);
    br_router_free(other);
    br_router_free(router);

    char error[512] = "";
    config.prefill_us_per_token = -1;
    CHECK(br_router_new("level", NULL, &config, &router, error, sizeof error) != BR_OK &&
          strstr(error, "prefill_us_per_token"));
}

int main(void) {
    a_life();
    ways_out();
    bonuses_and_modes();
    the_clock();
    refusals();
    learning();
    puts("router: all as promised");
    return 0;
}

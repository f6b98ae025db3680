/* What the interface promises about arguments, versions, errors, buffers and threads. */
#include <pthread.h>
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

static const uint64_t LOADS[] = {40000, 43000};
static const uint32_t FREE[] = {1, 1};
static const uint32_t PROMPTS[] = {900, 3100, 5200};

static br_workers two_workers(void) {
    return (br_workers){
        .struct_size = sizeof(br_workers), .count = 2, .load_tokens = LOADS, .free_slots = FREE};
}

static br_requests three_requests(void) {
    return (br_requests){.struct_size = sizeof(br_requests), .count = 3, .prompt_tokens = PROMPTS};
}

static const char *error_of(br_assigner *assigner) {
    static char text[512];
    CHECK(br_assigner_error(assigner, text, sizeof text) == strlen(text));
    return text;
}

static void versions(void) {
    CHECK(br_abi_version() >> 16 == BR_ABI_VERSION >> 16 && br_abi_version() >= BR_ABI_VERSION);
    CHECK(strcmp(br_version(), EXPECTED_VERSION) == 0);
}

static void making(void) {
    char error[512];
    br_assigner *assigner = (br_assigner *)1;
    CHECK(br_assigner_new("levle", NULL, &assigner, error, sizeof error) == BR_POLICY && assigner == NULL);
    CHECK(strstr(error, "\"levle\"") && strstr(error, "rollout-oracle"));
    CHECK(br_assigner_new("\xff", NULL, &assigner, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "UTF-8"));
    CHECK(br_assigner_new(NULL, NULL, NULL, error, sizeof error) == BR_ARGUMENT && strstr(error, "assigner"));
    CHECK(br_assigner_new("levle", NULL, &assigner, NULL, 0) == BR_POLICY);
    char little[8];
    CHECK(br_assigner_new("levle", NULL, &assigner, little, sizeof little) == BR_POLICY &&
          strcmp(little, "unknown") == 0);

    const char *names[] = {"max_passed", "level.repair_rounds"};
    double values[] = {40, 1};
    br_options options = {.struct_size = sizeof options,
                          .backend = "auto",
                          .isa = "scalar",
                          .parameter_count = 2,
                          .parameter_names = names,
                          .parameter_values = values};
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_OK && error[0] == 0);
    char text[256];
    CHECK(br_assigner_describe(assigner, text, sizeof text) == BR_OK && strstr(text, "level") &&
          strstr(text, "scalar"));
    br_assigner_free(assigner);
    values[0] = 1e9;
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_POLICY &&
          strstr(error, "max_passed"));
    names[1] = "level.reserve";
    values[0] = 40;
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_POLICY &&
          strstr(error, "set max_passed instead"));
    names[1] = "level.deserve";
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_POLICY &&
          strstr(error, "deserve"));
    names[1] = NULL;
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "entry 1"));
    options.parameter_values = NULL;
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "parameter_values"));
    options.parameter_count = 0;
    options.backend = "abacus";
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_POLICY &&
          strstr(error, "abacus"));
    options.backend = NULL;
    options.isa = "mmx";
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_POLICY &&
          strstr(error, "mmx"));
    options.struct_size = 3;
    CHECK(br_assigner_new("level", &options, &assigner, error, sizeof error) == BR_ARGUMENT &&
          strstr(error, "struct_size"));
    br_assigner_free(NULL);
    CHECK(br_assigner_error(NULL, text, sizeof text) == 0 && text[0] == 0 &&
          br_assigner_describe(NULL, text, sizeof text) == BR_ARGUMENT);
}

static void deciding(void) {
    br_assigner *assigner;
    CHECK(br_assigner_new(NULL, NULL, &assigner, NULL, 0) == BR_OK);
    br_workers workers = two_workers();
    br_requests requests = three_requests();
    uint32_t rows[2], to[2];
    uint8_t reasons[3];
    br_answer answer = {
        .struct_size = sizeof answer, .capacity = 2, .row = rows, .worker = to, .wait_reason = reasons};
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_OK && answer.count == 2);
    CHECK(to[0] != to[1] && rows[0] != rows[1]);
    int admitted = 0;
    for (int at = 0; at < 3; at++) admitted += reasons[at] == BR_ADMITTED;
    CHECK(admitted == 2 && answer.envelope_before_tokens == 43000 && answer.imbalance_before_tokens == 3000);
    CHECK(strcmp(error_of(assigner), "") == 0);

    answer.capacity = 1;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_SPACE && answer.count == 2 &&
          strstr(error_of(assigner), "room for 1"));
    answer.capacity = 2;
    answer.row = NULL;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_ARGUMENT && answer.count == 0);
    answer.row = (uint32_t *)((char *)rows + 1);
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_ARGUMENT);
    answer.row = rows;

    CHECK(br_assign(NULL, &workers, &requests, NULL, &answer) == BR_ARGUMENT);
    CHECK(br_assign(assigner, NULL, &requests, NULL, &answer) == BR_ARGUMENT &&
          strstr(error_of(assigner), "br_workers"));
    CHECK(br_assign(assigner, &workers, NULL, NULL, &answer) == BR_ARGUMENT &&
          strstr(error_of(assigner), "br_requests"));
    CHECK(br_assign(assigner, &workers, &requests, NULL, NULL) == BR_ARGUMENT &&
          strstr(error_of(assigner), "br_answer"));
    workers.load_tokens = NULL;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_ARGUMENT &&
          strstr(error_of(assigner), "load_tokens: expected 2 entries"));
    workers.load_tokens = (const uint64_t *)((const char *)LOADS + 1);
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_ARGUMENT &&
          strstr(error_of(assigner), "aligned"));
    workers = two_workers();
    workers.count = 0;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "at least one worker"));
    workers.count = (size_t)-1;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "at most 1024"));
    workers = two_workers();
    requests.count = (size_t)-1;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "at most 1048576"));
    requests = three_requests();
    const uint64_t twice[] = {7, 8, 7};
    requests.ids = twice;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "id already waits at index 0"));
    requests = three_requests();
    const uint32_t classes[] = {BR_NONE, 256, 0}, rank[] = {0, BR_NONE, 2};
    requests.survival_class = classes;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "request 1: survival class"));
    requests = three_requests();
    requests.rank = rank;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "rank must be below 2, found 2"));
    requests.count = 0;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_OK && answer.count == 0);

    requests = three_requests();
    br_batch batch = {.struct_size = sizeof batch, .mean_output_tokens = -1};
    CHECK(br_assign(assigner, &workers, &requests, &batch, &answer) == BR_BATCH &&
          strstr(error_of(assigner), "mean output tokens"));
    const float survival[] = {1, 0.5f};
    batch = (br_batch){
        .struct_size = sizeof batch, .horizon_steps = 1, .class_count = 1, .class_survival = survival};
    CHECK(br_assign(assigner, &workers, &requests, &batch, &answer) == BR_ARGUMENT &&
          strstr(error_of(assigner), "projection"));
    const uint64_t rows_ahead[] = {1, 1, 1, 1};
    batch = (br_batch){.struct_size = sizeof batch, .horizon_steps = UINT32_MAX, .projection = rows_ahead};
    br_status status = br_assign(assigner, &workers, &requests, &batch, &answer);
    CHECK(status == BR_ARGUMENT || status == BR_BATCH);
    batch = (br_batch){.struct_size = sizeof batch, .pair_rows = (size_t)-1, .eligible = rows_ahead};
    CHECK(br_assign(assigner, &workers, &requests, &batch, &answer) == BR_ARGUMENT);
    uint32_t offsets[] = {0, 1, 1};
    batch = (br_batch){.struct_size = sizeof batch, .end_offsets = offsets};
    CHECK(br_assign(assigner, &workers, &requests, &batch, &answer) == BR_ARGUMENT &&
          strstr(error_of(assigner), "end_in_steps: expected 1"));
    /* Offsets that leave the arrays, wherever they stand: looked at before anything is read by them. */
    const uint32_t wrong[][3] = {{0, 2, 1},     {0, 100, 1},     {0, UINT32_MAX, 1}, {1, 1, 1},
                                 {100, 100, 1}, {100, 100, 100}, {1, 0, 1}};
    uint32_t *in_steps = malloc(sizeof *in_steps);
    uint64_t *freed = malloc(sizeof *freed);
    CHECK(in_steps && freed);
    *in_steps = 3;
    *freed = 7;
    batch.end_in_steps = in_steps;
    batch.end_freed_tokens = freed;
    for (size_t at = 0; at < sizeof wrong / sizeof *wrong; at++) {
        memcpy(offsets, wrong[at], sizeof offsets);
        CHECK(br_assign(assigner, &workers, &requests, &batch, &answer) == BR_BATCH &&
              strstr(error_of(assigner), "offsets that begin at 0 and do not fall"));
        CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_OK && answer.count == 2 &&
              strcmp(error_of(assigner), "") == 0);
    }
    offsets[0] = 0;
    offsets[1] = offsets[2] = 1;
    CHECK(br_assign(assigner, &workers, &requests, &batch, &answer) == BR_OK && answer.count == 2);
    free(in_steps);
    free(freed);
    /* Any flag but 0 is true. */
    const uint8_t accepting[] = {0, 2};
    workers.accepting = accepting;
    CHECK(br_assign(assigner, &workers, &requests, NULL, &answer) == BR_OK && answer.count == 1 &&
          to[0] == 1);
    br_assigner_free(assigner);
}

/* Structs of a later and of a broken version. */
static void sizes(void) {
    br_assigner *assigner;
    CHECK(br_assigner_new(NULL, NULL, &assigner, NULL, 0) == BR_OK);
    br_requests requests = three_requests();
    uint32_t rows[2], to[2];
    struct {
        br_workers known;
        uint64_t later;
    } grown = {two_workers(), 0};
    grown.known.struct_size = sizeof grown;
    struct {
        br_answer known;
        uint64_t later;
    } larger = {{.struct_size = sizeof larger, .capacity = 2, .row = rows, .worker = to}, 0};
    CHECK(br_assign(assigner, &grown.known, &requests, NULL, &larger.known) == BR_OK &&
          larger.known.count == 2);
    CHECK(larger.known.struct_size == sizeof larger && larger.later == 0);
    grown.later = 1;
    CHECK(br_assign(assigner, &grown.known, &requests, NULL, &larger.known) == BR_ARGUMENT &&
          strstr(error_of(assigner), "does not know"));
    grown.later = 0;
    const size_t wrong[] = {0, 8, sizeof(br_workers) - 1, 5000, (size_t)-1};
    for (size_t at = 0; at < sizeof wrong / sizeof *wrong; at++) {
        grown.known.struct_size = wrong[at];
        CHECK(br_assign(assigner, &grown.known, &requests, NULL, &larger.known) == BR_ARGUMENT &&
              strstr(error_of(assigner), "struct_size"));
    }
    br_assigner_free(assigner);
}

/* Many threads on one handle: every call is done or refused, and what is done is right. */
struct shared {
    br_assigner *assigner;
    int done, busy, wrong;
};

static void *hammer(void *argument) {
    struct shared *mine = argument;
    br_workers workers = two_workers();
    br_requests requests = three_requests();
    for (int round = 0; round < 2000; round++) {
        uint32_t rows[2], to[2];
        br_answer answer = {.struct_size = sizeof answer, .capacity = 2, .row = rows, .worker = to};
        br_status status = br_assign(mine->assigner, &workers, &requests, NULL, &answer);
        if (status == BR_BUSY) mine->busy++;
        else if (status == BR_OK && answer.count == 2) mine->done++;
        else mine->wrong++;
    }
    return NULL;
}

static void threads(void) {
    struct shared all[4] = {{0}};
    pthread_t thread[4];
    CHECK(br_assigner_new(NULL, NULL, &all[0].assigner, NULL, 0) == BR_OK);
    for (int at = 0; at < 4; at++) {
        all[at].assigner = all[0].assigner;
        CHECK(pthread_create(&thread[at], NULL, hammer, &all[at]) == 0);
    }
    int done = 0;
    for (int at = 0; at < 4; at++) {
        CHECK(pthread_join(thread[at], NULL) == 0);
        CHECK(all[at].wrong == 0 && all[at].done + all[at].busy == 2000);
        done += all[at].done;
    }
    CHECK(done > 0);
    br_assigner_free(all[0].assigner);
}

int main(void) {
    versions();
    making();
    deciding();
    sizes();
    threads();
    puts("guards: all as promised");
    return 0;
}

/* A router in a log, and one that goes on from it; the folder is the first argument. */
#include <unistd.h>

#include "router.h"

static const char *below(const char *folder, const char *name) {
    static char path[512];
    CHECK(snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path);
    return path;
}

static br_recording recording_of(br_router *router, uint32_t state) {
    char why[256] = "?";
    br_recording recording = {.struct_size = sizeof recording, .calls = 77, .state = 77};
    CHECK(br_router_recording(router, &recording, why, sizeof why) == BR_OK);
    CHECK(recording.state == state && (why[0] != 0) == (state == BR_RECORDING_STOPPED));
    return recording;
}

/* The process is killed: nothing is freed in it. */
static br_router *resumed(br_router *before, const char *folder) {
    char error[512] = "?";
    br_router *router = (br_router *)before;
    CHECK(br_router_resume(folder, 0, 0, &router, error, sizeof error) == BR_IN_USE && router == NULL);
    CHECK(strstr(error, "another router records into") && strstr(error, folder));
    br_router_free(before);
    CHECK(br_router_resume(folder, 0, 0, &router, error, sizeof error) == BR_OK && error[0] == 0);
    return router;
}

static void goes_on(const char *folder) {
    const uint32_t slots[] = {2, 2};
    br_router_config config = defaults(2, slots);
    br_router *router = made(&config, "brh-survival");
    CHECK(recording_of(router, BR_NOT_RECORDED).calls == 0);
    CHECK(br_router_record(router, folder, 1 << 16, 0) == BR_OK);
    for (uint64_t id = 1; id <= 6; id++) enqueue(router, id, 100 + (uint32_t)id);
    br_plan plan = step(router, 10);
    CHECK(plan.admission_count == 4);
    br_recording recording = recording_of(router, BR_RECORDED);
    CHECK(recording.calls == 7 && recording.bytes > 100);

    router = resumed(router, folder);
    CHECK(recording_of(router, BR_RECORDED).calls == 7);
    size_t waiting, running, count = 0;
    CHECK(br_router_counts(router, &waiting, &running) == BR_OK && waiting == 2 && running == 4);
    br_dispatch told[4];
    CHECK(br_router_running(router, told, 3, &count) == BR_SPACE && count == 4);
    CHECK(strstr(error_of(router), "4 running, found room for 3"));
    CHECK(br_router_running(router, NULL, 4, &count) == BR_ARGUMENT);
    CHECK(br_router_running(router, told, 4, &count) == BR_OK && count == 4);
    for (size_t at = 0; at < 4; at++) {
        size_t same = 0;
        while (same < 4 && admissions[same].id != told[at].id) same++;
        CHECK(same < 4 && told[at].worker == admissions[same].worker &&
              told[at].number == admissions[same].number && told[at].prompt_tokens == 100 + told[at].id);
        CHECK(at == 0 || told[at - 1].id < told[at].id);
    }
    /* Worker 0 has got both of its dispatches. */
    br_report report = {.struct_size = sizeof report, .sequence = 1, .last_dispatch = 2, .running = 2,
                        .kv_used_tokens = 210, .kv_capacity_tokens = BR_NONE64};
    CHECK(br_router_report(router, 0, &report, NULL) == BR_OK);
    CHECK(br_router_unseen(router, told, 1, &count) == BR_SPACE && count == 2);
    CHECK(br_router_unseen(router, told, 4, &count) == BR_OK && count == 2);
    CHECK(told[0].worker == 1 && told[0].number == 1 && told[1].worker == 1 && told[1].number == 2);

    CHECK(br_router_resend(router, 20, told, 1, &count) == BR_SPACE && count == 2);
    CHECK(br_router_resend(router, 20, told, 4, &count) == BR_OK && count == 2 && told[1].number == 2);
    CHECK(metrics_of(router).now_ms == 20);

    /* One is put off and worker 1 goes, and the process before anybody is told. */
    CHECK(br_router_running(router, told, 4, &count) == BR_OK);
    uint64_t here = told[0].worker == 0 ? told[0].id : told[1].worker == 0 ? told[1].id : told[2].id;
    CHECK(br_router_put_off(router, NULL, &count) == BR_OK && count == 0);
    CHECK(br_router_preempt(router, here, NULL) == BR_OK);
    CHECK(br_router_remove_worker(router, 1) == BR_OK);
    router = resumed(router, folder);
    CHECK(br_router_returned(router, gone, 64, &count, NULL) == BR_OK && count == 2);
    CHECK(gone[0].reason == BR_WORKER_REMOVED && gone[0].worker == 1 && gone[1].worker == 1);
    br_request again = {.struct_size = sizeof again};
    CHECK(br_router_put_off(router, &again, &count) == BR_OK && count == 1);
    CHECK(again.id == here && again.prompt_tokens == 100 + here);
    CHECK(br_router_enqueue(router, &again) == BR_OK);
    CHECK(br_router_put_off(router, &again, &count) == BR_OK && count == 0);
    CHECK(br_router_put_off(router, NULL, NULL) == BR_ARGUMENT);
    for (size_t at = 0; at < 2; at++) enqueue(router, gone[at].id, 100);
    CHECK(br_router_returned(router, gone, 64, &count, NULL) == BR_OK && count == 0);
    CHECK(br_router_counts(router, &waiting, &running) == BR_OK && waiting == 5 && running == 1);

    CHECK(br_router_stop_recording(router) == BR_OK && br_router_stop_recording(router) == BR_OK);
    recording_of(router, BR_NOT_RECORDED);
    enqueue(router, 100, 10);
    br_router *other = NULL;
    CHECK(br_router_resume(folder, 0, 0, &other, NULL, 0) == BR_OK);
    CHECK(br_router_counts(other, &waiting, NULL) == BR_OK && waiting == 5);
    br_router_free(other);
    br_router_free(router);
}

static void refusals(const char *folder) {
    const uint32_t slots[] = {1};
    br_router_config config = defaults(1, slots);
    br_router *router = made(&config, NULL), *other = router;
    CHECK(br_router_record(router, NULL, 0, 0) == BR_ARGUMENT);
    CHECK(br_router_record(NULL, folder, 0, 0) == BR_ARGUMENT);
    CHECK(br_router_record(router, folder, 10, 0) == BR_ARGUMENT);
    CHECK(strstr(error_of(router), "segment_bytes must be in 65536..=1073741824, found 10"));
    CHECK(br_router_record(router, folder, 0, 1) == BR_ARGUMENT);
    FILE *file = fopen(below(folder, "file"), "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK(br_router_record(router, below(folder, "file"), 0, 0) == BR_IO);
    CHECK(strstr(error_of(router), "cannot create"));
    recording_of(router, BR_NOT_RECORDED);
    br_recording recording = {.struct_size = 3};
    CHECK(br_router_recording(router, &recording, NULL, 0) == BR_ARGUMENT);
    char error[512];
    CHECK(br_router_resume(below(folder, "none"), 0, 0, &other, error, sizeof error) == BR_NO_RECORDING);
    CHECK(other == NULL && strstr(error, "is no recording"));
    CHECK(br_router_resume(folder, 0, 0, NULL, NULL, 0) == BR_ARGUMENT);
    /* A state that is none. */
    const char *own = below(folder, "own");
    CHECK(br_router_record(router, own, 0, 0) == BR_OK);
    br_router_free(router);
    file = fopen(below(folder, "own/00000001.brlog"), "r+b");
    CHECK(file != NULL && fputc('B', file) == 'B' && fclose(file) == 0);
    CHECK(br_router_resume(below(folder, "own"), 0, 0, &other, error, sizeof error) == BR_NO_RECORDING);
}

/* The variable makes every router record itself, or not begin at all. */
static void by_the_variable(const char *folder) {
    const uint32_t slots[] = {1};
    br_router_config config = defaults(1, slots);
    char text[512], path[512];
    CHECK(setenv("BALANCEROUTE_RECORD", below(folder, "all"), 1) == 0);
    br_router *router = made(&config, NULL), *other = NULL;
    CHECK(recording_of(router, BR_RECORDED).calls == 1);
    br_router_free(router);
    snprintf(path, sizeof path, "all/router-%ld-1", (long)getpid());
    CHECK(unsetenv("BALANCEROUTE_RECORD") == 0);
    CHECK(br_router_resume(below(folder, path), 0, 0, &other, text, sizeof text) == BR_OK);
    br_router_free(other);
    CHECK(setenv("BALANCEROUTE_RECORD", below(folder, "file"), 1) == 0);
    CHECK(br_router_new(NULL, NULL, &config, &router, text, sizeof text) == BR_IO && router == NULL);
    CHECK(strstr(text, "BALANCEROUTE_RECORD: cannot create"));
    CHECK(unsetenv("BALANCEROUTE_RECORD") == 0);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    static char folder[512];
    snprintf(folder, sizeof folder, "%s/goes-on", arguments[1]);
    goes_on(folder);
    refusals(arguments[1]);
    by_the_variable(arguments[1]);
    puts("record: all as promised");
    return 0;
}

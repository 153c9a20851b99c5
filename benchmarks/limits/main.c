/* The works: save, get and fleet; see limit.h. A warm-up comes first, and only the calls after it are counted, as in Python. */
#include "limit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct work;

/* One thread of a phase. */
struct worker {
    const struct work *work;
    int number;
    double until;
    long calls;
    struct random random;
    pthread_t thread;
};

struct work {
    const struct plan *plan;
    struct pool *pool;
    void (*run)(struct worker *worker);
    long *next_calls; /* by caller: how many calls it has made */
};

/* What a phase of the work gave. */
struct phase {
    long calls;
    double seconds, cpu_seconds;
};

struct durability {
    char journal_mode[32];
    int synchronous;
};

static void save_batches(struct worker *worker)
{
    const struct plan *plan = worker->work->plan;
    while (now_seconds() < worker->until) {
        save(plan->tenants, plan, plan->batch, &worker->random);
        worker->calls += plan->batch;
    }
}

static void get_batches(struct worker *worker)
{
    const struct plan *plan = worker->work->plan;
    while (now_seconds() < worker->until) {
        get_in_snapshot(plan->tenants, plan, plan->batch, &worker->random);
        worker->calls += plan->batch;
    }
}

static void make_call(struct worker *worker, uint32_t call)
{
    const struct plan *plan = worker->work->plan;
    struct tenant *tenant = &plan->tenants[call / 2];
    lease(worker->work->pool, tenant);
    lock_mutex(&tenant->mutex);
    if (call % 2)
        get(tenant, plan, plan->task_ids[next_random(&worker->random) % (uint64_t)plan->tasks]);
    else
        save(tenant, plan, 1, &worker->random);
    unlock_mutex(&tenant->mutex);
    give_back(worker->work->pool, tenant);
    worker->calls++;
}

/* Makes the calls of each `threads`-th caller, one call of each in turn. */
static void make_calls(struct worker *worker)
{
    const struct plan *plan = worker->work->plan;
    for (;;) {
        for (int caller = worker->number; caller < plan->callers; caller += plan->threads) {
            if (now_seconds() >= worker->until)
                return;
            long next = worker->work->next_calls[caller]++;
            make_call(worker, plan->calls[(long)caller * plan->calls_each + next % plan->calls_each]);
        }
    }
}

static void *start(void *argument)
{
    struct worker *worker = argument;
    seed(&worker->random);
    worker->work->run(worker);
    return NULL;
}

/* Lets the threads work for so many seconds, and waits for the last of them. */
static struct phase run_phase(const struct work *work, double seconds)
{
    struct worker workers[THREADS_MAX];
    double started = now_seconds(), cpu_before = cpu_seconds();
    for (int number = 0; number < work->plan->threads; number++) {
        workers[number] = (struct worker){.work = work, .number = number, .until = started + seconds};
        int error = pthread_create(&workers[number].thread, NULL, start, &workers[number]);
        if (error != 0)
            die("thread", "%s", strerror(error));
    }
    long calls = 0;
    for (int number = 0; number < work->plan->threads; number++) {
        int error = pthread_join(workers[number].thread, NULL);
        if (error != 0)
            die("thread", "%s", strerror(error));
        calls += workers[number].calls;
    }
    return (struct phase){calls, now_seconds() - started, cpu_seconds() - cpu_before};
}

/* Reads back what decides whether a commit survives a loss of power, on the connection that writes. */
static struct durability read_durability(struct tenant *tenant, const struct plan *plan)
{
    struct durability found = {"", 0};
    open_for_writing(tenant, plan);
    sqlite3_stmt *statement = prepared(tenant->writer.db, plan->durability);
    const unsigned char *mode = step(statement) ? sqlite3_column_text(statement, 0) : NULL;
    if (mode == NULL || (size_t)snprintf(found.journal_mode, sizeof found.journal_mode, "%s", mode) >= sizeof found.journal_mode)
        die(tenant->database, "has no journal mode");
    found.synchronous = sqlite3_column_int(statement, 1);
    finalize(&statement);
    return found;
}

/* Opens each tenant's writer and reader, so that opening is no part of what is measured. */
static void use_each(struct pool *pool, const struct plan *plan)
{
    struct random random;
    seed(&random);
    for (int index = 0; index < plan->tenant_count; index++) {
        struct tenant *tenant = &plan->tenants[index];
        lease(pool, tenant);
        save(tenant, plan, 1, &random);
        for (int read = 0; read < 2; read++)
            get(tenant, plan, plan->task_ids[0]);
        give_back(pool, tenant);
    }
}

static void print_answer(const struct plan *plan, struct phase phase, long opened_tenants, const struct durability *durability)
{
    printf("{\"calls\": %ld, \"seconds\": %.9f, \"cpu_seconds\": %.9f, ", phase.calls, phase.seconds, phase.cpu_seconds);
    printf("\"opened\": %ld, \"sqlite\": \"%s\", ", opened_tenants, sqlite3_libversion());
    printf("\"durability\": [\"%s\", %d], \"saved\": [", durability->journal_mode, durability->synchronous);
    for (int index = 0; index < plan->tenant_count; index++)
        printf("%s%ld", index == 0 ? "" : ", ", plan->tenants[index].saved);
    printf("]}\n");
    if (fflush(stdout) != 0)
        die("answer", "cannot be written: %s", strerror(errno));
}

/* A pool of tenants needs more open files than most shells allow at first. */
static void allow_open_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("open files", "%s", strerror(errno));
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("open files", "%s", strerror(errno));
}

int main(int count, char **arguments)
{
    const char *name = count == 2 ? arguments[1] : "";
    struct plan plan = {0};
    struct work work = {.plan = &plan};
    if (strcmp(name, "save") == 0)
        work.run = save_batches;
    else if (strcmp(name, "get") == 0)
        work.run = get_batches;
    else if (strcmp(name, "fleet") == 0)
        work.run = make_calls;
    else
        die("arguments", "use: limit save|get|fleet, with a plan on standard input");
    allow_open_files();
    read_plan(&plan);
    if (work.run == make_calls ? plan.callers < plan.threads || plan.calls_each < 1 : plan.threads != 1)
        die("plan", "%d threads cannot make the calls of %d callers", plan.threads, plan.callers);
    work.pool = make_pool(&plan);
    work.next_calls = allocated((size_t)plan.callers, sizeof *work.next_calls);
    lease(work.pool, plan.tenants);
    struct durability durability = read_durability(plan.tenants, &plan);
    if (work.run == get_batches)
        open_for_reading(plan.tenants, &plan);
    if (plan.are_opened_before)
        use_each(work.pool, &plan);
    if (work.run == make_calls)
        give_back(work.pool, plan.tenants);
    (void)run_phase(&work, plan.warm_up_seconds);
    struct phase phase = run_phase(&work, plan.seconds);
    if (work.run != make_calls)
        give_back(work.pool, plan.tenants);
    long opened_tenants = opened(work.pool);
    close_all(work.pool);
    print_answer(&plan, phase, opened_tenants, &durability);
    return EXIT_SUCCESS;
}

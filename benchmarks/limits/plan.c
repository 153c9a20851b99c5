/* Reads the plan from standard input: texts that each end with a NUL, numbers among them in decimal digits, and at the end the calls as
 * 32-bit integers in this machine's order. benchmarks/peers/limit.py writes it, in the order in which read_plan reads it.
 */
#include "limit.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 20, PLAN_BYTES_MAX = 1 << 28 };

struct input {
    char *at, *end;
};

static struct input read_input(void)
{
    size_t size = 0, room = CHUNK_BYTES;
    char *bytes = allocated(room, 1);
    for (;;) {
        size += fread(bytes + size, 1, room - size, stdin);
        if (ferror(stdin))
            die("plan", "cannot be read: %s", strerror(errno));
        if (size < room)
            return (struct input){bytes, bytes + size};
        if (room >= PLAN_BYTES_MAX)
            die("plan", "is larger than %d bytes", PLAN_BYTES_MAX);
        room *= 2;
        char *larger = realloc(bytes, room);
        if (larger == NULL)
            die("memory", "no room for a plan of %zu bytes", room);
        bytes = larger;
    }
}

static const char *text(struct input *input)
{
    char *start = input->at;
    char *nul = memchr(start, '\0', (size_t)(input->end - start));
    if (nul == NULL)
        die("plan", "ends too early");
    input->at = nul + 1;
    return start;
}

static const char **texts(struct input *input, int count)
{
    const char **list = allocated((size_t)count, sizeof *list);
    for (int i = 0; i < count; i++)
        list[i] = text(input);
    return list;
}

static double number(struct input *input)
{
    const char *digits = text(input);
    char *rest;
    errno = 0;
    double value = strtod(digits, &rest);
    if (errno != 0 || rest == digits || *rest != '\0' || value < 0)
        die("plan", "'%s' is not a number", digits);
    return value;
}

static int count(struct input *input, int least)
{
    double value = number(input);
    if (value < least || value > INT_MAX || value != (int)value)
        die("plan", "%g is not a count of at least %d", value, least);
    return (int)value;
}

static struct tenant *tenants(struct input *input, int count)
{
    struct tenant *list = allocated((size_t)count, sizeof *list);
    for (int i = 0; i < count; i++) {
        struct tenant *tenant = &list[i];
        tenant->database = text(input);
        tenant->lock_path = text(input);
        tenant->log_path = joined(tenant->database, "-wal");
        tenant->journal_path = joined(tenant->database, "-journal");
        tenant->lock_fd = -1;
        int error = pthread_mutex_init(&tenant->mutex, NULL);
        if (error != 0)
            die(tenant->database, "no mutex: %s", strerror(error));
    }
    return list;
}

/* Copies the calls, because their place in the input need not be aligned. */
static const uint32_t *calls(struct input *input, const struct plan *plan)
{
    size_t total = (size_t)plan->callers * (size_t)plan->calls_each;
    uint32_t *list = allocated(total, sizeof *list);
    if ((size_t)(input->end - input->at) != total * sizeof *list)
        die("plan", "has %td bytes of calls, not %zu", input->end - input->at, total * sizeof *list);
    memcpy(list, input->at, total * sizeof *list);
    for (size_t i = 0; i < total; i++)
        if (list[i] / 2 >= (uint32_t)plan->tenant_count)
            die("plan", "call %zu is of tenant %u, and there are %d", i, list[i] / 2, plan->tenant_count);
    return list;
}

void read_plan(struct plan *plan)
{
    struct input input = read_input();
    plan->insert = text(&input);
    plan->get = text(&input);
    plan->guard = text(&input);
    plan->raise = text(&input);
    plan->summary = text(&input);
    plan->durability = text(&input);
    plan->columns = count(&input, 1);
    plan->timestamp_at = count(&input, 1);
    plan->id_at = count(&input, 1);
    plan->rows = count(&input, 1);
    plan->values = texts(&input, plan->rows * plan->columns);
    plan->tasks = count(&input, 1);
    plan->task_ids = texts(&input, plan->tasks);
    plan->threads = count(&input, 1);
    plan->batch = count(&input, 1);
    plan->pool = count(&input, 1);
    plan->are_opened_before = count(&input, 0) != 0;
    plan->warm_up_seconds = number(&input);
    plan->seconds = number(&input);
    plan->tenant_count = count(&input, 1);
    plan->tenants = tenants(&input, plan->tenant_count);
    plan->callers = count(&input, 0);
    plan->calls_each = count(&input, 0);
    plan->calls = calls(&input, plan);
    if (plan->threads > THREADS_MAX)
        die("plan", "%d threads, and at most %d", plan->threads, THREADS_MAX);
    if (plan->pool < plan->threads)
        die("plan", "a pool of %d would let some of %d threads wait for ever", plan->pool, plan->threads);
}

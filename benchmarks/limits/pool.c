/* The pool: at most so many tenants are open. A tenant that nobody uses stays open until its place is needed; the one that was unused
 * for the longest time is closed first. Opening and closing happen without the pool's mutex, while the tenant's state is CHANGING, so
 * threads open and close tenants at the same time. A thread leases one tenant at a time and the pool has at least as many places as
 * there are threads, so a thread that waits is woken by a tenant that is given back, opened or closed.
 */
#include "limit.h"

#include <string.h>

struct pool {
    const struct plan *plan;
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* a tenant was opened or closed, or is no longer used */
    int taken;              /* places of tenants that are open or changing */
    int waiting;
    long opened;
    struct tenant *oldest, *newest; /* of the open tenants that nobody uses */
};

struct pool *make_pool(const struct plan *plan)
{
    struct pool *pool = allocated(1, sizeof *pool);
    pool->plan = plan;
    int error = pthread_mutex_init(&pool->mutex, NULL);
    if (error == 0)
        error = pthread_cond_init(&pool->changed, NULL);
    if (error != 0)
        die("pool", "%s", strerror(error));
    return pool;
}

static void append_unused(struct pool *pool, struct tenant *tenant)
{
    tenant->newer = NULL;
    tenant->older = pool->newest;
    *(pool->newest == NULL ? &pool->oldest : &pool->newest->newer) = tenant;
    pool->newest = tenant;
}

static void remove_unused(struct pool *pool, struct tenant *tenant)
{
    *(tenant->older == NULL ? &pool->oldest : &tenant->older->newer) = tenant->newer;
    *(tenant->newer == NULL ? &pool->newest : &tenant->newer->older) = tenant->older;
    tenant->older = tenant->newer = NULL;
}

static void wait_for_change(struct pool *pool)
{
    pool->waiting++;
    int error = pthread_cond_wait(&pool->changed, &pool->mutex);
    if (error != 0)
        die("pool", "%s", strerror(error));
    pool->waiting--;
}

static void tell_change(struct pool *pool)
{
    int error = pool->waiting > 0 ? pthread_cond_broadcast(&pool->changed) : 0;
    if (error != 0)
        die("pool", "%s", strerror(error));
}

static void open_place(struct pool *pool, struct tenant *tenant)
{
    pool->taken++;
    tenant->state = TENANT_CHANGING;
    unlock_mutex(&pool->mutex);
    open_tenant(tenant, pool->plan);
    lock_mutex(&pool->mutex);
    pool->opened++;
    tenant->state = TENANT_OPEN;
    tell_change(pool);
}

static void close_oldest(struct pool *pool)
{
    struct tenant *tenant = pool->oldest;
    remove_unused(pool, tenant);
    tenant->state = TENANT_CHANGING;
    unlock_mutex(&pool->mutex);
    close_tenant(tenant);
    lock_mutex(&pool->mutex);
    pool->taken--;
    tenant->state = TENANT_CLOSED;
    tell_change(pool);
}

void lease(struct pool *pool, struct tenant *tenant)
{
    lock_mutex(&pool->mutex);
    while (tenant->state != TENANT_OPEN) {
        if (tenant->state == TENANT_CLOSED && pool->taken < pool->plan->pool) {
            open_place(pool, tenant);
            tenant->users++;
            unlock_mutex(&pool->mutex);
            return;
        }
        if (tenant->state == TENANT_CLOSED && pool->oldest != NULL)
            close_oldest(pool);
        else
            wait_for_change(pool);
    }
    if (tenant->users++ == 0)
        remove_unused(pool, tenant);
    unlock_mutex(&pool->mutex);
}

void give_back(struct pool *pool, struct tenant *tenant)
{
    lock_mutex(&pool->mutex);
    if (--tenant->users == 0) {
        append_unused(pool, tenant);
        tell_change(pool);
    }
    unlock_mutex(&pool->mutex);
}

long opened(struct pool *pool)
{
    lock_mutex(&pool->mutex);
    long count = pool->opened;
    unlock_mutex(&pool->mutex);
    return count;
}

void close_all(struct pool *pool)
{
    lock_mutex(&pool->mutex);
    while (pool->oldest != NULL)
        close_oldest(pool);
    unlock_mutex(&pool->mutex);
}

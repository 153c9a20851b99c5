/* What a fork does to the engine.
 *
 * Theory of operation. A forked child has one thread, and finds every mutex as it was at the fork: a mutex that another thread held is
 * locked for ever. The engine's threads are in SQLite most of the time, without the interpreter's lock, and SQLite's allocator has one mutex
 * for the whole process: a child could not allocate, and so could not open a database of its own. So the thread that forks takes the
 * mutexes of SQLite that belong to no connection first, in the order in which SQLite nests them, and gives them back in both processes.
 * SQLite holds each only for moments, and never while it waits for the interpreter's lock.
 *
 * The mutexes of the parent's connections and of the engine's queues are not taken. The child must not use those objects; see engine.h. */
#include "queue.h"

enum { MUTEXES = 7 };
static const int kinds[MUTEXES] = {
    SQLITE_MUTEX_STATIC_OPEN, SQLITE_MUTEX_STATIC_PRNG, /* which look for the file system under the next */
    SQLITE_MUTEX_STATIC_MASTER, SQLITE_MUTEX_STATIC_VFS1, SQLITE_MUTEX_STATIC_LRU, SQLITE_MUTEX_STATIC_PMEM,
    SQLITE_MUTEX_STATIC_MEM, /* inside each of the others */
};
static sqlite3_mutex *mutexes[MUTEXES]; /* NULL until `forks_watch_sqlite` */

int engine_forks;

static void before(void)
{
    locks_before_fork();
    for (int i = 0; i < MUTEXES; i++)
        if (mutexes[i] != NULL)
            sq.mutex_enter(mutexes[i]);
}

static void leave_mutexes(void)
{
    for (int i = MUTEXES - 1; i >= 0; i--)
        if (mutexes[i] != NULL)
            sq.mutex_leave(mutexes[i]);
}

static void in_parent(void)
{
    leave_mutexes();
    locks_in_parent();
}

static void in_child(void)
{
    leave_mutexes();
    locks_in_child();
    engine_forks++;
    spinners = jobs_left = lone_jobs_in_a_row = 0; /* of the parent's threads */
}

bool forks_watch(void)
{
    static bool is_watched;
    is_watched = is_watched || pthread_atfork(before, in_parent, in_child) == 0;
    return is_watched;
}

void forks_watch_sqlite(void)
{
    for (int i = 0; i < MUTEXES; i++)
        mutexes[i] = sq.mutex_alloc(kinds[i]);
}

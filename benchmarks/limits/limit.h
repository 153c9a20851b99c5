/* The limit: what SQLite gives on this machine if nothing but SQLite runs.
 *
 * Theory of operation. This program does to a tenant's files what tenantry does to them, without Python, without callers that wait,
 * and without models: the same statements, the same check of the owner in each transaction, the same write-ahead log with
 * synchronous=FULL, the same lock file, the same opening as an immutable file until the first write. The statements, the rows and the
 * calls come from Python as a plan (plan.c), so that they are tenantry's own. The answers of a phase go back as one line of JSON.
 *
 *   save   one thread writes messages into one tenant, `batch` rows to a transaction
 *   get    one thread reads tasks of one tenant, `batch` rows to a snapshot
 *   fleet  `threads` threads make the callers' calls to many tenants, of which at most `pool` are open (pool.c)
 *
 * A tenant's connections belong to the thread that holds the tenant's mutex, so SQLite's own mutexes are off. Any failure ends the
 * program with a message: a limit that lost a call would be worth nothing. The program runs in a process of its own, so it cannot drop
 * the locks of Python's SQLite.
 */
#ifndef LIMIT_H
#define LIMIT_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

enum { LOCK_CONTENT_BYTES = 128, OWNER_BYTES_MAX = 128, ID_BYTES = 16, THREADS_MAX = 64 };

/* The random numbers of one thread (splitmix64). */
struct random {
    uint64_t state;
};

/* What the program was told to do; all texts live as long as the program. */
struct plan {
    const char *insert, *get, *guard, *raise, *summary, *durability;
    int columns, timestamp_at, id_at; /* of `insert`; the positions count from 1 */
    int rows;
    const char **values; /* rows * columns texts; the timestamp's and the id's are made anew for each row */
    int tasks;
    const char **task_ids;
    int tenant_count;
    struct tenant *tenants;
    int threads, batch, pool;
    bool are_opened_before; /* each tenant is written and read once before the phases */
    double warm_up_seconds, seconds;
    int callers, calls_each;
    const uint32_t *calls; /* callers * calls_each; the tenant's index, times 2, plus 1 for a read */
};

/* A connection that reads, with its statement; `db` is NULL while it is closed. */
struct reader {
    sqlite3 *db;
    sqlite3_stmt *get;
};

/* The connection that writes, with its statements; `db` is NULL while it is closed. */
struct writer {
    sqlite3 *db;
    sqlite3_stmt *get, *insert, *begin, *commit, *guard, *raise;
    bool is_log_durable; /* the directory entry of the new log was synced */
};

enum tenant_state { TENANT_CLOSED, TENANT_CHANGING, TENANT_OPEN };

struct tenant {
    const char *database, *lock_path;
    char *log_path, *journal_path;

    pthread_mutex_t mutex; /* guards what follows while the tenant is open */
    int lock_fd;
    struct reader immutable, reader;
    struct writer writer;
    bool is_read_by_writer;
    int64_t seen_epoch;
    char seen_owner[OWNER_BYTES_MAX], token[OWNER_BYTES_MAX];
    long saved;

    enum tenant_state state; /* this and what follows belong to the pool's mutex */
    int users;
    struct tenant *older, *newer; /* in the pool's list of tenants that nobody uses */
};

/* checked.c: calls that end the program if they fail. `where` is the file that the call is about. */
_Noreturn void die(const char *where, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *allocated(size_t count, size_t size);
char *joined(const char *text, const char *suffix);
double now_seconds(void);
double cpu_seconds(void); /* of all threads */
void lock_mutex(pthread_mutex_t *mutex);
void unlock_mutex(pthread_mutex_t *mutex);
sqlite3 *open_database(const char *path, const char *parameters, int flags);
sqlite3_stmt *prepared(sqlite3 *db, const char *sql);
void finalize(sqlite3_stmt **statement);
void close_database(sqlite3 **db);
void run_script(sqlite3 *db, const char *sql);
bool step(sqlite3_stmt *statement); /* true for a row; the caller resets the statement */
void reset(sqlite3_stmt *statement);
void run(sqlite3_stmt *statement); /* a statement without parameters and without rows */
void bind_text(sqlite3_stmt *statement, int position, const char *text);

/* plan.c */
void read_plan(struct plan *plan);

/* lock_file.c: the lock beside a database, as tenantry.files.lock_file and tenantry.storage.sqlite.database_files write it. */
int acquire_lock(const char *path);
void write_note(int fd, const char *lock_path, const char *database, int64_t epoch);
void release_lock(int fd, const char *path);

/* tenant.c: one tenant's connections. The caller holds the tenant's mutex, or is the only user. */
void open_tenant(struct tenant *tenant, const struct plan *plan);
void close_tenant(struct tenant *tenant);
void open_for_writing(struct tenant *tenant, const struct plan *plan);
void open_for_reading(struct tenant *tenant, const struct plan *plan);
void save(struct tenant *tenant, const struct plan *plan, int rows, struct random *random);
void get(struct tenant *tenant, const struct plan *plan, const char *task_id);
void get_in_snapshot(struct tenant *tenant, const struct plan *plan, int rows, struct random *random);
void seed(struct random *random);
uint64_t next_random(struct random *random);

/* pool.c: at most `pool` tenants are open; the one that was unused for the longest time is closed for the next. */
struct pool;
struct pool *make_pool(const struct plan *plan);
void lease(struct pool *pool, struct tenant *tenant);
void give_back(struct pool *pool, struct tenant *tenant);
long opened(struct pool *pool);
void close_all(struct pool *pool);

#endif

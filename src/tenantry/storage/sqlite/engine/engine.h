/* The engine runs batches of statements on threads that do not hold the interpreter's lock.
 *
 * Theory of operation. Python's sqlite3 gives the interpreter's lock up and takes it back 28 to 65 times in a call, and with many tenants
 * the event loop waits for the lock most of the time. The engine gives the lock up once for a whole batch. It uses the `sqlite3 *` of a
 * connection that Python has opened and set up, so Python's jobs (migrations, transactions, copies) and the engine's batches run on one
 * connection, in one queue, in the order in which they were submitted. Files at rest, which nobody has open, it opens itself, and lends its
 * connection to Python when a job of Python needs one.
 *
 *     queue.c      the queue of each connection
 *     ready.c      the queue of the connections that have something to do, where the threads wait and run batches
 *     worker.c     what the pool knows about one thread
 *     database.c   a connection of Python's sqlite3, as the engine uses it
 *     batch.c      a batch: converts its parameters when it is made, under the interpreter's lock
 *     run.c        runs a batch on a connection, without the lock
 *     cache.c      fits the page cache of a connection to its use
 *     log.c        fits the length of the write-ahead log to its use
 *     rows.c       copies rows into the memory of arena.c
 *     results.c    builds a batch's results as Python objects, under the lock
 *     outlet.c     the batches that have ended, of one event loop; an eventfd wakes the loop
 *     at_rest.c    opens a database that was closed cleanly, and closes it
 *     writer.c     sets up the writer of such a database, and makes its first commit durable
 *     lock.c       the lock files of tenants while they are opened and closed
 *     forks.c      what a fork does to the engine
 *     functions.c  SQLite's functions, looked up in the library that Python's sqlite3 uses
 *
 * A batch is optimistic. Before anything is committed, every surprise (an error but a refused constraint, an owner that must be checked in
 * Python, invalid UTF-8) rolls the batch back, and the batch's Python function runs instead, at the same place of the queue. So Python's
 * store decides what each error means.
 *
 * The interpreter's lock protects everything that a comment here does not name.
 *
 * A forked child has none of the threads, and may find any mutex locked. So an object with a mutex remembers how many forks led to its
 * process, and an inherited object never locks its mutex, and does nothing. */
#ifndef TENANTRY_ENGINE_H
#define TENANTRY_ENGINE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* The functions of SQLite that the engine calls. They are not linked, see functions.c. */
#define SQLITE_FUNCTIONS(X)                                                                                        \
    X(bind_blob, int, (sqlite3_stmt *, int, const void *, int, void (*)(void *)))                                  \
    X(bind_double, int, (sqlite3_stmt *, int, double))                                                             \
    X(bind_int64, int, (sqlite3_stmt *, int, sqlite3_int64))                                                       \
    X(bind_null, int, (sqlite3_stmt *, int))                                                                       \
    X(bind_parameter_count, int, (sqlite3_stmt *))                                                                 \
    X(bind_text, int, (sqlite3_stmt *, int, const char *, int, void (*)(void *)))                                  \
    X(busy_timeout, int, (sqlite3 *, int))                                                                         \
    X(changes, int, (sqlite3 *))                                                                                   \
    X(clear_bindings, int, (sqlite3_stmt *))                                                                       \
    X(close, int, (sqlite3 *))                                                                                     \
    X(column_blob, const void *, (sqlite3_stmt *, int))                                                            \
    X(column_bytes, int, (sqlite3_stmt *, int))                                                                    \
    X(column_count, int, (sqlite3_stmt *))                                                                         \
    X(column_double, double, (sqlite3_stmt *, int))                                                                \
    X(column_int64, sqlite3_int64, (sqlite3_stmt *, int))                                                          \
    X(column_name, const char *, (sqlite3_stmt *, int))                                                            \
    X(column_text, const unsigned char *, (sqlite3_stmt *, int))                                                   \
    X(column_type, int, (sqlite3_stmt *, int))                                                                     \
    X(db_release_memory, int, (sqlite3 *))                                                                         \
    X(db_readonly, int, (sqlite3 *, const char *))                                                                 \
    X(errmsg, const char *, (sqlite3 *))                                                                           \
    X(exec, int, (sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **))               \
    X(extended_errcode, int, (sqlite3 *))                                                                          \
    X(file_control, int, (sqlite3 *, const char *, int, void *))                                                   \
    X(finalize, int, (sqlite3_stmt *))                                                                             \
    X(get_autocommit, int, (sqlite3 *))                                                                            \
    X(interrupt, void, (sqlite3 *))                                                                                \
    X(libversion, const char *, (void))                                                                            \
    X(limit, int, (sqlite3 *, int, int))                                                                           \
    X(mutex_alloc, sqlite3_mutex *, (int))                                                                         \
    X(mutex_enter, void, (sqlite3_mutex *))                                                                        \
    X(mutex_leave, void, (sqlite3_mutex *))                                                                        \
    X(next_stmt, sqlite3_stmt *, (sqlite3 *, sqlite3_stmt *))                                                      \
    X(open_v2, int, (const char *, sqlite3 **, int, const char *))                                                 \
    X(prepare_v3, int, (sqlite3 *, const char *, int, unsigned int, sqlite3_stmt **, const char **))               \
    X(reset, int, (sqlite3_stmt *))                                                                                \
    X(sourceid, const char *, (void))                                                                              \
    X(sql, const char *, (sqlite3_stmt *))                                                                         \
    X(step, int, (sqlite3_stmt *))                                                                                 \
    X(stmt_readonly, int, (sqlite3_stmt *))                                                                        \
    X(total_changes, int, (sqlite3 *))                                                                             \
    X(wal_autocheckpoint, int, (sqlite3 *, int))

struct sqlite_functions {
#define X(name, result, arguments) result(*name) arguments;
    SQLITE_FUNCTIONS(X)
#undef X
};
extern struct sqlite_functions sq;

enum {
    SQL_TEXTS_MAX = 4096,            /* the texts that the process remembers; a further text is Python's */
    STATEMENTS_MAX = 128,            /* the prepared statements of one connection */
    RESULT_BYTES_MAX = 256 << 20,    /* the results of one batch; a larger result is Python's; see `limit_results` */
    ARENA_BYTES = 16 << 10,          /* the smallest piece of memory for results */
    CHECKED_BYTES_MAX = 64 << 10,    /* a longer text of a read is checked as it is decoded */
    MESSAGE_BYTES_MAX = 1024,        /* SQLite's message about a constraint; a longer message is Python's */
};

/* A parameter, or a value of a row. The bytes belong to a Python object, or to the batch's arena. */
typedef struct {
    int type; /* SQLITE_INTEGER, SQLITE_FLOAT, SQLITE_TEXT, SQLITE_BLOB or SQLITE_NULL */
    int length;
    union {
        sqlite3_int64 integer;
        double real;
        const char *bytes;
    } as;
} Value;

/* Tenantry's `Fetch`, in the order of its members. */
typedef enum { FETCH_NONE, FETCH_ROWCOUNT, FETCH_ONE, FETCH_ALL, FETCH_NAMED_ONE, FETCH_NAMED_ALL, FETCHES } Fetch;

typedef struct {
    const char *text; /* the SQL text; the process keeps it for ever */
    int text_length;
    Fetch fetch;
    int parameter_count;
    const Value *parameters;
    /* Written by run.c. */
    int error_code; /* an extended result code of a refused constraint; SQLITE_OK otherwise */
    const char *error_message;
    int column_count;
    const char **column_names; /* for a named fetch */
    size_t row_count;
    size_t row_capacity;
    Value *rows; /* row_count times column_count values */
    int changes;
} Step;

typedef struct {
    int step_count;
    bool runs_once; /* if the first statement returns a row, the others do not run */
} Unit;

typedef struct ArenaPiece {
    struct ArenaPiece *next;
    size_t used, size;
    max_align_t content[];
} ArenaPiece;

typedef struct {
    ArenaPiece *pieces;
    size_t bytes;
} Arena;

typedef struct {
    const char *text;
    sqlite3_stmt *statement;
} Prepared;

/* A connection. Only the job that runs on the connection uses it, so it needs no lock. */
typedef struct {
    PyObject_HEAD
    PyObject *connection; /* Python's sqlite3.Connection; NULL for a file at rest, whose handle is the engine's own */
    sqlite3 *handle;      /* NULL after `close`; see `open_handle` */
    atomic_bool is_busy;  /* a batch runs, or `close` does */
    char *token;     /* the owner's token, which a write's guard compares; NULL without a guard */
    long long seen_epoch; /* of the last owner, whom the first write replaces; see `is_owner` */
    char *seen_owner;     /* NULL if only Python may replace another owner */
    char *log_directory;  /* the directory of a new log, until the first commit has made the log's name durable; NULL otherwise */
    int checkpoint_pages; /* the setting of the connection from then on */
    char *file_path; /* of an immutable file, whose identity is checked before a read; NULL otherwise */
    char *log_path;
    unsigned long long inode;
    long long size, modified_ns;
    int prepared_count, place_count;
    Prepared *prepared; /* a hash table by the text's address, at most half full */
    int cache_age;      /* see cache.c */
    int lone_writes, log_pages; /* see log.c */
    sqlite3_int64 log_bytes;    /* the length of the log's file at the last write; 0 before that */
} Database;

typedef enum { READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3 } Kind; /* OPEN and CLOSE are jobs of at_rest.c */

/* A lock that the engine holds, in the list of lock.c. */
typedef struct HeldLock {
    int descriptor;
    struct HeldLock *previous, *next;
} HeldLock;

typedef struct Rest Rest;

typedef enum {
    WAITING,
    RUNNING,
    ENDED,     /* committed, or read */
    REFUSED,   /* the disk failed in the commit, and it is not known what is on it; or another process held the lock for too long */
    IN_PYTHON, /* rolled back: the Python function runs next */
    DROPPED,   /* cancelled, and it has no effect */
} BatchState;

struct Outlet;

typedef struct Batch {
    PyObject_HEAD
    PyObject *future, *function;
    struct Outlet *outlet;
    PyObject *queue; /* its connection's queue, which lives as long as it has a batch */
    Database *database; /* NULL for OPEN */
    struct Batch *next; /* in its outlet */
    PyObject *kept;     /* the objects whose bytes the parameters use */
    Rest *rest;         /* of OPEN and CLOSE */
    Kind kind;
    _Atomic BatchState state; /* changes under the mutex of its queue's ready queue */
    atomic_bool is_cancelled;
    int unit_count, step_count;
    bool is_whole;  /* no unit may be refused */
    bool is_inside; /* it runs inside a transaction of Python */
    Unit *units;
    Step *steps;
    Value *parameters;
    bool has_names;
    int error_count;
    int commit_code;
    char *commit_message;
    Arena arena;
} Batch;

typedef struct Outlet {
    PyObject_HEAD
    int forks;
    pthread_mutex_t mutex;
    int eventfd;         /* under the mutex; -1 after `close` */
    Batch *first, *last; /* under the mutex */
} Outlet;

extern PyTypeObject DatabaseType, BatchType, OutletType, ReadyQueueType, SerialQueueType, WorkerType;

/* forks.c */
extern int engine_forks; /* changes only in a forked child, while it has one thread */
bool forks_watch(void);
void forks_watch_sqlite(void); /* after SQLite's functions were found */

/* module.c */
extern atomic_llong batch_counts[DROPPED + 1]; /* the batches that got into each state */
extern _Atomic double latest_began_seconds;    /* when the engine began its latest batch, by the clock of `Worker.busy_since_seconds` */

/* functions.c */
PyObject *engine_attach(PyObject *module, PyObject *path);
PyObject *engine_execute(PyObject *module, PyObject *arguments);
sqlite3 *handle_of(PyObject *connection);
bool give_handle(PyObject *connection, sqlite3 *handle); /* to a connection that has not been used; false with an exception of Python */
sqlite3 *open_handle(const Database *database); /* needs no lock; NULL if the engine's or Python's connection was closed */

/* database.c: needs no lock. */
sqlite3_stmt *database_prepared(Database *database, const char *text, int length); /* NULL if Python must prepare the text */
void database_forget_statements(Database *database);

/* cache.c: needs no lock, but the thread that runs the batch. */
void fit_cache(Database *database);

/* log.c: needs no lock, but the thread that runs the batch. */
void fit_log(const Batch *batch);
void lengthen_log(Database *database); /* inside a write transaction, before its first statement */

/* batch.c */
bool batch_configure(PyObject *known, PyObject *fetches, PyObject *own, PyObject *once);
PyObject *database_batch(PyObject *database, PyObject *arguments);
Batch *batch_new(Kind kind);
void batch_leave_queue(Batch *batch); /* drop what a batch needs only until it has ended */

/* results.c */
extern PyMethodDef batch_methods[];
extern PyGetSetDef batch_fields[];

/* arena.c: needs no lock, but the thread that runs the batch. */
extern atomic_size_t result_bytes_max;
void *arena_take(Arena *arena, size_t bytes);
void arena_free(Arena *arena);

/* rows.c: needs no lock, but the thread that runs the batch. */
bool is_utf8(const unsigned char *at, size_t length); /* whether Python's strict decoder would take the bytes */
bool copy_row(Arena *arena, sqlite3_stmt *statement, Step *step, Kind kind);
bool copy_names(Arena *arena, sqlite3_stmt *statement, Step *step);

/* database.c */
long long modified_ns(const struct stat *found); /* needs no lock */
Database *database_open(sqlite3 *handle); /* of a connection of the engine's own, which it closes */
Database *database_at_rest(sqlite3 *handle, const char *path, const struct stat *found);

/* at_rest.c */
PyObject *engine_modified_at(PyObject *module, PyObject *path);
PyObject *engine_opening(PyObject *module, PyObject *arguments);
PyObject *database_closing(PyObject *database, PyObject *lock);
PyObject *batch_opened(PyObject *batch, PyObject *unused);
PyObject *batch_pass_lock(PyObject *batch, PyObject *unused);
BatchState rest_open(Batch *batch);  /* needs no lock */
BatchState rest_close(Batch *batch); /* needs no lock */
void rest_free(Rest *rest);

/* writer.c: needs no lock. Returns the number of the error of an operating system's call, or 0. */
int writer_make_log_durable(Database *database);

/* lock.c: needs no lock, but who passes a lock between Python and the engine holds `_fork_lock` of lock_file.py. */
bool lock_open(HeldLock *lock, const char *path);
void lock_take(HeldLock *lock, int descriptor);
int lock_pass_on(HeldLock *lock); /* the descriptor, which is the caller's from now on */
bool lock_is_released(const HeldLock *lock, const char *path); /* after acquiring the lock; false without it */
bool lock_write(const HeldLock *lock, const char *content, size_t length);
void lock_release(HeldLock *lock); /* say so in the file, and close it */
void lock_close(HeldLock *lock);   /* a no-op for a lock that is not held */
void locks_before_fork(void);
void locks_in_parent(void);
void locks_in_child(void);

/* run.c: needs no lock. */
BatchState batch_run(Batch *batch);

/* outlet.c: needs no lock. The outlet has the caller's reference to the batch afterwards, unless it is closed and returns false. */
bool outlet_put(Outlet *outlet, Batch *batch);

#endif

/* Calls that cannot fail: where the call of the system or of SQLite fails, the program ends with a message that names the file. */
#include "limit.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BUSY_TIMEOUT_MILLISECONDS = 5000, URI_BYTES_MAX = 4096 };

void die(const char *where, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "limit: %s: ", where);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    /* Not exit(): other threads still use what its handlers would remove. */
    _exit(EXIT_FAILURE);
}

void *allocated(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL)
        die("memory", "no room for %zu items of %zu bytes", count, size);
    return memory;
}

char *joined(const char *text, const char *suffix)
{
    size_t length = strlen(text), more = strlen(suffix);
    char *whole = allocated(length + more + 1, 1);
    memcpy(whole, text, length);
    memcpy(whole + length, suffix, more + 1);
    return whole;
}

static double seconds_of(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        die("clock", "%s", strerror(errno));
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

double now_seconds(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double cpu_seconds(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

void lock_mutex(pthread_mutex_t *mutex)
{
    int error = pthread_mutex_lock(mutex);
    if (error != 0)
        die("mutex", "%s", strerror(error));
}

void unlock_mutex(pthread_mutex_t *mutex)
{
    int error = pthread_mutex_unlock(mutex);
    if (error != 0)
        die("mutex", "%s", strerror(error));
}

_Noreturn static void die_of(sqlite3 *db, const char *what)
{
    const char *name = db == NULL ? NULL : sqlite3_db_filename(db, "main");
    die(name == NULL ? "sqlite" : name, "%s (%d) in: %s", sqlite3_errmsg(db), sqlite3_extended_errcode(db), what);
}

sqlite3 *open_database(const char *path, const char *parameters, int flags)
{
    char uri[URI_BYTES_MAX];
    /* Python has refused paths with characters that a URI would have to escape. */
    int length = snprintf(uri, sizeof uri, "file:%s?%s", path, parameters);
    if (length < 0 || (size_t)length >= sizeof uri)
        die(path, "the path is too long");
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(uri, &db, flags | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        die(path, "cannot be opened: %s", db == NULL ? "no memory" : sqlite3_errmsg(db));
    if (sqlite3_busy_timeout(db, BUSY_TIMEOUT_MILLISECONDS) != SQLITE_OK)
        die_of(db, "busy_timeout");
    return db;
}

sqlite3_stmt *prepared(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) != SQLITE_OK || statement == NULL)
        die_of(db, sql);
    return statement;
}

void finalize(sqlite3_stmt **statement)
{
    /* Returns the error of the last step, which `step` has looked at. */
    (void)sqlite3_finalize(*statement);
    *statement = NULL;
}

void close_database(sqlite3 **db)
{
    if (*db != NULL && sqlite3_close(*db) != SQLITE_OK)
        die_of(*db, "close");
    *db = NULL;
}

void run_script(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        die_of(db, sql);
}

bool step(sqlite3_stmt *statement)
{
    int result = sqlite3_step(statement);
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        die_of(sqlite3_db_handle(statement), sqlite3_sql(statement));
    return result == SQLITE_ROW;
}

void reset(sqlite3_stmt *statement)
{
    if (sqlite3_reset(statement) != SQLITE_OK)
        die_of(sqlite3_db_handle(statement), sqlite3_sql(statement));
}

void run(sqlite3_stmt *statement)
{
    if (step(statement))
        die_of(sqlite3_db_handle(statement), "a row that nobody asked for");
    reset(statement);
}

void bind_text(sqlite3_stmt *statement, int position, const char *text)
{
    /* The text outlives the step: it is the plan's, or the caller's until the statement is reset. */
    if (sqlite3_bind_text(statement, position, text, -1, SQLITE_STATIC) != SQLITE_OK)
        die_of(sqlite3_db_handle(statement), "bind");
}

/* Opens a database that was closed cleanly, for reading.
 *
 * Theory of operation. In Python the opening of such a file takes some thirty system calls and statements, and waits for the interpreter's
 * lock after each. Here it is one call, which does the same in the same order: no part of the path is a link; the lock is free, is that
 * of the file at the lock's path, and says that the last holder released it; the file is whole and has no log or journal beside it. Then
 * the lock file gets the holder's name, and SQLite opens the file as immutable and selects one row about it. If anything is different,
 * the lock file is as before, and Python opens the file and says what is wrong. */
#define _GNU_SOURCE
#include "engine.h"
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum {
    LOCK_BYTES = 128, /* `CONTENT_BYTES` of lock_file.py */
    SUMMARY_COLUMNS = 5,
};
static const char RELEASED[] = "released"; /* `_RELEASED` of ownership.py */
static const char PRAGMAS[] = "PRAGMA cell_size_check = ON; PRAGMA cache_size = -2000"; /* `PRAGMAS` of hardening.py */

typedef struct {
    int lock;
    const char *lock_path, *name, *root, *path, *uri, *summary_sql;
    Py_ssize_t name_length, summary_length;
    size_t root_length;
    struct stat file;
    sqlite3 *handle;
    sqlite3_stmt *summary; /* on its row */
} Opening;

/* Look for the path with a suffix, without following a link; return false if the path is too long. */
static bool look_for(const char *path, const char *suffix, struct stat *found, bool *is_there)
{
    char whole[PATH_MAX];
    size_t length = strlen(path), more = strlen(suffix);
    if (length + more >= sizeof whole)
        return false;
    memcpy(whole, path, length);
    memcpy(whole + length, suffix, more + 1);
    *is_there = lstat(whole, found) == 0;
    return true;
}

/* Each part of the path below the root must be a directory, and none a link. */
static bool has_own_path(const Opening *opening)
{
    char part[PATH_MAX];
    struct stat found;
    size_t length = strlen(opening->path);
    if (length >= sizeof part || strncmp(opening->path, opening->root, opening->root_length) != 0 ||
        opening->path[opening->root_length] != '/')
        return false;
    memcpy(part, opening->path, length + 1);
    for (char *slash = strchr(part + opening->root_length + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (lstat(part, &found) != 0 || !S_ISDIR(found.st_mode))
            return false;
        *slash = '/';
    }
    return true;
}

static bool is_at_rest(Opening *opening)
{
    struct stat other;
    bool has_file, has_log, has_journal;
    return look_for(opening->path, "", &opening->file, &has_file) && look_for(opening->path, "-wal", &other, &has_log) &&
           look_for(opening->path, "-journal", &other, &has_journal) && has_file && S_ISREG(opening->file.st_mode) &&
           opening->file.st_size > 0 && !has_log && !has_journal;
}

static bool is_released(const Opening *opening)
{
    char content[LOCK_BYTES];
    struct stat held, named;
    if (flock(opening->lock, LOCK_EX | LOCK_NB) != 0 || fstat(opening->lock, &held) != 0 || lstat(opening->lock_path, &named) != 0 ||
        held.st_ino != named.st_ino || held.st_dev != named.st_dev)
        return false;
    ssize_t length = pread(opening->lock, content, sizeof content, 0);
    if (length < (ssize_t)sizeof RELEASED || memcmp(content, RELEASED, sizeof RELEASED - 1) != 0)
        return false;
    ssize_t end = (ssize_t)sizeof RELEASED - 1;
    while (end < length && content[end] == ' ')
        end++;
    return end < length && content[end] == '\n';
}

static bool write_lock(int lock, const char *content, size_t length)
{
    char whole[LOCK_BYTES];
    if (length >= sizeof whole)
        return false;
    memset(whole, ' ', sizeof whole);
    memcpy(whole, content, length);
    whole[sizeof whole - 1] = '\n';
    return pwrite(lock, whole, sizeof whole, 0) == (ssize_t)sizeof whole;
}

static bool open_file(Opening *opening)
{
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
    if (sq.open_v2(opening->uri, &opening->handle, flags, NULL) != SQLITE_OK ||
        sq.exec(opening->handle, PRAGMAS, NULL, NULL, NULL) != SQLITE_OK)
        return false;
    sq.limit(opening->handle, SQLITE_LIMIT_ATTACHED, 0);
    return sq.prepare_v3(opening->handle, opening->summary_sql, (int)opening->summary_length, 0, &opening->summary, NULL) == SQLITE_OK &&
           sq.step(opening->summary) == SQLITE_ROW && sq.column_count(opening->summary) == SUMMARY_COLUMNS;
}

static void close_file(Opening *opening)
{
    sq.finalize(opening->summary);
    sq.close(opening->handle);
    opening->summary = NULL;
    opening->handle = NULL;
}

static bool open_at_rest(Opening *opening)
{
    if (!has_own_path(opening) || !is_released(opening) || !is_at_rest(opening))
        return false;
    if (write_lock(opening->lock, opening->name, (size_t)opening->name_length) && open_file(opening))
        return true;
    close_file(opening);
    write_lock(opening->lock, RELEASED, sizeof RELEASED - 1);
    return false;
}

/* The row: the tenant's uid, the epoch, the last owner, the version of the file, and the applied migrations as JSON. */
static PyObject *row_of_summary(sqlite3_stmt *summary)
{
    const char *uid = (const char *)sq.column_text(summary, 0), *owner = (const char *)sq.column_text(summary, 2),
               *applied = (const char *)sq.column_text(summary, 4);
    if (uid == NULL || owner == NULL || applied == NULL)
        Py_RETURN_NONE;
    PyObject *row = Py_BuildValue("sLsLs", uid, (long long)sq.column_int64(summary, 1), owner,
                                  (long long)sq.column_int64(summary, 3), applied);
    if (row != NULL || !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return row;
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* Return what Python gets; None if Python must open the file, because a text of the row is missing or is not UTF-8. */
static PyObject *opened(Opening *opening)
{
    PyObject *row = row_of_summary(opening->summary);
    sq.finalize(opening->summary);
    opening->summary = NULL;
    Database *database = row == NULL || row == Py_None ? NULL : database_at_rest(opening->handle, opening->path, &opening->file);
    if (database != NULL)
        return Py_BuildValue("(N(NLLL)N)", database, PyUnicode_DecodeFSDefault(opening->path), database->inode, database->size,
                             database->modified_ns, row);
    close_file(opening);
    write_lock(opening->lock, RELEASED, sizeof RELEASED - 1);
    if (row == Py_None)
        return row;
    Py_XDECREF(row);
    return NULL;
}

/* modified_at(path): the modification time of a file in nanoseconds; None without the file. The interpreter's lock is kept. */
PyObject *engine_modified_at(PyObject *module, PyObject *path)
{
    (void)module;
    struct stat found;
    PyObject *name; /* in the file system's encoding: a path need not be UTF-8 */
    if (!PyUnicode_FSConverter(path, &name))
        return NULL;
    bool is_there = stat(PyBytes_AS_STRING(name), &found) == 0;
    Py_DECREF(name);
    if (!is_there)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(modified_ns(&found));
}

/* open_at_rest(lock, lock_path, name, root, path, uri, summary_sql): lock, check and open a database.
 *
 * `lock` is the descriptor of the open lock file, `name` the holder's name for it, `root` the directory above which links are allowed.
 * Returns (database, (path, inode, size, modified_ns), row), or None if Python must open the database; then the descriptor's lock may be
 * held, and the caller closes the descriptor. */
PyObject *engine_open_at_rest(PyObject *module, PyObject *arguments)
{
    (void)module;
    Opening opening = {.lock = -1};
    PyObject *lock_path, *root, *path, *found;
    if (!PyArg_ParseTuple(arguments, "iO&y#O&O&ss#:open_at_rest", &opening.lock, PyUnicode_FSConverter, &lock_path, &opening.name,
                          &opening.name_length, PyUnicode_FSConverter, &root, PyUnicode_FSConverter, &path, &opening.uri,
                          &opening.summary_sql, &opening.summary_length))
        return NULL;
    opening.lock_path = PyBytes_AS_STRING(lock_path);
    opening.root = PyBytes_AS_STRING(root);
    opening.root_length = strlen(opening.root);
    opening.path = PyBytes_AS_STRING(path);
    bool is_open;
    Py_BEGIN_ALLOW_THREADS
    is_open = open_at_rest(&opening);
    Py_END_ALLOW_THREADS
    found = is_open ? opened(&opening) : Py_NewRef(Py_None);
    Py_DECREF(lock_path);
    Py_DECREF(root);
    Py_DECREF(path);
    return found;
}

/* Opens a database that was closed cleanly, for reading, and closes it.
 *
 * Theory of operation. In Python the opening of such a file takes some thirty system calls and statements, and waits for the interpreter's
 * lock after each. Here it is one job of a connection's queue, a batch without statements, which does the same in the same order: no part
 * of the path is a link; the lock is free, is that of the file at the lock's path, and says that the last holder released it; the file is
 * whole and has no log or journal beside it. Then the lock file gets the holder's name, and SQLite opens the file as immutable and selects
 * one row about it, and its version. If anything is different, the lock file is as before, and Python opens the file and says what is wrong.
 *
 * The closing is such a job, too: SQLite closes the file, and the lock file says that its holder has released it. */
#define _GNU_SOURCE
#include "engine.h"
#include <limits.h>
#include <string.h>

enum { SUMMARY_COLUMNS = 4 };
static const char VERSION[] = "PRAGMA user_version";
static const char PRAGMAS[] = "PRAGMA cell_size_check = ON; PRAGMA cache_size = -2000"; /* `PRAGMAS` of hardening.py */

struct Rest {
    HeldLock lock; /* its descriptor is -1 while the engine does not hold the lock */
    const char *lock_path, *name, *root, *path, *uri, *summary_sql; /* the batch keeps their objects */
    size_t name_length;
    /* Written by the thread that opens the file: */
    struct stat file;
    sqlite3 *handle;
    const char *uid, *owner, *applied; /* in the batch's arena */
    long long epoch, version;
};

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
static bool has_own_path(const Rest *rest)
{
    char part[PATH_MAX];
    struct stat found;
    size_t length = strlen(rest->path), root_length = strlen(rest->root);
    if (length >= sizeof part || strncmp(rest->path, rest->root, root_length) != 0 || rest->path[root_length] != '/')
        return false;
    memcpy(part, rest->path, length + 1);
    for (char *slash = strchr(part + root_length + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (lstat(part, &found) != 0 || !S_ISDIR(found.st_mode))
            return false;
        *slash = '/';
    }
    return true;
}

static bool is_at_rest(Rest *rest)
{
    struct stat other;
    bool has_file, has_log, has_journal;
    return look_for(rest->path, "", &rest->file, &has_file) && look_for(rest->path, "-wal", &other, &has_log) &&
           look_for(rest->path, "-journal", &other, &has_journal) && has_file && S_ISREG(rest->file.st_mode) &&
           rest->file.st_size > 0 && !has_log && !has_journal;
}

static const char *copied_text(Arena *arena, sqlite3_stmt *row, int column)
{
    const unsigned char *text = sq.column_text(row, column);
    if (text == NULL)
        return NULL;
    size_t length = strlen((const char *)text);
    char *copy = is_utf8(text, length) ? arena_take(arena, length + 1) : NULL;
    return copy == NULL ? NULL : memcpy(copy, text, length + 1);
}

static bool read_version(Rest *rest)
{
    sqlite3_stmt *version = NULL;
    bool is_read = sq.prepare_v3(rest->handle, VERSION, sizeof VERSION, 0, &version, NULL) == SQLITE_OK && sq.step(version) == SQLITE_ROW;
    if (is_read)
        rest->version = sq.column_int64(version, 0);
    sq.finalize(version);
    return is_read;
}

/* The row: the tenant's uid, the epoch, the last owner, and the applied migrations as JSON. */
static bool read_summary(Rest *rest, Arena *arena)
{
    sqlite3_stmt *summary = NULL;
    bool is_read = sq.prepare_v3(rest->handle, rest->summary_sql, -1, 0, &summary, NULL) == SQLITE_OK && sq.step(summary) == SQLITE_ROW &&
                   sq.column_count(summary) == SUMMARY_COLUMNS;
    if (is_read) {
        rest->uid = copied_text(arena, summary, 0);
        rest->epoch = sq.column_int64(summary, 1);
        rest->owner = copied_text(arena, summary, 2);
        rest->applied = copied_text(arena, summary, 3);
    }
    sq.finalize(summary);
    return is_read && rest->uid != NULL && rest->owner != NULL && rest->applied != NULL;
}

static bool open_file(Rest *rest, Arena *arena)
{
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
    if (sq.open_v2(rest->uri, &rest->handle, flags, NULL) == SQLITE_OK && sq.exec(rest->handle, PRAGMAS, NULL, NULL, NULL) == SQLITE_OK) {
        sq.limit(rest->handle, SQLITE_LIMIT_ATTACHED, 0);
        if (read_version(rest) && read_summary(rest, arena))
            return true;
    }
    sq.close(rest->handle);
    rest->handle = NULL;
    return false;
}

BatchState rest_open(Batch *batch)
{
    Rest *rest = batch->rest;
    if (!has_own_path(rest) || !lock_open(&rest->lock, rest->lock_path))
        return IN_PYTHON;
    if (lock_is_released(&rest->lock, rest->lock_path) && is_at_rest(rest)) {
        if (lock_write(&rest->lock, rest->name, rest->name_length) && open_file(rest, &batch->arena))
            return ENDED;
        lock_release(&rest->lock);
    }
    lock_close(&rest->lock);
    return IN_PYTHON;
}

BatchState rest_close(Batch *batch)
{
    Database *database = batch->database;
    sqlite3 *handle = database->handle;
    database->handle = NULL; /* `SerialQueue.interrupt` must not find it while this thread closes it */
    database_forget_statements(database);
    sq.close(handle);
    lock_release(&batch->rest->lock);
    return ENDED;
}

void rest_free(Rest *rest)
{
    if (rest == NULL)
        return;
    sq.close(rest->handle);
    /* Nobody has taken the file over that was opened, or the closing never ran. */
    if (rest->lock.descriptor >= 0)
        lock_release(&rest->lock);
    PyMem_Free(rest);
}

static Batch *rest_batch(Kind kind)
{
    Batch *batch = batch_new(kind);
    if (batch == NULL)
        return NULL;
    if ((batch->rest = PyMem_Calloc(1, sizeof *batch->rest)) != NULL) {
        batch->rest->lock.descriptor = -1;
        return batch;
    }
    Py_DECREF(batch);
    PyErr_NoMemory();
    return NULL;
}

/* Take the arguments of `opening`, and let the batch keep the objects whose bytes the opening uses. */
static bool take_arguments(Batch *batch, PyObject *arguments)
{
    PyObject *lock_path = NULL, *name = NULL, *root = NULL, *path = NULL, *uri = NULL, *summary = NULL;
    Rest *rest = batch->rest;
    if (!PyArg_ParseTuple(arguments, "O&SO&O&UU:opening", PyUnicode_FSConverter, &lock_path, &name, PyUnicode_FSConverter, &root,
                          PyUnicode_FSConverter, &path, &uri, &summary))
        return false; /* the converter has dropped what it has made */
    batch->kept = Py_BuildValue("(NONNOO)", lock_path, name, root, path, uri, summary);
    if (batch->kept == NULL)
        return false;
    rest->lock_path = PyBytes_AS_STRING(lock_path);
    rest->name = PyBytes_AS_STRING(name);
    rest->name_length = (size_t)PyBytes_GET_SIZE(name);
    rest->root = PyBytes_AS_STRING(root);
    rest->path = PyBytes_AS_STRING(path);
    rest->uri = PyUnicode_AsUTF8(uri);
    rest->summary_sql = PyUnicode_AsUTF8(summary);
    return rest->uri != NULL && rest->summary_sql != NULL;
}

/* opening(lock_path, name, root, path, uri, summary_sql): a batch that locks, checks and opens a database.
 *
 * `name` is the holder's name for the lock file, `root` the directory above which links are allowed. */
PyObject *engine_opening(PyObject *module, PyObject *arguments)
{
    (void)module;
    Batch *batch = rest_batch(OPEN);
    if (batch == NULL || take_arguments(batch, arguments))
        return (PyObject *)batch;
    Py_DECREF(batch);
    return NULL;
}

/* Database.closing(lock): a batch that closes a file at rest and releases its lock, whose descriptor the engine has from now on. */
PyObject *database_closing(PyObject *self, PyObject *lock)
{
    int descriptor = PyLong_AsLong(lock) < 0 ? -1 : (int)PyLong_AsLong(lock);
    if (PyErr_Occurred())
        return NULL;
    if (descriptor < 0 || ((Database *)self)->connection != NULL) {
        PyErr_SetString(PyExc_ValueError, "the file is not one that the engine has opened, or its lock is not held");
        return NULL;
    }
    Batch *batch = rest_batch(CLOSE);
    if (batch == NULL)
        return NULL;
    batch->database = (Database *)Py_NewRef(self);
    lock_take(&batch->rest->lock, descriptor);
    return (PyObject *)batch;
}

static Rest *opened(PyObject *self)
{
    Batch *batch = (Batch *)self;
    if (batch->kind == OPEN && batch->state == ENDED)
        return batch->rest;
    PyErr_SetString(PyExc_ValueError, "the batch has opened no file");
    return NULL;
}

/* opened(): (database, (path, inode, size, modified_ns), row) of a file that was opened. */
PyObject *batch_opened(PyObject *self, PyObject *unused)
{
    (void)unused;
    Rest *rest = opened(self);
    if (rest == NULL)
        return NULL;
    if (rest->handle == NULL) {
        PyErr_SetString(PyExc_ValueError, "the file was taken over before");
        return NULL;
    }
    Database *database = database_at_rest(rest->handle, rest->path, &rest->file);
    if (database == NULL)
        return NULL;
    rest->handle = NULL;
    return Py_BuildValue("(N(NLLL)(sLsLs))", database, PyUnicode_DecodeFSDefault(rest->path), database->inode, database->size,
                         database->modified_ns, rest->uid, rest->epoch, rest->owner, rest->version, rest->applied);
}

/* pass_lock(): the descriptor of the lock of a file that was opened; the caller has it from now on. */
PyObject *batch_pass_lock(PyObject *self, PyObject *unused)
{
    (void)unused;
    Rest *rest = opened(self);
    return rest == NULL ? NULL : PyLong_FromLong(lock_pass_on(&rest->lock));
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

/* Opens a database that was closed cleanly, and closes it.
 *
 * Theory of operation. In Python the opening of such a file takes some thirty system calls and statements, and waits for the interpreter's
 * lock after each. Here it is one job of a connection's queue, a batch without statements, which does the same in the same order: no part
 * of the path is a link; the lock is free, is that of the file at the lock's path, and says that the last holder released it; the file is
 * whole and has no log or journal beside it. Then the lock file gets the holder's name, and SQLite opens the file and selects one row about
 * it, and its version. An opening for reading opens the file as immutable; writer.c does the rest of an opening for writing. If anything is
 * different, the lock file is as before, and Python opens the file and says what is wrong.
 *
 * If the caller holds the lock, because it has the file open for reading until now, nothing is locked, and no row is read. If the caller
 * has the file open for writing, a further reader is opened without any check.
 *
 * The closing is such a job, too: SQLite closes the file, and the lock file says that its holder has released it. */
#define _GNU_SOURCE
#include "at_rest.h"
#include <errno.h>
#include <limits.h>
#include <string.h>

enum { SUMMARY_COLUMNS = 4 };
static const char VERSION[] = "PRAGMA user_version";

/* Look for the path with a suffix, without following a link; return false if it is not known whether it is there. */
static bool look_for(const char *path, const char *suffix, struct stat *found, bool *is_there)
{
    char whole[PATH_MAX];
    size_t length = strlen(path), more = strlen(suffix);
    if (length + more >= sizeof whole)
        return false;
    memcpy(whole, path, length);
    memcpy(whole + length, suffix, more + 1);
    *is_there = lstat(whole, found) == 0;
    return *is_there || errno == ENOENT;
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
    const unsigned char *text = sq.column_type(row, column) == SQLITE_TEXT ? sq.column_text(row, column) : NULL;
    if (text == NULL)
        return NULL;
    size_t length = strlen((const char *)text);
    bool is_whole = length == (size_t)sq.column_bytes(row, column); /* only Python takes a text with NUL characters */
    char *copy = is_whole && is_utf8(text, length) ? arena_take(arena, length + 1) : NULL;
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
                   sq.column_count(summary) == SUMMARY_COLUMNS && sq.column_type(summary, 1) == SQLITE_INTEGER;
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
    bool is_for_write = rest->writer.token != NULL;
    /* The connection may be lent to Python, whose cursors end on any thread, so it needs a mutex as every connection of Python. */
    int flags = (is_for_write ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY) | SQLITE_OPEN_URI | SQLITE_OPEN_FULLMUTEX;
    if (sq.open_v2(rest->uri, &rest->handle, flags, NULL) == SQLITE_OK && sq.exec(rest->handle, rest->script, NULL, NULL, NULL) == SQLITE_OK) {
        sq.limit(rest->handle, SQLITE_LIMIT_ATTACHED, 0);
        if (read_version(rest) && (rest->summary_sql == NULL || read_summary(rest, arena)) && (!is_for_write || writer_set_up(rest)))
            return true;
    }
    sq.close(rest->handle);
    rest->handle = NULL;
    return false;
}

BatchState rest_open(Batch *batch)
{
    Rest *rest = batch->rest;
    if (rest->root != NULL && !has_own_path(rest))
        return IN_PYTHON;
    if (rest->lock_path == NULL)
        return (rest->root == NULL || is_at_rest(rest)) && open_file(rest, &batch->arena) ? ENDED : IN_PYTHON;
    if (!lock_open(&rest->lock, rest->lock_path))
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
    if (batch->rest->lock.descriptor >= 0)
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

/* Take the fields of an opening for writing. */
static bool take_writer(Writer *writer, PyObject *fields)
{
    return PyArg_ParseTuple(fields, "ssLLiiiLs:opening", &writer->token, &writer->uid, &writer->known_version, &writer->bytes_max,
                            &writer->busy_milliseconds, &writer->checkpoint_pages, &writer->lock, &writer->seen_epoch, &writer->seen_owner);
}

/* Return the bytes of an object in the file system's encoding, and let the batch keep them; NULL for None, and with an exception. */
static const char *kept_path(Batch *batch, PyObject *object)
{
    PyObject *bytes = NULL;
    if (object == Py_None || !PyUnicode_FSConverter(object, &bytes))
        return NULL;
    bool is_kept = PyList_Append(batch->kept, bytes) == 0;
    Py_DECREF(bytes);
    return is_kept ? PyBytes_AS_STRING(bytes) : NULL;
}

/* Take the arguments of `opening`, and let the batch keep the objects whose bytes the opening uses. */
static bool take_arguments(Batch *batch, PyObject *arguments)
{
    PyObject *path, *root, *lock_path, *writer;
    Rest *rest = batch->rest;
    Py_ssize_t name_length;
    if (!PyArg_ParseTuple(arguments, "OOssOz#zO:opening", &path, &root, &rest->uri, &rest->script, &lock_path, &rest->name, &name_length,
                          &rest->summary_sql, &writer))
        return false;
    rest->name_length = (size_t)name_length;
    if ((batch->kept = PyList_New(0)) == NULL || PyList_Append(batch->kept, arguments) < 0)
        return false;
    rest->path = kept_path(batch, path);
    rest->root = kept_path(batch, root);
    rest->lock_path = kept_path(batch, lock_path);
    if (!PyErr_Occurred() && (rest->path == NULL || (rest->lock_path != NULL && (rest->name == NULL || rest->root == NULL))))
        PyErr_SetString(PyExc_ValueError, "an opening needs a path, and a lock needs a name and a root");
    return !PyErr_Occurred() && (writer == Py_None || take_writer(&rest->writer, writer));
}

/* opening(path, root, uri, script, lock_path, name, summary_sql, writer): a batch that opens a database.
 *
 * `root` is the directory above which links are allowed, `script` sets the connection up, and `name` is the holder's name for the lock
 * file. `lock_path` is None if the caller holds the lock, `root` too if the caller has the file open for writing. `writer` has the fields of
 * `Writer`, or is None. */
PyObject *engine_opening(PyObject *module, PyObject *arguments)
{
    (void)module;
    Batch *batch = rest_batch(OPEN);
    if (batch == NULL || take_arguments(batch, arguments))
        return (PyObject *)batch;
    Py_DECREF(batch);
    return NULL;
}

/* Database.closing(lock): a batch that closes a file and releases its lock, whose descriptor the engine has from now on; None for no lock. */
PyObject *database_closing(PyObject *self, PyObject *lock)
{
    int descriptor = lock == Py_None ? -1 : (int)PyLong_AsLong(lock);
    if (PyErr_Occurred())
        return NULL;
    if ((lock != Py_None && descriptor < 0) || ((Database *)self)->connection != NULL) {
        PyErr_SetString(PyExc_ValueError, "the file is not one that the engine has opened, or its lock is not held");
        return NULL;
    }
    Batch *batch = rest_batch(CLOSE);
    if (batch == NULL)
        return NULL;
    batch->database = (Database *)Py_NewRef(self);
    if (descriptor >= 0)
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

static PyObject *identity_of(const Rest *rest)
{
    return Py_BuildValue("(NKLL)", PyUnicode_DecodeFSDefault(rest->path), (unsigned long long)rest->file.st_ino,
                         (long long)rest->file.st_size, modified_ns(&rest->file));
}

/* opened(): (database, identity, row) of a file that was opened: the identity (path, inode, size, modified_ns) of an immutable file, and the
 * row (uid, epoch, owner, version, applied migrations), are None if there is none. */
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
    bool is_immutable = rest->root != NULL && rest->writer.token == NULL;
    Database *database = is_immutable ? database_at_rest(rest->handle, rest->path, &rest->file) : database_open(rest->handle);
    if (database == NULL)
        return NULL;
    rest->handle = NULL;
    if (rest->writer.token != NULL && !writer_take(database, rest)) {
        Py_DECREF(database);
        return NULL;
    }
    PyObject *identity = is_immutable ? identity_of(rest) : Py_NewRef(Py_None);
    PyObject *row = rest->uid == NULL
                        ? Py_NewRef(Py_None)
                        : Py_BuildValue("(sLsLs)", rest->uid, rest->epoch, rest->owner, rest->version, rest->applied);
    return Py_BuildValue("(NNN)", database, identity, row); /* NULL objects are errors, which it passes on */
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

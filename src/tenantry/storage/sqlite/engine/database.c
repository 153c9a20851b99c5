/* A connection of Python's sqlite3, as the engine uses it. */
#include "engine.h"
#include <stdlib.h>
#include <string.h>

enum { PLACES_MIN = 16 };

static bool copy_text(const char *text, const char *suffix, char **copy)
{
    size_t length = strlen(text), more = strlen(suffix);
    if ((*copy = malloc(length + more + 1)) == NULL) {
        PyErr_NoMemory();
        return false;
    }
    memcpy(*copy, text, length);
    memcpy(*copy + length, suffix, more + 1);
    return true;
}

/* Return the place of a text in the table, which has empty places. */
static Prepared *place_of(const Database *database, const char *text)
{
    size_t place = ((uintptr_t)text >> 4) * 2654435761u % (size_t)database->place_count;
    while (database->prepared[place].text != NULL && database->prepared[place].text != text)
        place = (place + 1) % (size_t)database->place_count;
    return &database->prepared[place];
}

/* Make the table twice as large; return false without memory. */
static bool grow(Database *database)
{
    Database grown = {.place_count = database->place_count > 0 ? 2 * database->place_count : PLACES_MIN};
    grown.prepared = calloc((size_t)grown.place_count, sizeof *grown.prepared);
    if (grown.prepared == NULL)
        return false;
    for (int i = 0; i < database->place_count; i++)
        if (database->prepared[i].text != NULL)
            *place_of(&grown, database->prepared[i].text) = database->prepared[i];
    free(database->prepared);
    database->prepared = grown.prepared;
    database->place_count = grown.place_count;
    return true;
}

sqlite3_stmt *database_prepared(Database *database, const char *text, int length)
{
    if (database->prepared_count >= STATEMENTS_MAX)
        database_forget_statements(database);
    if (2 * database->prepared_count >= database->place_count && !grow(database))
        return NULL;
    Prepared *place = place_of(database, text);
    if (place->text == text)
        return place->statement;
    sqlite3_stmt *statement = NULL;
    const char *rest = NULL;
    if (sq.prepare_v3(database->handle, text, length, SQLITE_PREPARE_PERSISTENT, &statement, &rest) != SQLITE_OK || statement == NULL)
        return NULL;
    if (rest[strspn(rest, " \t\r\n;")] != '\0') { /* a comment, or a second statement, which Python's driver refuses */
        sq.finalize(statement);
        return NULL;
    }
    *place = (Prepared){text, statement};
    database->prepared_count++;
    return statement;
}

void database_forget_statements(Database *database)
{
    for (int i = 0; i < database->place_count; i++)
        if (database->prepared[i].text != NULL)
            sq.finalize(database->prepared[i].statement);
    free(database->prepared);
    database->prepared = NULL;
    database->place_count = database->prepared_count = 0;
}

/* Take the fields of an immutable file. */
static bool take_file(Database *database, PyObject *file)
{
    PyObject *path = NULL; /* the file system's encoding: a path need not be UTF-8 */
    if (!PyTuple_Check(file)) {
        PyErr_SetString(PyExc_TypeError, "a file is a tuple of path, inode, size and modification time");
        return false;
    }
    if (!PyArg_ParseTuple(file, "O&KLL:Database", PyUnicode_FSConverter, &path, &database->inode, &database->size, &database->modified_ns))
        return false;
    bool is_taken = copy_text(PyBytes_AS_STRING(path), "", &database->file_path) &&
                    copy_text(PyBytes_AS_STRING(path), "-wal", &database->log_path);
    Py_DECREF(path);
    return is_taken;
}

/* Database(connection, token, file): `token` is the owner's, or None without a guard. `file` is None, or the path, the inode, the size in
 * bytes and the modification time in nanoseconds of an immutable file. */
static PyObject *database_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"connection", "token", "file", NULL};
    PyObject *connection, *file;
    const char *token;
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "OzO:Database", names, &connection, &token, &file))
        return NULL;
    sqlite3 *handle = handle_of(connection);
    if (handle == NULL)
        return NULL;
    Database *database = (Database *)type->tp_alloc(type, 0);
    if (database == NULL)
        return NULL;
    database->connection = Py_NewRef(connection);
    database->handle = handle;
    bool is_whole = (token == NULL || copy_text(token, "", &database->token)) && (file == Py_None || take_file(database, file));
    if (is_whole)
        return (PyObject *)database;
    Py_DECREF(database);
    return NULL;
}

long long modified_ns(const struct stat *found)
{
    return (long long)found->st_mtim.tv_sec * 1000000000 + found->st_mtim.tv_nsec;
}

Database *database_open(sqlite3 *handle)
{
    Database *database = (Database *)DatabaseType.tp_alloc(&DatabaseType, 0);
    if (database != NULL)
        database->handle = handle;
    return database;
}

/* Return the database of an immutable file, whose handle it closes; NULL without memory. */
Database *database_at_rest(sqlite3 *handle, const char *path, const struct stat *found)
{
    Database *database = database_open(NULL);
    if (database == NULL)
        return NULL;
    database->inode = (unsigned long long)found->st_ino;
    database->size = (long long)found->st_size;
    database->modified_ns = modified_ns(found);
    if (copy_text(path, "", &database->file_path) && copy_text(path, "-wal", &database->log_path)) {
        database->handle = handle;
        return database;
    }
    Py_DECREF(database);
    return NULL;
}

/* lend(connection): let a connection of Python, which has a database in memory, use this connection from now on; the caller is a job of the
 * connection's queue. */
static PyObject *database_lend(PyObject *self, PyObject *connection)
{
    Database *database = (Database *)self;
    if (database->connection != NULL || database->handle == NULL || database->is_busy) {
        PyErr_SetString(PyExc_ValueError, "the engine has no connection of its own, or uses it");
        return NULL;
    }
    if (!give_handle(connection, database->handle))
        return NULL;
    database->connection = Py_NewRef(connection);
    Py_RETURN_NONE;
}

/* close(): free the prepared statements, without which SQLite could not close the connection, and close a handle of the engine's own. Later
 * batches run in Python. */
static PyObject *database_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    Database *database = (Database *)self;
    if (atomic_exchange(&database->is_busy, true)) {
        PyErr_SetString(PyExc_ValueError, "a batch runs on the connection");
        return NULL;
    }
    sqlite3 *handle = database->handle;
    database->handle = NULL; /* `SerialQueue.interrupt` must not find it while this thread closes it */
    Py_BEGIN_ALLOW_THREADS
    /* If Python has closed its connection before, SQLite has kept the handle for these statements. */
    database_forget_statements(database);
    if (database->connection == NULL && handle != NULL)
        sq.close(handle);
    Py_END_ALLOW_THREADS
    database->is_busy = false;
    Py_CLEAR(database->connection);
    Py_RETURN_NONE;
}

static void database_free(PyObject *self)
{
    Database *database = (Database *)self;
    Py_XDECREF(database_close(self, NULL));
    free(database->token);
    free(database->seen_owner);
    free(database->log_directory);
    free(database->file_path);
    free(database->log_path);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef database_methods[] = {
    {"batch", database_batch, METH_VARARGS, "Return a batch of these units, or None if Python must run them."},
    {"closing", database_closing, METH_O, "Return a batch that closes a file at rest and releases its lock."},
    {"lend", database_lend, METH_O, "Let a connection of Python use this connection from now on."},
    {"close", database_close, METH_NOARGS, "Free the prepared statements; later batches run in Python."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject DatabaseType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.Database",
    .tp_basicsize = sizeof(Database),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A connection of Python's sqlite3, as the engine uses it.",
    .tp_new = database_new,
    .tp_dealloc = database_free,
    .tp_methods = database_methods,
};

/* A connection of Python's sqlite3, as the engine uses it. */
#include "engine.h"
#include <stdlib.h>
#include <string.h>

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

/* Database(connection, token, file): `token` is the owner's, or None without a guard. `file` is None, or the path, the inode, the size in
 * bytes and the modification time in nanoseconds of an immutable file. */
static PyObject *database_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"connection", "token", "file", NULL};
    PyObject *connection, *file;
    const char *token, *path = NULL;
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
    bool is_whole = token == NULL || copy_text(token, "", &database->token);
    if (is_whole && file != Py_None)
        is_whole = PyArg_ParseTuple(file, "sLLL:Database", &path, &database->inode, &database->size, &database->modified_ns) &&
                   copy_text(path, "", &database->file_path) && copy_text(path, "-wal", &database->log_path);
    if (is_whole)
        return (PyObject *)database;
    Py_DECREF(database);
    return NULL;
}

/* close(): free the prepared statements, without which SQLite could not close the connection. No batch may follow. */
static PyObject *database_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    Database *database = (Database *)self;
    if (database->handle != NULL)
        database_forget_statements(database);
    database->handle = NULL;
    Py_CLEAR(database->connection);
    Py_RETURN_NONE;
}

static void database_free(PyObject *self)
{
    Database *database = (Database *)self;
    Py_XDECREF(database_close(self, NULL));
    free(database->token);
    free(database->file_path);
    free(database->log_path);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef database_methods[] = {
    {"batch", database_batch, METH_VARARGS, "Return a batch of these units, or None if Python must run them."},
    {"close", database_close, METH_NOARGS, "Free the prepared statements; no batch may follow."},
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

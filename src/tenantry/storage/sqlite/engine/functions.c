/* SQLite's functions, and the handle of a Python connection.
 *
 * Theory of operation. Two SQLite libraries in one process that open one file drop each other's locks
 * (https://www.sqlite.org/howtocorrupt.html, section 2.2.1). So the engine links no library. It looks each function up in the shared object
 * of Python's `_sqlite3` and in the libraries that this object needs, which is where Python's own calls lead, unless a library that was
 * loaded earlier for the whole process has the same name. That case is refused. If Python has SQLite built in, nothing is found.
 *
 * The handle is the first field of Python's connection object after the object's head, in CPython 3.11 to 3.13. The module does not load
 * on other versions, and `attach` proves the field with connections of its own: the handle must know the statement that Python has just
 * prepared, and Python must read from a handle that it was given. A connection that Python has just made has nothing else that belongs to
 * its handle. */
#define _GNU_SOURCE
#include "engine.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct sqlite_functions sq; /* since `attach`, and unchanged then: threads read it without a lock */

typedef struct {
    PyObject_HEAD
    sqlite3 *handle;
} PythonConnection;

static PyTypeObject *connection_type; /* sqlite3.Connection, since `attach` */

sqlite3 *handle_of(PyObject *connection)
{
    if (connection_type == NULL || !PyObject_TypeCheck(connection, connection_type)) {
        PyErr_SetString(PyExc_TypeError, "the engine needs a connection of Python's sqlite3");
        return NULL;
    }
    sqlite3 *handle = ((PythonConnection *)connection)->handle;
    if (handle == NULL)
        PyErr_SetString(PyExc_ValueError, "the connection is closed");
    return handle;
}

bool give_handle(PyObject *connection, sqlite3 *handle)
{
    sqlite3 *before = handle_of(connection);
    if (before == NULL)
        return false;
    if (sq.next_stmt(before, NULL) != NULL) {
        PyErr_SetString(PyExc_ValueError, "the connection has been used");
        return false;
    }
    ((PythonConnection *)connection)->handle = handle;
    sq.close(before);
    return true;
}

sqlite3 *open_handle(const Database *database)
{
    if (database->connection == NULL) /* a file at rest */
        return database->handle;
    if (database->handle == NULL || ((const PythonConnection *)database->connection)->handle != database->handle)
        return NULL;
    return database->handle;
}

static bool find_function(void *library, const char *name, void *where)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        PyErr_Format(PyExc_OSError, "Python's sqlite3 module has SQLite built in, or an old SQLite: %s was not found in its libraries", name);
        return false;
    }
    void *first = dlsym(RTLD_DEFAULT, name);
    if (first != NULL && first != found) {
        PyErr_Format(PyExc_OSError, "another library with SQLite was loaded before that of Python's sqlite3 module: it also has %s", name);
        return false;
    }
    memcpy(where, &found, sizeof found);
    return true;
}

static bool find_functions(const char *path, struct sqlite_functions *found)
{
    /* The library is loaded already, and stays: the engine's functions are in it. */
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL) {
        PyErr_Format(PyExc_OSError, "%s is not a library of this process", path);
        return false;
    }
#define X(name, result, arguments)                                \
    if (!find_function(library, "sqlite3_" #name, &found->name)) \
        return false;
    SQLITE_FUNCTIONS(X)
#undef X
    return true;
}

static bool prove_handle(PyObject *connection)
{
    static const char text[] = "SELECT 'the engine of tenantry'";
    PyObject *cursor = PyObject_CallMethod(connection, "execute", "s", text);
    if (cursor == NULL)
        return false;
    bool is_proved = false;
    sqlite3 *handle = handle_of(connection);
    if (handle != NULL) {
        sqlite3_stmt *statement = sq.next_stmt(handle, NULL);
        is_proved = statement != NULL && strcmp(sq.sql(statement), text) == 0;
        if (!is_proved)
            PyErr_SetString(PyExc_OSError, "this Python keeps the handle of a connection at another place");
    }
    Py_DECREF(cursor);
    return is_proved;
}

/* execute(connection, script): run a script whose rows do not matter on a connection that no other thread uses; return False if SQLite has
 * refused a statement, which Python then finds again. */
PyObject *engine_execute(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *connection;
    const char *script;
    if (!PyArg_ParseTuple(arguments, "Os:execute", &connection, &script))
        return NULL;
    sqlite3 *handle = handle_of(connection);
    if (handle == NULL)
        return NULL;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sq.exec(handle, script, NULL, NULL, NULL);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(code == SQLITE_OK);
}

/* Give the connection a handle with another version of its database in memory, and let Python read the version. */
static bool prove_gift(PyObject *connection)
{
    enum { VERSION = 20261201 };
    sqlite3 *handle = NULL;
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", VERSION);
    if (sq.open_v2(":memory:", &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK ||
        sq.exec(handle, sql, NULL, NULL, NULL) != SQLITE_OK || !give_handle(connection, handle)) {
        sq.close(handle);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_OSError, "SQLite cannot open a database in memory");
        return false;
    }
    PyObject *cursor = PyObject_CallMethod(connection, "execute", "s", "PRAGMA user_version");
    PyObject *row = cursor == NULL ? NULL : PyObject_CallMethod(cursor, "fetchone", NULL);
    int found = 0;
    bool is_proved = row != NULL && PyArg_ParseTuple(row, "i", &found) && found == VERSION;
    Py_XDECREF(row);
    Py_XDECREF(cursor);
    if (!is_proved && !PyErr_Occurred())
        PyErr_SetString(PyExc_OSError, "this Python does not use the handle of a connection alone");
    return is_proved;
}

/* Open a connection of Python's to a database in memory, prove something with it, and close it. */
static bool proves(PyTypeObject *type, bool (*prove)(PyObject *))
{
    PyObject *connection = PyObject_CallFunction((PyObject *)type, "s", ":memory:");
    PyObject *closed = connection != NULL && prove(connection) ? PyObject_CallMethod(connection, "close", NULL) : NULL;
    Py_XDECREF(connection);
    Py_XDECREF(closed);
    return closed != NULL;
}

static bool attach_to(PyTypeObject *type)
{
    connection_type = type;
    if (!proves(type, prove_handle) || !proves(type, prove_gift)) {
        connection_type = NULL;
        return false;
    }
    Py_INCREF(type);
    forks_watch_sqlite();
    return true;
}

/* attach(path): use the SQLite of the shared object of `_sqlite3` with this path; OSError says why that cannot be. Return SQLite's version.
 * A second call only compares. */
PyObject *engine_attach(PyObject *module, PyObject *path)
{
    (void)module;
    struct sqlite_functions found;
    PyObject *name; /* in the file system's encoding: a path need not be UTF-8 */
    if (!PyUnicode_FSConverter(path, &name))
        return NULL;
    bool is_found = find_functions(PyBytes_AS_STRING(name), &found);
    Py_DECREF(name);
    if (!is_found)
        return NULL;
    if (connection_type != NULL) {
        if (memcmp(&found, &sq, sizeof sq) != 0)
            return PyErr_Format(PyExc_OSError, "the engine already uses the SQLite of another library than %S", path);
    } else {
        sq = found;
        PyObject *driver = PyImport_ImportModule("sqlite3");
        PyObject *type = driver == NULL ? NULL : PyObject_GetAttrString(driver, "Connection");
        bool is_attached = type != NULL && PyType_Check(type) && attach_to((PyTypeObject *)type);
        Py_XDECREF(driver);
        Py_XDECREF(type);
        if (!is_attached && !PyErr_Occurred())
            PyErr_SetString(PyExc_OSError, "sqlite3.Connection is not a class");
        if (!is_attached)
            return NULL;
    }
    return PyUnicode_FromFormat("%s %s", sq.libversion(), sq.sourceid());
}

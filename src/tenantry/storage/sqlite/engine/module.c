/* The module `tenantry.storage.sqlite.engine._engine`. */
#include "engine.h"
#include <math.h>

#if PY_VERSION_HEX < 0x030b0000 || PY_VERSION_HEX >= 0x030e0000
#error "functions.c knows the connections of CPython 3.11 to 3.13"
#endif

atomic_llong batch_counts[DROPPED + 1];
_Atomic double latest_began_seconds = -INFINITY;

/* counts(): how many batches have ended in each way since the engine was loaded. */
static PyObject *engine_counts(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{sLsLsLsL}", "ended", batch_counts[ENDED], "refused", batch_counts[REFUSED], "in_python",
                         batch_counts[IN_PYTHON], "dropped", batch_counts[DROPPED]);
}

/* began_seconds(): when the engine began its latest batch, by CLOCK_MONOTONIC; minus infinity before the first. */
static PyObject *engine_began_seconds(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyFloat_FromDouble(latest_began_seconds);
}

/* limit_results(bytes): limit the results of one batch; return the limit until now. */
static PyObject *engine_limit_results(PyObject *module, PyObject *bytes)
{
    (void)module;
    size_t limit = PyLong_AsSize_t(bytes);
    if (limit == (size_t)-1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromSize_t(atomic_exchange(&result_bytes_max, limit));
}

static PyObject *engine_configure(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *known, *fetches, *own_statement, *once_unit;
    if (!PyArg_ParseTuple(arguments, "OOO!O!:configure", &known, &fetches, &PyType_Type, &own_statement, &PyType_Type, &once_unit) ||
        !batch_configure(known, fetches, own_statement, once_unit))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"attach", engine_attach, METH_O, "Use the SQLite of the shared object of _sqlite3 with this path; return SQLite's version."},
    {"began_seconds", engine_began_seconds, METH_NOARGS, "Return when the engine began its latest batch, as time.monotonic() does."},
    {"configure", engine_configure, METH_VARARGS, "Use this dict of authorized texts, these members of Fetch, and the classes OwnStatement and OnceUnit."},
    {"counts", engine_counts, METH_NOARGS, "Return how many batches have ended, were refused, ran in Python, and were dropped."},
    {"execute", engine_execute, METH_VARARGS, "Run a script on a connection of Python; return whether SQLite has refused nothing."},
    {"limit_results", engine_limit_results, METH_O, "Limit the results of one batch to so many bytes; return the limit until now."},
    {"modified_at", engine_modified_at, METH_O, "Return the modification time of a file in nanoseconds; None without the file."},
    {"opening", engine_opening, METH_VARARGS, "Return a batch that opens a database that was closed cleanly."},
    {NULL, NULL, 0, NULL},
};

/* The number that `native.py` has, too: an extension that an older source has left behind must not be used. */
enum { INTERFACE = 9 };

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tenantry.storage.sqlite.engine._engine",
    .m_doc = "Runs batches of statements without the interpreter's lock.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__engine(void)
{
    static const struct {
        const char *name;
        PyTypeObject *type;
    } types[] = {
        {"Batch", &BatchType},         {"Database", &DatabaseType},       {"Outlet", &OutletType},
        {"ReadyQueue", &ReadyQueueType}, {"SerialQueue", &SerialQueueType}, {"Worker", &WorkerType},
    };
    if (!forks_watch())
        return PyErr_NoMemory();
    PyObject *module = PyModule_Create(&definition);
    for (size_t i = 0; module != NULL && i < sizeof types / sizeof *types; i++)
        if (PyType_Ready(types[i].type) < 0 || PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) < 0)
            Py_CLEAR(module);
    if (module != NULL && PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0)
        Py_CLEAR(module);
    return module;
}

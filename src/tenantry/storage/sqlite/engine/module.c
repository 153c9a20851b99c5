/* The module `tenantry.storage.sqlite.engine._engine`. */
#include "engine.h"

#if PY_VERSION_HEX < 0x030b0000 || PY_VERSION_HEX >= 0x030e0000
#error "functions.c knows the connections of CPython 3.11 to 3.13"
#endif

static PyObject *engine_configure(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *known, *fetches;
    if (!PyArg_ParseTuple(arguments, "OO:configure", &known, &fetches) || !batch_configure(known, fetches))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"attach", engine_attach, METH_O, "Use the SQLite of the shared object of _sqlite3 with this path; return SQLite's version."},
    {"configure", engine_configure, METH_VARARGS, "Use this dict of authorized texts, and these members of Fetch."},
    {NULL, NULL, 0, NULL},
};

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
    PyObject *module = PyModule_Create(&definition);
    for (size_t i = 0; module != NULL && i < sizeof types / sizeof *types; i++)
        if (PyType_Ready(types[i].type) < 0 || PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) < 0)
            Py_CLEAR(module);
    return module;
}

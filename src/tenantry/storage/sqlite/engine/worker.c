/* One thread of a pool, as the pool sees it. */
#include "queue.h"
#include <math.h>

static PyObject *worker_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, ":Worker", names))
        return NULL;
    Worker *worker = (Worker *)type->tp_alloc(type, 0);
    if (worker != NULL)
        worker->busy_since_seconds = INFINITY;
    return (PyObject *)worker;
}

static PyObject *worker_busy_since(PyObject *self, void *unused)
{
    (void)unused;
    return PyFloat_FromDouble(((Worker *)self)->busy_since_seconds);
}

static int worker_set_busy_since(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    double seconds = value == NULL ? NAN : PyFloat_AsDouble(value);
    if (isnan(seconds)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "busy_since_seconds is a number");
        return -1;
    }
    ((Worker *)self)->busy_since_seconds = seconds;
    return 0;
}

static PyObject *worker_is_replaced(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Worker *)self)->is_replaced);
}

static int worker_set_replaced(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    int is_true = value == NULL ? 0 : PyObject_IsTrue(value);
    if (is_true < 0)
        return -1;
    ((Worker *)self)->is_replaced = is_true != 0;
    return 0;
}

static PyGetSetDef worker_fields[] = {
    {"busy_since_seconds", worker_busy_since, worker_set_busy_since, "The start of the current job; infinity without a job.", NULL},
    {"is_replaced", worker_is_replaced, worker_set_replaced, "Whether the thread ends after its job.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject WorkerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.Worker",
    .tp_basicsize = sizeof(Worker),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "One thread, and the start time of its current job.",
    .tp_new = worker_new,
    .tp_getset = worker_fields,
};

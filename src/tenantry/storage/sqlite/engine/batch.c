/* A batch of statements, whose parameters come from Python when the batch is made.
 *
 * Theory of operation. The event loop makes a batch under the interpreter's lock, and keeps the Python objects whose bytes the parameters
 * use. Only what is plain is taken: texts that have run in Python before and so are authorized, or are tenantry's own, and parameters whose
 * class is exactly None, int, float, bool, str or bytes. For everything else `Database.batch` returns None, and the caller runs the batch in
 * Python.
 *
 * While a thread runs the batch, no Python object of it is touched. */
#include "engine.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static PyObject *known_texts;       /* the dict of authorized texts: None for a text without numbered parameters */
static PyObject *fetches[FETCHES];  /* the members of `Fetch` */
static PyObject *own_statement;     /* the class of a statement whose text needs no authorization */
static PyObject *once_unit;         /* the class of a unit that ends after its first statement if that returns a row */
static PyObject *kept_texts;        /* the texts that batches have used, which stay for ever, so that their addresses are keys */

bool batch_configure(PyObject *known, PyObject *members, PyObject *own, PyObject *once)
{
    if (!PyDict_Check(known) || !PyTuple_Check(members) || PyTuple_GET_SIZE(members) != FETCHES) {
        PyErr_SetString(PyExc_TypeError, "configure needs a dict of texts and the members of Fetch");
        return false;
    }
    if (kept_texts == NULL && (kept_texts = PyDict_New()) == NULL)
        return false;
    Py_XSETREF(known_texts, Py_NewRef(known));
    Py_XSETREF(own_statement, Py_NewRef(own));
    Py_XSETREF(once_unit, Py_NewRef(once));
    for (int i = 0; i < FETCHES; i++)
        Py_XSETREF(fetches[i], Py_NewRef(PyTuple_GET_ITEM(members, i)));
    return true;
}

/* Three answers: 1 taken, 0 not plain, -1 with an exception of Python. */

static int take_text(PyObject *text, bool is_own, Step *step)
{
    if (!PyUnicode_CheckExact(text))
        return 0;
    if (!is_own && PyDict_GetItemWithError(known_texts, text) != Py_None)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *kept = PyDict_GetItemWithError(kept_texts, text);
    if (kept == NULL) {
        if (PyErr_Occurred())
            return -1;
        if (PyDict_GET_SIZE(kept_texts) >= SQL_TEXTS_MAX)
            return 0;
        if (PyDict_SetItem(kept_texts, text, text) < 0)
            return -1;
        kept = text;
    }
    Py_ssize_t length;
    step->text = PyUnicode_AsUTF8AndSize(kept, &length);
    if (step->text == NULL || length > INT_MAX || strlen(step->text) != (size_t)length) {
        PyErr_Clear();
        return 0;
    }
    step->text_length = (int)length;
    return 1;
}

static int take_value(PyObject *object, Value *value)
{
    Py_ssize_t length = 0;
    if (object == Py_None) {
        value->type = SQLITE_NULL;
    } else if (PyUnicode_CheckExact(object)) {
        value->type = SQLITE_TEXT;
        value->as.bytes = PyUnicode_AsUTF8AndSize(object, &length);
        if (value->as.bytes == NULL) {
            PyErr_Clear(); /* a surrogate, or no memory: Python reports either */
            return 0;
        }
    } else if (PyLong_CheckExact(object) || PyBool_Check(object)) {
        int overflow;
        value->type = SQLITE_INTEGER;
        value->as.integer = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (overflow)
            return 0;
    } else if (PyFloat_CheckExact(object)) {
        value->type = SQLITE_FLOAT;
        value->as.real = PyFloat_AS_DOUBLE(object);
    } else if (PyBytes_CheckExact(object)) {
        value->type = SQLITE_BLOB;
        value->as.bytes = PyBytes_AS_STRING(object);
        length = PyBytes_GET_SIZE(object);
    } else {
        return 0;
    }
    if (length > INT_MAX)
        return 0;
    value->length = (int)length;
    return 1;
}

static int take_step(PyObject *statement, Step *step, Value **parameters, PyObject *kept)
{
    /* tenantry's `Statement` is a named tuple of name, sql, parameters and fetch. */
    PyObject *values = PyTuple_GET_ITEM(statement, 2), *fetch = PyTuple_GET_ITEM(statement, 3);
    int taken = take_text(PyTuple_GET_ITEM(statement, 1), (PyObject *)Py_TYPE(statement) == own_statement, step);
    if (taken <= 0)
        return taken;
    int member = 0;
    while (member < FETCHES && fetches[member] != fetch)
        member++;
    if (member == FETCHES || !PyTuple_CheckExact(values))
        return 0;
    step->fetch = (Fetch)member;
    step->parameter_count = (int)PyTuple_GET_SIZE(values);
    step->parameters = *parameters;
    for (int i = 0; i < step->parameter_count; i++) {
        taken = take_value(PyTuple_GET_ITEM(values, i), (*parameters)++);
        if (taken <= 0)
            return taken;
    }
    return PyList_Append(kept, values) < 0 ? -1 : 1;
}

static bool runs_once(PyObject *unit)
{
    return (PyObject *)Py_TYPE(unit) == once_unit && PyTuple_Check(unit);
}

/* Count the statements and parameters of the units; return false if a unit is neither a plain tuple nor a `OnceUnit`. */
static bool count_units(PyObject *units, Kind kind, Py_ssize_t *steps, Py_ssize_t *parameters)
{
    *steps = *parameters = 0;
    for (Py_ssize_t u = 0; u < PyList_GET_SIZE(units); u++) {
        PyObject *unit = PyList_GET_ITEM(units, u);
        Py_ssize_t count = kind == READ ? 1 : PyTuple_CheckExact(unit) || runs_once(unit) ? PyTuple_GET_SIZE(unit) : 0;
        if (count == 0)
            return false; /* a keyed or a marked unit is another subclass of tuple */
        for (Py_ssize_t i = 0; i < count; i++) {
            PyObject *statement = kind == READ ? unit : PyTuple_GET_ITEM(unit, i);
            if (!PyTuple_Check(statement) || PyTuple_GET_SIZE(statement) != 4)
                return false;
            PyObject *values = PyTuple_GET_ITEM(statement, 2);
            *parameters += PyTuple_CheckExact(values) ? PyTuple_GET_SIZE(values) : 0;
        }
        *steps += count;
    }
    return *steps > 0 && *steps < INT_MAX / 2 && *parameters < INT_MAX / 2;
}

static int take_units(Batch *batch, PyObject *units)
{
    Py_ssize_t steps, parameters;
    /* This list comes first: it is the last object that the collector could see, and the collector may run any code of Python. */
    if ((batch->kept = PyList_New(0)) == NULL)
        return -1;
    if (!count_units(units, batch->kind, &steps, &parameters))
        return 0;
    batch->unit_count = (int)PyList_GET_SIZE(units);
    batch->units = PyMem_Calloc((size_t)batch->unit_count, sizeof *batch->units);
    batch->steps = PyMem_Calloc((size_t)steps, sizeof *batch->steps);
    batch->parameters = PyMem_Calloc((size_t)parameters + 1, sizeof *batch->parameters);
    if (batch->units == NULL || batch->steps == NULL || batch->parameters == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Value *next = batch->parameters;
    for (int u = 0; u < batch->unit_count; u++) {
        PyObject *unit = PyList_GET_ITEM(units, u);
        batch->units[u].step_count = batch->kind == READ ? 1 : (int)PyTuple_GET_SIZE(unit);
        batch->units[u].runs_once = runs_once(unit);
        for (int i = 0; i < batch->units[u].step_count; i++) {
            Step *step = &batch->steps[batch->step_count++];
            int taken = take_step(batch->kind == READ ? unit : PyTuple_GET_ITEM(unit, i), step, &next, batch->kept);
            if (taken <= 0)
                return taken;
            batch->has_names |= step->fetch >= FETCH_NAMED_ONE;
        }
    }
    return 1;
}

Batch *batch_new(Kind kind)
{
    Batch *batch = PyObject_New(Batch, &BatchType);
    if (batch == NULL)
        return NULL;
    memset((char *)batch + sizeof(PyObject), 0, sizeof *batch - sizeof(PyObject));
    batch->kind = kind;
    batch->state = WAITING;
    return batch;
}

PyObject *database_batch(PyObject *self, PyObject *arguments)
{
    int kind, is_whole = false, is_inside = false;
    PyObject *units;
    if (!PyArg_ParseTuple(arguments, "iO!|pp:batch", &kind, &PyList_Type, &units, &is_whole, &is_inside))
        return NULL;
    if (known_texts == NULL || (kind != READ && kind != WRITE)) {
        PyErr_SetString(PyExc_ValueError, "the engine was not configured, or the kind of the batch is unknown");
        return NULL;
    }
    Batch *batch = batch_new((Kind)kind);
    if (batch == NULL)
        return NULL;
    batch->is_whole = is_whole;
    batch->is_inside = is_inside;
    batch->database = (Database *)Py_NewRef(self);
    int taken = take_units(batch, units);
    if (taken > 0)
        return (PyObject *)batch;
    Py_DECREF(batch);
    if (taken < 0)
        return NULL;
    Py_RETURN_NONE;
}

void batch_leave_queue(Batch *batch)
{
    Py_CLEAR(batch->future);
    Py_CLEAR(batch->function);
    Py_CLEAR(batch->queue);
}

static void batch_free(PyObject *self)
{
    Batch *batch = (Batch *)self;
    batch_leave_queue(batch);
    Py_CLEAR(batch->outlet);
    Py_CLEAR(batch->database);
    Py_CLEAR(batch->kept);
    rest_free(batch->rest);
    PyMem_Free(batch->units);
    PyMem_Free(batch->steps);
    PyMem_Free(batch->parameters);
    free(batch->commit_message);
    arena_free(&batch->arena);
    PyObject_Free(self);
}

PyTypeObject BatchType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.Batch",
    .tp_basicsize = sizeof(Batch),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Statements that run together on one connection.",
    .tp_dealloc = batch_free,
    .tp_methods = batch_methods,
    .tp_getset = batch_fields,
};

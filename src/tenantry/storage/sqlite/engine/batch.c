/* A batch of statements: its parameters come from Python when it is made, and its results go to Python when they are asked for.
 *
 * Theory of operation. The event loop makes a batch under the interpreter's lock, and keeps the Python objects whose bytes the parameters
 * use. Only what is plain is taken: texts that have run in Python before and so are authorized, and parameters whose class is exactly None,
 * int, float, bool, str or bytes. For everything else `Database.batch` returns None, and the caller runs the batch in Python.
 *
 * While a thread runs the batch, no Python object of it is touched. */
#include "engine.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static PyObject *known_texts;       /* the dict of authorized texts: None for a text without numbered parameters */
static PyObject *fetches[FETCHES];  /* the members of `Fetch` */
static PyObject *kept_texts;        /* the texts that batches have used, which stay for ever, so that their addresses are keys */

bool batch_configure(PyObject *known, PyObject *members)
{
    if (!PyDict_Check(known) || !PyTuple_Check(members) || PyTuple_GET_SIZE(members) != FETCHES) {
        PyErr_SetString(PyExc_TypeError, "configure needs a dict of texts and the members of Fetch");
        return false;
    }
    if (kept_texts == NULL && (kept_texts = PyDict_New()) == NULL)
        return false;
    Py_XSETREF(known_texts, Py_NewRef(known));
    for (int i = 0; i < FETCHES; i++)
        Py_XSETREF(fetches[i], Py_NewRef(PyTuple_GET_ITEM(members, i)));
    return true;
}

void *arena_take(Arena *arena, size_t bytes)
{
    size_t wanted = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (wanted < bytes || wanted > RESULT_BYTES_MAX - arena->bytes)
        return NULL;
    ArenaPiece *piece = arena->pieces;
    if (piece == NULL || piece->size - piece->used < wanted) {
        size_t size = wanted > ARENA_BYTES ? wanted : ARENA_BYTES;
        if ((piece = malloc(sizeof *piece + size)) == NULL)
            return NULL;
        *piece = (ArenaPiece){.next = arena->pieces, .used = 0, .size = size};
        arena->pieces = piece;
    }
    void *taken = (char *)piece->content + piece->used;
    piece->used += wanted;
    arena->bytes += wanted;
    return taken;
}

void arena_free(Arena *arena)
{
    ArenaPiece *next;
    for (ArenaPiece *piece = arena->pieces; piece != NULL; piece = next) {
        next = piece->next;
        free(piece);
    }
    *arena = (Arena){NULL, 0};
}

/* Three answers: 1 taken, 0 not plain, -1 with an exception of Python. */

static int take_text(PyObject *text, Step *step)
{
    if (!PyUnicode_CheckExact(text))
        return 0;
    PyObject *numbered = PyDict_GetItemWithError(known_texts, text);
    if (numbered != Py_None)
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
    int taken = take_text(PyTuple_GET_ITEM(statement, 1), step);
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

/* Count the statements and parameters of the units; return false if a unit is no plain tuple of statements. */
static bool count_units(PyObject *units, Kind kind, Py_ssize_t *steps, Py_ssize_t *parameters)
{
    *steps = *parameters = 0;
    for (Py_ssize_t u = 0; u < PyList_GET_SIZE(units); u++) {
        PyObject *unit = PyList_GET_ITEM(units, u);
        Py_ssize_t count = kind == READ ? 1 : PyTuple_CheckExact(unit) ? PyTuple_GET_SIZE(unit) : 0;
        if (count == 0)
            return false; /* a keyed or a marked unit is a subclass of tuple */
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
    if (!count_units(units, batch->kind, &steps, &parameters))
        return 0;
    batch->unit_count = (int)PyList_GET_SIZE(units);
    batch->unit_sizes = PyMem_Calloc((size_t)batch->unit_count, sizeof *batch->unit_sizes);
    batch->steps = PyMem_Calloc((size_t)steps, sizeof *batch->steps);
    batch->parameters = PyMem_Calloc((size_t)parameters + 1, sizeof *batch->parameters);
    batch->kept = PyList_New(0);
    if (batch->unit_sizes == NULL || batch->steps == NULL || batch->parameters == NULL || batch->kept == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Value *next = batch->parameters;
    for (int u = 0; u < batch->unit_count; u++) {
        PyObject *unit = PyList_GET_ITEM(units, u);
        batch->unit_sizes[u] = batch->kind == READ ? 1 : (int)PyTuple_GET_SIZE(unit);
        for (int i = 0; i < batch->unit_sizes[u]; i++) {
            Step *step = &batch->steps[batch->step_count++];
            int taken = take_step(batch->kind == READ ? unit : PyTuple_GET_ITEM(unit, i), step, &next, batch->kept);
            if (taken <= 0)
                return taken;
            batch->has_names |= step->fetch >= FETCH_NAMED_ONE;
        }
    }
    return 1;
}

PyObject *database_batch(PyObject *self, PyObject *arguments)
{
    int kind;
    PyObject *units;
    if (!PyArg_ParseTuple(arguments, "iO!:batch", &kind, &PyList_Type, &units))
        return NULL;
    if (known_texts == NULL || (kind != READ && kind != WRITE)) {
        PyErr_SetString(PyExc_ValueError, "the engine was not configured, or the kind of the batch is unknown");
        return NULL;
    }
    Batch *batch = PyObject_New(Batch, &BatchType);
    if (batch == NULL)
        return NULL;
    memset((char *)batch + sizeof(PyObject), 0, sizeof *batch - sizeof(PyObject));
    batch->kind = (Kind)kind;
    batch->database = (Database *)Py_NewRef(self);
    int taken = take_units(batch, units);
    if (taken > 0)
        return (PyObject *)batch;
    Py_DECREF(batch);
    if (taken < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *value_of(const Value *value)
{
    switch (value->type) {
    case SQLITE_INTEGER:
        return PyLong_FromLongLong(value->as.integer);
    case SQLITE_FLOAT:
        return PyFloat_FromDouble(value->as.real);
    case SQLITE_TEXT: /* run.c has checked the UTF-8 */
        return PyUnicode_DecodeUTF8(value->as.bytes, value->length, "strict");
    case SQLITE_BLOB:
        return PyBytes_FromStringAndSize(value->as.bytes, value->length);
    default:
        return Py_NewRef(Py_None);
    }
}

static PyObject *row_of(const Step *step, size_t row)
{
    PyObject *values = PyTuple_New(step->column_count);
    for (int i = 0; values != NULL && i < step->column_count; i++) {
        PyObject *value = value_of(&step->rows[row * (size_t)step->column_count + (size_t)i]);
        if (value == NULL)
            Py_CLEAR(values);
        else
            PyTuple_SET_ITEM(values, i, value);
    }
    return values;
}

static PyObject *rows_of(const Step *step)
{
    PyObject *rows = PyList_New((Py_ssize_t)step->row_count);
    for (size_t i = 0; rows != NULL && i < step->row_count; i++) {
        PyObject *row = row_of(step, i);
        if (row == NULL)
            Py_CLEAR(rows);
        else
            PyList_SET_ITEM(rows, (Py_ssize_t)i, row);
    }
    return rows;
}

/* The names of the columns and all rows, from which Python makes rows with names. */
static PyObject *named_of(const Step *step)
{
    PyObject *names = PyTuple_New(step->column_count), *rows = rows_of(step);
    for (int i = 0; names != NULL && i < step->column_count; i++) {
        PyObject *name = PyUnicode_FromString(step->column_names[i]);
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, i, name);
    }
    PyObject *pair = names == NULL || rows == NULL ? NULL : PyTuple_Pack(2, names, rows);
    Py_XDECREF(names);
    Py_XDECREF(rows);
    return pair;
}

static PyObject *result_of(const Step *step)
{
    if (step->error_code != SQLITE_OK)
        return Py_NewRef(Py_None); /* Python puts the error in its place, see `errors` */
    switch (step->fetch) {
    case FETCH_ROWCOUNT:
        return PyLong_FromLong(step->changes);
    case FETCH_ONE:
        return step->row_count ? row_of(step, 0) : Py_NewRef(Py_None);
    case FETCH_ALL:
        return rows_of(step);
    case FETCH_NAMED_ONE:
    case FETCH_NAMED_ALL:
        return named_of(step);
    default:
        return Py_NewRef(Py_None);
    }
}

static PyObject *unit_results(const Step *steps, int count)
{
    PyObject *results = PyList_New(count);
    for (int i = 0; results != NULL && i < count; i++) {
        PyObject *result = result_of(&steps[i]);
        if (result == NULL)
            Py_CLEAR(results);
        else
            PyList_SET_ITEM(results, i, result);
    }
    return results;
}

/* results(): for a read one result for each statement; for a write a list of results for each unit. */
static PyObject *batch_results(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Batch *batch = (const Batch *)self;
    if (batch->state != ENDED) {
        PyErr_SetString(PyExc_ValueError, "the batch has no results");
        return NULL;
    }
    if (batch->kind == READ)
        return unit_results(batch->steps, batch->step_count);
    PyObject *results = PyList_New(batch->unit_count);
    const Step *next = batch->steps;
    for (int u = 0; results != NULL && u < batch->unit_count; u++) {
        PyObject *unit = unit_results(next, batch->unit_sizes[u]);
        next += batch->unit_sizes[u];
        if (unit == NULL)
            Py_CLEAR(results);
        else
            PyList_SET_ITEM(results, u, unit);
    }
    return results;
}

/* errors(): (unit, code, message) of each unit that was refused by a constraint. */
static PyObject *batch_errors(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Batch *batch = (const Batch *)self;
    PyObject *errors = PyList_New(0);
    const Step *next = batch->steps;
    for (int u = 0; errors != NULL && u < batch->unit_count; next += batch->unit_sizes[u++]) {
        if (next->error_code == SQLITE_OK)
            continue;
        PyObject *error = Py_BuildValue("iiy", u, next->error_code, next->error_message);
        if (error == NULL || PyList_Append(errors, error) < 0)
            Py_CLEAR(errors);
        Py_XDECREF(error);
    }
    return errors;
}

/* refusal(): (code, message) of the commit that failed; None if the batch was committed. */
static PyObject *batch_refusal(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Batch *batch = (const Batch *)self;
    if (batch->state != REFUSED)
        Py_RETURN_NONE;
    return Py_BuildValue("iy", batch->commit_code, batch->commit_message ? batch->commit_message : "");
}

static PyObject *batch_has_names(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Batch *)self)->has_names);
}

static PyObject *batch_has_errors(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Batch *)self)->error_count > 0);
}

static void batch_free(PyObject *self)
{
    Batch *batch = (Batch *)self;
    Py_CLEAR(batch->future);
    Py_CLEAR(batch->function);
    Py_CLEAR(batch->outlet);
    Py_CLEAR(batch->database);
    Py_CLEAR(batch->kept);
    PyMem_Free(batch->unit_sizes);
    PyMem_Free(batch->steps);
    PyMem_Free(batch->parameters);
    free(batch->commit_message);
    arena_free(&batch->arena);
    PyObject_Free(self);
}

static PyMethodDef batch_methods[] = {
    {"results", batch_results, METH_NOARGS, "Return the results of a batch that has ended."},
    {"errors", batch_errors, METH_NOARGS, "Return (unit, code, message) of each unit that a constraint has refused."},
    {"refusal", batch_refusal, METH_NOARGS, "Return (code, message) of a commit that failed; None otherwise."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef batch_fields[] = {
    {"has_names", batch_has_names, NULL, "Whether a statement has a fetch with names.", NULL},
    {"has_errors", batch_has_errors, NULL, "Whether a constraint has refused a unit.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject BatchType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.Batch",
    .tp_basicsize = sizeof(Batch),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Statements that run together on one connection.",
    .tp_dealloc = batch_free,
    .tp_methods = batch_methods,
    .tp_getset = batch_fields,
};

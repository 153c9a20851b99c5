/* The results of a batch as Python objects, built on the event loop when they are asked for. */
#include "engine.h"

static PyObject *value_of(const Value *value)
{
    switch (value->type) {
    case SQLITE_INTEGER:
        return PyLong_FromLongLong(value->as.integer);
    case SQLITE_FLOAT:
        return PyFloat_FromDouble(value->as.real);
    case SQLITE_TEXT: /* rows.c has checked the UTF-8, but not of a long text of a read */
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

/* Return the batch if it has results: then no thread touches it any more. */
static const Batch *ended(PyObject *self)
{
    const Batch *batch = (const Batch *)self;
    if (batch->state == ENDED && batch->rest == NULL)
        return batch;
    PyErr_SetString(PyExc_ValueError, "the batch has no results");
    return NULL;
}

/* results(): for a read one result for each statement; for a write a list of results for each unit. */
static PyObject *batch_results(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Batch *batch = ended(self);
    if (batch == NULL)
        return NULL;
    if (batch->kind == READ)
        return unit_results(batch->steps, batch->step_count);
    PyObject *results = PyList_New(batch->unit_count);
    const Step *next = batch->steps;
    for (int u = 0; results != NULL && u < batch->unit_count; u++) {
        PyObject *unit = unit_results(next, batch->units[u].step_count);
        next += batch->units[u].step_count;
        if (unit == NULL)
            Py_CLEAR(results);
        else
            PyList_SET_ITEM(results, u, unit);
    }
    return results;
}

/* errors(): (unit, code, message) of each unit that was refused by a constraint, even if the commit failed later. */
static PyObject *batch_errors(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Batch *batch = ((const Batch *)self)->state == REFUSED ? (const Batch *)self : ended(self);
    PyObject *errors = batch == NULL ? NULL : PyList_New(0);
    if (errors == NULL)
        return NULL;
    const Step *next = batch->steps;
    for (int u = 0; errors != NULL && u < batch->unit_count; next += batch->units[u++].step_count) {
        if (next->error_code == SQLITE_OK)
            continue;
        PyObject *error = Py_BuildValue("iiy", u, next->error_code, next->error_message);
        if (error == NULL || PyList_Append(errors, error) < 0)
            Py_CLEAR(errors);
        Py_XDECREF(error);
    }
    return errors;
}

/* refusal(): (code, message) of the commit, or of the lock, that failed; None if the batch was committed. */
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
    const Batch *batch = (const Batch *)self;
    return PyBool_FromLong((batch->state == ENDED || batch->state == REFUSED) && batch->error_count > 0);
}

PyMethodDef batch_methods[] = {
    {"results", batch_results, METH_NOARGS, "Return the results of a batch that has ended."},
    {"errors", batch_errors, METH_NOARGS, "Return (unit, code, message) of each unit that a constraint has refused."},
    {"refusal", batch_refusal, METH_NOARGS, "Return (code, message) of a commit that failed; None otherwise."},
    {"opened", batch_opened, METH_NOARGS, "Return the database, the identity and the row of the file that the batch has opened."},
    {"pass_lock", batch_pass_lock, METH_NOARGS, "Return the descriptor of the lock of the file that the batch has opened."},
    {NULL, NULL, 0, NULL},
};

PyGetSetDef batch_fields[] = {
    {"has_names", batch_has_names, NULL, "Whether a statement has a fetch with names.", NULL},
    {"has_errors", batch_has_errors, NULL, "Whether a constraint has refused a unit.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* The queue of each connection; see queue.h. */
#include "queue.h"
#include <stdlib.h>

static bool is_inherited(const SerialQueue *queue)
{
    if (queue->ready->forks == engine_forks)
        return false;
    PyErr_SetString(PyExc_ValueError, "the queue belongs to the process from which this process was forked");
    return true;
}

static bool put(SerialQueue *queue, PyObject *object, bool is_batch)
{
    if (is_inherited(queue))
        return false;
    Job *job = malloc(sizeof *job);
    if (job == NULL) {
        PyErr_NoMemory();
        return false;
    }
    *job = (Job){NULL, Py_NewRef(object), is_batch};
    Py_INCREF(queue);
    ready_lock(queue->ready);
    if (queue->first == NULL)
        queue->first = job;
    else
        queue->last->next = job;
    queue->last = job;
    queue->count++;
    if (atomic_fetch_add(&jobs_left, 1) > 0)
        lone_jobs_in_a_row = 0;
    else if (lone_jobs_in_a_row < LONE_JOBS_MIN)
        lone_jobs_in_a_row++;
    bool is_needed = queue->state == IDLE && ready_append(queue->ready, queue);
    ready_unlock(queue->ready);
    if (is_needed)
        ready_wake(queue->ready);
    return true;
}

Job *queue_pop(SerialQueue *queue)
{
    Job *job = queue->first;
    queue->first = job->next;
    if (queue->first == NULL) {
        queue->last = NULL;
        queue->state = IDLE;
    }
    queue->count--;
    jobs_left--;
    return job;
}

/* SerialQueue.put_nowait(job): add a pair (future, function). */
static PyObject *serial_put_nowait(PyObject *self, PyObject *job)
{
    if (!PyTuple_CheckExact(job) || PyTuple_GET_SIZE(job) != 2) {
        PyErr_SetString(PyExc_TypeError, "a job is a pair (future, function)");
        return NULL;
    }
    if (!put((SerialQueue *)self, job, false))
        return NULL;
    Py_RETURN_NONE;
}

/* SerialQueue.put_batch(batch, future, function, outlet): add a batch; the function runs if the batch has to run in Python. */
static PyObject *serial_put_batch(PyObject *self, PyObject *arguments)
{
    Batch *batch;
    Outlet *outlet;
    PyObject *future, *function;
    if (!PyArg_ParseTuple(arguments, "O!OOO!:put_batch", &BatchType, &batch, &future, &function, &OutletType, &outlet))
        return NULL;
    if (batch->outlet != NULL) {
        PyErr_SetString(PyExc_ValueError, "the batch has run, or waits to run");
        return NULL;
    }
    if (is_inherited((SerialQueue *)self))
        return NULL;
    batch->future = Py_NewRef(future);
    batch->function = Py_NewRef(function);
    batch->outlet = (Outlet *)Py_NewRef((PyObject *)outlet);
    batch->queue = self; /* the reference is the one that `put` takes */
    if (put((SerialQueue *)self, (PyObject *)batch, true))
        Py_RETURN_NONE;
    batch->queue = NULL;
    return NULL;
}

/* Return the first job of a queue that a thread of Python has; otherwise set an exception. */
static Job *lent_job(SerialQueue *queue)
{
    if (is_inherited(queue))
        return NULL;
    ready_lock(queue->ready);
    Job *first = queue->state == LENT ? queue->first : NULL;
    ready_unlock(queue->ready);
    if (first == NULL)
        PyErr_SetString(PyExc_IndexError, "the queue has no job that a thread runs in Python");
    return first;
}

/* SerialQueue.first(): the future and the function of the first job, for the thread that got the queue. */
static PyObject *serial_first(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Job *job = lent_job((SerialQueue *)self);
    if (job == NULL || !job->is_batch)
        return job == NULL ? NULL : Py_NewRef(job->object);
    const Batch *batch = (const Batch *)job->object;
    return PyTuple_Pack(2, batch->future, batch->function);
}

/* SerialQueue.remove_first(): remove the first job; return whether there are more, and the queue must be put back. */
static PyObject *serial_remove_first(PyObject *self, PyObject *unused)
{
    (void)unused;
    SerialQueue *queue = (SerialQueue *)self;
    if (lent_job(queue) == NULL)
        return NULL;
    ready_lock(queue->ready);
    Job *job = queue_pop(queue);
    bool has_more = queue->first != NULL;
    ready_unlock(queue->ready);
    if (job->is_batch) {
        batch_leave_queue((Batch *)job->object); /* with the job's reference; the caller has one of its own */
    } else {
        Py_DECREF(queue);
    }
    Py_DECREF(job->object);
    free(job);
    return PyBool_FromLong(has_more);
}

static PyObject *serial_qsize(PyObject *self, PyObject *unused)
{
    (void)unused;
    SerialQueue *queue = (SerialQueue *)self;
    if (!ready_lock(queue->ready))
        return PyLong_FromSsize_t(queue->count);
    Py_ssize_t count = queue->count;
    ready_unlock(queue->ready);
    return PyLong_FromSsize_t(count);
}

/* SerialQueue.interrupt(batch): give a batch up, and return whether it runs now: then its statements are interrupted. Under the mutex the
 * batch cannot end, so the interrupt cannot reach a later job. */
static PyObject *serial_interrupt(PyObject *self, PyObject *object)
{
    if (!PyObject_TypeCheck(object, &BatchType)) {
        PyErr_SetString(PyExc_TypeError, "interrupt needs a Batch");
        return NULL;
    }
    SerialQueue *queue = (SerialQueue *)self;
    Batch *batch = (Batch *)object;
    batch->is_cancelled = true;
    if (!ready_lock(queue->ready))
        Py_RETURN_FALSE;
    bool is_running = queue->running == batch;
    if (is_running && batch->rest == NULL && open_handle(batch->database) != NULL)
        sq.interrupt(batch->database->handle);
    ready_unlock(queue->ready);
    return PyBool_FromLong(is_running);
}

static PyObject *serial_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"ready", NULL};
    PyObject *ready;
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "O!:SerialQueue", names, &ReadyQueueType, &ready))
        return NULL;
    SerialQueue *queue = (SerialQueue *)type->tp_alloc(type, 0);
    if (queue != NULL)
        queue->ready = (ReadyQueue *)Py_NewRef(ready);
    return (PyObject *)queue;
}

static void serial_free(PyObject *self)
{
    /* Each job holds a reference to the queue, so the queue has no job now. */
    Py_XDECREF(((SerialQueue *)self)->ready);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef serial_methods[] = {
    {"put_nowait", serial_put_nowait, METH_O, "Add a pair (future, function)."},
    {"put_batch", serial_put_batch, METH_VARARGS, "Add a batch, and what to do if it must run in Python."},
    {"first", serial_first, METH_NOARGS, "Return the future and the function of the first job."},
    {"remove_first", serial_remove_first, METH_NOARGS, "Remove the first job; return whether there are more."},
    {"qsize", serial_qsize, METH_NOARGS, "Return the number of waiting and running jobs."},
    {"interrupt", serial_interrupt, METH_O, "Give a batch up; return whether it runs now."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject SerialQueueType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.SerialQueue",
    .tp_basicsize = sizeof(SerialQueue),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The jobs of one connection, which run in order and one at a time.",
    .tp_new = serial_new,
    .tp_dealloc = serial_free,
    .tp_methods = serial_methods,
};

/* The queue of each connection, and the queue of the connections that have something to do.
 *
 * Theory of operation. The jobs of a connection run in order and one at a time. A job is a pair (future, function) of Python, or a batch. A
 * connection's queue that has jobs is in the ready queue once, or with the one thread that runs its first job. A thread waits in
 * `ReadyQueue.get` without the interpreter's lock, and runs the batches that come first there. `get` returns only for a job of Python:
 * the thread calls `first`, runs the function, calls `remove_first`, and puts a queue that has more jobs back.
 *
 * The mutex of the ready queue protects all its connections' queues. Each job holds a reference to its queue, because a thread without the
 * interpreter's lock could neither take nor drop one: that of a batch goes on with the batch, to the event loop. So a thread does not
 * touch a queue after it has passed the queue's last batch on. */
#include "engine.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

typedef struct Job {
    struct Job *next;
    PyObject *object; /* a tuple, or a batch */
    bool is_batch;
} Job;

struct ReadyQueue;

typedef struct SerialQueue {
    PyObject_HEAD
    struct ReadyQueue *ready;
    /* Under the mutex of the ready queue: */
    Job *first, *last;
    Py_ssize_t count;
    bool is_scheduled;
    Batch *running;
    struct SerialQueue *next;
} SerialQueue;

typedef struct ReadyQueue {
    PyObject_HEAD
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    /* Under the mutex: */
    SerialQueue *first, *last;
    int waiting; /* threads */
    int stops;   /* threads that are to end */
} ReadyQueue;

typedef struct {
    PyObject_HEAD
    _Atomic double busy_since_seconds;
    atomic_bool is_replaced;
} Worker;

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Append a queue to the ready queue, under the mutex. */
static void schedule(ReadyQueue *ready, SerialQueue *queue)
{
    queue->next = NULL;
    if (ready->first == NULL)
        ready->first = queue;
    else
        ready->last->next = queue;
    ready->last = queue;
    if (ready->waiting)
        pthread_cond_signal(&ready->condition);
}

static bool put(SerialQueue *queue, PyObject *object, bool is_batch)
{
    Job *job = malloc(sizeof *job);
    if (job == NULL) {
        PyErr_NoMemory();
        return false;
    }
    *job = (Job){NULL, Py_NewRef(object), is_batch};
    Py_INCREF(queue);
    pthread_mutex_lock(&queue->ready->mutex);
    if (queue->first == NULL)
        queue->first = job;
    else
        queue->last->next = job;
    queue->last = job;
    queue->count++;
    if (!queue->is_scheduled) {
        queue->is_scheduled = true;
        schedule(queue->ready, queue);
    }
    pthread_mutex_unlock(&queue->ready->mutex);
    return true;
}

/* Take the first job out, under the mutex; the caller has its memory and its reference afterwards. */
static Job *pop(SerialQueue *queue)
{
    Job *job = queue->first;
    queue->first = job->next;
    if (queue->first == NULL) {
        queue->last = NULL;
        queue->is_scheduled = false;
    }
    queue->count--;
    return job;
}

/* Run the batch that is the first job of a queue, under the mutex but for the run itself. */
static void run_first(ReadyQueue *ready, SerialQueue *queue, Batch *batch)
{
    BatchState state = DROPPED;
    if (!batch->is_cancelled) {
        batch->state = RUNNING;
        queue->running = batch;
        pthread_mutex_unlock(&ready->mutex);
        state = batch_run(batch);
        pthread_mutex_lock(&ready->mutex);
        queue->running = NULL;
        if (state == IN_PYTHON && batch->is_cancelled)
            state = DROPPED; /* it was rolled back, and nobody waits for it */
    }
    batch->state = state;
}

/* Wait for a queue whose first job is Python's, and run batches meanwhile; NULL if the thread is to end. */
static SerialQueue *next_of_python(ReadyQueue *ready, Worker *worker)
{
    SerialQueue *found = NULL;
    pthread_mutex_lock(&ready->mutex);
    while (!worker->is_replaced) {
        while (ready->first == NULL && !ready->stops) {
            ready->waiting++;
            pthread_cond_wait(&ready->condition, &ready->mutex);
            ready->waiting--;
        }
        SerialQueue *queue = ready->first;
        if (queue == NULL) {
            ready->stops--;
            break;
        }
        ready->first = queue->next;
        Batch *batch = queue->first->is_batch ? (Batch *)queue->first->object : NULL;
        worker->busy_since_seconds = now_seconds();
        if (batch != NULL && batch->state == WAITING)
            run_first(ready, queue, batch);
        if (batch == NULL || batch->state == IN_PYTHON) {
            found = queue;
            break;
        }
        worker->busy_since_seconds = INFINITY;
        Job *job = pop(queue);
        if (queue->first != NULL)
            schedule(ready, queue);
        pthread_mutex_unlock(&ready->mutex);
        free(job);
        outlet_put(batch->outlet, batch);
        pthread_mutex_lock(&ready->mutex);
    }
    pthread_mutex_unlock(&ready->mutex);
    return found;
}

/* ReadyQueue.get(worker): a queue whose first job is Python's; None if the thread is to end. */
static PyObject *ready_get(PyObject *self, PyObject *worker)
{
    if (!PyObject_TypeCheck(worker, &WorkerType)) {
        PyErr_SetString(PyExc_TypeError, "get needs a Worker");
        return NULL;
    }
    SerialQueue *queue;
    Py_BEGIN_ALLOW_THREADS
    queue = next_of_python((ReadyQueue *)self, (Worker *)worker);
    Py_END_ALLOW_THREADS
    return Py_NewRef(queue == NULL ? Py_None : (PyObject *)queue);
}

/* ReadyQueue.put(queue): the queue has more jobs; put(None) ends one thread. */
static PyObject *ready_put(PyObject *self, PyObject *queue)
{
    ReadyQueue *ready = (ReadyQueue *)self;
    if (queue != Py_None && !PyObject_TypeCheck(queue, &SerialQueueType)) {
        PyErr_SetString(PyExc_TypeError, "put needs a SerialQueue or None");
        return NULL;
    }
    pthread_mutex_lock(&ready->mutex);
    if (queue != Py_None) {
        schedule(ready, (SerialQueue *)queue);
    } else {
        ready->stops++;
        pthread_cond_signal(&ready->condition);
    }
    pthread_mutex_unlock(&ready->mutex);
    Py_RETURN_NONE;
}

static PyObject *ready_empty(PyObject *self, PyObject *unused)
{
    (void)unused;
    ReadyQueue *ready = (ReadyQueue *)self;
    pthread_mutex_lock(&ready->mutex);
    bool is_empty = ready->first == NULL;
    pthread_mutex_unlock(&ready->mutex);
    return PyBool_FromLong(is_empty);
}

static PyObject *ready_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, ":ReadyQueue", names))
        return NULL;
    ReadyQueue *ready = (ReadyQueue *)type->tp_alloc(type, 0);
    if (ready != NULL) {
        pthread_mutex_init(&ready->mutex, NULL);
        pthread_cond_init(&ready->condition, NULL);
    }
    return (PyObject *)ready;
}

static void ready_free(PyObject *self)
{
    /* The mutex and the condition hold no memory. A forked child may find the mutex locked, so it is not destroyed. */
    Py_TYPE(self)->tp_free(self);
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
    batch->future = Py_NewRef(future);
    batch->function = Py_NewRef(function);
    batch->outlet = (Outlet *)Py_NewRef((PyObject *)outlet);
    batch->queue = self; /* the reference is the one that `put` takes */
    if (put((SerialQueue *)self, (PyObject *)batch, true))
        Py_RETURN_NONE;
    batch->queue = NULL;
    return NULL;
}

static Job *first_job(SerialQueue *queue)
{
    pthread_mutex_lock(&queue->ready->mutex);
    Job *first = queue->first;
    pthread_mutex_unlock(&queue->ready->mutex);
    if (first == NULL)
        PyErr_SetString(PyExc_IndexError, "the queue has no job");
    return first;
}

/* SerialQueue.first(): the future and the function of the first job, for the thread that got the queue. */
static PyObject *serial_first(PyObject *self, PyObject *unused)
{
    (void)unused;
    const Job *job = first_job((SerialQueue *)self);
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
    if (first_job(queue) == NULL)
        return NULL;
    pthread_mutex_lock(&queue->ready->mutex);
    Job *job = pop(queue);
    bool has_more = queue->first != NULL;
    pthread_mutex_unlock(&queue->ready->mutex);
    if (job->is_batch) {
        Batch *batch = (Batch *)job->object;
        Py_CLEAR(batch->future);
        Py_CLEAR(batch->function);
        batch->queue = NULL;
    }
    Py_DECREF(job->object);
    free(job);
    Py_DECREF(queue); /* the job's reference; the caller has one of its own */
    return PyBool_FromLong(has_more);
}

static PyObject *serial_qsize(PyObject *self, PyObject *unused)
{
    (void)unused;
    SerialQueue *queue = (SerialQueue *)self;
    pthread_mutex_lock(&queue->ready->mutex);
    Py_ssize_t count = queue->count;
    pthread_mutex_unlock(&queue->ready->mutex);
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
    pthread_mutex_lock(&queue->ready->mutex);
    bool is_running = queue->running == batch;
    if (is_running)
        sq.interrupt(batch->database->handle);
    pthread_mutex_unlock(&queue->ready->mutex);
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
    /* Each job holds a reference, so there is none. */
    Py_XDECREF(((SerialQueue *)self)->ready);
    Py_TYPE(self)->tp_free(self);
}

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

static PyMethodDef ready_methods[] = {
    {"get", ready_get, METH_O, "Return a queue whose first job is Python's; None if the thread is to end."},
    {"put", ready_put, METH_O, "Append a queue that has more jobs; None ends one thread."},
    {"empty", ready_empty, METH_NOARGS, "Return whether no queue waits for a thread."},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef serial_methods[] = {
    {"put_nowait", serial_put_nowait, METH_O, "Add a pair (future, function)."},
    {"put_batch", serial_put_batch, METH_VARARGS, "Add a batch, and what to do if it must run in Python."},
    {"first", serial_first, METH_NOARGS, "Return the future and the function of the first job."},
    {"remove_first", serial_remove_first, METH_NOARGS, "Remove the first job; return whether there are more."},
    {"qsize", serial_qsize, METH_NOARGS, "Return the number of waiting and running jobs."},
    {"interrupt", serial_interrupt, METH_O, "Give a batch up; return whether it runs now."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef worker_fields[] = {
    {"busy_since_seconds", worker_busy_since, worker_set_busy_since, "The start of the current job; infinity without a job.", NULL},
    {"is_replaced", worker_is_replaced, worker_set_replaced, "Whether the thread ends after its job.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject ReadyQueueType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.ReadyQueue",
    .tp_basicsize = sizeof(ReadyQueue),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The connections' queues that have jobs; threads wait here.",
    .tp_new = ready_new,
    .tp_dealloc = ready_free,
    .tp_methods = ready_methods,
};

PyTypeObject SerialQueueType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.SerialQueue",
    .tp_basicsize = sizeof(SerialQueue),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_doc = "The jobs of one connection, which run in order and one at a time.",
    .tp_new = serial_new,
    .tp_dealloc = serial_free,
    .tp_methods = serial_methods,
};

PyTypeObject WorkerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.Worker",
    .tp_basicsize = sizeof(Worker),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_doc = "One thread, and the start time of its current job.",
    .tp_new = worker_new,
    .tp_getset = worker_fields,
};

/* The batches of one event loop that have ended.
 *
 * Theory of operation. A thread appends its batch, and writes to the eventfd only if the list was empty. The event loop, which watches the
 * eventfd, takes all batches that are there. So a burst of batches wakes the loop once. */
#include "engine.h"
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Wake the event loop, under the mutex, so that `close` cannot close the descriptor. An eventfd takes 2^64 - 2 such writes without a read. */
static void wake(const Outlet *outlet)
{
    uint64_t one = 1;
    while (write(outlet->eventfd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

bool outlet_put(Outlet *outlet, Batch *batch)
{
    batch->next = NULL;
    pthread_mutex_lock(&outlet->mutex);
    bool is_open = outlet->eventfd >= 0;
    if (is_open) {
        bool was_empty = outlet->first == NULL;
        if (was_empty)
            outlet->first = batch;
        else
            outlet->last->next = batch;
        outlet->last = batch;
        if (was_empty)
            wake(outlet);
    }
    pthread_mutex_unlock(&outlet->mutex);
    return is_open;
}

static bool is_inherited(const Outlet *outlet)
{
    return outlet->forks != engine_forks;
}

/* Take all batches out. An inherited outlet has none: the parent's loop takes them, and what a child reads from the eventfd would never
 * wake the parent. */
static Batch *taken(Outlet *outlet)
{
    uint64_t count;
    if (is_inherited(outlet))
        return NULL;
    pthread_mutex_lock(&outlet->mutex);
    while (outlet->eventfd >= 0 && read(outlet->eventfd, &count, sizeof count) < 0 && errno == EINTR)
        ;
    Batch *first = outlet->first;
    outlet->first = outlet->last = NULL;
    pthread_mutex_unlock(&outlet->mutex);
    return first;
}

/* Put batches, for which there was no memory, back before all others. */
static void put_back(Outlet *outlet, Batch *first)
{
    Batch *last = first;
    while (last->next != NULL)
        last = last->next;
    pthread_mutex_lock(&outlet->mutex);
    last->next = outlet->first;
    if (outlet->first == NULL)
        outlet->last = last;
    outlet->first = first;
    if (outlet->eventfd >= 0)
        wake(outlet);
    pthread_mutex_unlock(&outlet->mutex);
}

static bool add_pair(PyObject *pairs, Batch *batch)
{
    PyObject *pair = PyTuple_Pack(2, batch->future, (PyObject *)batch);
    bool is_added = pair != NULL && PyList_Append(pairs, pair) == 0;
    Py_XDECREF(pair);
    return is_added;
}

/* take(): a list of the pairs (future, batch) of the batches that have ended. The batches forget their futures and functions. */
static PyObject *outlet_take(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *pairs = PyList_New(0);
    if (pairs == NULL)
        return NULL;
    Batch *next;
    for (Batch *batch = taken((Outlet *)self); batch != NULL; batch = next) {
        next = batch->next;
        if (!add_pair(pairs, batch)) {
            put_back((Outlet *)self, batch);
            break;
        }
        batch_leave_queue(batch);
        Py_DECREF(batch); /* the reference that the queue had */
    }
    if (!PyErr_Occurred() || PyList_GET_SIZE(pairs) > 0) {
        PyErr_Clear(); /* no memory: the loop calls again for the other batches */
        return pairs;
    }
    Py_DECREF(pairs);
    return NULL;
}

static PyObject *outlet_fileno(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLong(((Outlet *)self)->eventfd);
}

/* close(): drop the batches whose event loop has ended, and close the eventfd. Batches that end later are dropped at once. */
static PyObject *outlet_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    Outlet *outlet = (Outlet *)self;
    Batch *next;
    if (is_inherited(outlet)) {
        if (outlet->eventfd >= 0)
            close(outlet->eventfd); /* the parent has its own descriptor */
        outlet->eventfd = -1;
        Py_RETURN_NONE;
    }
    pthread_mutex_lock(&outlet->mutex);
    if (outlet->eventfd >= 0)
        close(outlet->eventfd);
    outlet->eventfd = -1;
    pthread_mutex_unlock(&outlet->mutex);
    for (Batch *batch = taken(outlet); batch != NULL; batch = next) {
        next = batch->next;
        batch_leave_queue(batch);
        Py_DECREF(batch);
    }
    Py_RETURN_NONE;
}

static PyObject *outlet_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, ":Outlet", names))
        return NULL;
    Outlet *outlet = (Outlet *)type->tp_alloc(type, 0);
    if (outlet == NULL)
        return NULL;
    outlet->forks = engine_forks;
    pthread_mutex_init(&outlet->mutex, NULL); /* always returns 0 on Linux, see pthread_mutex_init(3) */
    outlet->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (outlet->eventfd < 0) {
        Py_DECREF(outlet);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)outlet;
}

static void outlet_free(PyObject *self)
{
    Outlet *outlet = (Outlet *)self;
    if (outlet->eventfd >= 0)
        close(outlet->eventfd);
    /* Each batch in the list would keep the outlet, so the list is empty, and no thread uses the mutex. An inherited mutex may be locked. */
    if (!is_inherited(outlet))
        pthread_mutex_destroy(&outlet->mutex);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef outlet_methods[] = {
    {"take", outlet_take, METH_NOARGS, "Return the pairs (future, batch) of the batches that have ended."},
    {"fileno", outlet_fileno, METH_NOARGS, "Return the descriptor that is readable while batches have ended."},
    {"close", outlet_close, METH_NOARGS, "Drop the batches that have ended, and close the descriptor."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject OutletType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tenantry.storage.sqlite.engine._engine.Outlet",
    .tp_basicsize = sizeof(Outlet),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The batches of one event loop that have ended.",
    .tp_new = outlet_new,
    .tp_dealloc = outlet_free,
    .tp_methods = outlet_methods,
};

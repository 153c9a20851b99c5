/* The queue of the connections that have something to do; see queue.h.
 *
 * Theory of operation. A thread waits in `ReadyQueue.get` without the interpreter's lock, and runs the batches that come first there. `get`
 * returns only for a job of Python: the thread calls `first`, runs the function, calls `remove_first`, and puts a queue that has more jobs
 * back.
 *
 * To wake a sleeping thread costs more than a read, most of all on a processor that sleeps, too. So a thread that has run a batch spins: for
 * a moment it looks for the next queue before it sleeps. It spins only while lone calls follow each other: other loads leave no processor
 * idle. A thread that spins lets every other thread run first, half of the processors are left alone, and each spin without success doubles
 * the number of batches after which no thread spins. */
#include "queue.h"
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

enum {
    SPIN_NANOSECONDS_MAX = 100000,
    LOOKS_PER_YIELD = 50, /* about a microsecond */
    DOUBLINGS_MAX = 6, /* at most 63 batches are skipped */
};

atomic_int spinners, jobs_left, lone_jobs_in_a_row;

/* Tell the processor that the thread only looks. */
static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

bool ready_lock(ReadyQueue *ready)
{
    if (ready->forks != engine_forks)
        return false;
    pthread_mutex_lock(&ready->mutex);
    return true;
}

void ready_unlock(ReadyQueue *ready)
{
    pthread_mutex_unlock(&ready->mutex);
}

bool ready_append(ReadyQueue *ready, SerialQueue *queue)
{
    queue->state = LISTED;
    queue->next = NULL;
    if (ready->first == NULL)
        ready->first = queue;
    else
        ready->last->next = queue;
    ready->last = queue;
    /* A spinning thread takes the first queue, and another thread is woken for the second. */
    return ready->waiting > 0 && (ready->spinning == 0 || ready->first != queue);
}

void ready_wake(ReadyQueue *ready)
{
    pthread_cond_signal(&ready->condition);
}

/* Return whether a thread that has just run a batch looks for the next queue before it sleeps, under the mutex. */
static bool may_spin(ReadyQueue *ready)
{
    if (ready->first != NULL || ready->stops || ready->spinning || spinners >= ready->spinners_max || lone_jobs_in_a_row < LONE_JOBS_MIN)
        return false;
    if (ready->spins_to_skip == 0)
        return true;
    ready->spins_to_skip--;
    return false;
}

/* Look for a queue for at most `SPIN_NANOSECONDS_MAX`, under the mutex but for the looking itself. */
static void spin(ReadyQueue *ready)
{
    ready->spinning++;
    spinners++;
    pthread_mutex_unlock(&ready->mutex);
    double until = now_seconds() + SPIN_NANOSECONDS_MAX * 1e-9;
    do {
        for (int i = 0; i < LOOKS_PER_YIELD && ready->first == NULL; i++)
            relax();
        if (ready->first == NULL)
            sched_yield(); /* any other thread goes first */
    } while (ready->first == NULL && now_seconds() < until);
    pthread_mutex_lock(&ready->mutex);
    spinners--;
    ready->spinning--;
    if (ready->first != NULL)
        ready->spins_failed = 0;
    else if (ready->spins_failed < DOUBLINGS_MAX)
        ready->spins_failed++;
    ready->spins_to_skip = (1 << ready->spins_failed) - 1;
}

/* Run the batch that is the first job of a queue, under the mutex but for the run itself. */
static void run_first(ReadyQueue *ready, SerialQueue *queue, Batch *batch)
{
    BatchState state = DROPPED;
    queue->state = RUNS;
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
    if (batch->rest == NULL)
        atomic_fetch_add_explicit(&batch_counts[state], 1, memory_order_relaxed);
}

/* Pass a batch that has ended to its event loop. */
static void pass_on(Batch *batch)
{
    if (outlet_put(batch->outlet, batch))
        return;
    /* The event loop is gone, so nobody else would drop the batch. */
    PyGILState_STATE state = PyGILState_Ensure();
    batch_leave_queue(batch);
    Py_DECREF(batch);
    PyGILState_Release(state);
}

/* Wait for a queue whose first job is Python's, and run batches meanwhile; NULL if the thread is to end. */
static SerialQueue *next_of_python(ReadyQueue *ready, Worker *worker)
{
    SerialQueue *found = NULL;
    if (!ready_lock(ready))
        return NULL;
    bool has_run_batch = false;
    while (!worker->is_replaced) {
        if (has_run_batch && may_spin(ready))
            spin(ready);
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
        worker->busy_since_seconds = latest_began_seconds = now_seconds();
        if (batch != NULL && batch->state == WAITING)
            run_first(ready, queue, batch);
        if (batch == NULL || batch->state == IN_PYTHON) {
            queue->state = LENT;
            found = queue;
            break;
        }
        worker->busy_since_seconds = INFINITY;
        Job *job = queue_pop(queue);
        has_run_batch = true;
        bool is_needed = queue->first != NULL && ready_append(ready, queue);
        ready_unlock(ready);
        if (is_needed)
            ready_wake(ready);
        free(job);
        pass_on(batch);
        ready_lock(ready);
    }
    ready_unlock(ready);
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
    /* The queue's first job holds a reference until this thread calls `remove_first`. */
    return Py_NewRef(queue == NULL ? Py_None : (PyObject *)queue);
}

/* Return whether a thread has the queue and may put it back, under the mutex. */
static bool is_returned(const ReadyQueue *ready, const SerialQueue *queue)
{
    return queue->ready == ready && queue->state == LENT && queue->first != NULL;
}

/* ReadyQueue.put(queue): the queue has more jobs; put(None) ends one thread. A forked child has no threads, and nothing happens there. */
static PyObject *ready_put(PyObject *self, PyObject *queue)
{
    ReadyQueue *ready = (ReadyQueue *)self;
    if (queue != Py_None && !PyObject_TypeCheck(queue, &SerialQueueType)) {
        PyErr_SetString(PyExc_TypeError, "put needs a SerialQueue or None");
        return NULL;
    }
    bool is_wrong = false, is_needed = false;
    if (!ready_lock(ready))
        Py_RETURN_NONE;
    if (queue == Py_None) {
        ready->stops++;
        is_needed = true;
    } else if (is_returned(ready, (SerialQueue *)queue)) {
        is_needed = ready_append(ready, (SerialQueue *)queue);
    } else {
        is_wrong = true;
    }
    ready_unlock(ready);
    if (is_needed)
        ready_wake(ready);
    if (!is_wrong)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "the queue has no more jobs, or no thread has it from this ready queue");
    return NULL;
}

static PyObject *ready_empty(PyObject *self, PyObject *unused)
{
    (void)unused;
    ReadyQueue *ready = (ReadyQueue *)self;
    if (!ready_lock(ready))
        Py_RETURN_TRUE;
    bool is_empty = ready->first == NULL;
    ready_unlock(ready);
    return PyBool_FromLong(is_empty);
}

static PyObject *ready_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, ":ReadyQueue", names))
        return NULL;
    ReadyQueue *ready = (ReadyQueue *)type->tp_alloc(type, 0);
    if (ready != NULL) {
        cpu_set_t processors;
        ready->forks = engine_forks;
        ready->spinners_max = sched_getaffinity(0, sizeof processors, &processors) == 0 ? CPU_COUNT(&processors) / 2 : 0;
        /* Both always return 0 on Linux, see pthread_mutex_init(3) and pthread_cond_init(3). */
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

static PyMethodDef ready_methods[] = {
    {"get", ready_get, METH_O, "Return a queue whose first job is Python's; None if the thread is to end."},
    {"put", ready_put, METH_O, "Append a queue that has more jobs; None ends one thread."},
    {"empty", ready_empty, METH_NOARGS, "Return whether no queue waits for a thread."},
    {NULL, NULL, 0, NULL},
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

/* The structures of queue.c, ready.c and worker.c.
 *
 * Theory of operation. The jobs of a connection run in order and one at a time. A job is a pair (future, function) of Python, or a batch. A
 * connection's queue that has jobs is in the ready queue once, or with the one thread that runs its first job:
 *
 *     IDLE     no jobs                                     -- put --> LISTED
 *     LISTED   in the ready queue                          -- a thread takes the queue --> RUNS, or LENT
 *     RUNS     a thread runs the first job, a batch        -- the batch has ended --> LISTED, or IDLE; it must run in Python --> LENT
 *     LENT     a thread runs the first job in Python       -- remove_first --> IDLE; remove_first, then ReadyQueue.put --> LISTED
 *
 * The mutex of the ready queue protects all its connections' queues. A thread that holds it never waits for the interpreter's lock. Each
 * job holds a reference to its queue, because a thread without the interpreter's lock could neither take nor drop one: that of a batch
 * goes with the batch to the event loop. So a thread does not touch a queue after it has passed the queue's last batch on. */
#ifndef TENANTRY_QUEUE_H
#define TENANTRY_QUEUE_H

#include "engine.h"

enum { LONE_JOBS_MIN = 16 }; /* see `may_spin` */

typedef struct Job {
    struct Job *next;
    PyObject *object; /* a tuple, or a batch */
    bool is_batch;
} Job;

typedef enum { IDLE, LISTED, RUNS, LENT } QueueState;

struct ReadyQueue;

typedef struct SerialQueue {
    PyObject_HEAD
    struct ReadyQueue *ready;
    /* Under the mutex of the ready queue: */
    QueueState state;
    Job *first, *last;
    Py_ssize_t count;
    Batch *running;
    struct SerialQueue *next;
} SerialQueue;

typedef struct ReadyQueue {
    PyObject_HEAD
    int forks;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    int spinners_max;
    _Atomic(SerialQueue *) first; /* changes under the mutex; a spinning thread looks at it without the mutex */
    /* Under the mutex: */
    SerialQueue *last;
    int waiting;  /* threads that sleep */
    int spinning; /* threads that look for a queue without sleeping, at most one */
    int stops;    /* threads that are to end */
    int spins_failed, spins_to_skip; /* see `may_spin` */
} ReadyQueue;

typedef struct {
    PyObject_HEAD
    _Atomic double busy_since_seconds;
    atomic_bool is_replaced;
} Worker;

/* ready.c */
extern atomic_int spinners;           /* the threads of the process that spin */
extern atomic_int jobs_left;          /* the jobs of the process that wait or run */
extern atomic_int lone_jobs_in_a_row; /* how many jobs came while no other job waited or ran, at most LONE_JOBS_MIN */
bool ready_lock(ReadyQueue *ready); /* false for an inherited queue, and then nothing is locked */
void ready_unlock(ReadyQueue *ready);
bool ready_append(ReadyQueue *ready, SerialQueue *queue); /* under the mutex; whether the caller must call `ready_wake` */
void ready_wake(ReadyQueue *ready); /* wake a thread, without the mutex, for which the thread would only wait */

/* queue.c: take the first job out, under the mutex; the caller has its memory and its reference afterwards. */
Job *queue_pop(SerialQueue *queue);

#endif

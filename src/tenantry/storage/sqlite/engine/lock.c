/* The lock files of tenants, while the engine holds them: while it opens or closes a file at rest.
 *
 * Theory of operation. A lock lasts as long as a descriptor of its file is open in any process, so a forked child closes its copies at once.
 * Python does so for the locks that it holds (`lock_file.py`), and this list has the others. Whoever passes a lock between the two holds
 * Python's `_fork_lock`, so no fork finds it on neither side.
 *
 * No fork happens while a descriptor is opened or closed and the list is not yet changed: a thread that does so has the lock for forks
 * shared, and the thread that forks has it alone. The mutex is held only for moments, because the event loop takes it, too. */
#define _GNU_SOURCE
#include "engine.h"
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { LOCK_BYTES = 128 }; /* `CONTENT_BYTES` of lock_file.py */
static const char RELEASED[] = "released"; /* `_RELEASED` of ownership.py */

/* A thread that forks must not wait until no thread opens a tenant, which may never be. */
static pthread_rwlock_t for_forks = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static HeldLock *first; /* under the mutex */

void locks_before_fork(void)
{
    pthread_rwlock_wrlock(&for_forks);
    pthread_mutex_lock(&mutex);
}

void locks_in_parent(void)
{
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_unlock(&for_forks);
}

void locks_in_child(void)
{
    for (; first != NULL; first = first->next) {
        close(first->descriptor); /* LOCK_UN would also release the parent's lock */
        first->descriptor = -1;
    }
    pthread_mutex_unlock(&mutex);
    /* The thread's id, by which the lock knows its owner, is another one in the child. */
    for_forks = (pthread_rwlock_t)PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
}

void lock_take(HeldLock *lock, int descriptor)
{
    pthread_mutex_lock(&mutex);
    *lock = (HeldLock){descriptor, NULL, first};
    if (first != NULL)
        first->previous = lock;
    first = lock;
    pthread_mutex_unlock(&mutex);
}

int lock_pass_on(HeldLock *lock)
{
    pthread_mutex_lock(&mutex);
    int descriptor = lock->descriptor;
    if (descriptor >= 0) {
        *(lock->previous == NULL ? &first : &lock->previous->next) = lock->next;
        if (lock->next != NULL)
            lock->next->previous = lock->previous;
        lock->descriptor = -1;
    }
    pthread_mutex_unlock(&mutex);
    return descriptor;
}

bool lock_open(HeldLock *lock, const char *path)
{
    pthread_rwlock_rdlock(&for_forks);
    int descriptor = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor >= 0)
        lock_take(lock, descriptor);
    pthread_rwlock_unlock(&for_forks);
    return descriptor >= 0;
}

void lock_close(HeldLock *lock)
{
    pthread_rwlock_rdlock(&for_forks);
    int descriptor = lock_pass_on(lock);
    if (descriptor >= 0)
        close(descriptor);
    pthread_rwlock_unlock(&for_forks);
}

bool lock_is_released(const HeldLock *lock, const char *path)
{
    char content[LOCK_BYTES];
    struct stat held, named;
    if (flock(lock->descriptor, LOCK_EX | LOCK_NB) != 0 || fstat(lock->descriptor, &held) != 0 || lstat(path, &named) != 0 ||
        held.st_ino != named.st_ino || held.st_dev != named.st_dev)
        return false;
    ssize_t length = pread(lock->descriptor, content, sizeof content, 0);
    if (length < (ssize_t)sizeof RELEASED || memcmp(content, RELEASED, sizeof RELEASED - 1) != 0)
        return false;
    ssize_t end = (ssize_t)sizeof RELEASED - 1;
    while (end < length && content[end] == ' ')
        end++;
    return end < length && content[end] == '\n';
}

bool lock_write(const HeldLock *lock, const char *content, size_t length)
{
    char whole[LOCK_BYTES];
    if (length >= sizeof whole)
        return false;
    memset(whole, ' ', sizeof whole);
    memcpy(whole, content, length);
    whole[sizeof whole - 1] = '\n';
    return pwrite(lock->descriptor, whole, sizeof whole, 0) == (ssize_t)sizeof whole;
}

void lock_release(HeldLock *lock)
{
    /* If a full disk refuses this, the holder's name stays, and the next owner raises the epoch. */
    lock_write(lock, RELEASED, sizeof RELEASED - 1);
    lock_close(lock);
}

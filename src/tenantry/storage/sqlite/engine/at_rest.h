/* An opening of a file, as at_rest.c and writer.c share it. */
#ifndef TENANTRY_AT_REST_H
#define TENANTRY_AT_REST_H

#include "engine.h"

/* The further fields of an opening for writing; the batch keeps the objects of the texts. */
typedef struct {
    const char *token;     /* the owner's; NULL for an opening for reading */
    const char *uid;       /* the tenant's, which the file must name */
    long long known_version;
    long long bytes_max;   /* the limit of the database; 0 for SQLite's own */
    int busy_milliseconds; /* the longest wait for another process's lock, once the writer is set up */
    int checkpoint_pages;  /* the pages of the log that start a checkpoint, once the log's name is durable */
    int lock;              /* the descriptor of the lock file, if Python holds the lock; -1 if the opening acquires the lock */
    long long seen_epoch;  /* of the last owner: Python's if Python holds the lock, otherwise read from the file */
    const char *seen_owner;
} Writer;

struct Rest {
    HeldLock lock; /* its descriptor is -1 while the engine does not hold the lock */
    const char *lock_path, *name; /* NULL if the opening acquires no lock */
    const char *root;             /* NULL for a file that the caller has open for writing */
    const char *path, *uri, *script;
    const char *summary_sql;      /* NULL if nothing is to be read */
    size_t name_length;
    Writer writer;
    /* Written by the thread that opens the file: */
    struct stat file;
    sqlite3 *handle;
    const char *uid, *owner, *applied; /* in the batch's arena */
    long long epoch, version;
};

/* writer.c */
bool writer_set_up(Rest *rest); /* needs no lock */
bool writer_take(Database *database, const Rest *rest); /* false with an exception of Python */

#endif

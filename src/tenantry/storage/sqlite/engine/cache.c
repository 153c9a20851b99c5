/* Fits the page cache of a connection to its use.
 *
 * Theory of operation. With the first page of an empty cache SQLite allocates as many pages as the cache may have, up to 20. A small tenant
 * uses seven of them, and has two caches. SQLite allocates each page when it is needed if the cache may have at most two pages, or has one
 * already. So the first batch of a connection empties the cache while its limit is two pages, reads a page, and sets the limit again.
 *
 * SQLite empties the cache of a reader after each commit of the writer, and allocates 20 pages again. So a reader that is new has a small
 * cache, for the first batches. Many tenants are never read more often.
 *
 * A file at rest is opened for few reads, and soon closed, and is left alone. */
#include "engine.h"

enum {
    NEW,   /* as Python has opened the connection */
    YOUNG, /* a reader with a small cache */
    READS_OF_YOUNG_READER = 64,
    GROWN = YOUNG + READS_OF_YOUNG_READER,
};

static const char SMALLEST_LIMIT[] = "PRAGMA cache_size = 2";
static const char FULL_LIMIT[] = "PRAGMA cache_size = -2000"; /* of every connection, see `hardening.PRAGMAS` */
static const char FIRST_PAGE[] = "SELECT 1 FROM sqlite_schema LIMIT 1";
static const char YOUNG_READER_LIMIT[] = "PRAGMA cache_size = 8";

static bool has_run(const Database *database, const char *text)
{
    return sq.exec(database->handle, text, NULL, NULL, NULL) == SQLITE_OK;
}

void fit_cache(Database *database)
{
    if (database->cache_age == GROWN || database->file_path != NULL)
        return;
    /* What an interrupt or a lock has stopped runs again before the next batch. */
    if (database->cache_age == NEW) {
        if (!has_run(database, SMALLEST_LIMIT))
            return;
        sq.db_release_memory(database->handle); /* always returns SQLITE_OK */
        bool is_reader = sq.db_readonly(database->handle, "main") == 1;
        if (!is_reader)
            has_run(database, FIRST_PAGE); /* without it, if the file is locked, only memory is lost */
        if (has_run(database, is_reader ? YOUNG_READER_LIMIT : FULL_LIMIT))
            database->cache_age = is_reader ? YOUNG : GROWN;
    } else if (database->cache_age < GROWN - 1 || has_run(database, FULL_LIMIT)) {
        database->cache_age++;
    }
}

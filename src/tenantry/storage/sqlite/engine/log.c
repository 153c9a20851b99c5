/* Fits the length of the write-ahead log to its use.
 *
 * Theory of operation. A commit that makes the log's file longer takes a quarter to a third more time than one that writes over older frames,
 * because the file system also has to write the file's length and its new blocks. SQLite writes over older frames after a checkpoint, which
 * comes after so many pages (`opening.CHECKPOINT_PAGES`). A long log pays with large batches, because a page that changes twice is then
 * written into the database once. A lone write has few pages, and waits for little else than the disk. So while a connection has only lone
 * writes, its log is shorter. */
#include "engine.h"

enum { LONE_WRITES_MIN = 16, SHORTER = 8 };

static const char CHECKPOINT_PAGES[] = "PRAGMA wal_autocheckpoint";

/* Return the pages after which SQLite makes a checkpoint; 0 if it makes none. */
static int checkpoint_pages(Database *database)
{
    sqlite3_stmt *statement = database_prepared(database, CHECKPOINT_PAGES, (int)sizeof CHECKPOINT_PAGES - 1);
    int pages = statement != NULL && sq.step(statement) == SQLITE_ROW ? (int)sq.column_int64(statement, 0) : 0;
    if (statement != NULL)
        sq.reset(statement);
    return pages;
}

void fit_log(const Batch *batch)
{
    Database *database = batch->database;
    int calls = batch->unit_count - batch->is_whole; /* without the unit of the marks */
    if (calls == 1 && database->lone_writes < LONE_WRITES_MIN) {
        if (++database->lone_writes < LONE_WRITES_MIN)
            return;
        /* With 0 no checkpoint may run yet, see new_log.py, and the log is left alone until other writes have come between. */
        int pages = checkpoint_pages(database);
        if (pages / SHORTER > 0 && sq.wal_autocheckpoint(database->handle, pages / SHORTER) == SQLITE_OK)
            database->log_pages = pages;
    } else if (calls > 1) {
        database->lone_writes = 0;
        if (database->log_pages > 0 && sq.wal_autocheckpoint(database->handle, database->log_pages) == SQLITE_OK)
            database->log_pages = 0;
    }
}

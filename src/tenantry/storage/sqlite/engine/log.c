/* Fits the length of the write-ahead log to its use.
 *
 * Theory of operation. A commit that makes the log's file longer takes up to twice the time of one that writes over older bytes, because the
 * file system also has to make the file's length and its new blocks durable; with a journal, it makes a commit of its own for that. So the
 * log has two measures:
 *
 * SQLite writes over older frames after a checkpoint, which comes after so many pages (`opening.CHECKPOINT_PAGES`). A long log pays with
 * large batches, because a page that changes twice is then written into the database once. A lone write has few pages, and waits for
 * little else than the disk. So while a connection has only lone writes, its log is shorter.
 *
 * Until the first checkpoint, every commit would make the file longer. So when a commit has done so, the next one appends zeros to the file,
 * as many bytes as the file has, up to a limit. The commits after it write over the zeros. For SQLite, the log ends where the first
 * frame is not valid, and zeros are no valid frame; the log has such an end after each checkpoint, too. The zeros are appended inside a
 * transaction that may write, so no other connection or process writes to the log or cuts it meanwhile. */
#include "engine.h"
#include <string.h>

enum { LONE_WRITES_MIN = 16, SHORTER = 8, ZEROS_MAX = 256 << 10, PIECE_BYTES = 64 << 10, MAGIC_BYTES = 3, SYNCHRONOUS_FULL = 2 };

static const char CHECKPOINT_PAGES[] = "PRAGMA wal_autocheckpoint", SYNCHRONOUS[] = "PRAGMA synchronous";
static const char BYTES_MAX[] = "PRAGMA journal_size_limit"; /* not above `wal_bytes_max`, see opening.py */

/* The beginning of each log (https://www.sqlite.org/fileformat2.html#the_write_ahead_log). A rollback journal has another. */
static const unsigned char MAGIC[MAGIC_BYTES] = {0x37, 0x7f, 0x06};

/* Return a setting of the connection that is a number; 0 if it cannot be read. */
static sqlite3_int64 setting(Database *database, const char *pragma, int length)
{
    sqlite3_stmt *statement = database_prepared(database, pragma, length);
    sqlite3_int64 number = statement != NULL && sq.step(statement) == SQLITE_ROW ? sq.column_int64(statement, 0) : 0;
    if (statement != NULL)
        sq.reset(statement);
    return number;
}

void fit_log(const Batch *batch)
{
    Database *database = batch->database;
    int calls = batch->unit_count - batch->is_whole; /* without the unit of the marks */
    if (calls == 1 && database->lone_writes < LONE_WRITES_MIN) {
        if (++database->lone_writes < LONE_WRITES_MIN)
            return;
        /* With 0 no checkpoint may run yet, see new_log.py, and the log is left alone until other writes have come between. */
        int pages = (int)setting(database, CHECKPOINT_PAGES, (int)sizeof CHECKPOINT_PAGES - 1);
        if (pages / SHORTER > 0 && sq.wal_autocheckpoint(database->handle, pages / SHORTER) == SQLITE_OK)
            database->log_pages = pages;
    } else if (calls > 1) {
        database->lone_writes = 0;
        if (database->log_pages > 0 && sq.wal_autocheckpoint(database->handle, database->log_pages) == SQLITE_OK)
            database->log_pages = 0;
    }
}

/* Return whether the file is a log, and each commit waits until it is on the disk. */
static bool is_synced_log(Database *database, sqlite3_file *file)
{
    unsigned char magic[MAGIC_BYTES];
    return file->pMethods->xRead(file, magic, MAGIC_BYTES, 0) == SQLITE_OK && memcmp(magic, MAGIC, MAGIC_BYTES) == 0 &&
           setting(database, SYNCHRONOUS, (int)sizeof SYNCHRONOUS - 1) >= SYNCHRONOUS_FULL;
}

/* Append zeros to a log that stays below its limit, and return its length. On a full disk they are fewer; the commit finds that itself. */
static sqlite3_int64 append_zeros(Database *database, sqlite3_file *file, sqlite3_int64 bytes)
{
    static const char zeros[PIECE_BYTES]; /* SQLite writes at most 128 KiB at once */
    sqlite3_int64 end = bytes + (bytes < ZEROS_MAX ? bytes : ZEROS_MAX);
    sqlite3_int64 bytes_max = setting(database, BYTES_MAX, (int)sizeof BYTES_MAX - 1);
    if (bytes_max >= 0 && end >= bytes_max)
        end = bytes_max - 1;
    while (bytes < end) {
        int count = end - bytes < PIECE_BYTES ? (int)(end - bytes) : PIECE_BYTES;
        if (file->pMethods->xWrite(file, zeros, count, bytes) != SQLITE_OK)
            break;
        bytes += count;
    }
    return bytes;
}

void lengthen_log(Database *database)
{
    sqlite3_file *file = NULL;
    sqlite3_int64 bytes = 0;
    if (sq.file_control(database->handle, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file) != SQLITE_OK || file == NULL ||
        file->pMethods == NULL || file->pMethods->xFileSize(file, &bytes) != SQLITE_OK)
        return;
    bool has_grown = database->log_bytes > 0 && bytes > database->log_bytes;
    database->log_bytes = has_grown && is_synced_log(database, file) ? append_zeros(database, file, bytes) : bytes;
}

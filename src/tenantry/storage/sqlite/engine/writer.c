/* Sets up the writer of a database that was closed cleanly, and makes its first commit durable.
 *
 * Theory of operation. Python does the same with some thirty statements and system calls (`open_writer` of opening.py), and its first batch
 * raises the epoch and syncs the log's directory (new_log.py). The order is the same here. Before anything is written, the file must be of
 * this tenant and not newer than the code, and SQLite must have it open for writing. The log gets its first frame only after the lock file
 * has the note that names the database (log_note.py). The first commit is acknowledged only after the directory has the log's name on the
 * disk, and no checkpoint runs before.
 *
 * If anything is different, the file is as before, and Python opens it. */
#define _GNU_SOURCE
#include "at_rest.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NOTE_BYTES = 128, NOTE_OFFSET = 128, SQL_BYTES = 64 }; /* `CONTENT_BYTES` of lock_file.py */
static const char NO_WRITE[] = "BEGIN IMMEDIATE; ROLLBACK";
static const char WAL_MODE[] = "PRAGMA journal_mode = WAL", PAGE_SIZE[] = "PRAGMA page_size";

/* Whether the path still names the file that was checked before SQLite opened it. */
static bool is_same_file(const Rest *rest)
{
    struct stat now;
    return lstat(rest->path, &now) == 0 && now.st_ino == rest->file.st_ino && now.st_dev == rest->file.st_dev;
}

static bool use_log(sqlite3 *handle)
{
    sqlite3_stmt *mode = NULL;
    bool is_used = sq.prepare_v3(handle, WAL_MODE, sizeof WAL_MODE, 0, &mode, NULL) == SQLITE_OK && sq.step(mode) == SQLITE_ROW &&
                   sq.column_type(mode, 0) == SQLITE_TEXT && strcmp((const char *)sq.column_text(mode, 0), "wal") == 0;
    sq.finalize(mode);
    return is_used;
}

/* Whether the connection can write. If SQLite cannot open the file, the log or the shared memory for writing, it opens them for reading
 * without an error, see writability.py. */
static bool is_writable(sqlite3 *handle)
{
    return sq.db_readonly(handle, "main") == 0 && use_log(handle) && sq.exec(handle, NO_WRITE, NULL, NULL, NULL) == SQLITE_OK;
}

/* See `set_page_limit` of page_limit.py. */
static bool limit_pages(sqlite3 *handle, long long bytes_max)
{
    if (bytes_max == 0)
        return true;
    sqlite3_stmt *size = NULL;
    long long bytes = 0;
    if (sq.prepare_v3(handle, PAGE_SIZE, sizeof PAGE_SIZE, 0, &size, NULL) == SQLITE_OK && sq.step(size) == SQLITE_ROW)
        bytes = sq.column_int64(size, 0);
    sq.finalize(size);
    if (bytes <= 0)
        return false;
    char sql[SQL_BYTES];
    long long pages = bytes_max / bytes < INT_MAX ? bytes_max / bytes : INT_MAX;
    snprintf(sql, sizeof sql, "PRAGMA max_page_count = %lld", pages);
    return sq.exec(handle, sql, NULL, NULL, NULL) == SQLITE_OK;
}

/* Write the note of log_note.py; return false if the old note has to be replaced on the disk first, which Python does. */
static bool write_note(int lock, const struct stat *file, long long epoch)
{
    char before[NOTE_BYTES + 1] = {0}, note[NOTE_BYTES + 1];
    struct stat locked;
    if (fstat(lock, &locked) != 0 || pread(lock, before, NOTE_BYTES, NOTE_OFFSET) < 0)
        return false;
    unsigned long long lock_inode, inode, this_lock = locked.st_ino, this_inode = file->st_ino;
    long long noted_epoch;
    bool is_noted = sscanf(before, "[%llu, %llu, %lld]", &lock_inode, &inode, &noted_epoch) == 3;
    if (is_noted && lock_inode == this_lock && (inode != this_inode || epoch < noted_epoch))
        return false;
    int length = snprintf(note, sizeof note, "[%llu, %llu, %lld]", this_lock, this_inode, epoch);
    memset(note + length, ' ', (size_t)(NOTE_BYTES - length));
    note[NOTE_BYTES - 1] = '\n';
    return memcmp(note, before, NOTE_BYTES) == 0 || pwrite(lock, note, NOTE_BYTES, NOTE_OFFSET) == NOTE_BYTES;
}

bool writer_set_up(Rest *rest)
{
    Writer *writer = &rest->writer;
    if (rest->version > writer->known_version || (rest->uid != NULL && strcmp(rest->uid, writer->uid) != 0))
        return false;
    if (rest->owner != NULL) {
        writer->seen_epoch = rest->epoch;
        writer->seen_owner = rest->owner;
    }
    int lock = writer->lock >= 0 ? writer->lock : rest->lock.descriptor;
    /* Up to here the connection waits for no lock: if a lock is held, Python opens the file and waits. */
    return is_same_file(rest) && is_writable(rest->handle) && limit_pages(rest->handle, writer->bytes_max) &&
           write_note(lock, &rest->file, writer->seen_epoch) &&
           sq.busy_timeout(rest->handle, writer->busy_milliseconds) == SQLITE_OK;
}

static bool copy_bytes(const char *bytes, size_t length, char **copy)
{
    if ((*copy = malloc(length + 1)) == NULL) {
        PyErr_NoMemory();
        return false;
    }
    memcpy(*copy, bytes, length);
    (*copy)[length] = '\0';
    return true;
}

bool writer_take(Database *database, const Rest *rest)
{
    const Writer *writer = &rest->writer;
    const char *slash = strrchr(rest->path, '/'); /* there is one, because the path is below the root */
    database->seen_epoch = writer->seen_epoch;
    database->checkpoint_pages = writer->checkpoint_pages;
    return copy_bytes(writer->token, strlen(writer->token), &database->token) &&
           copy_bytes(writer->seen_owner, strlen(writer->seen_owner), &database->seen_owner) &&
           copy_bytes(rest->path, (size_t)(slash - rest->path), &database->log_directory);
}

/* Sync a directory; return the error's number, or 0. See `sync_foreign_directory` of durable_files.py. */
static int sync_directory(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = descriptor < 0 || fsync(descriptor) != 0 ? errno : 0;
    if (descriptor >= 0)
        close(descriptor);
    return error == EACCES || error == EPERM || error == EROFS || error == EINVAL ? 0 : error;
}

int writer_make_log_durable(Database *database)
{
    if (database->log_directory == NULL)
        return 0;
    int error = sync_directory(database->log_directory);
    if (error != 0)
        return error;
    sq.wal_autocheckpoint(database->handle, database->checkpoint_pages);
    free(database->log_directory);
    database->log_directory = NULL;
    return 0;
}

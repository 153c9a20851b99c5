/* One tenant's connections, and the calls on them, in the order and with the pragmas of tenantry's SQLite store:
 *
 *   opened       the lock, then the database as an immutable file, whose summary is read
 *   first write  the immutable connection closes, the writer opens; its first commit raises the epoch and is followed by a sync of the
 *                directory, because the log is new
 *   reads        on the immutable connection; after the first write once on the writer, and from then on on a reader
 *   closed       the reader, then the writer, whose closing checkpoints; then the lock
 */
#include "limit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TIMESTAMP_BYTES = 64, PATH_BYTES_MAX = 4096 };

static const char EVERY_CONNECTION[] = "PRAGMA cell_size_check = ON; PRAGMA cache_size = -2000;";
static const char READ_ONLY[] = "PRAGMA query_only = ON;";
static const char WRITER[] =
    "PRAGMA user_version; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;"
    "PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = ON;";
static const char CHECKPOINTS[] = "PRAGMA wal_autocheckpoint = 4000";

static atomic_long token_numbers;

void seed(struct random *random)
{
    if (getrandom(&random->state, sizeof random->state, 0) != (ssize_t)sizeof random->state)
        die("random", "%s", strerror(errno));
}

uint64_t next_random(struct random *random)
{
    uint64_t mixed = random->state += UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

/* Ends the program unless the database is a file alone, without a log or a journal that has content. */
static void check_closed(const struct tenant *tenant)
{
    struct stat found;
    if (lstat(tenant->database, &found) != 0 || !S_ISREG(found.st_mode) || found.st_size == 0)
        die(tenant->database, "is missing or empty");
    if (stat(tenant->log_path, &found) == 0 && found.st_size > 0)
        die(tenant->log_path, "exists: the last owner did not close the tenant");
    if (lstat(tenant->journal_path, &found) == 0)
        die(tenant->journal_path, "exists: the last owner did not close the tenant");
}

static void open_reader(struct reader *reader, const char *path, const char *parameters, const struct plan *plan)
{
    reader->db = open_database(path, parameters, SQLITE_OPEN_READONLY);
    run_script(reader->db, EVERY_CONNECTION);
    run_script(reader->db, READ_ONLY);
    reader->get = prepared(reader->db, plan->get);
}

static void close_reader(struct reader *reader)
{
    finalize(&reader->get);
    close_database(&reader->db);
}

/* Remembers the owner in two columns of a row: the epoch, and the token after it. */
static void see_owner(struct tenant *tenant, sqlite3_stmt *row, int epoch_column)
{
    const unsigned char *owner = sqlite3_column_text(row, epoch_column + 1);
    int length = owner == NULL ? -1 : sqlite3_column_bytes(row, epoch_column + 1);
    if (length < 0 || length >= OWNER_BYTES_MAX)
        die(tenant->database, "the owner's token has %d bytes", length);
    tenant->seen_epoch = sqlite3_column_int64(row, epoch_column);
    memcpy(tenant->seen_owner, owner, (size_t)length + 1);
}

void open_tenant(struct tenant *tenant, const struct plan *plan)
{
    tenant->lock_fd = acquire_lock(tenant->lock_path);
    check_closed(tenant);
    int length = snprintf(tenant->token, sizeof tenant->token, "limit-%ld-%ld", (long)getpid(), atomic_fetch_add(&token_numbers, 1));
    if (length < 0 || (size_t)length >= sizeof tenant->token)
        die(tenant->database, "the token is too long");
    open_reader(&tenant->immutable, tenant->database, "mode=ro&immutable=1", plan);
    sqlite3_stmt *summary = prepared(tenant->immutable.db, plan->summary);
    if (!step(summary))
        die(tenant->database, "has no owner");
    see_owner(tenant, summary, 1);
    finalize(&summary);
    tenant->is_read_by_writer = true;
}

void close_tenant(struct tenant *tenant)
{
    struct writer *writer = &tenant->writer;
    close_reader(&tenant->immutable);
    close_reader(&tenant->reader);
    finalize(&writer->get);
    finalize(&writer->insert);
    finalize(&writer->begin);
    finalize(&writer->commit);
    finalize(&writer->guard);
    finalize(&writer->raise);
    close_database(&writer->db);
    release_lock(tenant->lock_fd, tenant->lock_path);
    tenant->lock_fd = -1;
}

void open_for_writing(struct tenant *tenant, const struct plan *plan)
{
    struct writer *writer = &tenant->writer;
    if (writer->db != NULL)
        return;
    close_reader(&tenant->immutable);
    write_note(tenant->lock_fd, tenant->lock_path, tenant->database, tenant->seen_epoch);
    writer->db = open_database(tenant->database, "mode=rw", SQLITE_OPEN_READWRITE);
    run_script(writer->db, EVERY_CONNECTION);
    run_script(writer->db, WRITER);
    writer->insert = prepared(writer->db, plan->insert);
    writer->begin = prepared(writer->db, "BEGIN IMMEDIATE");
    writer->commit = prepared(writer->db, "COMMIT");
    writer->guard = prepared(writer->db, plan->guard);
    writer->raise = prepared(writer->db, plan->raise);
    writer->is_log_durable = false;
}

void open_for_reading(struct tenant *tenant, const struct plan *plan)
{
    if (tenant->reader.db == NULL)
        open_reader(&tenant->reader, tenant->database, "mode=ro", plan);
}

/* Checks in an open transaction that nobody else became the owner; the first time this raises the epoch. */
static void check_owner(struct tenant *tenant)
{
    struct writer *writer = &tenant->writer;
    int64_t epoch = tenant->seen_epoch;
    char before[OWNER_BYTES_MAX];
    memcpy(before, tenant->seen_owner, sizeof before);
    if (!step(writer->guard))
        die(tenant->database, "has no owner");
    see_owner(tenant, writer->guard, 0);
    reset(writer->guard);
    if (strcmp(tenant->seen_owner, tenant->token) == 0)
        return;
    if (epoch != tenant->seen_epoch || strcmp(before, tenant->seen_owner) != 0)
        die(tenant->database, "has another owner: '%s'", tenant->seen_owner);
    bind_text(writer->raise, 1, tenant->token);
    run(writer->raise);
}

/* Syncs the directory entry of the new log after its first commit; only then checkpoints may run. */
static void make_log_durable(struct tenant *tenant)
{
    char path[PATH_BYTES_MAX];
    size_t length = strlen(tenant->database);
    if (length >= sizeof path)
        die(tenant->database, "the path is too long");
    memcpy(path, tenant->database, length + 1);
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0 || close(fd) != 0)
        die(tenant->database, "the directory cannot be synced: %s", strerror(errno));
    run_script(tenant->writer.db, CHECKPOINTS);
    tenant->writer.is_log_durable = true;
}

static void write_timestamp(char *text, size_t size, const struct tenant *tenant)
{
    struct timespec time;
    struct tm utc;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0 || gmtime_r(&time.tv_sec, &utc) == NULL)
        die(tenant->database, "no time: %s", strerror(errno));
    int length = snprintf(text, size, "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                          utc.tm_hour, utc.tm_min, utc.tm_sec, time.tv_nsec / 1000);
    if (length < 0 || (size_t)length >= size)
        die(tenant->database, "the time is too long");
}

static void insert_row(struct tenant *tenant, const struct plan *plan, struct random *random)
{
    sqlite3_stmt *insert = tenant->writer.insert;
    const char **values = plan->values + (next_random(random) % (uint64_t)plan->rows) * (uint64_t)plan->columns;
    for (int column = 1; column <= plan->columns; column++)
        if (column != plan->timestamp_at && column != plan->id_at)
            bind_text(insert, column, values[column - 1]);
    char timestamp[TIMESTAMP_BYTES];
    write_timestamp(timestamp, sizeof timestamp, tenant);
    bind_text(insert, plan->timestamp_at, timestamp);
    uint64_t id[] = {next_random(random), next_random(random)};
    _Static_assert(sizeof id == ID_BYTES, "an id is a UUID");
    if (sqlite3_bind_blob(insert, plan->id_at, id, ID_BYTES, SQLITE_STATIC) != SQLITE_OK)
        die(tenant->database, "bind: %s", sqlite3_errmsg(tenant->writer.db));
    run(insert);
}

void save(struct tenant *tenant, const struct plan *plan, int rows, struct random *random)
{
    open_for_writing(tenant, plan);
    run(tenant->writer.begin);
    check_owner(tenant);
    for (int row = 0; row < rows; row++)
        insert_row(tenant, plan, random);
    run(tenant->writer.commit);
    if (!tenant->writer.is_log_durable)
        make_log_durable(tenant);
    tenant->saved += rows;
}

/* Reads a task and each of its columns as the type that it has. */
static void read_task(sqlite3_stmt *statement, const struct tenant *tenant, const char *task_id)
{
    bind_text(statement, 1, task_id);
    if (!step(statement))
        die(tenant->database, "has no task %s", task_id);
    int columns = sqlite3_column_count(statement);
    for (int column = 0; column < columns; column++) {
        switch (sqlite3_column_type(statement, column)) {
        case SQLITE_INTEGER:
            (void)sqlite3_column_int64(statement, column);
            break;
        case SQLITE_FLOAT:
            (void)sqlite3_column_double(statement, column);
            break;
        case SQLITE_NULL:
            break;
        default:
            if (sqlite3_column_text(statement, column) == NULL || sqlite3_column_bytes(statement, column) < 0)
                die(tenant->database, "column %d of task %s cannot be read", column, task_id);
        }
    }
    reset(statement);
}

void get(struct tenant *tenant, const struct plan *plan, const char *task_id)
{
    if (tenant->writer.db == NULL) {
        check_closed(tenant);
        read_task(tenant->immutable.get, tenant, task_id);
    } else if (tenant->is_read_by_writer) {
        tenant->is_read_by_writer = false;
        tenant->writer.get = prepared(tenant->writer.db, plan->get);
        read_task(tenant->writer.get, tenant, task_id);
    } else {
        open_for_reading(tenant, plan);
        read_task(tenant->reader.get, tenant, task_id);
    }
}

void get_in_snapshot(struct tenant *tenant, const struct plan *plan, int rows, struct random *random)
{
    run_script(tenant->reader.db, "BEGIN");
    for (int row = 0; row < rows; row++)
        read_task(tenant->reader.get, tenant, plan->task_ids[next_random(random) % (uint64_t)plan->tasks]);
    run_script(tenant->reader.db, "ROLLBACK");
}

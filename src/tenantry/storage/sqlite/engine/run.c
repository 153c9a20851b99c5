/* Runs a batch on a connection, without the interpreter's lock.
 *
 * Theory of operation. A write is BEGIN IMMEDIATE, the guard, the statements, COMMIT; a read of several statements is BEGIN, the statements,
 * ROLLBACK. A refused constraint of a unit with one statement, which has changed nothing, is that unit's result. Everything else that
 * goes wrong before COMMIT rolls back, and the batch runs again in Python. Inside a transaction of Python, a unit is a savepoint. A COMMIT
 * that fails because the disk failed is not tried again, because a later success of the disk would not prove that the earlier pages are on
 * it. A wait for another process's lock that was too long is not tried again either, because the caller would wait twice.
 *
 * While a batch runs, only its thread uses the connection, but `sqlite3_interrupt` may come from any thread. */
#define _GNU_SOURCE
#include "engine.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ROLLBACKS_MAX = 1000, PRIMARY_CODE = 0xff };

static const char BEGIN_WRITE[] = "BEGIN IMMEDIATE", BEGIN_READ[] = "BEGIN", COMMIT[] = "COMMIT", ROLLBACK[] = "ROLLBACK";
static const char SAVEPOINT[] = "SAVEPOINT unit", UNDO[] = "ROLLBACK TO unit", RELEASE[] = "RELEASE unit";
static const char GUARD[] = "SELECT owner, epoch FROM tenantry_owner WHERE id = 1";
static const char RAISE[] = "UPDATE tenantry_owner SET epoch = epoch + 1, owner = ? WHERE id = 1";

/* A table may name FAIL in a conflict clause, and a trigger may name FAIL anywhere. */
static const char FAIL_IN_SCHEMA[] = "SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'trigger') AND instr(upper(sql), 'FAIL') "
                                     "AND (type = 'trigger' OR instr(upper(sql), 'CONFLICT')) LIMIT 1";

/* Run a statement of the engine that has no parameters and whose rows do not matter. */
static int run_plain(Database *database, const char *text, int length)
{
    sqlite3_stmt *statement = database_prepared(database, text, length);
    if (statement == NULL)
        return sq.extended_errcode(database->handle);
    int code = sq.step(statement);
    sq.reset(statement);
    return code == SQLITE_DONE || code == SQLITE_ROW ? SQLITE_OK : code;
}
#define RUN(database, text) run_plain(database, text, (int)sizeof text - 1)

/* Roll back. An interrupt of the batch may stop ROLLBACK too, so try again. */
static void roll_back(Database *database)
{
    for (int i = 0; i < ROLLBACKS_MAX && !sq.get_autocommit(database->handle); i++)
        RUN(database, ROLLBACK);
}

static bool is_text(sqlite3_stmt *row, int column, const char *expected)
{
    const char *text = (const char *)sq.column_text(row, column);
    size_t length = strlen(expected);
    return text != NULL && (size_t)sq.column_bytes(row, column) == length && memcmp(text, expected, length) == 0;
}

/* Replace the last owner, which can write no more from then on. */
static bool raise_epoch(Database *database)
{
    sqlite3_stmt *statement = database_prepared(database, RAISE, (int)sizeof RAISE - 1);
    if (statement == NULL)
        return false;
    bool is_raised = sq.bind_text(statement, 1, database->token, -1, SQLITE_STATIC) == SQLITE_OK && sq.step(statement) == SQLITE_DONE;
    sq.clear_bindings(statement);
    return sq.reset(statement) == SQLITE_OK && is_raised;
}

/* See `FileOwnership.guard`. If the transaction fails, the row is unchanged, and the next transaction raises the epoch. */
static bool is_owner(Database *database)
{
    if (database->token == NULL)
        return true;
    sqlite3_stmt *statement = database_prepared(database, GUARD, (int)sizeof GUARD - 1);
    if (statement == NULL)
        return false;
    bool is_own = false, is_seen = false;
    if (sq.step(statement) == SQLITE_ROW && sq.column_type(statement, 0) == SQLITE_TEXT) {
        is_own = is_text(statement, 0, database->token);
        is_seen = !is_own && database->seen_owner != NULL && is_text(statement, 0, database->seen_owner) &&
                  sq.column_type(statement, 1) == SQLITE_INTEGER && sq.column_int64(statement, 1) == database->seen_epoch;
    }
    return sq.reset(statement) == SQLITE_OK && (is_own || (is_seen && raise_epoch(database)));
}

/* See `ImmutableFile.is_unchanged`. */
static bool is_unchanged(const Database *database)
{
    struct stat found, log;
    if (database->file_path == NULL)
        return true;
    if (lstat(database->file_path, &found) != 0 || !S_ISREG(found.st_mode))
        return false;
    return (unsigned long long)found.st_ino == database->inode && (long long)found.st_size == database->size &&
           modified_ns(&found) == database->modified_ns && (stat(database->log_path, &log) != 0 ? errno == ENOENT : log.st_size == 0);
}

static int bind(sqlite3_stmt *statement, int place, const Value *value)
{
    switch (value->type) {
    case SQLITE_INTEGER:
        return sq.bind_int64(statement, place, value->as.integer);
    case SQLITE_FLOAT:
        return sq.bind_double(statement, place, value->as.real);
    case SQLITE_TEXT:
        return sq.bind_text(statement, place, value->as.bytes, value->length, SQLITE_STATIC);
    case SQLITE_BLOB:
        /* A null pointer would bind NULL. The pointer of empty bytes is not null. */
        return sq.bind_blob(statement, place, value->as.bytes, value->length, SQLITE_STATIC);
    default:
        return sq.bind_null(statement, place);
    }
}

static bool bind_all(sqlite3_stmt *statement, const Step *step)
{
    if (sq.bind_parameter_count(statement) != step->parameter_count)
        return false;
    for (int i = 0; i < step->parameter_count; i++)
        if (bind(statement, i + 1, &step->parameters[i]) != SQLITE_OK)
            return false;
    return true;
}

/* Return whether the fetch fits the statement. Otherwise Python refuses it, or counts rows whose values it has to decode. */
static bool has_fitting_fetch(sqlite3_stmt *statement, Step *step)
{
    step->column_count = sq.column_count(statement);
    return step->column_count == 0 ? step->fetch < FETCH_NAMED_ONE : step->fetch >= FETCH_ONE;
}

/* Step through a statement; return SQLITE_DONE, or the code at which it stopped. SQLITE_ROW means that Python must decide. */
static int step_through(Batch *batch, sqlite3_stmt *statement, Step *step)
{
    bool is_one = step->fetch == FETCH_ONE || step->fetch == FETCH_NAMED_ONE;
    if (!has_fitting_fetch(statement, step))
        return SQLITE_ROW;
    int code = sq.step(statement);
    /* The first step prepares the statement anew if the schema has changed: SELECT * may have other columns now. */
    if (!has_fitting_fetch(statement, step))
        return SQLITE_ROW;
    for (; code == SQLITE_ROW; code = sq.step(statement)) {
        if (is_one && step->row_count == 1) /* Python's driver looks at the row after the first, too, and then ends the statement */
            break;
        if (!copy_row(&batch->arena, statement, step, batch->kind))
            return SQLITE_ROW;
    }
    if (code != SQLITE_DONE && code != SQLITE_ROW)
        return code;
    return step->fetch >= FETCH_NAMED_ONE && !copy_names(&batch->arena, statement, step) ? SQLITE_ROW : SQLITE_DONE;
}

/* Keep SQLite's code and message of a refused constraint; return false if Python must run the batch. */
static bool keep_error(Batch *batch, Step *step)
{
    sqlite3 *handle = batch->database->handle;
    const char *message = sq.errmsg(handle);
    size_t length = message == NULL ? 0 : strnlen(message, MESSAGE_BYTES_MAX);
    if (length == 0 || length == MESSAGE_BYTES_MAX || !is_utf8((const unsigned char *)message, length))
        return false;
    char *copy = arena_take(&batch->arena, length + 1);
    if (copy == NULL)
        return false;
    memcpy(copy, message, length);
    copy[length] = '\0';
    step->error_message = copy;
    step->error_code = sq.extended_errcode(handle);
    batch->error_count++;
    return true;
}

/* Return whether the text has the word FAIL. */
static bool has_fail(const char *text)
{
    bool is_word = false;
    for (const char *at = text; !is_word && (at = strcasestr(at, "FAIL")) != NULL; at += 4)
        is_word = (at == text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_')) && !isalnum((unsigned char)at[4]) && at[4] != '_';
    return is_word;
}

/* Return whether a refused statement may have left changes: SQLite does not count what a trigger, or the action of a foreign key, had
 * written before a FAIL ended the statement. The statement, the trigger or a table may ask for FAIL. */
static bool may_keep_changes(Database *database, const Step *step, int before)
{
    if (sq.total_changes(database->handle) != before || has_fail(step->text))
        return true;
    sqlite3_stmt *statement = database_prepared(database, FAIL_IN_SCHEMA, (int)sizeof FAIL_IN_SCHEMA - 1);
    bool has_none = statement != NULL && sq.step(statement) == SQLITE_DONE;
    return !has_none | (sq.reset(statement) != SQLITE_OK);
}

/* Run one statement; return whether the batch can go on. */
static bool run_step(Batch *batch, Step *step, bool is_alone)
{
    sqlite3 *handle = batch->database->handle;
    sqlite3_stmt *statement = database_prepared(batch->database, step->text, step->text_length);
    if (statement == NULL || (batch->kind == READ && !sq.stmt_readonly(statement)))
        return false;
    int before = sq.total_changes(handle);
    int code = bind_all(statement, step) ? step_through(batch, statement, step) : SQLITE_ROW;
    bool is_done = code == SQLITE_DONE;
    if (is_done)
        step->changes = sq.total_changes(handle) == before ? 0 : sq.changes(handle);
    bool is_refused = (code & PRIMARY_CODE) == SQLITE_CONSTRAINT && batch->kind == WRITE && is_alone &&
                      !sq.get_autocommit(handle) && keep_error(batch, step);
    code = sq.reset(statement);   /* this ends a statement whose rows were not all taken, and it may still be refused then */
    sq.clear_bindings(statement); /* the bytes of the parameters go when the batch goes */
    if (is_refused)
        return !may_keep_changes(batch->database, step, before); /* this may finalize the statement */
    return is_done && code == SQLITE_OK;
}

static bool run_unit(Batch *batch, const Unit *unit, Step *steps)
{
    bool is_alone = unit->step_count == 1 && !batch->is_whole && !batch->is_inside;
    for (int i = 0; i < unit->step_count; i++) {
        if (!run_step(batch, &steps[i], is_alone))
            return false;
        if (i == 0 && unit->runs_once && steps[i].row_count > 0)
            return true;
    }
    return true;
}

static bool run_steps(Batch *batch)
{
    Step *next = batch->steps;
    for (int u = 0; u < batch->unit_count; next += batch->units[u++].step_count)
        if (!run_unit(batch, &batch->units[u], next))
            return false;
    return true;
}

/* Keep the code and the message with which SQLite has refused the whole batch. */
static BatchState refused(Batch *batch, int code)
{
    batch->commit_code = code;
    batch->commit_message = strdup(sq.errmsg(batch->database->handle));
    return REFUSED;
}

/* Without the log's name on the disk, the commit may be lost in a power failure, and the callers are told so. */
static BatchState make_log_durable(Batch *batch)
{
    int error = writer_make_log_durable(batch->database);
    if (error == 0)
        return ENDED;
    batch->commit_code = SQLITE_IOERR_DIR_FSYNC;
    batch->commit_message = strdup(strerror(error));
    return REFUSED;
}

static bool is_busy(int code)
{
    return (code & PRIMARY_CODE) == SQLITE_BUSY;
}

static BatchState run_write(Batch *batch)
{
    Database *database = batch->database;
    fit_cache(database);
    fit_log(batch);
    int code = RUN(database, BEGIN_WRITE);
    if (code != SQLITE_OK)
        return is_busy(code) ? refused(batch, code) : IN_PYTHON;
    bool is_own = is_owner(database);
    if (is_own)
        lengthen_log(database);
    if (!is_own || !run_steps(batch) || sq.get_autocommit(database->handle)) {
        roll_back(database);
        return IN_PYTHON;
    }
    code = RUN(database, COMMIT);
    if (code == SQLITE_OK)
        return make_log_durable(batch);
    bool is_refused = (code & PRIMARY_CODE) == SQLITE_IOERR || is_busy(code);
    if (is_refused)
        refused(batch, code);
    roll_back(database);
    return is_refused ? REFUSED : IN_PYTHON;
}

static BatchState run_read(Batch *batch)
{
    Database *database = batch->database;
    fit_cache(database);
    if (!is_unchanged(database) || (batch->step_count > 1 && RUN(database, BEGIN_READ) != SQLITE_OK))
        return IN_PYTHON;
    bool is_whole = run_steps(batch);
    roll_back(database);
    return is_whole ? ENDED : IN_PYTHON;
}

/* Run a statement or a unit inside the open transaction, which goes on unless SQLite has ended it because of an error. */
static BatchState run_inside(Batch *batch)
{
    Database *database = batch->database;
    bool is_write = batch->kind == WRITE, is_begun = !is_write || RUN(database, SAVEPOINT) == SQLITE_OK;
    if (is_begun && run_steps(batch) && (!is_write || RUN(database, RELEASE) == SQLITE_OK))
        return ENDED;
    BatchState state = sq.get_autocommit(database->handle) ? refused(batch, sq.extended_errcode(database->handle)) : IN_PYTHON;
    bool is_undone = !is_write || !is_begun || (RUN(database, UNDO) == SQLITE_OK && RUN(database, RELEASE) == SQLITE_OK);
    if (state == IN_PYTHON && !is_undone) { /* a partial unit must never be committed */
        state = refused(batch, sq.extended_errcode(database->handle));
        roll_back(database);
    }
    return state;
}

BatchState batch_run(Batch *batch)
{
    Database *database = batch->database;
    if (batch->kind == OPEN)
        return rest_open(batch);
    if (atomic_exchange(&database->is_busy, true))
        return IN_PYTHON; /* a second queue of the same connection; Python's sqlite3 makes one of them wait */
    BatchState state = IN_PYTHON;
    if (batch->kind == CLOSE)
        state = rest_close(batch);
    /* In Python, a batch waits for the end of an open transaction, and a unit of a transaction that has ended is refused. */
    else if (open_handle(database) != NULL && batch->is_inside == !sq.get_autocommit(database->handle))
        state = batch->is_inside ? run_inside(batch) : batch->kind == WRITE ? run_write(batch) : run_read(batch);
    database->is_busy = false;
    return state;
}

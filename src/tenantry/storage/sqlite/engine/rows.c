/* Copies the rows of a statement into the arena of its batch, without the interpreter's lock. */
#include "engine.h"
#include <string.h>

bool is_utf8(const unsigned char *at, size_t length)
{
    const unsigned char *end = at + length;
    while (at < end) {
        uint64_t word;
        if (end - at >= (ptrdiff_t)sizeof word && (memcpy(&word, at, sizeof word), !(word & 0x8080808080808080u))) {
            at += sizeof word; /* eight characters of ASCII */
            continue;
        }
        unsigned char first = *at++;
        if (first < 0x80)
            continue;
        int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
        if (first < 0xc2 || first > 0xf4 || end - at < more)
            return false;
        unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if (*at < low || *at > high)
            return false;
        for (at++; more > 1; more--)
            if ((*at++ & 0xc0) != 0x80)
                return false;
    }
    return true;
}

/* Python decodes a long text of a read as strictly, and the read then runs again in Python: a check here would take as long as decoding.
 * A text that a write returns has to be good before COMMIT. */
static bool is_good_text(const unsigned char *at, size_t length, Kind kind)
{
    return (kind == READ && length > CHECKED_BYTES_MAX) || is_utf8(at, length);
}

static bool copy_value(Arena *arena, sqlite3_stmt *statement, int column, Value *value, Kind kind)
{
    value->type = sq.column_type(statement, column);
    if (value->type == SQLITE_INTEGER) {
        value->as.integer = sq.column_int64(statement, column);
    } else if (value->type == SQLITE_FLOAT) {
        value->as.real = sq.column_double(statement, column);
    } else if (value->type != SQLITE_NULL) {
        bool is_text = value->type == SQLITE_TEXT;
        const void *bytes = is_text ? (const void *)sq.column_text(statement, column) : sq.column_blob(statement, column);
        value->length = sq.column_bytes(statement, column);
        if (bytes == NULL && value->length > 0)
            return false; /* no memory */
        char *copy = arena_take(arena, (size_t)value->length + 1);
        if (copy == NULL || (is_text && value->length > 0 && !is_good_text(bytes, (size_t)value->length, kind)))
            return false;
        if (value->length > 0)
            memcpy(copy, bytes, (size_t)value->length);
        value->as.bytes = copy;
    }
    return true;
}

/* Copy the row at which a statement stands; return false if Python must run the batch. */
bool copy_row(Arena *arena, sqlite3_stmt *statement, Step *step, Kind kind)
{
    size_t columns = (size_t)step->column_count;
    if (step->row_count == step->row_capacity) {
        size_t capacity = step->row_capacity ? 2 * step->row_capacity : 1;
        if (capacity > result_bytes_max / (columns * sizeof(Value)))
            return false;
        Value *rows = arena_take(arena, capacity * columns * sizeof(Value));
        if (rows == NULL)
            return false;
        if (step->row_count)
            memcpy(rows, step->rows, step->row_count * columns * sizeof(Value));
        step->rows = rows;
        step->row_capacity = capacity;
    }
    Value *row = &step->rows[step->row_count * columns];
    for (int i = 0; i < step->column_count; i++)
        if (!copy_value(arena, statement, i, &row[i], kind))
            return false;
    step->row_count++;
    return true;
}

/* Copy the names of the columns; return false if Python must run the batch. */
bool copy_names(Arena *arena, sqlite3_stmt *statement, Step *step)
{
    step->column_names = arena_take(arena, (size_t)step->column_count * sizeof *step->column_names);
    for (int i = 0; step->column_names != NULL && i < step->column_count; i++) {
        const char *name = sq.column_name(statement, i);
        char *copy = name == NULL || !is_utf8((const unsigned char *)name, strlen(name)) ? NULL : arena_take(arena, strlen(name) + 1);
        if (copy == NULL)
            return false;
        step->column_names[i] = strcpy(copy, name);
    }
    return step->column_names != NULL;
}

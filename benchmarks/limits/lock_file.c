/* The lock file beside a database: a lock of flock(2), and two lines of 128 bytes. The first names the holder, or is "released"; the
 * second notes which database the write-ahead log belongs to. tenantry reads both lines when it opens the same tenant afterwards, so
 * they must be right.
 */
#include "limit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOCK_MODE = 0600, HOST_BYTES_MAX = 64 };

static const char RELEASED[] = "released";

/* Writes one of the two lines, padded with spaces to its fixed length. */
static void write_line(int fd, const char *path, off_t offset, const char *content)
{
    char line[LOCK_CONTENT_BYTES];
    size_t length = strlen(content);
    if (length >= sizeof line)
        die(path, "the line '%s' is too long", content);
    memset(line, ' ', sizeof line);
    memcpy(line, content, length);
    line[sizeof line - 1] = '\n';
    if (pwrite(fd, line, sizeof line, offset) != (ssize_t)sizeof line)
        die(path, "cannot be written: %s", strerror(errno));
}

/* Reads one of the two lines without its padding; an empty text if the file has no such line. */
static void read_line(int fd, const char *path, off_t offset, char line[LOCK_CONTENT_BYTES + 1])
{
    ssize_t length = pread(fd, line, LOCK_CONTENT_BYTES, offset);
    if (length < 0)
        die(path, "cannot be read: %s", strerror(errno));
    while (length > 0 && (line[length - 1] == ' ' || line[length - 1] == '\n'))
        length--;
    line[length] = '\0';
}

int acquire_lock(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, LOCK_MODE);
    if (fd < 0)
        die(path, "cannot be opened: %s", strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        die(path, "cannot be locked: %s", strerror(errno));
    struct stat held, named;
    if (fstat(fd, &held) != 0 || lstat(path, &named) != 0 || held.st_ino != named.st_ino || held.st_dev != named.st_dev)
        die(path, "was replaced while it was being locked");
    char line[LOCK_CONTENT_BYTES + 1];
    read_line(fd, path, 0, line);
    if (strcmp(line, RELEASED) != 0)
        die(path, "the last owner did not close the tenant: '%s'", line);
    char host[HOST_BYTES_MAX], holder[LOCK_CONTENT_BYTES];
    if (gethostname(host, sizeof host) != 0)
        die(path, "this host has no name: %s", strerror(errno));
    host[sizeof host - 1] = '\0';
    int length = snprintf(holder, sizeof holder, "{\"pid\": %ld, \"host\": \"%s\"}", (long)getpid(), host);
    if (length < 0 || (size_t)length >= sizeof holder)
        die(path, "the holder's name is too long");
    write_line(fd, path, 0, holder);
    return fd;
}

void write_note(int fd, const char *lock_path, const char *database, int64_t epoch)
{
    struct stat lock, file;
    if (fstat(fd, &lock) != 0)
        die(lock_path, "%s", strerror(errno));
    if (lstat(database, &file) != 0)
        die(database, "%s", strerror(errno));
    char before[LOCK_CONTENT_BYTES + 1], note[LOCK_CONTENT_BYTES];
    int length = snprintf(note, sizeof note, "[%ju, %ju, %" PRId64 "]", (uintmax_t)lock.st_ino, (uintmax_t)file.st_ino, epoch);
    if (length < 0 || (size_t)length >= sizeof note)
        die(lock_path, "the note is too long");
    read_line(fd, lock_path, LOCK_CONTENT_BYTES, before);
    /* tenantry syncs a note only if the one before names another file or a later epoch. Nobody replaces a benchmark's files. */
    if (strcmp(before, note) != 0)
        write_line(fd, lock_path, LOCK_CONTENT_BYTES, note);
}

void release_lock(int fd, const char *path)
{
    write_line(fd, path, 0, RELEASED);
    if (close(fd) != 0)
        die(path, "cannot be closed: %s", strerror(errno));
}

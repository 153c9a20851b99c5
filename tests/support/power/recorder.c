/* Records every change to the files below one directory, and makes chosen system calls fail.
 *
 * The library is preloaded (LD_PRELOAD, ld.so(8)) and does nothing until power_start() is called. SQLite and CPython make
 * their system calls through the C library, so this library sees them. Each function does the system call itself and then
 * appends a record to the trace. One lock is held over both, so the order of the trace is the order of the effects.
 *
 * Whether a call is about the directory is decided from the path, or from the descriptor's path in /proc/self/fd.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Kinds of system calls, as bits; tracing.py has the same table. */
enum { OPEN = 1, READ = 2, WRITE = 4, SYNC = 8, TRUNCATE = 16, RENAME = 32, UNLINK = 64, MKDIR = 128, LINK = 256 };

/* What a record says; tracing.py has the same table. */
enum { R_CREATE = 1, R_WRITE, R_TRUNCATE, R_SYNC, R_RENAME, R_UNLINK, R_MKDIR, R_RMDIR, R_LINK, R_MARK };

struct record {
    uint32_t operation;
    int32_t error;
    uint64_t inode;
    uint64_t offset;
    uint32_t path_bytes;
    uint32_t other_bytes;
    uint64_t data_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_bytes;
static int trace = -1;
static int is_started;

static struct {
    unsigned kinds;
    int error;
    long first;
    int is_lasting;
    char name[256];
    long number;
    long failed;
    char what[PATH_MAX + 32];
} fault;

static long calls[16];

/* ---- what Python calls through ctypes ---- */

/* Begin: `directory` is absolute and has no links in it; `trace_path` may be empty, then nothing is recorded. */
int power_start(const char *directory, const char *trace_path) {
    root_bytes = strlen(directory);
    if (root_bytes >= sizeof root) return -1;
    memcpy(root, directory, root_bytes + 1);
    if (*trace_path) {
        trace = syscall(SYS_openat, AT_FDCWD, trace_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (trace < 0) return -1;
    }
    is_started = 1;
    return 0;
}

/* From now on let calls of these kinds fail: the `first` of them, counted from one, and with `is_lasting` all after it.
 * A write without an error number does not fail and writes only its first half. Only calls about paths that contain `name`
 * count. */
void power_fail(unsigned kinds, int error, long first, int is_lasting, const char *name) {
    pthread_mutex_lock(&lock);
    fault.kinds = kinds;
    fault.error = error;
    fault.first = first;
    fault.is_lasting = is_lasting;
    snprintf(fault.name, sizeof fault.name, "%s", name);
    fault.number = fault.failed = 0;
    fault.what[0] = 0;
    pthread_mutex_unlock(&lock);
}

/* Let every call succeed again; what has failed so far can still be asked for. */
void power_fail_no_more(void) { fault.kinds = 0; }

/* How many calls of a kind there were. */
long power_calls(unsigned kind) { return calls[__builtin_ctz(kind)]; }

long power_failed(void) { return fault.failed; }
const char *power_failed_what(void) { return fault.what; }

/* ---- the trace ---- */

static void write_all(const void *bytes, size_t left) {
    const char *next = bytes;
    while (left) {
        ssize_t written = syscall(SYS_write, trace, next, left);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) abort(); /* a trace with a hole proves nothing */
        next += written;
        left -= written;
    }
}

static void append(uint32_t operation, int error, uint64_t inode, uint64_t offset, const char *path, const char *other,
                   const void *data, uint64_t data_bytes) {
    if (trace < 0) return;
    int kept = errno;
    struct record record = {operation, error, inode, offset, strlen(path), strlen(other), data_bytes};
    write_all(&record, sizeof record);
    write_all(path, record.path_bytes);
    write_all(other, record.other_bytes);
    write_all(data, data_bytes);
    errno = kept;
}

/* Say in the trace that something has happened, such as an acknowledgement. */
void power_mark(const char *text) {
    pthread_mutex_lock(&lock);
    append(R_MARK, 0, 0, 0, text, "", NULL, 0);
    pthread_mutex_unlock(&lock);
}

/* ---- which calls are about the directory ---- */

static int is_below(const char *path) {
    return !strncmp(path, root, root_bytes) && (path[root_bytes] == '/' || !path[root_bytes]);
}

/* Find the path of a descriptor; return whether it lies below the root. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

/* Find the absolute path of what a call names; return whether it lies below the root. */
static int resolve(int directory, const char *name, char *path) {
    if (!is_started || !name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char base[PATH_MAX];
        if (directory == AT_FDCWD) {
            if (syscall(SYS_getcwd, base, sizeof base) < 0) return 0;
        } else {
            path_of(directory, base);
        }
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return is_below(path);
}

static int is_known(int fd, char *path) {
    if (!is_started) return 0;
    int kept = errno;
    int found = path_of(fd, path);
    errno = kept;
    return found;
}

static uint64_t inode_at(const char *path) {
    struct stat found;
    return fstatat(AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_ino;
}

static uint64_t inode_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_ino;
}

/* Count a call, and return whether it is to fail; the lock is held. */
static int is_to_fail(unsigned kind, const char *call, const char *path) {
    calls[__builtin_ctz(kind)]++;
    if (!(fault.kinds & kind) || !strstr(path, fault.name)) return 0;
    long number = ++fault.number;
    if (number != fault.first && !(fault.is_lasting && number > fault.first)) return 0;
    if (!fault.failed++) snprintf(fault.what, sizeof fault.what, "%s %s", call, path + root_bytes);
    errno = fault.error;
    return 1;
}

/* ---- files: opened, read, written, synced ---- */

static int do_open(int directory, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!resolve(directory, name, path)) return syscall(SYS_openat, directory, name, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = -1;
    if (!is_to_fail(OPEN, "open", path)) {
        uint64_t before = flags & (O_CREAT | O_TRUNC) ? inode_at(path) : 1;
        fd = syscall(SYS_openat, directory, name, flags, mode);
        if (fd >= 0 && !before) append(R_CREATE, 0, inode_of(fd), 0, path, "", NULL, 0);
        if (fd >= 0 && before && flags & O_TRUNC) append(R_TRUNCATE, 0, inode_of(fd), 0, path, "", NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE_OF(flags)                                     \
    mode_t mode = 0;                                       \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        mode = va_arg(rest, mode_t);                       \
        va_end(rest);                                      \
    }

int open(const char *name, int flags, ...) { MODE_OF(flags) return do_open(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE_OF(flags) return do_open(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) {
    MODE_OF(flags) return do_open(directory, name, flags, mode);
}
int openat64(int directory, const char *name, int flags, ...) {
    MODE_OF(flags) return do_open(directory, name, flags, mode);
}
int __open_2(const char *name, int flags) { return do_open(AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return do_open(AT_FDCWD, name, flags, 0); }
int __openat_2(int directory, const char *name, int flags) { return do_open(directory, name, flags, 0); }
int __openat64_2(int directory, const char *name, int flags) { return do_open(directory, name, flags, 0); }
int creat(const char *name, mode_t mode) { return do_open(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

static int do_mknod(int directory, const char *name, mode_t mode, dev_t device) {
    char path[PATH_MAX];
    if (!resolve(directory, name, path)) return syscall(SYS_mknodat, directory, name, mode, device);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!is_to_fail(OPEN, "mknod", path)) {
        result = syscall(SYS_mknodat, directory, name, mode, device);
        if (!result) append(R_CREATE, 0, inode_at(path), 0, path, "", NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int mknod(const char *name, mode_t mode, dev_t device) { return do_mknod(AT_FDCWD, name, mode, device); }
int mknodat(int directory, const char *name, mode_t mode, dev_t device) {
    return do_mknod(directory, name, mode, device);
}

static int is_read_to_fail(int fd) {
    char path[PATH_MAX];
    if (!is_known(fd, path)) return 0;
    pthread_mutex_lock(&lock);
    int fails = is_to_fail(READ, "read", path);
    pthread_mutex_unlock(&lock);
    return fails;
}

ssize_t read(int fd, void *bytes, size_t size) {
    return is_read_to_fail(fd) ? -1 : syscall(SYS_read, fd, bytes, size);
}
ssize_t pread(int fd, void *bytes, size_t size, off_t offset) {
    return is_read_to_fail(fd) ? -1 : syscall(SYS_pread64, fd, bytes, size, offset);
}
ssize_t pread64(int fd, void *bytes, size_t size, off_t offset) { return pread(fd, bytes, size, offset); }

/* Whether this write is to fail; with no error number it is cut short instead. */
static int is_write_to_fail(const char *path, size_t *size) {
    if (!is_to_fail(WRITE, "write", path)) return 0;
    if (fault.error) return 1;
    *size = (*size + 1) / 2;
    return 0;
}

/* Write at an offset, or where the descriptor stands (offset -1). */
static ssize_t do_write(int fd, const void *bytes, size_t size, off_t offset) {
    char path[PATH_MAX];
    int is_ours = is_known(fd, path);
    if (is_ours) pthread_mutex_lock(&lock);
    ssize_t written = -1;
    if (!is_ours || !is_write_to_fail(path, &size)) {
        written = offset < 0 ? syscall(SYS_write, fd, bytes, size) : syscall(SYS_pwrite64, fd, bytes, size, offset);
        if (is_ours && written > 0) {
            off_t start = offset < 0 ? lseek(fd, 0, SEEK_CUR) - written : offset;
            append(R_WRITE, 0, inode_of(fd), start, path, "", bytes, written);
        }
    }
    if (is_ours) pthread_mutex_unlock(&lock);
    return written;
}

ssize_t write(int fd, const void *bytes, size_t size) { return do_write(fd, bytes, size, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return do_write(fd, bytes, size, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) { return do_write(fd, bytes, size, offset); }

/* What the kernel has copied is read back for the trace. */
static void append_copied(int fd, const char *path, off_t start, ssize_t size) {
    char *copied = malloc(size);
    if (!copied || syscall(SYS_pread64, fd, copied, size, start) != size) {
        /* The descriptor may be for writing only: read through another one. */
        int other = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
        if (!copied || other < 0 || syscall(SYS_pread64, other, copied, size, start) != size) abort();
        syscall(SYS_close, other);
    }
    append(R_WRITE, 0, inode_of(fd), start, path, "", copied, size);
    free(copied);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!is_known(fd, path)) return syscall(SYS_writev, fd, parts, count);
    pthread_mutex_lock(&lock);
    ssize_t written = -1;
    if (!is_to_fail(WRITE, "write", path)) {
        written = syscall(SYS_writev, fd, parts, count);
        if (written > 0) append_copied(fd, path, lseek(fd, 0, SEEK_CUR) - written, written);
    }
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    char path[PATH_MAX];
    if (!is_known(out, path)) return syscall(SYS_sendfile, out, in, offset, size);
    pthread_mutex_lock(&lock);
    ssize_t written = -1;
    if (!is_write_to_fail(path, &size)) {
        written = syscall(SYS_sendfile, out, in, offset, size);
        if (written > 0) append_copied(out, path, lseek(out, 0, SEEK_CUR) - written, written);
    }
    pthread_mutex_unlock(&lock);
    return written;
}
ssize_t sendfile64(int out, int in, off_t *offset, size_t size) { return sendfile(out, in, offset, size); }

/* Callers fall back to reading and writing, which is recorded. */
ssize_t copy_file_range(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t size, unsigned flags) {
    char path[PATH_MAX];
    if (!is_known(out, path)) return syscall(SYS_copy_file_range, in, in_offset, out, out_offset, size, flags);
    errno = ENOSYS;
    return -1;
}

static int do_truncate(int fd, const char *name, off_t size) {
    char path[PATH_MAX];
    int is_ours = name ? resolve(AT_FDCWD, name, path) : is_known(fd, path);
    if (is_ours) pthread_mutex_lock(&lock);
    int result = -1;
    if (!is_ours || !is_to_fail(TRUNCATE, "truncate", path)) {
        result = name ? syscall(SYS_truncate, name, size) : syscall(SYS_ftruncate, fd, size);
        if (is_ours && !result)
            append(R_TRUNCATE, 0, name ? inode_at(path) : inode_of(fd), size, path, "", NULL, 0);
    }
    if (is_ours) pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) { return do_truncate(fd, NULL, size); }
int ftruncate64(int fd, off_t size) { return do_truncate(fd, NULL, size); }
int truncate(const char *name, off_t size) { return do_truncate(-1, name, size); }
int truncate64(const char *name, off_t size) { return do_truncate(-1, name, size); }

/* Growing a file so is a truncation to a larger size, as far as its content goes. */
int posix_fallocate(int fd, off_t offset, off_t size) {
    char path[PATH_MAX];
    struct stat found;
    if (!is_known(fd, path)) return syscall(SYS_fallocate, fd, 0, offset, size) ? errno : 0;
    if (fstat(fd, &found)) return errno;
    return offset + size > found.st_size && ftruncate(fd, offset + size) ? errno : 0;
}
int posix_fallocate64(int fd, off_t offset, off_t size) { return posix_fallocate(fd, offset, size); }

/* The real sync is left out: what is durable is decided by the model, not by this machine's disk. */
static int do_sync(int fd, long number) {
    char path[PATH_MAX];
    if (!is_known(fd, path)) return syscall(number, fd);
    pthread_mutex_lock(&lock);
    int fails = is_to_fail(SYNC, "fsync", path);
    append(R_SYNC, fails ? fault.error : 0, inode_of(fd), 0, path, "", NULL, 0);
    pthread_mutex_unlock(&lock);
    return fails ? -1 : 0;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

/* ---- names ---- */

static int do_rename(int old_directory, const char *old_name, int new_directory, const char *new_name, unsigned flags) {
    char path[PATH_MAX], other[PATH_MAX];
    int is_ours = resolve(old_directory, old_name, path);
    is_ours |= resolve(new_directory, new_name, other);
    if (!is_ours) return syscall(SYS_renameat2, old_directory, old_name, new_directory, new_name, flags);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!is_to_fail(RENAME, "rename", other)) {
        uint64_t inode = inode_at(path);
        result = syscall(SYS_renameat2, old_directory, old_name, new_directory, new_name, flags);
        if (!result) append(R_RENAME, 0, inode, 0, path, other, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *old_name, const char *new_name) {
    return do_rename(AT_FDCWD, old_name, AT_FDCWD, new_name, 0);
}
int renameat(int old_directory, const char *old_name, int new_directory, const char *new_name) {
    return do_rename(old_directory, old_name, new_directory, new_name, 0);
}
int renameat2(int old_directory, const char *old_name, int new_directory, const char *new_name, unsigned flags) {
    return do_rename(old_directory, old_name, new_directory, new_name, flags);
}

static int do_unlink(int directory, const char *name, int flags) {
    char path[PATH_MAX];
    if (!resolve(directory, name, path)) return syscall(SYS_unlinkat, directory, name, flags);
    int is_directory = flags & AT_REMOVEDIR;
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!is_to_fail(UNLINK, is_directory ? "rmdir" : "unlink", path)) {
        uint64_t inode = inode_at(path);
        result = syscall(SYS_unlinkat, directory, name, flags);
        if (!result) append(is_directory ? R_RMDIR : R_UNLINK, 0, inode, 0, path, "", NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *name) { return do_unlink(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return do_unlink(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int directory, const char *name, int flags) { return do_unlink(directory, name, flags); }
int remove(const char *name) {
    int result = unlink(name);
    return result && (errno == EISDIR || errno == EPERM) ? rmdir(name) : result;
}

static int do_mkdir(int directory, const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!resolve(directory, name, path)) return syscall(SYS_mkdirat, directory, name, mode);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!is_to_fail(MKDIR, "mkdir", path)) {
        result = syscall(SYS_mkdirat, directory, name, mode);
        if (!result) append(R_MKDIR, 0, inode_at(path), 0, path, "", NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *name, mode_t mode) { return do_mkdir(AT_FDCWD, name, mode); }
int mkdirat(int directory, const char *name, mode_t mode) { return do_mkdir(directory, name, mode); }

static int do_link(int old_directory, const char *old_name, int new_directory, const char *new_name, int flags) {
    char path[PATH_MAX], other[PATH_MAX];
    int is_ours = resolve(old_directory, old_name, path);
    is_ours |= resolve(new_directory, new_name, other);
    if (!is_ours) return syscall(SYS_linkat, old_directory, old_name, new_directory, new_name, flags);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (!is_to_fail(LINK, "link", other)) {
        uint64_t inode = inode_at(path);
        result = syscall(SYS_linkat, old_directory, old_name, new_directory, new_name, flags);
        if (!result) append(R_LINK, 0, inode, 0, path, other, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int link(const char *old_name, const char *new_name) {
    return do_link(AT_FDCWD, old_name, AT_FDCWD, new_name, 0);
}
int linkat(int old_directory, const char *old_name, int new_directory, const char *new_name, int flags) {
    return do_link(old_directory, old_name, new_directory, new_name, flags);
}

"""Checks the machine: SQLite's version, the engine, the file systems, their locks and free space, and the limit on open files."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantry.config import RegistryConfig
from tenantry.doctor.finding import Finding, note, ok, wrong
from tenantry.environment import variable
from tenantry.errors import PersistenceConnectionError
from tenantry.files.disk_space import DISK_BYTES_MIN
from tenantry.files.durable_files import lstat
from tenantry.storage.sqlite.database_files.open_files import check_open_files, fit_to_open_files
from tenantry.storage.sqlite.engine.choice import choose
from tenantry.storage.sqlite.version import SQLITE_VERSION, has_wal_reset_bug

_NETWORK: Final = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2"),
    *("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.glusterfs", "fuse.ceph"),
}
_MEMORY: Final = {"tmpfs", "ramfs"}
_PARTS: Final = ("tenants", "scratch", "operations", "snapshots")
_INODES_MIN: Final = 1_000
_MIB: Final = 2**20
_MOUNT_POINT: Final = 4  # a column of /proc/self/mountinfo, see proc_pid_mountinfo(5)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def check_machine(config: RegistryConfig) -> Iterator[Finding]:
    """Yield the findings about the machine; the data directory must exist."""
    yield _sqlite()
    yield _engine(config)
    for place in _file_systems(config.data_dir):
        yield _file_system(place)
        yield _locks(place)
        yield _space(place)
    yield _open_files(config)


def _file_systems(data_dir: Path) -> Iterator[Path]:
    """Yield the data directory, and its subdirectories that are on other file systems."""
    yield data_dir
    devices = {data_dir.stat().st_dev}
    for place in map(data_dir.joinpath, _PARTS):
        if place.is_dir() and (device := place.stat().st_dev) not in devices:
            devices.add(device)
            yield place


def held_locks() -> set[int] | None:
    """Return the inodes of the files that any process has locked with flock(2); None without ``/proc``."""
    locks = _listed_locks()
    return None if locks is None else {int(file.rpartition(":")[2]) for _, file in locks}


def is_held(path: Path, held: set[int] | None) -> bool:
    """Return whether any process has locked a file; `held` are the locks that `held_locks` has returned."""
    return is_locked(path) if held is None else inode_of(path) in held


def holders_of(path: Path) -> set[int]:
    """Return the ids of the processes that have locked a file or directory with flock(2), as far as they are visible here.

    No process is found without ``/proc``, and on a file system that reports another device to stat(2) than the kernel has, such as btrfs.
    """
    found = path.stat()
    locked = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return {pid for pid, file in _listed_locks() or () if file == locked}


def _listed_locks() -> list[tuple[int, str]] | None:
    """Return the process and the file (``major:minor:inode``) of each lock of flock(2), see proc_locks(5); None without ``/proc``."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    locks = [line.split() for line in lines]
    return [(int(fields[4]), fields[5]) for fields in locks if fields[1] == "FLOCK"]


def is_locked(path: Path) -> bool:
    """Return whether any process has an exclusive lock on a file, by trying a shared lock for a moment."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # the file was removed
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def inode_of(path: Path) -> int | None:
    """Return the inode of a file, in the form that `held_locks` returns; None if the file does not exist."""
    found = lstat(path)
    return None if found is None else found.st_ino


def _sqlite() -> Finding:
    check = "SQLite's version"
    if has_wal_reset_bug():
        return note(
            check,
            f"SQLite {SQLITE_VERSION} can damage a database when two connections write or checkpoint it at once; tenantry "
            "never does that",
            "let no other program write to tenants' databases; SQLite 3.51.3 fixes the bug "
            "(https://www.sqlite.org/wal.html, section 11)",
        )
    return ok(check, f"{SQLITE_VERSION}")


def _engine(config: RegistryConfig) -> Finding:
    check = "engine"
    is_required = config.engine == "native"
    choice = choose("auto" if is_required else config.engine)
    if choice.reason is not None and is_required:
        return wrong(
            check,
            f"the setting engine is 'native', but the engine in C cannot be used: {choice.reason}",
            f"do that, or set {variable('engine')}=auto, and Python's sqlite3 runs the statements",
        )
    if choice.reason is None:
        library = "" if choice.sqlite_library is None else f" in {choice.sqlite_library}"
        return ok(check, f"native, with SQLite {choice.sqlite_version}{library}")
    if config.engine == "auto":
        return note(check, f"Python's sqlite3 runs the statements: {choice.reason}")
    return ok(check, f"Python's sqlite3 runs the statements: {choice.reason}")


def _file_system(data_dir: Path) -> Finding:
    check = "file system"
    if os.statvfs(data_dir).f_flag & os.ST_RDONLY:
        return wrong(
            check,
            f"the file system of {data_dir} is read-only: no service starts",
            "find the cause (see mount and dmesg: after a disk error Linux makes the file system read-only), then mount it read-write",
        )
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        return wrong(
            check,
            f"the user {os.geteuid()} may not read and write in {data_dir}: no service of this user starts",
            "run the service, and this command, as the directory's owner",
        )
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return note(
            check,
            f"the type of the file system of {data_dir} is unknown, because this system has no /proc/self/mountinfo",
            "make sure that the directory is on a local disk",
        )
    name = file_system_type(data_dir, mounts)
    if name in _NETWORK:
        return wrong(
            check,
            f"{name} is a network file system: SQLite's locks are not reliable on it",
            "move the directory to a local disk",
        )
    if name in _MEMORY:
        return wrong(
            check,
            f"{name} is in memory: all data is lost when the machine stops",
            "move the directory to a disk",
        )
    return ok(check, f"{name} at {data_dir}")


def file_system_type(path: Path, mounts: str) -> str:
    """Return the type of a path's file system; `mounts` is the content of /proc/self/mountinfo."""
    place = path.resolve()
    best, best_type = Path("/"), "unknown"
    for line in mounts.splitlines():
        fields, _, after = line.partition(" - ")
        mount_point = Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields.split()[_MOUNT_POINT]))
        # A later mount hides an earlier mount on the same mount point.
        if place.is_relative_to(mount_point) and mount_point.is_relative_to(best):
            best, best_type = mount_point, after.split()[0]
    return best_type


def _locks(data_dir: Path) -> Finding:
    """Try to lock the directory itself, which no other code locks; the attempt writes nothing."""
    check = "locks"
    fds = [os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for _ in range(2)]
    try:
        fcntl.flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok(check, "flock works")
        return wrong(
            check,
            "flock is not enforced here: two exclusive locks of one file were granted",
            "move the directory to a local disk",
        )
    except BlockingIOError:
        return ok(check, "flock works")  # another examination holds the lock
    except OSError as error:
        return wrong(
            check,
            f"flock does not work here: {os.strerror(error.errno or 0)}",
            "move the directory to a local disk",
        )
    finally:
        for fd in fds:
            os.close(fd)


def _space(data_dir: Path) -> Finding:
    check = "disk space"
    usage = shutil.disk_usage(data_dir)
    found = f"{usage.free // _MIB:,} MiB free of {usage.total // _MIB:,} MiB"
    if usage.free < DISK_BYTES_MIN:
        return wrong(
            check, found, f"free some space: below {DISK_BYTES_MIN // _MIB} MiB the service is not ready"
        )
    status = os.statvfs(data_dir)
    if status.f_files and status.f_favail < _INODES_MIN:
        return wrong(
            check, f"{found}, but only {status.f_favail:,} inodes", "remove small files, or use a larger disk"
        )
    return ok(check, found)


def _open_files(config: RegistryConfig) -> Finding:
    check = "open files"
    to_do = "raise the service's limit of open files with LimitNOFILE= or ulimit -n"
    fitted = fit_to_open_files(config)
    try:
        check_open_files(fitted)
    except PersistenceConnectionError as error:
        return wrong(check, str(error), to_do)
    if fitted.open_tenants_max < config.open_tenants_max:
        return note(
            check,
            f"the limit is enough for {fitted.open_tenants_max} open tenants; the default is {config.open_tenants_max}",
            f"{to_do}, or set open_tenants_max",
        )
    return ok(check, f"the limit is enough for open_tenants_max ({config.open_tenants_max})")

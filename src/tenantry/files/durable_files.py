"""Creates, moves and removes files and directories durably: a later power failure does not undo the change.

fsync(2) of a file does not make the file's name durable. A new name, a new directory, a rename and a removal need an fsync
of the directory. An existing directory entry may not be durable, because its creator may have died before the fsync.
Therefore each function in this module ends with an fsync of the directory, even if the function changed nothing.

Directories are created from the top down, and each directory is durable before an entry is created in it. All parents of an
existing directory are therefore durable, and only the last existing directory's entry is synced.

These functions block, and raise `OSError` if the file system reports an error.
"""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from tenantry.errors import DataDirectoryError
from tenantry.files.disk_space import check_copy_fits

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
PART_SUFFIX: Final = ".part"
_CHUNK_BYTES: Final = 1024 * 1024

_CANNOT_SYNC: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL}


def make_root(directory: Path) -> None:
    """Create a directory and its missing parents, private and durable."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    if not missing and not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    found = missing[-1].parent if missing else directory
    sync_foreign_directory(found.parent)
    for path in reversed(missing):
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        sync_directory(path.parent)


def make_directories(root: Path, directory: Path) -> None:
    """Create the missing directories between `root` and `directory`, private and durable; refuse links in the path.

    Raises:
        DataDirectoryError: A part of the path is a link or not a directory.
        OSError: A directory cannot be created or synced.
    """
    unsynced, current = None, root
    for part in directory.relative_to(root).parts:
        parent, current = current, current / part
        found = lstat(current)
        if found is None:
            if unsynced is not None:
                sync_directory(unsynced)
            with contextlib.suppress(FileExistsError):
                current.mkdir(mode=DIRECTORY_MODE)
            sync_directory(parent)
            unsynced, found = None, current.lstat()
        else:
            unsynced = parent
        check_directory(current, found)
    if unsynced is not None:
        sync_directory(unsynced)


def move(source: Path, target: Path) -> None:
    """Rename a file durably and atomically, and replace an existing target.

    The file's content must already be durable, see `sync_file`. If `target` is on another file system, the file is first
    copied beside `target`, with `PART_SUFFIX` at the end of its name; a crash may leave the copy behind.

    Raises:
        OSError: The file cannot be moved, or the new name cannot be synced: a power failure may undo the move.
        StorageFullError: The disk has no space for the copy.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_across(source, target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def _copy_across(source: Path, target: Path) -> None:
    part = target.with_name(target.name + PART_SUFFIX)
    size_bytes = source.stat().st_size
    check_copy_fits(part.parent, size_bytes, size_bytes)
    try:
        part.unlink(missing_ok=True)
        with source.open("rb") as reader, open(part, "xb", opener=_open_private) as writer:  # has an opener
            shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
            writer.flush()
            os.fsync(writer.fileno())
        part.rename(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    source.unlink()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)


def link(existing: Path, name: Path) -> None:
    """Create a hard link to a file, durably; keep an existing file with the link's name."""
    with contextlib.suppress(FileExistsError):
        name.hardlink_to(existing)
    sync_directory(name.parent)


def remove_files(*paths: Path) -> None:
    """Remove files of the same directory durably; ignore missing files."""
    for path in paths:
        path.unlink(missing_ok=True)
    sync_directory(paths[0].parent)


def remove_tree(directory: Path) -> None:
    """Remove a directory and everything in it durably; ignore a missing directory."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
    with contextlib.suppress(FileNotFoundError):
        sync_directory(directory.parent)


def sync_file(path: Path) -> None:
    """Make a file's content and its name durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_foreign_directory(directory: Path) -> None:
    """Make the entries of a directory durable, unless the directory's owner or file system prevents the sync."""
    try:
        sync_directory(directory)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def check_own_path(root: Path, path: Path) -> bool:
    """Refuse a file below `root` that is a link or has a link in its path; accept a missing file.

    Each opening of a tenant calls this function. It joins strings, because joining paths takes longer than the system calls.

    Returns:
        Whether the directory of the file exists.

    Raises:
        DataDirectoryError: A part of the path is a link or not a directory, or the file is not a regular file.
    """
    current = os.fspath(root)
    *directories, name = path.relative_to(root).parts
    is_there = True
    for part in directories:
        current = f"{current}{os.sep}{part}"
        found = lstat(current)
        if is_there := found is not None:
            check_directory(current, found)
    if (found := lstat(f"{current}{os.sep}{name}")) is not None:
        check_file(path, found)
    return is_there


def check_directory(path: Path | str, found: os.stat_result) -> None:
    """Raise `DataDirectoryError` if a path is a link or not a directory."""
    if not stat.S_ISDIR(found.st_mode):
        raise DataDirectoryError(
            f"{path} is a link or not a directory: replace it by a directory",
            path=str(path),
        )


def check_file(path: Path, found: os.stat_result) -> None:
    """Raise `DataDirectoryError` if a database file is a link or not a regular file."""
    if not stat.S_ISREG(found.st_mode):
        raise DataDirectoryError(
            f"{path} is a link or not a regular file: replace it by the database file", path=str(path)
        )


def lstat(path: Path | str) -> os.stat_result | None:
    """Return the status of a path without following a link; None if the path does not exist."""
    try:
        return os.lstat(path)  # faster than the method of a `Path`
    except FileNotFoundError:
        return None


def unusable_error(data_dir: Path, error: Exception) -> DataDirectoryError:
    """Return the error for an unusable data directory."""
    return DataDirectoryError(
        f"the data directory {data_dir} cannot be used ({error}): give a directory that this process may write to",
        path=str(data_dir),
    )

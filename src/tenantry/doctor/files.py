"""Checks the owners and permissions of the files in a data directory, and finds files left behind by dead processes."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.doctor.machine import held_locks, inode_of, is_held
from tenantry.files.atomic_file import DRAFT_SUFFIX
from tenantry.storage.sqlite.database_files.data_files import LOST_AND_FOUND
from tenantry.tenancy.data_directory import is_shared_by_group

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_RIGHTS: Final = "permissions"
_LOCKED: Final = ("operations/*", "scratch/*.lock", f"snapshots/*/*{DRAFT_SUFFIX}")
"""Patterns of the files that a process locks during an operation and removes afterwards."""


def check_files(data_dir: Path) -> Iterator[Finding]:
    """Yield the findings about the files of a data directory."""
    yield from _rights(data_dir)
    yield _leftovers(data_dir)


class _Rights:
    """Collects the files and directories whose permissions, owner or type are wrong."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._root = data_dir.stat()
        self._is_shared = is_shared_by_group(self._root)
        self._count = 0
        self._open_to_all: set[str] = set()
        self._open_to_group: set[str] = set()
        self._foreign: set[str] = set()
        self._links: set[str] = set()
        self._strange: set[str] = set()

    def look_at(self, path: Path, found: os.stat_result) -> None:
        """Record the problems of a file or directory."""
        self._count += 1
        if stat.S_ISLNK(found.st_mode):
            self._links.add(str(path))
            return
        is_of_group = self._is_shared and found.st_gid == self._root.st_gid
        if found.st_mode & (stat.S_IRWXO if is_of_group else _OTHERS):
            # Kubernetes lets everyone list the root of a mounted volume, but protects the content.
            is_root = self._is_shared and path == self._data_dir and not found.st_mode & stat.S_IWOTH
            (self._open_to_group if is_root else self._open_to_all).add(str(path))
        elif found.st_mode & _OTHERS:
            self._open_to_group.add(str(path))
        if found.st_uid != self._root.st_uid and not is_of_group:
            self._foreign.add(str(path))
        if path.parent == self._data_dir / "tenants" and not stat.S_ISDIR(found.st_mode):
            self._strange.add(str(path))

    def findings(self) -> Iterator[Finding]:
        """Yield the findings."""
        data_dir, group = self._data_dir, self._root.st_gid
        if self._open_to_all:
            who = (
                f"users other than the owner and the group {group}"
                if self._is_shared
                else "users other than the owner"
            )
            yield wrong(
                _RIGHTS,
                f"{counted(len(self._open_to_all), 'file or directory is', 'files or directories are')} open to {who}",
                f"chmod -R {'o' if self._is_shared else 'go'}-rwx {data_dir}",
                self._open_to_all,
            )
        if self._open_to_group:
            yield note(
                _RIGHTS,
                f"{counted(len(self._open_to_group), 'file or directory is', 'files or directories are')} open to the group {group}, as "
                "Kubernetes' fsGroup makes it",
                f"nothing, if only the service is in the group {group}: every member can read and change all data",
                self._open_to_group,
            )
        if self._foreign:
            yield wrong(
                _RIGHTS,
                f"{counted(len(self._foreign), 'file or directory has', 'files or directories have')} a different owner from {data_dir}",
                f"chown -R {self._root.st_uid} {data_dir}",
                self._foreign,
            )
        if self._links:
            yield wrong(
                _RIGHTS,
                f"{counted(len(self._links), 'symbolic link', 'symbolic links')}: tenantry follows no links",
                "replace each link by its target",
                self._links,
            )
        if self._strange:
            yield wrong(
                "data directory",
                f"{counted(len(self._strange), 'file is', 'files are')} in {data_dir / 'tenants'}, where only directories may be: no service starts",
                "move them away",
                self._strange,
            )
        if not (self._open_to_all or self._open_to_group or self._foreign or self._links):
            yield ok(
                _RIGHTS,
                f"only their owner can access the {counted(self._count, 'file or directory', 'files and directories')}",
            )


def _rights(data_dir: Path) -> Iterator[Finding]:
    rights = _Rights(data_dir)
    for path, found in _walk(data_dir):
        rights.look_at(path, found)
    yield from rights.findings()


def _leftovers(data_dir: Path) -> Finding:
    """Find the lock files and incomplete files of processes that died."""
    found = {path: inode_of(path) for pattern in _LOCKED for path in data_dir.glob(pattern)}
    # The locks are read after the files are listed: otherwise a lock acquired in the meantime would seem abandoned.
    held = held_locks()
    left = {str(path) for path, inode in found.items() if not is_held(path, held) and inode_of(path) == inode}
    if left:
        return note(
            "leftovers",
            f"{counted(len(left), 'file', 'files')} of processes that died during an operation",
            "nothing: the running service, or the next start, finishes the operations and removes the files",
            left,
        )
    return ok("leftovers", "none")


def _walk(data_dir: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the directory and everything in it; skip files that vanish during the walk."""
    yield data_dir, data_dir.stat()
    for directory, names, files in os.walk(data_dir):
        # The directory lost+found at the top of a file system belongs to root and contains no files of tenantry.
        names[:] = [name for name in names if name != LOST_AND_FOUND]
        for name in (*names, *files):
            path = Path(directory, name)
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue

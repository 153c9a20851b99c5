"""Looks at the files of a data directory: whose they are, who may read them, and what was left behind."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantry.doctor.finding import Finding, note, ok, wrong
from tenantry.doctor.machine import held_locks
from tenantry.storage.draft import DRAFT_SUFFIX

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_LOCKED: Final = ("operations/*", "scratch/*.lock", f"snapshots/*/*{DRAFT_SUFFIX}")
"""Files that are locked by whoever is at something, and removed when it is done."""


def check_files(data_dir: Path) -> Iterator[Finding]:
    """Yield what is found of the files."""
    yield from _rights(data_dir)
    yield _leftovers(data_dir)


def _rights(data_dir: Path) -> Iterator[Finding]:
    owner = data_dir.stat().st_uid
    exposed, foreign, links, count = set(), set(), set(), 0
    for path, found in _walk(data_dir):
        count += 1
        if stat.S_ISLNK(found.st_mode):
            links.add(str(path))
            continue
        if found.st_mode & _OTHERS:
            exposed.add(str(path))
        if found.st_uid != owner:
            foreign.add(str(path))
    if exposed:
        yield wrong(
            "permissions",
            f"{len(exposed)} files or directories are open to others than their owner",
            f"chmod -R go-rwx {data_dir}",
            exposed,
        )
    if foreign:
        yield wrong(
            "permissions",
            f"{len(foreign)} files or directories belong to another user than {data_dir} does",
            f"chown -R {owner} {data_dir}",
            foreign,
        )
    if links:
        yield wrong(
            "permissions",
            f"{len(links)} symbolic links: tenantry refuses to follow them",
            "put what they lead to in their place",
            links,
        )
    if not exposed | foreign | links:
        yield ok("permissions", f"{count:,} files and directories are their owner's alone")


def _leftovers(data_dir: Path) -> Finding:
    """Look for what processes that died left: their locks, and the files that they were writing."""
    found = {path: _inode(path) for pattern in _LOCKED for path in data_dir.glob(pattern)}
    # Only now: a lock that was taken after one looked who holds it would seem to be nobody's.
    held = held_locks()
    left = {str(path) for path, inode in found.items() if inode not in held and _inode(path) == inode}
    if left:
        return note(
            "leftovers",
            f"{len(left)} files of processes that died in the middle of something",
            "nothing: the service that runs, or the next one, finishes what they began and removes them",
            left,
        )
    return ok("leftovers", "none")


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _walk(data_dir: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the directory and everything in it; what vanishes meanwhile is not missed."""
    yield data_dir, data_dir.stat()
    for directory, names, files in os.walk(data_dir):
        for name in (*names, *files):
            path = Path(directory, name)
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue

"""The files of a restore: the new database, and the replaced databases, which become restore points.

    placed    the new database is ``restore-<point>.db`` in the tenant's directory
    kept      the old database has a second name, ``points/<point>/tenant.db``
    exchanged ``restore-<point>.db`` is renamed to ``tenant.db``, which replaces the old database atomically

Each restore has its own restore point. A file that an earlier restore left behind has another name, so no restore uses that file.
The next restore removes the file. If ``restore-<point>.db`` exists, the databases were not exchanged. If neither
``restore-<point>.db`` nor ``points/<point>`` exists, the restore has not started.

These functions block; each function can be repeated after a crash.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tenantry.errors import DatabaseCorruptError, SnapshotError
from tenantry.files.atomic_file import storage_errors
from tenantry.files.disk_space import check_copy_fits
from tenantry.files.durable_files import (
    FILE_MODE,
    link,
    make_directories,
    move,
    remove_files,
    remove_tree,
    sync_directory,
)
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.database_files import log_note
from tenantry.storage.sqlite.database_files.database_file import has_log, log_of
from tenantry.storage.sqlite.database_files.layout import TenantPaths
from tenantry.storage.sqlite.maintenance import integrity, maintenance

_PLACED: Final = "restore-{}.db"
_ANY_PLACED: Final = "restore*.db*"
"""The pattern also matches a partial copy that a crash left, see `move`."""

_FOREIGN: Final = ".db-wal-of-another-database"


def copy_plain_file(source: Path, database: Path) -> None:
    """Copy a closed database; raise `SnapshotError` if the database is not one plain file, or changes during the copy."""
    found = ImmutableFile.find(source)
    if found is None:
        raise SnapshotError(
            f"{source} is not a database in one plain file: the file is missing or empty, or has a -wal or -journal beside it. If "
            f"that file belongs to the database, run sqlite3 {source} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    with storage_errors(f"copy {source}"):
        size_bytes = source.stat().st_size
        check_copy_fits(database.parent, size_bytes, size_bytes)
        shutil.copyfile(source, database)
    if not found.is_unchanged():
        raise SnapshotError(
            f"{source} was changed during the copy: close the database, then try again", is_retryable=True
        )


def kept_database(paths: TenantPaths, point: str) -> Path:
    """Return the path of a restore point's database, that is, the database that a restore replaced."""
    return _points_directory(paths) / point / paths.database.name


def list_points(paths: TenantPaths) -> list[str]:
    """Return the names of the restore points, the oldest first."""
    directory = _points_directory(paths)
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def copy_kept(kept: Path, database: Path, schemas: Sequence[Schema]) -> None:
    """Copy a restore point with its log. The restore point stays unchanged, because no second copy exists."""
    try:
        size_bytes = sum(path.stat().st_size for path in (kept, log_of(kept)) if path.exists())
        check_copy_fits(database.parent, size_bytes, size_bytes)
        shutil.copyfile(kept, database)
        if log_of(kept).exists():
            shutil.copyfile(log_of(kept), log_of(database))
    except OSError as error:
        raise SnapshotError(f"cannot copy {kept}: {error}") from error
    try:
        maintenance.checkpoint(database)
        integrity.check_closed(database, schemas=schemas)
    except DatabaseCorruptError as error:
        raise DatabaseCorruptError(f"the restore point {kept} is damaged; it was not changed") from error


def placed_database(paths: TenantPaths, point: str) -> Path:
    """Return the restored database's path before the exchange."""
    return paths.directory / _PLACED.format(point)


def place(database: Path, paths: TenantPaths, point: str, data_dir: Path) -> None:
    """Move the restored database into the tenant's directory."""
    try:
        make_directories(data_dir, paths.directory)
        # No other restore of this tenant runs now, because the caller holds the operation lock.
        for stale in paths.directory.glob(_ANY_PLACED):
            remove_files(stale)
        database.chmod(FILE_MODE)
        move(database, placed_database(paths, point))
    except OSError as error:
        raise SnapshotError(f"cannot put the restored database into {paths.directory}: {error}") from error


def give_up(paths: TenantPaths, point: str) -> bool:
    """Undo a restore that has not exchanged the databases; return False, with no effect, after the exchange."""
    placed, kept = placed_database(paths, point), kept_database(paths, point)
    if not placed.exists() and kept.parent.exists():
        return False
    if log_of(kept).exists() and not log_of(paths.database).exists():
        link(log_of(kept), log_of(paths.database))
    # The placed file is removed last, because its existence proves that the databases were not exchanged.
    remove_tree(kept.parent)
    remove_files(placed)
    return True


def keep(paths: TenantPaths, point: str, *, is_merged: bool) -> None:
    """Keep the tenant's database under a second name; a no-op if the databases were already exchanged.

    The function creates the restore point's directory first. If the placed file is then missing, the exchange was done.

    Args:
        paths: The tenant's files.
        point: The name of the restore point.
        is_merged: Whether to write the log into the database. A log and a database that an operator put in place may not belong
            together, so both files must then be kept unchanged.
    """
    kept = kept_database(paths, point)
    if not placed_database(paths, point).exists():
        return
    make_directories(paths.directory, kept.parent)
    if kept.exists() or not paths.database.exists():
        sync_directory(kept.parent)
        return
    log, kept_log = log_of(paths.database), log_of(kept)
    if log_note.is_foreign(paths.lock, paths.database):
        link(log, kept_log.with_suffix(_FOREIGN))
        link(paths.database, kept)
        return
    if has_log(paths.database):
        # The log gets its second name before SQLite opens the database, because SQLite removes the log of an invalid database.
        remove_files(kept_log)
        link(log, kept_log)
    if is_merged:
        try:
            maintenance.checkpoint(paths.database)
        except DatabaseCorruptError:
            pass  # The damaged database is kept unchanged, with its log.
        else:
            remove_files(kept_log)
    link(paths.database, kept)


def exchange(paths: TenantPaths, point: str) -> None:
    """Replace the old database, which has a second name, with the restored database; a no-op after the exchange."""
    placed = placed_database(paths, point)
    if not placed.exists():
        sync_directory(paths.directory)
        return
    # SQLite would apply the old database's log to the new database.
    remove_files(*(Path(f"{paths.database}{suffix}") for suffix in ("-wal", "-shm", "-journal")))
    move(placed, paths.database)


def has_begun(paths: TenantPaths, point: str) -> bool:
    """Return whether the restore has placed or kept a database."""
    return placed_database(paths, point).exists() or kept_database(paths, point).parent.exists()


def forget_points(paths: TenantPaths, newest: str, *, latest: str, kept_max: int) -> None:
    """Remove the oldest restore points except `newest`; ignore restore points whose names sort after `latest`."""
    others = [point for point in list_points(paths) if point != newest and point <= latest]
    for old in others[: max(0, len(others) + 1 - kept_max)]:
        shutil.rmtree(_points_directory(paths) / old, ignore_errors=True)


def _points_directory(paths: TenantPaths) -> Path:
    return paths.directory / "points"

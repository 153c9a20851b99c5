"""Work on a database that nobody has open: compact it, check it, copy it, count what is in it.

These functions block, for as long as the database is large; they run on a thread of their own.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from tenantry.errors import DatabaseCorruptError, PersistenceConnectionError, SnapshotError, TenantryError
from tenantry.files.disk_space import check_copy_fits
from tenantry.files.durable_files import sync_file, sync_foreign_directory
from tenantry.storage.sqlite import hardening
from tenantry.storage.sqlite.checkpoint import truncate_log
from tenantry.storage.sqlite.database_file import database_uri, is_missing, missing_error
from tenantry.storage.sqlite.errors import (
    DRIVER_ERRORS,
    error_text,
    is_damage,
    is_interrupted,
    is_machine_failure,
    map_connection_error,
    map_error,
)
from tenantry.storage.sqlite.functions import add_functions
from tenantry.storage.sqlite.hardening import Watch, check_seconds_max
from tenantry.storage.sqlite.immutable import ImmutableFile
from tenantry.storage.sqlite.left_log import make_log_durable
from tenantry.storage.sqlite.migrator import read_file_version
from tenantry.storage.sqlite.ownership import hand_over
from tenantry.storage.sqlite.sql_text import quoted
from tenantry.threads import check_cancelled

P = ParamSpec("P")
T = TypeVar("T")

SQLITE_VERSION: Final = sqlite3.sqlite_version
_PROBLEMS_SHOWN_MAX: Final = 5
_CHUNK_BYTES: Final = 1024 * 1024
_PAGES_PER_STEP: Final = 256
_BUSY_SECONDS: Final = 5.0
_GROWTH_PAGES_MAX: Final = 64
_WRITABLE: Final = "mode=rw"

Progress = Callable[[int, int], None]
"""Called with the pages left and the pages of all; raising ends the work."""


def _repeated_on_damage(work: Callable[P, T]) -> Callable[P, T]:
    """Run work a second time, on a new connection, if it met damage: SQLite says damage too when the disk failed to read once."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except DatabaseCorruptError:
            return work(*args, **kwargs)

    return run


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """What a check of a database found.

    Attributes:
        size_bytes: Of the file.
        sha256: Of the file, in hexadecimal.
        schema_versions: The version that each schema is at.
        row_counts: How many rows each table has.
        tenant_uid: Whose database it says it is, None if it does not say.
    """

    size_bytes: int
    sha256: str
    schema_versions: dict[str, int]
    row_counts: dict[str, int]
    tenant_uid: str | None


@_repeated_on_damage
def compact(path: Path) -> None:
    """Rebuild a database without the space that deleted rows left, and leave one checkpointed file.

    VACUUM is one transaction (https://www.sqlite.org/lang_vacuum.html): cut short, the file is as it was. It needs as much
    free space as the database is large, and as much again where temporary files are (https://www.sqlite.org/tempfiles.html).

    Raises:
        StorageFullError: It would leave too little space to those who write; the database is as it was.
        PersistenceError: SQLite refused; the database is as it was.
    """
    if path.exists():
        size_bytes = path.stat().st_size
        copies = 2 if _has_temporary_files(path.parent) else 1
        check_copy_fits(path.parent, copies * size_bytes, size_bytes)
    try:
        with closing(_connect(path, _WRITABLE)) as connection:
            connection.execute("VACUUM")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot compact {path}") from error


def _has_temporary_files(directory: Path) -> bool:
    """Return whether SQLite's temporary files are on the directory's file system."""
    places = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108
    for place in filter(None, places):
        if os.access(place, os.W_OK | os.X_OK):
            return Path(place).stat().st_dev == directory.stat().st_dev
    return True


@_repeated_on_damage
def checkpoint(path: Path) -> None:
    """Write what the write-ahead log holds into the database and leave one file.

    Raises:
        PersistenceError: SQLite refused, or another program reads the database at this moment.
    """
    try:
        with closing(_connect(path, _WRITABLE)) as connection:
            if not truncate_log(connection):
                raise PersistenceConnectionError(f"cannot checkpoint {path}: another program has it open")
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot checkpoint {path}") from error


def copy_database(source: sqlite3.Connection, target: Path, progress: Progress | None = None) -> None:
    """Write a consistent copy of an open database into a new file, durably, while others write to the database.

    SQLite's online backup (https://www.sqlite.org/backup.html). A read transaction pins the source: it neither waits for its
    writer nor begins again when that commits, and the copy is the state of one moment. The write-ahead log cannot be
    cut back meanwhile.

    Args:
        source: A connection that nothing else uses.
        target: The new file.
        progress: See `Progress`.

    Raises:
        sqlite3.Error: SQLite refused; no file is left.
        StorageFullError: It would leave too little space to those who write; no file is left.
        OSError: The file cannot be made durable.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        source.execute("BEGIN")
        try:
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            (page_bytes,) = source.execute("PRAGMA page_size").fetchone()

            def go_on(_status: int, left: int, total: int) -> None:
                check_cancelled()
                check_copy_fits(target.parent, left * page_bytes, total * page_bytes)
                if progress is not None:
                    progress(left, total)

            with closing(sqlite3.connect(target, isolation_level=None)) as connection:
                # What a crash leaves of it nobody uses: it is made durable as a whole.
                connection.execute("PRAGMA synchronous = OFF")
                source.backup(connection, pages=_PAGES_PER_STEP, progress=go_on)
        finally:
            if source.in_transaction:  # an error of the disk may have ended it
                source.execute("ROLLBACK")
        sync_file(target)
    except BaseException:
        remove_database(target)
        raise


@_repeated_on_damage
def check(path: Path, *, is_thorough: bool = False) -> DatabaseReport:
    """Check a database that is one file and return what is in it.

    Args:
        path: The file; it is opened as one that does not change, and neither locked nor written.
        is_thorough: Whether indexes are compared with their tables too (``integrity_check``, not ``quick_check``).

    Raises:
        DatabaseCorruptError: It is damaged, or no database.
        SnapshotError: It is sound, and a virtual table in it cannot be read.
        QueryError: The check took too long for a database of this size, or was cancelled.
    """
    try:
        with closing(_connect(path, "mode=ro&immutable=1", is_timed=True)) as connection:
            _check_integrity(connection, path, "integrity_check" if is_thorough else "quick_check")
            return DatabaseReport(
                size_bytes=path.stat().st_size,
                sha256=file_sha256(path),
                schema_versions=_schema_versions(connection),
                row_counts=_row_counts(connection),
                tenant_uid=_tenant_uid(connection),
            )
    except (*DRIVER_ERRORS, OSError) as error:
        raise _unreadable(error, path) from error


def check_connection(connection: sqlite3.Connection, *, name: str, is_thorough: bool) -> None:
    """Check an open database, while others read and write it.

    Raises:
        DatabaseCorruptError: It is damaged.
        sqlite3.Error: SQLite could not look, or met damage that it cannot describe.
    """
    _check_integrity(connection, name, "integrity_check" if is_thorough else "quick_check")


@_repeated_on_damage
def check_closed(path: Path, *, is_thorough: bool = False) -> None:
    """Check a database that nobody has open and change nothing; a write-ahead log that a crash left beside it counts.

    Raises:
        DatabaseCorruptError: It is damaged, or no database.
    """
    parameters = "mode=ro&immutable=1" if ImmutableFile.find(path) else "mode=ro"
    try:
        with closing(_connect(path, parameters, is_timed=True)) as connection:
            check_connection(connection, name=str(path), is_thorough=is_thorough)
    except DRIVER_ERRORS as error:
        raise _unreadable(error, path) from error


def read_closed_versions(path: Path) -> dict[str, int] | None:
    """Return the version that each schema of a closed database is at, without a lock; None unless it is, and stays, closed.

    Also None for a database whose versions contradict each other, as if it had been changed by hand: opening it reports how.
    """
    found = ImmutableFile.find(path)
    if found is None:
        return None
    try:
        with closing(_connect(path, "mode=ro&immutable=1")) as connection:
            versions = _schema_versions(connection)
            is_sound = read_file_version(connection) == sum(versions.values())
    except DRIVER_ERRORS:  # the next opening meets the same error and reports it
        return None
    return versions if is_sound and found.is_unchanged() else None


def repair(path: Path) -> None:
    """Check a database thoroughly, and build its indexes anew if that is all that is wrong with it.

    Raises:
        DatabaseCorruptError: It is damaged beyond that.
        PersistenceError: SQLite refused for another reason, such as a full disk.
    """
    try:
        with closing(_connect(path, _WRITABLE, is_timed=True)) as connection:
            try:
                _check_integrity(connection, path, "integrity_check")
            except DatabaseCorruptError:
                connection.execute("REINDEX")
                _check_integrity(connection, path, "integrity_check")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        mapped = map_error(error, f"cannot repair {path}")
        if isinstance(mapped, DatabaseCorruptError):
            raise DatabaseCorruptError(f"{mapped}: restore a snapshot", code=mapped.code) from error
        raise mapped from error


@_repeated_on_damage
def leave_wal(path: Path) -> None:
    """Make a copy a database with a rollback journal: one file, which can be read where nothing can be written.

    Raises:
        PersistenceError: SQLite refused.
    """
    try:
        with closing(_connect(path, _WRITABLE, is_timed=True)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot prepare {path}") from error


@_repeated_on_damage
def give_to(path: Path, tenant_uid: str) -> None:
    """Make a copy, which nobody uses, another tenant's database, and leave one file.

    Raises:
        PersistenceError: SQLite refused.
    """
    try:
        with closing(_connect(path, _WRITABLE, is_timed=True)) as connection:
            _limit_growth(connection)
            hand_over(connection, tenant_uid)
            # A key that was used for a write of the other tenant says nothing about writes of this one.
            connection.execute("DROP TABLE IF EXISTS tenantry_idempotency")
            truncate_log(connection)
    except DRIVER_ERRORS as error:
        raise map_error(error, f"cannot prepare {path}") from error


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check_cancelled()
            digest.update(chunk)
    return digest.hexdigest()


def remove_database(path: Path) -> None:
    """Remove a database that nobody has open, with all that lies beside it; what is missing is no error."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _connect(path: Path, parameters: str, *, is_timed: bool = False) -> sqlite3.Connection:
    """Open a database whose statements end when the caller is cancelled and, if timed, after a time by its size."""
    if is_missing(path):
        raise missing_error(path)
    if parameters == _WRITABLE:
        make_log_durable(path)
    connection = sqlite3.connect(
        database_uri(path, parameters), uri=True, isolation_level=None, timeout=_BUSY_SECONDS
    )
    try:
        Watch(check_seconds_max(path) if is_timed else None).watch(connection)
        connection.executescript(hardening.PRAGMAS)
        add_functions(connection)
        # With a rollback journal a commit is durable when the journal's removal is; with a write-ahead log it is FULL.
        connection.execute("PRAGMA synchronous = EXTRA")
        if parameters == _WRITABLE:
            # The first read makes a new log. SQLite syncs the directory with the first commit, but does not look whether that failed.
            read_file_version(connection)
            sync_foreign_directory(path.parent)
    except OSError as error:
        connection.close()
        raise map_connection_error(error, f"cannot sync {path.parent}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _unreadable(error: Exception, path: Path) -> TenantryError:
    """Return what a failure to read a database means: damage, unless it was stopped, or the machine failed."""
    if is_interrupted(error):
        return map_error(
            error, f"the check of {path} was cancelled, or took too long for a database of its size"
        )
    if is_machine_failure(error) or isinstance(error, OSError):
        return map_connection_error(error, f"cannot read {path}")
    return DatabaseCorruptError(f"{path} cannot be read as a database: {error_text(error)}")


def _limit_growth(connection: sqlite3.Connection) -> None:
    """Let a database grow by a few pages and no more: the work to come needs no others."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + _GROWTH_PAGES_MAX:d}").close()


def _check_integrity(connection: sqlite3.Connection, name: Path | str, pragma: str) -> None:
    rows = connection.execute(f"PRAGMA {pragma}({_PROBLEMS_SHOWN_MAX})")
    # A row may be of several lines, and the message goes into reasons, tables and logs, where one is one line.
    problems = [line for (row,) in rows for line in str(row).splitlines()]
    if problems != ["ok"]:
        raise DatabaseCorruptError(f"{name} is damaged: {'; '.join(problems)}")


def _schema_versions(connection: sqlite3.Connection) -> dict[str, int]:
    if "schema_migrations" not in _tables(connection):
        return {}
    return dict(connection.execute("SELECT schema, max(version) FROM schema_migrations GROUP BY schema"))


def _row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    counts = {}
    for table in _tables(connection):
        try:
            (counts[table],) = connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()  # noqa: S608
        except sqlite3.OperationalError as error:
            if is_damage(error) or error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise SnapshotError(
                f"table {table!r} of the database cannot be read ({error}): what a virtual table is made of was renamed or dropped; "
                "make the table anew or drop it, then try again",
                code=error.sqlite_errorname,
            ) from error
    return counts


def _tenant_uid(connection: sqlite3.Connection) -> str | None:
    if "tenantry_owner" not in _tables(connection):
        return None
    row = connection.execute("SELECT tenant_uid FROM tenantry_owner WHERE id = 1").fetchone()
    return None if row is None else row[0]


def _tables(connection: sqlite3.Connection) -> list[str]:
    sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    return [name for (name,) in connection.execute(sql)]

"""Opens SQLite connections: creates the file as private, checks the file before changing it, and sets the pragmas.

One job on a thread of the pool runs all these functions.
"""

import contextlib
import errno
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantry import events
from tenantry.config import JOURNAL_SIZE_LIMIT_BYTES, WAL_BYTES_MAX, Durability
from tenantry.errors import PersistenceConnectionError
from tenantry.eventlog import EventLog
from tenantry.files.durable_files import (
    FILE_MODE,
    check_file,
    check_own_path,
    lstat,
    make_directories,
    sync_foreign_directory,
)
from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.connections.borrowed import CACHED_STATEMENTS
from tenantry.storage.sqlite.connections.connect_hooks import NamedHook, run_hooks
from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.connections.pace import PROCESS
from tenantry.storage.sqlite.connections.script import run_script
from tenantry.storage.sqlite.connections.writability import check_writable
from tenantry.storage.sqlite.database_files.database_file import database_uri, is_missing, missing_error
from tenantry.storage.sqlite.database_files.left_log import make_log_durable
from tenantry.storage.sqlite.errors import is_busy
from tenantry.storage.sqlite.migrations.migrator import read_file_version
from tenantry.storage.sqlite.statements.page_limit import set_page_limit

if TYPE_CHECKING:
    from types import ModuleType

BUSY_TIMEOUT_SECONDS: Final = 5.0
READERS_MAX: Final = 16
WAL_HOLD_SECONDS: Final = 0.5
CHECKPOINT_PAGES: Final = 4000
"""The number of pages in the write-ahead log that starts a checkpoint: 16 MiB.

SQLite's default of 1,000 pages is low for tables with random keys, where each new row changes a different page of the key's index. A
page that changes twice before a checkpoint is written into the database only once. Inserting 10⁶ messages, 64 in each transaction,
reached 29,000 rows/s with 1,000 pages and 32,500 rows/s with 4,000 pages. The longest stall was about the same.
"""
QUERY_ONLY: Final = "PRAGMA query_only = ON;"
"""The setting of a connection that only reads."""

IMMUTABLE: Final = "mode=ro&immutable=1"
"""The URI parameters of a file that nobody writes (https://www.sqlite.org/uri.html#uriimmutable)."""


@dataclass(frozen=True, slots=True)
class SQLiteOptions:
    """The path of a database, and the options for opening the database.

    Attributes:
        path: The database file; None for a database in memory.
        root: The directory that must contain the path. Missing directories below the root are created, and links are refused.
        must_exist: Whether a missing file is an error. Otherwise a new database is created.
        database_bytes_max: The maximum size of the database; None for SQLite's own maximum.
        is_wal: True for a write-ahead log, False for a rollback journal. A file in the other mode is switched.
        is_read_by_writer: Whether reads run on the writer's connection. Must be True for databases in memory and with a rollback
            journal: a read-only connection cannot recover a journal.
        journal_size_limit_bytes: The length to which SQLite truncates the write-ahead log.
        wal_bytes_max: The length of the log at which new reads wait until the log is truncated.
        wal_hold_seconds: The longest time that reads and the writer wait for each other before the log is truncated.
        busy_timeout_seconds: The longest wait for another process's lock.
        engine: The engine, which sets new connections up; None to do so in Python.
    """

    path: Path | None
    root: Path | None = None
    must_exist: bool = False
    durability: Durability = "full"
    database_bytes_max: int | None = None
    is_wal: bool = True
    is_read_by_writer: bool = False
    readers_max: int = READERS_MAX
    journal_size_limit_bytes: int = JOURNAL_SIZE_LIMIT_BYTES
    wal_bytes_max: int = WAL_BYTES_MAX
    wal_hold_seconds: float = WAL_HOLD_SECONDS
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    connect_hooks: tuple[NamedHook, ...] = ()
    engine: "ModuleType | None" = None

    def __str__(self) -> str:
        return str(self.path or ":memory:")


def prepare_directory(options: SQLiteOptions) -> None:
    """Create the directory of the database file, unless the database must already exist."""
    path, root = options.path, options.root
    if path is None or root is None:
        return
    if not options.must_exist:
        make_directories(root, path.parent)
        return
    if not check_own_path(root, path):  # A new directory for a purged tenant would never be removed.
        raise missing_error(path)


def open_writer(
    options: SQLiteOptions, known_version: int, log: EventLog, *, is_log_synced: bool = True
) -> sqlite3.Connection:
    """Open the single connection that writes.

    Args:
        options: The path of the database and the options for opening it.
        known_version: The number of migrations that the code knows.
        log: The log for warnings about the file.
        is_log_synced: Whether to sync the directory entry of a new write-ahead log. With False, automatic checkpoints are off,
            and the caller must sync the entry after the first commit: see `tenantry.storage.sqlite.connections.new_log`.

    Raises:
        sqlite3.Error: SQLite cannot open the file, or the file is not a database.
        OSError: The file cannot be created.
        DataDirectoryError: The path is a link or not a regular file.
    """
    if options.path is None:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            run_hooks(options.connect_hooks, connection)
            hardening.harden(connection, options.engine)
            return _set_up(connection, options, log, is_fresh=True)
        except BaseException:
            connection.close()
            raise
    checkpoint_pages = CHECKPOINT_PAGES if is_log_synced else 0
    connection = _open_file(options.path, options, known_version, log, checkpoint_pages)
    try:
        if is_log_synced:
            # The first read after a switch to WAL mode creates the log. SQLite syncs the directory with the first commit, but does
            # not check whether that sync failed.
            read_file_version(connection)
            sync_foreign_directory(options.path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(options: SQLiteOptions) -> sqlite3.Connection:
    """Open a connection that can neither write nor checkpoint."""
    assert options.path is not None
    return open_read_only(options.path, "mode=ro", options)


def open_read_only(path: Path, parameters: str, options: SQLiteOptions) -> sqlite3.Connection:
    """Open a read-only connection, with URI parameters such as ``mode=ro`` (https://www.sqlite.org/uri.html)."""
    connection = _connect(path, parameters, options)
    try:
        run_script(f"{hardening.PRAGMAS} {QUERY_ONLY}", options.engine, connection)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        add_functions(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_file(
    path: Path, options: SQLiteOptions, known_version: int, log: EventLog, checkpoint_pages: int
) -> sqlite3.Connection:
    if options.must_exist and is_missing(path):
        raise missing_error(path)
    before = lstat(path) or _create_private(path)
    check_file(path, before)
    make_log_durable(path)
    connection = _connect(path, "mode=rw", options)
    try:
        hardening.harden(connection, options.engine)
        # The first read fails if the file is not a database, before a pragma could change the file.
        file_version = read_file_version(connection)
        is_fresh = file_version <= known_version
        _check_not_replaced(path, before)
        check_writable(path, file_version, options.busy_timeout_seconds, connection, options.engine)
        return _set_up(connection, options, log, is_fresh=is_fresh, checkpoint_pages=checkpoint_pages)
    except BaseException:
        connection.close()
        raise


def _create_private(path: Path) -> os.stat_result:
    """Create a private file, unless another process has just created the file, and return the file's status.

    ``mknod`` creates the file without a descriptor. Closing a descriptor of the file would release the locks of all other connections
    of this process (https://www.sqlite.org/howtocorrupt.html, section 2.2). On macOS and BSD only root may call ``mknod``. There the
    descriptor is closed at once: SQLite has no locks on a file that has just been created.
    """
    try:
        os.mknod(path, FILE_MODE | stat.S_IFREG)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    return path.lstat()


def _check_not_replaced(path: Path, before: os.stat_result) -> None:
    if not os.path.samestat(before, path.lstat()):
        raise PersistenceConnectionError(f"{path} was replaced while it was being opened: try again")


def _connect(path: Path, parameters: str, options: SQLiteOptions) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database_uri(path, parameters),
        uri=True,
        # Python starts no implicit transactions: tenantry runs every BEGIN.
        isolation_level=None,
        # `JobConnection` uses the connection on any thread, one job at a time.
        check_same_thread=False,
        timeout=options.busy_timeout_seconds,
        cached_statements=CACHED_STATEMENTS,
    )
    try:
        run_hooks(options.connect_hooks, connection)
    except BaseException:
        connection.close()
        raise
    PROCESS.watch(connection)
    return connection


def _set_up(
    connection: sqlite3.Connection,
    options: SQLiteOptions,
    log: EventLog,
    *,
    is_fresh: bool,
    checkpoint_pages: int = CHECKPOINT_PAGES,
) -> sqlite3.Connection:
    is_wal = options.is_wal
    if options.path is not None and is_fresh:
        # Switching the journal mode changes the file's header, so a file that is newer than the code is not switched.
        mode = _switch_to_wal(connection, options) if options.is_wal else _switch_from_wal(connection)
        if (mode == "wal") is not options.is_wal:
            log.warning(events.BACKEND_WAL_MODE_FAILED, path=str(options), mode=mode)
            is_wal = mode == "wal"
    run_script(
        writer_pragmas(options, is_wal=is_wal, checkpoint_pages=checkpoint_pages), options.engine, connection
    )
    if options.database_bytes_max is not None:
        set_page_limit(options.database_bytes_max, connection)
    add_functions(connection)
    return connection


def writer_pragmas(options: SQLiteOptions, *, is_wal: bool, checkpoint_pages: int) -> str:
    """Return the script with the settings of a writer's connection."""
    return (
        f"PRAGMA synchronous = {_synchronous(options.durability, is_wal=is_wal)};"
        f"PRAGMA journal_size_limit = {min(options.journal_size_limit_bytes, options.wal_bytes_max):d};"
        f"PRAGMA wal_autocheckpoint = {checkpoint_pages:d};"
        "PRAGMA foreign_keys = ON;"
    )


def set_limits(options: SQLiteOptions, connection: sqlite3.Connection) -> None:
    """Change the limits and the durability of the open writer, between two transactions."""
    # Separate statements, because Python commits an open transaction before a script.
    is_wal = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.execute(f"PRAGMA synchronous = {_synchronous(options.durability, is_wal=is_wal)}")
    set_page_limit(options.database_bytes_max, connection)


def _synchronous(durability: Durability, *, is_wal: bool) -> str:
    """Return SQLite's name for the durability (https://www.sqlite.org/pragma.html#pragma_synchronous).

    In rollback mode, removing the journal commits a transaction. EXTRA syncs the directory after the removal. With FULL, a power
    failure can restore the journal, and SQLite then rolls the commit back. NORMAL could damage a database in rollback mode.
    """
    if is_wal:
        return "FULL" if durability == "full" else "NORMAL"
    return "EXTRA" if durability == "full" else "FULL"


def _switch_to_wal(connection: sqlite3.Connection, options: SQLiteOptions) -> str:
    """Switch the file to the write-ahead log, and return the file's journal mode.

    SQLite reads the header first, and then requests the lock without waiting. So SQLite fails at once if another process opens the
    same new file. This function then waits for the other process's lock with a transaction, and tries again.
    """
    deadline = time.monotonic() + options.busy_timeout_seconds
    while True:
        try:
            return _set_journal_mode(connection, "WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")


def _switch_from_wal(connection: sqlite3.Connection) -> str:
    """Switch the file to the rollback journal, unless another process uses the log; return the file's journal mode."""
    try:
        return _set_journal_mode(connection, "DELETE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return "wal"


def _set_journal_mode(connection: sqlite3.Connection, mode: str) -> str:
    found: str = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0]
    return found

"""Opens SQLite connections: creates the file as private, checks it before it is changed, and sets the pragmas.

These functions run on a thread of the pool, as one job.
"""

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
from tenantry.storage.sqlite.connections.connect_hooks import NamedHook, run_hooks
from tenantry.storage.sqlite.connections.functions import add_functions
from tenantry.storage.sqlite.connections.pace import PROCESS
from tenantry.storage.sqlite.connections.writability import check_writable
from tenantry.storage.sqlite.database_files.database_file import database_uri, is_missing, missing_error
from tenantry.storage.sqlite.database_files.left_log import make_log_durable
from tenantry.storage.sqlite.errors import is_busy
from tenantry.storage.sqlite.migrations.migrator import read_file_version
from tenantry.storage.sqlite.statements.page_limit import set_page_limit

BUSY_TIMEOUT_SECONDS: Final = 5.0
READERS_MAX: Final = 16
WAL_HOLD_SECONDS: Final = 0.5
CHECKPOINT_PAGES: Final = 4000
"""How many pages the write-ahead log holds before it is checkpointed: 16 MiB.

SQLite's default of 1,000 is low for tables with a random key. There each row changes another page of the key's index, and a
page that changes twice before a checkpoint is written into the database once. Measured with 10⁶ messages, 64 to a
transaction: 29,000 rows/s with 1,000 pages, 32,500 with 4,000; the longest stall was about the same.
"""
_CACHED_STATEMENTS: Final = 128


@dataclass(frozen=True, slots=True)
class SQLiteOptions:
    """The path of a database and how to open it.

    Attributes:
        path: The file; None for a database in memory.
        root: A directory that the path may not leave: missing directories below it are created, links are refused.
        must_exist: Whether a missing file is an error, rather than a new database.
        database_bytes_max: How large it may grow; None: as far as SQLite can.
        is_wal: Whether it has a write-ahead log or a rollback journal; a file in the other mode is switched.
        is_read_by_writer: Whether reads run on the writer's connection: necessary in memory, and with a rollback
            journal, which a read-only connection cannot recover.
        journal_size_limit_bytes: The length that SQLite truncates the write-ahead log to.
        wal_bytes_max: The length of the log at which reads are held until it is truncated.
        wal_hold_seconds: How long reads are held at most while the writer is waited for, and the writer while reads are waited for.
        busy_timeout_seconds: How long to wait for another process's lock.
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

    def __str__(self) -> str:
        return str(self.path or ":memory:")


def prepare_directory(options: SQLiteOptions) -> None:
    """Create the directory of the file, unless the database must exist."""
    path, root = options.path, options.root
    if path is None or root is None:
        return
    if not options.must_exist:
        make_directories(root, path.parent)
        return
    check_own_path(root, path)
    if (
        lstat(path.parent) is None
    ):  # not created again: the directory of a purged tenant would never be removed
        raise missing_error(path)


def open_writer(
    options: SQLiteOptions, known_version: int, log: EventLog, *, is_log_synced: bool = True
) -> sqlite3.Connection:
    """Open the one connection that writes.

    Args:
        options: The path and how to open it.
        known_version: How many migrations the code knows.
        log: For warnings about the file.
        is_log_synced: Whether the name of a new log is durable on return. If not, the caller must make it durable after the
            first commit, and there are no automatic checkpoints until then: see `tenantry.storage.sqlite.connections.new_log`.

    Raises:
        sqlite3.Error: SQLite cannot open it, or it is not a database.
        OSError: The file cannot be created.
        DataDirectoryError: The path is a link or not a regular file.
    """
    if options.path is None:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            run_hooks(options.connect_hooks, connection)
            hardening.harden(connection)
            return _set_up(connection, options, log, is_fresh=True)
        except BaseException:
            connection.close()
            raise
    checkpoint_pages = CHECKPOINT_PAGES if is_log_synced else 0
    connection = _open_file(options.path, options, known_version, log, checkpoint_pages)
    try:
        if is_log_synced:
            # The first read after a switch to the log creates the log. SQLite syncs the directory with the first commit, but does
            # not check whether that failed.
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
    """Open a connection that cannot write, with parameters of a URI such as ``mode=ro`` (https://www.sqlite.org/uri.html)."""
    connection = _connect(path, parameters, options)
    try:
        connection.executescript(f"{hardening.PRAGMAS} PRAGMA query_only = ON;")
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
        hardening.harden(connection)
        # The first read of the file: raises if it is not a database, before a pragma could change it.
        file_version = read_file_version(connection)
        is_fresh = file_version <= known_version
        _check_not_replaced(path, before)
        check_writable(path, file_version, options.busy_timeout_seconds, connection)
        return _set_up(connection, options, log, is_fresh=is_fresh, checkpoint_pages=checkpoint_pages)
    except BaseException:
        connection.close()
        raise


def _create_private(path: Path) -> os.stat_result:
    """Create a private file, unless another process just did, and return its status.

    The file is never opened here: closing any descriptor of it would drop the locks of every other connection of this
    process (https://www.sqlite.org/howtocorrupt.html, section 2.2). ``mknod`` creates it without a descriptor.
    """
    with contextlib.suppress(FileExistsError):
        os.mknod(path, FILE_MODE | stat.S_IFREG)
    return path.lstat()


def _check_not_replaced(path: Path, before: os.stat_result) -> None:
    if not os.path.samestat(before, path.lstat()):
        raise PersistenceConnectionError(f"{path} was replaced while it was being opened: try again")


def _connect(path: Path, parameters: str, options: SQLiteOptions) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database_uri(path, parameters),
        uri=True,
        # No implicit transactions of Python: every BEGIN is ours.
        isolation_level=None,
        # `JobConnection` uses it on any thread, one job at a time.
        check_same_thread=False,
        timeout=options.busy_timeout_seconds,
        cached_statements=_CACHED_STATEMENTS,
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
        # Changes the header of a file in the other mode, so it is not done to a file that is newer than the code.
        mode = _switch_to_wal(connection, options) if options.is_wal else _switch_from_wal(connection)
        if (mode == "wal") is not options.is_wal:
            log.warning(events.BACKEND_WAL_MODE_FAILED, path=str(options), mode=mode)
            is_wal = mode == "wal"
    # As one script: after each call Python waits for the interpreter lock.
    connection.executescript(
        f"PRAGMA synchronous = {_synchronous(options.durability, is_wal=is_wal)};"
        f"PRAGMA journal_size_limit = {min(options.journal_size_limit_bytes, options.wal_bytes_max):d};"
        f"PRAGMA wal_autocheckpoint = {checkpoint_pages:d};"
        "PRAGMA foreign_keys = ON;"
    )
    if options.database_bytes_max is not None:
        set_page_limit(options.database_bytes_max, connection)
    add_functions(connection)
    return connection


def set_limits(options: SQLiteOptions, connection: sqlite3.Connection) -> None:
    """Change the limits and the durability of the open writer, between two transactions."""
    # Not as a script: Python commits an open transaction before a script.
    is_wal = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.execute(f"PRAGMA synchronous = {_synchronous(options.durability, is_wal=is_wal)}")
    set_page_limit(options.database_bytes_max, connection)


def _synchronous(durability: Durability, *, is_wal: bool) -> str:
    """Return SQLite's word for the durability (https://www.sqlite.org/pragma.html#pragma_synchronous).

    With a rollback journal a commit is the removal of the journal. EXTRA syncs the directory after that; with FULL a power
    failure can bring the journal back, and SQLite then undoes the commit. NORMAL could damage such a database.
    """
    if is_wal:
        return "FULL" if durability == "full" else "NORMAL"
    return "EXTRA" if durability == "full" else "FULL"


def _switch_to_wal(connection: sqlite3.Connection, options: SQLiteOptions) -> str:
    """Switch to the write-ahead log, and return the mode that the file is in.

    SQLite reads the header first and then requests the lock without waiting for it: it fails at once if another process opens
    the same new file. So wait for that process as a transaction waits, and try again.
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
    """Switch to the rollback journal, and return the mode that the file is in; it cannot be switched while others use the log."""
    try:
        return _set_journal_mode(connection, "DELETE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return "wal"


def _set_journal_mode(connection: sqlite3.Connection, mode: str) -> str:
    found: str = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0]
    return found

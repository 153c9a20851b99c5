"""Opens SQLite connections: the file made private, checked before it is touched, and given its pragmas.

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
from tenantry.storage.sqlite import hardening
from tenantry.storage.sqlite.database_file import database_uri, is_missing, missing_error
from tenantry.storage.sqlite.errors import is_busy
from tenantry.storage.sqlite.functions import add_functions
from tenantry.storage.sqlite.left_log import make_log_durable
from tenantry.storage.sqlite.migrator import read_file_version
from tenantry.storage.sqlite.pace import PROCESS
from tenantry.storage.sqlite.page_limit import set_page_limit
from tenantry.storage.sqlite.writability import check_writable

BUSY_TIMEOUT_SECONDS: Final = 5.0
READERS_MAX: Final = 16
CHECKPOINT_PAGES: Final = 4000
"""How many pages the write-ahead log gathers before they are written into the database: 16 MiB.

SQLite's own 1,000 are few for tables with a random key. There each row changes a page of its own in the key's index, and a
page that changes again before it is written into the database is written once. Measured with 10⁶ messages, 64 to a
transaction: 29,000 rows/s with 1,000 pages, 32,500 with 4,000; the longest stall was about the same.
"""
_CACHED_STATEMENTS: Final = 128


@dataclass(frozen=True, slots=True)
class SQLiteOptions:
    """Where a database is and how to open it.

    Attributes:
        path: The file; None for a database in memory.
        root: A directory that the path may not leave: missing directories below it are made, links refused.
        must_exist: Whether a missing file is an error, rather than a new database.
        durability: When a commit counts as done.
        database_bytes_max: How large it may grow, None: as far as SQLite can.
        is_wal: Write-ahead log, or rollback journal; a file that is in the other mode is switched.
        is_read_by_writer: Whether reads run on the writer's connection: the only way in memory, and for a rollback
            journal, which a read-only connection could not recover.
        readers_max: How many read-only connections there may be.
        journal_size_limit_bytes: What the write-ahead log is cut back to.
        wal_bytes_max: At which length of the log reads are held until it is cut back.
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
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS

    def __str__(self) -> str:
        return str(self.path or ":memory:")


def prepare_directory(options: SQLiteOptions) -> None:
    """Make the directory of the file, where it may be made.

    Raises:
        OSError: It cannot be made.
        DataDirectoryError: The path is not what it should be.
        DatabaseCorruptError: It is missing, and with it a database that must exist.
    """
    path, root = options.path, options.root
    if path is None or root is None:
        return
    if not options.must_exist:
        make_directories(root, path.parent)
        return
    check_own_path(root, path)
    if lstat(path.parent) is None:  # not to be made anew: a purged tenant's would stay for good
        raise missing_error(path)


def open_writer(
    options: SQLiteOptions, known_version: int, log: EventLog, *, is_log_synced: bool = True
) -> sqlite3.Connection:
    """Open the one connection that writes.

    Args:
        options: The path and how to open it.
        known_version: How many migrations the code knows.
        log: For what is odd about the file.
        is_log_synced: Whether the name of a new log is durable on return. Without it, it must be made durable after the first
            commit, and nothing is checkpointed automatically until then: see `tenantry.storage.sqlite.new_log`.

    Raises:
        sqlite3.Error: SQLite cannot open it, or it is no database.
        OSError: The file cannot be made.
        DataDirectoryError: The path is not what it should be.
    """
    if options.path is None:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        hardening.harden(connection)
        return _set_up(connection, options, log, is_fresh=True)
    checkpoint_pages = CHECKPOINT_PAGES if is_log_synced else 0
    connection = _open_file(options.path, options, known_version, log, checkpoint_pages)
    try:
        if is_log_synced:
            # The first read after a switch to the log makes the log. SQLite syncs the directory with the first commit, but does not look
            # whether that failed.
            read_file_version(connection)
            sync_foreign_directory(options.path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(options: SQLiteOptions) -> sqlite3.Connection:
    """Open a connection that cannot write: SQLite refuses, and refuses it to checkpoint.

    Raises:
        sqlite3.Error: SQLite cannot open it.
    """
    assert options.path is not None
    return open_read_only(options.path, "mode=ro", options)


def open_read_only(path: Path, parameters: str, options: SQLiteOptions) -> sqlite3.Connection:
    """Open a connection that cannot write, with the URI parameters that say how.

    Raises:
        sqlite3.Error: SQLite cannot open it.
    """
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
    before = lstat(path) or _made_private(path)
    check_file(path, before)
    make_log_durable(path)
    connection = _connect(path, "mode=rw", options)
    try:
        hardening.harden(connection)
        # The first read of the file: raises if it is no database, before any pragma could change it.
        file_version = read_file_version(connection)
        is_fresh = file_version <= known_version
        _check_not_replaced(path, before)
        check_writable(path, file_version, options.busy_timeout_seconds, connection)
        return _set_up(connection, options, log, is_fresh=is_fresh, checkpoint_pages=checkpoint_pages)
    except BaseException:
        connection.close()
        raise


def _made_private(path: Path) -> os.stat_result:
    """Make a file of our own, unless somebody else just did, and return what it is.

    The file is never opened here: closing any descriptor of it would drop the locks of every other connection of this
    process (https://www.sqlite.org/howtocorrupt.html, section 2.2). ``mknod`` makes it without one.
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
        # Python's implicit transactions off: every BEGIN is ours.
        isolation_level=None,
        # One job at a time uses it, on whichever thread is free: `JobConnection` sees to that.
        check_same_thread=False,
        timeout=options.busy_timeout_seconds,
        cached_statements=_CACHED_STATEMENTS,
    )
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
        # Changes the file's header when it was in another mode, so not on a file that is newer than the code.
        mode = _switch_to_wal(connection, options) if options.is_wal else _switch_from_wal(connection)
        if (mode == "wal") is not options.is_wal:
            log.warning(events.BACKEND_WAL_MODE_FAILED, path=str(options), mode=mode)
            is_wal = mode == "wal"
    # As one script: at the end of each call Python waits for its turn among all threads.
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
    # Not as a script: Python would end a transaction for one.
    is_wal = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.execute(f"PRAGMA synchronous = {_synchronous(options.durability, is_wal=is_wal)}")
    set_page_limit(options.database_bytes_max, connection)


def _synchronous(durability: Durability, *, is_wal: bool) -> str:
    """Return what SQLite calls the durability (https://www.sqlite.org/pragma.html#pragma_synchronous).

    With a rollback journal a commit is the removal of the journal. EXTRA syncs the directory after that; with FULL a power
    failure can bring the journal back, and SQLite then undoes the commit. NORMAL could damage such a database.
    """
    if is_wal:
        return "FULL" if durability == "full" else "NORMAL"
    return "EXTRA" if durability == "full" else "FULL"


def _switch_to_wal(connection: sqlite3.Connection, options: SQLiteOptions) -> str:
    """Switch to the write-ahead log, and return the mode that the file is in.

    SQLite reads the header first and then asks for the lock, without waiting for it: it is busy at once when another
    process opens the same new file. So wait for that one as a transaction waits, and try again.
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
    """Switch to the rollback journal, and return the mode that the file is in: others may have the log in use."""
    try:
        return _set_journal_mode(connection, "DELETE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return "wal"


def _set_journal_mode(connection: sqlite3.Connection, mode: str) -> str:
    found: str = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0]
    return found

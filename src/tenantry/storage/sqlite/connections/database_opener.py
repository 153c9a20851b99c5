"""Opens the writer or the immutable reader of a database: locks the file, plans the migrations and claims the file.

A thread of the pool runs all of these steps as one job.
"""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Final

from tenantry.config import Durability
from tenantry.errors import MigrationError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.connections.immutable import ImmutableFile, open_immutable
from tenantry.storage.sqlite.connections.new_log import NewLog
from tenantry.storage.sqlite.connections.opening import (
    SQLiteOptions,
    open_writer,
    prepare_directory,
)
from tenantry.storage.sqlite.database_files.database_file import has_log
from tenantry.storage.sqlite.database_files.ownership import OWNER_SQL, FileOwnership
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, is_damage, is_full
from tenantry.storage.sqlite.migrations import migrator

SUMMARY_SQL: Final = f"SELECT * FROM ({OWNER_SQL}), ({migrator.APPLIED_SQL})"  # noqa: S608  # our own statements
"""Reads the owner and the migrations of a closed database. One statement, because Python waits for the interpreter lock after each."""


class DatabaseOpener:
    """Opens the connections of one database. `ownership` is None for a database that only one user opens by agreement.

    Attributes:
        immutable_file: The file of the connection that was opened last, if that connection is an immutable reader.
        new_log: The log of the writer that was opened last, if the name of the log is not durable yet; see `NewLog`.
    """

    def __init__(
        self,
        options: SQLiteOptions,
        *,
        planner: migrator.Planner,
        known_version: int,
        ownership: FileOwnership | None,
        log: EventLog,
    ) -> None:
        self.options = options
        self.ownership = ownership
        self.known_version = known_version
        self.immutable_file: ImmutableFile | None = None
        self.new_log: NewLog | None = None
        self._planner = planner
        self._log = log
        self._plan: migrator.Plan | MigrationError | None = None

    @property
    def token(self) -> str | None:
        """The owner's token; None for a database without an owner."""
        return None if self.ownership is None else self.ownership.token

    def apply_limits(self, database_bytes_max: int | None, durability: Durability) -> None:
        """Use these limits for every writer opened from now on."""
        self.options = replace(self.options, database_bytes_max=database_bytes_max, durability=durability)

    def take_plan(self) -> migrator.Plan | MigrationError | None:
        """Return and forget the migration plan, or the error that refused the file; None if there is neither."""
        plan, self._plan = self._plan, None
        return plan

    def forget_last(self) -> None:
        """Forget the file, the log and the plan of the previous opening."""
        self.immutable_file = self.new_log = self._plan = None

    def open_first(self, *, is_for_write: bool = False) -> sqlite3.Connection:
        """Lock the file and open the first connection: an immutable reader if `immutable_file` is set, otherwise the writer.

        Args:
            is_for_write: Whether the first call is a write, for which a closed database gets its writer at once.

        Raises:
            sqlite3.Error, OSError: SQLite or the operating system refuses.
            DatabaseCorruptError, DataDirectoryError: The file is damaged, is a link, or is not a regular file.
            TenantOwnedElsewhereError: Another owner has the file open.
        """
        self.forget_last()
        prepare_directory(self.options)
        if self.ownership is None:
            try:
                return open_writer(self.options, self.known_version, self._log)
            except DRIVER_ERRORS as error:
                if not is_damage(error):
                    raise
                # SQLite also reports damage after a single failed read of the disk. (For tenants, `TenantOpener` checks again.)
                return open_writer(self.options, self.known_version, self._log)
        self.ownership.acquire()
        try:
            assert self.options.path is not None
            closed = self._open_closed_for_write() if is_for_write else None
            closed = closed or self.open_as_immutable()
            if closed is not None:
                return closed
            self.ownership.check_log(self.options.path)  # a closed database has no log
            return self._open_writer_or_immutable()
        except BaseException:
            # Nothing was changed under this lock, so the next owner must check whether the previous owner closed cleanly.
            self.release(is_clean=False)
            raise

    def _open_closed_for_write(self) -> sqlite3.Connection | None:
        """Open the writer of a closed database; return None if the database is not closed, or if an error occurs.

        After None, the database is opened as without a write: a tenant whose writer cannot be opened can still be read, and the write
        reports the error. The file was not changed.
        """
        path = self.options.path
        assert path is not None
        assert self.ownership is not None
        if not self.ownership.is_fenced or ImmutableFile.find(path) is None:
            return None
        writer: sqlite3.Connection | None = None
        try:
            writer = open_writer(self.options, self.known_version, self._log, is_log_synced=False)
            if self._recognize(writer):
                # The log of the writer is still empty: the first commit comes after the note.
                self.ownership.note(path)
                self.new_log = NewLog(path)
                return writer
        except (*DRIVER_ERRORS, OSError, ValueError, TypeError, TenantryError):
            self._plan = None
        if writer is not None:
            writer.close()
        return None

    def _open_writer_or_immutable(self) -> sqlite3.Connection:
        """Open the writer, or on a full disk an immutable reader, so that the database can be read.

        A previous owner may still run. The first write's own transaction locks that owner out, and sees that owner's writes.
        """
        try:
            return self._open_planned_writer()
        except DRIVER_ERRORS as error:
            connection = self.open_as_immutable(must_be_fenced=False) if is_full(error) else None
            if connection is None:
                raise
            return connection

    def open_as_immutable(self, *, must_be_fenced: bool = True) -> sqlite3.Connection | None:
        """Open the file as immutable; return None if the database is not closed or must be written to first."""
        self.immutable_file = self._plan = None
        if self.ownership is None or (must_be_fenced and not self.ownership.is_fenced):
            return None
        found = open_immutable(self.options)
        if found is None:
            return None
        connection, immutable_file = found
        try:
            is_recognized = self._recognize(connection)
        except (sqlite3.Error, TypeError, ValueError, TenantryError):
            is_recognized = False  # `open_writer` will report the same error
        if not is_recognized:
            connection.close()
            return None
        self.immutable_file = immutable_file
        return connection

    def _recognize(self, connection: sqlite3.Connection) -> bool:
        """Read the owner and the migrations of a closed database; return False if migrations are pending."""
        assert self.ownership is not None
        file_version = migrator.read_file_version(connection)
        uid, epoch, owner, applied_json = connection.execute(SUMMARY_SQL).fetchone()
        return self.recognize(uid, epoch, owner, file_version, applied_json)

    def recognize(self, uid: str, epoch: int, owner: str, file_version: int, applied_json: str) -> bool:
        """Store the last owner of a closed database, and the plan; return False if migrations are pending.

        Raises:
            DatabaseCorruptError: The database belongs to another tenant.
            MigrationError: The database cannot be migrated.
        """
        assert self.ownership is not None
        plan = migrator.plan_from_summary(self._planner, file_version, applied_json)
        self.ownership.recognize(uid, epoch, owner)
        if plan.pending:
            return False
        self._plan = plan
        return True

    def _open_planned_writer(self) -> sqlite3.Connection:
        path = self.options.path
        assert path is not None
        was_log_left = has_log(path)
        connection = open_writer(self.options, self.known_version, self._log)
        try:
            self._plan_and_claim(connection, None if was_log_left else path)
        except BaseException:
            connection.close()
            raise
        return connection

    def open_deferred_writer(self) -> sqlite3.Connection:
        """Open the writer of a database that was open for reading. The writer's log must be made durable, see `NewLog`.

        The writer does not claim the file: each transaction checks that the file still has the owner seen at its opening.
        """
        if self.ownership is not None and self.options.path is not None:
            self.ownership.note(self.options.path)
        assert self.options.path is not None
        writer = open_writer(self.options, self.known_version, self._log, is_log_synced=False)
        self.new_log = NewLog(self.options.path)
        return writer

    def _plan_and_claim(self, connection: sqlite3.Connection, noted: Path | None) -> None:
        """Plan the migrations, then claim the file, so that a refused database is not changed. `claim` explains `noted`."""
        assert self.ownership is not None
        try:
            self._plan = migrator.plan(self._planner, connection)
        except MigrationError as error:
            self._plan = error
        else:
            self.ownership.claim(connection, noted)

    def release(self, *, is_clean: bool = True) -> None:
        """Release the lock, if it is held."""
        if self.ownership is not None:
            self.ownership.release(is_clean=is_clean)

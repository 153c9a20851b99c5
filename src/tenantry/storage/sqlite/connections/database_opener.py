"""Opens the writer or the immutable reader of a database: locks the file, plans the migrations and claims the file.

A thread of the pool runs all of these steps as one job.
"""

import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantry.config import Durability
from tenantry.errors import MigrationError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.connections.connection import NativeFile, NativeOpening
from tenantry.storage.sqlite.connections.immutable import ImmutableFile, open_immutable
from tenantry.storage.sqlite.connections.new_log import NewLog
from tenantry.storage.sqlite.connections.opening import (
    IMMUTABLE,
    SQLiteOptions,
    open_read_only,
    open_writer,
    prepare_directory,
)
from tenantry.storage.sqlite.database_files.database_file import database_uri, has_log
from tenantry.storage.sqlite.database_files.inherited_files import has_inherited_files
from tenantry.storage.sqlite.database_files.ownership import OWNER_SQL, FileOwnership
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, is_damage, is_full
from tenantry.storage.sqlite.migrations import migrator

if TYPE_CHECKING:
    from types import ModuleType

    from tenantry.storage.sqlite.engine.native import NativeBatch, NativeDatabase

_SUMMARY: Final = f"SELECT * FROM ({OWNER_SQL}), ({migrator.APPLIED_SQL})"  # noqa: S608  # our own statements
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
        engine: "ModuleType | None" = None,
    ) -> None:
        self.options = options
        self._engine = engine
        self.immutable_file: ImmutableFile | None = None
        self.new_log: NewLog | None = None
        self._planner = planner
        self._known_version = known_version
        self._ownership = ownership
        self._log = log
        self._plan: migrator.Plan | MigrationError | None = None

    @property
    def token(self) -> str | None:
        """The owner's token; None for a database without an owner."""
        return None if self._ownership is None else self._ownership.token

    def apply_limits(self, database_bytes_max: int | None, durability: Durability) -> None:
        """Use these limits for every writer opened from now on."""
        self.options = replace(self.options, database_bytes_max=database_bytes_max, durability=durability)

    def take_plan(self) -> migrator.Plan | MigrationError | None:
        """Return and forget the migration plan, or the error that refused the file; None if there is neither."""
        plan, self._plan = self._plan, None
        return plan

    def open_first(self, *, is_for_write: bool = False) -> sqlite3.Connection:
        """Lock the file and open the first connection: an immutable reader if `immutable_file` is set, otherwise the writer.

        Args:
            is_for_write: Whether the first call is a write, for which a closed database gets its writer at once.

        Raises:
            sqlite3.Error, OSError: SQLite or the operating system refuses.
            DatabaseCorruptError, DataDirectoryError: The file is damaged, is a link, or is not a regular file.
            TenantOwnedElsewhereError: Another owner has the file open.
        """
        self.immutable_file = self.new_log = self._plan = None
        prepare_directory(self.options)
        if self._ownership is None:
            try:
                return open_writer(self.options, self._known_version, self._log)
            except DRIVER_ERRORS as error:
                if not is_damage(error):
                    raise
                # SQLite also reports damage after a single failed read of the disk. (For tenants, `TenantOpener` checks again.)
                return open_writer(self.options, self._known_version, self._log)
        self._ownership.acquire()
        try:
            assert self.options.path is not None
            closed = self._open_closed_for_write() if is_for_write else None
            closed = closed or self.open_as_immutable()
            if closed is not None:
                return closed
            self._ownership.check_log(self.options.path)  # a closed database has no log
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
        assert self._ownership is not None
        if not self._ownership.is_fenced or ImmutableFile.find(path) is None:
            return None
        writer: sqlite3.Connection | None = None
        try:
            writer = open_writer(self.options, self._known_version, self._log, is_log_synced=False)
            if self._recognize(writer):
                # The log of the writer is still empty: the first commit comes after the note.
                self._ownership.note(path)
                self.new_log = NewLog(path)
                return writer
        except (*DRIVER_ERRORS, OSError, ValueError, TypeError, TenantryError):
            self._plan = None
        if writer is not None:
            writer.close()
        return None

    def opening_at_rest(self) -> NativeOpening | None:
        """Return the engine's batch that locks and opens a file that was closed cleanly; None if only `open_first` can open the file.

        After the batch, `open_first` is called if the file was not at rest, or to find errors.
        """
        path, root, ownership, engine = self.options.path, self.options.root, self._ownership, self._engine
        if engine is None or ownership is None or path is None or root is None or not self.options.must_exist:
            return None
        if self.options.connect_hooks or has_inherited_files():
            return None
        self.immutable_file = self.new_log = self._plan = None
        uri = database_uri(path, IMMUTABLE)
        batch: NativeBatch = engine.opening(
            *(str(ownership.lock_path), ownership.holder_name, str(root), str(path), uri, _SUMMARY)
        )
        return NativeOpening(batch, partial(self._take_at_rest, ownership))

    def _take_at_rest(self, ownership: FileOwnership, batch: "NativeBatch") -> NativeFile | None:
        """Take the file that the engine has opened; close it and return None if it cannot be used without a writer."""
        path = self.options.path
        assert path is not None
        database, identity, (uid, epoch, owner, file_version, applied_json) = batch.opened()
        ownership.take_lock(batch.pass_lock)
        try:
            plan = migrator.plan_from_summary(self._planner, file_version, applied_json)
            ownership.recognize(uid, epoch, owner)
        except Exception:  # noqa: BLE001  # `open_first` reports the same error, and the lock must be released whatever it is
            plan = None
        if plan is None or plan.pending:
            database.close()
            ownership.release()
            return None
        self._plan, self.immutable_file = plan, ImmutableFile(identity[0], identity[1:])
        return NativeFile(database, partial(open_read_only, path, IMMUTABLE, self.options))

    def closing_at_rest(self, database: "NativeDatabase") -> "NativeBatch | None":
        """Return the engine's batch that closes a file at rest and releases the lock; None if `release` must release the lock."""
        return None if self._ownership is None else self._ownership.pass_lock_on(database.closing)

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
        if self._ownership is None or (must_be_fenced and not self._ownership.is_fenced):
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
        assert self._ownership is not None
        file_version = migrator.read_file_version(connection)
        uid, epoch, owner, applied_json = connection.execute(_SUMMARY).fetchone()
        plan = migrator.plan_from_summary(self._planner, file_version, applied_json)
        self._ownership.recognize(uid, epoch, owner)
        if plan.pending:
            return False
        self._plan = plan
        return True

    def _open_planned_writer(self) -> sqlite3.Connection:
        path = self.options.path
        assert path is not None
        was_log_left = has_log(path)
        connection = open_writer(self.options, self._known_version, self._log)
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
        if self._ownership is not None and self.options.path is not None:
            self._ownership.note(self.options.path)
        assert self.options.path is not None
        writer = open_writer(self.options, self._known_version, self._log, is_log_synced=False)
        self.new_log = NewLog(self.options.path)
        return writer

    def _plan_and_claim(self, connection: sqlite3.Connection, noted: Path | None) -> None:
        """Plan the migrations, then claim the file, so that a refused database is not changed. `claim` explains `noted`."""
        assert self._ownership is not None
        try:
            self._plan = migrator.plan(self._planner, connection)
        except MigrationError as error:
            self._plan = error
        else:
            self._ownership.claim(connection, noted)

    def release(self, *, is_clean: bool = True) -> None:
        """Release the lock, if it is held."""
        if self._ownership is not None:
            self._ownership.release(is_clean=is_clean)

"""The engine's openings and closings of one database's files, each without the interpreter's lock.

An opening that the engine cannot finish leaves the file as it was, and Python opens the file and reports what is wrong. Each method
returns None if only Python can open the file.
"""

from functools import partial
from typing import TYPE_CHECKING, Final

from tenantry.storage.sqlite.connections import hardening
from tenantry.storage.sqlite.connections.connection import NativeOpening
from tenantry.storage.sqlite.connections.database_opener import SUMMARY_SQL, DatabaseOpener
from tenantry.storage.sqlite.connections.immutable import ImmutableFile
from tenantry.storage.sqlite.connections.new_log import NewLog
from tenantry.storage.sqlite.connections.opening import (
    CHECKPOINT_PAGES,
    IMMUTABLE,
    QUERY_ONLY,
    writer_pragmas,
)
from tenantry.storage.sqlite.database_files.database_file import database_uri
from tenantry.storage.sqlite.database_files.inherited_files import has_inherited_files

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tenantry.storage.sqlite.database_files.ownership import FileOwnership
    from tenantry.storage.sqlite.engine.native import NativeBatch, NativeDatabase, Summary

_NO_LOCK: Final = -1
_UNSEEN: Final = (0, "")
"""Stands for the last owner if the engine reads the last owner from the file."""


class NativeOpenings:
    """Makes the engine's batches for one database. `engine` is None if Python opens all files."""

    def __init__(self, opener: DatabaseOpener, engine: "ModuleType | None") -> None:
        self._opener = opener
        self._engine = engine

    def closed(self, *, is_for_write: bool) -> NativeOpening | None:
        """Return the batch that locks and opens a file that was closed cleanly, for reading or, if the first call is a write, for writing."""
        owned = self._owned()
        if owned is None or (is_for_write and not self._opener.options.is_wal):
            return None
        path, ownership = owned
        self._opener.forget_last()
        batch = self._opening(
            path,
            lock=(str(ownership.lock_path), ownership.holder_name),
            writer=self._writer(ownership, _NO_LOCK, _UNSEEN) if is_for_write else None,
        )
        if is_for_write:
            return NativeOpening(batch, partial(self._take_closed_writer, path, ownership))
        return NativeOpening(batch, partial(self._take_closed, ownership))

    def deferred_writer(self) -> NativeOpening | None:
        """Return the batch that opens the writer of a database that was open for reading until now; see `DatabaseOpener`."""
        owned = self._owned()
        if owned is None or not self._opener.options.is_wal:
            return None
        path, ownership = owned
        epoch, owner = ownership.seen
        is_plain = type(epoch) is int and "\0" not in owner
        if not is_plain:  # the engine could not compare the owner
            return None
        writer = self._writer(ownership, ownership.lock_fileno(), (epoch, owner))
        return NativeOpening(self._opening(path, writer=writer), partial(self._take_writer, path))

    def reader(self) -> NativeOpening | None:
        """Return the batch that opens a reader beside the open writer."""
        options = self._opener.options
        if options.path is None or not self._may_open():
            return None
        assert self._engine is not None
        uri = database_uri(options.path, "mode=ro")
        script = f"{hardening.PRAGMAS} {self._reader_settings}"
        batch = self._engine.opening(str(options.path), None, uri, script, None, None, None, None)
        return NativeOpening(batch, _take_reader)

    def closing(self, database: "NativeDatabase") -> "NativeBatch":
        """Return the batch that closes a file."""
        return database.closing(None)

    def closing_last(self, database: "NativeDatabase") -> "NativeBatch | None":
        """Return the batch that closes the last connection and releases the lock; None if `DatabaseOpener.release` must release it."""
        ownership = self._opener.ownership
        return None if ownership is None else ownership.pass_lock_on(database.closing)

    def _may_open(self) -> bool:
        return (
            self._engine is not None and not self._opener.options.connect_hooks and not has_inherited_files()
        )

    def _owned(self) -> "tuple[Path, FileOwnership] | None":
        """Return the path and the ownership of a tenant's existing file that the engine may open."""
        options, ownership = self._opener.options, self._opener.ownership
        if ownership is None or options.path is None or options.root is None or not options.must_exist:
            return None
        return (options.path, ownership) if self._may_open() else None

    @property
    def _busy_milliseconds(self) -> int:
        return round(self._opener.options.busy_timeout_seconds * 1000)

    @property
    def _reader_settings(self) -> str:
        return f"PRAGMA busy_timeout = {self._busy_milliseconds:d}; {QUERY_ONLY}"

    def _opening(
        self,
        path: "Path",
        *,
        lock: tuple[str, bytes] | None = None,
        writer: tuple[object, ...] | None,
    ) -> "NativeBatch":
        assert self._engine is not None
        options = self._opener.options
        settings = (
            self._reader_settings
            if writer is None
            else writer_pragmas(options, is_wal=True, checkpoint_pages=0)
        )
        lock_path, holder_name = lock or (None, None)
        batch: NativeBatch = self._engine.opening(
            str(path),
            str(options.root),
            database_uri(path, IMMUTABLE if writer is None else "mode=rw"),
            f"{hardening.PRAGMAS} {settings}",
            lock_path,
            holder_name,
            None if lock is None else SUMMARY_SQL,
            writer,
        )
        return batch

    def _writer(self, ownership: "FileOwnership", lock: int, seen: tuple[int, str]) -> tuple[object, ...]:
        """Return the fields of the engine's `Writer`."""
        options = self._opener.options
        return (
            *(ownership.token, ownership.tenant_uid, self._opener.known_version),
            *(options.database_bytes_max or 0, self._busy_milliseconds, CHECKPOINT_PAGES, lock, *seen),
        )

    def _take_closed(self, ownership: "FileOwnership", batch: "NativeBatch") -> "NativeDatabase | None":
        database, identity, summary = batch.opened()
        assert identity is not None
        if not self._recognized(ownership, batch, database, summary):
            return None
        self._opener.immutable_file = ImmutableFile(identity[0], identity[1:])
        return database

    def _take_closed_writer(
        self, path: "Path", ownership: "FileOwnership", batch: "NativeBatch"
    ) -> "NativeDatabase | None":
        database, _, summary = batch.opened()
        if not self._recognized(ownership, batch, database, summary):
            return None
        return self._with_new_log(path, database)

    def _recognized(
        self,
        ownership: "FileOwnership",
        batch: "NativeBatch",
        database: "NativeDatabase",
        summary: "Summary | None",
    ) -> bool:
        """Take the lock over; close the file and release the lock if the file needs a migration or is not the tenant's."""
        assert summary is not None
        ownership.take_lock(batch.pass_lock)
        try:
            is_recognized = self._opener.recognize(*summary)
        except Exception:  # noqa: BLE001  # Python reports the same error, and the lock must be released whatever it is
            is_recognized = False
        if not is_recognized:
            database.close()
            ownership.release()
        return is_recognized

    def _take_writer(self, path: "Path", batch: "NativeBatch") -> "NativeDatabase":
        return self._with_new_log(path, batch.opened()[0])

    def _with_new_log(self, path: "Path", database: "NativeDatabase") -> "NativeDatabase":
        self._opener.new_log = NewLog(path, is_left_to_engine=True)
        return database


def _take_reader(batch: "NativeBatch") -> "NativeDatabase":
    return batch.opened()[0]

"""Maps the errors of one store, and names what has to be changed: the limit of the database, or the full disk."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, ParamSpec, TypeVar

from tenantry.errors import (
    PersistenceConnectionError,
    StorageFullError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.files.disk_space import is_exhausted
from tenantry.storage.sqlite.connections.new_log import not_durable
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.errors import DRIVER_ERRORS, map_connection_error, map_error
from tenantry.storage.sqlite.statements.page_limit import with_limit_named

P = ParamSpec("P")
T = TypeVar("T")


class StoreErrors:
    """The errors of one store.

    Attributes:
        database_bytes_max: The limit that the errors name; None without a limit.
    """

    def __init__(self, options: SQLiteOptions, *, backend: str, log: EventLog) -> None:
        self._options = options
        self._backend = backend
        self._log = log
        self.database_bytes_max = options.database_bytes_max

    def with_limit_named(self, outcome: T, doing: str) -> T:
        """Return the outcome of a write; an error caused by the database's limit names the limit."""
        return with_limit_named(outcome, doing, self.database_bytes_max, self._options.path)

    def log_not_durable(self, problem: str) -> TenantryError:
        """Return the error for a commit whose log has no durable directory entry."""
        assert self._options.path is not None
        return not_durable(self._options.path, problem)

    def map(self, error: Exception, doing: str) -> TenantryError:
        """Return tenantry's error for an error of the driver or of a closed connection."""
        # These errors mean that the connection was closed before the job ran.
        is_late = isinstance(error, (ValueError, sqlite3.ProgrammingError))
        if is_late and not isinstance(error, UnicodeDecodeError):
            return PersistenceConnectionError(f"{doing}: the database was disconnected in the meantime")
        return self._with_full_disk_named(map_error(error, doing))

    def mapped(self, job: Callable[P, T]) -> Callable[P, T]:
        """Return the job with its errors mapped."""
        return partial(
            self._run, job
        )  # each call makes a job, and a function in this method would take three times as long

    def _run(self, job: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return job(*arguments, **named)
        except (*DRIVER_ERRORS, ValueError) as error:
            raise self.map(error, f"cannot use {self._options}") from error

    @contextmanager
    def mapping(self) -> Iterator[None]:
        """Map the errors of opening a connection or submitting a job."""
        try:
            yield
        except (*DRIVER_ERRORS, OSError, ValueError) as error:
            raise self.map(error, f"cannot use {self._options}") from error

    def fail_connection(self, event: str, error: Exception, doing: str) -> NoReturn:
        """Log that the database could not be opened or closed, and raise tenantry's error."""
        mapped = self._with_full_disk_named(map_connection_error(error, f"cannot {doing} {self._options}"))
        if isinstance(mapped, TenantOwnedElsewhereError) and mapped.socket_name is not None:
            # The caller's calls are forwarded to the owner.
            self._log.debug(event, backend=self._backend, error=str(mapped))
        else:
            self._log.failure(event, mapped, backend=self._backend)
        raise mapped from error

    def _with_full_disk_named(self, error: TenantryError) -> TenantryError:
        """Return an error that reports a full disk if SQLite only reports that it cannot create a file."""
        path = self._options.path
        code = error.code if isinstance(error, PersistenceConnectionError) else None
        if code != "SQLITE_CANTOPEN" or path is None or not is_exhausted(path.parent):
            return error
        full = StorageFullError(f"{error}: free space, or inodes, on the disk", code=code)
        full.__cause__ = error.__cause__
        return full

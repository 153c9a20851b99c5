"""The engine's module, set up for this process, its types, and the event loops' outlets.

The module `_engine` is written in C, and is missing where it could not be built; see `tenantry.storage.sqlite.engine.choice`.
"""

import asyncio
import contextvars
import os
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from weakref import WeakKeyDictionary, finalize

from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.sqlite.statements.execution import known_texts
from tenantry.storage.sqlite.statements.own_statements import OnceUnit, OwnStatement

if TYPE_CHECKING:
    from types import ModuleType

_INTERFACE: Final = 9
"""The number that `module.c` has, too. It is raised with each change of what Python and the engine know of each other."""

READ: Final = 0
WRITE: Final = 1
"""The kinds of batches, as `_engine` has them."""

_NAMED: Final = frozenset([Fetch.NAMED_ONE, Fetch.NAMED_ALL])
_REFUSING: Final = ("SQLITE_BUSY", "SQLITE_CONSTRAINT", "SQLITE_FULL", "SQLITE_INTERRUPT", "SQLITE_IOERR")
_ERROR_NAMES: Final = {
    code: name for name, code in vars(sqlite3).items() if name.startswith(_REFUSING) and isinstance(code, int)
}


class NativeBatch(Protocol):
    """Statements that run together in the engine; made by `NativeDatabase.batch`."""

    @property
    def has_names(self) -> bool:
        """Whether a statement has a fetch with names; see `with_names`."""

    @property
    def has_errors(self) -> bool:
        """Whether a constraint has refused a unit."""

    def results(self) -> list[Any]:
        """Return one result for each read, or a list of results for each unit of writes, whose result is None if it was refused.

        Raises:
            UnicodeDecodeError: A long text of a read is no valid UTF-8, so the read has to run in Python.
            ValueError: The batch has not ended, or was refused.
        """

    def errors(self) -> list[tuple[int, int, bytes]]:
        """Return the index, SQLite's code and SQLite's message of each unit that a constraint has refused; raise like `results`."""

    def refusal(self) -> tuple[int, bytes] | None:
        """Return SQLite's code and message if all units failed: COMMIT, BEGIN because of a lock, or the transaction around a unit."""

    def opened(self) -> "Opened":
        """Return the file that a batch of `opening` has opened.

        Raises:
            ValueError: The batch has opened no file, or the file was taken over before.
        """

    def pass_lock(self) -> int:
        """Return the descriptor of the lock of the file that was opened; the caller has it from now on. Raises like `opened`."""


class NativeDatabase(Protocol):
    """A connection, as the engine uses it."""

    def batch(
        self,
        kind: int,
        units: list[Any],
        is_whole: bool = False,  # noqa: FBT001, FBT002  # positional in C
        is_inside: bool = False,  # noqa: FBT001, FBT002
        /,
    ) -> NativeBatch | None:
        """Return a batch of statements (`READ`) or of units (`WRITE`); None if Python must run them.

        Args:
            kind: `READ` or `WRITE`.
            units: The statements, or the units: tuples of statements, or `OnceUnit` objects.
            is_whole: Whether a constraint that refuses a unit makes the batch run in Python.
            is_inside: Whether the batch is one statement or unit inside a transaction that Python has begun.
        """

    def closing(self, lock: int | None, /) -> NativeBatch:
        """Return a batch that closes the file, which the engine has opened, and releases its lock; the engine has the descriptor."""

    def lend(self, connection: sqlite3.Connection, /) -> None:
        """Let a connection of Python use the engine's connection from now on; a job of the connection's queue calls this method.

        Python's connection, which has an empty database in memory, has to be closed in the place of the engine's.

        Raises:
            ValueError: The engine has no connection of its own, or Python's was used before.
        """

    def close(self) -> None:
        """Free the prepared statements, and close a file that the engine has opened. Later batches run in Python.

        Raises:
            ValueError: A batch runs.
        """


Identity: TypeAlias = tuple[str, int, int, int]
"""See `ImmutableFile.identity`."""

Summary: TypeAlias = tuple[str, int, str, int, str]
"""The facts that are read from a closed database: uid, epoch, owner, version, migrations."""

Opened: TypeAlias = tuple[NativeDatabase, Identity | None, Summary | None]
"""A file that the engine has opened: the database, the identity of an immutable file, and the summary of a file that was locked."""


class Delivered(Protocol):
    """The future of a batch."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop on which somebody waits for the batch."""

    def done(self) -> bool:
        """Return whether nobody waits for the batch."""

    def deliver(self, batch: NativeBatch) -> None:
        """Take the batch, which has ended."""


class Outlet(Protocol):
    """The batches of one event loop that have ended."""

    def take(self) -> list[tuple[Delivered, NativeBatch]]:
        """Remove the batches, and return them with their futures."""

    def fileno(self) -> int:
        """Return the descriptor that is readable while batches are there."""

    def close(self) -> None:
        """Drop the batches, and those that end later, and close the descriptor."""


@cache
def engine() -> "ModuleType":
    """Return the engine's module, which uses the SQLite of Python's `sqlite3`.

    Raises:
        ImportError: The engine was not built for this Python, or from another version of its source.
        OSError, AttributeError: The engine cannot use the SQLite of Python's `sqlite3`.
    """
    module = import_module("tenantry.storage.sqlite.engine._engine")
    if getattr(module, "INTERFACE", None) != _INTERFACE:
        raise ImportError("it was built from another version of its source")
    module.attach(import_module("_sqlite3").__file__)
    module.configure(known_texts, tuple(Fetch), OwnStatement, OnceUnit)
    return module


def outlet(loop: asyncio.AbstractEventLoop) -> Outlet:
    """Return the outlet of the event loop, which runs now and watches it."""
    found = _outlets.get(loop)
    if found is None:
        _close_outlets_of_closed_loops()
        found = engine().Outlet()
        # The loop calls in an empty context, because the outlet serves all callers.
        contextvars.Context().run(loop.add_reader, found.fileno(), _deliver_all, found)
        _outlets[loop] = found  # not before: an outlet that the loop does not watch delivers nothing
        finalize(loop, found.close)
    return found


def _close_outlets_of_closed_loops() -> None:
    """Drop the batches that no loop will take. Their futures would keep the loop, and everything that the loop refers to, in memory."""
    for loop, found in tuple(_outlets.items()):
        if loop.is_closed():
            found.close()


def _deliver_all(outlet: Outlet) -> None:
    _deliver(iter(outlet.take()))


def _deliver(ended: Iterator[tuple[Delivered, NativeBatch]]) -> None:
    try:
        for future, batch in ended:
            if not future.done():
                future.deliver(batch)
    except BaseException:  # an event hook ends the program, and callers still wait for the other batches while the loop shuts down
        asyncio.get_running_loop().call_soon(_deliver, ended, context=contextvars.Context())
        raise


def with_names(statement: Statement, result: Result) -> Result:
    """Return the result of a batch's statement, whose named rows come as the names and the rows' values."""
    if statement.fetch not in _NAMED or result is None:  # None: a constraint has refused the unit
        return result
    names, values = result
    columns = Columns(names)
    rows = [Row(columns, row) for row in values]
    if statement.fetch is Fetch.NAMED_ALL:
        return rows
    return rows[0] if rows else None


def results_with_names(statements: Sequence[Statement], results: Sequence[Result]) -> list[Result]:
    """Return the results of a unit or of a batch of reads; see `with_names`."""
    return [with_names(*pair) for pair in zip(statements, results, strict=True)]


def driver_error(code: int, message: bytes) -> sqlite3.Error:
    """Return the error that Python's driver would raise for a constraint, a failure of the disk, an interrupt or another process's lock.

    Args:
        code: SQLite's extended result code.
        message: SQLite's message, which need not be valid UTF-8.
    """
    is_constraint = code & 0xFF == sqlite3.SQLITE_CONSTRAINT
    kind = sqlite3.IntegrityError if is_constraint else sqlite3.OperationalError
    error = kind(message.decode("utf-8", "replace"))
    error.sqlite_errorcode = code
    error.sqlite_errorname = _ERROR_NAMES.get(code, "unknown")
    return error


_outlets: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Outlet]] = WeakKeyDictionary()

# The parent's outlets wake the parent, so a child that runs the same event loop again needs another outlet.
os.register_at_fork(after_in_child=_outlets.clear)

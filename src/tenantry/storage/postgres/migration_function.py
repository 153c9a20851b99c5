"""Runs the function of a Python migration inside the step's transaction.

The function is not a coroutine, so it runs on a thread. Each of its statements runs on the event loop, which owns the connection, and
the thread waits for the result.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper
from psycopg.pq.abc import PGresult
from typing_extensions import override

from tenantry.schemas.migration import MigrationFunction
from tenantry.sql.row import Columns, Row
from tenantry.sql.tokens import COMMENT, POSTGRES_QUOTED, POSTGRES_WORD
from tenantry.storage.postgres.migration_script import check_single
from tenantry.storage.python_migrations import BrokenScriptError, FunctionSession, call_function
from tenantry.threads import CancelledWorkError, is_cancelled, run_in_thread

T = TypeVar("T")

_PLACEHOLDER: Final = re.compile(
    rf"{COMMENT}|(?![eE]'){POSTGRES_WORD}|{POSTGRES_QUOTED}|\?(?P<number>[0-9]*)", re.DOTALL
)
_CHUNK_ROWS: Final = 1_000
_CANCELLATION_CHECK_SECONDS: Final = 0.1


async def run_function(function: MigrationFunction, connection: psycopg.AsyncConnection) -> None:
    """Run a migration's function on a thread, with a session on the connection.

    A cancelled caller waits until the running statement is cancelled and the function has ended. A function that only computes is not
    interrupted before its next statement.

    Raises:
        psycopg.Error: A statement failed, even if the function caught the error.
        BrokenScriptError: A statement is not allowed, or the function raised another error.
    """
    session = PostgresMigrationSession(connection, asyncio.get_running_loop())
    await run_in_thread(
        call_function, function, session, driver_errors=(psycopg.Error, CancelledError, CancelledWorkError)
    )


class PostgresMigrationSession(FunctionSession):
    """The `MigrationSession` of a PostgreSQL database, for use on another thread than the event loop's."""

    def __init__(self, connection: psycopg.AsyncConnection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._connection = connection
        self._loop = loop

    @override
    def _check_cancelled(self) -> None:
        if is_cancelled():
            raise CancelledWorkError("the migration was cancelled")

    @override
    def _execute(self, sql: str, parameters: Sequence[object]) -> int:
        return self._wait(self._changed(sql, [parameters]))

    @override
    def _execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        given, count = (
            iter(rows),
            0,
        )  # the rows may come from a generator of the function, which runs on this thread
        while chunk := list(islice(given, _CHUNK_ROWS)):
            count += self._wait(self._changed(sql, chunk))
        return count

    @override
    def _fetch(self, sql: str, parameters: Sequence[object], *, rows_max: int | None = None) -> list[Row]:
        return self._wait(self._fetched(sql, parameters, rows_max))

    async def _changed(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        cursor = self._cursor()
        if len(rows) == 1:
            await cursor.execute(_text(sql), _values(rows[0]))
        else:
            await cursor.executemany(_text(sql), [_values(row) for row in rows])
        if cursor.description is not None:
            raise BrokenScriptError(
                "the function passes execute() a statement that returns rows: use fetch_one() or fetch_all()",
                code="42601",
            )
        return max(cursor.rowcount, 0)

    async def _fetched(self, sql: str, parameters: Sequence[object], rows_max: int | None) -> list[Row]:
        cursor = self._cursor()
        await cursor.execute(_text(sql), _values(parameters))
        if cursor.description is None or cursor.pgresult is None:
            raise BrokenScriptError(
                "the function passes fetch_one() or fetch_all() a statement that returns no rows: use execute(), or add RETURNING",
                code="42601",
            )
        columns = Columns(tuple(column.name for column in cursor.description))
        return [Row(columns, values) for values in _loaded(cursor.pgresult, rows_max)]

    def _cursor(self) -> psycopg.AsyncRawCursor:
        cursor = psycopg.AsyncRawCursor(self._connection)
        cursor.adapters.register_dumper(str, _UntypedText)
        cursor.adapters.register_dumper(bytes, _UntypedBytes)
        return cursor

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop, and wait for its result; cancel it if the migration's caller is cancelled."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return running.result(_CANCELLATION_CHECK_SECONDS)
            except TimeoutError:
                if running.done():
                    raise
                if is_cancelled():
                    running.cancel()


class _UntypedText(Dumper):
    """Sends a text without a type, so that the server takes the type of the column, as a store does."""

    def dump(self, obj: str) -> bytes:
        return obj.encode()


class _UntypedBytes(Dumper):
    """Sends bytes without a type, which fit a column of ``uuid`` too."""

    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


def _text(sql: str) -> bytes:
    check_single(sql)
    return _numbered(sql).encode()


def _values(parameters: Sequence[object]) -> list[str | bytes | None]:
    return [_value(value) for value in parameters]


def _value(value: object) -> str | bytes | None:
    if value is None or isinstance(value, str | bytes):
        return value
    if isinstance(value, int | float):
        return str(int(value)) if isinstance(value, int) else repr(value)
    raise psycopg.ProgrammingError(f"type {type(value).__name__!r} is not supported")


def _numbered(sql: str) -> str:
    """Return a statement with ``$1`` for ``?1``, and with the next number for each ``?``."""
    last = 0

    def number(token: re.Match[str]) -> str:
        nonlocal last
        if token["number"] is None:
            return token[0]
        found = int(token["number"] or last + 1)
        last = max(last, found)
        return f"${found}"

    return _PLACEHOLDER.sub(number, sql)


def _loaded(result: PGresult, rows_max: int | None) -> Iterator[tuple[object, ...]]:
    """Yield the rows with the values that a store returns."""
    loaders = [_LOADERS.get(result.ftype(column), bytes.decode) for column in range(result.nfields)]
    count = result.ntuples if rows_max is None else min(rows_max, result.ntuples)
    for row in range(count):
        found = (result.get_value(row, column) for column in range(result.nfields))
        yield tuple(
            None if value is None else load(value) for load, value in zip(loaders, found, strict=True)
        )


def _instant(text: bytes) -> str:
    """Convert ``2026-01-31 09:30:00.5+00``, in UTC, to the fixed width in which tenantry writes times."""
    date, _, time = text.decode().removesuffix("+00").partition(" ")
    whole, _, fraction = time.partition(".")
    return f"{date}T{whole}.{fraction:0<6}Z"


# By the number of the type in the server's table pg_type.
_LOADERS: Final[Mapping[int, Callable[[bytes], object]]] = {
    16: lambda value: int(value == b"t"),
    17: lambda value: bytes.fromhex(value[2:].decode()),
    **dict.fromkeys((20, 21, 23, 26), int),
    **dict.fromkeys((700, 701), float),
    1184: _instant,
    1700: lambda value: float(value) if b"." in value or value.isalpha() else int(value),
    2950: lambda value: UUID(value.decode()).bytes,
}

"""Runs the function of a Python migration inside the step's transaction.

The function is not a coroutine, so it runs on a thread. Each of its statements runs on the event loop, which owns the connection, and
the thread waits for the result.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from itertools import islice
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper
from typing_extensions import override

from tenantry.schemas.migration import MigrationFunction
from tenantry.sql.row import Columns, Row
from tenantry.storage.postgres.migrations.migration_script import check_single
from tenantry.storage.postgres.statements.translation import translate
from tenantry.storage.postgres.statements.values import encode, load_rows
from tenantry.storage.python_migrations import BrokenScriptError, FunctionSession, call_function
from tenantry.threads import CancelledWorkError, is_cancelled, run_in_thread

T = TypeVar("T")

_CHUNK_ROWS: Final = 1_000
_CANCELLATION_CHECK_SECONDS: Final = 0.1


async def run_function(function: MigrationFunction, connection: psycopg.AsyncConnection) -> None:
    """Run a migration's function on a thread, with a session on the connection.

    A cancelled caller waits until the running statement is cancelled and the function has ended. A function that only computes is not
    interrupted before its next statement.

    Raises:
        psycopg.Error: A statement failed, even if the function caught the error.
        BrokenScriptError: The function raised another error, or a statement or a parameter was refused. As for the statements of callers,
            refused are transaction control, settings, DO, CALL and temporary tables.
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
        given = iter(rows)  # a generator of the function runs on this thread
        count = 0
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
        return [Row(columns, values) for values in load_rows(cursor.pgresult, rows_max)]

    def _cursor(self) -> psycopg.AsyncRawCursor:
        cursor = psycopg.AsyncRawCursor(self._connection)
        cursor.adapters.register_dumper(_TextValue, _UntypedText)
        cursor.adapters.register_dumper(bytes, _UntypedBinary)
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


class _TextValue(bytes):
    """A value in the server's text format."""

    __slots__ = ()


class _UntypedText(Dumper):
    """Sends an encoded value without a type, so that the server takes the type from the statement, as for a store's statements."""

    def dump(self, obj: bytes) -> bytes:
        return obj


class _UntypedBinary(_UntypedText):
    format = pq.Format.BINARY


def _text(sql: str) -> bytes:
    check_single(sql)
    return translate(sql).sql


def _values(parameters: Sequence[object]) -> list[bytes | None]:
    encoded = encode(parameters)
    if encoded.formats is None:
        return [None if value is None else _TextValue(value) for value in encoded.values]
    return [
        value if is_binary or value is None else _TextValue(value)
        for value, is_binary in zip(encoded.values, encoded.formats, strict=True)
    ]

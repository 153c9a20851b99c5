"""SQL of the caller's own: the methods `execute`, `fetch_one`, `fetch_all`, `fetch_value`, `execute_many` and `stream`.

A tenant's handle, a transaction, an idempotent write and every repository have them. Each makes a `Statement` and gives it to its
session, so it waits in the same mailbox, shares the same batches, and meets the same limits and refusals as a repository's own calls.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, overload

from tenantry.errors import QueryError, TenantryError
from tenantry.sql.parameters import Parameters, check_name, check_parameters
from tenantry.sql.row import Row
from tenantry.sql.row_model import check_row_type, decode
from tenantry.sql.statements import Fetch, Session, Sql, Statement
from tenantry.sql.stream import STREAM_CHUNK_ROWS, Stream
from tenantry.sql.tokens import SqlShape, shape_of

M = TypeVar("M")

EXECUTE_MANY_ROWS_MAX: Final = 10_000
"""How many rows `Queries.execute_many` writes in one unit, which other writes of the tenant wait for."""


class Queries:
    """Runs the caller's SQL on a session.

    Common to all methods:

    - `sql` is one statement with ``?`` for each value, or an `Sql` with a text for each dialect. Values are never part of the text.
    - `parameters` is a list or tuple of None, int, float, str and bytes. Other types are refused, with the way to convert them.
    - `name` is the label `operation` in metrics, and the beginning of the name of the log event of a failure. Like the name of every
      `Statement`, it is words of ``a-z``, ``0-9`` and ``_`` joined by dots, and holds no ids: a name is a time series.
    - `row` is a pydantic model or a dataclass; each column is the field of its name. Without it rows are `Row` objects.

    All raise `QueryError` for SQL and arguments that are refused, other errors of `PersistenceError` for what the database refused,
    and `TenantError` if the tenant, or the registry, cannot serve the call. A statement that the database refused has no effect.
    """

    _session: Session

    async def execute(self, sql: str | Sql, parameters: Parameters = (), *, name: str = "sql.execute") -> int:
        """Run a statement that returns no rows: INSERT, UPDATE, DELETE, or one that changes the schema.

        When this returns, the change is committed and durable; inside a transaction, it is part of the transaction. A caller that is
        cancelled before the statement began leaves nothing behind; after that it may be committed.

        Returns:
            How many rows it inserted, updated or deleted itself, without those of its triggers and foreign keys.

        Raises:
            QueryError: The statement returns rows.
        """
        _check_executed(sql, name)
        statement = Statement(name, sql, check_parameters(parameters, statement=name), Fetch.ROWCOUNT)
        with _FailureLogged(self._session, name):
            (count,) = await self._session.write(statement)
        return int(count)

    async def execute_many(
        self, sql: str | Sql, rows: Iterable[Parameters], *, name: str = "sql.execute_many"
    ) -> int:
        """Run a statement once for each row of parameters, all as one atomic unit: all of them take effect, or none.

        Args:
            sql: A statement that returns no rows.
            rows: The parameters of each run, at most `EXECUTE_MANY_ROWS_MAX`. Without rows nothing is sent.
            name: The label in metrics.

        Returns:
            How many rows all runs inserted, updated or deleted.

        Raises:
            QueryError: There are too many rows, or the statement returns rows.
        """
        _check_executed(sql, name)
        checked = [check_parameters(row, statement=name) for row in islice(rows, EXECUTE_MANY_ROWS_MAX + 1)]
        if len(checked) > EXECUTE_MANY_ROWS_MAX:
            raise QueryError(
                f"{name}: execute_many() takes at most {EXECUTE_MANY_ROWS_MAX} rows (EXECUTE_MANY_ROWS_MAX), and more were given; "
                "nothing was written: call it for a part of the rows at a time, in a transaction if all must be kept or none"
            )
        statements = [Statement(name, sql, parameters, Fetch.ROWCOUNT) for parameters in checked]
        with _FailureLogged(self._session, name):
            return sum(await self._session.write(*statements))

    @overload
    async def fetch_one(
        self, sql: str | Sql, parameters: Parameters = (), *, row: None = None, name: str = ...
    ) -> Row | None: ...

    @overload
    async def fetch_one(
        self, sql: str | Sql, parameters: Parameters = (), *, row: type[M], name: str = ...
    ) -> M | None: ...

    async def fetch_one(
        self,
        sql: str | Sql,
        parameters: Parameters = (),
        *,
        row: type[Any] | None = None,
        name: str = "sql.fetch_one",
    ) -> Any:
        """Return the first row of a result, or None if it has no rows.

        A SELECT is a read. An INSERT, UPDATE or DELETE with RETURNING is a write, committed as by `execute`; all of its rows are
        written, also those after the first.

        Raises:
            QueryError: The statement returns no rows.
            MalformedRowError: The row does not fit the model. A write was committed nevertheless.
        """
        found = await _fetch(self._session, sql, parameters, name, Fetch.NAMED_ONE, row)
        return found if row is None or found is None else _decode(self._session, [found], row, name)[0]

    @overload
    async def fetch_all(
        self, sql: str | Sql, parameters: Parameters = (), *, row: None = None, name: str = ...
    ) -> list[Row]: ...

    @overload
    async def fetch_all(
        self, sql: str | Sql, parameters: Parameters = (), *, row: type[M], name: str = ...
    ) -> list[M]: ...

    async def fetch_all(
        self,
        sql: str | Sql,
        parameters: Parameters = (),
        *,
        row: type[Any] | None = None,
        name: str = "sql.fetch_all",
    ) -> list[Any]:
        """Return all rows of a result, which is held in memory as a whole: add a LIMIT, or use `stream`.

        It reads and writes as `fetch_one` does, and raises the same.
        """
        found = await _fetch(self._session, sql, parameters, name, Fetch.NAMED_ALL, row)
        return found if row is None else _decode(self._session, found, row, name)

    async def fetch_value(
        self, sql: str | Sql, parameters: Parameters = (), *, name: str = "sql.fetch_value"
    ) -> Any:
        """Return the first column of the first row, or None if the result has no rows: ``SELECT count(*) FROM notes``.

        It reads and writes as `fetch_one` does, and raises the same.
        """
        found = await _fetch(self._session, sql, parameters, name, Fetch.NAMED_ONE, None)
        return None if found is None else found[0]

    @overload
    def stream(
        self,
        sql: str | Sql,
        parameters: Parameters = (),
        *,
        key: Sequence[str] = ...,
        chunk_rows: int = ...,
        row: None = None,
        name: str = ...,
    ) -> AsyncIterator[Row]: ...

    @overload
    def stream(
        self,
        sql: str | Sql,
        parameters: Parameters = (),
        *,
        key: Sequence[str] = ...,
        chunk_rows: int = ...,
        row: type[M],
        name: str = ...,
    ) -> AsyncIterator[M]: ...

    def stream(
        self,
        sql: str | Sql,
        parameters: Parameters = (),
        *,
        key: Sequence[str] = ("created_at", "id"),
        chunk_rows: int = STREAM_CHUNK_ROWS,
        row: type[Any] | None = None,
        name: str = "sql.stream",
    ) -> AsyncIterator[Any]:
        """Yield the rows of a SELECT of any size, in the order of a key: ``async for row in tenant.stream(…)``.

        The rows are read in chunks, each by one read call of its own that begins after the last key. Between two chunks nothing is
        held, so a stream may take as long as its reader likes, and be left at any row. Every row that exists, with the same key,
        from the beginning to the end of the stream is yielded exactly once. Rows that are written meanwhile are yielded if their
        key comes later. Inside a transaction all chunks see the transaction's state.

        A chunk costs the same wherever it lies if an index has the columns of the key, after the columns that the SELECT compares
        with ``=``.

        Args:
            sql: A SELECT without ORDER BY and LIMIT of its own.
            parameters: One value for each placeholder.
            key: Columns of the result whose values together are unique and never NULL.
            chunk_rows: How many rows are read at a time, at most `STREAM_CHUNK_ROWS_MAX`.
            row: The model of a row.
            name: The label in metrics.

        Raises:
            QueryError: The SQL is not a SELECT, or has an order of its own. While it is iterated: a column of the key is missing in
                the result, holds NULL, or the key is not unique. Rows are never skipped or repeated instead.
            MalformedRowError: While it is iterated: a row does not fit the model.
        """
        _shape(sql, name)
        if row is not None:
            check_row_type(row)
        checked = check_parameters(parameters, statement=name)
        return _pages(self._session, Stream(name, sql, checked, key, chunk_rows), row)


async def _fetch(
    session: Session, sql: str | Sql, parameters: Parameters, name: str, fetch: Fetch, row: type[Any] | None
) -> Any:
    shape = _shape(sql, name)
    if shape.returns_nothing:
        raise QueryError(
            f"{name}: this {shape.verb} returns no rows; nothing was sent: "
            f"{'add RETURNING, or ' if shape.is_write else ''}use execute()"
        )
    if row is not None:
        check_row_type(row)
    statement: Statement = Statement(name, sql, check_parameters(parameters, statement=name), fetch)
    with _FailureLogged(session, name):
        if shape.is_write:
            return (await session.write(statement))[0]
        return await session.read(statement)


async def _pages(session: Session, stream: Stream, row: type[Any] | None) -> AsyncIterator[Any]:
    before = 0
    while (statement := stream.next_page()) is not None:
        with _FailureLogged(session, stream.name):
            rows = stream.take(await session.read(statement))
        for each in rows if row is None else _decode(session, rows, row, stream.name, before):
            yield each
        before += len(rows)


def _decode(session: Session, rows: Sequence[Row], row: type[M], name: str, before: int = 0) -> list[M]:
    with _FailureLogged(session, name):
        return [
            decode(each, row, statement=name, number=number)
            for number, each in enumerate(rows, start=before + 1)
        ]


class _FailureLogged:
    """Logs an error of its block as ``<name>_failed``. A class, because a generator would cost a call three times as much."""

    __slots__ = ("_name", "_session")

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, TenantryError):
            self._session.log.failure(f"{self._name}_failed", error)


def _shape(sql: str | Sql, name: str) -> SqlShape:
    """Return the kind of a statement, which is the same in all dialects; check its name."""
    check_name(name)
    shape = shape_of(sql if isinstance(sql, str) else next(iter(sql.texts.values()), ""))
    if not shape.verb:
        raise QueryError(f"{name}: the SQL is empty; nothing was sent: pass one statement")
    return shape


def _check_executed(sql: str | Sql, name: str) -> None:
    shape = _shape(sql, name)
    if shape.returns_rows:
        what = f"{shape.verb} with RETURNING" if shape.is_write else shape.verb
        raise QueryError(
            f"{name}: this {what} returns rows, which execute() and execute_many() do not; nothing was sent: use "
            "fetch_one(), fetch_all() or fetch_value()"
        )

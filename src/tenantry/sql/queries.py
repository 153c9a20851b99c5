"""The methods for the caller's own SQL: `execute`, `fetch_one`, `fetch_all`, `fetch_value`, `execute_many` and `stream`.

A tenant's handle, a transaction, an idempotent write and every repository have these methods. Each method passes a `Statement` to the
session. So the caller's SQL has the same mailbox, batches and limits as a repository's calls.
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
"""The most rows that `Queries.execute_many` writes in one unit, because the tenant's other writes wait for the unit."""


class Queries:
    """Runs the caller's SQL on a session.

    All methods have these parameters in common:

    - `sql` is one statement with ``?`` for each value, or an `Sql` with a text for each dialect. Values are never part of the text.
    - `parameters` is a list or tuple of None, int, float, str and bytes. For other types the error explains how to convert the value.
    - `name` is the label `operation` in metrics, and ``<name>_failed`` is the log event of a failure. A statement's name has words of
      ``a-z``, ``0-9`` and ``_`` joined by dots. A name contains no ids, because each name creates a time series.
    - `row` is a pydantic model or a dataclass; each column sets the field with the same name. Without `row`, rows are `Row` objects.

    The methods raise `QueryError` for SQL or arguments that are not allowed, and other kinds of `PersistenceError` if the database
    refuses the statement. `TenantError` means that the tenant or the registry cannot serve the call. A refused statement has no effect.
    """

    _session: Session

    async def dialect(self) -> str:
        """Return the name of the database's SQL dialect, ``sqlite`` or ``postgres``. A closed tenant is opened.

        A tenant that is moved to another back end may change its dialect. For a statement whose text depends on the dialect pass an `Sql`,
        which has a text for each dialect.

        Raises:
            TenantError: The tenant cannot be opened.
        """
        return await self._session.dialect()

    async def execute(self, sql: str | Sql, parameters: Parameters = (), *, name: str = "sql.execute") -> int:
        """Run a statement that returns no rows: INSERT, UPDATE, DELETE, or a statement that changes the schema.

        On return the change is committed and durable, or part of the open transaction. If the caller is cancelled before the statement
        begins, the statement has no effect. If the caller is cancelled later, the change may be committed.

        Returns:
            The number of rows that the statement itself changed, without the effects of triggers and foreign keys.

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
        """Run a statement once for each row of parameters, as one atomic unit; return the total number of changed rows.

        At most `EXECUTE_MANY_ROWS_MAX` rows are allowed. Without rows nothing is sent.

        Raises:
            QueryError: The number of rows is too large, or the statement returns rows.
        """
        _check_executed(sql, name)
        checked = [check_parameters(row, statement=name) for row in islice(rows, EXECUTE_MANY_ROWS_MAX + 1)]
        if len(checked) > EXECUTE_MANY_ROWS_MAX:
            raise QueryError(
                f"{name}: execute_many() takes at most {EXECUTE_MANY_ROWS_MAX} rows (EXECUTE_MANY_ROWS_MAX), but more were given; "
                "nothing was written: call execute_many() with fewer rows at a time, in a transaction if all rows must be one unit"
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
        """Return the first row of a result, or None if the result has no rows.

        A SELECT is a read. An INSERT, UPDATE or DELETE with RETURNING is committed like a write of `execute`. Such a write changes
        all its rows, although only the first row is returned.

        Raises:
            QueryError: The statement returns no rows.
            MalformedRowError: The row does not fit the model. A write is committed nevertheless.
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
        """Return all rows of a result. All rows are in memory at the same time: for a large result add a LIMIT, or use `stream`.

        Reads, writes and errors are the same as for `fetch_one`.
        """
        found = await _fetch(self._session, sql, parameters, name, Fetch.NAMED_ALL, row)
        return found if row is None else _decode(self._session, found, row, name)

    async def fetch_value(
        self, sql: str | Sql, parameters: Parameters = (), *, name: str = "sql.fetch_value"
    ) -> Any:
        """Return the first column of the first row, for example of ``SELECT count(*) FROM notes``, or None if the result has no rows.

        Reads, writes and errors are the same as for `fetch_one`.
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

        The stream reads its rows in chunks. Each chunk is a separate read that begins after the last key. Between chunks the stream holds
        no lock or connection, so a consumer may be slow, and may stop at any row. A row that exists with the same key during the
        whole stream is yielded exactly once. A row written during the stream is yielded if its key comes after the rows already read.
        Inside a transaction all chunks see the transaction's state.

        All chunks take the same time if an index has the columns that the SELECT compares with ``=``, followed by the columns of the key.
        With UNION, INTERSECT or EXCEPT, each chunk reads all earlier rows again. Do not select from a view that contains UNION, INTERSECT
        or EXCEPT: SQLite can skip rows if the parts of the view have keys of different types. Stream the view's SELECT instead.

        Args:
            sql: A SELECT without ORDER BY and LIMIT.
            parameters: One value for each placeholder.
            key: Columns of the result whose values together are unique and never NULL.
            chunk_rows: The number of rows in a chunk, at most `STREAM_CHUNK_ROWS_MAX`.
            row: The model of a row.
            name: The label in metrics.

        Raises:
            QueryError: The SQL is not a SELECT, or has ORDER BY or LIMIT. Iterating raises this error if a column of the key is missing
                in the result or contains NULL, or if the key is not unique.
            MalformedRowError: A row does not fit the model. Only iterating raises this error.
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
            try:
                found = await session.read(statement)
            except QueryError as error:
                raise stream.explain(error) from error
            rows = stream.take(found)
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
    """Logs an error of its block as ``<name>_failed``. A generator function would take three times as long as this class."""

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
    """Check the name of a statement, and return the kind of the statement, which is the same in all dialects."""
    check_name(name)
    if not isinstance(sql, str | Sql):
        raise QueryError(
            f"{name}: the SQL is of type {type(sql).__name__}; nothing was sent: pass a str or an Sql; for SQLAlchemy there is "
            "tenantry.integrations.SqlAlchemyCore"
        )
    shape = shape_of(sql if isinstance(sql, str) else next(iter(sql.texts.values()), ""))
    if not shape.verb:
        raise QueryError(f"{name}: the SQL is empty; nothing was sent: pass one statement")
    return shape


def _check_executed(sql: str | Sql, name: str) -> None:
    shape = _shape(sql, name)
    if shape.returns_rows:
        what = f"{shape.verb} with RETURNING" if shape.is_write else shape.verb
        raise QueryError(
            f"{name}: this {what} returns rows, but execute() and execute_many() return a count; nothing was sent: use "
            "fetch_one(), fetch_all() or fetch_value()"
        )

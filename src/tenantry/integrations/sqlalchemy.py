"""SQLAlchemy Core statements on a tenant; needs the extra ``sqlalchemy``.

Theory of operation. SQLAlchemy executes a statement on an engine of its own, which no data is in: it compiles the statement, or finds
it in the engine's cache, computes defaults of columns, and converts the parameters. Where it would call the driver, the engine's event
hands the SQL and the parameters to `_compiled` and ends the execution. A tenant then runs that SQL like any SQL of the caller's own,
and the columns' types convert the result.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, overload

from sqlalchemy import ColumnElement, Engine, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.expression import CompoundSelect, Executable, Select, SelectBase, UpdateBase

from tenantry.errors import MalformedRowError, QueryError
from tenantry.queries import EXECUTE_MANY_ROWS_MAX, Queries
from tenantry.row import Columns, Row
from tenantry.sql.parameters import Parameters
from tenantry.sql.row_model import check_row_type, decode
from tenantry.sql.stream import STREAM_CHUNK_ROWS

M = TypeVar("M")
Values: TypeAlias = Mapping[str, Any]

_STATEMENTS_MAX: Final = 500  # compiled ones that the engine keeps


class SqlAlchemyCore:
    """Runs SQLAlchemy Core statements: ``await SqlAlchemyCore(tenant).fetch_all(select(notes).where(notes.c.done))``.

    Its methods are those of `Queries`, with the same rows, limits, refusals and metrics; a statement takes the place of the SQL, and a
    mapping of names to values that of the parameters. The types of columns convert values in both directions, and defaults of columns
    apply. Objects of the ORM are not loaded or stored: a statement names tables, such as ``Note.__table__`` of a mapped class.

    Args:
        queries: What runs the SQL: a tenant's handle, a transaction, an idempotent write, or a repository.

    Raises:
        QueryError: `queries` is something else, such as a ``Session``.
    """

    def __init__(self, queries: Queries) -> None:
        if not isinstance(queries, Queries):
            raise QueryError(
                f"SqlAlchemyCore runs statements on a tenant, a transaction, an idempotent write or a repository, not on a "
                f"{type(queries).__name__}: pass registry.tenant('acme'), for example; sessions and engines of SQLAlchemy are not "
                "supported, because the tenant owns its connections"
            )
        self._queries = queries

    async def execute(
        self, statement: Executable, parameters: Values | None = None, *, name: str = "sql.execute"
    ) -> int:
        """Run a statement that returns no rows; return how many rows it inserted, updated or deleted. See `Queries.execute`."""
        sql, values = _compiled(statement, parameters, name)
        return await self._queries.execute(sql, values, name=name)

    async def execute_many(
        self, statement: Executable, rows: Iterable[Values], *, name: str = "sql.execute_many"
    ) -> int:
        """Run a statement once for each row of parameters, all as one atomic unit. See `Queries.execute_many`.

        Args:
            statement: An INSERT, UPDATE or DELETE without RETURNING.
            rows: The parameters of each run, at most `EXECUTE_MANY_ROWS_MAX`; all have the names that the first one has.
            name: The label in metrics.

        Returns:
            How many rows all runs inserted, updated or deleted.
        """
        given = list(islice(rows, EXECUTE_MANY_ROWS_MAX + 1))
        if not given:
            return 0
        sql, values = _compiled(statement, given, name)
        return await self._queries.execute_many(sql, values, name=name)

    @overload
    async def fetch_one(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        row: None = None,
        name: str = ...,
    ) -> Row | None: ...

    @overload
    async def fetch_one(
        self, statement: Executable, parameters: Values | None = None, *, row: type[M], name: str = ...
    ) -> M | None: ...

    async def fetch_one(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        row: type[Any] | None = None,
        name: str = "sql.fetch_one",
    ) -> Any:
        """Return the first row of a result, or None if it has no rows. See `Queries.fetch_one`."""
        sql, values = _compiled(statement, parameters, name)
        reader = _Reader(statement, row, name)
        found = await self._queries.fetch_one(sql, values, name=name)
        return None if found is None else reader.read([found])[0]

    @overload
    async def fetch_all(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        row: None = None,
        name: str = ...,
    ) -> list[Row]: ...

    @overload
    async def fetch_all(
        self, statement: Executable, parameters: Values | None = None, *, row: type[M], name: str = ...
    ) -> list[M]: ...

    async def fetch_all(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        row: type[Any] | None = None,
        name: str = "sql.fetch_all",
    ) -> list[Any]:
        """Return all rows of a result. See `Queries.fetch_all`."""
        sql, values = _compiled(statement, parameters, name)
        reader = _Reader(statement, row, name)
        return reader.read(await self._queries.fetch_all(sql, values, name=name))

    async def fetch_value(
        self, statement: Executable, parameters: Values | None = None, *, name: str = "sql.fetch_value"
    ) -> Any:
        """Return the first column of the first row, or None if the result has no rows. See `Queries.fetch_value`."""
        found = await self.fetch_one(statement, parameters, name=name)
        return None if found is None else found[0]

    @overload
    def stream(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        key: Sequence[str] = ...,
        chunk_rows: int = ...,
        row: None = None,
        name: str = ...,
    ) -> AsyncIterator[Row]: ...

    @overload
    def stream(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        key: Sequence[str] = ...,
        chunk_rows: int = ...,
        row: type[M],
        name: str = ...,
    ) -> AsyncIterator[M]: ...

    def stream(
        self,
        statement: Executable,
        parameters: Values | None = None,
        *,
        key: Sequence[str] = ("created_at", "id"),
        chunk_rows: int = STREAM_CHUNK_ROWS,
        row: type[Any] | None = None,
        name: str = "sql.stream",
    ) -> AsyncIterator[Any]:
        """Yield the rows of a SELECT of any size, in the order of a key. See `Queries.stream`."""
        sql, values = _compiled(statement, parameters, name)
        reader = _Reader(statement, row, name)
        found = self._queries.stream(sql, values, key=key, chunk_rows=chunk_rows, name=name)
        return reader.iterate(found)


class _Reader:
    """Converts the rows of a statement's result.

    Args:
        statement: The statement.
        row: The model of a row; rows are `Row` objects if None.
        name: The statement's name, for errors.
    """

    def __init__(self, statement: Executable, row: type[Any] | None, name: str) -> None:
        if row is not None:
            check_row_type(row)
        self._row = row
        self._name = name
        self._count = 0
        dialect = _engine().dialect
        self._converters = [
            column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in _result_columns(statement)
        ]

    async def iterate(self, rows: AsyncIterator[Row]) -> AsyncIterator[Any]:
        """Yield the rows, converted."""
        async for found in rows:
            yield self.read([found])[0]

    def read(self, rows: Sequence[Row]) -> list[Any]:
        """Return the rows, converted.

        Raises:
            MalformedRowError: A value is not one of its column's type, or a row does not fit the model.
        """
        if not rows:
            return []
        columns = Columns(rows[0].keys())
        if self._converters and len(self._converters) != len(columns.names):
            raise QueryError(
                f"{self._name}: the result has {len(columns.names)} columns, and the statement knows the types of "
                f"{len(self._converters)}: use literal_column() instead of text() for a column of select()"
            )
        return [self._convert(found, columns) for found in rows]

    def _convert(self, found: Row, columns: Columns) -> Any:
        self._count += 1
        if any(self._converters):
            pairs = zip(columns.names, found, self._converters, strict=True)
            found = Row(columns, tuple(self._converted(*pair) for pair in pairs))
        if self._row is None:
            return found
        return decode(found, self._row, statement=self._name, number=self._count)

    def _converted(self, column: str, value: Any, convert: Callable[[Any], Any] | None) -> Any:
        if convert is None:
            return value
        try:
            return convert(value)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            # Without its cause, whose text would quote the value.
            raise MalformedRowError(
                f"{self._name}: row {self._count} has a value in the column {column!r} that is not of the column's type "
                f"({type(error).__name__})",
                entity=column,
            ) from None


class _CompiledError(Exception):
    """Ends SQLAlchemy's execution of a statement where it would call the driver."""

    def __init__(self, sql: str, parameters: Any) -> None:
        super().__init__()
        self.sql = sql
        self.parameters = parameters


@cache
def _engine() -> Engine:
    """Return the engine that compiles. It never executes anything, and its database in memory stays empty."""
    # One INSERT with RETURNING for many rows of parameters would be several statements, and so not one atomic unit.
    engine = create_engine(
        "sqlite://", query_cache_size=_STATEMENTS_MAX, hide_parameters=True, use_insertmanyvalues=False
    )

    def capture(_: object, sql: str, parameters: Any, __: object) -> NoReturn:
        raise _CompiledError(sql, parameters)

    def capture_without_parameters(_: object, sql: str, __: object) -> NoReturn:
        raise _CompiledError(sql, ())

    event.listen(engine, "do_execute", capture)
    event.listen(engine, "do_executemany", capture)
    event.listen(engine, "do_execute_no_params", capture_without_parameters)
    return engine


@overload
def _compiled(statement: Executable, parameters: Values | None, name: str) -> tuple[str, tuple[Any, ...]]: ...


@overload
def _compiled(
    statement: Executable, parameters: Sequence[Values], name: str
) -> tuple[str, list[Parameters]]: ...


def _compiled(
    statement: Executable, parameters: Values | Sequence[Values] | None, name: str
) -> tuple[str, Any]:
    """Return a statement's SQL and its parameters, or a list of these for a sequence of values.

    Raises:
        QueryError: SQLAlchemy refused the statement or a value, or the statement loads or stores objects of the ORM.
    """
    _check(statement, name)
    try:
        with _engine().connect() as connection:
            connection.execute(statement, parameters)
    except _CompiledError as compiled:
        sql, found = compiled.sql, compiled.parameters
    except SQLAlchemyError as error:
        # The first line: the others repeat the SQL.
        why = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise QueryError(
            f"{name}: SQLAlchemy refused the statement or a parameter; nothing was sent: {why}"
        ) from error
    else:
        raise QueryError(f"{name}: the statement has no SQL; nothing was sent: pass one statement")
    if parameters is None or isinstance(parameters, Mapping):
        return sql, _bytes_for_views(found)
    return sql, [_bytes_for_views(row) for row in (found if isinstance(found, list) else [found])]


def _bytes_for_views(values: Iterable[Any]) -> tuple[Any, ...]:
    # SQLAlchemy passes bytes as the driver's Binary type, which is a view of them.
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in values)


def _result_columns(statement: Executable) -> Sequence[ColumnElement[Any]]:
    """Return the columns of a statement's result, as far as the statement knows them: those of plain text have no type."""
    if isinstance(statement, SelectBase):
        return tuple(statement.selected_columns)
    return tuple(statement.exported_columns) if isinstance(statement, UpdateBase) else ()


def _check(statement: object, name: str) -> None:
    """Raise unless this is a statement of SQLAlchemy Core.

    Raises:
        QueryError: It is something else, or it loads or stores objects of the ORM.
    """
    if not isinstance(statement, Executable):
        raise QueryError(
            f"{name}: {type(statement).__name__} is not a statement of SQLAlchemy; nothing was sent: pass select(…), insert(…) or "
            "text('…'), or give SQL to the same method of the tenant itself"
        )
    entity = next(_entities(statement), None)
    if entity is not None:
        raise QueryError(
            f"{name}: the statement loads or stores objects of the mapped class {entity}, and the ORM is not supported; nothing was "
            f"sent: use the class's table, as in select({entity}.__table__)"
        )


def _entities(statement: object) -> Iterator[str]:
    """Yield the names of the mapped classes whose objects a statement loads or stores."""
    if isinstance(statement, CompoundSelect):
        for select in statement.selects:
            yield from _entities(select)
        return
    described: Sequence[Mapping[str, Any]] = ()
    if isinstance(statement, UpdateBase):
        described = [statement.entity_description]
    elif isinstance(statement, Select):
        described = [
            column for column in statement.column_descriptions if column["expr"] is column.get("entity")
        ]
    for one in described:
        if (entity := one.get("entity")) is not None:
            yield inspect(entity).mapper.class_.__name__

"""SQLAlchemy Core statements on a tenant; needs the extra ``sqlalchemy``.

Theory of operation. SQLAlchemy executes each statement on an engine with an empty database in memory, which has the dialect of the
tenant's database: SQLAlchemy compiles the statement,
or finds it in the engine's cache, computes the columns' defaults, and converts the parameters. Before SQLAlchemy calls the
driver, an event of the engine passes the SQL and the parameters to `_compiled` and ends the execution. The tenant then runs
this SQL like any other SQL, and the columns' types convert the result.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, overload

from sqlalchemy import ColumnElement, Engine, Insert, create_engine, event, inspect
from sqlalchemy.dialects import registry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.expression import CompoundSelect, Executable, Select, SelectBase, UpdateBase

from tenantry.errors import MalformedRowError, QueryError
from tenantry.sql.queries import EXECUTE_MANY_ROWS_MAX, Queries
from tenantry.sql.row import Columns, Row
from tenantry.sql.row_model import check_row_type, decode
from tenantry.sql.stream import STREAM_CHUNK_ROWS

M = TypeVar("M")
Values: TypeAlias = Mapping[str, Any]

_STATEMENTS_MAX: Final = 500  # the size of the engine's cache of compiled statements


_DIALECTS: Final = {"sqlite": "sqlite", "postgres": "tenantry.postgres"}
"""SQLAlchemy's names of the dialects, by the names of `Store.backend`."""


class SqlAlchemyCore:
    """Runs SQLAlchemy Core statements: ``await SqlAlchemyCore(tenant).fetch_all(select(notes).where(notes.c.done))``.

    The class has the methods of `Queries`, with the same rows, limits, refusals and metrics. The methods take a statement instead
    of SQL text, and a mapping of names to values as parameters. The columns' types convert values in both directions, and the
    columns' defaults apply. ORM objects cannot be loaded or stored: a statement names tables, such as ``Note.__table__``.

    Args:
        queries: The object that runs the SQL: a tenant's handle, a transaction, an idempotent write, or a repository.

    Raises:
        QueryError: `queries` is an object of another type, such as a ``Session``.
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
        """Run a statement without a result, and return the number of changed rows. See `Queries.execute`."""
        sql, values = _compiled(statement, parameters, name, await self._dialect(statement, name))
        return await self._queries.execute(sql, values, name=name)

    async def execute_many(
        self, statement: Executable, rows: Iterable[Values], *, name: str = "sql.execute_many"
    ) -> int:
        """Run a statement once for each row of parameters, as one atomic unit, and return the number of changed rows.

        See `Queries.execute_many`.

        Args:
            statement: An INSERT, UPDATE or DELETE without RETURNING.
            rows: The parameters of each run, at most `EXECUTE_MANY_ROWS_MAX` rows, all with the same names.
            name: The statement's label in metrics.
        """
        given = list(islice(rows, EXECUTE_MANY_ROWS_MAX + 1))
        if not given:
            return 0
        sql, values = _compiled(statement, given, name, await self._dialect(statement, name))
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
        """Return the first row of a result, or None if the result has no rows. See `Queries.fetch_one`."""
        dialect = await self._dialect(statement, name)
        sql, values = _compiled(statement, parameters, name, dialect)
        reader = _Reader(statement, row, name, dialect)
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
        dialect = await self._dialect(statement, name)
        sql, values = _compiled(statement, parameters, name, dialect)
        reader = _Reader(statement, row, name, dialect)
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
        """Yield the rows of a SELECT in the order of a key, with bounded memory. See `Queries.stream`.

        Only iterating shows the tenant's dialect, so an error of SQLAlchemy is raised by iterating.
        """
        _check(statement, name)
        if row is not None:
            check_row_type(row)

        early = None
        with suppress(QueryError):  # SQLite may lack what PostgreSQL has
            early = _compiled(statement, parameters, name, "sqlite")
        if early is not None:
            self._queries.stream(*early, key=key, chunk_rows=chunk_rows, name=name)

        async def found() -> AsyncIterator[Any]:
            dialect = await self._queries.dialect()
            sql, values = _compiled(statement, parameters, name, dialect)
            reader = _Reader(statement, row, name, dialect)
            rows = self._queries.stream(sql, values, key=key, chunk_rows=chunk_rows, name=name)
            async for each in reader.iterate(rows):
                yield each

        return found()

    async def _dialect(self, statement: Executable, name: str) -> str:
        _check(statement, name)  # before a closed tenant is opened
        return await self._queries.dialect()


class _Reader:
    """Converts the rows of a statement's result.

    Args:
        statement: The statement.
        row: The model of a row; None for `Row` objects.
        name: The statement's name in errors.
        dialect: The dialect of the tenant's database.
    """

    def __init__(self, statement: Executable, row: type[Any] | None, name: str, dialect: str) -> None:
        if row is not None:
            check_row_type(row)
        self._row = row
        self._name = name
        self._count = 0
        compiling = _engine(dialect).dialect
        self._converters = [
            column.type.dialect_impl(compiling).result_processor(compiling, None)
            for column in _result_columns(statement)
        ]

    async def iterate(self, rows: AsyncIterator[Row]) -> AsyncIterator[Any]:
        """Yield the converted rows."""
        async for found in rows:
            yield self.read([found])[0]

    def read(self, rows: Sequence[Row]) -> list[Any]:
        """Return the converted rows.

        Raises:
            MalformedRowError: A value does not fit its column's type, or a row does not fit the model.
        """
        if not rows:
            return []
        columns = Columns(rows[0].keys())
        if self._converters and len(self._converters) != len(columns.names):
            raise QueryError(
                f"{self._name}: the result has {len(columns.names)} columns, but the statement knows the types of "
                f"{len(self._converters)} columns: use literal_column() instead of text() for a column of select()"
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
            # Leave out the cause, because the cause's message would quote the value.
            raise MalformedRowError(
                f"{self._name}: row {self._count} has a value in the column {column!r} that does not fit the column's type "
                f"({type(error).__name__})",
                entity=column,
            ) from None


class _CompiledError(Exception):
    """Ends SQLAlchemy's execution of a compiled statement before the driver is called."""

    def __init__(self, sql: str, parameters: Any) -> None:
        super().__init__()
        self.sql = sql
        self.parameters = parameters


@cache
def _engine(dialect: str) -> Engine:
    """Return the engine that compiles statements for a dialect. No statement is executed, so the engine's database is empty."""
    registry.register("tenantry.postgres", "tenantry.integrations.sqlalchemy_postgres", "TenantryPostgres")
    # With insertmanyvalues, an INSERT with RETURNING of many rows would become several statements, not one atomic unit.
    options: dict[str, Any] = {
        "query_cache_size": _STATEMENTS_MAX,
        "hide_parameters": True,
        "use_insertmanyvalues": False,
    }
    if dialect != "sqlite":
        # Every engine needs a connection, and this one is never used.
        unused = _engine("sqlite")
        options |= {"module": unused.dialect.loaded_dbapi, "pool": unused.pool}
    engine = create_engine(f"{_DIALECTS[dialect].replace('.', '+')}://", **options)

    def capture(_: object, sql: str, parameters: Any, __: object) -> NoReturn:
        raise _CompiledError(sql, parameters)

    def capture_without_parameters(_: object, sql: str, __: object) -> NoReturn:
        raise _CompiledError(sql, ())

    event.listen(engine, "do_execute", capture)
    event.listen(engine, "do_executemany", capture)
    event.listen(engine, "do_execute_no_params", capture_without_parameters)
    return engine


def _compiled(
    statement: Executable, parameters: Values | Sequence[Values] | None, name: str, dialect: str
) -> tuple[str, Any]:
    """Return a statement's SQL and its parameters; for a sequence of values, the SQL and a list of parameters.

    Raises:
        QueryError: SQLAlchemy refused the statement or a value, or the statement loads or stores ORM objects.
    """
    if dialect != "sqlite" and isinstance(statement, Insert) and not tuple(statement.exported_columns):
        # Otherwise SQLAlchemy adds RETURNING with the new row's key.
        statement = statement.inline()
    try:
        with _engine(dialect).connect() as connection:
            connection.execute(statement, parameters)
    except _CompiledError as compiled:
        sql, found = compiled.sql, compiled.parameters
    except SQLAlchemyError as error:
        # Only the first line of the message is kept, because the other lines repeat the SQL.
        why = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise QueryError(
            f"{name}: SQLAlchemy refused the statement or a parameter, and no SQL was run: {why}"
        ) from error
    else:
        raise QueryError(f"{name}: the statement has no SQL, and no SQL was run: pass one statement")
    if parameters is None or isinstance(parameters, Mapping):
        return sql, _bytes_for_views(found)
    return sql, [_bytes_for_views(row) for row in (found if isinstance(found, list) else [found])]


def _bytes_for_views(values: Iterable[Any]) -> tuple[Any, ...]:
    # SQLAlchemy passes bytes as the driver's Binary type, which is a memoryview.
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in values)


def _result_columns(statement: Executable) -> Sequence[ColumnElement[Any]]:
    """Return the columns of a statement's result that have types; columns of plain SQL text have no types."""
    if isinstance(statement, SelectBase):
        return tuple(statement.selected_columns)
    return tuple(statement.exported_columns) if isinstance(statement, UpdateBase) else ()


def _check(statement: object, name: str) -> None:
    """Raise `QueryError` unless the object is a statement that neither loads nor stores ORM objects."""
    if not isinstance(statement, Executable):
        raise QueryError(
            f"{name}: {type(statement).__name__} is not a statement of SQLAlchemy, and no SQL was run: pass select(…), insert(…) or "
            "text('…'), or pass SQL to the same method of the tenant"
        )
    entity = next(_entities(statement), None)
    if entity is not None:
        raise QueryError(
            f"{name}: the statement loads or stores objects of the mapped class {entity}, but the ORM is not supported, and "
            f"no SQL was run: use the class's table, as in select({entity}.__table__)"
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

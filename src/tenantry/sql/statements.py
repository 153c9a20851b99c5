"""Statements, which are SQL with parameters and the kind of result; and the sessions that run them.

A repository builds statements and gives them to a session. The session decides which connection runs them, on which thread and in
which transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, overload

from typing_extensions import TypeVar

from tenantry.errors import QueryError
from tenantry.eventlog import EventLog

TupleRow: TypeAlias = tuple[Any, ...]
Result: TypeAlias = Any
"""None, a row count, a row or None, or a list of rows, depending on the statement's `Fetch`."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True, default=Any)


class Fetch(Enum):
    """What a session returns for a statement.

    Attributes:
        NONE: None. A statement that returns rows, such as a SELECT, is refused with `QueryError`, and nothing of its unit is kept.
        ROWCOUNT: How many rows the statement inserted, updated or deleted itself, without those of its triggers and foreign keys.
        ONE: The first row, a tuple; None if the result has no rows.
        ALL: A list of all rows, which are tuples.
        NAMED_ONE: The first row, a `Row`; None if the result has no rows. A statement that cannot return rows is refused.
        NAMED_ALL: A list of all rows, each a `Row`. A statement that cannot return rows is refused.
    """

    NONE = "none"
    ROWCOUNT = "rowcount"
    ONE = "one"
    ALL = "all"
    NAMED_ONE = "named_one"
    NAMED_ALL = "named_all"


@dataclass(frozen=True, slots=True)
class Sql:
    """SQL that differs between dialects: one text for each of them.

    Most SQL is common to all dialects and is a plain `str`. An `Sql` can be joined to other SQL with ``+``, so that only the part
    that differs is written more than once::

        total = Sql({"sqlite": "exact_sum(cost_usd)", "postgres": "sum(cost_usd::numeric)"})
        Statement("costs.total", "SELECT " + total + " FROM costs WHERE agent_id = ?", (agent_id,), Fetch.ONE)

    Attributes:
        texts: The text for each dialect, by the name that `Store.backend` gives. Every text takes the same parameters.
    """

    texts: Mapping[str, str]

    def text(self, dialect: str) -> str:
        """Return the text for a dialect.

        Raises:
            QueryError: There is no text for the dialect.
        """
        text = self.texts.get(dialect)
        if text is None:
            raise QueryError(
                f"the statement has SQL for {', '.join(self.texts)}, and this database needs {dialect}: add a text for {dialect}"
            )
        return text

    def __add__(self, other: "str | Sql") -> "Sql":
        """Return this SQL with more behind it; if that is an `Sql` too, for the dialects that both have."""
        if isinstance(other, Sql):
            return Sql(
                {name: text + other.texts[name] for name, text in self.texts.items() if name in other.texts}
            )
        return Sql({name: text + other for name, text in self.texts.items()})

    def __radd__(self, other: str) -> "Sql":
        """Return this SQL with a text before it."""
        return Sql({name: other + text for name, text in self.texts.items()})


if TYPE_CHECKING:
    from tenantry.sql.row import Row

    # For type checkers no tuple: mypy takes the type that `__new__` returns only from classes that are not tuples.
    class _Fields:
        name: str
        sql: str | Sql
        parameters: Sequence[object]
        fetch: Fetch

else:

    class _Fields(NamedTuple):
        name: str
        sql: str | Sql
        parameters: Sequence[object] = ()
        fetch: Fetch = Fetch.NONE


class Statement(_Fields, Generic[T_co]):
    """One SQL statement and the kind of its result: ``Statement[int]`` for one whose result is a count.

    Type checkers find the type of the result by `fetch`; a plain ``Statement`` is one with any result.

    Attributes:
        name: Words of ``a-z``, ``0-9`` and ``_`` joined by dots, such as ``messages.save``. Metrics have it as the label `operation`,
            so it holds no ids or values: each name is a time series.
        sql: One statement with placeholders, ``?`` for each value; SQLite takes numbered ones (``?1``) too. An `Sql` where the
            dialects need different texts. The statement may not end or nest the transaction, attach a database, set a pragma, or
            make a temporary table, index, view or trigger.
        parameters: One value for each placeholder.
        fetch: What the session returns for it.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # at run time a function in between would be a cost of each statement

        @overload
        def __new__(
            cls,
            name: str,
            sql: str | Sql,
            parameters: Sequence[object] = (),
            fetch: Literal[Fetch.NONE] = ...,
        ) -> "Statement[None]": ...

        @overload
        def __new__(
            cls,
            name: str,
            sql: str | Sql,
            parameters: Sequence[object] = (),
            fetch: Literal[Fetch.ROWCOUNT] = ...,
        ) -> "Statement[int]": ...

        @overload
        def __new__(
            cls, name: str, sql: str | Sql, parameters: Sequence[object] = (), fetch: Literal[Fetch.ONE] = ...
        ) -> "Statement[TupleRow | None]": ...

        @overload
        def __new__(
            cls, name: str, sql: str | Sql, parameters: Sequence[object] = (), fetch: Literal[Fetch.ALL] = ...
        ) -> "Statement[list[TupleRow]]": ...

        @overload
        def __new__(
            cls,
            name: str,
            sql: str | Sql,
            parameters: Sequence[object] = (),
            fetch: Literal[Fetch.NAMED_ONE] = ...,
        ) -> "Statement[Row | None]": ...

        @overload
        def __new__(
            cls,
            name: str,
            sql: str | Sql,
            parameters: Sequence[object] = (),
            fetch: Literal[Fetch.NAMED_ALL] = ...,
        ) -> "Statement[list[Row]]": ...

        @overload
        def __new__(
            cls, name: str, sql: str | Sql, parameters: Sequence[object] = (), fetch: Fetch = ...
        ) -> "Statement[Any]": ...

        def __new__(  # noqa: D102  # type checkers want an implementation
            cls, name: str, sql: str | Sql, parameters: Sequence[object] = (), fetch: Fetch = Fetch.NONE
        ) -> "Statement[Any]": ...

    def text(self, dialect: str) -> str:
        """Return the statement's SQL for a dialect.

        Raises:
            QueryError: The statement has no SQL for the dialect.
        """
        sql = self.sql
        return sql if isinstance(sql, str) else sql.text(dialect)


class ReadSession(Protocol):
    """Runs statements that change nothing."""

    @property
    def log(self) -> EventLog:
        """The event log, bound to the tenant if there is one."""

    async def read(self, statement: Statement[T]) -> T:
        """Run one reading statement and return its result.

        Cancellation leaves nothing behind.

        Raises:
            PersistenceError: The database refused or failed.
            TenantError: The tenant, or the registry, cannot serve the call.
        """


class Session(ReadSession, Protocol):
    """Runs statements of both kinds."""

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit; return one result for each.

        When this returns, the unit is committed and durable; inside a transaction, it is part of the transaction. A caller that is
        cancelled before its unit began leaves nothing behind; after that the whole unit may be committed.

        Raises:
            PersistenceError: The database refused or failed; nothing of the unit was kept.
            TenantError: The tenant, or the registry, cannot serve the call.
        """

"""Statements and sessions. A statement is SQL with parameters and the kind of its result, and a session runs statements.

A repository builds statements and passes them to a session. The session chooses the connection, the thread and the transaction.
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

_CANONICAL_DIALECT = "sqlite"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True, default=Any)


class Fetch(Enum):
    """The kind of a statement's result.

    Attributes:
        NONE: None. A statement that returns rows, such as a SELECT, is refused with `QueryError`, and its whole unit is rolled back.
        ROWCOUNT: The number of rows that the statement itself changed, without the effects of triggers and foreign keys.
        ONE: The first row as a tuple; None if the result has no rows.
        ALL: A list of all rows as tuples.
        NAMED_ONE: The first row as a `Row`; None if the result has no rows. A statement that cannot return rows is refused.
        NAMED_ALL: A list of all rows, each as a `Row`. A statement that cannot return rows is refused.
    """

    NONE = "none"
    ROWCOUNT = "rowcount"
    ONE = "one"
    ALL = "all"
    NAMED_ONE = "named_one"
    NAMED_ALL = "named_all"


@dataclass(frozen=True, slots=True)
class Sql:
    """SQL with a different text for each dialect.

    Most SQL is common to all dialects and is a plain `str`. Join an `Sql` to other SQL with ``+`` to write only the differing part
    more than once::

        total = Sql({"sqlite": "exact_sum(cost_usd)", "postgres": "sum(cost_usd::numeric)"})
        Statement("costs.total", "SELECT " + total + " FROM costs WHERE agent_id = ?", (agent_id,), Fetch.ONE)

    Attributes:
        texts: The SQL text for each dialect, by the dialect's name in `Store.backend`. All texts take the same parameters.
    """

    texts: Mapping[str, str]

    def text(self, dialect: str) -> str:
        """Return the text for a dialect.

        Raises:
            QueryError: This SQL has no text for the dialect.
        """
        text = self.texts.get(dialect)
        if text is None:
            raise QueryError(
                f"the statement has SQL for {', '.join(self.texts)}, but this database needs {dialect}: add a text for {dialect}"
            )
        return text

    @property
    def canonical_text(self) -> str:
        """The text that stands for this SQL in the hash of a write with an idempotency key.

        The text does not depend on the dialect of the database, so a retry is recognized after the tenant was moved to another back
        end, and after a release that adds a text for another dialect.
        """
        return self.texts[min(self.texts, key=lambda dialect: (dialect != _CANONICAL_DIALECT, dialect))]

    def __add__(self, other: "str | Sql") -> "Sql":
        """Return this SQL followed by `other`. The sum of two `Sql` objects has only the dialects that both objects have."""
        if isinstance(other, Sql):
            return Sql(
                {name: text + other.texts[name] for name, text in self.texts.items() if name in other.texts}
            )
        return Sql({name: text + other for name, text in self.texts.items()})

    def __radd__(self, other: str) -> "Sql":
        """Return this SQL after the text `other`."""
        return Sql({name: other + text for name, text in self.texts.items()})


if TYPE_CHECKING:
    from tenantry.sql.row import Row

    # Type checkers see a class that is not a tuple, because mypy ignores the return type of `__new__` in tuples.
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
    """One SQL statement and the kind of its result, for example a ``Statement[int]`` that returns a count.

    Type checkers derive the type of the result from `fetch`. The result of a plain ``Statement`` has the type `Any`.

    Attributes:
        name: Words of ``a-z``, ``0-9`` and ``_`` joined by dots, such as ``messages.save``. The name is the label `operation` in metrics.
            A name contains no ids or values, because each name creates a time series.
        sql: One statement with a placeholder ``?`` for each value; SQLite also accepts numbered placeholders (``?1``). Use an `Sql` if the
            dialects need different texts. The statement may not end or nest the transaction, attach a database, set a pragma, or
            create a temporary table, index, view or trigger.
        parameters: One value for each placeholder.
        fetch: The kind of the result.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # at run time, this `__new__` would make each statement slower

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

        def __new__(  # noqa: D102  # type checkers require an implementation
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
    """Runs statements that only read."""

    @property
    def log(self) -> EventLog:
        """The event log, bound to the session's tenant, if any."""

    async def dialect(self) -> str:
        """Return the name of the database's SQL dialect, ``sqlite`` or ``postgres``.

        Raises:
            TenantError: The tenant cannot be opened.
        """

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement and return its result. Cancellation has no lasting effect.

        Raises:
            PersistenceError: The database refused the statement, or failed.
            TenantError: The tenant or the registry cannot serve the call.
        """


class Session(ReadSession, Protocol):
    """Runs statements that read or write."""

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit; return one result for each statement.

        On return the unit is committed and durable, or part of the open transaction. If the caller is cancelled before the unit begins,
        the unit has no effect. If the caller is cancelled later, the whole unit may be committed.

        Raises:
            PersistenceError: The database refused a statement, or failed. The whole unit was rolled back.
            TenantError: The tenant or the registry cannot serve the call.
        """

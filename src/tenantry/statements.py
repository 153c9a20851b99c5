"""Statements: SQL, its parameters and what is expected back; and the sessions that run them.

A repository builds statements and hands them to a session. Which connection runs them, on which thread, in
whose transaction, is the session's matter.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

from tenantry.eventlog import EventLog

Row: TypeAlias = tuple[Any, ...]
Result: TypeAlias = Any
"""None, a row count, a row or None, or a list of rows: as the statement's `Fetch` says."""


class Fetch(Enum):
    """What a statement gives back.

    Attributes:
        NONE: None.
        ROWCOUNT: How many rows the statement inserted, updated or deleted itself, without its triggers and foreign keys.
        ONE: The first row; None if the result has no rows.
        ALL: A list of all rows.
    """

    NONE = "none"
    ROWCOUNT = "rowcount"
    ONE = "one"
    ALL = "all"


class Statement(NamedTuple):
    """One SQL statement and what is expected back from it.

    Attributes:
        operation: Its bounded name in metrics, ``<repository>.<method>``: ``messages.save``.
        sql: One statement with placeholders, plain (``?``) or numbered (``?1``). It may not end or nest the transaction, attach
            a database, set a pragma, or make a temporary table, index, view or trigger.
        parameters: One value for each placeholder.
        fetch: What the session returns for it.
    """

    operation: str
    sql: str
    parameters: Sequence[object] = ()
    fetch: Fetch = Fetch.NONE


class ReadSession(Protocol):
    """Runs statements that change nothing."""

    @property
    def log(self) -> EventLog:
        """The event log, bound to the tenant where there is one."""
        ...

    async def read(self, statement: Statement) -> Result:
        """Run one reading statement and return what its `Fetch` says.

        Cancellation leaves nothing behind.

        Raises:
            PersistenceError: The database refused or failed.
            TenantError: The tenant, or the registry, cannot serve the call.
        """
        ...


class Session(ReadSession, Protocol):
    """Runs statements of both kinds."""

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit; return one result for each.

        When this returns, the unit is committed and durable (inside a transaction: part of it). A caller that is
        cancelled before its unit began leaves nothing behind; after that the unit may be committed whole.

        Raises:
            PersistenceError: The database refused or failed; nothing of the unit was kept.
            TenantError: The tenant, or the registry, cannot serve the call.
        """
        ...

"""The same statements on two databases: one is run by the engine in C, the other by Python's sqlite3, whose answers are right.

Import it by name (``tests/support`` is on pytest's path): ``from engine_oracle import Oracle``.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine_rig import needed_engine
from stores import OPTIONS, connected, rows
from tenantry.clock import SystemClock
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.schemas.schema import Schema
from tenantry.sql.row import Row
from tenantry.sql.statements import Statement
from tenantry.storage.protocol import Request
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.thread_pool import ThreadPools
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenantry.storage.sqlite.statements.execution import known_texts
from tenantry.storage.sqlite.store import SQLiteStore

ENDED, IN_PYTHON, REFUSED, NOT_TAKEN = "ended", "in_python", "refused", "not taken"
"""What the engine did with a batch: ran it; rolled it back and left it to Python; ended it with an error; or did not take it."""


def store_with(
    engine: Any,
    options: SQLiteOptions,
    schemas: Sequence[Schema] = (),
    *,
    ownership: FileOwnership | None = None,
) -> SQLiteStore:
    """Return a disconnected store of this engine, or of Python's sqlite3."""
    pools = ThreadPools.of(write_threads=1, read_threads=1, engine=engine)
    return SQLiteStore(
        options, schemas, clock=SystemClock(), log=EventLog(), thread_pools=pools, ownership=ownership
    )


def described(value: Any) -> Any:
    """Return everything about an outcome that a caller can see, with the exact types, so that outcomes can be compared."""
    if isinstance(value, BaseException):
        fields = {name: repr(field) for name, field in vars(value).items()}
        return type(value), str(value), value.args, fields, described(value.__cause__)
    if isinstance(value, list | tuple):
        return type(value), [described(item) for item in value]
    if isinstance(value, Row):
        return Row, list(map(described, value)), list(value)
    return type(value), repr(value)


class Oracle:
    """Two stores with the same content.

    Attributes:
        native: The store that has the engine.
        python: The store that has Python's sqlite3.
    """

    def __init__(self, native: SQLiteStore, python: SQLiteStore) -> None:
        self.native = native
        self.python = python
        self._module = needed_engine()

    async def write(self, units: Sequence[Request], way: str | None = ENDED) -> list[Any]:
        """Write the units on both stores, compare the outcomes, and return them.

        Args:
            units: The units.
            way: What the engine has to do with the batch; None if that does not matter.
        """
        self.know(statement for unit in units for statement in unit)
        return await self._compared(lambda store: store.write(units), way)

    async def read(self, statements: Sequence[Statement], way: str | None = ENDED) -> list[Any]:
        """Read on both stores, as `write` writes."""
        self.know(statements)
        return await self._compared(lambda store: store.read(statements), way)

    async def transact(
        self, calls: Sequence[Statement | Request], ways: Sequence[str] | None = None
    ) -> list[Any]:
        """Make the calls in one transaction on each store, commit, compare the outcomes, and return them.

        Args:
            calls: Statements to read, and units to write.
            ways: What the engine has to do with each call; None if that does not matter.
        """
        self.know(call if isinstance(call, Statement) else statement for call in calls for statement in call)
        right = await self._transacted(self.python, calls)
        before = self._module.counts()
        outcomes = await self._transacted(self.native, calls)
        if ways is not None:
            after = self._module.counts()
            went = {way: after[way] - before[way] for way in (ENDED, IN_PYTHON, REFUSED)}
            assert went == {way: ways.count(way) for way in (ENDED, IN_PYTHON, REFUSED)}
        assert list(map(described, outcomes)) == list(map(described, right))
        return outcomes

    @staticmethod
    async def _transacted(store: SQLiteStore, calls: Sequence[Statement | Request]) -> list[Any]:
        transaction = await store.begin()
        outcomes: list[Any] = []
        for call in calls:
            try:
                outcomes.append(
                    await (transaction.read(call) if isinstance(call, Statement) else transaction.write(call))
                )
            except TenantryError as error:
                outcomes.append(error)
        try:
            await transaction.commit()
        except TenantryError as error:
            outcomes.append(error)
        return outcomes

    async def compare_tables(self, *names: str) -> None:
        """Assert that both databases hold the same rows."""
        for name in names:
            await self.read([rows(f"SELECT rowid, * FROM {name} ORDER BY rowid")], None)

    @staticmethod
    def know(statements: Any) -> None:
        """Count the texts as authorized, so that the engine takes them at once."""
        for statement in statements:
            if isinstance(statement.sql, str):
                known_texts.setdefault(str(statement.sql), None)

    async def _compared(self, call: Callable[[SQLiteStore], Any], way: str | None) -> list[Any]:
        right = await call(self.python)
        before = self._module.counts()
        outcomes: list[Any] = await call(self.native)
        after = self._module.counts()
        if way is not None:
            went = {name: after[name] - before[name] for name in after if after[name] != before[name]}
            assert went == ({} if way is NOT_TAKEN else {way: 1}), went
        assert list(map(described, outcomes)) == list(map(described, right))
        return outcomes


@asynccontextmanager
async def open_oracle(directory: Path, *tables: str, kind: str = "file") -> AsyncIterator[Oracle]:
    """Open both stores with these tables.

    Args:
        directory: The directory of the files.
        tables: The statements that make the tables.
        kind: One of `stores.OPTIONS`.
    """
    places = directory / "native", directory / "python"
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    options = [OPTIONS[kind](place) for place in places]
    native, python = store_with(needed_engine(), options[0]), store_with(None, options[1])
    async with connected(native, *tables), connected(python, *tables):
        yield Oracle(native, python)


def errors_of(outcomes: Sequence[Any]) -> list[str]:
    """Return the classes of the outcomes that are errors."""
    return [type(outcome).__name__ for outcome in outcomes if isinstance(outcome, TenantryError)]

"""Random work on many databases at once with the engine in C: values, errors, cancellations, slow statements and closing.

Each database has a model. A unit that was acknowledged is in the file with the very values, a unit that failed is not, and a unit whose
caller gave up is there as a whole or not at all.

Import it by name (``tests/support`` is on pytest's path): ``from engine_stress import stress``.
"""

import asyncio
import random
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_oracle import Oracle, described, store_with
from engine_rig import needed_engine
from stores import COUNT_TO_A_BILLION, rows, run
from tenantry.errors import PersistenceConnectionError, TenantryError, TransactionClosedError
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.pace import LONG_JOB_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CREATE = "CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, value, n INTEGER NOT NULL DEFAULT 1 CHECK (n > 0))"
INSERT = "INSERT INTO kept (id, value) VALUES (?, ?)"
FAILING = (
    "INSERT INTO kept (id, value, n) VALUES (?, ?, 0)",
    "INSERT INTO kept (id, value, n) VALUES (?, ?, NULL)",
    "INSERT OR ROLLBACK INTO kept (id, value, n) VALUES (?, ?, 0)",
    "INSERT INTO kept (id, value, missing) VALUES (?, ?, 1)",
    "INSERT INTO kept (id, value) VALUES (?, ?) RETURNING CAST(x'ff' AS TEXT)",
    "INSERT INTO kept (id, value) VALUES (?, abs(-9223372036854775808) || ?)",
)
_CHARACTERS = "a\0é€😀\uffff'\"\n"
_EDGES = (0, 1, -1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63), True, False)
_PATIENCE_SECONDS = (*[0] * 10, *[0.0005] * 5, *[0.005] * 5, 2.5 * LONG_JOB_SECONDS)
"""When callers give up: before the batch runs, while it runs, and after its thread was replaced."""
_FLOATS = (0.0, -0.0, 1.5, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan"))


def random_value(chance: random.Random) -> Any:
    """Return a value that SQLite stores as it is."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: chance.choice(_EDGES),
        lambda: chance.randrange(-(2**63), 2**63) >> chance.randrange(64),
        lambda: chance.choice(_FLOATS),
        lambda: struct.unpack("<d", chance.randbytes(8))[0],
        lambda: "".join(chance.choices(_CHARACTERS, k=chance.choice((0, 1, 5, 300)))),
        lambda: chance.randbytes(chance.choice((0, 1, 7, 5000))),
    )
    return chance.choice(makers)()


def stored(value: Any) -> Any:
    """Return what SQLite gives back for a value."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124  # NaN, which SQLite stores as NULL
        return None
    return int(value) if isinstance(value, bool) else value


class Tenant:
    """One database, and what has to be in it."""

    def __init__(self, path: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.path = path
        self.store = store_with(needed_engine(), SQLiteOptions(path=path))
        self.kept: dict[int, Any] = {}
        self.unknown: list[Sequence[tuple[int, Any]]] = []
        self.next_id = 0
        self.figures: Counter[str] = Counter()

    async def work(self, rounds: int) -> Counter[str]:
        """Do so many random things, and check the file."""
        await self.open()
        for _ in range(rounds):
            action = self.chance.choice(
                (self.write, self.write, self.read, self.read, self.look_long, self.transact)
            )
            await action()
            if self.chance.random() < 0.02:
                await asyncio.gather(self.write(), self.read(), self.reopen())
        await self.check()
        await self.store.disconnect()
        return self.figures

    async def open(self) -> None:
        """Open the database."""
        await self.store.connect()
        assert await self.store.write([(run(CREATE),)]) == [[None]]

    async def reopen(self) -> None:
        """Close the database under the other calls, and open it again."""
        await asyncio.sleep(0)
        await self.store.disconnect()
        await self.open()
        self.figures["closings"] += 1

    def unit(self) -> tuple[tuple[Statement, ...], list[tuple[int, Any]], bool]:
        """Return a unit, the rows that it would insert, and whether it has to fail."""
        pairs = [
            (self._new_id(), random_value(self.chance)) for _ in range(self.chance.choice((1, 1, 1, 2, 3)))
        ]
        statements = [run(INSERT, *pair) for pair in pairs]
        is_failing = self.chance.random() < 0.2
        if is_failing and self.kept and self.chance.random() < 0.5:
            statements[-1] = run(INSERT, self.chance.choice(list(self.kept)), 1)
        elif is_failing:
            statements[-1] = Statement(
                "test.failing", self.chance.choice(FAILING), pairs[-1], self.chance.choice(list(Fetch)[:3])
            )
            is_failing = not (
                "RETURNING" in statements[-1].sql and statements[-1].fetch is Fetch.ONE and False
            )
        return tuple(statements), pairs, is_failing

    async def write(self) -> None:
        """Write a batch, whose caller may give up."""
        units = [self.unit() for _ in range(self.chance.choice((1, 1, 2, 5, 20)))]
        if self.chance.random() < 0.05:  # a batch that only a cancellation ends
            units.append(((run(INSERT, self._new_id(), 1), rows(COUNT_TO_A_BILLION)), [], True))
            outcomes = await self._given_up([unit for unit, _, _ in units])
        elif self.chance.random() < 0.15:
            outcomes = await self._given_up([unit for unit, _, _ in units])
        else:
            outcomes = await self._called(self.store.write, [unit for unit, _, _ in units])
        if outcomes is None:
            self.unknown += [pairs for _, pairs, is_failing in units if not is_failing]
            return
        for (_, pairs, is_failing), outcome in zip(units, outcomes, strict=True):
            assert isinstance(outcome, TenantryError) == is_failing, (outcome, pairs)
            self.figures["failures" if is_failing else "writes"] += 1
            if not is_failing:
                self.kept.update(pairs)

    async def read(self) -> None:
        """Read some rows."""
        found = self.chance.sample(list(self.kept), min(len(self.kept), self.chance.choice((1, 3, 30))))
        fetch = self.chance.choice((Fetch.ONE, Fetch.ALL, Fetch.NAMED_ONE))
        statements = [
            Statement("test.read", "SELECT value FROM kept WHERE id = ?", (key,), fetch) for key in found
        ]
        outcomes = await self._called(self.store.read, statements)
        for key, outcome in zip(found, outcomes or (), strict=False):
            (value,) = outcome[0] if fetch is Fetch.ALL else outcome
            assert described(value) == described(stored(self.kept[key])), key
            self.figures["reads"] += 1

    async def look_long(self) -> None:
        """Read without an end, until the caller gives up."""
        await self._given_up([rows(COUNT_TO_A_BILLION)], is_read=True)

    async def transact(self) -> None:
        """Write in a transaction over several calls."""
        try:
            transaction = await self.store.begin()
        except PersistenceConnectionError:
            return
        pair = self._new_id(), random_value(self.chance)
        try:
            outcome = await transaction.write((run(INSERT, *pair),))
            if self.chance.random() < 0.5:
                await transaction.rollback()
            else:
                await transaction.commit()
                self.kept[pair[0]] = pair[1]
            assert outcome == [None]
        except TransactionClosedError:
            self.unknown.append([pair])
        self.figures["transactions"] += 1

    async def check(self) -> None:
        """Compare the file with the model."""
        (found,) = await self.store.read([rows("SELECT id, value FROM kept")])
        left = {key: described(value) for key, value in found}
        for key, value in self.kept.items():
            assert left.pop(key) == described(stored(value)), key
        for pairs in self.unknown:
            there = [left.pop(key) == described(stored(value)) for key, value in pairs if key in left]
            assert all(there)
            assert len(there) in (0, len(pairs)), pairs
        assert left == {}

    def _new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    async def _called(self, call: Any, arguments: Any) -> Any:
        """Return the outcomes; None if the database was closed."""
        try:
            outcomes = await call(arguments)
        except PersistenceConnectionError:
            return None
        if any(isinstance(outcome, PersistenceConnectionError) for outcome in outcomes):
            return None
        return outcomes

    async def _given_up(self, arguments: Any, *, is_read: bool = False) -> Any:
        """Call, and give up after a moment; return the outcomes if they came first."""
        try:
            job = (self.store.read if is_read else self.store.write)(arguments)
        except PersistenceConnectionError:
            return None
        await asyncio.sleep(self.chance.choice(_PATIENCE_SECONDS))
        job.cancel()
        await asyncio.wait([job])
        self.figures["given up"] += job.cancelled()
        if job.cancelled():
            return None
        return await self._called(lambda _: job, arguments)


async def stress(directory: Path, seed: int, *, tenants: int, rounds: int) -> Counter[str]:
    """Let so many tenants work at once; return how much they did."""
    # What is always cancelled or refused would never become known, and so would never reach the engine.
    Oracle.know(run(sql) for sql in (COUNT_TO_A_BILLION, *FAILING))
    works = [Tenant(directory / f"{number}.db", seed + number).work(rounds) for number in range(tenants)]
    return sum(await asyncio.gather(*works), Counter())

"""Forwarded units on a real database as a state machine: whatever is lost and repeated, each unit runs exactly once.

The machine plays the processes that forward: a unit's answer arrives or is lost, a lost unit is repeated, alone or in a batch with
others, and the owner opens the database again in between.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stores import make_store
from tenantry.errors import QueryError, TransactionClosedError
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.protocol import MarkedRequest, Request
from tenantry.storage.sqlite.connections.opening import SQLiteOptions

ADD = "INSERT INTO done (sender, number) VALUES (?, ?)"
SENDERS = [bytes([number]) * 16 for number in range(3)]


@dataclass
class Unit:
    """A unit that a process has numbered, and that has no answer yet.

    Attributes:
        is_failing: Whether the unit fails whenever it runs.
        has_results: Whether the unit returns a row.
        results: The results of the unit if it was committed.
    """

    sender: bytes
    number: int
    is_failing: bool
    has_results: bool
    results: list[Any] | None = None

    @property
    def statement(self) -> Statement:
        """The unit's only statement."""
        parameters = (self.sender, -self.number if self.is_failing else self.number)
        if self.has_results:
            return Statement("t.add", f"{ADD} RETURNING place, sender", parameters, Fetch.NAMED_ONE)
        return Statement("t.add", ADD, parameters)


@dataclass
class Sender:
    """A process that forwards."""

    token: bytes
    next_number: int = 1
    unanswered: dict[int, Unit] = field(default_factory=dict)

    @property
    def answered_to(self) -> int:
        """The largest number up to which all units are answered."""
        return min(self.unanswered, default=self.next_number) - 1


class Marks(RuleBasedStateMachine):
    """One database, and three processes that forward units to its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.senders = [Sender(token) for token in SENDERS]
        self.committed = 0

    @initialize()
    def open(self) -> None:
        """Open the database, as an owner does."""
        self.store = make_store(SQLiteOptions(self.directory / "tenant.db"))
        self.runner.run(self.store.connect())
        self.runner.run(self.store.migrate())
        create = "CREATE TABLE IF NOT EXISTS done (sender BLOB, number INTEGER, place INTEGER PRIMARY KEY, CHECK (number > 0))"
        assert self.runner.run(self.write_batch([(Statement("t.create", create),)])) == [[None]]

    def teardown(self) -> None:
        """Close the database."""
        self.runner.run(self.store.disconnect())
        self.runner.close()
        shutil.rmtree(self.directory)

    @rule(
        picks=st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from([False, False, True]), st.booleans()),
            min_size=1,
            max_size=5,
        ),
        is_sent=st.sampled_from([True, True, True, False]),
        arrives=st.sampled_from([False, False, True]),
    )
    def send(self, picks: list[tuple[int, bool, bool]], *, is_sent: bool, arrives: bool) -> None:
        """Units of several processes share a batch; the batch is lost on its way, or its answers are, or they arrive."""
        units = []
        for index, is_failing, has_results in picks:
            sender = self.senders[index]
            unit = Unit(sender.token, sender.next_number, is_failing, has_results)
            sender.unanswered[unit.number] = unit
            sender.next_number += 1
            units.append(unit)
        if is_sent:
            self.write(units, is_repeated=False)
            if arrives:
                self.answer(units)

    @precondition(lambda self: any(sender.unanswered for sender in self.senders))
    @rule(data=st.data(), arrives=st.booleans())
    def repeat(self, data: st.DataObject, *, arrives: bool) -> None:
        """Lost units are repeated together, with a first attempt of another unit among them."""
        lost = [unit for sender in self.senders for unit in sender.unanswered.values()]
        units = data.draw(st.lists(st.sampled_from(lost), min_size=1, max_size=4, unique_by=id))
        self.write(units, is_repeated=True)
        if arrives:
            self.answer(units)

    @precondition(lambda self: any(sender.unanswered for sender in self.senders))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """The caller of a lost unit does not wait any more."""
        lost = [unit for sender in self.senders for unit in sender.unanswered.values()]
        self.answer([data.draw(st.sampled_from(lost))])

    @rule(index=st.integers(0, 2))
    def look_up(self, index: int) -> None:
        """A transaction that was never committed has no mark."""
        sender = self.senders[index]
        request = MarkedRequest(
            (Statement("transaction", "SELECT 1", (), Fetch.ONE),),
            sender=sender.token,
            number=sender.next_number,
            answered_to=sender.answered_to,
            is_repeated=True,
            is_look_up=True,
        )
        sender.next_number += 1
        (outcome,) = self.runner.run(self.write_batch([request]))
        assert isinstance(outcome, TransactionClosedError)

    @rule()
    def reopen(self) -> None:
        """The next owner opens the database."""
        self.runner.run(self.store.disconnect())
        self.open()

    @invariant()
    def each_unit_ran_once(self) -> None:
        """No unit is in the table twice, and those that were committed are there."""
        if not hasattr(self, "store"):
            return
        rows = self.rows("SELECT sender, number FROM done")
        assert len(rows) == len(set(rows)) == self.committed

    @invariant()
    def answered_marks_go(self) -> None:
        """The marks that are left are of units from the oldest unanswered one on, but for the sender's last row."""
        if not hasattr(self, "store") or not self.rows(
            "SELECT 1 FROM sqlite_schema WHERE name = 'tenantry_forwarded'"
        ):
            return
        for sender in self.senders:
            query = "SELECT number, units FROM tenantry_forwarded WHERE sender = ? ORDER BY number"
            rows = self.rows(query, sender.token)
            marked = {number for _, units in rows for number, _ in msgspec.msgpack.decode(units)}
            assert marked >= {one.number for one in sender.unanswered.values() if one.results is not None}

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return the rows of a query."""
        (outcome,) = self.runner.run(self.read_batch(Statement("t.read", sql, parameters, Fetch.ALL)))
        assert isinstance(outcome, list), outcome
        return outcome

    async def read_batch(self, statement: Statement) -> list[Any]:
        """Read, in a coroutine of its own."""
        return await self.store.read([statement])

    async def write_batch(self, requests: Sequence[Request]) -> list[Any]:
        """Write, in a coroutine of its own."""
        return await self.store.write(requests)

    def write(self, units: list[Unit], *, is_repeated: bool) -> None:
        """Run units in one batch, and compare the outcomes with what happened to the units before."""
        requests = [
            MarkedRequest(
                (unit.statement,),
                sender=unit.sender,
                number=unit.number,
                answered_to=self.senders[SENDERS.index(unit.sender)].answered_to,
                is_repeated=is_repeated,
            )
            for unit in units
        ]
        outcomes = self.runner.run(self.write_batch(requests))
        for unit, outcome in zip(units, outcomes, strict=True):
            if unit.is_failing:
                assert isinstance(outcome, QueryError)
            elif unit.results is None:
                assert isinstance(outcome, list), outcome
                unit.results = list(outcome)
                self.committed += 1
            else:
                assert outcome == unit.results

    def answer(self, units: list[Unit]) -> None:
        """Let the answers of units arrive."""
        for unit in units:
            del self.senders[SENDERS.index(unit.sender)].unanswered[unit.number]


Marks.TestCase.settings = settings(max_examples=20, stateful_step_count=20)
TestMarks = Marks.TestCase

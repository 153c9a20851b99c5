"""A company of the demo: the work of its agents, and a ledger of their acknowledged records."""

import itertools
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Final, Protocol, TypeVar
from uuid import UUID

from tenantry.company import (
    CostRecord,
    Message,
    MessageType,
    Task,
    TaskStatus,
    TaskType,
)
from tenantry.company.protocols import CompanyRepositories

T = TypeVar("T")

HISTORY_ROWS: Final = 20
_NEXT_STATUS: Final = {
    TaskStatus.CREATED: TaskStatus.ASSIGNED,
    TaskStatus.ASSIGNED: TaskStatus.IN_PROGRESS,
    TaskStatus.IN_PROGRESS: TaskStatus.IN_REVIEW,
    TaskStatus.IN_REVIEW: TaskStatus.COMPLETED,
}
CHANNELS: Final = ("general", "planning", "incidents")


@dataclass
class Timings:
    """The durations of all calls in seconds, by statement."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    async def timed(self, statement: str, call: Awaitable[T]) -> T:
        """Await `call`, and record its duration."""
        started = perf_counter()
        result = await call
        self.seconds.setdefault(statement, []).append(perf_counter() - started)
        return result

    def of(self, *, is_read: bool) -> list[float]:
        """Return the durations of the read calls if `is_read`, otherwise of the write calls."""
        return [
            duration
            for name, seconds in self.seconds.items()
            if (name in READS) is is_read
            for duration in seconds
        ]

    def count(self, *, is_read: bool) -> int:
        """Return the number of read calls if `is_read`, otherwise the number of write calls."""
        return sum(len(s) for name, s in self.seconds.items() if (name in READS) is is_read)


READS: Final = frozenset({"messages.get_history", "tasks.get"})


@dataclass
class Ledger:
    """The acknowledged records of a company."""

    messages: set[UUID] = field(default_factory=set)
    costs: set[str] = field(default_factory=set)  # the unique values of the field `provider`
    tasks: dict[str, TaskStatus] = field(default_factory=dict)


class CompanyHandle(CompanyRepositories, Protocol):
    """The repositories of a company: a tenant's handle, or the same repositories on another connection."""

    @property
    def id(self) -> str:
        """The company's id."""


class Company:
    """A company with agents. Every record contains the company's id, so that the check finds a record in the wrong file.

    Args:
        handle: The company's repositories.
        timings: The durations of calls, shared by all companies.
        seed: The seed of the agents' random choices.
    """

    def __init__(self, handle: CompanyHandle, timings: Timings, seed: int) -> None:
        self.handle = handle
        self.ledger = Ledger()
        self._timings = timings
        self._random = random.Random(seed)  # noqa: S311  # a workload, not a secret
        self._numbers = itertools.count()

    async def work(self, agent: str) -> None:
        """Do one random action of an agent: send a message, record a cost, move a task, or read the history."""
        choice = self._random.random()
        if choice < 0.4:  # noqa: PLR2004  # the mix of the workload
            await self._say(agent)
        elif choice < 0.7:  # noqa: PLR2004
            await self._pay(agent)
        elif choice < 0.85:  # noqa: PLR2004
            await self._move_task(agent)
        else:
            await self._look()

    async def _say(self, agent: str) -> None:
        message = Message(
            timestamp=datetime.now(UTC),
            sender=agent,
            to="all",
            channel=self._random.choice(CHANNELS),
            content=f"{self.handle.id}: step {next(self._numbers)} is done",
            type=MessageType.STATUS_REPORT,
        )
        await self._timings.timed("messages.save", self.handle.messages.save(message))
        self.ledger.messages.add(message.id)

    async def _pay(self, agent: str) -> None:
        token = f"{self.handle.id}/{next(self._numbers)}"
        record = CostRecord(
            agent_id=agent,
            task_id=f"{self.handle.id}/planning",
            provider=token,
            model="large",
            input_tokens=1200,
            output_tokens=300,
            cost_usd=0.0135,
            timestamp=datetime.now(UTC),
        )
        await self._timings.timed("cost_records.save", self.handle.cost_records.save(record))
        self.ledger.costs.add(token)

    async def _move_task(self, agent: str) -> None:
        """Save a task in each of its statuses, with one call for each status."""
        task = Task(
            id=f"{self.handle.id}/{next(self._numbers)}",
            title="Look into it",
            description="Find out what is slow and say so.",
            type=TaskType.RESEARCH,
            project="demo",
            created_by=agent,
        )
        while True:
            await self._timings.timed("tasks.save", self.handle.tasks.save(task))
            self.ledger.tasks[task.id] = task.status
            following = _NEXT_STATUS.get(task.status)
            if following is None:
                return
            task = task.with_transition(following, assigned_to=agent)

    async def _look(self) -> None:
        history = self.handle.messages.get_history(self._random.choice(CHANNELS), limit=HISTORY_ROWS)
        await self._timings.timed("messages.get_history", history)
        for task_id in itertools.islice(self.ledger.tasks, 1):
            await self._timings.timed("tasks.get", self.handle.tasks.get(task_id))

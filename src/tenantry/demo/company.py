"""One company of the demo: what its agents do, and a ledger of what was acknowledged to them."""

import itertools
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Final, TypeVar
from uuid import UUID

from tenantry.company import (
    CostRecord,
    Message,
    MessageType,
    Task,
    TaskStatus,
    TaskType,
)
from tenantry.tenancy.handle import TenantHandle

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
    """How long every call took, by statement, in seconds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    async def timed(self, statement: str, call: Awaitable[T]) -> T:
        """Await `call`; note how long it took."""
        started = perf_counter()
        result = await call
        self.seconds.setdefault(statement, []).append(perf_counter() - started)
        return result

    def count(self, *, is_read: bool) -> int:
        """Return how many calls read, or wrote."""
        return sum(len(s) for name, s in self.seconds.items() if (name in READS) is is_read)


READS: Final = frozenset({"messages.get_history", "tasks.get"})


@dataclass
class Ledger:
    """What a company was told is durable."""

    messages: set[UUID] = field(default_factory=set)
    costs: set[str] = field(default_factory=set)  # a cost record's token, kept in its `provider`
    tasks: dict[str, TaskStatus] = field(default_factory=dict)


class Company:
    """A company with agents; every record it writes carries its id, so that one in the wrong file is found.

    Args:
        handle: The tenant.
        timings: Shared by all companies.
        seed: What its agents' choices follow from.
    """

    def __init__(self, handle: TenantHandle, timings: Timings, seed: int) -> None:
        self.handle = handle
        self.ledger = Ledger()
        self._timings = timings
        self._random = random.Random(seed)  # noqa: S311  # a workload, not a secret
        self._numbers = itertools.count()

    async def work(self, agent: str) -> None:
        """Do one thing as an agent does it: mostly talk and pay, move a task, look at the history."""
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
        """Take a task through its states, one call each."""
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

"""Idempotency keys on real files: any writes in any order, against a model in a few lines."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyed_writes import RETENTION_SECONDS, MovedClock
from samples import a_message, a_task
from tenantry import (
    RegistryConfig,
    TenantHandle,
    TenantRegistry,
)
from tenantry.errors import (
    DuplicateRecordError,
    IdempotencyConflictError,
    TenantryError,
)
from tenants import stored_contents, temporary_directory

pytestmark = pytest.mark.unmeasured


class Step(NamedTuple):
    """What the model and the tenant are both told: after some time, several callers send writes at once."""

    seconds: int
    sent: list[tuple[str, str, int]]  # key, what to do, to which record


class Model:
    """What a tenant with keys must do, in a few lines: it knows the records, and each key with its write and outcome."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()
        self.messages: set[str] = set()
        self._keys: dict[str, tuple[tuple[str, int], Any, int]] = {}

    def send(self, now: int, key: str, what: str, number: int) -> Any:
        """Return the outcome; the type of an error stands for it."""
        payload, outcome, created = self._keys.get(key, (None, None, -1_000_000))
        if created + RETENTION_SECONDS > now:
            return outcome if payload == (what, number) else IdempotencyConflictError
        outcome = self._write(what, str(number))
        if outcome is not DuplicateRecordError:
            self._keys[key] = ((what, number), outcome, now)
        return outcome

    def _write(self, what: str, record: str) -> Any:
        if what == "say" and record in self.messages:
            return DuplicateRecordError
        if what == "delete":
            was_there = record in self.tasks
            self.tasks.discard(record)
            return was_there
        (self.messages if what == "say" else self.tasks).add(record)
        return None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            Step,
            st.sampled_from([0, 1, 30, 59, 60, 61]),
            st.lists(
                st.tuples(
                    st.sampled_from(["a", "b", "c", "d"]),
                    st.sampled_from(["save", "delete", "say"]),
                    st.integers(1, 2),
                ),
                min_size=1,
                max_size=6,
            ),
        ),
        max_size=12,
    )
)
def test_it_does_what_the_model_does(steps: list[Step]):
    """Any keys, writes, repetitions at the same moment and later, and time that passes: every outcome and what is left."""
    with temporary_directory() as directory:
        asyncio.run(_follow(steps, directory))


async def _follow(steps: list[Step], data_dir: Path) -> None:
    model, clock, now = Model(), MovedClock(), 0
    config = RegistryConfig(
        data_dir=data_dir, idempotency_retention_seconds=RETENTION_SECONDS, clock_hold_seconds=0
    )
    async with TenantRegistry(config, clock=clock) as registry:
        await registry.create("acme")
        acme = registry.tenant("acme")
        await acme.tasks.delete("open")  # from here on calls take effect in the order in which they are made
        for step in steps:
            now += step.seconds
            clock.move(step.seconds)
            outcomes = await asyncio.gather(
                *(_send(acme, *sent) for sent in step.sent), return_exceptions=True
            )
            told = [type(outcome) if isinstance(outcome, TenantryError) else outcome for outcome in outcomes]
            assert told == [model.send(now, *sent) for sent in step.sent]
        assert {task.id for task in await acme.tasks.list_tasks()} == model.tasks
    assert set(stored_contents(data_dir, "acme")) == model.messages


async def _send(acme: TenantHandle, key: str, what: str, number: int) -> Any:
    write, record = acme.idempotent(key), str(number)
    if what == "delete":
        return await write.tasks.delete(record)
    if what == "save":
        return await write.tasks.save(a_task(id=record))
    return await write.messages.save(a_message(id=UUID(int=number), content=record))

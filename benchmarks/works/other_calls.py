"""Work 30: calls that are no plain save or get, on both engines: the engine in C must not be slower where Python does a part."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks.comparison import Comparison, Sample, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Caller, Load, Side, Work, check_durable, check_rows, compare, measure
from benchmarks.one_tenant import TASKS
from benchmarks.peers import OpenStore
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.task_row import build_tasks
from benchmarks.peers.tenantry_registry import open_tenantry
from tenantry.company import Message
from tenantry.errors import DuplicateRecordError
from tenantry.eventlog import EventLog
from tenantry.tenancy.handle import TenantHandle

_CALLERS = 16
_ROWS = 50
_LARGE_CHARACTERS = 100_000
_NOISE = 0.95
"""What a ratio of two equal sides may be: a round's noise."""

Call = Callable[[Any], Awaitable[object]]


class _Kind(NamedTuple):
    """A kind of call: how many messages it stores, and what makes it for a tenant."""

    stored: int
    caller: Callable[[TenantHandle], Caller]


def _transactions(tenant: TenantHandle) -> Caller:
    build = message_builder()

    async def call(messages: Sequence[Message]) -> None:
        async with tenant.transaction() as tx:
            for message in messages:
                await tx.messages.save(message)

    return Caller(lambda: (build(), build()), call)


def _keyed_saves(tenant: TenantHandle) -> Caller:
    build, caller, numbers = message_builder(), uuid4(), count()
    return Caller(
        lambda: (f"{caller}-{next(numbers)}", build()),
        lambda keyed: tenant.idempotent(keyed[0]).messages.save(keyed[1]),
    )


def _saves_of_many(tenant: TenantHandle) -> Caller:
    build = message_builder()
    return Caller(lambda: [build() for _ in range(_ROWS)], tenant.messages.save_many)


def _large_saves(tenant: TenantHandle) -> Caller:
    build, content = message_builder(), "x" * _LARGE_CHARACTERS
    return Caller(lambda: build().model_copy(update={"content": content}), tenant.messages.save)


def _refused_saves(tenant: TenantHandle) -> Caller:
    message = message_builder()()

    async def call(again: Message) -> None:
        try:
            await tenant.messages.save(again)
        except DuplicateRecordError:
            return

    return Caller(lambda: message, call)


def _pages(tenant: TenantHandle) -> Caller:
    return Caller(lambda: None, lambda _: tenant.tasks.list_tasks(limit=_ROWS))


def _own_sql(tenant: TenantHandle) -> Caller:
    sql = "SELECT id, title FROM tasks WHERE project = ? ORDER BY id LIMIT 20"
    return Caller(lambda: ["project-03"], lambda values: tenant.fetch_all(sql, values))


_KINDS: dict[str, _Kind] = {
    "transaction of two saves": _Kind(2, _transactions),
    "idempotent save": _Kind(1, _keyed_saves),
    f"save_many, {_ROWS} rows": _Kind(_ROWS, _saves_of_many),
    f"save of {_LARGE_CHARACTERS:,} characters": _Kind(1, _large_saves),
    "save of an id that is taken": _Kind(0, _refused_saves),
    f"list_tasks, {_ROWS} rows": _Kind(0, _pages),
    "fetch_all, 20 rows by name": _Kind(0, _own_sql),
}


def _run(load: Load) -> Sequence[Comparison]:
    opened_by = by_engine(open_tenantry)
    return [
        compare(
            name,
            [Side(side, partial(_round, kind, open_store, load)) for side, open_store in opened_by.items()],
            load,
        )
        for name, kind in _KINDS.items()
    ]


def _round(kind: _Kind, open_store: OpenStore, load: Load, directory: Path) -> Sample:
    with _quiet_log():
        return load.run(_call(kind, open_store, load, directory))


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Write no warnings: each refused save would print a line, and printing would be a part of its cost."""
    EventLog.is_quiet = True
    try:
        yield
    finally:
        EventLog.is_quiet = False


async def _call(kind: _Kind, open_store: Any, load: Load, directory: Path) -> Sample:
    async with open_store(directory, build_tasks(TASKS)) as store:
        durability = check_durable(await store.durability())
        measured = await measure([kind.caller(store.tenant) for _ in range(_CALLERS)], load)
    if kind.stored:
        check_rows(store.stored_messages(), measured.answered * kind.stored, measured.failed * kind.stored)
    return measured.sample(durability, cpu_seconds=measured.calls.cpu_seconds)


WORK = Work(
    number="30",
    title=f"calls other than a save or a get, one tenant, {_CALLERS} callers, on both engines",
    run=_run,
    targets=tuple(Target(name, PYTHON, must=_NOISE, reach=1) for name in _KINDS),
)

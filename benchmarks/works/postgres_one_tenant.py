"""Work 17: one tenant on PostgreSQL, against asyncpg with one statement in each transaction, on the same server.

The processor time is that of this process and of all the server's processes. The server's connections are as many as each side
takes by itself: 32 for asyncpg, and 24 for tenantry.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.harness import Caller, Load, Measured, Side, Work, check_durable, check_rows, compare, measure
from benchmarks.one_tenant import TASKS, plural
from benchmarks.peers import CompanyStore, OpenStore
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.postgres import PostgresServer, open_asyncpg
from benchmarks.peers.task_row import build_tasks, task_id_picker
from benchmarks.peers.tenantry_postgres import open_tenantry_postgres

_SUBJECT, _PEER = "tenantry on PostgreSQL", "asyncpg"
_CALLERS = 64
_SAVE_MANY, _SAVE_ONE = f"save, {plural(_CALLERS, 'caller')}", f"save, {plural(1, 'caller')}"
_GET = f"get, {plural(_CALLERS, 'caller')}"


def _run(load: Load) -> Sequence[Comparison]:
    return [
        compare(_SAVE_MANY, _sides(_save, _CALLERS, load), load),
        compare(_SAVE_ONE, _sides(_save, 1, load), load),
        compare(_GET, _sides(_get, _CALLERS, load), load),
    ]


def _sides(round_of: Callable[..., Sample], callers: int, load: Load) -> list[Side]:
    stores: dict[str, OpenStore] = {
        _SUBJECT: partial(open_tenantry_postgres, load),
        _PEER: partial(open_asyncpg, load),
    }
    return [Side(name, partial(round_of, store, callers, load)) for name, store in stores.items()]


def _save(open_store: OpenStore, callers: int, load: Load, directory: Path) -> Sample:
    async def save() -> Sample:
        build = message_builder()
        async with open_store(directory, ()) as store:
            durability = check_durable(await store.durability())
            measured, cpu_seconds = await _measured([Caller(build, store.save)] * callers, load)
        check_rows(store.stored_messages(), measured.answered, measured.failed)
        return measured.sample(durability, cpu_seconds=cpu_seconds)

    return load.run(save())


def _get(open_store: OpenStore, callers: int, load: Load, directory: Path) -> Sample:
    async def get() -> Sample:
        tasks = build_tasks(TASKS)
        async with open_store(directory, tasks) as store:
            assert await store.get(tasks[-1].id) == tasks[-1]
            measured, cpu_seconds = await _measured(_getters(store, tasks, callers), load)
        return measured.sample(None, cpu_seconds=cpu_seconds)

    return load.run(get())


def _getters(store: CompanyStore, tasks: Sequence, callers: int) -> list[Caller]:
    return [Caller(task_id_picker(tasks), store.get)] * callers


async def _measured(callers: Sequence[Caller], load: Load) -> tuple[Measured, float]:
    """Measure, and return the processor time of each call's share: of the warm-up's calls too, which are taken out in proportion."""
    server = PostgresServer.of(load)
    before = time.process_time() + server.cpu_seconds()
    measured = await measure(callers, load)
    used = time.process_time() + server.cpu_seconds() - before
    return measured, used * len(measured.calls.latencies) / measured.answered


WORK = Work(
    number="17",
    title="one tenant on PostgreSQL, messages.save and tasks.get",
    run=_run,
    targets=(
        Target(_SAVE_MANY, _PEER, must=2.5),
        Target(_SAVE_MANY, _PEER, must=0.3, measure=Measure.CPU),
        Target(_SAVE_ONE, _PEER, must=1.3, measure=Measure.P50),
        Target(_GET, _PEER, must=3),
    ),
)

"""``python -m benchmarks.memory_probe SIDE DATA_DIR TENANTS``: what an open tenant keeps in memory, in this process alone.

Each tenant is opened with its writer and a reader, and has saved a message and got a task. The first tenant is opened
before the measuring begins: what is there once, whoever is open, is not a tenant's.
"""

import asyncio
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from benchmarks.engines import by_engine
from benchmarks.fleet import Fleet
from benchmarks.peers import WRITER_PRAGMAS
from benchmarks.peers.message_row import INSERT, message_builder, row_of
from benchmarks.peers.task_row import GET, build_tasks, decode_task
from benchmarks.peers.tenantry_registry import open_tenantry_fleet
from tenantry.storage.sqlite.database_files.layout import tenant_paths

Use = Callable[[str], Awaitable[None]]

_KIB = 1024
DATABASE_NAME = tenant_paths(Path(), "any").database.name
_TASK_ID = build_tasks(1)[0].id


@asynccontextmanager
async def _open_tenantry(fleet: Fleet, **settings: Any) -> AsyncIterator[Use]:
    build = message_builder()
    async with open_tenantry_fleet(fleet, open_tenants_max=len(fleet.tenants), **settings) as store:

        async def use(tenant: str) -> None:
            await store.save(tenant, build())
            # Twice: the first read after opening runs on the writer's connection.
            for _ in range(2):
                assert await store.get(tenant, _TASK_ID) is not None

        yield use


@asynccontextmanager
async def _open_aiosqlite(fleet: Fleet) -> AsyncIterator[Use]:
    build = message_builder()
    async with AsyncExitStack() as stack:

        async def use(tenant: str) -> None:
            database = tenant_paths(fleet.data_dir, tenant).database.absolute()
            writer = await stack.enter_async_context(aiosqlite.connect(f"file:{database}?mode=rw", uri=True))
            for pragma in WRITER_PRAGMAS:
                await writer.execute(pragma)
            await writer.execute(INSERT, row_of(build()))
            await writer.commit()
            reader = await stack.enter_async_context(aiosqlite.connect(f"file:{database}?mode=ro", uri=True))
            await reader.execute("PRAGMA query_only = ON")
            for _ in range(2):
                (row,) = await reader.execute_fetchall(GET, (_TASK_ID,))
                decode_task(row)

        yield use


SIDES = {**by_engine(_open_tenantry), "two aiosqlite connections": _open_aiosqlite}


async def _measure(side: str, fleet: Fleet) -> dict[str, float]:
    first, *others = fleet.tenants
    async with SIDES[side](fleet) as use:
        await use(first)
        before = _resident()
        for tenant in others:
            await use(tenant)
        after = _resident()
        return {name: (after[name] - before[name]) / len(others) for name in after}


def _resident() -> dict[str, float]:
    """Return the process's resident and unshared bytes (proc(5), ``smaps_rollup``), threads, and connections to tenants."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return {
        "rss": kib["Rss"] * _KIB,
        "uss": (kib["Private_Clean"] + kib["Private_Dirty"]) * _KIB,
        "threads": threading.active_count(),
        "connections": sum(
            fd.is_symlink() and fd.readlink().name == DATABASE_NAME for fd in Path("/proc/self/fd").iterdir()
        ),
    }


def main(arguments: Sequence[str]) -> None:
    """Print what each open tenant takes, as JSON."""
    side, data_dir, tenants = arguments
    fleet = Fleet(Path(data_dir), [f"t-{number:06}" for number in range(int(tenants))])
    print(json.dumps(asyncio.run(_measure(side, fleet))))


if __name__ == "__main__":
    main(sys.argv[1:])

"""One process of work 18: connects, says ``ready``, waits for a line, saves for a time, and reports as JSON.

``python -m benchmarks.postgres_process URI DATA_DIR SIDE TENANT SECONDS``
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.peers.message_row import message_builder
from benchmarks.peers.postgres import CONNECTIONS, AsyncpgStore, PostgresServer
from benchmarks.peers.tenantry_postgres import postgres_config
from tenantry import TenantRegistry

_CALLERS = 64


async def _main(uri: str, data_dir: str, side: str, tenant: str, seconds: str) -> None:
    server = PostgresServer(uri)
    opened = _asyncpg(server, tenant) if side == "asyncpg" else _tenantry(server, Path(data_dir), tenant)
    latencies: list[float] = []
    errors = 0
    async with opened as save:
        await save(message_builder()())
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        until = time.perf_counter() + float(seconds)

        async def call() -> None:
            nonlocal errors
            build = message_builder()
            while time.perf_counter() < until:
                message = build()
                called = time.perf_counter()
                try:
                    await save(message)
                except Exception:  # noqa: BLE001  # any failure is counted
                    errors += 1
                else:
                    latencies.append(time.perf_counter() - called)

        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(call())
    print(json.dumps({"saved": len(latencies) + 1, "errors": errors, "latencies": latencies}))


@asynccontextmanager
async def _tenantry(
    server: PostgresServer, data_dir: Path, tenant: str
) -> AsyncIterator[Callable[[Any], Awaitable[None]]]:
    async with TenantRegistry(postgres_config(server, data_dir)) as registry:
        yield registry.tenant(tenant).messages.save


@asynccontextmanager
async def _asyncpg(server: PostgresServer, schema: str) -> AsyncIterator[Callable[[Any], Awaitable[None]]]:
    size = CONNECTIONS // 2  # of each of four processes, below the server's 100 connections
    async with asyncpg.create_pool(server.uri, min_size=size, max_size=size) as pool:
        yield AsyncpgStore(server, schema, pool).save


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

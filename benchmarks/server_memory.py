"""Writes to many tenants on PostgreSQL, and reports the memory of the server's largest process.

``python -m benchmarks.server_memory [--tenants 5000] [--dir DIR]``

Each process of the server keeps memory for each schema that it has used, until it ends. tenantry replaces a connection after
``tenants_per_connection_max`` different tenants; the second side never does.
"""

import argparse
import asyncio
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.harness import Load
from benchmarks.machine import check_is_disk
from benchmarks.peers.postgres import PostgresServer
from benchmarks.peers.tenantry_postgres import BACKEND, postgres_config
from tenantry import RegistryConfig, TenantRegistry
from tenantry.testing.conformance.samples import make_message

_CONNECTIONS = 2
_CREATE_CONCURRENCY = 8
_NEVER = 1_000_000


def main() -> int:
    """Write to all tenants with both settings, and print the report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_memory")
    parser.add_argument("--tenants", type=int, default=5_000)
    parser.add_argument("--dir", type=Path, default=Path())
    options = parser.parse_args()
    check_is_disk(options.dir)
    with TemporaryDirectory(prefix=".benchmarks-", dir=options.dir) as directory, ExitStack() as resources:
        load = Load(Path(directory), rounds=1, seconds=1, resources=resources)
        print(json.dumps(asyncio.run(_run(load, options.tenants)), indent=2))
    return 0


async def _run(load: Load, tenants: int) -> dict[str, object]:
    server = PostgresServer.of(load)
    names = [f"memory-{number}" for number in range(tenants)]
    config = postgres_config(server, load.directory / "data", connections_max=_CONNECTIONS)
    limiter = anyio.CapacityLimiter(_CREATE_CONCURRENCY)
    async with TenantRegistry(config) as registry:

        async def create(name: str) -> None:
            async with limiter:
                await registry.create(name)

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(create, name)
    return {
        "tenants": tenants,
        "replaced_mib": round(await _largest_mib(server, config, names), 1),
        "never_replaced_mib": round(await _largest_mib(server, _without_replacement(config), names), 1),
    }


async def _largest_mib(server: PostgresServer, config: RegistryConfig, names: list[str]) -> float:
    """Write once to each tenant, and return the most memory that a process of the server had in between."""
    largest = 0
    async with TenantRegistry(config) as registry:
        for number, name in enumerate(names, 1):
            await registry.tenant(name).messages.save(make_message())
            if number % 100 == 0:
                largest = max(largest, server.largest_process_bytes())
    return largest / 2**20


def _without_replacement(config: RegistryConfig) -> RegistryConfig:
    database = config.databases[BACKEND].model_copy(update={"tenants_per_connection_max": _NEVER})
    return config.model_copy(update={"databases": {BACKEND: database}})


if __name__ == "__main__":
    sys.exit(main())

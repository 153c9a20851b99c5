"""A service under load, in which everything happens that a metric tells of. A program: ``busy_service.py DATA_DIR DATABASE_URL``.

With ``DATABASE_URL`` one of its tenants is in a PostgreSQL database, the back end ``east``.

It prints its port and, when everything has happened at least once, ``busy``; it ends with SIGTERM.
"""

import asyncio
import contextlib
import signal
import socket
import sqlite3
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import uvicorn
from prometheus_client import REGISTRY

from tenantry import RegistryConfig, TenantLimits, TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.company import Message, MessageType
from tenantry.demo.company import Company, Timings
from tenantry.errors import TenantryError
from tenantry.observability import configure_logging
from tenantry.observability.certificate import export_certificate
from tenantry.storage.sqlite.database_files.layout import tenant_paths

BUSY: Final = 3
CALLERS: Final = 8
QUIET: Final = 16
PLACES: Final = 6
BYTES_MAX: Final = 256 * 1024
CALLS_IN_FLIGHT_MAX: Final = 4
CERTIFICATE_ENDS_AT_SECONDS: Final = 2e9


async def main(data_dir: Path, database_url: str) -> None:
    """Serve, and keep busy until told to end."""
    configure_logging("info")
    config = RegistryConfig(
        data_dir=data_dir,
        databases={"east": database_url},
        open_tenants_max=PLACES,
        snapshot_interval_seconds=86_400,
    )
    registry = TenantRegistry(config)
    # As of a service that encrypts.
    export_certificate(lambda: CERTIFICATE_ENDS_AT_SECONDS, REGISTRY)
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_admin_app(registry)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    # The same as another process: its calls to the tenants of the first registry are forwarded.
    async with registry, TenantRegistry(config) as other, anyio.create_task_group() as tasks:
        companies = await _create(registry, data_dir)
        for company in companies[:BUSY]:
            for caller in range(CALLERS):
                tasks.start_soon(_work, company, f"agent-{caller}", 0.02)
        for company in companies[BUSY:]:
            tasks.start_soon(_work, company, "agent-0", 0.5)
        tasks.start_soon(_work, Company(other.tenant("busy-0"), Timings(), BUSY + QUIET), "forwarding", 0.1)
        tasks.start_soon(_operate, registry)
        print(listening.getsockname()[1], flush=True)  # noqa: T201  # what it is asked for
        # uvicorn ends with the signal and then sends it again, which is not to be the end of the registry too.
        signal.signal(signal.SIGTERM, lambda *_: None)
        await server.serve([listening])
        tasks.cancel_scope.cancel()


async def _create(registry: TenantRegistry, data_dir: Path) -> list[Company]:
    names = [f"busy-{n}" for n in range(BUSY)] + [f"quiet-{n}" for n in range(QUIET)]
    for name in (*names, "operated", "flooded", "full", "newer", "damaged"):
        await registry.create(name)
    await registry.create("elsewhere", backend="east")
    await registry.update("flooded", limits=TenantLimits(calls_in_flight_max=CALLS_IN_FLIGHT_MAX))
    await registry.update("full", limits=TenantLimits(database_bytes_max=BYTES_MAX))
    await registry.quarantine("damaged", reason="for a look")
    await registry.suspend("newer")
    with contextlib.closing(sqlite3.connect(tenant_paths(data_dir, "newer").database)) as database:
        database.execute("PRAGMA user_version = 99")
    await registry.resume("newer")
    timings = Timings()
    return [Company(registry.tenant(name), timings, seed) for seed, name in enumerate(names)]


async def _work(company: Company, agent: str, pause_seconds: float) -> None:
    while True:
        await company.work(agent)
        await anyio.sleep(pause_seconds)


async def _operate(registry: TenantRegistry) -> None:
    """Do what operators and clumsy callers do, again and again."""
    is_busy = False
    while True:
        snapshot = await registry.snapshots.create("operated")
        await registry.snapshots.restore("operated", snapshot.id)
        await registry.snapshots.delete("operated", snapshot.id)
        await registry.suspend("operated")
        await _fails(registry.tenant("operated").tasks.get("none"))
        await registry.resume("operated")
        await _fails(registry.suspend("nobody"))
        await _fails(registry.tenant("nobody").tasks.get("none"))
        await _fails(registry.tenant("newer").tasks.get("none"))
        message = _message("again")
        await registry.tenant("operated").messages.save(message)
        await registry.tenant("elsewhere").messages.save(_message("on a server"))
        await _fails(registry.tenant("operated").messages.save(message))
        await _fails(registry.tenant("full").messages.save(_message("x" * BYTES_MAX)))
        flood = registry.tenant("flooded").messages
        calls = [_fails(flood.save(_message("hello"))) for _ in range(4 * CALLS_IN_FLIGHT_MAX)]
        await asyncio.gather(*calls)
        await _run_fleet_jobs(registry)
        await registry.move("operated", "east")
        await registry.move("operated", "sqlite")
        # The disk is measured when the registry first looks after itself.
        if not is_busy and registry.statistics().disk is not None:
            print("busy", flush=True)  # noqa: T201  # what it is asked for
            is_busy = True
        await anyio.sleep(0.2)


async def _run_fleet_jobs(registry: TenantRegistry) -> None:
    """Check a tenant, and try to migrate one that cannot be."""
    for kind, tenant_id in (("check", "operated"), ("migrate", "newer")):
        job = await registry.fleet.start(kind, tenant_ids=[tenant_id])
        await registry.fleet.wait(job.id)


async def _fails(call: Awaitable[object]) -> None:
    with contextlib.suppress(TenantryError):
        await call


def _message(content: str) -> Message:
    return Message(
        timestamp=datetime.now(UTC),
        sender="ada",
        to="bob",
        channel="general",
        content=content,
        type=MessageType.QUESTION,
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

"""``python -m benchmarks.admin_server DATA_DIR TENANT``: serve the admin API until the end; tells its port and a key as JSON.

The tenant was used once in every way, so that a scrape has the series that a runtime's has.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry

from tenantry import RegistryConfig, Scope, TenantHandle, TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.testing.conformance.samples import (
    make_audit_entry,
    make_cost_record,
    make_message,
    make_task,
)


async def _serve(data_dir: Path, tenant: str) -> None:
    collectors = CollectorRegistry()
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
    async with registry:
        await _use(registry.tenant(tenant))
        key = await registry.keys.create(name="benchmark", scopes=[Scope.READ])
        app = create_admin_app(registry, collectors=collectors)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        # Of this protocol by name: only then asyncio turns off Nagle's algorithm, which costs 40 ms an answer.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            print(json.dumps({"port": listener.getsockname()[1], "token": key.token}), flush=True)
            await server.serve(sockets=[listener])


async def _use(tenant: TenantHandle) -> None:
    await tenant.tasks.save(make_task())
    await tenant.tasks.get("t")
    await tenant.tasks.list_tasks(limit=1)
    await tenant.messages.save(make_message())
    await tenant.messages.get_history("general", limit=1)
    await tenant.cost_records.save(make_cost_record())
    await tenant.cost_records.query(limit=1)
    await tenant.cost_records.aggregate()
    await tenant.audit_entries.save(make_audit_entry())
    await tenant.audit_entries.query(limit=1)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))

"""Catalogs with something of everything, for the tests that move them.

Import it by name (``tests/support`` is on pytest's path): ``from moved_catalogs import fill``. As a script it moves a catalog and kills
itself after one of the steps: ``python moved_catalogs.py SETTINGS TO STEP``.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from tenantry import RegistryConfig, TenantRegistry
from tenantry.tenancy.catalog_move.move import CatalogMoveReport, Observer
from tenantry.tenancy.catalog_move.run import move_catalog

STEPS = ("copied", "arrived", "left", "confirmed")


async def fill(config: RegistryConfig) -> None:
    """Put rows into every table of the catalog."""
    async with TenantRegistry(config) as registry:
        for tenant_id in ("acme", "globex", "initech", "umbrella"):
            await registry.create(tenant_id, display_name=f"{tenant_id} “ä” \\ '")
        await registry.keys.create(name="some", tenants=["acme", "globex"])
        await registry.keys.create(name="all")
        await registry.suspend("globex", reason="unpaid\n\t\x7f")
        await registry.rename("acme", "acme-2")
        await registry.update("acme-2", deletion_protected=True)
        await registry.delete("initech")
        await registry.purge("initech", force=True)
        await registry.delete("umbrella", reason="ended")
        job = await registry.fleet.start("check", canary=1)
        await registry.fleet.wait(job.id)
        pending = await registry.recorded_responses.begin("key", "1", "hash")
        await pending.record(200, {"etag": "x"}, bytes(range(256)))  # type: ignore[union-attr]


async def contents(config: RegistryConfig) -> dict[str, Any]:
    """Return what a registry says of its catalog, without what every opening changes."""
    async with TenantRegistry(config) as registry:
        [job] = await registry.fleet.list()
        entries = list(await registry.audit.list(limit=1000))
        return {
            "tenants": [record.model_dump(mode="json") for record in await registry.list()],
            "states": await registry._catalog.states(),
            "keys": [key.model_dump(mode="json") for key in await registry.keys.list()],
            "schemas": [one.name for one in await registry.recorded_schemas.list()],
            "job": job.model_dump(mode="json"),
            "results": [one.model_dump(mode="json") for one in await registry.fleet.results(job.id)],
            "waves": [
                one.model_dump(mode="json") for one in await registry.fleet._table.results.waves(job.id)
            ],
            "response": await registry.recorded_responses.begin("key", "1", "hash"),
            "audit": [entry.model_dump(mode="json") for entry in entries if entry.action != "catalog.move"],
            "is_intact": (await registry.audit.verify()).is_intact,
        }


async def move_and_die(config: RegistryConfig, to: str, step: str) -> CatalogMoveReport:
    """Move the catalog, and end as ``kill -9`` ends a process after a step."""

    def die(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return await move_catalog(config, to, observer=Observer(on_step=die))


if __name__ == "__main__":
    asyncio.run(move_and_die(RegistryConfig(**json.loads(sys.argv[1])), *sys.argv[2:]))

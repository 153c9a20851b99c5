"""A process ends while batches run in the engine, with a registry that nobody closed: it neither hangs nor crashes."""

import subprocess
import sys
from pathlib import Path

import pytest

from commands import environment
from engine_rig import needed_engine
from tenantry import RegistryConfig, TenantRegistry
from tenants import HANG_SECONDS

PROGRAM = """
import asyncio, sys
from tenantry import RegistryConfig, TenantRegistry

COUNT = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT COUNT(*) FROM n"

async def work(tenant, done):
    for number in range(10**9):
        await tenant.execute("INSERT INTO numbers VALUES (?)", (number,))
        assert await tenant.fetch_value("SELECT COUNT(*) FROM numbers") > 0
        if number == 5:
            done.set()

async def main():
    registry = TenantRegistry(RegistryConfig(data_dir=sys.argv[2], engine="native"))
    await registry.open()
    tasks, done = [], []
    for name in ("acme", "globex"):
        await registry.create(name)
        tenant = registry.tenant(name)
        await tenant.execute("CREATE TABLE numbers (number INTEGER)")
        await tenant.fetch_value(COUNT, (1,))
        done.append(asyncio.Event())
        tasks.append(asyncio.create_task(work(tenant, done[-1])))
    for one in done:
        await one.wait()
    tasks.append(asyncio.create_task(registry.tenant("acme").fetch_value(COUNT, (10**9,))))
    await registry.tenant("globex").fetch_value(COUNT, (2,))
    return registry, tasks

if sys.argv[1] == "loop ends":
    asyncio.run(main())
else:
    kept = asyncio.new_event_loop().run_until_complete(main())
"""


@pytest.mark.parametrize("way", ["loop ends", "interpreter ends"])
async def test_a_process_that_ends_in_the_middle(way: str, data_dir: Path):
    """The process exits with 0, whether `asyncio.run` cancels the calls or they are on the way; the next one finds whole databases."""
    needed_engine()
    done = subprocess.run(  # noqa: ASYNC221  # nothing else runs on the loop
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", PROGRAM, way, str(data_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal Python error" not in done.stderr
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        for name in ("acme", "globex"):
            found = await registry.tenant(name).fetch_all("SELECT number FROM numbers ORDER BY rowid")
            assert [number for (number,) in found] == list(range(len(found)))
            assert len(found) > 5

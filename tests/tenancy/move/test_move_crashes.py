"""A process that is killed in the middle of a move: the next registry finds the old place or the new one, and nothing of the other."""

import os
import signal
from pathlib import Path

import pytest

from moves import east_of, with_east
from operators import bring_to, contents
from tenantry import TenantState
from tenantry.tenancy.move.phase import STEPS
from tenants import database_path, python, query, read_json, tenant_files

pytestmark = pytest.mark.unmeasured

MOVING = """
import asyncio, json, os, signal, sys
from pathlib import Path
import structlog
from moves import with_east
from tenants import make_message

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def main(data_dir, to, step):
    registry = with_east(Path(data_dir))
    def stop(event):
        if getattr(event, "action", None) == "move" and getattr(event, "step", None) == step:
            print(json.dumps("stopped"), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    registry.add_hook(stop)
    async with registry:
        await registry.tenant("acme").messages.save(make_message("acknowledged"))
        await registry.move("acme", to)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", ["there", "back"])
async def test_killed_at_a_step(data_dir: Path, step: str, way: str):
    """Before the switch the move is rolled back, after it the move is finished; either way the tenant serves and can move."""
    source, target = ("sqlite", "east") if way == "there" else ("east", "sqlite")
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        if way == "back":
            await registry.move("acme", "east")
        before = await registry.get("acme")
    with python(MOVING, data_dir, target, step) as process:
        assert read_json(process) == "stopped"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    has_switched = STEPS.index(step) >= STEPS.index("switched")
    async with with_east(data_dir) as registry:
        tenant = await registry.get("acme")
        assert (tenant.backend, tenant.intent) == (target if has_switched else source, None)
        assert (tenant.state, tenant.uid) == (before.state, before.uid)
        assert await contents(registry.tenant("acme")) == ["acknowledged", "of acme"]
        await registry.suspend("acme")
        here, there = (data_dir, east_of(data_dir))[:: 1 if tenant.backend == "sqlite" else -1]
        assert tenant_files(there) == []
        journal = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'tenantry_journal%'"
        assert query(database_path(here, tenant.location), journal) == [(0,)]
        await registry.resume("acme")
        moved = await registry.move("acme", source if has_switched else target)
        assert moved.backend != tenant.backend
        assert await contents(registry.tenant("acme")) == ["acknowledged", "of acme"]

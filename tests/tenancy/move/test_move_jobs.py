"""Fleet jobs that move many tenants: in waves, paused, resumed, and continued after a kill."""

import os
import signal
from pathlib import Path

import pytest

from moves import with_east
from tenantry import Statement, TenantRegistry, TenantState
from tenantry.errors import JobError
from tenantry.events import OperationStepped
from tenants import history, make_message, python, read_json, say

MOVING = """
import asyncio, json, os, signal, sys
from pathlib import Path
import structlog
from moves import with_east

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def main(data_dir, step):
    registry = with_east(Path(data_dir))
    count = iter(range(100))
    def stop(event):
        if getattr(event, "action", None) == "move" and getattr(event, "step", None) == step and next(count) == 1:
            print(json.dumps("stopped"), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    registry.add_hook(stop)
    async with registry:
        job = await registry.fleet.start("move", arguments={"to": "east"}, concurrency=1)
        await registry.fleet.wait(job.id)

asyncio.run(main(*sys.argv[1:]))
"""


async def make(registry: TenantRegistry, count: int) -> list[str]:
    """Create tenants with one message each."""
    ids = [f"t-{number}" for number in range(count)]
    for tenant_id in ids:
        await registry.create(tenant_id)
        await say(registry, tenant_id, f"of {tenant_id}")
    return ids


async def places(registry: TenantRegistry) -> dict[str, str]:
    """Return the back end of each tenant."""
    return {tenant.id: tenant.backend for tenant in await registry.list()}


async def test_all_tenants(data_dir: Path):
    """In two waves; a tenant that is there already is skipped, and one that cannot be moved fails alone."""
    async with with_east(data_dir) as registry:
        ids = await make(registry, 6)
        await registry.move(ids[0], "east")
        await registry.suspend(ids[1])
        keyless = Statement("test.create", "CREATE TABLE notes (text)")
        await registry.tenant(ids[2])._session.write(keyless)
        job = await registry.fleet.start(
            "move",
            states=[TenantState.ACTIVE, TenantState.SUSPENDED],
            arguments={"to": "east"},
            canary=1,
            canary_failures_max=1,
            by="ada",
        )
        progress = await registry.fleet.wait(job.id)
        assert (progress.state, progress.waves, progress.total) == ("done", 2, 6)
        results = {one.tenant_id: one for one in await registry.fleet.results(job.id)}
        assert [results[one].outcome for one in ids] == ["skipped", "ok", "not_movable", "ok", "ok", "ok"]
        assert results[ids[1]].detail == {"from": "sqlite"}
        assert await places(registry) == dict.fromkeys(ids, "east") | {ids[2]: "sqlite"}
        await registry.resume(ids[1])
        for tenant_id in ids:
            assert await history(registry, tenant_id) == [f"of {tenant_id}"]
        rows = [row for row in await registry.audit.list() if row.action == "move" and row.principal == "ada"]
        assert {row.tenant_id for row in rows} == set(ids[1:])


async def test_a_job_that_is_paused_and_resumed(data_dir: Path):
    """After the pause no further tenant moves; the resumed job moves the rest."""
    async with with_east(data_dir) as registry:
        ids = await make(registry, 4)
        job_ids: list[str] = []

        async with with_east(data_dir) as other:
            job = await registry.fleet.start("move", arguments={"to": "east"}, concurrency=1)
            job_ids.append(job.id)
            await other.fleet.pause(job.id)
            progress = await registry.fleet.wait(job.id)
        assert progress.state == "paused"
        assert list((await places(registry)).values()).count("east") == progress.done
        await registry.fleet.resume(job.id)
        assert (await registry.fleet.wait(job.id)).state == "done"
        assert await places(registry) == dict.fromkeys(ids, "east")


@pytest.mark.parametrize("step", ["copied", "closed", "switched"])
async def test_a_job_whose_process_is_killed(data_dir: Path, step: str):
    """Another process finishes or rolls back the tenant that was moving, and then moves the rest."""
    async with with_east(data_dir) as registry:
        ids = await make(registry, 4)
    with python(MOVING, data_dir, step) as process:
        assert read_json(process) == "stopped"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    async with with_east(data_dir) as registry:
        [job] = await registry.fleet.list()
        assert (await registry.fleet.wait(job.id)).state == "done"
        assert await places(registry) == dict.fromkeys(ids, "east")
        for tenant_id in ids:
            assert (await registry.get(tenant_id)).intent is None
            await registry.tenant(tenant_id).messages.save(make_message("later"))
            assert await history(registry, tenant_id) == [f"of {tenant_id}", "later"]


@pytest.mark.parametrize("arguments", [{}, {"to": 1}, {"to": "east", "more": 1}, {"to": "west"}])
async def test_arguments_that_are_none(data_dir: Path, arguments: dict[str, object]):
    """A job without a back end, or with one that is not in the settings, is refused when it is started."""
    async with with_east(data_dir) as registry:
        with pytest.raises(JobError, match=r"has one argument|west"):
            await registry.fleet.start("move", arguments=arguments)
        with pytest.raises(JobError, match="a 'move' job cannot work on quarantined tenants"):
            await registry.fleet.start("move", states=["quarantined"], arguments={"to": "east"})


async def test_a_process_without_the_back_end(data_dir: Path):
    """It pauses the job with the setting that it lacks, instead of failing every tenant."""
    async with with_east(data_dir) as registry:
        await make(registry, 2)
        events: list[OperationStepped] = []
        registry.add_hook(lambda event: events.append(event) if isinstance(event, OperationStepped) else None)
        job = await registry.fleet.start("move", arguments={"to": "east"})
        await registry.fleet.pause(job.id)
        await registry.fleet.wait(job.id)
    async with TenantRegistry(data_dir) as registry:
        with pytest.raises(JobError, match="TENANTRY_DATABASES__east"):
            await registry.fleet.resume(job.id)

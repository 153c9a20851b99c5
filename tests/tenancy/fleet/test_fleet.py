"""Fleet jobs on real files: waves, failures, steering from anywhere, processes that die, and a catalog that fails.

The test of a killed migration runs with 200 tenants, 8 of which fail. With more of them:
``FLEET_TENANTS=5000 FLEET_FAILING=64 pytest -s tests/tenancy/fleet/test_fleet.py -k killed_migration``.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fleet_processes import environment
from fleets import (
    FakeSnapshots,
    Held,
    all_results,
    fleet_config,
    holding,
    job_rows,
    make_fleet,
    reached,
    save,
)
from tenantry import Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.tenancy.fleet.job import FleetProgress, JobState
from tenants import python, query, stored_contents

TENANTS = int(os.environ.get("FLEET_TENANTS", "200"))


FAILING = int(os.environ.get("FLEET_FAILING", "8"))


# A registry in a process of its own: starts a job, unless it is told to go on with one, and dies when so many tenants are
# finished. Its function leaves a message behind for each time that it is called.
JOB_PROCESS = """
import asyncio, json, os, signal, sys
from tenantry import RegistryConfig, Schema, TenantRegistry
from tenantry.company import COMPANY
from tenants import make_message

data_dir, package, kind, options, lifetime = sys.argv[1:]
schemas = [COMPANY, Schema("invoices", package)] if package else [COMPANY]
left = int(lifetime)

def die(event):
    global left
    if type(event).__name__ == "FleetTenantFinished":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def save(tenant, arguments):
    await tenant.messages.save(make_message("called"))

async def main():
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=16), schemas=schemas, hooks=[die])
    registry.fleet.register("save", save)
    async with registry:
        if kind:
            await registry.fleet.start(kind, **json.loads(options))
        print("ready", flush=True)
        [job] = await registry.fleet.list()
        progress = await registry.fleet.wait(job.id)
        print(progress.model_dump_json(), flush=True)

asyncio.run(main())
"""


async def watched(registry: TenantRegistry, job_id: str) -> list[FleetProgress]:
    """Wait for the job's end and return its progress at many moments."""
    seen = [await registry.fleet.progress(job_id)]
    ended = asyncio.create_task(registry.fleet.wait(job_id))
    while not ended.done():
        seen.append(await registry.fleet.progress(job_id))
        await asyncio.sleep(0)
    return [*seen, await ended]


def run_job(
    data_dir: Path, package: str, kind: str, options: dict[str, Any] | None = None, *, lifetime: int
) -> None:
    """Run a job in another process, a new one unless the kind is empty, until it has finished so many tenants and is killed."""
    arguments = (data_dir, package, kind, json.dumps(options or {}), lifetime)
    with python(JOB_PROCESS, *arguments, env=environment()) as process:
        process.communicate()
        assert process.returncode == -signal.SIGKILL


class TestKilled:
    """Processes that die in the middle of a job."""

    async def test_a_killed_migration_is_finished(self, data_dir: Path, package: str, invoices: Schema):
        """Killed twice, a job ends as if nothing had happened, and no tenant that had an outcome got another.

        The failing tenants are quarantined, with the reason; all others are migrated.
        """
        step = TENANTS // FAILING
        failing = [f"t-{number:05}" for number in range(1, TENANTS, step)][:FAILING]
        await make_fleet(data_dir, TENANTS, failing=failing)
        options = {"canary": "5%", "failures_max": None, "canary_failures_max": None}
        finished: dict[str, tuple[Any, ...]] = {}
        for kind in ("migrate", ""):
            run_job(data_dir, package, kind, options, lifetime=TENANTS // 3)
            survived = job_rows(data_dir, "outcome, finished_at")
            assert len(survived) - len(finished) >= TENANTS // 3
            assert survived.items() >= finished.items()
            finished = survived
        async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
            [job] = await registry.fleet.list()
            seen = await watched(registry, job.id)
            print(seen[-1])  # noqa: T201  # for who runs it with many
            assert (seen[-1].state, seen[-1].left, seen[-1].failed) == (JobState.DONE, 0, FAILING)
            assert job_rows(data_dir, "outcome, finished_at").items() >= finished.items()
            for name in ("done", "failed", "skipped"):
                counts = [getattr(progress, name) for progress in seen]
                assert counts == sorted(counts)
            results = await all_results(registry, job.id)
            assert Counter(result.tenant_id for result in results) == Counter(
                f"t-{n:05}" for n in range(TENANTS)
            )
            failed = await all_results(registry, job.id, "failed")
            assert sorted(result.tenant_id for result in failed) == failing
            assert {result.outcome for result in failed} == {"quarantined"}
            assert all("table invoices already exists" in str(result.error) for result in failed)
            await self.check_tenants(registry, failing)

    async def check_tenants(self, registry: TenantRegistry, failing: list[str]) -> None:
        """Check each tenant's entry, and what it says of its migrations."""
        cursor = None
        while True:
            page = await registry.list(cursor=cursor)
            for tenant in page:
                status = await registry.fleet.status(tenant.id)
                if tenant.id in failing:
                    assert tenant.state is TenantState.QUARANTINED
                    assert "table invoices already exists" in str(status.last_error)
                    assert status.pending == ("invoices 0001_step",)
                else:
                    assert tenant.state is TenantState.ACTIVE
                    assert (status.is_current, status.last_error) == (True, None)
                    assert status.schema_versions == {"company": 1, "invoices": 1}
            cursor = page.next_cursor
            if cursor is None:
                return

    async def test_a_killed_function_is_called_again_only_where_it_was_under_way(self, data_dir: Path):
        """A tenant with an outcome is not worked on again; of those that were being worked on each may be, once."""
        ids = await make_fleet(data_dir, 30)
        run_job(data_dir, "", "save", {"concurrency": 4}, lifetime=10)
        finished = job_rows(data_dir, "outcome")
        registry = TenantRegistry(fleet_config(data_dir))
        registry.fleet.register("save", save)
        async with registry:
            [job] = await registry.fleet.list()
            assert (await registry.fleet.wait(job.id)).done == 30
        calls = {tenant_id: len(stored_contents(data_dir, tenant_id)) for tenant_id in ids}
        assert {calls[tenant_id] for tenant_id in finished} == {1}
        assert sorted(Counter(calls.values())) in ([1], [1, 2])
        assert Counter(calls.values())[2] <= 4

    async def test_an_open_registry_takes_over(self, data_dir: Path):
        """A registry that is open when another process dies goes on with its job at its next look at the catalog."""
        await make_fleet(data_dir, 12)
        registry = TenantRegistry(fleet_config(data_dir))
        registry.fleet.register("save", save)
        async with registry:
            await asyncio.to_thread(run_job, data_dir, "", "save", {"concurrency": 1}, lifetime=5)
            [job] = await registry.fleet.list()
            progress = await registry.fleet.wait(job.id)
        assert (progress.state, progress.done) == (JobState.DONE, 12)

    async def test_a_snapshot_from_before_is_still_the_way_back(self, data_dir: Path, entries: list[str]):
        """When the process dies in the middle of the work, what it took before is not taken again of what the work had done."""
        held, snapshots = Held(), FakeSnapshots()
        async with holding(data_dir, held, shutdown_timeout_seconds=0.01) as registry:
            snapshots.given_to(registry)
            arguments = {"failing": entries}
            job = await registry.fleet.start(
                "held", tenant_ids=entries[:1], return_on_failure=True, arguments=arguments
            )
            await held.begun(1)
        async with holding(data_dir, held) as registry:
            snapshots.given_to(registry)
            await registry.fleet.resume(job.id)
            await held.let_go()
            await registry.fleet.wait(job.id)
        assert snapshots.created == [(entries[0], "fleet")]
        assert snapshots.restored == [(entries[0], "snapshot-1")]


class TestWaves:
    """The first wave, and when a job stops."""

    async def test_the_canary_goes_first(self, data_dir: Path, entries: list[str]):
        """The first wave is as large as it was asked for and spread over all; nobody else begins before its end."""
        held = Held()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", canary="25%")
            await held.begun(5)
            await held.let_go(4)
            await reached(registry, job.id, done=4)
            assert (await registry.fleet.progress(job.id)).wave == 1
            canary = sorted(held.order)
            assert len(canary) == 5
            numbers = [entries.index(tenant_id) for tenant_id in canary]
            assert {after - before for before, after in pairwise(numbers)} == {4}
            await held.let_go()
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.done, progress.wave, progress.waves) == (JobState.DONE, 20, 2, 2)
            first = [r.tenant_id for r in await all_results(registry, job.id) if r.wave == 1]
            assert first == canary

    @pytest.mark.parametrize(
        ("canary", "size"), [(1, 1), (7, 7), (20, 20), (500, 20), ("0.01%", 1), ("100%", 20)]
    )
    @pytest.mark.usefixtures("entries")
    async def test_the_size_of_the_canary(self, data_dir: Path, canary: int | str, size: int):
        """A number is that many, if there are; a share is at least one."""
        async with holding(data_dir, Held()) as registry:
            await registry.fleet.start("held", canary=canary)
            waves = query(data_dir / "catalog.db", "SELECT wave, total FROM fleet_waves ORDER BY wave")
        assert waves == [(1, size), (2, 20 - size)][: 2 if size < 20 else 1]

    async def test_a_failing_canary_stops_the_job(self, data_dir: Path, entries: list[str]):
        """One failure is enough; resumed, the job accepts it and goes on, and does not begin the rest after another."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", canary=2, concurrency=1, arguments={"failing": entries})
            stopped = await registry.fleet.wait(job.id)
            assert (stopped.state, stopped.wave, stopped.failed) == (JobState.STOPPED, 1, 1)
            assert stopped.reason == "1 tenant failed, more than canary_failures_max (0) allows"
            await registry.fleet.resume(job.id)
            stopped = await registry.fleet.wait(job.id)
            assert (stopped.state, stopped.wave, stopped.failed) == (JobState.STOPPED, 2, 2)
            await registry.fleet.resume(job.id)
            stopped = await registry.fleet.wait(job.id)
            assert (stopped.state, stopped.wave, stopped.failed) == (JobState.STOPPED, 2, 2 + 11)
            await registry.fleet.resume(job.id, failures_max=7)
            assert (await registry.fleet.wait(job.id)).state is JobState.DONE

    async def test_a_sound_canary_and_a_failing_rest(self, data_dir: Path, entries: list[str]):
        """What may fail among the first and among all are two things."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start(
                "held",
                canary=4,
                canary_failures_max=None,
                failures_max=9,
                concurrency=1,
                arguments={"failing": entries},
            )
            stopped = await registry.fleet.wait(job.id)
            assert (stopped.state, stopped.wave, stopped.failed) == (JobState.STOPPED, 2, 10)

    @pytest.mark.parametrize("failures_max", [2, 0.1])
    async def test_too_many_failures_stop_the_job(
        self, data_dir: Path, entries: list[str], failures_max: float
    ):
        """One more than may fail, and no other is begun; each resume accepts as many more, or as many as it says."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start(
                "held", concurrency=1, failures_max=failures_max, arguments={"failing": entries}
            )
            for failed in (3, 6):
                stopped = await registry.fleet.wait(job.id)
                assert (stopped.state, stopped.failed, stopped.left) == (
                    JobState.STOPPED,
                    failed,
                    20 - failed,
                )
                assert stopped.reason == f"3 tenants failed, more than failures_max ({failures_max}) allows"
                await registry.fleet.resume(job.id)
            assert (await registry.fleet.wait(job.id)).failed == 9
            await registry.fleet.resume(job.id, failures_max=1000)
            done = await registry.fleet.wait(job.id)
            assert (done.state, done.failed, done.reason) == (JobState.DONE, 20, None)
        assert held.order == entries

    async def test_the_last_failure_stops_nothing(self, data_dir: Path, entries: list[str]):
        """A job that has nothing left is done, however many failed."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", failures_max=0, arguments={"failing": entries[-1:]})
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.done, progress.failed) == (JobState.DONE, 19, 1)

    @pytest.mark.usefixtures("entries")
    async def test_a_job_for_nobody(self, data_dir: Path):
        """A filter that nobody fulfils is a job that is done."""
        async with holding(data_dir, Held()) as registry:
            job = await registry.fleet.start("held", id_prefix="none-", canary=3)
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.total) == (JobState.DONE, 0)

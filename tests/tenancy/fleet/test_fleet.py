"""Fleet jobs on real files: waves, failures, steering from anywhere, processes that die, and a catalog that fails.

The test of a killed migration runs with 200 tenants, 8 of which fail. With more of them:
``FLEET_TENANTS=5000 FLEET_FAILING=64 pytest -s tests/tenancy/fleet/test_fleet.py -k killed_migration``.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from fleets import (
    FakeSnapshots,
    Held,
    all_results,
    fail_with,
    fleet_config,
    holding,
    job_rows,
    make_fleet,
    paused_job,
    reached,
    save,
)
from tenantry import Schema, TenantRegistry, TenantState
from tenantry.errors import (
    JobError,
    JobNotFoundError,
    MalformedRowError,
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
    RegistryClosedError,
)
from tenantry.tenancy.catalog.audit import acting_as
from tenantry.tenancy.fleet import job_run as fleet_run
from tenantry.tenancy.fleet import runner as fleet_runner
from tenantry.tenancy.fleet import table as fleet_table
from tenantry.tenancy.fleet.job import FleetProgress, JobState
from tenants import MovedClock, python, query, read_line, stored_contents, until

TENANTS = int(os.environ.get("FLEET_TENANTS", "200"))
FAILING = int(os.environ.get("FLEET_FAILING", "8"))
LOOKS_EACH_TIME = 1e-6
"""A ``catalog_poll_interval_seconds`` that has always passed."""

# A registry in a process of its own: starts a job, unless it is told to go on with one, and dies when so many tenants are
# finished. Its function leaves a message behind for each time that it is called.
JOB_PROCESS = """
import asyncio, json, os, signal, sys
from tenantry import RegistryConfig, Schema, TenantRegistry
from tenants import make_message

data_dir, package, kind, options, lifetime = sys.argv[1:]
schemas = [Schema("invoices", package)] if package else []
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
# A registry in a process of its own that steers jobs as it is told, line by line, and knows the function "held".
STEERING_PROCESS = """
import asyncio, json, sys
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import JobError

async def held(tenant, arguments):
    return {"by": "the other process"}

async def main():
    registry = TenantRegistry(RegistryConfig(data_dir=sys.argv[1], catalog_poll_interval_seconds=0.02))
    registry.fleet.register("held", held)
    async with registry:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            action, job_id = line.split()
            try:
                print((await getattr(registry.fleet, action)(job_id)).state, flush=True)
            except JobError as error:
                print(error, flush=True)

asyncio.run(main())
"""

Snapshots = list[tuple[str, str]]


async def watched(registry: TenantRegistry, job_id: str) -> list[FleetProgress]:
    """Wait for the job's end and return its progress at many moments."""
    seen = [await registry.fleet.progress(job_id)]
    ended = asyncio.create_task(registry.fleet.wait(job_id))
    while not ended.done():
        seen.append(await registry.fleet.progress(job_id))
        await asyncio.sleep(0)
    return [*seen, await ended]


def environment() -> dict[str, str]:
    """Return what lets another process import what this one can: the tests' packs."""
    packs = [path for path in sys.path if path.endswith("packs")]
    return {"PYTHONPATH": os.pathsep.join(packs)}


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
        async with TenantRegistry(fleet_config(data_dir), schemas=[invoices]) as registry:
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
            assert stopped.reason == "1 tenants failed, more than canary_failures_max (0) allows"
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


class TestSteering:
    """Pause, resume and cancel, from here and from elsewhere."""

    async def test_pause_and_resume(self, data_dir: Path, entries: list[str]):
        """What was begun is finished and nothing else is begun; resumed, the job goes on where it was."""
        held = Held()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", concurrency=3)
            await held.begun(3)
            for _ in range(2):
                paused = await registry.fleet.pause(job.id, reason="lunch")
                assert paused.state is JobState.PAUSED
            await held.let_go()
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.done, progress.left, progress.reason) == (
                JobState.PAUSED,
                3,
                17,
                "lunch",
            )
            assert progress.seconds_left is None
            assert len(held.order) == 3
            for _ in range(2):
                await registry.fleet.resume(job.id)
            assert (await registry.fleet.wait(job.id)).state is JobState.DONE
        assert sorted(held.order) == entries

    async def test_resumed_before_it_has_paused(self, data_dir: Path, entries: list[str]):
        """A job that is resumed while its last tenants finish goes on as soon as they have, and none of them twice."""
        held = Held()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", concurrency=3)
            await held.begun(3)
            await registry.fleet.pause(job.id)
            await registry.fleet.resume(job.id)
            await held.let_go()
            assert (await registry.fleet.wait(job.id)).state is JobState.DONE
        assert sorted(held.order) == entries

    @pytest.mark.usefixtures("entries")
    async def test_cancel(self, data_dir: Path):
        """A cancelled job finishes what it began and never goes on; what cannot be done any more names state and event."""
        held = Held()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", concurrency=2)
            await held.begun(2)
            await registry.fleet.cancel(job.id, reason="wrong ones")
            await held.let_go()
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.done, progress.left) == (JobState.CANCELLED, 2, 18)
            assert (await registry.fleet.cancel(job.id)).reason == "wrong ones"
            for steer in (registry.fleet.pause, registry.fleet.resume):
                with pytest.raises(
                    JobError, match=rf"is cancelled: {steer.__name__} is not possible"
                ) as caught:
                    await steer(job.id)
                assert caught.value.job_id == job.id
            await registry.fleet.adopt()
        assert len(held.order) == 2

    @pytest.mark.usefixtures("entries")
    async def test_another_process_steers(self, data_dir: Path):
        """Another process's pause and resume reach a job through the catalog; whoever comes first goes on with it."""
        held = Held()
        with steering(data_dir) as do:
            async with holding(data_dir, held, catalog_poll_interval_seconds=LOOKS_EACH_TIME) as registry:
                job = await registry.fleet.start("held", concurrency=1)
                await held.begun(1)
                assert await do("pause", job.id) == "paused"
                await held.let_go(1)
                progress = await registry.fleet.wait(job.id)
                assert progress.state is JobState.PAUSED
                assert len(held.order) == progress.done < 20
                await held.let_go()
                assert await do("resume", job.id) in {"pending", "running", "done"}
                assert (await registry.fleet.wait(job.id)).state is JobState.DONE
                others = [r for r in await all_results(registry, job.id) if r.detail]
                assert len(others) + len(held.order) == 20
                assert (
                    await do("cancel", job.id)
                    == f"fleet job {job.id!r} is done: cancel is not possible (possible: nothing)"
                )

    @pytest.mark.usefixtures("entries")
    async def test_another_process_cancels(self, data_dir: Path):
        """A job that was cancelled elsewhere ends here, and is waited for there."""
        held = Held()
        with steering(data_dir) as do:
            async with holding(data_dir, held) as registry:
                job = await registry.fleet.start("held", concurrency=1)
                await held.begun(1)
                waiting = asyncio.create_task(do("wait", job.id))
                await asyncio.sleep(0)
                await registry.fleet.cancel(job.id)
                await held.let_go()
                assert await waiting == "cancelled"
                assert (await registry.fleet.wait(job.id)).done == 1

    async def test_a_pause_that_comes_with_the_last_tenant(self, data_dir: Path, entries: list[str]):
        """The pause was first: the job is paused with nothing left, and done once it is resumed."""
        held = Held()
        async with holding(data_dir, held, catalog_poll_interval_seconds=1.0) as registry:
            job = await registry.fleet.start("held", tenant_ids=entries[:1])
            await held.begun(1)
            async with holding(data_dir, Held()) as other:
                await other.fleet.pause(job.id)
            await held.let_go()
            paused = await registry.fleet.wait(job.id)
            assert (paused.state, paused.left) == (JobState.PAUSED, 0)
            await registry.fleet.resume(job.id)
            assert (await registry.fleet.wait(job.id)).state is JobState.DONE
        assert len(held.order) == 1

    async def test_a_job_is_run_by_one_registry(self, data_dir: Path, entries: list[str]):
        """A second registry on the same directory leaves it to the first, as long as that one lives."""
        first, second = Held(), Held()
        async with holding(data_dir, first) as one:
            job = await one.fleet.start("held", concurrency=2)
            await first.begun(2)
            async with holding(data_dir, second) as two:
                await two.fleet.adopt()
                await first.let_go(2)
                await first.begun(4)
                await first.let_go()
                assert (await two.fleet.wait(job.id)).state is JobState.DONE
        assert (sorted(first.order), second.order) == (entries, [])

    async def test_no_such_job(self, registry: TenantRegistry):
        """An id that no job has is told as such by every call."""
        fleet = registry.fleet
        calls: list[Callable[[str], Any]] = [
            *(fleet.get, fleet.progress, fleet.results, fleet.wait),
            *(fleet.pause, fleet.resume, fleet.cancel),
        ]
        for call in calls:
            with pytest.raises(JobNotFoundError, match=r"no fleet job '\.\./none'") as caught:
                await call("../none")
            assert caught.value.job_id == "../none"

    async def test_a_closed_registry_has_no_jobs(self, data_dir: Path):
        """Every call says that the registry is not open; a wait ends with it."""
        held = Held()
        async with holding(data_dir, held) as registry:
            await registry.create("acme")
            job = await registry.fleet.start("held")
            await held.begun(1)
            waiting = asyncio.create_task(registry.fleet.wait(job.id))
            closing = asyncio.create_task(registry.aclose())
            await held.let_go()
            await closing
        with pytest.raises(RegistryClosedError):
            await waiting
        for call in (registry.fleet.start("held"), registry.fleet.progress(job.id), registry.fleet.list()):
            with pytest.raises(RegistryClosedError):
                await call

    @pytest.mark.usefixtures("entries")
    async def test_calls_are_audited(self, data_dir: Path):
        """Who started, paused, resumed and cancelled which job, and what was refused; not what the work was given."""
        held = Held()
        async with holding(data_dir, held) as registry:
            with acting_as("ada"):
                job = await registry.fleet.start("held", canary="10%", arguments={"password": "hunter2"})
            assert job.created_by == "ada"
            with acting_as("bob"):
                await registry.fleet.pause(job.id, reason="lunch")
                await registry.fleet.resume(job.id, failures_max=3)
                await registry.fleet.cancel(job.id)
                with pytest.raises(JobError):
                    await registry.fleet.resume(job.id)
                with pytest.raises(JobError):
                    await registry.fleet.start("unheard-of")
            await held.let_go()
            rows = [row for row in await registry.audit.list() if row.action.startswith("fleet.")]
            assert (await registry.audit.verify()).is_intact
        assert [(row.principal, row.action, row.outcome) for row in reversed(rows)] == [
            ("ada", "fleet.start", "ok"),
            ("bob", "fleet.pause", "ok"),
            ("bob", "fleet.resume", "ok"),
            ("bob", "fleet.cancel", "ok"),
            ("bob", "fleet.resume", "job"),
            ("bob", "fleet.start", "job"),
        ]
        details = [row.detail for row in reversed(rows)]
        assert details[0] == {"job_id": job.id, "kind": "held", "canary": "10%"}
        assert details[1:4] == [
            {"job_id": job.id, "reason": "lunch"},
            {"job_id": job.id, "failures_max": 3},
            {"job_id": job.id},
        ]
        assert "is cancelled: resume is not possible" in details[4]["error"]
        assert {row.tenant_id for row in rows} == {None}


@contextmanager
def steering(data_dir: Path) -> Iterator[Callable[[str, str], Awaitable[str]]]:
    """Start a registry in another process, and give what steers a job there and tells what came of it."""
    with python(STEERING_PROCESS, data_dir, env=environment()) as process:
        assert read_line(process) == "ready"
        assert process.stdin is not None

        async def do(action: str, job_id: str) -> str:
            print(action, job_id, file=process.stdin, flush=True)
            return await asyncio.to_thread(read_line, process)

        yield do


async def closing_of(registry: TenantRegistry) -> "asyncio.Task[None]":
    """Begin to close the registry, and return when its jobs know."""
    closing = asyncio.create_task(registry.aclose())
    await until(lambda: registry.fleet._runner._is_closed)
    return closing


class TestShutdown:
    """A registry that closes in the middle of a job."""

    async def test_it_stops_between_two_tenants(self, data_dir: Path, entries: list[str]):
        """What was begun is finished, with the tenants still open; the next registry does the rest, and nothing twice."""
        held = Held()
        async with holding(data_dir, held) as registry:
            await registry.fleet.start("held", concurrency=3)
            await held.begun(3)
            closing = await closing_of(registry)
            await registry.list()
            await held.let_go()
            await closing
        assert len(job_rows(data_dir, "outcome")) == len(held.order) == 3
        assert query(data_dir / "catalog.db", "SELECT state FROM fleet_jobs") == [("running",)]
        assert list((data_dir / "operations").iterdir()) == []
        async with holding(data_dir, held) as registry:
            [job] = await registry.fleet.list()
            assert (await registry.fleet.wait(job.id)).state is JobState.DONE
        assert sorted(held.order) == entries

    async def test_what_takes_too_long_is_done_again(self, data_dir: Path, entries: list[str]):
        """Work that does not end in time is cut short, has no outcome, and is begun again by the next registry."""
        held = Held()
        async with holding(data_dir, held, shutdown_timeout_seconds=0.01) as registry:
            job = await registry.fleet.start("held", tenant_ids=entries[:2])
            await held.begun(2)
        assert (job_rows(data_dir, "outcome"), held.at_once) == ({}, 0)
        await held.let_go()
        async with holding(data_dir, held) as registry:
            assert (await registry.fleet.wait(job.id)).done == 2
        assert sorted(held.order) == sorted(entries[:2] * 2)

    async def test_a_function_that_nobody_registered(self, data_dir: Path, entries: list[str]):
        """Its job is paused, with the reason, until somebody has registered it and resumes the job."""
        held = Held()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", concurrency=1)
            await held.begun(1)
            closing = await closing_of(registry)
            await held.let_go()
            await closing
        with structlog.testing.capture_logs() as logs:
            async with TenantRegistry(fleet_config(data_dir)) as registry:
                progress = await registry.fleet.wait(job.id)
                assert (progress.state, progress.done) == (JobState.PAUSED, 1)
                assert "no function 'held' is registered here" in str(progress.reason)
                with pytest.raises(JobError, match="no function 'held' is registered here"):
                    await registry.fleet.resume(job.id)
                registry.fleet.register("held", held)
                await registry.fleet.resume(job.id)
                assert (await registry.fleet.wait(job.id)).state is JobState.DONE
        assert [log["job_id"] for log in logs if log["event"] == "tenantry.fleet.paused"] == [job.id]
        assert sorted(held.order) == entries


class TestFaults:
    """A catalog that fails under a job."""

    async def test_an_outcome_that_cannot_be_written_yet(
        self, data_dir: Path, entries: list[str], monkeypatch: pytest.MonkeyPatch
    ):
        """Where the catalog is busy for a moment, the outcome is written later, and the work not done again."""
        monkeypatch.setattr(fleet_run, "RETRY_SECONDS", (0.001,))
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            failing_once(registry, QueryError("busy", is_transient=True))
            job = await registry.fleet.start("held", concurrency=2)
            assert (await registry.fleet.wait(job.id)).done == 20
        assert sorted(held.order) == entries

    @pytest.mark.usefixtures("entries")
    async def test_an_outcome_that_cannot_be_written(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
        """The job ends here, the others finish; after a while it goes on, and that tenant is done again."""
        monkeypatch.setattr(fleet_runner, "FAILED_RETRY_SECONDS", 0.0)
        held = Held()
        await held.let_go()
        with structlog.testing.capture_logs() as logs:
            async with holding(data_dir, held) as registry:
                failing_once(registry, PersistenceError("disk full"))
                job = await registry.fleet.start("held", concurrency=2)
                assert (await registry.fleet.wait(job.id)).done == 20
        assert [log["error"] for log in logs if log["event"] == "tenantry.fleet.failed"] == ["disk full"]
        assert sorted(Counter(held.order).values()) == [*[1] * 19, 2]

    @pytest.mark.usefixtures("entries")
    async def test_a_job_of_a_newer_tenantry(self, data_dir: Path):
        """What cannot be read is told as such, and the registry opens for everything else."""
        async with holding(data_dir, Held()) as registry:
            job = await paused_job(registry, "held")
            query(data_dir / "catalog.db", "UPDATE fleet_results SET detail = 'no JSON'")
            with pytest.raises(MalformedRowError, match=r"fleet result '.*' cannot be read"):
                await registry.fleet.results(job, outcome="left")
            query(data_dir / "catalog.db", "UPDATE fleet_jobs SET options = ?", '{"colour": "red"}')
            with pytest.raises(MalformedRowError, match=f"fleet job '{job}' cannot be read"):
                await registry.fleet.get(job)
        query(data_dir / "catalog.db", "UPDATE fleet_jobs SET state = 'running'")
        async with holding(data_dir, Held()) as registry:
            assert len(await registry.list()) == 21

    @pytest.mark.usefixtures("entries")
    async def test_a_lock_that_cannot_be_had(self, data_dir: Path):
        """Without a lock nothing is started; a job that is there stays to be run, and is when there is one again."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            paused = await paused_job(registry, "held")
            (data_dir / "operations").rmdir()
            for call in (registry.fleet.start("held"), registry.fleet.resume(paused)):
                with pytest.raises(PersistenceConnectionError, match=r"cannot lock .*/operations/fleet-"):
                    await call
            (data_dir / "operations").mkdir(mode=0o700)
            await registry.fleet.resume(paused)
            assert (await registry.fleet.wait(paused)).done == 20
            assert len(await registry.fleet.list()) == 1

    @pytest.mark.usefixtures("entries")
    async def test_what_is_resumed_at_the_end_ends_too(self, data_dir: Path):
        """A registry that closes waits for each run of a job, also for one that another was to follow."""
        held = Held()
        async with holding(data_dir, held, shutdown_timeout_seconds=0.01) as registry:
            job = await registry.fleet.start("held", concurrency=2)
            await held.begun(2)
            await registry.fleet.pause(job.id)
            await registry.fleet.resume(job.id)
        assert held.at_once == 0
        assert list((data_dir / "operations").iterdir()) == []

    @pytest.mark.usefixtures("entries")
    async def test_a_caller_that_is_cancelled(self, data_dir: Path):
        """A start that was cut short has left no job, or one that runs."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            starting = asyncio.create_task(registry.fleet.start("held"))
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            for job in await registry.fleet.list():
                assert (await registry.fleet.wait(job.id)).done == 20
            assert list((data_dir / "operations").iterdir()) == []

    @pytest.mark.usefixtures("entries")
    async def test_what_ended_long_ago_is_forgotten(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
        """The registry forgets a job with its outcomes when it ended `fleet_retention_seconds` ago; a paused one stays."""
        monkeypatch.setattr(fleet_table, "FORGET_ROWS_MAX", 3)  # in several transactions
        clock = MovedClock()
        registry = TenantRegistry(
            fleet_config(data_dir, fleet_retention_seconds=3600, clock_hold_seconds=0), clock=clock
        )
        async with registry:
            registry.fleet.register("fail", fail_with(ValueError("no")))
            paused = await paused_job(registry, "fail")
            ended = await registry.fleet.start("fail", failures_max=None)
            await registry.fleet.wait(ended.id)
            clock.moved += timedelta(minutes=59)
            late = await registry.fleet.start("fail", failures_max=None)
            await registry.fleet.wait(late.id)
            clock.moved += timedelta(minutes=2)
            clock.waited_seconds += 60
            await until(
                lambda: (ended.id,) not in query(data_dir / "catalog.db", "SELECT id FROM fleet_jobs")
            )
            assert [job.id for job in await registry.fleet.list()] == [late.id, paused]
            with pytest.raises(JobNotFoundError):
                await registry.fleet.results(ended.id)
        for table in ("fleet_results", "fleet_waves"):
            jobs = query(data_dir / "catalog.db", f"SELECT DISTINCT job_id FROM {table} ORDER BY job_id")
            assert jobs == [(paused,), (late.id,)]


def failing_once(registry: TenantRegistry, error: Exception) -> None:
    """Have the catalog refuse the next outcome."""
    table = registry.fleet._table
    finish = table.finish

    async def fail(*_: Any) -> None:
        table.finish = finish  # type: ignore[method-assign]
        raise error

    table.finish = fail  # type: ignore[method-assign]

"""Fleet jobs on real files: paused, resumed and cancelled, from here and from elsewhere, and registries that close."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from fleet_processes import environment
from fleets import (
    Held,
    all_results,
    fleet_config,
    holding,
    job_rows,
)
from tenantry import TenantRegistry
from tenantry.errors import (
    JobError,
    JobNotFoundError,
    RegistryClosedError,
)
from tenantry.tenancy.fleet.job import JobState
from tenants import python, query, read_line, until

LOOKS_EACH_TIME = 1e-6
"""A ``catalog_poll_interval_seconds`` that has always passed."""


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
            job = await registry.fleet.start(
                "held", canary="10%", arguments={"password": "hunter2"}, by="ada"
            )
            assert job.created_by == "ada"
            await registry.fleet.pause(job.id, reason="lunch", by="bob")
            await registry.fleet.resume(job.id, failures_max=3, by="bob")
            await registry.fleet.cancel(job.id, by="bob")
            with pytest.raises(JobError):
                await registry.fleet.resume(job.id, by="bob")
            with pytest.raises(JobError):
                await registry.fleet.start("unheard-of", by="bob")
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

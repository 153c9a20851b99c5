"""Fleet jobs on a catalog that fails."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from fleets import (
    Held,
    fail_with,
    fleet_config,
    holding,
    limited,
    paused_job,
)
from tenantry import TenantRegistry
from tenantry.errors import (
    JobNotFoundError,
    MalformedRowError,
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
)
from tenantry.tenancy.fleet.limits import FleetLimits
from tenants import MovedClock, query, until


class TestFaults:
    """A catalog that fails under a job."""

    async def test_an_outcome_that_cannot_be_written_yet(self, data_dir: Path, entries: list[str]):
        """Where the catalog is busy for a moment, the outcome is written later, and the work not done again."""
        limits = FleetLimits(retry_seconds=(0.001,))
        held = Held()
        await held.let_go()
        async with holding(data_dir, held, limits=limits) as registry:
            failing_once(registry, QueryError("busy", is_transient=True))
            job = await registry.fleet.start("held", concurrency=2)
            assert (await registry.fleet.wait(job.id)).done == 20
        assert sorted(held.order) == entries

    @pytest.mark.usefixtures("entries")
    async def test_an_outcome_that_cannot_be_written(self, data_dir: Path):
        """The job ends here, the others finish; after a while it goes on, and that tenant is done again."""
        limits = FleetLimits(failed_retry_seconds=0.0)
        held = Held()
        await held.let_go()
        with structlog.testing.capture_logs() as logs:
            async with holding(data_dir, held, limits=limits) as registry:
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
    async def test_what_ended_long_ago_is_forgotten(self, data_dir: Path):
        """A job is deleted with its outcomes when it ended `fleet_retention_seconds` ago; a paused one stays."""
        limits = FleetLimits(deleted_rows_max=3)  # in several transactions
        clock = MovedClock()
        config = fleet_config(data_dir, fleet_retention_seconds=3600, clock_hold_seconds=0)
        registry = limited(TenantRegistry(config, clock=clock), limits)
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
    results = registry.fleet._table.results
    finish = results.finish

    async def fail(*_: Any) -> None:
        results.finish = finish  # type: ignore[method-assign]
        raise error

    results.finish = fail  # type: ignore[method-assign]

"""A clock that leaps: nothing is deleted because of it, and dates in the future mislead nobody."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from older_catalogs import make_older
from samples import a_task
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.doctor import Finding, Level, examine
from tenantry.errors import GracePeriodError
from tenantry.events import ClockLeapt, OperationEnded, TenantClosed
from tenantry.observability import export_metrics
from tenantry.tenancy.catalog.recorded_responses import RecordedResponse
from tenants import MovedClock, Recorder, chores_done, query, until

LEAP = timedelta(days=400)
HOUR_SECONDS = 3600.0
MIGRATIONS_BEFORE_CLOCK = 4
"""How many migrations made a catalog before it had a table of the clock."""


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings under which a round of maintenance comes soon."""
    return RegistryConfig(data_dir=data_dir, catalog_poll_interval_seconds=0.01, **fields)


async def snapshot_ids(registry: TenantRegistry, tenant_id: str = "acme") -> list[str]:
    """Return the ids of the tenant's snapshots, as they are listed."""
    return [snapshot.id for snapshot in await registry.snapshots.list(tenant_id)]


async def findings(data_dir: Path, check: str, **fields: Any) -> list[Finding]:
    """Examine the directory, and return what one check found."""
    report = await examine(RegistryConfig(data_dir=data_dir, **fields))
    return [finding for finding in report.findings if finding.check == check]


async def test_a_leap_purges_nobody(data_dir: Path):
    """A deleted tenant outlives a leap past its grace period, and can be brought back; it goes once the clock is steady."""
    clock, hook = MovedClock(), Recorder()
    async with TenantRegistry(config(data_dir), clock=clock, hooks=[hook]) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await registry.delete(tenant_id)
        clock.moved = LEAP
        await chores_done(hook, clock)
        with pytest.raises(GracePeriodError, match="clock may have leapt") as caught:
            await registry.purge("acme")
        assert 3500 < caught.value.retry_after_seconds <= 3600
        assert (await registry.undelete("acme")).state is TenantState.ACTIVE
        assert hook.of(OperationEnded, action="purge", outcome="ok") == []
        clock.wait(timedelta(hours=1))
        await hook.wait_for(OperationEnded, tenant_id="globex", action="purge", outcome="ok")


async def test_a_leap_while_no_process_runs(data_dir: Path):
    """A directory that is opened with a clock far ahead holds back too, also in the process after that."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        await registry.delete("acme")
    clock.moved = LEAP
    for _ in range(2):
        hook, later = Recorder(), MovedClock()
        later.moved = clock.moved
        async with TenantRegistry(config(data_dir), clock=later, hooks=[hook]) as registry:
            await chores_done(hook, later)
            with pytest.raises(GracePeriodError, match="clock may have leapt"):
                await registry.purge("acme")
    assert hook.of(ClockLeapt) == []  # the one before has written it down
    for minutes in (50, 100):
        clock.moved = LEAP + timedelta(minutes=minutes)
        async with TenantRegistry(config(data_dir), clock=clock) as registry:
            if minutes == 100:
                assert (await registry.purge("acme")).state is TenantState.PURGED


async def test_a_short_stop_is_no_leap(data_dir: Path):
    """Opened again within the hour, a directory goes on as before."""
    clock, hook = MovedClock(), Recorder()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        await registry.delete("acme")
    query(data_dir / "catalog.db", "UPDATE tenants SET purge_after = created_at")
    clock.moved = timedelta(minutes=59)
    async with TenantRegistry(config(data_dir), clock=clock, hooks=[hook]) as registry:
        assert (await registry.purge("acme")).state is TenantState.PURGED
    assert hook.of(ClockLeapt) == []


async def test_a_directory_that_is_opened_once_a_day(data_dir: Path):
    """What had expired already when a process last looked, hours ago, is deleted, although no process ever runs for an hour."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        await registry.delete("acme")
    for day in (6, 8):
        clock.moved = timedelta(days=day)
        async with TenantRegistry(config(data_dir), clock=clock) as registry:
            with pytest.raises(GracePeriodError):
                await registry.purge("acme")
    clock.moved, hook = timedelta(days=9), Recorder()
    async with TenantRegistry(config(data_dir), clock=clock, hooks=[hook]):
        await hook.wait_for(OperationEnded, tenant_id="acme", action="purge", outcome="ok")


async def test_a_clock_that_comes_back_confirms_nothing(data_dir: Path):
    """What a process wrote down while the clock was ahead does not count once the clock is set back."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        await registry.delete("acme")
    for moved in (LEAP, timedelta(), timedelta(days=8)):
        clock.moved = moved
        async with TenantRegistry(config(data_dir), clock=clock) as registry:
            with pytest.raises(GracePeriodError):
                await registry.purge("acme")


async def test_a_leap_drops_no_snapshot(data_dir: Path):
    """Snapshots that look too old after a leap are kept, and those that were made meanwhile neither count nor come first."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir, snapshots_kept_max=2), clock=clock) as registry:
        await registry.create("acme")
        first = await registry.snapshots.create("acme")
        clock.moved = LEAP
        ahead = await registry.snapshots.create("acme")
        assert await snapshot_ids(registry) == [ahead.id, first.id]
        clock.moved = timedelta()
        assert await snapshot_ids(registry) == [first.id, ahead.id]
        report = await registry.snapshots.drill()
        assert [result.snapshot_id for result in report.results] == [first.id]
        second, third = [await registry.snapshots.create("acme") for _ in range(2)]
        assert await snapshot_ids(registry) == [third.id, second.id, ahead.id]


async def test_a_leap_drops_no_restore_point(data_dir: Path):
    """What a restore replaced while the clock was ahead takes no place of those that are replaced afterwards."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        snapshot = await registry.snapshots.create("acme")
        clock.moved = LEAP
        await registry.snapshots.restore("acme", snapshot.id)
        [ahead] = await registry.snapshots.points("acme")
        clock.moved = timedelta()
        for _ in range(4):
            await registry.snapshots.restore("acme", snapshot.id)
        points = await registry.snapshots.points("acme")
    assert len(points) == 4
    assert points[-1] == ahead


async def test_the_schedule_comes_back_from_the_future(data_dir: Path):
    """A tenant whose next snapshot was set while the clock was ahead gets it within the interval, not at that date."""
    clock, hook = MovedClock(), Recorder()
    settings = config(data_dir, snapshot_interval_seconds=0.05, snapshot_jitter_seconds=0)
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
    due_at = (datetime.now(UTC) + LEAP).isoformat(timespec="microseconds")
    query(data_dir / "catalog.db", "UPDATE tenants SET snapshot_due_at = ?", due_at)
    [finding] = await findings(data_dir, "dates of tenants", snapshot_interval_seconds=86_400)
    assert (finding.level, finding.subjects) == (Level.NOTE, ("acme",))
    async with TenantRegistry(settings, clock=clock, hooks=[hook]):
        await hook.wait_for(OperationEnded, action="snapshot", outcome="ok")


async def test_a_leap_forgets_no_idempotency_key(data_dir: Path):
    """A write that is sent again after a leap is not done again, nor is a request to the admin API."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        acme = registry.tenant("acme")
        await acme.tasks.save(a_task())
        assert await acme.idempotent("key").tasks.delete("task-1") is True
        pending = await registry.recorded_responses.begin("caller", "k-1", "the same")
        assert not isinstance(pending, RecordedResponse)
        await pending.record(201, {}, b"done")
        clock.moved = LEAP
        assert await acme.idempotent("key").tasks.delete("task-1") is True
        assert await registry.recorded_responses.begin("caller", "k-1", "the same") == RecordedResponse(
            "the same", 201, {}, b"done"
        )


async def test_a_leap_forgets_no_fleet_job(data_dir: Path):
    """A job that ended just now is not taken for one that ended long ago."""
    clock, hook = MovedClock(), Recorder()
    async with TenantRegistry(config(data_dir), clock=clock, hooks=[hook]) as registry:
        await registry.create("acme")
        job = await registry.fleet.start("check")
        await registry.fleet.wait(job.id)
        clock.moved = LEAP
        await chores_done(hook, clock)
        assert [found.id for found in await registry.fleet.list()] == [job.id]


async def test_a_leap_is_reported(data_dir: Path):
    """An event, a metric and the doctor say that the clock leapt, and for how long deletions wait."""
    clock, hook, collectors = MovedClock(), Recorder(), CollectorRegistry()
    registry = TenantRegistry(config(data_dir), clock=clock, hooks=[hook])
    export_metrics(registry, collectors)
    async with registry:
        assert collectors.get_sample_value("tenantry_clock_held_seconds") == 0
        clock.moved = -timedelta(minutes=10)
        held_seconds = collectors.get_sample_value("tenantry_clock_held_seconds")
        assert held_seconds is not None
        assert 3500 < held_seconds <= HOUR_SECONDS
        [leap] = hook.of(ClockLeapt)
        assert round(leap.seconds) == -600
        assert leap.held_seconds == HOUR_SECONDS
        steady = "SELECT 1 FROM clock WHERE steady_since IS NOT NULL"
        await until(lambda: query(data_dir / "catalog.db", steady) != [])
        [finding] = await findings(data_dir, "clock")
        assert finding.level is Level.NOTE
        clock.wait(timedelta(hours=1))
        assert collectors.get_sample_value("tenantry_clock_held_seconds") == 0


async def test_time_that_cannot_be_written_down(data_dir: Path):
    """A catalog that takes nothing, on a full disk say, does not keep a registry from noticing what others do."""
    clock, hook = MovedClock(), Recorder()
    async with TenantRegistry(config(data_dir), clock=clock, hooks=[hook]) as registry:
        await registry.create("acme")
        refusal = "CREATE TRIGGER refuse BEFORE UPDATE ON clock BEGIN SELECT RAISE(ABORT, 'full'); END"
        query(data_dir / "catalog.db", refusal)
        clock.moved = LEAP
        await until(lambda: hook.of(ClockLeapt) != [])
        query(data_dir / "catalog.db", "UPDATE tenants SET state = 'suspended', revision = revision + 1")
        await hook.wait_for(TenantClosed, tenant_id="acme", reason="state")


async def test_the_doctor_finds_dates_in_the_future(data_dir: Path):
    """A directory that was used while the clock was ahead: the clock, the tenant and its snapshot are named."""
    clock = MovedClock()
    clock.moved = LEAP
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        snapshot = await registry.snapshots.create("acme")
    [found] = await findings(data_dir, "clock")
    assert found.level is Level.WRONG
    [found] = await findings(data_dir, "dates of tenants")
    assert (found.level, found.subjects) == (Level.NOTE, ("acme",))
    [found] = await findings(data_dir, "dates of snapshots")
    assert [Path(subject).name for subject in found.subjects] == [snapshot.id]


async def test_a_directory_from_before(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a directory of an older version the audit says when a process was last there."""
    clock = MovedClock()
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        await registry.create("acme")
        await registry.delete("acme")
    await make_older(data_dir, MIGRATIONS_BEFORE_CLOCK, tmp_path / "packs", monkeypatch)
    assert [finding.level for finding in await findings(data_dir, "clock")] == [Level.OK]
    clock.moved = LEAP
    async with TenantRegistry(config(data_dir), clock=clock) as registry:
        with pytest.raises(GracePeriodError, match="clock may have leapt"):
            await registry.purge("acme")

"""Lifecycle operations that cannot be finished for now, because the storage of snapshots refuses: tried again, told of, and finished later."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stores import small_disk
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.errors import DataDirectoryError, PersistenceConnectionError, SnapshotError, TenantNotFoundError
from tenantry.events import OperationEnded
from tenantry.observability import export_metrics
from tenantry.storage.objects.protocol import LocalStorage
from tenantry.tenancy.operations.retries import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, Retries
from tenantry.tenancy.snapshot_storage.owner import MARK_KEY
from tenants import HandClock, MovedClock, Recorder, chores_done, database_path, held_file


class LockedStorage(LocalStorage):
    """A directory whose manifests cannot be deleted, like objects under a lock, while it is told so."""

    is_locked = True

    async def delete(self, key: str) -> None:
        """Delete an object that is not locked."""
        if self.is_locked and key.endswith(".json"):
            raise SnapshotError(f"cannot delete {key}: AccessDenied: the object is under retention")
        await super().delete(key)


class Purged:
    """A registry with a tenant whose purge cannot be finished."""

    def __init__(self, data_dir: Path) -> None:
        self.clock, self.hook, self.collectors = MovedClock(), Recorder(), CollectorRegistry()
        self.storage = LockedStorage(data_dir.parent / "kept")
        settings = RegistryConfig(data_dir=data_dir, catalog_poll_interval_seconds=0.01)
        self.registry = TenantRegistry(
            settings, clock=self.clock, hooks=[self.hook], snapshot_storage=self.storage
        )
        export_metrics(self.registry, self.collectors)

    def tries(self) -> int:
        """Return how often the purge was tried."""
        return len(self.hook.of(OperationEnded, tenant_id="acme", action="purge"))

    async def chores_done(self, seconds: float) -> None:
        """Let time pass, and wait until the registry has done its chores once more."""
        await chores_done(self.hook, self.clock, timedelta(seconds=seconds))


@pytest.fixture
async def purged(data_dir: Path) -> AsyncIterator[Purged]:
    """A tenant with two snapshots that was purged, and whose manifests remain."""
    made = Purged(data_dir)
    async with made.registry as registry:
        await registry.create("acme")
        for _ in range(2):
            await registry.snapshots.create("acme")
        await registry.delete("acme")
        with pytest.raises(
            SnapshotError,
            match=r"is purged, but its snapshots could not be deleted.*2 objects remain.*retention",
        ):
            await registry.purge("acme", force=True)
        yield made


async def test_everybody_is_told(purged: Purged):
    """Whoever asks for the tenant, or wants its id, is told that objects of its snapshots remain, and how many."""
    with pytest.raises(TenantNotFoundError, match="is purged; 2 objects of its snapshots remain"):
        await purged.registry.get("acme")
    with pytest.raises(TenantNotFoundError, match="2 objects"):
        await purged.registry.snapshots.list("acme")
    with pytest.raises(SnapshotError, match="2 objects remain"):
        await purged.registry.create("acme")


async def test_files_that_cannot_be_removed(data_dir: Path):
    """Of a purged tenant whose files remain, nobody is told that it does not exist and can be created."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        await registry.delete("acme")
        directory = database_path(data_dir, "acme").parent
        with small_disk(directory / "in-use", "1m"):
            for call in (registry.purge("acme", force=True), registry.create("acme")):
                with pytest.raises(DataDirectoryError, match="cannot remove"):
                    await call
            with pytest.raises(TenantNotFoundError, match="some of its files are not removed yet"):
                await registry.get("acme")
        await registry.create("acme")


async def test_what_can_be_deleted_is(purged: Purged):
    """One object that cannot be deleted does not keep the others."""
    assert {stored.key.rpartition(".")[2] for stored in await purged.storage.list("")} == {"json"}


async def test_tries_become_rare_and_one_is_audited(purged: Purged):
    """Tries are counted, ever further apart, and the audit has one row for each change of the outcome."""
    tries = purged.tries()
    await purged.chores_done(11)
    assert purged.tries() == tries + 1
    await purged.chores_done(11)  # the second wait is 16 s at least
    assert purged.tries() == tries + 1
    unfinished = {"action": "purge"}
    assert purged.collectors.get_sample_value("tenantry_lifecycle_unfinished_calls", unfinished) == 1
    await purged.chores_done(3700)
    assert purged.tries() == tries + 2
    purged.storage.is_locked = False
    await purged.chores_done(3700)
    assert purged.collectors.get_sample_value("tenantry_lifecycle_unfinished_calls", unfinished) == 0
    rows = [entry for entry in await purged.registry.audit.list(tenant_id="acme") if entry.action == "purge"]
    assert [entry.outcome for entry in rows] == ["ok", "snapshot"]
    assert (await purged.registry.create("acme")).state is TenantState.ACTIVE
    assert [stored.key for stored in await purged.storage.list("")] == [MARK_KEY]


async def test_a_purge_by_itself_is_not_audited_each_time(data_dir: Path):
    """A tenant whose grace period is over, and that cannot be purged, costs one row of the audit."""
    made = Purged(data_dir)
    async with made.registry as registry:
        tenant = await registry.create("acme")
        await registry.delete("acme")
        made.clock.wait(timedelta(days=8))
        with held_file(data_dir / "operations" / tenant.uid):
            for _ in range(4):
                await made.chores_done(3700)
        rows = [e for e in await registry.audit.list(tenant_id="acme") if e.action == "purge"]
        assert made.tries() > 2
        assert [entry.outcome for entry in rows] == ["busy"]


async def test_a_full_disk_or_a_bad_one_is_audited_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A purge that the file system refuses half way is tried again too, and is one row."""
    made = Purged(data_dir)
    async with made.registry as registry:
        await registry.create("acme")
        await registry.delete("acme")
        monkeypatch.setattr("tenantry.storage.sqlite.backend.closed_database", _refuse)
        with pytest.raises(PersistenceConnectionError):
            await registry.purge("acme", force=True)
        for _ in range(2):
            await made.chores_done(3700)
        rows = [e for e in await registry.audit.list(tenant_id="acme") if e.action == "purge"]
        assert made.tries() == 3
        assert [entry.outcome for entry in rows] == ["connection"]


def _refuse(*_: object, **__: object) -> object:
    raise OSError("Input/output error")


async def test_a_retention_that_fails_is_counted(data_dir: Path):
    """The snapshot is made; that an older one cannot be forgotten is an event and so a metric."""
    made = Purged(data_dir)
    settings = RegistryConfig(data_dir=data_dir, snapshots_kept_max=1)
    async with TenantRegistry(settings, hooks=[made.hook], snapshot_storage=made.storage) as registry:
        await registry.create("acme")
        for _ in range(2):
            await registry.snapshots.create("acme")
    outcomes = [event.outcome for event in made.hook.of(OperationEnded, action="retention")]
    assert outcomes == ["ok", "snapshot"]


def test_waits_double_up_to_a_bound():
    """Each failure doubles the wait, to an hour at most; what succeeded, or is somebody else's, is forgotten."""
    clock = HandClock()
    retries = Retries(clock.monotonic_seconds)
    waits = []
    for _ in range(20):
        retries.failed("uid", "purge", "snapshot")
        begun = clock.seconds
        while not retries.is_due("uid"):
            clock.seconds += 1
        waits.append(clock.seconds - begun)
    assert 0.8 * RETRY_SECONDS_MIN <= waits[0] <= RETRY_SECONDS_MIN + 1
    assert waits[1] > 1.3 * waits[0]
    assert 0.8 * RETRY_SECONDS_MAX <= waits[-1] <= RETRY_SECONDS_MAX + 1
    assert (retries.last_outcome("uid"), retries.by_action()) == ("snapshot", {"purge": 1})
    retries.succeeded("uid")
    retries.failed("other", "archive", "full")
    retries.keep_only(())
    assert (len(retries), retries.last_outcome("uid")) == (0, None)

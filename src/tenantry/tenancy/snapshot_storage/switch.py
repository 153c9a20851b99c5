"""Switches a data directory to another snapshot storage, without moving the snapshots.

A copy of a data directory needs another storage, because the snapshots belong to the original directory.
"""

from tenantry.clock import SystemClock
from tenantry.config import SQLITE, RegistryConfig
from tenantry.errors import DataDirectoryError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.events import Event
from tenantry.storage.backends import make_backends
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.storage.protocol import Backend
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.limiter import Limiters
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.clock_watch import ClockWatch
from tenantry.tenancy.data_directory import locked_alone
from tenantry.tenancy.snapshot_storage.location import change_location, default_location, recorded_location
from tenantry.tenancy.snapshot_storage.owner import StorageOwner
from tenantry.threads import run_in_thread


async def switch_storage(config: RegistryConfig, storage: ObjectStorage) -> str:
    """Switch a data directory to a new snapshot storage, and return the location of the old storage.

    Snapshots in the old storage stay there, but are no longer listed or deleted. No registry can open the directory during the
    switch. The switch is audited.

    Raises:
        DataDirectoryError: The directory has no catalog, or a registry has the directory open; nothing was changed.
        SnapshotStorageOwnedError: The new storage belongs to another data directory; nothing was changed.
        SnapshotError: The new storage has objects but no owner, or cannot be used; nothing was changed.
        PersistenceError: The catalog cannot be written.
    """
    data_dir = config.data_dir
    if config.catalog_backend == SQLITE and not await run_in_thread((data_dir / "catalog.db").is_file):
        raise DataDirectoryError(
            f"{data_dir} has no catalog: give the path of a data directory", path=str(data_dir)
        )
    with locked_alone(data_dir):  # an open registry would continue to use the old storage
        backend = make_backends(config, (), clock=SystemClock(), log=EventLog()).catalog
        await backend.open()
        try:
            return await _switch(config, backend, storage)
        finally:
            await backend.aclose()


async def _switch(config: RegistryConfig, backend: Backend, storage: ObjectStorage) -> str:
    data_dir, clock = config.data_dir, SystemClock()
    before = await run_in_thread(recorded_location, data_dir) or str(default_location(data_dir))
    owner = StorageOwner(storage, config, backend, clock)
    if not await owner.is_inside() and await owner.look() is None and await storage.list(""):
        raise SnapshotError(
            f"the snapshot storage {storage.location} has objects but no owner: use an empty storage"
        )
    await owner.check()
    watch = ClockWatch(clock, config.clock_hold_seconds, _ignore, EventLog())
    catalog = Catalog(backend, ActorContext(config, Limiters.of(config), clock, _ignore, watch))
    await catalog.open()
    try:
        await run_in_thread(change_location, data_dir, storage.location)
        detail = {"location": storage.location, "before": before}
        await catalog.write(
            audit.append(
                clock, "switch_storage", tenant_id=None, tenant_uid=None, outcome="ok", detail=detail
            )
        )
    finally:
        await catalog.aclose(config.shutdown_timeout_seconds)
    return before


def _ignore(_: Event) -> None:
    """Ignore an event, because no metrics are collected here."""

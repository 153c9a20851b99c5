"""Switches a data directory to another snapshot storage and leaves the snapshots in the old one.

For a copy of a data directory, whose snapshots belong to the original, and for a change of the storage without moving snapshots.
"""

from tenantry.clock import SystemClock
from tenantry.config import RegistryConfig
from tenantry.errors import DataDirectoryError, SnapshotError
from tenantry.eventlog import EventLog
from tenantry.events import Event
from tenantry.storage.backends import make_backend
from tenantry.storage.objects.protocol import ObjectStorage
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
    """Store the snapshots of a data directory in this storage from now on, and return the location of the old storage.

    Snapshots in the old storage stay there, and are neither listed nor deleted any more. While this runs, no registry can open the
    directory. The switch is in the audit.

    Raises:
        DataDirectoryError: There is no catalog in the directory, or a registry has it open; nothing was changed.
        SnapshotStorageOwnedError: The storage belongs to another data directory; nothing was changed.
        SnapshotError: The storage has objects and no owner, or cannot be used; nothing was changed.
        PersistenceError: The catalog cannot be written.
    """
    data_dir = config.data_dir
    if not await run_in_thread((data_dir / "catalog.db").is_file):
        raise DataDirectoryError(
            f"there is no catalog in {data_dir}: give a data directory", path=str(data_dir)
        )
    with locked_alone(data_dir):  # an open registry would go on with the old storage
        return await _switch(config, storage)


async def _switch(config: RegistryConfig, storage: ObjectStorage) -> str:
    data_dir, clock = config.data_dir, SystemClock()
    before = await run_in_thread(recorded_location, data_dir) or str(default_location(data_dir))
    owner = StorageOwner(storage, data_dir, clock)
    if not await owner.is_inside() and await owner.look() is None and await storage.list(""):
        raise SnapshotError(
            f"{storage.location} has objects, and no data directory has marked it as its own: give an empty storage"
        )
    await owner.check()
    watch = ClockWatch(clock, config.clock_hold_seconds, _ignore, EventLog())
    backend = make_backend(config, (), clock=clock, log=EventLog())
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
    """Take an event that nobody counts."""

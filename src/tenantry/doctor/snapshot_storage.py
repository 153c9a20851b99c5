"""Checks which data directory owns the snapshot storage."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio

from tenantry.clock import SystemClock
from tenantry.config import SQLITE, RegistryConfig
from tenantry.doctor.finding import Finding, note, ok, wrong
from tenantry.errors import SnapshotError, SnapshotStorageOwnedError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.storage.backends import make_backends
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.tenancy.snapshot_storage.location import default_location, recorded_location
from tenantry.tenancy.snapshot_storage.owner import StorageOwner
from tenantry.tenancy.snapshots.snapshot_archive import MANIFEST_SUFFIX

STORAGE_SECONDS_MAX: Final = 10.0
_CHECK: Final = "snapshot storage"
_TO_DO: Final = (
    "if this directory is a copy, give it its own storage with 'tenantry snapshot switch-storage'; if it was moved or "
    "restored, or is to take over the other directory's snapshots, use 'tenantry snapshot claim-storage'"
)


def find_left_snapshots(data_dir: Path) -> Iterator[Finding]:
    """Find unused snapshots in a data directory whose registries store snapshots elsewhere."""
    default = default_location(data_dir)
    try:
        recorded = recorded_location(data_dir)
    except SnapshotError:
        return  # a registry refuses to open, and the registry's error says why
    if recorded in {None, os.path.abspath(default)}:  # noqa: PTH100  # as `LocalStorage.location`
        return
    left = {str(path) for path in default.glob(f"*/*{MANIFEST_SUFFIX}")}
    if left:
        yield note(
            _CHECK,
            f"{len(left)} {'snapshot is' if len(left) == 1 else 'snapshots are'} in {default}, but this directory keeps its snapshots at "
            f"{recorded}: the snapshots in {default} are neither listed nor deleted",
            f"copy the content of {default} to {recorded}, or remove it if the snapshots are not needed",
            left,
        )


def snapshots_of_one_machine(data_dir: Path) -> Finding:
    """Return the finding for a catalog that machines can share, and a snapshot storage that they cannot share."""
    return note(
        _CHECK,
        f"snapshots are in {default_location(data_dir)}, which other machines on the same database neither list nor delete",
        "nothing for one machine; with several machines, give all of them the same TENANTRY_SNAPSHOT_STORAGE",
    )


async def check_storage(config: RegistryConfig, storage: ObjectStorage) -> Finding:
    """Compare the storage's owner mark with the data directory, without changing either."""
    backends = make_backends(config, (), clock=SystemClock(), log=EventLog())
    catalog = backends.catalog
    owner = StorageOwner(storage, config, catalog, SystemClock())
    try:
        if config.catalog_backend != SQLITE:
            await catalog.open()  # only the database knows its identity
        with anyio.fail_after(STORAGE_SECONDS_MAX):
            return await _compare(owner)
    except SnapshotStorageOwnedError as error:
        return wrong(_CHECK, str(error), _TO_DO)
    except TenantryError as error:
        return wrong(_CHECK, f"the storage cannot be read: {error}", "check its location and its credentials")
    except TimeoutError:
        return wrong(
            _CHECK,
            f"{storage.location} did not answer within {STORAGE_SECONDS_MAX:g} s",
            "check that it can be reached",
        )
    finally:
        await catalog.aclose()


async def _compare(owner: StorageOwner) -> Finding:
    if await owner.is_inside():
        return ok(_CHECK, "snapshots are kept in the data directory")
    mark = await owner.look()
    if mark is None:
        return note(
            _CHECK,
            f"{owner.location} has no owner yet",
            "nothing: the next start of a service makes this directory the owner",
        )
    if not await owner.is_own(mark):
        return wrong(
            _CHECK, f"the snapshots at {owner.location} belong to {mark}, not to this directory", _TO_DO
        )
    return ok(_CHECK, f"{owner.location} belongs to this directory")

"""The owner of a snapshot storage: the one data directory, or the one database, that may use it.

Without an owner, a copy of a data directory could delete the original's snapshots, and the original could restore the copy's
snapshots. The storage therefore has a mark, the object ``tenantry-owner.json``, with the `DirectoryIdentity` of its owner. The
first directory that uses the storage writes the mark. Registries check the mark before they write, delete or restore snapshots.
The result of a check is valid for `CHECKED_SECONDS_MAX`.

A storage inside the data directory needs no mark, because a copy of the directory gets its own copy of the snapshots.

If the catalog is in a database on a server, several machines serve its tenants, each with a data directory of its own. Then the
database is the owner, and the storage must be one that all machines can reach.
"""

import asyncio
import socket
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from tenantry.clock import Clock
from tenantry.config import RegistryConfig
from tenantry.errors import SnapshotError, SnapshotNotFoundError, SnapshotStorageOwnedError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.storage.objects.protocol import LocalStorage, ObjectStorage
from tenantry.storage.protocol import Backend
from tenantry.tenancy.snapshot_storage.directory_identity import (
    DirectoryIdentity,
    make_identity,
    read_identity,
)
from tenantry.threads import run_in_thread

MARK_KEY: Final = "tenantry-owner.json"
MARK_BYTES_MAX: Final = 8192
CHECKED_SECONDS_MAX: Final = 60.0
"""The longest time that this directory may still use the storage after another directory has claimed the storage."""

STORAGE_REFUSED: Final = "tenantry.snapshots.storage_refused"


class StorageMark(BaseModel):
    """The mark of a snapshot storage; the mark names the storage's owner.

    Attributes:
        directory: The owner's identity.
        data_dir: The owner's path when the mark was written, or the address of the owner's database.
        host: The name of the machine that wrote the mark.
        marked_at: The time of the mark, in UTC.
    """

    model_config = ConfigDict(frozen=True)

    directory: DirectoryIdentity
    data_dir: str
    host: str
    marked_at: datetime

    def __str__(self) -> str:
        kind = "catalog in the database" if self.directory.is_of_database else "data directory"
        return f"the {kind} {self.data_dir} on {self.host} (since {self.marked_at:%Y-%m-%d %H:%M} UTC)"


class StorageOwner:
    """Writes and checks the mark of a snapshot storage.

    Args:
        storage: The storage.
        config: The settings, with the data directory.
        catalog: The back end that keeps the catalog; it must be open when the storage is used.
    """

    def __init__(
        self, storage: ObjectStorage, config: RegistryConfig, catalog: Backend, clock: Clock
    ) -> None:
        self._storage = storage
        self._data_dir = config.data_dir
        self._catalog = catalog
        database = config.all_databases.get(config.catalog_backend)
        self._place = str(config.data_dir.absolute()) if database is None else str(database.address)
        self._clock = clock
        self._checking = asyncio.Lock()
        self._checked_at_seconds: float | None = None
        self._log = EventLog()

    @property
    def location(self) -> str:
        """The location of the storage."""
        return self._storage.location

    async def check(self) -> None:
        """Raise unless the storage belongs to this directory; write the mark if the storage has no mark.

        Raises:
            SnapshotStorageOwnedError: The storage belongs to another directory.
            SnapshotError: The storage cannot be read or written.
        """
        async with self._checking:
            if self._is_checked() or await self.is_inside():
                return
            mark = await self.look()
            if mark is None:
                await self._mark(await self._made_identity())
                mark = await self.look()  # another directory may have written its mark at the same moment
            await self._compare(mark)
            self._checked_at_seconds = self._clock.monotonic_seconds()

    async def check_not_foreign(self) -> None:
        """Raise `SnapshotStorageOwnedError` if the storage belongs to another directory; accept an unreadable storage."""
        try:
            await self.check()
        except SnapshotStorageOwnedError:
            raise
        except TenantryError:
            return

    async def announce(self) -> None:
        """Check the storage in the background and log a failure, so that opening the registry does not wait for a network."""
        try:
            await self.check()
        except TenantryError as error:
            self._log.failure(STORAGE_REFUSED, error, location=self._storage.location)

    async def claim(self) -> StorageMark | None:
        """Make this directory the storage's owner, even if another directory owns the storage, and return the previous mark.

        The directory gets a new identity, so the storage refuses the previous owner even if one directory is a copy of the other.
        Claiming a storage inside the data directory is a no-op.

        Raises:
            SnapshotError: The storage or the data directory cannot be written; call again.
        """
        async with self._checking:
            self._checked_at_seconds = None
            if await self.is_inside():
                return None
            try:
                before = await self.look()
            except SnapshotStorageOwnedError:  # the mark cannot be read
                before = None
            await self._mark(await self._made_identity(is_replaced=True))
            await self._compare(await self.look())
        return before

    async def look(self) -> StorageMark | None:
        """Return the storage's mark; None if the storage has no mark.

        Raises:
            SnapshotStorageOwnedError: The storage has a mark that cannot be read.
            SnapshotError: The storage cannot be used.
        """
        try:
            content = await self._storage.get_bytes(MARK_KEY, bytes_max=MARK_BYTES_MAX)
        except SnapshotNotFoundError:
            return None
        try:
            return StorageMark.model_validate_json(content)
        except ValidationError as error:
            raise self._owned("an unknown data directory (the mark cannot be read)", None) from error

    async def is_inside(self) -> bool:
        """Return whether the storage is inside the data directory and therefore needs no mark."""
        return await run_in_thread(_is_inside, self._storage, self._data_dir)

    async def is_own(self, mark: StorageMark) -> bool:
        """Return whether a mark names this data directory, or the database of its catalog, as the owner."""
        identity = await self._database_identity() or await run_in_thread(read_identity, self._data_dir)
        return identity is not None and identity.is_same(mark.directory)

    async def _made_identity(self, *, is_replaced: bool = False) -> DirectoryIdentity:
        """Return the identity of the catalog's database, or of the data directory, which is made if it is missing."""
        found = await self._database_identity()
        if found is None:
            return await run_in_thread(partial(make_identity, self._data_dir, is_replaced=is_replaced))
        return found

    async def _database_identity(self) -> DirectoryIdentity | None:
        found = await self._catalog.identity()
        return None if found is None else DirectoryIdentity(found, 0, None)

    async def _compare(self, mark: StorageMark | None) -> None:
        if mark is None:
            raise SnapshotError(
                f"the mark {MARK_KEY} at {self._storage.location} was removed just after it was written: try again",
                is_retryable=True,
            )
        if not await self.is_own(mark):
            raise self._owned(str(mark), mark)

    async def _mark(self, identity: DirectoryIdentity) -> None:
        mark = StorageMark(
            directory=identity,
            data_dir=self._place,
            host=socket.gethostname(),
            marked_at=self._clock.now(),
        )
        await self._storage.put_bytes(MARK_KEY, mark.model_dump_json().encode())

    def _is_checked(self) -> bool:
        checked = self._checked_at_seconds
        return checked is not None and self._clock.monotonic_seconds() - checked < CHECKED_SECONDS_MAX

    def _owned(self, owner: str, mark: StorageMark | None) -> SnapshotStorageOwnedError:
        self._checked_at_seconds = None
        return SnapshotStorageOwnedError(
            f"the snapshots at {self._storage.location} belong to {owner}, not to {self._place}, which is another one, "
            "a copy, or was moved: nothing was written, deleted or restored. To take over these snapshots, run 'tenantry "
            "snapshot claim-storage'. To use another, empty storage, run 'tenantry snapshot switch-storage'",
            location=self._storage.location,
            data_dir=str(self._data_dir),
            owner_data_dir=None if mark is None else mark.data_dir,
            owner_host=None if mark is None else mark.host,
        )


def _is_inside(storage: ObjectStorage, data_dir: Path) -> bool:
    """Return whether the storage is inside the data directory, on the same file system, so that a copy includes the storage."""
    if not isinstance(storage, LocalStorage):
        return False
    try:
        place, root = storage.directory.resolve(), data_dir.resolve()
        return place.is_relative_to(root) and (
            not place.exists() or place.stat().st_dev == root.stat().st_dev
        )
    except OSError:
        return False

"""One aiosqlite connection for each tenant, opened on first use, kept, and limited by nothing."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.fleet import Fleet
from benchmarks.peers import Durability
from benchmarks.peers.aiosqlite_lock import FetchallStore, connect
from tenantry.company import Message, Task


class UnlimitedFleet:
    """The open connections, each behind its lock."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stores: dict[str, FetchallStore] = {}

    async def save(self, tenant: str, message: Message) -> None:
        """See `FleetStore.save`."""
        store = self._stores.get(tenant) or await self._open(tenant)
        await store.save(message)

    async def get(self, tenant: str, task_id: str) -> Task | None:
        """See `FleetStore.get`."""
        store = self._stores.get(tenant) or await self._open(tenant)
        return await store.get(task_id)

    async def durability(self, tenant: str) -> Durability:
        """See `FleetStore.durability`."""
        store = self._stores.get(tenant) or await self._open(tenant)
        return await store.durability()

    async def aclose(self) -> None:
        """Close every connection."""
        for store in self._stores.values():
            await store.aclose()

    async def _open(self, tenant: str) -> FetchallStore:
        async with self._opening[tenant]:
            if tenant not in self._stores:
                database = self._fleet.database(tenant)
                self._stores[tenant] = FetchallStore(await connect(database), database)
        return self._stores[tenant]


@asynccontextmanager
async def open_fleet_unlimited(fleet: Fleet) -> AsyncIterator[UnlimitedFleet]:
    """Open nothing yet."""
    store = UnlimitedFleet(fleet)
    try:
        yield store
    finally:
        await store.aclose()

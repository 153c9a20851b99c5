"""Takes open tenants that cannot go on out of the pool, and quarantines the damaged ones."""

import asyncio
from collections.abc import Callable
from typing import Final

from tenantry.errors import DatabaseCorruptError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord

TENANT_FAILED: Final = "tenantry.tenant.failed"

FOUND_SOUND_SECONDS: Final = 60.0
"""A tenant that fails again so soon after its database was found sound is quarantined without a second look."""


class FailureReports:
    """Passes on that an open tenant cannot go on: from its actor to those who subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[TenantRecord, TenantryError], None]] = []

    def subscribe(self, subscriber: Callable[[TenantRecord, TenantryError], None]) -> None:
        """Call `subscriber` with every report from now on."""
        self._subscribers.append(subscriber)

    def report(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Tell the subscribers that the tenant cannot go on, and why."""
        for subscriber in self._subscribers:
            subscriber(tenant, error)


class FailedTenants:
    """Closes tenants that cannot go on: damaged, or owned by another process now."""

    def __init__(self, tools: OperationTools, log: EventLog) -> None:
        self._pool = tools.pool
        self._opener = tools.opener
        self._now = tools.context.clock.monotonic_seconds
        self._log = log
        self._found_sound: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start_closing(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Close the tenant in a task of its own."""
        task = asyncio.get_running_loop().create_task(self.close(tenant, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_ended(self) -> None:
        """Wait until no tenant is being closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Close the tenant; if its database is damaged, quarantine it."""
        self._log.failure(TENANT_FAILED, error, tenant_id=tenant.id)
        if not isinstance(error, DatabaseCorruptError):
            await self._pool.close_tenant(tenant.id, "failed")
            return
        # The second look needs the database for itself; callers wait for its result.
        async with self._pool.held(tenant.id, "check", reason="failed"):
            try:
                if await self._is_damaged(tenant):
                    await self._opener.quarantine(tenant, error)
            except TenantryError as failure:
                self._log.failure(TENANT_FAILED, failure, tenant_id=tenant.id)

    async def _is_damaged(self, tenant: TenantRecord) -> bool:
        """Look at the tenant's database once more; a tenant that fails again soon after it was found sound is damaged."""
        now = self._now()
        self._found_sound = {
            uid: at for uid, at in self._found_sound.items() if now - at < FOUND_SOUND_SECONDS
        }
        if tenant.uid in self._found_sound or await self._opener.is_damaged(tenant):
            return True
        self._found_sound[tenant.uid] = self._now()
        return False

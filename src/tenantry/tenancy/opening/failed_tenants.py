"""Closes open tenants that have failed, and quarantines the tenants whose database is damaged."""

import asyncio
from collections.abc import Callable
from typing import Final

from tenantry.errors import DatabaseCorruptError, TenantOwnedElsewhereError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.storage.protocol import Capability
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord

TENANT_FAILED: Final = "tenantry.tenant.failed"
TENANT_FENCED: Final = "tenantry.tenant.fenced"

FOUND_SOUND_SECONDS: Final = 60.0
"""A tenant that fails again within this time after a check without damage is quarantined without another check."""


class FailureReports:
    """Passes the failure of an open tenant from its actor to the subscribers."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[TenantRecord, TenantryError], None]] = []

    def subscribe(self, subscriber: Callable[[TenantRecord, TenantryError], None]) -> None:
        """Call `subscriber` for every failure from now on."""
        self._subscribers.append(subscriber)

    def report(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Call the subscribers with the failed tenant and its error."""
        for subscriber in self._subscribers:
            subscriber(tenant, error)


class FailedTenants:
    """Closes failed tenants. A tenant fails if its database is damaged or was taken over by another process."""

    def __init__(self, tools: OperationTools, log: EventLog) -> None:
        self._pool = tools.pool
        self._opener = tools.opener
        self._backends = tools.backends
        self._now = tools.context.clock.monotonic_seconds
        self._log = log
        self._found_sound: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start_closing(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Start a task that closes the tenant."""
        if not isinstance(error, DatabaseCorruptError):
            # Begin immediately: callers whose calls another owner has fenced off must not find the same actor again.
            self._pool.start_closing(tenant.id, self._reason(tenant, error))
        task = asyncio.get_running_loop().create_task(self.close(tenant, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_ended(self) -> None:
        """Wait for the tasks that close tenants."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Close the tenant; quarantine the tenant if its database is damaged."""
        reason = self._reason(tenant, error)
        if reason == "state":
            self._log.info(TENANT_FENCED, tenant_id=tenant.id)
        else:
            self._log.failure(TENANT_FAILED, error, tenant_id=tenant.id)
        if not isinstance(error, DatabaseCorruptError):
            await self._pool.close_tenant(tenant.id, reason)
            return
        # The check needs exclusive access to the database, so callers wait until the check has ended.
        async with self._pool.held(tenant.id, "check", reason="failed"):
            try:
                if await self._is_damaged(tenant):
                    await self._opener.quarantine(tenant, error)
            except TenantryError as failure:
                self._log.failure(TENANT_FAILED, failure, tenant_id=tenant.id)

    def _reason(self, tenant: TenantRecord, error: TenantryError) -> str:
        """Return why the tenant is closed.

        Where several processes may have a tenant open, an operation of another process fences this one off. That is no failure: the
        tenant is opened again, as after any other change of its record.
        """
        backend = self._backends.find(tenant.backend)
        is_shared = backend is not None and Capability.SHARED in backend.capabilities
        return "state" if is_shared and isinstance(error, TenantOwnedElsewhereError) else "failed"

    async def _is_damaged(self, tenant: TenantRecord) -> bool:
        """Check the tenant's database. If a check found no damage shortly before, the new failure counts as damage without a check."""
        now = self._now()
        self._found_sound = {
            uid: at for uid, at in self._found_sound.items() if now - at < FOUND_SOUND_SECONDS
        }
        if tenant.uid in self._found_sound or await self._opener.is_damaged(tenant):
            return True
        self._found_sound[tenant.uid] = self._now()
        return False

"""What operators do to a tenant: create, suspend, resume, delete.

Intent is written to the catalog before the work, and the work can be repeated, so a crash in the middle ends in the old
state or the new one. Each call runs in a task of its own, one at a time for each tenant: a caller that is cancelled does
not leave it half done.
"""

import asyncio
import shutil
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from tenantry.errors import (
    DataDirectoryError,
    PersistenceConnectionError,
    QueryError,
    TenantExistsError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import LifecycleCalled
from tenantry.ids import TenantId, TenantPaths, tenant_paths
from tenantry.lifecycle import TenantEvent, TenantState
from tenantry.storage.sqlite.ownership import FileOwnership
from tenantry.tenancy.actor import ActorContext
from tenantry.tenancy.catalog import Catalog
from tenantry.tenancy.opener import TenantOpener
from tenantry.tenancy.pool import ActorPool
from tenantry.tenancy.tenant import Tenant
from tenantry.threads import run_in_thread

T = TypeVar("T")

LIFECYCLE_CALLED: Final = "tenantry.lifecycle.called"
LIFECYCLE_FAILED: Final = "tenantry.lifecycle.failed"
RECONCILED: Final = "tenantry.lifecycle.reconciled"
DISPLAY_NAME_CHARACTERS_MAX: Final = 200


class LifecycleCalls:
    """Carries out lifecycle calls on the catalog and the pool."""

    def __init__(
        self, catalog: Catalog, pool: ActorPool, opener: TenantOpener, context: ActorContext, log: EventLog
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._opener = opener
        self._context = context
        self._log = log
        self._locks: WeakValueDictionary[TenantId, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.changes = 0
        """How many calls have ended: whoever caches the catalog's counts compares it."""

    async def create(self, tenant_id: TenantId, display_name: str) -> Tenant:
        """See `TenantRegistry.create`."""
        if (
            not display_name.strip()
            or len(display_name) > DISPLAY_NAME_CHARACTERS_MAX
            or "\0" in display_name
        ):
            raise QueryError(
                f"display_name must be 1 to {DISPLAY_NAME_CHARACTERS_MAX} characters, not only blanks"
            )
        return await self._run(tenant_id, "create", partial(self._create, tenant_id, display_name))

    async def apply(
        self, tenant_id: TenantId, event: TenantEvent, *, reason: str | None = None, is_served: bool = False
    ) -> Tenant:
        """Let `event` happen; unless the tenant serves calls afterwards, close it."""
        return await self._run(
            tenant_id, event.value, partial(self._apply, tenant_id, event, reason, is_served=is_served)
        )

    async def reconcile(self) -> None:
        """Finish what a crashed process began: tenants that are still being provisioned."""
        cursor: str | None = None
        while True:
            page = await self._catalog.list(state=TenantState.PROVISIONING, cursor=cursor)
            for tenant in page:
                try:
                    await self._run(tenant.id, "reconcile", partial(self._provision, tenant))
                except TenantryError:
                    continue  # It was logged. Another process may be creating it at this moment.
                else:
                    self._log.info(RECONCILED, tenant_id=tenant.id)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def wait_ended(self) -> None:
        """Wait for the calls that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _create(self, tenant_id: TenantId, display_name: str) -> Tenant:
        found = await self._catalog.find(tenant_id)
        if found is not None:
            until = (
                f", deleted, kept until {found.purge_after:%Y-%m-%d %H:%M} UTC" if found.purge_after else ""
            )
            raise TenantExistsError(
                f"tenant {tenant_id!r} exists already ({found.state}{until})", tenant_id=tenant_id
            )
        directory = self._paths(tenant_id).directory
        if directory.exists():
            # Whatever lies there, this catalog does not know it: never to be taken over, or removed when creating fails.
            raise DataDirectoryError(
                f"{directory} exists and belongs to no tenant in the catalog: restore the catalog that knows it, or move "
                "the directory away",
                path=str(directory),
            )
        now = self._context.clock.now()
        tenant = Tenant(
            id=tenant_id,
            uid=uuid.uuid4().hex,
            directory=tenant_id,
            display_name=display_name,
            state=TenantState.PROVISIONING,
            created_at=now,
            state_changed_at=now,
        )
        await self._catalog.insert(tenant)
        try:
            return await self._provision(tenant)
        except TenantryError:
            await self._undo_create(tenant)
            raise

    async def _provision(self, tenant: Tenant) -> Tenant:
        """Make the tenant's database through the pool, so that it counts among the open tenants, then call it active."""
        self._opener.provisioning.add(tenant.id)
        try:
            lease = await self._pool.lease(tenant.id)
            try:
                versions = lease.actor.schema_versions
                return await self._catalog.apply(tenant.id, TenantEvent.PROVISION, schema_versions=versions)
            finally:
                self._pool.release(lease)
        finally:
            self._opener.provisioning.discard(tenant.id)

    async def _undo_create(self, tenant: Tenant) -> None:
        """Take back what was made of a tenant, unless another process has found it and finishes it, or did so already."""
        await self._pool.close_tenant(tenant.id, "state")
        paths = self._paths(tenant.directory)
        if not paths.directory.exists():
            await self._catalog.remove(tenant)
            return
        # Under the tenant's lock nobody can call it active, and write to it, while its files go.
        ownership = FileOwnership(paths.lock, tenant.uid, tenant.id)
        try:
            await run_in_thread(ownership.acquire)
        except (TenantOwnedElsewhereError, PersistenceConnectionError):
            return  # Whoever next opens a registry finishes it.
        try:
            if await self._catalog.find(tenant.id) == tenant:
                await run_in_thread(partial(shutil.rmtree, paths.directory, ignore_errors=True))
                await self._catalog.remove(tenant)
        finally:
            ownership.release(is_clean=False)

    def _paths(self, directory_name: str) -> TenantPaths:
        return tenant_paths(self._context.config.data_dir, directory_name)

    async def _apply(
        self, tenant_id: TenantId, event: TenantEvent, reason: str | None, *, is_served: bool
    ) -> Tenant:
        purge_after = None
        if event is TenantEvent.DELETE:
            grace = timedelta(seconds=self._context.config.delete_grace_seconds)
            purge_after = self._context.clock.now() + grace
        tenant = await self._catalog.apply(tenant_id, event, reason=reason, purge_after=purge_after)
        if not is_served:
            self._opener.forget_opened(tenant_id)
            await self._pool.close_tenant(tenant_id, "state")
        return tenant

    async def _run(self, tenant_id: TenantId, action: str, work: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.get_running_loop().create_task(self._run_alone(tenant_id, action, work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Looked at, because a caller that has left will not: asyncio would complain of it. It was logged.
            task.exception()

    async def _run_alone(self, tenant_id: TenantId, action: str, work: Callable[[], Awaitable[T]]) -> T:
        now = self._context.clock.monotonic_seconds
        started = now()
        outcome = "error"
        try:
            async with self._locks.setdefault(tenant_id, asyncio.Lock()):
                result = await work()
            outcome = "ok"
        except TenantryError as error:
            outcome = error.outcome
            self._log.failure(LIFECYCLE_FAILED, error, tenant_id=tenant_id, action=action)
            raise
        finally:
            self.changes += 1
            self._context.report(LifecycleCalled(tenant_id, action, outcome, now() - started))
        self._log.info(LIFECYCLE_CALLED, tenant_id=tenant_id, action=action)
        return result

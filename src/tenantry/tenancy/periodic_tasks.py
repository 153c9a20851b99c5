"""The periodic tasks of an open registry."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import anyio

from tenantry.errors import CatalogMovedError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.lifecycle import Permission, TenantEvent, TenantState
from tenantry.tenancy.data_directory import DiskSpace, measure_disk
from tenantry.tenancy.fleet.fleet import Fleet
from tenantry.tenancy.opening.failed_tenants import FailedTenants
from tenantry.tenancy.operations.purge import ExpiredTenants
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.threads import run_in_thread

MAINTENANCE_FAILED: Final = "tenantry.registry.maintenance_failed"

CHORES_INTERVAL_SECONDS: Final = 10.0

PURGES_MAX: Final = 100
"""The largest number of expired tenants that one round of chores purges."""


class PeriodicTasks:
    """Applies other processes' changes, closes idle tenants, finishes interrupted operations, and purges expired tenants.

    Attributes:
        states: The number of tenants in each state at the last refresh.
        disk: The last measurement of the disk under the data directory; None before the first measurement.
    """

    def __init__(
        self,
        tools: OperationTools,
        runner: OperationRunner,
        expired: ExpiredTenants,
        fleet: Fleet,
        failed_tenants: FailedTenants,
        *,
        log: EventLog,
    ) -> None:
        self._tools = tools
        self._catalog = tools.catalog
        self._pool = tools.pool
        self._runner = runner
        self._expired = expired
        self._config = tools.context.config
        self._now = tools.context.clock.monotonic_seconds
        self._fleet = fleet
        self._failed_tenants = failed_tenants
        self._log = log
        self.states = dict.fromkeys(TenantState, 0)
        self.disk: DiskSpace | None = None
        self._changes_by_others: int | None = None  # None until the first refresh
        self._changes_seen = 0
        self._chores: asyncio.Task[None] | None = None
        self._chores_due_seconds = float("-inf")
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do a round of tasks every ``catalog_poll_interval_seconds``, until cancelled."""
        try:
            while True:
                await anyio.sleep(self._config.catalog_poll_interval_seconds)
                await self._do_round()
        finally:
            if self._chores is not None:
                self._chores.cancel()
                await asyncio.wait([self._chores])

    async def refresh(self) -> None:
        """Read the catalog if it has changed, and apply other processes' changes to the open tenants.

        Raises:
            CatalogMovedError: The catalog was moved to another database. Open tenants are closed, because the states that this
                process knows no longer count.
        """
        changes = self._catalog.changes
        try:
            changes_by_others = await self._catalog.changes_by_others()
        except CatalogMovedError:
            for tenant_id in dict(self._pool.tenants()):
                self._spawn(self._pool.close_tenant(tenant_id, "state"))
            raise
        if changes_by_others == self._changes_by_others and changes == self._changes_seen:
            return
        if changes_by_others != self._changes_by_others:
            self._tools.opener.forget_opened()
            await self._follow_others()
        self.states = await self._catalog.states()
        # The new values are stored last, so that the next round repeats a refresh that failed.
        self._changes_by_others, self._changes_seen = changes_by_others, changes

    async def wait_background(self) -> None:
        """Wait for the tasks that rounds have started in the background."""
        if self._background:
            await asyncio.wait(self._background)

    async def _do_round(self) -> None:
        try:
            self._pool.evict_idle(self._config.idle_timeout_seconds)
            await self.refresh()
            await self._fleet.adopt()
            self._start_chores()
            # Record the clock last: the recording fails on a full disk, and a failure must not prevent the other steps.
            await self._tools.context.watch.write(self._catalog)
        except Exception as error:  # noqa: BLE001  # the next round may succeed
            self._log.error(MAINTENANCE_FAILED, error=str(error), error_type=type(error).__name__)

    def _start_chores(self) -> None:
        """Start the chores if they are due, in a separate task because chores may wait for another process."""
        is_under_way = self._chores is not None and not self._chores.done()
        if not is_under_way and self._now() >= self._chores_due_seconds:
            self._chores_due_seconds = self._now() + CHORES_INTERVAL_SECONDS
            self._chores = asyncio.create_task(self._do_chores(), name="tenantry chores")

    async def _do_chores(self) -> None:
        """Finish the operations of crashed processes, purge expired tenants, and delete old fleet jobs."""
        try:
            self.disk = await run_in_thread(measure_disk, self._config)
            await self._runner.reconcile(by="tenantry")
            await self._expired.purge(PURGES_MAX, by="tenantry")
            await self._fleet.delete_expired()
        except Exception as error:  # noqa: BLE001  # the next round may succeed
            self._log.error(MAINTENANCE_FAILED, error=str(error), error_type=type(error).__name__)

    async def _follow_others(self) -> None:
        """Close open tenants that another process has suspended, deleted or quarantined; apply changed limits to other tenants."""
        actors = dict(self._pool.tenants())
        found = await self._catalog.find_many(list(actors))
        for tenant_id, actor in actors.items():
            tenant = found.get(tenant_id)
            # Each tenant has its own task, so that a tenant that finishes a long call does not delay other tenants.
            if tenant is None or not self._is_served(tenant) or (actor and not actor.is_open_at(tenant)):
                self._spawn(self._pool.close_tenant(tenant_id, "state"))
            elif actor is None or not actor.has_applied(tenant):
                self._spawn(self._limit(tenant))

    async def _limit(self, tenant: TenantRecord) -> None:
        try:
            await self._tools.apply_record(tenant)
        except TenantryError as error:
            # Close the tenant, so that the next opening applies the new limits.
            await self._failed_tenants.close(tenant, error)

    def _is_served(self, tenant: TenantRecord) -> bool:
        """Return whether a tenant may stay open: it serves calls, or an operation of this registry uses it."""
        if tenant.state.allows(TenantEvent.PROVISION):
            return True
        if tenant.intent is not None and not tenant.intent.is_served:
            return self._runner.is_own(tenant)
        return tenant.state.allows(Permission.STAY_OPEN)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

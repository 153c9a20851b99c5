"""What an open registry does again and again: follow other processes, close idle tenants, finish and purge what is left."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import anyio

from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.lifecycle import Permission, TenantEvent, TenantState
from tenantry.tenancy.data_directory import DiskSpace, measure_disk
from tenantry.tenancy.failed_tenants import FailedTenants
from tenantry.tenancy.fleet.fleet import Fleet
from tenantry.tenancy.operations.purge import ExpiredTenants
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.threads import run_in_thread

MAINTENANCE_FAILED: Final = "tenantry.registry.maintenance_failed"

CHORES_INTERVAL_SECONDS: Final = 10.0

PURGES_MAX: Final = 100
"""How many tenants one round of chores purges because their grace period has passed."""


class PeriodicTasks:
    """Follows other processes' changes, closes idle tenants, and finishes what crashed processes began.

    Attributes:
        states: How many tenants are in each state, as of the last look.
        disk: The space under the data directory, as of the last look; None before the first.
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
        self._changes_by_others: int | None = None  # not asked yet: the first answer may be any number
        self._changes_seen = 0
        self._chores: asyncio.Task[None] | None = None
        self._chores_due_seconds = float("-inf")
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow what other processes do to the catalog, and close tenants that nobody uses; until cancelled."""
        try:
            while True:
                await anyio.sleep(self._config.catalog_poll_interval_seconds)
                await self._do_round()
        finally:
            if self._chores is not None:
                self._chores.cancel()
                await asyncio.wait([self._chores])

    async def refresh(self) -> None:
        """Read the catalog if it has changed, and do in this process what it says."""
        changes = self._catalog.changes
        changes_by_others = await self._catalog.changes_by_others()
        if changes_by_others == self._changes_by_others and changes == self._changes_seen:
            return
        if changes_by_others != self._changes_by_others:
            self._tools.opener.forget_opened()
            await self._follow_others()
        self.states = await self._catalog.states()
        # Noted last, so that what failed half way is done again.
        self._changes_by_others, self._changes_seen = changes_by_others, changes

    async def wait_background(self) -> None:
        """Wait for the tasks that were started beside it."""
        if self._background:
            await asyncio.wait(self._background)

    async def _do_round(self) -> None:
        try:
            self._pool.evict_idle(self._config.idle_timeout_seconds)
            await self.refresh()
            await self._fleet.adopt()
            self._start_chores()
            # Last: on a full disk it fails, and must not keep the others from their work.
            await self._tools.context.watch.write(self._catalog)
        except Exception as error:  # noqa: BLE001  # the next round may succeed
            self._log.error(MAINTENANCE_FAILED, error=str(error), error_type=type(error).__name__)

    def _start_chores(self) -> None:
        """Start the chores if they are due, in a task of their own: they may wait for another process."""
        is_under_way = self._chores is not None and not self._chores.done()
        if not is_under_way and self._now() >= self._chores_due_seconds:
            self._chores_due_seconds = self._now() + CHORES_INTERVAL_SECONDS
            self._chores = asyncio.create_task(self._do_chores(), name="tenantry chores")

    async def _do_chores(self) -> None:
        """Finish what crashed processes began, purge expired tenants, and delete old fleet jobs."""
        try:
            self.disk = await run_in_thread(measure_disk, self._config)
            await self._runner.reconcile(by="tenantry")
            await self._expired.purge(PURGES_MAX, by="tenantry")
            await self._fleet.delete_expired()
        except Exception as error:  # noqa: BLE001  # the next round may succeed
            self._log.error(MAINTENANCE_FAILED, error=str(error), error_type=type(error).__name__)

    async def _follow_others(self) -> None:
        """Close open tenants that another process has suspended, deleted or quarantined; apply changed limits to the others."""
        actors = dict(self._pool.tenants())
        found = await self._catalog.find_many(list(actors))
        for tenant_id, actor in actors.items():
            tenant = found.get(tenant_id)
            # In tasks: a tenant that finishes a long call must not delay the others.
            if tenant is None or not self._is_served(tenant) or (actor and actor.uid != tenant.uid):
                self._spawn(self._pool.close_tenant(tenant_id, "state"))
            elif actor is None or not actor.has_applied(tenant):
                self._spawn(self._limit(tenant))

    async def _limit(self, tenant: TenantRecord) -> None:
        try:
            await self._tools.apply_record(tenant)
        except TenantryError as error:
            # Closed, so that it is opened with its new limits.
            await self._failed_tenants.close(tenant, error)

    def _is_served(self, tenant: TenantRecord) -> bool:
        """Return whether a tenant may stay open here: it serves calls, or an operation of this registry works on it."""
        if tenant.state.allows(TenantEvent.PROVISION):
            return True
        if tenant.intent is not None:
            return self._runner.is_own(tenant)
        return tenant.state.allows(Permission.STAY_OPEN)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

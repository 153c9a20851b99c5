"""The façade: tenants' lives, handles, statistics, and the order in which everything starts and stops."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from tenantry.clock import Clock, SystemClock
from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.errors import DatabaseCorruptError, MigrationError, RegistryClosedError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.events import Event, Hook
from tenantry.ids import TenantId, parse_tenant_id
from tenantry.lifecycle import TenantEvent, TenantState
from tenantry.limits import TenantLimits
from tenantry.pages import Page
from tenantry.schema import Schema
from tenantry.storage.manifest import Manifest
from tenantry.storage.objects import LocalStorage, ObjectStorage
from tenantry.tenancy.actor import ActorContext, ActorStatistics, Gates
from tenantry.tenancy.audit import AdminAudit, acting_as
from tenantry.tenancy.calls import CallRunner
from tenantry.tenancy.catalog import Catalog
from tenantry.tenancy.copies import Copies
from tenantry.tenancy.data_directory import (
    check_open_files,
    log_sqlite_version,
    prepare_data_directory,
)
from tenantry.tenancy.fleet import Fleet
from tenantry.tenancy.fleet_work import FleetTools
from tenantry.tenancy.handle import TenantHandle, TenantSession
from tenantry.tenancy.lifecycle_calls import LifecycleCalls, check_display_name
from tenantry.tenancy.opener import TenantOpener, check_opens
from tenantry.tenancy.pool import ActorPool, Lease, PoolStatistics
from tenantry.tenancy.restore import Restorer
from tenantry.tenancy.scratch import Scratch
from tenantry.tenancy.snapshot_archive import SnapshotArchive
from tenantry.tenancy.snapshot_schedule import SnapshotSchedule
from tenantry.tenancy.snapshots import Snapshots
from tenantry.tenancy.tenant import Tenant
from tenantry.tenancy.transfers import Transfers
from tenantry.threads import run_in_thread

REGISTRY_OPENED: Final = "tenantry.registry.opened"
REGISTRY_CLOSED: Final = "tenantry.registry.closed"
HOOK_FAILED: Final = "tenantry.hook.failed"
MAINTENANCE_FAILED: Final = "tenantry.registry.maintenance_failed"
TENANT_FAILED: Final = "tenantry.tenant.failed"

CHORES_INTERVAL_SECONDS: Final = 10.0
PURGES_MAX: Final = 100
"""How many tenants are purged of one's own accord in one round of chores."""


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """The registry at one moment; no I/O was done for it.

    Attributes:
        pool: The open tenants, see `PoolStatistics`.
        tenants: How many tenants are in each state; at most ``catalog_poll_interval_seconds`` old.
        mailbox_requests: Calls that wait, of all open tenants, by channel (``write``, ``read``).
        mailbox_requests_peak: The same of the tenant where most wait.
        threads_max: How many threads there are, but for one more for each job that takes too long.
    """

    pool: PoolStatistics
    tenants: dict[TenantState, int]
    mailbox_requests: dict[str, int]
    mailbox_requests_peak: dict[str, int]
    threads_max: int


class TenantRegistry:
    """Keeps many companies' data apart: one SQLite file and one serialized writer for each, behind a bounded pool.

    Use it as an async context manager, on asyncio::

        async with TenantRegistry(RegistryConfig(data_dir="data")) as registry:
            await registry.create("acme", display_name="Acme")
            acme = registry.tenant("acme")
            await acme.messages.save(message)

    Args:
        config: See `RegistryConfig`.
        schemas: Packs of your own; every tenant has them beside the built-in `tenantry.company.COMPANY`.
        hooks: Called with every event, see `tenantry.events`.
        clock: A clock of your own, for tests and simulations.
        snapshot_storage: Where snapshots are kept; in ``snapshots`` of the data directory if left out. Better elsewhere: a
            disk that dies takes what is on it along.
    """

    def __init__(
        self,
        config: RegistryConfig,
        *,
        schemas: Sequence[Schema] = (),
        hooks: Sequence[Hook] = (),
        clock: Clock | None = None,
        snapshot_storage: ObjectStorage | None = None,
    ) -> None:
        self._config = config
        self._schemas = _checked_schemas((COMPANY, *schemas))
        self._hooks = list(hooks)
        self._log = EventLog()
        clock = clock or SystemClock()
        context = ActorContext(config, Gates.of(config), clock, self._report)
        # Gates of its own: no load of any tenant delays the catalog.
        self._catalog = Catalog(config.data_dir, ActorContext(config, Gates.of(config), clock, self._report))
        self._opener = TenantOpener(
            self._catalog, self._schemas, context, log=self._log, on_failure=self._close_failed
        )
        self._pool = ActorPool(
            self._opener.open,
            open_tenants_max=config.open_tenants_max,
            waiters_max=config.pool_waiters_max,
            wait_timeout_seconds=config.pool_wait_timeout_seconds,
            close_timeout_seconds=config.shutdown_timeout_seconds,
            clock=clock,
            report=self._report,
            log=self._log,
        )
        self._runner = CallRunner(self._catalog, context, self._log)
        self._runner.check_open = self._check_open
        self._calls = LifecycleCalls(self._runner, self._catalog, self._pool, self._opener)
        self.audit = AdminAudit(self._catalog)
        """Who did what to which tenant."""
        self._scratch = Scratch(config.data_dir)
        archive = SnapshotArchive(snapshot_storage or LocalStorage(config.data_dir / "snapshots"))
        copies = Copies(self._pool, self._opener)
        restorer = Restorer(self._runner, self._pool, archive, copies, self._scratch)
        self.snapshots = Snapshots(self._runner, self._catalog, archive, copies, restorer, self._scratch)
        """The tenants' snapshots."""
        self.fleet = Fleet(
            FleetTools(
                catalog=self._catalog,
                pool=self._pool,
                runner=self._runner,
                context=context,
                host=self,
                schemas=self._schemas,
                snapshots=self.snapshots,
            ),
            check_open=self._check_open,
            log=self._log,
        )
        """The same work over many tenants."""
        self._calls.forget_snapshots = self.snapshots.forget_all
        self._schedule = SnapshotSchedule(self.snapshots, self._catalog, context, self._log)
        self._transfers = Transfers(self._runner, self._catalog, self._calls, archive, copies, self._scratch)
        self._states = dict.fromkeys(TenantState, 0)
        self._data_version = 0
        self._changes_seen = 0
        self._lifecycle = asyncio.Lock()
        self._services: list[asyncio.Task[None]] = []  # what runs as long as it is open
        self._now = clock.monotonic_seconds
        self._chores: asyncio.Task[None] | None = None
        self._chores_due_seconds = float("-inf")
        self._background: set[asyncio.Task[None]] = set()
        self._closings: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._was_closed = False

    @property
    def config(self) -> RegistryConfig:
        """The settings it was made with."""
        return self._config

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Check the data directory, open the catalog, and finish what a crashed process began.

        Raises:
            DataDirectoryError: The data directory cannot be used; the message says what to change.
            PersistenceError: The catalog cannot be opened, or is newer than the code.
            RegistryClosedError: It was closed before: make a new one.
        """
        async with self._lifecycle:
            if self._was_closed:
                raise RegistryClosedError("the registry was closed: make a new one")
            if self._is_open:
                return
            for schema in self._schemas:
                schema.migrations("sqlite")
            check_open_files(self._config)
            await run_in_thread(partial(prepare_data_directory, self._config))
            await self._catalog.open()
            self._opener.crews.keep()
            try:
                self._is_open = True
                await self._runner.reconcile()
                await self._refresh()
                await self.fleet.adopt()
            except BaseException:
                self._is_open = False
                with anyio.CancelScope(shield=True):
                    await self._close_all()
                raise
            self._start(self._maintain(), "tenantry maintenance")
            if self._config.snapshot_interval_seconds is not None:
                self._start(self._schedule.run(), "tenantry snapshots")
            log_sqlite_version(self._log)
            self._log.info(
                REGISTRY_OPENED,
                data_dir=str(self._config.data_dir),
                open_tenants_max=self._config.open_tenants_max,
                threads_max=self._config.threads_max,
            )

    async def aclose(self) -> None:
        """Stop, in a fixed order; idempotent. Cancellation stops the waiting, not the closing: call again to wait for it.

        1. fleet jobs stop between two tenants, within ``shutdown_timeout_seconds``, to go on when a registry next opens;
        2. new calls are refused, and callers that wait for a place are sent away, with `RegistryClosedError`;
        3. calls that were taken in are finished, for ``shutdown_timeout_seconds`` at most;
        4. every tenant is checkpointed and closed, its writer last, and its lock released;
        5. lifecycle calls that were under way end; the catalog is closed.

        Afterwards there is no thread, no lock and no open file.
        """
        # A task of its own: a scope shields from anyio's cancellation, not from asyncio's.
        closing = asyncio.create_task(self._close(), name="tenantry close")
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        with anyio.CancelScope(shield=True):
            await asyncio.shield(closing)

    def tenant(self, tenant_id: str) -> TenantHandle:
        """Return a handle on the tenant; no I/O, so whether it exists is found out by the first call.

        Raises:
            InvalidTenantIdError: The text is no tenant id.
        """
        parsed = parse_tenant_id(tenant_id)
        log = self._log.bind(tenant_id=parsed)
        session = TenantSession(parsed, self, self._config.call_timeout_seconds, log)
        return TenantHandle(session, self)

    async def create(self, tenant_id: str, *, display_name: str | None = None) -> Tenant:
        """Create a tenant, with its database migrated, and return it.

        Args:
            tenant_id: 1 to 48 characters of ``a-z``, ``0-9`` and inner ``-``, beginning with a letter.
            display_name: For people; the id if left out.

        A caller that is cancelled does not stop it. A crash in the middle is finished when a registry next opens.

        Raises:
            InvalidTenantIdError: The text is no tenant id; nothing was touched.
            TenantExistsError: The id is taken.
            MigrationError: A migration failed; nothing is left of the tenant.
            PersistenceError: The tenant could not be opened, and nothing is left of it; or it could not be written down that
                it is there: then the next call of it, or the registry within a minute, finishes the creation.
        """
        self._check_open()
        parsed = parse_tenant_id(tenant_id)
        return await self._calls.create(parsed, parsed if display_name is None else display_name)

    async def get(self, tenant_id: str) -> Tenant:
        """Return the tenant's entry in the catalog, in whatever state it is.

        Raises:
            InvalidTenantIdError: The text is no tenant id.
            TenantNotFoundError: There is none.
        """
        self._check_open()
        return await self._catalog.get(parse_tenant_id(tenant_id))

    async def list(
        self, *, state: TenantState | None = None, limit: int | None = None, cursor: str | None = None
    ) -> Page[Tenant]:
        """Return a page of the catalog, in the order of ids.

        Args:
            state: Only tenants in this state.
            limit: How many at most; 100 if left out.
            cursor: The `next_cursor` of the page before.

        Raises:
            QueryError: `limit` or `cursor` is not one.
        """
        self._check_open()
        return await self._catalog.list(state=state, limit=limit, cursor=cursor)

    async def suspend(self, tenant_id: str, *, reason: str | None = None) -> Tenant:
        """Refuse the tenant's calls from now on, with `TenantSuspendedError`; its data is kept.

        Returns when the calls that were taken in are finished and the tenant is closed here; another process that has it
        open does the same within a second. Like all of these: it can be repeated; a caller that is cancelled does not stop
        it; after a crash the tenant is as before or as afterwards; and it is in the audit.

        Raises:
            TenantNotFoundError: There is none.
            TenantStateError: It is neither active nor suspended.
            TenantBusyError: Another process is at a call of several steps with it.
        """
        return await self._apply(tenant_id, TenantEvent.SUSPEND, reason=reason)

    async def resume(self, tenant_id: str) -> Tenant:
        """Let a suspended tenant serve calls again. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.RESUME)

    async def archive(self, tenant_id: str, *, reason: str | None = None) -> Tenant:
        """Close an active or suspended tenant for a long time: its database becomes one compacted, checkpointed file.

        Raises like `suspend`, and:
            StorageFullError: Compacting needs as much free space as the database is large; the tenant is as before.
        """
        self._check_open()
        return await self._calls.archive(parse_tenant_id(tenant_id), reason)

    async def unarchive(self, tenant_id: str) -> Tenant:
        """Let an archived tenant serve calls again. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.UNARCHIVE)

    async def delete(self, tenant_id: str, *, reason: str | None = None) -> Tenant:
        """Refuse the tenant's calls, with `TenantDeletedError`, and begin its grace period.

        Its files and its id are kept until ``purge_after`` of the returned entry; then the registry purges it. Until then
        `undelete` brings it back. Raises like `suspend`, and:
            DeletionProtectedError: It is protected, see `update`.
        """
        self._check_open()
        return await self._calls.delete(parse_tenant_id(tenant_id), reason)

    async def undelete(self, tenant_id: str) -> Tenant:
        """Bring a deleted tenant back into the state that it was in. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.UNDELETE)

    async def purge(self, tenant_id: str, *, force: bool = False) -> Tenant:
        """Remove a deleted tenant's files and snapshots, for good; its id can be taken again.

        Args:
            tenant_id: The tenant.
            force: Also in its grace period.

        Raises like `suspend`, and:
            GracePeriodError: It is in its grace period.
            DataDirectoryError: A file cannot be removed; call again, nothing of the tenant can be used any more.
        """
        self._check_open()
        return await self._calls.purge(parse_tenant_id(tenant_id), is_forced=force)

    async def rename(self, tenant_id: str, new_id: str) -> Tenant:
        """Give the tenant another id. Its `uid`, its files and its snapshots stay what and where they are.

        Calls that were taken in are finished; whoever uses the old id afterwards gets `TenantNotFoundError`. Another process
        that has it open lets it go first, so that nobody is served by it under an id that is another tenant's by then.

        Raises like `suspend`, and:
            TenantExistsError: The new id is taken.
            TenantOwnedElsewhereError: Another process does not let it go; the tenant is as before.
        """
        self._check_open()
        return await self._calls.rename(parse_tenant_id(tenant_id), parse_tenant_id(new_id))

    async def quarantine(self, tenant_id: str, *, reason: str) -> Tenant:
        """Set an active tenant apart, with the reason: its calls are refused with `TenantQuarantinedError`.

        tenantry does this itself with a tenant whose file is damaged or whose migration fails. Raises like `suspend`.
        """
        return await self._apply(tenant_id, TenantEvent.QUARANTINE, reason=reason)

    async def repair(self, tenant_id: str) -> Tenant:
        """Check a quarantined tenant's database, build its indexes anew if they are all that is wrong, migrate and open it.

        Raises like `suspend`, and:
            DatabaseCorruptError: It is damaged beyond that, and stays quarantined: restore a snapshot.
            MigrationError: A migration fails still.
        """
        self._check_open()
        return await self._calls.repair(parse_tenant_id(tenant_id))

    async def update(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        deletion_protected: bool | None = None,
        limits: TenantLimits | None = None,
        revision: int | None = None,
    ) -> Tenant:
        """Change what an operator decides on; what is left out stays.

        Args:
            tenant_id: The tenant.
            display_name: For people.
            deletion_protected: Whether `delete` is refused.
            limits: What it may use; takes effect here before this returns, and within a second in another process that has
                it open. What was taken in before is finished; a transaction that is open is waited for.
            revision: The ``revision`` that the decision was made on: if it is another by now, nothing is changed.

        Raises like `suspend`, and:
            QueryError: The name is none.
            RevisionError: `revision` is not the tenant's any more.
            PersistenceError: The limits are in the catalog, but could not be given to the open database: call again.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        given = {"display_name": display_name, "deletion_protected": deletion_protected, "limits": limits}
        changes = {name: value for name, value in given.items() if value is not None}
        return await self._calls.update(parse_tenant_id(tenant_id), revision, changes)

    async def clone(
        self,
        source: str,
        new: str,
        snapshot_id: str | None = None,
        *,
        display_name: str | None = None,
    ) -> Tenant:
        """Create a tenant with another one's data, and return it; the other one's calls go on meanwhile.

        Args:
            source: The other tenant.
            new: The new tenant's id.
            snapshot_id: One of the source's snapshots; its present state if left out.
            display_name: For people; the id if left out.

        Raises:
            TenantNotFoundError: There is no such source.
            TenantExistsError: The new id is taken.
            SnapshotNotFoundError, SnapshotCorruptError: There is no such snapshot, or it is not what was kept.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        return await self._transfers.clone(
            parse_tenant_id(source), parse_tenant_id(new), snapshot_id, display_name
        )

    async def export(self, tenant_id: str, path: str | Path) -> Manifest:
        """Write a bundle of the tenant's present state: one compressed archive with a plain SQLite file in it.

        Its calls go on meanwhile. ``tar xzf`` gives ``manifest.json``, ``SHA256SUMS`` and ``tenant.db``.

        Args:
            tenant_id: The tenant.
            path: A file that does not exist yet.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotError: The file exists, or cannot be written.
        """
        self._check_open()
        return await self._transfers.export(parse_tenant_id(tenant_id), Path(path))

    async def import_bundle(
        self, new_id: str, path: str | Path, *, display_name: str | None = None
    ) -> Tenant:
        """Create a tenant from a bundle that `export` wrote, and return it. Everything is verified before that begins.

        Args:
            new_id: The new tenant's id.
            path: The bundle.
            display_name: For people; the bundle's if left out.

        Raises:
            SnapshotCorruptError: The bundle is not what was written; nothing was created.
            MigrationError: It is newer than the code; nothing was created.
            TenantExistsError: The id is taken.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        return await self._transfers.import_bundle(parse_tenant_id(new_id), Path(path), display_name)

    def statistics(self) -> RegistryStatistics:
        """Return the pool, the states and the mailboxes at this moment; no I/O."""
        totals, peaks = {"write": 0, "read": 0}, {"write": 0, "read": 0}
        for _, actor in self._pool.tenants():
            if actor is not None:
                channels = actor.statistics()
                for name, channel in (("write", channels.write), ("read", channels.read)):
                    totals[name] += channel.mailbox_requests
                    peaks[name] = max(peaks[name], channel.mailbox_requests)
        return RegistryStatistics(
            pool=self._pool.statistics(),
            tenants=dict(self._states),
            mailbox_requests=totals,
            mailbox_requests_peak=peaks,
            threads_max=self._config.threads_max,
        )

    def add_hook(self, hook: Hook) -> None:
        """Call `hook` with every event from now on."""
        self._hooks.append(hook)

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if the tenant is open now; for handles."""
        return self._pool.lease_nowait(tenant_id)

    async def lease(self, tenant_id: TenantId) -> Lease:
        """Return a lease, opening the tenant as needed; for handles.

        Raises:
            RegistryClosedError: The registry is not open.
            TenantError, PersistenceError: Why the tenant cannot be opened.
        """
        self._check_open(tenant_id)
        if self._pool.is_full and not self._pool.has(tenant_id) and not self._opener.has_opened(tenant_id):
            # Before it takes a place from another: an id that nobody has, or a suspended tenant, evicts no one.
            check_opens(await self._catalog.get(tenant_id))
        return await self._pool.lease(tenant_id)

    def release(self, lease: Lease) -> None:
        """Give a lease back; for handles."""
        self._pool.release(lease)

    def actor_statistics(self, tenant_id: TenantId) -> ActorStatistics | None:
        """Return an open tenant's counters; for handles."""
        actor = self._pool.actor(tenant_id)
        return actor.statistics() if actor is not None else None

    async def _apply(self, tenant_id: str, event: TenantEvent, *, reason: str | None = None) -> Tenant:
        self._check_open()
        return await self._calls.apply(parse_tenant_id(tenant_id), event, reason=reason)

    def _check_open(self, tenant_id: TenantId | None = None) -> None:
        if not self._is_open:
            raise RegistryClosedError(
                "the registry is not open: use it inside 'async with TenantRegistry(…)'", tenant_id=tenant_id
            )

    async def _close(self) -> None:
        async with self._lifecycle:
            if not self._is_open:
                return
            # While its tenants can still be used: what it works on is finished.
            await self.fleet.aclose()
            self._is_open = False
            await self._close_all()
            self._log.info(REGISTRY_CLOSED)

    async def _close_all(self) -> None:
        self._was_closed = True
        async with (
            AsyncExitStack() as steps
        ):  # from the last to the first; one that fails does not skip the others
            steps.push_async_callback(self._catalog.aclose, self._config.shutdown_timeout_seconds)
            steps.callback(self._opener.crews.leave)
            steps.push_async_callback(self._wait_background)
            steps.push_async_callback(self._scratch.aclose)
            steps.push_async_callback(self._runner.wait_ended)
            steps.push_async_callback(self._pool.aclose)
            steps.push_async_callback(self.fleet.aclose)
            services = [*self._services, *filter(None, [self._chores])]
            for service in services:
                service.cancel()
            if services:
                await asyncio.wait(services)

    def _start(self, service: Coroutine[Any, Any, None], name: str) -> None:
        self._services.append(asyncio.create_task(service, name=name))

    async def _wait_background(self) -> None:
        if self._background:
            await asyncio.wait(self._background)

    async def _maintain(self) -> None:
        """Follow what other processes do to the catalog, and close tenants that nobody uses."""
        while True:
            await anyio.sleep(self._config.catalog_poll_interval_seconds)
            try:
                self._pool.evict_idle(self._config.idle_timeout_seconds)
                await self._refresh()
                await self.fleet.adopt()
                self._start_chores()
            except Exception as error:  # noqa: BLE001  # whatever it is, the next round may go well
                self._log.error(MAINTENANCE_FAILED, error=str(error), error_type=type(error).__name__)

    def _start_chores(self) -> None:
        """Do what is to be done once in a while, beside what must be noticed at once: it may wait for another process."""
        is_under_way = self._chores is not None and not self._chores.done()
        if not is_under_way and self._now() >= self._chores_due_seconds:
            self._chores_due_seconds = self._now() + CHORES_INTERVAL_SECONDS
            self._chores = asyncio.create_task(self._do_chores(), name="tenantry chores")

    async def _do_chores(self) -> None:
        """Finish what other processes began and died of, and purge what was deleted long enough ago."""
        try:
            with acting_as("tenantry"):
                await self._runner.reconcile()
                await self._calls.purge_expired(PURGES_MAX)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next round may go well
            self._log.error(MAINTENANCE_FAILED, error=str(error), error_type=type(error).__name__)

    async def _refresh(self) -> None:
        changes = self._runner.changes
        data_version = await self._catalog.data_version()
        if data_version == self._data_version and changes == self._changes_seen:
            return
        if data_version != self._data_version:
            self._opener.forget_opened()
            await self._follow_others()
        self._states = await self._catalog.states()
        # Only now: what failed half way is done again.
        self._data_version, self._changes_seen = data_version, changes

    async def _follow_others(self) -> None:
        """Close the open tenants that another process has suspended, deleted or set apart; limit the others as it has."""
        actors = dict(self._pool.tenants())
        found = await self._catalog.find_many(list(actors))
        for tenant_id, actor in actors.items():
            tenant = found.get(tenant_id)
            # Not waited for: one that finishes a long call must not keep others from being noticed.
            if tenant is None or not self._is_served(tenant) or (actor and actor.uid != tenant.uid):
                self._spawn(self._pool.close_tenant(tenant_id, "state"))
            elif actor is None or actor.limits != tenant.limits:
                self._spawn(self._limit(tenant))

    async def _limit(self, tenant: Tenant) -> None:
        try:
            await self._calls.limit(tenant)
        except TenantryError as error:
            # Closed, and opened with them.
            await self._fail(tenant, error)

    def _is_served(self, tenant: Tenant) -> bool:
        """Return whether a tenant may stay open here: it serves calls, or a call of this registry's own is at it."""
        if tenant.state is TenantState.PROVISIONING:
            return True
        if tenant.intent is not None:
            return self._runner.is_own(tenant)
        return tenant.state is TenantState.ACTIVE

    def _close_failed(self, tenant: Tenant, error: TenantryError) -> None:
        """Take a tenant that cannot go on out of the pool: damaged, or owned by another process now."""
        self._spawn(self._fail(tenant, error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _fail(self, tenant: Tenant, error: TenantryError) -> None:
        self._log.failure(TENANT_FAILED, error, tenant_id=tenant.id)
        try:
            if isinstance(error, DatabaseCorruptError):
                await self._opener.quarantine(tenant, error)
        except TenantryError as failure:
            self._log.failure(TENANT_FAILED, failure, tenant_id=tenant.id)
        await self._pool.close_tenant(tenant.id, "failed")

    def _report(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001  # a hook must not disturb the core
                self._log.error(
                    HOOK_FAILED, hook=repr(hook), event_type=type(event).__name__, error=repr(error)
                )


def _checked_schemas(schemas: Sequence[Schema]) -> tuple[Schema, ...]:
    names = [schema.name for schema in schemas]
    for name in names:
        if names.count(name) > 1:
            raise MigrationError(f"two schemas are named {name!r}: each needs a name of its own", schema=name)
    return tuple(schemas)

"""The façade: handles, statistics, and the order in which everything is made, starts and stops."""

import asyncio
import sys
import warnings
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from tenantry.clock import Clock, SystemClock
from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.errors import (
    MigrationError,
    RegistryClosedError,
    TenantError,
)
from tenantry.eventlog import EventLog
from tenantry.events import Event, Hook
from tenantry.ids import TenantId, parse_tenant_id
from tenantry.schema import Schema
from tenantry.storage.backends import make_backend
from tenantry.storage.objects.protocol import LocalStorage, ObjectStorage
from tenantry.storage.protocol import BackendReport
from tenantry.tenancy.actors.actor import ActorContext, ActorStatistics
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.limiter import Limiters
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.api_keys import ApiKeys
from tenantry.tenancy.catalog.audit import AdminAudit
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.recorded_responses import RecordedResponses
from tenantry.tenancy.clock_watch import ClockWatch
from tenantry.tenancy.data_directory import prepare_data_directory
from tenantry.tenancy.fleet.fleet import Fleet
from tenantry.tenancy.fleet.work import FleetTools
from tenantry.tenancy.handle import TenantHandle, TenantSession
from tenantry.tenancy.operations.archive import Archive
from tenantry.tenancy.operations.change import Change
from tenantry.tenancy.operations.create import Create
from tenantry.tenancy.operations.purge import ExpiredTenants, Purge
from tenantry.tenancy.operations.rename import Rename
from tenantry.tenancy.operations.repair import Repair
from tenantry.tenancy.operations.runner import OperationRunner, finishers_of
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.operator_api import OperatorAPI, TenantOperations
from tenantry.tenancy.periodic_tasks import PeriodicTasks
from tenantry.tenancy.snapshots.archive import SnapshotArchive
from tenantry.tenancy.snapshots.clone_export_import import Transfers
from tenantry.tenancy.snapshots.copying import Copies
from tenantry.tenancy.snapshots.location import default_location, keep_location
from tenantry.tenancy.snapshots.restore import Restorer
from tenantry.tenancy.snapshots.schedule import SnapshotSchedule
from tenantry.tenancy.snapshots.scratch import Scratch
from tenantry.tenancy.snapshots.snapshots import Snapshots
from tenantry.tenancy.snapshots.storage_owner import StorageOwner
from tenantry.tenancy.statistics import RegistryStatistics, TenantStatistics
from tenantry.tenancy.tenant_opener import TenantOpener, check_opens
from tenantry.texts import SCHEMAS_MAX
from tenantry.threads import run_in_thread, running_loop

REGISTRY_OPENED: Final = "tenantry.registry.opened"
REGISTRY_CLOSED: Final = "tenantry.registry.closed"
HOOK_FAILED: Final = "tenantry.hook.failed"


class TenantRegistry(OperatorAPI):
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
        self._watch = ClockWatch(clock, config.clock_hold_seconds, self._report, self._log)
        self._backend = make_backend(config, self._schemas, clock=clock, log=self._log)
        context = ActorContext(config, Limiters.of(config), clock, self._report, self._watch)
        # Limiters of its own: no load of any tenant delays the catalog.
        catalog = Catalog(
            self._backend, ActorContext(config, Limiters.of(config), clock, self._report, self._watch)
        )
        self._opener = TenantOpener(
            catalog,
            self._schemas,
            context,
            self._backend,
            log=self._log,
            on_failure=lambda tenant, error: self._periodic_tasks.close_failed(tenant, error),  # noqa: PLW0108  # made below
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
        self.audit = AdminAudit(catalog)
        """Who did what to which tenant."""
        self.keys = ApiKeys(catalog, clock)
        """The keys to the admin API."""
        self.recorded_responses = RecordedResponses(catalog, clock, self._watch)
        """What the admin API keeps of requests."""
        self._scratch = Scratch(config.data_dir)
        storage = snapshot_storage or LocalStorage(default_location(config.data_dir))
        self._keep_location = partial(keep_location, config.data_dir, storage.location)
        self._storage_owner = StorageOwner(storage, config.data_dir, clock)
        archive = SnapshotArchive(storage, self._storage_owner)
        tools = OperationTools(catalog, context, self._pool, self._opener, self._backend)
        copies = Copies(self._pool, self._opener, self._backend)
        create = Create(tools)
        operations = TenantOperations(
            create=create,
            change=Change(tools),
            archive=Archive(tools),
            purge=Purge(tools, archive, self._storage_owner),
            rename=Rename(tools),
            repair=Repair(tools),
            transfers=Transfers(tools, create, archive, copies, self._scratch, self._schemas),
        )
        restorer = Restorer(tools, archive, self._scratch, self._schemas)
        self._runner = OperationRunner(
            catalog,
            context,
            self._backend,
            finishers=finishers_of(
                create, operations.archive, operations.purge, operations.rename, operations.repair
            )
            | operations.transfers.finishers
            | restorer.finishers,
            check_open=self._check_open,
            log=self._log,
        )
        super().__init__(catalog, self._runner, operations)
        self.snapshots = Snapshots(
            self._runner,
            catalog,
            archive,
            copies,
            self._backend,
            restorer,
            self._scratch,
            self._storage_owner,
        )
        """The tenants' snapshots."""
        self.fleet = Fleet(
            FleetTools(
                catalog=catalog,
                pool=self._pool,
                runner=self._runner,
                context=context,
                host=self,
                schemas=self._schemas,
                backend=self._backend,
                snapshots=self.snapshots,
            ),
            check_open=self._check_open,
            log=self._log,
        )
        """The same work over many tenants."""
        self._schedule = SnapshotSchedule(self.snapshots, catalog, context, self._log)
        self._periodic_tasks = PeriodicTasks(
            tools,
            self._runner,
            ExpiredTenants(tools, self._runner, operations.purge),
            self.fleet,
            log=self._log,
        )
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that it was opened on
        self._lifecycle = asyncio.Lock()
        self._services: list[asyncio.Task[None]] = []  # what runs as long as it is open
        self._closings: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._was_closed = False

    @property
    def config(self) -> RegistryConfig:
        """The settings it was made with."""
        return self._config

    def __del__(self) -> None:
        """Warn if it was not closed; the stores of its tenants close themselves and give their locks back."""
        # Not all attributes are there if it could not be made.
        if not getattr(self, "_is_open", False) or sys.is_finalizing():
            return
        self._backend.abandon()
        self._scratch.abandon()
        warnings.warn(
            f"the registry of {self._config.data_dir} was not closed: use 'async with TenantRegistry(…)', or call aclose()",
            ResourceWarning,
            stacklevel=1,
        )

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
            DataDirectoryError: The data directory cannot be used, or its snapshots are kept elsewhere; the message says what to
                change.
            PersistenceError: The catalog cannot be opened, or is newer than the code.
            RegistryClosedError: It was closed before: make a new one.
            TenantError: It is open on another event loop.
        """
        self._check_loop(running_loop())
        async with self._lifecycle:
            if self._was_closed:
                raise RegistryClosedError("the registry was closed: make a new one")
            if self._is_open:
                return
            for schema in self._schemas:
                schema.migrations(self._backend.dialect)
            await self._open_storage()
            try:
                await self._watch.open(self._catalog)
                self._is_open = True
                self._loop = running_loop()
                await self._runner.reconcile()
                await self._periodic_tasks.refresh()
                await self.fleet.adopt()
            except BaseException:
                self._is_open = False
                with anyio.CancelScope(shield=True):
                    await self._close_all()
                raise
            self._start(self._periodic_tasks.run(), "tenantry maintenance")
            self._start(self._storage_owner.announce(), "tenantry snapshot storage")
            if self._config.snapshot_interval_seconds is not None:
                self._start(self._schedule.run(), "tenantry snapshots")
            self._log.info(
                REGISTRY_OPENED,
                data_dir=str(self._config.data_dir),
                open_tenants_max=self._config.open_tenants_max,
                threads_max=self._config.threads_max,
            )

    async def _open_storage(self) -> None:
        await self._backend.open()
        try:
            await run_in_thread(partial(prepare_data_directory, self._config))
            await run_in_thread(self._keep_location)
            await self._scratch.sweep()
            await self._catalog.open()
        except BaseException:
            self._backend.abandon()
            raise

    async def aclose(self) -> None:
        """Stop, in a fixed order; idempotent. Cancellation stops the waiting, not the closing: call again to wait for it.

        1. fleet jobs stop between two tenants, within ``shutdown_timeout_seconds``, to go on when a registry next opens;
        2. new calls are refused, and callers that wait for a place are sent away, with `RegistryClosedError`;
        3. calls that were taken in are finished, for ``shutdown_timeout_seconds`` at most;
        4. every tenant is checkpointed and closed, its writer last, and its lock released;
        5. lifecycle operations that were under way end; those that still make or check a copy after ``shutdown_timeout_seconds``
           are stopped, with `RegistryClosedError`; the catalog is closed.

        Afterwards there is no thread, no lock and no open file.

        Raises:
            TenantError: It is open on another event loop; nothing was changed.
        """
        self._check_loop(running_loop())
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

    async def check_catalog(self) -> None:
        """Do nothing, but with the catalog's write lock: that works if it can be written.

        Raises:
            RegistryClosedError: The registry is not open.
            PersistenceError: It cannot be written.
        """
        self._check_open()
        await self._catalog.check_writable()

    async def tenant_statistics(self, tenant_id: str) -> TenantStatistics:
        """Return a tenant's size and its counters since it was opened.

        Raises:
            TenantNotFoundError: There is none.
        """
        tenant = await self.get(tenant_id)
        size = await self._backend.size_bytes(tenant.place)
        return TenantStatistics(size, self.actor_statistics(tenant.id))

    async def backend_report(self) -> BackendReport:
        """Return what the tenants' databases run on.

        Raises:
            RegistryClosedError: The registry is not open.
        """
        self._check_open()
        return await self._backend.report()

    def scratch_directory(self) -> AbstractAsyncContextManager[Path]:
        """Give a private directory on the data directory's file system, removed at the end of the block."""
        self._check_open()
        return self._scratch.directory()

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
            tenants=dict(self._periodic_tasks.states),
            mailbox_requests=totals,
            mailbox_requests_peak=peaks,
            threads_max=self._config.threads_max,
            disk=self._periodic_tasks.disk,
            snapshot_interval_seconds=self._config.snapshot_interval_seconds,
            unfinished_operations=self._runner.unfinished(),
            clock_held_seconds=self._watch.held_seconds,
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

    def _check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_open or self._loop is loop:
            return
        if self._loop is not None and self._loop.is_closed():
            raise TenantError(
                "the event loop that the registry was opened on has ended, so it cannot be closed any more: drop every "
                "reference to it, and it gives its tenants back when it is collected; close it before its loop ends"
            )
        raise TenantError(
            "the registry is open on another event loop: close it on that loop "
            "(asyncio.run_coroutine_threadsafe(registry.aclose(), loop))"
        )

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
            steps.push_async_callback(self._backend.aclose)
            steps.push_async_callback(self._periodic_tasks.wait_background)
            steps.push_async_callback(self._scratch.aclose)
            steps.push_async_callback(self._runner.wait_ended, self._config.shutdown_timeout_seconds)
            steps.push_async_callback(self._pool.aclose)
            steps.push_async_callback(self.fleet.aclose)
            for service in self._services:
                service.cancel()
            if self._services:
                await asyncio.wait(self._services)

    def _start(self, service: Coroutine[Any, Any, None], name: str) -> None:
        self._services.append(asyncio.create_task(service, name=name))

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
    if len(names) > SCHEMAS_MAX:
        raise MigrationError(f"{len(names)} schemas are more than {SCHEMAS_MAX}: put several into one pack")
    for name in names:
        if names.count(name) > 1:
            raise MigrationError(f"two schemas are named {name!r}: each needs a name of its own", schema=name)
    return tuple(schemas)

"""The public class `TenantRegistry`, which opens and closes the parts of a registry in order."""

import asyncio
import sys
import warnings
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from tenantry.clock import Clock, SystemClock
from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.errors import RegistryClosedError
from tenantry.events import Hook
from tenantry.ids import TenantId
from tenantry.schemas.schema import Schema
from tenantry.storage.backends import AskedBackend
from tenantry.storage.objects.protocol import ObjectStorage
from tenantry.tenancy.catalog_move.left_catalog import check_no_catalog_is_left
from tenantry.tenancy.catalog_move.recorded_place import record_catalog_place
from tenantry.tenancy.compose import compose
from tenantry.tenancy.data_directory import lock_for_registry
from tenantry.tenancy.handle import TenantHandle
from tenantry.tenancy.measurements.families import Family
from tenantry.tenancy.measurements.measurements import Measurements
from tenantry.tenancy.operator_api import OperatorAPI
from tenantry.tenancy.peers.process_measurements import (
    MEASURE_TIMEOUT_SECONDS,
    ProcessMeasured,
    ProcessMeasurements,
)
from tenantry.tenancy.peers.sent_measurements import pack
from tenantry.tenancy.refusals import forked_error
from tenantry.tenancy.registry_statistics import registry_statistics
from tenantry.tenancy.statistics import RegistryStatistics, TenantOwner, TenantStatistics
from tenantry.threads import run_in_thread, running_loop

REGISTRY_OPENED: Final = "tenantry.registry.opened"
REGISTRY_CLOSED: Final = "tenantry.registry.closed"
SCHEMAS_MISSING: Final = "tenantry.registry.schemas_missing"


class TenantRegistry(OperatorAPI):
    """Keeps the data of many tenants apart: each tenant has its own SQLite file and its own writer, behind a bounded pool.

    Use the registry as an async context manager, on asyncio::

        async with TenantRegistry("data") as registry:
            await registry.create("acme", display_name="Acme")
            acme = registry.tenant("acme")
            await acme.messages.save(message)

    Args:
        config: The settings, see `RegistryConfig`; or the path of the data directory, with defaults for all other settings.
        schemas: The schema packs that every tenant has. The packs' repositories are attributes of a tenant's handle. The default is
            the built-in pack alone; to add a pack of your own, pass ``(COMPANY, MINE)``.
        hooks: The functions that are called with every event, see `tenantry.events`.
        clock: A replacement for the system clock in tests and simulations.
        snapshot_storage: The storage for snapshots; by default the folder ``snapshots`` of the data directory. Use storage on
            another disk, so that the loss of one disk does not destroy the data and the snapshots together.
    """

    def __init__(
        self,
        config: RegistryConfig | Path | str,
        *,
        schemas: Sequence[Schema] = (COMPANY,),
        hooks: Sequence[Hook] = (),
        clock: Clock | None = None,
        snapshot_storage: ObjectStorage | None = None,
    ) -> None:
        self._parts = parts = compose(
            config if isinstance(config, RegistryConfig) else RegistryConfig(data_dir=config),
            schemas=schemas,
            hooks=hooks,
            clock=clock or SystemClock(),
            snapshot_storage=snapshot_storage,
        )
        self._measurements = Measurements(parts.hooks, partial(registry_statistics, parts))
        self._process_measurements = ProcessMeasurements(
            self._measurements, parts.peers, now=parts.tools.context.clock.monotonic_seconds, log=parts.log
        )
        super().__init__(parts.catalog, parts.runner, parts.operations)
        self.audit = parts.audit
        """The audit of operators' calls."""
        self.keys = parts.keys
        """The API keys of the admin API."""
        self.recorded_responses = parts.recorded_responses
        """The responses that the admin API replays for a repeated idempotency key."""
        self.recorded_schemas = parts.recorded_schemas
        """The schema packs that the tenants have."""
        self.snapshots = parts.snapshots
        """The tenants' snapshots."""
        self.fleet = parts.fleet
        """The fleet jobs; each job does the same work on many tenants."""
        self._lifecycle = asyncio.Lock()
        self._services: list[asyncio.Task[None]] = []  # the tasks that run while the registry is open
        self._closings: set[asyncio.Task[None]] = set()

    @property
    def config(self) -> RegistryConfig:
        """The settings of the registry."""
        return self._parts.config

    def __del__(self) -> None:
        """Warn if the registry was not closed; its tenants' stores close and release their locks."""
        # The attribute is missing if the constructor failed.
        parts = getattr(self, "_parts", None)
        if parts is None or not parts.state.is_open or sys.is_finalizing():
            return
        parts.peers.abandon()
        parts.backends.abandon()
        parts.scratch.abandon()
        parts.directory_lock.release()
        warnings.warn(
            f"the registry of {parts.config.data_dir} was not closed: use 'async with TenantRegistry(…)', or call aclose()",
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
        """Check the data directory, open the catalog, and finish the operations of crashed processes.

        Raises:
            DataDirectoryError: The data directory cannot be used, or its snapshots are in another storage.
            SettingsError: The setting ``engine`` is ``native``, and this process cannot use the engine in C.
            MigrationError: A pack has no migrations, or two packs make a table, an index, a view or a trigger with the same name.
            PersistenceError: The catalog cannot be opened, or is newer than the code.
            RegistryClosedError: The registry was closed before and cannot be reopened: make a new one. Or the registry was open when
                this process was forked.
            TenantError: The registry is open on another event loop.
        """
        parts, measurements = self._parts, self._measurements
        parts.state.check_loop(running_loop())
        async with self._lifecycle:
            if parts.state.is_forked:
                raise forked_error()
            if parts.state.was_closed:
                raise RegistryClosedError("the registry was closed and cannot be reopened: make a new one")
            if parts.state.is_open:
                return
            for dialect in dict.fromkeys(backend.dialect for backend in parts.backends):
                for schema in parts.schemas:
                    schema.migrations(dialect)
            await self._open_storage()
            try:
                await parts.peers.open(lambda: pack(measurements.measured()))
                await parts.watch.open(parts.catalog)
                if missing := await parts.recorded_schemas.missing():
                    parts.log.warning(SCHEMAS_MISSING, missing_schemas=missing)
                parts.state.open(running_loop())
                await parts.runner.reconcile()
                await parts.periodic_tasks.refresh()
                await parts.fleet.adopt()
            except BaseException:
                parts.state.close()
                with anyio.CancelScope(shield=True):
                    await self._close_all()
                raise
            self._start_services()
            engine = parts.backends.engine()
            is_fallback = engine.reason is not None and parts.config.engine == "auto"
            parts.log.info(
                REGISTRY_OPENED,
                data_dir=str(parts.config.data_dir),
                engine=engine.name,
                **({"engine_reason": engine.reason} if is_fallback else {}),
                open_tenants_max=parts.config.open_tenants_max,
                threads_max=parts.config.threads_max,
            )

    async def aclose(self) -> None:
        """Close the registry in a fixed order; idempotent.

        1. Fleet jobs stop between two tenants, within ``shutdown_timeout_seconds``. The next registry that opens continues the jobs.
        2. New calls and callers that wait for a place in the pool are refused with `RegistryClosedError`.
        3. Accepted calls are finished, within ``shutdown_timeout_seconds``.
        4. Every tenant is checkpointed, closed (its writer last) and unlocked.
        5. Running lifecycle operations are finished. After ``shutdown_timeout_seconds``, an operation that still makes or checks a
           copy is interrupted with `RegistryClosedError`. Then the catalog is closed.

        Afterwards the registry has no threads, locks or open files. Cancelling the caller stops only the waiting, not the
        closing: call the method again to wait.

        Raises:
            TenantError: The registry is open on another event loop; nothing was changed.
        """
        self._parts.state.check_loop(running_loop())
        # Close in a separate task, because a shielded scope of anyio does not block the cancellation of asyncio.
        closing = asyncio.create_task(self._close(), name="tenantry close")
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        with anyio.CancelScope(shield=True):
            await asyncio.shield(closing)

    def tenant(self, tenant_id: str) -> TenantHandle:
        """Return a handle of the tenant, without I/O. If the tenant does not exist, the handle's first call raises an error.

        Raises:
            InvalidTenantIdError: The text is not a valid tenant id.
        """
        return self._parts.leases.tenant(tenant_id)

    async def check_catalog(self) -> None:
        """Check that the catalog can be written: acquire its write lock without changing anything.

        Raises:
            RegistryClosedError: The registry is not open.
            PersistenceError: The catalog cannot be written.
        """
        self._check_open()
        await self._parts.catalog.check_writable()

    async def tenant_statistics(self, tenant_id: str) -> TenantStatistics:
        """Return the size of a tenant's database, and the tenant's counters since it was opened.

        Raises:
            TenantNotFoundError: The tenant does not exist.
        """
        tenant = await self.get(tenant_id)
        size = await self._parts.backends.of(tenant.backend).size_bytes(tenant.place)
        counted = self._parts.leases.actor_statistics(tenant.id)
        return TenantStatistics(size, counted or await self._parts.tools.owners.statistics(tenant))

    async def tenant_owner(self, tenant_id: str) -> TenantOwner | None:
        """Return the process that has a tenant open, without opening the tenant; None while the tenant is closed.

        On PostgreSQL, several processes may have a tenant open, and the result is None.

        Raises:
            TenantNotFoundError: The tenant does not exist.
        """
        tenant = await self.get(tenant_id)
        backend = self._parts.backends.find(tenant.backend)
        owner = None if backend is None else await backend.owner(tenant.place)
        if owner is None or owner.pid is None or owner.host is None:
            return None
        return TenantOwner(owner.pid, owner.host)

    async def backend_reports(self) -> Sequence[AskedBackend]:
        """Ask each back end for a report. The default back end of new tenants is first.

        Raises:
            RegistryClosedError: The registry is not open.
        """
        self._check_open()
        return await self._parts.backends.reports()

    def scratch_directory(self) -> AbstractAsyncContextManager[Path]:
        """Create a private directory on the data directory's file system, and remove it at the end of the block."""
        self._check_open()
        return self._parts.scratch.directory()

    def statistics(self) -> RegistryStatistics:
        """Return the current statistics without I/O. The number of tenants in each state is updated in the background."""
        return registry_statistics(self._parts)

    def measure(self) -> None:
        """Count the events of this registry for metrics from now on; idempotent.

        Without this call, the counting begins when a process of the data directory first asks for the metrics of all processes.
        """
        self._measurements.start()

    async def measurements(
        self, timeout_seconds: float = MEASURE_TIMEOUT_SECONDS
    ) -> tuple[Sequence[Family], Sequence[ProcessMeasured]]:
        """Return the numbers of all processes that have the data directory open, for `tenantry.observability`.

        Args:
            timeout_seconds: The longest wait for the other processes. The numbers of a process that does not answer are missing.
        """
        return await self._process_measurements.of_all(timeout_seconds)

    def add_hook(self, hook: Hook) -> None:
        """Call `hook` with every event from now on."""
        self._parts.hooks.add(hook)

    def _check_open(self, tenant_id: TenantId | None = None) -> None:
        self._parts.state.check_open(tenant_id)

    async def _open_storage(self) -> None:
        parts = self._parts
        await parts.backends.open()
        try:
            await run_in_thread(lock_for_registry, parts.directory_lock)
            await run_in_thread(parts.record_location)
            await check_no_catalog_is_left(parts.config, parts.backends)
            await run_in_thread(record_catalog_place, parts.config)
            await parts.scratch.sweep()
            await parts.catalog.open()
        except BaseException:
            parts.backends.abandon()
            parts.directory_lock.release()
            raise

    async def _close(self) -> None:
        async with self._lifecycle:
            if not self._parts.state.is_open:
                return
            # Fleet jobs end before the registry refuses calls, because each job finishes its work on the current tenant.
            await self.fleet.aclose()
            self._parts.state.close()
            await self._close_all()
            self._parts.log.info(REGISTRY_CLOSED)

    async def _close_all(self) -> None:
        parts = self._parts
        parts.state.was_closed = True
        # The steps run from the last to the first. A failed step does not skip the other steps.
        async with AsyncExitStack() as steps:
            steps.callback(parts.directory_lock.release)
            steps.push_async_callback(parts.catalog.aclose, parts.config.shutdown_timeout_seconds)
            steps.push_async_callback(parts.backends.aclose)
            steps.push_async_callback(parts.failed_tenants.wait_ended)
            steps.push_async_callback(parts.periodic_tasks.wait_background)
            steps.push_async_callback(parts.scratch.aclose)
            steps.push_async_callback(parts.runner.wait_ended, parts.config.shutdown_timeout_seconds)
            # Until every tenant is closed, other processes are told that this one is no owner any more.
            steps.callback(parts.peers.close)
            steps.push_async_callback(parts.pool.aclose)
            steps.push_async_callback(parts.peers.wait_answered, parts.config.shutdown_timeout_seconds)
            steps.push_async_callback(parts.fleet.aclose)
            steps.callback(parts.forwarding.close)
            for service in self._services:
                service.cancel()
            if self._services:
                await asyncio.wait(self._services)

    def _start_services(self) -> None:
        parts = self._parts
        self._start(parts.periodic_tasks.run, "tenantry maintenance")
        self._start(parts.storage_owner.announce, "tenantry snapshot storage")
        if parts.config.snapshot_interval_seconds is not None:
            self._start(parts.snapshot_schedule.run, "tenantry snapshots")

    def _start(self, service: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._services.append(asyncio.create_task(self._run(service), name=name))

    async def _run(self, service: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a service. While callers hold only handles, this task keeps an open registry from being garbage-collected."""
        await service()

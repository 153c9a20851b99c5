"""Opens tenants for the pool: reads a tenant's record and starts its actor."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import anyio

from tenantry.errors import (
    DatabaseCorruptError,
    MigrationError,
    PersistenceConnectionError,
    PersistenceError,
    TenantBusyError,
    TenantError,
    TenantOwnedElsewhereError,
    TenantQuarantinedError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, check_allows
from tenantry.schemas.schema import Schema
from tenantry.storage.backends import Backends
from tenantry.storage.protocol import Capability, DatabaseMissingError
from tenantry.tenancy.actors.actor import ActorContext, TenantActor
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.recorded_schemas import RecordedSchemas
from tenantry.tenancy.opening.quarantine import Quarantine
from tenantry.tenancy.refusals import busy_error
from tenantry.tenancy.tenant_record import TenantRecord

OTHERS_INTERVAL_SECONDS: Final = 0.05
"""The interval at which an opening looks again whether another process's operation has ended."""

OPENED_MAX: Final = 16_384
"""The largest number of recently opened tenants that the opener remembers."""

TENANT_FOUND_SOUND: Final = "tenantry.tenant.found_sound"
TENANT_NOT_NOTED: Final = "tenantry.tenant.not_noted"


class TenantOpener:
    """Opens tenants, and quarantines tenants whose file is damaged or whose migration fails.

    Args:
        on_failure: The function that is called when an open tenant fails.
    """

    def __init__(
        self,
        catalog: Catalog,
        schemas: Sequence[Schema],
        context: ActorContext,
        backends: Backends,
        recorded_schemas: RecordedSchemas,
        *,
        log: EventLog,
        on_failure: Callable[[TenantRecord, TenantryError], None],
    ) -> None:
        self._catalog = catalog
        self._schemas = schemas
        self._context = context
        self._now = context.clock.monotonic_seconds
        self._backends = backends
        self._recorded_schemas = recorded_schemas
        self._quarantine = Quarantine(catalog, backends, context.clock, log)
        self._log = log
        self._on_failure = on_failure
        self._opened: set[TenantId] = set()
        self._for_operations: set[str] = set()  # the uids of tenants that operations are opening

    async def open(self, tenant_id: TenantId, *, is_for_write: bool = False) -> TenantActor:
        """Return the tenant's actor, open and migrated.

        Args:
            tenant_id: The tenant's id.
            is_for_write: Whether the first call is a write; see `Store.connect`.

        Raises:
            TenantError: The tenant does not exist, does not serve calls, or is open in another process.
            TenantQuarantinedError: The tenant's database is damaged or its migration failed, so the tenant was quarantined.
            MissingSchemaError: The tenant needs a migration, and this registry lacks schema packs that tenants have.
            BackendNotConfiguredError: The settings of this process do not name the tenant's back end.
            PersistenceError: The tenant's database cannot be opened.
        """
        tenant = await self._catalog.get(tenant_id)
        until = self._now() + self._context.config.pool_wait_timeout_seconds
        missing: TenantRecord | None = None  # the latest record after an attempt that found no database
        while True:
            try:
                return await self._open(tenant, is_for_write=is_for_write)
            except (TenantBusyError, TenantOwnedElsewhereError) as error:
                latest = await self._catalog.get_latest(tenant_id)
                is_missing = isinstance(error, DatabaseMissingError)
                if is_missing and latest == missing:
                    # Nothing has moved or removed the database between the two readings of the catalog.
                    raise await self._lost(latest) from error
                missing = latest if is_missing else None
                # A tenant that has moved can be opened at its new place immediately.
                has_moved = latest.uid == tenant.uid and not latest.is_at_place_of(tenant)
                is_repeated = has_moved or is_missing
                if not is_repeated and (
                    self._now() >= until or not await self._waits_for_others(tenant, error)
                ):
                    raise
            if not is_repeated:
                await anyio.sleep(OTHERS_INTERVAL_SECONDS)
                latest = await self._catalog.get_latest(tenant_id)
            tenant = latest

    async def _open(self, tenant: TenantRecord, *, is_for_write: bool) -> TenantActor:
        is_for_operation = tenant.uid in self._for_operations
        if not is_for_operation:
            check_opens(tenant)
        is_behind = self.is_behind(tenant)
        if is_behind:
            await self._recorded_schemas.check()
        if is_for_operation:
            # A new database is created only for a new tenant.
            actor = await self._opened_actor(tenant, is_new=tenant.state.allows(TenantEvent.PROVISION))
        else:
            # A tenant whose state refuses writes needs no writer, and migrations have a way of their own to the writer.
            is_for_write = is_for_write and not is_behind and tenant.state.allows(Permission.WRITE)
            actor = await self._open_or_quarantine(tenant, is_for_write=is_for_write)
        try:
            if not is_for_operation:
                # Whoever changes the limits from now on finds this opening, and has it apply the new ones.
                await actor.apply_record(await self._checked_again(tenant))
            if is_behind:
                await self._recorded_schemas.record()
            if not tenant.state.allows(TenantEvent.PROVISION):
                await self._note(tenant, actor.schema_versions, None)
        except BaseException:
            await actor.aclose(0.0)
            raise
        if len(self._opened) >= OPENED_MAX:
            self._opened.clear()
        self._opened.add(tenant.id)
        return actor

    async def _lost(self, tenant: TenantRecord) -> TenantryError:
        """Quarantine a tenant whose database is missing, and return the error for its callers; an operation gets the cause.

        A server without any tenant is probably another one than the settings mean, so no tenant is quarantined because of it.
        """
        backend = self._backends.of(tenant.backend)
        if not await backend.has_catalog() and not await backend.locations():
            return PersistenceConnectionError(
                f"tenant {tenant.id!r} cannot be opened: the back end {tenant.backend!r} has no tenant at all: check the address of its "
                "database in the settings"
            )
        error = DatabaseCorruptError(
            f"the database {tenant.location!r} of tenant {tenant.id!r} is missing on the back end {tenant.backend!r}: restore a snapshot"
        )
        return error if tenant.uid in self._for_operations else await self.quarantine(tenant, error)

    async def _waits_for_others(self, tenant: TenantRecord, error: TenantError) -> bool:
        """Return whether an opening waits for the operation of another process, as callers wait for one of their own process.

        Where several processes may have the tenant open, the others need the database to themselves only for a moment. Elsewhere one
        process may keep the tenant for ever, and the calls are forwarded to that process. An operation there is waited for while its
        process is alive.
        """
        if tenant.uid in self._for_operations:
            return False
        backend = self._backends.find(tenant.backend)
        if backend is not None and Capability.SHARED in backend.capabilities:
            return True
        if not isinstance(error, TenantBusyError) or not self._context.config.forwarding:
            return False
        if await self._backends.catalog.may_be_locked(tenant.uid):
            return True
        # The operation may have ended after its intent was read, and then the record has changed.
        return (await self._catalog.get_latest(tenant.id)).revision != tenant.revision

    async def is_damaged(self, tenant: TenantRecord) -> bool:
        """Check a closed tenant's database again, because a temporary disk failure looks like damage.

        Raises:
            TenantOwnedElsewhereError: Another process has the database open.
            PersistenceError: The database cannot be read, or the check took too long.
        """
        async with self._backends.of(tenant.backend).exclusive(tenant.place, is_waited_for=False) as closed:
            is_damaged = await closed.is_damaged()
        if not is_damaged:
            self._log.warning(TENANT_FOUND_SOUND, tenant_id=tenant.id)
        return is_damaged

    @contextmanager
    def opening_for_operation(self, tenant: TenantRecord) -> Iterator[None]:
        """Let an operation open the tenant while the block runs, even if the tenant's state refuses calls."""
        self._for_operations.add(tenant.uid)
        try:
            yield
        finally:
            self._for_operations.discard(tenant.uid)

    def forget_opened(self, tenant_id: TenantId | None = None) -> None:
        """Forget that the tenant was opened, because its state may have changed; without an id, forget all tenants."""
        if tenant_id is None:
            self._opened.clear()
        else:
            self._opened.discard(tenant_id)

    def has_opened(self, tenant_id: TenantId) -> bool:
        """Return whether the tenant was opened recently and can therefore probably be opened again; does no I/O."""
        return tenant_id in self._opened

    async def quarantine(self, tenant: TenantRecord, error: TenantryError) -> TenantQuarantinedError:
        """Quarantine the tenant, and return the error for its callers; see `Quarantine.apply`."""
        return await self._quarantine.apply(tenant, error)

    async def _open_or_quarantine(self, tenant: TenantRecord, *, is_for_write: bool) -> TenantActor:
        """Open the tenant for its callers. If the database seems damaged but a second check finds no damage, retry."""
        try:
            return await self._opened_actor(tenant, is_for_write=is_for_write)
        except TenantryError as error:
            if not self._backends.of(tenant.backend).may_be_transient(
                error
            ) or await self._is_damaged_or_quarantined(tenant):
                await self._quarantine_if_damaged(tenant, error)
                raise
        try:
            return await self._opened_actor(tenant, is_for_write=is_for_write)
        except TenantryError as error:
            await self._quarantine_if_damaged(tenant, error)
            raise

    async def _opened_actor(
        self, tenant: TenantRecord, *, is_new: bool = False, is_for_write: bool = False
    ) -> TenantActor:
        actor = self._actor(tenant, is_new=is_new)
        await actor.open(is_for_write=is_for_write)
        return actor

    async def _is_damaged_or_quarantined(self, tenant: TenantRecord) -> bool:
        try:
            return await self.is_damaged(tenant)
        except TenantryError as failure:
            await self._quarantine_if_damaged(tenant, failure)
            raise

    async def _checked_again(self, tenant: TenantRecord) -> TenantRecord:
        """Return the tenant's latest record after its database is open; check it, because the id may belong to another tenant now.

        Whoever changes the record later finds this opening: its file is locked, or its writes are fenced off.

        Raises:
            TenantError: The errors of `check_opens`.
            TenantBusyError: The id belongs to another tenant, or the tenant's database is at another place.
        """
        latest = await self._catalog.get_latest(tenant.id)
        check_opens(latest)
        if latest.uid != tenant.uid:
            raise busy_error(tenant.id, "rename")
        if not latest.is_at_place_of(tenant):
            raise busy_error(tenant.id, "move")
        return latest

    async def _quarantine_if_damaged(self, tenant: TenantRecord, error: TenantryError) -> None:
        """Quarantine the tenant if its database caused the error; otherwise only record the error."""
        is_its_own = isinstance(error, DatabaseCorruptError) or (
            isinstance(error, MigrationError) and error.is_step_failure
        )
        if is_its_own:
            raise await self.quarantine(tenant, error) from error
        if isinstance(error, PersistenceError):
            await self._note(tenant, tenant.schema_versions, str(error))

    async def _note(self, tenant: TenantRecord, versions: dict[str, int], error: str | None) -> None:
        """Record the result of the opening in the catalog; if the recording fails, only log the error."""
        try:
            await self._catalog.record_opened(tenant, versions, error)
        except TenantryError as failure:
            self._log.failure(TENANT_NOT_NOTED, failure, tenant_id=tenant.id)

    def is_behind(self, tenant: TenantRecord) -> bool:
        """Return whether the tenant lacks migrations according to the catalog.

        Raises:
            BackendNotConfiguredError: The settings of this process do not name the tenant's back end.
        """
        dialect = self._backends.of(tenant.backend).dialect
        return any(
            tenant.schema_versions.get(schema.name, 0) < len(schema.migrations(dialect))
            for schema in self._schemas
        )

    def _actor(self, tenant: TenantRecord, *, is_new: bool) -> TenantActor:
        log = self._log.bind(tenant_id=tenant.id)
        return TenantActor(
            tenant.id,
            self._backends.of(tenant.backend).store(
                tenant.place, limits=tenant.limits, log=log, is_new=is_new
            ),
            self._context,
            log=log,
            on_failure=lambda error: self._on_failure(tenant, error),
            entry=tenant,
        )


def check_opens(tenant: TenantRecord) -> None:
    """Raise an error unless the tenant may be opened for its callers.

    Raises:
        TenantError: The tenant does not exist or does not serve calls.
        TenantBusyError: An operation of the tenant is running, or was interrupted by a crash and is not finished yet.
    """
    check_allows(tenant.state, Permission.READ, tenant_id=tenant.id, reason=tenant.reason)
    if tenant.intent is not None and not tenant.intent.is_served:
        raise busy_error(tenant.id, tenant.intent.action)

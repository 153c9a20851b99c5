"""Quarantines tenants whose database is damaged or whose migration fails, without an operator."""

from contextlib import suppress
from typing import Final

from tenantry.clock import Clock
from tenantry.errors import TenantOwnedElsewhereError, TenantQuarantinedError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.lifecycle import Permission, TenantEvent
from tenantry.storage.backends import Backends
from tenantry.storage.protocol import Capability
from tenantry.tenancy.catalog.audit import append
from tenantry.tenancy.catalog.catalog import Catalog, StaleTenantError
from tenantry.tenancy.refusals import busy_error
from tenantry.tenancy.tenant_record import TenantRecord, not_found
from tenantry.texts import as_reason

TENANT_QUARANTINED: Final = "tenantry.tenant.quarantined"
TENANT_NOT_FENCED: Final = "tenantry.tenant.not_fenced"


class Quarantine:
    """Quarantines tenants."""

    def __init__(self, catalog: Catalog, backends: Backends, clock: Clock, log: EventLog) -> None:
        self._catalog = catalog
        self._backends = backends
        self._clock = clock
        self._log = log

    async def apply(self, tenant: TenantRecord, error: TenantryError) -> TenantQuarantinedError:
        """Quarantine the tenant durably, even if it was renamed, and return the error for its callers.

        The tenant is quarantined even if other processes cannot be fenced off; they close the tenant when they read the catalog.

        Raises:
            TenantNotFoundError: The tenant was purged.
            TenantBusyError: The tenant was moved, so the database at the old place says nothing about it.
            TenantOwnedElsewhereError: The database is a file of another machine; the tenant is not quarantined.
        """
        await self._check_is_here(tenant)
        reason = as_reason(str(error))
        noted = await self._note(tenant, reason)
        try:
            await self._backends.fence(noted.backend, noted.place)
        except TenantryError as failure:
            self._log.failure(TENANT_NOT_FENCED, failure, tenant_id=tenant.id)
        self._log.error(TENANT_QUARANTINED, tenant_id=tenant.id, reason=reason)
        quarantined = TenantQuarantinedError(
            f"tenant {tenant.id!r} was quarantined: {reason}",
            tenant_id=tenant.id,
            state=noted.state,
            reason=reason,
        )
        quarantined.__cause__ = error
        return quarantined

    async def _check_is_here(self, tenant: TenantRecord) -> None:
        """Raise an error if machines share the catalog, and the tenant's files are not on this one.

        A missing file says nothing about the tenant then: another machine may serve it.
        """
        backend = self._backends.of(tenant.backend)
        if backend is self._backends.catalog or Capability.SHARED in backend.capabilities:
            return
        if tenant.place.location not in await backend.locations():
            raise TenantOwnedElsewhereError(
                f"the database of tenant {tenant.id!r} is a file that is not in the data directory of this process: use the machine "
                "with the file, or restore a snapshot if the file is lost",
                tenant_id=tenant.id,
                pid=None,
                host=None,
            )

    async def _note(self, tenant: TenantRecord, reason: str) -> TenantRecord:
        while True:
            found = await self._catalog.find_by_uid(tenant.uid)
            if found is None or not found.state.allows(Permission.EXIST):
                raise not_found(tenant.id)
            if not found.is_at_place_of(tenant):
                # The database at the old place was removed after a move; it says nothing about the tenant.
                raise busy_error(tenant.id, "move")
            record = append(
                self._clock,
                TenantEvent.QUARANTINE,
                tenant_id=found.id,
                tenant_uid=found.uid,
                outcome="ok",
                detail={"reason": reason},
                by="tenantry",
            )
            with suppress(StaleTenantError):
                return await self._catalog.apply(found, TenantEvent.QUARANTINE, reason=reason, audit=record)

"""Opens a tenant for the pool: from its entry in the catalog to a running actor."""

from collections.abc import Callable, Sequence
from typing import Final

from tenantry.errors import (
    DatabaseCorruptError,
    MigrationError,
    PersistenceError,
    TenantQuarantinedError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId, tenant_paths
from tenantry.lifecycle import TenantEvent, TenantState, check_serves
from tenantry.schema import Schema
from tenantry.storage.sqlite.crew import Crews
from tenantry.storage.sqlite.opening import SQLiteOptions
from tenantry.storage.sqlite.ownership import FileOwnership
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.tenancy.actor import ActorContext, TenantActor
from tenantry.tenancy.catalog import Catalog
from tenantry.tenancy.tenant import Tenant

OPENED_MAX: Final = 16_384
"""How many tenants are remembered to have opened."""

TENANT_QUARANTINED: Final = "tenantry.tenant.quarantined"
TENANT_NOT_NOTED: Final = "tenantry.tenant.not_noted"


class TenantOpener:
    """Opens tenants, and sets apart those whose file is damaged or whose migration fails.

    Args:
        catalog: The list of tenants.
        schemas: What every tenant is migrated to.
        context: What all actors share.
        log: Bound to each tenant in turn.
        on_failure: Called when an open tenant cannot go on.
    """

    def __init__(
        self,
        catalog: Catalog,
        schemas: Sequence[Schema],
        context: ActorContext,
        *,
        log: EventLog,
        on_failure: Callable[[TenantId, TenantryError], None],
    ) -> None:
        self._catalog = catalog
        self._schemas = schemas
        self._context = context
        self._log = log
        self._on_failure = on_failure
        config = context.config
        self.crews = Crews.of(write_threads=config.write_threads, read_threads=config.read_threads)
        self._opened: set[TenantId] = set()
        self.provisioning: set[TenantId] = set()
        """The tenants that this process is creating now: only for them a missing database is a new one."""

    async def open(self, tenant_id: TenantId) -> TenantActor:
        """Return the tenant's actor, open and migrated.

        Raises:
            TenantError: The tenant does not exist, does not serve calls, or is open elsewhere.
            TenantQuarantinedError: Its file is damaged or its migration failed: it was set apart just now.
            PersistenceError: It cannot be opened.
        """
        tenant = await self._catalog.get(tenant_id)
        is_new = tenant.state is TenantState.PROVISIONING and tenant_id in self.provisioning
        if not is_new:
            check_serves(tenant.state, tenant_id=tenant_id, reason=tenant.reason)
        actor = self._actor(tenant, is_new=is_new)
        try:
            await actor.open()
        except TenantryError as error:
            if not is_new:
                await self._judge(tenant, error)
            raise
        if not is_new:
            await self._note(tenant, actor.schema_versions, None)
        if len(self._opened) >= OPENED_MAX:
            self._opened.clear()
        self._opened.add(tenant_id)
        return actor

    def forget_opened(self, tenant_id: TenantId | None = None) -> None:
        """Forget that the tenant, or any, could be opened: its state has changed, or may have."""
        if tenant_id is None:
            self._opened.clear()
        else:
            self._opened.discard(tenant_id)

    def has_opened(self, tenant_id: TenantId) -> bool:
        """Return whether the tenant could be opened not long ago, and so most likely can be again. No I/O."""
        return tenant_id in self._opened

    async def quarantine(self, tenant_id: TenantId, error: TenantryError) -> TenantQuarantinedError:
        """Set the tenant apart, durably, and return what its callers are told."""
        reason = str(error)
        await self._catalog.apply(tenant_id, TenantEvent.QUARANTINE, reason=reason)
        self._log.error(TENANT_QUARANTINED, tenant_id=tenant_id, reason=reason)
        quarantined = TenantQuarantinedError(
            f"tenant {tenant_id!r} was quarantined: {reason}",
            tenant_id=tenant_id,
            state=TenantState.QUARANTINED,
            reason=reason,
        )
        quarantined.__cause__ = error
        return quarantined

    async def _judge(self, tenant: Tenant, error: TenantryError) -> None:
        """Tell the tenant's own failure, which sets it apart, from the deployment's, which is noted and may pass."""
        is_its_own = isinstance(error, DatabaseCorruptError) or (
            isinstance(error, MigrationError) and error.is_step_failure
        )
        if is_its_own:
            raise await self.quarantine(tenant.id, error) from error
        if isinstance(error, PersistenceError):
            await self._note(tenant, tenant.schema_versions, str(error))

    async def _note(self, tenant: Tenant, versions: dict[str, int], error: str | None) -> None:
        """Tell the catalog how the opening went; that this fails changes nothing about the opening."""
        try:
            await self._catalog.record_opened(tenant, versions, error)
        except TenantryError as failure:
            self._log.failure(TENANT_NOT_NOTED, failure, tenant_id=tenant.id)

    def _actor(self, tenant: Tenant, *, is_new: bool) -> TenantActor:
        log = self._log.bind(tenant_id=tenant.id)
        config = self._context.config
        data_dir = config.data_dir
        paths = tenant_paths(data_dir, tenant.directory)
        store = SQLiteStore(
            SQLiteOptions(
                path=paths.database,
                root=data_dir,
                must_exist=not is_new,
                durability=config.durability,
                readers_max=config.readers_per_tenant,
            ),
            self._schemas,
            clock=self._context.clock,
            log=log,
            crews=self.crews,
            ownership=FileOwnership(paths.lock, tenant.uid, tenant.id),
        )
        return TenantActor(
            tenant.id,
            store,
            self._context,
            log=log,
            on_failure=lambda error: self._on_failure(tenant.id, error),
        )

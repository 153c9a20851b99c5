"""Creates handles of tenants, and gives the handles leases of open tenants."""

from collections.abc import Sequence

from tenantry.eventlog import EventLog
from tenantry.ids import TenantId, parse_tenant_id
from tenantry.schemas.schema import Schema
from tenantry.tenancy.actors.actor import ActorStatistics
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.handle import TenantHandle, TenantSession
from tenantry.tenancy.opening.tenant_opener import check_opens
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.peers.forwarding.forwarding import Forwarding
from tenantry.tenancy.registry_state import RegistryState


class TenantLeases:
    """Implements `LeaseSource` with the pool, and with the other processes that have tenants open."""

    def __init__(
        self,
        tools: OperationTools,
        forwarding: Forwarding,
        state: RegistryState,
        schemas: Sequence[Schema],
        log: EventLog,
    ) -> None:
        self._tools = tools
        self._pool = tools.pool
        self._forwarding = forwarding
        self._state = state
        self._schemas = schemas
        self._call_timeout_seconds = tools.context.config.call_timeout_seconds
        self._monotonic_seconds = tools.context.clock.monotonic_seconds
        self._log = log

    def tenant(self, tenant_id: str) -> TenantHandle:
        """Return a handle of the tenant without I/O."""
        parsed = parse_tenant_id(tenant_id)
        session = TenantSession(
            parsed,
            self,
            self._schemas,
            call_timeout_seconds=self._call_timeout_seconds,
            monotonic_seconds=self._monotonic_seconds,
            log=self._log.bind(tenant_id=parsed),
        )
        return TenantHandle(session, self)

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if the tenant is open now, here or in another process; None otherwise."""
        return self._pool.lease_nowait(tenant_id) or self._forwarding.lease_nowait(tenant_id)

    async def lease(self, tenant_id: TenantId, *, is_for_write: bool = False) -> Lease:
        """Return a lease; open the tenant if it is closed in all processes. See `ActorPool.lease`.

        Raises:
            RegistryClosedError: The registry is not open.
            TenantError, PersistenceError: The tenant cannot be opened.
        """
        await self._check(tenant_id)
        return await self._forwarding.lease(tenant_id, is_for_write=is_for_write)

    async def lease_here(self, tenant_id: TenantId) -> Lease:
        """Return a lease of the tenant in this process; open the tenant if it is closed. Raises like `lease`.

        Raises:
            TenantOwnedElsewhereError: Another process has the tenant open.
        """
        await self._check(tenant_id)
        return await self._pool.lease(tenant_id)

    async def _check(self, tenant_id: TenantId) -> None:
        self._state.check_open(tenant_id)
        if (
            self._pool.is_full
            and not self._pool.has(tenant_id)
            and not self._tools.opener.has_opened(tenant_id)
        ):
            # Check before the pool evicts another tenant, so that calls to an unknown or suspended tenant evict no tenant.
            check_opens(await self._tools.catalog.get(tenant_id))

    def release(self, lease: Lease) -> None:
        """Release a lease."""
        self._pool.release(lease)

    @property
    def forwarded_tenants(self) -> int:
        """The number of tenants that another process is known to have open."""
        return self._forwarding.tenants

    def actor_statistics(self, tenant_id: TenantId) -> ActorStatistics | None:
        """Return the tenant's counters; None while the tenant is closed."""
        actor = self._pool.actor(tenant_id)
        return actor.statistics() if actor is not None else None

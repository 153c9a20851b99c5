"""What the operators of other processes need of the tenants that this process has open: closing, copies, checks and statistics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenantry.errors import DataDirectoryError
from tenantry.ids import TenantId
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.peers.connections.messages import (
    Check,
    Copy,
    OperatorRequest,
    Refresh,
    Release,
    Statistics,
)
from tenantry.tenancy.peers.serving.served_tenants import ServedTenants
from tenantry.threads import run_in_thread

if TYPE_CHECKING:
    from tenantry.tenancy.actors.actor import TenantActor


class ServedOperations:
    """Serves the operations of other processes.

    Args:
        scratch: The folder ``scratch`` of the data directory. Copies are written only below it.
    """

    def __init__(self, tenants: ServedTenants, pool: ActorPool, catalog: Catalog, scratch: Path) -> None:
        self._tenants = tenants
        self._pool = pool
        self._catalog = catalog
        self._scratch = scratch

    async def run(self, request: OperatorRequest) -> Any:
        """Do the work of a request, and return its result.

        Raises:
            ChannelClosedError: This process does not have the tenant open, and it is closed.
            TenantError, PersistenceError: The work failed.
        """
        match request:
            case Statistics():
                return self._actor(request).statistics()
            case Refresh():
                await self._refresh(request)
            case Copy() | Check():
                await self._work_with_lease(request)
        return None

    @asynccontextmanager
    async def released(self, request: Release) -> AsyncIterator[None]:
        """Finish the tenant's calls, close the tenant, and keep it closed during the block; its callers wait.

        Raises:
            ChannelClosedError: Another tenant has the id now.
        """
        tenant_id = TenantId(request.tenant_id)
        actor = await self._pool.opened(tenant_id)
        if actor is not None and actor.uid != request.uid:
            raise ChannelClosedError
        async with self._pool.held(tenant_id, request.action):
            yield

    def _actor(self, request: Statistics | Refresh) -> "TenantActor":
        actor = self._pool.actor(TenantId(request.tenant_id))
        if actor is None or actor.uid != request.uid:
            raise ChannelClosedError
        return actor

    async def _refresh(self, request: Refresh) -> None:
        await self._pool.opened(TenantId(request.tenant_id))
        actor = self._actor(request)
        tenant = await self._catalog.find_by_uid(request.uid)
        if tenant is not None:
            await actor.apply_record(tenant)

    async def _work_with_lease(self, request: Copy | Check) -> None:
        lease = await self._tenants.lease(request.tenant_id, request.uid)
        if lease is None:
            raise ChannelClosedError
        try:
            if isinstance(request, Copy):
                await lease.actor.copy_to(await run_in_thread(self._target, request.path))
            else:
                await lease.actor.check_integrity(is_thorough=request.is_thorough)
        finally:
            self._tenants.release(lease)

    def _target(self, name: str) -> Path:
        """Return the path of a copy.

        Raises:
            DataDirectoryError: The path leaves the scratch directory, also by a symbolic link.
        """
        path = Path(name)
        directory = self._scratch.resolve() / path.parent
        is_below = not path.is_absolute() and ".." not in path.parts and path.parent != Path()
        if not is_below or directory.resolve() != directory or not directory.is_dir():
            raise DataDirectoryError(
                f"a copy for another process must be a file in an existing directory below {self._scratch}, and {name!r} is not",
                path=str(path),
            )
        return directory / path.name

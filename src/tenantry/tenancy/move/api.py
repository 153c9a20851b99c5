"""The methods of `TenantRegistry` that move tenants to another back end."""

from functools import partial

from tenantry.ids import parse_tenant_id
from tenantry.tenancy.creation_api import CreationAPI
from tenantry.tenancy.move.plan import MovePlan
from tenantry.tenancy.tenant_record import TenantRecord


class MoveAPI(CreationAPI):
    """The methods of `TenantRegistry` that move tenants; see `OperatorAPI`."""

    async def plan_move(self, tenant_id: str, to: str) -> MovePlan:
        """Return what `move` would do: the tables, their numbers of rows, and the reasons why the tenant cannot be moved.

        Args:
            tenant_id: The tenant's id.
            to: The name of the other back end.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            TenantStateError: The tenant's state does not allow a move.
            BackendNotConfiguredError: The settings do not name the back end.
            UnsupportedByBackend: The tenant has a limit that the other back end cannot enforce.
            PersistenceError: The tenant's database cannot be read.
        """
        self._check_open()
        tenant = await self._catalog.get_latest(parse_tenant_id(tenant_id))
        return await self._operations.move.plan(tenant, to)

    async def move(
        self, tenant_id: str, to: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Move the tenant's database to another back end, and return the tenant's record.

        Callers keep reading and writing during the move, except for a pause of typically less than half a second, in which their
        calls wait. Calls that the old place has acknowledged are at the new place. If the move fails, the tenant stays where it is.
        Cancellation stops the waiting, not the move. The next registry that opens finishes a move that a crash has interrupted after
        the switch, and rolls any other move back.

        The limits, the snapshots and the idempotency keys move with the tenant. A snapshot with the trigger ``move`` is taken. The
        restore points of earlier restores are removed with the old database. A tenant that is at this place already is returned
        unchanged.

        Args:
            tenant_id: The tenant's id.
            to: The name of the other back end.
            by: The principal for the audit, see `OperatorAPI`.
            if_revision: The revision that the tenant must have, see `OperatorAPI`.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            TenantStateError: The tenant's state does not allow a move: it is quarantined or deleted.
            TenantBusyError: Another operation of the tenant is running.
            RevisionError: The tenant has another revision than `if_revision`.
            BackendNotConfiguredError: The settings do not name the back end.
            UnsupportedByBackend: The tenant has a limit that the other back end cannot enforce.
            TenantNotMovableError: A table has no primary key, or is not the same on both back ends.
            TenantOwnedElsewhereError: Another process has the tenant open, and cannot be reached or does not answer.
            SnapshotError: The copy failed, or differs from the tenant's database.
            PersistenceError: One of the databases failed.
        """
        self._check_open()
        work = partial(self._operations.move.run, to=to)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "move", work, by=by, if_revision=if_revision, to=to
        )

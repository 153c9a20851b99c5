"""Plans a move: says what would be moved, and why a tenant cannot be moved."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tenantry.errors import TenantNotMovableError, UnsupportedByBackend
from tenantry.lifecycle import Permission, check_allows
from tenantry.storage.moves import MovedTable
from tenantry.storage.protocol import Backend, Capability
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.tenant_record import TenantRecord


class PlannedTable(BaseModel):
    """A table that would be moved.

    Attributes:
        rows: The number of rows now.
        refusal: The reason why the table cannot be moved; None if the table can be moved.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    refusal: str | None


class MovePlan(BaseModel):
    """What a move would do, see `TenantRegistry.plan_move`.

    Attributes:
        tenant_id: The tenant.
        source, target: The names of the back ends.
        size_bytes: The size of the tenant's database now.
        tables: The tables, in the order of their names.
        refusals: The reasons why the tenant cannot be moved; empty if the tenant can be moved.
    """

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    source: str
    target: str
    size_bytes: int
    tables: tuple[PlannedTable, ...]
    refusals: tuple[str, ...]


async def plan_move(tools: OperationTools, tenant: TenantRecord, target: Backend) -> MovePlan:
    """Return what a move of the tenant would do.

    Raises:
        TenantStateError: The tenant's state does not allow a move.
        PersistenceError: The tenant's database cannot be read.
    """
    check_movable(tenant, target)
    source = tools.backend_of(tenant)
    original = source.original(tenant.place)
    tables = await original.tables()
    counts = await original.counts([one for one in tables if one.refusal is None])
    return MovePlan(
        tenant_id=tenant.id,
        source=tenant.backend,
        target=target.name,
        size_bytes=await source.size_bytes(tenant.place),
        tables=tuple(
            PlannedTable(name=one.name, rows=counts.get(one.name, 0), refusal=one.refusal) for one in tables
        ),
        refusals=tuple(_refusals(tables)),
    )


def check_movable(tenant: TenantRecord, target: Backend) -> None:
    """Check the tenant's record before a move.

    Raises:
        TenantStateError: The tenant's state does not allow a move.
        UnsupportedByBackend: The tenant has a limit that the target cannot enforce.
    """
    check_allows(tenant.state, Permission.MOVE, tenant_id=tenant.id, reason=tenant.reason)
    if tenant.limits.database_bytes_max is not None and Capability.BYTE_LIMIT not in target.capabilities:
        raise UnsupportedByBackend(
            f"tenant {tenant.id!r} has the limit database_bytes_max, which the back end {target.name!r} cannot enforce: remove the "
            "limit first",
            capability=Capability.BYTE_LIMIT,
            backend=target.name,
        )


def check_tables(tenant: TenantRecord, tables: Sequence[MovedTable]) -> None:
    """Raise `TenantNotMovableError` with the names of the tables that cannot be moved, if there are any."""
    refusals = _refusals(tables)
    if refusals:
        raise TenantNotMovableError(
            f"tenant {tenant.id!r} cannot be moved: {'; '.join(refusals)}",
            tenant_id=tenant.id,
            tables=tuple(one.name for one in tables if one.refusal is not None),
        )


def paired(
    tenant: TenantRecord, tables: Sequence[MovedTable], copied: Sequence[MovedTable]
) -> list[tuple[MovedTable, MovedTable]]:
    """Return each table of the original with its copy.

    Raises:
        TenantNotMovableError: The copy has other tables or columns than the original.
    """
    found = {one.name: set(one.columns) for one in copied}
    expected = {one.name: set(one.columns) for one in tables}
    different = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if different:
        raise TenantNotMovableError(
            f"tenant {tenant.id!r} cannot be moved: both back ends must have the same tables with the same columns, and these differ: "
            f"{', '.join(different)}",
            tenant_id=tenant.id,
            tables=tuple(different),
        )
    copies = {one.name: one for one in copied}
    return [(one, copies[one.name]) for one in tables]


def _refusals(tables: Sequence[MovedTable]) -> list[str]:
    return [
        f"table {one.name!r} cannot be moved, because {one.refusal}"
        for one in tables
        if one.refusal is not None
    ]

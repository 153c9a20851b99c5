"""The lifecycle operations of tenants."""

from dataclasses import dataclass

from tenantry.tenancy.move.move import Move
from tenantry.tenancy.operations.archive import Archive
from tenantry.tenancy.operations.change import Change
from tenantry.tenancy.operations.create import Create
from tenantry.tenancy.operations.purge import Purge
from tenantry.tenancy.operations.rename import Rename
from tenantry.tenancy.operations.repair import Repair
from tenantry.tenancy.transfers.adopt import Adopt
from tenantry.tenancy.transfers.clone import Clone
from tenantry.tenancy.transfers.export import Export
from tenantry.tenancy.transfers.import_bundle import ImportBundle


@dataclass(frozen=True, slots=True)
class TenantOperations:
    """The lifecycle operations of tenants."""

    create: Create
    change: Change
    archive: Archive
    purge: Purge
    rename: Rename
    repair: Repair
    move: Move
    clone: Clone
    export: Export
    import_bundle: ImportBundle
    adopt: Adopt

"""How tenants are created: requests are parsed and checked here, and run as operations."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tenantry.ids import TenantId, parse_tenant_id
from tenantry.storage.artifacts import SchemaDifference
from tenantry.tenancy.catalog.audit import shown_path
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.operations.runner import OperationRunner
from tenantry.tenancy.tenant_operations import TenantOperations
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.texts import check_display_name


class CreationAPI(ABC):
    """What `TenantRegistry` offers to create tenants, from nothing and from copies; see `OperatorAPI`."""

    def __init__(self, catalog: Catalog, runner: OperationRunner, operations: TenantOperations) -> None:
        self._catalog = catalog
        self._runner = runner
        self._operations = operations

    async def create(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        if_not_exists: bool = False,
        by: str | None = None,
    ) -> TenantRecord:
        """Create a tenant, with its database migrated, and return it.

        Args:
            tenant_id: 1 to 48 characters of ``a-z``, ``0-9`` and inner ``-``, beginning with a letter.
            display_name: For people; the id if left out.
            if_not_exists: Whether a tenant that exists is returned as it is. A deleted one is refused: it is kept only until it is purged.
            by: Who does it, for the audit, see the class.

        Cancellation stops the waiting, not the creation. A creation that a crash interrupts is finished when a registry opens.

        Raises:
            InvalidTenantIdError: The text is not a valid tenant id; nothing was changed.
            TenantExistsError: The id is taken.
            MissingSchemaError: This registry lacks schema packs that other tenants have.
            MigrationError: A migration failed; nothing is left of the tenant.
            PersistenceError: The tenant could not be opened, and nothing is left of it; or its state could not be changed to
                active: then the next operation of it, or the registry within a minute, finishes the creation.
        """
        self._check_open()
        parsed = parse_tenant_id(tenant_id)
        name = parsed if display_name is None else display_name
        check_display_name(name)
        work = partial(self._operations.create.run, display_name=name, if_not_exists=if_not_exists)
        return await self._runner.run(parsed, "create", work, by=by)

    async def clone(
        self,
        source: str,
        new: str,
        snapshot_id: str | None = None,
        *,
        display_name: str | None = None,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Create a tenant with the data of another, whose calls go on during this.

        Args:
            source: The other tenant.
            new: The new tenant's id.
            snapshot_id: One of the source's snapshots; its present state if left out.
            display_name: For people; the id if left out.
            by: Who does it, for the audit, see the class.
            if_revision: The source's revision that this was decided on, see the class.

        Raises:
            TenantNotFoundError: There is no such source.
            RevisionError: The source has another revision than `if_revision`.
            TenantExistsError: The new id is taken.
            SnapshotNotFoundError, SnapshotCorruptError: There is no such snapshot, or it is not what was kept.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        source_id = parse_tenant_id(source)
        work = partial(
            self._operations.clone.run,
            source_id=source_id,
            snapshot_id=snapshot_id,
            display_name=display_name,
        )
        return await self._runner.run(
            parse_tenant_id(new),
            "clone",
            work,
            by=by,
            if_revision=if_revision,
            source=source_id,
            snapshot_id=snapshot_id,
        )

    async def import_bundle(
        self,
        new_id: str,
        path: str | Path,
        *,
        display_name: str | None = None,
        accepted_tables: Collection[str] = (),
        by: str | None = None,
    ) -> TenantRecord:
        """Create a tenant from a bundle that `export` wrote, and return it. Everything is verified before that begins.

        A bundle may come from anybody. Its database may have what the schema packs make and nothing else: triggers, views and
        other definitions would run as code. Tables of the tenant's own are accepted by name, if they have columns, constraints
        and indexes that call no functions but a few harmless ones.

        Args:
            new_id: The new tenant's id.
            path: The bundle.
            display_name: For people; the bundle's if left out.
            accepted_tables: Names of tables that no schema pack makes and that the tenant may have.
            by: Who does it, for the audit, see the class.

        Raises:
            SnapshotCorruptError: The bundle is not what was written; nothing was created.
            ForeignSchemaError: Its database has objects that no schema pack makes; nothing was created.
            MigrationError: It is newer than the code; nothing was created.
            TenantExistsError: The id is taken.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        work = partial(
            self._operations.import_bundle.run,
            path=Path(path),
            display_name=display_name,
            accepted_tables=accepted_tables,
        )
        detail: dict[str, Any] = {"accepted_tables": sorted(accepted_tables)} if accepted_tables else {}
        return await self._runner.run(
            parse_tenant_id(new_id), "import", work, by=by, path=self._audited_path(path), **detail
        )

    async def adopt(
        self,
        new_id: str,
        path: str | Path,
        *,
        at: Mapping[str, int] | None = None,
        display_name: str | None = None,
        accepted_tables: Collection[str] = (),
        by: str | None = None,
    ) -> TenantRecord:
        """Create a tenant with a copy of a database that another program made, and return it.

        The database itself is not changed, and other processes may have it open. Its tables are compared with what the schema packs make
        at the named migrations. These migrations are marked as applied, and the later ones are applied to the copy.

        Args:
            new_id: The new tenant's id.
            path: The database, a file of SQLite. This process may not have it open.
            at: The last migration that the database has of each schema pack: ``{"notes": 3}``. A pack that is left out has none. A database
                that `create_backend` made lists its migrations itself: leave this out.
            display_name: For people; the id if left out.
            accepted_tables: Names of tables that no schema pack makes and that the tenant may have.
            by: Who does it, for the audit, see the class.

        Raises:
            ForeignSchemaError: The tables differ from what the packs make, and the error names each difference; or it is a tenant's
                database already. Nothing was created.
            MigrationError: A pack has no such migration, or a later migration failed; nothing was created.
            DatabaseCorruptError: The database is damaged, encrypted, or not an SQLite database; nothing was created.
            SnapshotError: There is no such file, or it cannot be copied; nothing was created.
            TenantExistsError: The id is taken.
        """
        self._check_open()
        parsed = parse_tenant_id(new_id)
        name = parsed if display_name is None else display_name
        check_display_name(name)
        work = partial(
            self._operations.adopt.run,
            path=Path(path),
            at=at or {},
            display_name=name,
            accepted_tables=accepted_tables,
        )
        detail: dict[str, Any] = {"accepted_tables": sorted(accepted_tables)} if accepted_tables else {}
        return await self._runner.run(
            parsed, "adopt", work, by=by, path=self._audited_path(path), at=dict(at or {}), **detail
        )

    async def compare_database(
        self, path: str | Path, *, at: Mapping[str, int] | None = None, accepted_tables: Collection[str] = ()
    ) -> Sequence[SchemaDifference]:
        """Return how the tables of a database differ from what the schema packs make, as `adopt` compares them; empty if they do not.

        Args:
            path: See `adopt`.
            at: See `adopt`.
            accepted_tables: See `adopt`.

        Raises:
            ForeignSchemaError: It is a tenant's database already, or an accepted table is more than a plain table.
            MigrationError, DatabaseCorruptError, SnapshotError: See `adopt`.
        """
        self._check_open()
        return await self._operations.adopt.compare(Path(path), at=at or {}, accepted_tables=accepted_tables)

    def _audited_path(self, path: str | Path) -> str | None:
        return shown_path(Path(path), self._runner.context.config.data_dir)

    @abstractmethod
    def _check_open(self, tenant_id: TenantId | None = None) -> None:
        """Raise unless the registry is open."""

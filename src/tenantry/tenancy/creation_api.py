"""The operations that create tenants: methods that check a request and then run the operation."""

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
    """The methods of `TenantRegistry` that create tenants, empty tenants or copies; see `OperatorAPI`."""

    def __init__(self, catalog: Catalog, runner: OperationRunner, operations: TenantOperations) -> None:
        self._catalog = catalog
        self._runner = runner
        self._operations = operations

    async def create(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        backend: str | None = None,
        if_not_exists: bool = False,
        by: str | None = None,
    ) -> TenantRecord:
        """Create a tenant with a migrated database, and return its record.

        Args:
            tenant_id: 1 to 48 characters of ``a-z``, ``0-9`` and ``-``; begins with a letter, and does not end with ``-``.
            display_name: The name that people see; by default the id.
            backend: The name of the back end for the new tenant's database: ``sqlite``, ``postgres`` or a name in ``databases``; by default
                the `default_backend` of the settings.
            if_not_exists: Whether to return an existing tenant unchanged. A deleted tenant still raises `TenantExistsError`.
            by: The principal for the audit, see `OperatorAPI`.

        Cancellation stops the waiting, not the creation. The next registry that opens finishes an interrupted creation.

        Raises:
            InvalidTenantIdError: The text is not a valid tenant id; nothing was changed.
            TenantExistsError: Another tenant has the id.
            BackendNotConfiguredError: The settings do not name the back end.
            MissingSchemaError: This registry lacks schema packs that other tenants have.
            MigrationError: A migration failed; the new tenant was removed.
            PersistenceError: The new tenant could not be opened, and was removed. If the tenant was opened but not made active, the
                registry finishes the creation within a minute.
        """
        self._check_open()
        parsed = parse_tenant_id(tenant_id)
        name = parsed if display_name is None else display_name
        check_display_name(name)
        work = partial(
            self._operations.create.run, display_name=name, backend=backend, if_not_exists=if_not_exists
        )
        return await self._runner.run(parsed, "create", work, by=by, **_named(backend))

    async def clone(
        self,
        source: str,
        new: str,
        snapshot_id: str | None = None,
        *,
        display_name: str | None = None,
        backend: str | None = None,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Create a tenant with the data of another tenant, and return its record. The other tenant serves calls during the copy.

        Args:
            source: The id of the tenant to copy.
            new: The new tenant's id.
            snapshot_id: The snapshot to copy; by default the source's current data.
            display_name: The new tenant's name that people see; by default the id.
            backend: The name of the back end for the new tenant's database: ``sqlite``, ``postgres`` or a name in ``databases``; by default
                the back end of the source.
            by: The principal for the audit, see `OperatorAPI`.
            if_revision: The revision that the source must have, see `OperatorAPI`.

        Raises:
            TenantNotFoundError: The source does not exist.
            RevisionError: The source's revision is not `if_revision`.
            TenantExistsError: Another tenant has the new id.
            BackendNotConfiguredError: The settings do not name the back end.
            SnapshotNotFoundError: The snapshot does not exist.
            SnapshotCorruptError: The snapshot is damaged.
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
            backend=backend,
        )
        return await self._runner.run(
            parse_tenant_id(new),
            "clone",
            work,
            by=by,
            if_revision=if_revision,
            source=source_id,
            snapshot_id=snapshot_id,
            **_named(backend),
        )

    async def import_bundle(
        self,
        new_id: str,
        path: str | Path,
        *,
        display_name: str | None = None,
        accepted_tables: Collection[str] = (),
        backend: str | None = None,
        by: str | None = None,
    ) -> TenantRecord:
        """Create a tenant from a bundle that `export` wrote, and return its record. The bundle is verified first.

        A bundle may come from an untrusted source. The bundle's database may contain only the objects that the schema packs make,
        because other triggers and views would run as code. Additional tables must be named in `accepted_tables`, and their columns,
        constraints and indexes may call only a few harmless functions.

        Args:
            new_id: The new tenant's id.
            path: The path of the bundle.
            display_name: The name that people see; by default the bundle's name.
            accepted_tables: The names of additional tables that the bundle's database may have.
            backend: The name of the back end for the new tenant's database: ``sqlite``, ``postgres`` or a name in ``databases``; by default
                the `default_backend` of the settings.
            by: The principal for the audit, see `OperatorAPI`.

        Raises:
            SnapshotCorruptError: The bundle is damaged; nothing was created.
            ForeignSchemaError: The bundle's database has objects that no schema pack makes; nothing was created.
            MigrationError: The bundle is newer than the code; nothing was created.
            TenantExistsError: Another tenant has the id.
            BackendNotConfiguredError: The settings do not name the back end.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        work = partial(
            self._operations.import_bundle.run,
            path=Path(path),
            display_name=display_name,
            accepted_tables=accepted_tables,
            backend=backend,
        )
        detail: dict[str, Any] = {"accepted_tables": sorted(accepted_tables)} if accepted_tables else {}
        detail |= _named(backend)
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
        backend: str | None = None,
        by: str | None = None,
    ) -> TenantRecord:
        """Create a tenant with a copy of a database that another program made, and return its record.

        The original database is not changed, and may be open in other processes. The tables must be those that the schema packs make
        up to the applied migrations (`at`). The copy keeps these as applied, and later migrations are applied to the copy.

        Args:
            new_id: The new tenant's id.
            path: The path of the SQLite database. The database must not be open in this process.
            at: The last applied migration of each schema pack: ``{"notes": 3}``. A pack that is left out has no applied migrations.
                Leave out the argument if `create_backend` made the database: such a database lists its migrations.
            display_name: The name that people see; by default the id.
            accepted_tables: The names of additional tables that the database may have.
            backend: The name of the back end for the new tenant's database: ``sqlite``, ``postgres`` or a name in ``databases``; by default
                the `default_backend` of the settings.
            by: The principal for the audit, see `OperatorAPI`.

        Raises:
            ForeignSchemaError: The database belongs to a tenant, or its tables differ from the packs' tables; the error names each
                difference. Nothing was created.
            MigrationError: A migration in `at` does not exist, or a later migration failed; nothing was created.
            DatabaseCorruptError: The database is damaged, encrypted, or not an SQLite database; nothing was created.
            SnapshotError: The file does not exist or cannot be copied; nothing was created.
            TenantExistsError: Another tenant has the id.
            BackendNotConfiguredError: The settings do not name the back end.
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
            backend=backend,
        )
        detail: dict[str, Any] = {"accepted_tables": sorted(accepted_tables)} if accepted_tables else {}
        detail |= _named(backend)
        return await self._runner.run(
            parsed, "adopt", work, by=by, path=self._audited_path(path), at=dict(at or {}), **detail
        )

    async def compare_database(
        self, path: str | Path, *, at: Mapping[str, int] | None = None, accepted_tables: Collection[str] = ()
    ) -> Sequence[SchemaDifference]:
        """Return the differences between a database's tables and the schema packs' tables; the rules are those of `adopt`.

        Args:
            path: See `adopt`.
            at: See `adopt`.
            accepted_tables: See `adopt`.

        Raises:
            ForeignSchemaError: The database belongs to a tenant, or one of `accepted_tables` is not allowed, for example a view.
            MigrationError, DatabaseCorruptError, SnapshotError: See `adopt`.
        """
        self._check_open()
        return await self._operations.adopt.compare(Path(path), at=at or {}, accepted_tables=accepted_tables)

    def _audited_path(self, path: str | Path) -> str | None:
        return shown_path(Path(path), self._runner.context.config.data_dir)

    @abstractmethod
    def _check_open(self, tenant_id: TenantId | None = None) -> None:
        """Raise `RegistryClosedError` unless the registry is open."""


def _named(backend: str | None) -> dict[str, Any]:
    """Return the back end for the audit, if the caller named one."""
    return {} if backend is None else {"backend": backend}

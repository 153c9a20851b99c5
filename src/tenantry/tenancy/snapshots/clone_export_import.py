"""New tenants from others' data: clones, and bundles that are exported and imported.

The new tenant's database is made, checked and migrated in a scratch directory before the catalog hears of it. Then the entry
is written, the database is renamed into place, and the tenant is opened like any new one. A crash before the rename leaves
an entry that the next registry removes; one after it, a tenant that it finishes.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from tenantry.errors import SnapshotError, TenantryError
from tenantry.files.disk_space import room_bytes
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission
from tenantry.schema import Schema
from tenantry.storage import artifacts
from tenantry.storage.archive.bundle import read_bundle, write_bundle
from tenantry.storage.archive.manifest import Manifest
from tenantry.tenancy.operations.create import Create
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.operations.runner import Finisher
from tenantry.tenancy.operations.tools import OperationTools
from tenantry.tenancy.snapshots.archive import SnapshotArchive, check_contents
from tenantry.tenancy.snapshots.copying import Copies, manifest_of
from tenantry.tenancy.snapshots.scratch import Scratch
from tenantry.tenancy.tenant_record import Intent, TenantRecord, not_found
from tenantry.threads import run_in_thread


class Transfers:
    """Clones, exports and imports tenants."""

    def __init__(
        self,
        tools: OperationTools,
        create: Create,
        archive: SnapshotArchive,
        copies: Copies,
        scratch: Scratch,
        schemas: Sequence[Schema],
    ) -> None:
        self._schemas = schemas
        self._context = tools.context
        self._catalog = tools.catalog
        self._create = create
        self._archive = archive
        self._copies = copies
        self._backend = tools.backend
        self._scratch = scratch

    @property
    def finishers(self) -> dict[str, Finisher]:
        """How each of the operations is finished after a crash, by action."""
        return dict.fromkeys(("clone", "import"), self._finish_leftover)

    async def clone(
        self,
        operation: Operation,
        *,
        source_id: TenantId,
        snapshot_id: str | None,
        display_name: str | None,
    ) -> TenantRecord:
        """See `TenantRegistry.clone`."""
        await operation.recover()
        new = await self._create.new_record(operation.tenant_id, display_name or operation.tenant_id)
        source = await self._find(source_id)
        operation.check_revision(source)
        async with self._scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing():
                if snapshot_id is None:
                    await self._copies.copy(source, database)
                else:
                    await self._archive.fetch(await self._archive.manifest(source.uid, snapshot_id), database)
                await self._prepare(new, database)
            return await self._create_with(operation, new, database)

    async def export(self, operation: Operation, *, path: Path) -> Manifest:
        """See `TenantRegistry.export`."""
        tenant = await self._find(operation.tenant_id)
        operation.tenant_uid = tenant.uid
        if await run_in_thread(path.exists):
            raise SnapshotError(f"{path} exists already: give the bundle a name of its own")
        async with self._scratch.directory() as directory:
            with operation.preparing():
                return await self._bundle(tenant, directory / "tenant.db", path)

    async def _bundle(self, tenant: TenantRecord, database: Path, path: Path) -> Manifest:
        now = self._context.clock.now()
        report = await self._copies.copy(tenant, database)
        # Then other programs can read it also where they cannot write a file beside it.
        await artifacts.leave_one_file(database)
        sha256 = await artifacts.digest(database)
        manifest = manifest_of(tenant, report, now, "export", database_sha256=sha256)
        await run_in_thread(partial(write_bundle, path, database, manifest))
        return manifest

    async def import_bundle(
        self,
        operation: Operation,
        *,
        path: Path,
        display_name: str | None,
        accepted_tables: Collection[str],
    ) -> TenantRecord:
        """See `TenantRegistry.import_bundle`."""
        await operation.recover()
        new = await self._create.new_record(operation.tenant_id, operation.tenant_id)
        async with self._scratch.directory() as directory:
            with operation.preparing():
                manifest, database = await run_in_thread(partial(_unpack, path, directory))
                # Before any other statement: whatever is in the schema of a foreign database would run as code.
                await artifacts.check_schema(database, self._schemas, accepted_tables)
                await check_contents(manifest, database)
                new = new.model_copy(update={"display_name": display_name or manifest.display_name})
                await self._prepare(new, database)
            return await self._create_with(operation, new, database)

    async def _find(self, tenant_id: TenantId) -> TenantRecord:
        tenant = await self._catalog.find(tenant_id)
        if tenant is None or not tenant.state.allows(Permission.EXIST):
            raise not_found(tenant_id, tenant)
        return tenant

    async def _prepare(self, new: TenantRecord, database: Path) -> None:
        """Make the database ready and the new tenant's."""
        await self._backend.prepare(database)
        await artifacts.assign_to(database, new.uid)

    async def _create_with(self, operation: Operation, new: TenantRecord, database: Path) -> TenantRecord:
        """Create the tenant with the database, which is ready and its own."""
        operation.tenant_uid = new.uid
        intent = Intent(action=operation.action, begun_at=self._context.clock.now())
        new = new.model_copy(update={"intent": intent})
        async with operation.lock(new):
            await self._catalog.insert(new)
            operation.step("begun")
            try:
                await self._backend.adopt(new.place, database)
                operation.step("placed")
                return await self._create.provision(operation, new)
            except TenantryError:
                await self._create.abort(new)
                raise

    async def _finish_leftover(self, operation: Operation, tenant: TenantRecord) -> None:
        """Finish a tenant whose database is in place; forget one that has none: it is what its creation began with."""
        async with self._backend.exclusive(tenant.place) as closed:
            is_placed = await closed.exists()
        if is_placed:
            await self._create.provision(operation, tenant)
        else:
            await self._create.abort(tenant)


def _unpack(path: Path, directory: Path) -> tuple[Manifest, Path]:
    try:
        return read_bundle(path, directory, bytes_max=room_bytes(directory))
    except OSError as error:
        raise SnapshotError(f"the bundle {path} cannot be read: {error}") from error

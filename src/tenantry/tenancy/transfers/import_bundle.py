"""Import a bundle: create a tenant with the bundle's database. See `new_from_copy` for the steps."""

from collections.abc import Collection
from pathlib import Path

from tenantry.errors import SnapshotError
from tenantry.files.disk_space import room_bytes
from tenantry.storage import artifacts
from tenantry.storage.archive.bundle import read_bundle
from tenantry.storage.archive.manifest import Manifest
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.snapshot_archive import check_contents
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.tenancy.transfers.new_from_copy import NewFromCopy
from tenantry.threads import run_in_thread


class ImportBundle(NewFromCopy):
    """Imports bundles."""

    action = "import"

    async def run(
        self,
        operation: Operation,
        *,
        path: Path,
        display_name: str | None,
        accepted_tables: Collection[str],
        backend: str | None,
    ) -> TenantRecord:
        """See `TenantRegistry.import_bundle`."""
        new = await self.new_record(operation, operation.tenant_id, backend)
        async with self._tools.scratch.directory() as directory:
            with operation.preparing():
                manifest, database = await run_in_thread(_unpack, path, directory)
                # Check the schema before any other statement: definitions in a foreign schema can run code.
                await artifacts.check_schema(database, self._tools.schemas, accepted_tables=accepted_tables)
                await check_contents(manifest, database, self._tools.schemas)
                new = new.model_copy(update={"display_name": display_name or manifest.display_name})
                await self.prepare(new, database)
            return await self.create_with(operation, new, database)


def _unpack(path: Path, directory: Path) -> tuple[Manifest, Path]:
    try:
        return read_bundle(path, directory, bytes_max=room_bytes(directory))
    except OSError as error:
        raise SnapshotError(f"the bundle {path} cannot be read: {error}") from error

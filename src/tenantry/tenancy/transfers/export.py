"""Export a tenant: write a bundle of its current state. An export changes no tenant, so a crash leaves nothing to finish."""

from pathlib import Path

from tenantry.errors import SnapshotError
from tenantry.storage import artifacts
from tenantry.storage.archive.bundle import write_bundle
from tenantry.storage.archive.manifest import Manifest
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.copying import manifest_of
from tenantry.tenancy.snapshots.tools import SnapshotTools
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.threads import run_in_thread


class Export:
    """Exports tenants."""

    action = "export"

    def __init__(self, tools: SnapshotTools) -> None:
        self._tools = tools

    async def run(self, operation: Operation, *, path: Path, replace: bool) -> Manifest:
        """See `TenantRegistry.export`."""
        tenant = await self._tools.find_existing(operation.tenant_id)
        operation.tenant_uid = tenant.uid
        if not replace and await run_in_thread(path.exists):
            raise SnapshotError(f"{path} exists already: give the path of a new file")
        async with self._tools.scratch.directory() as directory:
            with operation.preparing():
                return await self._write(tenant, directory / "tenant.db", path)

    async def _write(self, tenant: TenantRecord, database: Path, path: Path) -> Manifest:
        now = self._tools.operations.context.clock.now()
        report = await self._tools.copies.copy(tenant, database)
        # Leave one file, so that other programs can read the database even in a directory where they cannot write.
        await artifacts.leave_one_file(database)
        sha256 = await artifacts.digest(database)
        manifest = manifest_of(tenant, report, now, "export", database_sha256=sha256)
        await run_in_thread(write_bundle, path, database, manifest)
        return manifest

"""Replace a tenant's database with an operator's SQLite file. See `exchange` for the steps."""

from collections.abc import Collection
from pathlib import Path

from tenantry.errors import SnapshotCorruptError
from tenantry.storage import artifacts
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.exchange import Exchange, check_restorable
from tenantry.tenancy.snapshots.scratch import named
from tenantry.tenancy.tenant_record import TenantRecord


class ReplaceFile(Exchange):
    """Replaces tenants' databases with files."""

    action = "replace_file"
    # An operator may have combined a database and a write-ahead log that do not belong together.
    is_kept_as_found = True

    async def run(
        self, operation: Operation, *, path: Path, owner: str | None, accepted_tables: Collection[str]
    ) -> TenantRecord:
        """See `Snapshots.replace_file`."""
        tenant = await operation.get()
        check_restorable(tenant, self.action)
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing(), named(database, str(path)):
                await artifacts.copy_file(path, database)
                # Check the schema before any other statement: definitions in a foreign schema can run code.
                await artifacts.check_schema(database, self._tools.schemas, accepted_tables=accepted_tables)
                report = await artifacts.check(database, self._tools.schemas, is_thorough=True)
                # Hash the file before the owner check, so that the audit identifies a refused file.
                operation.detail["sha256"] = await artifacts.digest(database)
                _check_owner(report.tenant_uid, tenant, owner)
                if owner is not None and owner != tenant.uid:
                    await artifacts.assign_to(database, tenant.uid)
            return await self.exchange(operation, tenant, database, is_migrated=True)


def _check_owner(uid: str | None, tenant: TenantRecord, owner: str | None) -> None:
    """Raise `SnapshotCorruptError` unless a database is marked with the uid of the tenant or of the given owner."""
    if uid is not None and uid in {tenant.uid, owner}:
        return
    if uid is None:
        mark, advice = "no tenant", "use a file that tenantry made"
    else:
        mark = f"the tenant with the uid {uid!r}"
        advice = f"use the right file, or accept this file with the owner {uid} (--owner, or owner in Python)"
    raise SnapshotCorruptError(
        f"the file is marked as the database of {mark}, but tenant {tenant.id!r} has the uid {tenant.uid!r}: {advice}"
    )

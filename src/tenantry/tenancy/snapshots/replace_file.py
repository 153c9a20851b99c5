"""Replace a tenant's database by a plain SQLite file that an operator gives. The steps are those of `exchange`."""

from collections.abc import Collection
from pathlib import Path

from tenantry.errors import SnapshotCorruptError
from tenantry.storage import artifacts
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.exchange import Exchange, check_restorable
from tenantry.tenancy.snapshots.scratch import named
from tenantry.tenancy.tenant_record import TenantRecord


class ReplaceFile(Exchange):
    """Replaces tenants' databases by files."""

    action = "replace_file"
    # An operator may have put files together that are not of one database.
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
                # Before any other statement: a definition in the file's schema would run as code.
                await artifacts.check_schema(database, self._tools.schemas, accepted_tables=accepted_tables)
                report = await artifacts.check(database, self._tools.schemas, is_thorough=True)
                # Before the next check, so that the audit says which file was refused.
                operation.detail["sha256"] = await artifacts.digest(database)
                _check_owner(report.tenant_uid, tenant, owner)
                if owner is not None and owner != tenant.uid:
                    await artifacts.assign_to(database, tenant.uid)
            return await self.exchange(operation, tenant, database, is_migrated=True)


def _check_owner(uid: str | None, tenant: TenantRecord, owner: str | None) -> None:
    """Raise `SnapshotCorruptError` unless a database is marked as the tenant's or as the given owner's."""
    if uid is not None and uid in {tenant.uid, owner}:
        return
    if uid is None:
        mark, advice = "no tenant", "give a file that tenantry made"
    else:
        mark = f"the tenant with the uid {uid!r}"
        advice = f"give the right file, or make this one the tenant's with the owner {uid} (--owner, or owner in Python)"
    raise SnapshotCorruptError(
        f"the file is marked as the database of {mark}, and tenant {tenant.id!r} has the uid {tenant.uid!r}: {advice}"
    )

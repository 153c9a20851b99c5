"""Adopt a database: create a tenant from a copy of another program's database. See `new_from_copy` for the steps."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from tenantry.errors import ForeignSchemaError
from tenantry.storage import artifacts
from tenantry.storage.artifacts import SchemaDifference
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.snapshots.scratch import named
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.tenancy.transfers.new_from_copy import NewFromCopy

_DIFFERENCES_SHOWN_MAX: Final = 20


class Adopt(NewFromCopy):
    """Adopts databases."""

    action = "adopt"

    async def compare(
        self, path: Path, *, at: Mapping[str, int], accepted_tables: Collection[str]
    ) -> Sequence[SchemaDifference]:
        """See `TenantRegistry.compare_database`."""
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with named(database, str(path)):
                return await self._compared(path, database, at, accepted_tables)

    async def run(
        self,
        operation: Operation,
        *,
        path: Path,
        at: Mapping[str, int],
        display_name: str,
        accepted_tables: Collection[str],
        backend: str | None,
    ) -> TenantRecord:
        """See `TenantRegistry.adopt`."""
        new = await self.new_record(operation, display_name, backend)
        async with self._tools.scratch.directory() as directory:
            database = directory / "tenant.db"
            with operation.preparing(), named(database, str(path)):
                _check_same(await self._compared(path, database, at, accepted_tables))
                await artifacts.check(
                    database, self._tools.schemas, is_thorough=True, has_check_constraints=True
                )
                operation.detail["sha256"] = await artifacts.digest(database)
                now = self._tools.operations.context.clock.now()
                await artifacts.mark_applied(database, self._tools.schemas, at=at, applied_at=now)
                await self.prepare(new, database)
            return await self.create_with(operation, new, database)

    async def _compared(
        self, path: Path, database: Path, at: Mapping[str, int], accepted_tables: Collection[str]
    ) -> Sequence[SchemaDifference]:
        """Copy the file at `path` to `database`, and compare the copy before any other statement, because a schema can run code."""
        await artifacts.copy_outside(path, database)
        return await artifacts.compare_adopted(
            database, self._tools.schemas, at=at, accepted_tables=accepted_tables
        )


def _check_same(differences: Sequence[SchemaDifference]) -> None:
    """Raise a `ForeignSchemaError` that lists the differences, if there are any."""
    if not differences:
        return
    shown = differences[:_DIFFERENCES_SHOWN_MAX]
    more = f"; and {len(differences) - len(shown)} more" if len(differences) > len(shown) else ""
    raise ForeignSchemaError(
        f"the database differs from the tables of the schema packs: {'; '.join(map(str, shown))}{more}",
        objects=tuple(one.object for one in shown),
    )

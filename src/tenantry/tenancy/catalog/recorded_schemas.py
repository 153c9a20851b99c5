"""The catalog's list of the schema packs that tenants have; see `registry.recorded_schemas`.

A pack is recorded when a tenant first has the pack's tables. A registry without a recorded pack serves tenants whose database needs
no migration. Such a registry refuses to create or migrate tenants, because the tenants would lack the pack's tables.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from tenantry.clock import Clock, as_text
from tenantry.errors import MigrationError, MissingSchemaError, RecordNotFoundError
from tenantry.schemas.schema import Schema
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.catalog.audit import append, append_if
from tenantry.tenancy.catalog.session import CatalogReader, CatalogSession

_LIST: Final = Statement("schemas.list", "SELECT name, recorded_at FROM schemas ORDER BY name", (), Fetch.ALL)
_RECORD: Final = "INSERT INTO schemas (name, recorded_at) VALUES (?, ?) ON CONFLICT DO NOTHING"


class RecordedSchema(BaseModel):
    """A schema pack that tenants of the data directory have.

    Attributes:
        name: The pack's name.
        recorded_at: The time at which a tenant first had the pack, in UTC.
        is_missing: Whether this process lacks the pack.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    recorded_at: datetime
    is_missing: bool


async def read_recorded(catalog: CatalogReader, schemas: Iterable[Schema]) -> tuple[RecordedSchema, ...]:
    """Return the packs that the catalog records, in the order of their names.

    Args:
        catalog: The catalog.
        schemas: The packs of this process.
    """
    here = {schema.name for schema in schemas}
    return tuple(
        RecordedSchema(name=name, recorded_at=recorded_at, is_missing=name not in here)
        for name, recorded_at in await catalog.read(_LIST)
    )


class RecordedSchemas:
    """Reads and changes the list of the packs that tenants have.

    Args:
        catalog: The catalog, which stores the list.
        schemas: The packs of this registry.
        clock: The clock for the time of each record.
    """

    def __init__(self, catalog: CatalogSession, schemas: Sequence[Schema], clock: Clock) -> None:
        self._catalog = catalog
        self._schemas = schemas
        self._clock = clock

    async def list(self) -> tuple[RecordedSchema, ...]:
        """Return the packs that tenants have, in the order of their names."""
        return await read_recorded(self._catalog, self._schemas)

    async def missing(self) -> tuple[str, ...]:
        """Return the names of the recorded packs that this registry lacks."""
        return tuple(one.name for one in await self.list() if one.is_missing)

    async def check(self) -> None:
        """Raise an error if this registry lacks a recorded pack.

        Raises:
            MissingSchemaError: The registry lacks recorded packs, which the error names.
        """
        missing = await self.missing()
        if missing:
            raise MissingSchemaError(
                f"tenants of this data directory have schema packs that this process lacks ({', '.join(missing)}), so the process "
                "creates and migrates no tenants: add the packs with schemas= in Python, --schema module:PACK on the command line, "
                "or TENANTRY_SCHEMAS; to drop a pack, use 'tenantry schema forget'",
                missing_schemas=missing,
            )

    async def record(self) -> None:
        """Record this registry's packs after a tenant has received them."""
        known = {one.name for one in await self.list()}
        now = as_text(self._clock.now())
        new = [
            Statement("schemas.record", _RECORD, (schema.name, now))
            for schema in self._schemas
            if schema.name not in known
        ]
        if new:
            await self._catalog.write(*new)

    async def forget(self, name: str, *, by: str | None = None) -> RecordedSchema:
        """Remove a pack from the list, and return the pack's record. A registry without the pack can then create and migrate tenants.

        Existing tenants keep the pack's tables, rows and recorded version. New tenants do not get the tables. A registry that has
        the pack adds it to the list again when it next creates or migrates a tenant.

        Args:
            name: The pack's name.
            by: The principal for the audit; by default the user that the process runs as.

        Raises:
            MigrationError: This registry has the pack, and would add the pack to the list again.
            RecordNotFoundError: The pack is not recorded.
        """
        found = next((one for one in await self.list() if one.name == name), None)
        if found is None:
            raise RecordNotFoundError(
                f"no schema pack {name[:40]!r} is recorded: 'tenantry schema list' shows the recorded packs",
                record_id=name[:40],
            )
        if not found.is_missing:
            raise MigrationError(
                f"this process uses the schema pack {name!r} and would record it again: leave the pack out of schemas= (or "
                "--schema), then forget the pack",
                schema=name,
            )
        record = append(
            self._clock,
            "schema.forget",
            tenant_id=None,
            tenant_uid=None,
            outcome="ok",
            detail={"schema": name},
            by=by,
        )
        await self._catalog.write(
            append_if("EXISTS (SELECT 1 FROM schemas WHERE name = ?)", (name,), record),
            Statement("schemas.forget", "DELETE FROM schemas WHERE name = ?", (name,)),
        )
        return found

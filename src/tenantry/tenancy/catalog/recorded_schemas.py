"""The schema packs that the tenants of a data directory have, in the catalog: `registry.recorded_schemas`.

A pack is recorded when the first tenant has got it. A registry that was not given a recorded pack serves every tenant whose database
needs no migration. It refuses to create and to migrate tenants: they would lack the tables of that pack.
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
        recorded_at: When the first tenant had got it, in UTC.
        is_missing: Whether this process was not given the pack.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    recorded_at: datetime
    is_missing: bool


async def read_recorded(catalog: CatalogReader, schemas: Iterable[Schema]) -> tuple[RecordedSchema, ...]:
    """Return the packs that the catalog records, in the order of their names.

    Args:
        catalog: The catalog.
        schemas: The packs that this process was given.
    """
    here = {schema.name for schema in schemas}
    return tuple(
        RecordedSchema(name=name, recorded_at=recorded_at, is_missing=name not in here)
        for name, recorded_at in await catalog.read(_LIST)
    )


class RecordedSchemas:
    """Reads and changes the list of the packs that tenants have.

    Args:
        catalog: Has the list.
        schemas: The packs that this registry was given.
        clock: Dates the records.
    """

    def __init__(self, catalog: CatalogSession, schemas: Sequence[Schema], clock: Clock) -> None:
        self._catalog = catalog
        self._schemas = schemas
        self._clock = clock

    async def list(self) -> tuple[RecordedSchema, ...]:
        """Return the packs that tenants have, in the order of their names."""
        return await read_recorded(self._catalog, self._schemas)

    async def missing(self) -> tuple[str, ...]:
        """Return the names of the recorded packs that this registry was not given."""
        return tuple(one.name for one in await self.list() if one.is_missing)

    async def check(self) -> None:
        """Raise unless this registry was given every recorded pack.

        Raises:
            MissingSchemaError: It lacks some; the error names them.
        """
        missing = await self.missing()
        if missing:
            raise MissingSchemaError(
                f"tenants of this data directory have schema packs that are unknown here ({', '.join(missing)}), so this process "
                "creates and migrates no tenants: give it the packs with schemas= in Python, --schema module:PACK on the command "
                "line, or TENANTRY_SCHEMAS; to give a pack up, use 'tenantry schema forget'",
                missing_schemas=missing,
            )

    async def record(self) -> None:
        """Record this registry's packs, now that a tenant has them."""
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
        """Remove a pack from the list and return it, so that a registry without the pack creates and migrates tenants again.

        The tenants keep the pack's tables, their rows and the note of the versions that they have. New tenants do not get the tables.
        A registry that has the pack records it again with the next tenant that it creates or migrates.

        Args:
            name: The pack's name.
            by: Who does it, for the audit; the user that the process runs as if left out.

        Raises:
            MigrationError: This registry has the pack, and would record it again.
            RecordNotFoundError: The pack is not recorded.
        """
        found = next((one for one in await self.list() if one.name == name), None)
        if found is None:
            raise RecordNotFoundError(
                f"no schema pack {name[:40]!r} is recorded: 'tenantry schema list' shows those that are",
                record_id=name[:40],
            )
        if not found.is_missing:
            raise MigrationError(
                f"the schema pack {name!r} is in use here and would be recorded again: leave it out of schemas= (or --schema), "
                "then forget it",
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

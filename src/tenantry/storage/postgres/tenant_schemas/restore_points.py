"""The restore points of one tenant, which are schemas beside the tenant's schema; see `layout`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from psycopg import Connection, sql

from tenantry.errors import DatabaseCorruptError, PersistenceError, SnapshotError
from tenantry.files.durable_files import remove_files
from tenantry.schemas.schema import Schema
from tenantry.storage import artifacts
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.copies.copy_out import copy_out
from tenantry.storage.postgres.copies.new_schema import drop_schema, make_schema
from tenantry.storage.postgres.quoting import quoted
from tenantry.storage.postgres.tenant_schemas.layout import is_point_schema, staged_schema
from tenantry.storage.protocol import Place
from tenantry.threads import run_in_thread

_SCHEMAS: Final = """
SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace
WHERE nspname = %(location)s OR starts_with(nspname, %(location)s || '.')
"""


class PostgresRestorePoints:
    """See `RestorePoints`."""

    def __init__(self, tools: LifecycleTools, place: Place) -> None:
        self._tools = tools
        self._place = place

    async def names(self) -> Sequence[str]:
        """Return the names of the restore points, the oldest first; a name begins with its instant."""
        return sorted(point_schemas(self._place.location, await self._schemas()))

    async def exists(self, point: str) -> bool:
        """Return whether the restore point has a database: a restore of a missing database leaves an empty one."""
        return await self._tools.work.run(
            "cannot read the restore points", _has_database, self._place.location, point
        )

    async def copy_to(self, point: str, path: Path) -> None:
        """Copy the restore point's schema into a file, and check the file; see `RestorePoints.copy_to`."""
        schema = point_schemas(self._place.location, await self._schemas()).get(point)
        if schema is None:
            raise SnapshotError(f"tenant {self._place.tenant_id!r} has no restore point {point!r}")
        try:
            await copy_schema(self._tools, schema, path)
        except DatabaseCorruptError as error:
            raise DatabaseCorruptError(
                f"the restore point {point!r} is damaged; it was not changed: {error}"
            ) from error
        await artifacts.check(path, self._tools.schemas)

    async def remove(self, point: str) -> None:
        """Drop the restore point's schema; see `RestorePoints.remove`."""
        schema = point_schemas(self._place.location, await self._schemas()).get(point)
        if schema is None:
            return
        try:
            await self._tools.work.run(f"cannot drop {schema}", drop_schema, self._tools, schema)
        except PersistenceError as error:
            raise SnapshotError(str(error), code=error.code, is_retryable=error.is_retryable) from error

    async def remove_old(self, newest: str, *, latest: str, kept_max: int) -> None:
        """Drop the oldest restore points; see `RestorePoints.remove_old`."""
        others = [point for point in await self.names() if point != newest and point <= latest]
        for old in others[: max(0, len(others) + 1 - kept_max)]:
            await self.remove(old)

    async def stage(self, point: str, path: Path) -> None:
        """Load a prepared file into a schema beside the tenant's, and remove the file; see `RestorePoints.stage`."""
        staged = staged_schema(self._place.location)
        await make_schema(
            self._tools, self._place, staged, path, partial(set_comment, schema=staged, text=point)
        )
        await run_in_thread(remove_files, path)

    async def unstage(self, point: str) -> bool:
        """Drop the staged schema; see `RestorePoints.unstage`."""
        return await self._tools.work.run(
            "cannot drop the staged database", _unstage, self._tools, self._place.location, point
        )

    async def has_begun(self, point: str) -> bool:
        """Return whether a schema is staged for the restore point, or the restore point exists."""
        schemas = await self._schemas()
        is_staged = schemas.get(staged_schema(self._place.location)) == point
        return is_staged or point in point_schemas(self._place.location, schemas)

    async def _schemas(self) -> Mapping[str, str | None]:
        return await self._tools.work.run(
            "cannot read the restore points", read_schemas, self._place.location
        )


async def copy_schema(
    tools: LifecycleTools, schema: str, path: Path, *, packs: Sequence[Schema] | None = None
) -> None:
    """Copy a schema into a new tenant file; see `copy_out`. A cancelled caller leaves no file. The catalog has a pack of its own."""
    doing = f"cannot copy the schema {schema} of the database {tools.config.address}"
    await tools.copies.run(doing, copy_out, schema, path, tools.schemas if packs is None else packs)


def read_schemas(connection: Connection[tuple[Any, ...]], location: str) -> dict[str, str | None]:
    """Return the comments of the tenant's schemas, by name."""
    return dict(connection.execute(_SCHEMAS, {"location": location}).fetchall())


def point_schemas(location: str, schemas: Mapping[str, str | None]) -> dict[str, str]:
    """Return the schemas of the restore points, by the restore point's name."""
    return {
        point: schema
        for schema, point in schemas.items()
        if point is not None and is_point_schema(location, schema)
    }


def set_comment(connection: Connection[tuple[Any, ...]], schema: str, text: str | None) -> None:
    """Set or remove the comment of a schema."""
    statement = sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(schema), sql.Literal(text))
    connection.execute(statement)


def rename_schema(connection: Connection[tuple[Any, ...]], schema: str, name: str) -> None:
    """Rename a schema."""
    connection.execute(f"ALTER SCHEMA {quoted(schema)} RENAME TO {quoted(name)}".encode())


def _has_database(connection: Connection[tuple[Any, ...]], location: str, point: str) -> bool:
    schema = point_schemas(location, read_schemas(connection, location)).get(point)
    return schema is not None and has_owner(connection, schema)


def has_owner(connection: Connection[tuple[Any, ...]], schema: str) -> bool:
    """Return whether a schema has a tenant's database."""
    query = "SELECT to_regclass(format('%%I.tenantry_owner', %s::text)) IS NOT NULL"
    return bool((connection.execute(query, (schema,)).fetchone() or (False,))[0])


def _unstage(
    connection: Connection[tuple[Any, ...]], tools: LifecycleTools, location: str, point: str
) -> bool:
    schemas = read_schemas(connection, location)
    if point in point_schemas(location, schemas):
        return False
    staged = staged_schema(location)
    # Another process may have finished this restore, and have staged the next one. An incomplete schema has no comment.
    if schemas.get(staged) in {point, None}:
        drop_schema(connection, tools, staged)
    return True
